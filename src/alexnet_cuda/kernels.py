"""Every operation as a plain function on arrays: ``from alexnet_cuda import kernels``.

Arrays are NumPy arrays (run on the CPU) or CuPy arrays (run on their GPU, on CuPy's current stream), C-contiguous and
float32, or bfloat16 as told below. Arrays of other libraries with ``__dlpack__`` or ``__cuda_array_interface__``, such
as PyTorch's and JAX's, are taken without a copy, PyTorch's on PyTorch's current stream; results are then arrays of that
library. Images are (N, H, W, C), filters (K, KH, KW, C / groups), fully connected weights (out, in). Results are newly
allocated on the device of the inputs, or written to ``out``, an array of the result's shape, which is then returned;
what ``sgd``, ``linear_sgd`` and ``adam`` train and the running statistics of ``batch_norm`` are updated in place. Each
operation ``f`` with parameters or inputs to differentiate has an ``f_backward`` that takes the gradient ``dy`` of the
loss with respect to the output.

Common arguments of windows: ``size`` and ``stride`` are an int or (vertical, horizontal); ``padding`` is an int,
(vertical, horizontal) or ((top, bottom), (left, right)), in zeros around x; ``ceil`` rounds the output size up as
cuda-convnet does, 1 + ceil((n + padding - size) / stride), the last windows reaching past the bottom and right edge.

``precision`` of a product (``gemm``, ``conv2d``, ``linear`` and what begins so): "fp32" computes with the numbers as
they are; "tf32" and "bf16" round both operands to 10 or 7 bits after the point, as tensor cores take them, and add in
float32. On a CPU these two give what tensor cores give, slowly: for tests, not for work.

``mask`` of a gradient, an array as x, makes dx 0 where it is not above 0: with x itself, where that came out of a ReLU
(``relu=True`` or ``relu``), dx is the gradient before it, without a pass of its own.

Storage: x and y, and their gradients dx and dy, may be bfloat16 (``ml_dtypes.bfloat16``), half the size: a result is
stored as the x or dy that it comes from. Kernels compute in float32 and round what they write, once. Parameters and
their gradients, running statistics, losses and logits stay float32. Products of bfloat16 arrays are those of precision
"bf16": w is rounded before each, unless it is bfloat16 already. ``cast`` converts; ``local2d``, ``spatial_lrn`` and
the losses take float32 alone.

Errors: TypeError for what is not an array or has the wrong dtype; ValueError for wrong shapes, layouts, devices and
hyper-parameters. Both say what was got and what was expected.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, ParamSpec, TypeVar, get_args

import numpy as np
from ml_dtypes import bfloat16

from . import backend

Array = Any
"""A numpy.ndarray, a cupy.ndarray, or an array of another library that exchanges memory through DLPack."""
Pair = int | tuple[int, int]
Padding = int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]
Needs = Sequence[bool]
Precision = Literal["fp32", "tf32", "bf16"]
Algorithm = Literal["auto", "im2col", "winograd", "implicit", "space_to_depth", "hopper"]
ADAM_EPSILONS: dict[str, float] = {"keras": 1e-7, "pytorch": 1e-8}
"""The forms of ``adam``, and what epsilon is by default in the library that each is named after."""
LEAST_CHANNELS = 60
"""Inputs and outputs of a pixel's product from which on Winograd's convolution pays: half their harmonic mean."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FLOATS = np.dtype(np.float32), np.dtype(bfloat16)
"""How numbers may be stored; all are float32 while a kernel computes."""
SMALLEST = float(np.finfo(np.float32).tiny)
"""What must not be zero may not round to it either."""

__all__ = [
    "adam",
    "augment",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "bias",
    "bias_backward",
    "bias_relu_backward",
    "cast",
    "conv2d",
    "conv2d_backward",
    "dropout",
    "dropout_backward",
    "gemm",
    "linear",
    "linear_backward",
    "linear_dropout",
    "linear_sgd",
    "local2d",
    "local2d_backward",
    "lrn",
    "lrn_backward",
    "lrn_max_pool2d",
    "lrn_max_pool2d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "multi_sgd",
    "relu",
    "relu_backward",
    "sgd",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_backward",
    "spatial_lrn",
    "spatial_lrn_backward",
    "tanh",
    "tanh_backward",
    "window_output",
]


# ---------------------------------------------------------------------------------------------- arguments

P = ParamSpec("P")
R = TypeVar("R")
_plain: set[type] = set()
"""Types of arguments that have come and are no other library's arrays."""


def _any_library(function: Callable[P, R]) -> Callable[P, R]:
    """The function for arrays of any library: they are borrowed for the call, and its results lent in return."""
    names = tuple(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for value in (*args, *kwargs.values()) if kwargs else args:
            if type(value) not in _plain:
                for entry in value if isinstance(value, list) else (value,):
                    if type(entry) not in _plain:
                        if backend.is_foreign(entry):
                            return borrowing(entry, args, kwargs)
                        if not isinstance(entry, list):
                            _plain.add(type(entry))
        return function(*args, **kwargs)

    def borrowing(first: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        owners: dict[int, Any] = {}

        def borrowed(name: str, value: Any) -> Any:
            if isinstance(value, list):
                return [borrowed(name, entry) for entry in value]
            if not backend.is_foreign(value):
                return value
            try:
                array = backend.borrow(value)
            except TypeError as e:
                raise TypeError(f"{function.__name__}: {name}: {e}") from e
            owners[id(array)] = value, array
            return array

        def lent(result: Any) -> Any:
            if isinstance(result, tuple):
                return tuple(map(lent, result))
            if id(result) in owners:
                return owners[id(result)][0]
            return backend.lend(result, first) if backend.is_array(result) else result

        with backend.current_stream(first):
            positional = [borrowed(name, value) for name, value in zip(names, args, strict=False)]
            named = {name: borrowed(name, value) for name, value in kwargs.items()}
            return lent(function(*positional, *args[len(names) :], **named))

    return call


def _result(
    operation: str,
    out: Array | None,
    shape: tuple[int, ...],
    device: backend.Device,
    dtype: Any = np.float32,
    name: str = "out",
) -> Array:
    """``out`` after checking it, or else a new array."""
    if out is None:
        return backend.empty(shape, dtype, device)
    where = _array(operation, name, out, dtype=dtype)
    if out.shape != shape or where != device:
        raise ValueError(f"{operation}: {name}: expected shape {shape} on {device}, got {out.shape} on {where}")
    return out


def _array(operation: str, name: str, value: Array, ndim: int | None = None, dtype: Any = np.float32) -> backend.Device:
    """The device of ``value``, after checking that it is a C-contiguous, non-empty array of that dtype (or of one of
    those) and rank."""
    try:
        device = backend.device_of(value)
    except TypeError:
        hint = f": numpy.asarray({name}, numpy.float32) makes one" if isinstance(value, (list, tuple)) else ""
        raise TypeError(
            f"{operation}: {name}: expected a NumPy or CuPy array, got {type(value).__module__}.{type(value).__name__}"
            f"{hint}"
        ) from None
    if value.dtype not in dtype if isinstance(dtype, tuple) else value.dtype != dtype:
        expected = " or ".join(str(np.dtype(one)) for one in (dtype if isinstance(dtype, tuple) else (dtype,)))
        module = _module(device)
        convertible = "float32" in expected and value.dtype.kind == "f"
        hint = f": {module}.asarray({name}, {module}.float32) has it" if convertible else ""
        raise TypeError(f"{operation}: {name}: expected dtype {expected}, got {value.dtype}{hint}")
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{operation}: {name}: expected {ndim} dimensions, got shape {value.shape}")
    if value.size == 0:
        raise ValueError(f"{operation}: {name}: expected a non-empty array, got shape {value.shape}")
    if not value.flags.c_contiguous:
        raise ValueError(
            f"{operation}: {name}: expected a C-contiguous array, got shape {value.shape} with strides {value.strides}"
            f": {_module(device)}.ascontiguousarray({name}) makes one"
        )
    return device


def _module(device: backend.Device) -> str:
    """The name of the module whose functions mend an array there."""
    return "cupy" if device.kind == "cuda" else "numpy"


def _weights(operation: str, w: Array, ndim: int, dtype: Any) -> Array:
    """w as products of arrays of that dtype take it, after checking it."""
    _array(operation, "w", w, ndim, FLOATS if dtype == bfloat16 else np.float32)
    return w if w.dtype == dtype else cast(w, dtype)


def _check_mask(operation: str, mask: Array | None, x: Array) -> None:
    if mask is not None:
        _array(operation, "mask", mask, dtype=x.dtype)
        if mask.shape != x.shape:
            raise ValueError(f"{operation}: mask: expected the shape of x, {x.shape}, got {mask.shape}")


def _number(
    operation: str, name: str, value: float, low: float = -math.inf, high: float = math.inf, open_high: bool = False
) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{operation}: {name}: expected a number, got {value!r}") from None
    if not (math.isfinite(number) and low <= number <= high) or (open_high and number == high):
        end = ")" if open_high or high == math.inf else "]"
        raise ValueError(f"{operation}: {name}: expected a number in [{low:g}, {high:g}{end}, got {value!r}")
    return number


def _integer(operation: str, name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{operation}: {name}: expected an integer, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{operation}: {name}: expected an integer in [{low}, {high}], got {value}")
    return int(value)


def _pair(operation: str, name: str, value: Any, low: int) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2:
        raise ValueError(f"{operation}: {name}: expected an integer or (vertical, horizontal), got {value!r}")
    return _integer(operation, name, values[0], low), _integer(operation, name, values[1], low)


def _padding(operation: str, value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right))."""
    vertical, horizontal = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, value)
    return _pair(operation, "padding", vertical, 0), _pair(operation, "padding", horizontal, 0)


def _needs(operation: str, needs: Any) -> Needs:
    flags = tuple(needs) if isinstance(needs, (tuple, list)) else ()
    if len(flags) != 3 or not all(isinstance(flag, (bool, np.bool_)) for flag in flags):
        raise TypeError(f"{operation}: needs: expected three bools, for dx, dw and db, got {needs!r}")
    return flags


def _precision(
    operation: str, precision: Any, capability: tuple[int, int] | None, dtype: Any = np.float32
) -> Precision:
    """Of the products of arrays of that dtype."""
    if precision not in PRECISIONS:
        raise ValueError(f"{operation}: precision: expected {_either(PRECISIONS)}, got {precision!r}")
    if dtype == bfloat16:
        if precision == "tf32":
            raise ValueError(f"{operation}: precision: expected 'bf16' for bfloat16 arrays, got 'tf32'")
        precision = "bf16"
    if precision != "fp32" and capability is not None and capability < (8, 0):
        got = ".".join(map(str, capability))
        raise ValueError(f"{operation}: precision: {precision!r} is expected of compute capability 8.0 on, got {got}")
    return precision


def _either(words: Sequence[str]) -> str:
    *first, last = map(repr, words)
    return f"{', '.join(first)} or {last}" if first else last


def conv2d_algorithm(
    shape: Any,
    precision: Precision,
    capability: tuple[int, int] | None,
    algorithm: Algorithm = "auto",
    operation: str = "conv2d",
    dtype: Any = np.float32,
) -> Algorithm:
    """What computes a convolution, or its gradients, on a GPU of that compute capability (None: on a CPU).

    "im2col" writes the windows of x out as a matrix and multiplies that in float32. "winograd" does so with fewer
    products, for square filters of 3 or 5 pixels at stride 1; its rounding errors are about ten times as large.
    "implicit" multiplies on tensor cores, whose operands are read out of x itself; "space_to_depth" does so after
    blocks of as many pixels as the stride have become one pixel with more channels, which are copied 16 bytes at a
    time. "hopper" multiplies by the units of compute capability 9.0, with square windows, symmetric padding and a
    multiple of 16 channels (of 8 in tf32) in a group: for dx, of filters, and stride 1; for dw also a multiple of 8
    filters, and bf16 alone, as these units read tf32 along a sum only. Other shapes, such as AlexNet's conv1, have it
    where their blocks of pixels are such a convolution. It reads bfloat16 at multiples of 16 bytes only. "auto" is
    "im2col" or "implicit", which take every shape, by the precision; "space_to_depth" where "implicit" would have to
    copy more, value by value, as in conv1; on a CPU "winograd" where it can and channels are many enough to pay for its
    detours.

    shape: the native module's Conv2d.
    """
    known = ("auto", "im2col", "winograd", "implicit", "space_to_depth", "hopper")
    if algorithm not in known:
        raise ValueError(f"{operation}: algorithm: expected {_either(known)}, got {algorithm!r}")
    precision = _precision(operation, precision, capability, dtype)
    able: list[Algorithm] = ["im2col", "winograd"] if precision == "fp32" else ["implicit", "space_to_depth"]
    if precision != "fp32" and capability in (None, (9, 0)):
        able.append("hopper")
    if algorithm == "auto":
        if precision != "fp32":
            return "space_to_depth" if shape.space_to_depth_pays(dtype == bfloat16) else "implicit"
        inputs, outputs = shape.C // shape.groups, shape.K // shape.groups
        pays = shape.winograd and inputs * outputs >= LEAST_CHANNELS * (inputs + outputs)
        return "winograd" if capability is None and pays else "im2col"
    if algorithm not in able:
        stored = "" if dtype == np.float32 else f", arrays of {np.dtype(dtype)}"
        where = "on a CPU" if capability is None else f"and compute capability {'.'.join(map(str, capability))}"
        raise ValueError(
            f"{operation}: algorithm: expected {_either(able)} for precision {precision!r}{stored} {where}, "
            f"got {algorithm!r}"
        )
    if algorithm == "winograd" and not shape.winograd:
        got = f"{shape.KH}x{shape.KW} at stride {shape.stride_h}x{shape.stride_w}"
        raise ValueError(f"{operation}: algorithm: 'winograd' expects filters of 3x3 or 5x5 at stride 1, got {got}")
    return algorithm


def storage(precision: str) -> np.dtype[Any]:
    """How a network that computes in that precision stores its input, and so all activations and their gradients."""
    return np.dtype(bfloat16 if precision == "bf16" else np.float32)


def window_output(size: int, window: int, stride: int, padding: tuple[int, int], ceil: bool = False) -> int:
    """Number of windows along an axis of ``size`` pixels with ``padding`` (before, after).

    1 + floor((size + padding - window) / stride). With ``ceil`` (cuda-convnet, Caffe) it is rounded up: pixels left
    over get a window that reaches past the end, unless it would begin there. ValueError when no window fits.

    >>> kernels.window_output(224, 11, 4, (0, 0)), kernels.window_output(224, 11, 4, (0, 0), ceil=True)
    (54, 55)
    """
    padded = size + sum(padding)
    if window > padded:
        raise ValueError(f"a window of {window} does not fit {size} pixels with padding {padding}")
    count, left_over = divmod(padded - window, stride)
    begins_inside = (count + 1) * stride < size + padding[0]
    return count + 2 if ceil and left_over and begins_inside else count + 1


def _remembering(make: Callable[P, R]) -> Callable[P, R]:
    """The function of arguments that come again and again, with its last results kept."""
    kept: Any = functools.lru_cache(maxsize=1024, typed=True)(make)

    @functools.wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result: R = kept(*args, **kwargs)
        except TypeError:  # of an argument that has no hash; or it is no right one, which is told again
            return make(*args, **kwargs)
        return result

    return call


def _windows(
    operation: str, x_shape: tuple[int, ...], size: tuple[int, int], stride: Any, padding: Any, ceil: bool
) -> dict[str, int]:
    """The fields which Conv2d and Pool2d share."""
    strides, pads = _pair(operation, "stride", stride, 1), _padding(operation, padding)
    if not isinstance(ceil, (bool, np.bool_)):
        raise TypeError(f"{operation}: ceil: expected a bool, got {ceil!r}")
    N, H, W, C = x_shape
    try:
        OH = window_output(H, size[0], strides[0], pads[0], ceil)
        OW = window_output(W, size[1], strides[1], pads[1], ceil)
    except ValueError as e:
        raise ValueError(f"{operation}: x of shape {x_shape}: {e}") from None
    return {
        "N": N, "H": H, "W": W, "C": C, "KH": size[0], "KW": size[1], "stride_h": strides[0], "stride_w": strides[1],
        "pad_top": pads[0][0], "pad_left": pads[1][0], "OH": OH, "OW": OW,
    }  # fmt: skip


@_remembering
def _conv2d_struct(
    native: ModuleType,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: Any,
    padding: Any,
    groups: int,
    ceil: bool,
) -> Any:
    K, KH, KW, per_group = w_shape
    groups = _integer("conv2d", "groups", groups, 1)
    if x_shape[3] != per_group * groups or K % groups:
        channels_first = x_shape[1] == per_group * groups and x_shape[3] != x_shape[1]
        hint = "; channels come last: x.transpose(0, 2, 3, 1), made contiguous" if channels_first else ""
        raise ValueError(
            f"conv2d: with groups {groups} x of shape {x_shape} needs w of shape (K, KH, KW, {x_shape[3]} / {groups}) "
            f"and K a multiple of {groups}, got {w_shape}{hint}"
        )
    return native.Conv2d(K=K, groups=groups, **_windows("conv2d", x_shape, (KH, KW), stride, padding, ceil))


@_remembering
def _pool2d_struct(
    operation: str, native: ModuleType, x_shape: tuple[int, ...], size: Any, stride: Any, padding: Any, ceil: bool
) -> Any:
    if len(x_shape) != 4:
        raise ValueError(f"{operation}: expected x of shape (N, H, W, C), got {tuple(x_shape)}")
    sizes = _pair(operation, "size", size, 1)
    if sizes[0] * sizes[1] > 256:
        raise ValueError(f"{operation}: size: expected at most 256 pixels in a window, got {sizes[0]} x {sizes[1]}")
    for window, (before, after) in zip(sizes, _padding(operation, padding), strict=True):
        if max(before, after) >= window:
            raise ValueError(
                f"{operation}: padding: expected less than the window's {window} pixels, got {(before, after)}"
            )
    return native.Pool2d(**_windows(operation, x_shape, sizes, size if stride is None else stride, padding, ceil))


# ---------------------------------------------------------------------------------------------- products


def gemm(
    a: Array,
    b: Array,
    transpose_a: bool = False,
    transpose_b: bool = False,
    alpha: float = 1.0,
    beta: float = 0.0,
    c: Array | None = None,
    precision: Precision = "fp32",
) -> Array:
    """Matrix product: alpha op(a) op(b) + beta c.

    a: (M, K), or (K, M) with ``transpose_a``; b: (K, N), or (N, K) with ``transpose_b``; c: (M, N), needed where beta
    is not zero, and left as it is. All are stored alike. Returns (M, N).

    >>> kernels.gemm(floats([[1, 2]]), floats([[3], [4]]))
    array([[11.]], dtype=float32)
    """
    device = _array("gemm", "a", a, 2, FLOATS)
    _array("gemm", "b", b, 2, a.dtype)
    M, K = reversed(a.shape) if transpose_a else a.shape
    K_of_b, N = reversed(b.shape) if transpose_b else b.shape
    if K_of_b != K:
        raise ValueError(f"gemm: op(a) of shape {(M, K)} needs op(b) of shape ({K}, N), got {(K_of_b, N)}")
    alpha, beta = _number("gemm", "alpha", alpha), _number("gemm", "beta", beta)
    precision = _precision("gemm", precision, backend.capability(device), a.dtype)
    if beta == 0:
        y = backend.empty((M, N), a.dtype, device)
    elif c is None:
        raise ValueError(f"gemm: c: expected an array of shape {(M, N)} since beta is {beta:g}, got None")
    else:
        _array("gemm", "c", c, 2, a.dtype)
        y = c.copy()
    _multiply(y, a, b, transpose_a, transpose_b, precision, device, alpha, beta)
    return y


def _multiply(
    c: Array,
    a: Array,
    b: Array,
    transpose_a: bool,
    transpose_b: bool,
    precision: Precision,
    device: backend.Device,
    alpha: float = 1.0,
    beta: float = 0.0,
    bias: Array | None = None,
    relu: bool = False,
    mask: Array | None = None,
    db: Array | None = None,
) -> None:
    """c = alpha op(a) op(b) + beta c, then + bias, then max(0, .) if ``relu``, then 0 where ``mask`` is not above 0.
    db: where a alone is transposed, the sums of its columns."""
    native, stream = backend.native(device), backend.stream(device)
    if precision == "fp32":
        workspace = None
        if not backend.uses_blas(device):
            workspace = backend.workspace(native.gemm_workspace(*c.shape, a.shape[not transpose_a]), device)
        native.gemm(c, a, b, transpose_a, transpose_b, alpha, beta, workspace, stream)
        if bias is not None:
            native.bias_forward(c, c, bias, relu, stream)
        elif relu:
            native.relu_forward(c, c, stream)
        if mask is not None:
            native.relu_backward(c, c, mask, stream)
        if db is not None:
            _sum_rows(db, a, device)
        return
    workspace = backend.workspace(native.tensor_gemm_workspace(*c.shape, a.shape[not transpose_a]), device)
    native.tensor_gemm(
        c, db, a, b, bias, mask, transpose_a, transpose_b, alpha, beta, relu, precision, workspace, stream
    )


def _sum_rows(db: Array, dy: Array, device: backend.Device) -> None:
    """db (C,) = the sums of dy (..., C)."""
    native, C = backend.native(device), dy.shape[-1]
    workspace = backend.workspace(native.bias_backward_workspace(dy.size // C, C), device)
    native.bias_backward(db, dy, workspace, backend.stream(device))


def bias(x: Array, b: Array, relu: bool = False, out: Array | None = None) -> Array:
    """x + b over the last dimension, then max(0, .) if ``relu``. x: (..., C), b: (C,). Returns the shape of x.

    >>> kernels.bias(floats([[1, 2], [3, 4]]), floats([10, -20]), relu=True)
    array([[11.,  0.],
           [13.,  0.]], dtype=float32)
    """
    device = _array("bias", "x", x, dtype=FLOATS)
    _array("bias", "b", b, 1)
    y = _result("bias", out, x.shape, device, x.dtype)
    backend.native(device).bias_forward(y, x, b, relu, backend.stream(device))
    return y


def bias_backward(dy: Array) -> Array:
    """Gradient of ``bias`` with respect to b: dy (..., C) summed over all but the last dimension. Returns (C,).

    >>> kernels.bias_backward(floats([[1, 2], [3, 4]]))
    array([4., 6.], dtype=float32)
    """
    device = _array("bias_backward", "dy", dy, dtype=FLOATS)
    if dy.ndim == 0:
        raise ValueError("bias_backward: dy: expected at least one dimension, got shape ()")
    db = backend.empty(dy.shape[-1:], np.float32, device)
    _sum_rows(db, dy, device)
    return db


def bias_relu_backward(dy: Array, y: Array, scale: float = 1.0) -> tuple[Array, Array]:
    """Gradients of ``bias`` with ``relu`` from its output y, in one pass: dx, which is dy where y > 0, else 0, and db,
    dx summed over all but the last dimension, to the bits of ``relu_backward`` and ``bias_backward``. If y is what
    ``dropout`` left of that output, to the bits of ``dropout_backward``, too, which multiplies by ``scale``.

    dy and y: (..., C). Returns dx of that shape and db (C,).

    >>> dx, db = kernels.bias_relu_backward(dy=floats([[1, 2], [3, 4]]), y=floats([[0, 5], [6, 7]]))
    >>> dx, db
    (array([[0., 2.],
           [3., 4.]], dtype=float32), array([3., 6.], dtype=float32))
    """
    device = _array("bias_relu_backward", "dy", dy, dtype=FLOATS)
    _array("bias_relu_backward", "y", y, dtype=dy.dtype)
    if dy.ndim == 0:
        raise ValueError("bias_relu_backward: dy: expected at least one dimension, got shape ()")
    scale = _number("bias_relu_backward", "scale", scale)
    native, C = backend.native(device), dy.shape[-1]
    dx, db = backend.empty(dy.shape, dy.dtype, device), backend.empty((C,), np.float32, device)
    workspace = backend.workspace(native.bias_backward_workspace(dy.size // C, C), device)
    native.bias_relu_backward(dx, db, dy, y, scale, workspace, backend.stream(device))
    return dx, db


def linear(
    x: Array,
    w: Array,
    b: Array | None = None,
    relu: bool = False,
    precision: Precision = "fp32",
    out: Array | None = None,
) -> Array:
    """Fully connected layer: x w^T + b, then max(0, .) if ``relu``. x: (N, I), w: (O, I), b: (O,). Returns (N, O).

    >>> kernels.linear(floats([[1, 2]]), floats([[3, 4], [5, 6], [7, 8]]), floats([0, 0, 1]))
    array([[11., 17., 24.]], dtype=float32)
    """
    device = _array("linear", "x", x, 2, FLOATS)
    w = _weights("linear", w, 2, x.dtype)
    if x.shape[1] != w.shape[1]:
        raise ValueError(f"linear: x of shape {x.shape} needs w of shape (O, {x.shape[1]}), got {w.shape}")
    precision = _precision("linear", precision, backend.capability(device), x.dtype)
    shape = x.shape[0], w.shape[0]
    y = _result("linear", out, shape, device, x.dtype)
    native = backend.native(device)
    if native.skinny_gemm_takes(*shape, x.shape[1]) and not (precision == "fp32" and backend.uses_blas(device)):
        workspace = backend.workspace(native.skinny_gemm_workspace(*shape, x.shape[1]), device)
        native.skinny_gemm(y, x, w, b, relu, precision, workspace, backend.stream(device))
    else:
        _multiply(y, x, w, False, True, precision, device, bias=b, relu=relu)
    return y


def linear_dropout(
    x: Array,
    w: Array,
    b: Array | None = None,
    p: float = 0.5,
    form: Literal["paper", "inverted"] = "paper",
    seed: int = 0,
    step: int = 0,
    purpose: int = 0,
    first: int = 0,
    state: Array | None = None,
    precision: Precision = "fp32",
) -> Array:
    """``dropout``, in training, of ``linear`` with ``relu``, to their bits; where tensor cores multiply, in one kernel.
    The gradient before ReLU and dropout comes from the output: ``bias_relu_backward`` with the scale of the kept ones,
    1 / (1 - p) in the inverted form and else 1. x: (N, I), w: (O, I), b: (O,). Returns (N, O).

    >>> y = kernels.linear_dropout(floats([[1, 2]]), floats([[3, 4], [5, 6], [-7, 8]]), p=0.5, form="inverted", seed=3)
    >>> y, kernels.dropout(floats([[11, 17, 9]]), 0.5, "inverted", seed=3)
    (array([[22.,  0., 18.]], dtype=float32), array([[22.,  0., 18.]], dtype=float32))
    """
    device = _array("linear_dropout", "x", x, 2, FLOATS)
    w = _weights("linear_dropout", w, 2, x.dtype)
    if x.shape[1] != w.shape[1]:
        raise ValueError(f"linear_dropout: x of shape {x.shape} needs w of shape (O, {x.shape[1]}), got {w.shape}")
    precision = _precision("linear_dropout", precision, backend.capability(device), x.dtype)
    draw = _draw("linear_dropout", device, p, form, True, seed, step, purpose, first, state)
    native, stream, shape = backend.native(device), backend.stream(device), (x.shape[0], w.shape[0])
    if precision == "fp32" or native.skinny_gemm_takes(*shape, x.shape[1]):
        y = linear(x, w, b, True, precision)
        native.dropout(y, y, *draw, stream)
        return y
    y = backend.empty(shape, x.dtype, device)
    workspace = backend.workspace(native.tensor_gemm_workspace(*shape, x.shape[1]), device)
    native.tensor_gemm_dropout(y, x, w, b, *draw, precision, workspace, stream)
    return y


def linear_backward(
    dy: Array,
    x: Array,
    w: Array,
    needs: Needs = (True, True, True),
    precision: Precision = "fp32",
    mask: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of ``linear`` (without ReLU): dx = dy w (N, I), dw = dy^T x (O, I), db = sums of dy (O,).

    dy: (N, O). ``needs`` says which of the three to compute; the others are None. dx is 0 where ``mask`` (N, I) is not
    above 0.

    >>> dx, dw, db = kernels.linear_backward(dy=floats([[1]]), x=floats([[2, 3]]), w=floats([[4, 5]]))
    >>> dx, dw, db
    (array([[4., 5.]], dtype=float32), array([[2., 3.]], dtype=float32), array([1.], dtype=float32))
    """
    device = _array("linear_backward", "dy", dy, 2, FLOATS)
    _array("linear_backward", "x", x, 2, dy.dtype)
    _array("linear_backward", "w", w, 2, FLOATS if dy.dtype == bfloat16 else np.float32)
    if dy.shape != (x.shape[0], w.shape[0]) or x.shape[1] != w.shape[1]:
        raise ValueError(
            f"linear_backward: expected dy (N, O), x (N, I), w (O, I), got {dy.shape}, {x.shape}, {w.shape}"
        )
    needs = _needs("linear_backward", needs)
    _check_mask("linear_backward", mask, x)
    precision = _precision("linear_backward", precision, backend.capability(device), dy.dtype)
    dx = dw = db = None
    if needs[0]:
        dx = backend.empty(x.shape, dy.dtype, device)
        _multiply(dx, dy, cast(w, dy.dtype), False, False, precision, device, mask=mask)
    if needs[2]:
        db = backend.empty(w.shape[:1], np.float32, device)
    if needs[1]:
        dw = backend.empty(w.shape, np.float32, device)
        _multiply(dw, dy, x, True, False, precision, device, db=db)
    elif db is not None:
        _sum_rows(db, dy, device)
    return dx, dw, db


def linear_sgd(
    w: Array,
    v: Array,
    dy: Array,
    x: Array,
    lr: float | Array,
    momentum: float = 0.9,
    decay: float = 5e-4,
    precision: Precision = "fp32",
    stored: Array | None = None,
) -> None:
    """``sgd`` of the weights of ``linear`` with their gradient dy^T x, in place and to the bits of ``linear_backward``
    and then ``sgd``. Where tensor cores multiply it is one kernel, and the gradient is never written.

    w, v (the momentum): (O, I) float32; dy: (N, O), x: (N, I). ``stored``, a bfloat16 array (O, I), gets a copy of w.

    >>> w, v = floats([[4, 5]]), floats([[0, 0]])
    >>> kernels.linear_sgd(w, v, floats([[1]]), floats([[2, 3]]), lr=1, decay=0)
    >>> w, v
    (array([[2., 2.]], dtype=float32), array([[-2., -3.]], dtype=float32))
    """
    device = _array("linear_sgd", "w", w, 2)
    _array("linear_sgd", "v", v, 2)
    _array("linear_sgd", "dy", dy, 2, FLOATS)
    _array("linear_sgd", "x", x, 2, dy.dtype)
    if dy.shape[0] != x.shape[0] or not (w.shape == v.shape == (dy.shape[1], x.shape[1])):
        got = f"{w.shape}, {v.shape}, {dy.shape}, {x.shape}"
        raise ValueError(f"linear_sgd: expected w (O, I), v (O, I), dy (N, O), x (N, I), got {got}")
    if stored is not None:
        _result("linear_sgd", stored, w.shape, device, bfloat16, name="stored")
    precision = _precision("linear_sgd", precision, backend.capability(device), dy.dtype)
    momentum = _number("linear_sgd", "momentum", momentum, 0, 1, open_high=True)
    decay, lr = _number("linear_sgd", "decay", decay, 0), _rate("linear_sgd", lr, device)
    native, stream = backend.native(device), backend.stream(device)
    if precision == "fp32":
        dw = backend.empty(w.shape, np.float32, device)
        _multiply(dw, dy, x, True, False, precision, device)
        native.sgd(w, v, dw, lr, 1.0, momentum, decay, stream)
        if stored is not None:
            native.cast(stored, w, stream)
        return
    workspace = backend.workspace(native.tensor_gemm_workspace(*w.shape, len(x)), device)
    native.tensor_gemm_sgd(w, v, stored, dy, x, lr, momentum, decay, precision, workspace, stream)


def conv2d(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    groups: int = 1,
    relu: bool = False,
    ceil: bool = False,
    precision: Precision = "fp32",
    algorithm: Algorithm = "auto",
    out: Array | None = None,
) -> Array:
    """Convolution (cross-correlation), then max(0, .) if ``relu`` (paper, sections 3.1 and 3.5).

    y[n, oh, ow, k] = b[k] + sum over kh, kw, c of x[n, oh stride - top + kh, ow stride - left + kw, c] w[k, kh, kw, c]

    x: (N, H, W, C); w: (K, KH, KW, C / groups); b: (K,) or None. Output channels k of group g = k groups // K see the
    input channels of that group only. ``algorithm``: see ``conv2d_algorithm``. Returns (N, OH, OW, K).

    >>> x = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1)
    >>> kernels.conv2d(x, np.ones((1, 2, 2, 1), np.float32))[0, :, :, 0]
    array([[ 8., 12.],
           [20., 24.]], dtype=float32)
    """
    device = _array("conv2d", "x", x, 4, FLOATS)
    w = _weights("conv2d", w, 4, x.dtype)
    native, capability = backend.native(device), backend.capability(device)
    shape = _conv2d_struct(native, x.shape, w.shape, stride, padding, groups, ceil)
    precision = _precision("conv2d", precision, capability, x.dtype)
    algorithm = conv2d_algorithm(shape, precision, capability, algorithm, dtype=x.dtype)
    y = _result("conv2d", out, (shape.N, shape.OH, shape.OW, shape.K), device, x.dtype)
    _convolve("forward", (y, x, w, b), shape, (relu,), algorithm, precision, device)
    return y


def _convolve(
    which: str,
    arrays: tuple[Any, ...],
    shape: Any,
    options: tuple[bool | str, ...],
    algorithm: str,
    precision: Precision,
    device: backend.Device,
) -> None:
    """Launches a pass of a convolution."""
    native, stored_bfloat16 = backend.native(device), arrays[2].dtype == bfloat16
    how: tuple[bool | str, ...] = ()
    if algorithm == "hopper" and _hopper_in_blocks(which, shape, precision, stored_bfloat16):
        algorithm, how = "space_to_depth", (precision, True)
    elif algorithm == "space_to_depth":
        how = precision, False
    elif algorithm in ("implicit", "hopper"):
        how = (precision,)
    name = f"{'' if algorithm == 'im2col' else f'{algorithm}_'}conv2d_{which}"
    size = (*how, stored_bfloat16) if algorithm in ("space_to_depth", "hopper") else ()
    workspace = backend.workspace(getattr(native, f"{name}_workspace")(shape, *size), device)
    getattr(native, name)(*arrays, shape, *options, *how, workspace, backend.stream(device))


def _hopper_in_blocks(which: str, shape: Any, precision: Precision, stored_bfloat16: bool) -> bool:
    """Whether "hopper" takes that pass only of the convolution of blocks of pixels. ValueError where not even that."""

    def takes(one: Any) -> bool:
        able: bool = getattr(one, "hopper" if which == "forward" else f"hopper_{which}")(precision)
        return able

    if takes(shape):
        return False
    if shape.space_to_depth(stored_bfloat16) and takes(shape.blocks(stored_bfloat16)):
        return True
    operation = "conv2d" if which == "forward" else "conv2d_backward"
    if which == "backward_weight" and precision == "tf32":
        raise ValueError(
            f"{operation}: algorithm: 'hopper' computes dw in precision 'bf16' alone, got 'tf32', which 'implicit' has"
        )
    some = 8 if precision == "tf32" else 16
    stride, multiple = {
        "forward": ("at most 8", f"{some} channels"),
        "backward_input": ("1", f"{some} filters"),
        "backward_weight": ("at most 8", f"8 filters, and of {some} channels"),
    }[which]
    raise ValueError(
        f"{operation}: algorithm: 'hopper' needs square windows, stride {stride}, symmetric padding and a multiple of "
        f"{multiple} in a group, or blocks of pixels of which this is true, got x ({shape.N}, {shape.H}, {shape.W}, "
        f"{shape.C}), {shape.K} filters of {shape.KH}x{shape.KW} in {shape.groups} groups, stride "
        f"{shape.stride_h}x{shape.stride_w}"
    )


def conv2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    stride: Pair = 1,
    padding: Padding = 0,
    groups: int = 1,
    ceil: bool = False,
    needs: Needs = (True, True, True),
    precision: Precision = "fp32",
    algorithm: Algorithm = "auto",
    mask: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of ``conv2d`` (without ReLU): dx as x, dw as w, db (K,).

    dy: (N, OH, OW, K). ``needs`` says which of the three to compute; the others are None. ``algorithm``: see
    ``conv2d_algorithm``. dx is 0 where ``mask``, of the shape of x, is not above 0.

    >>> x, w = np.ones((1, 3, 3, 1), np.float32), np.ones((1, 2, 2, 1), np.float32)
    >>> dx, dw, db = kernels.conv2d_backward(np.ones((1, 2, 2, 1), np.float32), x, w)
    >>> dx[0, :, :, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]], dtype=float32)
    """
    device = _array("conv2d_backward", "dy", dy, 4, FLOATS)
    _array("conv2d_backward", "x", x, 4, dy.dtype)
    w = _weights("conv2d_backward", w, 4, dy.dtype)
    needs = _needs("conv2d_backward", needs)
    _check_mask("conv2d_backward", mask, x)
    shape = _conv2d_struct(backend.native(device), x.shape, w.shape, stride, padding, groups, ceil)
    capability = backend.capability(device)
    precision = _precision("conv2d_backward", precision, capability, dy.dtype)
    algorithm = conv2d_algorithm(shape, precision, capability, algorithm, "conv2d_backward", dy.dtype)
    dx = dw = db = None
    if needs[0]:
        dx = backend.empty(x.shape, dy.dtype, device)
        _convolve("backward_input", (dx, dy, w, mask), shape, (), algorithm, precision, device)
    if needs[2]:
        db = backend.empty(dy.shape[-1:], np.float32, device)
    if needs[1]:
        dw = backend.empty(w.shape, np.float32, device)
        _convolve("backward_weight", (dw, db, dy, x), shape, (), algorithm, precision, device)
    elif db is not None:
        _sum_rows(db, dy, device)
    return dx, dw, db


def _local2d_struct(
    operation: str,
    native: ModuleType,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: Any,
    padding: Any,
    groups: int,
    ceil: bool,
) -> Any:
    OH, OW, K, KH, KW, per_group = w_shape
    groups = _integer(operation, "groups", groups, 1)
    windows = _windows(operation, x_shape, (KH, KW), stride, padding, ceil)
    if x_shape[3] != per_group * groups or K % groups or (windows["OH"], windows["OW"]) != (OH, OW):
        raise ValueError(
            f"{operation}: with groups {groups} x of shape {x_shape} needs w of shape ({windows['OH']}, "
            f"{windows['OW']}, K, KH, KW, {x_shape[3]} / {groups}) and K a multiple of {groups}, got {w_shape}"
        )
    return native.Conv2d(K=K, groups=groups, **windows)


def local2d(
    x: Array,
    w: Array,
    b: Array | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    groups: int = 1,
    relu: bool = False,
    ceil: bool = False,
    out: Array | None = None,
) -> Array:
    """Convolution whose filters are not shared: each output pixel has its own (cuda-convnet's "local" layers).

    y[n, oh, ow, k] = b[oh, ow, k] + sum over kh, kw, c of x[n, oh stride - top + kh, ow stride - left + kw, c]
    w[oh, ow, k, kh, kw, c]

    x: (N, H, W, C); w: (OH, OW, K, KH, KW, C / groups); b: (OH, OW, K) or None. Returns (N, OH, OW, K).

    >>> w = np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1, 1, 1)  # a factor for each pixel
    >>> kernels.local2d(np.ones((1, 2, 2, 1), np.float32), w)[0, :, :, 0]
    array([[0., 1.],
           [2., 3.]], dtype=float32)
    """
    device = _array("local2d", "x", x, 4)
    _array("local2d", "w", w, 6)
    native = backend.native(device)
    shape = _local2d_struct("local2d", native, x.shape, w.shape, stride, padding, groups, ceil)
    y = _result("local2d", out, (shape.N, shape.OH, shape.OW, shape.K), device)
    workspace = backend.workspace(native.local2d_workspace(shape), device)
    native.local2d_forward(y, x, w, b, shape, relu, workspace, backend.stream(device))
    return y


def local2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    stride: Pair = 1,
    padding: Padding = 0,
    groups: int = 1,
    ceil: bool = False,
    needs: Needs = (True, True, True),
) -> tuple[Array, Array, Array]:
    """Gradients of ``local2d`` (without ReLU): dx as x, dw as w, db (OH, OW, K).

    dy: (N, OH, OW, K). ``needs`` says which of the three to compute; the others are None.

    >>> x, w = np.ones((1, 2, 2, 1), np.float32), np.ones((2, 2, 1, 1, 1, 1), np.float32)
    >>> dx, dw, db = kernels.local2d_backward(5 * x, x, w)
    >>> dw[:, :, 0, 0, 0, 0]
    array([[5., 5.],
           [5., 5.]], dtype=float32)
    """
    device = _array("local2d_backward", "dy", dy, 4)
    _array("local2d_backward", "x", x, 4)
    _array("local2d_backward", "w", w, 6)
    native, stream, needs = backend.native(device), backend.stream(device), _needs("local2d_backward", needs)
    shape = _local2d_struct("local2d_backward", native, x.shape, w.shape, stride, padding, groups, ceil)
    dx = dw = db = None
    if needs[0]:
        dx = backend.empty(x.shape, np.float32, device)
        workspace = backend.workspace(native.local2d_workspace(shape), device)
        native.local2d_backward_input(dx, dy, w, shape, workspace, stream)
    if needs[1]:
        dw = backend.empty(w.shape, np.float32, device)
        workspace = backend.workspace(native.local2d_workspace(shape), device)
        native.local2d_backward_weight(dw, dy, x, shape, workspace, stream)
    if needs[2]:
        db = bias_backward(dy.reshape(len(dy), -1)).reshape(dy.shape[1:])
    return dx, dw, db


# ---------------------------------------------------------------------------------------------- pooling


def max_pool2d(
    x: Array, size: Pair, stride: Pair | None = None, padding: Padding = 0, ceil: bool = False
) -> tuple[Array, Array]:
    """Maximum of each window; windows overlap where ``stride`` < ``size`` (paper, section 3.4).

    x: (N, H, W, C); ``stride`` defaults to ``size``. Pixels outside the image do not take part. Returns y
    (N, OH, OW, C) and which, uint8 of the same shape: the place kh KW + kw of the first maximum in its window.

    >>> x = floats([[1, 5, 2], [3, 4, 9], [8, 7, 6]]).reshape(1, 3, 3, 1)
    >>> y, which = kernels.max_pool2d(x, size=2, stride=1)
    >>> y[0, :, :, 0], which[0, :, :, 0]
    (array([[5., 9.],
           [8., 9.]], dtype=float32), array([[1, 3],
           [2, 1]], dtype=uint8))
    """
    device = _array("max_pool2d", "x", x, 4, FLOATS)
    shape = _pool2d_struct("max_pool2d", backend.native(device), x.shape, size, stride, padding, ceil)
    y = backend.empty((shape.N, shape.OH, shape.OW, shape.C), x.dtype, device)
    which = backend.empty(y.shape, np.uint8, device)
    backend.native(device).max_pool2d_forward(y, which, x, shape, backend.stream(device))
    return y, which


def max_pool2d_backward(
    dy: Array,
    which: Array,
    x_shape: tuple[int, int, int, int],
    size: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    ceil: bool = False,
) -> Array:
    """Gradient of ``max_pool2d``: each dy goes to the pixel that ``which`` names. Returns an array of ``x_shape``.

    >>> x = floats([[1, 5, 2], [3, 4, 9], [8, 7, 6]]).reshape(1, 3, 3, 1)
    >>> y, which = kernels.max_pool2d(x, size=2, stride=1)
    >>> kernels.max_pool2d_backward(np.ones_like(y), which, x.shape, size=2, stride=1)[0, :, :, 0]
    array([[0., 1., 0.],
           [0., 0., 2.],
           [1., 0., 0.]], dtype=float32)
    """
    device = _array("max_pool2d_backward", "dy", dy, 4, FLOATS)
    _array("max_pool2d_backward", "which", which, 4, np.uint8)
    shape = _pool2d_struct("max_pool2d_backward", backend.native(device), x_shape, size, stride, padding, ceil)
    dx = backend.empty(x_shape, dy.dtype, device)
    backend.native(device).max_pool2d_backward(dx, dy, which, shape, backend.stream(device))
    return dx


def avg_pool2d(
    x: Array, size: Pair, stride: Pair | None = None, padding: Padding = 0, ceil: bool = False, out: Array | None = None
) -> Array:
    """Mean of each window over the pixels inside the image. x: (N, H, W, C). Returns (N, OH, OW, C).

    >>> kernels.avg_pool2d(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1), size=2)[0, :, :, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)
    """
    device = _array("avg_pool2d", "x", x, 4, FLOATS)
    shape = _pool2d_struct("avg_pool2d", backend.native(device), x.shape, size, stride, padding, ceil)
    y = _result("avg_pool2d", out, (shape.N, shape.OH, shape.OW, shape.C), device, x.dtype)
    backend.native(device).avg_pool2d_forward(y, x, shape, backend.stream(device))
    return y


def avg_pool2d_backward(
    dy: Array,
    x_shape: tuple[int, int, int, int],
    size: Pair,
    stride: Pair | None = None,
    padding: Padding = 0,
    ceil: bool = False,
) -> Array:
    """Gradient of ``avg_pool2d``. dy: (N, OH, OW, C). Returns an array of ``x_shape``.

    >>> kernels.avg_pool2d_backward(floats([8]).reshape(1, 1, 1, 1), (1, 2, 2, 1), size=2).ravel()
    array([2., 2., 2., 2.], dtype=float32)
    """
    device = _array("avg_pool2d_backward", "dy", dy, 4, FLOATS)
    shape = _pool2d_struct("avg_pool2d_backward", backend.native(device), x_shape, size, stride, padding, ceil)
    dx = backend.empty(x_shape, dy.dtype, device)
    backend.native(device).avg_pool2d_backward(dx, dy, shape, backend.stream(device))
    return dx


# ---------------------------------------------------------------------------------------------- normalisation


@_remembering
def _lrn_struct(
    operation: str,
    native: ModuleType,
    x_shape: tuple[int, ...],
    size: int,
    k: float,
    alpha: float,
    beta: float,
    groups: int,
) -> Any:
    if not x_shape:
        raise ValueError(f"{operation}: x: expected at least one dimension, got shape ()")
    *rows, C = x_shape
    groups = _integer(operation, "groups", groups, 1)
    if C % groups:
        raise ValueError(f"{operation}: groups: expected a divisor of the {C} channels, got {groups}")
    k, alpha = _number(operation, "k", k, SMALLEST), _number(operation, "alpha", alpha, 0)
    return native.Lrn(
        rows=math.prod(rows),
        C=C,
        groups=groups,
        size=_integer(operation, "size", size, 1),
        k=k,
        alpha=alpha,
        beta=_number(operation, "beta", beta, 0),
    )


def lrn(
    x: Array,
    size: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    groups: int = 1,
    out: Array | None = None,
) -> Array:
    """Local response normalisation across channels (paper, section 3.3; defaults from there).

    y_i = x_i s_i^-beta, s_i = k + alpha * sum of x_j^2 over the ``size`` channels j from i - floor(size / 2) on, cut
    off at the ends of i's group of channels. **alpha is not divided by size**: this is the paper's formula. PyTorch,
    ONNX and Caffe divide, so their alpha is size times ours; cuda-convnet's configuration of 2012 amounts to 2e-5.

    x: (..., C); ``groups`` divides C. Returns the shape of x.

    >>> x = floats([100, 200, 300, 400, 500, 600])
    >>> kernels.lrn(x)[0]
    np.float32(12.5)
    """
    device = _array("lrn", "x", x, dtype=FLOATS)
    native = backend.native(device)
    shape = _lrn_struct("lrn", native, x.shape, size, k, alpha, beta, groups)
    y = _result("lrn", out, x.shape, device, x.dtype)
    native.lrn_forward(y, x, shape, backend.stream(device))
    return y


def lrn_backward(
    dy: Array,
    x: Array,
    size: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    groups: int = 1,
    mask: bool = False,
) -> Array:
    """Gradient of ``lrn``: dx_i = dy_i s_i^-beta - 2 alpha beta x_i * sum of dy_j x_j s_j^(-beta - 1) over the channels
    j whose window holds i; if ``mask``, 0 where x is not above 0. dy and x: (..., C). Returns the shape of x.

    >>> x = floats([100, 200, 300, 400, 500, 600])
    >>> dx = kernels.lrn_backward(np.ones_like(x), x, alpha=2e-5)
    >>> print(np.round(dx, 4))
    [ 0.2632  0.1072 -0.034  -0.1058 -0.0766 -0.0446]
    """
    device = _array("lrn_backward", "dy", dy, dtype=FLOATS)
    _array("lrn_backward", "x", x, dtype=dy.dtype)
    native = backend.native(device)
    shape = _lrn_struct("lrn_backward", native, x.shape, size, k, alpha, beta, groups)
    dx = backend.empty(x.shape, dy.dtype, device)
    native.lrn_backward(dx, dy, x, shape, bool(mask), backend.stream(device))
    return dx


def _lrn_max_pool2d_structs(
    operation: str,
    native: ModuleType,
    x_shape: tuple[int, ...],
    lrn_options: tuple[Any, ...],
    windows: tuple[Any, ...],
) -> tuple[Any, Any, bool]:
    """Of the normalisation and of the pooling, and whether one pass computes both."""
    lrn_shape = _lrn_struct(operation, native, x_shape, *lrn_options)
    pool_shape = _pool2d_struct(operation, native, x_shape, *windows)
    return lrn_shape, pool_shape, native.lrn_max_pool2d_takes(lrn_shape, pool_shape)


def lrn_max_pool2d(
    x: Array,
    lrn_size: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    groups: int = 1,
    size: Pair = 3,
    stride: Pair | None = 2,
    padding: Padding = 0,
    ceil: bool = False,
) -> tuple[Array, Array]:
    """``max_pool2d`` of ``lrn``, as after the paper's first two layers (defaults from there), to the bits of the two.
    Windows of 3 x 3 at stride 2, ``lrn_size`` 5 or 9 and beta 0.75 take one pass over x, in which nothing is written
    but the results; everything else takes one after the other.

    x: (N, H, W, C); ``lrn_size``, k, alpha, beta and ``groups`` are those of ``lrn``, the others those of
    ``max_pool2d``. Returns y (N, OH, OW, C) and which, uint8 of the same shape, as ``max_pool2d`` does.

    >>> x = np.random.default_rng(0).standard_normal((1, 5, 5, 8), np.float32)
    >>> y, which = kernels.lrn_max_pool2d(x)
    >>> expected = kernels.max_pool2d(kernels.lrn(x), size=3, stride=2)
    >>> y.shape, bool((y == expected[0]).all()), bool((which == expected[1]).all())
    ((1, 2, 2, 8), True, True)
    """
    device = _array("lrn_max_pool2d", "x", x, 4, FLOATS)
    options, windows = (lrn_size, k, alpha, beta, groups), (size, stride, padding, ceil)
    native = backend.native(device)
    lrn_shape, shape, one_pass = _lrn_max_pool2d_structs("lrn_max_pool2d", native, x.shape, options, windows)
    if not one_pass:
        return max_pool2d(lrn(x, *options), *windows)
    y = backend.empty((shape.N, shape.OH, shape.OW, shape.C), x.dtype, device)
    which = backend.empty(y.shape, np.uint8, device)
    native.lrn_max_pool2d_forward(y, which, x, lrn_shape, shape, backend.stream(device))
    return y, which


def lrn_max_pool2d_backward(
    dy: Array,
    which: Array,
    x: Array,
    lrn_size: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    groups: int = 1,
    size: Pair = 3,
    stride: Pair | None = 2,
    padding: Padding = 0,
    ceil: bool = False,
    mask: bool = False,
) -> Array:
    """Gradient of ``lrn_max_pool2d``: ``lrn_backward`` (with ``mask``) of ``max_pool2d_backward``, to their bits.
    dy and which: (N, OH, OW, C). Returns the shape of x.

    >>> x = np.random.default_rng(0).standard_normal((1, 5, 5, 8), np.float32)
    >>> y, which = kernels.lrn_max_pool2d(x)
    >>> expected = kernels.lrn_backward(kernels.max_pool2d_backward(y, which, x.shape, size=3, stride=2), x)
    >>> bool((kernels.lrn_max_pool2d_backward(y, which, x) == expected).all())
    True
    """
    device = _array("lrn_max_pool2d_backward", "dy", dy, 4, FLOATS)
    _array("lrn_max_pool2d_backward", "which", which, 4, np.uint8)
    _array("lrn_max_pool2d_backward", "x", x, 4, dy.dtype)
    options, windows = (lrn_size, k, alpha, beta, groups), (size, stride, padding, ceil)
    native = backend.native(device)
    lrn_shape, shape, one_pass = _lrn_max_pool2d_structs("lrn_max_pool2d_backward", native, x.shape, options, windows)
    if not one_pass:
        return lrn_backward(max_pool2d_backward(dy, which, x.shape, *windows), x, *options, mask=mask)
    dx = backend.empty(x.shape, x.dtype, device)
    native.lrn_max_pool2d_backward(dx, dy, which, x, lrn_shape, shape, bool(mask), backend.stream(device))
    return dx


def _spatial_lrn_struct(
    operation: str, device: backend.Device, x: Array, size: int, k: float, alpha: float, beta: float
) -> Any:
    k, alpha = _number(operation, "k", k, SMALLEST), _number(operation, "alpha", alpha, 0)
    N, H, W, C = x.shape
    size, beta = _integer(operation, "size", size, 1, 2**30 - 1), _number(operation, "beta", beta, 0)
    return backend.native(device).SpatialLrn(N=N, H=H, W=W, C=C, size=size, k=k, alpha=alpha, beta=beta)


def spatial_lrn(
    x: Array, size: int = 5, k: float = 1.0, alpha: float = 4e-5, beta: float = 0.75, out: Array | None = None
) -> Array:
    """Local response normalisation within each channel (cuda-convnet's "rnorm"; defaults as in configuration 145).

    y_p = x_p s_p^-beta, s_p = k + alpha * sum of x_q^2 over the ``size`` x ``size`` pixels q from p - floor(size / 2)
    on, cut off at the image's edges. **alpha is not divided by the window's area**; cuda-convnet's and Caffe's is.

    x: (N, H, W, C). Returns the shape of x.

    >>> x = np.full((1, 3, 3, 1), 2, np.float32)
    >>> y = kernels.spatial_lrn(x, size=3, k=1, alpha=1, beta=1)  # 2 / (1 + 4 * the pixels in the window)
    >>> print(np.round(y[0, :, :, 0], 4))
    [[0.1176 0.08   0.1176]
     [0.08   0.0541 0.08  ]
     [0.1176 0.08   0.1176]]
    """
    device = _array("spatial_lrn", "x", x, 4)
    shape = _spatial_lrn_struct("spatial_lrn", device, x, size, k, alpha, beta)
    y = _result("spatial_lrn", out, x.shape, device)
    backend.native(device).spatial_lrn_forward(y, x, shape, backend.stream(device))
    return y


def spatial_lrn_backward(
    dy: Array, x: Array, size: int = 5, k: float = 1.0, alpha: float = 4e-5, beta: float = 0.75
) -> Array:
    """Gradient of ``spatial_lrn``: dx_p = dy_p s_p^-beta - 2 alpha beta x_p * sum of dy_q x_q s_q^(-beta - 1) over the
    pixels q whose window holds p. dy and x: (N, H, W, C). Returns the shape of x.

    >>> x = np.ones((1, 1, 1, 1), np.float32)  # y = x / (1 + x^2), so that dx = (1 - x^2) / (1 + x^2)^2
    >>> kernels.spatial_lrn_backward(np.ones_like(x), x, size=1, k=1, alpha=1, beta=1).item()
    0.0
    """
    device = _array("spatial_lrn_backward", "dy", dy, 4)
    _array("spatial_lrn_backward", "x", x, 4)
    shape = _spatial_lrn_struct("spatial_lrn_backward", device, x, size, k, alpha, beta)
    dx, native = backend.empty(x.shape, np.float32, device), backend.native(device)
    workspace = backend.workspace(native.spatial_lrn_backward_workspace(shape), device)
    native.spatial_lrn_backward(dx, dy, x, shape, workspace, backend.stream(device))
    return dx


def batch_norm(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_variance: Array,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    training: bool = True,
) -> tuple[Array, Array, Array]:
    """Batch normalisation of each channel (Ioffe and Szegedy 2015; defaults of Keras).

    y = gamma (x - mean) r + beta, r = (variance + epsilon)^-1/2. In training mean and variance are those of x over all
    but the last dimension (the variance divided by their number), and the running statistics move, in place: running
    <- momentum running + (1 - momentum) batch. Otherwise the running statistics are used.

    x: (..., C); the others (C,). Returns y of the shape of x, mean (C,) and r (C,).

    >>> x, running = floats([[1], [3]]), [np.zeros(1, np.float32), np.ones(1, np.float32)]
    >>> y, mean, r = kernels.batch_norm(x, floats([1]), floats([0]), *running, momentum=0.5, epsilon=1e-12)
    >>> y.ravel(), mean, running[0]
    (array([-1.,  1.], dtype=float32), array([2.], dtype=float32), array([1.], dtype=float32))
    """
    device = _array("batch_norm", "x", x, dtype=FLOATS)
    for name, array in (("gamma", gamma), ("beta", beta)):
        _array("batch_norm", name, array, 1)
    for name, array in (("running_mean", running_mean), ("running_variance", running_variance)):
        _array("batch_norm", name, array, 1)
    momentum = _number("batch_norm", "momentum", momentum, 0, 1, open_high=True)
    epsilon = _number("batch_norm", "epsilon", epsilon, SMALLEST)
    if x.ndim == 0:
        raise ValueError("batch_norm: x: expected at least one dimension, got shape ()")
    native, C = backend.native(device), x.shape[-1]
    y = backend.empty(x.shape, x.dtype, device)
    mean, r = (backend.empty((C,), np.float32, device) for _ in range(2))
    workspace = backend.workspace(native.batch_norm_workspace(x.size // C, C), device) if training else None
    native.batch_norm_forward(
        y, mean, r, running_mean, running_variance, x, gamma, beta, momentum, epsilon, training, workspace,
        backend.stream(device),
    )  # fmt: skip
    return y, mean, r


def batch_norm_backward(
    dy: Array, x: Array, gamma: Array, mean: Array, r: Array, training: bool = True
) -> tuple[Array, Array, Array]:
    """Gradients of ``batch_norm`` from the mean and r that it returned: dx as x, dgamma and dbeta (C,).

    In training mean and r depend on x, too. dy and x: (..., C).

    >>> x = floats([[1], [3]])
    >>> dx, dgamma, dbeta = kernels.batch_norm_backward(floats([[1], [1]]), x, floats([1]), floats([2]), floats([1]))
    >>> dgamma, dbeta
    (array([0.], dtype=float32), array([2.], dtype=float32))
    """
    device = _array("batch_norm_backward", "dy", dy, dtype=FLOATS)
    _array("batch_norm_backward", "x", x, dtype=dy.dtype)
    for name, array in (("gamma", gamma), ("mean", mean), ("r", r)):
        _array("batch_norm_backward", name, array, 1)
    if dy.ndim == 0:
        raise ValueError("batch_norm_backward: dy: expected at least one dimension, got shape ()")
    native, C = backend.native(device), dy.shape[-1]
    dx = backend.empty(dy.shape, dy.dtype, device)
    dgamma, dbeta = (backend.empty((C,), np.float32, device) for _ in range(2))
    workspace = backend.workspace(native.batch_norm_workspace(dy.size // C, C), device)
    native.batch_norm_backward(dx, dgamma, dbeta, dy, x, gamma, mean, r, training, workspace, backend.stream(device))
    return dx, dgamma, dbeta


# ---------------------------------------------------------------------------------------------- storage


def _storage(operation: str, dtype: Any) -> np.dtype[Any]:
    try:
        wanted = None if dtype is None else np.dtype(dtype)
    except TypeError:
        wanted = None
    if wanted not in FLOATS:
        raise TypeError(f"{operation}: dtype: expected float32 or bfloat16, got {dtype!r}")
    return wanted


def cast(x: Array, dtype: Any, out: Array | None = None) -> Array:
    """x as float32 or bfloat16 (7 bits after the point), to which it is rounded: to the nearest, ties to even.

    x: any shape, float32 or bfloat16; ``dtype``: one of the two, as NumPy or ml_dtypes have them or by name. Returns
    the shape of x; x itself where it is of that dtype already and ``out`` is not given.

    >>> kernels.cast(floats([1, 1 / 3]), "bfloat16")
    array([1, 0.333984], dtype=bfloat16)
    """
    device = _array("cast", "x", x, dtype=FLOATS)
    wanted = _storage("cast", dtype)
    if out is None and x.dtype == wanted:
        return x
    y = _result("cast", out, x.shape, device, wanted)
    if x.dtype == wanted:
        y[...] = x
    else:
        backend.native(device).cast(y, x, backend.stream(device))
    return y


# ---------------------------------------------------------------------------------------------- activations


def _activation(operation: str, x: Array, out: Array | None) -> Array:
    device = _array(operation, "x", x, dtype=FLOATS)
    y = _result(operation, out, x.shape, device, x.dtype)
    getattr(backend.native(device), f"{operation}_forward")(y, x, backend.stream(device))
    return y


def _activation_backward(operation: str, dy: Array, y: Array) -> Array:
    device = _array(operation, "dy", dy, dtype=FLOATS)
    _array(operation, "y", y, dtype=dy.dtype)
    dx = backend.empty(dy.shape, dy.dtype, device)
    getattr(backend.native(device), operation)(dx, dy, y, backend.stream(device))
    return dx


def relu(x: Array, out: Array | None = None) -> Array:
    """max(0, x), element by element (paper, section 3.1). Returns the shape of x.

    >>> kernels.relu(floats([-1, 0, 2]))
    array([0., 0., 2.], dtype=float32)
    """
    return _activation("relu", x, out)


def relu_backward(dy: Array, y: Array) -> Array:
    """Gradient of ``relu`` from its output y: dy where y > 0, else 0. Returns the shape of dy.

    >>> kernels.relu_backward(dy=floats([5, 5, 5]), y=floats([0, 0, 2]))
    array([0., 0., 5.], dtype=float32)
    """
    return _activation_backward("relu_backward", dy, y)


def tanh(x: Array, out: Array | None = None) -> Array:
    """Hyperbolic tangent, element by element. Returns the shape of x.

    >>> print(np.round(kernels.tanh(floats([-1, 0, 2])), 4))
    [-0.7616  0.      0.964 ]
    """
    return _activation("tanh", x, out)


def tanh_backward(dy: Array, y: Array) -> Array:
    """Gradient of ``tanh`` from its output y: dy (1 - y^2). Returns the shape of dy.

    >>> kernels.tanh_backward(dy=floats([4, 4]), y=floats([0, 0.5]))
    array([4., 3.], dtype=float32)
    """
    return _activation_backward("tanh_backward", dy, y)


def sigmoid(x: Array, out: Array | None = None) -> Array:
    """1 / (1 + exp(-x)), element by element. Returns the shape of x.

    >>> print(np.round(kernels.sigmoid(floats([-1, 0, 2])), 4))
    [0.2689 0.5    0.8808]
    """
    return _activation("sigmoid", x, out)


def sigmoid_backward(dy: Array, y: Array) -> Array:
    """Gradient of ``sigmoid`` from its output y: dy y (1 - y). Returns the shape of dy.

    >>> kernels.sigmoid_backward(dy=floats([4, 4]), y=floats([0, 0.5]))
    array([0., 1.], dtype=float32)
    """
    return _activation_backward("sigmoid_backward", dy, y)


# ---------------------------------------------------------------------------------------------- dropout


def _draw(
    operation: str,
    device: backend.Device,
    p: float,
    form: str,
    training: bool,
    seed: int,
    step: int,
    purpose: int,
    first: int,
    state: Array | None,
) -> tuple[Array, int, float, float, int]:
    """What launchers take: state, first, the probability to drop, the scale of what is kept, purpose."""
    p = _number(operation, "p", p, 0, 1, open_high=True)
    if form not in ("paper", "inverted"):
        raise ValueError(f"{operation}: form: expected 'paper' or 'inverted', got {form!r}")
    seed, step = _integer(operation, "seed", seed, 0, 2**64 - 1), _integer(operation, "step", step, 0, 2**32 - 1)
    purpose = _integer(operation, "purpose", purpose, 0, 2**32 - 1)
    first = _integer(operation, "first", first, 0, 2**62 - 1)
    in_training, in_evaluation = (1.0, 1.0 - p) if form == "paper" else (1.0 / (1.0 - p), 1.0)
    if state is not None:
        _array(operation, "state", state, 1, np.uint64)
    elif training:
        state = backend.from_host(np.array([seed, step], np.uint64), device)
    else:  # nothing is drawn
        state = backend.constant(np.zeros(2, np.uint64), device)
    drop, scale = (p, in_training) if training else (0.0, in_evaluation)
    return state, first, drop, scale, purpose


def _dropout(operation: str, x: Array, *arguments: Any, out: Array | None = None) -> Array:
    device = _array(operation, "x", x, dtype=FLOATS)
    draw = _draw(operation, device, *arguments)
    y = _result(operation, out, x.shape, device, x.dtype)
    backend.native(device).dropout(y, x, *draw, backend.stream(device))
    return y


def dropout(
    x: Array,
    p: float = 0.5,
    form: Literal["paper", "inverted"] = "paper",
    training: bool = True,
    seed: int = 0,
    step: int = 0,
    purpose: int = 0,
    first: int = 0,
    out: Array | None = None,
    state: Array | None = None,
) -> Array:
    """Dropout: each element becomes zero with probability ``p`` (paper, section 4.2).

    "paper": training leaves the kept elements as they are, evaluation multiplies all by 1 - p. "inverted": training
    divides the kept ones by 1 - p, evaluation changes nothing. The mask is a function of (seed, purpose, step, index)
    by Philox 4x32-10, the same on every device; give each layer its own ``purpose`` and each step its own ``step``.
    Where x is part of a larger array, ``first`` is the index of its first element there. ``state``, an array (2,) of
    uint64 on the device of x, has seed and step in place of the two numbers.

    x: any shape; 0 <= p < 1. Returns the shape of x.

    >>> x = np.ones(8, np.float32)
    >>> set(kernels.dropout(x, 0.5, seed=1).tolist()) <= {0.0, 1.0}, kernels.dropout(x, 0.5, training=False)[0]
    (True, np.float32(0.5))
    """
    return _dropout("dropout", x, p, form, training, seed, step, purpose, first, state, out=out)


def dropout_backward(
    dy: Array,
    p: float = 0.5,
    form: Literal["paper", "inverted"] = "paper",
    training: bool = True,
    seed: int = 0,
    step: int = 0,
    purpose: int = 0,
    first: int = 0,
    state: Array | None = None,
) -> Array:
    """Gradient of ``dropout`` called with the same arguments: the mask is computed anew, not stored.

    >>> x = np.arange(1, 9, dtype=np.float32)
    >>> kept = kernels.dropout(x, 0.5, seed=1) > 0
    >>> bool((kernels.dropout_backward(x, 0.5, seed=1) == x * kept).all())
    True
    """
    return _dropout("dropout_backward", dy, p, form, training, seed, step, purpose, first, state)


# ---------------------------------------------------------------------------------------------- loss


def softmax(x: Array, out: Array | None = None) -> Array:
    """p_c = exp(x_c) / sum of exp(x) in each row. x: (N, C). Returns (N, C).

    >>> kernels.softmax(floats([[0, 0, 0, 0]]))
    array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """
    device = _array("softmax", "x", x, 2)
    p = _result("softmax", out, x.shape, device)
    backend.native(device).softmax(p, x, backend.stream(device))
    return p


def _labels(operation: str, labels: Array, N: int, C: int) -> Array:
    device = backend.device_of(labels) if hasattr(labels, "dtype") else None
    if device is None or labels.dtype.kind not in "iu":
        got = getattr(labels, "dtype", type(labels).__name__)
        raise TypeError(f"{operation}: labels: expected an array of integers, got {got}")
    if labels.shape != (N,):
        raise ValueError(f"{operation}: labels: expected shape ({N},), got {labels.shape}")
    known = labels
    if labels.dtype != np.int32 or not labels.flags.c_contiguous:
        known = labels.astype(np.int64).clip(-1, C).astype(np.int32)  # what is out of range stays so
    if device.kind == "cpu" and known.view(np.uint32).max() >= C:  # negative ones are large
        raise ValueError(f"{operation}: labels: expected integers in [0, {C}), got {labels.min()} to {labels.max()}")
    return known


def softmax_cross_entropy(x: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Softmax and the mean negative log-likelihood of the labels (paper, section 3.5).

    losses_n = -log p[n, label_n], loss = their mean. x: (N, C) logits; labels: (N,) integers in [0, C). Returns loss
    (shape ()), losses (N,) and p = softmax(x) (N, C). A label out of range raises ValueError on the CPU; on a GPU,
    where a look at it would wait for the device, its loss is NaN.

    >>> loss, losses, p = kernels.softmax_cross_entropy(np.zeros((2, 1000), np.float32), np.array([3, 999]))
    >>> round(float(loss), 6)  # log 1000
    6.907755
    """
    device = _array("softmax_cross_entropy", "x", x, 2)
    N, C = x.shape
    labels = _labels("softmax_cross_entropy", labels, N, C)
    loss, losses = backend.empty((), np.float32, device), backend.empty((N,), np.float32, device)
    p = backend.empty((N, C), np.float32, device)
    backend.native(device).softmax_cross_entropy_forward(loss, losses, p, x, labels, backend.stream(device))
    return loss, losses, p


def softmax_cross_entropy_backward(p: Array, labels: Array, dloss: Array | None = None) -> Array:
    """Gradient of the mean loss with respect to the logits: (p - onehot(labels)) dloss / N.

    p: (N, C) from ``softmax_cross_entropy``; dloss: one float32, 1 by default. Returns (N, C).

    >>> p = floats([[0.25, 0.75], [0.5, 0.5]])
    >>> kernels.softmax_cross_entropy_backward(p, np.array([0, 1]))
    array([[-0.375,  0.375],
           [ 0.25 , -0.25 ]], dtype=float32)
    """
    device = _array("softmax_cross_entropy_backward", "p", p, 2)
    labels = _labels("softmax_cross_entropy_backward", labels, *p.shape)
    if dloss is None:
        dloss = backend.from_host(np.ones((), np.float32), device)
    else:
        _array("softmax_cross_entropy_backward", "dloss", dloss, 0)
    dx = backend.empty(p.shape, np.float32, device)
    backend.native(device).softmax_cross_entropy_backward(dx, dloss, p, labels, backend.stream(device))
    return dx


# ---------------------------------------------------------------------------------------------- update


def _rate(operation: str, lr: Any, device: backend.Device) -> Array:
    """The learning rate as a float32 array of shape () on the device."""
    if not isinstance(lr, (int, float)):
        _array(operation, "lr", lr, 0)
        return lr
    number = _number(operation, "lr", lr, 0, float(np.finfo(np.float32).max))
    return backend.from_host(np.asarray(number, np.float32), device)


def sgd(
    w: Array, v: Array, g: Array, lr: float | Array, momentum: float = 0.9, decay: float = 5e-4, lr_scale: float = 1.0
) -> None:
    """One update of stochastic gradient descent in the paper's form (section 5), in place.

    v <- momentum v - decay e w - e g, w <- w + v, with e = lr lr_scale. w, v (the momentum), g (the gradient): equal
    shapes. ``lr`` is a number or a float32 array of shape () on the device of w.

    >>> w, v = floats([1]), floats([0.1])
    >>> kernels.sgd(w, v, floats([0.5]), lr=0.01)
    >>> print(round(w.item(), 6), round(v.item(), 6))
    1.084995 0.084995
    """
    device = _array("sgd", "w", w)
    _array("sgd", "v", v)
    _array("sgd", "g", g)
    native, stream, lr = backend.native(device), backend.stream(device), _rate("sgd", lr, device)
    lr_scale, decay = _number("sgd", "lr_scale", lr_scale, 0), _number("sgd", "decay", decay, 0)
    momentum = _number("sgd", "momentum", momentum, 0, 1, open_high=True)
    native.sgd(w, v, g, lr, lr_scale, momentum, decay, stream)


def multi_sgd(
    w: Sequence[Array],
    v: Sequence[Array],
    g: Sequence[Array],
    lr: Sequence[float | Array],
    momentum: Sequence[float],
    decay: Sequence[float],
) -> None:
    """``sgd`` of many parameters at once, to the same bits: of w[i], v[i] and g[i] with lr[i], momentum[i] and
    decay[i], in place. All are on one device.

    >>> w, v = [floats([1]), floats([2, 3])], [floats([0.1]), floats([0, 0])]
    >>> kernels.multi_sgd(w, v, [floats([0.5]), floats([1, 2])], [0.01, 1.0], [0.9, 0.0], [5e-4, 0.0])
    >>> print(round(w[0].item(), 6), w[1])
    1.084995 [1. 1.]
    """
    columns = {"w": w, "v": v, "g": g, "lr": lr, "momentum": momentum, "decay": decay}
    for name, values in columns.items():
        if not isinstance(values, (tuple, list)):
            raise TypeError(f"multi_sgd: {name}: expected a list, got {type(values).__name__}")
        if len(values) != len(w) or not values:
            expected = f"{len(w)} entries, as many as w has" if w else "at least one entry"
            raise ValueError(f"multi_sgd: {name}: expected {expected}, got {len(values)}")
    for name, arrays in (("v", v), ("g", g), ("w", w)):
        for array in arrays:
            device = _array("multi_sgd", name, array)
    rates = [_rate("multi_sgd", rate, device) for rate in lr]
    momenta = [_number("multi_sgd", "momentum", value, 0, 1, open_high=True) for value in momentum]
    decays = [_number("multi_sgd", "decay", value, 0) for value in decay]
    backend.native(device).multi_sgd(list(w), list(v), list(g), rates, momenta, decays, backend.stream(device))


def adam_epsilon(operation: str, form: str, epsilon: float | None) -> float:
    """``epsilon`` after checking both, or the form's own."""
    if form not in (forms := tuple(ADAM_EPSILONS)):
        raise ValueError(f"{operation}: form: expected {_either(forms)}, got {form!r}")
    return _number(operation, "epsilon", ADAM_EPSILONS[form] if epsilon is None else epsilon, SMALLEST)


def adam(
    w: Array,
    m: Array,
    v: Array,
    g: Array,
    lr: float | Array,
    t: int | Array,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float | None = None,
    decay: float = 0.0,
    lr_scale: float = 1.0,
    form: str = "keras",
) -> None:
    """Update number ``t`` (from 1 on) of Adam (Kingma and Ba 2015), in place.

    g' = g + decay w, m <- beta1 m + (1 - beta1) g', v <- beta2 v + (1 - beta2) g'^2, then with e = lr lr_scale

    - ``form`` "keras": w <- w - e sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon), where epsilon is the
      article's "epsilon hat" (the end of its section 2), by default 1e-7;
    - "pytorch": w <- w - e (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon), its algorithm 1, by default 1e-8.

    w, m, v, g: equal shapes. ``lr`` and ``t`` are numbers or float32 arrays of shape () on the device of w.

    >>> w, m, v = floats([1]), floats([0]), floats([0])
    >>> kernels.adam(w, m, v, floats([0.5]), lr=0.01, t=1)  # the first step is as long as the rate
    >>> print(round(w.item(), 6))
    0.99
    """
    device = _array("adam", "w", w)
    for name, array in (("m", m), ("v", v), ("g", g)):
        _array("adam", name, array)
    if isinstance(t, (int, np.integer)):
        t = backend.from_host(np.asarray(_integer("adam", "t", t, 1), np.float32), device)
    else:
        _array("adam", "t", t, 0)
    native, lr = backend.native(device), _rate("adam", lr, device)
    epsilon = adam_epsilon("adam", form, epsilon)
    parameters = native.Adam(
        beta1=_number("adam", "beta1", beta1, 0, 1, open_high=True),
        beta2=_number("adam", "beta2", beta2, 0, 1, open_high=True),
        epsilon=0.0 if form == "keras" else epsilon,
        epsilon_hat=epsilon if form == "keras" else 0.0,
        decay=_number("adam", "decay", decay, 0),
        lr_scale=_number("adam", "lr_scale", lr_scale, 0),
    )
    native.adam(w, m, v, g, lr, t, parameters, backend.stream(device))


# ---------------------------------------------------------------------------------------------- images


@_remembering
def _augment_struct(native: ModuleType, N: int, stored_h: int, stored_w: int, H: int, W: int, scale: float) -> Any:
    scale = _number("augment", "scale", scale)
    return native.Augment(N=N, stored_h=stored_h, stored_w=stored_w, H=H, W=W, scale=scale)


def augment(
    x: Array,
    size: tuple[int, int],
    mean: Array,
    crops: Array,
    noise: Array | None = None,
    scale: float = 1.0,
    dtype: Any = np.float32,
) -> Array:
    """Stored images to a network's input (paper, section 4.1): crops of (x - mean + noise) * scale.

    x: (N, H, W, 3) uint8; mean: (H, W, 3) float32; crops: (N, 3) int32, the crop's top and left and whether to mirror
    it (1) or not (0); noise: (N, 3) float32 added to each image's channels, or None. ``size``: (height, width) of the
    crops. Crops that do not lie in the image raise ValueError on the CPU; on a GPU, where a look at them would wait for
    the device, they are moved into it. Returns (N, *size, 3), float32 or bfloat16, whichever ``dtype`` names.

    >>> x, mean = np.full((1, 4, 4, 3), 200, np.uint8), np.full((4, 4, 3), 120, np.float32)
    >>> y = kernels.augment(x, (2, 2), mean, np.array([[1, 1, 0]], np.int32), scale=0.5)
    >>> y.shape, y[0, 0, 0]
    ((1, 2, 2, 3), array([40., 40., 40.], dtype=float32))
    """
    device = _array("augment", "x", x, 4, np.uint8)
    _array("augment", "mean", mean, 3)
    _array("augment", "crops", crops, 2, np.int32)
    if noise is not None:
        _array("augment", "noise", noise, 2)
    N, stored_h, stored_w, _ = x.shape
    H, W = _pair("augment", "size", size, 1)
    if stored_h < H or stored_w < W:
        raise ValueError(f"augment: size: expected at most ({stored_h}, {stored_w}), that of x, got {(H, W)}")
    if device.kind == "cpu" and crops.shape == (N, 3):
        last = (stored_h - H, stored_w - W, 1)
        if (crops.view(np.uint32) > last).any():  # negative ones are large
            raise ValueError(f"augment: crops: expected (top, left, mirrored) from (0, 0, 0) to {last}, got {crops}")
    native = backend.native(device)
    shape = _augment_struct(native, N, stored_h, stored_w, H, W, scale)
    y = backend.empty((N, H, W, 3), _storage("augment", dtype), device)
    native.augment(y, x, mean, crops, noise, shape, backend.stream(device))
    return y


for _name in __all__:
    if _name != "window_output":
        globals()[_name] = _any_library(globals()[_name])
