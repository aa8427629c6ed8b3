"""Training: stochastic gradient descent over a loader's batches, evaluation, and the state that a run goes on from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import checkpoint, ops
from .data import Batch, DataError, Loader
from .kernels import Array
from .metrics import top_k
from .nn import Module
from .optim import SGD
from .tensor import Tensor, no_grad

LOOK_SECONDS = 0.25  # losses stay on the device this long, so that training does not wait for each


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
    correct: int = 0
    seconds: float = 0.0
    """Spent training since the run began, without evaluation."""


class Step(NamedTuple):
    """A step that was done: its number from 1, epochs so far, learning rate, mean loss of the batch."""

    step: int
    epoch: float
    lr: float
    loss: float


class Evaluation(NamedTuple):
    """Means over ``images`` images; top5 is 1 where there are no more than five classes."""

    loss: float
    top1: float
    top5: float
    images: int


class Epoch(NamedTuple):
    """A finished epoch: its number from 1, mean loss and accuracy over its training batches, images a second,
    and the test afterwards."""

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    images_per_second: float
    test: Evaluation


def cosine(progress: float) -> float:
    """Learning-rate rule: from 1 down to 0 along half a cosine, as progress goes from 0 to 1."""
    return (1 + math.cos(math.pi * progress)) / 2


class Trainer:
    """Trains ``model`` with ``optimizer`` for ``epochs`` epochs of the ``train`` loader, testing after each.

    The learning rate is the optimizer's at first times ``schedule(share of all steps done)``. Dropout masks, order and
    crops are functions of the seeds and the progress, so two runs with equal arguments are equal bit for bit, and
    ``save``, ``restore`` and ``fit`` go on as if nothing had happened.
    """

    def __init__(
        self,
        model: Module,
        optimizer: SGD,
        train: Loader,
        test: Loader,
        epochs: int,
        seed: int = 0,
        schedule: Callable[[float], float] = cosine,
    ) -> None:
        self.model, self.optimizer, self.train, self.test = model, optimizer, train, test
        self.epochs, self.seed, self.schedule, self.lr = epochs, seed, schedule, optimizer.lr
        self.device = model.parameters()[0].device
        self.progress = Progress()
        self.stopping = False
        self._unseen: list[tuple[Step, Array, Array, int]] = []

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * len(self.train)

    def stop(self) -> None:
        """Makes ``fit`` return after the current step, and ``evaluate`` after the current batch."""
        self.stopping = True

    def fit(self, on_step: Callable[[Step], None], on_epoch: Callable[[Epoch], None]) -> bool:
        """Trains to the end: True; or until ``stop``: False. The callbacks hear of each step, a little late, and of
        each epoch. Diverged when a loss is not finite."""
        at = self.progress
        self.model.train()
        self.model.seed(self.seed, at.step)
        while at.epoch < self.epochs:
            started, images, looked = time.monotonic(), at.images, time.monotonic()
            for number, batch in self.train.training(at.epoch, at.batch):
                self._step(batch)
                at.batch = number + 1
                if self.stopping or time.monotonic() - looked > LOOK_SECONDS:
                    self._look(on_step)
                    looked = time.monotonic()
                if self.stopping:
                    break
            self._look(on_step)
            seconds = time.monotonic() - started
            at.seconds += seconds
            test = None if self.stopping else self.evaluate(self.test)
            if test is None:
                return False
            means = at.loss / max(1, at.images), at.correct / max(1, at.images)
            rate = (at.images - images) / max(seconds, 1e-9)
            self.progress = at = Progress(step=at.step, epoch=at.epoch + 1, seconds=at.seconds)
            on_epoch(Epoch(at.epoch, at.step, *means, rate, test))
        return True

    def evaluate(self, loader: Loader) -> Evaluation | None:
        """Loss and accuracy over the images of ``loader``, dropout off; None when stopped on the way. DataError when
        no image can be read."""
        loss, top1, top5, images = 0.0, 0, 0, 0
        self.model.eval()
        try:
            with no_grad():
                for batch in loader.evaluation():
                    if self.stopping:
                        return None
                    logits = self.model(Tensor(batch.images, device=self.device))
                    mean = ops.softmax_cross_entropy(logits, Tensor(batch.labels, device=self.device))
                    scores = logits.numpy()
                    loss += mean.item() * len(scores)
                    top1 += int(top_k(scores, batch.labels, 1).sum())
                    top5 += int(top_k(scores, batch.labels, 5).sum())
                    images += len(scores)
        finally:
            self.model.train()
        if not images:
            raise DataError("none of the test images can be read")
        return Evaluation(loss / images, top1 / images, top5 / images, images)

    def save(self, path: Path, mean: np.ndarray, description: Mapping[str, Any]) -> None:
        """Writes a checkpoint of the run as it is now. Diverged, and nothing written, when a weight is not finite."""
        weights = self.model.state()
        for name, w in weights.items():
            if not np.isfinite(w).all():
                raise Diverged(f"{name} is no longer finite after step {self.progress.step}")
        momenta = dict(zip(weights, self.optimizer.state().values(), strict=True))
        described = {**description, "progress": asdict(self.progress)}
        checkpoint.save(path, checkpoint.Checkpoint(weights, momenta, mean, described))

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Goes on from a checkpoint. ValueError, with nothing changed, when it is of another network or does not say
        how far it got."""
        try:
            progress = Progress(**saved.description["progress"])
        except (KeyError, TypeError) as e:
            raise checkpoint.CheckpointError(f"the checkpoint does not say how far the run got: {e}") from e
        self.model.load_state(saved.weights)
        names = [name for name, _ in self.model.named_parameters()]
        self.optimizer.load_state({str(i): saved.momenta[name] for i, name in enumerate(names)})
        self.progress = progress

    def _step(self, batch: Batch) -> None:
        at = self.progress
        self.optimizer.lr = self.lr * self.schedule(at.step / self.steps)
        self.optimizer.zero_grad()
        labels = Tensor(batch.labels, device=self.device)
        logits = self.model(Tensor(batch.images, device=self.device))
        loss = ops.softmax_cross_entropy(logits, labels)
        loss.backward()
        self.optimizer.step()
        at.step += 1
        done = Step(at.step, at.step / len(self.train), self.optimizer.lr, math.nan)
        self._unseen.append((done, loss.data, (logits.data.argmax(axis=1) == labels.data).sum(), len(batch.labels)))

    def _look(self, on_step: Callable[[Step], None]) -> None:
        """Brings the losses of the latest steps to the host, adds them up, and passes them on."""
        for done, loss, correct, images in self._unseen:
            step = done._replace(loss=float(loss))
            if not math.isfinite(step.loss):
                self._unseen.clear()
                raise Diverged(f"the loss became {step.loss} in step {step.step} at learning rate {step.lr:g}")
            at = self.progress
            at.loss += step.loss * images
            at.correct += int(correct)
            at.images += images
            on_step(step)
        self._unseen.clear()
