"""Groups of processes: what they exchange, who may join, and that none waits for one that is gone."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpi import environment, mpirun

from alexnet_cuda import backend
from alexnet_cuda.parallel import group
from alexnet_cuda.parallel.group import Group, GroupError, Launch, Wire, join, launch

PREPARE = """
import os, signal, sys, time
import numpy as np
from alexnet_cuda.parallel import group as module, join

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # at once, or lines of two processes mix
"""


def run(size: int, code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return mpirun(size, ["-c", PREPARE + code], **options)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def in_threads(size: int, task: Callable[[int], Any]) -> list[Any]:
    """task(rank) of each rank, all at once; an exception is a result, too."""
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = task(rank)
        except Exception as e:
            results[rank] = e

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return results


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_collective_operations(size: int) -> None:
    done = run(size, """
with join("cpu") as g:
    assert g.alone is False and g.size == int(sys.argv[1]) and g.local_rank == g.rank and g.local_size == g.size
    parts = [np.arange(12, dtype=np.float32).reshape(3, 4) + 100 * r for r in range(g.size)]
    mine = parts[g.rank]
    y = mine.copy()
    wait = g.all_reduce(y)
    z = np.ones(3, np.float32)
    second = g.all_reduce(z)  # begun before the first has ended
    second(), wait()
    np.testing.assert_array_equal(y, sum(parts))
    np.testing.assert_array_equal(z, g.size)
    np.testing.assert_array_equal(g.all_gather(mine), parts)
    whole = np.stack([mine + r for r in range(g.size)])
    np.testing.assert_array_equal(g.reduce_scatter(whole), sum(part + g.rank for part in parts))
    values = g.all_gather_object({"rank": g.rank, "text": "a\\nb"})
    assert values == [{"rank": r, "text": "a\\nb"} for r in range(g.size)]
    g.agree({"lr": 0.1, "steps": ((1, 2),)})
say("fine")
""".replace("int(sys.argv[1])", str(size)))  # fmt: skip
    assert (done.returncode, done.stdout.split()) == (0, ["fine"] * size), done.stderr


def test_alone() -> None:
    with join("cpu") as g:
        assert g.alone and (g.rank, g.size) == (0, 1)
        assert g.all_gather_object("x") == ["x"]
        g.agree({"a": 1})


def test_a_difference_is_named_by_all() -> None:
    done = run(
        3,
        """
try:
    with join("cpu") as g:
        g.agree({"version": "1", "lr": 0.1 if g.rank < 2 else 0.2})
except module.GroupError as e:
    say(e)
    sys.exit(2)
""",
    )
    assert done.returncode == 2
    assert set(done.stdout.splitlines()) == {"process 2 differs from process 0 in lr: 0.2, not 0.1"}


@pytest.mark.parametrize("victim", [0, 1])
def test_who_dies_ends_the_others(victim: int) -> None:
    """At once, though they wait for it in a collective operation; -disable-auto-cleanup keeps mpirun out of it, as a
    rule: now and then it ends them first, on a busy machine, so they have three tries to say who it was."""
    for _ in range(3):
        done = run(3, f"""
with join("cpu") as g:
    say(g.rank, os.getpid())
    if g.rank == {victim}:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    g.all_reduce(np.ones(4, np.float32))()
""", options=["-disable-auto-cleanup"], timeout=30)  # fmt: skip
        assert done.returncode != 0
        if done.stderr:
            break
    pid = dict(re.findall(r"(?m)^(\d) (\d+)$", done.stdout))[str(victim)]
    assert f"error: process {victim} of 3 ({pid} on {socket.gethostname()}) died" in done.stderr


def test_who_fails_ends_the_others_and_says_why() -> None:
    done = run(2, """
with join("cpu") as g:
    if g.rank == 1:
        raise ValueError("no more\\nimages")
    g.all_reduce(np.ones(4, np.float32))()
""", options=["-disable-auto-cleanup"], timeout=30)  # fmt: skip
    assert done.returncode != 0
    assert "process 1 of 2" in done.stderr
    assert "stopped: ValueError: no more images; all others end" in done.stderr


def test_an_attempt_that_fails_in_one_process_fails_in_all() -> None:
    done = run(
        3,
        """
def task():
    if g.rank == 1:
        raise ValueError("no such\\nfolder")
    return g.rank
try:
    with join("cpu") as g:
        assert g.attempt(lambda: 7) == 7
        g.attempt(task)
except ValueError as e:
    say(type(e).__name__, *str(e).split())
    sys.exit(2)
""",
    )
    assert done.returncode == 2, done.stderr
    expected = ["GroupError process 1: no such folder"] * 2 + ["ValueError no such folder"]
    assert sorted(done.stdout.splitlines()) == expected


def test_who_never_joins_is_not_waited_for_for_ever() -> None:
    """It failed before, so that MPI itself waits for it."""
    done = run(
        2,
        """
module.JOIN_SECONDS = 2.0
if os.environ["PMI_RANK"] == "1":
    sys.exit(3)
with join("cpu") as g:
    pass
""",
        timeout=30,
    )
    assert done.returncode != 0


def test_who_is_silent_counts_as_dead() -> None:
    done = run(2, """
module.BEAT_SECONDS, module.SILENT_SECONDS = 0.2, 1.0
with join("cpu") as g:
    if g.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    g.all_gather_object(0)
""", options=["-disable-auto-cleanup"], timeout=30, stop_when="has not been heard of for 1 s")  # fmt: skip
    assert "error: process 1 of 2" in done.stderr


def test_a_wire_without_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT."""
    monkeypatch.setenv("LOCAL_RANK", "5")
    address = ("127.0.0.1", free_port())

    def task(rank: int) -> Any:
        if rank == 0:
            time.sleep(0.3)  # the others wait for it
        wire = Wire(rank, 3, address, "")
        values = [wire.all_gather_object([rank, i]) for i in range(20)]
        wire.close()
        return values, wire.local_rank, wire.local_size

    expected = [[[rank, i] for rank in range(3)] for i in range(20)], 5, 3
    assert in_threads(3, task) == [expected] * 3


def test_strangers_do_not_join() -> None:
    address = ("127.0.0.1", free_port())

    def task(rank: int) -> Any:
        if rank == 2:
            for message in (
                b"GET / HTTP/1.0\r\n\r\n",
                b'{"rank": 1, "token": "guessed"}\n',
                b'{"rank": [1]}\n',
                b"[]\n",
                b"",
            ):
                for _ in range(10):
                    try:
                        with socket.create_connection(address) as connection:
                            connection.sendall(message)
                        break
                    except OSError:
                        time.sleep(0.1)
            return None
        if rank == 1:
            time.sleep(1)
        wire = Wire(rank, 2, address, "secret")
        values = wire.all_gather_object(rank)
        wire.close()
        return values

    assert in_threads(3, task) == [[0, 1], [0, 1], None]


def test_who_does_not_join_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "JOIN_SECONDS", 0.5)
    with pytest.raises(GroupError, match="of 3 processes these did not join: 1, 2"):
        Wire(0, 3, ("127.0.0.1", free_port()), "")
    with pytest.raises(GroupError, match=r"process 1 cannot reach process 0 at 127.0.0.1, port \d+: .*refused"):
        Wire(1, 3, ("127.0.0.1", free_port()), "")


def test_a_port_in_use_and_a_rank_taken_twice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = ("127.0.0.1", server.getsockname()[1])
        with pytest.raises(GroupError, match=f"process 0 cannot listen on 127.0.0.1, port {address[1]}: .*in use"):
            Wire(0, 2, address, "")
    address = ("127.0.0.1", free_port())
    results = in_threads(3, lambda place: Wire(min(place, 1), 3, address, ""))
    assert "two processes say that they are process 1" in str(results[0])


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"RANK": "1", "WORLD_SIZE": "4"}, Launch(1, 4, False)),
        ({"RANK": "1"}, None),
        ({"PMI_SIZE": "3", "RANK": "0", "WORLD_SIZE": "1"}, Launch(-1, 3, True)),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, Launch(-1, 2, True)),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "RANK: expected a number from 0 to 3, got '4'"),
        ({"RANK": "0", "WORLD_SIZE": "zero"}, "WORLD_SIZE: expected a number from 1 to 1048576, got 'zero'"),
        ({"PMI_SIZE": "-1"}, "PMI_SIZE: expected a number from 1 to 1048576, got '-1'"),
    ],
)
def test_launchers(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: Launch | str | None) -> None:
    for name in (*group.SIZES, "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if isinstance(expected, str):
        with pytest.raises(GroupError, match=expected):
            launch()
    else:
        assert launch() == expected


@pytest.mark.parametrize(
    ("variables", "before", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "", "processes on CPUs talk through MPI: start them with mpirun -n N"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "", "the launcher started 2 processes, but mpi4py's MPI (MPICH"),
        ({"PMI_SIZE": "2"}, "sys.modules['mpi4py'] = None", "need mpi4py and an MPI: pip install 'alexnet-cuda[mpi]'"),
    ],
)
def test_refusals(variables: dict[str, str], before: str, message: str) -> None:
    code = f"{PREPARE}\n{before}\ntry:\n    join('cpu').__enter__()\nexcept module.GroupError as e:\n    print(e)"
    environ = {**environment(), **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60)
    assert message in done.stdout, done.stderr


@pytest.mark.gpu
def test_nccl_with_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    if problem := backend.gpu_problem() or backend.nccl_problem():
        pytest.skip(problem)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_PORT", str(free_port()))):
        monkeypatch.setenv(name, value)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    with join("cuda") as g:
        assert not g.alone
        y = backend.from_host(x, backend.device("cuda"))
        g.all_reduce(y)()
        for result in (y, g.all_gather(y)[0], g.reduce_scatter(y[None])):
            np.testing.assert_array_equal(backend.to_host(result), x)


def test_a_group_of_one_is_the_base() -> None:
    g = Group()
    assert (g.rank, g.size, g.local_rank, g.local_size) == (0, 1, 0, 1)
    g.leave()
