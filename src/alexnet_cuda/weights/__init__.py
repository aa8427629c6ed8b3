"""Weights of other libraries: PyTorch's, Caffe's and ONNX's become checkpoints, checkpoints become PyTorch's or ONNX.

``read`` tells a file's format by its content; ONNX, which has no mark, by the name. Files are taken for hostile:
nothing in them is executed, names and shapes are compared with the model's before an array is made, and all that is
read is backed by bytes of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import checkpoint, models
from ..checkpoint import Checkpoint
from ..data.dataset import with_margin
from ..files import WeightsError
from . import caffe, torch_state
from .layout import Floats, convert, names_in

CAFFE_STORED = 256
"""Pixels to which images are scaled for Caffe's networks; torchvision's as this project does, 256 for a crop of 224."""
HEAD = 64  # bytes that tell a file's format
TORCHVISION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB values from 0 to 1, with which torchvision normalises."""
ILSVRC = 122.67891434, 116.66876762, 104.00698793
"""Mean of the RGB values, 0 to 255, of the mean image that Caffe's published networks were trained with."""


def read(
    path: Path,
    model: str | None = None,
    classes: Sequence[str] | None = None,
    mean: Floats | Path | None = None,
    scale: Sequence[float] | None = None,
) -> tuple[str, Checkpoint]:
    """What kind of file ``path`` is, and its weights as a checkpoint.

    model: whose weights they are; by default ``alexnet-owt`` for PyTorch's, ``caffe-alexnet`` or ``caffenet`` for
    Caffe's, by the order of their layers; of any other network of Caffe's its deploy file, FILE.prototxt; ONNX files
    bring their own. classes: their names, by default those that an ONNX file has, else numbers. mean (3,) or (H, W, 3),
    RGB from 0 to 255, or a file with Caffe's mean image, is subtracted, then ``scale``, one factor or one for each of
    RGB, multiplied; by default as torchvision, Caffe and the ONNX file do. A checkpoint is returned as it is;
    others have in their description, as ``notes``, what was dropped, ignored or converted in reading. WeightsError for
    any other file, and for one that does not fit.
    """
    if checkpoint.is_checkpoint(path):
        if model or classes or mean is not None or scale:
            raise WeightsError(f"{path}: a checkpoint, which has its own model, classes, mean and scale")
        return "checkpoint", checkpoint.load(path)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as e:
        raise WeightsError(f"{path}: {e.strerror}") from e
    notes, where = list[str](), "mean image"
    if isinstance(mean, Path):
        where, mean = str(mean), caffe.mean_image(mean)
    found: models.Model
    labels = list(classes or ())
    if models.onnx.is_file(path.name):
        if model:
            raise WeightsError(f"{path}: an ONNX file, which has its own model")
        kind, (found, graph, pixels) = "ONNX network", models.onnx.with_weights(path)
        if found.input[2] != 3:
            raise WeightsError(f"{path}: expected a network that sees images in colour, got input {found.input}")
        weights, converted = models.onnx.Network(graph).state(), list[str]()
        labels = labels or list(graph.classes if len(graph.classes) == found.classes else ())
        stored = with_margin(found.input[0]), with_margin(found.input[1])
        average, factors = np.zeros(3, np.float32), [1.0]
        if pixels:
            average, factors = _around(pixels.mean, stored), list(pixels.scale)
        elif mean is None and not scale:
            notes = ["the network is given pixels from 0 to 255; --mean and --scale say otherwise"]
    elif torch_state.is_zip(head) or torch_state.is_legacy(head) or torch_state.is_safetensors(head):
        kind, (entries, notes) = "PyTorch state", torch_state.entries(path, head)
        found = models.get(model or "alexnet-owt")
        theirs = torch_state.names(found)
        entries, fitting = torch_state.fitted(entries, set(theirs.values()))
        notes += fitting
        found, weights, converted = convert(path, found, theirs, entries)
        average, factors = np.asarray(TORCHVISION[0], np.float32) * 255, [1 / (255 * s) for s in TORCHVISION[1]]
        stored = with_margin(found.input[0]), with_margin(found.input[1])
    elif caffe.is_network(head):
        kind, (order, entries) = "Caffe network", caffe.network(path)
        stored = CAFFE_STORED, CAFFE_STORED
        given = models.get(model) if model and models.is_file(model) else None
        if isinstance(given, models.Deploy):
            found, (entries, notes) = given, caffe.deployed(entries, given)
            H, W, C = found.input
            if C != 3:
                raise WeightsError(f"{path}: expected a network of images in colour, 3 channels, got {C}")
            if not CAFFE_STORED * 7 // 8 <= min(H, W) <= max(H, W) <= CAFFE_STORED:
                stored = with_margin(H), with_margin(W)
        else:
            found = models.get(caffe.model_name(path, order, model))
            entries, notes = caffe.fitted(entries, found)
        found, weights, converted = convert(path, found, {name: name for name in names_in(found)}, entries)
        caffe.rgb(found, weights)
        average, factors = np.asarray(ILSVRC, np.float32), [1.0]
    else:
        raise WeightsError(
            f"{path}: expected a checkpoint, a PyTorch state (.pth or .safetensors), a Caffe network or FILE.onnx, got "
            f"a file that begins with {head[:8]!r}"
        )
    labels = labels or numbered(found.classes)
    if len(labels) != found.classes:
        raise WeightsError(f"{path}: expected a name for each class, {found.classes:,}, got {len(labels):,}")
    chosen = average if mean is None else mean
    image = np.array(np.broadcast_to(chosen, (*stored, 3)) if chosen.ndim == 1 else chosen, np.float32)
    if image.shape[0] < found.input[0] or image.shape[1] < found.input[1]:
        raise WeightsError(f"{where}: expected at least {found.input}, as {found.name} sees images, got {image.shape}")
    factors = list(scale or factors)
    config = {
        **found.entries(),
        "options": {},
        "seed": 0,
        "scale": factors if len(set(factors)) > 1 else factors[0],
        "data": None,
    }
    about = {"config": config, "classes": labels, "origin": kind}
    return kind, Checkpoint(weights, {}, image, {**about, "notes": [*notes, *converted]})


def _around(mean: Floats, stored: tuple[int, int]) -> Floats:
    """A mean image of the crop that a network sees, with its edges repeated to the size in which images are stored; one
    pixel as it is."""
    if mean.ndim == 1:
        return mean
    ends = [((whole - n) // 2, whole - n - (whole - n) // 2) for whole, n in zip(stored, mean.shape, strict=False)]
    return np.pad(mean, [*ends, (0, 0)], "edge")


def numbered(classes: int) -> list[str]:
    """What so many classes are called where nobody knows their names."""
    return [f"{i:0{len(str(classes - 1))}}" for i in range(classes)]


__all__ = ["WeightsError", "numbered", "read"]
