"""Chainer's answers (Python 3.9 and NumPy 1.23, the newest that it runs with)."""

from __future__ import annotations

from typing import Any

import chainer
import chainer.functions as F
import chainer.links as L
import numpy as np

from columns.rows import attempt, spread

NAME = "Chainer"


def version() -> str:
    return str(chainer.__version__)


def line(*values: float) -> Any:
    return np.array(values, np.float32).reshape(1, 1, -1)


def lrn(size: int) -> Any:
    return F.local_response_normalization(np.ones((1, 8, 1, 1), np.float32), size, 1, 1, 1).array.ravel()


def lrn_odd() -> Any:
    return lrn(5)[[0, 4]]


def lrn_even() -> Any:
    return lrn(4)[[0, 4, 7]]


def lrn_defaults() -> Any:
    defaults = F.local_response_normalization.__defaults__
    return [defaults[0], defaults[2], defaults[3], defaults[1]]


def max_size() -> Any:
    return [F.max_pooling_1d(np.ones((1, 1, 32), np.float32), 3, 2, cover_all=up).shape[2] for up in (True, False)]


def max_dropped() -> Any:
    return F.max_pooling_1d(line(1, 2, 3, 4), 2, 3, 1, cover_all=True).array


def max_beyond() -> Any:
    return F.max_pooling_1d(line(1, 2, 3, 4, 5), 1, 3, cover_all=True).array


def max_nan() -> Any:
    nan = np.nan
    return F.max_pooling_1d(line(nan, 1, 2, 3, 1, nan, 2, 3, 1, 2, 3, nan), 4).array


def max_ties() -> Any:
    x = chainer.Variable(np.ones((1, 1, 2, 2), np.float32))
    F.sum(F.max_pooling_2d(x, 2)).backward()
    return x.grad


def avg_border() -> Any:
    x = np.ones((1, 1, 3, 3), np.float32)
    return [
        F.average_pooling_2d(x, 3, 1, 1).array[0, 0, 0, 0],
        F.average_pooling_nd(x, 3, 1, 1, None).array[0, 0, 0, 0],
    ]


def relu_special() -> Any:
    return F.relu(np.array([np.nan, -0.0, -np.inf], np.float32)).array


def relu_gradient() -> Any:
    x = chainer.Variable(np.array([0, np.nan], np.float32))
    F.sum(F.relu(x)).backward()
    return x.grad


def bn_running() -> Any:
    layer = L.BatchNormalization(1)
    with chainer.using_config("train", True):
        layer(np.array([[0], [2]], np.float32))
    return [layer.avg_mean, layer.avg_var]


def bn_defaults() -> Any:
    layer = L.BatchNormalization(1)
    return [layer.eps, layer.decay]


def dropped(x: Any, p: float, training: bool) -> Any:
    with chainer.using_config("train", training):
        return F.dropout(np.array(x, np.float32), p).array


def dropout_form() -> Any:
    return [dropped([1] * 50, 0.5, training).max() for training in (True, False)]


def dropout_all() -> Any:
    return attempt(lambda: dropped([1, -1, np.inf], 1.0, True))


def loss(logits: Any, labels: Any) -> Any:
    return F.softmax_cross_entropy(np.array(logits, np.float32), np.array(labels, np.int32)).array


def loss_mean() -> Any:
    return loss([[0, 0], [0, 0]], [0, 1])


def loss_far() -> Any:
    return loss([[0, 200]], [0])


def softmax_axes() -> Any:
    return F.softmax(np.zeros((1, 2, 1, 2), np.float32)).array


def after(optimizer: Any, w: float, gradient: float, rates: Any, rate_name: str, decay: float = 0) -> str:
    link = chainer.Link()
    with link.init_scope():
        link.w = chainer.Parameter(np.full(1, w, np.float32))
    optimizer.setup(link)
    if decay:
        optimizer.add_hook(chainer.optimizer_hooks.WeightDecay(decay))
    for rate in rates:
        setattr(optimizer, rate_name, rate)
        link.w.grad = np.full(1, gradient, np.float32)
        optimizer.update()
    return f"{link.w.array.item():.6f}"


def sgd_steps() -> Any:
    return after(chainer.optimizers.MomentumSGD(momentum=0.9), 1, 0.5, [0.1, 0.1], "lr", 0.01)


def sgd_drop() -> Any:
    return after(chainer.optimizers.MomentumSGD(momentum=0.9), 1, 0.5, [0.1, 0.01], "lr")


def sgd_nesterov() -> Any:
    return after(chainer.optimizers.NesterovAG(momentum=0.9), 1, 0.5, [0.1, 0.1], "lr")


def adam_epsilon() -> Any:
    return float(after(chainer.optimizers.Adam(eps=1e-3), 0, 1e-3, [1.0], "alpha"))


def adam_default() -> Any:
    return chainer.optimizers.Adam().hyperparam.eps


def he_normal() -> Any:
    return spread(
        chainer.initializers.generate_array(chainer.initializers.HeNormal(), (200, 1000), np), (2 / 1000) ** 0.5
    )
