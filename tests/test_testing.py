"""alexnet_cuda.testing and the checks of Functions: what is right passes, and every kind of mistake is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16
from reference import distinct, random
from stand_in_cupy import StandIn

from alexnet_cuda import Tensor, backend, kernels, nn, ops
from alexnet_cuda.tensor import Function
from alexnet_cuda.testing import check_gradients, check_kernel, thread_counts

pytest_plugins = ["stand_in_cupy"]


class Scale(Function):
    """y = x s, whose backward pass is what ``returns`` makes of the gradients."""

    def __init__(self, returns: Callable[[Any, Any], Any] = lambda dx, ds: (dx, ds)) -> None:
        self.returns = returns

    def forward(self, x: Any, s: Any) -> Any:
        self.x, self.s = x, s
        return x * s

    def backward(self, dy: Any) -> Any:
        return self.returns(dy * self.s, (dy * self.x).sum(axis=0))


# ---- what a Function returns


@pytest.mark.parametrize(
    ("returns", "error", "message"),
    [
        (lambda dx, ds: dx, TypeError, "expected a tuple of gradients, got ndarray: return dx,"),
        (lambda dx, ds: None, TypeError, "expected a tuple of gradients, got NoneType"),
        (lambda dx, ds: (dx,), ValueError, r"expected 2 gradients, one for each input \(None .*, got 1"),
        (lambda dx, ds: (dx, ds, ds), ValueError, "expected 2 gradients, .*, got 3"),
        (lambda dx, ds: (None, ds), TypeError, r"gradient 0: .* \(4, 3\) and float32 on cpu, got NoneType"),
        (lambda dx, ds: (dx, list(ds)), TypeError, "gradient 1: expected an array .*, got list"),
        (lambda dx, ds: (dx, ds.sum()), TypeError, "gradient 1: .* got float32: numpy.asarray makes an array"),
        (lambda dx, ds: (dx, dx), ValueError, r"gradient 1: .* of shape \(3,\) .* got \(4, 3\) and float32"),
        (lambda dx, ds: (dx[:1], ds), ValueError, r"gradient 0: .* got \(1, 3\) and float32 on cpu"),
        (lambda dx, ds: (dx, ds.astype(np.float64)), ValueError, r"gradient 1: .* got \(3,\) and float64"),
        (lambda dx, ds: (dx.astype(bfloat16), ds), ValueError, r"gradient 0: .* got \(4, 3\) and bfloat16"),
        (lambda dx, ds: (dx.astype(object), ds), ValueError, r"gradient 0: .* got \(4, 3\) and object"),
    ],
)  # fmt: skip
def test_wrong_gradients_are_told(returns: Any, error: type[Exception], message: str) -> None:
    x, s = Tensor(random(4, 3), requires_grad=True), nn.Parameter(random(3))
    y = Scale.apply(x, s, returns=returns).sum()
    with pytest.raises(error, match=f"^Scale.backward: {message}"):
        y.backward()
    assert s.grad is None


def test_a_gradient_on_another_device_is_told(stand_in: StandIn) -> None:
    class Far(Function):
        def forward(self, x: Any) -> Any:
            return kernels.relu(x)

        def backward(self, dy: Any) -> Any:
            return (backend.to_host(dy),)

    x = Tensor(random(4), True, "cuda")
    with pytest.raises(ValueError, match=r"Far.backward: gradient 0: expected an array .* on cuda:0, got .* on cpu"):
        Far.apply(x).sum().backward()


def test_what_is_not_needed_may_be_anything_of_the_right_number() -> None:
    x, s = Tensor(random(4, 3)), nn.Parameter(random(3))
    Scale.apply(x, s, returns=lambda dx, ds: [None, ds]).sum().backward()
    Scale.apply(x, s, returns=lambda dx, ds: (dx[:1], ds)).sum().backward()
    assert s.grad is not None


def test_an_output_that_is_no_array_is_told() -> None:
    class Total(Function):
        def forward(self, x: Any) -> Any:
            return x.sum()

    with pytest.raises(TypeError, match=r"Total.forward: expected an array, got float32: numpy.asarray makes an array"):
        Total.apply(Tensor(random(3)))


# ---- check_gradients


def test_right_gradients_pass() -> None:
    check_gradients(Scale.apply, [random(4, 3), random(3, seed=1)])
    check_gradients(lambda x, w, b: ops.conv2d(x, w, b, padding=1), [random(1, 4, 4, 2), random(3, 3, 3, 2), random(3)])
    labels = np.array([0, 2], np.int32)
    check_gradients(ops.softmax_cross_entropy, [random(2, 3), labels])
    check_gradients(ops.logistic_cross_entropy, [random(2, 3), labels])
    check_gradients(ops.squared_error, [random(2, 3), labels])
    check_gradients(lambda x: ops.contrast_norm(x, 3), [random(1, 5, 4, 2)])
    check_gradients(lambda x: x.exp().max(1), [10 * distinct(3, 5)], tolerance=0.02, step=2.0**-5)


@pytest.mark.parametrize("name", ops.POINTWISE)
def test_pointwise_functions(name: str) -> None:
    x = (np.sign(random(5, 7)) * (0.1 + abs(random(5, 7)))).astype(np.float32)
    x = abs(x) if name == "sqrt" else x
    check_gradients(lambda x: ops.pointwise(x, name, 3.5, 0.7), [x], step=2.0**-8, tolerance=5e-3)


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (lambda dx, ds: (2 * dx, ds), r"^input 0: the gradient at \(0, 0\) is .*, differences say .*, allowed"),
        (lambda dx, ds: (dx, -ds), r"^input 1: the gradient at \(0,\) is"),
        (lambda dx, ds: (dx, 1.01 * ds), "^input 1: the gradient at"),
        (lambda dx, ds: (np.full_like(dx, np.nan), ds), r"^input 0: the gradient at \(0, 0\) is nan"),
    ],
)
def test_wrong_gradients_fail(returns: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_gradients(lambda x, s: Scale.apply(x, s, returns=returns), [random(4, 3), random(3, seed=1)])


def test_a_gradient_that_is_lost_fails() -> None:
    with pytest.raises(AssertionError, match="input 1: no gradient came back"):
        check_gradients(lambda x, s: x * s.detach(), [random(3), random(3)])
    with pytest.raises(AssertionError, match="the output depends on no input"):
        check_gradients(lambda x: x.detach(), [random(3)])


# ---- check_kernel


def drawn(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"x": random(*shape)}


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def test_right_kernels_pass() -> None:
    check_kernel(kernels.sigmoid, sigmoid, drawn, roundings=6)
    check_kernel(kernels.relu, lambda x: np.maximum(x, 0), lambda s: {"x": random(*s, dtype=bfloat16)}, roundings=0)
    check_kernel(
        kernels.bias_backward, lambda dy: dy.reshape(-1, dy.shape[-1]).sum(0), lambda s: {"dy": random(*s)},
        shapes=[(65, 33), (1000, 3)], roundings=1000, magnitude=lambda dy: abs(dy).sum(0),
    )  # fmt: skip
    check_kernel(kernels.reduce_max, lambda x: (x.max(), x.argmax()), drawn, roundings=0)


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "the last element is forgotten": (
        lambda x: _written(x, lambda y: np.copyto(y.reshape(-1)[:-1], sigmoid(x).reshape(-1)[:-1])),
        r"of \(1,\), result 0: 1 of 1 elements .*\n.*got nan",
    ),
    "right for whole blocks alone": (
        lambda x: (sigmoid(x) if x.size % 256 == 0 else 1.001 * sigmoid(x)).astype(np.float32), r"of \(1,\), result 0",
    ),
    "another storage": (lambda x: sigmoid(x.astype(np.float64)), "result 0: expected float32, got float64"),
    "another shape": (lambda x: sigmoid(x).astype(np.float32)[None], r"result 0: expected shape \(1,\), got \(1, 1\)"),
    "another number of results": (lambda x: (x, x), "expected 1 results, got 2"),
    "writes its input": (
        lambda x: _written(x, lambda y: (np.copyto(y, sigmoid(x)), x.fill(0))), "x has been written to"
    ),
    "other bits with more threads": (
        lambda x: np.nextafter(kernels.sigmoid(x), np.float32(backend.threads() > 2)), "other bits with 4 threads"
    ),
}  # fmt: skip


def _written(x: np.ndarray, write: Callable[[np.ndarray], object]) -> np.ndarray:
    y = backend.empty(x.shape, np.float32, backend.device("cpu"))
    write(y)
    return y


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_kernels_fail(mistake: str) -> None:
    kernel, message = WRONG[mistake]
    with pytest.raises(AssertionError, match=message):
        check_kernel(kernel, sigmoid, drawn, roundings=8)


def test_threads_are_as_before() -> None:
    before = backend.threads()
    assert list(thread_counts()) == [1, 1, 2, 4, 4]
    with pytest.raises(AssertionError):
        check_kernel(kernels.relu, lambda x: x + 1, drawn)
    assert backend.threads() == before


def test_what_is_not_written_shows_and_poison_is_as_before() -> None:
    kernel, _ = WRONG["the last element is forgotten"]
    backend.poison(False)
    try:
        with pytest.raises(AssertionError, match=r"expected 0\.\d+, got nan"):
            check_kernel(kernel, sigmoid, drawn, roundings=8)
        assert not backend.arrays._poison
    finally:
        backend.poison(True)
