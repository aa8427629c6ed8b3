"""What a call costs before any arithmetic: microseconds an operation on arrays of a few elements.

As a plain function (checks, output, binding, launch) and in autograd, forward and backward: processor time of the
thread that calls. On a GPU a step hides it as long as the device is the slower one, and a CUDA graph spends it once.

    python benchmarks/overhead_bench.py --device cpu
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import bench_options
import numpy as np
import timing
from timing import Row

from alexnet_cuda import Tensor, backend, kernels, nn, ops, optim

TARGET_US = 15.0
LR = 1e-6


def plain(where: backend.Device) -> dict[str, Callable[[], object]]:
    """Each kernel of AlexNet's training step, called on tiny arrays."""
    rng = np.random.default_rng(0)

    def floats(*shape: int) -> kernels.Array:
        return backend.from_host(rng.standard_normal(shape, np.float32), where)

    x, w, b, dy = floats(1, 4, 4, 4), floats(4, 3, 3, 4), floats(4), floats(1, 4, 4, 4)
    rows, full, flat, gradient = floats(2, 4), floats(4, 4), floats(4), floats(4)
    velocity, lr, labels = floats(4), backend.from_host(np.array(LR, np.float32), where), np.array([1, 3], np.int32)
    labels = backend.from_host(labels, where)
    state = backend.from_host(np.array([0, 1], np.uint64), where)
    which, p = kernels.max_pool2d(x, 2)[1], kernels.softmax(rows)
    pooled, one = floats(1, 2, 2, 4), backend.from_host(np.ones((), np.float32), where)
    images = backend.from_host(np.zeros((1, 4, 4, 3), np.uint8), where)
    mean, crops = floats(4, 4, 3), backend.from_host(np.zeros((1, 3), np.int32), where)
    weights_only = (False, True, False)
    return {
        "augment": lambda: kernels.augment(images, (3, 3), mean, crops),
        "conv2d": lambda: kernels.conv2d(x, w, b, padding=1, relu=True),
        "conv2d_backward, dw": lambda: kernels.conv2d_backward(dy, x, w, padding=1, needs=weights_only),
        "linear": lambda: kernels.linear(rows, full, b, relu=True),
        "linear_backward, dw": lambda: kernels.linear_backward(rows, rows, full, weights_only),
        "bias_backward": lambda: kernels.bias_backward(rows),
        "relu_backward": lambda: kernels.relu_backward(dy, x),
        "lrn": lambda: kernels.lrn(x),
        "lrn_backward": lambda: kernels.lrn_backward(dy, x),
        "max_pool2d": lambda: kernels.max_pool2d(x, 2),
        "max_pool2d_backward": lambda: kernels.max_pool2d_backward(pooled, which, x.shape, 2),
        "dropout": lambda: kernels.dropout(rows, state=state),
        "softmax_cross_entropy": lambda: kernels.softmax_cross_entropy(rows, labels),
        "softmax_cross_entropy_backward": lambda: kernels.softmax_cross_entropy_backward(p, labels, one),
        "sgd": lambda: kernels.sgd(flat, velocity, gradient, lr),
    }


def in_autograd(where: backend.Device) -> dict[str, tuple[Callable[[], object], int]]:
    """Calls through tensors, with how many operations each is."""
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((2, 4), np.float32), requires_grad=True, device=where)
    dy = backend.from_host(np.ones((2, 4), np.float32), where)
    layers = [nn.Linear(4, 4, activation="relu", rng=rng, device=where) for _ in range(8)]
    parameters = [p for layer in layers for p in layer.parameters()]
    sgd = optim.SGD(parameters, LR)
    gradients = [backend.zeros(p.shape, np.float32, where) for p in parameters]

    def forward() -> Tensor:
        y = x
        for layer in layers:
            y = layer(y)
        return y

    def both() -> None:
        for t in (x, *parameters):
            t.grad = None
        forward().backward(dy)

    def update() -> None:
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        sgd.step()

    return {
        "relu, forward": (lambda: ops.activation(x, "relu"), 1),
        "linear, forward": (forward, len(layers)),
        "linear, forward and backward": (both, 2 * len(layers)),
        "an update of SGD": (update, len(parameters)),
    }


def microseconds(
    run: Callable[[], object], operations: int, calls: int, rounds: int, synchronize: Callable[[], object]
) -> Row:
    """An operation's: median and quartiles of the rounds."""
    for _ in range(calls):
        run()
    samples = []
    for _ in range(rounds):
        synchronize()
        began = time.thread_time()
        for _ in range(calls):
            run()
        samples.append(1e6 * (time.thread_time() - began) / (calls * operations))
    row = timing.summary(samples)
    return {key.replace("ms", "us"): value for key, value in row.items()}


def measure(device: str, calls: int, rounds: int) -> list[Row]:
    where = backend.device(device)
    candidates = {("plain", name): (run, 1) for name, run in plain(where).items()}
    candidates |= {("autograd", name): pair for name, pair in in_autograd(where).items()}
    rows: list[Row] = []
    for (kind, name), (run, operations) in candidates.items():
        taken = microseconds(run, operations, calls, rounds, lambda: backend.synchronize(where))
        rows.append({"call": kind, "operation": name} | taken | {"within": taken["us"] <= TARGET_US})
    return rows


def table(rows: list[Row]) -> str:
    columns = {"call": "call", "operation": "operation", "us": "us", "q1_us": "quartile 1", "q3_us": "quartile 3"}
    formats = dict.fromkeys(("us", "q1_us", "q3_us"), ".1f")
    return timing.table(rows, columns | {"within": f"at most {TARGET_US:g} us"}, formats)


def main() -> int:
    parser = bench_options.Parser("overhead_bench", __doc__, "few calls, one round", peers=())
    parser.add_argument("--rounds", type=int, help="samples of each; default 15")
    arguments = parser.options()
    rounds = arguments.rounds or (1 if arguments.quick else 15)
    backend.set_threads(1)  # nothing here is large enough for two
    environment = timing.environment(threads=1)
    rows = measure(arguments.device, 20 if arguments.quick else 500, rounds)
    print(table(rows))
    if arguments.out:
        record = {"benchmark": "overhead_bench", "environment": environment, "target_us": TARGET_US, "rows": rows}
        title = "What a call costs before any arithmetic"
        timing.write(arguments.out, arguments.stem, title, record, {"Host time": table(rows)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
