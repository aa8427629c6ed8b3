"""Values from the host to fixed places on devices, while these compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from . import arrays, libraries, streams
from .discovery import Device
from .libraries import Array


class StaticInput:
    """An array at a fixed place on a device, zero at first, whose values come from the host again and again. ``set``
    does not wait for the device, unless that is ``DEEP`` values behind."""

    DEEP = 4

    def __init__(self, shape: tuple[int, ...], dtype: Any, where: Device) -> None:
        self.where, self.array = where, arrays.zeros(shape, dtype, where)
        allocate = arrays.host_allocator(where)
        self._pinned = [allocate(shape, dtype) for _ in range(0 if where.kind == "cpu" else self.DEEP)]
        self._copied: list[Any] = []  # an event for each of these
        self._count = 0

    def set(self, values: Any) -> None:
        """The array has these values for what is queued afterwards on the current stream."""
        if self.where.kind == "cpu":
            self.array[...] = values
            return
        place, self._count = self._count % self.DEEP, self._count + 1
        runtime, stream = libraries.cupy().cuda.runtime, streams.current_and_own(self.where)[0]
        with streams.on(self.where):
            if len(self._copied) <= place:
                self._copied.append(streams.new_event(self.where))
            else:
                self._copied[place].synchronize()
            host = self._pinned[place]
            host[...] = values
            address = self.array.data.ptr
            runtime.memcpyAsync(address, host.ctypes.data, host.nbytes, runtime.memcpyHostToDevice, stream.ptr)
            stream.record(self._copied[place])


class Prefetcher:
    """Brings batches of host arrays to fixed places on GPUs, on streams of their own, while earlier ones are in use."""

    BUFFERS = 2

    def __init__(self, places: Sequence[Device]) -> None:
        gpus = dict.fromkeys(replace(where, slot=0) for where in places)
        self._staging = {where: [_StagingBuffer(where) for _ in range(self.BUFFERS)] for where in gpus}
        self._fixed = {where: _Places(where) for where in gpus}

    def through(self, batches: Iterable[Sequence[np.ndarray | None]]) -> Iterator[dict[Device, list[Any]]]:
        """Each batch's arrays on each GPU, there until the next is asked for, by when a copy of that has begun.

        An array's memory should be pinned (``host_allocator``), and must stay as it is until two more batches have been
        taken from ``batches``. Arrays of equal place in the batch differ in their number of rows alone."""
        number = 0
        for number, batch in enumerate(batches, 1):
            for buffers in self._staging.values():
                buffers[number % self.BUFFERS].send(batch)
            if number > 1:
                yield self._receive(number - 1)
        if number:
            yield self._receive(number)

    def _receive(self, number: int) -> dict[Device, list[Any]]:
        return {
            where: buffers[number % self.BUFFERS].receive(self._fixed[where])
            for where, buffers in self._staging.items()
        }


class _Places:
    """Arrays of a device by their place in a batch, made when first asked for, or for more rows than before."""

    def __init__(self, where: Device) -> None:
        self.where = where
        self.arrays: dict[int, Array] = {}

    def rows(self, place: int, like: Any) -> Array:
        """As many rows as ``like`` has, of its dtype."""
        if place not in self.arrays or len(self.arrays[place]) < len(like):
            self.arrays[place] = arrays.empty(like.shape, like.dtype, self.where)
        return self.arrays[place][: len(like)]


class _StagingBuffer:
    """The way of every other batch to a device: from the host into arrays of its own, and from there to their place."""

    staged = 1 << 20  # bytes of smaller arrays are copied through pinned memory here

    def __init__(self, where: Device) -> None:
        self.where, self.copy_stream = where, _copy_stream(where)
        self.copied, self.taken = streams.new_event(where), streams.new_event(where)
        self.places = _Places(where)
        self.pinned: dict[int, np.ndarray] = {}
        self.batch: list[Array | None] = []

    def send(self, batch: Sequence[np.ndarray | None]) -> None:
        runtime, copy_stream = libraries.cupy().cuda.runtime, self.copy_stream
        with streams.on(self.where):
            self.copied.synchronize()  # so that memory on the host may be written to again
            copy_stream.wait_event(self.taken)
            with copy_stream:
                self.batch = [None if a is None else self.places.rows(i, a) for i, a in enumerate(batch)]
            for i, (a, y) in enumerate(zip(batch, self.batch, strict=True)):
                if a is not None and y is not None:
                    host = self._staged(i, a) if a.nbytes < self.staged else np.ascontiguousarray(a)
                    runtime.memcpyAsync(
                        y.data.ptr, host.ctypes.data, a.nbytes, runtime.memcpyHostToDevice, copy_stream.ptr
                    )
            copy_stream.record(self.copied)

    def _staged(self, place: int, a: np.ndarray) -> np.ndarray:
        if place not in self.pinned or len(self.pinned[place]) < len(a):
            self.pinned[place] = arrays.host_allocator(self.where)(a.shape, a.dtype)
        part = self.pinned[place][: len(a)]
        part[...] = a
        return part

    def receive(self, fixed: _Places) -> list[Array | None]:
        runtime, stream = libraries.cupy().cuda.runtime, streams.current_and_own(self.where)[0]
        with streams.on(self.where):
            stream.wait_event(self.copied)
            batch = [None if x is None else fixed.rows(i, x) for i, x in enumerate(self.batch)]
            for x, y in zip(self.batch, batch, strict=True):
                if x is not None and y is not None:
                    runtime.memcpyAsync(y.data.ptr, x.data.ptr, x.nbytes, runtime.memcpyDeviceToDevice, stream.ptr)
            stream.record(self.taken)
        return batch


@cache
def _copy_stream(where: Device) -> Any:
    with streams.on(where):
        return libraries.cupy().cuda.Stream(non_blocking=True)
