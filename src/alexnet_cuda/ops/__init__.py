"""Operations on tensors: each is one Function over the kernels of the same name, whose arguments it has.

Errors: TypeError for what is no tensor, ValueError for tensors on several devices; the rest as ``kernels`` tells it.
"""

from .arithmetic import (
    absolute,
    add,
    broadcast_to,
    cast,
    clip,
    divide,
    equal,
    exp,
    less,
    less_equal,
    log,
    matmul,
    max,
    mean,
    multiply,
    not_equal,
    power,
    sqrt,
    subtract,
    sum,
    upsample2d,
    where,
)
from .convolution import conv2d, local2d
from .elementwise import POINTWISE, Activation, activation, dropout, noisy_relu, pointwise, weighted_sum
from .losses import logistic_cross_entropy, softmax_cross_entropy, squared_error
from .normalisation import batch_norm, contrast_norm, lrn, lrn_max_pool2d, spatial_lrn
from .pooling import avg_pool2d, max_pool2d
from .products import LinearGradient, linear
from .shapes import concat, flatten, index, reshape, subsample, take_channels, transpose

__all__ = [
    "POINTWISE",
    "Activation",
    "LinearGradient",
    "absolute",
    "activation",
    "add",
    "avg_pool2d",
    "batch_norm",
    "broadcast_to",
    "cast",
    "clip",
    "concat",
    "contrast_norm",
    "conv2d",
    "divide",
    "dropout",
    "equal",
    "exp",
    "flatten",
    "index",
    "less",
    "less_equal",
    "linear",
    "local2d",
    "log",
    "logistic_cross_entropy",
    "lrn",
    "lrn_max_pool2d",
    "matmul",
    "max",
    "max_pool2d",
    "mean",
    "multiply",
    "noisy_relu",
    "not_equal",
    "pointwise",
    "power",
    "reshape",
    "softmax_cross_entropy",
    "spatial_lrn",
    "sqrt",
    "squared_error",
    "subsample",
    "subtract",
    "sum",
    "take_channels",
    "transpose",
    "upsample2d",
    "weighted_sum",
    "where",
]
