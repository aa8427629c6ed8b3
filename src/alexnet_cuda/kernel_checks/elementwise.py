"""Element by element: activations, biases with the sums that are their gradients, conversion, dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import DTypeLike, NDArray

from .. import kernels
from ..models.layers import Conv2d, Dropout, Linear
from . import random_words
from .bounds import Floats, rounding_error
from .check import Cases, Check, Trial, Values
from .drawn import numbers, places
from .layers import Scope, outputs, rows
from .product import STORED, column_sums

Shape = tuple[int, ...]
SMALL: tuple[Shape, ...] = ((1,), (255,), (4097,), (3, 5, 7, 97), (4, 3, 2, 96))


def checks(scope: Scope) -> Iterator[Check]:
    activations = [*outputs(Conv2d), *outputs(Linear)]
    layers = [(batch, *shape) for batch in scope.batches for shape in activations]
    largest = [(batch, *max(activations, key=math.prod)) for batch in scope.batches]
    dropped = [(batch, *row.output) for batch in scope.batches for _, _, row in rows(Dropout)]
    for way, dtype in STORED.items():
        for name, kernel, kernel_backward, shapes in (
            ("relu", kernels.relu, kernels.relu_backward, layers),
            ("tanh", kernels.tanh, kernels.tanh_backward, largest),
            ("sigmoid", kernels.sigmoid, kernels.sigmoid_backward, largest),
        ):
            yield from _checks(kernel, way, shapes, partial(forward, name, dtype))
            yield from _checks(kernel_backward, way, shapes, partial(backward, name, dtype))
        yield from _checks(kernels.bias, way, layers, partial(bias, dtype))
        yield from _checks(kernels.bias_backward, way, layers, partial(bias_backward, dtype))
        yield from _checks(kernels.bias_relu_backward, way, layers, partial(bias_relu_backward, dtype))
        yield from _checks(kernels.cast, f"from {way}", largest, partial(cast, dtype))
        yield from _checks(kernels.dropout, way, dropped, partial(dropout, dtype, "x"))
        yield from _checks(kernels.dropout_backward, way, dropped, partial(dropout, dtype, "dy"))


def _checks(
    kernel: Callable[..., Any], way: str, shapes: Sequence[Shape], trial: Callable[[Shape], Trial]
) -> Iterator[Check]:
    for some in (SMALL, *((shape,) for shape in shapes)):
        cases: Cases = [("x".join(map(str, shape)), partial(trial, shape)) for shape in some]
        yield Check(kernel, way, cases)


# ---- activations: the formula, its derivative by the output, and the roundings of both

Function = Callable[[Floats], NDArray[Any]]
FUNCTIONS: dict[str, tuple[Function, Function, int, int]] = {
    "relu": (lambda x: np.maximum(x, 0), lambda y: 1.0 * (y > 0), 0, 0),
    # expf and tanhf are right to 2 units in the last place (CUDA's documentation), four roundings; the sigmoid adds one
    # and divides
    "tanh": (np.tanh, lambda y: 1 - y * y, 4, 3),
    "sigmoid": (lambda x: np.exp(-np.logaddexp(0, -x)), lambda y: y * (1 - y), 6, 3),
}


def forward(name: str, dtype: DTypeLike, shape: Shape) -> Trial:
    x = np.float32(2).astype(dtype) * numbers("x", *shape, dtype=dtype)
    where = places(x.size)
    y = FUNCTIONS[name][0](x.reshape(-1)[where].astype(np.float64))
    return Trial({"x": x}, {"y": Values(where, y, rounding_error(abs(y), FUNCTIONS[name][2]))}, returns=("y",))


def backward(name: str, dtype: DTypeLike, shape: Shape) -> Trial:
    dy, drawn = numbers("dy", *shape, dtype=dtype), numbers("y", *shape, dtype=dtype)
    y = drawn if name == "relu" else drawn / np.float32(2).astype(dtype)
    where = places(y.size)
    dy64, y64 = (array.reshape(-1)[where].astype(np.float64) for array in (dy, y))
    magnitude = abs(dy64) * (1 + y64**2) if name == "tanh" else abs(dy64 * y64) * (1 + abs(y64))  # terms that cancel
    bound = rounding_error(magnitude, FUNCTIONS[name][3])
    return Trial({"dy": dy, "y": y}, {"dx": Values(where, dy64 * FUNCTIONS[name][1](y64), bound)}, returns=("dx",))


# ---- biases


def bias(dtype: DTypeLike, shape: Shape) -> Trial:
    x, b = numbers("x", *shape, dtype=dtype), numbers("b", shape[-1])
    where = places(x.size)
    total = x.reshape(-1)[where].astype(np.float64) + b[where % shape[-1]]
    y = Values(where, np.maximum(total, 0), rounding_error(abs(total), 1))
    return Trial({"x": x, "b": b, "relu": True}, {"y": y}, returns=("y",))


def bias_backward(dtype: DTypeLike, shape: Shape) -> Trial:
    dy = numbers("dy", *shape, dtype=dtype)
    return Trial({"dy": dy}, {"db": column_sums(dy)}, returns=("db",))


def bias_relu_backward(dtype: DTypeLike, shape: Shape) -> Trial:
    """The scale of what dropout kept is a power of two: nothing is rounded but sums."""
    dy, y = (numbers(name, *shape, dtype=dtype) for name in ("dy", "y"))
    dx = np.where(y.astype(np.float32) > 0, 2 * dy.astype(np.float32), np.float32(0))
    where = places(dx.size)
    expected = {"dx": Values(where, dx.reshape(-1)[where].astype(np.float64)), "db": column_sums(dx)}
    return Trial({"dy": dy, "y": y, "scale": 2.0}, expected, returns=("dx", "db"))


# ---- the same numbers, or some of them


def cast(dtype: DTypeLike, shape: Shape) -> Trial:
    """To the other storage; NumPy's bfloat16 rounds as the kernel must."""
    x = numbers("x", *shape, dtype=dtype)
    other = np.dtype(np.float32 if dtype == bfloat16 else bfloat16)
    where = places(x.size)
    y = Values(where, x.reshape(-1)[where].astype(other).astype(np.float64))
    return Trial({"x": x, "dtype": other}, {"y": y}, returns=("y",))


def dropout(dtype: DTypeLike, name: str, shape: Shape) -> Trial:
    """Of a part of a larger array."""
    x = numbers(name, *shape, dtype=dtype)
    where = places(x.size)
    draw = {"seed": 2**40 + 1, "step": 7, "purpose": 3}
    keep = random_words.kept(where + 6, 0.3, **draw)
    y = x.reshape(-1)[where].astype(np.float64) * keep / (1 - 0.3)
    arguments = {name: x, "p": 0.3, "form": "inverted", "first": 6, **draw}
    return Trial(arguments, {"y": Values(where, y, rounding_error(abs(y), 2))}, returns=("y",))
