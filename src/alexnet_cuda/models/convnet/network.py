"""A network of layers that name their inputs, as a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..graph import GraphModel
from ..model import Model


class Rates(NamedTuple):
    """How a layer learns: rate, momentum and decay of its weights (epsW, momW, wc), rate and momentum of its biases
    (epsB, momB)."""

    lr: float
    momentum: float
    decay: float
    bias_lr: float
    bias_momentum: float


@dataclass(frozen=True)
class Convnet(GraphModel):
    """A model of cuda-convnet's files. ``rates``: by the names of the layers with parameters; ``files``: what ``parse``
    made it of, by the names of its arguments."""

    rates: Mapping[str, Rates]
    files: Mapping[str, Any] = field(repr=False)
    chain = False
    places_itself = True

    @property
    def classes(self) -> int:
        """How many: the outputs of the last layer."""
        return self.nodes[-1].row.output[0]

    def with_classes(self, classes: int) -> Model:
        """The same model. ValueError for another number of classes than the files'."""
        if classes != self.classes:
            raise ValueError(
                f"model {self.name}: {self.layers[-1].name}: expected as many outputs as classes, {classes}, got "
                f"{self.classes}; change its section in the layer file"
            )
        return self

    def entries(self) -> dict[str, Any]:
        return {"model": self.name, "convnet": self.files}
