"""Runs Python in several processes that MPI's launcher starts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import alexnet_cuda

SOURCE = Path(alexnet_cuda.__file__).parents[1]


def environment() -> dict[str, str]:
    """This process's, in which the package is found from anywhere."""
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def launcher() -> str:
    """The mpirun beside this Python, or on the PATH."""
    beside = Path(sys.executable).with_name("mpirun")
    return str(beside) if beside.exists() else shutil.which("mpirun") or "mpirun"


def start(
    size: int, arguments: Sequence[str], options: Sequence[str] = (), cwd: Path | None = None
) -> subprocess.Popen[str]:
    """``python`` with these arguments in ``size`` processes; the launcher is the leader of a process group."""
    command = [launcher(), *options, "-n", str(size), sys.executable, *arguments]
    return subprocess.Popen(
        command,
        env=environment(),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def mpirun(
    size: int,
    arguments: Sequence[str],
    options: Sequence[str] = (),
    timeout: float = 120,
    stop_when: str | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """What came of it. With ``stop_when`` all are killed once that stands on standard error."""
    process = start(size, arguments, options, cwd)
    said = []
    try:
        if stop_when:
            assert process.stderr is not None
            began = time.monotonic()
            for line in process.stderr:
                said.append(line)
                if stop_when in line or time.monotonic() - began > timeout:
                    break
            kill(process)
        out, error = process.communicate(timeout=timeout)
    finally:
        kill(process)
    return subprocess.CompletedProcess(process.args, process.returncode, out, "".join(said) + error)


def kill(process: subprocess.Popen[str]) -> None:
    """The launcher and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
