"""Where a training tells what it measures, besides metrics.jsonl: CSV files, TensorBoard, and what others write.

A logger is any object with the methods of ``Logger``. ``train --log NAME`` makes one by calling what ``found`` gives
with the run folder and the step from which the run goes on, 0 at first; ``Trainer`` takes one as an argument.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from .files import replacing
from .suggest import nearest

__all__ = [
    "EVERY",
    "OF_EPOCHS",
    "OF_STEPS",
    "CsvLogger",
    "Logger",
    "Loggers",
    "Maker",
    "TensorBoardLogger",
    "found",
    "opened",
]

EVERY = 10
"""A step in so many is told."""
OF_STEPS = "loss", "accuracy", "lr"
"""What is told of a step: means over its batch, and its learning rate."""
OF_EPOCHS = "train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_top5", "images_per_second"
"""What is told of an epoch; test_top5 where there are more than five classes."""
CSV = "metrics.csv"


class Logger(Protocol):
    """What is told of a training as it goes on."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """``values`` after so many steps, by the names of ``OF_STEPS`` or ``OF_EPOCHS``; all are finite."""

    def close(self) -> None:
        """Nothing more will come."""


Maker = Callable[[Path, int], Logger]
"""Makes a logger, of a run folder and the step from which the run goes on."""


class CsvLogger:
    """Writes metrics.csv: a line for each step and epoch that is told, a column for each name."""

    def __init__(self, folder: Path, step: int) -> None:
        """Lines after ``step``, of a run that goes on from there, are dropped."""
        path = folder / CSV
        before = []
        if step and path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.get("step", "").isdigit()]
            before = [row for row in rows if int(row["step"]) <= step]
        names = "step", *OF_STEPS, *OF_EPOCHS
        with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(before)
        self._file = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, names)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Adds a line, which is in the file when this returns."""
        self._writer.writerow({"step": step, **values})
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardLogger:
    """Writes what TensorBoard reads, by tensorboardX."""

    def __init__(self, folder: Path, step: int) -> None:
        """What TensorBoard has after ``step``, it forgets."""
        self._writer = _tensorboard()(str(folder), **({"purge_step": step + 1} if step else {}))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to the curve of each name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


OWN: dict[str, Maker] = {"tensorboard": TensorBoardLogger, "csv": CsvLogger}


class Loggers:
    """Several loggers as one. One that fails is said and left out from there on: no training ends with it."""

    def __init__(self, named: Mapping[str, Logger], say: Callable[[str], None] = print) -> None:
        self.named, self.say = dict(named), say

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Tells all loggers."""
        for name, logger in list(self.named.items()):
            self._attempt(name, partial(logger.log, values, step))

    def close(self) -> None:
        """Closes all."""
        for name, logger in list(self.named.items()):
            self._attempt(name, logger.close)

    def _attempt(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as e:  # others' loggers may raise anything
            del self.named[name]
            reason = " ".join(str(e).split())
            self.say(f"--log {name} failed and is left out from here on: {type(e).__name__}: {reason}")


def found(name: str) -> Maker:
    """What makes the logger that ``--log`` names: tensorboard, csv, or MODULE:CLASS of one's own. ValueError, one line,
    for what is not there, needs a package, or is no logger."""
    if name in OWN:
        if name == "tensorboard":
            _tensorboard()
        return OWN[name]
    module, colon, attribute = name.partition(":")
    expected = f"expected {', '.join(OWN)} or MODULE:CLASS"
    if not (module and colon and attribute):
        raise ValueError(f"--log {name}: {expected}{nearest(name, OWN)}")
    try:
        made = getattr(importlib.import_module(module), attribute, None)
    except Exception as e:  # importing others' modules may raise anything
        raise ValueError(f"--log {name}: importing {module} failed: {type(e).__name__}: {e}") from e
    if made is None:
        raise ValueError(f"--log {name}: {module} has no {attribute}: {expected}")
    if missing := [method for method in ("log", "close") if isinstance(made, type) and not hasattr(made, method)]:
        raise ValueError(f"--log {name}: expected a class with log and close, it lacks {' and '.join(missing)}")
    if not callable(made):
        raise ValueError(f"--log {name}: expected a class, got {made!r}")
    maker: Maker = made
    return maker


def opened(names: Sequence[str], folder: Path, step: int, say: Callable[[str], None]) -> Loggers:
    """The loggers of these names for a run. ValueError as of ``found``, and where one cannot be made."""
    made = {}
    for name in dict.fromkeys(names):
        maker = found(name)
        try:
            made[name] = maker(folder, step)
        except Exception as e:  # others' loggers may raise anything
            raise ValueError(f"--log {name}: it cannot be made: {type(e).__name__}: {e}") from e
    return Loggers(made, say)


def _tensorboard() -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ValueError("--log tensorboard needs tensorboardX: pip install 'alexnet-cuda[tensorboard]'") from None
    return SummaryWriter
