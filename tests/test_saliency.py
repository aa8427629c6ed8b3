"""What answers rest on, against naive float64 computations of the whole network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

from alexnet_cuda import backend, models, nn, saliency
from alexnet_cuda.inference import Trained
from alexnet_cuda.models.layers import Conv2d, Flatten, Linear
from alexnet_cuda.models.model import Model

pytest_plugins = ["tiny_run"]

CPU = backend.device("cpu")
POOL = (3, 3), (2, 2), ((0, 0), (0, 0))


@pytest.fixture(scope="module")
def trained(tiny_run: Path) -> Trained:
    return Trained.load(tiny_run, CPU)


@pytest.fixture(scope="module")
def images(trained: Trained) -> np.ndarray:
    return trained.data().test.load(np.arange(0, 35, 6))[0].copy()


class Naive:
    """alexnet-mini in evaluation, in float64, on images (N, 36, 36, 3)."""

    def __init__(self, trained: Trained, images: np.ndarray) -> None:
        self.weights = {name: w.astype(np.float64) for name, w in trained.network.state().items()}
        crops = np.tile(np.array([(2, 2, 0)], np.int32), (len(images), 1))
        x = reference.augment(images, (32, 32), trained.mean.astype(np.float64), crops, None, trained.config["scale"])
        for name, stride, groups in (("conv1", 2, 1), ("conv2", 1, 2)):
            x = self.conv(name, x, stride, 2, groups)
            x = reference.lrn(x, 5, 2.0, 1e-4, 0.75, groups=2)
            x, _ = reference.max_pool2d(x, *POOL, ceil=True)
        for name, groups in (("conv3", 1), ("conv4", 2), ("conv5", 2)):
            x = self.conv(name, x, 1, 1, groups)
        self.conv5 = x
        self.pool5, self.which = reference.max_pool2d(x, *POOL, ceil=True)
        self.flat = self.pool5.reshape(len(x), -1)
        self.fc6 = reference.relu(self.linear("fc6", self.flat))
        self.fc7 = reference.relu(self.linear("fc7", 0.5 * self.fc6))
        self.logits = self.linear("fc8", 0.5 * self.fc7)
        self.probabilities = reference.softmax(self.logits)

    def conv(self, name: str, x: np.ndarray, stride: int, padding: int, groups: int) -> np.ndarray:
        pads = (padding, padding), (padding, padding)
        w, b = self.weights[f"{name}.w"], self.weights[f"{name}.b"]
        return reference.relu(reference.conv2d(x, w, b, (stride, stride), pads, groups))

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return reference.linear(x, self.weights[f"{name}.w"], self.weights[f"{name}.b"])

    def gradient(self, labels: np.ndarray) -> np.ndarray:
        """Of each image's output for its label, with respect to conv5."""
        d = np.eye(self.logits.shape[1])[labels]
        d = 0.5 * (d @ self.weights["fc8.w"]) * (self.fc7 > 0)
        d = 0.5 * (d @ self.weights["fc7.w"]) * (self.fc6 > 0)
        d = (d @ self.weights["fc6.w"]).reshape(self.pool5.shape)
        return reference.max_pool2d_backward(d, self.which, self.conv5.shape, *POOL)


def naive_class_activation(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    N, H, W, K = activation.shape
    maps = np.zeros((N, H, W))
    for n in range(N):
        for k in range(K):
            maps[n] += gradient[n, :, :, k].mean() * activation[n, :, :, k]
    return np.where(maps > 0, maps, 0)


@pytest.mark.parametrize("batch", [4, 128])
def test_class_activation_is_that_of_a_naive_computation(trained: Trained, images: np.ndarray, batch: int) -> None:
    naive = Naive(trained, images)
    labels = np.argsort(naive.logits, axis=1)[np.arange(len(images)), [-1, -1, -1, -2, -2, 0]].astype(np.int32)
    expected = naive_class_activation(naive.conv5, naive.gradient(labels))
    got = saliency.class_activation(replace(trained, batch=batch), images, labels)
    assert got.dtype == np.float32
    assert_allclose(got, expected, rtol=0, atol=2e-5 * expected.max())
    assert (expected > 0).any(axis=(1, 2)).sum() >= 4 and (expected == 0).any()
    assert np.abs(expected[:3] - expected[3:]).max() > 0.1 * expected.max()


def test_class_activation_leaves_the_network_as_it_was(trained: Trained, images: np.ndarray) -> None:
    fixed = next(trained.network.named_parameters())[1]
    fixed.requires_grad = False
    try:
        saliency.class_activation(trained, images, np.zeros(len(images), np.int32))
        parameters = trained.network.parameters()
        assert all(p.grad is None for p in parameters)
        assert [p.requires_grad for p in parameters] == [False] + [True] * (len(parameters) - 1)
    finally:
        fixed.requires_grad = True


@pytest.mark.parametrize(
    ("cells", "share", "edges"),
    [
        (4, 0.25, [(0, 8), (8, 16), (16, 24), (24, 32)]),
        (2, 0.75, [(0, 20), (12, 32)]),  # what lies outside of 24 pixels around 8 and 24 is cut off
        (3, 0.001, [(5, 6), (16, 17), (27, 28)]),
    ],
)
def test_occlusion_is_that_of_a_naive_computation(
    trained: Trained, images: np.ndarray, cells: int, share: float, edges: list[tuple[int, int]]
) -> None:
    labels = np.array([3, 0], np.int32)
    expected = np.empty((2, cells, cells))
    for i, (top, bottom) in enumerate(edges):
        for j, (left, right) in enumerate(edges):
            hidden = images[:2].copy()
            for y in range(top + 2, bottom + 2):  # two pixels more are stored around what the network sees
                for x in range(left + 2, right + 2):
                    hidden[:, y, x] = np.rint(trained.mean[y, x])
            expected[:, i, j] = Naive(trained, hidden).probabilities[[0, 1], labels]
    before = images.copy()
    got = saliency.occlusion(trained, images[:2], labels, cells, share)
    assert_allclose(got, expected, rtol=2e-5)
    assert len(np.unique(expected.round(4))) > 4
    assert_array_equal(images, before)


def test_the_last_convolution_of_each_model_is_found() -> None:
    found = {name: saliency.last_convolutions(models.get(name)) for name in models.names()}
    assert all(len(layers) == 1 for layers in found.values())
    assert found["alexnet"] == found["alexnet-mini"] == ["conv5"]
    for name, (last,) in found.items():
        layers = models.get(name).layers
        place = [layer.name for layer in layers].index(last)
        assert isinstance(layers[place], Conv2d)
        assert not any(isinstance(layer, Conv2d) for layer in layers[place + 1 :])


LAYERS = """
[data]
type=data
dataIdx=0
[labels]
type=data
dataIdx=1
[first]
type=conv
inputs=data
channels=3
filters=16
filterSize=3
padding=1
stride=1
initW=0.1
neuron=relu
[a]
type=conv
inputs=first
channels=16
filters=16
filterSize=3
stride=2
padding=0
initW=0.1
neuron=relu
[b]
type=conv
inputs=first
channels=16
filters=32
filterSize=3
stride=2
padding=0
initW=0.1
neuron=relu
[fc]
type=fc
inputs=a,b
outputs=4
initW=0.1,0.1
[probs]
type=softmax
inputs=fc
[logprob]
type=cost.logreg
inputs=labels,probs
"""
PARAMETERS = """
[first]
epsW=0.001
epsB=0.002
momW=0.9
momB=0.9
wc=0
[a]
epsW=0.001
epsB=0.002
momW=0.9
momB=0.9
wc=0
[b]
epsW=0.001
epsB=0.002
momW=0.9
momB=0.9
wc=0
[fc]
epsW=0.001,0.001
epsB=0.002
momW=0.9,0.9
momB=0.9
wc=0,0
[logprob]
coeff=1
"""


def test_of_several_towers_the_last_convolutions_are_added_up() -> None:
    model = models.convnet.parse("two", LAYERS, PARAMETERS, 16)
    assert saliency.last_convolutions(model) == ["a", "b"]
    network = model.build("cpu", 1)
    network.eval()
    mean = np.zeros((16, 16, 3), np.float32)
    trained = Trained(Path("two"), {"scale": 0.01, "data": None}, tuple("wxyz"), mean, model, network, CPU, 3)
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    labels = np.array([0, 3, 1, 2, 3], np.int32)
    outputs = trained.activations(images, ["a", "b"])
    expected = 0
    for i, name in enumerate(("a", "b")):
        y = outputs[name].astype(np.float64)
        w = network.state()[f"fc[{i}].w"].astype(np.float64)[labels].reshape(y.shape)
        expected = expected + (w.mean(axis=(1, 2), keepdims=True) * y).sum(axis=3)
    expected = np.maximum(expected, 0)
    assert_allclose(saliency.class_activation(trained, images, labels), expected, rtol=1e-4, atol=1e-6)
    assert (expected > 0).any()


def test_without_a_convolution_there_is_no_class_activation(trained: Trained, images: np.ndarray) -> None:
    model = Model("flat", "a test", (32, 32, 3), (Flatten("flatten"), Linear("fc", 7)))
    network = nn.Sequential(flatten=nn.Flatten())
    with pytest.raises(ValueError, match="model flat: expected a convolution, it has none"):
        saliency.class_activation(replace(trained, model=model, network=network), images, np.zeros(6, np.int32))
