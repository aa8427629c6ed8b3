"""Image files in class folders, decoded by Pillow in threads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .. import names
from ..command_line import count
from ..suggest import nearest
from .dataset import Data, DataError, Images, Labels, gather, held_out, rows
from .listing import File, Listing, open_file

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    *(".png", ".apng", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".avif"),
    *(".qoi", ".tga", ".sgi", ".ras", ".dds", ".pcx", ".psd", ".ico", ".icns", ".xbm", ".xpm"),
)  # the same on every machine, whatever its Pillow was built with: what that cannot read is named when it is met
CACHE_BYTES = 1 << 30  # decoded images are kept while the whole set fits, so that later epochs need not decode
TASKS = 16  # of a thread and batch: more would share the work more evenly, but each costs a tenth of a millisecond


class Labelled(NamedTuple):
    """Classes, files, for each file the number of its class, and what is to be told of what was left out."""

    classes: list[str]
    files: list[File]
    labels: Labels
    notes: Sequence[str] = ()


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
        """As ``Dataset.load``."""
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
        if image.mode == "F":
            raise OSError("its pixels are floating-point numbers, of which nothing says which is white")
        if image.mode.startswith("I"):
            wide, clear = np.asarray(image, np.uint32), image.info.get("transparency")
            image = Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8))
            if clear is not None:
                image.putalpha(Image.fromarray(np.where(wide == clear, 0, 255).astype(np.uint8)))
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
        found._replace(files=[found.files[i] for i in places], labels=found.labels[places])
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
    images, classes = count(len(test.files), "test image"), count(len(train.classes), "class")
    counts = f"{len(train.files):,} training and {images} of {classes}"
    parts = [FileDataset(part.files, part.labels, part.classes, size, threads) for part in (train, test)]
    told = dict.fromkeys([*train.notes, *test.notes, *notes])  # once, though it be of both
    split = "; ".join([f"{names.text(path)}: {counts}, {how}", *told])
    return Data(parts[0], parts[1], split, mirrored=True)


def labelled(files: Listing, path: Path, several: bool = True) -> Labelled:
    """The images in the class folders of a listing of ``path``, the classes as ``names.text`` has them; a folder
    without images is a class, too, so that numbers in the order of the folders keep their meaning. DataError when there
    is no image, or with ``several`` images of only one class."""
    found: dict[str, list[File]] = {}
    others: Counter[str] = Counter()
    for name, file in files.items():
        label, slash, _ = name.partition("/")
        if slash:
            images = found.setdefault(label, [])
            if is_image(name):
                images.append(file)
            elif not name.endswith("/"):
                others[kind(name)] += 1
        elif is_image(name):
            others["beside the class folders"] += 1
    found = dict(sorted(found.items()))
    filled = [label for label, images in found.items() if images]
    if not filled:
        raise DataError(f"{path}: no folders with images in it" + (f", only {_counted(others)}" if others else ""))
    empty = [names.text(label) for label, images in found.items() if not images]
    if several and len(filled) < 2:
        more = f"; {some(empty)} without images" if empty else ""
        raise DataError(
            f"{path}: expected a folder of images for each of two or more classes, got only {filled[0]!r}{more}"
        )
    notes = [f"no images in {names.text(path.name)} of {some(empty)}"] if empty else []
    notes += not_read(others, path)
    labels = np.repeat(np.arange(len(found), dtype=np.int32), [len(images) for images in found.values()])
    return Labelled(list(map(names.text, found)), [file for images in found.values() for file in images], labels, notes)


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return name.lower().endswith(SUFFIXES)


def kind(name: str) -> str:
    """What tells a file that is no image from others: its suffix."""
    return PurePosixPath(name).suffix.lower() or "without suffix"


def not_read(others: Counter[str], path: Path) -> list[str]:
    """What is to be told of so many files of each kind in ``path`` that are not read, if there are any."""
    return [f"not read in {names.text(path.name)}: {_counted(others)}"] if others else []


def _counted(others: Counter[str]) -> str:
    return ", ".join(f"{number:,} {names.text(kind)}" for kind, number in sorted(others.items()))


def some(classes: Sequence[str]) -> str:
    """The first few of the classes."""
    return ", ".join(map(repr, classes[:5])) + (f" and {len(classes) - 5:,} more" if len(classes) > 5 else "")


def in_classes_of(found: Labelled, classes: Sequence[str], path: Path) -> Labelled:
    """``found`` with its labels counted in ``classes``. DataError when one with images is not among them."""
    number = {name: i for i, name in enumerate(classes)}
    unknown = [found.classes[label] for label in np.unique(found.labels) if found.classes[label] not in number]
    if unknown:
        raise DataError(
            f"{path}: {some(unknown)} not among the {count(len(classes), 'class')}{nearest(unknown[0], classes)}"
        )
    numbers = np.array([number.get(name, -1) for name in found.classes], np.int32)
    return found._replace(classes=list(classes), labels=numbers[found.labels])
