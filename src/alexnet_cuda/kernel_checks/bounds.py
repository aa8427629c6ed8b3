"""How far a right result may be from the exact one. Every bound follows from the number of roundings and their
precision, none from what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import DTypeLike, NDArray

Floats = NDArray[np.float64]

UNIT = 2.0**-24
"""The largest relative error of one float32 rounding."""
SMALLEST_NORMAL = 2.0**-126
"""Results below it may lose their digits or be flushed to zero."""


def rounding_error(magnitude: NDArray[Any] | float, roundings: float) -> Floats:
    """How far a float32 result may be from the exact one.

    ``magnitude`` is the same expression over absolute values (for a sum of products, sum |a_k| |b_k|), ``roundings``
    the number of roundings that one term passes through: K for a dot product of length K in whatever order it is
    summed. Then |error| <= roundings UNIT magnitude (Higham, Accuracy and Stability, section 3.1). Over many roundings
    of random data the errors partly cancel: |error| <= lambda sqrt(roundings) UNIT magnitude, where a chance of
    2 exp(-lambda^2 / 2) per element exceeds it in the worst case (Higham and Mary 2019, theorem 2.4). A sum of equal
    positive terms, the worst that is met here, has a standard deviation of a third of that at lambda = 1, so
    lambda = 3 is nine standard deviations.
    """
    return np.asarray(min(roundings, 3.0 * math.sqrt(roundings)) * UNIT * np.asarray(magnitude, np.float64))


@dataclass(frozen=True)
class Sums:
    """Sums of terms, those of the terms' absolute values and of their squares."""

    value: Floats
    magnitude: Floats
    squares: Floats

    @classmethod
    def over(cls, terms: NDArray[Any], axis: int) -> Sums:
        wide = terms.astype(np.float64)
        return cls(wide.sum(axis), abs(wide).sum(axis), (wide * wide).sum(axis))

    @property
    def partial(self) -> Floats:
        """What the sum of some of the terms stays below, whichever they are. Never more than all magnitudes; and terms
        that are drawn at random have no order, so that a part is as large as its share of the whole, give or take
        half the root of the squares at most: 3 of these roots are six standard deviations."""
        return np.minimum(self.magnitude, abs(self.value) + 3 * np.sqrt(self.squares))


def sum_error(sums: Sums, roundings: float) -> Floats:
    """``rounding_error`` of a sum of products in float32: each addition rounds a partial sum."""
    return rounding_error(sums.partial, roundings)


def tensor_core_error(sums: Sums, terms: float) -> Floats:
    """How far a sum of exact products on tensor cores may be from the exact sum.

    They cut off where float32 arithmetic rounds to nearest. They add in blocks of a few products: these and the sum
    before them are shifted to the largest exponent among them, what lies behind the last bit that is kept is cut off,
    and so is what of the new sum does not fit a float. It was measured how many products and bits these are (Fasi,
    Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ CS 7:e330, 2021; Khattak and
    Mikaitis, "Accurate models of NVIDIA tensor cores", arXiv:2512.07004, 2025): the fewest of the GPUs that run these
    kernels has Ampere, 4 products in tf32 (8 in bf16; Hopper 8 and 16), and 24 bits after the point (Hopper 25), one
    more than a float has.

    So in a block of L products all but the largest of the L + 1 numbers lose less than UNIT of the largest, and their
    sum less than 2 UNIT of itself: (L + 2) / L UNIT a product, which is most for L = 4. No number there exceeds the
    largest partial sum. What is cut off numbers of one sign has one sign, too: nothing cancels, all of it adds up.
    """
    return 6 / 4 * terms * UNIT * sums.partial


def half_unit(stored: NDArray[Any]) -> Floats | float:
    """How far storing a result may have moved it: in bfloat16 by half a unit in the last of eight digits."""
    if stored.dtype != bfloat16:
        return 0.0
    wide = stored.astype(np.float64)
    return np.where(wide == 0, 0.0, np.ldexp(1.0, np.frexp(wide)[1] - 9))


def stored_error(magnitude: Floats, dtype: DTypeLike) -> Floats | float:
    """What storing a result of that magnitude adds to its error, where it is read and worked on again."""
    return 2.0**-8 * abs(magnitude) if dtype == bfloat16 else 0.0
