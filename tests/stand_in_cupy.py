"""A stand-in for CuPy and the module ``_gpu`` on a machine without a GPU: arrays in host memory, kernels of ``_cpu``.
As a pytest plugin it puts itself in their place.

It notes what it is asked to do. Streams are recorded as CUDA's are: what is queued on them is noted, not done, until
the graph is launched; what CUDA refuses while recording is refused; and at the end of a recording every two accesses to
the same memory, one of them a write, must be in an order that streams and events enforce. What is not recorded is done
as late as may be: when the host waits for it.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from test_bindings import BY_NAME

from alexnet_cuda import _cpu, backend


class CUDARuntimeError(RuntimeError):
    """What CuPy makes of an error code."""


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
        """Of a pool."""
        self.null = {i: Stream(self, i, ptr=0) for i in range(devices)}
        self.default_pool = Pool(self)
        own = self
        self.cuda = SimpleNamespace(
            Device=lambda index=0: Device(own, index),
            Stream=lambda non_blocking: Stream(own, own.device, next(own.numbers)),
            Event=lambda disable_timing=False: Event(own, own.device),
            get_current_stream=lambda index=None: own.current(own.device if index is None else index),
            MemoryPool=lambda: Pool(own),
            using_allocator=self.using_allocator,
            runtime=SimpleNamespace(
                memcpyHostToDevice="copy from the host", memcpyDeviceToHost="copy to the host",
                memcpyDeviceToDevice="copy", memcpyAsync=self.memcpy, memcpyPeerAsync=self.memcpy_peer,
                getDeviceCount=lambda: devices, deviceCanAccessPeer=lambda a, b: True,
                deviceEnablePeerAccess=lambda a: None,
            ),
        )  # fmt: skip
        self.__version__ = "0"

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

    @contextmanager
    def using_allocator(self, malloc: Any) -> Iterator[None]:
        before, self.local.pool = self.pool, malloc.__self__
        yield
        self.local.pool = before

    # ---- work

    def refuse(self, what: str) -> None:
        if self.recording:
            raise CUDARuntimeError(f"{what}: operation not permitted when stream is capturing")

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

    def memcpy(self, to: int, source: int, size: int, kind: str, ptr: int) -> None:
        reads = [] if kind == "copy from the host" else [(source, size)]
        writes = [] if kind == "copy to the host" else [(to, size)]
        self.queue(kind, lambda: ctypes.memmove(to, source, size) and None, reads, writes, ptr)

    def memcpy_peer(self, to: int, _: int, source: int, __: int, size: int, ptr: int) -> None:
        self.memcpy(to, source, size, "copy", ptr)

    # ---- the module's functions

    def get_default_memory_pool(self) -> Pool:
        return self.default_pool

    def empty(self, shape: Any, dtype: Any = np.float32) -> Array:
        return Array.new(self, shape, np.dtype(dtype))

    def zeros(self, shape: Any, dtype: Any = np.float32) -> Array:
        array = self.empty(shape, dtype)
        host = array.host
        self.queue("memset", lambda: host.fill(0), writes=[array])
        return array

    def array(self, values: Any, order: str = "C") -> Array:
        if isinstance(values, Array):
            return values.copy()
        values = np.array(values)
        array = self.empty(values.shape, values.dtype)
        self.log["wait"] += 1  # memory that is not pinned
        host = array.host
        self.queue("copy from the host", lambda: np.copyto(host, values), writes=[array])
        return array

    asarray = array

    def arange(self, *args: Any) -> Array:
        return self.array(np.arange(*args))

    def ascontiguousarray(self, array: Array) -> Array:
        return array if array.flags.c_contiguous else array.copy()


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

    def use(self) -> None:
        self.cupy.local.device = self.id

    def synchronize(self) -> None:
        self.cupy.refuse("Device.synchronize")
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

    def record(self, event: Event | None = None) -> Event:
        event = event or Event(self.cupy, self.device)
        assert event.device == self.device, "an event of another device than the stream"
        event.recording, event.clock = self.recording, self.clock.copy()
        event.after = self.cupy.done + len(self.cupy.pending)
        return event

    def wait_event(self, event: Event) -> None:
        if event.recording is None and self.recording is not None and self.cupy.recording:
            raise CUDARuntimeError("dependency created on uncaptured work in another stream")
        if event.recording is not None and event.recording is self.cupy.recording:
            self.recording = event.recording
            event.recording.streams.add(self)
            self.clock |= event.clock

    def synchronize(self) -> None:
        self.cupy.refuse("Stream.synchronize")
        self.cupy.log["wait"] += 1
        self.cupy.wait()

    def begin_capture(self) -> None:
        assert self.ptr, "the null stream cannot be captured"
        assert self.cupy.recording is None
        self.recording = self.cupy.recording = Recording(self)
        self.recording.streams.add(self)

    def end_capture(self) -> Graph:
        done, self.cupy.recording = self.cupy.recording, None
        assert done and done.origin is self
        clocks = {stream: stream.clock.copy() for stream in done.streams}
        for stream in done.streams:
            stream.recording, stream.clock = None, Counter()
        for stream, clock in clocks.items():
            if clocks[self][stream.ptr] < clock[stream.ptr]:
                raise CUDARuntimeError("a stream of the capture has not been joined")
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
        self.cupy.refuse("Event.done")
        return self.cupy.done >= self.after

    def synchronize(self) -> None:
        self.cupy.refuse("Event.synchronize")
        self.cupy.log["event"] += 1
        self.cupy.wait(self.after)


@dataclass
class Graph:
    cupy: StandIn
    work: list[Callable[[], None]]

    def upload(self) -> None:
        assert self.cupy.recording is None

    def launch(self, stream: Stream) -> None:
        self.cupy.log["graph"] += 1
        self.cupy.pending.extend(self.work)


class Pool:
    """Memory by device and stream, taken again once it is free; as CuPy's, without dividing it."""

    def __init__(self, cupy: StandIn) -> None:
        self.cupy = cupy
        self.free: dict[tuple[int, int, int], list[np.ndarray]] = defaultdict(list)
        self.total = 0

    def malloc(self, size: int) -> Block:
        self.cupy.log["allocation"] += 1
        place = self.cupy.device, self.cupy.current(self.cupy.device).ptr, -(-max(size, 1) // 512) * 512
        waiting = self.free[place]
        if not waiting:
            self.total += place[-1]
            if self.total > self.cupy.most_bytes:
                raise MemoryError
        return Block(self, place, waiting.pop() if waiting else np.full(place[-1], 0xFF, np.uint8))

    def free_all_blocks(self) -> None:
        self.free.clear()


@dataclass
class Block:
    pool: Pool
    place: tuple[int, int, int]
    memory: np.ndarray

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
        return cls(cupy, block.memory[:size].view(dtype).reshape(shape), block, cupy.device)

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

    def memset(self, value: int, size: int) -> None:
        host = self.host
        self.cupy.queue("memset", lambda: host.reshape(-1).view(np.uint8).fill(value), writes=[self])

    def view(self, host: np.ndarray) -> Array:
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
        return self.made("concatenate", lambda *parts: np.concatenate(parts, **kwargs), *args[0])

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def _wait(self) -> np.ndarray:
        self.cupy.refuse("a copy to the host")
        self.cupy.log["wait"] += 1
        self.cupy.wait()
        return self.host.copy()

    get = _wait

    def __float__(self) -> float:
        return float(self._wait())

    def __int__(self) -> int:
        return int(self._wait())

    def __bool__(self) -> bool:
        return bool(self._wait())

    def __getitem__(self, index: Any) -> Array:
        host = self.host[index]
        assert host.size == 0 or np.shares_memory(host, self.host)  # all else would make a new array
        return self.view(host)

    def __setitem__(self, index: Any, value: Any) -> None:
        host, values = self.host, _hosts(value)
        target = self.view(self.host[index]) if isinstance(self.host[index], np.ndarray) else self
        reads = [value] if isinstance(value, Array) else []
        self.cupy.queue("copy", lambda: host.__setitem__(index, values), reads, [target])

    def reshape(self, *shape: Any) -> Array:
        host = self.host.reshape(*shape)
        if np.shares_memory(host, self.host):
            return self.view(host)
        return self.made("copy", lambda x: x.reshape(*shape), self)

    def _method(name: str) -> Any:
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
            groups = [found for a in rest if (found := _arrays(a))]  # an argument may be a list
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
    monkeypatch.setattr(backend, "_cupy", lambda: cupy)
    monkeypatch.setattr(backend, "gpu_problem", lambda: None)
    monkeypatch.setattr(backend, "_driver", lambda: ((13, 0), [(9, 0)] * cupy.devices))
    pinned = SimpleNamespace(empty_pinned=lambda shape, dtype: np.empty(shape, dtype))
    monkeypatch.setitem(sys.modules, "cupyx", pinned)
    monkeypatch.setitem(sys.modules, "alexnet_cuda._gpu", Native(cupy))
    caches = [backend._own_stream, backend._trunk, backend._lane, backend._peers, backend._constant]
    for cache in caches:
        cache.cache_clear()
    yield cupy
    for cache in caches:
        cache.cache_clear()
