"""kernels.ema."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, strategies as st

from alexnet_cuda import kernels


def averaged(run: Runner, average: np.ndarray, w: np.ndarray, rate: Any) -> np.ndarray:
    """The average after one update, which leaves w as it is."""
    into, weights = run.put(average.copy()), run.put(w.copy())
    assert run(kernels.ema, into, weights, rate) is None
    np.testing.assert_array_equal(run.get(weights), w)
    return run.get(into)


@given(
    shape=st.one_of(
        st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
        st.sampled_from([(255,), (256,), (257,), (100_003,)]),
    ),
    rate=st.sampled_from([0.001, 0.25, 0.499, 0.5, 0.9]),
    on_device=st.booleans(),
)
def test_any_shape(run: Runner, shape: tuple[int, ...], rate: float, on_device: bool) -> None:
    average, w = (reference.random(*shape, seed=i) for i in range(2))
    actual = averaged(run, average, w, np.array(rate, np.float32) if on_device else rate)
    a64, w64 = average.astype(np.float64), w.astype(np.float64)
    # the rate as float32, the difference of both, its product, the sum
    reference.assert_close(actual, (1 - rate) * a64 + rate * w64, reference.rounding_error(abs(a64) + abs(w64), 4))


def test_ends_are_exact(run: Runner) -> None:
    average, w = 1e6 * reference.random(1001, seed=1), reference.random(1001, seed=2)
    np.testing.assert_array_equal(averaged(run, average, w, 0.0), average)
    np.testing.assert_array_equal(averaged(run, average, w, 1.0), w)


@given(rate=st.floats(0, 1, width=32))
def test_an_average_of_equal_weights_stays(run: Runner, rate: float) -> None:
    w = reference.random(13)
    np.testing.assert_array_equal(averaged(run, w, w, rate), w)


def test_what_is_not_finite_is_not_hidden(run: Runner) -> None:
    w = np.array([1, np.nan, np.inf, 2], np.float32)
    actual = averaged(run, np.zeros(4, np.float32), w, 0.5)
    np.testing.assert_array_equal(np.isfinite(actual), [True, False, False, True])


@pytest.mark.parametrize(
    ("error", "changes", "message"),
    [
        (ValueError, {"rate": 1.5}, r"rate: expected a number in \[0, 1\], got 1.5"),
        (ValueError, {"rate": float("nan")}, "rate: expected a number"),
        (TypeError, {"rate": np.ones(())}, "rate: expected dtype float32, got float64"),
        (ValueError, {"w": np.ones(4, np.float32)}, r"average: expected .* array of shape \(4,\), got float32 \(3,\)"),
        (TypeError, {"w": np.ones(3)}, "w: expected dtype float32, got float64"),
    ],
)
def test_refuses(error: type[Exception], changes: dict[str, Any], message: str) -> None:
    right = {"average": np.ones(3, np.float32), "w": np.ones(3, np.float32), "rate": 0.5}
    with pytest.raises(error, match=f"^ema: {message}"):
        kernels.ema(**{**right, **changes})
