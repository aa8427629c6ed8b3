"""Each layer and pass of AlexNet: ours in every way that our kernels know, beside PyTorch, CuPy and the floor on a GPU,
beside PyTorch and NumPy on a CPU.

Alternating rounds in one process, random data in buffers that no cache holds, on a GPU as one graph. The error beside
each time is ||out - ref|| / ||ref|| over a whole batch, made of a few images again and again, against float64 of the
operands that the precision has rounded; our outputs are poisoned first, so that what is never written shows. A run in
which ours exceed 1e-5 (fp32), 1e-3 (tf32) or 1e-2 (bf16) fails. The floor is the larger of arithmetic and traffic,
every tensor moved once, at the rates measured in the same run.

    python benchmarks/layer_bench.py                                        # on a GPU where there is one
    python benchmarks/layer_bench.py --device cpu --layer conv2 --batch 16
    python benchmarks/layer_bench.py --quick --precision fp32 tf32 bf16      # narrow layers: to see that the code runs
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import bench_options
import layers
import numpy as np
import timing
from contenders import (
    OURS,
    PRECISIONS,
    Array,
    Call,
    Candidate,
    Operands,
    candidates,
    exact,
    operands,
    precisions,
    without_ties,
)
from devices import captured, ceilings, clock_on
from layers import Layer, LinearSgd, LrnPool, SoftmaxCrossEntropy
from timing import Row

from alexnet_cuda import backend, kernels
from alexnet_cuda.kernels import Precision

TOLERANCE = {"fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2}
ROTATE = {"cpu": 64 << 20, "cuda": 256 << 20}
"""Bytes that one sample walks through, so that no buffer is found in the cache; on a CPU where memory decides."""
ITEMSIZE = {"fp32": 4, "tf32": 4, "bf16": 2}
CHECKED_IMAGES = 8
QUICK_SCALE = {"cpu": 16, "cuda": 4}
"""What widths are divided by; a GPU's leave channels enough for every kernel."""
NAMING_SECONDS = 20.0
"""What naming the kernels of cuDNN and cuBLAS may take beyond the budget."""
CELL = ("layer", "pass", "towers", "batch", "precision")


# ---- the check


def repeated(a: Operands, times: int, xp: Any) -> Operands:
    """A batch of these images again and again, and what else there is, copied."""
    return {
        name: xp.concatenate([array] * times) if name in ("x", "dy", "labels") else array.copy()
        for name, array in a.items()
    }


def comparable(result: Array, xp: Any) -> Array:
    """A result of any library as a float32 array of NumPy or CuPy in NHWC order."""
    if type(result).__module__.startswith("torch"):
        result = result.detach().float()
        return xp.from_dlpack((result.permute(0, 2, 3, 1) if result.ndim == 4 else result).contiguous())
    return result if result.dtype == np.float32 else kernels.cast(result, np.float32)


def error(out: Array, reference: Array, layer: Layer, which: str, times: int) -> float:
    """The error of a result for the images of `reference`, repeated `times` times."""
    if which == "weight gradient":
        out = out / times
    elif isinstance(layer, SoftmaxCrossEntropy) and which == "backward":
        out = out * times  # the gradient of a mean
    if out.shape == reference.shape:
        return timing.relative_error(out, reference)
    return timing.relative_error(out.reshape(times, *reference.shape), reference[None].repeat(times, axis=0))


# ---- measuring


class Bench:
    """What all measurements of a run share, and their rows."""

    def __init__(self, device: str, with_torch: bool, clock: timing.Clock, rounds: int, limits: Row, most: int) -> None:
        self.device, self.with_torch, self.clock = device, with_torch, clock
        self.rounds, self.limits, self.most_copies = rounds, limits, most
        self.xp: Any = backend.array_module(backend.device(device))
        self.rows: list[Row] = []
        self.skipped: list[Row] = []
        self.references: dict[tuple[Layer, str, Precision], tuple[Operands, Array]] = {}

    def mode(self, precision: Precision) -> AbstractContextManager[object]:
        if not self.with_torch:
            return nullcontext()
        import peer

        return peer.precision(precision)

    def checked(self, layer: Layer, which: str, precision: Precision, images: int) -> tuple[Operands, Array]:
        """A few images and the exact result for them, both on the device."""
        key = layer, which, precision
        if key not in self.references:
            few = operands(layer, images, self.xp)
            here = {name: backend.to_host(array) for name, array in few.items()}
            if isinstance(layer, LrnPool) and which == "backward":
                here["dy"] = without_ties(layer, here["x"], here["dy"], TOLERANCE[precision])
                few["dy"] = self.xp.asarray(here["dy"])
            self.references[key] = few, self.xp.asarray(exact(layer, which, precision, here))
        return self.references[key]

    def measure(self, towers: int, layer: Layer, which: str, batch: int, precision: Precision) -> None:
        """Adds a row for each candidate. One failing figure does not cost the others."""
        cell: Row = dict(zip(CELL, (layer.name, which, towers, batch, precision), strict=True))
        try:
            with self.mode(precision):
                self.rows += self.compete(cell, layer)
        except Exception as problem:
            self.rows.append(cell | {"library": OURS, "form": "", "auto": True, "failed": in_short(problem)})

    def compete(self, cell: Row, layer: Layer) -> list[Row]:
        """An output that is wrong or not finite is a failure, not a figure."""
        _, which, _, batch, precision = cell.values()
        arithmetic = layers.flop(layer, batch)
        traffic = layers.traffic(layer, which, batch, ITEMSIZE[precision])
        copies = max(1, min(self.most_copies, math.ceil(ROTATE[self.device] / traffic)))
        if self.device == "cpu" and arithmetic:
            copies = 1
        floor = self.floor(arithmetic, traffic, precision)
        competing = candidates(layer, which, precision, self.device, self.with_torch)
        images = math.gcd(batch, CHECKED_IMAGES)
        sets = [operands(layer, batch, self.xp) for _ in range(copies)]
        rows: dict[str, Row] = {}
        runs: dict[str, Callable[[], object]] = {}
        for one in competing:
            row = cell | {"library": one.library, "form": one.form} | ({} if one.auto is None else {"auto": one.auto})
            rows[one.name] = row
            try:
                row["error"] = self.check(one, layer, which, precision, batch // images, images)
                runs[one.name] = self.graph([one.make(a) for a in sets], one.library)
            except Exception as problem:
                row["failed"] = in_short(problem)
        for name, times in self.clock.alternate(runs, self.rounds).items():
            taken = timing.summary([ms / copies for ms in times])
            rows[name] |= taken | {"buffers": copies} | floor | {"gb_s": traffic / taken["ms"] / 1e6}
            rows[name]["tflop_s"] = arithmetic / taken["ms"] / 1e9 if arithmetic else None
            if floor:
                rows[name]["of_floor"] = floor["floor_ms"] / taken["ms"]
        return list(rows.values())

    def floor(self, arithmetic: int, traffic: int, precision: Precision) -> Row:
        if "copy" not in self.limits or (arithmetic and precision not in self.limits):
            return {}
        products = arithmetic / self.limits[precision] if arithmetic else 0.0
        return {"floor_ms": max(products, traffic / self.limits["copy"]) / 1e9}

    def check(self, one: Candidate, layer: Layer, which: str, precision: Precision, times: int, images: int) -> float:
        """The error of the whole batch; an ArithmeticError where it is one of ours that exceeds the tolerance."""
        few, reference = self.checked(layer, which, precision, images)
        backend.poison(True)
        try:
            out = comparable(one.make(repeated(few, times, self.xp))(), self.xp)
        finally:
            backend.poison(False)
        found = error(out, reference, layer, which, times)
        if one.library == OURS and found > TOLERANCE[precision]:
            raise ArithmeticError(f"the error {found:.1e} exceeds {TOLERANCE[precision]:g}")
        return found

    def graph(self, calls: list[Call], library: str) -> Callable[[], object]:
        """The calls one after the other; on a GPU captured, by the library whose memory they take."""

        def run() -> list[Array]:
            return [call() for call in calls]

        if self.device != "cpu" and library == "PyTorch":
            import peer

            return peer.captured(run)
        return captured(run, self.device)

    def release(self) -> None:
        """Gives back what the libraries keep for later arrays: the next layer needs other sizes."""
        backend.release_memory()
        if self.device != "cpu" and self.with_torch:
            import torch

            torch.cuda.empty_cache()

    def name_kernels(self, described: Iterable[tuple[int, Layer]], late: Callable[[], bool]) -> None:
        """Tells of PyTorch's fastest form of each product the kernel that cuDNN or cuBLAS chose, until it is `late`.

        Last of all, since the profiler changes how calls are launched from then on.
        """
        import peer

        named = {(layer.name, towers): layer for towers, layer in described}
        for rows in cells(self.rows):
            best = fastest(rows, "PyTorch")
            if best is None or best["tflop_s"] is None:
                continue
            if late():
                return
            layer, which, precision = named[best["layer"], best["towers"]], best["pass"], best["precision"]
            with self.mode(precision):
                competing = candidates(layer, which, precision, self.device, self.with_torch)
                one = next(one for one in competing if (one.library, one.form) == (best["library"], best["form"]))
                try:
                    call = one.make(operands(layer, best["batch"], self.xp))
                    call()
                    best["kernel"] = peer.kernel_name(call)
                except Exception as problem:
                    best["kernel"] = in_short(problem)


def in_short(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}".splitlines()[0][:300]


def cells(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of each layer, pass, number of towers, batch and precision."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in CELL), []).append(row)
    return list(found.values())


def fastest(rows: Iterable[Row], library: str) -> Row | None:
    timed = [row for row in rows if row["library"] == library and "ms" in row]
    return min(timed, key=lambda row: row["ms"]) if timed else None


# ---- what is shown


def comparison(rows: list[Row]) -> list[Row]:
    """One row a cell: what our kernels choose, the best of the others, how many times faster ours is."""
    compared = []
    for of_cell in cells(rows):
        mine = next(row for row in of_cell if row.get("auto"))
        line: Row = dict(mine)
        best = fastest(of_cell, OURS)
        if best and best["form"] != mine["form"]:
            line |= {"faster": best["form"], "faster_ms": best["ms"]}
        for library in ("NumPy", "CuPy", "PyTorch"):
            if other := fastest(of_cell, library):
                line |= {library: other["ms"], f"{library} form": other["form"], f"{library} error": other["error"]}
                line[f"{library} kernel"] = other.get("kernel")
                if "ms" in mine:
                    line[f"{library} / ours"] = other["ms"] / mine["ms"]
        compared.append(line)
    return compared


def table(rows: list[Row]) -> str:
    columns = {key: key for key in CELL} | {
        "form": "way",
        "ms": "ours ms",
        "q1_ms": "quartile 1",
        "q3_ms": "quartile 3",
    }
    columns |= {"tflop_s": "TFLOP/s", "gb_s": "GB/s", "floor_ms": "floor ms", "of_floor": "of floor", "error": "error"}
    columns |= {"faster": "faster way", "faster_ms": "its ms"}
    columns |= {"NumPy": "NumPy ms", "NumPy / ours": "NumPy / ours", "CuPy": "CuPy ms", "CuPy / ours": "CuPy / ours"}
    columns |= {"PyTorch": "PyTorch ms", "PyTorch form": "its form", "PyTorch error": "its error"}
    columns |= {"PyTorch kernel": "its longest kernel", "PyTorch / ours": "PyTorch / ours", "failed": "failed"}
    compared = comparison(rows)
    columns = {key: heading for key, heading in columns.items() if any(row.get(key) is not None for row in compared)}
    return timing.table(compared, columns, FORMATS)


TIMES = ("ms", "q1_ms", "q3_ms", "floor_ms", "faster_ms", "NumPy", "CuPy", "PyTorch", "ours", "tflop_s", "gb_s")
FORMATS = dict.fromkeys(TIMES, ".4g") | {"of_floor": ".0%", "error": ".1e", "PyTorch error": ".1e"}


def sums(rows: list[Row]) -> str:
    """The passes of a training step, added up where all of them were measured: ours, and PyTorch's fastest forms."""
    compared = {tuple(row[key] for key in CELL): row for row in comparison(rows)}
    lines = []
    for towers, batch, precision in dict.fromkeys(key[2:] for key in compared):
        described = {layer.name: layer for _, layer in layers.timed([towers]) if not isinstance(layer, LinearSgd)}
        fused = {name for layer in described.values() if isinstance(layer, LrnPool) for name in layer.name.split("+")}
        for what, of_products in (("convolutions and products", True), ("everything else", False)):
            found = []
            for layer in described.values():
                if bool(layers.flop(layer, 1)) != of_products or layer.name in fused:
                    continue
                for which in layer.passes:
                    keys = [(layer.name, which, t, batch, p) for p in (precision, "fp32") for t in (towers, 1, 2)]
                    found.append(next((compared[key] for key in keys if key in compared), None))
            if all(row and "ms" in row and "PyTorch" in row for row in found):
                mine, theirs = (sum(row[key] for row in found if row) for key in ("ms", "PyTorch"))
                line = {"what": what, "towers": towers, "batch": batch, "precision": precision, "ours": mine}
                lines.append(line | {"PyTorch": theirs, "PyTorch / ours": theirs / mine})
    columns = {"what": "", "towers": "towers", "batch": "batch", "precision": "precision", "ours": "ours ms"}
    columns |= {"PyTorch": "PyTorch ms", "PyTorch / ours": "PyTorch / ours"}
    return timing.table(lines, columns, FORMATS) if lines else ""


def draw(path: Path, record: Row) -> None:
    """The roofline: operations a byte of the floor's traffic against operations a second, under what was measured."""
    from matplotlib.figure import Figure

    rows, limits = record["rows"], record["ceilings"]
    named = {(layer.name, towers): layer for towers, layer in layers.timed((1, 2), record["scale"])}
    named |= {(layer.name, 2): layer for _, layer in layers.timed([2], record["scale"])}
    batches, precisions = (list(dict.fromkeys(row[key] for row in rows)) for key in ("batch", "precision"))
    figure = Figure(figsize=(7 * len(precisions), 5 * len(batches)), layout="constrained")
    grid = figure.subplots(len(batches), len(precisions), squeeze=False)
    for axes, (batch, precision) in zip(np.ravel(grid), itertools.product(batches, precisions), strict=True):
        intensities = []
        for of_cell in cells(row for row in rows if (row["batch"], row["precision"]) == (batch, precision)):
            which, layer = of_cell[0]["pass"], named[of_cell[0]["layer"], of_cell[0]["towers"]]
            work = layers.operations(layer, which, batch)
            intensities.append(work / layers.traffic(layer, which, batch, ITEMSIZE[precision]))
            for library, marker, color in ((OURS, "o", "tab:green"), ("PyTorch", "x", "tab:red")):
                best = fastest((row for row in of_cell if row.get("auto", True)), library)
                if best:
                    point = intensities[-1], work / best["ms"] / 1e9
                    axes.plot(*point, marker, color=color, markersize=4)
                    if library == OURS:
                        label = f"{layer.name} {''.join(word[0] for word in which.split())}"
                        axes.annotate(label, point, (2, 2), textcoords="offset points", fontsize=5, alpha=0.7)
        if "copy" in limits and intensities:
            x = np.geomspace(min(intensities) / 2, max(intensities) * 2, 500)
            axes.plot(x, np.minimum(limits["copy"] * x, limits.get(precision, np.inf)), color="black")
        for library, marker, color in ((OURS, "o", "tab:green"), ("PyTorch, fastest form", "x", "tab:red")):
            axes.plot([], [], marker, color=color, label=library)
        axes.set(xscale="log", yscale="log", xlabel="operations a byte", title=f"batch {batch}, {precision}")
        axes.set_ylabel("TFLOP/s")
        axes.legend(fontsize=7, loc="upper left")
    machine = record["environment"].get("gpu", {}).get("name") or record["environment"]["processor"]
    figure.suptitle(f"{machine}: {rates(limits)}", fontsize=9)
    figure.savefig(path, dpi=150)


def rates(limits: Row) -> str:
    words = [f"product in {key} {value:.4g} TFLOP/s" for key, value in limits.items() if key != "copy"]
    return ", ".join([f"copy {limits['copy']:.4g} TB/s", *words])


# ---- the command


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = bench_options.Parser("layer_bench", __doc__, "narrow layers, two rounds")
    problem = backend.gpu_problem()
    parser.set_defaults(device="cpu" if problem else "cuda")
    parser.add_argument("--layer", nargs="+", metavar="NAME", help="such as conv2, lrn1 or lrn1+pool1; default all")
    parser.add_argument("--batch", type=int, nargs="+", help="default: 16 on a CPU, 128 and 1024 on a GPU")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, help="default: fp32 on a CPU, all on a GPU")
    parser.add_argument("--towers", type=int, nargs="+", default=[1, 2], choices=(1, 2), help="default: both")
    parser.add_argument("--rounds", type=int, help="samples of each; default 7 on a CPU, 30 on a GPU")
    parser.add_argument("--budget", type=float, help="seconds after which nothing new is measured; default none")
    parser.add_argument("--plot", type=Path, metavar="FILE.json", help="only draw the roofline of a result, beside it")
    options = parser.options(arguments)
    if options.plot:
        return options
    on_cpu = options.on_cpu
    options.batch = options.batch or ([2] if options.quick else [16] if on_cpu else [128, 1024])
    options.precision = options.precision or (["fp32"] if on_cpu else ["bf16", "tf32", "fp32"])
    options.rounds = options.rounds or (2 if options.quick else 7 if on_cpu else 30)
    options.scale = QUICK_SCALE[options.device] if options.quick else 1
    every = list(layers.timed(options.towers, options.scale))
    options.described = [(towers, layer) for towers, layer in every if layer.name in (options.layer or [layer.name])]
    if unknown := set(options.layer or []) - {layer.name for _, layer in every}:
        known = ", ".join(dict.fromkeys(layer.name for _, layer in every))
        parser.error(f"unknown layer {', '.join(sorted(unknown))} (layers: {known})")
    return options


def write(options: argparse.Namespace, bench: Bench, environment: Row, last: bool = True) -> None:
    """The results as JSON, Markdown and, the last time, a plot, where they are wanted."""
    out, stem = options.out, options.stem
    if not out:
        return
    every = {key: key for key in CELL} | {"library": "library", "form": "form", "ms": "ms", "q1_ms": "quartile 1"}
    every |= {"q3_ms": "quartile 3", "samples": "samples", "buffers": "buffers", "error": "error", "failed": "failed"}
    body = {
        "Rates measured in this run": f"{rates(bench.limits)}. A copy counts what is read and what is written.",
        "Sums over a training step": sums(bench.rows),
        "What our kernels choose beside the best of the others": table(bench.rows),
        "Roofline": f"![operations a second over operations a byte]({stem}.png)\n\nf, b, ig, wg: forward, backward, "
        "input and weight gradient. Bytes: every tensor once. Where memory decides, operations are an estimate "
        "(`layers.operations`).",
        "Every library and form": timing.table(bench.rows, every, FORMATS),
        "Not measured": timing.table(bench.skipped, {key: key for key in (*CELL, "why")}) if bench.skipped else "",
    }
    record = {"benchmark": "layer_bench", "environment": environment, "ceilings": bench.limits, "scale": options.scale}
    record |= {"rows": bench.rows, "not_measured": bench.skipped}
    title = f"AlexNet's layers one by one, {'CPU' if options.on_cpu else 'GPU'}"
    timing.write(out, stem, title, record, body, last)
    if not last or not bench.rows:
        return
    if importlib.util.find_spec("matplotlib"):
        draw(out / f"{stem}.png", record)
    else:
        print(f"layer_bench: no matplotlib: draw {stem}.png later by --plot {stem}.json", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.plot:
        draw(options.plot.with_suffix(".png"), json.loads(options.plot.read_text()))
        return 0
    deadline = math.inf if options.budget is None else time.monotonic() + options.budget
    environment = timing.environment(threads=bench_options.threads(options), build=backend.build_info())

    def late(more: float = 0.0) -> bool:
        return time.monotonic() > deadline + more

    with clock_on(options.device, options.torch) as clock:
        limits = ceilings(options.device, clock, options.rounds, options.torch, options.quick)
        bench = Bench(options.device, options.torch, clock, options.rounds, limits, 2 if options.quick else 64)
        for batch in options.batch:
            for precision in options.precision:
                for towers, layer in options.described:
                    for which in layer.passes if precision in precisions(layer) else ():
                        if late():
                            cell = zip(CELL, (layer.name, which, towers, batch, precision), strict=True)
                            bench.skipped.append(dict(cell) | {"why": "time budget"})
                        else:
                            bench.measure(towers, layer, which, batch, precision)
                    bench.release()
                    write(options, bench, environment, last=False)  # a kernel that hangs costs no others
        print(table(bench.rows))
        write(options, bench, environment)
        if options.device == "cuda" and options.torch:
            bench.name_kernels(options.described, lambda: late(NAMING_SECONDS))
            write(options, bench, environment)

    failed = [row for row in bench.rows if row["library"] == OURS and "failed" in row]
    for row in failed:
        print("layer_bench: failed:", ", ".join(f"{key} {value}" for key, value in row.items()), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
