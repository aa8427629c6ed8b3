"""Training in one call: ``alexnet_cuda.fit``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import backend, checkpoint, models, recipe, run_folder
from .command_line import UsageError
from .data import Data, Dataset, Loader, divided, given, mean_image
from .models import Model
from .nn import Module
from .recipe import Recipe
from .run_folder import Config, Run
from .screen import Screen
from .trainer import Epoch, Step, Trainer, changes_of_images, completed
from .training_step import optimizer, prepare

__all__ = ["fit"]

SOURCE = "fit"
"""The data of such a run, in place of a name."""
IMAGES_ALONE = ("mirror", "colour", "crop_area", "rotation", "brightness", "contrast", "mixup")
"""Entries of a recipe for uint8 images in three channels."""


def fit(
    net: Module | Model | str,
    data: Any,
    test: Any = None,
    *,
    classes: Sequence[str] | int | None = None,
    recipe: str | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    device: str | backend.Device | None = None,
    seed: int = 0,
    quiet: bool = False,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    **entries: Any,
) -> list[Epoch]:
    """Trains a network as the command does, with its recipes, schedules, metrics and checkpoints.

    net: a module, which is trained where it is; or a model, or the name of one, FILE.py:NAME too, made on ``device``
    with weights of ``seed``. data, test: as ``data.given`` takes them, with ``classes``; without ``test`` a fifth of
    each class is held out. recipe: the name or file of one, or its entries; by default the model's own. ``entries``
    (``epochs=5``, ``lr=0.1``, ``layers={...}``) change it. out: a run folder, new or empty, or with ``resume`` one that
    the training goes on from; without it nothing is written. ``on_epoch`` hears of each epoch, ``quiet`` says nothing.

    Returns the epochs that were done, each with the test after it. ValueError for what cannot be trained, DataError for
    data; ``trainer.Diverged`` when a loss is not finite. Module and data decide the results together with the recipe
    and ``seed``: to the bits.
    """
    if (batch := getattr(data, "batch_size", None)) and hasattr(data, "dataset"):
        entries = {"batch": batch, **entries}
    train, tested = _divided(data, test, classes)
    plain_images = _is_plain(train)
    model = net if isinstance(net, Model) else models.get(net) if isinstance(net, str) else _described(net, train)
    model = model.with_classes(len(train.classes))
    made = completed(_recipe(model, recipe, entries, plain_images), gathered := Data(train, tested, SOURCE, False))
    _check_sizes(model, train, plain_images)
    network = net if isinstance(net, Module) else model.build(device, seed)
    prepare(network, made)
    allocate = backend.host_allocator(network.parameters()[0].device)
    load = partial(Loader, size=model.input[:2], batch=made.batch, allocate=allocate)
    mean = mean_image(train) if not plain_images else np.zeros((*train.size, model.input[2]), np.float32)
    trainer = Trainer(
        network, optimizer(made, network.parameters()), load(train, seed=seed, **changes_of_images(made, gathered)),
        load(tested), made, mean, seed,
    )  # fmt: skip
    run = _folder(out, resume, Config(made, SOURCE, str(trainer.device), seed), gathered, trainer)
    screen, done = Screen(quiet=quiet), list[Epoch]()

    def step(step: Step) -> None:
        if run:
            run.step(step)
        screen.step(step)

    def epoch(epoch: Epoch) -> None:
        if run:
            run.epoch(epoch)
        screen.epoch(epoch)
        done.append(epoch)
        on_epoch(epoch)

    try:
        with screen.training(trainer):
            trainer.fit(step, epoch)
        if run:
            run.draw()
    finally:
        if run:
            run.close()
    network.eval()
    return done


def _divided(data: Any, test: Any, classes: Sequence[str] | int | None) -> tuple[Dataset, Dataset]:
    train = given(data, classes)
    if test is None:
        return divided(train)
    tested = given(test, train.classes)
    kinds = [(d.size, *_stored(d)) for d in (train, tested)]
    if kinds[0] != kinds[1] or tuple(train.classes) != tuple(tested.classes):
        raise ValueError(f"fit: test: expected images and classes as in data, {kinds[0]}, got {kinds[1]}")
    return train, tested


def _check_sizes(model: Model, data: Dataset, plain: bool) -> None:
    """ValueError for images that are not those that the model sees, nor, in uint8, larger ones."""
    got, seen = (*data.size, _stored(data)[0]), model.input
    if got[2] != seen[2] or got[0] < seen[0] or got[1] < seen[1] or (plain and got != seen):
        raise ValueError(f"fit: model {model.name} sees images (H, W, C) of {seen}, got {got}")


def _stored(dataset: Dataset) -> tuple[int, Any]:
    return getattr(dataset, "channels", 3), np.dtype(getattr(dataset, "dtype", np.uint8))


def _is_plain(dataset: Dataset) -> bool:
    """Whether the images are what the network is to see."""
    return bool(_stored(dataset)[1] != np.uint8)


def _described(net: Module, data: Dataset) -> Model:
    """A module as a model, known by the name of its class."""
    if not isinstance(net, Module):
        raise TypeError(f"fit: expected a Module, a model or the name of one, got {type(net).__name__}")
    channels, _ = _stored(data)

    def make(classes: int) -> Module:
        return copy.deepcopy(net).to("cpu")

    name = type(net).__name__
    return models.register(name, make, (*data.size, channels), f"a {name} given to fit", len(data.classes))


def _recipe(model: Model, base: str | Mapping[str, Any] | None, entries: Mapping[str, Any], plain: bool) -> Recipe:
    begin = recipe.of(model)
    if isinstance(base, str):
        table, where = recipe.read(base)
        begin = recipe.change(begin, {**table, **model.entries()}, where)
    elif base is not None:
        begin = recipe.change(begin, base, "fit: recipe")
    made = recipe.change(begin, entries, "fit")
    if plain and (asked := [name for name in IMAGES_ALONE if getattr(made, name) not in (None, getattr(Recipe, name))]):
        raise ValueError(f"fit: {asked[0]}: expected images in uint8 and three channels to change, got others")
    return replace(made, scale=1 / 255, crop=False) if plain else made


def _folder(out: str | Path | None, resume: bool, config: Config, data: Data, trainer: Trainer) -> Run | None:
    """The run folder, and the trainer where it was left."""
    if out is None:
        if resume:
            raise ValueError("fit: resume: expected out, the run folder to go on from")
        return None
    folder, before = Path(out), list[dict[str, Any]]()
    try:
        if resume and (folder / checkpoint.NAME).exists():
            trainer.restore(checkpoint.load(folder))
            before = run_folder.records(folder, trainer.progress.step)
        else:
            folder = run_folder.made(folder, config.recipe.model)
    except UsageError as e:
        raise ValueError(f"fit: {e}") from e
    return Run(folder, config, data, trainer, before, print, ["alexnet_cuda.fit"])
