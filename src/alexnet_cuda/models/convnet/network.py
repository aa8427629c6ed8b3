"""A network of layers that name their inputs, as a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ... import backend, nn
from ..layers import Dropout, Layer, WeightedSum
from ..model import Model, Row


class Rates(NamedTuple):
    """How a layer learns: rate, momentum and decay of its weights (epsW, momW, wc), rate and momentum of its biases
    (epsB, momB)."""

    lr: float
    momentum: float
    decay: float
    bias_lr: float
    bias_momentum: float


class Node(NamedTuple):
    """A layer in its place; ``inputs`` are names of layers, "" for the images; ``tower`` is the file's gpu."""

    row: Row
    inputs: tuple[str, ...]
    tower: int


@dataclass(frozen=True)
class Convnet(Model):
    """A model that is a graph. ``rates``: by the names of the layers with parameters; ``files``: what ``parse`` made it
    of, by the names of its arguments."""

    nodes: tuple[Node, ...]
    cost: nn.Cost
    rates: Mapping[str, Rates]
    files: Mapping[str, Any] = field(repr=False)
    chain = False
    places_itself = True

    @property
    def classes(self) -> int:
        """How many: the outputs of the last layer."""
        return self.nodes[-1].row.output[0]

    def with_classes(self, classes: int) -> Model:
        """The same model. ValueError for another number of classes than the files'."""
        if classes != self.classes:
            raise ValueError(
                f"model {self.name}: {self.layers[-1].name}: expected as many outputs as classes, {classes}, got "
                f"{self.classes}; change its section in the layer file"
            )
        return self

    def changed(self, options: Mapping[str, Any]) -> Model:
        """The same model, with dropout = False without that; ValueError for other options: the files say all."""
        if not options:
            return self
        if dict(options) != {"dropout": False}:
            got = ", ".join(f"{name} = {value}" for name, value in options.items())
            raise ValueError(f"model {self.name}: expected at most dropout = False for a model of files, got {got}")
        layers = [
            WeightedSum(layer.name, (1.0,)) if isinstance(layer, Dropout) else layer
            for layer in (node.row.layer for node in self.nodes)
        ]
        nodes = [n._replace(row=replace(n.row, layer=layer)) for n, layer in zip(self.nodes, layers, strict=True)]
        return replace(self, layers=tuple(layers), nodes=tuple(nodes))

    def rows(self) -> list[Row]:
        return [node.row for node in self.nodes]

    def connected(self) -> list[tuple[Layer, tuple[str, ...]]]:
        return [(node.row.layer, node.inputs) for node in self.nodes]

    def entries(self) -> dict[str, Any]:
        return {"model": self.name, "convnet": self.files}

    def build(self, device: str | backend.Device | None = None, seed: int = 0) -> nn.Graph:
        """The network, tower k on the k-th of the devices modulo their number ("cuda:0,cuda:1"); otherwise as the
        other models."""
        devices = backend.devices(device)
        made = []
        for place, (row, inputs, tower) in enumerate(self.nodes):
            rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, place]))
            where = devices[tower % len(devices)]
            made.append(nn.Node(row.layer.name, row.layer.build(row.input, rng, where), inputs, where))
        network = nn.Graph(made, self.cost)
        network.seed(seed)
        return network
