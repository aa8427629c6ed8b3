"""One side of a case in a process of its own: what its memory peaks at, and its images a second on end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from timing import Row

HERE = Path(__file__).parent
WARMUP = 2


def measured(
    case: Row,
    form: Row | None,
    threads: int,
    seconds: float = 0.0,
    benchmarks: Path = HERE,
    environment: Mapping[str, str] | None = None,
) -> Row:
    """``peak_MiB`` of two calls, as called and not as a graph, and of those on end; with ``seconds``, on a CPU,
    ``images_s``. ``case``: the entries of a ``steps.Case``. ``form``: the peer's, None for ours. ``benchmarks``: the
    folder whose ``steps`` are run. RuntimeError: what the process complains of."""
    case = {name: value for name, value in case.items() if value is not None}
    job = {"case": case, "form": form, "threads": threads, "seconds": seconds, "benchmarks": str(benchmarks)}
    command = [sys.executable, __file__, json.dumps(job)]
    done = subprocess.run(command, env=environment or os.environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a process of {form or 'ours'} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    job = json.loads(sys.argv[1])
    sys.path.insert(0, job["benchmarks"])
    import steps

    from alexnet_cuda import backend

    backend.set_threads(job["threads"])
    case, form = steps.Case(**job["case"]), job["form"]
    step = steps.Step(case) if form is None else steps.peer_step(case, form)
    for _ in range(WARMUP):
        step()
    found: Row = {}
    if job["seconds"]:
        start, count = time.perf_counter(), 0
        while not count or time.perf_counter() < start + job["seconds"]:
            step()
            count += 1
        found["images_s"] = case.batch * count / (time.perf_counter() - start)
    if case.device == "cpu":
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        peak = 2**10 * int(line.split()[1])
    elif form is None:
        peak = backend.array_module(backend.device(case.device)).get_default_memory_pool().total_bytes()
    else:
        import torch

        peak = torch.cuda.max_memory_reserved()
    print(json.dumps(found | {"peak_MiB": peak / 2**20}))


if __name__ == "__main__":
    main()
