#!/usr/bin/env bash
# OpenVINO's LRN of an even size leaves out a channel of ONNX's window, and divides alpha by the size all the same.
#
# Expected: channels c - floor((size - 1) / 2) to c + ceil((size - 1) / 2), and alpha / size times the sum of their squares
# (https://onnx.ai/onnx/operators/onnx__LRN.html). Ones in 8 channels, size 4, alpha = beta = bias = 1: channels c - 1 to c + 2, so
# 1 / (1 + 3 / 4), 1 / (1 + 4 / 4) and, at the end, 1 / (1 + 2 / 4). tinygrad gives that; onnxruntime and OpenCV refuse even sizes.
#
# What happens: the window is c - 1 to c + 1, with size 2 the channel alone; for odd sizes it is ONNX's. Nothing is said.
#
# Version: openvino 2026.4.1, onnx 1.23.2. Seen on 2026-11-30, first channel, fifth, last:
#   size 2: ONNX [0.5    0.5    0.6667], OpenVINO [0.6667 0.6667 0.6667]
#   size 4: ONNX [0.5714 0.5    0.6667], OpenVINO [0.6667 0.5714 0.6667]
#   size 5: ONNX [0.625 0.5   0.625], OpenVINO [0.625 0.5   0.625]
#
# Exits with 0 if it is so, with 1 if that has changed. Needs Linux on x86-64, Python 3.11 with pip and network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2
cat >show.py <<'CODE'
import sys

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper

C, shown = 8, [0, 4, 7]
x = np.ones((1, C, 1, 1), np.float32)
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
core, changed = openvino.Core(), 0
for size, without in ((2, 1), (4, 1), (5, 0)):
    node = helper.make_node("LRN", ["x"], ["y"], size=size, alpha=1.0, beta=1.0, bias=1.0)
    graph = helper.make_graph([node], "lrn", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)

    def answer(after):
        counts = [min(C, c + after + 1) - max(0, c - (size - 1) // 2) for c in range(C)]
        return np.array([1 / (1 + count / size) for count in counts])

    after = size // 2
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    theirs = compiled([x])[0].ravel()
    print(f"size {size}: ONNX {answer(after)[shown].round(4)}, OpenVINO {theirs[shown].round(4)}")
    changed |= not np.allclose(theirs, answer(after - without), atol=1e-5)
sys.exit(int(changed))
CODE
venv/bin/python show.py
