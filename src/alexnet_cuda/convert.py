"""``python -m alexnet_cuda.convert SRC DST``: weights of PyTorch, Caffe and ONNX in, those of PyTorch, ONNX and Keras
out.
"""

from __future__ import annotations

import math
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from . import backend, checkpoint, command_line, models, names, nn, weights
from .command_line import Failure, UsageError, checked_input, count
from .files import decoded, lines
from .inference import Trained
from .quantise import moved
from .terminal import say
from .weights import keras_model, onnx_graph, torch_state
from .weights.layout import Floats
from .weights.onnx_graph import DEFAULT

__all__ = ["main"]

CLASSES_BYTES = 1 << 24
ENDS = ".onnx", keras_model.MODEL, keras_model.WEIGHTS, ".safetensors"


def parser() -> command_line.Parser:
    p = command_line.Parser(
        "convert",
        "SRC: a PyTorch state of torchvision's alexnet (.pth or .safetensors), Caffe's bvlc_alexnet or\n"
        "bvlc_reference_caffenet (.caffemodel), a network in FILE.onnx, or a run folder or checkpoint. Its\n"
        "content tells which.\n"
        "DST: FILE.onnx or FILE.keras, the network from pixels (N, H, W, 3) to logits; FILE.weights.h5, for a model\n"
        "of the same layers in Keras; or FILE.safetensors, a checkpoint if SRC is foreign, else the weights in\n"
        "PyTorch's layout.",
        "Nothing in SRC is executed. Exit codes: 0 done, 1 failure, 2 wrong usage or a file that does not fit.",
    )
    p.add_argument("src", type=Path, metavar="SRC")
    p.add_argument("dst", type=Path, metavar="DST")
    command_line.add_checkpoint(p.add_argument)
    p.add_argument(
        "--model",
        metavar="NAME",
        help="whose weights SRC holds, where its content does not tell; of a .caffemodel also its FILE.prototxt",
    )
    p.add_argument("--classes", type=Path, metavar="FILE", help="names of the classes, one a line (default: numbers)")
    p.add_argument(
        "--mean",
        type=_mean,
        metavar="R,G,B|FILE",
        help="to subtract from pixels, 0 to 255, or Caffe's mean image, .binaryproto or .npy (default: what SRC's "
        "library does)",
    )
    p.add_argument(
        "--scale", type=_numbers, metavar="S|R,G,B", help="to multiply pixels with (default: what SRC's library does)"
    )
    onnx = p.add_argument_group("for FILE.onnx")
    low, high = onnx_graph.OPSETS[0], onnx_graph.OPSETS[-1]
    onnx.add_argument("--opset", type=_opset, metavar="N", help=f"{low} to {high}; default: {DEFAULT.opset}")
    onnx.add_argument("--batch", type=_batch, metavar="N", help="images at a time; default: any number")
    onnx.add_argument(
        "--for",
        dest="consumer",
        choices=onnx_graph.CONSUMERS,
        help="who is to read it: LRN and average pools that it lacks or gets wrong are written as convolutions",
    )
    onnx.add_argument(
        "--with-preprocessing", action="store_true", help="from uint8 pixels to probabilities, in place of logits"
    )
    onnx.add_argument("--float16", action="store_true", help="weights of half the size; computes in float32 with them")
    onnx.add_argument(
        "--int8",
        action="store_true",
        help="matrices of fully connected layers of a quarter of the size; computes in float32 with them",
    )
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    src, dst = options.src, options.dst
    if not dst.name.endswith(ENDS):
        raise UsageError(f"{dst}: expected a name that ends in {', '.join(ENDS[:-1])} or {ENDS[-1]}")
    if dst.is_dir() or not dst.parent.is_dir():
        raise UsageError(f"{dst}: {'is a folder' if dst.is_dir() else 'no such folder'}")
    export = onnx_graph.Export(
        options.opset or DEFAULT.opset,
        options.batch,
        options.consumer is not None,
        options.with_preprocessing,
        options.float16,
        options.int8,
    )
    if dst.suffix != ".onnx" and (options.opset or export != DEFAULT):
        given = "--opset, --batch, --for, --with-preprocessing, --float16 and --int8"
        raise UsageError(f"{dst}: {given} are for FILE.onnx")
    if options.model is not None:
        with checked_input():
            models.get(options.model)
    if src.exists() and dst.exists() and src.samefile(dst):
        raise UsageError(f"{dst}: expected another file than SRC")
    with checked_input():
        if src.is_dir() or options.checkpoint:
            src = checkpoint.chosen(src, options.checkpoint)
        classes = _classes(options.classes) if options.classes else None
        kind, saved = weights.read(src, options.model, classes, options.mean, options.scale)
        trained = Trained.of(saved, src, backend.device("cpu"))
    if dst.suffix == ".onnx":
        try:
            with checked_input():
                onnx_graph.save(dst, trained, export)
        except ImportError as e:
            raise Failure(f"writing ONNX needs the package onnx ({e}): pip install 'alexnet-cuda[onnx]'") from e
        made = "ONNX"
    elif dst.suffix != ".safetensors":
        made = _to_keras(dst, trained)
    elif kind == "checkpoint":
        notes = {"model": trained.model.name, "scale": trained.config["scale"], "classes": trained.classes}
        with checked_input():
            torch_state.save(dst, trained.model, saved.weights, notes)
        made = "PyTorch state"
    else:
        checkpoint.save(dst, saved)
        made = "checkpoint"
    if export.half or export.int8:
        say(f"note: {names.text(dst)} has {dst.stat().st_size / 1e6:.3g} MB{_moved(trained) if export.int8 else ''}")
    if kind != "checkpoint":
        for note in saved.description["notes"]:
            say(f"note: {note}")
    say(
        f"{trained.model.name}, {count(trained.model.parameters, 'parameter')}, "
        f"{count(trained.model.classes, 'class')}: "
        f"{names.text(src)} ({kind}) to {names.text(dst)} ({made})"
    )
    return 0


def _moved(trained: Trained) -> str:
    """What int8 does to weights, in words, where there are any."""
    layers = [(moved(m.w.numpy()), name) for name, m in trained.network.named_modules() if isinstance(m, nn.Linear)]
    if not layers:
        return ""
    share, name = max(layers)
    return f"; int8 moves weights by {share:.2%} of their norm at most ({name}): evaluate --weights-dtype int8 measures"


def _to_keras(path: Path, trained: Trained) -> str:
    """Writes a file of Keras's; returns what it holds."""
    try:
        with checked_input():
            keras_model.save(path, trained)
    except ImportError as e:
        needed = "the package keras and one of its backends, which KERAS_BACKEND names"
        raise Failure(f"writing for Keras needs {needed} ({e})") from e
    if path.name.endswith(keras_model.MODEL):
        return "Keras model"
    mean, scale = ", ".join(f"{m:.6g}" for m in trained.mean.mean((0, 1))), trained.config["scale"]
    factors = ", ".join(f"{s:.6g}" for s in scale) if isinstance(scale, list) else f"{scale:.6g}"
    say(
        f"note: these are the weights alone, of a network that sees (pixels - mean) scale: mean {mean} on average, "
        f"scale {factors}; FILE{keras_model.MODEL} has both"
    )
    return "Keras weights"


def _classes(path: Path) -> list[str]:
    """The lines of a file, which may repeat. UsageError when they cannot be names of classes."""
    try:
        if path.stat().st_size > CLASSES_BYTES:
            raise UsageError(f"{path}: expected names of classes in at most {CLASSES_BYTES:,} bytes")
        found = lines(decoded(path.read_bytes(), "surrogateescape"))
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: {getattr(e, 'strerror', None) or e}") from e
    for number, line in enumerate(found, 1):
        if not line.strip():
            raise UsageError(f"{path}, line {number}: expected the name of a class, got {line!r}")
    return list(map(names.text, found))


def _opset(text: str) -> int:
    return _whole(text, onnx_graph.OPSETS)


def _batch(text: str) -> int:
    return _whole(text, range(1, 2**31))


def _whole(text: str, among: range) -> int:
    if not text.isdecimal() or len(text) > 20 or int(text) not in among:
        raise ArgumentTypeError(f"expected a whole number from {among[0]} to {among[-1]}, got {text!r}")
    return int(text)


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)) or 0 in numbers:
        raise ArgumentTypeError(f"expected one number, or three as R,G,B, none of them zero, got {text!r}")
    return numbers


def _mean(text: str) -> Floats | Path:
    if "," not in text:
        return Path(text)
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise ArgumentTypeError(f"expected three numbers as R,G,B, or a file, got {text!r}")
    return np.asarray(numbers, np.float32)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
