"""What a network computes, operation by operation, found by running it: on several batches, so that it shows what does
not depend on the images, and how shapes depend on their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import backend, nn
from ..files import WeightsError
from ..kernels import Array
from ..nn.module import Product
from ..tensor import Function, Tensor, no_grad, recording

Shape = tuple[int, ...]
COUNTS = (2, 3, 5)
"""Images of the runs: from the first two follows how a size depends on their number, the third one confirms it. One
image would broadcast where others do not."""
APART = ("target", "shape", "arrivals")
"""Options that may differ between runs: the output's shape, and what a copy waits for."""


class Step(NamedTuple):
    """An operation in the ``layer`` of that path: the places of its inputs and its output among the values."""

    function: Function
    options: Mapping[str, Any]
    inputs: tuple[int | None, ...]
    output: int
    layer: str

    @property
    def name(self) -> str:
        """The operation and where it is."""
        return f"{self.layer}: {getattr(self.function, 'operation', type(self.function).__name__)}"


class Known(NamedTuple):
    """A value: its shape in each run, and the array of one that does not depend on the images."""

    shapes: tuple[Shape, ...]
    array: NDArray[Any] | None


class Recorded(NamedTuple):
    """The steps that the output depends on, in order. ``counts``: the images of the runs. The images are value 0."""

    counts: tuple[int, ...]
    values: list[Known]
    steps: list[Step]
    output: int


def recorded(network: nn.Module, input: Shape, device: backend.Device, counts: Sequence[int] = COUNTS) -> Recorded:
    """What the network does with images of shape ``input`` in evaluation, in float32, whatever its precision.
    WeightsError, which names layer and operation, where that depends on the images or on how many there are."""
    products = [(module, module.precision) for module in network.modules() if isinstance(module, Product)]
    rng = np.random.default_rng(0)
    try:
        network.set_precision("fp32")
        images = (rng.standard_normal((count, *input), np.float32) for count in counts)
        runs = [_Run(network, Tensor(x, device=device)) for x in images]
    finally:
        for module, precision in products:
            module.precision = precision
    return _alike(runs, tuple(counts))


class _Run:
    """One run of a network. Values are known by their arrays, in the order in which they come."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.arrays = list[Array]()  # kept, so that no id means another later
        self._places = dict[int, int]()
        self._inputs = dict[int, tuple[int | None, ...]]()  # of the operations, by their outputs
        self._layers = dict[int, str]()
        self._functions = list[tuple[Function, dict[str, Any], int]]()
        self._place(images)
        self.looked = list[int]()
        """Values that the host saw."""
        with no_grad(), ExitStack() as watched, recording(self._heard, self._looked):
            for name, module in network.named_modules():
                hook = partial(self._left, name or type(network).__name__)
                watched.enter_context(module.register_forward_hook(hook))
            self.output = self._place(network(images))
        self.steps = [
            Step(f, options, self._inputs[y], y, self._layers.get(y, "")) for f, options, y in self._functions
        ]

    def _place(self, x: Tensor) -> int:
        place = self._places.setdefault(id(x.data), len(self.arrays))
        if place == len(self.arrays):
            self.arrays.append(x.data)
        return place

    def _heard(self, f: Function, options: dict[str, Any], inputs: tuple[Tensor | None, ...], y: Tensor) -> None:
        if any(x is not None and x.data is y.data for x in inputs):
            return  # it passes on what it gets
        places = tuple(None if x is None else self._place(x) for x in inputs)
        output = self._place(y)
        self._inputs[output] = places
        self._functions.append((f, options, output))

    def _looked(self, x: Tensor) -> None:
        self.looked.append(self._place(x))

    def _left(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        """Names the layer of the operations between inputs and output, or what was looked at, that are in no module
        inside of it."""
        waiting, seen = [self._place(y), *self.looked], {self._place(x) for x in inputs}
        while waiting:
            place = waiting.pop()
            if place in self._inputs and place not in seen:
                self._layers.setdefault(place, name)
                waiting += [before for before in self._inputs[place] if before is not None]
            seen.add(place)


def _alike(runs: Sequence[_Run], counts: tuple[int, ...]) -> Recorded:
    """What all runs did."""
    hint = " and their number: --batch N may write it for a fixed number" if len(set(counts)) > 1 else ""
    dependent = _dependent(runs[0])
    _check_steps(runs, hint)
    steps, needed = list[Step](), {runs[0].output}
    for step in reversed(runs[0].steps):
        if step.output in needed:
            needed.update(place for place in step.inputs if place is not None)
            steps.insert(0, step)
    values = list[Known]()
    for place, arrays in enumerate(zip(*(run.arrays for run in runs), strict=True)):
        array = _constant(arrays) if place in needed and place not in dependent else None
        values.append(Known(tuple(x.shape for x in arrays), array))
    told = dependent | {step.output for step in steps}
    for step in steps:
        for i in step.inputs:
            if i is not None and i not in told and values[i].array is None:
                raise WeightsError(
                    f"{step.name}: expected inputs that operations of alexnet_cuda compute of the images, or that are "
                    f"the same whatever the images{hint}"
                )
    steps = [step for step in steps if values[step.output].array is None]
    return Recorded(counts, values, steps, runs[0].output)


def _dependent(run: _Run) -> set[int]:
    """The values that depend on the images. WeightsError where the host has seen one."""
    names = {0: "the images"}
    for step in run.steps:
        if names.keys() & set(step.inputs):
            names[step.output] = step.name
    for place in run.looked:
        if place in names:
            raise WeightsError(
                f"{names[place]}: expected a network that does not look at values, as what comes of these would be "
                "there for all images: ops.where chooses by values"
            )
    return set(names)


def _check_steps(runs: Sequence[_Run], hint: str) -> None:
    first, *others = runs
    for run in others:
        for step, other in zip(first.steps, run.steps, strict=False):
            if type(step.function) is not type(other.function) or step[2:] != other[2:]:
                raise WeightsError(f"{step.name}: expected the same operations whatever the images{hint}")
            for name, value in step.options.items():
                if name not in APART and not _equal(value, other.options[name]):
                    raise WeightsError(f"{step.name}: {name}: expected the same whatever the images{hint}")
        if len(first.steps) != len(run.steps) or first.output != run.output:
            raise WeightsError(f"expected the same operations whatever the images{hint}")


def _constant(arrays: Sequence[Array]) -> NDArray[Any] | None:
    """The array that all of them are, if they are one."""
    first, *others = (backend.to_host(x) for x in arrays)
    return first if all(np.array_equal(first, x, equal_nan=True) for x in others) else None


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if backend.is_array(a) and backend.is_array(b):
        return np.array_equal(backend.to_host(a), backend.to_host(b))
    return bool(a == b)
