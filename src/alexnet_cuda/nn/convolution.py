"""Convolutions, with filters that all pixels share and with filters of each pixel's own."""

from __future__ import annotations

import numpy as np

from .. import backend, init, ops
from ..kernels import Algorithm, Padding, Pair, Precision, window_output
from ..tensor import Tensor
from .elementwise import activated
from .module import Module, Product
from .parameters import Parameter, draw_weights, initial


class Convolution(Module):
    """What convolutions share, whether their pixels share the filters or not: windows, groups and ``activation``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: Pair,
        padding: Padding,
        groups: int,
        ceil: bool,
        activation: ops.Activation | None,
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{type(self).__name__}: groups: expected a divisor of {in_channels} and {out_channels} channels, "
                f"got {groups}"
            )
        self.stride, self.padding, self.groups, self.ceil, self.activation = stride, padding, groups, ceil, activation

    @property
    def windows(self) -> tuple[Pair, Padding, int, bool, bool]:
        """What ``ops`` takes after the arrays: stride, padding, groups, whether ReLU follows, ceil."""
        return self.stride, self.padding, self.groups, self.activation == "relu", self.ceil


class Conv2d(Convolution, Product):
    """Convolution (N, H, W, in_channels) -> (N, OH, OW, out_channels), then ``activation``; see ``kernels.conv2d``."""

    takes_bfloat16 = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        groups: int = 1,
        ceil: bool = False,
        activation: ops.Activation | None = None,
        bias: bool = True,
        weight_init: init.Initialiser | None = None,
        bias_init: init.Initialiser | None = None,
        rng: np.random.Generator | None = None,
        device: str | backend.Device | None = None,
        precision: Precision = "fp32",
        algorithm: Algorithm = "auto",
    ) -> None:
        super().__init__(in_channels, out_channels, stride, padding, groups, ceil, activation)
        KH, KW = (size, size) if isinstance(size, int) else size
        self.precision = precision
        self.algorithm: Algorithm = algorithm
        shape = (out_channels, KH, KW, in_channels // groups)
        self.w, self.b = draw_weights(shape, bias, weight_init, bias_init, rng, device)

    def forward(self, x: Tensor) -> Tensor:
        y = ops.conv2d(x, self.w, self.b, *self.windows, self.precision, self.algorithm)
        return activated(y, self.activation)


class Local2d(Convolution):
    """Convolution with filters of its own for each pixel: (N, H, W, in_channels) -> (N, OH, OW, out_channels), then
    ``activation``; see ``kernels.local2d``. ``image`` is the input's (H, W)."""

    def __init__(
        self,
        image: tuple[int, int],
        in_channels: int,
        out_channels: int,
        size: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        ceil: bool = False,
        activation: ops.Activation | None = None,
        bias: bool = True,
        weight_init: init.Initialiser | None = None,
        bias_init: init.Initialiser | None = None,
        rng: np.random.Generator | None = None,
        device: str | backend.Device | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, padding, groups, ceil, activation)
        OH, OW = (window_output(n, size, stride, (padding, padding), ceil) for n in image)
        filters = OH * OW * out_channels, size, size, in_channels // groups  # of one pixel each, for initialisers
        w = initial(weight_init or init.he_normal(), filters, rng).reshape(OH, OW, out_channels, *filters[1:])
        self.w = Parameter(w, device)
        self.b = None
        if bias:
            self.b = Parameter(initial(bias_init or init.constant(0), (OH, OW, out_channels), rng), device)

    def forward(self, x: Tensor) -> Tensor:
        y = ops.local2d(x, self.w, self.b, *self.windows)
        return activated(y, self.activation)


class Blur(Module):
    """Each channel convolved with a Gaussian of ``std`` pixels, cut off at ``size`` x ``size`` pixels and normalised to
    the sum 1; pixels outside the image are 0."""

    def __init__(self, channels: int, size: int, std: float, device: str | backend.Device | None = None) -> None:
        super().__init__()
        g = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * std**2))
        filters = np.tile(np.outer(g, g) / g.sum() ** 2, (channels, 1, 1))
        self.padding, self.groups, self._w = size // 2, channels, Tensor(filters[..., None], device=device)

    def forward(self, x: Tensor) -> Tensor:
        return ops.conv2d(x, self._w, padding=self.padding, groups=self.groups)
