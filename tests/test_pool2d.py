"""kernels.max_pool2d and avg_pool2d, forward and backward."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import reference
from conftest import STORAGE, Runner
from hypothesis import given, strategies as st
from numpy.typing import DTypeLike

from alexnet_cuda import kernels


@dataclass(frozen=True)
class Case:
    x: tuple[int, int, int, int]  # N, H, W, C
    size: reference.Pair = (3, 3)
    stride: reference.Pair = (2, 2)
    padding: reference.Padding = ((0, 0), (0, 0))
    ceil: bool = False

    @property
    def y(self) -> tuple[int, int, int, int]:
        OH, OW = reference.output_shape(self.x[1:3], self.size, self.stride, self.padding, self.ceil)
        return self.x[0], OH, OW, self.x[3]

    @property
    def windows(self) -> dict[str, object]:
        return {"size": self.size, "stride": self.stride, "padding": self.padding, "ceil": self.ceil}

    @property
    def overlap(self) -> int:
        """The largest number of windows that one pixel lies in."""
        return math.prod(math.ceil(size / stride) for size, stride in zip(self.size, self.stride, strict=True))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Windows up to more than the image, with less padding than the window on each side."""
    image = draw(st.tuples(st.integers(1, 11), st.integers(1, 11)))
    size, padding = [], []
    for pixels in image:
        before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        smallest = max(before, after) + 1
        size.append(draw(st.integers(smallest, max(smallest, min(6, pixels + before + after)))))
        padding.append((before, after))
    return Case(
        (draw(st.integers(1, 3)), *image, draw(st.sampled_from([1, 3, 5, 96, 97]))),
        (size[0], size[1]),
        draw(st.tuples(st.integers(1, 5), st.integers(1, 5))),
        (padding[0], padding[1]),
        draw(st.booleans()),
    )


LAYERS = {
    "pool1": Case((2, 55, 55, 5)),
    "pool2": Case((2, 27, 27, 16)),
    "pool5": Case((3, 13, 13, 97)),
    "rounded up": Case((2, 32, 32, 5), ceil=True),
    "no overlap": Case((2, 12, 9, 6), (2, 2), (2, 2)),
    "gaps": Case((2, 12, 13, 6), (2, 1), (3, 4), ceil=True),
    "whole image": Case((2, 6, 7, 33), (6, 7), (1, 1)),
    "wider than the image": Case((2, 3, 4, 5), (5, 6), (1, 2), ((1, 1), (2, 2))),
    "largest window": Case((1, 20, 18, 2), (16, 16), (1, 1)),
    "asymmetric": Case((2, 9, 8, 7), (3, 4), (2, 3), ((2, 0), (1, 3)), ceil=True),
}
SIZES = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())


@STORAGE
@given(case=cases(), ties=st.booleans())
def test_max(run: Runner, dtype: DTypeLike, case: Case, ties: bool) -> None:
    check_max(run, dtype, case, ties)


@SIZES
@STORAGE
def test_max_of_layers(run: Runner, dtype: DTypeLike, case: Case) -> None:
    check_max(run, dtype, case, ties=False)
    check_max(run, dtype, case, ties=True)


@STORAGE
@given(case=cases())
def test_avg(run: Runner, dtype: DTypeLike, case: Case) -> None:
    check_avg(run, dtype, case)


@SIZES
@STORAGE
def test_avg_of_layers(run: Runner, dtype: DTypeLike, case: Case) -> None:
    check_avg(run, dtype, case)


@STORAGE
@pytest.mark.parametrize("C", [5, 8], ids=["single values", "vectors"])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (2, 1), (3, 2), (3, 1), (4, 1), (4, 2), (4, 4)])
def test_every_instance(run: Runner, dtype: DTypeLike, C: int, size: int, stride: int) -> None:
    """Windows that have a loop of their own, and numbers of windows over a pixel that do, each with others beside."""
    case = Case((1, 7, 6, C), (size, size), (stride, stride))
    check_max(run, dtype, case, ties=False)
    check_avg(run, dtype, case)


def check_max(run: Runner, dtype: DTypeLike, case: Case, ties: bool) -> None:
    """The values are negative, too: padding must not win. With ties the first maximum must."""
    x = (np.round(reference.random(*case.x)) if ties else reference.random(*case.x) - 2).astype(dtype)
    expected, expected_which = reference.max_pool2d(
        x.astype(np.float64), case.size, case.stride, case.padding, case.ceil
    )
    y, which = run(kernels.max_pool2d, x, **case.windows)
    reference.assert_close(y, expected, 0, dtype)
    np.testing.assert_array_equal(y.astype(np.float64), expected)
    assert which.dtype == np.uint8
    np.testing.assert_array_equal(which, expected_which)

    dy = reference.random(*case.y, seed=1, dtype=dtype)
    windows = (case.x, case.size, case.stride, case.padding)
    dx = reference.max_pool2d_backward(dy.astype(np.float64), expected_which, *windows)
    magnitude = reference.max_pool2d_backward(abs(dy.astype(np.float64)), expected_which, *windows)
    actual = run(kernels.max_pool2d_backward, dy, which, case.x, **case.windows)
    reference.assert_close(actual, dx, reference.rounding_error(magnitude, case.overlap - 1), dtype)


def check_avg(run: Runner, dtype: DTypeLike, case: Case) -> None:
    x = reference.random(*case.x, dtype=dtype)
    windows = (case.size, case.stride, case.padding, case.ceil)
    expected = reference.avg_pool2d(x.astype(np.float64), *windows)
    magnitude = reference.avg_pool2d(abs(x.astype(np.float64)), *windows)
    # the sum, the reciprocal of the area and the product with it
    error = reference.rounding_error(magnitude, math.prod(case.size) + 2)
    reference.assert_close(run(kernels.avg_pool2d, x, **case.windows), expected, error, dtype)

    dy = reference.random(*case.y, seed=1, dtype=dtype)
    dx = reference.avg_pool2d_backward(dy.astype(np.float64), case.x, *windows[:3])
    magnitude = reference.avg_pool2d_backward(abs(dy.astype(np.float64)), case.x, *windows[:3])
    actual = run(kernels.avg_pool2d_backward, dy, case.x, **case.windows)
    reference.assert_close(actual, dx, reference.rounding_error(magnitude, case.overlap + 2), dtype)


@pytest.mark.parametrize("sizes", [(32, 16, 8, 4), (24, 12, 6)])
def test_sizes_rounded_up(run: Runner, sizes: tuple[int, ...]) -> None:
    x = reference.random(1, sizes[0], sizes[0], 1)
    for expected in sizes[1:]:
        x = run(kernels.max_pool2d, x, size=3, stride=2, ceil=True)[0]
        assert x.shape == (1, expected, expected, 1)


@pytest.mark.parametrize(("size", "rounded_down", "rounded_up"), [(55, 27, 27), (27, 13, 13), (13, 6, 6), (32, 15, 16)])
def test_sizes_of_the_paper(run: Runner, size: int, rounded_down: int, rounded_up: int) -> None:
    x = np.zeros((1, size, size, 1), np.float32)
    for ceil, expected in ((False, rounded_down), (True, rounded_up)):
        assert run(kernels.avg_pool2d, x, size=3, stride=2, ceil=ceil).shape == (1, expected, expected, 1)


def test_window_past_the_edge_is_clipped(run: Runner) -> None:
    x = np.arange(-16, 0, dtype=np.float32).reshape(1, 4, 4, 1)
    y, which = run(kernels.max_pool2d, x, size=3, stride=2, ceil=True)
    np.testing.assert_array_equal(y.reshape(2, 2), [[-6, -5], [-2, -1]])
    np.testing.assert_array_equal(which.reshape(2, 2), [[8, 7], [5, 4]])
    mean = run(kernels.avg_pool2d, x, size=3, stride=2, ceil=True)
    np.testing.assert_array_equal(mean.reshape(2, 2), [[-11, -9.5], [-5, -3.5]])


def test_stride_defaults_to_size(run: Runner) -> None:
    x = reference.random(2, 6, 9, 3)
    for kernel in (kernels.max_pool2d, kernels.avg_pool2d):
        expected, actual = run(kernel, x, size=(2, 3), stride=(2, 3)), run(kernel, x, size=(2, 3))
        np.testing.assert_array_equal(expected, actual)


def test_minus_infinity_is_a_value(run: Runner) -> None:
    y, which = run(kernels.max_pool2d, np.full((1, 3, 3, 2), -np.inf, np.float32), size=3)
    assert (y == -np.inf).all()
    assert (which == 0).all()


def test_nan_is_not_hidden(run: Runner) -> None:
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 1, 1] = np.nan
    for size in (2, 3):
        assert np.isnan(run(kernels.max_pool2d, x, size=size)[0][0, 0, 0, 0])
        assert np.isnan(run(kernels.avg_pool2d, x, size=size)[0, 0, 0, 0])


def test_infinity_stays_in_its_windows(run: Runner) -> None:
    x, windows = np.zeros((1, 4, 4, 1), np.float32), {"size": 3, "stride": 2, "ceil": True}
    x[0, 3, 3] = np.inf
    mean = run(kernels.avg_pool2d, x, **windows)
    np.testing.assert_array_equal(mean.reshape(2, 2), [[0, 0], [0, np.inf]])
    dx = run(kernels.avg_pool2d_backward, mean, x.shape, **windows)
    np.testing.assert_array_equal(dx != 0, np.add.outer([0, 0, 4, 4], [0, 0, 4, 4])[None, ..., None] == 8)


@given(case=cases().filter(lambda case: math.prod(case.x) <= 60))
def test_oracle(case: Case) -> None:
    x = reference.distinct(*case.x).astype(np.float64)
    dy = reference.random(*case.y).astype(np.float64)
    windows = (case.size, case.stride, case.padding, case.ceil)
    _, which = reference.max_pool2d(x, *windows)
    for gradient, forward in (
        (
            reference.max_pool2d_backward(dy, which, case.x, *windows[:3]),
            lambda x: reference.max_pool2d(x, *windows)[0],
        ),
        (reference.avg_pool2d_backward(dy, case.x, *windows[:3]), lambda x: reference.avg_pool2d(x, *windows)),
    ):
        numeric = reference.numeric_gradient(lambda x, forward=forward: (forward(x) * dy).sum(), x)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)
