"""Which work ran when: intervals of operations and copies, written in Chrome's trace format.

chrome://tracing and https://ui.perfetto.dev show such a file: a row a device, a row a direction of copies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .files import replacing

__all__ = ["Moment", "Span", "active", "now", "recording", "span", "write"]

Moment = Callable[[], float]
"""Tells, perhaps only after waiting for a GPU, the time in seconds."""


class Span(NamedTuple):
    """An interval of what has that name, in that row of the picture."""

    name: str
    row: str
    begin: Moment
    end: Moment


_recorded: list[Span] | None = None


def now() -> Moment:
    """This moment, on the host."""
    seconds = time.perf_counter()
    return lambda: seconds


def active() -> bool:
    """Whether spans are recorded now."""
    return _recorded is not None


@contextmanager
def span(name: str, row: str, clock: Callable[[], Moment] = now) -> Iterator[None]:
    """While ``recording``, this block's interval by ``clock`` is recorded."""
    spans = _recorded
    if spans is None:
        yield
        return
    begin = clock()
    yield
    spans.append(Span(name, row, begin, clock()))


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
    """Writes the spans as JSON: complete events, in microseconds from the first."""
    import json  # LATE in tests/test_architecture.py

    timed = sorted((span.begin(), span.end(), span.row, span.name) for span in spans)
    zero = timed[0][0] if timed else 0.0
    rows = {row: i for i, row in enumerate(sorted({row for _, _, row, _ in timed}, key=lambda row: (" " in row, row)))}
    names = [{"name": "thread_name", "ph": "M", "pid": 0, "tid": i, "args": {"name": row}} for row, i in rows.items()]
    events = [
        {"name": name, "ph": "X", "pid": 0, "tid": rows[row], "ts": 1e6 * (begin - zero), "dur": 1e6 * (end - begin)}
        for begin, end, row, name in timed
    ]
    with replacing(path) as aside:
        aside.write_text(json.dumps({"traceEvents": [*names, *events]}), encoding="utf-8")
