"""OpenVINO's answers, on its CPU plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import openvino

from columns import onnx_graphs

NAME = "OpenVINO"


def version() -> str:
    return str(openvino.__version__).partition("-")[0]


def run(model: Any, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    results = compiled(dict(inputs))
    return [np.array(results[output]) for output in compiled.outputs]


def answers() -> dict[str, Callable[[], Any]]:
    return onnx_graphs.answers(run)
