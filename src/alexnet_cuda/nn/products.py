"""Fully connected layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from .. import backend, init, ops
from ..kernels import Precision
from ..tensor import Tensor
from .elementwise import Dropout, activated
from .module import Module, Product
from .parameters import Buffer, draw_weights


class Linear(Product):
    """Fully connected layer (N, in_features) -> (N, out_features), then ``activation``.

    ``scale`` (out_features,) is that of weights in int8 (``short_weights``), else None."""

    takes_bfloat16 = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: ops.Activation | None = None,
        bias: bool = True,
        weight_init: init.Initialiser | None = None,
        bias_init: init.Initialiser | None = None,
        rng: np.random.Generator | None = None,
        device: str | backend.Device | None = None,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        self.activation = activation
        self.precision = precision
        self.w, self.b = draw_weights((out_features, in_features), bias, weight_init, bias_init, rng, device)
        self.scale: Buffer | None = None

    def forward(self, x: Tensor) -> Tensor:
        relu, scale = self.activation == "relu", None if self.scale is None else self.scale.data
        y = ops.linear(x, self.w, self.b, relu, self.precision, self.w.bf16_copy, scale=scale)
        return activated(y, self.activation)

    def fused_with(self, following: Module) -> Callable[[Tensor], Tensor] | None:
        if type(self) is not Linear or type(following) is not Dropout:
            return None
        joins = self.activation == "relu" and following.training
        return partial(self._with_dropout, following) if joins else None

    def _with_dropout(self, following: Dropout, x: Tensor) -> Tensor:
        draw = following.draw((x.shape[0], self.w.shape[0]), x.device)
        return ops.linear(x, self.w, self.b, True, self.precision, self.w.bf16_copy, draw)
