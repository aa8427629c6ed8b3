"""Models from cuda-convnet's layer and parameter files. The files here are the tests' own; those of the release are
read where ALEXNET_2012_CONFIGS names their zip."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import reference
from hypothesis import given, settings, strategies as st

from alexnet_cuda import (
    Tensor,
    backend,
    checkpoint,
    command_line,
    inference,
    models,
    nn,
    ops,
    optim,
    parallel,
    recipe,
    report,
    summary,
    train,
)
from alexnet_cuda.models import Convnet, Model, convnet
from alexnet_cuda.models.layers import Conv2d, Dropout, Linear, Lrn, WeightedSum
from alexnet_cuda.schedule import Schedule
from alexnet_cuda.tensor import no_grad

ROOT = Path(__file__).parents[1]
DATA = "[data]\ntype = data\ndataIdx = 0\n[labels]\ntype = data\ndataIdx = 1\n"
COST = "[probs]\ntype = softmax\ninputs = {0}\n[cost]\ntype = cost.logreg\ninputs = labels, probs\n"
LEARNS = "epsW = {0}\nepsB = 0.02\nmomW = {1}\nmomB = 0.9\nwc = {2}\n"


def section(name: str, **entries: object) -> str:
    return f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in entries.items())


def learns(name: str, inputs: int = 1, lr: float = 0.01, momentum: float = 0.9, decay: float = 0.0005) -> str:
    each = [",".join([str(number)] * inputs) for number in (lr, momentum, decay)]
    return section(name) + LEARNS.format(*each)


def make(layers: str, parameters: str = "", size: int = 12, output: str = "out") -> Convnet:
    """The model of layers on ``data`` whose last is a classifier over ``output``; some layers get parameters."""
    text = DATA + layers + section("fc", type="fc", inputs=output, outputs=4, initW=0.1) + COST.format("fc")
    for found in re.finditer(r"\[(\w+)\]\s*type=(conv|local|fc)\s*inputs=([^\n]*)", text):
        if f"[{found[1]}]" not in parameters:
            parameters += learns(found[1], found[3].count(",") + 1)
    return convnet.parse("test", text, parameters, size)


def images(n: int, size: int = 12) -> Tensor:
    return Tensor(reference.random(n, size, size, 3))


def outputs(model: Convnet, x: Tensor, seed: int = 0) -> tuple[nn.Graph, dict[str, np.ndarray]]:
    """The network in evaluation, and the outputs of its layers."""
    network = model.build("cpu", seed)
    network.eval()
    with no_grad():
        return network, {name: y.numpy() for name, _, y in network.steps(x)}


CONV = {"type": "conv", "inputs": "data", "channels": 3, "filterSize": 3, "initW": 0.1, "partialSum": 1}
LOCAL = {**CONV, "type": "local", "filters": 4}
del LOCAL["partialSum"]
POOL = {"type": "pool", "pool": "max", "inputs": "data", "channels": 3, "sizeX": 3, "stride": 2}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_as_editors_write_them(tmp_path: Path, encoding: str) -> None:
    layers, parameters = two_towers(*SMALL)
    for name, text in (("layers.cfg", layers), ("params.cfg", parameters)):
        (tmp_path / name).write_bytes(text.encode(encoding))
    made = models.from_convnet(tmp_path / "layers.cfg", tmp_path / "params.cfg", 67)
    assert made.files == {"layers": layers, "parameters": parameters, "size": 67}


# ---------------------------------------------------------------------------------------------- two towers


def two_towers(channels: Sequence[int], features: int, classes: int) -> tuple[str, str]:
    """A network with the structure of configuration 145, of these widths in each tower."""
    layers, parameters = DATA, ""

    def both(name: str, kind: str, inputs: str, tower: bool = False, **entries: object) -> None:
        nonlocal layers, parameters
        for t, letter in enumerate("ab"):
            names = inputs.replace("*", letter).split(",")
            each = {k: ",".join([str(v)] * len(names)) if k in EACH_INPUT else v for k, v in entries.items()}
            where = {"gpu": t} if tower else {}
            layers += section(name + letter, type=kind, inputs=",".join(names), **each, **where)
            if kind in ("conv", "fc"):
                parameters += learns(name + letter, len(names))
            elif kind in ("cmrnorm", "rnorm"):
                scale = {"scale": 0.0001, "minDiv": 2} if kind == "cmrnorm" else {"scale": 0.001}
                parameters += section(name + letter, pow=0.75, **scale)

    def conv(i: int, inputs: str, seen: int, size: int, tower: bool = False, **entries: object) -> None:
        shape = {"filters": channels[i - 1], "channels": seen, "filterSize": size, "partialSum": 1}
        both(f"conv{i}", "conv", inputs, tower, **shape, **entries)

    def pool(i: int, inputs: str, seen: int, **entries: object) -> None:
        both(f"pool{i}", "pool", inputs, pool="max", sizeX=3, stride=2, channels=seen, **entries)

    c1, c2, c3, c4, c5 = channels
    conv(1, "data", 3, 11, True, stride=4, initW=0.01)
    both("across1", "cmrnorm", "conv1*", channels=c1, size=5)
    pool(1, "across1*", c1, neuron="relu")
    conv(2, "pool1*", c1, 5, padding=2, initW=0.01, initB=1, neuron="relu")
    both("across2", "cmrnorm", "conv2*", channels=c2, size=5)
    both("within2", "rnorm", "across2*", channels=c2, size=5)
    pool(2, "within2*", c2)
    conv(3, "pool2a,pool2b", c2, 3, True, padding=1, initW=0.03, neuron="relu")
    conv(4, "conv3*", c3, 3, padding=1, initW=0.03, initB=1, neuron="relu")
    conv(5, "conv4*", c4, 3, padding=1, initW=0.03, initB=1)
    pool(5, "conv5*", c5, neuron="relu")
    fully = {"outputs": features, "initW": 0.01, "initB": 1, "neuron": "relu"}
    both("six", "fc", "pool5a,pool5b", True, **fully)
    both("drop6", "hs", "six*", keep=0.5)
    both("seven", "fc", "drop6a,drop6b", True, **fully)
    both("drop7", "hs", "seven*", keep=0.5)
    layers += section("eight", type="fc", inputs="drop7b,drop7a", outputs=classes, initW="0.01,0.01", gpu=1)
    parameters += learns("eight", 2) + section("cost", coeff=1, topk=5)
    return layers + COST.format("eight"), parameters


EACH_INPUT = ("channels", "filters", "filterSize", "padding", "stride", "initW")


def twins(fc6: str, fc7: str, fc8: str) -> dict[str, str]:
    """By the names of layers with weights in two towers, those in alexnet-2012."""
    towers = {**{f"conv{i}": f"conv{i}" for i in range(1, 6)}, fc6: "fc6", fc7: "fc7"}
    return {fc8: "fc8", **{name + letter: twin for name, twin in towers.items() for letter in "ab"}}


def grouped(channels: Sequence[int], features: int, classes: int, size: int) -> Model:
    """alexnet-2012 of other widths: ``channels`` and ``features`` are those of a tower."""
    widths = {**{f"conv{i}": 2 * c for i, c in enumerate(channels, 1)}, "fc6": 2 * features, "fc7": 2 * features}
    layers = []
    for layer in models.get("alexnet-2012").layers:
        if isinstance(layer, Conv2d):
            layer = replace(layer, channels=widths[layer.name])
        elif isinstance(layer, Linear):
            layer = replace(layer, features=widths.get(layer.name, classes))
        layers.append(layer)
    return Model("grouped", "", (size, size, 3), tuple(layers))


def in_towers(state: Mapping[str, np.ndarray], model: Convnet, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The weights of alexnet-2012 in the arrays of a network of two towers; ``names`` as of ``twins``."""
    arrays: dict[str, np.ndarray] = {}
    inputs = {node.row.layer.name: node for node in model.nodes}
    for key, node in inputs.items():
        name = key.partition("[")[0]
        if not node.row.parameters:
            continue
        whole, tower = names[name], "ab".find(name[-1])
        head = whole == "fc8"
        w, b = state[f"{whole}.w"], state[f"{whole}.b"]
        if node.row.biases:
            arrays[f"{key}.b"] = b if head else np.split(b, 2)[tower]
        if node.row.filter is None:
            continue
        w = w if head else np.split(w, 2)[tower]
        if "[" in key:
            before = node.inputs[0].replace("_flat", "").replace("_neuron", "")
            halves = w.reshape(len(w), -1, 2, inputs[before].row.output[-1])
            w = halves[:, :, "ab".find(before[-1])]
        arrays[f"{key}.w"] = np.ascontiguousarray(w).reshape(node.row.filter)
    return arrays


def check_equal(model: Convnet, whole: Model, names: Mapping[str, str], batch: int) -> None:
    """Same counts, same distribution at first, same logits from the same weights, wherever the towers are."""
    assert model.parameters == whole.parameters
    assert sum(row.macs for row in model.rows()) == sum(row.macs for row in whole.rows())
    assert sum(row.neurons for row in model.rows()) == sum(row.neurons for row in whole.rows())
    layers = {layer.name: layer for layer in whole.layers}
    for layer in model.layers:
        name = layer.name.partition("[")[0]
        if not isinstance(layer, (Conv2d, Linear, WeightedSum)):
            continue
        twin = layers[names[name]]
        for initialiser in {"weight", "bias"} & vars(layer).keys():
            if getattr(layer, initialiser):
                ours, theirs = (getattr(x, initialiser)((50,), np.random.default_rng(0)) for x in (layer, twin))
                np.testing.assert_array_equal(ours, theirs)
        assert layer.activation == twin.activation or "[" in layer.name
    network = whole.build("cpu", 1)
    network.eval()
    x, arrays = images(batch, whole.input[0]), in_towers(network.state(), model, names)
    with no_grad():
        expected = network(x).numpy()
    logits = []
    for devices in ("cpu", "cpu:0,cpu:1"):
        towers = model.build(devices)
        towers.load_state(arrays)
        towers.eval()
        with no_grad():
            logits.append(towers(*(x.to(d) for d in backend.devices(devices))).numpy())
        del towers
    np.testing.assert_array_equal(*logits)
    np.testing.assert_allclose(logits[0], expected, rtol=2e-4, atol=2e-4 * abs(expected).max())


SMALL = (8, 16, 24, 24, 16), 12, 5


def test_two_towers_equal_the_grouped_network() -> None:
    model = convnet.parse("small", *two_towers(*SMALL), 67)
    check_equal(model, grouped(*SMALL, 67), twins("six", "seven", "eight"), 3)


def test_graphs_are_not_shared_out_to_processes() -> None:
    model = convnet.parse("small", *two_towers(*SMALL), 67)
    with pytest.raises(ValueError, match="model small is a graph, which hybrid parallelism cannot share out"):
        parallel.check_hybrid(model, 2)


def step(network: nn.Graph, sgd: optim.SGD, x: Tensor, labels: np.ndarray) -> float:
    sgd.zero_grad()
    devices = dict.fromkeys(p.device for p in network.parameters())
    loss = network.loss(network(*(x.to(d) for d in devices)), Tensor(labels))
    loss.backward()
    for name, p in network.named_parameters():
        assert p.grad is not None and np.isfinite(p.grad).all() and p.grad.any(), name
    sgd.step()
    return loss.item()


def test_two_towers_train_alike_on_one_device_and_on_two() -> None:
    model, losses, states = convnet.parse("small", *two_towers(*SMALL), 67), [], []
    for devices in ("cpu", "cpu:0,cpu:1"):
        network = model.build(devices, seed=1)
        sgd = optim.SGD(network.parameters(), lr=0.01)
        losses.append([step(network, sgd, images(4, 67), np.array([0, 3, 1, 4], np.int32)) for _ in range(3)])
        states.append(network.state())
    assert losses[0] == losses[1] and losses[0][2] < losses[0][0]
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])


def test_gpu_is_a_tower_modulo_the_devices() -> None:
    layers = "".join(section(f"c{k}", **CONV, filters=4, gpu=k) for k in range(4))
    layers += section("out", type="concat", inputs="c3,c1,c0,c2")
    network = make(layers).build("cpu:0,cpu:1")
    where = {name: str(p.device) for name, p in network.named_parameters()}
    assert [where[f"c{k}.w"] for k in range(4)] == ["cpu", "cpu:1", "cpu", "cpu:1"]
    assert where["fc.w"] == "cpu:1"  # without gpu a layer is where its first input is
    x = images(2)
    assert network(x).device == x.device
    np.testing.assert_array_equal(network(x).numpy(), make(layers).build("cpu")(x).numpy())


# ---------------------------------------------------------------------------------------------- layers


def test_convolution_of_several_inputs() -> None:
    """Each has its own window, stride, padding and groups; the sum has the bias and the neuron."""
    layers = section("big", **CONV, filters=8, padding=1) + section("small", **{**POOL, "sizeX": 2, "stride": 2})
    layers += section(
        "out", type="conv", inputs="big,small", filters="3,6", groups="2,1", channels="8,3", filterSize="5,3",
        padding="1,1", stride="2,1", initW="0.1,0.2", initB=0.5, neuron="relu", partialSum=1,
    )  # fmt: skip
    model = make(layers)
    network, values = outputs(model, images(2))
    w0, w1 = (network.state()[f"out[{i}].w"].astype(np.float64) for i in range(2))
    assert w0.shape == (6, 5, 5, 4) and w1.shape == (6, 3, 3, 3)
    big, small = (values[name].astype(np.float64) for name in ("big", "small"))
    pads = (1, 1), (1, 1)
    y = reference.conv2d(big, w0, np.zeros(6), (2, 2), pads, 2, True)
    y = y + reference.conv2d(small, w1, np.full(6, 0.5), (1, 1), pads, 1, True)
    np.testing.assert_allclose(values["out"], np.maximum(y, 0), rtol=1e-4, atol=1e-5)
    assert {name for name, _ in network.named_parameters()} >= {"out[0].w", "out[1].w", "out.b"}


def test_convolution_without_shared_biases() -> None:
    model = make(section("out", **CONV, filters=4, stride=2, initB=2, sharedBiases="false"))
    network, values = outputs(model, images(2))
    assert network.state()["out.b"].shape == (6, 6, 4) and model.rows()[1].biases == 144
    np.testing.assert_allclose(values["out"], values["out[0]"] + 2, rtol=1e-6)


def test_random_sparse_connections() -> None:
    """Two groups see 4 of 4 channels each, in an order that depends on the seed; as often as all together see them."""
    layers = section("four", **CONV, filters=4)
    layers += section(
        "out", **{**CONV, "inputs": "four", "channels": 4}, filters=4, groups=2, randSparse="true", filterChannels=4
    )
    network, values = outputs(make(layers), images(2))
    order = network["out_channels"].order
    assert order.shape == (2, 4) and all(sorted(row) == [0, 1, 2, 3] for row in order)
    np.testing.assert_array_equal(values["out_channels"], values["four"][..., order.ravel()])
    assert network.state()["out.w"].shape == (8, 3, 3, 4)
    assert outputs(make(layers), images(2), seed=3)[0]["out_channels"].order.tolist() != order.tolist()


def test_local() -> None:
    layers = section("four", **CONV, filters=4, stride=2, padding=1)
    layers += section(
        "out",
        type="local",
        inputs="four",
        channels=4,
        filters=2,
        groups=2,
        filterSize=3,
        stride=2,
        initW=1,
        neuron="relu",
    )
    model = make(layers)
    network, values = outputs(model, images(2))
    state = {name: array.astype(np.float64) for name, array in network.state().items()}
    assert state["out.w"].shape == (3, 3, 4, 3, 3, 2) and state["out.b"].shape == (3, 3, 4)
    pads = ((0, 0), (0, 0))
    y = reference.local2d(values["four"].astype(np.float64), state["out.w"], state["out.b"], (2, 2), pads, 2, True)
    np.testing.assert_allclose(values["out"], np.maximum(y, 0), rtol=1e-4, atol=1e-5)
    assert model.rows()[1].parameters == 3 * 3 * 4 * 19


def test_fully_connected_with_images_and_vectors() -> None:
    layers = section("hidden", type="fc", inputs="data", outputs=6, initW=0.1, neuron="tanh[1.7, 0.5]")
    layers += section("out", type="fc", inputs="hidden,data", outputs=3, initW="0.1,0.2")
    model = make(layers)
    names = [row.layer.name for row in model.rows()]
    assert names == ["images_flat", "hidden", "hidden_neuron", "out[0]", "out[1]", "out", "fc"]
    assert model.parameters == 433 * 6 + (6 + 432 + 1) * 3 + 16
    _, values = outputs(model, images(2))
    np.testing.assert_allclose(values["hidden_neuron"], 1.7 * np.tanh(0.5 * values["hidden"]), rtol=1e-5)


DROPOUT = {"hs": (1.0, 0.25), "dropout2": (1.0, 0.25), "dropout": (4.0, 1.0)}
"""For keep = 0.25, by what training multiplies what it keeps, and by what evaluation, or enable = 0, multiplies all."""


@pytest.mark.parametrize("where", ["layers", "parameters"])
@pytest.mark.parametrize("mode", ["training", "evaluation", "not enabled"])
@pytest.mark.parametrize("kind", DROPOUT)
def test_dropout(kind: str, mode: str, where: str) -> None:
    """Loss and gradients of a network from files against float64."""
    keep = {"keep": 0.25}
    layers = section("four", type="fc", inputs="data", outputs=50, initB=1, initW=0.1)
    layers += section("out", type=kind, inputs="four", **keep if where == "layers" else {})
    learning = section("out", enable=int(mode != "not enabled"), **keep if where == "parameters" else {})
    network = make(layers, learning).build("cpu", 1)
    network.train(mode != "evaluation")
    state = {name: array.astype(np.float64) for name, array in network.state().items()}
    x, labels = images(8), np.arange(8, dtype=np.int32) % 4
    factor = np.full((8, 50), DROPOUT[kind][1])
    if mode == "training":
        drawn = network["out"].draw(x.shape, x.device)
        network["out"].step -= 1
        factor = DROPOUT[kind][0] * reference.dropout_mask(400, 0.75, drawn["seed"], drawn["step"], drawn["purpose"])
    inputs = x.numpy().reshape(8, -1).astype(np.float64)
    hidden = reference.linear(inputs, state["four.w"], state["four.b"])
    kept = hidden * factor.reshape(8, 50)
    logits = reference.linear(kept, state["fc.w"], state["fc.b"])
    dlogits = reference.softmax_cross_entropy_backward(reference.softmax(logits), labels)
    dkept, dw, db = reference.linear_backward(dlogits, kept, state["fc.w"])
    _, dw4, db4 = reference.linear_backward(dkept * factor.reshape(8, 50), inputs, state["four.w"])
    loss = network.loss(network(x), Tensor(labels))
    loss.backward()
    assert loss.item() == pytest.approx(reference.cross_entropy(logits, labels).mean(), rel=1e-5)
    for name, expected in {"four.w": dw4, "four.b": db4, "fc.w": dw, "fc.b": db}.items():
        got = dict(network.named_parameters())[name].grad
        # sums of up to 432 rounded products, of which the logits' error goes through softmax
        np.testing.assert_allclose(got, expected, rtol=0, atol=432 * 2**-24 * abs(expected).max(), err_msg=name)


def test_dropout_is_cuda_convnet2_without_keep() -> None:
    layers = section("four", type="fc", inputs="data", outputs=5) + section("out", type="{0}", inputs="four")
    for kind, form in (("dropout", "inverted"), ("dropout2", "paper")):
        assert make(layers.format(kind)).layers[2] == Dropout("out", 0.5, form)
    with pytest.raises(ValueError, match=r"\[out\] keep is missing"):
        make(layers.format("hs"))


NORMS = {
    "cmrnorm": lambda x: reference.lrn(x, 5, 2.0, 0.5 / 5, 0.75),
    "rnorm": lambda x: reference.spatial_lrn(x, 5, 1.0, 0.5 / 25, 0.75),
    "cnorm": lambda x: reference.contrast_norm(x, 5, 1.0, 0.5 / 25, 0.75),
}


@pytest.mark.parametrize("kind", NORMS)
def test_normalisation(kind: str) -> None:
    """Scales are divided by the window's size or area; size and scale may be where the release of 2011 had them."""
    layers = section("eight", **CONV, filters=8)
    entries = {"type": kind, "inputs": "eight", "channels": 8}
    parameters = section("out", scale=0.5, pow=0.75, minDiv=2)
    _, values = outputs(make(layers + section("out", **entries, size=5), parameters), images(2))
    np.testing.assert_allclose(values["out"], NORMS[kind](values["eight"].astype(np.float64)), rtol=1e-4, atol=1e-6)
    older = make(layers + section("out", **entries, sizeX=5, scale=0.5, pow=0.75, minDiv=2))
    np.testing.assert_array_equal(outputs(older, images(2))[1]["out"], values["out"])


def test_blocked_normalisation() -> None:
    layers = section("eight", **CONV, filters=8)
    layers += section("out", type="cmrnorm", inputs="eight", channels=8, size=4, blocked="true")
    model = make(layers, section("out", scale=2, pow=0.75))
    _, values = outputs(model, images(2))
    x = values["eight"].astype(np.float64)
    s = 1 + 0.5 * np.repeat((x.reshape(*x.shape[:3], 2, 4) ** 2).sum(axis=4), 4, axis=3)
    np.testing.assert_allclose(values["out"], x * s**-0.75, rtol=1e-5)
    assert model.layers[1] == Lrn("out", 7, 1.0, 0.5, 0.75, 2)


def test_blur_and_nailbed() -> None:
    layers = section("soft", type="blur", inputs="data", channels=3, filterSize=5, stdev=2)
    layers += section("out", type="nailbed", inputs="soft", channels=3, stride=5)
    _, values = outputs(make(layers), images(2))
    soft = reference.blur(reference.random(2, 12, 12, 3).astype(np.float64), 5, 2)
    np.testing.assert_allclose(values["out"], soft[:, 1::5, 1::5], rtol=1e-4, atol=1e-5)
    assert values["out"].shape == (2, 3, 3, 3)


def test_sums_and_joints() -> None:
    layers = section("a", **CONV, filters=4) + section("b", **CONV, filters=4)
    layers += section("sum", type="eltsum", inputs="a,b,a", coeffs="1,-2,0.5")
    layers += section("wide", type="concat", inputs="sum,a") + section("smaller", **POOL)
    layers += section("out", type="concat", inputs="wide,smaller")
    _, values = outputs(make(layers), images(2))
    np.testing.assert_allclose(values["sum"], 1.5 * values["a"] - 2 * values["b"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(values["wide"], np.concatenate([values["sum"], values["a"]], axis=3))
    np.testing.assert_array_equal(values["out"], np.hstack([values[n].reshape(2, -1) for n in ("wide", "smaller")]))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("kind", ["conv", "local", "pool", "blur"])
def test_images_of_any_number_of_channels(kind: str, channels: int) -> None:
    """As many as the first layer on them says."""
    entries = {"conv": CONV | {"filters": 4}, "local": LOCAL, "pool": POOL}
    entries["blur"] = {"type": "blur", "inputs": "data", "filterSize": 3, "stdev": 1}
    layers = section("flat", type="fc", inputs="data", outputs=3)
    layers += section("image", **entries[kind] | {"channels": channels})
    layers += section("out", type="concat", inputs="flat,image")
    model = make(layers)
    assert model.input == (12, 12, channels)
    network = model.build("cpu")
    x = Tensor(reference.random(2, 12, 12, channels))
    step(network, optim.SGD(network.parameters(), lr=1e-3), x, np.array([0, 3], np.int32))
    assert network.state()["flat.w"].shape == (3, 144 * channels)


def test_data_sets_are_in_colour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = digits(tmp_path)
    path = tmp_path / "tiny.cfg"
    path.write_text(path.read_text().replace("channels=3", "channels=1"))
    assert command_line.run(summary.main, files[:6]) == 0
    assert "input 16x16x1" in capsys.readouterr().out
    for options in ([], ["--print-config"]):
        assert command_line.run(train.main, [*files, *options, "--out", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert "model tiny: all data sets are of images in 3 channels, the model takes 1" in error
        assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_random_pooling_is_read_where_it_is_max() -> None:
    layers = section("out", **{**POOL, "pool": "rand"})
    assert make(layers, section("out", doMax="true")).layers[0] == make(layers.replace("rand", "max")).layers[0]
    for parameters in ("", section("out", doMax=0)):
        with pytest.raises(ValueError, match=r"\[out\] pool: rand is not supported unless .* doMax=true"):
            make(layers, parameters)


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling_rounds_up(kind: str) -> None:
    model = make(section("out", **{**POOL, "pool": kind, "start": 0, "outputsX": 6}))
    assert model.rows()[0].output == (6, 6, 3)


@pytest.mark.parametrize(
    "neuron",
    [
        "ident", "logistic", "abs", "relu", "nrelu", "softrelu", "square", "sqrt",
        "tanh[1.7,0.6]", "abstanh[1,2]", "linear[2, -1]", "brelu[3.]", "drelu[1e-1]",
    ],
)  # fmt: skip
def test_every_neuron_trains(neuron: str) -> None:
    layers = section("four", **CONV, filters=4, initB=3) + section("out", type="neuron", inputs="four", neuron=neuron)
    shortcut = section("out", **CONV, filters=4, initB=3, neuron=neuron)
    networks = [make(text).build("cpu", 1) for text in (layers, shortcut)]
    x = images(3)
    if neuron != "nrelu":
        named = [{name: y.numpy() for name, _, y in network.steps(x)} for network in networks]
        value = named[0].get("out", named[0]["four"])
        np.testing.assert_array_equal(value, named[1].get("out_neuron", named[1]["out"]))
    for network in networks:
        step(network, optim.SGD(network.parameters(), lr=1e-4), x, np.array([0, 1, 2], np.int32))


@pytest.mark.parametrize(("cost", "loss"), [("logistic", ops.logistic_cross_entropy), ("squares", ops.squared_error)])
def test_other_costs(cost: str, loss: object) -> None:
    text = DATA + section("fc", type="fc", inputs="data", outputs=4, initW=0.01, neuron="logistic")
    if cost == "logistic":
        text += section("cost", type="cost.crossent2", inputs="labels,fc")
    else:
        text += section("diff", type="eltsum", inputs="labels,fc", coeffs="1,-1")
        text += section("cost", type="cost.sum2", inputs="diff")
    model = convnet.parse("test", text, learns("fc") + section("cost", coeff=1), 12)
    assert model.classes == 4 and model.cost == cost
    assert model.layers[-1].name == ("fc" if cost == "logistic" else "fc_neuron")
    network, x, labels = model.build("cpu"), images(3), np.array([0, 1, 3], np.int32)
    assert network.loss(network(x), Tensor(labels)).item() == loss(network(x), Tensor(labels)).item()
    sgd = optim.SGD(network.parameters(), lr=0.01)
    losses = [step(network, sgd, x, labels) for _ in range(5)]
    assert losses[-1] < losses[0]


# ---------------------------------------------------------------------------------------------- rates


def rates_of(made: recipe.Recipe, network: nn.Module, epoch: int = 0) -> dict[str, tuple[float, float, float]]:
    """Rate, momentum and decay of every parameter, as the optimizer has them."""
    Schedule(made, network).apply(epoch, 0, 0)
    return {
        name: (made.lr * p.lr_scale, made.momentum * p.momentum_scale, made.decay * p.decay_scale)
        for name, p in network.named_parameters()
    }


def test_rates_are_those_of_the_parameter_file() -> None:
    text = DATA + section("a", **CONV, filters=4) + section("b", type="fc", inputs="a,data", outputs=3, initW="1,1")
    parameters = section("a", epsW=0, epsB=0.4, momW=0.9, momB=0.5, wc=0.1)
    parameters += section("b", epsW="0.001,0.2", epsB=0, momW="0.5,0.8", momB=0, wc="0,0.02")
    model = convnet.parse("test", text + COST.format("b"), parameters, 12)
    found = rates_of(recipe.of_convnet(model), model.build("cpu"))
    expected = {
        "a.w": (0, 0.9, 0.1), "a.b": (0.4, 0.5, 0), "b[0].w": (0.001, 0.5, 0), "b[1].w": (0.2, 0.8, 0.02),
        "b.b": (0, 0, 0),
    }  # fmt: skip
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        assert found[name] == pytest.approx(numbers, rel=1e-12), name


@pytest.mark.parametrize(
    ("text", "rates", "scheduled"),
    [
        ("0.1,0.2", (0.1, 0.2), False),
        ("dexp[base=0.02;tgtFactor=250;numSteps=4]", (0.02, 0.02), True),
        ("Linear[ base = 1e-3;tgtFactor=10], exp[base=0.5;tgtFactor=2]", (1e-3, 0.5), True),
        ("const[base=0.3],0.4", (0.3, 0.4), False),
    ],
)
def test_schedules_of_cuda_convnet2_begin(text: str, rates: tuple[float, float], scheduled: bool) -> None:
    layers = section("four", type="fc", inputs="data", outputs=4)
    layers += section("out", type="fc", inputs="four,data", outputs=4, initW="1,1")
    model = make(layers, learns("out", 2).replace("epsW = 0.01,0.01", f"epsW = {text}"))
    assert tuple(model.rates[f"out[{i}]"].lr for i in range(2)) == rates
    assert ("not applied: schedule of epsW" in model.source) == scheduled


NOT_APPLIED = {
    **{key: ("out", {key: 0.5}) for key in ("wball", "wcNormMin", "wcNormMax", "wcnorm", "superEps", "superMom")},
    **{key: ("out", {key: "linear[10]"}) for key in ("sched", "schedW", "schedB")},
    **{key: ("out", {key: "half"}) for key in ("quantF", "quantB")},
    "updatePeriod": ("out", {"updatePeriod": 2}),
    **{f"minDiv of {kind}": (kind, {"minDiv": 2, "scale": 0.1, "pow": 0.75}) for kind in ("rnorm", "cnorm")},
    "[nobody]": ("nobody", {"epsW": 1}),
}
"""What is listed, and the section and its entries that it is listed for."""


@pytest.mark.parametrize("name", NOT_APPLIED)
def test_what_is_not_applied_is_listed(name: str) -> None:
    layers = "".join(
        section(kind, type=kind, inputs=before, channels=3, size=3)
        for before, kind in (("data", "rnorm"), ("rnorm", "cnorm"), ("cnorm", "cmrnorm"))
    )
    layers += section("out", **CONV | {"inputs": "cmrnorm"}, filters=4)
    parts = {kind: section(kind, scale=0.1, pow=0.75) for kind in ("rnorm", "cnorm")}
    parts |= {"cmrnorm": section("cmrnorm", scale=0.1, pow=0.75, minDiv=2), "out": learns("out")}
    assert "not applied" not in make(layers, "".join(parts.values())).source
    where, entries = NOT_APPLIED[name]
    parts[where] = (learns("out") if where == "out" else section(where)) + section("", **entries).partition("\n")[2]
    assert make(layers, "".join(parts.values())).source.endswith(f" (not applied: {name})")


def test_momentum_of_a_parameter() -> None:
    p = nn.Parameter(np.ones(1, np.float32), momentum_scale=0.5)
    sgd = optim.SGD([p], lr=0.1, momentum=0.8, decay=0.0)
    for _ in range(2):
        p.grad = np.ones(1, np.float32)
        sgd.step()
    assert p.numpy()[0] == pytest.approx(1 - 0.1 - (0.1 + 0.4 * 0.1))


def test_a_recipe_of_files_survives_toml() -> None:
    model = convnet.parse("small", *two_towers(*SMALL), 67)
    made = recipe.of_convnet(model)
    text = recipe.toml(recipe.plain(made))
    assert recipe.change(recipe.Recipe(), tomllib.loads(text), "test") == made
    with pytest.raises(recipe.RecipeError, match=r"layers.conv3a.*: small has no such layer"):
        recipe.change(made, {"layers": {"conv3a(0)": {"lr": 1.0}}}, "test")
    with pytest.raises(recipe.RecipeError, match="expected a momentum below 1"):
        recipe.change(made, {"layers": {"conv3a": {"momentum": 2.0}}}, "test")
    with pytest.raises(recipe.RecipeError, match="convnet: expected layers, parameters, size"):
        recipe.change(made, {"convnet": {"layers": "x"}}, "test")


# ---------------------------------------------------------------------------------------------- command lines


def digits(tmp_path: Path) -> list[str]:
    layers = DATA + section("near", **{**CONV, "filterSize": 3, "padding": 1}, filters=8, neuron="relu", gpu=0)
    layers += section("far", **{**CONV, "filterSize": 5, "padding": 2}, filters=8, neuron="relu", gpu=1)
    layers += section("small", type="pool", pool="max", inputs="near", channels=8, sizeX=3, stride=2)
    layers += section("mean", type="pool", pool="avg", inputs="far", channels=8, sizeX=3, stride=2)
    layers += section("half", type="hs", inputs="small", keep=0.5)
    layers += section("ten", type="fc", inputs="half,mean", outputs=10, initW="0.01,0.01")
    parameters = learns("near", decay=0.0) + learns("far", lr=0.02) + learns("ten", 2, momentum=0.8)
    paths = tmp_path / "tiny.cfg", tmp_path / "tiny-params.cfg"
    paths[0].write_text(layers + COST.format("ten"))
    paths[1].write_text(parameters)
    files = ["--convnet-layers", str(paths[0]), "--convnet-params", str(paths[1]), "--convnet-size", "16"]
    return [*files, "--set", "scale=0.01"]


def test_train_and_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In two parts and on other devices the run ends as it would have in one."""
    files = digits(tmp_path)
    once, twice = tmp_path / "once", tmp_path / "twice"
    common = ["--batch", "64", "--seed", "3"]
    assert command_line.run(train.main, [*files, *common, "--epochs", "2", "--device", "cpu", "--out", str(once)]) == 0
    both = ["--device", "cpu:0,cpu:1"]
    assert command_line.run(train.main, [*files, *common, "--epochs", "1", *both, "--out", str(twice)]) == 0
    assert command_line.run(train.main, ["--resume", str(twice), "--epochs", "2", "--device", "cpu"]) == 0
    ends = [checkpoint.load(folder) for folder in (once, twice)]
    assert ends[0].weights.keys() == {"near.w", "near.b", "far.w", "far.b", "ten[0].w", "ten[1].w", "ten.b"}
    for name, array in ends[0].weights.items():
        np.testing.assert_array_equal(array, ends[1].weights[name])
    last = [json.loads(line) for line in (once / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["test_accuracy"] > 0.8
    trained = inference.Trained.load(once, backend.Device("cpu"))
    assert trained.hidden == "mean_flat"
    test = trained.data().test
    scores = trained.activations(test.load(np.arange(len(test)))[0], ["ten", "far"])["ten"]
    assert (scores.argmax(axis=1) == test.load(np.arange(len(test)))[1]).mean() == pytest.approx(last["test_accuracy"])
    assert "16 filters of 3x3x3 and 5x5x3" in report.training.filters(trained).content
    capsys.readouterr()
    again = command_line.run(train.main, ["--resume", str(twice), "--epochs", "3", *files[:4]])
    assert again == 2 and "begin a new run" in capsys.readouterr().err


def test_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = digits(tmp_path)[:6]
    assert command_line.run(summary.main, [*files, "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["model"] == "tiny" and described["input"] == [16, 16, 3]
    assert described["parameters"] == 8 * 28 + 8 * 76 + 10 * (2 * 8 * 8 * 8 + 1)
    for wrong, message in (
        (files[:2], "belong together"),
        ([*files, "--model", "alexnet"], "contradict each other"),
        ([*files[:4], "--convnet-size", "5000"], "expected 1 to 4096 pixels, got 5000"),
        ([*files, "--device", "cpu:0,cpu:1"], "the convnet files say what is on which device"),
        ([*files, "--classes", "11"], "ten: expected as many outputs as classes, 11, got 10"),
        ([files[0], str(tmp_path), *files[2:]], "Is a directory"),
        ([files[0], str(tmp_path / "none"), *files[2:]], "No such file"),
    ):
        assert command_line.run(summary.main, wrong) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_a_run_that_diverges_names_the_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*digits(tmp_path), "--lr", "1e9", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert command_line.run(train.main, arguments) == 1
    error = capsys.readouterr().err
    assert re.search(r"the loss became nan .*; ten\[0\] overflowed first", error) and error.count("\n") == 1


def test_train_refuses_what_contradicts_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = digits(tmp_path)
    for extra, message in (
        (["--recipe", "alexnet"], "the convnet files say how to train"),
        (["--set", "model.lrn=false"], "expected at most dropout = False for a model of files, got lrn"),
        (["--model", "alexnet"], "contradict each other"),
    ):
        assert command_line.run(train.main, [*files, *extra, "--out", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- bad input

GOOD = DATA + section("c", **CONV, filters=4) + section("f", type="fc", inputs="c", outputs=4) + COST.format("f")
GOOD_PARAMETERS = learns("c") + learns("f") + section("cost", coeff=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("type=conv", "type=cnv"), r"L:8: \[c\] unknown type 'cnv'; did you mean conv\?"),
        (("type=conv", "type=treefc"), r"L:8: \[c\] type treefc is not supported: it needs the tree of classes"),
        (("type=conv\n", ""), r"L:7: \[c\] type is missing"),
        (("filters=4\n", ""), r"L:7: \[c\] filters is missing"),
        (("filters=4", "filters=4,4"), r"L:14: \[c\] filters: expected 1 value, got 2"),
        (
            ("filters=4", "filters=four"),
            r"L:14: \[c\] filters: expected whole numbers from 1 to 2147483647, got 'four'",
        ),
        (("filters=4", "filters=1e3"), "expected whole numbers"),
        (("filters=4", "filters=__import__('os').getpid()"), "expected whole numbers"),
        (("filters=4", "filters=99999999999999999999"), "expected whole numbers"),
        (("filters=4", "filters=3000000"), r"\[c\] expected at most 268,435,456 outputs, got 10x10x3000000"),
        (("outputs=4", "outputs=9000000"), r"\[f\] expected at most 1,000,000,000 parameters, got 3,609,000,112"),
        (("filters=4", "filtres=4"), r"L:14: \[c\] unknown key filtres; did you mean filters\?"),
        (("filterSize=3", "filterSize=13"), r"\[c\] a window of 13 does not fit 12 pixels"),
        (("[f]", "[p]\ntype=neuron\ninputs=c\n[f]"), r"L:15: \[p\] neuron is missing"),
        (
            ("[f]", section("p", **{**POOL, "channels": 4}) + "[f]"),
            r"L:19: \[p\] expected an image of 4 channels, got 12x12x3",
        ),
        (("channels=3", "channels=0"), r"L:10: \[c\] channels: expected whole numbers from 1 to 2147483647, got '0'"),
        (("channels=3", "channels=99999"), r"L:10: \[c\] expected an image of 99999 channels, got 12x12x3"),
        (("filterSize=3", "filter_size=3"), r"L:11: \[c\] unknown key filter_size; did you mean filterSize\?"),
        (("filterSize=3", "_=3"), r"L:11: \[c\] unknown key _"),
        (("initW=0.1", "initW=nan"), "initW: expected numbers from -1e.30 to 1e.30, got 'nan'"),
        (("inputs=c", "inputs=d"), r"\[f\] inputs: no layer 'd'"),
        (("inputs=c", "inputs=f"), r"\[f\] inputs: f is not defined before this layer, but in line 15"),
        (("inputs=c", "inputs=labels"), r"\[f\] inputs: expected the outputs of layers, got labels"),
        (("inputs=c", "inputs=data"), r"L:7: \[c\] no layer uses its output"),
        (("inputs=data", "inputs=probs"), r"\[c\] inputs: probs is not defined before this layer"),
        (("inputs=data", "inputs="), r"\[c\] inputs: no layer ''"),
        (("inputs = labels, probs", "inputs = probs, labels"), r"\[cost\] inputs: expected the labels"),
        (("inputs = labels, probs", "inputs = labels, f"), r"\[cost\] inputs: expected a softmax second, got fc"),
        (("cost.logreg", "cost.crossent2"), r"\[cost\] inputs: expected a layer with logistic neurons second"),
        (("cost.logreg", "cost.rflickr"), r"\[cost\] type cost.rflickr is not supported"),
        (("cost.logreg", "cost.sum2"), r"\[cost\] inputs: expected 1 layer, got 2"),
        (("[cost]\ntype = cost.logreg\ninputs = labels, probs\n", ""), "L: expected a layer of type cost.logreg"),
        (("filters=4", "filters=4\ngpu=-1"), "gpu: expected whole numbers from 0 to 63"),
        (("filters=4", "filters=4\nneuron=rellu"), r"unknown neuron 'rellu'; did you mean relu\?"),
        (("filters=4", "filters=4\nneuron=tanh"), r"neuron: expected tanh\[a, b\] with numbers, got 'tanh'"),
        (("filters=4", "filters=4\nneuron=tanh[1,exit()]"), r"neuron: expected tanh\[a, b\] with numbers"),
        (("filters=4", "filters=4\nneuron=drelu[0]"), r"neuron: expected drelu\[a\] with numbers"),
        (("filters=4", "filters=4\ngroups=2"), r"groups: expected a divisor of 3 channels, got 2"),
        (("filters=4", "filters=4\nrandSparse=maybe"), "randSparse: expected true or false, got 'maybe'"),
        (("filters=4", "filters=4\nrandSparse=1\nfilterChannels=2"), "filterChannels: expected 1 groups of them"),
        (("filters=4", "filters=4\nweightSource=c"), "weightSource: weights that layers share are not supported"),
        (("dataIdx = 1", "dataIdx = 2"), "dataIdx: expected whole numbers from 0 to 1, got '2'"),
        (("[c]", "[c"), r"L:7: expected \[name\]"),
        (("[c]", "[c.w]"), r"L:7: expected \[name\]"),
        (("[c]", "[data]"), r"L:7: \[data\] is there already, in line 1"),
        (("[c]", "[forward]"), r"\[forward\] the name forward is taken|P does not say"),
        (("filters=4", "filters=4\nfilters=4"), r"L:15: \[c\] filters is there already"),
        (("filters=4", "filters"), r"L:14: \[c\] expected key = value, got 'filters'"),
    ],
)
def test_bad_layer_files(change: tuple[str, str], message: str) -> None:
    assert GOOD.count(change[0]) >= 1
    text = GOOD.replace(*change, 1)
    with pytest.raises(ValueError, match=message):
        convnet.parse("bad", text, GOOD_PARAMETERS, 12, ("L", "P"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epsW = 0.01\n", ""), r"P:1: \[c\] epsW is missing"),
        (("epsW = 0.01", "epsW = -1"), r"P:2: \[c\] epsW: expected numbers from 0 to 1e.30, got '-1'"),
        (("epsW = 0.01", "epsW = 0.01,0.01"), r"P:2: \[c\] epsW: expected 1 value, got 2"),
        (("momW = 0.9", "momW = 1"), r"P:4: \[c\] momW: expected numbers from 0 to 0.999999, got '1'"),
        (("momW", "mumW"), r"P:4: \[c\] unknown key mumw; did you mean momW\?"),
        (("[c]", "[cc]"), r"L:7: \[c\] P does not say how the layer learns: no section \[c\]; did you mean cc\?"),
        (("coeff=1", "coeff=2"), r"P:14: \[cost\] coeff: expected 1"),
    ],
)
def test_bad_parameter_files(change: tuple[str, str], message: str) -> None:
    text = GOOD_PARAMETERS.replace(*change, 1)
    assert text != GOOD_PARAMETERS
    with pytest.raises(ValueError, match=message):
        convnet.parse("bad", GOOD, text, 12, ("L", "P"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected sections"),
        (b"\x7fELF\x02\x01\x01\xff\xfe", "expected a text file, got byte 0xff at 7"),
        (b"PK\x03\x04", r"x.cfg:1: expected \[name\], got"),
        (b"#" * (2**20 + 1), "of at most 1,048,576 bytes, got more"),
        (GOOD[: len(GOOD) // 2].encode(), r"x.cfg"),
    ],
)
def test_files_of_another_kind(content: bytes, message: str, tmp_path: Path) -> None:
    path, parameters = tmp_path / "x.cfg", tmp_path / "p.cfg"
    path.write_bytes(content)
    parameters.write_text(GOOD_PARAMETERS)
    with pytest.raises(ValueError, match=message):
        models.from_convnet(path, parameters, 12)


@pytest.mark.parametrize("size", [0, -1, 4097, 12.0])
def test_sizes_of_images(size: int) -> None:
    with pytest.raises(ValueError, match="size of the images: expected 1 to 4096 pixels"):
        convnet.parse("x", GOOD, GOOD_PARAMETERS, size)


def test_outputs_that_grow_without_weights_are_bounded() -> None:
    doubled = "".join(section(f"d{i + 1}", type="concat", inputs=f"d{i},d{i}") for i in range(60))
    with pytest.raises(ValueError, match=r"expected at most 268,435,456 outputs"):
        make(section("d0", **POOL) + doubled, output="d60")


def test_python_functions_are_not_called(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    text = GOOD.replace("filters=4", f"filters=4\ninitWFunc=os.system(touch {ran})\ninitBFunc=initw.makeb(c)")
    model = convnet.parse("x", text, GOOD_PARAMETERS + section("nobody", epsW=1), 12)
    model.build("cpu")
    assert not ran.exists() and "not applied: initWFunc, initBFunc, [nobody]" in model.source


def test_logistic_neurons_below_a_softmax_are_none_of_the_cost() -> None:
    text = GOOD.replace("outputs=4", "outputs=4\nneuron=logistic")
    assert convnet.parse("x", text, GOOD_PARAMETERS, 12).layers[-1].name == "f_neuron"
    with pytest.raises(ValueError, match=r"\[cost\] inputs: expected a layer with logistic neurons second"):
        convnet.parse("x", text.replace("cost.logreg", "cost.crossent2"), GOOD_PARAMETERS, 12)
    with pytest.raises(ValueError, match=r"\[probs\] unknown key neuron"):
        convnet.parse("x", text.replace("type = softmax", "type = softmax\nneuron = relu"), GOOD_PARAMETERS, 12)


SPELLINGS = {
    "comments": ("filters=4\n", "filters=4 ; of them\n# a\n ; b\n#c=d\n"),
    "spaces": ("filters=4", "  filters \t=  4  "),
    "case": ("filters=4", "FILTERS=4"),
    "Windows": ("\n", "\r\n"),
    "old Macintosh": ("\n", "\r"),
    "colon": ("filters=4", "filters: 4"),
    "colon, no space": ("filters=4", "filters:4"),
    "colon before =": ("filters=4", "initWFunc: f(a=1)\nfilters=4"),
    "= before colon": ("filters=4", "initWFunc=f(a:1)\nfilters=4"),
    "all colons": ("=", ":"),
    "cuda-convnet2's width of sums": ("filters=4", "sumWidth=4\nfilters=4"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling: str) -> None:
    text = GOOD.replace(*SPELLINGS[spelling])
    assert text != GOOD
    made = [convnet.parse("x", layers, GOOD_PARAMETERS, 12) for layers in (text, GOOD)]
    described = [summary.describe(model) | {"source": ""} for model in made]
    assert described[0] == described[1] and made[0].rates == made[1].rates


def every_type() -> tuple[str, str]:
    """A network of all types of layers, for images of 13 x 13 pixels."""
    four = {"channels": 4, "size": 3}
    window = {"filterSize": 3, "padding": 1, "stride": 1}
    layers = DATA + section("soft", type="blur", inputs="data", channels=3, filterSize=3, stdev=2)
    layers += section("nails", type="nailbed", inputs="soft", channels=3, stride=2)
    layers += section("c1", **{**CONV, **window, "stride": 2}, filters=8, neuron="relu")
    layers += section(
        "c2", type="conv", inputs="nails,c1", channels="3,8", filters="4,2", groups="1,2", randSparse="0,1",
        stride="1,1", filterChannels="3,4", padding="1,1", filterSize="3,3", initW="0.1,0.1", neuron="relu",
        sharedBiases=0,
    )  # fmt: skip
    layers += section("n1", type="cmrnorm", inputs="c2", **four, blocked=0)
    layers += section("n2", type="rnorm", inputs="n1", **four) + section("n3", type="cnorm", inputs="n2", **four)
    layers += section("p1", **{**POOL, "inputs": "n3", "channels": 4}, start=0, outputsX=0)
    layers += section("p2", **{**POOL, "inputs": "n3", "channels": 4, "pool": "avg"})
    layers += section("l", type="local", inputs="p1", channels=4, filters=4, groups=1, initW=0.1, **window)
    layers += section("sum", type="eltsum", inputs="l,p1", coeffs="1,2", neuron="softrelu")
    layers += section("wide", type="concat", inputs="sum,p2") + section("half", type="hs", inputs="wide", keep=0.5)
    layers += section("quarter", type="dropout", inputs="p2")
    layers += section("f1", type="fc", inputs="half,quarter", outputs=5, initW="1,1", neuron="tanh[1,1]", gpu=1)
    layers += section("f2", type="fc", inputs="f1", outputs=4) + COST.format("f2")
    parameters = learns("c1") + learns("c2", 2) + learns("l") + learns("f1", 2) + learns("f2")
    parameters += "".join(section(f"n{i}", scale=0.1, pow=0.75) for i in (1, 2, 3)) + section("half", enable="true")
    return layers, parameters


BASES = {67: two_towers(*SMALL), 13: every_type(), 12: (GOOD, GOOD_PARAMETERS)}
"""Files by the size of their images."""
LINES = sorted({line for files in BASES.values() for file in files for line in file.splitlines()})
VALUES = (
    *("0", "1", "2", "3", "4", "5", "7", "12", "13", "63", "100", "0.5", "-1", "1e-30", "1e20", "nan", "true"),
    *("data", "labels", "probs", "c1", "p1", "wide", "avg", "abs", "drelu[2]", "%(x)s"),
)
WORDS = st.one_of(st.sampled_from([*VALUES, *convnet.TYPES, *convnet.REFUSED, *convnet.NEURONS]), st.text(max_size=8))


@settings(max_examples=300)
@given(
    size=st.sampled_from(list(BASES)),
    where=st.integers(0, 1),
    changes=st.lists(
        st.one_of(
            st.tuples(st.sampled_from("rdi"), st.integers(0, 400), st.one_of(st.sampled_from(LINES), st.text())),
            st.tuples(st.just("v"), st.integers(0, 400), WORDS),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_any_text_is_a_network_or_a_value_error(size: int, where: int, changes: list[tuple[str, int, str]]) -> None:
    """Lines replaced, removed, inserted, one of a line's values changed: nothing but a ValueError that names the file
    gets out, and what is a model runs."""
    files = list(BASES[size])
    lines = files[where].splitlines()
    for kind, place, text in changes:
        place %= len(lines)
        key, _, value = lines[place].partition("=")
        _, comma, rest = value.partition(",")
        changed = f"{key}={text}{comma}{rest}" if kind == "v" else text
        lines[place : place + (kind != "i")] = [] if kind == "d" else [changed]
    files[where] = "\n".join(lines)
    refusal = ""
    try:
        model = convnet.parse("x", *files, size, ("LAYERS", "PARAMETERS"))
    except ValueError as e:
        refusal = str(e) or "nothing"
    if refusal:
        assert re.match("LAYERS|PARAMETERS", refusal) and len(refusal) < 600
        return
    outputs = [np.prod(row.output, dtype=float) for row in model.rows()]
    assert model.parameters <= convnet.MOST_PARAMETERS and max(outputs) <= convnet.MOST_OUTPUTS
    if model.parameters < 10**6 and sum(outputs) < 10**6:
        with np.errstate(all="ignore"):
            network = model.build("cpu:0,cpu:1")
            y = network(images(2, size))
            assert y.shape == (2, model.classes)
            network.loss(y, Tensor(np.zeros(2, np.int32))).backward()


def test_a_network_of_every_type_trains() -> None:
    model = convnet.parse("x", *BASES[13], 13)
    kinds = re.findall(r"^type ?= ?(\S+)", BASES[13][0], re.MULTILINE)
    assert set(kinds) >= convnet.TYPES.keys() - {"neuron", "dropout2", "cost.crossent2", "cost.sum2"}
    network = model.build("cpu:0,cpu:1", seed=1)
    step(network, optim.SGD(network.parameters(), lr=1e-3), images(4, 13), np.array([0, 3, 1, 2], np.int32))


@given(st.text())
def test_any_text_at_all(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(LAYERS|PARAMETERS)"):
        convnet.parse("x", text, GOOD_PARAMETERS, 12, ("LAYERS", "PARAMETERS"))


# ---------------------------------------------------------------------------------------------- the release's files


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """scripts/convnet_table.py."""
    spec = importlib.util.spec_from_file_location("convnet_table", ROOT / "scripts" / "convnet_table.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def release(script: ModuleType) -> dict[str, str]:
    """The text of the release's files."""
    zipped = os.environ.get("ALEXNET_2012_CONFIGS")
    if not zipped:
        pytest.skip("ALEXNET_2012_CONFIGS does not name a zip of the release's files")
    read: dict[str, str] = script.read(zipped)
    return read


def configuration(release: Mapping[str, str], number: str) -> Convnet:
    return convnet.parse(number, *(release[f"layers/{kind}-{number}.cfg"] for kind in ("layers", "layer-params")))


def test_the_table_is_that_of_the_files(release: Mapping[str, str], script: ModuleType) -> None:
    """Of each file that is there; the zip may hold a part of the release. Only a tree of classes, mirrored images and a
    special cost are refused."""
    page = script.PAGE.read_text(encoding="utf-8").partition(script.MARK)[2]
    lines = [line for line in page.splitlines() if re.match(r"\| (-|\S*/)", line)]
    assert page == script.table(lines) and lines == sorted(lines) and len(lines) == 109
    there = script.rows(release)
    assert set(there) <= set(lines) and len(there) >= 49
    refused = re.findall(r"refused: [^ ]* \[[\w-]+\] type ([\w.]+) is not supported", page)
    assert sorted(refused) == ["cost.rflickr", "href", "treefc", "treefc"] and page.count("refused:") == 4
    assert "76 of 80 pairs build" in page


def test_pairs(script: ModuleType) -> None:
    """The longest name that a parameter file's begins with, in its folder."""
    names = ["a/layers-1.cfg", "a/layers-1-big.cfg", "a/layers-12.cfg", "b/layers-1.cfg"]
    names += ["a/layer-params-1.cfg", "a/layer-params-1-big-x.cfg", "b/layer-params-12.cfg", "a/layer-params-1-b.cfg"]
    assert sorted(script.pairs(names)) == [
        ("", "b/layer-params-12.cfg"),
        ("a/layers-1-big.cfg", "a/layer-params-1-big-x.cfg"),
        ("a/layers-1.cfg", "a/layer-params-1-b.cfg"),
        ("a/layers-1.cfg", "a/layer-params-1.cfg"),
        ("a/layers-12.cfg", ""),
        ("b/layers-1.cfg", ""),
    ]


@pytest.mark.parametrize(
    ("name", "model"),
    [("18pct", "cifar-18pct"), ("19pct", "cifar-19pct"), ("80sec", "cifar-80sec"), ("conv-local-13pct", "cifar-13pct")],
)
def test_networks_for_cifar_equal_the_built_in_ones(
    release: Mapping[str, str], script: ModuleType, name: str, model: str
) -> None:
    files = (f"example-layers/{kind}-{name}.cfg" for kind in ("layers", "layer-params"))
    made, whole, rates = script.build(release, *files), models.get(model), recipe.load(model)
    networks = made.build("cpu", 3), whole.build("cpu", 4)
    ours, theirs = (list(network.state().values()) for network in networks)
    assert [(a.shape, a.std() == 0) for a in ours] == [(a.shape, a.std() == 0) for a in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.std() == pytest.approx(b.std(), rel=0.1)
    networks[0].load_state(dict(zip(networks[0].state(), theirs, strict=True)))
    with no_grad():
        x = Tensor(50 * reference.random(2, *made.input))
        np.testing.assert_allclose(networks[0](x).numpy(), networks[1](x).numpy(), rtol=1e-5, atol=1e-5)
    got = list(rates_of(recipe.of_convnet(made), networks[0]).values())
    np.testing.assert_allclose(got, list(rates_of(rates, networks[1]).values()), rtol=1e-6)


@pytest.mark.slow
def test_all_networks_run(release: Mapping[str, str], script: ModuleType) -> None:
    for layers, parameters in dict(script.pairs(list(release))).items():
        if not layers or not parameters or "refused" in script.row(release, layers, parameters):
            continue
        model = script.build(release, layers, parameters)
        network = model.build("cpu")
        assert sum(p.data.size for p in network.parameters()) == model.parameters
        network.eval()
        with no_grad():
            y = network(images(1, model.input[0])).numpy()
        assert y.shape == (1, model.classes) and np.isfinite(y).all(), layers


TWINS = twins("fc2048", "fc2048b", "fc1000")


def test_known_counts(release: Mapping[str, str]) -> None:
    assert configuration(release, "114").parameters == 140_523_240  # the comment in its parameter file
    assert configuration(release, "145").parameters == 60_965_224
    assert configuration(release, "145-half").parameters == 59_798_312


def test_configuration_145_learns_as_the_recipe_says(release: Mapping[str, str]) -> None:
    """Its files hold the rates at the end of the run; the recipe has those of the way there."""
    model, whole = configuration(release, "145"), recipe.load("alexnet-2012")
    theirs = rates_of(whole, grouped(*SMALL, 67).build("cpu"), epoch=90)  # rates do not depend on widths
    for name, rates in model.rates.items():
        twin = TWINS[name.partition("[")[0]]
        lr, momentum, decay = theirs[f"{twin}.w"]
        assert (rates.lr, rates.momentum, rates.decay) == pytest.approx((lr, momentum, decay))
        lr, momentum, decay = theirs[f"{twin}.b"]
        assert (rates.bias_lr, rates.bias_momentum, 0) == pytest.approx((lr, momentum, decay))


@pytest.mark.slow
def test_configuration_145_equals_alexnet_2012(release: Mapping[str, str]) -> None:
    model = configuration(release, "145")
    check_equal(model, models.get("alexnet-2012"), TWINS, 2)


@pytest.mark.slow
def test_configuration_145_trains_a_step_on_two_towers(release: Mapping[str, str]) -> None:
    network = configuration(release, "145").build("cpu:0,cpu:1", seed=1)
    sgd, labels = optim.SGD(network.parameters(), lr=0.01), np.array([3, 700], np.int32)
    x = Tensor(20 * reference.random(2, 224, 224, 3))
    losses = []
    for _ in range(2):
        network.seed(0)
        losses.append(step(network, sgd, x, labels))
    assert np.isfinite(losses).all() and losses[1] < losses[0]
