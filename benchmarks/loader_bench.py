"""How fast images come: decoding, packing, reading packed images, and the loader, each also by the core.

`--data` names real images, such as imagenet:PATH, of which it takes some; without it they are made of waves and noise
at the usual size of ImageNet's. Everything lies in the page cache.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timing
from PIL import Image
from timing import Row

from alexnet_cuda import command_line, pack
from alexnet_cuda.data import DataError, Dataset, FileDataset, Loader, folder, open_data
from alexnet_cuda.data.listing import open_file
from alexnet_cuda.data.loader import BUFFERS
from alexnet_cuda.data.packed import FORMATS

SIZE = 256
SIGHT = (224, 224)
MADE = (375, 500)  # height and width of most of ImageNet's images


# ---- images


def make_images(into: Path, count: int) -> None:
    """JPEG files in two class folders, with about as many bytes a pixel as photographs have."""
    rng = np.random.default_rng(0)
    H, W = MADE
    y, x = np.mgrid[:H, :W]
    for i in range(count):
        waves = np.stack([np.sin(x / rng.uniform(5, 90) + y / rng.uniform(5, 90)) for _ in range(3)], axis=-1)
        pixels = 128 + 80 * waves + rng.normal(0, 12, (H, W, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(into / str(i % 2) / f"{i}.jpg", quality=90)


def take_images(into: Path, source: str, count: int) -> None:
    """Files of a data set, evenly spaced, in two class folders."""
    train = open_data(source, SIZE, SIZE, margin=False).train
    if not isinstance(train, FileDataset):
        raise DataError(f"{source} has no files to decode")
    for i, place in enumerate(np.linspace(0, len(train) - 1, min(count, len(train))).astype(int)):
        file = train.files[place]
        with open_file(file) as stream:
            (into / str(i % 2) / f"{i}{Path(str(file)).suffix}").write_bytes(stream.read())


# ---- stages: each returns a function that does it once and returns how many images it did


def decoding(source: str) -> Callable[[], int]:
    data = open_data(source, SIZE, SIZE, margin=False)
    files = [file for part in (data.train, data.test) if isinstance(part, FileDataset) for file in part.files]

    def run() -> int:
        for file in files:
            folder.decode(file, (SIZE, SIZE))
        return len(files)

    return run


def packing(source: str, into: Path, kind: str, threads: int) -> Callable[[], int]:
    command = [source, str(into), "--size", str(SIZE), "--format", kind, "--threads", str(threads), "--strict"]

    def run() -> int:
        shutil.rmtree(into, ignore_errors=True)
        with contextlib.redirect_stdout(io.StringIO()):
            code = command_line.run(pack.main, command)
        if code:
            raise RuntimeError(f"pack ended with code {code}")
        made = open_data(f"packed:{into}", *SIGHT)
        return len(made.train) + len(made.test)

    return run


def reading(dataset: Dataset, batch: int, batches: int) -> Callable[[], int]:
    buffer = np.empty((batch, SIZE, SIZE, 3), np.uint8)
    rng = np.random.default_rng(0)

    def run() -> int:
        for _ in range(batches):
            dataset.load(rng.integers(0, len(dataset), batch), buffer)
        return batches * batch

    return run


def loading(dataset: Dataset, batch: int, batches: int) -> Callable[[], int]:
    buffers = itertools.cycle([np.empty((batch, SIZE, SIZE, 3), np.uint8) for _ in range(BUFFERS)])
    colour = np.eye(3, dtype=np.float32)
    loader = Loader(dataset, SIGHT, batch, True, colour, allocate=lambda shape, _: next(buffers)[: shape[0]])
    epochs = -(-batches // len(loader))

    def run() -> int:
        return sum(len(batch.labels) for epoch in range(epochs) for _, batch in loader.training(epoch))

    return run


# ---- measurement


def measure(run: Callable[[], int], rounds: int) -> Row:
    """Milliseconds an image, and images a second of wall time and of processor time: medians of the rounds."""
    images = run()
    wall, processor = [], []
    for _ in range(rounds):
        started, used = time.perf_counter(), time.process_time()
        run()
        wall.append(1e3 * (time.perf_counter() - started) / images)
        processor.append(1e3 * (time.process_time() - used) / images)
    row = timing.summary(wall)
    core_ms = timing.summary(processor)["ms"]
    return row | {"images": images, "per_s": 1e3 / row["ms"], "core_ms": core_ms, "per_core_s": 1e3 / core_ms}


def measure_all(source: str, place: Path, arguments: argparse.Namespace) -> list[Row]:
    """A row for each stage; the packs are made in `place`."""
    rows: list[Row] = []

    def add(stage: str, threads: int, run: Callable[[], int]) -> Row:
        rows.append({"stage": stage, "threads": threads} | measure(run, arguments.rounds))
        return rows[-1]

    alone = add("decode and scale", 1, decoding(source))
    some_threads = sorted({1, arguments.threads})
    for kind in FORMATS:
        for threads in some_threads:
            row = add(f"pack {kind}", threads, packing(source, place / kind, kind, threads))
            row["of_decoding"] = row["per_core_s"] / alone["per_core_s"]
        for threads in some_threads:
            train = open_data(f"packed:{place / kind}", *SIGHT, threads=threads).train
            batch = min(arguments.batch, len(train))
            add(f"read {kind}", threads, reading(train, batch, arguments.batches))
            row = add(f"loader {kind}", threads, loading(train, batch, arguments.batches))
            row["batches_s"] = row["per_s"] / batch
    return rows


def table(rows: list[Row]) -> str:
    columns = {"stage": "stage", "threads": "threads", "images": "images a round", "per_s": "images/s"}
    columns |= {"per_core_s": "images/s of a core", "of_decoding": "of decoding alone", "batches_s": "batches/s"}
    columns |= {"ms": "ms an image", "q1_ms": "quartile 1", "q3_ms": "quartile 3"}
    formats = {"per_s": ",.0f", "per_core_s": ",.0f", "of_decoding": ".2f", "batches_s": ",.1f"}
    return timing.table(rows, columns, formats)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", metavar="SOURCE", help="folder:PATH or imagenet:PATH (default: images made for it)")
    parser.add_argument("--device", default="cpu", choices=("cpu",), help="all of this happens on the CPU")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: one a core")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, help="samples of each; default 5")
    parser.add_argument("--quick", action="store_true", help="few images, one round: to see that the code runs")
    parser.add_argument("--temporary", type=Path, help="folder for the packs that are measured (default: the system's)")
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: benchmarks/results, with --quick none)"
    )
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    arguments.batches = 2 if arguments.quick else 40
    count = 20 if arguments.quick else 640
    if arguments.quick:
        arguments.batch, arguments.threads = 4, min(2, arguments.threads)

    folder.CACHE_BYTES = 0  # as for a set that is too large to be kept in memory
    environment = timing.environment(threads=arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.temporary) as name:
        place = Path(name)
        for label in ("0", "1"):
            (place / "images" / label).mkdir(parents=True)
        try:
            if arguments.data is None:
                make_images(place / "images", count)
            else:
                take_images(place / "images", arguments.data, count)
            rows = measure_all(f"folder:{place / 'images'}", place, arguments)
        except DataError as error:
            print(f"loader_bench: {error}", file=sys.stderr)
            return 2

    print(table(rows))
    out = arguments.out or (None if arguments.quick else timing.RESULTS)
    if out:
        images = f"images made for it, {MADE[1]}x{MADE[0]}" if arguments.data is None else "real images"
        record = {"benchmark": "loader_bench", "environment": environment, "images": images, "rows": rows}
        body = {f"From {images} to batches of {arguments.batch} at {SIZE}x{SIZE}": table(rows)}
        timing.write(out, "loader_bench-cpu", "Images from files to batches", record, body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
