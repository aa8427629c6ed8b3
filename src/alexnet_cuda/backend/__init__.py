"""Devices: which there are, whose arrays and native module they use, and how data gets there and back.

The CPU is NumPy and the module ``_cpu``, a GPU is CuPy and ``_gpu``. This room alone imports them. Its files, from the
ground up: libraries, discovery, streams, recycler, rehearsal, arrays, interchange, peers, transfers, nccl, graphs,
host, machine.
"""

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
    release_memory,
    to_device,
    to_host,
    workspace,
    zeros,
)
from .discovery import Device, default_device, device, devices, gpu_problem, gpus
from .graphs import Graph
from .host import blas, blas_name, set_threads, threads, uses_blas
from .interchange import borrow, current_stream, is_foreign, lend
from .libraries import Array
from .machine import build_info, describe, hardware, memory, package_version
from .nccl import Nccl, nccl_problem
from .peers import copy, direct, traffic
from .recycler import RECYCLED, Recycler
from .rehearsal import Rehearsal, rehearsing
from .streams import clock, in_turns, on, recording, stream, synchronize, together, trunks, use
from .transfers import Feed, Posted

__all__ = [
    "RECYCLED",
    "Array",
    "Device",
    "Feed",
    "Graph",
    "Nccl",
    "Posted",
    "Recycler",
    "Rehearsal",
    "address",
    "array_module",
    "blas",
    "blas_name",
    "borrow",
    "build_info",
    "capability",
    "clock",
    "constant",
    "copy",
    "current_stream",
    "default_device",
    "describe",
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
    "in_turns",
    "is_array",
    "is_foreign",
    "lend",
    "memory",
    "native",
    "nccl_problem",
    "on",
    "package_version",
    "poison",
    "recording",
    "rehearsing",
    "release_memory",
    "set_threads",
    "stream",
    "synchronize",
    "threads",
    "to_device",
    "to_host",
    "together",
    "traffic",
    "trunks",
    "use",
    "uses_blas",
    "workspace",
    "zeros",
]
