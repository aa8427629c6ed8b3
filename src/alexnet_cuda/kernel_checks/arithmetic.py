"""Arithmetic on arrays that broadcast, copies of views, and reductions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import kernels
from ..models.layers import Conv2d
from .bounds import Floats, Sums, rounding_error, sum_error
from .check import Cases, Check, Trial, Values
from .drawn import numbers, places
from .layers import Scope, outputs
from .product import STORED

Shape = tuple[int, ...]


class Formula(NamedTuple):
    """What an operation of ``kernels.broadcast`` computes; the roundings that a result has behind it, as a multiple of
    ``magnitude`` (the result's where it is None); which operands must be positive, and whether they are whole."""

    value: Callable[..., Any]
    roundings: float = 0
    magnitude: Callable[..., Any] | None = None
    positive: str = ""
    whole: bool = False

    @property
    def arity(self) -> int:
        """How many operands there are."""
        return len(inspect.signature(self.value).parameters)


def _power_backward_base(dy: Floats, a: Floats, b: Floats) -> Floats:
    return np.where(b == 0, 0.0, dy * b * a ** (b - 1))


# CUDA's documentation: expf, tanhf and log1pf are right to 2 units in the last place (four roundings), logf to 1, powf
# to 4; a quotient or product in front moves an argument by one rounding, which moves tanh(x) by less than itself.
FORMULAS: dict[str, Formula] = {
    "copy": Formula(lambda a: a),
    "add": Formula(lambda a, b: a + b, 1),
    "subtract": Formula(lambda a, b: a - b, 1),
    "multiply": Formula(lambda a, b: a * b, 1),
    "multiply_add": Formula(lambda a, b, c: a * b + c, 2, lambda a, b, c: abs(a * b) + abs(c)),
    "divide": Formula(lambda a, b: a / b, 1),
    "divide_backward": Formula(lambda dy, a, b: -dy * a / b**2, 3),
    "power": Formula(lambda a, b: a**b, 8, positive="a"),
    "power_backward_base": Formula(_power_backward_base, 11, positive="b"),
    "power_backward_exponent": Formula(lambda dy, a, y: dy * y * np.log(a), 4, positive="b"),
    "equal": Formula(lambda a, b: a == b, whole=True),
    "not_equal": Formula(lambda a, b: a != b, whole=True),
    "less": Formula(lambda a, b: a < b, whole=True),
    "less_equal": Formula(lambda a, b: a <= b, whole=True),
    "where": Formula(lambda a, b, c: np.where(a != 0, b, c), whole=True),
    "clip": Formula(lambda x, low, high: np.clip(x, low, high)),
    "clip_backward": Formula(lambda dy, x, low, high: dy * ((x > low) & (x < high)), whole=True),
    "exp": Formula(lambda a: np.exp(a), 4),
    "log": Formula(lambda a: np.log(a), 2, positive="a"),
    "sqrt": Formula(lambda a: np.sqrt(a), 1, positive="a"),
    "sqrt_backward": Formula(lambda dy, y: dy / (2 * y), 1),
    "abs": Formula(lambda a: abs(a)),
    "abs_backward": Formula(lambda dy, x: dy * np.sign(x), whole=True),
    "scaled_tanh": Formula(lambda x, a, b: a * np.tanh(b * x), 6),
    "scaled_tanh_backward": Formula(
        lambda dy, x, a, b: dy * a * b * (1 - np.tanh(b * x) ** 2), 16,
        lambda dy, x, a, b: abs(dy * a * b) * (1 + np.tanh(b * x) ** 2),
    ),
    "abs_tanh": Formula(lambda x, a, b: a * abs(np.tanh(b * x)), 6),
    "abs_tanh_backward": Formula(
        lambda dy, x, a, b: dy * a * b * np.sign(b * x) * (1 - np.tanh(b * x) ** 2), 16,
        lambda dy, x, a, b: abs(dy * a * b) * (1 + np.tanh(b * x) ** 2),
    ),
    "double_relu": Formula(
        lambda x, a: x - a * np.tanh(x / a), 8, lambda x, a: abs(x) + abs(a * np.tanh(x / a))
    ),
    "double_relu_backward": Formula(lambda dy, x, a: dy * np.tanh(x / a) ** 2, 12),
    "soft_relu": Formula(lambda x: np.logaddexp(0, x), 8),
    "soft_relu_backward": Formula(
        lambda dy, x: dy * (1 + np.tanh(x / 2)) / 2, 8, lambda dy, x: abs(dy) * (1 + abs(np.tanh(x / 2)))
    ),
    "noisy_relu": Formula(
        lambda x, noise: np.maximum(np.maximum(x, 0) * (1 + noise), 0), 3,
        lambda x, noise: np.maximum(x, 0) * (1 + abs(noise)),
    ),
}  # fmt: skip
OPERANDS: tuple[tuple[Shape, ...], ...] = (
    ((1,),) * 4,
    ((4097,),) * 4,
    ((3, 5, 7, 97), (97,), (5, 1, 97), (3, 1, 1, 1)),
    ((2, 1, 3), (5, 1), (2, 5, 3), ()),
)
REDUCED: tuple[tuple[Shape, Shape], ...] = (
    ((1,), (0,)),
    ((4097,), (0,)),
    ((3, 65, 7), (1,)),
    ((64, 33), (0,)),
    ((33, 300), (1,)),
    ((4, 5, 3, 7), (0, 2)),
)


def bound(formula: Formula, operands: list[Floats], value: Floats) -> Floats | float:
    """How far a float32 result may be from the formula's value."""
    if not formula.roundings:
        return 0.0
    return rounding_error(abs(value) if formula.magnitude is None else formula.magnitude(*operands), formula.roundings)


def checks(scope: Scope) -> Iterator[Check]:
    largest = [(batch, *max(outputs(Conv2d), key=math.prod)) for batch in scope.batches]
    for way, dtype in STORED.items():
        cases: Cases = [
            (f"{name} of {shapes[: formula.arity]}", partial(broadcast, dtype, name, shapes[: formula.arity]))
            for name, formula in FORMULAS.items()
            for shapes in OPERANDS
        ]
        yield Check(kernels.broadcast, way, cases)
        yield Check(kernels.gather, way, [("3x5x4", partial(gather, dtype)), ("3x5x4", partial(gather, dtype))])
        yield Check(kernels.scatter, way, [("3x5x4", partial(scatter, dtype)), ("3x5x4", partial(scatter, dtype))])
        for kernel, trial in (
            (kernels.reduce_sum, reduce_sum),
            (kernels.reduce_max, reduce_max),
            (kernels.reduce_max_backward, reduce_max_backward),
        ):
            small: Cases = [(f"{'x'.join(map(str, s))} over {a}", partial(trial, dtype, s, a)) for s, a in REDUCED]
            yield Check(kernel, way, small)
            for shape in largest:
                over = (0, 1, 2)
                yield Check(kernel, way, [("x".join(map(str, shape)), partial(trial, dtype, shape, over))])
        for shape in largest:
            yield Check(
                kernels.broadcast, way, [("x".join(map(str, shape)), partial(broadcast, dtype, "add", (shape, shape)))]
            )


def broadcast(dtype: DTypeLike, operation: str, shapes: tuple[Shape, ...]) -> Trial:
    formula = FORMULAS[operation]
    drawn = {}
    for name, shape in zip("abcd", shapes, strict=False):
        x = numbers(name, *shape, dtype=dtype, whole=formula.whole)
        drawn[name] = abs(x) if name in formula.positive else x
    shape = np.broadcast_shapes(*shapes)
    where = places(math.prod(shape))
    wide = [np.broadcast_to(x, shape).reshape(-1)[where].astype(np.float64) for x in drawn.values()]
    value = np.asarray(formula.value(*wide), np.float64)
    return Trial({"operation": operation, **drawn}, {"y": Values(where, value, bound(formula, wide, value))}, ("y",))


def _every(array: NDArray[Any]) -> Values:
    return Values(np.arange(array.size), array.reshape(-1).astype(np.float64))


def gather(dtype: DTypeLike) -> Trial:
    """Rows and columns exchanged, every second channel, backwards, each image twice."""
    x = numbers("x", 3, 5, 4, dtype=dtype)
    y = np.broadcast_to(x.transpose(1, 0, 2)[..., ::-2], (2, 5, 3, 2))
    return Trial({"x": x, "shape": y.shape, "strides": (0, 4, 20, -2), "offset": 3}, {"y": _every(y)}, returns=("y",))


def scatter(dtype: DTypeLike) -> Trial:
    y, x = numbers("y", 3, 5, 4, dtype=dtype), numbers("x", 5, 3, 2, dtype=dtype)
    expected = y.copy()
    expected.transpose(1, 0, 2)[..., ::-2] = x
    arguments = {"y": y, "x": x, "strides": (4, 20, -2), "offset": 3}
    return Trial(arguments, {"y": _every(expected)}, written=("y",))


def reduce_sum(dtype: DTypeLike, shape: Shape, axes: Shape) -> Trial:
    x = numbers("x", *shape, dtype=dtype)
    terms = np.moveaxis(x, axes, range(len(axes))).reshape(math.prod(shape[axis] for axis in axes), -1)
    where = places(terms.shape[1])
    sums = Sums.over(terms[:, where], 0)
    count = len(terms)
    mean = Sums(sums.value / count, sums.magnitude / count, sums.squares / count**2)
    y = Values(where, mean.value, sum_error(mean, count + 1))
    return Trial({"x": x, "axes": axes, "mean": True}, {"y": y}, returns=("y",))


def reduce_max(dtype: DTypeLike, shape: Shape, axes: Shape) -> Trial:
    x = numbers("x", *shape, dtype=dtype)
    columns = np.moveaxis(x, axes, range(len(axes))).reshape(math.prod(shape[axis] for axis in axes), -1)
    where = places(columns.shape[1])
    some = columns[:, where].astype(np.float64)
    return Trial(
        {"x": x, "axes": axes},
        {"y": Values(where, some.max(0)), "which": Values(where, some.argmax(0))},
        returns=("y", "which"),
    )


def reduce_max_backward(dtype: DTypeLike, shape: Shape, axes: Shape) -> Trial:
    kept = tuple(n for axis, n in enumerate(shape) if axis not in axes)
    count = math.prod(shape[axis] for axis in axes)
    dy = numbers("dy", *kept, dtype=dtype)
    which = (np.arange(dy.size, dtype=np.int32) * 7 % count).reshape(kept).astype(np.int32)
    columns = (np.arange(count)[:, None] == which.reshape(-1)) * dy.reshape(-1).astype(np.float64)
    first = tuple(shape[axis] for axis in axes)
    dx = np.moveaxis(columns.reshape(*first, *kept), range(len(axes)), axes).reshape(-1)
    where = places(dx.size)
    arguments = {"dy": dy, "which": which, "shape": shape, "axes": axes}
    return Trial(arguments, {"dx": Values(where, dx[where])}, returns=("dx",))
