"""kernels.lrn and lrn_backward."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import STORAGE, Runner
from hypothesis import given, strategies as st
from numpy.typing import DTypeLike

from alexnet_cuda import kernels

SIX = np.arange(100, 700, 100, dtype=np.float32)
SOURCE = {"size": 5, "k": 2.0, "alpha": 1e-4 / 5, "beta": 0.75}  # cuda-convnet's configuration of 2012
PAPER = {"size": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75}
CAFFE = {"size": 5, "k": 1.0, "alpha": 1e-4 / 5, "beta": 0.75}


@st.composite
def arguments(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, float]]:
    """Shape of x and hyper-parameters; windows may be even and wider than a group."""
    C, groups = draw(
        st.sampled_from([(1, 1), (3, 1), (5, 1), (6, 2), (8, 4), (9, 3), (16, 2), (96, 2), (97, 1), (128, 1)])
    )
    shape = (*draw(st.lists(st.integers(1, 5), max_size=3)), C)
    size, beta = draw(st.one_of(st.just((5, 0.75)), st.tuples(st.integers(1, 11), st.sampled_from([0.5, 0.75, 1.0]))))
    k, alpha = draw(st.sampled_from([1.0, 2.0])), draw(st.sampled_from([1e-4, 2e-5, 0.3]))
    return shape, {"size": size, "k": k, "alpha": alpha, "beta": beta, "groups": groups}


@STORAGE
@given(arguments=arguments(), scale=st.sampled_from([1, 100]))
def test_forward(
    run: Runner, dtype: DTypeLike, arguments: tuple[tuple[int, ...], dict[str, float]], scale: int
) -> None:
    shape, parameters = arguments
    x = (scale * reference.random(*shape)).astype(dtype)
    expected = reference.lrn(x.astype(np.float64), **parameters)
    reference.assert_close(run(kernels.lrn, x, **parameters), expected, error_of(abs(expected), parameters, 1), dtype)


@STORAGE
@given(arguments=arguments(), scale=st.sampled_from([1, 100]))
def test_backward(
    run: Runner, dtype: DTypeLike, arguments: tuple[tuple[int, ...], dict[str, float]], scale: int
) -> None:
    shape, parameters = arguments
    x = (scale * reference.random(*shape, seed=1)).astype(dtype)
    dy = reference.random(*shape, seed=2, dtype=dtype)
    dy64, x64 = dy.astype(np.float64), x.astype(np.float64)
    expected = reference.lrn_backward(dy64, x64, **parameters)
    magnitude = reference.lrn_backward(abs(dy64), abs(x64), **parameters, sign=1)
    # s^(-beta - 1), its products with dy, x, x, alpha and beta, and the sum over the window
    error = error_of(magnitude, parameters, parameters["size"] + 7, parameters["beta"] + 1)
    dx = run(kernels.lrn_backward, dy, x, **parameters)
    reference.assert_close(dx, expected, error, dtype)
    masked = run(kernels.lrn_backward, dy, x, **parameters, mask=True)
    np.testing.assert_array_equal(masked, run(kernels.relu_backward, dx, x))


@STORAGE
@pytest.mark.parametrize("size", [5, 4], ids=["unrolled", "any size"])
def test_mask(run: Runner, dtype: DTypeLike, size: int) -> None:
    """Zeros of either sign are masked; what NaN makes NaN stays so."""
    x, dy = reference.mask(50, 12, dtype=dtype), reference.random(50, 12, seed=1, dtype=dtype)
    dx = run(kernels.lrn_backward, dy, x, size=size)
    masked = run(kernels.lrn_backward, dy, x, size=size, mask=True)
    expected = run(kernels.relu_backward, dx, x)
    np.testing.assert_array_equal(masked.astype(np.float32), expected.astype(np.float32))
    zero = x.astype(np.float32) <= 0
    assert (masked[zero] == 0).all() and np.isnan(masked[np.isnan(x)]).all()


def error_of(
    magnitude: reference.Array, parameters: dict[str, float], products: float, exponent: float | None = None
) -> reference.Array:
    """s sums positive terms, each squared, multiplied by alpha and added to k; its relative error is multiplied by the
    exponent; the power itself is right to 4 units in the last place, eight roundings (CUDA's powf)."""
    exponent = parameters["beta"] if exponent is None else exponent
    return reference.rounding_error(magnitude, exponent * (parameters["size"] + 4) + 8 + products)


@STORAGE
@pytest.mark.parametrize("size", [5, 9, 7], ids=["unrolled 5", "unrolled 9", "any size"])
@pytest.mark.parametrize("C", [13, 16], ids=["single values", "vectors"])
def test_every_instance(run: Runner, dtype: DTypeLike, C: int, size: int) -> None:
    check(run, dtype, reference.random(20, C, seed=1).astype(dtype), {**PAPER, "alpha": 0.1, "size": size, "groups": 1})


@STORAGE
@pytest.mark.parametrize(("rows", "C", "groups"), [(55 * 55, 96, 2), (27 * 27, 256, 2), (1, 2500, 1), (9, 1300, 1)])
def test_sizes_of_the_paper(run: Runner, dtype: DTypeLike, rows: int, C: int, groups: int) -> None:
    check(run, dtype, (50 * reference.random(rows, C, seed=1)).astype(dtype), {**PAPER, "groups": groups})


def check(run: Runner, dtype: DTypeLike, x: np.ndarray, parameters: dict[str, float]) -> None:
    dy = reference.random(*x.shape, seed=2, dtype=dtype)
    dy64, x64 = dy.astype(np.float64), x.astype(np.float64)
    expected = reference.lrn(x64, **parameters)
    reference.assert_close(run(kernels.lrn, x, **parameters), expected, error_of(abs(expected), parameters, 1), dtype)
    expected = reference.lrn_backward(dy64, x64, **parameters)
    magnitude = reference.lrn_backward(abs(dy64), abs(x64), **parameters, sign=1)
    error = error_of(magnitude, parameters, parameters["size"] + 7, 1.75)
    reference.assert_close(run(kernels.lrn_backward, dy, x, **parameters), expected, error, dtype)


@pytest.mark.parametrize(
    ("parameters", "s"),
    [(SOURCE, [4.8, 8, 13, 20, 19.2, 17.4]), (PAPER, [16, 32, 57, 92, 88, 79])],
    ids=["source", "paper"],
)
def test_known_scales(run: Runner, parameters: dict[str, float], s: list[float]) -> None:
    np.testing.assert_allclose(reference.lrn_scale(SIX.astype(np.float64), 5, parameters["k"], parameters["alpha"]), s)
    np.testing.assert_allclose(run(kernels.lrn, SIX, **parameters), SIX * np.array(s) ** -0.75, rtol=1e-6)


def test_known_values(run: Runner) -> None:
    known = [30.836784, 42.044821, 43.819129, 42.294851, 54.512247, 70.427020]
    np.testing.assert_allclose(run(kernels.lrn, SIX, **SOURCE), known, rtol=1e-6)
    assert run(kernels.lrn, SIX, **PAPER)[0] == pytest.approx(12.5, rel=1e-6)
    assert run(kernels.lrn, SIX, **CAFFE)[0] == pytest.approx(36.741959, rel=1e-6)


def test_known_gradients(run: Runner) -> None:
    known = [0.26321593, 0.10723184, -0.03397725, -0.10579595, -0.07655782, -0.04464777]
    actual = run(kernels.lrn_backward, np.ones(6, np.float32), SIX, **SOURCE)
    # the terms that cancel are near 0.3
    np.testing.assert_allclose(actual, known, rtol=0, atol=3e-7)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [(SOURCE, 0.5945812608), (PAPER, 0.5944920937), (CAFFE, 0.9999250066)],
    ids=["source", "paper", "caffe"],
)
def test_ones(run: Runner, parameters: dict[str, float], expected: float) -> None:
    assert run(kernels.lrn, np.ones(5, np.float32), **parameters)[2] == pytest.approx(expected, rel=5e-7)


def test_defaults_are_the_papers(run: Runner) -> None:
    x = 100 * reference.random(3, 7)
    np.testing.assert_array_equal(run(kernels.lrn, x), run(kernels.lrn, x, **PAPER, groups=1))


def test_groups_are_separate_normalisations(run: Runner) -> None:
    x, dy = 100 * reference.random(3, 12, seed=1), reference.random(3, 12, seed=2)
    y, dx = run(kernels.lrn, x, groups=3), run(kernels.lrn_backward, dy, x, groups=3)
    for g in range(3):
        part, dpart = (np.ascontiguousarray(array[:, 4 * g : 4 * g + 4]) for array in (x, dy))
        np.testing.assert_array_equal(y[:, 4 * g : 4 * g + 4], run(kernels.lrn, part))
        np.testing.assert_array_equal(dx[:, 4 * g : 4 * g + 4], run(kernels.lrn_backward, dpart, part))


def test_even_window_reaches_one_further_back() -> None:
    assert list(reference.lrn_window(5, 10, 4)) == [3, 4, 5, 6]
    assert list(reference.lrn_window(0, 10, 4)) == [0, 1]
    assert list(reference.lrn_window(5, 10, 4, groups=2)) == [5, 6]


@given(arguments=arguments().filter(lambda a: np.prod(a[0]) <= 50))
def test_oracle(arguments: tuple[tuple[int, ...], dict[str, float]]) -> None:
    shape, parameters = arguments
    x, dy = (reference.random(*shape, seed=i).astype(np.float64) for i in range(2))
    numeric = reference.numeric_gradient(lambda x: (reference.lrn(x, **parameters) * dy).sum(), x)
    np.testing.assert_allclose(reference.lrn_backward(dy, x, **parameters), numeric, rtol=1e-6, atol=1e-8)
