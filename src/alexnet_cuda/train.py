"""``python -m alexnet_cuda.train``: trains a model on images and leaves a run folder (``run_folder``)."""

from __future__ import annotations

import hashlib
import signal
import sys
import textwrap
import time
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from . import (
    backend,
    checkpoint,
    command_line,
    deprecation,
    finetuning,
    kernels,
    loggers,
    memory,
    models,
    names,
    one_batch,
    parallel,
    profiling,
    recipe,
    run_folder,
    summary,
    terminal,
    trace,
)  # fmt: skip
from .checkpoint import Checkpoint, CheckpointError
from .command_line import Failure, UsageError, checked_input
from .data import SOURCES, Data, DataError, located, open_located, resolved
from .parallel import Group
from .recipe import Recipe
from .run_folder import Config, Run, Saver
from .screen import Screen
from .trainer import Diverged, Epoch, Step, Trainer, check_colour, completed

__all__ = ["main"]

TRACED_STEPS = 3
Teller = Callable[[list[trace.Span]], None]
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
    "freeze",
)  # options that are entries of recipes
WEIGHTS = (
    "start from trained weights: a run folder, a checkpoint, torchvision's alexnet (.pth, .safetensors), a Caffe "
    "model or FILE.onnx; the model is theirs, the recipe finetune unless another is named"
)
LOG = (
    "also write what is measured as metrics.csv (csv), for TensorBoard (tensorboard; needs tensorboardX), or by a "
    "class of yours (MODULE:CLASS); may be given several times"
)
RESUME = (
    "go on with the run in this folder, or from this checkpoint file; auto: with the one in --out or the newest in "
    "runs/, or begin a new one"
)
OWN = (
    "FILE.py:NAME, a function or Module class in a Python file of yours, which is run; or Caffe's FILE.prototxt; or "
    "FILE.onnx"
)
PARALLEL = (
    "train with all processes that mpirun, or a launcher that sets RANK and WORLD_SIZE, started: each has a part of "
    "every batch, with hybrid also one of every fully-connected layer"
)
OVERFIT = (
    f"whether the network learns one batch by heart: at a constant rate, without dropout and crops, {one_batch.STEPS} "
    "steps at most (--epochs: others); exit code 1 if not"
)
CHANGEABLE = ("data", "device", "epochs", "graph")  # what a resumed run may do otherwise than it began


def parser() -> command_line.Parser:
    p = command_line.Parser(
        "train",
        "Trains a model on images. Without arguments: alexnet-mini on handwritten digits, in about a minute.",
        "Examples:\n"
        "  python -m alexnet_cuda.train --data folder:PATH --epochs 20 --out runs/mine\n"
        "  python -m alexnet_cuda.train --data folder:PATH --overfit-batch\n"
        "  python -m alexnet_cuda.train --model alexnet --set lr=0.02 --print-config\n"
        "  python -m alexnet_cuda.train --resume runs/mine --epochs 40\n\n"
        "Ctrl-C finishes the step and saves; --resume goes on from there.\n"
        "Exit codes: 0 done, 1 failure, 2 wrong usage, 130 and 143 interrupted after saving.",
    )
    add = p.add_argument_group("what to train").add_argument
    add("--model", metavar="NAME", help=f"{', '.join(models.names())} (default alexnet-mini); {OWN}")
    command_line.add_convnet(add)
    add("--data", metavar="SOURCE", help=f"{', '.join(SOURCES)} (default digits)")
    add("--weights", type=Path, metavar="FILE|RUN", help=WEIGHTS)
    add("--mirror", action=BooleanOptionalAction, help="mirrored images too (default: the data's)")
    add("--overfit-batch", action="store_true", help=OVERFIT)
    add = p.add_argument_group("how to train (default: the model's recipe)").add_argument
    add("--recipe", metavar="NAME|FILE", help="a recipe that comes with the package, or a TOML file")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="an entry of the recipe; model.lrn=false ...")
    add("--help-set", action="store_true", help="print the entries that --set knows, and end")
    add("--print-config", action="store_true", help="print the resolved recipe and what else decides the run, and end")
    add("--batch", type=command_line.positive_int, metavar="N", help="images a step")
    add("--epochs", type=command_line.positive_int, metavar="N", help="passes over the training images")
    add("--lr", type=command_line.positive_float, metavar="RATE", help="learning rate at first")
    add("--momentum", type=command_line.fraction, metavar="M")
    add("--graph", action=BooleanOptionalAction, help="on a GPU each step as one CUDA graph (default), or not")
    freeze = "leave layers or arrays of these names as they are: 'conv*', fc6.b; may be repeated"
    add("--freeze", action="append", metavar="PATTERN", help=freeze)
    add("--decay", type=command_line.non_negative_float, metavar="D", help="weight decay")
    add("--precision", choices=kernels.PRECISIONS, help="of products; bf16: also of what is stored of activations")
    add("--seed", type=command_line.seed, metavar="N", help="of weights, order, crops and dropout (default 0)")
    add = p.add_argument_group("where").add_argument
    add("--device", help="cpu, cuda or cuda:N (default: a usable GPU, else the CPU); cuda:0,cuda:1: a tower on each")
    add("--parallel", choices=("data", "hybrid"), help=PARALLEL)
    add("--threads", type=command_line.positive_int, metavar="N", help="CPU threads (default: one a core)")
    add("--out", type=Path, metavar="FOLDER", help="run folder, new or empty (default runs/MODEL-DATE)")
    add(
        "--force",
        action="store_true",
        help="with --resume and --model FILE.py:NAME or FILE.onnx: go on with a file that has changed",
    )
    add("--keep", type=command_line.positive_int, metavar="N", help="keep the checkpoints of the last N epochs, too")
    add("--resume", metavar="RUN", help=RESUME)
    add("--trace", type=Path, metavar="FILE", help=f"write what ran when in the first {TRACED_STEPS} steps (Perfetto)")
    add("--profile", action="store_true", help=f"print where the time of the first {TRACED_STEPS} steps went")
    add("--log", action="append", default=[], metavar="LOGGER", help=LOG)
    add("--tensorboard", action="store_true", help="the old name of --log tensorboard")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.help_set:
        print(_entries(terminal.width()))
        return 0
    with checked_input():
        if options.force and not (options.resume and models.is_file(options.model or "")):
            raise UsageError("--force goes with --resume and --model FILE.py:NAME or FILE.onnx")
        launch = parallel.launch()
        processes = launch.size if launch else 1
        _check_launch(options, processes)
        resumed = _resumed(options)
        saved = checkpoint.load(resumed) if resumed else None
        config, start = _configure(options, resumed, saved)
        model = config.recipe.described()
        check_colour(model)
        teller = resumed or options.recipe
        devices = _usable(config.device, None if options.device else teller)
        if len(devices) > 1 and not model.places_itself:
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
            deprecation.renamed_option("--tensorboard", "--log tensorboard")
            options.log.append("tensorboard")
        for name in options.log:
            loggers.found(name)  # or say what it needs, before there is a folder
        if options.out and (resumed is None or options.out != resumed):
            run_folder.check_new(options.out)
        if options.trace and (options.trace.is_dir() or not options.trace.absolute().parent.is_dir()):
            raise UsageError(f"--trace {options.trace}: expected a file in a folder that exists")
    with ExitStack() as stack:
        with checked_input():
            group = stack.enter_context(parallel.join(devices[0].kind)) if options.parallel else Group()
            named_by = None if options.data else teller
            data = group.attempt(lambda: _images(config, saved, named_by, options.threads))
            model = model.with_classes(len(data.classes))
            config = replace(config, recipe=completed(config.recipe, data), data=resolved(config.data))
            if start:
                fit = finetuning.fit(start, model, data.classes)
                config = replace(config, recipe=finetuning.completed(config.recipe, fit, model))
            if not group.alone:
                group.agree(_identity(config, saved, start, data))
            devices = _devices(devices, group)
            backend.set_threads(options.threads or max(1, backend.threads() // group.local_size))
            screen = Screen(quiet=group.rank > 0)
            screen.say(backend.describe(*devices))
            if devices[0].kind == "cpu" and config.recipe.precision != "fp32":
                screen.say(f"precision {config.recipe.precision} on a CPU: the numbers that a GPU computes, slowly")
            screen.say(f"\n{summary.table(model, config.recipe.batch, devices, screen.width)}\n")
            screen.say(f"data  {data.split}")
            screen.group(group, config.recipe)
            place, hybrid = config.device if group.alone else devices[0], options.parallel == "hybrid"
            if start:
                screen.say(f"{finetuning.table(start, fit, model, config.recipe, screen.width)}\n")
            advised = saved or config.overfit_batch or options.recipe == finetuning.SMALL
            if not (start or advised) and (few := finetuning.advice(model, len(data.train))):
                screen.say(few)
            mean = saved.mean if saved else finetuning.mean(start, data.train) if start else None
            made, passes = config.recipe, 1
            if config.overfit_batch:  # all of it is one epoch, without tests on the way
                made, passes = replace(made, epochs=1), made.epochs
            trainer = group.attempt(lambda: Trainer.of(made, data, place, config.seed, mean, group, hybrid, passes))
            if start:
                finetuning.load(trainer.model, start, fit)
            if saved:
                trainer.restore(saved)
                other_code = saved.description["config"].get("code", {}) != config.recipe.code
                if other_code:  # the best so far is another network's
                    trainer.progress.best = 0.0
                if config.overfit_batch and trainer.progress.step >= passes:
                    done = command_line.count(passes, "step")
                    raise UsageError(f"{options.resume}: has done its {done}; --epochs N goes on to N")
                if trainer.finished:
                    done = command_line.count(trainer.progress.epoch, "epoch")
                    if early := trainer.ended_early:
                        raise UsageError(f"{options.resume}: ended after {done}: {early}")
                    raise UsageError(f"{options.resume}: has done its {done}; --epochs N goes on to N")
        folder = Path(group.all_gather_object(group.attempt(lambda: _folder(options, resumed, config, group)))[0])
        if group.rank == 0:
            before = run_folder.records(resumed, trainer.progress.step) if resumed else []
            if resumed and not other_code:
                run_folder.take_best(resumed, folder, trainer.progress.step)
            command = ["python", "-m", "alexnet_cuda.train", *(sys.argv[1:] if arguments is None else arguments)]
            with checked_input():
                run: Saver = Run(folder, config, data, trainer, before, screen.say, command, options.keep, options.log)
        else:
            run = Saver(folder, config, data, trainer)
        stack.callback(run.close)
        screen.left_out(run.unreadable())
        screen.say(f"run   {names.text(folder)}" + (f", from step {trainer.progress.step}\n" if saved else "\n"))
        tellers = _tellers(options, run, screen, model) if group.rank == 0 else []
        return _train(run, screen, tellers)


def _entries(width: int | None) -> str:
    """The recipe's entries, as --set takes them, with their values by default."""
    lines = []
    for name, default, text in recipe.described():
        lines.append(terminal.paragraph(f"{name} = {default}".rstrip(" ="), width))
        lines += textwrap.wrap(text, width or 100, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


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


def _identity(config: Config, saved: Checkpoint | None, start: finetuning.Start | None, data: Data) -> dict[str, Any]:
    """What processes that train together must have in common."""
    said: dict[str, Any] = {"version": backend.package_version("alexnet-cuda"), **config.plain()}
    said["checkpoint"] = saved.digest if saved else None
    for name in ("data", "weights"):  # which may lie elsewhere on each machine; what counts is what they hold
        del said[name]
    if start:
        held = hashlib.blake2b(np.ascontiguousarray(start.mean).data, digest_size=8)
        for name, weights in sorted(start.weights.items()):
            held.update(name.encode() + np.ascontiguousarray(weights).data)
        said["weights"] = f"digest {held.hexdigest()}"
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
    model = config.recipe.described()
    made = config.recipe
    size = (made.stored, made.stored) if made.crop and made.stored else model.input[:2]
    data = open_located(config.data, teller, *size, threads=threads, margin=made.crop and not made.stored)
    if config.overfit_batch:
        data = one_batch.images(data, config.recipe.batch, model.input[:2])
    if saved:
        _check_data(saved, data)
    return data


def _resumed(options: Namespace) -> Path | None:
    """The run folder or checkpoint file to go on from."""
    if options.resume != "auto":
        return Path(options.resume) if options.resume else None
    folders = [options.out] if options.out else Path("runs").glob("*")
    return run_folder.latest(folders)


def _folder(options: Namespace, resumed: Path | None, config: Config, group: Group) -> str:
    """The run folder, which rank 0 makes if it is a new one."""
    if group.rank > 0:
        return ""
    if resumed and options.out in (None, resumed):
        return str(run_folder.of(resumed))
    return str(run_folder.made(options.out, config.recipe.model))


def _configure(
    options: Namespace, resumed: Path | None, saved: Checkpoint | None
) -> tuple[Config, finetuning.Start | None]:
    """What decides the run, and the weights that it starts from, if it does and is not gone on with."""
    given = {name: value for name in IN_RECIPE if (value := getattr(options, name)) is not None}
    if options.freeze:
        given["freeze"] = tuple(options.freeze)
    if options.weights and options.resume not in (None, "auto"):
        raise UsageError("--weights begins a run, --resume goes on with one: give one of them")
    run = {name: value for name in ("data", "device", "seed") if (value := getattr(options, name)) is not None}
    if "data" in run:
        run["data"] = located(run["data"])
    if options.overfit_batch:
        run["overfit_batch"] = True
    if options.weights:
        run["weights"] = _located(options.weights)
    if saved is None:
        begun, start = _beginning(options)
        begin = begun.recipe
        settings = recipe.settings(options.set)
        if start and (follows := sorted(settings.keys() & set(finetuning.FOLLOWS))):
            raise UsageError(f"--set {follows[0]}: --weights says how its network sees images: leave it out")
        if options.overfit_batch:
            begin = _simplified(begin, {**settings, **given})
        if doubled := sorted(given.keys() & settings.keys()):
            raise UsageError(f"--{doubled[0]} and --set {doubled[0]}=... contradict each other: give one of them")
        where = " ".join(f"--set {text}" for text in options.set) or "options"
        made = recipe.change(begin, {**settings, **given}, where)
        if options.parallel == "hybrid" and "lr" not in {**settings, **given}:
            made = replace(made, lr=begin.lr * made.batch / begin.batch)  # Krizhevsky 2014: in proportion
        device = ",".join(map(str, _usable(options.device or begun.device, None if options.device else options.recipe)))
        return replace(begun, recipe=made, **{**run, "device": device}), start
    try:
        table = saved.description["config"]
        needed = [f.name for f in fields(Config) if f.name not in ("recipe", "weights")]
        began = Config.of({name: table[name] for name in needed} | table, str(resumed))
    except (KeyError, TypeError, recipe.RecipeError) as e:
        raise CheckpointError(f"{resumed}: its description lacks a configuration that train knows: {e}") from e
    files = options.convnet_layers, options.convnet_params, options.convnet_size
    if options.recipe or options.set or any(files):
        raise UsageError("--resume goes on with the run's own recipe; begin a new run for another")
    if models.is_file(given.get("model", "")):
        began = replace(began, recipe=_own_again(options, began.recipe))
        del given["model"]
    for name, value in {**given, **run}.items():
        before = getattr(began.recipe if name in IN_RECIPE else began, name)
        if name not in CHANGEABLE and value != before:
            raise UsageError(f"--resume goes on with {name} {before}, got {value}; begin a new run for that")
    changed = recipe.change(
        began.recipe, {name: value for name, value in given.items() if name in CHANGEABLE}, "--resume"
    )
    return replace(began, recipe=changed, **{name: value for name, value in run.items() if name in CHANGEABLE}), None


def _own_again(options: Namespace, began: Recipe) -> Recipe:
    """The run's recipe, with the model's file as it is now where that may have changed. UsageError where not."""
    code, before = models.from_file(options.model).code, began.code
    if not before or before["name"] != code["name"]:
        raise UsageError(f"--resume goes on with model {began.model}, got {options.model}; begin a new run for that")
    if code["digest"] != before["digest"] and not options.force:
        raise UsageError(
            f"--resume: {code['file']} is not as the run began with it: digest {before['digest']}, now "
            f"{code['digest']}; without --model the run goes on with its own, --force has it go on with this one"
        )
    return replace(began, code=code)


def _located(weights: Path) -> str:
    """The name of a file or folder as runs keep it, which holds in any folder."""
    return names.text(weights.expanduser().absolute())


def _simplified(begin: Recipe, asked: Mapping[str, Any]) -> Recipe:
    """The recipe for one batch. UsageError for entries that this decides."""
    changes = one_batch.changes(begin)
    for name in changes.keys() & asked.keys() - {"epochs", "clip", "options", "layers"}:
        raise UsageError(f"{name}: --overfit-batch trains without; expected no other value, got {asked[name]!r}")
    return recipe.change(begin, changes, "--overfit-batch")


def _beginning(options: Namespace) -> tuple[Config, finetuning.Start | None]:
    """What the recipe says that the command line names, by default that of the model, from weights ``finetune``; device
    "": the default. And the weights."""
    made = command_line.convnet(options)
    if made and options.weights:
        raise UsageError("--weights: a network of convnet files starts from a run of its own: leave the files out")
    if made and options.recipe:
        raise UsageError("--recipe: the convnet files say how to train; --set changes entries")
    if made:
        return Config(recipe.of_convnet(made), device=""), None
    if options.recipe or options.weights:
        table, where = recipe.read(options.recipe or finetuning.RECIPE)
        if options.model:
            table["model"] = options.model
        model = table.get("model")
        if isinstance(model, str):
            table |= models.entries(model)
        source, start = options.weights or table.get("weights"), None
        if isinstance(source, str):
            source = Path(names.name(source)) if source else None
        if source:
            start = _start(source, model, None if options.weights else where)
            table = {**table, **start.entries(table)}
        begun = Config.of({"device": "", **table}, where)
        return replace(begun, data=resolved(begun.data)), start
    return Config(recipe.of(models.get(options.model or Recipe.model)), device=""), None


def _start(source: Path, model: str | None, teller: str | None) -> finetuning.Start:
    """The weights to start from; ``teller`` is the recipe that names them, None: the command line does."""
    try:
        return finetuning.read(source, model)
    except ValueError as e:
        if teller is None:
            raise
        raise UsageError(f"{e}; it comes from {teller}, --weights names another") from e


def _check_data(saved: Checkpoint, data: Data) -> None:
    expected = saved.description.get("classes"), saved.description.get("images")
    got = list(data.classes), len(data.train)
    if expected != got:
        raise UsageError(
            f"--resume: the run began with {expected[1]} training images of {', '.join(expected[0] or ())}; "
            f"these are {got[1]} of {', '.join(got[0])}"
        )


def _tellers(options: Namespace, run: Saver, screen: Screen, model: models.Model) -> list[Teller]:
    """What is to be told of the first steps' spans."""

    def profile(spans: list[trace.Span]) -> None:
        trainer = run.trainer
        alone = len(trainer.devices) == 1 and trainer.group.alone
        at = profiling.rates(trainer.device, trainer.recipe.precision) if alone else None
        screen.say(f"\n{profiling.table(spans, model, trainer.recipe.batch, at, screen.width)}\n", whole=True)

    tellers: list[Teller] = [profile] if options.profile else []
    return [*tellers, partial(trace.write, options.trace)] if options.trace else tellers


def _train(run: Saver, screen: Screen, tellers: Sequence[Teller] = ()) -> int:
    trainer, began, epochs = run.trainer, time.monotonic(), list[Epoch]()
    verdict = one_batch.Verdict(len(run.data.classes), trainer.steps) if run.config.overfit_batch else None

    def on_step(step: Step) -> None:
        run.step(step)
        screen.step(step)
        traced()
        if verdict and verdict.step(step):
            trainer.stop()

    def on_epoch(epoch: Epoch) -> None:
        run.epoch(epoch)
        screen.epoch(epoch)
        screen.left_out(run.unreadable())
        epochs.append(epoch)

    try:
        with _stopping(trainer) as signals, screen.training(trainer), _tracing(tellers) as traced:
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
    if verdict and verdict.done:
        told = verdict.text(trainer.progress.step)
        if not verdict.learnt:
            raise Failure(told)
        screen.say(told)
        return 0
    if not finished:
        screen.say(f"interrupted after step {trainer.progress.step:,}; everything is in {names.text(run.checkpoint)}")
        screen.say(f"to go on: python -m alexnet_cuda.train --resume {names.shell(run.folder)}", whole=True)
        return 128 + signals[0]
    if trainer.ended_early:
        screen.say(f"ended early: {trainer.ended_early}")
    if isinstance(run, Run):
        screen.result(run.folder, epochs[-1], time.monotonic() - began)
    return 0


def _kept(run: Saver) -> str:
    return f"{run.checkpoint} holds the last good state" if run.checkpoint.exists() else "nothing was saved yet"


def _told(e: Exception, where: backend.Device) -> str:
    """What failed, and in which operation. A GPU fails later than it is told what to do: perhaps nobody knows."""
    operation = "".join(f", {note}" for note in getattr(e, "__notes__", [])[:1])
    if not operation and where.kind == "cuda" and not isinstance(e, MemoryError):
        operation = " (CUDA_LAUNCH_BLOCKING=1 and --no-graph tell which kernel)"
    return (models.place(e) or str(e) or type(e).__name__) + operation


def _fitting(run: Saver) -> str:
    """What would fit into memory, according to the plan of ``summary --memory``."""
    trainer, made = run.trainer, run.config.recipe
    model = made.described().with_classes(len(run.data.classes))
    planner = memory.Planner(model, trainer.devices, made)
    most = planner.largest_batch(memory.room(trainer.devices)) * trainer.group.size
    part = -(-made.batch // made.accumulate)
    if most >= part:
        return f"{part:,} images at a time fit if nothing else takes memory; others: --batch N or --set accumulate=N"
    if not most:
        return "not a single image fits"
    return f"--batch {most} fits, or --set accumulate={-(-made.batch // most)}"


@contextmanager
def _tracing(tellers: Sequence[Teller]) -> Iterator[Callable[[], None]]:
    """Within this block, up to the call after ``TRACED_STEPS`` steps, work is recorded, and then told."""
    with ExitStack() as recording:
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1
            if steps == TRACED_STEPS:
                recording.close()

        if tellers:
            told = ExitStack()
            recording.push(told)
            spans = recording.enter_context(trace.recording())
            for tell in tellers:
                told.callback(tell, spans)
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
