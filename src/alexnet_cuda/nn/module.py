"""The bases of all modules, of layers that multiply and of those that draw random numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from .. import backend, ops, trace
from ..deprecation import OldName
from ..kernels import PRECISIONS, Array, Precision
from ..tensor import Function, Tensor, check_tensors
from .parameters import Buffer, Parameter

T = TypeVar("T", bound=Tensor)
V = TypeVar("V")
ForwardHook = Callable[["Module", tuple[Tensor, ...], Tensor], Tensor | None]
BackwardHook = Callable[["Module", Array], Array | None]
_purposes = itertools.count()


class StateDifferences(NamedTuple):
    """Names in which a network and a state differ: arrays that the state lacks, those that the network has no place
    for, and those of another shape."""

    missing: list[str]
    surplus: list[str]
    reshaped: list[str]


class Module:
    """Base of layers and networks: ``forward`` computes, the attributes hold parameters, buffers and children."""

    takes_bfloat16: ClassVar[bool] = False
    """Whether a layer takes inputs in bfloat16."""

    training: bool = True
    """Whether dropout drops: ``train`` and ``eval`` switch it."""
    label: str = ""
    """The name by which it was last made a part of another module, for traces."""

    def __init__(self) -> None:
        self.training = True

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, Module):
            value.label = name
        super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """The output for the input x, or for the inputs xs: what calling the module computes."""
        raise NotImplementedError

    def __call__(self, *inputs: Tensor) -> Tensor:
        check_tensors(type(self).__name__, inputs)
        y = self.within(self.forward, *inputs)
        return self._hooked(inputs, y) if self.has_hooks else y

    # ---- hooks

    @property
    def has_hooks(self) -> bool:
        """Whether somebody looks on; then the module is not fused with another."""
        return bool(vars(self).get("_forward_hooks") or vars(self).get("_backward_hooks"))

    def register_forward_hook(self, hook: ForwardHook) -> Hook:
        """From now on ``hook(module, inputs, output)`` is called after each call of the module; a Tensor that it
        returns is the output in its place. ``remove`` of what is returned ends it, as does ``with``."""
        return Hook(vars(self).setdefault("_forward_hooks", {}), hook)

    def register_backward_hook(self, hook: BackwardHook) -> Hook:
        """From now on ``hook(module, dy)`` is called in each backward pass with the gradient of the module's output, an
        array, before that of its inputs is computed; an array that it returns goes back in its place. It ends as
        ``register_forward_hook`` says."""
        return Hook(vars(self).setdefault("_backward_hooks", {}), hook)

    def _hooked(self, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
        name = type(self).__name__
        for hook in list(vars(self).get("_forward_hooks", {}).values()):
            other = hook(self, inputs, y)
            if not isinstance(other, (Tensor, type(None))):
                raise TypeError(f"{name}: a forward hook returns a Tensor or None, got {type(other).__name__}")
            y = y if other is None else other
        hooks = list(vars(self).get("_backward_hooks", {}).values())
        return Watched.apply(y, module=self, hooks=hooks) if hooks and y.requires_grad else y

    def __repr__(self) -> str:
        """A table: names, layers, shapes of the parameters, and how many there are."""
        rows = [(name, type(m).__name__, m._own_parameters(), count(m)) for name, m in self.named_modules()]
        texts = [
            ("  " * (name.count(".") + 1) * bool(name) + name.rpartition(".")[2], kind, own, f"{total:,}")
            for name, kind, own, total in rows
        ]
        texts[0] = (rows[0][1], "", *texts[0][2:])
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        lines = (
            f"{name:{widths[0]}}  {kind:{widths[1]}}  {own:{widths[2]}}  {total:>{widths[3]}}"
            for name, kind, own, total in texts
        )
        return "\n".join(lines)

    def _own_parameters(self) -> str:
        own = found(self, Parameter)
        return ", ".join(f"{name} {p.shape}" + " frozen" * (p.lr_scale == 0) for name, p in own)

    def within(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """What ``function`` makes of the inputs, in a trace as this module's work."""
        if not trace.active():
            return function(*inputs)
        with trace.within(self.label):
            return function(*inputs)

    def loss(self, y: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch whose output is y (N, classes), labels (N,): a scalar, that of softmax and
        cross-entropy unless the network has another."""
        return ops.softmax_cross_entropy(y, labels)

    def fused_with(self, following: Module) -> Callable[[Tensor], Tensor] | None:
        """What computes this module and then the ``following`` one, to the same bits and in fewer passes over memory;
        None where nothing does."""
        return None

    def children(self) -> Iterator[tuple[str, Module]]:
        """Child modules with their names, in the order in which they were assigned. Those in lists, tuples and dicts
        are children, too, by names such as ``layers.0``."""
        return found(self, Module)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """``children`` by the name that PyTorch's users look for."""
        return self.children()

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """This module, whose name is "", and all below it with dotted names, each once."""
        seen = set[int]()

        def below(module: Module, prefix: str) -> Iterator[tuple[str, Module]]:
            if id(module) not in seen:
                seen.add(id(module))
                yield prefix, module
                for name, child in module.children():
                    yield from below(child, f"{prefix}.{name}".lstrip("."))

        return below(self, "")

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def set_precision(self, precision: str) -> None:
        """Has all layers below multiply in this precision. Inputs are to be stored as ``kernels.storage`` says.
        ValueError, with nothing changed, for an unknown one, and for "bf16" where a layer takes float32 alone."""
        known = next((p for p in PRECISIONS if p == precision), None)
        if known is None:
            raise ValueError(f"precision: expected {' or '.join(map(repr, PRECISIONS))}, got {precision!r}")
        if known == "bf16":
            self._check_bfloat16("")
        for module in self.modules():
            if isinstance(module, Product):
                module.precision = known

    def _check_bfloat16(self, name: str) -> None:
        children = list(self.children())
        if not children and not self.takes_bfloat16:
            raise ValueError(
                f"precision: 'bf16' needs layers that take bfloat16; {name}, {type(self).__name__}, is none"
            )
        for child, module in children:
            module._check_bfloat16(f"{name}.{child}".lstrip("."))

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with dotted names such as ``conv1.w``; one that has several names, as its weights are tied, by
        the first."""
        return once(self._named(Parameter))

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """All buffers with dotted names such as ``norm1.running_mean``."""
        return once(self._named(Buffer))

    def _named(self, kind: type[T], prefix: str = "") -> Iterator[tuple[str, T]]:
        for name, value in found(self, kind):
            yield prefix + name, value
        for name, child in self.children():
            yield from child._named(kind, f"{prefix}{name}.")

    def parameters(self) -> list[Parameter]:
        """All parameters, in the order of ``named_parameters``."""
        return [p for _, p in self.named_parameters()]

    def train(self, training: bool = True) -> Module:
        """Switches all modules to training (dropout drops) or, with False, to evaluation. Returns self."""
        for module in self.modules():
            module.training = training
        return self

    def eval(self) -> Module:
        """``train(False)``. Returns self."""
        return self.train(False)

    def to(self, device: str | backend.Device) -> Module:
        """Moves all parameters and buffers to the device. Returns self."""
        target = backend.device(device)
        for t in self._kept().values():
            t.data, t.device, t.gradient = backend.to_device(t.data, target), target, None
        return self

    def seed(self, seed: int, step: int = 0, row: int = 0) -> None:
        """Makes all random layers below a function of ``seed`` and of how many training passes came before
        (``step``): called with the values of a checkpoint, a run goes on with the masks it would have had. Inputs that
        are part of a batch, from its ``row`` on, get that part of its masks."""
        random = (m for m in self.modules() if isinstance(m, Random))
        for purpose, module in enumerate(random):
            module.key, module.step, module.purpose, module.row = seed, step, purpose, row

    def draw_from(self, states: Mapping[backend.Device, Array]) -> None:
        """Sets the ``Random.states`` of all random layers below."""
        for module in self.modules():
            if isinstance(module, Random):
                module.states = states

    def state(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers as NumPy arrays, by name; what has several names is there by each."""
        return self.merged({name: t.numpy().copy() for name, t in self._kept().items()})

    def merged(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays by the names of parameters and buffers, perhaps after ``slot/``, as they are saved: by other names, in
        a network that keeps its arrays in parts."""
        return dict(arrays)

    def sharded(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The inverse of ``merged``: ``arrays`` as they are saved, as this network keeps them. ValueError for an array
        of another shape."""
        return dict(arrays)

    joined, parted, joined_with = OldName("merged"), OldName("sharded"), OldName("fused_with")

    def _kept(self) -> dict[str, Tensor]:
        return {**dict(self._named(Parameter)), **dict(self._named(Buffer))}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets all parameters and buffers to the arrays of ``state``. ValueError, with nothing changed, when a name is
        missing or surplus or a shape or dtype differs."""
        self._load("load_state", state, strict=True)

    def state_dict(self) -> dict[str, np.ndarray]:
        """``state`` by the name that PyTorch's users look for."""
        return self.state()

    def load_state_dict(self, state: Mapping[str, np.ndarray], strict: bool = True) -> StateDifferences:
        """``load_state`` of ``state``; without ``strict`` only of what fits, the rest stays as it is. Returns what does
        not fit. ValueError, with nothing changed, for arrays that are not float32, and with ``strict`` as
        ``load_state``."""
        return self._load("load_state_dict", state, strict)

    def _load(self, operation: str, state: Mapping[str, np.ndarray], strict: bool) -> StateDifferences:
        kept, state = self._kept(), self.sharded(state)
        differences = StateDifferences(
            missing=[name for name in kept if name not in state],
            surplus=[name for name in state if name not in kept],
            reshaped=[name for name, t in kept.items() if name in state and state[name].shape != t.shape],
        )
        wrong = [name for name in kept if name in state and state[name].dtype != np.float32]
        problems = []
        if strict:
            problems += [f"missing {name}" for name in differences.missing]
            problems += [f"surplus {name}" for name in differences.surplus]
            wrong = [name for name in kept if name in {*wrong, *differences.reshaped}]
        for name in wrong:
            got = state[name]
            problems.append(f"{name}: expected float32 {kept[name].shape}, got {got.dtype} {got.shape}")
        if problems:
            raise ValueError(f"{operation}: " + "; ".join(problems))
        for name, t in kept.items():
            if name not in differences.missing and name not in differences.reshaped:
                t.data = backend.from_host(np.asarray(state[name], order="C"), t.device)
        return differences


def found(module: Module, kind: type[V]) -> Iterator[tuple[str, V]]:
    """What of that kind a module's attributes are or hold, in lists, tuples and dicts of any depth; not what is in
    other modules."""

    def inside(name: str, value: Any) -> Iterator[tuple[str, V]]:
        if isinstance(value, kind):
            yield name, value
        elif type(value) in (list, tuple, dict):
            for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
                yield from inside(f"{name}.{key}", entry)

    for name, value in list(vars(module).items()):
        yield from inside(name, value)


def once(named: Iterator[tuple[str, V]]) -> Iterator[tuple[str, V]]:
    """Each of the things by its first name."""
    seen = set[int]()
    for name, value in named:
        if id(value) not in seen:
            seen.add(id(value))
            yield name, value


def count(module: Module) -> int:
    """How many numbers its parameters are."""
    return sum(math.prod(p.shape) for p in module.parameters())


class Hook:
    """A registered ``hook``, one of the ``hooks`` that its module calls: ``remove`` ends it, as does leaving ``with``
    it."""

    def __init__(self, hooks: dict[int, Any], hook: Any) -> None:
        self._hooks = hooks
        self._hooks[id(self)] = hook

    def remove(self) -> None:
        """The hook is not called any more."""
        self._hooks.pop(id(self), None)

    def __enter__(self) -> Hook:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


@dataclass(eq=False)
class Watched(Function):
    """A module's output, whose gradient its backward hooks see."""

    module: Module
    hooks: list[BackwardHook]

    def forward(self, y: Array) -> Array:
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        for hook in self.hooks:
            other = hook(self.module, dy)
            if other is not None and not (
                backend.is_array(other) and (other.shape, other.dtype) == (dy.shape, dy.dtype)
            ):
                got = f"{other.shape} and {other.dtype}" if backend.is_array(other) else type(other).__name__
                raise ValueError(
                    f"{type(self.module).__name__}: a backward hook returns None or an array of shape {dy.shape} and "
                    f"{dy.dtype}, got {got}"
                )
            dy = dy if other is None else other
        return (dy,)


class Product(Module):
    """Base of layers that multiply, in their ``precision``."""

    precision: Precision


class Random(Module):
    """Base of layers that draw random numbers, a function of (key, purpose, step, row): the step counts training
    passes, row is the place of the input's first row in a larger batch; ``Module.seed`` sets all four. ``states`` may
    hold key and step as an array (2,) of uint64 on a device, which is then read instead of the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.step, self.purpose, self.row = 0, 0, next(_purposes), 0
        self.states: Mapping[backend.Device, Array] = {}
