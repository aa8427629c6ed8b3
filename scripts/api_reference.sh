#!/usr/bin/env bash
# Writes the API reference, HTML pages made of the docstrings, into docs/api or the folder named; fails at a warning.
# Needs the extra `docs` and a built package.
set -euo pipefail
out=$(realpath -m "${1:-$(dirname "$0")/../docs/api}")
modules=(
  backend checkpoint data folding inference init memory metrics models.layers parallel recipe saliency
  schedule tensor trace trainer weights
)
# what NamedTuple makes does not know the module that its annotations are of: they are shown as they are written
exec python -W error -W "ignore:Error parsing type annotation" -m pdoc --output-directory "$out" --footer-text alexnet_cuda --no-show-source \
  alexnet_cuda "${modules[@]/#/alexnet_cuda.}"
