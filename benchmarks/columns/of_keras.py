"""Keras's answers on one of its backends (KERAS_BACKEND)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from columns.rows import attempt, padding, spread

NAME = "Keras on " + {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow"}[keras.backend.backend()]


def version() -> str:
    return str(keras.__version__)


def array(x: Any) -> Any:
    return ops.convert_to_numpy(x)


def line(*values: float) -> Any:
    return np.array(values, np.float32).reshape(1, -1, 1)


def max_size() -> Any:
    return [layers.MaxPooling1D(3, 2)(np.ones((1, 32, 1), np.float32)).shape[1], "-"]


def max_nan() -> Any:
    nan = np.nan
    return array(layers.MaxPooling1D(4)(line(nan, 1, 2, 3, 1, nan, 2, 3, 1, 2, 3, nan)))


def same_stride() -> Any:
    w = np.zeros((11, 1, 1), np.float32)
    w[-1] = 1
    x = line(*range(1, 225))
    return attempt(lambda: padding(array(ops.conv(x, w, 4, "same")), 4, 224, 11))


def relu_special() -> Any:
    return array(ops.relu(np.array([np.nan, -0.0, -np.inf], np.float32)))


def bn_running() -> Any:
    layer = layers.BatchNormalization()
    layer(np.array([[0.0], [2.0]], np.float32), training=True)
    return [array(layer.moving_mean), array(layer.moving_variance)]


def bn_defaults() -> Any:
    layer = layers.BatchNormalization()
    return [layer.epsilon, layer.momentum]


def dropout_form() -> Any:
    layer, x = layers.Dropout(0.5), np.ones(100, np.float32)
    return [array(layer(x, training=training)).max() for training in (True, False)]


def dropout_all() -> Any:
    return array(layers.Dropout(1.0)(np.array([1, -1, np.inf], np.float32), training=True))


def loss_mean() -> Any:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return array(loss(np.array([0, 1]), np.zeros((2, 2), np.float32)))


def loss_far() -> Any:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return array(loss(np.array([0]), np.array([[0, 200]], np.float32)))


def softmax_axes() -> Any:
    return array(layers.Softmax()(np.zeros((1, 2, 1, 2), np.float32)))


def after(rates: list[float], **options: Any) -> str:
    w = keras.Variable(np.ones(1, np.float32))
    optimizer = keras.optimizers.SGD(rates[0], momentum=0.9, **options)
    for rate in rates:
        optimizer.learning_rate = rate
        optimizer.apply([ops.convert_to_tensor(np.full(1, 0.5, np.float32))], [w])
    return f"{array(w).item():.6f}"


def sgd_steps() -> Any:
    return after([0.1, 0.1], weight_decay=0.01)


def sgd_drop() -> Any:
    return after([0.1, 0.01])


def sgd_nesterov() -> Any:
    return after([0.1, 0.1], nesterov=True)


def adam_epsilon() -> Any:
    w = keras.Variable(np.zeros(1, np.float32))
    keras.optimizers.Adam(1.0, epsilon=1e-3).apply([ops.convert_to_tensor(np.full(1, 1e-3, np.float32))], [w])
    return array(w)


def adam_default() -> Any:
    return keras.optimizers.Adam().epsilon


def he_normal() -> Any:
    return spread(array(keras.initializers.HeNormal(seed=0)((1000, 200))), (2 / 1000) ** 0.5)


def truncated_normal() -> Any:
    return spread(array(keras.initializers.TruncatedNormal(stddev=0.01, seed=0)((1000, 200))), 0.01)
