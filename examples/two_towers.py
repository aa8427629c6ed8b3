"""A small network of one's own, split over two devices as the paper split AlexNet, trained on handwritten digits.

    pip install 'alexnet-cuda[digits]'
    python examples/two_towers.py                  # two logical devices on the CPU
    python examples/two_towers.py cuda:0,cuda:1

Each tower has a convolution of its own; both see all channels in the hidden layer; the classifier, which sees both
halves of that, is on the first device. ``ByHand`` makes this of tensors and layers, ``DESCRIBED`` is for ``Towers``.
"""

import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from alexnet_cuda import Tensor, backend, nn, no_grad, ops, optim
from alexnet_cuda.init import he_normal
from alexnet_cuda.models import Model, layers
from alexnet_cuda.parallel import Exchange, Towers

Devices = tuple[backend.Device, ...]


def meeting(tower: int, inputs: int, outputs: int, device: backend.Device, relu: bool) -> Exchange:
    """A layer of one tower over ``inputs`` values of each; the other's come by ``tensor.to(device)``."""
    half0, half1 = (nn.Linear(inputs, outputs, bias=False, device=device) for _ in range(2))
    return Exchange(tower, half0, half1, nn.Parameter(np.zeros(outputs, np.float32), device), "relu" if relu else None)


class ByHand(nn.Module):
    """Images (N, 8, 8, 1), once for each device -> logits (N, 10) on the first."""

    def __init__(self, devices: Devices) -> None:
        super().__init__()
        self.devices = devices
        self.conv0, self.conv1 = (nn.Conv2d(1, 8, 3, padding=1, activation="relu", device=d) for d in devices)
        self.hidden0, self.hidden1 = (meeting(t, 4 * 4 * 8, 32, d, relu=True) for t, d in enumerate(devices))
        self.output = meeting(0, 32, 10, devices[0], relu=False)

    def forward(self, *images: Tensor) -> Tensor:
        first, second = self.devices

        def pixels(conv: nn.Module, x: Tensor) -> Tensor:
            return ops.flatten(ops.max_pool2d(conv(x), 2))

        halves = backend.run_concurrently(
            [(first, lambda: pixels(self.conv0, images[0])), (second, lambda: pixels(self.conv1, images[1]))]
        )
        halves = backend.run_concurrently(
            [(first, lambda: self.hidden0(*halves)), (second, lambda: self.hidden1(*halves))]
        )
        return self.output(*halves)


DESCRIBED = Model(
    "digits",
    "a small network in two groups",
    (8, 8, 1),
    (
        layers.Conv2d("conv1", 3, 1, 1, False, 16, weight=he_normal()),
        layers.MaxPool2d("pool1", 2, 2, 0, False),
        layers.Conv2d("conv2", 3, 1, 1, False, 16, groups=2, weight=he_normal()),
        layers.Flatten("flatten"),
        layers.Linear("hidden", 64, weight=he_normal()),
        layers.Linear("output", 10, activation=None, weight=he_normal()),
    ),
)


def train(network: nn.Module, devices: Devices, epochs: int, batch: int) -> float:
    """Trains and returns the share of test digits recognised."""
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    x, x_test, labels, labels_test = train_test_split(images, digits.target.astype(np.int32), random_state=0)
    optimizer = optim.SGD(network.parameters(), lr=0.05)
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for first in range(0, len(x), batch):
            chosen = order[first : first + batch]
            optimizer.zero_grad()
            logits = network(*(Tensor(x[chosen], device=device) for device in devices))
            ops.softmax_cross_entropy(logits, Tensor(labels[chosen], device=devices[0])).backward()
            optimizer.step()
    with no_grad():
        scores = network(*(Tensor(x_test, device=device) for device in devices)).numpy()
    return float((scores.argmax(axis=1) == labels_test).mean())


def main(names: str = "cpu:0,cpu:1", epochs: int = 8, batch: int = 32) -> list[float]:
    devices, accuracies = backend.devices(names), []
    nn.manual_seed(0)
    for network in (ByHand(devices), Towers(DESCRIBED, devices)):
        backend.traffic.clear()
        accuracies.append(train(network, devices, epochs, batch))
        moved = ", ".join(f"{n:,} bytes from {a} to {b}" for (a, b), n in sorted(backend.traffic.items(), key=str))
        print(f"{type(network).__name__:7} test accuracy {accuracies[-1]:.2%}; {moved}")
    return accuracies


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu:0,cpu:1")
