"""MXNet's answers (Python 3.8 and NumPy 1.23, the newest that it runs with)."""

from __future__ import annotations

import inspect
import re
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd

from columns.rows import attempt, spread

NAME = "MXNet"


def version() -> str:
    return str(mx.__version__)


def line(*values: float) -> Any:
    return nd.array(np.array(values, np.float32).reshape(1, 1, -1, 1))


def lrn(size: int) -> Any:
    return nd.LRN(nd.ones((1, 8, 1, 1)), nsize=size, alpha=1, beta=1, knorm=1).asnumpy().ravel()


def lrn_odd() -> Any:
    return lrn(5)[[0, 4]]


def lrn_even() -> Any:
    return lrn(4)[[0, 4, 7]]


def lrn_defaults() -> Any:
    """As its documentation has them, which is generated from the operator."""
    told = dict(re.findall(r"(\w+) : float, optional, default=(\S+)", nd.LRN.__doc__))
    return ["must be told", *(float(told[name]) for name in ("alpha", "beta", "knorm"))]


def pool(x: Any, kind: str, size: int, stride: int, pad: int, **options: Any) -> Any:
    return nd.Pooling(x, kernel=(size, 1), stride=(stride, 1), pad=(pad, 0), pool_type=kind, **options).asnumpy()


def max_size() -> Any:
    return [pool(line(*range(32)), "max", 3, 2, 0, pooling_convention=rule).size for rule in ("valid", "full")]


def max_dropped() -> Any:
    return pool(line(1, 2, 3, 4), "max", 2, 3, 1, pooling_convention="full")


def max_beyond() -> Any:
    return attempt(lambda: pool(line(1, 2, 3, 4, 5), "max", 1, 3, 0, pooling_convention="full"))


def max_nan() -> Any:
    nan = np.nan
    return pool(line(nan, 1, 2, 3, 1, nan, 2, 3, 1, 2, 3, nan), "max", 4, 4, 0)


def gradient(x: Any, function: Any) -> Any:
    x.attach_grad()
    with autograd.record():
        y = function(x)
    y.backward()
    return x.grad.asnumpy()


def max_ties() -> Any:
    return gradient(nd.ones((1, 1, 2, 2)), lambda x: nd.Pooling(x, kernel=(2, 2), pool_type="max"))


def avg_border() -> Any:
    options = {"kernel": (3, 3), "stride": (1, 1), "pad": (1, 1), "pool_type": "avg"}
    x = nd.ones((1, 1, 3, 3))
    uncounted = nd.Pooling(x, count_include_pad=False, **options)
    return [y.asnumpy()[0, 0, 0, 0] for y in (nd.Pooling(x, **options), uncounted)]


def avg_ceil() -> Any:
    return pool(line(1, 1, 1, 1), "avg", 3, 2, 0, pooling_convention="full").ravel()[-1]


def avg_ceil_padded() -> Any:
    return pool(line(1, 1, 1, 1), "avg", 3, 2, 1, pooling_convention="full", count_include_pad=True).ravel()[-1]


def relu_special() -> Any:
    return nd.relu(nd.array([np.nan, -0.0, -np.inf])).asnumpy()


def relu_gradient() -> Any:
    return gradient(nd.array([0, np.nan]), nd.relu)


def bn_running() -> Any:
    layer = gluon.nn.BatchNorm()
    layer.initialize()
    with autograd.record():
        y = layer(nd.array([[0], [2]]))
    y.backward()  # in which it writes them
    return [layer.running_mean.data().asnumpy(), layer.running_var.data().asnumpy()]


def bn_defaults() -> Any:
    defaults = inspect.signature(gluon.nn.BatchNorm.__init__).parameters
    return [defaults["epsilon"].default, defaults["momentum"].default]


def dropped(x: Any, p: float, training: bool) -> Any:
    with autograd.record() if training else autograd.pause():
        return nd.Dropout(nd.array(x), p=p).asnumpy()


def dropout_form() -> Any:
    return [dropped([1] * 50, 0.5, training).max() for training in (True, False)]


def dropout_all() -> Any:
    return attempt(lambda: dropped([1, -1, np.inf], 1.0, True))


def loss(logits: Any, labels: Any) -> Any:
    return gluon.loss.SoftmaxCrossEntropyLoss()(nd.array(logits), nd.array(labels)).asnumpy()


def loss_mean() -> Any:
    return loss([[0, 0], [0, 0]], [0, 1])


def loss_far() -> Any:
    return loss([[0, 200]], [0])


def softmax_axes() -> Any:
    return nd.softmax(nd.zeros((1, 2, 1, 2))).asnumpy()


def after(optimizer: Any, w: float, gradient: float, rates: Any) -> str:
    weight = nd.array([w])
    state = optimizer.create_state(0, weight)
    for rate in rates:
        optimizer.lr = rate
        optimizer.update(0, weight, nd.array([gradient]), state)
    return f"{weight.asscalar():.6f}"


def sgd_steps() -> Any:
    return after(mx.optimizer.SGD(momentum=0.9, wd=0.01), 1, 0.5, [0.1, 0.1])


def sgd_drop() -> Any:
    return after(mx.optimizer.SGD(momentum=0.9, wd=0.0), 1, 0.5, [0.1, 0.01])


def sgd_nesterov() -> Any:
    return after(mx.optimizer.NAG(momentum=0.9, wd=0.0), 1, 0.5, [0.1, 0.1])


def adam_epsilon() -> Any:
    return float(after(mx.optimizer.Adam(epsilon=1e-3, wd=0.0), 0, 1e-3, [1.0]))


def adam_default() -> Any:
    return mx.optimizer.Adam().epsilon


def he_normal() -> Any:
    w = nd.zeros((200, 1000))
    mx.init.MSRAPrelu("in", 0)("weight", w)
    return spread(w.asnumpy(), (2 / 1000) ** 0.5)
