"""kernels.augment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from conftest import STORAGE, Runner
from hypothesis import given, strategies as st
from numpy.typing import DTypeLike

from alexnet_cuda import kernels


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(0, 256, shape, np.uint8)


@STORAGE
@given(
    N=st.integers(1, 4),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    margin=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    noisy=st.booleans(),
    scale=st.sampled_from([1.0, 1 / 64, 1 / 1.1, (1 / 64, 1 / 60, 1 / 70)]),
    seed=st.integers(0, 9),
)
def test_any_crop(
    run: Runner,
    dtype: DTypeLike,
    N: int,
    size: tuple[int, int],
    margin: tuple[int, int],
    noisy: bool,
    scale: float | tuple[float, ...],
    seed: int,
) -> None:
    stored = tuple(np.add(size, margin))
    x, mean = images(N, *stored, 3), 120 + 20 * reference.random(*stored, 3, seed=seed)
    rng = np.random.default_rng(seed)
    crops = rng.integers(0, [margin[0] + 1, margin[1] + 1, 2], (N, 3)).astype(np.int32)
    noise = 30 * reference.random(N, 3, seed=seed) if noisy else None
    expected = reference.augment(x, size, mean.astype(np.float64), crops, noise, np.array(scale))
    most = (x.max() + abs(mean).max() + (abs(noise).max() if noisy else 0)) * np.max(scale)
    # two sums, the scale as float32 and the product with it
    actual = run(kernels.augment, x, size, mean, crops, noise, scale=scale, dtype=dtype)
    reference.assert_close(actual, expected, reference.rounding_error(most, 4), dtype)


def test_sizes_of_the_paper(run: Runner) -> None:
    x, mean = images(3, 256, 256, 3), np.full((256, 256, 3), 100, np.float32)
    crops = np.array([[0, 0, 0], [32, 32, 1], [16, 7, 1]], np.int32)
    y = run(kernels.augment, x, (224, 224), mean, crops)
    np.testing.assert_array_equal(y[0], x[0, :224, :224].astype(np.float32) - 100)
    np.testing.assert_array_equal(y[1], x[1, 32:, 32:][:, ::-1].astype(np.float32) - 100)
    np.testing.assert_array_equal(y[2], x[2, 16:240, 7:231][:, ::-1].astype(np.float32) - 100)


CALL: dict[str, Any] = {
    "x": np.zeros((2, 6, 5, 3), np.uint8), "size": (4, 4), "mean": np.zeros((6, 5, 3), np.float32),
    "crops": np.zeros((2, 3), np.int32), "noise": None, "scale": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"x": np.zeros((2, 6, 5, 3), np.float32)}, TypeError, "x: expected dtype uint8, got float32"),
        ({"x": np.zeros((2, 6, 5, 4), np.uint8)}, ValueError, "x: expected .* shape"),
        ({"size": (7, 4)}, ValueError, r"size: expected at most \(6, 5\), that of x, got \(7, 4\)"),
        ({"mean": np.zeros((6, 6, 3), np.float32)}, ValueError, "mean: expected .* shape"),
        ({"crops": np.zeros((1, 3), np.int32)}, ValueError, "crops: expected .* shape"),
        ({"crops": np.array([[0, 0, 0], [3, 0, 0]], np.int32)}, ValueError, "crops: expected .* to \\(2, 1, 1\\)"),
        ({"crops": np.array([[0, 0, 0], [0, -1, 0]], np.int32)}, ValueError, "crops: expected"),
        ({"crops": np.array([[0, 0, 0], [0, 0, 2]], np.int32)}, ValueError, "crops: expected"),
        ({"noise": np.zeros((2, 4), np.float32)}, ValueError, "noise: expected .* shape"),
        ({"dtype": np.float16}, TypeError, "dtype: expected float32 or bfloat16"),
        ({"scale": (1.0, 2.0)}, ValueError, "scale: expected a number or three, got 2"),
        ({"scale": (1.0, 2.0, float("inf"))}, ValueError, "scale: expected a number"),
        ({"scale": float("nan")}, ValueError, "scale: expected a number"),
    ],
)
def test_bad_input(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    assert kernels.augment(**CALL).shape == (2, 4, 4, 3)
    with pytest.raises(error, match=f"augment: {message}"):
        kernels.augment(**{**CALL, **wrong})
