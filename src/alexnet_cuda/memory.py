"""How much memory a training step takes, before it is made: the trainer's own step is rehearsed on arrays that nobody
writes (``backend.Rehearsal``).

All of autograd, every operation and every optimizer runs as it does in training, only the native module's launchers do
nothing. So arrays come and go in their real sizes and order, workspaces included, while the system, which gives a page
of memory only to who writes it, has nothing to give.

On a GPU a captured step (``replay.py``) takes its memory from a pool of the graph's own, which keeps it. What comes on
top is counted: the gradients of the step before, while it is captured, and tests between epochs, which are computed
eagerly. Not counted: what CuPy's pools lose by rounding and by pieces too small for what comes (a pool never moves
memory from one stream to another), batches on their way to the device (three times their uint8 images), CUDA's own
context and the graph's nodes.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import backend, kernels, ops, parallel
from .models import Model
from .parallel import Group
from .recipe import Recipe
from .replay import obstacle
from .tensor import Tensor, no_grad
from .training_step import Part, TrainingStep, optimizer, prepare

__all__ = ["Plan", "Planner", "room"]

STEPS = 3  # until memory that is kept for later arrays no longer grows


@dataclass(frozen=True)
class Plan:
    """Bytes on one device: of its parameters, their gradients (those that are written at all) and what the optimizer
    keeps for them, copies in bfloat16 among it; and at most, all in all, in training steps and in inference on a
    batch."""

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
        self.captured = devices[0].kind == "cuda" and obstacle(recipe, Group()) is None
        self.rehearsal = backend.Rehearsal(devices[0])
        with backend.rehearsing(self.rehearsal):
            self.network = parallel.build(model, ",".join(map(str, self.places)), seed=0)
            prepare(self.network, recipe)
            for t in (*self.network.parameters(), *(buffer for _, buffer in self.network.named_buffers())):
                t.data = self.rehearsal.array(t.shape, t.data.dtype, t.device)
            self.parameters = Counter(self.rehearsal.held)
            self.optimizer = optimizer(recipe, self.network.parameters())
            # Weights of classes take no memory to speak of, and balanced ones only the data know.
            self.step = TrainingStep(self.network, self.optimizer, replace(recipe, class_weights=()))
            self.kept = Counter(self.rehearsal.held) - self.parameters
        self.parts = min(recipe.accumulate, 2)  # further ones take no more

    def plan(self, batch: int) -> list[Plan]:
        """With so many images at a time, for each device."""
        with backend.rehearsing(self.rehearsal):
            inference, training = self._peak(self._infer, batch), self._peak(self._train, batch)
            gradients = Counter[backend.Device]()
            for p in self.optimizer.parameters:
                gradients[p.device] += getattr(p.gradient, "nbytes", 0)
            self.optimizer.zero_grad()
        inference -= self.kept
        if self.captured:
            training += gradients | inference - self.parameters
        return [
            Plan(
                str(device), self.parameters[place], gradients[place], self.kept[place], training[place],
                inference[place],
            )
            for device, place in zip(self.devices, self.places, strict=True)
        ]  # fmt: skip

    def largest_batch(self, limits: Sequence[int]) -> int:
        """The most images at a time, to a hundredth, whose training takes no more bytes than ``limits`` on any device,
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
            ops.cast(self.network(*self._images(batch)), np.float32)

    def _train(self, batch: int) -> None:
        self.network.train()
        self.optimizer.advance()
        self.step(self._parts(batch), lambda part, logits, loss: None)

    def _parts(self, batch: int) -> Iterator[Part]:
        place = self.places[0]
        for i in range(self.parts):
            labels = Tensor(self.rehearsal.array((batch,), np.int32, place), device=place)
            yield Part(i, self._images(batch), labels, 1 / self.parts, i == self.parts - 1)

    def _images(self, batch: int) -> list[Tensor]:
        shape = (batch, *self.model.input)
        return [Tensor(backend.empty(shape, self.storage, place), device=place) for place in self.places]


def room(devices: Sequence[backend.Device]) -> list[int]:
    """Bytes that each device has, for ``Planner.largest_batch``: one number where they share their memory."""
    first, *others = devices
    if first.kind == "cpu" or all(other.index == first.index for other in others):
        return [backend.memory(first)]
    return [backend.memory(device) for device in devices]
