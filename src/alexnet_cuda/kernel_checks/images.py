"""From stored images to a network's input: crops, some mirrored, of (x - mean + noise) * scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import DTypeLike

from .. import kernels, models
from .bounds import Sums, rounding_error
from .check import Cases, Check, Trial, Values
from .drawn import numbers, places
from .layers import ALEXNETS, Scope
from .product import STORED

MARGIN = 32
"""Pixels by which images are stored larger, as the paper's 256 are than 224."""


@dataclass(frozen=True)
class Shape:
    images: int
    stored: tuple[int, int]
    size: tuple[int, int]

    def __str__(self) -> str:
        (H, W), (h, w) = self.stored, self.size
        return f"{self.images} of {H}x{W} to {h}x{w}"


SMALL = (Shape(1, (1, 1), (1, 1)), Shape(3, (9, 7), (5, 7)), Shape(2, (40, 35), (33, 32)))


def checks(scope: Scope) -> Iterator[Check]:
    inputs = [models.get(name).input[:2] for name in ALEXNETS]
    layers = [Shape(batch, (H + MARGIN, W + MARGIN), (H, W)) for batch in scope.batches for H, W in inputs]
    for way, dtype in STORED.items():
        for shapes in (SMALL, *((shape,) for shape in layers)):
            cases: Cases = [(str(shape), partial(augment, shape, dtype)) for shape in shapes]
            yield Check(kernels.augment, way, cases)


def augment(shape: Shape, dtype: DTypeLike) -> Trial:
    N, (H, W), (h, w) = shape.images, shape.stored, shape.size
    x = numbers("images", N, H, W, 3).view(np.uint32).astype(np.uint8)
    mean, noise, scale = 64 * numbers("mean", H, W, 3), 16 * numbers("noise", N, 3), 1 / 64
    crops = np.random.default_rng((N, H, W)).integers(0, [H - h + 1, W - w + 1, 2], (N, 3)).astype(np.int32)
    crops[0], crops[-1] = (0, 0, 0), (H - h, W - w, 1)
    where = places(N * h * w * 3)
    n, row, column, c = np.unravel_index(where, (N, h, w, 3))
    top, left, mirrored = crops[n].T
    row, column = top + row, left + np.where(mirrored, w - 1 - column, column)
    terms = Sums.over(np.stack([x[n, row, column, c], -mean[row, column, c], noise[n, c]]), axis=0)
    # two sums, the scale as float32 and the product with it
    y = Values(where, scale * terms.value, rounding_error(scale * terms.magnitude, 4))
    arguments = {
        "x": x,
        "size": shape.size,
        "mean": mean,
        "crops": crops,
        "noise": noise,
        "scale": scale,
        "dtype": dtype,
    }
    return Trial(arguments, {"y": y}, returns=("y",))
