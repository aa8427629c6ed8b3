"""Operations on tensors: each is one Function over the kernels of the same name, whose arguments it has.

Errors: TypeError for what is no tensor, ValueError for tensors on several devices; the rest as ``kernels`` tells it.
"""

from .convolution import conv2d, local2d
from .elementwise import POINTWISE, Activation, activation, cast, dropout, noisy_relu, pointwise, weighted_sum
from .losses import logistic_cross_entropy, softmax_cross_entropy, squared_error
from .normalisation import batch_norm, contrast_norm, lrn, lrn_max_pool2d, spatial_lrn
from .pooling import avg_pool2d, max_pool2d
from .products import LinearGradient, linear
from .shapes import concat, flatten, reshape, subsample, take_channels

__all__ = [
    "POINTWISE",
    "Activation",
    "LinearGradient",
    "activation",
    "avg_pool2d",
    "batch_norm",
    "cast",
    "concat",
    "contrast_norm",
    "conv2d",
    "dropout",
    "flatten",
    "linear",
    "local2d",
    "logistic_cross_entropy",
    "lrn",
    "lrn_max_pool2d",
    "max_pool2d",
    "noisy_relu",
    "pointwise",
    "reshape",
    "softmax_cross_entropy",
    "spatial_lrn",
    "squared_error",
    "subsample",
    "take_channels",
    "weighted_sum",
]
