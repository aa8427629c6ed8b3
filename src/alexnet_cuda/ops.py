"""Operations on tensors: each is one Function over the kernels of the same name."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar, Literal

import numpy as np

from . import backend, kernels
from .kernels import Algorithm, Array, Padding, Pair, Precision
from .suggest import nearest
from .tensor import Function, LazyGradient, Passthrough, Tensor

Activation = Literal["relu", "tanh", "sigmoid"]

POINTWISE: dict[str, tuple[Callable[[Array, float, float], Array], Callable[[Array, Array, float, float], Array]]] = {
    "abs": (lambda x, a, b: np.abs(x), lambda x, y, a, b: np.sign(x)),
    "abstanh": (
        lambda x, a, b: a * np.abs(np.tanh(b * x)),
        lambda x, y, a, b: a * b * np.sign(b * x) * (1 - np.tanh(b * x) ** 2),
    ),
    "brelu": (lambda x, a, b: np.clip(x, 0, a), lambda x, y, a, b: (x > 0) & (x < a)),
    "drelu": (lambda x, a, b: x - a * np.tanh(x / a), lambda x, y, a, b: np.tanh(x / a) ** 2),
    "linear": (lambda x, a, b: a * x + b, lambda x, y, a, b: np.float32(a)),
    "softrelu": (lambda x, a, b: np.logaddexp(0, x), lambda x, y, a, b: (1 + np.tanh(x / 2)) / 2),
    "sqrt": (lambda x, a, b: np.sqrt(x), lambda x, y, a, b: 1 / (2 * y)),
    "square": (lambda x, a, b: x * x, lambda x, y, a, b: 2 * x),
    "tanh": (lambda x, a, b: a * np.tanh(b * x), lambda x, y, a, b: a * b * (1 - np.tanh(b * x) ** 2)),
}
"""Functions f(x, a, b) of one element, each with its derivative by (x, f(x), a, b): cuda-convnet's neurons that have no
kernel. tanh: a tanh(b x); abstanh: its magnitude; brelu: x, at least 0 and at most a; drelu: x - a tanh(x / a);
softrelu: log(1 + exp(x)); linear: a x + b."""


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
        w = _stored_as(w, x)
        y = self.kernel(x, w, b, self.stride, self.padding, self.groups, self.relu, self.ceil, **self.options)
        self.x, self.w, self.y = x, w, y if self.relu else None
        self.bias_shape = () if b is None else b.shape
        return y

    def rectified(self) -> float:
        return float(self.relu)

    def can_mask(self, factor: float) -> bool:
        return factor == 1

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        options = {**self.options, "mask": self.x} if self.masks else self.options
        windows = self.stride, self.padding, self.groups, self.ceil
        if not self.relu or self.masked:
            return self.kernel_backward(dy, self.x, self.w, *windows, self.needs, **options)
        dy, db = _relu_backward(dy, self.y, self.bias_shape, self.needs[2])
        dx, dw, _ = self.kernel_backward(dy, self.x, self.w, *windows, (*self.needs[:2], False), **options)
        return dx, dw, db


class Local2d(Conv2d):
    kernel = staticmethod(kernels.local2d)
    kernel_backward = staticmethod(kernels.local2d_backward)

    def can_mask(self, factor: float) -> bool:
        return False


@dataclass(eq=False)
class LinearGradient(LazyGradient):
    """dy^T x, the gradient of a fully connected layer's weights w."""

    dy: Array
    x: Array
    w: Array
    precision: Precision

    def compute(self) -> Array:
        return kernels.linear_backward(self.dy, self.x, self.w, (False, True, False), self.precision)[1]


@dataclass(eq=False)
class Linear(Function):
    relu: bool
    precision: Precision
    stored: Array | None
    dropout: dict[str, Any] | None

    @property
    def scale(self) -> float:
        """Of the outputs that dropout keeps."""
        return 1 / (1 - self.dropout["p"]) if self.dropout and self.dropout["form"] == "inverted" else 1.0

    def forward(self, x: Array, w: Array, b: Array | None) -> Array:
        stored = _stored_as(w, x, self.stored)
        if self.dropout is None:
            y = kernels.linear(x, stored, b, self.relu, self.precision)
        else:
            y = kernels.linear_dropout(x, stored, b, **self.dropout, precision=self.precision)
        self.x, self.w, self.stored, self.y = x, w, stored, y if self.relu else None
        return y

    def rectified(self) -> float:
        return self.scale if self.relu else 0.0

    def can_mask(self, factor: float) -> bool:
        return factor == 1 and (self.precision != "fp32" or self.x.dtype != np.float32)  # tensor cores' products can

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        need_x, need_w, need_b = self.needs
        rectified = None
        apart = self.relu and not self.masked
        if apart:
            dy, rectified = _relu_backward(dy, self.y, dy.shape[1:], need_b, self.scale)
        tensor_cores = self.precision != "fp32" or dy.dtype != np.float32
        later = need_w and tensor_cores and isinstance(self.sources[1], Tensor)
        needs, mask = (need_x, need_w and not later, need_b and not apart), self.x if self.masks else None
        dx, dw, db = kernels.linear_backward(dy, self.x, self.stored, needs, self.precision, mask)
        if later:
            dw = LinearGradient(dy, self.x, self.w, self.precision)
        return dx, dw, rectified if apart else db


@dataclass(eq=False)
class MaxPool2d(Passthrough):
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

    def can_mask(self, factor: float) -> bool:
        return factor == 1

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        options = self.size, self.k, self.alpha, self.beta, self.groups
        return (kernels.lrn_backward(dy, self.x, *options, mask=self.masks > 0),)


@dataclass(eq=False)
class LrnMaxPool2d(Function):
    """Keeps what the two keep, in fewer passes over memory."""

    normalisation: dict[str, Any]
    windows: dict[str, Any]

    def forward(self, x: Array) -> Array:
        options = {"lrn_size" if name == "size" else name: value for name, value in self.normalisation.items()}
        y, self.which = kernels.lrn_max_pool2d(x, **options, **self.windows)
        self.x, self.options = x, options
        return y

    def can_mask(self, factor: float) -> bool:
        return factor == 1

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        mask = self.masks > 0
        if self.device.kind == "cpu":  # large caches: two passes are faster than gathering as often as one pass must
            dy = kernels.max_pool2d_backward(dy, self.which, self.x.shape, **self.windows)
            return (kernels.lrn_backward(dy, self.x, **self.normalisation, mask=mask),)
        return (kernels.lrn_max_pool2d_backward(dy, self.which, self.x, **self.options, **self.windows, mask=mask),)


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

    def rectified(self) -> float:
        return float(self.name == "relu")

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        if self.masked:
            return (dy,)
        return (getattr(kernels, f"{self.name}_backward")(dy, self.y),)


@dataclass(eq=False)
class Pointwise(Function):
    """A function of each element whose derivative is a function of input and output."""

    function: Callable[[Array], Array]
    derivative: Callable[[Array, Array], Array]

    def forward(self, x: Array) -> Array:
        self.x, self.y = x, self.function(x)
        return self.y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (dy * self.derivative(self.x, self.y),)


@dataclass(eq=False)
class WeightedSum(Function):
    coefficients: tuple[float, ...]
    relu: bool

    def forward(self, *inputs: Array | None) -> Array:
        *xs, b = inputs
        y = reduce(operator.add, map(_times, xs, self.coefficients))
        self.bias_shape = () if b is None else b.shape
        if b is not None:
            y = kernels.bias(y.reshape(-1, b.size), b.reshape(-1), self.relu).reshape(y.shape)
        elif self.relu:
            y = kernels.relu(y)
        self.y = y if self.relu else None
        return y

    def rectified(self) -> float:
        return float(self.relu)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        db = None
        if self.relu and not self.masked:
            dy, db = _relu_backward(dy, self.y, self.bias_shape, self.needs[-1])
        elif self.needs[-1]:
            db = kernels.bias_backward(dy.reshape(-1, math.prod(self.bias_shape))).reshape(self.bias_shape)
        return *(_times(dy, c) for c in self.coefficients), db


class Concat(Function):
    def forward(self, *xs: Array) -> Array:
        self.edges = [0, *itertools.accumulate(x.shape[-1] for x in xs)]
        return np.concatenate(xs, axis=-1)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return tuple(dy[..., first:last].copy() for first, last in itertools.pairwise(self.edges))


@dataclass(eq=False)
class TakeChannels(Function):
    order: np.ndarray

    def forward(self, x: Array) -> Array:
        return x.take(backend.constant(self.order.ravel(), self.device), axis=-1)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        places = backend.constant(np.argsort(self.order, axis=1), self.device)
        parts = np.split(dy, len(self.order), axis=-1)
        return (reduce(operator.add, (part.take(p, axis=-1) for part, p in zip(parts, places, strict=True))),)


@dataclass(eq=False)
class Subsample(Function):
    start: int
    stride: int

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x[:, self.start :: self.stride, self.start :: self.stride].copy()

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        dx = backend.zeros(self.shape, np.float32, self.device)
        dx[:, self.start :: self.stride, self.start :: self.stride] = dy
        return (dx,)


@dataclass(eq=False)
class ContrastNorm(Function):
    size: int
    k: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        self.pads = self.size // 2, self.size - 1 - self.size // 2
        self.windows = self.size, 1, (self.pads, self.pads)

    def _sum(self, x: Array) -> Array:
        """Sums over the windows: their means times how many pixels each has."""
        return kernels.avg_pool2d(x, *self.windows) * self.pixels

    def _sum_backward(self, dy: Array) -> Array:
        return kernels.avg_pool2d_backward(dy * self.pixels, dy.shape, *self.windows)

    def forward(self, x: Array) -> Array:
        _, H, W, _ = x.shape
        before, after = self.pads
        rows, columns = (np.minimum(np.arange(n) + after + 1, n) - np.maximum(np.arange(n) - before, 0) for n in (H, W))
        self.pixels = backend.constant(np.outer(rows, columns).astype(np.float32)[..., None], self.device)
        self.d = x - kernels.avg_pool2d(x, *self.windows)
        self.s = self.k + self.alpha * self._sum(self.d * self.d)
        self.y = x * self.s**-self.beta
        return self.y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        ds = -self.beta * dy * self.y / self.s
        dd = 2 * self.alpha * self.d * self._sum_backward(ds)
        return (dy * self.s**-self.beta + dd - kernels.avg_pool2d_backward(dd, dd.shape, *self.windows),)


@dataclass(eq=False)
class LogisticCrossEntropy(Function):
    def forward(self, x: Array, labels: Array) -> Array:
        self.p, self.targets = kernels.sigmoid(x), _one_hot(labels, x)
        losses = np.logaddexp(0, x) - self.targets * x
        return losses.sum(axis=1).mean(keepdims=True).reshape(())

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (self.p - self.targets) * (dy / len(self.p)), None


@dataclass(eq=False)
class SquaredError(Function):
    def forward(self, x: Array, labels: Array) -> Array:
        self.d = x - _one_hot(labels, x)
        return (self.d * self.d).sum(axis=1).mean(keepdims=True).reshape(())

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return self.d * (2 * dy / len(self.d)), None


@dataclass(eq=False)
class Cast(Function):
    dtype: Any

    def forward(self, x: Array) -> Array:
        self.source = x.dtype
        return kernels.cast(x, self.dtype)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.cast(dy, self.source),)


@dataclass(eq=False)
class Dropout(Function):
    options: dict[str, Any]

    def forward(self, x: Array) -> Array:
        return kernels.dropout(x, **self.options)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.dropout_backward(dy, **self.options),)


@dataclass(eq=False)
class Reshape(Passthrough):
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
    algorithm: Algorithm = "auto",
) -> Tensor:
    """``kernels.conv2d`` on tensors: x (N, H, W, C), w (K, KH, KW, C / groups), b (K,) -> (N, OH, OW, K)."""
    windows = {"stride": stride, "padding": padding, "groups": groups, "ceil": ceil}
    return Conv2d.apply(x, w, b, **windows, relu=relu, options={"precision": precision, "algorithm": algorithm})


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


def linear(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    relu: bool = False,
    precision: Precision = "fp32",
    stored: Array | None = None,
    dropout: dict[str, Any] | None = None,
) -> Tensor:
    """``kernels.linear`` on tensors: x (N, I), w (O, I), b (O,) -> (N, O); with the other arguments by name that
    ``dropout`` holds and ``relu``, ``kernels.linear_dropout``. ``stored``, a bfloat16 copy of w, is read in its place
    where x is bfloat16. On tensor cores the gradient of w is computed when it is looked at."""
    return Linear.apply(x, w, b, relu=relu, precision=precision, stored=stored, dropout=dropout)


def weighted_sum(
    xs: Sequence[Tensor], coefficients: Sequence[float] | None = None, b: Tensor | None = None, relu: bool = False
) -> Tensor:
    """The sum of the xs times their coefficients (default 1), plus b, then max(0, .) if ``relu``: a layer with weights
    whose inputs come in blocks is a sum of products. xs: equal shapes (..., C); b: (C,), or the shape of one image."""
    factors = (1.0,) * len(xs) if coefficients is None else tuple(coefficients)
    return WeightedSum.apply(*xs, b, coefficients=factors, relu=relu)


def concat(xs: Sequence[Tensor]) -> Tensor:
    """Joined along the last dimension: (..., C1), (..., C2), ... -> (..., C1 + C2 + ...)."""
    return Concat.apply(*xs)


def take_channels(x: Tensor, order: np.ndarray) -> Tensor:
    """Channels in another order, as often as it names them: x (..., C), each row of order (R, C) a permutation of the
    channels -> (..., R C)."""
    return TakeChannels.apply(x, order=order)


def subsample(x: Tensor, start: int, stride: int) -> Tensor:
    """Every stride-th pixel from ``start`` on, both ways: (N, H, W, C) -> (N, OH, OW, C)."""
    return Subsample.apply(x, start=start, stride=stride)


def contrast_norm(x: Tensor, size: int, k: float = 1.0, alpha: float = 1e-3, beta: float = 0.75) -> Tensor:
    """Local contrast normalisation within each channel (cuda-convnet's "cnorm"): y_p = x_p s_p^-beta, s_p = k + alpha *
    sum of (x_q - m_q)^2 over the ``size`` x ``size`` pixels q from p - floor(size / 2) on, m_q the mean of x over the
    window of q, both cut off at the image's edges. The gradient includes that of m, which cuda-convnet leaves out.

    x: (N, H, W, C). Returns the shape of x.
    """
    return ContrastNorm.apply(x, size=size, k=k, alpha=alpha, beta=beta)


def max_pool2d(x: Tensor, size: Pair, stride: Pair | None = None, padding: Padding = 0, ceil: bool = False) -> Tensor:
    """``kernels.max_pool2d`` on tensors: (N, H, W, C) -> (N, OH, OW, C)."""
    return MaxPool2d.apply(x, size=size, stride=stride, padding=padding, ceil=ceil)


def avg_pool2d(x: Tensor, size: Pair, stride: Pair | None = None, padding: Padding = 0, ceil: bool = False) -> Tensor:
    """``kernels.avg_pool2d`` on tensors: (N, H, W, C) -> (N, OH, OW, C)."""
    return AvgPool2d.apply(x, size=size, stride=stride, padding=padding, ceil=ceil)


def lrn(x: Tensor, size: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75, groups: int = 1) -> Tensor:
    """``kernels.lrn`` on tensors (alpha as in the paper, not divided by size): (..., C) -> (..., C)."""
    return Lrn.apply(x, size=size, k=k, alpha=alpha, beta=beta, groups=groups)


def lrn_max_pool2d(x: Tensor, normalisation: dict[str, Any], windows: dict[str, Any]) -> Tensor:
    """``max_pool2d`` of ``lrn``, to their bits: (N, H, W, C) -> (N, OH, OW, C). ``normalisation`` and ``windows`` are
    the arguments of the two by name."""
    return LrnMaxPool2d.apply(x, normalisation=normalisation, windows=windows)


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


def pointwise(x: Tensor, name: str, a: float = 1.0, b: float = 1.0) -> Tensor:
    """The function ``POINTWISE[name]`` with parameters a and b, on a tensor of any shape. ValueError for an unknown
    one."""
    if name not in POINTWISE:
        known = ", ".join(POINTWISE)
        raise ValueError(f"pointwise: name: expected one of {known}, got {name!r}{nearest(str(name), POINTWISE)}")
    function, derivative = POINTWISE[name]
    return Pointwise.apply(x, function=lambda x: function(x, a, b), derivative=lambda x, y: derivative(x, y, a, b))


def noisy_relu(x: Tensor, noise: Array) -> Tensor:
    """max(0, z + z noise), z = max(0, x): noise is an array of standard normal numbers, shaped as x. The derivative is
    taken to be 1 where the output is above 0."""

    def noisy(x: Array) -> Array:
        z = np.maximum(x, 0)
        return np.maximum(z + z * noise, 0)

    return Pointwise.apply(x, function=noisy, derivative=lambda x, y: y > 0)


def cast(x: Tensor, dtype: Any) -> Tensor:
    """``kernels.cast`` on a tensor of any shape; the gradient comes back as x is stored."""
    return x if x.data.dtype == dtype else Cast.apply(x, dtype=dtype)


def dropout(
    x: Tensor,
    p: float = 0.5,
    form: Literal["paper", "inverted"] = "paper",
    training: bool = True,
    seed: int = 0,
    step: int = 0,
    purpose: int = 0,
    first: int = 0,
    state: Array | None = None,
) -> Tensor:
    """``kernels.dropout`` on a tensor of any shape."""
    draw = {"seed": seed, "step": step, "purpose": purpose, "first": first, "state": state}
    options = {"p": p, "form": form, "training": training, **draw}
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


def logistic_cross_entropy(x: Tensor, labels: Tensor) -> Tensor:
    """Mean over a batch of the cross-entropies of all classes, each a yes or no of its own with the probability
    1 / (1 + exp(-x)), summed: x (N, C), labels (N,) integers -> scalar."""
    return LogisticCrossEntropy.apply(x, labels)


def squared_error(x: Tensor, labels: Tensor) -> Tensor:
    """Mean over a batch of the sum of (x - t)^2, t being 1 for the labelled class and else 0: x (N, C), labels (N,)
    integers -> scalar."""
    return SquaredError.apply(x, labels)


def _stored_as(w: Array, x: Array, copy: Array | None = None) -> Array:
    """Weights as the products of x take them, in both passes: themselves, their ``copy``, or a new one."""
    if w.dtype == x.dtype:
        return w
    return kernels.cast(w, x.dtype) if copy is None else copy


def _relu_backward(
    dy: Array, y: Array, bias: tuple[int, ...], need: bool, scale: float = 1.0
) -> tuple[Array, Array | None]:
    """The gradient before ReLU and a dropout with that scale, from their output y, and where it is needed that of the
    bias of that shape."""
    if not need and scale == 1:
        return kernels.relu_backward(dy, y), None
    matrix = -1, math.prod(bias)
    dx, db = kernels.bias_relu_backward(dy.reshape(matrix), y.reshape(matrix), scale)
    return dx.reshape(dy.shape), db.reshape(bias)


def _times(x: Array, factor: float) -> Array:
    return x if factor == 1 else x * np.float32(factor)


def _one_hot(labels: Array, x: Array) -> Array:
    """(N, C) as x, 1 where a row's label is."""
    return (labels[:, None] == backend.array_module(x).arange(x.shape[1])).astype(np.float32)
