"""cuda-convnet's networks for CIFAR-10, as data: 32x32 or 24x24 images, ten classes."""

from __future__ import annotations

from ..init import Initialiser, normal
from .layers import AvgPool2d, Conv2d, Flatten, Layer, Linear, Local2d, Lrn, MaxPool2d, SpatialLrn
from .model import Model


def conv(i: int, channels: int, std: float) -> Conv2d:
    return Conv2d(f"conv{i}", 5, 1, 2, False, channels, weight=normal(std))


def local(i: int, channels: int) -> Local2d:
    return Local2d(f"local{i}", 3, 1, 1, False, channels, weight=normal(0.04))


def max_pool(i: int) -> MaxPool2d:
    return MaxPool2d(f"pool{i}", 3, 2, 0, True)


def avg_pool(i: int) -> AvgPool2d:
    return AvgPool2d(f"pool{i}", 3, 2, 0, True)


def pooled(normalised: bool, *fully: Layer) -> tuple[Layer, ...]:
    """Three convolutions, the first pooled by maximum, the others by mean, and what follows them."""

    def norm(i: int) -> tuple[Layer, ...]:
        return (SpatialLrn(f"norm{i}", 3, alpha=5e-5 / 9),) if normalised else ()

    return (
        conv(1, 32, 0.0001),
        max_pool(1),
        *norm(1),
        conv(2, 32, 0.01),
        avg_pool(2),
        *norm(2),
        conv(3, 64, 0.01),
        avg_pool(3),
        Flatten("flatten"),
        *fully,
    )


def localised(channels: tuple[int, int], normalised: bool) -> tuple[Layer, ...]:
    """Two convolutions and two layers without shared filters, for 24x24 crops."""
    lrn1, lrn2 = (Lrn(f"lrn{i}", 9, 1.0, 0.001 / 9) for i in (1, 2))
    return (
        conv(1, 64, 0.0001),
        max_pool(1),
        *((lrn1,) if normalised else ()),
        conv(2, 64, 0.01),
        *((lrn2,) if normalised else ()),
        max_pool(2),
        local(3, channels[0]),
        local(4, channels[1]),
        Flatten("flatten"),
        output(5),
    )


def output(i: int, weight: Initialiser = normal(0.01)) -> Linear:
    return Linear(f"fc{i}", 10, activation=None, weight=weight)


LARGE, SMALL = (32, 32, 3), (24, 24, 3)
FC = normal(0.1)

MODELS = (
    Model(
        "cifar-80sec",
        "cuda-convnet's layers-80sec",
        LARGE,
        pooled(False, Linear("fc4", 64, weight=FC), output(5, FC)),
    ),
    Model("cifar-18pct", "cuda-convnet's layers-18pct: normalisation within maps", LARGE, pooled(True, output(4))),
    Model(
        "cifar-19pct", "cuda-convnet's layers-19pct: as 18pct without normalisation", LARGE, pooled(False, output(4))
    ),
    Model("cifar-13pct", "cuda-convnet's layers-conv-local-13pct", SMALL, localised((32, 32), normalised=False)),
    Model("cifar-11pct", "cuda-convnet's layers-conv-local-11pct", SMALL, localised((64, 32), normalised=True)),
    Model(
        "cifar-4layer",
        "the paper's figure 1: four layers, with ReLU or (model.activation) tanh",
        LARGE,
        pooled(False, output(4)),
    ),
)
