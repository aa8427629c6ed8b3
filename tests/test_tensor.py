"""Autograd: gradients through composed operations, accumulation, freeing, refusals."""

import gc
import weakref

import numpy as np
import pytest
from ml_dtypes import bfloat16
from stand_in_cupy import StandIn

from alexnet_cuda import Tensor, nn, no_grad, ops
from alexnet_cuda.tensor import Function

pytest_plugins = ["stand_in_cupy"]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def chain(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, labels: Tensor) -> Tensor:
    h = ops.activation(ops.conv2d(x, w1, b1, padding=1, groups=2), "tanh")
    h = ops.avg_pool2d(ops.lrn(h, size=3, k=1.0, alpha=0.5), 2)
    h = ops.dropout(h, 0.25, seed=3, step=1, purpose=2)
    return ops.softmax_cross_entropy(ops.linear(ops.flatten(h), w2, b2), labels)


def arrays() -> tuple[list[np.ndarray], np.ndarray]:
    shapes = [(3, 4, 4, 4), (6, 3, 3, 2), (6,), (5, 24), (5,)]
    return [random(*s, seed=i) * 0.5 for i, s in enumerate(shapes)], np.array([0, 4, 2], np.int32)


def test_gradients_through_a_chain_match_central_differences():
    values, labels = arrays()
    tensors = [Tensor(v.copy(), requires_grad=True) for v in values]
    chain(*tensors, Tensor(labels)).backward()
    rng, step = np.random.default_rng(1), 1e-2
    for which, value in enumerate(values):
        direction = rng.choice([-1.0, 1.0], value.shape).astype(np.float32)

        def loss(t: float, which: int = which, direction: np.ndarray = direction) -> float:
            moved = [v + t * direction if i == which else v for i, v in enumerate(values)]
            return chain(*(Tensor(v.astype(np.float32)) for v in moved), Tensor(labels)).item()

        # Fourth-order difference: the truncation error is O(step^4), the rounding error about 1e-7 / step.
        numeric = (8 * (loss(step) - loss(-step)) - (loss(2 * step) - loss(-2 * step))) / (12 * step)
        exact = float((tensors[which].grad * direction).sum(dtype=np.float64))
        assert exact == pytest.approx(numeric, rel=1e-3, abs=2e-4)


@pytest.mark.parametrize("x", [np.ones((2, 4), np.float32), [[1.0] * 4] * 2], ids=["array", "list"])
def test_what_is_no_tensor_is_told_what_makes_one(x: object):
    layer = nn.Linear(4, 3)
    for call, user in (
        (lambda: layer(x), "Linear"),
        (lambda: nn.Sequential(nn.Flatten(), layer)(x), "Sequential"),
        (lambda: ops.softmax_cross_entropy(layer(Tensor(x)), [0, 1]), "SoftmaxCrossEntropy"),
        (lambda: ops.softmax_cross_entropy(layer(Tensor(x)), np.array([0, 1])), "SoftmaxCrossEntropy"),
        (lambda: ops.linear(x, layer.w, layer.b), "Linear"),
    ):
        message = rf"^{user}: expected a Tensor, got (list|ndarray): Tensor\(...\) makes one$"
        with pytest.raises(TypeError, match=message):
            call()
    assert ops.softmax_cross_entropy(layer(Tensor(x)), Tensor([0, 1])).shape == ()


def test_a_tensor_used_twice_receives_both_gradients():
    x = Tensor(random(2, 3), requires_grad=True)
    w = Tensor(random(3, 3, seed=1), requires_grad=True)
    dy = random(2, 3, seed=2)
    h = ops.linear(x, w)
    y = ops.linear(h, w)
    y.backward(dy)
    x64, w64, dy64 = (a.astype(np.float64) for a in (x.data, w.data, dy))
    np.testing.assert_allclose(w.grad, dy64.T @ (x64 @ w64.T) + (dy64 @ w64).T @ x64, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(x.grad, dy64 @ w64 @ w64, rtol=1e-5, atol=1e-5)


def test_gradients_accumulate_over_passes_and_do_not_share_memory():
    x, w = Tensor(random(2, 3), requires_grad=True), Tensor(random(4, 3, seed=1), requires_grad=True)
    dy = np.ones((2, 4), np.float32)
    ops.linear(x, w).backward(dy)
    first, kept = w.grad.copy(), w.grad
    ops.linear(x, w).backward(dy)
    np.testing.assert_array_equal(w.grad, 2 * first)
    np.testing.assert_array_equal(kept, first)
    np.testing.assert_array_equal(dy, 1)


def test_a_residual_branch_adds_up():
    class Add(Function):
        def forward(self, a, b):
            return a + b

        def backward(self, dy):
            return dy, dy

    x = Tensor(random(2, 3), requires_grad=True)
    h = ops.activation(x, "tanh")
    Add.apply(Add.apply(h, x), h).backward(np.ones((2, 3), np.float32))
    np.testing.assert_allclose(x.grad, 1 + 2 * (1 - np.tanh(x.data) ** 2), rtol=1e-5)


def test_only_what_requires_a_gradient_gets_one():
    x, w = Tensor(random(2, 3)), Tensor(random(4, 3), requires_grad=True)
    y = ops.linear(x, w)
    y.backward(np.ones((2, 4), np.float32))
    assert x.grad is None and w.grad is not None and y.grad is None
    assert not ops.linear(x, Tensor(random(4, 3))).requires_grad


def test_no_grad_records_nothing():
    w = Tensor(random(4, 3), requires_grad=True)
    with no_grad():
        y = ops.linear(Tensor(random(2, 3)), w)
    assert y.function is None and not y.requires_grad
    assert ops.linear(Tensor(random(2, 3)), w).requires_grad


def test_second_backward_is_refused():
    w = Tensor(random(4, 3), requires_grad=True)
    h = ops.linear(Tensor(random(2, 3)), w)
    y, z = ops.activation(h, "relu"), ops.activation(h, "tanh")
    y.backward(np.ones((2, 4), np.float32))
    with pytest.raises(RuntimeError, match="freed"):
        y.backward(np.ones((2, 4), np.float32))
    with pytest.raises(RuntimeError, match="freed"):
        z.backward(np.ones((2, 4), np.float32))


def test_arrays_that_no_backward_needs_are_freed_in_the_forward_pass():
    x = Tensor(random(1, 4, 4, 2), requires_grad=True)
    h = ops.max_pool2d(x, 2)
    middle = weakref.ref(h)
    y = ops.avg_pool2d(h, 2)
    del h
    gc.collect()
    assert middle() is None
    y.backward(np.ones((1, 1, 1, 2), np.float32))
    assert x.grad.sum() == pytest.approx(2)


@pytest.mark.parametrize("dy", [np.ones((2, 3), np.float32), np.ones((2, 4), np.float64)])
def test_wrong_dy_is_refused(dy):
    y = ops.linear(Tensor(random(2, 3)), Tensor(random(4, 3), requires_grad=True))
    with pytest.raises(ValueError, match=r"expected dy of shape \(2, 4\) and float32"):
        y.backward(dy)
    with pytest.raises(ValueError, match="needs dy"):
        y.backward()


def test_inputs_on_different_devices_are_refused():
    with pytest.raises(ValueError, match="expected inputs on one device, got cpu and cpu:1"):
        ops.linear(Tensor(random(2, 3)), Tensor(random(4, 3), device="cpu:1"))


def test_integers_cannot_require_a_gradient_and_python_floats_become_float32():
    with pytest.raises(TypeError, match="int64"):
        Tensor(np.arange(3), requires_grad=True)
    assert Tensor([1.5, 2.5]).data.dtype == np.float32


def test_a_detached_tensor_has_the_values_and_no_history():
    w = Tensor(random(4, 3), requires_grad=True)
    y = ops.linear(Tensor(random(2, 3)), w)
    z = y.detach()
    assert z.data is y.data and z.device == y.device and z.dtype == y.dtype == np.float32
    assert z.function is None and not z.requires_grad and z.grad is None
    with pytest.raises(RuntimeError, match="was not computed"):
        z.backward(np.ones((2, 4), np.float32))
    y.backward(np.ones((2, 4), np.float32))
    assert w.grad is not None
    assert type(nn.Parameter(random(3)).detach()) is Tensor
    assert Tensor(random(2).astype(bfloat16)).dtype == bfloat16


def test_numpy_takes_a_tensor():
    x = Tensor(random(2, 3))
    assert np.asarray(x) is x.data
    assert np.shares_memory(np.array(x, copy=False), x.data)
    copied = np.array(x)
    assert copied.dtype == np.float32 and not np.shares_memory(copied, x.data)
    np.testing.assert_array_equal(copied, x.data)
    wide = np.asarray(x, np.float64)
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(wide, x.data)
    with pytest.raises(ValueError, match="copy"):
        np.array(x, np.float64, copy=False)


def test_numpy_takes_a_copy_of_a_tensor_on_a_gpu(stand_in: StandIn):
    x = Tensor(random(2, 3), device="cuda")
    np.testing.assert_array_equal(np.asarray(x), random(2, 3))
    with pytest.raises(ValueError, match=r"values on cuda:0 cannot be had as a NumPy array without a copy"):
        np.array(x, copy=False)


def test_numpys_functions_lose_no_gradient_without_a_word():
    x = Tensor(random(3), requires_grad=True)
    with pytest.raises(TypeError):
        np.exp(x)
    for y in (np.float32(2) * x, random(3) * x, x * np.float64(2)):
        assert isinstance(y, Tensor) and y.requires_grad
