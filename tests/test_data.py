"""Data sets, decoding of odd files, and the loader, against images made on the fly."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from alexnet_cuda.data import (
    ArrayDataset,
    Batch,
    DataError,
    FileDataset,
    Loader,
    colour_pca,
    mean_image,
    open_data,
    ten_views,
)
from alexnet_cuda.data.cifar10 import CLASSES
from alexnet_cuda.data.dataset import held_out, with_margin
from alexnet_cuda.data.folder import decode
from alexnet_cuda.data.listing import listing, open_file

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
    together = [path for part in (data.train, data.test) for path in part.files]
    assert len(set(together)) == 9
    assert "held out" in data.split


def test_test_stands_for_val(folder: Path) -> None:
    (folder / "val").rename(folder / "test")
    data = open_data(f"folder:{folder}", 32, 32)
    assert (len(data.train), len(data.test)) == (9, 3)
    assert "train and test divide them" in data.split


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("training", "testing"),
        ("train", "valid"),
        ("Training", "Validation"),
        ("train", "dev"),
        ("training_set", "test_set"),
        ("train2017", "val2017"),
        ("Train Images", "Test-Images"),
        ("seg_train", "seg_test"),
        ("pets-Training", "pets-Valid"),
    ],
)
def test_parts_by_their_other_names(folder: Path, train: str, test: str) -> None:
    (folder / "train").rename(folder / "aside")
    (folder / "val").rename(folder / test)
    (folder / "aside").rename(folder / train)
    for kind in ("folder", "imagenet"):
        data = open_data(f"{kind}:{folder}", 32, 32)
        assert data.classes == ("cat", "dog", "fox")
        assert (len(data.train), len(data.test)) == (9, 3)
        assert data.split.endswith(f"as its folders {train} and {test} divide them")


@pytest.mark.parametrize(
    ("images", "held_out", "told"),
    [
        (["val/cat/0", "test/cat/0"], 0, "train and val divide them; test is left alone"),
        (["test/0", "test/1"], 3, "at random; test is left alone, its images lie in no class folders"),
        (["test/images/0"], 3, "at random; test is left alone, its images lie in no class folders"),
        (["Val/cat/0", "Test/0"], 0, "train and Val divide them; Test is left alone"),
        (["val/notes/", "test/dog/0"], 0, "train and test divide them"),
        (["val/notes/"], 3, "at random; val is left alone, it holds no images"),
    ],
)
def test_a_part_that_is_not_used_is_told(folder: Path, images: list[str], held_out: int, told: str) -> None:
    shutil.rmtree(folder / "val")
    for name in images:
        if name.endswith("/"):
            (folder / name).mkdir(parents=True)
        else:
            save_image(folder / f"{name}.png")
    data = open_data(f"folder:{folder}", 32, 32)
    assert told in data.split
    assert len(data.train) == 9 - held_out
    assert len(data.test) == (held_out or 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["train/0", "test/0"], "train: no folders with"),
        (["Train/0", "test1/0"], "Train: no folders with"),
        (["train/a/0", "train/b/0", "val/0"], "val: expected a folder of images for each class, or .* in val.txt"),
        (["train/a/0", "train/b/0", "Train/a/0"], "both Train and train can be its part train; expected one of them"),
        (["val/a/0", "test/a/0", "val/b/0"], "no folder train beside test; .*/test takes the folders in it as classes"),
    ],
)
def test_parts_that_do_not_fit_are_one_clear_line(tmp_path: Path, images: list[str], message: str) -> None:
    for name in images:
        save_image(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match=message) as error:
        open_data(f"folder:{tmp_path}", 32, 32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("places", "told"),
    [
        (
            ["seg_train/seg_train", "seg_test/seg_test", "seg_pred/seg_pred"],
            "seg_train and seg_test divide them; seg_pred is left alone",
        ),  # Intel's
        (
            ["x/train", "x/test", "x/x/train"],
            "train and test divide them; x is left alone",
        ),  # the chest X-rays', with a copy in it
        (["x/y/train", "x/y/test"], "train and test divide them"),
        (["train/data/images", "test"], "train and test divide them"),
        (["train", "val", "test"], "train and val divide them; test is left alone"),
        (["my train", "my val", "other test"], "my train and my val divide them; other test is left alone"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "imagenet"])
def test_parts_in_folders_around(tmp_path: Path, kind: str, places: list[str], told: str) -> None:
    for place, count in zip(places, (3, 2, 1), strict=False):
        for name in ("cat", "dog"):
            for i in range(count):
                save_image(tmp_path / "set" / place / name / f"{i}.png")
    for path in (tmp_path / "set", tmp_path, zipped(tmp_path / "set", tmp_path / "set.zip")):
        data = open_data(f"{kind}:{path}", 32, 32)
        assert data.classes == ("cat", "dog")
        assert (len(data.train), len(data.test)) == (6, 4)
        assert data.split.endswith(f"as its folders {told}")


def test_classes_that_begin_alike_are_no_parts(tmp_path: Path) -> None:
    for name in ("steam train", "toy train", "toy test car"):
        for i in range(2):
            save_image(tmp_path / name / f"{i}.png")
    assert open_data(f"folder:{tmp_path}", 32, 32).classes == ("steam train", "toy test car", "toy train")


def test_a_class_that_folders_lie_in_is_one(folder: Path) -> None:
    shutil.rmtree(folder / "val")
    save_image(folder / "val" / "cat" / "more" / "0.png")
    data = open_data(f"folder:{folder}", 32, 32)
    assert_array_equal(data.test.labels, [0])


def test_a_train_among_other_vehicles_is_a_class(tmp_path: Path) -> None:
    for name in ("bus", "train", "Training bike"):
        for i in range(2):
            save_image(tmp_path / name / f"{i}.png")
    assert open_data(f"folder:{tmp_path}", 32, 32).classes == ("Training bike", "bus", "train")


def test_without_division_class_folders_are_all_to_test_on(folder: Path) -> None:
    for kind in ("folder", "imagenet"):
        data = open_data(f"{kind}:{folder / 'train'}", 32, 32, divide=False)
        assert (len(data.train), len(data.test)) == (9, 9)
        assert "none is held out" in data.split
        assert len(open_data(f"{kind}:{folder}", 32, 32, divide=False).test) == 3


def test_without_margin_images_have_the_size_that_the_network_sees(folder: Path) -> None:
    assert open_data(f"folder:{folder}", 32, 24, margin=False).train.size == (32, 24)


def test_links_are_followed_but_not_in_circles(folder: Path) -> None:
    (folder / "train" / "wolf").symlink_to(folder / "train" / "dog", target_is_directory=True)
    (folder / "train" / "cat" / "again").symlink_to(folder, target_is_directory=True)
    data = open_data(f"folder:{folder}", 32, 32)
    assert data.classes == ("cat", "dog", "fox", "wolf")
    assert len(data.train) == 9 + 4


def test_other_files_and_classes_without_images_are_told_once(folder: Path) -> None:
    for name in ("cat/a.HEIC", "dog/b.heic", "dog/more/notes.txt", "fox/README", "ant/labels.csv"):
        (folder / "train" / name).parent.mkdir(exist_ok=True)
        (folder / "train" / name).write_text("no image")
    save_image(folder / "train" / "0.png")
    (folder / "val" / "owl").mkdir()
    data = open_data(f"folder:{folder}", 32, 32)
    assert data.classes == ("ant", "cat", "dog", "fox")
    assert_array_equal(np.bincount(data.train.labels), [0, 3, 4, 2])
    assert_array_equal(data.test.labels, [1, 1, 3])
    left = "not read in train: 1 .csv, 2 .heic, 1 .txt, 1 beside the class folders, 1 without suffix"
    assert data.split.endswith(f"; no images in train of 'ant'; {left}; no images in val of 'owl'")
    data = open_data(f"folder:{folder / 'train'}", 32, 32)
    assert data.split.endswith(f"at random; no images in train of 'ant'; {left}")
    assert set(data.test.labels) == {1, 2, 3}


@pytest.mark.parametrize("suffix", ["gif", "tif", "tiff", "ppm", "pgm", "jfif", "jpe", "jp2", "dib", "tga", "ico"])
def test_images_of_all_usual_suffixes_are_read(tmp_path: Path, suffix: str) -> None:
    for label, level in (("black", 0), ("white", 255)):
        (tmp_path / label).mkdir()
        for name in (f"0.{suffix}", f"1.{suffix.upper()}"):
            Image.new("RGB", (32, 32), (level, level, level)).save(tmp_path / label / name)
    data = open_data(f"folder:{tmp_path}", 32, 32, margin=False)
    images, labels, _ = data.train.load(np.arange(2))
    assert_allclose(images[:, 5:-5, 5:-5], np.broadcast_to((255 * labels)[:, None, None, None], (2, 22, 22, 3)), atol=2)


def test_hidden_folders_and_other_files_are_not_classes(folder: Path) -> None:
    for name in (".checkpoints", "__MACOSX", "@eaDir", "cat/@eaDir/0.png"):
        save_image(folder / "train" / name / "a.png")
    (folder / "train" / "notes.txt").write_text("notes")
    (folder / "train" / "cat" / "notes.txt").write_text("notes")
    data = open_data(f"folder:{folder}", 32, 32)
    assert data.classes == ("cat", "dog", "fox")
    assert len(data.train) == 9


def test_images_are_found_below_class_folders_whatever_the_case_of_their_suffix(folder: Path) -> None:
    save_image(folder / "train" / "cat" / "more" / "1.JPG")
    assert len(open_data(f"folder:{folder}", 32, 32).train) == 10


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("folder:{}/none", "none: no such folder"),
        ("folder:{}/train/cat/0.png", "expected a folder, this is a file"),
        ("folder:{}/empty", "empty: no folders with images in it$"),
        ("folder:{}/train/cat", "no folders with images in it, only 3 beside the class folders$"),
        ("folder:{}/one", "two or more classes, got only 'cat'"),
        ("folder:{}/gap", "two or more classes, got only 'cat'; 'dog' without images"),
        ("folder:{}/surplus", "surplus/val: 'wolf' not among the 2 classes"),
        ("folder:{}/single", "two images in some class"),
        ("folder", "folder needs a path"),
        ("{}", "did you mean folder:"),
        ("digits:/tmp", "digits takes no path"),
        ("digts", "did you mean digits?"),
        ("foldr:/tmp", "did you mean folder?"),
        ("cifar:/tmp", "did you mean cifar10?"),
        ("cifar10", "cifar10 needs a path: cifar10:PATH"),
        ("imagenet:", "imagenet needs a path: imagenet:PATH"),
        ("packed", "packed needs a path: packed:PATH"),
        ("synthetic:many", "synthetic takes a number of classes, got 'many'"),
        ("synthetic:1", "at least 2 classes, got 1"),
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


# ---- archives


@pytest.mark.parametrize("around", ["", "data/", "repository-main/data/"])
@pytest.mark.parametrize("written", [str, lambda name: f"./{name}", lambda name: name.replace("/", "\\")])
def test_zips_as_all_programs_write_them(folder: Path, around: str, written: Callable[[str], str]) -> None:
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        if written(""):
            archive.writestr(written(""), "")
        for path in sorted(folder.rglob("*.png")):
            archive.writestr(written(around + str(path.relative_to(folder))), path.read_bytes())
        archive.writestr("README.txt" if written is str else written("__MACOSX/train/cat/._0.png"), "about")
    data = open_data(f"folder:{folder / 'a.zip'}", 32, 32)
    plain = open_data(f"folder:{folder}", 32, 32)
    assert data.classes == plain.classes
    for part, other in ((data.train, plain.train), (data.test, plain.test)):
        places = np.arange(len(other))
        for got, expected in zip(part.load(places), other.load(places), strict=True):
            assert_array_equal(got, expected)


@given(st.lists(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1), min_size=2, unique=True))
@settings(max_examples=30, deadline=None)
def test_names_in_zips_stay_what_they_are(names: list[str]) -> None:
    kept = [name for name in names if not name.startswith(".") and name not in ("__MACOSX", "@eaDir")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(f"a/{name}", name)
        found = listing(path)
        assert {name for name in found if not name.endswith("/")} == {f"a/{name}" for name in kept}
        for name in kept:
            with open_file(found[f"a/{name}"]) as file:
                assert file.read().decode() == name


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "tar.xz", "txz", "tar.bz2", "tbz2", "TAR.XZ"])
def test_tars_of_all_compressions(folder: Path, suffix: str) -> None:
    method = next((method for method in ("gz", "xz", "bz2") if suffix.lower().endswith(method)), "")
    with tarfile.open(f"{folder}.{suffix}", f"w:{method}") as archive:
        archive.add(folder, "./set")
    data = open_data(f"folder:{folder}.{suffix}", 32, 32)
    assert (len(data.train), len(data.test)) == (9, 3)
    whole = Path(f"{folder}.{suffix}").read_bytes()
    Path(f"{folder}.{suffix}").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(DataError, match="cannot be read: "):
        open_data(f"folder:{folder}.{suffix}", 32, 32)


def test_zstandard(folder: Path) -> None:
    """Of several frames, as programs write it that use all cores."""
    zstd = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    with tarfile.open(folder / "a.tar", "w") as archive:
        for part in ("train", "val"):
            archive.add(folder / part, part)
    whole, path = (folder / "a.tar").read_bytes(), folder / "a.tar.zst"
    frames = [zstd.compress(whole[i : i + 5000]) for i in range(0, len(whole), 5000)]
    path.write_bytes(b"".join(frames))
    data = open_data(f"folder:{path}", 32, 32)
    assert (len(data.train), len(data.test)) == (9, 3)
    images, _, _ = data.test.load(np.arange(3))
    assert_array_equal(images[:, 0, 0, 0], [60, 60, 0])
    path.write_bytes(b"".join(frames[:3]) + frames[3][:-5])
    with pytest.raises(DataError, match=r"a\.tar\.zst: cannot be read: "):
        open_data(f"folder:{path}", 32, 32)


def test_zstandard_without_what_reads_it_is_one_clear_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {name: method for name, method in tarfile.TarFile.OPEN_METH.items() if name != "zst"}
    monkeypatch.setattr(tarfile.TarFile, "OPEN_METH", methods)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    (folder / "a.tar.zst").write_bytes(b"(\xb5/\xfd")
    with pytest.raises(DataError, match=r"a\.tar\.zst: Zstandard needs .* pip install 'alexnet-cuda\[zstd\]'"):
        open_data(f"folder:{folder / 'a.tar.zst'}", 32, 32)


def test_links_in_tars_are_followed_but_not_in_circles(folder: Path) -> None:
    train = folder / "train"
    (train / "wolf").symlink_to("dog", target_is_directory=True)
    (train / "fox" / "linked.png").symlink_to("../cat/0.png")
    (train / "fox" / "again.png").symlink_to("linked.png")
    (train / "fox" / "broken.png").symlink_to("/elsewhere/0.png")
    (train / "fox" / "round.png").symlink_to("round.png")
    (train / "cat" / "around").symlink_to("..", target_is_directory=True)
    os.link(train / "cat" / "1.png", train / "fox" / "hard.png")
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.add(train, "train")
        archive.add(folder / "val", "val")
    data = open_data(f"folder:{folder / 'a.tar'}", 32, 32)
    assert data.classes == ("cat", "dog", "fox", "wolf")
    assert_array_equal(np.bincount(data.train.labels), [3, 4, 7, 4])
    images, labels, _ = data.train.load(np.arange(18))
    assert_array_equal(np.bincount(labels), [3, 4, 5, 4])
    colours = sorted(images[labels == 2][:, 5, 5].tolist())
    assert colours == [[0, 0, 0], [0, 0, 0], [0, 10, 0], [120, 0, 0], [120, 10, 0]]
    assert {Path(name).name: why for name, why in data.train.unreadable.items()} == {
        "broken.png": "a link to /elsewhere/0.png, which is not in the archive",
        "round.png": "a link to train/fox/round.png, which is not in the archive",
    }


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


def test_the_transparent_grey_of_16_bits_is_told_from_its_neighbours(tmp_path: Path) -> None:
    """As of 8 bits: the one grey that the file names is transparent, here on white."""
    greys = np.array([[77 * 256 + 9, 77 * 256 + 8]], np.uint16)
    Image.fromarray(greys).save(tmp_path / "a.png", transparency=77 * 256 + 9)
    assert_array_equal(decode(tmp_path / "a.png", (1, 2)), [[[255] * 3, [77] * 3]])


def test_pixels_without_a_known_white_are_refused(tmp_path: Path) -> None:
    Image.new("F", (8, 8), 0.5).save(tmp_path / "a.tiff")
    with pytest.raises(OSError, match="floating-point numbers"):
        decode(tmp_path / "a.tiff", (8, 8))


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
    data = FileDataset(files, np.arange(5, dtype=np.int32), ["a"], (16, 16))
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
    data = FileDataset([path], np.zeros(1, np.int32), ["a"], (8, 8))
    first, _, _ = data.load(np.array([0]))
    path.unlink()
    again, _, _ = data.load(np.array([0]))
    assert_array_equal(again, first)


# ---- CIFAR-10


def cifar_images(path: Path, train: int = 2, test: int = 1) -> Path:
    """Class folders in which an image's red is ten times the number of its class."""
    for part, count in (("train", train), ("test", test)):
        for label, name in enumerate(CLASSES):
            for i in range(count):
                save_image(path / part / name / f"{i:04}.png", (10 * label, i, 0), (32, 32))
    return path


def cifar_records(seed: int, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), np.uint8), rng.integers(0, 10, count)


BATCHES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def cifar_python(path: Path, protocol: int = 2) -> Path:
    path.mkdir(parents=True)
    for i, name in enumerate(BATCHES):
        planes, labels = cifar_records(i)
        content = {b"batch_label": b"made for a test", b"labels": labels.tolist(), b"data": planes}
        (path / name).write_bytes(pickle.dumps(content, protocol))
    return path


def python_2_batch(planes: np.ndarray, labels: np.ndarray) -> bytes:
    """A batch as Python 2 pickled the official ones."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K" + bytes([len(planes)]) + b"M\x00\x0c\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + planes.nbytes.to_bytes(4, "little") + planes.tobytes() + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x0bbatch_labelU\x04testU\x06labels" + numbers + b"U\x04data" + array + b"u."


def cifar_binary(path: Path) -> Path:
    path.mkdir(parents=True)
    for i, name in enumerate(BATCHES):
        planes, labels = cifar_records(i)
        records = np.concatenate([labels[:, None].astype(np.uint8), planes], axis=1)
        (path / f"{name}.bin").write_bytes(records.tobytes())
    return path


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, path.relative_to(folder))
    return archive


def tarred(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)
    return archive


def check_cifar_images(source: Path) -> None:
    data = open_data(f"cifar10:{source}", 32, 32)
    assert data.classes == CLASSES
    assert data.mirrored
    assert (len(data.train), len(data.test)) == (20, 10)
    images, labels, _ = data.train.load(np.arange(20))
    assert images.shape == (20, 32, 32, 3)
    assert_array_equal(images[:, 5, 5, 0], 10 * labels)
    assert_array_equal(labels, data.train.labels)
    assert_array_equal(np.bincount(labels), np.full(10, 2))


def check_cifar_records(source: Path) -> None:
    data = open_data(f"cifar10:{source}", 32, 32)
    assert (len(data.train), len(data.test)) == (20, 4)
    images, labels, _ = data.train.load(np.arange(20))
    for i in range(5):
        planes, numbers = cifar_records(i)
        assert_array_equal(labels[4 * i : 4 * i + 4], numbers)
        assert_array_equal(images[4 * i : 4 * i + 4].transpose(0, 3, 1, 2).reshape(4, -1), planes)


def test_cifar10_from_class_folders_and_archives_of_them(tmp_path: Path) -> None:
    folder = cifar_images(tmp_path / "cifar")
    check_cifar_images(folder)
    check_cifar_images(zipped(folder, tmp_path / "all.zip"))
    check_cifar_images(tarred(folder, tmp_path / "all.tar.gz"))
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "notes.zip").write_bytes(b"no archive, and not looked at")
    for part in ("train", "test"):
        with zipfile.ZipFile(parts / f"cifar10-{part}.zip", "w") as file:
            for path in sorted((folder / part).rglob("*.png")):
                file.write(path, path.relative_to(folder))
    check_cifar_images(parts)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("TRAINING", "valid"),
        ("cifar10_train", "cifar10_test"),
        ("train/train", "test"),
    ],
)
@pytest.mark.parametrize("renamed", [str, str.upper, lambda name: str(CLASSES.index(name))])
@pytest.mark.parametrize("around", [".", "cifar10", "a/b/CIFAR-10-images-master"])
def test_cifar10_in_folders_of_other_names(
    tmp_path: Path, around: str, renamed: Callable[[str], str], train: str, test: str
) -> None:
    made = cifar_images(tmp_path / "made")
    for part, to in (("train", train), ("test", test)):
        for name in CLASSES:
            place = tmp_path / "set" / around / to / renamed(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            (made / part / name).rename(place)
    check_cifar_images(tmp_path / "set")


def test_cifar10_with_validation_images_says_so(tmp_path: Path) -> None:
    folder = cifar_images(tmp_path / "cifar")
    shutil.copytree(folder / "test", folder / "val")
    check_cifar_images(folder)
    assert open_data(f"cifar10:{folder}", 32, 32).split.endswith("divide them; val is left alone")


@pytest.mark.parametrize("form", ["py", "bin"])
@pytest.mark.parametrize("around", ["", "data", "datasets/cifar-10-batches-py-target", "CIFAR/Data"])
def test_cifar10_batches_wherever_programs_put_them(tmp_path: Path, around: str, form: str) -> None:
    """The folder, one around it, the archive, one around that."""
    name = f"cifar-10-batches-{form}"
    folder = (cifar_python if form == "py" else cifar_binary)(tmp_path / "set" / around / name)
    check_cifar_records(folder)
    check_cifar_records(tmp_path / "set")
    check_cifar_records(zipped(tmp_path / "set", tmp_path / "set.zip"))
    kept = tmp_path / "kept" / around
    kept.mkdir(parents=True)
    check_cifar_records(tarred(folder, kept / "CIFAR-10.tar.gz"))
    check_cifar_records(tmp_path / "kept")


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar10_from_the_official_python_batches(tmp_path: Path, protocol: int) -> None:
    folder = cifar_python(tmp_path / "cifar-10-batches-py", protocol)
    check_cifar_records(folder)
    check_cifar_records(tmp_path)
    check_cifar_records(tarred(folder, tmp_path / "cifar-10-python.tar.gz"))


def test_cifar10_from_batches_that_python_2_has_pickled(tmp_path: Path) -> None:
    folder = cifar_python(tmp_path / "batches")
    for i, name in enumerate(BATCHES):
        (folder / name).write_bytes(python_2_batch(*cifar_records(i)))
    check_cifar_records(folder)


def test_cifar10_from_the_official_binary_batches(tmp_path: Path) -> None:
    folder = cifar_binary(tmp_path / "cifar-10-batches-bin")
    check_cifar_records(folder)
    check_cifar_records(tarred(folder, tmp_path / "cifar-10-binary.tar.gz"))


def test_smaller_networks_see_crops_of_cifar10_and_its_centre(tmp_path: Path) -> None:
    data = open_data(f"cifar10:{cifar_images(tmp_path)}", 24, 24)
    assert data.train.size == (32, 32)
    assert_array_equal(next(Loader(data.test, (24, 24), 4).evaluation()).crops, [[4, 4, 0]] * 4)


def test_no_code_in_a_pickle_is_run(tmp_path: Path) -> None:
    folder = cifar_python(tmp_path / "cifar")

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (folder / "run").write_text, ("",)

    for content in (
        pickle.dumps(Evil()),
        pickle.dumps({b"data": Evil(), b"labels": [0]}),
        b"cos\nsystem\n(S'true'\ntR.",
    ):
        (folder / "data_batch_3").write_bytes(content)
        with pytest.raises(
            DataError, match=r"data_batch_3: no batch of CIFAR-10: it asks for .*, which no batch needs"
        ):
            open_data(f"cifar10:{folder}", 32, 32)
        assert not (folder / "run").exists()


@settings(max_examples=50)
@given(data=st.data())
def test_damaged_cifar10_batches_never_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = cifar_python(tmp_path_factory.mktemp("cifar") / "batches")
    content = bytearray((folder / "test_batch").read_bytes())
    place = data.draw(st.one_of(st.integers(0, 200), st.integers(0, len(content) - 1)))
    content[place] = data.draw(st.integers(0, 255))
    (folder / "test_batch").write_bytes(content[: data.draw(st.integers(1, len(content)))])
    with contextlib.suppress(DataError):
        open_data(f"cifar10:{folder}", 32, 32)


def test_bad_cifar10_is_one_clear_line(tmp_path: Path) -> None:
    def refused(source: Path, message: str, size: int = 32) -> None:
        with pytest.raises(DataError, match=message) as error:
            open_data(f"cifar10:{source}", size, size)
        assert "\n" not in str(error.value)

    refused(tmp_path / "none", "none: no such folder")
    refused(tmp_path, "expected CIFAR-10: data_batch_1 to 5")
    (tmp_path / "cifar.zip").write_bytes(b"no archive")
    refused(tmp_path / "cifar.zip", r"cifar\.zip: cannot be read: File is not a zip file")
    (tmp_path / "cifar.tar.gz").write_bytes(b"no archive")
    refused(tmp_path / "cifar.tar.gz", r"cifar\.tar\.gz: cannot be read")
    binary = cifar_binary(tmp_path / "binary")
    (binary / "data_batch_4.bin").rename(binary / "away")
    refused(binary, "binary: no data_batch_4 beside the other batches")
    (binary / "data_batch_4.bin").write_bytes(bytes(3072))
    refused(binary, r"data_batch_4\.bin: expected records of 3,073 bytes, got 3,072")
    (binary / "data_batch_4.bin").write_bytes(b"\x0a" + bytes(3072))
    refused(binary, "expected labels from 0 to 9, got 10 to 10")
    images = cifar_images(tmp_path / "images")
    refused(images, "images of 32x32 pixels, 224x224 were asked for; folder:PATH", size=224)
    (images / "train" / "cat").rename(images / "train" / "cats")
    refused(images, "train: 'cats' not among the 10 classes; did you mean cat?")
    (images / "train" / "cats").rename(images / "cat")
    refused(images, "train: no images of cat")
    (images / "train" / "cat").mkdir()
    refused(images, "train: no images of cat")
    (images / "train" / "cat").rmdir()
    (images / "cat").rename(images / "train" / "cat")
    (images / "test").rename(images / "tset")
    refused(images, "expected the folders train and test, got no test")


def test_unreadable_cifar10_images_are_left_out_and_named(tmp_path: Path) -> None:
    broken = cifar_images(tmp_path) / "train" / "bird" / "0001.png"
    broken.write_bytes(b"")
    data = open_data(f"cifar10:{tmp_path}", 32, 32)
    assert len(data.train) == 19
    assert list(data.train.unreadable) == [str(broken)]


@pytest.mark.slow
def test_the_real_cifar10() -> None:
    path = os.environ.get("ALEXNET_CIFAR10")
    if not path:
        pytest.skip("ALEXNET_CIFAR10 does not name a folder or archive of CIFAR-10")
    data = open_data(f"cifar10:{path}", 32, 32)
    assert_array_equal(np.bincount(data.train.labels), np.full(10, 5000))
    assert_array_equal(np.bincount(data.test.labels), np.full(10, 1000))
    assert_allclose(mean_image(data.train, most=50_000).mean(axis=(0, 1)), [125.3, 123.0, 113.9], atol=0.5)


# ---- ImageNet


WNIDS = ("n01440764", "n01443537", "n01484850")


def imagenet(path: Path, flat: bool = False) -> Path:
    """Three classes, 2 images each to train on; 3 images in val, of the classes 2, 0, 1."""
    for label, wnid in enumerate(WNIDS):
        for i in range(2):
            save_image(path / "train" / wnid / f"{wnid}_{i}.JPEG", (80 * label, 0, 0))
    for number, label in enumerate((2, 0, 1), 1):
        folder = path / "val" if flat else path / "val" / WNIDS[label]
        save_image(folder / f"ILSVRC2012_val_{number:08}.JPEG", (80 * label, 0, 0))
    return path


def check_imagenet(path: Path, flat: bool) -> None:
    data = open_data(f"imagenet:{path}", 32, 32)
    assert data.classes == WNIDS
    assert (len(data.train), len(data.test)) == (6, 3)
    images, labels, _ = data.test.load(np.arange(3))
    assert_array_equal(labels, [2, 0, 1] if flat else [0, 1, 2])
    assert_allclose(images[:, 5, 5, 0], 80 * labels, atol=2)


def test_tiny_imagenet(tmp_path: Path) -> None:
    imagenet(tmp_path, flat=True)
    for wnid in WNIDS:
        for image in list((tmp_path / "train" / wnid).iterdir()):
            save_image(image.parent / "images" / image.name, Image.open(image).getpixel((0, 0)))
            image.unlink()
    (tmp_path / "val").rename(tmp_path / "images")
    (tmp_path / "val").mkdir()
    (tmp_path / "images").rename(tmp_path / "val" / "images")
    save_image(tmp_path / "test" / "images" / "test_0.JPEG")
    told = "".join(f"ILSVRC2012_val_{i:08}.JPEG\t{WNIDS[k]}\t0\t0\t62\t62\n" for i, k in enumerate((2, 0, 1), 1))
    (tmp_path / "val" / "val_annotations.txt").write_text(told)
    check_imagenet(tmp_path, flat=True)
    for kind in ("folder", "imagenet"):
        split = open_data(f"{kind}:{tmp_path}", 32, 32).split
        assert split.endswith("its folder val and val_annotations.txt divide them; test is left alone")


def test_imagenet_in_folders(tmp_path: Path) -> None:
    check_imagenet(imagenet(tmp_path / "in"), flat=False)
    check_imagenet(zipped(tmp_path / "in", tmp_path / "in.zip"), flat=False)
    check_imagenet(tarred(tmp_path / "in", tmp_path / "in.tar.gz"), flat=False)


@pytest.mark.parametrize(
    ("truth", "lines"),
    [
        ("val.txt", "ILSVRC2012_val_{:08}.JPEG {}"),
        ("val/val_map.txt", "ILSVRC2012_val_{:08}.JPEG {}"),
        ("val_map.txt", "val/ILSVRC2012_val_{:08}.JPEG\t{wnid}"),
        ("LOC_val_solution.csv", "ILSVRC2012_val_{:08},{wnid} 112 31 239 450"),
        ("val/val_annotations.txt", "ILSVRC2012_val_{:08}.JPEG\t{wnid}\t0\t32\t44\t62"),
    ],
)
def test_imagenet_with_a_flat_val_and_its_truth(tmp_path: Path, truth: str, lines: str) -> None:
    imagenet(tmp_path, flat=True)
    text = "".join(lines.format(i, label, wnid=WNIDS[label]) + "\n" for i, label in enumerate((2, 0, 1), 1))
    (tmp_path / truth).write_text("ImageId,PredictionString\n" + text if truth.endswith("csv") else text)
    check_imagenet(tmp_path, flat=True)
    for other in ("a.heic", "b.HEIC"):
        (tmp_path / "val" / other).write_text("no image")
    assert open_data(f"imagenet:{tmp_path}", 32, 32).split.endswith("divide them; not read in val: 2 .heic")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n"])
def test_imagenets_truth_as_text_files_are(tmp_path: Path, encoding: str, end: str) -> None:
    imagenet(tmp_path, flat=True)
    text = "".join(f"ILSVRC2012_val_{i:08}.JPEG {label}{end}" for i, label in enumerate((2, 0, 1), 1))
    (tmp_path / "val.txt").write_bytes((text + f"other_é {WNIDS[0]}{end}").encode(encoding))
    check_imagenet(tmp_path, flat=True)


@pytest.mark.parametrize(
    ("classes", "labels", "meant"),
    [
        (["1", "2", "3"], ["1", "2", "2"], ["1", "2", "2"]),
        (["0", "1", "2"], ["0", "1", "2"], ["0", "1", "2"]),
        (["1", "10", "2"], ["2", "10", "1"], ["2", "10", "1"]),
        (["001", "002", "010"], ["10", "2", "001"], ["010", "002", "001"]),
        (["a", "b", "c"], ["2", "b", "0"], ["c", "b", "a"]),
        (["1", "2", "3"], ["0", "1", "2"], "line 1: expected one of the classes after 0.png, got '0'"),
        (["10", "20", "cat"], ["10", "2", "cat"], "line 2: expected one of the classes after 1.png, got '2'"),
    ],
)
def test_a_label_that_is_a_classes_name_means_that_class(
    tmp_path: Path, classes: list[str], labels: list[str], meant: list[str] | str
) -> None:
    for name in classes:
        save_image(tmp_path / "train" / name / "0.png")
    for i in range(3):
        save_image(tmp_path / "val" / f"{i}.png")
    (tmp_path / "val.txt").write_text("".join(f"{i}.png {label}\n" for i, label in enumerate(labels)))
    if isinstance(meant, str):
        with pytest.raises(DataError, match=meant):
            open_data(f"imagenet:{tmp_path}", 32, 32)
    else:
        data = open_data(f"imagenet:{tmp_path}", 32, 32)
        assert [data.classes[label] for label in data.test.labels] == meant


@pytest.mark.parametrize("named", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_imagenet_as_kaggle_lays_it_out(tmp_path: Path, named: str) -> None:
    imagenet(tmp_path / "ILSVRC" / "Data" / "CLS-LOC", flat=True)
    truth = tmp_path / (named if named == "ILSVRC/Data/CLS-LOC" else "") / "LOC_val_solution.csv"
    if named in ("ILSVRC", "ILSVRC/Data"):
        truth = tmp_path / named / "LOC_val_solution.csv"
    truth.write_text(
        "".join(f"ILSVRC2012_val_{i:08},{WNIDS[label]} 1 2 3 4 \n" for i, label in enumerate((2, 0, 1), 1))
    )
    check_imagenet(tmp_path / named, flat=True)


def test_a_sample_of_imagenet_with_one_image_a_class_is_both_parts(tmp_path: Path) -> None:
    for wnid in WNIDS:
        save_image(tmp_path / "in" / wnid / f"{wnid}_fish.JPEG")
    for path in (tmp_path / "in", zipped(tmp_path / "in", tmp_path / "in.zip")):
        data = open_data(f"imagenet:{path}", 32, 32)
        assert (len(data.train), len(data.test)) == (3, 3)
        assert "the same ones: a class has but one image" in data.split
    save_image(tmp_path / "in" / WNIDS[0] / "another.JPEG")
    (tmp_path / "in" / WNIDS[1] / f"{WNIDS[1]}_fish.JPEG").unlink()
    assert "held out" in open_data(f"imagenet:{tmp_path / 'in'}", 32, 32).split


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (None, "val: expected a folder of images for each class, or the images' classes in val.txt, val_map.txt"),
        ("ILSVRC2012_val_00000001 0\n", "no class for 2 of 3 images, such as ILSVRC2012_val_00000002"),
        ("a.JPEG 0\nb.JPEG 3\n", "val.txt, line 2: expected a class or a number from 0 to 2 after b.JPEG, got '3'"),
        ("a.JPEG n00000000\n", "line 1: .* got 'n00000000'"),
        ("a.JPEG\n", "line 1: .* got ''"),
        ("\udcff\udcfea", "val.txt: expected text: .*truncated data"),
    ],
)
def test_bad_truth_is_one_clear_line(tmp_path: Path, truth: str | None, message: str) -> None:
    imagenet(tmp_path, flat=True)
    if truth is not None:
        (tmp_path / "val.txt").write_text(truth, errors="surrogateescape")
    with pytest.raises(DataError, match=message):
        open_data(f"imagenet:{tmp_path}", 32, 32)


def test_imagenet_without_val_has_a_share_held_out(tmp_path: Path) -> None:
    imagenet(tmp_path)
    shutil.rmtree(tmp_path / "val")
    data = open_data(f"imagenet:{tmp_path}", 32, 32)
    assert (len(data.train), len(data.test)) == (3, 3)


# ---- synthetic


def test_synthetic_images_are_random_and_always_alike() -> None:
    data = open_data("synthetic:10", 8, 8)
    assert "nothing to learn" in data.split
    assert len(data.classes) == 10
    assert data.train.size == (10, 10)
    images, labels, _ = data.train.load(np.arange(len(data.train)))
    assert set(labels) == set(range(10))
    assert images.mean() == pytest.approx(127.5, abs=1)
    assert_array_equal(open_data("synthetic:10", 8, 8).train.load(np.arange(5))[0], images[:5])
    assert not np.array_equal(data.test.load(np.arange(5))[0], images[:5])
    assert len(open_data("synthetic", 8, 8).classes) == 1000


# ---- mean image


def test_mean_image(rng: np.random.Generator) -> None:
    data = random_images(rng, 300)
    assert_allclose(mean_image(data), data.images.mean(axis=0), rtol=1e-6)
    sample = np.linspace(0, 299, 7).astype(int)
    assert_allclose(mean_image(data, most=7), data.images[sample].mean(axis=0), rtol=1e-6)


def test_mean_image_of_nothing_readable_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    data = FileDataset([tmp_path / "a.png"], np.zeros(1, np.int32), ["a"], (8, 8))
    with pytest.raises(DataError, match=r"none of the images can be read; .*a\.png: cannot identify"):
        mean_image(data)


def test_colour_pca_is_that_of_all_pixels(rng: np.random.Generator) -> None:
    mixed = rng.normal(0, (50, 20, 5), (40, 9, 8, 3)) @ rng.normal(0, 0.4, (3, 3)) + 128
    images = mixed.clip(0, 255).astype(np.uint8)
    vectors, deviations = colour_pca(ArrayDataset(images, np.zeros(40, np.int32), ["a"]))
    covariance = np.cov(images.reshape(-1, 3).T.astype(np.float64), bias=True)
    assert vectors.dtype == deviations.dtype == np.float32
    assert deviations[0] > deviations[1] > deviations[2] > 0
    assert_allclose(vectors @ np.diag(deviations.astype(np.float64) ** 2) @ vectors.T, covariance, rtol=1e-4, atol=1e-2)
    assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-6)
    assert (vectors.sum(axis=0) >= 0).all()
    few = colour_pca(ArrayDataset(images, np.zeros(40, np.int32), ["a"]), most=3)
    again = colour_pca(ArrayDataset(images[[0, 19, 39]], np.zeros(3, np.int32), ["a"]))
    assert_array_equal(few[0], again[0])
    assert_array_equal(few[1], again[1])


def test_colour_pca_of_large_images_is_that_of_some_rows(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (3, 130, 150, 3), np.uint8)
    few = ArrayDataset(np.ascontiguousarray(images[:, ::4]), np.zeros(3, np.int32), ["a"])
    for ours, theirs in zip(colour_pca(ArrayDataset(images, few.labels, ["a"])), colour_pca(few), strict=True):
        assert_array_equal(ours, theirs)


def test_colour_pca_of_one_colour_is_nothing() -> None:
    images = np.full((3, 8, 8, 3), (200, 100, 7), np.uint8)
    _, deviations = colour_pca(ArrayDataset(images, np.zeros(3, np.int32), ["a"]))
    assert_allclose(deviations, 0, atol=0.1)


# ---- loader


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def random_images(rng: np.random.Generator, count: int, size: int = 10) -> ArrayDataset:
    """Images which the label, their number, names."""
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    return ArrayDataset(images, np.arange(count, dtype=np.int32), [str(i) for i in range(count)])


def kept(batch: Batch) -> Batch:
    """The batch with images of its own, which the loader does not overwrite."""
    return batch._replace(images=batch.images.copy())


def assert_same(a: Batch, b: Batch) -> None:
    for one, other in zip(a, b, strict=True):
        assert_array_equal(one, other)


@pytest.mark.parametrize("mirrored", [False, True])
def test_training_shows_each_image_once_and_cuts_it_everywhere(rng: np.random.Generator, mirrored: bool) -> None:
    data = random_images(rng, 600)
    seen, crops = [], []
    for number, batch in Loader(data, (8, 7), 20, mirrored, seed=3).training(epoch=0):
        assert number == len(seen) // 20
        assert batch.images.shape == (20, 10, 10, 3)
        assert batch.images.dtype == np.uint8
        assert batch.labels.dtype == batch.crops.dtype == np.int32
        assert batch.noise is None
        assert_array_equal(batch.images, data.images[batch.labels])
        seen += batch.labels.tolist()
        crops.append(batch.crops)
    assert sorted(seen) == list(range(600))
    top, left, mirror = np.concatenate(crops).T
    assert np.bincount(top).tolist() == pytest.approx([200] * 3, abs=60)
    assert np.bincount(left).tolist() == pytest.approx([150] * 4, abs=50)
    assert mirror.mean() == (pytest.approx(0.5, abs=0.08) if mirrored else 0)
    assert np.corrcoef([top, left])[0, 1] == pytest.approx(0, abs=0.15)


def test_noise_is_colour_times_normal_numbers_drawn_anew_each_epoch(rng: np.random.Generator) -> None:
    data = random_images(rng, 3000, 2)
    colour = rng.normal(size=(3, 3)).astype(np.float32)
    loader = Loader(data, (2, 2), 100, colour=colour)
    first, second = (np.concatenate([batch.noise for _, batch in loader.training(epoch)]) for epoch in (0, 1))
    assert first.dtype == np.float32
    assert first.shape == (3000, 3)
    alpha = np.linalg.solve(colour, first.T)
    assert_allclose(alpha.mean(axis=1), 0, atol=0.1)
    assert_allclose(np.cov(alpha), np.eye(3), atol=0.1)
    assert not {*map(tuple, first)} & {*map(tuple, second)}
    assert next(loader.evaluation()).noise is None


def test_order_is_a_function_of_seed_and_epoch_and_can_be_entered_anywhere(rng: np.random.Generator) -> None:
    data = random_images(rng, 50)

    def epoch(seed: int, number: int, start: int = 0) -> list[tuple[int, Batch]]:
        loader = Loader(data, (8, 8), 8, True, np.eye(3, dtype=np.float32), seed)
        return [(n, kept(batch)) for n, batch in loader.training(number, start)]

    first = epoch(1, 1)
    assert [n for n, _ in first] == list(range(6))
    for start in range(6):
        for (n, batch), (again, same) in zip(first[start:], epoch(1, 1, start), strict=True):
            assert n == again
            assert_same(batch, same)
    assert epoch(1, 1, start=6) == []
    for other in (epoch(1, 2), epoch(2, 1)):
        assert not np.array_equal(first[0][1].labels, other[0][1].labels)


def test_order_is_the_same_in_every_process(rng: np.random.Generator) -> None:
    program = """
import hashlib
import numpy as np
from alexnet_cuda.data import Loader, open_data
loader = Loader(open_data("synthetic:10", 8, 8).train, (8, 8), 16, True, np.eye(3, dtype=np.float32), 7)
digest = hashlib.sha256()
for _, batch in loader.training(3):
    for array in batch[:4]:
        digest.update(array.tobytes())
print(digest.hexdigest())
"""
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
        for environment in (os.environ | {"PYTHONHASHSEED": seed} for seed in ("1", "2"))
    ]
    assert len(runs[0].stdout) == 65
    assert runs[0].stdout == runs[1].stdout


def test_training_leaves_out_a_part_of_a_batch_but_takes_a_set_smaller_than_one(rng: np.random.Generator) -> None:
    loader = Loader(random_images(rng, 21), (10, 10), 8)
    assert len(loader) == 2
    assert [len(batch.labels) for _, batch in loader.training(0)] == [8, 8]
    loader = Loader(random_images(rng, 5), (10, 10), 8)
    assert [len(batch.labels) for _, batch in loader.training(0)] == [5]


def test_evaluation_shows_the_centre_of_all_images_in_order(rng: np.random.Generator) -> None:
    data = random_images(rng, 21)
    batches = [kept(batch) for batch in Loader(data, (8, 5), 8, mirrored=True).evaluation()]
    assert [len(batch.labels) for batch in batches] == [8, 8, 5]
    assert_array_equal(np.concatenate([batch.labels for batch in batches]), np.arange(21))
    assert_array_equal(np.concatenate([batch.images for batch in batches]), data.images)
    assert_array_equal(np.concatenate([batch.crops for batch in batches]), [[1, 2, 0]] * 21)


def test_images_stay_until_the_third_batch_after_them_is_asked_for(rng: np.random.Generator) -> None:
    data = random_images(rng, 60)
    made = []

    def allocate(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        made.append(np.empty(shape, dtype))
        return made[-1]

    held: list[Batch] = []
    for _, batch in Loader(data, (8, 8), 4, allocate=allocate).training(0):
        assert any(np.shares_memory(batch.images, buffer) for buffer in made)
        time.sleep(0.005)
        held = [*held[-2:], batch]
        for each in held:
            assert_array_equal(each.images, data.images[each.labels])
    assert [buffer.shape for buffer in made] == [(4, 10, 10, 3)] * 5


def test_images_smaller_than_the_networks_view_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="expected images of at least 8x11 pixels, got 10x10"):
        Loader(random_images(rng, 4), (8, 11), 2)


def test_ten_views_are_the_corners_the_centre_and_their_mirror_images() -> None:
    views = ten_views((256, 256), (224, 227))
    assert views.dtype == np.int32
    assert views.tolist() == [
        [top, left, mirrored] for mirrored in (0, 1) for top, left in ((0, 0), (0, 29), (16, 14), (32, 0), (32, 29))
    ]


class Gaps(ArrayDataset):
    """Images of which some cannot be read."""

    def load(self, indices: np.ndarray, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        places = np.flatnonzero(~np.isin(indices, (0, 1, 2, 3, 5)))
        return *super().load(indices[places], out)[:2], places


def test_unreadable_images_make_batches_smaller_or_none(rng: np.random.Generator) -> None:
    full = random_images(rng, 12)
    data = Gaps(full.images, full.labels, full.classes)
    colour = np.eye(3, dtype=np.float32)
    loader = Loader(data, (8, 8), 4, True, colour)
    assert [list(batch.labels) for batch in loader.evaluation()] == [[4, 6, 7], [8, 9, 10, 11]]
    complete = Loader(full, (8, 8), 4, True, colour).training(0)
    drawn = 4  # images, labels, crops, noise
    whole = {row[1]: row for _, batch in complete for row in zip(*kept(batch)[:drawn], strict=True)}
    for _, batch in loader.training(0):
        for row in zip(*batch[:drawn], strict=True):
            assert_same(row, whole[row[1]])


def test_an_error_while_loading_reaches_the_caller(rng: np.random.Generator) -> None:
    class Broken(ArrayDataset):
        def load(self, indices: np.ndarray, out: np.ndarray | None = None) -> Any:
            raise RuntimeError("broken on purpose")

    full = random_images(rng, 12)
    loader = Loader(Broken(full.images, full.labels, full.classes), (8, 8), 4)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        next(loader.training(0))


def test_batches_are_made_ahead_and_no_further_once_nobody_asks(rng: np.random.Generator) -> None:
    class Counted(ArrayDataset):
        loads = 0
        third = threading.Event()

        def load(self, indices: np.ndarray, out: np.ndarray | None = None) -> Any:
            self.loads += 1
            if self.loads == 3:
                self.third.set()
            return super().load(indices, out)

    full = random_images(rng, 40)
    data = Counted(full.images, full.labels, full.classes)
    batches = Loader(data, (8, 8), 4).training(0)
    next(batches)
    assert data.third.wait(timeout=10)
    batches.close()
    assert data.loads <= 4
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())
