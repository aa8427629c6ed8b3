"""How fast images come: decoding, packing, copying packed images, and the loader, each by the core.

The decoder's figures belong to the images that are decoded; `--data` names real ones, such as imagenet:PATH, and
without it they are made of noise and gradients at the usual size of ImageNet's.
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
from alexnet_cuda.data import DataError, FileDataset, Loader, folder as image_folder, open_data
from alexnet_cuda.data.loader import BUFFERS
from alexnet_cuda.data.packed import FORMATS

SIZE = 256
SIGHT = (224, 224)
MADE = (375, 500)  # height and width of most of ImageNet's images


def made_images(folder: Path, count: int) -> None:
    """JPEG files in two class folders, with about as many bytes a pixel as photographs have."""
    rng = np.random.default_rng(0)
    H, W = MADE
    y, x = np.mgrid[:H, :W]
    for i in range(count):
        waves = np.stack([np.sin(x / rng.uniform(5, 90) + y / rng.uniform(5, 90)) for _ in range(3)], axis=-1)
        pixels = 128 + 80 * waves + rng.normal(0, 12, (H, W, 3))
        path = folder / str(i % 2) / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def measure(run: Callable[[], int], rounds: int) -> Row:
    """Images a second of wall time and of processor time, the medians of the rounds; `run` returns its images."""
    run()
    wall, processor = [], []
    for _ in range(rounds):
        started, used = time.perf_counter(), time.process_time()
        images = run()
        wall.append(1e3 * (time.perf_counter() - started) / images)
        processor.append(1e3 * (time.process_time() - used) / images)
    row = timing.summary(wall)
    core_ms = timing.summary(processor)["ms"]
    return row | {"images": images, "per_s": 1e3 / row["ms"], "core_ms": core_ms, "per_core_s": 1e3 / core_ms}


def stages(files: FileDataset, source: str, folder: Path, arguments: argparse.Namespace) -> list[Row]:
    """A row for each stage; the packs that it makes are in `folder`."""
    some = [files.files[i] for i in np.linspace(0, len(files) - 1, arguments.images).astype(int)]

    def decoding() -> int:
        for file in some:
            image_folder.decode(file, (SIZE, SIZE))
        return len(some)

    def packing(format: str) -> Callable[[], int]:
        def run() -> int:
            shutil.rmtree(folder / format, ignore_errors=True)
            command = [source, str(folder / format), "--size", str(SIZE), "--format", format]
            command += ["--threads", str(arguments.threads)]
            with contextlib.redirect_stdout(io.StringIO()):
                code = command_line.run(pack.main, command)
            if code:
                raise RuntimeError(f"pack ended with code {code}")
            made = open_data(f"packed:{folder / format}", *SIGHT)
            return len(made.train) + len(made.test)

        return run

    def row(stage: str, run: Callable[[], int], threads: int) -> Row:
        found: Row = {"stage": stage, "threads": threads} | measure(run, arguments.rounds)
        print(f"{stage}: {found['per_s']:,.0f} images/s, {found['per_core_s']:,.0f} a core", file=sys.stderr)
        return found

    rows = [row("decode and scale", decoding, 1)]
    for format in FORMATS:
        rows.append(row(f"pack {format}", packing(format), arguments.threads))
        rows[-1]["of_decoding"] = rows[-1]["per_core_s"] / rows[0]["per_core_s"]
    for format in FORMATS:
        for threads in sorted({1, arguments.threads}):
            train = open_data(f"packed:{folder / format}", *SIGHT, threads=threads).train
            buffer = np.empty((arguments.batch, SIZE, SIZE, 3), np.uint8)
            rng = np.random.default_rng(0)

            def copying(train=train, buffer=buffer, rng=rng) -> int:  # type: ignore[no-untyped-def]
                for _ in range(arguments.batches):
                    train.load(rng.integers(0, len(train), len(buffer)), buffer)
                return arguments.batches * len(buffer)

            rows.append(row(f"read {format}", copying, threads))
            shape = (min(arguments.batch, len(train)), SIZE, SIZE, 3)
            kept = itertools.cycle([np.empty(shape, np.uint8) for _ in range(BUFFERS)])  # epochs here are short
            colour = np.eye(3, dtype=np.float32)
            loader = Loader(train, SIGHT, arguments.batch, True, colour, allocate=lambda *_, kept=kept: next(kept))

            def loading(loader=loader) -> int:  # type: ignore[no-untyped-def]
                count = 0
                for epoch in range(-(-arguments.batches // len(loader))):
                    count += sum(len(batch.labels) for _, batch in loader.training(epoch))
                return count

            rows.append(row(f"loader {format}", loading, threads))
            rows[-1]["batches_s"] = rows[-1]["per_s"] / loader.batch
    return rows


def table(rows: list[Row]) -> str:
    columns = {"stage": "stage", "threads": "threads", "images": "images a round", "per_s": "images/s"}
    columns |= {"per_core_s": "images/s of a core", "of_decoding": "of decoding alone", "batches_s": "batches/s"}
    columns |= {"ms": "ms an image", "q1_ms": "quartile 1", "q3_ms": "quartile 3"}
    formats = {"per_s": ",.0f", "per_core_s": ",.0f", "of_decoding": ".2f", "batches_s": ",.1f"}
    return timing.table(rows, columns, formats)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", help="folder:PATH or imagenet:PATH (default: images made on the fly)")
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
    arguments.images = 8 if arguments.quick else 512
    arguments.batches = 2 if arguments.quick else 40
    if arguments.quick:
        arguments.batch, arguments.threads = 4, min(2, arguments.threads)

    image_folder.CACHE_BYTES = 0  # as for a set that is too large to be kept in memory
    environment = timing.environment(threads=arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.temporary) as name:
        folder = Path(name)
        source = arguments.data
        if source is None:
            made_images(folder / "images", 16 if arguments.quick else 512)
            source = f"folder:{folder / 'images'}"
        try:
            files = open_data(source, SIZE, SIZE, margin=False).train
        except DataError as error:
            print(f"loader_bench: {error}", file=sys.stderr)
            return 2
        if not isinstance(files, FileDataset):
            print(f"loader_bench: {source} has no files to decode", file=sys.stderr)
            return 2
        rows = stages(files, source, folder, arguments)

    print(table(rows))
    out = arguments.out or (None if arguments.quick else timing.RESULTS)
    if out:
        images = "real images" if arguments.data else f"images made on the fly, {MADE[1]}x{MADE[0]}"
        record = {"benchmark": "loader_bench", "environment": environment, "images": images, "rows": rows}
        body = {f"From {images} to batches of {arguments.batch} at {SIZE}x{SIZE}": table(rows)}
        timing.write(out, "loader_bench-cpu", "Images from files to batches", record, body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
