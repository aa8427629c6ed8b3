"""Graphs as networks: for any inputs, once; and as a module of layers that trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ... import nn, ops
from ...files import WeightsError
from ...tensor import Tensor, no_grad
from ..graph import MOST_OUTPUTS, MOST_PARAMETERS
from .graph import Blank, Graph, Node
from .layers import ACTIVATIONS, kept
from .operators import TABLE, Result, called, checked
from .values import Call, Operand, Value

LARGEST_IMAGE = 4096
CHANNELS = (1, 3)
"""Of images."""


def run(graph: Graph, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The graph's outputs for its inputs, as ONNX has them, channels first. WeightsError for what is not read."""
    held: dict[str, Operand] = dict(graph.arrays)
    for name in graph.inputs:
        if name not in inputs:
            raise graph.error(f"expected an array for input {name!r}, got {', '.join(inputs) or 'none'}")
        array = np.asarray(inputs[name])
        held[name] = Value(Tensor(np.asarray(array, order="C"))) if array.dtype == np.float32 else array
    with no_grad():
        for node in graph.nodes:
            call = Call(graph, node, [held[name] if name else None for name in node.inputs], checked(graph, node))
            make = TABLE[node.operator].make
            if make and (module := make(call)):
                call.module = module.train(_trains(call))
            _put(held, node, called(call))
    return [_array(held[name]) for name in graph.outputs]


def _trains(call: Call) -> bool:
    """Whether a node says that it computes as in training."""
    if call.node.operator == "Dropout":
        return call.input(2) is not None and bool(call.known(2).any())
    return bool(call.attributes.get("training_mode"))


def _array(x: Operand) -> np.ndarray:
    assert isinstance(x, Value | np.ndarray)
    return x.plain().numpy() if isinstance(x, Value) else x


def _put(held: dict[str, Operand], node: Node, results: Sequence[Result]) -> None:
    held.update((name, x) for name, x in zip(node.outputs, results, strict=False) if name)


def classifier(graph: Graph) -> Graph:
    """The part of a graph that gives logits for images: without a softmax at the end, and without outputs that nobody
    uses. WeightsError for a graph that has not one input of images and one output."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        got = f"{', '.join(graph.inputs) or 'none'} and {', '.join(graph.outputs) or 'none'}"
        raise graph.error(f"expected one input and one output, got {got}")
    ((name, shape),) = graph.inputs.items()
    if len(shape) != 4:
        raise graph.error(f"input {name!r}: expected images, of four axes, got shape {shape}")
    image_size(graph)
    last = next((node for node in graph.nodes if graph.outputs[0] in node.outputs), None)
    if last is None:
        raise graph.error(f"expected an output that is computed, got {graph.outputs[0]!r}")
    if last.operator in ("Softmax", "LogSoftmax") and last.attributes.get("axis", -1) in (-1, 1):
        nodes = tuple(node for node in graph.nodes if node is not last)
        graph = replace(graph, outputs=(last.inputs[0],), nodes=nodes)
    needed, kept = set(graph.outputs), list[Node]()
    for node in reversed(graph.nodes):
        outputs = tuple(name if name in needed else "" for name in node.outputs)
        if any(outputs):
            kept.append(replace(node, outputs=outputs))
            needed.update(node.inputs)
    arrays = {name: array for name, array in graph.arrays.items() if name in needed}
    return replace(graph, nodes=tuple(reversed(kept)), arrays=arrays)


def channels_last(graph: Graph) -> bool:
    """Whether its images come as (N, H, W, C): if that has 1 or 3 channels and (N, C, H, W) would not."""
    ((_, shape),) = graph.inputs.items()
    return shape[3] in CHANNELS and shape[1] not in CHANNELS


def image_size(graph: Graph) -> tuple[int, int, int]:
    """Height, width and channels of its images. WeightsError where the file leaves them open, or they are too large."""
    ((name, shape),) = graph.inputs.items()
    sizes = shape[1:] if channels_last(graph) else (*shape[2:], shape[1])
    if any(n is None or not 1 <= n <= LARGEST_IMAGE for n in sizes):
        raise graph.error(
            f"input {name!r}: expected height, width and channels from 1 to {LARGEST_IMAGE}, got shape {shape}"
        )
    H, W, C = (int(n or 0) for n in sizes)
    return H, W, C


class Network(nn.Module):
    """The network of a ``classifier``: images (N, H, W, C) -> logits (N, classes), also where the graph has them as
    images of one pixel. Its layers are called as the graph's nodes. The arrays of nodes of which ``Graph.trains`` says
    so are parameters, others are buffers. Weights that the graph does not have are drawn."""

    def __init__(self, graph: Graph) -> None:
        """WeightsError for what is not read."""
        super().__init__()
        total = sum(math.prod(array.shape) for array in graph.arrays.values())
        if total > MOST_PARAMETERS:
            raise graph.error(f"expected arrays of at most {MOST_PARAMETERS:,} numbers, got {total:,}")
        self._graph, self._modules = graph, dict[str, str]()
        self._attributes = {node.name: checked(graph, node) for node in graph.nodes}
        self._skipped = set[str]()
        ((self._input, shape),) = graph.inputs.items()
        self._last, self._said = not channels_last(graph), shape[0]
        users, shared = graph.users(), dict[tuple[Any, ...], nn.Parameter]()
        for node in graph.nodes:
            if node.name not in self._skipped:
                self._add(node, users, shared)
        self._last_use = {name: node.name for node in graph.nodes for name in node.inputs}

    def _add(self, node: Node, users: Mapping[str, Sequence[Node]], shared: dict[Any, nn.Parameter]) -> None:
        """Makes a node's layer, with the bias and the activation function that follow it alone. One array of the file
        that layers use alike is one parameter, in ``shared``."""
        graph, make = self._graph, TABLE[node.operator].make
        call = Call(graph, node, [graph.arrays.get(name) for name in node.inputs], self._attributes[node.name])
        try:
            module = make(call) if make else None
        except WeightsError:
            raise
        except (ValueError, TypeError) as e:
            raise call.error(str(e)) from e
        if module is None:
            return
        last = node
        if isinstance(module, nn.Linear) and (found := graph.added(node, users)):
            last, bias = found[0], graph.arrays[found[1]]
            module.b = nn.Parameter(kept(bias if isinstance(bias, Blank) else call.floats(bias), 0).ravel())
            self._skipped.add(last.name)
        if isinstance(module, nn.Linear | nn.Conv2d):
            following = graph.follower(last, users)
            if following and following.operator in ACTIVATIONS:
                module.activation = ACTIVATIONS[following.operator][0]
                self._skipped.add(following.name)
        name = node.name
        while hasattr(self, name):
            name += "_"
        self._modules[node.name] = name
        setattr(self, name, module)
        for array, p in list(module.named_parameters()):
            if source := node.input({"w": 1, "b": 2, "gamma": 1, "beta": 2}.get(array, len(node.inputs))):
                factors = [call.attributes.get(name) for name in ("transB", "alpha", "beta")]
                key = source, node.operator, array, *factors, p.shape
                setattr(module, array, shared.setdefault(key, p))

    def forward(self, x: Tensor) -> Tensor:
        """The logits of images x. WeightsError for images of a size that the graph does not take."""
        graph = self._graph
        held: dict[str, Operand] = {**graph.arrays, self._input: Value(x, self._last)}
        for node in graph.nodes:
            inputs = [held[name] if name else None for name in node.inputs]
            if node.name in self._skipped:
                made: Sequence[Result] = [next(v for v in inputs if isinstance(v, Value))]
            else:
                module = getattr(self, self._modules[node.name]) if node.name in self._modules else None
                attributes = self._attributes[node.name]
                made = called(Call(graph, node, inputs, attributes, module, (x.shape[0], self._said)))
            for y in made:
                if math.prod(y.shape) > MOST_OUTPUTS * x.shape[0]:
                    raise graph.error(f"expected at most {MOST_OUTPUTS:,} values an image, got {y.shape}", node)
            _put(held, node, made)
            for name in node.inputs:
                if self._last_use[name] == node.name and name not in graph.outputs:
                    held.pop(name, None)
        found = held[graph.outputs[0]]
        if not isinstance(found, Value):
            raise graph.error(f"expected an output that is computed from the images, got {graph.outputs[0]!r}")
        logits = found.plain()
        return ops.flatten(logits) if logits.shape[2:] == (1, 1) else logits
