"""AlexNet and its variants, as data."""

from __future__ import annotations

from dataclasses import replace

from ..init import Initialiser, constant, glorot_uniform, he_normal, normal, truncated_normal, uniform
from .layers import Activation, BatchNorm, Conv2d, Dropout, Flatten, Layer, Linear, Lrn, MaxPool2d, SpatialLrn
from .model import Model

ZERO, ONE, TENTH = constant(0), constant(1), constant(0.1)


def conv(
    name: str,
    channels: int,
    size: int,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    ceil: bool = False,
    weight: Initialiser = normal(0.01),
    bias: Initialiser = ZERO,
) -> Conv2d:
    return Conv2d(name, size, stride, padding, ceil, channels, groups, "relu", weight, bias)


def pool(name: str, ceil: bool = False) -> MaxPool2d:
    """The paper's overlapping pooling (section 3.4). On 55, 27 and 13 pixels both ways of rounding agree."""
    return MaxPool2d(name, 3, 2, 0, ceil)


def paper(
    conv_channels: tuple[int, int, int, int, int],
    towers: int,
    conv1: Conv2d | None = None,
) -> tuple[Layer, ...]:
    """The paper's network (sections 3 and 5) with its convolutions in ``towers`` groups that meet at conv3."""
    c1, c2, c3, c4, c5 = conv_channels
    return (
        conv1 or conv("conv1", c1, 11, stride=4, ceil=True),
        Lrn("lrn1", groups=towers),
        pool("pool1"),
        conv("conv2", c2, 5, padding=2, groups=towers, bias=ONE),
        Lrn("lrn2", groups=towers),
        pool("pool2"),
        conv("conv3", c3, 3, padding=1),
        conv("conv4", c4, 3, padding=1, groups=towers, bias=ONE),
        conv("conv5", c5, 3, padding=1, groups=towers, bias=ONE),
        pool("pool5"),
        Flatten("flatten"),
        Linear("fc6", 4096, bias=ONE),
        Dropout("drop6"),
        Linear("fc7", 4096, bias=ONE),
        Dropout("drop7"),
        Linear("fc8", 1000, activation=None),
    )


def caffe(pool_first: bool, bias: Initialiser) -> tuple[Layer, ...]:
    """bvlc_alexnet, or with ``pool_first`` bvlc_reference_caffenet: LRN over all maps with alpha / size and k = 1."""

    def normalised(i: int) -> tuple[Layer, ...]:
        pair = Lrn(f"lrn{i}", k=1.0, alpha=1e-4 / 5), pool(f"pool{i}")
        return pair[::-1] if pool_first else pair

    return (
        conv("conv1", 96, 11, stride=4),
        *normalised(1),
        conv("conv2", 256, 5, padding=2, groups=2, bias=bias),
        *normalised(2),
        conv("conv3", 384, 3, padding=1),
        conv("conv4", 384, 3, padding=1, groups=2, bias=bias),
        conv("conv5", 256, 3, padding=1, groups=2, bias=bias),
        pool("pool5"),
        Flatten("flatten"),
        Linear("fc6", 4096, weight=normal(0.005), bias=bias),
        Dropout("drop6", form="inverted"),
        Linear("fc7", 4096, weight=normal(0.005), bias=bias),
        Dropout("drop7", form="inverted"),
        Linear("fc8", 1000, activation=None),
    )


def source() -> tuple[Layer, ...]:
    """cuda-convnet's configuration 145, from which the paper's text differs: LRN before pooling and ReLU in layer 1, a
    second normalisation within each map after LRN 2, conv3 to conv5 from N(0, .03), alpha 2e-5."""
    wide = normal(0.03)
    return (
        replace(conv("conv1", 96, 11, stride=4, ceil=True), activation=None),
        Lrn("lrn1", alpha=2e-5, groups=2),
        pool("pool1"),
        Activation("relu1"),
        conv("conv2", 256, 5, padding=2, groups=2, bias=ONE),
        Lrn("lrn2", alpha=2e-5, groups=2),
        SpatialLrn("norm2"),
        pool("pool2"),
        conv("conv3", 384, 3, padding=1, weight=wide),
        conv("conv4", 384, 3, padding=1, groups=2, weight=wide, bias=ONE),
        replace(conv("conv5", 256, 3, padding=1, groups=2, weight=wide, bias=ONE), activation=None),
        pool("pool5"),
        Activation("relu5"),
        Flatten("flatten"),
        Linear("fc6", 4096, bias=ONE),
        Dropout("drop6"),
        Linear("fc7", 4096, bias=ONE),
        Dropout("drop7"),
        Linear("fc8", 1000, activation=None),
    )


def keras(conv2: int, pools: int, dense: tuple[int, ...], weight: Initialiser, normalised: bool) -> tuple[Layer, ...]:
    """The Keras listings of two articles: valid padding, batch normalisation after pooling; ``pools`` x ``pools``
    pools at stride 2; ``normalised``: also after each dense layer."""

    def pooled(i: int) -> tuple[Layer, ...]:
        return MaxPool2d(f"pool{i}", pools, 2, 0, False), BatchNorm(f"norm{i}")

    def fully(i: int, features: int) -> tuple[Layer, ...]:
        layers = Linear(f"fc{i}", features, weight=weight), Dropout(f"drop{i}", 0.4, "inverted")
        return (*layers, BatchNorm(f"norm{i}")) if normalised else layers

    return (
        conv("conv1", 96, 11, stride=4, weight=weight),
        *pooled(1),
        conv("conv2", 256, conv2, weight=weight),
        *pooled(2),
        conv("conv3", 384, 3, weight=weight),
        BatchNorm("norm3"),
        conv("conv4", 384, 3, weight=weight),
        BatchNorm("norm4"),
        conv("conv5", 256, 3, weight=weight),
        *pooled(5),
        Flatten("flatten"),
        *(layer for i, features in enumerate(dense, 6) for layer in fully(i, features)),
        Linear(f"fc{6 + len(dense)}", 1000, activation=None, weight=glorot_uniform()),
    )


FC = truncated_normal(0.005)

MODELS = (
    Model(
        "alexnet",
        "the paper: Krizhevsky, Sutskever, Hinton, NeurIPS 2012; two towers as groups, LRN inside each",
        (224, 224, 3),
        paper((96, 256, 384, 384, 256), towers=2),
    ),
    Model(
        "alexnet-single",
        "the paper's layers in one tower, 227x227 input",
        (227, 227, 3),
        paper((96, 256, 384, 384, 256), towers=1, conv1=conv("conv1", 96, 11, stride=4)),
    ),
    Model(
        "alexnet-half",
        "cuda-convnet's layers-145-half: one column of the paper's network",
        (224, 224, 3),
        paper((48, 128, 192, 192, 256), towers=1),
    ),
    Model(
        "alexnet-owt",
        "One weird trick (Krizhevsky 2014) as torchvision has it: no LRN, dropout before fc6 and fc7",
        (224, 224, 3),
        (
            conv("conv1", 64, 11, stride=4, padding=2, weight=uniform()),
            pool("pool1"),
            conv("conv2", 192, 5, padding=2, weight=uniform()),
            pool("pool2"),
            conv("conv3", 384, 3, padding=1, weight=uniform()),
            conv("conv4", 256, 3, padding=1, weight=uniform()),
            conv("conv5", 256, 3, padding=1, weight=uniform()),
            pool("pool5"),
            Flatten("flatten"),
            Dropout("drop5", form="inverted"),
            Linear("fc6", 4096, weight=uniform()),
            Dropout("drop6", form="inverted"),
            Linear("fc7", 4096, weight=uniform()),
            Linear("fc8", 1000, activation=None, weight=uniform()),
        ),
    ),
    Model(
        "alexnet-slim",
        "TensorFlow slim's alexnet_v2: no LRN, conv1 without padding, biases 0.1",
        (224, 224, 3),
        (
            conv("conv1", 64, 11, stride=4, weight=glorot_uniform(), bias=TENTH),
            pool("pool1"),
            conv("conv2", 192, 5, padding=2, weight=glorot_uniform(), bias=TENTH),
            pool("pool2"),
            conv("conv3", 384, 3, padding=1, weight=glorot_uniform(), bias=TENTH),
            conv("conv4", 384, 3, padding=1, weight=glorot_uniform(), bias=TENTH),
            conv("conv5", 256, 3, padding=1, weight=glorot_uniform(), bias=TENTH),
            pool("pool5"),
            Flatten("flatten"),
            Linear("fc6", 4096, weight=FC, bias=TENTH),
            Dropout("drop6", form="inverted"),
            Linear("fc7", 4096, weight=FC, bias=TENTH),
            Dropout("drop7", form="inverted"),
            Linear("fc8", 1000, activation=None, weight=FC),
        ),
    ),
    Model(
        "caffe-alexnet",
        "Caffe's bvlc_alexnet: ReLU, LRN, pooling; LRN over all maps",
        (227, 227, 3),
        caffe(pool_first=False, bias=TENTH),
    ),
    Model(
        "caffenet",
        "Caffe's bvlc_reference_caffenet: ReLU, pooling, LRN",
        (227, 227, 3),
        caffe(pool_first=True, bias=ONE),
    ),
    Model(
        "alexnet-2012",
        "cuda-convnet's layers-145: the network that the paper's results come from, as its source has it",
        (224, 224, 3),
        source(),
    ),
    Model(
        "keras-2x2",
        "a Keras listing in circulation: 2x2 pools, 11x11 conv2, batch normalisation instead of LRN",
        (224, 224, 3),
        keras(11, 2, (4096, 4096), glorot_uniform(), normalised=True),
    ),
    Model(
        "keras-9216",
        "another Keras listing in circulation: three dense layers, batch normalisation instead of LRN",
        (224, 224, 3),
        keras(5, 3, (9216, 4096, 4096), he_normal(truncated=True), normalised=False),
    ),
    Model(
        "alexnet-mini",
        "this project: the paper's layer sequence in small, for 32x32 images",
        (32, 32, 3),
        (
            conv("conv1", 32, 5, stride=2, padding=2, weight=he_normal()),
            Lrn("lrn1", groups=2),
            pool("pool1", ceil=True),
            conv("conv2", 64, 5, padding=2, groups=2, weight=he_normal()),
            Lrn("lrn2", groups=2),
            pool("pool2", ceil=True),
            conv("conv3", 96, 3, padding=1, weight=he_normal()),
            conv("conv4", 96, 3, padding=1, groups=2, weight=he_normal()),
            conv("conv5", 64, 3, padding=1, groups=2, weight=he_normal()),
            pool("pool5", ceil=True),
            Flatten("flatten"),
            Linear("fc6", 256, weight=he_normal()),
            Dropout("drop6"),
            Linear("fc7", 256, weight=he_normal()),
            Dropout("drop7"),
            Linear("fc8", 10, activation=None, weight=he_normal()),
        ),
    ),
)
