#!/usr/bin/env bash
# Writes the API reference, HTML pages made of the docstrings, into docs/api or the folder named; fails at a warning.
# Needs the extra `docs` and a built package.
set -euo pipefail
out=$(realpath -m "${1:-$(dirname "$0")/../docs/api}")
modules=(
  backend checkpoint data fitting folding inference init loggers memory metrics models.layers models.onnx parallel recipe
  saliency schedule tensor testing trace trainer user_kernels weights
)
# what NamedTuple makes does not know the module that its annotations are of: they are shown as they are written
run="import runpy, alexnet_cuda; alexnet_cuda.fit; runpy.run_module('pdoc', run_name='__main__')"  # with what is imported late
exec python -W error -W "ignore:Error parsing type annotation" -c "$run" --output-directory "$out" --footer-text alexnet_cuda --no-show-source \
  alexnet_cuda "${modules[@]/#/alexnet_cuda.}"
