"""Arrays of other libraries, borrowed and lent without a copy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from . import arrays, libraries
from .libraries import Array

_DLPACK_HOST, _DLPACK_CUDA = (1, 3), (2, 13)  # memory of the CPU, pinned or not; of a GPU, managed or not


def is_foreign(value: object) -> bool:
    """Whether it is an array of another library, which ``borrow`` takes."""
    foreign = hasattr(value, "__dlpack_device__") or hasattr(value, "__cuda_array_interface__")
    return foreign and not isinstance(value, (np.ndarray, np.generic)) and not arrays.is_cupy(value)


def borrow(value: Any) -> Array:
    """The memory of another library's array as a NumPy or CuPy array, without a copy: through DLPack, or where the
    library has only that, ``__cuda_array_interface__``. TypeError, of a BufferError too, for what cannot be had so."""
    try:
        if not hasattr(value, "__dlpack_device__"):
            return libraries.cupy().asarray(value)
        where = int(value.__dlpack_device__()[0])
        if hasattr(value, "is_neg") and value.is_neg():  # its memory has the other sign, which DLPack does not tell
            raise BufferError("it is negated when it is read: resolve_neg() it")
        if "bfloat16" in str(getattr(value, "dtype", "")):  # which NumPy does not read
            if getattr(value, "requires_grad", False):  # a view of integers would not tell
                raise BufferError("it requires a gradient, which would be lost: detach() it")
            return borrow(value.view(_namespace(value).int16)).view(bfloat16)
        if where in _DLPACK_HOST:
            return np.from_dlpack(value)
        if where in _DLPACK_CUDA:
            return libraries.cupy().from_dlpack(value)
    except (AttributeError, BufferError, ImportError, RuntimeError, TypeError, ValueError) as e:
        kind, reason = f"{type(value).__module__}.{type(value).__name__}", " ".join(str(e).split())
        raise TypeError(f"{kind} cannot be read through DLPack: {reason}") from e
    raise TypeError(f"expected an array in the memory of the CPU or of an NVIDIA GPU, got DLPack device {where}")


def lend(array: Array, like: Any) -> Any:
    """The memory of a NumPy or CuPy array as an array of the library of ``like``; as it is for a library that takes no
    others."""
    library = _namespace(like)
    if not hasattr(library, "from_dlpack"):
        return array
    if array.dtype == bfloat16:
        return library.from_dlpack(array.view(np.int16)).view(library.bfloat16)
    return library.from_dlpack(array)


@contextmanager
def current_stream(like: Any) -> Iterator[None]:
    """Within this block work runs on the stream on which the library of ``like``, an array on a GPU, runs its own.
    Other libraries than PyTorch tell none: there it is CuPy's current one, and DLPack makes the two wait."""
    if getattr(like, "is_cuda", False) and hasattr(_library(like), "cuda"):
        index, pointer = like.device.index, _library(like).cuda.current_stream(like.device).cuda_stream
        with libraries.cupy().cuda.Device(index), _external_stream(pointer, index):
            yield
    else:
        yield


def _external_stream(pointer: int, index: int) -> Any:
    """CuPy's form of another library's stream on the current GPU, ``index``."""
    cuda = libraries.cupy().cuda
    if hasattr(cuda.Stream, "from_external"):  # since CuPy 14, which warns of the other one
        return cuda.Stream.from_external(SimpleNamespace(__cuda_stream__=lambda: (0, pointer)))
    return cuda.ExternalStream(pointer, index)


def _namespace(value: Any) -> Any:
    """The functions and dtypes for arrays of the library of ``value``."""
    return value.__array_namespace__() if hasattr(value, "__array_namespace__") else _library(value)


def _library(value: Any) -> ModuleType:
    return sys.modules[type(value).__module__.partition(".")[0]]
