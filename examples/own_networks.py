"""Networks that are no chain of layers, trained on handwritten digits: residual blocks, Inception blocks, a U-Net.

    pip install 'alexnet-cuda[digits]'
    python examples/own_networks.py              # all three, on the CPU
    python examples/own_networks.py unet cuda    # one of them, on a GPU

A module's ``forward`` is a Python function over tensors: what branches, joins or skips is written as it is read. The
first two tell the digits apart; the U-Net takes noise away from them.
"""

import sys
from collections.abc import Callable

import numpy as np
from sklearn.datasets import load_digits

from alexnet_cuda import Tensor, nn, no_grad, ops, optim


class Residual(nn.Module):
    """y = ReLU(x + f(x)) (He et al. 2016), f two convolutions of 3 x 3 with batch normalisation; where the channels
    change, x passes a convolution of one pixel."""

    def __init__(self, inputs: int, outputs: int, device: str = "cpu") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, device=device)
        self.norm1 = nn.BatchNorm(outputs, device=device)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False, device=device)
        self.norm2 = nn.BatchNorm(outputs, device=device)
        self.skip = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False, device=device)

    def forward(self, x: Tensor) -> Tensor:
        y = ops.activation(self.norm1(self.conv1(x)), "relu")
        y = self.norm2(self.conv2(y))
        return ops.activation(y + (x if self.skip is None else self.skip(x)), "relu")


class Inception(nn.Module):
    """Four branches over the same pixels, their channels side by side (Szegedy et al. 2015)."""

    def __init__(self, inputs: int, each: int, device: str = "cpu") -> None:
        super().__init__()

        def conv(channels: int, size: int) -> nn.Conv2d:
            return nn.Conv2d(channels, each, size, padding=size // 2, activation="relu", device=device)

        self.branches = nn.ModuleDict(
            {
                "one": conv(inputs, 1),
                "three": nn.Sequential(conv(inputs, 1), conv(each, 3)),
                "five": nn.Sequential(conv(inputs, 1), conv(each, 5)),
                "pooled": nn.Sequential(nn.MaxPool2d(3, 1, padding=1), conv(inputs, 1)),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        return ops.concat([branch(x) for branch in self.branches.values()])


class Classifier(nn.Module):
    """Blocks, each with half the pixels of the one before, and a fully connected layer: images (N, 8, 8, 1) -> logits
    (N, 10)."""

    def __init__(self, first: nn.Module, second: nn.Module, channels: int, device: str = "cpu") -> None:
        super().__init__()
        self.blocks, self.pool = nn.ModuleList([first, second]), nn.MaxPool2d(2, 2)
        self.output = nn.Linear(2 * 2 * channels, 10, device=device)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.pool(block(x))
        return self.output(ops.flatten(x))


class UNet(nn.Module):
    """Down to a quarter of the pixels and up again, each level beside what came down (Ronneberger et al. 2015): images
    (N, H, W, 1) -> images, H and W divisible by 4."""

    def __init__(self, channels: int = 16, device: str = "cpu") -> None:
        super().__init__()

        def level(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, padding=1, activation="relu", device=device)

        self.down = nn.ModuleList([level(1, channels), level(channels, 2 * channels)])
        self.bottom = level(2 * channels, 4 * channels)
        self.up = nn.ModuleList([level(6 * channels, 2 * channels), level(3 * channels, channels)])
        self.pool, self.enlarge = nn.MaxPool2d(2, 2), nn.Upsample2d(2)
        self.output = nn.Conv2d(channels, 1, 1, device=device)

    def forward(self, x: Tensor) -> Tensor:
        beside = list[Tensor]()
        for down in self.down:
            beside.append(down(x))
            x = self.pool(beside[-1])
        x = self.bottom(x)
        for up in self.up:
            x = up(ops.concat([self.enlarge(x), beside.pop()]))
        return self.output(x)


def resnet(device: str) -> nn.Module:
    return Classifier(Residual(1, 16, device), Residual(16, 16, device), 16, device)


def inception(device: str) -> nn.Module:
    return Classifier(Inception(1, 8, device), Inception(32, 8, device), 32, device)


def unet(device: str) -> nn.Module:
    return UNet(device=device)


NETWORKS: dict[str, Callable[[str], nn.Module]] = {"resnet": resnet, "inception": inception, "unet": unet}


def train(name: str, device: str, epochs: int) -> float:
    """Trains it; the share of test digits recognised, or of the noise's squares taken away."""
    nn.manual_seed(0)
    rng = np.random.default_rng(0)
    digits = load_digits()
    images, labels = (digits.images[..., None] / 16).astype(np.float32), digits.target.astype(np.int32)
    noisy = images + 0.3 * rng.standard_normal(images.shape, np.float32)
    network, denoises = NETWORKS[name](device), name == "unet"
    optimizer = optim.Adam(network.parameters(), lr=5e-3)

    def loss(chosen: np.ndarray | slice) -> Tensor:
        if denoises:
            return ((network(Tensor(noisy[chosen], device=device)) - Tensor(images[chosen], device=device)) ** 2).mean()
        y = network(Tensor(images[chosen], device=device))
        return ops.softmax_cross_entropy(y, Tensor(labels[chosen], device=device))

    for _ in range(epochs):
        order = rng.permutation(1400)
        for first in range(0, 1400, 50):
            optimizer.zero_grad()
            loss(order[first : first + 50]).backward()
            optimizer.step()
    network.eval()
    with no_grad():
        if denoises:
            return 1 - loss(slice(1400, None)).item() / float(((noisy - images)[1400:] ** 2).mean())
        scores = network(Tensor(images[1400:], device=device)).numpy()
    return float((scores.argmax(axis=1) == labels[1400:]).mean())


def main(names: list[str], device: str = "cpu", epochs: int = 8) -> dict[str, float]:
    results = {}
    for name in names:
        print(NETWORKS[name](device))
        results[name] = train(name, device, epochs)
        what = "of the noise's squares are gone" if name == "unet" else "of the test digits are recognised"
        print(f"{name}: {results[name]:.1%} {what}")
    return results


if __name__ == "__main__":
    main(sys.argv[1:2] or list(NETWORKS), sys.argv[2] if len(sys.argv) > 2 else "cpu")
