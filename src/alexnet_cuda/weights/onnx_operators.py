"""Each operation as nodes of ONNX: ``WRITERS``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import backend, kernels
from ..files import WeightsError
from ..kernels.arguments import check_padding, check_pair
from ..ops import arithmetic, convolution, elementwise, normalisation, pooling, products, shapes
from ..tensor import Copy, Function
from .layout import inside, past_end
from .onnx_nodes import TO_CHANNELS_LAST, Nodes, Value

Laid: TypeAlias = tuple[bool, str]
"""Whether a result is channels first, and its name."""
Writer = Callable[[Nodes, Any, Sequence[Any], Value], Laid]
"""From an operation, its inputs (Values, or None), and its output without names, to nodes."""
FLOAT, BOOL = 1, 9  # onnx.TensorProto's
IN_FIRST = TO_CHANNELS_LAST
"""Where our axes are in what is channels first."""
LARGEST = 2**63 - 1


def write(g: Nodes, f: Function, inputs: Sequence[Value | None], y: Value) -> None:
    """Appends an operation's nodes, and names its output. WeightsError where ONNX has none."""
    if type(f) not in WRITERS:
        raise WeightsError(
            f"{g.at}: ONNX has no such operation: networks of those in alexnet_cuda.ops and layers in alexnet_cuda.nn "
            "can be written"
        )
    if 0 in y.shapes[0]:
        raise WeightsError(f"{g.at}: expected a result with values, got shape {y.shapes[0]}")
    first, name = WRITERS[type(f)](g, f, inputs, y)
    y.names[first] = name


def images(xs: Sequence[Value | None], y: Value) -> bool:
    """Whether to compute channels first what has that number of axes: where one of the inputs is so."""
    return y.rank == 4 and any(x is not None and x.rank == 4 and x.first for x in xs)


# ---- element by element

Add = Callable[..., str]
ELEMENTWISE = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "power": "Pow",
    "clip": "Clip",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "soft_relu": "Softplus",
}
"""Operations of ``kernels.broadcast`` that ONNX has."""
COMPOSED: dict[str, Callable[..., str]] = {
    "where": lambda add, condition, a, b: add("Where", add("Cast", condition, to=BOOL), a, b),
    "multiply_add": lambda add, x, a, b: add("Add", add("Mul", x, a), b),
    "scaled_tanh": lambda add, x, a, b: add("Mul", add("Tanh", add("Mul", x, b)), a),
    "abs_tanh": lambda add, x, a, b: add("Abs", add("Mul", add("Tanh", add("Mul", x, b)), a)),
    "double_relu": lambda add, x, a: add("Sub", x, add("Mul", add("Tanh", add("Div", x, a)), a)),
    "noisy_relu": lambda add, x, noise: _noisy(add, add("Relu", x), noise),
    "equal": lambda add, a, b: add("Cast", add("Equal", a, b), to=FLOAT),
    "not_equal": lambda add, a, b: add("Cast", add("Not", add("Equal", a, b)), to=FLOAT),
    "less": lambda add, a, b: add("Cast", add("Less", a, b), to=FLOAT),
    "less_equal": lambda add, a, b: add("Cast", add("LessOrEqual", a, b), to=FLOAT),
}
"""The others, from what appends a node, and operands."""


def _noisy(add: Add, z: str, noise: Any) -> str:
    return add("Relu", add("Add", z, add("Mul", z, noise)))


def _broadcast(g: Nodes, f: arithmetic.Broadcast, xs: Sequence[Value], y: Value) -> Laid:
    first = images(xs, y)
    arrays = iter(xs)
    operands = [g.beside(next(arrays), first) if number is None else number for number in f.numbers]
    if f.operation in ELEMENTWISE:
        return first, g.add(ELEMENTWISE[f.operation], *operands)
    return first, COMPOSED[f.operation](g.add, *operands)


def _activation(operator: str) -> Writer:
    def activation(g: Nodes, f: Function, xs: Sequence[Value], y: Value) -> Laid:
        return xs[0].first, g.add(operator, g.name(xs[0], xs[0].first))

    return activation


def _same(g: Nodes, f: Function, xs: Sequence[Value], y: Value) -> Laid:
    return xs[0].first, g.name(xs[0], xs[0].first)


def _dropout(g: Nodes, f: elementwise.Dropout, xs: Sequence[Value], y: Value) -> Laid:
    if f.options["training"]:
        raise WeightsError(f"{g.at}: ONNX is written of evaluation, in which this one drops, too")
    first, name = _same(g, f, xs, y)
    return first, g.add("Mul", name, 1 - f.options["p"]) if f.options["form"] == "paper" else name


def _weighted_sum(g: Nodes, f: elementwise.WeightedSum, inputs: Sequence[Value | None], y: Value) -> Laid:
    *xs, b = inputs
    first, total = images(xs, y), ""
    for x, factor in zip(xs, f.coefficients, strict=True):
        assert x is not None
        term = g.name(x, first) if factor == 1 else g.add("Mul", g.name(x, first), factor)
        total = g.add("Add", total, term) if total else term
    if b is not None:
        total = g.add("Add", total, g.beside(b, first))
    return first, _rectified(g, f.relu, total)


def _rectified(g: Nodes, relu: bool, name: str) -> str:
    return g.add("Relu", name) if relu else name


# ---- values that move


def _reshape(g: Nodes, f: shapes.Reshape, xs: Sequence[Value], y: Value) -> Laid:
    (x,) = xs
    if y.shapes == x.shapes:
        return _same(g, f, xs, y)
    if y.rank == 2 and x.rank and all(a[0] == b[0] for a, b in zip(x.shapes, y.shapes, strict=True)):
        return False, g.add("Flatten", g.name(x))
    return False, g.add("Reshape", g.name(x), g.shape(y.shapes))


def _transpose(g: Nodes, f: shapes.Transpose, xs: Sequence[Value], y: Value) -> Laid:
    return False, g.add("Transpose", g.name(xs[0]), perm=[axis % y.rank for axis in f.order])


def _index(g: Nodes, f: shapes.Index, xs: Sequence[Value], y: Value) -> Laid:
    (x,) = xs
    places: list[Any] = list(f.places) if isinstance(f.places, tuple) else [f.places]
    if not any(isinstance(place, EllipsisType) for place in places):
        places.append(...)
    at = next(i for i, place in enumerate(places) if isinstance(place, EllipsisType))
    places[at : at + 1] = [slice(None)] * (x.rank - sum(place is not None for place in places) + 1)
    first = x.first and all(isinstance(place, slice) for place in places)
    axis, starts, stops, axes, steps = 0, list[int](), list[int](), list[int](), list[int]()
    gone, new = list[int](), list[int]()
    for place in places:
        if place is None:
            new.append(axis - len(gone) + len(new))
            continue
        if not isinstance(place, slice):
            gone.append(axis)
            place = slice(int(place), int(place) + 1 or None)
        step = 1 if place.step is None else int(place.step)
        if place != slice(None):
            low, high = (0, LARGEST) if step > 0 else (LARGEST, -LARGEST)
            starts.append(low if place.start is None else int(place.start))
            stops.append(high if place.stop is None else int(place.stop))
            axes.append(IN_FIRST[axis] if first else axis)
            steps.append(step)
        axis += 1
    name = g.name(x, first)
    if axes:
        name = g.add("Slice", name, *map(g.integers, (starts, stops, axes, steps)))
    if gone:
        name = g.add("Squeeze", name, g.integers(gone))
    return first, g.add("Unsqueeze", name, g.integers(new)) if new else name


def _concat(g: Nodes, f: shapes.Concat, xs: Sequence[Value], y: Value) -> Laid:
    first = images(xs, y)
    names = [g.name(x, first) for x in xs]
    return first, g.add("Concat", *names, axis=IN_FIRST[f.axis] if first else f.axis)


def _take_channels(g: Nodes, f: shapes.TakeChannels, xs: Sequence[Value], y: Value) -> Laid:
    first, order = images(xs, y), g.integers(f.order.ravel().tolist())
    return first, g.add("Gather", g.name(xs[0], first), order, axis=1 if first else y.rank - 1)


def _expand(g: Nodes, f: arithmetic.Expand, xs: Sequence[Value], y: Value) -> Laid:
    """To ones where the size stays, as the shape broadcasts with the input's."""
    (x,) = xs
    target = [
        tuple(1 if n == m else n for n, m in zip(after, (*(1,) * (y.rank - x.rank), *before), strict=True))
        for before, after in zip(x.shapes, y.shapes, strict=True)
    ]
    return False, g.add("Expand", g.name(x), g.shape(target, infer=False))


def _upsample(g: Nodes, f: arithmetic.Upsample2d, xs: Sequence[Value], y: Value) -> Laid:
    options: dict[str, Any] = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    return True, g.add("Resize", g.name(xs[0], True), "", [1, 1, f.scale, f.scale], **options)


def _reduce(operator: Callable[[Any], str]) -> Writer:
    def reduce(g: Nodes, f: arithmetic.Reduce, xs: Sequence[Value], y: Value) -> Laid:
        (x,) = xs
        if not f.axes:
            return _same(g, f, xs, y)
        left = [axis for axis in range(4) if axis not in f.axes]
        first = x.first and (f.keepdims or [IN_FIRST[axis] for axis in left] == sorted(IN_FIRST[axis] for axis in left))
        axes = [IN_FIRST[axis] if first else axis for axis in f.axes]
        name, options = g.name(x, first), {"keepdims": int(f.keepdims)}
        if operator(f) == "ReduceSum" or g.export.opset >= 18:
            y_name = g.add(operator(f), name, g.integers(axes), **options)
        else:
            y_name = g.add(operator(f), name, axes=axes, **options)
        return first and f.keepdims, y_name

    return reduce


# ---- products


def _matmul(g: Nodes, f: arithmetic.MatMul, xs: Sequence[Value], y: Value) -> Laid:
    return False, g.add("MatMul", *map(g.weights_of, xs))


def _linear(g: Nodes, f: products.Linear, inputs: Sequence[Value | None], y: Value) -> Laid:
    x, w, b = inputs
    assert x is not None and w is not None
    if f.w_scale is not None:
        raise WeightsError(f"{g.at}: expected weights in float32, from which --int8 makes its own, got int8")
    bias = [] if b is None else [g.name(b)]
    return False, _rectified(g, f.relu, g.add("Gemm", g.name(x), g.matrix_of(w), *bias, transB=1))


def _conv2d(g: Nodes, f: convolution.Conv2d, inputs: Sequence[Value | None], y: Value) -> Laid:
    x, w, b = inputs
    assert x is not None and w is not None
    window = _window(g, w.shapes[0][1:3], f.stride, f.padding, x, y)
    bias = [] if b is None else [g.name(b)]
    name = g.add("Conv", g.name(x, True), g.weights_of(w, True), *bias, group=f.groups, **window)
    return True, _rectified(g, f.relu, name)


def _local2d(g: Nodes, f: convolution.Local2d, inputs: Sequence[Value | None], y: Value) -> Laid:
    """A convolution that only gathers each window's values, then a product per pixel."""
    x, filters, b = inputs
    assert x is not None and filters is not None
    if filters.array is None:
        raise WeightsError(f"{g.at}: expected filters that do not depend on the images")
    OH, OW, K, KH, KW, _ = filters.shapes[0]
    C = g.image(x)[2]
    one_each = np.tile(np.eye(KH * KW, dtype=np.float32).reshape(-1, 1, KH, KW), (C, 1, 1, 1))
    window = _window(g, (KH, KW), f.stride, f.padding, x, y)
    gathered = g.add("Conv", g.name(x, True), one_each, group=C, **window)  # (N, C KH KW, OH, OW)
    w = np.zeros((OH, OW, C, KH, KW, K), np.float32)
    for c, k in zip(np.split(np.arange(C), f.groups), np.split(np.arange(K), f.groups), strict=True):
        w[:, :, c[0] : c[-1] + 1, ..., k[0] : k[-1] + 1] = filters.array[:, :, k].transpose(0, 1, 5, 3, 4, 2)
    rows = g.add("Transpose", gathered, perm=[2, 3, 0, 1])
    name = g.add("MatMul", rows, g.stored(w.reshape(OH, OW, -1, K)))  # (OH, OW, N, K)
    name = g.add("Transpose", name, perm=[2, 3, 0, 1])
    return True, _rectified(g, f.relu, name if b is None else g.add("Add", name, g.beside(b, True)))


# ---- windows


def _window(g: Nodes, size: Sequence[int], stride: Any, padding: Any, x: Value, y: Value) -> dict[str, Any]:
    """Attributes of windows. Those that reach past the end, by the ceil rule, get that much padding there."""
    strides, pads = check_pair("", "", stride, 1), check_padding("", padding)
    ends = [
        max(after, past_end(side, step, before, pixels, count))
        for side, step, (before, after), pixels, count in zip(size, strides, pads, g.image(x), g.image(y), strict=False)
    ]
    return {"kernel_shape": size, "strides": strides, "pads": [pads[0][0], pads[1][0], *ends]}


def _pool_window(g: Nodes, size: Any, stride: Any, padding: Any, x: Value, y: Value) -> dict[str, Any]:
    sides = check_pair("", "", size, 1)
    return _window(g, sides, sides if stride is None else stride, padding, x, y)


def _max_pool(g: Nodes, f: pooling.MaxPool2d, xs: Sequence[Value], y: Value) -> Laid:
    window = _pool_window(g, f.size, f.stride, f.padding, xs[0], y)
    return True, g.add("MaxPool", g.name(xs[0], True), **window)


def _avg_pool(g: Nodes, f: pooling.AvgPool2d, xs: Sequence[Value], y: Value) -> Laid:
    (x,) = xs
    window = _pool_window(g, f.size, f.stride, f.padding, x, y)
    return True, _mean(g, g.name(x, True), window, g.image(x), g.image(y))


def _mean(g: Nodes, x: str, window: dict[str, Any], image: tuple[int, int, int], output: tuple[int, int, int]) -> str:
    """The mean over the pixels inside the image; plain, their sum by a convolution times one over their number."""
    if not g.export.plain:
        return g.add("AveragePool", x, count_include_pad=0, **window)
    counts, C = _inside(window, image, output), image[2]
    total = g.add("Conv", x, np.ones((C, 1, *window["kernel_shape"])), group=C, **window)
    return g.add("Mul", total, np.tile(1 / counts, (1, C, 1, 1)))


def _inside(window: dict[str, Any], image: tuple[int, int, int], output: tuple[int, int, int]) -> NDArray[Any]:
    """How many pixels inside the image each window has."""
    sides = zip(window["kernel_shape"], window["strides"], window["pads"], image, output, strict=False)
    return np.multiply.outer(*(inside(*side) for side in sides))


# ---- normalisation


def _by_channel(g: Nodes, x: Value, normalised: Callable[[str], str]) -> Laid:
    """What works on images alone, on values of any number of axes."""
    if x.rank == 4:
        return True, normalised(g.name(x, True))
    pixels = g.add("Reshape", g.name(x), g.integers([-1, x.shapes[0][-1], 1, 1]))
    return False, g.add("Reshape", normalised(pixels), g.shape(x.shapes))


def _lrn(g: Nodes, f: normalisation.Lrn, xs: Sequence[Value], y: Value) -> Laid:
    return _by_channel(g, xs[0], lambda x: _lrn_of(g, x, y.shapes[0][-1], f.size, f.k, f.alpha, f.beta, f.groups))


def _lrn_of(g: Nodes, x: str, C: int, size: int, k: float, alpha: float, beta: float, groups: int) -> str:
    """LRN, the towers apart. ONNX divides its alpha by the size, and has even windows elsewhere: those, and plain ones,
    are a convolution of squares by the matrix of which channel's window holds which, and arithmetic."""
    if size % 2 and not g.export.plain:
        options: dict[str, Any] = {"size": size, "alpha": alpha * size, "beta": beta, "bias": k}
        if groups == 1:
            return g.add("LRN", x, **options)
        g.add("Split", x, g.integers([C // groups] * groups), outputs=groups, axis=1)
        parts = list(g.nodes[-1].output)
        return g.add("Concat", *[g.add("LRN", part, **options) for part in parts], axis=1)
    begin = np.arange(C)[:, None] - size // 2
    seen = (np.arange(C) >= begin) & (np.arange(C) < begin + size)
    seen &= np.equal.outer(np.arange(C) * groups // C, np.arange(C) * groups // C)
    return _normalised(g, x, x, alpha * seen[:, :, None, None], k, beta)


def _lrn_max_pool(g: Nodes, f: normalisation.LrnMaxPool2d, xs: Sequence[Value], y: Value) -> Laid:
    (x,) = xs
    parameters = inspect.signature(kernels.lrn_max_pool2d).parameters
    o = {name: p.default for name, p in parameters.items()} | f.options | f.windows
    normalised = g.name(x, True), x.shapes[0][-1], o["lrn_size"], o["k"], o["alpha"], o["beta"], o["groups"]
    window = _pool_window(g, o["size"], o["stride"], o["padding"], x, y)
    return True, g.add("MaxPool", _lrn_of(g, *normalised), **window)


def _around(size: int) -> list[int]:
    """The padding of size x size windows from p - floor(size / 2) on."""
    return [size // 2] * 2 + [size - 1 - size // 2] * 2


def _spatial_lrn(g: Nodes, f: normalisation.SpatialLrn, xs: Sequence[Value], y: Value) -> Laid:
    C, x = g.image(y)[2], g.name(xs[0], True)
    squares = np.full((C, 1, f.size, f.size), f.alpha)
    return True, _normalised(g, x, x, squares, f.k, f.beta, group=C, pads=_around(f.size))


def _contrast_norm(g: Nodes, f: normalisation.ContrastNorm, xs: Sequence[Value], y: Value) -> Laid:
    image, x = g.image(y), g.name(xs[0], True)
    window = {"kernel_shape": [f.size] * 2, "strides": [1, 1], "pads": _around(f.size)}
    distance = g.add("Sub", x, _mean(g, x, window, image, image))
    squares = np.full((image[2], 1, f.size, f.size), f.alpha)
    return True, _normalised(g, x, distance, squares, f.k, f.beta, group=image[2], pads=window["pads"])


def _normalised(g: Nodes, x: str, d: str, filters: NDArray[Any], k: float, beta: float, **options: Any) -> str:
    """x s^-beta, where s is k plus the convolution of d^2 with the filters."""
    sums = g.add("Conv", g.add("Mul", d, d), filters, np.full(len(filters), k), **options)
    return g.add("Mul", x, g.add("Pow", sums, -beta))


def _batch_norm(g: Nodes, f: normalisation.BatchNorm, xs: Sequence[Value], y: Value) -> Laid:
    x, gamma, beta = xs
    if f.training:
        raise WeightsError(f"{g.at}: ONNX is written of evaluation, in which this one takes a batch's statistics")
    running = [backend.to_host(array) for array in (f.running_mean, f.running_variance)]

    def normalised(name: str) -> str:
        return g.add("BatchNormalization", name, g.name(gamma), g.name(beta), *running, epsilon=f.epsilon)

    return (False, normalised(g.name(x))) if x.rank == 2 else _by_channel(g, x, normalised)


WRITERS: dict[type[Function], Writer] = {
    Copy: _same,
    arithmetic.Cast: _same,
    arithmetic.Broadcast: _broadcast,
    arithmetic.Sum: _reduce(lambda f: "ReduceMean" if f.mean else "ReduceSum"),
    arithmetic.Max: _reduce(lambda f: "ReduceMax"),
    arithmetic.Expand: _expand,
    arithmetic.Upsample2d: _upsample,
    arithmetic.MatMul: _matmul,
    convolution.Conv2d: _conv2d,
    convolution.Local2d: _local2d,
    elementwise.Relu: _activation("Relu"),
    elementwise.Tanh: _activation("Tanh"),
    elementwise.Sigmoid: _activation("Sigmoid"),
    elementwise.WeightedSum: _weighted_sum,
    elementwise.Dropout: _dropout,
    normalisation.Lrn: _lrn,
    normalisation.LrnMaxPool2d: _lrn_max_pool,
    normalisation.SpatialLrn: _spatial_lrn,
    normalisation.ContrastNorm: _contrast_norm,
    normalisation.BatchNorm: _batch_norm,
    pooling.MaxPool2d: _max_pool,
    pooling.AvgPool2d: _avg_pool,
    products.Linear: _linear,
    shapes.Reshape: _reshape,
    shapes.Transpose: _transpose,
    shapes.Index: _index,
    shapes.Concat: _concat,
    shapes.TakeChannels: _take_channels,
}
"""Of computations in float32, as storages in less are a matter of speed."""
