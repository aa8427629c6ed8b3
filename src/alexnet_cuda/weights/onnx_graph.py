"""A trained network as one ONNX graph, from pixels to logits, for any runtime that knows ONNX.

Input ``pixels`` (N, H, W, 3) float32: the crop that the network sees, RGB from 0 to 255. Output ``logits``
(N, classes). The graph subtracts the mean, scales, and goes on channels first; dropout is that of evaluation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..files import replacing
from ..inference import Trained
from ..models import Own, Row
from ..models.layers import (
    Activation,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    Local2d,
    Lrn,
    MaxPool2d,
    SpatialLrn,
    Window,
)
from .layout import WeightsError

OPSET, IR = 17, 8
TO_CHANNELS_FIRST, TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
OPERATORS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}


def save(path: Path, trained: Trained) -> None:
    """Writes the network, after ONNX's own checks. ImportError without the package onnx, WeightsError for a layer that
    ONNX does not have."""
    import onnx

    model = graph(trained)
    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as aside:
        aside.write_bytes(model.SerializeToString())


def graph(trained: Trained) -> Any:
    """The network as an onnx.ModelProto."""
    import onnx
    from onnx import TensorProto, helper

    if isinstance(trained.model, Own):
        raise WeightsError(
            f"model {trained.model.name}: expected a model of the package, as ONNX is written layer by layer"
        )
    rows, weights = trained.model.rows(), trained.network.state()
    chain = _Chain()
    top, left, _ = trained.centre[0]
    H, W, _ = trained.model.input
    chain.add("Sub", trained.mean[top : top + H, left : left + W])
    chain.add("Mul", trained.config["scale"])
    chain.add("Transpose", perm=TO_CHANNELS_FIRST)
    for row in rows:
        arrays = {name.removeprefix(f"{row.layer.name}."): w for name, w in weights.items() if _is_of(row, name)}
        _layer(chain, row, arrays)
        activation = getattr(row.layer, "activation", None)
        if activation:
            chain.add(OPERATORS[activation])
    chain.nodes[-1].output[0] = "logits"
    x = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", H, W, 3])
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", trained.model.classes])
    made = helper.make_graph(chain.nodes, trained.model.name, [x], [y], chain.weights)
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="alexnet_cuda"
    )
    onnx.helper.set_model_props(model, {"classes": "\n".join(trained.classes)})
    return model


class _Chain:
    """Nodes of which each takes the result of the one before it."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.value = "pixels"

    def add(self, operator: str, *arrays: ArrayLike, x: str | None = None, outputs: int = 1, **options: Any) -> str:
        """Appends an operator on ``x`` (default: the last result) and weights; returns its (first) result's name."""
        from onnx import helper, numpy_helper

        place = len(self.nodes)
        names = [f"w{place}_{i}" for i in range(len(arrays))]
        self.weights += [
            numpy_helper.from_array(np.asarray(array, np.float32, order="C"), name)
            for array, name in zip(arrays, names, strict=True)
        ]
        results = [f"y{place}" if i == 0 else f"y{place}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, [x or self.value, *names], results, **options))
        self.value = results[0]
        return self.value

    def join(self, operator: str, *inputs: str, **options: Any) -> str:
        """Appends an operator on earlier results alone."""
        self.add(operator, x=inputs[0], **options)
        self.nodes[-1].input.extend(inputs[1:])
        return self.value


def _is_of(row: Row, name: str) -> bool:
    return name.startswith(f"{row.layer.name}.")


def _layer(chain: _Chain, row: Row, arrays: dict[str, NDArray[np.float32]]) -> None:
    """Appends a layer without its activation function."""
    match row.layer:
        case Conv2d(groups=groups):
            chain.add("Conv", arrays["w"].transpose(TO_CHANNELS_FIRST), arrays["b"], group=groups, **_window(row))
        case Local2d():
            _local2d(chain, row, arrays)
        case MaxPool2d():
            chain.add("MaxPool", **_window(row))
        case AvgPool2d():
            chain.add("AveragePool", count_include_pad=0, **_window(row))
        case Lrn(groups=groups):
            options = _lrn(row)
            if groups == 1:
                chain.add("LRN", **options)
            else:
                chain.add("Split", outputs=groups, axis=1)
                parts = list(chain.nodes[-1].output)
                chain.join("Concat", *[chain.add("LRN", x=part, **options) for part in parts], axis=1)
        case SpatialLrn():
            _spatial_lrn(chain, row)
        case BatchNorm(epsilon=epsilon):
            statistics = [arrays[name] for name in ("gamma", "beta", "running_mean", "running_variance")]
            chain.add("BatchNormalization", *statistics, epsilon=epsilon)
        case Dropout(p=p, form="paper"):
            chain.add("Mul", 1 - p)
        case Dropout() | Activation():
            pass
        case Flatten():
            chain.add("Transpose", perm=TO_CHANNELS_LAST)  # fully connected weights read channels last
            chain.add("Flatten")
        case Linear():
            chain.add("Gemm", arrays["w"], arrays["b"], transB=1)
        case other:
            raise WeightsError(f"{other.name}: ONNX has no {type(other).__name__}")


def _window(row: Row) -> dict[str, Any]:
    """Attributes of windows. Those that reach past the end, by the ceil rule, get that much padding there."""
    layer = row.layer
    assert isinstance(layer, Window)
    ends = [
        max(layer.padding, (count - 1) * layer.stride + layer.size - pixels - layer.padding)
        for count, pixels in zip(row.output[:2], row.input[:2], strict=True)
    ]
    return {
        "kernel_shape": [layer.size] * 2,
        "strides": [layer.stride] * 2,
        "pads": [layer.padding, layer.padding, *ends],
    }


def _lrn(row: Row) -> dict[str, Any]:
    """Attributes of LRN: ONNX divides its alpha by the size."""
    layer = row.layer
    assert isinstance(layer, Lrn)
    if layer.size % 2 == 0:
        raise WeightsError(
            f"{layer.name}: expected an odd size, as ONNX places even windows otherwise, got {layer.size}"
        )
    return {"size": layer.size, "alpha": layer.alpha * layer.size, "beta": layer.beta, "bias": layer.k}


def _spatial_lrn(chain: _Chain, row: Row) -> None:
    """x s^-beta, s = k + alpha * sum of x^2 over the window: zeros around x make the sum the area times their mean."""
    layer, x = row.layer, chain.value
    assert isinstance(layer, SpatialLrn)
    if layer.size % 2 == 0:
        raise WeightsError(f"{layer.name}: expected an odd size, got {layer.size}")
    chain.join("Mul", x, x)
    window: dict[str, Any] = {"kernel_shape": [layer.size] * 2, "strides": [1, 1], "pads": [layer.size // 2] * 4}
    chain.add("AveragePool", count_include_pad=1, **window)
    chain.add("Mul", layer.alpha * layer.size**2)
    chain.add("Add", layer.k)
    factor = chain.add("Pow", -layer.beta)
    chain.join("Mul", x, factor)


def _local2d(chain: _Chain, row: Row, arrays: dict[str, NDArray[np.float32]]) -> None:
    """Filters that are not shared: a convolution that only gathers each window's values, then a product per pixel."""
    assert isinstance(row.layer, Local2d)
    size, C = row.layer.size, row.input[2]
    one_each = np.eye(size**2, dtype=np.float32).reshape(-1, 1, size, size)
    chain.add("Conv", np.tile(one_each, (C, 1, 1, 1)), group=C, **_window(row))  # (N, C KH KW, OH, OW)
    chain.add("Transpose", perm=[2, 3, 0, 1])
    w = arrays["w"].transpose(0, 1, 5, 3, 4, 2)  # (OH, OW, C, KH, KW, K)
    chain.add("MatMul", w.reshape(*w.shape[:2], -1, w.shape[-1]))  # (OH, OW, N, K)
    chain.add("Transpose", perm=[2, 3, 0, 1])
    chain.add("Add", arrays["b"].transpose(2, 0, 1))
