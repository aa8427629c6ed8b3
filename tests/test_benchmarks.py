"""The benchmarks' quick runs on the CPU: every row they promise is there and well formed. No time is asserted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PRODUCT = ("forward", "input gradient", "weight gradient")
PASSES = {"conv1": PRODUCT[::2], "sgd": ("update",)}
PASSES |= dict.fromkeys(("conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"), PRODUCT)
PASSES |= dict.fromkeys(("lrn1", "lrn2", "pool1", "pool2", "pool5", "softmax"), ("forward", "backward"))
PASSES |= dict.fromkeys(("relu1", "relu2", "relu3", "relu4", "relu5"), ("forward", "backward"))
ALL_PASSES = {(layer, which) for layer, passes in PASSES.items() for which in passes}


def run(script: str, out: Path, *options: str) -> dict[str, Any]:
    """The record that a script writes."""
    command = [sys.executable, f"benchmarks/{script}", "--device", "cpu", "--quick", "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = out.glob("*.json")
    assert written.with_suffix(".md").read_text().startswith("# ")
    return json.loads(written.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))


def check_environment(record: dict[str, Any]) -> None:
    environment = record["environment"]
    assert environment.keys() >= {"date", "commit", "command", "processor", "cores", "system", "python", "versions"}
    assert "numpy" in environment["versions"]


def check_times(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert "failed" not in row, row
        assert 0 < row["q1_ms"] <= row["ms"] <= row["q3_ms"], row
        assert row["samples"] >= 1


def test_layer_bench(tmp_path: Path) -> None:
    record = run("layer_bench.py", tmp_path, "--alone")
    check_environment(record)
    check_times(record["rows"])
    for library in ("alexnet_cuda", "NumPy"):
        assert {(r["layer"], r["pass"]) for r in record["rows"] if r["library"] == library} == ALL_PASSES
    assert all(0 <= row["error"] < 1e-5 for row in record["rows"])


def test_step_bench(tmp_path: Path) -> None:
    record = run("step_bench.py", tmp_path, "--model", "alexnet-mini", "--alone")
    check_environment(record)
    check_times(record["rows"])
    (ours,) = record["rows"]
    assert ours["side"] == "alexnet_cuda"
    assert ours["peak_MiB"] > 10
    assert not record["ratios"]
    check_breakdown(record["breakdown"])


def check_breakdown(rows: list[dict[str, Any]]) -> None:
    passes = {(row["layer"], row["pass"]) for row in rows}
    layers = ("conv1", "lrn1", "pool1", "conv2", "lrn2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc6", "drop6")
    assert passes >= {(layer, which) for layer in (*layers, "fc8", "loss") for which in ("forward", "backward")}
    assert ("sgd", "update") in passes
    assert all(math.isfinite(row["ms"]) for row in rows)


@pytest.mark.oracle
def test_layer_bench_beside_pytorch(import_oracle: Callable[[str], ModuleType], tmp_path: Path) -> None:
    import_oracle("torch")
    record = run("layer_bench.py", tmp_path, "--layer", "conv1", "lrn1", "pool1", "fc8", "softmax", "sgd")
    check_times(record["rows"])
    libraries = {row["library"] for row in record["rows"]}
    assert libraries == {"alexnet_cuda", "NumPy", "PyTorch", "PyTorch NCHW", "PyTorch NHWC"}


@pytest.mark.oracle
def test_step_bench_beside_pytorch(import_oracle: Callable[[str], ModuleType], tmp_path: Path) -> None:
    import_oracle("torch")
    record = run("step_bench.py", tmp_path, "--model", "alexnet-mini")
    check_times(record["rows"])
    assert [row["side"] for row in record["rows"]] == [
        "alexnet_cuda",
        "PyTorch",
        "PyTorch channels_last",
        "PyTorch fused SGD",
        "PyTorch channels_last, fused SGD",
    ]
    assert all(loss["agree"] for loss in record["losses"])
    (ratio,) = record["ratios"]
    assert ratio["time"] > 0
    assert ratio["memory"] > 0
    check_breakdown(record["breakdown"])


@pytest.mark.oracle
def test_baseline_gpu(import_oracle: Callable[[str], ModuleType], tmp_path: Path) -> None:
    import_oracle("torch")
    record = run("baseline_gpu.py", tmp_path, "--precision", "bf16", "fp32")
    check_environment(record)
    check_times(record["rows"])
    assert not record["failed"]
    assert record["ceilings"].keys() == {"copy", "fp32", "tf32", "bf16"}
    measured = {(row["layer"], row["pass"]) for row in record["rows"] if row.get("layer")}
    pairs = {(f"lrn{i}+pool{i}", which) for i in (1, 2) for which in ("forward", "backward")}
    assert measured >= ALL_PASSES | pairs
    for precision in ("bf16", "fp32"):
        steps = [r for r in record["rows"] if r.get("what") == "training step" and r["precision"] == precision]
        assert {(r["towers"], r["layout"]) for r in steps} == {
            (towers, layout) for towers in (1, 2) for layout in ("NCHW", "NHWC")
        }
    runs = {row["run"] for row in record["rows"] if "what" in row}
    assert runs == {"eager", "graph", "compile", "max-autotune"}


def test_gpu_check_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": sys.executable}
    command = [str(ROOT / "scripts" / "gpu_check.sh"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert "MISSING: a GPU: nvidia-smi finds none" in summary
    assert summary.endswith("result: FAILED\n")
    assert subprocess.run([*command, "nonsense"], capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize("what", ["ablations", "figure1", "cifar"])
def test_reproduce(tmp_path: Path, what: str) -> None:
    """On small random images of two classes; the figures say nothing."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (36, 36, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    options = ["--data", f"folder:{tmp_path / 'images'}", "--device", "cpu", "--epochs", "1", "--seeds", "0", "1"]
    command = [sys.executable, "benchmarks/reproduce.py", what, *options, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "out" / f"reproduce-{what}-cpu.json").read_text())
    assert len(record["rows"]) == {"ablations": 6, "figure1": 2, "cifar": 1}[what]
    assert (tmp_path / "out" / f"reproduce-{what}-cpu.md").read_text().startswith("# ")
    assert (tmp_path / "out" / "figure1.png").exists() == (what == "figure1")


def test_loader_bench(tmp_path: Path) -> None:
    record = run("loader_bench.py", tmp_path, "--model", "keras-2x2")
    check_environment(record)
    rows = {row["stage"]: row for row in record["rows"]}
    assert rows.keys() == {
        "decode and scale",
        *(f"{what} {kind}" for what in ("pack", "read", "loader", "train") for kind in ("raw", "jpeg")),
        "copy to device",
        "train, in memory",
    }
    copy = rows.pop("copy to device")
    assert "ms" not in copy  # unmeasured without a GPU
    check_times([row for row in record["rows"] if row["stage"] in rows])
    assert all(row["per_s"] > 0 for row in rows.values())
    for kind, line in zip(("jpeg", "raw"), sorted(record["limits"].splitlines()), strict=True):
        assert line.startswith(f"- {kind}: train, in memory is the limit") and "copy to device unmeasured" in line


def test_overhead_bench(tmp_path: Path) -> None:
    record = run("overhead_bench.py", tmp_path)
    check_environment(record)
    assert {(row["call"], row["operation"]) for row in record["rows"]} >= {
        ("plain", "conv2d"),
        ("plain", "lrn_backward"),
        ("autograd", "linear, forward and backward"),
    }
    for row in record["rows"]:
        assert 0 < row["q1_us"] <= row["us"] <= row["q3_us"] and row["within"] == (row["us"] <= record["target_us"])


def test_results_do_not_tell_where_things_lie() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import timing
    finally:
        sys.path.pop(0)
    text = timing.without_folders('imagenet:/data/in/sample, "/a/b/c.py" a / b images/s 1/2 https://x.y/z')
    assert text == 'imagenet:sample, "c.py" a / b images/s 1/2 https://x.y/z'


def test_scaling(tmp_path: Path) -> None:
    """Predictions for all numbers of devices, measured ones beside them, and refusals."""
    options = ["--measure", "1", "2", "--model", "alexnet-mini", "--out", str(tmp_path)]
    done = script("scaling.py", *options)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "scaling-floor-nvlink.json").read_text())
    check_environment(record)
    rows = {row["devices"]: row for row in record["predicted"]}
    assert list(rows) == [2**i for i in range(11)]
    for mode in ("data", "hybrid", "model"):
        assert rows[1][f"{mode}_speedup"] == 1
    assert rows[1]["data_ms"] == pytest.approx(rows[1]["hybrid_ms"])
    assert rows[8]["published_2014"] == 6.25 and rows[16]["published_2014"] is None
    assert "model_ms" in rows[2] and "model_ms" not in rows[4]
    check_times(record["measured"])
    assert [(row["mode"], row["processes"]) for row in record["measured"]] == [
        ("data", 1), ("data", 2), ("hybrid", 1), ("hybrid", 2)
    ]  # fmt: skip
    assert "nothing of ours has been measured on a GPU" in (tmp_path / "scaling-floor-nvlink.md").read_text()
    (tmp_path / "none.json").write_text('{"rows": []}')
    done = script("scaling.py", "--compute", str(tmp_path / "none.json"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "expected a result of layer_bench" in done.stderr


def script(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"benchmarks/{name}", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
