"""The answers of OpenCV's module dnn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version as package_version
from typing import Any

import cv2
import numpy as np

from columns import onnx_graphs

NAME = "OpenCV dnn"


def version() -> str:
    return package_version("opencv-python-headless")


def run(model: Any, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    net = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    for name, x in inputs.items():
        net.setInput(x, name)
    return list(net.forward(net.getUnconnectedOutLayersNames()))


def answers() -> dict[str, Callable[[], Any]]:
    return onnx_graphs.answers(run)
