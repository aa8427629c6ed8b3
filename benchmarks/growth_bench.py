"""How the cost of inference grows on a CPU: images a second over the batch and over the images' size, on one thread and
on all, and peak memory over the batch; ours, PyTorch, onnxruntime and OpenVINO.

Every point is a process of its own, which runs two batches that are not counted and then for some seconds; sides
alternate at each point. That logits agree is `inference_bench.py`'s to show.

    python benchmarks/growth_bench.py    # half an hour on two cores
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import alone
import bench_options
import steps
import timing
from inference_bench import PEERS
from steps import OURS, Case
from timing import Row

from alexnet_cuda import charts, models

BATCH_OF_SIZES = 8
SIZES = [128, 160, 192, 227, 288, 352, 448]


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    """What it grows over, batch or size, and the case."""
    for batch in options.batch:
        yield "batch", Case(options.model, "inference", "fp32", batch, "cpu")
    for size in options.size:
        yield "size", Case(options.model, "inference", "fp32", BATCH_OF_SIZES, "cpu", size)


def measure(options: argparse.Namespace, save: Callable[[list[Row]], None]) -> list[Row]:
    """A row for each point and side; one that cannot be measured says why. They are saved point by point."""
    rows: list[Row] = []
    for over, case in cases(options):
        print(f"{case}, {case.description.input[0]} pixels ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            forms: dict[str, Row | None] = {OURS: None, **steps.peer_forms(case, options.peers, Path(folder))}
            for threads in options.threads:
                for side, form in forms.items():
                    row: Row = {"over": over, "batch": case.batch, "size": case.description.input[0]}
                    row |= {"threads": threads, "side": side}
                    try:
                        row |= alone.measured(asdict(case), form, threads, options.seconds)
                    except RuntimeError as error:  # one side that fails must not cost the others
                        row["failed"] = str(error)
                    rows.append(row)
        save(rows)
    return rows


def table(rows: list[Row]) -> str:
    columns = {"batch": "batch", "size": "pixels", "threads": "threads", "side": ""}
    columns |= {"images_s": "images/s", "peak_MiB": "peak MiB"}
    if any("failed" in row for row in rows):
        columns["failed"] = "failed"
    return timing.table(rows, columns, {"images_s": ".1f", "peak_MiB": ".0f"})


def sections(rows: list[Row], plot: str) -> dict[str, str]:
    found = {over: [row for row in rows if row["over"] == over] for over in ("batch", "size")}
    tables = {f"Over the {over}": table(some) for over, some in found.items() if some}
    return {"Side by side": f"![{plot}]({plot})", **tables}


def draw(path: Path, rows: list[Row]) -> None:
    """A line for each side and number of threads; the fewest threads dashed, memory with the most."""
    figure = charts.figure(15, 5.5)
    panels = ("batch", "images_s", "images/s"), ("size", "images_s", "images/s"), ("batch", "peak_MiB", "peak MiB")
    sides = list(dict.fromkeys(row["side"] for row in rows))
    counts = sorted({row["threads"] for row in rows}, reverse=True)
    for axes, (over, value, unit) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for i, side in enumerate(sides):
            for dashes, threads in zip(charts.DASHES, counts if value == "images_s" else counts[:1], strict=False):
                of_line = {"over": over, "side": side, "threads": threads}
                line = [row for row in rows if of_line.items() <= row.items() and value in row]
                points: Any = [row[over] for row in line], [row[value] for row in line]
                name = f"{side}, {threads} thread{'s' * (threads > 1)}"
                axes.plot(*points, color=f"C{i % charts.COLOURS}", linestyle=dashes, marker=".", label=name)
        axes.set(xlabel="pixels" if over == "size" else over, ylabel=unit, ylim=(0, None))
        if over == "batch":
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
    lines, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(sides))
    charts.save(figure, path, dpi=120)


def parse() -> argparse.Namespace:
    parser = bench_options.Parser("growth_bench", __doc__, "two batches and sizes, one call", PEERS)
    parser.add_argument("--model", choices=models.names(), metavar="NAME", default="alexnet-single")
    parser.add_argument("--batch", type=int, nargs="+", help="default: powers of 2 to 256")
    parser.add_argument("--size", type=int, nargs="+", help=f"pixels; default: {' '.join(map(str, SIZES))}")
    parser.add_argument("--threads", type=int, nargs="+", help="default: one, and one a core")
    parser.add_argument("--seconds", type=float, help="of each process; default 3")
    options = parser.options()
    if not options.on_cpu:
        parser.error(f"--device {options.device}: expected cpu, whose threads and memory this is about")
    options.batch = options.batch or ([1, 2] if options.quick else [2**i for i in range(9)])
    options.size = options.size or (SIZES[:2] if options.quick else SIZES)
    options.threads = options.threads or sorted({1, len(os.sched_getaffinity(0))})
    options.seconds = options.seconds or (1e-3 if options.quick else 3.0)
    return options


def main() -> int:
    options = parse()
    record: Row = {"benchmark": "growth_bench", "model": options.model, "environment": timing.environment()}
    title = f"How the cost of inference grows: {options.model}, CPU"

    def save(rows: list[Row], last: bool = False) -> None:
        record["rows"] = rows
        if options.out:
            timing.write(options.out, options.stem, title, record, sections(rows, f"{options.stem}.png"), last)
            draw(options.out / f"{options.stem}.png", rows)

    rows = measure(options, save)
    print(table(rows))
    save(rows, last=True)
    if failed := sum("failed" in row for row in rows):
        print(f"growth_bench: {failed} of {len(rows)} points failed", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
