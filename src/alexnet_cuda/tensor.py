"""Automatic differentiation on a page: Tensor, Function, backward.

A Function is one operation; calling it on tensors runs ``forward`` on their arrays and remembers where the inputs came
from. ``Tensor.backward`` walks those memories in reverse, calls each ``backward`` once, and adds up what arrives at the
tensors that asked for a gradient. The graph holds functions and what they saved, not the tensors in between, so an
array that no backward pass needs is freed as soon as the forward pass has moved on. A graph may span devices, joined by
``Tensor.to``; then each device runs its part of the backward pass while the others run theirs.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import backend, kernels, trace
from .deprecation import renamed
from .kernels import FLOATS, Array

T = TypeVar("T")
operations: dict[str, Callable[..., Tensor]] = {}
"""What the operators and methods of tensors do: functions of ``ops``, which stands above and puts them here."""
_grad_enabled: ContextVar[bool] = ContextVar("grad_enabled", default=True)
Heard = Callable[["Function", dict[str, Any], "tuple[Tensor | None, ...]", "Tensor"], None]
Looked = Callable[["Tensor"], None]
_recording: ContextVar[tuple[Heard, Looked] | None] = ContextVar("recording", default=None)


@contextmanager
def no_grad() -> Iterator[None]:
    """Within this block (of this thread) operations record nothing: less memory, no gradients."""
    token = _grad_enabled.set(False)
    try:
        yield
    finally:
        _grad_enabled.reset(token)


@contextmanager
def recording(heard: Heard, looked: Looked = lambda x: None) -> Iterator[None]:
    """Within this block (of this thread) ``heard(function, options, inputs, output)`` is called after each operation,
    with what ``apply`` got, and ``looked(tensor)`` before the host sees a tensor's values."""
    token = _recording.set((heard, looked))
    try:
        yield
    finally:
        _recording.reset(token)


class Tensor:
    """An array on a device, and how it was computed.

    data: a NumPy or CuPy array, or anything numpy.asarray makes one of (then put on ``device``, default the CPU);
    Python and NumPy floats become float32. ``grad`` is None until a backward pass reaches a tensor with
    ``requires_grad``; from then on it is an array that further passes add to. TypeError where values that are not
    float32 or bfloat16 are to require one.
    """

    gradient: Array | LazyGradient | None
    """``grad``, or what makes it once it is looked at."""

    def __init__(self, data: Any, requires_grad: bool = False, device: str | backend.Device | None = None) -> None:
        if not backend.is_array(data):
            data = np.asarray(data)
        if data.dtype == np.float64:
            data = data.astype(np.float32)
        if requires_grad and data.dtype not in FLOATS:
            raise TypeError(f"Tensor: only float32 and bfloat16 tensors can require a gradient, got {data.dtype}")
        self.device = backend.device_of(data) if device is None else backend.device(device)
        self.data: Array = backend.to_device(data, self.device)
        self.requires_grad = requires_grad
        self.gradient = None
        self.function: Function | None = None

    @property
    def grad(self) -> Array | None:
        """The sum of all gradients that have come here, shaped as the values; None before the first."""
        self.gradient = _computed(self.gradient)
        return self.gradient

    @grad.setter
    def grad(self, gradient: Array | None) -> None:
        self.gradient = gradient

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the values' dimensions."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """How the values are stored: float32 or bfloat16, or what labels have."""
        return self.data.dtype

    def detach(self) -> Tensor:
        """The same values, in the same memory, as a tensor that was not computed: no gradient passes it."""
        return _result(self.data, self.device)

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array (waits for the device): on a CPU in the same memory, else a copy."""
        if recorder := _recording.get():
            recorder[1](self)
        return backend.to_host(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """What ``numpy.asarray(tensor)`` calls: ``numpy()``, converted to ``dtype`` if that is another. ValueError if
        that needs a copy and ``copy`` is False."""
        if copy is False and self.device.kind != "cpu":
            raise ValueError(f"Tensor: values on {self.device} cannot be had as a NumPy array without a copy")
        return np.array(self.numpy(), dtype, copy=copy)

    __array_ufunc__ = None  # a result of NumPy's own functions would have lost its gradient without a word

    def item(self) -> float:
        """The value of a tensor with one element."""
        return float(self.numpy().reshape(()))

    def to(self, device: str | backend.Device) -> Tensor:
        """The same values on another device, from where gradients come back; self if it is there already."""
        return self.send(device)()

    def send(self, device: str | backend.Device) -> Callable[[], Tensor]:
        """Begins ``to``; the function returned ends it. What is started in between need not wait for the copy."""
        target, arrivals = backend.device(device), list[Callable[[], None]]()
        if target == self.device:
            return lambda: self
        y = Copy.apply(self, source=self.device, device=target, arrivals=arrivals)

        def receive() -> Tensor:
            arrivals[0]()
            return y

        return receive

    def __repr__(self) -> str:
        kind = f"shape={self.shape}, dtype={self.dtype}, device='{self.device}', requires_grad={self.requires_grad}"
        name = type(self).__name__
        return f"{name}({np.array2string(self.numpy(), threshold=100, separator=', ', prefix=f'{name}(')}, {kind})"

    # ---- arithmetic, by NumPy's rules of broadcasting; operands are tensors, numbers, or arrays without gradient

    def __add__(self, other: Any) -> Tensor:
        return operations["add"](self, other)

    def __radd__(self, other: Any) -> Tensor:
        return operations["add"](other, self)

    def __sub__(self, other: Any) -> Tensor:
        return operations["subtract"](self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return operations["subtract"](other, self)

    def __mul__(self, other: Any) -> Tensor:
        return operations["multiply"](self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return operations["multiply"](other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return operations["divide"](self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return operations["divide"](other, self)

    def __pow__(self, other: Any) -> Tensor:
        return operations["power"](self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return operations["power"](other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return operations["matmul"](self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return operations["matmul"](other, self)

    def __neg__(self) -> Tensor:
        return operations["multiply"](self, -1)

    def __abs__(self) -> Tensor:
        return operations["absolute"](self)

    def _in_place(self, other: Any) -> Any:
        """``x += y`` makes a new tensor, which x then names: right wherever the tensor itself is of no account."""
        if type(self) is not Tensor or (self.requires_grad and self.function is None):
            raise TypeError(
                f"{type(self).__name__}: += and the like would leave it as it is and only name another tensor: "
                "optimizers update parameters, x.data[...] = values sets values, x = x + y computes"
            )
        return NotImplemented

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __imatmul__ = _in_place

    # ---- comparisons: 1 or 0, without gradient

    def __eq__(self, other: object) -> Any:
        return operations["equal"](self, other) if _comparable(other) else NotImplemented

    def __ne__(self, other: object) -> Any:
        return operations["not_equal"](self, other) if _comparable(other) else NotImplemented

    __hash__ = object.__hash__

    def __lt__(self, other: Any) -> Tensor:
        return operations["less"](self, other)

    def __le__(self, other: Any) -> Tensor:
        return operations["less_equal"](self, other)

    def __gt__(self, other: Any) -> Tensor:
        return operations["less"](other, self)

    def __ge__(self, other: Any) -> Tensor:
        return operations["less_equal"](other, self)

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise ValueError(
                f"Tensor: expected one value to be true or false, got shape {self.shape}: "
                "(x > 0).sum() counts, (x > 0).mean() tells the share"
            )
        return bool(self.item())

    def __float__(self) -> float:
        return self.item()

    # ---- parts

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("Tensor: expected at least one axis for len, got shape ()")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        """Along the first axis."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, places: Any) -> Tensor:
        return operations["index"](self, places)

    def __setitem__(self, places: Any, value: Any) -> None:
        raise TypeError(
            "Tensor: x[...] = y would hide from the backward pass what x was: ops.where and ops.concat make a new one, "
            "x.data[...] = values sets values of a tensor that was not computed"
        )

    def reshape(self, *shape: int | tuple[int, ...]) -> Tensor:
        """``ops.reshape``; the shape as a tuple or as its numbers."""
        sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        return operations["reshape"](self, tuple(sizes))

    def transpose(self, *axes: int | tuple[int, ...]) -> Tensor:
        """``ops.transpose``; the order of axes as a tuple or as its numbers, reversed without."""
        order = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        return operations["transpose"](self, order or None)

    @property
    def T(self) -> Tensor:
        """The axes reversed."""
        return operations["transpose"](self)

    # ---- functions

    def sum(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
        """``ops.sum`` over ``axis``, with ``keepdims``."""
        return operations["sum"](self, axis, keepdims)

    def mean(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
        """``ops.mean`` over ``axis``, with ``keepdims``."""
        return operations["mean"](self, axis, keepdims)

    def max(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
        """``ops.max`` over ``axis``, with ``keepdims``."""
        return operations["max"](self, axis, keepdims)

    def exp(self) -> Tensor:
        """``ops.exp``."""
        return operations["exp"](self)

    def log(self) -> Tensor:
        """``ops.log``."""
        return operations["log"](self)

    def sqrt(self) -> Tensor:
        """``ops.sqrt``."""
        return operations["sqrt"](self)

    def clip(self, low: float = -math.inf, high: float = math.inf) -> Tensor:
        """``ops.clip``."""
        return operations["clip"](self, low, high)

    def backward(self, dy: Array | None = None, done: Callable[[Tensor], None] = lambda t: None) -> None:
        """Adds d(self)/dt, times ``dy`` (default 1, for a tensor of one element), to the ``grad`` of each tensor t that
        self was computed from; ``done(t)`` is called once all has been added, while the pass goes on. The graph is
        freed on the way: a second call needs a second forward pass. RuntimeError where there is no graph, ValueError
        for ``dy`` of another shape or dtype."""
        if self.function is None:
            raise RuntimeError(
                "backward: this tensor was not computed from one that requires a gradient, or its graph was freed"
            )
        if dy is None:
            if self.data.size != 1:
                raise ValueError(f"backward: a tensor of shape {self.shape} needs dy of that shape")
            dy = backend.from_host(np.ones(self.shape, self.data.dtype), self.device)
        elif dy.shape != self.shape or dy.dtype != self.data.dtype:
            raise ValueError(
                f"backward: expected dy of shape {self.shape} and {self.data.dtype}, got {dy.shape} and {dy.dtype}"
            )
        order = _topological(self.function)
        _fuse_relu_backward(order)
        arrived: dict[Function, Array] = {self.function: dy}
        self.function = None
        if len({f.device for f in order}) > 1:
            _backward_on_devices(order, dy, done)
            return
        awaited = Counter(source for f in order for source in f.sources if isinstance(source, Tensor))
        while order:
            f = order.pop()
            gradients = f.differentiate(arrived.pop(f))
            for source, dx in zip(f.sources, gradients, strict=True):
                if isinstance(source, Tensor):
                    source.gradient = dx if source.gradient is None else _added(source.grad, _computed(dx))
                    awaited[source] -= 1
                    if not awaited[source]:
                        done(source)
                elif source is not None:
                    arrived[source] = _added(arrived[source], dx) if source in arrived else dx
            f.__dict__.clear()


class LazyGradient:
    """A gradient that is not computed before somebody looks at it: who updates a parameter may not need the array. Only
    of a tensor that was not computed itself."""

    def compute(self) -> Array:
        """The gradient as an array."""
        raise NotImplementedError


def _computed(gradient: Any) -> Any:
    return gradient.compute() if isinstance(gradient, LazyGradient) else gradient


def _added(a: Array, b: Array) -> Array:
    """The sum of two gradients of one tensor, which have its shape."""
    return kernels.broadcast("add", a, b)


def _comparable(other: object) -> bool:
    """Whether it may be equal to a tensor's values; all else is not the tensor."""
    return isinstance(other, (Tensor, int, float, np.floating, np.integer)) or backend.is_array(other)


class Function:
    """One operation. Subclasses say how to compute it and its gradients; keyword arguments of ``apply`` go to __init__.

    forward(*arrays) returns the output array and may keep on self what backward needs. backward(dy) returns one
    gradient for each input, or None where ``self.needs`` says it is not wanted; for a tensor that was not computed it
    may be ``LazyGradient``.
    """

    needs: tuple[bool, ...]
    sources: list[Tensor | Function | None]
    _inputs: list[tuple[tuple[int, ...], np.dtype[Any], backend.Device] | None]
    """What the gradients must be like, None where none is wanted."""
    device: backend.Device
    """Where the output lies, and ``backward`` runs."""
    layer: str = ""
    """Whose work it is, in a trace."""
    masks: float = 0.0
    """If not 0, ``backward`` multiplies its first gradient by this where its first input is above 0 and by 0 elsewhere:
    by the derivative of what made that input."""
    masked: bool = False
    """Whether what ``backward`` gets has been multiplied so by all who use the output."""

    def forward(self, *arrays: Array) -> Array:
        """The output for these inputs."""
        raise NotImplementedError

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        """The inputs' gradients for dy, that of the output."""
        raise NotImplementedError

    def rectified(self) -> float:
        """If the output y is a ReLU's, the derivative where y > 0, which is 0 elsewhere; else 0."""
        return 0.0

    def can_mask(self, factor: float) -> bool:
        """Whether ``masks`` may be ``factor``: for a kernel that has input and gradient at hand, it costs nothing."""
        return False

    def differentiate(self, dy: Array) -> tuple[Array | None, ...]:
        """``backward`` of dy, and its interval in a trace. TypeError and ValueError where what it returns are not the
        gradients of the inputs."""
        gradients = self._run("backward", self.backward, dy)
        self._check_gradients(gradients)
        return gradients

    def _check_gradients(self, gradients: Any) -> None:
        name = f"{type(self).__name__}.backward"
        if not isinstance(gradients, (tuple, list)):
            raise TypeError(f"{name}: expected a tuple of gradients, got {type(gradients).__name__}: return dx,")
        if len(gradients) != len(self._inputs):
            count = f"{len(self._inputs)} gradients, one for each input (None for one that needs none)"
            raise ValueError(f"{name}: expected {count}, got {len(gradients)}")
        for i, (dx, x) in enumerate(zip(gradients, self._inputs, strict=True)):
            if x is None or isinstance(dx, LazyGradient):
                continue
            shape, dtype, device = x
            expected = f"{name}: gradient {i}: expected an array of shape {shape} and {dtype} on {device}"
            if not backend.is_array(dx):
                hint = ": numpy.asarray makes an array of it" if isinstance(dx, np.generic) else ""
                raise TypeError(f"{expected}, got {type(dx).__name__}{hint}")
            where = backend.device_of(dx)
            if dx.shape != shape or dx.dtype != dtype or not backend.same_memory(where, device):
                raise ValueError(f"{expected}, got {dx.shape} and {dx.dtype} on {where}")

    def _run(self, which: str, function: Callable[..., T], *arrays: Array | None) -> T:
        """The function's result; its interval in a trace, and its name in an error."""
        try:
            if not trace.active():
                return function(*arrays)
            operation = type(self).__name__
            details = {"kind": "operation", "layer": self.layer, "pass": which, "operation": operation}
            clock = backend.clock(self.device)
            with trace.span(f"{self.layer or operation} {which}", self.device.row, clock, **details):
                return function(*arrays)
        except (MemoryError, RuntimeError) as e:
            e.add_note(f"in the {which} pass of {type(self).__name__}")
            raise

    @classmethod
    def apply(cls, *inputs: Tensor | None, **options: Any) -> Tensor:
        """The output for these inputs, on their device, as a tensor that knows how it was computed where a gradient is
        needed. ``options`` go to __init__. TypeError for what is no tensor, ValueError for inputs on several devices.
        """
        check_tensors(cls.__name__, inputs)
        f = cls(**options)
        first, *others = [t.device for t in inputs if t is not None]
        for other in others:
            if other is not first and other != first:
                raise ValueError(f"{cls.__name__}: expected inputs on one device, got {first} and {other}")
        f.device = getattr(f, "device", first)
        if trace.active():
            f.layer = trace.layer()
        enabled = _grad_enabled.get()
        f.needs = tuple([t is not None and t.requires_grad and enabled for t in inputs])
        data = f._run("forward", f.forward, *[None if t is None else t.data for t in inputs])
        if not backend.is_array(data):
            hint = ": numpy.asarray makes an array of it" if isinstance(data, np.generic) else ""
            raise TypeError(f"{cls.__name__}.forward: expected an array, got {type(data).__name__}{hint}")
        y = _result(data, f.device)
        if True in f.needs:
            f._inputs = [
                (t.shape, t.dtype, t.device) if t is not None and need else None
                for t, need in zip(inputs, f.needs, strict=True)
            ]
            f.sources = [
                (t.function or t) if t is not None and need else None for t, need in zip(inputs, f.needs, strict=True)
            ]
            y.function, y.requires_grad = f, True
        if recorder := _recording.get():
            recorder[0](f, options, inputs, y)
        return y


def check_tensors(user: str, inputs: Sequence[object]) -> None:
    """TypeError, in the name of the ``user``, for what is no tensor and not None."""
    for x in inputs:
        if x is not None and not isinstance(x, Tensor):
            raise TypeError(f"{user}: expected a Tensor, got {type(x).__name__}: Tensor(...) makes one")


def _result(data: Array, device: backend.Device) -> Tensor:
    """A tensor of what an operation has computed, which needs no checks."""
    y = Tensor.__new__(Tensor)
    y.data, y.device, y.requires_grad, y.grad, y.function = data, device, False, None, None
    return y


class Passthrough(Function):
    """An operation whose output consists of values of its input: a ReLU's output goes on as such, and a gradient that
    comes masked goes back masked."""

    def rectified(self) -> float:
        source = self.sources[0]
        return source.rectified() if isinstance(source, Function) else 0.0

    def can_mask(self, factor: float) -> bool:
        return self.masked


@dataclass(eq=False)
class Copy(Passthrough):
    """To another device; ``arrivals`` gets what must be called before the output is used."""

    source: backend.Device
    device: backend.Device
    arrivals: list[Callable[[], None]]

    def forward(self, x: Array) -> Array:
        y, arrive = backend.copy(x, self.source, self.device)
        self.arrivals.append(arrive)
        return y

    def backward(self, dy: Array) -> tuple[Array | None, ...]:
        dx, arrive = backend.copy(dy, self.device, self.source)
        arrive()
        return (dx,)


def _topological(root: Function) -> list[Function]:
    """The functions that ``root`` depends on, each after all it depends on; root last."""
    order: list[Function] = []
    seen: set[Function] = set()
    stack: list[tuple[Function, bool]] = [(root, False)]
    while stack:
        f, expanded = stack.pop()
        if expanded:
            order.append(f)
        elif f not in seen:
            if not hasattr(f, "sources"):
                raise RuntimeError("backward: part of the graph was freed by an earlier backward pass")
            seen.add(f)
            stack.append((f, True))
            stack.extend((s, False) for s in f.sources if isinstance(s, Function))
    return order


def _fuse_relu_backward(order: list[Function]) -> None:
    """Spares a ReLU the pass over its gradient where all who use its output can mask what they pass back to it."""
    for f in order:
        f.masked = f.rectified() > 0
    order[-1].masked = False
    for f in reversed(order):  # each after all who use its output
        for i, source in enumerate(f.sources):
            if isinstance(source, Function) and not (i == 0 and f.can_mask(source.rectified())):
                source.masked = False
    for f in order:
        source = f.sources[0]
        f.masks = source.rectified() if isinstance(source, Function) and source.masked else 0.0


def _backward_on_devices(order: list[Function], dy: Array, done: Callable[[Tensor], None]) -> None:
    """The backward pass of a graph that spans devices: each runs its own functions once their gradients are there.

    Gradients are added up in the order in which one thread would add them, so timing changes no bit.
    """
    place: dict[Function | Tensor, int] = {f: i for i, f in enumerate(order)}
    awaited = Counter(source for f in order for source in f.sources if source is not None)
    device = {node: node.device for node in (*order, *awaited)}
    arrived: dict[Function | Tensor, list[tuple[int, int, Array]]] = {node: [] for node in device}
    arrived[order[-1]].append((0, 0, dy))
    ready: dict[backend.Device, list[Function | Tensor]] = {where: [] for where in device.values()}
    ready[order[-1].device].append(order[-1])
    left, failed = len(device), False
    changed = threading.Condition()  # of all these

    def urgency(node: Function | Tensor) -> tuple[int, int]:
        if isinstance(node, Tensor):
            return 0, len(order)  # frees memory
        feeds_copy = any(isinstance(source, Copy) for source in node.sources)  # another device may wait for it
        return (2 if isinstance(node, Copy) else int(feeds_copy)), place[node]

    def work(where: backend.Device) -> Iterator[None]:
        """What the device has to do, node by node; yields before each, and goes on once it is ready."""
        nonlocal left
        while True:
            yield
            with changed:
                if failed or not left:
                    return
                if not ready[where]:
                    continue
                node = max(ready[where], key=urgency)
                ready[where] = [other for other in ready[where] if other is not node]  # tensors compare by values
                gradients = [dx for *_, dx in sorted(arrived.pop(node), key=lambda entry: entry[:2])]
            if isinstance(node, Tensor):
                first, *others = gradients if node.gradient is None else [node.gradient, *gradients]
                node.gradient = reduce(_added, map(_computed, others), _computed(first)) if others else first
                done(node)
                passed = []
            else:
                passed = list(zip(node.sources, node.differentiate(reduce(_added, gradients)), strict=True))
                node.__dict__.clear()
            with changed:
                left -= 1
                for i, (source, dx) in enumerate(passed):
                    if source is not None:
                        arrived[source].append((-place[node], i, dx))
                        if len(arrived[source]) == awaited[source]:
                            ready[device[source]].append(source)
                changed.notify_all()

    def in_thread(where: backend.Device) -> None:
        nonlocal failed
        try:
            for _ in work(where):
                with changed:
                    changed.wait_for(lambda: failed or not left or ready[where])
        except BaseException:
            with changed:
                failed = True
                changed.notify_all()
            raise

    if backend.capturing():
        backend.interleave([(where, work(where)) for where in ready])
    else:
        backend.run_concurrently([(where, partial(in_thread, where)) for where in ready])


__all__ = ["Copy", "Function", "LazyGradient", "Passthrough", "Tensor", "check_tensors", "no_grad", "recording"]

if not TYPE_CHECKING:  # to which any name would then be right
    __getattr__ = renamed(__name__, {"Deferred": "LazyGradient"})
