"""What a run measures: top-k accuracy, a line of JSON for each record, the curves."""

from __future__ import annotations

import json
import math
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import replacing

TITLE = 100  # characters of a curve's title that fit on a line


def top_k(scores: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], k: int = 1) -> NDArray[np.bool_]:
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
        self._file.write(_line(record))
        self._file.flush()

    def close(self) -> None:
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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    lines = textwrap.wrap(title, TITLE, replace_whitespace=False, drop_whitespace=False)
    figure.suptitle("\n".join(lines), parse_math=False)
    loss, accuracy = figure.subplots(1, 2)
    steps = _columns(records, "step", "epoch", "loss")
    epochs = _columns(records, "epoch", "epoch", "train_loss", "test_loss", "train_accuracy", "test_accuracy")
    loss.plot(steps["epoch"], steps["loss"], color="C0", alpha=0.3, linewidth=1)
    loss.plot(epochs["epoch"], epochs["train_loss"], color="C0", marker=".", label="training")
    loss.plot(epochs["epoch"], epochs["test_loss"], color="C1", marker=".", label="test")
    loss.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    accuracy.plot(epochs["epoch"], 100 * epochs["train_accuracy"], color="C0", marker=".", label="training")
    accuracy.plot(epochs["epoch"], 100 * epochs["test_accuracy"], color="C1", marker=".", label="test")
    accuracy.set(xlabel="epoch", ylabel="accuracy, %", ylim=(0, 101))
    for axes in (loss, accuracy):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(path) as aside, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the title may have letters that the font lacks
        figure.savefig(aside, format="png", dpi=120)


def _columns(records: Sequence[Mapping[str, Any]], kind: str, *names: str) -> dict[str, NDArray[np.float64]]:
    rows = [r for r in records if r["kind"] == kind]
    return {name: np.array([row[name] for row in rows], np.float64) for name in names}
