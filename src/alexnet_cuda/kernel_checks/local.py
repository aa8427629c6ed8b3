"""Convolutions whose filters are not shared: y_nhwk = b_hwk + sum over i, j, c of x_(n, h S - P + i, w S - P + j, c)
w_hwkijc, with the gradients dx, dw and db, which sum over windows, images and images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..models.layers import Local2d
from .bounds import Sums, sum_error
from .check import Cases, Check, Trial, Values
from .convolution import ONE, Shape, covering, padded, windows
from .drawn import numbers, places
from .layers import Scope, rows
from .product import KINDS, column_sums, ways

SMALL = (
    Shape("odd sizes", (2, 7, 9, 6), (4, 3, 2, 3), (2, 1), ((1, 0), (2, 1)), groups=2, ceil=True),
    Shape("one output", (1, 3, 2, 3), (1, 3, 2, 3)),
    Shape("fours", (3, 4, 5, 8), (12, 3, 3, 8), padding=ONE),
)


def checks(scope: Scope) -> Iterator[Check]:
    for way in ways(scope.device):
        if way.kind is not KINDS[0]:  # it takes float32 alone
            continue
        for shapes in (SMALL, *((shape,) for shape in layers(scope))):
            for kernel, part, trial in (
                (kernels.local2d, "", forward),
                (kernels.local2d_backward, "dx", backward_input),
                (kernels.local2d_backward, "dw db", backward_weight),
            ):
                cases: Cases = [(str(shape), partial(trial, shape)) for shape in shapes]
                yield Check(kernel, way.name, cases, part, blas=way.blas)


def layers(scope: Scope) -> Iterator[Shape]:
    for batch in scope.batches:
        for name, layer, row in rows(Local2d):
            pad, (H, W, C) = (layer.padding, layer.padding), row.input
            w = layer.channels, layer.size, layer.size, C // layer.groups
            stride = layer.stride, layer.stride
            yield Shape(name, (batch, H, W, C), w, stride, (pad, pad), layer.groups, layer.ceil)


def operands(shape: Shape) -> dict[str, NDArray[Any]]:
    return {
        "x": numbers("x", *shape.x),
        "w": numbers("w", *shape.out, *shape.w),
        "b": numbers("b", *shape.out, shape.w[0]),
        "dy": numbers("dy", *shape.y),
    }


def forward(shape: Shape) -> Trial:
    a, K = operands(shape), shape.w[0]
    where = places(a["dy"].size)
    _, oh, ow, k = np.unravel_index(where, shape.y)
    seen = windows(shape, padded(shape, a["x"]), where // K, k // shape.filters)
    terms = (seen.astype(np.float64) * a["w"][oh, ow, k]).reshape(len(where), -1)
    sums = Sums.over(np.append(terms, a["b"][oh, ow, k][:, None], axis=1), axis=1)
    y = Values(where, np.maximum(sums.value, 0), sum_error(sums, terms.shape[1] + 1))
    return Trial({"x": a["x"], "w": a["w"], "b": a["b"], "relu": True, **shape.options}, {"y": y}, returns=("y",))


def backward_input(shape: Shape) -> Trial:
    a, G, C = operands(shape), shape.groups, shape.channels
    where = places(a["x"].size)
    g, c = np.divmod(where % (G * C), C)
    n, oh, ow, there = covering(shape, where // (G * C))
    dy = a["dy"].reshape(*shape.y[:3], G, -1)[n, oh, ow, g[:, None, None]] * there[..., None]
    w = np.moveaxis(a["w"].reshape(*shape.out, G, -1, *shape.w[1:]), 3, -1)  # (OH, OW, G, KH, KW, C, filters)
    i, j = np.arange(shape.w[1])[:, None], np.arange(shape.w[2])
    terms = dy.astype(np.float64) * w[oh, ow, g[:, None, None], i, j, c[:, None, None]]
    sums = Sums.over(terms.reshape(len(where), -1), axis=1)
    dx = Values(where, sums.value, sum_error(sums, shape.terms("dx")))
    arguments = {"dy": a["dy"], "x": a["x"], "w": a["w"], "needs": (True, False, False), **shape.options}
    return Trial(arguments, {"dx": dx}, returns=("dx", "dw", "db"))


def backward_weight(shape: Shape) -> Trial:
    a, N = operands(shape), shape.x[0]
    where = places(a["w"].size)
    oh, ow, k, kh, kw, c = np.unravel_index(where, a["w"].shape)
    x = padded(shape, a["x"])[:, oh * shape.stride[0] + kh, ow * shape.stride[1] + kw, k // shape.filters, c]
    products = Sums.over(a["dy"][:, oh, ow, k].astype(np.float64) * x, axis=0)
    dw = Values(where, products.value, sum_error(products, N))
    expected = {"dw": dw, "db": column_sums(a["dy"].reshape(N, -1))}
    arguments = {"dy": a["dy"], "x": a["x"], "w": a["w"], "needs": (False, True, True), **shape.options}
    return Trial(arguments, expected, returns=("dx", "dw", "db"))
