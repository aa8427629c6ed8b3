"""Parameters and buffers, and the generator that initial weights are drawn from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from .. import backend, init
from ..deprecation import OldName
from ..kernels import Array
from ..tensor import Tensor

_generator: np.random.Generator | None = None  # made when it is needed: NumPy imports what draws late, too
_seeded: ContextVar[np.random.Generator | None] = ContextVar("seeded", default=None)
_drawing: ContextVar[bool] = ContextVar("drawing", default=True)


class Parameter(Tensor):
    """A tensor to be trained, of ``data`` on ``device``, as of ``Tensor``. Its rate is the optimizer's times
    ``lr_scale``; ``decay_scale`` multiplies the decay, ``momentum_scale`` the momentum of SGD. ``bf16_copy`` is a copy
    that products may read in its place, or None; who updates the parameter updates it, too (``optim.Copies``). One of
    int8, for inference, is not trained."""

    def __init__(
        self,
        data: np.ndarray,
        device: str | backend.Device | None = None,
        lr_scale: float = 1.0,
        decay_scale: float = 1.0,
        momentum_scale: float = 1.0,
    ) -> None:
        super().__init__(data, requires_grad=getattr(data, "dtype", None) != np.int8, device=device)
        self.lr_scale = lr_scale
        self.decay_scale = decay_scale
        self.momentum_scale = momentum_scale
        self.bf16_copy: Array | None = None

    stored = OldName("bf16_copy")


class Buffer(Tensor):
    """A tensor that is saved with the parameters and not trained, such as the running statistics of ``BatchNorm``."""


def generator(rng: np.random.Generator | None) -> np.random.Generator:
    """``rng``, or else the one that ``manual_seed`` resets."""
    rng = rng or _seeded.get()
    if rng is None:
        global _generator
        rng = _generator = _generator or np.random.default_rng(0)
    return rng


def manual_seed(seed: int) -> None:
    """Resets, to the ``seed``, the generator of initial weights that layers made without ``rng`` draw from."""
    global _generator
    if _seeded.get() is None:
        _generator = np.random.default_rng(seed)
    else:
        _seeded.set(np.random.default_rng(seed))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within this block (of this thread) ``manual_seed(seed)`` holds; afterwards the generator is what it was."""
    token = _seeded.set(np.random.default_rng(seed))
    try:
        yield
    finally:
        _seeded.reset(token)


@contextmanager
def undrawn() -> Iterator[None]:
    """Within this block (of this thread) the package's layers have zeros in the place of initial weights and draw
    nothing: for a network whose state is loaded next, as drawing takes long."""
    token = _drawing.set(False)
    try:
        yield
    finally:
        _drawing.reset(token)


def initial(initialiser: init.Initialiser, shape: tuple[int, ...], rng: np.random.Generator | None) -> np.ndarray:
    """The first values of a parameter, drawn from ``rng``, or else the generator that ``manual_seed`` resets."""
    return initialiser(shape, generator(rng)) if _drawing.get() else np.zeros(shape, np.float32)


def draw_weights(
    shape: tuple[int, ...],
    bias: bool,
    weight_init: init.Initialiser | None,
    bias_init: init.Initialiser | None,
    rng: np.random.Generator | None,
    device: str | backend.Device | None,
) -> tuple[Parameter, Parameter | None]:
    w = Parameter(initial(weight_init or init.he_normal(), shape, rng), device)
    if not bias:
        return w, None
    return w, Parameter(initial(bias_init or init.constant(0), shape[:1], rng), device)
