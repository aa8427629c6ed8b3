"""What is drawn for images: ``data.Augmentation``, and what ``Loader`` makes of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from alexnet_cuda.data import ArrayDataset, Augmentation, Batch, Loader

COUNT = 400


def corners(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, 2, 2, 2): rows and columns of the stored image at the outer edges of a crop's corners, whole numbers being
    the edges of its pixels."""
    h, w = size
    places = np.array([[(1, y - 0.5, x - 0.5) for x in (0, w)] for y in (0, h)])
    return np.einsum("nij,hwj->nhwi", maps.astype(np.float64), places) + 0.5


@given(
    stored=st.tuples(st.integers(8, 60), st.integers(8, 60)),
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    area=st.sampled_from([0.05, 0.5, 0.99]),
    aspect=st.sampled_from([1.0, 4 / 3, 10.0]),
    seed=st.integers(0, 9),
)
def test_resized_crops_lie_in_the_image_and_have_area_and_aspect(
    stored: tuple[int, int], size: tuple[int, int], area: float, aspect: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    crops = np.stack([np.zeros(50), np.zeros(50), np.arange(50) % 2], 1).astype(np.int32)
    maps = Augmentation(crop_area=area, crop_aspect=aspect).maps(rng, crops, stored, size)
    assert maps.dtype == np.float32 and maps.shape == (50, 2, 3)
    at = corners(maps, size)
    assert (at > -1e-3).all() and (at < np.array(stored) + 1e-3).all()
    assert_array_equal(at[:, 0, 0, 1] > at[:, 0, 1, 1], crops[:, 2] == 1)
    high, wide = at[:, 1, 0, 0] - at[:, 0, 0, 0], abs(at[:, 0, 1, 1] - at[:, 0, 0, 1])
    shares = high * wide / math.prod(stored)
    assert (shares > area - 1e-4).all() and (shares < 1 + 1e-4).all()
    ratio = (wide / high) / (size[1] / size[0])
    touching = np.isclose(high, stored[0], atol=1e-3) | np.isclose(wide, stored[1], atol=1e-3)
    within = (ratio < aspect * 1.001) & (ratio > 0.999 / aspect)
    assert (within | touching).all()


def test_what_is_drawn_is_drawn_evenly() -> None:
    rng, crops = np.random.default_rng(0), np.zeros((4000, 3), np.int32)
    stored = size = (40, 40)
    at = corners(Augmentation(crop_area=0.2).maps(rng, crops, stored, size), size)
    high, wide = at[:, 1, 0, 0] - at[:, 0, 0, 0], at[:, 0, 1, 1] - at[:, 0, 0, 1]
    counts, _ = np.histogram(high * wide / 1600, 4, (0.2, 1))
    assert counts.tolist() == pytest.approx([1000] * 4, abs=120)
    small = high * wide < 0.5 * 1600  # whose aspect no edge has changed
    ratios = np.log((wide / high)[small]) / math.log(4 / 3)
    counts, _ = np.histogram(ratios, 4, (-1, 1))
    assert counts.tolist() == pytest.approx([small.sum() / 4] * 4, rel=0.25)
    room = at[small, 0, 0] / (40 - np.stack([high, wide], 1)[small])
    assert np.histogram(room, 4, (0, 1))[0].tolist() == pytest.approx([small.sum() / 2] * 4, rel=0.15)
    tones = Augmentation(brightness=0.2, contrast=0.4).tones(rng, 4000)
    for column, low, high_end in ((0, 0.6, 1.4), (1, -51, 51)):
        counts, _ = np.histogram(tones[:, column], 4, (low, high_end))
        assert counts.sum() == 4000 and counts.tolist() == pytest.approx([1000] * 4, abs=120)


def test_rotation_is_around_the_crops_middle() -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, (9, 5, 2), (COUNT, 3)).astype(np.int32)
    maps = Augmentation(rotation=30).maps(rng, crops, (28, 26), (20, 22))
    middle = corners(maps, (20, 22)).mean(axis=(1, 2))
    assert_allclose(middle, crops[:, :2] + (10, 11), atol=1e-4)
    down, right = maps[:, :, 1], maps[:, :, 2] * np.where(crops[:, 2], -1, 1)[:, None]
    assert_allclose(np.linalg.norm(down, axis=1), 1, atol=1e-5)
    assert_allclose(right, np.stack([-down[:, 1], down[:, 0]], 1), atol=1e-6)  # right angles, nothing sheared
    angles = np.degrees(np.arctan2(right[:, 0], right[:, 1]))
    assert -30 <= angles.min() < -25 and 25 < angles.max() <= 30
    assert np.histogram(angles, 4, (-30, 30))[0].tolist() == pytest.approx([COUNT / 4] * 4, abs=35)


def test_without_rotation_and_resizing_a_map_is_the_crop() -> None:
    crops = np.array([[0, 0, 0], [3, 5, 0], [3, 5, 1]], np.int32)
    maps = Augmentation().maps(np.random.default_rng(0), crops, (12, 14), (9, 8))
    assert_array_equal(maps, [[[0, 1, 0], [0, 0, 1]], [[3, 1, 0], [5, 0, 1]], [[3, 1, 0], [12, 0, -1]]])


@pytest.mark.parametrize(
    ("wanted", "stored", "size", "images", "message"),
    [
        (Augmentation(crop_area=1e-4), (36, 36), (32, 32), 2, "crop_area, crop_aspect: crops of 0.0001 of 36x36"),
        (Augmentation(crop_area=0.01, crop_aspect=30), (36, 36), (32, 32), 2, "one side 30 times longer, leave"),
        (Augmentation(rotation=5), (8, 4090), (8, 7), 2, "expected rows of at most 4096 pixels, .* got 4090 and 7"),
        (Augmentation(mixup=0.2), (36, 36), (32, 32), 3, "mixup: expected an even number .* got 3"),
    ],
)
def test_what_leaves_nothing_is_refused(
    wanted: Augmentation, stored: tuple[int, int], size: tuple[int, int], images: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        wanted.check(stored, size, images)
    Augmentation().check(stored, size, images)


# ---- the loader

EVERYTHING = Augmentation(crop_area=0.5, rotation=20, brightness=0.2, contrast=0.3, mixup=0.4)


def data() -> ArrayDataset:
    rng = np.random.default_rng(0)
    return ArrayDataset(rng.integers(0, 256, (23, 9, 10, 3), np.uint8), np.arange(23, dtype=np.int32), list("abc" * 8))


def epoch(wanted: Augmentation | None, number: int = 0, start: int = 0, seed: int = 3, **more: Any) -> list[Batch]:
    loader = Loader(data(), (8, 8), 5, True, seed=seed, augmentation=wanted, **more)
    return [batch._replace(images=batch.images.copy()) for _, batch in loader.training(number, start)]


def same(some: list[Batch], others: list[Batch]) -> bool:
    return all(
        np.array_equal(a, b) if a is not None else b is None
        for one, other in zip(some, others, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_draws_are_a_function_of_seed_and_epoch_and_can_be_entered_anywhere() -> None:
    whole = epoch(EVERYTHING)
    for start in range(4):
        assert same(epoch(EVERYTHING, start=start), whole[start:])
    assert not same(epoch(EVERYTHING, number=1), whole)
    assert not same(epoch(EVERYTHING, seed=4), whole)


def test_order_crops_and_noise_are_those_without_augmentation() -> None:
    plain, toned = epoch(None, colour=np.eye(3)), epoch(Augmentation(contrast=0.1, mixup=1), colour=np.eye(3))
    for one, other in zip(plain, toned, strict=True):
        assert same([one], [other._replace(tones=None, mix=None, others=None)])
        assert one.tones is None and one.mix is None and one.others is None


def test_neighbours_are_those_of_a_pair_and_the_last_is_its_own() -> None:
    for batch in epoch(EVERYTHING):
        a, b, c, d, e = batch.labels
        assert batch.others is not None and batch.others.tolist() == [b, a, d, c, e]
        assert batch.mix is not None and batch.mix.dtype == np.float32
        assert (batch.mix >= 0).all() and (batch.mix <= 1).all()
        part = batch.rows(slice(2, 5))
        assert part.others is not None and part.others.tolist() == [d, c, e]


def test_evaluation_knows_of_none_of_it() -> None:
    plain, augmented = (list(Loader(data(), (8, 8), 5, augmentation=a).evaluation()) for a in (None, EVERYTHING))
    assert same([b._replace(images=b.labels) for b in plain], [b._replace(images=b.labels) for b in augmented])
    assert all(batch.tones is None and batch.mix is None and batch.crops.dtype == np.int32 for batch in augmented)
