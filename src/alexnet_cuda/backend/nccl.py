"""Collective operations of several processes, by NCCL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .. import trace
from ..deprecation import OldName
from . import libraries, streams
from .discovery import Device
from .libraries import Array


class Nccl:
    """Collective operations on float32 arrays of GPUs, one in each of several processes, on a stream of their own."""

    def __init__(self, where: Device, size: int, unique_id: Sequence[int], rank: int) -> None:
        """``unique_id`` is what ``Nccl.unique_id()`` gave one of the processes."""
        self.where, self.size = where, size
        self.held: deque[tuple[Any, Array, Array]] = deque()  # arrays in use until the event has passed
        with streams.on(where):
            self.stream = libraries.cupy().cuda.Stream(non_blocking=True)
            self._communicator = libraries.nccl().NcclCommunicator(size, bytes(unique_id), rank)

    @staticmethod
    def unique_id() -> list[int]:
        """What tells one group of processes from others."""
        return list(libraries.nccl().get_unique_id())

    number = OldName("unique_id")

    def begin(self, operation: str, x: Array, y: Array) -> Callable[[], None]:
        """Begins allReduce (a sum), allGather or reduceScatter of x into y, after what made x. The function returned
        makes what follows on this thread's stream wait for it."""
        nccl, nccl_stream = libraries.nccl(), self.stream
        count, add = min(x.size, y.size), nccl.NCCL_SUM
        options = {"allReduce": [add], "reduceScatter": [add], "allGather": []}[operation]
        with streams.on(self.where):
            user = streams.current_and_own(self.where)[0]
            nccl_stream.wait_event(user.record())
            with trace.span(operation, "between processes", partial(streams.moment_of, self.where, nccl_stream)):
                call = getattr(self._communicator, operation)
                call(x.data.ptr, y.data.ptr, count, nccl.NCCL_FLOAT32, *options, nccl_stream.ptr)
            done = nccl_stream.record()
        self.held.append((done, x, y))
        while self.held and self.held[0][0].done:
            self.held.popleft()
        return lambda: user.wait_event(done)


def nccl_problem() -> str | None:
    """None where CuPy finds NCCL; else one line on what mends it."""
    if libraries.nccl().available:
        return None
    extra = "nccl13" if libraries.native_cpu.build_info()["cuda"].startswith("13") else "nccl12"
    return f"several processes on GPUs need NCCL, which CuPy does not find: pip install 'alexnet-cuda[{extra}]'"
