"""Windows that slide over images: those of convolutions and of pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arguments import check_padding, check_pair


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


def window_fields(
    operation: str, x_shape: tuple[int, ...], size: tuple[int, int], stride: Any, padding: Any, ceil: bool
) -> dict[str, int]:
    """The fields which Conv2d and Pool2d share."""
    strides, pads = check_pair(operation, "stride", stride, 1), check_padding(operation, padding)
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
