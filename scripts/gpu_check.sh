#!/usr/bin/env bash
# scripts/gpu_check.sh OUT [PART...]: everything that needs a GPU, in one command; gpu_check.py tells what and how.
export PYTHON=${PYTHON:-python3}
exec "$PYTHON" "$(dirname "$0")/gpu_check.py" "$@"
