"""Which work ran when: intervals of steps, passes, layers, kernels and copies, written in Chrome's trace format.

https://ui.perfetto.dev shows such a file: a row a device, a row a direction of copies; in a device's row a step holds
its passes, a pass the layers, a layer its kernels.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .files import replacing

__all__ = ["Moment", "Span", "active", "kernel", "layer", "now", "recording", "span", "within", "write"]

Moment = Callable[[], float]
"""Tells, perhaps only after waiting for a GPU, the time in seconds."""
PROCESS = "alexnet_cuda"


class Span(NamedTuple):
    """An interval of what has that name, in that row of the picture. ``details`` may tell ``kind`` (step, pass,
    operation, kernel), ``layer`` and ``pass``."""

    name: str
    row: str
    begin: Moment
    end: Moment
    details: Mapping[str, str]
    number: int = 0
    """How many began before: what began at the same moment is in what began before it."""


class _Here(threading.local):
    """What this thread is at."""

    layer = ""
    inner: tuple[str, Callable[[], Moment], Mapping[str, str]] | None = None
    """Row, clock and details of the operation whose kernels are being launched."""


_here = _Here()
_numbers = itertools.count()
_recorded: list[Span] | None = None


def now() -> Moment:
    """This moment, on the host."""
    seconds = time.perf_counter()
    return lambda: seconds


def active() -> bool:
    """Whether spans are recorded now."""
    return _recorded is not None


def layer() -> str:
    """The name of the layer that this thread is at; "" outside of all."""
    return _here.layer


@contextmanager
def within(name: str) -> Iterator[None]:
    """In this block this thread is at the layer of that name, in the one that it was at."""
    before = _here.layer
    _here.layer = ".".join(filter(None, (before, name)))
    try:
        yield
    finally:
        _here.layer = before


@contextmanager
def span(name: str, row: str, clock: Callable[[], Moment] = now, **details: str) -> Iterator[None]:
    """While ``recording``, this block's interval by ``clock`` is recorded; the kernels in it are those of an operation
    if ``details`` say so."""
    spans, before = _recorded, _here.inner
    if spans is None:
        yield
        return
    if details.get("kind") in ("operation", "pass"):
        _here.inner = row, clock, details
    number, begin = next(_numbers), clock()
    try:
        yield
    finally:
        _here.inner = before
    spans.append(Span(name, row, begin, clock(), details, number))


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """As ``span``, of a launcher: in the row of the operation that calls it, if one does."""
    if _here.inner is None:
        yield
        return
    row, clock, details = _here.inner
    with span(name, row, clock, **{**details, "kind": "kernel"}):
        yield


@contextmanager
def recording() -> Iterator[list[Span]]:
    """Within this block the process's spans are put into the list."""
    global _recorded
    _recorded = spans = list[Span]()
    try:
        yield spans
    finally:
        _recorded = None


def write(path: Path, spans: list[Span]) -> None:
    """Writes the spans as JSON: complete events, in microseconds from the first, in the order in which they began."""
    import json  # late: it takes long

    timed = sorted(((span.begin(), span.number, span.end(), span) for span in spans), key=lambda timed: timed[:2])
    zero = timed[0][0] if timed else 0.0
    rows = {row: i for i, row in enumerate(sorted({s.row for s in spans}, key=lambda row: (" " in row, row)))}
    told = [("process_name", 0, {"name": PROCESS})]
    for row, i in rows.items():
        told += [("thread_name", i, {"name": row}), ("thread_sort_index", i, {"sort_index": f"{i}"})]
    named = [{"name": name, "ph": "M", "pid": 0, "tid": i, "args": values} for name, i, values in told]
    events = []
    for begin, _, end, done in timed:
        event = {"name": done.name, "cat": done.details.get("kind", "copy"), "ph": "X", "pid": 0, "tid": rows[done.row]}
        events.append(event | {"ts": 1e6 * (begin - zero), "dur": 1e6 * (end - begin), "args": done.details})
    with replacing(path) as aside:
        aside.write_text(json.dumps({"traceEvents": [*named, *events]}), encoding="utf-8")
