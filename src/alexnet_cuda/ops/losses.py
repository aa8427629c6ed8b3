"""Losses: the mean over a batch, a scalar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import backend, kernels
from ..kernels import Array
from ..kernels.training import check_labels
from ..tensor import Function, Tensor


@dataclass(eq=False)
class SoftmaxCrossEntropy(Function):
    weights: Array | None = None
    smoothing: float = 0.0
    others: Array | None = None
    mix: Array | None = None

    def forward(self, x: Array, labels: Array) -> Array:
        self.labels = labels
        loss, self.losses, self.p = kernels.softmax_cross_entropy(x, labels, *self._options)
        return loss

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return kernels.softmax_cross_entropy_backward(self.p, self.labels, dy, *self._options), None

    @property
    def _options(self) -> tuple[Array | None, float, Array | None, Array | None]:
        return self.weights, self.smoothing, self.others, self.mix


def softmax_cross_entropy(
    x: Tensor,
    labels: Tensor,
    weights: Array | None = None,
    smoothing: float = 0.0,
    others: Array | None = None,
    mix: Array | None = None,
) -> Tensor:
    """Mean loss over a batch: x (N, C) logits, labels (N,) integers -> scalar; weights (C,) of the classes, smoothing
    of the labels, and second labels with the shares of the first as of ``kernels.softmax_cross_entropy``."""
    return SoftmaxCrossEntropy.apply(x, labels, weights=weights, smoothing=smoothing, others=others, mix=mix)


class LogisticCrossEntropy(Function):
    def forward(self, x: Array, labels: Array) -> Array:
        self.p, self.targets = kernels.sigmoid(x), _one_hot("logistic_cross_entropy", labels, x)
        right = kernels.broadcast("multiply", self.targets, x)
        return _mean_of_rows(kernels.broadcast("subtract", kernels.broadcast("soft_relu", x), right))

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        scale = kernels.broadcast("divide", dy, len(self.p))
        return kernels.broadcast("multiply", kernels.broadcast("subtract", self.p, self.targets), scale), None


def logistic_cross_entropy(x: Tensor, labels: Tensor) -> Tensor:
    """Mean over a batch of the cross-entropies of all classes, each a yes or no of its own with the probability
    1 / (1 + exp(-x)), summed: x (N, C), labels (N,) integers -> scalar."""
    return LogisticCrossEntropy.apply(x, labels)


class SquaredError(Function):
    def forward(self, x: Array, labels: Array) -> Array:
        self.d = kernels.broadcast("subtract", x, _one_hot("squared_error", labels, x))
        return _mean_of_rows(kernels.broadcast("multiply", self.d, self.d))

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return kernels.broadcast("multiply", self.d, kernels.broadcast("multiply", dy, 2 / len(self.d))), None


def squared_error(x: Tensor, labels: Tensor) -> Tensor:
    """Mean over a batch of the sum of (x - t)^2, t being 1 for the labelled class and else 0: x (N, C), labels (N,)
    integers -> scalar."""
    return SquaredError.apply(x, labels)


def _mean_of_rows(x: Array) -> Array:
    """The mean of the rows' sums."""
    return kernels.reduce_sum(kernels.reduce_sum(x, 1), mean=True)


def _one_hot(operation: str, labels: Array, x: Array) -> Array:
    """(N, C) as x, 1 where a row's label is."""
    ones = backend.constant(np.ones(len(x), x.dtype), backend.device_of(x))
    return kernels.reduce_max_backward(ones, check_labels(operation, labels, *x.shape), x.shape, 1)
