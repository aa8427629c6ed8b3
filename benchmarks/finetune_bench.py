"""Fine-tuning on real images: `alexnet-mini`, trained on five classes of CIFAR-10, learns the others from few images.

From the trained weights all layers learn, or all but the convolutions; beside them the same network from scratch on
the same images, by its own recipe in as many steps, and by the recipe for small sets in its own number. Accuracy on
all test images of those classes, not times.

    python benchmarks/finetune_bench.py --data cifar10:PATH
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_options
import numpy as np
import timing
from timing import Row

from alexnet_cuda import backend, command_line, finetuning, models, recipe
from alexnet_cuda.data import ArrayDataset, Data, Dataset, Loader, open_data
from alexnet_cuda.recipe import Recipe
from alexnet_cuda.run_folder import Config
from alexnet_cuda.trainer import Trainer

MODEL = "alexnet-mini"
LOOKED_AT = 100  # test images after each epoch; those after the last are all


def of_classes(data: Dataset, labels: Sequence[int], each: int | None, seed: int = 0) -> ArrayDataset:
    """The images of some classes, all or `each` so many of them drawn at random."""
    rng, places, numbers = np.random.default_rng(seed), list[Any](), list[Any]()
    for number, label in enumerate(labels):
        found = np.flatnonzero(data.labels == label)
        chosen = found if each is None else np.sort(rng.permutation(found)[:each])
        places.append(chosen)
        numbers.append(np.full(len(chosen), number, np.int32))
    images, _, _ = data.load(np.concatenate(places))
    return ArrayDataset(images, np.concatenate(numbers), names_of(data, labels))


def names_of(data: Data | Dataset, labels: Sequence[int]) -> list[str]:
    return [data.classes[label] for label in labels]


def half(data: Data, labels: Sequence[int], each: int | None, seed: int) -> tuple[Data, ArrayDataset]:
    """Some classes to train on, with a few test images of them, and all test images."""
    test = of_classes(data.test, labels, None)
    few = of_classes(data.test, labels, -(-LOOKED_AT // len(labels)))
    return Data(of_classes(data.train, labels, each, seed), few, data.split, data.mirrored), test


def accuracy(trainer: Trainer, name: str, test: ArrayDataset) -> float:
    """Trains, and tests on all images."""
    trainer.fit(lambda step: None, lambda epoch: None)
    result = trainer.evaluate(Loader(test, trainer.train.size, 128))
    assert result is not None
    steps = command_line.count(trainer.progress.step, "step")
    print(f"seed {trainer.seed}, {name}: {result.top1:.2%} after {steps}", flush=True)
    return 100 * result.top1


def pretrained(data: Data, labels: Sequence[int], epochs: int, device: backend.Device, seed: int, file: Path) -> float:
    """Trains on the classes, writes a checkpoint; the accuracy on the test images, in %."""
    some, test = half(data, labels, None, seed)
    made = replace(recipe.load(MODEL), epochs=epochs)
    trainer = Trainer.of(made, some, device, seed)
    reached = accuracy(trainer, f"{len(some.train):,} images of {', '.join(some.classes)}", test)
    trainer.save(file, {"config": Config(trainer.recipe).plain(), "classes": list(some.classes)})
    return reached


def from_weights(
    file: Path, data: Data, device: backend.Device, seed: int, freeze: Sequence[str], epochs: int | None
) -> Trainer:
    """What `train --weights FILE --freeze ...` makes."""
    start = finetuning.read(file)
    table, where = recipe.read(finetuning.RECIPE)
    made = recipe.change(Recipe(), {**table, **start.entries(table), "freeze": list(freeze)}, where)
    model = models.get(MODEL).with_classes(len(data.classes))
    fit = finetuning.fit(start, model, data.classes)
    made = finetuning.completed(replace(made, epochs=epochs or made.epochs), fit, model)
    trainer = Trainer.of(made, data, device, seed, finetuning.mean(start, data.train))
    finetuning.load(trainer.model, start, fit)
    return trainer


def main(arguments: Sequence[str] | None = None) -> int:
    parser = bench_options.of_trainings(__doc__)
    parser.add_argument("--images", type=command_line.positive_int, default=50, help="of each new class")
    parser.add_argument("--pretraining", type=command_line.positive_int, default=6, help="epochs on the first classes")
    options = parser.parse_args(arguments)
    with command_line.checked_input():
        device = command_line.device(options.device)
        environment = timing.environment(device=backend.hardware(device), build=backend.build_info())
        data = open_data(options.data, *models.get(MODEL).input[:2])
        middle = len(data.classes) // 2
        first, others = range(middle), range(middle, len(data.classes))
    rows: dict[str, Row] = {}
    before = list[float]()

    def note(name: str, trainer: Trainer, test: ArrayDataset) -> None:
        row = rows.setdefault(name, {"start": name, "recipe": "", "steps": 0, "accuracies": []})
        row["accuracies"].append(accuracy(trainer, name, test))
        row["steps"] = trainer.progress.step

    for seed in options.seeds:
        some, test = half(data, others, options.images, seed)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "weights.safetensors"
            before.append(pretrained(data, first, options.pretraining, device, seed, file))
            whole = from_weights(file, some, device, seed, (), options.epochs)
            note("weights, all layers learn (`finetune`)", whole, test)
            frozen = from_weights(file, some, device, seed, ("conv*",), options.epochs)
            note("weights, `--freeze 'conv*'` (`finetune`)", frozen, test)
        own = replace(recipe.load(MODEL), batch=whole.recipe.batch, epochs=whole.recipe.epochs)
        note(f"scratch, equal steps (`{MODEL}`)", Trainer.of(own, some, device, seed), test)
        small = recipe.load("small")
        small = replace(small, epochs=options.epochs or small.epochs)
        note("scratch, for long (`small`)", Trainer.of(small, some, device, seed), test)
    for row in rows.values():
        row["mean"] = statistics.mean(row["accuracies"])
        row["spread"] = statistics.stdev(row["accuracies"]) if len(row["accuracies"]) > 1 else None
    columns = {"start": "start (recipe)", "steps": "steps", "mean": "test accuracy, %", "spread": "standard deviation"}
    old, new = (", ".join(classes) for classes in (names_of(data, first), test.classes))
    about = (
        f"{options.images} training images of each of {new}, others for each seed; {len(test):,} test images of them, "
        f"chance {100 / len(test.classes):.0f} %. Seeds {', '.join(map(str, options.seeds))}. The weights: "
        f"{command_line.count(options.pretraining, 'epoch')} on all training images of {old}, "
        f"{statistics.mean(before):.1f} % right there. {data.split}"
    )
    table = timing.table(list(rows.values()), columns, {"steps": ",", "mean": ".1f", "spread": ".1f"})
    record = {"benchmark": "finetune", "environment": environment, "rows": list(rows.values()), "weights": before}
    timing.write(options.out, "finetune", "Fine-tuning to few images", record, {"Result": table, "Data": about})
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
