"""How training scales: model, data and hybrid parallelism on 1 to 1024 devices, predicted; a few processes, measured.

Every device has its own `--batch` of images, so the whole batch grows with their number, as in Krizhevsky 2014. A
prediction adds up the compute of one device (`--compute`: a result of layer_bench; without one the floors of an H200,
which no program reaches) and the time of what crosses links of stated speed. `--measure` times real processes that
mpirun starts on this machine, a thread each. Measured and predicted figures are never in one column.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --compute benchmarks/results/layer_bench-cpu.json --link ethernet --measure 1 2
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import layers
import numpy as np
import timing
from timing import Row

from alexnet_cuda import backend, command_line, models, parallel, recipe
from alexnet_cuda.data import ArrayDataset, Data
from alexnet_cuda.trainer import Trainer

COUNTS = [2**i for i in range(11)]
PUBLISHED = {1: 1.0, 2: 1.95, 4: 3.74, 8: 6.25}  # Krizhevsky 2014, from memory: not verified in the paper
MODES = ("data", "hybrid", "model")
DENSE = ("fc6", "fc7", "fc8", "softmax")
STEPS = 5


@dataclass(frozen=True)
class Link:
    """What one device can send, and receive, at once: bytes/s and seconds a message, in a node and between nodes."""

    what: str
    node: int
    inside: float
    inside_latency: float
    between: float
    between_latency: float

    def _of(self, count: int) -> tuple[float, float]:
        """Between nodes all devices of one send at once, each a part, and share in the node what arrives."""
        if count <= self.node:
            return self.inside, self.inside_latency
        return min(self.inside, self.node * self.between), self.between_latency

    def all_reduce(self, nbytes: float, count: int) -> float:
        """Seconds: a ring's traffic, a tree's latency, as the better libraries choose."""
        speed, latency = self._of(count)
        return (
            2 * (count - 1) / count * nbytes / speed + 2 * math.ceil(math.log2(count)) * latency if count > 1 else 0.0
        )

    def gather(self, nbytes: float, count: int) -> float:
        """Seconds until each of `count` has all parts of `nbytes` together, or the sum of its own."""
        speed, latency = self._of(count)
        return (count - 1) / count * nbytes / speed + math.ceil(math.log2(count)) * latency if count > 1 else 0.0

    def send(self, nbytes: float) -> float:
        return nbytes / self.inside + self.inside_latency


LINKS = {
    "nvlink": Link("NVLink 4, 450 GB/s, 8 GPUs a node; 400 Gbit/s a GPU between nodes", 8, 450e9, 5e-6, 50e9, 10e-6),
    "pcie": Link("PCI Express 4 x16, 25 GB/s, 8 GPUs a node; 100 Gbit/s a GPU between", 8, 25e9, 10e-6, 12.5e9, 20e-6),
    "ethernet": Link("10 Gbit/s Ethernet, one device a node", 1, 1.25e9, 30e-6, 1.25e9, 30e-6),
}


class Compute(Protocol):
    """Seconds of one device."""

    what: str

    def layer(self, name: str, which: str, batch: int, share: float) -> float:
        """Of a pass of a layer, or of its `share` of the neurons."""
        ...

    def update(self, parameters: float) -> float: ...


class Measured:
    """What layer_bench measured of our kernels in fp32, in proportion to batch and neurons."""

    def __init__(self, path: Path) -> None:
        try:
            record = json.loads(path.read_text())
            mine = [r for r in record["rows"] if r["library"] == "alexnet_cuda" and r.get("auto", True)]
            rows = [r for r in mine if r.get("towers", 1) == 1 and r.get("precision", "fp32") == "fp32"]
            self.batch = max(r["batch"] for r in rows)
            self.ms = {(r["layer"], r["pass"]): float(r["ms"]) for r in rows if r["batch"] == self.batch}
            environment = record["environment"]
            machine = (
                environment.get("gpu", {}).get("name") or f"{environment['processor']}, {environment['cores']} cores"
            )
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise command_line.UsageError(f"--compute {path}: expected a result of layer_bench: {e}") from e
        self.what = f"measured by {path.name} in fp32 at batch {self.batch} on {machine}"
        self.parameters = next(layer.parameters for layer in layers.alexnet() if isinstance(layer, layers.Sgd))

    def layer(self, name: str, which: str, batch: int, share: float) -> float:
        return self.ms[name, which] / 1e3 * batch / self.batch * share

    def update(self, parameters: float) -> float:
        return self.ms["sgd", "update"] / 1e3 * parameters / self.parameters


class Floor:
    """The least time of an H200 in bfloat16: arithmetic at 790 TFLOP/s or every tensor moved once at 4.3 TB/s."""

    what = "floors of an H200 in bfloat16 (790 TFLOP/s, 4.3 TB/s): nothing of ours has been measured on a GPU"

    def __init__(self) -> None:
        self.layers = {layer.name: layer for layer in layers.alexnet()}

    def layer(self, name: str, which: str, batch: int, share: float) -> float:
        layer = self.layers[name]
        if isinstance(layer, layers.Linear):
            x, w, y = layer.elements(batch)
            least = 2 * x + share * (2 * y + (4 if which == "weight gradient" else 2) * w)
        else:
            least = float(layers.traffic(layer, which, batch, 2))
        return max(share * layers.flop(layer, batch) / 790e12, least / 4.3e12)

    def update(self, parameters: float) -> float:
        return 20 * parameters / 4.3e12


def predict(mode: str, count: int, batch: int, compute: Compute, link: Link) -> float | None:
    """Seconds of a step of alexnet-single (model: of alexnet, in two towers) on `count` devices; None where there is no
    such way. Sums of gradients overlap with the backward pass of the convolutions, nothing else overlaps."""
    described = [layer for layer in layers.alexnet() if layer.passes and not isinstance(layer, layers.Sgd)]

    def seconds(dense: bool, forward: bool, images: int, share: float = 1.0) -> float:
        return sum(
            compute.layer(layer.name, which, images, share)
            for layer in described
            if (layer.name in DENSE) == dense
            for which in layer.passes
            if (which == "forward") == forward
        )

    trunk = sum(row.parameters for row in models.get("alexnet-single").rows() if row.layer.name.startswith("conv"))
    whole = models.get("alexnet-single").parameters
    if mode == "model":
        if count > 2:
            return None
        images = batch * count
        one = sum(seconds(dense, forward, images) for dense in (True, False) for forward in (True, False))
        crossing = parallel.crossings(models.get("alexnet"), images) if count == 2 else {}
        crossed = sum(link.send(max(pair)) for pair in crossing.values())
        return one / count + 2 * crossed + compute.update(whole / count)
    if mode == "data":
        back = max(seconds(False, False, batch), link.all_reduce(4 * whole, count))
        return (
            seconds(False, True, batch)
            + seconds(True, True, batch)
            + seconds(True, False, batch)
            + back
            + compute.update(whole)
        )
    images = batch * count
    gathered = sum(link.gather(4 * images * features, count) for features in (9216, 4096, 4096, layers.CLASSES))
    dense_time = seconds(True, True, images, 1 / count) + seconds(True, False, images, 1 / count)
    back = max(seconds(False, False, batch), link.all_reduce(4 * trunk, count))
    return (
        seconds(False, True, batch) + dense_time + 2 * gathered + back + compute.update(trunk + (whole - trunk) / count)
    )


def predictions(batch: int, compute: Compute, link: Link) -> list[Row]:
    rows: list[Row] = []
    alone = {mode: predict(mode, 1, batch, compute, link) for mode in MODES}
    for count in COUNTS:
        row: Row = {"devices": count, "batch": batch * count, "published_2014": PUBLISHED.get(count)}
        for mode in MODES:
            step, one = predict(mode, count, batch, compute, link), alone[mode]
            if step is not None and one is not None:
                speedup = count * one / step
                row |= {f"{mode}_ms": 1e3 * step, f"{mode}_speedup": speedup, f"{mode}_efficiency": speedup / count}
        rows.append(row)
    return rows


# ---- real processes


def measure(counts: Sequence[int], model: str, batch: int) -> list[Row]:
    """Steps of real processes, one thread each, on this machine."""
    rows: list[Row] = []
    launcher = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
    if launcher is None:
        raise command_line.UsageError("--measure needs mpirun: pip install 'alexnet-cuda[mpi]'")
    for mode in ("data", "hybrid"):
        for count in counts:
            options = ["--worker", mode, "--model", model, "--batch", str(batch)]
            command = [launcher, "-n", str(count), sys.executable, __file__, *options]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise command_line.Failure(f"{count} processes, {mode}: {done.stderr.strip() or done.stdout.strip()}")
            rows.append({"mode": mode, "processes": count, "batch": batch * count} | json.loads(done.stdout))
    for row in rows:
        one = next(r for r in rows if r["mode"] == row["mode"])
        rate = row["batch"] / row["ms"]
        row["speedup"] = rate / (one["batch"] / one["ms"]) * one["processes"]
        row["efficiency"] = row["speedup"] / row["processes"]
    return rows


def work(mode: str, model: str, batch: int) -> None:
    """One of the processes that `measure` starts: rank 0 prints the median of its steps."""
    backend.set_threads(1)
    with parallel.join("cpu") as group:
        whole, described = batch * group.size, models.get(model)
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (whole, *described.input), np.uint8)
        classes = described.classes
        images = ArrayDataset(
            pixels, rng.integers(0, classes, whole).astype(np.int32), [str(i) for i in range(classes)]
        )
        made = recipe.change(
            recipe.Recipe(), {"model": model, "batch": whole, "epochs": STEPS + 1, "lr": 1e-6}, "scaling"
        )
        trainer = Trainer.of(
            made, Data(images, images, "random images", False), "cpu", group=group, hybrid=mode == "hybrid"
        )
        trainer.test.dataset = ArrayDataset(pixels[: group.size], images.labels[: group.size], images.classes)
        ends: list[float] = []
        seconds: list[float] = []

        def on_epoch(epoch: Any) -> None:
            ends.append(trainer.progress.seconds)
            seconds.append(ends[-1] - (ends[-2] if len(ends) > 1 else 0.0))

        trainer.fit(lambda step: None, on_epoch)
        if group.rank == 0:
            print(json.dumps(timing.summary([1e3 * s for s in seconds[1:]])))


# ---- what is shown


def draw(path: Path, rows: Sequence[Row], measured: Sequence[Row], what: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for mode, style in zip(MODES, ("-", "--", ":"), strict=True):
        points = [(row["devices"], row[f"{mode}_speedup"]) for row in rows if f"{mode}_speedup" in row]
        axes.plot(*zip(*points, strict=True), style, color="black", label=f"{mode}, predicted")
    axes.plot(COUNTS, COUNTS, color="lightgray", linewidth=1, zorder=0)
    for mode, marker in (("data", "o"), ("hybrid", "s")):
        points = [(row["processes"], row["speedup"]) for row in measured if row["mode"] == mode]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color="tab:green", label=f"{mode}, measured on this machine")
    axes.plot(list(PUBLISHED), list(PUBLISHED.values()), "x", color="tab:red", label="2014 paper, unverified")
    axes.set(xscale="log", yscale="log", xlabel="devices", ylabel="speedup", title=what)
    axes.title.set_fontsize(8)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=command_line.positive_int, help="images a device (default 128; 8 to measure)")
    parser.add_argument(
        "--compute", type=Path, metavar="FILE", help="a result of layer_bench (default: an H200's floors)"
    )
    parser.add_argument("--link", choices=LINKS, default="nvlink")
    parser.add_argument(
        "--measure", type=command_line.positive_int, nargs="+", metavar="K", help="numbers of processes"
    )
    parser.add_argument("--model", choices=models.names(), default="alexnet", metavar="NAME", help="to measure")
    parser.add_argument("--worker", choices=("data", "hybrid"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=timing.RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    if options.worker:
        work(options.worker, options.model, options.batch)
        return 0
    compute: Compute = Measured(options.compute) if options.compute else Floor()
    link, batch = LINKS[options.link], options.batch or 128
    rows = predictions(batch, compute, link)
    environment = timing.environment(build=backend.build_info())
    measured = measure(options.measure, options.model, options.batch or 8) if options.measure else []
    columns = {"devices": "devices", "batch": "batch"}
    columns |= {f"{mode}_ms": f"{mode}: ms a step" for mode in MODES}
    columns |= {f"{mode}_efficiency": f"{mode}: efficiency" for mode in MODES}
    columns |= {f"{mode}_speedup": f"{mode}: speedup" for mode in MODES} | {"published_2014": "2014 paper (unverified)"}
    names = {"mode": "mode", "processes": "processes", "batch": "batch", "ms": "ms a step", "speedup": "speedup"}
    seen = timing.table(measured, names | {"efficiency": "efficiency"}) if measured else ""
    stem = f"scaling-{options.compute.stem if options.compute else 'floor'}-{options.link}"
    draw(options.out / f"{stem}.png", rows, measured, f"{compute.what}\n{link.what}")
    sections = {
        "Predicted": f"Compute: {compute.what}.\n\nLinks, as stated: {link.what}.\n\n" + timing.table(rows, columns),
        f"Measured: {options.model} in processes of one thread on this machine": seen,
        "Plot": f"![speedup over devices]({stem}.png)",
    }
    record = {"benchmark": "scaling", "environment": environment, "compute": compute.what, "link": link.what}
    timing.write(options.out, stem, "Scaling", record | {"predicted": rows, "measured": measured}, sections)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
