"""kernels.conv2d by TMA and wgmma, against float64 convolutions of operands rounded to bf16."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, settings, strategies as st
from test_conv2d import Case

from alexnet_cuda import backend, kernels

HOPPER = {"precision": "bf16", "algorithm": "hopper"}
LAYERS = {
    "conv3": Case((2, 13, 13, 64), (130, 3, 3, 64), padding=((1, 1), (1, 1))),
    "conv4": Case((1, 9, 9, 384), (20, 3, 3, 192), padding=((1, 1), (1, 1)), groups=2),
    "a tile and a pixel": Case((1, 257, 1, 64), (3, 1, 1, 64)),
    "exactly a tile": Case((2, 16, 8, 64), (128, 1, 1, 64)),
    "stride": Case((2, 11, 11, 64), (8, 5, 5, 64), (2, 2), ((2, 2), (2, 2))),
    "one pixel a filter": Case((3, 3, 3, 64), (5, 3, 3, 64)),
    "padding wider than the window": Case((1, 3, 4, 64), (4, 2, 2, 64), padding=((3, 3), (3, 3))),
}


@pytest.fixture(autouse=True)
def on_hopper(run: Runner) -> None:
    capability = backend.capability(backend.device(run.device))
    if capability not in (None, (9, 0)):
        pytest.skip(f"the GPU has compute capability {capability}")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    size, stride, padding = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 3))
    image = draw(st.tuples(*[st.integers(max(1, size - 2 * padding), 7)] * 2))
    groups, filters = draw(st.sampled_from([(1, 1), (1, 9), (1, 130), (2, 7), (3, 4)]))
    x = (draw(st.integers(1, 3)), *image, 64 * groups)
    return Case(x, (groups * filters, size, size, 64), (stride, stride), ((padding, padding),) * 2, groups)


@settings(max_examples=8)
@given(case=cases(), with_bias=st.booleans(), relu=st.booleans())
def test_forward(run: Runner, case: Case, with_bias: bool, relu: bool) -> None:
    check(run, case, with_bias, relu)


@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
def test_layers(run: Runner, case: Case) -> None:
    check(run, case, True, True)


def check(run: Runner, case: Case, with_bias: bool, relu: bool) -> None:
    x, w, b = case.arguments()
    b = b if with_bias else np.zeros_like(b)
    arrays = [reference.rounded(x, "bf16"), reference.rounded(w, "bf16"), b.astype(np.float64)]
    windows = (case.stride, case.padding, case.groups, case.ceil)
    expected = reference.conv2d(*arrays, *windows)
    magnitude = reference.conv2d(*map(abs, arrays), *windows)
    y = run(kernels.conv2d, x, w, b if with_bias else None, relu=relu, **HOPPER, **case.windows)
    error = reference.tensor_core_error(magnitude, math.prod(case.w[1:]) + 1)
    reference.assert_close(y, reference.relu(expected) if relu else expected, error)


@settings(max_examples=6)
@given(case=cases(), filters=st.sampled_from([64, 128]))
def test_backward_input(run: Runner, case: Case, filters: int) -> None:
    """Any of the cases at stride 1, with so many filters in a group."""
    pad = min(case.padding[0][0], case.w[1] - 1)
    image = tuple(max(n, case.w[1] - 2 * pad) for n in case.x[1:3])
    padding = ((pad, pad), (pad, pad))
    x = (case.x[0], *image, 5 * case.groups)
    check_backward(run, Case(x, (filters * case.groups, *case.w[1:3], 5), padding=padding, groups=case.groups))


GRADIENTS = {
    "conv3": Case((2, 13, 13, 130), (64, 3, 3, 130), padding=((1, 1), (1, 1))),
    "conv4": Case((1, 9, 9, 12), (384, 3, 3, 6), padding=((1, 1), (1, 1)), groups=2),
    "conv2": Case((1, 12, 11, 10), (128, 5, 5, 5), padding=((2, 2), (2, 2)), groups=2),
}


@pytest.mark.parametrize("case", GRADIENTS.values(), ids=GRADIENTS.keys())
def test_backward_input_of_layers(run: Runner, case: Case) -> None:
    check_backward(run, case)


def check_backward(run: Runner, case: Case) -> None:
    x, w, _ = case.arguments()
    dy = reference.random(*case.y, seed=4)
    rounded = [reference.rounded(array, "bf16") for array in (dy, x, w)]
    windows = (case.stride, case.padding, case.groups, case.ceil)
    expected = reference.conv2d_backward(*rounded, *windows)
    magnitudes = reference.conv2d_backward(*map(abs, rounded), *windows)
    dx, dw, _ = run(kernels.conv2d_backward, dy, x, w, needs=(True, True, False), **HOPPER, **case.windows)
    K, KH, KW, _ = case.w
    terms = KH * KW * K // case.groups, math.prod(case.y[:3])
    for gradient, exact, magnitude, n in zip((dx, dw), expected, magnitudes, terms, strict=False):
        reference.assert_close(gradient, exact, reference.tensor_core_error(magnitude, n))


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        pytest.param((1, 5, 5, 32), (4, 3, 3, 32), {}, id="channels"),
        pytest.param((1, 5, 5, 128), (4, 3, 3, 32), {"groups": 4}, id="channels of a group"),
        pytest.param((1, 5, 5, 64), (4, 3, 2, 64), {}, id="window"),
        pytest.param((1, 5, 5, 64), (4, 3, 3, 64), {"stride": (1, 2)}, id="stride"),
        pytest.param((1, 20, 20, 64), (4, 3, 3, 64), {"stride": 9}, id="long stride"),
        pytest.param((1, 5, 5, 64), (4, 3, 3, 64), {"padding": ((1, 0), (1, 0))}, id="padding"),
        pytest.param((1, 6, 6, 64), (4, 3, 3, 64), {"stride": 2, "ceil": True}, id="rounded up"),
    ],
)
def test_shapes_that_it_does_not_take(x: tuple[int, ...], w: tuple[int, ...], options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^conv2d: algorithm: 'hopper' needs .* got x \("):
        kernels.conv2d(np.ones(x, np.float32), np.ones(w, np.float32), **HOPPER, **options)


@pytest.mark.parametrize(
    ("w", "options"),
    [
        pytest.param((32, 3, 3, 4), {"padding": 1}, id="filters"),
        pytest.param((64, 3, 3, 4), {"padding": 1, "stride": 2}, id="stride"),
        pytest.param((64, 3, 2, 4), {}, id="window"),
        pytest.param((64, 3, 3, 4), {"padding": 3}, id="padding beyond the window"),
        pytest.param((64, 3, 3, 4), {"padding": ((1, 0), (1, 0))}, id="padding"),
    ],
)
def test_shapes_of_which_it_does_not_take_the_gradient(w: tuple[int, ...], options: dict[str, object]) -> None:
    x, filters = np.ones((1, 6, 6, 4), np.float32), np.ones(w, np.float32)
    y = kernels.conv2d(x, filters, **options)
    with pytest.raises(ValueError, match=r"^conv2d_backward: algorithm: 'hopper' needs .* got x \("):
        kernels.conv2d_backward(y, x, filters, **HOPPER, **options)
