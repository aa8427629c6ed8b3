"""Training: stochastic gradient descent over a loader's batches, evaluation, and the state that a run goes on from."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import backend, checkpoint, kernels, models, ops, parallel, trace
from .command_line import count
from .data import Augmentation, Batch, Data, DataError, Loader, balanced_weights, colour_pca, mean_image
from .kernels import Array
from .loggers import EVERY, OF_EPOCHS, OF_STEPS, Logger
from .metrics import top_k
from .nn import Module, watching
from .optim import Optimizer
from .parallel import Buckets, Group, Hybrid, average_buffers
from .recipe import BALANCED, Recipe
from .replay import Replay, obstacle
from .schedule import Schedule, at
from .tensor import Tensor, no_grad
from .training_step import Part, TrainingStep, optimizer, prepare

__all__ = [
    "Diverged",
    "Epoch",
    "Evaluation",
    "Progress",
    "Step",
    "Trainer",
    "changes_of_images",
    "check_colour",
    "completed",
]

LOOK_SECONDS = 0.25  # losses stay on the device this long, so that training does not wait for each
LOOK_STEPS = 16  # or, where processes have to do so together, for so many steps
MOST_UNSEEN = 1024  # steps; there is no room for more


class Diverged(ArithmeticError):
    """The loss or a weight is no longer a number."""


@dataclass
class Progress:
    """Where a run is: all that its next step depends on, besides seed and parameters, and the sums of its epoch."""

    step: int = 0
    epoch: int = 0
    """Finished epochs."""
    batch: int = 0
    """Batches done of the epoch that follows them."""
    images: int = 0
    loss: float = 0.0
    """Sum over these images."""
    correct: float = 0.0
    """How many of them are right; one that is mixed counts by the share of each label that is (Zhang et al. 2018)."""
    seconds: float = 0.0
    """Spent training since the run began, without evaluation."""
    drops: int = 0
    """How often a plateau has lowered the rate."""
    best: float = 0.0
    """The best test accuracy so far."""
    stalled: int = 0
    """Epochs since then, or since the rate was lowered."""


class Step(NamedTuple):
    """A step that was done: its number from 1, epochs so far, learning rate, mean loss of the batch and the share of
    its images that were told right, before the update."""

    step: int
    epoch: float
    lr: float
    loss: float
    accuracy: float


class Evaluation(NamedTuple):
    """Means over ``images`` images; top5 is None where there are no more than five classes."""

    loss: float
    top1: float
    top5: float | None
    images: int


class Epoch(NamedTuple):
    """A finished epoch: its number from 1, mean loss and accuracy over its training batches, images a second,
    and the test afterwards."""

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    images_per_second: float
    waiting: float
    """Share of the time in which the network waited for images."""
    best: bool
    """Whether no epoch before was better in the test."""
    test: Evaluation


def check_colour(model: models.Model) -> None:
    """ValueError for a model of images that no data set has."""
    if model.input[2] != 3:
        raise ValueError(
            f"model {model.name}: all data sets are of images in 3 channels, the model takes {model.input[2]}; "
            "in Python model.build() takes arrays of your own"
        )


class Trainer:
    """Trains ``model`` with ``optimizer`` on the ``train`` loader's images as a recipe says, testing after each epoch.

    Images are (image - mean) * scale; mean (RH, RW, 3) of the stored images. Dropout masks, order and crops are
    functions of the seed and the progress, so two runs with equal arguments are equal bit for bit, and ``save``,
    ``restore`` and ``fit`` go on as if nothing had happened. The processes of a ``group`` train one network; what is
    said of images, losses and the test is of all of them, and all have to call ``fit``, ``evaluate`` and ``save``.
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        train: Loader,
        test: Loader,
        recipe: Recipe,
        mean: np.ndarray,
        seed: int = 0,
        group: Group | None = None,
        logger: Logger | None = None,
    ) -> None:
        self.logger = logger
        self.group = group or Group()
        replicated = model.replicated() if isinstance(model, Hybrid) else model.parameters()
        self.model, self.optimizer, self.train, self.test = model, optimizer, train, test
        self.recipe, self.epochs, self.seed = recipe, recipe.epochs, seed
        self.schedule = Schedule(recipe, model, len(train))
        self.devices = list(dict.fromkeys(p.device for p in model.parameters()))
        self.device = self.devices[0]  # of the loss
        self.mean = mean
        self._mean = {device: backend.from_host(np.asarray(mean, np.float32), device) for device in self.devices}
        self.progress = Progress()
        self.stopping = False  # this process was asked to
        self._agreed = False  # all processes know that one of them was
        self.now = time.monotonic()
        """By rank 0's clock, when it was last looked at: what all processes go by."""
        self._keys = {device: backend.StaticInput((recipe.accumulate, 2), np.uint64, device) for device in self.devices}
        parts = recipe.accumulate
        self._sums = backend.zeros((parts, 2), np.float32, self.device)  # mean loss and labels right of a step's parts
        self._seen = backend.zeros((MOST_UNSEEN, parts, 2), np.float32, self.device)  # those of the latest steps
        self._unseen: list[tuple[Step, list[int]]] = []  # and their images
        self._prefetcher = None if self.device.kind == "cpu" else backend.Prefetcher(self.devices)
        learning = [p for p in replicated if p.requires_grad]
        self._work = TrainingStep(model, optimizer, recipe, Buckets(self.group, learning))
        self._replay = Replay(self.devices, obstacle(recipe, self.group))

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        data: Data,
        device: str | backend.Device,
        seed: int = 0,
        mean: np.ndarray | None = None,
        group: Group | None = None,
        hybrid: bool = False,
        passes: int = 1,
        logger: Logger | None = None,
    ) -> Trainer:
        """Of the recipe's model, with as many classes as the data have, on these data. device: two such as
        "cuda:0,cuda:1" hold a tower each. ``mean`` (RH, RW, 3): by default that of the training images. The processes
        of a ``group`` have a part of each batch, with ``hybrid`` also one of each fully-connected layer. An epoch goes
        over the images ``passes`` times. ``logger`` (``loggers.Logger``) is told of steps and epochs."""
        recipe = completed(recipe, data)
        model = recipe.described().with_classes(len(data.classes))
        check_colour(model)
        group, size = group or Group(), model.input[:2]
        network = Hybrid(model, backend.device(device), group, seed) if hybrid else parallel.build(model, device, seed)
        prepare(network, recipe)
        load = partial(
            Loader,
            size=size,
            batch=recipe.batch,
            allocate=backend.host_allocator(network.parameters()[0].device),
            part=group.rank,
            parts=group.size,
        )
        train = load(data.train, seed=seed, passes=passes, **changes_of_images(recipe, data))
        test = load(data.test)
        if mean is None:
            mean = mean_image(data.train)
        return cls(network, optimizer(recipe, network.parameters()), train, test, recipe, mean, seed, group, logger)

    @property
    def _learning(self) -> list[str]:
        """Names of the optimizer's parameters."""
        names = {p: name for name, p in self.model.named_parameters()}
        return [names[p] for p in self.optimizer.parameters]

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * len(self.train)

    def stop(self) -> None:
        """Makes ``fit`` return after the current step, and ``evaluate`` after the current batch."""
        self.stopping = True

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the run ended early."""
        return self.progress.epoch >= self.epochs or self.ended_early is not None

    @property
    def ended_early(self) -> str | None:
        """Why the run ends before all epochs are done: a plateau lowered the rate as often as the recipe says and
        stalled, or the test accuracy did not rise for as long as the recipe waits."""
        recipe, progress = self.recipe, self.progress
        if progress.drops > recipe.drops:
            return f"the test accuracy has not risen since the rate was lowered {count(recipe.drops, 'time')}"
        if progress.stalled >= recipe.stop_after > 0:
            return f"the test accuracy has not risen for {count(recipe.stop_after, 'epoch')}"
        return None

    def fit(self, on_step: Callable[[Step], None], on_epoch: Callable[[Epoch], None]) -> bool:
        """Trains to the end: True; or until ``stop``: False. The callbacks hear of each step, on a GPU a little late,
        and of each epoch. Diverged when a loss is not finite."""
        self._replay.forget()
        self._work.copies.forget()
        with backend.capture_streams(self.devices):
            return self._fit(on_step, on_epoch)

    def _fit(self, on_step: Callable[[Step], None], on_epoch: Callable[[Epoch], None]) -> bool:
        progress = self.progress
        self._agreed = False
        self.model.train()
        while not self.finished:
            started, images, looked, waiting = time.monotonic(), progress.images, time.monotonic(), _Waiting()
            batches = waiting.on(self.train.training(progress.epoch, progress.batch))
            for number, batch in self._on_devices(batches):
                with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is looked for below
                    self._step(batch)
                progress.batch = number + 1
                if self._due(looked):
                    self._look(on_step)
                    looked = time.monotonic()
                if self.stopped:
                    break
            self._look(on_step)
            seconds = time.monotonic() - started
            progress.seconds += seconds
            test = None if self.stopped else self.evaluate(self.test)
            if test is None:
                return False
            means = progress.loss / max(1, progress.images), progress.correct / max(1, progress.images)
            rate = (progress.images - images) / max(seconds, 1e-9)
            best = progress.epoch == 0 or test.top1 > progress.best
            self.progress = progress = self._next_epoch(test, best)
            share = waiting.seconds / max(seconds, 1e-9)
            epoch = Epoch(progress.epoch, progress.step, *means, rate, share, best, test)
            if self.logger:
                self._tell_epoch(self.logger, epoch)
            on_epoch(epoch)
            self._work.copies.forget()
        return True

    @staticmethod
    def _tell_epoch(logger: Logger, epoch: Epoch) -> None:
        test = epoch.test
        values = epoch.train_loss, epoch.train_accuracy, test.loss, test.top1, test.top5, epoch.images_per_second
        known = zip(OF_EPOCHS, values, strict=True)
        logger.log({name: value for name, value in known if value is not None and math.isfinite(value)}, epoch.step)

    @property
    def stopped(self) -> bool:
        """Whether ``fit`` is to return, or has."""
        return self.stopping if self.group.alone else self._agreed

    def _due(self, looked: float) -> bool:
        """Whether it is time to look at the losses, in the same step in all processes."""
        if self.device.kind == "cpu":
            return True
        if not self.group.alone:
            return self.progress.step % LOOK_STEPS == 0
        full = len(self._unseen) == MOST_UNSEEN
        return full or self.stopping or time.monotonic() - looked > LOOK_SECONDS

    def _next_epoch(self, test: Evaluation, best: bool) -> Progress:
        before = self.progress
        after = Progress(step=before.step, epoch=before.epoch + 1, seconds=before.seconds, drops=before.drops)
        after.best, after.stalled = max(before.best, test.top1), 0 if best else before.stalled + 1
        if self.recipe.schedule == "plateau" and after.stalled >= self.recipe.patience:
            after.drops, after.stalled = after.drops + 1, 0
        return after

    def evaluate(self, loader: Loader) -> Evaluation | None:
        """Loss and accuracy over the images of ``loader``, dropout off, of the averaged weights where the recipe has
        them; the loss is neither weighted nor smoothed. None when stopped on the way. DataError when no image can be
        read."""
        with self.optimizer.averaged():
            return self._evaluate(loader)

    def _evaluate(self, loader: Loader) -> Evaluation | None:
        loss, top1, top5, images = 0.0, 0, 0, 0
        average_buffers(self.group, self.model)
        model = self.model.whole() if isinstance(self.model, Hybrid) else self.model
        model.eval()
        try:
            with no_grad():
                for batch in loader.evaluation():
                    if self.stopping:
                        break
                    logits = ops.cast(model(*self._input(dict.fromkeys(self.devices, batch))), np.float32)
                    mean = self.model.loss(logits, Tensor(batch.labels, device=self.device))
                    scores = logits.numpy()
                    loss += mean.item() * len(scores)
                    top1 += int(top_k(scores, batch.labels, 1).sum())
                    top5 += int(top_k(scores, batch.labels, 5).sum())
                    images += len(scores)
        finally:
            self.model.train()
        counts = zip(*self.group.all_gather_object([loss, top1, top5, images, int(self.stopping)]), strict=True)
        loss, top1, top5, images, stopping = map(sum, counts)
        if stopping:
            self._agreed = True
            return None
        if not images:
            raise DataError("none of the test images can be read")
        few = len(loader.dataset.classes) <= 5
        return Evaluation(loss / images, top1 / images, None if few else top5 / images, images)

    def save(self, path: Path, description: Mapping[str, Any]) -> None:
        """Writes a checkpoint of the run as it is now, in a group that of rank 0; its weights are the averaged ones
        where the recipe has them. Diverged, and nothing written, when a weight is not finite."""
        average_buffers(self.group, self.model)
        with self.optimizer.averaged():
            weights, kept = self.model.state(), self.optimizer.state()
        for name, w in weights.items():
            if not np.isfinite(w).all():
                raise Diverged(f"{name} is no longer finite after step {self.progress.step}")
        state = {_renamed(key, self._learning.__getitem__): array for key, array in kept.items()}
        optimizer = self.model.merged(state)
        described = {**description, "progress": asdict(self.progress)}
        if self.group.rank == 0:
            checkpoint.save(path, checkpoint.Checkpoint(weights, optimizer, self.mean, described))

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Goes on from a checkpoint. ValueError, with nothing changed, when it is of another network or does not say
        how far it got."""
        try:
            progress = Progress(**saved.description["progress"])
        except (KeyError, TypeError) as e:
            raise checkpoint.CheckpointError(f"the checkpoint does not say how far the run got: {e}") from e
        places = {name: str(i) for i, name in enumerate(self._learning)}
        try:
            kept = self.model.sharded(saved.optimizer)
            state = {_renamed(key, places.__getitem__): array for key, array in kept.items()}
        except KeyError as e:
            raise checkpoint.CheckpointError(f"the checkpoint's optimizer knows a parameter {e} of no layer") from e
        self.model.load_state(saved.weights)
        self.optimizer.load_state(state)
        self.optimizer.swap()
        self.progress = progress

    def _on_devices(self, batches: Iterable[tuple[int, Batch]]) -> Iterator[tuple[int, Mapping[backend.Device, Batch]]]:
        """The numbered batches, on each of the network's devices, with as much colour noise as there is to be."""
        if self._prefetcher is None:
            for number, batch in batches:
                yield number, dict.fromkeys(self.devices, self._coloured(batch))
            return
        numbers: deque[int] = deque()

        def noted() -> Iterator[Batch]:
            for number, batch in batches:
                numbers.append(number)
                yield self._coloured(batch)

        for arrays in self._prefetcher.through(noted()):
            there = {where: Batch(*arrays[replace(where, slot=0)]) for where in self.devices}
            yield numbers.popleft(), there

    def _coloured(self, batch: Batch) -> Batch:
        strength = np.float32(at(self.recipe.colour_steps, self.progress.epoch))
        return batch if batch.noise is None else batch._replace(noise=batch.noise * strength)

    def _input(self, batch: Mapping[backend.Device, Batch]) -> list[Tensor]:
        """The batch as the network sees it, on each of the network's devices."""
        return [self._input_on(device, batch[device]) for device in self.devices]

    def _input_on(self, device: backend.Device, batch: Batch) -> Tensor:
        dtype, scale = kernels.storage(self.recipe.precision), self.recipe.scale
        with backend.on(device):
            images, crops = (backend.to_device(array, device) for array in (batch.images, batch.crops))
            if images.dtype != np.uint8:
                return Tensor(kernels.cast(images, dtype), device=device)
            x = kernels.augment(
                images, self.train.size, self._mean[device], crops, batch.noise, scale, dtype, batch.tones, batch.mix
            )
            return Tensor(x, device=device)

    def _step(self, batch: Mapping[backend.Device, Batch]) -> None:
        progress, own = self.progress, batch[self.device]
        factor = self.schedule.apply(progress.epoch, progress.step, progress.drops)
        passes = progress.step * self.recipe.accumulate
        for keys in self._keys.values():
            keys.set([(self.seed, passes + i) for i in range(self.recipe.accumulate)])
        self.optimizer.advance()
        lr = self.optimizer.lr * factor
        places = [backend.address(there.images) for there in batch.values()]
        constants = len(own.labels), own.noise is None, *places, self.optimizer.constants
        self._work.copies.refresh()
        with trace.span(f"step {progress.step + 1}", self.device.row, backend.clock(self.device), kind="step"):
            self._replay(constants, partial(self._compute, batch, passes, lr))
        self._seen[len(self._unseen)] = self._sums
        progress.step += 1
        done = Step(progress.step, progress.step / len(self.train), lr, math.nan, math.nan)
        self._unseen.append((done, [part.stop - part.start for part in self._parts(own)]))

    def _compute(self, batch: Mapping[backend.Device, Batch], passes: int, lr: float) -> None:
        """The devices' part of a step: from images, rates and random keys on them to new weights and ``_sums``."""
        self.model.seed(self.seed, passes, self.train.part * len(batch[self.device].labels))  # whatever came before
        images = len(batch[self.device].labels) * self.group.size
        self._work(self._inputs(batch), partial(self._seen_part, lr, images))

    def _inputs(self, batch: Mapping[backend.Device, Batch]) -> Iterator[Part]:
        """The batch's parts as the network sees them, one after the other."""
        own = batch[self.device]
        whole = None if self._work.class_weights is None else self._weight(own)
        if whole is not None:
            self.group.all_reduce(whole)()
        for i, part in enumerate(parts := self._parts(batch[self.device])):
            self.model.draw_from({device: keys.array[i] for device, keys in self._keys.items()})
            some = {device: there.rows(part) for device, there in batch.items()}
            share: float | Array = (part.stop - part.start) / (parts[-1].stop * self.group.size)
            if whole is not None:
                share = np.divide(weight := self._weight(own.rows(part)), whole, out=weight).reshape(())
            here = some[self.device]
            labels = Tensor(here.labels, device=self.device)
            yield Part(i, self._input(some), labels, share, part is parts[-1], here.others, here.mix)

    def _weight(self, batch: Batch) -> Array:
        """The sum (1,) of the class weights of a batch's labels, on the loss's device."""
        assert self._work.class_weights is not None
        with backend.on(self.device):
            labels = backend.to_device(batch.labels, self.device)
            return kernels.class_weight_sums(labels, self._work.class_weights, batch.others, batch.mix)[:1]

    def _seen_part(self, lr: float, images: int, part: Part, logits: Tensor, loss: Tensor) -> None:
        """Notes a part's loss and right labels; the loss so that its mean over the ``images`` of all parts is that of
        the batch. Diverged, on a CPU, when the loss is not finite."""
        if self.device.kind == "cpu" and not np.isfinite(loss.data):
            failure = self._failure(loss.item(), self.progress.step + 1, lr)
            raise Diverged(f"{failure}; {self._first_to_fail(part.images)}")
        mean = loss.data
        if not isinstance(part.share, float):
            mean = mean * part.share * (images / part.labels.shape[0])
        self._sums[part.number, 0] = mean
        answers = logits.data.argmax(axis=1)
        right = answers == part.labels.data
        if part.mix is not None:
            right = right * part.mix + (answers == part.others) * (1 - part.mix)
        self._sums[part.number, 1] = right.sum()

    def _parts(self, batch: Batch) -> list[slice]:
        """The places of a batch's parts, which differ by one image at most, or by a pair where these are mixed; none is
        empty."""
        edges = np.linspace(0, len(batch.labels), self.recipe.accumulate + 1).astype(int)
        if self.recipe.mixup:
            edges[1:-1] -= edges[1:-1] % 2
        return [slice(first, last) for first, last in itertools.pairwise(edges.tolist()) if first < last]

    def _failure(self, loss: float, step: int, lr: float) -> str:
        return f"the loss became {loss} in step {step} at learning rate {lr:g}"

    def _first_to_fail(self, images: Sequence[Tensor]) -> str:
        """Where numbers stop being finite on the way from the images to the loss, in words."""
        if isinstance(self.model, Hybrid):
            return "in which layer, no process can tell alone"
        network, inputs = self.model, images
        if isinstance(network, parallel.Towers):
            network, inputs = network.whole(), images[:1]
        failed = list[str]()

        def seen(name: str, layer: Module, xs: tuple[Tensor, ...], y: Tensor) -> None:
            if not failed and not np.isfinite(y.numpy()).all():
                broken = [key for key, w in layer.state().items() if not np.isfinite(w).all()]
                failed.append(f"{name}'s {' and '.join(broken)} broke first" if broken else f"{name} overflowed first")

        with no_grad(), watching(network, seen):
            network(*inputs)
        return (failed or ["the loss itself overflowed"])[0]

    def _look(self, on_step: Callable[[Step], None]) -> None:
        """Brings the losses of the latest steps to the host, adds them up, and passes them on."""
        progress, steps = self.progress, list[Step]()
        summed, seen = [], backend.to_host(self._seen[: len(self._unseen)])
        for (_, counts), means in zip(self._unseen, seen.tolist(), strict=True):
            parts = [(loss * n, correct, n) for n, (loss, correct) in zip(counts, means, strict=False)]
            summed.append([sum(column) for column in zip(*parts, strict=True)])
        said = self.group.all_gather_object([self.stopping, time.monotonic(), summed])
        self._agreed, self.now = any(stopping for stopping, _, _ in said), said[0][1]
        for (done, _), *everyone in zip(self._unseen, *(sums for _, _, sums in said), strict=True):
            loss, correct, images = map(sum, zip(*everyone, strict=True))
            step = done._replace(loss=loss / images, accuracy=correct / images)
            if not math.isfinite(step.loss):
                self._unseen.clear()
                raise Diverged(self._failure(step.loss, step.step, step.lr))
            progress.loss += loss
            progress.correct += correct
            progress.images += images
            steps.append(step)
        self._unseen.clear()
        for step in steps:  # afterwards, as who hears of one may save the progress
            if self.logger and step.step % EVERY == 0:
                self.logger.log({name: getattr(step, name) for name in OF_STEPS}, step.step)
            on_step(step)
        self._work.copies.forget()


def completed(recipe: Recipe, data: Data) -> Recipe:
    """The recipe with what it leaves to the data: whether to mirror images, and balanced weights of the classes.
    ValueError for another number of weights than of classes."""
    mirror = data.mirrored if recipe.mirror is None else recipe.mirror
    weights = balanced_weights(data.train) if recipe.class_weights == BALANCED else recipe.class_weights
    if weights and len(weights) != len(data.classes):
        got = f"{len(weights)} for the {len(data.classes)} classes of the images"
        raise ValueError(f"class_weights: expected a number for each class, got {got}")
    return replace(recipe, mirror=mirror, class_weights=weights)


def changes_of_images(recipe: Recipe, data: Data) -> dict[str, Any]:
    """How training images are changed, as arguments of ``Loader``."""
    augmentation = Augmentation(**{f.name: getattr(recipe, f.name) for f in fields(Augmentation)})
    return {"mirrored": bool(recipe.mirror), "colour": _colour(recipe, data), "augmentation": augmentation}


def _colour(recipe: Recipe, data: Data) -> np.ndarray | None:
    """The matrix (3, 3) that makes colour noise of three standard normal numbers; alpha in the paper is N(0, 0.1)."""
    if recipe.colour == "none":
        return None
    vectors, deviations = colour_pca(data.train)
    strength = deviations if recipe.colour == "source" else deviations**2  # the eigenvalues
    return np.asarray(0.1 * vectors * strength, np.float32)


class _Waiting:
    """How long an iterator has been waited for."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def on(self, batches: Iterable[tuple[int, Batch]]) -> Iterator[tuple[int, Batch]]:
        iterator = iter(batches)
        while True:
            began = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds += time.monotonic() - began
            yield item


def _renamed(key: str, rename: Callable[[Any], str]) -> str:
    """``slot/parameter`` with another name for the parameter; keys without one stay."""
    slot, slash, parameter = key.partition("/")
    return slot + slash + rename(int(parameter) if parameter.isdigit() else parameter) if slash else key
