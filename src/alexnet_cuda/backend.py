"""Devices: which there are, whose arrays and native module they use, and how data gets there and back.

The CPU is NumPy and the module ``_cpu``, a GPU is CuPy and ``_gpu``; both modules have the same functions. In a wheel
``_cpu`` runs on any processor, and ``_cpu_v3``, the same for x86-64-v3, is taken where it runs. This is the only file
that imports ``cupy``, ``_cpu``, ``_cpu_v3`` or ``_gpu``.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import math
import os
import platform
import re
import sys
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from ml_dtypes import bfloat16

from . import trace
from .processor import cpu_arch
from .suggest import nearest

if TYPE_CHECKING:
    from .memory import Rehearsal


def _load_cpu() -> ModuleType:
    """The module for the CPU, in the form for this processor or in the one that ALEXNET_CPU_ARCH names."""
    asked = os.environ.get("ALEXNET_CPU_ARCH")
    both = importlib.util.find_spec("alexnet_cuda._cpu_v3") is not None
    name = "_cpu_v3" if both and (asked or cpu_arch()) == "x86-64-v3" else "_cpu"
    try:
        module = importlib.import_module(f"alexnet_cuda.{name}")
    except ModuleNotFoundError as e:
        raise ImportError("alexnet_cuda is not built for this Python: run `pip install .` in the checkout") from e
    built = module.build_info()["cpu_arch"]
    if asked and asked != built:
        has = "x86-64 and x86-64-v3" if both else built or platform.machine()
        raise ImportError(f"ALEXNET_CPU_ARCH={asked}: this alexnet_cuda was built for {has}")
    return module


_cpu = _load_cpu()

Array = Any
"""A numpy.ndarray or a cupy.ndarray."""
T = TypeVar("T")


# ---------------------------------------------------------------------------------------------- devices


@dataclass(frozen=True)
class Device:
    """A place for arrays: "cpu", "cpu:1", "cuda:0".

    ``kind`` is "cpu" or "cuda", ``index`` the physical GPU. Devices that differ in ``slot`` alone (and CPUs that differ
    in ``index``) share their memory and yet are two to a network that is split over devices.
    """

    kind: str
    index: int = 0
    slot: int = 0

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" and self.index == 0 else f"{self.kind}:{self.index}"

    @property
    def row(self) -> str:
        """The device's name in a trace, where slots differ."""
        return f"{self}/{self.slot}" if self.slot else str(self)


_HOST = Device("cpu")


@cache
def _gpu(index: int) -> Device:
    return Device("cuda", index)


def device(name: str | Device, present: bool = True) -> Device:
    """The device of that name: "cpu", "cpu:1", "cuda" (the first GPU), "cuda:1"; a GPU that need not be ``present``.

    ValueError for an unknown name, with the nearest known; RuntimeError where no GPU can be used, with the reason.
    """
    if isinstance(name, Device):
        return name
    match = re.fullmatch(r"(cpu|cuda)(?::(\d{1,4}))?", str(name))
    if not match:
        hint = nearest(str(name).lower().replace("gpu", "cuda"), ["cpu", "cuda", "cuda:0"])
        raise ValueError(f"unknown device {name!r}: expected cpu, cuda or cuda:N{hint}")
    found = Device(match[1], int(match[2] or 0))
    if found.kind == "cuda" and present:
        if problem := gpu_problem():
            raise RuntimeError(f"device {name}: {problem}")
        if found not in gpus():
            raise ValueError(f"unknown device {name!r}: expected {' or '.join(map(str, gpus()))}")
    return found


def devices(names: str | Device | None, present: bool = True) -> tuple[Device, ...]:
    """The logical devices of a list such as "cpu:0,cpu:1" (default: ``default_device``). One that is named again, as in
    "cuda:0,cuda:0", is another in the next slot. ``present`` and errors as of ``device``."""
    if names is None or isinstance(names, Device):
        return (names or default_device(),)
    found = [device(name, present) for name in str(names).split(",")]
    return tuple(replace(d, slot=found[:i].count(d)) for i, d in enumerate(found))


def gpus() -> list[Device]:
    """The GPUs that can be used."""
    return [] if gpu_problem() else [Device("cuda", i) for i in range(_cupy().cuda.runtime.getDeviceCount())]


def default_device() -> Device:
    """The first GPU where there is a usable one, else the CPU."""
    return Device("cpu" if gpu_problem() else "cuda")


def is_array(value: object) -> bool:
    """Whether it is a NumPy or a CuPy array."""
    return isinstance(value, np.ndarray) or _is_cupy(value)


def device_of(array: Array) -> Device:
    """Where an array lies. TypeError for what is not an array."""
    if isinstance(array, np.ndarray):
        return _HOST if _rehearsal is None else _rehearsal.place(array)
    if _is_cupy(array):
        return _gpu(array.device.id)
    raise TypeError(f"expected a NumPy or CuPy array, got {type(array).__module__}.{type(array).__name__}")


def is_foreign(value: object) -> bool:
    """Whether it is an array of another library, which ``borrow`` takes."""
    foreign = hasattr(value, "__dlpack_device__") or hasattr(value, "__cuda_array_interface__")
    return foreign and not isinstance(value, (np.ndarray, np.generic)) and not _is_cupy(value)


def borrow(value: Any) -> Array:
    """The memory of another library's array as a NumPy or CuPy array, without a copy: through DLPack, or where the
    library has only that, ``__cuda_array_interface__``. TypeError for what cannot be had so."""
    try:
        if not hasattr(value, "__dlpack_device__"):
            return _cupy().asarray(value)
        where = int(value.__dlpack_device__()[0])
        if hasattr(value, "is_neg") and value.is_neg():  # its memory has the other sign, which DLPack does not tell
            raise BufferError("it is negated when it is read: resolve_neg() it")
        if "bfloat16" in str(getattr(value, "dtype", "")):  # which NumPy does not read
            if getattr(value, "requires_grad", False):  # a view of integers would not tell
                raise BufferError("it requires a gradient, which would be lost: detach() it")
            return borrow(value.view(_namespace(value).int16)).view(bfloat16)
        if where in _DLPACK_HOST:
            return np.from_dlpack(value)
        if where in _DLPACK_CUDA:
            return _cupy().from_dlpack(value)
    except (AttributeError, BufferError, ImportError, RuntimeError, TypeError, ValueError) as e:
        kind, reason = f"{type(value).__module__}.{type(value).__name__}", " ".join(str(e).split())
        raise TypeError(f"{kind} cannot be read through DLPack: {reason}") from e
    raise TypeError(f"expected an array in the memory of the CPU or of an NVIDIA GPU, got DLPack device {where}")


def lend(array: Array, like: Any) -> Any:
    """The memory of a NumPy or CuPy array as an array of the library of ``like``; as it is for a library that takes no
    others."""
    library = _namespace(like)
    if not hasattr(library, "from_dlpack"):
        return array
    if array.dtype == bfloat16:
        return library.from_dlpack(array.view(np.int16)).view(library.bfloat16)
    return library.from_dlpack(array)


@contextmanager
def current_stream(like: Any) -> Iterator[None]:
    """Within this block work runs on the stream on which the library of ``like``, an array on a GPU, runs its own.
    Other libraries than PyTorch tell none: there it is CuPy's current one, and DLPack makes the two wait."""
    if getattr(like, "is_cuda", False) and hasattr(_library(like), "cuda"):
        index, pointer = like.device.index, _library(like).cuda.current_stream(like.device).cuda_stream
        with _cupy().cuda.Device(index), _external_stream(pointer, index):
            yield
    else:
        yield


def _external_stream(pointer: int, index: int) -> Any:
    """CuPy's form of another library's stream on the current GPU, ``index``."""
    cuda = _cupy().cuda
    if hasattr(cuda.Stream, "from_external"):  # since CuPy 14, which warns of the other one
        return cuda.Stream.from_external(SimpleNamespace(__cuda_stream__=lambda: (0, pointer)))
    return cuda.ExternalStream(pointer, index)


def _namespace(value: Any) -> Any:
    """The functions and dtypes for arrays of the library of ``value``."""
    return value.__array_namespace__() if hasattr(value, "__array_namespace__") else _library(value)


def _library(value: Any) -> ModuleType:
    return sys.modules[type(value).__module__.partition(".")[0]]


def native(where: Device | Array) -> ModuleType:
    """The module with the launchers for that device (or that array's)."""
    if _rehearsal is not None:
        return _rehearsal.native
    return built(where)


def built(where: Device | Array) -> ModuleType:
    """As ``native``, in a rehearsal too. ImportError where it was not built."""
    if _kind(where) == "cpu":
        return _cpu
    return sys.modules.get("alexnet_cuda._gpu") or importlib.import_module("alexnet_cuda._gpu")


def array_module(where: Device | Array) -> ModuleType:
    """numpy or cupy."""
    return _cupy() if _kind(where) == "cuda" else np


def stream(where: Device) -> int:
    """The address of the stream to launch on: CuPy's current one; 0 on the CPU."""
    return int(_cupy().cuda.get_current_stream(where.index).ptr) if where.kind == "cuda" else 0


def synchronize(where: Device) -> None:
    """Waits until the device has done all it was given."""
    if where.kind == "cuda":
        _outside_of_graphs("waiting for the device")
        _cupy().cuda.Device(where.index).synchronize()


def _kind(where: Device | Array) -> str:
    return (where if isinstance(where, Device) else device_of(where)).kind


def _is_cupy(value: object) -> bool:
    kind: Any = type(value)
    return _are_cupy(kind)


@cache
def _are_cupy(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "cupy" and hasattr(kind, "__cuda_array_interface__")


@cache
def _cupy() -> ModuleType:
    return importlib.import_module("cupy")


# ---------------------------------------------------------------------------------------------- arrays

_DLPACK_HOST, _DLPACK_CUDA = (1, 3), (2, 13)  # memory of the CPU, pinned or not; of a GPU, managed or not
_poison = False
_rehearsal: Rehearsal | None = None


@contextmanager
def rehearsing(rehearsal: Rehearsal) -> Iterator[Rehearsal]:
    """Within this block, in the whole process, arrays and launchers are those of ``memory.Rehearsal``."""
    global _rehearsal
    _rehearsal = rehearsal
    try:
        yield rehearsal
    finally:
        _rehearsal = None


def empty(shape: tuple[int, ...], dtype: Any, where: Device) -> Array:
    """A new array whose values are undefined."""
    if _rehearsal is not None:
        return _rehearsal.empty(shape, dtype, where)
    try:
        if where.kind == "cuda":
            with _cupy().cuda.Device(where.index):
                array = _cupy().empty(shape, dtype)
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
    if _rehearsal is not None:
        return _rehearsal.array(shape, dtype, where)
    if where.kind == "cpu":
        return np.zeros(shape, dtype)
    with _cupy().cuda.Device(where.index):
        return _cupy().zeros(shape, dtype)


def workspace(nbytes: int, where: Device) -> Array:
    """Scratch memory for one launch."""
    return empty((max(nbytes, 1),), np.uint8, where)


def from_host(array: np.ndarray, where: Device) -> Array:
    """A new, C-contiguous array on the device with these values."""
    if _rehearsal is not None:
        return _rehearsal.array(array.shape, array.dtype, where)
    if where.kind == "cpu":
        return np.array(array, order="C")
    _outside_of_graphs("a copy from the host")
    with _cupy().cuda.Device(where.index):
        return _cupy().array(array, order="C")


class Posted:
    """An array at a fixed place on a device, zero at first, whose values come from the host again and again. ``set``
    does not wait for the device, unless that is ``DEEP`` values behind."""

    DEEP = 4

    def __init__(self, shape: tuple[int, ...], dtype: Any, where: Device) -> None:
        self.where, self.array = where, zeros(shape, dtype, where)
        allocate = host_allocator(where)
        self._pinned = [allocate(shape, dtype) for _ in range(0 if where.kind == "cpu" else self.DEEP)]
        self._copied: list[Any] = []  # an event for each of these
        self._count = 0

    def set(self, values: Any) -> None:
        """The array has these values for what is queued afterwards on the current stream."""
        if self.where.kind == "cpu":
            self.array[...] = values
            return
        place, self._count = self._count % self.DEEP, self._count + 1
        runtime, stream = _cupy().cuda.runtime, _streams(self.where)[0]
        with on(self.where):
            if len(self._copied) <= place:
                self._copied.append(_event(self.where))
            else:
                self._copied[place].synchronize()
            host = self._pinned[place]
            host[...] = values
            address = self.array.data.ptr
            runtime.memcpyAsync(address, host.ctypes.data, host.nbytes, runtime.memcpyHostToDevice, stream.ptr)
            stream.record(self._copied[place])


@lru_cache(maxsize=256)
def _constant(values: bytes, dtype: str, shape: tuple[int, ...], where: Device) -> Array:
    return from_host(np.frombuffer(values, dtype).reshape(shape), where)


def constant(array: np.ndarray, where: Device) -> Array:
    """An array on the device with these values, the same one for equal values: not to be written to."""
    if _rehearsal is not None:  # whose arrays must not stay
        return from_host(array, where)
    return _constant(array.tobytes(), array.dtype.str, array.shape, where)


def host_allocator(where: Device) -> Callable[[tuple[int, ...], Any], np.ndarray]:
    """``allocate(shape, dtype)`` for arrays in host memory that are to be copied to the device: pinned for a GPU."""
    if where.kind == "cpu":
        return np.empty
    return lambda shape, dtype: importlib.import_module("cupyx").empty_pinned(shape, dtype)


def to_host(array: Array) -> np.ndarray:
    """The values as a NumPy array: the array itself if it is one, else a copy, which waits for the device."""
    if isinstance(array, np.ndarray):
        return array
    _outside_of_graphs("a copy to the host")
    return array.get()


def to_device(array: Array, where: Device) -> Array:
    """The array itself if it lies in the device's memory, else a copy there."""
    source = device_of(array)
    if source.kind == where.kind and (source.kind == "cpu" or source.index == where.index):
        return array
    if where.kind == "cpu":
        return to_host(array)
    with _cupy().cuda.Device(where.index):
        return _cupy().array(array, order="C")


traffic: Counter[tuple[Device, Device]] = Counter()
"""Bytes that ``copy`` has moved, by (from, to), since ``traffic.clear()``."""
_counting = threading.Lock()


def copy(array: Array, source: Device, target: Device) -> tuple[Array, Callable[[], None]]:
    """A new array on ``target`` with the values of one on ``source``, another logical device of the same kind; and what
    to call before work that uses it is queued, so that this waits for the copy. Counted in ``traffic``."""
    with _counting:
        traffic[source, target] += array.nbytes
    with _branch(target):  # the stream of what uses y, so that its memory is taken again only after that
        y = empty(array.shape, array.dtype, target)
    if target.kind == "cpu":
        with trace.span("copy", f"{source.row} to {target.row}"):
            np.copyto(y, array)
        return y, lambda: None
    return y, _peers(source, target).copy(y, array)


def poison(enabled: bool) -> None:
    """From now on ``empty`` fills with 0xff bytes, NaN as floats, so that what is never written shows."""
    global _poison
    _poison = enabled


def release_memory() -> None:
    """Gives memory that is kept for later arrays back to the system."""
    _recycler.release()
    for where in gpus():
        with on(where):
            _cupy().get_default_memory_pool().free_all_blocks()


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
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes < self.smallest or not self.lock.acquire(blocking=False):
            memory = np.empty(nbytes + self.alignment, np.uint8)
            start = -memory.__array_interface__["data"][0] % self.alignment
            return memory[start : start + nbytes].view(dtype).reshape(shape)
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
_recycler = Recycler(RECYCLED)


# ---------------------------------------------------------------------------------------------- several devices


def together(tasks: Sequence[tuple[Device, Callable[[], T]]]) -> list[T]:
    """The results of tasks, each with the device that it computes on. Tasks of different devices run at the same time,
    each in a thread, on a GPU also a stream, of its device; ``no_grad`` and the like hold there as they do here. While
    a graph is recorded one thread queues them one after the other, each on its stream."""
    places = list(dict.fromkeys(where for where, _ in tasks))
    if len(places) == 1:
        return [task() for _, task in tasks]

    def run(where: Device, task: Callable[[], T]) -> T:
        with _branch(where):
            return task()

    with _branches(places):
        if recording():
            return [run(where, task) for where, task in tasks]
        with ThreadPoolExecutor(len(tasks)) as threads:
            results = [threads.submit(partial(copy_context().run, run, where, task)) for where, task in tasks]
        return [result.result() for result in results]


def in_turns(tasks: Sequence[tuple[Device, Iterator[None]]]) -> None:
    """Like ``together`` for one thread and tasks that wait for one another: each yields where another may go on."""
    with _branches([where for where, _ in tasks]):
        left = list(tasks)
        while left:
            for where, task in list(left):
                with _branch(where):
                    if next(task, left) is left:
                        left.remove((where, task))


@contextmanager
def _branches(places: Sequence[Device]) -> Iterator[None]:
    """The devices' own streams go on from the current ones, which afterwards wait for them."""
    pairs = [(where, *_streams(where)) for where in places if where.kind == "cuda"]
    for where, trunk, own in pairs:
        _then(where, trunk, where, own)
    yield
    for where, trunk, own in pairs:
        _then(where, own, where, trunk)


@contextmanager
def _branch(where: Device) -> Iterator[None]:
    """Within this block (of this thread) work for the device goes to its own stream."""
    with on(where), nullcontext() if where.kind == "cpu" else _own_stream(where):
        yield


def _event(where: Device) -> Any:
    with on(where):
        return _cupy().cuda.Event(disable_timing=True)


def _then(before: Device, stream: Any, after: Device, other: Any) -> None:
    """What comes on the ``other`` stream waits for what is on ``stream`` now; with the streams' devices."""
    if stream.ptr != other.ptr:
        event = _event(before)
        stream.record(event)
        with on(after):
            other.wait_event(event)


@contextmanager
def trunks(places: Sequence[Device]) -> Iterator[None]:
    """Within this block (of this thread) work for these devices goes to a stream of ours for each GPU, which can be
    recorded; it comes after all that was queued before, and before what is queued afterwards."""
    gpus = dict.fromkeys(replace(where, slot=0) for where in places if where.kind == "cuda")

    def joined(where: Device, inner: Any, outer: Any) -> None:
        with suppress(RuntimeError):  # of a device that has failed, which something else tells
            _then(where, inner, where, outer)

    with ExitStack() as stack:
        for where in reversed(gpus):  # the first stays the one whose arrays are made
            outer, inner = _streams(where)[0], _trunk(where)
            _then(where, outer, where, inner)
            stack.callback(joined, where, inner, outer)
            stack.enter_context(on(where))
            stack.enter_context(inner)
        yield


def address(array: Array) -> int:
    """Where an array's memory begins."""
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def on(where: Device) -> AbstractContextManager[Any]:
    """Within this block (of this thread) the array library works on that device's arrays."""
    return nullcontext() if where.kind == "cpu" else _cupy().cuda.Device(where.index)


def use(where: Device) -> None:
    """From now on, in this thread, the array library works on that device's arrays."""
    if where.kind == "cuda":
        _cupy().cuda.Device(where.index).use()


def _streams(where: Device) -> tuple[Any, Any]:
    """This thread's current stream on the device, and the device's own; None on the CPU."""
    if where.kind == "cpu":
        return None, None
    return _cupy().cuda.get_current_stream(where.index), _own_stream(where)


@cache
def _own_stream(where: Device) -> Any:
    with on(where):
        return _cupy().cuda.Stream(non_blocking=True)


@cache
def _trunk(where: Device) -> Any:
    with on(where):
        return _cupy().cuda.Stream(non_blocking=True)


def clock(where: Device) -> Callable[[], trace.Moment]:
    """Tells the moment when the device has done what this thread gave it so far."""
    return trace.now if where.kind == "cpu" else lambda: _moment(where, _streams(where)[0])


def _moment(where: Device, stream: Any) -> trace.Moment:
    with on(where):
        seconds, zero = _zero(where.index)
        event = stream.record()

    def tell() -> float:
        event.synchronize()
        return seconds + _cupy().cuda.get_elapsed_time(zero, event) / 1e3

    return tell


@cache
def _zero(index: int) -> tuple[float, Any]:
    """A moment on the host, and an event of that GPU at that moment."""
    synchronize(Device("cuda", index))
    event = _cupy().cuda.Stream(non_blocking=True).record()
    event.synchronize()
    return time.perf_counter(), event


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
        with on(target):
            self.stream = _cupy().cuda.Stream(non_blocking=True)
            self.direct = self._reachable()
        if self.direct and not self._right():
            self.direct = False
        if not self.direct:
            pair = " and ".join(sorted(map(str, (source, target))))
            warnings.warn(f"copies between {pair} go through the host: there is no working peer access", stacklevel=2)

    def _reachable(self) -> bool:
        if self.source.index == self.target.index:
            return True
        runtime = _cupy().cuda.runtime
        if not runtime.deviceCanAccessPeer(self.target.index, self.source.index):
            return False
        try:
            runtime.deviceEnablePeerAccess(self.source.index)
        except runtime.CUDARuntimeError as e:
            return e.status == 704  # cudaErrorPeerAccessAlreadyEnabled
        return True

    def _right(self) -> bool:
        pattern = np.arange(1 << 20, dtype=np.uint32)
        y = empty(pattern.shape, pattern.dtype, self.target)
        self.copy(y, from_host(pattern, self.source))()
        synchronize(self.target)
        return np.array_equal(to_host(y), pattern)

    def copy(self, y: Array, x: Array) -> Callable[[], None]:
        """Puts x's values into y, after what made x and what used y's memory before. The function returned makes what
        follows on the target's streams wait for it."""
        runtime, lane, size = _cupy().cuda.runtime, self.stream, x.nbytes
        with on(self.source):
            x = _cupy().ascontiguousarray(x)
            for stream in _streams(self.source):
                lane.wait_event(stream.record())
        host = None if self.direct else host_allocator(self.target)((size,), np.uint8)
        row, ends = f"{self.source.row} to {self.target.row}", (self.target.index, self.source.index)
        with on(self.target):
            users = _streams(self.target)
            for stream in users:
                lane.wait_event(stream.record())
            with trace.span("copy", row, partial(_moment, self.target, lane)):
                if self.source.index == self.target.index:
                    runtime.memcpyAsync(y.data.ptr, x.data.ptr, size, runtime.memcpyDeviceToDevice, lane.ptr)
                elif host is None:
                    runtime.memcpyPeerAsync(y.data.ptr, ends[0], x.data.ptr, ends[1], size, lane.ptr)
                else:
                    runtime.memcpyAsync(host.ctypes.data, x.data.ptr, size, runtime.memcpyDeviceToHost, lane.ptr)
                    runtime.memcpyAsync(y.data.ptr, host.ctypes.data, size, runtime.memcpyHostToDevice, lane.ptr)
            done = lane.record()
        if graph := _graph.get():
            graph.held.append((x, host))
        else:
            self.held.append((done, x, host))
            while self.held and self.held[0][0].done:
                self.held.popleft()

        def arrive() -> None:
            for stream in users:
                stream.wait_event(done)

        return arrive


class Nccl:
    """Collective operations on float32 arrays of GPUs, one in each of several processes, on a stream of their own."""

    def __init__(self, where: Device, size: int, number: Sequence[int], rank: int) -> None:
        """``number`` is what ``number`` gave one of the processes."""
        self.where, self.size = where, size
        self.held: deque[tuple[Any, Array, Array]] = deque()  # arrays in use until the event has passed
        with on(where):
            self.stream = _cupy().cuda.Stream(non_blocking=True)
            self._communicator = _nccl().NcclCommunicator(size, bytes(number), rank)

    @staticmethod
    def number() -> list[int]:
        """What tells one group of processes from others."""
        return list(_nccl().get_unique_id())

    def begin(self, operation: str, x: Array, y: Array) -> Callable[[], None]:
        """Begins allReduce (a sum), allGather or reduceScatter of x into y, after what made x. The function returned
        makes what follows on this thread's stream wait for it."""
        nccl, lane = _nccl(), self.stream
        count, add = min(x.size, y.size), nccl.NCCL_SUM
        options = {"allReduce": [add], "reduceScatter": [add], "allGather": []}[operation]
        with on(self.where):
            user = _streams(self.where)[0]
            lane.wait_event(user.record())
            with trace.span(operation, "between processes", partial(_moment, self.where, lane)):
                call = getattr(self._communicator, operation)
                call(x.data.ptr, y.data.ptr, count, nccl.NCCL_FLOAT32, *options, lane.ptr)
            done = lane.record()
        self.held.append((done, x, y))
        while self.held and self.held[0][0].done:
            self.held.popleft()
        return lambda: user.wait_event(done)


def _nccl() -> ModuleType:
    return importlib.import_module("cupy.cuda.nccl")


def nccl_problem() -> str | None:
    """None where CuPy finds NCCL; else one line on what mends it."""
    if _nccl().available:
        return None
    extra = "nccl13" if _cpu.build_info()["cuda"].startswith("13") else "nccl12"
    return f"several processes on GPUs need NCCL, which CuPy does not find: pip install 'alexnet-cuda[{extra}]'"


# ---------------------------------------------------------------------------------------------- graphs

_graph: ContextVar[Graph | None] = ContextVar("graph", default=None)


def recording() -> bool:
    """Whether this thread records a ``Graph``."""
    return _graph.get() is not None


def _outside_of_graphs(what: str) -> None:
    if recording():
        raise RuntimeError(f"{what} cannot be part of a graph")


def _memory_of_graphs(size: int) -> Any:
    """Where a graph's pool takes its memory. If CUDA's error told CuPy's pool that there is no more, it would give back
    what is free, which recorded work uses again at every launch, and go on: another error ends the recording."""
    cuda = _cupy().cuda
    try:
        return cuda.MemoryPointer(cuda.Memory(size), 0)
    except cuda.runtime.CUDARuntimeError as e:
        if e.status != 2:  # cudaErrorMemoryAllocation
            raise
        raise MemoryError(f"there are no {size:,} bytes for a graph") from e


class Graph:
    """What a function queues on GPUs, recorded by calling it once, to be queued again by a single ``launch``.

    It is recorded on the streams of ``trunks``, without being run. All arrays that it makes lie in memory of the
    graph's own, and every launch leaves its values there; the host's part of the function is not done again, and its
    result stays.
    """

    def __init__(self, places: Sequence[Device], function: Callable[[], object]) -> None:
        """The devices' first is that on which launches are queued. An error of the function, RuntimeError for what
        cannot be recorded, MemoryError where a device has too little memory."""
        cuda, self._places = _cupy().cuda, list(dict.fromkeys(replace(where, slot=0) for where in places))
        for where in self._places:
            with on(where):
                _cupy().get_default_memory_pool().free_all_blocks()  # what the function needs, it takes again
        self.held: list[Any] = []  # arrays on their way between streams
        self._pool = cuda.MemoryPool(_memory_of_graphs)
        self._trunks = [_streams(where)[0] for where in self._places]
        branches = [(where, _own_stream(where)) for where in dict.fromkeys(places)]
        branches += list(zip(self._places, self._trunks, strict=True))
        origin, first = self._trunks[0], self._places[0]
        before, token = traffic.copy(), _graph.set(self)
        try:
            with on(first), cuda.using_allocator(self._pool.malloc):
                origin.begin_capture()
                try:
                    for where, stream in branches:
                        _then(first, origin, where, stream)
                    self._result = function()
                    for where, stream in branches:
                        _then(where, stream, first, origin)
                except BaseException:
                    with suppress(RuntimeError):  # CUDA's, for what has been recorded so far
                        origin.end_capture()
                    raise
                self._recorded = origin.end_capture()
                self._recorded.upload()
        finally:
            _graph.reset(token)
        self._moved = traffic - before
        traffic.subtract(self._moved)
        self._events = [_event(where) for where in self._places]

    def launch(self) -> Any:
        """Queues all of it, after what is on the streams on which it was recorded, and before what follows there.
        Returns what the function did."""
        origin, *others = self._trunks
        for stream, event in zip(others, self._events[1:], strict=True):
            stream.record(event)
            origin.wait_event(event)
        self._recorded.launch(origin)
        if others:
            origin.record(self._events[0])
        for stream in others:
            stream.wait_event(self._events[0])
        traffic.update(self._moved)
        return self._result


class Feed:
    """Brings batches of host arrays to fixed places on GPUs, on streams of their own, while earlier ones are in use."""

    SLOTS = 2

    def __init__(self, places: Sequence[Device]) -> None:
        gpus = dict.fromkeys(replace(where, slot=0) for where in places)
        self._lanes = {where: [_Slot(where) for _ in range(self.SLOTS)] for where in gpus}
        self._fixed = {where: _Places(where) for where in gpus}

    def through(self, batches: Iterable[Sequence[np.ndarray | None]]) -> Iterator[dict[Device, list[Any]]]:
        """Each batch's arrays on each GPU, there until the next is asked for, by when a copy of that has begun.

        An array's memory should be pinned (``host_allocator``), and must stay as it is until two more batches have been
        taken from ``batches``. Arrays of equal place in the batch differ in their number of rows alone."""
        number = 0
        for number, batch in enumerate(batches, 1):
            for slots in self._lanes.values():
                slots[number % self.SLOTS].send(batch)
            if number > 1:
                yield self._receive(number - 1)
        if number:
            yield self._receive(number)

    def _receive(self, number: int) -> dict[Device, list[Any]]:
        return {where: slots[number % self.SLOTS].receive(self._fixed[where]) for where, slots in self._lanes.items()}


class _Places:
    """Arrays of a device by their place in a batch, made when first asked for, or for more rows than before."""

    def __init__(self, where: Device) -> None:
        self.where = where
        self.arrays: dict[int, Array] = {}

    def rows(self, place: int, like: Any) -> Array:
        """As many rows as ``like`` has, of its dtype."""
        if place not in self.arrays or len(self.arrays[place]) < len(like):
            self.arrays[place] = empty(like.shape, like.dtype, self.where)
        return self.arrays[place][: len(like)]


class _Slot:
    """The way of every other batch to a device: from the host into arrays of its own, and from there to their place."""

    staged = 1 << 20  # bytes of smaller arrays are copied through pinned memory here

    def __init__(self, where: Device) -> None:
        self.where, self.lane = where, _lane(where)
        self.copied, self.taken = _event(where), _event(where)
        self.places = _Places(where)
        self.pinned: dict[int, np.ndarray] = {}
        self.batch: list[Array | None] = []

    def send(self, batch: Sequence[np.ndarray | None]) -> None:
        runtime, lane = _cupy().cuda.runtime, self.lane
        with on(self.where):
            self.copied.synchronize()  # so that memory on the host may be written to again
            lane.wait_event(self.taken)
            with lane:
                self.batch = [None if a is None else self.places.rows(i, a) for i, a in enumerate(batch)]
            for i, (a, y) in enumerate(zip(batch, self.batch, strict=True)):
                if a is not None and y is not None:
                    host = self._staged(i, a) if a.nbytes < self.staged else np.ascontiguousarray(a)
                    runtime.memcpyAsync(y.data.ptr, host.ctypes.data, a.nbytes, runtime.memcpyHostToDevice, lane.ptr)
            lane.record(self.copied)

    def _staged(self, place: int, a: np.ndarray) -> np.ndarray:
        if place not in self.pinned or len(self.pinned[place]) < len(a):
            self.pinned[place] = host_allocator(self.where)(a.shape, a.dtype)
        part = self.pinned[place][: len(a)]
        part[...] = a
        return part

    def receive(self, fixed: _Places) -> list[Array | None]:
        runtime, stream = _cupy().cuda.runtime, _streams(self.where)[0]
        with on(self.where):
            stream.wait_event(self.copied)
            batch = [None if x is None else fixed.rows(i, x) for i, x in enumerate(self.batch)]
            for x, y in zip(self.batch, batch, strict=True):
                if x is not None and y is not None:
                    runtime.memcpyAsync(y.data.ptr, x.data.ptr, x.nbytes, runtime.memcpyDeviceToDevice, stream.ptr)
            stream.record(self.taken)
        return batch


@cache
def _lane(where: Device) -> Any:
    with on(where):
        return _cupy().cuda.Stream(non_blocking=True)


# ---------------------------------------------------------------------------------------------- the CPU


def set_threads(n: int) -> None:
    """How many threads operations on the CPU use, in the whole process. Results do not depend on it."""
    if n < 1:
        raise ValueError(f"set_threads: expected at least 1, got {n}")
    _cpu.set_threads(n)


def threads() -> int:
    """How many threads operations on the CPU use."""
    return _cpu.threads()


@cache
def _openblas() -> ctypes.CDLL | None:
    """The library of scipy-openblas64, opened for ourselves alone and kept to the thread that calls it."""
    spec = importlib.util.find_spec("scipy_openblas64")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(folder, "lib").glob("libscipy_openblas64_*.so*"):
            try:
                library = ctypes.CDLL(str(path))
            except OSError:  # `python -m alexnet_cuda.checks` tells it
                return None
            library.scipy_openblas_set_num_threads64_(1)
            return library
    return None


def blas_name() -> str | None:
    """Which BLAS multiplies on the CPU; None: the project's own gemm kernel does."""
    library = _openblas()
    if library is None:
        return None
    library.scipy_openblas_get_config64_.restype = ctypes.c_char_p
    return " ".join(library.scipy_openblas_get_config64_().decode().split())


def uses_blas(device: Device) -> bool:
    """Whether a BLAS multiplies matrices of float32 there."""
    return device.kind == "cpu" and capability(device) is None and _blas_enabled and _openblas() is not None


def _enable_blas(enabled: bool) -> None:
    global _blas_enabled
    library = _openblas()
    address = ctypes.cast(library.scipy_cblas_sgemm64_, ctypes.c_void_p).value if library and enabled else 0
    _cpu.set_blas(address or 0)
    _blas_enabled = enabled


_blas_enabled = False
_enable_blas(True)


@contextmanager
def blas(enabled: bool) -> Iterator[None]:
    """Within this block, in the whole process, products on the CPU use BLAS or the project's own gemm kernel."""
    before = _blas_enabled
    _enable_blas(enabled)
    try:
        yield
    finally:
        _enable_blas(before)


# ---------------------------------------------------------------------------------------------- the GPU


@cache
def gpu_problem() -> str | None:
    """None where a GPU can be used; else one line: why not, and what mends it."""
    driver, capabilities = _driver()
    if not driver:
        return "no NVIDIA driver was found"
    if not capabilities:
        return "the NVIDIA driver finds no GPU"
    if max(capabilities) < (8, 0):
        best = ".".join(map(str, max(capabilities)))
        return f"the GPU has compute capability {best}, needed is 8.0 (Ampere) or newer"
    rebuild = "run `pip install --force-reinstall --no-deps .` in the checkout"
    if importlib.util.find_spec("alexnet_cuda._gpu") is None:
        reason = _cpu.build_info()["cuda_missing"]
        return f"this is a build without CUDA ({reason}): install CUDA 12.8 or newer and {rebuild}"
    built = _cpu.build_info()["cuda"]
    if driver[0] < int(built.partition(".")[0]):
        supported = f"the NVIDIA driver supports CUDA {driver[0]}.{driver[1]}"
        return f"{supported}, this build is for CUDA {built}: update the driver, or {rebuild}"
    if importlib.util.find_spec("cupy") is None:
        extra = "cuda13x" if driver[0] >= 13 else "cuda12x"
        return f"CuPy is not installed: run `pip install '.[{extra}]'` in the checkout"
    if not _cupy().cuda.is_available():
        return "CuPy cannot use the GPU: `python -c 'import cupy; cupy.show_config()'` may tell why"
    return None


@cache
def _driver() -> tuple[tuple[int, int] | None, list[tuple[int, int]]]:
    """The CUDA version that the NVIDIA driver supports, None without one; and the GPUs' compute capabilities."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, []
    number, capabilities = ctypes.c_int(), []

    def ask(function: str, *arguments: int) -> int:
        number.value = 0
        getattr(cuda, function)(ctypes.byref(number), *arguments)
        return number.value

    release = ask("cuDriverGetVersion")
    if cuda.cuInit(0) == 0:
        for i in range(ask("cuDeviceGetCount")):
            major, minor = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
            capabilities.append((ask("cuDeviceGetAttribute", major, i), ask("cuDeviceGetAttribute", minor, i)))
    return (release // 1000, release % 1000 // 10), capabilities


def capability(where: Device) -> tuple[int, int] | None:
    """The compute capability of a GPU, such as (9, 0) for Hopper's; None for a CPU."""
    if _rehearsal is not None:
        return _rehearsal.capability
    return None if where.kind == "cpu" else _driver()[1][where.index]


def memory(where: Device) -> int:
    """Bytes of memory that the device has; of a CPU's what this process may use."""
    if where.kind == "cuda":
        return int(_cupy().cuda.runtime.getDeviceProperties(where.index)["totalGlobalMem"])
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):  # a container's
        with suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return min(limits)


# ---------------------------------------------------------------------------------------------- what this is


def build_info() -> dict[str, str]:
    """How this was built and what it runs on: the first question of every bug report."""
    problem = gpu_problem()
    return {
        "version": package_version("alexnet-cuda") or "unknown",
        **_cpu.build_info(),
        "platform": f"{platform.platform()}, {os.cpu_count()} processors",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": blas_name() or "none: the project's own gemm kernel",
        "cupy": _cupy().__version__ if problem is None else "",
        "gpu": "usable" if problem is None else problem,
    }


def describe(*places: Device) -> str:
    """A line or two on what work on these devices runs on."""
    names, kinds = ",".join(map(str, places)), "; ".join(dict.fromkeys(map(hardware, places)))
    line = f"alexnet_cuda {build_info()['version']} on {names}: {kinds}"
    return f"{line}\nno GPU is used: {gpu_problem()}" if gpu_problem() else line


def hardware(where: Device) -> str:
    """What the device is, in words."""
    info = build_info()
    if where.kind == "cpu":
        built = " ".join(filter(None, (info["compiler"], info["cpu_arch"])))
        return f"{threads()} threads, {(blas_name() or 'no BLAS').partition(' USE')[0]}, built with {built}"
    properties = _cupy().cuda.runtime.getDeviceProperties(where.index)
    capability, memory = f"{properties['major']}.{properties['minor']}", properties["totalGlobalMem"] / 2**30
    driver = ".".join(map(str, _driver()[0] or ()))
    return (
        f"{properties['name'].decode()} (compute capability {capability}, {memory:.0f} GiB), "
        f"driver for CUDA {driver}, built with CUDA {info['cuda']}, CuPy {info['cupy']}"
    )


def package_version(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
