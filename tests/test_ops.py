"""Operations that are array expressions instead of kernels: values and gradients against float64."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given, strategies as st
from reference import Array

from alexnet_cuda import Tensor, nn, ops

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}  # a few float32 roundings of numbers around 1


def check(
    operation: Callable[..., Tensor], oracle: Callable[..., Any], *inputs: np.ndarray, **tolerance: float
) -> None:
    """The operation's value is the oracle's, and its gradients with respect to all inputs are the numeric ones."""
    tensors = [Tensor(x, requires_grad=True) for x in inputs]
    y = operation(*tensors)
    exact = [x.astype(np.float64) for x in inputs]
    tolerance = {**TOLERANCE, **tolerance}
    np.testing.assert_allclose(y.numpy(), oracle(*exact), **tolerance)
    assert y.numpy().dtype == np.float32
    dy = reference.random(*y.shape, seed=9)
    y.backward(dy)
    for i, t in enumerate(tensors):

        def loss(x: Array, place: int = i) -> float:
            return float((oracle(*exact[:place], x, *exact[place + 1 :]) * dy).sum())

        assert t.grad.dtype == np.float32 and t.grad.shape == t.shape
        np.testing.assert_allclose(t.grad, reference.numeric_gradient(loss, exact[i]), **tolerance)


POINTWISE: dict[tuple[str, float, float], Callable[[Array], Array]] = {
    ("abs", 1, 1): lambda x: np.sqrt(x * x),
    ("square", 1, 1): lambda x: x**2,
    ("softrelu", 1, 1): lambda x: np.log(1 + np.exp(x)),
    ("tanh", 1.7, -0.6): lambda x: 1.7 * (1 - 2 / (1 + np.exp(-1.2 * x))),
    ("abstanh", 2, 0.5): lambda x: abs(2 * (1 - 2 / (1 + np.exp(x)))),
    ("linear", -2, 3): lambda x: 3 - 2 * x,
    ("brelu", 0.5, 1): lambda x: np.minimum(0.5, np.maximum(0, x)),
    ("drelu", 0.8, 1): lambda x: x - 0.8 * (1 - 2 / (1 + np.exp(2 * x / 0.8))),
}


@pytest.mark.parametrize(("arguments", "oracle"), [pytest.param(*item, id=item[0][0]) for item in POINTWISE.items()])
def test_pointwise(arguments: tuple[str, float, float], oracle: Callable[[Array], Array]) -> None:
    x = 3 * reference.distinct(2, 3, 3, 4, seed=1)
    check(lambda x: ops.pointwise(x, *arguments), oracle, x)


def test_square_root() -> None:
    check(lambda x: ops.pointwise(x, "sqrt"), np.sqrt, 0.1 + abs(reference.random(3, 5)))


def test_every_pointwise_function_is_tested() -> None:
    assert {name for name, _, _ in POINTWISE} | {"sqrt"} == set(ops.POINTWISE)


def test_softrelu_neither_overflows_nor_vanishes() -> None:
    x = Tensor(np.array([-200, -30, 0, 30, 200], np.float32), requires_grad=True)
    y = ops.pointwise(x, "softrelu")
    np.testing.assert_allclose(y.numpy(), [0, math.exp(-30), math.log(2), 30, 200], rtol=1e-6)
    y.backward(np.ones(5, np.float32))
    np.testing.assert_allclose(x.grad, [0, 0, 0.5, 1, 1], atol=1e-6)


def test_noisy_relu() -> None:
    noise = reference.random(4, 6, seed=2)

    def oracle(x: Array) -> Array:
        z = np.maximum(0, x)
        return np.maximum(0, z * (1 + noise))

    x = reference.distinct(4, 6)
    y = ops.noisy_relu(Tensor(x), noise)
    np.testing.assert_allclose(y.numpy(), oracle(x.astype(np.float64)), **TOLERANCE)
    t = Tensor(x, requires_grad=True)
    ops.noisy_relu(t, noise).backward(np.ones((4, 6), np.float32))
    np.testing.assert_array_equal(t.grad, (oracle(x.astype(np.float64)) > 0).astype(np.float32))


def test_noise_is_a_function_of_seed_and_step() -> None:
    network, x = nn.Sequential(nn.NoisyReLU(), nn.NoisyReLU()), Tensor(abs(reference.random(3, 8)))
    network.seed(5)
    first, second = network(x).numpy(), network(x).numpy()
    assert not np.array_equal(first, second)
    network.seed(5, 1)
    np.testing.assert_array_equal(network(x).numpy(), second)
    network.seed(5, 1, row=2)  # the last of three rows
    np.testing.assert_array_equal(network(Tensor(x.numpy()[2:])).numpy(), second[2:])


@pytest.mark.parametrize("bias", [None, (4,), (2, 3, 4)])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("coefficients", [(1.0,), (1.0, 1.0), (2.0, -1.0, 0.5)])
def test_weighted_sum(coefficients: Sequence[float], bias: tuple[int, ...] | None, relu: bool) -> None:
    xs = [reference.distinct(2, 2, 3, 4, seed=i) for i in range(len(coefficients))]
    inputs = xs if bias is None else [*xs, reference.random(*bias, seed=8)]

    def operation(*tensors: Tensor) -> Tensor:
        b = None if bias is None else tensors[-1]
        return ops.weighted_sum(tensors[: len(xs)], coefficients, b, relu)

    def oracle(*inputs: Array) -> Array:
        y = sum(c * x for c, x in zip(coefficients, inputs, strict=False)) + (0 if bias is None else inputs[-1])
        return np.maximum(y, 0) if relu else np.asarray(y)

    check(operation, oracle, *inputs)


def test_concat() -> None:
    parts = [reference.random(2, 3, 3, c, seed=c) for c in (1, 4, 2)]
    check(lambda *xs: ops.concat(xs), lambda *xs: np.concatenate(xs, axis=-1), *parts)


def test_take_channels() -> None:
    order = np.array([[2, 0, 1, 3], [3, 2, 1, 0]])
    check(
        lambda x: ops.take_channels(x, order), lambda x: x[..., [2, 0, 1, 3, 3, 2, 1, 0]], reference.random(2, 2, 3, 4)
    )


@pytest.mark.parametrize(("start", "stride", "size"), [(0, 1, 3), (1, 2, 7), (2, 4, 9)])
def test_subsample(start: int, stride: int, size: int) -> None:
    def oracle(x: Array) -> Array:
        places = range(start, size, stride)
        return np.array([[[image[i, j] for j in places] for i in places] for image in x])

    check(lambda x: ops.subsample(x, start, stride), oracle, reference.random(2, size, size, 3))


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3)),
    size=st.integers(1, 6),
    alpha=st.sampled_from([1e-3, 0.3]),
    beta=st.sampled_from([0.5, 0.75]),
)
def test_contrast_norm(shape: tuple[int, ...], size: int, alpha: float, beta: float) -> None:
    options = {"size": size, "k": 1.0, "alpha": alpha, "beta": beta}
    operation, oracle = (partial(module.contrast_norm, **options) for module in (ops, reference))
    check(operation, oracle, reference.random(*shape))


def test_contrast_norm_divides_by_the_deviation_from_local_means() -> None:
    flat = np.full((1, 4, 4, 1), 7, np.float32)
    np.testing.assert_allclose(ops.contrast_norm(Tensor(flat), 3, alpha=1.0).numpy(), flat)


@pytest.mark.parametrize(("size", "std"), [(3, 0.7), (5, 4.0)])
def test_blur(size: int, std: float) -> None:
    module = nn.Blur(3, size, std)
    check(module, lambda x: reference.blur(x, size, std), reference.random(2, 6, 7, 3))
    assert not module.state()


def test_logistic_cross_entropy() -> None:
    labels = np.array([2, 0, 4], np.int32)
    t = np.eye(5)[labels]

    def oracle(x: Array) -> Any:
        p = 1 / (1 + np.exp(-x))
        return -(t * np.log(p) + (1 - t) * np.log(1 - p)).sum(axis=1).mean()

    check(lambda x: ops.logistic_cross_entropy(x, Tensor(labels)), oracle, reference.random(3, 5))


def test_squared_error() -> None:
    labels = np.array([2, 0, 4], np.int32)

    def oracle(x: Array) -> Any:
        return ((x - np.eye(5)[labels]) ** 2).sum(axis=1).mean()

    check(lambda x: ops.squared_error(x, Tensor(labels)), oracle, reference.random(3, 5))


@pytest.mark.parametrize(
    ("name", "hint"), [("sqare", "; did you mean square?"), ("abstan", "; did you mean abstanh?"), ("?", "")]
)
def test_an_unknown_function_is_named_with_the_nearest(name: str, hint: str) -> None:
    told = f"pointwise: name: expected one of {', '.join(ops.POINTWISE)}, got {name!r}{hint}"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        ops.pointwise(Tensor(np.ones(2, np.float32)), name)
