"""Arithmetic: what the operators and methods of a tensor do; conversion between storages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import backend, kernels
from ..kernels import FLOATS, Array
from ..kernels.arguments import check_integer
from ..kernels.arithmetic import broadcast_shapes, check_axes, spread
from ..tensor import Function, Tensor, operations
from .shapes import index, reshape, transpose

Operand = Tensor | float | Any
"""A tensor, a number, or an array, which is a tensor without gradient."""
Axis = int | Sequence[int] | None

_GRADIENTS: dict[str, tuple[str, ...]] = {
    "add": ("dy", "dy"),
    "subtract": ("dy", "multiply dy -1"),
    "multiply": ("multiply dy b", "multiply dy a"),
    "divide": ("divide dy b", "divide_backward dy a b"),
    "power": ("power_backward_base dy a b", "power_backward_exponent dy a y"),
    "where": ("", "where a dy 0", "where a 0 dy"),
    "clip": ("clip_backward dy a b c", "", ""),
    "exp": ("multiply dy y",),
    "log": ("divide dy a",),
    "sqrt": ("sqrt_backward dy y",),
    "abs": ("abs_backward dy a",),
    "multiply_add": ("multiply dy b", "", ""),
    "scaled_tanh": ("scaled_tanh_backward dy a b c", "", ""),
    "abs_tanh": ("abs_tanh_backward dy a b c", "", ""),
    "double_relu": ("double_relu_backward dy a b", ""),
    "soft_relu": ("soft_relu_backward dy a",),
    "noisy_relu": ("relu y", ""),
    "equal": ("", ""),
    "not_equal": ("", ""),
    "less": ("", ""),
    "less_equal": ("", ""),
}
"""Of operations of ``kernels.broadcast`` the gradient of each operand: an operation on dy, operands and the result y;
"relu y" is that of a ReLU whose output is y; nothing where there is none."""
GRADIENTS = {name: tuple(tuple(rule.split()) for rule in rules) for name, rules in _GRADIENTS.items()}


@dataclass(eq=False)
class Cast(Function):
    dtype: Any

    def forward(self, x: Array) -> Array:
        self.source = x.dtype
        return kernels.cast(x, self.dtype)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.cast(dy, self.source),)


def cast(x: Tensor, dtype: Any) -> Tensor:
    """``kernels.cast`` on a tensor of any shape; the gradient comes back as x is stored."""
    return x if x.data.dtype == dtype else Cast.apply(x, dtype=dtype)


def summed(dx: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of an operand of that shape from that of what it was broadcast to."""
    if dx.shape == shape:
        return dx
    ahead = dx.ndim - len(shape)
    axes = [i for i, n in enumerate(dx.shape) if i < ahead or (shape[i - ahead] == 1 and n != 1)]
    return kernels.reduce_sum(dx, axes).reshape(shape)


@dataclass(eq=False)
class Broadcast(Function):
    """An operation of ``kernels.broadcast``; ``numbers`` has None where an operand is a tensor."""

    operation: str
    numbers: tuple[float | None, ...]

    def forward(self, *arrays: Array) -> Array:
        left = iter(arrays)
        values: list[Any] = [next(left) if number is None else number for number in self.numbers]
        y = kernels.broadcast(self.operation, *values)
        if True not in self.needs:
            return y
        places = [i for i, number in enumerate(self.numbers) if number is None]
        self.rules = [
            (GRADIENTS[self.operation][place] if need else (), values[place].shape)
            for place, need in zip(places, self.needs, strict=True)
        ]
        used = {word for rule, _ in self.rules for word in rule}
        self.values = {name: x for name, x in (*zip("abc", values, strict=False), ("y", y)) if name in used}
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        of_each = zip(self.rules, self.sources, strict=True)
        return tuple(self._gradient(dy, rule, shape, source) for (rule, shape), source in of_each)

    def _gradient(self, dy: Array, rule: tuple[str, ...], shape: tuple[int, ...], source: Any) -> Array | None:
        if not rule:
            return None
        if rule == ("relu", "y"):
            return kernels.relu_backward(dy, self.values["y"])
        if rule == ("dy",):  # memory of its own for what a user sees and may change
            dx = kernels.broadcast("copy", dy) if isinstance(source, Tensor) and dy.shape == shape else dy
        else:
            operation, *words = rule
            known = {"dy": dy, **self.values}
            dx = kernels.broadcast(operation, *(known[word] if word in known else float(word) for word in words))
        return summed(dx, shape)


def elementwise(name: str, operation: str, *operands: Operand) -> Tensor:
    """An operation of ``kernels.broadcast`` on tensors, arrays and numbers, at least one of them a tensor, in the name
    of a function: float32 where they are stored unlike."""
    values = tensors(name, operands)
    arrays = [x for x in values if isinstance(x, Tensor)]
    if any(x.dtype != arrays[0].dtype for x in arrays):
        values = [cast(x, np.float32) if isinstance(x, Tensor) else x for x in values]
    broadcast_shapes(name, *(x.shape for x in arrays))
    if not any(GRADIENTS[operation]):
        values = [x.detach() if isinstance(x, Tensor) else x for x in values]
    numbers = tuple(None if isinstance(x, Tensor) else x for x in values)
    return Broadcast.apply(*(x for x in values if isinstance(x, Tensor)), operation=operation, numbers=numbers)


def tensors(name: str, operands: Sequence[Operand]) -> list[Tensor | float]:
    """The operands of a function, arrays made tensors. TypeError for what is no number, tensor or array of floats."""
    values = list[Tensor | float]()
    for x in operands:
        if isinstance(x, (int, float, np.floating, np.integer)):
            values.append(float(x))
            continue
        if not isinstance(x, Tensor):
            if not backend.is_array(x):
                got = type(x).__name__
                raise TypeError(f"{name}: expected tensors, arrays and numbers, got {got}: Tensor(...) makes a tensor")
            x = Tensor(x)
        if x.dtype not in FLOATS:
            raise TypeError(
                f"{name}: expected float32 or bfloat16, got {x.dtype}: Tensor(numpy.asarray(x, numpy.float32)) has it"
            )
        values.append(x)
    return values


def add(a: Operand, b: Operand) -> Tensor:
    """a + b."""
    return elementwise("add", "add", a, b)


def subtract(a: Operand, b: Operand) -> Tensor:
    """a - b."""
    return elementwise("subtract", "subtract", a, b)


def multiply(a: Operand, b: Operand) -> Tensor:
    """a b, element by element."""
    return elementwise("multiply", "multiply", a, b)


def divide(a: Operand, b: Operand) -> Tensor:
    """a / b."""
    return elementwise("divide", "divide", a, b)


def power(a: Operand, b: Operand) -> Tensor:
    """a ** b. The exponent has a gradient where a is above 0; at 0 it is taken to be 0."""
    return elementwise("power", "power", a, b)


def equal(a: Operand, b: Operand) -> Tensor:
    """1 where a == b, else 0, stored as they are; without gradient, as all comparisons."""
    return elementwise("equal", "equal", a, b)


def not_equal(a: Operand, b: Operand) -> Tensor:
    """1 where a != b, else 0."""
    return elementwise("not_equal", "not_equal", a, b)


def less(a: Operand, b: Operand) -> Tensor:
    """1 where a < b, else 0."""
    return elementwise("less", "less", a, b)


def less_equal(a: Operand, b: Operand) -> Tensor:
    """1 where a <= b, else 0."""
    return elementwise("less_equal", "less_equal", a, b)


def where(condition: Operand, a: Operand, b: Operand) -> Tensor:
    """a where the condition is not 0, else b."""
    return elementwise("where", "where", condition, a, b)


def clip(x: Operand, low: float = -math.inf, high: float = math.inf) -> Tensor:
    """x, at least ``low`` and at most ``high``. The derivative is 0 at the bounds, as a ReLU's is at 0. ValueError for
    bounds in the other order."""
    if not low <= high:
        raise ValueError(f"clip: expected low <= high, got {low!r} and {high!r}")
    return elementwise("clip", "clip", x, low, high)


def exp(x: Operand) -> Tensor:
    """e ** x."""
    return elementwise("exp", "exp", x)


def log(x: Operand) -> Tensor:
    """The natural logarithm."""
    return elementwise("log", "log", x)


def sqrt(x: Operand) -> Tensor:
    """The square root."""
    return elementwise("sqrt", "sqrt", x)


def absolute(x: Operand) -> Tensor:
    """|x|, whose derivative at 0 is taken to be 0."""
    return elementwise("absolute", "abs", x)


# ---- reductions


def _one(name: str, x: Operand) -> Tensor:
    (value,) = tensors(name, [x])
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a Tensor, got {type(x).__name__}: Tensor(...) makes one")
    return value


@dataclass(eq=False)
class Reduce(Function):
    """Over ``axes``, which stay as axes of size 1 with ``keepdims``."""

    axes: tuple[int, ...]
    keepdims: bool

    def shaped(self, x: Array, y: Array) -> Array:
        """The result for x, after noting the shapes."""
        self.x_shape, self.y_shape = x.shape, y.shape
        self.kept = tuple(1 if axis in self.axes else n for axis, n in enumerate(x.shape))
        return y.reshape(self.kept) if self.keepdims else y


@dataclass(eq=False)
class Sum(Reduce):
    mean: bool

    def forward(self, x: Array) -> Array:
        return self.shaped(x, kernels.reduce_sum(x, self.axes, self.mean))

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        if self.mean:
            dy = kernels.broadcast("divide", dy, float(math.prod(self.x_shape[axis] for axis in self.axes) or 1))
        _, *strides = spread(self.kept, self.x_shape)
        return (kernels.gather(dy, self.x_shape, strides),)


class Max(Reduce):
    def forward(self, x: Array) -> Array:
        y, self.which = kernels.reduce_max(x, self.axes)
        return self.shaped(x, y)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (kernels.reduce_max_backward(dy.reshape(self.y_shape), self.which, self.x_shape, self.axes),)


def sum(x: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The sum over an axis, several or all, which go, or stay with size 1 if ``keepdims``."""
    x = _one("sum", x)
    return Sum.apply(x, axes=check_axes("sum", axis, len(x.shape)), keepdims=keepdims, mean=False)


def mean(x: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The mean over axes as of ``sum``. ValueError for that of nothing."""
    x = _one("mean", x)
    return Sum.apply(x, axes=check_axes("mean", axis, len(x.shape)), keepdims=keepdims, mean=True)


def max(x: Operand, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The maximum over axes as of ``sum``; the gradient goes to the first of equal ones. ValueError for that of
    nothing."""
    x = _one("max", x)
    return Max.apply(x, axes=check_axes("max", axis, len(x.shape)), keepdims=keepdims)


# ---- products


@dataclass(eq=False)
class Expand(Function):
    """To a shape that x broadcasts to."""

    shape: tuple[int, ...]

    def forward(self, x: Array) -> Array:
        self.x_shape = x.shape
        _, *strides = spread(x.shape, self.shape)
        return kernels.gather(x, self.shape, strides)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (summed(dy, self.x_shape),)


def broadcast_to(x: Operand, shape: tuple[int, ...]) -> Tensor:
    """A copy of x, repeated along the axes where it has size 1 or none. ValueError where x does not broadcast to the
    shape."""
    x = _one("broadcast_to", x)
    if broadcast_shapes("broadcast_to", x.shape, shape) != shape:
        raise ValueError(f"broadcast_to: expected a shape that {x.shape} broadcasts to, got {shape}")
    return x if x.shape == shape else Expand.apply(x, shape=shape)


@dataclass(eq=False)
class Upsample2d(Function):
    scale: int

    def forward(self, x: Array) -> Array:
        (N, H, W, C), scale = x.shape, self.scale
        wide = kernels.gather(x, (N * H * W, scale, C), (C, 0, 1))
        high = kernels.gather(wide, (N * H, scale, scale * W * C), (scale * W * C, 0, 1))
        return high.reshape(N, scale * H, scale * W, C)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        (N, OH, OW, C), scale = dy.shape, self.scale
        H, W = OH // scale, OW // scale
        rows = kernels.reduce_sum(dy.reshape(N * H, scale, OW * C), 1)
        return (kernels.reduce_sum(rows.reshape(N * H * W, scale, C), 1).reshape(N, H, W, C),)


def upsample2d(x: Tensor, scale: int = 2) -> Tensor:
    """Each pixel ``scale`` times in both directions, the nearest neighbour: (N, H, W, C) -> (N, scale H, scale W, C).
    ValueError for another number of axes."""
    x, scale = _one("upsample2d", x), check_integer("upsample2d", "scale", scale, 1)
    if len(x.shape) != 4:
        raise ValueError(f"upsample2d: expected x of shape (N, H, W, C), got {x.shape}")
    return Upsample2d.apply(x, scale=scale)


class MatMul(Function):
    """a (..., M, K) b (..., K, N), as many matrices of each."""

    def forward(self, a: Array, b: Array) -> Array:
        self.a, self.b = a, b
        return self._products(a, b, (*a.shape[:-1], b.shape[-1]))

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        need_a, need_b = self.needs
        da = self._products(dy, self.b, self.a.shape, transpose_b=True) if need_a else None
        db = self._products(self.a, dy, self.b.shape, transpose_a=True) if need_b else None
        return da, db

    def _products(
        self, a: Array, b: Array, shape: tuple[int, ...], transpose_a: bool = False, transpose_b: bool = False
    ) -> Array:
        """One after the other into an array of that shape."""
        if not a.size or not b.size:
            return backend.zeros(shape, a.dtype, self.device)
        if a.ndim == 2:
            return kernels.gemm(a, b, transpose_a, transpose_b)
        y = backend.empty(shape, a.dtype, self.device)
        many, size = math.prod(shape[:-2]), math.prod(shape[-2:])
        a, b = (x.reshape(many, *x.shape[-2:]) for x in (a, b))
        for i in range(many):
            kernels.scatter(y, kernels.gemm(a[i], b[i], transpose_a, transpose_b), (shape[-1], 1), i * size)
        return y


def matmul(a: Operand, b: Operand) -> Tensor:
    """a @ b: (..., M, K) times (..., K, N) -> (..., M, N), the axes before broadcasting. One matrix b for all of a is
    one product. ValueError for vectors and for other shapes."""
    a, b = _one("matmul", a), _one("matmul", b)
    if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[-1] != b.shape[-2]:
        hint = ": reshape vectors to (1, K) or (K, 1)" if 1 in (len(a.shape), len(b.shape)) else ""
        raise ValueError(f"matmul: expected (..., M, K) and (..., K, N), got {a.shape} and {b.shape}{hint}")
    if a.dtype != b.dtype:
        a, b = cast(a, np.float32), cast(b, np.float32)
    if len(b.shape) == 2 and len(a.shape) > 2:
        flat = reshape(a, (math.prod(a.shape[:-1]), a.shape[-1]))
        return reshape(MatMul.apply(flat, b), (*a.shape[:-1], b.shape[-1]))
    batch = broadcast_shapes("matmul", a.shape[:-2], b.shape[:-2])
    return MatMul.apply(broadcast_to(a, (*batch, *a.shape[-2:])), broadcast_to(b, (*batch, *b.shape[-2:])))


operations.update(
    add=add, subtract=subtract, multiply=multiply, divide=divide, power=power, matmul=matmul, equal=equal,
    not_equal=not_equal, less=less, less_equal=less_equal, absolute=absolute, sum=sum, mean=mean, max=max, exp=exp,
    log=log, sqrt=sqrt, clip=clip, reshape=reshape, transpose=transpose, index=index,
)  # fmt: skip
