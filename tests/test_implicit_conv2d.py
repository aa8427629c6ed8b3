"""kernels.conv2d on tensor cores, against float64 convolutions of operands rounded as the kernel does; and "auto"."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, settings, strategies as st
from ml_dtypes import bfloat16
from test_conv2d import Case, cases

from alexnet_cuda import Tensor, backend, kernels, nn

PRECISIONS = pytest.mark.parametrize("precision", ["tf32", "bf16"])
PRODUCTS = pytest.mark.parametrize("product", reference.PRODUCTS)
CHANNELS = st.one_of(  # groups, channels and filters of a group: copied by fours or eights, or value by value
    st.tuples(st.integers(1, 3), st.sampled_from([4, 8, 16, 20]), st.sampled_from([4, 8, 12])),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 9)),
    st.sampled_from([(1, 4, 68), (1, 3, 65), (2, 36, 4), (1, 128, 4)]),
)
LAYERS = {
    # windows of AlexNet's layers, fewer channels and pixels
    "conv1": Case((1, 39, 35, 3), (70, 11, 11, 3), (4, 4), ceil=True),
    "conv2": Case((1, 12, 11, 16), (32, 5, 5, 8), padding=((2, 2), (2, 2)), groups=2),
    "conv3": Case((2, 7, 7, 32), (132, 3, 3, 32), padding=((1, 1), (1, 1))),
    "one pixel a filter": Case((3, 3, 3, 12), (20, 3, 3, 12)),
    "1x1 filters": Case((2, 9, 8, 36), (68, 1, 1, 36)),
    "stride above the window": Case((2, 11, 10, 4), (8, 2, 2, 4), (3, 4), ((1, 0), (0, 2))),
    "depthwise": Case((2, 5, 6, 12), (12, 3, 3, 1), padding=((1, 1), (1, 1)), groups=12),
    "filters larger than the image": Case((1, 2, 3, 4), (8, 5, 4, 4), padding=((3, 0), (0, 2))),
    "wide tiles of channels": Case((1, 5, 4, 128), (8, 3, 3, 128), padding=((1, 1), (1, 1))),
    "many pixels": Case((2, 15, 14, 4), (8, 3, 3, 4), padding=((1, 1), (1, 1))),
}


@settings(max_examples=15)
@given(
    case=cases(6, CHANNELS),
    with_bias=st.booleans(),
    relu=st.booleans(),
    product=st.sampled_from(list(reference.PRODUCTS)),
)
def test_forward(run: Runner, case: Case, with_bias: bool, relu: bool, product: str) -> None:
    check_forward(run, case, with_bias, relu, product)


@settings(max_examples=15)
@given(case=cases(6, CHANNELS), product=st.sampled_from(list(reference.PRODUCTS)))
def test_backward(run: Runner, case: Case, product: str) -> None:
    check_backward(run, case, product)


@PRODUCTS
@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
def test_layers(run: Runner, case: Case, product: str) -> None:
    check_forward(run, case, True, True, product)
    check_backward(run, case, product)


def options(product: str) -> dict[str, Any]:
    return {"precision": reference.PRODUCTS[product], "algorithm": "implicit"}


@PRODUCTS
def test_long_sums_of_one_sign(run: Runner, product: str) -> None:
    """What tensor cores cut off adds up."""
    check_forward(run, Case((1, 4, 4, 384), (8, 3, 3, 384)), False, False, product, one_sign=True)


def check_forward(run: Runner, case: Case, with_bias: bool, relu: bool, product: str, one_sign: bool = False) -> None:
    x, w, b = map(abs, case.arguments()) if one_sign else case.arguments()
    x, b = reference.stored(x, product), b if with_bias else np.zeros_like(b)
    arrays = [reference.rounded(x, product), reference.rounded(w, product), b.astype(np.float64)]
    windows = (case.stride, case.padding, case.groups, case.ceil)
    expected = reference.conv2d(*arrays, *windows)
    magnitude = reference.conv2d(*map(abs, arrays), *windows)
    y = run(kernels.conv2d, x, w, b if with_bias else None, relu=relu, **options(product), **case.windows)
    error = reference.tensor_core_error(magnitude, math.prod(case.w[1:]) + 1, one_sign)
    reference.assert_close(y, reference.relu(expected) if relu else expected, error, x.dtype)


def check_backward(run: Runner, case: Case, product: str) -> None:
    x, w, _ = case.arguments()
    dy, x = (reference.stored(array, product) for array in (reference.random(*case.y, seed=4), x))
    arrays = [reference.rounded(array, product) for array in (dy, x, w)]
    windows = (case.stride, case.padding, case.groups, case.ceil)
    mask = reference.mask(*case.x, dtype=x.dtype)
    (dx, dw, _), (dx_magnitude, dw_magnitude, _) = (
        reference.conv2d_backward(*arrays, *windows),
        reference.conv2d_backward(*map(abs, arrays), *windows),
    )
    actual = run(kernels.conv2d_backward, dy, x, w, mask=mask, **options(product), **case.windows)
    K, KH, KW, _ = case.w
    error = reference.tensor_core_error(reference.masked(dx_magnitude, mask), KH * KW * K // case.groups)
    reference.assert_close(actual[0], reference.masked(dx, mask), error, x.dtype)
    pixels = math.prod(case.y[:3])
    reference.assert_close(actual[1], dw, reference.tensor_core_error(dw_magnitude, pixels))
    dy64 = dy.astype(np.float64)  # the sums of the bias's gradient have no products to round for
    error = reference.rounding_error(abs(dy64).sum((0, 1, 2)), pixels)
    reference.assert_close(actual[2], dy64.sum((0, 1, 2)), error)


@PRECISIONS
def test_near_the_exact_convolution(run: Runner, precision: str) -> None:
    case = LAYERS["conv2"]
    x, w, b = case.arguments()
    dy = reference.random(*case.y, seed=4)
    x64, w64, b64, dy64 = (array.astype(np.float64) for array in (x, w, b, dy))
    windows = (case.stride, case.padding, case.groups, case.ceil)
    y = run(kernels.conv2d, x, w, b, precision=precision, **case.windows)
    reference.assert_near(y, reference.conv2d(x64, w64, b64, *windows), precision)
    exact = reference.conv2d_backward(dy64, x64, w64, *windows)
    for gradient, expected in zip(
        run(kernels.conv2d_backward, dy, x, w, precision=precision, **case.windows), exact, strict=True
    ):
        reference.assert_near(gradient, expected, precision)


@PRECISIONS
def test_groups_are_separate_convolutions(run: Runner, precision: str) -> None:
    x, w = reference.random(2, 7, 6, 8), reference.random(12, 3, 3, 4)
    y = run(kernels.conv2d, x, w, padding=1, groups=2, precision=precision)
    for g, k in ((0, np.s_[:6]), (1, np.s_[6:])):
        channels = np.ascontiguousarray(x[..., 4 * g : 4 * g + 4])
        alone = run(kernels.conv2d, channels, w[k], padding=1, precision=precision)
        np.testing.assert_array_equal(y[..., k], alone)


@PRECISIONS
def test_layer_has_a_precision(precision: str) -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=2, activation="relu", precision=precision)
    x = Tensor(reference.random(2, 5, 4, 8), requires_grad=True)
    y = layer(x)
    windows: dict[str, Any] = {"padding": 1, "groups": 2, "precision": precision}
    np.testing.assert_array_equal(y.numpy(), kernels.conv2d(x.data, layer.w.data, layer.b.data, relu=True, **windows))
    dy = reference.random(2, 5, 4, 8)
    y.backward(dy)
    dy, db = kernels.bias_relu_backward(dy, y.data)
    dx, dw, _ = kernels.conv2d_backward(dy, x.data, layer.w.data, **windows)
    for gradient, array in zip((x.grad, layer.w.grad, layer.b.grad), (dx, dw, db), strict=True):
        np.testing.assert_array_equal(gradient, array)
    assert nn.Conv2d(4, 4, 3).precision == "fp32"


# ---- what "auto" is

ALEXNET = {  # one tower and two: image, filters, stride, padding, groups
    f"{name}-{groups}": ((1, H, H, C), (K, size, size, C // groups), stride, padding, groups)
    for name, H, C, K, size, stride, padding, split in (
        ("conv1", 227, 3, 96, 11, 4, 0, 1),
        ("conv2", 27, 96, 256, 5, 1, 2, 2),
        ("conv3", 13, 256, 384, 3, 1, 1, 1),
        ("conv4", 13, 384, 384, 3, 1, 1, 2),
        ("conv5", 13, 384, 256, 3, 1, 1, 2),
    )
    for groups in {1, split}
}


class Recorder:
    """A native module that launches nothing and keeps the names of what it was asked for."""

    def __init__(self, native: Any) -> None:
        self.Conv2d, self.Conv2dOptions = native.Conv2d, native.Conv2dOptions
        self.launched: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.endswith("_workspace"):
            self.launched.append(name)
        return lambda *_: 0


@pytest.mark.parametrize("capability", [None, (8, 0), (8, 6), (9, 0), (10, 0)])
@pytest.mark.parametrize(
    ("precision", "dtype", "prefix"),
    [
        ("fp32", np.float32, ""),
        ("tf32", np.float32, "implicit_"),
        ("bf16", np.float32, "implicit_"),
        ("bf16", bfloat16, "implicit_"),
    ],
)
@pytest.mark.parametrize("layer", ALEXNET)
def test_auto(
    monkeypatch: pytest.MonkeyPatch,
    layer: str,
    precision: Any,
    dtype: Any,
    prefix: str,
    capability: tuple[int, int] | None,
) -> None:
    image, filters, stride, padding, groups = ALEXNET[layer]
    native = Recorder(backend.native(backend.Device("cpu")))
    monkeypatch.setattr(backend, "native", lambda device: native)
    monkeypatch.setattr(backend, "capability", lambda device: capability)
    x, w = np.zeros(image, dtype), np.zeros(filters, dtype)
    windows: dict[str, Any] = {"stride": stride, "padding": padding, "groups": groups, "precision": precision}
    y = kernels.conv2d(x, w, **windows)
    kernels.conv2d_backward(y, x, w, needs=(True, True, False), **windows)
    if precision == "fp32" and capability is None and layer != "conv1-1":
        prefix = "winograd_"
    if precision != "fp32" and layer == "conv1-1":
        prefix = "space_to_depth_"
    assert native.launched == [f"{prefix}conv2d_{p}" for p in ("forward", "backward_input", "backward_weight")]


SHAPE = backend.native(backend.Device("cpu")).Conv2d(
    N=1, H=227, W=227, C=3, K=96, KH=11, KW=11, groups=1, stride_h=4, stride_w=4, pad_top=0, pad_left=0, OH=55, OW=55
)


@pytest.mark.parametrize(
    ("precision", "capability", "algorithm", "message"),
    [
        ("fp16", (9, 0), "auto", "precision: expected 'fp32', 'tf32' or 'bf16', got 'fp16'"),
        (None, None, "auto", "precision: expected 'fp32', 'tf32' or 'bf16', got None"),
        (
            "fp32",
            (9, 0),
            "fft",
            "algorithm: expected 'auto', 'im2col', 'winograd', 'implicit', 'space_to_depth' or 'hopper', got 'fft'",
        ),
        (
            "fp32",
            (9, 0),
            "implicit",
            "algorithm: expected 'im2col' or 'winograd' for precision 'fp32' and compute capability 9.0, "
            "got 'implicit'",
        ),
        (
            "tf32",
            (8, 0),
            "hopper",
            "algorithm: expected 'implicit' or 'space_to_depth' for precision 'tf32' and compute capability 8.0, "
            "got 'hopper'",
        ),
        (
            "bf16",
            (10, 0),
            "hopper",
            "algorithm: expected 'implicit' or 'space_to_depth' for precision 'bf16' and compute capability 10.0, "
            "got 'hopper'",
        ),
        (
            "bf16",
            None,
            "im2col",
            "algorithm: expected 'implicit', 'space_to_depth' or 'hopper' for precision 'bf16' on a CPU, got 'im2col'",
        ),
        ("tf32", (7, 5), "auto", "precision: 'tf32' is expected of compute capability 8.0 on, got 7.5"),
    ],
)
def test_refusals(precision: Any, capability: tuple[int, int] | None, algorithm: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^conv2d: {message}$"):
        kernels.conv2d_algorithm(SHAPE, precision, capability, algorithm)


def test_algorithms_that_are_asked_for() -> None:
    x, w = reference.random(1, 5, 5, 4), reference.random(4, 3, 3, 4)
    for precision, algorithm in (("fp32", "im2col"), ("tf32", "implicit")):
        expected = kernels.conv2d(x, w, precision=precision)
        np.testing.assert_array_equal(kernels.conv2d(x, w, precision=precision, algorithm=algorithm), expected)
