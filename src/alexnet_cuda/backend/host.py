"""The CPU: its threads, and the BLAS that multiplies there."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from . import arrays, libraries
from .discovery import Device


def set_threads(n: int) -> None:
    """How many threads operations on the CPU use, in the whole process. Results do not depend on it.
    ValueError for none."""
    if n < 1:
        raise ValueError(f"set_threads: expected at least 1, got {n}")
    libraries.native_cpu.set_threads(n)


def threads() -> int:
    """How many threads operations on the CPU use."""
    return libraries.native_cpu.threads()


@cache
def openblas() -> ctypes.CDLL | None:
    """The library of scipy-openblas64, opened for ourselves alone and kept to the thread that calls it."""
    spec = importlib.util.find_spec("scipy_openblas64")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(folder, "lib").glob("libscipy_openblas64_*.so*"):
            try:
                library = ctypes.CDLL(str(path))
            except OSError:  # `python -m alexnet_cuda.checks` tells it
                return None
            library.scipy_openblas_set_num_threads64_(1)
            return library
    return None


def blas_name() -> str | None:
    """Which BLAS multiplies on the CPU; None: the project's own gemm kernel does."""
    library = openblas()
    if library is None:
        return None
    library.scipy_openblas_get_config64_.restype = ctypes.c_char_p
    return " ".join(library.scipy_openblas_get_config64_().decode().split())


def uses_blas(device: Device) -> bool:
    """Whether a BLAS multiplies matrices of float32 there."""
    return device.kind == "cpu" and arrays.capability(device) is None and _blas_enabled and openblas() is not None


_blas_enabled = False


def enable_blas(enabled: bool) -> None:
    global _blas_enabled
    library = openblas()
    address = ctypes.cast(library.scipy_cblas_sgemm64_, ctypes.c_void_p).value if library and enabled else 0
    libraries.native_cpu.set_blas(address or 0)
    _blas_enabled = enabled


enable_blas(True)


@contextmanager
def blas(enabled: bool) -> Iterator[None]:
    """Within this block, in the whole process, products on the CPU use BLAS or the project's own gemm kernel."""
    before = _blas_enabled
    enable_blas(enabled)
    try:
        yield
    finally:
        enable_blas(before)
