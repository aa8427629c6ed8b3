"""Image files in class folders, decoded by Pillow in threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .. import names
from ..command_line import count, nearest
from .dataset import Data, DataError, Images, Labels, gather, held_out, rows
from .listing import File, Listing, open_file

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
CACHE_BYTES = 1 << 30  # decoded images are kept while the whole set fits, so that later epochs need not decode
TASKS = 16  # of a thread and batch: more would share the work more evenly, but each costs a tenth of a millisecond


class Labelled(NamedTuple):
    """Classes, files, and for each file the number of its class."""

    classes: list[str]
    files: list[File]
    labels: Labels


class FileDataset:
    """Image files, read when asked for, as (H, W, 3) uint8 of ``size``: scaled to cover it and cut to its centre."""

    def __init__(
        self,
        files: Sequence[File],
        labels: Labels,
        classes: Sequence[str],
        size: tuple[int, int],
        threads: int | None = None,
    ) -> None:
        self.files, self.labels, self.classes, self.size = list(files), labels, tuple(classes), size
        self.unreadable: dict[str, str] = {}
        self._threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads, "decode")
        shape = (len(self.files), *size, 3)
        self._cache = np.zeros(shape, np.uint8) if np.prod(shape) <= CACHE_BYTES else None
        self._cached = np.zeros(len(self.files), bool)

    def __len__(self) -> int:
        return len(self.files)

    def load(self, indices: NDArray[np.int64], out: Images | None = None) -> tuple[Images, Labels, NDArray[np.int64]]:
        images = rows(out, len(indices), self.size)
        if self._cache is not None and self._cached[indices].all():
            np.take(self._cache, indices, axis=0, out=images, mode="clip")
            return images, self.labels[indices], np.arange(len(indices))
        images, places = gather(self._read, indices, images, self._pool, TASKS * self._threads)
        return images, self.labels[indices[places]], places

    def _read(self, index: np.int64, out: Images) -> bool:
        if self._cache is not None and self._cached[index]:
            out[:] = self._cache[index]
            return True
        file = self.files[index]
        if names.text(str(file)) in self.unreadable:
            return False
        try:
            out[:] = decode(file, self.size)
        except Exception as e:  # a broken file can raise anything at all from inside its decoder
            self.unreadable[names.text(str(file))] = reason(e)
            return False
        if self._cache is not None:
            self._cache[index], self._cached[index] = out, True
        return True


def decode(file: File, size: tuple[int, int]) -> Images:
    """The image of a file as (H, W, 3) RGB of ``size``: turned as its EXIF data say, 16 bits cut to 8, transparent
    pixels on white, scaled to cover ``size``, the centre kept. OSError when it cannot be read to its end."""
    with open_file(file) as stream, Image.open(stream) as opened:
        image: Image.Image = opened
        image.draft("RGB", (size[1], size[0]))  # lets the JPEG decoder skip detail that the scaling would remove
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image, np.uint32) >> 8).clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        if image.mode != "RGB":
            image = image.convert("RGB")
        if image.size != (size[1], size[0]):
            image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)
        return np.asarray(image)


def reason(error: Exception) -> str:
    """Why a file could not be read, on one line."""
    if isinstance(error, UnidentifiedImageError):
        return "cannot identify the image's format"  # Pillow's own text tells the reader's address in memory
    return " ".join(str(error).split()) or type(error).__name__


def held_out_data(
    path: Path,
    found: Labelled,
    size: tuple[int, int],
    threads: int | None,
    divide: bool = True,
    notes: Sequence[str] = (),
) -> Data:
    """A fifth of each class for the test, the others for the training; all for both without ``divide``."""
    if not divide:
        return divided_data(path, found, found, "the same ones: none is held out", size, threads, notes)
    train, test = (
        Labelled(found.classes, [found.files[i] for i in places], found.labels[places])
        for places in held_out(found.labels)
    )
    if not test.files:
        raise DataError(f"{path}: expected at least two images in some class, one to train on and one to hold out")
    return divided_data(path, train, test, "a fifth of each class held out at random", size, threads, notes)


def divided_data(
    path: Path,
    train: Labelled,
    test: Labelled,
    how: str,
    size: tuple[int, int],
    threads: int | None,
    notes: Sequence[str] = (),
) -> Data:
    """The two parts as data; ``how`` ends the sentence on them, the notes follow it."""
    counts = f"{len(train.files):,} training and {count(len(test.files), 'test image')} of {len(train.classes)} classes"
    parts = [FileDataset(part.files, part.labels, part.classes, size, threads) for part in (train, test)]
    split = "; ".join([f"{names.text(path)}: {counts}, {names.text(how)}", *map(names.text, notes)])
    return Data(parts[0], parts[1], split, mirrored=True)


def labelled(files: Listing, path: Path, several: bool = True) -> Labelled:
    """The images in the class folders of a listing of ``path``, the classes as ``names.text`` has them. DataError when
    there is none, or in a class none, or with ``several`` only one class."""
    found: dict[str, list[File]] = {}
    for name, file in files.items():
        label, slash, rest = name.partition("/")
        if slash:
            images = found.setdefault(label, [])
            if rest.lower().endswith(SUFFIXES):
                images.append(file)
    found = dict(sorted(found.items()))
    if not any(found.values()):
        raise DataError(f"{path}: no folders with JPEG, PNG, WebP or BMP images in it")
    for label, images in found.items():
        if not images:
            raise DataError(f"{path / label}: no JPEG, PNG, WebP or BMP image in this class")
    if several and len(found) < 2:
        raise DataError(
            f"{path}: expected a folder of images for each of two or more classes, got only {next(iter(found))!r}"
        )
    labels = np.repeat(np.arange(len(found), dtype=np.int32), [len(images) for images in found.values()])
    return Labelled(list(map(names.text, found)), [file for images in found.values() for file in images], labels)


def in_classes_of(found: Labelled, classes: Sequence[str], path: Path) -> Labelled:
    """``found`` with its labels counted in ``classes``. DataError for a class that is not among them."""
    number = {name: i for i, name in enumerate(classes)}
    unknown = [name for name in found.classes if name not in number]
    if unknown:
        some = ", ".join(map(repr, unknown[:5]))
        raise DataError(f"{path}: {some} not among the {len(classes)} classes{nearest(unknown[0], classes)}")
    numbers = np.array([number[name] for name in found.classes], np.int32)
    return Labelled(list(classes), found.files, numbers[found.labels])
