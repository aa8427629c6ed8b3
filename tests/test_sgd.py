"""kernels.sgd."""

from __future__ import annotations

from typing import Any

import numpy as np
import reference
from conftest import Runner
from hypothesis import given, strategies as st

from alexnet_cuda import kernels


def update(
    run: Runner, w: np.ndarray, v: np.ndarray, g: np.ndarray, lr: Any, **parameters: float
) -> tuple[np.ndarray, ...]:
    """w, v and g after one update."""
    arrays = [run.put(array) for array in (w.copy(), v.copy(), g.copy())]
    assert run(kernels.sgd, *arrays, lr, **parameters) is None
    return tuple(map(run.get, arrays))


def test_known_answer(run: Runner) -> None:
    w, v, g = (np.array([value], np.float32) for value in (1, 0.1, 0.5))
    w, v, _ = update(run, w, v, g, 0.01, momentum=0.9, decay=5e-4)
    np.testing.assert_allclose(v, [0.084995], rtol=1e-6)
    np.testing.assert_allclose(w, [1.084995], rtol=1e-6)


@given(
    shape=st.one_of(
        st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
        st.sampled_from([(255,), (256,), (257,), (100_003,)]),
    ),
    lr=st.sampled_from([0.0, 0.01, 1.0]),
    lr_scale=st.sampled_from([0.0, 1.0, 2.0]),
    momentum=st.sampled_from([0.0, 0.9]),
    decay=st.sampled_from([0.0, 5e-4, 1.0]),
    on_device=st.booleans(),
)
def test_any_shape(
    run: Runner, shape: tuple[int, ...], lr: float, lr_scale: float, momentum: float, decay: float, on_device: bool
) -> None:
    arrays = [reference.random(*shape, seed=i) for i in range(3)]
    rate = np.array(lr, np.float32) if on_device else lr
    w, v, g = update(run, *arrays, rate, lr_scale=lr_scale, momentum=momentum, decay=decay)
    w64, v64, g64 = (array.astype(np.float64) for array in arrays)
    expected_w, expected_v = reference.sgd(w64, v64, g64, lr * lr_scale, momentum, decay)
    _, magnitude = reference.sgd(-abs(w64), abs(v64), -abs(g64), lr * lr_scale, momentum, decay)
    # the hyper-parameters as float32, three products, two sums
    error = reference.rounding_error(magnitude, 8)
    reference.assert_close(v, expected_v, error)
    reference.assert_close(w, expected_w, error + reference.rounding_error(abs(w64) + magnitude, 1))
    np.testing.assert_array_equal(g, arrays[2])


def test_the_rate_scales_the_decay_too(run: Runner) -> None:
    """The paper's form: with a zero rate only the momentum acts."""
    w, v, g = (reference.random(10, seed=i) for i in range(3))
    new_w, new_v, _ = update(run, w, v, g, 0.0, momentum=0.5, decay=1.0)
    np.testing.assert_array_equal(new_v, v / 2)
    np.testing.assert_array_equal(new_w, w + v / 2)


def test_a_change_of_rate_leaves_the_momentum(run: Runner) -> None:
    """v holds steps, not gradients: after the rate is divided by ten the old steps keep their size."""
    w, v, g = np.zeros(1, np.float32), np.zeros(1, np.float32), np.ones(1, np.float32)
    w, v, _ = update(run, w, v, g, 1.0, momentum=0.5, decay=0.0)
    w, v, _ = update(run, w, v, g, 0.125, momentum=0.5, decay=0.0)
    assert (v[0], w[0]) == (-0.625, -1.625)
