"""Convolutions, with filters that all pixels share and with filters of each pixel's own."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import numpy as np
from ml_dtypes import bfloat16

from .. import backend
from .any_library import any_library
from .arguments import (
    FLOATS,
    Array,
    Needs,
    Padding,
    Pair,
    Precision,
    check_array,
    check_integer,
    check_like,
    check_needs,
    check_precision,
    either,
    remembering,
    result_array,
)
from .elementwise import before_relu, bias_backward, sum_rows
from .products import check_weights
from .windows import window_fields

Algorithm = Literal["auto", "im2col", "winograd", "implicit", "space_to_depth", "hopper"]
ConvolutionPass = Literal["forward", "backward_input", "backward_weight"]
Launcher = tuple[Callable[..., None], Callable[..., int]]
"""Of one pass in one way, and what tells the bytes of its workspace."""
LEAST_CHANNELS = 16
"""Inputs and outputs of a pixel's product from which on Winograd's convolution pays: half their harmonic mean."""


def conv2d_algorithm(
    shape: Any,
    precision: Precision,
    capability: tuple[int, int] | None,
    algorithm: Algorithm = "auto",
    operation: str = "conv2d",
    dtype: Any = np.float32,
) -> Algorithm:
    """What computes a convolution, or its gradients, on a GPU of that compute capability (None: on a CPU), where
    ``algorithm`` is asked for.

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

    shape: the native module's Conv2d; ``operation``: whose arguments these are, for errors.
    """
    known = ("auto", "im2col", "winograd", "implicit", "space_to_depth", "hopper")
    if algorithm not in known:
        raise ValueError(f"{operation}: algorithm: expected {either(known)}, got {algorithm!r}")
    precision = check_precision(operation, precision, capability, dtype)
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
            f"{operation}: algorithm: expected {either(able)} for precision {precision!r}{stored} {where}, "
            f"got {algorithm!r}"
        )
    if algorithm == "winograd" and not shape.winograd:
        got = f"{shape.KH}x{shape.KW} at stride {shape.stride_h}x{shape.stride_w}"
        raise ValueError(f"{operation}: algorithm: 'winograd' expects filters of 3x3 or 5x5 at stride 1, got {got}")
    return algorithm


@remembering
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
    groups = check_integer("conv2d", "groups", groups, 1)
    if x_shape[3] != per_group * groups or K % groups:
        channels_first = x_shape[1] == per_group * groups and x_shape[3] != x_shape[1]
        hint = "; channels come last: x.transpose(0, 2, 3, 1), made contiguous" if channels_first else ""
        raise ValueError(
            f"conv2d: with groups {groups} x of shape {x_shape} needs w of shape (K, KH, KW, {x_shape[3]} / {groups}) "
            f"and K a multiple of {groups}, got {w_shape}{hint}"
        )
    return native.Conv2d(K=K, groups=groups, **window_fields("conv2d", x_shape, (KH, KW), stride, padding, ceil))


@any_library
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
    device = check_array("conv2d", "x", x, 4, FLOATS)
    w = check_weights("conv2d", w, 4, x.dtype)
    native, capability = backend.native(device), backend.capability(device)
    shape = _conv2d_struct(native, x.shape, w.shape, stride, padding, groups, ceil)
    precision = check_precision("conv2d", precision, capability, x.dtype)
    algorithm = conv2d_algorithm(shape, precision, capability, algorithm, dtype=x.dtype)
    y = result_array("conv2d", out, (shape.N, shape.OH, shape.OW, shape.K), device, x.dtype)
    _convolve("forward", (y, x, w, b), shape, algorithm, precision, device, relu)
    return y


@any_library
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
    y: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of ``conv2d``, with ReLU if its output ``y`` is given: dx as x, dw as w, db (K,).

    dy and y: (N, OH, OW, K). ``needs`` says which of the three to compute; the others are None. ``algorithm``: see
    ``conv2d_algorithm``. dx is 0 where ``mask``, of the shape of x, is not above 0.

    >>> x, w = np.ones((1, 3, 3, 1), np.float32), np.ones((1, 2, 2, 1), np.float32)
    >>> dx, dw, db = kernels.conv2d_backward(np.ones((1, 2, 2, 1), np.float32), x, w)
    >>> dx[0, :, :, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]], dtype=float32)
    """
    device = check_array("conv2d_backward", "dy", dy, 4, FLOATS)
    check_array("conv2d_backward", "x", x, 4, dy.dtype)
    w = check_weights("conv2d_backward", w, 4, dy.dtype)
    needs = check_needs("conv2d_backward", needs)
    check_like("conv2d_backward", "mask", mask, "x", x)
    shape = _conv2d_struct(backend.native(device), x.shape, w.shape, stride, padding, groups, ceil)
    capability = backend.capability(device)
    precision = check_precision("conv2d_backward", precision, capability, dy.dtype)
    algorithm = conv2d_algorithm(shape, precision, capability, algorithm, "conv2d_backward", dy.dtype)
    dx = dw = db = sums = None
    if y is not None:
        dy, db = before_relu("conv2d_backward", dy, y, need_db=needs[2])
    elif needs[2]:
        db = sums = backend.empty(dy.shape[-1:], np.float32, device)
    if needs[0]:
        dx = backend.empty(x.shape, dy.dtype, device)
        _convolve("backward_input", (dx, dy, w, mask), shape, algorithm, precision, device)
    if needs[1]:
        dw = backend.empty(w.shape, np.float32, device)
        _convolve("backward_weight", (dw, sums, dy, x), shape, algorithm, precision, device)
    elif sums is not None:
        sum_rows(sums, dy, device)
    return dx, dw, db


def _forward(native: ModuleType, algorithm: Algorithm) -> Launcher:
    match algorithm:
        case "winograd":
            return native.winograd_conv2d_forward, native.winograd_conv2d_forward_workspace
        case "implicit":
            return native.implicit_conv2d_forward, native.implicit_conv2d_forward_workspace
        case "space_to_depth":
            return native.space_to_depth_conv2d_forward, native.space_to_depth_conv2d_forward_workspace
        case "hopper":
            return native.hopper_conv2d_forward, native.hopper_conv2d_forward_workspace
        case _:
            return native.conv2d_forward, native.conv2d_forward_workspace


def _backward_input(native: ModuleType, algorithm: Algorithm) -> Launcher:
    match algorithm:
        case "winograd":
            return native.winograd_conv2d_backward_input, native.winograd_conv2d_backward_input_workspace
        case "implicit":
            return native.implicit_conv2d_backward_input, native.implicit_conv2d_backward_input_workspace
        case "space_to_depth":
            return native.space_to_depth_conv2d_backward_input, native.space_to_depth_conv2d_backward_input_workspace
        case "hopper":
            return native.hopper_conv2d_backward_input, native.hopper_conv2d_backward_input_workspace
        case _:
            return native.conv2d_backward_input, native.conv2d_backward_input_workspace


def _backward_weight(native: ModuleType, algorithm: Algorithm) -> Launcher:
    match algorithm:
        case "winograd":
            return native.winograd_conv2d_backward_weight, native.winograd_conv2d_backward_weight_workspace
        case "implicit":
            return native.implicit_conv2d_backward_weight, native.implicit_conv2d_backward_weight_workspace
        case "space_to_depth":
            return native.space_to_depth_conv2d_backward_weight, native.space_to_depth_conv2d_backward_weight_workspace
        case "hopper":
            return native.hopper_conv2d_backward_weight, native.hopper_conv2d_backward_weight_workspace
        case _:
            return native.conv2d_backward_weight, native.conv2d_backward_weight_workspace


LAUNCHERS = {"forward": _forward, "backward_input": _backward_input, "backward_weight": _backward_weight}


@remembering
def _conv2d_options(native: ModuleType, precision: Precision, relu: bool, hopper: bool) -> Any:
    return native.Conv2dOptions(precision=precision, relu=relu, hopper=hopper)


def _convolve(
    which: ConvolutionPass,
    arrays: tuple[Any, ...],
    shape: Any,
    algorithm: Algorithm,
    precision: Precision,
    device: backend.Device,
    relu: bool = False,
) -> None:
    """Launches a pass of a convolution."""
    native, stored_bfloat16 = backend.native(device), arrays[2].dtype == bfloat16
    hopper = algorithm == "hopper"
    if hopper and _hopper_in_blocks(which, shape, precision, stored_bfloat16):
        algorithm = "space_to_depth"
    options = _conv2d_options(native, precision, relu, hopper)
    launch, workspace_bytes = LAUNCHERS[which](native, algorithm)
    workspace = backend.workspace(workspace_bytes(shape, options, stored_bfloat16), device)
    launch(*arrays, shape, options, workspace, backend.stream(device))


def hopper_takes(shape: Any, which: ConvolutionPass, precision: Precision, stored_bfloat16: bool) -> bool:
    """Whether "hopper" computes that pass, of the convolution or of that of its blocks of pixels."""
    return _hopper_itself(shape, which, precision) or (
        shape.space_to_depth(stored_bfloat16) and _hopper_itself(shape.blocks(stored_bfloat16), which, precision)
    )


def _hopper_itself(shape: Any, which: ConvolutionPass, precision: Precision) -> bool:
    takes: Callable[[str], bool] = {
        "forward": shape.hopper,
        "backward_input": shape.hopper_backward_input,
        "backward_weight": shape.hopper_backward_weight,
    }[which]
    return takes(precision)


def _hopper_in_blocks(which: ConvolutionPass, shape: Any, precision: Precision, stored_bfloat16: bool) -> bool:
    """Whether "hopper" takes that pass only of the convolution of blocks of pixels. ValueError where not even that."""
    if _hopper_itself(shape, which, precision):
        return False
    if hopper_takes(shape, which, precision, stored_bfloat16):
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


@any_library
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
    device = check_array("local2d", "x", x, 4)
    check_array("local2d", "w", w, 6)
    native = backend.native(device)
    shape = _local2d_struct("local2d", native, x.shape, w.shape, stride, padding, groups, ceil)
    y = result_array("local2d", out, (shape.N, shape.OH, shape.OW, shape.K), device)
    workspace = backend.workspace(native.local2d_workspace(shape), device)
    native.local2d_forward(y, x, w, b, shape, relu, workspace, backend.stream(device))
    return y


@any_library
def local2d_backward(
    dy: Array,
    x: Array,
    w: Array,
    stride: Pair = 1,
    padding: Padding = 0,
    groups: int = 1,
    ceil: bool = False,
    needs: Needs = (True, True, True),
    y: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of ``local2d``, with ReLU if its output ``y`` is given: dx as x, dw as w, db (OH, OW, K).

    dy and y: (N, OH, OW, K). ``needs`` says which of the three to compute; the others are None.

    >>> x, w = np.ones((1, 2, 2, 1), np.float32), np.ones((2, 2, 1, 1, 1, 1), np.float32)
    >>> dx, dw, db = kernels.local2d_backward(5 * x, x, w)
    >>> dw[:, :, 0, 0, 0, 0]
    array([[5., 5.],
           [5., 5.]], dtype=float32)
    """
    device = check_array("local2d_backward", "dy", dy, 4)
    check_array("local2d_backward", "x", x, 4)
    check_array("local2d_backward", "w", w, 6)
    native, stream, needs = backend.native(device), backend.stream(device), check_needs("local2d_backward", needs)
    shape = _local2d_struct("local2d_backward", native, x.shape, w.shape, stride, padding, groups, ceil)
    dx = dw = db = None
    if y is not None:
        check_like("local2d_backward", "y", y, "dy", dy)
        dy, db = before_relu("local2d_backward", _per_image(dy), _per_image(y), need_db=needs[2])
        dy = dy.reshape(y.shape)
    elif needs[2]:
        db = bias_backward(_per_image(dy))
    if needs[0]:
        dx = backend.empty(x.shape, np.float32, device)
        workspace = backend.workspace(native.local2d_workspace(shape), device)
        native.local2d_backward_input(dx, dy, w, shape, workspace, stream)
    if needs[1]:
        dw = backend.empty(w.shape, np.float32, device)
        workspace = backend.workspace(native.local2d_workspace(shape), device)
        native.local2d_backward_weight(dw, dy, x, shape, workspace, stream)
    return dx, dw, None if db is None else db.reshape(dy.shape[1:])


def _per_image(x: Array) -> Array:
    """(N, ...) as a matrix with a row an image."""
    return x.reshape(len(x), -1)


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
    groups = check_integer(operation, "groups", groups, 1)
    windows = window_fields(operation, x_shape, (KH, KW), stride, padding, ceil)
    if x_shape[3] != per_group * groups or K % groups or (windows["OH"], windows["OW"]) != (OH, OW):
        raise ValueError(
            f"{operation}: with groups {groups} x of shape {x_shape} needs w of shape ({windows['OH']}, "
            f"{windows['OW']}, K, KH, KW, {x_shape[3]} / {groups}) and K a multiple of {groups}, got {w_shape}"
        )
    return native.Conv2d(K=K, groups=groups, **windows)
