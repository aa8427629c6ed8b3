"""The same bits from run to run and for every number of threads, for every operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
from conftest import KERNELS, Runner
from ml_dtypes import bfloat16

from alexnet_cuda import backend, kernels
from alexnet_cuda.testing import thread_counts

Results = tuple[np.ndarray, ...]


def conv2d(run: Runner) -> Results:
    """Nine images: no number of threads divides them evenly. So many pixels that the weight gradient is split."""
    x, w, b = reference.random(9, 27, 25, 8), reference.random(16, 5, 5, 4), reference.random(16)
    dy = reference.random(9, 27, 25, 16)
    windows = {"padding": 2, "groups": 2}
    return (run(kernels.conv2d, x, w, b, **windows), *run(kernels.conv2d_backward, dy, x, w, **windows))


def conv2d_of_one_image(run: Runner) -> Results:
    x, w, b = reference.random(1, 67, 67, 3), reference.random(32, 11, 11, 3), reference.random(32)
    dy = reference.random(1, 15, 15, 32)
    return (run(kernels.conv2d, x, w, b, stride=4), *run(kernels.conv2d_backward, dy, x, w, stride=4))


def winograd(run: Runner) -> Results:
    """Several slices of tiles, and few tiles."""
    x, w, b = reference.random(40, 13, 13, 64), reference.random(64, 3, 3, 64), reference.random(64)
    dy = reference.random(40, 13, 13, 64, seed=1)
    options = {"padding": 1, "algorithm": "winograd"}
    both = (run(kernels.conv2d, images, w, b, **options) for images in (x, x[:1]))
    return (*both, *run(kernels.conv2d_backward, dy, x, w, mask=x, **options))


def tensor_cores(run: Runner) -> Results:
    """Sums along k that are split and sums that are not."""
    x, w, b = reference.random(3, 9, 10, 8), reference.random(16, 3, 3, 4), reference.random(16)
    dy = reference.random(3, 9, 10, 16)
    windows = {"padding": 1, "groups": 2, "precision": "bf16"}
    image, filters = reference.random(2, 39, 35, 3), reference.random(16, 11, 11, 3)
    first = {"stride": 4, "precision": "tf32", "algorithm": "space_to_depth"}
    column, square = reference.random(1000, 4), reference.random(4, 4)
    return (
        run(kernels.conv2d, x, w, b, **windows),
        *run(kernels.conv2d_backward, dy, x, w, mask=x, **windows),
        run(kernels.conv2d, image, filters, **first),
        *run(kernels.conv2d_backward, reference.random(2, 8, 7, 16), image, filters, **first),
        run(kernels.gemm, column, column, transpose_a=True, precision="tf32"),
        *run(kernels.linear_backward, column, column, square, precision="tf32", mask=column),
    )


def hopper(run: Runner) -> Results:
    """Several tiles a block, and sums over pixels that are split."""
    if backend.capability(backend.device(run.device)) not in (None, (9, 0)):
        pytest.skip("compute capability 9.0 alone")
    x, w, b = reference.random(9, 12, 12, 80), reference.random(24, 3, 3, 80), reference.random(24)
    dy = reference.random(9, 12, 12, 24)
    options = {"padding": 1, "algorithm": "hopper"}
    x16, dy16 = x.astype(bfloat16), dy.astype(bfloat16)
    return (
        run(kernels.conv2d, x, w, b, precision="tf32", **options),
        run(kernels.conv2d, x16, w, b, **options).astype(np.float32),
        *run(kernels.conv2d_backward, dy16, x16, w, needs=(False, True, True), **options)[1:],
    )


def linear(run: Runner) -> Results:
    x, w, b, dy = (reference.random(*shape) for shape in ((24, 2304), (513, 2304), (513,), (24, 513)))
    small = (
        run(kernels.linear, x[:5], w, b, precision="bf16"),
        run(kernels.linear, x[:5], w, b),
    )  # sums that are split
    return (run(kernels.linear, x, w, b), *run(kernels.linear_backward, dy, x, w), *small)


def short_linear(run: Runner) -> Results:
    """Weights in bfloat16 and int8, on rows that reread a block of them and on rows for which it is widened."""
    x, w, scale = reference.random(24, 1031), reference.random(513, 1031), reference.random(513)
    short = [(w.astype(bfloat16), None), ((40 * w).clip(-127, 127).astype(np.int8), scale)]
    return tuple(run(kernels.linear, x[:rows], w, scale=s) for w, s in short for rows in (1, 5, 24))


def gemm(run: Runner) -> Results:
    """A large result, and a long reduction into a small one."""
    a, b, column = reference.random(300, 200), reference.random(200, 260), reference.random(20_000, 3)
    return run(kernels.gemm, a, b), run(kernels.gemm, column, column, transpose_a=True)


def bias(run: Runner) -> Results:
    x, b = reference.random(5000, 97), reference.random(97)
    y = run(kernels.bias, x, b, relu=True)
    return y, run(kernels.bias_backward, x), *run(kernels.bias_relu_backward, x, y)


def max_pool2d(run: Runner) -> Results:
    x, dy = reference.random(9, 27, 27, 33), reference.random(9, 13, 13, 33)
    y, which = run(kernels.max_pool2d, x, 3, 2)
    return y, which, run(kernels.max_pool2d_backward, dy, which, x.shape, 3, 2)


def avg_pool2d(run: Runner) -> Results:
    x, dy = reference.random(9, 27, 27, 33), reference.random(9, 13, 13, 33)
    return run(kernels.avg_pool2d, x, 3, 2), run(kernels.avg_pool2d_backward, dy, x.shape, 3, 2)


def lrn(run: Runner) -> Results:
    x, dy = 30 * reference.random(3001, 96, seed=1), reference.random(3001, 96, seed=2)
    return run(kernels.lrn, x, groups=2), run(kernels.lrn_backward, dy, x, groups=2)


def lrn_max_pool2d(run: Runner) -> Results:
    x, dy = 30 * reference.random(9, 21, 23, 96, seed=1), reference.random(9, 10, 11, 96, seed=2)
    y, which = run(kernels.lrn_max_pool2d, x, groups=2)
    return y, which, run(kernels.lrn_max_pool2d_backward, dy, which, x, groups=2, one_pass=True)


def local2d(run: Runner) -> Results:
    x, w, b = reference.random(9, 12, 11, 16), reference.random(12, 11, 8, 3, 3, 8), reference.random(12, 11, 8)
    dy, windows = reference.random(9, 12, 11, 8), {"padding": 1, "groups": 2}
    w = np.ascontiguousarray(w)
    return (run(kernels.local2d, x, w, b, **windows), *run(kernels.local2d_backward, dy, x, w, **windows))


def spatial_lrn(run: Runner) -> Results:
    x, dy = 30 * reference.random(7, 13, 12, 33, seed=1), reference.random(7, 13, 12, 33, seed=2)
    return run(kernels.spatial_lrn, x), run(kernels.spatial_lrn_backward, dy, x)


def batch_norm(run: Runner) -> Results:
    x, dy = reference.random(5000, 97, seed=1), reference.random(5000, 97, seed=2)
    ones, running = np.ones(97, np.float32), [run.put(np.ones(97, np.float32)) for _ in range(2)]
    y, mean, r = run(kernels.batch_norm, x, ones, ones, *running)
    gradients = run(kernels.batch_norm_backward, dy, x, ones, mean, r)
    return y, mean, r, *map(run.get, running), *gradients


def augment(run: Runner) -> Results:
    x = np.random.default_rng(0).integers(0, 256, (9, 40, 50, 3), np.uint8)
    crops = np.array([[n % 3, n % 4, n % 2] for n in range(9)], np.int32)
    mean, noise = reference.random(40, 50, 3), reference.random(9, 3)
    maps = np.tile(np.array([[1, 0.9, 0.2], [3, -0.2, 0.9]], np.float32), (9, 1, 1))
    mix = np.linspace(0, 1, 9, dtype=np.float32)
    cut = run(kernels.augment, x, (37, 45), mean, crops, noise)
    return cut, run(kernels.augment, x, (37, 45), mean, maps, noise, mix=mix)


def activations(run: Runner) -> Results:
    x, dy = reference.random(100_003, seed=1), reference.random(100_003, seed=2)
    results: list[np.ndarray] = []
    for forward, backward in (
        (kernels.relu, kernels.relu_backward),
        (kernels.tanh, kernels.tanh_backward),
        (kernels.sigmoid, kernels.sigmoid_backward),
    ):
        results += [run(forward, x), run(backward, dy, x)]
    return tuple(results)


def broadcast(run: Runner) -> Results:
    """Derivatives that round, one of them at a kink; and a copy there and back."""
    x, dy, row = reference.random(311, 323, seed=1), reference.random(311, 323, seed=2), reference.random(323)
    y = run(kernels.gather, x, (323, 311), (1, 323))
    back = run.put(np.zeros_like(x))
    run(kernels.scatter, back, y, (1, 323))
    return run(kernels.broadcast, "scaled_tanh_backward", dy, x, row, 0.5), y, run.get(back)


def reduce(run: Runner) -> Results:
    """Long sums into few results and short ones into many."""
    x = reference.random(311, 323)
    results = list[np.ndarray]()
    for axes in (None, 0, 1):
        results.append(run(kernels.reduce_sum, x, axes))
        y, which = run(kernels.reduce_max, x, axes)
        results += [y, which, run(kernels.reduce_max_backward, y, which, x.shape, axes)]
    return tuple(results)


def cast(run: Runner) -> Results:
    y = run(kernels.cast, reference.random(100_003), "bfloat16")
    return y, run(kernels.cast, y, "float32")


def dropout(run: Runner) -> Results:
    x = reference.random(100_003)
    return run(kernels.dropout, x, seed=1), run(kernels.dropout_backward, x, seed=1)


def softmax_cross_entropy(run: Runner) -> Results:
    x, labels = reference.random(301, 1000), np.arange(301, dtype=np.int32)
    loss, losses, p = run(kernels.softmax_cross_entropy, x, labels)
    options = abs(reference.random(1000, seed=1)), 0.1
    weighted = run(kernels.softmax_cross_entropy, x, labels, *options)
    dx = run(kernels.softmax_cross_entropy_backward, p, labels)
    weighted_dx = run(kernels.softmax_cross_entropy_backward, p, labels, None, *options)
    sums = run(kernels.class_weight_sums, labels, options[0])
    return loss, losses, p, run(kernels.softmax, x), dx, *weighted, weighted_dx, sums


def sgd(run: Runner) -> Results:
    w, v, g = (run.put(reference.random(100_003, seed=i)) for i in range(3))
    run(kernels.sgd, w, v, g, 0.01)
    return run.get(w), run.get(v)


def multi_sgd(run: Runner) -> Results:
    w, v, g = ([run.put(reference.random(n, seed=i)) for n in (100_003, 7, 40_000)] for i in range(3))
    run(kernels.multi_sgd, w, v, g, [0.01] * 3, [0.9] * 3, [0.1] * 3)
    return tuple(map(run.get, (*w, *v)))


def linear_dropout(run: Runner) -> Results:
    """Sums along k that are split and sums that are not."""
    results = list[np.ndarray]()
    for N, outputs, inputs in ((130, 700, 40), (20, 33, 900), (5, 40, 300)):
        x, w = reference.random(N, inputs), reference.random(outputs, inputs)
        results.append(run(kernels.linear_dropout, x, w, seed=1, precision="tf32"))
    return tuple(results)


def linear_sgd(run: Runner) -> Results:
    """Sums along k that are split and sums that are not."""
    results = list[np.ndarray]()
    for N, outputs, inputs in ((16, 260, 515), (700, 9, 33)):
        w, v = (run.put(reference.random(outputs, inputs, seed=i)) for i in range(2))
        run(kernels.linear_sgd, w, v, reference.random(N, outputs), reference.random(N, inputs), 0.01, precision="tf32")
        results += [run.get(w), run.get(v)]
    return tuple(results)


def adam(run: Runner) -> Results:
    w, m, g = (run.put(reference.random(100_003, seed=i)) for i in range(3))
    v = run.put(np.ones(100_003, np.float32))
    run(kernels.adam, w, m, v, g, 0.01, 3)
    return run.get(w), run.get(m), run.get(v)


def ema(run: Runner) -> Results:
    average = run.put(reference.random(100_003))
    run(kernels.ema, average, reference.random(100_003, seed=1), 0.01)
    return (run.get(average),)


OPERATIONS = [
    conv2d, conv2d_of_one_image, winograd, tensor_cores, hopper, linear, short_linear, gemm, bias, max_pool2d,
    avg_pool2d, lrn, lrn_max_pool2d, broadcast, reduce, cast, activations, dropout, softmax_cross_entropy, sgd,
    multi_sgd, linear_dropout, linear_sgd, adam, ema, local2d, spatial_lrn, batch_norm, augment,
]  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_bits(run_gemm: Runner, operation: Callable[[Runner], Results]) -> None:
    expected: Any = None
    for threads in thread_counts():
        results = operation(run_gemm)
        assert all(np.isfinite(array).all() for array in results)
        bits = [array.tobytes() for array in results]
        expected = expected or bits
        equal = [actual == first for actual, first in zip(bits, expected, strict=True)]
        assert all(equal), f"results {[i for i, same in enumerate(equal) if not same]} differ on {threads} threads"


def test_every_function_is_here() -> None:
    names = set(KERNELS)
    source = {name for operation in OPERATIONS for name in operation.__code__.co_names}
    assert not names - source
