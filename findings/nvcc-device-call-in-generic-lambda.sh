#!/usr/bin/env bash
# nvcc compiles a host's call of a __device__ function to exit(1), without a word, where the call stands in a generic lambda that a
# function template calls.
#
# Expected: an error. "__device__: executed on the device, callable from the device only" (CUDA C++ Programming Guide, function execution
# space specifiers, https://docs.nvidia.com/cuda/cuda-c-programming-guide/), and the same lambda is refused where main calls it itself:
# "calling a __device__ function("...") from a __host__ function("operator()") is not allowed".
#
# What happens: handed to a function template that calls it, the lambda (of the host, not an extended one) compiles, also with -Werror
# all-warnings. In place of the function's body the host's object has a call of exit(1): the program ends there, having said nothing.
# `nm --undefined-only OBJECT | grep -w exit` finds such objects.
#
# Version: CUDA 13.0, nvcc V13.0.88 with g++ 12.2. Seen on 2026-11-30:
#   called by main: status 2, calling a __device__ function("int Number::get<(int)4> () const") from a __host__ function("operator()") is not allowed
#   called by a function template: compiled; the object calls exit; the program ends with status 1 and prints: before
#
# Exits with 0 if it is so, with 1 if that has changed. Needs Linux on x86-64, Python 3 with pip, g++ and network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
  nvidia-cuda-runtime==13.0.96
cuda=$(echo venv/lib/python3*/site-packages/nvidia/cu13)
nvcc=("$cuda/bin/nvcc" -std=c++20 -Werror all-warnings)

write() {  # of a program that applies the lambda so
  cat <<CODE
#include <cstdio>
struct Number { template <int N> __device__ int get() const { return N; } };
template <class F> void apply(F f) { f(Number()); }
int main() {
  const auto f = [](auto number) { std::printf("%d\\n", number.template get<4>()); };
  std::puts("before");
  std::fflush(stdout);
  $1;
  std::puts("after");
}
CODE
}
write "f(Number())" >direct.cu
write "apply(f)" >template.cu

changed=0
status=0
said=$("${nvcc[@]}" -c direct.cu -o direct.o 2>&1) || status=$?
echo "called by main: status $status, $(grep -o 'calling a .*' <<<"$said" | head -n 1)"
[ $status -ne 0 ] || changed=1

if ! said=$("${nvcc[@]}" -c template.cu -o template.o 2>&1) || [ -n "$said" ]; then
  echo "called by a function template: $said"
  exit 1
fi
nm --undefined-only template.o | grep -qw exit || changed=1
"${nvcc[@]}" template.o -o program -L "$cuda/lib"
status=0
printed=$(./program) || status=$?
echo "called by a function template: compiled; the object calls exit; the program ends with status $status and prints: $printed"
[ $status -eq 1 ] && [ "$printed" = before ] || changed=1
exit $changed
