"""What a run measures: a line of JSON for each record, the curves; what answers are worth: top-k accuracy, confusions,
precision and recall."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import charts
from .files import replacing

__all__ = ["MetricsLog", "Score", "confusion_matrix", "draw_curves", "mean", "read_metrics", "scores", "top_k"]

Labels: TypeAlias = NDArray[np.integer[Any]]

TITLE = 100  # characters of a curve's title that fit on a line


def top_k(scores: NDArray[np.floating[Any]], labels: Labels, k: int = 1) -> NDArray[np.bool_]:
    """Whether the label is among the k classes with the highest scores. scores: (N, C); labels: (N,). Returns (N,).

    Among equal scores the lower class comes first; NaN comes before all numbers, so that a row with k of them is wrong.
    """
    own = np.take_along_axis(scores, labels[:, None].astype(np.intp), axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    ahead = ~((scores < own) | ((scores == own) & ~before))
    return np.asarray(ahead.sum(axis=1) < k)


class MetricsLog:
    """A file of one JSON object a line, begun with ``records`` and continued as they come.

    Numbers that are not finite are written as null.
    """

    def __init__(self, path: Path, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self.path = path
        with replacing(path) as aside:
            aside.write_text("".join(map(_line, records)), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds a line, which is in the file when this returns."""
        self._file.write(_line(record))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _line(record: Mapping[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, up to a line that is not whole."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def draw_curves(path: Path, records: Sequence[Mapping[str, Any]], title: str) -> None:
    """Loss and accuracy over epochs as a PNG, from the records of a metrics file."""
    figure = charts.figure(10, 4)
    lines = textwrap.wrap(title, TITLE, replace_whitespace=False, drop_whitespace=False)
    figure.suptitle("\n".join(lines), parse_math=False)
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        charts.draw(axes, what, charts.of_run(records, what))
    with replacing(path) as aside:
        charts.save(figure, aside, dpi=120)


class Score(NamedTuple):
    """How well a class is told from the others: its images, the images that were taken for it, and of the first the
    share that was recognised (recall), of the second the share that is right (precision), the harmonic mean of both
    (f1). None where that is the share of no images at all."""

    images: int
    answered: int
    precision: float | None
    recall: float | None
    f1: float | None


def confusion_matrix(labels: Labels, answers: Labels, classes: int) -> NDArray[np.int64]:
    """How many images of each class (row) were taken for each (column), (C, C). labels, answers: (N,)."""
    pairs = labels.astype(np.int64) * classes + answers
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def scores(matrix: NDArray[np.int64]) -> list[Score]:
    """The score of each class, from the confusion matrix (C, C)."""
    rows = zip(matrix.diagonal().tolist(), matrix.sum(axis=1).tolist(), matrix.sum(axis=0).tolist(), strict=True)
    return [
        Score(images, answered, _share(right, answered), _share(right, images), _share(2 * right, images + answered))
        for right, images, answered in rows
    ]


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there; None when none is."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
