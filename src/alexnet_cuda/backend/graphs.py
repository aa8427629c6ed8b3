"""CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from . import libraries, peers, streams
from .discovery import Device


def _memory_of_graphs(size: int) -> Any:
    """Where a graph's pool takes its memory. If CUDA's error told CuPy's pool that there is no more, it would give back
    what is free, which captured work uses again at every launch, and go on: another error ends the capture."""
    cuda = libraries.cupy().cuda
    try:
        return cuda.MemoryPointer(cuda.Memory(size), 0)
    except cuda.runtime.CUDARuntimeError as e:
        if e.status != 2:  # cudaErrorMemoryAllocation
            raise
        raise MemoryError(f"there are no {size:,} bytes for a graph") from e


class CudaGraph:
    """What a function queues on GPUs, captured by calling it once, to be queued again by a single ``launch``.

    It is captured on the streams of ``capture_streams``, without being run. All arrays that it makes lie in memory of
    the graph's own, and every launch leaves its values there; the host's part of the function is not done again, and
    its result stays.
    """

    def __init__(self, places: Sequence[Device], function: Callable[[], object]) -> None:
        """The devices' first is that on which launches are queued. An error of the function, RuntimeError for what
        cannot be captured, MemoryError where a device has too little memory."""
        cuda, self._places = libraries.cupy().cuda, list(dict.fromkeys(replace(where, slot=0) for where in places))
        for where in self._places:
            with streams.on(where):
                libraries.cupy().get_default_memory_pool().free_all_blocks()  # what the function needs, it takes again
        self._pool = cuda.MemoryPool(_memory_of_graphs)
        self._streams = [streams.current_and_own(where)[0] for where in self._places]
        forked = [(where, streams.own_stream(where)) for where in dict.fromkeys(places)]
        forked += list(zip(self._places, self._streams, strict=True))
        origin, first = self._streams[0], self._places[0]
        before, token = peers.traffic.copy(), streams.captured.set([])
        try:
            with streams.on(first), cuda.using_allocator(self._pool.malloc):
                origin.begin_capture()
                try:
                    for where, stream in forked:
                        streams.then(first, origin, where, stream)
                    self._result = function()
                    for where, stream in forked:
                        streams.then(where, stream, first, origin)
                except BaseException:
                    with suppress(RuntimeError):  # CUDA's, for what has been captured so far
                        origin.end_capture()
                    raise
                self._held = streams.captured.get()  # as the graph copies from and to them
                self._graph = origin.end_capture()
                self._graph.upload()
        finally:
            streams.captured.reset(token)
        self._moved = peers.traffic - before
        peers.traffic.subtract(self._moved)
        self._events = [streams.new_event(where) for where in self._places]

    def launch(self) -> Any:
        """Queues all of it, after what is on the streams on which it was captured, and before what follows there.
        Returns what the function did."""
        origin, *others = self._streams
        for stream, event in zip(others, self._events[1:], strict=True):
            stream.record(event)
            origin.wait_event(event)
        self._graph.launch(origin)
        if others:
            origin.record(self._events[0])
        for stream in others:
            stream.wait_event(self._events[0])
        peers.traffic.update(self._moved)
        return self._result
