"""Each layer and pass of AlexNet: ours beside NumPy and PyTorch on a CPU, beside PyTorch, CuPy and the floor on a GPU.

Alternating rounds in one process, random data, float32. The error beside each time is ||out - ref|| / ||ref|| against
NumPy in float64, on at most 8 images; our outputs are poisoned first, so that what is never written shows.

    python benchmarks/layer_bench.py --device cpu --layer conv2 --batch 16
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import layers
import numpy as np
import timing
from devices import captured, ceilings, clock_on
from layers import Conv, Dropout, Layer, Linear, Lrn, Pool, Relu, Sgd, SoftmaxCrossEntropy
from timing import Row

from alexnet_cuda import backend, kernels

OURS = "alexnet_cuda"
LR, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
TOLERANCE = 1e-5
ROTATE = 256 << 20  # bytes that one sample on a GPU walks through, so that no buffer is found in the cache
CHECKED_IMAGES = 8

Array = Any
Operands = dict[str, Array]
Call = Callable[[], Array]


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
        case Pool():
            return {"x": normal(batch, layer.H, layer.H, layer.C), "dy": normal(batch, layer.OH, layer.OH, layer.C)}
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


# ---- ours


def ours(layer: Layer, which: str, a: Operands) -> Call:
    where = backend.device_of(next(iter(a.values())))

    def scalar(value: float) -> Array:
        """Lies on the device before the call: a graph takes no values from the host."""
        return backend.from_host(np.array(value, np.float32), where)

    match layer:
        case Conv():
            window = (layer.stride, layer.padding, layer.groups)
            if which == "forward":
                return lambda: kernels.conv2d(a["x"], a["w"], a["b"], *window)
            needs = (which == "input gradient", which == "weight gradient", False)
            backward = partial(kernels.conv2d_backward, a["dy"], a["x"], a["w"], *window, needs=needs)
            return lambda: backward()[needs.index(True)]
        case Linear():
            if which == "forward":
                return lambda: kernels.linear(a["x"], a["w"], a["b"])
            needs = (which == "input gradient", which == "weight gradient", False)
            return lambda: kernels.linear_backward(a["dy"], a["x"], a["w"], needs)[needs.index(True)]
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


def numpy_pool(layer: Pool, which: str, x: Array, dy: Array) -> Array:
    k, s, n = layer.k, layer.stride, layer.stride * layer.OH
    corners = [(i, j) for i in range(k) for j in range(k)]
    views = [x[:, i : i + n : s, j : j + n : s] for i, j in corners]
    if which == "forward":
        y = views[0].copy()
        for view in views[1:]:
            np.maximum(y, view, out=y)
        return y
    first = np.stack(views).argmax(axis=0)
    dx = np.zeros(x.shape, dy.dtype)
    for place, (i, j) in enumerate(corners):
        dx[:, i : i + n : s, j : j + n : s] += np.where(first == place, dy, 0)
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


def numpy_loss(which: str, x: Array, labels: Array) -> Array:
    rows = np.arange(len(x))
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    if which == "forward":
        return np.asarray(-np.log(p[rows, labels]).mean())
    p[rows, labels] -= 1
    p /= len(x)
    return p


def numpy_sgd(w: Array, v: Array, g: Array) -> Array:
    v *= MOMENTUM
    v -= LR * (g + DECAY * w)
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
        case Pool():
            return lambda: numpy_pool(layer, which, **a)
        case Lrn():
            return lambda: numpy_lrn(layer, which, **a)
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


def with_torch(layer: Layer, which: str, a: Operands, layout: str) -> Call:
    """The same pass on tensors of a memory format, drawn from the same arrays."""
    import peer
    import torch
    import torch.nn.functional as F

    t = {name: torch.from_dlpack(array) for name, array in a.items()}
    for name, tensor in t.items():
        if tensor.ndim == 4:
            t[name] = tensor.permute(0, 3, 1, 2).contiguous(memory_format=peer.LAYOUTS[layout])

    def gradient(y: Any, x: Any, dy: Any) -> Call:
        return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)[0]

    function: Callable[[Any], Any]
    match layer:
        case Conv():
            return lambda: peer.conv_pass(layer, which, t["x"], t["w"], t["dy"], t["b"])
        case Linear():
            return lambda: peer.linear_pass(which, t["x"], t["w"], t["dy"], t["b"])
        case Sgd():
            w = t["w"].clone()
            w.grad = t["g"]
            optimizer = torch.optim.SGD([w], LR, momentum=MOMENTUM, weight_decay=DECAY, fused=True)
            optimizer.state[w]["momentum_buffer"] = t["v"] / -LR  # PyTorch's momentum holds no rate

            def update() -> Any:
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
            function = partial(F.max_pool2d, kernel_size=layer.k, stride=layer.stride)
        case Lrn():
            function = partial(peer.lrn, layer=layer)
        case Relu():
            function = F.relu
    if which == "forward":
        return lambda: function(t["x"])
    x = t["x"].requires_grad_()
    return gradient(function(x), x, t["dy"])


def host(result: Array) -> np.ndarray:
    """A result of any library as a NumPy array in NHWC order."""
    if type(result).__module__.startswith("torch"):
        result = result.detach().cpu()
        return np.asarray(result.permute(0, 2, 3, 1) if result.ndim == 4 else result)
    return backend.to_host(result)


# ---- what is measured


def libraries(layer: Layer, device: str, with_pytorch: bool) -> dict[str, Callable[[Layer, str, Operands], Call]]:
    """Who competes in a layer."""
    found: dict[str, Callable[[Layer, str, Operands], Call]] = {OURS: ours}
    if device == "cpu":
        found["NumPy"] = with_numpy
    elif isinstance(layer, Linear):
        found["CuPy"] = with_numpy  # products are written alike: CuPy's run in cuBLAS
    if with_pytorch:
        for layout in ("NCHW", "NHWC") if hasattr(layer, "H") else ("NCHW",):
            name = f"PyTorch {layout}" if hasattr(layer, "H") else "PyTorch"
            found[name] = partial(with_torch, layout=layout)
    return found


def measure(
    layer: Layer, which: str, batch: int, arguments: argparse.Namespace, limits: Row, clock: timing.Clock
) -> list[Row]:
    """One row a library. An output that is wrong or not finite is a failure, not a figure."""
    device = arguments.device
    xp = backend.array_module(backend.device(device))
    traffic, arithmetic = layers.traffic(layer, which, batch, 4), layers.flop(layer, batch)
    rows: dict[str, Row] = {}
    candidates: dict[str, Callable[[], object]] = {}

    few = operands(layer, min(batch, CHECKED_IMAGES), xp)
    wide = {name: backend.to_host(array) for name, array in few.items()}
    wide = {name: array if array.dtype.kind == "i" else array.astype(np.float64) for name, array in wide.items()}
    reference = with_numpy(layer, which, wide)()
    copies = 1 if device == "cpu" else max(1, min(64, math.ceil(ROTATE / traffic)))
    sets = [operands(layer, batch, xp) for _ in range(copies)]
    for library, make in libraries(layer, device, arguments.torch).items():
        row: Row = {"layer": layer.name, "pass": which, "batch": batch, "towers": arguments.towers, "library": library}
        rows[library] = row
        try:
            backend.poison(True)
            try:
                out = host(make(layer, which, {name: array.copy() for name, array in few.items()})())
            finally:
                backend.poison(False)
            row["error"] = timing.relative_error(out, reference)
            if library == OURS and row["error"] > TOLERANCE:
                raise ArithmeticError(f"the error {row['error']:.1e} exceeds {TOLERANCE:g}")
            calls = [make(layer, which, a) for a in sets]
            candidates[library] = graph_of(calls, device, library)
        except Exception as error:  # one failing figure must not cost the others
            row["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    for library, times in clock.alternate(candidates, arguments.rounds).items():
        row = rows[library] | timing.summary([ms / copies for ms in times])
        row |= {"gflop_s": arithmetic / row["ms"] / 1e6 if arithmetic else None, "gb_s": traffic / row["ms"] / 1e6}
        if limits:
            row["floor_ms"] = max(arithmetic / limits["product"], traffic / limits["copy"]) / 1e9
        rows[library] = row
    return list(rows.values())


def graph_of(calls: list[Call], device: str, library: str) -> Callable[[], object]:
    """The calls one after the other; on a GPU captured, by the library whose memory they take."""

    def run() -> list[Array]:
        return [call() for call in calls]

    if device != "cpu" and library.startswith("PyTorch"):
        import peer

        return peer.captured(run)
    return captured(run, device)


def comparison(rows: list[Row]) -> list[Row]:
    """One row a layer and pass: ours, the best of the others, how many times faster ours is."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((row["layer"], row["pass"], row["batch"]), []).append(row)
    compared = []
    for (layer, which, batch), of_libraries in found.items():
        line: Row = {"layer": layer, "pass": which, "batch": batch}
        mine = next(row for row in of_libraries if row["library"] == OURS)
        line |= {
            key: mine.get(key) for key in ("ms", "q1_ms", "q3_ms", "gflop_s", "gb_s", "floor_ms", "error", "failed")
        }
        for family in ("NumPy", "CuPy", "PyTorch"):
            timed = [row for row in of_libraries if row["library"].startswith(family) and "ms" in row]
            if timed:
                best = min(timed, key=lambda row: row["ms"])
                line |= {family: best["ms"], f"{family} form": best["library"], f"{family} error": best["error"]}
                if "ms" in mine:
                    line[f"{family} / ours"] = best["ms"] / mine["ms"]
        compared.append(line)
    return compared


def table(rows: list[Row]) -> str:
    columns = {"layer": "layer", "pass": "pass", "batch": "batch", "ms": "ours ms", "q1_ms": "quartile 1"}
    columns |= {"q3_ms": "quartile 3", "gflop_s": "GFLOP/s", "gb_s": "GB/s", "floor_ms": "floor ms", "error": "error"}
    columns |= {"NumPy": "NumPy ms", "NumPy / ours": "NumPy / ours", "CuPy": "CuPy ms", "CuPy / ours": "CuPy / ours"}
    columns |= {"PyTorch": "PyTorch ms", "PyTorch form": "its form", "PyTorch error": "its error"}
    columns |= {"PyTorch / ours": "PyTorch / ours", "failed": "failed"}
    compared = comparison(rows)
    columns = {key: heading for key, heading in columns.items() if any(row.get(key) is not None for row in compared)}
    formats = dict.fromkeys(("ms", "q1_ms", "q3_ms", "NumPy", "CuPy", "PyTorch", "gflop_s", "gb_s", "floor_ms"), ".4g")
    return timing.table(compared, columns, formats | {"error": ".1e", "PyTorch error": ".1e"})


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--layer", nargs="+", metavar="NAME", help="such as conv2 or lrn1; default all")
    parser.add_argument("--batch", type=int, nargs="+", help="default: 16 on a CPU, 128 and 1024 on a GPU")
    parser.add_argument("--towers", type=int, default=1, choices=(1, 2), help="2: conv2, conv4, conv5 in two groups")
    parser.add_argument("--rounds", type=int, help="samples of each; default 7 on a CPU, 30 on a GPU")
    parser.add_argument("--quick", action="store_true", help="narrow layers, two rounds: to see that the code runs")
    parser.add_argument("--alone", action="store_true", help="without PyTorch, even where it is installed")
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: benchmarks/results, with --quick none)"
    )
    arguments = parser.parse_args()
    on_cpu = arguments.device == "cpu"
    network = layers.alexnet(arguments.towers, 16 if arguments.quick else 1)
    chosen = [layer for layer in network if layer.passes and layer.name in (arguments.layer or [layer.name])]
    if unknown := set(arguments.layer or []) - {layer.name for layer in chosen}:
        known = ", ".join(layer.name for layer in network if layer.passes)
        parser.error(f"unknown layer {', '.join(sorted(unknown))} (layers: {known})")
    if not on_cpu and (problem := backend.gpu_problem()):
        print(f"layer_bench: no usable GPU: {problem}", file=sys.stderr)
        return 2
    arguments.batch = arguments.batch or ([2] if arguments.quick else [16] if on_cpu else [128, 1024])
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 7 if on_cpu else 30)

    if arguments.quick:
        backend.set_threads(1)
    threads: Row = {"ours": backend.threads()}
    arguments.torch = not arguments.alone and importlib.util.find_spec("torch") is not None
    if arguments.torch:
        import torch

        torch.set_num_threads(backend.threads())
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        threads["PyTorch"] = torch.get_num_threads()
    elif not arguments.alone:
        print("layer_bench: PyTorch is not installed and so not compared with", file=sys.stderr)
    environment = timing.environment(threads=threads, build=backend.build_info())
    rows: list[Row] = []
    with clock_on(arguments.device, arguments.torch) as clock:
        limits = ceilings(arguments.device, clock, arguments.rounds)
        for batch in arguments.batch:
            for layer in chosen:
                for which in layer.passes:
                    rows += measure(layer, which, batch, arguments, limits, clock)

    print(table(rows))
    record = {"benchmark": "layer_bench", "environment": environment, "ceilings": limits, "rows": rows}
    out = arguments.out or (None if arguments.quick else timing.RESULTS)
    if out:
        title = f"AlexNet's layers one by one, {'CPU' if on_cpu else 'GPU'}, float32"
        every = {"layer": "layer", "pass": "pass", "batch": "batch", "library": "library", "ms": "ms"}
        every |= {"q1_ms": "quartile 1", "q3_ms": "quartile 3", "samples": "samples", "error": "error"}
        body = {"Ours beside the best of the others": table(rows)}
        body["Every library"] = timing.table(rows, every, {"error": ".1e", "ms": ".4g", "q1_ms": ".4g", "q3_ms": ".4g"})
        timing.write(out, f"layer_bench-{'cpu' if on_cpu else timing.gpu_slug()}", title, record, body)
    return 1 if any("failed" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
