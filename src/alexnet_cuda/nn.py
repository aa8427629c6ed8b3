"""Layers with parameters: Module, Parameter and the building blocks of AlexNet.

A Module's parameters and child modules are its attributes; ``Sequential`` names its children. Weights are drawn from
``rng`` when a layer is made; without one they come from a generator that ``manual_seed`` resets.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np

from . import backend, init, ops
from .deprecation import OldName
from .kernels import PRECISIONS, Algorithm, Array, Padding, Pair, Precision, _number as checked_number, window_output
from .tensor import Tensor, check_tensors

T = TypeVar("T", bound=Tensor)
Cost = Literal["softmax", "logistic", "squares"]
_generator: np.random.Generator | None = None  # made when it is needed: NumPy imports what draws late, too
_purposes = itertools.count()


def manual_seed(seed: int) -> None:
    """Resets the generator of initial weights that layers made without ``rng`` draw from."""
    global _generator
    _generator = np.random.default_rng(seed)


def _default_rng() -> np.random.Generator:
    global _generator
    _generator = _generator or np.random.default_rng(0)
    return _generator


class Parameter(Tensor):
    """A tensor to be trained. Its rate is the optimizer's times ``lr_scale``; ``decay_scale`` multiplies the decay,
    ``momentum_scale`` the momentum of SGD. ``stored`` is a bfloat16 copy that products may read in its place, or None;
    who updates the parameter updates it, too (``optim.Copies``)."""

    def __init__(
        self,
        data: np.ndarray,
        device: str | backend.Device | None = None,
        lr_scale: float = 1.0,
        decay_scale: float = 1.0,
        momentum_scale: float = 1.0,
    ) -> None:
        super().__init__(data, requires_grad=True, device=device)
        self.lr_scale = lr_scale
        self.decay_scale = decay_scale
        self.momentum_scale = momentum_scale
        self.bf16_copy: Array | None = None

    stored = OldName("bf16_copy")


class Buffer(Tensor):
    """A tensor that is saved with the parameters and not trained, such as the running statistics of ``BatchNorm``."""


class Module:
    """Base of layers and networks: ``forward`` computes, the attributes hold parameters, buffers and children."""

    takes_bfloat16: ClassVar[bool] = False
    """Whether a layer takes inputs in bfloat16."""

    def __init__(self) -> None:
        self.training = True

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, *inputs: Tensor) -> Tensor:
        check_tensors(type(self).__name__, inputs)
        return self.forward(*inputs)

    def loss(self, y: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch whose output is y (N, classes), labels (N,): a scalar. By default softmax
        cross-entropy."""
        return ops.softmax_cross_entropy(y, labels)

    def joined_with(self, following: Module) -> Callable[[Tensor], Tensor] | None:
        """What computes this module and then the ``following`` one, to the same bits and in fewer passes over memory;
        None where nothing does."""
        return None

    def children(self) -> Iterator[tuple[str, Module]]:
        """Child modules with their names, in the order in which they were assigned."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Module))

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def set_precision(self, precision: str) -> None:
        """Has all layers below multiply in this precision. Inputs are to be stored as ``kernels.storage`` says.
        ValueError, with nothing changed, for an unknown one, and for "bf16" where a layer takes float32 alone."""
        known = next((p for p in PRECISIONS if p == precision), None)
        if known is None:
            raise ValueError(f"precision: expected {' or '.join(map(repr, PRECISIONS))}, got {precision!r}")
        if known == "bf16":
            self._check_bfloat16("")
        for module in self.modules():
            if isinstance(module, (Conv2d, Linear)):
                module.precision = known

    def _check_bfloat16(self, name: str) -> None:
        children = list(self.children())
        if not children and not self.takes_bfloat16:
            raise ValueError(
                f"precision: 'bf16' needs layers that take bfloat16; {name}, {type(self).__name__}, is none"
            )
        for child, module in children:
            module._check_bfloat16(f"{name}.{child}".lstrip("."))

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with dotted names such as ``conv1.w``."""
        return self._named(Parameter)

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """All buffers with dotted names such as ``norm1.running_mean``."""
        return self._named(Buffer)

    def _named(self, kind: type[T], prefix: str = "") -> Iterator[tuple[str, T]]:
        for name, value in vars(self).items():
            if isinstance(value, kind):
                yield prefix + name, value
        for name, child in self.children():
            yield from child._named(kind, f"{prefix}{name}.")

    def parameters(self) -> list[Parameter]:
        return [p for _, p in self.named_parameters()]

    def train(self, training: bool = True) -> Module:
        """Switches all modules to training (dropout drops) or, with False, to evaluation. Returns self."""
        for module in self.modules():
            module.training = training
        return self

    def eval(self) -> Module:
        return self.train(False)

    def seed(self, seed: int, step: int = 0, row: int = 0) -> None:
        """Makes all random layers below a function of ``seed`` and of how many training passes came before
        (``step``): called with the values of a checkpoint, a run goes on with the masks it would have had. Inputs that
        are part of a batch, from its ``row`` on, get that part of its masks."""
        random = (m for m in self.modules() if isinstance(m, Random))
        for purpose, module in enumerate(random):
            module.key, module.step, module.purpose, module.row = seed, step, purpose, row

    def draw_from(self, states: Mapping[backend.Device, Array]) -> None:
        """Sets the ``Random.states`` of all random layers below."""
        for module in self.modules():
            if isinstance(module, Random):
                module.states = states

    def state(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers as NumPy arrays, by name."""
        return self.merged({name: t.numpy().copy() for name, t in self._kept().items()})

    def merged(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays by the names of parameters and buffers, perhaps after ``slot/``, as they are saved: by other names, in
        a network that keeps its arrays in parts."""
        return dict(arrays)

    def sharded(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inverse of ``merged``. ValueError for an array of another shape."""
        return dict(arrays)

    joined, parted = OldName("merged"), OldName("sharded")

    def _kept(self) -> dict[str, Tensor]:
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets all parameters and buffers. ValueError, with nothing changed, when a name is missing or surplus or a
        shape or dtype differs."""
        kept, state = self._kept(), self.sharded(state)
        problems = [f"missing {name}" for name in kept if name not in state]
        problems += [f"surplus {name}" for name in state if name not in kept]
        for name, t in kept.items():
            if name in state and (state[name].shape != t.shape or state[name].dtype != np.float32):
                problems.append(f"{name}: expected float32 {t.shape}, got {state[name].dtype} {state[name].shape}")
        if problems:
            raise ValueError("load_state: " + "; ".join(problems))
        for name, t in kept.items():
            t.data = backend.from_host(np.ascontiguousarray(state[name]), t.device)


class Sequential(Module):
    """Child modules called one after the other: ``Sequential(conv1=Conv2d(...), pool1=MaxPool2d(...))``, or without
    names, which are then "0", "1" and so on. ``net["conv1"]`` is a child."""

    def __init__(self, *modules: Module, **named: Module) -> None:
        super().__init__()
        for name, module in [*((str(i), m) for i, m in enumerate(modules)), *named.items()]:
            if not isinstance(module, Module):
                raise TypeError(f"Sequential: {name}: expected a Module, got {type(module).__name__}")
            if hasattr(self, name):
                raise ValueError(f"Sequential: {name!r} is taken by Module; choose another name")
            setattr(self, name, module)

    def __getitem__(self, name: str) -> Module:
        return dict(self.children())[name]

    def forward(self, x: Tensor) -> Tensor:
        return in_turn([module for _, module in self.children()], x)

    def steps(self, x: Tensor) -> Iterator[tuple[str, Module, Tensor]]:
        """Each child's name, itself and its output, one after the other: none is joined with the next."""
        for name, module in self.children():
            x = module(x)
            yield name, module, x


def in_turn(modules: Sequence[Module], x: Tensor) -> Tensor:
    """The last one's output; neighbours are joined where they can be."""
    place = 0
    while place < len(modules):
        pair = modules[place : place + 2]
        joined = pair[0].joined_with(pair[1]) if len(pair) == 2 else None
        x, place = (pair[0](x), place + 1) if joined is None else (joined(x), place + 2)
    return x


class Node(NamedTuple):
    """A module in a ``Graph``: the names of its inputs, "" for the images, and where it runs."""

    name: str
    module: Module
    inputs: tuple[str, ...]
    device: backend.Device


class Graph(Sequential):
    """Child modules that take the outputs of any that come before them, each on a device of its own. The last one's
    output is the network's. ``cost`` names the loss that it is trained with."""

    def __init__(self, nodes: Iterable[Node], cost: Cost = "softmax") -> None:
        """ValueError for a name that is taken, or an input that does not come before its user."""
        super().__init__()
        self.cost: Cost = cost
        self._nodes: list[Node] = []
        self._last_use: dict[str, str] = {}
        for node in nodes:
            if hasattr(self, node.name):
                raise ValueError(f"Graph: {node.name!r} is taken; choose another name")
            for name in node.inputs:
                if name and name not in self._last_use:
                    raise ValueError(f"Graph: {node.name}: {name!r} does not come before it")
                self._last_use[name] = node.name
            self._last_use[node.name] = ""
            self._nodes.append(node)
            setattr(self, node.name, node.module)

    def forward(self, *images: Tensor) -> Tensor:
        """The output, on the device of the first images. images: the batch, on one device or several."""
        y = images[0]
        for step in self.steps(*images):
            y = step[-1]
        return y.to(images[0].device)

    def steps(self, *images: Tensor) -> Iterator[tuple[str, Module, Tensor]]:
        """Each child's name, itself and its output, one after the other; outputs are kept until their last use."""
        there = {x.device: x for x in images}
        held: dict[str, Tensor] = {}
        for name, module, inputs, device in self._nodes:
            xs = [held[i] if i else there.get(device, images[0]) for i in inputs]
            with backend.on(device):
                y = held[name] = module(*(x.to(device) for x in xs))
            for i in {i for i in inputs if i and self._last_use[i] == name}:
                del held[i]
            yield name, module, y

    def loss(self, y: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch whose output is y (N, classes), labels (N,): a scalar."""
        return {
            "softmax": ops.softmax_cross_entropy,
            "logistic": ops.logistic_cross_entropy,
            "squares": ops.squared_error,
        }[self.cost](y, labels)


class Conv2d(Module):
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
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Conv2d: groups: expected a divisor of {in_channels} and {out_channels} channels, got {groups}"
            )
        KH, KW = (size, size) if isinstance(size, int) else size
        self.stride, self.padding, self.groups, self.ceil, self.activation = stride, padding, groups, ceil, activation
        self.precision: Precision = precision
        self.algorithm: Algorithm = algorithm
        shape = (out_channels, KH, KW, in_channels // groups)
        self.w, self.b = _weights(shape, bias, weight_init, bias_init, rng, device)

    def forward(self, x: Tensor) -> Tensor:
        windows = self.stride, self.padding, self.groups, self.activation == "relu", self.ceil
        y = ops.conv2d(x, self.w, self.b, *windows, self.precision, self.algorithm)
        return activated(y, self.activation)


class Local2d(Module):
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
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Local2d: groups: expected a divisor of {in_channels} and {out_channels} channels, got {groups}"
            )
        self.stride, self.padding, self.groups, self.ceil, self.activation = stride, padding, groups, ceil, activation
        OH, OW = (window_output(n, size, stride, (padding, padding), ceil) for n in image)
        rng = rng or _default_rng()
        filters = (
            OH * OW * out_channels,
            size,
            size,
            in_channels // groups,
        )  # one output's weights, as initialisers see them
        w = (weight_init or init.he_normal())(filters, rng).reshape(OH, OW, out_channels, *filters[1:])
        self.w = Parameter(w, device)
        self.b = Parameter((bias_init or init.constant(0))((OH, OW, out_channels), rng), device) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        relu = self.activation == "relu"
        y = ops.local2d(x, self.w, self.b, self.stride, self.padding, self.groups, relu, self.ceil)
        return activated(y, self.activation)


class Linear(Module):
    """Fully connected layer (N, in_features) -> (N, out_features), then ``activation``."""

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
        self.precision: Precision = precision
        self.w, self.b = _weights((out_features, in_features), bias, weight_init, bias_init, rng, device)

    def forward(self, x: Tensor) -> Tensor:
        relu = self.activation == "relu"
        y = ops.linear(x, self.w, self.b, relu, self.precision, self.w.bf16_copy)
        return activated(y, self.activation)

    def joined_with(self, following: Module) -> Callable[[Tensor], Tensor] | None:
        if type(self) is not Linear or type(following) is not Dropout:
            return None
        joins = self.activation == "relu" and following.training
        return partial(self._with_dropout, following) if joins else None

    def _with_dropout(self, following: Dropout, x: Tensor) -> Tensor:
        draw = following.draw((x.shape[0], self.w.shape[0]), x.device)
        return ops.linear(x, self.w, self.b, True, self.precision, self.w.bf16_copy, draw)


class MaxPool2d(Module):
    """Maximum over windows; see ``kernels.max_pool2d``."""

    takes_bfloat16 = True

    def __init__(self, size: Pair, stride: Pair | None = None, padding: Padding = 0, ceil: bool = False) -> None:
        super().__init__()
        self.size, self.stride, self.padding, self.ceil = size, stride, padding, ceil

    @property
    def windows(self) -> dict[str, Any]:
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


class LocalResponseNorm(Module):
    """Normalisation across channels; **alpha is not divided by size** (the paper's formula); see ``kernels.lrn``."""

    takes_bfloat16 = True

    def __init__(self, size: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75, groups: int = 1) -> None:
        super().__init__()
        self.size, self.k, self.alpha, self.beta, self.groups = size, k, alpha, beta, groups

    @property
    def options(self) -> dict[str, Any]:
        return {"size": self.size, "k": self.k, "alpha": self.alpha, "beta": self.beta, "groups": self.groups}

    def forward(self, x: Tensor) -> Tensor:
        return ops.lrn(x, **self.options)

    def joined_with(self, following: Module) -> Callable[[Tensor], Tensor] | None:
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


class BatchNorm(Module):
    """Batch normalisation over all but the last dimension; see ``kernels.batch_norm``."""

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

    def forward(self, x: Tensor) -> Tensor:
        running = self.running_mean, self.running_variance
        return ops.batch_norm(x, self.gamma, self.beta, *running, self.momentum, self.epsilon, self.training)


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


class Random(Module):
    """Base of layers that draw random numbers, a function of (key, purpose, step, row): the step counts training
    passes, row is the place of the input's first row in a larger batch; ``Module.seed`` sets all four. ``states`` may
    hold key and step as an array (2,) of uint64 on a device, which is then read instead of the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.step, self.purpose, self.row = 0, 0, next(_purposes), 0
        self.states: Mapping[backend.Device, Array] = {}


DROPOUT_FORMS = "paper", "inverted"


class Dropout(Random):
    """Zeroes elements with probability ``p``, 0 <= p < 1, in training; see ``kernels.dropout`` for the two forms."""

    takes_bfloat16 = True

    def __init__(self, p: float = 0.5, form: Literal["paper", "inverted"] = "paper") -> None:
        super().__init__()
        if form not in DROPOUT_FORMS:
            raise ValueError(f"Dropout: form: expected {' or '.join(DROPOUT_FORMS)}, got {form!r}")
        self.p = checked_number("Dropout", "p", p, 0, 1, open_high=True)
        self.form: Literal["paper", "inverted"] = form

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.form == "inverted":
            return x
        return ops.dropout(x, training=self.training, **self.draw(x.shape, x.device))

    def draw(self, shape: tuple[int, ...], device: backend.Device) -> dict[str, Any]:
        """The arguments of ``kernels.dropout`` for the next input, of that shape."""
        first, state = self.row * math.prod(shape[1:]), self.states.get(device)
        options = {"p": self.p, "form": self.form, "seed": self.key, "step": self.step, "purpose": self.purpose}
        self.step += self.training
        return {**options, "first": first, "state": state}


class NoisyReLU(Random):
    """cuda-convnet's "nrelu": max(0, z + noise), z = max(0, x), the noise normal with standard deviation z; in
    evaluation, too."""

    def forward(self, x: Tensor) -> Tensor:
        rng = np.random.Generator(np.random.Philox(key=self.key, counter=[0, 0, self.purpose, self.step]))
        noise = rng.standard_normal((self.row + x.shape[0], *x.shape[1:]), np.float32)[self.row :]
        y = ops.noisy_relu(x, backend.from_host(noise, x.device))
        self.step += self.training
        return y


class Pointwise(Module):
    """A function of each element: ``ops.POINTWISE[name]`` with parameters a and b."""

    def __init__(self, name: str, a: float = 1.0, b: float = 1.0) -> None:
        super().__init__()
        self.name, self.a, self.b = name, a, b

    def forward(self, x: Tensor) -> Tensor:
        return ops.pointwise(x, self.name, self.a, self.b)


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
            self.b = Parameter((bias_init or init.constant(0))(bias, rng or _default_rng()), device)

    def forward(self, *xs: Tensor) -> Tensor:
        return activated(ops.weighted_sum(xs, self.coefficients, self.b, self.activation == "relu"), self.activation)


class Concat(Module):
    """Joins its inputs along the last dimension, flattening them before with ``flatten``."""

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


class ContrastNorm(Module):
    """Contrast normalisation within each channel; **alpha is not divided by the area**; see ``ops.contrast_norm``."""

    def __init__(self, size: int, k: float = 1.0, alpha: float = 1e-3, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.k, self.alpha, self.beta = size, k, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        return ops.contrast_norm(x, self.size, self.k, self.alpha, self.beta)


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


class Subsample(Module):
    """Every stride-th pixel from ``start`` on; see ``ops.subsample``."""

    def __init__(self, start: int, stride: int) -> None:
        super().__init__()
        self.start, self.stride = start, stride

    def forward(self, x: Tensor) -> Tensor:
        return ops.subsample(x, self.start, self.stride)


class Flatten(Module):
    """(N, H, W, C) -> (N, H * W * C)."""

    takes_bfloat16 = True

    def forward(self, x: Tensor) -> Tensor:
        return ops.flatten(x)


def activated(y: Tensor, activation: ops.Activation | None) -> Tensor:
    """A layer's output after its activation function; ReLU is not applied, as the layer's kernel has done so."""
    return y if activation in (None, "relu") else ops.activation(y, activation)


def _weights(
    shape: tuple[int, ...],
    bias: bool,
    weight_init: init.Initialiser | None,
    bias_init: init.Initialiser | None,
    rng: np.random.Generator | None,
    device: str | backend.Device | None,
) -> tuple[Parameter, Parameter | None]:
    rng = rng or _default_rng()
    w = Parameter((weight_init or init.he_normal())(shape, rng), device)
    if not bias:
        return w, None
    return w, Parameter((bias_init or init.constant(0))(shape[:1], rng), device)
