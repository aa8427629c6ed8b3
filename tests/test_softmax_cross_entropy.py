"""kernels.softmax, softmax_cross_entropy and its backward."""

from __future__ import annotations

from typing import Any

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


def random_weights(C: int) -> np.ndarray:
    return np.random.default_rng(C).uniform(0.25, 4, C).astype(np.float32)


def random_mixture(N: int, C: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng((N, C, 1))
    mix = rng.random(N).astype(np.float32)
    mix[0] = 1
    return rng.integers(0, C, N, np.int32), mix


OPTIONS = pytest.mark.parametrize(
    ("weighted", "smoothing", "mixed"),
    [(True, 0.0, False), (False, 0.1, False), (True, 0.9, False), (False, 0.0, True), (True, 0.1, True)],
)


@OPTIONS
@given(N=ROWS, C=CLASSES, scale=st.sampled_from([1, 30]))
def test_weights_smoothing_and_second_labels(
    run: Runner, weighted: bool, smoothing: float, mixed: bool, N: int, C: int, scale: int
) -> None:
    x, labels, weights = scale * reference.random(N, C), random_labels(N, C), random_weights(C)
    x64, a = x.astype(np.float64), weights.astype(np.float64) if weighted else np.ones(C)
    mixture = random_mixture(N, C) if mixed else None
    expected, mean = reference.weighted_cross_entropy(x64, labels, a, smoothing, mixture)
    shifted = abs(x64 - x64.max(1, keepdims=True))
    # each class's loss as in test_forward, then its weight, the sum over the classes and the mixtures
    each = reference.rounding_error(1.0, C + 5) + reference.rounding_error(
        reference.class_losses(x64) + 2 * shifted + np.log(C), 6
    )
    own = reference.label_weights(labels, a, mixture)
    error = (each * ((1 - smoothing) * own + smoothing / C * a)).sum(1)
    error += reference.rounding_error(expected, C + 9)
    options = weights if weighted else None, smoothing, *(mixture or ())
    loss, losses, p = run(kernels.softmax_cross_entropy, x, labels, *options)
    reference.assert_close(losses, expected, error)
    reference.assert_close(loss, mean, error.sum() / own.sum() + reference.rounding_error(mean, 2 * N + 4))
    np.testing.assert_array_equal(p, run(kernels.softmax, x))


@OPTIONS
@given(N=ROWS, C=CLASSES)
def test_gradient_with_weights_smoothing_and_second_labels(
    run: Runner, weighted: bool, smoothing: float, mixed: bool, N: int, C: int
) -> None:
    p = reference.softmax(reference.random(N, C).astype(np.float64)).astype(np.float32)
    labels, weights, dloss = random_labels(N, C), random_weights(C), np.array(-0.37, np.float32)
    p64, a = p.astype(np.float64), weights.astype(np.float64) if weighted else np.ones(C)
    mixture = random_mixture(N, C) if mixed else None
    expected = reference.weighted_cross_entropy_backward(p64, labels, a, smoothing, float(dloss), mixture)
    options = weights if weighted else None, smoothing, *(mixture or ())
    actual = run(kernels.softmax_cross_entropy_backward, p, labels, dloss, *options)
    hot, share = (1 - smoothing) * reference.label_weights(labels, a, mixture), smoothing / C
    terms = hot.sum(1, keepdims=True) * p64 + hot, share * a.sum() * p64, share * np.tile(a, (N, 1))
    # the sums of weights, over rows in the divisor and over classes, and about ten roundings besides
    error = reference.rounding_error(sum(terms), N + 10) + reference.rounding_error(terms[1], C)
    divisor = reference.label_weights(labels, a, mixture).sum()
    reference.assert_close(actual, expected, error * abs(float(dloss)) / divisor)


@given(N=ROWS, C=CLASSES, mixed=st.booleans())
def test_sums_of_weights(run: Runner, N: int, C: int, mixed: bool) -> None:
    labels, weights, mixture = random_labels(N, C), random_weights(C), random_mixture(N, C) if mixed else None
    a = weights.astype(np.float64)
    rows, classes = run(kernels.class_weight_sums, labels, weights, *(mixture or ()))
    expected = reference.label_weights(labels, a, mixture).sum()
    reference.assert_close(rows, expected, reference.rounding_error(expected, 2 * N + 2))
    reference.assert_close(classes, a.sum(), reference.rounding_error(a.sum(), C))


@given(N=ROWS, C=CLASSES)
def test_weights_of_one_and_no_smoothing_change_nothing(run: Runner, N: int, C: int) -> None:
    x, labels, ones = reference.random(N, C), random_labels(N, C), np.ones(C, np.float32)
    plain = run(kernels.softmax_cross_entropy, x, labels)
    for got, right in zip(run(kernels.softmax_cross_entropy, x, labels, ones), plain, strict=True):
        np.testing.assert_array_equal(got, right)
    dx = run(kernels.softmax_cross_entropy_backward, plain[2], labels)
    np.testing.assert_array_equal(run(kernels.softmax_cross_entropy_backward, plain[2], labels, None, ones), dx)


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ValueError, {"weights": np.ones(4, np.float32)}, r"weights: expected shape \(5,\), got \(4,\)"),
        (TypeError, {"weights": np.ones(5)}, "weights: expected dtype float32, got float64"),
        (ValueError, {"smoothing": 1.0}, r"smoothing: expected a number in \[0, 1\), got 1.0"),
        (ValueError, {"smoothing": -0.1}, r"smoothing: expected a number in \[0, 1\), got -0.1"),
        (ValueError, {"others": np.zeros(3, np.int32)}, "others, mix: expected both or none"),
        (ValueError, {"others": np.full(3, 5), "mix": np.ones(3, np.float32)}, r"others: expected integers in"),
        (ValueError, {"others": np.zeros(3, np.int32), "mix": np.ones(4, np.float32)}, r"mix: expected shape \(3,\)"),
        (TypeError, {"others": np.zeros(3, np.int32), "mix": np.ones(3)}, "mix: expected dtype float32, got float64"),
        (
            ValueError,
            {"others": np.zeros(3, np.int32), "mix": np.array([0, 1, 1.5], np.float32)},
            r"mix: expected numbers in \[0, 1\]",
        ),
    ],
)
def test_wrong_options(error: type[Exception], options: dict[str, Any], message: str) -> None:
    x, labels = reference.random(3, 5), random_labels(3, 5)
    for function in (kernels.softmax_cross_entropy, kernels.softmax_cross_entropy_backward):
        with pytest.raises(error, match=f"^{function.__name__}: {message}"):
            function(x, labels, **options)


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
    weights = random_weights(7).astype(np.float64)
    numeric = reference.numeric_gradient(
        lambda x: 0.7 * reference.weighted_cross_entropy(x, labels, weights, 0.1)[1], x
    )
    gradient = reference.weighted_cross_entropy_backward(reference.softmax(x), labels, weights, 0.1, 0.7)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-9)
