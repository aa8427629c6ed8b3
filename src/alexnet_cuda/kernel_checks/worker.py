"""The process of one family: ``python -m alexnet_cuda.kernel_checks.worker REQUEST`` runs its checks from a number on.

On standard output it tells, a JSON object a line, which check begins, which of its shapes, and how it went. It ends
when standard input does, as it does when whoever started it is gone, even if a kernel never returns.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any

from .. import backend
from .check import run
from .families import FAMILIES
from .layers import Scope


@dataclass(frozen=True)
class Request:
    family: str
    device: str
    batches: tuple[int, ...]
    whole_layers: bool
    first: int = 0

    @property
    def scope(self) -> Scope:
        return Scope(backend.device(self.device), tuple(self.batches), self.whole_layers)


def tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def serve(request: Request) -> None:
    """Runs the checks. An error of a kernel is told as one; if the device does not survive it, the process ends."""
    scope = request.scope
    backend.use(scope.device)
    backend.poison(True)
    for number, check in enumerate(FAMILIES[request.family](scope)):
        if number < request.first:
            continue
        tell(begins=asdict(check.row("right")), number=number)
        row = check.row("absent", check.absent) if check.absent else run(check, scope.device, lambda s: tell(shape=s))
        tell(row=asdict(row))
        if row.outcome == "failed" and not _alive(scope.device):
            return
        if scope.device.kind != "cpu":
            backend.release_memory()  # other families' processes use the GPU as well
    tell(done=True)


def _alive(device: backend.Device) -> bool:
    """Whether the device still works after an error: CUDA repeats those that it does not recover from."""
    try:
        backend.synchronize(device)
    except Exception:
        return False
    return True


def _end_with_standard_input() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    serve(Request(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
