#!/usr/bin/env bash
# Calls every launcher on the CPU executor under the address and undefined-behaviour sanitizers, then under the thread
# sanitizer: as the product runs (schedule 0), then with the GPU's block shapes and threads in other orders. All must
# give the outputs of the build without sanitizers.
#
#   scripts/sanitize.sh [BUILD]     object files stay in BUILD (default: a temporary folder)
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-$(mktemp -d)}
[ $# -gt 0 ] || trap 'rm -rf "$build"' EXIT
cxx=${CXX:-g++}
sources=(kernels/*.cu csrc/cpu_blas.cpp tests/native/drive_kernels.cpp)

# compile NAME FLAGS...: build/NAME, every file in its own compiler, as many at once as there are processors.
compile() {
  local name=$1 start=$SECONDS
  shift
  mkdir -p "$build/$name"
  printf '%s\n' "${sources[@]}" |
    xargs -P "$(nproc)" -I{} sh -c 'out=$1/$(basename "$2").o; shift 2; exec "$@" -o "$out"' - "$build/$name" {} \
      "$cxx" -std=c++20 -g -O0 -fno-omit-frame-pointer -pthread -Ikernels -Icsrc "$@" -x c++ -c {}
  "$cxx" -pthread "$@" "$build/$name"/*.o -o "$build/$name/drive"
  echo "$name: compiled in $((SECONDS - start)) s"
}

# drive NAME SCHEDULE write|check: one run, with more threads than most machines of a CI have.
drive() {
  local start=$SECONDS
  ALEXNET_THREADS=4 ALEXNET_SCHEDULE=$2 "$build/$1/drive" "$3" "$build/outputs"
  echo "$1: schedule $2: $((SECONDS - start)) s"
}

export UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
compile plain -DGPU_CHECKED=1
drive plain 0 write
for name in asan tsan; do
  case $name in
    asan) compile asan -fsanitize=address,undefined -fno-sanitize-recover=all ;;
    tsan) compile tsan -fsanitize=thread ;;
  esac
  for schedule in 0 1 2012; do drive $name $schedule check; done
done
