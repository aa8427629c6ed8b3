"""A model: a named list of layers for an input of known shape."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import backend, nn, ops
from ..suggest import nearest
from .layers import Activation, Conv2d, Dropout, Layer, Linear, Local2d, Lrn, MaxPool2d, Shape, SpatialLrn, WeightedSum

OPTIONS: dict[str, tuple[Any, ...]] = {
    "lrn": (True, False),
    "dropout": (True, False),
    "overlap": (True, False),
    "towers": (1, 2),
    "activation": ("relu", "tanh", "sigmoid"),
}
"""What ``Model.changed`` can exchange, and for what."""


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
        """Their number."""
        return math.prod(self.filter) if self.filter else 0

    @property
    def biases(self) -> int:
        """Their number."""
        return self.layer.biases(self.input)

    @property
    def frozen(self) -> int:
        """The number of values that are kept without being trained."""
        return self.layer.frozen(self.input)

    @property
    def parameters(self) -> int:
        """Weights, biases and what is kept without being trained."""
        return self.weights + self.biases + self.frozen

    @property
    def arrays(self) -> dict[str, Shape]:
        """Shapes of what the layer keeps, by name."""
        return self.layer.arrays(self.input)

    @property
    def trained(self) -> list[str]:
        """Names of those of its ``arrays`` that are trained."""
        return self.layer.trained(self.input)

    def named(self, array: str) -> str:
        """What one of its ``arrays`` is called in the network."""
        return f"{self.layer.name}.{array}" if array else self.layer.name

    @property
    def neurons(self) -> int:
        """Units in the paper's sense: outputs of layers that multiply by weights and add a bias."""
        weighs = self.macs or isinstance(self.layer, WeightedSum)
        return math.prod(self.output) if weighs and self.biases else 0


@dataclass(frozen=True)
class Model:
    """name, where the architecture comes from, input (H, W, C), layers from input to logits."""

    name: str
    source: str
    input: tuple[int, int, int]
    layers: tuple[Layer, ...]

    @property
    def chain(self) -> bool:
        """Whether the network is ``layers`` one after the other, each as it describes itself: only then can they be
        divided between devices or processes."""
        return True

    @property
    def places_itself(self) -> bool:
        """Whether the network says itself what runs where when it is built on several devices."""
        return False

    @property
    def classes(self) -> int:
        """How many: the outputs of the last layer."""
        return self._head().features

    def _head(self) -> Linear:
        head = self.layers[-1]
        if not isinstance(head, Linear):
            raise ValueError(f"model {self.name}: expected a Linear layer last, got {type(head).__name__}")
        return head

    def with_classes(self, classes: int) -> Model:
        """The same model with another number of outputs, ``classes``. ValueError for less than 1."""
        if classes < 1:
            raise ValueError(f"model {self.name}: classes: expected at least 1, got {classes}")
        return replace(self, layers=(*self.layers[:-1], replace(self._head(), features=classes)))

    def changed(self, options: Mapping[str, Any]) -> Model:
        """The same model with parts exchanged, for ablations; ValueError for unknown options or values.

        lrn, dropout (False: without these layers); overlap (False: 2x2 pools at stride 2 instead of overlapping ones);
        towers (1: every filter sees all channels); activation ("relu", "tanh", "sigmoid": instead of ReLU).
        """
        layers = self.layers
        for name, value in options.items():
            if name not in OPTIONS:
                expected = ", ".join(OPTIONS)
                raise ValueError(f"unknown option model.{name}: expected {expected}{nearest(name, OPTIONS)}")
            if isinstance(value, bool) != isinstance(OPTIONS[name][0], bool) or value not in OPTIONS[name]:
                expected = " or ".join(map(repr, OPTIONS[name]))
                raise ValueError(f"model.{name}: expected {expected}, got {value!r}")
            if name == "lrn" and not value:
                layers = tuple(layer for layer in layers if not isinstance(layer, (Lrn, SpatialLrn)))
            elif name == "dropout" and not value:
                layers = tuple(layer for layer in layers if not isinstance(layer, Dropout))
            elif name == "overlap" and not value:
                layers = tuple(replace(p, size=2, stride=2) if isinstance(p, MaxPool2d) else p for p in layers)
            elif name == "towers" and value == 1:
                layers = tuple(replace(g, groups=1) if isinstance(g, (Conv2d, Lrn)) else g for g in layers)
            elif name == "activation":
                layers = tuple(_with_activation(layer, value) for layer in layers)
        return replace(self, layers=layers)

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

    def connected(self) -> list[tuple[Layer, tuple[str, ...]]]:
        """Each layer and the names of its inputs, "" for the images."""
        names = ["", *(layer.name for layer in self.layers)]
        return [(layer, (before,)) for layer, before in zip(self.layers, names, strict=False)]

    def entries(self) -> dict[str, Any]:
        """The entries of a recipe that name the model, and hold all that it is made of."""
        return {"model": self.name}

    @property
    def parameters(self) -> int:
        """Of all layers: weights, biases and what is kept without being trained."""
        return sum(row.parameters for row in self.rows())

    def build(self, device: str | backend.Device | None = None, seed: int = 0) -> nn.Module:
        """The network on ``device`` (default: a usable GPU, else the CPU).

        Each layer's weights depend on ``seed`` and the layer's place alone, dropout masks on ``seed`` and the step.
        """
        target = backend.default_device() if device is None else backend.device(device)
        network = nn.Sequential()
        for row, module in self.modules(target, seed):
            setattr(network, row.layer.name, module)
        network.seed(seed)
        return network

    def modules(self, device: backend.Device, seed: int) -> Iterator[tuple[Row, nn.Module]]:
        """The layers one after the other, and what ``build`` makes of each."""
        for place, row in enumerate(self.rows()):
            rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, place]))
            yield row, row.layer.build(row.input, rng, device)


def _with_activation(layer: Layer, name: ops.Activation) -> Layer:
    """The layer with that activation function instead of ReLU."""
    if isinstance(layer, (Activation, Conv2d, Linear, Local2d)) and layer.activation == "relu":
        return replace(layer, activation=name)
    return layer
