"""Inference in runtimes that read the ONNX file of our export: onnxruntime and OpenVINO, on as many threads as ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from alexnet_cuda import backend, nn
from alexnet_cuda.inference import Trained
from alexnet_cuda.models import Model
from alexnet_cuda.weights import onnx_graph


def export(file: Path, description: Model, network: nn.Module, batch: int) -> None:
    """Writes the network for a fixed batch, without what the export does to pixels: subtract a mean and scale."""
    classes = tuple(map(str, range(description.classes)))
    config: dict[str, Any] = {"scale": 1.0, "data": None}
    mean = np.zeros(description.input, np.float32)
    trained = Trained(file, config, classes, mean, description, network, backend.device("cpu"), batch)
    model = onnx_graph.graph(trained, onnx_graph.Export(batch=batch))
    nodes, pixels = model.graph.node, model.graph.input[0].name
    centred = [node.output[0] for node in nodes[:2]]
    assert [node.op_type for node in nodes[:2]] == ["Sub", "Mul"]
    for node in nodes[2:]:
        node.input[:] = [pixels if name in centred else name for name in node.input]
    del nodes[:2]
    file.write_bytes(model.SerializeToString())


class _Inference:
    """After a call, ``value`` is the logits."""

    result = np.empty(0, np.float32)

    def value(self) -> np.ndarray:
        return np.array(self.result)

    def without_dropout(self) -> None:
        """The file has none."""


class OnnxRuntime(_Inference):
    def __init__(self, file: Path, x: np.ndarray) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = backend.threads()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.inputs = {self.session.get_inputs()[0].name: x}

    def __call__(self) -> None:
        (self.result,) = self.session.run(None, self.inputs)


class OpenVino(_Inference):
    def __init__(self, file: Path, x: np.ndarray) -> None:
        import openvino

        self.x = x  # is read where it lies
        core = openvino.Core()
        how = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        how["INFERENCE_NUM_THREADS"] = str(backend.threads())
        self.request = core.compile_model(core.read_model(file), "CPU", how).create_infer_request()
        self.request.set_input_tensor(openvino.Tensor(x, shared_memory=True))

    def __call__(self) -> None:
        self.request.infer()
        self.result = self.request.get_output_tensor().data


RUNTIMES: dict[str, type[OnnxRuntime] | type[OpenVino]] = {"onnxruntime": OnnxRuntime, "OpenVINO": OpenVino}
