"""``train --profile``: where the time of a step goes, by layer and by kernel, beside the least that it could take.

The floor of a layer's pass is the larger of its arithmetic at the rate at which this device multiplies matrices, and of
every array of it moved once at the rate at which the device copies: two rates that are measured here.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np

from . import backend, kernels
from .models import Model
from .terminal import grid, paragraph
from .trace import Span

__all__ = ["Rates", "floors", "rates", "table"]

SIZE = {"cpu": 1024, "cuda": 8192}  # of the matrices that are multiplied
SLOW = 128  # of those on the executor of a CPU
COPIED = 1 << 26  # bytes that are copied
TRIALS = 5
PASSES = "forward", "backward", "update"
LESS = "kernels", "limit", "share", "floor ms"


@dataclass(frozen=True)
class Rates:
    """Operations and bytes a second."""

    device: str
    precision: str
    arithmetic: float
    traffic: float

    def __str__(self) -> str:
        return (
            f"of floor: of the larger of arithmetic at {self.arithmetic / 1e9:,.0f} GFLOP/s ({self.precision} matrix "
            f"products) and every array once at {self.traffic / 1e9:,.1f} GB/s (copies), both as measured just now on "
            f"{self.device}; more than 100 %: fewer products (Winograd), or arrays that stay in a cache"
        )


class Floor(NamedTuple):
    """The least seconds of a layer's pass, and what limits them: arithmetic or memory."""

    seconds: float
    limit: str


def rates(device: backend.Device, precision: str) -> Rates:
    """Those of a device, the best of some trials."""
    n = SLOW if device.kind == "cpu" and precision != "fp32" else SIZE[device.kind]
    rng = np.random.default_rng(0)
    a = backend.from_host(rng.random((n, n), np.float32), device)
    x = backend.zeros((COPIED // 4,), np.float32, device)
    with backend.on(device):
        products = _seconds(lambda: kernels.gemm(a, a, precision=cast(kernels.Precision, precision)), device)
        copies = _seconds(lambda: x.copy(), device)
    return Rates(str(device), precision, 2 * n**3 / products, 2 * COPIED / copies)


def _seconds(work: Callable[[], object], device: backend.Device) -> float:
    best = math.inf
    for _ in range(TRIALS):
        backend.synchronize(device)
        begin = time.perf_counter()
        work()
        backend.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return best


def floors(model: Model, batch: int, at: Rates) -> dict[tuple[str, str], Floor]:
    """Of each layer's passes, by the names of both."""
    stored = np.dtype(kernels.storage(at.precision)).itemsize
    found = {}
    for i, row in enumerate(model.rows()):
        x, y, w = (stored * batch * math.prod(row.input), stored * batch * math.prod(row.output), 4 * row.parameters)
        flops = 2 * batch * row.macs
        back = flops if i == 0 else 2 * flops  # nobody needs the images' gradient
        dx = 0 if i == 0 else x
        work = {"forward": (flops, x + y + w), "backward": (back, x + y + dx + 2 * w), "update": (0, 5 * w)}
        for name, (operations, moved) in work.items():
            arithmetic, memory = operations / at.arithmetic, moved / at.traffic
            limit = "arithmetic" if arithmetic > memory else "memory"
            found[row.layer.name, name] = Floor(max(arithmetic, memory), limit)
    return found


def table(spans: Sequence[Span], model: Model, batch: int, at: Rates | None, width: int | None = None) -> str:
    """Tables of what was recorded of steps: milliseconds a step by layer and pass, with the kernels that took them, and
    by kernel. The first step, in which much happens once, is left out where there are others. ``at``: the rates for
    floors; None where there are none to be told. ``width`` as of ``grid``."""
    steps = sorted((s.begin(), s.end()) for s in spans if s.details.get("kind") == "step")
    steps = steps[1:] or steps
    if not steps:
        return "no step was recorded"
    seen = [s for s in spans if any(begin <= s.begin() <= end for begin, end in steps)]
    whole = sum(end - begin for begin, end in steps) / len(steps)
    known = {row.layer.name for row in model.rows()}
    times = defaultdict[tuple[str, str], float](float)
    by_kernel, calls = defaultdict[str, float](float), Counter[str]()
    parts = defaultdict[tuple[str, str], defaultdict[str, float]](lambda: defaultdict(float))
    for s in seen:
        kind, which, seconds = s.details.get("kind"), s.details.get("pass", ""), (s.end() - s.begin()) / len(steps)
        place = _layer(s.details.get("layer", ""), known, s.details.get("operation", "")), which
        if kind == "operation" or (kind == "pass" and which == "update"):
            times[place] += seconds
        if kind == "kernel":
            parts[place][s.name] += seconds
            by_kernel[s.name] += seconds
            calls[s.name] += 1
    least = floors(model, batch, at) if at else {}
    if at and ("", "update") in times:
        total = sum(floor.seconds for (_, which), floor in least.items() if which == "update")
        least["", "update"] = Floor(total, "memory")
    rows = []
    order = [row.layer.name for row in model.rows()]
    for layer, which in sorted(times, key=lambda p: (PASSES.index(p[1]), order.index(p[0]) if p[0] in known else 99)):
        names = _longest(parts[layer, which])
        seconds, floor = times[layer, which], least.get((layer, which)) if names else None
        rows.append(
            [
                layer or "all",
                which,
                f"{1e3 * seconds:.3f}",
                f"{seconds / whole:.1%}",
                f"{1e3 * floor.seconds:.3f}" if floor else "",
                f"{floor.seconds / seconds:.0%}" if floor else "",
                floor.limit if floor else "",
                ", ".join(names),
            ]
        )
    header = ["layer", "pass", "ms", "share", "floor ms", "of floor", "limit", "kernels"]
    others = whole - sum(times.values())
    rows.append(["other", "", f"{1e3 * others:.3f}", f"{others / whole:.1%}", "", "", "", ""])
    own = [
        [name, f"{calls[name] / len(steps):.0f}", f"{1e3 * by_kernel[name]:.3f}", f"{by_kernel[name] / whole:.1%}"]
        for name in _longest(by_kernel)
    ]
    about = f"a step takes {1e3 * whole:.3f} ms, the mean of {len(steps)}, measured with a clock around each kernel"
    return "\n\n".join(
        [
            paragraph(about, width),
            grid(header, rows, ["layer", "pass", "limit", "kernels"], width, LESS),
            *([paragraph(str(at), width)] if at else []),
            grid(["kernel", "calls", "ms", "share"], own, ["kernel"], width, ["calls"]),
        ]
    )


def _longest(times: Mapping[str, float]) -> list[str]:
    """The names of times, the longest first."""
    return sorted(times, key=lambda name: -times[name])


def _layer(path: str, known: Container[str], operation: str) -> str:
    """The layer of the model that a path of modules leads to, or what else it is."""
    if path in known:
        return path
    return next((part for part in path.split(".") if part in known), path or operation)
