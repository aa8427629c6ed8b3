# The launchers of kernels/kernels.h on arrays in host memory. Outputs come before inputs; the stream is ignored.
from collections.abc import Sequence
from typing import Any

Array = Any  # numpy.ndarray, C-contiguous

class Conv2d:
    def __init__(
        self,
        *,
        N: int,
        H: int,
        W: int,
        C: int,
        K: int,
        KH: int,
        KW: int,
        groups: int,
        stride_h: int,
        stride_w: int,
        pad_top: int,
        pad_left: int,
        OH: int,
        OW: int,
    ) -> None: ...
    @property
    def winograd(self) -> bool: ...
    def hopper(self, precision: str) -> bool: ...
    def hopper_backward_input(self, precision: str) -> bool: ...
    def hopper_backward_weight(self, precision: str) -> bool: ...
    def space_to_depth(self, stored_bfloat16: bool) -> bool: ...
    def space_to_depth_pays(self, stored_bfloat16: bool) -> bool: ...
    def blocks(self, stored_bfloat16: bool) -> Conv2d: ...
    @property
    def N(self) -> int: ...
    @property
    def H(self) -> int: ...
    @property
    def W(self) -> int: ...
    @property
    def C(self) -> int: ...
    @property
    def K(self) -> int: ...
    @property
    def KH(self) -> int: ...
    @property
    def KW(self) -> int: ...
    @property
    def groups(self) -> int: ...
    @property
    def stride_h(self) -> int: ...
    @property
    def stride_w(self) -> int: ...
    @property
    def pad_top(self) -> int: ...
    @property
    def pad_left(self) -> int: ...
    @property
    def OH(self) -> int: ...
    @property
    def OW(self) -> int: ...

class Conv2dOptions:
    def __init__(self, *, precision: str, relu: bool = ..., hopper: bool = ...) -> None: ...
    @property
    def precision(self) -> str: ...
    @property
    def relu(self) -> bool: ...
    @property
    def hopper(self) -> bool: ...

class Pool2d:
    def __init__(
        self,
        *,
        N: int,
        H: int,
        W: int,
        C: int,
        KH: int,
        KW: int,
        stride_h: int,
        stride_w: int,
        pad_top: int,
        pad_left: int,
        OH: int,
        OW: int,
    ) -> None: ...
    @property
    def N(self) -> int: ...
    @property
    def H(self) -> int: ...
    @property
    def W(self) -> int: ...
    @property
    def C(self) -> int: ...
    @property
    def KH(self) -> int: ...
    @property
    def KW(self) -> int: ...
    @property
    def stride_h(self) -> int: ...
    @property
    def stride_w(self) -> int: ...
    @property
    def pad_top(self) -> int: ...
    @property
    def pad_left(self) -> int: ...
    @property
    def OH(self) -> int: ...
    @property
    def OW(self) -> int: ...

class Reduce:
    def __init__(self, *, outer: int, K: int, inner: int) -> None: ...
    @property
    def outer(self) -> int: ...
    @property
    def K(self) -> int: ...
    @property
    def inner(self) -> int: ...

class Lrn:
    def __init__(self, *, rows: int, C: int, groups: int, size: int, k: float, alpha: float, beta: float) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def C(self) -> int: ...
    @property
    def groups(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def k(self) -> float: ...
    @property
    def alpha(self) -> float: ...
    @property
    def beta(self) -> float: ...

class SpatialLrn:
    def __init__(self, *, N: int, H: int, W: int, C: int, size: int, k: float, alpha: float, beta: float) -> None: ...
    @property
    def N(self) -> int: ...
    @property
    def H(self) -> int: ...
    @property
    def W(self) -> int: ...
    @property
    def C(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def k(self) -> float: ...
    @property
    def alpha(self) -> float: ...
    @property
    def beta(self) -> float: ...

class Adam:
    def __init__(
        self,
        *,
        beta1: float,
        beta2: float,
        epsilon: float,
        epsilon_hat: float,
        decay: float,
        decoupled_decay: float,
        lr_scale: float,
    ) -> None: ...
    @property
    def beta1(self) -> float: ...
    @property
    def beta2(self) -> float: ...
    @property
    def epsilon(self) -> float: ...
    @property
    def epsilon_hat(self) -> float: ...
    @property
    def decay(self) -> float: ...
    @property
    def decoupled_decay(self) -> float: ...
    @property
    def lr_scale(self) -> float: ...

class Augment:
    def __init__(
        self,
        *,
        N: int,
        stored_h: int,
        stored_w: int,
        H: int,
        W: int,
        scale_r: float,
        scale_g: float,
        scale_b: float,
    ) -> None: ...
    @property
    def N(self) -> int: ...
    @property
    def stored_h(self) -> int: ...
    @property
    def stored_w(self) -> int: ...
    @property
    def H(self) -> int: ...
    @property
    def W(self) -> int: ...
    @property
    def scale_r(self) -> float: ...
    @property
    def scale_g(self) -> float: ...
    @property
    def scale_b(self) -> float: ...

def gemm_workspace(M: int, N: int, K: int) -> int: ...
def gemm(
    c: Array,
    a: Array,
    b: Array,
    transpose_a: bool = ...,
    transpose_b: bool = ...,
    alpha: float = ...,
    beta: float = ...,
    workspace: Array | None = ...,
    stream: int = ...,
) -> None: ...
def gemm_sgd_workspace(M: int, N: int) -> int: ...
def gemm_sgd(
    w: Array,
    v: Array,
    a: Array,
    b: Array,
    lr: Array,
    momentum: float,
    decay: float,
    nesterov: bool,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def tensor_gemm_workspace(M: int, N: int, K: int) -> int: ...
def tensor_gemm(
    c: Array,
    db: Array | None,
    a: Array,
    b: Array,
    bias: Array | None,
    mask: Array | None,
    transpose_a: bool,
    transpose_b: bool,
    alpha: float,
    beta: float,
    relu: bool,
    precision: str,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def tensor_gemm_dropout(
    y: Array,
    x: Array,
    w: Array,
    b: Array | None,
    state: Array,
    first: int,
    p: float,
    scale: float,
    purpose: int,
    precision: str,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def tensor_gemm_sgd(
    w: Array,
    v: Array,
    stored: Array | None,
    a: Array,
    b: Array,
    lr: Array,
    momentum: float,
    decay: float,
    nesterov: bool,
    precision: str,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def skinny_gemm_takes(M: int, N: int, K: int) -> bool: ...
def skinny_gemm_workspace(M: int, N: int, K: int) -> int: ...
def skinny_gemm(
    y: Array,
    x: Array,
    w: Array,
    b: Array | None,
    relu: bool,
    precision: str,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def short_gemm_workspace(M: int, N: int, K: int) -> int: ...
def short_gemm(
    y: Array,
    x: Array,
    w: Array,
    scale: Array | None,
    b: Array | None,
    relu: bool,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def bias_forward(y: Array, x: Array, b: Array, relu: bool = ..., stream: int = ...) -> None: ...
def bias_backward_workspace(rows: int, C: int) -> int: ...
def bias_backward(db: Array, dy: Array, workspace: Array | None, stream: int = ...) -> None: ...
def bias_relu_backward(
    dx: Array, db: Array, dy: Array, y: Array, scale: float, workspace: Array | None, stream: int = ...
) -> None: ...
def conv2d_forward_workspace(shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool) -> int: ...
def conv2d_forward(
    y: Array,
    x: Array,
    w: Array,
    b: Array | None,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def conv2d_backward_input_workspace(shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool) -> int: ...
def conv2d_backward_input(
    dx: Array,
    dy: Array,
    w: Array,
    mask: Array | None,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def conv2d_backward_weight_workspace(shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool) -> int: ...
def conv2d_backward_weight(
    dw: Array,
    db: Array | None,
    dy: Array,
    x: Array,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def winograd_conv2d_forward_workspace(shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool) -> int: ...
def winograd_conv2d_forward(
    y: Array,
    x: Array,
    w: Array,
    b: Array | None,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def winograd_conv2d_backward_input_workspace(shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool) -> int: ...
def winograd_conv2d_backward_input(
    dx: Array,
    dy: Array,
    w: Array,
    mask: Array | None,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def winograd_conv2d_backward_weight_workspace(shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool) -> int: ...
def winograd_conv2d_backward_weight(
    dw: Array,
    db: Array | None,
    dy: Array,
    x: Array,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def implicit_conv2d_forward_workspace(shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool) -> int: ...
def implicit_conv2d_forward(
    y: Array,
    x: Array,
    w: Array,
    b: Array | None,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def implicit_conv2d_backward_input_workspace(shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool) -> int: ...
def implicit_conv2d_backward_input(
    dx: Array,
    dy: Array,
    w: Array,
    mask: Array | None,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def implicit_conv2d_backward_weight_workspace(shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool) -> int: ...
def implicit_conv2d_backward_weight(
    dw: Array,
    db: Array | None,
    dy: Array,
    x: Array,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def space_to_depth_conv2d_forward_workspace(shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool) -> int: ...
def space_to_depth_conv2d_forward(
    y: Array,
    x: Array,
    w: Array,
    b: Array | None,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def space_to_depth_conv2d_backward_input_workspace(
    shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool
) -> int: ...
def space_to_depth_conv2d_backward_input(
    dx: Array,
    dy: Array,
    w: Array,
    mask: Array | None,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def space_to_depth_conv2d_backward_weight_workspace(
    shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool
) -> int: ...
def space_to_depth_conv2d_backward_weight(
    dw: Array,
    db: Array | None,
    dy: Array,
    x: Array,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def hopper_conv2d_forward_workspace(shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool) -> int: ...
def hopper_conv2d_forward(
    y: Array,
    x: Array,
    w: Array,
    b: Array | None,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def hopper_conv2d_backward_input_workspace(shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool) -> int: ...
def hopper_conv2d_backward_input(
    dx: Array,
    dy: Array,
    w: Array,
    mask: Array | None,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def hopper_conv2d_backward_weight_workspace(shape: Conv2d, options: Conv2dOptions, stored_bfloat16: bool) -> int: ...
def hopper_conv2d_backward_weight(
    dw: Array,
    db: Array | None,
    dy: Array,
    x: Array,
    shape: Conv2d,
    options: Conv2dOptions,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def local2d_workspace(shape: Conv2d) -> int: ...
def local2d_forward(
    y: Array, x: Array, w: Array, b: Array | None, shape: Conv2d, relu: bool, workspace: Array | None, stream: int = ...
) -> None: ...
def local2d_backward_input(
    dx: Array, dy: Array, w: Array, shape: Conv2d, workspace: Array | None, stream: int = ...
) -> None: ...
def local2d_backward_weight(
    dw: Array, dy: Array, x: Array, shape: Conv2d, workspace: Array | None, stream: int = ...
) -> None: ...
def max_pool2d_forward(y: Array, which: Array, x: Array, shape: Pool2d, stream: int = ...) -> None: ...
def max_pool2d_backward(dx: Array, dy: Array, which: Array, shape: Pool2d, stream: int = ...) -> None: ...
def avg_pool2d_forward(y: Array, x: Array, shape: Pool2d, stream: int = ...) -> None: ...
def avg_pool2d_backward(dx: Array, dy: Array, shape: Pool2d, stream: int = ...) -> None: ...
def lrn_forward(y: Array, x: Array, shape: Lrn, stream: int = ...) -> None: ...
def lrn_backward(dx: Array, dy: Array, x: Array, shape: Lrn, mask: bool, stream: int = ...) -> None: ...
def lrn_max_pool2d_takes(lrn: Lrn, pool: Pool2d) -> bool: ...
def lrn_max_pool2d_forward(y: Array, which: Array, x: Array, lrn: Lrn, pool: Pool2d, stream: int = ...) -> None: ...
def lrn_max_pool2d_backward(
    dx: Array, dy: Array, which: Array, x: Array, lrn: Lrn, pool: Pool2d, mask: bool, stream: int = ...
) -> None: ...
def spatial_lrn_forward(y: Array, x: Array, shape: SpatialLrn, stream: int = ...) -> None: ...
def spatial_lrn_backward_workspace(shape: SpatialLrn) -> int: ...
def spatial_lrn_backward(
    dx: Array, dy: Array, x: Array, shape: SpatialLrn, workspace: Array | None, stream: int = ...
) -> None: ...
def batch_norm_workspace(rows: int, C: int) -> int: ...
def batch_norm_forward(
    y: Array,
    mean: Array,
    r: Array,
    running_mean: Array,
    running_variance: Array,
    x: Array,
    gamma: Array,
    beta: Array,
    momentum: float,
    epsilon: float,
    training: bool,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def batch_norm_backward(
    dx: Array,
    dgamma: Array,
    dbeta: Array,
    dy: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    r: Array,
    training: bool,
    workspace: Array | None,
    stream: int = ...,
) -> None: ...
def broadcast(
    y: Array,
    a: Array | None,
    b: Array | None,
    c: Array | None,
    d: Array | None,
    operation: str,
    sizes: Sequence[int],
    views: Sequence[Sequence[int]],
    numbers: Sequence[float],
    stream: int = ...,
) -> None: ...
def broadcast_operations() -> dict[str, int]: ...
def reduce_sum_workspace(shape: Reduce) -> int: ...
def reduce_sum(
    y: Array, x: Array, shape: Reduce, divisor: float, workspace: Array | None, stream: int = ...
) -> None: ...
def reduce_max_workspace(shape: Reduce) -> int: ...
def reduce_max(y: Array, which: Array, x: Array, shape: Reduce, workspace: Array | None, stream: int = ...) -> None: ...
def reduce_max_backward(dx: Array, dy: Array, which: Array, shape: Reduce, stream: int = ...) -> None: ...
def cast(y: Array, x: Array, stream: int = ...) -> None: ...
def relu_forward(y: Array, x: Array, stream: int = ...) -> None: ...
def relu_backward(dx: Array, dy: Array, y: Array, stream: int = ...) -> None: ...
def tanh_forward(y: Array, x: Array, stream: int = ...) -> None: ...
def tanh_backward(dx: Array, dy: Array, y: Array, stream: int = ...) -> None: ...
def sigmoid_forward(y: Array, x: Array, stream: int = ...) -> None: ...
def sigmoid_backward(dx: Array, dy: Array, y: Array, stream: int = ...) -> None: ...
def dropout(
    y: Array, x: Array, state: Array, first: int, p: float, scale: float, purpose: int, stream: int = ...
) -> None: ...
def softmax(p: Array, x: Array, stream: int = ...) -> None: ...
def class_weight_sums(
    sums: Array,
    labels: Array,
    others: Array | None,
    mix: Array | None,
    weights: Array,
    stream: int = ...,
) -> None: ...
def softmax_cross_entropy_forward(
    loss: Array,
    losses: Array,
    p: Array,
    x: Array,
    labels: Array,
    others: Array | None = ...,
    mix: Array | None = ...,
    weights: Array | None = ...,
    sums: Array | None = ...,
    smoothing: float = ...,
    stream: int = ...,
) -> None: ...
def softmax_cross_entropy_backward(
    dx: Array,
    dloss: Array,
    p: Array,
    labels: Array,
    others: Array | None = ...,
    mix: Array | None = ...,
    weights: Array | None = ...,
    sums: Array | None = ...,
    smoothing: float = ...,
    stream: int = ...,
) -> None: ...
def sgd(
    w: Array,
    v: Array,
    g: Array,
    lr: Array,
    lr_scale: float,
    momentum: float,
    decay: float,
    nesterov: bool = ...,
    stream: int = ...,
) -> None: ...
def multi_sgd(
    w: list[Array],
    v: list[Array],
    g: list[Array],
    lr: list[Array],
    momentum: list[float],
    decay: list[float],
    nesterov: bool = ...,
    stream: int = ...,
) -> None: ...
def adam(w: Array, m: Array, v: Array, g: Array, lr: Array, t: Array, parameters: Adam, stream: int = ...) -> None: ...
def ema(average: Array, w: Array, rate: Array, stream: int = ...) -> None: ...
def augment(
    y: Array,
    x: Array,
    mean: Array,
    crops: Array,
    noise: Array | None,
    tones: Array | None,
    mix: Array | None,
    shape: Augment,
    stream: int = ...,
) -> None: ...
def augment_by_maps(
    y: Array,
    x: Array,
    mean: Array,
    maps: Array,
    noise: Array | None,
    tones: Array | None,
    mix: Array | None,
    shape: Augment,
    stream: int = ...,
) -> None: ...
def build_info() -> dict[str, str]: ...
def set_blas(address: int) -> None: ...
def set_threads(n: int) -> None: ...
def threads() -> int: ...
