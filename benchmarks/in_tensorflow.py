"""A training step in TensorFlow as one function, on a CPU: forward, loss, backward, SGD with momentum .9 and decay
5e-4; images NHWC; as many threads as ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors alone; is read when TensorFlow is imported

import numpy as np
import tensorflow as tf
from layers import AvgPool, Conv, Dropout, Layer, Linear, Lrn, Pool, Relu

from alexnet_cuda import backend

tf.get_logger().setLevel("ERROR")
tf.config.set_visible_devices([], "GPU")
tf.config.threading.set_intra_op_parallelism_threads(backend.threads())
tf.config.threading.set_inter_op_parallelism_threads(1)
MOMENTUM, DECAY = 0.9, 5e-4


class Step:
    """After a call, ``value`` is its loss. ``state`` is ours to start from, else weights are drawn."""

    def __init__(
        self,
        layers: Sequence[Layer],
        state: Mapping[str, np.ndarray] | None,
        x: np.ndarray,
        labels: np.ndarray,
        lr: float,
        jit_compile: bool = False,
    ) -> None:
        self.layers, self.lr, self.dropout = layers, lr, True
        self.x, self.labels = tf.constant(x), tf.constant(labels)
        self.weights: dict[str, Any] = {}
        rng = np.random.default_rng(0)
        for layer in layers:
            shape: tuple[int, ...]
            if isinstance(layer, Conv):
                shape = (layer.K, layer.k, layer.k, layer.C // layer.groups)
            elif isinstance(layer, Linear):
                shape = (layer.outputs, layer.inputs)
            else:
                continue
            names = w, b = f"{layer.name}.w", f"{layer.name}.b"
            if state is None:
                drawn = {w: 0.01 * rng.standard_normal(shape, np.float32), b: np.zeros(shape[0], np.float32)}
            else:
                drawn = {name: state[name] for name in names}
            self.weights |= {name: tf.Variable(np.moveaxis(array, 0, -1)) for name, array in drawn.items()}
        self.velocities = [tf.Variable(tf.zeros_like(w)) for w in self.weights.values()]
        self.run = tf.function(self.train, jit_compile=jit_compile, autograph=False)
        self.result = tf.zeros(())

    def without_dropout(self) -> None:
        """Before the first call."""
        self.dropout = False

    def logits(self) -> Any:
        x = self.x
        for layer in self.layers:
            if isinstance(layer, (Dropout, Linear)) and len(x.shape) == 4:
                x = tf.reshape(x, [x.shape[0], -1])
            match layer:
                case Conv():
                    zeros = [layer.padding, layer.padding + layer.excess]
                    padding = [[0, 0], zeros, zeros, [0, 0]] if any(zeros) else "VALID"
                    # Group by group: on a CPU TensorFlow has no gradient of convolutions in groups.
                    groups = (tf.split(t, layer.groups, -1) for t in (x, self.weights[f"{layer.name}.w"]))
                    parts = [tf.nn.conv2d(one, w, layer.stride, padding) for one, w in zip(*groups, strict=True)]
                    x = tf.concat(parts, -1) if layer.groups > 1 else parts[0]
                    x = tf.nn.bias_add(x, self.weights[f"{layer.name}.b"])
                case Linear():
                    x = tf.nn.bias_add(x @ self.weights[f"{layer.name}.w"], self.weights[f"{layer.name}.b"])
                case Relu():
                    x = tf.nn.relu(x)
                case Pool():
                    pool = tf.nn.avg_pool2d if isinstance(layer, AvgPool) else tf.nn.max_pool2d
                    cut = (layer.OH - 1) * layer.stride + layer.k > layer.H
                    x = pool(x, layer.k, layer.stride, "SAME" if cut else "VALID")
                case Lrn():
                    shape = x.shape
                    x = tf.reshape(x, [*shape[:2], -1, layer.C // layer.groups])
                    x = tf.nn.local_response_normalization(x, layer.n // 2, layer.k, layer.alpha, layer.beta)
                    x = tf.reshape(x, shape)
                case Dropout() if self.dropout:
                    x = tf.nn.dropout(x, layer.p)
        return x

    def train(self) -> Any:
        weights = list(self.weights.values())
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(self.labels, self.logits())
            loss = tf.reduce_mean(losses)
        for w, v, g in zip(weights, self.velocities, tape.gradient(loss, weights), strict=True):
            tf.raw_ops.ResourceApplyMomentum(
                var=w.handle, accum=v.handle, lr=self.lr, grad=g + DECAY * w, momentum=MOMENTUM
            )
        return loss

    def __call__(self) -> None:
        self.result = self.run()

    def value(self) -> np.ndarray:
        return np.array(self.result)
