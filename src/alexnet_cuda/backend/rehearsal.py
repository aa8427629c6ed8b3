"""Arrays and launchers that only count: what a step takes, found by doing it on memory that nobody writes.

The system gives a page of memory only to who writes it, so arrays may be as large as on any device.
"""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import BuiltinFunctionType, ModuleType
from typing import Any

import numpy as np

from . import discovery, libraries
from .discovery import Device
from .recycler import RECYCLED, Recycler

UNRESERVED = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's; Python knows the name from 3.13 on


MISSING_GPU = 8, 0  # the compute capability of one that is not there


class Rehearsal:
    """What ``backend`` asks for arrays and launchers instead of giving real ones: arrays are counted as long as they
    live, by device."""

    def __init__(self, device: Device) -> None:
        """For a step on that device, which need not be there. RuntimeError where its module was not built."""
        self.on_cpu = device.kind == "cpu"
        present = self.on_cpu or device in discovery.gpus()
        self.capability = discovery.compute_capability(device) if present else MISSING_GPU
        try:
            self.native: Any = _Silent(libraries.native(device.kind))
        except ImportError as e:
            raise RuntimeError(f"a plan for {device} needs the module for GPUs, which was not built: {e}") from e
        self.held, self._peak = Counter[Device](), Counter[Device]()
        self._lock = threading.RLock()
        self._recyclers = dict[Device, Recycler]()

    def restart(self) -> Counter[Device]:
        """The most bytes since the last call; what waits for reuse is given back."""
        for recycler in self._recyclers.values():
            recycler.release()
        peak, self._peak = self._peak, Counter(self.held)
        return peak

    def place(self, array: np.ndarray) -> Device:
        """The device that the array stands for being on."""
        return array.place if isinstance(array, Unwritten) else Device("cpu")

    def empty(self, shape: tuple[int, ...], dtype: Any, where: Device) -> Unwritten:
        """A new array, on a CPU in recycled memory if a real step has it there."""
        if not self.on_cpu or math.prod(shape) * np.dtype(dtype).itemsize < Recycler.smallest:
            return self.array(shape, dtype, where)
        with self._lock:
            if where not in self._recyclers:
                self._recyclers[where] = Recycler(RECYCLED, partial(self._allocate, where))
            return self._blank(self._recyclers[where].empty(shape, np.dtype(dtype)), where)

    def array(self, shape: tuple[int, ...], dtype: Any, where: Device) -> Unwritten:
        """A new array in memory of its own."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        return self._blank(self._allocate(where, nbytes)[:nbytes].view(dtype).reshape(shape), where)

    def _blank(self, array: np.ndarray, where: Device) -> Unwritten:
        blank = array.view(Unwritten)
        blank.place, blank.owner = where, self
        return blank

    def _allocate(self, where: Device, nbytes: int) -> np.ndarray:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | UNRESERVED
        memory = np.frombuffer(mmap.mmap(-1, max(1, nbytes), flags=flags), np.uint8)
        self._count(where, nbytes)
        weakref.finalize(memory, self._count, where, -nbytes)
        return memory

    def _count(self, where: Device, nbytes: int) -> None:
        with self._lock:
            self.held[where] += nbytes
            self._peak[where] = max(self._peak[where], self.held[where])


class Unwritten(np.ndarray):
    """An array of a rehearsal: functions of its elements give another at once, and what is put into it gets lost."""

    place: Device
    owner: Rehearsal

    def __array_finalize__(self, source: object) -> None:
        if isinstance(source, Unwritten):
            self.place, self.owner = source.place, source.owner

    def __setitem__(self, where: Any, value: Any) -> None:
        pass

    def copy(self, order: Any = "C") -> Any:
        return self.owner.empty(self.shape, self.dtype, self.place)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if out is not None:
            return out[0]
        plain = [np.asarray(x) for x in inputs]
        if method != "__call__":
            return getattr(ufunc, method)(*plain, **options)
        typed = zip(inputs, plain, strict=True)
        ones = (np.ones((1,) * a.ndim, a.dtype) if hasattr(x, "dtype") else x for x, a in typed)  # numbers have no type
        dtype = ufunc(*ones).dtype
        return self.owner.empty(np.broadcast_shapes(*(x.shape for x in plain)), dtype, self.place)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        if function is np.copyto:
            return None
        if function is np.concatenate:  # the one that would write as much as a layer does
            return self._joined(*args, **options)
        return super().__array_function__(function, types, args, options)

    def _joined(self, arrays: Sequence[np.ndarray], axis: int = 0) -> Unwritten:
        shape = list(self.shape)
        shape[axis] = sum(array.shape[axis] for array in arrays)
        return self.owner.empty(tuple(shape), np.result_type(*arrays), self.place)


class _Silent:
    """A native module whose launchers do nothing."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        launches = isinstance(value, BuiltinFunctionType) and "stream" in (value.__doc__ or "")
        return (lambda *args, **options: None) if launches else value


current: Rehearsal | None = None


@contextmanager
def rehearsing(rehearsal: Rehearsal) -> Iterator[Rehearsal]:
    """Within this block, in the whole process, arrays and launchers are those of the rehearsal."""
    global current
    current = rehearsal
    try:
        yield rehearsal
    finally:
        current = None
