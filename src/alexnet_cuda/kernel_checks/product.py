"""What products have in common: how their operands are rounded, and some elements of a matrix product in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product as pairs
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from .. import backend
from ..kernels import Precision
from .bounds import Floats, Sums, sum_error, tensor_core_error
from .check import Values
from .drawn import ALL, COUNT, Indices, strata

GATHERED = 1 << 23
"""Most values of operands that are brought together for one set of outputs, about."""
AT_ONCE = 1 << 21
"""Of these, how many at a time: they stay in a cache."""


@dataclass(frozen=True)
class Arithmetic:
    """A kind of product: what is asked for, how operands are stored, and to what they are rounded."""

    name: str
    precision: Precision
    dtype: Any = np.float32

    @property
    def tensor_cores(self) -> bool:
        return self.precision != "fp32"


KINDS = (
    Arithmetic("fp32", "fp32"),
    Arithmetic("tf32", "tf32"),
    Arithmetic("bf16", "bf16"),
    Arithmetic("bf16 stored", "bf16", bfloat16),
)


STORED: dict[str, Any] = {"fp32": np.float32, "bf16 stored": bfloat16}
"""How arrays of the other operations are stored, which compute in float32."""


@dataclass(frozen=True)
class Way:
    """A kind of product on a device: on a CPU float32 is multiplied by a BLAS, where there is one, or by gemm.cu."""

    kind: Arithmetic
    blas: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind.name} BLAS" if self.blas else self.kind.name


def ways(device: backend.Device) -> Iterator[Way]:
    if backend.uses_blas(device):
        yield Way(KINDS[0], blas=True)
    yield from map(Way, KINDS)


def rounded(x: NDArray[Any], precision: Precision) -> Floats:
    """An operand as a product of that precision sees it: tf32 has 10 bits after the point (the nearest number, ties
    away from zero), bf16 has 7 (ties to the even one)."""
    if precision == "tf32":
        bits = x.astype(np.float32).view(np.uint32) + np.uint32(0x1000) & np.uint32(0xFFFFE000)
        x = bits.view(np.float32)
    elif precision == "bf16":
        x = x.astype(bfloat16)
    return x.astype(np.float64)


def column_sums(dy: NDArray[Any]) -> Values:
    """The sums over all but the last dimension, of all channels or of some of very many rows: gradients of biases."""
    rows = dy.reshape(-1, dy.shape[-1])
    size, C = rows.shape
    some = np.arange(C)
    if rows.size > AT_ONCE:
        some = np.unique([0, C - 1, *strata(C, max(16, AT_ONCE // size), np.random.default_rng(C))])
    totals = Sums.over(rows[:, some], axis=0)
    return Values(some, totals.value, sum_error(totals, size))


def error(sums: Sums, terms: int, precision: Precision) -> Floats:
    """The bound of sums of so many products."""
    return (sum_error if precision == "fp32" else tensor_core_error)(sums, terms)


@dataclass(frozen=True)
class Blocks:
    """Elements of a matrix for each of several groups: all pairs of rows[i] and columns[i], of the matrix groups[i]."""

    groups: Indices  # (blocks,)
    rows: Indices  # (blocks, r)
    columns: Indices  # (blocks, c)

    @classmethod
    def draw(cls, rows: int, columns: int, terms: int, groups: int = 1, edges: Sequence[int] = ()) -> Blocks:
        """All of a small matrix. Else about ``COUNT`` elements, of as many blocks as gathering sums of so many terms
        affords: one element each if it can be, so that most tiles have one. Corners, and rows in ``edges``, are among
        them."""
        if groups * rows * columns <= ALL:
            every = np.arange(groups)[:, None]
            return cls(every[:, 0], 0 * every + np.arange(rows), 0 * every + np.arange(columns))
        side = 1
        while side < math.isqrt(COUNT) and 2 * terms * COUNT > side * GATHERED:
            side *= 2
        r = min(side, rows)
        c = min(side * side // r, columns)
        r = min(side * side // c, rows)
        count = max(COUNT // (side * side), groups)
        rng = np.random.default_rng((rows, columns, terms, groups))
        some_rows, some_columns = (
            strata(size, count * width, rng).reshape(count, width) for size, width in ((rows, r), (columns, c))
        )
        for i, (row, column) in enumerate(pairs((0, rows - 1, *edges), (0, columns - 1))):
            block, turn = i % count, i // count
            some_rows[block, turn % r], some_columns[block, turn % c] = row, column
        return cls(np.arange(count) % groups, some_rows, some_columns)

    def __getitem__(self, part: slice) -> Blocks:
        return Blocks(self.groups[part], self.rows[part], self.columns[part])

    @property
    def row_groups(self) -> Indices:
        return self.groups[:, None] + 0 * self.rows

    @property
    def column_groups(self) -> Indices:
        return self.groups[:, None] + 0 * self.columns

    def flat(self, row: int, column: int, group: int = 0) -> Indices:
        """Where the elements lie in an array with these distances from row to row, column to column, group to group."""
        rows, columns = (self.rows * row)[:, :, None], (self.columns * column)[:, None, :]
        return (rows + columns + (self.groups * group)[:, None, None]).reshape(-1)


Gather = Callable[[Blocks, int], NDArray[Any]]
"""(blocks, part of the terms) to the operand's rows or columns (blocks, r or c, terms of that part)."""


def sums(
    blocks: Blocks,
    terms: int,
    precision: Precision,
    left: Gather,
    right: Gather,
    parts: int = 1,
    exact: bool = False,
) -> Sums:
    """The blocks' elements, flat: sums over all terms of what stands in the two operands, rounded to the precision. No
    bound is wanted of those that are exact: their magnitudes and squares are told as 0."""
    width = blocks.rows.shape[1] + blocks.columns.shape[1]
    step = max(1, AT_ONCE * parts // (width * terms))
    done = []
    for first in range(0, len(blocks.groups), step):
        some = blocks[first : first + step]
        total = np.zeros((3, len(some.groups), some.rows.shape[1], some.columns.shape[1]))
        for part in range(parts):
            a, b = (rounded(gather(some, part), precision) for gather in (left, right))
            b = b.swapaxes(1, 2)
            total[0] += a @ b
            if not exact:
                total[1] += abs(a) @ abs(b)
                total[2] += (a * a) @ (b * b)
        done.append(total.reshape(3, -1))
    return Sums(*np.concatenate(done, axis=1))
