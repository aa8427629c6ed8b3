"""A model: a named list of layers for an input of known shape."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .. import backend, nn
from .layers import Conv2d, Layer, Linear, Shape


@dataclass(frozen=True)
class Row:
    """A layer in its place: what ``summary`` prints."""

    layer: Layer
    input: Shape
    output: Shape
    filter: Shape | None
    macs: int

    @property
    def weights(self) -> int:
        return math.prod(self.filter) if self.filter else 0

    @property
    def biases(self) -> int:
        return self.filter[0] if self.filter else 0

    @property
    def parameters(self) -> int:
        return self.weights + self.biases

    @property
    def neurons(self) -> int:
        """Units in the paper's sense: outputs of layers with weights."""
        return math.prod(self.output) if self.filter else 0


@dataclass(frozen=True)
class Model:
    """name, where the architecture comes from, input (H, W, C), layers from input to logits."""

    name: str
    source: str
    input: tuple[int, int, int]
    layers: tuple[Layer, ...]

    @property
    def classes(self) -> int:
        return self._head().features

    def _head(self) -> Linear:
        head = self.layers[-1]
        if not isinstance(head, Linear):
            raise ValueError(f"model {self.name}: expected a Linear layer last, got {type(head).__name__}")
        return head

    def with_classes(self, classes: int) -> Model:
        """The same model with another number of outputs."""
        if classes < 1:
            raise ValueError(f"model {self.name}: classes: expected at least 1, got {classes}")
        return replace(self, layers=(*self.layers[:-1], replace(self._head(), features=classes)))

    def rows(self) -> list[Row]:
        """Every layer with its shapes and counts. ValueError where a layer cannot take what the one before gives."""
        rows, shape = [], tuple(self.input)
        for layer in self.layers:
            if layer.rank is not None and layer.rank != len(shape):
                raise ValueError(
                    f"model {self.name}: {layer.name}: expected an input of rank {layer.rank}, got {shape}"
                )
            if isinstance(layer, Conv2d) and (shape[2] % layer.groups or layer.channels % layer.groups):
                raise ValueError(
                    f"model {self.name}: {layer.name}: {layer.groups} groups do not divide "
                    f"{shape[2]} and {layer.channels} channels"
                )
            try:
                output = layer.output(shape)
            except ValueError as e:
                raise ValueError(f"model {self.name}: {layer.name}: {e}") from None
            rows.append(Row(layer, shape, output, layer.filter(shape), layer.macs(shape)))
            shape = output
        return rows

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows())

    def build(self, device: str | backend.Device | None = None, seed: int = 0) -> nn.Sequential:
        """The network on ``device`` (default: a usable GPU, else the CPU).

        Each layer's weights depend on ``seed`` and the layer's place alone, dropout masks on ``seed`` and the step.
        """
        target = backend.default_device() if device is None else backend.device(device)
        network = nn.Sequential()
        for place, row in enumerate(self.rows()):
            rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, place]))
            setattr(network, row.layer.name, row.layer.build(row.input, rng, target))
        network.seed(seed)
        return network
