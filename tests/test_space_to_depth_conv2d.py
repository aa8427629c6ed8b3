"""kernels.conv2d with blocks of pixels made one, against float64 convolutions of operands rounded as it does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, settings, strategies as st
from ml_dtypes import bfloat16
from test_conv2d import Case, cases

from alexnet_cuda import backend, kernels

CPU = backend.native(backend.Device("cpu"))
PRODUCTS = pytest.mark.parametrize("product", reference.PRODUCTS)
CHANNELS = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6))  # groups, channels and filters of one
LAYERS = {
    # windows of AlexNet's first layer, fewer filters and pixels
    "conv1": Case((2, 39, 35, 3), (70, 11, 11, 3), (4, 4)),
    "conv1 of 2012": Case((1, 36, 36, 3), (32, 11, 11, 3), (4, 4), ceil=True),
    "groups": Case((2, 9, 10, 6), (8, 5, 3, 3), (2, 3), ((1, 2), (0, 1)), groups=2),
    "stride 1": Case((2, 6, 5, 3), (8, 3, 3, 3), padding=((1, 1), (1, 1))),
    "pixels between the windows": Case((2, 11, 10, 3), (8, 2, 2, 3), (3, 4), ((1, 0), (0, 2))),
    "pixels after the last window": Case((1, 10, 11, 3), (4, 4, 4, 3), (4, 4)),
    "one pixel a filter": Case((3, 5, 5, 3), (20, 5, 5, 3), (2, 2)),
    "padding wider than the image": Case((1, 2, 3, 4), (8, 5, 4, 4), (2, 1), padding=((3, 0), (0, 2))),
}


@settings(max_examples=15)
@given(
    case=cases(7, CHANNELS),
    with_bias=st.booleans(),
    relu=st.booleans(),
    product=st.sampled_from(list(reference.PRODUCTS)),
)
def test_any_shape(run: Runner, case: Case, with_bias: bool, relu: bool, product: str) -> None:
    check(run, case, product, with_bias, relu)


@PRODUCTS
@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
def test_layers(run: Runner, case: Case, product: str) -> None:
    check(run, case, product)


def check(run: Runner, case: Case, product: str, with_bias: bool = True, relu: bool = True) -> None:
    x, w, b = case.arguments()
    b = b if with_bias else np.zeros_like(b)
    dy, x = (reference.stored(array, product) for array in (reference.random(*case.y, seed=4), x))
    dy64, x64, w64 = (reference.rounded(array, product) for array in (dy, x, w))
    windows = (case.stride, case.padding, case.groups, case.ceil)
    options: dict[str, Any] = {"precision": reference.PRODUCTS[product], "algorithm": "space_to_depth", **case.windows}
    K, KH, KW, G = case.w

    expected = reference.conv2d(x64, w64, b.astype(np.float64), *windows)
    magnitude = reference.conv2d(abs(x64), abs(w64), abs(b).astype(np.float64), *windows)
    y = run(kernels.conv2d, x, w, b if with_bias else None, relu=relu, **options)
    error = reference.tensor_core_error(magnitude, KH * KW * G + 1)
    reference.assert_close(y, reference.relu(expected) if relu else expected, error, x.dtype)

    gradients = reference.conv2d_backward(dy64, x64, w64, *windows)
    magnitudes = reference.conv2d_backward(abs(dy64), abs(x64), abs(w64), *windows)
    mask, pixels = reference.mask(*case.x, dtype=x.dtype), math.prod(case.y[:3])
    dx, dw, db = run(kernels.conv2d_backward, dy, x, w, mask=mask, **options)
    error = reference.tensor_core_error(reference.masked(magnitudes[0], mask), KH * KW * K // case.groups)
    reference.assert_close(dx, reference.masked(gradients[0], mask), error, x.dtype)
    reference.assert_close(dw, gradients[1], reference.tensor_core_error(magnitudes[1], pixels))
    exact = dy.astype(np.float64)
    error = reference.rounding_error(abs(exact).sum((0, 1, 2)), pixels)
    reference.assert_close(db, exact.sum((0, 1, 2)), error)


def shape(x: tuple[int, int, int, int], w: tuple[int, int, int, int], stride: int, OH: int, OW: int) -> Any:
    N, H, W, C = x
    return CPU.Conv2d(
        N=N, H=H, W=W, C=C, K=w[0], KH=w[1], KW=w[2], groups=C // w[3], stride_h=stride, stride_w=stride, pad_top=0,
        pad_left=0, OH=OH, OW=OW,
    )  # fmt: skip


def test_size_of_the_first_layer() -> None:
    """227 x 227 x 3 becomes 57 x 57 x 48, windows of 11 x 11 become 3 x 3: 432 values for 363."""
    conv1 = shape((1, 227, 227, 3), (96, 11, 11, 3), 4, 55, 55)
    again = shape((1, 57, 57, 48), (96, 3, 3, 48), 1, 55, 55)
    for stored_bfloat16 in (False, True):
        blocks = conv1.blocks(stored_bfloat16)
        for name in ("N", "H", "W", "C", "KH", "KW", "OH", "OW"):
            assert getattr(blocks, name) == getattr(again, name)
        for which, filter_bytes in (("forward", 2), ("backward_input", 2), ("backward_weight", 4)):
            in_blocks = getattr(CPU, f"space_to_depth_conv2d_{which}_workspace")
            products = [getattr(CPU, f"{way}_conv2d_{which}_workspace") for way in ("implicit", "hopper")]
            size = 57 * 57 * 48 * 2 + 96 * 3 * 3 * 48 * filter_bytes
            if not stored_bfloat16:
                size = (57 * 57 * 48 + 96 * 3 * 3 * 48) * 4
            for product, hopper in zip(products, (False, True), strict=True):
                how = CPU.Conv2dOptions(precision="bf16", hopper=hopper), stored_bfloat16
                assert in_blocks(conv1, *how) - product(again, *how) == size


@pytest.mark.parametrize(
    ("x", "w", "stride", "output", "pays"),
    [
        pytest.param((1, 227, 227, 3), (96, 11, 11, 3), 4, 55, (True, True), id="conv1"),
        pytest.param((1, 32, 32, 3), (32, 5, 5, 3), 1, 28, (True, False), id="three channels padded to four or eight"),
        pytest.param((1, 32, 32, 1), (32, 5, 5, 1), 1, 28, (False, False), id="four times the copies"),
        pytest.param((1, 32, 32, 1), (32, 5, 5, 1), 2, 14, (True, False), id="a digit"),
        pytest.param((1, 32, 32, 3), (32, 1, 1, 3), 2, 16, (False, False), id="what no window sees"),
        pytest.param((1, 32, 32, 4), (32, 5, 5, 4), 2, 14, (False, True), id="copied by fours already"),
        pytest.param((1, 32, 32, 8), (32, 5, 5, 8), 2, 14, (False, False), id="copied by eights already"),
    ],
)
def test_when_it_is_chosen(
    x: tuple[int, int, int, int], w: tuple[int, int, int, int], stride: int, output: int, pays: tuple[bool, bool]
) -> None:
    """For arrays in float32 and in bfloat16."""
    struct = shape(x, w, stride, output, output)
    for precision, dtype in (("tf32", np.float32), ("bf16", np.float32), ("bf16", bfloat16)):
        chosen = kernels.conv2d_algorithm(struct, precision, (9, 0), dtype=dtype)
        assert chosen == ("space_to_depth" if pays[dtype == bfloat16] else "implicit")
    assert kernels.conv2d_algorithm(struct, "fp32", (9, 0)) == "im2col"


def test_images_too_large_to_count_in_blocks_are_left_to_others() -> None:
    huge = shape((1, 20000, 20000, 5), (4, 2, 2, 5), 1, 19999, 19999)  # 2.0e9 values, and 3.2e9 in blocks of eight
    for stored_bfloat16 in (False, True):
        assert not huge.space_to_depth(stored_bfloat16)
        assert not huge.space_to_depth_pays(stored_bfloat16)
    with pytest.raises(ValueError, match=r"^space_to_depth_conv2d_forward: shape: this convolution cannot be "):
        CPU.space_to_depth_conv2d_forward(None, None, None, None, huge, CPU.Conv2dOptions(precision="tf32"), None)
