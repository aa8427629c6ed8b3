"""Activation functions, sums and dropout: operations on each element."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Literal

from .. import kernels
from ..kernels import Array
from ..suggest import nearest
from ..tensor import Function, Tensor
from .arithmetic import elementwise

Activation = Literal["relu", "tanh", "sigmoid"]
POINTWISE: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "abs": lambda x, a, b: elementwise("pointwise", "abs", x),
    "abstanh": lambda x, a, b: elementwise("pointwise", "abs_tanh", x, a, b),
    "brelu": lambda x, a, b: elementwise("pointwise", "clip", x, 0, a),
    "drelu": lambda x, a, b: elementwise("pointwise", "double_relu", x, a),
    "linear": lambda x, a, b: elementwise("pointwise", "multiply_add", x, a, b),
    "softrelu": lambda x, a, b: elementwise("pointwise", "soft_relu", x),
    "sqrt": lambda x, a, b: elementwise("pointwise", "sqrt", x),
    "square": lambda x, a, b: elementwise("pointwise", "power", x, 2),
    "tanh": lambda x, a, b: elementwise("pointwise", "scaled_tanh", x, a, b),
}
"""Functions f(x, a, b) of one element: cuda-convnet's neurons. tanh: a tanh(b x); abstanh: its magnitude; brelu: x, at
least 0 and at most a; drelu: x - a tanh(x / a); softrelu: log(1 + exp(x)); linear: a x + b."""


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


def pointwise(x: Tensor, name: str, a: float = 1.0, b: float = 1.0) -> Tensor:
    """The function ``POINTWISE[name]`` with parameters a and b, on a tensor of any shape. ValueError for an unknown
    one."""
    if name not in POINTWISE:
        known = ", ".join(POINTWISE)
        raise ValueError(f"pointwise: name: expected one of {known}, got {name!r}{nearest(str(name), POINTWISE)}")
    return POINTWISE[name](x, a, b)


def noisy_relu(x: Tensor, noise: Array) -> Tensor:
    """max(0, z + z noise), z = max(0, x): noise is an array of standard normal numbers, shaped as x. The derivative is
    taken to be 1 where the output is above 0."""
    return elementwise("noisy_relu", "noisy_relu", x, noise)


@dataclass(eq=False)
class WeightedSum(Function):
    coefficients: tuple[float, ...]
    relu: bool

    def forward(self, *inputs: Array | None) -> Array:
        *xs, b = inputs
        y = reduce(partial(kernels.broadcast, "add"), map(_times, xs, self.coefficients))
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
    return x if factor == 1 else kernels.broadcast("multiply", x, factor)


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
