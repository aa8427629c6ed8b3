"""``python -m alexnet_cuda.pack SRC DST``: decodes images once, for epochs that only copy them.

DST becomes a folder that ``--data packed:DST`` names. Shards are finished one by one: after an interruption the same
call goes on with the first that is missing.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import sys
import time
import zipfile
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from io import BufferedWriter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from . import command_line, names, terminal
from .command_line import Failure, UsageError, checked_input, count
from .data import SOURCES, Data, Dataset, open_data
from .data.colours import colour_moments, principal_components
from .data.dataset import Labels
from .data.folder import FileDataset
from .data.loader import ahead
from .data.packed import (
    FORMATS,
    INDEX,
    MANIFEST,
    OPTIONS,
    REPORT,
    damage,
    described,
    encode_jpeg,
    read_manifest,
    write_manifest,
)
from .files import replacing

__all__ = ["main"]

SHARD_BYTES = 1 << 28
BLOCK_BYTES = 1 << 25  # images that are decoded together
BLOCKS_AHEAD = 6  # decoded while a shard is being written to the disk
BLOCKS_AT_ONCE = 2  # so that there is something to decode while one is summed up
JPEG_SHARE = 0.15  # of the bytes of an image that its JPEG file takes, about
QUIET_SECONDS = 10  # without a terminal a line appears about this often


def parser() -> command_line.Parser:
    p = command_line.Parser(
        "pack",
        "Decodes the images of SRC once, cuts them to squares and writes them to the folder DST,\n"
        "which then serves as --data packed:DST.",
        "Ctrl-C leaves the finished shards; the same call goes on from there.\n"
        "Exit codes: 0 done, 1 failure, 2 wrong usage, 130 interrupted.",
    )
    p.add_argument("src", nargs="?", metavar="SRC", help="as for --data, such as imagenet:PATH; PATH is folder:PATH")
    p.add_argument("dst", nargs="?", metavar="DST", type=Path, help="folder to write, new or begun by the same call")
    p.add_argument("--size", type=command_line.positive_int, default=256, metavar="N", help="pixels (default 256)")
    p.add_argument("--format", choices=FORMATS, default="raw", help="raw bytes, or JPEG, smaller and slower to read")
    p.add_argument("--quality", type=command_line.positive_int, default=95, metavar="Q", help="of JPEG (default 95)")
    p.add_argument("--threads", type=command_line.positive_int, metavar="N", help="that decode (default: one a core)")
    p.add_argument("--strict", action="store_true", help="fail at the first image that cannot be read")
    p.add_argument("--verify", type=Path, metavar="DST", help="only read the pack DST and compare its checksums")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    console = terminal.console()
    if options.verify is not None:
        if options.src is not None:
            raise UsageError("--verify takes the folder of a pack and nothing else")
        return _verify(options.verify)
    if options.dst is None:
        raise UsageError("expected SRC and DST (--help lists the options)")
    if options.quality > 100:
        raise UsageError(f"--quality: expected 1 to 100, got {options.quality}")
    known = [source.partition(":")[0] for source in SOURCES]
    source = options.src if options.src.partition(":")[0] in known else f"folder:{options.src}"
    _held(options.dst)
    with checked_input():
        data = open_data(source, options.size, options.size, options.threads, margin=False)
    if data.train.size != (options.size, options.size):
        height, width = data.train.size
        raise UsageError(f"{source} holds images of {height}x{width} pixels, got --size {options.size}")
    pack = Pack(options, data)
    if not pack.begin():
        terminal.say(f"{names.text(pack.folder)} is packed already")
        return 0
    try:
        pack.write(console)
    except KeyboardInterrupt:
        print(f"interrupted; the same call goes on from what is in {names.text(pack.folder)}", file=sys.stderr)
        return 130
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Failure(f"{pack.folder}: no space left; once there is more, the same call goes on") from e
    return 0


class Piece(NamedTuple):
    """A shard to be: the images ``first`` to before ``last`` of a part of the data."""

    part: str
    number: int
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.part}-{self.number:05}"


class Block(NamedTuple):
    """Some images of a shard, ready to be written."""

    piece: Piece
    records: Sequence[memoryview | bytes]
    labels: Labels
    total: NDArray[np.uint32]
    """Sum of the images."""
    moments: NDArray[np.float64]
    sources: int
    """Images of the source, readable or not."""


class Pack:
    """A folder on its way to becoming a pack."""

    def __init__(self, options: Namespace, data: Data) -> None:
        self.folder: Path = options.dst
        self.data, self.strict = data, options.strict
        self.format, self.size, self.quality = options.format, options.size, options.quality
        self.parts: dict[str, Dataset] = {"train": data.train, "test": data.test}
        self.image_bytes = 3 * self.size**2
        self.record_bytes = self.image_bytes * (JPEG_SHARE if self.format == "jpeg" else 1)
        self.threads = ThreadPoolExecutor(options.threads or len(os.sched_getaffinity(0)), "encode")
        step = max(1, round(SHARD_BYTES / self.record_bytes))
        self.options = {
            "images": _fingerprint(data),
            "format": self.format,
            "size": self.size,
            "quality": self.quality if self.format == "jpeg" else None,
            "images a shard": step,
        }
        self.pieces = [
            Piece(part, number, first, min(first + step, len(dataset)))
            for part, dataset in self.parts.items()
            for number, first in enumerate(range(0, len(dataset), step))
        ]
        self._seen: set[str] = set()

    def begin(self) -> bool:
        """Makes the folder, or goes on in it; False when it is a finished pack of the same call. UsageError when it
        holds anything else."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UsageError(f"{self.folder}: {e.strerror}") from e
        held = _held(self.folder)
        finished = MANIFEST in held
        if finished:
            with checked_input():
                began = read_manifest(self.folder)["options"]
        elif OPTIONS in held:
            try:
                began = dict(json.loads((self.folder / OPTIONS).read_bytes()))
            except (OSError, ValueError, TypeError) as e:
                raise UsageError(f"{self.folder / OPTIONS}: cannot be read: {e}") from e
        else:
            with replacing(self.folder / OPTIONS) as aside:
                aside.write_text(json.dumps(self.options), encoding="utf-8")
            return True
        if began.get("images") != self.options["images"]:
            raise UsageError(f"{self.folder}: begun with other images than {self.data.split}")
        for name, value in self.options.items():
            if began.get(name) != value:
                raise UsageError(f"{self.folder}: begun with {name} {began.get(name)}, got {value}")
        if finished:
            self._tidy()
        return not finished

    def write(self, console: Console) -> None:
        """Writes what is still missing, the manifest last."""
        missing = [piece for piece in self.pieces if not self._is_finished(piece)]
        needed = sum(piece.last - piece.first for piece in missing) * self.record_bytes
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise Failure(f"{self.folder}: needs about {needed / 1e9:,.1f} GB, there are {free / 1e9:,.1f} GB left")
        step = max(1, BLOCK_BYTES // self.image_bytes)
        blocks = [
            (piece, range(first, min(first + step, piece.last)))
            for piece in missing
            for first in range(piece.first, piece.last, step)
        ]
        total = sum(piece.last - piece.first for piece in self.pieces)
        done = total - sum(len(indices) for _, indices in blocks)
        made = ahead(self._make, blocks, BLOCKS_AHEAD, BLOCKS_AT_ONCE)
        with _Progress(console, total, done) as progress, closing(made):
            for piece, of_piece in itertools.groupby(made, key=lambda block: block.piece):
                self._write_shard(piece, of_piece, progress)
        self._finish()

    def _make(self, block: tuple[Piece, range]) -> Block:
        piece, indices = block
        dataset = self.parts[piece.part]
        images, labels, _ = dataset.load(np.array(indices))
        records: Sequence[memoryview | bytes] = [image.data.cast("B") for image in images]
        if self.format == "jpeg":
            records = list(self.threads.map(lambda image: encode_jpeg(image, self.quality), images))
        total = images.sum(axis=0, dtype=np.uint32)
        moments = sum(map(colour_moments, images), np.zeros((4, 4)))
        return Block(piece, records, labels, total, moments, len(indices))

    def _unreadable(self, part: str) -> dict[str, str]:
        """The images that were found so since the last call: those of all blocks made so far, and maybe some of one
        that is being made, which will be found again if this call is interrupted before."""
        found = {name: why for name, why in dict(self.parts[part].unreadable).items() if name not in self._seen}
        self._seen.update(found)
        if found and self.strict:
            name, why = next(iter(found.items()))
            raise Failure(f"{name}: {why}")
        return found

    def _write_shard(self, piece: Piece, blocks: Iterable[Block], progress: _Progress) -> None:
        digest, labels, lengths = hashlib.sha256(), list[Labels](), [0]
        total, moments = np.zeros((self.size, self.size, 3), np.uint64), np.zeros((4, 4))
        unreadable: dict[str, str] = {}
        with replacing(self._shard(piece)) as aside, aside.open("wb") as file, _Disk(file) as disk:
            for block in blocks:
                unreadable |= self._unreadable(piece.part)
                for record in block.records:
                    file.write(record)
                    digest.update(record)
                    lengths.append(len(record))
                disk.begin()
                labels.append(block.labels)
                total += block.total
                moments += block.moments
                progress.advance(block.sources)
        ends = np.cumsum(lengths)
        entry = {"bytes": int(ends[-1]), "sha256": digest.hexdigest()}
        with replacing(self._notes(piece)) as aside, aside.open("wb") as file:
            np.savez(
                file,
                labels=np.concatenate(labels),
                places=np.stack([ends[:-1], np.diff(ends)], axis=1),
                total=total,
                moments=moments,
                entry=json.dumps(entry),
                unreadable=json.dumps(unreadable),
            )

    def _finish(self) -> None:
        labels: dict[str, list[Labels]] = {part: [] for part in self.parts}
        places: dict[str, list[NDArray[np.int64]]] = {part: [] for part in self.parts}
        shards: dict[str, list[tuple[str, int]]] = {part: [] for part in self.parts}
        files: dict[str, Any] = {}
        unreadable: dict[str, str] = {}
        total, moments = np.zeros((self.size, self.size, 3), np.uint64), np.zeros((4, 4))
        for piece in self.pieces:
            with np.load(self._notes(piece)) as notes:
                labels[piece.part].append(notes["labels"])
                places[piece.part].append(notes["places"])
                shards[piece.part].append((self._shard(piece).name, len(notes["labels"])))
                files[self._shard(piece).name] = json.loads(str(notes["entry"]))
                unreadable |= json.loads(str(notes["unreadable"]))
                if piece.part == "train":
                    total += notes["total"]
                    moments += notes["moments"]
        images = {part: sum(number for _, number in shards[part]) for part in self.parts}
        for part, number in images.items():
            if not number:
                name, why = next(iter(unreadable.items()))
                raise Failure(f"none of the {part} images can be read; {name}: {why}")
        index: dict[str, Any] = {"mean": (total / images["train"]).astype(np.float32)}
        index["colour_vectors"], index["colour_deviations"] = principal_components(moments)
        for part in self.parts:
            index[f"{part}_labels"] = np.concatenate(labels[part])
            index[f"{part}_places"] = np.concatenate(places[part])
        with replacing(self.folder / INDEX) as aside, aside.open("wb") as file:
            np.savez(file, **index)
        with replacing(self.folder / REPORT) as aside:
            aside.write_text("".join(f"{name}: {why}\n" for name, why in unreadable.items()), encoding="utf-8")
        files |= {name: described(self.folder / name) for name in (INDEX, REPORT)}
        write_manifest(
            self.folder,
            {
                "format": self.format,
                "size": self.size,
                "classes": list(self.data.classes),
                "images": images,
                "split": self.data.split,
                "mirrored": self.data.mirrored,
                "options": self.options,
                "shards": shards,
                "files": files,
            },
        )
        self._tidy()
        terminal.say(
            f"packed {images['train']:,} training and {count(images['test'], 'test image')} of "
            f"{count(len(self.data.classes), 'class')}, {self.size}x{self.size} {self.format}, {_gigabytes(files)}, "
            f"into {names.text(self.folder)}",
        )
        if unreadable:
            left_out = count(len(unreadable), "image")
            where = names.text(self.folder / REPORT)
            terminal.say(f"left out {left_out} that cannot be read; {where} names them")

    def _is_finished(self, piece: Piece) -> bool:
        try:
            with np.load(self._notes(piece)) as notes:
                entry = json.loads(str(notes["entry"]))
            return self._shard(piece).stat().st_size == entry["bytes"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return False

    def _shard(self, piece: Piece) -> Path:
        return self.folder / f"{piece}.{self.format}"

    def _notes(self, piece: Piece) -> Path:
        """What is known of a finished shard until the index holds it."""
        return self.folder / f"{piece}.npz"

    def _tidy(self) -> None:
        for piece in self.pieces:
            self._notes(piece).unlink(missing_ok=True)
        (self.folder / OPTIONS).unlink(missing_ok=True)


def _held(folder: Path) -> set[str]:
    """The names in a folder that is to be a pack. UsageError when it holds anything but a pack, begun or finished."""
    try:
        held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    except OSError as e:
        raise UsageError(f"{folder}: {e.strerror}") from e
    if held and not held & {MANIFEST, OPTIONS}:
        raise UsageError(f"{folder}: neither empty nor a pack; nothing is overwritten")
    return held


def _fingerprint(data: Data) -> str:
    """What tells the images of one call from those of another: classes, labels, and the names of the files."""
    digest = hashlib.sha256(json.dumps(list(data.classes)).encode())
    for part in (data.train, data.test):
        digest.update(part.labels.tobytes())
        if isinstance(part, FileDataset):
            digest.update(json.dumps([os.path.basename(str(file)) for file in part.files]).encode())
    return digest.hexdigest()


def _gigabytes(files: Mapping[str, Any]) -> str:
    return f"{sum(entry['bytes'] for entry in files.values()) / 1e9:,.2f} GB"


def _verify(folder: Path) -> int:
    with checked_input():
        manifest = read_manifest(folder)
    problems = [problem for name in manifest["files"] if (problem := damage(folder, manifest, name, fully=True))]
    for problem in problems:
        terminal.say(names.shown(problem))
    if problems:
        raise Failure(f"{folder}: damaged or missing: {len(problems):,} of {count(len(manifest['files']), 'file')}")
    held = f"{count(len(manifest['files']), 'file')}, {_gigabytes(manifest['files'])}"
    terminal.say(f"{names.text(folder)}: {held}, all as they were written")
    return 0


class _Disk:
    """Has the disk write what a file holds while images are decoded, not when the file is complete. OSError at the end
    of the block, or before, when that fails."""

    def __init__(self, file: BufferedWriter) -> None:
        self._file, self._thread = file, ThreadPoolExecutor(1, "disk")
        self._synced: Future[None] | None = None

    def begin(self) -> None:
        """With what has been written so far, unless it is still busy."""
        if self._synced is None or self._synced.done():
            self._wait()
            self._file.flush()
            self._synced = self._thread.submit(os.fsync, self._file.fileno())

    def _wait(self) -> None:
        if self._synced is not None:
            self._synced.result()

    def __enter__(self) -> _Disk:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
        self._wait()


class _Progress:
    """A bar on a terminal, lines elsewhere: images done, images a second, time left."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        self.console, self.total, self.done = console, total, done
        self._first, self._began = done, time.monotonic()
        self._spoke = self._began
        self._bar = terminal.Bar(console, "packing", total, done)

    def __enter__(self) -> _Progress:
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()

    def advance(self, images: int) -> None:
        self.done += images
        now = time.monotonic()
        rate = (self.done - self._first) / max(now - self._began, 1e-9)
        speed, left = f"{rate:,.0f} images/s", f"{timedelta(seconds=round((self.total - self.done) / rate))} left"
        self._bar.update(self.done, speed, left)
        if not self.console.is_terminal and now - self._spoke > QUIET_SECONDS:
            self.console.print(f"{self.done:,} of {self.total:,} images  {speed}  {left}", soft_wrap=True)
            self._spoke = now


if __name__ == "__main__":
    sys.exit(command_line.run(main))
