"""Copies between logical devices."""

from __future__ import annotations

import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from .. import trace
from . import arrays, libraries, streams
from .discovery import Device
from .libraries import Array

traffic: Counter[tuple[Device, Device]] = Counter()
"""Bytes that ``copy`` has moved, by (from, to), since ``traffic.clear()``."""


_counting = threading.Lock()


def copy(array: Array, source: Device, target: Device) -> tuple[Array, Callable[[], None]]:
    """A new array on ``target`` with the values of one on ``source``, another logical device of the same kind; and what
    to call before work that uses it is queued, so that this waits for the copy. Counted in ``traffic``."""
    with _counting:
        traffic[source, target] += array.nbytes
    with streams.on_own_stream(target):  # the stream of what uses y, so that its memory is taken again only after that
        y = arrays.empty(array.shape, array.dtype, target)
    if target.kind == "cpu":
        with trace.span("copy", f"{source.row} to {target.row}"):
            np.copyto(y, array)
        return y, lambda: None
    return y, _peers(source, target).copy(y, array)


def direct(source: Device, target: Device) -> bool:
    """Whether copies go from memory to memory, not through the host in between."""
    return source.kind == "cpu" or _peers(source, target).direct


@cache
def _peers(source: Device, target: Device) -> _Peers:
    return _Peers(source, target)


class _Peers:
    """Copies from one GPU to another on a stream of their own, so that they overlap with what both compute: from peer
    to peer, or through pinned host memory where that is not allowed or a first copy comes back wrong."""

    def __init__(self, source: Device, target: Device) -> None:
        self.source, self.target = source, target
        self.held: deque[tuple[Any, Array, Array | None]] = deque()  # arrays in use until the event has passed
        with streams.on(target):
            self.stream = libraries.cupy().cuda.Stream(non_blocking=True)
            self.direct = self._reachable()
        if self.direct and not self._right():
            self.direct = False
        if not self.direct:
            pair = " and ".join(sorted(map(str, (source, target))))
            warnings.warn(f"copies between {pair} go through the host: there is no working peer access", stacklevel=2)

    def _reachable(self) -> bool:
        if self.source.index == self.target.index:
            return True
        runtime = libraries.cupy().cuda.runtime
        if not runtime.deviceCanAccessPeer(self.target.index, self.source.index):
            return False
        try:
            runtime.deviceEnablePeerAccess(self.source.index)
        except runtime.CUDARuntimeError as e:
            return e.status == 704  # cudaErrorPeerAccessAlreadyEnabled
        return True

    def _right(self) -> bool:
        pattern = np.arange(1 << 20, dtype=np.uint32)
        y = arrays.empty(pattern.shape, pattern.dtype, self.target)
        self.copy(y, arrays.from_host(pattern, self.source))()
        streams.synchronize(self.target)
        return np.array_equal(arrays.to_host(y), pattern)

    def copy(self, y: Array, x: Array) -> Callable[[], None]:
        """Puts x's values into y, after what made x and what used y's memory before. The function returned makes what
        follows on the target's streams wait for it."""
        runtime, copy_stream, size = libraries.cupy().cuda.runtime, self.stream, x.nbytes
        with streams.on(self.source):
            x = libraries.cupy().ascontiguousarray(x)
            for stream in streams.current_and_own(self.source):
                copy_stream.wait_event(stream.record())
        host = None if self.direct else arrays.host_allocator(self.target)((size,), np.uint8)
        row, ends = f"{self.source.row} to {self.target.row}", (self.target.index, self.source.index)
        with streams.on(self.target):
            users = streams.current_and_own(self.target)
            for stream in users:
                copy_stream.wait_event(stream.record())
            with trace.span("copy", row, partial(streams.moment_of, self.target, copy_stream)):
                if self.source.index == self.target.index:
                    runtime.memcpyAsync(y.data.ptr, x.data.ptr, size, runtime.memcpyDeviceToDevice, copy_stream.ptr)
                elif host is None:
                    runtime.memcpyPeerAsync(y.data.ptr, ends[0], x.data.ptr, ends[1], size, copy_stream.ptr)
                else:
                    runtime.memcpyAsync(host.ctypes.data, x.data.ptr, size, runtime.memcpyDeviceToHost, copy_stream.ptr)
                    runtime.memcpyAsync(y.data.ptr, host.ctypes.data, size, runtime.memcpyHostToDevice, copy_stream.ptr)
            done = copy_stream.record()
        if (captured := streams.captured.get()) is not None:
            captured.append((x, host))
        else:
            self.held.append((done, x, host))
            while self.held and self.held[0][0].done:
                self.held.popleft()

        def arrive() -> None:
            for stream in users:
                stream.wait_event(done)

        return arrive
