"""A process for each family, started anew behind a check that crashed it, hung, or left the device unusable."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, replace
from typing import Any

from .check import Row
from .worker import Request

WORKER = (sys.executable, "-m", "alexnet_cuda.kernel_checks.worker")
START = 120.0
"""Seconds that a process may take to its first check: it reads libraries and wakes the device."""
LAST = 30.0
"""Seconds in which a process that is killed should be gone."""


class Process:
    """A worker, and what it tells."""

    def __init__(self, command: Sequence[str], request: Request) -> None:
        self.process = subprocess.Popen(
            [*command, json.dumps(asdict(request))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # threads that wait for one another cost
        )  # fmt: skip
        self.messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.errors: deque[str] = deque(maxlen=1)
        self.readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_errors)]
        for reader in self.readers:
            reader.start()

    def _read_errors(self) -> None:
        for line in self.process.stderr or ():
            if line.strip():
                self.errors.append(line.strip())

    def _read(self) -> None:
        for line in self.process.stdout or ():
            with suppress(ValueError):  # what else is printed there is not for us
                message = json.loads(line)
                if isinstance(message, dict):
                    self.messages.put(message)
        self.messages.put(None)

    def next(self, limit: float) -> dict[str, Any] | None:
        """What it tells next; None once it has ended. TimeoutError where it tells nothing for so many seconds."""
        try:
            return self.messages.get(timeout=limit)
        except queue.Empty:
            raise TimeoutError from None

    def end(self, limit: float) -> str:
        """Nothing where it has ended well, else how, with the last line it wrote to standard error. TimeoutError where
        it does not end."""
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        if code == 0:
            return ""
        for reader in self.readers:
            reader.join()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        return ": ".join((f"the process {how}", *self.errors))

    def kill(self) -> None:
        """What a driver does not let die, it leaves behind."""
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(LAST)
            for reader in self.readers:
                reader.join()
            for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
                if stream:
                    stream.close()


class Supervisor:
    """Runs families on a device, so many at once; ``tell`` gets each row as it comes."""

    def __init__(self, limit: float, tell: Callable[[Row], object], command: Sequence[str] = WORKER) -> None:
        """``limit``: seconds that a shape of a check may take."""
        self.limit, self.tell, self.command = limit, tell, command
        self.rows: list[Row] = []
        self._lock = threading.Lock()
        self._running: set[Process] = set()
        self._stopped = False

    def run(self, requests: Sequence[Request], at_once: int) -> list[Row]:
        with ThreadPoolExecutor(at_once) as threads:
            tasks = [threads.submit(self._run, request) for request in requests]
            try:
                for task in tasks:
                    task.result()
            except BaseException:  # interrupted, or the output's reader is gone
                self._stop()
                raise
        return self.rows

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.process.kill()

    def _run(self, request: Request) -> None:
        with closing(self._rows(request)) as rows:
            for row in rows:
                row.family = request.family
                with self._lock:
                    if self._stopped:
                        return
                    self.rows.append(row)
                    self.tell(row)

    def _rows(self, request: Request) -> Generator[Row, None, None]:
        first: int | None = 0
        while first is not None:
            with self._lock:
                if self._stopped:
                    return
                process = Process(self.command, replace(request, first=first))
                self._running.add(process)
            try:
                first = yield from self._follow(process)
            finally:
                with self._lock:
                    self._running.remove(process)
                process.kill()

    def _follow(self, process: Process) -> Generator[Row, None, int | None]:
        """The rows of one process. Returns the number of the check that the next one begins with, if there is one."""
        current, shape, number, done = Row("before the first check", "", "", "crashed"), "", None, False
        while True:
            limit = max(self.limit, START) if number is None else self.limit
            try:
                message = process.next(limit)
                fault = process.end(limit) if message is None else ""
            except TimeoutError:
                yield replace(current, outcome="hung", text=f"{shape}nothing came back in {limit:g} s")
                break
            if message is None:
                if fault:
                    yield replace(current, outcome="crashed", text=f"{shape}{fault}")
                break
            if "begins" in message:
                current, number = Row(**message["begins"]), int(message["number"])
            elif "shape" in message:
                shape = "" if message["shape"] == current.shape else f"{message['shape']}: "
            elif "row" in message:
                yield Row(**message["row"])
                current, shape = Row(f"after {current.name}", current.way, current.shape, "crashed"), ""
            elif "done" in message:
                done = True
        return None if done or number is None else number + 1
