"""kernels.linear on a small batch by the kernel that reads each weight once, against float64 of rounded operands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, strategies as st

from alexnet_cuda import backend, kernels

CPU = backend.native(backend.Device("cpu"))
PRECISION = {"fp32": "fp32", **reference.PRODUCTS}
PRODUCTS = pytest.mark.parametrize("product", PRECISION)
# One less, exactly and one more than a run, a read of a warp, a step, a part of k; several parts.
INPUTS = [1, 3, 4, 5, 7, 8, 9, 127, 128, 129, 255, 256, 260, 264, 511, 512, 520, 1023, 1024, 1028, 1032, 2600]
NEURONS = [1, 3, 4, 5, 31, 32, 33, 65]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(Runner("cpu", blas=False), id="cpu"),
        pytest.param(Runner("cuda"), id="cuda", marks=pytest.mark.gpu),
    ],
)
def run(request: pytest.FixtureRequest) -> Runner:
    if request.param.device == "cuda" and (problem := backend.gpu_problem()):
        pytest.skip(problem)
    return request.param


def operands(product: str, *arrays: np.ndarray) -> list[np.ndarray]:
    return [reference.stored(array, product) for array in arrays]


def check(run: Runner, M: int, N: int, K: int, product: str, with_bias: bool = True, relu: bool = True) -> None:
    assert CPU.skinny_gemm_takes(M, N, K)
    x, w = operands(product, reference.random(M, K, seed=1), reference.random(N, K, seed=2))
    b = reference.random(N, seed=3) if with_bias else np.zeros(N, np.float32)
    rx, rw = (reference.rounded(array, product) for array in (x, w))
    expected = reference.linear(rx, rw, b.astype(np.float64))
    error = reference.rounding_error(reference.linear(abs(rx), abs(rw), abs(b)), K + 1)
    y = run(kernels.linear, x, w, b if with_bias else None, relu, PRECISION[product])
    reference.assert_close(y, reference.relu(expected) if relu else expected, error, x.dtype)


@given(
    M=st.integers(1, 16),
    N=st.sampled_from(NEURONS),
    K=st.sampled_from(INPUTS),
    product=st.sampled_from(list(PRECISION)),
    with_bias=st.booleans(),
    relu=st.booleans(),
)
def test_any_shape(run: Runner, M: int, N: int, K: int, product: str, with_bias: bool, relu: bool) -> None:
    check(run, M, N, K, product, with_bias, relu)


@PRODUCTS
@pytest.mark.parametrize("M", [1, 2, 4, 5, 8, 9, 16])
@pytest.mark.parametrize("K", [1099, 1104])
def test_rows(run: Runner, M: int, K: int, product: str) -> None:
    check(run, M, 33, K, product)


@PRODUCTS
def test_integers_are_exact(run: Runner, product: str) -> None:
    """Small integers have no rounding: every element must be equal."""
    rng = np.random.default_rng(0)
    x, w = operands(product, *(rng.integers(-8, 9, (rows, 1300)).astype(np.float32) for rows in (7, 37)))
    expected = (x.astype(np.int64) @ w.astype(np.int64).T).astype(x.dtype)
    np.testing.assert_array_equal(run(kernels.linear, x, w, precision=PRECISION[product]), expected)


@PRODUCTS
@pytest.mark.parametrize("K", [3, 304])
def test_nan_and_infinity_spread_no_further(run: Runner, K: int, product: str) -> None:
    x, w = operands(product, np.ones((3, K), np.float32), np.ones((6, K), np.float32))
    x[1, K - 1], w[2, 0] = np.nan, np.inf
    expected = np.full((3, 6), K, np.float32)
    expected[:, 2] = np.inf
    expected[1] = np.nan
    got = run(kernels.linear, x, w, precision=PRECISION[product])
    np.testing.assert_array_equal(got.astype(np.float32), expected)


@PRODUCTS
def test_memory_that_is_not_aligned_to_runs(product: str) -> None:
    x, w = operands(product, reference.random(3, 16), reference.random(5, 16))
    apart = np.empty(w.size + 1, w.dtype)[1:].reshape(w.shape)
    apart[...] = w
    with backend.blas(False):
        both = [kernels.linear(x, some, precision=PRECISION[product]) for some in (apart, w)]
    np.testing.assert_array_equal(*both)


def test_more_rows_are_refused() -> None:
    assert not CPU.skinny_gemm_takes(17, 4, 5)
    x, w = np.ones((17, 5), np.float32), np.ones((4, 5), np.float32)
    with pytest.raises(ValueError, match=r"^skinny_gemm: x: expected at most 16 rows, got shape \(17, 5\)$"):
        CPU.skinny_gemm(np.empty((17, 4), np.float32), x, w, None, False, "fp32", None)


@pytest.mark.parametrize(
    ("rows", "product", "blas", "launched"),
    [
        (1, "fp32", False, ["skinny_gemm"]),
        (16, "fp32", False, ["skinny_gemm"]),
        (17, "fp32", False, ["gemm", "bias_forward"]),
        (1, "fp32", True, ["gemm", "bias_forward"]),  # a CPU's BLAS
        (8, "tf32", True, ["skinny_gemm"]),
        (8, "bf16", False, ["skinny_gemm"]),
        (8, "bfloat16", True, ["skinny_gemm"]),
        (17, "bf16", False, ["tensor_gemm"]),
    ],
)
def test_when_it_multiplies(
    monkeypatch: pytest.MonkeyPatch, rows: int, product: str, blas: bool, launched: list[str]
) -> None:
    names: list[str] = []

    class Recorder:
        """The native module, that launches nothing and keeps the names of what it was asked for."""

        def __getattr__(self, name: str) -> Any:
            if name.endswith(("_takes", "_workspace")):
                return getattr(CPU, name)
            return lambda *_: names.append(name)

    monkeypatch.setattr(backend, "native", lambda device: Recorder())
    monkeypatch.setattr(backend, "uses_blas", lambda device: blas)
    x, w = operands(product, np.zeros((rows, 8), np.float32), np.zeros((5, 8), np.float32))
    kernels.linear(x, w, np.zeros(5, np.float32), precision=PRECISION[product])
    assert names == launched


@pytest.mark.parametrize(
    ("N", "K", "parts"),
    [
        pytest.param(4096, 9216, 9, id="fc6"),
        pytest.param(4096, 4096, 4, id="fc7"),
        pytest.param(1000, 4096, 8, id="fc8"),
    ],
)
def test_fully_connected_layers_fill_a_large_gpu(N: int, K: int, parts: int) -> None:
    """132 multiprocessors, with at least one block of 32 neurons each, from one image to sixteen."""
    for M in (1, 8, 16):
        assert CPU.skinny_gemm_workspace(M, N, K) == parts * M * N * 4
    assert -(-N // 32) * parts >= 132
