"""A ReLU whose output goes to what masks in its own backward pass has no pass over its gradient: the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
from conftest import STORAGE, launches
from ml_dtypes import bfloat16
from numpy.typing import DTypeLike

from alexnet_cuda import Tensor, backend, memory, models, ops, parallel, recipe, tensor

PASSES = {"relu_backward", "bias_relu_backward"}
CPU = backend.Device("cpu")


def of_relu(launched: list[str]) -> list[str]:
    """Those that mask a gradient in a pass of its own."""
    return [name for name in launched if name in PASSES]


def parameter(*shape: int, seed: int, device: str = "cpu") -> Tensor:
    return Tensor(reference.random(*shape, seed=seed), requires_grad=True, device=device)


def check(
    monkeypatch: pytest.MonkeyPatch, network: Callable[..., Tensor], shapes: list[tuple[int, ...]], passes: int
) -> None:
    """The gradients of network(*parameters of these shapes) have the bits that they have where every ReLU masks what
    arrives, with so many such passes left."""
    gradients = []
    for shared in (True, False):
        parameters = [parameter(*shape, seed=i) for i, shape in enumerate(shapes)]
        y = network(*parameters)
        with monkeypatch.context() as patch, launches() as launched:
            if not shared:
                patch.setattr(tensor, "_fuse_relu_backward", lambda order: None)
            y.backward(reference.random(*y.shape, seed=99).astype(y.data.dtype))
        if shared:
            assert len(of_relu(launched)) == passes, launched
        gradients.append([t.grad for t in parameters])
    for with_masks, without in zip(*gradients, strict=True):
        assert np.isfinite(without).all() and (without != 0).any()
        np.testing.assert_array_equal(with_masks, without)


IMAGE, FILTERS, BIAS = (2, 7, 6, 8), (8, 3, 3, 8), (8,)


def conv(x: Tensor, w: Tensor, b: Tensor | None = None, relu: bool = True) -> Tensor:
    return ops.conv2d(x, w, b, padding=1, relu=relu)


def test_a_chain_of_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last ReLU, whose gradient comes from outside, has a pass of its own."""

    def network(x: Tensor, u: Tensor, b: Tensor, v: Tensor, w: Tensor) -> Tensor:
        return conv(conv(conv(x, u, b), v), w)

    check(monkeypatch, network, [IMAGE, FILTERS, BIAS, FILTERS, FILTERS], 1)


@pytest.mark.parametrize("joined", [True, False])
def test_normalisation_masks(monkeypatch: pytest.MonkeyPatch, joined: bool) -> None:
    def network(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = conv(x, w, b)
        windows = {"size": 3, "stride": 2}
        normalisation = {"size": 5, "k": 2.0, "alpha": 0.1, "beta": 0.75, "groups": 2}
        if joined:
            return ops.lrn_max_pool2d(y, normalisation, {**windows, "padding": 0, "ceil": False})
        return ops.max_pool2d(ops.lrn(y, **normalisation), **windows)

    check(monkeypatch, network, [IMAGE, FILTERS, BIAS], 0)


def test_relu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """And that of a sum, each before a convolution."""

    def network(x: Tensor, u: Tensor, v: Tensor, b: Tensor, w: Tensor) -> Tensor:
        y = conv(ops.activation(conv(x, u, relu=False), "relu"), v, relu=False)
        return conv(ops.weighted_sum([y, x], [0.5, 2.0], b, relu=True), w, relu=False)

    check(monkeypatch, network, [IMAGE, FILTERS, FILTERS, BIAS, FILTERS], 0)


@pytest.mark.parametrize(("precision", "passes"), [("tf32", 0), ("fp32", 1)])
def test_pooling_and_reshaping_hand_on(monkeypatch: pytest.MonkeyPatch, precision: Any, passes: int) -> None:
    """To a fully connected layer, whose product masks if it is on tensor cores."""

    def network(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        return ops.linear(ops.flatten(ops.max_pool2d(conv(x, w), 3, 2, 1)), v, precision=precision)

    check(monkeypatch, network, [IMAGE, FILTERS, (5, 4 * 3 * 8)], passes)


def test_who_cannot_mask_leaves_it_to_the_relu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for others who use its output, be it as their first input."""

    def network(x: Tensor, u: Tensor, b: Tensor, w: Tensor) -> Tensor:
        y = conv(x, u, b)
        return ops.weighted_sum([conv(y, w, relu=False), y, ops.lrn(y)])

    check(monkeypatch, network, [IMAGE, FILTERS, BIAS, FILTERS], 1)


def test_all_who_use_an_output_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    def network(x: Tensor, u: Tensor, b: Tensor, v: Tensor, w: Tensor) -> Tensor:
        y = conv(x, u, b)
        return ops.weighted_sum([conv(y, v, relu=False), conv(y, w, relu=False), ops.lrn(y)])

    check(monkeypatch, network, [IMAGE, FILTERS, BIAS, FILTERS, FILTERS], 0)


def test_a_rectified_weight_is_not_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions mask the gradient of their first input alone."""

    def network(x: Tensor, w: Tensor) -> Tensor:
        return conv(x, ops.activation(w, "relu"), relu=False)

    check(monkeypatch, network, [IMAGE, FILTERS], 1)


def test_the_end_of_a_graph_may_be_in_its_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rectified output that a backward pass begins with has gone on elsewhere, to where no gradient comes from."""

    def network(x: Tensor, u: Tensor, b: Tensor, w: Tensor) -> Tensor:
        y = conv(x, u, b)
        ops.max_pool2d(y, 2)
        return conv(y, w)

    check(monkeypatch, network, [IMAGE, FILTERS, BIAS, FILTERS], 1)

    def stem(x: Tensor, u: Tensor, b: Tensor) -> Tensor:
        y = conv(x, u, b)
        conv(y, parameter(*FILTERS, seed=7))
        return y

    check(monkeypatch, stem, [IMAGE, FILTERS, BIAS], 1)


@pytest.mark.parametrize("passes", [0, 1])
def test_copies_hand_on(monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    """A graph on two devices, and one in which the copy is used by what cannot mask."""

    def network(x: Tensor, u: Tensor, b: Tensor, v: Tensor, w: Tensor) -> Tensor:
        y = conv(x, u, b)
        there = y.to("cpu:1")
        z = conv(there, w.to("cpu:1"), relu=False)
        if passes:
            z = ops.weighted_sum([z, there])
        return ops.weighted_sum([conv(y, v, relu=False), z.to("cpu:0")])

    check(monkeypatch, network, [IMAGE, FILTERS, BIAS, FILTERS, FILTERS], passes)


@pytest.mark.parametrize(("name", "devices"), [("alexnet-mini", "cpu"), ("alexnet-mini", "cpu:0,cpu:1")])
def test_networks(monkeypatch: pytest.MonkeyPatch, name: str, devices: str) -> None:
    gradients, passes = [], []
    for shared in (True, False):
        model = models.get(name)
        network = parallel.build(model, devices, seed=0)
        x = reference.random(3, *model.input, seed=1)
        logits = network(*(Tensor(x, device=device) for device in devices.split(",")))
        with monkeypatch.context() as patch, launches() as launched:
            if not shared:
                patch.setattr(tensor, "_fuse_relu_backward", lambda order: None)
            ops.softmax_cross_entropy(logits, Tensor(np.array([0, 3, 5], np.int32), device=logits.device)).backward()
        gradients.append([p.grad for p in network.parameters()])
        passes.append(len(of_relu(launched)))
    assert passes[0] < passes[1]
    for with_masks, without in zip(*gradients, strict=True):
        np.testing.assert_array_equal(with_masks, without)


@STORAGE
def test_what_is_not_above_zero(dtype: DTypeLike) -> None:
    """NaN stays NaN; zeros of either sign are masked, as ``relu_backward`` does."""
    x = Tensor(np.array([1, 0, -0.0, np.nan, -1, 2], dtype).reshape(1, 1, 1, 6), requires_grad=True)
    w = Tensor(np.ones((1, 1, 1, 6), np.float32), requires_grad=True)
    y = ops.conv2d(ops.activation(x, "relu"), w, precision="bf16" if dtype == bfloat16 else "fp32")
    with launches() as launched:
        y.backward(np.full(y.shape, 3, dtype))
    assert launched and not of_relu(launched)
    np.testing.assert_array_equal(x.grad.ravel(), np.array([3, 0, 0, 3, 0, 3], dtype))


@pytest.mark.parametrize(("precision", "passes", "sums"), [("fp32", 3, 1), ("tf32", 0, 3), ("bf16", 0, 3)])
def test_passes_of_alexnet(precision: str, passes: int, sums: int) -> None:
    """What a rehearsed training step launches: in fp32 ReLUs' masks for fc7, fc6 and conv5, whose gradients come from
    products that do not mask, and sums of dy for fc8; on tensor cores only these sums, for all three fully connected
    layers, as their weights' gradients, which would bring them along, are computed by the update."""
    launched: list[str] = []

    class Noted:
        def __init__(self, native: Any) -> None:
            self.native = native

        def __getattr__(self, name: str) -> Any:
            launched.append(name)
            return getattr(self.native, name)

    steps_recipe = recipe.change(recipe.load("alexnet-single"), {"precision": precision}, "test")
    planner = memory.Planner(models.get("alexnet-single"), [CPU], steps_recipe)
    planner.rehearsal.native = Noted(planner.rehearsal.native)
    planner.plan(1)
    steps = launched.count("softmax_cross_entropy_backward")
    assert steps > 0
    expected = {"bias_relu_backward": passes, "relu_backward": 0, "bias_backward": sums}
    assert {name: launched.count(name) / steps for name in expected} == expected
