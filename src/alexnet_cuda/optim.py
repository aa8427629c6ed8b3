"""Optimizers: they hold their parameters' state and update both from the gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from . import backend, kernels
from .nn import Parameter


class SGD:
    """Stochastic gradient descent with momentum and weight decay in the paper's form (section 5).

    v <- momentum v - decay e w - e g, w <- w + v, where e = lr * the parameter's lr_scale and decay is multiplied by
    its decay_scale. ``lr`` may be set between steps; as the rate is inside v, a change acts at once only on new
    gradients. Parameters without a gradient are left alone.
    """

    def __init__(
        self, parameters: Iterable[Parameter], lr: float = 0.01, momentum: float = 0.9, decay: float = 5e-4
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.momentum, self.decay = lr, momentum, decay
        self.momenta = [backend.zeros(p.shape, np.float32, p.device) for p in self.parameters]

    def zero_grad(self) -> None:
        """Forgets all gradients; the next backward pass starts anew."""
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        for p, v in zip(self.parameters, self.momenta, strict=True):
            if p.grad is not None:
                decay = self.decay * p.decay_scale
                kernels.sgd(p.data, v, p.grad, self.lr, self.momentum, decay, p.lr_scale)

    def state(self) -> dict[str, np.ndarray]:
        """Copies of the momenta as NumPy arrays, by the parameter's place."""
        return {str(i): backend.to_host(v).copy() for i, v in enumerate(self.momenta)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets the momenta. ValueError, with nothing changed, when they do not match the parameters."""
        got = {name: v.shape for name, v in state.items()}
        expected = {str(i): v.shape for i, v in enumerate(self.momenta)}
        if got != expected:
            raise ValueError(f"SGD.load_state: expected momenta of shapes {expected}, got {got}")
        self.momenta = [
            backend.from_host(np.ascontiguousarray(state[str(i)]), p.device) for i, p in enumerate(self.parameters)
        ]
