"""Networks on more than one device: ``build`` makes one of a model on the devices that are named, ``Towers`` is one on
two, ``Exchange`` the layer in which towers meet. Over more than one process: ``join`` makes a ``Group`` of them,
``Buckets`` adds up gradients, ``Hybrid`` is a network whose fully-connected layers are shared out."""

from __future__ import annotations

from .. import backend, nn
from ..models import Model
from .data import Buckets, average_buffers
from .group import Group, GroupError, Launch, join, launch
from .hybrid import Hybrid, check as check_hybrid
from .towers import Exchange, Towers, check, crossings, parameters


def build(model: Model, devices: str | backend.Device | None = None, seed: int = 0) -> nn.Module:
    """The network on one device, ``model.build``, or on two such as "cuda:0,cuda:1", ``Towers``, with the same weights.
    A model that says itself what runs where is on as many devices as there are.

    ValueError for more devices, unknown ones, or a model that does not divide into towers.
    """
    if model.places_itself:
        return model.build(devices, seed)
    places = backend.devices(devices)
    return model.build(places[0], seed) if len(places) == 1 else Towers(model, places, seed)


__all__ = [
    "Buckets", "Exchange", "Group", "GroupError", "Hybrid", "Launch", "Towers", "average_buffers", "build", "check",
    "check_hybrid", "crossings", "join", "launch", "parameters",
]  # fmt: skip
