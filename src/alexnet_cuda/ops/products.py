"""Fully connected layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ml_dtypes import bfloat16

from .. import kernels
from ..kernels import Array, Precision
from ..kernels.arguments import on_tensor_cores
from ..tensor import Function, LazyGradient, Tensor


def stored_as(w: Array, x: Array, copy: Array | None = None) -> Array:
    """Weights as the products of x take them, in both passes: themselves, their ``copy``, or a new one."""
    if w.dtype == x.dtype:
        return w
    return kernels.cast(w, x.dtype) if copy is None else copy


@dataclass(eq=False)
class LinearGradient(LazyGradient):
    """dy^T x, the gradient of a fully connected layer's weights w."""

    dy: Array
    x: Array
    w: Array
    precision: Precision

    def compute(self) -> Array:
        return kernels.linear_backward(self.dy, self.x, self.w, (False, True, False), self.precision)[1]


@dataclass(eq=False)
class Linear(Function):
    relu: bool
    precision: Precision
    stored: Array | None
    dropout: dict[str, Any] | None
    w_scale: Array | None

    @property
    def scale(self) -> float:
        """Of the outputs that dropout keeps."""
        return 1 / (1 - self.dropout["p"]) if self.dropout and self.dropout["form"] == "inverted" else 1.0

    def forward(self, x: Array, w: Array, b: Array | None) -> Array:
        stored = stored_as(w, x, self.stored) if x.dtype == bfloat16 else w
        if self.dropout is None:
            y = kernels.linear(x, stored, b, self.relu, self.precision, scale=self.w_scale)
        else:
            y = kernels.linear_dropout(x, stored, b, **self.dropout, precision=self.precision)
        self.x, self.w, self.stored, self.y = x, w, stored, y if self.relu else None
        return y

    def rectified(self) -> float:
        return self.scale if self.relu else 0.0

    def can_mask(self, factor: float) -> bool:
        return factor == 1 and on_tensor_cores(self.precision, self.x.dtype)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        if self.w_scale is not None:
            raise TypeError("linear: w in int8 is for inference alone: expected float32 or bfloat16 for a gradient")
        need_x, need_w, need_b = self.needs
        stored = stored_as(self.stored, dy)
        mask, y = self.x if self.masks else None, None if self.masked else self.y
        later = need_w and isinstance(self.sources[1], Tensor)
        if not later:
            return kernels.linear_backward(dy, self.x, stored, self.needs, self.precision, mask, y, self.scale)
        db = None
        if y is not None:  # for both products
            dy, db = kernels.bias_relu_backward(dy, y, self.scale, need_b)
            need_b = False
        dx, _, sums = kernels.linear_backward(dy, self.x, stored, (need_x, False, need_b), self.precision, mask)
        return dx, LinearGradient(dy, self.x, self.w, self.precision), db if sums is None else sums


def linear(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    relu: bool = False,
    precision: Precision = "fp32",
    stored: Array | None = None,
    dropout: dict[str, Any] | None = None,
    scale: Array | None = None,
) -> Tensor:
    """``kernels.linear`` on tensors: x (N, I), w (O, I), b (O,) -> (N, O); with the other arguments by name that
    ``dropout`` holds and ``relu``, ``kernels.linear_dropout``. ``stored``, a bfloat16 copy of w, is read in its place
    where x is bfloat16; ``scale`` is that of w in int8. The gradient of w is computed when it is looked at."""
    return Linear.apply(x, w, b, relu=relu, precision=precision, stored=stored, dropout=dropout, w_scale=scale)
