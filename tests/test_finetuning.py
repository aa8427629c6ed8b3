"""Training from weights: what is loaded, what stays, what learns how fast, and what the network sees of an image."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from foreign_files import arrays, caffemodel, pth, small, write
from mpi import mpirun
from numpy.testing import assert_array_equal
from PIL import Image
from safetensors.numpy import save_file

from alexnet_cuda import (
    Tensor,
    backend,
    checkpoint,
    command_line,
    convert,
    evaluate,
    finetuning,
    kernels,
    memory,
    models,
    nn,
    ops,
    optim,
    predict,
    recipe,
    train,
)
from alexnet_cuda.data import open_data
from alexnet_cuda.inference import Trained
from alexnet_cuda.ops.convolution import Conv2d
from alexnet_cuda.recipe import Recipe
from alexnet_cuda.schedule import Schedule
from alexnet_cuda.trainer import Trainer
from alexnet_cuda.training_step import optimizer, prepare
from alexnet_cuda.weights import torch_state
from alexnet_cuda.weights.layout import names_in

pytest_plugins = ["tiny_run"]

Say = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that ``tiny_run`` does not know: 12 images each to train on, 4 to test."""
    root, rng = tmp_path_factory.mktemp("two"), np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        for name, colour in {"day": (200, 190, 90), "night": (30, 40, 90)}.items():
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.array(colour) + rng.integers(-60, 61, (36, 36, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / part / name / f"{i}.png")
    return root


def call(images: Path | None, *arguments: object) -> int:
    """Runs the command on the CPU; two epochs in batches of 8 unless it is told otherwise."""
    given = [] if images is None else ["--data", f"folder:{images}", "--batch", "8", "--epochs", "2"]
    return command_line.run(train.main, [*given, "--device", "cpu", *map(str, arguments)])


def fails(say: Say, images: Path | None, *arguments: object) -> str:
    """The one line that refuses."""
    assert call(images, *arguments) == 2
    lines = say.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n].view(np.uint32), b[n].view(np.uint32)) for n in a)


# ---- what is loaded


def test_a_run_is_the_start_of_another(tiny_run: Path, two: Path, capsys: Say) -> None:
    freeze = "freeze=['conv*', 'fc6', 'fc7']"
    assert call(two, "--weights", tiny_run, "--out", "run", "--set", freeze, "--lr", 1e-30) == 0
    before, after = checkpoint.load(tiny_run / "best.safetensors"), checkpoint.load("run")
    loaded = [name for name in before.weights if not name.startswith("fc8")]
    assert same({n: before.weights[n] for n in loaded}, {n: after.weights[n] for n in loaded})
    fresh = models.create("alexnet-mini", classes=2, device="cpu").state()
    np.testing.assert_allclose(after.weights["fc8.w"], fresh["fc8.w"], rtol=1e-6)
    assert_array_equal(after.mean, before.mean)
    screen = capsys.readouterr().out
    table = {line.split()[0]: line.split(maxsplit=3)[2:] for line in screen.splitlines() if "  " in line}
    assert table["conv1"] == ["frozen", "loaded"]
    assert table["fc8"] == ["x10", "new: w is 2x256, in the file 7x256"]
    assert f"{tiny_run}/best.safetensors (checkpoint, alexnet-mini)" in screen


def test_the_last_layer_is_new_for_other_classes_of_the_same_number(tiny_run: Path) -> None:
    start = finetuning.read(tiny_run)
    model = models.get("alexnet-mini").with_classes(7)
    assert start.classes is not None
    assert finetuning.fit(start, model, start.classes).new == {}
    assert finetuning.fit(start, model, [*start.classes[:-1], "other"]).new == {"fc8": "for other classes"}


def test_what_the_model_has_no_place_for_is_left_out(tiny_run: Path) -> None:
    saved = checkpoint.load(tiny_run)
    extra = {**saved.weights, "norm9.gamma": np.ones(3, np.float32)}
    del extra["conv2.b"]
    checkpoint.save("more.safetensors", checkpoint.Checkpoint(extra, {}, saved.mean, saved.description))
    start, model = finetuning.read(Path("more.safetensors")), models.get("alexnet-mini").with_classes(7)
    made = finetuning.fit(start, model, saved.description["classes"])
    assert made.left_out == {"norm9": "alexnet-mini has no such layer"}
    assert made.new == {"conv2": "b is 64, in the file missing"}
    network = model.build("cpu", 3)
    drawn = network.state()["conv2.w"]
    finetuning.load(network, start, made)
    assert_array_equal(network.state()["conv2.w"], drawn)
    assert_array_equal(network.state()["conv3.w"], saved.weights["conv3.w"])
    assert "left out: alexnet-mini has no such layer" in finetuning.table(start, made, model, Recipe())


@pytest.mark.parametrize("name", models.names())
def test_models_know_what_their_networks_keep(name: str) -> None:
    model, side = models.get(name), 224 if name.startswith("keras") else 99
    model = small(name, side=side) if model.input[0] >= side else model
    known = {f"{row.layer.name}.{key}": shape for row in model.rows() for key, shape in row.arrays.items()}
    network = model.build("cpu")
    assert known == {key: array.shape for key, array in network.state().items()}
    trained = [f"{row.layer.name}.{key}" for row in model.rows() for key in row.trained]
    assert sorted(trained) == sorted(key for key, _ in network.named_parameters())


# ---- freezing and rates


def trained(changes: dict[str, Any], steps: int = 4, normalised: bool = False) -> tuple[nn.Module, optim.Optimizer]:
    """A small network after some steps as a recipe says."""
    net = network(normalised)
    made = recipe.change(Recipe(lr=0.05), changes, "test")
    prepare(net, made)
    Schedule(made, net, steps).apply(0, 0, 0)
    learns = optimizer(made, net.parameters())
    for step in range(steps):
        x = Tensor(reference.random(6, 8, 8, 8, seed=step).astype(kernels.storage(made.precision)))
        learns.zero_grad()
        y = ops.cast(net(x), np.float32)
        ops.softmax_cross_entropy(y, Tensor(np.arange(6, dtype=np.int32) % 4)).backward()
        learns.step()
    return net, learns


def network(normalised: bool = False) -> nn.Sequential:
    rng = np.random.default_rng(0)
    layers: dict[str, nn.Module] = {"conv1": nn.Conv2d(8, 8, 3, activation="relu", rng=rng, device="cpu")}
    if normalised:
        layers["conv2"] = nn.BatchNorm(8, device="cpu")
    layers |= {"flatten": nn.Flatten(), "fc6": nn.Linear(288, 16, "relu", rng=rng, device="cpu")}
    return nn.Sequential(**layers, fc8=nn.Linear(16, 4, rng=rng, device="cpu"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("pattern", ["conv*", "fc6", "*.b", "fc6.w"])
def test_what_is_frozen_stays_and_nothing_is_kept_for_it(pattern: str, precision: str) -> None:
    made = Recipe(freeze=(pattern,))
    before = network().state()
    net, learns = trained({"freeze": [pattern], "precision": precision})
    frozen = {name for name, _ in net.named_parameters() if made.frozen(name)}
    assert frozen
    for name, p in net.named_parameters():
        assert np.array_equal(p.numpy(), before[name]) == (name in frozen)
        assert (p.gradient is None) == (name in frozen)
    assert len(learns.kept["momentum"]) == len(before) - len(frozen)


def test_a_frozen_layer_changes_no_gradient_of_the_others() -> None:
    _, all_of_them = trained({}, 1)
    _, some = trained({"freeze": "conv*"}, 1)
    for whole, part in zip(all_of_them.parameters[2:], some.parameters, strict=True):
        assert part.grad is not None and whole.grad is not None
        assert_array_equal(part.grad.view(np.uint32), whole.grad.view(np.uint32))


def test_no_gradient_is_computed_before_the_first_layer_that_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, backward = [], kernels.conv2d_backward

    def noted(*given: Any, **options: Any) -> Any:
        asked.append(given[7])
        return backward(*given, **options)

    monkeypatch.setattr(Conv2d, "kernel_backward", staticmethod(noted))
    trained({"freeze": "conv*"}, 1)
    assert not asked
    trained({"freeze": "conv1.b"}, 1)
    assert asked == [(False, True, False)]


def test_running_statistics_of_frozen_layers_stay() -> None:
    before = network(True).state()
    frozen, free = (trained({"freeze": pattern}, 2, True)[0].state() for pattern in ("conv2", "conv1"))
    for name in ("conv2.running_mean", "conv2.running_variance"):
        assert_array_equal(frozen[name], before[name])
        assert not np.array_equal(free[name], before[name])


def test_the_plan_of_memory_leaves_out_what_is_frozen() -> None:
    model, made = models.get("alexnet-mini"), Recipe(freeze=("conv*", "fc6"))
    learning = sum(4 * row.parameters for row in model.rows() if row.layer.name in ("fc7", "fc8"))
    (plan,) = memory.Planner(model, [backend.device("cpu")], made).plan(4)
    assert plan.gradients == 4 * (256 + 10)  # biases alone: the weights' products end in the update
    assert plan.optimizer == learning + 4 * (4 + 2)  # momenta, and the numbers of four arrays' updates
    assert plan.parameters == 4 * model.parameters


def test_rates_by_pattern_multiply() -> None:
    made = recipe.change(Recipe(lr=0.05), {"rates": {"fc*": 0.5, "*.b": 4, "fc6.w": 0.25}}, "test")
    assert [made.rate(name) for name in ("conv1.w", "conv1.b", "fc6.w", "fc6.b", "fc8.w")] == [1, 4, 0.125, 2, 0.5]
    assert made.rate("fc6.tower1.half0.w") == 0.125
    net = network()
    Schedule(replace(made, schedule="constant"), net).apply(0, 0, 0)
    names = dict(net.named_parameters())
    assert {name: p.lr_scale for name, p in names.items()} == {name: made.rate(name) for name in names}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_rate_reaches_the_update(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fused, linear_sgd = [], kernels.linear_sgd

    def noted(*given: Any) -> None:
        fused.append(given)
        linear_sgd(*given)

    monkeypatch.setattr(kernels, "linear_sgd", noted)
    velocities = []
    for rate in (1.0, 0.5):
        _, learns = trained({"precision": precision, "decay": 0.0, "rates": {"fc6": rate}}, 1)
        velocities.append(learns.state())
    assert len(fused) == 4  # products end in the update, of fc6 and fc8
    for place in range(6):
        factor = np.float32(0.5 if place in (2, 3) else 1)
        assert_array_equal(velocities[1][f"momentum/{place}"], factor * velocities[0][f"momentum/{place}"])


# ---- preprocessing follows the weights

CAFFE, TORCH = "caffenet", "alexnet-owt"


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the names of the networks that others publish weights for: the same in small."""
    for name in (TORCH, CAFFE):
        monkeypatch.setitem(models._by_name, name, small(name, 1000))


def foreign(kind: str, classes: int) -> Path:
    model = small(CAFFE if kind == "caffemodel" else TORCH, classes)
    if kind == "caffemodel":
        return write(Path("theirs.caffemodel"), caffemodel(model, arrays(model, {n: n for n in names_in(model)})))
    state = arrays(model, torch_state.names(model))
    if kind == "pth":
        return write(Path("theirs.pth"), pth(state))
    save_file(state, "theirs.safetensors")
    return Path("theirs.safetensors")


def no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has trainers do all but steps."""

    def step(self: Trainer, batch: Any) -> None:
        self.progress.step += 1

    monkeypatch.setattr(Trainer, "_step", step)


@pytest.mark.parametrize("kind", ["pth", "safetensors", "caffemodel"])
def test_after_no_steps_predictions_are_those_of_the_converted_file(
    kind: str, tiny_images: Path, small_models: None, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    file, classes = foreign(kind, 7), Path("classes.txt")
    classes.write_text("\n".join(sorted(path.name for path in (tiny_images / "val").iterdir())))
    assert command_line.run(convert.main, [str(file), "converted.safetensors", "--classes", str(classes)]) == 0
    no_steps(monkeypatch)
    assert call(tiny_images, "--weights", file, "--out", "run", "--epochs", 1) == 0
    tuned, converted = Trained.load("run", "cpu"), Trained.load("converted.safetensors", "cpu")
    assert_array_equal(tuned.mean, converted.mean)
    assert tuned.config["scale"] == converted.config["scale"]
    assert len(np.atleast_1d(tuned.config["scale"])) == (1 if kind == "caffemodel" else 3)
    capsys.readouterr()
    said = []
    for network in ("run", "converted.safetensors"):
        arguments = [network, "--data", f"folder:{tiny_images}", "--json", "--device", "cpu"]
        assert command_line.run(evaluate.main, arguments) == 0
        said.append([row | {"checkpoint": ""} for row in json.loads(capsys.readouterr().out)["results"]])
        pictures = sorted(map(str, (tiny_images / "val").rglob("*.png")))[:4]
        assert command_line.run(predict.main, [network, *pictures, "--json", "--device", "cpu"]) == 0
        said.append([row | {"checkpoint": ""} for row in json.loads(capsys.readouterr().out)])
    assert said[0] == said[2] and said[1] == said[3]
    height, width, _ = tuned.mean.shape
    test = open_data(f"folder:{tiny_images}", height, width, margin=False).test
    images, labels, _ = test.load(np.arange(len(test)))
    assert_array_equal(tuned.probabilities(images), converted.probabilities(images))
    record = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert record["test_accuracy"] == (converted.probabilities(images).argmax(axis=1) == labels).mean()


def test_the_networks_input_in_training_is_that_in_inference(tiny_images: Path, small_models: None) -> None:
    """With one factor a channel, which the kernel of one factor does not know."""
    start = finetuning.read(foreign("safetensors", 7))
    made = recipe.change(Recipe(), start.entries({}), "test")
    data = open_data(f"folder:{tiny_images}", 99, 99)
    trainer = Trainer.of(made, data, "cpu", mean=finetuning.mean(start, data.train))
    batch = next(iter(trainer.test.evaluation()))
    seen = trainer._input(dict.fromkeys(trainer.devices, batch))[0].numpy()
    RH = len(start.mean)
    top = (RH - 99) // 2
    cut = slice(top, top + 99)
    expected = (batch.images[:, cut, cut].astype(np.float64) - start.mean[cut, cut]) * np.array(start.scale)
    np.testing.assert_allclose(seen, expected, rtol=1e-6, atol=1e-6)


def test_images_are_stored_as_the_weights_know_them(tiny_images: Path, small_models: None) -> None:
    model, start = small(CAFFE), finetuning.read(foreign("caffemodel", 7))
    assert start.entries({})["stored"] == len(start.mean) == 256 != model.input[0]
    assert call(tiny_images, "--weights", "theirs.caffemodel", "--out", "run", "--epochs", 1) == 0
    assert checkpoint.load("run").mean.shape == (256, 256, 3)
    assert call(None, "--resume", "run", "--epochs", 2) == 0
    assert checkpoint.load("run").mean.shape == (256, 256, 3)


def test_weights_that_know_no_margin_bring_none(tiny_run: Path) -> None:
    saved = checkpoint.load(tiny_run)
    cut = saved.mean[2:-2, 2:-2]
    checkpoint.save("cut.safetensors", checkpoint.Checkpoint(saved.weights, {}, cut, saved.description))
    assert finetuning.read(Path("cut.safetensors")).entries({"crop": True})["crop"] is False
    assert "crop" not in finetuning.read(tiny_run).entries({})


def test_images_without_a_margin_take_the_centre_of_the_mean(tiny_run: Path) -> None:
    start = finetuning.read(tiny_run)
    without, large = (open_data("synthetic:3", side, side, margin=False) for side in (32, 48))
    assert_array_equal(finetuning.mean(start, without.train), start.mean[2:-2, 2:-2])
    with pytest.raises(ValueError, match=r"expected images of 36x36 pixels, as .* knows them, got 48x48"):
        finetuning.mean(start, large.train)


# ---- with everything else, and going on


@pytest.mark.parametrize(
    "options",
    [
        ["--precision", "bf16"],
        ["--device", "cpu:0,cpu:1"],
        ["--set", "optimizer=adamw", "--set", "ema=0.9", "--set", "accumulate=2"],
    ],
    ids=lambda options: " ".join(options),
)
def test_a_resumed_run_keeps_its_freeze_and_asks_for_no_weights(
    options: list[str], tiny_run: Path, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Path("start.safetensors")
    weights.write_bytes((tiny_run / "best.safetensors").read_bytes())
    frozen_and_slow = ["--freeze", "conv*", "--freeze", "fc6.b", "--set", "rates.fc7=0.5"]
    given = ["--weights", weights, *frozen_and_slow, *options, "--epochs", 1]
    assert call(two, *given, "--out", "whole") == 0
    step = Trainer._step

    def stopping(self: Trainer, batch: Any) -> None:
        step(self, batch)
        if self.progress.step == 1:
            self.stop()

    monkeypatch.setattr(Trainer, "_step", stopping)
    with pytest.raises(IndexError):  # nobody sent the signal whose number the exit code is made of
        call(two, *given, "--out", "parts")
    monkeypatch.setattr(Trainer, "_step", step)
    weights.unlink()
    device = options[1:] if options[0] == "--device" else ["cpu"]
    assert command_line.run(train.main, ["--resume", "parts", "--device", *device]) == 0
    whole, parts, before = (
        checkpoint.load("whole"),
        checkpoint.load("parts"),
        checkpoint.load(tiny_run / "best.safetensors"),
    )
    assert same(whole.weights, parts.weights) and same(whole.optimizer, parts.optimizer)
    for name, array in before.weights.items():
        if not name.startswith("fc8"):
            frozen = name.startswith("conv") or name == "fc6.b"
            assert np.array_equal(whole.weights[name], array) == frozen, name
    learning = {name.rpartition("/")[2] for name in whole.optimizer} - {"updates"}
    assert learning == {"fc6.w", "fc7.w", "fc7.b", "fc8.w", "fc8.b"}


def test_processes_start_from_the_same_weights(tiny_run: Path, two: Path) -> None:
    given = ["--data", f"folder:{two}", "--batch", "8", "--epochs", "1", "--device", "cpu", "--weights", str(tiny_run)]
    command = ["-m", "alexnet_cuda.train", "--threads", "1", "--parallel", "data", *given, "--freeze", "conv*"]
    done = mpirun(2, [*command, "--out", "run"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("new: w is 2x256, in the file 7x256") == 1  # one of them speaks
    before, after = checkpoint.load(tiny_run / "best.safetensors"), checkpoint.load("run")
    for name, array in before.weights.items():
        if not name.startswith("fc8"):
            assert np.array_equal(after.weights[name], array) == name.startswith("conv"), name
    assert not any("conv" in name for name in after.optimizer)
    second = [*command[:-3], str(tiny_run / "checkpoint.safetensors"), *command[-2:]]
    done = mpirun(1, [*command, ":", "-n", "1", sys.executable, *second])
    assert done.returncode == 2
    assert "weights" in done.stderr and "Traceback" not in done.stderr


def test_what_a_run_wrote_begins_it_again(tiny_run: Path, two: Path) -> None:
    assert call(two, "--weights", tiny_run, "--freeze", "conv*", "--out", "one") == 0
    assert command_line.run(train.main, ["--recipe", "one/config.toml", "--out", "two"]) == 0
    assert same(checkpoint.load("one").weights, checkpoint.load("two").weights)
    assert Path("one/config.toml").read_text() == Path("two/config.toml").read_text()


def test_weights_that_have_moved_are_named(tiny_run: Path, two: Path, capsys: Say) -> None:
    Path("start.safetensors").write_bytes((tiny_run / "best.safetensors").read_bytes())
    assert call(two, "--weights", "start.safetensors", "--out", "one", "--epochs", 1) == 0
    Path("start.safetensors").rename("moved.safetensors")
    again = fails(capsys, None, "--recipe", "one/config.toml")
    assert "start.safetensors: no such file" in again
    assert again.endswith("it comes from one/config.toml, --weights names another")
    given = ["--recipe", "one/config.toml", "--weights", "moved.safetensors", "--out", "two"]
    assert command_line.run(train.main, given) == 0
    assert same(checkpoint.load("one").weights, checkpoint.load("two").weights)


def test_one_batch_is_learnt_from_weights_too(tiny_run: Path, two: Path) -> None:
    assert call(two, "--weights", tiny_run, "--overfit-batch", "--out", "run", "--epochs", 60) == 0
    assert_array_equal(checkpoint.load("run").mean, checkpoint.load(tiny_run).mean[2:-2, 2:-2])


def test_parts_of_the_model_can_be_exchanged(tiny_run: Path, two: Path, capsys: Say) -> None:
    """Its own, or a model of the same family: both towers' filters then see all channels, and are new."""
    given = ["--weights", tiny_run, "--epochs", 1, "--out"]
    assert call(two, *given, "one", "--set", "model.lrn=false", "--set", "model.towers=1") == 0
    screen = capsys.readouterr().out
    assert "lrn1" not in screen
    assert "new: w is 64x5x5x32, in the file 64x5x5x16" in screen
    assert call(two, "--weights", "one", "--epochs", 1, "--out", "two") == 0
    assert checkpoint.load("two").description["config"]["options"] == {"lrn": False, "towers": 1}


def test_auto_goes_on_with_what_began_from_the_same_weights(tiny_run: Path, two: Path, capsys: Say) -> None:
    assert call(two, "--weights", tiny_run, "--out", "run", "--resume", "auto", "--epochs", 1) == 0
    assert call(two, "--weights", tiny_run, "--out", "run", "--resume", "auto", "--epochs", 2) == 0
    assert "epoch 2/2" in capsys.readouterr().out
    again = fails(capsys, two, "--weights", tiny_run / "best.safetensors", "--out", "run", "--resume", "auto")
    assert "--resume goes on with weights" in again


# ---- advice


def test_a_small_set_is_told_what_to_do(two: Path, tiny_run: Path, capsys: Say) -> None:
    assert call(two, "--epochs", 1) == 0
    screen = capsys.readouterr().out
    assert "24 training images for the 284,866 parameters of alexnet-mini" in screen
    for option in ("--weights FILE|RUN", "--recipe small"):
        assert option in screen
    assert call(two, "--epochs", 1, "--weights", tiny_run) == 0
    assert "--recipe small" not in capsys.readouterr().out
    assert call(two, "--recipe", "small", "--epochs", 1) == 0
    assert call(two, "--overfit-batch", "--epochs", 1) == 1  # step, in which it is not learnt
    assert "--recipe small" not in capsys.readouterr().out
    assert finetuning.advice(models.get("alexnet"), 1_281_167) == ""
    assert finetuning.advice(models.get("alexnet-mini"), 1438) == ""
    assert finetuning.advice(models.get("alexnet"), 258)


# ---- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--freeze", "konv*"], r"freeze: 'konv\*' matches no layer with weights of alexnet-mini.*did you mean conv5"),
        (["--freeze", "conv1.gamma"], "freeze: 'conv1.gamma' matches no layer"),
        (["--set", "rates.conv9=2"], "rates: 'conv9' matches no layer"),
        (["--set", "rates.conv1=-1"], "rates: conv1: expected a factor from 0 on, got -1"),
        (["--set", "rates.conv1=much"], "rates.conv1: expected a number, got 'much'"),
        (["--set", "rates=2"], "rates: expected a table, got 2"),
        (["--set", "freeze=1"], "freeze: expected a list of patterns, got 1"),
        (["--set", "freeze=[1]"], "freeze: expected a string, got 1"),
        (["--set", "scale=[1, 2]"], "scale: expected a number, or three for RGB, got 2"),
        (["--set", "scale=[1, 0, 1]"], "scale: expected a number above 0, got 0"),
        (["--set", "stored=20"], "stored: expected at least the 32 pixels that alexnet-mini sees, got 20"),
        (["--freeze", "*"], "freeze: nothing of alexnet-mini is left to train"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_patterns_and_scales_that_are_refused(options: list[str], message: str, two: Path, capsys: Say) -> None:
    assert re.search(message, fails(capsys, two, *options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "nothing"], "nothing: no such file: expected a run folder, a checkpoint, or weights of"),
        (["--weights", "garbled"], "garbled: expected a checkpoint, a PyTorch state .* begins with b'what is '"),
        (["--weights", "half.safetensors"], "half.safetensors: expected a checkpoint|not a whole safetensors file"),
        (
            ["--weights", "RUN", "--resume", "RUN"],
            "--weights begins a run, --resume goes on with one: give one of them",
        ),
        (["--weights", "RUN", "--model", "alexnet"], "knows images of 36x36 pixels, alexnet sees 224x224"),
        (["--weights", "RUN", "--model", "cifar-80sec"], r"another family than cifar-80sec \(conv2: w is 32x5x5x32"),
        (["--weights", "RUN", "--freeze", "fc8.w"], "freeze: fc8 is drawn anew"),
        (["--weights", "RUN", "--freeze", "fc8"], "freeze: fc8 is drawn anew .*: expected patterns of loaded layers"),
        (["--weights", "RUN", "--set", "scale=2"], "--set scale: --weights says how its network sees images"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_weights_that_are_refused(options: list[str], message: str, tiny_run: Path, two: Path, capsys: Say) -> None:
    Path("garbled").write_bytes(b"what is this")
    Path("half.safetensors").write_bytes((tiny_run / "best.safetensors").read_bytes()[:5000])
    given = [str(tiny_run) if word == "RUN" else word for word in options]
    assert re.search(message, fails(capsys, two, *given))
