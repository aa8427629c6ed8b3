"""Pooling: the largest pixel of each window and its place in it, or the mean of those inside the image; gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import kernels
from ..kernels import window_output
from ..models.layers import AvgPool2d, MaxPool2d, Window
from .bounds import Floats, rounding_error
from .check import Cases, Check, Trial, Values
from .drawn import Indices, numbers, places
from .layers import Scope, rows
from .product import STORED

Pair = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """x (N, H, W, C) and windows."""

    name: str
    x: tuple[int, ...]
    size: Pair
    stride: Pair
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    ceil: bool = False

    def __str__(self) -> str:
        return f"{self.name}, batch {self.x[0]}"

    @classmethod
    def of(cls, name: str, layer: Window, x: tuple[int, ...]) -> Shape:
        pad = layer.padding, layer.padding
        return cls(name, x, (layer.size,) * 2, (layer.stride,) * 2, (pad, pad), layer.ceil)

    @property
    def y(self) -> tuple[int, int, int, int]:
        N, H, W, C = self.x
        OH = window_output(H, self.size[0], self.stride[0], self.padding[0], self.ceil)
        OW = window_output(W, self.size[1], self.stride[1], self.padding[1], self.ceil)
        return N, OH, OW, C

    @property
    def options(self) -> dict[str, Any]:
        return {"size": self.size, "stride": self.stride, "padding": self.padding, "ceil": self.ceil}


SMALL = (
    Shape("odd sizes", (2, 7, 9, 5), (3, 2), (2, 1), ((1, 0), (0, 1)), True),
    Shape("overlapping", (2, 9, 8, 12), (3, 3), (2, 2), ceil=True),
    Shape("apart", (1, 6, 8, 16), (2, 2), (3, 2)),
    Shape("all of the image", (3, 4, 5, 7), (4, 5), (1, 1)),
)


def checks(scope: Scope) -> Iterator[Check]:
    for way, dtype in STORED.items():
        for kind, passes in (
            (MaxPool2d, ((kernels.max_pool2d, forward), (kernels.max_pool2d_backward, backward))),
            (AvgPool2d, ((kernels.avg_pool2d, forward_mean), (kernels.avg_pool2d_backward, backward_mean))),
        ):
            layers = (
                [Shape.of(name, layer, (batch, *row.input))]
                for batch in scope.batches
                for name, layer, row in rows(kind)
            )
            for shapes in (SMALL, *layers):
                for kernel, trial in passes:
                    cases: Cases = [(str(shape), partial(trial, shape, dtype)) for shape in shapes]
                    yield Check(kernel, way, cases)


def windows(shape: Shape, where: Indices) -> tuple[Indices, NDArray[np.bool_]]:
    """Of some outputs: the places in the flat x of each window's pixels, and whether these are there, (outputs,
    pixels)."""
    _, H, W, C = shape.x
    n, oh, ow, c = np.unravel_index(where, shape.y)
    i, j = np.unravel_index(np.arange(math.prod(shape.size)), shape.size)
    h = (oh * shape.stride[0] - shape.padding[0][0])[:, None] + i
    w = (ow * shape.stride[1] - shape.padding[1][0])[:, None] + j
    inside = (h >= 0) & (h < H) & (w >= 0) & (w < W)
    return ((n[:, None] * H + h.clip(0, H - 1)) * W + w.clip(0, W - 1)) * C + c[:, None], inside


def covering(shape: Shape, where: Indices) -> tuple[Indices, NDArray[np.bool_]]:
    """Of some pixels of x: the places in the flat y of the windows in which they are pixel 0, 1, ..., and whether these
    are there, (pixels, places in a window)."""
    _, OH, OW, C = shape.y
    n, h, w, c = np.unravel_index(where, shape.x)
    i, j = np.unravel_index(np.arange(math.prod(shape.size)), shape.size)
    oh, rest_h = np.divmod((h + shape.padding[0][0])[:, None] - i, shape.stride[0])
    ow, rest_w = np.divmod((w + shape.padding[1][0])[:, None] - j, shape.stride[1])
    there = (rest_h == 0) & (rest_w == 0) & (oh >= 0) & (oh < OH) & (ow >= 0) & (ow < OW)
    return ((n[:, None] * OH + oh.clip(0, OH - 1)) * OW + ow.clip(0, OW - 1)) * C + c[:, None], there


def taken(shape: Shape, where: Indices, dy: NDArray[Any], which: NDArray[np.uint8]) -> Floats:
    """What some pixels of x get of each of the windows that hold them: (pixels, places in a window)."""
    at, there = covering(shape, where)
    there &= which.reshape(-1)[at] == np.arange(at.shape[1])
    return np.where(there, dy.reshape(-1)[at].astype(np.float64), 0.0)


def chosen(shape: Shape) -> NDArray[np.uint8]:
    """A place in each window."""
    return (numbers("which", *shape.y).view(np.uint32) % np.uint32(math.prod(shape.size))).astype(np.uint8)


def forward(shape: Shape, dtype: DTypeLike) -> Trial:
    x = numbers("x", *shape.x, dtype=dtype)
    where = places(math.prod(shape.y))
    at, inside = windows(shape, where)
    pixels = np.where(inside, x.reshape(-1)[at].astype(np.float64), -np.inf)
    expected = {"y": Values(where, pixels.max(1)), "which": Values(where, pixels.argmax(1))}
    return Trial({"x": x, **shape.options}, expected, returns=("y", "which"))


def backward(shape: Shape, dtype: DTypeLike) -> Trial:
    dy, which = numbers("dy", *shape.y, dtype=dtype), chosen(shape)
    where = places(math.prod(shape.x))
    parts = taken(shape, where, dy, which)
    dx = Values(where, parts.sum(1), rounding_error(abs(parts).sum(1), parts.shape[1]))
    arguments = {"dy": dy, "which": which, "x_shape": shape.x, **shape.options}
    return Trial(arguments, {"dx": dx}, returns=("dx",))


def forward_mean(shape: Shape, dtype: DTypeLike) -> Trial:
    x = numbers("x", *shape.x, dtype=dtype)
    where = places(math.prod(shape.y))
    at, inside = windows(shape, where)
    pixels, area = np.where(inside, x.reshape(-1)[at].astype(np.float64), 0), inside.sum(1)
    y = Values(where, pixels.sum(1) / area, rounding_error(abs(pixels).sum(1) / area, area.max() + 1))
    return Trial({"x": x, **shape.options}, {"y": y}, returns=("y",))


def backward_mean(shape: Shape, dtype: DTypeLike) -> Trial:
    dy = numbers("dy", *shape.y, dtype=dtype)
    where = places(math.prod(shape.x))
    at, there = covering(shape, where)
    area = windows(shape, at.reshape(-1))[1].sum(1).reshape(at.shape)
    parts = np.where(there, dy.reshape(-1)[at].astype(np.float64) / area, 0)
    dx = Values(where, parts.sum(1), rounding_error(abs(parts).sum(1), parts.shape[1] + 1))
    return Trial({"dy": dy, "x_shape": shape.x, **shape.options}, {"dx": dx}, returns=("dx",))
