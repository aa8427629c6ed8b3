"""Operations that move values and compute none."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from types import EllipsisType

import numpy as np

from .. import backend, kernels
from ..kernels import Array
from ..kernels.arithmetic import contiguous
from ..tensor import Function, Passthrough, Tensor, check_tensors

Place = int | slice | EllipsisType | None


@dataclass(eq=False)
class Reshape(Passthrough):
    target: tuple[int, ...]

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x.reshape(self.target)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (dy.reshape(self.shape),)


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same values in another shape; one -1 is inferred. Shares memory with x. ValueError for a shape of another
    number of values."""
    check_tensors("reshape", [x])
    size, known = math.prod(x.shape), math.prod(n for n in shape if n != -1)
    guessed = shape.count(-1)
    if min(shape, default=0) < -1 or guessed > 1 or (size % known if guessed and known else size != known or guessed):
        raise ValueError(f"reshape: expected a shape of {size} values as {x.shape} has, got {shape}")
    return Reshape.apply(x, target=shape)


def flatten(x: Tensor) -> Tensor:
    """(N, ...) -> (N, product of the rest), pixels in the order h, w, c."""
    return reshape(x, (x.shape[0], math.prod(x.shape[1:])))


class View(Function):
    """A copy of elements of x: of those that a view has."""

    def view(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """The view's shape, its strides and where it begins, in elements of an x of that shape."""
        raise NotImplementedError

    def forward(self, x: Array) -> Array:
        self.shape, self.dtype = x.shape, x.dtype
        target, self.strides, self.offset = self.view(x.shape)
        return kernels.gather(x, target, self.strides, self.offset)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        dx = backend.zeros(self.shape, self.dtype, self.device)
        return (kernels.scatter(dx, dy, self.strides, self.offset),)


@dataclass(eq=False)
class Transpose(View):
    order: tuple[int, ...]

    def view(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        strides = contiguous(shape)
        return tuple(shape[i] for i in self.order), tuple(strides[i] for i in self.order), 0


def transpose(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """The axes in another order, without ``axes`` in the reverse one: a copy. ValueError for what is no order of all
    axes."""
    check_tensors("transpose", [x])
    ndim = len(x.shape)
    order = tuple(reversed(range(ndim))) if axes is None else tuple(axes)
    if sorted(i + ndim * (i < 0) for i in order) != list(range(ndim)):
        raise ValueError(f"transpose: expected an order of {ndim} axes, got {order}")
    return Transpose.apply(x, order=order)


@dataclass(eq=False)
class Index(View):
    places: Place | tuple[Place, ...]

    def view(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        one = np.zeros(1, np.int8)  # of which every element of a view is a place that nobody reads
        everything = np.lib.stride_tricks.as_strided(one, shape, contiguous(shape))
        key = self.places if isinstance(self.places, tuple) else (self.places,)
        try:
            view = everything[key if Ellipsis in key else (*key, ...)]
        except IndexError as e:
            raise IndexError(f"index: {e}, got {self.places!r} for shape {shape}") from None
        return view.shape, view.strides, view.ctypes.data - one.ctypes.data if view.size else 0


def index(x: Tensor, places: Place | tuple[Place, ...]) -> Tensor:
    """What ``x[places]`` is for integers, slices, ``...`` and None, by NumPy's rules, as a copy. TypeError for other
    indices, IndexError for one that is out of range."""
    check_tensors("index", [x])
    for place in places if isinstance(places, tuple) else (places,):
        if isinstance(place, bool) or not isinstance(place, (int, np.integer, slice, EllipsisType, type(None))):
            raise TypeError(
                f"index: expected integers, slices, ... and None, got {type(place).__name__}: "
                "ops.where(condition, x, 0) chooses by a condition"
            )
    return Index.apply(x, places=places)


@dataclass(eq=False)
class Concat(Function):
    axis: int

    def forward(self, *xs: Array) -> Array:
        self.edges = [0, *itertools.accumulate(x.shape[self.axis] for x in xs)]
        shape = xs[0].shape[: self.axis], self.edges[-1], xs[0].shape[self.axis + 1 :]
        y = backend.empty((*shape[0], shape[1], *shape[2]), xs[0].dtype, self.device)
        strides = contiguous(y.shape)
        for first, x in zip(self.edges, xs, strict=False):
            kernels.scatter(y, x, strides, first * strides[self.axis])
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        strides = contiguous(dy.shape)
        parts = ((*dy.shape[: self.axis], b - a, *dy.shape[self.axis + 1 :]) for a, b in itertools.pairwise(self.edges))
        return tuple(
            kernels.gather(dy, part, strides, first * strides[self.axis]) if need else None
            for part, first, need in zip(parts, self.edges, self.needs, strict=False)
        )


def concat(xs: Sequence[Tensor], axis: int = -1) -> Tensor:
    """The xs joined along an axis, the last one unless told: (..., C1), (..., C2), ... -> (..., C1 + C2 + ...).
    ValueError for none, and for shapes that differ elsewhere."""
    xs = list(xs)
    check_tensors("concat", xs)
    if not xs or not -len(xs[0].shape) <= axis < len(xs[0].shape):
        shapes = "no tensors" if not xs else f"axis {axis} of shape {xs[0].shape}"
        raise ValueError(f"concat: expected tensors and one of their axes, got {shapes}")
    place = axis % len(xs[0].shape)
    others = [(*x.shape[:place], *x.shape[place + 1 :], x.dtype) for x in xs]
    if any(other != others[0] or len(x.shape) != len(xs[0].shape) for other, x in zip(others, xs, strict=True)):
        listed = " and ".join(f"{x.shape} {x.dtype}" for x in xs)
        raise ValueError(f"concat: expected shapes that are equal but for axis {axis}, stored alike, got {listed}")
    return Concat.apply(*xs, axis=place)


@dataclass(eq=False)
class TakeChannels(Function):
    order: np.ndarray

    def forward(self, x: Array) -> Array:
        return x.take(backend.constant(self.order.ravel(), self.device), axis=-1)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        places = backend.constant(np.argsort(self.order, axis=1), self.device)
        parts = np.split(dy, len(self.order), axis=-1)
        taken = (part.take(p, axis=-1) for part, p in zip(parts, places, strict=True))
        return (reduce(partial(kernels.broadcast, "add"), taken),)


def take_channels(x: Tensor, order: np.ndarray) -> Tensor:
    """Channels in another order, as often as it names them: x (..., C), each row of order (R, C) a permutation of the
    channels -> (..., R C)."""
    return TakeChannels.apply(x, order=order)


def subsample(x: Tensor, start: int, stride: int) -> Tensor:
    """Every stride-th pixel from ``start`` on, both ways: (N, H, W, C) -> (N, OH, OW, C)."""
    pixels = slice(start, None, stride)
    return index(x, (slice(None), pixels, pixels))
