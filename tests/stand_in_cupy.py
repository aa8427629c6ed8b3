"""A stand-in for CuPy and the module ``_gpu`` on a machine without a GPU: arrays in host memory, kernels of ``_cpu``.
As a pytest plugin it puts itself in their place.

It notes what it is asked to do. Streams are recorded as CUDA's are: what is queued on them is noted, not done, until
the graph is launched; what CUDA refuses while recording is refused; and at the end of a recording every two accesses to
the same memory, one of them a write, must be in an order that streams and events enforce. What is not recorded is done
as late as may be: when the host waits for it. A device's memory ends; what is given back is given to others.

Calls that CuPy does not take are refused (`cupy_interface`).
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import sys
import threading
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from cupy_interface import CONSTANTS, accept, takes
from test_bindings import BY_NAME

from alexnet_cuda import _cpu, backend
from alexnet_cuda.backend import arrays, discovery, libraries, peers, streams, transfers

OUT_OF_MEMORY, DEVICES_UNAVAILABLE, CAPTURING, UNJOINED, UNCAPTURED = 2, 46, 900, 904, 905
ERRORS = {
    OUT_OF_MEMORY: "cudaErrorMemoryAllocation: out of memory",
    DEVICES_UNAVAILABLE: "cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable",
    CAPTURING: "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing",
    UNJOINED: "cudaErrorStreamCaptureUnjoined: a stream of the capture has not been joined to the original stream",
    UNCAPTURED: "cudaErrorStreamCaptureIsolation: dependency created on uncaptured work in another stream",
}
COPIES = {
    CONSTANTS["cuda.runtime.memcpyHostToDevice"]: "copy from the host",
    CONSTANTS["cuda.runtime.memcpyDeviceToHost"]: "copy to the host",
    CONSTANTS["cuda.runtime.memcpyDeviceToDevice"]: "copy",
}


class CUDARuntimeError(RuntimeError):
    """What CuPy makes of an error code."""

    def __init__(self, status: int) -> None:
        super().__init__(ERRORS[status])
        self.status = status


@dataclass
class Access:
    """Memory from begin to end, used as number ``count`` of what came on a stream, knowing ``clock``."""

    begin: int
    end: int
    write: bool
    stream: int
    count: int
    clock: Counter[int]
    what: str


@dataclass
class Recording:
    """A capture under way: what was queued, and in which order memory is used."""

    origin: Stream
    work: list[Callable[[], None]] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)
    streams: set[Stream] = field(default_factory=set)

    def check(self) -> None:
        accesses = sorted(self.accesses, key=lambda a: a.begin)
        for i, a in enumerate(accesses):
            for b in accesses[i + 1 :]:
                if b.begin >= a.end:
                    break
                if a.write or b.write:
                    ordered = b.clock[a.stream] >= a.count or a.clock[b.stream] >= b.count
                    assert ordered, f"{a.what} and {b.what} use the same memory at the same time"


class StandIn:
    """CuPy: ``log`` counts what was asked for, by kind."""

    def __init__(self, devices: int = 2) -> None:
        self.log: Counter[str] = Counter()
        self.devices = devices
        self.recording: Recording | None = None
        self.local = threading.local()
        self.lock = threading.RLock()
        self.numbers = itertools.count(1)
        self.pending: deque[Callable[[], None]] = deque()
        self.done = 0
        self.refused: set[str] = set()
        """Kernels that fail."""
        self.most_bytes = 1 << 40
        """Of a device."""
        self.used_bytes: Counter[int] = Counter()
        self.most_used = 0
        self.given_back: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)  # memory by device and size
        self.null = {i: Stream(self, i, ptr=0) for i in range(devices)}
        self.default_pool = Pool(self)
        stream = Type(new=self.make_stream, from_external=self.from_external)
        constants = {name.rpartition(".")[2]: value for name, value in CONSTANTS.items() if "runtime" in name}
        runtime = SimpleNamespace(
            memcpyAsync=self.memcpy, memcpyPeerAsync=self.memcpy_peer, getDeviceCount=self.count_devices,
            deviceCanAccessPeer=self.can_access_peer, deviceEnablePeerAccess=self.enable_peer_access,
            getDeviceProperties=self.properties, CUDARuntimeError=CUDARuntimeError, **constants,
        )  # fmt: skip
        self.cuda = SimpleNamespace(
            Device=self.make_device, Stream=stream, ExternalStream=self.external_stream, Event=self.make_event,
            Memory=self.make_memory, MemoryPointer=self.make_pointer, MemoryPool=self.make_pool,
            using_allocator=self.using_allocator, get_current_stream=self.get_current_stream,
            get_elapsed_time=self.get_elapsed_time, is_available=self.is_available, runtime=runtime,
        )  # fmt: skip
        self.__version__ = "14.2.0"

    # ---- the functions of cuda

    @takes("cuda.Device")
    def make_device(self, device: int = 0) -> Device:
        return Device(self, device)

    @takes("cuda.Stream")
    def make_stream(self, non_blocking: bool) -> Stream:
        return Stream(self, self.device, next(self.numbers))

    @takes("cuda.Stream.from_external")
    def from_external(self, obj: Any) -> Stream:
        version, ptr = obj.__cuda_stream__()
        assert version == 0
        return Stream(self, self.device, ptr)

    @takes("cuda.ExternalStream")
    def external_stream(self, ptr: int, device_id: int) -> Stream:
        warnings.warn("ExternalStream is deprecated", DeprecationWarning, stacklevel=3)
        return Stream(self, device_id, ptr)

    @takes("cuda.Event")
    def make_event(self, disable_timing: bool = False) -> Event:
        return Event(self, self.device)

    @takes("cuda.Memory")
    def make_memory(self, size: int) -> Memory:
        return Memory(self, size)

    @takes("cuda.MemoryPointer")
    def make_pointer(self, mem: Memory, offset: int) -> SimpleNamespace:
        assert offset == 0
        return SimpleNamespace(mem=mem)

    @takes("cuda.MemoryPool")
    def make_pool(self, allocator: Callable[[int], Any] | None = None) -> Pool:
        return Pool(self, allocator)

    @takes("cuda.using_allocator")
    @contextmanager
    def using_allocator(self, allocator: Any) -> Iterator[None]:
        before, self.local.pool = self.pool, allocator.__self__
        try:
            yield
        finally:
            self.local.pool = before

    @takes("cuda.get_current_stream")
    def get_current_stream(self, device_id: int = -1) -> Stream:
        return self.current(self.device if device_id == -1 else device_id)

    @takes("cuda.get_elapsed_time")
    def get_elapsed_time(self, start_event: Event, end_event: Event) -> float:
        return float(end_event.after - start_event.after)

    @takes("cuda.is_available")
    def is_available(self) -> bool:
        return True

    @takes("cuda.runtime.getDeviceCount")
    def count_devices(self) -> int:
        return self.devices

    @takes("cuda.runtime.deviceCanAccessPeer")
    def can_access_peer(self, device: int, peerDevice: int) -> int:
        return 1

    @takes("cuda.runtime.deviceEnablePeerAccess")
    def enable_peer_access(self, peerDevice: int) -> None:
        pass

    @takes("cuda.runtime.getDeviceProperties")
    def properties(self, device: int) -> dict[str, Any]:
        return {"name": b"a stand-in", "major": 9, "minor": 0, "totalGlobalMem": self.most_bytes}

    @takes("cuda.runtime.memcpyAsync")
    def memcpy(self, dst: int, src: int, size: int, kind: int, stream: int) -> None:
        reads = [] if COPIES[kind] == "copy from the host" else [(src, size)]
        writes = [] if COPIES[kind] == "copy to the host" else [(dst, size)]
        self.queue(COPIES[kind], lambda: ctypes.memmove(dst, src, size) and None, reads, writes, stream)

    @takes("cuda.runtime.memcpyPeerAsync")
    def memcpy_peer(self, dst: int, dstDevice: int, src: int, srcDevice: int, size: int, stream: int) -> None:
        self.memcpy(dst, src, size, CONSTANTS["cuda.runtime.memcpyDeviceToDevice"], stream)

    # ---- state of a thread

    @property
    def device(self) -> int:
        return getattr(self.local, "device", 0)

    def current(self, index: int) -> Stream:
        stack = self.local.__dict__.setdefault("streams", defaultdict(list))[index]
        return stack[-1] if stack else self.null[index]

    @property
    def pool(self) -> Pool:
        return getattr(self.local, "pool", self.default_pool)

    # ---- work

    def refuse_in_graphs(self) -> None:
        if self.recording:
            raise CUDARuntimeError(CAPTURING)

    def queue(
        self,
        kind: str,
        work: Callable[[], None],
        reads: Iterable[Any] = (),
        writes: Iterable[Any] = (),
        ptr: int | None = None,
    ) -> None:
        with self.lock:
            self.log[kind] += 1
            current = self.current(self.device)
            stream = current if ptr is None or ptr == current.ptr else Stream.known[ptr]
            assert stream.device == self.device, f"{kind}: the stream is of device {stream.device}, not {self.device}"
            if self.recording is None:
                self.pending.append(work)
                return
            assert stream.recording is self.recording, f"{kind}: on a stream that is not recorded"
            stream.clock[stream.ptr] += 1
            self.recording.work.append(work)
            for array, write in [*((a, False) for a in reads), *((a, True) for a in writes)]:
                begin, size = array if isinstance(array, tuple) else (array.data.ptr, array.nbytes)
                clock = stream.clock.copy()
                access = Access(begin, begin + size, write, stream.ptr, clock[stream.ptr], clock, kind)
                self.recording.accesses.append(access)

    def wait(self, count: int | None = None) -> None:
        """Does what waits, or so much that ``count`` in all are done."""
        with self.lock:
            while self.pending and (count is None or self.done < count):
                self.pending.popleft()()
                self.done += 1

    # ---- the module's functions

    @takes("get_default_memory_pool")
    def get_default_memory_pool(self) -> Pool:
        return self.default_pool

    @takes("empty")
    def empty(self, shape: Any, dtype: Any = np.float32) -> Array:
        return Array.new(self, shape, np.dtype(dtype))

    @takes("zeros")
    def zeros(self, shape: Any, dtype: Any = np.float32) -> Array:
        array = self.empty(shape, dtype)
        host = array.host
        self.queue("memset", lambda: host.fill(0), writes=[array])
        return array

    @takes("array")
    def array(self, obj: Any, order: str = "C") -> Array:
        if isinstance(obj, Array):
            return obj.copy()
        values = np.array(obj)
        array = self.empty(values.shape, values.dtype)
        self.log["wait"] += 1  # memory that is not pinned
        host = array.host
        self.queue("copy from the host", lambda: np.copyto(host, values), writes=[array])
        return array

    @takes("asarray")
    def asarray(self, a: Any) -> Array:
        return self.array(a)

    @takes("from_dlpack")
    def from_dlpack(self, array: Any) -> Array:
        return self.array(np.asarray(array))

    @takes("arange")
    def arange(self, *args: Any) -> Array:
        return self.array(np.arange(*args))

    @takes("ascontiguousarray")
    def ascontiguousarray(self, a: Array) -> Array:
        return a if a.flags.c_contiguous else a.copy()


class Type(SimpleNamespace):
    """A class by its constructor, ``new``, and its class methods."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.new(*arguments, **named)


@dataclass
class Device:
    cupy: StandIn
    id: int

    def __enter__(self) -> Device:
        self.cupy.local.__dict__.setdefault("before", []).append(self.cupy.device)
        self.cupy.local.device = self.id
        return self

    def __exit__(self, *_: object) -> None:
        self.cupy.local.device = self.cupy.local.before.pop()

    @takes("cuda.Device.use")
    def use(self) -> None:
        self.cupy.local.device = self.id

    @takes("cuda.Device.synchronize")
    def synchronize(self) -> None:
        self.cupy.refuse_in_graphs()
        self.cupy.log["wait"] += 1
        self.cupy.wait()


class Stream:
    known: ClassVar[dict[int, Stream]] = {}

    def __init__(self, cupy: StandIn, device: int, ptr: int) -> None:
        self.cupy, self.device, self.ptr = cupy, device, ptr
        self.recording: Recording | None = None
        self.clock: Counter[int] = Counter()
        self.known[ptr] = self

    def __enter__(self) -> Stream:
        assert self.cupy.device == self.device, "a stream of another device than the current one"
        self.cupy.current(self.device)
        self.cupy.local.streams[self.device].append(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.cupy.local.streams[self.device].pop() is self

    @takes("cuda.Stream.record")
    def record(self, event: Event | None = None) -> Event:
        event = event or Event(self.cupy, self.device)
        assert event.device == self.device, "an event of another device than the stream"
        event.recording, event.clock = self.recording, self.clock.copy()
        event.after = self.cupy.done + len(self.cupy.pending)
        return event

    @takes("cuda.Stream.wait_event")
    def wait_event(self, event: Event) -> None:
        if event.recording is None and self.recording is not None and self.cupy.recording:
            raise CUDARuntimeError(UNCAPTURED)
        if event.recording is not None and event.recording is self.cupy.recording:
            self.recording = event.recording
            event.recording.streams.add(self)
            self.clock |= event.clock

    @takes("cuda.Stream.synchronize")
    def synchronize(self) -> None:
        self.cupy.refuse_in_graphs()
        self.cupy.log["wait"] += 1
        self.cupy.wait()

    @takes("cuda.Stream.begin_capture")
    def begin_capture(self) -> None:
        assert self.ptr, "the null stream cannot be captured"
        assert self.cupy.recording is None
        self.recording = self.cupy.recording = Recording(self)
        self.recording.streams.add(self)

    @takes("cuda.Stream.end_capture")
    def end_capture(self) -> Graph:
        done, self.cupy.recording = self.cupy.recording, None
        assert done and done.origin is self
        clocks = {stream: stream.clock.copy() for stream in done.streams}
        for stream in done.streams:
            stream.recording, stream.clock = None, Counter()
        for stream, clock in clocks.items():
            if clocks[self][stream.ptr] < clock[stream.ptr]:
                raise CUDARuntimeError(UNJOINED)
        done.check()
        return Graph(self.cupy, done.work)


class Event:
    def __init__(self, cupy: StandIn, device: int) -> None:
        self.cupy, self.device = cupy, device
        self.recording: Recording | None = None
        self.clock: Counter[int] = Counter()
        self.after = 0

    @property
    def done(self) -> bool:
        self.cupy.refuse_in_graphs()
        return self.cupy.done >= self.after

    @takes("cuda.Event.synchronize")
    def synchronize(self) -> None:
        self.cupy.refuse_in_graphs()
        self.cupy.log["event"] += 1
        self.cupy.wait(self.after)


@dataclass
class Graph:
    cupy: StandIn
    work: list[Callable[[], None]]

    @takes("cuda.Graph.upload")
    def upload(self) -> None:
        assert self.cupy.recording is None

    @takes("cuda.Graph.launch")
    def launch(self, stream: Stream) -> None:
        self.cupy.log["graph"] += 1
        self.cupy.pending.extend(self.work)


class Memory:
    """Of the current device. What is given back is what others get, after all that was queued for it."""

    def __init__(self, cupy: StandIn, size: int) -> None:
        self.cupy, self.place = cupy, (cupy.device, size)
        self.bytes: np.ndarray | None = None
        with cupy.lock:
            if cupy.used_bytes[cupy.device] + size > cupy.most_bytes:
                raise CUDARuntimeError(OUT_OF_MEMORY)
            cupy.used_bytes[cupy.device] += size
            cupy.most_used = max(cupy.most_used, cupy.used_bytes[cupy.device])
            waiting = cupy.given_back[self.place]
            self.bytes = waiting.pop() if waiting else np.empty(size, np.uint8)
            self.bytes.fill(0xFF)

    def __del__(self) -> None:
        if self.bytes is not None:
            self.cupy.wait()
            self.cupy.used_bytes[self.place[0]] -= self.place[1]
            self.cupy.given_back[self.place].append(self.bytes)


class Pool:
    """Memory by device and stream, taken again once it is free; as CuPy's, without dividing it."""

    def __init__(self, cupy: StandIn, allocator: Callable[[int], Any] | None = None) -> None:
        self.cupy = cupy
        self.allocator = allocator or (lambda size: SimpleNamespace(mem=Memory(cupy, size)))
        self.free: dict[tuple[int, int, int], list[Memory]] = defaultdict(list)

    @takes("cuda.MemoryPool.malloc")
    def malloc(self, size: int) -> Block:
        self.cupy.log["allocation"] += 1
        place = self.cupy.device, self.cupy.current(self.cupy.device).ptr, -(-max(size, 1) // 512) * 512
        waiting = self.free[place]
        return Block(self, place, waiting.pop() if waiting else self._new(place[-1]))

    def _new(self, size: int) -> Memory:
        """Where the device has no more, first what is free goes back to it, then what the garbage collector finds."""
        for look_for_more in (lambda: None, gc.collect):
            try:
                return self.allocator(size).mem
            except CUDARuntimeError as e:
                if e.status != OUT_OF_MEMORY:
                    raise
            look_for_more()
            self.free_all_blocks()
        try:
            return self.allocator(size).mem
        except CUDARuntimeError as e:
            raise MemoryError from e

    @takes("cuda.MemoryPool.free_all_blocks")
    def free_all_blocks(self) -> None:
        for place in list(self.free):
            if place[0] == self.cupy.device:
                del self.free[place]


@dataclass
class Block:
    pool: Pool
    place: tuple[int, int, int]
    memory: Memory

    def __del__(self) -> None:
        self.pool.free[self.place].append(self.memory)


class Array(np.lib.mixins.NDArrayOperatorsMixin):
    """A cupy.ndarray. What is queued holds on to ``host`` alone, so that memory is taken again as on a GPU."""

    def __init__(self, cupy: StandIn, host: np.ndarray, block: Block, device: int) -> None:
        self.cupy, self.host, self.block = cupy, host, block
        self.device = SimpleNamespace(id=device)
        self.ptr = host.__array_interface__["data"][0]

    @classmethod
    def new(cls, cupy: StandIn, shape: Any, dtype: np.dtype) -> Array:
        shape = shape if isinstance(shape, tuple) else (shape,)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        block = cupy.pool.malloc(size)
        return cls(cupy, block.memory.bytes[:size].view(dtype).reshape(shape), block, cupy.device)

    data = property(lambda self: SimpleNamespace(ptr=self.ptr, memset_async=self.memset))
    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    strides = property(lambda self: self.host.strides)
    flags = property(lambda self: self.host.flags)
    __cuda_array_interface__ = property(lambda self: self.host.__array_interface__)

    def __len__(self) -> int:
        return len(self.host)

    @takes("cuda.MemoryPointer.memset_async")
    def memset(self, value: int, size: int) -> None:
        host = self.host
        self.cupy.queue("memset", lambda: host.reshape(-1).view(np.uint8).fill(value), writes=[self])

    def part(self, host: np.ndarray) -> Array:
        return Array(self.cupy, host, self.block, self.device.id)

    def made(self, what: str, function: Callable[..., np.ndarray], *arrays: Any) -> Array:
        """A new array of what the function gives for the arrays' values."""

        hosts = [_hosts(a) for a in arrays]

        def result() -> np.ndarray:
            with np.errstate(all="ignore"):
                return np.asarray(function(*hosts))

        like = result()
        y = Array.new(self.cupy, like.shape, like.dtype)
        host, reads = y.host, [a for a in arrays if isinstance(a, Array)]
        self.cupy.queue(what, lambda: np.copyto(host, result()), reads, [y])
        return y

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        assert all(isinstance(a, (Array, np.generic, int, float)) for a in inputs), "an array of the host on a GPU"
        function = partial(getattr(ufunc, method), **options)
        if out is None:
            return self.made(ufunc.__name__, function, *inputs)
        (y,) = out
        host, hosts = y.host, [_hosts(a) for a in inputs]
        reads = [a for a in inputs if isinstance(a, Array)]
        self.cupy.queue(ufunc.__name__, lambda: np.copyto(host, function(*hosts), casting="same_kind"), reads, [y])
        return y

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        assert function is np.concatenate, function
        accept("concatenate", *args, **kwargs)
        return self.made("concatenate", lambda *parts: np.concatenate(parts, **kwargs), *args[0])

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    @takes("ndarray.get")
    def get(self) -> np.ndarray:
        self.cupy.refuse_in_graphs()
        self.cupy.log["wait"] += 1
        self.cupy.wait()
        return self.host.copy()

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __getitem__(self, index: Any) -> Array:
        host = self.host[index]
        assert host.size == 0 or np.shares_memory(host, self.host)  # all else would make a new array
        return self.part(host)

    def __setitem__(self, index: Any, value: Any) -> None:
        host, values = self.host, _hosts(value)
        target = self.part(self.host[index]) if isinstance(self.host[index], np.ndarray) else self
        reads = [value] if isinstance(value, Array) else []
        self.cupy.queue("copy", lambda: host.__setitem__(index, values), reads, [target])

    @takes("ndarray.reshape")
    def reshape(self, *shape: Any) -> Array:
        host = self.host.reshape(*shape)
        if np.shares_memory(host, self.host):
            return self.part(host)
        return self.made("copy", lambda x: x.reshape(*shape), self)

    def _method(name: str) -> Any:
        @takes(f"ndarray.{name}")
        def call(self: Array, *args: Any, **kwargs: Any) -> Array:
            return self.made(name, lambda x: getattr(x, name)(*args, **kwargs), self)

        return call

    astype, copy, sum, mean, argmax, clip, max, min = map(
        _method, ("astype", "copy", "sum", "mean", "argmax", "clip", "max", "min")
    )


Array.__module__ = "cupy"


def _arrays(argument: Any) -> list[Array]:
    some = argument if isinstance(argument, list) else [argument]
    return [a for a in some if isinstance(a, Array)]


def _hosts(argument: Any) -> Any:
    if isinstance(argument, list):
        return [_hosts(a) for a in argument]
    return argument.host if isinstance(argument, Array) else argument


class Native(ModuleType):
    """``_gpu``: the launchers of ``_cpu`` on arrays of the stand-in."""

    def __init__(self, cupy: StandIn) -> None:
        super().__init__("alexnet_cuda._gpu")
        self.cupy = cupy

    def __getattr__(self, name: str) -> Any:
        function = getattr(_cpu, name)
        if name not in BY_NAME:
            return function

        def launch(*args: Any) -> None:
            *rest, ptr = args
            if name in self.cupy.refused:
                raise RuntimeError(f"{name}: an illegal memory access was encountered")
            groups = [_arrays(a) for a in rest]  # an argument may be a list, or None
            written = groups[: len(BY_NAME[name].outputs)] + groups[-1:] * BY_NAME[name].scratch
            outputs = [a for group in written for a in group]
            inputs = [a for group in groups for a in group if not any(a is o for o in outputs)]
            assert all(a.device.id == self.cupy.device for a in inputs + outputs), f"{name}: of another device"
            hosts = [_hosts(a) for a in rest]
            self.cupy.queue(name, lambda: function(*hosts), inputs, outputs, ptr)

        return launch


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """``backend`` finds two GPUs of compute capability 9.0, which are the stand-in's."""
    cupy = StandIn()
    monkeypatch.setattr(libraries, "cupy", lambda: cupy)
    for room in (backend, discovery):
        monkeypatch.setattr(room, "gpu_problem", lambda: None)
    monkeypatch.setattr(discovery, "driver", lambda: ((13, 0), [(9, 0)] * cupy.devices))
    pinned = SimpleNamespace(empty_pinned=takes("cupyx.empty_pinned")(lambda shape, dtype: np.empty(shape, dtype)))
    monkeypatch.setitem(sys.modules, "cupyx", pinned)
    monkeypatch.setitem(sys.modules, "alexnet_cuda._gpu", Native(cupy))
    caches = [
        streams.own_stream, streams._capture_stream, streams._zero,
        transfers._copy_stream, peers._peers, arrays._constant,
    ]  # fmt: skip
    for cache in caches:
        cache.cache_clear()
    yield cupy
    for cache in caches:
        cache.cache_clear()
