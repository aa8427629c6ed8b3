#!/usr/bin/env bash
# pnnx pads a MaxPool with ONNX's SAME_UPPER by window - 1 pixels whatever the stride; ncnn then gives another picture of the right size.
#
# Expected: (outputs - 1) * stride + window - pixels in all, where outputs = ceil(pixels / stride), the odd one at the end
# (https://onnx.ai/onnx/operators/onnx__MaxPool.html). 6 pixels, window 3, stride 2: none before and one after, so windows of pixels 1-3,
# 3-5 and 5-6. onnxruntime does so.
#
# What happens: the file for ncnn has a Padding layer of one pixel on either side: windows of pixels 1-2, 2-4 and 4-6. Nothing is said.
#
# Version: pnnx 20261020, ncnn 1.0.20261020, onnx 1.23.2, onnxruntime 1.32.0. Seen on 2026-11-30, the diagonal:
#   onnxruntime [15. 29. 36.], ncnn [ 8. 22. 36.]
#
# Exits with 0 if it is so, with 1 if that has changed. Needs Linux on x86-64, Python 3.11 with pip and network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check pnnx==20261020 ncnn==1.0.20261020 onnx==1.23.2 onnxruntime==1.32.0
cat >export.py <<'CODE'
import onnx
from onnx import TensorProto, helper

node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, side, side]) for name, side in (("x", 6), ("y", 3))]
model = helper.make_model(
    helper.make_graph([node], "pool", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "pool.onnx")
CODE
cat >show.py <<'CODE'
import sys

import ncnn
import numpy as np
import onnxruntime

x = np.arange(1, 37, dtype=np.float32).reshape(1, 1, 6, 6)
right = onnxruntime.InferenceSession("pool.onnx").run(None, {"x": x})[0][0, 0].diagonal()
net = ncnn.Net()
net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
net.load_param("pool.ncnn.param")
net.load_model("pool.ncnn.bin")
extractor = net.create_extractor()
extractor.input("in0", ncnn.Mat(x[0]).clone())
theirs = np.array(extractor.extract("out0")[1])[0].diagonal()
print(f"onnxruntime {right}, ncnn {theirs}")
sys.exit(int(not np.array_equal(right, [15, 29, 36]) or not np.array_equal(theirs, [8, 22, 36])))
CODE
venv/bin/python export.py
venv/bin/pnnx pool.onnx 'inputshape=[1,1,6,6]' >log 2>&1 || { cat log; exit 1; }
venv/bin/python show.py
