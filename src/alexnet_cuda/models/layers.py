"""What a model is a list of: layer descriptions that know their output shape, their counts and how to build themselves.

Shapes here are those of one image, (H, W, C), or (features,) after Flatten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from .. import backend, init, nn, ops
from ..kernels import window_output

__all__ = [
    "Activation",
    "AvgPool2d",
    "BatchNorm",
    "Blur",
    "Concat",
    "ContrastNorm",
    "Conv2d",
    "Dropout",
    "Filters",
    "Flatten",
    "Layer",
    "Linear",
    "Local2d",
    "Lrn",
    "MaxPool2d",
    "Nailbed",
    "NoisyReLU",
    "Pointwise",
    "RandomChannels",
    "Shape",
    "SpatialLrn",
    "WeightedSum",
    "Window",
]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One entry of a model; ``name`` is the child's name in the built network."""

    name: str
    rank: ClassVar[int | None] = None
    """Rank of the input: 3 for (H, W, C), 1 for (features,), None for either."""

    @property
    def kind(self) -> str:
        """The name of what it is."""
        return type(self).__name__

    @property
    def window(self) -> str:
        """Its window, or what else decides it besides its weights, in a few characters."""
        return ""

    def output(self, shape: Shape) -> Shape:
        """Shape of the output for an input of ``shape``."""
        return shape

    def filter(self, shape: Shape) -> Shape | None:
        """Shape of the weights for an input of ``shape``; None for a layer without parameters."""
        return None

    def biases(self, shape: Shape) -> int:
        """Number of biases for an input of ``shape``: one a filter."""
        filters = self.filter(shape)
        return filters[0] if filters else 0

    def frozen(self, shape: Shape) -> int:
        """Number of values that are kept and not trained."""
        return 0

    def arrays(self, shape: Shape) -> dict[str, Shape]:
        """Shapes of what the module keeps, by name, for an input of ``shape``."""
        filters, biases = self.filter(shape), self.biases(shape)
        return {**({"w": filters} if filters else {}), **({"b": (biases,)} if biases else {})}

    def trained(self, shape: Shape) -> list[str]:
        """Names of those of its ``arrays`` that are trained."""
        return [name for name in self.arrays(shape) if not name.startswith("running_")]

    def macs(self, shape: Shape) -> int:
        """Multiply-accumulates of one image's forward pass in products with weights."""
        return 0

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        """The module, with weights drawn from ``rng``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Window(Layer):
    """What convolution and pooling share: square windows."""

    size: int
    stride: int
    padding: int
    ceil: bool
    rank = 3

    @property
    def window(self) -> str:
        return f"{self.size}x{self.size}/{self.stride} p{self.padding}{' ceil' if self.ceil else ''}"

    def positions(self, shape: Shape) -> tuple[int, int]:
        """How many windows there are down and across an input of ``shape``."""
        H, W, _ = shape
        pads = (self.padding, self.padding)
        return (
            window_output(H, self.size, self.stride, pads, self.ceil),
            window_output(W, self.size, self.stride, pads, self.ceil),
        )


@dataclass(frozen=True)
class Filters(Window):
    """What convolutions share, whether their pixels share the filters or not."""

    channels: int
    groups: int = 1
    activation: ops.Activation | None = "relu"
    weight: init.Initialiser = init.normal(0.01)
    bias: init.Initialiser | None = init.constant(0)

    def output(self, shape: Shape) -> Shape:
        return *self.positions(shape), self.channels


@dataclass(frozen=True)
class Conv2d(Filters):
    """Convolution with filters that all pixels share: the layer of ``nn.Conv2d``."""

    @property
    def window(self) -> str:
        return f"{super().window} g{self.groups}"

    def filter(self, shape: Shape) -> Shape:
        return self.channels, self.size, self.size, shape[2] // self.groups

    def biases(self, shape: Shape) -> int:
        return self.channels if self.bias else 0

    def macs(self, shape: Shape) -> int:
        return math.prod(self.positions(shape)) * math.prod(self.filter(shape))

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.Conv2d(
            shape[2], self.channels, self.size, self.stride, self.padding, self.groups, self.ceil, self.activation,
            bias=self.bias is not None, weight_init=self.weight, bias_init=self.bias, rng=rng, device=device,
        )  # fmt: skip


@dataclass(frozen=True)
class Local2d(Filters):
    """Convolution with filters of its own for each pixel."""

    def filter(self, shape: Shape) -> Shape:
        return *self.output(shape), self.size, self.size, shape[2] // self.groups

    def biases(self, shape: Shape) -> int:
        return math.prod(self.output(shape)) if self.bias else 0

    def arrays(self, shape: Shape) -> dict[str, Shape]:
        return {"w": self.filter(shape), **({"b": self.output(shape)} if self.bias else {})}

    def macs(self, shape: Shape) -> int:
        return math.prod(self.filter(shape))

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.Local2d(
            (shape[0], shape[1]), shape[2], self.channels, self.size, self.stride, self.padding, self.groups, self.ceil,
            self.activation, bias=self.bias is not None, weight_init=self.weight, bias_init=self.bias, rng=rng,
            device=device,
        )  # fmt: skip


@dataclass(frozen=True)
class MaxPool2d(Window):
    """The maxima of windows."""

    def output(self, shape: Shape) -> Shape:
        return *self.positions(shape), shape[2]

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.MaxPool2d(self.size, self.stride, self.padding, self.ceil)


@dataclass(frozen=True)
class AvgPool2d(Window):
    """The means of windows, of the pixels inside the image."""

    def output(self, shape: Shape) -> Shape:
        return *self.positions(shape), shape[2]

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.AvgPool2d(self.size, self.stride, self.padding, self.ceil)


@dataclass(frozen=True)
class Lrn(Layer):
    """alpha as in the paper, not divided by size."""

    size: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75
    groups: int = 1

    @property
    def window(self) -> str:
        return f"n{self.size} g{self.groups}"

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.LocalResponseNorm(self.size, self.k, self.alpha, self.beta, self.groups)


@dataclass(frozen=True)
class SpatialLrn(Layer):
    """alpha is not divided by the window's area."""

    size: int = 5
    k: float = 1.0
    alpha: float = 4e-5
    beta: float = 0.75
    rank = 3

    @property
    def window(self) -> str:
        return f"n{self.size}x{self.size}"

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.SpatialResponseNorm(self.size, self.k, self.alpha, self.beta)


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalisation of each channel."""

    momentum: float = 0.99
    epsilon: float = 1e-3

    def filter(self, shape: Shape) -> Shape:
        return (shape[-1],)

    def frozen(self, shape: Shape) -> int:
        return 2 * shape[-1]

    def arrays(self, shape: Shape) -> dict[str, Shape]:
        return dict.fromkeys(("gamma", "beta", "running_mean", "running_variance"), (shape[-1],))

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.BatchNorm(shape[-1], self.momentum, self.epsilon, device)


@dataclass(frozen=True)
class Activation(Layer):
    """An activation function that does not follow its layer with weights directly."""

    activation: ops.Activation = "relu"

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}[self.activation]()


@dataclass(frozen=True)
class Flatten(Layer):
    """From an image (H, W, C) to (features,)."""

    def output(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.Flatten()


@dataclass(frozen=True)
class Dropout(Layer):
    """Elements become zero with probability ``p``; see ``kernels.dropout``."""

    p: float = 0.5
    form: Literal["paper", "inverted"] = "paper"

    @property
    def window(self) -> str:
        return f"p={self.p:g} {self.form}"

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.Dropout(self.p, self.form)


@dataclass(frozen=True)
class Linear(Layer):
    """A fully connected layer."""

    features: int
    activation: ops.Activation | None = "relu"
    weight: init.Initialiser = init.normal(0.01)
    bias: init.Initialiser | None = init.constant(0)
    rank = 1

    def output(self, shape: Shape) -> Shape:
        return (self.features,)

    def biases(self, shape: Shape) -> int:
        return self.features if self.bias else 0

    def filter(self, shape: Shape) -> Shape:
        return self.features, shape[0]

    def macs(self, shape: Shape) -> int:
        return self.features * shape[0]

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.Linear(
            shape[0], self.features, self.activation, bias=self.bias is not None,
            weight_init=self.weight, bias_init=self.bias, rng=rng, device=device,
        )  # fmt: skip


@dataclass(frozen=True)
class Pointwise(Layer):
    """A function of each element, by its name in ``ops.POINTWISE``."""

    function: str
    a: float = 1.0
    b: float = 1.0

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.Pointwise(self.function, self.a, self.b)


@dataclass(frozen=True)
class NoisyReLU(Layer):
    """cuda-convnet's "nrelu"; see ``nn.NoisyReLU``."""

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.NoisyReLU()


@dataclass(frozen=True)
class WeightedSum(Layer):
    """Of inputs of one shape; ``bias_shape`` is (C,), or that of the whole output."""

    coefficients: tuple[float, ...]
    bias_shape: Shape | None = None
    activation: ops.Activation | None = None
    bias: init.Initialiser = init.constant(0)

    def biases(self, shape: Shape) -> int:
        return math.prod(self.bias_shape) if self.bias_shape else 0

    def arrays(self, shape: Shape) -> dict[str, Shape]:
        return {"b": self.bias_shape} if self.bias_shape else {}

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.WeightedSum(self.coefficients, self.bias_shape, self.activation, self.bias, rng, device)


@dataclass(frozen=True)
class Concat(Layer):
    """``joined``: the output's shape; (features,) where the inputs are flattened."""

    joined: Shape

    def output(self, shape: Shape) -> Shape:
        return self.joined

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.Concat(flatten=len(self.joined) == 1)


@dataclass(frozen=True)
class RandomChannels(Layer):
    """``repeats`` random permutations of the channels, one after the other."""

    repeats: int = 1
    rank = 3

    def output(self, shape: Shape) -> Shape:
        return *shape[:2], self.repeats * shape[2]

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.TakeChannels(np.stack([rng.permutation(shape[2]) for _ in range(self.repeats)]))


@dataclass(frozen=True)
class ContrastNorm(Layer):
    """alpha is not divided by the window's area."""

    size: int
    k: float = 1.0
    alpha: float = 1e-3
    beta: float = 0.75
    rank = 3

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.ContrastNorm(self.size, self.k, self.alpha, self.beta)


@dataclass(frozen=True)
class Blur(Layer):
    """By a Gaussian of ``std`` pixels over ``size`` x ``size``."""

    size: int
    std: float
    rank = 3

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.Blur(shape[2], self.size, self.std, device)


@dataclass(frozen=True)
class Nailbed(Layer):
    """Every stride-th pixel of each row and column, the first and the last equally far from the edges."""

    stride: int
    rank = 3

    def output(self, shape: Shape) -> Shape:
        return -(-shape[0] // self.stride), -(-shape[1] // self.stride), shape[2]

    def build(self, shape: Shape, rng: np.random.Generator, device: backend.Device) -> nn.Module:
        return nn.Subsample((shape[0] - self.stride * (self.output(shape)[0] - 1)) // 2, self.stride)
