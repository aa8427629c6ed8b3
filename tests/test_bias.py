"""kernels.bias, bias_backward and bias_relu_backward."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import STORAGE, Runner
from hypothesis import given, strategies as st
from numpy.typing import DTypeLike

from alexnet_cuda import kernels

CHANNELS = st.sampled_from([1, 3, 5, 31, 32, 33, 96, 97, 257])


@STORAGE
@given(shape=st.lists(st.integers(1, 6), max_size=3), C=CHANNELS, relu=st.booleans())
def test_forward(run: Runner, dtype: DTypeLike, shape: list[int], C: int, relu: bool) -> None:
    x, b = reference.random(*shape, C, seed=1, dtype=dtype), reference.random(C, seed=2)
    y = x.astype(np.float64) + b
    expected = reference.relu(y) if relu else y
    reference.assert_close(run(kernels.bias, x, b, relu), expected, reference.rounding_error(abs(y), 1), dtype)


@STORAGE
@given(rows=st.sampled_from([1, 2, 3, 31, 33, 127, 129, 1000]), C=CHANNELS)
def test_backward(run: Runner, dtype: DTypeLike, rows: int, C: int) -> None:
    check_backward(run, dtype, rows, C)


@STORAGE
@pytest.mark.parametrize(("rows", "C"), [(50_000, 3), (3025, 96), (20_001, 1), (7, 4096)])
def test_backward_of_many_rows(run: Runner, dtype: DTypeLike, rows: int, C: int) -> None:
    check_backward(run, dtype, rows, C)


def check_backward(run: Runner, dtype: DTypeLike, rows: int, C: int) -> None:
    dy = reference.random(rows, C, dtype=dtype)
    dy64 = dy.astype(np.float64)
    error = reference.rounding_error(abs(dy64).sum(0), rows)
    reference.assert_close(run(kernels.bias_backward, dy), dy64.sum(0), error)


@STORAGE
@given(rows=st.sampled_from([1, 2, 3, 31, 33, 64, 65, 127, 1000]), C=CHANNELS)
def test_backward_with_relu(run: Runner, dtype: DTypeLike, rows: int, C: int) -> None:
    """To the formula, and to the bits of the two operations that it joins."""
    dy, y = (reference.random(rows, C, seed=i, dtype=dtype) for i in range(2))
    y = np.where(y < 0, np.zeros_like(y), y)
    dx, db = run(kernels.bias_relu_backward, dy, y)
    expected = np.where(y > 0, dy, np.zeros_like(dy))
    assert dx.dtype == dtype and db.dtype == np.float32
    np.testing.assert_array_equal(dx, expected)
    np.testing.assert_array_equal(dx, run(kernels.relu_backward, dy, y))
    np.testing.assert_array_equal(db, run(kernels.bias_backward, expected))
    wide = expected.astype(np.float64)
    reference.assert_close(db, wide.sum(0), reference.rounding_error(abs(wide).sum(0), rows))


@STORAGE
@pytest.mark.parametrize(("p", "form"), [(0.5, "paper"), (0.5, "inverted"), (0.3, "inverted")])
def test_backward_with_relu_and_dropout(run: Runner, dtype: DTypeLike, p: float, form: str) -> None:
    """What is above 0 after dropout was so before and is kept: to the bits of three operations."""
    draw = {"p": p, "form": form, "seed": 3}
    before, dy = (reference.random(67, 40, seed=i, dtype=dtype) for i in range(2))
    before = run(kernels.relu, before)
    y, scale = run(kernels.dropout, before, **draw), 1 / (1 - p) if form == "inverted" else 1.0
    dx, db = run(kernels.bias_relu_backward, dy, y, scale)
    expected = run(kernels.bias_relu_backward, run(kernels.dropout_backward, dy, **draw), before)
    np.testing.assert_array_equal(dx, expected[0])
    np.testing.assert_array_equal(db, expected[1])


def test_nan_passes_relu_backward(run: Runner) -> None:
    y = np.array([[np.nan, 0, 1, -0.0]], np.float32)
    dx, db = run(kernels.bias_relu_backward, np.full((1, 4), 3, np.float32), y)
    np.testing.assert_array_equal(dx, [[3, 0, 3, 0]])
    np.testing.assert_array_equal(db, [3, 0, 3, 0])


def test_oracle() -> None:
    x, b, dy = (reference.random(*shape).astype(np.float64) for shape in ((4, 3), (3,), (4, 3)))
    np.testing.assert_allclose(reference.numeric_gradient(lambda b: ((x + b) * dy).sum(), b), dy.sum(0), rtol=1e-8)
