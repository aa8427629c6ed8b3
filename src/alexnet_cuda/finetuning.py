"""Fine-tuning: a training that starts from trained weights, on other images than theirs.

The weights bring their model and what an image goes through before the network sees it: size, mean and scale. Layers
that they have, in the same shapes, are loaded; the others are drawn anew.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import checkpoint, models, names, weights
from .command_line import count
from .data import DataError, Dataset, with_margin
from .models import Model, Row
from .nn import Module
from .recipe import Recipe, RecipeError, outwards
from .terminal import grid
from .weights import WeightsError
from .weights.layout import Floats

RECIPE = "finetune"
"""The recipe of a training from weights, where none is named."""
SMALL = "small"
"""The recipe for few images and no weights."""
FEW = 1000
"""Parameters an image from which on a set is small for a model: AlexNet has 48 on ImageNet."""
FOLLOWS = ("scale", "stored")
"""Entries of recipes that the weights decide."""


@dataclass(frozen=True)
class Start:
    """Weights to start from: the file, what kind it is, its arrays, the mean image (RH, RW, 3) of what it was trained
    on, the model they are of, the scale of its pixels, and its classes; None: nobody knows their names."""

    path: Path
    kind: str
    weights: Mapping[str, Floats]
    mean: Floats
    model: Mapping[str, Any]
    """Entries of a recipe: model, options, convnet, code."""
    scale: Any
    classes: tuple[str, ...] | None

    def entries(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The entries of a recipe that says ``wanted`` and starts from here: its model, or else that of the weights,
        and images as they know them. WeightsError where these are too small for the model."""
        made = {**self.model, **wanted}
        if made["model"] != self.model["model"]:
            made = {"options": {}, "convnet": {}, "code": {}, **wanted}
        elif isinstance(changes := wanted.get("options"), Mapping):
            made["options"] = {**self.model["options"], **changes}
        model = models.described(made["model"], made["options"], made["convnet"], made["code"])
        seen, stored = model.input[0], len(self.mean)
        if stored < seen:
            raise WeightsError(
                f"{self.path} knows images of {stored}x{stored} pixels, {made['model']} sees {seen}x{seen}: expected "
                f"a smaller model, or none, as the weights bring {self.model['model']}"
            )
        made.update(scale=self.scale, stored=0 if stored in (seen, with_margin(seen)) else stored)
        return {**made, "crop": False} if stored == seen else made


@dataclass(frozen=True)
class Fit:
    """What becomes of each layer: those that are loaded, those that are new and those of the file that are left out,
    the latter two with the reason."""

    loaded: Sequence[str]
    new: Mapping[str, str]
    left_out: Mapping[str, str]


def read(path: Path, model: str | None = None) -> Start:
    """The weights of a run folder, a checkpoint or another library's file; ``model`` says whose they are where the file
    does not. WeightsError or CheckpointError, one line, for what cannot be used."""
    path = checkpoint.chosen(path)
    if not path.exists():
        expected = "a run folder, a checkpoint, or weights of PyTorch, Caffe or ONNX"
        raise WeightsError(f"{path}: no such file: expected {expected}")
    own = checkpoint.is_checkpoint(path)
    kind, saved = weights.read(path, None if own else model)
    try:
        config, classes = saved.description["config"], tuple(saved.description["classes"])
        entries = {"model": config["model"], "options": config["options"]}
        entries |= {name: config.get(name, {}) for name in ("convnet", "code")}
        scale = config["scale"]
    except (KeyError, TypeError) as e:
        raise WeightsError(f"{path}: its description lacks what tells the network: {e}") from e
    if saved.mean.shape[0] != saved.mean.shape[1]:
        raise WeightsError(f"{path}: expected a mean image as high as wide, got {saved.mean.shape}")
    named = None if list(classes) == weights.numbered(len(classes)) else classes
    return Start(path, kind, saved.weights, saved.mean, entries, scale, named)


def fit(start: Start, model: Model, classes: Sequence[str]) -> Fit:
    """What of the weights goes into a model of these classes. The last layer is new for other classes than theirs.
    WeightsError for a model of another family: one whose other layers differ in shapes."""
    loaded, new = list[str](), dict[str, str]()
    rows = [row for row in model.rows() if row.arrays]
    for row in rows:
        layer, theirs = row.layer.name, dict[str, tuple[int, ...]]()
        for array in row.arrays:
            if (found := start.weights.get(row.named(array))) is not None:
                theirs[array] = found.shape
        if not theirs:
            new[layer] = "not in the file"
        elif theirs != row.arrays:
            array = next(array for array, shape in row.arrays.items() if theirs.get(array) != shape)
            new[layer] = f"{array} is {_by(row.arrays[array])}, in the file {_by(theirs.get(array))}"
        else:
            loaded.append(layer)
    last = rows[-1].layer.name
    if last in loaded and start.classes is not None and start.classes != tuple(classes):
        loaded.remove(last)
        new[last] = "for other classes"
    theirs_model, differs = start.model["model"], next((layer for layer in new if layer != last), None)
    if differs and (theirs_model != model.name or not loaded):
        raise WeightsError(
            f"{start.path} holds weights of {theirs_model}, of another family than {model.name} ({differs}: "
            f"{new[differs]}); without --model they bring their own"
        )
    known = {row.named(array): None for row in rows for array in row.arrays}
    owners = {row.layer.name for row in rows}
    others = dict.fromkeys(name.rpartition(".")[0] or name for name in start.weights if name not in known)
    return Fit(loaded, new, {layer: f"{model.name} has no such layer" for layer in others if layer not in owners})


def load(network: Module, start: Start, made: Fit) -> None:
    """Puts the loaded layers' weights into a network."""
    loaded = frozenset(made.loaded)
    taken = {name: array for name, array in start.weights.items() if not loaded.isdisjoint(outwards(name))}
    network.load_state_dict(taken, strict=False)


def completed(recipe: Recipe, made: Fit, model: Model) -> Recipe:
    """The recipe with the rates of the new layers among its ``rates``. RecipeError where a new layer's weights would
    stay as they were drawn."""
    for row in model.rows():
        layer = row.layer.name
        if layer in made.new and any(recipe.frozen(row.named(array)) for array in row.trained[:1]):
            raise RecipeError(f"freeze: {layer} is drawn anew ({made.new[layer]}): expected patterns of loaded layers")
    rates = dict(recipe.rates)
    if recipe.new_lr != 1:
        for layer in map(glob.escape, made.new):
            rates[layer] = rates.get(layer, 1.0) * recipe.new_lr
    return replace(recipe, rates=rates, new_lr=1.0)


def mean(start: Start, images: Dataset) -> Floats:
    """The mean of the weights' images, for others: its centre where these have no margin. DataError where they are
    larger."""
    (RH, RW), (H, W) = start.mean.shape[:2], images.size
    if H > RH or W > RW:
        raise DataError(f"expected images of {RH}x{RW} pixels, as {start.path} knows them, got {H}x{W}")
    top, left = (RH - H) // 2, (RW - W) // 2
    return np.ascontiguousarray(start.mean[top : top + H, left : left + W])


def table(start: Start, made: Fit, model: Model, recipe: Recipe, width: int | None = None) -> str:
    """What becomes of each layer, as text: a line each, with the factor of its rate or what of it is frozen;
    ``width`` as of ``grid``."""
    rows = []
    for row in model.rows():
        if row.arrays:
            layer = row.layer.name
            state = f"new: {made.new[layer]}" if layer in made.new else "loaded"
            rows.append([layer, f"{row.parameters:,}", _rates(recipe, row), state])
    rows += [[layer, "", "", f"left out: {reason}"] for layer, reason in made.left_out.items()]
    about = f"{names.text(start.path)} ({start.kind}, {start.model['model']})"
    columns = grid(["layer", "parameters", "rate", "weights"], rows, ["layer", "weights"], width, ["parameters"])
    return f"weights  {about}\n\n{columns}"


def advice(model: Model, images: int) -> str:
    """What to do where a training from scratch has few images for a model; nothing where there are enough."""
    if model.parameters <= FEW * images:
        return ""
    return (
        f"few   {count(images, 'training image')} for the {model.parameters:,} parameters of {model.name}: start from "
        f"trained weights, --weights FILE|RUN,\n      or from scratch train a small model for long, --recipe {SMALL}"
    )


def _rates(recipe: Recipe, row: Row) -> str:
    rates = {a: "frozen" if recipe.frozen(name := row.named(a)) else f"x{recipe.rate(name):g}" for a in row.trained}
    different = list(dict.fromkeys(rates.values()))
    return "".join(different) if len(different) < 2 else ", ".join(f"{a} {rate}" for a, rate in rates.items())


def _by(shape: Sequence[int] | None) -> str:
    return "x".join(map(str, shape)) if shape else "missing"
