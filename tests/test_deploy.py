"""Networks of Caffe's deploy files: against a naive Caffe, with their weights, trained, and what is refused.

The naive one computes in float64, channels first, by the formulas of Caffe's layers. A network is a list of layers,
which is written as a file and is what the naive one runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from foreign_files import arrays, blob, caffemodel, field, small, write
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file
from test_weights import call, convolution

from alexnet_cuda import Tensor, backend, checkpoint, command_line, evaluate, models, nn, recipe, summary, train
from alexnet_cuda.inference import Trained
from alexnet_cuda.models import Deploy, PrototxtError, caffe
from alexnet_cuda.models.caffe import prototxt
from alexnet_cuda.models.layers import BatchNorm, Conv2d, Flatten, Linear, Window
from alexnet_cuda.models.own import digest
from alexnet_cuda.weights.layout import names_in

pytest_plugins = ["tiny_run"]

MEAN = np.float32([122.67891434, 116.66876762, 104.00698793])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------------------------------------- layers, as text


class L(NamedTuple):
    """A layer; ``fields``: of its own message, as they are written."""

    name: str
    type: str
    bottom: str
    top: str
    fields: str = ""


OWN = {"Convolution": "convolution_param", "InnerProduct": "inner_product_param", "Pooling": "pooling_param",
       "LRN": "lrn_param", "BatchNorm": "batch_norm_param", "Scale": "scale_param", "Dropout": "dropout_param",
       "Concat": "concat_param", "Eltwise": "eltwise_param", "Flatten": "flatten_param", "ReLU": "relu_param",
       "Softmax": "softmax_param", "TanH": "tanh_param", "Sigmoid": "sigmoid_param"}  # fmt: skip
OLD = {"Convolution": "CONVOLUTION", "InnerProduct": "INNER_PRODUCT", "Pooling": "POOLING", "LRN": "LRN",
       "ReLU": "RELU", "Dropout": "DROPOUT", "Softmax": "SOFTMAX"}  # fmt: skip


def text(layers: Sequence[L], size: int = 12, form: str = "Input", channels: int = 3) -> str:
    """A deploy file; ``form``: of the input, and of the layers."""
    made = 'name: "net"\n'
    if form == "Input":
        shape = f"shape: {{ dim: 10 dim: {channels} dim: {size} dim: {size} }}"
        made += f'layer {{ name: "data" type: "Input" top: "data" input_param {{ {shape} }} }}\n'
    elif form == "input_shape":
        made += f'input: "data"\ninput_shape {{ dim: [1, {channels}, {size}, {size}] }}\n'
    else:
        made += f'input: "data"\ninput_dim: 10\ninput_dim: {channels}\ninput_dim: {size}\ninput_dim: {size}\n'
    for layer in layers:
        bottoms = " ".join(f'bottom: "{name}"' for name in layer.bottom.split())
        own = f"{OWN[layer.type]} {{ {layer.fields} }}" if layer.fields else ""
        head, kind = ("layers", OLD[layer.type]) if form == "2014" else ("layer", f'"{layer.type}"')
        made += f'{head} {{\n  name: "{layer.name}"\n  type: {kind}\n  {bottoms}\n  top: "{layer.top}"\n  {own}\n}}\n'
    return made


def model(layers: Sequence[L] | str, size: int = 12, name: str = "net") -> Deploy:
    content = layers if isinstance(layers, str) else text(layers, size)
    code = {"file": f"{name}.prototxt", "name": name, "text": content, "digest": digest(content)}
    return caffe.from_code(code)


# ---------------------------------------------------------------------------------------------- the naive Caffe


def options(layer: L) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"(\w+): (\S+)", layer.fields):
        found.setdefault(key, []).append(value)
    return found


def pool(x: np.ndarray, kind: str, size: int, stride: int, pad: int) -> np.ndarray:
    """By pooling_layer.cpp's loops: rounded up, windows that begin beyond image and padding dropped where there is any;
    the divisor of means is clipped to the padding, the sum to the image."""
    counts = []
    for n in x.shape[2:]:
        count = math.ceil((n + 2 * pad - size) / stride) + 1
        counts.append(count - (pad > 0 and (count - 1) * stride >= n + pad))
    y = np.zeros((*x.shape[:2], *counts))
    for oh in range(counts[0]):
        for ow in range(counts[1]):
            (top, left), (H, W) = (oh * stride - pad, ow * stride - pad), x.shape[2:]
            divisor = (min(top + size, H + pad) - top) * (min(left + size, W + pad) - left)
            window = x[:, :, max(top, 0) : top + size, max(left, 0) : left + size]
            y[:, :, oh, ow] = window.max((2, 3)) if kind == "MAX" else window.sum((2, 3)) / divisor
    return y


def lrn(x: np.ndarray, n: int, alpha: float, beta: float, k: float, across: bool) -> np.ndarray:
    half, s = n // 2, np.zeros_like(x)
    if across:
        squares = np.pad(x**2, ((0, 0), (half, half), (0, 0), (0, 0)))
        for i in range(n):
            s += squares[:, i : i + x.shape[1]]
        return x * (k + alpha / n * s) ** -beta
    squares = np.pad(x**2, ((0, 0), (0, 0), (half, half), (half, half)))
    for i in range(n):
        for j in range(n):
            s += squares[:, :, i : i + x.shape[2], j : j + x.shape[3]]
    return x * (1 + alpha / n**2 * s) ** -beta


def number(o: Mapping[str, list[str]], key: str, default: float) -> float:
    return float(o.get(key, [str(default)])[0])


def computed(layer: L, xs: list[np.ndarray], blobs: Mapping[str, list[np.ndarray]]) -> np.ndarray:
    o, x, held = options(layer), xs[0], blobs.get(layer.name, [])
    size = int(number(o, "kernel_size", number(o, "kernel_h", 1)))
    stride, pad = int(number(o, "stride", number(o, "stride_h", 1))), int(number(o, "pad", number(o, "pad_h", 0)))
    match layer.type:
        case "Convolution":
            b = held[1] if len(held) > 1 else np.zeros(len(held[0]))
            return convolution(x, held[0], b, stride, pad, int(number(o, "group", 1)))
        case "InnerProduct":
            return x.reshape(len(x), -1) @ held[0].T + (held[1] if len(held) > 1 else 0)
        case "Pooling" if o.get("global_pooling") == ["true"]:
            return pool(x, o.get("pool", ["MAX"])[0], x.shape[2], 1, 0)
        case "Pooling":
            return pool(x, o.get("pool", ["MAX"])[0], size, stride, pad)
        case "LRN":
            across = o.get("norm_region", ["ACROSS_CHANNELS"])[0] == "ACROSS_CHANNELS"
            n, alpha, beta = int(number(o, "local_size", 5)), number(o, "alpha", 1), number(o, "beta", 0.75)
            return lrn(x, n, alpha, beta, number(o, "k", 1), across)
        case "BatchNorm":
            shape = (1, -1, 1, 1)[: x.ndim]
            mean, variance = (a.reshape(shape) / held[2] for a in held[:2])
            return (x - mean) / np.sqrt(variance + number(o, "eps", 1e-5))
        case "Scale":
            gamma, *beta = (a.reshape((1, -1, 1, 1)[: x.ndim]) for a in held)
            return gamma * x + (beta[0] if beta else 0)
        case "ReLU":
            return np.maximum(x, 0)
        case "TanH":
            return np.tanh(x)
        case "Sigmoid":
            return 1 / (1 + np.exp(-x))
        case "Concat":
            return np.concatenate(xs, 1)
        case "Eltwise":
            factors = map(float, o.get("coeff", ["1"] * len(xs)))
            return sum(c * x for c, x in zip(factors, xs, strict=True))
        case "Flatten":
            return x.reshape(len(x), -1)
        case "Dropout":
            return x
    raise AssertionError(layer.type)


def naive(layers: Sequence[L], blobs: Mapping[str, list[np.ndarray]], x: np.ndarray) -> np.ndarray:
    """Logits of x (N, C, H, W), BGR."""
    made = {"data": x.astype(np.float64)}
    for layer in layers:
        if layer.type != "Softmax":
            made[layer.top] = computed(layer, [made[name] for name in layer.bottom.split()], blobs)
    return made[layers[-1].bottom if layers[-1].type == "Softmax" else layers[-1].top].reshape(len(x), -1)


def drawn(layers: Sequence[L], size: int) -> dict[str, list[np.ndarray]]:
    """Blobs of all layers, in Caffe's shapes, which the naive pass finds out."""
    rng, blobs, made = np.random.default_rng(0), dict[str, list[np.ndarray]](), {"data": np.zeros((1, 3, size, size))}

    def some(*shape: int) -> np.ndarray:
        spread = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.3
        return (spread * rng.standard_normal(shape)).astype(np.float32)

    for layer in layers:
        xs, o = [made[name] for name in layer.bottom.split()], options(layer)
        C, K = xs[0].shape[1], int(number(o, "num_output", 0))
        bias = [some(K)] if o.get("bias_term") != ["false"] else []
        if layer.type == "Convolution":
            k = int(number(o, "kernel_size", number(o, "kernel_h", 1)))
            blobs[layer.name] = [some(K, C // int(number(o, "group", 1)), k, k), *bias]
        elif layer.type == "InnerProduct":
            blobs[layer.name] = [some(K, math.prod(xs[0].shape[1:])), *bias]
        elif layer.type == "BatchNorm":
            blobs[layer.name] = [some(C), 1 + abs(some(C)), np.float32([2.5])]
        elif layer.type == "Scale":
            blobs[layer.name] = [1 + some(C), *([some(C)] if o.get("bias_term") == ["true"] else [])]
        if layer.type != "Softmax":
            made[layer.top] = computed(layer, xs, blobs)
    return blobs


def network_file(layers: Sequence[L], blobs: Mapping[str, list[np.ndarray]]) -> bytes:
    made = field(1, b"net")
    for layer in layers:
        held = b"".join(field(7, blob(a)) for a in blobs.get(layer.name, []))
        made += field(100, field(1, layer.name.encode()) + field(2, layer.type.encode()) + held)
    return made


# ---------------------------------------------------------------------------------------------- known answers


def published(name: str, share: int = 1, form: str = "Input") -> tuple[str, int]:
    """The deploy file of bvlc_alexnet ("caffe-alexnet") or CaffeNet, by the published table of layers, and its images'
    size; ``share``: of the widths, with 99 pixels and 20 features, as ``foreign_files.small`` has it."""
    size, features, classes = (227, 4096, 1000) if share == 1 else (99, 20, 7)

    def conv(i: int, bottom: str, channels: int, window: str) -> list[L]:
        fields = f"num_output: {channels // share} {window}"
        return [L(f"conv{i}", "Convolution", bottom, f"conv{i}", fields), L(f"relu{i}", "ReLU", f"conv{i}", f"conv{i}")]

    def between(i: int) -> list[L]:
        norm = "LRN", "local_size: 5 alpha: 0.0001 beta: 0.75"
        pool = "Pooling", "pool: MAX kernel_size: 3 stride: 2"
        names = [("norm", *norm), ("pool", *pool)] if name == "caffe-alexnet" else [("pool", *pool), ("norm", *norm)]
        (first, kind, fields), (second, kind2, fields2) = names
        return [L(f"{first}{i}", kind, f"conv{i}", f"{first}{i}", fields),
                L(f"{second}{i}", kind2, f"{first}{i}", f"{second}{i}", fields2)]  # fmt: skip

    def full(i: int, bottom: str, outputs: int) -> list[L]:
        fc = f"fc{i}"
        layers = [L(fc, "InnerProduct", bottom, fc, f"num_output: {outputs}")]
        if i < 8:
            layers += [L(f"relu{i}", "ReLU", fc, fc), L(f"drop{i}", "Dropout", fc, fc, "dropout_ratio: 0.5")]
        return layers

    last = "pool" if name == "caffe-alexnet" else "norm"
    layers = [
        *conv(1, "data", 96, "kernel_size: 11 stride: 4"), *between(1),
        *conv(2, f"{last}1", 256, "pad: 2 kernel_size: 5 group: 2"), *between(2),
        *conv(3, f"{last}2", 384, "pad: 1 kernel_size: 3"),
        *conv(4, "conv3", 384, "pad: 1 kernel_size: 3 group: 2"),
        *conv(5, "conv4", 256, "pad: 1 kernel_size: 3 group: 2"),
        L("pool5", "Pooling", "conv5", "pool5", "pool: MAX kernel_size: 3 stride: 2"),
        *full(6, "pool5", features), *full(7, "fc6", features), *full(8, "fc7", classes),
        L("prob", "Softmax", "fc8", "prob"),
    ]  # fmt: skip
    return text(layers, size, form), size


def shapes(found: models.Model) -> list[tuple[Any, ...]]:
    """What a network computes: kinds of layers, what decides them, shapes."""
    rows = []
    for row in found.rows():
        layer = row.layer
        window = layer.window
        if isinstance(layer, Window):  # on these sizes both ways of rounding agree
            window = window.removesuffix(" ceil").replace(" ceil g", " g")
        numbers = [
            getattr(layer, key) for key in ("activation", "k", "alpha", "beta", "p", "form") if hasattr(layer, key)
        ]
        rows.append((layer.kind, window, *numbers, row.input, row.output, row.filter, row.biases))
    return rows


@pytest.mark.parametrize("form", ["Input", "input_shape", "2014"])
@pytest.mark.parametrize("name", ["caffe-alexnet", "caffenet"])
def test_the_published_networks_are_ours(name: str, form: str) -> None:
    """At full size, with 60,965,224 parameters in 724,406,816 multiplications; a chain of layers as ours are."""
    content, _ = published(name, form=form)
    found = model(content)
    assert shapes(found) == shapes(models.get(name))
    assert (found.parameters, sum(row.macs for row in found.rows())) == (60_965_224, 724_406_816)
    assert found.chain and found.classes == 1000 and found.input == (227, 227, 3)


@pytest.mark.parametrize("name", ["caffe-alexnet", "caffenet"])
def test_their_weights_give_our_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same .caffemodel by its deploy file and by the model of the package."""
    ours = small(name)
    monkeypatch.setitem(models._by_name, name, ours)
    write(Path("a.caffemodel"), caffemodel(ours, arrays(ours, {n: n for n in names_in(ours)})))
    Path("a.prototxt").write_text(published(name, 16)[0])
    assert call("a.caffemodel", "ours.safetensors") == 0
    # small images are stored larger by an eighth with a deploy file, as 256 only goes with 224 to 256 pixels
    assert call("a.caffemodel", "theirs.safetensors", "--model", "a.prototxt") == 0
    mine, theirs = (checkpoint.load(Path(f"{which}.safetensors")) for which in ("ours", "theirs"))
    assert mine.weights.keys() == theirs.weights.keys()
    for array, w in mine.weights.items():
        assert_array_equal(theirs.weights[array], w, array)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 99, 99, 3)).astype(np.float32))
    networks = []
    for saved in (mine, theirs):
        trained = Trained.of(saved, Path("a"), backend.device("cpu"))
        networks.append(trained.network(x).numpy())
    assert_array_equal(*networks)
    assert theirs.description["config"]["model"] == "a" and theirs.mean.shape == (113, 113, 3)


# ---------------------------------------------------------------------------------------------- any network

CONV = "num_output: 8 kernel_size: 3 pad: 1"
NETS: dict[str, list[L]] = {
    "a chain": [
        L(
            "conv/1",
            "Convolution",
            "data",
            "c",
            "num_output: 6 kernel_h: 5 kernel_w: 5 stride_h: 2 stride_w: 2 pad_h: 1 pad_w: 1",
        ),
        L("relu", "ReLU", "c", "r"),
        L("norm", "LRN", "r", "n", "local_size: 3 alpha: 0.5 beta: 0.6 k: 1.5"),
        L("pool", "Pooling", "n", "p", "pool: AVE kernel_size: 2 stride: 2"),
        L("flat", "Flatten", "p", "f"),
        L("drop", "Dropout", "f", "f", "dropout_ratio: 0.3"),
        L("fc", "InnerProduct", "f", "fc", "num_output: 9 bias_term: false"),
        L("tanh", "TanH", "fc", "fc"),
        L("sigmoid", "Sigmoid", "fc", "fc"),
        L("out", "InnerProduct", "fc", "out", "num_output: 4"),
    ],
    "windows that are dropped": [
        L("c", "Convolution", "data", "c", "num_output: 6 kernel_size: 3 group: 1 pad: 1"),
        L("s", "Sigmoid", "c", "s"),
        L("p", "Pooling", "s", "p", "pool: MAX kernel_size: 3 stride: 4 pad: 2"),
        L("q", "Pooling", "p", "q", "kernel_size: 2 stride: 2"),
        L("out", "InnerProduct", "q", "out", "num_output: 4"),
        L("prob", "Softmax", "out", "prob"),
    ],
    "branches": [
        L("a", "Convolution", "data", "a", CONV),
        L("a_bn", "BatchNorm", "a", "a", "use_global_stats: true eps: 0.001"),
        L("a_scale", "Scale", "a", "a", "bias_term: true"),
        L("a_relu", "ReLU", "a", "a"),
        L("b", "Convolution", "a", "b", CONV + " group: 2 bias_term: false"),
        L("b_bn", "BatchNorm", "b", "b_bn"),
        L("b_scale", "Scale", "b_bn", "b_scale"),
        L("sum", "Eltwise", "b_scale a", "sum", "operation: SUM coeff: 0.5 coeff: -1.5"),
        L("sum_relu", "ReLU", "sum", "sum"),
        L("within", "LRN", "sum", "within", "local_size: 5 alpha: 0.7 beta: 0.75 norm_region: WITHIN_CHANNEL"),
        L("left", "Convolution", "within", "left", "num_output: 5 kernel_size: 1"),
        L("right", "Pooling", "within", "right", "pool: MAX kernel_size: 3 stride: 1 pad: 1"),
        L("cat", "Concat", "left right", "cat"),
        L("fc", "InnerProduct", "cat", "fc", "num_output: 6"),
        L("fc_bn", "BatchNorm", "fc", "fc_bn"),
        L("other", "InnerProduct", "right", "other", "num_output: 3"),
        L("both", "Concat", "fc_bn other", "both", "axis: 1"),
        L("out", "InnerProduct", "both", "out", "num_output: 4"),
    ],
    "before and after an activation": [
        L("c", "Convolution", "data", "c", CONV),
        L("r", "ReLU", "c", "r"),
        L("sum", "Eltwise", "c r", "sum"),
        L("out", "InnerProduct", "sum", "out", "num_output: 4"),
    ],
    "images normalised": [
        L("n", "BatchNorm", "data", "n"),
        L("p", "Pooling", "n", "p", "pool: AVE kernel_size: 3 stride: 2"),
        L("f", "Flatten", "p", "f"),
        L("out", "InnerProduct", "f", "out", "num_output: 4"),
    ],
    "fully convolutional": [
        L("c", "Convolution", "data", "c", CONV),
        L("relu", "ReLU", "c", "c"),
        L("score", "Convolution", "c", "score", "num_output: 4 kernel_size: 1"),
        L("pool", "Pooling", "score", "pool", "pool: AVE global_pooling: true"),
        L("prob", "Softmax", "pool", "prob"),
    ],
}


@pytest.mark.parametrize("net", NETS)
def test_networks_compute_as_in_caffe(net: str) -> None:
    """With the weights of a .caffemodel, on pixels."""
    layers, size = NETS[net], 13
    blobs = drawn(layers, size)
    write(Path("a.caffemodel"), network_file(layers, blobs))
    Path("net.prototxt").write_text(text(layers, size))
    assert call("a.caffemodel", "b.safetensors", "--model", "net.prototxt", "--scale", 0.02) == 0
    trained = Trained.load(Path("b.safetensors"), backend.device("cpu"))
    stored = np.random.default_rng(1).integers(0, 256, (3, 15, 15, 3), np.uint8)
    x = ((stored[:, 1:14, 1:14] - MEAN) * 0.02)[..., ::-1].transpose(0, 3, 1, 2)
    expected = naive(layers, blobs, x)
    last = trained.model.layers[-1].name
    actual = trained.activations(stored, [last])[last]
    assert actual.shape == expected.shape == (3, 4)
    assert_allclose(actual, expected, rtol=0, atol=2e-5 * abs(expected).max())


@pytest.mark.parametrize("net", NETS)
def test_they_learn(net: str) -> None:
    """Every parameter gets a gradient."""
    network = model(NETS[net], 13).build("cpu")
    network.train()
    x = Tensor(np.random.default_rng(0).standard_normal((4, 13, 13, 3)).astype(np.float32))
    network.loss(network(x), Tensor(np.arange(4, dtype=np.int32))).backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert gradients and all(g is not None and np.isfinite(g).all() for g in gradients.values())
    assert any(np.any(g) for g in gradients.values())
    assert isinstance(network, nn.Graph) == (net in ("branches", "before and after an activation"))


def test_an_activation_that_alone_follows_is_part_of_its_layer() -> None:
    found = model(NETS["before and after an activation"], 13)
    assert [layer.kind for layer in found.layers] == ["Conv2d", "Activation", "WeightedSum", "Flatten", "Linear"]
    found = model(NETS["a chain"], 13)
    assert [getattr(layer, "activation", None) for layer in found.layers if isinstance(layer, Conv2d | Linear)] == [
        "relu", "tanh", None,
    ]  # fmt: skip
    assert found.layers[0].name == "conv_1" and found.theirs["conv_1"] == ("conv/1",)


def test_batch_normalisation_is_caffes_by_default() -> None:
    """caffe.proto's BatchNormParameter: moving_average_fraction and eps."""
    layer = BatchNorm("b", momentum=0.999, epsilon=1e-5)
    found = model([CONV1, L("b", "BatchNorm", "c", "b"), OUT._replace(bottom="b")])
    assert found.layers[1] == layer


def test_other_classes() -> None:
    """In the layer that decides them; the text stays as it is."""
    for net, head in (("a chain", "out"), ("fully convolutional", "score"), ("branches", "out")):
        found = model(NETS[net], 13)
        other = found.with_classes(7)
        assert (other.classes, other.head, other.code) == (7, head, found.code)
        assert {row.layer.name: row.arrays for row in other.rows() if row.layer.name != head} == {
            row.layer.name: row.arrays for row in found.rows() if row.layer.name != head
        }
        assert found.with_classes(4) is found
    joined = [*NETS["branches"][:-1]]
    with pytest.raises(PrototxtError, match="expected 9, which more than one layer decides, got 7"):
        model(joined, 13).with_classes(7)
    with pytest.raises(PrototxtError, match="expected at least 1, got 0"):
        model(NETS["a chain"], 13).with_classes(0)


FILLERS = {
    "type: 'constant' value: 0.5": (0.5, 0.0),
    "value: 0.25": (0.25, 0.0),
    "type: 'gaussian' mean: 2 std: 0.1": (2.0, 0.1),
    "type: 'uniform' min: -1 max: 3": (1.0, 4 / math.sqrt(12)),
    "type: 'xavier'": (0.0, math.sqrt(1 / 75)),
    "type: 'xavier' variance_norm: FAN_OUT": (0.0, math.sqrt(1 / (400 * 25))),
    "type: 'msra' variance_norm: 2": (0.0, math.sqrt(2 / ((75 + 10000) / 2))),
    "": (0.0, math.sqrt(2 / 75)),
}


@pytest.mark.parametrize("filler", FILLERS)
def test_weights_are_drawn_as_their_filler_says(filler: str) -> None:
    """Mean and standard deviation of 30,000 of them; without a filler N(0, 2 / fan-in)."""
    weights = f"weight_filler {{ {filler} }}" if filler else ""
    fields = f"num_output: 400 kernel_size: 5 {weights} bias_filler {{ type: 'constant' value: 1 }}"
    state = (
        model([L("c", "Convolution", "data", "c", fields), L("o", "InnerProduct", "c", "o", "num_output: 2")])
        .build("cpu")
        .state()
    )
    mean, deviation = FILLERS[filler]
    assert_allclose(state["c.w"].mean(), mean, atol=5 * deviation / math.sqrt(30000) + 1e-6)
    assert_allclose(state["c.w"].std(), deviation, rtol=0.03, atol=1e-6)
    assert_array_equal(state["c.b"], np.ones(400, np.float32))


def test_what_is_not_applied_is_told() -> None:
    content = text(NETS["a chain"], 13).replace('type: "Convolution"', 'type: "Convolution" param { lr_mult: 2 }')
    assert model(content).source.endswith("(not applied: param)")
    assert "not applied" not in model(NETS["a chain"], 13).source


# ---------------------------------------------------------------------------------------------- commands


def small_net() -> list[L]:
    """For images of 32 pixels."""
    filler = "weight_filler { type: 'msra' }"
    return [
        L("conv1", "Convolution", "data", "conv1", f"num_output: 8 kernel_size: 5 stride: 2 {filler}"),
        L("relu1", "ReLU", "conv1", "conv1"),
        L("pool1", "Pooling", "conv1", "pool1", "kernel_size: 3 stride: 2"),
        L("bn", "BatchNorm", "pool1", "bn"),
        L("scale", "Scale", "bn", "bn", "bias_term: true"),
        L("drop", "Dropout", "bn", "bn"),
        L("fc", "InnerProduct", "bn", "fc", "num_output: 10"),
        L("prob", "Softmax", "fc", "prob"),
    ]  # fmt: skip


def run(command: Any, *arguments: object) -> int:
    return command_line.run(command, list(map(str, arguments)))


def test_a_run_from_the_file_to_its_evaluation(tiny_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run has the text: it goes on, and is evaluated, without the file; with other classes than the file's."""
    content = text(small_net(), 32)
    Path("small.prototxt").write_text(content)
    data = f"folder:{tiny_images}"
    shared = (
        "--data",
        data,
        "--batch",
        8,
        "--device",
        "cpu",
        "--set",
        "schedule=constant",
        "--set",
        "layers.fc.lr=0.5",
    )
    assert run(train.main, "--model", "small.prototxt", *shared, "--epochs", 2, "--out", "whole") == 0
    assert run(train.main, "--model", "small.prototxt", *shared, "--epochs", 1, "--out", "begun") == 0
    assert Path("whole/model.prototxt").read_text() == content
    assert run(summary.main, "--model", "small.prototxt", "--batch", 8, "--memory") == 0
    Path("small.prototxt").unlink()
    assert run(train.main, "--resume", "begun", "--epochs", 2, "--out", "gone_on") == 0
    one, other = (checkpoint.load(Path(folder) / "checkpoint.safetensors") for folder in ("whole", "gone_on"))
    assert one.weights["fc.w"].shape[0] == 7
    for array, w in one.weights.items():
        assert_array_equal(other.weights[array], w, array)
    assert run(evaluate.main, "whole", "--device", "cpu") == 0
    Path("small.prototxt").write_text(content.replace("msra", "xavier"))
    capsys.readouterr()
    assert run(train.main, "--resume", "whole", "--epochs", 3, "--model", "small.prototxt") == 2
    assert "small.prototxt is not as the run began with it" in capsys.readouterr().err


def test_two_towers(tiny_images: Path) -> None:
    """A chain with groups is divided between two devices as the package's models are."""
    groups = L("conv2", "Convolution", "pool1", "conv2", "num_output: 8 kernel_size: 3 group: 2")
    first, _, pool, *_ = layers = small_net()
    layers = [first, pool, groups, *(layer._replace(bottom="conv2") for layer in layers[-2:])]
    layers[-1] = layers[-1]._replace(bottom="fc")
    Path("small.prototxt").write_text(text(layers, 32))
    states = []
    for device in ("cpu", "cpu:0,cpu:1"):
        arguments = ("--data", f"folder:{tiny_images}", "--batch", 8, "--epochs", 1, "--device", device)
        assert run(train.main, "--model", "small.prototxt", *arguments, "--out", device.replace(":", "")) == 0
        states.append(checkpoint.load(Path(device.replace(":", "")) / "checkpoint.safetensors").weights)
    assert "conv2.w" in states[0]
    for array, w in states[0].items():
        assert_allclose(states[1][array], w, rtol=1e-3, atol=1e-4, err_msg=array)


def test_fine_tuning_from_a_caffemodel(tiny_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = small_net()
    write(Path("a.caffemodel"), network_file(layers, drawn(layers, 32)))
    Path("small.prototxt").write_text(text(layers, 32))
    arguments = ("--weights", "a.caffemodel", "--model", "small.prototxt", "--data", f"folder:{tiny_images}")
    assert run(train.main, *arguments, "--device", "cpu", "--epochs", 1, "--batch", 8, "--out", "run") == 0
    told = capsys.readouterr().out
    assert re.search(r"conv1 .* loaded", told) and re.search(r"bn .* loaded", told) and re.search(r"fc .* new: ", told)
    made = checkpoint.load(Path("run/checkpoint.safetensors"))
    assert made.description["config"]["code"]["name"] == "small" and made.weights["fc.w"].shape[0] == 7


def test_blue_and_red_change_places() -> None:
    """And BatchNorm's sums are divided by their number."""
    layers = small_net()
    write(Path("a.caffemodel"), network_file(layers, blobs := drawn(layers, 32)))
    Path("small.prototxt").write_text(text(layers, 32))
    assert call("a.caffemodel", "b.safetensors", "--model", "small.prototxt") == 0
    assert call("b.safetensors", "c.safetensors") == 0
    back = load_file("c.safetensors")
    assert_array_equal(back["conv1.weight"], blobs["conv1"][0][:, ::-1])  # RGB
    assert_array_equal(back["fc.weight"], blobs["fc"][0])
    assert_allclose(back["bn.running_var"], blobs["bn"][1] / 2.5, rtol=1e-6)
    assert_array_equal(back["bn.bias"], blobs["scale"][1])


@pytest.mark.parametrize("net", NETS)
def test_arrays_go_out_as_they_came_in(net: str) -> None:
    """In PyTorch's layout, which is Caffe's, but for the channels of what sees the images."""
    layers = NETS[net]
    write(Path("a.caffemodel"), network_file(layers, blobs := drawn(layers, 13)))
    Path("net.prototxt").write_text(text(layers, 13))
    assert call("a.caffemodel", "b.safetensors", "--model", "net.prototxt") == 0
    assert call("b.safetensors", "c.safetensors") == 0
    back, found = load_file("c.safetensors"), models.get("net.prototxt")
    assert isinstance(found, Deploy)
    seeing = {layer.name for layer, inputs in found.connected() if inputs == ("",)}
    for ours, (theirs, *_) in found.theirs.items():
        if len(blobs[theirs]) < 3 and ours not in seeing and net != "images normalised":
            assert_array_equal(back[f"{ours}.weight"], blobs[theirs][0], ours)
    assert {name.rpartition(".")[0] for name in back} == set(found.theirs)


def test_layers_that_a_deploy_file_does_not_have_are_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    layers = small_net()
    blobs = drawn(layers, 32)
    more = [*layers, L("loss1/fc", "InnerProduct", "bn", "x", "num_output: 3")]
    write(Path("a.caffemodel"), network_file(more, {**blobs, "loss1/fc": [np.ones((3, 4), np.float32)]}))
    Path("small.prototxt").write_text(text(layers, 32))
    assert call("a.caffemodel", "b.safetensors", "--model", "small.prototxt") == 0
    assert "note: ignored 'loss1/fc': not in small.prototxt" in capsys.readouterr().out


def without(name: str, blobs: dict[str, list[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    return {layer: held for layer, held in blobs.items() if layer != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: without("fc", b), "missing fc.w; missing fc.b"),
        (lambda b: without("bn", b), "missing bn.running_mean; missing bn.running_variance"),
        (lambda b: without("scale", b), "missing bn.gamma"),
        (lambda b: {**b, "bn": b["bn"][:2]}, "missing bn.running_mean"),
        (lambda b: {**b, "fc": [b["fc"][0][:, 1:], b["fc"][1]]}, "fc.w: expected float32 (10, "),
        (lambda b: {**b, "conv1": [b["conv1"][0][:, :2], b["conv1"][1]]}, "conv1.w: expected float32 (8, 3, 5, 5), "),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(change: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    layers = small_net()
    write(Path("a.caffemodel"), network_file(layers, change(drawn(layers, 32))))
    Path("small.prototxt").write_text(text(layers, 32))
    assert call("a.caffemodel", "b.safetensors", "--model", "small.prototxt") == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: a.caffemodel: ") and err.count("\n") == 1


IN_PARTS = {
    "in groups": [L("c", "Convolution", "data", "c", "num_output: 6 kernel_size: 3 group: 3")],
    "joined": [
        L("p", "Pooling", "data", "p", "kernel_size: 1"),
        L("c", "Concat", "data p", "c"),
    ],
    "added": [
        L("k", "Convolution", "data", "k", "num_output: 3 kernel_size: 1"),
        L("c", "Eltwise", "data k", "c"),
    ],
}


@pytest.mark.parametrize("images", IN_PARTS)
def test_blue_and_red_cannot_change_places_in_parts(images: str, capsys: pytest.CaptureFixture[str]) -> None:
    layers = [*IN_PARTS[images], L("out", "InnerProduct", "c", "out", "num_output: 4")]
    write(Path("a.caffemodel"), network_file(layers, drawn(layers, 13)))
    Path("net.prototxt").write_text(text(layers, 13))
    assert call("a.caffemodel", "b.safetensors", "--model", "net.prototxt") == 2
    assert "c: expected a layer that sees all channels of the images" in capsys.readouterr().err


def test_images_of_another_colour(capsys: pytest.CaptureFixture[str]) -> None:
    """Are a model, in Python; pixels have three channels."""
    content = text([L("out", "InnerProduct", "data", "out", "num_output: 4")], 6, channels=1)
    Path("grey.prototxt").write_text(content)
    assert models.get("grey.prototxt").input == (6, 6, 1)
    write(Path("a.caffemodel"), field(1, b"net"))
    assert call("a.caffemodel", "b.safetensors", "--model", "grey.prototxt") == 2
    assert "expected a network of images in colour, 3 channels, got 1" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- what is refused

DATA = text([])
OUT = L("out", "InnerProduct", "data", "out", "num_output: 4")
CONV1 = L("c", "Convolution", "data", "c", CONV)


def of(*layers: L) -> str:
    return text([*layers, L("out", "InnerProduct", layers[-1].top, "out", "num_output: 4")])


def conv(fields: str) -> str:
    return of(L("c", "Convolution", "data", "c", fields))


def pooled(fields: str) -> str:
    return of(L("p", "Pooling", "data", "p", fields))


REFUSED = {
    # the text format
    "": "net.prototxt:1: expected one input, the images, got none",
    "layer": "net.prototxt:1: expected ':' or '{' after layer, got the end of the file",
    "layer {": "net.prototxt:1: layer: expected a field or '}', got the end of the file",
    "}": "net.prototxt:1: expected a field, got '}'",
    "layer {\n>": "net.prototxt:2: layer: expected a field or '}', got '>'",
    "name:\n\n}": "net.prototxt:3: expected a value of name, got '}'",
    "name 5": "net.prototxt:1: expected ':' or '{' after name, got '5'",
    "name: 'a\n'": 'net.prototxt:1: expected a name, a value or a bracket, got "\'"',
    "input_dim: [1 2]": "net.prototxt:1: expected ',' or ']' in input_dim, got '2'",
    "input_dim: [1,": "net.prototxt:1: expected a value of input_dim, got the end of the file",
    "\x00": "expected a name, a value or a bracket, got '\\x00'",
    "a {" * 17: "net.prototxt:1: expected at most 16 messages within each other",
    "x" * (2**20 + 1): "expected a prototxt file of at most 1,048,576 characters, got 1,048,577",
    # the network
    "nmae: 'a'": "net.prototxt:1: nmae: expected one of name, input, input_dim, ",
    "name: 5 layer: 5": "layer: expected { ... }, got a value",
    "layer { name: 5 }": "net.prototxt:1: layer name: expected a string in \"\", got '5'",
    "layer { type: 'ReLU' }": "net.prototxt:1: layer name: is missing",
    "layer { name: 'a' }": "layer 'a' type: is missing",
    "layer { name: 'a' name: 'b' }": "layer name: expected one value, got 2",
    "layers { name: 'a' } layer { name: 'a' }": "layers: expected layer or layers, got both",
    "layers { name: 'a' type: 4 }": "layer 'a' type: expected one of CONVOLUTION, ",
    "layers { name: 'a' type: 'CONVOLUTION' }": "layer 'a' type: expected a name without quotes, got 'CONVOLUTION'",
    "layers { layer { name: 'a' } }": "layers name: is missing",
    DATA: "net.prototxt:1: expected layers, got none",
    text([OUT]).replace('"Input"', '"Data"'): "layer 'data' type: expected one of Convolution, ",
    text([OUT]).replace('"InnerProduct"', '"SoftmaxWithLoss"'): "got 'SoftmaxWithLoss'; this is a training's file",
    "layers { name: 'a' type: SOFTMAX_LOSS }": "got 'SOFTMAX_LOSS'; this is a training's file: take",
    text([OUT, OUT]): "layer 'out' name: is the name of the layer in line 3, too",
    text([OUT._replace(bottom="date")]): "net.prototxt:6: layer 'out' bottom: expected what a layer before makes, got "
    "'date'; did you mean data?",
    text([OUT._replace(bottom="")]): "layer 'out' bottom: expected 1, got 0",
    text([OUT._replace(bottom="data data")]): "layer 'out' bottom: expected 1, got 2",
    text([OUT]).replace('top: "out"', ""): "layer 'out' top: expected 1, got 0",
    text([OUT]).replace('top: "out"', 'top: "out" loss_weight: 1'): "layer 'out' loss_weight: expected one of name, ",
    text([OUT]).replace(
        'top: "out"', 'top: "out" include { phase: TEST }'
    ): "layer 'out' include: expected one of name",
    text([OUT, OUT._replace(name="b", top="b")]): "layer 'out' top: expected a layer that uses its output, got none",
    text([OUT]).replace("dim: 10", ""): "input_param shape dim: expected 4 numbers, N, C, H and W, got 3",
    text([OUT]).replace(
        "dim: 12", "dim: 0"
    ): "input_param shape dim: expected a whole number from 1 to 2147483647, got '0'",
    text([OUT], 5000): "expected images of at most 4096 channels, rows and columns, got 3x5000x5000",
    text([OUT], form="2014").replace("input_dim: 10", ""): "input_dim: expected 4 for each input, got 3",
    text([OUT], form="2014").replace("input:", "input: 'b' input:"): "input_dim: expected 4 for each input, got 4",
    text([OUT], form="input_shape").replace(
        "input_shape", "input_shape { } input_shape {}  input_shape"
    ): "input_shape: expected one for each of 1 inputs, got 3",
    text([OUT], form="input_shape").replace(
        "input:", "input: 'b' input:"
    ): "expected one input, the images, got 'b', 'data'",
    text([OUT, L("p", "Softmax", "out", "p"), L("r", "ReLU", "p", "r")]): "expected Softmax to be the last layer",
    text([CONV1]): "layer 'c': expected one value for each class at the end of the network, got 12x12x8",
    text(
        [CONV1, L("f", "Flatten", "c", "f")]
    ): "expected one value for each class at the end of the network, got 12x12x8",
    **{
        text([CONV1, L("f", "Flatten", "c", "f"), after]): f"layer {after.name!r}: expected one value for each class"
        for after in (
            L("e", "Eltwise", "f f", "e"),
            L("d", "Dropout", "f", "d"),
            L("r", "ReLU", "f", "r"),
            L("g", "Flatten", "f", "g"),
        )
    },
    of(
        CONV1,
        L("f", "Flatten", "c", "f"),
        L("g", "InnerProduct", "f", "g", "num_output: 1152"),
        L("e", "Eltwise", "f g", "e"),
    ): "layer 'e' bottom: expected inputs of one shape, got 1152 and 1152",
    text([L("f", "Flatten", "data", "f"), L("p", "Softmax", "f", "p")], 1): "expected a network with weights, got none",
    text([OUT._replace(fields="num_output: 4000000")]): "expected at most 1,000,000,000 parameters, got 1,732,000,000",
    # its layers
    text([OUT]).replace(
        "InnerProduct", "InerProduct"
    ): "type: expected one of Convolution, InnerProduct, Pooling, LRN, BatchNorm, Scale, ReLU, TanH, Sigmoid, "
    "Dropout, Softmax, Concat, Eltwise, Flatten, Input, got 'InerProduct'; did you mean InnerProduct?",
    text([OUT]).replace(
        "inner_product_param", "convolution_param"
    ): "layer 'out' convolution_param: expected one of name",
    text([OUT._replace(fields="num_output: 0")]): "inner_product_param num_output: expected a whole number from 1 to",
    text([OUT._replace(fields="num_output: 4.5")]): "num_output: expected a whole number from 1 to 16777216, got '4.5'",
    text([OUT._replace(fields="num_output: 4 num_output: 5")]): "num_output: expected one value, got 2",
    text([OUT._replace(fields="num_output: 4 axis: 2")]): "axis: expected a whole number from 1 to 1, got '2'",
    text([OUT._replace(fields="num_output: 4 transpose: true")]): "transpose: expected false",
    text([OUT._replace(fields="num_output: 4 bias_term: maybe")]): "bias_term: expected true or false, got 'maybe'",
    text(
        [OUT._replace(fields="num_output: 4 weight_filler { type: 'bilinear' }")]
    ): "weight_filler type: expected one of constant, uniform, gaussian, xavier, msra, got 'bilinear'",
    text(
        [OUT._replace(fields="num_output: 4 weight_filler { type: 'gaussian' std: -1 }")]
    ): "weight_filler std: expected a number from 0 to 1e+30, got '-1'",
    text(
        [OUT._replace(fields="num_output: 4 weight_filler { } weight_filler { }")]
    ): "weight_filler: expected once, got 2",
    conv("kernel_size: 3"): "layer 'c' convolution_param num_output: is missing",
    conv("num_output: 4"): "layer 'c' convolution_param kernel_size: is missing",
    conv("num_output: 4 kernel_h: 3 kernel_w: 5"): "kernel_h: expected the same height and width, got 3 and 5",
    conv("num_output: 4 kernel_h: 3"): "kernel_w: is missing",
    conv("num_output: 4 kernel_size: 3 kernel_w: 3"): "kernel_size: contradicts kernel_w: expected one of them",
    conv("num_output: 4 kernel_size: [3, 5]"): "kernel_size: expected the same height and width, got 3 and 5",
    conv("num_output: 4 kernel_size: [3, 3, 3]"): "kernel_size: expected at most 2 values, got 3",
    conv("num_output: 4 kernel_size: 3 pad_h: 1"): "pad_h: expected the same height and width, got 1 and 0",
    conv("num_output: 4 kernel_size: 3 dilation: 2"): "convolution_param dilation: expected 1",
    conv("num_output: 4 kernel_size: 3 group: 2"): "group: expected a divisor of 3 and 4 channels, got 2",
    conv("num_output: 4 kernel_size: 3 stride: 0"): "stride: expected a whole number from 1 to 4096, got '0'",
    conv("num_output: 4 kernel_size: 13"): "layer 'c': a window of 13 does not fit 12 pixels with padding (0, 0)",
    conv("num_output: 16777216 kernel_size: 1"): "expected at most 268,435,456 outputs, got 12x12x16777216",
    of(
        L("f", "Flatten", "data", "f"), CONV1._replace(bottom="f")
    ): "layer 'c' bottom: expected an image, got a vector of 432",
    pooled("kernel_size: 3 pool: STOCHASTIC"): "pool: expected MAX or AVE, got STOCHASTIC",
    pooled("kernel_size: 3 pool: MEAN"): "pool: expected MAX or AVE or STOCHASTIC, got 'MEAN'",
    pooled("pool: AVE kernel_size: 3 pad: 1"): "pad: expected 0 where pool is AVE, got 1",
    pooled("kernel_size: 2 pad: 2"): "pad: expected less than kernel_size, 2, got 2",
    pooled("kernel_size: 17"): "pooling_param: expected windows of at most 256 pixels, got 17x17",
    pooled(
        "kernel_size: 1 stride: 4"
    ): "stride: expected windows that begin in the image, got one beyond its 12x12 pixels",
    pooled(
        "global_pooling: true kernel_size: 3"
    ): "global_pooling: expected no kernel_size, stride 1 and pad 0 beside it",
    of(L("n", "LRN", "data", "n", "local_size: 4")): "lrn_param local_size: expected an odd number, got 4",
    of(
        L("n", "LRN", "data", "n", "norm_region: WITHIN")
    ): "norm_region: expected ACROSS_CHANNELS or WITHIN_CHANNEL, got",
    of(L("n", "LRN", "data", "n", "k: 0")): "lrn_param k: expected a number from 1e-30 to 1e+30, got '0'",
    of(L("n", "LRN", "data", "n", "alpha: 1e999")): "lrn_param alpha: expected a number from 0 to 1e+30, got '1e999'",
    of(
        CONV1, L("f", "Flatten", "c", "f"), L("b", "BatchNorm", "f", "b")
    ): "layer 'b' bottom: expected an image or a layer's outputs, got 1,152 flattened values",
    of(
        CONV1, L("s", "Scale", "c", "s")
    ): "layer 's' bottom: expected a BatchNorm before it whose output nothing else uses",
    of(
        CONV1, L("b", "BatchNorm", "c", "b"), L("s", "Scale", "b", "s"), L("e", "Eltwise", "b s", "e")
    ): "layer 's' bottom: expected a BatchNorm before it",
    of(CONV1, L("b", "BatchNorm", "c", "b"), L("s", "Scale", "b", "s"), L("t", "Scale", "s", "t")): "layer 't' bottom: "
    "expected a BatchNorm before it",
    of(L("r", "ReLU", "data", "r", "negative_slope: 0.1")): "relu_param negative_slope: expected a number from 0 to 0",
    of(
        L("d", "Dropout", "data", "d", "dropout_ratio: 1")
    ): "dropout_ratio: expected a number from 0 to 0.999999, got '1'",
    of(
        CONV1, L("k", "Concat", "c data", "k", "axis: 2")
    ): "concat_param axis: expected a whole number from 1 to 1, got '2'",
    of(
        CONV1, L("p", "Pooling", "c", "p", "kernel_size: 2"), L("k", "Concat", "c p", "k")
    ): "layer 'k' bottom: expected inputs of one height and width, got 12x12x8 and 11x11x8",
    of(
        CONV1, L("f", "Flatten", "c", "f"), L("k", "Concat", "f f", "k")
    ): "expected images, or vectors of layers' outputs, got flattened images",
    of(
        CONV1, L("e", "Eltwise", "c data", "e")
    ): "layer 'e' bottom: expected inputs of one shape, got 12x12x8 and 12x12x3",
    of(CONV1, L("e", "Eltwise", "c c", "e", "operation: MAX")): "eltwise_param operation: expected SUM, got MAX",
    of(
        CONV1, L("e", "Eltwise", "c c", "e", "coeff: 1")
    ): "eltwise_param coeff: expected one for each of 2 inputs, got 1",
    of(L("e", "Eltwise", "", "e")): "layer 'e' bottom: expected at least 1, got 0",
}


@pytest.mark.parametrize("content", REFUSED, ids=lambda content: REFUSED[content][:60])
def test_what_cannot_be_read_is_told_with_its_place(content: str) -> None:
    with pytest.raises(PrototxtError) as raised:
        model(content)
    message = str(raised.value)
    assert REFUSED[content] in message and message.startswith("net.prototxt") and "\n" not in message


def test_too_many_layers() -> None:
    layers = [L(f"r{i}", "ReLU", "data", "data") for i in range(1001)]
    with pytest.raises(PrototxtError, match="layer: expected at most 1,000, got 1,002"):
        model(layers)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "net.prototxt: No such file or directory"),
        (b"\xff\xfe\x00", "net.prototxt: expected text, got byte"),
        (b"\x80", "net.prototxt: expected text, got byte 0x80 at 0"),
        (b" " * (2**20 + 1), "net.prototxt: expected a prototxt file of at most 1,048,576 bytes, got more"),
        (b"layer {", "net.prototxt:1: layer: expected a field or '}', got the end of the file"),
    ],
)
@pytest.mark.parametrize("command", [train.main, summary.main])
def test_commands_tell_it_in_a_line(
    command: Any, content: bytes | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        write(Path("net.prototxt"), content)
    assert run(command, "--model", "net.prototxt") == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: ") and err.count("\n") == 1


def test_a_checkpoint_of_another_text() -> None:
    code = dict(model(NETS["a chain"], 13).code)
    with pytest.raises(PrototxtError, match="expected the text with digest"):
        caffe.from_code({**code, "text": code["text"] + " "})
    with pytest.raises(PrototxtError, match="code: expected file, name, text, digest as strings, got file"):
        caffe.from_code({"file": "net.prototxt"})
    found = models.described("net", {"dropout": False}, {}, code)
    assert "Dropout" not in [layer.kind for layer in found.layers]
    with pytest.raises(ValueError, match="expected at most dropout = False for a model of files, got lrn = False"):
        models.described("net", {"lrn": False}, {}, code)
    assert recipe.change(recipe.Recipe(), recipe.plain(recipe.of(found)), "x").described().code == code


# ---------------------------------------------------------------------------------------------- fuzz

WHOLE = text(NETS["branches"], 13) + "# a comment\n"
PIECES = ["{", "}", "<", ">", "[", "]", ":", '"', "'", "#", "\\", ",", ";", " ", "\n", "-1", "0", "1e9", "99999999999",
          "1.5.2", "layer", "layers", "top", "bottom", "data", '"data"', "num_output: 4", "kernel_size: 99",
          "stride: 7", "pad: 9", "dim: 1", "true", "\x00", "\u00e9", "\ud800"]  # fmt: skip


VALUES = ["0", "1", "2", "3", "5", "8", "-1", "4097", "1e3", "0.5", "nan", "true", '"a"', '"b"', '"cat"', '"Concat"',
          '"Flatten"', '"InnerProduct"', '"ReLU"', '"Softmax"']  # fmt: skip


def read_or_refused(content: str) -> None:
    """A network that can be counted, or the one kind of error."""
    try:
        found = model(content)
    except PrototxtError:
        return
    assert found.parameters <= caffe.MOST_PARAMETERS
    assert found.nodes[-1].row.output == (found.classes,)


def test_every_file_that_is_cut_off_is_refused_or_read() -> None:
    for end in range(0, len(WHOLE), 3):
        read_or_refused(WHOLE[:end])


@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE)), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=6)
)
def test_altered_files_are_refused_or_read(changes: list[tuple[int, int, str]]) -> None:
    content = WHOLE
    for place, length, piece in changes:
        content = content[:place] + piece + content[place + length :]
    read_or_refused(content)


def scalars(message: prototxt.Message) -> Iterator[prototxt.Scalar]:
    for values in message.fields.values():
        for value in values:
            yield from [value] if isinstance(value, prototxt.Scalar) else scalars(value)


@given(st.data())
def test_altered_values_are_refused_or_read(data: st.DataObject) -> None:
    """Numbers and words within an else whole file: the layers' own checks."""
    places = [m.span(1) for m in re.finditer(r': ("?[\w.-]+"?)', WHOLE)]
    content = WHOLE
    for start, end in sorted(data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=3, unique=True)))[::-1]:
        value = data.draw(st.sampled_from(VALUES))
        content = content[:start] + value + content[end:]
    read_or_refused(content)


def test_the_text_format() -> None:
    """What protocol buffers allow: any brackets, separators, comments, lists, strings in pieces."""
    content = "a: 'x' \"y\" # a: 1\nb < c: -1.5e-3; c: .5f, c: [1, 2.] > b { c: MAX d: [] } e: 'it\\'s' f: 5.e3"
    made = prototxt.read(content, "x")
    one, two = made.messages("b")
    assert made.text("a") == "xy" and made.text("e") == "it's"
    assert one.numbers("c") == [-1.5e-3, 0.5, 1, 2] and two.name("c") == "MAX" and two.scalars("d") == []
    assert made.number("f", 0) == 5000 and [scalar.line for scalar in scalars(made)][:2] == [1, 2]


def test_flattening_is_told_apart() -> None:
    assert [row.layer.kind for row in model([OUT]).rows()] == ["Flatten", "Linear"]
    assert isinstance(model(NETS["a chain"], 13).layers[3], Flatten)
