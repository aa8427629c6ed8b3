"""What a person sees of a training: a line an epoch and, on a terminal, a bar below them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from . import backend, command_line, names
from .parallel import Group
from .recipe import Recipe
from .trainer import Epoch, Step, Trainer

UNREADABLE_LINES = 10
QUIET_SECONDS = 60  # without a terminal a line appears about this often
WAITING = 0.1  # share of the time spent waiting for images from which on the loader is named as the limit


class Screen:
    """Lines and the bar, or with ``quiet`` nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = command_line.console(quiet=quiet)
        self._spoke = time.monotonic()
        self._left_out: set[str] = set()

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)
        self._spoke = time.monotonic()

    def group(self, group: Group, made: Recipe) -> None:
        if not group.alone:
            each = made.batch // group.size
            self.say(f"group {group.size} processes, {each} images of each batch in each, rate {made.lr:g}")
            self.say("      " + ", ".join(f"{rank}: {name}" for rank, name in enumerate(group.names)))

    @contextmanager
    def training(self, trainer: Trainer) -> Iterator[None]:
        """Within this block ``step`` and ``epoch`` show where the trainer is."""
        self._epochs, self._batch, self._trainer = trainer.epochs, trainer.train.batch, trainer
        self._first, self._began = trainer.progress.step, time.monotonic()
        columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(compact=True)
        plain = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=plain) as self._bar:
            self._task = self._bar.add_task("starting", total=trainer.steps, completed=self._first)
            yield

    def step(self, step: Step) -> None:
        rate = (step.step - self._first) * self._batch / max(time.monotonic() - self._began, 1e-9)
        place = f"epoch {math.ceil(step.epoch)}/{self._epochs}"
        progress = self._trainer.progress
        accuracy = progress.correct / max(1, progress.images)
        text = (
            f"{place}  step {step.step:,}  loss {step.loss:.4f}  accuracy {accuracy:.1%}  rate {step.lr:.2g}  "
            f"{rate:,.0f} images/s"
        )
        if self.console.is_terminal:
            self._bar.update(self._task, description=text, completed=step.step)
        elif time.monotonic() - self._spoke > QUIET_SECONDS:
            self.say(text)

    def epoch(self, epoch: Epoch) -> None:
        self.say(
            f"epoch {epoch.epoch:{len(str(self._epochs))}}/{self._epochs}"
            f"  training loss {epoch.train_loss:.4f} accuracy {epoch.train_accuracy:6.2%}"
            f"  test loss {epoch.test.loss:.4f} accuracy {epoch.test.top1:6.2%}"
            f"  {epoch.images_per_second:,.0f} images/s"
        )
        if epoch.waiting > WAITING:
            self.say(f"the loader is the limit: {epoch.waiting:.0%} of the time went into waiting for images")

    def left_out(self, unreadable: Mapping[str, str]) -> None:
        """Names the images that could not be read and have not been named before, up to UNREADABLE_LINES in all."""
        for path in sorted(unreadable.keys() - self._left_out):
            self._left_out.add(path)
            if len(self._left_out) <= UNREADABLE_LINES:
                self.say(f"left out {path}: {unreadable[path]}")
            elif len(self._left_out) == UNREADABLE_LINES + 1:
                self.say("left out more images that could not be read; unreadable.txt in the run folder names all")

    def result(self, folder: Path, last: Epoch, seconds: float) -> None:
        table = Table(show_header=False)
        crossed = [f"{n:,} bytes from {a.row} to {b.row}" for (a, b), n in sorted(backend.traffic.items(), key=str)]
        for name, value in (
            ("epochs", f"{last.epoch}"),
            ("time", f"{seconds:.0f} s" if seconds < 120 else f"{timedelta(seconds=round(seconds))}"),
            ("speed", f"{last.images_per_second:,.0f} images/s"),
            ("training loss", f"{last.train_loss:.4f}"),
            ("test accuracy", f"{last.test.top1:.2%} of {last.test.images:,} images"),
            *([("crossed", "\n".join(crossed))] if crossed else []),
            ("files", "\n".join(names.text(path) for path in sorted(folder.iterdir()))),
        ):
            table.add_row(name, Text(value, overflow="fold"))
        self.console.print(table)
        self.next(names.shell(folder))

    def next(self, run: str) -> None:
        """What can be done with a run, as commands; ``run`` is a word for the shell."""
        for command, what in (
            (f"evaluate {run}", "the errors, with ten views of each image, too"),
            (f"predict {run} IMAGE", "what it sees in images of yours"),
            (f"report {run}", "a page: curves, answers, confusions"),
        ):
            line = f"python -m alexnet_cuda.{command}"
            told = f"{line}  # {what}"
            self.say(told if len(told) <= self.console.width else line)
