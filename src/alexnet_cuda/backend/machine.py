"""What this was built with and runs on, in words."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np

from . import discovery, host, libraries
from .discovery import Device


def memory(where: Device) -> int:
    """Bytes of memory that the device has; of a CPU's what this process may use."""
    if where.kind == "cuda":
        return int(libraries.cupy().cuda.runtime.getDeviceProperties(where.index)["totalGlobalMem"])
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):  # a container's
        with suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return min(limits)


def build_info() -> dict[str, str]:
    """How this was built and what it runs on: the first question of every bug report."""
    problem = discovery.gpu_problem()
    return {
        "version": package_version("alexnet-cuda") or "unknown",
        **libraries.native_cpu.build_info(),
        "platform": f"{platform.platform()}, {os.cpu_count()} processors",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": host.blas_name() or "none: the project's own gemm kernel",
        "cupy": libraries.cupy().__version__ if problem is None else "",
        "gpu": "usable" if problem is None else problem,
    }


def describe(*places: Device) -> str:
    """A line or two on what work on these devices runs on."""
    names, kinds = ",".join(map(str, places)), "; ".join(dict.fromkeys(map(hardware, places)))
    line = f"alexnet_cuda {build_info()['version']} on {names}: {kinds}"
    return f"{line}\nno GPU is used: {discovery.gpu_problem()}" if discovery.gpu_problem() else line


def described_version() -> str:
    """Version, commit of a checkout, and the devices, a line each."""
    made = commit()
    lines = [f"alexnet_cuda {build_info()['version']}" + (f", commit {made}" if made else "")]
    places = [Device("cpu"), *([] if discovery.gpu_problem() else discovery.gpus())]
    lines += [f"{place}: {hardware(place)}" for place in places]
    return "\n".join([*lines, *([f"gpu: {discovery.gpu_problem()}"] if discovery.gpu_problem() else [])])


def commit() -> str:
    """That of the git checkout that the package lies in, short, with a + where something was changed; "" elsewhere."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return ""
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, text=True, capture_output=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def hardware(where: Device) -> str:
    """What the device is, in words."""
    info = build_info()
    if where.kind == "cpu":
        built = " ".join(filter(None, (info["compiler"], info["cpu_arch"])))
        return f"{host.threads()} threads, {(host.blas_name() or 'no BLAS').partition(' USE')[0]}, built with {built}"
    properties = libraries.cupy().cuda.runtime.getDeviceProperties(where.index)
    capability, memory = f"{properties['major']}.{properties['minor']}", properties["totalGlobalMem"] / 2**30
    driver = ".".join(map(str, discovery.driver()[0] or ()))
    return (
        f"{properties['name'].decode()} (compute capability {capability}, {memory:.0f} GiB), "
        f"driver for CUDA {driver}, built with CUDA {info['cuda']}, CuPy {info['cupy']}"
    )


def package_version(name: str) -> str | None:
    """The version of an installed package."""
    from importlib.metadata import PackageNotFoundError, version  # late: it takes long

    try:
        return version(name)
    except PackageNotFoundError:
        return None
