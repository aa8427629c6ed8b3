"""Which of its forms the module for the CPU can have on this machine. setup.py runs this file, so it imports nothing of
the package."""

import platform
import re
from pathlib import Path

V3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}  # what Linux calls what x86-64-v3 adds to -v2


def cpu_arch(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """x86-64-v3 where the processor and the system have all of it, x86-64 on others of that kind, else nothing."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ""
    try:
        with cpuinfo.open() as lines:  # of which there are many for each of many processors
            flags = next((line for line in lines if re.match(r"flags\s*:", line)), "")
    except OSError:  # a container may hide it
        flags = ""
    return "x86-64-v3" if set(flags.split()) >= V3 else "x86-64"
