"""A whole training step of AlexNet, ours against PyTorch: forward, loss, backward, SGD with momentum .9 and decay 5e-4.

Alternating rounds in one process, equal weights, random data. Before anything is timed the first losses, with dropout
off, have to agree. Peak memory is each side's own, read in a process of its own. Our step is also taken apart by
operation. Without PyTorch ours is timed alone.

    python benchmarks/step_bench.py --device cpu
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import BuiltinFunctionType, ModuleType
from typing import Any

import layers
import numpy as np
import timing
from devices import clock_on
from timing import Row

from alexnet_cuda import Tensor, backend, models, nn, ops, optim
from alexnet_cuda.models import layers as described

OURS = "alexnet_cuda"
LOSSES = 5
LR = 0.001  # small, so that steps on one random batch, over and over, stay finite
TOLERANCE = 1e-4
STEPS_IN_CHILD = 3


class Step:
    """One training step of ours; after a call `loss` is its loss."""

    def __init__(self, model: str, device: str, x: np.ndarray, labels: np.ndarray) -> None:
        self.network = models.create(model, device=device)
        self.optimizer = optim.SGD(self.network.parameters(), LR, momentum=0.9, decay=5e-4)
        where = backend.device(device)
        self.x, self.labels = Tensor(backend.from_host(x, where)), Tensor(backend.from_host(labels, where))
        self.loss: Tensor | None = None

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.loss = ops.softmax_cross_entropy(self.network(self.x), self.labels)
        self.loss.backward()
        self.optimizer.step()

    def without_dropout(self) -> None:
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0


def random_batch(model: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(batch)
    description = models.get(model)
    x = rng.standard_normal((batch, *description.input), dtype=np.float32)
    return x, rng.integers(description.classes, size=batch).astype(np.int32)


# ---- the PyTorch side


def peer_layers(model: models.Model) -> list[layers.Layer]:
    """The model as the layers that the peer is built from."""
    found: list[layers.Layer] = []
    for row in model.rows():
        name, shape = row.layer.name, row.input
        match row.layer:
            case described.Conv2d() as conv:
                window = (conv.size, conv.stride, conv.padding, conv.groups, conv.ceil)
                found.append(layers.Conv(name, shape[0], shape[2], conv.channels, *window))
            case described.MaxPool2d() as pool:
                found.append(layers.Pool(name, shape[0], shape[2], pool.size, pool.stride, pool.ceil))
            case described.Lrn() as lrn:
                values = (lrn.size, lrn.k, lrn.alpha, lrn.beta, lrn.groups)
                found.append(layers.Lrn(name, shape[0], shape[2], *values))
            case described.Dropout() as dropout:
                found.append(layers.Dropout(name, dropout.p))
            case described.Linear() as linear:
                found.append(layers.Linear(name, shape[0], linear.features))
        if getattr(row.layer, "activation", None) == "relu":
            found.append(layers.Relu(f"relu_{name}", row.output[0], row.output[-1]))
    return found


def peer_variants(device: str) -> dict[str, Row]:
    """The forms of PyTorch's step to choose the best of: options of `peer.Step` and `peer.network`."""
    if device == "cpu":
        return {
            "PyTorch": {},
            "PyTorch channels_last": {"layout": "NHWC"},
            "PyTorch fused SGD": {"fused": True},
            "PyTorch channels_last, fused SGD": {"layout": "NHWC", "fused": True},
        }
    steelman = {"layout": "NHWC", "fused": True, "steelman": True, "graph": True}
    return {
        "PyTorch": {},
        "PyTorch NCHW graph": {"fused": True, "graph": True},
        "PyTorch NHWC graph": {"layout": "NHWC", "fused": True, "graph": True},
        "PyTorch NHWC graph, steelman": steelman,
        "PyTorch NHWC compiled graph, steelman": steelman | {"compile_mode": "default"},
    }


def peer_step(model: str, device: str, x: np.ndarray, labels: np.ndarray, options: Row, state: Any = None) -> Any:
    """A step of PyTorch's; `state` is ours to start from. The steelman's conv1 reads images of 4 channels."""
    import peer
    import torch

    options = dict(options)
    steelman = options.pop("steelman", False)
    options.pop("graph", None)
    description = models.get(model)
    lrn, channels = (peer.lrn_shifted, 4) if steelman else (peer.lrn, None)
    network = peer.network(peer_layers(description), device, lrn, channels)
    if state is not None:
        rows = description.rows()
        flat = next(row.input for row in rows if isinstance(row.layer, described.Flatten))
        first = next(row.layer.name for row in rows if isinstance(row.layer, described.Linear))
        with torch.no_grad():
            for name, array in state.items():
                layer, _, which = name.rpartition(".")
                parameter = getattr(network, layer).weight if which == "w" else getattr(network, layer).bias
                if array.ndim == 4:
                    array = array.transpose(0, 3, 1, 2)
                elif layer == first and which == "w":
                    array = array.reshape(-1, *flat).transpose(0, 3, 1, 2).reshape(array.shape)
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).to(device)
    if steelman:
        images = torch.nn.functional.pad(images, (0, 0, 0, 0, 0, 4 - images.shape[1]))
    return peer.Step(network, images, torch.from_numpy(labels).long().to(device), lr=LR, **options)


# ---- what is measured


def compare_losses(model: str, device: str, batch: int, quick: bool) -> Row:
    """The first losses of both sides from equal weights, dropout off."""
    import torch

    x, labels = random_batch(model, batch)
    ours = Step(model, device, x, labels)
    ours.without_dropout()
    theirs = peer_step(model, device, x, labels, {}, ours.network.state())
    for module in theirs.model:
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    losses: Row = {OURS: [], "PyTorch": []}
    for _ in range(2 if quick else LOSSES):
        ours()
        assert ours.loss is not None
        losses[OURS].append(ours.loss.item())
        theirs()
        losses["PyTorch"].append(float(theirs.result))
    difference = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
    return {"batch": batch, "losses": losses, "largest_difference": difference, "agree": difference <= TOLERANCE}


def peak_memory(model: str, device: str, batch: int, side: str) -> Row:
    """Peak memory of a process that runs only that side's step."""
    command = [sys.executable, __file__, "--device", device, "--model", model, "--batch", str(batch), "--child", side]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process of {side} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def child(model: str, device: str, batch: int, side: str) -> None:
    """Runs a few steps of one side and prints what memory they took, in MiB."""
    x, labels = random_batch(model, batch)
    if side == OURS:
        step: Callable[[], None] = Step(model, device, x, labels)
    else:
        import torch

        torch.set_num_threads(backend.threads())
        step = peer_step(model, device, x, labels, peer_variants(device)[side])
    before = process_memory("VmRSS")
    for _ in range(STEPS_IN_CHILD):
        step()
    record: Row = {"peak_MiB": process_memory("VmHWM"), "before_first_step_MiB": before}
    if device != "cpu":
        if side == OURS:
            memory = backend.array_module(backend.device(device)).get_default_memory_pool().total_bytes()
        else:
            memory = torch.cuda.max_memory_reserved()
        record["peak_MiB"] = memory / 2**20
    print(json.dumps(record))


def process_memory(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def time_steps(
    model: str, device: str, batch: int, rounds: int, clock: timing.Clock, with_torch: bool
) -> dict[str, list[float]]:
    x, labels = random_batch(model, batch)
    ours = Step(model, device, x, labels)
    candidates: dict[str, Callable[[], object]] = {OURS: ours}
    if with_torch:
        import peer

        state = ours.network.state()
        for name, options in peer_variants(device).items():
            step = peer_step(model, device, x, labels, options, None if options.get("steelman") else state)
            candidates[name] = peer.captured(step) if options.get("graph") else step
    return clock.alternate(candidates, rounds)


# ---- our step by operation


@contextmanager
def timed_launchers(native: ModuleType, synchronize: Callable[[], object]) -> Iterator[dict[str, float]]:
    """Seconds spent in each launcher of the native module, summed by name, within the block."""
    spent: dict[str, float] = {}

    def timed(name: str, launcher: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            synchronize()
            start = time.perf_counter()
            result = launcher(*args, **kwargs)
            synchronize()
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start
            return result

        return call

    launchers = {
        name: function
        for name, function in vars(native).items()
        if isinstance(function, BuiltinFunctionType) and "stream" in (function.__doc__ or "")
    }
    for name, function in launchers.items():
        setattr(native, name, timed(name, function))
    try:
        yield spent
    finally:
        for name, function in launchers.items():
            setattr(native, name, function)


def breakdown(model: str, device: str, batch: int, steps: int, synchronize: Callable[[], object]) -> list[Row]:
    """Milliseconds of our step by layer, pass and launcher; the rest is Python, autograd and allocation."""
    step = Step(model, device, *random_batch(model, batch))
    native = backend.native(backend.device(device))
    step()
    step()
    taken: dict[tuple[str, str, str], float] = {}
    seconds = 0.0
    with timed_launchers(native, synchronize) as spent:

        def charge(layer: str, which: str) -> None:
            for launcher, time_spent in spent.items():
                key = (layer, which, launcher)
                taken[key] = taken.get(key, 0.0) + time_spent
            spent.clear()

        def follow(layer: str, function: Any) -> None:
            """Charges the backward pass of the functions that made a layer's output to the layer."""
            while function is not None and "backward" not in vars(function):
                backward = function.backward

                def run(dy: Any, backward: Callable[[Any], Any] = backward) -> Any:
                    gradients = backward(dy)
                    charge(layer, "backward")
                    return gradients

                function.backward = run
                function = next((s for s in function.sources if not isinstance(s, Tensor) and s is not None), None)

        def watch(name: str, child: nn.Module) -> None:
            forward = type(child).forward

            def run(x: Tensor) -> Tensor:
                y = forward(child, x)
                charge(name, "forward")
                follow(name, y.function)
                return y

            child.forward = run  # type: ignore[method-assign]

        for name, module in step.network.children():
            watch(name, module)
        for _ in range(steps):
            synchronize()
            start = time.perf_counter()
            step.optimizer.zero_grad()
            loss = ops.softmax_cross_entropy(step.network(step.x), step.labels)
            charge("loss", "forward")
            follow("loss", loss.function)
            loss.backward()
            step.optimizer.step()
            synchronize()
            seconds += time.perf_counter() - start
            charge("sgd", "update")
    rows = [
        {"layer": layer, "pass": which, "launcher": launcher, "ms": 1e3 * time_spent / steps}
        for (layer, which, launcher), time_spent in taken.items()
    ]
    rest = 1e3 * (seconds - sum(taken.values())) / steps
    return [*rows, {"layer": "", "pass": "", "launcher": "Python, autograd, allocation", "ms": rest}]


def by_launcher(rows: list[Row]) -> list[Row]:
    total = sum(row["ms"] for row in rows)
    sums: dict[str, float] = {}
    for row in rows:
        sums[row["launcher"]] = sums.get(row["launcher"], 0.0) + row["ms"]
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    return [{"launcher": name, "ms": ms, "share": ms / total} for name, ms in ordered]


# ---- the whole run


def measure(arguments: argparse.Namespace, with_torch: bool) -> Row:
    model, device = arguments.model, arguments.device
    sides = [OURS, *(peer_variants(device) if with_torch else [])]
    record: Row = {"model": model, "rows": [], "losses": [], "breakdown": [], "ratios": []}
    for batch in arguments.batch:
        rows: dict[str, Row] = {side: {"batch": batch, "side": side} for side in sides}
        for side in sides[:2] if arguments.quick else sides:
            rows[side] |= peak_memory(model, device, batch, side)
        with clock_on(device, with_torch) as clock:
            if with_torch:
                record["losses"].append(compare_losses(model, device, batch, arguments.quick))
            gc.collect()
            for side, times in time_steps(model, device, batch, arguments.rounds, clock, with_torch).items():
                rows[side] |= timing.summary(times)
                rows[side]["images_s"] = 1e3 * batch / rows[side]["ms"]
            gc.collect()
            parts = breakdown(model, device, batch, 1 if arguments.quick else 3, clock.synchronize)
        record["rows"] += rows.values()
        record["breakdown"] += [{"batch": batch} | part for part in parts]
        if with_torch:
            record["ratios"].append(ratios(list(rows.values())))
    return record


def ratios(rows: list[Row]) -> Row:
    """Ours over the best of PyTorch's: below 1 is faster, smaller."""
    ours, *theirs = rows
    fastest = min(theirs, key=lambda row: row["ms"])
    smallest = min((row for row in theirs if "peak_MiB" in row), key=lambda row: row["peak_MiB"])
    return {
        "batch": ours["batch"],
        "time": ours["ms"] / fastest["ms"],
        "fastest": fastest["side"],
        "memory": ours["peak_MiB"] / smallest["peak_MiB"],
        "smallest": smallest["side"],
    }


def sections(record: Row, batches: list[int]) -> dict[str, str]:
    step_columns = {"batch": "batch", "side": "", "ms": "ms", "q1_ms": "quartile 1", "q3_ms": "quartile 3"}
    step_columns |= {"samples": "samples", "images_s": "images/s", "peak_MiB": "peak MiB"}
    ratio_columns = {
        "batch": "batch",
        "time": "time, ours / best",
        "fastest": "best PyTorch",
        "memory": "memory, ours / smallest",
        "smallest": "smallest PyTorch",
    }
    formats = {"ms": ".1f", "q1_ms": ".1f", "q3_ms": ".1f", "images_s": ".1f", "peak_MiB": ".0f", "share": ".1%"}
    formats |= {"largest_difference": ".1e"}
    comparison = timing.table(record["ratios"], ratio_columns, formats)
    loss_columns = {"batch": "batch", "largest_difference": "largest difference of the losses", "agree": "within 1e-4"}
    result = {
        "Ours against PyTorch": comparison if record["ratios"] else "Ours was timed alone.",
        "Step": timing.table(record["rows"], step_columns, formats),
        "First losses from equal weights, dropout off": timing.table(record["losses"], loss_columns, formats)
        if record["losses"]
        else "",
    }
    for batch in batches:
        parts = [row for row in record["breakdown"] if row["batch"] == batch]
        columns = {"launcher": "launcher", "ms": "ms", "share": "share"}
        result[f"Ours by launcher, batch {batch}"] = timing.table(by_launcher(parts), columns, formats)
        columns = {"layer": "layer", "pass": "pass", "launcher": "launcher", "ms": "ms"}
        result[f"Ours by layer, batch {batch}"] = timing.table(parts, columns, formats)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--model", default="alexnet-single", choices=models.names(), metavar="NAME")
    parser.add_argument("--batch", type=int, nargs="+", help="default: 16 64 on a CPU, 128 on a GPU")
    parser.add_argument("--rounds", type=int, help="samples of each side; default 7 on a CPU, 30 on a GPU")
    parser.add_argument("--quick", action="store_true", help="batch 1 and one round: to see that the code runs")
    parser.add_argument("--alone", action="store_true", help="without PyTorch, even where it is installed")
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: benchmarks/results, with --quick none)"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    on_cpu = arguments.device == "cpu"
    if not on_cpu and (problem := backend.gpu_problem()):
        print(f"step_bench: no usable GPU: {problem}", file=sys.stderr)
        return 2
    if arguments.child:
        child(arguments.model, arguments.device, arguments.batch[0], arguments.child)
        return 0
    arguments.batch = arguments.batch or ([1] if arguments.quick else [16, 64] if on_cpu else [128])
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 7 if on_cpu else 30)

    if arguments.quick:
        backend.set_threads(1)
    threads: Row = {"ours": backend.threads()}
    with_torch = not arguments.alone and importlib.util.find_spec("torch") is not None
    if with_torch:
        import torch

        torch.set_num_threads(backend.threads())
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        threads["PyTorch"] = torch.get_num_threads()
    elif not arguments.alone:
        print("step_bench: PyTorch is not installed: ours is timed alone", file=sys.stderr)
    environment = timing.environment(threads=threads, build=backend.build_info())
    record: Row = {"benchmark": "step_bench", "environment": environment} | measure(arguments, with_torch)

    for heading, body in list(sections(record, arguments.batch).items())[: 3 + len(arguments.batch)]:
        print(f"\n{heading}\n{body}" if body else "", end="")
    print()
    out = arguments.out or (None if arguments.quick else timing.RESULTS)
    if out:
        title = f"A training step of {arguments.model}, {'CPU' if on_cpu else 'GPU, float32'}"
        stem = f"step_bench-{'cpu' if on_cpu else timing.gpu_slug()}"
        timing.write(out, stem, title, record, sections(record, arguments.batch))
    if not all(loss["agree"] for loss in record["losses"]):
        print(f"step_bench: the losses differ by more than {TOLERANCE:g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
