"""One step of a training, the devices' part: what ``Trainer`` does and captures, and ``memory.Planner`` rehearses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

import numpy as np

from . import backend, ops, trace
from .kernels import Array
from .nn import Conv2d, Graph, Module, Parameter
from .optim import SGD, Adam, Copies, Optimizer
from .parallel import Buckets, Group
from .recipe import Recipe
from .tensor import Tensor


class Part(NamedTuple):
    """A part of a batch whose gradients are added up: its number, the network's inputs, one on each of its devices,
    labels on the first, the part's share of the whole batch, a number or one on the first device, and where images are
    mixed the second labels and the shares of the first on that device, too."""

    number: int
    images: Sequence[Tensor]
    labels: Tensor
    share: float | Array
    last: bool
    others: Array | None = None
    mix: Array | None = None


class TrainingStep:
    """From a batch on the devices to new weights, as a recipe says. Rates are those that ``optimizer.advance`` has
    sent; ``copies`` are the weights' in bfloat16."""

    def __init__(self, model: Module, optimizer: Optimizer, recipe: Recipe, buckets: Buckets | None = None) -> None:
        """``buckets`` add gradients up over processes; the default is one process."""
        self.model, self.optimizer, self.clip = model, optimizer, recipe.clip
        self.buckets = buckets or Buckets(Group(), [])
        self.copies = Copies(model)
        self.device = device = model.parameters()[0].device
        weights = np.asarray(recipe.class_weights, np.float32)
        self.class_weights = backend.from_host(weights, device) if weights.size else None
        self.loss = loss(model, self.class_weights, recipe.label_smoothing, mixed=recipe.mixup > 0)

    def __call__(self, parts: Iterable[Part], seen: Callable[[Part, Tensor, Tensor], None]) -> None:
        """``seen(part, logits, loss)`` is called before each part's backward pass."""
        with self.copies:
            self.optimizer.zero_grad()
            self.buckets.begin()
            for part in parts:
                mixed = {} if part.mix is None else {"others": part.others, "mix": part.mix}
                with self._pass("forward"):
                    logits = ops.cast(self.model(*part.images), np.float32)
                    with trace.within("loss"):
                        loss = self.loss(logits, part.labels, **mixed)
                seen(part, logits, loss)
                share = part.share
                if isinstance(share, float):
                    share = backend.constant(np.full((), share, np.float32), loss.device)
                with self._pass("backward"):
                    loss.backward(share, self.buckets.done if part.last else lambda p: None)
            self.buckets.finish()
            if self.clip:
                self._clip()
            with self._pass("update"):
                self.optimizer.apply()

    def _pass(self, name: str) -> AbstractContextManager[None]:
        """The block of a pass in a trace, in the row of the loss's device."""
        device = self.device
        return trace.span(name, device.row, backend.clock(device), kind="pass", **{"pass": name})

    def _clip(self) -> None:
        """Scales all gradients down to the recipe's norm where they exceed it together."""
        gradients = [(p, p.grad) for p in self.optimizer.parameters if p.grad is not None]
        squares = []
        for p, g in gradients:
            with backend.on(p.device):
                squares.append((p, (g * g).sum(dtype=np.float64)))
        norm = math.sqrt(self.buckets.total((p, float(square)) for p, square in squares))
        if norm > self.clip:
            for p, g in gradients:
                with backend.on(p.device):
                    g *= np.float32(self.clip / norm)


def loss(model: Module, class_weights: Array | None, smoothing: float, mixed: bool) -> Callable[..., Tensor]:
    """The mean loss of a training's batch from its output and labels: the network's own, weighted, smoothed and, if
    ``mixed``, of two labels each. ValueError for a network whose own is not that of softmax."""
    if class_weights is None and not smoothing and not mixed:
        return model.loss
    if isinstance(model, Graph) and model.cost != "softmax":
        options = "label_smoothing, class_weights and mixup"
        raise ValueError(f"{options}: expected a network with softmax, got cost {model.cost!r}")
    return partial(ops.softmax_cross_entropy, weights=class_weights, smoothing=smoothing)


def prepare(network: Module, recipe: Recipe) -> None:
    """Has the network compute and learn as the recipe says. ValueError for layers that cannot."""
    network.set_precision(recipe.precision)
    for name, p in network.named_parameters():
        p.requires_grad = not recipe.frozen(name)
    for module in network.modules():
        if isinstance(module, Conv2d) and recipe.precision == "fp32" and not recipe.winograd:
            module.algorithm = "im2col"


def optimizer(recipe: Recipe, parameters: list[Parameter]) -> Optimizer:
    """The optimizer that a recipe names, of those parameters that are not frozen."""
    parameters = [p for p in parameters if p.requires_grad]
    if recipe.optimizer == "sgd":
        return SGD(parameters, recipe.lr, recipe.momentum, recipe.decay, recipe.nesterov, recipe.ema)
    form, decoupled = recipe.adam, recipe.optimizer == "adamw"
    return Adam(
        parameters, recipe.lr, recipe.momentum, decay=recipe.decay, form=form, decoupled=decoupled, ema=recipe.ema
    )
