"""Converted weights against PyTorch and onnxruntime: both run what ``convert`` wrote, or wrote what it read."""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from foreign_files import caffemodel, small, write
from numpy.testing import assert_allclose
from safetensors.numpy import load_file
from test_deploy import NETS, drawn, network_file, text
from test_weights import arrays, caffe_forward, close, cropped

from alexnet_cuda import Tensor, backend, checkpoint, command_line, convert, models
from alexnet_cuda.checkpoint import Checkpoint
from alexnet_cuda.inference import Trained
from alexnet_cuda.models.layers import Lrn, SpatialLrn
from alexnet_cuda.quantise import quantised
from alexnet_cuda.weights import onnx_graph, torch_state
from alexnet_cuda.weights.layout import names_in

pytestmark = pytest.mark.oracle

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def torch(import_oracle: Callable[[str], ModuleType]) -> Any:
    return import_oracle("torch")


@pytest.fixture(scope="module")
def onnx(import_oracle: Callable[[str], ModuleType]) -> Any:
    return import_oracle("onnx")


@pytest.fixture(scope="module")
def runtime(import_oracle: Callable[[str], ModuleType]) -> Any:
    return import_oracle("onnxruntime")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def from_caffe(net: str, dst: str) -> tuple[np.ndarray, np.ndarray]:
    """Writes a network of Caffe's files, with branches or not, at once as ``dst``. Returns pixels, and our logits."""
    write(Path("a.caffemodel"), network_file(NETS[net], drawn(NETS[net], 13)))
    Path("net.prototxt").write_text(text(NETS[net], 13))
    for path in (dst, "a.safetensors"):
        call("a.caffemodel", path, "--model", "net.prototxt", "--scale", 0.02)
    stored = np.random.default_rng(1).integers(0, 256, (3, 15, 15, 3), np.uint8)
    return stored[:, 1:14, 1:14], logits(Trained.load("a.safetensors", backend.device("cpu")), stored)


def call(*arguments: object) -> None:
    assert command_line.run(convert.main, list(map(str, arguments))) == 0


def torchvision(torch: Any, channels: tuple[int, ...] = (64, 192, 384, 256, 256), features: int = 4096) -> Any:
    """torchvision's alexnet, by its list of layers."""
    nn = torch.nn
    c1, c2, c3, c4, c5 = channels

    class AlexNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(3, c1, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
                nn.Conv2d(c1, c2, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
                nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU(),
                nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU(),
                nn.Conv2d(c4, c5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
            )  # fmt: skip
            self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
            self.classifier = nn.Sequential(
                nn.Dropout(), nn.Linear(c5 * 36, features), nn.ReLU(),
                nn.Dropout(), nn.Linear(features, features), nn.ReLU(),
                nn.Linear(features, 1000),
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

    torch.manual_seed(0)
    return AlexNet().eval()


def images(count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 256, 256, 3), np.uint8)


def test_torchvisions_alexnet_both_ways(torch: Any) -> None:
    """At full size: the state as torch.save writes it, to ours, and back into the module."""
    net, x = torchvision(torch), images()
    torch.save(net.state_dict(), "a.pth")
    call("a.pth", "b.safetensors")
    seen = ((cropped(x, 224) / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = net(torch.tensor(seen, dtype=torch.float32)).numpy()
    trained = Trained.load(Path("b.safetensors"), backend.device("cpu"))
    close(trained.activations(x, ["fc8"])["fc8"], expected)
    network = models.create("alexnet-owt", device="cpu")
    network.load_state(checkpoint.load(Path("b.safetensors")).weights)
    network.eval()
    close(network(Tensor(seen.transpose(0, 2, 3, 1).astype(np.float32).copy())).numpy(), expected)

    weights = models.get("alexnet-owt").build("cpu", seed=5).state()
    trained.network.load_state(weights)
    saved = checkpoint.load(Path("b.safetensors"))
    checkpoint.save(Path("ours.safetensors"), replace(saved, weights=weights))
    call("ours.safetensors", "back.safetensors")
    net.load_state_dict({name: torch.tensor(array) for name, array in load_file("back.safetensors").items()})
    with torch.no_grad():
        expected = net(torch.tensor(seen, dtype=torch.float32)).numpy()
    close(trained.activations(x, ["fc8"])["fc8"], expected)


@pytest.mark.parametrize("version", ["contiguous", "channels last", "shared storage", "old pickle", "parameters"])
def test_whatever_torch_save_makes_of_tensors(torch: Any, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("alexnet-owt")
    monkeypatch.setitem(models._by_name, "alexnet-owt", model)
    state = {n: torch.tensor(a) for n, a in arrays(model, torch_state.names(model)).items()}
    given = OrderedDict(state)
    protocol = 2
    if version == "channels last":
        given = {n: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t.mT.clone().mT if t.ndim == 2 else t
                 for n, t in state.items()}  # fmt: skip
    elif version == "shared storage":
        together, at = torch.cat([t.ravel() for t in state.values()]), 0
        for name, t in state.items():
            given[name] = together[at : at + t.numel()].view(t.shape)
            at += t.numel()
    elif version == "old pickle":
        protocol = 5
    elif version == "parameters":
        given = {n: torch.nn.Parameter(t) for n, t in state.items()}
    torch.save(given, "a.pth", pickle_protocol=protocol)
    call("a.pth", "b.safetensors")
    call("b.safetensors", "c.safetensors")
    back = load_file("c.safetensors")
    for name, t in state.items():
        np.testing.assert_array_equal(back[name], t.numpy())


@pytest.mark.parametrize("before_1_6", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("what", ["state", "float16", "bfloat16", "float64", "expanded", "imagenet example"])
def test_states_in_circulation(torch: Any, what: str, before_1_6: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models._by_name, "alexnet-owt", small("alexnet-owt"))
    net = torchvision(torch, (4, 12, 24, 16, 16), 20)
    net.classifier[1] = torch.nn.Linear(64, 20)  # for images of 99 pixels
    state = net.state_dict()
    value: Any = state
    if what in ("float16", "bfloat16", "float64"):
        value = state = {n: t.to(getattr(torch, what)) for n, t in state.items()}
    elif what == "expanded":
        state["features.0.bias"] = torch.tensor([0.25]).expand(4)
    elif what == "imagenet example":
        sgd = torch.optim.SGD(net.parameters(), 0.1, 0.9)
        net.classifier(torch.zeros(1, 64)).sum().backward()
        sgd.step()
        inner = {n.replace("features.", "features.module."): t for n, t in state.items()}
        value = {"epoch": 90, "arch": "alexnet", "state_dict": inner, "best_acc1": torch.tensor(56.5),
                 "optimizer": sgd.state_dict(), "args": argparse.Namespace(lr=0.1)}  # fmt: skip
    torch.save(value, "a.pth", _use_new_zipfile_serialization=not before_1_6)
    call("a.pth", "b.safetensors")
    call("b.safetensors", "c.safetensors")
    back = load_file("c.safetensors")
    for name, t in state.items():
        np.testing.assert_array_equal(back[name], t.float().numpy())


@pytest.mark.parametrize(("what", "before_1_6"), [("module", False), ("module", True), ("script", False)])
def test_modules_are_refused(torch: Any, what: str, before_1_6: bool, capsys: pytest.CaptureFixture[str]) -> None:
    net = torchvision(torch, (4, 12, 24, 16, 16), 20)
    if what == "script":
        torch.jit.save(torch.jit.script(net.features), "a.pth")
    else:
        torch.save(net.features, "a.pth", _use_new_zipfile_serialization=not before_1_6)
    assert command_line.run(convert.main, ["a.pth", "b.safetensors"]) == 2
    message = {"module": "whole module of class 'torch.nn.modules.container.Sequential'", "script": "TorchScript"}[what]
    assert message in capsys.readouterr().err
    assert not Path("b.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["caffe-alexnet", "caffenet"])
def test_caffes_networks_at_full_size(name: str) -> None:
    """Against the naive forward pass; the caffemodel as of 2014."""
    model, x = models.get(name), images(1)
    state = arrays(model, {n: n for n in names_in(model)})
    write(Path("a.caffemodel"), caffemodel(model, state, old=True))
    call("a.caffemodel", "b.safetensors")
    seen = (cropped(x, 227) - (122.67891434, 116.66876762, 104.00698793))[..., ::-1].transpose(0, 3, 1, 2)
    trained = Trained.load(Path("b.safetensors"), backend.device("cpu"))
    close(trained.activations(x, ["fc8"])["fc8"], caffe_forward(seen, state, name == "caffenet"))


# ---------------------------------------------------------------------------------------------- ONNX


def ours(name: str) -> Checkpoint:
    """A checkpoint of a model whose every array is random, with logits of the order of one."""
    rng, model = np.random.default_rng(3), models.get(name)
    weights = model.build("cpu", seed=1).state()
    for array, w in weights.items():
        w[...] = rng.standard_normal(w.shape, np.float32)
        if array.endswith(("variance", "gamma")):
            w[...] = 0.5 + abs(w)
        elif w.ndim > 1:
            w *= np.sqrt(2 / np.prod(w.shape[-1:] if w.ndim == 2 else w.shape[-3:]))
        else:
            w *= 0.1
    stored = (256, 256, 3) if model.input[0] > 200 else (40, 40, 3)
    config = {"model": name, "options": {}, "seed": 0, "scale": [0.02, 0.018, 0.019], "data": None}
    classes = list(map(str, range(model.classes)))
    return Checkpoint(
        weights, {}, rng.uniform(90, 130, stored).astype(np.float32), {"config": config, "classes": classes}
    )


def run(runtime: Any, path: str, x: np.ndarray) -> np.ndarray:
    (y,) = runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"pixels": x})
    return y


def small_if_large(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models for images of 224 pixels get a sixteenth of their channels."""
    if models.get(name).input[0] > 200:
        monkeypatch.setitem(models._by_name, name, small(name, 1000, models.get(name).input[0]))


@pytest.mark.parametrize("name", models.names())
def test_onnxruntime_agrees_on_every_model(onnx: Any, runtime: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small_if_large(name, monkeypatch)
    agree(runtime, name)
    onnx.checker.check_model("a.onnx", full_check=True)


@pytest.mark.parametrize("net", NETS)
def test_onnxruntime_agrees_on_caffes_files(runtime: Any, net: str) -> None:
    pixels, expected = from_caffe(net, "a.onnx")
    close_to_the_largest(run(runtime, "a.onnx", pixels.astype(np.float32)), expected)


@pytest.mark.slow
def test_onnxruntime_agrees_on_alexnet_at_full_size(runtime: Any) -> None:
    agree(runtime, "alexnet")


def export(name: str, *options: object) -> tuple[Trained, np.ndarray]:
    """Writes a.onnx; returns the network and two images as it stores them."""
    saved = ours(name)
    checkpoint.save(Path("a.safetensors"), saved)
    call("a.safetensors", "a.onnx", *options)
    stored = np.random.default_rng(1).integers(0, 256, (2, *saved.mean.shape), np.uint8)
    return Trained.of(saved, Path("a"), backend.device("cpu")), stored


def seen(trained: Trained, stored: np.ndarray) -> np.ndarray:
    top, left, _ = trained.centre[0]
    H, W, _ = trained.model.input
    return stored[:, top : top + H, left : left + W].astype(np.float32)


def logits(trained: Trained, stored: np.ndarray) -> np.ndarray:
    last = trained.model.layers[-1].name
    return trained.activations(stored, [last])[last]


def close_to_the_largest(actual: np.ndarray, expected: np.ndarray) -> None:
    assert_allclose(actual, expected, rtol=0, atol=1e-5 * abs(expected).max())
    assert abs(expected).max() > 1e-3


def agree(runtime: Any, name: str, *options: object) -> None:
    trained, stored = export(name, *options)
    close_to_the_largest(run(runtime, "a.onnx", seen(trained, stored)), logits(trained, stored))


@pytest.mark.parametrize("options", [{"activation": "tanh"}, {"activation": "sigmoid"}, {"lrn": False, "towers": 1}])
def test_ablations_too(runtime: Any, options: dict[str, Any]) -> None:
    saved = ours("alexnet-mini")
    model = models.get("alexnet-mini").changed(options)
    weights = model.build("cpu", seed=2).state()
    config = {**saved.description["config"], "options": options}
    saved = replace(saved, weights=weights, description={**saved.description, "config": config})
    checkpoint.save(Path("a.safetensors"), saved)
    call("a.safetensors", "a.onnx")
    trained, stored = Trained.of(saved, Path("a"), backend.device("cpu")), images()[:, :40, :40]
    expected = trained.activations(np.ascontiguousarray(stored), ["fc8"])["fc8"]
    actual = run(runtime, "a.onnx", stored[:, 4:36, 4:36].astype(np.float32))
    assert_allclose(actual, expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_from_pytorch_to_onnx_at_once(torch: Any, onnx: Any, runtime: Any) -> None:
    net, x = torchvision(torch), images()
    torch.save(net.state_dict(), "a.pth")
    call("a.pth", "a.onnx")
    pixels = cropped(x, 224)
    seen = ((pixels / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = net(torch.tensor(seen, dtype=torch.float32)).numpy()
    close(run(runtime, "a.onnx", pixels.astype(np.float32)), expected)
    notes = {entry.key: entry.value for entry in onnx.load("a.onnx").metadata_props}
    assert notes["classes"].splitlines()[:2] == ["000", "001"]


@pytest.mark.parametrize("kind", [Lrn, SpatialLrn])
def test_even_windows(runtime: Any, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX has none of ours: they are written in plain operators."""
    model = models.get("cifar-18pct" if kind is SpatialLrn else "cifar-11pct")
    layers = tuple(replace(layer, size=4, alpha=0.3) if isinstance(layer, kind) else layer for layer in model.layers)
    monkeypatch.setitem(models._by_name, model.name, replace(model, layers=layers))
    agree(runtime, model.name)


@pytest.mark.parametrize("name", models.names())
def test_plain_operators(onnx: Any, runtime: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``--for`` writes has none that consumers lack or get wrong, and gives the same."""
    small_if_large(name, monkeypatch)
    agree(runtime, name, "--for", "ncnn")
    operators = {node.op_type for node in onnx.load("a.onnx").graph.node}
    assert not operators & {"LRN", "AveragePool", "Split", "Concat"}


@pytest.mark.parametrize("opset", [onnx_graph.OPSETS[0], 18, onnx_graph.OPSETS[-1]])
@pytest.mark.parametrize("name", ["alexnet-mini", "cifar-80sec", "keras-2x2"])
def test_every_opset(onnx: Any, runtime: Any, name: str, opset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small_if_large(name, monkeypatch)
    agree(runtime, name, "--opset", opset)
    (asked,) = onnx.load("a.onnx").opset_import
    assert asked.version == opset


def test_a_fixed_batch(onnx: Any, runtime: Any) -> None:
    agree(runtime, "alexnet-mini", "--batch", 2)
    graph = onnx.load("a.onnx").graph
    dimensions = [value.type.tensor_type.shape.dim[0] for value in (*graph.input, *graph.output)]
    assert [dimension.dim_value for dimension in dimensions] == [2, 2]


def test_with_preprocessing(onnx: Any, runtime: Any) -> None:
    """From the bytes of a picture to probabilities, with names for them in the file."""
    trained, stored = export("alexnet-mini", "--with-preprocessing")
    pixels = stored[:, 4:36, 4:36]
    assert pixels.dtype == np.uint8
    actual = run(runtime, "a.onnx", pixels)
    assert_allclose(actual, trained.probabilities(stored), rtol=0, atol=1e-5)
    model = onnx.load("a.onnx")
    assert [value.name for value in model.graph.output] == ["probabilities"]
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert notes["classes"].split("\n") == list(trained.classes)


@pytest.mark.parametrize("name", ["alexnet-mini", "cifar-11pct"])
def test_weights_in_float16(onnx: Any, runtime: Any, name: str) -> None:
    """Half the bytes; the answers are those of the network with rounded weights."""
    export(name)
    whole = Path("a.onnx").stat().st_size
    trained, stored = export(name, "--float16")
    assert Path("a.onnx").stat().st_size < 0.55 * whole
    weights = {array: w.copy() for array, w in trained.network.state().items()}
    for array, w in weights.items():
        if array.endswith(".w"):
            w[...] = w.astype(np.float16)
    trained.network.load_state(weights)
    close_to_the_largest(run(runtime, "a.onnx", seen(trained, stored)), logits(trained, stored))


@pytest.mark.parametrize("options", [["--int8"], ["--int8", "--float16"]])
def test_matrices_in_int8(onnx: Any, runtime: Any, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Size and what was lost are told; the answers are those of the network with what is left."""
    trained, stored = export("alexnet-mini", *options)
    size, layers = Path("a.onnx").stat().st_size, dict[str, float]()
    weights = {array: w.copy() for array, w in trained.network.state().items()}
    held = trained.mean[4:36, 4:36].nbytes
    for array, w in weights.items():
        held += w.size if w.ndim == 2 else w.nbytes // 2 if array.endswith(".w") and len(options) == 2 else w.nbytes
        if w.ndim == 2:
            q, scale = quantised(w)
            layers[array.removesuffix(".w")] = np.linalg.norm(q * scale[:, None] - w) / np.linalg.norm(w)
            w[...] = q * scale[:, None]
        elif array.endswith(".w") and len(options) == 2:
            w[...] = w.astype(np.float16)
    most = max(layers, key=lambda name: layers[name])
    assert held < size < held + 15_000  # scales, names, nodes
    told = " ".join(capsys.readouterr().out.split())
    assert f"note: a.onnx has {size / 1e6:.3g} MB; int8 moves weights by {layers[most]:.2%} of their norm" in told
    assert f"at most ({most})" in told
    trained.network.load_state(weights)
    close_to_the_largest(run(runtime, "a.onnx", seen(trained, stored)), logits(trained, stored))


def test_weights_that_float16_lacks(onnx: Any, capsys: pytest.CaptureFixture[str]) -> None:
    saved = ours("alexnet-mini")
    saved.weights["fc7.w"][0, 0] = 1e5
    checkpoint.save(Path("a.safetensors"), saved)
    assert command_line.run(convert.main, ["a.safetensors", "a.onnx", "--float16"]) == 2
    assert "fc7: Linear: expected weights of at most 65504" in capsys.readouterr().err
    assert not Path("a.onnx").exists()


def test_metadata_of_pytorchs_layout_tell_the_input(torch: Any) -> None:
    from safetensors import safe_open

    checkpoint.save(Path("a.safetensors"), ours("alexnet-mini"))
    call("a.safetensors", "b.safetensors")
    with safe_open("b.safetensors", framework="numpy") as file:
        notes = file.metadata()
    assert notes["format"] == "pt" and notes["model"] == "alexnet-mini"
    assert json.loads(notes["scale"]) == [0.02, 0.018, 0.019]
