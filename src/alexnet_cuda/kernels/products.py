"""Matrix products and fully connected layers."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from ml_dtypes import bfloat16

from .. import backend
from .any_library import any_library
from .arguments import (
    FLOATS,
    Array,
    Needs,
    Precision,
    check_array,
    check_like,
    check_needs,
    check_number,
    check_precision,
    result_array,
)
from .elementwise import before_relu, cast, dropout_draw, sum_rows
from .training import check_rate


@any_library
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
    device = check_array("gemm", "a", a, 2, FLOATS)
    check_array("gemm", "b", b, 2, a.dtype)
    M, K = reversed(a.shape) if transpose_a else a.shape
    K_of_b, N = reversed(b.shape) if transpose_b else b.shape
    if K_of_b != K:
        raise ValueError(f"gemm: op(a) of shape {(M, K)} needs op(b) of shape ({K}, N), got {(K_of_b, N)}")
    alpha, beta = check_number("gemm", "alpha", alpha), check_number("gemm", "beta", beta)
    precision = check_precision("gemm", precision, backend.capability(device), a.dtype)
    if beta == 0:
        y = backend.empty((M, N), a.dtype, device)
    elif c is None:
        raise ValueError(f"gemm: c: expected an array of shape {(M, N)} since beta is {beta:g}, got None")
    else:
        check_array("gemm", "c", c, 2, a.dtype)
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
            sum_rows(db, a, device)
        return
    workspace = backend.workspace(native.tensor_gemm_workspace(*c.shape, a.shape[not transpose_a]), device)
    native.tensor_gemm(
        c, db, a, b, bias, mask, transpose_a, transpose_b, alpha, beta, relu, precision, workspace, stream
    )


def check_weights(operation: str, w: Array, ndim: int, dtype: Any) -> Array:
    """w as products of arrays of that dtype take it, after checking it."""
    check_array(operation, "w", w, ndim, FLOATS)
    return w if w.dtype == dtype else cast(w, dtype)


@any_library
def linear(
    x: Array,
    w: Array,
    b: Array | None = None,
    relu: bool = False,
    precision: Precision = "fp32",
    out: Array | None = None,
    scale: Array | None = None,
) -> Array:
    """Fully connected layer: x w^T + b, then max(0, .) if ``relu``. x: (N, I), w: (O, I), b: (O,). Returns (N, O).

    Weights may be stored short: w in bfloat16, or in int8 with a ``scale`` (O,) for each row, float32 as x. In "fp32"
    they are then read as they lie, and exactly what they stand for is multiplied.

    >>> kernels.linear(floats([[1, 2]]), floats([[3, 4], [5, 6], [7, 8]]), floats([0, 0, 1]))
    array([[11., 17., 24.]], dtype=float32)
    >>> kernels.linear(floats([[1, 2]]), np.array([[3, 4], [5, 6]], np.int8), scale=floats([1, 0.5]))
    array([[11. ,  8.5]], dtype=float32)
    """
    device = check_array("linear", "x", x, 2, FLOATS)
    check_array("linear", "w", w, 2, (*FLOATS, np.dtype(np.int8)))
    if x.shape[1] != w.shape[1]:
        raise ValueError(f"linear: x of shape {x.shape} needs w of shape (O, {x.shape[1]}), got {w.shape}")
    precision = check_precision("linear", precision, backend.capability(device), x.dtype)
    if w.dtype == np.int8:
        check_array("linear", "scale", scale, 1)
        if precision != "fp32":
            raise ValueError(f"linear: precision: expected 'fp32' and x in float32 for w in int8, got {precision!r}")
    elif scale is not None:
        raise ValueError(f"linear: scale: expected None, as w is not int8 but {w.dtype}, got an array")
    shape = x.shape[0], w.shape[0]
    y = result_array("linear", out, shape, device, x.dtype)
    native = backend.native(device)
    if precision == "fp32" and w.dtype != x.dtype:
        workspace = backend.workspace(native.short_gemm_workspace(*shape, x.shape[1]), device)
        native.short_gemm(y, x, w, scale, b, relu, workspace, backend.stream(device))
        return y
    w = check_weights("linear", w, 2, x.dtype)
    if native.skinny_gemm_takes(*shape, x.shape[1]) and not (precision == "fp32" and backend.uses_blas(device)):
        workspace = backend.workspace(native.skinny_gemm_workspace(*shape, x.shape[1]), device)
        native.skinny_gemm(y, x, w, b, relu, precision, workspace, backend.stream(device))
    else:
        _multiply(y, x, w, False, True, precision, device, bias=b, relu=relu)
    return y


@any_library
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
    Its gradients come from the output: ``linear_backward`` with y and the scale of what is kept, 1 / (1 - p) in the
    inverted form and else 1. x: (N, I), w: (O, I), b: (O,). Returns (N, O).

    >>> y = kernels.linear_dropout(floats([[1, 2]]), floats([[3, 4], [5, 6], [-7, 8]]), p=0.5, form="inverted", seed=3)
    >>> y, kernels.dropout(floats([[11, 17, 9]]), 0.5, "inverted", seed=3)
    (array([[22.,  0., 18.]], dtype=float32), array([[22.,  0., 18.]], dtype=float32))
    """
    device = check_array("linear_dropout", "x", x, 2, FLOATS)
    w = check_weights("linear_dropout", w, 2, x.dtype)
    if x.shape[1] != w.shape[1]:
        raise ValueError(f"linear_dropout: x of shape {x.shape} needs w of shape (O, {x.shape[1]}), got {w.shape}")
    precision = check_precision("linear_dropout", precision, backend.capability(device), x.dtype)
    draw = dropout_draw("linear_dropout", device, p, form, True, seed, step, purpose, first, state)
    native, stream, shape = backend.native(device), backend.stream(device), (x.shape[0], w.shape[0])
    if precision == "fp32" or native.skinny_gemm_takes(*shape, x.shape[1]):
        y = linear(x, w, b, True, precision)
        native.dropout(y, y, *draw, stream)
        return y
    y = backend.empty(shape, x.dtype, device)
    workspace = backend.workspace(native.tensor_gemm_workspace(*shape, x.shape[1]), device)
    native.tensor_gemm_dropout(y, x, w, b, *draw, precision, workspace, stream)
    return y


@any_library
def linear_backward(
    dy: Array,
    x: Array,
    w: Array,
    needs: Needs = (True, True, True),
    precision: Precision = "fp32",
    mask: Array | None = None,
    y: Array | None = None,
    scale: float = 1.0,
) -> tuple[Array, Array, Array]:
    """Gradients of ``linear``: dx = dy w (N, I), dw = dy^T x (O, I), db = sums of dy (O,); with ReLU if its output
    ``y`` is given, and with dropout if y is the output of ``linear_dropout``, which multiplied by ``scale`` what it
    kept.

    dy and y: (N, O). ``needs`` says which of the three to compute; the others are None. dx is 0 where ``mask`` (N, I)
    is not above 0.

    >>> dx, dw, db = kernels.linear_backward(dy=floats([[1]]), x=floats([[2, 3]]), w=floats([[4, 5]]))
    >>> dx, dw, db
    (array([[4., 5.]], dtype=float32), array([[2., 3.]], dtype=float32), array([1.], dtype=float32))
    """
    device = check_array("linear_backward", "dy", dy, 2, FLOATS)
    check_array("linear_backward", "x", x, 2, dy.dtype)
    check_array("linear_backward", "w", w, 2, FLOATS if dy.dtype == bfloat16 else np.float32)
    if dy.shape != (x.shape[0], w.shape[0]) or x.shape[1] != w.shape[1]:
        raise ValueError(
            f"linear_backward: expected dy (N, O), x (N, I), w (O, I), got {dy.shape}, {x.shape}, {w.shape}"
        )
    needs = check_needs("linear_backward", needs)
    check_like("linear_backward", "mask", mask, "x", x)
    precision = check_precision("linear_backward", precision, backend.capability(device), dy.dtype)
    dx = dw = db = sums = None
    if y is not None:
        dy, db = before_relu("linear_backward", dy, y, scale, needs[2])
    elif needs[2]:
        db = sums = backend.empty(w.shape[:1], np.float32, device)
    if needs[0]:
        dx = backend.empty(x.shape, dy.dtype, device)
        _multiply(dx, dy, cast(w, dy.dtype), False, False, precision, device, mask=mask)
    if needs[1]:
        dw = backend.empty(w.shape, np.float32, device)
        _multiply(dw, dy, x, True, False, precision, device, db=sums)
    elif sums is not None:
        sum_rows(sums, dy, device)
    return dx, dw, db


@any_library
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
    nesterov: bool = False,
) -> None:
    """``sgd`` of the weights of ``linear`` with their gradient dy^T x, in place and to the bits of ``linear_backward``
    and then ``sgd``. On tensor cores and through a CPU's BLAS the gradient is never written.

    w, v (the momentum): (O, I) float32; dy: (N, O), x: (N, I). ``stored``, a bfloat16 array (O, I), gets a copy of w.

    >>> w, v = floats([[4, 5]]), floats([[0, 0]])
    >>> kernels.linear_sgd(w, v, floats([[1]]), floats([[2, 3]]), lr=1, decay=0)
    >>> w, v
    (array([[2., 2.]], dtype=float32), array([[-2., -3.]], dtype=float32))
    """
    device = check_array("linear_sgd", "w", w, 2)
    check_array("linear_sgd", "v", v, 2)
    check_array("linear_sgd", "dy", dy, 2, FLOATS)
    check_array("linear_sgd", "x", x, 2, dy.dtype)
    if dy.shape[0] != x.shape[0] or not (w.shape == v.shape == (dy.shape[1], x.shape[1])):
        got = f"{w.shape}, {v.shape}, {dy.shape}, {x.shape}"
        raise ValueError(f"linear_sgd: expected w (O, I), v (O, I), dy (N, O), x (N, I), got {got}")
    if stored is not None:
        result_array("linear_sgd", stored, w.shape, device, bfloat16, name="stored")
    precision = check_precision("linear_sgd", precision, backend.capability(device), dy.dtype)
    momentum = check_number("linear_sgd", "momentum", momentum, 0, 1, open_high=True)
    decay, lr = check_number("linear_sgd", "decay", decay, 0), check_rate("linear_sgd", lr, device)
    native, stream = backend.native(device), backend.stream(device)
    if precision == "fp32":
        if backend.uses_blas(device):
            workspace = backend.workspace(native.gemm_sgd_workspace(*w.shape), device)
            native.gemm_sgd(w, v, dy, x, lr, momentum, decay, nesterov, workspace, stream)
        else:
            dw = backend.empty(w.shape, np.float32, device)
            _multiply(dw, dy, x, True, False, precision, device)
            native.sgd(w, v, dw, lr, 1.0, momentum, decay, nesterov, stream)
        if stored is not None:
            native.cast(stored, w, stream)
        return
    workspace = backend.workspace(native.tensor_gemm_workspace(*w.shape, len(x)), device)
    native.tensor_gemm_sgd(w, v, stored, dy, x, lr, momentum, decay, nesterov, precision, workspace, stream)
