"""Maximum and mean of windows."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from .. import backend
from .any_library import any_library
from .arguments import FLOATS, Array, Padding, Pair, check_array, check_padding, check_pair, remembering, result_array
from .windows import window_fields


@any_library
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
    device = check_array("max_pool2d", "x", x, 4, FLOATS)
    shape = pool2d_struct("max_pool2d", backend.native(device), x.shape, size, stride, padding, ceil)
    y = backend.empty((shape.N, shape.OH, shape.OW, shape.C), x.dtype, device)
    which = backend.empty(y.shape, np.uint8, device)
    backend.native(device).max_pool2d_forward(y, which, x, shape, backend.stream(device))
    return y, which


@any_library
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
    device = check_array("max_pool2d_backward", "dy", dy, 4, FLOATS)
    check_array("max_pool2d_backward", "which", which, 4, np.uint8)
    shape = pool2d_struct("max_pool2d_backward", backend.native(device), x_shape, size, stride, padding, ceil)
    dx = backend.empty(x_shape, dy.dtype, device)
    backend.native(device).max_pool2d_backward(dx, dy, which, shape, backend.stream(device))
    return dx


@any_library
def avg_pool2d(
    x: Array, size: Pair, stride: Pair | None = None, padding: Padding = 0, ceil: bool = False, out: Array | None = None
) -> Array:
    """Mean of each window over the pixels inside the image. x: (N, H, W, C). Returns (N, OH, OW, C).

    >>> kernels.avg_pool2d(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1), size=2)[0, :, :, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)
    """
    device = check_array("avg_pool2d", "x", x, 4, FLOATS)
    shape = pool2d_struct("avg_pool2d", backend.native(device), x.shape, size, stride, padding, ceil)
    y = result_array("avg_pool2d", out, (shape.N, shape.OH, shape.OW, shape.C), device, x.dtype)
    backend.native(device).avg_pool2d_forward(y, x, shape, backend.stream(device))
    return y


@any_library
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
    device = check_array("avg_pool2d_backward", "dy", dy, 4, FLOATS)
    shape = pool2d_struct("avg_pool2d_backward", backend.native(device), x_shape, size, stride, padding, ceil)
    dx = backend.empty(x_shape, dy.dtype, device)
    backend.native(device).avg_pool2d_backward(dx, dy, shape, backend.stream(device))
    return dx


@remembering
def pool2d_struct(
    operation: str, native: ModuleType, x_shape: tuple[int, ...], size: Any, stride: Any, padding: Any, ceil: bool
) -> Any:
    if len(x_shape) != 4:
        raise ValueError(f"{operation}: expected x of shape (N, H, W, C), got {tuple(x_shape)}")
    sizes = check_pair(operation, "size", size, 1)
    if sizes[0] * sizes[1] > 256:
        raise ValueError(f"{operation}: size: expected at most 256 pixels in a window, got {sizes[0]} x {sizes[1]}")
    for window, (before, after) in zip(sizes, check_padding(operation, padding), strict=True):
        if max(before, after) >= window:
            raise ValueError(
                f"{operation}: padding: expected less than the window's {window} pixels, got {(before, after)}"
            )
    return native.Pool2d(**window_fields(operation, x_shape, sizes, size if stride is None else stride, padding, ceil))
