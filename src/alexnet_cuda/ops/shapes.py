"""Operations that move values and compute none."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from .. import backend
from ..kernels import Array
from ..tensor import Function, Passthrough, Tensor


@dataclass(eq=False)
class Reshape(Passthrough):
    target: tuple[int, ...]

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x.reshape(self.target)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (dy.reshape(self.shape),)


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same values in another shape; one -1 is inferred. Shares memory with x."""
    return Reshape.apply(x, target=shape)


def flatten(x: Tensor) -> Tensor:
    """(N, ...) -> (N, product of the rest), pixels in the order h, w, c."""
    return reshape(x, (x.shape[0], math.prod(x.shape[1:])))


class Concat(Function):
    def forward(self, *xs: Array) -> Array:
        self.edges = [0, *itertools.accumulate(x.shape[-1] for x in xs)]
        return np.concatenate(xs, axis=-1)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return tuple(dy[..., first:last].copy() for first, last in itertools.pairwise(self.edges))


def concat(xs: Sequence[Tensor]) -> Tensor:
    """The xs joined along the last dimension: (..., C1), (..., C2), ... -> (..., C1 + C2 + ...)."""
    return Concat.apply(*xs)


@dataclass(eq=False)
class TakeChannels(Function):
    order: np.ndarray

    def forward(self, x: Array) -> Array:
        return x.take(backend.constant(self.order.ravel(), self.device), axis=-1)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        places = backend.constant(np.argsort(self.order, axis=1), self.device)
        parts = np.split(dy, len(self.order), axis=-1)
        return (reduce(operator.add, (part.take(p, axis=-1) for part, p in zip(parts, places, strict=True))),)


def take_channels(x: Tensor, order: np.ndarray) -> Tensor:
    """Channels in another order, as often as it names them: x (..., C), each row of order (R, C) a permutation of the
    channels -> (..., R C)."""
    return TakeChannels.apply(x, order=order)


@dataclass(eq=False)
class Subsample(Function):
    start: int
    stride: int

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x[:, self.start :: self.stride, self.start :: self.stride].copy()

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        dx = backend.zeros(self.shape, np.float32, self.device)
        dx[:, self.start :: self.stride, self.start :: self.stride] = dy
        return (dx,)


def subsample(x: Tensor, start: int, stride: int) -> Tensor:
    """Every stride-th pixel from ``start`` on, both ways: (N, H, W, C) -> (N, OH, OW, C)."""
    return Subsample.apply(x, start=start, stride=stride)
