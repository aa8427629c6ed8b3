"""Convolutions, with filters that all pixels share and with filters of each pixel's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from .. import kernels
from ..kernels import Algorithm, Array, Padding, Pair, Precision
from ..tensor import Function, Tensor
from .products import stored_as


@dataclass(eq=False)
class Conv2d(Function):
    kernel: ClassVar[Callable[..., Array]] = staticmethod(kernels.conv2d)
    kernel_backward: ClassVar[Callable[..., tuple[Array, ...]]] = staticmethod(kernels.conv2d_backward)
    stride: Pair
    padding: Padding
    groups: int
    ceil: bool
    relu: bool
    options: dict[str, Any]

    def forward(self, x: Array, w: Array, b: Array | None) -> Array:
        w = stored_as(w, x)
        y = self.kernel(x, w, b, self.stride, self.padding, self.groups, self.relu, self.ceil, **self.options)
        self.x, self.w, self.y = x, w, y if self.relu else None
        return y

    def rectified(self) -> float:
        return float(self.relu)

    def can_mask(self, factor: float) -> bool:
        return factor == 1

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        options = {**self.options, "mask": self.x} if self.masks else self.options
        windows, y = (self.stride, self.padding, self.groups, self.ceil), None if self.masked else self.y
        return self.kernel_backward(dy, self.x, self.w, *windows, self.needs, **options, y=y)


def conv2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    groups: int = 1,
    relu: bool = False,
    ceil: bool = False,
    precision: Precision = "fp32",
    algorithm: Algorithm = "auto",
) -> Tensor:
    """``kernels.conv2d`` on tensors: x (N, H, W, C), w (K, KH, KW, C / groups), b (K,) -> (N, OH, OW, K)."""
    windows = {"stride": stride, "padding": padding, "groups": groups, "ceil": ceil}
    return Conv2d.apply(x, w, b, **windows, relu=relu, options={"precision": precision, "algorithm": algorithm})


class Local2d(Conv2d):
    kernel = staticmethod(kernels.local2d)
    kernel_backward = staticmethod(kernels.local2d_backward)

    def can_mask(self, factor: float) -> bool:
        return False


def local2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    groups: int = 1,
    relu: bool = False,
    ceil: bool = False,
) -> Tensor:
    """``kernels.local2d`` on tensors: x (N, H, W, C), w (OH, OW, K, KH, KW, C / groups), b (OH, OW, K) ->
    (N, OH, OW, K)."""
    windows = {"stride": stride, "padding": padding, "groups": groups, "ceil": ceil}
    return Local2d.apply(x, w, b, **windows, relu=relu, options={})
