"""What augmentation costs: milliseconds an image and core, and beside a training step.

Images of 256x256 stored pixels become 224x224, on one thread, by each entry of recipes alone and by all together; and a
step of alexnet-mini with none of them and with all, alternating, both from batches that lie in memory.

    python benchmarks/augment_bench.py --device cpu
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import bench_options
import numpy as np
import timing
from devices import clock_on
from timing import Row

from alexnet_cuda import backend, kernels, recipe
from alexnet_cuda.data import ArrayDataset, Augmentation, Data
from alexnet_cuda.trainer import Trainer

TARGET_MS = 0.3
TARGET_SHARE = 0.1
STORED, SEEN = (256, 256), (224, 224)
EACH: dict[str, dict[str, Any]] = {
    "crop_area": {"crop_area": 0.08},
    "rotation": {"rotation": 15.0},
    "brightness, contrast": {"brightness": 0.2, "contrast": 0.4},
    "mixup": {"mixup": 0.2},
}
TOGETHER = {name: value for entries in EACH.values() for name, value in entries.items()}
CROPS, PLAIN, ALL = "crops and mirror images", "without", "together"


def call(where: backend.Device, entries: dict[str, Any], images: int) -> Callable[[], object]:
    """``augment`` of so many images as the loader would ask for it."""
    rng, wanted = np.random.default_rng(0), Augmentation(**entries)
    x, mean = rng.integers(0, 256, (images, *STORED, 3), np.uint8), rng.uniform(0, 255, (*STORED, 3)).astype(np.float32)
    margin = np.subtract(STORED, SEEN) + 1
    crops: Any = rng.integers(0, (*margin, 2), (images, 3)).astype(np.int32)
    if wanted.resampled:
        crops = wanted.maps(rng, crops, STORED, SEEN)
    tones = wanted.tones(rng, images) if wanted.brightness or wanted.contrast else None
    mix = rng.beta(wanted.mixup, wanted.mixup, images).astype(np.float32) if wanted.mixup else None
    there = [a if a is None else backend.from_host(a, where) for a in (x, mean, crops, tones, mix)]
    return partial(kernels.augment, there[0], SEEN, there[1], there[2], tones=there[3], mix=there[4])


def of_images(clock: timing.Clock, where: backend.Device, images: int, rounds: int) -> list[Row]:
    """Milliseconds an image: of crops alone, and what each entry adds to them."""
    candidates = {CROPS: call(where, {}, images)}
    candidates |= {name: call(where, entries, images) for name, entries in {**EACH, ALL: TOGETHER}.items()}
    times = clock.alternate(candidates, rounds)
    rows = []
    base = timing.summary(times[CROPS])["ms"] / images
    for name, taken in times.items():
        row = {key: value / images if key != "samples" else value for key, value in timing.summary(taken).items()}
        more = None if name == CROPS else row["ms"] - base
        within = None if more is None or name == ALL else more <= TARGET_MS
        rows.append({"what": name} | row | {"more_ms": more, "within": within})
    return rows


def of_steps(clock: timing.Clock, where: backend.Device, batch: int, rounds: int) -> list[Row]:
    """Milliseconds of a step of alexnet-mini, and the share that all entries together add to it."""
    rng, made = np.random.default_rng(0), recipe.load("alexnet-mini")
    images, labels = rng.integers(0, 256, (batch, 36, 36, 3)).astype(np.uint8), np.arange(batch, dtype=np.int32) % 10
    data = ArrayDataset(images, labels, [str(i) for i in range(10)])
    candidates: dict[str, Callable[[], object]] = {}
    nothing: dict[str, Any] = {}
    for name, entries in {PLAIN: nothing, ALL: TOGETHER}.items():
        changed = replace(made, batch=batch, **entries)
        trainer = Trainer.of(changed, Data(data, data, "random images", True), where)
        _, there = next(iter(trainer._on_devices(trainer.train.training(0))))
        candidates[name] = partial(_step, trainer, there)
    times = clock.alternate(candidates, rounds)
    rows: list[Row] = [{"step": name} | timing.summary(taken) for name, taken in times.items()]
    share = rows[1]["ms"] / rows[0]["ms"] - 1
    rows[1] |= {"more": share, "within": share <= TARGET_SHARE}
    return rows


def _step(trainer: Trainer, batch: Any) -> None:
    trainer._step(batch)
    trainer._unseen.clear()


def tables(images: list[Row], steps: list[Row]) -> dict[str, str]:
    spread = {"ms": "ms", "q1_ms": "quartile 1", "q3_ms": "quartile 3"}
    of_image = {"what": "augmentation", **spread, "more_ms": "more than crops"}
    of_step = {"step": "augmentation", **spread, "more": "share"}
    formats = dict.fromkeys((*spread, "more_ms"), ".3f")
    return {
        "An image and core": timing.table(images, of_image | {"within": f"at most {TARGET_MS:g} ms"}, formats),
        "A step of alexnet-mini": timing.table(
            steps, of_step | {"within": f"at most {TARGET_SHARE:.0%}"}, formats | {"more": ".1%"}
        ),
    }


def main() -> int:
    parser = bench_options.Parser("augment_bench", __doc__, "few images, one round", peers=())
    parser.add_argument("--rounds", type=int, help="samples of each; default 21")
    arguments = parser.options()
    rounds = arguments.rounds or (1 if arguments.quick else 21)
    where = backend.device(arguments.device)
    environment = timing.environment(threads=backend.threads())
    with clock_on(arguments.device, with_torch=False) as clock:
        steps = of_steps(clock, where, 8 if arguments.quick else 128, rounds)
        backend.set_threads(1)
        images = of_images(clock, where, 4 if arguments.quick else 32, rounds)
    sections = tables(images, steps)
    print("\n\n".join(sections.values()))
    if arguments.out:
        targets = {"target_ms": TARGET_MS, "target_share": TARGET_SHARE}
        record = {"benchmark": "augment_bench", "environment": environment, **targets, "images": images, "steps": steps}
        timing.write(arguments.out, arguments.stem, "What augmentation costs", record, sections)
    return 0


if __name__ == "__main__":
    sys.exit(main())
