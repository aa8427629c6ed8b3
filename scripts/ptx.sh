#!/usr/bin/env bash
# What nvcc makes of the kernels, on the executor of PTX (tests/ptx): its own tests, and every kernel's, of which each must have run.
# Without nvcc nothing is run, which it says.
#
#   scripts/ptx.sh [PYTEST OPTION...]     needs the extras `test` and `rebuild`; PYTHON names the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v "${CUDACXX:-nvcc}" >/dev/null && [ ! -x /usr/local/cuda/bin/nvcc ]; then
  echo "ptx: not run: there is no nvcc"
  exit 0
fi
files=(tests/test_ptx_*.py tests/test_linear*.py)
for kernel in kernels/*.cu; do files+=("tests/test_$(basename "$kernel" .cu).py"); done
exec "${PYTHON:-python3}" -m pytest -q --ptx --ptx-complete -n "$(nproc)" "${files[@]}" "$@"
