"""AlexNet's layers as the benchmarks time them: shapes, arithmetic and the least traffic of each pass.

One tower (227 x 227 input, no groups) and two towers as groups. `scale` divides the widths for quick runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CLASSES = 1000
INPUT = 227


@dataclass(frozen=True)
class Conv:
    """x (N, H, H, C), w (K, k, k, C / groups), y (N, OH, OH, K); `ceil` rounds OH up."""

    name: str
    H: int
    C: int
    K: int
    k: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    ceil: bool = False

    @property
    def OH(self) -> int:
        return (self.H + 2 * self.padding - self.k + self.excess) // self.stride + 1

    @property
    def excess(self) -> int:
        """Rows and columns of zeros past the bottom and right edge that rounding up asks for."""
        return (self.k - self.H - 2 * self.padding) % self.stride if self.ceil else 0

    @property
    def passes(self) -> tuple[str, ...]:
        first = self.name.startswith("conv1")
        return ("forward", "weight gradient") if first else ("forward", "input gradient", "weight gradient")

    def elements(self, batch: int) -> tuple[int, int, int]:
        """Elements of x, w and y."""
        return batch * self.H**2 * self.C, self.K * self.k**2 * self.C // self.groups, batch * self.OH**2 * self.K

    def flop(self, batch: int) -> int:
        return 2 * batch * self.OH**2 * self.K * self.k**2 * self.C // self.groups


@dataclass(frozen=True)
class Linear:
    """x (N, inputs), w (outputs, inputs), y (N, outputs)."""

    name: str
    inputs: int
    outputs: int
    passes = ("forward", "input gradient", "weight gradient")

    def elements(self, batch: int) -> tuple[int, int, int]:
        return batch * self.inputs, self.outputs * self.inputs, batch * self.outputs

    def flop(self, batch: int) -> int:
        return 2 * batch * self.inputs * self.outputs


@dataclass(frozen=True)
class LinearSgd:
    """A fully connected layer's weight gradient and the update of its w and v (outputs, inputs) as one operation."""

    linear: Linear
    passes = ("update",)

    @property
    def name(self) -> str:
        return f"{self.linear.name}+sgd"


@dataclass(frozen=True)
class Pool:
    """Maxima of k x k windows: x (N, H, H, C), y (N, OH, OH, C)."""

    name: str
    H: int
    C: int
    k: int = 3
    stride: int = 2
    ceil: bool = False
    passes = ("forward", "backward")

    @property
    def OH(self) -> int:
        return (self.H - self.k + (self.stride - 1 if self.ceil else 0)) // self.stride + 1


class AvgPool(Pool):
    """Means of the pixels of k x k windows that lie in the image; in a peer's network alone."""


@dataclass(frozen=True)
class Lrn:
    """Response normalisation of x (N, H, H, C) across n channels, in the paper's form: alpha is not divided by n."""

    name: str
    H: int
    C: int
    n: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75
    groups: int = 1
    passes = ("forward", "backward")


@dataclass(frozen=True)
class LrnPool:
    """Response normalisation and the pool behind it as one operation: x (N, H, H, C), y (N, OH, OH, C)."""

    lrn: Lrn
    pool: Pool
    passes = ("forward", "backward")

    @property
    def name(self) -> str:
        return f"{self.lrn.name}+{self.pool.name}"


@dataclass(frozen=True)
class Relu:
    """x (N, H, H, C); those of single pixels are too small to time alone."""

    name: str
    H: int
    C: int

    @property
    def passes(self) -> tuple[str, ...]:
        return ("forward", "backward") if self.H > 1 else ()


@dataclass(frozen=True)
class Dropout:
    """On (N, features); random, so that it is part of the step alone."""

    name: str
    p: float = 0.5
    passes = ()


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """x (N, classes)."""

    name: str
    classes: int
    passes = ("forward", "backward")


@dataclass(frozen=True)
class Sgd:
    """w, v and g of all the parameters."""

    name: str
    parameters: int
    passes = ("update",)


Layer = Conv | Linear | LinearSgd | Pool | Lrn | LrnPool | Relu | Dropout | SoftmaxCrossEntropy | Sgd


def alexnet(towers: int = 1, scale: int = 1) -> list[Layer]:
    """The network from its input to its loss and update, in order."""
    a, b, c, fc = 96 // scale, 256 // scale, 384 // scale, 4096 // scale
    convs = [
        Conv("conv1", INPUT, 3, a, 11, stride=4),
        Conv("conv2", 27, a, b, 5, padding=2, groups=towers),
        Conv("conv3", 13, b, c, 3, padding=1),
        Conv("conv4", 13, c, c, 3, padding=1, groups=towers),
        Conv("conv5", 13, c, b, 3, padding=1, groups=towers),
    ]
    layers: list[Layer] = []
    for i, conv in enumerate(convs, 1):
        layers += [conv, Relu(f"relu{i}", conv.OH, conv.K)]
        if i <= 2:
            layers.append(Lrn(f"lrn{i}", conv.OH, conv.K))
        if i in (1, 2, 5):
            layers.append(Pool(f"pool{i}", conv.OH, conv.K))
    linears = [Linear("fc6", 36 * b, fc), Linear("fc7", fc, fc), Linear("fc8", fc, CLASSES)]
    for linear in linears[:-1]:
        layers += [linear, Relu(f"relu_{linear.name}", 1, fc), Dropout(f"drop_{linear.name}")]
    parameters = sum(conv.elements(1)[1] + conv.K for conv in convs)
    parameters += sum(linear.elements(1)[1] + linear.outputs for linear in linears)
    return [*layers, linears[-1], SoftmaxCrossEntropy("softmax", CLASSES), Sgd("sgd", parameters)]


def timed(towers: Sequence[int], scale: int = 1) -> Iterator[tuple[int, Layer]]:
    """Every layer that has passes, with the number of towers: all of the first network, what differs of the next. A
    pool behind a normalisation also comes as one operation with it, and a fully connected layer with its update."""
    seen: set[Layer] = set()
    for count in towers:
        network = alexnet(count, scale)
        for before, layer in zip([None, *network], network, strict=False):
            together: list[Layer] = []
            if isinstance(before, Lrn) and isinstance(layer, Pool):
                together.append(LrnPool(before, layer))
            if isinstance(layer, Linear):
                together.append(LinearSgd(layer))
            for one in (layer, *together):
                if one.passes and one not in seen:
                    seen.add(one)
                    yield count, one


def flop(layer: Layer, batch: int) -> int:
    """Floating-point operations of one pass of a product; 0 where memory decides."""
    if isinstance(layer, LinearSgd):
        return layer.linear.flop(batch)
    return layer.flop(batch) if isinstance(layer, (Conv, Linear)) else 0


def operations(layer: Layer, which: str, batch: int) -> int:
    """`flop`, or where memory decides an estimate for a roofline: comparisons, additions, multiplications and powers as
    the formulas have them, sums of windows term by term."""
    match layer:
        case Conv() | Linear() | LinearSgd():
            return flop(layer, batch)
        case Pool():
            return batch * layer.OH**2 * layer.C * layer.k**2
        case Lrn():
            return batch * layer.H**2 * layer.C * (2 * layer.n + 4 if which == "forward" else 4 * layer.n + 9)
        case LrnPool():
            return operations(layer.lrn, which, batch) + operations(layer.pool, which, batch)
        case Relu():
            return batch * layer.H**2 * layer.C
        case SoftmaxCrossEntropy():
            return (4 if which == "forward" else 2) * batch * layer.classes
        case Sgd():
            return 6 * layer.parameters
        case Dropout():
            raise ValueError("dropout has no pass of its own")


def traffic(layer: Layer, which: str, batch: int, itemsize: int) -> int:
    """Bytes when every tensor moves once; weight gradients, the optimizer and the loss are float32."""
    match layer:
        case Conv() | Linear():
            x, w, y = layer.elements(batch)
            return itemsize * (x + y) + (4 if which == "weight gradient" else itemsize) * w
        case LinearSgd(linear):
            x, w, y = linear.elements(batch)
            return itemsize * (x + y) + (16 + (2 if itemsize == 2 else 0)) * w  # with a copy of w in bfloat16
        case Pool() | LrnPool():
            first, pool = (layer, layer) if isinstance(layer, Pool) else (layer.lrn, layer.pool)
            x, y = batch * first.H**2 * first.C, batch * pool.OH**2 * pool.C
            return itemsize * (x + y if which == "forward" else 2 * x + y)
        case Lrn() | Relu():
            return itemsize * batch * layer.H**2 * layer.C * (2 if which == "forward" else 3)
        case SoftmaxCrossEntropy():
            return 2 * itemsize * batch * layer.classes
        case Sgd():
            return 20 * layer.parameters
        case Dropout():
            raise ValueError("dropout has no pass of its own")
