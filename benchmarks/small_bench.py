"""Small images: images a second of a training step on a CPU, two commits and PyTorch's same networks in turn.

    python benchmarks/small_bench.py BASE [COMMIT]

COMMIT is HEAD by default. Each is built in place in a new folder and runs the step of its own benchmarks; PyTorch runs
in each of its forms. Processes alternate: one takes its time for one network, after two steps that are not counted.
That first losses agree is `step_bench.py`'s to show.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import alone
import bench_options
import commits
import steps
import timing
from timing import Row

MODELS = "cifar-80sec", "alexnet-mini"


def contenders(case: steps.Case, places: dict[str, Path], peers: Sequence[str], seconds: float) -> dict[str, Row]:
    """What ``alone.measured`` takes, by commit and by form of a peer."""
    common: Row = {"case": asdict(case), "form": None, "threads": len(os.sched_getaffinity(0)), "seconds": seconds}
    sides = {
        commit: common | {"benchmarks": place / "benchmarks", "environment": commits.environment(place)}
        for commit, place in places.items()
    }
    forms = steps.peer_forms(case, peers, Path())  # of a training step: no files
    return sides | {name: common | {"form": form} for name, form in forms.items()}


def measure(hashes: Sequence[str], arguments: argparse.Namespace, peers: Sequence[str]) -> list[Row]:
    """A row for each model and side: median and quartiles of images a second."""
    rows: list[Row] = []
    with commits.built(hashes, arguments.temporary) as places:
        for model in arguments.model:
            case = steps.Case(model, "training", "fp32", arguments.batch, "cpu")
            sides = contenders(case, places, peers, arguments.seconds)
            runs: dict[str, Callable[[], Row]] = {name: partial(alone.measured, **how) for name, how in sides.items()}
            rates: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(arguments.rounds):
                for name, run in runs.items():
                    rates[name].append(run()["images_s"])
            for name, found in rates.items():
                row = {key.replace("ms", "images_s"): value for key, value in timing.summary(found).items()}
                rows.append({"model": model, "batch": case.batch, "side": name} | row)
    return commits.with_ratios(rows, "model", "images_s")


def main(options: Sequence[str] | None = None) -> int:
    parser = commits.Parser(__doc__, "processes", rounds=7)
    parser.add_argument("--model", nargs="+", default=MODELS, metavar="NAME", help=f"default: {' '.join(MODELS)}")
    parser.add_argument("--batch", type=int, default=128, help="default: 128, as cuda-convnet's")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each process; default 5")
    parser.add_argument("--alone", action="store_true", help="without PyTorch, even where it is installed")
    arguments = parser.parse_args(options)
    if arguments.rounds < 1 or arguments.batch < 1 or arguments.seconds <= 0:
        parser.error("--rounds, --batch, --seconds: expected positive numbers")
    peers = [] if arguments.alone else bench_options.installed("small_bench", ["PyTorch"])
    environment = timing.environment(threads=len(os.sched_getaffinity(0)))
    rows = commits.measured("small_bench", arguments, lambda hashes: measure(hashes, arguments, peers))
    if rows is None:
        return 1
    columns = {"model": "model", "batch": "batch", "side": "", "images_s": "images/s", "q1_images_s": "quartile 1"}
    columns |= {"q3_images_s": "quartile 3", "ratio": "times the first's"}
    table = timing.table(rows, columns, {key: ".2f" if key == "ratio" else ",.0f" for key in columns})
    print(table)
    record = {"benchmark": "small_bench", "environment": environment, "rows": rows}
    timing.write(arguments.out, "small_bench-cpu", "Small images", record, {"A training step": table})
    return 0


if __name__ == "__main__":
    sys.exit(main())
