"""Optimizers: they hold their parameters' state and update both from the gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from ml_dtypes import bfloat16

from . import backend, kernels
from .kernels.arguments import check_number
from .nn import Linear, Module, Parameter
from .ops import LinearGradient
from .tensor import Tensor

__all__ = ["SGD", "Adam", "Copies", "Optimizer"]

LARGEST = float(np.finfo(np.float32).max)
SWAPPED = "swapped"


class Optimizer:
    """Base of the optimizers. ``lr`` may be set between steps. Parameters without a gradient, and those whose
    ``lr_scale`` is 0, are left alone. What changes from step to step is read from device memory: ``numbers`` holds, on
    each device, every parameter's rate, that of the averages, and last the number of the update.

    ``decay`` is that of weights, towards 0. ``slots`` names what is kept for each parameter besides itself, an array of
    its shape, zero at first. ``ema`` above 0 adds ``swapped``: the exponential moving averages of the parameters after
    each update so far (Polyak and Juditsky 1992), in which an update weighs ``ema`` times as much as the next;
    ``averaged`` puts them in the parameters' place. ValueError for a hyper-parameter out of its range.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, parameters: Iterable[Parameter], lr: float, decay: float, ema: float = 0.0) -> None:
        self.parameters = self._parameters(parameters)
        self.lr, self.decay = self._checked("lr", lr), self._checked("decay", decay)
        self.ema = self._checked("ema", ema, high=1)
        if ema:
            self.slots = (*self.slots, SWAPPED)
        self.updates = 0
        self.kept = {
            slot: [backend.zeros(p.shape, np.float32, p.device) for p in self.parameters] for slot in self.slots
        }
        places, count = dict.fromkeys(p.device for p in self.parameters), len(self.parameters) + 2
        self.numbers = {device: backend.StaticInput((count,), np.float32, device) for device in places}

    def _parameters(self, given: object) -> list[Parameter]:
        """Those given, each once."""
        owner = f"{type(self).__name__}: parameters: expected a list of Parameters"
        if isinstance(given, Module):
            raise TypeError(f"{owner}, got a {type(given).__name__}: its are net.parameters()")
        if isinstance(given, Tensor) or not isinstance(given, Iterable):
            raise TypeError(f"{owner}, got {type(given).__name__}")
        parameters = dict[int, Parameter]()
        for p in given:
            if not isinstance(p, Parameter):
                hint = ": nn.Parameter(values) makes one" if isinstance(p, Tensor) else ""
                raise TypeError(f"{owner}, got one with a {type(p).__name__}{hint}")
            parameters[id(p)] = p
        if not parameters:
            raise ValueError(f"{owner}, got none: has the network layers with weights, and are they its attributes?")
        return list(parameters.values())

    def _checked(self, name: str, value: float, low: float = 0.0, high: float = LARGEST) -> float:
        """The hyper-parameter as a number within its range, below 1 where that is its end; else ValueError."""
        return check_number(type(self).__name__, name, value, low, high, open_high=high == 1)

    def zero_grad(self) -> None:
        """Forgets all gradients; the next backward pass starts anew."""
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        self.advance()
        self.apply()

    def advance(self) -> None:
        """The part of a step that is the host's: sends rates and the number of the update to the devices. ValueError
        for a rate that is not finite or negative."""
        if not 0 <= self.lr <= LARGEST:
            raise ValueError(f"{type(self).__name__}: lr: expected a number in [0, {LARGEST:g}], got {self.lr!r}")
        rates = np.float32(self.lr) * np.array([p.lr_scale for p in self.parameters], np.float32)
        self.updates += 1
        average = (1 - self.ema) / (1 - self.ema**self.updates)  # 1 at first, as zeros are no weights
        for numbers in self.numbers.values():
            numbers.set(np.concatenate([rates, np.array([average, self.updates], np.float32)]))

    def apply(self) -> None:
        """The part of a step that is the devices'."""
        for device, numbers in self.numbers.items():
            places = [
                i
                for i, p in enumerate(self.parameters)
                if p.device == device and p.gradient is not None and p.lr_scale != 0
            ]
            if places:
                parameters = [self.parameters[i] for i in places]
                rates = [numbers.array[i : i + 1].reshape(()) for i in places]
                kept = ([self.kept[slot][i] for i in places] for slot in type(self).slots)
                with backend.on(device):
                    self.update(parameters, rates, *kept)
                    for p in parameters:
                        if p.bf16_copy is not None and not isinstance(p.gradient, LinearGradient):
                            kernels.cast(p.data, bfloat16, out=p.bf16_copy)
            if self.ema:
                rate = numbers.array[-2:-1].reshape(())
                with backend.on(device):
                    for p, average in zip(self.parameters, self.kept[SWAPPED], strict=True):
                        if p.device == device:
                            kernels.ema(average, p.data, rate)

    def swap(self) -> None:
        """Exchanges the parameters and their averages, if there are any."""
        if self.ema and self.updates:
            weights = [p.data for p in self.parameters]
            for p, average in zip(self.parameters, self.kept[SWAPPED], strict=True):
                p.data = average
            self.kept[SWAPPED] = weights

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this block the parameters are their averages, if there are any, and ``swapped`` is what the training
        goes on from."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def update(self, parameters: list[Parameter], rates: list[kernels.Array], *kept: list[kernels.Array]) -> None:
        """Updates parameters, which are on one device, by their ``rates``, and what is kept for them, in place; where
        it leaves a ``LinearGradient`` as it is, the parameter's ``bf16_copy``, too."""
        raise NotImplementedError

    @property
    def constants(self) -> tuple[object, ...]:
        """All that ``apply`` depends on besides arrays."""
        return tuple((p.lr_scale != 0, p.decay_scale) for p in self.parameters), self.decay

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
                backend.from_host(np.asarray(state[f"{slot}/{i}"], order="C"), p.device)
                for i, p in enumerate(self.parameters)
            ]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and weight decay in the paper's form (section 5).

    v <- momentum v - decay e w - e g, w <- w + v, where e = lr * the parameter's lr_scale, and momentum and decay are
    multiplied by its momentum_scale and decay_scale; ``nesterov`` as of ``kernels.sgd``. As the rate is inside v, a
    change of ``lr`` acts at once only on new gradients. Gradients of fully connected layers that nobody has looked
    at end in the update, to the same bits (``kernels.linear_sgd``).
    """

    slots = ("momentum",)

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 0.01,
        momentum: float = 0.9,
        decay: float = 5e-4,
        nesterov: bool = False,
        ema: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, decay, ema)
        self.momentum, self.nesterov = self._checked("momentum", momentum, high=1), nesterov

    def update(self, parameters: list[Parameter], rates: list[kernels.Array], *kept: list[kernels.Array]) -> None:
        together = []
        for p, rate, v in zip(parameters, rates, *kept, strict=True):
            momentum, decay, g = self.momentum * p.momentum_scale, self.decay * p.decay_scale, p.gradient
            if isinstance(g, LinearGradient):
                kernels.linear_sgd(p.data, v, g.dy, g.x, rate, momentum, decay, g.precision, p.bf16_copy, self.nesterov)
            else:
                together.append((p.data, v, p.grad, rate, momentum, decay))
        if together:
            w, v, gradients, lr, momenta, decays = map(list, zip(*together, strict=True))
            kernels.multi_sgd(w, v, gradients, lr, momenta, decays, self.nesterov)

    @property
    def constants(self) -> tuple[object, ...]:
        return *super().constants, self.momentum, self.nesterov, tuple(p.momentum_scale for p in self.parameters)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), whose epsilon stands where ``form``, keras or pytorch, has it; with ``decoupled``
    AdamW (Loshchilov and Hutter 2019). See ``kernels.adam``. The rate is lr * the parameter's lr_scale, the decay is
    multiplied by its decay_scale. All gradients are written: no product ends in the update."""

    slots = ("first_moment", "second_moment")

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float | None = None,
        decay: float = 0.0,
        form: str = "keras",
        decoupled: bool = False,
        ema: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, decay, ema)
        self.decoupled = decoupled
        self.beta1, self.beta2 = self._checked("beta1", beta1, high=1), self._checked("beta2", beta2, high=1)
        self.form, self.epsilon = form, kernels.adam_epsilon("Adam", form, epsilon)

    def update(self, parameters: list[Parameter], rates: list[kernels.Array], *kept: list[kernels.Array]) -> None:
        t = self.numbers[parameters[0].device].array[-1:].reshape(())
        for p, rate, first, second in zip(parameters, rates, *kept, strict=True):
            decay = self.decay * p.decay_scale
            constants = self.beta1, self.beta2, self.epsilon, decay
            kernels.adam(p.data, first, second, p.grad, rate, t, *constants, form=self.form, decoupled=self.decoupled)

    @property
    def constants(self) -> tuple[object, ...]:
        return *super().constants, self.beta1, self.beta2, self.epsilon, self.form, self.decoupled


class Copies:
    """The weights of a network's fully connected layers in bfloat16, where they multiply so, kept from one training
    step to the next: an update writes a weight's copy beside it, and nobody has to read all weights to round them.

    Within ``with copies:``, the time of a step, the parameters know their copies (``bf16_copy``). Between steps whoever
    likes may change weights: after ``forget``, ``refresh`` makes the copies anew, in the same places.
    """

    def __init__(self, network: Module) -> None:
        layers = [module for module in network.modules() if isinstance(module, Linear) and module.precision == "bf16"]
        self.arrays = {p: backend.empty(p.shape, bfloat16, p.device) for p in (layer.w for layer in layers)}
        self.current = False

    def forget(self) -> None:
        """For when weights may have changed otherwise than in a step."""
        self.current = False

    def refresh(self) -> None:
        """To be called before a step."""
        if not self.current:
            for p, stored in self.arrays.items():
                with backend.on(p.device):
                    kernels.cast(p.data, bfloat16, out=stored)
        self.current = True

    def __enter__(self) -> None:
        for p, stored in self.arrays.items():
            p.bf16_copy = stored

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self.current = self.current and failure is None
        for p in self.arrays:
            p.bf16_copy = None
