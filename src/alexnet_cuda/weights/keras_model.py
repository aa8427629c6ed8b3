"""A trained network as a model of Keras 3: FILE.keras, which ``keras.models.load_model`` builds again from nothing but
Keras's own layers and operations, or FILE.weights.h5, for ``load_weights`` of a model of the same layers.

Input ``pixels`` (N, H, W, 3): the crop that the network sees, RGB from 0 to 255. Output: logits (N, classes). What has
weights is a layer, under its name here; what Keras has no layer for (LRN, windows that reach past the end) is made of
``keras.ops``, whose calls a file keeps by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import WeightsError, replacing
from ..inference import Trained
from ..models import Own, Row
from ..models.layers import (
    Activation,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    Local2d,
    Lrn,
    MaxPool2d,
    SpatialLrn,
    WeightedSum,
    Window,
)
from .layout import inside, past_end

MODEL, WEIGHTS = ".keras", ".weights.h5"
"""How the names of the two kinds of files end, as Keras asks."""
LOWEST = float(np.finfo(np.float32).min)


def save(path: Path, trained: Trained) -> None:
    """Writes the network, of which FILE.weights.h5 holds what comes after the preprocessing. ImportError without the
    package keras or the backend that it is set to, WeightsError for a layer that Keras does not have."""
    import keras

    with _as_here(keras):
        model = _model(keras, trained, whole=path.name.endswith(MODEL))
        with replacing(path) as aside, TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder, path.name)  # Keras looks at the name
            (model.save if path.name.endswith(MODEL) else model.save_weights)(made)
            made.replace(aside)


@contextmanager
def _as_here(keras: Any) -> Iterator[None]:
    """Within this block Keras's layers are float32 and channels last, whatever its user's settings say."""
    policy, order = keras.config.dtype_policy(), keras.config.image_data_format()
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_image_data_format(order)


def _model(keras: Any, trained: Trained, whole: bool) -> Any:
    """The network as a keras.Model; ``whole``: with its preprocessing."""
    model, weights = trained.model, trained.network.state()
    if isinstance(model, Own):
        raise WeightsError(f"model {model.name}: expected a model of layers that the package describes")
    x = y = keras.Input(model.input, name="pixels")
    if whole:
        y = _preprocessed(keras, trained, x)
    made = {"": y}
    for row, (layer, inputs) in zip(model.rows(), model.connected(), strict=True):
        arrays = {name: weights[f"{layer.name}.{name}"] for name in row.arrays}
        y = made[layer.name] = _layer(keras, row, [made[name] for name in inputs], arrays)
    return keras.Model(x, y, name=model.name)


def _preprocessed(keras: Any, trained: Trained, x: Any) -> Any:
    top, left, _ = trained.centre[0]
    H, W, _ = trained.model.input
    mean = trained.mean[top : top + H, left : left + W]
    normalisation = keras.layers.Normalization(axis=(1, 2, 3), name="mean")
    y = normalisation(x)
    normalisation.set_weights([mean, np.ones_like(mean), np.int32(0)])
    normalisation.finalize_state()
    # Rescaling by three factors depends on its loader's image_data_format
    return keras.ops.multiply(y, np.asarray(trained.config["scale"], np.float32))


def _layer(keras: Any, row: Row, xs: list[Any], arrays: dict[str, NDArray[np.float32]]) -> Any:
    """The output of a layer for its inputs, of which all but a few layers have one."""
    layers, ops, x, C = keras.layers, keras.ops, xs[0], row.input[-1]
    match row.layer:
        case Conv2d(name=name, channels=K, size=size, stride=stride, groups=groups, activation=activation):
            made = layers.Conv2D(
                K, size, stride, groups=groups, activation=activation, use_bias="b" in arrays, name=name
            )
            return _with(made, _padded(ops, row, x, 0.0), np.moveaxis(arrays["w"], 0, -1), arrays)
        case Local2d(name=name, size=size, stride=stride, groups=1, activation=activation):
            patches = ops.image.extract_patches(_padded(ops, row, x, 0.0), size, stride, data_format="channels_last")
            bias = "hwf" if "b" in arrays else None
            made = layers.EinsumDense("bhwk,hwkf->bhwf", row.output, activation, bias, name=name)
            w = np.moveaxis(arrays["w"], 2, -1)  # (OH, OW, KH, KW, C, K)
            return _with(made, patches, w.reshape(*w.shape[:2], -1, w.shape[-1]), arrays)
        case Linear(name=name, features=features, activation=activation):
            made = layers.Dense(features, activation, "b" in arrays, name=name)
            return _with(made, x, arrays["w"].T, arrays)
        case BatchNorm(name=name, momentum=momentum, epsilon=epsilon):
            made = layers.BatchNormalization(momentum=momentum, epsilon=epsilon, name=name)
            y = made(x)
            made.set_weights([arrays[array] for array in ("gamma", "beta", "running_mean", "running_variance")])
            return y
        case MaxPool2d(name=name, size=size, stride=stride):
            return layers.MaxPooling2D(size, stride, name=name)(_padded(ops, row, x, LOWEST))
        case AvgPool2d(name=name, size=size, stride=stride):
            y = layers.AveragePooling2D(size, stride, name=name)(_padded(ops, row, x, 0.0))
            counts = np.multiply.outer(*_inside(row))[:, :, None]
            return y if (counts == size**2).all() else ops.multiply(y, (size**2 / counts).astype(np.float32))
        case Lrn(size=n, groups=groups):
            squares = ops.reshape(ops.square(x), (-1, int(np.prod(row.input[:-1])) * groups, C // groups, 1))
            means = ops.average_pool(ops.pad(squares, _around(1, n)), (1, n), 1, data_format="channels_last")
            return _normalised(ops, row.layer, x, ops.reshape(means, (-1, *row.input)), n)
        case SpatialLrn(size=n):
            means = ops.average_pool(ops.pad(ops.square(x), _around(n, n)), n, 1, data_format="channels_last")
            return _normalised(ops, row.layer, x, means, n**2)
        case Dropout(name=name, p=p, form=form):
            y = layers.Dropout(p, name=name)(x)
            return y if form == "inverted" else ops.multiply(y, 1 - p)  # the paper's: 1 - p in training, too
        case Activation(name=name, activation=activation):
            return layers.Activation(activation, name=name)(x)
        case Flatten(name=name):
            return layers.Flatten(name=name)(x)
        case Concat(name=name, joined=joined):
            flat = [layers.Flatten()(x) for x in xs] if len(joined) == 1 else xs
            return layers.Concatenate(name=name)(flat) if len(xs) > 1 else flat[0]
        case WeightedSum(coefficients=coefficients, bias_shape=None, activation=activation):
            terms = [x if c == 1 else ops.multiply(x, c) for x, c in zip(xs, coefficients, strict=True)]
            return layers.Activation(activation)(sum(terms[1:], terms[0]))
        case other:
            raise WeightsError(f"{other.name}: Keras has no {other.kind} of this form")


def _with(layer: Any, x: Any, w: NDArray[np.float32], arrays: dict[str, NDArray[np.float32]]) -> Any:
    """The output of a layer that gets these weights, and biases where there are any."""
    y = layer(x)
    layer.set_weights([w, arrays["b"]] if "b" in arrays else [w])
    return y


def _padded(ops: Any, row: Row, x: Any, value: float) -> Any:
    """The image with what its layer's windows see around it."""
    around = ((0, 0), *_pads(row), (0, 0))
    return ops.pad(x, around, constant_values=value) if np.any(around) else x


def _pads(row: Row) -> tuple[tuple[int, int], tuple[int, int]]:
    """What a layer's windows see around the image: above and below, to the left and to the right. Those that reach past
    the end, by the ceil rule, see that much there."""
    layer = row.layer
    assert isinstance(layer, Window)
    top, left = (
        (layer.padding, max(0, past_end(layer.size, layer.stride, layer.padding, pixels, count)))
        for count, pixels in zip(row.output[:2], row.input[:2], strict=True)
    )
    return top, left


def _inside(row: Row) -> Iterator[NDArray[np.int64]]:
    """How many pixels of the image each window has, down and across."""
    layer = row.layer
    assert isinstance(layer, AvgPool2d)
    for outputs, pixels in zip(row.output[:2], row.input[:2], strict=True):
        yield inside(layer.size, layer.stride, layer.padding, pixels, outputs)


def _around(rows: int, columns: int) -> tuple[tuple[int, int], ...]:
    """What to pad images with, so that a window of so many rows and columns lies around each pixel as LRN's does."""
    return (0, 0), *((n // 2, n - 1 - n // 2) for n in (rows, columns)), (0, 0)


def _normalised(ops: Any, layer: Lrn | SpatialLrn, x: Any, means: Any, elements: int) -> Any:
    """x s^-beta, where s is k plus alpha times the sum of the squares, whose means over ``elements`` are given."""
    s = ops.add(ops.multiply(means, layer.alpha * elements), layer.k)
    return ops.multiply(x, ops.power(s, -layer.beta))
