"""Naive float64 oracles of every operation, forward and backward.

The error that a float32 kernel may have, and dropout's random numbers, are those with which the product checks itself
(`alexnet_cuda.kernel_checks`); nothing here calls a kernel. Arrays have the product's layouts: images (N, H, W, C),
filters (K, KH, KW, C / groups). Sizes and strides are (vertical, horizontal), paddings ((top, bottom), (left, right)).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import DTypeLike, NDArray

from alexnet_cuda.kernel_checks.bounds import UNIT, rounding_error as rounding_error
from alexnet_cuda.kernel_checks.random_words import kept, philox as philox
from alexnet_cuda.testing import assert_close as assert_close, numeric_gradient as numeric_gradient

Array = NDArray[np.float64]
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

# ---- numbers


def random(*shape: int, seed: int = 0, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Standard normal numbers, a function of shape and seed; other dtypes round float32's."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape, np.float32).astype(dtype, copy=False)


def distinct(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Numbers in [-1, 1) no two of which are closer than 1 / count: no ties and no kinks for a central difference."""
    count = math.prod(shape)
    order = np.random.default_rng((seed, *shape)).permutation(count)
    return ((2 * order + 0.5) / count - 1).reshape(shape).astype(np.float32)


def mask(*shape: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """What may have come out of a ReLU, and more: numbers above and below 0, zeros of both signs, NaN."""
    x = random(*shape, seed=9, dtype=dtype)
    chosen = np.random.default_rng((9, *shape)).integers(0, 8, shape)
    for i, value in enumerate((0.0, -0.0, np.nan)):
        x[chosen == i] = value
    return x


def masked(gradient: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
    """The gradient where the mask is above 0 or NaN, else 0."""
    return np.where(mask.astype(np.float32) <= 0, np.zeros((), gradient.dtype), gradient)


# ---- products


PRODUCTS = {"tf32": "tf32", "bf16": "bf16", "bfloat16": "fp32"}
"""Kinds of products on tensor cores, each with the precision to ask for: bfloat16 is how the operands are stored."""


def stored(x: NDArray[np.float32], product: str) -> NDArray[Any]:
    """An operand of such a product, which may have to be rounded."""
    return x.astype(bfloat16) if product == "bfloat16" else x


def rounded(x: NDArray[Any], product: str) -> Array:
    """An operand as a product sees it: tf32 has 10 bits after the point (the nearest number, ties away from zero), bf16
    has 7 (ties to the even one)."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    if product == "tf32":
        bits = (bits + 0x1000) & 0xFFFFE000
    elif product in ("bf16", "bfloat16"):
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def tensor_core_error(magnitude: Array | float, terms: int, one_sign: bool = False) -> Array:
    """`rounding_error` of a sum on tensor cores, which cut off toward zero what float32 arithmetic rounds to nearest.

    The hardware adds in blocks (`tests/ptx/sums.h`). A block shifts its products and the sum before it to the largest
    exponent among them and cuts each product off, by less than UNIT L, where L is the largest product or partial sum;
    then the new sum, by less than 2 UNIT L. A block has at least four products, so with one block for four terms

        |error| <= (terms + 2 blocks) UNIT L,   L <= magnitude,

    for any data and order. 1 followed by products just below 2^-24 loses two thirds of that on Ampere. `terms` counts
    the products, and each further rounding to float32.

    Errors of one sign add up. If the products have random signs, as those of `random` numbers have (`one_sign` says
    that they have not), so has what is cut off them: |sum of it| <= lambda sqrt(terms) UNIT L, where a chance of
    2 exp(-lambda^2 / 2) exceeds it in the worst case (Hoeffding, as above). What is cut off the sums need not cancel.
    And L <= lambda sqrt(sum of the products' squares), with twice that chance (Levy's inequality). For products of two
    normal numbers the root is about pi / 2 magnitude / sqrt(terms), so with lambda = 6 at most L = 10 magnitude /
    sqrt(terms).
    """
    cut, largest = float(terms), np.asarray(magnitude, np.float64)
    if not one_sign:
        cut, largest = min(cut, 6 * math.sqrt(terms)), largest * min(1.0, 10 / math.sqrt(terms))
    return np.asarray((cut + 2 * math.ceil(terms / 4)) * UNIT * largest)


NORM_WISE = {
    "tf32": 1e-3,
    "bf16": 1e-2,
}  # how far a result may be from that of unrounded operands, relative to its norm


def assert_near(actual: NDArray[np.float32], exact: Array, precision: str) -> None:
    """`actual` is within the precision's norm-wise error of the product of unrounded operands."""
    error, limit = np.linalg.norm(actual - exact), NORM_WISE[precision] * np.linalg.norm(exact)
    assert error <= limit, f"error {error:.3g}, allowed {limit:.3g}"


def gemm(a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False) -> Array:
    """op(A) op(B)"""
    return np.einsum(f"{'km' if transpose_a else 'mk'},{'nk' if transpose_b else 'kn'}->mn", a, b)


def linear(x: Array, w: Array, b: Array) -> Array:
    """y = x w^T + b, w (out, in)"""
    return np.einsum("ni,oi->no", x, w) + b


def linear_backward(dy: Array, x: Array, w: Array) -> tuple[Array, Array, Array]:
    return np.einsum("no,oi->ni", dy, w), np.einsum("no,ni->oi", dy, x), dy.sum(0)


# ---- windows over images


def output_size(size: int, kernel: int, stride: int, padding: Pair, ceil: bool) -> int:
    """The windows that fit into the padded size. With `ceil` one more, reaching past the end, where pixels are left
    over (cuda-convnet's rule) and where it starts inside the image.
    """
    start, end, count = -padding[0], size + padding[1], 0
    while start + kernel <= end:
        start += stride
        count += 1
    left_over = start - stride + kernel < end
    return count + (ceil and left_over and start < size)


def output_shape(image: Pair, kernel: Pair, stride: Pair, padding: Padding, ceil: bool) -> Pair:
    return (
        output_size(image[0], kernel[0], stride[0], padding[0], ceil),
        output_size(image[1], kernel[1], stride[1], padding[1], ceil),
    )


def conv2d(x: Array, w: Array, b: Array, stride: Pair, padding: Padding, groups: int = 1, ceil: bool = False) -> Array:
    """y[n, oh, ow, k] = b[k] + sum over kh, kw, c of x[n, oh S + kh - pad, ow S + kw - pad, c] w[k, kh, kw, c]"""
    (N, H, W, _), (K, KH, KW, Cg) = x.shape, w.shape
    OH, OW = output_shape((H, W), (KH, KW), stride, padding, ceil)
    padded = _pad(x, (KH, KW), stride, padding, (OH, OW))
    y = np.empty((N, OH, OW, K))
    for oh, ow in np.ndindex(OH, OW):
        top, left = oh * stride[0], ow * stride[1]
        window = padded[:, top : top + KH, left : left + KW]
        for g, k in _groups(groups, K):
            y[:, oh, ow, k] = np.tensordot(window[..., g * Cg : (g + 1) * Cg], w[k], ((1, 2, 3), (1, 2, 3))) + b[k]
    return y


def conv2d_backward(
    dy: Array, x: Array, w: Array, stride: Pair, padding: Padding, groups: int = 1, ceil: bool = False
) -> tuple[Array, Array, Array]:
    """What each product of the forward pass adds to dx and to dw; db is the sum of dy."""
    (_, H, W, _), (K, KH, KW, Cg) = x.shape, w.shape
    OH, OW = output_shape((H, W), (KH, KW), stride, padding, ceil)
    padded = _pad(x, (KH, KW), stride, padding, (OH, OW))
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    for oh, ow in np.ndindex(OH, OW):
        top, left = oh * stride[0], ow * stride[1]
        for g, k in _groups(groups, K):
            window = np.s_[:, top : top + KH, left : left + KW, g * Cg : (g + 1) * Cg]
            dw[k] += np.tensordot(dy[:, oh, ow, k], padded[window], (0, 0))
            dpadded[window] += np.tensordot(dy[:, oh, ow, k], w[k], (1, 0))
    (top, _), (left, _) = padding
    return dpadded[:, top : top + H, left : left + W], dw, dy.sum((0, 1, 2))


def max_pool2d(x: Array, size: Pair, stride: Pair, padding: Padding, ceil: bool) -> tuple[Array, NDArray[np.uint8]]:
    """The largest pixel inside the image of each window, and kh * KW + kw of the first such pixel."""
    (N, H, W, C), (_KH, KW) = x.shape, size
    OH, OW = output_shape((H, W), size, stride, padding, ceil)
    y = np.full((N, OH, OW, C), -np.inf)
    which = np.zeros((N, OH, OW, C), np.uint8)
    for oh, ow, kh, kw, h, w in _pixels((OH, OW), (H, W), size, stride, padding):
        larger = x[:, h, w] > y[:, oh, ow]
        y[:, oh, ow][larger] = x[:, h, w][larger]
        which[:, oh, ow][larger] = kh * KW + kw
    return y, which


def max_pool2d_backward(
    dy: Array, which: NDArray[np.uint8], shape: tuple[int, ...], size: Pair, stride: Pair, padding: Padding
) -> Array:
    dx = np.zeros(shape)
    for oh, ow, kh, kw, h, w in _pixels(dy.shape[1:3], shape[1:3], size, stride, padding):
        dx[:, h, w] += dy[:, oh, ow] * (which[:, oh, ow] == kh * size[1] + kw)
    return dx


def avg_pool2d(x: Array, size: Pair, stride: Pair, padding: Padding, ceil: bool) -> Array:
    """The mean of the pixels of each window that lie inside the image."""
    (N, H, W, C) = x.shape
    OH, OW = output_shape((H, W), size, stride, padding, ceil)
    total, area = np.zeros((N, OH, OW, C)), np.zeros((OH, OW, 1))
    for oh, ow, _, _, h, w in _pixels((OH, OW), (H, W), size, stride, padding):
        total[:, oh, ow] += x[:, h, w]
        area[oh, ow] += 1
    return total / area


def avg_pool2d_backward(dy: Array, shape: tuple[int, ...], size: Pair, stride: Pair, padding: Padding) -> Array:
    area = np.zeros((*dy.shape[1:3], 1))
    for oh, ow, *_ in _pixels(dy.shape[1:3], shape[1:3], size, stride, padding):
        area[oh, ow] += 1
    dx = np.zeros(shape)
    for oh, ow, _, _, h, w in _pixels(dy.shape[1:3], shape[1:3], size, stride, padding):
        dx[:, h, w] += dy[:, oh, ow] / area[oh, ow]
    return dx


def _groups(groups: int, K: int) -> Iterator[tuple[int, slice]]:
    for g in range(groups):
        yield g, slice(g * K // groups, (g + 1) * K // groups)


def _pad(x: Array, kernel: Pair, stride: Pair, padding: Padding, output: Pair) -> Array:
    """x among as many zeros as the windows reach."""
    N, H, W, C = x.shape
    (top, bottom), (left, right) = padding
    height = max(top + H + bottom, (output[0] - 1) * stride[0] + kernel[0])
    width = max(left + W + right, (output[1] - 1) * stride[1] + kernel[1])
    padded = np.zeros((N, height, width, C))
    padded[:, top : top + H, left : left + W] = x
    return padded


def _pixels(output: Pair, image: Pair, size: Pair, stride: Pair, padding: Padding) -> Iterator[tuple[int, ...]]:
    """(oh, ow, kh, kw, h, w) of every pixel of every window that lies inside the image, in row-major order."""
    for oh, ow, kh, kw in np.ndindex(*output, *size):
        h, w = oh * stride[0] + kh - padding[0][0], ow * stride[1] + kw - padding[1][0]
        if 0 <= h < image[0] and 0 <= w < image[1]:
            yield oh, ow, kh, kw, h, w


# ---- filters that are not shared


def local2d(x: Array, w: Array, b: Array, stride: Pair, padding: Padding, groups: int = 1, ceil: bool = False) -> Array:
    """A convolution with w[oh, ow] and b[oh, ow] for each pixel of y, of which that pixel is kept."""
    OH, OW = w.shape[:2]
    y = np.empty((len(x), OH, OW, w.shape[2]))
    for oh, ow in np.ndindex(OH, OW):
        y[:, oh, ow] = conv2d(x, w[oh, ow], b[oh, ow], stride, padding, groups, ceil)[:, oh, ow]
    return y


def local2d_backward(
    dy: Array, x: Array, w: Array, stride: Pair, padding: Padding, groups: int = 1, ceil: bool = False
) -> tuple[Array, Array, Array]:
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for oh, ow in np.ndindex(*w.shape[:2]):
        one = np.zeros_like(dy)
        one[:, oh, ow] = dy[:, oh, ow]
        part, dw[oh, ow], _ = conv2d_backward(one, x, w[oh, ow], stride, padding, groups, ceil)
        dx += part
    return dx, dw, dy.sum(0)


# ---- local response normalisation


def lrn_window(i: int, C: int, size: int, groups: int = 1) -> range:
    """The channels that normalise channel i: size of them from i - floor(size / 2), clipped to the group of i."""
    per_group = C // groups
    first = i // per_group * per_group
    start = i - size // 2
    return range(max(start, first), min(start + size, first + per_group))


def lrn_scale(x: Array, size: int, k: float, alpha: float, groups: int = 1) -> Array:
    """s_i = k + alpha * sum over the window of i of x_j^2"""
    s = np.full(x.shape, float(k))
    for i in range(x.shape[-1]):
        for j in lrn_window(i, x.shape[-1], size, groups):
            s[..., i] += alpha * x[..., j] ** 2
    return s


def lrn(x: Array, size: int, k: float, alpha: float, beta: float, groups: int = 1) -> Array:
    return x * lrn_scale(x, size, k, alpha, groups) ** -beta


def lrn_backward(
    dy: Array, x: Array, size: int, k: float, alpha: float, beta: float, groups: int = 1, sign: float = -1.0
) -> Array:
    """dx_i = dy_i s_i^-beta - 2 alpha beta x_i * sum over {j : i in window(j)} of dy_j y_j / s_j

    With sign = 1 and absolute values this is the magnitude of the terms.
    """
    s = lrn_scale(x, size, k, alpha, groups)
    dx = dy * s**-beta
    for j in range(x.shape[-1]):
        for i in lrn_window(j, x.shape[-1], size, groups):
            dx[..., i] += sign * 2 * alpha * beta * x[..., i] * dy[..., j] * x[..., j] * s[..., j] ** (-beta - 1)
    return dx


def spatial_window(i: int, n: int, size: int) -> range:
    """The pixels of an axis that normalise pixel i: size of them from i - floor(size / 2), clipped to the image."""
    return range(max(i - size // 2, 0), min(i - size // 2 + size, n))


def spatial_lrn_scale(x: Array, size: int, k: float, alpha: float) -> Array:
    """s_p = k + alpha * sum over the window of p of x_q^2"""
    s = np.full(x.shape, float(k))
    for h, w in np.ndindex(*x.shape[1:3]):
        for i in spatial_window(h, x.shape[1], size):
            for j in spatial_window(w, x.shape[2], size):
                s[:, h, w] += alpha * x[:, i, j] ** 2
    return s


def spatial_lrn(x: Array, size: int, k: float, alpha: float, beta: float) -> Array:
    return x * spatial_lrn_scale(x, size, k, alpha) ** -beta


def spatial_lrn_backward(
    dy: Array, x: Array, size: int, k: float, alpha: float, beta: float, sign: float = -1.0
) -> Array:
    """dx_p = dy_p s_p^-beta - 2 alpha beta x_p * sum over {q : p in window(q)} of dy_q x_q s_q^(-beta - 1)

    With sign = 1 and absolute values this is the magnitude of the terms.
    """
    s = spatial_lrn_scale(x, size, k, alpha)
    dx, term = dy * s**-beta, dy * x * s ** (-beta - 1)
    for h, w in np.ndindex(*x.shape[1:3]):
        for i in spatial_window(h, x.shape[1], size):
            for j in spatial_window(w, x.shape[2], size):
                dx[:, i, j] += sign * 2 * alpha * beta * x[:, i, j] * term[:, h, w]
    return dx


def contrast_norm(x: Array, size: int, k: float, alpha: float, beta: float) -> Array:
    """x_p s_p^-beta, s_p = k + alpha * sum over the window of p of (x_q - m_q)^2, m_q the mean over the window of q"""
    s, d = np.full(x.shape, float(k)), np.empty(x.shape)
    windows = {
        (h, w): [(i, j) for i in spatial_window(h, x.shape[1], size) for j in spatial_window(w, x.shape[2], size)]
        for h, w in np.ndindex(*x.shape[1:3])
    }
    for (h, w), window in windows.items():
        d[:, h, w] = x[:, h, w] - sum(x[:, i, j] for i, j in window) / len(window)
    for (h, w), window in windows.items():
        s[:, h, w] += alpha * sum(d[:, i, j] ** 2 for i, j in window)
    return x * s**-beta


def blur(x: Array, size: int, std: float) -> Array:
    """First along rows, then along columns: a Gaussian around the middle of size pixels, their weights summing to 1."""
    g = [math.exp(-((i - size // 2) ** 2) / (2 * std**2)) for i in range(size)]
    for axis in (1, 2):
        padded = np.pad(x, [(size // 2,) * 2 if a == axis else (0, 0) for a in range(4)])
        shifted = [np.take(padded, np.arange(i, i + x.shape[axis]), axis) for i in range(size)]
        x = np.average(shifted, axis=0, weights=g)
    return x


# ---- batch normalisation, over all but the last dimension


def batch_norm(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float) -> Array:
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


def batch_moments(x: Array) -> tuple[Array, Array]:
    rows = x.reshape(-1, x.shape[-1])
    return rows.mean(0), rows.var(0)


def batch_norm_backward(dy: Array, x: Array, gamma: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """Gradients in training, where mean and variance are those of x."""
    axes = tuple(range(x.ndim - 1))
    mean, variance = batch_moments(x)
    hat = (x - mean) / np.sqrt(variance + epsilon)
    dgamma, dbeta = (dy * hat).sum(axes), dy.sum(axes)
    dx = gamma / np.sqrt(variance + epsilon) * (dy - dy.mean(axes) - hat * (dy * hat).mean(axes))
    return dx, dgamma, dbeta


# ---- element by element


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def relu_backward(dy: Array, y: Array) -> Array:
    return dy * (y > 0)


def tanh(x: Array) -> Array:
    return np.tanh(x)


def tanh_backward(dy: Array, y: Array) -> Array:
    return dy * (1 - y**2)


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def sigmoid_backward(dy: Array, y: Array) -> Array:
    return dy * y * (1 - y)


def sgd(
    w: Array, v: Array, g: Array, rate: float, momentum: float, decay: float, nesterov: bool = False
) -> tuple[Array, Array]:
    """v <- momentum v - decay rate w - rate g; w <- w + v, or with nesterov w + momentum v - decay rate w - rate g.
    Returns (w, v)."""
    step = -decay * rate * w - rate * g
    v = momentum * v + step
    return w + (momentum * v + step if nesterov else v), v


def adam(
    w: Array,
    m: Array,
    v: Array,
    g: Array,
    rate: float,
    t: int,
    beta1: float,
    beta2: float,
    epsilon: float,
    decay: float,
    form: str,
    decoupled: bool = False,
) -> tuple[Array, Array, Array]:
    """Returns (w, m, v) after update number t."""
    if decoupled:
        w = w - rate * decay * w
    else:
        g = g + decay * w
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    if form == "keras":
        return w - rate * np.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + epsilon), m, v
    return w - rate * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon), m, v


# ---- images


def augment(
    x: NDArray[np.uint8],
    size: Pair,
    mean: Array,
    crops: NDArray[np.int32] | Array,
    noise: Array | None,
    scale: float,
    tones: Array | None = None,
    mix: Array | None = None,
) -> Array:
    """Crops (N, 3), mirrored where the third number of a crop is 1, or samples at maps (N, 2, 3), of d = x - mean; of
    these contrast d + brightness + noise of the image's channels; of these mixtures of neighbours, times scale."""
    v = np.empty((len(x), *size, 3))
    for n, crop in enumerate(crops):
        d = x[n].astype(np.float64) - mean
        if crop.ndim == 2:
            v[n] = sampled(d, crop.astype(np.float64), size)
        else:
            top, left, mirrored = crop
            cut = d[top : top + size[0], left : left + size[1]]
            v[n] = cut[:, ::-1] if mirrored else cut
        contrast, brightness = (1, 0) if tones is None else tones[n].astype(np.float64)
        v[n] = contrast * v[n] + brightness + (0 if noise is None else noise[n])
    if mix is not None:
        paired = [n ^ 1 if n ^ 1 < len(x) else n for n in range(len(x))]
        share = mix.astype(np.float64)[:, None, None, None]
        v = share * v + (1 - share) * v[paired]
    return scale * v


def sampled(d: Array, m: Array, size: Pair) -> Array:
    """d (H, W, 3) at the map m (2, 3): along each column where the line of a row meets it, then along the line."""
    y = np.empty((*size, 3))
    slope = m[0, 2] / m[1, 2]
    for h in range(size[0]):
        down, right = m[:, 0] + m[:, 1] * h
        apart = m[0, 1] - m[1, 1] * slope
        line = np.array([triangle(d[:, i], down + (i - right) * slope, apart) for i in range(d.shape[1])])
        for w in range(size[1]):
            y[h, w] = triangle(line, right + m[1, 2] * w, m[1, 2])
    return y


def triangle(values: Array, place: float, apart: float) -> Array:
    """Of ``values`` in a row one at a place among them, samples being so far ``apart``."""
    place = min(max(place, 0), len(values) - 1)
    weights = np.maximum(0, 1 - abs(np.arange(len(values)) - place) / max(1, abs(apart)))
    return np.tensordot(weights / weights.sum(), values, 1)


# ---- classification


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def cross_entropy(x: Array, labels: NDArray[np.int32]) -> Array:
    """losses[n] = -log softmax(x)[n, labels[n]]"""
    return class_losses(x)[np.arange(len(x)), labels]


def class_losses(x: Array) -> Array:
    """-log softmax(x)"""
    shifted = x - x.max(1, keepdims=True)
    return np.log(np.exp(shifted).sum(1, keepdims=True)) - shifted


Mixture = tuple[NDArray[np.int32], Array]
"""Second labels, and the shares of the first."""


def label_weights(labels: NDArray[np.int32], weights: Array, mixed: Mixture | None = None) -> Array:
    """(N, C): in each row the weight of its label; of two labels each that of its share."""
    rows = np.zeros((len(labels), len(weights)))
    others, mix = mixed or (labels, np.ones(len(labels)))
    np.add.at(rows, (np.arange(len(labels)), labels), mix * weights[labels])
    np.add.at(rows, (np.arange(len(labels)), others), (1 - mix) * weights[others])
    return rows


def weighted_cross_entropy(
    x: Array, labels: NDArray[np.int32], weights: Array, smoothing: float, mixed: Mixture | None = None
) -> tuple[Array, Array]:
    """(1 - s) weights[label] (-log p[label]) + s times the mean over the classes of weights (-log p); and the loss, the
    sum of these over that of the labels' weights."""
    own = label_weights(labels, weights, mixed)
    losses = ((1 - smoothing) * own + smoothing / len(weights) * weights) * class_losses(x)
    return losses.sum(1), losses.sum() / own.sum()


def softmax_cross_entropy_backward(p: Array, labels: NDArray[np.int32], dloss: float = 1.0) -> Array:
    """The gradient of the mean loss with respect to the logits: dloss (p - onehot(label)) / N"""
    dx = p.copy()
    dx[np.arange(len(p)), labels] -= 1
    return dloss * dx / len(p)


def weighted_cross_entropy_backward(
    p: Array,
    labels: NDArray[np.int32],
    weights: Array,
    smoothing: float,
    dloss: float = 1.0,
    mixed: Mixture | None = None,
) -> Array:
    """The gradient of ``weighted_cross_entropy``'s loss: each class's loss has the gradient p - onehot(class)."""
    own = label_weights(labels, weights, mixed)
    share = smoothing / p.shape[1] * weights + (1 - smoothing) * own
    return dloss * (share.sum(1, keepdims=True) * p - share) / own.sum()


# ---- random numbers


def dropout_mask(n: int, p: float, seed: int, step: int, purpose: int) -> NDArray[np.bool_]:
    """Which of n elements are kept."""
    return kept(np.arange(n), p, seed, step, purpose)
