"""The kernels against onnxruntime: small graphs, and AlexNet's layer sequence as one graph. Both sides are float32."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import reference
from conftest import Runner

from alexnet_cuda import kernels

pytestmark = pytest.mark.oracle


class Onnx:
    """Runs a chain of ONNX nodes on the CPU on an NHWC array."""

    def __init__(self, import_oracle: Callable[[str], ModuleType]) -> None:
        self.onnx = import_oracle("onnx")
        self.runtime = import_oracle("onnxruntime")

    def __call__(self, x: np.ndarray, *nodes: tuple[str, list[np.ndarray], dict[str, Any]]) -> np.ndarray:
        """Each node is (operator, weights, attributes) and takes the result of the one before it."""
        helper, graph_nodes, weights, value = self.onnx.helper, [], [], "x"
        for i, (operator, arrays, attributes) in enumerate(nodes):
            names = [f"w{i}_{j}" for j in range(len(arrays))]
            weights += [
                self.onnx.numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)
            ]
            graph_nodes.append(helper.make_node(operator, [value, *names], [f"y{i}"], **attributes))
            value = f"y{i}"
        floats = self.onnx.TensorProto.FLOAT
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        inputs, outputs = (
            helper.make_tensor_value_info(name, floats, shape) for name, shape in (("x", x.shape), (value, None))
        )
        model = helper.make_model(
            helper.make_graph(graph_nodes, "layers", [inputs], [outputs], weights),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        session = self.runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (y,) = session.run(None, {"x": x})
        return y.transpose(0, 2, 3, 1) if y.ndim == 4 else y


@pytest.fixture(scope="module")
def onnx(import_oracle: Callable[[str], ModuleType]) -> Onnx:
    return Onnx(import_oracle)


def oihw(w: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(w.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(("stride", "pads"), [(1, (2, 2, 2, 2)), (2, (0, 1, 2, 3)), (4, (0, 0, 0, 0))])
def test_grouped_convolution(run_gemm: Runner, onnx: Onnx, stride: int, pads: tuple[int, ...]) -> None:
    x, w, b = (
        reference.random(2, 13, 15, 8, seed=1),
        reference.random(12, 5, 5, 4, seed=2),
        reference.random(12, seed=3),
    )
    top, left, bottom, right = pads
    arguments = {"stride": stride, "padding": ((top, bottom), (left, right)), "groups": 2}
    expected = onnx(x, ("Conv", [oihw(w), b], {"group": 2, "strides": [stride] * 2, "pads": pads}))
    magnitude = run_gemm(kernels.conv2d, abs(x), abs(w), abs(b), **arguments)
    actual = run_gemm(kernels.conv2d, x, w, b, **arguments)
    reference.assert_close(actual, expected, 2 * reference.rounding_error(magnitude, 101))


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_lrn(run: Runner, onnx: Onnx, size: int) -> None:
    """ONNX divides its alpha by the size of the window."""
    x = 30 * reference.random(2, 5, 4, 17)
    expected = onnx(x, ("LRN", [], {"size": size, "alpha": 1e-4 * size, "beta": 0.75, "bias": 2.0}))
    error = 2 * reference.rounding_error(abs(expected), 0.75 * (size + 4) + 10)
    reference.assert_close(run(kernels.lrn, x, size), expected, error)


@pytest.mark.parametrize("ceil", [False, True], ids=["floor", "ceil"])
@pytest.mark.parametrize("side", [13, 32])
def test_pooling(run: Runner, onnx: Onnx, side: int, ceil: bool) -> None:
    x = reference.random(2, side, side, 6)
    attributes = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": int(ceil)}
    y, _ = run(kernels.max_pool2d, x, 3, 2, ceil=ceil)
    reference.assert_close(y, onnx(x, ("MaxPool", [], attributes)), 0)
    mean = run(kernels.avg_pool2d, x, 3, 2, ceil=ceil)
    magnitude = run(kernels.avg_pool2d, abs(x), 3, 2, ceil=ceil)
    expected = onnx(x, ("AveragePool", [], attributes))
    reference.assert_close(mean, expected, 2 * reference.rounding_error(magnitude, 11))


def test_alexnets_sequence(run_gemm: Runner, onnx: Onnx) -> None:
    """conv - ReLU - LRN - pool twice, the second convolution in two groups, then a linear layer and a softmax."""
    x = reference.random(2, 67, 67, 3, seed=1)
    w1, b1 = reference.random(16, 11, 11, 3, seed=2) / 20, reference.random(16, seed=3)
    w2, b2 = reference.random(24, 5, 5, 8, seed=4) / 15, reference.random(24, seed=5)
    w3, b3 = reference.random(10, 3 * 3 * 24, seed=6) / 15, reference.random(10, seed=7)
    normalise = ("LRN", [], {"size": 5, "alpha": 5e-4, "beta": 0.75, "bias": 2.0})
    pool = ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2]})
    expected = onnx(
        x,
        ("Conv", [oihw(w1), b1], {"strides": [4, 4]}),
        ("Relu", [], {}),
        normalise,
        pool,
        ("Conv", [oihw(w2), b2], {"group": 2, "pads": [2] * 4}),
        ("Relu", [], {}),
        normalise,
        pool,
        ("Transpose", [], {"perm": [0, 2, 3, 1]}),  # the linear layer reads channels last
        ("Flatten", [], {}),
        ("Gemm", [w3, b3], {"transB": 1}),
        ("Softmax", [], {}),
    )

    y = run_gemm(kernels.conv2d, x, w1, b1, stride=4, relu=True)
    y, _ = run_gemm(kernels.max_pool2d, run_gemm(kernels.lrn, y), 3, 2)
    y = run_gemm(kernels.conv2d, y, w2, b2, padding=2, groups=2, relu=True)
    y, _ = run_gemm(kernels.max_pool2d, run_gemm(kernels.lrn, y), 3, 2)
    assert y.shape == (2, 3, 3, 24)
    actual = run_gemm(kernels.softmax, run_gemm(kernels.linear, y.reshape(2, -1), w3, b3))
    # probabilities; values of the order of one stay so through the products, of at most 363 terms each
    reference.assert_close(actual, expected, reference.rounding_error(1, 363))
