"""AlexNet's variants as data: ``models.names()``, ``models.get(name)``, ``models.create(name)``; and what the files of
2012 describe: ``models.from_convnet(layers, parameters)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import backend, nn
from ..suggest import nearest
from . import alexnet, cifar, convnet, onnx, own
from .convnet import Convnet, from_convnet
from .model import OPTIONS, Model, Row
from .onnx import from_onnx
from .own import Own, OwnError, place, registered

_by_name: dict[str, Model] = {model.name: model for model in (*alexnet.MODELS, *cifar.MODELS)}
_own = set[str]()


def names() -> list[str]:
    """Names of all models."""
    return list(_by_name)


def get(name: str) -> Model:
    """The description of a model; of FILE.py:NAME the one that this function or ``Module`` class in the file makes,
    whose code is run; of FILE.onnx the one of its graph, whose weights are to be drawn. ValueError, with the nearest
    names, for an unknown one, and as of ``OwnError`` and ``from_onnx``."""
    if is_file(name):
        return from_file(name)
    if name not in _by_name:
        hint = nearest(str(name), _by_name, most=3, cutoff=0.4)
        known = f"models: {', '.join(_by_name)}; FILE.py:NAME; FILE.onnx; what this program registers"
        raise ValueError(f"unknown model {name!r}{hint} ({known})")
    return _by_name[name]


def is_file(name: str) -> bool:
    """Whether a model's name is one in a Python file, FILE.py:NAME, or an ONNX file."""
    return own.is_file(name) or onnx.is_file(name)


def from_file(name: str) -> Own:
    """The model of FILE.py:NAME, whose code is run, or of FILE.onnx. ValueError for what there is not, or does not
    work; ImportError where the package onnx is missing."""
    return onnx.from_file(name) if onnx.is_file(name) else own.from_file(name)


def register(
    name: str,
    make: Callable[..., nn.Module],
    input: Sequence[int] = (),
    source: str = "",
    classes: int | None = None,
) -> Model:
    """Makes a function or ``Module`` class of yours known to this process as the model ``name``, which is returned.

    make: called with the number of classes, and by name with what it has parameters for: ``input``, the images'
    (H, W, C), and ``devices``, on which the network then places its parts itself; other parameters have defaults, and
    are options of the model. input, classes: by default those of its parameters, else (32, 32, 3) and 10. source: a
    line on where the network comes from. A name that was registered before means the new one. ValueError for one of
    the package's own models, and for a network that does not work: it is run once on two images.
    """
    if name in _by_name and name not in _own:
        raise ValueError(f"register: {name!r} is a model of the package; choose another name")
    _by_name[name] = model = registered(name, make, input, source, classes)
    _own.add(name)
    return model


def entries(name: str) -> dict[str, Any]:
    """The entries of a recipe that name a model as ``get`` takes it. OwnError for a file that makes none."""
    return from_file(name).entries() if is_file(name) else {"model": name, "code": {}}


def described(
    name: str, options: Mapping[str, Any], files: Mapping[str, Any], code: Mapping[str, Any] | None = None
) -> Model:
    """The model of that name with these parts exchanged, or, where there are ``files``, ``Convnet.files`` as they were
    saved, or ``code``, ``Own.code``, the model they make. ValueError when there is no such model."""
    if code:
        described = onnx.from_text if onnx.is_file(str(code.get("file"))) else own.from_text
        return described(code).changed(options)
    if not files:
        return get(name).changed(options)
    expected = {"layers": str, "parameters": str, "size": int}
    if {key: type(value) for key, value in files.items()} != expected:
        raise ValueError(f"convnet: expected {', '.join(expected)}, got {', '.join(map(str, files))}")
    return convnet.parse(name, **files).changed(options)


def create(
    name: str, classes: int | None = None, device: str | backend.Device | None = None, seed: int = 0
) -> nn.Module:
    """A network ready to train: its children carry the layers' names (conv1, lrn1, pool1, ...).

    classes: outputs of the last layer, by default the model's own. device: default a usable GPU, else the CPU.
    """
    model = get(name)
    return (model if classes is None else model.with_classes(classes)).build(device, seed)


__all__ = [
    "OPTIONS",
    "Convnet",
    "Model",
    "Own",
    "OwnError",
    "Row",
    "create",
    "described",
    "entries",
    "from_convnet",
    "from_file",
    "from_onnx",
    "get",
    "is_file",
    "names",
    "place",
    "register",
]
