"""The loss: p = softmax(x), losses_n = -log p[n, label], loss their mean, dx = (p - onehot(label)) dloss / N; and with
weights of the classes, smoothed labels and two labels a row, where each class c has the share q_c of a row's loss."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .. import kernels, models
from .bounds import Floats, rounding_error
from .check import Cases, Check, Trial, Values
from .drawn import numbers
from .layers import ALEXNETS, Scope

Shape = tuple[int, int]
SMALL: tuple[Shape, ...] = ((1, 1), (3, 7), (5, 33), (130, 10), (33, 257))


def checks(scope: Scope) -> Iterator[Check]:
    classes = dict.fromkeys(models.get(name).classes for name in ALEXNETS)
    layers = [(batch, C) for batch in scope.batches for C in classes]
    for shapes in (SMALL, *((shape,) for shape in layers)):
        for kernel, trial in (
            (kernels.softmax, softmax),
            (kernels.softmax_cross_entropy, forward),
            (kernels.class_weight_sums, weight_sums),
            (kernels.softmax_cross_entropy_backward, backward),
        ):
            cases: Cases = [(f"{N} x {C} classes", partial(trial, (N, C))) for N, C in shapes]
            yield Check(kernel, "fp32", cases)
        for kernel, trial in (
            (kernels.softmax_cross_entropy, weighted_forward),
            (kernels.softmax_cross_entropy_backward, weighted_backward),
        ):
            cases = [(f"{N} x {C} classes, weighted, smoothed, mixed", partial(trial, (N, C))) for N, C in shapes]
            yield Check(kernel, "fp32", cases)


def _logits(shape: Shape) -> NDArray[np.float32]:
    return np.float32(8) * numbers("x", *shape)


def _labels(shape: Shape) -> NDArray[np.int32]:
    """The first and the last class among them."""
    labels = np.random.default_rng(shape).integers(0, shape[1], shape[0], np.int32)
    labels[0], labels[-1] = 0, shape[1] - 1
    return labels


def _probabilities(x: NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
    """p, its bounds and x less the row's largest. An error of that, rounded, is a relative error of the exponential,
    itself right to four roundings (expf); then the sum over the row and the division."""
    x64 = x.astype(np.float64)
    shifted = x64 - x64.max(1, keepdims=True)
    e = np.exp(shifted)
    p = e / e.sum(1, keepdims=True)
    return p, p * rounding_error(1 + abs(shifted), 1) + rounding_error(p, x.shape[1] + 5), shifted


def _all(expected: Floats, error: Floats) -> Values:
    return Values(np.arange(expected.size), np.ravel(expected), np.ravel(error))


def softmax(shape: Shape) -> Trial:
    x = _logits(shape)
    p, error, _ = _probabilities(x)
    return Trial({"x": x}, {"p": _all(p, error)}, returns=("p",))


def forward(shape: Shape) -> Trial:
    x, labels, (N, C) = _logits(shape), _labels(shape), shape
    p, error, shifted = _probabilities(x)
    own = shifted[np.arange(N), labels]
    losses = np.log(np.exp(shifted).sum(1)) - own
    # log(sum) with the sum's relative error, log's own four roundings, the difference
    losses_error = rounding_error(1.0, C + 5) + rounding_error(losses + 2 * abs(own) + np.log(C), 6)
    loss = losses.mean()
    expected = {
        "loss": _all(loss, losses_error.mean() + rounding_error(abs(losses).mean(), N + 1)),
        "losses": _all(losses, losses_error),
        "p": _all(p, error),
    }
    return Trial({"x": x, "labels": labels}, expected, returns=("loss", "losses", "p"))


def backward(shape: Shape) -> Trial:
    p, labels, dloss = _probabilities(_logits(shape))[0].astype(np.float32), _labels(shape), np.array(-0.37, np.float32)
    dx = p.astype(np.float64)
    dx[np.arange(len(dx)), labels] -= 1
    dx *= float(dloss) / len(dx)
    return Trial({"p": p, "labels": labels, "dloss": dloss}, {"dx": _all(dx, rounding_error(abs(dx), 4))}, ("dx",))


SMOOTHING = 0.1


def _weights(C: int) -> NDArray[np.float32]:
    return np.float32(1) + abs(numbers("weights", C))


def _mixture(shape: Shape) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Second labels, and the shares of the first."""
    rng = np.random.default_rng((*shape, 1))
    return rng.integers(0, shape[1], shape[0], np.int32), rng.random(shape[0], np.float32)


def _labelled(shape: Shape) -> Floats:
    """(N, C): the weights of each row's labels in their shares."""
    labels, weights, (others, mix), (N, _) = _labels(shape), _weights(shape[1]), _mixture(shape), shape
    rows = np.zeros(shape)
    np.add.at(rows, (np.arange(N), labels), mix.astype(np.float64) * weights[labels])
    np.add.at(rows, (np.arange(N), others), (1 - mix.astype(np.float64)) * weights[others])
    return rows


def _shares(shape: Shape) -> Floats:
    """q (N, C): what each class's loss is multiplied by."""
    return SMOOTHING / shape[1] * _weights(shape[1]).astype(np.float64) + (1 - SMOOTHING) * _labelled(shape)


def weight_sums(shape: Shape) -> Trial:
    labels, weights, (N, C) = _labels(shape), _weights(shape[1]), shape
    sums = np.array([weights[labels].sum(dtype=np.float64), weights.sum(dtype=np.float64)])
    expected = _all(sums, np.array([rounding_error(sums[0], N), rounding_error(sums[1], C)]))
    return Trial({"labels": labels, "weights": weights}, {"sums": expected}, ("sums",))


def weighted_forward(shape: Shape) -> Trial:
    x, labels, weights, (N, C) = _logits(shape), _labels(shape), _weights(shape[1]), shape
    p, error, shifted = _probabilities(x)
    q, (others, mix) = _shares(shape), _mixture(shape)
    classes = np.log(np.exp(shifted).sum(1, keepdims=True)) - shifted
    # each class's loss as in ``forward``; its weight, the sum over the classes and the mixture
    classes_error = rounding_error(1.0, C + 5) + rounding_error(classes + 2 * abs(shifted) + np.log(C), 6)
    losses = (q * classes).sum(1)
    losses_error = (q * classes_error).sum(1) + rounding_error(losses, C + 9)
    divisor = _labelled(shape).sum()
    loss = losses.sum() / divisor
    expected = {
        "loss": _all(loss, losses_error.sum() / divisor + rounding_error(loss, 2 * N + 4)),
        "losses": _all(losses, losses_error),
        "p": _all(p, error),
    }
    arguments = {
        "x": x, "labels": labels, "weights": weights, "smoothing": SMOOTHING, "others": others, "mix": mix,
    }  # fmt: skip
    return Trial(arguments, expected, returns=("loss", "losses", "p"))


def weighted_backward(shape: Shape) -> Trial:
    p, labels, dloss = _probabilities(_logits(shape))[0].astype(np.float32), _labels(shape), np.array(-0.37, np.float32)
    weights, (N, C) = _weights(shape[1]), shape
    q, p64, (others, mix) = _shares(shape), p.astype(np.float64), _mixture(shape)
    rows, scale = q.sum(1, keepdims=True), abs(float(dloss)) / _labelled(shape).sum()
    dx = (rows * p64 - q) * -scale
    # the sum of the rows' weights, of the classes' weights, and about ten roundings besides
    error = scale * rounding_error(rows * p64 + q, N + C + 10)
    arguments = {
        "p": p, "labels": labels, "dloss": dloss, "weights": weights, "smoothing": SMOOTHING, "others": others,
        "mix": mix,
    }  # fmt: skip
    return Trial(arguments, {"dx": _all(dx, error)}, ("dx",))
