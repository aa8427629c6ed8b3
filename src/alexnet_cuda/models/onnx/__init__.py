"""Networks from ONNX files: ``from_onnx(path)``, a module that trains; ``from_file(path)``, a model for every command.

Nothing in a file is executed. Its nodes are called one after the other, in layers of ours, and images stay (N, H, W, C)
between those that take them so: a transposition into ONNX's order or out of it costs nothing there. What a run keeps of
a file is the graph as text, without the weights, which checkpoints have. ``run`` computes a graph once as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ... import names, nn
from ...files import WeightsError
from .. import own
from ..own import Maker, Own
from . import (  # which put operators into the table
    arithmetic as arithmetic,
    layers as layers,
    shapes as shapes,
    training as training,
)
from .graph import Graph, parsed
from .network import Network, classifier, image_size, run as run_graph
from .operators import OPSETS, TABLE
from .pixels import Pixels, taken_off
from .reading import of, read

SUFFIX = ".onnx"
LONGEST_TEXT = 2**24


def is_file(name: str) -> bool:
    """Whether a model's name is that of an ONNX file."""
    return name.lower().endswith(SUFFIX)


def from_onnx(path: str | Path) -> nn.Module:
    """The network of an ONNX file with its weights, and all that it does to pixels: images (N, H, W, C) -> logits
    (N, classes). WeightsError, naming file, node and operator, for what is not read; ImportError without the package
    onnx."""
    return Network(classifier(read(Path(path).expanduser())))


def from_file(name: str) -> Own:
    """The model of FILE.onnx, without the weights and what it does to pixels before. Errors as of ``from_onnx``."""
    return with_weights(Path(name))[0]


def with_weights(path: Path) -> tuple[Own, Graph, Pixels | None]:
    """The model of an ONNX file, the graph with its weights, and what it does to pixels before, which is no part of
    either. Errors as of ``from_onnx``."""
    path = path.expanduser()
    graph, pixels = taken_off(classifier(read(path)))
    text = graph.text()
    code = {"file": names.text(path), "name": "", "text": text, "digest": own.digest(text)}
    return from_text(code), graph, pixels


def from_text(code: Mapping[str, Any]) -> Own:
    """The model of an ``Own.code`` that has a graph's text. WeightsError for one that makes no network."""
    file, _, text = own.taken_apart(code, WeightsError)
    if len(text) > LONGEST_TEXT:
        raise WeightsError(f"{file}: expected a graph's text of at most {LONGEST_TEXT:,} characters, got {len(text):,}")
    maker, made = _maker(file, text)
    name = re.sub(r"[^\w-]+", "_", Path(file).stem, flags=re.ASCII)
    return Own.of(name, f"{file}, digest {code['digest']}", maker, image_size(made.graph), made.classes, code=code)


class _Making:
    """Networks of a graph for numbers of classes."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.classes = graph, graph.outputs_of(graph.head())

    def __call__(self, classes: int) -> nn.Module:
        return Network(self.graph if classes == self.classes else self.graph.with_classes(classes))


@lru_cache(maxsize=16)
def _maker(file: str, text: str) -> tuple[Maker, _Making]:
    made = _Making(classifier(parsed(text, file)))
    return Maker(made, file), made


def run(model: Any, inputs: Mapping[str, np.ndarray], folder: Path = Path()) -> list[np.ndarray]:
    """What the graph of an onnx.ModelProto computes from its inputs, by name, as ONNX has them, channels first.
    ``folder``: where its external data is. WeightsError for what is not read."""
    return run_graph(of(model, "model", folder), inputs)


__all__ = ["OPSETS", "TABLE", "Network", "from_file", "from_onnx", "from_text", "is_file", "run", "with_weights"]
