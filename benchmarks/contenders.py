"""Who computes a pass of a layer: our kernels in each way they know, NumPy, CuPy and PyTorch; and the exact result.

All get the same float32 arrays, images NHWC, and bring them into the layout and the type that they take before they are
timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, get_args

import numpy as np
from layers import Conv, Dropout, Layer, Linear, LinearSgd, Lrn, LrnPool, Pool, Relu, Sgd, SoftmaxCrossEntropy
from ml_dtypes import bfloat16

from alexnet_cuda import backend, kernels
from alexnet_cuda.kernels import Algorithm, Precision
from alexnet_cuda.kernels.convolution import ConvolutionPass, hopper_takes
from alexnet_cuda.kernels.normalisation import one_pass_pays

OURS = "alexnet_cuda"
PRECISIONS = get_args(Precision)
PASSES: dict[str, ConvolutionPass] = {
    "forward": "forward",
    "input gradient": "backward_input",
    "weight gradient": "backward_weight",
}
LR, MOMENTUM, DECAY = 0.01, 0.9, 5e-4

Array = Any
Operands = dict[str, Array]
Call = Callable[[], Array]


@dataclass(frozen=True)
class Candidate:
    library: str
    form: str
    """Of several ways that the library has: an algorithm, a memory layout."""
    make: Callable[[Operands], Call]
    auto: bool | None = None
    """Of ours: whether that is what our kernels do when nobody asks for a way."""

    @property
    def name(self) -> str:
        return f"{self.library} {self.form}".rstrip()


def precisions(layer: Layer) -> tuple[Precision, ...]:
    """Those that differ for the layer."""
    if isinstance(layer, (Conv, Linear, LinearSgd)):
        return PRECISIONS
    return ("fp32",) if isinstance(layer, (SoftmaxCrossEntropy, Sgd)) else ("fp32", "bf16")


def stored(layer: Layer) -> tuple[str, ...]:
    """The operands that a precision rounds, and bf16 stores so."""
    return ("x", "dy") if isinstance(layer, LinearSgd) else ("x", "w", "dy")


def candidates(layer: Layer, which: str, precision: Precision, device: str, with_torch: bool) -> list[Candidate]:
    """Who competes. Arrays of NumPy and CuPy have no bfloat16, and tf32 only through PyTorch's cuBLAS."""
    found = ours(layer, which, precision, backend.device(device))
    if precision == "fp32" and (device == "cpu" or isinstance(layer, Linear)):
        # Products are written alike: CuPy's run in cuBLAS.
        found.append(Candidate("NumPy" if device == "cpu" else "CuPy", "", partial(with_numpy, layer, which)))
    if with_torch:
        layouts = ("NCHW", "NHWC") if isinstance(layer, (Conv, Pool, Lrn, LrnPool, Relu)) else ("",)
        for form in (*layouts, *(("NHWC, shifted adds",) if isinstance(layer, (Lrn, LrnPool)) else ())):
            found.append(Candidate("PyTorch", form, partial(torch_pass, layer, which, precision, form)))
    return found


def operands(layer: Layer, batch: int, xp: Any) -> Operands:
    """Random arrays, drawn where they are used: images NHWC, dy of the output's shape."""
    rng = xp.random.default_rng(7)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape, dtype=xp.float32)

    match layer:
        case Conv():
            x, dy = normal(batch, layer.H, layer.H, layer.C), normal(batch, layer.OH, layer.OH, layer.K)
            return {
                "x": x,
                "w": normal(layer.K, layer.k, layer.k, layer.C // layer.groups),
                "b": normal(layer.K),
                "dy": dy,
            }
        case Linear():
            x, dy = normal(batch, layer.inputs), normal(batch, layer.outputs)
            return {"x": x, "w": normal(layer.outputs, layer.inputs), "b": normal(layer.outputs), "dy": dy}
        case LinearSgd(linear):
            w, v = (normal(linear.outputs, linear.inputs) for _ in range(2))
            return {"x": normal(batch, linear.inputs), "dy": normal(batch, linear.outputs), "w": w, "v": v}
        case Pool():
            return {"x": normal(batch, layer.H, layer.H, layer.C), "dy": normal(batch, layer.OH, layer.OH, layer.C)}
        case LrnPool(first, pool):
            x = 10 * normal(batch, first.H, first.H, first.C)
            return {"x": x, "dy": normal(batch, pool.OH, pool.OH, pool.C)}
        case Lrn() | Relu():
            shape = batch, layer.H, layer.H, layer.C
            return {"x": 10 * normal(*shape), "dy": normal(*shape)}
        case SoftmaxCrossEntropy():
            labels = rng.integers(0, layer.classes, size=batch, dtype=xp.int32)
            return {"x": normal(batch, layer.classes), "labels": labels}
        case Sgd():
            return {name: normal(layer.parameters) for name in ("w", "v", "g")}
        case Dropout():
            raise ValueError("dropout has no pass of its own")


def rounded(x: Array, precision: str) -> Array:
    """A NumPy array as a product of that precision sees it, in float64: tf32 has 10 bits after the point (ties go away
    from zero), bf16 has 7 (ties to even)."""
    if precision == "tf32":
        x = (x.view(np.uint32) + np.uint32(0x1000) & np.uint32(0xFFFFE000)).view(np.float32)
    return x.astype(bfloat16 if precision == "bf16" else x.dtype).astype(np.float64)


def exact(layer: Layer, which: str, precision: Precision, a: Operands) -> Array:
    """The pass in float64 of NumPy arrays, after rounding what the precision rounds."""
    wide = {
        name: array if array.dtype.kind == "i" else rounded(array, precision if name in stored(layer) else "fp32")
        for name, array in a.items()
    }
    return with_numpy(layer, which, wide)()


def without_ties(layer: LrnPool, x: Array, dy: Array, gap: float) -> Array:
    """dy, but 0 where the two largest of a window are within `gap`: their order is a matter of rounding."""
    y = numpy_lrn(layer.lrn, "forward", x.astype(np.float64), x)
    second, first = np.sort(np.stack([y[corner] for corner in pool_corners(layer.pool)]), axis=0)[-2:]
    return np.where(first - second > gap * np.abs(first), dy, 0).astype(dy.dtype)


# ---- ours


def algorithms(
    layer: Conv,
    which: str,
    precision: Precision,
    native: ModuleType,
    capability: tuple[int, int] | None,
    dtype: Any = np.float32,
) -> dict[Algorithm, bool]:
    """What can compute a pass of a convolution on such a device, its arrays stored as ``dtype``, and whether "auto"
    chooses it; space_to_depth only where it is not "implicit" over again."""
    window = {"stride_h": layer.stride, "stride_w": layer.stride, "pad_top": layer.padding, "pad_left": layer.padding}
    sizes = {"N": 1, "H": layer.H, "W": layer.H, "C": layer.C, "OH": layer.OH, "OW": layer.OH}
    filters = {"K": layer.K, "KH": layer.k, "KW": layer.k, "groups": layer.groups}
    shape = native.Conv2d(**sizes, **window, **filters)
    chosen, in_bfloat16 = kernels.conv2d_algorithm(shape, precision, capability, dtype=dtype), dtype == bfloat16
    takes = {
        "hopper": hopper_takes(shape, PASSES[which], precision, in_bfloat16),
        "space_to_depth": shape.space_to_depth_pays(in_bfloat16),
    }
    found: dict[Algorithm, bool] = {}
    for algorithm in get_args(Algorithm):
        try:
            one = kernels.conv2d_algorithm(shape, precision, capability, algorithm, dtype=dtype)
        except ValueError:  # it cannot compute this
            continue
        if takes.get(one, True):
            found[one] = one == chosen
    return found


def as_convolution(layer: Linear) -> Conv:
    """The same products, of images of one pixel."""
    return Conv(layer.name, 1, layer.inputs, layer.outputs, 1)


def ours(layer: Layer, which: str, precision: Precision, where: backend.Device) -> list[Candidate]:
    """All ways of our kernels. Arrays are stored as a network of that precision has them; in bf16 products also take
    float32, which they round."""
    own, float32 = kernels.storage(precision), kernels.storage("fp32")

    def way(form: str, auto: bool, dtype: Any = own, **options: Any) -> Candidate:
        def make(a: Operands) -> Call:
            a = a | {name: kernels.cast(a[name], dtype) for name in stored(layer) if name in a}
            return our_pass(layer, which, a, where, **options)

        return Candidate(OURS, form if dtype == own else f"{form} on float32".lstrip(), make, auto)

    match layer:
        case Conv():
            native, capability = backend.native(where), backend.capability(where)
            return [
                way(algorithm, auto and dtype == own, dtype, precision=precision, algorithm=algorithm)
                for dtype in dict.fromkeys((own, float32))
                for algorithm, auto in algorithms(layer, which, precision, native, capability, dtype).items()
            ]
        case Linear():
            native, capability = backend.native(where), backend.capability(where)
            found = [way("", dtype == own, dtype, precision=precision) for dtype in dict.fromkeys((own, float32))]
            if "hopper" in algorithms(as_convolution(layer), which, precision, native, capability, own):
                found.append(way("hopper", False, precision=precision, algorithm="hopper"))
            return found
        case LinearSgd() if precision != "fp32":
            return [
                way("one kernel", True, precision=precision),
                way("separately", False, precision=precision, fused=False),
            ]
        case LrnPool():
            one_pass = which == "forward" or one_pass_pays(where)
            return [way("one pass", one_pass), way("two kernels", not one_pass, fused=False)]
        case _:
            return [way("", True)]


def our_pass(layer: Layer, which: str, a: Operands, where: backend.Device, **options: Any) -> Call:
    """`options`: precision and algorithm of a product; whether two operations are `fused`."""

    def scalar(value: float) -> Array:
        """Lies on the device before the call: a graph takes no values from the host."""
        return backend.from_host(np.array(value, np.float32), where)

    fused = options.pop("fused", True)
    match layer:
        case Conv():
            window = (layer.stride, layer.padding, layer.groups)
            if which == "forward":
                return lambda: kernels.conv2d(a["x"], a["w"], a["b"], *window, **options)
            needs = (which == "input gradient", which == "weight gradient", False)
            backward = partial(kernels.conv2d_backward, a["dy"], a["x"], a["w"], *window, needs=needs, **options)
            return lambda: backward()[needs.index(True)]
        case Linear() if "algorithm" in options:
            pixels = {name: array if array.ndim == 1 else array[:, None, None] for name, array in a.items()}
            run = our_pass(as_convolution(layer), which, pixels, where, **options)
            return lambda: run()[:, 0, 0]
        case Linear():
            if which == "forward":
                return lambda: kernels.linear(a["x"], a["w"], a["b"], **options)
            needs = (which == "input gradient", which == "weight gradient", False)
            return lambda: kernels.linear_backward(a["dy"], a["x"], a["w"], needs, **options)[needs.index(True)]
        case Pool():
            if which == "forward":
                return lambda: kernels.max_pool2d(a["x"], layer.k, layer.stride)[0]
            places = kernels.max_pool2d(a["x"], layer.k, layer.stride)[1]
            return lambda: kernels.max_pool2d_backward(a["dy"], places, a["x"].shape, layer.k, layer.stride)
        case Lrn():
            values = (layer.n, layer.k, layer.alpha, layer.beta, layer.groups)
            if which == "forward":
                return lambda: kernels.lrn(a["x"], *values)
            return lambda: kernels.lrn_backward(a["dy"], a["x"], *values)
        case LrnPool(lrn, pool):
            values, windows = (lrn.n, lrn.k, lrn.alpha, lrn.beta, lrn.groups), (pool.k, pool.stride)

            def pooled() -> tuple[Array, Array]:
                if fused:
                    return kernels.lrn_max_pool2d(a["x"], *values, *windows)
                return kernels.max_pool2d(kernels.lrn(a["x"], *values), *windows)

            def gradient() -> Array:
                return kernels.lrn_max_pool2d_backward(a["dy"], places, a["x"], *values, *windows, one_pass=fused)

            places = pooled()[1]
            return gradient if which == "backward" else lambda: pooled()[0]
        case Relu():
            if which == "forward":
                return lambda: kernels.relu(a["x"])
            y = kernels.relu(a["x"])
            return lambda: kernels.relu_backward(a["dy"], y)
        case SoftmaxCrossEntropy():
            if which == "forward":
                return lambda: kernels.softmax_cross_entropy(a["x"], a["labels"])[0]
            p, one = kernels.softmax(a["x"]), scalar(1.0)
            return lambda: kernels.softmax_cross_entropy_backward(p, a["labels"], one)
        case LinearSgd():
            lr, precision = scalar(1 / len(a["dy"])), options.get("precision", "fp32")
            copy = kernels.cast(a["w"], bfloat16) if a["x"].dtype == bfloat16 else None

            def train() -> Array:
                if fused:
                    kernels.linear_sgd(a["w"], a["v"], a["dy"], a["x"], lr, MOMENTUM, DECAY, precision, copy)
                else:
                    g = kernels.linear_backward(a["dy"], a["x"], a["w"], (False, True, False), precision)[1]
                    kernels.sgd(a["w"], a["v"], g, lr, MOMENTUM, DECAY)
                    if copy is not None:
                        kernels.cast(a["w"], bfloat16, out=copy)
                return a["w"]

            return train
        case Sgd():
            lr = scalar(LR)

            def update() -> Array:
                kernels.sgd(a["w"], a["v"], a["g"], lr, MOMENTUM, DECAY)
                return a["w"]

            return update
        case Dropout():
            raise ValueError("dropout has no pass of its own")


# ---- NumPy: a candidate in float32, the reference in float64


def numpy_columns(x: Array, layer: Conv) -> Array:
    """im2col: (groups, N OH OW, k k C / groups)."""
    p = layer.padding
    x = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (layer.k, layer.k), axis=(1, 2))
    windows = windows[:, :: layer.stride, :: layer.stride]  # N OH OW C k k
    N, OH, OW, C = windows.shape[:4]
    windows = windows.reshape(N, OH, OW, layer.groups, C // layer.groups, layer.k, layer.k)
    return windows.transpose(3, 0, 1, 2, 5, 6, 4).reshape(layer.groups, N * OH * OW, -1)


def numpy_conv(layer: Conv, which: str, x: Array, w: Array, b: Array, dy: Array) -> Array:
    G, k, s, p = layer.groups, layer.k, layer.stride, layer.padding
    filters = w.reshape(G, layer.K // G, -1)
    rows = np.moveaxis(dy.reshape(-1, G, layer.K // G), 1, 0)
    if which == "forward":
        y = np.moveaxis(numpy_columns(x, layer) @ filters.transpose(0, 2, 1), 0, 1)
        return y.reshape(dy.shape) + b
    if which == "weight gradient":
        return (rows.transpose(0, 2, 1) @ numpy_columns(x, layer)).reshape(w.shape)
    columns = np.moveaxis(rows @ filters, 0, 1).reshape(*dy.shape[:3], G, k, k, layer.C // G)
    dx = np.zeros((len(x), layer.H + 2 * p, layer.H + 2 * p, layer.C), dy.dtype)
    for i in range(k):
        for j in range(k):
            to = dx[:, i : i + s * layer.OH : s, j : j + s * layer.OH : s]
            to += columns[:, :, :, :, i, j].reshape(to.shape)
    return dx[:, p : p + layer.H, p : p + layer.H]


def pool_corners(layer: Pool) -> list[tuple[slice, ...]]:
    """For each place in a window the pixels that are there in some window."""
    k, s, n = layer.k, layer.stride, layer.stride * layer.OH
    return [(slice(None), slice(i, i + n, s), slice(j, j + n, s)) for i in range(k) for j in range(k)]


def numpy_pool(layer: Pool, which: str, x: Array, dy: Array) -> Array:
    corners = pool_corners(layer)
    views = [x[corner] for corner in corners]
    if which == "forward":
        y = views[0].copy()
        for view in views[1:]:
            np.maximum(y, view, out=y)
        return y
    first = np.stack(views).argmax(axis=0)
    dx = np.zeros(x.shape, dy.dtype)
    for place, corner in enumerate(corners):
        dx[corner] += np.where(first == place, dy, 0)
    return dx


def numpy_window(x: Array, n: int) -> Array:
    """Sums over the n channels around each, n odd."""
    total = x.copy()
    for i in range(1, n // 2 + 1):
        total[..., i:] += x[..., :-i]
        total[..., :-i] += x[..., i:]
    return total


def numpy_lrn(layer: Lrn, which: str, x: Array, dy: Array) -> Array:
    s = layer.k + layer.alpha * numpy_window(x * x, layer.n)
    power = s**-layer.beta
    if which == "forward":
        return x * power
    return dy * power - 2 * layer.alpha * layer.beta * x * numpy_window(dy * x * power / s, layer.n)


def numpy_lrn_pool(layer: LrnPool, which: str, x: Array, dy: Array) -> Array:
    y = numpy_lrn(layer.lrn, "forward", x, x)
    if which == "forward":
        return numpy_pool(layer.pool, which, y, dy)
    return numpy_lrn(layer.lrn, which, x, numpy_pool(layer.pool, which, y, dy))


def numpy_loss(which: str, x: Array, labels: Array) -> Array:
    rows = np.arange(len(x))
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    if which == "forward":
        return np.asarray(-np.log(p[rows, labels]).mean())
    p[rows, labels] -= 1
    p /= len(x)
    return p


def numpy_sgd(w: Array, v: Array, g: Array, lr: float = LR) -> Array:
    v *= MOMENTUM
    v -= lr * (g + DECAY * w)
    w += v
    return w


def with_numpy(layer: Layer, which: str, a: Operands) -> Call:
    match layer:
        case Conv():
            return lambda: numpy_conv(layer, which, **a)
        case Linear():
            products: dict[str, Call] = {
                "forward": lambda: a["x"] @ a["w"].T + a["b"],
                "input gradient": lambda: a["dy"] @ a["w"],
                "weight gradient": lambda: a["dy"].T @ a["x"],
            }
            return products[which]
        case LinearSgd():
            return lambda: numpy_sgd(a["w"], a["v"], a["dy"].T @ a["x"], 1 / len(a["dy"]))
        case Pool():
            return lambda: numpy_pool(layer, which, **a)
        case Lrn():
            return lambda: numpy_lrn(layer, which, **a)
        case LrnPool():
            return lambda: numpy_lrn_pool(layer, which, **a)
        case Relu():
            if which == "forward":
                return lambda: np.maximum(a["x"], 0)
            return lambda: np.where(a["x"] > 0, a["dy"], 0)
        case SoftmaxCrossEntropy():
            return lambda: numpy_loss(which, **a)
        case Sgd():
            return lambda: numpy_sgd(**a)
        case Dropout():
            raise ValueError("dropout has no pass of its own")


# ---- PyTorch


def torch_pass(layer: Layer, which: str, precision: Precision, form: str, a: Operands) -> Call:
    """The same pass on tensors made of the same arrays, within peer.precision."""
    import peer
    import torch
    import torch.nn.functional as F

    t = {name: torch.from_dlpack(array) for name, array in a.items()}
    for name, tensor in t.items():
        if precision == "bf16" and tensor.is_floating_point() and (name in stored(layer) or name == "b"):
            tensor = tensor.bfloat16()
        if tensor.ndim == 4:
            tensor = tensor.permute(0, 3, 1, 2).contiguous(memory_format=peer.LAYOUTS[form[:4]])
        t[name] = tensor
    lrn = peer.lrn_shifted if form.endswith("shifted adds") else peer.lrn

    def gradient(y: Any, x: Any, dy: Any) -> Call:
        return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)[0]

    function: Callable[[Any], Any]
    match layer:
        case Conv():
            return lambda: peer.conv_pass(layer, which, t["x"], t["w"], t["dy"], t["b"])
        case Linear():
            return lambda: peer.linear_pass(which, t["x"], t["w"], t["dy"], t["b"])
        case Sgd() | LinearSgd():
            w, lr = t["w"].clone(), LR if isinstance(layer, Sgd) else 1 / len(t["dy"])
            optimizer = torch.optim.SGD([w], lr, momentum=MOMENTUM, weight_decay=DECAY, fused=True)
            optimizer.state[w]["momentum_buffer"] = t["v"] / -lr  # PyTorch's momentum holds no rate

            def update() -> Any:
                w.grad = t["g"] if isinstance(layer, Sgd) else (t["dy"].t() @ t["x"]).float()
                optimizer.step()
                return w

            return update
        case SoftmaxCrossEntropy():
            labels = t["labels"].long()
            if which == "forward":
                return lambda: F.cross_entropy(t["x"], labels)
            x = t["x"].requires_grad_()
            loss = F.cross_entropy(x, labels)
            return gradient(loss, x, torch.ones_like(loss))
        case Dropout():
            raise ValueError("dropout has no pass of its own")
        case Pool():
            function = partial(peer.max_pool, layer=layer)
        case Lrn():
            function = partial(lrn, layer=layer)
        case LrnPool():
            function = partial(peer.lrn_and_pool, lrn, layer)
        case Relu():
            function = F.relu
    if which == "forward":
        return lambda: function(t["x"])
    x = t["x"].requires_grad_()
    return gradient(function(x), x, t["dy"])
