#!/usr/bin/env bash
# Everything that needs a GPU, in one command. One failing part does not stop the others; exits 0 if none failed.
#
#   scripts/gpu_check.sh OUT [PART...]     parts, default all: build tests sanitizer golden bench
#
# OUT gets summary.txt (written last), logs.tar.gz and, from these parts, golden.tar.gz and results.tar.gz (to be
# unpacked into benchmarks/results). Needs no network: python3 (or $PYTHON) with CuPy, CMake, ninja, pybind11, pytest,
# hypothesis and PyTorch, nvcc, and a GPU. CMAKE_CUDA_ARCHITECTURES defaults to the GPU's own, ALEXNET_COMMIT names the
# commit in the results where there is no .git.
set -uo pipefail
shopt -s nullglob

usage() {
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
[ $# -ge 1 ] && [ "${1#-}" = "$1" ] || usage
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
shift
parts=(build tests sanitizer golden bench)
chosen=("${@:-${parts[@]}}")
for part in "${chosen[@]}"; do
  [[ " ${parts[*]} " = *" $part "* ]] || { echo "gpu_check: unknown part $part (parts: ${parts[*]})" >&2; usage; }
done
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -f "$out"/{summary.txt,logs.tar.gz,golden.tar.gz,results.tar.gz}
mkdir "$work/logs" "$work/results" "$work/golden"
export PYTHONPATH=src PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
PATH=$PATH:/usr/local/cuda/bin
failed=0

say() { echo "$*" | tee -a "$work/summary.txt"; }

# step NAME COMMAND...: runs it, keeps its output as a log, tells its end and its exit status.
step() {
  local name=$1 start=$SECONDS status last
  shift
  echo "==== $name: $*"
  "$@" 2>&1 | tee "$work/logs/$name.log"
  status=${PIPESTATUS[0]}
  last=$(grep -v '^\s*$' "$work/logs/$name.log" | tail -n 1 | cut -c 1-160)
  if [ "$status" -eq 0 ]; then
    say "$name: ok, $((SECONDS - start)) s: $last"
  else
    say "$name: FAILED with $status, $((SECONDS - start)) s: $last"
    failed=1
  fi
  return "$status"
}

not_run() { say "$1: not run: $2"; }

# pack NAME: the folder of that name as an archive in OUT.
pack() {
  local files=("$work/$1"/*)
  [ ${#files[@]} -eq 0 ] || tar -C "$work/$1" -czf "$out/$1.tar.gz" .
}

finish() {
  say "result: $([ "$failed" -eq 0 ] && echo ok || echo FAILED)"
  pack logs
  cp "$work/summary.txt" "$out/summary.txt"
  exit "$failed"
}

# ---- what is here, and what is missing
gpu() { nvidia-smi --query-gpu="$1" --format=csv,noheader --id=0 2>/dev/null; }
say "date: $(date -u +%Y-%m-%dT%H:%M:%SZ)"
say "commit: ${ALEXNET_COMMIT:-$(git describe --always --dirty --exclude '*' 2>/dev/null || echo unknown)}"
missing=()
capability=$(gpu compute_cap) || missing+=("a GPU: nvidia-smi finds none")
[ -z "$capability" ] || say "gpu: $(gpu name), compute capability $capability, driver $(gpu driver_version)"
if command -v nvcc >/dev/null; then
  say "nvcc: $(nvcc --version | sed -n 's/.*release \(.*\)/\1/p')"
else
  missing+=("nvcc (CUDA 12.8 or newer)")
fi
for module in numpy cupy torch cmake ninja pybind11 pytest hypothesis; do
  version=$("$python" -c "import importlib.metadata as m, importlib.util as u, sys
name = '$module'
u.find_spec(name) or sys.exit(1)
print(next((m.version(d) for d in m.packages_distributions().get(name, ())), 'found'))" 2>/dev/null) \
    && say "$module: $version" || missing+=("the Python module $module")
done
for what in "${missing[@]}"; do
  say "MISSING: $what"
  failed=1
done
# Without these nothing can be built or run; without the others their own part fails.
case " ${missing[*]} " in
  *GPU* | *nvcc* | *" numpy "* | *" cupy "* | *" cmake "* | *" ninja "* | *" pybind11 "*) finish ;;
esac
arch=${capability/./}
[ "$arch" != 90 ] || arch=90a

# ---- the parts

build() {
  export CMAKE_CUDA_ARCHITECTURES=${CMAKE_CUDA_ARCHITECTURES:-$arch-real}
  ALEXNET_CUDA=1 step "build" "$python" setup.py build_ext --inplace &&
    step "usable" "$python" -c "from alexnet_cuda import backend; raise SystemExit(backend.gpu_problem())"
}

tests() {
  step "tests-gpu" "$python" -m pytest -q -m gpu
  step "tests-all" "$python" -m pytest -q
}

# compute-sanitizer over the tests of the kernels. On some machines it refuses the device: then it is not run.
sanitizer() {
  if ! command -v compute-sanitizer >/dev/null; then
    not_run sanitizer "there is no compute-sanitizer"
    return
  fi
  if ! compute-sanitizer --error-exitcode 9 "$python" -c "import cupy; cupy.ones(9).sum().item()" \
    >"$work/logs/sanitizer-probe.log" 2>&1; then
    not_run sanitizer "it fails on a program of one line: $(tail -n 1 "$work/logs/sanitizer-probe.log")"
    return
  fi
  local kernel files=() tool
  for kernel in kernels/*.cu; do
    kernel=tests/test_$(basename "$kernel" .cu).py
    [ ! -f "$kernel" ] || files+=("$kernel")
  done
  for tool in memcheck racecheck synccheck; do
    step "sanitizer-$tool" timeout 180 compute-sanitizer --tool "$tool" --error-exitcode 9 --report-api-errors no \
      "$python" -m pytest -q -x -m gpu "${files[@]}"
  done
}

# What every wrapper of the platform gives on this GPU: fixtures (to be unpacked into tests/native/golden) that the CPU
# executor is tested against, here and from then on by tests/test_executor.py.
golden() {
  local source=tests/native/wrappers.cu
  step "golden-build" nvcc -std=c++20 -O3 -gencode "arch=compute_$arch,code=sm_$arch" -I kernels $source \
    -o "$work/wrappers" &&
    step "golden" "$work/wrappers" "$work/golden"
  pack golden
  mkdir "$work/executor"
  step "executor-build" "${CXX:-g++}" -std=c++20 -O2 -pthread -I kernels -x c++ $source -o "$work/wrappers-executor" &&
    step "golden-executor" "$work/wrappers-executor" "$work/executor" "$work/golden"
}

bench() {
  local options
  for options in "baseline_gpu.py" "layer_bench.py --device cuda --budget 240" "step_bench.py --device cuda --budget 300" \
    "inference_bench.py --device cuda --seconds 1" "precision.py --device cuda"; do
    # shellcheck disable=SC2086
    step "bench-${options%%.py*}" "$python" benchmarks/$options --out "$work/results"
    pack results
  done
  step "bench-ladder" "$python" examples/ladder/run.py
}

for part in "${chosen[@]}"; do
  "$part"
  pack logs
done
finish
