"""examples/ladder: every rung against float64, its stated traffic against what is counted, and the document."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given, settings, strategies as st

ROOT = Path(__file__).parents[1]
RUNGS = ("naive", "coalesced", "columns", "tiles", "registers", "implicit", "pipeline", "tensor_cores")


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ladder", ROOT / "examples" / "ladder" / "run.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["ladder"] = module  # where its dataclasses look for themselves
    spec.loader.exec_module(module)
    return module


ladder = load()


@pytest.fixture(scope="module")
def library() -> Any:
    return ladder.cpu_library()


@st.composite
def layers(draw: st.DrawFn, rung: str) -> Any:
    """Shapes that the rung takes: below, at and above its tiles."""
    fours = RUNGS.index(rung) >= RUNGS.index("registers")
    C = draw(st.sampled_from([4, 8, 20] if fours else [1, 3, 4, 33]))
    K = draw(st.sampled_from([2, 64, 66, 130] if rung == "tensor_cores" else [1, 5, 16, 17, 65]))
    KH, KW = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    stride, pad = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    H, W = draw(st.integers(max(1, KH - 2 * pad), 9)), draw(st.integers(max(1, KW - 2 * pad), 7))
    return ladder.Layer(draw(st.integers(1, 3)), H, W, C, K, KH, KW, stride, pad)


def check(library: Any, rung: str, s: Any) -> None:
    x, w = reference.random(s.N, s.H, s.W, s.C), reference.random(s.K, s.KH, s.KW, s.C, seed=1)
    precision = "tf32" if rung == "tensor_cores" else "fp32"
    arrays = [reference.rounded(x, precision), reference.rounded(w, precision)]
    windows = (np.zeros(s.K), (s.stride, s.stride), ((s.pad, s.pad), (s.pad, s.pad)))
    expected = reference.conv2d(*arrays, *windows)
    magnitude = reference.conv2d(*map(abs, arrays), *windows)
    error = reference.tensor_core_error if rung == "tensor_cores" else reference.rounding_error
    reference.assert_close(library.conv(rung, x, w, s), expected, error(magnitude, s.window + 1))


@pytest.mark.parametrize("rung", RUNGS)
def test_any_shape(library: Any, rung: str) -> None:
    @settings(max_examples=12)
    @given(layers(rung))
    def property_of(s: Any) -> None:
        check(library, rung, s)

    property_of()


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize(
    "size",
    [
        pytest.param((2, 9, 8, 8, 130, 3, 3, 1, 1), id="more than one tile of pixels and of filters"),
        pytest.param((1, 19, 23, 4, 6, 11, 11, 4, 2), id="conv1's windows"),
    ],
)
def test_layers(library: Any, rung: str, size: tuple[int, ...]) -> None:
    check(library, rung, ladder.Layer(*size))


@pytest.mark.parametrize("rung", ladder.RUNGS, ids=RUNGS)
@pytest.mark.parametrize(
    "size", [(1, 5, 4, 32, 96, 3, 3, 1, 1), (3, 7, 9, 32, 32, 2, 3, 2, 0), (2, 9, 8, 32, 160, 1, 1, 1, 0)]
)
def test_the_stated_traffic_is_what_the_executor_counts(library: Any, rung: Any, size: tuple[int, ...]) -> None:
    s = ladder.Layer(*size)
    library.conv(rung.name, *ladder.operands(s), s)
    assert library.moved() == rung.moved(s)


def requests(s: Any, rung: str) -> list[list[tuple[str, int]]]:
    """What the warps of a rung ask for together: of which array, which element. By a loop over everything."""
    OH, OW = s.output
    filters = s.KH * s.KW * s.C
    made = []
    for n, oh, ow in itertools.product(range(s.N), range(OH), range(OW)):
        window = {}  # r -> element of x
        for i, j, c in itertools.product(range(s.KH), range(s.KW), range(s.C)):
            h, w = oh * s.stride - s.pad + i, ow * s.stride - s.pad + j
            if 0 <= h < s.H and 0 <= w < s.W:
                window[(i * s.KW + j) * s.C + c] = ((n * s.H + h) * s.W + w) * s.C + c
        pixel = (n * OH + oh) * OW + ow
        if rung == "naive":  # lanes are filters
            for k in range(0, s.K, 32):
                for r, element in window.items():
                    made += [[("x", element)] * 32, [("w", (k + lane) * filters + r) for lane in range(32)]]
                made.append([("y", pixel * s.K + k + lane) for lane in range(32)])
        else:  # lanes are places of the window
            for k in range(s.K):
                for r in range(0, filters, 32):
                    lanes = [r + lane for lane in range(32) if r + lane in window]
                    made += [[("x", window[q]) for q in lanes], [("w", k * filters + q) for q in lanes]]
                made.append([("y", pixel * s.K + k)])
    return made


@pytest.mark.parametrize("rung", ladder.RUNGS[:2], ids=RUNGS[:2])
def test_the_stated_traffic_by_hand(rung: Any) -> None:
    s = ladder.Layer(2, 3, 4, 32, 64, 3, 2, 2, 1)
    sectors = sum(len({(array, element // 8) for array, element in lanes}) for lanes in requests(s, rung.name))
    assert rung.moved(s) == 32 * sectors


def test_windows_inside_the_image_are_counted() -> None:
    s = ladder.Layer(2, 5, 7, 3, 1, 4, 3, 2, 2)
    ones = np.pad(np.ones((2, 5, 7, 3)), ((0, 0), (2, 2), (2, 2), (0, 0)))
    OH, OW = s.output
    assert s.columns == sum(
        ones[:, 2 * h : 2 * h + 4, 2 * w : 2 * w + 3].sum() for h, w in itertools.product(range(OH), range(OW))
    )


def test_what_a_rung_does_not_take(library: Any) -> None:
    for name, s, text in (
        ("registers", ladder.Layer(1, 3, 3, 6, 4, 1, 1), "C: expected a multiple of 4, got 6"),
        ("tensor_cores", ladder.Layer(1, 3, 3, 4, 5, 1, 1), "K: expected a multiple of 2, got 5"),
        ("stairs", ladder.Layer(1, 3, 3, 4, 4, 1, 1), "no rung is called stairs"),
    ):
        with pytest.raises(RuntimeError, match=f"^{text}$"):
            library.conv(name, *ladder.operands(s), s)


def test_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert ladder.main([]) == 0
    first, second = capsys.readouterr().out.split("Conv3 of AlexNet")
    lines = [line.split("|")[1:-1] for line in first.splitlines() if line.startswith("|")]
    assert [line[0].strip() for line in lines[2:]] == list(RUNGS)
    for *_, error, counted, formula, _ in lines[2:]:
        assert float(error) < 1e-3
        assert counted.strip() == formula.strip()
    assert ladder.derived() in second


def test_one_rung(capsys: pytest.CaptureFixture[str]) -> None:
    assert ladder.main(["tiles"]) == 0
    assert capsys.readouterr().out.split("Conv3 of AlexNet")[0].count("\n| tiles ") == 1
    with pytest.raises(SystemExit):
        ladder.main(["stairs"])
    assert "RUNG: expected one of naive, " in capsys.readouterr().err


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CXX", "/no/such/c++")
    assert ladder.main([]) == 1
    assert capsys.readouterr().err == (
        "error: expected a C++20 compiler, got no /no/such/c++: apt install g++, or set CXX\n"
    )


def test_with_a_failing_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CXX", "false")
    assert ladder.main([]) == 1
    assert capsys.readouterr().err.startswith("error: false -std=c++20 ")


def test_the_document_has_todays_table() -> None:
    text = ladder.DOCUMENT.read_text()
    assert ladder.document(text) == text, "run `python examples/ladder/run.py --write`"
