"""Optimizers: they hold their parameters' state and update both from the gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from . import backend, kernels
from .nn import Parameter


class Optimizer:
    """Base of the optimizers. ``lr`` may be set between steps. Parameters without a gradient, and those whose
    ``lr_scale`` is 0, are left alone.

    ``slots`` names what is kept for each parameter besides itself, an array of its shape, zero at first.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, parameters: Iterable[Parameter], lr: float, decay: float) -> None:
        self.parameters = list(parameters)
        self.lr, self.decay = lr, decay
        self.updates = 0
        self.kept = {
            slot: [backend.zeros(p.shape, np.float32, p.device) for p in self.parameters] for slot in self.slots
        }

    def zero_grad(self) -> None:
        """Forgets all gradients; the next backward pass starts anew."""
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        self.updates += 1
        self.update([i for i, p in enumerate(self.parameters) if p.grad is not None and p.lr_scale != 0])

    def update(self, places: Sequence[int]) -> None:
        """Updates the parameters in these places and what is kept for them, in place."""
        raise NotImplementedError

    def state(self) -> dict[str, np.ndarray]:
        """Copies of all that is kept as NumPy arrays, by slot and the parameter's place (``momentum/0``), and the
        number of updates so far (``updates``)."""
        kept = {
            f"{slot}/{i}": backend.to_host(a).copy() for slot, arrays in self.kept.items() for i, a in enumerate(arrays)
        }
        return {**kept, "updates": np.array(self.updates, np.float32)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets all that is kept. ValueError, with nothing changed, when it does not match the parameters."""
        got = {name: a.shape for name, a in state.items()}
        expected = {name: a.shape for name, a in self.state().items()}
        if got != expected:
            name = next(name for name in {**expected, **got} if expected.get(name) != got.get(name))
            raise ValueError(
                f"{type(self).__name__}: state of {name}: expected shape {expected.get(name)}, got {got.get(name)}"
            )
        self.updates = int(state["updates"])
        for slot in self.slots:
            self.kept[slot] = [
                backend.from_host(np.ascontiguousarray(state[f"{slot}/{i}"]), p.device)
                for i, p in enumerate(self.parameters)
            ]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and weight decay in the paper's form (section 5).

    v <- momentum v - decay e w - e g, w <- w + v, where e = lr * the parameter's lr_scale, and momentum and decay are
    multiplied by its momentum_scale and decay_scale. As the rate is inside v, a change of ``lr`` acts at once only on
    new gradients.
    """

    slots = ("momentum",)

    def __init__(
        self, parameters: Iterable[Parameter], lr: float = 0.01, momentum: float = 0.9, decay: float = 5e-4
    ) -> None:
        super().__init__(parameters, lr, decay)
        self.momentum = momentum
        self._rates: dict[tuple[int, ...], tuple[np.ndarray, kernels.Array]] = {}

    def update(self, places: Sequence[int]) -> None:
        for device in dict.fromkeys(self.parameters[i].device for i in places):
            here = tuple(i for i in places if self.parameters[i].device == device)
            parameters = [self.parameters[i] for i in here]
            kernels.multi_sgd(
                [p.data for p in parameters],
                [self.kept["momentum"][i] for i in here],
                [p.grad for p in parameters],
                self.rates(here),
                [self.momentum * p.momentum_scale for p in parameters],
                [self.decay * p.decay_scale for p in parameters],
            )

    def rates(self, places: tuple[int, ...]) -> kernels.Array:
        """The rates of the parameters in these places, all on one device, in an array there that is the same for the
        same places: where it was part of a captured step, a call before each replay brings it up to date."""
        scales = np.array([self.parameters[i].lr_scale for i in places], np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            rates = np.float32(self.lr) * scales
        if not (np.isfinite(rates).all() and (rates >= 0).all()):
            raise ValueError(f"SGD: lr: expected a number in [0, {np.finfo(np.float32).max:g}], got {self.lr!r}")
        if places not in self._rates:
            self._rates[places] = rates, backend.from_host(rates, self.parameters[places[0]].device)
        last, array = self._rates[places]
        if not np.array_equal(rates, last):
            backend.write(array, rates)
            self._rates[places] = rates, array
        return array


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015); see ``kernels.adam``. The rate is lr * the parameter's lr_scale, the decay is
    multiplied by its decay_scale."""

    slots = ("first_moment", "second_moment")

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-7,
        decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, decay)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def update(self, places: Sequence[int]) -> None:
        for i in places:
            p, first, second = self.parameters[i], *(self.kept[slot][i] for slot in self.slots)
            kernels.adam(
                p.data, first, second, p.grad, self.lr, self.updates, self.beta1, self.beta2, self.epsilon,
                self.decay * p.decay_scale, p.lr_scale,
            )  # fmt: skip
