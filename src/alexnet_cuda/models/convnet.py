"""Models from the files of cuda-convnet's source release of 2012.

A network is two files of sections ``[name]`` with lines ``key = value``: the layer file has a section for each layer,
after those of its inputs; the parameter file says of the same names what may change during training. A layer that has
several inputs with weights becomes one layer an input, ``name[0]``, ``name[1]`` and so on, and their sum, ``name``; a
neuron that its layer's kernel does not include becomes ``name_neuron``. Values are read as words and numbers; nothing
in the files is executed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .. import backend, init, nn
from ..files import decoded
from ..names import text
from ..suggest import nearest
from .layers import (
    Activation,
    AvgPool2d,
    Blur,
    Concat,
    ContrastNorm,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    Linear,
    Local2d,
    Lrn,
    MaxPool2d,
    Nailbed,
    NoisyReLU,
    Pointwise,
    RandomChannels,
    Shape,
    SpatialLrn,
    WeightedSum,
)
from .model import Model, Row

T = TypeVar("T")

LONGEST_FILE = 2**20
"""Bytes."""
MOST_PARAMETERS = 10**9
MOST_OUTPUTS = 2**28
"""Of one layer for one image."""
MOST_TOWERS = 64


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

    @property
    def classes(self) -> int:
        return self.nodes[-1].row.output[0]

    def with_classes(self, classes: int) -> Model:
        """The same model. ValueError for another number of classes than the files'."""
        if classes != self.classes:
            raise ValueError(
                f"model {self.name}: {self.layers[-1].name}: expected one output for each of {classes} classes, got "
                f"{self.classes}; change its section in the layer file"
            )
        return self

    def changed(self, options: Mapping[str, Any]) -> Model:
        """The same model; ValueError for any option: the files say all."""
        if options:
            raise ValueError(f"model {self.name}: {', '.join(options)}: expected no options for a model from files")
        return self

    def rows(self) -> list[Row]:
        return [node.row for node in self.nodes]

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


def from_convnet(layers: str | Path, parameters: str | Path, size: int = 224) -> Convnet:
    """The model that a layer-definition file and a layer-parameter file describe, for images of ``size`` x ``size``
    pixels in colour, which the files do not tell. Its name is that of the layer file.

    ValueError, naming file, line and section, for what cannot be read or built, before any memory is allocated for it;
    OSError for a file that cannot be opened.
    """
    paths = Path(layers), Path(parameters)
    return parse(text(paths[0].stem), _text(paths[0]), _text(paths[1]), size, (str(layers), str(parameters)))


def parse(
    name: str, layers: str, parameters: str, size: int = 224, names: tuple[str, str] = ("layers", "parameters")
) -> Convnet:
    """``from_convnet`` of the files' text; ``names`` are for messages."""
    if not isinstance(size, int) or not 1 <= size <= 4096:
        raise ValueError(f"model {name}: size of the images: expected 1 to 4096 pixels, got {size!r}")
    reader = _Reader(_sections(layers, names[0]), _sections(parameters, names[1]), names, size)
    files = {"layers": layers, "parameters": parameters, "size": size}
    return reader.model(name, files)


# ---------------------------------------------------------------------------------------------- sections and values


@dataclass(frozen=True)
class _Section:
    """[name] of a file, at a line (0: it is not there): its values by key in lower case, each with its line."""

    file: str
    line: int
    name: str
    entries: dict[str, tuple[str, int]] = field(default_factory=dict)

    def error(self, text: str, key: str = "") -> ValueError:
        _, line = self.entries.get(key.lower(), ("", self.line))
        return ValueError(f"{self.file}{f':{line}' if line else ''}: [{self.name}] {text}")

    def has(self, key: str) -> bool:
        return key.lower() in self.entries

    def text(self, key: str, default: str | None = None) -> str:
        if self.has(key):
            return self.entries[key.lower()][0]
        if default is None:
            raise self.error(f"{key} is missing")
        return default

    def texts(self, key: str) -> list[str]:
        return [word.strip() for word in self.text(key).split(",")]

    def integers(
        self, key: str, count: int = 1, default: Sequence[int] | None = None, low: int = 1, high: int = 2**31 - 1
    ) -> list[int]:
        def convert(word: str) -> int | None:
            number = int(word) if re.fullmatch(r"[+-]?[0-9]{1,12}", word) else None
            return number if number is not None and low <= number <= high else None

        return self._list(key, count, default, convert, f"whole numbers from {low} to {high}")

    def integer(self, key: str, default: int | None = None, low: int = 1, high: int = 2**31 - 1) -> int:
        return self.integers(key, 1, None if default is None else [default], low, high)[0]

    def numbers(
        self, key: str, count: int = 1, default: Sequence[float] | None = None, low: float = -1e30, high: float = 1e30
    ) -> list[float]:
        def convert(word: str) -> float | None:
            number = _number(word)
            return number if number is not None and low <= number <= high else None

        return self._list(key, count, default, convert, f"numbers from {low:g} to {high:g}")

    def number(self, key: str, default: float | None = None, low: float = -1e30, high: float = 1e30) -> float:
        return self.numbers(key, 1, None if default is None else [default], low, high)[0]

    def flags(self, key: str, count: int = 1, default: bool = False) -> list[bool]:
        words = {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }
        return self._list(key, count, [default] * count, lambda word: words.get(word.lower()), "true or false")

    def flag(self, key: str, default: bool = False) -> bool:
        return self.flags(key, 1, default)[0]

    def _list(
        self, key: str, count: int, default: Sequence[T] | None, convert: Callable[[str], T | None], expected: str
    ) -> list[T]:
        if not self.has(key) and default is not None:
            return list(default)
        words = self.texts(key)
        if len(words) != count:
            raise self.error(f"{key}: expected {count} value{'s' * (count != 1)}, got {len(words)}", key)
        values = []
        for word in words:
            value = convert(word)
            if value is None:
                raise self.error(f"{key}: expected {expected}, got {_short(word)}", key)
            values.append(value)
        return values


def _number(word: str) -> float | None:
    plain = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", word)
    return float(word) if plain and math.isfinite(float(word)) else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(LONGEST_FILE + 1)
    if len(data) > LONGEST_FILE:
        raise ValueError(f"{path}: expected a layer or parameter file of at most {LONGEST_FILE:,} bytes, got more")
    try:
        return decoded(data)
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: expected a text file, got byte {data[e.start]:#04x} at {e.start}") from None


def _sections(text: str, file: str) -> dict[str, _Section]:
    """The sections by name, in order."""
    sections: dict[str, _Section] = {}
    section = None
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            name = line[1:-1]
            if line[-1] != "]" or not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name):
                raise ValueError(
                    f"{file}:{number}: expected [name] of letters, digits, - and _, at most 60, got {_short(line)}"
                )
            if name in sections:
                raise ValueError(f"{file}:{number}: [{name}] is there already, in line {sections[name].line}")
            section = sections[name] = _Section(file, number, name)
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if section is None or not equals or not re.fullmatch(r"[A-Za-z]+", key):
            where = f"[{section.name}] expected key = value" if section else "expected [name]"
            raise ValueError(f"{file}:{number}: {where}, got {_short(line)}")
        if section.has(key):
            raise ValueError(f"{file}:{number}: [{section.name}] {key} is there already")
        section.entries[key.lower()] = re.split(r"\s;", value)[0].strip(), number
    if not sections:
        raise ValueError(f"{file}: expected sections [name] with lines key = value, got none")
    return sections


# ---------------------------------------------------------------------------------------------- layers

NEURONS = {
    "ident": 0, "logistic": 0, "abs": 0, "relu": 0, "nrelu": 0, "softrelu": 0, "square": 0, "sqrt": 0,
    "tanh": 2, "abstanh": 2, "linear": 2, "brelu": 1, "drelu": 1,
}  # fmt: skip
"""Numbers of parameters in brackets, as in tanh[1.7,0.6]."""

REFUSED = {
    "treefc": "it needs the tree of classes that came with the data",
    "cost.rflickr": "a cost of one data set",
    "cost.msm": "a cost over sets of classes",
    "cost.crossent": "labels as probabilities",
    "cost.gsum2": "a cost with a gate",
    "cost.tica": "a cost without labels",
    **dict.fromkeys(("eltmax", "href", "resize", "rscale", "rgb2yuv", "rgb2lab"), "no file of the release uses it"),
}

_WITH_INPUT = "type inputs gpu neuron "
_WEIGHTS = "initW initB initWFunc initBFunc weightSource "
_CONV = "channels filters padding stride filterSize groups randSparse filterChannels initCFunc "
_NORM = "channels size sizeX blocked scale pow minDiv "
_LEARNING = "epsW epsB momW momB wc wball schedW schedB superEps superMom quantF quantB "

_KEYS = {
    "data": ("type dataIdx", ""),
    "conv": (_WITH_INPUT + _WEIGHTS + _CONV + "sharedBiases partialSum", _LEARNING + "wcNormMin wcNormMax wcnorm"),
    "local": (_WITH_INPUT + _WEIGHTS + _CONV, _LEARNING),
    "fc": (_WITH_INPUT + _WEIGHTS + "outputs", _LEARNING),
    "pool": (_WITH_INPUT + "pool channels sizeX stride start outputsX", ""),
    **dict.fromkeys(("rnorm", "cnorm", "cmrnorm"), (_WITH_INPUT + _NORM, _NORM)),
    "neuron": (_WITH_INPUT, ""),
    "eltsum": (_WITH_INPUT + "coeffs", ""),
    "concat": (_WITH_INPUT, ""),
    **dict.fromkeys(("hs", "dropout"), (_WITH_INPUT + "keep", "enable")),
    "blur": (_WITH_INPUT + "channels filterSize stdev", ""),
    "nailbed": (_WITH_INPUT + "channels stride", ""),
    "softmax": ("type inputs gpu", ""),
    **dict.fromkeys(("cost.logreg", "cost.crossent2", "cost.sum2"), ("type inputs gpu", "coeff topk")),
}
"""By type, the keys of a layer's section and of its section of parameters."""

_NOT_APPLIED = ("wball", "wcNormMin", "wcNormMax", "wcnorm", "superEps", "schedW", "schedB", "quantF", "quantB")


@dataclass(frozen=True)
class _Made:
    """A section's output: the node that computes it ("" for data), its shape, its tower (-1: anywhere)."""

    node: str
    shape: Shape
    tower: int
    type: str
    before_neuron: str = ""
    """The node before a logistic neuron."""


class _Reader:
    """Turns sections into nodes, one after the other."""

    def __init__(
        self, layers: dict[str, _Section], parameters: dict[str, _Section], names: tuple[str, str], size: int
    ) -> None:
        self.layers, self.parameters, self.names, self.size = layers, parameters, names, size
        self.made: dict[str, _Made] = {}
        self.nodes: dict[str, Node] = {}
        self.rates: dict[str, Rates] = {}
        self.used: set[str] = set()
        self.not_applied: dict[str, None] = {}
        self.count = 0
        self.cost: tuple[nn.Cost, str, str] | None = None  # and its section, and the node that gives the output

    def model(self, name: str, files: Mapping[str, Any]) -> Convnet:
        for section in self.layers.values():
            self.read(section)
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
        return Convnet(name, source, (self.size, self.size, 3), layers, nodes, cost, self.rates, files)

    def read(self, section: _Section) -> None:
        kind = section.text("type")
        if kind in REFUSED:
            raise section.error(f"type {kind} is not supported: {REFUSED[kind]}", "type")
        if kind not in _KEYS:
            raise section.error(f"unknown type {_short(kind)}{nearest(kind, _KEYS)}", "type")
        for where, keys in zip((section, self.learning(section)), _KEYS[kind], strict=True):
            known = {key.lower(): key for key in keys.split()}
            for key in where.entries:
                if key not in known:
                    raise where.error(f"unknown key {key}{nearest(key, known.values())}", key)
        {
            "data": self.data,
            "conv": self.convolution,
            "local": self.convolution,
            "fc": self.fully_connected,
            "pool": self.pool,
            "rnorm": self.norm,
            "cnorm": self.norm,
            "cmrnorm": self.norm,
            "neuron": self.neuron_layer,
            "eltsum": self.eltsum,
            "concat": self.concat,
            "hs": self.dropout,
            "dropout": self.dropout,
            "blur": self.blur,
            "nailbed": self.nailbed,
            "softmax": self.softmax,
            "cost.logreg": self.logreg,
            "cost.crossent2": self.crossent,
            "cost.sum2": self.squares,
        }[kind](section)

    # ------------------------------------------------------------------------------------------ what layers share

    def learning(self, section: _Section) -> _Section:
        """The layer's section of the parameter file; one without entries where there is none."""
        return self.parameters.get(section.name) or _Section(self.names[1], 0, section.name)

    def inputs(self, section: _Section, count: int | None = None) -> list[_Made]:
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
            raise section.error(f"inputs: no layer {_short(name)}{nearest(name, self.layers)}", "inputs")
        self.used.update(names)
        return [self.made[name] for name in names]

    def activations(self, section: _Section, count: int | None = None) -> list[_Made]:
        """The inputs, none of which may be the labels or a softmax."""
        inputs = self.inputs(section, count)
        for made in inputs:
            if made.type in ("labels", "softmax", "difference"):
                raise section.error(f"inputs: expected the outputs of layers, got {made.type}", "inputs")
        return inputs

    def image(self, section: _Section) -> _Made:
        """The one input, an image of as many channels as the section says."""
        (made,) = self.activations(section, 1)
        self.check_image(section, made, section.integer("channels"))
        return made

    def check_image(self, section: _Section, made: _Made, channels: int) -> None:
        if len(made.shape) != 3 or made.shape[2] != channels:
            got = "x".join(map(str, made.shape))
            raise section.error(f"expected an image of {channels} channels, got {got}", "channels")

    def tower(self, section: _Section, inputs: Sequence[_Made]) -> int:
        return section.integer("gpu", inputs[0].tower if inputs else -1, 0, MOST_TOWERS - 1)

    def add(self, section: _Section, layer: Layer, inputs: Sequence[_Made], tower: int) -> _Made:
        """A node for the layer, after the nodes of its inputs. Counts before anything is allocated."""
        shape = inputs[0].shape
        try:
            output = layer.output(shape)
        except ValueError as e:
            raise section.error(str(e)) from None
        row = Row(layer, shape, output, layer.filter(shape), layer.macs(shape))
        self.count += row.parameters
        if math.prod(output) > MOST_OUTPUTS:
            raise section.error(f"expected at most {MOST_OUTPUTS:,} outputs, got {'x'.join(map(str, output))}")
        if self.count > MOST_PARAMETERS:
            raise section.error(f"expected at most {MOST_PARAMETERS:,} parameters, got {self.count:,} up to this layer")
        if layer.name in self.nodes or hasattr(nn.Graph([]), layer.name):
            raise section.error(f"the name {layer.name} is taken")
        self.nodes[layer.name] = Node(row, tuple(made.node for made in inputs), max(tower, 0))
        return _Made(layer.name, output, tower, section.text("type"))

    def finish(self, section: _Section, layer: Layer, inputs: Sequence[_Made], tower: int | None = None) -> None:
        """A node for the section's last layer, and one for its neuron unless the layer includes it."""
        tower = self.tower(section, inputs) if tower is None else tower
        neuron = self.neuron(section, section.text("neuron", "ident"), f"{section.name}_neuron")
        relu = isinstance(neuron, Activation) and neuron.activation == "relu"
        if relu and isinstance(layer, (Conv2d, Local2d, Linear, WeightedSum)):
            self.made[section.name] = self.add(section, replace(layer, activation="relu"), inputs, tower)
            return
        made = self.add(section, layer, inputs, tower)
        self.made[section.name] = made if neuron is None else self.add_neuron(section, neuron, made)

    def add_neuron(self, section: _Section, neuron: Layer, made: _Made) -> _Made:
        logistic = isinstance(neuron, Activation) and neuron.activation == "sigmoid"
        after = self.add(section, neuron, [made], made.tower)
        return replace(after, before_neuron=made.node if logistic else "")

    def neuron(self, section: _Section, text: str, node: str) -> Layer | None:
        """The neuron as a layer of the name ``node``; None for ident."""
        match = re.fullmatch(r"([a-z]+)\s*(?:\[([^\]]*)\])?", text)
        name, arguments = (match[1], match[2]) if match else (text, None)
        if name not in NEURONS:
            raise section.error(f"unknown neuron {_short(text)}{nearest(name, NEURONS)}", "neuron")
        values = [_number(word.strip()) for word in arguments.split(",")] if arguments is not None else []
        if len(values) != NEURONS[name] or None in values or (name == "drelu" and values == [0]):
            form = name + f"[{', '.join('ab'[: NEURONS[name]])}]" * (NEURONS[name] > 0)
            raise section.error(f"neuron: expected {form} with numbers, got {_short(text)}", "neuron")
        if name == "ident":
            return None
        if name in ("relu", "logistic"):
            return Activation(node, "relu" if name == "relu" else "sigmoid")
        return NoisyReLU(node) if name == "nrelu" else Pointwise(node, name, *(v for v in values if v is not None))

    # ------------------------------------------------------------------------------------------ layers with weights

    def learns(self, section: _Section, inputs: int) -> list[Rates]:
        """The rates of the weights of each input; those of the biases in each."""
        learning = self.learning(section)
        if not learning.entries:
            near = nearest(section.name, self.parameters)
            raise section.error(f"{self.names[1]} does not say how the layer learns: no section [{section.name}]{near}")
        for key in ("initWFunc", "initBFunc", "initCFunc"):
            if section.has(key):
                self.not_applied[key] = None
        for key in _NOT_APPLIED:
            if learning.has(key) and not all(word == "default" or _number(word) == 0 for word in learning.texts(key)):
                self.not_applied[key] = None
        if section.has("weightSource"):
            raise section.error("weightSource: weights that layers share are not supported", "weightSource")
        lr = learning.numbers("epsW", inputs, low=0)
        momentum = learning.numbers("momW", inputs, low=0, high=0.999999)
        decay = learning.numbers("wc", inputs, [0.0] * inputs, low=0)
        biases = learning.number("epsB", low=0), learning.number("momB", low=0, high=0.999999)
        return [Rates(*weights, *biases) for weights in zip(lr, momentum, decay, strict=True)]

    def weigh(
        self,
        section: _Section,
        parts: Sequence[tuple[Conv2d | Local2d | Linear, _Made]],
        bias_shape: Shape,
        joined: bool,
    ) -> None:
        """Nodes for a layer with weights: its one part, or with ``joined`` the sum of its parts, with the biases."""
        rates, tower = self.learns(section, len(parts)), self.tower(section, [made for _, made in parts])
        bias = init.constant(section.number("initB", 0))
        if not joined:
            ((layer, made),) = parts
            self.rates[section.name] = rates[0]
            self.finish(section, replace(layer, bias=bias), [made], tower)
            return
        outputs = []
        for (layer, made), rate in zip(parts, rates, strict=True):
            self.rates[layer.name] = rate
            outputs.append(self.add(section, layer, [made], tower))
        if len({made.shape for made in outputs}) != 1:
            got = " and ".join("x".join(map(str, made.shape)) for made in outputs)
            raise section.error(f"expected inputs that give outputs of one shape, got {got}")
        self.rates[section.name] = rates[0]
        total = WeightedSum(section.name, (1.0,) * len(parts), bias_shape, bias=bias)
        self.finish(section, total, outputs, tower)

    def convolution(self, section: _Section) -> None:
        local = section.text("type") == "local"
        inputs = self.activations(section)
        n = len(inputs)
        channels, sizes, filters = (section.integers(key, n) for key in ("channels", "filterSize", "filters"))
        paddings, strides = section.integers("padding", n, [0] * n, 0), section.integers("stride", n, [1] * n)
        groups, sparse = section.integers("groups", n, [1] * n), section.flags("randSparse", n)
        default = [max(1, c // g) for c, g in zip(channels, groups, strict=True)]
        seen = section.integers("filterChannels", n, default) if any(sparse) else default
        stds = section.numbers("initW", n, [0.01] * n)
        shared = not local and section.flag("sharedBiases", True)
        joined = n > 1 or not (shared or local)
        parts: list[tuple[Conv2d | Local2d | Linear, _Made]] = []
        for i, made in enumerate(inputs):
            self.check_image(section, made, channels[i])
            name = f"{section.name}[{i}]" if joined else section.name
            if sparse[i]:
                if groups[i] * seen[i] % channels[i]:
                    raise section.error(
                        f"filterChannels: expected {groups[i]} groups of them to be a multiple of the {channels[i]} "
                        f"channels, got {seen[i]}",
                        "filterChannels",
                    )
                taken = RandomChannels(f"{name}_channels", groups[i] * seen[i] // channels[i])
                made = self.add(section, taken, [made], self.tower(section, inputs))
            elif channels[i] % groups[i]:
                raise section.error(f"groups: expected a divisor of {channels[i]} channels, got {groups[i]}", "groups")
            window = name, sizes[i], strides[i], paddings[i], True, filters[i] * groups[i], groups[i], None
            kind = Local2d if local else Conv2d
            parts.append((kind(*window, weight=init.normal(stds[i]), bias=None), made))
            begins = made.shape[0] + paddings[i] - 1  # the last window does so in the image, or before
            count = 1 + max(0, -(-(made.shape[0] + 2 * paddings[i] - sizes[i]) // strides[i]))
            if (count - 1) * strides[i] > begins:
                raise section.error("expected windows that begin in the image, got one beyond", "stride")
        try:
            output = parts[0][0].output(parts[0][1].shape)
        except ValueError as e:
            raise section.error(str(e)) from None
        self.weigh(section, parts, output[2:] if shared else output, joined)

    def fully_connected(self, section: _Section) -> None:
        inputs, outputs = self.activations(section), section.integer("outputs")
        stds = section.numbers("initW", len(inputs), [0.01] * len(inputs))
        joined = len(inputs) > 1
        parts: list[tuple[Conv2d | Local2d | Linear, _Made]] = []
        for i, (made, std) in enumerate(zip(inputs, stds, strict=True)):
            name = f"{section.name}[{i}]" if joined else section.name
            layer = Linear(name, outputs, None, weight=init.normal(std), bias=None)
            parts.append((layer, self.flat(section, made)))
        self.weigh(section, parts, (outputs,), joined)

    def flat(self, section: _Section, made: _Made) -> _Made:
        """The output as a vector: that of a node which all share that need it."""
        if len(made.shape) == 1:
            return made
        name = f"{made.node or 'images'}_flat"
        if name in self.nodes:
            return replace(made, node=name, shape=self.nodes[name].row.output)
        return self.add(section, Flatten(name), [made], made.tower)

    # ------------------------------------------------------------------------------------------ layers without

    def data(self, section: _Section) -> None:
        labels = section.integer("dataIdx", low=0, high=1) == 1
        made = _Made("", () if labels else (self.size, self.size, 3), -1, "labels" if labels else "data")
        self.made[section.name] = made

    def pool(self, section: _Section) -> None:
        made, size, stride = self.image(section), section.integer("sizeX"), section.integer("stride")
        if stride > size:
            raise section.error(f"stride: expected at most sizeX, {size}, got {stride}", "stride")
        section.integer("start", 0, 0, 0)
        kinds = {"max": MaxPool2d, "avg": AvgPool2d}
        pool = section.text("pool")
        if pool not in kinds:
            raise section.error(f"pool: expected max or avg, got {_short(pool)}", "pool")
        self.finish(section, kinds[pool](section.name, size, stride, 0, True), [made])
        got, expected = section.integer("outputsX", 0, 0), self.made[section.name].shape[0]
        if got not in (0, expected):
            raise section.error(f"outputsX: expected {expected}, got {got}", "outputsX")

    def norm(self, section: _Section) -> None:
        made, kind, learning = self.image(section), section.text("type"), self.learning(section)
        across = kind == "cmrnorm"
        highest = made.shape[2 if across else 0]
        size = section.integer("size" if section.has("size") else "sizeX", high=highest)
        scale, power, k = (
            (learning if learning.has(key) or not section.has(key) else section).number(key, default, low)
            for key, default, low in (("scale", None, 0), ("pow", None, 0), ("minDiv", 1.0, 1e-30))
        )
        layer: Layer
        if across and section.flag("blocked"):
            if made.shape[2] % size:
                raise section.error(f"size: expected a divisor of the {made.shape[2]} channels, got {size}", "size")
            # a window that from any channel reaches all of its block
            layer = Lrn(section.name, 2 * size - 1, k, scale / size, power, made.shape[2] // size)
        elif across:
            layer = Lrn(section.name, size, k, scale / size, power)
        else:
            normal = SpatialLrn if kind == "rnorm" else ContrastNorm
            layer = normal(section.name, size, 1.0, scale / size**2, power)
        self.finish(section, layer, [made])

    def neuron_layer(self, section: _Section) -> None:
        (made,) = self.activations(section, 1)
        neuron = self.neuron(section, section.text("neuron"), section.name)
        made = replace(made, tower=self.tower(section, [made]), type="neuron")
        self.made[section.name] = made if neuron is None else self.add_neuron(section, neuron, made)

    def eltsum(self, section: _Section) -> None:
        inputs = self.inputs(section)
        coefficients = section.numbers("coeffs", len(inputs), [1.0] * len(inputs))
        predicted = [made for made in inputs if made.type != "labels"]
        if len(predicted) == 1 and sorted(coefficients) == [-1, 1]:  # labels minus predictions, for a cost
            if section.has("neuron"):
                raise section.error("neuron: expected none after labels", "neuron")
            self.made[section.name] = replace(predicted[0], type="difference", before_neuron="")
            return
        inputs = self.activations(section)
        self.check_equal(section, inputs)
        self.finish(section, WeightedSum(section.name, tuple(coefficients)), inputs)

    def check_equal(self, section: _Section, inputs: Sequence[_Made]) -> None:
        if len({made.shape for made in inputs}) != 1:
            got = " and ".join("x".join(map(str, made.shape)) for made in inputs)
            raise section.error(f"inputs: expected equal shapes, got {got}", "inputs")

    def concat(self, section: _Section) -> None:
        inputs = self.activations(section)
        joined: Shape = (sum(math.prod(made.shape) for made in inputs),)
        if all(len(made.shape) == 3 and made.shape[:2] == inputs[0].shape[:2] for made in inputs):
            joined = *inputs[0].shape[:2], sum(made.shape[2] for made in inputs)
        self.finish(section, Concat(section.name, joined), inputs)

    def dropout(self, section: _Section) -> None:
        (made,) = self.activations(section, 1)
        keep = section.number("keep", low=1e-6, high=1)
        enabled = self.learning(section).flag("enable", True)
        layer = Dropout(section.name, 1 - keep) if enabled else WeightedSum(section.name, (keep,))
        self.finish(section, layer, [made])

    def blur(self, section: _Section) -> None:
        made, size = self.image(section), section.integer("filterSize")
        if size not in (3, 5, 7, 9) or size > made.shape[0]:
            raise section.error(
                f"filterSize: expected 3, 5, 7 or 9 in {made.shape[0]} pixels, got {size}", "filterSize"
            )
        self.finish(section, Blur(section.name, size, section.number("stdev", low=1e-3)), [made])

    def nailbed(self, section: _Section) -> None:
        self.finish(section, Nailbed(section.name, section.integer("stride")), [self.image(section)])

    # ------------------------------------------------------------------------------------------ costs

    def softmax(self, section: _Section) -> None:
        (made,) = self.activations(section, 1)
        self.made[section.name] = replace(made, type="softmax", before_neuron="")

    def labelled(self, section: _Section) -> _Made:
        """The second input of a cost whose first is the labels."""
        labels, made = self.inputs(section, 2)
        if labels.type != "labels":
            raise section.error("inputs: expected the labels (data of dataIdx 1) first", "inputs")
        return made

    def set_cost(self, section: _Section, cost: nn.Cost, made: _Made, output: str) -> None:
        if self.cost:
            raise section.error(f"expected one cost, got another in [{self.cost[1]}]")
        if self.learning(section).number("coeff", 1.0) != 1:
            raise self.learning(section).error("coeff: expected 1", "coeff")
        if len(made.shape) != 1:
            raise section.error(
                f"inputs: expected a number for each class, got {'x'.join(map(str, made.shape))}", "inputs"
            )
        self.cost = cost, section.name, output

    def logreg(self, section: _Section) -> None:
        made = self.labelled(section)
        if made.type != "softmax":
            raise section.error(f"inputs: expected a softmax second, got {made.type}", "inputs")
        self.set_cost(section, "softmax", made, made.node)

    def crossent(self, section: _Section) -> None:
        made = self.labelled(section)
        if not made.before_neuron:
            raise section.error("inputs: expected a layer with logistic neurons second", "inputs")
        self.set_cost(section, "logistic", made, made.before_neuron)

    def squares(self, section: _Section) -> None:
        (made,) = self.inputs(section, 1)
        if made.type != "difference":
            raise section.error("inputs: expected an eltsum of labels and predictions with coeffs 1 and -1", "inputs")
        self.set_cost(section, "squares", made, made.node)
