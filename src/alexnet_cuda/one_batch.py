"""Whether a network can learn one batch by heart (``train --overfit-batch``): its training and the verdict."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

from .command_line import count
from .data import ArrayDataset, Data, Dataset
from .recipe import Recipe
from .trainer import Step

__all__ = ["Verdict", "changes", "images"]

STEPS = 300  # by default
CLIP = 1.0  # of the gradients' norm, so that one batch at a constant rate does not leave dead ReLUs behind
IN_A_ROW = 20  # steps whose answers have to be good
SHARE = 0.01  # of ln(classes), the loss of who guesses: below it the loss is good
STUCK = 0.9  # share of it above which nothing was learnt
FALLING = 0.9  # of the loss of as many steps before: below it more steps help


def changes(recipe: Recipe) -> dict[str, Any]:
    """Entries of a recipe, for ``recipe.change``, that leave out what makes learning by heart harder. An epoch is one
    step."""
    return {
        "epochs": STEPS,
        "clip": recipe.clip or CLIP,
        "schedule": "constant",
        "steps": (),
        "warmup": 0,
        "stop_after": 0,
        "ema": 0,
        "label_smoothing": 0,
        "class_weights": (),
        "crop": False,
        "mirror": False,
        "colour": "none",
        "colour_steps": (),
        "crop_area": 1,
        "rotation": 0,
        "brightness": 0,
        "contrast": 0,
        "mixup": 0,
        "options": {"dropout": False},
        "layers": {name: {"steps": ()} for name in recipe.layers},
    }


def images(data: Data, batch: int, size: tuple[int, int]) -> Data:
    """The centres of as many evenly spaced training images, to train and to test on."""
    places = np.linspace(0, len(data.train) - 1, min(batch, len(data.train))).astype(np.int64)
    images, labels, _ = data.train.load(places)
    top, left = np.subtract(images.shape[1:3], size) // 2
    cut = np.ascontiguousarray(images[:, top : top + size[0], left : left + size[1]])
    one: Dataset = ArrayDataset(cut, labels, data.classes, data.train.unreadable)
    return Data(one, one, f"{data.split}; of these one batch of {len(labels)}, over and over", False)


class Verdict:
    """Learnt is a batch whose loss is below ``SHARE`` of ln(classes), all of its answers right, in ``IN_A_ROW`` steps
    one after the other."""

    def __init__(self, classes: int, steps: int) -> None:
        """``steps``: as many as there are to be at most."""
        self.guessing, self.steps = math.log(classes), steps
        self.learnt = self.done = False
        self._good = 0
        self._losses = deque[float](maxlen=2 * IN_A_ROW)

    def step(self, step: Step) -> bool:
        """Looks at a step; whether there is nothing more to be seen."""
        good = step.loss <= SHARE * self.guessing and step.accuracy == 1
        self._good = self._good + 1 if good else 0
        self._losses.append(step.loss)
        self.learnt |= self._good >= IN_A_ROW
        self.done |= self.learnt or step.step >= self.steps
        return self.done

    def text(self, step: int) -> str:
        """The verdict after that many steps, in a sentence: of a batch that was not learnt, what to look at."""
        if self.learnt:
            return f"learnt by heart after {count(step, 'step')}: network and labels can work"
        *_, last = losses = list(self._losses)
        before, after = np.mean(losses[: len(losses) // 2] or losses), np.mean(losses[len(losses) // 2 :])
        what = "it no longer falls: try a lower --lr and less --decay; look for equal images of two classes"
        if after > STUCK * self.guessing:
            what = "that is guessing: try a lower --lr, a higher one, more --epochs; look for layers with lr = 0"
        elif after < FALLING * before:
            what = "it still falls: more --epochs"
        found = f"the loss is {last:.4f}, ln(classes) {self.guessing:.4f}"
        return f"not learnt by heart in {count(step, 'step')}: {found}; {what}"
