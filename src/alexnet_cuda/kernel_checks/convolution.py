"""Convolutions in every way there is: y_nhwk = b_k + sum over i, j, c of x_(n, h S - P + i, w S - P + j, c) w_kijc, the
gradient dx, which sums over i, j and filters, and dw, which sums over images and pixels of y, with the bias's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import DTypeLike, NDArray

from .. import backend, kernels
from ..kernels import Algorithm, Precision, window_output
from ..kernels.convolution import ConvolutionPass, hopper_takes
from ..models.layers import Conv2d
from . import product, winograd
from .bounds import Floats, Sums, rounding_error
from .check import Cases, Check, Trial, Values
from .drawn import Indices, numbers
from .layers import Scope, rows
from .product import Arithmetic, Blocks, column_sums, sums, ways

Pair = tuple[int, int]
Part = Literal["y", "dx", "dw db"]
PASSES: dict[Part, ConvolutionPass] = {"y": "forward", "dx": "backward_input", "dw db": "backward_weight"}


@dataclass(frozen=True)
class Shape:
    """x (N, H, W, C), w (filters, KH, KW, C / groups), padding ((top, bottom), (left, right))."""

    name: str
    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    groups: int = 1
    ceil: bool = False

    def __str__(self) -> str:
        return f"{self.name}, batch {self.x[0]}"

    @property
    def out(self) -> Pair:
        """Pixels of y."""
        (_, H, W, _), (_, KH, KW, _) = self.x, self.w
        down = window_output(H, KH, self.stride[0], self.padding[0], self.ceil)
        return down, window_output(W, KW, self.stride[1], self.padding[1], self.ceil)

    @property
    def y(self) -> tuple[int, int, int, int]:
        return self.x[0], *self.out, self.w[0]

    @property
    def channels(self) -> int:
        """Of x, in a group."""
        return self.w[3]

    @property
    def filters(self) -> int:
        """In a group."""
        return self.w[0] // self.groups

    @property
    def options(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "groups": self.groups, "ceil": self.ceil}

    def terms(self, part: str) -> int:
        """Of each sum of products."""
        _, KH, KW, _ = self.w
        return {
            "y": KH * KW * self.channels,
            "dx": KH * KW * self.filters,
            "dw db": self.x[0] * self.out[0] * self.out[1],
        }[part]

    def whole(self, part: str, algorithm: str) -> bool:
        """Whether operands are whole numbers, whose sums are exact: not by way of Winograd's fractions."""
        return self.terms(part) >= WHOLE_FROM and algorithm != "winograd"

    def native(self, device: backend.Device) -> Any:
        """The launchers' own description."""
        (N, H, W, C), (K, KH, KW, _), (OH, OW) = self.x, self.w, self.out
        return backend.native(device).Conv2d(
            N=N, H=H, W=W, C=C, K=K, KH=KH, KW=KW, groups=self.groups, OH=OH, OW=OW, stride_h=self.stride[0],
            stride_w=self.stride[1], pad_top=self.padding[0][0], pad_left=self.padding[1][0],
        )  # fmt: skip


ONE = ((1, 1), (1, 1))
TWO = ((2, 2), (2, 2))
SMALL = (
    # Pixels, filters and channels that fill no tile, one and a little more; copied value by value, by fours and eights.
    Shape("one output", (1, 3, 2, 3), (1, 3, 2, 3)),
    Shape("odd sizes", (2, 7, 9, 6), (10, 3, 2, 3), (2, 1), ((1, 0), (2, 1)), groups=2, ceil=True),
    Shape("a tile and a bit", (1, 13, 11, 16), (65, 3, 3, 16), padding=ONE),
    Shape("square, five", (2, 9, 10, 12), (6, 5, 5, 6), padding=TWO, groups=2),
    Shape("strided blocks", (1, 16, 23, 3), (16, 11, 11, 3), (4, 4), ceil=True),
    Shape("strided groups", (2, 9, 10, 16), (32, 4, 6, 8), (2, 3), ((1, 0), (2, 2)), groups=2),
    # For Hopper's boxes of 64 channels and tiles of 256 pixels: one, a part, a second one; groups that share a box.
    Shape("one box", (2, 16, 8, 64), (64, 1, 1, 64)),
    Shape("a tile and a pixel", (1, 257, 1, 64), (8, 1, 1, 64)),
    Shape("parts of boxes", (1, 8, 9, 160), (144, 3, 3, 80), padding=ONE, groups=2),
    Shape("split pixels", (9, 12, 12, 16), (16, 3, 3, 16), padding=ONE),
)
WHOLE_FROM = 1 << 14
"""Terms of a sum from which on operands are small whole numbers. The bound of tensor cores grows with the terms, and
would let the loss of a part of the sum pass; sums of whole numbers are exact in any order, if less than 2^24."""
PIXELS, FILTERS = 4, 32
"""Of y along an axis, and of a group, that are left of a layer of which the whole is too slow."""


def layers(scope: Scope, parts: bool) -> Iterator[Shape]:
    for batch in scope.batches:
        for name, layer, row in rows(Conv2d):
            (H, W, C), (OH, OW, K) = row.input, row.output
            if parts:
                name = f"part of {name}"
                H, W = (n - layer.stride * max(0, out - PIXELS) for n, out in ((H, OH), (W, OW)))
                K = min(K, FILTERS * layer.groups)
            pad = (layer.padding, layer.padding)
            w = K, layer.size, layer.size, C // layer.groups
            yield Shape(name, (batch, H, W, C), w, (layer.stride, layer.stride), (pad, pad), layer.groups, layer.ceil)


def on_gemm(scope: Scope) -> Iterator[Check]:
    """In float32."""
    return _checks(scope, False, ("im2col", "winograd"))


def on_tensor_cores(scope: Scope) -> Iterator[Check]:
    return _checks(scope, True, ("implicit", "space_to_depth"))


def on_hopper(scope: Scope) -> Iterator[Check]:
    """By TMA and wgmma."""
    if scope.capability in (None, (9, 0)):
        return _checks(scope, True, ("hopper",))
    got = ".".join(map(str, scope.capability or ()))
    reason = f"it needs compute capability 9.0, the GPU has {got}"
    return iter([Check(kernels.conv2d, "hopper", (), algorithm="hopper", absent=reason)])


def _checks(scope: Scope, tensor_cores: bool, algorithms: Sequence[Algorithm]) -> Iterator[Check]:
    """Of layers what "auto" chooses is among the algorithms. Ways come one after the other: they share what is
    expected."""
    parts: Sequence[tuple[Part, Callable[..., Any], str, Callable[..., Trial]]] = (
        ("y", kernels.conv2d, "", forward),
        ("dx", kernels.conv2d_backward, "dx", backward_input),
        ("dw db", kernels.conv2d_backward, "dw db", backward_weight),
    )
    small = algorithms if algorithms == ("hopper",) else ("auto", *algorithms)
    some = [way for way in ways(scope.device) if way.kind.tensor_cores == tensor_cores]
    each = layers(scope, tensor_cores and not scope.whole_layers)
    for shapes, tried in ((SMALL, small), *(((shape,), algorithms) for shape in each)):
        for part, kernel, called, trial in parts:
            for way, algorithm in itertools.product(some, tried):
                made = partial(automatic, trial, scope) if algorithm == "auto" else trial
                cases: Cases = [
                    (str(shape), partial(made, shape, way.kind, algorithm))
                    for shape in shapes
                    if takes(shape, algorithm, part, way.kind, scope.device)
                ]
                if cases:
                    yield Check(kernel, f"{way.name} {algorithm}", cases, called, algorithm, way.blas)


def takes(shape: Shape, algorithm: Algorithm, part: Part, kind: Arithmetic, device: backend.Device) -> bool:
    """Whether that way computes it, and not as another one does."""
    native, stored_bfloat16 = shape.native(device), kind.dtype == bfloat16
    if algorithm == "winograd":
        return bool(native.winograd)
    if algorithm == "space_to_depth":
        return max(shape.stride) > 1 and native.space_to_depth(stored_bfloat16)
    if algorithm == "hopper":
        return hopper_takes(native, PASSES[part], kind.precision, stored_bfloat16)
    return True


# ---- operands, and some elements of the products


def operands(shape: Shape, dtype: DTypeLike = np.float32, whole: bool = False) -> dict[str, NDArray[Any]]:
    return {
        "x": numbers("x", *shape.x, dtype=dtype, whole=whole),
        "w": numbers("w", *shape.w),
        "b": numbers("b", shape.w[0]),
        "dy": numbers("dy", *shape.y, dtype=dtype, whole=whole),
    }


def padded(shape: Shape, x: NDArray[Any]) -> NDArray[Any]:
    """x among as many zeros as the windows reach, its channels by group."""
    spans = [(out - 1) * step + size for out, step, size in zip(shape.out, shape.stride, shape.w[1:3], strict=True)]
    around = [
        (before, max(0, span - before - n))
        for span, n, (before, _) in zip(spans, shape.x[1:3], shape.padding, strict=True)
    ]
    if any(map(any, around)):
        x = np.pad(x, ((0, 0), *around, (0, 0)))
    return x.reshape(*x.shape[:3], shape.groups, -1)


def windows(shape: Shape, x: NDArray[Any], pixels: Indices, groups: Indices) -> NDArray[Any]:
    """Of padded x, what these pixels of y see of these groups: (..., KH, KW, channels)."""
    n, oh, ow = np.unravel_index(pixels, (shape.x[0], *shape.out))
    h = (oh * shape.stride[0])[..., None] + np.arange(shape.w[1])
    w = (ow * shape.stride[1])[..., None] + np.arange(shape.w[2])
    return x[n[..., None, None], h[..., :, None], w[..., None, :], groups[..., None, None]]


def covering(shape: Shape, pixels: Indices) -> tuple[Indices, Indices, Indices, NDArray[np.bool_]]:
    """The pixels of y whose windows hold these of x at (i, j): n, oh, ow and whether there is one, (..., KH, KW)."""
    n, *at = np.unravel_index(pixels, shape.x[:3])
    outs, there = [], []
    for place, size, step, (before, _), count in zip(
        at, shape.w[1:3], shape.stride, shape.padding, shape.out, strict=True
    ):
        out, rest = np.divmod(place[..., None] + before - np.arange(size), step)
        outs.append(out.clip(0, count - 1))
        there.append((rest == 0) & (out >= 0) & (out < count))
    return (
        n[..., None, None],
        outs[0][..., :, None],
        outs[1][..., None, :],
        there[0][..., :, None] & there[1][..., None, :],
    )


def _rows(array: NDArray[Any], blocks: Indices) -> NDArray[Any]:
    """(blocks, r, ...) as matrices (blocks, r, terms)."""
    return array.reshape(*blocks.shape, -1)


@lru_cache(maxsize=8)
def elements(shape: Shape, part: str, precision: Precision, whole: bool) -> tuple[Indices, Sums]:
    """Where some elements of the result are, and their sums of products."""
    if part == "y":
        return _forward(shape, precision)
    return _backward_input(shape, precision) if part == "dx" else _backward_weight(shape, precision, whole)


def _forward(shape: Shape, precision: Precision) -> tuple[Indices, Sums]:
    a, G, F, terms = operands(shape), shape.groups, shape.filters, shape.terms("y")
    N, OH, OW, K = shape.y
    blocks = Blocks.draw(N * OH * OW, F, terms, G, edges=(OW - 1, N * OH * OW - OW))
    x, w = padded(shape, a["x"]), a["w"].reshape(G, F, -1)
    products = sums(
        blocks, terms, precision, lambda s, _: _rows(windows(shape, x, s.rows, s.row_groups), s.rows),
        lambda s, _: w[s.column_groups, s.columns],
    )  # fmt: skip
    return blocks.flat(K, 1, F), products


def _backward_input(shape: Shape, precision: Precision) -> tuple[Indices, Sums]:
    a, G, F, terms = operands(shape), shape.groups, shape.filters, shape.terms("dx")
    N, H, W, C = shape.x
    blocks = Blocks.draw(N * H * W, shape.channels, terms, G, edges=(W - 1, N * H * W - W))
    dy = a["dy"].reshape(*shape.y[:3], G, F)
    w = np.ascontiguousarray(a["w"].reshape(G, F, *shape.w[1:]).transpose(0, 4, 2, 3, 1))

    def seen(s: Blocks, _: int) -> NDArray[Any]:
        *at, there = covering(shape, s.rows)
        return _rows(dy[(*at, s.row_groups[..., None, None])] * there[..., None].astype(dy.dtype), s.rows)

    products = sums(blocks, terms, precision, seen, lambda s, _: _rows(w[s.column_groups, s.columns], s.columns))
    return blocks.flat(C, 1, shape.channels), products


def _backward_weight(shape: Shape, precision: Precision, whole: bool) -> tuple[Indices, Sums]:
    a, G, F, terms = operands(shape, whole=whole), shape.groups, shape.filters, shape.terms("dw db")
    N, OH, OW, _ = shape.y
    window = shape.w[1:]
    per_filter = math.prod(window)
    blocks = Blocks.draw(F, per_filter, terms, G)
    x, dy = padded(shape, a["x"]), a["dy"].reshape(N, OH * OW, G, F)
    parts = np.array_split(np.arange(N), max(1, min(N, terms // WHOLE_FROM)))

    def gradients(s: Blocks, part: int) -> NDArray[Any]:
        some = dy[parts[part][0] : parts[part][-1] + 1].reshape(-1, G, F)
        return np.ascontiguousarray(np.moveaxis(some[:, s.row_groups, s.rows], 0, -1))

    def images(s: Blocks, part: int) -> NDArray[Any]:
        some = x[parts[part][0] : parts[part][-1] + 1]
        found = np.empty((s.columns.size, len(some) * OH * OW), x.dtype)
        kh, kw, c = np.unravel_index(s.columns.reshape(-1), window)
        for place, i, j, g, channel in zip(found, kh, kw, s.column_groups.reshape(-1), c, strict=True):
            i_end, j_end = i + shape.stride[0] * OH, j + shape.stride[1] * OW
            place[:] = some[:, i : i_end : shape.stride[0], j : j_end : shape.stride[1], g, channel].reshape(-1)
        return _rows(found, s.columns)

    products = sums(blocks, terms, precision, gradients, images, len(parts), whole)
    return blocks.flat(per_filter, 1, F * per_filter), products


def _judged(shape: Shape, part: Part, kind: Arithmetic, algorithm: str) -> tuple[Indices, Sums, Floats]:
    """As ``elements``, with their bounds."""
    whole = shape.whole(part, algorithm)
    where, products = elements(shape, part, "fp32" if whole else kind.precision, whole)
    if whole:
        return where, products, np.zeros_like(products.value)
    if algorithm != "winograd":
        return where, products, product.error(products, shape.terms(part), kind.precision)
    array, tile = {"y": shape.y, "dx": shape.x, "dw db": shape.w}[part], winograd.outputs_of_tile(shape.w[1])
    tiles = shape.x[0] * math.prod(-(-n // tile) for n in shape.out)
    terms = {"y": shape.channels, "dx": shape.filters, "dw db": tiles}[part]
    _, row, column, _ = np.unravel_index(where, array)
    of_filter = part == "dw db"
    return where, products, winograd.error(products, terms, shape.w[1], row, column, of_filter)


# ---- trials


def forward(shape: Shape, kind: Arithmetic, algorithm: str) -> Trial:
    a = operands(shape, kind.dtype)
    where, products, bound = _judged(shape, "y", kind, algorithm)
    b = a["b"].astype(np.float64)[where % shape.w[0]]
    y = Values(where, np.maximum(products.value + b, 0), bound + rounding_error(abs(b) + products.partial, 2))
    arguments = {
        "x": a["x"], "w": a["w"], "b": a["b"], "relu": True, "precision": kind.precision, "algorithm": algorithm,
        **shape.options,
    }  # fmt: skip
    return Trial(arguments, {"y": y}, returns=("y",))


def automatic(trial: Callable[..., Trial], scope: Scope, shape: Shape, kind: Arithmetic, algorithm: Algorithm) -> Trial:
    """A trial of "auto", with the bounds of what that is on this device."""
    native, dtype = shape.native(scope.device), kind.dtype
    chosen = kernels.conv2d_algorithm(native, kind.precision, scope.capability, algorithm, dtype=dtype)
    made = trial(shape, kind, chosen)
    return replace(made, arguments={**made.arguments, "algorithm": algorithm})


def backward_input(shape: Shape, kind: Arithmetic, algorithm: str) -> Trial:
    """The mask is x, as if that came out of a ReLU."""
    a = operands(shape, kind.dtype)
    where, products, bound = _judged(shape, "dx", kind, algorithm)
    above = a["x"].reshape(-1)[where].astype(np.float32) > 0
    arguments = {
        "dy": a["dy"], "x": a["x"], "w": a["w"], "needs": (True, False, False), "mask": a["x"],
        "precision": kind.precision, "algorithm": algorithm, **shape.options,
    }  # fmt: skip
    return Trial(arguments, {"dx": Values(where, products.value * above, bound * above)}, returns=("dx", "dw", "db"))


def backward_weight(shape: Shape, kind: Arithmetic, algorithm: str) -> Trial:
    a = operands(shape, kind.dtype, shape.whole("dw db", algorithm))
    where, products, bound = _judged(shape, "dw db", kind, algorithm)
    arguments = {
        "dy": a["dy"], "x": a["x"], "w": a["w"], "needs": (False, True, True), "precision": kind.precision,
        "algorithm": algorithm, **shape.options,
    }  # fmt: skip
    expected = {"dw": Values(where, products.value, bound), "db": column_sums(a["dy"])}
    return Trial(arguments, expected, returns=("dx", "dw", "db"))
