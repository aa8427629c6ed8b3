"""Models from Caffe's deploy files (.prototxt): text in which layers, ``layer { ... }``, name the blobs that they take
and make.

A layer and the activation function that alone follows it become one, as do BatchNorm and Scale; the softmax at the end
is left out, as outputs are logits. Nothing in the file is executed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...files import decoded
from ...names import text as shown
from ...suggest import nearest
from ..graph import MOST_OUTPUTS, MOST_PARAMETERS
from ..layers import Shape
from ..own import digest, taken_apart
from . import prototxt
from .builder import IMAGES, Builder, Section
from .layer_types import TYPES, TYPES_OF_2014, read
from .network import Deploy
from .prototxt import LONGEST_FILE, Message, PrototxtError, short

SUFFIX = ".prototxt"
MOST_LAYERS = 1000
OF_TRAININGS = "DATA", "IMAGEDATA", "HDF5DATA", "SOFTMAXWITHLOSS", "SOFTMAXLOSS", "ACCURACY"
TRAINS = "; this is a training's file: take the network's deploy file, where Input gives the images"
LARGEST_IMAGE = 2**12
"""Pixels of a side, and channels."""


def is_file(name: str) -> bool:
    """Whether a model's name is a deploy file's."""
    return name.endswith(SUFFIX)


def from_file(name: str) -> Deploy:
    """The model that a deploy file describes, under the file's name. PrototxtError, naming file, line, layer and field,
    for what cannot be read or built, before any memory is allocated for it."""
    path = Path(name).expanduser()
    try:
        with path.open("rb") as opened:
            content = opened.read(LONGEST_FILE + 1)
        text = decoded(content)
    except OSError as e:
        raise PrototxtError(f"{name}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise PrototxtError(f"{name}: expected text, got byte {content[e.start]:#04x} at {e.start}") from e
    if len(content) > LONGEST_FILE:
        raise PrototxtError(f"{name}: expected a prototxt file of at most {LONGEST_FILE:,} bytes, got more")
    return from_code({"file": shown(path), "name": shown(path.stem), "text": text, "digest": digest(text)})


def from_code(code: Mapping[str, Any]) -> Deploy:
    """The model of a ``Deploy.code``. PrototxtError as of ``from_file``, and for one that is incomplete, or whose
    digest is not its text's."""
    taken_apart(code, PrototxtError)
    return _model(code, {})


def _model(code: Mapping[str, str], classes: Mapping[str, int]) -> Deploy:
    """``classes``: outputs of layers that are to have others than the file says."""
    root = prototxt.read(code["text"], code["file"])
    images, sections = _sections(root)
    builder = Builder(sections, images, classes)
    for section in sections:
        read(builder, section)
    made = builder.output(sections[-1])
    source = f"{code['file']}, digest {code['digest']}"
    if builder.not_applied:
        source += f" (not applied: {', '.join(builder.not_applied)})"
    nodes, head = tuple(builder.nodes.values()), builder.head(made)
    layers = tuple(node.row.layer for node in nodes)
    H, W, C = images
    return Deploy(
        code["name"],
        source,
        (H, W, C),
        layers,
        nodes,
        "softmax",
        code,
        builder.theirs,
        head,
        lambda outputs: _model(code, {head: outputs}),
    )


def _sections(root: Message) -> tuple[Shape, list[Section]]:
    """The shape of the images, and the layers."""
    root.known("name input input_dim input_shape layer layers force_backward state debug_info")
    old = "layers" in root.fields
    if old and "layer" in root.fields:
        raise root.error("expected layer or layers, got both", "layers")
    messages = root.messages("layers" if old else "layer")
    if len(messages) > MOST_LAYERS:
        raise root.error(f"expected at most {MOST_LAYERS:,}, got {len(messages):,}", "layers" if old else "layer")
    shapes = _inputs(root)
    sections, blobs, names = list[Section](), dict.fromkeys(shapes, IMAGES), dict[str, int]()
    for message in messages:
        name = message.text("name")
        message = replace(message, where=f"layer {short(name)}")
        if name in names:
            raise message.error(f"is the name of the layer in line {names[name]}, too", "name")
        names[name] = message.line
        kind = _type(message, old)
        if kind == "Input":
            tops = message.texts("top")
            shapes.update(zip(tops, _shapes(message.message("input_param"), "shape", len(tops)), strict=True))
            blobs.update(dict.fromkeys(tops, IMAGES))
            continue
        for bottom in (bottoms := message.texts("bottom")):
            if bottom not in blobs:
                raise message.error(
                    f"expected what a layer before makes, got {short(bottom)}{nearest(bottom, blobs)}", "bottom"
                )
        if len(tops := message.texts("top")) != 1:
            raise message.error(f"expected 1, got {len(tops)}", "top")
        sections.append(Section(len(sections), name, kind, message, tuple(blobs[bottom] for bottom in bottoms)))
        blobs[tops[0]] = len(sections) - 1
    if len(shapes) != 1:
        raise root.error(f"expected one input, the images, got {', '.join(map(short, shapes)) or 'none'}")
    if not sections:
        raise root.error("expected layers, got none")
    used = {place for section in sections for place in section.inputs}
    for section in sections[:-1]:
        if section.place not in used:
            raise section.error("expected a layer that uses its output, got none", "top")
    return next(iter(shapes.values())), sections


def _type(message: Message, old: bool) -> str:
    """A layer's, by its name of today."""
    known = TYPES_OF_2014 if old else {name: name for name in (*TYPES, "Input")}
    kind = message.name("type") if old else message.text("type")
    if kind not in known:
        hint = TRAINS if kind.upper().replace("_", "") in OF_TRAININGS else nearest(kind, known)
        raise message.error(f"expected one of {', '.join(known)}, got {short(kind)}{hint}", "type")
    return known[kind]


def _inputs(root: Message) -> dict[str, Shape]:
    """The inputs that a file names outside of layers, with their shapes."""
    names = root.texts("input")
    dims = root.integers("input_dim", high=2**31 - 1)
    if dims and len(dims) != 4 * len(names):
        raise root.error(f"expected 4 for each input, got {len(dims)}", "input_dim")
    if dims:
        return {name: _image(root, "input_dim", dims[4 * i : 4 * i + 4]) for i, name in enumerate(names)}
    return dict(zip(names, _shapes(root, "input_shape", len(names)), strict=True))


def _shapes(message: Message, key: str, count: int) -> list[Shape]:
    """The shapes (H, W, C) of as many inputs as ``count``."""
    found = message.messages(key)
    if len(found) not in (1, count) or not count:
        if not count and not found:
            return []
        raise message.error(f"expected one for each of {count} inputs, got {len(found)}", key)
    for shape in found:
        shape.known("dim")
    return [_image(shape, "dim", shape.integers("dim")) for shape in found] * (count // len(found))


def _image(message: Message, key: str, dims: list[int]) -> Shape:
    """(H, W, C) of dimensions N, C, H, W."""
    if len(dims) != 4:
        raise message.error(f"expected 4 numbers, N, C, H and W, got {len(dims)}", key)
    _, C, H, W = dims
    if max(C, H, W) > LARGEST_IMAGE or math.prod((C, H, W)) > MOST_OUTPUTS:
        raise message.error(
            f"expected images of at most {LARGEST_IMAGE} channels, rows and columns, got {C}x{H}x{W}", key
        )
    return H, W, C


__all__ = [
    "MOST_OUTPUTS",
    "MOST_PARAMETERS",
    "TYPES",
    "Deploy",
    "PrototxtError",
    "from_code",
    "from_file",
    "is_file",
]
