"""How much larger the rounding errors of Winograd's convolution are than those of the sums that it computes.

With the matrices for some points, y = A^T [(G g G^T) . (B^T d B)] A for the outputs of a tile, and dw = G^T
[(A dy A^T) . (B^T d B)] G for a filter's gradient. Between the brackets numbers are larger than their result. Of
operands with random signs and equal variance, the root of the mean square of what is added up there, over that of the
products that a plain convolution adds up, is what errors of the one are to errors of the other. It is the product of a
factor for each axis, which depends on where in its tile, or filter, an element lies.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.polynomial import polynomial

from .bounds import UNIT, Floats, Sums
from .drawn import Indices

POINTS = {3: (0.0, 1.0, -1.0, 2.0, -2.0), 5: (0.0, 1.0, -1.0, 0.5, -0.5, -3.0)}
"""For filters of this size, and infinity."""
TRANSFORMS = 40
"""Roundings besides the sum's: at most 10 of d, 14 of g, 12 of the result, the bias, and those of G's constants."""


def matrices(filter_size: int) -> tuple[Floats, Floats, Floats]:
    """A (points, outputs), G (points, filter_size) and B (points, points) with B's rows those of B^T."""
    points, outputs = POINTS[filter_size], outputs_of_tile(filter_size)

    def powers(count: int) -> Floats:
        rows = [[point**i for i in range(count)] for point in points]
        return np.array([*rows, [0.0] * (count - 1) + [1.0]])

    divisors = [np.prod([point - other for other in points if other != point]) for point in points]
    B = np.zeros((len(points) + 1,) * 2)
    for i, point in enumerate(points):
        B[i, :-1] = polynomial.polyfromroots([other for other in points if other != point])
    B[-1] = polynomial.polyfromroots(points)
    return powers(outputs), powers(filter_size) / np.array([*divisors, 1.0])[:, None], B


@cache
def _growth(filter_size: int, of_filter: bool) -> Floats:
    """For each place along an axis of a tile of outputs, or of a filter's gradient."""
    A, G, B = (matrix**2 for matrix in matrices(filter_size))
    result, operand = (G, A) if of_filter else (A, G)
    return np.sqrt((result.T * operand.sum(1) * B.sum(1)).sum(1) / operand.shape[1])


def outputs_of_tile(filter_size: int) -> int:
    return len(POINTS[filter_size]) + 2 - filter_size


def error(sums: Sums, terms: int, filter_size: int, row: Indices, column: Indices, of_filter: bool = False) -> Floats:
    """The bound of sums over so many channels (or tiles) by way of the points, of elements that lie in this row and
    column of the image (or filter). A sum's roundings are at most UNIT of what is summed so far; of random ones, six
    standard deviations."""
    growth = _growth(filter_size, of_filter)
    factor = growth[row % len(growth)] * growth[column % len(growth)]
    return 6 * np.sqrt(terms + TRANSFORMS) * UNIT * factor * np.sqrt(sums.squares)
