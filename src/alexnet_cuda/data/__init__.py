"""Images to train on: ``open_data(source, height, width)``, the source as ``--data`` names it.

A data set delivers uint8 images a little larger than the network's input, so that training can have random crops of
them (paper, section 4.1) and evaluation the centre. ``Loader`` decides on the crops; the device cuts them.
"""

from __future__ import annotations

from pathlib import Path

from .. import names
from ..suggest import nearest
from .augmentation import Augmentation
from .cifar10 import open_cifar10
from .dataset import ArrayDataset, Data, DataError, Dataset, with_margin
from .digits import open_digits
from .folder import FileDataset
from .imagenet import open_imagenet
from .loader import Batch, Loader, ten_views
from .own import divided, given
from .packed import PackedDataset, open_packed
from .parts import open_folder
from .statistics import balanced_weights, colour_pca, mean_image
from .synthetic import open_synthetic

__all__ = [
    "SOURCES",
    "ArrayDataset",
    "Augmentation",
    "Batch",
    "Data",
    "DataError",
    "Dataset",
    "FileDataset",
    "Loader",
    "PackedDataset",
    "balanced_weights",
    "colour_pca",
    "divided",
    "given",
    "located",
    "mean_image",
    "open_data",
    "open_located",
    "resolved",
    "ten_views",
    "with_margin",
]

SOURCES = ("digits", "cifar10:PATH", "folder:PATH", "imagenet:PATH", "packed:PATH", "synthetic")


def open_data(
    source: str, height: int, width: int, threads: int | None = None, margin: bool = True, divide: bool = True
) -> Data:
    """The data set that ``--data`` names, for a network that sees images of ``height`` x ``width`` pixels.

    source: one of ``SOURCES``, or "synthetic:CLASSES". ``threads`` (default: one a core) decode files. Without
    ``margin`` the images have just the size that the network sees; those of cifar10 and packed have their own size
    anyway. Without ``divide`` class folders that are not in parts are all in both, where else a fifth is held out to
    test on. DataError, one line, for an unknown name, and for a path where the data are missing or do not fit.
    """
    name, colon, path = source.partition(":")
    sight = height, width
    size = (with_margin(height), with_margin(width)) if margin else sight
    if name == "digits":
        if colon:
            raise DataError(f"digits takes no path, got {source!r}")
        return open_digits(size, sight)
    if name == "synthetic":
        if colon and not (path.isascii() and path.isdigit()):
            raise DataError(f"synthetic takes a number of classes, got {path!r}")
        return open_synthetic(int(path) if colon else 1000, size)
    if f"{name}:PATH" in SOURCES:
        if not path:
            raise DataError(f"{name} needs a path: {name}:PATH")
        place = Path(path).expanduser()
        if name == "cifar10":
            return open_cifar10(place, sight)
        if name == "packed":
            return open_packed(place, sight, threads)
        return (open_folder if name == "folder" else open_imagenet)(place, size, threads, divide)
    if not colon and Path(source).is_dir():
        raise DataError(f"unknown data {source!r}; did you mean folder:{source}?")
    hint = nearest(name, [known.partition(":")[0] for known in SOURCES])
    raise DataError(f"unknown data {source!r}: expected {', '.join(SOURCES[:-1])} or {SOURCES[-1]}{hint}")


def located(source: str) -> str:
    """A source as runs keep it: its path absolute, so that it holds in any folder, and as ``names.text`` has it."""
    name, colon, path = source.partition(":")
    if path and f"{name}:PATH" in SOURCES:
        path = str(Path(path).expanduser().absolute())
    return names.text(name + colon + path)


def open_located(
    source: str,
    teller: object,
    height: int,
    width: int,
    threads: int | None = None,
    margin: bool = True,
    divide: bool = True,
) -> Data:
    """``open_data`` of what ``located`` gave, or of a relative path, as older runs kept it. The DataError says that the
    source comes from ``teller``, a run or a recipe (None: from the command line)."""
    try:
        return open_data(names.name(resolved(source)), height, width, threads, margin, divide)
    except DataError as e:
        if teller is None:
            raise
        relative = " and counts from the folder that the run was begun in" if resolved(source) != source else ""
        raise DataError(f"{e}; {source} comes from {teller}{relative}, --data names another place") from e


def resolved(source: str) -> str:
    """``located`` of what a run kept, which counts from the current folder where it is relative."""
    return located(names.name(source))
