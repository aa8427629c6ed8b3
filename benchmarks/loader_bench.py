"""How fast images come and go: decoding, packing, reading packed images, the loader, the copy to the device, training.

Training is measured with images in memory, which is the rate that the loader has to keep up with, and from each pack.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import bench_options
import numpy as np
import timing
from PIL import Image
from timing import Row

from alexnet_cuda import backend, command_line, pack
from alexnet_cuda.data import ArrayDataset, Data, DataError, Dataset, FileDataset, Loader, folder, open_data
from alexnet_cuda.data.listing import open_file
from alexnet_cuda.data.loader import BUFFERS
from alexnet_cuda.data.packed import FORMATS
from alexnet_cuda.recipe import Recipe
from alexnet_cuda.trainer import Trainer

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
    """Files of a data set, evenly spaced, in two class folders; where it has fewer, some several times."""
    train = open_data(source, SIZE, SIZE, margin=False).train
    if not isinstance(train, FileDataset):
        raise DataError(f"{source} has no files to decode")
    for i, place in enumerate(np.linspace(0, len(train) - 1, count).astype(int)):
        file = train.files[place]
        with open_file(file) as stream:
            (into / str(i % 2) / f"{i}{Path(str(file)).suffix}").write_bytes(stream.read())


# ---- stages: each returns a function that does it once and returns how many images it did


def decoding(source: str, threads: int) -> Callable[[], int]:
    data = open_data(source, SIZE, SIZE, margin=False)
    files = [file for part in (data.train, data.test) if isinstance(part, FileDataset) for file in part.files]

    def run() -> int:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda file: folder.decode(file, (SIZE, SIZE)), files):
                pass
        return len(files)

    return run


def packing(source: str, into: Path, kind: str, threads: int) -> Callable[[], int]:
    command = [source, str(into), "--size", str(SIZE), "--format", kind, "--threads", str(threads), "--strict"]

    def run() -> int:
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


def copying(where: backend.Device, batch: int, batches: int) -> Callable[[], int]:
    """From pinned memory to where a step reads it."""
    allocate, feed = backend.host_allocator(where), backend.Prefetcher([where])
    buffers = [(allocate((batch, SIZE, SIZE, 3), np.uint8),) for _ in range(BUFFERS)]

    def run() -> int:
        with backend.capture_streams([where]):
            for _ in feed.through(itertools.islice(itertools.cycle(buffers), batches)):
                pass
        backend.synchronize(where)
        return batches * batch

    return run


# ---- training


@dataclass(frozen=True)
class Some:
    """The first ``count`` images of a data set."""

    whole: Dataset
    count: int

    classes = property(lambda self: self.whole.classes)
    size = property(lambda self: self.whole.size)
    labels = property(lambda self: self.whole.labels[: self.count])
    unreadable = property(lambda self: self.whole.unreadable)

    def __len__(self) -> int:
        return self.count

    def load(self, *arguments: Any) -> Any:
        return self.whole.load(*arguments)


def training(dataset: Dataset, arguments: argparse.Namespace) -> Row:
    """Milliseconds an image and images a second, of epochs after a first one."""
    batch, rates = arguments.train_batch, list[float]()
    data = Data(Some(dataset, batch * arguments.steps), Some(dataset, 1), "some images", True)
    made = Recipe(model=arguments.model, batch=batch, epochs=1 + arguments.rounds, lr=1e-6, schedule="constant")
    mean = np.full((*dataset.size, 3), 128, np.float32)
    trainer = Trainer.of(made, data, arguments.device, mean=mean)
    trainer.fit(lambda step: None, lambda epoch: rates.append(epoch.images_per_second))
    row = timing.summary([1e3 / rate for rate in rates[1:]])
    return row | {"images": len(data.train), "per_s": 1e3 / row["ms"], "batches_s": 1e3 / row["ms"] / batch}


def limits(rows: list[Row]) -> str:
    """For each pack, which stage is the slowest, and what is left of the rate with images in memory."""
    rates = {row["stage"]: max(r.get("per_s") or 0 for r in rows if r["stage"] == row["stage"]) for row in rows}
    lines = []
    for kind in FORMATS:
        stages = {name: rates[name] for name in (f"loader {kind}", "copy to device", "train, in memory")}
        slowest = min((name for name, rate in stages.items() if rate), key=lambda name: stages[name])
        told = ", ".join(f"{name} {f'{rate:,.0f} images/s' if rate else 'unmeasured'}" for name, rate in stages.items())
        share = rates[f"train {kind}"] / rates["train, in memory"]
        lines.append(f"- {kind}: {slowest} is the limit ({told}); training gets {share:.0%} of its rate in memory")
    return "\n".join(lines)


# ---- measurement


def measure(run: Callable[[], int], rounds: int, prepare: Callable[[], object]) -> Row:
    """Milliseconds an image, and images a second of wall time and of processor time: medians of the rounds, what
    prepares each not counted."""
    prepare()
    images = run()
    wall, processor = [], []
    for _ in range(rounds):
        prepare()
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

    def add(stage: str, threads: int, run: Callable[[], int], prepare: Callable[[], object] = lambda: None) -> Row:
        rows.append({"stage": stage, "threads": threads} | measure(run, arguments.rounds, prepare))
        return rows[-1]

    some_threads = sorted({1, arguments.threads})
    alone = {threads: add("decode and scale", threads, decoding(source, threads)) for threads in some_threads}
    for kind in FORMATS:
        for threads in some_threads:
            afresh = partial(shutil.rmtree, place / kind, ignore_errors=True)
            row = add(f"pack {kind}", threads, packing(source, place / kind, kind, threads), afresh)
            row["of_decoding"] = row["per_s"] / alone[threads]["per_s"]
        for threads in some_threads:
            train = open_data(f"packed:{place / kind}", *SIGHT, threads=threads).train
            batch = min(arguments.batch, len(train))
            add(f"read {kind}", threads, reading(train, batch, arguments.batches))
            row = add(f"loader {kind}", threads, loading(train, batch, arguments.batches))
            row["batches_s"] = row["per_s"] / batch
    where = backend.device(arguments.device)
    if where.kind == "cuda":
        add("copy to device", 1, copying(where, arguments.batch, arguments.batches))
    else:
        rows.append({"stage": "copy to device", "threads": 1})  # there is none
    count = arguments.train_batch * arguments.steps
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    memory = ArrayDataset(pixels, rng.integers(0, 2, count).astype(np.int32), ("0", "1"))
    rows.append({"stage": "train, in memory", "threads": arguments.threads} | training(memory, arguments))
    for kind in FORMATS:
        packed = open_data(f"packed:{place / kind}", *SIGHT, threads=arguments.threads).train
        row = {"stage": f"train {kind}", "threads": arguments.threads} | training(packed, arguments)
        rows.append(row)
    return rows


def table(rows: list[Row]) -> str:
    columns = {"stage": "stage", "threads": "threads", "images": "images a round", "per_s": "images/s"}
    columns |= {
        "per_core_s": "images/s of a core",
        "of_decoding": "of decoding with as many threads",
        "batches_s": "batches/s",
    }
    columns |= {"ms": "ms an image", "q1_ms": "quartile 1", "q3_ms": "quartile 3"}
    formats = {"per_s": ",.0f", "per_core_s": ",.0f", "of_decoding": ".2f", "batches_s": ",.1f"}
    return timing.table(rows, columns, formats)


def main() -> int:
    parser = bench_options.Parser("loader_bench", __doc__, "few images, one round", peers=())
    parser.add_argument("--data", metavar="SOURCE", help="folder:PATH or imagenet:PATH (default: images made for it)")
    trains = "that --device trains; all else is the CPU's"
    parser.add_argument("--model", default="alexnet", help=f"{trains}; it sees 224x224 pixels")
    parser.add_argument("--train-batch", type=int, help="images a step (default: 16, on a GPU --batch)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: one a core")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, help="samples of each; default 5")
    parser.add_argument("--temporary", type=Path, help="folder for the packs that are measured (default: the system's)")
    arguments = parser.options()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    arguments.batches = 2 if arguments.quick else 40
    count = 20 if arguments.quick else 2000  # so many that what a pack costs whatever it holds is little of its time
    on_gpu = not arguments.on_cpu
    arguments.train_batch = arguments.train_batch or (arguments.batch if on_gpu else 16)
    arguments.steps = 40 if on_gpu else 4
    if arguments.quick:
        arguments.batch, arguments.threads = 4, min(2, arguments.threads)
        arguments.train_batch, arguments.steps = 2, 2
    backend.set_threads(arguments.threads)

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

    print(f"{table(rows)}\n\n{limits(rows)}")
    if arguments.out:
        images = f"images made for it, {MADE[1]}x{MADE[0]}" if arguments.data is None else "real images"
        record = {"benchmark": "loader_bench", "environment": environment, "images": images, "rows": rows}
        record |= {"model": arguments.model, "train_batch": arguments.train_batch, "limits": limits(rows)}
        body = {f"From {images} to batches of {arguments.batch} at {SIZE}x{SIZE}": table(rows)}
        body[f"What limits the training of {arguments.model}"] = limits(rows)
        timing.write(arguments.out, arguments.stem, "Images from files to batches", record, body)
    return 0


if __name__ == "__main__":
    sys.exit(main())
