"""Networks for inference alone: what only scales and shifts goes into the weights beside it.

In evaluation batch normalisation is y = scale x + shift in each channel, dropout in the paper's form y = (1 - p) x, and
in the other form y = x. A layer with weights takes such a step after it, scale (W x + b) + shift, as (scale W) x +
(scale b + shift), and one before it, W (scale x + shift) + b, as (W scale) x + (W shift + b).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard, get_args

import numpy as np
from numpy.typing import NDArray

from . import backend, kernels, nn
from .kernels import Padding

__all__ = ["Affine", "folded"]

Floats: TypeAlias = NDArray[np.float64]
Weighted: TypeAlias = nn.Conv2d | nn.Local2d | nn.Linear


@dataclass(frozen=True)
class Affine:
    """y = scale x + shift, both (C,), or () and shift 0 where the channels are all alike: then without a device."""

    scale: Floats
    shift: Floats
    device: backend.Device | None = None

    def per(self, channels: int) -> Affine:
        """For that many channels: its own repeat, where they were flattened."""
        return Affine(np.resize(self.scale, channels), np.resize(self.shift, channels), self.device)

    def then(self, other: Affine) -> Affine:
        """This step and then the other as one."""
        first = self if other.device is None else self.per(other.scale.size)
        scale, shift = other.scale * first.scale, other.scale * first.shift + other.shift
        return Affine(scale, shift, other.device or self.device)


Layer: TypeAlias = nn.Module | Affine
Layers: TypeAlias = list[tuple[str, Layer]]


def folded(network: nn.Module) -> nn.Sequential:
    """A network that computes what ``network`` does in evaluation, within rounding, in fewer passes over memory.

    Dropout is gone; batch normalisation and the paper's factor 1 - p are in the weights of the layer after or before,
    where nothing in between forbids (an activation function, normalisation, padding after a shift); a ReLU layer is in
    the layer with weights before it, with max-pooling in between or not. Weights of products in bf16 are stored so, not
    rounded for each. Layers that this changes are new ones with their old names (a.b for b inside of a); the others are
    shared with ``network``. The result is for evaluation alone, and what ``network`` learns or loads later does not
    reach it. TypeError for other networks than ``Sequential``, whose layers may come in another order.
    """
    if type(network) is not nn.Sequential:
        raise TypeError(
            f"folded: expected a Sequential whose layers come one after the other, got a {type(network).__name__}"
        )
    layers: Layers = [(name, _affine(module)) for name, module in _flat(network) if not _is_identity(module)]
    for i in reversed(range(len(layers))):
        step = layers[i][1]
        if isinstance(step, Affine) and (_fold(layers, i, step, 1) or _fold(layers, i, step, -1)):
            del layers[i]
    for i in reversed(range(len(layers))):
        if type(layers[i][1]) is nn.ReLU and _fold_relu(layers, i):
            del layers[i]
    result = nn.Sequential(**{name: _rounded(_module(layer)) for name, layer in layers})
    result.training = False
    return result


def _flat(network: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.children():
        if type(module) is nn.Sequential:
            yield from _flat(module, f"{prefix}{name}.")
        else:
            yield prefix + name, module


def _is_identity(module: nn.Module) -> bool:
    return type(module) is nn.Dropout and module.form == "inverted"


def _affine(module: nn.Module) -> Layer:
    """What the layer is in evaluation, where it is that; else the layer. A subclass may be anything."""
    if type(module) is nn.Dropout:
        return Affine(np.array(1.0 - module.p), np.array(0.0))
    if type(module) is nn.BatchNorm:
        gamma, beta, mean, variance = (
            t.numpy().astype(np.float64)
            for t in (module.gamma, module.beta, module.running_mean, module.running_variance)
        )
        scale = gamma / np.sqrt(variance + module.epsilon)
        return Affine(scale, beta - scale * mean, module.gamma.device)
    return module


def _module(layer: Layer) -> nn.Module:
    """A layer as it is; of what could not be folded, the layer that computes it."""
    if not isinstance(layer, Affine):
        return layer
    result: nn.Module
    if layer.device is None:
        result = nn.Dropout(1.0 - float(layer.scale))
    else:
        result = nn.BatchNorm(layer.scale.size, device=layer.device)
        unit = np.sqrt(1.0 + result.epsilon)  # the running variance is 1
        result.gamma, result.beta = (
            nn.Parameter(v.astype(np.float32), layer.device) for v in (layer.scale * unit, layer.shift)
        )
    return result.eval()


def _rounded(module: nn.Module) -> nn.Module:
    """The layer with its weights stored as its products take them."""
    if not _is_weighted(module) or isinstance(module, nn.Local2d):
        return module
    w = kernels.cast(module.w.data, kernels.storage(module.precision))
    if w is module.w.data:
        return module
    module = copy.copy(module)
    module.w, module.training = nn.Parameter(w, module.w.device), False
    return module


# ---- where an affine step goes


def _fold(layers: Layers, i: int, step: Affine, direction: int) -> bool:
    """Whether a layer after (direction 1) or before (-1) the i-th has taken this step over."""
    join = _step_then if direction == 1 else _then_step
    j = i + direction
    while 0 <= j < len(layers):
        name, layer = layers[j]
        joined = join(layer, step)
        if joined is not None:
            layers[j] = name, joined
            return True
        if not _commutes(layer, step, direction):
            return False
        j += direction
    return False


def _commutes(layer: Layer, step: Affine, direction: int) -> bool:
    """Whether the step can as well come on the other side of the layer."""
    kind = type(layer)
    if kind is nn.Flatten:
        return direction == 1 or step.device is None
    if kind is nn.MaxPool2d:
        return bool((step.scale >= 0).all())
    return kind is nn.AvgPool2d or (kind is nn.ReLU and _rectifies_alike(step))


def _rectifies_alike(step: Affine) -> bool:
    """Whether scale max(0, x) + shift is max(0, scale x + shift)."""
    return bool((step.scale >= 0).all()) and not step.shift.any()


def _step_then(layer: Layer, step: Affine) -> Layer | None:
    """``layer`` after ``step`` as one; None where there is no such layer."""
    if isinstance(layer, Affine):
        return step.then(layer)
    if not _is_weighted(layer):
        return None
    w, groups = _filters(layer), 1 if isinstance(layer, nn.Linear) else layer.groups
    pads = not isinstance(layer, nn.Linear) and (layer.ceil or _any(layer.padding))
    if pads and step.shift.any():  # zeros around the image are not shifted
        return None
    step, alike = step.per(w.shape[-1] * groups), w.shape[-4] // groups if groups > 1 else 1
    scale, shift = (  # of the channels that each filter sees
        np.repeat(v.reshape(groups, -1), alike, axis=0)[:, None, None] for v in (step.scale, step.shift)
    )
    b = _bias(layer)
    return _with(layer, _scaled(w, scale), (w * shift).sum(axis=(-3, -2, -1)) + b if step.shift.any() else b)


def _then_step(layer: Layer, step: Affine) -> Layer | None:
    """``step`` after ``layer`` as one; None where there is no such layer."""
    if isinstance(layer, Affine):
        return layer.then(step)
    if not _is_weighted(layer):
        return None
    if layer.activation is not None and not (layer.activation == "relu" and _rectifies_alike(step)):
        return None
    w = _filters(layer)
    step = step.per(w.shape[-4])
    return _with(layer, _scaled(w, step.scale[:, None, None, None]), _bias(layer) * step.scale + step.shift)


def _fold_relu(layers: Layers, i: int) -> bool:
    """Whether a layer with weights before the i-th has become one with ReLU."""
    j = i - 1
    while j > 0 and type(layers[j][1]) in (nn.MaxPool2d, nn.ReLU):  # the largest stays so, rectified before or after
        j -= 1
    name, layer = layers[max(j, 0)]
    if not _is_weighted(layer) or layer.activation not in (None, "relu"):
        return False
    layer = copy.copy(layer)
    layer.activation, layer.training = "relu", False
    layers[j] = name, layer
    return True


# ---- layers with weights


def _is_weighted(layer: Layer) -> TypeGuard[Weighted]:
    """Whether steps go into it: not into weights that are stored short (``short_weights``)."""
    return isinstance(layer, Weighted) and type(layer) in get_args(Weighted) and layer.w.dtype == np.float32


def _filters(layer: Weighted) -> NDArray[np.float32]:
    """The weights as filters (..., filters, KH, KW, channels)."""
    w = layer.w.numpy()
    return w.reshape(len(w), 1, 1, -1) if isinstance(layer, nn.Linear) else w


def _scaled(w: NDArray[np.float32], scale: Floats) -> NDArray[np.float32]:
    """Rounded once, without an array in float64, as matrices are large."""
    return np.multiply(w, scale, out=np.empty_like(w), dtype=np.float64, casting="same_kind")


def _bias(layer: Weighted) -> Floats:
    return np.zeros(_filters(layer).shape[:-3]) if layer.b is None else layer.b.numpy()


def _with(layer: Weighted, w: NDArray[np.float32], b: Floats) -> Weighted:
    """The layer with other weights, and without a bias if it had none and needs none."""
    device, shape = layer.w.device, layer.w.shape
    layer = copy.copy(layer)
    layer.w = nn.Parameter(w.reshape(shape), device)
    layer.b = nn.Parameter(b.astype(np.float32), device) if layer.b is not None or b.any() else None
    layer.training = False
    return layer


def _any(padding: Padding) -> bool:
    return any(map(_any, padding)) if isinstance(padding, tuple | list) else bool(padding)
