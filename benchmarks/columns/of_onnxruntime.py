"""onnxruntime's answers, on its CPU provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime

from columns import onnx_graphs

NAME = "onnxruntime"


def version() -> str:
    return str(onnxruntime.__version__)


def run(model: Any, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


def answers() -> dict[str, Callable[[], Any]]:
    return onnx_graphs.answers(run)
