"""How long one batch takes from images on the device to logits on it, ours and the peers': p50 and p99 over many calls.

Ours as trained, folded (`alexnet_cuda.folding`), in fp32 also with its weights stored short
(`alexnet_cuda.short_weights`), and on a GPU as one CUDA graph; PyTorch in evaluation and inference
mode, both memory layouts, on a GPU as one CUDA graph, too; on a CPU in fp32 onnxruntime and OpenVINO, which read the
file of our export for that batch. Alternating calls, each until the device is done, by the
host's clock; equal weights and images, and before anything is timed the logits have to agree. A p99 takes at least
100 calls: where the time for a batch is up before, it is not measured.

    python benchmarks/inference_bench.py --device cpu    # six minutes on two cores
    python benchmarks/inference_bench.py --device cuda --precision bf16 fp32
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import bench_options
import devices
import numpy as np
import steps
import timing
from steps import OURS, Case
from timing import Row

from alexnet_cuda import backend, models
from alexnet_cuda.folding import folded
from alexnet_cuda.short_weights import WEIGHTS_DTYPES, shorten

PEERS = ("PyTorch", "onnxruntime", "OpenVINO")
FOLDED = f"{OURS} folded"
SHORT = {f"{OURS} {dtype} weights": dtype for dtype in WEIGHTS_DTYPES if dtype != "fp32"}
LEAST_FOR_P99 = 100
TOLERANCE = {"fp32": 1e-5, "tf32": 5e-3, "bf16": 5e-2}  # ||difference|| / ||logits||
PAUSE = 0.02  # seconds before a call on a CPU, in which the other library's worker threads fall asleep


def candidates(case: Case, peers: Sequence[str], folder: Path) -> tuple[dict[str, Callable[[], object]], Row]:
    """What is timed, and ||difference|| / ||logits|| from our own unfolded: the largest of equal weights, that of each
    peer, and that of weights stored short. What runtimes read is written to the folder."""
    plain, lean = steps.Step(case, fold=False), steps.Step(case, fold=False)
    lean.called = folded(plain.network)  # the weights that both have are there once
    runs: dict[str, Callable[[], object]] = {OURS: plain, FOLDED: lean}
    plain()
    lean()
    reference = plain.result.numpy()
    errors: Row = {FOLDED: timing.relative_error(lean.result.numpy(), reference)}
    if case.device != "cpu":
        runs[f"{OURS} graph"] = steps.captured(lean)
        runs[f"{OURS} graph"]()
        errors[f"{OURS} graph"] = timing.relative_error(lean.result.numpy(), reference)
    changes: Row = {}
    for side, dtype in SHORT.items() if case.precision == "fp32" else ():
        short = steps.Step(case)
        shorten(short.called, dtype)
        short()
        changes[dtype] = timing.relative_error(short.result.numpy(), reference)
        runs[side] = short if case.device == "cpu" else steps.captured(short)
    forms: dict[str, Row] = {}
    if "PyTorch" in peers:
        layouts = {"PyTorch": "NCHW", "PyTorch channels_last": "NHWC"}
        forms = {name: {"peer": "PyTorch", "layout": layout} for name, layout in layouts.items()}
    for name, form in (forms | steps.runtime_forms(case, peers, folder)).items():
        step = steps.peer_step(case, form, plain.network.state())
        step()
        errors[name] = timing.relative_error(step.value(), reference)
        runs[name] = step
        if case.device != "cpu":
            import peer

            runs[f"{name} graph"] = peer.captured(step)
    largest = max(errors.values())
    of_peers = {peer: max(errors[name] for name in errors if name.split()[0] == peer) for peer in peers}
    return runs, {"largest_difference": largest, "agree": largest <= TOLERANCE[case.precision]} | of_peers | changes


def latencies(
    runs: dict[str, Callable[[], object]], synchronize: Callable[[], object], calls: int, seconds: float, pause: float
) -> dict[str, list[float]]:
    """Milliseconds of each in turn, `calls` times or until the time is up, at least once."""
    for run in runs.values():
        run()
        run()
    synchronize()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    for _ in range(calls):
        for name, run in runs.items():
            time.sleep(pause)
            start = time.perf_counter()
            run()
            synchronize()
            taken[name].append(1e3 * (time.perf_counter() - start))
        if time.perf_counter() > end:
            break
    return taken


def percentiles(ms: list[float], batch: int) -> Row:
    p50, p99 = (float(np.percentile(ms, p)) for p in (50, 99))
    return {
        "p50_ms": p50,
        "p99_ms": p99 if len(ms) >= LEAST_FOR_P99 else None,
        "least_ms": min(ms),
        "samples": len(ms),
        "images_s": 1e3 * batch / p50,
    }


def measure(case: Case, options: argparse.Namespace) -> tuple[list[Row], Row]:
    with devices.clock_on(case.device, options.torch) as clock, tempfile.TemporaryDirectory() as folder:
        runs, agreement = candidates(case, options.peers, Path(folder))
        pause = 0.0 if case.device != "cpu" or options.quick else PAUSE
        calls = latencies(runs, clock.synchronize, options.calls, options.seconds, pause)
        rows = [case.row | {"side": name} | percentiles(ms, case.batch) for name, ms in calls.items()]
    gc.collect()
    return rows, case.row | agreement


def ratios(rows: list[Row]) -> list[Row]:
    """Our best p50 over the peers' best, for each case, and that of weights stored short."""
    result = []
    for names, group in itertools.groupby(rows, key=lambda row: {key: row[key] for key in NAMES}):
        sides: dict[str, list[Row]] = {}
        for row in group:
            ours = row["side"].split()[0] == OURS
            sides.setdefault("peers" if not ours else row["side"] if row["side"] in SHORT else OURS, []).append(row)
        peers = sides.pop("peers", [])
        for side in sides.values() if peers else ():
            least, best = (min(rows, key=lambda row: row["p50_ms"]) for rows in (side, peers))
            p50 = least["p50_ms"] / best["p50_ms"]
            result.append(names | {"ours": least["side"], "p50": p50, "best": best["side"]})
    return result


NAMES = {"model": "model", "precision": "precision", "batch": "batch"}
FORMATS = {"p50_ms": ".4g", "p99_ms": ".4g", "least_ms": ".4g", "images_s": ".1f", "largest_difference": ".1e"}
FORMATS |= dict.fromkeys([*SHORT.values(), *PEERS], ".1e")


def sections(record: Row) -> dict[str, str]:
    columns = NAMES | {"side": "", "p50_ms": "p50 ms", "p99_ms": "p99 ms", "least_ms": "least ms"}
    columns |= {"samples": "calls", "images_s": "images/s"}
    ratio_columns = NAMES | {"ours": "ours", "p50": "p50, ours / fastest", "best": "fastest peer"}
    agreement_columns = NAMES | {"largest_difference": "largest difference of the logits", "agree": "agree"}
    agreement_columns |= {peer: peer for peer in PEERS if any(peer in row for row in record["agreement"])}
    agreement_columns |= {dtype: side.removeprefix(f"{OURS} ") for side, dtype in SHORT.items()}
    return {
        "Ours against the fastest peer": timing.table(record["ratios"], ratio_columns)
        if record["ratios"]
        else "Ours was timed alone.",
        "Latency": timing.table(record["rows"], columns, FORMATS),
        "Logits": timing.table(record["agreement"], agreement_columns, FORMATS),
    }


def main() -> int:
    parser = bench_options.Parser("inference_bench", __doc__, "batch 1, two calls", PEERS)
    several: dict[str, Any] = {"nargs": "+"}
    parser.add_argument("--model", choices=models.names(), metavar="NAME", help="default: three of AlexNet", **several)
    parser.add_argument("--batch", type=int, help="default: 1 8 64 on a CPU, powers of 2 to 1024 on a GPU", **several)
    parser.add_argument("--precision", choices=tuple(TOLERANCE), help="default: fp32; all on a GPU", **several)
    parser.add_argument("--calls", type=int, help="of each side; default 100, 1000 on a GPU")
    parser.add_argument("--seconds", type=float, help="limit for a model, precision and batch; default 30, 3 on a GPU")
    options = parser.options()
    on_cpu, quick = options.on_cpu, options.quick
    options.model = options.model or ["alexnet-single", "alexnet", "alexnet-owt"]
    options.batch = options.batch or ([1] if quick else [1, 8, 64] if on_cpu else [2**i for i in range(11)])
    options.precision = options.precision or (["fp32"] if on_cpu else ["bf16", "tf32", "fp32"])
    options.calls = options.calls or (2 if quick else 100 if on_cpu else 1000)
    options.seconds = options.seconds or (30.0 if on_cpu else 3.0)
    record: Row = {"benchmark": "inference_bench", "rows": [], "agreement": []}
    with ExitStack() as stack:
        if options.torch:
            import torch

            stack.enter_context(torch.inference_mode())
        record["environment"] = timing.environment(threads=bench_options.threads(options), build=backend.build_info())
        for model, precision, batch in itertools.product(options.model, options.precision, options.batch):
            rows, agreement = measure(Case(model, "inference", precision, batch, options.device), options)
            record["rows"] += rows
            record["agreement"].append(agreement)
    record["ratios"] = ratios(record["rows"])

    found = sections(record)
    for heading, body in found.items():
        print(f"\n{heading}\n{body}")
    if options.out:
        timing.write(options.out, options.stem, f"Inference, {'CPU' if on_cpu else 'GPU'}", record, found)
    if not all(row["agree"] for row in record["agreement"]):
        print("inference_bench: the logits differ", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
