"""Networks of every operation as ONNX files, in onnxruntime: what it answers is what the network does, for any number
of images. Also what such files hold, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given, strategies as st
from ml_dtypes import bfloat16
from numpy.testing import assert_allclose
from test_convnet import BASES

from alexnet_cuda import Tensor, backend, checkpoint, command_line, convert, models, nn, ops
from alexnet_cuda.inference import Trained
from alexnet_cuda.models import Own, convnet
from alexnet_cuda.short_weights import shorten
from alexnet_cuda.tensor import Function, no_grad
from alexnet_cuda.weights import WeightsError, onnx_graph
from alexnet_cuda.weights.onnx_graph import DEFAULT, Export
from alexnet_cuda.weights.onnx_operators import WRITERS
from alexnet_cuda.weights.recorded import recorded

pytest_plugins = ["tiny_run"]
pytestmark = pytest.mark.oracle

INPUT = (6, 5, 3)
Compute = Callable[[Tensor, "Net"], Tensor]


class Net(nn.Module):
    """A function of images (N, H, W, 3) and of some parameters: ``w`` of any shape, drawn once."""

    def __init__(self, compute: Compute) -> None:
        super().__init__()
        self.compute, self.kept = compute, nn.ModuleDict()
        self.unused = nn.Parameter(np.zeros(1, np.float32))

    def w(self, *shape: int) -> nn.Parameter:
        """Normal numbers."""
        name = f"w{'x'.join(map(str, shape))}"
        if not hasattr(self, name):
            setattr(self, name, nn.Parameter(reference.random(*shape, seed=sum(shape)) / 2))
        parameter = getattr(self, name)
        assert isinstance(parameter, nn.Parameter)
        return parameter

    def layer(self, name: str, made: nn.Module) -> nn.Module:
        """The layer of that name, the first one made."""
        if name not in self.kept:
            self.kept[name] = made.eval()
        return self.kept[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x, self)


def trained(network: nn.Module, input: tuple[int, ...] = INPUT) -> Trained:
    """The network as if it came from a checkpoint."""
    network.eval()
    with no_grad():  # makes what it keeps
        outputs = network(Tensor(np.zeros((2, *input), np.float32))).shape[1]
    model = models.registered("net", lambda classes: network, input, classes=outputs)
    assert isinstance(model, Own)
    mean = reference.random(*input, seed=5)
    classes = tuple(map(str, range(outputs)))
    return Trained(Path("net"), {"scale": 0.5}, classes, mean, model, network, backend.device("cpu"), 8)


class Runtime:
    """What onnxruntime makes of a network."""

    def __init__(self, import_oracle: Callable[[str], ModuleType]) -> None:
        self.onnx, self.runtime = import_oracle("onnx"), import_oracle("onnxruntime")

    def written(self, network: nn.Module, export: Export = DEFAULT, input: tuple[int, ...] = INPUT) -> Any:
        """The checked model."""
        model = onnx_graph.graph(trained(network, input), export)
        self.onnx.checker.check_model(model, full_check=True)
        return model

    def agrees(
        self, network: nn.Module, export: Export = DEFAULT, input: tuple[int, ...] = INPUT, model: Any = None
    ) -> Any:
        """Compares answers for one image and three, within the rounding of sums in another order; returns the model,
        which may have been written before."""
        model = self.written(network, export, input) if model is None else model
        session = self.runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for count in (export.batch,) if export.batch else (1, 3):
            pixels = reference.random(count, *input, seed=count) * 2
            seen = (pixels - reference.random(*input, seed=5)) * np.float32(0.5)
            with no_grad():
                expected = network(Tensor(seen)).numpy()
            (actual,) = session.run(None, {"pixels": pixels})
            assert actual.shape == expected.shape
            assert_allclose(actual, expected, rtol=0, atol=2e-5 * abs(expected).max())
        return model


@pytest.fixture(scope="module")
def runtime(import_oracle: Callable[[str], ModuleType]) -> Runtime:
    return Runtime(import_oracle)


def rows(y: Tensor) -> Tensor:
    """Whatever there is of each image, as (N, F)."""
    return ops.flatten(y) if len(y.shape) > 1 else y.reshape(-1, 1)


def convolved(x: Tensor, net: Net) -> Tensor:
    """Images that are channels first in the file, (N, 6, 5, 4)."""
    return ops.conv2d(x, net.w(4, 3, 3, 3), padding=1)


def stem(of: Compute) -> tuple[Compute, Compute]:
    """On what is channels last in the file, and on what is channels first."""
    return (lambda x, net: rows(of(x, net))), (lambda x, net: rows(of(convolved(x, net), net)))


def layer(made: Callable[[int], nn.Module]) -> Compute:
    """A layer for so many channels."""
    return lambda x, net: net.layer("layer", made(x.shape[-1]))(x)


def moved_norm(channels: int) -> nn.BatchNorm:
    norm = nn.BatchNorm(channels)
    for t in (norm.gamma, norm.beta, norm.running_mean, norm.running_variance):
        t.data[...] = abs(reference.random(channels, seed=len(t.shape) + 3)) + 0.5
    return norm


LARGE = 10.0


def pointwise(name: str) -> Compute:
    return lambda x, net: ops.pointwise(abs(x) if name == "sqrt" else x, name, 0.7, 1.3)


CASES: dict[str, Compute] = {
    **{f"pointwise {name}": pointwise(name) for name in ops.POINTWISE},
    "add a vector": lambda x, net: x + net.w(x.shape[-1]),
    "add an image": lambda x, net: net.w(*x.shape[1:]) + x,
    "add a row": lambda x, net: x + net.w(x.shape[2], 1),
    "subtract a number": lambda x, net: 1.5 - x,
    "multiply itself": lambda x, net: x * x,
    "multiply by pixels": lambda x, net: x * x[..., :1],
    "divide": lambda x, net: x / (abs(x) + net.w(1) ** 2 + 1),
    "power": lambda x, net: abs(x) ** net.w(x.shape[-1]),
    "into five axes": lambda x, net: x.reshape(-1, 1, *x.shape[1:]) * net.w(2, 1, 1, 1),
    "exp": lambda x, net: x.exp(),
    "log": lambda x, net: (abs(x) + 1).log(),
    "sqrt": lambda x, net: (abs(x) + 1).sqrt(),
    "clip": lambda x, net: x.clip(-0.2, 0.3),
    "clip below": lambda x, net: ops.clip(x, low=0.1),
    "where": lambda x, net: ops.where(x > 0.1, x * 2, net.w(x.shape[-1])),
    "==": lambda x, net: (x.clip(0, 1) == 0) + (x.clip(0, 1) != 1),
    "<": lambda x, net: (x < net.w(x.shape[-1])) + 2 * (x <= 0.1) + 3 * (x >= x[:, :1]),
    "cast": lambda x, net: x + ops.cast(ops.cast(x > 0.1, bfloat16), np.float32),
    "relu, tanh, sigmoid": lambda x, net: ops.activation(ops.activation(ops.activation(x, "relu"), "tanh"), "sigmoid"),
    "sum of all pixels": lambda x, net: x.sum((1, 2)),
    "sum over channels": lambda x, net: x.sum(-1),
    "sum over rows": lambda x, net: x.sum(1),
    "sums kept": lambda x, net: x - x.sum((1, 3), keepdims=True),
    "sum over nothing": lambda x, net: x.sum(()),
    "mean of everything": lambda x, net: x - x.mean(),
    "mean of pixels kept": lambda x, net: x * x.mean((1, 2), keepdims=True),
    "mean over the batch": lambda x, net: x - x.mean(0),
    "max over channels": lambda x, net: x.max(3, keepdims=True) - x,
    "max of pixels": lambda x, net: x.max((1, 2)),
    "softmax": lambda x, net: (x - x.max(-1, keepdims=True)).exp() / x.exp().sum(-1, keepdims=True),
    "reshape": lambda x, net: x.reshape(x.shape[0] * 2, 3, -1).reshape(x.shape[0], -1),
    "reshape by what it has": lambda x, net: x.reshape(x.shape) + 1,
    "images beside each other": lambda x, net: (
        x.reshape(-1, x.shape[0]).reshape(x.shape[0], x.shape[1], -1) * x.mean((2, 3))[..., None]
    ),
    "transpose": lambda x, net: x.transpose((0, 3, 2, 1)) * 2,
    "transpose from the end": lambda x, net: x.transpose((0, -1, 1, 2)),
    "images last": lambda x, net: x.T.sum(0).T,
    "index": lambda x, net: x[:, 1:-1, ::2],
    "index backwards": lambda x, net: x[:, ::-1, -2::-2],
    "index with integers": lambda x, net: x[:, -1, ..., 1],
    "index with axes": lambda x, net: x[:, None, 2, :, None, 1:],
    "index by channels": lambda x, net: x[..., 1:],
    "index nothing": lambda x, net: x[...] * 2,
    "images but the last": lambda x, net: ops.concat([x[1:], x[:1]], axis=0),
    "concat channels": lambda x, net: ops.concat([x, x * 2, x[..., :1]]),
    "concat rows": lambda x, net: ops.concat([x, x[:, 2:] + 1], axis=1),
    "concat images": lambda x, net: ops.concat([x, x], axis=0).reshape(x.shape[0], -1),
    "take channels": layer(lambda C: nn.TakeChannels(np.array([np.roll(np.arange(C), 1), np.arange(C)]))),
    "subsample": lambda x, net: ops.subsample(x, 1, 2),
    "upsample": lambda x, net: ops.upsample2d(x, 3),
    "broadcast": lambda x, net: ops.broadcast_to(net.w(x.shape[-1]), x.shape) * x,
    "broadcast images": lambda x, net: ops.broadcast_to(x.mean((1, 2), keepdims=True), x.shape) - x,
    "matmul": lambda x, net: x @ net.w(x.shape[-1], 2),
    "matmul of images": lambda x, net: x.transpose((0, 1, 3, 2)) @ x,
    "matmul of a matrix": lambda x, net: net.w(3, x.shape[2]) @ x,
    "linear": lambda x, net: ops.linear(ops.flatten(x), net.w(7, x.shape[1] * x.shape[2] * x.shape[3])),
    "linear with bias": lambda x, net: ops.linear(x.mean((1, 2)), net.w(7, x.shape[-1]), net.w(7), relu=True),
    "linear of another's": lambda x, net: ops.linear(x.mean((1, 2)), net.w(x.shape[-1], 4).T),
    "linear of computed weights": lambda x, net: ops.linear(x.mean((1, 2)), x[0, 0]),
    "convolution": lambda x, net: ops.conv2d(x, net.w(4, 3, 2, x.shape[-1]), net.w(4), (2, 1), ((1, 0), (0, 2))),
    "convolution by the ceil rule": lambda x, net: ops.conv2d(x, net.w(4, 3, 3, x.shape[-1]), stride=2, ceil=True),
    "convolution in groups": lambda x, net: ops.conv2d(
        ops.concat([x, 1 - x]), net.w(4, 3, 3, x.shape[-1]), padding=1, groups=2, relu=True
    ),
    "convolution of computed filters": lambda x, net: ops.conv2d(x, x[:2, 1:3, 2:4]),
    "own filters for each pixel": lambda x, net: ops.local2d(
        x, net.w(3, 2, 4, 3, 3, x.shape[-1]), net.w(3, 2, 4), stride=2, relu=True, padding=((1, 0), (0, 0))
    ),
    "own filters in groups": lambda x, net: ops.local2d(
        ops.concat([x, 1 - x]), net.w(3, 2, 4, 3, 3, x.shape[-1]), stride=2, groups=2, ceil=True
    ),
    "max pool": lambda x, net: ops.max_pool2d(x, 3, 2, 1),
    "max pool by the ceil rule": lambda x, net: ops.max_pool2d(x, (3, 2), (2, 1), ceil=True),
    "avg pool": lambda x, net: ops.avg_pool2d(x, 3, 2, 1),
    "avg pool by the ceil rule": lambda x, net: ops.avg_pool2d(x, (2, 3), ceil=True),
    "lrn": lambda x, net: ops.lrn(x, 3, alpha=0.3),
    "lrn of an even size": lambda x, net: ops.lrn(x, 2, alpha=0.3),
    "lrn in groups": lambda x, net: ops.lrn(ops.concat([x, 1 - x]), 3, alpha=0.3, groups=2),
    "lrn of rows": lambda x, net: ops.lrn(x.mean(1), 3, alpha=0.3),
    "lrn and pool at once": lambda x, net: ops.lrn_max_pool2d(x, {"alpha": 0.3}, {"size": 3, "ceil": True}),
    "spatial lrn": lambda x, net: ops.spatial_lrn(x, 4, alpha=0.3),
    "contrast norm": lambda x, net: ops.contrast_norm(x, 4, alpha=0.3),
    "batch norm": layer(moved_norm),
    "batch norm of rows": lambda x, net: net.layer("norm", moved_norm(x.shape[-1]))(x.mean((1, 2))),
    "batch norm of three axes": lambda x, net: net.layer("norm", moved_norm(x.shape[-1]))(x.mean(1)),
    "dropout": layer(lambda C: nn.Dropout(0.3)),
    "dropout that scales in training": lambda x, net: ops.dropout(x, 0.3, "inverted", training=False) + 1,
    "weighted sum": lambda x, net: ops.weighted_sum([x, x * x], [0.5, 1.0], net.w(x.shape[-1]), relu=True),
    "weighted sum with a bias of pixels": lambda x, net: ops.weighted_sum([x, x], b=net.w(*x.shape[1:])),
    "blur": layer(lambda C: nn.Blur(C, 3, 1.0)),
    "to another device": lambda x, net: x.to("cpu:1").to("cpu:0") * 2,
    "all pixels at once": lambda x, net: x.mean((1, 2, 3))[:, None] + x.reshape(1, -1) @ x.reshape(-1, 1),
    "images by images, twice": lambda x, net: (
        ops.broadcast_to(x.T[..., None], (*x.T.shape, x.shape[0])).sum(-1).T
        + ops.broadcast_to(x.mean(), (x.shape[0], 1, 1, 1))
    ),
    "images by images": lambda x, net: ops.broadcast_to(x.T[..., None], (*x.T.shape, x.shape[0])).sum(-1).T,
    "images beside images": lambda x, net: (lambda y: (y @ y.T).reshape(-1, 1).reshape(x.shape[0], x.shape[0]) @ y)(
        ops.flatten(x)
    ),
    "squeeze and excite": lambda x, net: (
        x * ops.activation(ops.linear(x.mean((1, 2)), net.w(x.shape[-1], x.shape[-1])), "sigmoid")[:, None, None]
    ),
    "attention": lambda x, net: (lambda q: (q @ q.transpose((0, 2, 1))).exp() @ (q @ net.w(x.shape[-1], 2)))(
        x.reshape(x.shape[0], -1, x.shape[-1]) * 0.3
    ),
}


@pytest.mark.parametrize("place", ["images as they come", "after a convolution"])
@pytest.mark.parametrize("case", CASES)
def test_every_operation(runtime: Runtime, case: str, place: str) -> None:
    network = Net(stem(CASES[case])[place == "after a convolution"])
    runtime.agrees(network)


@pytest.mark.parametrize("export", [Export(13), Export(18), Export(22), Export(plain=True), Export(batch=3)], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        "max of pixels",
        "sums kept",
        "mean of pixels kept",
        "lrn in groups",
        "avg pool",
        "contrast norm",
        "index",
        "upsample",
    ],
)
def test_every_form(runtime: Runtime, case: str, export: Export) -> None:
    model = runtime.agrees(Net(stem(CASES[case])[1]), export)
    assert not export.plain or not {node.op_type for node in model.graph.node} & {"LRN", "AveragePool"}


def test_cases_have_every_operation_with_a_form() -> None:
    heard = set[type[Function]]()
    for case in CASES.values():
        for of in stem(case):
            network = Net(of)
            trained(network)
            heard |= {type(step.function) for step in recorded(network, INPUT, backend.device("cpu")).steps}
    assert heard == set(WRITERS)


STEPS: dict[str, Compute] = {
    "conv": lambda x, net: ops.conv2d(x, net.w(4, 3, 3, x.shape[-1]), padding=1, relu=True),
    "pointwise conv": lambda x, net: ops.conv2d(x, net.w(3, 1, 1, x.shape[-1]), net.w(3)),
    "pool": lambda x, net: ops.max_pool2d(x, 2, 1, ceil=True) if x.shape[1] > 2 and x.shape[2] > 2 else x,
    "scale": lambda x, net: x * net.w(x.shape[-1]),
    "excite": lambda x, net: x * ops.activation(x.mean((1, 2), keepdims=True), "sigmoid"),
    "tanh": lambda x, net: ops.activation(x, "tanh"),
    "norm": lambda x, net: net.layer(f"norm{x.shape[-1]}", moved_norm(x.shape[-1]))(x),
    "lrn": lambda x, net: ops.lrn(x, 3, alpha=0.1),
    "residual": lambda x, net: x + ops.conv2d(x, net.w(x.shape[-1], 3, 3, x.shape[-1]), padding=1),
    "branches": lambda x, net: ops.concat([x, ops.avg_pool2d(x, 3, 1, 1)]),
    "halves": lambda x, net: ops.concat([x[:, :, :1], x], axis=2),
    "turn": lambda x, net: x.transpose((0, 2, 1, 3)),
    "channels": lambda x, net: x[..., :2] if x.shape[-1] > 2 else x,
    "softmax": lambda x, net: x.exp() / x.exp().sum(-1, keepdims=True),
    "mix pixels": lambda x, net: x.reshape(x.shape[0], -1, x.shape[-1]).transpose((0, 2, 1)).reshape(x.shape),
    "where": lambda x, net: ops.where(x > 0, x, 0.1 * x),
    "matmul": lambda x, net: ops.activation(x @ net.w(x.shape[-1], 3), "tanh"),
    "enlarge": lambda x, net: ops.upsample2d(x)[:, 1:-1, 1:-1] if x.shape[1] < 7 else x,
}


@given(
    st.lists(st.sampled_from(list(STEPS)), min_size=1, max_size=6),
    st.tuples(st.integers(3, 7), st.integers(3, 7)),
    st.sampled_from([DEFAULT, Export(opset=13), Export(opset=22), Export(plain=True), Export(batch=2)]),
)
def test_networks_of_drawn_steps(runtime: Runtime, steps: list[str], size: tuple[int, int], export: Export) -> None:
    def compute(x: Tensor, net: Net) -> Tensor:
        before = x
        for step in steps:
            x = STEPS[step](x, net)
        mean = before.mean((1, 2))  # read where other layouts have been written, too
        return ops.concat([ops.linear(ops.flatten(x), net.w(5, int(np.prod(x.shape[1:])))), mean])

    runtime.agrees(Net(compute), export, (*size, 3))


@pytest.mark.parametrize("size", BASES)
def test_networks_of_cuda_convnets_files(runtime: Runtime, size: int) -> None:
    """Among them one of all types of layers, and one in two towers."""
    network = convnet.parse("x", *BASES[size], size).build("cpu", seed=1)
    runtime.agrees(network, input=(size, size, 3))


def test_a_chain_of_layers_has_no_transposes_in_between(runtime: Runtime) -> None:
    """Once channels first, and back where pixels become features; what is tied is held once."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(3, 3, 3, padding=1, activation="relu") for _ in range(2))
            self.second.w = self.first.w
            self.norm, self.head = moved_norm(3), nn.Linear(90, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.second(self.first(x))
            return self.head(ops.flatten(ops.lrn(ops.max_pool2d(self.norm(y) * 2 + y, 1))))

    for half in (False, True):
        graph = runtime.written(Chain(), Export(half=half)).graph
        operators = [node.op_type for node in graph.node]
        assert operators[:3] == ["Sub", "Mul", "Transpose"] and operators[-3:] != ["Transpose"]
        assert operators.count("Transpose") == 2 and operators.count("Cast") == 2 * half
        filters, again = (node.input[1] for node in graph.node if node.op_type == "Conv")
        assert filters == again
        assert len({initializer.name for initializer in graph.initializer}) == len(graph.initializer)
    runtime.agrees(Chain())


def test_what_the_answer_does_not_need_is_not_written(runtime: Runtime) -> None:
    class Aside(Function):
        def forward(self, x: Any) -> Any:
            return x + 1

    def compute(x: Tensor, net: Net) -> Tensor:
        Aside.apply(x)
        return rows(x * Aside.apply(net.w(3)))  # of weights alone: a constant

    model = runtime.agrees(Net(compute))
    assert [node.op_type for node in model.graph.node] == ["Sub", "Mul", "Mul", "Flatten"]


class Doubled(Function):
    """An operation of a user's own."""

    def forward(self, x: Any) -> Any:
        return 2 * x


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Doubled.apply(x)


def test_an_operation_without_a_form_is_named_with_its_layer(runtime: Runtime) -> None:
    network = nn.Sequential(
        flat=nn.Flatten(), body=nn.Sequential(fc=nn.Linear(90, 4), twice=Inner()), head=nn.Linear(4, 2)
    )
    with pytest.raises(WeightsError, match=r"^body\.twice: Doubled: ONNX has no such operation: .*alexnet_cuda\.ops"):
        runtime.written(network)
    with pytest.raises(WeightsError, match=r"^Net: Doubled: ONNX has no such operation"):
        runtime.written(Net(lambda x, net: rows(Doubled.apply(x))))


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (
            lambda x, net: rows(x / x.shape[0]),
            "Net: divide: numbers: expected the same whatever the images and their number: --batch N may write it",
        ),
        (lambda x, net: rows(x * x.mean().item()), "Net: Sum: expected a network that does not look at values"),
        (lambda x, net: rows(x[: x.shape[0] // 2 + 1]), "Net: Index: places: expected the same"),
        (
            lambda x, net: rows(x + x.data.mean((0, 1, 2))),
            "Net: add: expected inputs that operations of alexnet_cuda compute of the images",
        ),
        (lambda x, net: rows(x * 2 if x.shape[0] == 2 else x + 2), "Net: multiply: operation: expected the same"),
        (lambda x, net: rows(x if x.shape[0] == 2 else x.T.T), "Net: Reshape: expected the same operations whatever"),
        (lambda x, net: rows(x) * 2 if x.shape[0] == 5 else rows(x), "^expected the same operations whatever the im"),
        (
            lambda x, net: rows(x + ops.broadcast_to(net.w(1, 3), (x.shape[0] ** 2, 3)).mean(0)),
            "Net: Expand: ONNX has no shape that depends so on the number of images",
        ),
        (
            lambda x, net: ops.max_pool2d(x.reshape(1, -1, 5, 3), 1).reshape(x.shape[0], -1),
            "Net: MaxPool2d: expected images of one size, got one that depends on how many there are",
        ),
        (lambda x, net: rows(ops.dropout(x)), "Net: Dropout: ONNX is written of evaluation"),
        (lambda x, net: rows(net.layer("layer", nn.NoisyReLU())(x)), "layer: noisy_relu: expected inputs that"),
        (lambda x, net: rows(x[:, :0].sum(1) + x[:, 0]), "Net: Index: expected a result with values"),
    ],
)
def test_what_no_file_can_have(runtime: Runtime, compute: Compute, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        runtime.written(Net(compute))


def test_a_fixed_number_of_images_writes_what_depends_on_it(runtime: Runtime) -> None:
    network = Net(lambda x, net: rows(x[: x.shape[0] // 2 + 1] / x.shape[0])[:1] + x.mean((1, 2, 3))[:, None])
    runtime.agrees(network, Export(batch=4))
    with pytest.raises(WeightsError, match=r"add: expected inputs that operations .* the images$"):
        runtime.written(Net(lambda x, net: rows(x + x.data.mean((0, 1, 2)))), Export(batch=4))


OWN = """
from alexnet_cuda import nn, ops
from alexnet_cuda.tensor import Function

class Doubled(Function):
    def forward(self, x):
        return 2 * x

class Net(nn.Module):
    def __init__(self, classes, input=(6, 5, 3)):
        super().__init__()
        self.head = nn.Linear(90, classes)

class Pairs(Net):
    def forward(self, x):
        return self.head(x.reshape(2, 90))

class Composed(Net):
    def forward(self, x):
        return Doubled.apply(self.head(ops.flatten(x)))
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Pairs", "nets.py:16, in forward: ValueError: reshape: expected a shape of 270 values"),
        ("Composed", "error: Composed: Doubled: ONNX has no such operation: networks of those in alexnet_cuda.ops"),
    ],
)
def test_the_command_tells_in_a_line(
    runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "nets.py").write_text(OWN)
    model = models.get(f"{tmp_path / 'nets.py'}:{name}")
    config = {**model.entries(), "options": {}, "seed": 0, "scale": 1.0, "data": None}
    about = {"config": config, "classes": list(map(str, range(10)))}
    saved = checkpoint.Checkpoint(model.build("cpu").state(), {}, np.zeros(INPUT, np.float32), about)
    checkpoint.save(tmp_path / "a.safetensors", saved)
    arguments = [str(tmp_path / "a.safetensors"), str(tmp_path / "a.onnx")]
    assert command_line.run(convert.main, arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_is_written_in_float32_whatever_the_networks_precision(runtime: Runtime, precision: str) -> None:
    def compute(x: Tensor, net: Net) -> Tensor:
        constant = net.layer("head", nn.Linear(5, 90))(net.w(1, 5))
        return ops.flatten(net.layer("conv", nn.Conv2d(3, 3, 3, padding=1))(x)) + constant

    network = Net(compute)
    trained(network)
    network.set_precision(precision)
    model = runtime.written(network)
    assert [network.kept[name].precision for name in ("head", "conv")] == [precision, precision]
    network.set_precision("fp32")
    exact = runtime.agrees(network)
    assert model == exact


def test_weights_of_half_size_name_their_layer(runtime: Runtime) -> None:
    network = Net(lambda x, net: rows(net.layer("mix", nn.Conv2d(3, 2, 1))(x)))
    written = trained(network)
    network.kept["mix"].w.data[...] = 1e6
    with pytest.raises(WeightsError, match=r"^kept.mix: Conv2d: expected weights of at most 65504"):
        onnx_graph.graph(written, replace(DEFAULT, half=True))


class Headed(nn.Module):
    """A convolution and fully connected layers, of which two share their matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(90, 7, "relu")
        self.twice = [nn.Linear(7, 7) for _ in range(2)]
        self.twice[0].w = self.twice[1].w

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(ops.flatten(self.conv(x)))
        return self.twice[1](self.twice[0](y))


@pytest.mark.parametrize("opset", [13, 17, 22])
@pytest.mark.parametrize("half", [False, True])
def test_matrices_in_int8_are_those_of_short_weights(runtime: Runtime, opset: int, half: bool) -> None:
    network = Headed()
    network.fc.w.data[3] = 0
    model = runtime.written(network, Export(opset=opset, int8=True, half=half))
    shorten(network, "int8")
    if half:
        network.conv.w = nn.Parameter(network.conv.w.numpy().astype(np.float16).astype(np.float32))
    runtime.agrees(network, model=model)
    stored = [w for w in model.graph.initializer if w.data_type == runtime.onnx.TensorProto.INT8]
    assert [tuple(w.dims) for w in stored] == [(7, 90), (7, 7)]
    (axis,) = {node.attribute[0].i for node in model.graph.node if node.op_type == "DequantizeLinear"}
    assert axis == 0


def test_a_trained_network_in_int8_answers_as_with_short_weights(runtime: Runtime, tiny_run: Path) -> None:
    exact, short = Trained.load(tiny_run, "cpu"), Trained.load(tiny_run, "cpu", weights_dtype="int8")
    images = exact.data().test.load(np.arange(35))[0]
    model = onnx_graph.graph(exact, Export(int8=True))
    session = runtime.runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    top, left, _ = exact.centre[0]
    H, W, _ = exact.model.input
    pixels = images[:, top : top + H, left : left + W].astype(np.float32)
    (actual,) = session.run(None, {"pixels": pixels})
    expected = short.logits(images)
    assert_allclose(actual, expected, rtol=0, atol=2e-5 * abs(expected).max())
    assert abs(exact.logits(images) - expected).max() > 1e-4 * abs(expected).max()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda fc: fc.w.data.__setitem__((0, 1), np.nan), r"^fc: Linear: expected finite weights for int8, got nan"),
        (lambda fc: shorten(nn.Sequential(fc=fc), "int8"), r"^fc: Linear: expected weights in float32, .*, got int8$"),
    ],
)
def test_weights_that_int8_cannot_be_made_of(
    runtime: Runtime, break_it: Callable[[nn.Linear], None], message: str
) -> None:
    network = Headed()
    written = trained(network)
    break_it(network.fc)
    with pytest.raises(WeightsError, match=message):
        onnx_graph.graph(written, Export(int8=True))
