"""A network of a deploy file, as a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..graph import GraphModel
from .prototxt import PrototxtError


@dataclass(frozen=True)
class Deploy(GraphModel):
    """A model of a deploy prototxt. ``code``: its ``file``, the model's ``name``, the file's ``text`` and ``digest``;
    ``theirs``: of each layer with arrays Caffe's layers that have its blobs; ``head``: of Caffe's layers the one that
    has an output for each class, "" where several have, and ``again`` the model with another number there."""

    code: Mapping[str, str] = field(repr=False)
    theirs: Mapping[str, tuple[str, ...]] = field(repr=False)
    head: str
    again: Callable[[int], Deploy] = field(repr=False, compare=False)

    @property
    def classes(self) -> int:
        """How many: the network's outputs."""
        return self.nodes[-1].row.output[0]

    def with_classes(self, classes: int) -> Deploy:
        """The same model with another number of outputs, ``classes``. PrototxtError for less than 1, and for a network
        in which no layer alone decides them."""
        if classes == self.classes:
            return self
        if classes < 1 or not self.head:
            expected = f"{self.classes:,}, which more than one layer decides" if classes > 0 else "at least 1"
            raise PrototxtError(f"model {self.name}: classes: expected {expected}, got {classes}")
        return self.again(classes)

    def entries(self) -> dict[str, Any]:
        return {"model": self.name, "code": self.code}
