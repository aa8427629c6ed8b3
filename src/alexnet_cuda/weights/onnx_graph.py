"""A trained network as one ONNX graph, from pixels to logits, for any runtime that knows ONNX.

Input ``pixels`` (N, H, W, 3) float32: the crop that the network sees, RGB from 0 to 255. Output ``logits``
(N, classes). The graph subtracts the mean, scales, and then has the operations that the network does in evaluation,
which are found by running it: of any network of operations that ``onnx_operators`` knows. Images go channels first from
the first operation that wants them so. ``Export`` has what else can be had.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..files import WeightsError, replacing
from ..inference import Trained
from .onnx_nodes import Export, Nodes, Value
from .onnx_operators import write
from .recorded import Recorded, recorded

OPSETS = range(13, 23)
CONSUMERS = ("ncnn", "onnx-reference")
"""Those that read only plain operators as ONNX has them."""
DEFAULT = Export()


def save(path: Path, trained: Trained, export: Export = DEFAULT) -> None:
    """Writes the network, after ONNX's own checks. ImportError without the package onnx, WeightsError for an operation
    that ONNX does not have, for what depends on the number of images as ONNX cannot tell, and for weights that float16
    or int8 do not have."""
    model = graph(trained, export)
    import onnx

    onnx.checker.check_model(model, full_check=True)
    with replacing(path) as aside:
        aside.write_bytes(model.SerializeToString())


def graph(trained: Trained, export: Export = DEFAULT) -> Any:
    """The network as an onnx.ModelProto."""
    import onnx
    from onnx import TensorProto, helper

    found = _recorded(trained, export)
    g = Nodes(export, found.counts)
    values = [Value(shapes, array) for shapes, array in found.values]
    values[0].names[False] = _centred(g, trained)
    for step in found.steps:
        g.at = step.name
        write(g, step.function, [None if i is None else values[i] for i in step.inputs], values[step.output])
    result = g.name(values[found.output])
    if export.preprocessing:
        result = g.add("Softmax", result, axis=1)
    if not any(result in node.output for node in g.nodes):
        result = g.add("Identity", result)
    name = "probabilities" if export.preprocessing else "logits"
    for node in g.nodes:
        for names in (node.input, node.output):
            names[:] = [name if used == result else used for used in names]
    N, kind = export.batch or "N", TensorProto.UINT8 if export.preprocessing else TensorProto.FLOAT
    x = helper.make_tensor_value_info("pixels", kind, [N, *trained.model.input])
    y = helper.make_tensor_value_info(name, TensorProto.FLOAT, [N, trained.model.classes])
    made = helper.make_graph(g.nodes, trained.model.name, [x], [y], g.weights)
    opsets = [helper.make_opsetid("", export.opset)]
    ir_version = helper.find_min_ir_version_for(opsets)
    model = helper.make_model(made, opset_imports=opsets, ir_version=ir_version, producer_name="alexnet_cuda")
    onnx.helper.set_model_props(model, {"classes": "\n".join(trained.classes)})
    return model


def _recorded(trained: Trained, export: Export) -> Recorded:
    what = trained.network, trained.model.input, trained.device
    try:
        return recorded(*what)
    except WeightsError:
        if export.batch is None:
            raise
        return recorded(*what, counts=(export.batch, export.batch))


def _centred(g: Nodes, trained: Trained) -> str:
    """The images as the network sees them."""
    from onnx import TensorProto

    top, left, _ = trained.centre[0]
    H, W, _ = trained.model.input
    pixels = g.add("Cast", "pixels", to=TensorProto.FLOAT) if g.export.preprocessing else "pixels"
    centred = g.add("Sub", pixels, trained.mean[top : top + H, left : left + W])
    return g.add("Mul", centred, np.asarray(trained.config["scale"], np.float32))


__all__ = ["CONSUMERS", "DEFAULT", "OPSETS", "Export", "graph", "save"]
