"""Data sets, decoding of odd files, and the loader, against images made on the fly."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from alexnet_cuda.data import ArrayDataset, DataError, FolderDataset, Loader, mean_image, open_data
from alexnet_cuda.data.dataset import held_out, with_margin
from alexnet_cuda.data.folder import decode

RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (128, 128, 128)


def save_image(path: Path, colour: tuple[int, int, int] = GREY, size: tuple[int, int] = (48, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train: cat 3, dog 4, fox 2 images; val: fox 1, cat 2."""
    for part, counts in (("train", {"cat": 3, "dog": 4, "fox": 2}), ("val", {"fox": 1, "cat": 2})):
        for label, (name, count) in enumerate(counts.items()):
            for i in range(count):
                save_image(tmp_path / part / name / f"{i}.png", (60 * label, 10 * i, 0))
    return tmp_path


# ---- digits


def test_digits_are_divided_within_each_class_and_always_alike() -> None:
    pytest.importorskip("sklearn")
    data = open_data("digits", 32, 32)
    assert len(data.train) + len(data.test) == 1797
    assert len(data.test) == pytest.approx(0.2 * 1797, abs=5)
    images, labels, _ = data.train.load(np.arange(len(data.train)))
    test_images, test_labels, _ = data.test.load(np.arange(len(data.test)))
    assert images.shape[1:] == (36, 36, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert_allclose(np.bincount(test_labels), 0.25 * np.bincount(labels), atol=1)
    assert_array_equal(open_data("digits", 32, 32).test.load(np.arange(len(data.test)))[0], test_images)
    assert "not by writer" in data.split
    assert not data.mirrored


def test_digits_lie_on_a_black_margin() -> None:
    pytest.importorskip("sklearn")
    images, _, _ = open_data("digits", 32, 32).train.load(np.arange(1438))
    inside = images[:, 2:-2, 2:-2]
    assert images.astype(int).sum() == inside.astype(int).sum()
    assert inside.max() > 240
    assert_array_equal(images[..., 0], images[..., 2])


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install 'alexnet-cuda\[digits\]'"):
        open_data("digits", 32, 32)


def test_held_out_takes_its_share_of_each_class() -> None:
    labels = np.repeat(np.arange(4, dtype=np.int32), [50, 10, 2, 1])
    train, test = held_out(labels)
    assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(63))
    assert_array_equal(np.bincount(labels[test], minlength=4), [10, 2, 1, 0])


@pytest.mark.parametrize(("n", "stored"), [(224, 256), (227, 259), (32, 36), (1, 1)])
def test_margin_is_in_proportion_to_the_papers(n: int, stored: int) -> None:
    assert with_margin(n) == stored


# ---- folders


def test_folder_with_train_and_val(folder: Path) -> None:
    data = open_data(f"folder:{folder}", 32, 32)
    assert data.classes == ("cat", "dog", "fox")
    assert (len(data.train), len(data.test)) == (9, 3)
    _, labels, _ = data.train.load(np.arange(9))
    assert_array_equal(labels, [0, 0, 0, 1, 1, 1, 1, 2, 2])
    images, labels, _ = data.test.load(np.array([2, 0]))
    assert_array_equal(labels, [2, 0])
    assert_array_equal(images[:, 0, 0], [[0, 0, 0], [60, 0, 0]])
    assert images.shape == (2, 36, 36, 3)


def test_folder_of_classes_has_a_share_held_out(folder: Path) -> None:
    data = open_data(f"folder:{folder / 'train'}", 32, 32)
    assert (len(data.train), len(data.test)) == (6, 3)
    together = [path for part in (data.train, data.test) for path in part.files]  # type: ignore[attr-defined]
    assert len(set(together)) == 9
    assert "held out" in data.split


def test_hidden_folders_and_other_files_are_not_classes(folder: Path) -> None:
    save_image(folder / "train" / ".checkpoints" / "a.png")
    (folder / "train" / "notes.txt").write_text("notes")
    (folder / "train" / "cat" / "notes.txt").write_text("notes")
    assert open_data(f"folder:{folder}", 32, 32).classes == ("cat", "dog", "fox")


def test_images_are_found_below_class_folders_whatever_the_case_of_their_suffix(folder: Path) -> None:
    save_image(folder / "train" / "cat" / "more" / "1.JPG")
    assert len(open_data(f"folder:{folder}", 32, 32).train) == 10


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("folder:{}/none", "none: no such folder"),
        ("folder:{}/train/cat/0.png", "expected a folder, this is a file"),
        ("folder:{}/empty", "no folders with JPEG, PNG, WebP or BMP images"),
        ("folder:{}/train/cat", "no folders with JPEG, PNG, WebP or BMP images"),
        ("folder:{}/one", "two or more classes, got only 'cat'"),
        ("folder:{}/gap", "dog: no JPEG, PNG, WebP or BMP image in this class"),
        ("folder:{}/surplus", "surplus/val: no folder in .*surplus/train for 'wolf'"),
        ("folder:{}/single", "two images in some class"),
        ("folder", "needs the path of a folder"),
        ("{}", "did you mean folder:"),
        ("digits:/tmp", "digits takes no path"),
        ("digts", "did you mean digits?"),
        ("foldr:/tmp", "did you mean folder?"),
    ],
)
def test_bad_sources_are_one_clear_line(folder: Path, source: str, message: str) -> None:
    (folder / "empty").mkdir()
    save_image(folder / "one" / "cat" / "0.png")
    save_image(folder / "gap" / "cat" / "0.png")
    (folder / "gap" / "dog").mkdir()
    for name in ("train/cat", "train/dog", "val/cat", "val/wolf"):
        save_image(folder / "surplus" / name / "0.png")
    for name in ("cat", "dog"):
        save_image(folder / "single" / name / "0.png")
    with pytest.raises(DataError, match=message) as error:
        open_data(source.format(folder), 32, 32)
    assert "\n" not in str(error.value)


# ---- decoding


def test_decoding_covers_the_size_and_keeps_the_centre(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 20), RED)
    image.paste(BLUE, (20, 0, 40, 20))
    image.save(tmp_path / "wide.bmp")
    pixels = decode(tmp_path / "wide.bmp", (10, 10))
    assert_array_equal(pixels[:, 1:-1], np.broadcast_to(BLUE, (10, 8, 3)))  # scaling blurs what it meets at the cut


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 40), RED)
    image.paste(BLUE, (0, 0, 20, 40))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: left becomes top
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    pixels = decode(tmp_path / "turned.jpg", (40, 40)).astype(int)
    assert_allclose(pixels[:16], np.broadcast_to(BLUE, (16, 40, 3)), atol=6)
    assert_allclose(pixels[24:], np.broadcast_to(RED, (16, 40, 3)), atol=6)


def transparent_palette() -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, *RED] + [0] * 762)
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("image", "suffix", "colour"),
    [
        (Image.new("L", (8, 8), 77), "png", (77, 77, 77)),
        (Image.new("L", (8, 8), 77), "jpg", (77, 77, 77)),
        (Image.new("1", (8, 8), 1), "png", (255, 255, 255)),
        (Image.new("I;16", (8, 8), 77 * 256 + 9), "png", (77, 77, 77)),
        (Image.new("RGB", (8, 8), RED).quantize(4), "png", RED),
        (transparent_palette(), "png", (255, 255, 255)),
        (Image.new("LA", (8, 8), (10, 0)), "png", (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (*RED, 0)), "png", (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (*RED, 255)), "webp", RED),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "png", (127, 127, 127)),
        (Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "jpg", (255, 255, 255)),
        (Image.new("RGB", (1, 1), RED), "bmp", RED),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "mode", None),
)
def test_odd_images_become_rgb(tmp_path: Path, image: Image.Image, suffix: str, colour: tuple[int, int, int]) -> None:
    path = tmp_path / f"image.{suffix}"
    image.save(path, lossless=True)
    assert_allclose(decode(path, (12, 12)), np.broadcast_to(colour, (12, 12, 3)), atol=1)


def noisy_jpeg(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path.read_bytes()


def test_unreadable_files_are_left_out_and_named(tmp_path: Path) -> None:
    whole = noisy_jpeg(tmp_path / "a" / "0 whole.jpg")
    half = whole[: len(whole) // 2]
    contents = {"1 cut.jpg": half, "2 empty.png": b"", "3 text.webp": b"no image", "4 gone.bmp": None}
    for name, content in contents.items():
        if content is not None:
            (tmp_path / "a" / name).write_bytes(content)
    files = [tmp_path / "a" / name for name in ("0 whole.jpg", *contents)]
    data = FolderDataset(files, np.arange(5, dtype=np.int32), ["a"], (16, 16))
    for _ in range(2):
        images, labels, places = data.load(np.array([4, 1, 0, 2, 0, 3]))
        assert_array_equal(labels, [0, 0])
        assert_array_equal(places, [2, 4])
        assert_array_equal(images[0], decode(files[0], (16, 16)))
    assert {Path(path).name for path in data.unreadable} == set(contents)
    assert "truncated" in data.unreadable[str(files[1])]
    assert all(reason and "\n" not in reason for reason in data.unreadable.values())


def test_a_cut_in_a_file_of_any_format_is_noticed(tmp_path: Path) -> None:
    whole = noisy_jpeg(tmp_path / "0.jpg")
    for place in np.linspace(1, len(whole) - 64, 23).astype(int):
        (tmp_path / "cut.jpg").write_bytes(whole[:place])
        with pytest.raises(OSError):  # noqa: PT011 (Pillow has one for each place)
            decode(tmp_path / "cut.jpg", (64, 64))


def test_decoded_images_are_kept(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", RED)
    data = FolderDataset([path], np.zeros(1, np.int32), ["a"], (8, 8))
    first, _, _ = data.load(np.array([0]))
    path.unlink()
    again, _, _ = data.load(np.array([0]))
    assert_array_equal(again, first)


# ---- mean image


def test_mean_image(rng: np.random.Generator) -> None:
    data = random_images(rng, 300)
    assert_allclose(mean_image(data), data.images.mean(axis=0), rtol=1e-6)
    sample = np.linspace(0, 299, 7).astype(int)
    assert_allclose(mean_image(data, most=7), data.images[sample].mean(axis=0), rtol=1e-6)


def test_mean_image_of_nothing_readable_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    data = FolderDataset([tmp_path / "a.png"], np.zeros(1, np.int32), ["a"], (8, 8))
    with pytest.raises(DataError, match=r"none of the images can be read; .*a\.png: cannot identify"):
        mean_image(data)


# ---- loader


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def random_images(rng: np.random.Generator, count: int, size: int = 10) -> ArrayDataset:
    """Images which the label, their number, names."""
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    return ArrayDataset(images, np.arange(count, dtype=np.int32), [str(i) for i in range(count)])


def crops(data: ArrayDataset, mean: np.ndarray, number: int, size: int, mirrored: bool) -> list[np.ndarray]:
    whole = data.images[number].astype(np.float64) - mean
    margin = whole.shape[0] - size
    found = [whole[t : t + size, s : s + size] for t in range(margin + 1) for s in range(margin + 1)]
    return found + [crop[:, ::-1] for crop in found] if mirrored else found


@pytest.mark.parametrize("mirrored", [False, True])
def test_training_shows_each_image_once_cut_at_random_without_its_mean(
    rng: np.random.Generator, mirrored: bool
) -> None:
    data, mean = random_images(rng, 60), rng.random((10, 10, 3), np.float32) * 255
    loader = Loader(data, (8, 8), 20, mean, scale=0.5, mirrored=mirrored, seed=3)
    seen, used = [], set()
    for number, batch in loader.training(epoch=0):
        assert batch.images.shape == (20, 8, 8, 3)
        assert batch.images.dtype == np.float32
        assert number == len(seen) // 20
        for image, label in zip(batch.images, batch.labels, strict=True):
            candidates = crops(data, mean, label, 8, mirrored)
            errors = [np.abs(2 * image - crop).max() for crop in candidates]
            used.add(int(np.argmin(errors)))
            assert_allclose(2 * image, candidates[int(np.argmin(errors))], atol=1e-3)
            seen.append(label)
    assert sorted(seen) == list(range(60))
    assert len(used) > (9 if mirrored else 6)


def test_order_is_a_function_of_seed_and_epoch_and_can_be_entered_anywhere(rng: np.random.Generator) -> None:
    data, mean = random_images(rng, 50), np.zeros((10, 10, 3), np.float32)

    def epoch(seed: int, number: int, start: int = 0) -> list[tuple[int, np.ndarray]]:
        loader = Loader(data, (8, 8), 8, mean, mirrored=True, seed=seed)
        return [(n, batch.images) for n, batch in loader.training(number, start)]

    first = epoch(1, 1)
    assert [n for n, _ in first] == list(range(6))
    for (n, images), (again, same) in zip(first[4:], epoch(1, 1, start=4), strict=True):
        assert n == again
        assert_array_equal(images, same)
    assert epoch(1, 1, start=6) == []
    assert not np.array_equal(first[0][1], epoch(1, 2)[0][1])
    assert not np.array_equal(first[0][1], epoch(2, 1)[0][1])


def test_training_leaves_out_a_part_of_a_batch_but_takes_a_set_smaller_than_one(rng: np.random.Generator) -> None:
    mean = np.zeros((10, 10, 3), np.float32)
    loader = Loader(random_images(rng, 21), (10, 10), 8, mean)
    assert len(loader) == 2
    assert [len(batch.labels) for _, batch in loader.training(0)] == [8, 8]
    loader = Loader(random_images(rng, 5), (10, 10), 8, mean)
    assert [len(batch.labels) for _, batch in loader.training(0)] == [5]


def test_evaluation_shows_the_centre_of_all_images_in_order(rng: np.random.Generator) -> None:
    data, mean = random_images(rng, 21), rng.random((10, 10, 3), np.float32) * 255
    batches = list(Loader(data, (8, 6), 8, mean, scale=2, mirrored=True).evaluation())
    assert [len(batch.labels) for batch in batches] == [8, 8, 5]
    assert_array_equal(np.concatenate([batch.labels for batch in batches]), np.arange(21))
    expected = 2 * (data.images.astype(np.float64) - mean)[:, 1:9, 2:8]
    assert_allclose(np.concatenate([batch.images for batch in batches]), expected, rtol=1e-5, atol=1e-4)


class Gaps(ArrayDataset):
    """Images of which some cannot be read."""

    unreadable: Mapping[str, str] = {"gap": "made for the test"}

    def load(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        places = np.flatnonzero(~np.isin(indices, (0, 1, 2, 3, 5)))
        return self.images[indices[places]], self.labels[indices[places]], places


def test_unreadable_images_make_batches_smaller_or_none(rng: np.random.Generator) -> None:
    full = random_images(rng, 12)
    data, mean = Gaps(full.images, full.labels, full.classes), np.zeros((10, 10, 3), np.float32)
    loader = Loader(data, (8, 8), 4, mean, mirrored=True)
    batches = list(loader.evaluation())
    assert [list(batch.labels) for batch in batches] == [[4, 6, 7], [8, 9, 10, 11]]
    complete = Loader(full, (8, 8), 4, mean, mirrored=True).training(0)
    whole = {label: image for _, batch in complete for image, label in zip(*batch, strict=True)}
    for _, batch in loader.training(0):
        for image, label in zip(*batch, strict=True):
            assert_array_equal(image, whole[label])


def test_an_error_while_loading_reaches_the_caller(rng: np.random.Generator) -> None:
    class Broken(ArrayDataset):
        def load(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            raise RuntimeError("broken on purpose")

    full = random_images(rng, 12)
    loader = Loader(Broken(full.images, full.labels, full.classes), (8, 8), 4, np.zeros((10, 10, 3), np.float32))
    with pytest.raises(RuntimeError, match="broken on purpose"):
        next(loader.training(0))


def test_batches_are_made_ahead_and_no_further_once_nobody_asks(rng: np.random.Generator) -> None:
    class Counted(ArrayDataset):
        loads = 0
        third = threading.Event()

        def load(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            self.loads += 1
            if self.loads == 3:
                self.third.set()
            return super().load(indices)

    full = random_images(rng, 40)
    data = Counted(full.images, full.labels, full.classes)
    batches = Loader(data, (8, 8), 4, np.zeros((10, 10, 3), np.float32)).training(0)
    next(batches)
    assert data.third.wait(timeout=10)
    batches.close()  # type: ignore[attr-defined]
    assert data.loads <= 4
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())
