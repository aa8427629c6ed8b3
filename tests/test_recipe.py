"""Recipes: what they say, what is refused, and that each trains its model."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import example, given, strategies as st

from alexnet_cuda import backend, checkpoint, models, nn, optim, recipe
from alexnet_cuda.data import ArrayDataset, Data
from alexnet_cuda.ops import LinearGradient
from alexnet_cuda.recipe import LayerRule, Recipe, RecipeError
from alexnet_cuda.schedule import Schedule, at, cosine
from alexnet_cuda.tensor import Tensor, no_grad
from alexnet_cuda.trainer import Step, Trainer, completed
from alexnet_cuda.training_step import Part, TrainingStep, optimizer


def test_each_model_has_one() -> None:
    assert set(recipe.names()) == {*models.names(), "finetune", "small"}
    for name in models.names():
        assert recipe.load(name).model == name


@pytest.mark.parametrize("name", recipe.names())
def test_as_toml_and_back(name: str) -> None:
    made = recipe.load(name)
    assert recipe.change(Recipe(), tomllib.loads(recipe.toml(recipe.plain(made))), "back") == made


LEAVES = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text())
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@given(st.dictionaries(st.text(), VALUES, max_size=4))
@example({"data": 'folder:/a "b"\\c\n\u2028\x7f\u00e9', "yes": True, "x": 1e-7, "list": [[1, 0.5]], "empty": {}})
@example({"a b": {"c.d": {"e=f": 1}, "g h": 2}, "big": 1e400})
def test_any_plain_data_as_toml_and_back(table: dict[str, Any]) -> None:
    assert tomllib.loads(recipe.toml(table)) == table


def test_the_papers_recipe() -> None:
    paper = recipe.load("alexnet")
    assert (paper.batch, paper.lr, paper.momentum, paper.decay) == (128, 0.01, 0.9, 0.0005)
    assert (paper.schedule, paper.drop, paper.drops, paper.colour) == ("plateau", 0.1, 3, "source")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_as_editors_write_it(tmp_path: Path, encoding: str, end: str) -> None:
    (tmp_path / "mine.toml").write_bytes(end.join(['model = "alexnet-mini" # é', "lr = 1", ""]).encode(encoding))
    assert recipe.load(str(tmp_path / "mine.toml")) == Recipe(lr=1.0)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'model = "alexnet-mini"\nlr = 1\n[layers.conv1]\nlr = 0.5\nsteps = [[3, 0]]\n[options]\nlrn = false\n'
    )
    made = recipe.load(str(path))
    assert (made.lr, made.layers["conv1"].lr, made.layers["conv1"].steps) == (1.0, 0.5, ((3.0, 0.0),))
    assert made.options == {"lrn": False}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = ", "mine.toml: not TOML"),
        ("ler = 1", "mine.toml: unknown entry ler; did you mean lr?"),
        ("lr = 0", "lr: expected a number above 0, got 0"),
        ("lr = nan", "lr: expected a number, got nan"),
        ("batch = 1.5", "batch: expected an integer, got 1.5"),
        ("batch = true", "batch: expected an integer, got True"),
        ("mirror = 1", "mirror: expected true or false, got 1"),
        ("momentum = 1", "momentum: expected a number from 0 to below 1"),
        ('optimizer = "sdg"', "optimizer: expected sgd or adam or adamw, got 'sdg'; did you mean sgd"),
        ('adam = "torch"', "adam: expected keras or pytorch, got 'torch'"),
        ('model = "alexnt"', "unknown model 'alexnt'; did you mean alexnet"),
        ('schedule = "step"', "steps and schedule = 'step' belong together"),
        ("label_smoothing = 1", "label_smoothing: expected a number from 0 to below 1, got 1.0"),
        ("ema = 1.5", "ema: expected a number from 0 to below 1, got 1.5"),
        ('class_weights = "equal"', "class_weights: expected balanced or a list of numbers, one a class, got 'equal'"),
        ("class_weights = [1, true]", "class_weights: expected a number, got True"),
        ("class_weights = [1, 0]", "class_weights: expected numbers above 0, got 0"),
        ('nesterov = true\noptimizer = "adamw"', "nesterov: expected optimizer sgd with a momentum above 0, got adamw"),
        ("nesterov = true\nmomentum = 0", "nesterov: expected optimizer sgd with a momentum above 0, got sgd with 0"),
        ("crop_area = 0", "crop_area: expected a number above 0, got 0"),
        ("crop_area = 1.5", "crop_area: expected a share of the image, at most 1, got 1.5"),
        ("crop_area = 0.5\ncrop = false", "crop_area: expected 1 where crop = false, got 0.5"),
        ("crop_aspect = 0.75", "crop_aspect: expected a number from 1 on, got 0.75"),
        ("rotation = -10", "rotation: expected a number from 0 on, got -10"),
        ("rotation = 90", "rotation: expected degrees from 0 to 45, got 90"),
        ("brightness = 1", "brightness: expected a number from 0 to below 1, got 1"),
        ("contrast = 1.2", "contrast: expected a number from 0 to below 1, got 1.2"),
        ("mixup = -0.2", "mixup: expected a number from 0 on, got -0.2"),
        ("mixup = 0.2\nbatch = 1", "mixup: expected batches of two images or more, got 1"),
        ("warmup = 90", "warmup: expected less than epochs = 90, got 90"),
        ("warmup = -1", "warmup: expected a number from 0 on, got -1"),
        ("stop_after = 2.5", "stop_after: expected an integer, got 2.5"),
        ('schedule = "plateau"\nstop_after = 5', "stop_after: schedule = 'plateau' ends by patience and drops"),
        ('schedule = "step"\nsteps = [[3, 1], [2, 1]]', r"steps: expected pairs .* in order"),
        ("steps = [3, 1]", r"steps: expected pairs \[epoch, factor\], got"),
        ("layers = 3", "layers: expected a table of tables"),
        ("[layers.conv1]\nrate = 1", r"layers\.conv1: unknown entry rate"),
        ("[layers.conv1]\nlr = -1", r"layers\.conv1: expected factors from 0 on"),
        ("[layers.cnv1]\nlr = 1", r"layers\.cnv1: alexnet-mini has no such layer with weights; did you mean conv1"),
        ("[options]\nlnr = false", "unknown option model.lnr"),
        ("accumulate = 200", "accumulate: expected at most the batch of 128, got 200"),
    ],
)
def test_wrong_entries_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as refused:
        recipe.load(str(path))
    assert "\n" not in str(refused.value)


def test_unknown_names_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"unknown recipe 'alexnet-min': .*; did you mean alexnet-mini"):
        recipe.load("alexnet-min")
    for content in (b"\xfe", b"lr = 1\xe9", b"\xff\xfel"):  # no UTF-8, Latin-1, half a character of UTF-16
        (tmp_path / "binary.toml").write_bytes(content)
        with pytest.raises(RecipeError, match="cannot be read"):
            recipe.load(str(tmp_path / "binary.toml"))


def test_settings() -> None:
    table = recipe.settings(
        ["lr=0.5", "schedule=constant", "model.lrn=false", "layers.conv1.lr=2", "layers.conv1.decay=0"]
    )
    assert table == {
        "lr": 0.5, "schedule": "constant", "options": {"lrn": False}, "layers": {"conv1": {"lr": 2, "decay": 0}},
    }  # fmt: skip
    for wrong in (["lr"], ["=3"], ["layers.=3"], ["lr=1", "lr.x=2"]):
        with pytest.raises(RecipeError, match="--set"):
            recipe.settings(wrong)


# ---- schedules


def network() -> nn.Sequential:
    return models.create("alexnet-mini", device="cpu")


def rates(made: Recipe, epoch: int, step: int = 0, drops: int = 0) -> dict[str, float]:
    net = network()
    schedule = Schedule(made, net)
    factor = schedule.apply(epoch, step, drops)
    return {name: p.lr_scale for name, p in net.named_parameters()} | {"factor": factor}


def test_cosine() -> None:
    assert [cosine(0), cosine(0.5), cosine(1)] == pytest.approx([1, 0.5, 0])


def test_steps() -> None:
    steps = ((2.0, 0.1), (5.0, 0.01))
    assert [at(steps, epoch) for epoch in (0, 1, 2, 4, 5, 99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize(
    ("made", "where", "expected"),
    [
        (Recipe(schedule="constant"), (50, 81, 2), 1),
        (Recipe(schedule="cosine"), (50, 45, 2), 0.5),
        (Recipe(schedule="step", steps=((50, 0.25),)), (50, 81, 2), 0.25),
        (Recipe(schedule="plateau", drop=0.1), (50, 81, 2), 0.01),
    ],
)
def test_rules(made: Recipe, where: tuple[int, int, int], expected: float) -> None:
    found = rates(made, *where)
    assert found["factor"] == found["conv1.w"] == found["fc8.b"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "epoch", "expected"),
    [
        ({"schedule": "constant"}, 0, 1),
        ({"schedule": "step", "steps": ((1.0, 0.5),)}, 1, 0.5),
        ({"schedule": "plateau"}, 0, 0.01),
        ({"schedule": "cosine"}, 0, 1),
    ],
)
def test_every_schedule_warms_up(changes: dict[str, Any], epoch: int, expected: float) -> None:
    """In 1.5 epochs of 4 steps a sixth is added each step, to all rates; after the sixth step the schedule goes on."""
    made = Recipe(
        epochs=3, warmup=1.5, bias_schedule=False, layers={"conv1": LayerRule(steps=((0.0, 2.0),))}, **changes
    )
    net = network()
    schedule = Schedule(made, net, 4)
    for step in range(6):
        growth = (step + 1) / 6
        assert schedule.apply(epoch, step, 2) == pytest.approx(growth * expected)
        seen = [p.lr_scale for p in (net.conv1.w, net.conv2.w, net.conv2.b)]
        assert seen == pytest.approx([2 * growth, growth * expected, growth])
    assert schedule.apply(epoch, 6, 2) == pytest.approx(expected)
    assert schedule.apply(epoch, 9, 2) == pytest.approx(expected * (0.5 if made.schedule == "cosine" else 1))


def test_a_run_warms_up_over_steps() -> None:
    made = replace(BASE, warmup=3.0)
    trainer, seen = trainer_of(made, 5), list[float]()
    assert trainer.fit(lambda step: seen.append(step.lr), lambda epoch: None)
    assert seen == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.01, 0.01])


def test_biases_and_layers_of_their_own() -> None:
    made = recipe.change(
        Recipe(bias_lr=2.0, bias_decay=0.0, bias_schedule=False, schedule="step", steps=((10, 0.1),)),
        {"layers": {"conv1": {"lr": 3, "decay": 5, "steps": [[5, 0.5], [20, 0]]}}},
        "test",
    )
    assert rates(made, 0)["conv1.w"] == 3
    later = rates(made, 10)
    assert (later["conv1.w"], later["conv1.b"]) == (1.5, 6)
    assert (later["conv2.w"], later["conv2.b"]) == (0.1, 2)
    frozen = rates(made, 20)
    assert (frozen["conv1.w"], frozen["conv1.b"]) == (0, 0)
    net = network()
    Schedule(made, net)
    assert (net.conv1.w.decay_scale, net.conv1.b.decay_scale, net.conv2.w.decay_scale) == (5, 0, 1)


def test_the_sources_biases_keep_their_rate_until_conv1_stops() -> None:
    made, net = recipe.load("alexnet-2012"), models.create("alexnet-2012", classes=2, device="cpu")
    schedule = Schedule(made, net)
    seen = {}
    for epoch in (0, 25, 51, 67, 72, 79):
        schedule.apply(epoch, 0, 0)
        seen[epoch] = [made.lr * p.lr_scale for p in (net.conv1.w, net.conv1.b, net.fc6.w, net.fc6.b)]
    expected = {
        0: [0.01, 0.02, 0.01, 0.02], 25: [0.001, 0.02, 0.001, 0.02], 51: [1e-4, 0.02, 1e-4, 0.02],
        67: [1e-5, 0.02, 1e-4, 0.02], 72: [0, 0, 1e-4, 0.02], 79: [0, 0, 1e-5, 0.02],
    }  # fmt: skip
    assert seen == {epoch: pytest.approx(rates) for epoch, rates in expected.items()}


# ---- each recipe trains


def trainer_of(made: Recipe, steps: int) -> Trainer:
    """Of so many epochs of one step on random images of four classes."""
    rng = np.random.default_rng(0)
    stored = tuple(n + 4 for n in models.get(made.model).input[:2])
    labels = np.repeat(np.arange(4, dtype=np.int32), made.batch // 4 + 1)[: made.batch]
    colours = rng.integers(0, 256, (4, 1, 1, 3))
    images = np.clip(colours[labels] + rng.integers(-30, 31, (len(labels), *stored, 3)), 0, 255).astype(np.uint8)
    data = ArrayDataset(images, labels, list("abcd"))
    return Trainer.of(replace(made, epochs=steps), Data(data, data, "random images", False), backend.device("cpu"))


def train_steps(made: Recipe, steps: int) -> list[float]:
    """The losses of so many steps."""
    trainer, losses = trainer_of(made, steps), list[float]()

    def keep(step: Step) -> None:
        losses.append(step.loss)

    assert trainer.fit(keep, lambda epoch: None)
    return losses


def few(name: str) -> list[float]:
    """Of four images, at a rate in proportion."""
    made = recipe.load(name)
    return train_steps(replace(made, batch=4, lr=made.lr * 4 / made.batch), 20)


SMALL = ("alexnet-mini", "cifar")


@pytest.mark.parametrize("name", [name for name in recipe.names() if recipe.load(name).model.startswith(SMALL)])
def test_each_small_recipe_trains_20_steps(name: str) -> None:
    losses = few(name)
    assert len(losses) == 20
    assert np.isfinite(losses).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in models.names() if not name.startswith(SMALL)])
def test_each_large_recipe_trains_20_steps(name: str) -> None:
    losses = few(name)
    assert len(losses) == 20
    assert np.isfinite(losses).all()


def test_adam_and_sgd_are_what_the_recipe_says() -> None:
    net = network()
    adam = optimizer(recipe.load("keras-9216"), net.parameters())
    assert isinstance(adam, optim.Adam)
    assert (adam.lr, adam.beta1, adam.decay, adam.form, adam.epsilon) == (0.001, 0.9, 0, "keras", 1e-7)
    other = optimizer(replace(recipe.load("keras-9216"), adam="pytorch"), net.parameters())
    assert isinstance(other, optim.Adam)
    assert (other.form, other.epsilon) == ("pytorch", 1e-8)
    sgd = optimizer(recipe.load("alexnet-mini"), net.parameters())
    assert isinstance(sgd, optim.SGD)
    assert (sgd.nesterov, sgd.ema, adam.decoupled, adam.ema) == (False, 0, False, 0)
    adamw = optimizer(Recipe(optimizer="adamw", ema=0.9), net.parameters())
    assert isinstance(adamw, optim.Adam)
    assert (adamw.decoupled, adamw.ema) == (True, 0.9)
    nesterov = optimizer(Recipe(nesterov=True, ema=0.5), net.parameters())
    assert isinstance(nesterov, optim.SGD)
    assert (nesterov.nesterov, nesterov.ema) == (True, 0.5)


# ---- what a recipe can ask of the trainer


BASE = Recipe(batch=8, lr=0.01, scale=1 / 64, schedule="constant", mirror=False)


@pytest.mark.parametrize("weights", [(), (0.25, 4.0, 1.0, 2.0)])
def test_a_batch_in_parts_gives_the_same_losses_without_dropout(weights: tuple[float, ...]) -> None:
    # a unit at the edge of its ReLU falls to either side, which matters by the rate
    plain = replace(BASE, lr=0.001, options={"dropout": False}, class_weights=weights)
    whole, parts = train_steps(plain, 5), train_steps(replace(plain, accumulate=3), 5)
    np.testing.assert_allclose(parts, whole, rtol=1e-4)


def test_clipping_scales_all_gradients_together() -> None:
    made, net = replace(BASE, clip=0.5), network()
    step, gradients = TrainingStep(net, optimizer(made, net.parameters()), made), {}
    for i, (name, p) in enumerate(net.named_parameters()):
        p.grad = gradients[name] = np.random.default_rng(i).standard_normal(p.shape, np.float32)
    before = {name: g.copy() for name, g in gradients.items()}
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in before.values()))
    step._clip()
    for name, g in before.items():
        np.testing.assert_allclose(gradients[name], g * (0.5 / norm), rtol=1e-5)


def test_clipping_above_the_norm_changes_nothing() -> None:
    assert train_steps(BASE, 3) == train_steps(replace(BASE, clip=1e6), 3)


def test_the_colour_noise_can_end() -> None:
    noisy = replace(BASE, colour="source")
    assert train_steps(noisy, 2)[0] != train_steps(BASE, 2)[0]
    assert train_steps(replace(noisy, colour_steps=((0.0, 0.0),)), 2) == train_steps(BASE, 2)


def test_the_loss_is_weighted_and_smoothed() -> None:
    """In the first step, as PyTorch has it, and not in the test."""
    made = replace(BASE, lr=1e-12, options={"dropout": False}, class_weights=(0.25, 4.0, 1.0, 2.0), label_smoothing=0.2)
    trainer, losses, tests = trainer_of(made, 1), list[float](), list[Any]()
    logits: list[np.ndarray] = []
    seen = trainer._seen_part

    def watch(lr: float, images: int, part: Part, y: Tensor, loss: Tensor) -> None:
        logits.append(y.numpy().astype(np.float64))
        labels.append(part.labels.numpy())
        seen(lr, images, part, y, loss)

    labels: list[np.ndarray] = []
    trainer._seen_part = watch  # type: ignore[method-assign]  # what the step calls
    assert trainer.fit(lambda step: losses.append(step.loss), tests.append)
    weights = np.array(made.class_weights)
    _, expected = reference.weighted_cross_entropy(logits[0], labels[0], weights, 0.2)
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    plain = trainer_of(replace(BASE, lr=1e-12, options={"dropout": False}), 1)
    assert plain.fit(lambda step: None, tests.append)
    assert tests[0].test.loss == pytest.approx(tests[1].test.loss, rel=1e-6)


def test_balanced_weights() -> None:
    images, labels = np.zeros((6, 4, 4, 3), np.uint8), np.array([0, 0, 0, 2, 2, 3], np.int32)
    data = ArrayDataset(images, labels, list("abcd"))
    made = completed(replace(BASE, class_weights="balanced"), Data(data, data, "six images", True))
    assert made.class_weights == (6 / 9, 1, 1, 2)  # each class with images weighs 2 in all, and b has none
    assert np.mean(np.array(made.class_weights)[labels]) == pytest.approx(1)


def test_weights_for_another_number_of_classes_are_refused() -> None:
    told = "class_weights: expected a number for each class, got 3 for the 4 classes of the images"
    with pytest.raises(ValueError, match=f"^{told}$"):
        trainer_of(replace(BASE, class_weights=(1.0, 2.0, 3.0)), 1)


@pytest.mark.parametrize("made", [{"nesterov": True}, {"optimizer": "adamw", "lr": 1e-3}])
def test_the_averaged_weights_are_tested_and_saved(made: dict[str, Any], tmp_path: Path) -> None:
    trainer, weights, tests = trainer_of(replace(BASE, ema=0.75, **made), 3), list[np.ndarray](), list[Any]()
    assert trainer.fit(lambda step: weights.append(trainer.model.state()["fc8.w"].astype(np.float64)), tests.append)
    share = np.array([0.75**2, 0.75, 1])
    trainer.save(tmp_path / "saved", {})
    saved = checkpoint.load(tmp_path / "saved")
    expected = np.tensordot(share / share.sum(), np.array(weights), 1)
    np.testing.assert_allclose(saved.weights["fc8.w"], expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(saved.optimizer["swapped/fc8.w"], trainer.model.state()["fc8.w"])
    again = trainer_of(replace(BASE, ema=0.75, **made), 3)
    again.model.load_state(saved.weights)
    with no_grad():
        assert tests[-1].test == again.evaluate(again.test)


def test_gradients_of_nesterovs_steps_are_not_written_on_tensor_cores() -> None:
    """The product ends in the update, to the bits of a gradient that somebody looks at."""
    made = replace(BASE, precision="bf16", nesterov=True, ema=0.9)
    fused, written = trainer_of(made, 2), trainer_of(replace(made, clip=1e6), 2)
    for trainer in (fused, written):
        assert trainer.fit(lambda step: None, lambda epoch: None)
    assert isinstance(fused.model.fc6.w.gradient, LinearGradient)
    for name, w in written.model.state().items():
        np.testing.assert_array_equal(fused.model.state()[name], w)


def test_a_run_ends_when_the_test_no_longer_gets_better() -> None:
    """With a rate so small that the test never changes it ends so many epochs after the first."""
    trainer = trainer_of(replace(BASE, lr=1e-12, stop_after=3), 50)
    assert trainer.fit(lambda step: None, lambda epoch: None)
    assert (trainer.progress.epoch, trainer.finished) == (4, True)
    assert trainer.ended_early == "the test accuracy has not risen for 3 epochs"
    assert len(train_steps(replace(BASE, lr=1e-12), 6)) == 6


def test_a_plateau_lowers_the_rate_and_then_ends() -> None:
    """With a rate so small that the test error never falls the run ends after (drops + 1) * patience + 1 epochs."""
    made = replace(BASE, lr=1e-12, schedule="plateau", drops=2, patience=2)
    assert len(train_steps(made, 50)) == 3 * 2 + 1
