"""What a graph does to pixels before its network sees them, as mean and scale: as runs and checkpoints have it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .graph import Blank, Graph, Node
from .network import channels_last, image_size

Floats = NDArray[np.float32]


class Pixels(NamedTuple):
    """The network sees (pixels - ``mean``) ``scale``: (H, W, C) or (C,), and one factor for each channel."""

    mean: Floats
    scale: tuple[float, ...]


def taken_off(graph: Graph) -> tuple[Graph, Pixels | None]:
    """The graph of a ``classifier`` without the sums and products with arrays that it begins with, and what they are;
    None where it has none. They stay where they are no mean and scale of finite numbers."""
    (name,) = graph.inputs
    size, last, users = image_size(graph), channels_last(graph), graph.users()
    mean, scale, gone = np.zeros(1), np.ones(1), list[Node]()
    while following := users.get(name, ()):
        node = following[0]
        array = _constant(graph, node, name, size, last) if len(following) == 1 else None
        if array is None:
            break
        with np.errstate(all="ignore"):
            changed = _changed(node.operator, mean, scale, array)
        if changed is None or not all(np.isfinite(part.astype(np.float32)).all() for part in changed):
            break
        (mean, scale), name = changed, node.outputs[0]
        gone.append(node)
    if not gone or name in graph.outputs:
        return graph, None
    nodes = tuple(node for node in graph.nodes if node not in gone)
    used = {name for node in nodes for name in node.inputs}
    arrays = {key: array for key, array in graph.arrays.items() if key in used}
    (shape,) = graph.inputs.values()
    image = np.broadcast_to(mean, size).astype(np.float32)
    factors = np.broadcast_to(scale, (1, 1, size[2])).astype(np.float32).ravel().tolist()
    found = Pixels(image[0, 0] if (image == image[:1, :1]).all() else image, tuple(factors))
    return replace(graph, inputs={name: shape}, nodes=nodes, arrays=arrays), found


def _constant(graph: Graph, node: Node, x: str, size: tuple[int, int, int], last: bool) -> NDArray[np.float64] | None:
    """The array that a node adds to x or multiplies it with, to broadcast to (H, W, C); 1 for one that only converts;
    None where it does anything else."""
    if node.operator == "Cast" and node.attributes.get("to") == 1:
        return np.ones(1)
    if node.operator not in ("Add", "Sub", "Mul", "Div") or node.inputs.count(x) != 1:
        return None
    if node.operator in ("Sub", "Div") and node.input(0) != x:
        return None
    (other,) = (name for name in node.inputs if name != x)
    array: Any = graph.arrays.get(other)
    if array is None or isinstance(array, Blank) or array.ndim > 4 or array.dtype.kind in "iub":
        return None
    four = array.astype(np.float64).reshape((1,) * (4 - array.ndim) + array.shape)
    one = four.transpose(0, 2, 3, 1) if not last else four
    fits = all(n in (1, whole) for n, whole in zip(one.shape, (1, *size), strict=True))
    return one[0] if fits else None


def _changed(
    operator: str, mean: NDArray[np.float64], scale: NDArray[np.float64], array: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Mean and scale after one more operation; None for factors that are not one a channel, or no factors."""
    if operator in ("Add", "Sub"):
        return mean + array / scale * (1 if operator == "Sub" else -1), scale
    if array.shape[:-1] not in ((), (1, 1)) or not array.all():
        return None
    return mean, scale / array if operator == "Div" else scale * array
