"""Models of files, whose layers name their inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .. import backend, nn
from .layers import Dropout, Layer, Shape, WeightedSum
from .model import Model, Row

MOST_PARAMETERS = 10**9
MOST_OUTPUTS = 2**28
"""Of one layer for one image."""


class Node(NamedTuple):
    """A layer in its place; ``inputs`` are names of layers, "" for the images; ``tower`` tells its device."""

    row: Row
    inputs: tuple[str, ...]
    tower: int = 0


def counted(layer: Layer, shape: Shape, before: int) -> Row:
    """A layer on an input of ``shape``, after layers of so many parameters. ValueError, before anything is allocated,
    for windows that do not fit it, for too many outputs, and for too many parameters with those before."""
    output = layer.output(shape)
    row = Row(layer, shape, output, layer.filter(shape), layer.macs(shape))
    total = before + row.parameters
    if math.prod(output) > MOST_OUTPUTS:
        raise ValueError(f"expected at most {MOST_OUTPUTS:,} outputs, got {'x'.join(map(str, output))}")
    if total > MOST_PARAMETERS:
        raise ValueError(f"expected at most {MOST_PARAMETERS:,} parameters, got {total:,} up to this layer")
    return row


@dataclass(frozen=True)
class GraphModel(Model):
    """A model that is a graph; its output is the last node's. ``cost``: the loss that it is trained with."""

    nodes: tuple[Node, ...]
    cost: nn.Cost

    @property
    def chain(self) -> bool:
        """Whether each layer has the output of the one before as its only input."""
        names = ["", *(layer.name for layer in self.layers)]
        return all(node.inputs == (before,) for node, before in zip(self.nodes, names, strict=False))

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

    def build(self, device: str | backend.Device | None = None, seed: int = 0) -> nn.Module:
        """The network; of a graph tower k is on the k-th of the devices modulo their number ("cuda:0,cuda:1");
        otherwise as the other models."""
        if self.chain:
            return super().build(device, seed)
        devices = backend.devices(device)
        made = []
        for place, (row, inputs, tower) in enumerate(self.nodes):
            rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, place]))
            where = devices[tower % len(devices)]
            made.append(nn.Node(row.layer.name, row.layer.build(row.input, rng, where), inputs, where))
        network = nn.Graph(made, self.cost)
        network.seed(seed)
        return network
