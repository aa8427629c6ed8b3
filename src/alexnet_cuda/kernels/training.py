"""What surrounds the layers in a training step: images, loss and updates."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from .. import backend
from .any_library import any_library
from .arguments import (
    SMALLEST,
    Array,
    check_array,
    check_integer,
    check_number,
    check_pair,
    check_storage,
    either,
    remembering,
    result_array,
)

ADAM_EPSILONS: dict[str, float] = {"keras": 1e-7, "pytorch": 1e-8}
"""The forms of ``adam``, and what epsilon is by default in the library that each is named after."""


@any_library
def augment(
    x: Array,
    size: tuple[int, int],
    mean: Array,
    crops: Array,
    noise: Array | None = None,
    scale: float | Sequence[float] = 1.0,
    dtype: Any = np.float32,
    tones: Array | None = None,
    mix: Array | None = None,
) -> Array:
    """Stored images to a network's input (paper, section 4.1): crops of (x - mean + noise) * scale, a number or three,
    one for each channel.

    x: (N, H, W, 3) uint8; mean: (H, W, 3) float32; crops: (N, 3) int32, the crop's top and left and whether to mirror
    it (1) or not (0); noise: (N, 3) float32 added to each image's channels, or None. ``size``: (height, width) of the
    crops. Crops that do not lie in the image raise ValueError on the CPU; on a GPU, where a look at them would wait for
    the device, they are moved into it. Returns (N, *size, 3), float32 or bfloat16, whichever ``dtype`` names.

    crops of shape (N, 2, 3), float32, are maps m: pixel (h, w) of the result lies at row m[0] . (1, h, w) and column
    m[1] . (1, h, w) of the stored image, whole numbers being the middles of its pixels. x - mean is sampled there by
    triangle filters, first along the columns, then along the line on which a row of the result lies, whose supports are
    1 pixel or, if that is more, the distance of samples: bilinear where an image grows, antialiased where it shrinks;
    without rotation as ``resize`` of Pillow and ``interpolate`` of PyTorch with antialias. What lies outside the image
    is its nearest edge. On the CPU numbers that are not finite and an m[1, 2] of 0 raise ValueError.

    tones: (N, 2) float32, a contrast by which x - mean is multiplied and a brightness that is added to it; mix: (N,)
    float32 in [0, 1] (mixup; Zhang et al. 2018): of image n that share, of its neighbour, n xor 1, the rest; an image
    without one stays as it is.

    >>> x, mean = np.full((1, 4, 4, 3), 200, np.uint8), np.full((4, 4, 3), 120, np.float32)
    >>> y = kernels.augment(x, (2, 2), mean, np.array([[1, 1, 0]], np.int32), scale=0.5)
    >>> y.shape, y[0, 0, 0]
    ((1, 2, 2, 3), array([40., 40., 40.], dtype=float32))
    """
    device = check_array("augment", "x", x, 4, np.uint8)
    check_array("augment", "mean", mean, 3)
    sampled = getattr(crops, "ndim", 2) == 3 and crops.dtype.kind == "f"
    check_array("augment", "crops", crops, 3 if sampled else 2, np.float32 if sampled else np.int32)
    for name, array, axes in (("noise", noise, 2), ("tones", tones, 2), ("mix", mix, 1)):
        if array is not None:
            check_array("augment", name, array, axes)
    N, stored_h, stored_w, _ = x.shape
    H, W = check_pair("augment", "size", size, 1)
    if stored_h < H or stored_w < W:
        raise ValueError(f"augment: size: expected at most ({stored_h}, {stored_w}), that of x, got {(H, W)}")
    if device.kind == "cpu" and crops.shape == (N, 3):
        last = (stored_h - H, stored_w - W, 1)
        if (crops.view(np.uint32) > last).any():  # negative ones are large
            raise ValueError(f"augment: crops: expected (top, left, mirrored) from (0, 0, 0) to {last}, got {crops}")
    if device.kind == "cpu" and crops.shape == (N, 2, 3) and not (np.isfinite(crops).all() and crops[:, 1, 2].all()):
        raise ValueError(f"augment: crops: expected finite maps whose [1, 2] is not 0, got {crops}")
    if device.kind == "cpu" and mix is not None and not ((mix >= 0) & (mix <= 1)).all():
        raise ValueError(f"augment: mix: expected numbers in [0, 1], got {mix}")
    native = backend.native(device)
    scales = tuple(scale) if isinstance(scale, Sequence) else (scale,) * 3
    shape = _augment_struct(native, N, stored_h, stored_w, H, W, scales)
    y = backend.empty((N, H, W, 3), check_storage("augment", dtype), device)
    launcher = native.augment_by_maps if sampled else native.augment
    launcher(y, x, mean, crops, noise, tones, mix, shape, backend.stream(device))
    return y


@remembering
def _augment_struct(
    native: ModuleType, N: int, stored_h: int, stored_w: int, H: int, W: int, scales: tuple[Any, ...]
) -> Any:
    if len(scales) != 3:
        raise TypeError(f"augment: scale: expected a number or three, got {scales}")
    r, g, b = (check_number("augment", "scale", scale) for scale in scales)
    return native.Augment(N=N, stored_h=stored_h, stored_w=stored_w, H=H, W=W, scale_r=r, scale_g=g, scale_b=b)


@any_library
def softmax(x: Array, out: Array | None = None) -> Array:
    """p_c = exp(x_c) / sum of exp(x) in each row. x: (N, C). Returns (N, C).

    >>> kernels.softmax(floats([[0, 0, 0, 0]]))
    array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """
    device = check_array("softmax", "x", x, 2)
    p = result_array("softmax", out, x.shape, device)
    backend.native(device).softmax(p, x, backend.stream(device))
    return p


@any_library
def softmax_cross_entropy(
    x: Array,
    labels: Array,
    weights: Array | None = None,
    smoothing: float = 0.0,
    others: Array | None = None,
    mix: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Softmax and the mean negative log-likelihood of the labels (paper, section 3.5).

    losses_n = -log p[n, label_n], loss = their mean. x: (N, C) logits; labels: (N,) integers in [0, C). Returns loss
    (shape ()), losses (N,) and p = softmax(x) (N, C). A label out of range raises ValueError on the CPU; on a GPU,
    where a look at it would wait for the device, its loss is NaN.

    ``weights`` (C,) float32 multiply the terms of the classes' logarithms, and the mean is by the labels' weights.
    ``smoothing`` s in [0, 1) takes (1 - s) of that loss and s of the mean over all classes of -weights[c] log p[n, c]
    (Szegedy et al. 2016, section 7). Both as in PyTorch.

    ``others`` (N,) are second labels and ``mix`` (N,) float32 in [0, 1] the shares of the first (mixup; Zhang et al.
    2018): a row has mix times the loss and the weight of the first and 1 - mix times those of the second.

    >>> loss, losses, p = kernels.softmax_cross_entropy(np.zeros((2, 1000), np.float32), np.array([3, 999]))
    >>> round(float(loss), 6)  # log 1000
    6.907755
    """
    device = check_array("softmax_cross_entropy", "x", x, 2)
    N, C = x.shape
    labels = check_labels("softmax_cross_entropy", labels, N, C)
    mixed = _mixture("softmax_cross_entropy", others, mix, N, C, device)
    options = _loss_options("softmax_cross_entropy", labels, weights, smoothing, C, device, mixed)
    loss, losses = backend.empty((), np.float32, device), backend.empty((N,), np.float32, device)
    p = backend.empty((N, C), np.float32, device)
    native = backend.native(device)
    native.softmax_cross_entropy_forward(loss, losses, p, x, labels, *mixed, *options, backend.stream(device))
    return loss, losses, p


@any_library
def softmax_cross_entropy_backward(
    p: Array,
    labels: Array,
    dloss: Array | None = None,
    weights: Array | None = None,
    smoothing: float = 0.0,
    others: Array | None = None,
    mix: Array | None = None,
) -> Array:
    """Gradient of the mean loss with respect to the logits: (p - onehot(labels)) dloss / N, or that with the weights,
    the smoothing and the second labels of ``softmax_cross_entropy``.

    p: (N, C) from ``softmax_cross_entropy``; dloss: one float32, 1 by default. Returns (N, C).

    >>> p = floats([[0.25, 0.75], [0.5, 0.5]])
    >>> kernels.softmax_cross_entropy_backward(p, np.array([0, 1]))
    array([[-0.375,  0.375],
           [ 0.25 , -0.25 ]], dtype=float32)
    """
    device = check_array("softmax_cross_entropy_backward", "p", p, 2)
    labels = check_labels("softmax_cross_entropy_backward", labels, *p.shape)
    N, C = p.shape
    mixed = _mixture("softmax_cross_entropy_backward", others, mix, N, C, device)
    options = _loss_options("softmax_cross_entropy_backward", labels, weights, smoothing, C, device, mixed)
    if dloss is None:
        dloss = backend.from_host(np.ones((), np.float32), device)
    else:
        check_array("softmax_cross_entropy_backward", "dloss", dloss, 0)
    dx = backend.empty(p.shape, np.float32, device)
    native = backend.native(device)
    native.softmax_cross_entropy_backward(dx, dloss, p, labels, *mixed, *options, backend.stream(device))
    return dx


@any_library
def class_weight_sums(labels: Array, weights: Array, others: Array | None = None, mix: Array | None = None) -> Array:
    """Sums of the classes' weights: over the labels (N,), integers in [0, C), and over all classes. weights: (C,)
    float32. Of a label with a second one in ``others`` the weight is mix times its own and 1 - mix times the other's.
    Returns (2,). A label out of range raises ValueError on the CPU, on a GPU it adds nothing.

    >>> kernels.class_weight_sums(np.array([0, 1, 1]), floats([1, 4, 2]))
    array([9., 7.], dtype=float32)
    """
    device = check_array("class_weight_sums", "weights", weights, 1)
    shape = getattr(labels, "shape", (1,))
    if len(shape) != 1 or not shape[0]:
        raise ValueError(f"class_weight_sums: labels: expected shape (N,) with N from 1 on, got {shape}")
    N, C = shape[0], len(weights)
    labels = check_labels("class_weight_sums", labels, N, C)
    return _weight_sums(labels, weights, device, _mixture("class_weight_sums", others, mix, N, C, device))


Mixture = tuple[Array | None, Array | None]
"""Second labels, and the shares of the first."""


def _weight_sums(labels: Array, weights: Array, device: backend.Device, mixed: Mixture) -> Array:
    sums = backend.empty((2,), np.float32, device)
    backend.native(device).class_weight_sums(sums, labels, *mixed, weights, backend.stream(device))
    return sums


def _mixture(
    operation: str, others: Array | None, mix: Array | None, N: int, C: int, device: backend.Device
) -> Mixture:
    if (others is None) != (mix is None):
        raise ValueError(f"{operation}: others, mix: expected both or none")
    if others is None or mix is None:
        return None, None
    check_array(operation, "mix", mix, 1)
    if mix.shape != (N,):
        raise ValueError(f"{operation}: mix: expected shape ({N},), got {mix.shape}")
    if device.kind == "cpu" and not ((mix >= 0) & (mix <= 1)).all():
        raise ValueError(f"{operation}: mix: expected numbers in [0, 1], got {mix}")
    return check_labels(operation, others, N, C, "others"), mix


def _loss_options(
    operation: str,
    labels: Array,
    weights: Array | None,
    smoothing: float,
    C: int,
    device: backend.Device,
    mixed: Mixture,
) -> tuple[Array | None, Array | None, float]:
    """The classes' weights, their sums, the smoothing."""
    smoothing = check_number(operation, "smoothing", smoothing, 0, 1, open_high=True)
    if weights is None:
        return None, None, smoothing
    check_array(operation, "weights", weights, 1)
    if weights.shape != (C,):
        raise ValueError(f"{operation}: weights: expected shape ({C},), got {weights.shape}")
    return weights, _weight_sums(labels, weights, device, mixed), smoothing


def check_labels(operation: str, labels: Array, N: int, C: int, name: str = "labels") -> Array:
    """The labels as kernels take them. ValueError for one outside of [0, C), where the host can look at them."""
    device = backend.device_of(labels) if hasattr(labels, "dtype") else None
    if device is None or labels.dtype.kind not in "iu":
        got = getattr(labels, "dtype", type(labels).__name__)
        raise TypeError(f"{operation}: {name}: expected an array of integers, got {got}")
    if labels.shape != (N,):
        raise ValueError(f"{operation}: {name}: expected shape ({N},), got {labels.shape}")
    known = labels
    if labels.dtype != np.int32 or not labels.flags.c_contiguous:
        known = labels.astype(np.int64).clip(-1, C).astype(np.int32)  # what is out of range stays so
    if device.kind == "cpu" and known.view(np.uint32).max() >= C:  # negative ones are large
        raise ValueError(f"{operation}: {name}: expected integers in [0, {C}), got {labels.min()} to {labels.max()}")
    return known


@any_library
def sgd(
    w: Array,
    v: Array,
    g: Array,
    lr: float | Array,
    momentum: float = 0.9,
    decay: float = 5e-4,
    lr_scale: float = 1.0,
    nesterov: bool = False,
) -> None:
    """One update of stochastic gradient descent in the paper's form (section 5), in place.

    v <- momentum v - decay e w - e g, w <- w + v, with e = lr lr_scale; with ``nesterov`` the last is
    w <- w + momentum v - decay e w - e g (Sutskever et al. 2013, in PyTorch's form). w, v (the momentum), g (the
    gradient): equal shapes. ``lr`` is a number or a float32 array of shape () on the device of w.

    >>> w, v = floats([1]), floats([0.1])
    >>> kernels.sgd(w, v, floats([0.5]), lr=0.01)
    >>> print(round(w.item(), 6), round(v.item(), 6))
    1.084995 0.084995
    """
    device = check_array("sgd", "w", w)
    check_array("sgd", "v", v)
    check_array("sgd", "g", g)
    native, stream, lr = backend.native(device), backend.stream(device), check_rate("sgd", lr, device)
    lr_scale, decay = check_number("sgd", "lr_scale", lr_scale, 0), check_number("sgd", "decay", decay, 0)
    momentum = check_number("sgd", "momentum", momentum, 0, 1, open_high=True)
    native.sgd(w, v, g, lr, lr_scale, momentum, decay, nesterov, stream)


@any_library
def multi_sgd(
    w: Sequence[Array],
    v: Sequence[Array],
    g: Sequence[Array],
    lr: Sequence[float | Array],
    momentum: Sequence[float],
    decay: Sequence[float],
    nesterov: bool = False,
) -> None:
    """``sgd`` of many parameters at once, to the same bits: of w[i], v[i] and g[i] with lr[i], momentum[i] and
    decay[i], all with ``nesterov`` or none, in place. All are on one device.

    >>> w, v = [floats([1]), floats([2, 3])], [floats([0.1]), floats([0, 0])]
    >>> kernels.multi_sgd(w, v, [floats([0.5]), floats([1, 2])], [0.01, 1.0], [0.9, 0.0], [5e-4, 0.0])
    >>> print(round(w[0].item(), 6), w[1])
    1.084995 [1. 1.]
    """
    columns = {"w": w, "v": v, "g": g, "lr": lr, "momentum": momentum, "decay": decay}
    for name, values in columns.items():
        if not isinstance(values, (tuple, list)):
            raise TypeError(f"multi_sgd: {name}: expected a list, got {type(values).__name__}")
        if len(values) != len(w) or not values:
            expected = f"{len(w)} entries, as many as w has" if w else "at least one entry"
            raise ValueError(f"multi_sgd: {name}: expected {expected}, got {len(values)}")
    for name, arrays in (("v", v), ("g", g), ("w", w)):
        for array in arrays:
            device = check_array("multi_sgd", name, array)
    rates = [check_rate("multi_sgd", rate, device) for rate in lr]
    momenta = [check_number("multi_sgd", "momentum", value, 0, 1, open_high=True) for value in momentum]
    decays = [check_number("multi_sgd", "decay", value, 0) for value in decay]
    backend.native(device).multi_sgd(
        list(w), list(v), list(g), rates, momenta, decays, nesterov, backend.stream(device)
    )


def check_rate(operation: str, lr: Any, device: backend.Device) -> Array:
    """The learning rate as a float32 array of shape () on the device."""
    if not isinstance(lr, (int, float)):
        check_array(operation, "lr", lr, 0)
        return lr
    number = check_number(operation, "lr", lr, 0, float(np.finfo(np.float32).max))
    return backend.from_host(np.asarray(number, np.float32), device)


@any_library
def adam(
    w: Array,
    m: Array,
    v: Array,
    g: Array,
    lr: float | Array,
    t: int | Array,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float | None = None,
    decay: float = 0.0,
    lr_scale: float = 1.0,
    form: str = "keras",
    decoupled: bool = False,
) -> None:
    """Update number ``t`` (from 1 on) of Adam (Kingma and Ba 2015), in place.

    g' = g + decay w, m <- beta1 m + (1 - beta1) g', v <- beta2 v + (1 - beta2) g'^2, then with e = lr lr_scale

    - ``form`` "keras": w <- w - e sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + epsilon), where epsilon is the
      article's "epsilon hat" (the end of its section 2), by default 1e-7;
    - "pytorch": w <- w - e (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon), its algorithm 1, by default 1e-8.

    ``decoupled``: AdamW (Loshchilov and Hutter 2019): g' = g, and before the step w <- w - e decay w.

    w, m, v, g: equal shapes. ``lr`` and ``t`` are numbers or float32 arrays of shape () on the device of w.

    >>> w, m, v = floats([1]), floats([0]), floats([0])
    >>> kernels.adam(w, m, v, floats([0.5]), lr=0.01, t=1)  # the first step is as long as the rate
    >>> print(round(w.item(), 6))
    0.99
    """
    device = check_array("adam", "w", w)
    for name, array in (("m", m), ("v", v), ("g", g)):
        check_array("adam", name, array)
    if isinstance(t, (int, np.integer)):
        t = backend.from_host(np.asarray(check_integer("adam", "t", t, 1), np.float32), device)
    else:
        check_array("adam", "t", t, 0)
    native, lr = backend.native(device), check_rate("adam", lr, device)
    epsilon = adam_epsilon("adam", form, epsilon)
    decay = check_number("adam", "decay", decay, 0)
    parameters = native.Adam(
        beta1=check_number("adam", "beta1", beta1, 0, 1, open_high=True),
        beta2=check_number("adam", "beta2", beta2, 0, 1, open_high=True),
        epsilon=0.0 if form == "keras" else epsilon,
        epsilon_hat=epsilon if form == "keras" else 0.0,
        decay=0.0 if decoupled else decay,
        decoupled_decay=decay if decoupled else 0.0,
        lr_scale=check_number("adam", "lr_scale", lr_scale, 0),
    )
    native.adam(w, m, v, g, lr, t, parameters, backend.stream(device))


@any_library
def ema(average: Array, w: Array, rate: float | Array) -> None:
    """One update of an exponential moving average of weights (Polyak and Juditsky 1992), in place.

    average <- (1 - rate) average + rate w. average, w: equal shapes. ``rate`` is a number in [0, 1] or a float32 array
    of shape () on the device of w.

    >>> average = floats([1])
    >>> kernels.ema(average, floats([5]), rate=0.25)
    >>> average
    array([2.], dtype=float32)
    """
    device = check_array("ema", "average", average)
    check_array("ema", "w", w)
    if isinstance(rate, (int, float)):
        rate = backend.from_host(np.asarray(check_number("ema", "rate", rate, 0, 1), np.float32), device)
    else:
        check_array("ema", "rate", rate, 0)
    backend.native(device).ema(average, w, rate, backend.stream(device))


def adam_epsilon(operation: str, form: str, epsilon: float | None) -> float:
    """``epsilon`` after checking both, or the form's own."""
    if form not in (forms := tuple(ADAM_EPSILONS)):
        raise ValueError(f"{operation}: form: expected {either(forms)}, got {form!r}")
    return check_number(operation, "epsilon", ADAM_EPSILONS[form] if epsilon is None else epsilon, SMALLEST)
