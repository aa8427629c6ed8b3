"""The one quantiser: a matrix in int8, symmetric, with a scale for each row: w_ij is about scale_i q_ij."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST = 127
"""Of q; -128 is not used, so that w and -w are alike."""
SMALLEST_SCALE = np.finfo(np.float32).tiny
"""Below it float32 has fewer digits."""
AT_ONCE = 1 << 20
"""Weights that are float64 at a time, about."""


def quantised(w: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """q (O, I) int8, from -127 to 127, and the scales (O,) float32 of w (O, I) float32: max |w_i| / 127, of a row of
    zeros 1. Each weight is within half a scale of scale_i q_ij. ValueError for weights that are not finite.

    >>> q, scale = quantised(np.array([[1, -127], [0, 0], [0.5, 0.25]], np.float32))
    >>> q
    array([[   1, -127],
           [   0,    0],
           [ 127,   64]], dtype=int8)
    >>> scale
    array([1.        , 1.        , 0.00393701], dtype=float32)
    """
    largest = abs(w).max(axis=1)
    if not np.isfinite(largest).all():
        row = int(np.flatnonzero(~np.isfinite(largest))[0])
        raise ValueError(f"expected finite weights for int8, got {largest[row]} in row {row}")
    scale = np.where(largest == 0, np.float32(1), np.maximum(largest / np.float32(LARGEST), SMALLEST_SCALE))
    q = np.empty(w.shape, np.int8)
    rows = max(1, AT_ONCE // w.shape[1])
    for first in range(0, len(w), rows):
        some = slice(first, first + rows)
        q[some] = np.rint(w[some] / scale[some, None].astype(np.float64))
    return q, scale


def moved(w: NDArray[np.float32]) -> float:
    """How far ``quantised`` moves w, as a share of its norm."""
    q, scale = quantised(w)
    return float(np.linalg.norm(q * scale[:, None] - w) / max(np.linalg.norm(w), SMALLEST_SCALE))
