"""The sections of the report that need no images: how the training went, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np

from .. import charts, names
from ..inference import Floats, Images, Trained
from ..pages import Section, chart, details, png, section, table, tag

ACROSS = 16  # filters in a row, as in the paper's figure 3
ENLARGED = 4  # pixels of the picture for one of a filter
TITLES = {"loss": "Loss", "accuracy": "Accuracy", "lr": "Learning rate"}
STYLE = """
.filters{width:48rem;margin-top:.75rem}
"""


@dataclass(frozen=True)
class Past:
    """What a run folder tells of the training: the records of metrics.jsonl, the description in its checkpoint."""

    records: Sequence[Mapping[str, Any]]
    description: Mapping[str, Any]

    def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        return [record for record in self.records if record["kind"] == kind]

    @property
    def epochs(self) -> list[Mapping[str, Any]]:
        return self.of_kind("epoch")


def summary(trained: Trained, past: Past) -> list[tuple[str, str]]:
    """Names and values: the network and its training."""
    done = past.description.get("progress", {}).get("epoch")
    rows = [
        ("network", f"{trained.model.name}: {trained.model.source}"),
        ("parameters", f"{trained.model.parameters:,}"),
        ("checkpoint", names.text(trained.path) + (f", after epoch {done:,}" if done else "")),
    ]
    for i, start in enumerate(past.of_kind("start")):
        rows += [
            ("resumed" if i else "begun", f"{start['time']}, by alexnet_cuda {start['version']} on {start['machine']}"),
            ("by", start["command"]),
        ]
    if seconds := past.description.get("progress", {}).get("seconds"):
        rows.append(("time", f"{timedelta(seconds=round(seconds))}, tests not counted"))
    if epochs := past.epochs:
        best = max(epochs, key=lambda record: record["test_accuracy"])
        rows += [
            ("epochs", f"{epochs[-1]['epoch']:,}"),
            ("test accuracy", f"{epochs[-1]['test_accuracy']:.2%}"),
            ("at best", f"{best['test_accuracy']:.2%}, after epoch {best['epoch']:,}"),
        ]
    return rows


def curves(past: Past) -> Section:
    """Loss, accuracy and learning rate over epochs, and the numbers."""
    drawn = []
    for what, title in TITLES.items():
        draw = partial(charts.draw, what=what, curves=charts.of_run(past.records, what))
        drawn.append(chart((4.8, 3.2), draw, f"{title} over epochs"))
    header = ("epoch", "training loss", "training accuracy", "test loss", "test accuracy")
    rows = [
        (
            f"{record['epoch']:,}",
            _number(record["train_loss"], ".4f"),
            _number(record["train_accuracy"], ".2%"),
            _number(record["test_loss"], ".4f"),
            _number(record["test_accuracy"], ".2%"),
        )
        for record in past.epochs
    ]
    numbers = details("Every epoch", table(header, rows, numbers=range(5)))
    return section("Training", tag("div", *drawn, class_="charts"), numbers)


def filters(trained: Trained) -> Section:
    """The filters of the first layer (paper, figure 3), on one scale."""
    model, arrays = trained.model, dict(trained.network.named_parameters())
    seeing = [layer.name for layer, inputs in model.connected() if inputs == ("",) and layer.kind == "Conv2d"]
    groups = max(getattr(layer, "groups", 1) for layer in model.layers) if model.chain else 1
    towers = [(name, w) for name in seeing for w in np.split(arrays[f"{name}.w"].numpy(), groups)]
    if not towers:
        return section("Filters of the first layer", tag("p", "No convolution sees the images."))
    least, greatest = min(w.min() for _, w in towers), max(w.max() for _, w in towers)
    pictures = []
    for i, (name, w) in enumerate(towers, 1):
        which = f" of tower {i}" if len(towers) > 1 else ""
        scaled = (w - least) / max(float(greatest - least), np.finfo(np.float32).tiny)
        image = tag("img", src=png(tiled(scaled)), alt=f"The {len(w)} filters{which} in {name}", class_="filters")
        pictures.append(tag("figure", image, tag("figcaption", f"Tower {i}") if which else ""))
    sizes = " and ".join(dict.fromkeys("x".join(map(str, w.shape[1:])) for _, w in towers))
    scale = "scaled together: 0 is the least of all weights, 255 the greatest"
    count = sum(len(w) for _, w in towers)
    return section("Filters of the first layer", tag("p", f"{count} filters of {sizes}, {scale}."), *pictures)


def tiled(filters: Floats) -> Images:
    """Filters (K, KH, KW, 3) from 0 to 1 side by side on transparent ground, as an RGBA picture."""
    K, KH, KW, _ = filters.shape
    rows = -(-K // ACROSS)
    cells = np.zeros((rows * ACROSS, KH + 1, KW + 1, 4), np.uint8)
    cells[:K, :KH, :KW, :3] = np.rint(255 * filters)
    cells[:K, :KH, :KW, 3] = 255
    picture = cells.reshape(rows, ACROSS, KH + 1, KW + 1, 4).transpose(0, 2, 1, 3, 4)
    flat = picture.reshape(rows * (KH + 1), ACROSS * (KW + 1), 4)[:-1, : min(K, ACROSS) * (KW + 1) - 1]
    return flat.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)


def configuration(trained: Trained) -> Section:
    """All that decided the training."""
    rows = [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in trained.config.items()
    ]
    return section("Configuration", table(("entry", "value"), rows))


def _number(value: float | None, form: str) -> str:
    """A number, or nothing where a run had none."""
    return "" if value is None else format(value, form)
