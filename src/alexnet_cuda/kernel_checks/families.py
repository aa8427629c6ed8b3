"""The families of checks, the longest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import arithmetic, convolution, elementwise, images, linear, local, loss, normalisation, optimizers, pooling
from .check import Check
from .layers import Scope

FAMILIES: dict[str, Callable[[Scope], Iterator[Check]]] = {
    "implicit": convolution.on_tensor_cores,
    "hopper": convolution.on_hopper,
    "linear": linear.checks,
    "conv2d": convolution.on_gemm,
    "elementwise": elementwise.checks,
    "arithmetic": arithmetic.checks,
    "normalisation": normalisation.checks,
    "optimizers": optimizers.checks,
    "pooling": pooling.checks,
    "local2d": local.checks,
    "images": images.checks,
    "loss": loss.checks,
}
