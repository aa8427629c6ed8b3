"""Checkpoints: one safetensors file with weights, the optimizer's state, the mean image and a description of the run.

Weights bear their own names (``conv1.w``), the optimizer's arrays ``optimizer/momentum/conv1.w``, the mean image is
``data/mean``; the description is JSON among the file's metadata, with a digest of everything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from .files import save_safetensors

__all__ = ["Checkpoint", "CheckpointError", "chosen", "is_checkpoint", "load", "save"]

NAME, BEST = "checkpoint.safetensors", "best.safetensors"
"""Files of a run folder: the last checkpoint, and that of the epoch with the best test."""
DESCRIPTION, DIGEST = "alexnet_cuda", "blake2b"
OPTIMIZER = "optimizer/"
MEAN = "data/mean"

Arrays = Mapping[str, NDArray[np.float32]]


class CheckpointError(ValueError):
    """A file is not a checkpoint that can be used; the message is one line that says why."""


@dataclass(frozen=True)
class Checkpoint:
    """weights: all that the network keeps, by name; optimizer: what ``Optimizer.state`` gave, by name; mean (RH, RW, 3)
    of the stored images; description: plain data."""

    weights: Arrays
    optimizer: Arrays
    mean: NDArray[np.float32]
    description: Mapping[str, Any]
    digest: str = ""
    """Of all that a file holds, once it was loaded from one."""


def save(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint; a file of that name is replaced once the new one is whole on the disk, not before.
    OSError when it cannot be written."""
    named = {**checkpoint.weights, **{OPTIMIZER + k: v for k, v in checkpoint.optimizer.items()}, MEAN: checkpoint.mean}
    # safetensors saves the memory as it lies, whatever the strides say.
    arrays = {name: np.asarray(array, np.float32, order="C") for name, array in named.items()}
    text = json.dumps(checkpoint.description)
    save_safetensors(Path(path), arrays, {DESCRIPTION: text, DIGEST: _digest(text, arrays)})


def chosen(path: str | Path, which: str | None = None) -> Path:
    """The file of a run folder's checkpoint: ``which`` is "best", "last" or a file, there or elsewhere; by default the
    best, or the last where no epoch is done. A path of no folder stays as it is. CheckpointError for a choice that is
    not there, and for one among a single file."""
    path = Path(path)
    if not path.is_dir():
        if which is not None:
            raise CheckpointError(f"{path}: expected a run folder to choose checkpoint {which} of")
        return path
    best, last = path / BEST, path / NAME
    if which is None:
        return best if best.is_file() else last
    file = {"best": best, "last": last}.get(which, path / which)
    for found in (file, Path(which)):
        if found.is_file():
            return found
    known = ", ".join(sorted(file.name for file in path.glob("*.safetensors")))
    raise CheckpointError(f"{path}: checkpoint {which}: expected best, last or a file; there is {known or 'none'}")


def load(path: str | Path) -> Checkpoint:
    """The checkpoint in a file, or the last one of the run folder ``path``. CheckpointError when it is missing, damaged
    or foreign."""
    path = _file(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"{path}: not a whole safetensors file: {e}") from e
    text = metadata.get(DESCRIPTION)
    if text is None or MEAN not in arrays:
        raise CheckpointError(f"{path}: a safetensors file, but not a checkpoint of alexnet_cuda")
    if metadata.get(DIGEST) != _digest(text, arrays):
        raise CheckpointError(f"{path}: damaged: its contents are not those that were written")
    description, mean = json.loads(text), arrays.pop(MEAN)
    optimizer = {k.removeprefix(OPTIMIZER): arrays.pop(k) for k in list(arrays) if k.startswith(OPTIMIZER)}
    return Checkpoint(arrays, optimizer, mean, description, metadata[DIGEST])


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file, or the run folder ``path``, claims to be a checkpoint of ours, whole or not."""
    path = _file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            return DESCRIPTION in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path / NAME if path.is_dir() else path


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
