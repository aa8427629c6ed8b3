"""kernels.conv2d and conv2d_backward."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, strategies as st
from ml_dtypes import bfloat16
from numpy.typing import DTypeLike

from alexnet_cuda import kernels


@dataclass(frozen=True)
class Case:
    x: tuple[int, int, int, int]  # N, H, W, C
    w: tuple[int, int, int, int]  # K, KH, KW, C / groups
    stride: reference.Pair = (1, 1)
    padding: reference.Padding = ((0, 0), (0, 0))
    groups: int = 1
    ceil: bool = False

    @property
    def windows(self) -> dict[str, object]:
        return {"stride": self.stride, "padding": self.padding, "groups": self.groups, "ceil": self.ceil}

    @property
    def y(self) -> tuple[int, int, int, int]:
        OH, OW = reference.output_shape(self.x[1:3], self.w[1:3], self.stride, self.padding, self.ceil)
        return self.x[0], OH, OW, self.w[0]

    def arguments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, w, b"""
        return reference.random(*self.x, seed=1), reference.random(*self.w, seed=2), reference.random(self.w[0], seed=3)


CHANNELS = st.one_of(  # groups, channels and filters of a group
    st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 3, 5]), st.integers(1, 9)),
    st.sampled_from([(1, 96, 5), (1, 97, 3), (2, 48, 8), (1, 3, 65), (3, 1, 33)]),
)
FEW_CHANNELS = st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2))


@st.composite
def cases(draw: st.DrawFn, largest: int = 9, channels: st.SearchStrategy[tuple[int, int, int]] = CHANNELS) -> Case:
    """Small images and every kind of window: wider than the image, but not than the padded image."""
    image = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    stride = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    padding = draw(st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2))
    kernel = tuple(draw(st.integers(1, min(5, image[i] + sum(padding[i])))) for i in range(2))
    groups, per_group, filters = draw(channels)
    return Case(
        (draw(st.integers(1, 3)), *image, groups * per_group),
        (groups * filters, *kernel, per_group),
        stride,
        padding,
        groups,
        draw(st.booleans()),
    )


PAPER = {
    # image and window of the paper's layers, fewer channels
    "conv1 on 224, rounded up": Case((1, 224, 224, 3), (8, 11, 11, 3), (4, 4), ceil=True),
    "conv1 on 227": Case((1, 227, 227, 3), (8, 11, 11, 3), (4, 4)),
    "conv1 on 224, padded": Case((1, 224, 224, 3), (8, 11, 11, 3), (4, 4), ((2, 2), (2, 2))),
    "conv2": Case((2, 27, 27, 12), (32, 5, 5, 6), padding=((2, 2), (2, 2)), groups=2),
    "conv3": Case((2, 13, 13, 32), (48, 3, 3, 32), padding=((1, 1), (1, 1))),
    "conv4": Case((3, 13, 13, 48), (48, 3, 3, 24), padding=((1, 1), (1, 1)), groups=2),
    "one pixel per filter": Case((4, 6, 6, 96), (70, 6, 6, 96)),
    "1x1 filters": Case((2, 9, 7, 97), (65, 1, 1, 97)),
    "1x1 filters, stride 2": Case((2, 9, 7, 33), (17, 1, 1, 33), (2, 2)),
    "stride above the window": Case((2, 11, 10, 4), (6, 2, 2, 4), (3, 4), ((1, 0), (0, 2))),
    "depthwise": Case((2, 8, 8, 24), (24, 3, 3, 1), padding=((1, 1), (1, 1)), groups=24),
    "a large image": Case((1, 63, 61, 96), (2, 5, 5, 96), padding=((2, 2), (2, 2))),
    "TensorFlow's SAME at stride 2": Case((2, 8, 8, 3), (5, 3, 3, 3), (2, 2), ((0, 1), (0, 1))),
}
SLOW = {
    "more columns than the workspace may hold": Case((64, 224, 224, 3), (8, 11, 11, 3), (4, 4), ceil=True),
    "more columns of one image than the workspace may hold": Case(
        (1, 170, 170, 96), (3, 5, 5, 96), padding=((2, 2), (2, 2))
    ),
}
SIZES = pytest.mark.parametrize("case", PAPER.values(), ids=PAPER.keys())


@given(case=cases(), with_bias=st.booleans(), relu=st.booleans())
def test_forward(run_gemm: Runner, case: Case, with_bias: bool, relu: bool) -> None:
    check_forward(run_gemm, case, with_bias, relu)


@given(case=cases())
def test_backward(run_gemm: Runner, case: Case) -> None:
    check_backward(run_gemm, case)


@SIZES
def test_forward_of_layers(run_gemm: Runner, case: Case) -> None:
    check_forward(run_gemm, case, with_bias=True, relu=True)


@SIZES
def test_backward_of_layers(run_gemm: Runner, case: Case) -> None:
    check_backward(run_gemm, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW.values(), ids=SLOW.keys())
def test_slices(run: Runner, case: Case) -> None:
    check_forward(run, case, with_bias=True, relu=False)
    check_backward(run, case)


def check_forward(run: Runner, case: Case, with_bias: bool, relu: bool) -> None:
    x, w, b = case.arguments()
    b = b if with_bias else np.zeros_like(b)
    arrays = [array.astype(np.float64) for array in (x, w, b)]
    windows = (case.stride, case.padding, case.groups, case.ceil)
    expected = reference.conv2d(*arrays, *windows)
    magnitude = reference.conv2d(*map(abs, arrays), *windows)
    y = run(kernels.conv2d, x, w, b if with_bias else None, relu=relu, **case.windows)
    error = reference.rounding_error(magnitude, np.prod(case.w[1:]) + 1)
    reference.assert_close(y, reference.relu(expected) if relu else expected, error)


def check_backward(run: Runner, case: Case) -> None:
    x, w, _ = case.arguments()
    dy = reference.random(*case.y, seed=4)
    arrays = [array.astype(np.float64) for array in (dy, x, w)]
    windows = (case.stride, case.padding, case.groups, case.ceil)
    mask = reference.mask(*case.x)
    expected, magnitudes = (
        (reference.masked(dx, mask), *others)
        for dx, *others in (
            reference.conv2d_backward(*arrays, *windows),
            reference.conv2d_backward(*map(abs, arrays), *windows),
        )
    )
    actual = run(kernels.conv2d_backward, dy, x, w, mask=mask, **case.windows)
    K, KH, KW, _ = case.w
    N, OH, OW, _ = case.y
    for gradient, oracle, magnitude, terms in zip(
        actual, expected, magnitudes, (KH * KW * K // case.groups, N * OH * OW, N * OH * OW), strict=True
    ):
        reference.assert_close(gradient, oracle, reference.rounding_error(magnitude, terms))


WAYS = {  # of computing gradients: precision, algorithm, storage
    "im2col": ("fp32", "im2col", np.float32),
    "winograd": ("fp32", "winograd", np.float32),
    "implicit": ("tf32", "implicit", np.float32),
    "implicit in bfloat16": ("bf16", "implicit", bfloat16),
    "space_to_depth": ("bf16", "space_to_depth", np.float32),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("size", [1, 3], ids=["1x1", "3x3"])
def test_mask_and_bias_gradient_change_nothing_else(run: Runner, size: int, way: tuple[str, str, DTypeLike]) -> None:
    """dx has the bits of a pass of its own, dw those that it has without db; db is the sum of dy as it is stored."""
    precision, algorithm, dtype = way
    if algorithm == "winograd" and size == 1:
        return
    x, dy = reference.random(2, 9, 8, 10, dtype=dtype), reference.random(2, 9, 8, 12, seed=1, dtype=dtype)
    w, mask = reference.random(12, size, size, 5, seed=2), reference.mask(*x.shape, dtype=dtype)
    options = {"padding": size // 2, "groups": 2, "precision": precision, "algorithm": algorithm}
    plain = run(kernels.conv2d_backward, dy, x, w, needs=(True, True, False), **options)
    dx, dw, db = run(kernels.conv2d_backward, dy, x, w, mask=mask, **options)
    np.testing.assert_array_equal(dx, run(kernels.relu_backward, plain[0], mask))
    np.testing.assert_array_equal(dw, plain[1])
    dy64 = dy.astype(np.float64).reshape(-1, 12)
    reference.assert_close(db, dy64.sum(0), reference.rounding_error(abs(dy64).sum(0), len(dy64)))


@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=3)))
def test_needs(run_gemm: Runner, needs: tuple[bool, bool, bool]) -> None:
    case = PAPER["stride above the window"]
    x, w, _ = case.arguments()
    dy = reference.random(*case.y)
    full = run_gemm(kernels.conv2d_backward, dy, x, w, **case.windows)
    for gradient, expected, needed in zip(
        run_gemm(kernels.conv2d_backward, dy, x, w, needs=needs, **case.windows), full, needs, strict=True
    ):
        if needed:
            np.testing.assert_array_equal(gradient, expected)
        else:
            assert gradient is None


@pytest.mark.parametrize(
    ("size", "padding", "ceil", "expected"),
    [(224, 0, True, 55), (224, 0, False, 54), (224, 2, False, 55), (224, 2, True, 56), (227, 0, False, 55)],
)
def test_conv1_sizes(run: Runner, size: int, padding: int, ceil: bool, expected: int) -> None:
    x, w = np.zeros((1, size, size, 1), np.float32), np.zeros((1, 11, 11, 1), np.float32)
    assert run(kernels.conv2d, x, w, stride=4, padding=padding, ceil=ceil).shape == (1, expected, expected, 1)


@given(
    size=st.integers(1, 300),
    window=st.integers(1, 12),
    stride=st.integers(1, 14),
    padding=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    ceil=st.booleans(),
)
def test_window_output(size: int, window: int, stride: int, padding: tuple[int, int], ceil: bool) -> None:
    if window > size + sum(padding):
        with pytest.raises(ValueError, match="does not fit"):
            kernels.window_output(size, window, stride, padding, ceil)
    else:
        expected = reference.output_size(size, window, stride, padding, ceil)
        assert kernels.window_output(size, window, stride, padding, ceil) == expected


def test_rounding_up_equals_zeros_at_bottom_and_right(run: Runner) -> None:
    """conv1 of the paper on 224 pixels is conv1 on 227 of which the last three rows and columns are zero."""
    x, w = reference.random(1, 224, 224, 3), reference.random(4, 11, 11, 3)
    np.testing.assert_array_equal(
        run(kernels.conv2d, x, w, stride=4, ceil=True),
        run(kernels.conv2d, np.pad(x, ((0, 0), (0, 3), (0, 3), (0, 0))), w, stride=4),
    )


@pytest.mark.parametrize("padding", [1, (1, 1), ((1, 1), (1, 1)), [1, 1]])
@pytest.mark.parametrize("stride", [2, (2, 2), [2, 2]])
def test_spellings_of_padding_and_stride(run: Runner, padding: object, stride: object) -> None:
    x, w = reference.random(1, 6, 5, 2), reference.random(3, 3, 2, 2)
    expected = run(kernels.conv2d, x, w, stride=(2, 2), padding=((1, 1), (1, 1)))
    np.testing.assert_array_equal(run(kernels.conv2d, x, w, stride=stride, padding=padding), expected)


def test_groups_are_separate_convolutions(run_gemm: Runner) -> None:
    x, w = reference.random(2, 7, 6, 8), reference.random(10, 3, 3, 4)
    y = run_gemm(kernels.conv2d, x, w, padding=1, groups=2)
    for g, k in ((0, np.s_[:5]), (1, np.s_[5:])):
        channels = np.ascontiguousarray(x[..., 4 * g : 4 * g + 4])
        alone = run_gemm(kernels.conv2d, channels, w[k], padding=1).astype(np.float64)
        magnitude = run_gemm(kernels.conv2d, abs(channels), abs(w[k]), padding=1)
        # both are rounded
        reference.assert_close(y[..., k], alone, 2 * reference.rounding_error(magnitude, 36))


@given(case=cases(4, FEW_CHANNELS))
def test_oracle(case: Case) -> None:
    x, w, b = (array.astype(np.float64) for array in case.arguments())
    dy = reference.random(*case.y, seed=4).astype(np.float64)
    windows = (case.stride, case.padding, case.groups, case.ceil)
    for i, gradient in enumerate(reference.conv2d_backward(dy, x, w, *windows)):

        def loss(value: reference.Array, i: int = i) -> float:
            return (
                reference.conv2d(*[value if j == i else array for j, array in enumerate((x, w, b))], *windows) * dy
            ).sum()

        np.testing.assert_allclose(gradient, reference.numeric_gradient(loss, (x, w, b)[i]), rtol=1e-6, atol=1e-7)
