"""tests/ptx/sums.h: sums as tensor cores were measured to form them, for which the tests' error bounds have room."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from numpy.typing import ArrayLike, NDArray

CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or "c++"
SUMS = ("exact", "ampere", "hopper")
STEP = {"bf16": 16, "tf32": 8}
"""Products of an instruction."""

Floats = NDArray[np.float32]
Chains = Callable[..., Floats]
HARDWARE = pytest.mark.parametrize("sums", SUMS[1:])
PRODUCTS = pytest.mark.parametrize("product", STEP)


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Chains:
    """chains(sums, product, c, a, b)[r] = c[r] + a[r] b[r], an instruction after the other; zeros fill the last."""
    if not shutil.which(CXX):
        pytest.skip(f"there is no C++ compiler {CXX}")
    library = tmp_path_factory.mktemp("sums") / "sums.so"
    source = Path(__file__).parent / "ptx" / "sums.cpp"
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    compiled = subprocess.run([CXX, *flags, source, "-o", library], capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, compiled.stderr
    native = ctypes.CDLL(str(library))

    def call(sums: str, product: str, c: ArrayLike, a: ArrayLike, b: ArrayLike) -> Floats:
        a, b = (np.atleast_2d(np.asarray(array, np.float32)) for array in (a, b))
        filled = ((0, 0), (0, max(1, -(-a.shape[1] // STEP[product])) * STEP[product] - a.shape[1]))
        a, b = (np.ascontiguousarray(np.pad(array, filled)) for array in (a, b))
        c = np.ascontiguousarray(np.broadcast_to(np.asarray(c, np.float32), len(a)))
        d = np.full(len(a), np.nan, np.float32)
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (d, c, a, b)]
        rows, K = map(ctypes.c_long, a.shape)
        native.chains(*pointers, rows, K, STEP[product], int(product == "tf32"), SUMS.index(sums))
        return d

    return call


# ---- known answers

LAST, HALF, QUARTER = 2.0**-23, 2.0**-24, 2.0**-25  # the last bit of a float in [1, 2), and parts of it
LARGEST, TINY = float(np.finfo(np.float32).max), 2.0**-75

EXPERIMENTS = {
    # c, products, d on Ampere and on Hopper. First those that Fasi, Higham, Mikaitis and Pranesh made on A100.
    "a subnormal c": (2.0**-149, [], 2.0**-149, 2.0**-149),
    "a subnormal factor": (0, [(2.0**-133, 2.0**7)], 2.0**-126, 2.0**-126),
    "a subnormal sum": (-(2.0**-127), [(2.0**-126, 1)], 2.0**-127, 2.0**-127),
    "products are exact": (0, [(1 - 2**-8, 1 - 2**-8)], 1 - 2**-7 + 2**-16, 1 - 2**-7 + 2**-16),
    "one extra bit on Ampere, two on Hopper": (1, [(0.5, HALF)] * 4, 1, 1 + LAST),
    "the largest is a product": (HALF, [*[(0.5, HALF)] * 3, (1, 1)], 1, 1 + LAST),
    "positive sums are cut off": (0, [(2, 1), (1, LAST + HALF)], 2, 2),
    "negative sums are cut off": (0, [(-2, 1), (-1, LAST + HALF)], -2, -2),
    "the extra bit of a difference": (HALF - 1, [(1, 1)], HALF, HALF),
    "bits of the exponent below 1": (1 - HALF, [(1, HALF)] * 4, 1 + LAST, 1 + LAST),
    "differences are not normalised": (HALF - 1, [(1, 1), (-1, HALF)], 0, 0),
    "two carry bits": (1 + 3 * LAST, [*[(1, 1)] * 3, (1, LAST)], 4 + 4 * LAST, 4 + 4 * LAST),
    "three carry bits": (1.875, [(1, 1), (1, 1.5), (1, 1.75), (1, 1.875)], 8, 8),
    "cut off after a carry": (1 + 3 * LAST, [(1, 1)] * 4, 5, 5),
    "cut off after a negative carry": (-1 - 3 * LAST, [(1, -1)] * 4, -5, -5),
    "a larger c": (1, [*[(0.5, HALF)] * 3, (0.5, LAST + HALF)], 1, 1 + LAST),
    "gives a smaller sum on Ampere": (1 - HALF, [*[(0.5, HALF)] * 3, (0.5, LAST + HALF)], 1 + LAST, 1 + LAST),
    # What the models of Khattak and Mikaitis and of Xie et al. say beyond them.
    "not IEEE's rounding toward zero": (1, [(-1, 2.0**-30)], 1, 1),
    "products are not normalised": (0, [(1.5, 1.5), (1.5, LAST), (1, HALF)], 2.25 + 2 * LAST, 2.25 + 2 * LAST),
    "products are not normalised: Hopper": (0, [(1.5, 1.5), (1.875, LAST), (1, QUARTER)], 2.25, 2.25 + 2 * LAST),
    "infinite from 2^128 on": (2.0**127, [(2.0**127, 1)], np.inf, np.inf),
    "the largest float below it": (LARGEST, [(2.0**103, 1)], LARGEST, LARGEST),
    "products beyond a float": (1, [(2.0**100, 2.0**100), (2.0**100, -(2.0**100))], 0, 0),
    "an infinity": (-1, [(np.inf, 2), (-1, 2.0**127)], np.inf, np.inf),
    "two infinities": (np.inf, [(-np.inf, 2)], np.nan, np.nan),
    "infinity times zero": (1, [(np.inf, 0)], np.nan, np.nan),
    "NaN": (np.nan, [(1, 1)], np.nan, np.nan),
    "zeros are positive": (-0.0, [(-1, 0.0)], 0, 0),
    "nothing left is positive": (0, [(-TINY, TINY)], 0, 0),
    # 2^-149, the smallest float, less a little, and that little
    "2^-156 counts": (0, [(1.984375 * TINY, TINY), (TINY / 8, TINY / 8)], 2.0**-149, 2.0**-149),
    "2^-157 counts on Hopper": (0, [(1.875 * TINY, 1.0625 * TINY), (TINY / 8, TINY / 16)], 0, 2.0**-149),
    "2^-158 counts on Hopper": (0, [(1.75 * TINY, 1.140625 * TINY), (TINY / 16, TINY / 16)], 0, 2.0**-149),
    "2^-159 does not count": (0, [(1.9375 * TINY, 1.03125 * TINY), (TINY / 16, TINY / 32)], 0, 0),
    "zero shifts nothing": (2.0**-30, [(2.0**127, 0)], 2.0**-30, 2.0**-30),
}


@HARDWARE
@PRODUCTS
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments(chains: Chains, experiment: str, product: str, sums: str) -> None:
    c, products, *expected = EXPERIMENTS[experiment]
    a, b = np.array(products, np.float32).reshape(-1, 2).T
    right = np.float32(expected[SUMS.index(sums) - 1])
    bits = 0x7FFFFFFF if np.isnan(right) else int(right.view(np.uint32))
    assert chains(sums, product, c, a, b).view(np.uint32).tolist() == [bits]


@HARDWARE
@PRODUCTS
def test_blocks(chains: Chains, product: str, sums: str) -> None:
    """Two halves of a last bit are seen where they come in the same block."""
    block = {"ampere": {"bf16": 8, "tf32": 4}, "hopper": {"bf16": 16, "tf32": 8}}[sums][product]
    a = np.zeros((4 * block, 4 * block), np.float32)
    a[:, 0] = HALF
    np.fill_diagonal(a, HALF)
    a[0, 1] = HALF
    seen = np.arange(4 * block) < block
    np.testing.assert_array_equal(chains(sums, product, 1, a, np.ones_like(a)), np.where(seen, 1 + LAST, 1))


# ---- the same model in rational numbers


def exponent(value: float) -> int:
    return max(math.frexp(value)[1] - 1, -126)


def toward_zero(value: Fraction) -> float:
    """The nearest float that is not further from 0."""
    size = abs(value)
    top = size.numerator.bit_length() - size.denominator.bit_length()  # of the exponent or one more
    last = Fraction(2) ** (max(top - (size < Fraction(2) ** top), -126) - 23)
    kept = math.trunc(value / last) * last
    return float(kept) if abs(kept) < 2**128 else math.copysign(math.inf, kept)


def in_fractions(sums: str, product: str, c: float, a: list[float], b: list[float]) -> float:
    fraction, lowest, block = {"ampere": (24, -132, 8), "hopper": (25, -133, 16)}[sums]
    block //= 2 if product == "tf32" else 1
    for k in range(0, len(a), block):
        addends = [(Fraction(c), exponent(c))]
        addends += [
            (Fraction(x) * Fraction(y), exponent(x) + exponent(y))
            for x, y in zip(a[k : k + block], b[k : k + block], strict=True)
        ]
        unit = Fraction(2) ** (max([lowest, *(e for value, e in addends if value)]) - fraction)
        c = toward_zero(sum(math.trunc(value / unit) for value, _ in addends) * unit)
        if math.isinf(c):
            return c
    return c


def operands(rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int, product: str) -> Floats:
    """Normal numbers times powers of two in the range, a tenth of them 0, in tf32 or bf16."""
    x = rng.standard_normal(shape) * 2.0 ** rng.integers(low, high + 1, shape) * (rng.random(shape) >= 0.1)
    return reference.rounded(x.astype(np.float32), product).astype(np.float32)


@HARDWARE
@PRODUCTS
@pytest.mark.parametrize(
    ("low", "high"),
    [
        pytest.param(0, 0, id="near one another"),
        pytest.param(-14, 14, id="far apart"),
        pytest.param(-80, -60, id="subnormal"),
        pytest.param(55, 62, id="overflowing"),
    ],
)
def test_random_numbers(chains: Chains, low: int, high: int, product: str, sums: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (operands(rng, (100, 32), low, high, product) for _ in range(2))
    c = (rng.standard_normal(100) * 2.0 ** rng.integers(2 * low, 2 * high + 1, 100)).astype(np.float32)
    c[::4] = -(a * b.astype(np.float64)).sum(1)[::4]  # nearly nothing is left
    c[1::4] = 0
    expected = [in_fractions(sums, product, *row) for row in zip(c.tolist(), a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_array_equal(chains(sums, product, c, a, b), np.array(expected, np.float32))


@PRODUCTS
def test_exact(chains: Chains, product: str) -> None:
    rng = np.random.default_rng(1)
    a, b = (operands(rng, (500, STEP[product]), -5, 5, product) for _ in range(2))
    c = rng.standard_normal(500, np.float32)
    expected = [
        float(Fraction(x) + sum(Fraction(y) * Fraction(z) for y, z in zip(*row, strict=True)))
        for x, *row in zip(c.tolist(), a.tolist(), b.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(chains("exact", product, c, a, b), np.array(expected, np.float32))


@HARDWARE
@PRODUCTS
def test_order_within_a_block_does_not_count(chains: Chains, product: str, sums: str) -> None:
    rng = np.random.default_rng(2)
    a, b = (operands(rng, (500, STEP[product]), -8, 8, product) for _ in range(2))
    block = STEP[product] // (2 if sums == "ampere" else 1)
    within = np.concatenate([k + rng.permutation(block) for k in range(0, STEP[product], block)])
    across = np.roll(np.arange(STEP[product]), block // 2)
    d, same, other = (chains(sums, product, 1, a[:, order], b[:, order]) for order in (np.s_[:], within, across))
    np.testing.assert_array_equal(d, same)
    assert (d != other).any() == (sums == "ampere")


# ---- the bound that tests of products on tensor cores have


def dust(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Any, Any]:
    """1, then products just below the half of its last bit; every eighth just below the whole, so that what is kept
    of it is cut off the sum."""
    a, b = np.full(shape, HALF), np.full(shape, 1 - 2.0**-8)
    a[:, 3::8] = LAST
    a[:, 0] = b[:, 0] = 1
    return a, b


DATA: dict[str, Callable[[np.random.Generator, tuple[int, int]], tuple[Any, Any]]] = {
    "random": lambda rng, shape: (rng.standard_normal(shape), rng.standard_normal(shape)),
    "behind a ReLU": lambda rng, shape: (np.maximum(rng.standard_normal(shape), 0), rng.standard_normal(shape)),
    "positive": lambda rng, shape: (abs(rng.standard_normal(shape)), abs(rng.standard_normal(shape))),
    "equal": lambda rng, shape: (np.full(shape, 1.9), np.full(shape, 1.7)),
    "up and down": lambda rng, shape: (rng.random(shape), np.where(np.indices(shape)[1] < shape[1] / 2, 1.7, -1.7)),
    "dust": dust,
}
RANDOM_SIGNS = ("random", "behind a ReLU")


def sums_of(chains: Chains, sums: str, product: str, data: str, K: int) -> tuple[Floats, Any, Any]:
    """Sums of K products, their exact values and magnitudes."""
    rng = np.random.default_rng(3)
    a, b = (reference.rounded(x.astype(np.float32), product) for x in DATA[data](rng, (max(16, 2**16 // K), K)))
    return chains(sums, product, 0, a, b), (a * b).sum(1), abs(a * b).sum(1)


@HARDWARE
@PRODUCTS
@pytest.mark.parametrize("data", DATA)
def test_sums_are_within_the_bound(chains: Chains, data: str, product: str, sums: str) -> None:
    for K in (1, 2, 5, 8, 31, 64, 363, 1024, 16384):
        actual, expected, magnitude = sums_of(chains, sums, product, data, K)
        error = reference.tensor_core_error(magnitude, K, one_sign=data not in RANDOM_SIGNS)
        reference.assert_close(actual, expected, error)


@HARDWARE
@PRODUCTS
@pytest.mark.parametrize(("data", "room"), [("dust", 4), ("equal", 20), ("positive", 20), ("random", 80)])
def test_the_bound_has_little_room(chains: Chains, data: str, room: float, product: str, sums: str) -> None:
    """For long sums. Those that are rounded to nearest have a smaller one, which numbers of one sign exceed here."""
    actual, expected, magnitude = sums_of(chains, sums, product, data, 16384)
    one_sign, error = data not in RANDOM_SIGNS, abs(actual - expected)
    assert (room * error > reference.tensor_core_error(magnitude, 16384, one_sign)).any()
    assert (error > reference.rounding_error(magnitude, 16384)).any() == one_sign
