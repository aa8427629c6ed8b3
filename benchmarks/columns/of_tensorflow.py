"""TensorFlow's answers: tf.nn and tf.random."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import tensorflow as tf

from columns.rows import attempt, padding, spread

NAME = "TensorFlow"


def version() -> str:
    return str(tf.__version__)


def column(*values: float) -> Any:
    return np.array(values, np.float32).reshape(1, -1, 1, 1)


def lrn_odd() -> Any:
    return tf.nn.lrn(np.ones((1, 1, 1, 8), np.float32), 2, 1, 1, 1).numpy().ravel()[[0, 4]]


def lrn_defaults() -> Any:
    defaults = inspect.signature(tf.nn.local_response_normalization).parameters
    radius, alpha, beta, k = (defaults[name].default for name in ("depth_radius", "alpha", "beta", "bias"))
    return [2 * radius + 1, alpha, beta, k]


def max_size() -> Any:
    return [tf.nn.max_pool2d(column(*range(32)), (3, 1), (2, 1), "VALID").shape[1], "-"]


def max_nan() -> Any:
    nan = np.nan
    x = column(nan, 1, 2, 3, 1, nan, 2, 3, 1, 2, 3, nan)
    return tf.nn.max_pool2d(x, (4, 1), (4, 1), "VALID").numpy()


def max_ties() -> Any:
    x = tf.constant(column(1, 1, 1, 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.nn.max_pool2d(x, (4, 1), (4, 1), "VALID")
    return tape.gradient(y, x).numpy()


def avg_border() -> Any:
    x = np.ones((1, 3, 3, 1), np.float32)
    return [tf.nn.avg_pool2d(x, 3, 1, "SAME").numpy()[0, 0, 0, 0], "-"]


def same_stride() -> Any:
    w = np.zeros((11, 1, 1, 1), np.float32)
    w[-1] = 1
    return padding(tf.nn.conv2d(column(*range(1, 225)), w, (4, 1), "SAME").numpy(), 4, 224, 11)


def conv_asymmetric() -> Any:
    pads = [[0, 0], [0, 2], [0, 0], [0, 0]]
    return tf.nn.conv2d(column(1, 1, 1, 1), np.ones((3, 1, 1, 1), np.float32), 1, pads).numpy()


def relu_special() -> Any:
    return tf.nn.relu(np.array([np.nan, -0.0, -np.inf], np.float32)).numpy()


def relu_gradient() -> Any:
    x = tf.constant([0.0, np.nan])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.nn.relu(x)
    return tape.gradient(y, x).numpy()


def bn_running() -> Any:
    x, one, zero = column(0, 2), np.ones(1, np.float32), np.zeros(1, np.float32)
    _, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=one, offset=zero, mean=zero, variance=one, exponential_avg_factor=0.01
    )
    return [f"told 0.01: {mean.numpy().item():.4g}", variance.numpy()]


def dropout_form() -> Any:
    return [tf.nn.dropout(np.ones(100, np.float32), 0.5).numpy().max(), "-"]


def dropout_all() -> Any:
    return attempt(lambda: tf.nn.dropout(np.array([1, -1, np.inf], np.float32), 1.0).numpy())


def loss_mean() -> Any:
    return tf.nn.sparse_softmax_cross_entropy_with_logits([0, 1], np.zeros((2, 2), np.float32)).numpy()


def loss_far() -> Any:
    return tf.nn.sparse_softmax_cross_entropy_with_logits([0], np.array([[0, 200]], np.float32)).numpy()


def softmax_axes() -> Any:
    return tf.nn.softmax(np.zeros((1, 2, 1, 2), np.float32)).numpy()


def truncated_normal() -> Any:
    return spread(tf.random.truncated_normal((1000, 200), stddev=0.01, seed=0).numpy(), 0.01)
