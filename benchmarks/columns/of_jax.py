"""JAX's answers: jax.lax, jax.nn; it has no pools, optimizers and losses of its own but these."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from columns.rows import padding, spread

NAME = "JAX"


def version() -> str:
    return jax.__version__


def maximum(x: Any, size: int, padding: str = "VALID") -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (size,), (size,), padding)


def max_nan() -> Any:
    nan = jnp.nan
    return maximum(jnp.array([nan, 1, 2, 3, 1, nan, 2, 3, 1, 2, 3, nan]), 4)


def max_ties() -> Any:
    return jax.grad(lambda x: maximum(x, 4).sum())(jnp.ones(4))


def convolution(x: Any, w: Any, stride: int, padding: Any) -> Any:
    return lax.conv(x.reshape(1, 1, -1), w.reshape(1, 1, -1), (stride,), padding)


def same_stride() -> Any:
    y = convolution(jnp.arange(1.0, 225), jnp.zeros(11).at[10].set(1), 4, "SAME")
    return padding(jax.device_get(y), 4, 224, 11)


def conv_asymmetric() -> Any:
    x, w = jnp.ones((1, 1, 4)), jnp.ones((1, 1, 3))
    return lax.conv_general_dilated(x, w, (1,), [(0, 2)])


def relu_special() -> Any:
    return jax.nn.relu(jnp.array([jnp.nan, -0.0, -jnp.inf]))


def relu_gradient() -> Any:
    return jax.vmap(jax.grad(jax.nn.relu))(jnp.array([0.0, jnp.nan]))


def softmax_axes() -> Any:
    return jax.nn.softmax(jnp.zeros((1, 2, 1, 2)))


def he_normal() -> Any:
    w = jax.nn.initializers.he_normal()(jax.random.key(0), (1000, 200))
    return spread(jax.device_get(w), (2 / 1000) ** 0.5)


def truncated_normal() -> Any:
    w = jax.nn.initializers.truncated_normal(0.01)(jax.random.key(0), (1000, 200))
    return spread(jax.device_get(w), 0.01)
