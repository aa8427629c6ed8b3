"""Every operation as a plain function on arrays: ``from alexnet_cuda import kernels``.

Arrays are NumPy arrays (run on the CPU) or CuPy arrays (run on their GPU, on CuPy's current stream), C-contiguous and
float32, or bfloat16 as told below. Arrays of other libraries with ``__dlpack__`` or ``__cuda_array_interface__``, such
as PyTorch's and JAX's, are taken without a copy, PyTorch's on PyTorch's current stream; results are then arrays of that
library. Images are (N, H, W, C), filters (K, KH, KW, C / groups), fully connected weights (out, in). Results are newly
allocated on the device of the inputs, or written to ``out``, an array of the result's shape, which is then returned;
what ``sgd``, ``linear_sgd``, ``adam`` and ``ema`` update and the running statistics of ``batch_norm`` are updated in
place. Each operation ``f`` with parameters or inputs to differentiate has an ``f_backward`` that takes the gradient
``dy`` of the loss with respect to the output.

Common arguments of windows: ``size`` and ``stride`` are an int or (vertical, horizontal); ``padding`` is an int,
(vertical, horizontal) or ((top, bottom), (left, right)), in zeros around x; ``ceil`` rounds the output size up as
cuda-convnet does, 1 + ceil((n + padding - size) / stride), the last windows reaching past the bottom and right edge.

``precision`` of a product (``gemm``, ``conv2d``, ``linear`` and what begins so): "fp32" computes with the numbers as
they are; "tf32" and "bf16" round both operands to 10 or 7 bits after the point, as tensor cores take them, and add in
float32. On a CPU these two give what tensor cores give, slowly: for tests, not for work.

``mask`` of a gradient, an array as x, makes dx 0 where it is not above 0: with x itself, where that came out of a ReLU
(``relu=True`` or ``relu``), dx is the gradient before it, without a pass of its own but in float32 products of fully
connected layers. ``y`` of a gradient is the output with ``relu``, whose gradient it then is: what the mask leaves of dy
and its sums, db, are one pass.

Storage: x and y, and their gradients dx and dy, may be bfloat16 (``ml_dtypes.bfloat16``), half the size: a result is
stored as the x or dy that it comes from. Kernels compute in float32 and round what they write, once. Parameters and
their gradients, running statistics, losses and logits stay float32. Products of bfloat16 arrays are those of precision
"bf16": w is rounded before each, unless it is bfloat16 already. ``cast`` converts; ``local2d``, ``spatial_lrn`` and
the losses take float32 alone.

Errors: TypeError for what is not an array or has the wrong dtype; ValueError for wrong shapes, layouts, devices and
hyper-parameters. Both say what was got and what was expected.
"""

from .arguments import FLOATS, PRECISIONS, Array, Needs, Padding, Pair, Precision, storage
from .arithmetic import broadcast, gather, reduce_max, reduce_max_backward, reduce_sum, scatter
from .convolution import LEAST_CHANNELS, Algorithm, conv2d, conv2d_algorithm, conv2d_backward, local2d, local2d_backward
from .elementwise import (
    bias,
    bias_backward,
    bias_relu_backward,
    cast,
    dropout,
    dropout_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    tanh,
    tanh_backward,
)
from .normalisation import (
    batch_norm,
    batch_norm_backward,
    lrn,
    lrn_backward,
    lrn_max_pool2d,
    lrn_max_pool2d_backward,
    spatial_lrn,
    spatial_lrn_backward,
)
from .pooling import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward
from .products import gemm, linear, linear_backward, linear_dropout, linear_sgd
from .training import (
    ADAM_EPSILONS,
    adam,
    adam_epsilon,
    augment,
    class_weight_sums,
    ema,
    multi_sgd,
    sgd,
    softmax,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
)
from .windows import window_output

__all__ = [
    "ADAM_EPSILONS",
    "FLOATS",
    "LEAST_CHANNELS",
    "PRECISIONS",
    "Algorithm",
    "Array",
    "Needs",
    "Padding",
    "Pair",
    "Precision",
    "adam",
    "adam_epsilon",
    "augment",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "bias",
    "bias_backward",
    "bias_relu_backward",
    "broadcast",
    "cast",
    "class_weight_sums",
    "conv2d",
    "conv2d_algorithm",
    "conv2d_backward",
    "dropout",
    "dropout_backward",
    "ema",
    "gather",
    "gemm",
    "linear",
    "linear_backward",
    "linear_dropout",
    "linear_sgd",
    "local2d",
    "local2d_backward",
    "lrn",
    "lrn_backward",
    "lrn_max_pool2d",
    "lrn_max_pool2d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "multi_sgd",
    "reduce_max",
    "reduce_max_backward",
    "reduce_sum",
    "relu",
    "relu_backward",
    "scatter",
    "sgd",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_cross_entropy",
    "softmax_cross_entropy_backward",
    "spatial_lrn",
    "spatial_lrn_backward",
    "storage",
    "tanh",
    "tanh_backward",
    "window_output",
]
