#!/usr/bin/env bash
# OnnxSlim folds a factor for each column behind a convolution into its filters, as if it were one for each channel.
#
# Expected: ONNX broadcasts a factor of shape (3,) along the last axis, the width (https://onnx.ai/onnx/repo-docs/Broadcasting.html):
# columns 1, 2 and 3 of the convolution times 1, 2 and 3, in every channel. onnxruntime does so.
#
# What happens: where the convolution has as many channels as the factor has numbers, channel k is multiplied by number k; the Mul is
# gone. Other lengths are left alone. Nothing is said: onnxslim.slim, and `onnxslim in.onnx out.onnx`, change what the network computes.
#
# Version: onnxslim 0.1.98, onnx 1.23.2, onnxruntime 1.32.0. Seen on 2026-11-30, the first row of ones, in each of three channels:
#   as it is (Conv, Mul): [[1. 2. 3.] [1. 2. 3.] [1. 2. 3.]]
#   slimmed (Conv): [[1. 1. 1.] [2. 2. 2.] [3. 3. 3.]]
#
# Exits with 0 if it is so, with 1 if that has changed. Needs Python 3.11 with pip and network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check onnxslim==0.1.98 onnx==1.23.2 onnxruntime==1.32.0
cat >show.py <<'CODE'
import sys

import numpy as np
import onnx
import onnxruntime
import onnxslim
from onnx import TensorProto, helper, numpy_helper

x = np.ones((1, 1, 3, 3), np.float32)
weights = {"w": np.ones((3, 1, 1, 1), np.float32), "factor": np.array([1, 2, 3], np.float32)}
nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Mul", ["c", "factor"], ["y"])]
ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 3, 3])]
graph = helper.make_graph(nodes, "scaled", ends[:1], ends[1:], [numpy_helper.from_array(w, name) for name, w in weights.items()])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)


def first_rows(model):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0][0, :, 0]


def told(name, model, rows):
    operators = ", ".join(node.op_type for node in model.graph.node)
    print(f"{name} ({operators}): {str(rows).replace(chr(10), '')}")


slim = onnxslim.slim(onnx.ModelProto.FromString(model.SerializeToString()))
rows, slimmed = first_rows(model), first_rows(slim)
told("as it is", model, rows)
told("slimmed", slim, slimmed)
sys.exit(int(not np.array_equal(rows, [[1, 2, 3]] * 3) or not np.array_equal(slimmed, rows.T)))
CODE
venv/bin/python show.py
