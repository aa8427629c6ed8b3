"""ONNX files as networks: the onnx package's own cases, onnxruntime, our own files there and back; and hostile ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import reference

from alexnet_cuda import Tensor, models, no_grad
from alexnet_cuda.files import WeightsError
from alexnet_cuda.models import onnx as onnx_files

pytestmark = pytest.mark.oracle

LISTED = [
    line for line in (Path(__file__).parent / "onnx_node_cases.txt").read_text().splitlines() if line[:1] not in "#"
]
OPERATORS = {
    "AveragePool", "BatchNormalization", "Concat", "Conv", "Dropout", "Flatten", "Gemm", "GlobalAveragePool",
    "GlobalMaxPool", "LRN", "LogSoftmax", "MatMul", "MaxPool", "Relu", "Softmax", "SoftmaxCrossEntropyLoss", "Adam",
    "Momentum",
}  # fmt: skip
DRAWN = {"test_training_dropout", "test_training_dropout_default"}
Import = Callable[[str], ModuleType]


@cache
def node_cases() -> dict[str, Any]:
    """The package's cases of our operators, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with np.errstate(all="ignore"):  # of cases with other numbers
        cases = collect_testcases(None)
    return {
        case.name: case
        for case in cases
        if [node.op_type in OPERATORS for node in case.model.graph.node] == [True] and "_expanded" not in case.name
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


def test_all_other_cases_of_these_operators_are_refused(import_oracle: Import) -> None:
    import_oracle("onnx")
    others = node_cases().keys() - set(LISTED) - DRAWN
    assert len(LISTED) > 90 and len(others) > 10
    for name in others:
        with pytest.raises(WeightsError, match=r"^model: node \w+ \(\w+\): .*expected .*, got "):
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
    m.add("LeakyRelu", alpha=0.1)
    second = m.add("Conv", m.random(8, 8, 1, 1), m.random(8))
    m.add("Add", first, x=second)
    m.add("Mul", m.random(8, 1, 1))
    m.add("Sub", x=m.array(m.random(1, 8, 1, 9)))
    m.nodes[-1].input.append("y4")
    joined = m.add("Concat", first, axis=1)
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
    one = [logits(net, image[None].transpose(0, 2, 3, 1)) for image in x]  # whatever number the file was written for
    if m.nodes[-1].op_type != "Softmax":
        assert_close(np.concatenate(one), expected)
