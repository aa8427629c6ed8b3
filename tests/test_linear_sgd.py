"""kernels.linear_sgd: the update of a fully connected layer's weights without their gradient in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, strategies as st
from ml_dtypes import bfloat16

from alexnet_cuda import kernels

PRODUCTS = pytest.mark.parametrize("product", ["float32", *reference.PRODUCTS])
HYPER = {"momentum": 0.9, "decay": 0.01}
# N, outputs, inputs
SHAPES = [
    pytest.param(20, 132, 128, id="wide tiles"),
    pytest.param(40, 136, 72, id="wide tiles, eights"),
    pytest.param(40, 136, 64, id="narrow tiles"),
    pytest.param(7, 130, 65, id="value by value"),
    pytest.param(9, 130, 66, id="value by value, in pairs"),
    pytest.param(300, 4, 260, id="a split sum"),
    pytest.param(1025, 7, 9, id="a split sum, value by value"),
    pytest.param(1, 1, 1, id="one weight"),
    pytest.param(6, 520, 1030, id="several tiles of a BLAS"),
]


def precision(product: str) -> str:
    return "fp32" if product == "float32" else reference.PRODUCTS[product]


def arguments(N: int, outputs: int, inputs: int, product: str) -> tuple[np.ndarray, ...]:
    """w, v, dy, x."""
    dy, x = (reference.stored(reference.random(N, n, seed=n), product) for n in (outputs, inputs))
    return reference.random(outputs, inputs, seed=1), reference.random(outputs, inputs, seed=2), dy, x


def update(
    run: Runner, arrays: tuple[np.ndarray, ...], lr: Any, product: str, nesterov: bool = False
) -> tuple[np.ndarray, ...]:
    """w, v and the copy of w after one update."""
    w, v, dy, x = arrays
    w, v, stored = run.put(w.copy()), run.put(v.copy()), run.put(np.full(w.shape, np.nan, bfloat16))
    options = {"precision": precision(product), "stored": stored, "nesterov": nesterov}
    assert run(kernels.linear_sgd, w, v, dy, x, lr, **HYPER, **options) is None
    return run.get(w), run.get(v), run.get(stored)


def check(run: Runner, N: int, outputs: int, inputs: int, product: str, lr: float) -> None:
    w, v, dy, x = arrays = arguments(N, outputs, inputs, product)
    new_w, new_v, stored = update(run, arrays, lr, product)
    ry, rx = (a.astype(np.float64) if product == "float32" else reference.rounded(a, product) for a in (dy, x))
    g, magnitude = (reference.linear_backward(*some, w)[1] for some in ((ry, rx), (abs(ry), abs(rx))))
    w64, v64 = w.astype(np.float64), v.astype(np.float64)
    expected_w, expected_v = reference.sgd(w64, v64, g, lr, **HYPER)
    _, terms = reference.sgd(-abs(w64), abs(v64), -magnitude, lr, **HYPER)
    bound = reference.rounding_error if product == "float32" else reference.tensor_core_error
    error = lr * bound(magnitude, N) + reference.rounding_error(terms, 8)
    reference.assert_close(new_v, expected_v, error)
    reference.assert_close(new_w, expected_w, error + reference.rounding_error(abs(w64) + terms, 1))
    np.testing.assert_array_equal(stored, new_w.astype(bfloat16))


EDGES = st.sampled_from([1, 3, 4, 8, 9, 63, 64, 65, 127, 128, 129])


@given(
    N=st.sampled_from([1, 3, 15, 16, 17, 33, 260]),
    outputs=EDGES,
    inputs=EDGES,
    product=st.sampled_from(["float32", *reference.PRODUCTS]),
    lr=st.sampled_from([0.0, 0.01, 1.0]),
)
def test_any_shape(run: Runner, N: int, outputs: int, inputs: int, product: str, lr: float) -> None:
    check(run, N, outputs, inputs, product, lr)


@pytest.mark.parametrize("nesterov", [False, True])
@PRODUCTS
@pytest.mark.parametrize(("N", "outputs", "inputs"), SHAPES)
def test_bits_of_a_gradient_and_an_update(
    run_gemm: Runner, N: int, outputs: int, inputs: int, product: str, nesterov: bool
) -> None:
    run = run_gemm
    w, v, dy, x = arrays = arguments(N, outputs, inputs, product)
    rate = np.array(0.01, np.float32)
    actual = update(run, arrays, rate, product, nesterov)
    _, dw, _ = run(kernels.linear_backward, dy, x, w, (False, True, False), precision(product))
    expected = [run.put(w.copy()), run.put(v.copy())]
    run(kernels.multi_sgd, [expected[0]], [expected[1]], [run.put(dw)], [run.put(rate)], [0.9], [0.01], nesterov)
    for got, right in zip(actual, map(run.get, expected), strict=False):
        np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize("apart", ["w", "v", "stored"])
def test_memory_that_is_not_aligned_to_pairs(apart: str) -> None:
    def alone(array: np.ndarray, name: str) -> np.ndarray:
        place = np.empty(array.size + 1, array.dtype)[1 if name == apart else 0 :][: array.size].reshape(array.shape)
        place[...] = array
        return place

    w, v, dy, x = arrays = arguments(5, 8, 16, "tf32")
    expected = update(Runner("cpu"), arrays, 0.1, "tf32")
    w, v, stored = alone(w, "w"), alone(v, "v"), alone(np.zeros(w.shape, bfloat16), "stored")
    kernels.linear_sgd(w, v, dy, x, 0.1, **HYPER, precision="tf32", stored=stored)
    for got, right in zip((w, v, stored), expected, strict=True):
        np.testing.assert_array_equal(got, right)


@PRODUCTS
def test_the_copy_may_be_left_out(run: Runner, product: str) -> None:
    w, v, dy, x = arrays = arguments(5, 8, 16, product)
    expected = update(run, arrays, 0.1, product)
    w, v = run.put(w), run.put(v)
    run(kernels.linear_sgd, w, v, dy, x, 0.1, **HYPER, precision=precision(product))
    np.testing.assert_array_equal(run.get(w), expected[0])
    np.testing.assert_array_equal(run.get(v), expected[1])


@pytest.mark.parametrize("product", ["tf32", "bfloat16"])
def test_what_is_not_finite_spreads_no_further(run: Runner, product: str) -> None:
    w, v, dy, x = arguments(3, 6, 10, product)
    dy[1, 2], x[0, 4] = np.nan, np.inf
    new_w, new_v, stored = update(run, (w, v, dy, x), 0.1, product)
    for array in (new_w, new_v, stored):
        assert not np.isfinite(array[2]).any() and not np.isfinite(array[:, 4]).any()
        assert np.isfinite(np.delete(np.delete(array, 2, 0), 4, 1)).all()
