"""Ours: each answer is the value of an expression; those behind it give other libraries' answers by our means."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import alexnet_cuda
from alexnet_cuda import init, kernels, nn, ops, optim
from columns.rows import attempt, padding, spread, text

NAME = "alexnet_cuda"


def version() -> str:
    return alexnet_cuda.__version__


def floats(*values: Any) -> np.ndarray:
    return np.asarray(values, np.float32)


def column(*values: float) -> np.ndarray:
    """An image one pixel wide."""
    return floats(*values).reshape(1, -1, 1, 1)


def flip(x: np.ndarray) -> np.ndarray:
    """The order of the channels turned round."""
    return np.ascontiguousarray(x[..., ::-1])


def defaults(function: Any, *names: str) -> list[Any]:
    return [inspect.signature(function).parameters[name].default for name in names]


def last_tap(x: np.ndarray, before: int, after: int) -> list[int]:
    """Filters of 11 pixels at stride 4 that take each window's last, of pixels 1, 2, ...: padding."""
    w = np.zeros((1, 11, 1, 1), np.float32)
    w[0, -1] = 1
    return padding(kernels.conv2d(x, w, stride=(4, 1), padding=((before, after), (0, 0))), 4, x.size, 11)


def gradient(function: Any, x: np.ndarray) -> Any:
    """Of the sum of what the function of a tensor returns."""
    leaf = nn.Parameter(x)
    y = function(leaf)
    y.backward(np.ones(y.shape, np.float32))
    return leaf.grad


def running(values: np.ndarray, momentum: float = 0.99) -> list[np.ndarray]:
    """Running mean and variance, 0 and 1 before, after a step."""
    mean, variance = floats(0), floats(1)
    kernels.batch_norm(values.reshape(-1, 1), floats(1), floats(0), mean, variance, momentum)
    return [mean, variance]


def after(rates: Sequence[float], rescaled: bool = False, shrunk: float = 0.0, **options: Any) -> str:
    """w after a step of gradient 0.5 at each rate. ``rescaled``: a new rate divides the momentum by what it is divided
    by. ``shrunk``: a decay apart from the momentum."""
    w = nn.Parameter(floats(1))
    optimizer = optim.SGD([w], rates[0], 0.9, **options)
    for rate in rates:
        if rescaled:
            optimizer.kept["momentum"][0] *= np.float32(rate / optimizer.lr)
        w.data *= np.float32(1 - rate * shrunk)
        optimizer.lr, w.grad = rate, floats(0.5)
        optimizer.step()
    return f"{w.data.item():.6f}"


def after_adam(**options: Any) -> np.ndarray:
    """w, 0 before, after a step of rate 1, gradient and epsilon 0.001."""
    w, m, v = floats(0), floats(0), floats(0)
    kernels.adam(w, m, v, floats(1e-3), 1.0, 1, epsilon=1e-3, **options)
    return w


def drawn(initialiser: init.Initialiser, unit: float) -> list[str]:
    return spread(initialiser((200, 1000), np.random.default_rng(0)), unit)


nan, inf, lowest = float("nan"), float("inf"), np.finfo(np.float32).min
ones, zeros, ramp = np.ones(8, np.float32), np.zeros((2, 2), np.float32), column(*range(1, 225))
x4, x5, x32 = column(1, 2, 3, 4), column(1, 2, 3, 4, 5), column(*range(32))
square = np.ones((1, 3, 3, 1), np.float32)
framed = np.pad(square, ((0, 0), (1, 1), (1, 1), (0, 0)))
holes = column(nan, 1, 2, 3, 1, nan, 2, 3, 1, 2, 3, nan)
HE, K = (2 / 1000) ** 0.5, np.ones((1, 3, 1, 1), np.float32)

WAYS: dict[str, tuple[str, ...]] = {
    "lrn_odd": ("lrn(ones, 5, k=1, alpha=1, beta=1)[[0, 4]]", "lrn(ones, 5, k=1, alpha=1/5, beta=1)[[0, 4]]"),
    "lrn_even": (
        "lrn(ones, 4, k=1, alpha=1, beta=1)[[0, 4, 7]]",
        "lrn(ones, 4, k=1, alpha=1/4, beta=1)[[0, 4, 7]]",
        "flip(lrn(flip(ones), 4, k=1, alpha=1/4, beta=1))[[0, 4, 7]]",
        "lrn(ones, 3, k=1, alpha=1/4, beta=1)[[0, 4, 7]]",
        "lrn(ones, 5, k=1, alpha=1, beta=1)[[0, 4, 7]]",
    ),
    "lrn_defaults": ("defaults(lrn, 'size', 'alpha', 'beta', 'k')",),
    "max_size": ("[max_pool2d(x32, (3, 1), 2, ceil=up)[0].shape[1] for up in (False, True)]",),
    "max_dropped": (
        "max_pool2d(x4, (2, 1), (3, 1), (1, 0), ceil=True)[0]",
        "[*max_pool2d(x4, (2, 1), (3, 1), (1, 0), ceil=True)[0].ravel(), -inf]",
        "[*max_pool2d(x4, (2, 1), (3, 1), (1, 0), ceil=True)[0].ravel(), lowest]",
    ),
    "max_beyond": (
        "max_pool2d(x5, 1, (3, 1), ceil=True)[0]",
        "[*max_pool2d(x5, 1, (3, 1), ceil=True)[0].ravel(), -inf]",
        "[*max_pool2d(x5, 1, (3, 1), ceil=True)[0].ravel(), lowest]",
    ),
    "max_nan": (
        "max_pool2d(holes, (4, 1), (4, 1))[0]",
        "max_pool2d(np.nan_to_num(holes, nan=-inf), (4, 1), (4, 1))[0]",
    ),
    "max_ties": ("gradient(lambda x: ops.max_pool2d(x, (4, 1)), column(1, 1, 1, 1))",),
    "avg_border": (
        "[avg_pool2d(square, 3, 1, 1)[0, 0, 0, 0], '-']",
        "[avg_pool2d(square, 3, 1, 1)[0, 0, 0, 0], avg_pool2d(framed, 3, 1)[0, 0, 0, 0]]",
        "[avg_pool2d(framed, 3, 1)[0, 0, 0, 0], avg_pool2d(square, 3, 1, 1)[0, 0, 0, 0]]",
        "[avg_pool2d(framed, 3, 1)[0, 0, 0, 0], '-']",
    ),
    "avg_ceil": (
        "avg_pool2d(column(1, 1, 1, 1), (3, 1), (2, 1), ceil=True)[0, -1]",
        "avg_pool2d(column(1, 1, 1, 1, 0), (3, 1), (2, 1))[0, -1]",
    ),
    "avg_ceil_padded": (
        "avg_pool2d(column(1, 1, 1, 1), (3, 1), (2, 1), (1, 0), ceil=True)[0, -1]",
        "avg_pool2d(column(0, 1, 1, 1, 1, 0), (3, 1), (2, 1), ceil=True)[0, -1]",
        "avg_pool2d(column(0, 1, 1, 1, 1, 0, 0), (3, 1), (2, 1))[0, -1]",
    ),
    "same_stride": ("'no such option'", "last_tap(ramp, 3, 4)", "last_tap(ramp, 4, 3)"),
    "conv_asymmetric": ("conv2d(column(1, 1, 1, 1), K, padding=((0, 2), (0, 0)))",),
    "relu_special": (
        "relu(floats(nan, -0., -inf))",
        "relu(floats(nan, 0., -inf))",
        "relu(floats(0, 0., -inf))",
    ),
    "relu_gradient": ("gradient(lambda x: ops.activation(x, 'relu'), floats(0, nan))",),
    "bn_running": (
        "running(floats(0, 2))",
        "running(floats(0, 2), momentum=0.9)",
        "[r * f for r, f in zip(running(floats(0, 2) * 2**.5, momentum=0.9), (2**-.5, 1))]",
    ),
    "bn_defaults": ("defaults(batch_norm, 'epsilon', 'momentum')",),
    "dropout_form": (
        "[dropout(ones, .5).max(), dropout(ones, .5, training=False).max()]",
        "[dropout(ones, .5, 'inverted').max(), dropout(ones, .5, 'inverted', training=False).max()]",
    ),
    "dropout_all": (
        "attempt(lambda: dropout(floats(1, -1, inf), 1))",
        "np.zeros(3)",
        "np.array([0, -0., nan])",
        "np.full(3, nan)",
    ),
    "loss_mean": (
        "softmax_cross_entropy(zeros, np.arange(2))[0]",
        "[softmax_cross_entropy(zeros[i:i + 1], np.arange(2)[i:i + 1])[0] for i in range(2)]",
    ),
    "loss_far": ("softmax_cross_entropy(floats([0, 200]), np.arange(1))[0]",),
    "softmax_axes": ("softmax(zeros)", "softmax(zeros.reshape(1, 4))"),
    "sgd_steps": ("after([.1, .1], decay=.01)", "after([.1, .1], decay=0, shrunk=.01)"),
    "sgd_drop": ("after([.1, .01], decay=0)", "after([.1, .01], decay=0, rescaled=True)"),
    "sgd_nesterov": ("after([.1, .1], decay=0, nesterov=True)",),
    "adam_epsilon": ("after_adam()", "after_adam(form='pytorch')"),
    "adam_default": ("kernels.ADAM_EPSILONS['keras']", "kernels.ADAM_EPSILONS['pytorch']"),
    "he_normal": ("drawn(init.he_normal(), HE)", "drawn(init.he_normal(truncated=True), HE)"),
    "truncated_normal": (
        "drawn(init.truncated_normal(.01), .01)",
        "drawn(init.normal(.01), .01)",
        "drawn(init.truncated_normal(.01 / init.TRUNCATED_STD), .01)",
    ),
}


NAMES = {
    **globals(),
    **{name: getattr(kernels, name) for name in kernels.__all__},
    **{"attempt": attempt, "init": init, "ops": ops},
}
"""What the expressions may use."""


def value(expression: str) -> str:
    """As in a cell."""
    return text(eval(expression, NAMES))


def ways() -> dict[str, dict[str, str]]:
    """For each row the first expression that gives a value, by value."""
    return {key: {value(e): e for e in reversed(expressions)} for key, expressions in WAYS.items()}


def answers() -> dict[str, Callable[[], str]]:
    return {key: partial(value, expressions[0]) for key, expressions in WAYS.items()}
