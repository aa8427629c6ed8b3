"""This project's kernels as operations of PyTorch: an ``autograd.Function`` each, in a network that PyTorch trains.

    pip install 'alexnet-cuda[digits]' torch
    python examples/kernels_in_pytorch.py

conv 3x3 -> ReLU -> LRN -> max-pool -> fully connected on scikit-learn's 8x8 scans of digits. Tensors go into the
kernels and come back without a copy; those on a GPU stay there, on PyTorch's stream. Images are (N, H, W, C).
"""

from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from alexnet_cuda import kernels


class ConvRelu(torch.autograd.Function):
    """Convolution of x (N, H, W, C) with w (K, KH, KW, C), b (K,), then ReLU."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, padding: int) -> torch.Tensor:
        y = kernels.conv2d(x.detach(), w.detach(), b.detach(), padding=padding, relu=True)
        ctx.save_for_backward(x, w, y)
        ctx.padding = padding
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, w, y = (tensor.detach() for tensor in ctx.saved_tensors)
        needs = ctx.needs_input_grad[:3]
        return *kernels.conv2d_backward(dy.contiguous(), x, w, padding=ctx.padding, needs=needs, y=y), None


class Lrn(torch.autograd.Function):
    """Local response normalisation with the paper's constants."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return kernels.lrn(x.detach())

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return kernels.lrn_backward(dy.contiguous(), x.detach())


class MaxPool(torch.autograd.Function):
    """Maxima of overlapping windows: 3 x 3 at stride 2."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y, which = kernels.max_pool2d(x.detach(), size=3, stride=2)
        ctx.save_for_backward(which)
        ctx.shape = tuple(x.shape)
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        (which,) = ctx.saved_tensors
        return kernels.max_pool2d_backward(dy.contiguous(), which, ctx.shape, size=3, stride=2)


class Network(torch.nn.Module):
    """Logits (N, 10) for images (N, 8, 8, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(16, 3, 3, 1) * (2 / 9) ** 0.5)
        self.b = torch.nn.Parameter(torch.zeros(16))
        self.fc = torch.nn.Linear(3 * 3 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(MaxPool.apply(Lrn.apply(ConvRelu.apply(x, self.w, self.b, 1))).flatten(1))


def main(epochs: int = 15, batch: int = 32) -> float:
    """Trains and returns the share of test digits recognised."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.images[..., None] / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    places, test = train_test_split(range(len(x)), test_size=0.2, random_state=0)
    network = Network()
    sgd = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(epochs):
        losses = []
        for chosen in torch.tensor(places)[torch.randperm(len(places))].split(batch):
            loss = torch.nn.functional.cross_entropy(network(x[chosen]), labels[chosen])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses.append(loss.item())
        with torch.no_grad():
            accuracy = (network(x[test]).argmax(1) == labels[test]).float().mean().item()
        print(f"epoch {epoch + 1:2}  loss {sum(losses) / len(losses):.3f}  test accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
