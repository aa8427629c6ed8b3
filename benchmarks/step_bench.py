"""A whole step of AlexNet, ours against the peers': forward, loss, backward, SGD with momentum .9 and decay 5e-4; and
inference.

PyTorch, on a CPU in fp32 also TensorFlow, or for inference onnxruntime and OpenVINO. Equal weights, random data, one
process. Before anything is timed the first losses (dropout off), or the logits, have to agree. Then all forms of the
peers' step are timed in a short round; the best two of them, the best of each peer and ours in alternating
full rounds (a burst); ours and the best run for ten seconds on end. Peak memory is each side's own, read in a process
of its own. The training step is taken apart by layer, ours and PyTorch's, and drawn. Without peers ours is timed alone.

    python benchmarks/step_bench.py --device cpu     # seven minutes on two cores
    python benchmarks/step_bench.py --model cifar-80sec alexnet-mini --batch 128     # small images
    python benchmarks/step_bench.py --device cuda    # three models and batches, each precision, in 20 minutes
    python benchmarks/step_bench.py --model alexnet alexnet-owt --pass inference
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bench_options
import breakdown
import devices
import numpy as np
import steps
import timing
from steps import OURS, Case
from timing import Row

from alexnet_cuda import backend, kernels, models

PEERS = ("PyTorch", "TensorFlow", "onnxruntime", "OpenVINO")
LOSSES = 3
TOLERANCE = {"fp32": 1e-4, "tf32": 1e-3, "bf16": 2e-2}  # of losses near 7, and of ||difference|| / ||logits||
STEPS_IN_CHILD = 2
IMAGES, CLASSES, EPOCHS, DAYS = 1_281_167, 1000, 90, (5, 6)  # the paper's training, section 5
CASE_SECONDS = 20.0  # a guess: what a case takes on a GPU without compiling
COMPILE_SECONDS = {"default": 30.0, "max-autotune-no-cudagraphs": 75.0}  # guesses: one starts only where they fit


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.rounds = options.device, options.rounds
        self.quick, self.peers, self.with_torch = options.quick, options.peers, options.torch
        self.seconds = options.seconds
        self.deadline = time.monotonic() + options.budget if self.device != "cpu" else float("inf")
        chosen = itertools.product(options.model, options.which, options.precision, options.batch)
        self.cases = [Case(*names, self.device) for names in chosen]
        self.ceilings: Row = {}
        self.record: Row = {key: [] for key in ("rows", "agreement", "ratios", "breakdown", "not_measured")}
        self.record["ceilings"] = self.ceilings

    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def measure(self, save: Callable[[], None]) -> None:
        """Fills the record, and saves it wherever it has more to tell."""
        if self.device != "cpu":
            with devices.clock_on(self.device, self.with_torch) as clock:
                self.ceilings |= devices.ceilings(self.device, clock, self.rounds, self.with_torch, self.quick)
        for place, case in enumerate(self.cases):
            if self.late():
                self.record["not_measured"].append(case.row | {"why": "time budget"})
                continue
            print(f"{case} ...", file=sys.stderr, flush=True)
            with devices.clock_on(self.device, self.with_torch) as clock, tempfile.TemporaryDirectory() as folder:
                theirs = steps.peer_forms(case, self.peers, Path(folder))
                self.measure_case(case, theirs, clock, CASE_SECONDS * (len(self.cases) - place), save)
            gc.collect()
            save()

    def measure_case(
        self, case: Case, theirs: dict[str, Row], clock: timing.Clock, reserve: float, save: Callable[[], None]
    ) -> None:
        """`reserve`: seconds to leave for this case and those after it. What comes after the times is left out where it
        is late."""
        for name, form in list(theirs.items()):
            needed = COMPILE_SECONDS.get(form.get("compile_mode", ""), 0.0)
            if needed and time.monotonic() + reserve + needed > self.deadline:
                self.record["not_measured"].append(case.row | {"side": name, "why": "time budget"})
                del theirs[name]
        for peer, found in agreements(case, theirs, LOSSES if not self.quick else 2).items():
            if isinstance(found, Exception):
                self.left_out(case, peer, found)
                theirs = {name: form for name, form in theirs.items() if form["peer"] != peer}
            else:
                self.record["agreement"].append(case.row | {"peer": peer} | found)
        rows, fastest = self.time_forms(case, theirs, clock)
        floor = steps.floor_ms(case, self.ceilings)
        for row in rows.values():
            row["images_s"] = 1e3 * case.batch / row["ms"]
            if floor is not None:
                row |= {"floor_ms": floor, "share_of_floor": floor / row["ms"]}
        self.record["rows"] += rows.values()
        compared = case.row | ratio_of_times(rows)
        if theirs:
            self.record["ratios"].append(compared)
        save()
        if case.training and not self.late():
            self.take_apart(case, theirs, fastest, clock)
        for side in [OURS, *fastest[: 1 if self.quick else None]]:
            if self.late():
                self.record["not_measured"].append(case.row | {"side": side, "why": "its memory: time budget"})
            else:
                rows[side]["peak_MiB"] = peak_memory(case, side, theirs.get(side))
        compared |= ratio_of_memory(rows)

    def left_out(self, case: Case, side: str, error: Exception) -> None:
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        self.record["not_measured"].append(case.row | {"side": side, "why": why})

    def time_forms(self, case: Case, theirs: dict[str, Row], clock: timing.Clock) -> tuple[dict[str, Row], list[str]]:
        """A row for each form that runs, and the names of the peers' best two and of the best of each peer, the best
        first."""
        runs: dict[str, Callable[[], object]] = {}
        state = None
        for name in steps.our_forms(case.device):
            step = steps.Step(case)
            state = step.network.state()
            runs[name] = step if name == OURS else steps.captured(step)
        for name, form in theirs.items():
            try:
                runs[name] = peer_run(case, form, None if form.get("steelman") else state)
            except Exception as error:  # one form that fails must not cost the others
                self.left_out(case, name, error)
        short = 1 if case.device == "cpu" else 5
        times = clock.alternate(runs, short)
        rows = {name: case.row | {"side": name, "rounds": "short"} | timing.summary(ms) for name, ms in times.items()}
        ours = [name for name in runs if name not in theirs]
        sorted_forms = sorted((name for name in runs if name in theirs), key=lambda name: rows[name]["ms"])
        best_of_each = {theirs[name]["peer"]: name for name in reversed(sorted_forms)}
        fastest = list(dict.fromkeys([*sorted_forms[:2], *best_of_each.values()]))
        for name in list(runs):
            if name not in (*ours, *fastest):
                del runs[name]
        gc.collect()
        for name, ms in clock.alternate(runs, self.rounds, warmup=0).items():
            rows[name] |= {"rounds": "full"} | timing.summary(ms)
        fastest.sort(key=lambda name: rows[name]["ms"])
        for name in [*ours, *fastest[:1]]:
            rows[name]["sustained_images_s"] = sustained(runs[name], clock, case.batch, self.seconds)
        return rows, fastest

    def take_apart(self, case: Case, theirs: dict[str, Row], fastest: list[str], clock: timing.Clock) -> None:
        count = 1 if self.quick else 3
        parts = [{"side": OURS} | row for row in breakdown.ours(steps.Step(case), count, clock)]
        if self.with_torch:
            pytorchs = [name for name in fastest if theirs[name]["peer"] == "PyTorch"]
            chosen = next((name for name in pytorchs if not theirs[name].get("graph")), "PyTorch")
            eager = {key: value for key, value in theirs[chosen].items() if key in ("peer", "layout", "fused")}
            step = steps.peer_step(case, eager)
            parts += [{"side": chosen} | row for row in breakdown.theirs(step, count, clock)]
        self.record["breakdown"] += [case.row | part for part in parts]


def peer_run(case: Case, form: Row, state: Any) -> Callable[[], object]:
    step = steps.peer_step(case, form, state)
    if not form.get("graph"):
        return step
    import peer

    return peer.captured(step)


def agreements(case: Case, theirs: dict[str, Row], count: int) -> dict[str, Row | Exception]:
    """How far the first losses of each peer, dropout off, or its logits are from ours, from equal weights; or why it
    has none."""
    ours = steps.Step(case)
    state = ours.network.state()
    if case.training:
        ours.without_dropout()
    expected = list[np.ndarray]()
    for _ in range(count if case.training else 1):
        ours()
        expected.append(ours.result.numpy())
    found: dict[str, Row | Exception] = {}
    for form in theirs.values():
        if form["peer"] in found:
            continue
        try:
            step = steps.peer_step(case, form, state)
            largest = difference(case, step, expected)
        except Exception as error:  # one peer that fails must not cost the others
            found[form["peer"]] = error
        else:
            found[form["peer"]] = {"largest_difference": largest, "agree": largest <= TOLERANCE[case.precision]}
    return found


def difference(case: Case, step: steps.PeerStep, expected: Sequence[np.ndarray]) -> float:
    """The largest of its losses, or ||difference|| / ||logits||."""
    if case.training:
        step.without_dropout()
    found: list[float] = []
    for y in expected:
        step()
        value = step.value()
        found.append(float(abs(value - y)) if case.training else timing.relative_error(value, y))
    return float(np.max(found))  # not finite where one is not


def sustained(run: Callable[[], object], clock: timing.Clock, batch: int, seconds: float) -> float:
    """Images a second over that time on end."""
    clock.synchronize()
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        run()
        count += 1
        if count % 16 == 0:
            clock.synchronize()  # the host does not run ahead for seconds
    clock.synchronize()
    return batch * count / (time.perf_counter() - start)


# ---- memory, in processes of its own


def peak_memory(case: Case, side: str, form: Row | None) -> float:
    """Peak MiB of a process that runs only that side's step."""
    job = json.dumps({"case": asdict(case), "form": form, "threads": backend.threads()})
    command = [sys.executable, __file__, "--device", case.device, "--child", job]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process of {side} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return float(done.stdout.splitlines()[-1])


def child(job: Row) -> float:
    """Runs a few steps of one side, as called and not as a graph; the MiB that they took."""
    backend.set_threads(job["threads"])
    case, form = Case(**job["case"]), job["form"]
    step = steps.Step(case) if form is None else steps.peer_step(case, form)
    for _ in range(STEPS_IN_CHILD):
        step()
    if case.device == "cpu":
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    if form is None:
        return float(backend.array_module(backend.device(case.device)).get_default_memory_pool().total_bytes() / 2**20)
    import torch

    return float(torch.cuda.max_memory_reserved() / 2**20)


# ---- what is shown


def ratio_of_times(rows: dict[str, Row]) -> Row:
    """Ours over the fastest of the peers': below 1 is faster."""
    ours = [row for name, row in rows.items() if name.startswith(OURS)]
    theirs = [row for name, row in rows.items() if not name.startswith(OURS) and row["rounds"] == "full"]
    if not theirs:
        return {}
    best, fastest = (min(some, key=lambda row: row["ms"]) for some in (ours, theirs))
    return {"ours": best["side"], "time": best["ms"] / fastest["ms"], "fastest": fastest["side"]}


def ratio_of_memory(rows: dict[str, Row]) -> Row:
    """Ours over the smallest of the peers', where both were read: below 1 is smaller."""
    theirs = [row for name, row in rows.items() if name != OURS and "peak_MiB" in row]
    if not theirs or "peak_MiB" not in rows[OURS]:
        return {}
    smallest = min(theirs, key=lambda row: row["peak_MiB"])
    return {"memory": rows[OURS]["peak_MiB"] / smallest["peak_MiB"], "smallest": smallest["side"]}


def hours(rows: list[Row]) -> str:
    """The paper's training at the rates measured, for each model and precision at its best batch."""
    lines = []
    rows = [row for row in rows if row["pass"] == "training" and models.get(row["model"]).classes == CLASSES]
    for model, precision in dict.fromkeys((row["model"], row["precision"]) for row in rows):
        chosen = [row for row in rows if (row["model"], row["precision"]) == (model, precision)]
        answers = []
        rates: dict[str, float] = {}
        for row in chosen:
            who, rate = row["side"].split()[0].replace(OURS, "ours"), row.get("sustained_images_s", 0.0)
            rates[who] = max(rate, rates.get(who, 0.0))
        for who, rate in rates.items():
            if rate:
                answers.append(f"{EPOCHS * IMAGES / rate / 3600:,.1f} hours ({who}, {rate:,.1f} images/s)")
        if answers:
            lines.append(f"- {model}, {precision}: {'; '.join(answers)}")
    if not lines:
        return ""
    paper = f"{24 * DAYS[0]} to {24 * DAYS[1]} hours (five to six days on two GTX 580)"
    return f"{EPOCHS} epochs of {IMAGES:,} images, as in the paper, which took {paper}:\n\n" + "\n".join(lines)


NAMES = {"model": "model", "pass": "pass", "precision": "precision", "batch": "batch"}
FORMATS = {"ms": ".1f", "q1_ms": ".1f", "q3_ms": ".1f", "images_s": ".1f", "sustained_images_s": ".1f"}
FORMATS |= {"peak_MiB": ".0f", "share": ".1%", "share_of_floor": ".0%", "largest_difference": ".1e"}


def sections(record: Row, cases: list[Case], plot: str) -> dict[str, str]:
    step_columns = NAMES | {"side": "", "ms": "ms", "q1_ms": "quartile 1", "q3_ms": "quartile 3", "samples": "samples"}
    step_columns |= {"images_s": "images/s", "sustained_images_s": "sustained images/s", "rounds": "rounds"}
    step_columns |= {"peak_MiB": "peak MiB", "share_of_floor": "share of the floor"}
    ratio_columns = NAMES | {
        "ours": "ours",
        "time": "time, ours / fastest",
        "fastest": "fastest peer",
        "memory": "memory, ours / smallest",
        "smallest": "smallest peer",
    }
    comparison = timing.table(record["ratios"], ratio_columns, FORMATS)
    agreement_columns = NAMES | {"peer": "peer", "largest_difference": "largest difference", "agree": "agree"}
    rounds = "All forms ran in a short round; then ours, the peers' best two and the best of each in full rounds, and "
    rounds += "memory was read."
    result = {
        "The paper's training": hours(record["rows"]),
        "Ours against the peers": comparison if record["ratios"] else "Ours was timed alone.",
        "Step": rounds + "\n\n" + timing.table(record["rows"], step_columns, FORMATS),
        "First losses from equal weights, dropout off; logits": timing.table(
            record["agreement"], agreement_columns, FORMATS
        )
        if record["agreement"]
        else "",
        "Not measured": timing.table(record["not_measured"], NAMES | {"side": "", "why": "why"})
        if record["not_measured"]
        else "",
        "Where the time goes": f"{(breakdown.__doc__ or '').partition(chr(10) * 2)[2].strip()}\n\n![{plot}]({plot})"
        if record["breakdown"]
        else "",
    }
    for case in cases:
        parts = [row for row in record["breakdown"] if case.row.items() <= row.items()]
        ours = [row for row in parts if row["side"] == OURS]
        theirs = [row for row in parts if row["side"] != OURS]
        if ours:
            columns = {"launcher": "launcher", "ms": "ms", "share": "share"}
            result[f"Ours by launcher: {case}"] = timing.table(breakdown.by_launcher(ours), columns, FORMATS)
            columns = {"layer": "layer", "pass": "pass", "launcher": "launcher", "ms": "ms"}
            result[f"Ours by layer: {case}"] = timing.table(ours, columns, FORMATS)
        if theirs:
            columns = {"layer": "layer", "pass": "pass", "ms": "ms"}
            result[f"{theirs[0]['side']}, eager, by layer: {case}"] = timing.table(theirs, columns, FORMATS)
    return result


def draw(path: Path, rows: list[Row]) -> None:
    bars: dict[str, list[Row]] = {}
    for row in rows:
        name = f"{row['side']}\n{row['model']}, {row['precision']}, batch {row['batch']}"
        bars.setdefault(name, []).append(row)
    breakdown.draw(path, bars, "A training step by layer")


def parse() -> argparse.Namespace:
    parser = bench_options.Parser("step_bench", __doc__, "batch 1 and one round", PEERS)
    several: dict[str, Any] = {"nargs": "+"}
    names = "alexnet-single; on a GPU alexnet and alexnet-owt, too"
    parser.add_argument("--model", choices=models.names(), metavar="NAME", help=f"default: {names}", **several)
    parser.add_argument("--batch", type=int, help="default: 16 64 on a CPU, 128 256 1024 on a GPU", **several)
    passes = ("training", "inference")
    parser.add_argument("--pass", dest="which", choices=passes, help="default: training; both on a GPU", **several)
    parser.add_argument("--precision", choices=kernels.PRECISIONS, help="default: fp32; all on a GPU", **several)
    parser.add_argument("--rounds", type=int, help="samples of each side in full rounds; default 5, 30 on a GPU")
    parser.add_argument("--seconds", type=float, help="of the sustained run; default 10")
    parser.add_argument(
        "--budget", type=float, default=1200.0, help="seconds on a GPU; what does not fit is not measured"
    )
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.options()
    cpu, quick = options.on_cpu, options.quick
    options.model = options.model or (["alexnet-single"] if cpu else ["alexnet-single", "alexnet", "alexnet-owt"])
    options.batch = options.batch or ([1] if quick else [16, 64] if cpu else [128, 256, 1024])
    options.which = options.which or list(passes[:1] if cpu else passes)
    options.precision = options.precision or (["fp32"] if cpu else ["bf16", "tf32", "fp32"])
    options.rounds = options.rounds or (1 if quick else 5 if cpu else 30)
    options.seconds = (0.1 if quick else 10.0) if options.seconds is None else options.seconds
    return options


def main() -> int:
    options = parse()
    if options.child:
        print(child(options.child))
        return 0
    environment = timing.environment(threads=bench_options.threads(options), build=backend.build_info())
    bench = Bench(options)
    record: Row = {"benchmark": "step_bench", "environment": environment} | bench.record
    stem, out = options.stem, options.out

    def save(last: bool = False) -> None:
        if out:
            found = sections(record, bench.cases, f"{stem}.png")
            timing.write(out, stem, f"A step of AlexNet, {'CPU' if options.on_cpu else 'GPU'}", record, found, last)

    bench.measure(save)
    found = sections(record, bench.cases, f"{stem}.png")
    for heading in ("The paper's training", "Ours against the peers", "Step", "Not measured"):
        print(f"\n{heading}\n{found[heading]}" if found[heading] else "", end="")
    print()
    save(last=True)
    if out and record["breakdown"]:
        draw(out / f"{stem}.png", record["breakdown"])
    if not all(row["agree"] for row in record["agreement"]):
        print("step_bench: the sides do not agree", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
