"""Networks on more than one device: ``build`` makes one of a model on the devices that are named, ``Towers`` is one on
two, ``Exchange`` the layer in which towers meet."""

from __future__ import annotations

from .. import backend, nn
from ..models import Convnet, Model
from .towers import Exchange, Towers, check, crossings, parameters


def build(model: Model, devices: str | backend.Device | None = None, seed: int = 0) -> nn.Module:
    """The network on one device, ``model.build``, or on two such as "cuda:0,cuda:1", ``Towers``, with the same weights.
    A model from files that say themselves what runs where is on as many devices as there are.

    ValueError for more devices, unknown ones, or a model that does not divide into towers.
    """
    if isinstance(model, Convnet):
        return model.build(devices, seed)
    places = backend.devices(devices)
    return model.build(places[0], seed) if len(places) == 1 else Towers(model, places, seed)


__all__ = ["Exchange", "Towers", "build", "check", "crossings", "parameters"]
