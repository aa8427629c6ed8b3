"""The types of layers: what each section's keys are, and what becomes of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ... import init, nn
from ...suggest import nearest
from ..graph import MOST_OUTPUTS
from ..layers import (
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
    RandomChannels,
    Shape,
    SpatialLrn,
    WeightedSum,
)
from .builder import Builder, Made
from .network import Rates
from .sections import Section, short, to_number

_WITH_INPUT = "type inputs gpu neuron "
_WEIGHTS = "initW initB initWFunc initBFunc weightSource "
_CONV = "channels filters padding stride filterSize groups randSparse filterChannels initCFunc "
_NORM = "channels size sizeX blocked scale pow minDiv "
_LEARNING = "epsW epsB momW momB wc "
_NOT_APPLIED = "wball wcNormMin wcNormMax wcnorm superEps superMom sched schedW schedB quantF quantB updatePeriod "
_LEARNING += _NOT_APPLIED

_SCHEDULE = re.compile(r"(const|linear|exp|dexp)\[\s*base\s*=([^];,]*)[^],]*\]", re.IGNORECASE)
"""cuda-convnet2's, as in dexp[base=0.02;tgtFactor=250;numSteps=4]."""


def learns(builder: Builder, section: Section, inputs: int) -> list[Rates]:
    """The rates of the weights of each input; those of the biases in each."""
    learning = builder.learning(section)
    if not learning.entries:
        near = nearest(section.name, builder.parameters)
        raise section.error(f"{builder.names[1]} does not say how the layer learns: no section [{section.name}]{near}")
    for key in ("initWFunc", "initBFunc", "initCFunc"):
        if section.has(key):
            builder.not_applied[key] = None
    for key in _NOT_APPLIED.split():
        if learning.has(key) and not all(word == "default" or to_number(word) == 0 for word in learning.texts(key)):
            builder.not_applied[key] = None
    if section.has("weightSource"):
        raise section.error("weightSource: weights that layers share are not supported", "weightSource")
    learning = begun(builder, learning, inputs)
    lr = learning.numbers("epsW", inputs, low=0)
    momentum = learning.numbers("momW", inputs, low=0, high=0.999999)
    decay = learning.numbers("wc", inputs, [0.0] * inputs, low=0)
    biases = learning.number("epsB", low=0), learning.number("momB", low=0, high=0.999999)
    return [Rates(*weights, *biases) for weights in zip(lr, momentum, decay, strict=True)]


def begun(builder: Builder, learning: Section, inputs: int) -> Section:
    """The section with the rates that schedules begin with in place of these; one schedule is for all inputs."""
    entries = dict(learning.entries)
    for key, count in (("epsW", inputs), ("epsB", 1)):
        text, line = entries.get(key.lower(), ("", 0))
        kinds = {kind.lower() for kind, _ in _SCHEDULE.findall(text)}
        if kinds:
            rates = _SCHEDULE.sub(r"\2", text)
            entries[key.lower()] = ",".join([rates] * (1 if "," in rates else count)), line
        if kinds - {"const"}:
            builder.not_applied[f"schedule of {key}"] = None
    return replace(learning, entries=entries)


def weigh(
    builder: Builder,
    section: Section,
    parts: Sequence[tuple[Conv2d | Local2d | Linear, Made]],
    bias_shape: Shape,
    joined: bool,
) -> None:
    """Nodes for a layer with weights: its one part, or with ``joined`` the sum of its parts, with the biases."""
    rates, tower = learns(builder, section, len(parts)), builder.tower(section, [made for _, made in parts])
    bias = init.constant(section.number("initB", 0))
    if not joined:
        ((layer, made),) = parts
        builder.rates[section.name] = rates[0]
        builder.finish(section, replace(layer, bias=bias), [made], tower)
        return
    outputs = []
    for (layer, made), rate in zip(parts, rates, strict=True):
        builder.rates[layer.name] = rate
        outputs.append(builder.add(section, layer, [made], tower))
    if len({made.shape for made in outputs}) != 1:
        got = " and ".join("x".join(map(str, made.shape)) for made in outputs)
        raise section.error(f"expected inputs that give outputs of one shape, got {got}")
    builder.rates[section.name] = rates[0]
    total = WeightedSum(section.name, (1.0,) * len(parts), bias_shape, bias=bias)
    builder.finish(section, total, outputs, tower)


def convolution(builder: Builder, section: Section) -> None:
    local = section.text("type") == "local"
    inputs = builder.activations(section)
    n = len(inputs)
    channels, sizes, filters = (section.integers(key, n) for key in ("channels", "filterSize", "filters"))
    paddings, strides = section.integers("padding", n, [0] * n, 0), section.integers("stride", n, [1] * n)
    groups, sparse = section.integers("groups", n, [1] * n), section.flags("randSparse", n)
    default = [max(1, c // g) for c, g in zip(channels, groups, strict=True)]
    seen = section.integers("filterChannels", n, default) if any(sparse) else default
    stds = section.numbers("initW", n, [0.01] * n)
    shared = not local and section.flag("sharedBiases", True)
    joined = n > 1 or not (shared or local)
    parts: list[tuple[Conv2d | Local2d | Linear, Made]] = []
    for i, made in enumerate(inputs):
        builder.check_image(section, made, channels[i])
        name = f"{section.name}[{i}]" if joined else section.name
        if sparse[i]:
            if groups[i] * seen[i] % channels[i]:
                raise section.error(
                    f"filterChannels: expected {groups[i]} groups of them to be a multiple of the {channels[i]} "
                    f"channels, got {seen[i]}",
                    "filterChannels",
                )
            taken = RandomChannels(f"{name}_channels", groups[i] * seen[i] // channels[i])
            made = builder.add(section, taken, [made], builder.tower(section, inputs))
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
    weigh(builder, section, parts, output[2:] if shared else output, joined)


def fully_connected(builder: Builder, section: Section) -> None:
    inputs, outputs = builder.activations(section), section.integer("outputs")
    stds = section.numbers("initW", len(inputs), [0.01] * len(inputs))
    joined = len(inputs) > 1
    parts: list[tuple[Conv2d | Local2d | Linear, Made]] = []
    for i, (made, std) in enumerate(zip(inputs, stds, strict=True)):
        name = f"{section.name}[{i}]" if joined else section.name
        layer = Linear(name, outputs, None, weight=init.normal(std), bias=None)
        parts.append((layer, flat(builder, section, made)))
    weigh(builder, section, parts, (outputs,), joined)


def flat(builder: Builder, section: Section, made: Made) -> Made:
    """The output as a vector: that of a node which all share that need it."""
    if len(made.shape) == 1:
        return made
    name = f"{made.node or 'images'}_flat"
    if name in builder.nodes:
        return replace(made, node=name, shape=builder.nodes[name].row.output)
    return builder.add(section, Flatten(name), [made], made.tower)


def data(builder: Builder, section: Section) -> None:
    labels = section.integer("dataIdx", low=0, high=1) == 1
    if math.prod(builder.images) > MOST_OUTPUTS:
        got = "x".join(map(str, builder.images))
        raise section.error(f"expected images of at most {MOST_OUTPUTS:,} values, got {got}")
    builder.made[section.name] = Made("", () if labels else builder.images, -1, "labels" if labels else "data")


def pool(builder: Builder, section: Section) -> None:
    made, size, stride = builder.image(section), section.integer("sizeX"), section.integer("stride")
    if stride > size:
        raise section.error(f"stride: expected at most sizeX, {size}, got {stride}", "stride")
    section.integer("start", 0, 0, 0)
    kinds, kind = {"max": MaxPool2d, "avg": AvgPool2d}, section.text("pool")
    if kind == "rand":
        if not builder.learning(section).flag("doMax"):
            raise section.error("pool: rand is not supported unless the parameter file has doMax=true for it", "pool")
        kind = "max"
    if kind not in kinds:
        raise section.error(f"pool: expected max or avg, got {short(kind)}", "pool")
    builder.finish(section, kinds[kind](section.name, size, stride, 0, True), [made])
    got, expected = section.integer("outputsX", 0, 0), builder.made[section.name].shape[0]
    if got not in (0, expected):
        raise section.error(f"outputsX: expected {expected}, got {got}", "outputsX")


def norm(builder: Builder, section: Section) -> None:
    made, kind, learning = builder.image(section), section.text("type"), builder.learning(section)
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
        if k != 1:  # cuda-convnet does not read it here
            builder.not_applied[f"minDiv of {kind}"] = None
        normal = SpatialLrn if kind == "rnorm" else ContrastNorm
        layer = normal(section.name, size, 1.0, scale / size**2, power)
    builder.finish(section, layer, [made])


def neuron_layer(builder: Builder, section: Section) -> None:
    (made,) = builder.activations(section, 1)
    neuron = builder.neuron(section, section.text("neuron"), section.name)
    made = replace(made, tower=builder.tower(section, [made]), type="neuron")
    builder.made[section.name] = made if neuron is None else builder.add_neuron(section, neuron, made)


def eltsum(builder: Builder, section: Section) -> None:
    inputs = builder.inputs(section)
    coefficients = section.numbers("coeffs", len(inputs), [1.0] * len(inputs))
    predicted = [made for made in inputs if made.type != "labels"]
    if len(predicted) == 1 and sorted(coefficients) == [-1, 1]:  # labels minus predictions, for a cost
        if section.has("neuron"):
            raise section.error("neuron: expected none after labels", "neuron")
        builder.made[section.name] = replace(predicted[0], type="difference", before_neuron="")
        return
    inputs = builder.activations(section)
    check_equal(builder, section, inputs)
    builder.finish(section, WeightedSum(section.name, tuple(coefficients)), inputs)


def check_equal(builder: Builder, section: Section, inputs: Sequence[Made]) -> None:
    if len({made.shape for made in inputs}) != 1:
        got = " and ".join("x".join(map(str, made.shape)) for made in inputs)
        raise section.error(f"inputs: expected equal shapes, got {got}", "inputs")


def concat(builder: Builder, section: Section) -> None:
    inputs = builder.activations(section)
    joined: Shape = (sum(math.prod(made.shape) for made in inputs),)
    if all(len(made.shape) == 3 and made.shape[:2] == inputs[0].shape[:2] for made in inputs):
        joined = *inputs[0].shape[:2], sum(made.shape[2] for made in inputs)
    builder.finish(section, Concat(section.name, joined), inputs)


def dropout(builder: Builder, section: Section) -> None:
    """hs and dropout2 multiply by keep when they do not drop; dropout does not, but drops to values divided by keep."""
    (made,), kind, learning = builder.activations(section, 1), section.text("type"), builder.learning(section)
    where = learning if learning.has("keep") else section
    keep = where.number("keep", None if kind == "hs" else 0.5, 1e-6, 1)
    layer: Layer
    if learning.flag("enable", True):
        layer = Dropout(section.name, 1 - keep, "inverted" if kind == "dropout" else "paper")
    else:
        layer = WeightedSum(section.name, (1.0 if kind == "dropout" else keep,))
    builder.finish(section, layer, [made])


def blur(builder: Builder, section: Section) -> None:
    made, size = builder.image(section), section.integer("filterSize")
    if size not in (3, 5, 7, 9) or size > made.shape[0]:
        raise section.error(f"filterSize: expected 3, 5, 7 or 9 in {made.shape[0]} pixels, got {size}", "filterSize")
    builder.finish(section, Blur(section.name, size, section.number("stdev", low=1e-3)), [made])


def nailbed(builder: Builder, section: Section) -> None:
    builder.finish(section, Nailbed(section.name, section.integer("stride")), [builder.image(section)])


def softmax(builder: Builder, section: Section) -> None:
    (made,) = builder.activations(section, 1)
    builder.made[section.name] = replace(made, type="softmax", before_neuron="")


def labelled(builder: Builder, section: Section) -> Made:
    """The second input of a cost whose first is the labels."""
    labels, made = builder.inputs(section, 2)
    if labels.type != "labels":
        raise section.error("inputs: expected the labels (data of dataIdx 1) first", "inputs")
    return made


def set_cost(builder: Builder, section: Section, cost: nn.Cost, made: Made, output: str) -> None:
    if builder.cost:
        raise section.error(f"expected one cost, got another in [{builder.cost[1]}]")
    if builder.learning(section).number("coeff", 1.0) != 1:
        raise builder.learning(section).error("coeff: expected 1", "coeff")
    if len(made.shape) != 1:
        raise section.error(f"inputs: expected a number for each class, got {'x'.join(map(str, made.shape))}", "inputs")
    builder.cost = cost, section.name, output


def logreg(builder: Builder, section: Section) -> None:
    made = labelled(builder, section)
    if made.type != "softmax":
        raise section.error(f"inputs: expected a softmax second, got {made.type}", "inputs")
    set_cost(builder, section, "softmax", made, made.node)


def crossent(builder: Builder, section: Section) -> None:
    made = labelled(builder, section)
    if not made.before_neuron:
        raise section.error("inputs: expected a layer with logistic neurons second", "inputs")
    set_cost(builder, section, "logistic", made, made.before_neuron)


def squares(builder: Builder, section: Section) -> None:
    (made,) = builder.inputs(section, 1)
    if made.type != "difference":
        raise section.error("inputs: expected an eltsum of labels and predictions with coeffs 1 and -1", "inputs")
    set_cost(builder, section, "squares", made, made.node)


class LayerType(NamedTuple):
    """What reads a section of the type, and the keys of the section and of its section of parameters."""

    read: Callable[[Builder, Section], None]
    keys: str
    learning: str = ""


TYPES = {
    "data": LayerType(data, "type dataIdx"),
    "conv": LayerType(
        convolution,
        _WITH_INPUT + _WEIGHTS + _CONV + "sharedBiases partialSum sumWidth",
        _LEARNING,
    ),
    "local": LayerType(convolution, _WITH_INPUT + _WEIGHTS + _CONV, _LEARNING),
    "fc": LayerType(fully_connected, _WITH_INPUT + _WEIGHTS + "outputs", _LEARNING),
    "pool": LayerType(pool, _WITH_INPUT + "pool channels sizeX stride start outputsX", "doMax"),
    **dict.fromkeys(("rnorm", "cnorm", "cmrnorm"), LayerType(norm, _WITH_INPUT + _NORM, _NORM)),
    "neuron": LayerType(neuron_layer, _WITH_INPUT),
    "eltsum": LayerType(eltsum, _WITH_INPUT + "coeffs"),
    "concat": LayerType(concat, _WITH_INPUT),
    **dict.fromkeys(("hs", "dropout", "dropout2"), LayerType(dropout, _WITH_INPUT + "keep", "enable keep")),
    "blur": LayerType(blur, _WITH_INPUT + "channels filterSize stdev"),
    "nailbed": LayerType(nailbed, _WITH_INPUT + "channels stride"),
    "softmax": LayerType(softmax, "type inputs gpu"),
    "cost.logreg": LayerType(logreg, "type inputs gpu", "coeff topk"),
    "cost.crossent2": LayerType(crossent, "type inputs gpu", "coeff topk"),
    "cost.sum2": LayerType(squares, "type inputs gpu", "coeff topk"),
}

REFUSED = {
    "treefc": "it needs the tree of classes that came with the data",
    "cost.rflickr": "a cost of one data set",
    "cost.msm": "a cost over sets of classes",
    "cost.crossent": "labels as probabilities",
    "cost.gsum2": "a cost with a gate",
    "cost.tica": "a cost without labels",
    "href": "a layer that mirrors its input",
    **dict.fromkeys(("eltmax", "resize", "rscale", "rgb2yuv", "rgb2lab"), "no file of the release uses it"),
}


def read(builder: Builder, section: Section) -> None:
    """ValueError for an unknown type or key."""
    kind = section.text("type")
    if kind in REFUSED:
        raise section.error(f"type {kind} is not supported: {REFUSED[kind]}", "type")
    if kind not in TYPES:
        raise section.error(f"unknown type {short(kind)}{nearest(kind, TYPES)}", "type")
    for where, keys in ((section, TYPES[kind].keys), (builder.learning(section), TYPES[kind].learning)):
        known = {key.lower(): key for key in keys.split()}
        for key in where.entries:
            if key not in known:
                raise where.error(f"unknown key {key}{nearest(key, known.values())}", key)
    TYPES[kind].read(builder, section)
