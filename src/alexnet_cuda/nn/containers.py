"""Networks of modules: one after the other, and graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, overload

from .. import backend, ops
from ..suggest import nearest
from ..tensor import Tensor
from .module import Module

Cost = Literal["softmax", "logistic", "squares"]


class _Named(Module):
    """Base of modules whose attributes, by any names, are their children."""

    def _add(self, name: str, module: Module) -> None:
        owner = type(self).__name__
        if not isinstance(module, Module):
            raise TypeError(f"{owner}: {name}: expected a Module, got {type(module).__name__}")
        if hasattr(self, name):
            raise ValueError(f"{owner}: {name!r} is taken by Module; choose another name")
        setattr(self, name, module)

    def __len__(self) -> int:
        return len(list(self.children()))

    def _at(self, place: int) -> Module:
        children = [module for _, module in self.children()]
        if not -len(children) <= place < len(children):
            raise IndexError(f"{type(self).__name__}: expected an index below {len(children)}, got {place}")
        return children[place]

    def _by_name(self, name: str) -> Module:
        known = dict(self.children())
        if name not in known:
            listed = ", ".join(known) or "no names"
            raise KeyError(f"{type(self).__name__}: expected one of {listed}, got {name!r}{nearest(str(name), known)}")
        return known[name]


class Sequential(_Named):
    """Child modules called one after the other: ``named``, as in ``Sequential(conv1=Conv2d(...),
    pool1=MaxPool2d(...))``, or ``modules`` without names, which are then "0", "1" and so on. ``net["conv1"]`` and
    ``net[0]`` are children, ``net[:2]`` is a Sequential of the first two, which share their parameters; ``len`` and
    iteration go over the children. TypeError for what is no module, ValueError for a name that modules have."""

    def __init__(self, *modules: Module, **named: Module) -> None:
        super().__init__()
        for name, module in [*((str(i), m) for i, m in enumerate(modules)), *named.items()]:
            self._add(name, module)

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.children())

    @overload
    def __getitem__(self, place: str | int) -> Module: ...
    @overload
    def __getitem__(self, place: slice) -> Sequential: ...
    def __getitem__(self, place: str | int | slice) -> Module:
        if isinstance(place, slice):
            return Sequential(**dict(list(self.children())[place]))
        return self._at(place) if isinstance(place, int) else self._by_name(place)

    def forward(self, x: Tensor) -> Tensor:
        return in_turn([module for _, module in self.children()], x)

    def steps(self, x: Tensor) -> Iterator[tuple[str, Module, Tensor]]:
        """Of the input x each child's name, itself and its output, one after the other: none is fused with the next."""
        for name, module in self.children():
            x = module(x)
            yield name, module, x


class ModuleList(_Named):
    """Modules in a list, found as children by the names "0", "1" and so on: ``modules`` to begin with, ``append`` and
    ``extend`` for more. It has length, iteration and index, and cannot be called. TypeError for what is no module."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def append(self, module: Module) -> ModuleList:
        """Adds a ``module`` at the end. Returns self."""
        self._add(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Adds ``modules`` at the end. Returns self."""
        for module in modules:
            self.append(module)
        return self

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.children())

    def __getitem__(self, place: int) -> Module:
        return self._at(place)

    def forward(self, *xs: Tensor) -> Tensor:
        """TypeError: it computes nothing of inputs xs."""
        raise TypeError("ModuleList: it holds modules and computes nothing: call them, or use Sequential")


class ModuleDict(_Named):
    """Modules by name, found as children: ``modules`` to begin with, ``d[name] = module`` for more. It has length,
    ``in``, ``keys``, ``values`` and ``items``, iterates over the names, and cannot be called. TypeError for what is no
    module, ValueError for a name that modules have."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        for name, module in (modules or {}).items():
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        if name in self and isinstance(module, Module):
            setattr(self, name, module)
        else:
            self._add(name, module)

    def __getitem__(self, name: str) -> Module:
        return self._by_name(name)

    def __contains__(self, name: object) -> bool:
        return name in dict(self.children())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> list[str]:
        """The names."""
        return [name for name, _ in self.children()]

    def values(self) -> list[Module]:
        """The modules."""
        return [module for _, module in self.children()]

    def items(self) -> list[tuple[str, Module]]:
        """Names and modules."""
        return list(self.children())

    def forward(self, *xs: Tensor) -> Tensor:
        """TypeError: it computes nothing of inputs xs."""
        raise TypeError("ModuleDict: it holds modules and computes nothing: call them by their names")


def in_turn(modules: Sequence[Module], x: Tensor) -> Tensor:
    """The last one's output for the input x; neighbours are fused where they can be."""
    place = 0
    while place < len(modules):
        pair = modules[place : place + 2]
        watched = any(module.has_hooks for module in pair)
        fused = pair[0].fused_with(pair[1]) if len(pair) == 2 and not watched else None
        x, place = (pair[0](x), place + 1) if fused is None else (pair[0].within(fused, x), place + 2)
    return x


class Node(NamedTuple):
    """A module in a ``Graph``: the names of its inputs, "" for the images, and where it runs."""

    name: str
    module: Module
    inputs: tuple[str, ...]
    device: backend.Device


class Graph(Sequential):
    """Child modules, the ``nodes``, that take the outputs of any that come before them, each on a device of its own.
    The last one's output is the network's. ``cost`` names the loss that it is trained with."""

    def __init__(self, nodes: Iterable[Node], cost: Cost = "softmax") -> None:
        """ValueError for a name that is taken, or an input that does not come before its user."""
        super().__init__()
        self.cost: Cost = cost
        self._nodes: list[Node] = []
        self._last_use: dict[str, str] = {}
        for node in nodes:
            if hasattr(self, node.name):
                raise ValueError(f"Graph: {node.name!r} is taken; choose another name")
            for name in node.inputs:
                if name and name not in self._last_use:
                    raise ValueError(f"Graph: {node.name}: {name!r} does not come before it")
                self._last_use[name] = node.name
            self._last_use[node.name] = ""
            self._nodes.append(node)
            setattr(self, node.name, node.module)

    def forward(self, *images: Tensor) -> Tensor:
        """The output, on the device of the first images. images: the batch, on one device or several."""
        y = images[0]
        for step in self.steps(*images):
            y = step[-1]
        return y.to(images[0].device)

    def steps(self, *images: Tensor) -> Iterator[tuple[str, Module, Tensor]]:
        """Of the ``images``, as ``forward`` takes them, each child's name, itself and its output, one after the other;
        outputs are kept until their last use."""
        there = {x.device: x for x in images}
        held: dict[str, Tensor] = {}
        for name, module, inputs, device in self._nodes:
            xs = [held[i] if i else there.get(device, images[0]) for i in inputs]
            with backend.on(device):
                y = held[name] = module(*(x.to(device) for x in xs))
            for i in {i for i in inputs if i and self._last_use[i] == name}:
                del held[i]
            yield name, module, y

    def loss(self, y: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of outputs y and labels as of ``Module.loss``, by the ``cost``."""
        return {
            "softmax": ops.softmax_cross_entropy,
            "logistic": ops.logistic_cross_entropy,
            "squares": ops.squared_error,
        }[self.cost](y, labels)
