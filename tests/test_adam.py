"""kernels.adam."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, strategies as st

from alexnet_cuda import kernels

BETA1, BETA2 = float(np.float32(0.9)), float(np.float32(0.999))


@given(
    shape=st.one_of(
        st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), st.sampled_from([(255,), (257,), (100_003,)])
    ),
    t=st.sampled_from([1, 2, 10, 1000, 100_000]),
    lr=st.sampled_from([0.0, 0.001, 1.0]),
    lr_scale=st.sampled_from([1.0, 2.0]),
    decay=st.sampled_from([0.0, 0.5]),
    epsilon=st.sampled_from([1e-7, 0.25]),
    form=st.sampled_from(["keras", "pytorch"]),
    decoupled=st.booleans(),
    on_device=st.booleans(),
)
def test_any_shape(
    run: Runner,
    shape: tuple[int, ...],
    t: int,
    lr: float,
    lr_scale: float,
    decay: float,
    epsilon: float,
    form: str,
    decoupled: bool,
    on_device: bool,
) -> None:
    w, m, v, g = (reference.random(*shape, seed=i) for i in range(4))
    v = abs(v)
    arrays = [run.put(array.copy()) for array in (w, m, v, g)]
    rate, number = (np.array(x, np.float32) if on_device else x for x in (lr, t))
    parameters: dict[str, Any] = {"beta1": BETA1, "beta2": BETA2, "epsilon": epsilon, "decay": decay, "form": form}
    parameters["decoupled"] = decoupled
    assert run(kernels.adam, *arrays, rate, number, lr_scale=lr_scale, **parameters) is None
    w64, m64, v64, g64 = (array.astype(np.float64) for array in (w, m, v, g))
    rate32 = float(np.float32(lr)) * lr_scale
    expected_w, expected_m, expected_v = reference.adam(w64, m64, v64, g64, rate32, t, **parameters)
    gradient = abs(g64) + (0 if decoupled else decay) * abs(w64)
    m_error = reference.rounding_error(BETA1 * abs(m64) + (1 - BETA1) * gradient, 5)
    v_error = reference.rounding_error(BETA2 * v64 + (1 - BETA2) * gradient**2, 8)
    got_w, got_m, got_v, got_g = map(run.get, arrays)
    reference.assert_close(got_m, expected_m, m_error)
    reference.assert_close(got_v, expected_v, v_error)
    np.testing.assert_array_equal(got_g, g)
    # the corrections are right to about 8 roundings; then two roots, products and the quotient
    root = np.sqrt(expected_v / (1 - BETA2**t)) + (epsilon / np.sqrt(1 - BETA2**t) if form == "keras" else epsilon)
    step = rate32 / (1 - BETA1**t) / root
    relative = v_error / np.maximum(expected_v, 1e-30) / 2
    error = step * (m_error + abs(expected_m) * (relative + 24 * reference.UNIT))
    # where decay shrinks the weights: by a product of three numbers, taken from 1
    roundings = 1 + (3 * (1 + rate32 * decay) if decoupled else 0)
    reference.assert_close(got_w, expected_w, error + reference.rounding_error(abs(w64) + abs(expected_w), roundings))


def test_decoupled_decay_shrinks_weights_that_have_no_gradient(run: Runner) -> None:
    w, m, v, g = (np.array([value], np.float32) for value in (2, 0, 0, 0))
    arrays = [run.put(array) for array in (w, m, v, g)]
    run(kernels.adam, *arrays, 0.5, 1, decay=0.25, decoupled=True)
    assert [run.get(array).item() for array in arrays] == [1.75, 0, 0, 0]


def test_the_first_step_has_the_size_of_the_rate(run: Runner) -> None:
    """Corrected for the zeros that they begin with, m and sqrt(v) are the gradient and its size."""
    w, m, v = (np.zeros(3, np.float32) for _ in range(3))
    g = np.array([1e-3, -2, 500], np.float32)
    arrays = [run.put(array) for array in (w, m, v, g)]
    run(kernels.adam, *arrays, 0.01, 1)
    np.testing.assert_allclose(run.get(arrays[0]), [-0.01, 0.01, -0.01], rtol=4e-3)


@pytest.mark.parametrize(("form", "epsilon"), [("keras", 1e-7 / (1 - BETA2) ** 0.5), ("pytorch", 1e-8)])
def test_each_form_has_its_librarys_epsilon(run: Runner, form: str, epsilon: float) -> None:
    """A gradient as large as epsilon is in the first step, when m and sqrt(v) are its size, halves the step."""
    w, m, v = (run.put(np.zeros(1, np.float32)) for _ in range(3))
    run(kernels.adam, w, m, v, np.array([epsilon], np.float32), 0.01, 1, form=form)
    np.testing.assert_allclose(run.get(w), [-0.005], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": 0}, r"t: expected an integer in \[1, "),
        ({"beta1": 1.0}, r"beta1: expected a number in \[0, 1\), got 1.0"),
        ({"beta2": float("nan")}, "beta2: expected a number"),
        ({"epsilon": -1.0}, "epsilon: expected a number"),
        ({"lr": -1.0}, "lr: expected a number"),
        ({"form": "torch"}, "form: expected 'keras' or 'pytorch', got 'torch'"),
    ],
)
def test_wrong_parameters(options: dict[str, Any], message: str) -> None:
    arrays = [np.ones(3, np.float32) for _ in range(4)]
    with pytest.raises(ValueError, match=f"adam: {message}"):
        kernels.adam(*arrays, **{"lr": 0.1, "t": 1, **options})
