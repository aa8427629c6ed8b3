"""Training where one kernel does what several would: to the same bits, unless somebody looks at what is left out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import reference
from conftest import Runner, launches
from ml_dtypes import bfloat16
from numpy.testing import assert_array_equal

from alexnet_cuda import Tensor, backend, kernels, memory, models, nn, ops, optim, recipe
from alexnet_cuda.data import ArrayDataset, Loader
from alexnet_cuda.recipe import Recipe
from alexnet_cuda.trainer import Step, Trainer

BASE = Recipe(batch=6, epochs=2, lr=0.05, decay=0.01, scale=1 / 64, precision="bf16")
PRECISIONS = pytest.mark.parametrize("precision", ["tf32", "bf16"])
PRODUCTS = pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])


@pytest.fixture
def launched() -> Iterator[list[str]]:
    """The launchers that are called in the test."""
    with launches() as called:
        yield called


def network() -> nn.Sequential:
    rng = np.random.default_rng(0)
    return nn.Sequential(
        flatten=nn.Flatten(),
        fc1=nn.Linear(48, 20, activation="relu", rng=rng),
        drop1=nn.Dropout(0.4, "inverted"),
        fc2=nn.Linear(20, 12, activation="relu", rng=rng),
        drop2=nn.Dropout(),
        fc3=nn.Linear(12, 3, rng=rng),
    )


def trained(made: Recipe, watch: Callable[[Trainer, Step], object] = lambda trainer, step: None) -> dict[str, Any]:
    """All that three steps an epoch leave: losses, weights, the optimizer's state."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (18, 4, 4, 3), np.uint8)
    data = ArrayDataset(images, (images[:, 0, 0, 0] // 86).astype(np.int32), list("abc"))
    model = network()
    model.set_precision(made.precision)
    sgd = optim.SGD(model.parameters(), made.lr, made.momentum, made.decay)
    mean = np.full((4, 4, 3), 120, np.float32)
    loaders = (Loader(data, (4, 4), made.batch) for _ in range(2))
    trainer, losses = Trainer(model, sgd, *loaders, made, mean), list[float]()

    def on_step(step: Step) -> None:
        losses.append(step.loss)
        watch(trainer, step)

    assert trainer.fit(on_step, lambda epoch: None)
    assert all(p.bf16_copy is None for p in model.parameters())
    return {**model.state(), **sgd.state(), "losses": np.array(losses)}


def assert_equal(some: dict[str, Any], others: dict[str, Any]) -> None:
    assert some.keys() == others.keys()
    for name, array in others.items():
        assert_array_equal(some[name], array, err_msg=name)


# ---- updates without a gradient in memory


@PRODUCTS
def test_fused_updates_have_the_bits_of_gradients_and_updates(
    precision: str, launched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = replace(BASE, precision=precision)
    fused = trained(made)
    name = "gemm_sgd" if precision == "fp32" else "tensor_gemm_sgd"
    assert launched.count(name) == 3 * 6
    launched.clear()
    clipped = trained(replace(made, clip=1e30))  # looks at all gradients, and leaves them as they are
    assert not launched.count(name) and launched.count("multi_sgd") == 6
    assert_equal(fused, clipped)
    monkeypatch.setattr(optim.Copies, "__enter__", lambda self: None)
    assert_equal(trained(made), clipped)


def test_parts_of_a_batch_are_added_up(launched: list[str]) -> None:
    parts = trained(replace(BASE, accumulate=2))
    assert not launched.count("tensor_gemm_sgd") and launched.count("multi_sgd") == 6
    assert_equal(parts, trained(replace(BASE, accumulate=2, clip=1e30)))


def test_other_optimizers_have_gradients(launched: list[str]) -> None:
    layer = nn.Linear(5, 4, precision="tf32")
    adam = optim.Adam(layer.parameters())
    layer(Tensor(reference.random(3, 5))).backward(reference.random(3, 4))
    adam.step()
    assert not launched.count("tensor_gemm_sgd") and launched.count("adam") == 2
    assert isinstance(layer.w.gradient, np.ndarray)


@PRODUCTS
def test_who_looks_at_a_gradient_finds_it(precision: str) -> None:
    """Before the update or after it: it does not depend on the weights."""
    dtype = kernels.storage(precision)
    layer = nn.Linear(9, 7, precision=precision)
    x, dy = (reference.random(5, n, dtype=dtype) for n in (9, 7))
    _, dw, _ = kernels.linear_backward(dy, x, layer.w.data, precision=precision)
    sgd = optim.SGD(layer.parameters(), lr=0.1)
    layer(Tensor(x)).backward(dy)
    assert isinstance(layer.w.gradient, ops.LinearGradient)
    sgd.step()
    assert_array_equal(layer.w.grad, dw)
    layer(Tensor(x)).backward(dy)  # is added
    assert_array_equal(layer.w.grad, 2 * dw)
    sgd.zero_grad()
    assert layer.w.grad is None


def test_a_weight_of_two_layers_gets_the_sum() -> None:
    first = nn.Linear(6, 6, precision="tf32")
    second = nn.Linear(6, 6, precision="tf32")
    second.w = first.w
    x, dy = reference.random(4, 6), reference.random(4, 6)
    y = first(Tensor(x, requires_grad=True))
    second(y).backward(dy)
    w = first.w.data
    dx, dw, _ = kernels.linear_backward(dy, y.data, w, precision="tf32")
    _, other, _ = kernels.linear_backward(dx, x, w, precision="tf32")
    assert_array_equal(first.w.grad, dw + other)


def test_a_weight_that_was_computed_gets_its_gradient_through_what_computed_it() -> None:
    w = Tensor(reference.random(24), requires_grad=True)
    x, dy = reference.random(5, 6), reference.random(5, 4)
    ops.linear(Tensor(x), ops.reshape(w, (4, 6)), precision="tf32").backward(dy)
    _, dw, _ = kernels.linear_backward(dy, x, w.data.reshape(4, 6), precision="tf32")
    assert_array_equal(w.grad, dw.ravel())


def test_frozen_weights_stay_and_their_gradient_is_not_computed(launched: list[str]) -> None:
    layer = nn.Linear(6, 5, precision="bf16")
    layer.w.lr_scale = 0
    before, sgd = layer.w.data.copy(), optim.SGD(layer.parameters(), lr=0.1)
    layer(Tensor(reference.random(3, 6, dtype=bfloat16))).backward(reference.random(3, 5, dtype=bfloat16))
    launched.clear()
    sgd.step()
    assert_array_equal(layer.w.data, before)
    assert launched == ["multi_sgd"]


def test_momentum_and_decay_of_one_weight() -> None:
    def updated(fused: bool) -> np.ndarray:
        layer = nn.Linear(6, 5, precision="tf32", rng=np.random.default_rng(0))
        layer.w.momentum_scale, layer.w.decay_scale, layer.w.lr_scale = 0.5, 3.0, 2.0
        sgd = optim.SGD(layer.parameters(), lr=0.1, decay=0.1)
        for seed in range(3):
            sgd.zero_grad()
            layer(Tensor(reference.random(4, 6, seed=seed))).backward(reference.random(4, 5, seed=seed))
            assert fused or layer.w.grad is not None
            sgd.step()
        return layer.w.data

    assert_array_equal(updated(True), updated(False))


# ---- ReLU and dropout in the layer before


@pytest.mark.parametrize("precision", kernels.PRECISIONS)
def test_layers_fused_with_dropout_have_the_bits_of_both(
    precision: str, launched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = replace(BASE, precision=precision, batch=18, epochs=3)  # more rows than few
    joined = trained(made)
    assert launched.count("relu_backward") == 0
    assert (launched.count("tensor_gemm_dropout") == 0) == (precision == "fp32")
    monkeypatch.setattr(nn.Linear, "fused_with", lambda self, following: None)
    launched.clear()
    apart = trained(made)
    assert launched.count("tensor_gemm_dropout") == 0 and launched.count("dropout")
    assert_equal(joined, apart)


def test_what_is_fused() -> None:
    layer, dropout = nn.Linear(3, 4, activation="relu"), nn.Dropout()
    assert layer.fused_with(dropout) and not layer.fused_with(nn.ReLU())
    assert not nn.Linear(3, 4).fused_with(dropout) and not nn.Linear(3, 4, activation="tanh").fused_with(dropout)
    assert not layer.fused_with(dropout.eval())

    class Other(nn.Dropout):
        pass

    assert not layer.fused_with(Other())


def test_a_layer_without_bias_is_fused_as_well() -> None:
    def gradients(joined: bool) -> tuple[np.ndarray, ...]:
        layer, dropout = nn.Linear(6, 5, "relu", bias=False, rng=np.random.default_rng(0)), nn.Dropout(0.3, "inverted")
        dropout.purpose = 0
        x = Tensor(reference.random(4, 6), requires_grad=True)
        both = layer.fused_with(dropout)
        y = both(x) if joined else dropout(layer(x))
        y.backward(reference.random(4, 5, seed=1))
        assert dropout.step == 1
        return y.data, x.grad, layer.w.grad

    for some, other in zip(gradients(True), gradients(False), strict=True):
        assert_array_equal(some, other)


# ---- gradients of a layer with ReLU from its output

GRADIENTS: dict[str, Callable[..., Any]] = {
    "conv2d": lambda run, x, w, dy, **options: run(kernels.conv2d_backward, dy, x, w, padding=1, **options),
    "local2d": lambda run, x, w, dy, **options: run(kernels.local2d_backward, dy, x, w, padding=1, **options),
    "linear": lambda run, x, w, dy, **options: run(kernels.linear_backward, dy, x, w, **options),
}


@pytest.mark.parametrize(
    ("name", "x", "w", "y", "options"),
    [
        ("conv2d", (2, 4, 5, 3), (6, 3, 3, 3), (2, 4, 5, 6), {}),
        ("conv2d", (2, 4, 5, 3), (6, 3, 3, 3), (2, 4, 5, 6), {"precision": "tf32"}),
        ("local2d", (2, 4, 5, 3), (4, 5, 6, 3, 3, 3), (2, 4, 5, 6), {}),
        ("linear", (5, 7), (6, 7), (5, 6), {"precision": "bf16"}),
        ("linear", (5, 7), (6, 7), (5, 6), {"scale": 2.5}),
    ],
)
def test_with_the_output_it_is_the_gradient_with_relu(
    run: Runner, name: str, x: Any, w: Any, y: Any, options: dict[str, Any]
) -> None:
    """To the bits of ``bias_relu_backward`` and what comes before it, for all that may be needed; and a mask of db's
    that nobody needs is one without sums."""
    backward = partial(GRADIENTS[name], run)
    a, dy, out = (reference.random(*shape, seed=i) for i, shape in enumerate((x, y, y)))
    weights, scale = reference.random(*w, seed=3), options.get("scale", 1.0)
    matrix = (2, -1) if name == "local2d" else (-1, 6)  # a row for each bias
    masked, sums = run(kernels.bias_relu_backward, dy.reshape(matrix), out.reshape(matrix), scale)
    others = {key: value for key, value in options.items() if key != "scale"}
    for needs in itertools.product((True, False), repeat=3):
        expected = backward(a, weights, masked.reshape(y), needs=(*needs[:2], False), **others)
        with launches() as launched:
            dx, dw, db = backward(a, weights, dy, needs=needs, y=out, **options)
        assert ("bias_relu_backward" in launched) == (needs[2] or scale != 1)
        assert ("relu_backward" in launched) == (not needs[2] and scale == 1)
        for actual, right in zip((dx, dw), expected, strict=False):
            assert (actual is None) == (right is None)
            assert_array_equal(actual, right)
        assert (db is None) == (not needs[2])
        if needs[2]:
            assert_array_equal(db.ravel(), sums)


# ---- copies in bfloat16


def test_weights_are_rounded_once_between_the_looks_of_others(
    launched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU callbacks hear of every step, and may change weights then."""
    forget = optim.Copies.forget
    trained(BASE)
    casts = launched.count("cast")
    monkeypatch.setattr(optim.Copies, "forget", lambda self: None if self.current else forget(self))
    launched.clear()
    trained(BASE)
    assert casts - launched.count("cast") == 3 * 5


@pytest.mark.parametrize("exchange", [False, True], ids=["in place", "another array"])
def test_weights_that_a_callback_changes_are_those_that_are_trained(
    exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halve(trainer: Trainer, step: Step) -> None:
        if step.step == 2:
            for p in trainer.model.parameters():
                if exchange:
                    p.data = p.data / 2
                else:
                    p.data[...] = p.data / 2

    kept = trained(BASE, halve)
    monkeypatch.setattr(optim.Copies, "__enter__", lambda self: None)
    assert_equal(kept, trained(BASE, halve))


def test_after_a_step_that_failed_copies_are_made_anew() -> None:
    layer = nn.Sequential(nn.Linear(4, 3, precision="bf16"))
    copies, (w, _) = optim.Copies(layer), layer.parameters()
    copies.refresh()

    def fail() -> None:
        with copies:
            w.data += 1
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    assert w.bf16_copy is None
    copies.refresh()
    assert_array_equal(copies.arrays[w], w.data.astype(bfloat16))


def test_an_update_without_a_gradient_writes_the_copy(launched: list[str]) -> None:
    layer = nn.Sequential(nn.Linear(4, 3, precision="bf16"))
    copies, sgd, (w, _) = optim.Copies(layer), optim.SGD(layer.parameters(), lr=0.5), layer.parameters()
    copies.refresh()
    before = w.data.copy()
    with copies:
        layer(Tensor(reference.random(5, 4, dtype=bfloat16))).backward(reference.random(5, 3, dtype=bfloat16))
        sgd.step()
    assert launched.count("cast") == 1 and launched.count("tensor_gemm_sgd") == 1 and (w.data != before).any()
    assert_array_equal(copies.arrays[w], w.data.astype(bfloat16))


def test_an_update_with_a_gradient_keeps_the_copy() -> None:
    layer = nn.Sequential(nn.Linear(4, 3, precision="bf16"))
    copies, (w, _) = optim.Copies(layer), layer.parameters()
    copies.refresh()
    for kind in (optim.SGD, optim.Adam):
        with copies:
            w.grad = reference.random(3, 4)
            kind([w]).step()
        assert_array_equal(copies.arrays[w], w.data.astype(bfloat16))


# ---- memory


def test_the_plan_knows_that_gradients_are_not_written() -> None:
    model, cpu, made = models.get("alexnet-mini"), backend.devices("cpu"), recipe.load("alexnet-mini")
    made = replace(made, precision="bf16")
    fused, clipped = (memory.Planner(model, cpu, replace(made, clip=clip)).plan(4)[0] for clip in (0.0, 1.0))
    weights = 4 * sum(
        row.parameters - row.output[-1] for row in model.rows() if isinstance(row.layer, models.layers.Linear)
    )
    assert fused.gradients == clipped.gradients - weights == fused.parameters - weights
    assert fused.training < clipped.training
    assert 0 <= fused.optimizer - fused.parameters - weights // 2 < 1 << 10  # momentum, and copies in bfloat16
