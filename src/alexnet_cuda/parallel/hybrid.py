"""One weird trick (Krizhevsky 2014, arXiv 1404.5997): convolutions data-parallel, dense layers model-parallel.

Convolutions have most of the arithmetic and few of the parameters, so each process runs them on its part of the batch.
Fully-connected layers have most of the parameters and little arithmetic, so each process holds some of their neurons
and runs those on the whole batch: the paper's scheme (a), in which all send their activations to all before the first
such layer. What a process computes of a gradient there is a summand: it becomes whole where activations were put
together.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import backend, nn, ops
from ..deprecation import renamed
from ..kernels import Array
from ..models import Model
from ..models.layers import Linear
from ..tensor import Function, Tensor
from .group import Group


@dataclass(eq=False)
class GatherRows(Function):
    """The processes' rows, one below the other: (N, F) -> (size N, F)."""

    group: Group

    def forward(self, x: Array) -> Array:
        return self.group.all_gather(_contiguous(x)).reshape(-1, x.shape[1])

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        return (self.group.reduce_scatter(_contiguous(dy).reshape(self.group.size, -1, dy.shape[1])),)


@dataclass(eq=False)
class GatherColumns(Function):
    """The processes' columns, one beside the other: (N, own) -> (N, columns), where process r has ``_own(r)``."""

    group: Group
    columns: int

    def forward(self, x: Array) -> Array:
        blocks = backend.zeros((len(x), self._widest), np.float32, self.device)
        blocks[:, : x.shape[1]] = x
        gathered = self.group.all_gather(blocks)
        y = backend.empty((len(x), self.columns), np.float32, self.device)
        for r in range(self.group.size):
            own = self._own(r)
            y[:, own] = gathered[r][:, : own.stop - own.start]
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        blocks = backend.zeros((self.group.size, len(dy), self._widest), np.float32, self.device)
        for r in range(self.group.size):
            own = self._own(r)
            blocks[r][:, : own.stop - own.start] = dy[:, own]
        own = self._own(self.group.rank)
        return (_contiguous(self.group.reduce_scatter(blocks)[:, : own.stop - own.start]),)

    def _own(self, rank: int) -> slice:
        return share(self.columns, rank, self.group.size)

    @property
    def _widest(self) -> int:
        return -(-self.columns // self.group.size)


@dataclass(eq=False)
class OwnRows(Function):
    """This process's rows of the whole batch: (size N, F) -> (N, F)."""

    group: Group

    def forward(self, x: Array) -> Array:
        self.rows, N = len(x), len(x) // self.group.size
        self.own = slice(self.group.rank * N, (self.group.rank + 1) * N)
        return x[self.own].copy()

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        dx = backend.zeros((self.rows, dy.shape[1]), np.float32, self.device)
        dx[self.own] = dy
        return (dx,)


class ColumnParallelLinear(nn.Module):
    """A process's neurons of a fully-connected layer, and the outputs of all: (N, in) -> (N, out_features)."""

    def __init__(self, whole: nn.Linear, group: Group, device: backend.Device) -> None:
        super().__init__()
        self.group, self.out_features, self.activation = group, len(whole.w.data), whole.activation
        own = share(self.out_features, group.rank, group.size)
        self.w = nn.Parameter(np.ascontiguousarray(whole.w.data[own]), device)
        self.b = None if whole.b is None else nn.Parameter(np.ascontiguousarray(whole.b.data[own]), device)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.activated(ops.linear(x, self.w, self.b, self.activation == "relu"), self.activation)
        return GatherColumns.apply(y, group=self.group, columns=self.out_features)


def check(model: Model, size: int) -> None:
    """ValueError when the model is no chain, has no fully-connected layers to share out to ``size`` processes, or one
    with fewer neurons than processes."""
    if not model.chain:
        raise ValueError(f"model {model.name} is a graph, which hybrid parallelism cannot share out; data can")
    layers = [layer for layer in model.layers if isinstance(layer, Linear)]
    if not layers:
        raise ValueError(f"model {model.name} has no fully-connected layers, which hybrid parallelism shares out")
    for layer in layers:
        if layer.features < size:
            raise ValueError(f"model {model.name}: {layer.name} has {layer.features} neurons for {size} processes")


class Hybrid(nn.Module):
    """A model over a group of processes. forward: this process's images (N, H, W, C) -> their logits (N, classes).

    Its initial weights are those of ``model.build``. ``state``, ``load_state`` and the optimizer's arrays speak of the
    whole network, so checkpoints move; ``state`` and ``whole`` have to be called by all processes.
    """

    def __init__(self, model: Model, device: backend.Device, group: Group, seed: int = 0) -> None:
        """ValueError as of ``check``."""
        super().__init__()
        check(model, group.size)
        self.model, self.device, self.group, self.initial_seed = model, device, group, seed
        self._whole: dict[str, tuple[int, ...]] = {}  # shapes of the arrays of which this process has some rows
        for row, module in model.modules(backend.Device("cpu"), seed):
            name = row.layer.name
            if isinstance(module, nn.Linear):
                for key, t in module.named_parameters():
                    self._whole[f"{name}.{key}"] = t.shape
                module = ColumnParallelLinear(module, group, device)
            elif row.parameters:
                module = _moved(module, device)
            setattr(self, name, module)
        self.seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        gathered = False
        for _, module in self.children():
            if isinstance(module, ColumnParallelLinear) and not gathered:
                x, gathered = GatherRows.apply(x, group=self.group), True
            x = module(x)
        return OwnRows.apply(x, group=self.group)

    def seed(self, seed: int, step: int = 0, row: int = 0) -> None:
        super().seed(seed, step, row)
        gathered = False
        for _, module in self.children():
            gathered = gathered or isinstance(module, ColumnParallelLinear)
            if isinstance(module, nn.Dropout) and gathered:
                module.row = 0  # it sees the whole batch

    def set_precision(self, precision: str) -> None:
        if precision != "fp32":
            raise ValueError(
                f"precision: hybrid parallelism computes in 'fp32' alone, data parallelism in {precision!r}, too"
            )

    def replicated(self) -> list[nn.Parameter]:
        """The parameters that every process has, whose gradients are to be added up."""
        return [p for name, p in self.named_parameters() if name not in self._whole]

    def whole(self) -> nn.Module:
        """The undivided network with these weights, on this process's device."""
        network = self.model.build(self.device, self.initial_seed)
        network.load_state(self.state())
        return network

    def merged(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: self._joined(key, array) for key, array in arrays.items()}

    def _joined(self, key: str, own: np.ndarray) -> np.ndarray:
        shape = self._whole.get(key.rpartition("/")[2])
        if shape is None:
            return own
        padded = np.zeros((-(-shape[0] // self.group.size), *shape[1:]), np.float32)
        padded[: len(own)] = own
        parts = backend.to_host(self.group.all_gather(backend.from_host(padded, self.device)))
        places = [share(shape[0], r, self.group.size) for r in range(self.group.size)]
        return np.concatenate([part[: p.stop - p.start] for part, p in zip(parts, places, strict=True)])

    def sharded(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        parts = {}
        for key, array in arrays.items():
            shape = self._whole.get(key.rpartition("/")[2])
            if shape is not None and array.shape != shape:
                raise ValueError(f"{key}: expected shape {shape}, got {array.shape}")
            parts[key] = array if shape is None else array[share(shape[0], self.group.rank, self.group.size)]
        return parts


def share(count: int, rank: int, size: int) -> slice:
    """Which of ``count`` neurons a process has: consecutive ones, as many as others or one less."""
    most, full = -(-count // size), count % size or size  # so many processes have that many
    first = rank * most - max(0, rank - full)
    return slice(first, first + most - (rank >= full))


def _moved(module: nn.Module, device: backend.Device) -> nn.Module:
    """The module, made on the CPU, with its arrays on the device."""
    moved = copy.copy(module)
    for key, t in vars(module).items():
        if isinstance(t, Tensor):
            setattr(moved, key, type(t)(t.data, device=device))
    return moved


def _contiguous(x: Array) -> Array:
    return backend.array_module(x).ascontiguousarray(x)


if not TYPE_CHECKING:  # to which any name would then be right
    __getattr__ = renamed(__name__, {"LinearShare": "ColumnParallelLinear"})
