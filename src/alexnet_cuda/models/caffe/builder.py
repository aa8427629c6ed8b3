"""Turns the layers of a deploy file into nodes, one after the other: what all types of layers share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import NamedTuple

from ... import nn
from ..graph import Node, counted
from ..layers import (
    Activation,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    Linear,
    Lrn,
    MaxPool2d,
    Shape,
    SpatialLrn,
    WeightedSum,
)
from .prototxt import Message, PrototxtError

MOST_CLASSES = 2**24
IMAGES = -1
"""The place of what makes the images."""
KEEPS_CHANNELS = (Activation, AvgPool2d, BatchNorm, Dropout, Flatten, Lrn, MaxPool2d, SpatialLrn)


class Section(NamedTuple):
    """A layer of the file: its place, name and type, its fields, and the places of the layers that make its inputs."""

    place: int
    name: str
    type: str
    message: Message
    inputs: tuple[int, ...]

    def error(self, text: str, key: str = "") -> PrototxtError:
        return self.message.error(text, key)


@dataclass(frozen=True)
class Made:
    """A layer's output: the node that computes it ("" for the images) and its shape. ``flattened``: the (H, W, C) of
    whose values it consists, in our order, where Caffe has another; ``last``: whether nothing may follow."""

    node: str
    shape: Shape
    flattened: Shape | None = None
    last: bool = False


class Builder:
    """The nodes so far. ``classes``: outputs of layers that are to have others than the file says, by their names."""

    def __init__(self, sections: Sequence[Section], images: Shape, classes: Mapping[str, int]) -> None:
        self.classes = classes
        self.uses = Counter(place for section in sections for place in section.inputs)
        self.made = {IMAGES: Made("", images)}
        self.nodes: dict[str, Node] = {}
        self.theirs: dict[str, tuple[str, ...]] = {}
        self.not_applied: dict[str, None] = {}
        self.count = 0

    def inputs(self, section: Section, count: int | None = None) -> list[Made]:
        """Those of a section, as many as ``count`` says. PrototxtError for others, and for what must be last."""
        if (count is None and not section.inputs) or count not in (None, len(section.inputs)):
            raise section.error(f"expected {count or 'at least 1'}, got {len(section.inputs)}", "bottom")
        found = [self.made[place] for place in section.inputs]
        for made in found:
            if made.last:
                raise section.error("expected Softmax to be the last layer, got one that follows it", "bottom")
        return found

    def image(self, section: Section) -> Made:
        """The one input, an image."""
        (made,) = self.inputs(section, 1)
        if len(made.shape) != 3:
            raise section.error(f"expected an image, got a vector of {made.shape[0]:,} values", "bottom")
        return made

    def sole(self, section: Section) -> Node | None:
        """The node of the one input, if nobody else sees its output."""
        (made,) = self.inputs(section, 1)
        return self.nodes[made.node] if made.node and self.uses[section.inputs[0]] == 1 else None

    def name(self, wanted: str) -> str:
        """An identifier that is no other node's, and no attribute of a network."""
        name = re.sub(r"\W", "_", wanted, flags=re.ASCII)[:60] or "layer"
        names = chain([name], (f"{name}_{i}" for i in count(2)))
        return next(n for n in names if n not in self.nodes and not hasattr(nn.Graph([]), n))

    def add(self, section: Section, layer: Layer, inputs: Sequence[Made], flattened: Shape | None = None) -> Made:
        """A node for the layer, under a name like its own. Counts before anything is allocated."""
        layer = replace(layer, name=self.name(layer.name))
        try:
            row = counted(layer, inputs[0].shape, self.count)
        except ValueError as e:
            raise section.error(str(e)) from None
        self.count += row.parameters
        self.nodes[layer.name] = Node(row, tuple(made.node for made in inputs))
        if row.arrays:
            self.theirs[layer.name] = (section.name,)
        return Made(layer.name, row.output, flattened)

    def finish(self, section: Section, layer: Layer, inputs: Sequence[Made], flattened: Shape | None = None) -> None:
        """The section's output, by a node of its own."""
        self.made[section.place] = self.add(section, layer, inputs, flattened)

    def activated(self, section: Section, activation: Activation) -> None:
        """An activation function: that of the layer before, if it has none and nobody sees its output without."""
        (made,), before = self.inputs(section, 1), self.sole(section)
        layer = before.row.layer if before else None
        if before and isinstance(layer, Conv2d | Linear | WeightedSum) and layer.activation is None:
            row = replace(before.row, layer=replace(layer, activation=activation.activation))
            self.nodes[made.node] = before._replace(row=row)
            self.made[section.place] = made
        else:
            self.finish(section, activation, [made], made.flattened)

    def flat(self, section: Section, made: Made, name: str) -> Made:
        """An image as a vector."""
        H, W, _ = made.shape
        return self.add(section, Flatten(name), [made], made.shape if H * W > 1 else None)

    def output(self, section: Section) -> Made:
        """The network's: of the last layer. PrototxtError for what is not one value a class."""
        made = self.made[section.place]
        if made.shape[:-1] == (1, 1):
            made = self.flat(section, made, f"{section.name}_flat")
        if len(made.shape) != 1 or made.flattened:
            got = "x".join(map(str, made.flattened or made.shape))
            raise section.error(f"expected one value for each class at the end of the network, got {got}")
        if not self.theirs:
            raise section.error("expected a network with weights, got none")
        return made

    def head(self, made: Made) -> str:
        """Of Caffe's layers the one that decides how many outputs there are, "" where several do."""
        node = self.nodes[made.node]
        while isinstance(node.row.layer, KEEPS_CHANNELS) and node.inputs[0]:
            node = self.nodes[node.inputs[0]]
        layer = node.row.layer
        return self.theirs[layer.name][0] if isinstance(layer, Conv2d | Linear) else ""
