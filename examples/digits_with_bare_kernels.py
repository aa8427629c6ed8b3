"""A small convolutional network trained on handwritten digits with bare kernels: every gradient is passed by hand.

    pip install 'alexnet-cuda[digits]'
    python examples/digits_with_bare_kernels.py

conv 3x3 -> ReLU -> LRN -> max-pool -> fully connected -> softmax, on scikit-learn's 8x8 scans. Runs on NumPy arrays;
make ``x`` and the weights CuPy arrays and the same lines run on the GPU.
"""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from alexnet_cuda import kernels


def forward(
    x: np.ndarray, conv_w: np.ndarray, conv_b: np.ndarray, fc_w: np.ndarray, fc_b: np.ndarray
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Logits (N, 10) for images x (N, 8, 8, 1), and what the backward pass needs."""
    y1 = kernels.conv2d(x, conv_w, conv_b, padding=1, relu=True)  # (N, 8, 8, 16)
    y2 = kernels.lrn(y1)
    y3, which = kernels.max_pool2d(y2, size=3, stride=2)  # (N, 3, 3, 16): overlapping windows
    flat = y3.reshape(len(x), -1)
    return kernels.linear(flat, fc_w, fc_b), (y1, y2.shape, which, y3.shape, flat)


def gradients(x: np.ndarray, labels: np.ndarray, weights: list[np.ndarray]) -> tuple[float, list[np.ndarray]]:
    """Loss, and its gradient with respect to each of the weights."""
    conv_w, _, fc_w, _ = weights
    logits, (y1, pool_input, which, pool_output, flat) = forward(x, *weights)
    loss, _, p = kernels.softmax_cross_entropy(logits, labels)
    dlogits = kernels.softmax_cross_entropy_backward(p, labels)
    dflat, dfc_w, dfc_b = kernels.linear_backward(dlogits, flat, fc_w)
    dy2 = kernels.max_pool2d_backward(dflat.reshape(pool_output), which, pool_input, size=3, stride=2)
    dy1 = kernels.lrn_backward(dy2, y1, mask=True)  # and back through the ReLU
    _, dconv_w, dconv_b = kernels.conv2d_backward(dy1, x, conv_w, padding=1, needs=(False, True, True))
    return float(loss), [dconv_w, dconv_b, dfc_w, dfc_b]


def main(epochs: int = 15, batch: int = 32) -> float:
    """Trains and returns the share of test digits recognised."""
    digits = load_digits()
    x = (digits.images[..., None] / 16).astype(np.float32)
    x, x_test, labels, labels_test = train_test_split(x, digits.target.astype(np.int32), test_size=0.2, random_state=0)
    rng = np.random.default_rng(0)
    weights = [
        rng.normal(0, np.sqrt(2 / 9), (16, 3, 3, 1)).astype(np.float32),
        np.zeros(16, np.float32),
        rng.normal(0, np.sqrt(2 / 144), (10, 144)).astype(np.float32),
        np.zeros(10, np.float32),
    ]
    momenta = [np.zeros_like(w) for w in weights]
    for epoch in range(epochs):
        losses = []
        order = rng.permutation(len(x))
        for first in range(0, len(x), batch):
            chosen = order[first : first + batch]
            loss, gs = gradients(x[chosen], labels[chosen], weights)
            for w, v, g in zip(weights, momenta, gs, strict=True):
                kernels.sgd(w, v, g, lr=0.05)
            losses.append(loss)
        accuracy = float((forward(x_test, *weights)[0].argmax(axis=1) == labels_test).mean())
        print(f"epoch {epoch + 1:2d}  loss {np.mean(losses):.4f}  test accuracy {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main()
