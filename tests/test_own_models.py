"""Networks of a user's own in the commands: FILE.py:NAME, and ``models.register``."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import reference
from mpi import mpirun

from alexnet_cuda import (
    Tensor,
    backend,
    checkpoint,
    command_line,
    compare,
    convert,
    evaluate,
    features,
    inference,
    memory,
    models,
    nn,
    ops,
    parallel,
    predict,
    recipe,
    report,
    saliency,
    summary,
    train,
)
from alexnet_cuda.models import Own, OwnError, own
from alexnet_cuda.tensor import no_grad

NETS = '''
from alexnet_cuda import nn, ops


class Branches(nn.Module):
    """Two convolutions of one image side by side, and a rate for both."""

    def __init__(self, channels, width):
        super().__init__()
        self.wide = nn.Conv2d(channels, width, 3, padding=1, activation="relu")
        self.narrow = nn.Conv2d(channels, width, 1)
        self.join = nn.Concat()

    def forward(self, x):
        return self.join(self.wide(x), self.narrow(x))


class Net(nn.Module):
    def __init__(self, classes, input=(16, 16, 3), width=4):
        super().__init__()
        self.stem = nn.Conv2d(input[2], width, 3, stride=2, padding=1)
        self.relu = nn.ReLU()
        self.branches = Branches(width, width)
        self.norm = nn.BatchNorm(2 * width)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(2 * width * (input[0] // 4) * (input[1] // 4), classes)

    def forward(self, x):
        x = self.relu(self.norm(self.branches(self.relu(self.stem(x)))))
        return self.head(self.drop(ops.flatten(ops.max_pool2d(x, 2))))


Twin = Net
'''
CONSTANT = ["--device", "cpu", "--set", "schedule=constant", "--set", "model.width=6"]

pytest_plugins = ["tiny_run"]


@pytest.fixture(autouse=True)
def _registered_here_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_by_name", models._by_name.copy())


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nets") / "nets.py"
    path.write_text(NETS)
    return path


@pytest.fixture(scope="module")
def run(nets: Path, tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a file that is gone afterwards."""
    copy = tmp_path_factory.mktemp("gone") / "nets.py"
    shutil.copy(nets, copy)
    folder = copy.with_name("run")
    arguments = ["--model", f"{copy}:Net", "--data", f"folder:{tiny_images}", "--batch", "8", *CONSTANT]
    assert command_line.run(train.main, [*arguments, "--epochs", "1", "--out", str(folder)]) == 0
    copy.unlink()
    return folder


Command = Callable[[Sequence[str] | None], int]


def fails(command: Command, arguments: Sequence[object], capfd: pytest.CaptureFixture[str], code: int = 2) -> str:
    """The one line that a command fails with."""
    assert command_line.run(command, [*map(str, arguments)]) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_layers_are_found_by_running_the_network_once(nets: Path) -> None:
    model = models.get(f"{nets}:Net").with_classes(7)
    rows = {row.layer.name: row for row in model.rows()}
    assert {name: (row.layer.kind, row.layer.window, row.input, row.output) for name, row in rows.items()} == {
        "stem": ("Conv2d", "3x3/2 p1 g1", (16, 16, 3), (8, 8, 4)),
        "relu": ("ReLU", "", (8, 8, 4), (8, 8, 4)),
        "branches.wide": ("Conv2d", "3x3/1 p1 g1", (8, 8, 4), (8, 8, 4)),
        "branches.narrow": ("Conv2d", "1x1/1 p0 g1", (8, 8, 4), (8, 8, 4)),
        "branches.join": ("Concat", "", (8, 8, 4), (8, 8, 8)),
        "norm": ("BatchNorm", "", (8, 8, 8), (8, 8, 8)),
        "relu#2": ("ReLU", "", (8, 8, 8), (8, 8, 8)),
        "drop": ("Dropout", "p=0.1 paper", (128,), (128,)),
        "head": ("Linear", "", (128,), (7,)),
    }
    assert {layer.name: inputs for layer, inputs in model.connected()} == {
        "stem": ("",),
        "relu": ("stem",),
        "branches.wide": ("relu",),
        "branches.narrow": ("relu",),
        "branches.join": ("branches.wide", "branches.narrow"),
        "norm": ("branches.join",),
        "relu#2": ("norm",),
        "drop": ("relu#2",),
        "head": ("drop",),
    }
    assert rows["branches.wide"].macs == 8 * 8 * 4 * 3 * 3 * 4
    assert rows["head"].macs == 128 * 7
    assert (rows["norm"].biases, rows["norm"].frozen) == (16, 16)
    built = model.build("cpu")
    kept = [*built.parameters(), *(b for _, b in built.named_buffers())]
    assert model.parameters == sum(t.data.size for t in kept)
    assert saliency.last_convolutions(model) == ["branches.wide", "branches.narrow"]


def test_weights_depend_on_the_seed_alone(nets: Path) -> None:
    model = models.get(f"{nets}:Net")
    states = [model.build("cpu", seed).state() for seed in (1, 1, 2)]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    assert not np.array_equal(states[0]["stem.w"], states[2]["stem.w"])
    assert {p.device for p in model.build("cpu:1").parameters()} == {backend.device("cpu:1")}
    nn.manual_seed(5)
    drawn = nn.Linear(3, 3).state()["w"]
    nn.manual_seed(5)
    model.build("cpu", seed=1)
    assert np.array_equal(nn.Linear(3, 3).state()["w"], drawn)  # others' weights are as without the model


def test_parameters_outside_of_layers_count_once(tmp_path: Path) -> None:
    class Bare(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.w = nn.Parameter(np.full((classes, 12), 0.1, np.float32))
            self.unused = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return ops.linear(ops.flatten(x), self.w)

    model = models.register("bare", Bare, input=(2, 2, 3), classes=4)
    assert [(row.layer.name, row.parameters) for row in model.rows()] == [
        ("w", 48),
        ("unused.w", 6),
        ("unused.b", 3),
        ("Bare", 0),
    ]
    table = summary.describe(model, batch=5)
    assert (table["parameters"], table["activation_bytes"]) == (57, 5 * 4 * 4)


def test_rules_of_layers_go_by_paths(nets: Path) -> None:
    settings = recipe.settings(["layers.branches.lr=0", "layers.branches.wide.lr=3", "layers.head.bias_lr=2"])
    made = recipe.change(recipe.of(models.get(f"{nets}:Net")), settings, "test")
    assert recipe.change(recipe.Recipe(), recipe.plain(made), "test") == made
    rates = {path: made.rule(path).lr for path in ("stem.w", "branches.wide.w", "branches.narrow.w", "head.b")}
    assert rates == {"stem.w": 1, "branches.wide.w": 3, "branches.narrow.w": 0, "head.b": 1}
    assert made.rule("head.b").bias_lr == 2
    with pytest.raises(recipe.RecipeError, match=r"layers\.branches\.wid: .*did you mean branches\.wide"):
        recipe.change(made, recipe.settings(["layers.branches.wid.lr=0"]), "test")


def test_every_command_takes_a_run_whose_file_is_gone(
    run: Path, tiny_images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (run / "model.py").read_text() == NETS
    image = next(tiny_images.rglob("*.png"))
    for command, arguments in (
        (evaluate.main, [run]),
        (predict.main, [run, image]),
        (report.main, [run]),
        (features.main, [run, image, "-o", tmp_path / "f.npy", "--layer", "branches.join"]),
    ):
        assert command_line.run(command, [*map(str, arguments)]) == 0, command
    assert np.load(tmp_path / "f.npy").shape == (1, 8, 8, 12)
    page = (run / "report.html").read_text()
    assert "6 filters of 3x3x3" in page
    assert "branches.wide and branches.narrow sees" in page
    capfd.readouterr()
    assert "a model of the package" in fails(convert.main, [run, tmp_path / "net.safetensors"], capfd)


def test_a_run_goes_on_to_the_bits(run: Path, nets: Path, tiny_images: Path, tmp_path: Path) -> None:
    arguments = ["--model", f"{nets}:Net", "--data", f"folder:{tiny_images}", "--batch", "8", *CONSTANT]
    straight, two_parts = tmp_path / "straight", tmp_path / "parts"
    assert command_line.run(train.main, [*arguments, "--epochs", "2", "--out", str(straight)]) == 0
    more = ["--resume", str(run), "--model", f"{nets}:Net", "--epochs", "2", "--out", str(two_parts)]
    assert command_line.run(train.main, more) == 0
    one, other = (checkpoint.load(folder) for folder in (straight, two_parts))
    for kept, again in ((one.weights, other.weights), (one.optimizer, other.optimizer)):
        assert kept.keys() == again.keys()
        assert all(np.array_equal(kept[name], again[name]) for name in kept)


def test_another_text_needs_force(run: Path, nets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    changed = tmp_path / "nets.py"
    changed.write_text(NETS.replace("Dropout(0.1)", "Dropout(0.9)"))
    arguments = ["--resume", run, "--model", f"{changed}:Net", "--epochs", "2", "--out", tmp_path / "on"]
    told = fails(train.main, arguments, capfd)
    digests = [models.from_file(f"{file}:Net").code["digest"] for file in (nets, changed)]
    assert f"digest {digests[0]}, now {digests[1]}" in told
    assert not (tmp_path / "on").exists()
    assert command_line.run(train.main, [*map(str, arguments), "--force"]) == 0
    assert (tmp_path / "on" / "model.py").read_text() == changed.read_text()
    went_on = inference.Trained.load(tmp_path / "on" / checkpoint.NAME, "cpu")
    assert {layer.name: layer.window for layer in went_on.model.layers}["drop"] == "p=0.9 paper"
    best = inference.Trained.load(tmp_path / "on", "cpu")  # not that of the old text
    assert {layer.name: layer.window for layer in best.model.layers}["drop"] == "p=0.9 paper"
    capfd.readouterr()
    assert "goes on with model Net, got" in fails(train.main, ["--resume", run, "--model", f"{nets}:Twin"], capfd)
    assert "--force goes with --resume" in fails(train.main, ["--model", f"{nets}:Net", "--force"], capfd)
    changed.write_text(NETS.replace("self.head", "self.last"))
    told = fails(train.main, [*arguments[:-1], tmp_path / "no", "--force"], capfd)
    assert "knows a parameter 'head.b' of no layer" in told


def test_summary_and_its_memory(nets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = f"{nets}:Net"
    assert command_line.run(summary.main, ["--model", name, "--classes", "7", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    model = models.get(name).with_classes(7)
    assert (told["model"], told["parameters"], told["classes"]) == ("Net", model.parameters, 7)
    arguments = ["--model", name, "--classes", "7", "--memory", "--batch", "64", "--device", "cpu", "--json"]
    plans = memory.Planner(model, [backend.device("cpu")], recipe.of(model)).plan(64)
    assert plans[0].parameters == sum(4 * p.data.size for p in model.build("cpu").parameters()) + 4 * 16
    assert plans[0].gradients == plans[0].parameters - 4 * (16 + 7 * 128)  # the last layer's ends in the update
    assert command_line.run(summary.main, arguments) == 0
    assert json.loads(capfd.readouterr().out)["devices"][0]["parameters"] == plans[0].parameters


def test_two_towers_are_the_models_own_affair(
    nets: Path, tiny_images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", f"{nets}:Net", "--data", f"folder:{tiny_images}", "--device", "cpu:0,cpu:1"]
    assert "Net does not divide into two towers" in fails(train.main, arguments, capfd)
    file = tmp_path / "towers.py"
    file.write_text(
        '''
from alexnet_cuda import nn, ops


class Halves(nn.Module):
    """Each device has convolutions of its own, the first the classifier."""

    def __init__(self, classes, devices, input=(16, 16, 3)):
        super().__init__()
        self.devices = devices
        self.first, self.second = (nn.Conv2d(3, 4, 3, activation="relu", device=d) for d in (devices[0], devices[-1]))
        self.head = nn.Linear(8 * 14 * 14, classes, device=devices[0])

    def forward(self, x, *others):
        there = self.second(others[0] if others else x).to(self.devices[0])
        return self.head(ops.flatten(ops.concat([self.first(x), there])))
'''
    )
    arguments = ["--model", f"{file}:Halves", "--data", f"folder:{tiny_images}", "--batch", "8", "--epochs", "1"]
    for name, devices in (("one", "cpu"), ("two", "cpu:0,cpu:1")):
        assert command_line.run(train.main, [*arguments, "--device", devices, "--out", str(tmp_path / name)]) == 0
    one, two = (checkpoint.load(tmp_path / name).weights for name in ("one", "two"))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert command_line.run(evaluate.main, [str(tmp_path / "two"), "--device", "cpu"]) == 0


def test_networks_of_ones_own_are_no_chains_to_share_out(nets: Path) -> None:
    with pytest.raises(ValueError, match=r"model Net .* hybrid parallelism cannot share out; data can"):
        parallel.check_hybrid(models.get(f"{nets}:Net"), 2)


def test_bf16_is_refused_by_the_layer_that_lacks_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "nets.py"
    file.write_text(NETS.replace("nn.ReLU()", 'nn.Pointwise("softrelu")'))
    told = fails(train.main, ["--model", f"{file}:Net", "--precision", "bf16", "--device", "cpu"], capfd)
    assert "relu, Pointwise, is none" in told


BROKEN = """
from alexnet_cuda import nn, ops

number = 3
instance = nn.ReLU()


def text(classes):
    return "net"


def nothing():
    return nn.Flatten()


def demanding(classes, width):
    return nn.Linear(3, classes)


def bare(classes):
    return nn.Flatten()


def raising(classes):
    return nn.Linear(0, {}[classes])


class Other:
    pass


class Wrong(nn.Module):
    def __init__(self, classes, input=(4, 4, 3)):
        super().__init__()
        self.fc = nn.Linear(48, classes + 1)

    def forward(self, x):
        return self.fc(ops.flatten(x))


class Failing(Wrong):
    def forward(self, x):
        return self.fc(x)


class Late(Wrong):
    def __init__(self, classes, input=(4, 4, 3)):
        super().__init__(classes - 1)

    def forward(self, x):
        if not self.training:
            raise KeyError("late")
        return super().forward(x)
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", r"expected FILE\.py:NAME, with the name of .* \(text, nothing, demanding, .*Late\)"),
        (":Failling", r"no Failling in it .*did you mean Failing\?"),
        (":number", "number: expected a function or Module class that takes the number of classes, got int"),
        (":instance", "instance: expected a function or Module class .*, got a Module itself"),
        (":Other", r"Other: expected a class derived from nn\.Module, got one derived from object"),
        (":nothing", "nothing: expected a first parameter that takes the number of classes, got none"),
        (":demanding", "demanding: width: expected a default for a parameter besides input and devices"),
        (":text", "text: expected a Module, got str"),
        (":bare", "bare: expected a network with parameters, got none"),
        (":raising", r"broken\.py:25, in raising: KeyError: 10"),
        (":Wrong", r"Wrong: expected an output of shape \(2, 10\) for 2 images of 10 classes, got \(2, 11\)"),
        (":Failing", r"broken\.py:43, in forward: ValueError: linear: "),
    ],
)
def test_what_makes_no_network_is_told_in_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    for command in (train.main, summary.main):
        assert re.search(message, fails(command, ["--model", f"{file}{name}"], capfd))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", r"broken\.py:1: SyntaxError: invalid syntax"),
        ("\nimport no_such_neighbour\n", r"broken\.py:2: ModuleNotFoundError: .*not its neighbours"),
        ("1 / 0\n", r"broken\.py:1: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit('out')\n", r"broken\.py:2: SystemExit: out"),
        ("raise ValueError\n", r"broken\.py:1: ValueError$"),
        ("\udcff", "expected text, got byte 0xff at 0"),
        ("#" * 2**20 + "#", "expected a Python file of at most 1,048,576 bytes, got more"),
    ],
)
def test_files_that_do_not_run_are_told_in_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    file = tmp_path / "broken.py"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert re.search(message, fails(summary.main, ["--model", f"{file}:Net"], capfd))
    assert "No such file" in fails(summary.main, ["--model", f"{tmp_path}/none.py:Net"], capfd)


def test_what_fails_in_the_users_file_later_is_told_in_a_line(
    tmp_path: Path, tiny_images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    arguments = ["--model", f"{file}:Late", "--data", f"folder:{tiny_images}", "--epochs", "1", "--device", "cpu"]
    assert command_line.run(train.main, [*arguments, "--out", str(tmp_path / "run")]) == 1
    assert capfd.readouterr().err.splitlines()[-1] == f"error: {file}:52, in forward: KeyError: 'late'"


def test_fine_tuning_goes_by_paths(
    run: Path, nets: Path, tiny_images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--weights", str(run), "--data", f"folder:{tiny_images}", "--epochs", "1", "--device", "cpu"]
    frozen = ["--set", "freeze=branches"]
    assert command_line.run(train.main, [*arguments, *frozen, "--out", str(tmp_path / "kept")]) == 0
    before, after = (checkpoint.load(folder).weights for folder in (run, tmp_path / "kept"))
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert {"branches.wide.w", "branches.narrow.b"} <= same
    assert not same & {"stem.w", "head.w"}
    capfd.readouterr()
    told = fails(train.main, [*arguments, "--model", f"{nets}:Net", "--set", "freeze=branchs"], capfd)
    assert "'branchs' matches no layer with weights of Net" in told


def test_one_batch_is_learnt_without_dropout(nets: Path, tmp_path: Path) -> None:
    arguments = ["--model", f"{nets}:Net", "--overfit-batch", "--device", "cpu", "--epochs", "2"]
    assert command_line.run(train.main, [*arguments, "--out", str(tmp_path / "run")]) in (0, 1)
    network = inference.Trained.load(tmp_path / "run", "cpu").network
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [0]


def test_options_are_arguments(nets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = f"{nets}:Net"
    made = recipe.change(recipe.Recipe(), {"model": name, "options": {"width": 3, "input": [8, 12, 3]}}, "test")
    plain = recipe.change(recipe.of(models.get(name)), {"model": "alexnet-mini"}, "test")
    assert (plain.code, plain.described()) == ({}, models.get("alexnet-mini"))
    assert (made.model, made.described().input, made.described().rows()[0].output) == ("Net", (8, 12, 3), (4, 6, 3))
    for setting, message in (
        ("model.widht=3", "unknown option model.widht: expected input, width; did you mean width?"),
        ("model.input=8", "Net: input: expected height, width and channels as whole numbers above 0, got 8"),
        ("model.input=[8, 8, 4]", "all data sets are of images in 3 channels, the model takes 4"),
        ("model.width=wide", "nets.py"),
    ):
        assert message in fails(train.main, ["--model", name, "--set", setting], capfd)


def test_code_that_is_not_what_it_says_is_refused(nets: Path) -> None:
    code = models.from_file(f"{nets}:Net").code
    with pytest.raises(OwnError, match="expected the text with digest"):
        models.described("Net", {}, {}, {**code, "text": code["text"] + "#"})
    with pytest.raises(OwnError, match="code: expected file, name, text, digest as strings, got file"):
        models.described("Net", {}, {}, {"file": code["file"]})


def test_registered_models_are_known_by_name() -> None:
    def net(classes: int, input: tuple[int, int, int] = (8, 8, 3), width: int = 5) -> nn.Module:
        return nn.Sequential(flat=nn.Flatten(), a=nn.Linear(int(np.prod(input)), width), b=nn.Linear(width, classes))

    model = models.register("mine", net, input=(4, 4, 3), source="a test")
    assert isinstance(model, Own)
    assert models.get("mine") is model
    assert "mine" in models.names()
    assert (model.input, model.classes, model.source) == ((4, 4, 3), 10, "a test")
    assert models.create("mine", 3, "cpu")(Tensor(reference.random(2, 4, 4, 3))).shape == (2, 3)
    made = recipe.change(recipe.of(model), recipe.settings(["model.width=2", "layers.a.lr=0"]), "test")
    assert [row.output for row in made.described().rows()] == [(48,), (2,), (10,)]
    assert models.register("mine", net).input == (8, 8, 3)
    with pytest.raises(ValueError, match="register: 'alexnet' is a model of the package"):
        models.register("alexnet", net)
    with pytest.raises(ValueError, match=r"register: name: expected letters.*got 'a b'"):
        models.register("a b", net)


def test_watching_leaves_a_network_as_it_was() -> None:
    network = nn.Sequential(a=nn.LocalResponseNorm(), b=nn.MaxPool2d(3, 2), c=nn.ReLU())
    x, seen = Tensor(reference.random(1, 7, 7, 8)), list[str]()
    with no_grad():
        expected = network(x).numpy()
        with nn.watching(network, lambda name, module, xs, y: seen.append(name)):
            assert np.array_equal(network(x).numpy(), expected)
            network["c"](x)
    assert seen == ["a", "b", "c", "c#2"]
    assert not any(module.has_hooks for module in network.modules())


BRANCHING = '''

class Classified(nn.Module):
    """A classifier behind what makes images of images."""

    def __init__(self, body, channels, classes, gray=False):
        super().__init__()
        self.body, self.gray, self.pool, self.output = body, gray, nn.MaxPool2d(4, 4), nn.Linear(channels * 16, classes)

    def forward(self, x):
        return self.output(ops.flatten(self.pool(self.body(x[..., :1] if self.gray else x))))


def resnet(classes, input=(16, 16, 3)):
    return Classified(nn.Sequential(Residual(3, 4), Residual(4, 4)), 4, classes)


def inception(classes, input=(16, 16, 3)):
    return Classified(Inception(3, 2), 8, classes)


def u_net(classes, input=(16, 16, 3)):
    return Classified(UNet(2), 1, classes, gray=True)
'''


def check_onnx(run: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What ``convert`` makes of a run gives its answers in onnxruntime; without the package it says so."""
    capfd.readouterr()
    if find_spec("onnx") is None and os.environ.get("ALEXNET_ORACLES") != "1":
        told = fails(convert.main, [run, f"{run}.onnx"], capfd, code=1)
        assert "writing ONNX needs the package onnx" in told
        return
    assert command_line.run(convert.main, [run, f"{run}.onnx", "--with-preprocessing"]) == 0
    trained = inference.Trained.load(run, "cpu")
    stored = np.random.default_rng(0).integers(0, 256, (3, *trained.mean.shape), np.uint8)
    ((top, left, _),), (H, W, _) = trained.centre, trained.model.input
    session = import_module("onnxruntime").InferenceSession(f"{run}.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"pixels": stored[:, top : top + H, left : left + W]})
    np.testing.assert_allclose(answer, trained.probabilities(stored), rtol=0, atol=1e-5)


def test_blocks_of_all_kinds_go_through_all_commands(
    tiny_images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "branching.py"
    example = (Path(__file__).parents[1] / "examples" / "own_networks.py").read_text()
    file.write_text(example.partition("\ndef resnet")[0] + BRANCHING)
    image, runs = str(next(tiny_images.rglob("*.png"))), list[str]()
    for name, layer in (("resnet", "body.1.conv2"), ("inception", "body.branches.three.1"), ("u_net", "body.up.0")):
        runs.append(run := str(tmp_path / name))
        arguments = ["--model", f"{file}:{name}", "--data", f"folder:{tiny_images}", "--batch", "8", "--epochs", "1"]
        for command, given in (
            (summary.main, ["--model", f"{file}:{name}", "--memory"]),
            (train.main, [*arguments, "--device", "cpu", "--set", f"layers.{layer}.lr=0.5", "--out", run]),
            (train.main, ["--resume", run, "--epochs", "2"]),
            (evaluate.main, [run]),
            (predict.main, [run, image]),
            (features.main, [run, image, "--layer", layer, "-o", f"{run}.npy"]),
            (report.main, [run, "--images", "20"]),
        ):
            assert command_line.run(command, given) == 0, (name, command)
        check_onnx(run, capfd)
        assert "does not divide into two towers" in fails(train.main, [*arguments, "--device", "cpu:0,cpu:1"], capfd)
        shared = [*arguments, "--device", "cpu", "--parallel", "data", "--out", f"{run}-shared"]
        assert mpirun(2, ["-m", "alexnet_cuda.train", *shared]).returncode == 0, name
        assert command_line.run(evaluate.main, [f"{run}-shared"]) == 0
        model = inference.Trained.load(run, "cpu").model
        (shape,) = [row.output for row in model.rows() if row.layer.name == layer]
        assert np.load(f"{run}.npy").shape == (1, *shape)
        assert all(inputs for _, inputs in model.connected())
    assert command_line.run(compare.main, [*runs, "--out", str(tmp_path / "compare.html")]) == 0


def test_tied_weights_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)
            self.second.w = self.first.w
            self.head = nn.Linear(12, classes)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(ops.flatten(x))))

    rows = models.register("tied", Tied, input=(2, 2, 3), classes=3).rows()
    assert [(row.layer.name, row.weights, row.biases) for row in rows] == [
        ("first", 144, 12),
        ("second", 0, 12),
        ("head", 36, 3),
    ]


def test_code_that_a_run_brings_runs_only_if_it_has_run_from_a_file(
    tmp_path: Path, tiny_images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, ran = tmp_path / "net.py", tmp_path / "ran"
    file.write_text(f"open({str(ran)!r}, 'a').write('.')\n{NETS}")
    arguments = ["--model", f"{file}:Net", "--data", f"folder:{tiny_images}", "--batch", "8", *CONSTANT]
    assert command_line.run(train.main, [*arguments, "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    code, look = models.from_file(f"{file}:Net").code, [str(tmp_path / "run"), "--device", "cpu"]

    def elsewhere(name: str) -> None:
        """As if on another machine."""
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / name))
        monkeypatch.setattr(own, "_known", set())
        ran.unlink(missing_ok=True)

    elsewhere("first")
    capsys.readouterr()
    for main, more in ((evaluate.main, []), (report.main, [])):
        assert command_line.run(main, [*look, *more]) != 0
        error = capsys.readouterr().err
        assert f"digest {code['digest']}, is Python code that you have not run yet" in error and error.count("\n") == 1
    assert command_line.run(train.main, ["--resume", str(tmp_path / "run"), "--epochs", "2"]) != 0
    assert command_line.run(train.main, ["--recipe", str(tmp_path / "run" / "config.toml")]) != 0
    assert not ran.exists()

    monkeypatch.setenv("ALEXNET_ALLOW_CODE", code["digest"])
    assert command_line.run(evaluate.main, look) == 0
    monkeypatch.delenv("ALEXNET_ALLOW_CODE")
    elsewhere("second")
    assert command_line.run(summary.main, ["--model", f"{tmp_path / 'run' / 'model.py'}:Net"]) == 0
    monkeypatch.setattr(own, "_known", set())  # another process
    assert command_line.run(evaluate.main, look) == 0
