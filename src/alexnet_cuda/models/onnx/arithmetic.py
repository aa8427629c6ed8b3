"""Operators on elements, and reductions over axes: compositions of tensors' arithmetic, so each has its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import numpy as np

from ... import nn, ops
from ...tensor import Tensor
from .graph import MOST_KEPT, Blank, Held
from .layers import drawn, multiplied
from .operators import MANY, Result, operator
from .values import Call, Value, aligned

Binary = Callable[[Tensor, Tensor], Tensor]


class Operation(nn.Module):
    """An operation on the input and an array ``a``, a parameter if it is ``trained``, else a buffer. ``swapped``: the
    array comes first. ``last``: the next input has four axes N, C, H, W that are held as (N, H, W, C)."""

    def __init__(self, function: Binary, a: Held, trained: bool, swapped: bool, blank: float = 0.0) -> None:
        super().__init__()
        values = np.full(a.shape, blank, np.float32) if isinstance(a, Blank) else np.array(a, np.float32)
        self.function, self.swapped, self.last = function, swapped, False
        self.a = nn.Parameter(values) if trained else nn.Buffer(values)

    def forward(self, x: Tensor) -> Tensor:
        pair, _ = aligned([Value(x, self.last), Value(self.a)])
        return self.function(*reversed(pair) if self.swapped else pair)


def _with_kept(call: Call, x: Value) -> Value:
    """The layer's own operation on x."""
    layer = call.module
    assert isinstance(layer, Operation)
    if x.last and len(layer.a.shape) > 4:
        x = Value(x.plain())
    layer.last = x.last
    return Value(layer(x.held), x.last)


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return ops.where(ops.less(x, 0), x * slope, x)


BINARY: dict[str, Binary] = {
    "Add": ops.add,
    "Sub": ops.subtract,
    "Mul": ops.multiply,
    "Div": ops.divide,
    "Pow": ops.power,
    "PRelu": _prelu,
    "Sum": ops.add,
    "Mean": lambda a, b: (a + b) / 2,
    "Max": lambda a, b: ops.where(ops.less(a, b), b, a),
    "Min": lambda a, b: ops.where(ops.less(b, a), b, a),
}
BLANK = {"PRelu": 0.25, "Mul": 1.0, "Div": 1.0, "Pow": 1.0}
"""What an array begins with whose values are not known; others with 0."""
WHOLE: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.floor_divide
}  # fmt: skip
"""Of whole numbers that shapes are computed from, none of them negative where they are divided."""


def _make_operation(call: Call) -> nn.Module | None:
    """A layer where one operand is an array of the file and the other is computed."""
    held = [place for place, x in enumerate(call.inputs) if isinstance(x, np.ndarray | Blank)]
    if len(call.inputs) != 2 or len(held) != 1:
        return None
    name, (place,) = call.node.operator, held
    array = call.weights(place, *range(9))
    assert array is not None
    return Operation(BINARY[name], array, call.graph.trains(call.node), place == 0, BLANK.get(name, 0.0))


@operator(*WHOLE, "Pow", "PRelu", inputs=(2, 2), make=_make_operation)
def _binary(call: Call) -> Result:
    name = call.node.operator
    arrays = [x for x in call.inputs if isinstance(x, np.ndarray)]
    if len(arrays) == 2:
        return _of_arrays(call, *arrays)
    if call.module:
        x = call.value(1 if isinstance(call.input(0), np.ndarray | Blank) else 0)
        return _with_kept(call, x)
    pair, last = aligned(call.values())
    return Value(BINARY[name](*pair), last)


def _of_arrays(call: Call, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    name = call.node.operator
    if a.dtype.kind not in "iu" or b.dtype != a.dtype or name not in WHOLE:
        raise call.error(f"expected an operand that is computed from the images, got arrays of {a.dtype} and {b.dtype}")
    if math.prod(np.broadcast_shapes(a.shape, b.shape)) > MOST_KEPT:
        raise call.error(f"expected at most {MOST_KEPT:,} whole numbers, got shapes {a.shape} and {b.shape}")
    if name == "Div" and not ((a >= 0).all() and (b > 0).all()):
        raise call.error(f"expected whole numbers from 0 on over some above 0, got {a.min()} and more over {b.min()}")
    return np.asarray(WHOLE[name](a, b))


@operator("MatMul", inputs=(2, 2), make=lambda call: _make_matmul(call))
def _matmul(call: Call) -> Result:
    if isinstance(call.module, Operation):
        return Value(call.module(call.value().plain()))
    if call.module:
        return Value(multiplied(call, call.value().plain()))
    return Value(ops.matmul(call.value(0).plain(), call.value(1).plain()))


def _make_matmul(call: Call) -> nn.Module | None:
    """A fully connected layer where the second operand is one matrix of the file, else an operation."""
    b = call.input(1)
    if not isinstance(b, np.ndarray | Blank):
        return None
    if len(b.shape) != 2:
        array = call.weights(1, *range(2, 9))
        assert array is not None
        return Operation(ops.matmul, array, True, False)
    w = call.weights(1, 2)
    assert w is not None
    return nn.Linear(w.shape[0], w.shape[1], bias=False, weight_init=drawn(w, (1, 0)))


@operator("Sum", "Mean", "Max", "Min", inputs=(1, MANY), make=_make_operation)
def _variadic(call: Call) -> Result:
    name = call.node.operator
    if call.module:
        return _with_kept(call, call.value(1 if isinstance(call.input(0), np.ndarray | Blank) else 0))
    tensors, last = aligned(call.values())
    y = reduce(BINARY["Sum" if name == "Mean" else name], tensors)
    return Value(y / len(tensors) if name == "Mean" and len(tensors) > 1 else y, last)


# ---- functions of one element


def _elu(x: Tensor, alpha: float) -> Tensor:
    return ops.where(ops.less(x, 0), (ops.exp(ops.clip(x, high=0)) - 1) * alpha, x)


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": ops.absolute,
    "Neg": lambda x: -x,
    "Exp": ops.exp,
    "Log": ops.log,
    "Sqrt": ops.sqrt,
    "Reciprocal": lambda x: 1 / x,
    "Softplus": lambda x: ops.pointwise(x, "softrelu"),
    "Softsign": lambda x: x / (abs(x) + 1),
    "HardSwish": lambda x: x * ops.clip(x / 6 + 0.5, 0, 1),
}


@operator(*UNARY)
def _unary(call: Call) -> Result:
    x = call.value()
    return Value(UNARY[call.node.operator](x.held), x.last)


@operator("LeakyRelu", alpha=0.01)
def _leaky_relu(call: Call) -> Result:
    x = call.value()
    return Value(ops.where(ops.less(x.held, 0), x.held * call["alpha"], x.held), x.last)


@operator("Elu", alpha=1.0)
def _elu_of(call: Call) -> Result:
    x = call.value()
    return Value(_elu(x.held, call["alpha"]), x.last)


@operator("Selu", alpha=1.67326319217681884765625, gamma=1.05070102214813232421875)
def _selu(call: Call) -> Result:
    x = call.value()
    return Value(_elu(x.held, call["alpha"]) * call["gamma"], x.last)


@operator("ThresholdedRelu", alpha=1.0)
def _thresholded_relu(call: Call) -> Result:
    x = call.value()
    return Value(ops.where(ops.less(call["alpha"], x.held), x.held, 0), x.last)


@operator("HardSigmoid", alpha=0.2, beta=0.5)
def _hard_sigmoid(call: Call) -> Result:
    x = call.value()
    return Value(ops.clip(x.held * call["alpha"] + call["beta"], 0, 1), x.last)


@operator("Clip", inputs=(1, 3), min=float, max=float)
def _clip(call: Call) -> Result:
    x, low, high = call.value(), call.number("min", 1), call.number("max", 2)
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    return Value(ops.clip(x.held, min(low, high), high), x.last)


# ---- over axes


def softmax(call: Call) -> tuple[Tensor, Tensor, Value]:
    """x less its logarithmic sum of exponentials, and the axis's own exponentials over their sum; and the input. Before
    opset 13 all axes from ``axis`` on are one."""
    x, axis = call.value(), call["axis"]
    rank = len(x.shape)
    if axis is None:
        axis = 1 if call.graph.opset < 13 else -1
    if not -rank <= axis < rank:
        raise call.error(f"axis: expected one of {rank} axes, got {axis}")
    end = rank if call.graph.opset < 13 else axis % rank + 1
    axes = [x.axis(place) for place in range(axis % rank, end)]
    shifted = x.held - ops.max(x.held, axes, keepdims=True).detach()
    total = ops.sum(ops.exp(shifted), axes, keepdims=True)
    return shifted, total, x


@operator("Softmax", axis=int)
def _softmax(call: Call) -> Result:
    shifted, total, x = softmax(call)
    return Value(ops.exp(shifted) / total, x.last)


@operator("LogSoftmax", axis=int)
def _log_softmax(call: Call) -> Result:
    shifted, total, x = softmax(call)
    return Value(shifted - ops.log(total), x.last)


REDUCTIONS = {"ReduceMean": ops.mean, "ReduceSum": ops.sum, "ReduceMax": ops.max}


@operator(*REDUCTIONS, inputs=(1, 2), axes=list, keepdims=1, noop_with_empty_axes=0)
def _reduce(call: Call) -> Result:
    x, axes = call.value(), call.integers("axes", 1)
    rank = len(x.shape)
    if not axes and call["noop_with_empty_axes"]:
        return x
    axes = axes or list(range(rank))
    if not all(-rank <= axis < rank for axis in axes):
        raise call.error(f"axes: expected some of {rank} axes, got {axes}")
    y = Value(REDUCTIONS[call.node.operator](x.held, [x.axis(axis) for axis in axes], keepdims=True), x.last)
    if call["keepdims"]:
        return y
    gone = {axis % rank for axis in axes}
    return Value(ops.reshape(y.plain(), tuple(n for axis, n in enumerate(x.shape) if axis not in gone)))
