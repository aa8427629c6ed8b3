"""``train --overfit-batch``: what it trains on, and what it says of it."""

from __future__ import annotations

import math
import os
import re
import signal
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from alexnet_cuda import Tensor, command_line, models, one_batch, recipe, train
from alexnet_cuda.data import ArrayDataset, Data, Loader
from alexnet_cuda.metrics import read_metrics
from alexnet_cuda.one_batch import Verdict
from alexnet_cuda.trainer import Step, Trainer

pytest_plugins = ["tiny_run"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def call(images: Path | str, *arguments: object) -> int:
    data = images if isinstance(images, str) else f"folder:{images}"
    given = ["--data", data, "--device", "cpu", "--out", "run", "--overfit-batch", *map(str, arguments)]
    return command_line.run(train.main, given)


def steps() -> list[dict[str, float]]:
    return [record for record in read_metrics(Path("run/metrics.jsonl")) if record["kind"] == "step"]


# ---- the command


@pytest.mark.parametrize("data", ["images", "synthetic:10"])
def test_a_batch_is_learnt_by_heart(tiny_images: Path, capsys: pytest.CaptureFixture[str], data: str) -> None:
    """Even of noise."""
    assert call(tiny_images if data == "images" else data) == 0
    out = capsys.readouterr().out
    last = steps()[-1]  # of every tenth
    (learnt,) = map(int, re.findall(r"learnt by heart after (\d+) steps", out))
    assert 0 <= learnt - last["step"] < 10
    assert last["accuracy"] == 1 and last["loss"] < 0.01 * math.log(10)
    assert 20 < learnt < one_batch.STEPS
    assert "loader" not in out and "epoch " not in out
    files = {path.name for path in Path("run").iterdir()}
    assert files == {"checkpoint.safetensors", "config.toml", "metrics.jsonl", "curve.png"}
    config = tomllib.loads(Path("run/config.toml").read_text())
    assert config.items() >= {"schedule": "constant", "crop": False, "mirror": False, "colour": "none"}.items()
    assert (config["options"], config["epochs"]) == ({"dropout": False}, one_batch.STEPS)
    assert {step["lr"] for step in steps()} == {config["lr"]}


def test_a_batch_that_is_not_learnt_is_a_failure_that_goes_on(
    tiny_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(tiny_images, "--batch", 8, "--lr", 1e-7, "--epochs", 12) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "not learnt by heart in 12 steps: the loss is " in error and "that is guessing: try a lower --lr" in error
    assert Path("run/checkpoint.safetensors").exists()
    assert command_line.run(train.main, ["--resume", "run", "--epochs", "14"]) == 1
    assert "not learnt by heart in 14 steps" in capsys.readouterr().err
    assert command_line.run(train.main, ["--resume", "run"]) == 2
    assert "run: has done its 14 steps; --epochs N goes on to N" in capsys.readouterr().err


def test_an_interrupted_one_goes_on_exactly(tiny_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(tiny_images, "--batch", 8, "--epochs", 20, "--lr", 1e-3) == 1
    straight = steps()
    Path("run").rename("straight")
    step = Trainer._step
    with monkeypatch.context() as patch:

        def wrapped(self: Trainer, *args: object) -> None:
            step(self, *args)  # type: ignore[arg-type]  # what Trainer passes itself
            if self.progress.step == 7:
                os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(Trainer, "_step", wrapped)
        assert call(tiny_images, "--batch", 8, "--epochs", 20, "--lr", 1e-3) == 130
    assert command_line.run(train.main, ["--resume", "run"]) == 1
    assert steps() == straight


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "schedule=cosine"], "schedule: --overfit-batch trains without; expected no other value, got"),
        (["--mirror"], "mirror: --overfit-batch trains without; expected no other value, got True"),
        (["--set", "warmup=3"], "warmup: --overfit-batch trains without"),
    ],
)
def test_what_makes_it_harder_is_refused(
    tiny_images: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert call(tiny_images, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_all_that_recipes_have_against_overfitting_is_left_out() -> None:
    made = recipe.Recipe(
        schedule="step",
        steps=((1.0, 0.1),),
        warmup=2.0,
        ema=0.9,
        label_smoothing=0.1,
        class_weights="balanced",
        stop_after=3,
        colour="paper",
        mirror=True,
        crop_area=0.5,
        rotation=10.0,
        brightness=0.1,
        contrast=0.1,
        mixup=0.2,
        layers={"conv1": recipe.LayerRule(lr=0.5, steps=((1.0, 0.0),))},
    )
    plain = recipe.change(made, one_batch.changes(made), "")
    bare = recipe.Recipe(schedule="constant", clip=1.0, epochs=one_batch.STEPS, crop=False, mirror=False)
    assert plain == replace(bare, options={"dropout": False}, layers={"conv1": recipe.LayerRule(lr=0.5)})


def test_networks_of_files_leave_dropout_out_too() -> None:
    layers = """[data]\ntype=data\ndataIdx=0\n[labels]\ntype=data\ndataIdx=1
[fc]\ntype=fc\noutputs=3\ninputs=data\ninitW=0.01\n[drop]\ntype=hs\nkeep=0.5\ninputs=fc
[probs]\ntype=softmax\ninputs=drop\n[logprob]\ntype=cost.logreg\ninputs=labels,probs\n"""
    parameters = "[fc]\nepsW=0.1\nepsB=0.1\nmomW=0\nmomB=0\nwc=0\n[drop]\nenable=1\n[logprob]\ncoeff=1\n"
    files = {"layers": layers, "parameters": parameters, "size": 8}
    with_it, without = (models.described("net", o, files) for o in ({}, {"dropout": False}))
    assert [type(row.layer).__name__ for row in with_it.rows()][-1] == "Dropout"
    x = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    outputs = []
    for train_mode in (True, False):
        network = without.build("cpu", 0)
        network.train(train_mode)
        outputs.append(network(Tensor(x)).numpy())
    assert_array_equal(*outputs)
    assert outputs[0].any()


# ---- its parts


def test_an_epoch_of_several_passes_has_every_image_in_each() -> None:
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    loader = Loader(ArrayDataset(images, np.arange(4, dtype=np.int32), "abcd"), (2, 2), 4, passes=3)
    batches = [(number, sorted(batch.labels.tolist())) for number, batch in loader.training(0)]
    assert len(loader) == 3
    assert batches == [(number, [0, 1, 2, 3]) for number in range(3)]
    (_, last), *_ = loader.training(0, 2)
    longer = Loader(loader.dataset, (2, 2), 4, passes=5)
    assert_array_equal(last.labels, [batch.labels.copy() for _, batch in longer.training(0)][2])


def test_the_batch_is_the_centres_of_images_of_all_classes() -> None:
    images = np.zeros((6, 4, 4, 3), np.uint8)
    images[:, 1:3, 1:3] = np.arange(6)[:, None, None, None]
    labels = np.array([0, 0, 1, 1, 2, 2], np.int32)
    data = ArrayDataset(images, labels, "abc")
    one = one_batch.images(Data(data, data, "six", True), 3, (2, 2))
    got, labels, _ = one.train.load(np.arange(3))
    assert_array_equal(got, np.array([0, 2, 5], np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8))
    assert labels.tolist() == [0, 1, 2] and not one.mirrored


GOOD, WRONG = (0.009 * math.log(4), 1.0), (0.009 * math.log(4), 0.75)
HIGH = (0.011 * math.log(4), 1.0)


@pytest.mark.parametrize(
    ("seen", "learnt"),
    [
        ([GOOD] * 20, 20),
        ([GOOD] * 19, None),
        ([GOOD] * 19 + [WRONG] + [GOOD] * 20, 40),
        ([GOOD] * 19 + [HIGH] + [GOOD] * 19, None),
        ([HIGH] * 30, None),
        ([WRONG] * 30, None),
    ],
)
def test_learnt_is_twenty_good_steps_in_a_row(seen: list[tuple[float, float]], learnt: int | None) -> None:
    verdict = Verdict(4, 100)
    ended = [i for i, (loss, accuracy) in enumerate(seen, 1) if verdict.step(Step(i, 0, 0.1, loss, accuracy))]
    assert (ended[:1], verdict.learnt) == ([learnt] if learnt else [], learnt is not None)


@pytest.mark.parametrize(
    ("losses", "what"),
    [
        ([1.4] * 40, "guessing: try a lower --lr"),
        ([0.9] * 20 + [0.5] * 20, "still falls: more --epochs"),
        ([0.5] * 40, "no longer falls: try a lower --lr"),
        ([1.3], "guessing"),
        ([0.5], "no longer falls"),
    ],
)
def test_a_verdict_says_what_to_look_at(losses: list[float], what: str) -> None:
    verdict = Verdict(4, len(losses))
    assert [verdict.step(Step(i, 0, 0.1, loss, 0.5)) for i, loss in enumerate(losses, 1)][-1]
    assert verdict.done and not verdict.learnt
    text = verdict.text(len(losses))
    assert f"not learnt by heart in {command_line.count(len(losses), 'step')}: the loss is {losses[-1]:.4f}" in text
    assert what in text
