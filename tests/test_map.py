"""docs/architecture.md's ways of a batch and of a call, stop by stop, are those that a tracer sees."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import alexnet_cuda
from alexnet_cuda import command_line, kernels, train

pytest_plugins = ["tiny_run"]

ROOT = Path(__file__).parents[1]
PACKAGE = Path(alexnet_cuda.__file__).parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
Stop = tuple[str, str]


def section(heading: str) -> str:
    return PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def stops(heading: str) -> list[Stop]:
    """File and function of each stop."""
    found = re.findall(r"^(\d+)\. `([^`]+)` `([^`]+)`: ", section(heading), re.MULTILINE)
    assert [int(number) for number, *_ in found] == list(range(1, len(found) + 1)) and found
    return [(file, function) for _, file, function in found]


def entered(action: Callable[[], object]) -> list[Stop]:
    """The functions of the package that are entered, in order, in all threads: (file, qualified name); those of a
    native module as ("", name)."""
    seen: list[Stop] = []

    def watch(frame: FrameType, event: str, function: Any) -> None:
        if event == "call":
            file = Path(frame.f_code.co_filename)
            if file.is_relative_to(PACKAGE):
                seen.append((file.relative_to(PACKAGE).as_posix(), frame.f_code.co_qualname))
        elif event == "c_call" and str(function.__module__).startswith("alexnet_cuda._"):
            seen.append(("", function.__name__))

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        action()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return seen


def check(way: list[Stop], seen: list[Stop]) -> None:
    """Each stop is entered after the one before it. One in csrc/ is the entry of the native function; one of the
    folder kernels/ of the checkout, which no tracer sees, comes right behind its binding."""
    place, before = 0, ("", "")
    for file, function in way:
        if file.endswith((".cu", ".cpp")):
            text = (ROOT / file).read_text(encoding="utf-8")
            if file.endswith(".cu"):
                assert before == (before[0], function) and before[0].startswith("csrc/"), (file, function)
                assert re.search(rf"^void {function}\(", text, re.MULTILINE), (file, function)
                continue
            assert re.search(rf"\b{function}\b", text), (file, function)
        stop = ("" if file.endswith(".cpp") else file), function
        assert stop in seen[place:], f"{file} {function} is not entered behind {' '.join(before)}"
        place, before = seen.index(stop, place) + 1, (file, function)


def test_a_batch_goes_where_the_page_says(tiny_images: Path, tmp_path: Path) -> None:
    arguments = ["--data", f"folder:{tiny_images}", "--batch", "8", "--epochs", "1", "--device", "cpu"]
    out = ["--out", str(tmp_path / "run")]
    check(stops("Where a batch goes"), entered(lambda: command_line.run(train.main, [*arguments, *out])))


def test_a_call_goes_where_the_page_says() -> None:
    x = np.ones((1, 2, 2, 8), np.float32)
    check(stops("Where a call of kernels.lrn goes"), entered(lambda: kernels.lrn(x)))


def test_a_stop_that_is_not_entered_is_missed() -> None:
    seen = entered(lambda: kernels.lrn(np.ones((1, 2, 2, 8), np.float32)))
    right = stops("Where a call of kernels.lrn goes")
    for wrong in (right[-3::-1], [*right[:-2], ("csrc/normalisation.cpp", "lrn_backward")]):
        with pytest.raises(AssertionError, match="is not entered behind"):
            check(wrong, seen)


def test_where_to_change_things_is_there() -> None:
    paths = re.findall(r"`([\w.]+/[^` ]+)`", section("Where do I change ...?"))
    assert len(paths) > 15
    for path in paths:
        assert "NAME" in path or (ROOT / path).exists(), path
