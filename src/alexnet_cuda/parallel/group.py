"""Processes that train together: who they are, what they exchange, how they learn that one of them has died.

``join`` makes a ``Group`` of the processes that one launcher started: ``mpirun``, or any that sets RANK, WORLD_SIZE,
MASTER_ADDR and MASTER_PORT (and LOCAL_RANK) as torchrun does. Arrays travel through MPI on CPUs and through NCCL on
GPUs. Beside them each process keeps a connection to rank 0, the wire: over it go small values and signs of life, so
that a process that dies or fails ends the others, which a collective operation would leave waiting for ever.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeVar

from .. import backend, trace
from ..deprecation import OldName
from ..kernels import Array

T = TypeVar("T")

BEAT_SECONDS = 5.0
GRACE_SECONDS = 1.0  # for a process to fail by itself, where another failed perhaps for the same reason
SILENT_SECONDS = 20.0  # a process not heard of for so long counts as dead
JOIN_SECONDS = 60.0
LONGEST = 1 << 24  # bytes of a message

SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Where MPI's launchers say how many processes they started."""


class GroupError(ValueError):
    """Processes cannot train together; the message is one line that says why."""


class Lost(Exception):
    """Another process is gone, or has failed."""


class Group:
    """One process, alone; the base of those of more.

    ``rank`` of ``size`` processes, ``local_rank`` of the ``local_size`` on this machine. All of them have to call the
    other methods, in the same order. Arrays are float32, C-contiguous, and lie on the group's device.
    """

    rank, size, local_rank, local_size, alone = 0, 1, 0, 1, True

    @property
    def names(self) -> list[str]:
        """What the system calls the processes: the number and the machine of each."""
        return [f"{os.getpid()} on {socket.gethostname()}"]

    def all_gather_object(self, value: Any) -> list[Any]:
        """Every process's value, by rank: plain data, a few bytes to a few kilobytes."""
        return [value]

    exchange = OldName("all_gather_object")

    def all_reduce(self, x: Array) -> Callable[[], None]:
        """Begins to replace x, in every process, by the sum of all; call what it returns before x is used."""
        return lambda: None

    def all_gather(self, x: Array) -> Array:
        """The arrays of all processes, of one shape: (size, *x.shape)."""
        return x[None]

    def reduce_scatter(self, x: Array) -> Array:
        """x: (size, ...); the sum over all processes of x[rank]."""
        return x[0]

    def leave(self) -> None:
        """The end of the group, of which all know: from now on the others may go."""

    def attempt(self, task: Callable[[], T]) -> T:
        """What the task returns; where it fails in one process, it has failed in all: with its own error, or with a
        GroupError that says what stopped another."""
        try:
            result, failure = task(), None
        except Exception as e:
            failure = e
        failures = self.all_gather_object(None if failure is None else " ".join(str(failure).split()))
        if any(text is not None for text in failures):
            self.leave()
            raise failure or GroupError(next(f"process {r}: {text}" for r, text in enumerate(failures) if text))
        return result

    def agree(self, values: Mapping[str, Any]) -> None:
        """GroupError, naming the first difference, unless these plain values are the same in all processes."""
        everyone = [json.loads(text) for text in self.all_gather_object(json.dumps(dict(values)))]
        for rank, other in enumerate(everyone):
            for name in {**everyone[0], **other}:
                expected, got = everyone[0].get(name), other.get(name)
                if got != expected:
                    self.leave()
                    raise GroupError(f"process {rank} differs from process 0 in {name}: {got!r}, not {expected!r}")


@dataclass(frozen=True)
class Launch:
    """How this process was started: as ``rank`` of ``size``, by ``mpi``'s launcher or by another."""

    rank: int
    size: int
    mpi: bool


def launch() -> Launch | None:
    """What the environment says of the launcher; None where there was none. GroupError for what makes no sense."""
    for name in SIZES:
        if name in os.environ:
            return Launch(-1, _number(name, 1), True)  # MPI itself knows the rank
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        size = _number("WORLD_SIZE", 1)
        return Launch(_number("RANK", 0, size - 1), size, False)
    return None


def _number(name: str, least: int, most: int = 1 << 20) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal() or not least <= int(text) <= most:
        raise GroupError(f"the environment's {name}: expected a number from {least} to {most}, got {text!r}")
    return int(text)


@contextmanager
def join(kind: str) -> Iterator[Group]:
    """Within this block this process is one of the group that its launcher started, to work on devices of that kind,
    "cpu" or "cuda". GroupError when it cannot be. An error that leaves the block ends the other processes, too."""
    begun = launch()
    if begun is None or (begun.size == 1 and not begun.mpi and kind == "cpu"):
        yield Group()
        return
    if kind == "cuda" and (problem := backend.nccl_problem()):
        raise GroupError(problem)
    wire, comm = _met(begun, kind)
    finalize = _mpi().Finalize if comm is not None else lambda: None
    try:
        group = _Nccl(wire, backend.Device("cuda", wire.local_rank)) if kind == "cuda" else _Mpi(wire, comm)
        yield group
    except BaseException as e:
        if wire.closed:  # all know, and end as well
            finalize()
        else:
            wire.fail(f"{type(e).__name__}: {e}" if str(e) else type(e).__name__)
        raise
    group.leave()
    finalize()


def _met(begun: Launch, kind: str) -> tuple[Wire, Any]:
    """The wire of this launch and, where MPI started it, its communicator."""
    if not begun.mpi:
        if kind == "cpu":
            raise GroupError("processes on CPUs talk through MPI: start them with mpirun -n N")
        host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), _number("MASTER_PORT", 1, 65535)
        return Wire(begun.rank, begun.size, (host, port), ""), None
    signal.setitimer(signal.ITIMER_REAL, JOIN_SECONDS)  # a process that never comes would be waited for for ever
    try:
        MPI = _mpi()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    comm = MPI.COMM_WORLD
    if comm.size != begun.size:
        library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
        raise GroupError(
            f"the launcher started {begun.size} processes, but mpi4py's MPI ({library}) sees {comm.size}: "
            "launcher and library are of different MPIs; use the mpirun that belongs to the library"
        )
    hosts = comm.allgather(socket.gethostname())
    server, meeting = None, None
    if comm.rank == 0:
        server = socket.create_server(("127.0.0.1" if len(set(hosts)) == 1 else "", 0), backlog=comm.size)
        name = "127.0.0.1" if len(set(hosts)) == 1 else hosts[0]
        meeting = (name, server.getsockname()[1]), secrets.token_hex(16)
    address, token = comm.bcast(meeting)
    return Wire(comm.rank, comm.size, address, token, server), comm


def _mpi() -> Any:
    try:
        import mpi4py

        mpi4py.rc.finalize = False  # a process that fails must not wait for the others
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a strange launcher: what comes of it is checked
            from mpi4py import MPI
    except (ImportError, RuntimeError) as e:
        raise GroupError(f"processes on CPUs need mpi4py and an MPI: pip install 'alexnet-cuda[mpi]' ({e})") from e
    return MPI


# ---------------------------------------------------------------------------------------------- the wire


class _Line:
    """A connection over which messages go, one a line, as JSON."""

    def __init__(self, connection: socket.socket, patience: float = JOIN_SECONDS) -> None:
        """``patience``: seconds for which the other end may be silent."""
        connection.settimeout(BEAT_SECONDS)
        self.connection, self.patience, self.sending, self.buffer = connection, patience, threading.Lock(), b""

    def send(self, message: Mapping[str, Any]) -> None:
        """OSError when the other end is gone."""
        with self.sending:
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        """The next message. Lost when the other end is gone or silent, or sends what is none."""
        silent = 0.0
        while b"\n" not in self.buffer:
            try:
                got = self.connection.recv(1 << 16)
            except TimeoutError:
                silent += BEAT_SECONDS  # not measured: that this process was stopped for a while proves nothing
                if silent >= self.patience:
                    raise Lost(f"has not been heard of for {silent:.0f} s") from None
                continue
            except OSError as e:
                raise Lost(f"died ({e.strerror})") from e
            if not got:
                raise Lost("died")
            silent, self.buffer = 0.0, self.buffer + got
            if len(self.buffer) > LONGEST:
                raise Lost("sent what is no message")
        line, _, self.buffer = self.buffer.partition(b"\n")
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError):
            raise Lost("sent what is no message") from None


class Wire:
    """Connections of all processes to rank 0; a thread each listens.

    Whoever loses another without a good-bye, or hears that one failed, ends at once with exit code 1; the first to know
    says so on standard error.
    """

    def __init__(
        self, rank: int, size: int, address: tuple[str, int], token: str, server: socket.socket | None = None
    ) -> None:
        self.rank, self.size = rank, size
        self.lines: dict[int, _Line] = {}
        self._values: dict[int, queue.Queue[Any]] = {}
        self._closing = threading.Event()
        hello = {"rank": rank, "token": token, "host": socket.gethostname(), "pid": os.getpid()}
        until = time.monotonic() + JOIN_SECONDS
        try:
            meet = self._connect if rank else partial(self._receive_all, server)
            hellos = meet(hello, address, until)
        except GroupError:
            for line in self.lines.values():
                line.connection.close()
            raise
        hosts = [h["host"] for h in hellos]
        self.names = [f"{h['pid']} on {h['host']}" for h in hellos]
        self.local_size = hosts.count(hosts[rank])
        self.local_rank = hosts[:rank].count(hosts[rank])
        if "LOCAL_RANK" in os.environ:
            self.local_rank = _number("LOCAL_RANK", 0)
        for other, line in self.lines.items():
            self._values[other], line.patience = queue.Queue(), SILENT_SECONDS
            threading.Thread(target=self._listen, args=(other,), daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    def _receive_all(
        self, server: socket.socket | None, hello: dict[str, Any], address: tuple[str, int], until: float
    ) -> list[dict[str, Any]]:
        """Rank 0: waits for all others, and tells each who they are."""
        if server is None:
            try:
                server = socket.create_server(address, backlog=self.size)
            except OSError as e:
                raise GroupError(f"process 0 cannot listen on {address[0]}, port {address[1]}: {e.strerror}") from e
        hellos: dict[int, dict[str, Any]] = {0: hello}
        with server:
            while len(hellos) < self.size:
                server.settimeout(max(0.01, until - time.monotonic()))
                try:
                    line = _Line(server.accept()[0], patience=BEAT_SECONDS)
                    other = line.receive()
                except TimeoutError:
                    missing = ", ".join(str(r) for r in range(self.size) if r not in hellos)
                    raise GroupError(f"of {self.size} processes these did not join: {missing}") from None
                except Lost:
                    continue
                number = other.get("rank")
                if not isinstance(number, int) or not 0 < number < self.size or other.get("token") != hello["token"]:
                    line.connection.close()  # a stranger
                    continue
                if number in hellos:
                    line.connection.close()
                    raise GroupError(f"two processes say that they are process {number}")
                self.lines[number], hellos[number] = line, other
        ordered = [hellos[r] for r in range(self.size)]
        for line in self.lines.values():
            line.send({"everyone": [{**h, "token": ""} for h in ordered]})
        return ordered

    def _connect(self, hello: dict[str, Any], address: tuple[str, int], until: float) -> list[dict[str, Any]]:
        while True:
            try:
                connection = socket.create_connection(address, timeout=BEAT_SECONDS)
                break
            except OSError as e:  # rank 0 may be late
                if time.monotonic() > until:
                    where = f"{address[0]}, port {address[1]}"
                    raise GroupError(f"process {self.rank} cannot reach process 0 at {where}: {e}") from e
                time.sleep(0.1)
        self.lines[0] = _Line(connection)
        try:
            self.lines[0].send(hello)
            return list(self.lines[0].receive()["everyone"])
        except (Lost, OSError, KeyError) as e:
            raise GroupError(f"process 0 did not let process {self.rank} join: it {e}") from e

    def all_gather_object(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        if self.rank:
            self._send(0, {"value": value})
            return list(self._values[0].get())
        values = [value, *(self._values[r].get() for r in range(1, self.size))]
        for other in self.lines:
            self._send(other, {"value": values})
        return values

    def close(self) -> None:
        """Says good-bye, once everyone is about to."""
        self.all_gather_object(None)
        self._closing.set()
        self._tell({"bye": self.rank})

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    def fail(self, reason: str) -> None:
        """Tells the others that this process has failed; they end."""
        self._closing.set()
        self._tell({"failed": self.rank, "why": f"stopped: {' '.join(reason.split())}"})

    def _send(self, other: int, message: Mapping[str, Any]) -> None:
        with suppress(OSError):  # who listens to it will hear of its end
            self.lines[other].send(message)

    def _tell(self, message: Mapping[str, Any]) -> None:
        for other in self.lines:
            self._send(other, message)

    def _beat(self) -> None:
        while not self._closing.wait(BEAT_SECONDS):
            self._tell({"beat": self.rank})

    def _listen(self, other: int) -> None:
        try:
            while True:
                message = self.lines[other].receive()
                if "value" in message:
                    self._values[other].put(message["value"])
                elif "bye" in message:
                    return
                elif "failed" in message:
                    time.sleep(GRACE_SECONDS)
                    self._end(int(message["failed"]), str(message.get("why")), heard=self.rank != 0)
        except Lost as e:
            if not self._closing.is_set():
                self._end(other, str(e))

    def _end(self, lost: int, why: str, heard: bool = False) -> NoReturn:
        """Ends this process, for that one is lost; says so unless it is only ``heard`` from rank 0, which says it."""
        self._closing.set()
        if not heard or lost == 0:
            text = f"error: process {lost} of {self.size} ({self.names[lost]}) {why}; all others end"
            os.write(sys.stderr.fileno(), f"{text}\n".encode())
            if self.rank == 0:
                self._tell({"failed": lost, "why": why})
        os._exit(1)


# ---------------------------------------------------------------------------------------------- arrays


class _OnWire(Group):
    alone = False

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.rank, self.size = wire.rank, wire.size
        self.local_rank, self.local_size = wire.local_rank, wire.local_size

    @property
    def names(self) -> list[str]:
        return self.wire.names

    def all_gather_object(self, value: Any) -> list[Any]:
        return self.wire.all_gather_object(value)

    def leave(self) -> None:
        self.wire.close()


class _Mpi(_OnWire):
    """Arrays in host memory, through MPI; all its calls come from one thread, in the order in which they were begun."""

    def __init__(self, wire: Wire, comm: Any) -> None:
        super().__init__(wire)
        self._comm, self._in_place = comm, _mpi().IN_PLACE
        self._calls: queue.SimpleQueue[tuple[Future[None], Callable[[], None]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()  # so that a failing process does not wait for it

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            try:
                future.set_result(call())
            except BaseException as e:
                future.set_exception(e)

    def _begin(self, name: str, call: Callable[..., Any], *arguments: Any) -> Callable[[], None]:
        def run() -> None:
            with trace.span(name, "between processes"):
                call(*arguments)

        future: Future[None] = Future()
        self._calls.put((future, run))
        return future.result

    def all_reduce(self, x: Array) -> Callable[[], None]:
        return self._begin("all-reduce", self._comm.Allreduce, self._in_place, x)

    def all_gather(self, x: Array) -> Array:
        y = backend.empty((self.size, *x.shape), x.dtype, backend.device_of(x))
        self._begin("all-gather", self._comm.Allgather, x, y)()
        return y

    def reduce_scatter(self, x: Array) -> Array:
        y = backend.empty(x.shape[1:], x.dtype, backend.device_of(x))
        self._begin("reduce-scatter", self._comm.Reduce_scatter_block, x, y)()
        return y


class _Nccl(_OnWire):
    """Arrays on GPUs, one a process, through NCCL, on a stream of their own."""

    def __init__(self, wire: Wire, device: backend.Device) -> None:
        super().__init__(wire)
        number = backend.Nccl.unique_id() if self.rank == 0 else None
        self._nccl = backend.Nccl(device, self.size, wire.all_gather_object(number)[0], self.rank)

    def all_reduce(self, x: Array) -> Callable[[], None]:
        return self._nccl.begin("allReduce", x, x)

    def all_gather(self, x: Array) -> Array:
        y = backend.empty((self.size, *x.shape), x.dtype, backend.device_of(x))
        self._nccl.begin("allGather", x, y)()
        return y

    def reduce_scatter(self, x: Array) -> Array:
        y = backend.empty(x.shape[1:], x.dtype, backend.device_of(x))
        self._nccl.begin("reduceScatter", x, y)()
        return y
