"""How much memory a training step takes, before it is made: the step is rehearsed on arrays that nobody writes.

All of autograd, every operation and every optimizer runs as it does in training, only the native module's launchers do
nothing. So arrays come and go in their real sizes and order, workspaces included, while the system, which gives a page
of memory only to who writes it, has nothing to give.

On a GPU a recorded step (``graph.py``) takes its memory from a pool of the graph's own, which keeps it. What comes on
top is counted: the gradients of the step before, while it is recorded, and tests between epochs, which are computed
eagerly. Not counted: what CuPy's pools lose by rounding and by pieces too small for what comes (a pool never moves
memory from one stream to another), batches on their way to the device (three times their uint8 images), CUDA's own
context and the recorded graph's nodes.
"""

from __future__ import annotations

import math
import mmap
import operator
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, ModuleType
from typing import Any

import numpy as np

from . import backend, kernels, nn, ops, parallel
from .graph import obstacle
from .models import Model
from .parallel import Group
from .recipe import Recipe
from .tensor import Tensor, no_grad
from .trainer import optimizer, prepare

UNRESERVED = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux's; Python knows the name from 3.13 on
MISSING_GPU = 8, 0  # the compute capability of one that is not there
STEPS = 3  # until memory that is kept for later arrays no longer grows


@dataclass(frozen=True)
class Plan:
    """Bytes on one device: of its parameters, their gradients and what the optimizer keeps for them; and at most, all
    in all, in training steps and in inference on a batch."""

    device: str
    parameters: int
    gradients: int
    optimizer: int
    training: int
    inference: int

    @property
    def activations(self) -> int:
        """What training takes besides: activations, their gradients, workspaces."""
        return self.training - self.parameters - self.gradients - self.optimizer


class Planner:
    """What training a model takes: a network that is rehearsed with batches of any size."""

    def __init__(self, model: Model, devices: Sequence[backend.Device], recipe: Recipe) -> None:
        """As the recipe says, on ``devices``, which need not be there.

        ValueError for a model that does not divide, or has layers that do not know the precision; RuntimeError for GPUs
        where the module for them was not built.
        """
        self.model, self.devices, self.storage = model, devices, kernels.storage(recipe.precision)
        self.places = [backend.Device("cpu", i) for i in range(len(devices))]
        self.recorded = devices[0].kind == "cuda" and obstacle(recipe, Group()) is None
        self.rehearsal = Rehearsal(devices[0])
        with backend.rehearsing(self.rehearsal):
            self.network = parallel.build(model, ",".join(map(str, self.places)), seed=0)
            prepare(self.network, recipe)
            for t in (*self.network.parameters(), *(buffer for _, buffer in self.network.named_buffers())):
                t.data = self.rehearsal.array(t.shape, t.data.dtype, t.device)
            self.parameters = Counter(self.rehearsal.held)
            self.optimizer = optimizer(recipe, self.network.parameters())
            self.kept = Counter(self.rehearsal.held) - self.parameters

    def plan(self, batch: int) -> list[Plan]:
        """With so many images a step, for each device."""
        with backend.rehearsing(self.rehearsal):
            inference, training = self._peak(self._infer, batch), self._peak(self._train, batch)
            gradients = Counter[backend.Device]()
            for p in self.optimizer.parameters:
                gradients[p.device] += 0 if p.grad is None else p.grad.nbytes
            self.optimizer.zero_grad()
        inference -= self.kept
        if self.recorded:
            training += gradients | inference - self.parameters
        return [
            Plan(
                str(device), self.parameters[place], gradients[place], self.kept[place], training[place],
                inference[place],
            )
            for device, place in zip(self.devices, self.places, strict=True)
        ]  # fmt: skip

    def largest_batch(self, limits: Sequence[int]) -> int:
        """The most images of a step, to a hundredth, whose training takes no more bytes than ``limits`` on any device,
        or on all together if there is but one limit; 0 where even one image is too many."""

        def fits(batch: int) -> bool:
            peaks = [plan.training for plan in self.plan(batch)]
            return all(map(operator.le, peaks if len(limits) > 1 else [sum(peaks)], limits))

        most, too_many = 0, 1
        while fits(too_many):
            most, too_many = too_many, 2 * too_many
        while too_many - most > max(1, most // 100):
            middle = (most + too_many) // 2
            if fits(middle):
                most = middle
            else:
                too_many = middle
        return most

    def _peak(self, work: Callable[[int], None], batch: int) -> Counter[backend.Device]:
        self.rehearsal.restart()
        for _ in range(STEPS):
            work(batch)
        return self.rehearsal.restart()

    def _infer(self, batch: int) -> None:
        self.network.eval()
        with no_grad():
            self._logits(batch)

    def _train(self, batch: int) -> None:
        self.network.train()
        self.optimizer.zero_grad()
        loss = self.network.loss if isinstance(self.network, nn.Graph) else ops.softmax_cross_entropy
        place = self.places[0]
        labels = Tensor(self.rehearsal.array((batch,), np.int32, place), device=place)
        loss(self._logits(batch), labels).backward()
        self.optimizer.step()

    def _logits(self, batch: int) -> Tensor:
        shape = (batch, *self.model.input)
        images = (Tensor(backend.empty(shape, self.storage, place), device=place) for place in self.places)
        return ops.cast(self.network(*images), np.float32)


def room(devices: Sequence[backend.Device]) -> list[int]:
    """Bytes that each device has, for ``Planner.largest_batch``: one number where they share their memory."""
    first, *others = devices
    if first.kind == "cpu" or all(other.index == first.index for other in others):
        return [backend.memory(first)]
    return [backend.memory(device) for device in devices]


class Rehearsal:
    """What ``backend`` asks for arrays and launchers instead of giving real ones: arrays are counted as long as they
    live, by device."""

    def __init__(self, device: backend.Device) -> None:
        """For a step on that device, which need not be there. RuntimeError where its module was not built."""
        self.on_cpu = device.kind == "cpu"
        self.capability = backend.capability(device) if self.on_cpu or device in backend.gpus() else MISSING_GPU
        try:
            self.native: Any = _Silent(backend.built(device))
        except ImportError as e:
            raise RuntimeError(f"a plan for {device} needs the module for GPUs, which was not built: {e}") from e
        self.held, self._peak = Counter[backend.Device](), Counter[backend.Device]()
        self._lock = threading.RLock()
        self._recyclers = dict[backend.Device, backend.Recycler]()

    def restart(self) -> Counter[backend.Device]:
        """The most bytes since the last call; what waits for reuse is given back."""
        for recycler in self._recyclers.values():
            recycler.release()
        peak, self._peak = self._peak, Counter(self.held)
        return peak

    def place(self, array: np.ndarray) -> backend.Device:
        """The device that the array stands for being on."""
        return array.place if isinstance(array, Unwritten) else backend.Device("cpu")

    def empty(self, shape: tuple[int, ...], dtype: Any, where: backend.Device) -> Unwritten:
        """A new array, on a CPU in recycled memory if a real step has it there."""
        if not self.on_cpu or math.prod(shape) * np.dtype(dtype).itemsize < backend.Recycler.smallest:
            return self.array(shape, dtype, where)
        with self._lock:
            if where not in self._recyclers:
                self._recyclers[where] = backend.Recycler(backend.RECYCLED, partial(self._allocate, where))
            return self._blank(self._recyclers[where].empty(shape, np.dtype(dtype)), where)

    def array(self, shape: tuple[int, ...], dtype: Any, where: backend.Device) -> Unwritten:
        """A new array in memory of its own."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        return self._blank(self._allocate(where, nbytes)[:nbytes].view(dtype).reshape(shape), where)

    def _blank(self, array: np.ndarray, where: backend.Device) -> Unwritten:
        blank = array.view(Unwritten)
        blank.place = where
        return blank

    def _allocate(self, where: backend.Device, nbytes: int) -> np.ndarray:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | UNRESERVED
        memory = np.frombuffer(mmap.mmap(-1, max(1, nbytes), flags=flags), np.uint8)
        self._count(where, nbytes)
        weakref.finalize(memory, self._count, where, -nbytes)
        return memory

    def _count(self, where: backend.Device, nbytes: int) -> None:
        with self._lock:
            self.held[where] += nbytes
            self._peak[where] = max(self._peak[where], self.held[where])


class Unwritten(np.ndarray):
    """An array of a rehearsal: functions of its elements give another at once, and what is put into it gets lost."""

    place = backend.Device("cpu")

    def __array_finalize__(self, source: object) -> None:
        self.place = getattr(source, "place", self.place)

    def __setitem__(self, where: Any, value: Any) -> None:
        pass

    def copy(self, order: Any = "C") -> Any:
        return backend.empty(self.shape, self.dtype, self.place)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if out is not None:
            return out[0]
        plain = [np.asarray(x) for x in inputs]
        if method != "__call__":
            return getattr(ufunc, method)(*plain, **options)
        dtype = ufunc(*(np.ones((1,) * x.ndim, x.dtype) for x in plain)).dtype
        return backend.empty(np.broadcast_shapes(*(x.shape for x in plain)), dtype, self.place)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return None if function is np.copyto else super().__array_function__(function, types, args, options)


class _Silent:
    """A native module whose launchers do nothing."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        launches = isinstance(value, BuiltinFunctionType) and "stream" in (value.__doc__ or "")
        return (lambda *args, **options: None) if launches else value
