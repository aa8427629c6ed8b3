"""Where a benchmark of ours runs: the clock of a device, its ceilings, and its calls as one graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
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


def ceilings(device: str, clock: timing.Clock, rounds: int, with_torch: bool, quick: bool) -> Row:
    """What the device reaches: in a `copy` TB/s, read plus written; in a square product of each precision TFLOP/s, by
    cuBLAS or NumPy's BLAS. What cannot be measured here is left out."""
    xp: Any = backend.array_module(backend.device(device))
    rng = xp.random.default_rng(0)
    on_cpu = device == "cpu"
    elements, n = (1 << 16, 64) if quick else (1 << 26, 2048) if on_cpu else (1 << 28, 8192)
    source = rng.standard_normal(elements, dtype=np.float32)
    target = xp.empty_like(source)
    a, b = (rng.standard_normal((n, n), dtype=np.float32) for _ in range(2))

    def milliseconds(run: Callable[[], object]) -> float:
        return timing.summary(clock.alternate({"": run}, rounds)[""])["ms"]

    if on_cpu:
        count = backend.threads()
        parts = list(zip(np.array_split(source, count), np.array_split(target, count), strict=True))
        with ThreadPoolExecutor(len(parts)) as pool:
            copy = milliseconds(lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts)))
    else:
        copy = milliseconds(lambda: xp.copyto(target, source))
    found: Row = {"copy": 2 * source.nbytes / copy / 1e9}
    if on_cpu or not with_torch:
        return found | {"fp32": 2 * n**3 / milliseconds(lambda: a @ b) / 1e9}
    import peer
    import torch

    for name in peer.PRECISIONS:
        with peer.precision(name) as dtype:
            x, y = (torch.from_dlpack(array).to(dtype) for array in (a, b))
            found[name] = 2 * n**3 / milliseconds(partial(torch.mm, x, y)) / 1e9
    return found
