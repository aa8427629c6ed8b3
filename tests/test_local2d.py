"""kernels.local2d and local2d_backward."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, strategies as st

from alexnet_cuda import kernels

Case = tuple[tuple[int, ...], tuple[int, ...], dict[str, object]]


@st.composite
def cases(draw: st.DrawFn, channels: int = 5, window: int = 4, image: int = 7) -> Case:
    """Shapes of x and w, and options; sizes up to the given ones."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    C, K = (groups * draw(st.integers(1, channels)) for _ in range(2))
    size = draw(st.tuples(st.integers(1, window), st.integers(1, window)))
    padding = tuple(draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in range(2))
    pixels = tuple(draw(st.integers(max(1, k - sum(p)), image)) for k, p in zip(size, padding, strict=True))
    stride, ceil = draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), draw(st.booleans())
    out = reference.output_shape(pixels, size, stride, padding, ceil)
    options = {"stride": stride, "padding": padding, "groups": groups, "ceil": ceil}
    return (draw(st.integers(1, 3)), *pixels, C), (*out, K, *size, C // groups), options


def check(run: Runner, case: Case, relu: bool) -> None:
    x_shape, w_shape, options = case
    x, w = reference.random(*x_shape, seed=1), reference.random(*w_shape, seed=2)
    b, dy = reference.random(*w_shape[:3], seed=3), reference.random(x_shape[0], *w_shape[:3], seed=4)
    x64, w64, b64, dy64 = (array.astype(np.float64) for array in (x, w, b, dy))
    length, filters = int(np.prod(w_shape[3:])), w_shape[2] // options["groups"]

    expected = reference.local2d(x64, w64, b64, **options)
    magnitude = reference.local2d(abs(x64), abs(w64), abs(b64), **options)
    actual = run(kernels.local2d, x, w, b, relu=relu, **options)
    expected = reference.relu(expected) if relu else expected
    reference.assert_close(actual, expected, reference.rounding_error(magnitude, length + 1))

    gradients = run(kernels.local2d_backward, dy, x, w, **options)
    expected = reference.local2d_backward(dy64, x64, w64, **options)
    magnitudes = reference.local2d_backward(abs(dy64), abs(x64), abs(w64), **options)
    roundings = (length * filters, x_shape[0], x_shape[0])
    for got, right, magnitude, count in zip(gradients, expected, magnitudes, roundings, strict=True):
        reference.assert_close(got, right, reference.rounding_error(magnitude, count))


@given(case=cases(), relu=st.booleans())
def test_any_shape(run_gemm: Runner, case: Case, relu: bool) -> None:
    check(run_gemm, case, relu)


def test_sizes_of_cifar(run: Runner) -> None:
    options = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "groups": 1, "ceil": False}
    check(run, ((16, 6, 6, 64), (6, 6, 32, 3, 3, 64), options), relu=True)


def test_equal_filters_are_a_convolution(run: Runner) -> None:
    x, w = reference.random(2, 5, 6, 4, seed=1), reference.random(8, 3, 3, 2, seed=2)
    b = reference.random(8, seed=3)
    expected = run(kernels.conv2d, x, w, b, padding=1, groups=2)
    same = np.ascontiguousarray(np.broadcast_to(w, (5, 6, *w.shape)))
    actual = run(kernels.local2d, x, same, np.ascontiguousarray(np.broadcast_to(b, (5, 6, 8))), padding=1, groups=2)
    reference.assert_close(actual, expected, reference.rounding_error(abs(expected) + 10, 19))


def test_needs(run: Runner) -> None:
    x, w, dy = reference.random(1, 3, 3, 2), reference.random(3, 3, 2, 1, 1, 2), reference.random(1, 3, 3, 2)
    for needs in ((True, False, False), (False, True, False), (False, False, True)):
        gradients = run(kernels.local2d_backward, dy, x, w, needs=needs)
        assert tuple(g is not None for g in gradients) == needs


@pytest.mark.parametrize(
    ("w", "message"),
    [
        ((2, 3, 4, 3, 3, 2), r"x of shape \(1, 5, 5, 2\) needs w of shape \(3, 3, K"),
        ((3, 3, 4, 3, 3, 1), "groups 1"),
        ((1, 1, 4, 6, 3, 2), "a window of 6 does not fit 5 pixels"),
    ],
)
def test_wrong_shapes(w: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"local2d: .*{message}"):
        kernels.local2d(np.ones((1, 5, 5, 2), np.float32), np.ones(w, np.float32))


@given(case=cases(channels=1, window=2, image=3))
def test_oracle(case: Case) -> None:
    x_shape, w_shape, options = case
    x, w, b, dy = (
        reference.random(*shape).astype(np.float64)
        for shape in (x_shape, w_shape, w_shape[:3], (x_shape[0], *w_shape[:3]))
    )
    dx, dw, db = reference.local2d_backward(dy, x, w, **options)
    for gradient, argument, forward in (
        (dx, x, lambda x: reference.local2d(x, w, b, **options)),
        (dw, w, lambda w: reference.local2d(x, w, b, **options)),
        (db, b, lambda b: reference.local2d(x, w, b, **options)),
    ):
        numeric = reference.numeric_gradient(lambda a, forward=forward: (forward(a) * dy).sum(), argument)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-7)
