"""Maximum and mean of windows."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..kernels import Padding, Pair
from ..tensor import Tensor
from .module import Module


class MaxPool2d(Module):
    """Maximum over windows; see ``kernels.max_pool2d``."""

    takes_bfloat16 = True

    def __init__(self, size: Pair, stride: Pair | None = None, padding: Padding = 0, ceil: bool = False) -> None:
        super().__init__()
        self.size, self.stride, self.padding, self.ceil = size, stride, padding, ceil

    @property
    def windows(self) -> dict[str, Any]:
        """The arguments of ``kernels.max_pool2d`` by name."""
        return {"size": self.size, "stride": self.stride, "padding": self.padding, "ceil": self.ceil}

    def forward(self, x: Tensor) -> Tensor:
        return ops.max_pool2d(x, **self.windows)


class AvgPool2d(Module):
    """Mean over windows, of the pixels inside the image; see ``kernels.avg_pool2d``."""

    takes_bfloat16 = True

    def __init__(self, size: Pair, stride: Pair | None = None, padding: Padding = 0, ceil: bool = False) -> None:
        super().__init__()
        self.size, self.stride, self.padding, self.ceil = size, stride, padding, ceil

    def forward(self, x: Tensor) -> Tensor:
        return ops.avg_pool2d(x, self.size, self.stride, self.padding, self.ceil)
