"""Operations on tensors: each is one Function over the kernels of the same name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from . import kernels
from .kernels import Array, Padding, Pair, Precision
from .tensor import Function, Tensor

Activation = Literal["relu", "tanh", "sigmoid"]


@dataclass(eq=False)
class Conv2d(Function):
    kernel: ClassVar[Callable[..., Array]] = staticmethod(kernels.conv2d)
    kernel_backward: ClassVar[Callable[..., tuple[Array, ...]]] = staticmethod(kernels.conv2d_backward)
    stride: Pair
    padding: Padding
    groups: int
    ceil: bool
    relu: bool
    options: dict[str, Any]

    def forward(self, x: Array, w: Array, b: Array | None) -> Array:
        y = self.kernel(x, w, b, self.stride, self.padding, self.groups, self.relu, self.ceil, **self.options)
        self.x, self.w, self.y = x, w, y if self.relu else None
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        if self.relu:
            dy = kernels.relu_backward(dy, self.y)
        windows = self.stride, self.padding, self.groups, self.ceil
        return self.kernel_backward(dy, self.x, self.w, *windows, self.needs, **self.options)


class Local2d(Conv2d):
    kernel = staticmethod(kernels.local2d)
    kernel_backward = staticmethod(kernels.local2d_backward)


@dataclass(eq=False)
class Linear(Function):
    relu: bool
    precision: Precision

    def forward(self, x: Array, w: Array, b: Array | None) -> Array:
        y = kernels.linear(x, w, b, self.relu, self.precision)
        self.x, self.w, self.y = x, w, y if self.relu else None
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        if self.relu:
            dy = kernels.relu_backward(dy, self.y)
        return kernels.linear_backward(dy, self.x, self.w, self.needs, self.precision)


@dataclass(eq=False)
class MaxPool2d(Function):
    size: Pair
    stride: Pair | None
    padding: Padding
    ceil: bool

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        y, self.which = kernels.max_pool2d(x, self.size, self.stride, self.padding, self.ceil)
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (
            kernels.max_pool2d_backward(dy, self.which, self.shape, self.size, self.stride, self.padding, self.ceil),
        )


@dataclass(eq=False)
class AvgPool2d(Function):
    size: Pair
    stride: Pair | None
    padding: Padding
    ceil: bool

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return kernels.avg_pool2d(x, self.size, self.stride, self.padding, self.ceil)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.avg_pool2d_backward(dy, self.shape, self.size, self.stride, self.padding, self.ceil),)


@dataclass(eq=False)
class Lrn(Function):
    size: int
    k: float
    alpha: float
    beta: float
    groups: int

    def forward(self, x: Array) -> Array:
        self.x = x
        return kernels.lrn(x, self.size, self.k, self.alpha, self.beta, self.groups)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.lrn_backward(dy, self.x, self.size, self.k, self.alpha, self.beta, self.groups),)


@dataclass(eq=False)
class SpatialLrn(Function):
    size: int
    k: float
    alpha: float
    beta: float

    def forward(self, x: Array) -> Array:
        self.x = x
        return kernels.spatial_lrn(x, self.size, self.k, self.alpha, self.beta)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.spatial_lrn_backward(dy, self.x, self.size, self.k, self.alpha, self.beta),)


@dataclass(eq=False)
class BatchNorm(Function):
    running_mean: Array
    running_variance: Array
    momentum: float
    epsilon: float
    training: bool

    def forward(self, x: Array, gamma: Array, beta: Array) -> Array:
        self.x, self.gamma = x, gamma
        running = self.running_mean, self.running_variance
        y, self.mean, self.r = kernels.batch_norm(x, gamma, beta, *running, self.momentum, self.epsilon, self.training)
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return kernels.batch_norm_backward(dy, self.x, self.gamma, self.mean, self.r, self.training)


@dataclass(eq=False)
class Elementwise(Function):
    """An activation function whose derivative is a function of its output."""

    name: Activation

    def forward(self, x: Array) -> Array:
        self.y = getattr(kernels, self.name)(x)
        return self.y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (getattr(kernels, f"{self.name}_backward")(dy, self.y),)


@dataclass(eq=False)
class AddBias(Function):
    relu: bool

    def forward(self, x: Array, z: Array, b: Array | None) -> Array:
        y = x + z
        if b is not None:
            y = kernels.bias(y, b, self.relu)
        elif self.relu:
            y = kernels.relu(y)
        self.y = y if self.relu else None
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        if self.relu:
            dy = kernels.relu_backward(dy, self.y)
        return dy, dy, kernels.bias_backward(dy) if self.needs[2] else None


@dataclass(eq=False)
class Dropout(Function):
    options: dict[str, Any]

    def forward(self, x: Array) -> Array:
        return kernels.dropout(x, **self.options)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.dropout_backward(dy, **self.options),)


@dataclass(eq=False)
class Reshape(Function):
    target: tuple[int, ...]

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x.reshape(self.target)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (dy.reshape(self.shape),)


class SoftmaxCrossEntropy(Function):
    def forward(self, x: Array, labels: Array) -> Array:
        self.labels = labels
        loss, self.losses, self.p = kernels.softmax_cross_entropy(x, labels)
        return loss

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return kernels.softmax_cross_entropy_backward(self.p, self.labels, dy), None


def conv2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    groups: int = 1,
    relu: bool = False,
    ceil: bool = False,
    precision: Precision = "fp32",
) -> Tensor:
    """``kernels.conv2d`` on tensors: x (N, H, W, C), w (K, KH, KW, C / groups), b (K,) -> (N, OH, OW, K)."""
    windows = {"stride": stride, "padding": padding, "groups": groups, "ceil": ceil}
    return Conv2d.apply(x, w, b, **windows, relu=relu, options={"precision": precision})


def local2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    groups: int = 1,
    relu: bool = False,
    ceil: bool = False,
) -> Tensor:
    """``kernels.local2d`` on tensors: x (N, H, W, C), w (OH, OW, K, KH, KW, C / groups), b (OH, OW, K) ->
    (N, OH, OW, K)."""
    windows = {"stride": stride, "padding": padding, "groups": groups, "ceil": ceil}
    return Local2d.apply(x, w, b, **windows, relu=relu, options={})


def linear(x: Tensor, w: Tensor, b: Tensor | None = None, relu: bool = False, precision: Precision = "fp32") -> Tensor:
    """``kernels.linear`` on tensors: x (N, I), w (O, I), b (O,) -> (N, O)."""
    return Linear.apply(x, w, b, relu=relu, precision=precision)


def add_bias(x: Tensor, z: Tensor, b: Tensor | None = None, relu: bool = False) -> Tensor:
    """x + z + b, then max(0, .) if ``relu``: a layer with weights whose inputs come in two blocks is the sum of two
    products. x and z: (..., C), b: (C,) -> (..., C)."""
    return AddBias.apply(x, z, b, relu=relu)


def max_pool2d(x: Tensor, size: Pair, stride: Pair | None = None, padding: Padding = 0, ceil: bool = False) -> Tensor:
    """``kernels.max_pool2d`` on tensors: (N, H, W, C) -> (N, OH, OW, C)."""
    return MaxPool2d.apply(x, size=size, stride=stride, padding=padding, ceil=ceil)


def avg_pool2d(x: Tensor, size: Pair, stride: Pair | None = None, padding: Padding = 0, ceil: bool = False) -> Tensor:
    """``kernels.avg_pool2d`` on tensors: (N, H, W, C) -> (N, OH, OW, C)."""
    return AvgPool2d.apply(x, size=size, stride=stride, padding=padding, ceil=ceil)


def lrn(x: Tensor, size: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75, groups: int = 1) -> Tensor:
    """``kernels.lrn`` on tensors (alpha as in the paper, not divided by size): (..., C) -> (..., C)."""
    return Lrn.apply(x, size=size, k=k, alpha=alpha, beta=beta, groups=groups)


def spatial_lrn(x: Tensor, size: int = 5, k: float = 1.0, alpha: float = 4e-5, beta: float = 0.75) -> Tensor:
    """``kernels.spatial_lrn`` on tensors (alpha not divided by the window's area): (N, H, W, C) -> (N, H, W, C)."""
    return SpatialLrn.apply(x, size=size, k=k, alpha=alpha, beta=beta)


def batch_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    running_mean: Tensor,
    running_variance: Tensor,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    training: bool = True,
) -> Tensor:
    """``kernels.batch_norm`` on tensors: x (..., C), the others (C,) -> (..., C); training moves running_*."""
    running = {"running_mean": running_mean.data, "running_variance": running_variance.data}
    return BatchNorm.apply(x, gamma, beta, **running, momentum=momentum, epsilon=epsilon, training=training)


def activation(x: Tensor, name: Activation) -> Tensor:
    """``kernels.relu``, ``tanh`` or ``sigmoid`` on a tensor of any shape."""
    if name not in ("relu", "tanh", "sigmoid"):
        raise ValueError(f"activation: expected 'relu', 'tanh' or 'sigmoid', got {name!r}")
    return Elementwise.apply(x, name=name)


def dropout(
    x: Tensor,
    p: float = 0.5,
    form: Literal["paper", "inverted"] = "paper",
    training: bool = True,
    seed: int = 0,
    step: int = 0,
    purpose: int = 0,
) -> Tensor:
    """``kernels.dropout`` on a tensor of any shape."""
    options = {"p": p, "form": form, "training": training, "seed": seed, "step": step, "purpose": purpose}
    return Dropout.apply(x, options=options)


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same values in another shape; one -1 is inferred. Shares memory with x."""
    return Reshape.apply(x, target=shape)


def flatten(x: Tensor) -> Tensor:
    """(N, ...) -> (N, product of the rest), pixels in the order h, w, c."""
    return reshape(x, (x.shape[0], math.prod(x.shape[1:])))


def softmax_cross_entropy(x: Tensor, labels: Tensor) -> Tensor:
    """Mean loss over a batch: x (N, C) logits, labels (N,) integers -> scalar."""
    return SoftmaxCrossEntropy.apply(x, labels)
