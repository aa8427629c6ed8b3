#!/usr/bin/env bash
# Calls every launcher, every wrapper and the thread pool of the CPU executor under the address and undefined-behaviour
# sanitizers, then under the thread sanitizer: as the product runs (schedule 0), then with the GPU's block shapes and
# threads in other orders. All must give the outputs of the build without sanitizers.
#
#   scripts/sanitize.sh [BUILD]     programs stay in the folder BUILD (default: a temporary one)
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-$(mktemp -d)}
[ $# -gt 0 ] || trap 'rm -rf "$build"' EXIT
cxx=${CXX:-g++}
kernels=(kernels/*.cu csrc/host/cpu.cpp)
programs=(tests/native/drive_kernels.cpp tests/native/wrappers.cu tests/native/thread_pool.cpp)

# compile NAME FLAGS...: build/NAME, every file in its own compiler, as many at once as there are processors. Without
# optimisation: it would take twice as long to compile, and the runs are short.
compile() {
  local name=$1 start=$SECONDS source program
  shift
  mkdir -p "$build/$name"
  printf '%s\n' "${kernels[@]}" "${programs[@]}" |
    xargs -P "$(nproc)" -I{} sh -c 'out=$1/$(basename "$2").o; shift 2; exec "$@" -o "$out"' - "$build/$name" {} \
      "$cxx" -std=c++20 -O0 -g -fno-omit-frame-pointer -pthread -Ikernels -Icsrc "$@" -x c++ -c {}
  for program in "${programs[@]}"; do
    program=$build/$name/$(basename "$program")
    local objects=()
    for source in "${kernels[@]}"; do objects+=("$build/$name/$(basename "$source").o"); done
    "$cxx" -pthread "$@" "$program.o" "${objects[@]}" -o "${program%.*}"
  done
  echo "$name: compiled in $((SECONDS - start)) s"
}

# run NAME SCHEDULE: `plain` writes the outputs with which the others are compared.
run() {
  local start=$SECONDS bin=$build/$1 expected=$build/plain/outputs mode=check
  [ "$1" != plain ] || mode=write
  mkdir -p "$bin/outputs"
  export ALEXNET_THREADS=4 ALEXNET_SCHEDULE=$2
  "$bin/thread_pool"
  "$bin/wrappers" "$bin/outputs" "$expected" >"$bin/log" || { cat "$bin/log"; return 1; }
  "$bin/drive_kernels" "$mode" "$expected/kernels"
  echo "$1: schedule $2: $((SECONDS - start)) s"
}

export UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
compile plain -DGPU_CHECKED=1
run plain 0
compile asan -fsanitize=address,undefined -fno-sanitize-recover=all
for schedule in 0 1 2012; do run asan $schedule; done
compile tsan -fsanitize=thread
for schedule in 0 1 2012; do run tsan $schedule; done
