"""Normalisation: across channels and within one (y = x s^-beta, s = k + alpha sum of x^2 over a window), with the pool
that follows as one operation, and of each channel over the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import kernels
from ..models.layers import BatchNorm, Lrn, MaxPool2d, SpatialLrn
from . import pooling
from .bounds import UNIT, Floats, Sums, rounding_error, stored_error, sum_error
from .check import Check, Expected, Largest, Trial, Values
from .drawn import COUNT, Indices, numbers, places, strata
from .layers import Scope, pairs as neighbours, rows
from .product import STORED

SCALE = np.float32(16)
"""Of x: with AlexNet's small alpha, s is to depend on x."""


def checks(scope: Scope) -> Iterator[Check]:
    for way, dtype in STORED.items():
        yield from _across(scope, way, dtype)
        yield from _with_pool(scope, way, dtype)
        yield from _over_the_batch(scope, way, dtype)
    yield from _within(scope)


def _check(kernel: Callable[..., Any], way: str, shapes: Sequence[Any], trial: Callable[[Any], Trial]) -> Check:
    return Check(kernel, way, [(str(shape), partial(trial, shape)) for shape in shapes])


# ---- across channels


@dataclass(frozen=True)
class Across:
    """x (..., C)."""

    name: str
    x: tuple[int, ...]
    size: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75
    groups: int = 1
    dtype: DTypeLike = np.float32

    def __str__(self) -> str:
        return f"{self.name}, batch {self.x[0]}"

    @classmethod
    def of(cls, name: str, layer: Lrn, x: tuple[int, ...], dtype: DTypeLike) -> Across:
        return cls(name, x, layer.size, layer.k, layer.alpha, layer.beta, layer.groups, dtype)

    @property
    def options(self) -> dict[str, Any]:
        return {"k": self.k, "alpha": self.alpha, "beta": self.beta, "groups": self.groups}

    def error(self, magnitude: Floats, roundings: float, exponent: float) -> Floats:
        """s sums positive terms, each squared, multiplied by alpha and added to k; its relative error is multiplied by
        the exponent; the power itself is right to 4 units in the last place, eight roundings (CUDA's powf)."""
        return rounding_error(magnitude, exponent * (self.size + 4) + 8 + roundings)


SMALL_ACROSS = (
    Across("even window", (2, 3, 6), size=4, alpha=0.3, beta=0.5, groups=2),
    Across("wider than a group", (5, 16), size=9, alpha=0.02, groups=4),
    Across("odd channels", (3, 7, 97), alpha=1e-3),
    Across("one channel", (9, 1), beta=1.0),
    Across("strips", (11, 256), groups=2),
)


def _across(scope: Scope, way: str, dtype: DTypeLike) -> Iterator[Check]:
    small = [Across(one.name, one.x, one.size, one.k, one.alpha, one.beta, one.groups, dtype) for one in SMALL_ACROSS]
    layers = (
        [Across.of(name, layer, (batch, *row.input), dtype)]
        for batch in scope.batches
        for name, layer, row in rows(Lrn)
    )
    for shapes in (small, *layers):
        yield _check(kernels.lrn, way, shapes, forward_across)
        yield _check(kernels.lrn_backward, way, shapes, backward_across)


def _neighbours(shape: Across, c: Indices, before: int) -> tuple[Indices, NDArray[np.bool_]]:
    """The channels from c - before on, as many as a window has, and which of them are in the group of c."""
    at, per_group = c[..., None] - before + np.arange(shape.size), shape.x[-1] // shape.groups
    first = c[..., None] // per_group * per_group
    return at.clip(0, shape.x[-1] - 1), (at >= first) & (at < first + per_group)


def _scale(shape: Across, x: NDArray[Any], row: Indices, c: Indices) -> Floats:
    """s of these channels of these rows of x (rows, C)."""
    at, inside = _neighbours(shape, c, shape.size // 2)
    squares = x[row[..., None], at].astype(np.float64) ** 2
    return shape.k + shape.alpha * np.where(inside, squares, 0).sum(-1)


def normalised(shape: Across, x: NDArray[Any], where: Indices) -> Floats:
    """Some outputs of x."""
    flat = x.reshape(-1, shape.x[-1])
    row, c = np.divmod(where, shape.x[-1])
    return flat[row, c].astype(np.float64) * _scale(shape, flat, row, c) ** -shape.beta


def forward_across(shape: Across) -> Trial:
    x = SCALE.astype(shape.dtype) * numbers("x", *shape.x, dtype=shape.dtype)
    where = places(x.size)
    y = normalised(shape, x, where)
    arguments = {"x": x, "size": shape.size, **shape.options}
    return Trial(arguments, {"y": Values(where, y, shape.error(abs(y), 1, shape.beta))}, returns=("y",))


def gradient(shape: Across, x: NDArray[Any], dy: Any, where: Indices) -> tuple[Floats, Floats]:
    """Some values of dx, 0 where x is not above 0, and the sums of their terms' absolute values; ``dy(row, channel)``
    tells the gradients of y."""
    flat = x.reshape(-1, shape.x[-1])
    row, c = np.divmod(where, shape.x[-1])
    at, inside = _neighbours(shape, c, shape.size - 1 - shape.size // 2)  # whose windows hold c
    many = row[:, None] + 0 * at
    s = _scale(shape, flat, many, at)
    others = dy(many, at) * flat[many, at].astype(np.float64) * s ** (-shape.beta - 1)
    others = 2 * shape.alpha * shape.beta * flat[row, c].astype(np.float64)[:, None] * np.where(inside, others, 0)
    own = dy(row, c) * _scale(shape, flat, row, c) ** -shape.beta
    above = flat[row, c].astype(np.float32) > 0
    return (own - others.sum(1)) * above, (abs(own) + abs(others).sum(1)) * above


def backward_across(shape: Across) -> Trial:
    x = SCALE.astype(shape.dtype) * numbers("x", *shape.x, dtype=shape.dtype)
    dy = numbers("dy", *shape.x, dtype=shape.dtype)
    where = places(x.size)
    flat = dy.reshape(-1, shape.x[-1])
    dx, magnitude = gradient(shape, x, lambda row, c: flat[row, c].astype(np.float64), where)
    # s^(-beta - 1), its products with dy, x, x, alpha and beta, and the sum over the window
    bound = shape.error(magnitude, shape.size + 7, shape.beta + 1)
    arguments = {"dy": dy, "x": x, "size": shape.size, "mask": True, **shape.options}
    return Trial(arguments, {"dx": Values(where, dx, bound)}, returns=("dx",))


# ---- across channels, and the pool behind it


@dataclass(frozen=True)
class WithPool:
    across: Across
    pool: pooling.Shape

    def __str__(self) -> str:
        return str(self.across)

    @property
    def options(self) -> dict[str, Any]:
        return {"lrn_size": self.across.size, **self.across.options, **self.pool.options}


def _with_pool(scope: Scope, way: str, dtype: DTypeLike) -> Iterator[Check]:
    def joined(across: Across, pool: MaxPool2d) -> WithPool:
        return WithPool(across, pooling.Shape.of(across.name, pool, across.x))

    overlapping = MaxPool2d("", 3, 2, 0, True)
    small = [
        joined(Across("one pass", (2, 9, 8, 12), groups=2, dtype=dtype), overlapping),
        joined(Across("one pass, nine", (1, 7, 7, 40), size=9, alpha=1e-3, dtype=dtype), overlapping),
        joined(
            Across("two passes", (2, 6, 7, 6), size=4, beta=0.5, alpha=0.01, dtype=dtype), MaxPool2d("", 2, 2, 1, False)
        ),
    ]
    layers = (
        [joined(Across.of(name, first, (batch, *row.input), dtype), second)]
        for batch in scope.batches
        for name, first, second, row in neighbours(Lrn, MaxPool2d)
    )
    for shapes in (small, *layers):
        yield _check(kernels.lrn_max_pool2d, way, shapes, forward_with_pool)
        yield _check(kernels.lrn_max_pool2d_backward, way, shapes, backward_with_pool)


def forward_with_pool(shape: WithPool) -> Trial:
    """What is normalised is stored before windows are compared, or as if: then larger ones may be equal."""
    across = shape.across
    x = SCALE.astype(across.dtype) * numbers("x", *across.x, dtype=across.dtype)
    where = places(math.prod(shape.pool.y))
    at, inside = pooling.windows(shape.pool, where)
    candidates = normalised(across, x, at.reshape(-1)).reshape(at.shape)
    bound = across.error(np.where(inside, abs(candidates), 0).max(1), 1, across.beta)
    candidates[~inside] = -np.inf
    largest = candidates.max(1)
    unsure = bound + stored_error(abs(largest) + bound, across.dtype)
    expected: dict[str, Expected] = {
        "y": Values(where, largest, bound),
        "which": Largest(where, candidates, unsure),
    }
    return Trial({"x": x, **shape.options}, expected, returns=("y", "which"))


def backward_with_pool(shape: WithPool) -> Trial:
    """lrn_backward of max_pool2d_backward, whose result is stored in between, or as if."""
    across, pool = shape.across, shape.pool
    x = SCALE.astype(across.dtype) * numbers("x", *across.x, dtype=across.dtype)
    dy, which = numbers("dy", *pool.y, dtype=across.dtype), pooling.chosen(pool)
    C = across.x[-1]

    def passed(absolute: bool) -> Any:
        def tell(row: Indices, c: Indices) -> Floats:
            parts = pooling.taken(pool, (row * C + c).reshape(-1), dy, which)
            return (abs(parts) if absolute else parts).sum(1).reshape(row.shape)

        return tell

    where = places(x.size)
    dx, _ = gradient(across, x, passed(False), where)
    _, magnitude = gradient(across, x, passed(True), where)
    bound = across.error(magnitude, math.prod(pool.size) + across.size + 7, across.beta + 1)
    bound = bound + stored_error(magnitude, across.dtype)
    arguments = {"dy": dy, "which": which, "x": x, "mask": True, "one_pass": True, **shape.options}
    return Trial(arguments, {"dx": Values(where, dx, bound)}, returns=("dx",))


# ---- within a channel


@dataclass(frozen=True)
class Within:
    """x (N, H, W, C)."""

    name: str
    x: tuple[int, ...]
    size: int
    k: float = 1.0
    alpha: float = 4e-5
    beta: float = 0.75

    def __str__(self) -> str:
        return f"{self.name}, batch {self.x[0]}"

    @property
    def options(self) -> dict[str, Any]:
        return {"size": self.size, "k": self.k, "alpha": self.alpha, "beta": self.beta}

    def error(self, magnitude: Floats, roundings: float, exponent: float) -> Floats:
        """As across channels."""
        return rounding_error(magnitude, exponent * (self.size**2 + 4) + 8 + roundings)


SMALL_WITHIN = (
    Within("even window", (2, 5, 4, 3), 4, alpha=0.01, beta=0.5),
    Within("wider than the image", (2, 3, 4, 16), 9, alpha=0.001),
    Within("fours", (1, 7, 6, 20), 3, k=2.0, beta=1.0),
)


def _within(scope: Scope) -> Iterator[Check]:
    """It takes float32 alone."""
    layers = (
        [Within(name, (batch, *row.input), layer.size, layer.k, layer.alpha, layer.beta)]
        for batch in scope.batches
        for name, layer, row in rows(SpatialLrn)
    )
    for shapes in (SMALL_WITHIN, *layers):
        yield _check(kernels.spatial_lrn, "fp32", shapes, forward_within)
        yield _check(kernels.spatial_lrn_backward, "fp32", shapes, backward_within)


def _around(shape: Within, where: Indices, before: int) -> tuple[Indices, NDArray[np.bool_]]:
    """The flat places of the pixels from each one - before on, as many as a window has, and which are in the image."""
    _, H, W, C = shape.x
    n, h, w, c = np.unravel_index(where, shape.x)
    i, j = np.unravel_index(np.arange(shape.size**2), (shape.size, shape.size))
    h, w = h[..., None] - before + i, w[..., None] - before + j
    inside = (h >= 0) & (h < H) & (w >= 0) & (w < W)
    return ((n[..., None] * H + h.clip(0, H - 1)) * W + w.clip(0, W - 1)) * C + c[..., None], inside


def _scale_within(shape: Within, x: NDArray[Any], where: Indices) -> Floats:
    at, inside = _around(shape, where, shape.size // 2)
    return shape.k + shape.alpha * np.where(inside, x.reshape(-1)[at].astype(np.float64) ** 2, 0).sum(-1)


def forward_within(shape: Within) -> Trial:
    x = SCALE * numbers("x", *shape.x)
    where = places(x.size)
    y = x.reshape(-1)[where].astype(np.float64) * _scale_within(shape, x, where) ** -shape.beta
    expected = {"y": Values(where, y, shape.error(abs(y), 1, shape.beta))}
    return Trial({"x": x, **shape.options}, expected, returns=("y",))


def backward_within(shape: Within) -> Trial:
    x, dy = SCALE * numbers("x", *shape.x), numbers("dy", *shape.x)
    where = places(x.size)
    at, inside = _around(shape, where, shape.size - 1 - shape.size // 2)
    flat_x, flat_dy = x.reshape(-1).astype(np.float64), dy.reshape(-1).astype(np.float64)
    others = flat_dy[at] * flat_x[at] * _scale_within(shape, x, at) ** (-shape.beta - 1)
    others = 2 * shape.alpha * shape.beta * flat_x[where][:, None] * np.where(inside, others, 0)
    own = flat_dy[where] * _scale_within(shape, x, where) ** -shape.beta
    magnitude = abs(own) + abs(others).sum(1)
    bound = shape.error(magnitude, shape.size**2 + 7, shape.beta + 1)
    dx = Values(where, own - others.sum(1), bound)
    return Trial({"dy": dy, "x": x, **shape.options}, {"dx": dx}, returns=("dx",))


# ---- of each channel over the batch


@dataclass(frozen=True)
class OverTheBatch:
    """x (..., C)."""

    name: str
    x: tuple[int, ...]
    momentum: float
    epsilon: float
    dtype: DTypeLike
    training: bool = True

    def __str__(self) -> str:
        return f"{self.name}, batch {self.x[0]}"

    @property
    def rows(self) -> int:
        return math.prod(self.x[:-1])


def _over_the_batch(scope: Scope, way: str, dtype: DTypeLike) -> Iterator[Check]:
    small = [
        OverTheBatch("odd channels", (2, 3, 7, 5), 0.75, 1e-3, dtype),
        OverTheBatch("many rows", (10_007, 3), 0.75, 1e-3, dtype),
        OverTheBatch("many channels", (7, 257), 0.75, 1e-3, dtype),
        OverTheBatch("with running statistics", (5, 97), 0.75, 1e-3, dtype, training=False),
    ]
    layers = (
        [OverTheBatch(name, (batch, *row.input), layer.momentum, layer.epsilon, dtype)]
        for batch in scope.batches
        for name, layer, row in rows(BatchNorm)
    )
    for shapes in (small, *layers):
        yield _check(kernels.batch_norm, way, shapes, forward_over_the_batch)
        yield _check(kernels.batch_norm_backward, way, shapes, backward_over_the_batch)


def _channels(shape: OverTheBatch) -> tuple[Indices, Indices, Indices]:
    """Some channels, some rows, and where these are in the flat x."""
    C, rng = shape.x[-1], np.random.default_rng(shape.x)
    channels = np.unique([0, C - 1, *strata(C, min(C, 16), rng)])
    some = np.unique([0, shape.rows - 1, *strata(shape.rows, min(shape.rows, COUNT // len(channels)), rng)])
    return channels, some, (some[:, None] * C + channels).reshape(-1)


def _vectors(shape: OverTheBatch) -> dict[str, NDArray[np.float32]]:
    C = shape.x[-1]
    names = ("gamma", "beta", "running_mean", "running_variance")
    return {name: abs(numbers(name, C)) if name == "running_variance" else numbers(name, C) for name in names}


def _moments(shape: OverTheBatch, x: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean and variance of columns, and how far both may be off: the mean like a sum, in chunks; the variance like the
    sum of its squares, and by what an error of a chunk's mean adds twice over."""
    mean, steps = x.mean(0), 2 * shape.rows**0.5
    deviation = abs(x - mean)
    variance = (deviation**2).mean(0)
    mean_error = sum_error(Sums(mean, abs(x).mean(0), (x**2).sum(0) / shape.rows**2), steps + 3)
    variance_error = rounding_error(variance, steps + 8) + 2 * mean_error * deviation.mean(0) + mean_error**2
    return mean, variance, mean_error, variance_error


def forward_over_the_batch(shape: OverTheBatch) -> Trial:
    x, vectors = numbers("x", *shape.x, dtype=shape.dtype), _vectors(shape)
    channels, some, where = _channels(shape)
    gamma, beta, running_mean, running_variance = (vectors[name][channels].astype(np.float64) for name in vectors)
    columns = x.reshape(-1, shape.x[-1])[:, channels].astype(np.float64)
    if shape.training:
        mean, variance, mean_error, variance_error = _moments(shape, columns)
    else:
        mean, variance, mean_error, variance_error = running_mean, running_variance, 0 * gamma, 0 * gamma
    r = (variance + shape.epsilon) ** -0.5
    r_error = r * (variance_error / (variance + shape.epsilon) / 2 + 4 * UNIT)
    hat = (columns[some] - mean) * r
    y_error = abs(gamma) * (mean_error * r + abs(hat) * r_error / r)
    most = abs(gamma) * (abs(hat) + (abs(columns[some]) + abs(mean)) * r) + abs(beta)
    y_error += rounding_error(most, 8)
    share = shape.momentum if shape.training else 1.0
    moved_mean, moved_variance = (
        share * before + (1 - share) * now for before, now in ((running_mean, mean), (running_variance, variance))
    )
    moving = 3 if shape.training else 0
    expected = {
        "y": Values(where, (gamma * hat + beta).reshape(-1), y_error.reshape(-1)),
        "mean": Values(channels, mean, mean_error),
        "r": Values(channels, r, r_error),
        "running_mean": Values(
            channels, moved_mean, mean_error + rounding_error(abs(running_mean) + abs(mean), moving)
        ),
        "running_variance": Values(
            channels, moved_variance, variance_error + rounding_error(running_variance + variance, moving)
        ),
    }  # fmt: skip
    arguments = {"x": x, **vectors, "momentum": shape.momentum, "epsilon": shape.epsilon, "training": shape.training}
    return Trial(arguments, expected, ("y", "mean", "r"), ("running_mean", "running_variance"))


def backward_over_the_batch(shape: OverTheBatch) -> Trial:
    x, dy = (numbers(name, *shape.x, dtype=shape.dtype) for name in ("x", "dy"))
    C, n = shape.x[-1], shape.rows
    channels, some, where = _channels(shape)
    mean, gamma, r = numbers("mean", C) / 16, numbers("gamma", C), abs(numbers("r", C))
    m, g, r64 = (vector[channels].astype(np.float64) for vector in (mean, gamma, r))
    columns, gradients = (array.reshape(-1, C)[:, channels].astype(np.float64) for array in (x, dy))
    hat = (columns - m) * r64
    beta_sums, gamma_sums = Sums.over(gradients, 0), Sums.over(gradients * hat, 0)
    beta_error = sum_error(beta_sums, 2 * n**0.5 + 3)
    spread = abs(gradients) * (abs(columns) + abs(m)) * r64  # before x - mean cancels
    gamma_error = sum_error(gamma_sums, 2 * n**0.5 + 3) + rounding_error(np.sqrt((spread**2).sum(0)), 6)
    shared = (beta_sums.value + hat[some] * gamma_sums.value) / n if shape.training else 0 * hat[some]
    scale = g * r64
    bound = abs(scale) * rounding_error(abs(gradients[some]) + abs(shared), 8)
    if shape.training:
        bound += abs(scale) * (beta_error + abs(hat[some]) * gamma_error) / n
        most = (abs(columns[some]) + abs(m)) * r64 * abs(gamma_sums.value) / n + abs(beta_sums.value) / n
        bound += abs(scale) * rounding_error(most, 8)
    dx = Values(where, (scale * (gradients[some] - shared)).reshape(-1), bound.reshape(-1))
    expected = {
        "dx": dx,
        "dgamma": Values(channels, gamma_sums.value, gamma_error),
        "dbeta": Values(channels, beta_sums.value, beta_error),
    }
    arguments = {"dy": dy, "x": x, "gamma": gamma, "mean": mean, "r": r, "training": shape.training}
    return Trial(arguments, expected, returns=("dx", "dgamma", "dbeta"))
