"""What a network does, as it is heard: operations, their layers, constants, and what is not the same in all runs."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import reference

from alexnet_cuda import Tensor, backend, nn, ops
from alexnet_cuda.ops import arithmetic, shapes
from alexnet_cuda.tensor import Function, no_grad, recording
from alexnet_cuda.weights import WeightsError
from alexnet_cuda.weights.onnx_operators import WRITERS
from alexnet_cuda.weights.recorded import Recorded, recorded

INPUT = (4, 3, 2)


class Block(nn.Module):
    """A convolution whose filters are computed from weights, a function, and a layer within."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.scale = nn.Parameter(reference.random(2, 1, 1, 2)), nn.Parameter(reference.random(2, 1, 1, 1))
        self.inner = nn.Sequential(act=nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        x.mean()  # for nobody
        assert self.w.numpy().any()  # of weights anybody can look at values
        return self.inner(ops.conv2d(x, self.w * self.scale)) + x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList([Block(), Block()]), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(ops.flatten(x)) * 2


def heard(network: nn.Module) -> Recorded:
    return recorded(network, INPUT, backend.device("cpu"))


def test_operations_are_heard_with_what_they_got() -> None:
    calls = list[tuple[Any, ...]]()
    x, y = Tensor(reference.random(2, 3), requires_grad=True), Tensor(reference.random(2, 3))
    with recording(lambda *call: calls.append(call)):
        z = x + y
        with no_grad():
            t = z.sum(1)
    x * y
    (add, options, inputs, output), (total, axes, summed, result) = calls
    assert (type(add).__name__, options["operation"], inputs, output is z) == ("Broadcast", "add", (x, y), True)
    assert (type(total).__name__, axes["axes"], summed, result is t) == ("Sum", (1,), (z,), True)


def test_steps_are_in_their_layers_and_only_those_that_count() -> None:
    network = Net().eval()
    found = heard(network)
    assert [step.name for step in found.steps] == [
        *(f"blocks.{i}{name}" for i in range(2) for name in (": Conv2d", ".inner.act: Tanh", ": add")),
        "Net: Reshape",
        "head: Linear",
        "Net: multiply",
    ]
    conv, act, add = found.steps[:3]
    assert (conv.inputs[0], act.inputs, add.inputs, add.output) == (0, (conv.output,), (act.output, 0), add.output)
    filters = found.values[conv.inputs[1] or 0]
    block = network.blocks[0]
    np.testing.assert_array_equal(filters.array, block.w.numpy() * block.scale.numpy())
    assert found.values[0].shapes == tuple((count, *INPUT) for count in found.counts)
    assert found.values[found.output].shapes == tuple((count, 5) for count in found.counts)
    assert not any(module.has_hooks for module in network.modules())


def test_every_operation_has_a_form_or_is_a_loss() -> None:
    modules = {name for name in sys.modules if name.startswith("alexnet_cuda.ops")}
    every = {kind for name in modules for kind in vars(sys.modules[name]).values() if isinstance(kind, type)}
    operations = {kind for kind in every if issubclass(kind, Function) and kind.__module__ in modules}
    without = {kind for kind in operations - WRITERS.keys() if kind.__module__ != "alexnet_cuda.ops.losses"}
    assert without == {arithmetic.Reduce, shapes.View}  # bases


class Kept(Function):
    """An operation that passes on the array that it gets."""

    def forward(self, x: Any) -> Any:
        return x


def test_what_passes_an_array_on_is_no_step() -> None:
    class Passing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ops.activation(Kept.apply(x).detach(), "relu")

    (step,) = heard(Passing()).steps
    assert (step.name, step.inputs) == ("Passing: Relu", (0,))


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x / x.shape[0], "Own: divide: numbers: expected the same whatever the images and their number"),
        (lambda x: x if x.mean() > -9 else -x, "Own: less: expected a network that does not look at values"),
        (lambda x: x * float(x[0, 0, 0, 0]), "Own: Index: expected a network that does not look at values"),
        (lambda x: x + Tensor(x.numpy() + 1), "the images: expected a network that does not look at values"),
        (lambda x: x if x.shape[0] < 5 else x * 2, "^expected the same operations whatever the images"),
        (lambda x: x * 2 if x.shape[0] < 5 else x.exp(), "Own: multiply: operation: expected the same"),
        (lambda x: x.exp() if x.shape[0] < 5 else x.sum(1), "Own: exp: expected the same operations"),
        (lambda x: x + Tensor(x.data + 1), "Own: add: expected inputs that operations of alexnet_cuda compute"),
        (lambda x: x + Tensor(np.ones((x.shape[0], 1, 1, 1))), "Own: add: expected inputs that .*--batch N"),
    ],
)
def test_what_depends_on_the_images_is_named(forward: Any, message: str) -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = forward(x)
            assert isinstance(y, Tensor)
            return y

    with pytest.raises(WeightsError, match=message):
        heard(Own())
