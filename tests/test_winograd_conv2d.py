"""kernels.conv2d with fewer products, against float64 and beside plain convolution; when it is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, settings, strategies as st
from test_conv2d import Case

from alexnet_cuda import backend, kernels, models, nn, recipe
from alexnet_cuda.data import ArrayDataset, Data
from alexnet_cuda.models.layers import Conv2d
from alexnet_cuda.trainer import Trainer


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Outputs of less than a tile (4 pixels for filters of 3, 3 for those of 5), of one, and of some more."""
    size = draw(st.sampled_from([3, 5]))
    padding = draw(st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 2))
    output = draw(st.tuples(st.integers(1, 11), st.integers(1, 11)))
    image = tuple(max(1, n + size - 1 - sum(pad)) for n, pad in zip(output, padding, strict=True))
    groups = draw(st.integers(1, 3))
    channels = draw(st.sampled_from([1, 3, 16, 17, 32]))
    filters = draw(st.sampled_from([1, 2, 5, 16, 40]))
    x = draw(st.integers(1, 3)), *image, groups * channels
    return Case(x, (groups * filters, size, size, channels), padding=padding, groups=groups)


def errors(run: Runner, case: Case, algorithm: str) -> list[tuple[float, float]]:
    """Of y, dx, dw and db against float64: the error's norm over the value's, the largest over the largest value."""
    x, w, b = case.arguments()
    dy = reference.random(*case.y, seed=4)
    arrays = [array.astype(np.float64) for array in (x, w, b, dy)]
    windows = (case.stride, case.padding, case.groups, case.ceil)
    expected = [reference.conv2d(*arrays[:3], *windows)]
    expected += reference.conv2d_backward(arrays[3], *arrays[:2], *windows)
    actual = [run(kernels.conv2d, x, w, b, algorithm=algorithm, **case.windows)]
    actual += run(kernels.conv2d_backward, dy, x, w, algorithm=algorithm, **case.windows)
    pairs = list(zip(actual, expected, strict=True))
    assert all(got.shape == oracle.shape and np.isfinite(got).all() for got, oracle in pairs)
    return [
        (np.linalg.norm(got - oracle) / np.linalg.norm(oracle), abs(got - oracle).max() / abs(oracle).max())
        for got, oracle in pairs
    ]


@settings(max_examples=40)
@given(case=cases())
def test_any_shape(run_gemm: Runner, case: Case) -> None:
    for norm, largest in errors(run_gemm, case, "winograd"):
        assert norm < 1e-5
        assert largest < 2e-5


@given(case=cases())
def test_mask(run: Runner, case: Case) -> None:
    x, w, _ = case.arguments()
    dy, mask = reference.random(*case.y, seed=4), reference.mask(*case.x)
    plain = run(kernels.conv2d_backward, dy, x, w, algorithm="winograd", **case.windows)
    masked = run(kernels.conv2d_backward, dy, x, w, algorithm="winograd", mask=mask, **case.windows)
    np.testing.assert_array_equal(masked[0], run(kernels.relu_backward, plain[0], mask))


LAYERS = {
    # windows and channels of AlexNet's layers, one image; small images are more tiles than one task has
    "conv2": Case((1, 27, 27, 96), (64, 5, 5, 96), padding=((2, 2), (2, 2))),
    "conv2 in two towers": Case((1, 27, 27, 96), (64, 5, 5, 48), padding=((2, 2), (2, 2)), groups=2),
    "conv3": Case((1, 13, 13, 256), (96, 3, 3, 256), padding=((1, 1), (1, 1))),
    "small images": Case((3, 16, 16, 32), (32, 5, 5, 32), padding=((2, 2), (2, 2))),
    "conv4 in two towers": Case((1, 13, 13, 384), (64, 3, 3, 192), padding=((1, 1), (1, 1)), groups=2),
}


@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
def test_layers(run: Runner, case: Case) -> None:
    """Within the 1e-5 that float32 products are allowed, and about ten times the error of plain convolution."""
    for (norm, largest), (plain, _) in zip(errors(run, case, "winograd"), errors(run, case, "im2col"), strict=True):
        assert norm < 1e-5 and largest < 2e-5
        assert norm < 25 * plain


def test_relu(run: Runner) -> None:
    x, w, b = LAYERS["conv2"].arguments()
    plain, positive = (
        run(kernels.conv2d, x, w, b, padding=2, algorithm="winograd", relu=relu) for relu in (False, True)
    )
    np.testing.assert_array_equal(positive, np.maximum(plain, 0))
    assert (positive == 0).mean() > 0.2


def test_a_batch_in_slices(run: Runner) -> None:
    """So many tiles that they are made in several slices."""
    for norm, largest in errors(run, Case((40, 13, 13, 64), (64, 3, 3, 64), padding=((1, 1), (1, 1))), "winograd"):
        assert norm < 1e-5 and largest < 2e-5


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("alexnet-single", {"conv2", "conv3", "conv4", "conv5"}),
        ("alexnet", {"conv2", "conv3", "conv4", "conv5"}),
        ("alexnet-mini", {"conv3", "conv4", "conv5"}),
        ("alexnet-slim", {"conv2", "conv3", "conv4", "conv5"}),
        ("cifar-80sec", {"conv2", "conv3"}),
    ],
)
def test_chosen_on_a_cpu(model: str, expected: set[str]) -> None:
    chosen = {}
    for row in models.get(model).rows():
        if isinstance(layer := row.layer, Conv2d):
            K, KH, KW, _ = row.filter or ()
            N, (H, W, C), (OH, OW, _) = 1, row.input, row.output
            stride, pad = layer.stride, layer.padding
            windows = {"stride_h": stride, "stride_w": stride, "pad_top": pad, "pad_left": pad}
            sizes = {"N": N, "H": H, "W": W, "C": C, "K": K, "KH": KH, "KW": KW, "OH": OH, "OW": OW}
            shape = backend.native(backend.Device("cpu")).Conv2d(groups=layer.groups, **windows, **sizes)
            chosen[layer.name] = kernels.conv2d_algorithm(shape, "fp32", None)
            assert kernels.conv2d_algorithm(shape, "fp32", (9, 0)) == "im2col"
            expected_bf16 = "space_to_depth" if C == 3 else "implicit"
            assert kernels.conv2d_algorithm(shape, "bf16", (9, 0)) == expected_bf16
    assert {name for name, algorithm in chosen.items() if algorithm == "winograd"} == expected
    assert set(chosen.values()) <= {"winograd", "im2col"}


@pytest.mark.parametrize(
    ("filters", "options", "message"),
    [
        ((4, 1, 1, 4), {}, "'winograd' expects filters of 3x3 or 5x5 at stride 1, got 1x1 at stride 1x1"),
        ((4, 3, 5, 4), {}, "'winograd' expects filters of 3x3 or 5x5 at stride 1, got 3x5 at stride 1x1"),
        (
            (4, 3, 3, 4),
            {"stride": (1, 2)},
            "'winograd' expects filters of 3x3 or 5x5 at stride 1, got 3x3 at stride 1x2",
        ),
        (
            (4, 3, 3, 4),
            {"precision": "bf16"},
            "expected 'implicit', 'space_to_depth' or 'hopper' for precision 'bf16' on a CPU, got 'winograd'",
        ),
    ],
)
def test_refusals(filters: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    x, w = np.ones((1, 6, 6, 4), np.float32), np.ones(filters, np.float32)
    with pytest.raises(ValueError, match=f"^conv2d: algorithm: {message}$"):
        kernels.conv2d(x, w, algorithm="winograd", **options)


def test_launchers_refuse_too() -> None:
    native = backend.native(backend.Device("cpu"))
    windows = {"stride_h": 1, "stride_w": 1, "pad_top": 0, "pad_left": 0, "groups": 1}
    shape = native.Conv2d(N=1, H=4, W=4, C=1, K=1, KH=4, KW=4, OH=1, OW=1, **windows)
    options = native.Conv2dOptions(precision="fp32")
    x, w, y = (np.zeros(s, np.float32) for s in ((1, 4, 4, 1), (1, 4, 4, 1), (1, 1, 1, 1)))
    with pytest.raises(ValueError, match="winograd_conv2d_forward: shape: this convolution cannot be computed so"):
        native.winograd_conv2d_forward(y, x, w, None, shape, options, np.zeros(1 << 16, np.uint8))


def test_a_recipe_can_turn_it_off() -> None:
    images = ArrayDataset(np.zeros((32, 32, 32, 3), np.uint8), np.zeros(32, np.int32), ["a", "b"])
    for winograd, algorithm in ((True, "auto"), (False, "im2col")):
        made = recipe.change(recipe.load("alexnet-mini"), {"winograd": winograd}, "test")
        trainer = Trainer.of(made, Data(images, images, "", False), "cpu")
        layers = [module for module in trainer.model.modules() if isinstance(module, nn.Conv2d)]
        assert len(layers) == 5 and {layer.algorithm for layer in layers} == {algorithm}
