"""Activation functions, sums and dropout: layers that work on each element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .. import backend, init, ops
from ..kernels.arguments import check_number
from ..tensor import Tensor
from .module import Module, Random
from .parameters import Parameter, initial

DROPOUT_FORMS = "paper", "inverted"


class _Activation(Module):
    takes_bfloat16 = True
    name: ops.Activation

    def forward(self, x: Tensor) -> Tensor:
        return ops.activation(x, self.name)


class ReLU(_Activation):
    """max(0, x)."""

    name = "relu"


class Tanh(_Activation):
    """Hyperbolic tangent."""

    name = "tanh"


class Sigmoid(_Activation):
    """1 / (1 + exp(-x))."""

    name = "sigmoid"


def activated(y: Tensor, activation: ops.Activation | None) -> Tensor:
    """A layer's output y after its activation function; ReLU is not applied, as the layer's kernel has done so."""
    return y if activation in (None, "relu") else ops.activation(y, activation)


class Pointwise(Module):
    """A function of each element: ``ops.POINTWISE[name]`` with parameters a and b."""

    def __init__(self, name: str, a: float = 1.0, b: float = 1.0) -> None:
        super().__init__()
        self.name, self.a, self.b = name, a, b

    def forward(self, x: Tensor) -> Tensor:
        return ops.pointwise(x, self.name, self.a, self.b)


class NoisyReLU(Random):
    """cuda-convnet's "nrelu": max(0, z + noise), z = max(0, x), the noise normal with standard deviation z; in
    evaluation, too."""

    def forward(self, x: Tensor) -> Tensor:
        rng = np.random.Generator(np.random.Philox(key=self.key, counter=[0, 0, self.purpose, self.step]))
        noise = rng.standard_normal((self.row + x.shape[0], *x.shape[1:]), np.float32)[self.row :]
        y = ops.noisy_relu(x, backend.from_host(noise, x.device))
        self.step += self.training
        return y


class WeightedSum(Module):
    """The sum of inputs of one shape times their ``coefficients``, plus the bias ``b`` if it has one, then
    ``activation``; see ``ops.weighted_sum``."""

    def __init__(
        self,
        coefficients: Sequence[float],
        bias: tuple[int, ...] | None = None,
        activation: ops.Activation | None = None,
        bias_init: init.Initialiser | None = None,
        rng: np.random.Generator | None = None,
        device: str | backend.Device | None = None,
    ) -> None:
        super().__init__()
        self.coefficients, self.activation = tuple(coefficients), activation
        self.b = None
        if bias is not None:
            self.b = Parameter(initial(bias_init or init.constant(0), bias, rng), device)

    def forward(self, *xs: Tensor) -> Tensor:
        return activated(ops.weighted_sum(xs, self.coefficients, self.b, self.activation == "relu"), self.activation)


class Dropout(Random):
    """Zeroes elements with probability ``p``, 0 <= p < 1, in training; see ``kernels.dropout`` for the two forms."""

    takes_bfloat16 = True

    def __init__(self, p: float = 0.5, form: Literal["paper", "inverted"] = "paper") -> None:
        super().__init__()
        if form not in DROPOUT_FORMS:
            raise ValueError(f"Dropout: form: expected {' or '.join(DROPOUT_FORMS)}, got {form!r}")
        self.p = check_number("Dropout", "p", p, 0, 1, open_high=True)
        self.form: Literal["paper", "inverted"] = form

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.form == "inverted":
            return x
        return ops.dropout(x, training=self.training, **self.draw(x.shape, x.device))

    def draw(self, shape: tuple[int, ...], device: backend.Device) -> dict[str, Any]:
        """The arguments of ``kernels.dropout`` for the next input, of that shape on that device."""
        first, state = self.row * math.prod(shape[1:]), self.states.get(device)
        options = {"p": self.p, "form": self.form, "seed": self.key, "step": self.step, "purpose": self.purpose}
        self.step += self.training
        return {**options, "first": first, "state": state}
