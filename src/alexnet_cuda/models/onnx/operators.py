"""Which operators there are, and what each node of a file has to look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import nn
from ...files import WeightsError
from ...suggest import nearest
from .graph import Graph, Node
from .values import Call, Known, Value

OPSETS = range(7, 29)
"""Of ONNX's own operators."""
DOMAINS = {"": OPSETS, "ai.onnx": OPSETS, "ai.onnx.preview.training": range(1, 2)}
Result = Value | Known
Apply = Callable[[Call], Result | Sequence[Result]]
Make = Callable[[Call], nn.Module | None]
KINDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "whole numbers",
    np.ndarray: "a tensor",
}


@dataclass(frozen=True)
class Operator:
    """``apply`` computes, with the layer that ``make`` makes, if any, of what the file has. attributes: their defaults,
    or their types where they have none; inputs: the fewest and the most; outputs: the most."""

    apply: Apply
    make: Make | None
    attributes: Mapping[str, Any]
    inputs: tuple[int, int]
    outputs: int


TABLE: dict[str, Operator] = {}
MANY = 2**31


def operator(
    *names: str, inputs: tuple[int, int] = (1, 1), outputs: int = 1, make: Make | None = None, **attributes: Any
) -> Callable[[Apply], Apply]:
    """Puts the function that it decorates into the table."""

    def put(apply: Apply) -> Apply:
        TABLE.update(dict.fromkeys(names, Operator(apply, make, attributes, inputs, outputs)))
        return apply

    return put


def checked(graph: Graph, node: Node) -> dict[str, Any]:
    """The attributes of a node, with defaults. WeightsError for an operator that is not read, for inputs and outputs
    that it does not have, and for attributes that it does not have or that are of another type."""
    known = TABLE.get(node.operator)
    if known is None:
        hint = nearest(node.operator, TABLE)
        raise graph.error(f"expected an operator that is read, got {node.operator}{hint} (models.onnx.TABLE)", node)
    least, most = known.inputs
    if not least <= len(node.inputs) <= most or not all(node.inputs[:least]):
        expected = f"{least} to {most}" if most != MANY else f"at least {least}"
        raise graph.error(f"expected {expected} inputs, got {len(node.inputs)}", node)
    if sum(map(bool, node.outputs[known.outputs :])) or not node.outputs[0]:
        raise graph.error(f"expected {known.outputs} of its outputs to be used, got {', '.join(node.outputs)}", node)
    made = {name: None if isinstance(value, type) else value for name, value in known.attributes.items()}
    for name, value in node.attributes.items():
        if name not in known.attributes:
            listed = ", ".join(known.attributes) or "none"
            raise graph.error(f"attribute: expected one of {listed}, got {name}{nearest(name, known.attributes)}", node)
        default = known.attributes[name]
        kind = default if isinstance(default, type) else type(default)
        right = type(value) is kind or (kind is float and type(value) is int)
        if not right or (kind is list and not all(type(entry) is int for entry in value)):
            raise graph.error(f"attribute {name}: expected {KINDS[kind]}, got {value!r}", node)
        made[name] = value
    return made


def called(call: Call) -> Sequence[Result]:
    """A node's results. WeightsError, naming the node, for what its operator does not take."""
    try:
        made = TABLE[call.node.operator].apply(call)
    except WeightsError:
        raise
    except (ValueError, TypeError, IndexError, OverflowError) as e:
        raise call.error(str(e)) from e
    return [made] if isinstance(made, Value | np.ndarray) else made
