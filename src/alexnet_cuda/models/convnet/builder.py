"""Turns sections into nodes, one after the other: what all types of layers share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ... import nn
from ...suggest import nearest
from ..graph import Node, counted
from ..layers import Activation, Conv2d, Layer, Linear, Local2d, NoisyReLU, Pointwise, Shape, WeightedSum
from .network import Convnet, Rates
from .sections import Section, short, to_number

MOST_TOWERS = 64

NEURONS = {
    "ident": 0, "logistic": 0, "abs": 0, "relu": 0, "nrelu": 0, "softrelu": 0, "square": 0, "sqrt": 0,
    "tanh": 2, "abstanh": 2, "linear": 2, "brelu": 1, "drelu": 1,
}  # fmt: skip
"""Numbers of parameters in brackets, as in tanh[1.7,0.6]."""


@dataclass(frozen=True)
class Made:
    """A section's output: the node that computes it ("" for data), its shape, its tower (-1: anywhere)."""

    node: str
    shape: Shape
    tower: int
    type: str
    before_neuron: str = ""
    """The node before a logistic neuron."""


class Builder:
    """The nodes so far, of the sections that were read."""

    def __init__(
        self, layers: dict[str, Section], parameters: dict[str, Section], names: tuple[str, str], size: int
    ) -> None:
        self.layers, self.parameters, self.names = layers, parameters, names
        self.images = size, size, self._channels()
        self.made: dict[str, Made] = {}
        self.nodes: dict[str, Node] = {}
        self.rates: dict[str, Rates] = {}
        self.used: set[str] = set()
        self.not_applied: dict[str, None] = {}
        self.count = 0
        self.cost: tuple[nn.Cost, str, str] | None = None  # and its section, and the node that gives the output

    def model(self, name: str, files: Mapping[str, Any]) -> Convnet:
        """What was read, as a model. ValueError where no cost or no layers were among it."""
        if self.cost is None:
            raise ValueError(
                f"{self.names[0]}: expected a layer of type cost.logreg, cost.crossent2 or cost.sum2, got none"
            )
        cost, _, output = self.cost
        for section in self.layers.values():
            if section.name not in self.used and not section.text("type").startswith("cost."):
                raise section.error("no layer uses its output")
        for section in self.parameters.values():
            if section.name not in self.layers:
                self.not_applied[f"[{section.name}]"] = None
        nodes = tuple(self.nodes.values())
        if cost == "logistic":
            nodes = nodes[:-1]  # the cost computes the neuron, too
        if not nodes or nodes[-1].row.layer.name != output:
            raise ValueError(f"{self.names[0]}: expected layers between the images and the cost, got none")
        source = "cuda-convnet's layer and parameter files"
        if self.not_applied:
            source += f" (not applied: {', '.join(self.not_applied)})"
        layers = tuple(node.row.layer for node in nodes)
        return Convnet(name, source, self.images, layers, nodes, cost, self.rates, files)

    def _channels(self) -> int:
        """Of the images: what the first layer expects of them that says it, else 3."""
        data = {s.name for s in self.layers.values() if s.text("type", "") == "data" and s.text("dataIdx", "") != "1"}
        for section in self.layers.values():
            if section.has("inputs") and section.has("channels"):
                for name, word in zip(section.texts("inputs"), section.texts("channels"), strict=False):
                    if name in data and re.fullmatch("[1-9][0-9]{0,3}", word):
                        return int(word)
        return 3

    def learning(self, section: Section) -> Section:
        """The layer's section of the parameter file; one without entries where there is none."""
        return self.parameters.get(section.name) or Section(self.names[1], 0, section.name)

    def inputs(self, section: Section, count: int | None = None) -> list[Made]:
        names = section.texts("inputs")
        if count is not None and len(names) != count:
            raise section.error(f"inputs: expected {count} layer{'s' * (count != 1)}, got {len(names)}", "inputs")
        for name in names:
            if name in self.made:
                continue
            if name in self.layers:
                raise section.error(
                    f"inputs: {name} is not defined before this layer, but in line {self.layers[name].line}", "inputs"
                )
            raise section.error(f"inputs: no layer {short(name)}{nearest(name, self.layers)}", "inputs")
        self.used.update(names)
        return [self.made[name] for name in names]

    def activations(self, section: Section, count: int | None = None) -> list[Made]:
        """The inputs, none of which may be the labels or a softmax."""
        inputs = self.inputs(section, count)
        for made in inputs:
            if made.type in ("labels", "softmax", "difference"):
                raise section.error(f"inputs: expected the outputs of layers, got {made.type}", "inputs")
        return inputs

    def image(self, section: Section) -> Made:
        """The one input, an image of as many channels as the section says."""
        (made,) = self.activations(section, 1)
        self.check_image(section, made, section.integer("channels"))
        return made

    def check_image(self, section: Section, made: Made, channels: int) -> None:
        if len(made.shape) != 3 or made.shape[2] != channels:
            got = "x".join(map(str, made.shape))
            raise section.error(f"expected an image of {channels} channels, got {got}", "channels")

    def tower(self, section: Section, inputs: Sequence[Made]) -> int:
        return section.integer("gpu", inputs[0].tower if inputs else -1, 0, MOST_TOWERS - 1)

    def add(self, section: Section, layer: Layer, inputs: Sequence[Made], tower: int) -> Made:
        """A node for the layer, after the nodes of its inputs. Counts before anything is allocated."""
        try:
            row = counted(layer, inputs[0].shape, self.count)
        except ValueError as e:
            raise section.error(str(e)) from None
        self.count += row.parameters
        if layer.name in self.nodes or hasattr(nn.Graph([]), layer.name):
            raise section.error(f"the name {layer.name} is taken")
        self.nodes[layer.name] = Node(row, tuple(made.node for made in inputs), max(tower, 0))
        return Made(layer.name, row.output, tower, section.text("type"))

    def finish(self, section: Section, layer: Layer, inputs: Sequence[Made], tower: int | None = None) -> None:
        """A node for the section's last layer, and one for its neuron unless the layer includes it."""
        tower = self.tower(section, inputs) if tower is None else tower
        neuron = self.neuron(section, section.text("neuron", "ident"), f"{section.name}_neuron")
        relu = isinstance(neuron, Activation) and neuron.activation == "relu"
        if relu and isinstance(layer, (Conv2d, Local2d, Linear, WeightedSum)):
            self.made[section.name] = self.add(section, replace(layer, activation="relu"), inputs, tower)
            return
        made = self.add(section, layer, inputs, tower)
        self.made[section.name] = made if neuron is None else self.add_neuron(section, neuron, made)

    def add_neuron(self, section: Section, neuron: Layer, made: Made) -> Made:
        logistic = isinstance(neuron, Activation) and neuron.activation == "sigmoid"
        after = self.add(section, neuron, [made], made.tower)
        return replace(after, before_neuron=made.node if logistic else "")

    def neuron(self, section: Section, text: str, node: str) -> Layer | None:
        """The neuron as a layer of the name ``node``; None for ident."""
        match = re.fullmatch(r"([a-z]+)\s*(?:\[([^\]]*)\])?", text)
        name, arguments = (match[1], match[2]) if match else (text, None)
        if name not in NEURONS:
            raise section.error(f"unknown neuron {short(text)}{nearest(name, NEURONS)}", "neuron")
        values = [to_number(word.strip()) for word in arguments.split(",")] if arguments is not None else []
        if len(values) != NEURONS[name] or None in values or (name == "drelu" and values == [0]):
            form = name + f"[{', '.join('ab'[: NEURONS[name]])}]" * (NEURONS[name] > 0)
            raise section.error(f"neuron: expected {form} with numbers, got {short(text)}", "neuron")
        if name == "ident":
            return None
        if name in ("relu", "logistic"):
            return Activation(node, "relu" if name == "relu" else "sigmoid")
        return NoisyReLU(node) if name == "nrelu" else Pointwise(node, name, *(v for v in values if v is not None))
