"""Operators that move values and compute none; of whole numbers, too, of which shapes are made."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from ... import ops
from .graph import MOST_KEPT
from .layers import LARGEST_WINDOW, padded
from .operators import MANY, Result, operator
from .values import DTYPES, PHYSICAL, Call, Known, Value


def _axis(call: Call, axis: int, rank: int, end: int = 0) -> int:
    """An axis, or the place after them with ``end``, counted from the front."""
    if not -rank <= axis < rank + end:
        raise call.error(f"axis: expected one of {rank} axes, got {axis}")
    return axis % rank if axis < rank else axis


def _either(call: Call, place: int = 0) -> Value | Known:
    """An input that nodes compute, or that the file has the numbers of."""
    x = call.input(place)
    return x if isinstance(x, np.ndarray) else call.value(place)


def _reshaped(x: Value | Known, shape: Sequence[int]) -> Result:
    return Value(ops.reshape(x.plain(), tuple(shape))) if isinstance(x, Value) else x.reshape(shape)


@operator("Identity")
def _identity(call: Call) -> Result:
    return _either(call)


@operator("Cast", to=int, saturate=1, round_mode="up")
def _cast(call: Call) -> Result:
    x, to = _either(call), call["to"]
    if isinstance(x, np.ndarray) and to in DTYPES:
        return x.astype(DTYPES[to])
    if isinstance(x, Value) and to == 1:
        return x
    raise call.error(f"to: expected 1, float, got {to}")


@operator("DequantizeLinear", inputs=(2, 3), axis=1)
def _dequantize(call: Call) -> Result:
    """float32 from whole numbers of the file: (x - zero) scale, each along the axis or one for all."""
    x, scale = call.known(0), call.weights(1, 0, 1)
    zero = np.zeros((), x.dtype) if call.input(2) is None else call.known(2)
    if x.dtype.kind not in "iu" or not isinstance(scale, np.ndarray) or zero.dtype != x.dtype:
        raise call.error(f"expected whole numbers, a scale and a zero of their type, got {x.dtype} and {zero.dtype}")
    if scale.size == 1:
        along: tuple[int, ...] = ()
    else:
        axis = call["axis"] + (x.ndim if call["axis"] < 0 else 0)
        along = (-1, *(1,) * (x.ndim - 1 - axis)) if 0 <= axis < x.ndim else ()
        if not along or scale.size != x.shape[axis]:
            raise call.error(f"axis {call['axis']}: expected a scale for each of {x.shape}, got {scale.shape}")
    if zero.size not in (1, scale.size):
        raise call.error(f"expected a zero for each scale, got {zero.shape} and {scale.shape}")
    numbers = x.astype(np.int64) - zero.astype(np.int64).reshape(along if zero.size > 1 else ())
    made: Known = numbers.astype(np.float32) * scale.reshape(along)
    return made


@operator("Constant", inputs=(0, 0), value=np.ndarray)
def _constant(call: Call) -> Result:
    value: Known = call["value"]
    return value


@operator("ConstantOfShape", value=np.ndarray)
def _constant_of_shape(call: Call) -> Result:
    value = call["value"]
    value = np.zeros(1, np.float32) if value is None else value
    shape = tuple(int(n) for n in call.known(0).ravel())
    if value.size != 1 or len(shape) > 8 or min(shape, default=0) < 0 or math.prod(shape) > MOST_KEPT:
        raise call.error(f"expected one value and a shape of at most {MOST_KEPT:,} of it, got shape {shape}")
    return np.broadcast_to(value.reshape(()), shape)


@operator("Shape", start=0, end=int)
def _shape(call: Call) -> Result:
    return np.array(_either(call).shape[call["start"] : call["end"]], np.int64)


@operator("Flatten", axis=1)
def _flatten(call: Call) -> Result:
    x = call.value()
    axis = _axis(call, call["axis"], len(x.shape), 1)
    return _reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Reshape", inputs=(1, 2), allowzero=0, shape=list)
def _reshape(call: Call) -> Result:
    """A file that was written for a number of images means as many as there are."""
    x, shape = _either(call), call.integers("shape", 1) or []
    there, said = call.images
    if isinstance(x, Value) and shape and said and shape[0] == said and x.shape[:1] == (there,):
        shape[0] = there
    if not call["allowzero"]:
        shape = [x.shape[i] if n == 0 and i < len(x.shape) else n for i, n in enumerate(shape)]
    size, known = math.prod(x.shape), math.prod(n for n in shape if n != -1)
    if shape.count(-1) == 1 and known and size % known == 0:
        shape[shape.index(-1)] = size // known
    if min(shape, default=0) < 0 or math.prod(shape) != size:
        raise call.error(f"expected a shape of {size} values as {x.shape} has, got {shape}")
    return _reshaped(x, shape)


@operator("Squeeze", inputs=(1, 2), axes=list)
def _squeeze(call: Call) -> Result:
    x, axes = _either(call), call.integers("axes", 1)
    rank = len(x.shape)
    gone = {_axis(call, a, rank) for a in axes} if axes is not None else {i for i, n in enumerate(x.shape) if n == 1}
    if any(x.shape[axis] != 1 for axis in gone):
        raise call.error(f"axes: expected axes of size 1, got {axes} of shape {x.shape}")
    return _reshaped(x, [n for axis, n in enumerate(x.shape) if axis not in gone])


@operator("Unsqueeze", inputs=(1, 2), axes=list)
def _unsqueeze(call: Call) -> Result:
    x, axes = _either(call), call.integers("axes", 1) or []
    rank = len(x.shape) + len(axes)
    new = {_axis(call, axis, rank) for axis in axes}
    if len(new) != len(axes):
        raise call.error(f"axes: expected different ones, got {axes}")
    left = iter(x.shape)
    return _reshaped(x, [1 if axis in new else next(left) for axis in range(rank)])


@operator("Transpose", perm=list)
def _transpose(call: Call) -> Result:
    x = _either(call)
    rank = len(x.shape)
    order = list(reversed(range(rank))) if call["perm"] is None else call["perm"]
    if sorted(order) != list(range(rank)):
        raise call.error(f"perm: expected an order of {rank} axes, got {order}")
    if isinstance(x, np.ndarray):
        return x.transpose(order)
    if tuple(order) == PHYSICAL and not x.last:
        return Value(x.held, True)
    return Value(x.permuted(order))


@operator("Concat", inputs=(1, MANY), axis=int)
def _concat(call: Call) -> Result:
    arrays = [x for x in call.inputs if isinstance(x, np.ndarray)]
    if call["axis"] is None:
        raise call.error("axis: expected a whole number, got none")
    if len(arrays) == len(call.inputs):
        axis = _axis(call, call["axis"], arrays[0].ndim)
        if sum(array.size for array in arrays) > MOST_KEPT:
            raise call.error(f"expected at most {MOST_KEPT:,} numbers that the file has")
        return np.concatenate(arrays, axis)
    values = call.values()
    axis = _axis(call, call["axis"], len(values[0].shape))
    last = any(x.last for x in values)
    if last and any(len(x.shape) != 4 for x in values):
        raise call.error(f"expected inputs of 4 axes, got shapes {', '.join(str(x.shape) for x in values)}")
    held = [x.images() if last else x.held for x in values]
    return Value(ops.concat(held, PHYSICAL[axis] if last else axis), last)


@operator("Split", inputs=(1, 2), outputs=MANY, axis=0, split=list, num_outputs=int)
def _split(call: Call) -> Sequence[Result]:
    x, sizes = call.value(), call.integers("split", 1)
    axis = _axis(call, call["axis"], len(x.shape))
    whole, parts = x.shape[axis], call["num_outputs"] or len(call.node.outputs)
    if sizes is None:
        each = -(-whole // parts)
        sizes = [max(0, min(each, whole - i * each)) for i in range(parts)] if parts == len(call.node.outputs) else []
    if sum(sizes) != whole or min(sizes, default=0) < 1 or len(sizes) != len(call.node.outputs):
        expected = f"{len(call.node.outputs)} sizes above 0 whose sum is {whole}"
        raise call.error(f"split: expected {expected}, got {sizes or parts}")
    places = [slice(a, b) for a, b in itertools.pairwise([0, *itertools.accumulate(sizes)])]
    return [Value(ops.index(x.held, (*_all(x.axis(axis)), place)), x.last) for place in places]


def _all(axes: int) -> tuple[slice, ...]:
    return (slice(None),) * axes


@operator("Slice", inputs=(1, 5), starts=list, ends=list, axes=list, steps=list)
def _slice(call: Call) -> Result:
    x = _either(call)
    names = ("starts", "ends", "axes", "steps")
    starts, ends, axes, steps = (call.integers(name, place) for place, name in enumerate(names, 1))
    rank = len(x.shape)
    starts, ends = starts or [], ends or []
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise call.error(f"expected as many starts, ends, axes and steps, got {starts}, {ends}, {axes}, {steps}")
    places = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        n, axis = x.shape[_axis(call, axis, rank)], _axis(call, axis, rank)
        start = start + n if start < 0 else start
        end = end + n if end < 0 else end
        stop: int | None = min(max(end, -1 if step < 0 else 0), n)
        places[axis] = slice(min(max(start, 0), n - 1 if step < 0 else n), None if stop == -1 else stop, step)
    if isinstance(x, np.ndarray):
        return x[tuple(places)]
    held = [places[axis] for axis in (0, 2, 3, 1)] if x.last else places
    return Value(ops.index(x.held, tuple(held)), x.last)


@operator("Gather", inputs=(2, 2), axis=0)
def _gather(call: Call) -> Result:
    x, places = _either(call), call.known(1)
    axis = _axis(call, call["axis"], len(x.shape))
    n = x.shape[axis]
    if places.dtype.kind not in "iu" or ((places < -n) | (places >= n)).any() or places.size > MOST_KEPT:
        raise call.error(f"expected places along an axis of {n}, got {places.dtype} of shape {places.shape}")
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in "iu" or x.size * places.size > MOST_KEPT:
            raise call.error(f"expected a few whole numbers, got {x.dtype} of shape {x.shape}")
        return np.asarray(x.take(places, axis))
    if places.ndim:
        raise call.error(f"expected one place, got shape {places.shape}")
    return Value(ops.index(x.plain(), (*_all(axis), int(places))))


@operator("Pad", inputs=(1, 4), mode="constant", pads=list, value=0.0)
def _pad(call: Call) -> Result:
    x, pads, value, axes = call.value(0, 4), call.integers("pads", 1) or [], call.number("value", 2), call.input(3)
    if call["mode"] != "constant":
        raise call.error(f"mode: expected 'constant', got {call['mode']!r}")
    if axes is not None:
        raise call.error("expected paddings of all axes, got input 3 with some")
    if len(pads) != 8 or not all(0 <= n <= LARGEST_WINDOW for n in pads) or pads[0] or pads[1] or pads[4] or pads[5]:
        raise call.error(f"pads: expected 0 to {LARGEST_WINDOW} pixels around images, got {pads}")
    return Value(padded(x.images(), ((pads[2], pads[6]), (pads[3], pads[7])), value or 0.0), True)
