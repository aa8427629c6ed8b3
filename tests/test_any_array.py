"""``kernels`` for arrays of every library, ``out=``, and the examples in its docstrings."""

from __future__ import annotations

import doctest
import gc
import sys
import warnings
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import reference
from conftest import KERNELS
from ml_dtypes import bfloat16
from numpy.testing import assert_array_equal
from stand_in_cupy import StandIn

from alexnet_cuda import Tensor, backend, kernels

pytest_plugins = ["stand_in_cupy"]


def floats(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize("name", [*KERNELS, "window_output"])
def test_every_function_has_an_example_that_is_true(name: str) -> None:
    function = getattr(kernels, name)
    (example,) = doctest.DocTestFinder(recurse=False).find(
        function, name, module=False, globs={"np": np, "kernels": kernels, "floats": floats}
    )
    assert example.examples
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


class Foreign:
    """An array of a library of its own, known by DLPack alone."""

    def __init__(self, array: np.ndarray, device: int = 1) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __array_namespace__(self) -> Any:
        return Foreign

    @staticmethod
    def from_dlpack(array: np.ndarray) -> Foreign:
        return Foreign(array)


def test_arrays_of_any_library_give_the_same_in_that_library() -> None:
    x, w, b = reference.random(2, 7, 7, 4, seed=1), reference.random(6, 3, 3, 4, seed=2), reference.random(6, seed=3)
    y = kernels.conv2d(Foreign(x), Foreign(w), Foreign(b), padding=1)
    assert isinstance(y, Foreign)
    assert_array_equal(y.array, kernels.conv2d(x, w, b, padding=1))
    pooled = kernels.max_pool2d(x=y, size=3, stride=2)
    expected = kernels.max_pool2d(y.array, 3, 2)
    assert all(isinstance(part, Foreign) for part in pooled)
    for part, array in zip(pooled, expected, strict=True):
        assert_array_equal(part.array, array)
    dx, dw, db = kernels.conv2d_backward(y, x, w, padding=1, needs=(False, True, False))  # NumPy beside it
    assert dx is None and db is None and isinstance(dw, Foreign)


def test_memory_is_shared_and_lives_as_long_as_the_result() -> None:
    x = reference.random(64, 64)
    y = kernels.relu(Foreign(x))
    expected = np.maximum(x, 0)
    gc.collect()
    for _ in range(20):
        kernels.tanh(x)  # would take the memory if it were free
    assert_array_equal(y.array, expected)
    w, v, g = (reference.random(5, seed=i) for i in range(3))
    before = w.copy()
    kernels.sgd(Foreign(w), Foreign(v), Foreign(g), lr=0.1)
    assert (w != before).all()
    before = w.copy()
    kernels.multi_sgd([Foreign(w)], [Foreign(v)], [Foreign(g)], [0.1], [0.9], [0.0])
    assert (w != before).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Foreign(np.ones(3)), "relu: x: expected dtype float32 or bfloat16, got float64"),
        (Foreign(np.ones((3, 4), np.float32).T), "relu: x: expected a C-contiguous array"),
        (Foreign(np.ones(3, np.float32), device=7), "relu: x: expected an array in the memory of the CPU .* device 7"),
        (Foreign(np.array(["text"])), "relu: x: test_any_array.Foreign cannot be read through DLPack: "),
        (Tensor(np.ones(3, np.float32)), "relu: x: expected a NumPy or CuPy array, got alexnet_cuda.tensor.Tensor"),
        ([1.0, 2.0], r"relu: x: expected a NumPy .* got builtins.list: numpy.asarray\(x, numpy.float32\) makes one"),
        (np.ones(3), r"relu: x: expected dtype .*, got float64: numpy.asarray\(x, numpy.float32\) has it"),
        (np.ones(3, np.int32), "relu: x: expected dtype float32 or bfloat16, got int32$"),
        (np.ones((3, 4), np.float32).T, r"relu: x: expected a C-.*: numpy.ascontiguousarray\(x\) makes one"),
    ],
)
def test_what_cannot_be_taken_is_refused(value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        kernels.relu(value)


def test_channels_first_are_told_what_mends_them() -> None:
    x, w = reference.random(2, 3, 9, 9), reference.random(4, 5, 5, 3)
    mended = r"; channels come last: x.transpose\(0, 2, 3, 1\), made contiguous$"
    with pytest.raises(ValueError, match=mended):
        kernels.conv2d(x, w)
    assert kernels.conv2d(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), w).shape == (2, 5, 5, 4)
    with pytest.raises(ValueError, match=r"got \(4, 5, 5, 2\)$"):
        kernels.conv2d(x, w[..., :2].copy())


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (1 << 16,), (1 << 19,)])
@pytest.mark.parametrize("dtype", [np.float32, bfloat16, np.uint8])
def test_new_arrays_are_aligned(shape: tuple[int, ...], dtype: Any) -> None:
    held = [backend.empty(shape, dtype, backend.device("cpu")) for _ in range(8)]
    for array in held:
        assert (array.shape, array.dtype, array.ctypes.data % 64) == (shape, np.dtype(dtype), 0)
        assert array.flags.c_contiguous and array.flags.writeable


class Bfloat16(Foreign):
    """JAX's kind: types of its arrays are of another module than its functions; negation may wait."""

    negated = False

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.array.dtype == bfloat16 else str(self.array.dtype)

    def view(self, dtype: Any) -> Bfloat16:
        return Bfloat16(self.array.view(dtype))

    def is_neg(self) -> bool:
        return self.negated

    def __array_namespace__(self) -> Any:
        return SimpleNamespace(int16=np.int16, bfloat16=bfloat16, from_dlpack=lambda array: Bfloat16(array))


def test_bfloat16_of_a_library_with_a_namespace() -> None:
    x = reference.random(3, 8).astype(bfloat16)
    y = kernels.relu(Bfloat16(x))
    assert isinstance(y, Bfloat16)
    assert_array_equal(y.array, np.maximum(x, 0))
    late = Bfloat16(x)
    late.negated = True
    with pytest.raises(TypeError, match=r"relu: x: .* it is negated when it is read: resolve_neg\(\) it"):
        kernels.relu(late)


@pytest.mark.skipif(backend.gpu_problem() is None, reason="there is a GPU")
def test_arrays_on_a_gpu_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(TypeError, match=r"relu: x: .*Foreign cannot be read through DLPack"):
        kernels.relu(Foreign(np.ones(3, np.float32), device=2))


CALLS = {
    "bias": lambda out: kernels.bias(reference.random(3, 4), reference.random(4, seed=1), out=out),
    "linear": lambda out: kernels.linear(reference.random(3, 4), reference.random(5, 4, seed=1), relu=True, out=out),
    "conv2d": lambda out: kernels.conv2d(
        reference.random(2, 5, 5, 4), reference.random(6, 3, 3, 2, seed=1), groups=2, out=out
    ),
    "local2d": lambda out: kernels.local2d(
        reference.random(2, 5, 5, 4), reference.random(3, 3, 6, 3, 3, 4, seed=1), out=out
    ),
    "avg_pool2d": lambda out: kernels.avg_pool2d(reference.random(2, 5, 5, 4), 2, out=out),
    "lrn": lambda out: kernels.lrn(reference.random(2, 5, 5, 4), out=out),
    "spatial_lrn": lambda out: kernels.spatial_lrn(reference.random(2, 5, 5, 4), out=out),
    "broadcast": lambda out: kernels.broadcast("add", reference.random(2, 5), reference.random(5, seed=1), out=out),
    "gather": lambda out: kernels.gather(reference.random(2, 5), (5, 2), (1, 5), out=out),
    "relu": lambda out: kernels.relu(reference.random(2, 5), out=out),
    "tanh": lambda out: kernels.tanh(reference.random(2, 5), out=out),
    "sigmoid": lambda out: kernels.sigmoid(reference.random(2, 5), out=out),
    "softmax": lambda out: kernels.softmax(reference.random(2, 5), out=out),
    "dropout": lambda out: kernels.dropout(reference.random(2, 5), 0.3, seed=4, out=out),
}


@pytest.mark.parametrize("name", CALLS)
def test_results_go_to_out(name: str) -> None:
    call = CALLS[name]
    expected = call(None)
    out = np.full_like(expected, np.nan)
    assert call(out) is out
    assert_array_equal(out, expected)
    foreign = Foreign(np.full_like(expected, np.nan))
    assert call(foreign) is foreign
    assert_array_equal(foreign.array, expected)


@pytest.mark.parametrize("name", CALLS)
def test_an_out_that_does_not_fit_is_refused(name: str) -> None:
    call, right = CALLS[name], CALLS[name](None)
    wrong = {
        "expected shape": np.empty((*right.shape, 1), np.float32),
        "expected dtype float32": np.empty(right.shape),
        "C-contiguous": np.empty((*right.shape, 2), np.float32)[..., 0],
        "expected a NumPy or CuPy array": "out",
    }
    for message, out in wrong.items():
        with pytest.raises((TypeError, ValueError), match=f"{name}: out: .*{message}"):
            call(out)


def test_out_may_be_x_only_where_elements_stand_alone() -> None:
    x = reference.random(3, 4)
    expected = np.maximum(x, 0)
    assert_array_equal(kernels.relu(x, out=x), expected)
    with pytest.raises(ValueError, match="overlaps"):
        kernels.lrn(x, out=x)


@pytest.mark.parametrize("from_external", [True, False])
def test_work_on_pytorchs_tensors_runs_on_pytorchs_stream(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, from_external: bool
) -> None:
    """The stream is current while the tensor is borrowed. CuPy 14 makes it without a warning."""
    if not from_external:
        del stand_in.cuda.Stream.from_external
    pytorch = SimpleNamespace(cuda=SimpleNamespace(current_stream=lambda of: SimpleNamespace(cuda_stream=0x7700)))
    monkeypatch.setitem(sys.modules, "stand_in", pytorch)
    device = SimpleNamespace(index=1)
    tensor = type("Tensor", (), {"__module__": "stand_in", "is_cuda": True, "device": device})()
    where = backend.device("cuda:1")
    with nullcontext() if from_external else pytest.deprecated_call(), warnings.catch_warnings():
        warnings.simplefilter("error" if from_external else "default")
        with backend.current_stream(tensor):
            assert (stand_in.device, backend.stream(where)) == (1, 0x7700)
    assert (stand_in.device, backend.stream(where)) == (0, 0)
