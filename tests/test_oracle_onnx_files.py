"""ONNX files as networks: the onnx package's own cases, onnxruntime, our own files there and back; and hostile ones."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import reference

from alexnet_cuda import (
    Tensor,
    command_line,
    convert,
    evaluate,
    models,
    no_grad,
    ops,
    optim,
    predict,
    summary,
    train,
    weights,
)
from alexnet_cuda.checkpoint import Checkpoint
from alexnet_cuda.files import WeightsError
from alexnet_cuda.inference import Trained
from alexnet_cuda.models import onnx as onnx_files
from alexnet_cuda.quantise import quantised
from alexnet_cuda.weights import onnx_graph

pytest_plugins = ["tiny_run"]
pytestmark = pytest.mark.oracle

LISTED = [
    line for line in (Path(__file__).parent / "onnx_node_cases.txt").read_text().splitlines() if line[:1] not in "#"
]
DRAWN = {"test_training_dropout", "test_training_dropout_default"}
Import = Callable[[str], ModuleType]
Change = Callable[[Any, ModuleType], None]
"""Of a model, with the package onnx."""


@cache
def node_cases() -> dict[str, Any]:
    """The package's cases of one operator that is read, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with np.errstate(all="ignore"):  # of cases with other numbers
        cases = collect_testcases(None)
    return {
        case.name: case
        for case in cases
        if len(case.model.graph.node) == 1
        and f"{(node := case.model.graph.node[0]).domain}.{node.op_type}".lstrip(".") in onnx_files.TABLE
        and "_expanded" not in case.name
        and all(isinstance(x, np.ndarray | np.generic) for inputs, _ in case.data_sets for x in inputs)
    }


def run_case(case: Any) -> None:
    for inputs, outputs in case.data_sets:
        names = (entry.name for entry in case.model.graph.input)
        found = onnx_files.run(case.model, dict(zip(names, map(np.asarray, inputs), strict=True)))
        for actual, expected in zip(found, outputs, strict=True):
            assert actual.dtype == expected.dtype
            np.testing.assert_allclose(actual, expected, case.rtol, case.atol, strict=True)


@pytest.mark.parametrize("name", LISTED)
def test_a_case_of_the_onnx_package(import_oracle: Import, name: str) -> None:
    import_oracle("onnx")
    run_case(node_cases()[name])


@pytest.mark.parametrize(
    ("x", "scale", "zero", "axis", "message"),
    [
        (np.zeros((2, 3), np.int8), np.ones(2, np.float32), None, 1, r"axis 1: expected a scale for each of \(2, 3\)"),
        (np.zeros((2, 3), np.int8), np.ones(3, np.float32), None, 2, r"axis 2: expected a scale for each of \(2, 3\)"),
        (np.zeros((2, 3), np.int8), np.ones(2, np.float32), np.zeros(3, np.int8), 0, "expected a zero for each scale"),
        (np.zeros((2, 3), np.int8), np.ones(2, np.float32), np.zeros(2, np.uint8), 0, "a zero of their type, got int8"),
        (np.zeros((2, 3), np.int8), np.ones((2, 1), np.float32), None, 0, "expected 0 or 1 axes, got shape"),
    ],
)
def test_scales_that_do_not_fit(
    import_oracle: Import, x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, axis: int, message: str
) -> None:
    helper = import_oracle("onnx").helper
    inputs = {"x": x, "scale": scale} | ({} if zero is None else {"zero": zero})
    entries = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in inputs.items()
    ]
    node = helper.make_node("DequantizeLinear", list(inputs), ["y"], axis=axis)
    graph = helper.make_graph([node], "g", entries, [helper.make_tensor_value_info("y", 1, x.shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    with pytest.raises(WeightsError, match=rf"^model: node dequantizelinear1 \(DequantizeLinear\): .*{message}"):
        onnx_files.run(model, inputs)


def test_all_other_cases_of_these_operators_are_refused(import_oracle: Import) -> None:
    import_oracle("onnx")
    others = node_cases().keys() - set(LISTED) - DRAWN
    assert len(LISTED) > 90 and len(others) > 10
    for name in others:
        with pytest.raises(WeightsError, match=r"^model: node \w+ \([\w.]+\): .*expected .*, got "):
            run_case(node_cases()[name])


# ---- networks


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-5 of the largest logit."""
    assert np.isfinite(expected).all() and abs(expected).max() > 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * abs(expected).max(), strict=True)


class Making:
    """A graph as it is written down."""

    def __init__(self, onnx: ModuleType, shape: tuple[Any, ...], opset: int = 17) -> None:
        self.onnx, self.opset, self.shape = onnx, opset, shape
        self.nodes, self.arrays, self.value = list[Any](), list[Any](), "x"
        self.rng = np.random.default_rng(0)

    def random(self, *shape: int) -> np.ndarray:
        return (self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)

    def array(self, array: Any) -> str:
        name = f"w{len(self.arrays)}"
        self.arrays.append(self.onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, operator: str, *inputs: Any, x: str | None = None, **attributes: Any) -> str:
        """A node on the last value or x, and on further ones or on arrays."""
        names = [entry if isinstance(entry, str) else self.array(entry) for entry in inputs]
        y = f"y{len(self.nodes)}"
        first = [] if x == "" else [x or self.value]
        self.nodes.append(self.onnx.helper.make_node(operator, [*first, *names], [y], **attributes))
        self.value = y
        return y

    def model(self) -> Any:
        helper, floats = self.onnx.helper, self.onnx.TensorProto.FLOAT
        x = helper.make_tensor_value_info("x", floats, self.shape)
        y = helper.make_tensor_value_info(self.value, floats, None)
        graph = helper.make_graph(self.nodes, "made", [x], [y], self.arrays)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def runtime(import_oracle: Import, model: Any, x: np.ndarray) -> np.ndarray:
    session = import_oracle("onnxruntime").InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (name,) = (entry.name for entry in session.get_inputs())
    (y,) = session.run(None, {name: x})
    return y


def network(model: Any, path: Path) -> Any:
    path.write_bytes(model.SerializeToString())
    return models.from_onnx(path).eval()


def logits(net: Any, images: np.ndarray) -> np.ndarray:
    with no_grad():
        return net(Tensor(np.ascontiguousarray(images))).numpy()


def alexnet_like(onnx: ModuleType) -> Making:
    m = Making(onnx, ("N", 3, 35, 35))
    m.add("Conv", m.random(16, 3, 7, 7), m.random(16), strides=[2, 2], pads=[1, 2, 3, 0], name="/features/conv.1")
    m.add("Relu")
    m.add("LRN", size=5, alpha=1e-2, beta=0.75, bias=2.0)
    m.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    m.add("Conv", m.random(24, 8, 5, 5), group=2, auto_pad="SAME_UPPER", strides=[2, 2])
    m.add("BatchNormalization", *(abs(m.random(24)) + 0.5 for _ in range(4)))
    m.add("Tanh")
    m.add("AveragePool", kernel_shape=[2, 2], pads=[1, 1, 0, 0])
    batch = m.add("Gather", np.int64(0), x=m.add("Shape"), axis=0)
    places = m.add("Concat", m.array(np.array([-1])), x=m.add("Unsqueeze", np.array([0]), x=batch), axis=0)
    m.add("Reshape", places, x="y7")
    m.add("Gemm", m.random(32, 384), m.random(32), transB=1, alpha=0.5)
    m.add("Sigmoid")
    m.add("Dropout", np.float32(0.5))
    m.add("MatMul", m.random(32, 10))
    m.add("Add", m.random(10))
    return m


def branches(onnx: ModuleType) -> Making:
    """A block with a sum, one with a concatenation, arithmetic between images and vectors in each order, odd shapes."""
    m = Making(onnx, (2, 3, 12, 9), opset=13)
    first = m.add("Conv", m.random(8, 3, 3, 3), pads=[1] * 4)
    m.add("Relu")
    second = m.add("Conv", m.random(8, 8, 1, 1), m.random(8))
    m.add("Add", first, x=second)
    m.add("Mul", m.random(8, 1, 1))
    m.add("Sub", x=m.array(m.random(1, 8, 1, 9)))
    m.nodes[-1].input.append("y4")
    joined = m.add("Concat", first, axis=1)
    m.add("LeakyRelu", alpha=0.1)
    m.add("Clip", np.float32(-1), np.float32(1.5))
    m.add("Pad", np.array([0, 0, 1, 0, 0, 0, 2, 3]))
    m.add("AveragePool", kernel_shape=[3, 2], strides=[2, 3], pads=[1, 0, 1, 1], count_include_pad=1)
    m.add("PRelu", m.random(16, 1, 1))
    m.add("ReduceMean", axes=[2], keepdims=0)
    m.add("Transpose", perm=[0, 2, 1])
    m.add("MatMul", m.random(16, 6))
    m.add("Add", m.random(6))
    m.add("Softmax", axis=-1)
    m.add("Flatten")
    m.add("Gemm", m.random(24, 4))
    assert joined
    return m


def residual(onnx: ModuleType) -> Making:
    m = Making(onnx, (1, 3, 16, 16), opset=11)
    m.add("Conv", m.random(8, 3, 3, 3), pads=[1] * 4)
    first = m.add("Elu")
    m.add("Conv", m.random(8, 8, 3, 3), pads=[1] * 4)
    m.add("Sum", first, first)
    m.add("Div", np.float32(2))
    m.add("GlobalAveragePool")
    m.add("Reshape", np.array([1, 8]))  # as if there were never more than one image
    m.add("Gemm", m.random(8, 5), m.random(5))
    m.add("Softmax")
    return m


GRAPHS = [alexnet_like, branches, residual]


@pytest.mark.parametrize("make", GRAPHS)
def test_a_network_gives_onnxruntimes_logits(
    import_oracle: Import, tmp_path: Path, make: Callable[[ModuleType], Making]
) -> None:
    onnx = import_oracle("onnx")
    m = make(onnx)
    model = m.model()
    net = network(model, tmp_path / "net.onnx")
    N, C, H, W = (n if isinstance(n, int) else 3 for n in m.shape)
    x = reference.random(N, C, H, W)
    expected, actual = runtime(import_oracle, model, x), logits(net, x.transpose(0, 2, 3, 1))
    if m.nodes[-1].op_type == "Softmax":
        actual = np.exp(actual) / np.exp(actual).sum(1, keepdims=True)
    assert_close(actual, expected)
    if m.nodes[-1].op_type != "Softmax":  # whatever number of images the file was written for
        one = [logits(net, image[None].transpose(0, 2, 3, 1)) for image in x]
        assert_close(np.concatenate(one), expected)
    more = logits(net, np.concatenate([x, -x]).transpose(0, 2, 3, 1))
    np.testing.assert_allclose(more[:N], logits(net, x.transpose(0, 2, 3, 1)), 0, 1e-5 * abs(more).max())


LARGE = 10**7
"""Parameters from which on a model takes seconds."""
EXPORTS = [
    onnx_graph.Export(),
    onnx_graph.Export(opset=13, plain=True, preprocessing=True),
    onnx_graph.Export(opset=22, batch=2, half=True),
    onnx_graph.Export(int8=True),
]


def written(name: str, w: np.ndarray, export: onnx_graph.Export) -> np.ndarray:
    """A parameter as that export has it."""
    if export.half and name.endswith(".w"):
        return w.astype(np.float16).astype(np.float32)
    if export.int8 and name.endswith(".w") and w.ndim == 2:
        q, scale = quantised(w)
        return q * scale[:, None]
    return w


def ours(name: str) -> Trained:
    """A model with random weights, those of normalisation too."""
    model, rng = models.get(name), np.random.default_rng(3)
    state = {
        key: (abs(rng.standard_normal(w.shape)) + 0.5).astype(np.float32) if "norm" in key else w
        for key, w in model.build("cpu", 3).state().items()
    }
    config = {"model": name, "options": {}, "seed": 0, "scale": 0.02, "data": None}
    mean = 255 * rng.random(model.input, np.float32)
    about = {"config": config, "classes": [f"class {i}" for i in range(model.classes)]}
    return Trained.of(Checkpoint(state, {}, mean, about), "ours", "cpu")


@pytest.mark.parametrize(
    ("name", "export"),
    [
        *(
            pytest.param(name, EXPORTS[0], marks=[pytest.mark.slow] if models.get(name).parameters > LARGE else [])
            for name in models.names()
        ),
        *(("alexnet-mini", export) for export in EXPORTS[1:]),
        ("cifar-11pct", EXPORTS[1]),
    ],
)
def test_our_files_come_back(import_oracle: Import, tmp_path: Path, name: str, export: onnx_graph.Export) -> None:
    import_oracle("onnx")
    trained, path = ours(name), tmp_path / "ours.onnx"
    onnx_graph.save(path, trained, export)
    images = np.random.default_rng(0).integers(0, 256, (3, *trained.model.input), np.uint8)
    trained.network.load_state({k: written(k, w, export) for k, w in trained.network.state().items()})
    with no_grad():
        expected = trained.watched(images, lambda name, y: None).numpy()
    assert_close(logits(models.from_onnx(path).eval(), images.astype(np.float32)), expected)
    assert models.get(str(path)).classes == trained.model.classes


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet"]
)
def test_a_network_of_the_onnx_package(import_oracle: Import, tmp_path: Path, name: str) -> None:
    """Its weights, which the file makes of shapes alone, are drawn here."""
    onnx = import_oracle("onnx")
    model = onnx.load(Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx")
    rng, shapes = np.random.default_rng(0), {a.name: onnx.numpy_helper.to_array(a) for a in model.graph.initializer}
    with pytest.raises(
        WeightsError, match=r"\(ConstantOfShape\): expected one value and a shape of at most 65,536 of it"
    ):
        network(model, tmp_path / "light.onnx")
    around = {
        i: n for node in model.graph.node if node.op_type == "BatchNormalization" for n, i in enumerate(node.input)
    }
    for node in [node for node in model.graph.node if node.op_type == "ConstantOfShape"]:
        shape, place = tuple(shapes[node.input[0]]), around.get(node.output[0], 0)
        values = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:] or (100,))))
        values = abs(values) + np.float32(0.9) if place in (1, 4) else values  # scale and variance
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, node.output[0]))
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for array in [array for array in model.graph.initializer if array.name not in used]:
        model.graph.initializer.remove(array)
    model.ir_version = 8  # from which on arrays are no inputs
    for entry in [entry for entry in model.graph.input if entry.name in shapes]:
        model.graph.input.remove(entry)
    x = rng.standard_normal((1, 3, 224, 224), np.float32)
    net = network(model, tmp_path / "net.onnx")
    if model.graph.node[-1].op_type == "Softmax":
        before = model.graph.node[-1].input[0]
        del model.graph.node[-1], model.graph.output[:]
        model.graph.output.append(onnx.helper.make_tensor_value_info(before, onnx.TensorProto.FLOAT, None))
    expected = runtime(import_oracle, model, x).reshape(1, 1000)
    assert_close(logits(net, x.transpose(0, 2, 3, 1)), expected)
    images = np.concatenate([x, -x])  # more than the file was written for
    assert_close(logits(net, images.transpose(0, 2, 3, 1))[:1], expected)


# ---- training


def test_a_network_trains(import_oracle: Import, tmp_path: Path) -> None:
    """Weights of layers and biases move, as do running statistics; arrays of arithmetic stay."""
    m = alexnet_like(import_oracle("onnx"))
    m.add("Mul", m.random(10) + 1)
    net = network(m.model(), tmp_path / "net.onnx").train()
    x, labels = reference.random(8, 35, 35, 3), np.arange(8, dtype=np.int32)
    before, sgd = net.state(), optim.SGD(net.parameters(), lr=0.05, momentum=0.9, decay=0)
    losses = []
    for _ in range(60):
        sgd.zero_grad()
        loss = ops.softmax_cross_entropy(net(Tensor(x)), Tensor(labels))
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    moved = {name for name, array in net.state().items() if not np.array_equal(array, before[name])}
    assert before.keys() - moved == {"mul1.a"}
    assert [name for name, _ in net.named_buffers()] == ["norm1.running_mean", "norm1.running_variance", "mul1.a"]


def test_gradients(import_oracle: Import, tmp_path: Path) -> None:
    """Of a network with branches and arithmetic, against differences of the loss along the gradient."""
    net = network(branches(import_oracle("onnx")).model(), tmp_path / "net.onnx")
    x, labels = Tensor(reference.random(4, 12, 9, 3)), Tensor(np.array([0, 1, 2, 3], np.int32))
    ops.softmax_cross_entropy(net(x), labels).backward()
    for name, p in net.named_parameters():
        direction = p.grad / np.sqrt((p.grad**2).sum())
        w, step, ends = p.data, np.float32(2e-3), []
        for sign in (1, -1):
            p.data = w + sign * step * direction
            with no_grad():
                ends.append(ops.softmax_cross_entropy(net(x), labels).item())
        p.data = w
        slope = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(slope, np.sqrt((p.grad**2).sum()), rtol=0.05, err_msg=name)


def test_biases_are_trained(import_oracle: Import, tmp_path: Path) -> None:
    """Those that are added after a product, also in another order of axes; not those after anything else."""
    m = Making(import_oracle("onnx"), ("N", 3, 8, 8))
    m.add("Conv", m.random(4, 3, 3, 3))
    m.add("Add", m.random(4, 1, 1))
    m.add("Transpose", perm=[0, 2, 3, 1])
    m.add("Relu")
    m.add("Add", m.random(4))
    m.add("MatMul", m.random(4, 6))
    m.add("Transpose", perm=[0, 3, 1, 2])
    m.add("Add", m.random(6, 1, 1))
    m.add("Flatten")
    m.add("Gemm", m.random(216, 4))
    net = network(m.model(), tmp_path / "net.onnx")
    assert [name for name, _ in net.named_parameters()] == ["conv1.w", "add1.a", "matmul1.w", "add3.a", "fc1.w"]
    assert [name for name, _ in net.named_buffers()] == ["add2.a"]


def test_a_model_has_the_arrays_that_are_not_trained(import_oracle: Import, tmp_path: Path) -> None:
    """Its weights are drawn; what arithmetic does is the network's."""
    m = Making(import_oracle("onnx"), ("N", 3, 8, 8))
    m.add("Conv", m.random(4, 3, 3, 3))
    m.add("Mul", factors := m.random(4, 1, 1) + 2)
    m.add("Div", m.random(4, 6, 6) + 2)
    m.add("Flatten")
    m.add("Mul", m.random(144) + 2)
    m.add("Gemm", m.random(144, 4), m.random(4))
    (tmp_path / "net.onnx").write_bytes(m.model().SerializeToString())
    state, whole = models.get(str(tmp_path / "net.onnx")).build("cpu").state(), models.from_onnx(tmp_path / "net.onnx")
    assert np.array_equal(state["mul1.a"], factors)
    assert {name for name, array in whole.state().items() if np.array_equal(array, state[name])} == {
        "mul1.a",
        "mul2.a",
        "div1.a",
    }


def test_tied_weights_stay_tied(import_oracle: Import, tmp_path: Path) -> None:
    m = Making(import_oracle("onnx"), ("N", 3, 8, 8))
    shared = m.array(m.random(3, 3, 3, 3))
    m.add("Conv", shared, pads=[1] * 4)
    m.add("Conv", shared, pads=[1] * 4)
    m.add("Flatten")
    m.add("Gemm", m.random(192, 4))
    net = network(m.model(), tmp_path / "net.onnx")
    assert net.conv1.w is net.conv2.w and len(net.parameters()) == 2


def test_one_matrix_with_two_factors_is_two(import_oracle: Import, tmp_path: Path) -> None:
    m = Making(import_oracle("onnx"), ("N", 3, 4, 4))
    m.add("Flatten")
    m.add("Gemm", shared := m.array(m.random(48, 48)), alpha=0.5)
    m.add("Gemm", shared, alpha=2.0)
    x, model = reference.random(2, 3, 4, 4), m.model()
    expected = runtime(import_oracle, model, x)
    assert_close(logits(network(model, tmp_path / "net.onnx"), x.transpose(0, 2, 3, 1)), expected)


def test_nodes_may_bear_any_names(import_oracle: Import, tmp_path: Path) -> None:
    """Also those of a module's own attributes, and what is no identifier."""
    m = Making(import_oracle("onnx"), ("N", 3, 4, 4))
    m.add("Flatten", name="1/\u00e9")
    for name in ("train_", "train", "_graph", "7", "forward", "train"):
        m.add("Gemm", m.random(48, 48), name=name)
    net = network(m.model(), tmp_path / "net.onnx")
    assert len(net.parameters()) == 6
    assert list(net.state()) == [f"{name}.w" for name in ("train_", "train1", "graph", "n7", "forward_", "train2")]


def test_other_classes_have_a_new_last_layer(import_oracle: Import, tmp_path: Path) -> None:
    m = alexnet_like(import_oracle("onnx"))
    (tmp_path / "net.onnx").write_bytes(m.model().SerializeToString())
    model = models.get(str(tmp_path / "net.onnx"))
    assert (model.classes, model.input) == (10, (35, 35, 3))
    other = model.with_classes(4)
    shapes = {row.named(array): shape for row in other.rows() for array, shape in row.arrays.items()}
    assert shapes["matmul1.w"] == (4, 32) and shapes["matmul1.b"] == (4,)
    assert other.build("cpu")(Tensor(reference.random(2, 35, 35, 3))).shape == (2, 4)
    conv = Making(import_oracle("onnx"), ("N", 3, 8, 8))
    conv.add("Conv", conv.random(10, 3, 3, 3), conv.random(10))
    conv.add("GlobalAveragePool")
    (tmp_path / "conv.onnx").write_bytes(conv.model().SerializeToString())
    few = models.get(str(tmp_path / "conv.onnx")).with_classes(3)
    assert few.build("cpu")(Tensor(reference.random(2, 8, 8, 3))).shape == (2, 3)
    one, two = (model.build("cpu", seed).state() for seed in (1, 2))
    again = model.build("cpu", 1).state()
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["fc1.w"], two["fc1.w"])


# ---- commands


@pytest.fixture
def folder(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, import_oracle: Import) -> Path:
    """A folder with tiny_run's network as net.onnx."""
    import_oracle("onnx")
    monkeypatch.chdir(tmp_path)
    call(convert, tiny_run, "net.onnx")
    return tmp_path


def call(command: ModuleType, *words: object) -> None:
    assert command_line.run(command.main, [str(word) for word in words]) == 0


def test_the_commands(folder: Path, tiny_run: Path, tiny_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, data = next((tiny_images / "val").rglob("*.png")), ["--data", f"folder:{tiny_images}", "--batch", "8"]
    capsys.readouterr()
    call(summary, "--model", "net.onnx")
    assert "net: net.onnx, digest " in capsys.readouterr().out
    call(convert, "net.onnx", "net.safetensors")
    out = capsys.readouterr().out
    assert "note: " not in out
    assert "net.onnx (ONNX network) to net.safetensors (checkpoint)" in out
    tables = []
    for run in (tiny_run, "net.safetensors"):
        call(predict, run, image, "--json", "--device", "cpu")
        tables.append(json.loads(capsys.readouterr().out)[0]["top"])
    for ours, theirs in zip(*tables, strict=True):
        assert ours["class"] == theirs["class"]
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-5)
    call(train, "--weights", "net.onnx", *data, "--epochs", "1", "--out", "tuned", "--device", "cpu")
    assert "fc3" in (out := capsys.readouterr().out) and "new: " not in out and "left out" not in out
    call(train, "--model", "net.onnx", *data, "--epochs", "1", "--out", "drawn", "--device", "cpu")
    text = Path("drawn", "model.json").read_text()
    Path("net.onnx").unlink()
    call(train, "--resume", "drawn", "--epochs", "2", "--device", "cpu")
    call(evaluate, "drawn", "tuned", "--views", "1", "--device", "cpu")
    call(train, "--weights", "drawn", *data, "--epochs", "1", "--out", "again", "--device", "cpu")
    assert Path("again", "model.json").read_text() == text


def normalising(onnx: ModuleType) -> Making:
    """As torchvision has it, and LeNet behind."""
    m = Making(onnx, ("N", 3, 28, 28))
    m.add("Div", np.float32(255))
    m.add("Sub", np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1))
    m.add("Div", np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1))
    m.add("Conv", m.random(8, 3, 5, 5), m.random(8), strides=[2, 2])
    m.add("Relu")
    m.add("Flatten")
    m.add("Gemm", m.random(8 * 12 * 12, 5), m.random(5))
    m.add("Softmax")
    return m


def test_what_a_graph_does_to_pixels_becomes_mean_and_scale(import_oracle: Import, tmp_path: Path) -> None:
    model = normalising(import_oracle("onnx")).model()
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    kind, saved = weights.read(tmp_path / "net.onnx")
    assert kind == "ONNX network" and saved.description["notes"] == []
    np.testing.assert_allclose(saved.mean, np.full((32, 32, 3), np.multiply(weights.TORCHVISION[0], 255)), rtol=1e-6)
    np.testing.assert_allclose(saved.description["config"]["scale"], 1 / np.multiply(weights.TORCHVISION[1], 255), 1e-6)
    assert set(saved.weights) == {"conv1.w", "conv1.b", "fc1.w", "fc1.b"}
    trained = Trained.of(saved, "net.onnx", "cpu")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    seen = images[:, 2:-2, 2:-2].astype(np.float32).transpose(0, 3, 1, 2)
    assert_close(trained.probabilities(images), runtime(import_oracle, model, np.ascontiguousarray(seen)))
    _, other = weights.read(tmp_path / "net.onnx", mean=np.ones(3, np.float32), scale=[2.0])
    assert other.description["config"]["scale"] == 2 and (other.mean == 1).all()


@pytest.mark.parametrize(
    "add",
    [
        lambda m: m.add("Mul", m.random(28, 28)),  # of a pixel, not of a channel
        lambda m: m.add("Mul", np.zeros(1, np.float32)),
        lambda m: m.add("Sub", x=m.array(np.float32(1))),
        lambda m: m.add("Add", m.add("Relu"), x="x"),
        lambda m: m.add("Add", m.value),
    ],
)
def test_other_beginnings_stay_in_the_network(
    import_oracle: Import, tmp_path: Path, add: Callable[[Making], str]
) -> None:
    m = Making(import_oracle("onnx"), ("N", 3, 28, 28))
    add(m)
    if m.nodes[-1].op_type == "Sub":
        m.nodes[-1].input.append("x")
    m.add("Flatten")
    m.add("Gemm", m.random(3 * 28 * 28, 5))
    model = m.model()
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    _, saved = weights.read(tmp_path / "net.onnx")
    assert not saved.mean.any() and saved.description["config"]["scale"] == 1
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    x = np.ascontiguousarray(images[:, 2:-2, 2:-2].astype(np.float32).transpose(0, 3, 1, 2))
    logits = Trained.of(saved, "net.onnx", "cpu").watched(images, lambda name, y: None).numpy()
    np.testing.assert_allclose(logits, expected := runtime(import_oracle, model, x), 0, 1e-5 * abs(expected).max())


def test_weights_are_of_networks_in_colour(import_oracle: Import, tmp_path: Path) -> None:
    m = Making(import_oracle("onnx"), ("N", 1, 8, 8))
    m.add("Flatten")
    m.add("Gemm", m.random(64, 5))
    (tmp_path / "net.onnx").write_bytes(m.model().SerializeToString())
    with pytest.raises(
        WeightsError, match=r"net.onnx: expected a network that sees images in colour, got .*\(8, 8, 1\)"
    ):
        weights.read(tmp_path / "net.onnx")
    with pytest.raises(WeightsError, match="an ONNX file, which has its own model"):
        weights.read(tmp_path / "net.onnx", "alexnet")


def test_a_network_goes_out_again(folder: Path, import_oracle: Import, capsys: pytest.CaptureFixture[str]) -> None:
    """As ONNX: what it does to pixels comes in and goes out once."""
    call(convert, "net.onnx", "again.onnx")
    call(convert, "again.onnx", "third.onnx")
    capsys.readouterr()
    onnx, x = import_oracle("onnx"), np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.float32)
    first, *others = (runtime(import_oracle, onnx.load(f"{name}.onnx"), x) for name in ("net", "again", "third"))
    for other in others:
        assert_close(other, first)
    shapes = [[a.dims for a in onnx.load(f"{name}.onnx").graph.initializer] for name in ("again", "third")]
    assert shapes[0] == shapes[1]


def test_a_changed_file_does_not_go_on(folder: Path, tiny_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", f"folder:{tiny_images}", "--batch", "8", "--device", "cpu"]
    call(train, "--model", "net.onnx", *data, "--epochs", "1", "--out", "run")
    path = folder / "net.onnx"
    path.write_bytes(path.read_bytes().replace(b"logits", b"scores"))
    again = ["--resume", "run", "--model", "net.onnx", "--epochs", "2", "--device", "cpu"]
    assert command_line.run(train.main, again) == 2
    assert "--resume: net.onnx is not as the run began with it: digest" in capsys.readouterr().err
    call(train, *again, "--force")


# ---- bad input


def small(onnx: ModuleType) -> Making:
    m = Making(onnx, ("N", 3, 8, 8))
    m.add("Conv", m.random(4, 3, 3, 3), m.random(4), kernel_shape=[3, 3])
    m.add("Relu")
    m.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    m.add("Flatten")
    m.add("Gemm", m.random(36, 5), m.random(5))
    return m


def attribute(place: int, **values: Any) -> Change:
    """What gives a node other attributes."""

    def change(model: Any, onnx: ModuleType) -> None:
        node = model.graph.node[place]
        for name, value in values.items():
            for old in [entry for entry in node.attribute if entry.name == name]:
                node.attribute.remove(old)
            node.attribute.append(onnx.helper.make_attribute(name, value))

    return change


def assign(place: str, value: Any) -> Change:
    """What sets a field, such as graph.node.0.op_type, appends to one that repeats, or deletes one, for None."""

    def change(model: Any, onnx: ModuleType) -> None:
        *path, last = place.split(".")
        for word in path:
            model = model[int(word)] if word.isdigit() else getattr(model, word)
        if last.isdigit():
            model[int(last)] = value
        elif value is None:
            model.ClearField(last)
        elif isinstance(value, list):
            model.ClearField(last)
            getattr(model, last).extend(value)
        else:
            setattr(model, last, value)

    return change


def dims(place: int, *sizes: int) -> Change:
    return assign(f"graph.initializer.{place}.dims", list(sizes))


def subgraph(model: Any, onnx: ModuleType) -> None:
    attribute(1, then_branch=onnx.helper.make_graph([], "g", [], []))(model, onnx)


def image(*sizes: int) -> Change:
    def change(model: Any, onnx: ModuleType) -> None:
        for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, sizes, strict=True):
            dim.dim_value = size

    return change


CONV, RELU, POOL, FC = (
    rf": node {node}: " for node in (r"conv1 \(Conv\)", r"relu1 \(Relu\)", r"pool1 \(MaxPool\)", r"fc1 \(Gemm\)")
)
BAD: list[tuple[Change, str]] = [
    (assign("graph.node.1.op_type", "Reluu"), r": node reluu1 \(Reluu\): expected an operator that .*mean Relu"),
    (assign("graph.node.1.domain", "com.ms"), r": node relu1 \(com.ms.Relu\): expected an operator of an opset"),
    (assign("opset_import.0.version", 6), ": opset of ai.onnx: expected 7 to 28, got 6"),
    (assign("opset_import.0.version", 29), ": opset of ai.onnx: expected 7 to 28, got 29"),
    (assign("opset_import", None), f"{CONV}expected an operator of an opset that the file imports, none"),
    (assign("graph", None), ": expected an ONNX file with a graph of nodes, got none"),
    (attribute(0, dilations=[2, 2]), rf"{CONV}dilations: expected 1, got \[2, 2\]"),
    (attribute(0, kernel_shape=[5, 5]), rf"{CONV}kernel_shape: expected \[3, 3\].*, got \[5, 5\]"),
    (attribute(0, group=3), f"{CONV}group: expected a divisor of 4 filters .*, got 3"),
    (attribute(0, group=0), f"{CONV}group: expected .*, got 0"),
    (attribute(0, group=2), rf"{CONV}expected an input of 6 channels, .*, got shape \(2, 3, 8, 8\)"),
    (attribute(0, pads=[10**9] * 4), f"{CONV}pads: expected 4 whole numbers from 0 to 4096, got"),
    (attribute(0, pads=[-1] * 4), f"{CONV}pads: expected 4 whole numbers from 0 to 4096, got"),
    (attribute(0, strides=[1]), rf"{CONV}strides: expected 2 whole numbers from 1 to 4096, got \[1\]"),
    (attribute(0, auto_pad="SAME"), f"{CONV}auto_pad: expected NOTSET, VALID, .*, got 'SAME'"),
    (attribute(0, auto_pad="VALID", pads=[1] * 4), f"{CONV}pads: expected none beside auto_pad VALID, got"),
    (attribute(0, group="two"), f"{CONV}attribute group: expected a whole number, got 'two'"),
    (attribute(0, kernel_shap=[3]), f"{CONV}attribute: expected one of .*, got kernel_shap; did you mean kernel_shape"),
    (attribute(2, kernel_shape=[64, 64]), f"{POOL}.*expected at most 256 pixels in a window, got 64 x 64"),
    (attribute(2, kernel_shape=[9, 9]), f"{POOL}.*a window of 9 does not fit"),
    (attribute(2, pads=[5, 5, 5, 5]), f"{POOL}.*padding: expected less than"),
    (attribute(4, transB=1), rf"{FC}expected a bias of shape \(36,\), got \(5,\)"),
    (subgraph, f"{RELU}attribute then_branch: expected .*, got type 5"),
    (assign("graph.node.0.input", ["x"]), f"{CONV}expected 2 to 3 inputs, got 1"),
    (assign("graph.node.0.input", ["x", "", "w1"]), f"{CONV}expected 2 to 3 inputs"),
    (assign("graph.node.0.input.0", "y3"), f"{CONV}expected an input that comes before it, got 'y3'"),
    (assign("graph.node.0.input.1", "no"), f"{CONV}expected an input that comes before it, got 'no'"),
    (assign("graph.node.0.input.1", "x"), f"{CONV}expected input 1 that the file has, got one that is computed"),
    (assign("graph.node.1.output.0", "y0"), f"{RELU}expected a name of its own for its output, got 'y0' again"),
    (assign("graph.node.2.output", ["y2", "a"]), f"{POOL}expected 1 of its outputs to be used, got y2, a"),
    (assign("graph.node.1.output", None), f"{RELU}expected an output, got none"),
    (assign("graph.output.0.name", "nothing"), ": expected an output that a node makes, got 'nothing'"),
    (assign("graph.output", None), ": expected one input and one output, got x and none"),
    (assign("graph.input", None), f"{CONV}expected an input that comes before it, got 'x'"),
    (assign("graph.initializer.1.name", "w0"), ": expected arrays of different names, got 'w0'"),
    (dims(0, 4, 3, 3, 10**9), ": array 'w0': expected 144,000,000,000 bytes, got 432"),
    (dims(0, 4, 3, 3, -3), r": array 'w0': expected up to 8 sizes from 0 on, got \(4, 3, 3, -3\)"),
    (dims(0, 4, 27), rf"{CONV}input 1: expected 4 axes, got shape \(4, 27\)"),
    (dims(1, 2, 2), rf"{CONV}input 2: expected 1 axes, got shape \(2, 2\)"),
    (dims(2, 18, 10), rf"{FC}expected a bias of shape \(10,\), got \(5,\)"),
    (assign("graph.initializer.0.data_type", 14), ": array 'w0': expected numbers of type .*, got ONNX's type 14"),
    (assign("graph.initializer.0.data_type", 6), f"{CONV}expected arrays of float32, got int32"),
    (assign("graph.initializer.0.raw_data", b""), ": array 'w0': expected 432 bytes, got 0"),
    (image(1, 3, 0, 8), r": input 'x': expected height, width and channels from 1 to 4096, got shape \(1, 3, 0, 8\)"),
    (image(1, 3, 10**9, 8), ": input 'x': expected height, width and channels from 1 to 4096"),
    (image(1, 4, 8, 8), rf"{CONV}expected an input of 3 channels, .*, got shape \(2, 4, 8, 8\)"),
    (image(1, 3, 16, 16), rf"{FC}expected 36 numbers along the last axis, got shape \(2, 196\)"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_what_is_not_read_is_told(import_oracle: Import, tmp_path: Path, change: Change, message: str) -> None:
    onnx = import_oracle("onnx")
    model, path = small(onnx).model(), tmp_path / "bad.onnx"
    change(model, onnx)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=f"^{path}{message}") as refusal:
        models.get(str(path))
    assert len(str(refusal.value).splitlines()) == 1


def test_commands_tell_it_in_one_line(
    import_oracle: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = import_oracle("onnx")
    monkeypatch.chdir(tmp_path)
    model = small(onnx).model()
    attribute(0, dilations=[2, 2])(model, onnx)
    Path("bad.onnx").write_bytes(model.SerializeToString())
    Path("text.onnx").write_text("Hello")
    for words in (
        [summary, "--model", "bad.onnx"],
        [train, "--model", "bad.onnx", "--device", "cpu"],
        [train, "--weights", "bad.onnx", "--device", "cpu"],
        [convert, "bad.onnx", "out.safetensors"],
    ):
        command, *arguments = words
        assert command_line.run(command.main, arguments) == 2
        err = capsys.readouterr().err
        assert "bad.onnx: node conv1 (Conv): dilations: expected 1, got [2, 2]" in err and err.count("\n") == 1
        other = ["none.onnx" if word == "bad.onnx" else word for word in arguments]
        assert command_line.run(command.main, other) == 2
        assert "none.onnx: " in capsys.readouterr().err
        other = ["text.onnx" if word == "bad.onnx" else word for word in arguments]
        assert command_line.run(command.main, other) == 2
        assert "text.onnx: expected an ONNX file" in capsys.readouterr().err


def test_doubled_concatenations_take_no_memory(import_oracle: Import, tmp_path: Path) -> None:
    """Each of a chain is twice as large as the one before."""
    m = Making(import_oracle("onnx"), ("N", 3, 64, 64))
    for _ in range(40):
        m.add("Concat", m.value, axis=1)
    m.add("GlobalAveragePool")
    m.add("Flatten")
    m.add("Gemm", m.random(3, 2))
    path = tmp_path / "net.onnx"
    path.write_bytes(m.model().SerializeToString())
    with pytest.raises(WeightsError, match=r"node concat\d+ \(Concat\): expected at most 268,435,456 values an image"):
        models.get(str(path))


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (lambda m, n: m.add("Mul", np.zeros((1, n), np.int64), x=m.array(np.zeros((n, 1), np.int64))), "Mul"),
        (lambda m, n: m.add("ConstantOfShape", x=m.array(np.array([n, n, n]))), "ConstantOfShape"),
        (lambda m, n: m.add("Gather", np.zeros(n, np.int64), x=m.array(np.zeros((2, n), np.int64))), "Gather"),
    ],
)
def test_what_is_computed_at_once_takes_no_memory(
    import_oracle: Import, tmp_path: Path, add: Callable[[Making, int], str], message: str
) -> None:
    m = Making(import_oracle("onnx"), ("N", 3, 8, 8))
    add(m, 10**4)
    path = tmp_path / "net.onnx"
    path.write_bytes(m.model().SerializeToString())
    with pytest.raises(WeightsError, match=rf"node \w+ \({message}\): expected "):
        models.get(str(path))


# ---- data in other files


def with_external(onnx: ModuleType, location: str, **told: str) -> Any:
    model = small(onnx).model()
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **told}.items():
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    return model


def test_external_data_in_the_folder_is_read(import_oracle: Import, tmp_path: Path) -> None:
    onnx = import_oracle("onnx")
    m = small(onnx)
    values = onnx.numpy_helper.to_array(m.model().graph.initializer[0])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(b"beside" + values.tobytes())
    net = network(with_external(onnx, "data/w.bin", offset="6"), tmp_path / "net.onnx")
    np.testing.assert_array_equal(net.conv1.w.data, values.transpose(0, 2, 3, 1), strict=True)


@pytest.mark.parametrize(
    ("location", "told", "message"),
    [
        ("../outside.bin", {}, "expected its data in a file in the folder of this one, got '../outside.bin'"),
        ("link.bin", {}, "expected its data in a file in the folder of this one, got 'link.bin'"),
        ("/dev/zero", {}, "expected its data in a file in the folder of this one, got '/dev/zero'"),
        ("none.bin", {}, "expected its data in a file in the folder of this one, got 'none.bin'"),
        ("", {}, "expected its data in a file in the folder of this one, got ''"),
        ("w\0.bin", {}, "expected its data in a file in the folder of this one"),
        ("w.bin", {"offset": "one"}, "expected its data in a file in the folder of this one"),
        ("w.bin", {"offset": "8"}, "w.bin: expected 432 bytes of its 432, got 432 from 8"),
        ("w.bin", {"offset": "-8"}, "w.bin: expected 432 bytes of its 432, got 432 from -8"),
        ("w.bin", {"length": "8"}, "w.bin: expected 432 bytes of its 432, got 8 from 0"),
    ],
)
def test_other_external_data_is_refused(
    import_oracle: Import, tmp_path: Path, location: str, told: dict[str, str], message: str
) -> None:
    onnx, inside = import_oracle("onnx"), tmp_path / "folder"
    inside.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(432))
    (inside / "w.bin").write_bytes(bytes(432))
    (inside / "link.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(WeightsError, match=f"net.onnx: array 'w0': {message}"):
        network(with_external(onnx, location, **told), inside / "net.onnx")


# ---- broken files

SECONDS = 5
"""That reading a broken file may take at most, on a machine that is busy."""


def refused(content: bytes, folder: Path) -> bool:
    """Whether a file is refused, which is then in time and in one line that begins with its name."""
    path, began, told = folder / "broken.onnx", time.monotonic(), ""
    path.write_bytes(content)
    try:
        models.get(str(path))
    except (WeightsError, models.OwnError) as e:
        told = str(e)
    assert time.monotonic() - began < SECONDS
    assert not told or (told.startswith(str(path)) and len(told.splitlines()) == 1)
    return bool(told)


@pytest.fixture(scope="module")
def whole(import_oracle: Import) -> list[bytes]:
    return [make(import_oracle("onnx")).model().SerializeToString() for make in (small, branches, alexnet_like)]


def test_every_end_cut_off_is_refused(whole: list[bytes], tmp_path: Path) -> None:
    content, *_ = whole
    assert not refused(content, tmp_path)
    for end in range(0, len(content), 7):
        assert refused(content[:end], tmp_path), end


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(data=st.data())
def test_altered_files_are_refused(whole: list[bytes], tmp_path: Path, data: st.DataObject) -> None:
    """Cut off, with other bytes, or with a part twice or left out."""
    content = bytearray(whole[data.draw(st.integers(0, len(whole) - 1))])
    for _ in range(data.draw(st.integers(1, 4))):
        a = data.draw(st.integers(0, max(0, len(content) - 1)))
        b = data.draw(st.integers(a, min(len(content), a + 64)))
        match data.draw(st.sampled_from(["byte", "cut", "drop", "twice"])):
            case "byte":
                content[a : a + 1] = data.draw(st.binary(min_size=1, max_size=2))
            case "cut":
                del content[a:]
            case "drop":
                del content[a:b]
            case "twice":
                content[a:a] = content[a:b]
    refused(bytes(content), tmp_path)


NUMBERS = st.one_of(st.integers(-3, 5), st.sampled_from([16, 257, 2**20, 2**31, 2**62, -(2**63)]))
VALUES = st.one_of(NUMBERS, st.floats(), st.lists(NUMBERS, min_size=1, max_size=8), st.sampled_from(["", "SAME_LOWER"]))


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(data=st.data())
def test_altered_graphs_are_refused(
    import_oracle: Import, whole: list[bytes], tmp_path: Path, data: st.DataObject
) -> None:
    """Other operators, attributes, inputs and shapes, in a file that is one."""
    onnx = import_oracle("onnx")
    model = onnx.ModelProto.FromString(whole[data.draw(st.integers(0, len(whole) - 1))])
    graph = model.graph
    names = ["", "x", *(array.name for array in graph.initializer), *(node.output[0] for node in graph.node)]
    for _ in range(data.draw(st.integers(1, 3))):
        node = data.draw(st.sampled_from(graph.node))
        match data.draw(st.sampled_from(["operator", "attribute", "input", "more", "dims", "image", "opset", "left"])):
            case "operator":
                node.op_type = data.draw(st.sampled_from(sorted(onnx_files.TABLE)))
            case "attribute":
                known = onnx_files.TABLE.get(node.op_type)
                kinds = sorted(known.attributes) if known and known.attributes else ["axis"]
                name = data.draw(st.sampled_from(kinds))
                value = data.draw(VALUES)
                hypothesis.assume(not isinstance(value, int) or -(2**63) <= value < 2**63)
                for old in [entry for entry in node.attribute if entry.name == name]:
                    node.attribute.remove(old)
                node.attribute.append(onnx.helper.make_attribute(name, value))
            case "input" if node.input:
                node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(st.sampled_from(names))
            case "more":
                node.input.append(data.draw(st.sampled_from(names)))
            case "dims":
                array = data.draw(st.sampled_from(graph.initializer))
                order = data.draw(st.permutations([*array.dims, 1]))
                array.ClearField("dims")
                array.dims.extend(order)
            case "image":
                for dim in graph.input[0].type.tensor_type.shape.dim:
                    dim.dim_value = data.draw(st.sampled_from([1, 2, 3, 9, 35]))
            case "opset":
                model.opset_import[0].version = data.draw(st.integers(5, 30))
            case "left":
                graph.node.remove(node)
    refused(model.SerializeToString(), tmp_path)


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(content=st.binary(max_size=300))
def test_any_bytes_are_refused(import_oracle: Import, tmp_path: Path, content: bytes) -> None:
    import_oracle("onnx")
    assert refused(content, tmp_path)
