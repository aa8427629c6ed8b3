"""Models from the files of cuda-convnet's source release of 2012.

A network is two files of sections ``[name]`` with lines ``key = value``: the layer file has a section for each layer,
after those of its inputs; the parameter file says of the same names what may change during training. A layer that has
several inputs with weights becomes one layer an input, ``name[0]``, ``name[1]`` and so on, and their sum, ``name``; a
neuron that its layer's kernel does not include becomes ``name_neuron``. Values are read as words and numbers; nothing
in the files is executed.
"""

from __future__ import annotations

from pathlib import Path

from ...names import text
from ..graph import MOST_OUTPUTS, MOST_PARAMETERS, Node
from . import sections
from .builder import NEURONS, Builder
from .layer_types import REFUSED, TYPES, read
from .network import Convnet, Rates


def from_convnet(layers: str | Path, parameters: str | Path, size: int = 224) -> Convnet:
    """The model that a layer-definition file and a layer-parameter file describe, for images of ``size`` x ``size``
    pixels in colour, which the files do not tell. Its name is that of the layer file.

    ValueError, naming file, line and section, for what cannot be read or built, before any memory is allocated for it;
    OSError for a file that cannot be opened.
    """
    paths = Path(layers), Path(parameters)
    texts = [sections.text_of(path) for path in paths]
    return parse(text(paths[0].stem), texts[0], texts[1], size, (str(layers), str(parameters)))


def parse(
    name: str, layers: str, parameters: str, size: int = 224, names: tuple[str, str] = ("layers", "parameters")
) -> Convnet:
    """``from_convnet`` of the files' text; ``names`` are for messages."""
    if not isinstance(size, int) or not 1 <= size <= 4096:
        raise ValueError(f"model {name}: size of the images: expected 1 to 4096 pixels, got {size!r}")
    builder = Builder(sections.read(layers, names[0]), sections.read(parameters, names[1]), names, size)
    for section in builder.layers.values():
        read(builder, section)
    return builder.model(name, {"layers": layers, "parameters": parameters, "size": size})


__all__ = [
    "MOST_OUTPUTS",
    "MOST_PARAMETERS",
    "NEURONS",
    "REFUSED",
    "TYPES",
    "Convnet",
    "Node",
    "Rates",
    "from_convnet",
    "parse",
]
