"""What flows between nodes, and what a node sees when it is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from ... import nn, ops
from ...files import WeightsError
from ...tensor import Tensor
from .graph import Blank, Graph, Held, Node

Known = NDArray[Any]
PHYSICAL = (0, 3, 1, 2)
"""Where the axes N, C, H, W of ONNX are in (N, H, W, C)."""
DTYPES: dict[int, Any] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64,
    16: bfloat16,
}  # fmt: skip
"""By ONNX's numbers of types."""
FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.float64), np.dtype(bfloat16))


@dataclass(frozen=True)
class Value:
    """A tensor: ``held`` as the graph means it or, ``last``, with its four axes N, C, H, W as (N, H, W, C)."""

    held: Tensor
    last: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """As the graph means it."""
        shape = self.held.shape
        return tuple(shape[axis] for axis in PHYSICAL) if self.last else shape

    def plain(self) -> Tensor:
        """As the graph means it."""
        return self.permuted(range(len(self.shape))) if self.last else self.held

    def images(self) -> Tensor:
        """Of four axes, as (N, H, W, C)."""
        return self.held if self.last else self.permuted((0, 2, 3, 1))

    def axis(self, axis: int) -> int:
        """Where an axis is held."""
        axis %= len(self.shape)
        return PHYSICAL[axis] if self.last else axis

    def permuted(self, order: Sequence[int]) -> Tensor:
        """The axes in that order, held so; without a copy where only axes of size 1 move."""
        places = [PHYSICAL[axis] if self.last else axis for axis in order]
        shape = self.held.shape
        moved = [axis for axis in places if shape[axis] != 1]
        if moved == sorted(moved):
            return ops.reshape(self.held, tuple(shape[axis] for axis in places))
        return ops.transpose(self.held, places)


Operand = Value | Held | None


def aligned(values: Sequence[Value]) -> tuple[list[Tensor], bool]:
    """Operands that broadcast, held alike, and whether that is with channels last."""
    rank = max(len(value.shape) for value in values)
    if rank != 4 or not any(value.last for value in values):
        return [value.plain() for value in values], False
    four = (v if len(v.shape) == 4 else Value(ops.reshape(v.held, (1,) * (4 - len(v.shape)) + v.shape)) for v in values)
    return [value.images() for value in four], True


@dataclass
class Call:
    """A node with what it is called with. ``module``: its layer, if it has one; ``images``: how many go through the
    network at a time, beside how many the file says, None where it leaves that open."""

    graph: Graph
    node: Node
    inputs: Sequence[Operand]
    attributes: dict[str, Any]
    module: nn.Module | None = None
    images: tuple[int, int | None] = (1, None)

    def error(self, text: str) -> WeightsError:
        """What is wrong with this node."""
        return self.graph.error(text, self.node)

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]

    def input(self, place: int) -> Operand:
        """An input as it comes; None where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def value(self, place: int = 0, rank: int | None = None) -> Value:
        """An input that nodes compute. WeightsError for another, or one of another rank."""
        x = self.input(place)
        if not isinstance(x, Value):
            got = "nothing" if x is None else f"an array of the file of shape {x.shape}"
            raise self.error(f"expected input {place} that is computed from the images, got {got}")
        if rank is not None and len(x.shape) != rank:
            expected = "(N, C, H, W)" if rank == 4 else f"{rank} axes"
            raise self.error(f"expected an input of {expected}, got shape {x.shape}")
        return x

    def values(self) -> list[Value]:
        """All inputs, which nodes compute."""
        return [self.value(place) for place in range(len(self.inputs))]

    def known(self, place: int) -> Known:
        """An input whose numbers the graph itself has. WeightsError for another."""
        x = self.input(place)
        if not isinstance(x, np.ndarray):
            got = "nothing" if x is None else "one that is computed" if isinstance(x, Value) else "weights"
            raise self.error(f"expected input {place} that the file has the numbers of, got {got}")
        return x

    def integers(self, attribute: str, place: int) -> list[int] | None:
        """Whole numbers that older operators have as an attribute, newer ones as an input; None where they are left
        out."""
        if self.input(place) is None:
            given: list[int] | None = self[attribute]
            return given
        found = self.known(place)
        if found.dtype.kind not in "iu" or found.ndim > 1:
            raise self.error(f"{attribute}: expected whole numbers, got {found.dtype} of shape {found.shape}")
        return [int(n) for n in found.ravel()]

    def number(self, attribute: str, place: int) -> float | None:
        """One number that older operators have as an attribute, newer ones as an input."""
        x = self.input(place)
        if x is None:
            given: float | None = self[attribute]
            return given
        array = x.held.numpy() if isinstance(x, Value) else self.known(place)
        if array.size != 1:
            raise self.error(f"{attribute}: expected one number, got shape {array.shape}")
        return float(array.reshape(()))

    def weights(self, place: int, *ranks: int) -> Held | None:
        """An array of a layer, float32; None where it is left out. WeightsError for one that nodes of a network
        compute, and for one of other ranks."""
        x = self.input(place)
        if x is None:
            if self.node.input(place):
                raise self.error(f"expected input {place} that the file has, got one that is computed")
            return None
        if isinstance(x, Value):
            x = x.plain().numpy()
        if len(x.shape) not in ranks:
            raise self.error(f"input {place}: expected {' or '.join(map(str, ranks))} axes, got shape {x.shape}")
        return x if isinstance(x, Blank) else self.floats(x)

    def floats(self, array: Known) -> Known:
        """The array as float32. WeightsError for other than floats that it holds."""
        if array.dtype not in FLOATS:
            raise self.error(f"expected arrays of float32, got {array.dtype}")
        with np.errstate(over="ignore"):
            made = array.astype(np.float32, copy=False)
        if array.dtype == np.float64 and not np.array_equal(np.isfinite(array), np.isfinite(made)):
            raise self.error("expected numbers that float32 holds")
        return made
