"""Data parallelism: every process has the whole network and a part of each batch; gradients are added up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from .. import backend
from ..nn import BatchNorm, Module, Parameter
from ..tensor import Tensor
from .group import Group

BUCKET = 1 << 20  # bytes of gradients that are worth a message of their own


class Buckets:
    """Adds up gradients over a group while the backward pass still runs.

    Parameters, the last first as that is how their gradients come, are put together into buckets of about ``nbytes``.
    The sum of a bucket is begun once its gradients are there and the buckets before it have begun: all processes begin
    the same ones in the same order. A group of one process has none.
    """

    def __init__(self, group: Group, parameters: Sequence[Parameter], nbytes: int = BUCKET) -> None:
        self.group = group
        self.buckets: list[list[Parameter]] = []
        for p in reversed([] if group.alone else parameters):
            if not self.buckets or sum(other.data.nbytes for other in self.buckets[-1]) >= nbytes:
                self.buckets.append([])
            self.buckets[-1].append(p)
        self._bucket = {p: bucket for bucket in self.buckets for p in bucket}
        self.begin()

    def begin(self) -> None:
        """Before a backward pass."""
        self._ready: set[Tensor] = set()
        self._waits: list[Callable[[], None]] = []

    def done(self, p: Tensor) -> None:
        """To be told of each gradient that is complete (``Tensor.backward``)."""
        if p in self._bucket:
            self._ready.add(p)
            while len(self._waits) < len(self.buckets) and self._ready.issuperset(self.buckets[len(self._waits)]):
                self._send()

    def finish(self) -> None:
        """Waits for the sums: then every ``grad`` is that of all processes."""
        while len(self._waits) < len(self.buckets):
            self._send()
        for wait in self._waits:
            wait()

    def total(self, numbers: Iterable[tuple[Tensor, float]]) -> float:
        """The sum of numbers, each of a parameter, over the whole network, of which this process may hold a part."""
        own, everywhere = list[float](), 0.0
        for p, number in numbers:
            if p in self._bucket:
                everywhere += number
            else:
                own.append(number)
        return everywhere + (sum(self.group.all_gather_object(sum(own))) if own else 0.0)

    def _send(self) -> None:
        """Begins the sum of the next bucket, of which each gradient becomes a view."""
        bucket = [p for p in self.buckets[len(self._waits)] if p.grad is not None]
        whole = backend.empty((sum(p.data.size for p in bucket),), np.float32, self.buckets[0][0].device)
        first = 0
        for p in bucket:
            part = whole[first : first + p.data.size].reshape(p.shape)
            part[...] = p.grad
            p.grad, first = part, first + p.data.size
        self._waits.append(self.group.all_reduce(whole))


def average_buffers(group: Group, model: Module) -> None:
    """Replaces what a network keeps without training it, such as running statistics, by its mean over the group; not
    what is frozen, as a mean of equal numbers may be another."""
    if group.size > 1:
        frozen = {m.running_mean for m in model.modules() if isinstance(m, BatchNorm) and m.frozen}
        frozen |= {m.running_variance for m in model.modules() if isinstance(m, BatchNorm) and m.frozen}
        for _, buffer in model.named_buffers():
            if buffer not in frozen:
                group.all_reduce(buffer.data)()
                buffer.data /= np.float32(group.size)
