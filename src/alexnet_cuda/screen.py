"""What a person sees of a training: a line an epoch and, on a terminal, a bar below them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rich.table import Table
from rich.text import Text

from . import backend, names, terminal
from .parallel import Group
from .recipe import Recipe
from .trainer import Epoch, Step, Trainer

UNREADABLE_LINES = 10
QUIET_SECONDS = 60  # without a terminal a line appears about this often
WAITING = 0.1  # share of the time spent waiting for images from which on the loader is named as the limit


class Screen:
    """Lines and the bar, or with ``quiet`` nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = terminal.console(quiet=quiet)
        self.width = self.console.width if self.console.is_terminal else None
        self._spoke = time.monotonic()
        self._left_out: set[str] = set()

    def say(self, text: str, whole: bool = False) -> None:
        """Prints text, its lines broken between words where they are too long, unless they are to stay ``whole``."""
        shown = text if whole else terminal.paragraph(text, self.width, "      ")
        self.console.print(shown, soft_wrap=True)
        self._spoke = time.monotonic()

    def group(self, group: Group, made: Recipe) -> None:
        if not group.alone:
            each = made.batch // group.size
            self.say(f"group {group.size} processes, {each} images of each batch in each, rate {made.lr:g}")
            self.say("      " + ", ".join(f"{rank}: {name}" for rank, name in enumerate(group.names)))

    @contextmanager
    def training(self, trainer: Trainer) -> Iterator[None]:
        """Within this block ``step`` and ``epoch`` show where the trainer is."""
        self._epochs, self._trainer = trainer.epochs, trainer
        self._first, self._began = trainer.progress.step, time.monotonic()
        with terminal.Bar(self.console, "starting", len(trainer.train)) as self._bar:
            yield

    def step(self, step: Step) -> None:
        trainer, seconds = self._trainer, max(time.monotonic() - self._began, 1e-9)
        done = step.step - self._first
        progress, epoch = trainer.progress, math.ceil(step.epoch)
        rate, accuracy = done * trainer.train.batch / seconds, progress.correct / max(1, progress.images)
        left = timedelta(seconds=round(seconds / done * (trainer.steps - step.step)))
        self._bar.title = title = f"epoch {epoch}/{self._epochs}"
        said = f"rate {step.lr:.2g}", f"accuracy {accuracy:.1%}", f"loss {step.loss:.4f}", f"{rate:,.0f} images/s"
        self._bar.update(step.step - (epoch - 1) * len(trainer.train), *said, f"{left} left")
        if not self.console.is_terminal and time.monotonic() - self._spoke > QUIET_SECONDS:
            lr, accurate, loss, speed = said
            self.say("  ".join([title, f"step {step.step:,}", loss, accurate, lr, speed]))

    def epoch(self, epoch: Epoch) -> None:
        number, test = f"epoch {epoch.epoch:{len(str(self._epochs))}}/{self._epochs}", epoch.test
        trained = f"training loss {epoch.train_loss:.4f} accuracy {epoch.train_accuracy:6.2%}"
        tested = f"test loss {test.loss:.4f} accuracy {test.top1:6.2%}"
        speed = f"{epoch.images_per_second:,.0f} images/s"
        alternatives = (
            (number, trained, tested, speed),
            (number, trained, tested),
            (number, trained.removeprefix("training "), tested),
            (number, tested),
            (number, f"test accuracy {test.top1:6.2%}"),
        )
        self.say(terminal.fitting(*map("  ".join, alternatives), width=self.width))
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
            self.say(line if self.width and len(told) > self.width else told, whole=True)
