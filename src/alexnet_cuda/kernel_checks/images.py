"""From stored images to a network's input: crops, some mirrored, of (x - mean + noise) * scale; and samples of turned
and resized ones, their contrast and brightness changed, mixed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import kernels, models
from .bounds import Floats, Sums, rounding_error
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
            for what, trial in (("", augment), (", sampled and mixed", sampled)):
                cases: Cases = [(f"{shape}{what}", partial(trial, shape, dtype)) for shape in shapes]
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


def sampled(shape: Shape, dtype: DTypeLike) -> Trial:
    """Of the whole image, or where it is large of a part, turned by up to 30 degrees, half of them mirrored: what the
    formula of ``kernels.augment`` has in float64."""
    N, (H, W), (h, w) = shape.images, shape.stored, shape.size
    rng = np.random.default_rng((N, H, W))
    x = numbers("images", N, H, W, 3).view(np.uint32).astype(np.uint8)
    mean, noise, scale = 64 * numbers("mean", H, W, 3), 16 * numbers("noise", N, 3), 1 / 64
    tones = np.stack([rng.uniform(0.5, 1.5, N), rng.uniform(-50, 50, N)], 1).astype(np.float32)
    mix, angle = rng.random(N, np.float32), rng.uniform(-np.pi / 6, np.pi / 6, N)
    down, right = rng.uniform(0.3, 1, N) * H / h, rng.uniform(0.3, 1, N) * W / w * np.where(np.arange(N) % 2, -1, 1)
    maps = np.empty((N, 2, 3))
    maps[:, 0, 1:] = np.stack([np.cos(angle) * down, np.sin(angle) * right], 1)
    maps[:, 1, 1:] = np.stack([-np.sin(angle) * down, np.cos(angle) * right], 1)
    middle = np.array([H - 1, W - 1]) / 2
    maps[:, :, 0] = middle - maps[:, :, 1] * (h - 1) / 2 - maps[:, :, 2] * (w - 1) / 2
    maps = maps.astype(np.float32)

    where = places(N * h * w * 3)
    n, row, column, c = np.unravel_index(where, (N, h, w, 3))
    value, error = np.zeros(len(where)), np.zeros(len(where))
    other = np.where((n ^ 1) < N, n ^ 1, n)
    for image, share in ((n, mix[n].astype(np.float64)), (other, 1 - mix[n].astype(np.float64))):
        d, d_error = _sampled(x, mean, maps.astype(np.float64), image, row, column, c)
        contrast, brightness = tones[image].astype(np.float64).T
        terms = Sums.over(np.stack([contrast * d, brightness, noise[image, c].astype(np.float64)]), axis=0)
        value += share * terms.value
        error += share * (contrast * d_error + rounding_error(terms.magnitude, 8))
    arguments = {
        "x": x, "size": shape.size, "mean": mean, "crops": maps, "noise": noise, "scale": scale, "dtype": dtype,
        "tones": tones, "mix": mix,
    }  # fmt: skip
    return Trial(arguments, {"y": Values(where, scale * value, scale * error)}, returns=("y",))


Places = NDArray[np.int64]


def _sampled(
    x: NDArray[np.uint8], mean: NDArray[np.float32], maps: Floats, n: Places, row: Places, column: Places, c: Places
) -> tuple[Floats, Floats]:
    """x - mean of images n at the pixels (row, column) of their maps, and the bounds of the errors: places are rounded
    in float32, and a value changes by at most its range a pixel."""
    (_, H, W, _), m = x.shape, maps[n]
    slope = m[:, 0, 2] / m[:, 1, 2]
    down, right = m[:, 0, 0] + m[:, 0, 1] * row, m[:, 1, 0] + m[:, 1, 1] * row
    along = _filter(right + m[:, 1, 2] * column, m[:, 1, 2], W)
    value, magnitude = np.zeros(len(n)), np.zeros(len(n))
    for i, share in along:
        for j, weight in _filter(down + (i - right) * slope, m[:, 0, 1] - m[:, 1, 1] * slope, H):
            terms = x[n, j, i, c], mean[j, i, c].astype(np.float64)
            value += share * weight * (terms[0] - terms[1])
            magnitude += share * weight * (terms[0] + abs(terms[1]))
    most, reach = 255 + abs(mean).max(), abs(m).max() + 2 * max(H, W)
    taps = 2 * len(along) + 2 * np.ceil(2 * abs(m).max())
    return value, rounding_error(magnitude, taps + 8) + 4 * most * rounding_error(reach, 6)


def _filter(place: Floats, apart: Floats, n: int) -> list[tuple[Places, Floats]]:
    """The pixels among n in a row that a filter sees at each place, samples being so far ``apart``: some from outside,
    which weigh nothing, are any."""
    support, place = np.maximum(1, abs(apart)), place.clip(0, n - 1)
    taps = []
    for k in range(int(np.ceil(2 * support.max())) + 1):
        i = np.floor(place - support).astype(np.int64) + k
        weight = np.maximum(0, 1 - abs(i - place) / support) * ((i >= 0) & (i < n))
        taps.append((i.clip(0, n - 1), weight))
    total = sum(weight for _, weight in taps)
    return [(i, weight / total) for i, weight in taps]
