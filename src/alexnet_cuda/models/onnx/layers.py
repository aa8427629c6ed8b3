"""Operators that are layers of ours: convolution, pooling, normalisation, products, dropout, activation functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ... import backend, init, nn, ops
from ...kernels import window_output
from ...tensor import Tensor
from .graph import Blank, Held
from .operators import Result, operator
from .values import Call, Value

LARGEST_WINDOW = 2**12
"""Pixels of a window, its stride or its padding."""
WINDOWS: dict[str, Any] = {"auto_pad": "NOTSET", "dilations": list, "kernel_shape": list, "pads": list, "strides": list}
Sides = tuple[int, int]


def drawn(held: Held | None, order: Sequence[int] | None = None, factor: float = 1.0) -> init.Initialiser | None:
    """What gives a layer the array of the file, its axes in that order; None where the layer is to draw it."""
    if held is None or isinstance(held, Blank):
        return None
    array = held if factor == 1 else held * np.float32(factor)
    return lambda shape, rng: np.array(array.transpose(order), np.float32, order="C").reshape(shape)


def kept(held: Held, value: float) -> np.ndarray:
    """A vector of the file, or one filled with a value where it has none."""
    return np.full(held.shape, value, np.float32) if isinstance(held, Blank) else np.array(held, np.float32)


# ---- windows


def _pair(call: Call, attribute: str, default: int, least: int) -> Sides:
    given = call[attribute]
    if given is None:
        return default, default
    if len(given) != 2 or not all(least <= n <= LARGEST_WINDOW for n in given):
        raise call.error(f"{attribute}: expected 2 whole numbers from {least} to {LARGEST_WINDOW}, got {given}")
    return given[0], given[1]


def _strides(call: Call) -> Sides:
    if _pair(call, "dilations", 1, 1) != (1, 1):
        raise call.error(f"dilations: expected 1, got {call['dilations']}")
    return _pair(call, "strides", 1, 1)


def _padding(call: Call, size: Sides, strides: Sides, pixels: Sides) -> tuple[Sides, Sides]:
    """((top, bottom), (left, right)) for an image of so many pixels."""
    way, pads = call["auto_pad"], call["pads"] or [0, 0, 0, 0]
    if way not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise call.error(f"auto_pad: expected NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {way!r}")
    if len(pads) != 4 or not all(0 <= n <= LARGEST_WINDOW for n in pads):
        raise call.error(f"pads: expected 4 whole numbers from 0 to {LARGEST_WINDOW}, got {pads}")
    if way == "NOTSET":
        top, left, bottom, right = pads
        return (top, bottom), (left, right)
    if any(pads):
        raise call.error(f"pads: expected none beside auto_pad {way}, got {pads}")
    if way == "VALID":
        return (0, 0), (0, 0)
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in zip(pixels, strides, size, strict=True)]
    ends = [(total // 2, total - total // 2) for total in totals]
    first, second = ends if way == "SAME_UPPER" else [(after, before) for before, after in ends]
    return first, second


def _make_conv(call: Call) -> nn.Module:
    w, b = call.weights(1, 4), call.weights(2, 1)
    assert w is not None
    (K, C, KH, KW), groups = w.shape, call["group"]
    if groups < 1 or K % groups or not all(w.shape):
        raise call.error(f"group: expected a divisor of {K} filters of shape {w.shape[1:]}, got {groups}")
    if call["kernel_shape"] not in (None, [KH, KW]):
        raise call.error(f"kernel_shape: expected {[KH, KW]}, that of the filters, got {call['kernel_shape']}")
    if b is not None and b.shape != (K,):
        raise call.error(f"expected a bias of shape {(K,)}, got {b.shape}")
    _padding(call, (KH, KW), _strides(call), (KH, KW))
    return nn.Conv2d(
        C * groups, K, (KH, KW), _strides(call), groups=groups, bias=b is not None, weight_init=drawn(w, (0, 2, 3, 1)),
        bias_init=drawn(b),
    )  # fmt: skip


@operator("Conv", inputs=(2, 3), make=_make_conv, group=1, **WINDOWS)
def _conv(call: Call) -> Result:
    x, layer = call.value(0, 4), call.module
    assert isinstance(layer, nn.Conv2d)
    channels = layer.w.shape[3] * layer.groups
    if x.shape[1] != channels:
        raise call.error(f"expected an input of {channels} channels, as its filters have, got shape {x.shape}")
    _, KH, KW, _ = layer.w.shape
    layer.padding = _padding(call, (KH, KW), _strides(call), (x.shape[2], x.shape[3]))
    return Value(layer(x.images()), True)


def padded(x: Tensor, pads: tuple[Sides, Sides], value: float = 0.0) -> Tensor:
    """Images (N, H, W, C) with so many pixels of that value around them: ((top, bottom), (left, right))."""
    for axis, (before, after) in enumerate(pads, 1):
        parts = [_filled(x, axis, before, value), x, _filled(x, axis, after, value)]
        x = ops.concat([part for part in parts if part is not None], axis)
    return x


def _filled(x: Tensor, axis: int, pixels: int, value: float) -> Tensor | None:
    """That many rows or columns of the value for images x; None for none."""
    if not pixels:
        return None
    shape = (*x.shape[:axis], pixels, *x.shape[axis + 1 :])
    return Tensor(backend.zeros(shape, x.dtype, x.device), device=x.device) + value


def _make_pool(kind: type[nn.MaxPool2d | nn.AvgPool2d]) -> Callable[[Call], nn.Module]:
    def make(call: Call) -> nn.Module:
        if call["kernel_shape"] is None:
            raise call.error("kernel_shape: expected 2 whole numbers, got none")
        size = _pair(call, "kernel_shape", 1, 1)
        if call.attributes.get("storage_order"):
            raise call.error(f"storage_order: expected 0, got {call['storage_order']}")
        return kind(size, _strides(call), 0, bool(call["ceil_mode"]))

    return make


@operator("MaxPool", make=_make_pool(nn.MaxPool2d), ceil_mode=0, storage_order=0, **WINDOWS)
@operator("AveragePool", make=_make_pool(nn.AvgPool2d), ceil_mode=0, count_include_pad=0, **WINDOWS)
def _pool(call: Call) -> Result:
    x, layer = call.value(0, 4), call.module
    assert isinstance(layer, nn.MaxPool2d | nn.AvgPool2d)
    size, strides = _pair(call, "kernel_shape", 1, 1), _strides(call)
    pads, images = _padding(call, size, strides, (x.shape[2], x.shape[3])), x.images()
    if call.attributes.get("count_include_pad") and pads != ((0, 0), (0, 0)):
        before, pads = pads, ((0, 0), (0, 0))
        sides = zip(x.shape[2:], size, strides, before, strict=True)
        fits = [window_output(n, k, s, ends, layer.ceil) for n, k, s, ends in sides]
        images = padded(images, before)
        y = layer(images)
        return Value(y if y.shape[1:3] == tuple(fits) else y[:, : fits[0], : fits[1]], True)
    layer.padding = pads
    return Value(layer(images), True)


@operator("GlobalAveragePool")
@operator("GlobalMaxPool")
def _global_pool(call: Call) -> Result:
    x = call.value(0, 4)
    reduce = ops.mean if call.node.operator == "GlobalAveragePool" else ops.max
    return Value(reduce(x.images(), (1, 2), keepdims=True), True)


# ---- normalisation


def _make_lrn(call: Call) -> nn.Module:
    size = call["size"]
    if size is None or size < 1 or size % 2 == 0 or size > LARGEST_WINDOW:
        raise call.error(f"size: expected an odd number from 1 to {LARGEST_WINDOW}, got {size}")
    return nn.LocalResponseNorm(size, call["bias"], call["alpha"] / size, call["beta"])


@operator("LRN", make=_make_lrn, size=int, alpha=1e-4, beta=0.75, bias=1.0)
def _lrn(call: Call) -> Result:
    assert call.module
    return Value(call.module(call.value(0, 4).images()), True)


def _make_batch_norm(call: Call) -> nn.Module:
    scale, bias, mean, variance = (call.weights(place, 1) for place in (1, 2, 3, 4))
    assert scale is not None and bias is not None and mean is not None and variance is not None
    if not scale.shape == bias.shape == mean.shape == variance.shape:
        shapes = ", ".join(str(array.shape) for array in (scale, bias, mean, variance))
        raise call.error(f"expected scale, bias, mean and variance of one shape, got {shapes}")
    if call["spatial"] != 1:
        raise call.error(f"spatial: expected 1, got {call['spatial']}")
    layer = nn.BatchNorm(scale.shape[0], call["momentum"], call["epsilon"])
    layer.gamma.data, layer.beta.data = kept(scale, 1), kept(bias, 0)
    layer.running_mean.data, layer.running_variance.data = kept(mean, 0), kept(variance, 1)
    return layer


@operator(
    "BatchNormalization", inputs=(5, 5), outputs=3, make=_make_batch_norm, epsilon=1e-5, momentum=0.9, spatial=1,
    training_mode=0,
)  # fmt: skip
def _batch_norm(call: Call) -> Sequence[Result]:
    x, layer = call.value(), call.module
    assert isinstance(layer, nn.BatchNorm)
    if len(x.shape) not in (2, 4) or x.shape[1] != layer.gamma.shape[0]:
        raise call.error(f"expected (N, C) or (N, C, H, W) with {layer.gamma.shape[0]} channels, got {x.shape}")
    y = Value(layer(x.images()), True) if len(x.shape) == 4 else Value(layer(x.plain()))
    return y, Value(layer.running_mean), Value(layer.running_variance)


# ---- products


def _make_linear(call: Call) -> nn.Module | None:
    """A layer where the matrix is the graph's and the bias one a column; else the product is computed as it stands."""
    if not isinstance(call.input(1), np.ndarray | Blank) or call["transA"] or call["alpha"] == 0:
        return None
    w = call.weights(1, 2)
    assert w is not None
    rows, columns = w.shape if call["transB"] else w.shape[::-1]
    b = call.weights(2, 0, 1, 2)
    if b is not None and b.shape not in ((), (1,), (rows,), (1, rows), (1, 1)):
        raise call.error(f"expected a bias of shape {(rows,)}, got {b.shape}")
    bias = b if b is None or isinstance(b, Blank) else np.broadcast_to(b.ravel(), (rows,))
    return nn.Linear(
        columns, rows, bias=b is not None, weight_init=drawn(w, (0, 1) if call["transB"] else (1, 0), call["alpha"]),
        bias_init=drawn(bias, factor=call["beta"]),
    )  # fmt: skip


@operator("Gemm", inputs=(2, 3), make=_make_linear, alpha=1.0, beta=1.0, transA=0, transB=0)
def _gemm(call: Call) -> Result:
    a = call.value(0, 2).plain()
    if call.module:
        return Value(multiplied(call, a))
    b = call.value(1, 2).plain()
    y = ops.matmul(ops.transpose(a) if call["transA"] else a, ops.transpose(b) if call["transB"] else b)
    y = y if call["alpha"] == 1 else y * call["alpha"]
    if call.input(2) is None:
        return Value(y)
    c = call.value(2).plain()
    return Value(y + (c if call["beta"] == 1 else c * call["beta"]))


def multiplied(call: Call, x: Tensor) -> Tensor:
    """What a fully connected layer makes of the last axis."""
    layer = call.module
    assert isinstance(layer, nn.Linear)
    features = layer.w.shape[1]
    if x.shape[-1] != features:
        raise call.error(f"expected {features} numbers along the last axis, got shape {x.shape}")
    if len(x.shape) == 2:
        return layer(x)
    return ops.reshape(layer(ops.reshape(x, (-1, features))), (*x.shape[:-1], layer.w.shape[0]))


# ---- dropout and activation functions


def _make_dropout(call: Call) -> nn.Module:
    ratio = call.number("ratio", 1)
    if ratio is None or not 0 <= ratio < 1:
        raise call.error(f"ratio: expected a number from 0 to below 1, got {ratio}")
    return nn.Dropout(ratio, "inverted")


@operator("Dropout", inputs=(1, 3), outputs=2, make=_make_dropout, ratio=0.5, seed=0)
def _dropout(call: Call) -> Sequence[Result]:
    x, layer = call.value(), call.module
    assert isinstance(layer, nn.Dropout)
    mask = [np.ones(x.shape, bool)] if len(call.node.outputs) > 1 and call.node.outputs[1] else []
    if mask and layer.training and layer.p:
        raise call.error("expected a mask that nobody asks for in training, got a second output")
    return [Value(layer(x.held), x.last), *mask]


ACTIVATIONS: dict[str, tuple[ops.Activation, type[nn.Module]]] = {
    "Relu": ("relu", nn.ReLU),
    "Tanh": ("tanh", nn.Tanh),
    "Sigmoid": ("sigmoid", nn.Sigmoid),
}


@operator(*ACTIVATIONS, make=lambda call: ACTIVATIONS[call.node.operator][1]())
def _activation(call: Call) -> Result:
    x = call.value()
    assert call.module
    return Value(call.module(x.held), x.last)
