"""ImageNet as it is usually unpacked, and samples of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from .. import names
from ..files import decoded, lines
from .dataset import Data, DataError
from .folder import SUFFIXES, Labelled, divided_data, held_out_data, in_classes_of, labelled
from .listing import File, Listing, below, listing, open_file, unwrapped

ROOTS = ("", "ILSVRC/Data/CLS-LOC/", "Data/CLS-LOC/", "CLS-LOC/")  # Kaggle's archive has three folders around it
TRUTHS = ("val.txt", "val_map.txt", "LOC_val_solution.csv")


def open_imagenet(path: Path, size: tuple[int, int], threads: int | None = None) -> Data:
    """``path``, a folder or archive, holds train/WNID/... and val, either val/WNID/... or images that a text file in or
    beside val gives a class: lines of the image's name and a WNID, or a number from 0 in the order of the WNIDs. Also
    Kaggle's folders around it. A sample without train has a fifth of each class held out; when it has but one image a
    class, all of them are trained on and tested on.

    DataError when something is missing or does not fit together.
    """
    files = listing(path)
    if not any(f"{root}train/" in files for root in ROOTS):
        files = unwrapped(files) if path.is_file() else files
    for root in ROOTS:
        if f"{root}train/" in files:
            return _divided(below(files, root), files, path, size, threads)
    found = labelled(files, path)
    if len(found[0]) < len(found[1]):
        return held_out_data(path, found, size, threads)
    return divided_data(path, found, found, "the same ones: a class has but one image", size, threads)


def _divided(files: Listing, around: Listing, path: Path, size: tuple[int, int], threads: int | None) -> Data:
    train = labelled(below(files, "train/"), path / "train")
    val = below(files, "val/")
    if not val:
        return held_out_data(path, train, size, threads)
    if any(name.endswith("/") for name in val):
        test = in_classes_of(labelled(val, path / "val", several=False), train[0], path / "val")
        return divided_data(path, train, test, "as its folders train and val divide them", size, threads)
    for truth in TRUTHS:
        for place in (val, files, around):
            if truth in place:
                test = _flat(val, place[truth], train[0], path / "val")
                how = f"as its folder val and {truth} divide them"
                return divided_data(path, train, test, how, size, threads)
    raise DataError(
        f"{path / 'val'}: expected a folder of images for each class, or the images' classes in {', '.join(TRUTHS)}"
    )


def _flat(val: Listing, truth: File, classes: Sequence[str], path: Path) -> Labelled:
    """The images in ``val`` with the labels that ``truth`` tells."""
    images = {PurePosixPath(name).stem: file for name, file in val.items() if name.lower().endswith(SUFFIXES)}
    if not images:
        raise DataError(f"{path}: no JPEG, PNG, WebP or BMP image")
    told = _read_truth(truth, classes)
    missing = [name for name in images if name not in told]
    if missing:
        raise DataError(f"{truth}: no class for {len(missing):,} of {len(images):,} images, such as {missing[0]}")
    return list(classes), list(images.values()), np.array([told[name] for name in images], np.int32)


def _read_truth(truth: File, classes: Sequence[str]) -> dict[str, int]:
    """Labels by the images' names without suffix. A label that is a class's name means that class, though it be a
    number; where names are numbers, no number means a place among them."""
    number = {name: i for i, name in enumerate(classes)}
    digits = [name for name in classes if re.fullmatch("[0-9]+", name)]
    numbered = {int(name): number[name] for name in digits} if digits else dict(enumerate(range(len(classes))))
    told = {}
    with open_file(truth) as stream:
        content = stream.read()
    try:
        text = decoded(content, "surrogateescape")
    except UnicodeDecodeError as e:
        raise DataError(f"{truth}: expected text: {e}") from e
    for place, line in enumerate(lines(text), 1):
        name, label, *_ = [*re.split(r"[\s,]+", line.strip()), "", ""]
        if not name or name == "ImageId":  # the heading of Kaggle's table
            continue
        found = number.get(names.text(label))
        if found is None and re.fullmatch(r"[0-9]{1,6}", label):
            found = numbered.get(int(label))
        if found is None:
            expected = "one of the classes" if digits else f"a class or a number from 0 to {len(classes) - 1}"
            raise DataError(f"{truth}, line {place}: expected {expected} after {name}, got {label!r}")
        told[PurePosixPath(name).stem] = found
    return told
