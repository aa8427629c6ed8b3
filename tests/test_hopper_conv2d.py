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
    """dx: any of the cases at stride 1, with so many filters in a group."""
    pad = min(case.padding[0][0], case.w[1] - 1)
    image = tuple(max(n, case.w[1] - 2 * pad) for n in case.x[1:3])
    padding = ((pad, pad), (pad, pad))
    x = (case.x[0], *image, 5 * case.groups)
    check_backward_input(run, Case(x, (filters * case.groups, *case.w[1:3], 5), padding=padding, groups=case.groups))


@settings(max_examples=6)
@given(case=cases(), filters=st.sampled_from([8, 136]))
def test_backward_weight(run: Runner, case: Case, filters: int) -> None:
    groups = case.groups
    check_backward_weight(run, Case(case.x, (filters * groups, *case.w[1:]), case.stride, case.padding, groups))


GRADIENTS = {
    "conv3": Case((2, 13, 13, 130), (64, 3, 3, 130), padding=((1, 1), (1, 1))),
    "conv4": Case((1, 9, 9, 12), (384, 3, 3, 6), padding=((1, 1), (1, 1)), groups=2),
    "conv2": Case((1, 12, 11, 10), (128, 5, 5, 5), padding=((2, 2), (2, 2)), groups=2),
}


@pytest.mark.parametrize("case", GRADIENTS.values(), ids=GRADIENTS.keys())
def test_backward_input_of_layers(run: Runner, case: Case) -> None:
    check_backward_input(run, case)


WEIGHTS = {
    "conv3": Case((2, 13, 13, 64), (392, 3, 3, 64), padding=((1, 1), (1, 1))),
    "conv4": Case((1, 9, 9, 384), (16, 3, 3, 192), padding=((1, 1), (1, 1)), groups=2),
    "a step and a pixel": Case((1, 65, 1, 64), (8, 1, 1, 64)),
    "exactly a step": Case((1, 8, 8, 64), (64, 1, 1, 64)),
    "exactly a tile": Case((1, 9, 7, 64), (128, 2, 2, 64)),
    "a part of a tile": Case((1, 9, 7, 320), (136, 1, 1, 320)),
    "a split sum": Case((9, 12, 12, 64), (8, 3, 3, 64), padding=((1, 1), (1, 1))),
    "stride": Case((2, 11, 11, 64), (8, 5, 5, 64), (2, 2), ((2, 2), (2, 2))),
}


@pytest.mark.parametrize("case", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_backward_weight_of_layers(run: Runner, case: Case) -> None:
    check_backward_weight(run, case)


def check_backward_input(run: Runner, case: Case) -> None:
    check_backward(run, case, 0, case.w[1] * case.w[2] * case.w[0] // case.groups)


def check_backward_weight(run: Runner, case: Case) -> None:
    check_backward(run, case, 1, math.prod(case.y[:3]))


def check_backward(run: Runner, case: Case, which: int, terms: int) -> None:
    """The gradient of that number, each value a sum of so many products."""
    x, w, _ = case.arguments()
    dy, mask = reference.random(*case.y, seed=4), reference.mask(*case.x)
    rounded = [reference.rounded(array, "bf16") for array in (dy, x, w)]
    windows = (case.stride, case.padding, case.groups, case.ceil)
    expected = reference.conv2d_backward(*rounded, *windows)[which]
    magnitude = reference.conv2d_backward(*map(abs, rounded), *windows)[which]
    needs = (which == 0, which == 1, which == 1)
    *gradients, db = run(kernels.conv2d_backward, dy, x, w, needs=needs, mask=mask, **HOPPER, **case.windows)
    if which == 0:
        expected, magnitude = (reference.masked(dx, mask) for dx in (expected, magnitude))
    else:
        dy64 = dy.astype(np.float64)
        reference.assert_close(db, dy64.sum((0, 1, 2)), reference.rounding_error(abs(dy64).sum((0, 1, 2)), terms))
    reference.assert_close(gradients[which], expected, reference.tensor_core_error(magnitude, terms))


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        pytest.param((13, 256, 384, 1), 4, id="conv3"),
        pytest.param((13, 384, 384, 1), 3, id="conv4"),
        pytest.param((13, 384, 256, 1), 4, id="conv5"),
        pytest.param((13, 384, 384, 2), 4, id="conv4 of two towers"),
        pytest.param((13, 384, 256, 2), 9, id="conv5 of two towers"),
    ],
)
def test_weight_gradients_fill_a_large_gpu(shape: tuple[int, int, int, int], parts: int) -> None:
    """At batch 128: tiles of 128 filters by 256 values, times parts of the pixels, for most of 132 multiprocessors."""
    H, C, K, groups = shape
    conv = backend.native(backend.Device("cpu")).Conv2d(
        N=128, H=H, W=H, C=C, K=K, KH=3, KW=3, groups=groups, stride_h=1, stride_w=1, pad_top=1, pad_left=1, OH=H, OW=H
    )
    pixels, size = 128 * H * H, 9 * C // groups
    native = backend.native(backend.Device("cpu"))
    partial_sums = native.hopper_conv2d_backward_weight_workspace(conv) - 2 * pixels * (C + K)
    assert partial_sums == parts * K * size * 4
    tiles = groups * -(-K // groups // 128) * -(-size // 256) * parts
    assert 0.8 * 132 <= tiles <= 132


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
    ("x", "w", "options"),
    [
        pytest.param((1, 5, 5, 32), (8, 3, 3, 32), {}, id="channels"),
        pytest.param((1, 5, 5, 64), (12, 3, 3, 64), {}, id="filters"),
        pytest.param((1, 5, 5, 64), (8, 3, 2, 64), {}, id="window"),
    ],
)
def test_shapes_of_which_it_does_not_take_the_gradient_of_w(
    x: tuple[int, ...], w: tuple[int, ...], options: dict[str, object]
) -> None:
    image, filters = np.ones(x, np.float32), np.ones(w, np.float32)
    dy = kernels.conv2d(image, filters, **options)
    with pytest.raises(ValueError, match=r"^conv2d_backward: algorithm: 'hopper' needs .* 8 filters.* got x \("):
        kernels.conv2d_backward(dy, image, filters, needs=(False, True, False), **HOPPER, **options)


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
