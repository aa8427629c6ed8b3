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
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, ModuleType
from typing import Any

import layers
import numpy as np
import timing
from timing import Row

from alexnet_cuda import Tensor, backend, models, nn, ops, optim

OURS = "alexnet_cuda"
LOSSES = 5
LR = 0.01
TOLERANCE = 1e-4
STEPS_IN_CHILD = 3
WRAPPED = "wrapped launchers"


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
        source, name, shape = row.layer, row.layer.name, row.input
        match type(source).__name__:
            case "Conv2d":
                window = (source.size, source.stride, source.padding, source.groups, source.ceil)
                found.append(layers.Conv(name, shape[0], shape[2], source.channels, *window))
            case "MaxPool2d":
                found.append(layers.Pool(name, shape[0], shape[2], source.size, source.stride))
            case "Lrn":
                values = (source.size, source.k, source.alpha, source.beta, source.groups)
                found.append(layers.Lrn(name, shape[0], shape[2], *values))
            case "Dropout":
                found.append(layers.Dropout(name, source.p))
            case "Linear":
                found.append(layers.Linear(name, shape[0], source.features))
        if getattr(source, "activation", None) == "relu":
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
        flat = next(row.input for row in description.rows() if type(row.layer).__name__ == "Flatten")
        with torch.no_grad():
            for name, array in state.items():
                layer, _, which = name.rpartition(".")
                parameter = getattr(network, layer).weight if which == "w" else getattr(network, layer).bias
                if array.ndim == 4:
                    array = array.transpose(0, 3, 1, 2)
                elif array.ndim == 2 and array.shape[1] == math.prod(flat):
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
        raise RuntimeError(f"the process of {side} failed: {done.stderr.strip().splitlines()[-1:]}")
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
    return clock.alternate(candidates, rounds, warmup=2)


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
