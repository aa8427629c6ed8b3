"""What this project uses of CuPy 14: names, arguments, and the types that compiled functions want. The stand-in refuses
calls that do not fit; `test_oracle_cupy.py` holds all of it against CuPy itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

CALLS = """\
arange(start, stop=None, step=1, dtype=None)
array(obj, dtype=None, copy=True, order='K', subok=False, ndmin=0, *, blocking=False)
asarray(a, dtype=None, order=None, *, copy=None, blocking=False)
ascontiguousarray(a, dtype=None)
asnumpy(a, stream=None, order='C', out=None, *, blocking=True)
concatenate(tup, axis=0, out=None, *, dtype=None, casting='same_kind')
copyto(dst, src, casting='same_kind', where=None)
empty(shape, dtype=float, order='C')
empty_like(prototype, dtype=None, order='K', subok=None, shape=None)
from_dlpack(array, *, device=None, copy=None)
full(shape, fill_value, dtype=None, order='C')
get_default_memory_pool()
zeros(shape, dtype=float, order='C')
random.default_rng(seed=None)
ndarray.argmax(self, axis=None, out=None, dtype=None, keepdims=False)
ndarray.astype(self, dtype, order='K', casting=None, subok=None, copy=True)
ndarray.clip(self, min=None, max=None, out=None)
ndarray.copy(self, order='C')
ndarray.get(self, stream=None, order='C', out=None, blocking=True)
ndarray.max(self, axis=None, out=None, keepdims=False)
ndarray.mean(self, axis=None, dtype=None, out=None, keepdims=False)
ndarray.min(self, axis=None, out=None, keepdims=False)
ndarray.reshape(self, *shape, order='C', copy=None)
ndarray.sum(self, axis=None, dtype=None, out=None, keepdims=False)
cuda.Device(device=None)
cuda.Device.synchronize(self)
cuda.Device.use(self)
cuda.Event(block=False, disable_timing=False, interprocess=False)
cuda.Event.record(self, stream=None)
cuda.Event.synchronize(self)
cuda.ExternalStream(ptr, device_id=-1)
cuda.Graph.launch(self, stream=None)
cuda.Graph.upload(self, stream=None)
cuda.Memory(size_t size)
cuda.MemoryPointer(BaseMemory mem, ptrdiff_t offset)
cuda.MemoryPointer.memset_async(self, int value, size_t size, stream=None)
cuda.MemoryPool(allocator=None)
cuda.MemoryPool.free_all_blocks(self, stream=None)
cuda.MemoryPool.malloc(self, size_t size)
cuda.MemoryPool.total_bytes(self)
cuda.Stream(null=False, non_blocking=False, ptds=False, priority=None)
cuda.Stream.begin_capture(self, mode=None)
cuda.Stream.end_capture(self)
cuda.Stream.from_external(obj)
cuda.Stream.record(self, event=None)
cuda.Stream.synchronize(self)
cuda.Stream.wait_event(self, event)
cuda.get_current_stream(int device_id=-1)
cuda.get_elapsed_time(start_event, end_event)
cuda.is_available()
cuda.using_allocator(allocator=None)
cuda.runtime.deviceCanAccessPeer(int device, int peerDevice)
cuda.runtime.deviceEnablePeerAccess(int peerDevice)
cuda.runtime.getDeviceCount()
cuda.runtime.getDeviceProperties(int device)
cuda.runtime.memcpyAsync(intptr_t dst, intptr_t src, size_t size, int kind, intptr_t stream)
cuda.runtime.memcpyPeerAsync(intptr_t dst, int dstDevice, intptr_t src, int srcDevice, size_t size, intptr_t stream)
cuda.nccl.NcclCommunicator(int ndev, bytes commId, int rank, NcclConfig config=None)
cuda.nccl.NcclCommunicator.allGather(self, intptr_t sendbuf, intptr_t recvbuf, \
size_t count, int datatype, intptr_t stream)
cuda.nccl.NcclCommunicator.allReduce(self, intptr_t sendbuf, intptr_t recvbuf, \
size_t count, int datatype, int op, intptr_t stream)
cuda.nccl.NcclCommunicator.reduceScatter(self, intptr_t sendbuf, intptr_t recvbuf, \
size_t recvcount, int datatype, int op, intptr_t stream)
cuda.nccl.get_unique_id()
cupyx.empty_pinned(shape, dtype=float, order='C')
"""
CONSTANTS = {
    "cuda.runtime.memcpyHostToDevice": 1,
    "cuda.runtime.memcpyDeviceToHost": 2,
    "cuda.runtime.memcpyDeviceToDevice": 3,
    "cuda.nccl.NCCL_SUM": 0,
    "cuda.nccl.NCCL_FLOAT32": 7,
}
OTHERS = [
    "__version__", "nan", "float32", "int32", "cuda.Stream.null", "cuda.nccl.available", "cuda.runtime.CUDARuntimeError"
]  # fmt: skip
"""Names of the module that are no functions."""
RANGES = {
    "ptrdiff_t": (-(2**63), 2**63 - 1),
    "int": (-(2**31), 2**31 - 1),
    "intptr_t": (-(2**63), 2**63 - 1),
    "size_t": (0, 2**64 - 1),
}


def parse(line: str) -> tuple[str, Signature]:
    """Name and signature of "a.f(self, int x, y=2, *, z=None) -> int"; an argument's type, in C, is its annotation."""
    found = re.fullmatch(r"([\w.]+)\((.*)\)(?: -> .*)?", line)
    assert found, line
    name, text = found.groups()
    parameters, kind = list[Parameter](), Parameter.POSITIONAL_OR_KEYWORD
    for part in re.findall(r"[^\s,][^,]*", text):
        if part == "*":
            kind = Parameter.KEYWORD_ONLY
            continue
        declared, equals, default = part.partition("=")
        *types, argument = declared.split()
        starred = argument.startswith("*")
        parameter = Parameter(
            argument.lstrip("*"), Parameter.VAR_POSITIONAL if starred else kind,
            default=default if equals else Parameter.empty, annotation=types[0] if types else Parameter.empty,
        )  # fmt: skip
        kind = Parameter.KEYWORD_ONLY if starred else kind
        parameters.append(parameter)
    return name, Signature(parameters)


SIGNATURES = dict(map(parse, CALLS.splitlines()))


def accept(name: str, *arguments: Any, **named: Any) -> None:
    """TypeError or OverflowError for arguments that CuPy's function of that name does not take."""
    signature = SIGNATURES[name]
    for argument, value in signature.bind(*arguments, **named).arguments.items():
        wanted = signature.parameters[argument].annotation
        if wanted in RANGES:
            if not isinstance(value, int):
                raise TypeError(f"{name}: {argument}: expected int, got {type(value).__name__}")
            low, high = RANGES[wanted]
            if not low <= value <= high:
                raise OverflowError(f"{name}: {argument}: {value} does not fit {wanted}")
        elif wanted == "bytes" and type(value) is not bytes:
            raise TypeError(f"{name}: {argument}: expected bytes, got {type(value).__name__}")


def takes(name: str) -> Callable[[Function], Function]:
    """A decorator for what stands for CuPy's function of that name: it is called as that may be called."""

    def decorate(function: Function) -> Function:
        first = next(iter(inspect.signature(function).parameters), "")
        own = first == "self" and "self" not in SIGNATURES[name].parameters  # the stand-in's, where CuPy has a module

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            accept(name, *arguments[own:], **named)
            return function(*arguments, **named)

        return call

    return decorate
