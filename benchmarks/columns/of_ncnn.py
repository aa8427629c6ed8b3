"""ncnn's answers, of its own layers: networks of one, written in its text format."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ncnn
import numpy as np

from columns.rows import padding

NAME = "ncnn"


def version() -> str:
    return str(ncnn.__version__)


def run(layer: str, x: np.ndarray, options: str, *weights: np.ndarray) -> np.ndarray:
    """x is an image (C, H, W). Convolutions' weights follow a word that says they are float32."""
    with tempfile.TemporaryDirectory() as folder:
        text, binary = Path(folder, "net.param"), Path(folder, "net.bin")
        text.write_text(f"7767517\n2 2\nInput x 0 1 x\n{layer} layer 1 1 x y {options}\n")
        binary.write_bytes(bytes(4) + b"".join(w.astype(np.float32).tobytes() for w in weights) if weights else b"")
        net = ncnn.Net()
        net.opt.use_vulkan_compute = False
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        assert not net.load_param(str(text))
        assert not net.load_model(str(binary))
        extractor = net.create_extractor()
        pixels = np.ascontiguousarray(x, np.float32)
        extractor.input("x", ncnn.Mat(pixels).clone())  # it has to own what layers work in
        status, y = extractor.extract("y")
        assert not status
        return np.array(y)


def line(*values: float) -> np.ndarray:
    """An image one pixel high."""
    return np.array(values, np.float32).reshape(1, 1, -1)


def lrn(size: int) -> np.ndarray:
    return run("LRN", np.ones((8, 1, 1)), f"0=0 1={size} 2=1.0 3=1.0 4=1.0").ravel()


def lrn_odd() -> Any:
    return lrn(5)[[0, 4]]


def lrn_even() -> Any:
    return lrn(4)[[0, 4, 7]]


def lrn_defaults() -> Any:
    """Of the size alone is no default seen: it is that which gives what the default gives."""
    x = 30 * np.ones((16, 1, 1))
    expected = run("LRN", x, "")
    same = [n for n in (3, 5, 7, 9) if np.array_equal(run("LRN", x, f"1={n} 2=1.0 3=0.75 4=1.0"), expected)]
    return [same[0], 1.0, 0.75, 1.0] if same else "others than 1, 0.75, 1"


MAXIMUM, AVERAGE = 0, 1
UP, DOWN = 0, 1


def pool(x: np.ndarray, kind: int, size: int, stride: int, pad: int, rule: int, counted: int = 0) -> np.ndarray:
    """Along the width."""
    options = f"0={kind} 1={size} 11=1 2={stride} 12=1 3={pad} 13=0 14={pad} 15=0 5={rule} 6={counted}"
    return run("Pooling", x, options)


def max_size() -> Any:
    x = line(*range(32))
    return [run("Pooling", x, "0=0 1=3 11=1 2=2 12=1").size, pool(x, MAXIMUM, 3, 2, 0, DOWN).size]


def max_dropped() -> Any:
    return pool(line(1, 2, 3, 4), MAXIMUM, 2, 3, 1, UP)


def max_beyond() -> Any:
    return pool(line(1, 2, 3, 4, 5), MAXIMUM, 1, 3, 0, UP)


def max_nan() -> Any:
    nan = np.nan
    return pool(line(nan, 1, 2, 3, 1, nan, 2, 3, 1, 2, 3, nan), MAXIMUM, 4, 4, 0, DOWN)


def avg_border() -> Any:
    x = np.ones((1, 3, 3))
    return [run("Pooling", x, f"0=1 1=3 2=1 3=1{counted}").ravel()[0] for counted in ("", " 6=1")]


def avg_ceil() -> Any:
    return pool(line(1, 1, 1, 1), AVERAGE, 3, 2, 0, UP).ravel()[-1]


def avg_ceil_padded() -> Any:
    return pool(line(1, 1, 1, 1), AVERAGE, 3, 2, 1, UP, 1).ravel()[-1]


SAME_UPPER = -233


def convolution(x: np.ndarray, w: np.ndarray, stride: int, before: int, after: int) -> np.ndarray:
    pads = f"4={before} 14=0 15={after} 16=0"
    return run("Convolution", x, f"0=1 1={w.size} 11=1 3={stride} 13=1 {pads} 5=0 6={w.size}", w)


def same_stride() -> Any:
    tap = np.eye(11)[10]
    x = line(*range(1, 225))
    y = run("Convolution", x, f"0=1 1=11 11=1 3=4 13=1 4={SAME_UPPER} 5=0 6=11", tap)
    return padding(y, 4, 224, 11)


def conv_asymmetric() -> Any:
    return convolution(line(1, 1, 1, 1), np.ones(3), 1, 0, 2)


def relu_special() -> Any:
    return run("ReLU", line(np.nan, -0.0, -np.inf), "")


def softmax_axes() -> Any:
    return run("Softmax", np.zeros((2, 1, 2)), "1=1")
