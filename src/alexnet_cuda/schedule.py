"""Learning rates: the factor that a recipe's schedule gives at a point of a run, and each parameter's own."""

from __future__ import annotations

import math

from .nn import Module, Parameter
from .recipe import LayerRule, Recipe, Steps

__all__ = ["Schedule", "at", "cosine"]


def cosine(share: float) -> float:
    """From 1 down to 0 along half a cosine, as the share of the run that is done goes from 0 to 1."""
    return (1 + math.cos(math.pi * share)) / 2


def at(steps: Steps, epoch: float) -> float:
    """The factor of the last of the ``steps`` that began at or before ``epoch``; 1 before the first."""
    return next((factor for begin, factor in reversed(steps) if epoch >= begin), 1.0)


class Schedule:
    """Sets ``lr_scale``, ``decay_scale`` and ``momentum_scale`` of a network's parameters as a recipe says.

    A weight's rate is the optimizer's times the layer's factors times the schedule's, or the layer's own steps'; a
    bias's also times the recipe's ``bias_lr``, and without the schedule's where ``bias_schedule`` is false. Where the
    schedule's factor is 0, so are the layer's rates: it is frozen.
    """

    def __init__(self, recipe: Recipe, network: Module) -> None:
        self.recipe = recipe
        self.rules: list[tuple[Parameter, float, Steps, bool]] = []
        for name, p in network.named_parameters():
            rule = recipe.layers.get(name.partition(".")[0], LayerRule())
            bias = name.endswith(".b")
            rate = rule.lr * (recipe.bias_lr * rule.bias_lr if bias else rule.weight_lr)
            p.decay_scale = rule.decay * (recipe.bias_decay if bias else 1)
            p.momentum_scale = rule.bias_momentum if bias else rule.momentum
            self.rules.append((p, rate, rule.steps, not bias or recipe.bias_schedule))

    def apply(self, epoch: int, share: float, drops: int) -> float:
        """For the next step, after ``epoch`` finished epochs, ``share`` of all steps and ``drops`` of a plateau's
        drops. Returns the schedule's factor."""
        recipe = self.recipe
        factor = {
            "constant": 1.0,
            "cosine": cosine(share),
            "step": at(recipe.steps, epoch),
            "plateau": recipe.drop**drops,
        }[recipe.schedule]
        for p, rate, steps, follows in self.rules:
            own = at(steps, epoch) if steps else factor
            p.lr_scale = rate * (own if follows or own == 0 else 1)
        return factor
