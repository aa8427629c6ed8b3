"""Memory for host arrays that come and go."""

from __future__ import annotations

import ctypes
import math
import threading
from collections import deque
from collections.abc import Callable

import numpy as np


class Recycler:
    """Host arrays, aligned so that other libraries take them without a copy, the large ones in recycled memory: the
    system clears every fresh page, which costs as much as a fast operation on it.

    Memory comes back when the last view of its array is gone. What waits for reuse is bounded by ``limit`` bytes.
    ``allocate`` gives the memory, as bytes.
    """

    smallest = 1 << 20
    alignment = 64

    def __init__(self, limit: int, allocate: Callable[[int], np.ndarray] = lambda n: np.empty(n, np.uint8)) -> None:
        self.limit, self.allocate = limit, allocate
        self.free: list[np.ndarray] = []
        self.returned: deque[np.ndarray] = deque()  # appended to whenever the garbage collector runs, so without a lock
        self.lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of that shape and dtype whose values are undefined."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes < self.smallest or not self.lock.acquire(blocking=False):
            memory = np.empty(nbytes + self.alignment, np.uint8)
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory.data))  # faster than __array_interface__
            return np.ndarray(shape, dtype, memory, -address % self.alignment)
        try:
            memory = self._take(nbytes + self.alignment)
        finally:
            self.lock.release()
        address = memory.__array_interface__["data"][0]
        lease = _Lease(self.returned, memory, shape, dtype, address + -address % self.alignment)
        return np.asarray(lease).view(dtype)  # array interfaces know bfloat16 as two bytes of anything

    def _take(self, nbytes: int) -> np.ndarray:
        while self.returned:
            self.free.append(self.returned.popleft())
        fitting = [i for i, memory in enumerate(self.free) if nbytes <= memory.nbytes <= nbytes + nbytes // 8]
        if fitting:
            return self.free.pop(min(fitting, key=lambda i: self.free[i].nbytes))
        while sum(memory.nbytes for memory in self.free) > self.limit:
            del self.free[0]
        return self.allocate(nbytes)

    def release(self) -> None:
        """Gives back to the system what no array uses."""
        with self.lock:
            self.returned.clear()
            self.free.clear()


class _Lease:
    """What an array of the recycler is a view of."""

    def __init__(
        self, owner: deque[np.ndarray], memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, address: int
    ) -> None:
        self.owner, self.memory = owner, memory
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": (address, False)}

    def __del__(self) -> None:
        self.owner.append(self.memory)


RECYCLED = 256 << 20
