"""A training step taken apart by layer and pass, ours and PyTorch's, and both as stacked bars.

Moments are noted while the step is queued: on a CPU the time, on a GPU events, so that gaps between launches count for
what is launched next. Ours are those around each launcher; what is left is Python, autograd and allocation. PyTorch's
are those of its eager step at which a layer's output is there and at which its gradient arrives (hooks), so that what
autograd does in between counts for the layers, and the loss's forward pass for its backward pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import BuiltinFunctionType, ModuleType
from typing import Any

import timing
from steps import Step
from timing import Row

from alexnet_cuda import Tensor, backend, nn, ops

REST = "Python, autograd, allocation"


class Moments:
    """Notes moments, and tells the milliseconds between two once all is done."""

    def __init__(self, clock: timing.Clock) -> None:
        self.clock = clock

    def now(self) -> Any:
        if isinstance(self.clock, timing.HostClock):
            return time.perf_counter()
        event = self.clock.event()
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        if isinstance(self.clock, timing.HostClock):
            return 1e3 * (end - start)
        return self.clock.elapsed_ms(start, end)


# ---- ours


@contextmanager
def noted_launchers(native: ModuleType, moments: Moments) -> Iterator[list[tuple[str, Any, Any]]]:
    """Name, begin and end of each call of a launcher of the native module within the block."""
    calls: list[tuple[str, Any, Any]] = []

    def noted(name: str, launcher: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = moments.now()
            result = launcher(*args, **kwargs)
            calls.append((name, start, moments.now()))
            return result

        return call

    launchers = {
        name: function
        for name, function in vars(native).items()
        if isinstance(function, BuiltinFunctionType) and "stream" in (function.__doc__ or "")
    }
    for name, function in launchers.items():
        setattr(native, name, noted(name, function))
    try:
        yield calls
    finally:
        for name, function in launchers.items():
            setattr(native, name, function)


def ours(step: Step, steps: int, clock: timing.Clock) -> list[Row]:
    """Milliseconds by layer, pass and launcher. The step is of no use afterwards."""
    moments = Moments(clock)
    charged: list[tuple[tuple[str, str, str], Any, Any]] = []
    whole: list[tuple[Any, Any]] = []
    step()
    step()
    with noted_launchers(backend.native(step.where), moments) as calls:

        def charge(layer: str, which: str) -> None:
            charged.extend(((layer, which, launcher), start, end) for launcher, start, end in calls)
            calls.clear()

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

        names = {module: name for name, module in step.network.children()}

        def noted(name: str, compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
            def run(x: Tensor) -> Tensor:
                y = compute(x)
                charge(name, "forward")
                follow(name, y.function)
                return y

            return run

        def watch(name: str, child: nn.Module) -> None:
            join = child.fused_with

            def fused_with(following: nn.Module) -> Callable[[Tensor], Tensor] | None:
                both = join(following)
                return both and noted(f"{name}+{names[following]}", both)

            vars(child).update(fused_with=fused_with, forward=noted(name, child.forward))

        for module, name in names.items():
            watch(name, module)
        for _ in range(steps):
            start = moments.now()
            step.prepare()
            step.optimizer.zero_grad()
            with step.copies:
                loss = ops.softmax_cross_entropy(step.logits(), step.labels)
                charge("loss", "forward")
                follow("loss", loss.function)
                loss.backward()
                step.optimizer.apply()
            charge("sgd", "update")
            whole.append((start, moments.now()))
        clock.synchronize()
    taken: dict[tuple[str, str, str], float] = {}
    for key, start, end in charged:
        taken[key] = taken.get(key, 0.0) + moments.between(start, end) / steps
    rows = [{"layer": layer, "pass": which, "launcher": name, "ms": ms} for (layer, which, name), ms in taken.items()]
    rest = sum(moments.between(*ends) for ends in whole) / steps - sum(taken.values())
    return [*rows, {"layer": "", "pass": "", "launcher": REST, "ms": rest}]


def by_launcher(rows: Sequence[Row]) -> list[Row]:
    total = sum(row["ms"] for row in rows)
    sums: dict[str, float] = {}
    for row in rows:
        sums[row["launcher"]] = sums.get(row["launcher"], 0.0) + row["ms"]
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    return [{"launcher": name, "ms": ms, "share": ms / total} for name, ms in ordered]


# ---- PyTorch's


def theirs(step: Any, steps: int, clock: timing.Clock) -> list[Row]:
    """Milliseconds of an eager `peer.Step` by layer and pass; ReLU and padding count for their layer."""
    moments = Moments(clock)
    marks: list[tuple[str, str, Any]] = []  # what ended, and when
    behind = ""  # the layer that the gradient on its way has to pass next

    def mark(layer: str, which: str) -> None:
        marks.append((layer.removeprefix("relu_").removeprefix("pad_"), which, moments.now()))

    def watch(name: str, child: Any) -> None:
        def arrived(dy: Any) -> None:
            nonlocal behind
            mark(behind, "backward")
            behind = name

        def done(module: Any, inputs: Any, y: Any) -> None:
            nonlocal behind
            mark(name, "forward")
            behind = "loss"
            if y.requires_grad:
                y.register_hook(arrived)

        child.register_forward_hook(done)

    step()
    step()
    for name, child in step.model.named_children():
        watch(name, child)
    step.optimizer.register_step_pre_hook(lambda *_: mark(behind, "backward"))
    step.optimizer.register_step_post_hook(lambda *_: mark("sgd", "update"))
    taken: dict[tuple[str, str], float] = {}
    for _ in range(steps):
        marks.clear()
        last = moments.now()
        step()
        clock.synchronize()
        for layer, which, moment in marks:
            taken[layer, which] = taken.get((layer, which), 0.0) + moments.between(last, moment) / steps
            last = moment
    return [{"layer": layer, "pass": which, "ms": ms} for (layer, which), ms in taken.items()]


# ---- the plot


def draw(path: Path, bars: Mapping[str, Sequence[Row]], title: str) -> None:
    """A bar for each list of rows: forward passes from the bottom up, then backward passes (hatched), then the rest."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    names = list(dict.fromkeys(row["layer"] for rows in bars.values() for row in rows if row["layer"]))
    colours = {name: colormaps["tab20"](i % 20) for i, name in enumerate(names)} | {"": "lightgray"}
    figure = Figure(figsize=(4 + 1.1 * len(bars), 7), layout="constrained")
    axes = figure.subplots()
    for place, rows in enumerate(bars.values()):
        bottom = 0.0
        for which in ("forward", "backward", "update", ""):
            for name in [*names, ""]:
                ms = sum(row["ms"] for row in rows if row["layer"] == name and row["pass"] == which)
                hatch = "///" if which == "backward" else None
                axes.bar(place, ms, bottom=bottom, color=colours[name], hatch=hatch, edgecolor="white", linewidth=0.3)
                bottom += ms
    axes.set_xticks(range(len(bars)), list(bars), rotation=30, ha="right", fontsize=7)
    axes.set(ylabel="ms", title=title)
    axes.title.set_fontsize(9)
    handles = [Patch(color=colours[name], label=name or REST) for name in [*names, ""]]
    handles.append(Patch(facecolor="white", edgecolor="gray", hatch="///", label="backward"))
    figure.legend(handles=handles[::-1], loc="outside right upper", fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
