"""kernels.augment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from conftest import STORAGE, Runner
from hypothesis import example, given, strategies as st
from numpy.typing import DTypeLike
from PIL import Image

from alexnet_cuda import kernels
from alexnet_cuda.data import Augmentation


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


def drawn_maps(n: int, stored: tuple[int, int], size: tuple[int, int], area: float, turn: float) -> np.ndarray:
    """Of crops of down to that area and turned up to that angle, half of them mirrored."""
    rng = np.random.default_rng((n, *stored, *size))
    wanted = Augmentation(crop_area=area, rotation=turn)
    crops = rng.integers(0, [stored[0] - size[0] + 1, stored[1] - size[1] + 1, 2], (n, 3)).astype(np.int32)
    return wanted.maps(rng, crops, stored, size)


def sampling_error(maps: np.ndarray, x: np.ndarray, mean: np.ndarray, contrast: float) -> float:
    """Places are sums of three products of up to the image's sides, rounded in float32, along the columns by way of the
    slope, which is at most 1; a value's slope is at most twice its range a pixel. Two filters of a few pixels each are
    sums whose weights are quotients."""
    most = float(x.max()) + abs(mean).max()
    shape, places = np.array(x.shape[1:3]), abs(maps).max() + 2 * max(x.shape[1:3])
    taps = 2 * float(np.ceil(2 * abs(maps[:, :, 1:]).sum(axis=2)).max() + 2)
    assert shape.max() <= places
    return contrast * most * (2 * 2 * reference.rounding_error(places, 6) + reference.rounding_error(1, 2 * taps + 6))


@STORAGE
@given(
    N=st.integers(1, 3),
    size=st.tuples(st.integers(1, 24), st.integers(1, 40)),
    margin=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    area=st.sampled_from([1.0, 0.5, 0.1]),
    turn=st.sampled_from([0.0, 10.0, 45.0]),
    toned=st.booleans(),
    mixed=st.booleans(),
    scale=st.sampled_from([1.0, 1 / 64, (1 / 64, 1 / 60, 1 / 70)]),
)
@example(N=2, size=(2, 3), margin=(60, 59), area=0.9, turn=0.0, toned=False, mixed=False, scale=1.0)
@example(N=2, size=(3, 2), margin=(60, 66), area=0.9, turn=30.0, toned=True, mixed=True, scale=1.0)
@example(N=1, size=(1, 1), margin=(0, 0), area=1.0, turn=45.0, toned=False, mixed=False, scale=1.0)
@example(N=1, size=(1, 1), margin=(9, 5), area=1.0, turn=45.0, toned=False, mixed=False, scale=1.0)
def test_any_map_tone_and_mixture(
    run: Runner,
    dtype: DTypeLike,
    N: int,
    size: tuple[int, int],
    margin: tuple[int, int],
    area: float,
    turn: float,
    toned: bool,
    mixed: bool,
    scale: float | tuple[float, ...],
) -> None:
    stored = size[0] + margin[0], size[1] + margin[1]
    rng = np.random.default_rng((N, *stored))
    x, mean = images(N, *stored, 3), 120 + 20 * reference.random(*stored, 3)
    noise = 30 * reference.random(N, 3)
    tones = np.stack([rng.uniform(0.5, 1.5, N), rng.uniform(-50, 50, N)], 1).astype(np.float32) if toned else None
    mix = rng.random(N).astype(np.float32) if mixed else None
    maps = drawn_maps(N, stored, size, area, turn)
    expected = reference.augment(x, size, mean.astype(np.float64), maps, noise, np.array(scale), tones, mix)
    most = 1.5 * (x.max() + abs(mean).max()) + abs(noise).max() + 50
    error = np.max(scale) * (sampling_error(maps, x, mean, 1.5) + reference.rounding_error(most, 10))
    actual = run(kernels.augment, x, size, mean, maps, noise, scale=scale, dtype=dtype, tones=tones, mix=mix)
    reference.assert_close(actual, expected, error, dtype)


@STORAGE
@given(N=st.integers(1, 5), toned=st.booleans(), noisy=st.booleans())
def test_tones_and_mixtures_of_crops(run: Runner, dtype: DTypeLike, N: int, toned: bool, noisy: bool) -> None:
    x, mean = images(N, 9, 11, 3), 120 + 20 * reference.random(9, 11, 3)
    rng = np.random.default_rng(N)
    crops = rng.integers(0, [3, 4, 2], (N, 3)).astype(np.int32)
    noise = 30 * reference.random(N, 3) if noisy else None
    tones = np.stack([rng.uniform(0.5, 1.5, N), rng.uniform(-50, 50, N)], 1).astype(np.float32) if toned else None
    mix = rng.random(N).astype(np.float32)
    expected = reference.augment(x, (7, 8), mean.astype(np.float64), crops, noise, 0.5, tones, mix)
    most = 0.5 * (1.5 * (x.max() + abs(mean).max()) + 150)
    actual = run(kernels.augment, x, (7, 8), mean, crops, noise, scale=0.5, dtype=dtype, tones=tones, mix=mix)
    reference.assert_close(actual, expected, reference.rounding_error(most, 10), dtype)


@STORAGE
def test_maps_that_move_by_whole_pixels_are_crops_to_the_bit(run: Runner, dtype: DTypeLike) -> None:
    x, mean = images(4, 12, 14, 3), 120 + 20 * reference.random(12, 14, 3)
    crops = np.array([[0, 0, 0], [3, 4, 1], [2, 1, 0], [1, 3, 1]], np.int32)
    maps = Augmentation(rotation=1e-30).maps(np.random.default_rng(0), crops, (12, 14), (9, 10))
    maps[:, 0, 2] = maps[:, 1, 1] = 0
    cut = run(kernels.augment, x, (9, 10), mean, crops, dtype=dtype)
    np.testing.assert_array_equal(run(kernels.augment, x, (9, 10), mean, maps, dtype=dtype), cut)


@pytest.mark.parametrize("size", [(5, 4), (13, 21), (30, 30)], ids=str)
def test_a_resized_crop_is_that_of_pillow(run: Runner, size: tuple[int, int]) -> None:
    x, mean = images(1, 30, 33, 3), np.full((30, 33, 3), 128, np.float32)
    for top, left, high, wide in [(0, 0, 30, 33), (2.25, 4.5, 20.5, 25.75), (11, 3, 5, 4)]:
        down, right = high / size[0], wide / size[1]
        maps = np.array([[[top - 0.5 + down / 2, down, 0], [left - 0.5 + right / 2, 0, right]]], np.float32)
        y = run(kernels.augment, x, size, mean, maps)[0]
        for c in range(3):
            channel = Image.fromarray(x[0, :, :, c].astype(np.float32) - 128)
            box = (left, top, left + wide, top + high)
            theirs = np.asarray(channel.resize(size[::-1], Image.Resampling.BILINEAR, box))
            # places up to 33, rounded a few times, where values change by up to 255 a pixel; two filters
            error = 2 * 255 * reference.rounding_error(33, 6) + reference.rounding_error(255, 40)
            reference.assert_close(y[:, :, c], theirs.astype(np.float64), error)


def test_one_image_does_not_see_another(run: Runner) -> None:
    """But for its neighbour's, its bits are the same whatever the others are."""
    x, mean = images(6, 20, 22, 3), 120 + 20 * reference.random(20, 22, 3)
    maps, mix = drawn_maps(6, (20, 22), (16, 17), 0.3, 20), np.linspace(0, 1, 6, dtype=np.float32)
    whole = run(kernels.augment, x, (16, 17), mean, maps, mix=mix)
    for first in (0, 2, 4):
        pair = slice(first, first + 2)
        alone = run(kernels.augment, x[pair], (16, 17), mean, maps[pair], mix=mix[pair])
        np.testing.assert_array_equal(alone, whole[pair])


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
        ({"scale": (1.0, 2.0)}, TypeError, r"scale: expected a number or three, got \(1.0, 2.0\)"),
        ({"scale": (1.0, 2.0, float("inf"))}, ValueError, "scale: expected a number"),
        ({"scale": float("nan")}, ValueError, "scale: expected a number"),
        ({"crops": np.ones((2, 2, 3))}, TypeError, "crops: expected dtype float32, got float64"),
        ({"crops": np.ones((2, 3, 2), np.float32)}, ValueError, "maps: expected .* shape"),
        ({"crops": np.zeros((2, 2, 3), np.float32)}, ValueError, "crops: expected finite maps whose .* is not 0"),
        ({"crops": np.full((2, 2, 3), np.inf, np.float32)}, ValueError, "crops: expected finite maps"),
        ({"tones": np.zeros((2, 3), np.float32)}, ValueError, "tones: expected .* shape"),
        ({"mix": np.zeros(3, np.float32)}, ValueError, "mix: expected .* shape"),
        ({"mix": np.array([0, 1.5], np.float32)}, ValueError, r"mix: expected numbers in \[0, 1\]"),
        ({"mix": np.array([0, np.nan], np.float32)}, ValueError, r"mix: expected numbers in \[0, 1\]"),
    ],
)
def test_bad_input(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    assert kernels.augment(**CALL).shape == (2, 4, 4, 3)
    with pytest.raises(error, match=f"augment(_by_maps)?: {message}"):
        kernels.augment(**{**CALL, **wrong})


def test_rows_that_are_too_long_to_be_sampled() -> None:
    wide = {"x": np.zeros((1, 1, 4090, 3), np.uint8), "mean": np.zeros((1, 4090, 3), np.float32), "size": (1, 7)}
    with pytest.raises(ValueError, match="augment_by_maps: x: expected rows of at most 4096 pixels"):
        kernels.augment(**wide, crops=np.ones((1, 2, 3), np.float32))
