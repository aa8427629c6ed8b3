"""The array libraries and the native modules: the only file that imports ``cupy``, ``_cpu``, ``_cpu_v3`` or ``_gpu``.

Both native modules have the same functions. In a wheel ``_cpu`` runs on any processor, and ``_cpu_v3``, the same for
x86-64-v3, is taken where it runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from ..processor import cpu_arch

Array = Any
"""A numpy.ndarray or a cupy.ndarray."""


def load_cpu() -> ModuleType:
    """The module for the CPU, in the form for this processor or in the one that ALEXNET_CPU_ARCH names."""
    asked = os.environ.get("ALEXNET_CPU_ARCH")
    both = importlib.util.find_spec("alexnet_cuda._cpu_v3") is not None
    name = "_cpu_v3" if both and (asked or cpu_arch()) == "x86-64-v3" else "_cpu"
    try:
        module = importlib.import_module(f"alexnet_cuda.{name}")
    except ModuleNotFoundError as e:
        raise ImportError("alexnet_cuda is not built for this Python: run `pip install .` in the checkout") from e
    built = module.build_info()["cpu_arch"]
    if asked and asked != built:
        has = "x86-64 and x86-64-v3" if both else built or platform.machine()
        raise ImportError(f"ALEXNET_CPU_ARCH={asked}: this alexnet_cuda was built for {has}")
    return module


native_cpu = load_cpu()


def native(kind: str) -> ModuleType:
    """The module with the launchers for devices of that kind. ImportError where it was not built."""
    if kind == "cpu":
        return native_cpu
    return sys.modules.get("alexnet_cuda._gpu") or importlib.import_module("alexnet_cuda._gpu")


@cache
def cupy() -> ModuleType:
    return importlib.import_module("cupy")


def nccl() -> ModuleType:
    return importlib.import_module("cupy.cuda.nccl")


def pinned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new array in host memory from which GPUs copy without the host's help."""
    array: np.ndarray = importlib.import_module("cupyx").empty_pinned(shape, dtype)
    return array
