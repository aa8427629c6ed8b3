"""Learning rates: the factor that a recipe's schedule gives at a point of a run, and each parameter's own."""

from __future__ import annotations

import math

from .nn import Module, Parameter
from .recipe import Recipe, Steps

__all__ = ["Schedule", "at", "cosine", "warm"]


def cosine(share: float) -> float:
    """From 1 down to 0 along half a cosine, as the share of the run that is done goes from 0 to 1."""
    return (1 + math.cos(math.pi * share)) / 2


def warm(step: int, steps: float) -> float:
    """From 1 / ``steps`` up to 1 in equal parts, as the number of steps done goes from 0 to ``steps``; then 1."""
    return min(1.0, (step + 1) / max(steps, 1.0))


def at(steps: Steps, epoch: float) -> float:
    """The factor of the last of the ``steps`` that began at or before ``epoch``; 1 before the first."""
    return next((factor for begin, factor in reversed(steps) if epoch >= begin), 1.0)


class Schedule:
    """Sets ``lr_scale``, ``decay_scale`` and ``momentum_scale`` of a network's parameters as a recipe says.

    A weight's rate is the optimizer's times the layer's factors, those of its patterns and the schedule's, or the
    layer's own steps'; a bias's also times the recipe's ``bias_lr``, and without the schedule's where ``bias_schedule``
    is false. Where the schedule's factor is 0, so are the layer's rates: it is frozen. While the run warms up, all
    rates are smaller.
    """

    def __init__(self, recipe: Recipe, network: Module, epoch_steps: int = 1) -> None:
        """``epoch_steps``: how many steps an epoch has."""
        self.recipe = recipe
        self.steps, self.warm_steps = recipe.epochs * epoch_steps, recipe.warmup * epoch_steps
        self.rules: list[tuple[Parameter, float, Steps, bool]] = []
        for name, p in network.named_parameters():
            rule = recipe.rule(name)
            bias = name.endswith(".b")
            rate = rule.lr * (recipe.bias_lr * rule.bias_lr if bias else rule.weight_lr) * recipe.rate(name)
            p.decay_scale = rule.decay * (recipe.bias_decay if bias else 1)
            p.momentum_scale = rule.bias_momentum if bias else rule.momentum
            self.rules.append((p, rate, rule.steps, not bias or recipe.bias_schedule))

    def apply(self, epoch: int, step: int, drops: int) -> float:
        """For the next step, after ``epoch`` finished epochs, ``step`` steps and ``drops`` of a plateau's drops.
        Returns the schedule's factor, the warm-up's in it."""
        recipe = self.recipe
        growing = warm(step, self.warm_steps)
        factor = {
            "constant": 1.0,
            "cosine": cosine(max(0.0, step - self.warm_steps) / (self.steps - self.warm_steps)),
            "step": at(recipe.steps, epoch),
            "plateau": recipe.drop**drops,
        }[recipe.schedule]
        for p, rate, steps, follows in self.rules:
            own = at(steps, epoch) if steps else factor
            p.lr_scale = rate * (own if follows or own == 0 else 1) * growing
        return factor * growing
