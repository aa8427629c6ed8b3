"""`python -m alexnet_cuda.checks --kernels`: it looks at everything there is, and notices what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial, wraps
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import reference
from conftest import KERNELS
from ml_dtypes import bfloat16
from stand_in_cupy import StandIn
from test_bindings import BY_NAME

from alexnet_cuda import backend, checks, command_line, kernels
from alexnet_cuda.kernel_checks import bounds, winograd
from alexnet_cuda.kernel_checks.check import Check, Largest, Row, Trial, Values, run
from alexnet_cuda.kernel_checks.drawn import ALL, COUNT, places
from alexnet_cuda.kernel_checks.families import FAMILIES
from alexnet_cuda.kernel_checks.layers import Scope
from alexnet_cuda.kernel_checks.processes import Supervisor
from alexnet_cuda.kernel_checks.product import Blocks
from alexnet_cuda.kernel_checks.worker import Request

pytest_plugins = ["stand_in_cupy"]

CPU = backend.Device("cpu")
MUTANTS = (sys.executable, str(Path(__file__).with_name("mutant_kernels.py")))
RECORDER = """
import atexit, json, sys
from alexnet_cuda import backend
from alexnet_cuda.kernel_checks import worker

native, launched = backend.native(backend.Device("cpu")), set()

class Recorder:
    def __getattr__(self, name):
        launched.add(name)
        return getattr(native, name)

recorder = Recorder()
backend.native = lambda where: recorder
family = json.loads(sys.argv[1])["family"]
atexit.register(lambda: open(f"{sys.path[0]}/{family}.json", "w").write(json.dumps(sorted(launched))))
worker.main()
"""


def every(batches: tuple[int, ...]) -> list[Check]:
    scope = Scope(CPU, batches, whole_layers=False)
    return [check for family in FAMILIES.values() for check in family(scope)]


# ---- it is complete


def test_all_small_checks_are_right_and_call_every_launcher(tmp_path: Path) -> None:
    recorder = tmp_path / "recorder.py"
    recorder.write_text(RECORDER)
    supervisor = Supervisor(120, lambda row: None, (sys.executable, str(recorder)))
    rows = supervisor.run([Request(family, "cpu", (), False) for family in FAMILIES], at_once=2)
    assert [str(row) for row in rows if row.outcome != "right"] == []
    assert len(rows) == len(every(())) and {row.family for row in rows} == set(FAMILIES)
    used = {name for path in tmp_path.glob("*.json") for name in json.loads(path.read_text())}
    assert set(BY_NAME) - used == set()


@pytest.mark.parametrize("batches", [(), (2,), (2, 128)], ids=["small", "quick", "full"])
def test_every_public_function_is_checked(batches: tuple[int, ...]) -> None:
    assert {check.function for check in every(batches)} == set(KERNELS)


@pytest.mark.parametrize("batches", [(), (2, 128)], ids=["small", "full"])
def test_every_way_of_every_pass_is_checked(batches: tuple[int, ...]) -> None:
    checks = every(batches)
    assert {check.algorithm for check in checks if check.algorithm} == set(get_args(kernels.Algorithm))
    ways = {(check.name, check.way) for check in checks}
    passes = ("conv2d", "conv2d_backward dx", "conv2d_backward dw db")
    products = (
        *passes,
        "linear",
        "linear_backward dx",
        "linear_backward dw db",
        "linear_sgd",
        "linear_dropout",
        "gemm NT",
    )
    for name in products:
        for kind in ("fp32", "tf32", "bf16", "bf16 stored"):
            algorithms = [""]
            if name in passes:
                algorithms = [" im2col", " winograd"] if kind == "fp32" else [" implicit", " space_to_depth", " hopper"]
            for algorithm in algorithms:
                absent = name == "conv2d_backward dw db" and (kind, algorithm) == ("tf32", " hopper")
                assert ((name, kind + algorithm) in ways) != absent, (name, kind, algorithm)
    in_float32_alone = {
        "local2d", "spatial_lrn", "softmax", "softmax_cross_entropy", "class_weight_sums", "sgd", "multi_sgd", "adam",
        "ema",
    }  # fmt: skip
    for function in {check.function for check in checks} - {check.split()[0] for check in products}:
        both = {way for name, way in ways if name.split()[0] == function}
        if function.removesuffix("_backward") not in in_float32_alone:
            assert len(both) == 2, (function, both)


@pytest.mark.parametrize("way", ["fp32 im2col", "tf32 implicit", "bf16 hopper", "bf16 stored hopper"])
def test_every_layer_with_weights_is_checked(way: str) -> None:
    """In both networks, at both batches, in all passes; the whole of them, where a GPU does it."""
    scope = Scope(CPU, (2, 128))
    shapes = {
        name: {
            check.shape
            for family in ("conv2d", "implicit", "hopper")
            for check in FAMILIES[family](scope)
            if (check.name, check.way) == (name, way) and not check.small
        }
        for name in ("conv2d", "conv2d_backward dx", "conv2d_backward dw db")
    }
    towers = ("conv1", "conv2", "conv4", "conv5")
    expected = {f"{layer} of {whose}" for layer in towers for whose in ("two towers", "one tower")} | {"conv3"}
    for name, found in shapes.items():
        assert found == {f"{layer}, batch {batch}" for layer in expected for batch in (2, 128)}, name
    linear = {check.shape for check in FAMILIES["linear"](scope) if check.way == way.split()[0] and not check.small}
    layers = {"fc6": (9216, 4096), "fc7": (4096, 4096), "fc8": (4096, 1000)}
    assert linear == {f"{name}: ({batch}, {i}) to {o}" for name, (i, o) in layers.items() for batch in (2, 128)}


def test_what_a_gpu_has_not_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "capability", lambda device: (8, 6))
    (check,) = FAMILIES["hopper"](Scope(backend.Device("cuda")))
    assert (check.function, check.absent) == ("conv2d", "it needs compute capability 9.0, the GPU has 8.6")


# ---- it looks where something may be wrong


@pytest.mark.parametrize("size", [1, 5, ALL, ALL + 1, 3 * ALL + 7, 37_748_736])
def test_places_are_everywhere(size: int) -> None:
    chosen = places(size)
    assert {0, size - 1} <= set(chosen.tolist()) and chosen.min() >= 0 and chosen.max() < size
    if size <= ALL:
        assert len(np.unique(chosen)) == size
    else:
        assert len(chosen) == COUNT and np.diff(np.sort(chosen)).max() < 3 * size / COUNT


@pytest.mark.parametrize(
    ("rows", "columns", "terms", "groups"),
    [(387_200, 96, 363, 1), (93_312, 128, 1200, 2), (128, 4096, 9216, 1), (2, 4096, 9216, 1), (48, 363, 387_200, 2)],
)
def test_blocks_are_everywhere(rows: int, columns: int, terms: int, groups: int) -> None:
    """A tile is 128 by 64 or larger; of the many of conv1's pixels one in ten may have no element."""
    blocks = Blocks.draw(rows, columns, terms, groups, edges=(rows // 2,))
    where = blocks.flat(columns, 1, rows * columns)
    assert len(where) >= COUNT / 4 and where.min() >= 0 and where.max() < groups * rows * columns
    group, row, column = np.unravel_index(where, (groups, rows, columns))
    assert {(0, 0), (rows - 1, columns - 1), (rows - 1, 0), (0, columns - 1)} <= set(zip(row, column, strict=True))
    assert rows // 2 in row and set(group) == set(range(groups))
    for axis, size, tile in ((row, rows, 128), (column, columns, 64)):
        assert len(np.unique(axis // tile)) >= 0.9 * (-(-size // tile))
    assert (blocks.rows.size + blocks.columns.size) * terms < 1 << 27


# ---- bounds


def cut_off_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sums over the last axis as Ampere's tensor cores add in tf32: four products and the sum before them, shifted to
    the largest exponent and cut off behind 24 bits, added, cut off to a float."""

    def exponents(x: np.ndarray) -> np.ndarray:
        return np.frexp(np.where(x == 0, 2.0**-100, x))[1] - 1

    def cut(x: np.ndarray, last: np.ndarray) -> np.ndarray:
        return np.ldexp(np.trunc(np.ldexp(x, -last)), last)

    total = np.zeros(a.shape[:-1])
    for k in range(0, a.shape[-1], 4):
        some_a, some_b = (np.moveaxis(x[..., k : k + 4], -1, 0) for x in (a, b))
        addends, exponent = [*(some_a * some_b), total], [*(exponents(some_a) + exponents(some_b)), exponents(total)]
        last = np.max(exponent, axis=0) - 24
        total = np.sum([cut(addend, last) for addend in addends], axis=0)
        total = cut(total, exponents(total) - 23)
    return total


@pytest.mark.parametrize("numbers", ["one sign", "random signs", "small behind large"])
@pytest.mark.parametrize("terms", [4, 64, 1200, 9216])
def test_tensor_cores_may_cut_off(numbers: str, terms: int) -> None:
    rng = np.random.default_rng(terms)
    a, b = (rng.uniform(0.5, 2, (100, terms)).astype(np.float32) for _ in range(2))
    if numbers == "random signs":
        a *= rng.choice(np.float32([-1, 1]), a.shape)
    if numbers == "small behind large":  # 1, and products a little less than 2^-24, all of which are lost
        a[:], b[:] = 2.0**-12 * (1 - 2.0**-10), 2.0**-12
        a[:, 0], b[:, 0] = 1, 1
    a, b = (reference.rounded(x, "tf32") for x in (a, b))
    sums = bounds.Sums.over(a * b, axis=1)
    distance, bound = abs(cut_off_sum(a, b) - sums.value), bounds.tensor_core_error(sums, terms)
    assert (distance <= bound).all()
    if numbers == "small behind large" and terms > 64:
        assert (distance > 0.66 * bound).all()
    if numbers != "random signs" and terms == 9216:  # for which the bound of rounding to nearest has no room
        assert (distance > bounds.sum_error(sums, terms)).any()


@pytest.mark.parametrize("terms", [1, 10, 363, 3456, 100_000])
def test_sums_of_float32(terms: int) -> None:
    """One after the other, which is the worst order."""
    rng = np.random.default_rng(terms)
    products = rng.uniform(0.5, 2, (100, terms)).astype(np.float32) * rng.choice(np.float32([-1, 1]), (100, terms))
    for some in (products, abs(products)):
        sums = bounds.Sums.over(some, axis=1)
        one_by_one = np.cumsum(some, axis=1, dtype=np.float32)[:, -1]
        assert (abs(one_by_one - sums.value) <= bounds.sum_error(sums, terms)).all()


@pytest.mark.parametrize("size", [3, 5])
def test_winograds_matrices(size: int) -> None:
    """By way of them the product of two polynomials is that of their values."""
    A, G, B = winograd.matrices(size)
    outputs = winograd.outputs_of_tile(size)
    through = np.einsum("pi,pu,pj->iuj", A, G, B)
    i, u, j = np.indices((outputs, size, outputs + size - 1))
    np.testing.assert_allclose(through, j == i + u, atol=1e-14)


# ---- it notices what is wrong

SHAPE = (3, 5, 7)


def one(function: Callable[..., Any], expected: Any, **options: Any) -> Row:
    """How a check of relu goes if it is that function."""
    function.__name__ = "relu"
    x = reference.random(*SHAPE)
    trial = Trial({"x": x}, {"y": expected(np.maximum(x, 0).reshape(-1).astype(np.float64))}, returns=("y",), **options)
    return run(Check(function, "fp32", [("one", lambda: trial)]), CPU)


def all_of(y: np.ndarray) -> Values:
    return Values(np.arange(y.size), y, 1e-6)


def test_a_right_result() -> None:
    row = one(lambda x: np.maximum(x, 0) + np.float32(5e-7), all_of)
    assert (row.outcome, row.name, row.way, row.shape) == ("right", "relu", "fp32", "one")
    assert 4e-7 < row.error < 6e-7 and row.bound == pytest.approx(1e-6) and row.ms > 0


def test_a_wrong_value() -> None:
    def wrong(x: np.ndarray) -> np.ndarray:
        y = np.maximum(x, 0)
        y[2, 4, 6] = 17
        return y

    row = one(wrong, all_of)
    assert row.outcome == "wrong"
    assert row.text.startswith("y[2, 4, 6] is 17, expected ")
    assert row.text.endswith(" within 1e-06; 1 of 105 values that were looked at are wrong")


def test_a_value_that_is_not_looked_at_must_be_written() -> None:
    def wrong(x: np.ndarray) -> np.ndarray:
        y = np.maximum(x, 0)
        y[1, 0, 0] = np.nan
        return y

    row = one(wrong, lambda y: Values(np.array([0, 104]), y[[0, 104]]))
    assert (row.outcome, row.text) == (
        "wrong", "y[1, 0, 0] is nan; 1 of 105 values were never written or are not finite",
    )  # fmt: skip


def test_places_of_maxima() -> None:
    candidates = np.array([[1.0, 3.0, 3.0 - 1e-9], [-np.inf, 0.0, -1.0]])
    expected = Largest(np.arange(2), candidates, np.full(2, 1e-8))
    for drawn, right in (([1, 1], True), ([2, 1], True), ([0, 1], False), ([1, 2], False), ([1, 0], False)):
        distance, allowed = expected.distances(np.array(drawn, np.uint8))
        assert (distance <= allowed).all() == right
    distance, allowed = expected.distances(np.array([255, 1], np.uint8))  # what was never written
    assert not distance[0] <= allowed[0]


def test_rounding_to_bfloat16_is_no_error() -> None:
    exact = np.linspace(-3, 3, 1001)
    for off, right in ((0.0, True), (1e-6, True), (0.02, False)):
        distance, allowed = all_of(exact).distances((exact + off).astype(np.float32).astype(bfloat16))
        assert (distance <= allowed).all() == right


# ---- a process for each family


def names(rows: list[Row]) -> list[tuple[str, ...]]:
    return [(row.family, row.name, row.way, row.shape) for row in rows]


def test_mutants(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Each is reported by name, and all others are run and right."""
    monkeypatch.setattr(checks, "Supervisor", partial(Supervisor, command=MUTANTS))
    file, families = tmp_path / "rows.json", ["pooling", "images", "loss"]
    arguments = ["--kernels", "--device", "cpu", "--only", ",".join(families), "--limit", "6", "--json", str(file)]
    assert checks.main(arguments) == 1
    rows = [Row(**json.loads(line)) for line in file.read_text().splitlines()]
    scope = Scope(CPU, (2,), whole_layers=False)
    expected = [asdict(check.row("right")) | {"family": f} for f in families for check in FAMILIES[f](scope)]
    assert names(rows) == names([Row(**row) for row in expected])

    wrong = {(row.name, row.way, row.shape): (row.outcome, row.text) for row in rows if row.outcome != "right"}
    for layer, last in (("pool1", "26, 26, 95"), ("pool2", "12, 12, 255")):
        outcome, text = wrong.pop(("max_pool2d", "fp32", f"{layer}, batch 2"))
        assert outcome == "wrong" and text.startswith(f"y[1, {last}] is ")
        assert text.endswith("within 0; 1 of 4,096 values that were looked at are wrong")
    outcome, text = wrong.pop(("max_pool2d_backward", "fp32", "pool1, batch 2"))
    assert (outcome, text) == (
        "wrong", "dx[0, 2, 18, 57] is nan; 1 of 580,800 values were never written or are not finite",
    )  # fmt: skip
    for shape in ("4 small shapes", "pool2, batch 2", "pool3, batch 2"):
        outcome, text = wrong.pop(("avg_pool2d", "fp32", shape))
        assert outcome == "wrong" and "when called again; 1 of" in text
    outcome, text = wrong.pop(("avg_pool2d_backward", "fp32", "4 small shapes"))
    assert outcome == "crashed" and text.startswith("overlapping, batch 2: the process was ended by SIGABRT")
    aborted = "crashed", "the process was ended by SIGABRT"
    assert wrong.pop(("avg_pool2d_backward", "fp32", "pool2, batch 2")) == aborted
    assert wrong.pop(("augment", "fp32", "3 small shapes")) == ("hung", "3 of 9x7 to 5x7: nothing came back in 6 s")
    failed = "5 x 33 classes: RuntimeError: an illegal memory access was encountered"
    assert wrong.pop(("softmax", "fp32", "5 small shapes")) == ("failed", failed)
    assert wrong == {}

    out = capsys.readouterr().out
    assert f"{len(rows)} checks in" in out and ": 10 WRONG\n" in out
    assert "  pooling: avg_pool2d_backward fp32 pool2, batch 2: crashed: the process was ended by SIGABRT\n" in out
    assert "  images: augment fp32 3 small shapes: hung: 3 of 9x7 to 5x7: nothing came back in 6 s\n" in out
    assert "Traceback" not in out


def test_a_process_that_does_not_even_begin() -> None:
    command = (sys.executable, "-c", "raise ImportError('no such library')")
    rows = Supervisor(20, lambda row: None, command).run([Request("loss", "cpu", (), False)], 1)
    text = "the process ended with exit status 1: ImportError: no such library"
    assert rows == [Row("before the first check", "", "", "crashed", text, family="loss")]


def test_a_fault_between_checks_is_reported_too() -> None:
    says = "import json, os; row = json.loads('{}'); print(json.dumps({{'begins': row, 'number': {}}}), flush=True);"
    row = json.dumps(asdict(Row("relu", "fp32", "one", "right")))
    script = says.format(row, 0) + f"print(json.dumps({{'row': json.loads('{row}')}}), flush=True); os.abort()"
    tell: list[Row] = []
    supervisor = Supervisor(20, tell.append, (sys.executable, "-c", script))

    def stop_after_three(row: Row) -> None:
        tell.append(row)
        if len(tell) == 3:
            raise KeyboardInterrupt

    supervisor.tell = stop_after_three
    with pytest.raises(KeyboardInterrupt):
        supervisor.run([Request("loss", "cpu", (), False)], 1)
    assert [(row.name, row.outcome) for row in tell] == [
        ("relu", "right"),
        ("after relu", "crashed"),
        ("relu", "right"),
    ]
    assert tell[1].text == "the process was ended by SIGABRT"
    assert supervisor._running == set()


def test_a_worker_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    """Not even if a kernel never returns."""
    request = json.dumps(asdict(Request("images", "cpu", (), False)))
    worker = subprocess.Popen([*MUTANTS, request], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdin and worker.stdout
    while json.loads(worker.stdout.readline()).get("shape") != "3 of 9x7 to 5x7":
        pass
    worker.stdin.close()
    assert worker.wait(20) == 1
    worker.stdout.close()


def test_what_is_wrong_with_the_command_line(tmp_path: Path) -> None:
    for arguments, message in (
        (
            ["--kernels", "--only", "poling"],
            "--only: unknown family 'poling': expected some of .*; did you mean pooling?",
        ),
        (["--kernels", "--device", "gpu"], "unknown device 'gpu'"),
        (["--kernels", "--quick", "--full"], "not allowed with argument --quick"),
        (["--kernels", "--limit", "0"], "expected a number above 0, got '0'"),
        (["--quick"], "--quick belongs to --kernels"),
        (["--device", "cpu"], "--device belongs to --kernels"),
    ):
        with pytest.raises(command_line.UsageError, match=message.replace("?", r"\?")):
            checks.main(arguments)


def test_rows_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert checks.main(["--kernels", "--device", "cpu", "--only", "loss", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["name"] for row in rows} >= {"softmax", "softmax_cross_entropy"}
    assert {row["outcome"] for row in rows} == {"right"} and all(row["error"] <= row["bound"] for row in rows)


# ---- on a GPU


@pytest.mark.parametrize(
    "family", ["pooling", "normalisation", "elementwise", "optimizers", "local2d", "images", "loss"]
)
def test_against_the_stand_in(stand_in: StandIn, family: str) -> None:
    """Arguments go to the device, results come back, small ones are compared with the CPU's."""
    device = backend.Device("cuda")
    rows = [run(check, device) for check in FAMILIES[family](Scope(device, ()))]
    assert [str(row) for row in rows if row.outcome != "right"] == []
    assert stand_in.log["copy from the host"] > 0 and stand_in.log["wait"] > 0


def test_a_gpu_that_differs_from_the_cpu(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the bound of float64 by more than two of its bounds."""
    device, right = backend.Device("cuda"), kernels.tanh

    @wraps(right)
    def other_sign_on_the_cpu(x: Any) -> Any:
        return right(x) * (-1 if isinstance(x, np.ndarray) else 1)

    monkeypatch.setattr(kernels, "tanh", other_sign_on_the_cpu)
    check = next(check for check in FAMILIES["elementwise"](Scope(device, ())) if check.function == "tanh")
    row = run(check, device)
    assert row.outcome == "wrong" and "on the CPU" in row.text
