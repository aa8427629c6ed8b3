"""The types of layers: what the fields of each are, and what becomes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from ... import init
from ...suggest import nearest
from ..layers import (
    Activation,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    Lrn,
    MaxPool2d,
    SpatialLrn,
    WeightedSum,
)
from .builder import MOST_CLASSES, Builder, Section
from .prototxt import Message, short

LARGEST_SIDE = 2**12
"""Of a window, its stride and its padding, in pixels."""
LARGEST_POOL = 256
"""Pixels of a window of which one is the largest."""
FILLERS = "type value min max mean std sparse variance_norm"
DRAWN = init.he_normal()
"""Weights of layers without a filler, which are all zero in Caffe."""


def side(message: Message, name: str, short_name: str, default: int | None, low: int) -> int:
    """A number of pixels that is the same down and across: ``kernel_size``, or kernel_h and kernel_w."""
    both = message.integers(name, low, LARGEST_SIDE)
    apart = [key for key in (f"{short_name}_h", f"{short_name}_w") if key in message.fields]
    if apart and both:
        raise message.error(f"contradicts {apart[0]}: expected one of them", name)
    if apart:
        both = [message.integer(f"{short_name}_{axis}", default, low, LARGEST_SIDE) for axis in "hw"]
    if not both and default is None:
        raise message.error("is missing", name)
    if len(both) > 2:
        raise message.error(f"expected at most 2 values, got {len(both)}", name)
    if len(set(both)) > 1:
        raise message.error(
            f"expected the same height and width, got {both[0]} and {both[1]}", apart[0] if apart else name
        )
    return both[0] if both else default or 0


def outputs(builder: Builder, section: Section, message: Message) -> int:
    """How many a layer has."""
    number = message.integer("num_output", high=MOST_CLASSES)
    return builder.classes.get(section.name, number)


def filler(message: Message, key: str) -> init.Initialiser | None:
    """What draws weights as a filler says; None where there is none."""
    if key not in message.fields:
        return None
    made = message.message(key)
    made.known(FILLERS)
    kind = made.text("type") if "type" in made.fields else "constant"
    norm = made.word("variance_norm", ("FAN_IN", "FAN_OUT", "AVERAGE"), "FAN_IN")
    if kind == "constant":
        return init.constant(made.number("value", 0))
    if kind == "uniform":
        return partial(_uniform, made.number("min", 0), made.number("max", 1))
    if kind == "gaussian":
        mean, std = made.number("mean", 0), made.number("std", 1, 0)
        return lambda shape, rng: np.float32(mean) + init.normal(std)(shape, rng)
    if kind in ("xavier", "msra"):
        return partial(_scaled, kind, norm)
    known = "constant, uniform, gaussian, xavier, msra"
    raise made.error(f"expected one of {known}, got {short(kind)}{nearest(kind, known.split(', '))}", "type")


def _uniform(low: float, high: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return (low + (high - low) * rng.random(shape, np.float32)).astype(np.float32)


def _scaled(kind: str, norm: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """xavier: uniform with limit sqrt(3 / n), msra: N(0, 2 / n). Caffe's fan_out is all but the input channels."""
    fan_in, fan_out = math.prod(shape[1:]), math.prod(shape[:-1])
    n = {"FAN_IN": fan_in, "FAN_OUT": fan_out, "AVERAGE": (fan_in + fan_out) / 2}[norm]
    made = init.uniform(math.sqrt(3 / n)) if kind == "xavier" else init.normal(math.sqrt(2 / n))
    return made(shape, rng)


def convolution(builder: Builder, section: Section) -> None:
    made, m = builder.image(section), section.message.message("convolution_param")
    m.known(
        "num_output bias_term pad pad_h pad_w kernel_size kernel_h kernel_w stride stride_h stride_w group dilation "
        "weight_filler bias_filler engine axis force_nd_im2col"
    )
    K, groups = outputs(builder, section, m), m.integer("group", 1)
    if set(m.integers("dilation")) - {1}:
        raise m.error("expected 1", "dilation")
    m.integer("axis", 1, 1, 1)
    if made.shape[2] % groups or K % groups:
        raise m.error(f"expected a divisor of {made.shape[2]} and {K} channels, got {groups}", "group")
    layer = Conv2d(
        section.name,
        side(m, "kernel_size", "kernel", None, 1),
        side(m, "stride", "stride", 1, 1),
        side(m, "pad", "pad", 0, 0),
        False,
        K,
        groups,
        None,
        filler(m, "weight_filler") or DRAWN,
        (filler(m, "bias_filler") or init.constant(0)) if m.flag("bias_term", True) else None,
    )
    builder.finish(section, layer, [made])


def inner_product(builder: Builder, section: Section) -> None:
    (made,), m = builder.inputs(section, 1), section.message.message("inner_product_param")
    m.known("num_output bias_term weight_filler bias_filler axis transpose")
    m.integer("axis", 1, 1, 1)
    if m.flag("transpose", False):
        raise m.error("expected false", "transpose")
    if len(made.shape) == 3:
        made = builder.flat(section, made, f"{section.name}_flat")
    weight = filler(m, "weight_filler") or DRAWN
    bias = (filler(m, "bias_filler") or init.constant(0)) if m.flag("bias_term", True) else None
    builder.finish(section, Linear(section.name, outputs(builder, section, m), None, weight, bias), [made])


def pooling(builder: Builder, section: Section) -> None:
    made, m = builder.image(section), section.message.message("pooling_param")
    m.known(
        "pool pad pad_h pad_w kernel_size kernel_h kernel_w stride stride_h stride_w engine global_pooling round_mode"
    )
    kind = m.word("pool", ("MAX", "AVE", "STOCHASTIC"), "MAX")
    if kind == "STOCHASTIC":
        raise m.error("expected MAX or AVE, got STOCHASTIC", "pool")
    stride, padding = side(m, "stride", "stride", 1, 1), side(m, "pad", "pad", 0, 0)
    ceil, (H, W, _) = m.word("round_mode", ("CEIL", "FLOOR"), "CEIL") == "CEIL", made.shape
    if m.flag("global_pooling", False):
        if {"kernel_size", "kernel_h", "kernel_w"} & m.fields.keys() or (stride, padding) != (1, 0):
            raise m.error("expected no kernel_size, stride 1 and pad 0 beside it", "global_pooling")
        if H != W:
            raise m.error(f"expected images as high as wide, got {H}x{W}", "global_pooling")
        size = H
    else:
        size = side(m, "kernel_size", "kernel", None, 1)
    if size**2 > LARGEST_POOL:
        raise m.error(f"expected windows of at most {LARGEST_POOL} pixels, got {size}x{size}")
    if padding >= size:
        raise m.error(f"expected less than kernel_size, {size}, got {padding}", "pad")
    if kind == "AVE" and padding:  # whose divisor counts padding there, and not here
        raise m.error(f"expected 0 where pool is AVE, got {padding}", "pad")
    if ceil and not padding and stride > size and any(0 < (n - size) % stride <= stride - size for n in (H, W)):
        raise m.error(f"expected windows that begin in the image, got one beyond its {H}x{W} pixels", "stride")
    layer = (MaxPool2d if kind == "MAX" else AvgPool2d)(section.name, size, stride, padding, ceil)
    builder.finish(section, layer, [made])


def lrn(builder: Builder, section: Section) -> None:
    made, m = builder.image(section), section.message.message("lrn_param")
    m.known("local_size alpha beta norm_region k engine")
    size, alpha, beta = (
        m.integer("local_size", 5, high=LARGEST_SIDE),
        m.number("alpha", 1, 0),
        m.number("beta", 0.75, 0),
    )
    if size % 2 == 0:
        raise m.error(f"expected an odd number, got {size}", "local_size")
    k = m.number("k", 1, 1e-30)
    if m.word("norm_region", ("ACROSS_CHANNELS", "WITHIN_CHANNEL"), "ACROSS_CHANNELS") == "ACROSS_CHANNELS":
        builder.finish(section, Lrn(section.name, size, k, alpha / size, beta), [made])
        return
    if k != 1:  # Caffe does not read it here
        builder.not_applied["k of WITHIN_CHANNEL"] = None
    builder.finish(section, SpatialLrn(section.name, size, 1.0, alpha / size**2, beta), [made])


def batch_norm(builder: Builder, section: Section) -> None:
    (made,), m = builder.inputs(section, 1), section.message.message("batch_norm_param")
    m.known("use_global_stats moving_average_fraction eps")
    if m.flag("use_global_stats", True) is False:
        builder.not_applied["use_global_stats"] = None
    if made.flattened:
        raise section.error(f"expected an image or a layer's outputs, got {made.shape[0]:,} flattened values", "bottom")
    layer = BatchNorm(
        section.name, m.number("moving_average_fraction", 0.999, 0, 0.999999), m.number("eps", 1e-5, 1e-12)
    )
    builder.finish(section, layer, [made])


def scale(builder: Builder, section: Section) -> None:
    """gamma and beta of the BatchNorm before."""
    (made,), m = builder.inputs(section, 1), section.message.message("scale_param")
    m.known("axis num_axes filler bias_term bias_filler")
    m.integer("axis", 1, 1, 1)
    m.integer("num_axes", 1, 1, 1)
    for key in ("filler", "bias_filler"):
        if key in m.fields:
            builder.not_applied[f"{key} of Scale"] = None
    before = builder.sole(section)
    if before is None or not isinstance(before.row.layer, BatchNorm) or len(builder.theirs[made.node]) > 1:
        raise section.error("expected a BatchNorm before it whose output nothing else uses", "bottom")
    builder.theirs[made.node] = (*builder.theirs[made.node], section.name)
    builder.made[section.place] = made


def relu(builder: Builder, section: Section) -> None:
    m = section.message.message("relu_param")
    m.known("negative_slope engine")
    m.number("negative_slope", 0, 0, 0)
    builder.activated(section, Activation(section.name, "relu"))


def tanh(builder: Builder, section: Section) -> None:
    section.message.message("tanh_param").known("engine")
    builder.activated(section, Activation(section.name, "tanh"))


def sigmoid(builder: Builder, section: Section) -> None:
    section.message.message("sigmoid_param").known("engine")
    builder.activated(section, Activation(section.name, "sigmoid"))


def dropout(builder: Builder, section: Section) -> None:
    (made,), m = builder.inputs(section, 1), section.message.message("dropout_param")
    m.known("dropout_ratio scale_train")
    if not m.flag("scale_train", True):
        raise m.error("expected true", "scale_train")
    layer = Dropout(section.name, m.number("dropout_ratio", 0.5, 0, 0.999999), "inverted")
    builder.finish(section, layer, [made], made.flattened)


def softmax(builder: Builder, section: Section) -> None:
    """Nothing: the network's outputs are what comes before."""
    (made,), m = builder.inputs(section, 1), section.message.message("softmax_param")
    m.known("engine axis")
    m.integer("axis", 1, 1, 1)
    builder.made[section.place] = replace(made, last=True)


def concat(builder: Builder, section: Section) -> None:
    inputs, m = builder.inputs(section), section.message.message("concat_param")
    m.known("axis concat_dim")
    for key in ("axis", "concat_dim"):
        m.integer(key, 1, 1, 1)
    if len({made.shape[:-1] for made in inputs}) != 1:
        got = " and ".join("x".join(map(str, made.shape)) for made in inputs)
        raise section.error(f"expected inputs of one height and width, got {got}", "bottom")
    if any(made.flattened for made in inputs):
        raise section.error("expected images, or vectors of layers' outputs, got flattened images", "bottom")
    joined = (*inputs[0].shape[:-1], sum(made.shape[-1] for made in inputs))
    builder.finish(section, Concat(section.name, joined), inputs)


def eltwise(builder: Builder, section: Section) -> None:
    inputs, m = builder.inputs(section), section.message.message("eltwise_param")
    m.known("operation coeff stable_prod_grad")
    operation = m.word("operation", ("PROD", "SUM", "MAX"), "SUM")
    if operation != "SUM":
        raise m.error(f"expected SUM, got {operation}", "operation")
    coefficients = m.numbers("coeff") or [1.0] * len(inputs)
    if len(coefficients) != len(inputs):
        raise m.error(f"expected one for each of {len(inputs)} inputs, got {len(coefficients)}", "coeff")
    if len({(made.shape, made.flattened) for made in inputs}) != 1:
        got = " and ".join("x".join(map(str, made.shape)) for made in inputs)
        raise section.error(f"expected inputs of one shape, got {got}", "bottom")
    builder.finish(section, WeightedSum(section.name, tuple(coefficients)), inputs, inputs[0].flattened)


def flatten(builder: Builder, section: Section) -> None:
    (made,), m = builder.inputs(section, 1), section.message.message("flatten_param")
    m.known("axis end_axis")
    m.integer("axis", 1, 1, 1)
    m.integer("end_axis", -1, -1, -1)
    if len(made.shape) == 3:
        builder.made[section.place] = builder.flat(section, made, section.name)
    else:
        builder.finish(section, Flatten(section.name), [made], made.flattened)


TYPES: dict[str, tuple[Callable[[Builder, Section], None], str]] = {
    "Convolution": (convolution, "convolution_param"),
    "InnerProduct": (inner_product, "inner_product_param"),
    "Pooling": (pooling, "pooling_param"),
    "LRN": (lrn, "lrn_param"),
    "BatchNorm": (batch_norm, "batch_norm_param"),
    "Scale": (scale, "scale_param"),
    "ReLU": (relu, "relu_param"),
    "TanH": (tanh, "tanh_param"),
    "Sigmoid": (sigmoid, "sigmoid_param"),
    "Dropout": (dropout, "dropout_param"),
    "Softmax": (softmax, "softmax_param"),
    "Concat": (concat, "concat_param"),
    "Eltwise": (eltwise, "eltwise_param"),
    "Flatten": (flatten, "flatten_param"),
}
"""What reads a layer of each type, and the field with what is said of that type alone."""

TYPES_OF_2014 = {
    "CONVOLUTION": "Convolution",
    "INNER_PRODUCT": "InnerProduct",
    "POOLING": "Pooling",
    "LRN": "LRN",
    "RELU": "ReLU",
    "TANH": "TanH",
    "SIGMOID": "Sigmoid",
    "DROPOUT": "Dropout",
    "SOFTMAX": "Softmax",
    "CONCAT": "Concat",
    "ELTWISE": "Eltwise",
    "FLATTEN": "Flatten",
}
"""Their names in files of before Caffe's layers got strings for types."""

LEARNING = "param blobs_lr weight_decay"
"""Fields of layers that say how they learn, which a recipe does here."""


def read(builder: Builder, section: Section) -> None:
    """PrototxtError for an unknown field, and as of the type."""
    function, own = TYPES[section.type]
    section.message.known(f"name type bottom top propagate_down {LEARNING} {own}")
    for key in LEARNING.split():
        if key in section.message.fields:
            builder.not_applied[key] = None
    function(builder, section)
