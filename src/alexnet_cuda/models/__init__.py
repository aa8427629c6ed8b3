"""AlexNet's variants as data: ``models.names()``, ``models.get(name)``, ``models.create(name)``; what the files of 2012
describe: ``models.from_convnet(layers, parameters)``; and what one file makes: ``models.get("FILE.prototxt")``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import backend, nn
from ..suggest import nearest
from . import alexnet, caffe, cifar, convnet, onnx, own
from .caffe import Deploy, PrototxtError
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
    whose code is run; of FILE.prototxt that of Caffe's deploy file; of FILE.onnx the one of its graph, whose weights
    are to be drawn. ValueError, with the nearest names, for an unknown one, and as of ``from_file``."""
    if is_file(name):
        return from_file(name)
    if name not in _by_name:
        hint = nearest(str(name), _by_name, most=3, cutoff=0.4)
        known = f"models: {', '.join(_by_name)}; FILE.py:NAME, FILE.prototxt, FILE.onnx; what this program registers"
        raise ValueError(f"unknown model {name!r}{hint} ({known})")
    return _by_name[name]


def is_file(name: str) -> bool:
    """Whether a model's name is that of a file which makes it: FILE.py:NAME, FILE.prototxt or FILE.onnx."""
    return any(kind.is_file(name) for kind in (caffe, onnx, own))


def from_file(name: str) -> Own | Deploy:
    """The model that a file makes, by ``name`` as of ``is_file``; code in it is run. ValueError, such as OwnError and
    PrototxtError, for what there is not, or makes none; ImportError where the package onnx is missing."""
    if caffe.is_file(name):
        return caffe.from_file(name)
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
    """The entries of a recipe that name a model as ``get`` takes it. ValueError as of ``from_file``."""
    return from_file(name).entries() if is_file(name) else {"model": name, "code": {}}


def described(
    name: str, options: Mapping[str, Any], files: Mapping[str, Any], code: Mapping[str, Any] | None = None
) -> Model:
    """The model of that name with these parts exchanged, or, where there are ``files``, ``Convnet.files`` as they were
    saved, or ``code``, that of an ``Own`` or a ``Deploy``, the model they make. ValueError when there is no such
    model."""
    if code:
        file = str(code.get("file"))
        made = caffe.from_code(code) if caffe.is_file(file) else (onnx if onnx.is_file(file) else own).from_text(code)
        return made.changed(options)
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
    "Deploy",
    "Model",
    "Own",
    "OwnError",
    "PrototxtError",
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
