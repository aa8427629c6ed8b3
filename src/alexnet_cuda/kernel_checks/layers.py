"""What is asked for, and AlexNet's layers, from the models' own descriptions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from .. import backend, models
from ..models.layers import Layer
from ..models.model import Row

ALEXNETS = {"alexnet": "two towers", "alexnet-single": "one tower"}
L = TypeVar("L", bound=Layer)
M = TypeVar("M", bound=Layer)
OTHERS = ("alexnet-2012", "keras-2x2", "cifar-18pct", "cifar-11pct")
"""Networks of the project that have the layers which AlexNet has not."""


@dataclass(frozen=True)
class Scope:
    """Where, and at which batches the layers: none of them, or all but the largest, or all."""

    device: backend.Device
    batches: tuple[int, ...] = (2, 128)
    whole_layers: bool = True
    """Else products that a CPU computes slowly are those of parts of layers, with fewer pixels, filters and neurons."""

    @property
    def capability(self) -> tuple[int, int] | None:
        return backend.capability(self.device)


def _shape(row: Row) -> tuple[object, ...]:
    """What decides the work of a layer: its shapes and its numbers, not its name nor its initial weights."""
    numbers = (value for value in vars(row.layer).values() if isinstance(value, (int, float)))
    return (row.input, row.output, row.filter, *numbers)


def _places(networks: dict[str, str], length: int) -> Iterator[tuple[str, tuple[Row, ...]]]:
    """So many layers in a row, of each shape once; with their names, and whose they are if not all networks'."""
    found: dict[tuple[object, ...], tuple[tuple[Row, ...], list[str]]] = {}
    for network, described in networks.items():
        layers = models.get(network).rows()
        for first in range(len(layers) - length + 1):
            some = tuple(layers[first : first + length])
            kinds = tuple(type(row.layer) for row in some)
            found.setdefault((kinds, *map(_shape, some)), (some, []))[1].append(described)
    for some, owners in found.values():
        name = "+".join(row.layer.name for row in some)
        yield (name if set(owners) == set(networks.values()) else f"{name} of {owners[0]}"), some


def rows(kind: type[L]) -> Iterator[tuple[str, L, Row]]:
    """Layers of that kind in their place: AlexNet's, or if it has none, those of the first other network that has."""
    for networks in (ALEXNETS, *({name: name} for name in OTHERS)):
        found = [(name, row.layer, row) for name, (row,) in _places(networks, 1) if isinstance(row.layer, kind)]
        if found:
            yield from found
            return


def pairs(first: type[L], second: type[M]) -> Iterator[tuple[str, L, M, Row]]:
    """Layers of AlexNet of which one of the first kind comes before one of the second, and the first in its place."""
    for name, (before, after) in _places(ALEXNETS, 2):
        if isinstance(before.layer, first) and isinstance(after.layer, second):
            yield name, before.layer, after.layer, before


def outputs(kind: type[Layer]) -> list[tuple[int, ...]]:
    """The different shapes of what AlexNet's layers of that kind give, of one image."""
    return list(dict.fromkeys(row.output for _, _, row in rows(kind)))
