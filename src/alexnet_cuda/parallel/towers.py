"""The paper's two towers (section 3.5, figure 2): each device holds half of the channels, which meet in few layers.

Grouped convolutions, pooling, normalisation and dropout stay inside a tower. An ungrouped convolution and a
fully-connected layer see all channels: there the towers exchange halves. Nothing is concatenated: such a layer is the
sum of two products, over tower 0's channels and over tower 1's, in this order wherever they were computed. The
classifier and the loss are on the first device.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np

from .. import backend, kernels, nn, ops
from ..kernels import Array
from ..models import Model, Row
from ..models.layers import Conv2d, Linear, Local2d, Lrn
from ..tensor import Function, Tensor

Kind = Literal["alone", "exchange", "head"]
T = TypeVar("T", bound=Tensor)


# ---------------------------------------------------------------------------------------------- what runs where


def plan(model: Model) -> list[tuple[Row, Kind]]:
    """The model's layers, each with how it runs in two towers: "alone" in each, after an "exchange" of halves, or, the
    "head", on the first device alone, with the other's half. ValueError for a model that does not divide."""

    def refuse(why: str) -> ValueError:
        return ValueError(f"model {model.name} does not divide into two towers: {why}")

    if not model.chain:
        raise refuse("it is no chain of layers that the package knows, and does not say itself what runs where")
    if not any(isinstance(layer, Conv2d) and layer.groups > 1 for layer in model.layers):
        raise refuse("no convolution has two groups")
    rows = model.rows()
    if not isinstance(rows[-1].layer, Linear):
        raise refuse(f"{rows[-1].layer.name}, its last layer, is not fully connected")
    kinds: list[Kind] = []
    divided = False
    for row in rows:
        layer, channels = row.layer, row.output[-1]
        groups = layer.groups if isinstance(layer, (Conv2d, Lrn)) else 1
        meets = isinstance(layer, (Conv2d, Linear)) and groups == 1 and divided
        if isinstance(layer, Local2d):
            raise refuse(f"{layer.name} is a layer with weights for each pixel")
        if not divided and (isinstance(layer, Lrn) or (row.filter and not (isinstance(layer, Conv2d) and groups == 1))):
            raise refuse(f"{layer.name} comes before the first convolution of all channels")
        if groups % 2 and (groups > 1 or isinstance(layer, Lrn)):
            raise refuse(f"the groups of {layer.name}, {groups}, are not an even number")
        if row.filter and channels % 2 and row is not rows[-1]:
            raise refuse(f"the channels of {layer.name}, {channels}, are not an even number")
        divided = divided or row.filter is not None
        kinds.append("head" if row is rows[-1] else "exchange" if meets else "alone")
    return list(zip(rows, kinds, strict=True))


def check(model: Model, devices: Sequence[backend.Device]) -> None:
    """ValueError when ``Towers`` cannot put the model on these devices."""
    if len(devices) != 2 or devices[0].kind != devices[1].kind:
        raise ValueError(f"two towers need two devices of one kind, got {', '.join(map(str, devices))}")
    plan(model)


def parameters(model: Model) -> tuple[int, int]:
    """Numbers that the two devices hold: halves of every layer, and the head on the first."""
    kinds = plan(model)
    halves = sum(row.parameters for row, kind in kinds if kind != "head") // 2
    return halves + sum(row.parameters for row, kind in kinds if kind == "head"), halves


def crossings(model: Model, batch: int) -> dict[str, tuple[int, int]]:
    """Layers where activations cross, with the bytes of a forward pass of ``batch`` images to the first device and to
    the second; as many come back as gradients."""
    halves = {row.layer.name: (4 * batch * math.prod(row.input) // 2, kind) for row, kind in plan(model)}
    return {name: (half, half if kind == "exchange" else 0) for name, (half, kind) in halves.items() if kind != "alone"}


# ---------------------------------------------------------------------------------------------- the network


class Exchange(nn.Module):
    """A tower's layer that sees both towers' channels: activation(half0(x0) + half1(x1) + b).

    ``half0`` and ``half1`` are layers without bias and activation over tower 0's and tower 1's channels, on the device
    of this layer, that of ``tower``; the other tower's half is copied there.
    """

    def __init__(
        self,
        tower: int,
        half0: nn.Module,
        half1: nn.Module,
        b: nn.Parameter | None = None,
        activation: ops.Activation | None = None,
    ) -> None:
        super().__init__()
        self.tower, self.half0, self.half1, self.b, self.activation = tower, half0, half1, b, activation

    def forward(self, *halves: Tensor) -> Tensor:
        """halves: tower 0's and tower 1's activations, each on its tower's device."""
        layers, y, own, other = (self.half0, self.half1), list(halves), self.tower, 1 - self.tower
        receive = halves[other].send(halves[own].device)  # is on the way while this tower computes
        y[own] = layers[own](halves[own])
        y[other] = layers[other](receive())
        return nn.activated(ops.weighted_sum(y, b=self.b, relu=self.activation == "relu"), self.activation)


@dataclass(eq=False)
class DropoutOfHalf(Function):
    """``kernels.dropout`` of a tower's half of ``channels``: with the mask that the undivided network would draw, which
    depends on an element's place among all channels."""

    tower: int
    channels: int
    options: dict[str, Any]

    def forward(self, x: Array) -> Array:
        return self._among_all(kernels.dropout, x)

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (self._among_all(kernels.dropout_backward, dy),)

    def _among_all(self, dropout: Callable[..., Array], half: Array) -> Array:
        place = _half(self.tower, self.channels)
        pixels = half.reshape(-1, self.channels // 2)
        whole = backend.zeros((len(pixels), self.channels), half.dtype, self.device)
        whole[:, place] = pixels
        return dropout(whole, **self.options)[:, place].copy().reshape(half.shape)


class HalfDropout(nn.Dropout):
    """Dropout in a tower, on its half of ``channels``."""

    def __init__(self, whole: nn.Dropout, tower: int, channels: int) -> None:
        super().__init__(whole.p, whole.form)
        self.tower, self.channels = tower, channels

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        draw = {"seed": self.key, "step": self.step, "purpose": self.purpose, "state": self.states.get(x.device)}
        options = {"p": self.p, "form": self.form, **draw, "first": 2 * self.row * math.prod(x.shape[1:])}
        self.step += 1
        return DropoutOfHalf.apply(x, tower=self.tower, channels=self.channels, options=options)


@dataclass(frozen=True)
class Part:
    """Where a tower's array lies in the network's array ``name`` of ``shape``: at ``index`` of its view as (outputs,
    positions, channels)."""

    name: str
    shape: tuple[int, ...]
    view: tuple[int, int, int]
    index: tuple[slice, slice, slice]

    def of(self, whole: np.ndarray) -> np.ndarray:
        return whole.reshape(self.view)[self.index]


class Towers(nn.Module):
    """A model on two logical devices, or both towers on one. Its initial weights are those of ``model.build``, and
    ``state`` and ``load_state`` speak of the whole network's arrays, so checkpoints move between the two.

    The child ``conv1`` holds ``tower0`` and ``tower1``, a half of the layer each. Dropout masks are those of the
    undivided network.
    """

    def __init__(self, model: Model, devices: Sequence[backend.Device], seed: int = 0) -> None:
        """ValueError when the model does not divide, or the devices are not two of one kind."""
        super().__init__()
        check(model, devices)
        self.model, self.devices, self.initial_seed = model, tuple(devices), seed
        self._parts: dict[str, Part] = {}
        self._stages: list[list[str]] = [[]]  # names of layers, from one exchange to the next
        kinds, channels = [kind for _, kind in plan(model)], 0
        for kind, (row, module) in zip(kinds, model.modules(backend.Device("cpu"), seed), strict=True):
            layer, name = nn.Module(), row.layer.name
            for tower in (0,) if kind == "head" else (0, 1):
                outputs = slice(None) if kind == "head" else _half(tower, row.output[-1])
                if kind == "alone":
                    made = self._alone(module, name, tower, outputs, channels)
                else:
                    made = self._exchange(module, name, tower, outputs, channels)
                setattr(layer, f"tower{tower}", made)
                made.label = name
            setattr(self, name, layer)
            if kind != "alone":
                self._stages.append([])
            self._stages[-1].append(name)
            if isinstance(row.layer, (Conv2d, Linear)):
                channels = row.output[-1]
        self.seed(seed)

    def forward(self, *images: Tensor) -> Tensor:
        """Logits, on the first device. images: the batch, once for each device; given once, it is copied."""
        halves = [images[0].to(self.devices[0]), images[-1].to(self.devices[1])]
        for stage in self._stages:
            towers = range(len(list(getattr(self, stage[0]).children())))
            halves = backend.run_concurrently([(self.devices[t], partial(self._run, stage, t, halves)) for t in towers])
        return halves[0]

    def _run(self, stage: list[str], tower: int, halves: list[Tensor]) -> Tensor:
        layers: list[nn.Module] = [getattr(getattr(self, name), f"tower{tower}") for name in stage]
        if isinstance(layers[0], Exchange):
            return nn.in_turn(layers[1:], layers[0](*halves))
        return nn.in_turn(layers, halves[tower])

    def seed(self, seed: int, step: int = 0, row: int = 0) -> None:
        super().seed(seed, step, row)
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.purpose //= 2  # two draw from one mask

    def whole(self) -> nn.Module:
        """The undivided network with these weights, on the first device."""
        network = self.model.build(self.devices[0], self.initial_seed)
        network.load_state(self.state())
        return network

    def merged(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        whole: dict[str, np.ndarray] = {}
        for key, array in arrays.items():
            slot, slash, own = key.rpartition("/")
            if own not in self._parts:
                whole[key] = array
                continue
            part = self._parts[own]
            name = slot + slash + part.name
            if name not in whole:
                whole[name] = np.empty(part.shape, array.dtype)
            place = part.of(whole[name])
            place[...] = array.reshape(place.shape)
        return whole

    def sharded(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        parts: dict[str, np.ndarray] = {}
        shapes = {own: t.shape for own, t in self._kept().items()}
        for key, array in arrays.items():
            slot, slash, name = key.rpartition("/")
            own_names = [own for own, part in self._parts.items() if part.name == name]
            for own in own_names:
                part = self._parts[own]
                if array.shape != part.shape:
                    raise ValueError(f"{key}: expected shape {part.shape}, got {array.shape}")
                parts[slot + slash + own] = part.of(array).reshape(shapes[own])
            if not own_names:
                parts[key] = array
        return parts

    def _alone(self, module: nn.Module, name: str, tower: int, outputs: slice, channels: int) -> nn.Module:
        """The module with its half of the outputs, after a layer of ``channels``; 0 before the first."""
        if isinstance(module, nn.Dropout) and channels:
            return HalfDropout(module, tower, channels)
        half = copy.copy(module)
        for key, t in vars(module).items():
            if isinstance(t, Tensor):
                setattr(half, key, self._part(f"{name}.tower{tower}.{key}", f"{name}.{key}", t, tower, outputs))
        if isinstance(half, (nn.Conv2d, nn.LocalResponseNorm)):
            half.groups = max(1, half.groups // 2)
        return half

    def _exchange(self, module: nn.Module, name: str, tower: int, outputs: slice, channels: int) -> Exchange:
        """The module with its half of the outputs, over ``channels`` that come in halves."""
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        own, halves, b = f"{name}.tower{tower}", (copy.copy(module), copy.copy(module)), module.b
        for t, half in enumerate(halves):
            inputs = _half(t, channels)
            half.w = self._part(f"{own}.half{t}.w", f"{name}.w", module.w, tower, outputs, channels, inputs)
            half.b = half.activation = None
        if b is not None:
            b = self._part(f"{own}.b", f"{name}.b", b, tower, outputs)
        return Exchange(tower, *halves, b, module.activation)

    def _part(
        self,
        own: str,
        name: str,
        whole: T,
        tower: int,
        outputs: slice,
        channels: int = 1,
        inputs: slice = slice(None),
    ) -> T:
        """A part of the array ``name``, registered under the tower's ``own`` name for it."""
        shape = whole.shape
        K = shape[0]
        part = Part(name, shape, (K, whole.data.size // (K * channels), channels), (outputs, slice(None), inputs))
        values = np.ascontiguousarray(part.of(whole.data))
        self._parts[own] = part
        return type(whole)(values.reshape((len(values), *shape[1:-1], -1)[: len(shape)]), device=self.devices[tower])


def _half(tower: int, channels: int) -> slice:
    return slice(tower * channels // 2, (tower + 1) * channels // 2)
