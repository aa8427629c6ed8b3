"""Operators of training that ours have the form of: losses and steps of optimizers. They have no gradient here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import kernels
from ...tensor import Tensor
from .operators import MANY, Result, operator
from .values import Call, Value

LONG = 2**30
"""Steps after which Adam corrects nothing any more."""


@operator("SoftmaxCrossEntropyLoss", inputs=(2, 3), outputs=2, reduction="mean", ignore_index=int)
def _softmax_cross_entropy(call: Call) -> Sequence[Result]:
    """Of scores (N, C, ...): each place is a row of its own. A label to be ignored is one of a class without weight."""
    x, labels = call.value(), call.known(1)
    N, C, *places = x.shape if len(x.shape) > 1 else (0, 0)
    if labels.shape != (N, *places) or labels.dtype.kind not in "iu":
        raise call.error(f"expected labels of shape {(N, *places)}, got {labels.dtype} of {labels.shape}")
    rows = np.ascontiguousarray(np.moveaxis(x.plain().numpy(), 1, -1).reshape(-1, C))
    weights = np.ones(C, np.float32) if call.input(2) is None else np.array(call.weights(2, 1))
    flat, ignored = labels.ravel().astype(np.int64), call["ignore_index"]
    if ignored is not None:
        flat, rows, weights = _without(flat, rows, weights, ignored)
    loss, losses, p = kernels.softmax_cross_entropy(rows, flat, weights)
    if call["reduction"] == "none":
        loss = losses.reshape(labels.shape)
    elif call["reduction"] == "sum":
        loss = kernels.reduce_sum(losses)
    elif call["reduction"] != "mean":
        raise call.error(f"reduction: expected none, sum or mean, got {call['reduction']!r}")
    log_p = np.moveaxis(kernels.broadcast("log", p)[:, :C].reshape(N, *places, C), -1, 1)
    return Value(Tensor(loss)), Value(Tensor(np.ascontiguousarray(log_p)))


def _without(
    labels: np.ndarray, rows: np.ndarray, weights: np.ndarray, ignored: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and weights with one more class for what is ignored: impossible, and without weight."""
    C = len(weights)
    labels = np.where(labels == ignored, C, labels)
    rows = np.concatenate([rows, np.full((len(rows), 1), -1e4, np.float32)], 1)
    return labels, rows, np.concatenate([weights, np.zeros(1, np.float32)])


def _state(call: Call, kinds: int) -> tuple[float, int, list[list[np.ndarray]]]:
    """Rate, number of steps before, and of each parameter the copies of it, its gradient and so on."""
    rate, steps = call.number("R", 0), int(call.known(1).reshape(()))
    many, left = divmod(len(call.inputs) - 2, kinds)
    if left or not many or not rate:
        raise call.error(
            f"expected a rate above 0 and {kinds} arrays a parameter, got {rate} and {kinds * many + left}"
        )
    arrays = [call.value(place).plain().numpy().copy() for place in range(2, len(call.inputs))]
    return rate, steps, [arrays[i::many] for i in range(many)]


def _result(states: Sequence[Sequence[np.ndarray]]) -> list[Result]:
    """All parameters, then all of each further kind."""
    return [Value(Tensor(array)) for kind in zip(*states, strict=True) for array in kind]


@operator(
    "ai.onnx.preview.training.Adam", inputs=(6, MANY), outputs=MANY, alpha=0.9, beta=0.999, epsilon=1e-6,
    norm_coefficient=0.0, norm_coefficient_post=0.0, R=float,
)  # fmt: skip
def _adam(call: Call) -> Sequence[Result]:
    if call["norm_coefficient_post"]:
        raise call.error(f"norm_coefficient_post: expected 0, got {call['norm_coefficient_post']}")
    rate, t, states = _state(call, 4)
    for x, g, v, h in states:
        kernels.adam(
            x, v, h, g, rate, t or LONG, call["alpha"], call["beta"], call["epsilon"], call["norm_coefficient"]
        )
    return _result([(x, v, h) for x, _, v, h in states])


@operator(
    "ai.onnx.preview.training.Momentum", inputs=(5, MANY), outputs=MANY, alpha=float, beta=float, mode=str,
    norm_coefficient=float, R=float,
)  # fmt: skip
def _momentum(call: Call) -> Sequence[Result]:
    """Our momentum has the rate in it already: v = -R V."""
    alpha, beta, mode, decay = (call[name] for name in ("alpha", "beta", "mode", "norm_coefficient"))
    if mode not in ("standard", "nesterov") or None in (alpha, beta, decay):
        raise call.error(f"expected alpha, beta, norm_coefficient and mode standard or nesterov, got {mode!r}")
    rate, t, states = _state(call, 3)
    if t > 0 and beta != 1:
        raise call.error(f"beta: expected 1 after the first step, got {beta}")
    made = []
    for x, g, v in states:
        v *= np.float32(-rate)
        kernels.sgd(x, v, g, rate, alpha, decay, nesterov=mode == "nesterov")
        made.append((x, v / np.float32(-rate)))
    return _result(made)
