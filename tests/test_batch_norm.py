"""kernels.batch_norm and batch_norm_backward."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import STORAGE, Runner
from hypothesis import given, strategies as st
from numpy.typing import DTypeLike

from alexnet_cuda import kernels

EPSILON = 1e-3
SHAPES = st.tuples(
    st.lists(st.integers(1, 6), max_size=3).map(tuple), st.sampled_from([1, 3, 15, 16, 17, 96, 97, 257])
).map(lambda parts: (*parts[0], parts[1]))
LARGE = [(55 * 55, 96), (64, 5), (65, 5), (10_007, 3), (7, 4096)]


def arrays(shape: tuple[int, ...], offset: float = 0.0, dtype: DTypeLike = np.float32) -> list[np.ndarray]:
    """x, gamma, beta, running mean, running variance"""
    C = shape[-1]
    x = (reference.random(*shape, seed=1) + np.float32(offset)).astype(dtype)
    return [x, *(reference.random(C, seed=i) for i in (2, 3, 4)), np.abs(reference.random(C, seed=5)) + np.float32(0.1)]


def moments_error(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far mean and variance may be off: the mean like a sum, the variance like the sum of its squares, and by what
    an error of a chunk's mean adds twice over."""
    rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
    mean = reference.rounding_error(abs(rows).mean(0), 2 * len(rows) ** 0.5 + 3)
    deviation = abs(rows - rows.mean(0))
    variance = reference.rounding_error((deviation**2).mean(0), 2 * len(rows) ** 0.5 + 8) + 2 * mean * deviation.mean(0)
    return mean, variance + mean**2


def check_forward(run: Runner, shape: tuple[int, ...], offset: float = 0.0, dtype: DTypeLike = np.float32) -> None:
    x, gamma, beta, running_mean, running_variance = arrays(shape, offset, dtype)
    kept = [run.put(array.copy()) for array in (running_mean, running_variance)]
    y, mean, r = run(kernels.batch_norm, x, gamma, beta, *kept, momentum=0.75, epsilon=EPSILON)
    x64 = x.astype(np.float64)
    expected_mean, variance = reference.batch_moments(x64)
    mean_error, variance_error = moments_error(x)
    reference.assert_close(mean, expected_mean, mean_error)
    expected_r = (variance + EPSILON) ** -0.5
    r_error = expected_r * (variance_error / (variance + EPSILON) / 2 + 4 * reference.UNIT)
    reference.assert_close(r, expected_r, r_error)
    expected = reference.batch_norm(x64, gamma, beta, expected_mean, variance, EPSILON)
    hat = abs(x64 - expected_mean) * expected_r
    error = abs(gamma) * (mean_error * expected_r + hat * r_error / expected_r)
    error += reference.rounding_error(abs(gamma) * (hat + abs(x64) * expected_r) + abs(beta), 5)
    reference.assert_close(y, expected, error, dtype)
    moved = 0.75 * running_mean.astype(np.float64) + 0.25 * expected_mean
    magnitude = abs(running_mean) + abs(expected_mean)
    reference.assert_close(run.get(kept[0]), moved, mean_error + reference.rounding_error(magnitude, 3))
    moved = 0.75 * running_variance.astype(np.float64) + 0.25 * variance
    error = variance_error + reference.rounding_error(running_variance + variance, 3)
    reference.assert_close(run.get(kept[1]), moved, error)


@STORAGE
@given(shape=SHAPES)
def test_forward(run: Runner, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    check_forward(run, shape, dtype=dtype)


@pytest.mark.parametrize("shape", LARGE)
def test_forward_of_many_rows(run: Runner, shape: tuple[int, ...]) -> None:
    check_forward(run, shape)


def test_a_large_mean_does_not_drown_the_variance(run: Runner) -> None:
    check_forward(run, (1000, 8), offset=1000.0)


@STORAGE
@given(shape=SHAPES)
def test_forward_with_running_statistics(run: Runner, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    given_arrays = arrays(shape, dtype=dtype)
    kept = [run.put(array.copy()) for array in given_arrays[3:]]
    y, mean, r = run(kernels.batch_norm, *given_arrays[:3], *kept, epsilon=EPSILON, training=False)
    x, gamma, beta, running_mean, running_variance = (array.astype(np.float64) for array in given_arrays)
    expected = reference.batch_norm(x, gamma, beta, running_mean, running_variance, EPSILON)
    factor = abs(gamma) / np.sqrt(running_variance + EPSILON)
    error = reference.rounding_error((abs(x) + abs(running_mean)) * factor + abs(beta), 8)
    reference.assert_close(y, expected, error, dtype)
    np.testing.assert_array_equal(mean, given_arrays[3])
    reference.assert_close(r, (running_variance + EPSILON) ** -0.5, 4 * reference.UNIT * r)
    for array, before in zip(kept, given_arrays[3:], strict=True):
        np.testing.assert_array_equal(run.get(array), before)


def check_backward(run: Runner, shape: tuple[int, ...], training: bool, dtype: DTypeLike = np.float32) -> None:
    x, gamma, *_ = arrays(shape, dtype=dtype)
    dy = reference.random(*shape, seed=6, dtype=dtype)
    x64, dy64, gamma64 = (array.astype(np.float64) for array in (x, dy, gamma))
    mean, variance = (np.float32(moment) for moment in reference.batch_moments(x64))
    r = np.float32((variance + EPSILON) ** -0.5)
    dx, dgamma, dbeta = run(kernels.batch_norm_backward, dy, x, gamma, mean, r, training=training)
    axes, rows = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    hat, r64 = (x64 - mean) * r, r.astype(np.float64)
    steps = 2 * rows**0.5 + 3
    reference.assert_close(dbeta, dy64.sum(axes), reference.rounding_error(abs(dy64).sum(axes), steps))
    error = reference.rounding_error((abs(dy64) * (abs(x64) + abs(mean)) * r64).sum(axes), steps + 3)
    reference.assert_close(dgamma, (dy64 * hat).sum(axes), error)
    shared = (dy64.sum(axes) + hat * (dy64 * hat).sum(axes)) / rows if training else 0
    most = (abs(dy64).sum(axes) + (abs(x64) + abs(mean)) * r64 * (abs(dy64) * abs(hat)).sum(axes)) / rows
    error = abs(gamma64) * r64 * reference.rounding_error(abs(dy64) + most, steps + 8)
    reference.assert_close(dx, gamma64 * r64 * (dy64 - shared), error, dtype)


@STORAGE
@given(shape=SHAPES, training=st.booleans())
def test_backward(run: Runner, dtype: DTypeLike, shape: tuple[int, ...], training: bool) -> None:
    check_backward(run, shape, training, dtype)


@pytest.mark.parametrize("shape", LARGE)
def test_backward_of_many_rows(run: Runner, shape: tuple[int, ...]) -> None:
    check_backward(run, shape, training=True)


@given(shape=SHAPES.filter(lambda shape: np.prod(shape[:-1]) >= 2 and np.prod(shape) <= 60))
def test_oracle(shape: tuple[int, ...]) -> None:
    x, dy = (reference.random(*shape, seed=i).astype(np.float64) for i in range(2))
    gamma, beta = (reference.random(shape[-1], seed=i).astype(np.float64) for i in (2, 3))

    def loss(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> float:
        return (reference.batch_norm(x, gamma, beta, *reference.batch_moments(x), EPSILON) * dy).sum()

    dx, dgamma, dbeta = reference.batch_norm_backward(dy, x, gamma, EPSILON)
    for gradient, f, value in (
        (dx, lambda x: loss(x, gamma, beta), x),
        (dgamma, lambda gamma: loss(x, gamma, beta), gamma),
        (dbeta, lambda beta: loss(x, gamma, beta), beta),
    ):
        np.testing.assert_allclose(gradient, reference.numeric_gradient(f, value), rtol=1e-4, atol=1e-6)
