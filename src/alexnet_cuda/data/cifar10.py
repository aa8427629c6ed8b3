"""CIFAR-10 (Krizhevsky, 2009) in any of the forms it is handed around in, decoded once into memory."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import names
from .dataset import ArrayDataset, Data, DataError, Images, Labels
from .folder import decode, in_classes_of, labelled, reason
from .listing import File, Listing, below, is_archive, listing, open_file

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZE = (32, 32)
BATCHES = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]
PARTS = {"train/", "data_batch_1", "data_batch_1.bin"}  # by one of which each form is known

Part = tuple[Images, Labels, dict[str, str]]
"""Images, labels, and what could not be read."""


def open_cifar10(path: Path, size: tuple[int, int]) -> Data:
    """CIFAR-10 from the official python or binary batches, from class folders train/CLASS/ and test/CLASS/, from an
    archive of either, or from a folder of archives named cifar... that hold the parts. The images keep their 32x32
    pixels, so a network that sees fewer has crops of them.

    DataError when ``size``, what the network sees, is larger, or something is missing or malformed.
    """
    if max(size) > 32:
        raise DataError(
            f"cifar10 has images of 32x32 pixels, {size[0]}x{size[1]} were asked for; "
            "folder:PATH enlarges images in class folders"
        )
    files = _found(path)
    if "train/" in files:
        train, test = (_from_folders(files, part, path) for part in ("train", "test"))
    else:
        train, test = (_from_batches(files, batches, path) for batches in BATCHES)
    return Data(
        train=ArrayDataset(train[0], train[1], CLASSES, train[2]),
        test=ArrayDataset(test[0], test[1], CLASSES, test[2]),
        split=f"{names.text(path)}: CIFAR-10, {len(train[1]):,} training and {len(test[1]):,} test images of 10 "
        "classes, as its authors divide them",
        mirrored=True,
    )


def _found(path: Path) -> Listing:
    """The listing in which the parts lie at the top."""
    files = listing(path)
    found = _parts(files)
    if found is None:
        for name in [name for name in files if name.startswith("cifar") and is_archive(name)]:
            files |= listing(path / name)
        found = _parts(files)
    if found is None:
        raise DataError(
            f"{path}: expected CIFAR-10: data_batch_1 to 5 and test_batch, or train/CLASS/ and test/CLASS/, "
            "or archives named cifar... of them"
        )
    return found


def _parts(files: Listing) -> Listing | None:
    tops = [name for name in files if name.endswith("/") and name.count("/") == 1]
    inside = (below(files, folder) for folder in ("", *tops))
    return next((found for found in inside if not PARTS.isdisjoint(found)), None)


def _from_folders(files: Listing, part: str, path: Path) -> Part:
    if f"{part}/" not in files:
        raise DataError(f"{path}: expected the folders train and test, got no {part}")
    found = labelled(below(files, f"{part}/"), path / part)
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
