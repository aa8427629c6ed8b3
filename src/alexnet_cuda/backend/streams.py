"""Streams of GPUs: which work waits for which, what runs at the same time, and what a graph captures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar, copy_context
from dataclasses import replace
from functools import cache, partial
from typing import Any, TypeVar

from .. import trace
from . import libraries
from .discovery import Device

T = TypeVar("T")
captured: ContextVar[list[Any] | None] = ContextVar("captured", default=None)
"""Of the graph that this thread captures: arrays on their way between streams, which live as long as the graph."""


def capturing() -> bool:
    """Whether this thread captures a ``CudaGraph``."""
    return captured.get() is not None


def outside_of_graphs(what: str) -> None:
    if capturing():
        raise RuntimeError(f"{what} cannot be part of a graph")


def on(where: Device) -> AbstractContextManager[Any]:
    """Within this block (of this thread) the array library works on that device's arrays."""
    return nullcontext() if where.kind == "cpu" else libraries.cupy().cuda.Device(where.index)


def use(where: Device) -> None:
    """From now on, in this thread, the array library works on that device's arrays."""
    if where.kind == "cuda":
        libraries.cupy().cuda.Device(where.index).use()


def stream(where: Device) -> int:
    """The address of the stream to launch on: CuPy's current one; 0 on the CPU."""
    return int(libraries.cupy().cuda.get_current_stream(where.index).ptr) if where.kind == "cuda" else 0


def synchronize(where: Device) -> None:
    """Waits until the device has done all it was given."""
    if where.kind == "cuda":
        outside_of_graphs("waiting for the device")
        libraries.cupy().cuda.Device(where.index).synchronize()


def current_and_own(where: Device) -> tuple[Any, Any]:
    """This thread's current stream on the device, and the device's own; None on the CPU."""
    if where.kind == "cpu":
        return None, None
    return libraries.cupy().cuda.get_current_stream(where.index), own_stream(where)


@cache
def own_stream(where: Device) -> Any:
    with on(where):
        return libraries.cupy().cuda.Stream(non_blocking=True)


@cache
def _capture_stream(where: Device) -> Any:
    with on(where):
        return libraries.cupy().cuda.Stream(non_blocking=True)


def new_event(where: Device) -> Any:
    with on(where):
        return libraries.cupy().cuda.Event(disable_timing=True)


def then(before: Device, stream: Any, after: Device, other: Any) -> None:
    """What comes on the ``other`` stream waits for what is on ``stream`` now; with the streams' devices."""
    if stream.ptr != other.ptr:
        event = new_event(before)
        stream.record(event)
        with on(after):
            other.wait_event(event)


@contextmanager
def capture_streams(places: Sequence[Device]) -> Iterator[None]:
    """Within this block (of this thread) work for these devices goes to a stream of ours for each GPU, which can be
    captured; it comes after all that was queued before, and before what is queued afterwards."""
    gpus = dict.fromkeys(replace(where, slot=0) for where in places if where.kind == "cuda")

    def resume(where: Device, inner: Any, outer: Any) -> None:
        with suppress(RuntimeError):  # of a device that has failed, which something else tells
            then(where, inner, where, outer)

    with ExitStack() as stack:
        for where in reversed(gpus):  # the first stays the one whose arrays are made
            outer, inner = current_and_own(where)[0], _capture_stream(where)
            then(where, outer, where, inner)
            stack.callback(resume, where, inner, outer)
            stack.enter_context(on(where))
            stack.enter_context(inner)
        yield


@contextmanager
def _fork_and_join(places: Sequence[Device]) -> Iterator[None]:
    """The devices' own streams go on from the current ones, which afterwards wait for them."""
    pairs = [(where, *current_and_own(where)) for where in places if where.kind == "cuda"]
    for where, current, own in pairs:
        then(where, current, where, own)
    yield
    for where, current, own in pairs:
        then(where, own, where, current)


@contextmanager
def on_own_stream(where: Device) -> Iterator[None]:
    """Within this block (of this thread) work for the device goes to its own stream."""
    with on(where), nullcontext() if where.kind == "cpu" else own_stream(where):
        yield


def run_concurrently(tasks: Sequence[tuple[Device, Callable[[], T]]]) -> list[T]:
    """The results of tasks, each with the device that it computes on. Tasks of different devices run at the same time,
    each in a thread, on a GPU also a stream, of its device; ``no_grad`` and the like hold there as they do here. While
    a graph is captured one thread queues them one after the other, each on its stream."""
    places = list(dict.fromkeys(where for where, _ in tasks))
    if len(places) == 1:
        return [task() for _, task in tasks]

    def run(where: Device, task: Callable[[], T]) -> T:
        with on_own_stream(where):
            return task()

    with _fork_and_join(places):
        if capturing():
            return [run(where, task) for where, task in tasks]
        from concurrent.futures import ThreadPoolExecutor  # LATE in tests/test_architecture.py

        with ThreadPoolExecutor(len(tasks)) as threads:
            results = [threads.submit(partial(copy_context().run, run, where, task)) for where, task in tasks]
        return [result.result() for result in results]


def interleave(tasks: Sequence[tuple[Device, Iterator[None]]]) -> None:
    """Like ``run_concurrently`` for one thread and tasks that wait for one another: each yields where another may go
    on."""
    with _fork_and_join([where for where, _ in tasks]):
        left = list(tasks)
        while left:
            for where, task in list(left):
                with on_own_stream(where):
                    if next(task, left) is left:
                        left.remove((where, task))


def clock(where: Device) -> Callable[[], trace.Moment]:
    """Tells the moment when the device has done what this thread gave it so far."""
    return trace.now if where.kind == "cpu" else lambda: moment_of(where, current_and_own(where)[0])


def moment_of(where: Device, stream: Any) -> trace.Moment:
    with on(where):
        seconds, zero = _zero(where.index)
        event = stream.record()

    def tell() -> float:
        event.synchronize()
        return seconds + libraries.cupy().cuda.get_elapsed_time(zero, event) / 1e3

    return tell


@cache
def _zero(index: int) -> tuple[float, Any]:
    """A moment on the host, and an event of that GPU at that moment."""
    synchronize(Device("cuda", index))
    event = libraries.cupy().cuda.Stream(non_blocking=True).record()
    event.synchronize()
    return time.perf_counter(), event
