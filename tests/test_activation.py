"""kernels.relu, tanh and sigmoid, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import STORAGE, Runner
from hypothesis import given, strategies as st
from ml_dtypes import bfloat16
from numpy.typing import DTypeLike

from alexnet_cuda import kernels

SHAPES = st.one_of(
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    st.sampled_from([(1,), (255,), (256,), (257,), (1023,), (4097,), (3, 13, 13, 97)]),
)
NAMES = pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])

# Roundings of the result: expf and tanhf are right to 2 units in the last place (CUDA's documentation), four roundings;
# the sigmoid adds one and divides.
FORWARD = {"relu": 0, "tanh": 4, "sigmoid": 6}


@NAMES
@STORAGE
@given(shape=SHAPES, scale=st.sampled_from([1, 30]))
def test_forward(run: Runner, name: str, dtype: DTypeLike, shape: tuple[int, ...], scale: int) -> None:
    check_forward(run, name, (scale * reference.random(*shape)).astype(dtype))


@NAMES
@STORAGE
@given(shape=SHAPES, scale=st.sampled_from([1, 30]))
def test_backward(run: Runner, name: str, dtype: DTypeLike, shape: tuple[int, ...], scale: int) -> None:
    y = run(getattr(kernels, name), (scale * reference.random(*shape)).astype(dtype))
    dy = reference.random(*shape, seed=1, dtype=dtype)
    dy64, y64 = dy.astype(np.float64), y.astype(np.float64)
    expected = getattr(reference, f"{name}_backward")(dy64, y64)
    # 1 - y^2 cancels: its terms count, three roundings; y (1 - y) is two products and an exact or rounded difference
    magnitude = abs(dy64) * (1 + y64**2) if name == "tanh" else abs(expected)
    actual = run(getattr(kernels, f"{name}_backward"), dy, y)
    reference.assert_close(actual, expected, reference.rounding_error(magnitude, 0 if name == "relu" else 3), dtype)


@NAMES
def test_extremes(run: Runner, name: str) -> None:
    """Large, small and special values, with the right limits and no overflow on the way."""
    largest = np.finfo(np.float32).max
    x = np.array([0, -0.0, 1e-30, -1e-30, 1e-5, -1e-5, 88, -88, 104, -104, 1e4, -1e4, largest, -largest], np.float32)
    check_forward(run, name, x)


@NAMES
def test_a_million_elements(run: Runner, name: str) -> None:
    check_forward(run, name, reference.random(1_000_003))


@NAMES
@STORAGE
def test_nan_is_not_hidden(run: Runner, name: str, dtype: DTypeLike) -> None:
    assert np.isnan(run(getattr(kernels, name), np.full(3, np.nan, dtype))).all()


@NAMES
def test_gradient_and_output_are_stored_alike(run: Runner, name: str) -> None:
    dy = np.ones(3, bfloat16)
    with pytest.raises(TypeError, match=f"{name}_backward: y: expected dtype bfloat16, got float32"):
        run(getattr(kernels, f"{name}_backward"), dy, dy.astype(np.float32))


def check_forward(run: Runner, name: str, x: np.ndarray) -> None:
    expected = getattr(reference, name)(x.astype(np.float64))
    error = reference.rounding_error(abs(expected), FORWARD[name])
    reference.assert_close(run(getattr(kernels, name), x), expected, error, x.dtype)


@NAMES
def test_oracle(name: str) -> None:
    x = reference.distinct(5, 7).astype(np.float64) * 3
    dy = reference.random(5, 7).astype(np.float64)
    forward = getattr(reference, name)
    numeric = reference.numeric_gradient(lambda x: (forward(x) * dy).sum(), x)
    np.testing.assert_allclose(getattr(reference, f"{name}_backward")(dy, forward(x)), numeric, rtol=1e-6, atol=1e-9)
