"""The kernels on PyTorch's tensors, inside PyTorch's autograd, and on JAX's arrays."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import reference
from numpy.testing import assert_array_equal

from alexnet_cuda import backend, kernels

pytestmark = pytest.mark.oracle
EXAMPLE = Path(__file__).parents[1] / "examples/kernels_in_pytorch.py"


@pytest.fixture(scope="module")
def torch(import_oracle: Callable[[str], ModuleType]) -> Any:
    return import_oracle("torch")


def test_tensors_are_taken_and_given_without_a_copy(torch: Any) -> None:
    x, w = reference.random(2, 7, 7, 4), reference.random(6, 3, 3, 4, seed=1)
    y = kernels.conv2d(torch.from_numpy(x), torch.from_numpy(w), relu=True)
    assert isinstance(y, torch.Tensor)
    assert_array_equal(y.numpy(), kernels.conv2d(x, w, relu=True))
    out = torch.full((2, 5, 5, 6), float("nan"))
    assert kernels.conv2d(torch.from_numpy(x), torch.from_numpy(w), relu=True, out=out) is out
    assert_array_equal(out.numpy(), y.numpy())
    v, g = torch.zeros(5), torch.ones(5)
    weights = torch.ones(5)
    kernels.sgd(weights, v, g, lr=0.5, momentum=0.0, decay=0.0)
    assert (weights == 0.5).all()
    loss, losses, p = kernels.softmax_cross_entropy(torch.zeros(3, 10), torch.tensor([0, 5, 9]))
    assert loss.shape == () and losses.shape == (3,) and p.shape == (3, 10)
    assert loss.item() == pytest.approx(np.log(10))


def test_bfloat16_tensors(torch: Any) -> None:
    x, w = torch.randn(5, 40).to(torch.bfloat16), torch.randn(6, 40)
    y = kernels.linear(x, w)
    assert (y.dtype, tuple(y.shape)) == (torch.bfloat16, (5, 6))
    expected = x.double() @ w.to(torch.bfloat16).double().T
    assert ((y.double() - expected).abs() <= 2.0**-8 * expected.abs() + 1e-5).all()
    out = torch.zeros_like(x)
    assert kernels.relu(x, out=out) is out
    assert torch.equal(out, torch.relu(x))
    assert kernels.cast(x, "float32").dtype == torch.float32
    dx, dw, db = kernels.linear_backward(y, x, w)
    assert (dx.dtype, dw.dtype, db.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def test_channels_last_memory_is_taken_as_it_lies(torch: Any) -> None:
    x = torch.rand(2, 4, 7, 7).to(memory_format=torch.channels_last)
    assert_array_equal(kernels.relu(x.permute(0, 2, 3, 1)).numpy(), x.permute(0, 2, 3, 1).numpy())
    with pytest.raises(ValueError, match="lrn: x: expected a C-contiguous array"):
        kernels.lrn(torch.rand(2, 4, 7, 7).permute(0, 2, 3, 1))


def test_tensors_that_cannot_be_taken_are_refused(torch: Any) -> None:
    for tensor, message in (
        (torch.ones(3, requires_grad=True), "relu: x: torch.Tensor cannot be read through DLPack: .*detach"),
        (torch.ones(3, dtype=torch.float16), "relu: x: expected dtype float32 or bfloat16, got float16"),
        (torch.ones(3, dtype=torch.bfloat16, requires_grad=True), "relu: x: torch.Tensor cannot be read .*detach"),
        (torch.ones(3).to_sparse(), "relu: x: torch.Tensor cannot be read through DLPack"),
        (torch.ones(3, device="meta"), "relu: x: "),
        (torch._neg_view(torch.ones(3)), r"relu: x: torch.Tensor cannot be read .*resolve_neg\(\) it"),
        (torch.ones(3, dtype=torch.complex64).conj().imag, r"relu: x: .*resolve_neg\(\) it"),
        (torch.ones(3, dtype=torch.complex64).conj(), "relu: x: torch.Tensor cannot be read through DLPack"),
    ):
        with pytest.raises(TypeError, match=message):
            kernels.relu(tensor)


@pytest.fixture(scope="module")
def jnp(import_oracle: Callable[[str], ModuleType]) -> Iterator[Any]:
    """JAX's functions that are called as NumPy's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        yield import_oracle("jax.numpy")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arrays_of_jax_go_in_and_come_out(jnp: Any, dtype: str) -> None:
    """Products of bfloat16 are exact in float32, so the same values come from NumPy's arrays."""
    x, w = reference.random(2, 7, 7, 4), reference.random(6, 3, 3, 4, seed=1)
    y = kernels.conv2d(jnp.asarray(x, dtype), jnp.asarray(w), relu=True)
    expected = kernels.conv2d(x.astype(jnp.dtype(dtype)), w, relu=True)
    assert isinstance(y, jnp.ndarray) and (y.dtype, expected.dtype) == (dtype, dtype)
    assert_array_equal(np.asarray(y), expected)
    assert_array_equal(kernels.relu(jnp.asarray(x, dtype)), jnp.maximum(jnp.asarray(x, dtype), 0))
    other = {"float32": "bfloat16", "bfloat16": "float32"}[dtype]
    assert_array_equal(kernels.cast(jnp.asarray(x, dtype), other), jnp.asarray(x, dtype).astype(other))
    dx, dw, db = kernels.linear_backward(jnp.ones((5, 6), dtype), jnp.ones((5, 40), dtype), jnp.ones((6, 40)))
    assert (dx.dtype, dw.dtype, db.dtype) == (dtype, "float32", "float32")
    assert all((each == value).all() for each, value in ((dx, 6), (dw, 5), (db, 5)))


@pytest.mark.parametrize("shape", [(3,), (5, 7), (64, 1024), (1024, 1024)])
def test_jax_takes_results_where_they_lie(jnp: Any, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    """As they are aligned; what is not, it copies. Not so bfloat16, which NumPy hands over as integers."""
    x = jnp.asarray(reference.random(*shape))
    made: list[int] = []
    empty = backend.empty

    def recorded(*arguments: Any) -> Any:
        array = empty(*arguments)
        made.append(backend.address(array))
        return array

    monkeypatch.setattr(backend, "empty", recorded)
    y = kernels.relu(x)
    assert made and y.unsafe_buffer_pointer() == made[-1]
    assert_array_equal(y, jnp.maximum(x, 0))
    off = np.frombuffer(bytearray(4 * 17), np.float32)
    off = off[1:] if off.ctypes.data % 64 == 0 else off[: 16 - off.ctypes.data % 64 // 4]
    assert jnp.from_dlpack(off).unsafe_buffer_pointer() != off.ctypes.data


def test_arrays_of_jax_are_not_written(jnp: Any) -> None:
    x = jnp.zeros((2, 3))
    for call in (lambda: kernels.relu(x, out=x), lambda: kernels.sgd(x, x, x, lr=0.1)):
        with pytest.raises(ValueError, match=r"expected a writable C-contiguous float32 array .* got read-only"):
            call()


@pytest.mark.parametrize("name", ["ConvRelu", "Lrn", "MaxPool"])
def test_the_examples_functions_have_pytorchs_gradients(torch: Any, name: str) -> None:
    function, F = runpy.run_path(str(EXAMPLE))[name], torch.nn.functional
    torch.manual_seed(0)
    x = torch.randn(2, 8, 8, 6, requires_grad=True)
    w, b = torch.randn(6, 3, 3, 6, requires_grad=True), torch.randn(6, requires_grad=True)
    first = x.permute(0, 3, 1, 2)
    mine, theirs, inputs = {
        "ConvRelu": lambda: (
            function.apply(x, w, b, 1), F.relu(F.conv2d(first, w.permute(0, 3, 1, 2), b, padding=1)), (x, w, b)
        ),
        "Lrn": lambda: (function.apply(x), F.local_response_norm(first, 5, 5e-4, 0.75, 2.0), (x,)),
        "MaxPool": lambda: (function.apply(x), F.max_pool2d(first, 3, 2), (x,)),
    }[name]()  # fmt: skip
    theirs = theirs.permute(0, 2, 3, 1)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    dy = torch.randn_like(mine)
    for actual, expected in zip(
        torch.autograd.grad(mine, inputs, dy), torch.autograd.grad(theirs, inputs, dy), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_example_learns(torch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert runpy.run_path(str(EXAMPLE))["main"](epochs=5) > 0.93
    assert len(capsys.readouterr().out.splitlines()) == 5
