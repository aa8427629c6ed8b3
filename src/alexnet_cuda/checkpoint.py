"""Checkpoints: one safetensors file with weights, momenta, the mean image and a description of the run as JSON.

Weights bear their own names (``conv1.w``), momenta ``momentum/conv1.w``, the mean image is ``data/mean``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .files import replacing

NAME = "checkpoint.safetensors"
DESCRIPTION = "alexnet_cuda"
MOMENTUM = "momentum/"
MEAN = "data/mean"

Arrays = Mapping[str, NDArray[np.float32]]


class CheckpointError(ValueError):
    """A file is not a checkpoint that can be used; the message is one line that says why."""


@dataclass(frozen=True)
class Checkpoint:
    """weights and momenta by parameter name, equal names and shapes; mean (H, W, 3); description: plain data."""

    weights: Arrays
    momenta: Arrays
    mean: NDArray[np.float32]
    description: Mapping[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint; a file of that name is replaced once the new one is whole on the disk, not before.
    OSError when it cannot be written."""
    arrays = {**checkpoint.weights, **{MOMENTUM + k: v for k, v in checkpoint.momenta.items()}, MEAN: checkpoint.mean}
    # safetensors saves the memory as it lies, whatever the strides say.
    contiguous = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    with replacing(path) as aside:
        try:
            save_file(contiguous, aside, {DESCRIPTION: json.dumps(checkpoint.description)})
        except SafetensorError as e:
            raise OSError(f"{path}: cannot be written: {e}") from e


def load(path: Path) -> Checkpoint:
    """The checkpoint in a file, or in the run folder ``path``. CheckpointError when it is missing, damaged, foreign or
    inconsistent."""
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(DESCRIPTION)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"{path}: not a whole safetensors file: {e}") from e
    if text is None or MEAN not in arrays:
        raise CheckpointError(f"{path}: a safetensors file, but not a checkpoint of alexnet_cuda")
    try:
        description = json.loads(text)
    except json.JSONDecodeError as e:
        raise CheckpointError(f"{path}: its description is damaged: {e}") from e
    mean = arrays.pop(MEAN)
    momenta = {k.removeprefix(MOMENTUM): arrays.pop(k) for k in list(arrays) if k.startswith(MOMENTUM)}
    expected, got = _shapes(arrays), _shapes(momenta)
    if got != expected:
        wrong = next(name for name in {**expected, **got} if expected.get(name) != got.get(name))
        raise CheckpointError(f"{path}: momentum of {wrong}: expected {expected.get(wrong)}, got {got.get(wrong)}")
    return Checkpoint(arrays, momenta, mean, description)


def _shapes(arrays: Arrays) -> dict[str, str]:
    return {name: f"{array.dtype} {array.shape}" for name, array in arrays.items()}
