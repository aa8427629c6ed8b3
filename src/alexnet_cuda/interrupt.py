"""Ctrl-C while a command is still importing: it ends with one line, as it would end anywhere else."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

EXIT_CODE = 130


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(EXIT_CODE)


def ends_quietly(package: str) -> None:
    """From now on, where this process is ``python -m package``, ``python -m package.something`` or its console script;
    nothing is begun by then that needs care."""
    module = sys.orig_argv[-len(sys.argv)] if sys.argv[:1] == ["-m"] else ""  # so Python calls it until it has found it
    script = os.path.basename(sys.argv[0]) == package.replace("_", "-") if sys.argv else False
    command = script or f"{module.removeprefix('-m')}.".startswith(f"{package}.")
    if command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raises() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
