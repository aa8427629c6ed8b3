"""A process for each family, started anew behind a check that crashed it, hung, or left the device unusable."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from .check import Outcome, Row
from .worker import Request

WORKER = (sys.executable, "-m", "alexnet_cuda.kernel_checks.worker")


class Process:
    """A worker, and what it tells."""

    def __init__(self, command: Sequence[str], request: Request) -> None:
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*command, json.dumps(asdict(request))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
        )  # fmt: skip
        self.messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
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

    def end(self) -> str:
        """How it ended, in words, with the last line it wrote to standard error."""
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        how = f"the process was ended by {signal.Signals(-code).name}" if code < 0 else f"the process ended with {code}"
        return f"{how}: {last}" if last else how

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()


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
        for row in self._rows(request):
            row.family = request.family
            with self._lock:
                if self._stopped:
                    return
                self.rows.append(row)
                self.tell(row)

    def _rows(self, request: Request) -> Iterator[Row]:
        first: int | None = 0
        while first is not None:
            with self._lock:
                if self._stopped:
                    return
                process = Process(self.command, replace(request, first=first))
                self._running.add(process)
            try:
                first = yield from self._follow(process, request.family)
            finally:
                with self._lock:
                    self._running.remove(process)
                process.kill()

    def _follow(self, process: Process, family: str) -> Generator[Row, None, int | None]:
        """The rows of one process. Returns the number of the check that the next one begins with, if there is one."""
        current: Row | None = None
        shape, number = "", None
        while True:
            outcome: Outcome
            try:
                message = process.next(self.limit)
            except TimeoutError:
                outcome, why = "hung", f"nothing came back in {self.limit:g} s"
                process.process.kill()
            else:
                if message is None:
                    outcome, why = "crashed", process.end()
                elif "begins" in message:
                    current, number = Row(**message["begins"]), message["number"]
                    continue
                elif "shape" in message:
                    shape = message["shape"]
                    continue
                elif "row" in message:
                    current = None
                    yield Row(**message["row"])
                    continue
                else:
                    return None
            if number is None:
                yield Row("all of it", "", "", outcome, f"before the first check: {why}", family=family)
                return None
            if current:
                named = shape if shape == current.shape else f"{shape}: "
                yield replace(current, outcome=outcome, text=why if shape == current.shape else f"{named}{why}")
            return int(number) + 1
