"""kernels.softmax, softmax_cross_entropy and its backward."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, strategies as st

from alexnet_cuda import kernels

ROWS = st.sampled_from([1, 2, 3, 5, 33, 130])
CLASSES = st.sampled_from([1, 2, 3, 10, 31, 32, 33, 97, 256, 257, 1000])


@given(N=ROWS, C=CLASSES, scale=st.sampled_from([1, 30, 1000]), offset=st.sampled_from([0, -500, 1e6]))
def test_forward(run: Runner, N: int, C: int, scale: int, offset: float) -> None:
    """Logits far from zero overflow or vanish unless the row's maximum is subtracted first."""
    x = scale * reference.random(N, C) + np.float32(offset)
    labels = random_labels(N, C)
    x64 = x.astype(np.float64)
    shifted = abs(x64 - x64.max(1, keepdims=True))

    # An error of the rounded x - max is a relative error of the exponential, itself right to four roundings (expf);
    # then the sum over the row and the division.
    p = reference.softmax(x64)
    p_error = p * reference.rounding_error(1 + shifted, 1) + reference.rounding_error(p, C + 5)
    reference.assert_close(run(kernels.softmax, x), p, p_error)

    # log(sum) with the sum's relative error, log's own four roundings, the difference
    expected = reference.cross_entropy(x64, labels)
    error = reference.rounding_error(1.0, C + 5) + reference.rounding_error(
        expected + 2 * shifted[np.arange(N), labels] + np.log(C), 6
    )
    loss, losses, probabilities = run(kernels.softmax_cross_entropy, x, labels)
    reference.assert_close(probabilities, p, p_error)
    reference.assert_close(losses, expected, error)
    reference.assert_close(loss, expected.mean(), error.mean() + reference.rounding_error(abs(expected).mean(), N + 1))


@given(N=ROWS, C=CLASSES, dloss=st.sampled_from([None, 1.0, -0.37]))
def test_backward(run: Runner, N: int, C: int, dloss: float | None) -> None:
    p = reference.softmax(reference.random(N, C).astype(np.float64)).astype(np.float32)
    labels = random_labels(N, C)
    expected = reference.softmax_cross_entropy_backward(
        p.astype(np.float64), labels, 1.0 if dloss is None else float(np.float32(dloss))
    )
    scalar = None if dloss is None else np.array(dloss, np.float32)
    actual = run(kernels.softmax_cross_entropy_backward, p, labels, scalar)
    reference.assert_close(actual, expected, reference.rounding_error(abs(expected), 4))


def random_labels(N: int, C: int) -> np.ndarray:
    labels = np.random.default_rng((N, C)).integers(0, C, N, np.int32)
    labels[0], labels[-1] = 0, C - 1
    return labels


def test_uniform_loss_over_1000_classes(run: Runner) -> None:
    loss, losses, p = run(
        kernels.softmax_cross_entropy, np.full((4, 1000), 3, np.float32), np.arange(4, dtype=np.int32)
    )
    assert loss == pytest.approx(6.907755, abs=1e-6)
    np.testing.assert_allclose(losses, np.log(1000), rtol=1e-6)
    np.testing.assert_allclose(p, 1e-3, rtol=1e-6)


def test_an_impossible_label_has_a_finite_loss(run: Runner) -> None:
    """Its probability underflows; its loss is the difference of the logits."""
    x = np.array([[0, 300], [1e6, 0]], np.float32)
    loss, losses, p = run(kernels.softmax_cross_entropy, x, np.array([0, 1], np.int32))
    np.testing.assert_allclose(losses, [300, 1e6], rtol=1e-6)
    assert loss == pytest.approx(500150, rel=1e-6)
    np.testing.assert_array_equal(p, [[0, 1], [1, 0]])


def test_rows_sum_to_one(run: Runner) -> None:
    p = run(kernels.softmax, 5 * reference.random(50, 1000)).astype(np.float64)
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(1), 1, rtol=float(reference.rounding_error(1, 1000 + 5)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_any_integer_labels(run: Runner, dtype: type) -> None:
    x, labels = reference.random(6, 10), random_labels(6, 10)
    for actual, expected in zip(
        run(kernels.softmax_cross_entropy, x, labels.astype(dtype)),
        run(kernels.softmax_cross_entropy, x, labels),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)


def test_nan_is_not_hidden(run: Runner) -> None:
    x = reference.random(3, 5)
    x[1, 2] = np.nan
    loss, losses, p = run(kernels.softmax_cross_entropy, x, np.array([0, 1, 2], np.int32))
    assert np.isnan(loss)
    assert np.isnan(losses[1])
    assert np.isnan(p[1]).all()
    assert np.isfinite(losses[[0, 2]]).all()
    assert np.isfinite(p[[0, 2]]).all()


def test_oracle() -> None:
    x, labels = reference.random(5, 7).astype(np.float64), random_labels(5, 7)
    numeric = reference.numeric_gradient(lambda x: 0.7 * reference.cross_entropy(x, labels).mean(), x)
    gradient = reference.softmax_cross_entropy_backward(reference.softmax(x), labels, 0.7)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        reference.cross_entropy(x, labels), -np.log(reference.softmax(x)[np.arange(5), labels]), rtol=1e-12
    )
