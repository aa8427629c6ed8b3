"""Maximum and mean of windows."""

from __future__ import annotations

from dataclasses import dataclass

from .. import kernels
from ..kernels import Array, Padding, Pair
from ..tensor import Function, Passthrough, Tensor


@dataclass(eq=False)
class MaxPool2d(Passthrough):
    size: Pair
    stride: Pair | None
    padding: Padding
    ceil: bool

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        y, self.which = kernels.max_pool2d(x, self.size, self.stride, self.padding, self.ceil)
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (
            kernels.max_pool2d_backward(dy, self.which, self.shape, self.size, self.stride, self.padding, self.ceil),
        )


def max_pool2d(x: Tensor, size: Pair, stride: Pair | None = None, padding: Padding = 0, ceil: bool = False) -> Tensor:
    """``kernels.max_pool2d`` on tensors: (N, H, W, C) -> (N, OH, OW, C)."""
    return MaxPool2d.apply(x, size=size, stride=stride, padding=padding, ceil=ceil)


@dataclass(eq=False)
class AvgPool2d(Function):
    size: Pair
    stride: Pair | None
    padding: Padding
    ceil: bool

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return kernels.avg_pool2d(x, self.size, self.stride, self.padding, self.ceil)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.avg_pool2d_backward(dy, self.shape, self.size, self.stride, self.padding, self.ceil),)


def avg_pool2d(x: Tensor, size: Pair, stride: Pair | None = None, padding: Padding = 0, ceil: bool = False) -> Tensor:
    """``kernels.avg_pool2d`` on tensors: (N, H, W, C) -> (N, OH, OW, C)."""
    return AvgPool2d.apply(x, size=size, stride=stride, padding=padding, ceil=ceil)
