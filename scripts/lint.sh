#!/usr/bin/env bash
# Formats with --fix, else only checks: ruff, mypy, clang-format. Needs the extra `lint`.
set -euo pipefail
cd "$(dirname "$0")/.."
native=$(git ls-files --cached --others --exclude-standard '*.cu' '*.cuh' '*.h' '*.hpp' '*.cpp')
if [ "${1:-}" = --fix ]; then
  ruff check --fix .
  ruff format .
  clang-format -i $native
fi
ruff check .
ruff format --check .
mypy
clang-format --dry-run --Werror $native
