"""``python -m alexnet_cuda.pack`` and packed data sets: contents, interruptions, damage, errors."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from alexnet_cuda import command_line, pack
from alexnet_cuda.data import DataError, FileDataset, Loader, PackedDataset, colour_pca, mean_image, open_data
from alexnet_cuda.data.folder import decode

SIZE = 24
COMMAND = [sys.executable, "-m", "alexnet_cuda.pack"]


def call(*arguments: object) -> int:
    return command_line.run(pack.main, [str(argument) for argument in arguments])


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noisy pictures of several sizes: 12 images each to train on, 4 to test."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        for name, colour in {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}.items():
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = (np.array(colour) + rng.integers(-40, 41, (30 + i, 40 - i, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i:02}.png")
    return root


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 10 raw images, decoded 4 at a time."""
    monkeypatch.setattr(pack, "SHARD_BYTES", 10 * 3 * SIZE**2)
    monkeypatch.setattr(pack, "BLOCK_BYTES", 4 * 3 * SIZE**2)


@pytest.fixture(scope="session")
def packs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The images packed in a format; not to be changed."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("packs") / kind
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pack, "SHARD_BYTES", 10 * 3 * SIZE**2)
                assert call(images, made[kind], "--size", SIZE, "--format", kind, "--threads", 2) == 0
        return made[kind]

    return get


def everything(data: Any) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels, places = data.load(np.arange(len(data)))
    assert_array_equal(places, np.arange(len(data)))
    return pixels, labels


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- contents


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_a_pack_holds_what_the_folder_holds(images: Path, packs: Callable[[str], Path], kind: str) -> None:
    folder = open_data(f"folder:{images}", SIZE, SIZE, margin=False)
    packed = open_data(f"packed:{packs(kind)}", SIZE, SIZE)
    assert packed.classes == folder.classes
    assert packed.mirrored
    assert folder.split in packed.split
    for ours, theirs in ((packed.train, folder.train), (packed.test, folder.test)):
        pixels, labels = everything(ours)
        expected, expected_labels = everything(theirs)
        assert_array_equal(labels, expected_labels)
        assert_array_equal(ours.labels, labels)
        if kind == "raw":
            assert_array_equal(pixels, expected)
        else:
            assert np.abs(pixels.astype(int) - expected).mean() < 12  # noise is hard on JPEG
        assert not ours.unreadable


def test_records_are_read_in_any_order_into_a_buffer(packs: Callable[[str], Path]) -> None:
    data = open_data(f"packed:{packs('raw')}", SIZE, SIZE).train
    pixels, labels = everything(data)
    indices = np.random.default_rng(0).permutation(len(data))[:17]
    buffer = np.zeros((20, SIZE, SIZE, 3), np.uint8)
    loaded, some, _ = data.load(indices, buffer)
    assert np.shares_memory(loaded, buffer)
    assert_array_equal(loaded, pixels[indices])
    assert_array_equal(some, labels[indices])
    assert not buffer[17:].any()


def test_statistics_are_those_of_all_training_images(images: Path, packs: Callable[[str], Path]) -> None:
    folder = open_data(f"folder:{images}", SIZE, SIZE, margin=False).train
    for kind in ("raw", "jpeg"):
        packed = open_data(f"packed:{packs(kind)}", SIZE, SIZE).train
        assert isinstance(packed, PackedDataset)
        assert mean_image(packed, most=1) is packed.mean
        assert packed.mean.dtype == np.float32
        assert_allclose(packed.mean, mean_image(folder), rtol=1e-6)
        for ours, theirs in zip(colour_pca(packed, most=1), colour_pca(folder), strict=True):
            assert ours.dtype == np.float32
            assert_allclose(ours, theirs, rtol=1e-4)


def test_shards_have_their_size_and_nothing_else_remains(packs: Callable[[str], Path]) -> None:
    assert sorted(path.name for path in packs("raw").iterdir()) == [
        "index.npz",
        "manifest.json",
        *("test-00000.raw", "test-00001.raw"),
        *(f"train-0000{i}.raw" for i in range(4)),
        "unreadable.txt",
    ]
    assert (packs("raw") / "train-00002.raw").stat().st_size == 10 * 3 * SIZE**2
    assert (packs("raw") / "train-00003.raw").stat().st_size == 6 * 3 * SIZE**2
    manifest = json.loads((packs("raw") / "manifest.json").read_text())
    assert manifest["images"] == {"train": 36, "test": 12}
    assert manifest["classes"] == ["blue", "green", "red"]


def test_loader_over_a_pack_goes_on_from_any_batch(packs: Callable[[str], Path]) -> None:
    data = open_data(f"packed:{packs('raw')}", SIZE - 4, SIZE - 4).train

    def epoch(start: int) -> list[list[np.ndarray]]:
        loader = Loader(data, (SIZE - 4, SIZE - 4), 7, True, np.eye(3, dtype=np.float32), seed=4)
        return [[array.copy() for array in batch[:4]] for _, batch in loader.training(2, start)]

    whole = epoch(0)
    for start in range(5):
        for batch, same in zip(whole[start:], epoch(start), strict=True):
            for a, b in zip(batch, same, strict=True):
                assert_array_equal(a, b)


def test_packing_twice_gives_the_same_bytes(images: Path, packs: Callable[[str], Path], tmp_path: Path) -> None:
    assert call(images, tmp_path / "again", "--size", SIZE, "--threads", 1) == 0
    again, before = contents(tmp_path / "again"), contents(packs("raw"))
    assert again.keys() == before.keys()
    assert all(again[name] == before[name] for name in again if name.endswith((".raw", ".json")))


def test_sources_without_files_are_packed_too(tmp_path: Path) -> None:
    assert call("synthetic:5", tmp_path / "pack", "--size", SIZE) == 0
    packed, made = (open_data(s, SIZE, SIZE, margin=False) for s in (f"packed:{tmp_path / 'pack'}", "synthetic:5"))
    for ours, theirs in ((packed.train, made.train), (packed.test, made.test)):
        for a, b in zip(everything(ours), everything(theirs), strict=True):
            assert_array_equal(a, b)
    assert call(f"packed:{tmp_path / 'pack'}", tmp_path / "again", "--size", SIZE, "--format", "jpeg") == 0


@pytest.mark.parametrize(("sight", "fits"), [(24, True), (12, True), (25, False), (11, False)])
def test_a_pack_serves_networks_that_see_a_little_less(packs: Callable[[str], Path], sight: int, fits: bool) -> None:
    message = rf"packed at 24x24 pixels, got a network that sees {sight}x{sight}; pack again"
    with contextlib.nullcontext() if fits else pytest.raises(DataError, match=message):
        assert open_data(f"packed:{packs('raw')}", sight, sight).train.size == (24, 24)


# ---- odd images


def odd_images(root: Path) -> dict[str, str]:
    """Two classes of readable oddities; the names of unreadable files among them and the reasons that are expected."""
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 256, (50, 60, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        folder = root / name
        folder.mkdir(parents=True)
        noise.convert("L").save(folder / "grey.jpg")
        noise.convert("CMYK").save(folder / "cmyk.jpg")
        noise.quantize(16).save(folder / "palette.png")
        noise.convert("RGBA").save(folder / "alpha.png")
        Image.new("I;16", (9, 9), 40_000).save(folder / "deep.png")
        Image.new("RGB", (1, 1), "red").save(folder / "pixel.bmp")
        noise.save(folder / "turned.jpg", exif=exif)
    noise.save(root / "a" / "cut.jpg")
    (root / "a" / "cut.jpg").write_bytes((root / "a" / "cut.jpg").read_bytes()[:900])
    (root / "a" / "empty.png").write_bytes(b"")
    (root / "b" / "text.webp").write_text("no image")
    header = b"BM" + (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    claim = (30_000).to_bytes(4, "little") * 2 + b"\x01\x00\x18\x00" + bytes(24)
    (root / "b" / "bomb.bmp").write_bytes(header + claim)
    return {
        "cut.jpg": "truncated",
        "empty.png": "cannot identify",
        "text.webp": "cannot identify",
        "bomb.bmp": "900000000 pixels",
    }


def test_odd_images_are_packed_or_named_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = odd_images(tmp_path / "odd")
    assert call(f"folder:{tmp_path / 'odd'}", tmp_path / "pack", "--size", SIZE) == 0
    assert "left out 4 images that cannot be read" in capsys.readouterr().out.replace("\n", " ")
    lines = (tmp_path / "pack" / "unreadable.txt").read_text().splitlines()
    assert len(lines) == 4
    for name, reason in broken.items():
        (line,) = (line for line in lines if name in line)
        assert reason in line.partition(": ")[2]
    data = open_data(f"packed:{tmp_path / 'pack'}", SIZE, SIZE)
    assert len(data.train) + len(data.test) == 14
    source = open_data(f"folder:{tmp_path / 'odd'}", SIZE, SIZE, margin=False)
    for ours, theirs in ((data.train, source.train), (data.test, source.test)):
        assert isinstance(theirs, FileDataset)
        good = [i for i, path in enumerate(theirs.files) if Path(path).name not in broken]
        pixels, labels = everything(ours)
        assert_array_equal(labels, theirs.labels[good])
        for image, i in zip(pixels, good, strict=True):
            assert_array_equal(image, decode(theirs.files[i], (SIZE, SIZE)))


def test_strict_fails_on_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd_images(tmp_path / "odd")
    assert call(tmp_path / "odd", tmp_path / "pack", "--size", SIZE, "--strict") == 1
    assert error(capsys).startswith(f"error: {tmp_path}/odd/")
    with pytest.raises(DataError, match="not packed to the end; the same call"):
        open_data(f"packed:{tmp_path / 'pack'}", SIZE, SIZE)


def test_one_block_is_summed_up_while_another_is_decoded(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are in the making at any time: each of these blocks of one image waits for its fellow."""
    together = threading.Barrier(2, timeout=10)
    moments = pack.colour_moments

    def waiting(image: np.ndarray) -> np.ndarray:
        together.wait()
        return moments(image)

    monkeypatch.setattr(pack, "colour_moments", waiting)
    monkeypatch.setattr(pack, "BLOCK_BYTES", 1)
    assert call(images, tmp_path / "pack", "--size", SIZE) == 0
    assert not together.broken


@pytest.mark.parametrize("broken", [False, True])
def test_the_disk_writes_while_images_are_decoded(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: bool
) -> None:
    """The first blocks of a shard are synced before it is complete, and what the disk says then is not lost."""
    sizes: list[int] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        if threading.current_thread().name.startswith("disk"):
            sizes.append(os.fstat(descriptor).st_size)
            if broken:
                raise OSError(errno.EIO, "the disk is broken")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    assert call(images, tmp_path / "pack", "--size", SIZE) == int(broken)
    assert sizes[0] == 4 * 3 * SIZE**2
    if broken:
        assert "the disk is broken" in error(capsys)
        assert not list((tmp_path / "pack").glob("*.raw"))


def test_a_shard_of_nothing_readable_is_empty(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "images")
    for path in sorted((tmp_path / "images" / "train" / "blue").iterdir()):
        path.write_bytes(b"")
    assert call(tmp_path / "images", tmp_path / "pack", "--size", SIZE) == 0
    assert (tmp_path / "pack" / "train-00000.raw").stat().st_size == 0
    _, labels = everything(open_data(f"packed:{tmp_path / 'pack'}", SIZE, SIZE).train)
    assert_array_equal(np.bincount(labels), [0, 12, 12])


def test_nothing_readable_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (tmp_path / "bad" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bad" / name).write_bytes(b"")
    assert call(tmp_path / "bad", tmp_path / "pack", "--size", SIZE) == 1
    assert "none of the train images can be read" in error(capsys)


# ---- interruption


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
@pytest.mark.parametrize("after", [1, 3, 5])
def test_packing_goes_on_without_redoing_finished_shards(
    images: Path, packs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, after: int
) -> None:
    written: list[str] = []
    arguments = (images, tmp_path / "pack", "--size", SIZE, "--format", kind)
    write = pack.Pack._write_shard

    def killed(self: pack.Pack, piece: pack.Piece, *rest: Any) -> None:
        if len(written) == after:
            raise Killed
        written.append(str(piece))
        write(self, piece, *rest)

    monkeypatch.setattr(pack.Pack, "_write_shard", killed)
    if kind == "jpeg":
        monkeypatch.setattr(pack, "JPEG_SHARE", 1)
    with pytest.raises(Killed):
        call(*arguments)
    with pytest.raises(DataError, match="not packed to the end"):
        open_data(f"packed:{tmp_path / 'pack'}", SIZE, SIZE)
    before = written.copy()
    after = 100
    assert call(*arguments) == 0
    assert len(before) + len(set(written) - set(before)) == len(written) == 6
    assert call("--verify", tmp_path / "pack") == 0
    ours, theirs = (open_data(f"packed:{folder}", SIZE, SIZE) for folder in (tmp_path / "pack", packs(kind)))
    for a, b in zip(everything(ours.train), everything(theirs.train), strict=True):
        assert_array_equal(a, b)
    assert_array_equal(mean_image(ours.train), mean_image(theirs.train))
    assert_array_equal(colour_pca(ours.train)[1], colour_pca(theirs.train)[1])
    assert call(*arguments) == 0
    assert len(written) == 6


SLOW = """
import sys, time
from alexnet_cuda import command_line, pack
pack.SHARD_BYTES, pack.BLOCK_BYTES = 10 * 3 * 24**2, 4 * 3 * 24**2
decode = pack.Pack._make
def slow(self, block):
    time.sleep(0.1)
    return decode(self, block)
pack.Pack._make = slow
sys.exit(command_line.run(pack.main))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_killed_process_leaves_what_the_next_call_goes_on_from(
    images: Path, packs: Callable[[str], Path], tmp_path: Path, number: int, code: int
) -> None:
    folder = tmp_path / "pack"
    arguments = [str(images), str(folder), "--size", str(SIZE)]
    process = subprocess.Popen([sys.executable, "-c", SLOW, *arguments], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (folder / "train-00001.npz").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert process.returncode == code, message
    assert message == ("" if code < 0 else f"interrupted; the same call goes on from what is in {folder}\n")
    assert not (folder / "manifest.json").exists()
    first = (folder / "train-00000.raw").stat().st_mtime_ns
    assert call(*arguments) == 0
    assert (folder / "train-00000.raw").stat().st_mtime_ns == first
    assert contents(folder)["train-00003.raw"] == contents(packs("raw"))["train-00003.raw"]
    assert contents(folder).keys() == contents(packs("raw")).keys()
    assert call("--verify", folder) == 0


def test_a_finished_shard_that_was_lost_is_written_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (images, tmp_path / "pack", "--size", SIZE)
    monkeypatch.setattr(pack.Pack, "_finish", lambda *_: None)
    assert call(*arguments) == 0
    (tmp_path / "pack" / "train-00001.raw").unlink()
    (tmp_path / "pack" / "train-00002.npz").write_bytes(b"PK damaged")
    monkeypatch.undo()
    monkeypatch.setattr(pack, "SHARD_BYTES", 10 * 3 * SIZE**2)
    assert call(*arguments) == 0
    assert call("--verify", tmp_path / "pack") == 0


# ---- damage


@settings(max_examples=40)
@given(data=st.data())
@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_damage_is_found_and_never_crashes_the_reader(
    packs: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, kind: str, data: Any
) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "pack"
    shutil.copytree(packs(kind), folder)
    victim = data.draw(st.sampled_from(sorted(path for path in folder.iterdir() if path.stat().st_size)))
    content = bytearray(victim.read_bytes())
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    with contextlib.suppress(DataError):
        opened = open_data(f"packed:{folder}", SIZE, SIZE)
        victim.write_bytes(content)
        opened.train.load(np.arange(36))
        opened.test.load(np.arange(12))
    assert call("--verify", folder) in (1, 2)
    with contextlib.suppress(DataError):
        opened = open_data(f"packed:{folder}", SIZE, SIZE)
        for part, count in ((opened.train, 36), (opened.test, 12)):
            _, labels, places = part.load(np.arange(count))
            assert len(labels) == len(places) == count - len(part.unreadable)
    shutil.rmtree(folder.parent)


def test_verify_names_what_is_damaged(
    packs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(packs("raw"), folder)
    assert call("--verify", folder) == 0
    assert "8 files" in capsys.readouterr().out
    (folder / "train-00001.raw").unlink()
    content = bytearray((folder / "test-00000.raw").read_bytes())
    content[100] ^= 1
    (folder / "test-00000.raw").write_bytes(content)
    assert call("--verify", folder) == 1
    said = capsys.readouterr()
    assert "train-00001.raw: No such file" in said.out
    assert "test-00000.raw: damaged, its checksum is not the one in manifest.json" in said.out
    assert said.err == f"error: {folder}: damaged or missing: 2 of 8 files\n"
    with pytest.raises(DataError, match=r"train-00001\.raw: No such file.*--verify"):
        open_data(f"packed:{folder}", SIZE, SIZE)


def test_a_shard_cut_short_while_it_is_in_use_loses_only_its_images(
    packs: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(packs("raw"), tmp_path / "pack")
    data = open_data(f"packed:{tmp_path / 'pack'}", SIZE, SIZE).train
    os.truncate(tmp_path / "pack" / "train-00001.raw", 3 * SIZE**2 * 2 + 5)
    _, labels, places = data.load(np.arange(36))
    assert len(labels) == 28
    assert_array_equal(places, [*range(12), *range(20, 36)])
    assert "the file ends before the image does" in next(iter(data.unreadable.values()))


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "expected SRC and DST"),
        (("folder:x",), 2, "expected SRC and DST"),
        (("{}/none", "{}/pack"), 2, "none: no such folder"),
        (("foldr:{}", "{}/pack"), 2, "foldr:.*: no such folder"),
        (("folder:{}", "{}/pack", "--size", "0"), 2, "argument --size: expected a whole number above 0"),
        (("folder:{}", "{}/pack", "--quality", "101"), 2, "--quality: expected 1 to 100, got 101"),
        (("folder:{}", "{}/pack", "--format", "png"), 2, "invalid choice: 'png'"),
        (("folder:{}", "{}/pack", "--sise", "3"), 2, "unknown argument --sise; did you mean --size?"),
        (("synthetic:5", "{}/file", "--size", "8"), 2, "file: Not a directory"),
        (("synthetic:5", "{}/full", "--size", "8"), 2, "full: neither empty nor a pack; nothing is overwritten"),
        (("--verify", "{}/full"), 2, "full: not a packed data set, it holds no manifest.json"),
        (("--verify", "{}/gone"), 2, "gone: no such folder"),
        (("--verify", "{}/full", "more"), 2, "--verify takes the folder of a pack and nothing else"),
    ],
)
def test_bad_calls_are_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("dear")
    assert call(*(argument.format(tmp_path) for argument in arguments)) == code
    line = error(capsys)
    assert re.search(message, line), line
    assert {path.name for path in tmp_path.iterdir()} == {"file", "full"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "30"), "begun with size 24, got 30"),
        (("--size", "24", "--format", "jpeg"), "begun with format raw, got jpeg"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_pack_of_another_call_is_refused(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    message: str,
    finished: bool,
) -> None:
    if not finished:
        monkeypatch.setattr(pack.Pack, "_finish", lambda *_: None)
    assert call(images, tmp_path / "pack", "--size", SIZE) == 0
    before = contents(tmp_path / "pack")
    capsys.readouterr()
    assert call(images, tmp_path / "pack", *options) == 2
    assert message in error(capsys)
    assert call(images / "train", tmp_path / "pack", "--size", SIZE) == 2
    assert "begun with other images than" in error(capsys)
    assert contents(tmp_path / "pack") == before


def test_too_little_space_is_noticed_before_anything_is_written(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert call(images, tmp_path / "pack", "--size", SIZE) == 1
    assert "needs about 0.0 GB, there are 0.0 GB left" in error(capsys)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    assert call(images, tmp_path / "pack", "--size", SIZE) == 0


def test_a_disk_that_fills_up_breaks_nothing(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = pack._Progress.advance

    def full(self: Any, images: int) -> None:
        advance(self, images)
        if self.done > 22:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pack._Progress, "advance", full)
    assert call(images, tmp_path / "pack", "--size", SIZE) == 1
    assert "no space left; once there is more, the same call goes on" in error(capsys)
    assert not any("partial" in path.name for path in (tmp_path / "pack").iterdir())
    monkeypatch.setattr(pack._Progress, "advance", advance)
    assert call(images, tmp_path / "pack", "--size", SIZE) == 0
    assert call("--verify", tmp_path / "pack") == 0


# ---- what a person sees


def test_plain_lines_without_a_terminal(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "QUIET_SECONDS", 0)
    assert call(images, tmp_path / "pack", "--size", SIZE) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "4 of 48 images" in said
    assert "images/s" in said
    assert "left\n" in said
    last = " ".join(said[said.index("packed 36") :].split())
    assert last.startswith("packed 36 training and 12 test images of 3 classes, 24x24 raw, 0.00 GB, into")
    assert call(images, tmp_path / "pack", "--size", SIZE) == 0
    assert "is packed already" in capsys.readouterr().out


def test_a_bar_on_a_terminal(images: Path, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    command = [*COMMAND, str(images), str(tmp_path / "pack"), "--size", str(SIZE)]
    process = subprocess.Popen(command, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    said = b""
    with contextlib.suppress(OSError):  # Linux reports the end of a terminal as an error
        while part := os.read(leader, 4096):
            said += part
    os.close(leader)
    assert process.wait(timeout=60) == 0, said
    assert b"images/s" in said


@pytest.mark.slow
def test_a_real_sample_of_imagenet(tmp_path: Path) -> None:
    path = os.environ.get("ALEXNET_IMAGENET")
    if not path:
        pytest.skip("ALEXNET_IMAGENET does not name a folder or archive of ImageNet images")
    assert call(f"imagenet:{path}", tmp_path / "pack") == 0
    assert call("--verify", tmp_path / "pack") == 0
    data = open_data(f"packed:{tmp_path / 'pack'}", 224, 224)
    assert len(data.classes) >= 2
    assert_allclose(mean_image(data.train).mean(axis=(0, 1)), [122, 116, 104], atol=8)
