"""kernels.conv2d by TMA and wgmma, against float64 convolutions of operands rounded as it does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, settings, strategies as st
from ml_dtypes import bfloat16
from test_conv2d import Case

from alexnet_cuda import backend, kernels

PRODUCTS = pytest.mark.parametrize("product", list(reference.PRODUCTS))
STEP = {"tf32": 8, "bf16": 16, "bfloat16": 16}
"""Channels that are multiplied at a time: a box has at most four times as many of a group."""


@pytest.fixture(autouse=True)
def on_hopper(run: Runner) -> None:
    capability = backend.capability(backend.device(run.device))
    if capability not in (None, (9, 0)):
        pytest.skip(f"the GPU has compute capability {capability}")


def options(product: str) -> dict[str, Any]:
    return {"precision": reference.PRODUCTS[product], "algorithm": "hopper"}


@st.composite
def cases(draw: st.DrawFn, step: int) -> Case:
    """A group of less than a box of channels, of one, of a part of a second one."""
    size, stride, padding = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 3))
    image = draw(st.tuples(*[st.integers(max(1, size - 2 * padding), 7)] * 2))
    groups, filters = draw(st.sampled_from([(1, 1), (1, 9), (1, 97), (1, 130), (2, 7), (2, 65), (3, 4)]))
    channels = step * draw(st.integers(1, 6))
    x = (draw(st.integers(1, 3)), *image, channels * groups)
    return Case(x, (groups * filters, size, size, channels), (stride, stride), ((padding, padding),) * 2, groups)


def of_every_product(largest: int) -> st.SearchStrategy[tuple[str, Case, int]]:
    """A product, a case of it, and from one on so many of its steps."""
    return st.sampled_from(list(STEP)).flatmap(
        lambda product: st.tuples(st.just(product), cases(STEP[product]), st.integers(1, largest))
    )


# ---- y


@settings(max_examples=12)
@given(drawn=of_every_product(1), with_bias=st.booleans(), relu=st.booleans())
def test_forward(run: Runner, drawn: tuple[str, Case, int], with_bias: bool, relu: bool) -> None:
    product, case, _ = drawn
    check_forward(run, case, product, with_bias, relu)


LAYERS = {
    # channels and windows of AlexNet's layers, fewer filters and pixels; conv1 after space-to-depth
    "conv1": Case((1, 9, 8, 48), (96, 3, 3, 48)),
    "conv2": Case((1, 8, 9, 96), (20, 5, 5, 96), padding=((2, 2), (2, 2))),
    "conv2 of two towers": Case((1, 8, 9, 96), (256, 5, 5, 48), padding=((2, 2), (2, 2)), groups=2),
    "conv3": Case((2, 13, 13, 64), (130, 3, 3, 64), padding=((1, 1), (1, 1))),
    "conv4 of two towers": Case((1, 9, 9, 384), (20, 3, 3, 192), padding=((1, 1), (1, 1)), groups=2),
    "a tile and a pixel": Case((1, 257, 1, 64), (3, 1, 1, 64)),
    "exactly a tile": Case((2, 16, 8, 64), (128, 1, 1, 64)),
    "exactly a tile of 64": Case((2, 16, 8, 32), (64, 1, 1, 32)),
    "a tile of 96 and a filter": Case((1, 5, 5, 32), (97, 1, 1, 32)),
    "stride": Case((2, 11, 11, 64), (8, 5, 5, 64), (2, 2), ((2, 2), (2, 2))),
    "one pixel a filter": Case((3, 3, 3, 80), (5, 3, 3, 80)),
    "padding wider than the window": Case((1, 3, 4, 64), (4, 2, 2, 64), padding=((3, 3), (3, 3))),
}


@PRODUCTS
@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
def test_forward_of_layers(run: Runner, case: Case, product: str) -> None:
    check_forward(run, case, product, True, True)


@PRODUCTS
def test_long_sums_of_one_sign(run: Runner, product: str) -> None:
    """What tensor cores cut off adds up."""
    check_forward(run, Case((1, 4, 4, 384), (8, 3, 3, 384)), product, False, False, one_sign=True)


def check_forward(run: Runner, case: Case, product: str, with_bias: bool, relu: bool, one_sign: bool = False) -> None:
    x, w, b = map(abs, case.arguments()) if one_sign else case.arguments()
    x, b = reference.stored(x, product), b if with_bias else np.zeros_like(b)
    arrays = [reference.rounded(x, product), reference.rounded(w, product), b.astype(np.float64)]
    windows = (case.stride, case.padding, case.groups, case.ceil)
    expected = reference.conv2d(*arrays, *windows)
    magnitude = reference.conv2d(*map(abs, arrays), *windows)
    y = run(kernels.conv2d, x, w, b if with_bias else None, relu=relu, **options(product), **case.windows)
    error = reference.tensor_core_error(magnitude, math.prod(case.w[1:]) + 1, one_sign)
    reference.assert_close(y, reference.relu(expected) if relu else expected, error, x.dtype)


@PRODUCTS
def test_what_a_box_reads_of_the_next_group_does_not_count(run: Runner, product: str) -> None:
    """Not even NaN: there the second group's channels and filters lie in the first one's boxes."""
    step = STEP[product]
    case = Case((1, 4, 5, 2 * step), (2 * step, 3, 3, step), padding=((1, 1), (1, 1)), groups=2)
    x, w, _ = case.arguments()
    dy = reference.random(*case.y, seed=4)
    x[..., step:], w[step:], dy[..., step:] = np.nan, np.nan, np.nan
    x, dy = reference.stored(x, product), reference.stored(dy, product)
    y = run(kernels.conv2d, x, w, **options(product), **case.windows)
    needs = (True, product != "tf32", False)
    dx, dw, _ = run(kernels.conv2d_backward, dy, x, w, needs=needs, **options(product), **case.windows)
    first = (np.ascontiguousarray(array) for array in (dy[..., :step], x[..., :step], w[:step]))
    dy1, x1, w1 = first
    np.testing.assert_array_equal(y[..., :step], run(kernels.conv2d, x1, w1, padding=1, **options(product)))
    dx1, dw1, _ = run(kernels.conv2d_backward, dy1, x1, w1, needs=needs, padding=1, **options(product))
    np.testing.assert_array_equal(dx[..., :step], dx1)
    assert np.isnan(y[..., step:].astype(np.float32)).all()
    assert np.isfinite(dx1.astype(np.float32)).all()
    if dw is not None:
        np.testing.assert_array_equal(dw[:step], dw1)
        assert np.isfinite(dw1).all()


# ---- dx


@settings(max_examples=10)
@given(drawn=of_every_product(9))
def test_backward_input(run: Runner, drawn: tuple[str, Case, int]) -> None:
    """dx: any of the cases at stride 1, with so many filters in a group."""
    product, case, steps = drawn
    pad = min(case.padding[0][0], case.w[1] - 1)
    image = tuple(max(n, case.w[1] - 2 * pad) for n in case.x[1:3])
    padding = ((pad, pad), (pad, pad))
    x = (case.x[0], *image, 5 * case.groups)
    w = (STEP[product] * steps * case.groups, *case.w[1:3], 5)
    check_backward_input(run, Case(x, w, padding=padding, groups=case.groups), product)


GRADIENTS = {
    "conv1": Case((1, 6, 7, 48), (96, 3, 3, 48)),
    "conv2": Case((1, 9, 8, 96), (64, 5, 5, 96), padding=((2, 2), (2, 2))),
    "conv2 of two towers": Case((1, 8, 7, 96), (256, 5, 5, 48), padding=((2, 2), (2, 2)), groups=2),
    "conv3": Case((2, 13, 13, 130), (64, 3, 3, 130), padding=((1, 1), (1, 1))),
    "conv4 of two towers": Case((1, 9, 9, 12), (384, 3, 3, 6), padding=((1, 1), (1, 1)), groups=2),
}


@PRODUCTS
@pytest.mark.parametrize("case", GRADIENTS.values(), ids=GRADIENTS.keys())
def test_backward_input_of_layers(run: Runner, case: Case, product: str) -> None:
    check_backward_input(run, case, product)


def check_backward_input(run: Runner, case: Case, product: str) -> None:
    check_backward(run, case, product, 0, case.w[1] * case.w[2] * case.w[0] // case.groups)


# ---- dw


@settings(max_examples=8)
@given(case=cases(STEP["bf16"]), filters=st.sampled_from([8, 72, 136]), product=st.sampled_from(["bf16", "bfloat16"]))
def test_backward_weight(run: Runner, case: Case, filters: int, product: str) -> None:
    w = (filters * case.groups, *case.w[1:])
    check_backward_weight(run, Case(case.x, w, case.stride, case.padding, case.groups), product)


WEIGHTS = {
    "conv1": Case((1, 9, 8, 48), (96, 3, 3, 48)),
    "conv2": Case((1, 8, 9, 96), (16, 5, 5, 96), padding=((2, 2), (2, 2))),
    "conv2 of two towers": Case((1, 8, 9, 96), (256, 5, 5, 48), padding=((2, 2), (2, 2)), groups=2),
    "conv3": Case((2, 13, 13, 64), (392, 3, 3, 64), padding=((1, 1), (1, 1))),
    "conv4 of two towers": Case((1, 9, 9, 384), (16, 3, 3, 192), padding=((1, 1), (1, 1)), groups=2),
    "a step and a pixel": Case((1, 65, 1, 64), (8, 1, 1, 64)),
    "exactly a step": Case((1, 8, 8, 64), (64, 1, 1, 64)),
    "exactly a tile": Case((1, 9, 7, 64), (128, 2, 2, 64)),
    "a part of a tile": Case((1, 9, 7, 320), (136, 1, 1, 320)),
    "a split sum": Case((9, 12, 12, 64), (8, 3, 3, 64), padding=((1, 1), (1, 1))),
    "a split sum of parts of boxes": Case((9, 12, 12, 80), (8, 3, 3, 80), padding=((1, 1), (1, 1))),
    "stride": Case((2, 11, 11, 64), (8, 5, 5, 64), (2, 2), ((2, 2), (2, 2))),
}


@pytest.mark.parametrize("product", ["bf16", "bfloat16"])
@pytest.mark.parametrize("case", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_backward_weight_of_layers(run: Runner, case: Case, product: str) -> None:
    check_backward_weight(run, case, product)


def check_backward_weight(run: Runner, case: Case, product: str) -> None:
    check_backward(run, case, product, 1, math.prod(case.y[:3]))


def check_backward(run: Runner, case: Case, product: str, which: int, terms: int) -> None:
    """The gradient of that number, each value a sum of so many products; dx is masked, with dw comes the bias's."""
    x, w, _ = case.arguments()
    dy, x = (reference.stored(array, product) for array in (reference.random(*case.y, seed=4), x))
    rounded = [reference.rounded(array, product) for array in (dy, x, w)]
    windows = (case.stride, case.padding, case.groups, case.ceil)
    expected = reference.conv2d_backward(*rounded, *windows)[which]
    magnitude = reference.conv2d_backward(*map(abs, rounded), *windows)[which]
    needs, mask = (which == 0, which == 1, which == 1), reference.mask(*case.x, dtype=x.dtype)
    dx, dw, db = run(kernels.conv2d_backward, dy, x, w, needs=needs, mask=mask, **options(product), **case.windows)
    if which == 0:
        error = reference.tensor_core_error(reference.masked(magnitude, mask), terms)
        reference.assert_close(dx, reference.masked(expected, mask), error, x.dtype)
    else:
        reference.assert_close(dw, expected, reference.tensor_core_error(magnitude, terms))
        exact = dy.astype(np.float64)
        error = reference.rounding_error(abs(exact).sum((0, 1, 2)), terms)
        reference.assert_close(db, exact.sum((0, 1, 2)), error)


def conv2d(H: int, C: int, K: int, size: int, padding: int, groups: int) -> Any:
    """At batch 128."""
    out = H + 2 * padding - size + 1
    return backend.native(backend.Device("cpu")).Conv2d(
        N=128, H=H, W=H, C=C, K=K, KH=size, KW=size, groups=groups, stride_h=1, stride_w=1, pad_top=padding,
        pad_left=padding, OH=out, OW=out,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        pytest.param((57, 48, 96, 3, 0, 1), 44, id="conv1"),
        pytest.param((27, 96, 256, 5, 2, 1), 5, id="conv2"),
        pytest.param((27, 96, 256, 5, 2, 2), 9, id="conv2 of two towers"),
        pytest.param((13, 256, 384, 3, 1, 1), 4, id="conv3"),
        pytest.param((13, 384, 384, 3, 1, 1), 3, id="conv4"),
        pytest.param((13, 384, 256, 3, 1, 1), 4, id="conv5"),
        pytest.param((13, 384, 384, 3, 1, 2), 4, id="conv4 of two towers"),
        pytest.param((13, 384, 256, 3, 1, 2), 9, id="conv5 of two towers"),
    ],
)
def test_weight_gradients_fill_a_large_gpu(shape: tuple[int, int, int, int, int, int], parts: int) -> None:
    """Tiles of 128 filters by four boxes of 64 channels, times parts of the pixels, for most of 132 multiprocessors."""
    _, C, K, size, _, groups = shape
    native = backend.native(backend.Device("cpu"))
    partial_sums = native.hopper_conv2d_backward_weight_workspace(
        conv2d(*shape), native.Conv2dOptions(precision="bf16"), True
    )
    assert partial_sums == parts * K * (size**2 * (C // groups) + 1) * 4
    tiles = groups * -(-K // groups // 128) * -(-(size**2) * -(-C // groups // 64) // 4) * parts
    assert 0.8 * 132 <= tiles <= 132


def test_what_lies_in_bfloat16_is_read_where_it_lies() -> None:
    """Float32 is first rounded into the workspace."""
    native = backend.native(backend.Device("cpu"))
    conv2, x, w, y = conv2d(27, 96, 256, 5, 2, 1), 128 * 27 * 27 * 96, 256 * 25 * 96, 128 * 27 * 27 * 256
    forward, backward = native.hopper_conv2d_forward_workspace, native.hopper_conv2d_backward_input_workspace
    bf16, tf32 = (native.Conv2dOptions(precision=precision) for precision in ("bf16", "tf32"))
    ways = (bf16, True), (bf16, False), (tf32, False)
    assert [forward(conv2, *way) for way in ways] == [0, 2 * (x + w), 4 * (x + w)]
    assert [backward(conv2, *way) for way in ways] == [2 * w, 2 * (y + w), 4 * (y + w)]


# ---- by way of blocks of pixels

BLOCKS = {
    "conv1": Case((1, 39, 35, 3), (96, 11, 11, 3), (4, 4)),
    "long stride": Case((2, 20, 21, 16), (16, 3, 3, 16), (9, 9)),
    "padding at one side": Case((1, 5, 5, 64), (16, 3, 3, 64), padding=((1, 0), (1, 0))),
    "rounded up": Case((1, 6, 6, 16), (16, 3, 3, 16), (2, 2), ceil=True),
    "two strides": Case((2, 9, 10, 16), (32, 4, 6, 8), (2, 3), ((1, 0), (2, 2)), groups=2),
}


@PRODUCTS
@pytest.mark.parametrize("case", BLOCKS.values(), ids=BLOCKS.keys())
def test_shapes_that_it_takes_in_blocks(run: Runner, case: Case, product: str) -> None:
    check_forward(run, case, product, True, True)
    check_backward_input(run, case, product)
    if product != "tf32":
        check_backward_weight(run, case, product)


@pytest.mark.parametrize("product", list(reference.PRODUCTS))
def test_gradients_of_x_at_a_stride_are_taken_in_blocks(run: Runner, product: str) -> None:
    check_backward_input(run, Case((2, 9, 8, 5), (32, 3, 3, 5), (2, 2), ((1, 1), (1, 1))), product)
    check_backward_input(run, Case((1, 6, 6, 4), (64, 3, 3, 4), padding=((3, 3), (3, 3))), product)


# ---- what it refuses


def test_bfloat16_arrays_that_tma_cannot_read() -> None:
    memory = np.zeros(2 * 4 * 4 * 16 + 16, bfloat16)
    at = -memory.ctypes.data % 16 // 2 + 4
    x, w = memory[at : at + 512].reshape(2, 4, 4, 16), np.ones((4, 1, 1, 16), np.float32)
    with pytest.raises(ValueError, match=r"^hopper_conv2d_forward: x: expected memory aligned to 16 bytes, got an "):
        kernels.conv2d(x, w, algorithm="hopper")
    dy, image = np.zeros((2, 4, 4, 16), bfloat16), np.zeros((2, 4, 4, 16), bfloat16)
    for arrays, name in (((x, image), "dy"), ((dy, x), "x")):
        with pytest.raises(ValueError, match=rf"^hopper_conv2d_backward_weight: {name}: expected memory aligned to 16"):
            kernels.conv2d_backward(
                *arrays, np.ones((16, 1, 1, 16), bfloat16), algorithm="hopper", needs=(False, True, False)
            )


def test_gradients_of_w_in_tf32() -> None:
    x, w = np.ones((1, 3, 3, 8), np.float32), np.ones((8, 1, 1, 8), np.float32)
    message = "'hopper' computes dw in precision 'bf16' alone, got 'tf32', which 'implicit' has"
    with pytest.raises(ValueError, match=f"^conv2d_backward: algorithm: {message}$"):
        kernels.conv2d_backward(x, x, w, algorithm="hopper", precision="tf32")


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        pytest.param((1, 5, 5, 24), (4, 3, 3, 24), {}, id="channels"),
        pytest.param((1, 5, 5, 32), (4, 3, 3, 8), {"groups": 4}, id="channels of a group"),
        pytest.param((1, 5, 5, 12), (4, 3, 3, 12), {"precision": "tf32"}, id="channels in tf32"),
        pytest.param((1, 5, 5, 64), (4, 3, 2, 64), {}, id="window"),
        pytest.param((1, 5, 5, 64), (4, 3, 3, 64), {"stride": (1, 2)}, id="stride"),
        pytest.param((1, 20, 20, 4), (4, 12, 5, 4), {"stride": 4}, id="window of blocks"),
    ],
)
def test_shapes_that_it_does_not_take(x: tuple[int, ...], w: tuple[int, ...], options: dict[str, object]) -> None:
    options = {"precision": "bf16"} | options
    with pytest.raises(ValueError, match=r"^conv2d: algorithm: 'hopper' needs .* got x \("):
        kernels.conv2d(np.ones(x, np.float32), np.ones(w, np.float32), algorithm="hopper", **options)


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        pytest.param((1, 5, 5, 24), (8, 3, 3, 24), {}, id="channels"),
        pytest.param((1, 5, 5, 64), (12, 3, 3, 64), {}, id="filters"),
        pytest.param((1, 5, 5, 64), (8, 3, 2, 64), {}, id="window"),
    ],
)
def test_shapes_of_which_it_does_not_take_the_gradient_of_w(
    x: tuple[int, ...], w: tuple[int, ...], options: dict[str, object]
) -> None:
    image, filters = np.ones(x, np.float32), np.ones(w, np.float32)
    dy = kernels.conv2d(image, filters, **options)
    hopper = {"precision": "bf16", "algorithm": "hopper"}
    with pytest.raises(ValueError, match=r"^conv2d_backward: algorithm: 'hopper' needs .* 8 filters.* got x \("):
        kernels.conv2d_backward(dy, image, filters, needs=(False, True, False), **hopper, **options)


@pytest.mark.parametrize(
    ("w", "options"),
    [
        pytest.param((24, 3, 3, 4), {"padding": 1}, id="filters"),
        pytest.param((64, 3, 2, 4), {}, id="window"),
    ],
)
def test_shapes_of_which_it_does_not_take_the_gradient(w: tuple[int, ...], options: dict[str, object]) -> None:
    x, filters = np.ones((1, 6, 6, 4), np.float32), np.ones(w, np.float32)
    y = kernels.conv2d(x, filters, **options)
    with pytest.raises(ValueError, match=r"^conv2d_backward: algorithm: 'hopper' needs .* got x \("):
        kernels.conv2d_backward(y, x, filters, precision="bf16", algorithm="hopper", **options)
