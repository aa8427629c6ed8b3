"""CIFAR-10 (Krizhevsky, 2009) in any of the forms it is handed around in, decoded once into memory."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from .. import names
from .dataset import ArrayDataset, Data, DataError, Images, Labels
from .folder import decode, in_classes_of, labelled, reason
from .listing import File, Listing, below, is_archive, listing, open_file, unwrapped
from .parts import PARTS, parts

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = (32, 32)
BATCHES = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]
FIRST = {"data_batch_1", "data_batch_1.bin"}  # by which the batches are known
FOLDERS = {name: CLASSES[i] for i, known in enumerate(CLASSES) for name in (known, str(i))}  # in any case

Part = tuple[Images, Labels, dict[str, str]]
"""Images, labels, and what could not be read."""


def open_cifar10(path: Path, size: tuple[int, int]) -> Data:
    """CIFAR-10 from the official python or binary batches or from class folders train/CLASS/ and test/CLASS/, the parts
    named as for ``parts``, the classes by name or number; from a folder or archive of either, with folders around or
    not, or from a folder of archives named cifar... that hold the parts. The images keep their 32x32 pixels, so a
    network that sees fewer has crops of them.

    DataError when ``size``, what the network sees, is larger, or something is missing or malformed.
    """
    if max(size) > 32:
        raise DataError(
            f"cifar10 has images of 32x32 pixels, {size[0]}x{size[1]} were asked for; "
            "folder:PATH enlarges images in class folders"
        )
    files, notes = _found(path), list[str]()
    if FIRST.isdisjoint(files):
        train, test, notes = _from_parts(files, path)
    else:
        train, test = (_from_batches(files, batches, path) for batches in BATCHES)
    return Data(
        train=ArrayDataset(train[0], train[1], CLASSES, train[2]),
        test=ArrayDataset(test[0], test[1], CLASSES, test[2]),
        split="; ".join(
            [
                f"{names.text(path)}: CIFAR-10, {len(train[1]):,} training and {len(test[1]):,} test images of 10 "
                "classes, as its authors divide them",
                *notes,
            ]
        ),
        mirrored=True,
    )


def _found(path: Path) -> Listing:
    """The listing in which the parts lie at the top."""
    files = listing(path)
    found = _parts(files)
    if found is None and path.is_dir():
        for name in [name for name in files if PurePosixPath(name).name.lower().startswith("cifar")]:
            files |= listing(path / name) if is_archive(name) else {}
        found = _parts(files)
    if found is None:
        raise DataError(
            f"{path}: expected CIFAR-10: data_batch_1 to 5 and test_batch, or train/CLASS/ and test/CLASS/, "
            "or archives named cifar... of them, in folders or not"
        )
    return found


def _parts(files: Listing) -> Listing | None:
    """Below the folder nearest to the top that holds batches or a part to train on."""
    found = []
    for name in files:
        folder, slash, last = name.removesuffix("/").rpartition("/")
        if last in FIRST or (name.endswith("/") and PARTS["train"].fullmatch(last)):
            found.append(folder + slash)
    return below(files, min(found, key=lambda folder: folder.count("/"))) if found else None


def _from_parts(files: Listing, path: Path) -> tuple[Part, Part, list[str]]:
    """The images to train and to test on, and what is to be told of others."""
    found = parts(files, path)
    chosen = [found[part] for part in ("train", "test", "val") if part in found]
    if len(chosen) < 2:
        raise DataError(f"{path}: expected the folders train and test, got no {'test' if chosen else 'train'}")
    train, test = (_from_folders(files, name, path) for name in chosen[:2])
    return train, test, [f"{names.text(name)} is left alone" for name in chosen[2:]]


def _from_folders(files: Listing, part: str, path: Path) -> Part:
    found = labelled(unwrapped(below(files, f"{part}/"), CLASSES), path / part)
    found = found._replace(classes=[FOLDERS.get(name.lower(), name) for name in found.classes])
    _, images, labels, _ = in_classes_of(found, CLASSES, path / part)
    if missing := [name for label, name in enumerate(CLASSES) if label not in labels]:
        raise DataError(f"{path / part}: no images of {', '.join(missing)}")
    pixels = np.empty((len(images), *SIZE, 3), np.uint8)
    unreadable = {}
    readable = np.ones(len(images), bool)
    for i, file in enumerate(images):  # without threads: of such small images most is Python, which they would share
        try:
            pixels[i] = decode(file, SIZE)
        except Exception as e:  # a broken file can raise anything at all from inside its decoder
            unreadable[names.text(str(file))], readable[i] = reason(e), False
    if not readable.any():
        first, why = next(iter(unreadable.items()))
        raise DataError(f"{path / part}: none of the images can be read; {first}: {why}")
    return pixels[readable], labels[readable], unreadable


def _from_batches(files: Listing, batches: Sequence[str], path: Path) -> Part:
    images, labels = [], []
    for name in batches:
        if name in files:
            planes, numbers = _python_batch(files[name])
        elif f"{name}.bin" in files:
            planes, numbers = _binary_batch(files[f"{name}.bin"])
        else:
            raise DataError(f"{path}: no {name} beside the other batches of CIFAR-10")
        images.append(planes.reshape(-1, 3, *SIZE).transpose(0, 2, 3, 1))
        labels.append(numbers)
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels), {}


def _binary_batch(file: File) -> tuple[Images, Labels]:
    """Records of a byte for the class and 3072 for the planes red, green, blue."""
    with open_file(file) as stream:
        content = np.frombuffer(stream.read(), np.uint8)
    if not len(content) or len(content) % 3073:
        raise DataError(f"{file}: expected records of 3,073 bytes, got {len(content):,} bytes")
    records = content.reshape(-1, 3073)
    return records[:, 1:], _checked(records[:, 0], file)


def _python_batch(file: File) -> tuple[Images, Labels]:
    """A pickled dictionary with data, uint8 (N, 3072), and labels, a list of N."""
    try:
        with open_file(file) as stream:
            batch = _Unpickler(stream, encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        planes, numbers = batch["data"].array(), np.array(batch["labels"], np.int64)
    except Exception as e:  # a broken pickle can raise anything at all
        raise DataError(f"{file}: no batch of CIFAR-10: {reason(e)}") from e
    if planes.shape != (len(numbers), 3072) or not len(numbers):
        raise DataError(f"{file}: expected 3,072 bytes for each of {len(numbers):,} labels, got {planes.shape}")
    return planes, _checked(numbers, file)


def _checked(labels: np.ndarray, file: File) -> Labels:
    if labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{file}: expected labels from 0 to 9, got {labels.min()} to {labels.max()}")
    return labels.astype(np.int32)


class _Unpickler(pickle.Unpickler):
    """Reads lists, dictionaries, numbers, strings and arrays of bytes; calls nothing that a file names."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: _PickledArray(),
            ("numpy._core.multiarray", "_reconstruct"): lambda *_: _PickledArray(),
            ("numpy", "ndarray"): _PickledArray,
            ("numpy", "dtype"): _PickledType,
            ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs")
        return known[module, name]


class _PickledType:
    """What a pickle says of an array's type."""

    def __init__(self, code: bytes | str = "", *_: object) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which bytes do not have."""


class _PickledArray:
    """What a pickle says of an array."""

    def __setstate__(self, state: tuple[object, tuple[int, ...], _PickledType, bool, bytes]) -> None:
        _, self.shape, self.type, self.columns_first, self.content = state

    def array(self) -> Images:
        if self.type.code != "u1":
            raise ValueError(f"expected an array of u1, got {self.type.code}")
        order: Any = "F" if self.columns_first else "C"
        return np.frombuffer(self.content, np.uint8).reshape(self.shape, order=order)
