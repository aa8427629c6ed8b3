"""What is drawn at random: operands, and which outputs are looked at. A function of shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Indices = NDArray[np.int64]

COUNT = 4096
"""Outputs that are looked at, of those arrays that have more than ``ALL``."""
ALL = 4 * COUNT


@lru_cache(maxsize=12)
def _numbers(name: str, shape: tuple[int, ...], whole: bool) -> NDArray[np.float32]:
    rng = np.random.default_rng((*name.encode(), *shape))
    if whole:
        array = rng.integers(-3, 4, shape, np.int8).astype(np.float32)
    else:
        bits = rng.integers(0, 2**32, shape, np.uint32)
        bits &= np.uint32(0x81FFFFFF)  # sign, two bits of the exponent, all digits
        bits |= np.uint32(0x3E000000)
        array = bits.view(np.float32)
    array.flags.writeable = False
    return array


def numbers(name: str, *shape: int, dtype: DTypeLike = np.float32, whole: bool = False) -> NDArray[Any]:
    """Numbers of size 1/8 to 2 with random signs, others for each name and shape, or ``whole`` ones from -3 to 3. Not
    to be written to."""
    return _numbers(name, shape, whole).astype(dtype, copy=False)


def strata(size: int, count: int, rng: np.random.Generator) -> Indices:
    """One number of each of ``count`` equal parts of range(size), in random order; where there are more parts than
    numbers, about as often each."""
    return rng.permutation(((np.arange(count) + rng.random(count)) * (size / count)).astype(np.int64))


def places(size: int, edges: Sequence[int] = ()) -> Indices:
    """Which of ``size`` outputs are looked at: all, or the first, the last, those in ``edges``, one of every part."""
    if size <= ALL:
        return np.arange(size)
    chosen = strata(size, COUNT, np.random.default_rng(size))
    chosen[: len(edges) + 2] = [0, size - 1, *edges]
    return chosen
