"""Class folders that are divided into parts, by the names that the parts usually have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from .. import names
from ..files import decoded, lines
from .dataset import Data, DataError
from .folder import Labelled, divided_data, held_out_data, in_classes_of, is_image, kind, labelled, not_read
from .listing import File, Listing, below, listing, open_file, tops, unwrapped

WORDS = {"train": "train|training", "val": "val|valid|validation|dev", "test": "test|testing"}
REST = "([-_ ]?(set|data|images|[0-9]+))?"  # as in training_set and val2017
PARTS = {part: re.compile(f"(.+[-_ ])?(?:{words}){REST}", re.I) for part, words in WORDS.items()}
"""What the folders' names are like; in the first group what they begin with alike, as in seg_train and seg_test."""
TRUTHS = ("val.txt", "val_map.txt", "LOC_val_solution.csv", "val_annotations.txt")  # the last is Tiny ImageNet's


def open_folder(path: Path, size: tuple[int, int], threads: int | None = None, divide: bool = True) -> Data:
    """``path``, a folder or archive, holds parts as ``divided`` knows them, or the class folders themselves, of which a
    fifth is held out; without ``divide`` none is, and all images are in both parts.

    DataError when there is no such folder, no image, only one class, or a class to
    test on that there is not to train on.
    """
    files = unwrapped(listing(path))
    return divided(files, files, path, size, threads, divide) or held_out_data(
        path, labelled(files, path), size, threads, divide
    )


def divided(
    files: Listing, around: Listing, path: Path, size: tuple[int, int], threads: int | None, divide: bool
) -> Data | None:
    """The data of a listing of ``path`` that holds a part to train on, and val or test; None when it holds no parts.
    val is either class folders or images that a text file in or beside it, or in ``around``, gives a class: lines of
    the image's name and a WNID, or a number from 0 in the order of the WNIDs. ``Data.split`` says what was left alone.
    DataError when something is missing or does not fit together."""
    found = parts(files, path)
    if not found:
        return None
    train = labelled(unwrapped(below(files, f"{found['train']}/")), path / found["train"])
    test, how, notes = None, "", _others(files, found)
    for part in ("val", "test"):
        if part not in found:
            continue
        name = found[part]
        inside = unwrapped(below(files, f"{name}/"), train.classes)
        shown = names.text(name)
        if test is not None:
            notes.append(f"{shown} is left alone")
        elif not any(map(is_image, inside)):
            notes.append(f"{shown} is left alone, it holds no images")
        elif part == "test" and _flat(inside, train.classes):
            notes.append(f"{shown} is left alone, its images lie in no class folders")
        else:
            test, told = _to_test_on(inside, (inside, files, around), train.classes, path / name)
            dividing = f"folder {shown} and {told}" if told else f"folders {names.text(found['train'])} and {shown}"
            how = f"as its {dividing} divide them"
    if test is None:
        return held_out_data(path / found["train"], train, size, threads, divide, notes)
    return divided_data(path, train, test, how, size, threads, notes)


def parts(files: Listing, path: Path) -> dict[str, str]:
    """The names of the folders at the top of a listing that are parts of a data set, by "train", "val" and "test".
    Empty when these folders are classes, of which one may have the name of a part: a train is a vehicle, too, where it
    lies beside others and holds images rather than folders. DataError for parts without one to train on, or with two
    of a kind."""
    top = tops(files)
    begun: dict[str, list[tuple[str, str]]] = {"": []}  # parts and folders by what the folders' names begin with
    for name in top:
        for part, form in PARTS.items():
            if match := form.fullmatch(name):
                begun.setdefault(match[1] or "", []).append((part, name))
    pairs = [named for named in begun.values() if {"train"} < {part for part, _ in named}]
    named = begun[""] or (pairs[0] if len(pairs) == 1 else [])
    training = [name for part, name in named if part == "train"]
    if not named or (len(named) < len(top) and not any(tops(below(files, f"{name}/")) for name in training)):
        return {}
    if not training:
        first = named[0][1]
        raise DataError(f"{path}: no folder train beside {first}; {path / first} takes the folders in it as classes")
    found: dict[str, str] = {}
    for part, name in named:
        if found.setdefault(part, name) != name:
            raise DataError(f"{path}: both {found[part]} and {name} can be its part {part}; expected one of them")
    return found


def _others(files: Listing, found: Mapping[str, str]) -> list[str]:
    """What is to be told of folders with images beside the parts."""
    filled = {name.partition("/")[0] for name in files if "/" in name and is_image(name)}
    return [f"{names.text(name)} is left alone" for name in tops(files) if name in filled - set(found.values())]


def _flat(part: Listing, classes: Sequence[str]) -> bool:
    """Whether the images lie in no folders, or all in one that is no class."""
    top = tops(part)
    return not top or (len(top) == 1 and names.text(top[0]) not in classes)


def _to_test_on(part: Listing, around: Sequence[Listing], classes: Sequence[str], path: Path) -> tuple[Labelled, str]:
    """The images of a part in ``classes``, and the name of the file that tells theirs, if it is not the folders."""
    if not any(names.text(name) in classes for name in tops(part)):
        for truth in TRUTHS:
            for place in around:
                if truth in place:
                    return _told(part, place[truth], classes, path), truth
    if not tops(part):
        raise DataError(
            f"{path}: expected a folder of images for each class, or the images' classes in {', '.join(TRUTHS)}"
        )
    return in_classes_of(labelled(part, path, several=False), classes, path), ""


def _told(val: Listing, truth: File, classes: Sequence[str], path: Path) -> Labelled:
    """The images in ``val`` with the labels that ``truth`` tells."""
    images = {PurePosixPath(name).stem: file for name, file in val.items() if is_image(name)}
    told = _read_truth(truth, classes)
    missing = [name for name in images if name not in told]
    if missing:
        raise DataError(f"{truth}: no class for {len(missing):,} of {len(images):,} images, such as {missing[0]}")
    others = Counter(kind(name) for name in val if not is_image(name) and not name.endswith("/") and name not in TRUTHS)
    labels = np.array([told[name] for name in images], np.int32)
    return Labelled(list(classes), list(images.values()), labels, not_read(others, path))


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
