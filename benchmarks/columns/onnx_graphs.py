"""The questions as ONNX graphs, for the columns that run them.

A consumer is a function that runs a valid model on inputs by name and returns its outputs in their order. What it
refuses is told as such.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from columns.rows import attempt, padding

Run = Callable[[Any, Mapping[str, np.ndarray]], "list[np.ndarray]"]
OPSET = 17


def floats(*values: Any) -> np.ndarray:
    return np.asarray(values, np.float32)


def line(*values: float) -> np.ndarray:
    """An image one pixel wide."""
    return floats(*values).reshape(1, 1, -1, 1)


def model(
    operator: str,
    x: np.ndarray,
    *weights: np.ndarray,
    opset: int = OPSET,
    outputs: int = 1,
    constants: Mapping[str, np.ndarray] | None = None,
    **attributes: Any,
) -> Any:
    """A checked graph of the one operator, on "x" and weights that it holds."""
    names = [f"w{i}" for i in range(len(weights))]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(operator, ["x", *names], results, **attributes)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [node],
        operator,
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results],
        [onnx.numpy_helper.from_array(w, name) for w, name in zip(weights, names, strict=True)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    made = onnx.shape_inference.infer_shapes(made, strict_mode=True)
    onnx.checker.check_model(made, full_check=True)
    return made


def window(size: int, stride: int, before: int = 0, after: int = 0, **more: Any) -> dict[str, Any]:
    """Attributes of windows over an image one pixel wide."""
    return {"kernel_shape": [size, 1], "strides": [stride, 1], "pads": [before, 0, after, 0], **more}


def answers(run: Run) -> dict[str, Callable[[], Any]]:
    """A function for each question."""

    def one(operator: str, x: np.ndarray, *weights: np.ndarray, pick: Any = ..., **options: Any) -> Callable[[], Any]:
        made = model(operator, x, *weights, **options)

        def ask() -> Any:
            return attempt(lambda: np.asarray(run(made, {"x": x})[0]).ravel()[pick])

        return ask

    def both(*asked: Callable[[], Any]) -> Any:
        return [ask() for ask in asked]

    ones, nan = np.ones((1, 8, 1, 1), np.float32), float("nan")
    lrn = {"alpha": 1.0, "beta": 1.0, "bias": 1.0}
    square = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "pick": 0}
    tap = np.zeros((1, 1, 11, 1), np.float32)
    tap[0, 0, -1] = 1
    ramp = line(*range(1, 225))
    same = model("Conv", ramp, tap, kernel_shape=[11, 1], strides=[4, 1], auto_pad="SAME_UPPER")

    def sizes() -> Any:
        x = line(*range(32))

        def size(up: int) -> Any:
            return run(model("MaxPool", x, ceil_mode=up, **window(3, 2)), {"x": x})[0].size

        return [attempt(partial(size, up)) for up in (0, 1)]

    def statistics() -> Any:
        zero, one_ = floats(0), floats(1)
        x = floats(0, 2).reshape(2, 1, 1, 1)
        made = model("BatchNormalization", x, one_, zero, zero, one_, outputs=3, training_mode=1)
        return attempt(lambda: run(made, {"x": x})[1:])

    def dropped(x: np.ndarray, p: float, training: bool) -> Callable[[], Any]:
        made = model("Dropout", x, np.array(p, np.float32), np.array(training))
        return partial(attempt, lambda: run(made, {"x": x})[0])

    def largest(ask: Callable[[], Any]) -> Any:
        y = ask()
        return y if isinstance(y, str) else y.max()

    many = np.ones((1, 100), np.float32)
    return {
        "lrn_odd": one("LRN", ones, size=5, pick=[0, 4], **lrn),
        "lrn_even": one("LRN", ones, size=4, pick=[0, 4, 7], **lrn),
        "max_size": sizes,
        "max_dropped": one("MaxPool", line(1, 2, 3, 4), **window(2, 3, 1, 1), ceil_mode=1),
        "max_beyond": one("MaxPool", line(1, 2, 3, 4, 5), **window(1, 3), ceil_mode=1),
        "max_nan": one("MaxPool", line(nan, 1, 2, 3, 1, nan, 2, 3, 1, 2, 3, nan), **window(4, 4)),
        "avg_border": partial(
            both,
            one("AveragePool", np.ones((1, 1, 3, 3), np.float32), **square),
            one("AveragePool", np.ones((1, 1, 3, 3), np.float32), count_include_pad=1, **square),
        ),
        "avg_ceil": one("AveragePool", line(1, 1, 1, 1), **window(3, 2), ceil_mode=1, pick=-1),
        "avg_ceil_padded": one(
            "AveragePool", line(1, 1, 1, 1), **window(3, 2, 1, 1), ceil_mode=1, count_include_pad=1, pick=-1
        ),
        "same_stride": lambda: attempt(lambda: padding(run(same, {"x": ramp})[0], 4, 224, 11)),
        "conv_asymmetric": one("Conv", line(1, 1, 1, 1), floats(1, 1, 1).reshape(1, 1, 3, 1), **window(3, 1, 0, 2)),
        "relu_special": one("Relu", floats(nan, -0.0, -np.inf).reshape(1, 3)),
        "bn_running": statistics,
        "dropout_form": lambda: [largest(dropped(many, 0.5, training)) for training in (True, False)],
        "dropout_all": dropped(floats(1, -1, np.inf).reshape(1, 3), 1.0, True),
        "loss_mean": one("SoftmaxCrossEntropyLoss", np.zeros((2, 2), np.float32), np.array([0, 1])),
        "loss_far": one("SoftmaxCrossEntropyLoss", floats([0, 200]).reshape(1, 2), np.array([0])),
        "softmax_axes": one("Softmax", np.zeros((1, 2, 1, 2), np.float32), opset=11),
    }
