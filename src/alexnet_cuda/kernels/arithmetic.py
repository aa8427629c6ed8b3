"""Arithmetic on arrays that broadcast, copies of views, and reductions: what expressions of tensors consist of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from ..suggest import nearest
from .any_library import any_library
from .arguments import FLOATS, Array, check_array, check_integer, remembering, result_array

AXES = 4
"""As many has a kernel, after neighbouring axes that lie together in all arrays have become one."""
Shape = tuple[int, ...]
View = tuple[int, ...]
"""Where a view begins in its array, and its stride along each axis, in elements."""


@remembering
def contiguous(shape: Shape) -> Shape:
    """The strides of a C-contiguous array."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


@remembering
def broadcast_shapes(operation: str, *shapes: Shape) -> Shape:
    """The shape that all of them broadcast to by NumPy's rules. ValueError where there is none."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        listed = " and ".join(map(str, shapes))
        raise ValueError(
            f"{operation}: expected shapes that broadcast (from the last axis on, sizes equal or 1), got {listed}"
        ) from None


@remembering
def merged(operation: str, sizes: Shape, *views: View) -> tuple[Shape, tuple[View, ...]]:
    """The same elements in the same order with as few axes as can be. ValueError where a kernel has fewer."""
    axes: list[tuple[int, list[int]]] = []
    for size, *strides in zip(sizes, *(view[1:] for view in views), strict=True):
        if size == 1:
            continue
        if axes and all(outer == inner * size for outer, inner in zip(axes[-1][1], strides, strict=True)):
            axes[-1] = (axes[-1][0] * size, strides)
        else:
            axes.append((size, strides))
    if len(axes) > AXES:
        raise ValueError(
            f"{operation}: expected at most {AXES} axes after neighbours that lie together have become one, got "
            f"{len(axes)} of sizes {tuple(size for size, _ in axes)}: do it in two steps, or reshape before"
        )
    return (
        tuple(size for size, _ in axes),
        tuple((view[0], *(strides[i] for _, strides in axes)) for i, view in enumerate(views)),
    )


@remembering
def spread(shape: Shape, target: Shape) -> View:
    """An array of the shape as a view that has been broadcast to the target."""
    past = len(target) - len(shape)
    steps = (0 if size == 1 else stride for size, stride in zip(shape, contiguous(shape), strict=True))
    return (0, *((0,) * past), *steps)


class _Plan(NamedTuple):
    """What a launch goes over: the result's shape, merged axes, and the views of y and the operands."""

    shape: Shape
    sizes: Shape
    views: tuple[View, ...]


@remembering
def _plan(*shapes: Shape) -> _Plan:
    """Of operands of these shapes that broadcast."""
    shape = broadcast_shapes("broadcast", *shapes)
    own, spreads = (0, *contiguous(shape)), (spread(operand, shape) for operand in shapes)
    return _Plan(shape, *merged("broadcast", shape, own, *spreads))


def _launch(operation: str, y: Array, plan: _Plan, arrays: Sequence[Array | None], numbers: Sequence[float]) -> None:
    if 0 not in plan.shape:
        device, none = backend.device_of(y), (None,) * (4 - len(arrays))
        stream = backend.stream(device)
        backend.native(device).broadcast(y, *arrays, *none, operation, plan.sizes, plan.views, numbers, stream)


def _copy(name: str, y: Array, to: View, x: Array, source: View, sizes: Shape) -> None:
    """A view of x to a view of y, in the name of a function."""
    _launch("copy", y, _Plan(sizes, *merged(name, sizes, to, source)), [x], [0.0])


@any_library
def broadcast(
    operation: str,
    a: Array,
    b: Array | float | None = None,
    c: Array | float | None = None,
    d: Array | float | None = None,
    out: Array | None = None,
) -> Array:
    """An operation on arrays whose shapes broadcast by NumPy's rules, and on numbers in the place of some of them.
    Returns the shape that all broadcast to, stored as they are.

    ``operation``: of one operand copy, exp, log, sqrt, abs, soft_relu (log(1 + exp(a))); of two add, subtract,
    multiply, divide, power, equal, not_equal, less, less_equal (1 or 0), double_relu (a - b tanh(a / b)), noisy_relu
    (z = max(0, a) -> max(0, z + z b)); of three multiply_add (a b + c), where (b where a is not 0, else c), clip (a, at
    least b and at most c), scaled_tanh (b tanh(c a)), abs_tanh (its magnitude). Those called ``_backward`` have dy
    first, then the operands of the operation that their derivative needs, sqrt_backward its result y:
    divide_backward (dy, a, b) is that of b, power_backward_base (dy, a, b), power_backward_exponent (dy, a, y);
    clip_backward is 0 at the bounds, as a ReLU's.

    Operands, from a to d: any shapes, also empty, float32 or bfloat16, all alike. ValueError for another operation, for
    an operand too many, and where more than four axes remain after neighbouring ones have become one.

    >>> kernels.broadcast("multiply", floats([[1], [2]]), floats([10, 20]))
    array([[10., 20.],
           [20., 40.]], dtype=float32)
    """
    arity, device, first = _arity(operation), None, None
    arrays, numbers, shapes = list[Array | None](), list[float](), list[Shape]()
    for name, x in zip("abcd", (a, b, c, d), strict=True):
        if len(arrays) == arity:
            if x is not None:
                got = type(x).__name__
                raise ValueError(f"broadcast: {name}: expected None, as {operation} has {arity} operands, got {got}")
        elif isinstance(x, (int, float, np.floating, np.integer)):
            arrays.append(None)
            numbers.append(float(x))
            shapes.append(())
        else:
            where = check_array("broadcast", name, x, dtype=FLOATS if first is None else first.dtype, empty=True)
            if first is None:
                first, device = x, where
            elif where != device:
                raise ValueError(f"broadcast: {name}: expected an array on {device}, got one on {where}")
            arrays.append(x)
            numbers.append(0.0)
            shapes.append(x.shape)
    if first is None or device is None:
        raise TypeError(f"broadcast: a: expected a NumPy or CuPy array, got a {type(a).__name__}")
    plan = _plan(*shapes)
    y = result_array("broadcast", out, plan.shape, device, first.dtype)
    _launch(operation, y, plan, arrays, numbers)
    return y


@remembering
def _arity(operation: str) -> int:
    known: dict[str, int] = backend.native(backend.device("cpu")).broadcast_operations()
    if operation not in known:
        listed = ", ".join(sorted(known))
        raise ValueError(
            f"broadcast: operation: expected one of {listed}, got {operation!r}{nearest(str(operation), known)}"
        )
    return known[operation]


def _check_view(operation: str, size: int, shape: Any, strides: Any, offset: Any) -> tuple[Shape, View]:
    sizes = tuple(check_integer(operation, "shape", n, 0) for n in shape)
    steps = tuple(check_integer(operation, "strides", n, -(2**62), 2**62) for n in strides)
    if len(sizes) != len(steps):
        raise ValueError(f"{operation}: strides: expected {len(sizes)}, one for each axis, got {len(steps)}")
    first = check_integer(operation, "offset", offset, 0, 2**62)
    reach = [(n - 1) * step for n, step in zip(sizes, steps, strict=True)]
    low, high = first + sum(r for r in reach if r < 0), first + sum(r for r in reach if r > 0)
    if math.prod(sizes) and not 0 <= low <= high < size:
        raise ValueError(
            f"{operation}: expected a view inside of the array's {size} elements, got one from {low} to {high}"
        )
    return sizes, (first, *steps)


@any_library
def gather(x: Array, shape: Sequence[int], strides: Sequence[int], offset: int = 0, out: Array | None = None) -> Array:
    """A copy of a view: y[i, j ...] is the element ``offset + i strides[0] + j strides[1] ...`` of x, counted in the
    order of memory. Strides may be 0, for what is repeated, or negative. Returns ``shape``.

    x: any shape, float32 or bfloat16. ValueError for a view that leaves x, and as of ``broadcast`` for one of too many
    axes.

    >>> kernels.gather(floats([[1, 2, 3], [4, 5, 6]]), shape=(3, 2), strides=(1, 3))
    array([[1., 4.],
           [2., 5.],
           [3., 6.]], dtype=float32)
    """
    device = check_array("gather", "x", x, dtype=FLOATS, empty=True)
    sizes, view = _check_view("gather", x.size, shape, strides, offset)
    y = result_array("gather", out, sizes, device, x.dtype)
    _copy("gather", y, (0, *contiguous(sizes)), x, view, sizes)
    return y


@any_library
def scatter(y: Array, x: Array, strides: Sequence[int], offset: int = 0) -> Array:
    """Writes x into a view of y, in place: the inverse of ``gather``, whose arguments it has. Other elements of y stay.
    Returns y. ValueError, too, for a view that has two elements in one place.

    >>> kernels.scatter(np.zeros((2, 3), np.float32), floats([7, 8]), strides=(3,), offset=1)
    array([[0., 7., 0.],
           [0., 8., 0.]], dtype=float32)
    """
    device = check_array("scatter", "y", y, dtype=FLOATS, empty=True)
    where = check_array("scatter", "x", x, dtype=y.dtype, empty=True)
    if where != device:
        raise ValueError(f"scatter: x: expected an array on {device}, got one on {where}")
    sizes, view = _check_view("scatter", y.size, x.shape, strides, offset)
    _copy("scatter", y, view, x, (0, *contiguous(sizes)), sizes)
    return y


# ---- reductions


def check_axes(operation: str, axes: Any, ndim: int) -> tuple[int, ...]:
    """Axes counted from the front, in order; None means all. ValueError for one that is not there or comes twice."""
    if axes is None:
        return tuple(range(ndim))
    found = sorted(
        check_integer(operation, "axes", axis, -ndim, ndim - 1) % ndim
        for axis in (axes if isinstance(axes, (tuple, list)) else (axes,))
    )
    if len(set(found)) != len(found):
        raise ValueError(f"{operation}: axes: expected each axis once, got {axes}")
    return tuple(found)


class _Layout(NamedTuple):
    """How an array is reduced: its axes in this ``order`` are (outer, K, inner), and K goes."""

    order: Shape
    outer: int
    K: int
    inner: int
    result: Shape


@remembering
def _layout(sizes: Shape, axes: Shape) -> _Layout:
    """If the axes are not neighbours they come first."""
    first, kept = axes[0] if axes else 0, [axis for axis in range(len(sizes)) if axis not in axes]
    together = axes == tuple(range(first, first + len(axes)))
    before = first if together else 0
    result = tuple(sizes[axis] for axis in kept)
    K = math.prod(sizes[axis] for axis in axes)
    return _Layout(
        (*kept[:before], *axes, *kept[before:]), math.prod(result[:before]), K, math.prod(result[before:]), result
    )


def _permuted(x: Array, order: Shape) -> Array:
    """x with its axes in that order: itself where they are, else a copy."""
    if order == tuple(range(x.ndim)):
        return x
    strides = contiguous(x.shape)
    sizes, view = tuple(x.shape[axis] for axis in order), (0, *(strides[axis] for axis in order))
    y = backend.empty(sizes, x.dtype, backend.device_of(x))
    _copy("reduce", y, (0, *contiguous(sizes)), x, view, sizes)
    return y


@any_library
def reduce_sum(x: Array, axes: int | Sequence[int] | None = None, mean: bool = False) -> Array:
    """The sum over these axes (all without), or with ``mean`` the sum divided by how many values were summed: added in
    float32 in an order fixed by the shape. Returns the shape of the other axes, stored as x.

    x: any shape, float32 or bfloat16; a sum of nothing is 0. ValueError for the mean of nothing.

    >>> kernels.reduce_sum(floats([[1, 2], [3, 4]]), axes=0), kernels.reduce_sum(floats([1, 2]), mean=True)
    (array([4., 6.], dtype=float32), array(1.5, dtype=float32))
    """
    device = check_array("reduce_sum", "x", x, dtype=FLOATS, empty=True)
    order, outer, K, inner, result = _layout(x.shape, check_axes("reduce_sum", axes, x.ndim))
    if K == 0:
        if mean and 0 not in result:
            raise ValueError(f"reduce_sum: mean: expected values to take it of, got shape {x.shape} over axes {axes}")
        return backend.zeros(result, x.dtype, device)
    y = backend.empty(result, x.dtype, device)
    if y.size:
        native = backend.native(device)
        shape, x = native.Reduce(outer=outer, K=K, inner=inner), _permuted(x, order).reshape(outer, K, inner)
        workspace = backend.workspace(native.reduce_sum_workspace(shape), device)
        divisor = float(K) if mean else 1.0
        native.reduce_sum(y.reshape(outer, inner), x, shape, divisor, workspace, backend.stream(device))
    return y


@any_library
def reduce_max(x: Array, axes: int | Sequence[int] | None = None) -> tuple[Array, Array]:
    """The maximum over these axes (all without) and the first place where it is, counted in the order of the elements
    along these axes; NaN is larger than everything. Returns (y, which), y stored as x, which int32.

    x: any shape, float32 or bfloat16. ValueError for the maximum of nothing.

    >>> kernels.reduce_max(floats([[1, 5, 5], [9, 0, 3]]), axes=1)
    (array([5., 9.], dtype=float32), array([1, 0], dtype=int32))
    """
    device = check_array("reduce_max", "x", x, dtype=FLOATS, empty=True)
    order, outer, K, inner, result = _layout(x.shape, check_axes("reduce_max", axes, x.ndim))
    y, which = backend.empty(result, x.dtype, device), backend.empty(result, np.int32, device)
    if y.size and K == 0:
        raise ValueError(f"reduce_max: x: expected values to take the maximum of, got shape {x.shape} over axes {axes}")
    if y.size:
        native, two = backend.native(device), (outer, inner)
        shape, x = native.Reduce(outer=outer, K=K, inner=inner), _permuted(x, order).reshape(outer, K, inner)
        workspace = backend.workspace(native.reduce_max_workspace(shape), device)
        native.reduce_max(y.reshape(two), which.reshape(two), x, shape, workspace, backend.stream(device))
    return y, which


@any_library
def reduce_max_backward(
    dy: Array, which: Array, shape: Sequence[int], axes: int | Sequence[int] | None = None
) -> Array:
    """Gradient of ``reduce_max`` for x of that shape: dy where ``which`` says, 0 elsewhere. Returns ``shape``.

    >>> kernels.reduce_max_backward(floats([7, 8]), np.array([1, 0], np.int32), shape=(2, 3), axes=1)
    array([[0., 7., 0.],
           [8., 0., 0.]], dtype=float32)
    """
    operation = "reduce_max_backward"
    device = check_array(operation, "dy", dy, dtype=FLOATS, empty=True)
    check_array(operation, "which", which, dtype=np.int32, empty=True)
    sizes = tuple(check_integer(operation, "shape", n, 0) for n in shape)
    order, outer, K, inner, result = _layout(sizes, check_axes(operation, axes, len(sizes)))
    for name, array in (("dy", dy), ("which", which)):
        if array.shape != result:
            raise ValueError(f"{operation}: {name}: expected shape {result} for x {sizes}, got {array.shape}")
    dx = backend.empty(tuple(sizes[axis] for axis in order), dy.dtype, device)
    if dx.size:
        native, two = backend.native(device), (outer, inner)
        form, flat = native.Reduce(outer=outer, K=K, inner=inner), dx.reshape(outer, K, inner)
        native.reduce_max_backward(flat, dy.reshape(two), which.reshape(two), form, backend.stream(device))
    return _permuted(dx, tuple(order.index(axis) for axis in range(len(sizes))))
