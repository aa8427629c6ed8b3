"""The updates: v <- momentum v - decay lr w - lr g, w <- w + v, of one parameter and of a network's, or with Nesterov's
momentum; Adam's and AdamW's; and averages of weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .. import kernels, models
from ..kernels import ADAM_EPSILONS
from .bounds import UNIT, rounding_error
from .check import Check, Trial, Values
from .drawn import numbers, places
from .layers import ALEXNETS, Scope

Shape = tuple[int, ...]
SMALL: tuple[Shape, ...] = ((1,), (255,), (4096,), (4097,), (13, 3, 5, 7))
NESTEROV = ", Nesterov's"
RATES = (0.001, 0.75)
PART = 1 << 21
"""Elements of the parameters that are updated where larger ones would take too long."""


def checks(scope: Scope) -> Iterator[Check]:
    named: dict[str, Sequence[Shape]] = {"small parameters": SMALL}
    if scope.batches:
        shapes = parameters("alexnet")
        if scope.whole_layers:
            named |= {f"all parameters of {name}": parameters(name) for name in ALEXNETS}
        else:
            named["smaller parameters of alexnet"] = [shape for shape in shapes if math.prod(shape) <= PART]
    for name, some in named.items():
        largest = max(some, key=math.prod)
        alone = [(str(shape), shape) for shape in SMALL] if some is SMALL else [("the largest of them", largest)]
        momenta = [(shown + of, partial(sgd, shape, of == NESTEROV)) for shown, shape in alone for of in ("", NESTEROV)]
        yield Check(kernels.sgd, "fp32", momenta)
        forms = tuple(ADAM_EPSILONS) if some is SMALL else ("keras",)
        both = [(f"{shown}, {form}'s", partial(adam, shape, form)) for shown, shape in alone for form in forms]
        both += [(f"{shown}, AdamW's", partial(adam, shape, "pytorch", True)) for shown, shape in alone]
        yield Check(kernels.adam, "fp32", both)
        averages = [(f"{shown}, {rate:g}", partial(ema, shape, rate)) for shown, shape in alone for rate in RATES]
        yield Check(kernels.ema, "fp32", averages)
        network = [(name + of, partial(multi_sgd, tuple(some), of == NESTEROV)) for of in ("", NESTEROV)]
        yield Check(kernels.multi_sgd, "fp32", network)


def parameters(name: str) -> Sequence[Shape]:
    """Shapes of all weights and biases."""
    pairs = ((row.filter, (row.biases,)) for row in models.get(name).rows() if row.filter)
    return [shape for pair in pairs for shape in pair if math.prod(shape)]


def _update(
    nesterov: bool,
    w: NDArray[np.float32],
    v: NDArray[np.float32],
    g: NDArray[np.float32],
    lr: float,
    momentum: float,
    decay: float,
) -> tuple[Values, Values]:
    """Some of the new w and v."""
    where = places(w.size)
    w64, v64, g64 = (array.reshape(-1)[where].astype(np.float64) for array in (w, v, g))
    new_v = momentum * v64 - decay * lr * w64 - lr * g64
    # the hyper-parameters as float32, three products, two sums
    magnitude = momentum * abs(v64) + decay * lr * abs(w64) + lr * abs(g64)
    error = rounding_error(magnitude, 8)
    step, step_error = new_v, error
    if nesterov:  # the same once more, from the new v
        step = momentum * new_v - decay * lr * w64 - lr * g64
        magnitude += momentum * magnitude
        step_error = momentum * error + rounding_error(magnitude, 8)
    return Values(where, w64 + step, step_error + rounding_error(abs(w64) + magnitude, 1)), Values(where, new_v, error)


def sgd(shape: Shape, nesterov: bool) -> Trial:
    w, v, g = (numbers(name, *shape) for name in "wvg")
    new_w, new_v = _update(nesterov, w, v, g, 0.01 * 2.0, 0.9, 0.05)
    arguments = {
        "w": w, "v": v, "g": g, "lr": 0.01, "momentum": 0.9, "decay": 0.05, "lr_scale": 2.0, "nesterov": nesterov,
    }  # fmt: skip
    return Trial(arguments, {"w": new_w, "v": new_v}, written=("w", "v"))


def multi_sgd(shapes: Sequence[Shape], nesterov: bool) -> Trial:
    """Each with a rate, a momentum and a decay of its own."""
    count = len(shapes)
    w, v, g = ([numbers(name, *shape) for shape in shapes] for name in "wvg")
    lr, momentum, decay = ([start + i / (8 * count) for i in range(count)] for start in (0.01, 0.8, 0.0))
    new = [_update(nesterov, *one) for one in zip(w, v, g, lr, momentum, decay, strict=True)]
    arguments = {"w": w, "v": v, "g": g, "lr": lr, "momentum": momentum, "decay": decay, "nesterov": nesterov}
    expected = {"w": [new_w for new_w, _ in new], "v": [new_v for _, new_v in new]}
    return Trial(arguments, expected, written=("w", "v"))


def adam(shape: Shape, form: str, decoupled: bool = False) -> Trial:
    w, m, g = (numbers(name, *shape) for name in "wmg")
    v = abs(numbers("v", *shape))
    lr, t, beta1, beta2, epsilon, decay = 0.01, 10, float(np.float32(0.9)), float(np.float32(0.999)), 0.01, 0.05
    where = places(w.size)
    w64, m64, v64, g64 = (array.reshape(-1)[where].astype(np.float64) for array in (w, m, v, g))
    added = 0 if decoupled else decay
    gradient, magnitude = g64 + added * w64, abs(g64) + added * abs(w64)
    new_m, new_v = beta1 * m64 + (1 - beta1) * gradient, beta2 * v64 + (1 - beta2) * gradient**2
    m_error = rounding_error(beta1 * abs(m64) + (1 - beta1) * magnitude, 5)
    v_error = rounding_error(beta2 * v64 + (1 - beta2) * magnitude**2, 8)
    # the corrections are right to about 8 roundings; then two roots, products and the quotient
    corrected = epsilon / np.sqrt(1 - beta2**t) if form == "keras" else epsilon
    step = lr / (1 - beta1**t) / (np.sqrt(new_v / (1 - beta2**t)) + corrected)
    kept = (1 - lr * decay if decoupled else 1) * w64
    new_w = kept - step * new_m
    w_error = step * (m_error + abs(new_m) * (v_error / new_v / 2 + 24 * UNIT))
    expected = {
        "w": Values(where, new_w, w_error + rounding_error(abs(w64) + abs(new_w), 4)),
        "m": Values(where, new_m, m_error),
        "v": Values(where, new_v, v_error),
    }
    arguments = {
        "w": w, "m": m, "v": v, "g": g, "lr": lr, "t": t, "beta1": beta1, "beta2": beta2, "epsilon": epsilon,
        "decay": decay, "form": form, "decoupled": decoupled,
    }  # fmt: skip
    return Trial(arguments, expected, written=("w", "m", "v"))


def ema(shape: Shape, rate: float) -> Trial:
    average, w, where = numbers("average", *shape), numbers("w", *shape), places(math.prod(shape))
    a64, w64 = (array.reshape(-1)[where].astype(np.float64) for array in (average, w))
    # the rate as float32, the difference of both, its product, the sum
    error = rounding_error(abs(a64) + abs(w64), 4)
    expected = {"average": Values(where, (1 - rate) * a64 + rate * w64, error)}
    return Trial({"average": average, "w": w, "rate": rate}, expected, written=("average",))
