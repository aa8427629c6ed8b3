"""Normalisation across channels, within channels, and over batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .. import backend, ops
from ..tensor import Tensor
from .module import Module
from .parameters import Buffer, Parameter
from .pooling import MaxPool2d


class LocalResponseNorm(Module):
    """Normalisation across channels; **alpha is not divided by size** (the paper's formula); see ``kernels.lrn``."""

    takes_bfloat16 = True

    def __init__(self, size: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75, groups: int = 1) -> None:
        super().__init__()
        self.size, self.k, self.alpha, self.beta, self.groups = size, k, alpha, beta, groups

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of ``kernels.lrn`` by name."""
        return {"size": self.size, "k": self.k, "alpha": self.alpha, "beta": self.beta, "groups": self.groups}

    def forward(self, x: Tensor) -> Tensor:
        return ops.lrn(x, **self.options)

    def fused_with(self, following: Module) -> Callable[[Tensor], Tensor] | None:
        if type(self) is LocalResponseNorm and type(following) is MaxPool2d:
            return partial(ops.lrn_max_pool2d, normalisation=self.options, windows=following.windows)
        return None


class SpatialResponseNorm(Module):
    """Normalisation within each channel; **alpha is not divided by the area**; see ``kernels.spatial_lrn``."""

    def __init__(self, size: int = 5, k: float = 1.0, alpha: float = 4e-5, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.k, self.alpha, self.beta = size, k, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        return ops.spatial_lrn(x, self.size, self.k, self.alpha, self.beta)


class ContrastNorm(Module):
    """Contrast normalisation within each channel; **alpha is not divided by the area**; see ``ops.contrast_norm``."""

    def __init__(self, size: int, k: float = 1.0, alpha: float = 1e-3, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.k, self.alpha, self.beta = size, k, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        return ops.contrast_norm(x, self.size, self.k, self.alpha, self.beta)


class BatchNorm(Module):
    """Batch normalisation over all but the last dimension; see ``kernels.batch_norm``. Where neither ``gamma`` nor
    ``beta`` requires a gradient it is ``frozen``: it uses its running statistics in training, too."""

    takes_bfloat16 = True

    def __init__(
        self,
        channels: int,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        device: str | backend.Device | None = None,
    ) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.gamma = Parameter(np.ones(channels, np.float32), device)
        self.beta = Parameter(np.zeros(channels, np.float32), device)
        self.running_mean = Buffer(np.zeros(channels, np.float32), device=device)
        self.running_variance = Buffer(np.ones(channels, np.float32), device=device)

    @property
    def frozen(self) -> bool:
        """Whether the statistics stay as they are."""
        return not (self.gamma.requires_grad or self.beta.requires_grad)

    def forward(self, x: Tensor) -> Tensor:
        running, moves = (self.running_mean, self.running_variance), self.training and not self.frozen
        return ops.batch_norm(x, self.gamma, self.beta, *running, self.momentum, self.epsilon, moves)
