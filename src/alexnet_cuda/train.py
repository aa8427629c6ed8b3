"""``python -m alexnet_cuda.train``: trains a model on images and leaves a run folder that explains itself.

The folder holds checkpoint.safetensors (from which --resume goes on), metrics.jsonl, config.toml and curve.png.
"""

from __future__ import annotations

import json
import math
import shlex
import signal
import sys
import time
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from . import backend, checkpoint, command_line, models, summary
from .checkpoint import Checkpoint, CheckpointError
from .command_line import Failure, UsageError, checked_input
from .data import Data, DataError, Loader, mean_image, open_data
from .files import replacing
from .metrics import MetricsLog, draw_curves, read_metrics
from .optim import SGD
from .trainer import Diverged, Epoch, Evaluation, Step, Trainer

RECORD_STEPS = 10  # metrics.jsonl holds every tenth step
UNREADABLE_LINES = 10
QUIET_SECONDS = 60  # without a terminal a line appears, and curve.png is redrawn, about this often


@dataclass(frozen=True)
class Recipe:
    """How a model is trained unless the command line says otherwise. The defaults are the paper's (section 5)."""

    batch: int = 128
    epochs: int = 90
    lr: float = 0.01
    momentum: float = 0.9
    decay: float = 0.0005
    scale: float = 1.0
    """Factor of the pixels (0 to 255, the mean subtracted) on their way into the network."""


RECIPES = {
    "alexnet-mini": Recipe(batch=32, epochs=40, lr=0.02, scale=1 / 64),
    "alexnet-owt": Recipe(scale=1 / 64),
}


@dataclass(frozen=True)
class Config(Recipe):
    """All that decides a run: with the same images, the same configuration gives the same bits."""

    model: str = "alexnet-mini"
    data: str = "digits"
    device: str = "cpu"
    seed: int = 0
    mirror: bool = False


CHANGEABLE = ("data", "device", "epochs")  # what a resumed run may do otherwise than it began


def parser() -> command_line.Parser:
    p = command_line.Parser(
        "train",
        "Trains a model on images. Without arguments: alexnet-mini on handwritten digits, in about a minute.",
        "Ctrl-C finishes the step and saves; --resume goes on from there.\n"
        "Exit codes: 0 done, 1 failure, 2 wrong usage, 130 and 143 interrupted after saving.",
    )
    add = p.add_argument_group("what to train").add_argument
    add("--model", metavar="NAME", help=f"{', '.join(models.names())} (default alexnet-mini)")
    add("--data", help="digits, or folder:PATH with train/CLASS/ and val/CLASS/, or CLASS/, in it (default digits)")
    add("--mirror", action=BooleanOptionalAction, help="mirrored images too (default: yes for folders, no for digits)")
    add = p.add_argument_group("how to train (default: the model's recipe)").add_argument
    add("--batch", type=command_line.positive_int, metavar="N", help="images a step")
    add("--epochs", type=command_line.positive_int, metavar="N", help="passes over the training images")
    add("--lr", type=command_line.positive_float, metavar="RATE", help="learning rate at first; falls along a cosine")
    add("--momentum", type=command_line.fraction, metavar="M")
    add("--decay", type=command_line.non_negative_float, metavar="D", help="weight decay")
    add("--seed", type=command_line.seed, metavar="N", help="of weights, order, crops and dropout (default 0)")
    add = p.add_argument_group("where").add_argument
    add("--device", help="cpu, cuda or cuda:N (default: a usable GPU, else the CPU)")
    add("--threads", type=command_line.positive_int, metavar="N", help="CPU threads (default: one a core)")
    add("--out", type=Path, metavar="FOLDER", help="run folder, new or empty (default runs/MODEL-DATE)")
    add("--resume", type=Path, metavar="RUN", help="go on with the run in this folder, or from this checkpoint file")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    screen = Screen()
    with checked_input():
        saved = checkpoint.load(options.resume) if options.resume else None
        config = _configure(options, saved)
        model = models.get(config.model)
        device = command_line.device(config.device)
        if options.threads:
            backend.set_threads(options.threads)
        data = open_data(config.data, *model.input[:2], threads=options.threads)
        if saved:
            _check_data(saved, data)
        elif options.mirror is None:
            config = replace(config, mirror=data.mirrored)
        model = model.with_classes(len(data.classes))
        screen.say(backend.describe(device))
        screen.say(f"\n{summary.table(model, config.batch)}\n")
        screen.say(f"data  {data.split}")
        mean = saved.mean if saved else mean_image(data.train)
        network, size = model.build(device, config.seed), model.input[:2]
        trainer = Trainer(
            network,
            SGD(network.parameters(), config.lr, config.momentum, config.decay),
            Loader(data.train, size, config.batch, mean, config.scale, config.mirror, config.seed),
            Loader(data.test, size, config.batch, mean, config.scale),
            config.epochs,
            config.seed,
        )
        if saved:
            trainer.restore(saved)
            if trainer.progress.epoch >= config.epochs:
                raise UsageError(f"{options.resume} has done its {config.epochs} epochs; --epochs N goes on to N")
    run = Run(_folder(options, config), config, data, mean, trainer, _records(options, trainer))
    screen.left_out(run.unreadable())
    screen.say(f"run   {run.folder}" + (f", from step {trainer.progress.step}\n" if saved else "\n"))
    return _train(run, screen)


def _configure(options: Namespace, saved: Checkpoint | None) -> Config:
    given = {f.name: v for f in fields(Config) if (v := getattr(options, f.name, None)) is not None}
    if saved is None:
        name = models.get(given.get("model", Config.model)).name
        recipe = RECIPES.get(name, Recipe())
        return replace(Config(**asdict(recipe), model=name, device=str(command_line.device(None))), **given)
    try:
        began = Config(**saved.description["config"])
    except (KeyError, TypeError) as e:
        raise CheckpointError(f"{options.resume}: its description lacks a configuration that train knows: {e}") from e
    for name, value in given.items():
        if name not in CHANGEABLE and value != getattr(began, name):
            raise UsageError(
                f"--resume goes on with {name} {getattr(began, name)}, got {value}; begin a new run for that"
            )
    return replace(began, **given)


def _check_data(saved: Checkpoint, data: Data) -> None:
    expected = saved.description.get("classes"), saved.description.get("images")
    got = list(data.classes), len(data.train)
    if expected != got:
        raise UsageError(
            f"--resume: the run began with {expected[1]} training images of {', '.join(expected[0] or ())}; "
            f"these are {got[1]} of {', '.join(got[0])}"
        )


def _folder(options: Namespace, config: Config) -> Path:
    """The run folder, made if it is a new one."""
    if options.out is None and options.resume:
        return _began_in(options.resume)
    if options.out is not None:
        folder: Path = options.out
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise UsageError(f"--out {folder}: not empty; a run does not overwrite another")
        except OSError as e:
            raise UsageError(f"--out {folder}: {e.strerror}") from e
        return folder
    name = f"{config.model}-{datetime.now():%Y-%m-%d-%H%M%S}"
    for folder in (Path("runs", name + suffix) for suffix in ("", *(f"-{i}" for i in range(2, 100)))):
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as e:
            raise UsageError(f"{folder}: {e.strerror}; --out names another folder") from e
    raise UsageError(f"runs/{name}: exists; --out names another folder")


def _began_in(resumed: Path) -> Path:
    return resumed if resumed.is_dir() else resumed.parent


def _records(options: Namespace, trainer: Trainer) -> list[dict[str, Any]]:
    """What a resumed run measured before, without what came after the checkpoint."""
    if options.resume is None:
        return []
    path = _began_in(options.resume) / "metrics.jsonl"
    before = read_metrics(path) if path.is_file() else []
    return [record for record in before if record["step"] <= trainer.progress.step]


class Run:
    """A run folder and what is written into it."""

    def __init__(
        self,
        folder: Path,
        config: Config,
        data: Data,
        mean: NDArray[np.float32],
        trainer: Trainer,
        records: Sequence[dict[str, Any]],
    ) -> None:
        self.folder, self.config, self.data, self.mean, self.trainer = folder, config, data, mean, trainer
        self.log = MetricsLog(folder / "metrics.jsonl", records)
        self.checkpoint = folder / checkpoint.NAME
        self._drawn = time.monotonic()
        with replacing(folder / "config.toml") as aside:
            aside.write_text(_toml(asdict(config)), encoding="utf-8")

    def step(self, step: Step) -> None:
        if step.step % RECORD_STEPS == 0:
            self.log.write({"kind": "step", **step._asdict()})

    def epoch(self, epoch: Epoch) -> None:
        """Records an epoch and saves the run."""
        record = epoch._asdict()
        test: Evaluation = record.pop("test")
        tested = {"test_loss": test.loss, "test_accuracy": test.top1, "test_top5": test.top5}
        self.log.write({"kind": "epoch", **record, **tested})
        self.save()
        if time.monotonic() - self._drawn > QUIET_SECONDS:
            self.draw()

    def save(self) -> None:
        description = {
            "config": asdict(self.config),
            "classes": list(self.data.classes),
            "images": len(self.data.train),
        }
        self.trainer.save(self.checkpoint, self.mean, description)
        unreadable = self.unreadable()
        if unreadable:
            with replacing(self.folder / "unreadable.txt") as aside:
                lines = (f"{path}: {reason}\n" for path, reason in unreadable.items())
                aside.write_text("".join(lines), encoding="utf-8")

    def unreadable(self) -> dict[str, str]:
        """The images that could not be read so far, and why."""
        return {**self.data.train.unreadable, **self.data.test.unreadable}

    def draw(self) -> None:
        title = f"{self.config.model} on {self.config.data}"
        draw_curves(self.folder / "curve.png", read_metrics(self.log.path), title)
        self._drawn = time.monotonic()


def _toml(values: dict[str, Any]) -> str:
    # The strings, numbers and booleans of JSON are those of TOML.
    return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())


class Screen:
    """What a person sees: a line an epoch and, on a terminal, a bar below them."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._spoke = time.monotonic()
        self._left_out: set[str] = set()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)
        self._spoke = time.monotonic()

    @contextmanager
    def training(self, trainer: Trainer) -> Iterator[None]:
        """Within this block ``step`` and ``epoch`` show where the trainer is."""
        self._epochs, self._batch = trainer.epochs, trainer.train.batch
        self._first, self._began = trainer.progress.step, time.monotonic()
        columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(compact=True)
        plain = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=plain) as self._bar:
            self._task = self._bar.add_task("starting", total=trainer.steps, completed=self._first)
            yield

    def step(self, step: Step) -> None:
        rate = (step.step - self._first) * self._batch / max(time.monotonic() - self._began, 1e-9)
        place = f"epoch {math.ceil(step.epoch)}/{self._epochs}"
        text = f"{place}  step {step.step:,}  loss {step.loss:.4f}  {rate:,.0f} images/s"
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

    def left_out(self, unreadable: Mapping[str, str]) -> None:
        """Names the images that could not be read and have not been named before, up to UNREADABLE_LINES in all."""
        for path in sorted(unreadable.keys() - self._left_out):
            self._left_out.add(path)
            if len(self._left_out) <= UNREADABLE_LINES:
                self.say(f"left out {path}: {unreadable[path]}")
            elif len(self._left_out) == UNREADABLE_LINES + 1:
                self.say("left out more images that could not be read; unreadable.txt in the run folder names all")

    def result(self, run: Run, last: Epoch, seconds: float) -> None:
        table = Table(show_header=False)
        for name, value in (
            ("epochs", f"{last.epoch}"),
            ("time", f"{seconds:.0f} s" if seconds < 120 else f"{timedelta(seconds=round(seconds))}"),
            ("speed", f"{last.images_per_second:,.0f} images/s"),
            ("training loss", f"{last.train_loss:.4f}"),
            ("test accuracy", f"{last.test.top1:.2%} of {last.test.images:,} images"),
            ("files", "\n".join(str(path) for path in sorted(run.folder.iterdir()))),
        ):
            table.add_row(name, Text(value, overflow="fold"))
        self.console.print(table)


def _train(run: Run, screen: Screen) -> int:
    trainer, began, epochs = run.trainer, time.monotonic(), list[Epoch]()

    def on_step(step: Step) -> None:
        run.step(step)
        screen.step(step)

    def on_epoch(epoch: Epoch) -> None:
        run.epoch(epoch)
        screen.epoch(epoch)
        screen.left_out(run.unreadable())
        epochs.append(epoch)

    try:
        with _stopping(trainer) as signals, screen.training(trainer):
            finished = trainer.fit(on_step, on_epoch)
            if not finished:
                run.save()
    except Diverged as e:
        kept = f"{run.checkpoint} holds the last good state" if run.checkpoint.exists() else "nothing was saved yet"
        raise Failure(f"{e}; {kept}; a lower --lr may help") from e
    except DataError as e:
        raise UsageError(str(e)) from e
    run.draw()
    if not finished:
        screen.say(f"interrupted after step {trainer.progress.step:,}; everything is in {run.checkpoint}")
        screen.say(f"to go on: python -m alexnet_cuda.train --resume {shlex.quote(str(run.folder))}")
        return 128 + signals[0]
    screen.result(run, epochs[-1], time.monotonic() - began)
    return 0


@contextmanager
def _stopping(trainer: Trainer) -> Iterator[list[int]]:
    """Within this block SIGINT and SIGTERM stop the trainer and are put into the list; a second one ends at once."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        trainer.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
