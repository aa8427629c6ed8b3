"""Normalisation across channels, within channels, and over batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend, kernels
from ..kernels import Array
from ..tensor import Function, Tensor


@dataclass(eq=False)
class Lrn(Function):
    size: int
    k: float
    alpha: float
    beta: float
    groups: int

    def forward(self, x: Array) -> Array:
        self.x = x
        return kernels.lrn(x, self.size, self.k, self.alpha, self.beta, self.groups)

    def can_mask(self, factor: float) -> bool:
        return factor == 1

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        options = self.size, self.k, self.alpha, self.beta, self.groups
        return (kernels.lrn_backward(dy, self.x, *options, mask=self.masks > 0),)


def lrn(x: Tensor, size: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75, groups: int = 1) -> Tensor:
    """``kernels.lrn`` on tensors (alpha as in the paper, not divided by size): (..., C) -> (..., C)."""
    return Lrn.apply(x, size=size, k=k, alpha=alpha, beta=beta, groups=groups)


@dataclass(eq=False)
class LrnMaxPool2d(Function):
    """Keeps what the two keep, in fewer passes over memory."""

    normalisation: dict[str, Any]
    windows: dict[str, Any]

    def forward(self, x: Array) -> Array:
        options = {"lrn_size" if name == "size" else name: value for name, value in self.normalisation.items()}
        y, self.which = kernels.lrn_max_pool2d(x, **options, **self.windows)
        self.x, self.options = x, options
        return y

    def can_mask(self, factor: float) -> bool:
        return factor == 1

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        options = {**self.options, **self.windows, "mask": self.masks > 0}
        return (kernels.lrn_max_pool2d_backward(dy, self.which, self.x, **options),)


def lrn_max_pool2d(x: Tensor, normalisation: dict[str, Any], windows: dict[str, Any]) -> Tensor:
    """``max_pool2d`` of ``lrn``, to their bits: (N, H, W, C) -> (N, OH, OW, C). ``normalisation`` and ``windows`` are
    the arguments of the two by name."""
    return LrnMaxPool2d.apply(x, normalisation=normalisation, windows=windows)


@dataclass(eq=False)
class SpatialLrn(Function):
    size: int
    k: float
    alpha: float
    beta: float

    def forward(self, x: Array) -> Array:
        self.x = x
        return kernels.spatial_lrn(x, self.size, self.k, self.alpha, self.beta)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.spatial_lrn_backward(dy, self.x, self.size, self.k, self.alpha, self.beta),)


def spatial_lrn(x: Tensor, size: int = 5, k: float = 1.0, alpha: float = 4e-5, beta: float = 0.75) -> Tensor:
    """``kernels.spatial_lrn`` on tensors (alpha not divided by the window's area): (N, H, W, C) -> (N, H, W, C)."""
    return SpatialLrn.apply(x, size=size, k=k, alpha=alpha, beta=beta)


@dataclass(eq=False)
class ContrastNorm(Function):
    size: int
    k: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        self.pads = self.size // 2, self.size - 1 - self.size // 2
        self.windows = self.size, 1, (self.pads, self.pads)

    def _sum(self, x: Array) -> Array:
        """Sums over the windows: their means times how many pixels each has."""
        return kernels.broadcast("multiply", kernels.avg_pool2d(x, *self.windows), self.pixels)

    def _sum_backward(self, dy: Array) -> Array:
        return kernels.avg_pool2d_backward(kernels.broadcast("multiply", dy, self.pixels), dy.shape, *self.windows)

    def forward(self, x: Array) -> Array:
        compute, (_, H, W, _) = kernels.broadcast, x.shape
        before, after = self.pads
        rows, columns = (np.minimum(np.arange(n) + after + 1, n) - np.maximum(np.arange(n) - before, 0) for n in (H, W))
        self.pixels = backend.constant(np.outer(rows, columns).astype(np.float32)[..., None], self.device)
        self.d = compute("subtract", x, kernels.avg_pool2d(x, *self.windows))
        self.s = compute("multiply_add", self._sum(compute("multiply", self.d, self.d)), self.alpha, self.k)
        self.y = compute("multiply", x, compute("power", self.s, -self.beta))
        return self.y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        compute = kernels.broadcast
        ds = compute("multiply", compute("divide", compute("multiply", dy, self.y), self.s), -self.beta)
        dd = compute("multiply", compute("multiply", self.d, self._sum_backward(ds)), 2 * self.alpha)
        dx = compute("add", compute("multiply", dy, compute("power", self.s, -self.beta)), dd)
        return (compute("subtract", dx, kernels.avg_pool2d_backward(dd, dd.shape, *self.windows)),)


def contrast_norm(x: Tensor, size: int, k: float = 1.0, alpha: float = 1e-3, beta: float = 0.75) -> Tensor:
    """Local contrast normalisation within each channel (cuda-convnet's "cnorm"): y_p = x_p s_p^-beta, s_p = k + alpha *
    sum of (x_q - m_q)^2 over the ``size`` x ``size`` pixels q from p - floor(size / 2) on, m_q the mean of x over the
    window of q, both cut off at the image's edges. The gradient includes that of m, which cuda-convnet leaves out.

    x: (N, H, W, C). Returns the shape of x.
    """
    return ContrastNorm.apply(x, size=size, k=k, alpha=alpha, beta=beta)


@dataclass(eq=False)
class BatchNorm(Function):
    running_mean: Array
    running_variance: Array
    momentum: float
    epsilon: float
    training: bool

    def forward(self, x: Array, gamma: Array, beta: Array) -> Array:
        self.x, self.gamma = x, gamma
        running = self.running_mean, self.running_variance
        y, self.mean, self.r = kernels.batch_norm(x, gamma, beta, *running, self.momentum, self.epsilon, self.training)
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return kernels.batch_norm_backward(dy, self.x, self.gamma, self.mean, self.r, self.training)


def batch_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    running_mean: Tensor,
    running_variance: Tensor,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    training: bool = True,
) -> Tensor:
    """``kernels.batch_norm`` on tensors: x (..., C), the others (C,) -> (..., C); training moves running_*."""
    running = {"running_mean": running_mean.data, "running_variance": running_variance.data}
    return BatchNorm.apply(x, gamma, beta, **running, momentum=momentum, epsilon=epsilon, training=training)
