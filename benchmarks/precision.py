"""Whether training in bf16 and tf32 goes as in fp32: the same run, images, order and dropout masks, in each precision.

The losses are smoothed over windows of a tenth of the run. A precision passes where none of its windows is further
from fp32's than the band: 0.1, or a tenth of fp32's loss there where that is more. A second run in fp32 from other
initial weights shows how far apart two runs are that nothing but chance parts.

On a CPU tf32 and bf16 compute what a GPU computes, slowly: `--narrow` divides the channels and neurons of all layers
but the last.

    python benchmarks/precision.py --device cpu --narrow 2 --batch 16       # small, on real digits
    python benchmarks/precision.py --model alexnet --data imagenet:PATH     # full size, on a GPU
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import timing
from timing import Row

from alexnet_cuda import backend, command_line, kernels, models, optim, recipe
from alexnet_cuda.data import Data, Loader, mean_image, open_data
from alexnet_cuda.models import Model
from alexnet_cuda.models.layers import Conv2d, Linear
from alexnet_cuda.recipe import Recipe
from alexnet_cuda.trainer import Step, Trainer

WINDOWS = 10
BAND, SHARE = 0.1, 0.1


def narrowed(model: Model, factor: int) -> Model:
    """The model with a ``factor``-th of the channels and neurons, but for its outputs."""
    *inner, head = model.layers
    return replace(model, layers=(*(_narrowed(layer, factor) for layer in inner), head))


def _narrowed(layer: models.layers.Layer, factor: int) -> models.layers.Layer:
    if isinstance(layer, Conv2d):
        return replace(layer, channels=layer.channels // factor)
    if isinstance(layer, Linear):
        return replace(layer, features=layer.features // factor)
    return layer


def losses(
    model: Model, made: Recipe, data: Data, mean: np.ndarray, device: backend.Device, steps: int, seed: int = 0
) -> np.ndarray:
    """The loss of each of so many training steps in the recipe's precision, from the weights of that seed on."""
    network = model.build(device, seed)
    network.set_precision(made.precision)
    sgd = optim.SGD(network.parameters(), lr=made.lr, momentum=made.momentum, decay=made.decay)
    size = model.input[:2]
    train = Loader(data.train, size, made.batch, allocate=backend.host_allocator(device))
    trainer = Trainer(network, sgd, train, Loader(data.test, size, made.batch), made, mean)
    found: list[float] = []

    def note(step: Step) -> None:
        found.append(step.loss)
        if len(found) == steps:
            trainer.stop()

    trainer.fit(note, lambda epoch: None)
    return np.array(found)


def windows(curve: np.ndarray) -> np.ndarray:
    return np.array([part.mean() for part in np.array_split(curve, WINDOWS)])


def within(curve: np.ndarray, expected: np.ndarray) -> bool:
    """Whether the smoothed curve is in the band around the expected one."""
    a, b = windows(curve), windows(expected)
    return bool((np.abs(a - b) <= np.maximum(BAND, SHARE * b)).all())


def compare(
    model: Model, made: Recipe, data: Data, device: backend.Device, steps: int, precisions: Sequence[str]
) -> Iterator[Row]:
    """A row for each precision, and one for fp32 from other weights, as the runs end."""
    mean = mean_image(data.train)
    made = replace(made, epochs=made.epochs + steps, schedule="constant", steps=())
    expected = np.array([])
    for precision, seed in itertools.chain((("fp32", 0), ("fp32", 1)), ((p, 0) for p in precisions)):
        began = time.monotonic()
        curve = losses(model, replace(made, precision=precision), data, mean, device, steps, seed)
        seconds = time.monotonic() - began
        expected = expected if len(expected) else curve
        yield {
            "precision": precision if seed == 0 else f"{precision}, other weights",
            "losses": windows(curve).tolist(),
            "apart": float(np.abs(windows(curve) - windows(expected)).max()),
            "within": within(curve, expected),
            "seconds_a_step": seconds / len(curve),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=models.names(), default=Recipe.model, metavar="NAME")
    parser.add_argument("--data", default="digits", help="as in `python -m alexnet_cuda.train --data`")
    parser.add_argument("--steps", type=command_line.positive_int, default=500)
    parser.add_argument("--batch", type=command_line.positive_int, help="instead of the recipe's")
    parser.add_argument("--narrow", type=command_line.positive_int, default=1, metavar="N")
    parser.add_argument("--precisions", nargs="+", choices=kernels.PRECISIONS[1:], default=list(kernels.PRECISIONS[1:]))
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a usable GPU, else the CPU)")
    parser.add_argument("--out", type=Path, default=timing.RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    with command_line.checked_input():
        device = command_line.device(options.device)
        made = recipe.load(options.model) if options.model in recipe.names() else Recipe(model=options.model)
        made = replace(made, batch=options.batch or made.batch)
        model = models.get(options.model)
        data = open_data(options.data, *model.input[:2], margin=made.crop)
        model = narrowed(model.with_classes(len(data.classes)), options.narrow)
    environment = timing.environment(device=backend.hardware(device), build=backend.build_info())
    rows = []
    for row in compare(model, made, data, device, options.steps, options.precisions):
        print(
            f"{row['precision']}: {row['apart']:.3g} from fp32 at most, {row['seconds_a_step']:.3g} s a step",
            flush=True,
        )
        rows.append(row)
    record = {
        "benchmark": "precision", "environment": environment, "model": options.model, "narrow": options.narrow,
        "data": options.data, "steps": options.steps, "batch": made.batch, "band": [BAND, SHARE], "rows": rows,
    }  # fmt: skip
    columns = {
        "precision": "precision", "first": "first window", "last": "last window", "apart": "most apart from fp32",
        "within": "in the band", "seconds_a_step": "s a step",
    }  # fmt: skip
    shown = [row | {"first": row["losses"][0], "last": row["losses"][-1]} for row in rows]
    title = f"{options.steps} steps of {options.model} in each precision"
    stem = f"precision-{'cpu' if device.kind == 'cpu' else timing.gpu_slug()}"
    timing.write(options.out, stem, title, record, {"Smoothed losses": timing.table(shown, columns)})
    chance = "fp32, other weights"
    return int(not all(row["within"] for row in rows if row["precision"] != chance))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
