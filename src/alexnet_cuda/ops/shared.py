"""What several operations need."""

from __future__ import annotations

import math

from .. import kernels
from ..kernels import Array


def stored_as(w: Array, x: Array, copy: Array | None = None) -> Array:
    """Weights as the products of x take them, in both passes: themselves, their ``copy``, or a new one."""
    if w.dtype == x.dtype:
        return w
    return kernels.cast(w, x.dtype) if copy is None else copy


def relu_backward(
    dy: Array, y: Array, bias: tuple[int, ...], need: bool, scale: float = 1.0
) -> tuple[Array, Array | None]:
    """The gradient before ReLU and a dropout with that scale, from their output y, and where it is needed that of the
    bias of that shape."""
    if not need and scale == 1:
        return kernels.relu_backward(dy, y), None
    matrix = -1, math.prod(bias)
    dx, db = kernels.bias_relu_backward(dy.reshape(matrix), y.reshape(matrix), scale)
    return dx.reshape(dy.shape), db.reshape(bias)
