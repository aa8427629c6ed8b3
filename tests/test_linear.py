"""kernels.linear and linear_backward."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, strategies as st

from alexnet_cuda import kernels

SIZES = st.sampled_from([1, 3, 8, 9, 63, 64, 65, 128, 129])


@given(N=st.integers(1, 9), inputs=SIZES, outputs=SIZES, with_bias=st.booleans(), relu=st.booleans())
def test_forward(run_gemm: Runner, N: int, inputs: int, outputs: int, with_bias: bool, relu: bool) -> None:
    check_forward(run_gemm, N, inputs, outputs, with_bias, relu)


@given(N=st.integers(1, 9), inputs=SIZES, outputs=SIZES)
def test_backward(run_gemm: Runner, N: int, inputs: int, outputs: int) -> None:
    check_backward(run_gemm, N, inputs, outputs)


@pytest.mark.parametrize(("N", "inputs", "outputs"), [(2, 9216, 70), (130, 70, 1000), (1, 4096, 1)])
def test_sizes_of_the_paper(run_gemm: Runner, N: int, inputs: int, outputs: int) -> None:
    check_forward(run_gemm, N, inputs, outputs, True, True)
    check_backward(run_gemm, N, inputs, outputs)


def check_forward(run: Runner, N: int, inputs: int, outputs: int, with_bias: bool, relu: bool) -> None:
    x, w, b = random_arguments(N, inputs, outputs)
    b = b if with_bias else np.zeros_like(b)
    x64, w64, b64 = (array.astype(np.float64) for array in (x, w, b))
    expected = reference.linear(x64, w64, b64)
    error = reference.rounding_error(reference.linear(abs(x64), abs(w64), abs(b64)), inputs + 1)
    y = run(kernels.linear, x, w, b if with_bias else None, relu)
    reference.assert_close(y, reference.relu(expected) if relu else expected, error)


def check_backward(run: Runner, N: int, inputs: int, outputs: int) -> None:
    x, w, _ = random_arguments(N, inputs, outputs)
    dy = reference.random(N, outputs, seed=4)
    arrays = [array.astype(np.float64) for array in (dy, x, w)]
    mask = reference.mask(*x.shape)
    expected, magnitudes = (
        (reference.masked(dx, mask), *others)
        for dx, *others in (reference.linear_backward(*arrays), reference.linear_backward(*map(abs, arrays)))
    )
    actual = run(kernels.linear_backward, dy, x, w, mask=mask)
    for gradient, oracle, magnitude, terms in zip(actual, expected, magnitudes, (outputs, N, N), strict=True):
        reference.assert_close(gradient, oracle, reference.rounding_error(magnitude, terms))


def random_arguments(N: int, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        reference.random(N, inputs, seed=1),
        reference.random(outputs, inputs, seed=2),
        reference.random(outputs, seed=3),
    )


@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=3)))
def test_needs(run_gemm: Runner, needs: tuple[bool, bool, bool]) -> None:
    x, w, _ = random_arguments(3, 4, 5)
    dy = reference.random(3, 5)
    for gradient, full, needed in zip(
        run_gemm(kernels.linear_backward, dy, x, w, needs),
        run_gemm(kernels.linear_backward, dy, x, w),
        needs,
        strict=True,
    ):
        if needed:
            np.testing.assert_array_equal(gradient, full)
        else:
            assert gradient is None


def test_oracle() -> None:
    x, w, b = (array.astype(np.float64) for array in random_arguments(3, 4, 5))
    dy = reference.random(3, 5, seed=4).astype(np.float64)
    for i, gradient in enumerate(reference.linear_backward(dy, x, w)):

        def loss(value: reference.Array, i: int = i) -> float:
            return (reference.linear(*[value if j == i else array for j, array in enumerate((x, w, b))]) * dy).sum()

        np.testing.assert_allclose(gradient, reference.numeric_gradient(loss, (x, w, b)[i]), rtol=1e-6, atol=1e-8)
