"""A trained network as one ONNX graph, from pixels to logits, for any runtime that knows ONNX.

Input ``pixels`` (N, H, W, 3) float32: the crop that the network sees, RGB from 0 to 255. Output ``logits``
(N, classes). The graph subtracts the mean, scales, and goes on channels first; dropout is that of evaluation.
``Export`` has what else can be had.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from .layout import WeightsError, pads

OPSETS = range(13, 23)
CONSUMERS = ("ncnn", "onnx-reference")
"""Those that read only plain operators as ONNX has them."""
TO_CHANNELS_FIRST, TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
OPERATORS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}


@dataclass(frozen=True)
class Export:
    """How a network is written: ONNX's ``opset``; a fixed ``batch``, else any. ``plain``: LRN and average pools as
    convolutions and arithmetic, for consumers that lack them or get them wrong. ``preprocessing``: from uint8 pixels to
    ``probabilities``. ``half``: filters and matrices stored as float16, computed with as float32."""

    opset: int = 17
    batch: int | None = None
    plain: bool = False
    preprocessing: bool = False
    half: bool = False


DEFAULT = Export()


def save(path: Path, trained: Trained, export: Export = DEFAULT) -> None:
    """Writes the network, after ONNX's own checks. ImportError without the package onnx, WeightsError for a layer that
    ONNX does not have and for weights that float16 does not."""
    model = graph(trained, export)
    import onnx

    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as aside:
        aside.write_bytes(model.SerializeToString())


def graph(trained: Trained, export: Export = DEFAULT) -> Any:
    """The network as an onnx.ModelProto."""
    if isinstance(trained.model, Own):
        raise WeightsError(
            f"model {trained.model.name}: expected a model of the package, as ONNX is written layer by layer"
        )
    import onnx
    from onnx import TensorProto, helper

    rows, weights = trained.model.rows(), trained.network.state()
    chain = _Chain(export)
    top, left, _ = trained.centre[0]
    H, W, _ = trained.model.input
    if export.preprocessing:
        chain.add("Cast", to=TensorProto.FLOAT)
    chain.add("Sub", trained.mean[top : top + H, left : left + W])
    chain.add("Mul", trained.config["scale"])
    chain.add("Transpose", perm=TO_CHANNELS_FIRST)
    for row in rows:
        arrays = {name.removeprefix(f"{row.layer.name}."): w for name, w in weights.items() if _is_of(row, name)}
        _layer(chain, row, arrays)
        activation = getattr(row.layer, "activation", None)
        if activation:
            chain.add(OPERATORS[activation])
    if export.preprocessing:
        chain.add("Softmax", axis=1)
    name = chain.nodes[-1].output[0] = "probabilities" if export.preprocessing else "logits"
    N, kind = export.batch or "N", TensorProto.UINT8 if export.preprocessing else TensorProto.FLOAT
    x = helper.make_tensor_value_info("pixels", kind, [N, H, W, 3])
    y = helper.make_tensor_value_info(name, TensorProto.FLOAT, [N, trained.model.classes])
    made = helper.make_graph(chain.nodes, trained.model.name, [x], [y], chain.weights)
    opsets = [helper.make_opsetid("", export.opset)]
    ir_version = helper.find_min_ir_version_for(opsets)
    model = helper.make_model(made, opset_imports=opsets, ir_version=ir_version, producer_name="alexnet_cuda")
    onnx.helper.set_model_props(model, {"classes": "\n".join(trained.classes)})
    return model


class _Chain:
    """Nodes of which each takes the result of the one before it."""

    def __init__(self, export: Export) -> None:
        self.export = export
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.value = "pixels"

    def hold(self, array: ArrayLike, dtype: type) -> str:
        """Makes an array part of the file; returns its name."""
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype, order="C"), name))
        return name

    def stored(self, layer: str, array: NDArray[np.float32]) -> str:
        """A layer's filters or matrix, in the precision of the export; returns the name of the float32 values."""
        from onnx import TensorProto, helper

        if not self.export.half:
            return self.hold(array, np.float32)
        largest = np.finfo(np.float16).max
        if not (abs(array) <= largest).all():
            raise WeightsError(f"{layer}: expected weights of at most {largest:g}, as float16 has no others")
        held = self.hold(array, np.float16)
        self.nodes.append(helper.make_node("Cast", [held], [f"{held}_float32"], to=TensorProto.FLOAT))
        return f"{held}_float32"

    def add(
        self, operator: str, *weights: ArrayLike | str, x: str | None = None, outputs: int = 1, **options: Any
    ) -> str:
        """Appends an operator on ``x`` (default: the last result) and weights, arrays or names of what is held; returns
        its (first) result's name."""
        from onnx import helper

        names = [w if isinstance(w, str) else self.hold(w, np.float32) for w in weights]
        place = len(self.nodes)
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
    bias = [arrays["b"]] if "b" in arrays else []
    match row.layer:
        case Conv2d(name=name, groups=groups):
            w = chain.stored(name, arrays["w"].transpose(TO_CHANNELS_FIRST))
            chain.add("Conv", w, *bias, group=groups, **_window(row))
        case Local2d():
            _local2d(chain, row, arrays)
        case MaxPool2d():
            chain.add("MaxPool", **_window(row))
        case AvgPool2d():
            _avg_pool(chain, row)
        case Lrn():
            _lrn(chain, row)
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
            chain.add("Gemm", chain.stored(row.layer.name, arrays["w"]), *bias, transB=1)
        case other:
            raise WeightsError(f"{other.name}: ONNX has no {type(other).__name__}")


def _window(row: Row) -> dict[str, Any]:
    """Attributes of windows."""
    layer, ((top, bottom), (left, right)) = row.layer, pads(row)
    assert isinstance(layer, Window)
    return {
        "kernel_shape": [layer.size] * 2,
        "strides": [layer.stride] * 2,
        "pads": [top, left, bottom, right],
    }


def _avg_pool(chain: _Chain, row: Row) -> None:
    """The mean over the pixels inside the image; plain, their sum by a convolution times one over their number."""
    window, C = _window(row), row.input[2]
    if not chain.export.plain:
        chain.add("AveragePool", count_include_pad=0, **window)
        return
    (top, left), (size, _), (stride, _) = window["pads"][:2], window["kernel_shape"], window["strides"]
    counts = [
        [min(i * stride - before + size, pixels) - max(i * stride - before, 0) for i in range(outputs)]
        for outputs, pixels, before in zip(row.output[:2], row.input[:2], (top, left), strict=True)
    ]
    chain.add("Conv", np.ones((C, 1, size, size)), group=C, **window)
    chain.add("Mul", np.tile(1 / np.multiply.outer(*counts), (1, C, 1, 1)))


def _lrn(chain: _Chain, row: Row) -> None:
    """LRN, the towers apart. ONNX divides its alpha by the size, and has even windows elsewhere: those, and plain ones,
    are a convolution of squares by the matrix of which channel's window holds which, and arithmetic."""
    layer, C = row.layer, row.input[2]
    assert isinstance(layer, Lrn)
    n, groups = layer.size, layer.groups
    if n % 2 and not chain.export.plain:
        options: dict[str, Any] = {"size": n, "alpha": layer.alpha * n, "beta": layer.beta, "bias": layer.k}
        if groups == 1:
            chain.add("LRN", **options)
            return
        chain.add("Split", chain.hold([C // groups] * groups, np.int64), outputs=groups, axis=1)
        parts = list(chain.nodes[-1].output)
        chain.join("Concat", *[chain.add("LRN", x=part, **options) for part in parts], axis=1)
        return
    first = np.arange(C)[:, None] - n // 2
    inside = (np.arange(C) >= first) & (np.arange(C) < first + n)
    inside &= np.equal.outer(np.arange(C) * groups // C, np.arange(C) * groups // C)
    _normalise(chain, layer.alpha * inside[:, :, None, None], layer.k, layer.beta)


def _spatial_lrn(chain: _Chain, row: Row) -> None:
    """LRN over n x n pixels from p - floor(n / 2) on."""
    layer, C = row.layer, row.input[2]
    assert isinstance(layer, SpatialLrn)
    n = layer.size
    before, after = n // 2, n - 1 - n // 2
    squares = np.full((C, 1, n, n), layer.alpha)
    _normalise(chain, squares, layer.k, layer.beta, group=C, pads=[before, before, after, after])


def _normalise(chain: _Chain, filters: NDArray[Any], k: float, beta: float, **options: Any) -> None:
    """x s^-beta, where s is k plus the convolution of x^2 with the filters."""
    x = chain.value
    chain.join("Mul", x, x)
    chain.add("Conv", filters, np.full(len(filters), k), **options)
    factor = chain.add("Pow", -beta)
    chain.join("Mul", x, factor)


def _local2d(chain: _Chain, row: Row, arrays: dict[str, NDArray[np.float32]]) -> None:
    """Filters that are not shared: a convolution that only gathers each window's values, then a product per pixel."""
    assert isinstance(row.layer, Local2d)
    size, C = row.layer.size, row.input[2]
    one_each = np.eye(size**2, dtype=np.float32).reshape(-1, 1, size, size)
    chain.add("Conv", np.tile(one_each, (C, 1, 1, 1)), group=C, **_window(row))  # (N, C KH KW, OH, OW)
    chain.add("Transpose", perm=[2, 3, 0, 1])
    w = arrays["w"].transpose(0, 1, 5, 3, 4, 2)  # (OH, OW, C, KH, KW, K)
    chain.add("MatMul", chain.stored(row.layer.name, w.reshape(*w.shape[:2], -1, w.shape[-1])))  # (OH, OW, N, K)
    chain.add("Transpose", perm=[2, 3, 0, 1])
    if "b" in arrays:
        chain.add("Add", arrays["b"].transpose(2, 0, 1))
