"""Layers that move values and compute none."""

from __future__ import annotations

import numpy as np

from .. import ops
from ..kernels.arguments import check_integer
from ..tensor import Tensor
from .module import Module


class Concat(Module):
    """Joins its inputs along the last dimension, flattening them before with ``flatten``."""

    takes_bfloat16 = True

    def __init__(self, flatten: bool = False) -> None:
        super().__init__()
        self.flatten = flatten

    def forward(self, *xs: Tensor) -> Tensor:
        return ops.concat([ops.flatten(x) for x in xs] if self.flatten else xs)


class TakeChannels(Module):
    """Channels in another order; see ``ops.take_channels``."""

    def __init__(self, order: np.ndarray) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return ops.take_channels(x, self.order)


class Subsample(Module):
    """Every stride-th pixel from ``start`` on; see ``ops.subsample``."""

    takes_bfloat16 = True

    def __init__(self, start: int, stride: int) -> None:
        super().__init__()
        self.start, self.stride = start, stride

    def forward(self, x: Tensor) -> Tensor:
        return ops.subsample(x, self.start, self.stride)


class Upsample2d(Module):
    """Each pixel ``scale`` times in both directions; see ``ops.upsample2d``."""

    takes_bfloat16 = True

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = check_integer("Upsample2d", "scale", scale, 1)

    def forward(self, x: Tensor) -> Tensor:
        return ops.upsample2d(x, self.scale)


class Flatten(Module):
    """(N, H, W, C) -> (N, H * W * C)."""

    takes_bfloat16 = True

    def forward(self, x: Tensor) -> Tensor:
        return ops.flatten(x)
