"""Devices: which there are, whose arrays and native module they use, and how data gets there and back.

The CPU is NumPy and the module ``_cpu``, a GPU is CuPy and ``_gpu``. This room alone imports them. Its files, from the
ground up: libraries, discovery, streams, recycler, rehearsal, arrays, interchange, peers, transfers, nccl, graphs,
host, machine.
"""

from typing import TYPE_CHECKING

from ..deprecation import renamed
from .arrays import (
    address,
    array_module,
    capability,
    constant,
    device_of,
    empty,
    from_host,
    host_allocator,
    is_array,
    native,
    poison,
    poisoned,
    release_memory,
    same_memory,
    to_device,
    to_host,
    workspace,
    zeros,
)
from .discovery import Device, default_device, device, devices, gpu_problem, gpus
from .graphs import CudaGraph
from .host import blas, blas_name, set_threads, threads, uses_blas
from .interchange import borrow, current_stream, is_foreign, lend
from .libraries import Array
from .machine import build_info, describe, described_version, hardware, memory, package_version
from .nccl import Nccl, nccl_problem
from .peers import copy, direct, traffic
from .recycler import RECYCLED, Recycler
from .rehearsal import Rehearsal, rehearsing
from .streams import capture_streams, capturing, clock, interleave, on, run_concurrently, stream, synchronize, use
from .transfers import Prefetcher, StaticInput

__all__ = [
    "RECYCLED",
    "Array",
    "CudaGraph",
    "Device",
    "Nccl",
    "Prefetcher",
    "Recycler",
    "Rehearsal",
    "StaticInput",
    "address",
    "array_module",
    "blas",
    "blas_name",
    "borrow",
    "build_info",
    "capability",
    "capture_streams",
    "capturing",
    "clock",
    "constant",
    "copy",
    "current_stream",
    "default_device",
    "describe",
    "described_version",
    "device",
    "device_of",
    "devices",
    "direct",
    "empty",
    "from_host",
    "gpu_problem",
    "gpus",
    "hardware",
    "host_allocator",
    "interleave",
    "is_array",
    "is_foreign",
    "lend",
    "memory",
    "native",
    "nccl_problem",
    "on",
    "package_version",
    "poison",
    "poisoned",
    "rehearsing",
    "release_memory",
    "run_concurrently",
    "same_memory",
    "set_threads",
    "stream",
    "synchronize",
    "threads",
    "to_device",
    "to_host",
    "traffic",
    "use",
    "uses_blas",
    "workspace",
    "zeros",
]

if not TYPE_CHECKING:  # to which any name would then be right
    __getattr__ = renamed(
        __name__,
        {
            "Feed": "Prefetcher",
            "Graph": "CudaGraph",
            "Posted": "StaticInput",
            "in_turns": "interleave",
            "recording": "capturing",
            "together": "run_concurrently",
            "trunks": "capture_streams",
        },
    )
