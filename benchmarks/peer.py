"""The PyTorch side of every comparison: AlexNet's operations, the network, and the whole step in its fastest forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from layers import AvgPool, Conv, Dropout, Layer, Linear, Lrn, LrnPool, Pool, Relu
from torch import Tensor, nn

LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
PRECISIONS = ("fp32", "tf32", "bf16")


@contextmanager
def precision(name: str) -> Iterator[torch.dtype]:
    """fp32 with exact products, tf32, or bf16; yields the dtype that activations have in it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        yield torch.bfloat16 if name == "bf16" else torch.float32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def lrn(x: Tensor, layer: Lrn) -> Tensor:
    """The library's operation; its alpha is divided by the window. Groups become images."""
    shape = x.shape
    if layer.groups > 1:
        x = x.reshape(shape[0] * layer.groups, -1, *shape[2:])
    return F.local_response_norm(x, layer.n, layer.alpha * layer.n, layer.beta, layer.k).reshape(shape)


def lrn_shifted(x: Tensor, layer: Lrn) -> Tensor:
    """The paper's LRN (beta = .75) as shifted adds and two reciprocal roots: the best that plain operations allow."""
    if layer.groups > 1:
        return torch.cat([lrn_shifted(part, replace(layer, groups=1)) for part in x.chunk(layer.groups, 1)], 1)
    squares = F.pad(x.float().square(), (0, 0, 0, 0, layer.n // 2, layer.n // 2))
    window = squares[:, : x.shape[1]]
    for i in range(1, layer.n):
        window = window + squares[:, i : i + x.shape[1]]
    root = torch.rsqrt(layer.k + layer.alpha * window)
    return x * (root * root.sqrt()).to(x.dtype)


def max_pool(x: Tensor, layer: Pool) -> Tensor:
    return F.max_pool2d(x, layer.k, layer.stride)


def lrn_and_pool(lrn: Callable[[Tensor, Lrn], Tensor], layer: LrnPool, x: Tensor) -> Tensor:
    return max_pool(lrn(x, layer.lrn), layer.pool)


class LocalResponseNorm(nn.Module):  # type: ignore[misc]
    def __init__(self, function: Callable[[Tensor, Lrn], Tensor], layer: Lrn) -> None:
        super().__init__()
        self.function, self.layer = function, layer

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.layer)


def network(
    layers: Sequence[Layer],
    device: str | torch.device,
    lrn: Callable[[Tensor, Lrn], Tensor] = lrn,
    channels: int | None = None,
) -> nn.Sequential:
    """The network up to its logits, with weights N(0, .01) and biases 0; children bear the layers' names.

    `channels`: how many channels the images are padded to.
    """
    model = nn.Sequential()
    for layer in layers:
        match layer:
            case Conv():
                if layer.excess:
                    model.add_module(f"pad_{layer.name}", nn.ZeroPad2d((0, layer.excess, 0, layer.excess)))
                inputs = channels if channels and len(model) == 0 else layer.C
                module = nn.utils.skip_init(
                    nn.Conv2d, inputs, layer.K, layer.k, layer.stride, layer.padding, groups=layer.groups, device=device
                )
            case Relu():
                module = nn.ReLU(inplace=True)
            case Lrn():
                module = LocalResponseNorm(lrn, layer)
            case AvgPool():
                module = nn.AvgPool2d(layer.k, layer.stride, ceil_mode=layer.ceil)
            case Pool():
                module = nn.MaxPool2d(layer.k, layer.stride, ceil_mode=layer.ceil)
            case Dropout():
                module = nn.Dropout(layer.p)
            case Linear():
                module = nn.utils.skip_init(nn.Linear, layer.inputs, layer.outputs, device=device)
            case _:
                continue
        if isinstance(layer, (Dropout, Linear)) and not hasattr(model, "flatten"):
            model.add_module("flatten", nn.Flatten())
        model.add_module(layer.name, module)
        for key, parameter in module.named_parameters():
            nn.init.normal_(parameter, std=0.01) if key == "weight" else nn.init.zeros_(parameter)
    return model


def training_loss(model: nn.Module, x: Tensor, labels: Tensor, precision: str) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return F.cross_entropy(model(x), labels)


class Step:
    """One training step (forward, loss, backward, SGD with momentum .9 and decay 5e-4) or one inference of a model.

    `compile_mode` is torch.compile's mode. On the CPU nothing is generated for it: there only the tracing is exercised.
    """

    def __init__(
        self,
        model: nn.Sequential,
        x: Tensor,
        labels: Tensor,
        layout: str = "NCHW",
        precision: str = "fp32",
        train: bool = True,
        fused: bool | None = None,
        compile_mode: str | None = None,
        lr: float = 0.01,
    ) -> None:
        model = model.to(memory_format=LAYOUTS[layout]).train(train)
        x = x.contiguous(memory_format=LAYOUTS[layout])
        if train:
            self.optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=5e-4, fused=fused)
        elif precision == "bf16":
            model, x = model.bfloat16(), x.bfloat16()
        self.model, self.x, self.labels, self.precision, self.train = model, x, labels, precision, train
        self.evaluate: Callable[..., Tensor] = training_loss if train else nn.Sequential.forward
        if compile_mode is not None:
            how = {"mode": compile_mode} if x.is_cuda else {"backend": "eager"}
            self.evaluate = torch.compile(self.evaluate, dynamic=False, **how)
        self.result = torch.empty(0)

    def __call__(self) -> None:
        """Runs once; `result` then holds the loss, or the scores."""
        with precision(self.precision):
            if not self.train:
                with torch.no_grad():
                    self.result = self.evaluate(self.model, self.x)
                return
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.evaluate(self.model, self.x, self.labels, self.precision)
            loss.backward()
            self.optimizer.step()
            self.result = loss.detach()

    def value(self) -> np.ndarray:
        return np.array(self.result.float().cpu())

    def without_dropout(self) -> None:
        for module in self.model:
            if isinstance(module, nn.Dropout):
                module.p = 0.0


def captured(run: Callable[[], object], warmup: int = 3) -> Callable[[], None]:
    """`run` as one CUDA graph on the current stream, after `warmup` calls. What it returns is kept alive."""
    for _ in range(warmup):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        kept = run()

    def replay(kept: object = kept) -> None:
        graph.replay()

    return replay


def kernel_name(call: Callable[[], object]) -> str | None:
    """The kernel in which the call spends the most time: the algorithm that cuDNN or cuBLAS chose."""
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            torch.cuda.synchronize()
    except RuntimeError as error:
        return f"no profiler: {error}".splitlines()[0][:80]
    kernels = [event for event in profile.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
    return max(kernels, key=lambda event: event.self_device_time_total).key[:120] if kernels else None


def conv_pass(layer: Conv, which: str, x: Tensor, w: Tensor, dy: Tensor, b: Tensor | None = None) -> Tensor:
    """One pass of a convolution on NCHW tensors of either memory format."""
    stride, padding = [layer.stride] * 2, [layer.padding] * 2
    if which == "forward":
        return F.conv2d(x, w, b, layer.stride, layer.padding, 1, layer.groups)
    mask = [which == "input gradient", which == "weight gradient", False]
    gradients = torch.ops.aten.convolution_backward(
        dy, x, w, None, stride, padding, [1, 1], False, [0, 0], layer.groups, mask
    )
    return gradients[mask.index(True)]


def linear_pass(which: str, x: Tensor, w: Tensor, dy: Tensor, b: Tensor | None = None) -> Tensor:
    match which:
        case "forward":
            return F.linear(x, w, b)
        case "input gradient":
            return dy @ w
        case _:
            return dy.t() @ x
