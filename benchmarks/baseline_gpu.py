"""What PyTorch (cuBLAS, cuDNN, Triton) reaches on AlexNet on this GPU: the figures that our kernels have to beat.

PyTorch alone: each layer and pass, the whole training step and inference, one tower and two, in fp32, tf32 and bf16,
both memory layouts, `cudnn.benchmark` on; the step eager, as one CUDA graph, compiled and with max-autotune; LRN also
as shifted adds. Layers are CUDA graphs over buffers of 256 MB or more, replayed between events, 30 samples, random
data. What the time budget leaves no room for is listed as not measured.

    python benchmarks/baseline_gpu.py                       # three minutes on a GPU
    python benchmarks/baseline_gpu.py --device cpu --quick  # the same code on tiny networks; its figures mean nothing
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import layers
import peer
import timing
import torch
import torch.nn.functional as F
from layers import Conv, Layer, Linear, Lrn, Pool, Relu, Sgd, SoftmaxCrossEntropy
from timing import Row
from torch import Tensor

ROTATE = 256 << 20  # bytes that one sample walks through, so that no buffer is found in the cache
COMPILE_SECONDS = {"default": 30.0, "max-autotune-no-cudagraphs": 75.0}  # guesses: one starts only where they fit


class Baseline:
    def __init__(self, device: str, seconds: float, samples: int, quick: bool) -> None:
        self.device, self.samples, self.quick = device, samples, quick
        self.side = 256 if quick else 8192
        self.scale = 16 if quick else 1
        self.cuda = device != "cpu"
        self.clock: timing.Clock = timing.HostClock()
        if self.cuda:
            event, elapsed = partial(torch.cuda.Event, enable_timing=True), torch.cuda.Event.elapsed_time
            self.clock = timing.EventClock(event, elapsed, torch.cuda.synchronize)
        self.deadline = time.monotonic() + seconds
        self.rows: list[Row] = []
        self.failed: list[Row] = []
        self.skipped: list[Row] = []
        self.ceilings: Row = {}

    # ---- measuring

    def sample(self, run: Callable[[], object]) -> list[float]:
        return self.clock.alternate({"run": run}, self.samples)["run"]

    def attempt(self, row: Row, measure: Callable[[], Row], seconds: float = 0.0) -> None:
        """Adds what `measure` returns to the rows, or says why there is nothing to add."""
        if time.monotonic() + seconds > self.deadline:
            self.skipped.append(row | {"why": "time budget"})
            return
        try:
            self.rows.append(row | measure())
        except NotImplementedError as error:
            self.skipped.append(row | {"why": f"PyTorch: {error}"})
        except Exception as error:  # one failing figure must not cost the others
            self.failed.append(row | {"why": f"{type(error).__name__}: {error}".splitlines()[0][:300]})
        if self.cuda:
            torch.cuda.empty_cache()

    def time_pass(
        self, row: Row, make: Callable[[], Callable[[], Tensor]], flop: int, traffic: int, name_kernel: bool = False
    ) -> None:
        """Times one pass; `make` draws fresh random operands and returns the call."""

        def measure() -> Row:
            copies = 1 if self.quick else max(1, min(64, math.ceil(ROTATE / traffic)))
            with peer.precision(row["precision"]):
                calls = [make() for _ in range(copies)]

                def run() -> list[Tensor]:
                    return [call() for call in calls]

                result = run()[0]
                if not torch.isfinite(result.float()).all():
                    raise ArithmeticError("the result is not finite")
                del result
                replay: Callable[[], object] = run
                method = "graph" if self.cuda else "host clock"
                try:
                    replay = peer.captured(run) if self.cuda else run
                except RuntimeError as error:
                    method = f"events, capture failed: {str(error).splitlines()[0][:80]}"
                taken = timing.summary([ms / copies for ms in self.sample(replay)])
                kernel = peer.kernel_name(calls[0]) if name_kernel and self.cuda else None
            how = {"method": method, "buffers": copies, "kernel": kernel}
            return taken | self.rates(row["precision"], flop, traffic, taken["ms"]) | how

        self.attempt(row, measure)

    def rates(self, precision: str, flop: int, traffic: int, ms: float) -> Row:
        row: Row = {"tflops": flop / ms / 1e9 if flop else None, "tb_s": traffic / ms / 1e9}
        if self.ceilings:
            floor = max(flop / self.ceilings[precision] / 1e9, traffic / self.ceilings["copy"] / 1e9)
            row |= {"floor_ms": floor, "share_of_floor": floor / ms}
        return row

    # ---- the ceilings: a copy and a square product in each precision

    def measure_ceilings(self) -> None:
        n = self.side
        source = torch.randn(n * n // 2 if self.quick else 1 << 30, device=self.device)
        target = torch.empty_like(source)
        ms = timing.summary(self.sample(lambda: target.copy_(source)))["ms"]
        ceilings: Row = {"copy": 2 * source.nbytes / ms / 1e9}
        for name in peer.PRECISIONS:
            with peer.precision(name) as dtype:
                a, b = (torch.randn(n, n, device=self.device, dtype=dtype) for _ in range(2))
                ceilings[name] = 2 * n**3 / timing.summary(self.sample(lambda: a @ b))["ms"] / 1e9  # noqa: B023
        self.ceilings = ceilings

    # ---- layers

    def random(self, *shape: int, dtype: torch.dtype, layout: str = "NCHW") -> Tensor:
        tensor = torch.randn(*shape, device=self.device, dtype=dtype)
        return tensor.contiguous(memory_format=peer.LAYOUTS[layout]) if tensor.dim() == 4 else tensor

    def time_conv(self, layer: Conv, row: Row, dtype: torch.dtype, layout: str) -> None:
        batch = row["batch"]

        def make() -> Callable[[], Tensor]:
            x = self.random(batch, layer.C, layer.H, layer.H, dtype=dtype, layout=layout)
            w = self.random(layer.K, layer.C // layer.groups, layer.k, layer.k, dtype=dtype, layout=layout)
            dy = self.random(batch, layer.K, layer.OH, layer.OH, dtype=dtype, layout=layout)
            return lambda: peer.conv_pass(layer, row["pass"], x, w, dy)

        traffic = layers.traffic(layer, row["pass"], batch, dtype.itemsize)
        self.time_pass(row, make, layer.flop(batch), traffic, name_kernel=True)

    def time_linear(self, layer: Linear, row: Row, dtype: torch.dtype) -> None:
        batch = row["batch"]

        def make() -> Callable[[], Tensor]:
            x = self.random(batch, layer.inputs, dtype=dtype)
            w = self.random(layer.outputs, layer.inputs, dtype=dtype)
            dy = self.random(batch, layer.outputs, dtype=dtype)
            return lambda: peer.linear_pass(row["pass"], x, w, dy)

        traffic = layers.traffic(layer, row["pass"], batch, dtype.itemsize)
        self.time_pass(row, make, layer.flop(batch), traffic, name_kernel=True)

    def time_function(
        self, row: Row, function: Callable[[Tensor], Tensor], shape: Sequence[int], dtype: torch.dtype, traffic: int
    ) -> None:
        """A pass of any function of one tensor: the call itself or its gradient by autograd."""

        def make() -> Callable[[], Tensor]:
            x = self.random(*shape, dtype=dtype, layout=row.get("layout", "NCHW"))
            if row["pass"] == "forward":
                return lambda: function(x)
            y = function(x.requires_grad_())
            dy = torch.randn_like(y)
            return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)[0]

        self.time_pass(row, make, 0, traffic)

    def time_memory_bound(self, network: list[Layer], row: Row, dtype: torch.dtype, layout: str) -> None:
        """LRN as the library has it and as shifted adds, alone and with its pool; pools; ReLU; the loss."""
        batch, named = row["batch"], {layer.name: layer for layer in network}
        for layer in network:
            match layer:
                case Lrn():
                    shape = (batch, layer.C, layer.H, layer.H)
                    pool = named[layer.name.replace("lrn", "pool")]
                    assert isinstance(pool, Pool)
                    for variant, lrn in {"library": peer.lrn, "shifted adds": peer.lrn_shifted}.items():
                        for which in layer.passes:
                            one = row | {"layer": layer.name, "pass": which, "layout": layout, "variant": variant}
                            traffic = layers.traffic(layer, which, batch, dtype.itemsize)
                            self.time_function(one, partial(lrn, layer=layer), shape, dtype, traffic)
                            one["layer"] = f"{layer.name}+{pool.name}"
                            pair = layers.LrnPool(layer, pool)
                            traffic = layers.traffic(pair, which, batch, dtype.itemsize)
                            self.time_function(one, partial(peer.lrn_and_pool, lrn, pair), shape, dtype, traffic)
                case Pool() | Relu():
                    function = F.relu if isinstance(layer, Relu) else partial(peer.max_pool, layer=layer)
                    for which in layer.passes:
                        one = row | {"layer": layer.name, "pass": which, "layout": layout}
                        traffic = layers.traffic(layer, which, batch, dtype.itemsize)
                        self.time_function(one, function, (batch, layer.C, layer.H, layer.H), dtype, traffic)
                case SoftmaxCrossEntropy() if layout == "NCHW":
                    labels = torch.randint(layer.classes, (batch,), device=self.device)
                    for which in layer.passes:
                        one = row | {"layer": layer.name, "pass": which}
                        traffic = layers.traffic(layer, which, batch, dtype.itemsize)
                        loss = partial(F.cross_entropy, target=labels)
                        self.time_function(one, loss, (batch, layer.classes), dtype, traffic)

    def time_sgd(self) -> None:
        network = layers.alexnet(1, self.scale)
        layer = network[-1]
        assert isinstance(layer, Sgd)

        for variant in ("foreach", "fused"):

            def make(variant: str = variant) -> Callable[[], Tensor]:
                parameters = list(peer.network(network, self.device).parameters())
                for w in parameters:
                    w.grad = torch.randn_like(w)
                optimizer = torch.optim.SGD(parameters, 0.01, momentum=0.9, weight_decay=5e-4, **{variant: True})

                def update() -> Tensor:
                    optimizer.step()
                    return parameters[0]

                return update

            row = {"layer": layer.name, "pass": "update", "towers": 1, "precision": "fp32", "variant": variant}
            self.time_pass(row, make, 0, layers.traffic(layer, "update", 1, 4))

    def time_layers(self, batch: int, precisions: Sequence[str]) -> None:
        one_tower, two_towers = layers.alexnet(1, self.scale), layers.alexnet(2, self.scale)
        grouped = [layer for layer in two_towers if isinstance(layer, Conv) and layer.groups == 2]
        padded = [Conv(f"conv1 with {C} channels", layers.INPUT, C, 96 // self.scale, 11, stride=4) for C in (4, 8)]
        for precision in precisions:
            with peer.precision(precision) as dtype:
                row = {"batch": batch, "precision": precision}
                for layout in peer.LAYOUTS:
                    for layer in [*one_tower, *grouped, *(padded if layout == "NHWC" else [])]:
                        if isinstance(layer, Conv):
                            for which in layer.passes:
                                one = row | {"layer": layer.name, "pass": which, "layout": layout}
                                one["towers"] = 2 if layer in grouped else 1
                                self.time_conv(layer, one, dtype, layout)
                    if precision != "tf32":
                        self.time_memory_bound(one_tower, row | {"towers": 1}, dtype, layout)
                for layer in one_tower:
                    if isinstance(layer, Linear):
                        for which in layer.passes:
                            one = row | {"layer": layer.name, "pass": which, "towers": 1}
                            self.time_linear(layer, one, dtype)

    # ---- the whole step

    def time_step(
        self,
        batch: int,
        precision: str,
        towers: int,
        layout: str,
        run: str,
        *,
        train: bool = True,
        steelman: bool = False,
    ) -> None:
        """`run`: eager, graph, compile or max-autotune (both compiled forms are captured as one CUDA graph too)."""
        mode = {"compile": "default", "max-autotune": "max-autotune-no-cudagraphs"}.get(run)
        row: Row = {"what": "training step" if train else "inference", "towers": towers, "batch": batch}
        row |= {"precision": precision, "layout": layout, "run": run, "variant": "steelman" if steelman else "library"}

        def measure() -> Row:
            if self.cuda:
                torch.cuda.reset_peak_memory_stats()
            if mode:
                torch._dynamo.reset()
                gc.collect()
            network = layers.alexnet(towers, self.scale)
            channels = 4 if steelman and layout == "NHWC" else 3
            lrn = peer.lrn_shifted if steelman else peer.lrn
            model = peer.network(network, self.device, lrn, channels)
            x = self.random(batch, channels, layers.INPUT, layers.INPUT, dtype=torch.float32)
            labels = torch.randint(layers.CLASSES, (batch,), device=self.device)
            step = peer.Step(model, x, labels, layout, precision, train, fused=True, compile_mode=mode)
            started = time.monotonic()
            for _ in range(3):
                step()
            if self.cuda:
                torch.cuda.synchronize()
            prepared = time.monotonic() - started
            taken = timing.summary(self.sample(peer.captured(step, warmup=1) if self.cuda and run != "eager" else step))
            if not torch.isfinite(step.result).all():
                raise ArithmeticError("the loss or a score is not finite")
            arithmetic = sum(layers.flop(layer, batch) * (len(layer.passes) if train else 1) for layer in network)
            memory = torch.cuda.max_memory_allocated() / 2**20 if self.cuda else None
            return taken | {
                "images_s": 1e3 * batch / taken["ms"],
                "tflops": arithmetic / taken["ms"] / 1e9,
                "peak_MiB": memory,
                "first_calls_s": prepared,
            }

        self.attempt(row, measure, COMPILE_SECONDS.get(mode or "", 0.0) if self.cuda else 0.0)

    def time_steps(self, batch: int, precisions: Sequence[str]) -> None:
        for precision in precisions:
            for towers in (1, 2):
                for layout in peer.LAYOUTS:
                    if precision == "bf16" and batch < 1024:
                        self.time_step(batch, precision, towers, layout, "eager")
                    self.time_step(batch, precision, towers, layout, "graph")
                    self.time_step(batch, precision, towers, layout, "graph", train=False)
                self.time_step(batch, precision, towers, "NHWC", "graph", steelman=True)
                self.time_step(batch, precision, towers, "NHWC", "graph", steelman=True, train=False)

    def time_compiled(self, batch: int, precision: str, run: str) -> None:
        for layout in ("NHWC", "NCHW"):
            self.time_step(batch, precision, 1, layout, run, steelman=True)
        self.time_step(batch, precision, 1, "NHWC", run, steelman=True, train=False)


def best(rows: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """The fastest row of each combination of `keys`, in order of first appearance."""
    fastest: dict[tuple[object, ...], Row] = {}
    for row in rows:
        key = tuple(row.get(name) for name in keys)
        if key not in fastest or row["ms"] < fastest[key]["ms"]:
            fastest[key] = row
    return list(fastest.values())


def sections(baseline: Baseline) -> dict[str, str]:
    steps = [row for row in baseline.rows if "what" in row]
    passes = [row for row in baseline.rows if "layer" in row]
    spread = {"ms": "ms", "q1_ms": "quartile 1", "q3_ms": "quartile 3"}
    step_columns = {"what": "", "towers": "towers", "batch": "batch", "precision": "precision"}
    how = {"layout": "layout", "run": "run", "variant": "variant"}
    step_columns |= how | spread | {"images_s": "images/s", "tflops": "TFLOP/s", "peak_MiB": "peak MiB"}
    formats = dict.fromkeys(spread, ".4g") | {"images_s": ".0f", "peak_MiB": ".0f", "share_of_floor": ".0%"}
    pass_columns = {"layer": "layer", "pass": "pass", "towers": "towers", "batch": "batch", "precision": "precision"}
    pass_columns |= {"layout": "layout", "variant": "variant"} | spread
    pass_columns |= {"tflops": "TFLOP/s", "tb_s": "TB/s", "floor_ms": "floor ms", "share_of_floor": "of floor"}
    pass_columns |= {"kernel": "longest kernel"}
    product = f"product of two {baseline.side} x {baseline.side} matrices"
    units = {"copy": "copy, TB/s read plus written"}
    units |= {name: f"{product} in {name}, TFLOP/s" for name in peer.PRECISIONS}
    ceilings = [{"what": units[key], "value": value} for key, value in baseline.ceilings.items()]
    why = {"what": "", "layer": "layer", "pass": "pass", "towers": "towers", "batch": "batch", "precision": "precision"}
    why |= how | {"why": "why"}
    networks = best(steps, ("what", "towers", "batch", "precision"))
    fastest = best(passes, ("layer", "pass", "towers", "batch", "precision"))
    return {
        "Ceilings measured in this run": timing.table(ceilings, {"what": "", "value": ""}),
        "Whole network, the fastest form of each": timing.table(networks, step_columns, formats),
        "Layers, the fastest form of each": timing.table(fastest, pass_columns, formats),
        "Whole network, every form": timing.table(steps, step_columns, formats),
        "Layers, every form": timing.table(passes, pass_columns, formats),
        "Failed": timing.table(baseline.failed, why) if baseline.failed else "",
        "Not measured": timing.table(baseline.skipped, why) if baseline.skipped else "",
    }


def measure(baseline: Baseline, batches: Sequence[int], precisions: Sequence[str]) -> None:
    """Everything, the most wanted first, so that the budget cuts what is wanted least."""
    baseline.measure_ceilings()
    first, *others = batches
    baseline.time_steps(first, precisions)
    baseline.time_compiled(first, precisions[0], "compile")
    baseline.time_layers(first, precisions)
    baseline.time_sgd()
    for precision in precisions:
        baseline.time_step(1, precision, 1, "NHWC", "graph", train=False)
    for batch in others:
        baseline.time_steps(batch, precisions)
        baseline.time_compiled(batch, precisions[0], "compile")
    baseline.time_compiled(first, precisions[0], "max-autotune")
    for batch in others:
        baseline.time_layers(batch, precisions)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--precision", nargs="+", default=["bf16", "tf32", "fp32"], choices=peer.PRECISIONS)
    parser.add_argument("--budget", type=float, default=180.0, help="seconds; what does not fit is not measured")
    parser.add_argument("--quick", action="store_true", help="tiny networks, one sample: to see that the code runs")
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: benchmarks/results, with --quick none)"
    )
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("baseline_gpu: no usable CUDA GPU (--device cpu --quick runs the code without one)", file=sys.stderr)
        return 2
    if arguments.device == "cpu" and not arguments.quick:
        print("baseline_gpu: --device cpu only exercises the code: give --quick too", file=sys.stderr)
        return 2

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    if arguments.quick:
        torch.set_num_threads(1)  # nothing here is worth a second thread
    batches = [2] if arguments.quick else sorted(arguments.batch)
    environment = timing.environment(cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    baseline = Baseline(arguments.device, arguments.budget, 2 if arguments.quick else 30, arguments.quick)
    # One stream for all: a gradient runs on the stream of its forward pass, and the default one cannot be captured.
    with torch.cuda.stream(torch.cuda.Stream() if baseline.cuda else None):
        measure(baseline, batches, arguments.precision)

    gpu = timing.gpu_state()
    record = {
        "benchmark": "baseline_gpu",
        "environment": environment | ({"gpu_at_end": gpu} if gpu else {}),
        "ceilings": baseline.ceilings,
        "rows": baseline.rows,
        "failed": baseline.failed,
        "not_measured": baseline.skipped,
    }
    print(f"{len(baseline.rows)} figures, {len(baseline.failed)} failed, {len(baseline.skipped)} not measured")
    out = arguments.out or (None if arguments.quick else timing.RESULTS)
    if out:
        stem = f"baseline_gpu-{timing.gpu_slug() if baseline.cuda else 'cpu'}"
        title = f"PyTorch on AlexNet, {'GPU' if baseline.cuda else 'CPU (a check of the code)'}"
        timing.write(out, stem, title, record, sections(baseline))
    for row in baseline.failed[:10]:
        print("failed:", row, file=sys.stderr)
    return 1 if baseline.failed else 0


if __name__ == "__main__":
    sys.exit(main())
