"""Results of the paper and of cuda-convnet again, on real data: training runs whose figures land in `results/`.

`cifar` trains cuda-convnet's networks by their recipes; `figure1` trains one network with ReLU and with tanh to 25 %
training error; `ablations` leaves out one idea of the paper at a time, with several seeds each.

    python benchmarks/reproduce.py cifar --data cifar10:PATH --model cifar-80sec
    python benchmarks/reproduce.py figure1 --data cifar10:PATH
    python benchmarks/reproduce.py ablations --data digits --model alexnet-mini
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_options
import timing
from timing import Row

from alexnet_cuda import backend, command_line, models, recipe
from alexnet_cuda.data import Data, open_data
from alexnet_cuda.files import replacing
from alexnet_cuda.recipe import Recipe
from alexnet_cuda.trainer import Epoch, Trainer

PUBLISHED = {  # test error of cuda-convnet's own logs, % (18pct and the others: docs/network.md)
    "cifar-80sec": 26.0,
    "cifar-18pct": 18.0,
    "cifar-19pct": 19.0,
    "cifar-13pct": 13.0,
    "cifar-11pct": 11.0,
}
TARGET = 0.25  # of figure 1: training error
RATES = {"relu": 0.003, "tanh": 0.01}  # of .001, .003, .01 and .03, compared by --lr and --epochs
ABLATIONS: dict[str, dict[str, Any]] = {
    "all of it": {},
    "without LRN": {"options": {"lrn": False}},
    "2x2 pools that do not overlap": {"options": {"overlap": False}},
    "without dropout": {"options": {"dropout": False}},
    "one tower": {"options": {"towers": 1}},
    "without crops and mirror images": {"crop": False, "mirror": False},
}


def train(
    made: Recipe, data: Data, device: backend.Device, seed: int, enough: Callable[[Epoch], bool] = lambda epoch: False
) -> tuple[list[Epoch], float]:
    """The epochs of a training run, up to one that is `enough`, and the seconds they took."""
    trainer, epochs, began = Trainer.of(made, data, device, seed), list[Epoch](), time.monotonic()

    def on_epoch(epoch: Epoch) -> None:
        epochs.append(epoch)
        print(
            f"{made.model}, seed {seed}, epoch {epoch.epoch}/{made.epochs}: training error "
            f"{1 - epoch.train_accuracy:.2%}, test error {1 - epoch.test.top1:.2%}",
            flush=True,
        )
        if enough(epoch):
            trainer.stop()

    trainer.fit(lambda step: None, on_epoch)
    return epochs, time.monotonic() - began


def opened(made: Recipe, source: str) -> Data:
    return open_data(source, *models.get(made.model).input[:2], margin=made.crop)


def cifar(options: argparse.Namespace, device: backend.Device) -> tuple[str, Row, dict[str, str]]:
    rows: list[Row] = []
    for name in options.model or ["cifar-80sec"]:
        made = chosen(recipe.load(name), options)
        data = opened(made, options.data)
        epochs, seconds = train(made, data, device, options.seeds[0])
        last = epochs[-1]
        rows.append(
            {
                "model": name,
                "epochs": len(epochs),
                "test_error": 100 * (1 - last.test.top1),
                "training_error": 100 * (1 - last.train_accuracy),
                "published": PUBLISHED.get(name),
                "minutes": seconds / 60,
                "images_s": statistics.median(epoch.images_per_second for epoch in epochs),
                "data": data.split,
            }
        )
    columns = {"model": "network", "epochs": "epochs", "test_error": "test error, %", "published": "published, %"}
    columns |= {"training_error": "training error, %", "minutes": "minutes", "images_s": "images/s"}
    formats = {"test_error": ".2f", "training_error": ".2f", "minutes": ".1f", "images_s": ".0f", "published": ".0f"}
    sections = {"Result": timing.table(rows, columns, formats), "Data": rows[0]["data"]}
    return "cuda-convnet's networks on CIFAR-10", {"rows": rows}, sections


def figure1(options: argparse.Namespace, device: backend.Device) -> tuple[str, Row, dict[str, str]]:
    base = chosen(recipe.load("cifar-4layer"), options)
    data = opened(base, options.data)
    curves: dict[str, list[float]] = {}
    for activation, rate in RATES.items():
        made = replace(base, options={**base.options, "activation": activation}, lr=options.lr or rate)
        epochs, _ = train(made, data, device, options.seeds[0], lambda epoch: 1 - epoch.train_accuracy <= TARGET)
        curves[activation] = [1 - epoch.train_accuracy for epoch in epochs]
    needed = {name: len(errors) if errors[-1] <= TARGET else None for name, errors in curves.items()}
    rows: list[Row] = [
        {"activation": name, "epochs": count, "last": 100 * curves[name][-1]} for name, count in needed.items()
    ]
    ratio = needed["tanh"] / needed["relu"] if needed["relu"] and needed["tanh"] else None
    draw_figure1(options.out / "figure1.png", curves)
    said = f"{ratio:.1f}" if ratio else f"unmeasured: the {base.epochs} epochs were not enough"
    columns = {"activation": "activation", "epochs": f"epochs to {TARGET:.0%}", "last": "last training error, %"}
    sections = {
        "Result": timing.table(rows, columns, {"last": ".2f"}),
        "Ratio of epochs, tanh / ReLU (about 6 in the paper)": said,
        "Curves": "![training error over epochs](figure1.png)",
        "Data": data.split,
    }
    return "Figure 1: ReLU against tanh", {"rows": rows, "ratio": ratio, "curves": curves}, sections


def draw_figure1(path: Path, curves: dict[str, list[float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (name, errors), style in zip(curves.items(), ("-", "--"), strict=True):
        axes.plot(range(1, len(errors) + 1), errors, style, color="black", label=name)
    axes.axhline(TARGET, color="gray", linewidth=0.8)
    axes.set(xlabel="epochs", ylabel="training error", ylim=(0, 0.75), xlim=(0, None))
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=120)


def ablations(options: argparse.Namespace, device: backend.Device) -> tuple[str, Row, dict[str, str]]:
    base = chosen(recipe.load((options.model or ["alexnet-mini"])[0]), options)
    rows: list[Row] = []
    split = ""
    for name, changes in ABLATIONS.items():
        made = recipe.change(base, changes, name)
        data = opened(made, options.data)
        split = data.split
        errors = [100 * (1 - train(made, data, device, seed)[0][-1].test.top1) for seed in options.seeds]
        spread = statistics.stdev(errors) if len(errors) > 1 else None
        rows.append({"variant": name, "mean": statistics.mean(errors), "spread": spread, "errors": errors})
    for row in rows:
        row["difference"] = row["mean"] - rows[0]["mean"]
    columns = {
        "variant": base.model,
        "mean": "test error, %",
        "spread": "standard deviation",
        "difference": "difference",
    }
    said = f"{base.epochs} epochs, seeds {', '.join(map(str, options.seeds))}. {split}"
    sections = {"Result": timing.table(rows, columns, dict.fromkeys(columns, ".2f")), "Data": said}
    return f"Ablations of {base.model}", {"rows": rows, "model": base.model, "epochs": base.epochs}, sections


def chosen(made: Recipe, options: argparse.Namespace) -> Recipe:
    """The recipe with the epochs of the command line."""
    return replace(made, epochs=options.epochs) if options.epochs else made


WHAT = {"cifar": cifar, "figure1": figure1, "ablations": ablations}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = bench_options.of_trainings(__doc__)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--model", nargs="+", choices=models.names(), metavar="NAME")
    parser.add_argument("--lr", type=command_line.positive_float, help="figure1: instead of each activation's own rate")
    options = parser.parse_args(arguments)
    with command_line.checked_input():
        device = command_line.device(options.device)
        environment = timing.environment(device=backend.hardware(device), build=backend.build_info())
        title, record, sections = WHAT[options.what](options, device)
    stem = f"reproduce-{options.what}-{'cpu' if device.kind == 'cpu' else timing.gpu_slug()}"
    timing.write(options.out, stem, title, {"benchmark": "reproduce", "environment": environment} | record, sections)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
