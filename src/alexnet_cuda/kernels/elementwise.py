"""Biases, activation functions, dropout and conversion: operations on each element."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from .. import backend
from .any_library import any_library
from .arguments import FLOATS, Array, check_array, check_integer, check_like, check_number, check_storage, result_array


@any_library
def bias(x: Array, b: Array, relu: bool = False, out: Array | None = None) -> Array:
    """x + b over the last dimension, then max(0, .) if ``relu``. x: (..., C), b: (C,). Returns the shape of x.

    >>> kernels.bias(floats([[1, 2], [3, 4]]), floats([10, -20]), relu=True)
    array([[11.,  0.],
           [13.,  0.]], dtype=float32)
    """
    device = check_array("bias", "x", x, dtype=FLOATS)
    check_array("bias", "b", b, 1)
    y = result_array("bias", out, x.shape, device, x.dtype)
    backend.native(device).bias_forward(y, x, b, relu, backend.stream(device))
    return y


@any_library
def bias_backward(dy: Array) -> Array:
    """Gradient of ``bias`` with respect to b: dy (..., C) summed over all but the last dimension. Returns (C,).

    >>> kernels.bias_backward(floats([[1, 2], [3, 4]]))
    array([4., 6.], dtype=float32)
    """
    device = check_array("bias_backward", "dy", dy, dtype=FLOATS)
    if dy.ndim == 0:
        raise ValueError("bias_backward: dy: expected at least one dimension, got shape ()")
    db = backend.empty(dy.shape[-1:], np.float32, device)
    sum_rows(db, dy, device)
    return db


@any_library
def bias_relu_backward(dy: Array, y: Array, scale: float = 1.0, need_db: bool = True) -> tuple[Array, Array]:
    """Gradients of ``bias`` with ``relu`` from its output y, in one pass: dx, which is dy where y > 0, else 0, and db,
    dx summed over all but the last dimension, to the bits of ``relu_backward`` and ``bias_backward``. If y is what
    ``dropout`` left of that output, to the bits of ``dropout_backward``, too, which multiplies by ``scale``.

    dy and y: (..., C). Returns dx of that shape and db (C,), or None without ``need_db``.

    >>> dx, db = kernels.bias_relu_backward(dy=floats([[1, 2], [3, 4]]), y=floats([[0, 5], [6, 7]]))
    >>> dx, db
    (array([[0., 2.],
           [3., 4.]], dtype=float32), array([3., 6.], dtype=float32))
    """
    return before_relu("bias_relu_backward", dy, y, scale, need_db)


def before_relu(operation: str, dy: Array, y: Array, scale: float = 1.0, need_db: bool = True) -> tuple[Array, Array]:
    """``bias_relu_backward`` for that operation."""
    device = check_array(operation, "dy", dy, dtype=FLOATS)
    check_like(operation, "y", y, "dy", dy)
    if dy.ndim == 0:
        raise ValueError(f"{operation}: dy: expected at least one dimension, got shape ()")
    scale = check_number(operation, "scale", scale)
    native, stream, C = backend.native(device), backend.stream(device), dy.shape[-1]
    dx = backend.empty(dy.shape, dy.dtype, device)
    if scale == 1 and not need_db:
        native.relu_backward(dx, dy, y, stream)
        return dx, None
    db = backend.empty((C,), np.float32, device)
    workspace = backend.workspace(native.bias_backward_workspace(dy.size // C, C), device)
    native.bias_relu_backward(dx, db, dy, y, scale, workspace, stream)
    return dx, db if need_db else None


def sum_rows(db: Array, dy: Array, device: backend.Device) -> None:
    """db (C,) = the sums of dy (..., C)."""
    native, C = backend.native(device), dy.shape[-1]
    workspace = backend.workspace(native.bias_backward_workspace(dy.size // C, C), device)
    native.bias_backward(db, dy, workspace, backend.stream(device))


@any_library
def cast(x: Array, dtype: Any, out: Array | None = None) -> Array:
    """x as float32 or bfloat16 (7 bits after the point), to which it is rounded: to the nearest, ties to even.

    x: any shape, float32 or bfloat16; ``dtype``: one of the two, as NumPy or ml_dtypes have them or by name. Returns
    the shape of x; x itself where it is of that dtype already and ``out`` is not given.

    >>> kernels.cast(floats([1, 1 / 3]), "bfloat16")
    array([1, 0.333984], dtype=bfloat16)
    """
    device = check_array("cast", "x", x, dtype=FLOATS)
    wanted = check_storage("cast", dtype)
    if out is None and x.dtype == wanted:
        return x
    y = result_array("cast", out, x.shape, device, wanted)
    if x.dtype == wanted:
        y[...] = x
    else:
        backend.native(device).cast(y, x, backend.stream(device))
    return y


def _result_as(operation: str, x: Array, out: Array | None) -> tuple[Array, backend.Device]:
    """``out``, or a new array, of the shape and dtype of x, after checking both."""
    device = check_array(operation, "x", x, dtype=FLOATS)
    return result_array(operation, out, x.shape, device, x.dtype), device


def _gradient_as(operation: str, dy: Array, y: Array) -> tuple[Array, backend.Device]:
    """A new array of the shape and dtype of dy, after checking both."""
    device = check_array(operation, "dy", dy, dtype=FLOATS)
    check_array(operation, "y", y, dtype=dy.dtype)
    return backend.empty(dy.shape, dy.dtype, device), device


@any_library
def relu(x: Array, out: Array | None = None) -> Array:
    """max(0, x), element by element (paper, section 3.1). Returns the shape of x.

    >>> kernels.relu(floats([-1, 0, 2]))
    array([0., 0., 2.], dtype=float32)
    """
    y, device = _result_as("relu", x, out)
    backend.native(device).relu_forward(y, x, backend.stream(device))
    return y


@any_library
def relu_backward(dy: Array, y: Array) -> Array:
    """Gradient of ``relu`` from its output y: dy where y > 0, else 0. Returns the shape of dy.

    >>> kernels.relu_backward(dy=floats([5, 5, 5]), y=floats([0, 0, 2]))
    array([0., 0., 5.], dtype=float32)
    """
    dx, device = _gradient_as("relu_backward", dy, y)
    backend.native(device).relu_backward(dx, dy, y, backend.stream(device))
    return dx


@any_library
def tanh(x: Array, out: Array | None = None) -> Array:
    """Hyperbolic tangent, element by element. Returns the shape of x.

    >>> print(np.round(kernels.tanh(floats([-1, 0, 2])), 4))
    [-0.7616  0.      0.964 ]
    """
    y, device = _result_as("tanh", x, out)
    backend.native(device).tanh_forward(y, x, backend.stream(device))
    return y


@any_library
def tanh_backward(dy: Array, y: Array) -> Array:
    """Gradient of ``tanh`` from its output y: dy (1 - y^2). Returns the shape of dy.

    >>> kernels.tanh_backward(dy=floats([4, 4]), y=floats([0, 0.5]))
    array([4., 3.], dtype=float32)
    """
    dx, device = _gradient_as("tanh_backward", dy, y)
    backend.native(device).tanh_backward(dx, dy, y, backend.stream(device))
    return dx


@any_library
def sigmoid(x: Array, out: Array | None = None) -> Array:
    """1 / (1 + exp(-x)), element by element. Returns the shape of x.

    >>> print(np.round(kernels.sigmoid(floats([-1, 0, 2])), 4))
    [0.2689 0.5    0.8808]
    """
    y, device = _result_as("sigmoid", x, out)
    backend.native(device).sigmoid_forward(y, x, backend.stream(device))
    return y


@any_library
def sigmoid_backward(dy: Array, y: Array) -> Array:
    """Gradient of ``sigmoid`` from its output y: dy y (1 - y). Returns the shape of dy.

    >>> kernels.sigmoid_backward(dy=floats([4, 4]), y=floats([0, 0.5]))
    array([0., 1.], dtype=float32)
    """
    dx, device = _gradient_as("sigmoid_backward", dy, y)
    backend.native(device).sigmoid_backward(dx, dy, y, backend.stream(device))
    return dx


def dropout_draw(
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
    p = check_number(operation, "p", p, 0, 1, open_high=True)
    if form not in ("paper", "inverted"):
        raise ValueError(f"{operation}: form: expected 'paper' or 'inverted', got {form!r}")
    seed, step = (
        check_integer(operation, "seed", seed, 0, 2**64 - 1),
        check_integer(operation, "step", step, 0, 2**32 - 1),
    )
    purpose = check_integer(operation, "purpose", purpose, 0, 2**32 - 1)
    first = check_integer(operation, "first", first, 0, 2**62 - 1)
    in_training, in_evaluation = (1.0, 1.0 - p) if form == "paper" else (1.0 / (1.0 - p), 1.0)
    if state is not None:
        check_array(operation, "state", state, 1, np.uint64)
    elif training:
        state = backend.from_host(np.array([seed, step], np.uint64), device)
    else:  # nothing is drawn
        state = backend.constant(np.zeros(2, np.uint64), device)
    drop, scale = (p, in_training) if training else (0.0, in_evaluation)
    return state, first, drop, scale, purpose


def _dropout(operation: str, x: Array, *arguments: Any, out: Array | None = None) -> Array:
    device = check_array(operation, "x", x, dtype=FLOATS)
    draw = dropout_draw(operation, device, *arguments)
    y = result_array(operation, out, x.shape, device, x.dtype)
    backend.native(device).dropout(y, x, *draw, backend.stream(device))
    return y


@any_library
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

    ``form`` "paper": training leaves the kept elements as they are, evaluation multiplies all by 1 - p. "inverted":
    training divides the kept ones by 1 - p, evaluation changes nothing. The mask is a function of (seed, purpose, step,
    index) by Philox 4x32-10, the same on every device; give each layer its own ``purpose`` and each step its own
    ``step``. Where x is part of a larger array, ``first`` is the index of its first element there. ``state``, an array
    (2,) of uint64 on the device of x, has seed and step in place of the two numbers.

    x: any shape; 0 <= p < 1. Returns the shape of x.

    >>> x = np.ones(8, np.float32)
    >>> set(kernels.dropout(x, 0.5, seed=1).tolist()) <= {0.0, 1.0}, kernels.dropout(x, 0.5, training=False)[0]
    (True, np.float32(0.5))
    """
    return _dropout("dropout", x, p, form, training, seed, step, purpose, first, state, out=out)


@any_library
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
