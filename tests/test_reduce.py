"""kernels.reduce_sum, reduce_max and its gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from conftest import STORAGE, Runner
from hypothesis import given, strategies as st
from numpy.typing import DTypeLike

from alexnet_cuda import kernels

Shape = tuple[int, ...]


@st.composite
def reductions(draw: st.DrawFn, least: int = 0) -> tuple[Shape, Shape]:
    """Shapes and axes, short and long, some empty."""
    shape = tuple(draw(st.lists(st.integers(least, 5) | st.sampled_from([33, 64, 65, 200]), max_size=4)))
    if math.prod(shape) > 100_000:
        shape = shape[:2]
    return shape, tuple(draw(st.lists(st.sampled_from(range(len(shape))), unique=True)) if shape else ())


def rows(x: np.ndarray, axes: Shape) -> np.ndarray:
    """What is reduced in front, as one axis."""
    kept = tuple(n for axis, n in enumerate(x.shape) if axis not in axes)
    return np.moveaxis(x, sorted(axes), range(len(axes))).reshape(math.prod(x.shape[a] for a in axes), *kept)


@STORAGE
@pytest.mark.parametrize("mean", [False, True])
@given(case=reductions())
def test_sum(run: Runner, dtype: DTypeLike, mean: bool, case: tuple[Shape, Shape]) -> None:
    shape, axes = case
    x = reference.random(*shape, dtype=dtype)
    terms = rows(x, axes).astype(np.float64)
    count = len(terms)
    if mean and count == 0 and math.prod(terms.shape[1:]):
        with pytest.raises(ValueError, match="reduce_sum: mean: expected values to take it of"):
            run(kernels.reduce_sum, x, axes, mean)
        return
    by = max(count, 1) if mean else 1
    error = reference.rounding_error(abs(terms).sum(0) / by, count + mean)
    reference.assert_close(run(kernels.reduce_sum, x, axes, mean), terms.sum(0) / by, error, dtype)


@STORAGE
@given(case=reductions(least=1))
def test_max_and_its_gradient(run: Runner, dtype: DTypeLike, case: tuple[Shape, Shape]) -> None:
    """Of whole numbers, so that many are equal."""
    shape, axes = case
    x = np.asarray(np.rint(2 * reference.random(*shape)), dtype)
    y, which = run(kernels.reduce_max, x, axes)
    candidates = rows(x, axes).astype(np.float32)
    assert y.dtype == dtype and np.array_equal(y.astype(np.float32), candidates.max(0))
    assert which.dtype == np.int32 and np.array_equal(which, candidates.argmax(0))
    dy = reference.random(*y.shape, seed=1, dtype=dtype)
    dx = run(kernels.reduce_max_backward, dy, which, shape, axes)
    places = np.arange(len(candidates)).reshape(-1, *(1,) * which.ndim)
    assert dx.dtype == dtype and dx.shape == shape
    assert np.array_equal(rows(dx, axes), np.where(places == which, dy, np.zeros((), dtype)))


@pytest.mark.parametrize("shape", [(300,), (300, 3), (3, 300), (60,)])
def test_the_first_nan_is_the_largest(run: Runner, shape: Shape) -> None:
    x = np.zeros(shape, np.float32)
    x.reshape(-1)[[50, 55]] = np.nan
    y, which = run(kernels.reduce_max, x)
    assert np.isnan(y) and which == 50
    y, which = run(kernels.reduce_max, np.full(shape, -np.inf, np.float32))
    assert y == -np.inf and which == 0


def test_a_sum_is_added_in_parts(run: Runner) -> None:
    """One running sum of ten million ones in float32 would be wrong by more than one in a thousand of them."""
    ones = np.full(10_000_000, 1.1, np.float32)
    exact = ones.astype(np.float64).sum()
    assert abs(run(kernels.reduce_sum, ones) - exact) < 1e-5 * exact


def test_a_maximum_of_nothing(run: Runner) -> None:
    with pytest.raises(ValueError, match=r"reduce_max: x: expected values .* got shape \(3, 0\) over axes 1"):
        run(kernels.reduce_max, np.ones((3, 0), np.float32), 1)
    y, which = run(kernels.reduce_max, np.ones((3, 0), np.float32), 0)
    assert y.shape == which.shape == (0,)
    assert run(kernels.reduce_max_backward, y, which, (3, 0), 0).shape == (3, 0)
