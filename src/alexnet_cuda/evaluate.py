"""``python -m alexnet_cuda.evaluate``: the errors of trained networks on test images, and of several together."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import backend, checkpoint, command_line, names
from .command_line import UsageError, checked_input
from .data import Data, Loader, ten_views
from .inference import Crops, Floats, Trained
from .metrics import confusion_matrix, scores, top_k
from .short_weights import WeightsDtype, bytes_of
from .terminal import Bar, console, grid, say, width

__all__ = ["main"]

Item = TypeVar("Item")


@dataclass(frozen=True)
class Result:
    """What a network, or the mean of several, says of test images: probabilities (N, C), true labels (N,)."""

    name: str
    views: int
    probabilities: Floats
    labels: NDArray[np.int32]

    def error(self, k: int) -> float | None:
        """Share of images whose label is not among the k classes that are the most probable; None where there are no
        more than k."""
        return None if self.probabilities.shape[1] <= k else 1 - float(top_k(self.probabilities, self.labels, k).mean())

    def per_class(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Images, top-1 error, precision, F1 and the most frequent wrong answer of each class that has images."""
        matrix = confusion_matrix(self.labels, self.probabilities.argmax(axis=1), len(classes))
        rows = []
        for name, score, given, label in zip(classes, scores(matrix), matrix, range(len(classes)), strict=True):
            if score.recall is not None:
                mistaken = np.where(np.arange(len(classes)) == label, 0, given)
                rows.append(
                    {
                        "class": name,
                        "images": score.images,
                        "top1_error": 1 - score.recall,
                        "precision": score.precision,
                        "f1": score.f1,
                        "mistaken_for": classes[int(mistaken.argmax())] if mistaken.any() else None,
                        "times": int(mistaken.max()),
                    }
                )
        return rows


def average(results: Sequence[Result]) -> Result:
    """The mean of the probabilities of several networks (paper, table 2)."""
    mean = sum(result.probabilities for result in results) / len(results)
    return Result(f"average of {len(results)}", results[0].views, np.asarray(mean), results[0].labels)


@dataclass(frozen=True)
class Shortened:
    """What storing a network's weights short has changed: the bytes that they take, now and in float32, and the logits
    (N, C) for the centres of the test images, now and from float32."""

    name: str
    dtype: WeightsDtype
    bytes: int
    float32_bytes: int
    logits: Floats
    float32_logits: Floats

    def described(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "checkpoint": self.name,
            "dtype": self.dtype,
            "bytes": self.bytes,
            "float32_bytes": self.float32_bytes,
            "largest_logit": float(abs(self.float32_logits).max()),
            "largest_difference": float(abs(self.logits - self.float32_logits).max()),
            "changed_answers": int((self.logits.argmax(axis=1) != self.float32_logits.argmax(axis=1)).sum()),
        }

    def __str__(self) -> str:
        told = self.described()
        share, images = self.bytes / self.float32_bytes, command_line.count(len(self.logits), "image")
        return (
            f"{self.name}: weights in {self.dtype} take {self.bytes / 1e6:.3g} MB, {share:.3f} of those in fp32;\n"
            f"logits, up to {told['largest_logit']:.3g}, differ by {told['largest_difference']:.2g} at most; "
            f"the first answer changes for {told['changed_answers']:,} of {images}"
        )


def views(chosen: str, trained: Trained, data: Data) -> list[Crops]:
    """The crops for each row of the table: the centre, and the paper's ten (section 4.1), of which only the five that
    are not mirrored remain where a mirror image is of another class, or of none."""
    ten = ten_views(data.test.size, trained.model.input[:2])
    rows = {"1": trained.centre, "10": ten if data.mirrored else ten[ten[:, 2] == 0]}
    return [rows[chosen]] if chosen in rows else list(rows.values())


def parser() -> command_line.Parser:
    p = command_line.Parser(
        "evaluate",
        "Top-1 and top-5 error of trained networks on test images; of several, also with their probabilities averaged.",
        "Ten views: the corners, the centre, and their mirror images; five where mirror images make no sense.\n"
        "Exit codes: 0 done, 1 failure, 2 wrong usage.",
    )
    p.add_argument("run", nargs="+", type=Path, metavar="RUN", help="run folder, or checkpoint file")
    command_line.add_checkpoint(p.add_argument)
    command_line.add_weights_dtype(p.add_argument)
    p.add_argument("--data", metavar="SOURCE", help="as for train (default: what the run was trained on)")
    p.add_argument("--views", choices=("1", "10", "both"), default="both", help="crops an image (default both)")
    p.add_argument(
        "--batch", type=command_line.positive_int, default=128, metavar="N", help="images at a time (default 128)"
    )
    p.add_argument("--device", help="cpu, cuda or cuda:N (default: a usable GPU, else the CPU)")
    p.add_argument("--threads", type=command_line.positive_int, metavar="N", help="CPU threads (default: one a core)")
    p.add_argument("--per-class", action="store_true", help="a table of the classes, for the last line of results")
    p.add_argument("--json", action="store_true", help="print JSON")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    with checked_input():
        device = command_line.device(options.device)
        if options.threads:
            backend.set_threads(options.threads)
        paths = [checkpoint.chosen(path, options.checkpoint) for path in options.run]
        networks = [Trained.load(path, device, options.batch, options.weights_dtype) for path in paths]
        first = networks[0]
        for other in networks[1:]:
            if other.classes != first.classes:
                raise UsageError(f"{first.path} and {other.path} differ in their classes; they cannot be averaged")
        divide = any(trained.trained_on(options.data) for trained in networks)
        sources = [trained.data(options.data, options.threads, divide) for trained in networks]
    if not options.json:
        say(f"data  {sources[0].split}\n", "      ")
    runs = [examine(trained, data, options) for trained, data in zip(networks, sources, strict=True)]
    results = [result for run in runs for result in run]
    if len(runs) > 1:
        if any(not np.array_equal(run[0].labels, runs[0][0].labels) for run in runs):
            raise UsageError("the checkpoints were tested on different images; --data names the same for all")
        results += [average(column) for column in zip(*runs, strict=True)]
    shortened = [] if options.weights_dtype == "fp32" else list(map(compared, networks, sources))
    if options.json:
        command_line.print_json(described(results, sources[0], options.per_class, shortened))
        return 0
    print(table(results))
    for change in shortened:
        print(f"\n{change}")
    if options.per_class:
        print(f"\n{class_table(results[-1], first.classes)}")
    if unreadable := sources[0].test.unreadable:
        path, reason = next(iter(unreadable.items()))
        print(f"left out {len(unreadable)} that cannot be read, the first {path}: {reason}", file=sys.stderr)
    return 0


def examine(trained: Trained, data: Data, options: Namespace) -> list[Result]:
    """The results of one network for each choice of views. UsageError when no image can be read."""
    choices = views(options.views, trained, data)
    loader = Loader(data.test, trained.model.input[:2], options.batch)
    labels, probabilities = [], [list[Floats]() for _ in choices]
    for batch in progress(loader.evaluation(), str(trained.path), -(-len(data.test) // loader.batch)):
        labels.append(batch.labels)
        for crops, parts in zip(choices, probabilities, strict=True):
            parts.append(trained.probabilities(batch.images, crops))
    if not labels:
        raise UsageError("none of the test images can be read")
    return [
        Result(names.text(trained.path), len(crops), np.concatenate(parts), np.concatenate(labels))
        for crops, parts in zip(choices, probabilities, strict=True)
    ]


def compared(trained: Trained, data: Data) -> Shortened:
    """A network whose weights are stored short beside the same in float32, on the test images."""
    exact = Trained.load(trained.path, trained.device, trained.batch)
    loader = Loader(data.test, trained.model.input[:2], trained.batch)
    batches = progress(loader.evaluation(), f"{trained.path} in fp32", -(-len(data.test) // loader.batch))
    pairs = [(trained.logits(batch.images), exact.logits(batch.images)) for batch in batches]
    return Shortened(
        names.text(trained.path),
        trained.weights_dtype,
        bytes_of(trained.network),
        bytes_of(exact.network),
        *map(np.concatenate, zip(*pairs, strict=True)),
    )


def progress(items: Iterable[Item], text: str, total: int) -> Iterator[Item]:
    """The items one by one, with a bar on a terminal as they go."""
    began = time.monotonic()
    with Bar(console(stderr=True), text, total) as bar:
        for done, item in enumerate(items, 1):
            yield item
            left = (time.monotonic() - began) / done * (total - done)
            bar.update(done, f"{timedelta(seconds=round(left))} left")


def described(results: Sequence[Result], data: Data, per_class: bool, shortened: Sequence[Shortened]) -> dict[str, Any]:
    """All results as plain data."""
    return {
        "data": data.split,
        "images": len(results[0].labels),
        "unreadable": dict(data.test.unreadable),
        "results": [
            {
                "checkpoint": result.name,
                "views": result.views,
                "top1_error": result.error(1),
                "top5_error": result.error(5),
                **({"classes": result.per_class(data.classes)} if per_class else {}),
            }
            for result in results
        ],
        **({"weights": [change.described() for change in shortened]} if shortened else {}),
    }


def percent(share: float | None) -> str:
    return "n/a" if share is None else f"{share:.2%}"


def table(results: Sequence[Result]) -> str:
    rows = [[r.name, str(r.views), percent(r.error(1)), percent(r.error(5))] for r in results]
    header = ["checkpoint", "views", "top-1 error", "top-5 error"]
    shown = grid(header, rows, header[:1], width(), header[:0:-1])
    return f"{command_line.count(len(results[0].labels), 'image')}\n\n{shown}"


def class_table(result: Result, classes: Sequence[str]) -> str:
    rows = [
        [
            row["class"],
            f"{row['images']:,}",
            f"{row['top1_error']:.2%}",
            percent(row["precision"]),
            percent(row["f1"]),
            f"{row['mistaken_for']} ({row['times']:,})" if row["mistaken_for"] is not None else "",
        ]
        for row in result.per_class(classes)
    ]
    header = ["class", "images", "top-1 error", "precision", "F1", "most often mistaken for"]
    shown = grid(header, rows, [header[0], header[-1]], width(), ["F1", "precision", "images"])
    return f"{result.name}, views: {result.views}\n\n{shown}"


if __name__ == "__main__":
    sys.exit(command_line.run(main))
