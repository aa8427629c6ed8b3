"""A run folder: what a training leaves in it, and how one is made and gone on with.

It explains itself: checkpoint.safetensors (from which a run goes on), best.safetensors (the epoch with the best test),
metrics.jsonl, config.toml, curve.png; model.py or model.prototxt where the network is of such a file, model.json where
of an ONNX
file.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from . import backend, checkpoint, loggers, models, names, recipe
from .command_line import UsageError
from .data import Data
from .files import replacing
from .metrics import MetricsLog, draw_curves, read_metrics
from .recipe import Recipe
from .trainer import Epoch, Evaluation, Step, Trainer

SAVE_SECONDS = 600  # in a long epoch the run is saved about this often
DRAW_SECONDS = 60  # curve.png is redrawn about this often
METRICS, CONFIG, CURVE = "metrics.jsonl", "config.toml", "curve.png"
MODEL, GRAPH = "model", "model.json"


@dataclass(frozen=True)
class Config:
    """All that decides a run: with the same images, the same configuration gives the same bits."""

    recipe: Recipe
    data: str = "digits"
    device: str = "cpu"
    seed: int = 0
    overfit_batch: bool = False
    weights: str = ""
    """What the run started from; "": from scratch."""

    def plain(self) -> dict[str, Any]:
        """As one flat table, the recipe's entries among it."""
        run = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "recipe"}
        return {**run, **recipe.plain(self.recipe)}

    @classmethod
    def of(cls, table: Mapping[str, Any], where: str) -> Config:
        """The configuration that ``plain`` gave, or as much of it as the table has. RecipeError as of
        ``recipe.change``."""
        known = [f.name for f in fields(cls) if f.name != "recipe"]
        run = recipe.checked(cls, {name: table[name] for name in known if name in table}, where)
        if not 0 <= run.get("seed", 0) < 2**63:
            raise recipe.RecipeError(f"{where}: seed: expected a whole number from 0 to 2^63 - 1, got {run['seed']}")
        entries = {name: value for name, value in table.items() if name not in run}
        return cls(recipe.change(Recipe(), entries, where, known), **run)


def latest(folders: Iterable[Path]) -> Path | None:
    """Of these folders the one whose checkpoint is the newest; None where there is none in any."""
    found = [folder / checkpoint.NAME for folder in folders if (folder / checkpoint.NAME).is_file()]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def check_new(folder: Path) -> None:
    """UsageError when --out is no name of a run folder to be made, and of no empty one."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise UsageError(f"--out {folder}: {os.strerror(errno.ENOTDIR)}")
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        raise UsageError(f"--out {folder}: {os.strerror(errno.EACCES)}")
    if place == folder and any(folder.iterdir()):
        raise UsageError(f"--out {folder}: not empty; a run does not overwrite another")


def made(folder: Path | None, model: str) -> Path:
    """The new run folder, by default one in runs/ that is called by model and time. UsageError where there can be
    none."""
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check_new(folder)  # others may have been here since the beginning
        except OSError as e:
            raise UsageError(f"--out {folder}: {e.strerror}") from e
        return folder
    name = f"{model}-{datetime.now():%Y-%m-%d-%H%M%S}"
    for folder in (Path("runs", name + suffix) for suffix in ("", *(f"-{i}" for i in range(2, 100)))):
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as e:
            raise UsageError(f"{folder}: {e.strerror}; --out names another folder") from e
    raise UsageError(f"runs/{name}: exists; --out names another folder")


def of(resumed: Path) -> Path:
    """The run folder that was named, or in which the checkpoint file lies that was."""
    return resumed if resumed.is_dir() else resumed.parent


def records(resumed: Path, step: int) -> list[dict[str, Any]]:
    """What a run that is resumed measured up to this step."""
    path = of(resumed) / METRICS
    before = read_metrics(path) if path.is_file() else []
    return [record for record in before if record["step"] <= step]


def take_best(resumed: Path, folder: Path, step: int) -> None:
    """Takes the best checkpoint of a run along that goes on in another folder, if it is of this step or before."""
    best = of(resumed) / checkpoint.BEST
    if of(resumed).resolve() == folder.resolve() or not best.is_file():
        return
    if checkpoint.load(best).description["progress"]["step"] <= step:
        with replacing(folder / checkpoint.BEST) as aside:
            shutil.copyfile(best, aside)


class Saver:
    """Saves a run at the end of each epoch and in long ones. All processes of a group take part, one of them writes."""

    def __init__(self, folder: Path, config: Config, data: Data, trainer: Trainer) -> None:
        self.folder, self.config, self.data, self.trainer = folder, config, data, trainer
        self.checkpoint = folder / checkpoint.NAME
        self._saved = trainer.now

    def step(self, step: Step) -> None:
        if self.trainer.now - self._saved > SAVE_SECONDS:
            self.save()

    def epoch(self, epoch: Epoch) -> None:
        self.save()

    def save(self) -> None:
        description = {
            "config": self.config.plain(),
            "classes": list(self.data.classes),
            "images": len(self.data.train),
        }
        self.trainer.save(self.checkpoint, description)
        self._saved = self.trainer.now

    def unreadable(self) -> dict[str, str]:
        """The images that could not be read so far, and why."""
        return {**self.data.train.unreadable, **self.data.test.unreadable}

    def draw(self) -> None:
        """Draws how the run went."""

    def close(self) -> None:
        """Closes what was written to."""


class Run(Saver):
    """A run folder and what is written into it."""

    def __init__(
        self,
        folder: Path,
        config: Config,
        data: Data,
        trainer: Trainer,
        records: Sequence[dict[str, Any]],
        say: Callable[[str], None],
        command: Sequence[str],
        keep: int | None = None,
        log: Sequence[str] = (),
    ) -> None:
        """``records``: what was measured before; ``command``: what was asked for, for the record; ``keep``: the
        checkpoints of so many epochs stay, too; ``log``: names of loggers. ValueError for one that cannot be made."""
        super().__init__(folder, config, data, trainer)
        self.say = say
        self.keep = keep
        if log:
            trainer.logger = loggers.opened(log, folder, trainer.progress.step, say)
        self.log = MetricsLog(folder / METRICS, records)
        self.log.write(
            {
                "kind": "start",
                "step": trainer.progress.step,
                "time": datetime.now().astimezone().isoformat(timespec="seconds"),
                "version": backend.build_info()["version"],
                "machine": backend.hardware(trainer.device),
                "command": " ".join(map(names.shell, command)),
            }
        )
        self._drawn = time.monotonic()
        with replacing(folder / CONFIG) as aside:
            aside.write_text(recipe.toml(config.plain()), encoding="utf-8")
        if code := config.recipe.code:
            name = GRAPH if models.onnx.is_file(code["file"]) else MODEL + Path(code["file"]).suffix
            with replacing(folder / name) as aside:
                aside.write_text(code["text"], encoding="utf-8")

    def step(self, step: Step) -> None:
        if step.step % loggers.EVERY == 0:
            self.log.write({"kind": "step", **step._asdict()})
        super().step(step)

    def epoch(self, epoch: Epoch) -> None:
        """Records an epoch and saves the run."""
        record = epoch._asdict()
        test: Evaluation = record.pop("test")
        tested = {"test_loss": test.loss, "test_accuracy": test.top1, "test_top5": test.top5}
        self.log.write({"kind": "epoch", **record, **tested})
        super().epoch(epoch)
        if epoch.best:
            _copy(self.checkpoint, self.folder / checkpoint.BEST)
        if self.keep:
            _copy(self.checkpoint, self.folder / f"epoch-{epoch.epoch:04}.safetensors")
            for old in sorted(self.folder.glob("epoch-*.safetensors"))[: -self.keep]:
                old.unlink()
        if time.monotonic() - self._drawn > DRAW_SECONDS:
            self.draw()

    def save(self) -> None:
        super().save()
        unreadable = self.unreadable()
        if unreadable:
            with replacing(self.folder / "unreadable.txt") as aside:
                lines = (f"{path}: {reason}\n" for path, reason in unreadable.items())
                aside.write_text("".join(lines), encoding="utf-8")

    def draw(self) -> None:
        path, title = self.folder / CURVE, f"{self.config.recipe.model} on {self.config.data}"
        try:
            draw_curves(path, read_metrics(self.log.path), title)
        except Exception as e:  # a drawing can fail in many ways, and no training should end with it
            self.say(f"{names.text(path)} could not be drawn: {' '.join(str(e).split()) or type(e).__name__}")
        self._drawn = time.monotonic()

    def close(self) -> None:
        self.log.close()
        if self.trainer.logger:
            self.trainer.logger.close()


def _copy(file: Path, to: Path) -> None:
    """Another name for a file that is never written to again, only replaced."""
    with replacing(to) as aside:
        os.link(file, aside)
