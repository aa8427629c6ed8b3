#!/usr/bin/env bash
# onnx's reference evaluator mixes the batch's statistics into BatchNormalization of opsets 9 to 13, in inference.
#
# Expected: with one output the operator is in "test mode" and normalises by the given mean and variance, y = (x - mean) / sqrt(var +
# epsilon) * scale + bias (https://onnx.ai/onnx/operators/onnx__BatchNormalization.html, versions 9 and 14). 0 and 2 with mean 0, variance
# 1: 0 and 2. onnxruntime gives that.
#
# What happens: for opsets 9 to 13 the evaluator normalises by 0.9 of the given statistics plus 0.1 of the batch's, as momentum has a
# default and so is never missing (onnx/reference/ops/op_batch_normalization.py, BatchNormalization_9). What one image becomes depends on
# the others in its batch. Whoever takes it for the truth about an older export blames the wrong library.
#
# Version: onnx 1.23.2, onnxruntime 1.32.0. Seen on 2026-11-30:
#   opset 9: reference [-0.1  1.9], onnxruntime [0. 2.]
#   opset 13: reference [-0.1  1.9], onnxruntime [0. 2.]
#   opset 15: reference [0. 2.], onnxruntime [0. 2.]
#
# Exits with 0 if it is so, with 1 if that has changed. Needs Python 3.11 with pip and network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0
cat >show.py <<'CODE'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

x = np.array([0, 2], np.float32).reshape(2, 1, 1, 1)
zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
inputs = {"x": x, "scale": one, "bias": zero, "mean": zero, "variance": one}
changed = 0
for opset, mixed in ((9, True), (13, True), (15, False)):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in inputs.items()]
    node = helper.make_node("BatchNormalization", list(inputs), ["y"])
    graph = helper.make_graph([node], "normalise", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    reference = ReferenceEvaluator(model).run(None, inputs)[0].ravel()
    runtime = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)[0].ravel()
    print(f"opset {opset}: reference {reference.round(2)}, onnxruntime {runtime.round(2)}")
    changed |= not np.allclose(runtime, [0, 2], atol=1e-4)
    changed |= not np.allclose(reference, [-0.1, 1.9] if mixed else [0, 2], atol=1e-4)
sys.exit(int(changed))
CODE
venv/bin/python show.py
