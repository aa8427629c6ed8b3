"""The quantiser of weights: how far a round trip may go, extremes, rows of their own, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays
from numpy.testing import assert_array_equal

from alexnet_cuda.quantise import quantised

LARGEST = float(np.finfo(np.float32).max)


def matrices(largest: float = LARGEST) -> st.SearchStrategy[np.ndarray]:
    numbers = st.floats(-largest, largest, width=32) | st.floats(-1, 1, width=32) | st.just(0.0)
    return arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=numbers)


@given(w=matrices())
def test_a_round_trip_stays_within_half_a_scale(w: np.ndarray) -> None:
    q, scale = quantised(w)
    assert (q.dtype, q.shape, scale.dtype, scale.shape) == (np.int8, w.shape, np.float32, w.shape[:1])
    assert np.isfinite(scale).all() and (scale > 0).all()
    assert (abs(q.astype(int)) <= 127).all()
    wide = scale[:, None].astype(np.float64)
    assert (abs(q * wide - w) <= wide * (0.5 + 2.0**-46)).all()  # the quotient, at most 127, is rounded to float64
    largest = abs(w).max(axis=1)
    assert_array_equal(abs(q).max(axis=1)[largest > 1e-35], 127)


@given(w=matrices(), rows=st.randoms(use_true_random=False))
def test_each_row_is_on_its_own(w: np.ndarray, rows: np.random.Generator) -> None:
    order = list(range(len(w)))
    rows.shuffle(order)
    for whole, part in zip(quantised(w), quantised(w[order]), strict=True):
        assert_array_equal(whole[order], part)


@given(w=matrices())
def test_signs_are_alike(w: np.ndarray) -> None:
    (q, scale), (negated, same) = quantised(w), quantised(-w)
    assert_array_equal(q, -negated)
    assert_array_equal(scale, same)


def test_extremes() -> None:
    tiny, smallest = np.finfo(np.float32).tiny, np.finfo(np.float32).smallest_subnormal
    q, scale = quantised(np.array([[0, -0.0], [LARGEST, -LARGEST], [smallest, 0], [tiny, -tiny]], np.float32))
    assert_array_equal(scale, np.array([1, LARGEST / 127, tiny, tiny], np.float32))
    assert_array_equal(q, [[0, 0], [127, -127], [0, 0], [1, -1]])


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(0).standard_normal((7, 5), np.float32)
    whole = quantised(w)
    monkeypatch.setattr("alexnet_cuda.quantise.AT_ONCE", 11)
    for expected, got in zip(whole, quantised(w), strict=True):
        assert_array_equal(got, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    w = np.ones((3, 4), np.float32)
    w[1, 2] = bad
    with pytest.raises(ValueError, match=rf"^expected finite weights for int8, got {abs(bad)} in row 1$"):
        quantised(w)
