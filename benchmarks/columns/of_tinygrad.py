"""tinygrad's answers: its ONNX reader's, and those of its own functions for gradients and training."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version as package_version
from typing import Any

import numpy as np
from tinygrad import Context, Tensor, nn
from tinygrad.nn.onnx import OnnxRunner

from columns import onnx_graphs
from columns.rows import attempt, spread

NAME = "tinygrad"


def version() -> str:
    return package_version("tinygrad")


def run(model: Any, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(model.SerializeToString())
        file.flush()
        results = OnnxRunner(file.name)({name: Tensor(x) for name, x in inputs.items()})
        return [result.numpy() for result in results.values()]


def gradients(values: list[float], function: Callable[[Tensor], Tensor]) -> Any:
    x = Tensor(values)
    function(x).sum().backward()
    assert x.grad is not None
    return x.grad.numpy()


def after(optimizer: Callable[..., Any], w: float, gradient: float, rates: list[float], **options: Any) -> str:
    with Context(TRAINING=1):
        weight = Tensor([float(w)])
        made = optimizer([weight], lr=rates[0], **options)
        for rate in rates:
            made.lr.assign(Tensor([rate], dtype=made.lr.dtype).reshape(made.lr.shape)).realize()
            weight.grad = Tensor([gradient])
            made.step()
        return f"{weight.item():.6f}"


def statistics() -> Any:
    layer = nn.BatchNorm(1)
    with Context(TRAINING=1):
        layer(Tensor([0.0, 2.0]).reshape(2, 1, 1, 1)).realize()
    return [layer.running_mean.numpy(), layer.running_var.numpy()]


def defaults(function: Any, name: str) -> Any:
    return inspect.signature(function).parameters[name].default


def in_training(values: list[float], p: float) -> Any:
    with Context(TRAINING=1):
        return Tensor(values).dropout(p).numpy()


def answers() -> dict[str, Callable[[], Any]]:
    Tensor.manual_seed(0)
    nan = float("nan")
    return onnx_graphs.answers(run) | {
        "max_ties": lambda: gradients([1.0] * 4, lambda x: x.reshape(1, 1, 2, 2).max_pool2d(2)),
        "relu_gradient": lambda: gradients([0.0, nan], lambda x: x.relu()),
        "bn_running": statistics,
        "bn_defaults": lambda: [nn.BatchNorm(1).eps, 1 - nn.BatchNorm(1).momentum],
        "dropout_form": lambda: [in_training([1.0] * 50, 0.5).max(), Tensor([1.0] * 50).dropout(0.5).numpy().max()],
        "dropout_all": lambda: attempt(lambda: in_training([1.0, -1.0, float("inf")], 1.0)),
        "sgd_steps": lambda: after(nn.optim.SGD, 1, 0.5, [0.1, 0.1], momentum=0.9, weight_decay=0.01),
        "sgd_drop": lambda: after(nn.optim.SGD, 1, 0.5, [0.1, 0.01], momentum=0.9),
        "sgd_nesterov": lambda: after(nn.optim.SGD, 1, 0.5, [0.1, 0.1], momentum=0.9, nesterov=True),
        "adam_epsilon": lambda: float(after(nn.optim.Adam, 0, 1e-3, [1.0], eps=1e-3)),
        "adam_default": lambda: defaults(nn.optim.Adam, "eps"),
        "he_normal": lambda: spread(Tensor.kaiming_normal(200, 1000, a=0).numpy(), (2 / 1000) ** 0.5),
    }
