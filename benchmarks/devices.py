"""Where a benchmark of ours runs: the clock of a device, its ceilings, and its calls as one graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import timing
from timing import Row

from alexnet_cuda import backend


@contextmanager
def clock_on(device: str, with_torch: bool) -> Iterator[timing.Clock]:
    """The clock of the device; on a GPU everybody then works on one stream, which a graph can capture."""
    if device == "cpu":
        yield timing.HostClock(pause=0.05)
        return
    cupy = backend.array_module(backend.device(device))
    with cupy.cuda.Stream(non_blocking=True) as stream:
        clock = timing.EventClock(cupy.cuda.Event, cupy.cuda.get_elapsed_time, stream.synchronize)
        if not with_torch:
            yield clock
            return
        import torch

        with torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr)):
            yield clock


def captured(run: Callable[[], object], device: str, warmup: int = 3) -> Callable[[], object]:
    """`run` as one CUDA graph on CuPy's current stream, its results kept alive; on a CPU `run` itself."""
    if device == "cpu":
        return run
    stream = backend.array_module(backend.device(device)).cuda.get_current_stream()
    for _ in range(warmup):
        run()
    stream.synchronize()
    stream.begin_capture()
    try:
        kept = run()
    finally:
        graph = stream.end_capture()

    def replay(kept: object = kept) -> None:
        graph.launch()

    return replay


def ceilings(device: str, clock: timing.Clock, rounds: int) -> Row:
    """What a GPU reaches in a copy (TB/s, read plus written) and in cuBLAS's float32 product (TFLOP/s)."""
    if device == "cpu":
        return {}
    xp: Any = backend.array_module(backend.device(device))
    rng = xp.random.default_rng(0)
    source = rng.standard_normal(1 << 28, dtype=np.float32)
    target = xp.empty_like(source)
    n = 8192
    a, b = (rng.standard_normal((n, n), dtype=np.float32) for _ in range(2))
    times = clock.alternate({"copy": lambda: xp.copyto(target, source), "product": lambda: a @ b}, rounds)
    copy, product = (timing.summary(times[name])["ms"] for name in ("copy", "product"))
    return {"copy": 2 * source.nbytes / copy / 1e9, "product": 2 * n**3 / product / 1e9}
