#!/usr/bin/env bash
# OpenCV's module dnn pads ONNX's SAME_UPPER and SAME_LOWER as if the stride were 1: (window - 1) / 2 pixels before the image.
#
# Expected: pads whose sum is (outputs - 1) * stride + window - pixels, where outputs = ceil(pixels / stride); SAME_UPPER puts the odd one
# at the end, SAME_LOWER at the beginning (https://onnx.ai/onnx/operators/onnx__Conv.html, MaxPool the same). 6 pixels, window 3, stride 2:
# one in all, so SAME_UPPER has windows of pixels 1-3, 3-5 and 5-6. onnxruntime, onnx's reference evaluator and TensorFlow do so.
#
# What happens: one pixel before and none after: windows of pixels 1-2, 2-4 and 4-6. Convolution and both pools, without a word; the shape
# is right.
#
# Version: opencv-python-headless 5.0.0.93, onnx 1.23.2, onnxruntime 1.32.0. Seen on 2026-11-30, last pixel of each window:
#   Conv SAME_UPPER: onnxruntime [3. 5. 0.], OpenCV [2. 4. 6.]
#   MaxPool SAME_UPPER: onnxruntime [3. 5. 6.], OpenCV [2. 4. 6.]
#   Conv SAME_UPPER, stride 1: onnxruntime [2. 3. 4. 5. 6. 0.], OpenCV [2. 3. 4. 5. 6. 0.]
#
# Exits with 0 if it is so, with 1 if that has changed. Needs Linux on x86-64, Python 3.11 with pip and network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check opencv-python-headless==5.0.0.93 onnx==1.23.2 onnxruntime==1.32.0
cat >show.py <<'CODE'
import sys

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

x = np.arange(1, 7, dtype=np.float32).reshape(1, 1, 6, 1)
last = np.array([0, 0, 1], np.float32).reshape(1, 1, 3, 1)
expected = {
    ("Conv", 2): ([3, 5, 0], [2, 4, 6]),
    ("MaxPool", 2): ([3, 5, 6], [2, 4, 6]),
    ("Conv", 1): ([2, 3, 4, 5, 6, 0], [2, 3, 4, 5, 6, 0]),
}
changed = 0
for (operator, stride), (right, seen) in expected.items():
    weights = [numpy_helper.from_array(last, "w")] if operator == "Conv" else []
    options = {"kernel_shape": [3, 1], "strides": [stride, 1], "auto_pad": "SAME_UPPER"}
    node = helper.make_node(operator, ["x", *(w.name for w in weights)], ["y"], **options)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "same", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    file = model.SerializeToString()
    theirs = onnxruntime.InferenceSession(file).run(None, {"x": x})[0].ravel()
    net = cv2.dnn.readNetFromONNX(np.frombuffer(file, np.uint8))
    net.setInput(x)
    opencv = net.forward().ravel()
    print(f"{operator} SAME_UPPER{', stride 1' if stride == 1 else ''}: onnxruntime {theirs}, OpenCV {opencv}")
    changed |= not (np.array_equal(theirs, right) and np.array_equal(opencv, seen))
sys.exit(int(changed))
CODE
venv/bin/python show.py
