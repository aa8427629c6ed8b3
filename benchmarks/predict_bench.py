"""From `predict RUN IMAGE` to the answer: two commits in turn, and where their time goes.

    python benchmarks/predict_bench.py BASE [COMMIT]

COMMIT is HEAD by default. Each is built in place in a new folder and writes a checkpoint of the model; then processes
of both alternate, on one image. ``command`` is `python -m alexnet_cuda.predict`; the others are parts of a process that
does the same: ``imports`` from its start on, ``loading`` the network, ``computing`` the answer, decoding included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import commits
import numpy as np
import timing
from PIL import Image
from timing import Row

COMMAND, *PARTS = STEPS = "command", "imports", "loading", "computing"
STORED = 256, 256
MAKE = """
import sys
import numpy as np
from alexnet_cuda import backend, checkpoint, models
from pathlib import Path
path, name, height, width = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
model = models.get(name)
weights = {name: np.asarray(w) for name, w in model.build(backend.device("cpu"), 0).state().items()}
config = {"model": name, "options": {}, "seed": 0, "scale": 1.0, "data": None}
description = {"config": config, "classes": [str(i) for i in range(model.classes)]}
mean = np.full((height, width, 3), 120, np.float32)
checkpoint.save(Path(path), checkpoint.Checkpoint(weights, {}, mean, description))
"""
PROCESS = """
import json, sys, time
from pathlib import Path
from alexnet_cuda import backend, predict
from alexnet_cuda.inference import Trained
imported = time.time()
trained = Trained.load(Path(sys.argv[1]), backend.device("cpu"), predict.BATCH)
loaded = time.time()
for _, images in predict.read([Path(sys.argv[2])], trained):
    trained.probabilities(images)
done = time.time()
print(json.dumps([imported, loaded, done]))
"""


def image(path: Path) -> None:
    """A photograph's size and smoothness, of random colours."""
    few = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(few).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


def run(*command: str | Path, environment: Mapping[str, str]) -> str:
    """What a process of the commit says. RuntimeError: what it complains of, if it fails."""
    done = subprocess.run(
        [sys.executable, *command], env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{environment['PYTHONPATH']}: {done.stderr}")
    return done.stdout


def once(run_path: Path, image_path: Path, environment: Mapping[str, str]) -> dict[str, float]:
    """Milliseconds of each step."""
    start = time.time()
    run("-m", "alexnet_cuda.predict", run_path, image_path, "--device", "cpu", environment=environment)
    taken = {COMMAND: time.time() - start}
    start = time.time()
    times = json.loads(run("-c", PROCESS, run_path, image_path, environment=environment))
    taken |= {part: end - begin for part, begin, end in zip(PARTS, [start, *times], times, strict=False)}
    return {step: 1000 * seconds for step, seconds in taken.items()}


def measure(hashes: Sequence[str], model: str, rounds: int, temporary: Path | None) -> list[Row]:
    """A row for each step and commit: medians and quartiles of milliseconds."""
    with commits.built(hashes, temporary) as places:
        environments = {commit: commits.environment(place) for commit, place in places.items()}
        for commit, place in places.items():
            image(place / "image.jpg")
            run("-c", MAKE, place / "run", model, *map(str, STORED), environment=environments[commit])
        taken: dict[tuple[str, str], list[float]] = {(step, commit): [] for step in STEPS for commit in hashes}
        for _ in range(rounds):
            for commit, place in places.items():
                for step, ms in once(place / "run", place / "image.jpg", environments[commit]).items():
                    taken[step, commit].append(ms)
    rows: list[Row] = [{"step": step, "commit": commit} | timing.summary(ms) for (step, commit), ms in taken.items()]
    return commits.with_ratios(rows, "step", "ms")


def main(options: Sequence[str] | None = None) -> int:
    parser = commits.Parser(__doc__, "processes", rounds=9)
    parser.add_argument("--model", default="alexnet-single", help="default: alexnet-single")
    arguments = parser.parse_args(options)
    if arguments.rounds < 1:
        parser.error("--rounds: expected a positive number")
    environment = timing.environment(model=arguments.model)

    def measured(hashes: list[str]) -> list[Row]:
        return measure(hashes, arguments.model, arguments.rounds, arguments.temporary)

    if (rows := commits.measured("predict_bench", arguments, measured)) is None:
        return 1
    columns = {"step": "step", "commit": "commit", "ms": "ms", "q1_ms": "quartile 1", "q3_ms": "quartile 3"}
    columns["ratio"] = "of the first's"
    table = timing.table(rows, columns, {key: ".2f" if key == "ratio" else ".0f" for key in columns})
    print(table)
    record = {"benchmark": "predict_bench", "environment": environment, "rows": rows}
    title = "From `predict RUN IMAGE` to the answer"
    timing.write(arguments.out, "predict", title, record, {f"{arguments.model}, one image": table})
    return 0


if __name__ == "__main__":
    sys.exit(main())
