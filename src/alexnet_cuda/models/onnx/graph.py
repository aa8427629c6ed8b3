"""A graph of ONNX as plain data: nodes in the order in which they run, and arrays. Its text is without the weights."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...files import WeightsError
from ..graph import MOST_PARAMETERS

MOST_NODES = 10**4
MOST_KEPT = 2**16
"""Numbers of arrays that a text has in full."""
LARGEST_NUMBER = 2**31 - 1
"""Of attributes and sizes."""
MOST_FLOATS = 2**14
"""That a text has of all arrays together which are not trained."""
MOST_BETWEEN = 4
"""Nodes that only move values, between a product and its bias."""
WEIGHTED = ("Conv", "Gemm", "MatMul")


class Blank(NamedTuple):
    """An array whose values are elsewhere, or yet to be drawn."""

    shape: tuple[int, ...]


Held = NDArray[Any] | Blank


@dataclass(frozen=True)
class Node:
    """One operator at work; "" among the inputs is one left out. ``name`` is an identifier, and unique."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def input(self, place: int) -> str:
        """The name of an input, "" where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else ""


@dataclass(frozen=True)
class Graph:
    """``file`` is for messages. inputs: names and shapes, whose sizes are None where a file leaves them open; opset:
    that of ONNX's own operators; classes: their names, if the file has them."""

    file: str
    opset: int
    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    arrays: Mapping[str, Held]
    classes: tuple[str, ...] = ()

    def error(self, text: str, node: Node | None = None) -> WeightsError:
        """What is wrong, and where."""
        where = f": node {node.name} ({node.operator})" if node else ""
        return WeightsError(f"{self.file}{where}: {text}")

    def check(self) -> None:
        """WeightsError for a value that comes twice, or is used before it comes, as in a cycle; for too many nodes."""
        if len(self.nodes) > MOST_NODES:
            raise self.error(f"expected at most {MOST_NODES:,} nodes, got {len(self.nodes):,}")
        known = {"", *self.arrays, *self.inputs}
        for node in self.nodes:
            for name in node.inputs:
                if name not in known:
                    raise self.error(f"expected an input that comes before it, got {name!r}", node)
            for name in node.outputs:
                if name and name in known:
                    raise self.error(f"expected a name of its own for its output, got {name!r} again", node)
                known.add(name)
        for name in self.outputs:
            if name not in known or not name:
                raise self.error(f"expected an output that a node makes, got {name!r}")

    @cached_property
    def makers(self) -> dict[str, Node]:
        """The node that makes each value."""
        return {name: node for node in self.nodes for name in node.outputs}

    def trains(self, node: Node) -> bool:
        """Whether the arrays that a node takes are trained: of layers, and those that are added to what came of a
        product with weights, perhaps in another shape."""
        if node.operator in (*WEIGHTED, "BatchNormalization", "PRelu"):
            return True
        maker = next((self.makers[name] for name in node.inputs if name in self.makers), None)
        for _ in range(MOST_BETWEEN):
            if maker and maker.operator in ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity"):
                maker = self.makers.get(maker.inputs[0])
        return node.operator == "Add" and maker is not None and maker.operator in WEIGHTED

    def users(self) -> dict[str, list[Node]]:
        """The nodes that use each value."""
        users: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                users.setdefault(name, []).append(node)
        return users

    def follower(self, node: Node, users: Mapping[str, Sequence[Node]]) -> Node | None:
        """The one node that uses a node's result, if it is the only one."""
        (first, *_), found = node.outputs, users.get(node.outputs[0], ())
        return found[0] if len(found) == 1 and first not in self.outputs else None

    def added(self, node: Node, users: Mapping[str, Sequence[Node]]) -> tuple[Node, str] | None:
        """The node that adds a bias to a product with a matrix, and does nothing else, and the bias's name."""
        following = self.follower(node, users)
        if node.operator != "MatMul" or following is None or following.operator != "Add":
            return None
        others = [name for name in following.inputs if name != node.outputs[0]]
        matrix, bias = self.arrays.get(node.input(1)), self.arrays.get(others[0]) if others else None
        if matrix is None or bias is None or len(matrix.shape) != 2:
            return None
        return (following, others[0]) if bias.shape in ((matrix.shape[1],), (1, matrix.shape[1])) else None

    def head(self) -> Node:
        """The last layer with weights. WeightsError where there is none."""
        weighted = [node for node in self.nodes if node.operator in WEIGHTED and node.input(1) in self.arrays]
        if not weighted:
            raise self.error(f"expected {' or '.join(WEIGHTED)} with weights of the file, got none")
        return weighted[-1]

    def outputs_of(self, node: Node) -> int:
        """How many features a layer with weights makes. WeightsError for weights of another shape."""
        shape = self.arrays[node.input(1)].shape
        if len(shape) != (4 if node.operator == "Conv" else 2):
            raise self.error(f"expected weights of {4 if node.operator == 'Conv' else 2} axes, got {shape}", node)
        return shape[1] if node.operator != "Conv" and not node.attributes.get("transB") else shape[0]

    def with_classes(self, classes: int) -> Graph:
        """The graph with ``classes`` outputs: those of the last layer with weights, which are to be drawn anew with its
        bias. WeightsError where there is none."""
        head = self.head()
        self.outputs_of(head)
        shape = list(self.arrays[head.input(1)].shape)
        shape[0 if head.operator == "Conv" or head.attributes.get("transB") else 1] = classes
        changed: dict[str, Held] = {head.input(1): Blank(tuple(shape))}
        bias = self.added(head, self.users())
        if name := bias[1] if bias else head.input(2):
            changed[name] = Blank((classes,))
        return replace(self, arrays={**self.arrays, **changed}, classes=())

    def text(self) -> str:
        """The graph as JSON; of arrays that are trained, and of many floats, only the shapes."""
        trained = {name for node in self.nodes if self.trains(node) for name in node.inputs}
        arrays, left = dict[str, list[Any]](), MOST_FLOATS
        for name, array in self.arrays.items():
            whole = not isinstance(array, Blank) and array.dtype.kind in "iub"
            size = math.prod(array.shape)
            keeps = whole or size == 1 or (name not in trained and size <= left)
            left -= size if keeps and not whole else 0
            arrays[name] = _described(array, keeps)
        kept = {
            "opset": self.opset,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "outputs": self.outputs,
            "classes": self.classes,
            "nodes": [[n.name, n.operator, n.inputs, n.outputs, n.attributes] for n in self.nodes],
            "arrays": arrays,
        }
        return json.dumps(kept, separators=(",", ":")).replace('],["', '],\n["')


def _described(array: Held, keeps: bool) -> list[Any]:
    if isinstance(array, Blank) or not keeps:
        return [list(array.shape)]
    kind = array.dtype.name if array.dtype.kind in "iub" else "float32"
    return [list(array.shape), kind, array.astype(kind).ravel().tolist()]


def parsed(text: str, file: str) -> Graph:
    """The graph of a ``Graph.text``. WeightsError for what is none."""
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise WeightsError(f"{file}: expected the text of a graph, got no JSON: {e}") from None
    try:
        arrays = {_text(name): _array(*entry) for name, entry in table["arrays"].items()}
        total = sum(math.prod(array.shape) for array in arrays.values())
        if total > MOST_PARAMETERS:
            raise ValueError(f"at most {MOST_PARAMETERS:,} numbers in arrays, got {total:,}")
        graph = Graph(
            file,
            _size(table["opset"]),
            {_text(name): tuple(None if n is None else _size(n) for n in s) for name, s in table["inputs"].items()},
            tuple(map(_text, table["outputs"])),
            tuple(_node(*entry) for entry in table["nodes"]),
            arrays,
            tuple(map(_text, table["classes"])),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as e:
        raise WeightsError(f"{file}: expected the text of a graph, with opset, inputs and so on: {e}") from None
    if len({node.name for node in graph.nodes}) != len(graph.nodes):
        raise graph.error("expected nodes of different names")
    graph.check()
    return graph


def _array(shape: list[Any], kind: str = "", values: Sequence[Any] = ()) -> Held:
    sizes = tuple(map(_size, shape))
    if not kind:
        return Blank(sizes)
    if kind != "float32" and np.dtype(kind).kind not in "iub":
        raise ValueError(f"arrays of float32 and whole numbers, got {kind}")
    if math.prod(sizes) != len(values) or len(values) > MOST_KEPT:
        raise ValueError(f"{math.prod(sizes)} numbers, got {len(values)}")
    return np.array(values, kind).reshape(sizes)


def _node(name: str, operator: str, inputs: list[str], outputs: list[str], attributes: dict[str, Any]) -> Node:
    if not re.fullmatch(r"\w+", _text(name)):
        raise ValueError(f"a name of letters and digits for a node, got {name!r}")
    if not outputs:
        raise ValueError(f"an output of node {name}")
    return Node(name, _text(operator), tuple(map(_text, inputs)), tuple(map(_text, outputs)), dict(attributes))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a name, got {value!r}")
    return value


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST_NUMBER:
        raise ValueError(f"a size, got {value!r}")
    return value


def named(wanted: Sequence[str], operators: Sequence[str]) -> Iterator[str]:
    """Identifiers, each another, of nodes that a file calls by these names or by none: then by their operator."""
    taken, numbers = set[str](), Counter[str]()
    for name, operator in zip(wanted, operators, strict=True):
        kind = SHORT.get(operator, operator.rpartition(".")[2].lower())
        short = re.sub(r"\W+", "_", name or kind, flags=re.ASCII).strip("_") or "node"
        short = short if short[0].isalpha() else f"n{short}"
        found = short if name else ""
        while not found or found in taken:
            numbers[short] += 1
            found = f"{short}{numbers[short]}"
        taken.add(found)
        yield found


SHORT = {"Gemm": "fc", "MaxPool": "pool", "AveragePool": "pool", "BatchNormalization": "norm", "Dropout": "drop"}
"""What nodes without a name are called where it is not by their operator."""
