#!/usr/bin/env bash
# Fails where what nvcc made calls exit, which it puts, without a word, into host code that calls a function for the device
# alone inside a generic lambda. Looks at the objects of all kernels in the folder BUILD (default: build).
#
#   scripts/check_objects.sh [BUILD]
set -euo pipefail
shopt -s nullglob
cd "$(dirname "$0")/.."
build=${1:-build}
several=("$build"/*/CMakeFiles/gpu_*.dir/Unity/*.cu) # files that are compiled as one
missing=() failed=0
declare -A looked_at=()
for kernel in kernels/*.cu; do
  objects=("$build"/*/CMakeFiles/gpu_*.dir/"$kernel.o")
  for file in "${several[@]}"; do
    ! grep -q "/$kernel\"$" "$file" || objects+=("$file.o")
  done
  [ ${#objects[@]} -gt 0 ] || missing+=("$kernel")
  for object in "${objects[@]}"; do
    [ -z "${looked_at[$object]:-}" ] || continue
    looked_at[$object]=1
    symbols=$(nm --undefined-only "$object")
    if grep -qw exit <<<"$symbols"; then
      functions=$(objdump -drC "$object" | sed -n '/>:$/h; /\texit\([-+]\|$\)/{x; s/.* <\(.*\)>:$/\1/p; x}' | sort -u)
      while read -r function; do
        echo "check_objects: $object: $function calls exit: it probably calls a function that is __device__ but not __host__" \
          "inside a generic lambda, or is one itself and not __forceinline__" >&2
      done <<<"$functions"
      failed=1
    fi
  done
done
if [ ${#looked_at[@]} = 0 ] && ! PATH=$PATH:/usr/local/cuda/bin command -v "${CUDACXX:-nvcc}" >/dev/null; then
  echo "check_objects: nothing to look at, as there is no nvcc"
  exit 0
fi
if [ ${#missing[@]} -gt 0 ]; then
  echo "check_objects: expected objects of all kernels in $build, got none of ${missing[*]}: build with ALEXNET_CUDA=1" >&2
  exit 1
fi
[ $failed = 1 ] || echo "check_objects: none of ${#looked_at[@]} objects calls exit"
exit $failed
