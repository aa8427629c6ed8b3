"""The kernels against PyTorch in float64, an implementation that shares nothing with this one."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import reference
from conftest import Runner

from alexnet_cuda import kernels, nn, optim

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def torch(import_oracle: Callable[[str], ModuleType]) -> ModuleType:
    return import_oracle("torch")


class Torch:
    """One function of PyTorch in float64 on NHWC arrays, and its gradients."""

    def __init__(self, torch: ModuleType, function: Callable[..., Any], *arrays: np.ndarray) -> None:
        self.inputs = [torch.from_numpy(nchw(array).astype(np.float64)).requires_grad_() for array in arrays]
        self.result = function(*self.inputs)
        self.y = nhwc(self.result.detach().numpy())
        self.torch = torch

    def gradients(self, dy: np.ndarray) -> list[np.ndarray]:
        self.result.backward(self.torch.from_numpy(nchw(dy).astype(np.float64)))
        return [nhwc(tensor.grad.numpy()) for tensor in self.inputs]


def nchw(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def bounds(torch: ModuleType, function: Callable[..., Any], dy: np.ndarray, *arrays: np.ndarray) -> list[np.ndarray]:
    """The magnitudes of the terms of y and of each gradient, for a function that is linear in each argument."""
    oracle = Torch(torch, function, *map(abs, arrays))
    return [oracle.y, *oracle.gradients(abs(dy))]


@pytest.mark.parametrize(
    ("x", "w", "stride", "padding", "groups"),
    [
        ((2, 63, 67, 3), (16, 11, 11, 3), 4, 0, 1),
        ((2, 63, 67, 3), (16, 11, 11, 3), 4, 2, 1),
        ((2, 27, 27, 12), (32, 5, 5, 6), 1, 2, 2),
        ((2, 13, 13, 32), (48, 3, 3, 32), 1, 1, 1),
        ((2, 13, 13, 48), (48, 3, 3, 24), 1, 1, 2),
        ((2, 9, 8, 6), (9, 2, 3, 2), (3, 2), (1, 2), 3),
    ],
)
def test_conv2d(
    run_gemm: Runner,
    torch: ModuleType,
    x: tuple[int, ...],
    w: tuple[int, ...],
    stride: Any,
    padding: Any,
    groups: int,
) -> None:
    def function(x: Any, w: Any, b: Any) -> Any:
        return torch.nn.functional.conv2d(x, w, b, stride, padding, groups=groups)

    arrays = reference.random(*x, seed=1), reference.random(*w, seed=2), reference.random(w[0], seed=3)
    oracle = Torch(torch, function, *arrays)
    dy = reference.random(*oracle.y.shape, seed=4)
    K, KH, KW, per_group = w
    pixels = math.prod(oracle.y.shape[:3])
    windows = {"stride": stride, "padding": padding, "groups": groups}
    actual = [
        run_gemm(kernels.conv2d, *arrays, **windows),
        *run_gemm(kernels.conv2d_backward, dy, *arrays[:2], **windows),
    ]
    terms = [KH * KW * per_group + 1, KH * KW * K // groups, pixels, pixels]
    expected, magnitudes = [oracle.y, *oracle.gradients(dy)], bounds(torch, function, dy, *arrays)
    for i in range(4):
        reference.assert_close(actual[i], expected[i], reference.rounding_error(magnitudes[i], terms[i]))


@pytest.mark.parametrize(("N", "inputs", "outputs"), [(1, 1, 1), (5, 300, 70), (33, 65, 1000)])
def test_linear(run_gemm: Runner, torch: ModuleType, N: int, inputs: int, outputs: int) -> None:
    function = torch.nn.functional.linear
    arrays = (
        reference.random(N, inputs, seed=1),
        reference.random(outputs, inputs, seed=2),
        reference.random(outputs, seed=3),
    )
    dy = reference.random(N, outputs, seed=4)
    oracle = Torch(torch, function, *arrays)
    actual = [run_gemm(kernels.linear, *arrays), *run_gemm(kernels.linear_backward, dy, *arrays[:2])]
    expected, magnitudes = [oracle.y, *oracle.gradients(dy)], bounds(torch, function, dy, *arrays)
    for i, terms in enumerate([inputs + 1, outputs, N, N]):
        reference.assert_close(actual[i], expected[i], reference.rounding_error(magnitudes[i], terms))


@pytest.mark.parametrize("ceil", [False, True], ids=["floor", "ceil"])
@pytest.mark.parametrize(
    ("x", "size", "stride", "padding"),
    [
        ((2, 55, 55, 4), 3, 2, 0),
        ((2, 32, 31, 5), 3, 2, 0),
        ((2, 13, 13, 33), 3, 2, 1),
        ((2, 9, 12, 3), (2, 4), (3, 2), (1, 2)),
        ((1, 5, 5, 2), 2, 3, 1),
        ((1, 7, 7, 2), 1, 3, 0),
    ],
)
def test_pooling(
    run: Runner, torch: ModuleType, x: tuple[int, ...], size: Any, stride: Any, padding: Any, ceil: bool
) -> None:
    windows = {"size": size, "stride": stride, "padding": padding, "ceil": ceil}
    image = reference.distinct(*x)
    functional = torch.nn.functional
    largest = Torch(torch, lambda x: functional.max_pool2d(x, size, stride, padding, ceil_mode=ceil), image)
    mean = Torch(
        torch, lambda x: functional.avg_pool2d(x, size, stride, padding, ceil_mode=ceil, count_include_pad=False), image
    )
    dy = reference.random(*largest.y.shape)
    area = math.prod(np.broadcast_to(size, 2))

    y, which = run(kernels.max_pool2d, image, **windows)
    reference.assert_close(y, largest.y, 0)
    (dx,) = largest.gradients(dy)
    actual = run(kernels.max_pool2d_backward, dy, which, x, **windows)
    # at most `area` windows share a pixel
    reference.assert_close(actual, dx, reference.rounding_error(abs(dy).max() * area, area))

    reference.assert_close(run(kernels.avg_pool2d, image, **windows), mean.y, reference.rounding_error(1, area + 2))
    (dx,) = mean.gradients(dy)
    actual = run(kernels.avg_pool2d_backward, dy, x, **windows)
    reference.assert_close(actual, dx, reference.rounding_error(abs(dy).max() * area, area))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(("k", "alpha"), [(2.0, 1e-4), (1.0, 2e-5), (1.0, 0.1)])
def test_lrn(run: Runner, torch: ModuleType, size: int, k: float, alpha: float) -> None:
    """PyTorch divides its alpha by the size of the window."""
    x, dy = 30 * reference.random(2, 5, 4, 17, seed=1), reference.random(2, 5, 4, 17, seed=2)
    oracle = Torch(torch, lambda x: torch.nn.functional.local_response_norm(x, size, alpha * size, 0.75, k), x)
    roundings = 1.75 * (size + 4) + size + 15
    error = reference.rounding_error(abs(oracle.y), roundings)
    reference.assert_close(run(kernels.lrn, x, size, k, alpha, 0.75), oracle.y, error)
    magnitude = reference.lrn_backward(
        abs(dy.astype(np.float64)), abs(x.astype(np.float64)), size, k, alpha, 0.75, sign=1
    )
    error = reference.rounding_error(magnitude, roundings)
    (dx,) = oracle.gradients(dy)
    reference.assert_close(run(kernels.lrn_backward, dy, x, size, k, alpha, 0.75), dx, error)


@pytest.mark.parametrize(("N", "C"), [(1, 1), (5, 10), (130, 1000)])
def test_softmax_cross_entropy(run: Runner, torch: ModuleType, N: int, C: int) -> None:
    x = 3 * reference.random(N, C)
    labels = np.random.default_rng(0).integers(0, C, N, np.int32)
    oracle = Torch(torch, lambda x: torch.nn.functional.cross_entropy(x, torch.from_numpy(labels).long()), x)
    loss, _, p = run(kernels.softmax_cross_entropy, x, labels)
    shifted = np.ptp(x, 1).max()
    reference.assert_close(loss, oracle.y, reference.rounding_error(1 + 2 * shifted + np.log(C), C + N + 12))
    expected = torch.softmax(oracle.inputs[0], 1).detach().numpy()
    error = reference.rounding_error(expected, C + 6 + shifted)
    reference.assert_close(p, expected, error)
    (dx,) = oracle.gradients(np.array(1.0))
    onehot = np.eye(C)[labels]
    actual = run(kernels.softmax_cross_entropy_backward, p, labels)
    reference.assert_close(actual, dx, (error + reference.rounding_error(expected + onehot, 4)) / N)


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
def test_activations(run: Runner, torch: ModuleType, name: str) -> None:
    x, dy = 3 * reference.random(100, 7, seed=1), reference.random(100, 7, seed=2)
    oracle = Torch(torch, getattr(torch, name), x)
    y = run(getattr(kernels, name), x)
    reference.assert_close(y, oracle.y, reference.rounding_error(abs(oracle.y), 6))
    (dx,) = oracle.gradients(dy)
    # |dx / dy| <= 1 changes by at most 2 |error of y|, and rounds three times
    actual = run(getattr(kernels, f"{name}_backward"), dy, y)
    reference.assert_close(actual, dx, reference.rounding_error(abs(dy.astype(np.float64)), 2 * 6 + 3))


def test_sgd_equals_torch_while_the_rate_is_constant(run: Runner, torch: ModuleType) -> None:
    w = reference.random(50)
    parameter = torch.from_numpy(w.astype(np.float64)).requires_grad_()
    optimizer = torch.optim.SGD([parameter], lr=0.01, momentum=0.9, weight_decay=5e-4)
    w, v = run.put(w.copy()), run.put(np.zeros(50, np.float32))
    for step in range(5):
        g = reference.random(50, seed=step)
        parameter.grad = torch.from_numpy(g.astype(np.float64))
        optimizer.step()
        run(kernels.sgd, w, v, g, 0.01)
    # |w| < 4 rounds once a step; v is a hundredth of it
    reference.assert_close(run.get(w), parameter.detach().numpy(), reference.rounding_error(4, 6))


def test_adam(run: Runner, torch: ModuleType) -> None:
    w = reference.random(50)
    parameter = torch.from_numpy(w.astype(np.float64)).requires_grad_()
    betas = float(np.float32(0.9)), float(np.float32(0.999))
    optimizer = torch.optim.Adam([parameter], lr=0.01, betas=betas, weight_decay=0.1)
    w, m, v = run.put(w.copy()), run.put(np.zeros(50, np.float32)), run.put(np.zeros(50, np.float32))
    for t in range(1, 6):
        g = reference.random(50, seed=t)
        parameter.grad = torch.from_numpy(g.astype(np.float64))
        optimizer.step()
        run(kernels.adam, w, m, v, g, 0.01, t, decay=0.1, form="pytorch")
    # a step is at most a few times 0.01, right to some 40 roundings; |w| < 4 rounds once a step
    error = reference.rounding_error(4, 6) + 5 * reference.rounding_error(0.03, 40)
    reference.assert_close(run.get(w), parameter.detach().numpy(), error)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_spatial_lrn(run: Runner, torch: ModuleType, size: int) -> None:
    k, alpha, beta = 1.0, 0.02, 0.75
    x, dy = 3 * reference.random(2, 9, 8, 5, seed=1), reference.random(2, 9, 8, 5, seed=2)

    def function(x: Any) -> Any:
        mean = torch.nn.functional.avg_pool2d(x**2, size, stride=1, padding=size // 2)  # pixels outside count as zeros
        return x * (k + alpha * size**2 * mean) ** -beta

    oracle = Torch(torch, function, x)
    area = size**2
    error = reference.rounding_error(abs(oracle.y), beta * (area + 4) + 9)
    reference.assert_close(run(kernels.spatial_lrn, x, size, k, alpha, beta), oracle.y, error)
    (dx,) = oracle.gradients(dy)
    magnitude = reference.spatial_lrn_backward(
        abs(dy.astype(np.float64)), abs(x.astype(np.float64)), size, k, alpha, beta, sign=1
    )
    error = reference.rounding_error(magnitude, (beta + 1) * (area + 4) + area + 15)
    reference.assert_close(run(kernels.spatial_lrn_backward, dy, x, size, k, alpha, beta), dx, error)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(run: Runner, torch: ModuleType, training: bool) -> None:
    x, dy = 2 + 3 * reference.random(4, 9, 8, 5, seed=1), reference.random(4, 9, 8, 5, seed=2)
    gamma, beta, mean = (reference.random(5, seed=i) for i in (3, 4, 5))
    variance = abs(reference.random(5, seed=6)) + np.float32(0.5)
    running = [torch.from_numpy(array.astype(np.float64)) for array in (mean, variance)]

    def function(x: Any, gamma: Any, beta: Any) -> Any:
        return torch.nn.functional.batch_norm(x, *running, gamma, beta, training, momentum=0.25, eps=1e-3)

    oracle = Torch(torch, function, x, gamma, beta)
    kept = [run.put(array.copy()) for array in (mean, variance)]
    y, m, r = run(kernels.batch_norm, x, gamma, beta, *kept, momentum=0.75, epsilon=1e-3, training=training)
    # values near 10 that went through two sums over 288 rows
    reference.assert_close(y, oracle.y, reference.rounding_error(abs(oracle.y) + 10, 60))
    for got, expected in zip(
        run(kernels.batch_norm_backward, dy, x, gamma, m, r, training), oracle.gradients(dy), strict=True
    ):
        magnitude = abs(expected) + (abs(dy).sum((0, 1, 2)) * 4 if got.ndim == 1 else 4)
        reference.assert_close(got, expected, reference.rounding_error(magnitude, 60))
    reference.assert_close(run.get(kept[0]), running[0].numpy(), reference.rounding_error(10, 60))
    if training:  # PyTorch keeps the variance divided by rows - 1
        rows = x.size // 5
        expected = 0.75 * variance + (running[1].numpy() - 0.75 * variance) * (rows - 1) / rows
        reference.assert_close(run.get(kept[1]), expected, reference.rounding_error(expected + 10, 60))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_with_weights_and_smoothing(run: Runner, torch: ModuleType, weighted: bool, smoothing: float) -> None:
    N, C = 33, 97
    x, labels = 3 * reference.random(N, C), np.random.default_rng(0).integers(0, C, N, np.int32)
    weights = np.random.default_rng(1).uniform(0.25, 4, C).astype(np.float32) if weighted else None
    a = np.ones(C) if weights is None else weights.astype(np.float64)
    known = torch.from_numpy(labels.astype(np.int64))

    def function(x: Any) -> Any:
        options = {"weight": torch.from_numpy(a) if weighted else None, "label_smoothing": smoothing}
        return torch.nn.functional.cross_entropy(x, known, **options)

    oracle = Torch(torch, function, x)
    (dx,) = oracle.gradients(np.array(1.0))
    loss, _, p = run(kernels.softmax_cross_entropy, x, labels, weights, smoothing)
    # test_softmax_cross_entropy.py has the errors element by element; logits within 24 of a row's largest
    error = reference.rounding_error(a.max() / a.min() * (24 + math.log(C)), N + C)
    reference.assert_close(loss, oracle.y, error)
    gradient = run(kernels.softmax_cross_entropy_backward, p, labels, None, weights, smoothing)
    reference.assert_close(gradient, dx, reference.rounding_error(a.max() / a[labels].sum(), 24 + N + C))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_mixed_labels(run: Runner, torch: ModuleType, smoothing: float) -> None:
    """As of probabilities of the classes."""
    N, C = 33, 97
    rng = np.random.default_rng(0)
    x, labels, others = 3 * reference.random(N, C), rng.integers(0, C, N, np.int32), rng.integers(0, C, N, np.int32)
    mix = rng.random(N).astype(np.float32)
    wanted = torch.from_numpy(reference.label_weights(labels, np.ones(C), (others, mix.astype(np.float64))))

    def function(x: Any) -> Any:
        return torch.nn.functional.cross_entropy(x, wanted, label_smoothing=smoothing)

    oracle = Torch(torch, function, x)
    (dx,) = oracle.gradients(np.array(1.0))
    loss, _, p = run(kernels.softmax_cross_entropy, x, labels, None, smoothing, others, mix)
    reference.assert_close(loss, oracle.y, reference.rounding_error(24 + math.log(C), N + C))
    gradient = run(kernels.softmax_cross_entropy_backward, p, labels, None, None, smoothing, others, mix)
    reference.assert_close(gradient, dx, reference.rounding_error(1 / N, 24 + N + C))


def resizing(crop: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """The map (1, 2, 3) of a crop: top, left, height, width."""
    top, left, high, wide = crop
    down, right = high / size[0], wide / size[1]
    return np.array([[[top - 0.5 + down / 2, down, 0], [left - 0.5 + right / 2, 0, right]]], np.float32)


@pytest.mark.parametrize("size", [(15, 11), (9, 40), (40, 52), (50, 63)], ids=str)
def test_resized_crops(run: Runner, torch: ModuleType, size: tuple[int, int]) -> None:
    """As ``interpolate`` with antialias has a crop, but for the border, at which the filter sees pixels around it; and
    all of it where it is the whole image."""
    x = np.random.default_rng(0).integers(0, 256, (1, 50, 63, 3), np.uint8)
    mean = np.full((50, 63, 3), 128, np.float32)
    for top, left, high, wide in [(0, 0, 50, 63), (7, 4, 33, 41), (20, 30, 12, 9)]:
        cut = x[:, top : top + high, left : left + wide].transpose(0, 3, 1, 2).astype(np.float64) - 128
        oracle = torch.nn.functional.interpolate(torch.from_numpy(cut), size, mode="bilinear", antialias=True)
        y = run(kernels.augment, x, size, mean, resizing((top, left, high, wide), size))[0]
        apart = high / size[0], wide / size[1]
        edges = [0 if (high, wide) == (50, 63) else math.ceil(max(1, 1 / step)) for step in apart]
        inner = tuple(slice(edge, n - edge) for edge, n in zip(edges, size, strict=True))
        # places up to 63, rounded thrice, where the values change by up to 255 a pixel; two filters
        error = 2 * 255 * reference.rounding_error(63, 4) + reference.rounding_error(255, 30)
        reference.assert_close(y[inner], oracle.numpy()[0].transpose(1, 2, 0)[inner], error)


STEPS = 20


@pytest.mark.parametrize(
    ("ours", "name", "theirs"),
    [
        ({"nesterov": True}, "SGD", {"momentum": 0.9, "nesterov": True}),
        ({}, "SGD", {"momentum": 0.9}),
        ({"form": "pytorch", "decoupled": True}, "AdamW", {"betas": (0.9, 0.999)}),
        ({"form": "pytorch"}, "Adam", {"betas": (0.9, 0.999)}),
    ],
)
def test_optimizers_with_averages(torch: ModuleType, ours: dict[str, Any], name: str, theirs: dict[str, Any]) -> None:
    """Twenty steps down a bowl, in the plain and in the averaged weights. PyTorch's average begins, as ours, at the
    first step's weights; it then takes a constant rate, which is ours where it is handed over."""
    lr, decay = 0.05, 0.1
    w, centre = reference.random(50, seed=1), reference.random(50, seed=2)
    p = nn.Parameter(w.copy())
    kind = optim.SGD if name == "SGD" else optim.Adam
    optimizer = kind([p], lr, decay=decay, ema=0.9, **ours)
    q = torch.nn.Parameter(torch.from_numpy(w.astype(np.float64)))
    other = getattr(torch.optim, name)([q], lr, weight_decay=decay, **theirs)
    average = torch.zeros(50, dtype=torch.float64)
    for step in range(1, STEPS + 1):
        p.grad = p.data - centre
        optimizer.step()
        q.grad = q.detach() - torch.from_numpy(centre.astype(np.float64))
        other.step()
        rate = (1 - 0.9) / (1 - 0.9**step)
        torch.optim.swa_utils.get_ema_multi_avg_fn(1 - rate)([average], [q.detach()], step)
    # sums of a few terms below 2 in each step, and errors that a bowl does not make larger but momentum keeps ten steps
    error = reference.rounding_error(2, 10 * 10 * STEPS)
    reference.assert_close(p.data, q.detach().numpy(), error)
    with optimizer.averaged():
        reference.assert_close(p.data, average.numpy(), error)
