"""AlexNet's variants as data: ``models.names()``, ``models.get(name)``, ``models.create(name)``; and what the files of
2012 describe: ``models.from_convnet(layers, parameters)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import backend, nn
from ..suggest import nearest
from . import alexnet, cifar, convnet
from .convnet import Convnet, from_convnet
from .model import OPTIONS, Model, Row

_by_name = {model.name: model for model in (*alexnet.MODELS, *cifar.MODELS)}


def names() -> list[str]:
    """Names of all models."""
    return list(_by_name)


def get(name: str) -> Model:
    """The description of a model. ValueError, with the nearest names, for an unknown one."""
    if name not in _by_name:
        hint = nearest(str(name), _by_name, most=3, cutoff=0.4)
        raise ValueError(f"unknown model {name!r}{hint} (models: {', '.join(_by_name)})")
    return _by_name[name]


def described(name: str, options: Mapping[str, Any], files: Mapping[str, Any]) -> Model:
    """The model of that name with these parts exchanged, or, where there are ``files``, ``Convnet.files`` as they were
    saved, the model they make. ValueError when there is no such model."""
    if not files:
        return get(name).changed(options)
    expected = {"layers": str, "parameters": str, "size": int}
    if {key: type(value) for key, value in files.items()} != expected:
        raise ValueError(f"convnet: expected {', '.join(expected)}, got {', '.join(map(str, files))}")
    return convnet.parse(name, **files).changed(options)


def create(
    name: str, classes: int | None = None, device: str | backend.Device | None = None, seed: int = 0
) -> nn.Sequential:
    """A network ready to train: its children carry the layers' names (conv1, lrn1, pool1, ...).

    classes: outputs of the last layer, by default the model's own. device: default a usable GPU, else the CPU.
    """
    model = get(name)
    return (model if classes is None else model.with_classes(classes)).build(device, seed)


__all__ = ["OPTIONS", "Convnet", "Model", "Row", "create", "described", "from_convnet", "get", "names"]
