"""Packed data sets: images of one size, decoded and cut beforehand, in a few large files.

A pack is a folder. ``manifest.json`` says what it holds and names every other file with its bytes and SHA-256. Shards
``train-00000.raw`` and so on hold the images one after the other, (H, W, 3) uint8 each, or with ``.jpeg`` a JPEG
file for each. ``index.npz`` holds labels, places (first byte, bytes) of the images in their shards, the mean image and
the principal components of the colours. ``unreadable.txt`` names images that were left out.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import names
from ..files import replacing
from .colours import Colours
from .dataset import Data, DataError, Images, Labels, gather, rows
from .folder import TASKS, reason

MANIFEST, INDEX, OPTIONS, REPORT = "manifest.json", "index.npz", "packing.json", "unreadable.txt"
FORMATS = ("raw", "jpeg")
OPEN_SHARDS = 128  # well below the number of files that a process may have open

Manifest = dict[str, Any]


class Shard(NamedTuple):
    file: str
    images: int


class PackedDataset:
    """One part, "train" or "test", of a pack: raw images are copied from the page cache, JPEG files decoded, in
    threads. ``mean`` (H, W, 3) and ``colours`` are those of the pack's training images."""

    def __init__(
        self, folder: Path, manifest: Manifest, index: Mapping[str, Any], part: str, threads: int | None = None
    ) -> None:
        self.classes: Sequence[str] = tuple(manifest["classes"])
        self.size: tuple[int, int] = (manifest["size"], manifest["size"])
        self.unreadable: dict[str, str] = {}
        self.labels: Labels = index[f"{part}_labels"]
        self.mean: NDArray[np.float32] = index["mean"]
        self.colours: Colours = index["colour_vectors"], index["colour_deviations"]
        shards = [Shard(*shard) for shard in manifest["shards"][part]]
        self._files = [str(folder / shard.file) for shard in shards]
        self._shard = np.repeat(np.arange(len(shards)), [shard.images for shard in shards])
        self._places: NDArray[np.int64] = index[f"{part}_places"]
        self._record = _Record(self.size)
        self._encoded = manifest["format"] == "jpeg"
        self._open = functools.lru_cache(OPEN_SHARDS)(_OpenFile)
        self._threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads, "read")

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, indices: NDArray[np.int64], out: Images | None = None) -> tuple[Images, Labels, NDArray[np.int64]]:
        """As ``Dataset.load``."""
        tasks = self._threads * (TASKS if self._encoded else 1)  # one task costs as much as the copy of an image
        images, places = gather(self._read, indices, rows(out, len(indices), self.size), self._pool, tasks)
        return images, self.labels[indices[places]], places

    def _read(self, index: np.int64, out: Images) -> bool:
        path = self._files[self._shard[index]]
        place, length = self._places[index].tolist()
        try:
            if self._encoded:
                encoded = bytearray(length)
                self._open(path).read_into(memoryview(encoded), place)
                out[:] = decode_jpeg(encoded, self.size)
            else:
                self._open(path).read_into(self._record.bytes, place)
                out[:] = self._record.pixels
        except Exception as e:  # damaged bytes can raise anything at all from inside the decoder
            self.unreadable[f"{names.text(path)}, image {index}"] = reason(e)
            return False
        return True


class _Record(threading.local):
    """Room for an image, one for each thread. It stays in the processor's cache, so that reading to it and copying it
    to its place takes half as long as reading to that place."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.pixels = np.empty((*size, 3), np.uint8)
        self.bytes = self.pixels.data.cast("B")


class _OpenFile:
    """A file open for reads at any place, by any number of threads, until nobody has it."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def read_into(self, buffer: memoryview, place: int) -> None:
        while buffer:
            count = os.preadv(self.descriptor, [buffer], place)
            if not count:
                raise EOFError("the file ends before the image does")
            buffer, place = buffer[count:], place + count


def encode_jpeg(image: Images, quality: int) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def decode_jpeg(encoded: bytes | bytearray, size: tuple[int, int]) -> Images:
    """The pixels of a JPEG file. OSError when it is not one of ``size``."""
    with Image.open(io.BytesIO(encoded), formats=["JPEG"]) as image:
        if (image.height, image.width, image.mode) != (*size, "RGB"):
            raise OSError(f"expected {size[0]}x{size[1]} RGB, got {image.height}x{image.width} {image.mode}")
        return np.asarray(image)


def open_packed(path: Path, sight: tuple[int, int], threads: int | None = None) -> Data:
    """The pack in the folder ``path``, for a network that sees ``sight`` (height, width).

    DataError when there is none, it is not finished, a file is missing or has another size than it should, or the
    images are smaller than the network's view or more than twice as large.
    """
    manifest = read_manifest(path)
    size = manifest["size"]
    if not max(sight) <= size <= 2 * min(sight):
        raise DataError(
            f"{path}: packed at {size}x{size} pixels, got a network that sees {sight[0]}x{sight[1]}; "
            "pack again with a --size a little above that"
        )
    for name in manifest["files"]:
        if problem := damage(path, manifest, name, fully=name == INDEX):
            raise DataError(f"{problem}; python -m alexnet_cuda.pack --verify {path} checks everything")
    with np.load(path / INDEX) as index:
        arrays = dict(index)
    train, test = (PackedDataset(path, manifest, arrays, part, threads) for part in ("train", "test"))
    split = f"{names.text(path)}: packed from {manifest['split']}"
    return Data(train, test, split, manifest["mirrored"])


def read_manifest(path: Path) -> Manifest:
    """The manifest of the pack in the folder ``path``. DataError when there is none or it is damaged."""
    file = path / MANIFEST
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    if (path / OPTIONS).exists() and not file.exists():
        raise DataError(f"{path}: not packed to the end; the same call of python -m alexnet_cuda.pack goes on")
    try:
        text = file.read_text(encoding="utf-8")
        manifest = json.loads(text)
        del manifest["checksum"]
    except FileNotFoundError:
        raise DataError(f"{path}: not a packed data set, it holds no {MANIFEST}") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as e:
        raise DataError(f"{file}: cannot be read: {reason(e)}") from e
    if text != _manifest_text(manifest):
        raise DataError(f"{file}: damaged, its checksum is not the one it names")
    return dict(manifest)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Makes the folder a pack."""
    with replacing(path / MANIFEST) as aside:
        aside.write_text(_manifest_text(manifest), encoding="utf-8")


def described(file: Path) -> dict[str, Any]:
    """A file's entry in the manifest."""
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def damage(path: Path, manifest: Manifest, name: str, fully: bool) -> str | None:
    """What is wrong with a file of a pack, None if nothing: its size, and with ``fully`` its checksum."""
    file, expected = path / name, manifest["files"][name]
    try:
        count = file.stat().st_size
        if count != expected["bytes"]:
            return f"{file}: expected {expected['bytes']:,} bytes, got {count:,}"
        if fully and described(file) != expected:
            return f"{file}: damaged, its checksum is not the one in {MANIFEST}"
    except OSError as e:
        return f"{file}: {e.strerror}"
    return None


def _manifest_text(manifest: Manifest) -> str:
    """The manifest with its checksum, to the letter."""
    checksum = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    return json.dumps(manifest | {"checksum": checksum}, indent=1, ensure_ascii=False) + "\n"
