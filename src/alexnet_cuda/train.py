"""``python -m alexnet_cuda.train``: trains a model on images and leaves a run folder that explains itself.

The folder holds checkpoint.safetensors (from which --resume goes on), best.safetensors (the epoch with the best test),
metrics.jsonl, config.toml and curve.png.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import signal
import sys
import time
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from . import backend, checkpoint, command_line, kernels, memory, models, names, parallel, recipe, summary, trace
from .checkpoint import Checkpoint, CheckpointError
from .command_line import Failure, UsageError, checked_input
from .data import SOURCES, ArrayDataset, Data, DataError, Dataset, located, open_located, resolved
from .files import replacing
from .metrics import MetricsLog, draw_curves, read_metrics
from .parallel import Group
from .recipe import Recipe
from .trainer import Diverged, Epoch, Evaluation, Step, Trainer, check_colour

RECORD_STEPS = 10  # metrics.jsonl holds every tenth step
UNREADABLE_LINES = 10
QUIET_SECONDS = 60  # without a terminal a line appears, and curve.png is redrawn, about this often
SAVE_SECONDS = 600  # in a long epoch the run is saved about this often
WAITING = 0.1  # share of the time spent waiting for images from which on the loader is named as the limit
TRACED_STEPS = 3
BEST, CURVE = "best.safetensors", "curve.png"


@dataclass(frozen=True)
class Config:
    """All that decides a run: with the same images, the same configuration gives the same bits."""

    recipe: Recipe
    data: str = "digits"
    device: str = "cpu"
    seed: int = 0
    overfit_batch: bool = False

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


IN_RECIPE = (
    "model",
    "mirror",
    "batch",
    "epochs",
    "lr",
    "momentum",
    "decay",
    "precision",
    "graph",
)  # options that are entries of recipes
RESUME = (
    "go on with the run in this folder, or from this checkpoint file; auto: with the one in --out or the newest in "
    "runs/, or begin a new one"
)
PARALLEL = (
    "train with all processes that mpirun, or a launcher that sets RANK and WORLD_SIZE, started: each has a part of "
    "every batch, with hybrid also one of every fully-connected layer"
)
CHANGEABLE = ("data", "device", "epochs", "graph")  # what a resumed run may do otherwise than it began


def parser() -> command_line.Parser:
    p = command_line.Parser(
        "train",
        "Trains a model on images. Without arguments: alexnet-mini on handwritten digits, in about a minute.",
        "Ctrl-C finishes the step and saves; --resume goes on from there.\n"
        "Exit codes: 0 done, 1 failure, 2 wrong usage, 130 and 143 interrupted after saving.",
    )
    add = p.add_argument_group("what to train").add_argument
    add("--model", metavar="NAME", help=f"{', '.join(models.names())} (default alexnet-mini)")
    command_line.add_convnet(add)
    add("--data", metavar="SOURCE", help=f"{', '.join(SOURCES)} (default digits)")
    add("--mirror", action=BooleanOptionalAction, help="mirrored images too (default: the data's)")
    add("--overfit-batch", action="store_true", help="train on one batch over and over: a network that works learns it")
    add = p.add_argument_group("how to train (default: the model's recipe)").add_argument
    add("--recipe", metavar="NAME|FILE", help="a recipe that comes with the package, or a TOML file")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="an entry of the recipe; model.lrn=false ...")
    add("--print-config", action="store_true", help="print the resolved recipe and what else decides the run, and end")
    add("--batch", type=command_line.positive_int, metavar="N", help="images a step")
    add("--epochs", type=command_line.positive_int, metavar="N", help="passes over the training images")
    add("--lr", type=command_line.positive_float, metavar="RATE", help="learning rate at first")
    add("--momentum", type=command_line.fraction, metavar="M")
    add("--graph", action=BooleanOptionalAction, help="on a GPU each step as one CUDA graph (default), or not")
    add("--decay", type=command_line.non_negative_float, metavar="D", help="weight decay")
    add("--precision", choices=kernels.PRECISIONS, help="of products; bf16: also of what is stored of activations")
    add("--seed", type=command_line.seed, metavar="N", help="of weights, order, crops and dropout (default 0)")
    add = p.add_argument_group("where").add_argument
    add("--device", help="cpu, cuda or cuda:N (default: a usable GPU, else the CPU); cuda:0,cuda:1: a tower on each")
    add("--parallel", choices=("data", "hybrid"), help=PARALLEL)
    add("--threads", type=command_line.positive_int, metavar="N", help="CPU threads (default: one a core)")
    add("--out", type=Path, metavar="FOLDER", help="run folder, new or empty (default runs/MODEL-DATE)")
    add("--keep", type=command_line.positive_int, metavar="N", help="keep the checkpoints of the last N epochs, too")
    add("--resume", metavar="RUN", help=RESUME)
    add("--trace", type=Path, metavar="FILE", help=f"write when what ran in the first {TRACED_STEPS} steps, for Chrome")
    add("--tensorboard", action="store_true", help="also write what TensorBoard reads (needs tensorboardX)")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    with checked_input():
        launch = parallel.launch()
        processes = launch.size if launch else 1
        _check_launch(options, processes)
        resumed = _resumed(options)
        saved = checkpoint.load(resumed) if resumed else None
        config = _configure(options, resumed, saved)
        model = models.described(config.recipe.model, config.recipe.options, config.recipe.convnet)
        check_colour(model)
        teller = resumed or options.recipe
        devices = _usable(config.device, None if options.device else teller)
        if len(devices) > 1 and not isinstance(model, models.Convnet):
            parallel.check(model, devices)
        if options.parallel == "hybrid":
            parallel.check_hybrid(model, processes)
        if config.recipe.batch % processes:
            got = config.recipe.batch
            raise UsageError(f"batch: expected a multiple of the {processes} processes, got {got}")
        if options.print_config:
            print(recipe.toml(config.plain()), end="")
            return 0
        if options.tensorboard:
            _board_writer()  # or say what it needs, before there is a folder
        if options.out and (resumed is None or options.out != resumed):
            _check_out(options.out)
        if options.trace and (options.trace.is_dir() or not options.trace.absolute().parent.is_dir()):
            raise UsageError(f"--trace {options.trace}: expected a file in a folder that exists")
    with ExitStack() as stack:
        with checked_input():
            group = stack.enter_context(parallel.join(devices[0].kind)) if options.parallel else Group()
            named_by = None if options.data else teller
            data = group.attempt(lambda: _images(config, saved, named_by, options.threads))
            config = replace(config, data=resolved(config.data))
            if not saved and config.recipe.mirror is None:
                config = replace(config, recipe=replace(config.recipe, mirror=data.mirrored))
            if not group.alone:
                group.agree(_identity(config, saved, data))
            devices = _devices(devices, group)
            backend.set_threads(options.threads or max(1, backend.threads() // group.local_size))
            screen = Screen(quiet=group.rank > 0)
            screen.say(backend.describe(*devices))
            if devices[0].kind == "cpu" and config.recipe.precision != "fp32":
                screen.say(f"precision {config.recipe.precision} on a CPU: the numbers that a GPU computes, slowly")
            model = model.with_classes(len(data.classes))
            screen.say(f"\n{summary.table(model, config.recipe.batch, devices)}\n")
            screen.say(f"data  {data.split}")
            screen.group(group, config.recipe)
            place, hybrid = config.device if group.alone else devices[0], options.parallel == "hybrid"
            mean = saved.mean if saved else None
            trainer = group.attempt(lambda: Trainer.of(config.recipe, data, place, config.seed, mean, group, hybrid))
            if saved:
                trainer.restore(saved)
                if trainer.finished:
                    done = command_line.count(trainer.progress.epoch, "epoch")
                    raise UsageError(f"{options.resume}: has done its {done}; --epochs N goes on to N")
        named = group.attempt(lambda: str(_folder(options, resumed, config)) if group.rank == 0 else "")
        folder = Path(group.exchange(named)[0])
        if group.rank == 0:
            run: Saver = Run(folder, config, data, trainer, _records(resumed, trainer), options, screen.say)
        else:
            run = Saver(folder, config, data, trainer)
        screen.left_out(run.unreadable())
        screen.say(f"run   {names.text(folder)}" + (f", from step {trainer.progress.step}\n" if saved else "\n"))
        return _train(run, screen, options.trace if group.rank == 0 else None)


def _check_launch(options: Namespace, processes: int) -> None:
    """UsageError when the launcher and the options do not go together."""
    if not options.parallel and processes > 1:
        raise UsageError(
            f"this is one of {processes} processes: --parallel data or hybrid says how they train together"
        )
    if options.parallel and options.device not in (None, "cpu", "cuda"):
        raise UsageError(f"--parallel and --device {options.device}: expected cpu or cuda; each process takes its own")


def _devices(named: tuple[backend.Device, ...], group: Group) -> tuple[backend.Device, ...]:
    """The devices of this process: the GPU whose number is that of the process on its machine, or what was named."""
    if group.alone or named[0].kind == "cpu":
        return named
    gpus = backend.gpus()
    if group.local_rank >= len(gpus):
        raise UsageError(f"{group.local_size} processes on a machine with {len(gpus)} GPUs: expected at most one each")
    backend.use(gpus[group.local_rank])
    return (gpus[group.local_rank],)


def _identity(config: Config, saved: Checkpoint | None, data: Data) -> dict[str, Any]:
    """What processes that train together must have in common."""
    said: dict[str, Any] = {"version": backend.package_version("alexnet-cuda"), **config.plain()}
    said["checkpoint"] = saved.digest if saved else None
    del said["data"]  # which may lie elsewhere on each machine; what counts is that the images are the same
    for name, images in (("training", data.train), ("test", data.test)):
        some, *_ = images.load(np.linspace(0, len(images) - 1, min(len(images), 8)).astype(np.int64))
        digest = hashlib.blake2b(repr((tuple(images.classes), images.size)).encode(), digest_size=8)
        for array in (images.labels, some):
            digest.update(np.ascontiguousarray(array).data)
        said[f"{name} images"] = f"{len(images)}, digest {digest.hexdigest()}"
    return said


def _usable(name: str, teller: object) -> tuple[backend.Device, ...]:
    """The devices of that name; by ``teller``, a run or a recipe, if it is not from the command line."""
    try:
        return command_line.devices(name or None)
    except (UsageError, Failure) as e:
        raise type(e)(f"{e}; {name} comes from {teller}, --device names another" if teller and name else str(e)) from e


def _images(config: Config, saved: Checkpoint | None, teller: object, threads: int | None) -> Data:
    """The images to train and to test on, those of the run that is gone on with; ``teller`` as of ``open_located``."""
    model = models.described(config.recipe.model, config.recipe.options, config.recipe.convnet)
    data = open_located(config.data, teller, *model.input[:2], threads=threads, margin=config.recipe.crop)
    if config.overfit_batch:
        data = _one_batch(data, config.recipe.batch, model.input[:2])
    if saved:
        _check_data(saved, data)
    return data


def _one_batch(data: Data, batch: int, size: tuple[int, int]) -> Data:
    """The centres of as many evenly spaced training images, to train and to test on."""
    places = np.linspace(0, len(data.train) - 1, min(batch, len(data.train))).astype(np.int64)
    images, labels, _ = data.train.load(places)
    top, left = np.subtract(images.shape[1:3], size) // 2
    cut = np.ascontiguousarray(images[:, top : top + size[0], left : left + size[1]])
    one: Dataset = ArrayDataset(cut, labels, data.classes, data.train.unreadable)
    return Data(one, one, f"{data.split}; of these one batch of {len(labels)}, to train and to test on", False)


def _resumed(options: Namespace) -> Path | None:
    """The run folder or checkpoint file to go on from."""
    if options.resume != "auto":
        return Path(options.resume) if options.resume else None
    folders = [options.out] if options.out else Path("runs").glob("*")
    found = [folder / checkpoint.NAME for folder in folders if (folder / checkpoint.NAME).is_file()]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def _configure(options: Namespace, resumed: Path | None, saved: Checkpoint | None) -> Config:
    given = {name: value for name in IN_RECIPE if (value := getattr(options, name)) is not None}
    run = {name: value for name in ("data", "device", "seed") if (value := getattr(options, name)) is not None}
    if "data" in run:
        run["data"] = located(run["data"])
    if options.overfit_batch:
        run["overfit_batch"] = True
    if saved is None:
        begun = _beginning(options)
        begin = begun.recipe
        settings = recipe.settings(options.set)
        if doubled := sorted(given.keys() & settings.keys()):
            raise UsageError(f"--{doubled[0]} and --set {doubled[0]}=... contradict each other: give one of them")
        where = " ".join(f"--set {text}" for text in options.set) or "options"
        made = recipe.change(begin, {**settings, **given}, where)
        if options.parallel == "hybrid" and "lr" not in {**settings, **given}:
            made = replace(made, lr=begin.lr * made.batch / begin.batch)  # Krizhevsky 2014: in proportion
        device = ",".join(map(str, _usable(options.device or begun.device, None if options.device else options.recipe)))
        return replace(begun, recipe=made, **{**run, "device": device})
    try:
        table = saved.description["config"]
        began = Config.of({f.name: table[f.name] for f in fields(Config) if f.name != "recipe"} | table, str(resumed))
    except (KeyError, TypeError, recipe.RecipeError) as e:
        raise CheckpointError(f"{resumed}: its description lacks a configuration that train knows: {e}") from e
    files = options.convnet_layers, options.convnet_params, options.convnet_size
    if options.recipe or options.set or any(files):
        raise UsageError("--resume goes on with the run's own recipe; begin a new run for another")
    for name, value in {**given, **run}.items():
        before = getattr(began.recipe if name in IN_RECIPE else began, name)
        if name not in CHANGEABLE and value != before:
            raise UsageError(f"--resume goes on with {name} {before}, got {value}; begin a new run for that")
    changed = replace(began.recipe, **{name: value for name, value in given.items() if name in CHANGEABLE})
    return replace(began, recipe=changed, **{name: value for name, value in run.items() if name in CHANGEABLE})


def _beginning(options: Namespace) -> Config:
    """What the recipe says that the command line names, by default that of the model; device "": the default."""
    made = command_line.convnet(options)
    if made and options.recipe:
        raise UsageError("--recipe: the convnet files say how to train; --set changes entries")
    if made:
        return Config(recipe.of_convnet(made), device="")
    if options.recipe:
        table, where = recipe.read(options.recipe)
        begun = Config.of({"device": "", **table}, where)
        return replace(begun, data=resolved(begun.data))
    model = models.get(options.model or Recipe.model).name
    return Config(recipe.load(model) if model in recipe.names() else Recipe(model=model), device="")


def _check_data(saved: Checkpoint, data: Data) -> None:
    expected = saved.description.get("classes"), saved.description.get("images")
    got = list(data.classes), len(data.train)
    if expected != got:
        raise UsageError(
            f"--resume: the run began with {expected[1]} training images of {', '.join(expected[0] or ())}; "
            f"these are {got[1]} of {', '.join(got[0])}"
        )


def _check_out(folder: Path) -> None:
    """UsageError when --out is no name of a run folder to be made, and of no empty one."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise UsageError(f"--out {folder}: {os.strerror(errno.ENOTDIR)}")
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        raise UsageError(f"--out {folder}: {os.strerror(errno.EACCES)}")
    if place == folder and any(folder.iterdir()):
        raise UsageError(f"--out {folder}: not empty; a run does not overwrite another")


def _folder(options: Namespace, resumed: Path | None, config: Config) -> Path:
    """The run folder, made if it is a new one."""
    if resumed and options.out in (None, resumed):
        return _began_in(resumed)
    if options.out is not None:
        folder: Path = options.out
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _check_out(folder)  # others may have been here since the beginning
        except OSError as e:
            raise UsageError(f"--out {folder}: {e.strerror}") from e
        return folder
    name = f"{config.recipe.model}-{datetime.now():%Y-%m-%d-%H%M%S}"
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


def _records(resumed: Path | None, trainer: Trainer) -> list[dict[str, Any]]:
    """What a resumed run measured before, without what came after the checkpoint."""
    if resumed is None:
        return []
    path = _began_in(resumed) / "metrics.jsonl"
    before = read_metrics(path) if path.is_file() else []
    return [record for record in before if record["step"] <= trainer.progress.step]


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


class Run(Saver):
    """A run folder and what is written into it."""

    def __init__(
        self,
        folder: Path,
        config: Config,
        data: Data,
        trainer: Trainer,
        records: Sequence[dict[str, Any]],
        options: Namespace,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(folder, config, data, trainer)
        self.say = say
        self.keep = options.keep
        self.board = _board_writer()(str(folder)) if options.tensorboard else None
        self.log = MetricsLog(folder / "metrics.jsonl", records)
        self._drawn = time.monotonic()
        with replacing(folder / "config.toml") as aside:
            aside.write_text(recipe.toml(config.plain()), encoding="utf-8")

    def step(self, step: Step) -> None:
        if step.step % RECORD_STEPS == 0:
            self.log.write({"kind": "step", **step._asdict()})
            self._show({"loss": step.loss, "lr": step.lr}, step.step)
        super().step(step)

    def epoch(self, epoch: Epoch) -> None:
        """Records an epoch and saves the run."""
        record = epoch._asdict()
        test: Evaluation = record.pop("test")
        tested = {"test_loss": test.loss, "test_accuracy": test.top1, "test_top5": test.top5}
        self.log.write({"kind": "epoch", **record, **tested})
        self._show({"train_accuracy": epoch.train_accuracy, **tested}, epoch.step)
        super().epoch(epoch)
        if epoch.best:
            _copy(self.checkpoint, self.folder / BEST)
        if self.keep:
            _copy(self.checkpoint, self.folder / f"epoch-{epoch.epoch:04}.safetensors")
            for old in sorted(self.folder.glob("epoch-*.safetensors"))[: -self.keep]:
                old.unlink()
        if time.monotonic() - self._drawn > QUIET_SECONDS:
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

    def _show(self, values: dict[str, float | None], step: int) -> None:
        if self.board is not None:
            for name, value in values.items():
                if value is not None:
                    self.board.add_scalar(name, value, step)


def _board_writer() -> Any:
    """What writes for TensorBoard, called with a folder."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UsageError("--tensorboard needs tensorboardX: pip install 'alexnet-cuda[tensorboard]'") from None
    return SummaryWriter


def _copy(file: Path, to: Path) -> None:
    """Another name for a file that is never written to again, only replaced."""
    with replacing(to) as aside:
        os.link(file, aside)


class Screen:
    """What a person sees: a line an epoch and, on a terminal, a bar below them."""

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

    def result(self, run: Run, last: Epoch, seconds: float) -> None:
        table = Table(show_header=False)
        crossed = [f"{n:,} bytes from {a.row} to {b.row}" for (a, b), n in sorted(backend.traffic.items(), key=str)]
        for name, value in (
            ("epochs", f"{last.epoch}"),
            ("time", f"{seconds:.0f} s" if seconds < 120 else f"{timedelta(seconds=round(seconds))}"),
            ("speed", f"{last.images_per_second:,.0f} images/s"),
            ("training loss", f"{last.train_loss:.4f}"),
            ("test accuracy", f"{last.test.top1:.2%} of {last.test.images:,} images"),
            *([("crossed", "\n".join(crossed))] if crossed else []),
            ("files", "\n".join(names.text(path) for path in sorted(run.folder.iterdir()))),
        ):
            table.add_row(name, Text(value, overflow="fold"))
        self.console.print(table)


def _train(run: Saver, screen: Screen, trace_file: Path | None = None) -> int:
    trainer, began, epochs = run.trainer, time.monotonic(), list[Epoch]()

    def on_step(step: Step) -> None:
        run.step(step)
        screen.step(step)
        traced()

    def on_epoch(epoch: Epoch) -> None:
        run.epoch(epoch)
        screen.epoch(epoch)
        screen.left_out(run.unreadable())
        epochs.append(epoch)

    try:
        with _stopping(trainer) as signals, screen.training(trainer), _tracing(trace_file) as traced:
            finished = trainer.fit(on_step, on_epoch)
            if not finished:
                run.save()
    except Diverged as e:
        raise Failure(f"{e}; {_kept(run)}; a lower --lr may help") from e
    except MemoryError as e:
        raise Failure(f"out of memory: {_told(e, trainer.device)}; {_fitting(run)}; {_kept(run)}") from e
    except RuntimeError as e:
        raise Failure(f"step {trainer.progress.step + 1} failed: {_told(e, trainer.device)}; {_kept(run)}") from e
    except DataError as e:
        raise UsageError(str(e)) from e
    run.draw()
    if not finished:
        screen.say(f"interrupted after step {trainer.progress.step:,}; everything is in {names.text(run.checkpoint)}")
        screen.say(f"to go on: python -m alexnet_cuda.train --resume {names.shell(run.folder)}")
        return 128 + signals[0]
    if isinstance(run, Run):
        screen.result(run, epochs[-1], time.monotonic() - began)
    return 0


def _kept(run: Saver) -> str:
    return f"{run.checkpoint} holds the last good state" if run.checkpoint.exists() else "nothing was saved yet"


def _told(e: Exception, where: backend.Device) -> str:
    """What failed, and in which operation. A GPU fails later than it is told what to do: perhaps nobody knows."""
    operation = "".join(f", {note}" for note in getattr(e, "__notes__", [])[:1])
    if not operation and where.kind == "cuda" and not isinstance(e, MemoryError):
        operation = " (CUDA_LAUNCH_BLOCKING=1 and --no-graph tell which kernel)"
    return (str(e) or type(e).__name__) + operation


def _fitting(run: Saver) -> str:
    """What would fit into memory, according to the plan of ``summary --memory``."""
    trainer, made = run.trainer, run.config.recipe
    model = models.described(made.model, made.options, made.convnet).with_classes(len(run.data.classes))
    planner = memory.Planner(model, trainer.devices, made)
    most = planner.largest_batch(memory.room(trainer.devices)) * trainer.group.size
    part = -(-made.batch // made.accumulate)
    if most >= part:
        return f"{part:,} images at a time fit if nothing else takes memory; others: --batch N or --set accumulate=N"
    if not most:
        return "not a single image fits"
    return f"--batch {most} fits, or --set accumulate={-(-made.batch // most)}"


@contextmanager
def _tracing(file: Path | None) -> Iterator[Callable[[], None]]:
    """Within this block, up to the call after ``TRACED_STEPS`` steps, work is recorded; the file tells of it."""
    with ExitStack() as recording:
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1
            if steps == TRACED_STEPS:
                recording.close()

        if file:
            spans = recording.enter_context(trace.recording())
            recording.callback(lambda: trace.write(file, spans))
        yield step


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
