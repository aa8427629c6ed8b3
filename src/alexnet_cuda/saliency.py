"""What an answer rests on: occlusion maps (Zeiler and Fergus 2014, section 4.2) and class activation by gradients
(Grad-CAM, Selvaraju et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from . import backend, nn, ops
from .inference import Floats, Images, Trained
from .models import Model
from .tensor import Tensor

__all__ = ["class_activation", "last_convolutions", "occlusion"]

CELLS = 13  # of an occlusion map, in height and width
SHARE = 0.25  # of the image's height and width that the square covers


def occlusion(
    trained: Trained, images: Images, labels: NDArray[np.int32], cells: int = CELLS, share: float = SHARE
) -> Floats:
    """How probable each image's label still is where a square hides part of the image: (N, cells, cells), a number for
    each place of the square's middle on a grid over what the network sees. images (N, RH, RW, 3), labels (N,).

    The square has ``share`` of the sides of what the network sees, ends with it, and is of the mean image, which
    is zero to the network.
    """
    H, W = trained.model.input[:2]
    top, left, _ = trained.centre[0]
    rows, columns = _spans(H, cells, share, int(top)), _spans(W, cells, share, int(left))
    square = np.rint(trained.mean).clip(0, 255).astype(np.uint8)
    maps = np.empty((len(images), cells, cells), np.float32)
    for image, label, probable in zip(images, labels, maps, strict=True):
        hidden = np.broadcast_to(image, (cells, cells, *image.shape)).copy()
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                hidden[i, j, row, column] = square[row, column]
        answers = trained.probabilities(hidden.reshape(-1, *image.shape))
        probable[:] = answers[:, label].reshape(cells, cells)
    return maps


def _spans(size: int, cells: int, share: float, first: int) -> list[slice]:
    """Where the square lies in one direction, for each cell of the map; the network sees ``size`` pixels from
    ``first`` on."""
    spans = []
    for cell in range(cells):
        start = round((cell + 0.5) * size / cells - share * size / 2)
        end = start + max(1, round(share * size))
        spans.append(slice(first + max(0, start), first + end))
    return spans


def class_activation(trained: Trained, images: Images, labels: NDArray[np.int32]) -> Floats:
    """Where the last convolution sees what speaks for each image's label: (N, OH, OW), from 0. images (N, RH, RW, 3),
    labels (N,). ValueError for a network without a convolution.

    The last convolution's channels, after its activation function, are added up, each times the mean over the places
    of the gradient of the label's output before softmax; what is below 0 becomes 0.
    """
    layers = last_convolutions(trained.model)
    if not layers:
        raise ValueError(f"model {trained.model.name}: expected a convolution, it has none")
    maps = []
    for first in range(0, len(images), trained.batch):
        some = slice(first, first + trained.batch)
        with _frozen(trained.network):
            outputs = list[Tensor]()

            def seen(name: str, y: Tensor, outputs: list[Tensor] = outputs) -> None:
                if name in layers:
                    y.requires_grad = True
                    outputs.append(y)

            y = trained.watched(images[some], seen)
            wanted = np.eye(trained.model.classes, dtype=np.float32)[labels[some]]
            ops.cast(y, np.float32).backward(backend.from_host(wanted, trained.device))
        parts = []
        for layer in outputs:
            activation, gradient = (backend.to_host(a).astype(np.float32) for a in (layer.data, layer.grad))
            weights = gradient.mean(axis=(1, 2), keepdims=True)
            parts.append((activation * weights).sum(axis=3))
        maps.append(np.maximum(sum(parts), 0))
    return np.concatenate(maps)


def last_convolutions(model: Model) -> list[str]:
    """The convolutions that no other one follows: one, or in several towers one in each, of equal size."""
    shapes = {row.layer.name: row.output for row in model.rows()}
    nearest: dict[str, frozenset[str]] = {"": frozenset()}  # the convolutions before each layer with none in between
    last = dict[str, None]()
    for layer, inputs in model.connected():
        before = frozenset().union(*(nearest[name] for name in inputs))
        nearest[layer.name] = before
        if layer.kind == "Conv2d":
            nearest[layer.name] = frozenset([layer.name])
            last = {name: None for name in last if name not in before} | {layer.name: None}
    return [name for name in last if shapes[name][:2] == shapes[[*last][-1]][:2]]


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Within this block the network's parameters need no gradient, so that none is computed."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad = False
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad = True
