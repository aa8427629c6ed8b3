"""Activation functions, sums, dropout and conversion: operations on each element."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np

from .. import kernels
from ..kernels import Array
from ..suggest import nearest
from ..tensor import Function, Tensor

Activation = Literal["relu", "tanh", "sigmoid"]
POINTWISE: dict[str, tuple[Callable[[Array, float, float], Array], Callable[[Array, Array, float, float], Array]]] = {
    "abs": (lambda x, a, b: np.abs(x), lambda x, y, a, b: np.sign(x)),
    "abstanh": (
        lambda x, a, b: a * np.abs(np.tanh(b * x)),
        lambda x, y, a, b: a * b * np.sign(b * x) * (1 - np.tanh(b * x) ** 2),
    ),
    "brelu": (lambda x, a, b: np.clip(x, 0, a), lambda x, y, a, b: (x > 0) & (x < a)),
    "drelu": (lambda x, a, b: x - a * np.tanh(x / a), lambda x, y, a, b: np.tanh(x / a) ** 2),
    "linear": (lambda x, a, b: a * x + b, lambda x, y, a, b: np.float32(a)),
    "softrelu": (lambda x, a, b: np.logaddexp(0, x), lambda x, y, a, b: (1 + np.tanh(x / 2)) / 2),
    "sqrt": (lambda x, a, b: np.sqrt(x), lambda x, y, a, b: 1 / (2 * y)),
    "square": (lambda x, a, b: x * x, lambda x, y, a, b: 2 * x),
    "tanh": (lambda x, a, b: a * np.tanh(b * x), lambda x, y, a, b: a * b * (1 - np.tanh(b * x) ** 2)),
}
"""Functions f(x, a, b) of one element, each with its derivative by (x, f(x), a, b): cuda-convnet's neurons that have no
kernel. tanh: a tanh(b x); abstanh: its magnitude; brelu: x, at least 0 and at most a; drelu: x - a tanh(x / a);
softrelu: log(1 + exp(x)); linear: a x + b."""


class Relu(Function):
    def forward(self, x: Array) -> Array:
        self.y = kernels.relu(x)
        return self.y

    def rectified(self) -> float:
        return 1.0

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (dy if self.masked else kernels.relu_backward(dy, self.y),)


class Tanh(Function):
    def forward(self, x: Array) -> Array:
        self.y = kernels.tanh(x)
        return self.y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.tanh_backward(dy, self.y),)


class Sigmoid(Function):
    def forward(self, x: Array) -> Array:
        self.y = kernels.sigmoid(x)
        return self.y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.sigmoid_backward(dy, self.y),)


ACTIVATIONS: dict[Activation, type[Function]] = {"relu": Relu, "tanh": Tanh, "sigmoid": Sigmoid}


def activation(x: Tensor, name: Activation) -> Tensor:
    """``kernels.relu``, ``tanh`` or ``sigmoid`` on a tensor of any shape. ValueError for another name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: expected 'relu', 'tanh' or 'sigmoid', got {name!r}")
    return ACTIVATIONS[name].apply(x)


@dataclass(eq=False)
class Pointwise(Function):
    """A function of each element whose derivative is a function of input and output."""

    function: Callable[[Array], Array]
    derivative: Callable[[Array, Array], Array]

    def forward(self, x: Array) -> Array:
        self.x, self.y = x, self.function(x)
        return self.y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (dy * self.derivative(self.x, self.y),)


def pointwise(x: Tensor, name: str, a: float = 1.0, b: float = 1.0) -> Tensor:
    """The function ``POINTWISE[name]`` with parameters a and b, on a tensor of any shape. ValueError for an unknown
    one."""
    if name not in POINTWISE:
        known = ", ".join(POINTWISE)
        raise ValueError(f"pointwise: name: expected one of {known}, got {name!r}{nearest(str(name), POINTWISE)}")
    function, derivative = POINTWISE[name]
    return Pointwise.apply(x, function=lambda x: function(x, a, b), derivative=lambda x, y: derivative(x, y, a, b))


def noisy_relu(x: Tensor, noise: Array) -> Tensor:
    """max(0, z + z noise), z = max(0, x): noise is an array of standard normal numbers, shaped as x. The derivative is
    taken to be 1 where the output is above 0."""

    def noisy(x: Array) -> Array:
        z = np.maximum(x, 0)
        return np.maximum(z + z * noise, 0)

    return Pointwise.apply(x, function=noisy, derivative=lambda x, y: y > 0)


@dataclass(eq=False)
class WeightedSum(Function):
    coefficients: tuple[float, ...]
    relu: bool

    def forward(self, *inputs: Array | None) -> Array:
        *xs, b = inputs
        y = reduce(operator.add, map(_times, xs, self.coefficients))
        self.bias_shape = () if b is None else b.shape
        if b is not None:
            y = kernels.bias(y.reshape(-1, b.size), b.reshape(-1), self.relu).reshape(y.shape)
        elif self.relu:
            y = kernels.relu(y)
        self.y: Array = y if self.relu else None
        return y

    def rectified(self) -> float:
        return float(self.relu)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        db = None
        if self.relu and not self.masked:
            matrix = -1, math.prod(self.bias_shape)
            dx, db = kernels.bias_relu_backward(dy.reshape(matrix), self.y.reshape(matrix), need_db=self.needs[-1])
            dy, db = dx.reshape(dy.shape), None if db is None else db.reshape(self.bias_shape)
        elif self.needs[-1]:
            db = kernels.bias_backward(dy.reshape(-1, math.prod(self.bias_shape))).reshape(self.bias_shape)
        return *(_times(dy, c) for c in self.coefficients), db


def weighted_sum(
    xs: Sequence[Tensor], coefficients: Sequence[float] | None = None, b: Tensor | None = None, relu: bool = False
) -> Tensor:
    """The sum of the xs times their coefficients (default 1), plus b, then max(0, .) if ``relu``: a layer with weights
    whose inputs come in blocks is a sum of products. xs: equal shapes (..., C); b: (C,), or the shape of one image."""
    factors = (1.0,) * len(xs) if coefficients is None else tuple(coefficients)
    return WeightedSum.apply(*xs, b, coefficients=factors, relu=relu)


def _times(x: Array, factor: float) -> Array:
    return x if factor == 1 else x * np.float32(factor)


@dataclass(eq=False)
class Dropout(Function):
    options: dict[str, Any]

    def forward(self, x: Array) -> Array:
        return kernels.dropout(x, **self.options)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.dropout_backward(dy, **self.options),)


def dropout(
    x: Tensor,
    p: float = 0.5,
    form: Literal["paper", "inverted"] = "paper",
    training: bool = True,
    seed: int = 0,
    step: int = 0,
    purpose: int = 0,
    first: int = 0,
    state: Array | None = None,
) -> Tensor:
    """``kernels.dropout`` on a tensor of any shape."""
    draw = {"seed": seed, "step": step, "purpose": purpose, "first": first, "state": state}
    options = {"p": p, "form": form, "training": training, **draw}
    return Dropout.apply(x, options=options)


@dataclass(eq=False)
class Cast(Function):
    dtype: Any

    def forward(self, x: Array) -> Array:
        self.source = x.dtype
        return kernels.cast(x, self.dtype)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.cast(dy, self.source),)


def cast(x: Tensor, dtype: Any) -> Tensor:
    """``kernels.cast`` on a tensor of any shape; the gradient comes back as x is stored."""
    return x if x.data.dtype == dtype else Cast.apply(x, dtype=dtype)
