"""The benchmarks' quick runs on the CPU: every row they promise is there and well formed. No time is asserted."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import reference
from cupy_interface import accept, takes
from ml_dtypes import bfloat16
from PIL import Image

import alexnet_cuda
from alexnet_cuda import backend, kernels

ROOT = Path(__file__).parents[1]
PRODUCT = ("forward", "input gradient", "weight gradient")
PASSES = {"conv1": PRODUCT[::2], "sgd": ("update",)}
PASSES |= dict.fromkeys(("conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"), PRODUCT)
PASSES |= dict.fromkeys(("lrn1", "lrn2", "pool1", "pool2", "pool5", "softmax"), ("forward", "backward"))
PASSES |= dict.fromkeys(("relu1", "relu2", "relu3", "relu4", "relu5"), ("forward", "backward"))
PAIRS = {(f"lrn{i}+pool{i}", which) for i in (1, 2) for which in ("forward", "backward")}
UPDATES = {(f"fc{i}+sgd", "update") for i in (6, 7, 8)}
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
        rows = [row for row in record["rows"] if row["library"] == library and row.get("auto", True)]
        assert {(r["layer"], r["pass"]) for r in rows if r["towers"] == 1} == ALL_PASSES | PAIRS | UPDATES
        assert {r["layer"] for r in rows if r["towers"] == 2} == {"conv2", "conv4", "conv5", "sgd"}
    assert all(0 <= row["error"] < 1e-5 for row in record["rows"])
    assert all(row["floor_ms"] > 0 and row["gb_s"] > 0 for row in record["rows"])
    products = [row for row in record["rows"] if row["layer"].startswith(("conv", "fc"))]
    assert all(row["tflop_s"] > 0 for row in products)
    assert {row["form"] for row in products} == {"im2col", "winograd", ""}
    assert (tmp_path / "layer_bench-cpu.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "layer_bench-cpu.png").unlink()
    assert script("layer_bench.py", "--plot", str(tmp_path / "layer_bench-cpu.json")).returncode == 0
    assert (tmp_path / "layer_bench-cpu.png").exists()


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """layer_bench as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module("layer_bench")
    finally:
        sys.path.pop(0)


@pytest.fixture
def contenders(bench: ModuleType) -> ModuleType:
    return importlib.import_module("contenders")


@pytest.fixture
def benchmarks(bench: ModuleType) -> Callable[[str], ModuleType]:
    """A benchmark, or what they share, as a module."""
    return importlib.import_module


QUICK = ("--quick", "--device", "cpu", "--alone", "--towers", "1")


def result(
    bench: ModuleType, out: Path, *options: str, stem: str = "layer_bench-cpu"
) -> tuple[int, list[dict[str, Any]]]:
    status = bench.main([*options, "--out", str(out)])
    return status, json.loads((out / f"{stem}.json").read_text())["rows"]


def test_layer_bench_in_each_precision(bench: ModuleType, tmp_path: Path) -> None:
    options = ("--layer", "conv5", "fc7", "fc7+sgd", "relu5", "lrn2+pool2", "softmax", "--precision", "tf32", "bf16")
    status, rows = result(bench, tmp_path, *QUICK, *options)
    assert status == 0
    check_times(rows)
    forms: dict[tuple[str, str], dict[str, bool]] = {}
    for row in rows:
        if row["pass"] in ("forward", "backward", "update"):
            forms.setdefault((row["layer"], row["precision"]), {})[row["form"]] = row["auto"]
    assert forms == {
        ("conv5", "tf32"): {"implicit": True, "hopper": False},
        ("conv5", "bf16"): {"implicit": True, "implicit on float32": False},
        ("fc7", "tf32"): {"": True, "hopper": False},
        ("fc7", "bf16"): {"": True, "on float32": False, "hopper": False},
        ("fc7+sgd", "tf32"): {"one kernel": True, "separately": False},
        ("fc7+sgd", "bf16"): {"one kernel": True, "separately": False},
        ("relu5", "bf16"): {"": True},
        ("lrn2+pool2", "bf16"): {"one pass": False, "two kernels": True},  # of the backward pass, on a CPU
    }
    for row in rows:  # against operands rounded alike: what is left is the rounding of sums and of what is stored
        stored = row["precision"] == "bf16" and not row["form"].endswith("on float32")
        assert row["error"] < (4e-3 if stored and row["pass"] not in ("weight gradient", "update") else 1e-6), row


def test_layer_bench_rounds_operands_as_tensor_cores_do(contenders: ModuleType) -> None:
    x = np.random.default_rng(0).standard_normal(1000, np.float32) * np.float32(1e3)
    x[:3] = 1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8  # ties
    for precision in ("fp32", "tf32", "bf16"):
        np.testing.assert_array_equal(contenders.rounded(x, precision), reference.rounded(x, precision))


def test_layer_bench_knows_every_way_of_a_convolution(bench: ModuleType, contenders: ModuleType) -> None:
    layers = {layer.name: layer for _, layer in bench.layers.timed([1])}

    def ways(name: str, which: str, precision: str, dtype: Any = np.float32) -> dict[str, bool]:
        return contenders.algorithms(layers[name], which, precision, backend.native(backend.device("cpu")), None, dtype)

    assert ways("conv1", "forward", "fp32") == {"im2col": True}
    assert ways("conv2", "forward", "fp32") == {"im2col": False, "winograd": True}
    assert ways("conv3", "input gradient", "tf32") == {"implicit": True, "hopper": False}
    assert ways("conv3", "weight gradient", "tf32") == {"implicit": True}
    assert ways("conv3", "input gradient", "bf16") == {"implicit": True, "hopper": False}
    assert ways("conv3", "weight gradient", "bf16") == {"implicit": True, "hopper": False}
    for dtype in (np.float32, bfloat16):
        conv1 = ways("conv1", "forward", "bf16", dtype)
        assert conv1 == {"implicit": False, "space_to_depth": True, "hopper": False}
        assert ways("conv3", "forward", "bf16", dtype) == {"implicit": True, "hopper": False}


@pytest.mark.parametrize("spoiled", ["inaccurate", "one image wrong", "never written"])
def test_layer_bench_fails_where_ours_are_wrong(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: str
) -> None:
    lrn = kernels.lrn

    def wrong(x: np.ndarray, *options: float) -> np.ndarray:
        y = lrn(x, *options)
        if spoiled == "inaccurate":
            y *= np.float32(1 + 2e-5)
        elif spoiled == "one image wrong":
            y[-1] = y[0]
        else:
            y[0, 0, 0, 0] = np.nan
        return y

    monkeypatch.setattr(kernels, "lrn", wrong)
    options = ("--batch", "16", "--layer", "lrn2")
    status, rows = result(bench, tmp_path, *QUICK, *options)
    assert status == 1
    failed = {(row["library"], row["layer"], row["pass"]) for row in rows if "failed" in row}
    assert failed == {("alexnet_cuda", "lrn2", "forward")}
    assert all("ms" in row for row in rows if "failed" not in row)


def test_layer_bench_survives_a_library_that_fails_late(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kernel on a GPU, whose failure shows when somebody waits for it."""

    def alternate(self: object, runs: dict[str, Callable[[], object]], rounds: int, warmup: int = 1) -> None:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(bench, "ceilings", lambda *_: {"copy": 1.0, "fp32": 1.0})
    monkeypatch.setattr(bench.timing.HostClock, "alternate", alternate)
    status, rows = result(bench, tmp_path, *QUICK, "--layer", "relu5")
    assert status == 1
    assert [row["failed"] for row in rows] == ["RuntimeError: an illegal memory access"] * 2


def test_layer_bench_keeps_what_it_has_when_it_is_ended(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = bench.Bench.measure

    def ended(self: Any, towers: int, layer: Any, *rest: Any) -> None:
        if layer.name == "pool5":
            raise KeyboardInterrupt
        measure(self, towers, layer, *rest)

    monkeypatch.setattr(bench.Bench, "measure", ended)
    with pytest.raises(KeyboardInterrupt):
        bench.main([*QUICK, "--layer", "relu5", "pool5", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "layer_bench-cpu.json").read_text())["rows"]
    assert {(row["layer"], row["pass"]) for row in rows if "ms" in row} == {("relu5", "forward"), ("relu5", "backward")}
    assert "relu5" in (tmp_path / "layer_bench-cpu.md").read_text()


def test_layer_bench_refuses(bench: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = {
        "no usable GPU": ("--device", "cuda"),
        "expected --quick": ("--device", "cpu", "--precision", "bf16"),
        "unknown layer conv9": (*QUICK, "--layer", "conv9"),
    }
    for message, options in wrong.items():
        if message == "no usable GPU" and backend.gpu_problem() is None:
            continue
        with pytest.raises(SystemExit) as stop:
            bench.main([*options, "--out", str(tmp_path)])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    status, rows = result(bench, tmp_path, *QUICK, "--layer", "relu5", "--budget", "0")
    assert (status, rows) == (0, [])
    assert "time budget" in (tmp_path / "layer_bench-cpu.md").read_text()


GPU = "layer_bench-cuda"


class StandInCupy(ModuleType):
    """NumPy with the little of cupy.cuda that a benchmark calls."""

    class Event:
        @takes("cuda.Event.record")
        def record(self) -> None:
            self.at = time.perf_counter()

    class Stream:
        ptr = 0

        @takes("cuda.Stream")
        def __init__(self, non_blocking: bool) -> None:
            self.captures = False

        def __enter__(self) -> StandInCupy.Stream:
            StandInCupy.current = self
            return self

        def __exit__(self, *_: object) -> None:
            pass

        @takes("cuda.Stream.synchronize")
        def synchronize(self) -> None:
            assert not self.captures, "a stream that captures cannot be waited for"

        @takes("cuda.Stream.begin_capture")
        def begin_capture(self) -> None:
            self.captures = True

        @takes("cuda.Stream.end_capture")
        def end_capture(self) -> SimpleNamespace:
            self.captures = False
            return SimpleNamespace(launch=partial(accept, "cuda.Graph.launch", self))

    current: Stream

    def __init__(self) -> None:
        super().__init__("cupy")
        self.cuda = SimpleNamespace(Event=self.Event, Stream=self.Stream)
        self.cuda.get_elapsed_time = takes("cuda.get_elapsed_time")(lambda start, end: 1e3 * (end.at - start.at))
        self.cuda.get_current_stream = takes("cuda.get_current_stream")(lambda: self.current)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@pytest.fixture
def stand_in_gpu(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a benchmark does on a GPU of compute capability 9.0, its kernels on the executor."""
    cpu, cupy = backend.device("cpu"), StandInCupy()
    monkeypatch.setattr(backend, "gpu_problem", lambda: None)
    monkeypatch.setattr(backend, "release_memory", lambda: None)
    monkeypatch.setattr(backend, "build_info", dict)
    monkeypatch.setitem(bench.QUICK_SCALE, "cuda", 16)  # the executor is slow
    monkeypatch.setattr(backend, "device", lambda name: cpu)
    monkeypatch.setattr(backend, "array_module", lambda where: cupy)
    monkeypatch.setattr(backend, "capability", lambda where: (9, 0))


@pytest.mark.oracle
def test_layer_bench_on_a_stand_in_of_a_gpu_beside_pytorch(
    bench: ModuleType, tmp_path: Path, stand_in_gpu: None, monkeypatch: pytest.MonkeyPatch,
    import_oracle: Callable[[str], ModuleType],
) -> None:  # fmt: skip
    torch, peer = import_oracle("torch"), importlib.import_module("peer")
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer: None)
    monkeypatch.setattr(peer, "captured", lambda run: run)
    monkeypatch.setattr(peer, "kernel_name", lambda call: f"kernel of {tuple(call().shape)}")
    layers = ("conv5", "lrn2", "lrn2+pool2", "softmax", "sgd")
    status, rows = result(bench, tmp_path, "--quick", "--layer", *layers, "--precision", "fp32", stem=GPU)
    more, small = result(bench, tmp_path, "--quick", "--layer", "fc7", "relu5", stem=GPU)
    assert (status, more) == (0, 0)
    rows += small
    check_times(rows)
    assert all(row["error"] < bench.TOLERANCE[row["precision"]] for row in rows)
    kernel = {(r["layer"], r["pass"], r["towers"], r["precision"]): r["kernel"] for r in rows if "kernel" in r}
    assert len(kernel) == 2 * 3 + 3 * 3  # conv5 in one tower and in two; fc7 in each precision
    assert kernel["fc7", "weight gradient", 1, "bf16"] == "kernel of (256, 256)"
    forms = {row["form"] for row in rows if row["layer"] == "lrn2+pool2" and row["library"] == "PyTorch"}
    assert forms == {"NCHW", "NHWC", "NHWC, shifted adds"}
    assert "PyTorch / ours" in (tmp_path / f"{GPU}.md").read_text()


def test_layer_bench_on_a_stand_in_of_a_gpu(bench: ModuleType, tmp_path: Path, stand_in_gpu: None) -> None:
    layers = ("conv5", "lrn2+pool2", "sgd")
    status, rows = result(bench, tmp_path, "--quick", "--alone", "--layer", *layers, "--precision", "fp32", stem=GPU)
    more, small = result(bench, tmp_path, "--quick", "--alone", "--layer", "fc7", "relu5", stem=GPU)
    assert (status, more) == (0, 0)
    rows += small
    check_times(rows)
    assert {row["form"] for row in rows if row["layer"] == "conv5" and row["auto"]} == {"im2col"}
    libraries = {(r["precision"], r["library"]) for r in rows if r["layer"] == "fc7"}
    assert libraries == {*((p, "alexnet_cuda") for p in ("fp32", "tf32", "bf16")), ("fp32", "CuPy")}


def test_predictions(bench: ModuleType, tmp_path: Path) -> None:
    """The page is what the script writes; what a result holds stands there, all else is unmeasured."""
    predictions = importlib.import_module("predictions")
    assert predictions.text(predictions.newest()) in predictions.PAGE.read_text()
    cell = {"layer": "conv3", "pass": "forward", "towers": 1, "batch": 1024, "precision": "bf16"}
    rows = [cell | {"auto": True, "ms": 0.51234}, cell | {"auto": False, "ms": 9.0}, cell | {"library": "PyTorch"}]
    record = {"scale": 1, "environment": {"processor": "a machine", "commit": "c"}, "rows": rows}
    (tmp_path / "result.json").write_text(json.dumps(record))
    lines = predictions.text(tmp_path / "result.json").splitlines()
    filled = [line for line in lines if "512.3" in line]
    assert len(filled) == 1 and filled[0].startswith("| conv3 | forward | 1 | implicit | 388 |"), filled
    assert not any("9000" in line for line in lines)
    conv2 = bench.layers.Conv("conv2", 27, 96, 256, 5, padding=2)
    assert predictions.floor(conv2, "forward", 128, "tf32") == pytest.approx(290, rel=0.01)
    (tmp_path / "result.json").write_text(json.dumps(record | {"scale": 16}))
    with pytest.raises(ValueError, match="quick run"):
        predictions.text(tmp_path / "result.json")


def test_step_bench(tmp_path: Path) -> None:
    record = run("step_bench.py", tmp_path, "--model", "alexnet-mini", "--alone", "--pass", "training", "inference")
    check_environment(record)
    check_times(record["rows"])
    assert [(row["pass"], row["side"]) for row in record["rows"]] == [
        ("training", "alexnet_cuda"), ("inference", "alexnet_cuda")
    ]  # fmt: skip
    for row in record["rows"]:
        assert row["peak_MiB"] > 10
        assert row["sustained_images_s"] > 0
    assert not record["ratios"]
    assert not record["not_measured"]
    check_breakdown(record["breakdown"])
    assert (tmp_path / "step_bench-cpu.png").read_bytes().startswith(b"\x89PNG")
    done = script("step_bench.py", "--precision", "bf16")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "only fp32 is worth timing" in done.stderr


def test_step_bench_leaves_out_what_comes_after_its_budget(
    benchmarks: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times come first; they are written before anything else is measured."""
    bench = benchmarks("step_bench")
    monkeypatch.setattr(bench.Bench, "late", lambda self: bool(self.record["rows"]))
    command = "step_bench.py --quick --device cpu --alone --model alexnet-mini --batch 1 2 --out"
    monkeypatch.setattr(sys, "argv", [*command.split(), str(tmp_path)])
    written: list[Any] = []
    write = bench.timing.write

    def watched(folder: Path, stem: str, title: str, record: Any, *rest: Any) -> None:
        written.append((len(record["rows"]), len(record["not_measured"])))
        write(folder, stem, title, record, *rest)

    monkeypatch.setattr(bench.timing, "write", watched)
    assert bench.main() == 0
    record = json.loads((tmp_path / "step_bench-cpu.json").read_text())
    (row,) = record["rows"]
    assert row["batch"] == 1 and row["ms"] > 0 and "peak_MiB" not in row
    assert not record["breakdown"]
    left_out = [(row["batch"], row["why"]) for row in record["not_measured"]]
    assert left_out == [(1, "its memory: time budget"), (2, "time budget")]
    assert written == [(1, 0), (1, 1), (1, 2)]


def test_step_bench_answers_the_question_of_hours(benchmarks: Callable[[str], ModuleType]) -> None:
    """Of the paper's size: by hand 90 x 1,281,167 / 400 / 3600 = 80.07 hours."""
    bench = benchmarks("step_bench")
    row = {"model": "alexnet", "pass": "training", "precision": "fp32", "sustained_images_s": 400.0}
    rows = [row | {"side": bench.OURS}, row | {"side": "PyTorch", "sustained_images_s": 200.0}]
    text = bench.hours([*rows, row | {"side": bench.OURS, "pass": "inference", "sustained_images_s": 900.0}])
    assert "- alexnet, fp32: 80.1 hours (ours, 400.0 images/s); 160.1 hours (PyTorch, 200.0 images/s)" in text
    assert "120 to 144 hours" in text
    assert bench.hours([row | {"side": bench.OURS, "model": "alexnet-mini"}]) == ""


@pytest.mark.parametrize(("which", "precision", "ms"), [("training", "bf16", 1.43), ("inference", "fp32", 4.9)])
def test_the_floor_of_a_step(benchmarks: Callable[[str], ModuleType], which: str, precision: str, ms: float) -> None:
    """Of alexnet-single at batch 128 on an H200, as estimated beforehand."""
    steps = benchmarks("steps")
    case = steps.Case("alexnet-single", which, precision, 128, "cuda")
    ceilings = {"copy": 4.3, "bf16": 790.0, "fp32": 60.0}
    assert steps.floor_ms(case, ceilings) == pytest.approx(ms, rel=0.03)
    assert steps.floor_ms(case, {"copy": 4.3}) is None


OUR_LATENCIES = [
    "alexnet_cuda", "alexnet_cuda folded", "alexnet_cuda bf16 weights", "alexnet_cuda int8 weights"
]  # fmt: skip


def test_inference_bench(tmp_path: Path) -> None:
    record = run("inference_bench.py", tmp_path, "--model", "alexnet-mini", "--alone")
    check_environment(record)
    assert [row["side"] for row in record["rows"]] == OUR_LATENCIES
    for row in record["rows"]:
        assert 0 < row["least_ms"] <= row["p50_ms"]
        assert row["p99_ms"] is None  # two calls do not tell
    (agreement,) = record["agreement"]
    assert agreement["agree"]
    assert agreement["largest_difference"] < agreement["bf16"] < 0.01
    assert agreement["largest_difference"] < agreement["int8"] < 0.05


def test_ratios_of_latency_are_told_apart_by_the_weights(benchmarks: Callable[[str], ModuleType]) -> None:
    sides = [*OUR_LATENCIES, "PyTorch", "PyTorch channels_last", "onnxruntime"]
    names = {"model": "m", "precision": "fp32", "batch": 1}
    times = (4.0, 3.0, 2.0, 1.0, 8.0, 7.0, 5.0)
    rows = [names | {"side": side, "p50_ms": ms} for side, ms in zip(sides, times, strict=True)]
    found = benchmarks("inference_bench").ratios(rows)
    assert [(row["ours"], row["p50"], row["best"]) for row in found] == [
        (side, pytest.approx(ms / 5), "onnxruntime") for side, ms in zip(OUR_LATENCIES[1:], (3, 2, 1), strict=True)
    ]
    assert benchmarks("inference_bench").ratios(rows[:4]) == []


def test_percentiles_of_latency(benchmarks: Callable[[str], ModuleType]) -> None:
    row = benchmarks("inference_bench").percentiles([float(i) for i in range(101)], 8)
    assert row == {"p50_ms": 50.0, "p99_ms": 99.0, "least_ms": 0.0, "samples": 101, "images_s": 160.0}


class StandInPeer:
    """A step of ours under another's name, its results as much too large."""

    def __init__(self, case: Any, larger: float) -> None:
        self.step, self.larger = importlib.import_module("steps").Step(case), larger

    def __call__(self) -> None:
        self.step()

    def without_dropout(self) -> None:
        self.step.without_dropout()

    def value(self) -> np.ndarray:
        return self.step.result.numpy() * np.float32(1 + self.larger)


@pytest.fixture
def stand_in_peers(
    benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, float]], None]:
    """Stand-ins for all peers but PyTorch, which is not installed; by peer how much larger its results are."""
    bench_options, steps, runtimes = (benchmarks(name) for name in ("bench_options", "steps", "runtimes"))

    def stand_in(larger: dict[str, float]) -> None:
        monkeypatch.setattr(bench_options.importlib.util, "find_spec", lambda name: None if name == "torch" else name)
        monkeypatch.setattr(runtimes, "export", lambda *_: None)
        monkeypatch.setattr(
            steps, "peer_step", lambda case, form, state=None: StandInPeer(case, larger.get(form["peer"], 0.0))
        )

    return stand_in


@pytest.mark.parametrize("wrong", [None, "TensorFlow", "OpenVINO"])
def test_step_bench_beside_the_other_peers(
    benchmarks: Callable[[str], ModuleType], stand_in_peers: Callable[[dict[str, float]], None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: str | None,
) -> None:  # fmt: skip
    """Losses near 2.3 that differ by more than 1e-4, or logits by that much of their norm, fail the run."""
    bench = benchmarks("step_bench")
    stand_in_peers({} if wrong is None else {wrong: 1.2e-4})
    memory = {"TensorFlow": 400.0, "TensorFlow XLA": 400.0, "onnxruntime": 80.0, "OpenVINO": 90.0}
    monkeypatch.setattr(bench, "peak_memory", lambda case, form: memory[form["peer"]] if form else 50.0)
    command = "step_bench.py --quick --device cpu --model cifar-80sec --pass training inference --out"
    monkeypatch.setattr(sys, "argv", [*command.split(), str(tmp_path)])
    assert bench.main() == (wrong is not None)
    said = capsys.readouterr().err
    assert "step_bench: PyTorch is not installed: it is left out\n" in said
    assert ("the sides do not agree" in said) == (wrong is not None)
    record = json.loads((tmp_path / "step_bench-cpu.json").read_text())
    assert not record["not_measured"]
    sides = {which: [r for r in record["rows"] if r["pass"] == which] for which in ("training", "inference")}
    assert [row["side"] for row in sides["training"]] == ["alexnet_cuda", "TensorFlow", "TensorFlow XLA"]
    assert [row["side"] for row in sides["inference"]] == ["alexnet_cuda", "onnxruntime", "OpenVINO"]
    assert {row["peer"]: row["agree"] for row in record["agreement"]} == {
        peer: peer != wrong for peer in ("TensorFlow", "onnxruntime", "OpenVINO")
    }
    for ratio in record["ratios"]:
        ours, *theirs = sides[ratio["pass"]]
        fastest = min(theirs, key=lambda row: row["ms"])
        assert ratio["fastest"] == fastest["side"]
        assert ratio["time"] == pytest.approx(ours["ms"] / fastest["ms"], rel=1e-4)
        assert ratio["memory"] == pytest.approx(50 / memory[ratio["smallest"]], rel=1e-4)


def test_a_peer_that_fails_costs_itself(
    benchmarks: Callable[[str], ModuleType], stand_in_peers: Callable[[dict[str, float]], None]
) -> None:
    bench, steps = benchmarks("step_bench"), benchmarks("steps")
    stand_in_peers({"onnxruntime": math.nan})
    case = steps.Case("alexnet-mini", "inference", "fp32", 1, "cpu")
    forms = {"onnxruntime": {"peer": "onnxruntime"}, "OpenVINO": {"peer": "OpenVINO"}}
    found = bench.agreements(case, forms, 1)
    assert isinstance(found["onnxruntime"], ArithmeticError)
    assert found["OpenVINO"]["agree"]


def test_peers_are_not_built_of_every_layer(benchmarks: Callable[[str], ModuleType]) -> None:
    steps = benchmarks("steps")
    with pytest.raises(ValueError, match="model cifar-13pct: local3: peers are not built with Local2d"):
        steps.peer_layers(alexnet_cuda.models.get("cifar-13pct"))
    kinds = [type(layer).__name__ for layer in steps.peer_layers(alexnet_cuda.models.get("cifar-80sec"))]
    conv = ["Conv", "Relu"]
    assert kinds == [*conv, "Pool", *conv, "AvgPool", *conv, "AvgPool", "Linear", "Relu", "Linear"]


@pytest.mark.parametrize("wrong", [False, True])
def test_inference_bench_beside_runtimes(
    benchmarks: Callable[[str], ModuleType], stand_in_peers: Callable[[dict[str, float]], None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: bool,
) -> None:  # fmt: skip
    bench = benchmarks("inference_bench")
    stand_in_peers({"onnxruntime": 2e-5 if wrong else 5e-6})
    command = "inference_bench.py --quick --device cpu --model alexnet-mini --out"
    monkeypatch.setattr(sys, "argv", [*command.split(), str(tmp_path)])
    assert bench.main() == wrong
    assert "inference_bench: PyTorch is not installed: it is left out\n" in capsys.readouterr().err
    record = json.loads((tmp_path / "inference_bench-cpu.json").read_text())
    assert [row["side"] for row in record["rows"]] == [*OUR_LATENCIES, "onnxruntime", "OpenVINO"]
    (agreement,) = record["agreement"]
    assert agreement["agree"] != wrong
    assert agreement["onnxruntime"] == pytest.approx(2e-5 if wrong else 5e-6, rel=0.05)
    assert agreement["OpenVINO"] < 1e-6
    assert {row["best"] for row in record["ratios"]} <= {"onnxruntime", "OpenVINO"}


def check_breakdown(rows: list[dict[str, Any]]) -> None:
    passes = {(layer, row["pass"]) for row in rows for layer in row["layer"].split("+")}
    layers = ("conv1", "lrn1", "pool1", "conv2", "lrn2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc6", "drop6")
    assert passes >= {(layer, which) for layer in (*layers, "fc8") for which in ("forward", "backward")}
    assert passes >= {("loss", "backward"), ("sgd", "update")}
    assert all(math.isfinite(row["ms"]) for row in rows)


@pytest.mark.oracle
def test_layer_bench_beside_pytorch(import_oracle: Callable[[str], ModuleType], tmp_path: Path) -> None:
    import_oracle("torch")
    record = run("layer_bench.py", tmp_path, "--layer", "conv1", "lrn1", "pool1", "fc8", "softmax", "sgd")
    check_times(record["rows"])
    assert all(row["error"] < 1e-5 for row in record["rows"])
    libraries = {(row["library"], row["form"]) for row in record["rows"] if row["layer"] != "conv1"}
    forms = {("PyTorch", form) for form in ("", "NCHW", "NHWC", "NHWC, shifted adds")}
    assert libraries == {("alexnet_cuda", ""), ("NumPy", "")} | forms


@pytest.mark.oracle
def test_step_bench_beside_pytorch(import_oracle: Callable[[str], ModuleType], tmp_path: Path) -> None:
    import_oracle("torch")
    import_oracle("onnxruntime")
    record = run("step_bench.py", tmp_path, "--model", "alexnet-mini", "--pass", "training", "inference")
    check_times(record["rows"])
    forms = ["alexnet_cuda", "PyTorch", "PyTorch channels_last"]
    training = ["PyTorch fused SGD", "PyTorch channels_last, fused SGD"]
    expected = {"training": [*forms, *training], "inference": [*forms, "onnxruntime"]}
    optional = {"TensorFlow", "TensorFlow XLA", "OpenVINO"}  # the extra `oracle` does not bring them
    for which, sides in expected.items():
        found = [row["side"] for row in record["rows"] if row["pass"] == which]
        assert [side for side in found if side not in optional] == sides
    assert {row["peer"] for row in record["agreement"]} >= {"PyTorch", "onnxruntime"}
    assert all(row["agree"] for row in record["agreement"])
    for ratio in record["ratios"]:
        assert ratio["time"] > 0
        assert ratio["memory"] > 0
    for ours in (True, False):
        check_breakdown([row for row in record["breakdown"] if (row["side"] == "alexnet_cuda") == ours])


@pytest.mark.oracle
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("tensorflow", "openvino", "onnx"))),
    reason="TensorFlow, OpenVINO or onnx is not installed (extra 'peers')",
)
@pytest.mark.parametrize("model", ["cifar-80sec", "alexnet-mini"])
def test_other_peers_agree(benchmarks: Callable[[str], ModuleType], tmp_path: Path, model: str) -> None:
    """First losses and logits, in every form: maxima and means of cut windows, LRN and convolutions in groups."""
    bench, steps = benchmarks("step_bench"), benchmarks("steps")
    peers = ("TensorFlow", "onnxruntime", "OpenVINO")
    for which, bound in (("training", 2e-6), ("inference", 1e-5)):
        case = steps.Case(model, which, "fp32", 3, "cpu")
        forms = steps.peer_forms(case, peers, tmp_path)
        assert {form["peer"] for form in forms.values()} == set(peers[:1] if case.training else peers[1:])
        for name, form in forms.items():
            (found,) = bench.agreements(case, {name: form}, 3).values()
            assert found["largest_difference"] <= bound, name


@pytest.mark.oracle
def test_inference_bench_beside_pytorch(import_oracle: Callable[[str], ModuleType], tmp_path: Path) -> None:
    import_oracle("torch")
    import_oracle("onnxruntime")
    record = run("inference_bench.py", tmp_path, "--model", "alexnet-mini")
    forms = [*OUR_LATENCIES, "PyTorch", "PyTorch channels_last", "onnxruntime"]
    assert [row["side"] for row in record["rows"] if row["side"] != "OpenVINO"] == forms
    (agreement,) = record["agreement"]
    assert agreement["agree"]
    assert len(record["ratios"]) == 3
    assert all(ratio["p50"] > 0 for ratio in record["ratios"])


@pytest.mark.oracle
def test_baseline_gpu(import_oracle: Callable[[str], ModuleType], tmp_path: Path) -> None:
    import_oracle("torch")
    record = run("baseline_gpu.py", tmp_path, "--precision", "bf16", "fp32")
    check_environment(record)
    check_times(record["rows"])
    assert not record["failed"]
    assert record["ceilings"].keys() == {"copy", "fp32", "tf32", "bf16"}
    measured = {(row["layer"], row["pass"]) for row in record["rows"] if row.get("layer")}
    assert measured >= ALL_PASSES | PAIRS
    for precision in ("bf16", "fp32"):
        steps = [r for r in record["rows"] if r.get("what") == "training step" and r["precision"] == precision]
        assert {(r["towers"], r["layout"]) for r in steps} == {
            (towers, layout) for towers in (1, 2) for layout in ("NCHW", "NHWC")
        }
    runs = {row["run"] for row in record["rows"] if "what" in row}
    assert runs == {"eager", "graph", "compile", "max-autotune"}


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


def test_finetune_bench(tmp_path: Path) -> None:
    """On small random images of four classes; the figures say nothing."""
    rng = np.random.default_rng(0)
    for part, name in itertools.product(("train", "test"), "abcd"):
        (tmp_path / "images" / part / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (36, 36, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / part / name / f"{i}.png")
    options = ["--images", "4", "--pretraining", "1", "--epochs", "1", "--seeds", "0", "1", "--device", "cpu"]
    where = ["--data", f"folder:{tmp_path / 'images'}", "--out", str(tmp_path / "out")]
    command = [sys.executable, "benchmarks/finetune_bench.py", *where, *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert [(row["steps"], len(row["accuracies"])) for row in record["rows"]] == [(1, 2)] * 4
    text = (tmp_path / "out" / "finetune.md").read_text()
    assert "4 training images of each of c, d" in text and "1 epoch on all training images of a, b" in text


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
    alone = {row["threads"]: row["per_s"] for row in record["rows"] if row["stage"] == "decode and scale"}
    packs = [row for row in record["rows"] if row["stage"].startswith("pack")]
    assert [row["threads"] for row in packs] == 2 * sorted(alone)
    for row in packs:
        assert row["of_decoding"] == pytest.approx(row["per_s"] / alone[row["threads"]], rel=1e-4)
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


def test_augment_bench(tmp_path: Path) -> None:
    record = run("augment_bench.py", tmp_path)
    check_environment(record)
    crops, *rows, together = record["images"]
    assert {row["what"] for row in rows} >= {"crop_area", "rotation", "mixup"}
    assert crops.get("within") is None and together["within"] is None
    for row in rows:
        assert row["more_ms"] == pytest.approx(row["ms"] - crops["ms"], abs=1e-4)
        assert row["within"] == (row["more_ms"] <= record["target_ms"])
    plain, augmented = record["steps"]
    assert augmented["more"] == pytest.approx(augmented["ms"] / plain["ms"] - 1, abs=1e-3)
    assert augmented["within"] == (augmented["more"] <= record["target_share"])


def test_results_do_not_tell_where_things_lie() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import timing
    finally:
        sys.path.pop(0)
    text = timing.without_folders('imagenet:/data/in/sample, "/a/b/c.py" a / b images/s 1/2 https://x.y/z')
    assert text == 'imagenet:sample, "c.py" a / b images/s 1/2 https://x.y/z'


def test_results_are_no_changes_of_the_commit_that_they_name(
    benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    timing = benchmarks("timing")
    result, script = tmp_path / "benchmarks" / "results" / "one.json", tmp_path / "benchmarks" / "one.py"
    result.parent.mkdir(parents=True)
    result.write_text("old")
    script.write_text("old")
    as_someone = "-c", "user.name=someone", "-c", "user.email=someone@example.org"
    for arguments in (("init", "-q"), ("add", "."), (*as_someone, "commit", "-q", "-m", "both")):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    monkeypatch.setattr(timing, "__file__", str(tmp_path / "benchmarks" / "timing.py"))
    monkeypatch.delenv("ALEXNET_COMMIT", raising=False)
    result.write_text("new")
    assert "uncommitted" not in timing._commit()
    script.write_text("new")
    assert "uncommitted" in timing._commit()


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


def test_precision(tmp_path: Path) -> None:
    """A few steps on real digits; the figures say nothing yet."""
    options = ["--narrow", "8", "--batch", "4", "--steps", "10", "--precisions", "bf16"]
    record = precision(tmp_path, *options)
    check_environment(record)
    assert [row["precision"] for row in record["rows"]] == ["fp32", "fp32, other weights", "bf16"]
    exact, other, rounded = record["rows"]
    assert (exact["apart"], exact["within"]) == (0, True)
    assert 0 < rounded["apart"] < other["apart"]
    assert all(len(row["losses"]) == 10 and np.isfinite(row["losses"]).all() for row in record["rows"])


@pytest.mark.slow
def test_precisions_learn_alike(tmp_path: Path) -> None:
    """500 steps on real digits: bf16's smoothed losses stay in the band around fp32's, and both learn."""
    record = precision(tmp_path, "--narrow", "4", "--batch", "16", "--precisions", "bf16")
    for row in record["rows"]:
        assert row["losses"][-1] < 0.5 * row["losses"][0]
    assert record["rows"][-1]["within"]


def precision(out: Path, *options: str) -> dict[str, Any]:
    done = script("precision.py", "--device", "cpu", *options, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "precision-cpu.json").read_text())


def test_build_bench(benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Builds alternate, each in a folder of its own, without a compiler cache; here they take what is told."""
    bench, commits = benchmarks("build_bench"), benchmarks("commits")
    seconds = {"old": iter([30.0, 50.0, 40.0]), "new": iter([21.0, 10.0, 20.0])}
    built: list[tuple[str, str, str]] = []

    def build(commit: str, place: Path, environment: dict[str, str]) -> Any:
        assert place.is_dir() and not list(place.iterdir())
        assert (environment["CCACHE_DISABLE"], environment["MAX_JOBS"]) == ("1", "3")
        built.append((commit, environment["ALEXNET_CUDA"], environment["CMAKE_CUDA_ARCHITECTURES"]))
        wall = next(seconds[commit])
        return commits.Taken(wall, 2 * wall if commit == "old" else wall, 5.0)

    monkeypatch.setattr(commits, "build", build)
    monkeypatch.setattr(commits, "resolved", lambda commit: commit)
    options = ["old", "new", "--cpu", "--jobs", "3", "--temporary", str(tmp_path), "--out", str(tmp_path / "out")]
    assert bench.main(options) == 0
    assert built == [("old", "0", "80-real;90a-real;90-virtual"), ("new", "0", "80-real;90a-real;90-virtual")] * 3
    record = json.loads((tmp_path / "out" / "build.json").read_text())
    check_environment(record)
    old, new = record["rows"]
    assert (old["s"], old["processor_s"], old["others_s"], old["ratio"]) == (40, 80, 5, 1)
    assert (new["q1_s"], new["s"], new["q3_s"], new["ratio"], new["processor_ratio"]) == (15, 20, 20.5, 0.5, 0.25)
    table = (tmp_path / "out" / "build.md").read_text()
    assert "| CPU | new | 20.0 | 15.0 | 20.5 | 0.50 | 20.0 | 0.25 | 5.0 |" in table


def test_build_bench_counts_what_processors_do(benchmarks: Callable[[str], ModuleType]) -> None:
    commits = benchmarks("commits")
    before = commits.clocks()
    work = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", work], check=True)
    wall, processors, everybody = (after - start for after, start in zip(commits.clocks(), before, strict=True))
    assert 0.3 <= processors < wall + 0.1
    assert everybody > 0.2  # in ticks of a hundredth of a second


def test_build_bench_refuses_what_is_no_commit() -> None:
    done = script("build_bench.py", "no-such-commit", "--cpu")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "build_bench: expected a commit of this repository, got no-such-commit\n"
    assert "--rounds, --jobs: expected a positive number" in script("build_bench.py", "HEAD", "--rounds", "0").stderr


def test_predict_bench(
    benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Processes of both commits alternate, and each part is a share of one; here both are what is installed."""
    bench, commits = benchmarks("predict_bench"), benchmarks("commits")
    places: list[Path] = []

    def build(commit: str, place: Path, environment: dict[str, str]) -> None:
        assert environment["ALEXNET_CUDA"] == "0"
        (place / "src").symlink_to(Path(alexnet_cuda.__file__).parents[1])
        places.append(place)

    monkeypatch.setattr(commits, "build", build)
    monkeypatch.setattr(commits, "resolved", lambda commit: commit)
    monkeypatch.setattr(bench, "STORED", (36, 36))
    options = ["old", "new", "--model", "alexnet-mini", "--rounds", "1", "--out", str(tmp_path)]
    assert bench.main(options) == 0
    assert [place.name for place in places] == ["old", "new"]
    record = json.loads((tmp_path / "predict.json").read_text())
    check_environment(record)
    rows = record["rows"]
    assert [(row["step"], row["commit"]) for row in rows] == [(s, c) for s in bench.STEPS for c in ("old", "new")]
    assert all(row["samples"] == 1 and row["ms"] > 0 for row in rows)
    for old, new in zip(rows[::2], rows[1::2], strict=True):
        assert old["ratio"] == 1
        assert new["ratio"] == pytest.approx(new["ms"] / old["ms"], rel=1e-4)


def test_predict_bench_shows_what_a_process_complains_of(
    benchmarks: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench, commits = benchmarks("predict_bench"), benchmarks("commits")
    monkeypatch.setattr(commits, "build", lambda commit, place, environment: None)
    monkeypatch.setattr(commits, "resolved", lambda commit: commit)
    monkeypatch.setattr(bench, "MAKE", "raise SystemExit('no such model')")
    assert bench.main(["old", "new", "--out", str(tmp_path)]) == 1
    assert "no such model" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_small_bench(benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both commits and PyTorch's forms alternate, each commit with the benchmarks of its own; here rates are told."""
    bench, commits, alone = (benchmarks(name) for name in ("small_bench", "commits", "alone"))
    ran: list[str] = []
    rates = {"old": iter([90.0, 110.0]), "new": iter([200.0, 240.0]), "fused": iter([150.0, 150.0])}

    def measured(
        case: dict[str, Any],
        form: Any,
        threads: int,
        seconds: float,
        benchmarks: Path = Path(),
        environment: Any = None,
    ) -> dict[str, float]:
        side = benchmarks.parent.name if form is None else "fused" if form.get("fused") else "plain"
        if form is None:
            assert environment["PYTHONPATH"] == str(benchmarks.parent / "src")
        assert (case["model"], case["which"], case["batch"], seconds) == ("alexnet-mini", "training", 128, 5.0)
        ran.append(side)
        return {"images_s": next(rates[side]) if side in rates and "layout" not in (form or {}) else 1.0}

    monkeypatch.setattr(commits, "build", lambda commit, place, environment: None)
    monkeypatch.setattr(commits, "resolved", lambda commit: commit)
    monkeypatch.setattr(benchmarks("bench_options").importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(alone, "measured", measured)
    options = ["old", "new", "--model", "alexnet-mini", "--rounds", "2", "--out", str(tmp_path)]
    assert bench.main(options) == 0
    assert ran == ["old", "new", "plain", "plain", "fused", "fused"] * 2
    record = json.loads((tmp_path / "small_bench-cpu.json").read_text())
    check_environment(record)
    found = {row["side"]: (row["images_s"], row["samples"], row["ratio"]) for row in record["rows"]}
    assert found["old"] == (100, 2, 1)
    assert found["new"] == (220, 2, 2.2)
    assert found["PyTorch fused SGD"] == (150, 2, 1.5)


def test_growth_bench(tmp_path: Path) -> None:
    """A process of its own for each point: over batches and sizes, on one thread and on two."""
    options = ["--model", "alexnet-mini", "--batch", "2", "--size", "48", "--threads", "1", "2"]
    record = run("growth_bench.py", tmp_path, "--alone", *options)
    check_environment(record)
    points = [(row["over"], row["batch"], row["size"], row["threads"]) for row in record["rows"]]
    assert points == [("batch", 2, 32, 1), ("batch", 2, 32, 2), ("size", 8, 48, 1), ("size", 8, 48, 2)]
    assert all(row["images_s"] > 0 and row["peak_MiB"] > 10 for row in record["rows"])
    assert (tmp_path / "growth_bench-cpu.png").read_bytes().startswith(b"\x89PNG")


def test_growth_bench_tells_what_failed(
    benchmarks: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The first images are too small for the network; other points are measured."""
    bench = benchmarks("growth_bench")
    monkeypatch.setattr(bench, "SIZES", [4, 32])
    command = "growth_bench.py --quick --device cpu --alone --model alexnet-mini --batch 1 --threads 1 --out"
    monkeypatch.setattr(sys, "argv", [*command.split(), str(tmp_path)])
    assert bench.main() == 1
    assert "growth_bench: 1 of 3 points failed\n" in capsys.readouterr().err
    rows = json.loads((tmp_path / "growth_bench-cpu.json").read_text())["rows"]
    assert ["failed" in row for row in rows] == [False, True, False]
    assert "a process of ours ended with 1" in rows[1]["failed"]


def test_a_side_alone_runs_the_benchmarks_of_its_commit(
    benchmarks: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    alone = benchmarks("alone")
    (tmp_path / "steps.py").write_text(
        "from types import SimpleNamespace\n"
        "def Case(**entries): return SimpleNamespace(**entries)\n"
        "def Step(case): return lambda: None\n"
    )
    case = {"model": "none of ours", "batch": 7, "device": "cpu", "size": None}
    found = alone.measured(case, None, 1, 0.01, tmp_path)
    assert found["images_s"] > 0 and found["peak_MiB"] > 10
    assert alone.measured(case, None, 1, benchmarks=tmp_path).keys() == {"peak_MiB"}
    (tmp_path / "steps.py").write_text("raise SystemExit('no such step')")
    with pytest.raises(RuntimeError, match="a process of ours ended with 1: no such step"):
        alone.measured(case, None, 1, benchmarks=tmp_path)


def script(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"benchmarks/{name}", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
