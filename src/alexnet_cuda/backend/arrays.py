"""Arrays on devices: where they lie, how they are made, and the module whose launchers take them."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from types import ModuleType
from typing import Any, cast

import numpy as np

from .. import trace
from . import discovery, libraries, rehearsal, streams
from .discovery import Device
from .libraries import Array
from .recycler import RECYCLED, Recycler

HOST = Device("cpu")


def is_array(value: object) -> bool:
    """Whether it is a NumPy or a CuPy array."""
    return isinstance(value, np.ndarray) or is_cupy(value)


def device_of(array: Array) -> Device:
    """Where an array lies. TypeError for what is not an array."""
    if isinstance(array, np.ndarray):
        return HOST if rehearsal.current is None else rehearsal.current.place(array)
    if is_cupy(array):
        return _gpu(array.device.id)
    raise TypeError(f"expected a NumPy or CuPy array, got {type(array).__module__}.{type(array).__name__}")


@cache
def _gpu(index: int) -> Device:
    return Device("cuda", index)


def native(where: Device | Array) -> ModuleType:
    """The module with the launchers for that device (or that array's)."""
    if rehearsal.current is not None:
        return rehearsal.current.native
    module = libraries.native((where if isinstance(where, Device) else device_of(where)).kind)
    return cast(ModuleType, _Traced(module)) if trace.active() else module


class _Traced:
    """A module whose launchers are in the trace."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.module, name)
        if isinstance(found, type) or not callable(found) or name.endswith(NO_LAUNCHERS):
            return found

        def launch(*args: Any, **options: Any) -> Any:
            with trace.kernel(name):
                return found(*args, **options)

        return launch


NO_LAUNCHERS = "_workspace", "_takes"
"""How functions of a native module end that only tell something."""


def capability(where: Device) -> tuple[int, int] | None:
    """The compute capability of a GPU, such as (9, 0) for Hopper's; None for a CPU."""
    if rehearsal.current is not None:
        return rehearsal.current.capability
    return None if where.kind == "cpu" else discovery.compute_capability(where)


def array_module(where: Device | Array) -> ModuleType:
    """numpy or cupy."""
    kind = (where if isinstance(where, Device) else device_of(where)).kind
    return libraries.cupy() if kind == "cuda" else np


def is_cupy(value: object) -> bool:
    kind: Any = type(value)
    return _are_cupy(kind)


@cache
def _are_cupy(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "cupy" and hasattr(kind, "__cuda_array_interface__")


_poison = False


_recycler = Recycler(RECYCLED)


def empty(shape: tuple[int, ...], dtype: Any, where: Device) -> Array:
    """A new array whose values are undefined. MemoryError, with the bytes that it takes, where there are too few."""
    if rehearsal.current is not None:
        return rehearsal.current.empty(shape, dtype, where)
    try:
        if where.kind == "cuda":
            with libraries.cupy().cuda.Device(where.index):
                array = libraries.cupy().empty(shape, dtype)
            if _poison:
                array.data.memset_async(0xFF, array.nbytes)
        else:
            array = _recycler.empty(shape, np.dtype(dtype))
            if _poison:
                ctypes.memset(array.ctypes.data, 0xFF, array.nbytes)
    except MemoryError as e:
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        raise MemoryError(f"{where} has no {nbytes:,} bytes for an array of shape {shape}") from e
    return array


def zeros(shape: tuple[int, ...], dtype: Any, where: Device) -> Array:
    """A new array of zeros."""
    if rehearsal.current is not None:
        return rehearsal.current.array(shape, dtype, where)
    if where.kind == "cpu":
        return np.zeros(shape, dtype)
    with libraries.cupy().cuda.Device(where.index):
        return libraries.cupy().zeros(shape, dtype)


def workspace(nbytes: int, where: Device) -> Array:
    """Scratch memory for one launch."""
    return empty((max(nbytes, 1),), np.uint8, where)


def from_host(array: np.ndarray, where: Device) -> Array:
    """A new, C-contiguous array on the device with these values."""
    if rehearsal.current is not None:
        return rehearsal.current.array(array.shape, array.dtype, where)
    if where.kind == "cpu":
        return np.array(array, order="C")
    streams.outside_of_graphs("a copy from the host")
    with libraries.cupy().cuda.Device(where.index):
        return libraries.cupy().array(array, order="C")


@lru_cache(maxsize=256)
def _constant(values: bytes, dtype: str, shape: tuple[int, ...], where: Device) -> Array:
    return from_host(np.frombuffer(values, dtype).reshape(shape), where)


def constant(array: np.ndarray, where: Device) -> Array:
    """An array on the device with these values, the same one for equal values: not to be written to."""
    if rehearsal.current is not None:  # whose arrays must not stay
        return from_host(array, where)
    return _constant(array.tobytes(), array.dtype.str, array.shape, where)


def host_allocator(where: Device) -> Callable[[tuple[int, ...], Any], np.ndarray]:
    """``allocate(shape, dtype)`` for arrays in host memory that are to be copied to the device: pinned for a GPU."""
    if where.kind == "cpu":
        return np.empty
    return libraries.pinned


def to_host(array: Array) -> np.ndarray:
    """The values as a NumPy array: the array itself if it is one, else a copy, which waits for the device."""
    if isinstance(array, np.ndarray):
        return array
    streams.outside_of_graphs("a copy to the host")
    return array.get()


def to_device(array: Array, where: Device) -> Array:
    """The array itself if it lies in the device's memory, else a copy there."""
    if same_memory(device_of(array), where):
        return array
    if where.kind == "cpu":
        return to_host(array)
    with libraries.cupy().cuda.Device(where.index):
        return libraries.cupy().array(array, order="C")


def same_memory(one: Device, other: Device) -> bool:
    """Whether arrays of two logical devices lie in the same memory."""
    return one.kind == other.kind and (one.kind == "cpu" or one.index == other.index)


def address(array: Array) -> int:
    """Where an array's memory begins."""
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def poison(enabled: bool) -> None:
    """From now on ``empty`` fills with 0xff bytes, NaN as floats, so that what is never written shows."""
    global _poison
    _poison = enabled


@contextmanager
def poisoned() -> Iterator[None]:
    """Within this block ``empty`` fills so, whether or not it does otherwise."""
    before = _poison
    poison(True)
    try:
        yield
    finally:
        poison(before)


def release_memory() -> None:
    """Gives memory that is kept for later arrays back to the system."""
    _recycler.release()
    for where in discovery.gpus():
        with streams.on(where):
            libraries.cupy().get_default_memory_pool().free_all_blocks()
