"""The answers of onnx's own reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from columns import onnx_graphs

NAME = "onnx's reference"


def version() -> str:
    return str(onnx.__version__)


def run(model: Any, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(model).run(None, dict(inputs)))


def answers() -> dict[str, Callable[[], Any]]:
    return onnx_graphs.answers(run)
