"""kernels.gemm against a float64 product, with BLAS and with the tiled kernel."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, strategies as st

from alexnet_cuda import backend, kernels

# One less, exactly and one more than a thread's share, a warp's, a tile and two tiles.
EDGES = [1, 2, 3, 7, 8, 9, 16, 31, 33, 63, 64, 65, 127, 128, 129]
LAYOUTS = pytest.mark.parametrize(
    ("transpose_a", "transpose_b"),
    [(False, False), (False, True), (True, False), (True, True)],
    ids=["NN", "NT", "TN", "TT"],
)


def check(
    run: Runner, M: int, N: int, K: int, transpose_a: bool, transpose_b: bool, alpha: float = 1.0, beta: float = 0.0
) -> None:
    a = reference.random(*(K, M) if transpose_a else (M, K), seed=1)
    b = reference.random(*(N, K) if transpose_b else (K, N), seed=2)
    c = reference.random(M, N, seed=3)
    a64, b64, c64 = (array.astype(np.float64) for array in (a, b, c))
    expected = alpha * reference.gemm(a64, b64, transpose_a, transpose_b) + beta * c64
    magnitude = abs(alpha) * reference.gemm(abs(a64), abs(b64), transpose_a, transpose_b) + abs(beta * c64)
    actual = run(kernels.gemm, a, b, transpose_a, transpose_b, alpha, beta, c if beta else None)
    # K products and sums; alpha, beta and the last sum round once more
    reference.assert_close(actual, expected, reference.rounding_error(magnitude, K + 3))


@given(
    M=st.sampled_from(EDGES),
    N=st.sampled_from(EDGES),
    K=st.sampled_from(EDGES),
    transpose_a=st.booleans(),
    transpose_b=st.booleans(),
    alpha=st.sampled_from([1.0, -0.5, 0.0]),
    beta=st.sampled_from([0.0, 1.0, 0.3]),
)
def test_any_shape(
    run_gemm: Runner, M: int, N: int, K: int, transpose_a: bool, transpose_b: bool, alpha: float, beta: float
) -> None:
    check(run_gemm, M, N, K, transpose_a, transpose_b, alpha, beta)


@LAYOUTS
@pytest.mark.parametrize(
    ("M", "N", "K"),
    [(1, 1, 1), (63, 65, 7), (64, 64, 8), (65, 63, 9), (128, 128, 16), (129, 127, 17), (1, 300, 200), (300, 1, 200)],
)
def test_tile_edges(run_gemm: Runner, M: int, N: int, K: int, transpose_a: bool, transpose_b: bool) -> None:
    check(run_gemm, M, N, K, transpose_a, transpose_b)


@LAYOUTS
@pytest.mark.parametrize("N", [1473, 1480])
def test_large_result(run_gemm: Runner, N: int, transpose_a: bool, transpose_b: bool) -> None:
    """So many tiles that they may be large ones."""
    check(run_gemm, 1479, N, 13, transpose_a, transpose_b)


@LAYOUTS
def test_long_reduction(run_gemm: Runner, transpose_a: bool, transpose_b: bool) -> None:
    check(run_gemm, 5, 33, 9216, transpose_a, transpose_b)


@pytest.mark.parametrize("M", range(1, 10))
@pytest.mark.parametrize("K", [7, 1031, 2048])
def test_few_rows(run_gemm: Runner, M: int, K: int) -> None:
    """What a fully connected layer does with few images, which on a CPU a BLAS is not asked for."""
    for N in (3, 4, 5, 130):
        check(run_gemm, M, N, K, False, True, alpha=-0.5, beta=0.3)


@LAYOUTS
@pytest.mark.parametrize("K", [511, 512, 513, 530, 1040])
def test_parts_of_k(run_gemm: Runner, K: int, transpose_a: bool, transpose_b: bool) -> None:
    """One part up to 511, then two and more; what becomes of a sum is done once."""
    for M, N in ((1, 1), (7, 68), (66, 64)):
        check(run_gemm, M, N, K, transpose_a, transpose_b, alpha=-0.5, beta=0.3)


@pytest.mark.parametrize(
    ("M", "N", "K", "parts"),
    [
        pytest.param(128, 4096, 9216, 2, id="fc6"),
        pytest.param(128, 1000, 4096, 8, id="fc8"),
        pytest.param(1024, 4096, 9216, 1, id="fc6 of many images"),
        pytest.param(128, 9216, 4096, 1, id="gradient of fc6's input"),
        pytest.param(4, 4, 511, 1, id="short"),
    ],
)
def test_fully_connected_layers_fill_a_large_gpu(M: int, N: int, K: int, parts: int) -> None:
    """132 multiprocessors, two blocks on each."""
    native = backend.native(backend.Device("cpu"))
    assert native.gemm_workspace(M, N, K) == (parts * M * N * 4 if parts > 1 else 0)


def test_beta_zero_ignores_c(run_gemm: Runner) -> None:
    a, b = reference.random(5, 6), reference.random(6, 7)
    c = np.full((5, 7), np.nan, np.float32)
    assert np.isfinite(run_gemm(kernels.gemm, a, b, beta=0.0, c=c)).all()


def test_arguments_stay_unchanged(run_gemm: Runner) -> None:
    a, b, c = (run_gemm.put(reference.random(9, 9, seed=i)) for i in range(3))
    before = [run_gemm.get(array).copy() for array in (a, b, c)]
    run_gemm(kernels.gemm, a, b, alpha=2.0, beta=3.0, c=c)
    for array, expected in zip((a, b, c), before, strict=True):
        np.testing.assert_array_equal(run_gemm.get(array), expected)


def test_integers_are_exact(run_gemm: Runner) -> None:
    """Small integers have no rounding: every element must be equal."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((70, 130), (130, 66)))
    np.testing.assert_array_equal(run_gemm(kernels.gemm, a, b), a.astype(np.int64) @ b.astype(np.int64))


@LAYOUTS
@pytest.mark.parametrize(("M", "N", "K"), [(3, 5, 3), (64, 64, 8), (66, 67, 9)])
def test_nan_and_infinity_spread_no_further(
    run_gemm: Runner, M: int, N: int, K: int, transpose_a: bool, transpose_b: bool
) -> None:
    """NaN in a row of op(a) and infinity in a column of op(b) reach that row and that column, and nothing beside."""
    a, b = np.ones((M, K), np.float32), np.ones((K, N), np.float32)
    a[1, 0], b[0, 2] = np.nan, np.inf
    c = run_gemm(
        kernels.gemm,
        np.ascontiguousarray(a.T if transpose_a else a),
        np.ascontiguousarray(b.T if transpose_b else b),
        transpose_a,
        transpose_b,
    )
    expected = np.full((M, N), K, np.float32)
    expected[:, 2] = np.inf
    expected[1] = np.nan
    np.testing.assert_array_equal(c, expected)


def test_alpha_zero_ignores_the_operands(run_gemm: Runner) -> None:
    a, b, c = np.full((5, 6), np.nan, np.float32), np.full((6, 7), np.inf, np.float32), reference.random(5, 7)
    np.testing.assert_array_equal(run_gemm(kernels.gemm, a, b, alpha=0.0, beta=1.0, c=c), c)
