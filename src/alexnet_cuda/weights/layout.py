"""Between the layout of other libraries, channels first, and ours, channels last."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..files import WeightsError
from ..models import Model, Own
from ..models.layers import BatchNorm, Conv2d, Flatten, Linear

Floats = NDArray[np.float32]
SHOWN = 5  # problems in a message
FLOATS = ("float32", "float64", "float16", "bfloat16")
SPARE = 1 << 25  # bytes that tensors which repeat their values may take beyond three times the file


def past_end(size: int, stride: int, before: int, pixels: int, outputs: int) -> int:
    """How many pixels the last window of a row reaches past its end; less than 0 where it leaves some. ``before``: the
    padding at its beginning."""
    return (outputs - 1) * stride + size - pixels - before


def inside(size: int, stride: int, before: int, pixels: int, outputs: int) -> NDArray[np.int64]:
    """How many pixels of the row each of these windows has."""
    first = np.arange(outputs) * stride - before
    return np.minimum(first + size, pixels) - np.maximum(first, 0)


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: what the file says of it, and ``read``, which gives its values."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], NDArray[Any]]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape if len(self.shape) < 9 else f'of {len(self.shape):,} dimensions'}"


class Slot(NamedTuple):
    """One array of a model. ``shape``: channels first; ``split``: the same with features that were flattened taken
    apart; ``axes``: the order of its dimensions in ours."""

    name: str
    shape: tuple[int, ...]
    split: tuple[int, ...]
    axes: tuple[int, ...]

    def ours(self, theirs: NDArray[Any]) -> Floats:
        """From channels first, (K, C, KH, KW) or (O, C H W), of any float type, to (K, KH, KW, C) or (O, H W C)."""
        y = np.array(theirs.reshape(self.split).transpose(self.axes), np.float32, order="C")
        return y.reshape(self.shape) if len(self.shape) == 2 else y

    def theirs(self, ours: Floats) -> Floats:
        """The inverse of ``ours``."""
        y = ours.reshape([self.split[axis] for axis in self.axes]).transpose(np.argsort(self.axes))
        return np.ascontiguousarray(y.reshape(self.shape))


def slots(model: Model) -> Iterator[Slot]:
    """All arrays of a model. WeightsError for a layer that has no counterpart in other libraries."""
    if isinstance(model, Own):
        raise WeightsError(
            f"model {model.name}: expected a model of the package, as arrays are laid out layer by layer"
        )
    flattened: dict[str, tuple[int, ...] | None] = {}  # of each layer whose outputs are those of an image in a row
    for row, (layer, inputs) in zip(model.rows(), model.connected(), strict=True):
        image = flattened.get(inputs[0])
        flattened[layer.name] = None if isinstance(layer, Conv2d | Linear) else image
        if isinstance(layer, Flatten):
            flattened[layer.name] = image or (row.input if len(row.input) == 3 else None)
        elif isinstance(layer, BatchNorm):
            shape = (row.input[-1],)
            for array in ("gamma", "beta", "running_mean", "running_variance"):
                yield Slot(f"{layer.name}.{array}", shape, shape, (0,))
        elif row.filter:
            if isinstance(layer, Conv2d):
                K, KH, KW, C = row.filter
                yield Slot(f"{layer.name}.w", (K, C, KH, KW), (K, C, KH, KW), (0, 2, 3, 1))
            elif isinstance(layer, Linear) and image:
                H, W, C = image
                yield Slot(f"{layer.name}.w", row.filter, (row.filter[0], C, H, W), (0, 2, 3, 1))
            elif isinstance(layer, Linear):
                yield Slot(f"{layer.name}.w", row.filter, row.filter, (0, 1))
            else:
                raise WeightsError(
                    f"model {model.name}: {layer.name}: PyTorch and Caffe have no {type(layer).__name__}"
                )
            if row.biases:
                yield Slot(f"{layer.name}.b", (row.biases,), (row.biases,), (0,))


def names_in(model: Model) -> list[str]:
    """Our names of a model's arrays."""
    return [slot.name for slot in slots(model)]


def convert(
    path: Path, model: Model, theirs: Mapping[str, str], entries: Mapping[str, Entry]
) -> tuple[Model, dict[str, Floats], list[str]]:
    """The arrays in ours, the model with as many classes as the file has, and what to tell of the conversion.

    theirs: for each of our names the one in the file. WeightsError, before anything large is read, for names that are
    missing or surplus and for other shapes or dtypes; for numbers that float32 does not hold.
    """
    last = entries.get(theirs.get(f"{model.layers[-1].name}.b", ""))
    if last is not None and math.prod(last.shape) > 0:
        model = model.with_classes(math.prod(last.shape))
    expected = {theirs[slot.name]: slot for slot in slots(model)}
    missing = [f"missing {name}" for name in expected if name not in entries]
    surplus = [f"surplus {shown(name)}" for name in entries if name not in expected]
    problems = [problem for pair in zip_longest(missing, surplus) for problem in pair if problem]
    problems += [
        f"{name}: expected float32 {slot.shape}, got {entries[name]}"
        for name, slot in expected.items()
        if name in entries and not (entries[name].shape == slot.shape and entries[name].dtype in FLOATS)
    ]
    if problems:
        more = f"; and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
        raise WeightsError(f"{path}: not the weights of {model.name}: {'; '.join(problems[:SHOWN])}{more}")
    total = 4 * sum(math.prod(slot.shape) for slot in expected.values())
    if total > 3 * path.stat().st_size + SPARE:
        raise WeightsError(f"{path}: tensors of {total:,} bytes in a file of {path.stat().st_size:,}")
    weights = {}
    for name, slot in expected.items():
        try:
            with np.errstate(over="raise"):
                weights[slot.name] = slot.ours(entries[name].read())
        except FloatingPointError:
            raise WeightsError(f"{path}: {name}: expected numbers that float32 holds") from None
    others = sorted({entries[name].dtype for name in expected} - {"float32"})
    return model, weights, [f"{dtype} became float32" for dtype in others]


def shown(text: str) -> str:
    """A name from a file as a message can show it."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
