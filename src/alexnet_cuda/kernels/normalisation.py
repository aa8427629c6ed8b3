"""Normalisation across channels, within channels, and over batches; that across channels together with pooling, too."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

from .. import backend
from .any_library import any_library
from .arguments import (
    FLOATS,
    SMALLEST,
    Array,
    Padding,
    Pair,
    check_array,
    check_integer,
    check_number,
    remembering,
    result_array,
)
from .pooling import max_pool2d, max_pool2d_backward, pool2d_struct


@any_library
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
    device = check_array("lrn", "x", x, dtype=FLOATS)
    native = backend.native(device)
    shape = _lrn_struct("lrn", native, x.shape, size, k, alpha, beta, groups)
    y = result_array("lrn", out, x.shape, device, x.dtype)
    native.lrn_forward(y, x, shape, backend.stream(device))
    return y


@any_library
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
    """Gradient of ``lrn`` called with the same size, k, alpha, beta and groups: dx_i = dy_i s_i^-beta - 2 alpha beta
    x_i * sum of dy_j x_j s_j^(-beta - 1) over the channels j whose window holds i; if ``mask``, 0 where x is not above
    0. dy and x: (..., C). Returns the shape of x.

    >>> x = floats([100, 200, 300, 400, 500, 600])
    >>> dx = kernels.lrn_backward(np.ones_like(x), x, alpha=2e-5)
    >>> print(np.round(dx, 4))
    [ 0.2632  0.1072 -0.034  -0.1058 -0.0766 -0.0446]
    """
    device = check_array("lrn_backward", "dy", dy, dtype=FLOATS)
    check_array("lrn_backward", "x", x, dtype=dy.dtype)
    native = backend.native(device)
    shape = _lrn_struct("lrn_backward", native, x.shape, size, k, alpha, beta, groups)
    dx = backend.empty(x.shape, dy.dtype, device)
    native.lrn_backward(dx, dy, x, shape, bool(mask), backend.stream(device))
    return dx


@remembering
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
    groups = check_integer(operation, "groups", groups, 1)
    if C % groups:
        raise ValueError(f"{operation}: groups: expected a divisor of the {C} channels, got {groups}")
    k, alpha = check_number(operation, "k", k, SMALLEST), check_number(operation, "alpha", alpha, 0)
    return native.Lrn(
        rows=math.prod(rows),
        C=C,
        groups=groups,
        size=check_integer(operation, "size", size, 1),
        k=k,
        alpha=alpha,
        beta=check_number(operation, "beta", beta, 0),
    )


@any_library
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
    device = check_array("lrn_max_pool2d", "x", x, 4, FLOATS)
    options, windows = (lrn_size, k, alpha, beta, groups), (size, stride, padding, ceil)
    native = backend.native(device)
    lrn_shape, shape, one_pass = _lrn_max_pool2d_structs("lrn_max_pool2d", native, x.shape, options, windows)
    if not one_pass:
        return max_pool2d(lrn(x, *options), *windows)
    y = backend.empty((shape.N, shape.OH, shape.OW, shape.C), x.dtype, device)
    which = backend.empty(y.shape, np.uint8, device)
    native.lrn_max_pool2d_forward(y, which, x, lrn_shape, shape, backend.stream(device))
    return y, which


@any_library
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
    one_pass: bool | None = None,
) -> Array:
    """Gradient of ``lrn_max_pool2d``: ``lrn_backward`` (with ``mask``) of ``max_pool2d_backward``, to their bits.
    dy and which: (N, OH, OW, C). ``one_pass``: whether to take one pass where there is one, by default on a GPU alone.
    Returns the shape of x.

    >>> x = np.random.default_rng(0).standard_normal((1, 5, 5, 8), np.float32)
    >>> y, which = kernels.lrn_max_pool2d(x)
    >>> expected = kernels.lrn_backward(kernels.max_pool2d_backward(y, which, x.shape, size=3, stride=2), x)
    >>> bool((kernels.lrn_max_pool2d_backward(y, which, x) == expected).all())
    True
    """
    device = check_array("lrn_max_pool2d_backward", "dy", dy, 4, FLOATS)
    check_array("lrn_max_pool2d_backward", "which", which, 4, np.uint8)
    check_array("lrn_max_pool2d_backward", "x", x, 4, dy.dtype)
    options, windows = (lrn_size, k, alpha, beta, groups), (size, stride, padding, ceil)
    native = backend.native(device)
    lrn_shape, shape, able = _lrn_max_pool2d_structs("lrn_max_pool2d_backward", native, x.shape, options, windows)
    if not (able and (one_pass_pays(device) if one_pass is None else one_pass)):
        return lrn_backward(max_pool2d_backward(dy, which, x.shape, *windows), x, *options, mask=mask)
    dx = backend.empty(x.shape, x.dtype, device)
    native.lrn_max_pool2d_backward(dx, dy, which, x, lrn_shape, shape, bool(mask), backend.stream(device))
    return dx


def one_pass_pays(device: backend.Device) -> bool:
    """Whether ``lrn_max_pool2d_backward`` takes one pass there: a CPU's caches are large, and two passes are faster
    than gathering as often as one pass must."""
    return device.kind != "cpu"


def _lrn_max_pool2d_structs(
    operation: str,
    native: ModuleType,
    x_shape: tuple[int, ...],
    lrn_options: tuple[Any, ...],
    windows: tuple[Any, ...],
) -> tuple[Any, Any, bool]:
    """Of the normalisation and of the pooling, and whether one pass computes both."""
    lrn_shape = _lrn_struct(operation, native, x_shape, *lrn_options)
    pool_shape = pool2d_struct(operation, native, x_shape, *windows)
    return lrn_shape, pool_shape, native.lrn_max_pool2d_takes(lrn_shape, pool_shape)


@any_library
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
    device = check_array("spatial_lrn", "x", x, 4)
    shape = _spatial_lrn_struct("spatial_lrn", device, x, size, k, alpha, beta)
    y = result_array("spatial_lrn", out, x.shape, device)
    backend.native(device).spatial_lrn_forward(y, x, shape, backend.stream(device))
    return y


@any_library
def spatial_lrn_backward(
    dy: Array, x: Array, size: int = 5, k: float = 1.0, alpha: float = 4e-5, beta: float = 0.75
) -> Array:
    """Gradient of ``spatial_lrn``: dx_p = dy_p s_p^-beta - 2 alpha beta x_p * sum of dy_q x_q s_q^(-beta - 1) over the
    pixels q whose window holds p. dy and x: (N, H, W, C). Returns the shape of x.

    >>> x = np.ones((1, 1, 1, 1), np.float32)  # y = x / (1 + x^2), so that dx = (1 - x^2) / (1 + x^2)^2
    >>> kernels.spatial_lrn_backward(np.ones_like(x), x, size=1, k=1, alpha=1, beta=1).item()
    0.0
    """
    device = check_array("spatial_lrn_backward", "dy", dy, 4)
    check_array("spatial_lrn_backward", "x", x, 4)
    shape = _spatial_lrn_struct("spatial_lrn_backward", device, x, size, k, alpha, beta)
    dx, native = backend.empty(x.shape, np.float32, device), backend.native(device)
    workspace = backend.workspace(native.spatial_lrn_backward_workspace(shape), device)
    native.spatial_lrn_backward(dx, dy, x, shape, workspace, backend.stream(device))
    return dx


def _spatial_lrn_struct(
    operation: str, device: backend.Device, x: Array, size: int, k: float, alpha: float, beta: float
) -> Any:
    k, alpha = check_number(operation, "k", k, SMALLEST), check_number(operation, "alpha", alpha, 0)
    N, H, W, C = x.shape
    size, beta = check_integer(operation, "size", size, 1, 2**30 - 1), check_number(operation, "beta", beta, 0)
    return backend.native(device).SpatialLrn(N=N, H=H, W=W, C=C, size=size, k=k, alpha=alpha, beta=beta)


@any_library
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

    x: (..., C); gamma, beta, ``running_mean`` and ``running_variance``: (C,), float32. Returns y of the shape of x,
    mean (C,) and r (C,).

    >>> x, running = floats([[1], [3]]), [np.zeros(1, np.float32), np.ones(1, np.float32)]
    >>> y, mean, r = kernels.batch_norm(x, floats([1]), floats([0]), *running, momentum=0.5, epsilon=1e-12)
    >>> y.ravel(), mean, running[0]
    (array([-1.,  1.], dtype=float32), array([2.], dtype=float32), array([1.], dtype=float32))
    """
    device = check_array("batch_norm", "x", x, dtype=FLOATS)
    for name, array in (("gamma", gamma), ("beta", beta)):
        check_array("batch_norm", name, array, 1)
    for name, array in (("running_mean", running_mean), ("running_variance", running_variance)):
        check_array("batch_norm", name, array, 1)
    momentum = check_number("batch_norm", "momentum", momentum, 0, 1, open_high=True)
    epsilon = check_number("batch_norm", "epsilon", epsilon, SMALLEST)
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


@any_library
def batch_norm_backward(
    dy: Array, x: Array, gamma: Array, mean: Array, r: Array, training: bool = True
) -> tuple[Array, Array, Array]:
    """Gradients of ``batch_norm`` from the mean and r that it returned: dx as x, dgamma and dbeta (C,).

    In training mean and r depend on x, too. dy and x: (..., C); gamma, mean and r: (C,).

    >>> x = floats([[1], [3]])
    >>> dx, dgamma, dbeta = kernels.batch_norm_backward(floats([[1], [1]]), x, floats([1]), floats([2]), floats([1]))
    >>> dgamma, dbeta
    (array([0.], dtype=float32), array([2.], dtype=float32))
    """
    device = check_array("batch_norm_backward", "dy", dy, dtype=FLOATS)
    check_array("batch_norm_backward", "x", x, dtype=dy.dtype)
    for name, array in (("gamma", gamma), ("mean", mean), ("r", r)):
        check_array("batch_norm_backward", name, array, 1)
    if dy.ndim == 0:
        raise ValueError("batch_norm_backward: dy: expected at least one dimension, got shape ()")
    native, C = backend.native(device), dy.shape[-1]
    dx = backend.empty(dy.shape, dy.dtype, device)
    dgamma, dbeta = (backend.empty((C,), np.float32, device) for _ in range(2))
    workspace = backend.workspace(native.batch_norm_workspace(dy.size // C, C), device)
    native.batch_norm_backward(dx, dgamma, dbeta, dy, x, gamma, mean, r, training, workspace, backend.stream(device))
    return dx, dgamma, dbeta
