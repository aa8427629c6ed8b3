"""Every option of today's recipes, and networks of a user's own, with every way to train: what it leaves is the same,
or what rounding makes of it."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
from group_of_threads import Threads
from numpy.testing import assert_array_equal
from stand_in_cupy import StandIn

from alexnet_cuda import Tensor, checkpoint, models, nn, one_batch, ops
from alexnet_cuda.backend import Device
from alexnet_cuda.data import ArrayDataset, Data
from alexnet_cuda.models import Model
from alexnet_cuda.models.alexnet import conv, pool
from alexnet_cuda.models.layers import Dropout, Flatten, Linear
from alexnet_cuda.parallel import Group
from alexnet_cuda.recipe import Recipe
from alexnet_cuda.replay import obstacle
from alexnet_cuda.trainer import Step, Trainer

pytest_plugins = ["stand_in_cupy"]

TINY = Model(
    "tiny",
    "an AlexNet in miniature",
    (8, 8, 3),
    (
        conv("conv1", 4, 3, padding=1),
        pool("pool1"),
        conv("conv2", 8, 3, padding=1, groups=2),
        Flatten("flatten"),
        Linear("fc3", 16),
        Dropout("drop3"),
        Linear("fc4", 4, activation=None),
    ),
)
BASE = Recipe(model="tiny", batch=8, epochs=3, lr=0.01, scale=1 / 64, mirror=True)
STEPS = 3  # of an epoch

BLOCKS = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "own_networks.py"))


class Own(nn.Module):
    """A network of a user's: a classifier behind a ``body`` of blocks that branch, join and skip."""

    def __init__(self, body: nn.Module, inputs: int, outputs: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.body = nn.Conv2d(3, inputs, 3, padding=1, activation="relu"), body
        self.pool, self.drop3 = nn.MaxPool2d(2), nn.Dropout()
        self.fc3, self.fc4 = nn.Linear(16 * outputs, 16, activation="relu"), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.body(self.conv1(x)))
        return self.fc4(self.drop3(self.fc3(ops.flatten(x))))


class Halves(nn.Module):
    """One that says itself how it divides: each device has convolutions of its own, the first the classifier."""

    def __init__(self, classes: int, devices: tuple[Device, ...]) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(3, 2, 3, activation="relu", device=d) for d in (devices[0], devices[-1]))
        self.drop3, self.fc4 = nn.Dropout(), nn.Linear(4 * 6 * 6, classes, device=devices[0])

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        there = self.conv2(others[0] if others else x).to(x.device)
        return self.fc4(self.drop3(ops.flatten(ops.concat([self.conv1(x), there]))))


MAKERS: dict[str, Callable[..., nn.Module]] = {
    "own-residual": lambda classes: Own(
        nn.Sequential(BLOCKS["Residual"](3, 4), BLOCKS["Residual"](4, 4)), 3, 4, classes
    ),
    "own-inception": lambda classes: Own(BLOCKS["Inception"](4, 2), 4, 8, classes),
    "own-u-net": lambda classes: Own(BLOCKS["UNet"](2), 1, 1, classes),
    "own-halves": Halves,
}
MODELS = {TINY.name: TINY} | {name: models.registered(name, make, (8, 8, 3)) for name, make in MAKERS.items()}
STATISTICS = {"own-residual": {"freeze": ("*norm*",)}}
"""What keeps networks from normalising by what is in a batch: parts of it have others."""

OPTIONS: dict[str, dict[str, Any]] = {
    "warmup": {"warmup": 1.5},
    "stop_after": {"stop_after": 1},
    "label_smoothing": {"label_smoothing": 0.1},
    "class_weights": {"class_weights": "balanced"},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "decay": 0.1},
    "nesterov": {"nesterov": True},
    "ema": {"ema": 0.9},
    "crop_area": {"crop_area": 0.5},
    "rotation": {"rotation": 20.0},
    "brightness": {"brightness": 0.2},
    "contrast": {"contrast": 0.4},
    "mixup": {"mixup": 0.4},
    "freeze": {"freeze": ("conv*",)},
    "rates": {"rates": {"fc*": 0.5}},
    "scale": {"scale": (1 / 64, 1 / 60, 1 / 70)},
    "clip": {"clip": 0.05},
}
TOGETHER: dict[str, Any] = {
    name: value for changes in OPTIONS.values() for name, value in changes.items() if "adamw" not in changes.values()
} | {"stop_after": 0, "clip": 0.0}
ROWS = {
    **OPTIONS,
    "one batch": one_batch.changes(BASE) | {"epochs": 3},
    "together": TOGETHER,
    "together, with adamw": TOGETHER | {"nesterov": False} | OPTIONS["adamw"],
}
OWN = {name: {"model": name, "epochs": 2, "lr": 1e-3} for name in MAKERS}
OWN["own, together"] = TOGETHER | OWN["own-inception"]
EVERY = ROWS | OWN


class Left(NamedTuple):
    """What a training leaves: arrays by name, the losses of its steps, what was said of its epochs."""

    arrays: dict[str, np.ndarray]
    losses: list[float]
    epochs: list[Any]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """``models.get`` knows these networks."""
    get = models.get
    monkeypatch.setattr(models, "get", lambda name: MODELS.get(name) or get(name))


def recipe_of(option: str, **more: Any) -> Recipe:
    return replace(BASE, **{**EVERY[option], **more})


def trainer_of(made: Recipe, device: str = "cpu", group: Group | None = None) -> Trainer:
    rng = np.random.default_rng(3)
    size = (10, 10) if made.crop else (8, 8)
    labels = rng.permutation(np.repeat(np.arange(4, dtype=np.int32), (12, 6, 4, 2)))
    pixels = 60 * labels[:, None, None, None] + rng.integers(0, 70, (STEPS * 8, *size, 3))
    data = ArrayDataset(pixels.astype(np.uint8), labels, list("abcd"))
    return Trainer.of(made, Data(data, data, "noise around a grey", True), device, seed=5, group=group)


def left_by(trainer: Trainer, losses: list[float] | None = None) -> Left:
    """Of a training that goes on to its end."""
    losses, epochs = [] if losses is None else losses, list[Any]()

    def keep(step: Step) -> None:
        losses.append(step.loss)

    assert trainer.fit(keep, epochs.append)
    every = {p: name for name, p in trainer.model.named_parameters()}
    names = [every[p] for p in trainer.optimizer.parameters]
    kept = {
        f"{slot}/{names[int(place)]}" if place else slot: array
        for key, array in trainer.optimizer.state().items()
        for slot, _, place in [key.partition("/")]
    }
    with trainer.optimizer.averaged():
        weights = trainer.model.state()
    told = [(e.train_loss, e.train_accuracy, e.test.loss, e.test.top1) for e in epochs]
    return Left({**weights, **trainer.model.merged(kept)}, losses, told)


def assert_equal(some: Left, others: Left) -> None:
    assert some.arrays.keys() == others.arrays.keys()
    for name, array in others.arrays.items():
        assert_array_equal(some.arrays[name], array, err_msg=name)
    assert (some.losses, some.epochs) == (others.losses, others.epochs)


def assert_near(some: Left, others: Left, adaptive: bool) -> None:
    """Within the rounding of sums in another order: products are off by at most gamma_n of their terms' magnitudes (see
    ``test_equals_one_process``). AdamW's steps have one size, however small a gradient is; of its weights, where
    gradients are nothing but rounding, that says little, of the gradients' means all."""
    assert some.arrays.keys() == others.arrays.keys()
    for name, array in others.arrays.items():
        if not adaptive or name.startswith(("first_moment/", "second_moment/")):
            assert np.linalg.norm(some.arrays[name] - array) <= 1e-5 * np.linalg.norm(array) + 1e-12, name
    assert some.losses == pytest.approx(others.losses, rel=1e-5)
    assert len(some.epochs) == len(others.epochs)
    for one, other in zip(some.epochs, others.epochs, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("option", ROWS)
def test_is_more_than_a_name(option: str) -> None:
    plain, changed = left_by(trainer_of(BASE)), left_by(trainer_of(recipe_of(option)))
    if option == "stop_after":  # before there is nothing to be seen of it
        assert changed.losses == plain.losses[: len(changed.losses)]
    else:
        shared = plain.arrays.keys() & changed.arrays.keys()
        assert any(not np.array_equal(plain.arrays[name], changed.arrays[name]) for name in shared)


def test_the_network_sees_what_the_loader_drew() -> None:
    made = recipe_of("mixup", crop_area=0.5, rotation=20.0, brightness=0.1, contrast=0.2, colour="source")
    trainer = trainer_of(made)
    _, batch = next(trainer.train.training(0))
    (x,) = trainer._input({trainer.device: batch})
    drawn = batch.crops, batch.noise, 1 / 64, batch.tones, batch.mix
    assert all(array is not None for array in drawn)
    expected = reference.augment(batch.images, (8, 8), trainer.mean.astype(np.float64), *drawn)
    most = 255 * 3 / 64  # of values that moved by less than a thousandth of a pixel, and are not mixed up
    reference.assert_close(x.numpy(), expected, most * 1e-3)


@pytest.mark.parametrize("parts", [1, 3])
def test_the_accuracy_of_mixtures_is_by_shares(parts: int) -> None:
    """Of an image that is 0.7 of class a and 0.3 of class b the answer a is 0.7 right, b 0.3, c wrong."""
    trainer = trainer_of(recipe_of("mixup", epochs=1, accumulate=parts))
    note, right, seen = trainer._seen_part, 0.0, 0

    def noted(lr: float, images: int, part: Any, logits: Tensor, loss: Tensor) -> None:
        nonlocal right, seen
        rows = logits.numpy().argmax(axis=1), part.labels.numpy(), part.others, part.mix
        for answer, label, other, share in zip(*rows, strict=True):
            right += float(share) * (answer == label) + (1 - float(share)) * (answer == other)
        assert len(part.mix) % 2 == 0  # no pair is cut in two
        seen += len(part.mix)
        note(lr, images, part, logits, loss)

    trainer._seen_part = noted
    ((_, accuracy, _, _),) = left_by(trainer).epochs
    assert seen == STEPS * 8 and 0 < right < seen and right != round(right)
    assert accuracy == pytest.approx(right / seen, rel=1e-6)


@pytest.mark.parametrize("option", EVERY)
def test_in_bfloat16(option: str) -> None:
    """Losses as in float32, but for the rounding of a few layers to 8 digits, a tenth of a percent each."""
    exact, rounded = (left_by(trainer_of(recipe_of(option, precision=p))) for p in ("fp32", "bf16"))
    assert_equal(left_by(trainer_of(recipe_of(option, precision="bf16"))), rounded)
    count = min(len(exact.losses), len(rounded.losses))  # early stopping may see other tests
    assert rounded.losses[:count] == pytest.approx(exact.losses[:count], rel=0.02)
    assert rounded.losses != exact.losses


@pytest.mark.parametrize("option", EVERY)
def test_in_parts_of_batches(option: str) -> None:
    made = recipe_of(option, options={"dropout": False}, **STATISTICS.get(option, {}))
    whole, parts = left_by(trainer_of(made)), left_by(trainer_of(replace(made, accumulate=3)))
    assert_near(parts, whole, made.optimizer == "adamw")


@pytest.mark.parametrize("option", EVERY)
def test_as_a_graph(stand_in: StandIn, option: str) -> None:
    made = recipe_of(option, epochs=2)
    eager = left_by(trainer_of(replace(made, graph=False), "cuda:0"))
    assert not stand_in.log["graph"]
    assert_equal(left_by(trainer_of(made, "cuda:0")), eager)
    refused = obstacle(made, Group())  # clipping, in so many words
    assert (refused is None) == (not made.clip)
    assert stand_in.log["graph"] == (0 if refused else len(eager.losses) - 1)


def test_a_network_that_looks_at_values_is_no_graph(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    class Looking(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(ops.flatten(x))
            return y * 2 if y.mean() > 0 else y

    model = models.registered("own-looking", lambda classes: Looking(192, classes), (8, 8, 3))
    monkeypatch.setitem(MODELS, model.name, model)
    made = replace(BASE, model=model.name)
    eager = left_by(trainer_of(replace(made, graph=False), "cuda:0"))
    with pytest.warns(UserWarning, match=r"the step is no CUDA graph, as it cannot be captured: .*Error"):
        assert_equal(left_by(trainer_of(made, "cuda:0")), eager)


@pytest.mark.parametrize("option", [*ROWS, "own-halves"])
def test_in_two_towers(option: str) -> None:
    made = recipe_of(option)
    assert_near(left_by(trainer_of(made, "cpu:0,cpu:1")), left_by(trainer_of(made)), made.optimizer == "adamw")


@pytest.mark.parametrize("option", EVERY)
def test_in_two_processes(option: str) -> None:
    made = recipe_of(option, **STATISTICS.get(option, {}))
    alone = left_by(trainer_of(made))
    first, second = Threads(2).run(lambda group: left_by(trainer_of(made, group=group)))
    assert_near(first, alone, made.optimizer == "adamw")
    assert_equal(second, first)


IN_BF16_AND_PARTS = {"precision": "bf16", "accumulate": 2}
QUICK = "together", "own, together"


@pytest.mark.parametrize(
    ("option", "more"),
    [
        *((option, {}) for option in EVERY),
        *((option, IN_BF16_AND_PARTS) for option in QUICK),
        *(pytest.param(option, IN_BF16_AND_PARTS, marks=pytest.mark.slow) for option in EVERY if option not in QUICK),
    ],
)
def test_resumed(tmp_path: Path, option: str, more: dict[str, Any]) -> None:
    made = recipe_of(option, **more)
    straight = left_by(trainer_of(made))
    begun, losses = trainer_of(made), list[float]()
    stop_at = STEPS + 1 if len(straight.losses) > STEPS else 1

    def on_step(step: Step) -> None:
        losses.append(step.loss)
        if step.step == stop_at:
            begun.stop()

    assert not begun.fit(on_step, lambda epoch: None)
    begun.save(tmp_path / "saved", {})
    again = trainer_of(made)
    again.restore(checkpoint.load(tmp_path / "saved"))
    resumed = left_by(again, losses)
    assert_equal(resumed, straight._replace(epochs=straight.epochs[-len(resumed.epochs) :]))
