"""Folders of images: one folder a class, decoded by Pillow in threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .dataset import Data, DataError, Images, Labels, held_out

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
CACHE_BYTES = 1 << 30  # decoded images are kept while the whole set fits, so that later epochs need not decode


class FolderDataset:
    """Image files, read when asked for, as (H, W, 3) uint8 of ``size``: scaled to cover it and cut to its centre."""

    def __init__(
        self,
        files: Sequence[Path],
        labels: NDArray[np.int32],
        classes: Sequence[str],
        size: tuple[int, int],
        threads: int | None = None,
    ) -> None:
        self.files, self.labels, self.classes, self.size = list(files), labels, tuple(classes), size
        self.unreadable: dict[str, str] = {}
        self._pool = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)), "decode")
        shape = (len(self.files), *size, 3)
        self._cache = np.zeros(shape, np.uint8) if np.prod(shape) <= CACHE_BYTES else None
        self._cached = np.zeros(len(self.files), bool)

    def __len__(self) -> int:
        return len(self.files)

    def load(self, indices: NDArray[np.int64]) -> tuple[Images, Labels, NDArray[np.int64]]:
        if self._cache is not None and self._cached[indices].all():
            return self._cache[indices], self.labels[indices], np.arange(len(indices))
        images = np.empty((len(indices), *self.size, 3), np.uint8)
        readable = np.fromiter(self._pool.map(self._read, indices, images), bool, len(indices))
        places = np.flatnonzero(readable)
        return images[places], self.labels[indices[places]], places

    def _read(self, index: int, out: Images) -> bool:
        if self._cache is not None and self._cached[index]:
            out[:] = self._cache[index]
            return True
        path = str(self.files[index])
        if path in self.unreadable:
            return False
        try:
            out[:] = decode(path, self.size)
        except Exception as e:  # a broken file can raise anything at all from inside its decoder
            self.unreadable[path] = " ".join(str(e).split()) or type(e).__name__
            return False
        if self._cache is not None:
            self._cache[index], self._cached[index] = out, True
        return True


def decode(path: str | Path, size: tuple[int, int]) -> Images:
    """The image of a file as (H, W, 3) RGB of ``size``: turned as its EXIF data say, 16 bits cut to 8, transparent
    pixels on white, scaled to cover ``size``, the centre kept. OSError when it cannot be read to its end."""
    with Image.open(path) as image:
        image.draft("RGB", (size[1], size[0]))  # lets the JPEG decoder skip detail that the scaling would remove
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            upright = Image.fromarray((np.asarray(upright, np.uint32) >> 8).clip(0, 255).astype(np.uint8))
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        return np.asarray(ImageOps.fit(upright.convert("RGB"), (size[1], size[0]), Image.Resampling.BILINEAR))


def open_folder(path: Path, size: tuple[int, int], threads: int | None = None) -> Data:
    """``path`` holds train/CLASS/... and val/CLASS/..., or the class folders themselves, of which a fifth is held out.

    DataError when there is no such folder, no image, only one class, a class without images, or a class in val that
    train lacks.
    """
    if not path.exists():
        raise DataError(f"{path}: no such folder")
    if not path.is_dir():
        raise DataError(f"{path}: expected a folder, this is a file")
    divided = (path / "train").is_dir()
    root = path / "train" if divided else path
    classes, files, labels = _scan(root)
    if len(classes) < 2:
        raise DataError(f"{root}: expected a folder of images for each of two or more classes, got only {classes[0]!r}")
    if divided and (path / "val").is_dir():
        val_classes, val_files, val_labels = _scan(path / "val")
        unknown = sorted(set(val_classes) - set(classes))
        if unknown:
            raise DataError(f"{path / 'val'}: no folder in {root} for {', '.join(map(repr, unknown[:5]))}")
        to_train = np.array([classes.index(name) for name in val_classes], np.int32)
        train = FolderDataset(files, labels, classes, size, threads)
        test = FolderDataset(val_files, to_train[val_labels], classes, size, threads)
        split = "as its folders train and val divide them"
    else:
        train_places, test_places = held_out(labels)
        if not len(test_places):
            raise DataError(f"{root}: expected at least two images in some class, one to train on and one to hold out")
        train, test = (
            FolderDataset([files[i] for i in places], labels[places], classes, size, threads)
            for places in (train_places, test_places)
        )
        split = "a fifth of each class held out at random"
    counts = f"{len(train):,} training and {len(test):,} test images of {len(classes)} classes"
    return Data(train, test, f"{path}: {counts}, {split}", mirrored=True)


def _scan(root: Path) -> tuple[list[str], list[Path], NDArray[np.int32]]:
    """Classes, files and the files' labels, in the order of their names, so that it is the same on every machine."""
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = [sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()) for folder in folders]
    if not any(found):
        raise DataError(f"{root}: no folders with JPEG, PNG, WebP or BMP images in it")
    for folder, files in zip(folders, found, strict=True):
        if not files:
            raise DataError(f"{folder}: no JPEG, PNG, WebP or BMP image in this class")
    labels = np.repeat(np.arange(len(folders), dtype=np.int32), [len(files) for files in found])
    return [folder.name for folder in folders], [file for files in found for file in files], labels
