"""gemm and fully connected layers: C = op(A) op(B); y = x w^T + b, dx = dy w, dw = dy^T x, db = sums of dy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import DTypeLike, NDArray

from .. import kernels
from ..kernels import Precision
from ..models.layers import Linear
from . import random_words
from .bounds import Floats, Sums, rounding_error, stored_error
from .check import Check, Trial, Values
from .drawn import Indices, numbers
from .layers import Scope, rows
from .product import Arithmetic, Blocks, Way, column_sums, error, sums, ways


@dataclass(frozen=True)
class Shape:
    """x (images, inputs), w (neurons, inputs), y (images, neurons)."""

    name: str
    images: int
    inputs: int
    neurons: int

    def __str__(self) -> str:
        return f"{self.name}: ({self.images}, {self.inputs}) to {self.neurons}"


SMALL = (
    Shape("one row", 1, 9, 33),
    Shape("few rows", 16, 1032, 65),
    Shape("wide tiles", 132, 40, 128),
    Shape("value by value", 130, 19, 65),
    Shape("a split sum", 17, 1032, 12),
    Shape("a split sum, value by value", 19, 1025, 9),
)
NARROW = 72
"""Neurons of a layer that is too slow as it is."""


def layers(scope: Scope, way: Way) -> Iterator[Shape]:
    seen = set()
    for batch in scope.batches:
        for name, _, row in rows(Linear):
            inputs, neurons = row.input[0], row.output[0]
            if not (scope.whole_layers or way.blas):
                name, neurons = f"part of {name}", min(neurons, NARROW)
            if (batch, inputs, neurons) not in seen:
                seen.add((batch, inputs, neurons))
                yield Shape(name, batch, inputs, neurons)


def checks(scope: Scope) -> Iterator[Check]:
    for way in ways(scope.device):
        for shapes in (SMALL, *((shape,) for shape in layers(scope, way))):
            yield _check(shapes, way, kernels.linear, "", forward)
            yield _check(shapes, way, kernels.linear_dropout, "", forward_dropout)
            yield _check(shapes, way, kernels.linear_backward, "dx", backward_input)
            yield _check(shapes, way, kernels.linear_backward, "dw db", backward_weight)
            if way.kind.precision == "fp32":
                for dtype in (bfloat16, np.int8):
                    stored = f"w in {np.dtype(dtype)}"
                    yield _check(shapes, way, kernels.linear, stored, partial(forward_short, dtype=dtype))
            for nesterov in (False, True):
                yield _check(shapes, way, kernels.linear_sgd, "", partial(update, nesterov=nesterov))
        for a, b in product((False, True), repeat=2):
            trial = partial(gemm, transpose_a=a, transpose_b=b)
            yield _check(SMALL, way, kernels.gemm, "NT"[a] + "NT"[b], trial)


def _check(
    shapes: Sequence[Shape], way: Way, kernel: Callable[..., Any], part: str, trial: Callable[..., Trial]
) -> Check:
    cases = [(str(shape), partial(trial, shape, way.kind)) for shape in shapes]
    return Check(kernel, way.name, cases, part, blas=way.blas)


# ---- operands, and some elements of the products


def operands(shape: Shape, dtype: DTypeLike = np.float32) -> dict[str, NDArray[Any]]:
    return {
        "x": numbers("x", shape.images, shape.inputs, dtype=dtype),
        "w": numbers("w", shape.neurons, shape.inputs),
        "b": numbers("b", shape.neurons),
        "dy": numbers("dy", shape.images, shape.neurons, dtype=dtype),
    }


@lru_cache(maxsize=4)
def _forward(shape: Shape, precision: Precision) -> tuple[Indices, Sums]:
    """Where some of x w^T are, and these."""
    a = operands(shape)
    blocks = Blocks.draw(shape.images, shape.neurons, shape.inputs)
    products = sums(blocks, shape.inputs, precision, lambda s, _: a["x"][s.rows], lambda s, _: a["w"][s.columns])
    return blocks.flat(shape.neurons, 1), products


@lru_cache(maxsize=4)
def _backward_weight(shape: Shape, precision: Precision) -> tuple[Indices, Sums]:
    """Where some of dy^T x are, and these."""
    a = operands(shape)
    blocks = Blocks.draw(shape.neurons, shape.inputs, shape.images)
    dyT, xT = np.ascontiguousarray(a["dy"].T), np.ascontiguousarray(a["x"].T)
    products = sums(blocks, shape.images, precision, lambda s, _: dyT[s.rows], lambda s, _: xT[s.columns])
    return blocks.flat(shape.inputs, 1), products


def _activations(shape: Shape, precision: Precision) -> tuple[Indices, Floats, Floats]:
    """Where some outputs of the layer are, these after the ReLU, and their bounds."""
    where, products = _forward(shape, precision)
    b = operands(shape)["b"].astype(np.float64)[where % shape.neurons]
    bound = error(products, shape.inputs, precision) + rounding_error(abs(b) + products.partial, 2)
    return where, np.maximum(products.value + b, 0), bound


# ---- trials


def forward(shape: Shape, kind: Arithmetic) -> Trial:
    a = operands(shape, kind.dtype)
    arguments = {"x": a["x"], "w": a["w"], "b": a["b"], "relu": True, "precision": kind.precision}
    return Trial(arguments, {"y": Values(*_activations(shape, kind.precision))}, returns=("y",))


def forward_short(shape: Shape, kind: Arithmetic, dtype: DTypeLike) -> Trial:
    """Weights in that dtype, which are multiplied as they are, in int8 by a scale for each row."""
    x, b = numbers("x", shape.images, shape.inputs), numbers("b", shape.neurons)
    scale = numbers("scale", shape.neurons) if dtype == np.int8 else None
    w = numbers("w", shape.neurons, shape.inputs)
    w = w.astype(dtype) if scale is None else (60 * w).astype(dtype)
    factor = np.ones(shape.neurons) if scale is None else scale.astype(np.float64)
    blocks = Blocks.draw(shape.images, shape.neurons, shape.inputs)
    products = sums(blocks, shape.inputs, "fp32", lambda s, _: x[s.rows], lambda s, _: w[s.columns])
    where = blocks.flat(shape.neurons, 1)
    column = where % shape.neurons
    size = abs(factor[column])
    bound = size * error(products, shape.inputs, "fp32") + rounding_error(abs(b[column]) + size * products.partial, 3)
    y = np.maximum(products.value * factor[column] + b[column], 0)
    arguments = {"x": x, "w": w, "b": b, "relu": True, "scale": scale}
    return Trial(arguments, {"y": Values(where, y, bound)}, returns=("y",))


def forward_dropout(shape: Shape, kind: Arithmetic) -> Trial:
    a = operands(shape, kind.dtype)
    where, y, bound = _activations(shape, kind.precision)
    draw = {"seed": 2**40 + 1, "step": 7, "purpose": 3}
    keep = random_words.kept(where + 5, 0.5, **draw)
    arguments = {
        "x": a["x"], "w": a["w"], "b": a["b"], "p": 0.5, "form": "inverted", "first": 5, "precision": kind.precision,
        **draw,
    }  # fmt: skip
    bound = 2 * (bound + stored_error(y + bound, kind.dtype))  # few rows are stored before they are doubled
    return Trial(arguments, {"y": Values(where, 2 * y * keep, bound * keep)}, returns=("y",))


def backward_input(shape: Shape, kind: Arithmetic) -> Trial:
    """The mask is x, as if that came out of a ReLU."""
    a = operands(shape, kind.dtype)
    blocks = Blocks.draw(shape.images, shape.inputs, shape.neurons)
    products = sums(
        blocks, shape.neurons, kind.precision, lambda s, _: a["dy"][s.rows],
        lambda s, _: a["w"][:, s.columns.reshape(-1)].T.reshape(*s.columns.shape, -1),
    )  # fmt: skip
    where = blocks.flat(shape.inputs, 1)
    above = a["x"].reshape(-1)[where].astype(np.float32) > 0
    dx = Values(where, products.value * above, error(products, shape.neurons, kind.precision) * above)
    arguments = {
        "dy": a["dy"], "x": a["x"], "w": a["w"], "needs": (True, False, False), "mask": a["x"],
        "precision": kind.precision,
    }  # fmt: skip
    return Trial(arguments, {"dx": dx}, returns=("dx", "dw", "db"))


def backward_weight(shape: Shape, kind: Arithmetic) -> Trial:
    a = operands(shape, kind.dtype)
    where, products = _backward_weight(shape, kind.precision)
    dw = Values(where, products.value, error(products, shape.images, kind.precision))
    expected = {"dw": dw, "db": column_sums(a["dy"])}
    arguments = {
        "dy": a["dy"], "x": a["x"], "w": a["w"], "needs": (False, True, True), "precision": kind.precision,
    }  # fmt: skip
    return Trial(arguments, expected, returns=("dx", "dw", "db"))


def update(shape: Shape, kind: Arithmetic, nesterov: bool) -> Trial:
    """v <- momentum v - decay lr w - lr dw, w <- w + v or, with Nesterov's momentum, the same once more from the new v;
    and a copy of w in bfloat16."""
    a = operands(shape, kind.dtype)
    where, products = _backward_weight(shape, kind.precision)
    v = numbers("v", shape.neurons, shape.inputs)
    lr, momentum, decay = 0.01, 0.9, 5e-4
    old_w, old_v = (array.reshape(-1)[where].astype(np.float64) for array in (a["w"], v))
    new_v = momentum * old_v - decay * lr * old_w - lr * products.value
    # the hyper-parameters as float32, three products, two sums
    terms = momentum * abs(old_v) + decay * lr * abs(old_w) + lr * products.partial
    bound = lr * error(products, shape.images, kind.precision) + rounding_error(terms, 8)
    step, step_bound = new_v, bound
    if nesterov:
        step = momentum * new_v - decay * lr * old_w - lr * products.value
        step_bound = bound + momentum * bound + rounding_error(momentum * terms, 8)
    w = Values(where, old_w + step, step_bound + rounding_error(abs(old_w) + 2 * terms, 1))
    arguments = {
        "w": a["w"], "v": v, "dy": a["dy"], "x": a["x"], "lr": lr, "momentum": momentum, "decay": decay,
        "precision": kind.precision, "stored": np.full((shape.neurons, shape.inputs), np.nan, bfloat16),
        "nesterov": nesterov,
    }  # fmt: skip
    expected = {"w": w, "v": Values(where, new_v, bound), "stored": w}
    return Trial(arguments, expected, written=("w", "v", "stored"))


def gemm(shape: Shape, kind: Arithmetic, transpose_a: bool, transpose_b: bool) -> Trial:
    """0.5 x w^T - 2 c, with either operand stored as that says or transposed."""
    a = operands(shape, kind.dtype)
    x, w = a["x"], a["w"].astype(kind.dtype)
    c = numbers("c", shape.images, shape.neurons, dtype=kind.dtype)
    where, products = _forward(shape, kind.precision)
    before = -2 * c.reshape(-1)[where].astype(np.float64)
    bound = 0.5 * error(products, shape.inputs, kind.precision) + rounding_error(abs(before) + products.partial, 3)
    arguments = {
        "a": np.ascontiguousarray(x.T) if transpose_a else x, "transpose_a": transpose_a,
        "b": w if transpose_b else np.ascontiguousarray(w.T), "transpose_b": transpose_b,
        "alpha": 0.5, "beta": -2.0, "c": c, "precision": kind.precision,
    }  # fmt: skip
    return Trial(arguments, {"y": Values(where, 0.5 * products.value + before, bound)}, returns=("y",))
