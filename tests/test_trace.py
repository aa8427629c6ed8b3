"""``train --trace`` and ``--profile``: who is said to have worked when, a file that Perfetto opens, tables of times."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_cuda import Tensor, backend, command_line, models, nn, profiling, trace, train
from alexnet_cuda.profiling import Floor, Rates
from alexnet_cuda.trace import Span

pytest_plugins = ["tiny_run"]

CPU = backend.Device("cpu")
MINI = models.get("alexnet-mini")
Event = dict[str, Any]


def at(seconds: float) -> trace.Moment:
    return lambda: seconds


# ---- the file


@pytest.fixture(scope="module")
def events(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """Of the trace of a training, whose steps have two parts."""
    folder = tmp_path_factory.mktemp("traced")
    given = ["--data", f"folder:{tiny_images}", "--device", "cpu", "--batch", "8", "--epochs", "1"]
    given += ["--set", "accumulate=2", "--trace", str(folder / "trace.json"), "--out", str(folder / "run")]
    assert command_line.run(train.main, given) == 0
    return json.loads((folder / "trace.json").read_text())["traceEvents"]


def check(events: list[Event]) -> None:
    """The file is as Chrome's trace format wants it: names first, then complete events, in order, each of a row in
    another or after it."""
    named = [e for e in events if e["ph"] == "M"]
    assert events[: len(named)] == named and {e["ph"] for e in events} == {"M", "X"}
    assert [e["args"]["name"] for e in named if e["name"] == "process_name"] == ["alexnet_cuda"]
    tids = {e["tid"] for e in events[len(named) :]}
    for kind, key in (("thread_name", "name"), ("thread_sort_index", "sort_index")):
        told = {e["tid"]: e["args"][key] for e in named if e["name"] == kind}
        assert told.keys() == tids and len({*told.values()}) == len(tids)
    done = [e for e in events if e["ph"] == "X"]
    for e in done:
        assert e.keys() == {"name", "cat", "ph", "pid", "tid", "ts", "dur", "args"} and e["pid"] == 0
        assert isinstance(e["name"], str) and e["ts"] >= 0 and e["dur"] >= 0
    assert done[0]["ts"] == 0 and all(a["ts"] <= b["ts"] for a, b in pairwise(done))
    for tid in tids:
        around: list[float] = []
        for e in (e for e in done if e["tid"] == tid):
            while around and around[-1] <= e["ts"] + 1e-6:
                around.pop()
            assert not around or e["ts"] + e["dur"] <= around[-1] + 1e-6, e
            around.append(e["ts"] + e["dur"])


def test_the_file_is_in_chromes_trace_format(events: list[Event]) -> None:
    check(events)


def test_steps_hold_passes_that_hold_layers_that_hold_kernels(events: list[Event]) -> None:
    done = [e for e in events if e["ph"] == "X"]

    def inside(outer: Event, kind: str) -> list[Event]:
        end = outer["ts"] + outer["dur"] + 1e-6
        return [e for e in done if e["cat"] == kind and outer["ts"] <= e["ts"] and e["ts"] + e["dur"] <= end]

    steps = [e for e in done if e["cat"] == "step"]
    assert [e["name"] for e in steps] == ["step 1", "step 2", "step 3"]
    layers = [row.layer.name for row in MINI.rows()]
    for step in steps:
        passes = inside(step, "pass")
        assert [e["name"] for e in passes] == ["forward", "backward"] * 2 + ["update"]
        forward, backward = (inside(e, "operation") for e in passes[:2])
        told = [e["args"]["layer"] for e in forward]
        assert [name for name in layers if name in told] == list(dict.fromkeys(told))[:-1] and told[-1] == "loss"
        assert {"conv1", "conv5", "fc8", "lrn1", "flatten"} <= {*told}
        assert all(e["name"] == f"{e['args']['layer']} forward" for e in forward)
        assert {e["args"]["layer"] for e in backward} == {*told}
        assert all(e["name"].endswith(" backward") for e in backward)
        (conv1,) = (e for e in forward if e["args"]["layer"] == "conv1")
        assert [e["name"] for e in inside(conv1, "kernel")] == ["conv2d_forward"]
        assert conv1["args"] == {"kind": "operation", "layer": "conv1", "pass": "forward", "operation": "Conv2d"}
        (conv2,) = (e for e in backward if e["args"]["layer"] == "conv2")
        kernels = inside(conv2, "kernel")
        assert {"conv2d_backward_weight", "conv2d_backward_input"} <= {e["name"] for e in kernels}
        assert all(e["args"]["layer"] == "conv2" and e["args"]["pass"] == "backward" for e in kernels)
        assert [e["name"] for e in inside(passes[-1], "kernel")] == ["multi_sgd"]


def test_what_begins_at_one_moment_is_in_what_began_before(tmp_path: Path) -> None:
    """As GPUs tell the time to half a microsecond."""
    spans = [
        Span("in", "b", at(2.0), at(5.0), {"kind": "kernel"}, 8),
        Span("out", "b", at(2.0), at(5.0), {"kind": "operation"}, 7),
        Span("nothing", "b", at(5.0), at(5.0), {}, 9),
        Span("after", "b", at(5.0), at(6.0), {}, 10),
        Span("copy", "a to b", at(1.0), at(9.0), {}, 3),
    ]
    trace.write(tmp_path / "t", spans)
    written = json.loads((tmp_path / "t").read_text())["traceEvents"]
    check(written)
    done = [(e["name"], e["ts"] / 1e6, e["dur"] / 1e6) for e in written if e["ph"] == "X"]
    assert done == [("copy", 0, 8), ("out", 1, 3), ("in", 1, 3), ("nothing", 4, 0), ("after", 4, 1)]


def test_nothing_recorded_is_a_file_too(tmp_path: Path) -> None:
    trace.write(tmp_path / "t", [])
    assert [e["name"] for e in json.loads((tmp_path / "t").read_text())["traceEvents"]] == ["process_name"]


def test_networks_of_ones_own_have_paths_of_layers() -> None:
    inner = nn.Sequential(conv=nn.Conv2d(3, 4, 3, padding=1), drop=nn.Dropout(0.5))
    net = nn.Sequential(features=inner, flatten=nn.Flatten(), head=nn.Linear(4 * 4 * 4, 2))
    with trace.recording() as spans:
        net(Tensor(np.ones((2, 4, 4, 3), np.float32)))
    told = [s.details["layer"] for s in spans if s.details["kind"] == "operation"]
    assert told == ["features.conv", "features.drop", "flatten", "head"]
    assert trace.layer() == "" and not trace.active()


# ---- the tables


def test_a_profile_tells_layers_kernels_and_their_share_of_a_floor(
    tiny_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", f"folder:{tiny_images}", "--device", "cpu", "--batch", "8", "--epochs", "1", "--profile"]
    assert command_line.run(train.main, [*given, "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    (whole,) = map(float, re.findall(r"a step takes ([\d.]+) ms, the mean of 2", out))
    line = r"^(\w+) +(forward|backward|update|) +([\d.]+) +([\d.]+)%"
    rows = [(layer, which, float(ms)) for layer, which, ms, _ in re.findall(line, out, re.MULTILINE)]
    assert sum(ms for *_, ms in rows) == pytest.approx(whole, abs=0.001 * len(rows))
    for layer in ("conv1", "fc6", "loss"):
        assert {which for name, which, _ in rows if name == layer} == {"forward", "backward"}
    assert re.search(r"^conv1 +forward .* \d+% +(arithmetic|memory) +conv2d_forward$", out, re.MULTILINE)
    assert re.search(r"arithmetic at [\d,]+ GFLOP/s \(fp32 matrix products\) and .* at [\d,.]+ GB/s \(copies\)", out)
    assert re.search(r"^winograd_conv2d_backward_weight +3 +[\d.]+ +[\d.]+%$", out, re.MULTILINE)


def spans_of_steps() -> list[Span]:
    """Two steps; conv1's forward pass takes 9 s in the first and 2 in the second, 1.5 of these in its kernel."""
    made = []
    for begin, seconds in ((0.0, 9.0), (20.0, 2.0)):
        details = {"kind": "operation", "layer": "conv1", "pass": "forward", "operation": "Conv2d"}
        made += [
            Span(f"step {begin}", "cpu", at(begin), at(begin + 10), {"kind": "step"}),
            Span("conv1 forward", "cpu", at(begin), at(begin + seconds), details),
            Span("conv2d_forward", "cpu", at(begin), at(begin + 1.5), {**details, "kind": "kernel"}),
        ]
    return made


def test_the_first_step_is_left_out_and_shares_are_of_the_floor() -> None:
    conv1 = MINI.rows()[0]
    at_rates = Rates("cpu", "fp32", arithmetic=2 * conv1.macs * 8 / 0.5, traffic=1e30)
    table = profiling.table(spans_of_steps(), MINI, 8, at_rates)
    assert "a step takes 10000.000 ms, the mean of 1" in table
    rows = [line.split() for line in table.splitlines()]
    assert ["conv1", "forward", "2000.000", "20.0%", "500.000", "25%", "arithmetic", "conv2d_forward"] in rows
    assert ["conv2d_forward", "1", "1500.000", "15.0%"] in rows
    assert ["other", "8000.000", "80.0%"] in rows
    without = profiling.table(spans_of_steps(), MINI, 8, None)
    assert "GFLOP/s" not in without and ["conv1", "forward", "2000.000", "20.0%", "conv2d_forward"] in [
        line.split() for line in without.splitlines()
    ]
    assert profiling.table([], MINI, 8, None) == "no step was recorded"
    for width in (40, 80):
        table = profiling.table(spans_of_steps(), MINI, 8, at_rates, width)
        assert max(map(len, table.splitlines())) <= width


def test_a_floor_is_of_arithmetic_or_of_arrays_moved_once() -> None:
    rows = {row.layer.name: row for row in MINI.rows()}
    found = profiling.floors(MINI, 2, Rates("cpu", "fp32", arithmetic=1.0, traffic=1e9))
    conv1, conv2 = rows["conv1"], rows["conv2"]
    assert found["conv1", "forward"] == Floor(2 * 2 * conv1.macs, "arithmetic")
    assert found["conv1", "backward"].seconds == 2 * 2 * conv1.macs  # no gradient of the images
    assert found["conv2", "backward"].seconds == 2 * 2 * 2 * conv2.macs
    moved = profiling.floors(MINI, 2, Rates("cpu", "bf16", arithmetic=1e30, traffic=1.0))
    x, y, w = 2 * 2 * 16 * 16 * 32, 2 * 2 * 8 * 8 * 32, 0
    assert moved["pool1", "forward"] == Floor(x + y + w, "memory")
    assert moved["pool1", "backward"].seconds == x + y + x
    weights = 4 * rows["fc6"].parameters
    assert moved["fc6", "forward"].seconds == 2 * 2 * 256 + 2 * 2 * 256 + weights
    assert moved["fc6", "update"].seconds == 5 * weights


def test_rates_are_measured() -> None:
    at_rates = profiling.rates(CPU, "fp32")
    assert at_rates.arithmetic > 1e8 and at_rates.traffic > 1e7
    assert "cpu" in str(at_rates) and "fp32" in str(at_rates)
