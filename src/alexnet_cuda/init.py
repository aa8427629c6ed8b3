"""Initial weights: each function here makes an initialiser, called as ``initialise(shape, rng) -> float32 array``.

Weights are (out, ..., in), so fan_in = elements of one output's weights, fan_out = elements that one input feeds.
Numbers are drawn on the host, so that they are the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

__all__ = [
    "TRUNCATED_STD",
    "Initialiser",
    "constant",
    "fan_in",
    "fan_out",
    "glorot_uniform",
    "he_normal",
    "normal",
    "truncated_normal",
    "uniform",
]

Initialiser = Callable[[tuple[int, ...], "np.random.Generator"], np.ndarray]  # a name: NumPy imports it late
"""Called with the shape of the weights and a generator; returns them in float32."""
TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal cut off at two standard deviations."""


def fan_in(shape: tuple[int, ...]) -> int:
    """How many inputs each output sums up, of weights of that shape."""
    return math.prod(shape[1:])


def fan_out(shape: tuple[int, ...]) -> int:
    """How many outputs each input goes into, of weights of that shape."""
    return shape[0] * math.prod(shape[1:-1])


def constant(value: float) -> Initialiser:
    """Every element is ``value``."""
    return lambda shape, rng: np.full(shape, value, np.float32)


def normal(std: float) -> Initialiser:
    """N(0, std^2); the paper's weights are normal(0.01) (section 5)."""
    return lambda shape, rng: rng.standard_normal(shape, np.float32) * np.float32(std)


def truncated_normal(std: float) -> Initialiser:
    """N(0, std^2) with values beyond two std drawn again."""

    def draw(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        x = rng.standard_normal(shape, np.float32)
        while (outside := np.abs(x) > 2).any():
            x[outside] = rng.standard_normal(int(outside.sum()), np.float32)
        return x * np.float32(std)

    return draw


def uniform(limit: float | None = None) -> Initialiser:
    """Uniform in [-limit, limit); by default limit = 1 / sqrt(fan_in), which is what PyTorch's layers start from."""
    return lambda shape, rng: _uniform(shape, rng, 1 / math.sqrt(fan_in(shape)) if limit is None else limit)


def glorot_uniform() -> Initialiser:
    """Uniform with limit sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010); Keras's default."""
    return lambda shape, rng: _uniform(shape, rng, math.sqrt(6 / (fan_in(shape) + fan_out(shape))))


def he_normal(truncated: bool = False) -> Initialiser:
    """N(0, 2 / fan_in) (He et al. 2015); Keras's he_normal is the truncated form of the same variance."""

    def draw(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        std = math.sqrt(2 / fan_in(shape))
        return (truncated_normal(std / TRUNCATED_STD) if truncated else normal(std))(shape, rng)

    return draw


def _uniform(shape: tuple[int, ...], rng: np.random.Generator, limit: float) -> np.ndarray:
    return (rng.random(shape, np.float32) * 2 - 1) * np.float32(limit)
