"""ncnn as a consumer of ONNX: pnnx converts, ncnn runs one image after the other."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import ncnn
import numpy as np
import pnnx

NAME = "ncnn through pnnx"


def version() -> str:
    return f"{ncnn.__version__}, pnnx {package_version('pnnx')}"


def run(model: Any, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    (x,) = inputs.values()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "net.onnx").write_bytes(model.SerializeToString())
        shape = ",".join(map(str, (1, *x.shape[1:])))
        command = [pnnx.EXEC_PATH, "net.onnx", f"inputshape=[{shape}]", "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"pnnx ended with status {done.returncode}")
        net = ncnn.Net()
        net.opt.use_vulkan_compute = False
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        if net.load_param(f"{folder}/net.ncnn.param") or net.load_model(f"{folder}/net.ncnn.bin"):
            raise RuntimeError("ncnn does not load what pnnx wrote")
        return [np.stack([_one(net, image) for image in x])]


def _one(net: Any, image: np.ndarray) -> np.ndarray:
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(np.ascontiguousarray(image)).clone())
    status, y = extractor.extract("out0")
    if status:
        raise RuntimeError(f"ncnn's status is {status}")
    return np.array(y).reshape(-1)
