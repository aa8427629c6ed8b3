"""kernels.linear with weights in bfloat16 or int8, multiplied as float32, against float64 of what they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from conftest import Runner, launches
from hypothesis import given, strategies as st
from ml_dtypes import bfloat16

from alexnet_cuda import kernels

STORED = pytest.mark.parametrize("dtype", [bfloat16, np.int8], ids=["bfloat16", "int8"])
# Below, at and beyond: rows that reread a block of weights; neurons of a thread, a block, those widened at once.
ROWS = [1, 2, 3, 7, 8, 9, 16, 17, 40]
NEURONS = [1, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65, 130]
INPUTS = [1, 3, 7, 8, 31, 32, 33, 65, 300, 1031]


def weights(N: int, K: int, dtype: Any, seed: int = 2) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """w, its scale and what these stand for in float64."""
    if dtype == bfloat16:
        w = reference.random(N, K, seed=seed, dtype=bfloat16)
        return w, None, w.astype(np.float64)
    rng = np.random.default_rng(seed)
    w, scale = rng.integers(-128, 128, (N, K), np.int8), rng.uniform(1e-3, 1e-1, N).astype(np.float32)
    w[0, 0], w[-1, -1] = -128, 127
    return w, scale, w * scale[:, None].astype(np.float64)


def check(run: Runner, M: int, N: int, K: int, dtype: Any, with_bias: bool = True, relu: bool = True) -> None:
    x, b = reference.random(M, K, seed=1), reference.random(N, seed=3)
    w, scale, exact = weights(N, K, dtype)
    bias = b.astype(np.float64) * with_bias
    expected = reference.linear(x.astype(np.float64), exact, bias)
    error = reference.rounding_error(reference.linear(abs(x).astype(np.float64), abs(exact), abs(bias)), K + 2)
    y = run(kernels.linear, x, w, b if with_bias else None, relu, scale=scale)
    reference.assert_close(y, reference.relu(expected) if relu else expected, error)


@STORED
@given(
    M=st.sampled_from(ROWS), N=st.sampled_from(NEURONS), K=st.sampled_from(INPUTS), with_bias=st.booleans(),
    relu=st.booleans(),
)  # fmt: skip
def test_any_shape(run_gemm: Runner, M: int, N: int, K: int, dtype: Any, with_bias: bool, relu: bool) -> None:
    check(run_gemm, M, N, K, dtype, with_bias, relu)


@STORED
@pytest.mark.parametrize("M", ROWS)
@pytest.mark.parametrize("K", [77, 1104])
def test_rows(run_gemm: Runner, M: int, K: int, dtype: Any) -> None:
    """Also sums of several parts, of whole and aligned runs."""
    check(run_gemm, M, 131, K, dtype)


@STORED
@pytest.mark.parametrize("M", [3, 20])
def test_small_whole_numbers_are_exact(run_gemm: Runner, M: int, dtype: Any) -> None:
    """Nothing is rounded: neither the weights on their way to float32 nor, as the scales are powers of two, these."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(-8, 9, (M, 1300)).astype(np.float32), rng.integers(-127, 128, (37, 1300)).astype(dtype)
    scale = None if dtype == bfloat16 else np.exp2(rng.integers(-9, 3, 37)).astype(np.float32)
    expected = (x.astype(np.int64) @ w.astype(np.int64).T) * (np.float32(1) if scale is None else scale)
    np.testing.assert_array_equal(run_gemm(kernels.linear, x, w, scale=scale), expected.astype(np.float32))


@STORED
@pytest.mark.parametrize("M", [3, 20])
def test_nan_and_infinity_spread_no_further(run_gemm: Runner, M: int, dtype: Any) -> None:
    x, w = np.ones((M, 40), np.float32), np.ones((6, 40), dtype)
    scale = None if dtype == bfloat16 else np.ones(6, np.float32)
    x[1, 39] = np.nan
    expected = np.full((M, 6), 40, np.float32)
    if scale is None:
        w[2, 0] = np.inf
    else:
        scale[2] = np.inf
    expected[:, 2] = np.inf
    expected[1] = np.nan
    np.testing.assert_array_equal(run_gemm(kernels.linear, x, w, scale=scale), expected)


@pytest.mark.parametrize("M", [1, 20])
def test_weights_are_read_as_they_lie(M: int) -> None:
    """Nobody makes a float32 copy of the matrix first; tensor cores and x in bfloat16 take w as they always did."""
    x, scale = reference.random(M, 16), np.ones(5, np.float32)
    w, _, _ = weights(5, 16, bfloat16)
    with launches() as called:
        kernels.linear(x, w, precision="fp32")
        kernels.linear(x, np.ones((5, 16), np.int8), scale=scale)
    assert called == ["short_gemm", "short_gemm"]
    with launches() as called:
        kernels.linear(x, w, precision="tf32")
        kernels.linear(x.astype(bfloat16), w)
    assert "short_gemm" not in called


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scale": None}, r"scale: expected a NumPy or CuPy array, got .*NoneType"),
        ({"w": np.ones((5, 4), np.float32)}, r"scale: expected None, as w is not int8 but float32, got an array"),
        ({"w": np.ones((5, 4), bfloat16)}, r"scale: expected None, as w is not int8 but bfloat16, got an array"),
        ({"scale": np.ones(4, np.float32)}, r"scale: .*expected .*5.*got .*4"),
        ({"precision": "tf32"}, r"precision: expected 'fp32' and x in float32 for w in int8, got 'tf32'"),
        ({"x": np.ones((3, 4), bfloat16)}, r"precision: expected 'fp32' and x in float32 for w in int8, got 'bf16'"),
    ],
)
def test_what_does_not_go_together_is_refused(run: Runner, changes: dict[str, Any], said: str) -> None:
    right = {"x": np.ones((3, 4), np.float32), "w": np.ones((5, 4), np.int8), "scale": np.ones(5, np.float32)}
    with pytest.raises((TypeError, ValueError), match=said):
        run(kernels.linear, **{**right, **changes})
