"""Devices: what they are called, which there are, and why a GPU cannot be used."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
from dataclasses import dataclass, replace
from functools import cache

from ..suggest import nearest
from . import libraries


@dataclass(frozen=True)
class Device:
    """A place for arrays: "cpu", "cpu:1", "cuda:0".

    ``kind`` is "cpu" or "cuda", ``index`` the physical GPU. Devices that differ in ``slot`` alone (and CPUs that differ
    in ``index``) share their memory and yet are two to a network that is split over devices.
    """

    kind: str
    index: int = 0
    slot: int = 0

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" and self.index == 0 else f"{self.kind}:{self.index}"

    @property
    def row(self) -> str:
        """The device's name in a trace, where slots differ."""
        return f"{self}/{self.slot}" if self.slot else str(self)


def device(name: str | Device, present: bool = True) -> Device:
    """The device of that name: "cpu", "cpu:1", "cuda" (the first GPU), "cuda:1"; a GPU that need not be ``present``.

    ValueError for an unknown name, with the nearest known; RuntimeError where no GPU can be used, with the reason.
    """
    if isinstance(name, Device):
        return name
    match = re.fullmatch(r"(cpu|cuda)(?::(\d{1,4}))?", str(name))
    if not match:
        hint = nearest(str(name).lower().replace("gpu", "cuda"), ["cpu", "cuda", "cuda:0"])
        raise ValueError(f"unknown device {name!r}: expected cpu, cuda or cuda:N{hint}")
    found = Device(match[1], int(match[2] or 0))
    if found.kind == "cuda" and present:
        if problem := gpu_problem():
            raise RuntimeError(f"device {name}: {problem}")
        if found not in gpus():
            raise ValueError(f"unknown device {name!r}: expected {' or '.join(map(str, gpus()))}")
    return found


def devices(names: str | Device | None, present: bool = True) -> tuple[Device, ...]:
    """The logical devices of a list such as "cpu:0,cpu:1" (default: ``default_device``). One that is named again, as in
    "cuda:0,cuda:0", is another in the next slot. ``present`` and errors as of ``device``."""
    if names is None or isinstance(names, Device):
        return (names or default_device(),)
    found = [device(name, present) for name in str(names).split(",")]
    return tuple(replace(d, slot=found[:i].count(d)) for i, d in enumerate(found))


def gpus() -> list[Device]:
    """The GPUs that can be used."""
    return [] if gpu_problem() else [Device("cuda", i) for i in range(libraries.cupy().cuda.runtime.getDeviceCount())]


def default_device() -> Device:
    """The first GPU where there is a usable one, else the CPU."""
    return Device("cpu" if gpu_problem() else "cuda")


@cache
def gpu_problem() -> str | None:
    """None where a GPU can be used; else one line: why not, and what mends it."""
    supported, capabilities = driver()
    if not supported:
        return "no NVIDIA driver was found"
    if not capabilities:
        return "the NVIDIA driver finds no GPU"
    if max(capabilities) < (8, 0):
        best = ".".join(map(str, max(capabilities)))
        return f"the GPU has compute capability {best}, needed is 8.0 (Ampere) or newer"
    rebuild = "run `pip install --force-reinstall --no-deps .` in the checkout"
    if importlib.util.find_spec("alexnet_cuda._gpu") is None:
        reason = libraries.native_cpu.build_info()["cuda_missing"]
        return f"this is a build without CUDA ({reason}): install CUDA 12.8 or newer and {rebuild}"
    built = libraries.native_cpu.build_info()["cuda"]
    if supported[0] < int(built.partition(".")[0]):
        newest = f"the NVIDIA driver supports CUDA {supported[0]}.{supported[1]}"
        return f"{newest}, this build is for CUDA {built}: update the driver, or {rebuild}"
    if importlib.util.find_spec("cupy") is None:
        extra = "cuda13x" if supported[0] >= 13 else "cuda12x"
        return f"CuPy is not installed: run `pip install '.[{extra}]'` in the checkout"
    if not libraries.cupy().cuda.is_available():
        return "CuPy cannot use the GPU: `python -c 'import cupy; cupy.show_config()'` may tell why"
    return None


def compute_capability(where: Device) -> tuple[int, int] | None:
    """That of a GPU, such as (9, 0) for Hopper's; None for a CPU."""
    return None if where.kind == "cpu" else driver()[1][where.index]


@cache
def driver() -> tuple[tuple[int, int] | None, list[tuple[int, int]]]:
    """The CUDA version that the NVIDIA driver supports, None without one; and the GPUs' compute capabilities."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, []
    number, capabilities = ctypes.c_int(), []

    def ask(function: str, *arguments: int) -> int:
        number.value = 0
        getattr(cuda, function)(ctypes.byref(number), *arguments)
        return number.value

    release = ask("cuDriverGetVersion")
    if cuda.cuInit(0) == 0:
        for i in range(ask("cuDeviceGetCount")):
            major, minor = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_...
            capabilities.append((ask("cuDeviceGetAttribute", major, i), ask("cuDeviceGetAttribute", minor, i)))
    return (release // 1000, release % 1000 // 10), capabilities
