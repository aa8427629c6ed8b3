"""kernels.spatial_lrn and spatial_lrn_backward."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, strategies as st

from alexnet_cuda import kernels

RNORM3 = {"size": 3, "k": 1.0, "alpha": 5e-5 / 9, "beta": 0.75}  # cuda-convnet's layers-18pct


@st.composite
def arguments(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, float]]:
    """Shape of x and hyper-parameters; windows may be even and larger than the image."""
    image = (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    shape = (draw(st.integers(1, 3)), *image, draw(st.sampled_from([1, 3, 4, 5, 16, 20, 32, 33])))
    size, beta = draw(st.integers(1, 6)), draw(st.sampled_from([0.5, 0.75, 1.0]))
    k, alpha = draw(st.sampled_from([1.0, 2.0])), draw(st.sampled_from([5e-5, 0.3]))
    return shape, {"size": size, "k": k, "alpha": alpha, "beta": beta}


def check(run: Runner, shape: tuple[int, ...], parameters: dict[str, float], scale: float) -> None:
    x, dy = scale * reference.random(*shape, seed=1), reference.random(*shape, seed=2)
    x64, dy64 = x.astype(np.float64), dy.astype(np.float64)
    area, beta = parameters["size"] ** 2, parameters["beta"]
    # s sums positive terms, each squared, multiplied by alpha and added to k; its relative error is multiplied by the
    # exponent; the power itself is right to 4 units in the last place, eight roundings (CUDA's powf)
    expected = reference.spatial_lrn(x64, **parameters)
    error = reference.rounding_error(abs(expected), beta * (area + 4) + 8 + 1)
    reference.assert_close(run(kernels.spatial_lrn, x, **parameters), expected, error)

    expected = reference.spatial_lrn_backward(dy64, x64, **parameters)
    magnitude = reference.spatial_lrn_backward(abs(dy64), abs(x64), **parameters, sign=1)
    # s^(-beta - 1), its products with dy, x, x, alpha and beta, and the sum over the window
    error = reference.rounding_error(magnitude, (beta + 1) * (area + 4) + 8 + area + 7)
    reference.assert_close(run(kernels.spatial_lrn_backward, dy, x, **parameters), expected, error)


@given(arguments=arguments(), scale=st.sampled_from([1, 100]))
def test_any_shape(run: Runner, arguments: tuple[tuple[int, ...], dict[str, float]], scale: float) -> None:
    check(run, *arguments, scale)


@pytest.mark.parametrize(
    ("shape", "parameters"), [((4, 16, 16, 32), RNORM3), ((1, 27, 27, 256), {**RNORM3, "size": 5, "alpha": 4e-5})]
)
def test_sizes_of_the_source(run: Runner, shape: tuple[int, ...], parameters: dict[str, float]) -> None:
    check(run, shape, parameters, 50)


def test_known_values(run: Runner) -> None:
    """Ones under a 3 x 3 window: 9 pixels inside, 6 at an edge, 4 in a corner."""
    y = run(kernels.spatial_lrn, np.ones((1, 3, 3, 1), np.float32), size=3, k=1.0, alpha=0.5, beta=0.75)
    s = np.array([[3, 4, 3], [4, 5.5, 4], [3, 4, 3]])
    np.testing.assert_allclose(y.reshape(3, 3), s**-0.75, rtol=1e-6)


def test_even_window_reaches_one_further_back() -> None:
    assert list(reference.spatial_window(5, 10, 4)) == [3, 4, 5, 6]
    assert list(reference.spatial_window(0, 10, 4)) == [0, 1]


@given(arguments=arguments().filter(lambda a: np.prod(a[0]) <= 60))
def test_oracle(arguments: tuple[tuple[int, ...], dict[str, float]]) -> None:
    shape, parameters = arguments
    x, dy = (reference.random(*shape, seed=i).astype(np.float64) for i in range(2))
    numeric = reference.numeric_gradient(lambda x: (reference.spatial_lrn(x, **parameters) * dy).sum(), x)
    np.testing.assert_allclose(reference.spatial_lrn_backward(dy, x, **parameters), numeric, rtol=1e-6, atol=1e-8)
