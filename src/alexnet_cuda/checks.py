"""``python -m alexnet_cuda.checks``: what this installation is made of, and whether each part works."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from . import backend, command_line, kernels

LIBRARIES = {  # distribution: (module to import, needed)
    "numpy": ("numpy", True),
    "scipy-openblas64": ("scipy_openblas64", False),
    "safetensors": ("safetensors.numpy", True),
    "rich": ("rich.progress", True),
    "matplotlib": ("matplotlib.figure", True),
    "pillow": ("PIL.Image", True),
    "scikit-learn": ("sklearn.datasets", False),
}


@dataclass(frozen=True)
class Check:
    """One line of the report; "absent" is what the installation can do without."""

    name: str
    state: Literal["works", "absent", "fails"]
    text: str


def gflops(size: int) -> float:
    """Rate of a float32 matrix product on the CPU, the best of three."""
    a = np.random.default_rng(0).random((size, size), np.float32)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        kernels.gemm(a, a)
        best = min(best, time.perf_counter() - start)
    return 2e-9 * size**3 / best


def try_convolution(device: backend.Device) -> str | None:
    """Runs a small convolution in two groups against NumPy in float64: None where they agree, else what went wrong."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 7, 6, 8), np.float32), rng.standard_normal((4, 3, 3, 4), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), axis=(1, 2))
    groups = ((windows[:, :, :, :4], w[:2]), (windows[:, :, :, 4:], w[2:]))
    expected = np.concatenate([np.einsum("nhwcij,kijc->nhwk", *group) for group in groups], axis=-1)
    try:
        y = backend.to_host(kernels.conv2d(backend.from_host(x, device), backend.from_host(w, device), groups=2))
    except Exception as e:  # whatever it is, the report shall name it
        return f"{type(e).__name__}: {e}"
    error = float(np.abs(y - expected).max())
    return None if error < 1e-4 else f"a convolution is off by {error:g}"  # sums of 36 products, each about 1


def _device(device: backend.Device) -> Check:
    problem = try_convolution(device)
    outcome = problem or "a convolution agrees with NumPy"
    return Check(str(device), "fails" if problem else "works", f"{backend.hardware(device)}; {outcome}")


def _gpus() -> list[Check]:
    if problem := backend.gpu_problem():
        return [Check("gpu", "absent", problem)]
    return [_device(device) for device in backend.gpus()]


def _copies() -> list[Check]:
    """A pattern copied between all pairs of devices, slots of the first one among them."""
    places = [[backend.Device("cpu"), backend.Device("cpu", 1)]]
    if found := backend.gpus():
        places.append([*found, *(backend.devices("cuda,cuda")[1:] if len(found) == 1 else ())])
    return [_copy(*pair) for devices in places for pair in itertools.permutations(devices, 2)]


def _copy(source: backend.Device, target: backend.Device) -> Check:
    way, best = f"{source.row} to {target.row}", math.inf
    pattern = np.arange(1 << 23, dtype=np.uint32)
    try:
        x = backend.from_host(pattern, source)
        for _ in range(3):
            backend.synchronize(source)
            start = time.perf_counter()
            y, _ = backend.copy(x, source, target)
            backend.synchronize(target)
            best = min(best, time.perf_counter() - start)
        wrong = int((backend.to_host(y) != pattern).sum())
    except Exception as e:  # whatever it is, the report shall name it
        return Check("copy", "fails", f"{way}: {type(e).__name__}: {e}")
    if wrong:
        return Check("copy", "fails", f"{way}: {wrong:,} of {pattern.size:,} numbers came out wrong")
    way += "" if backend.direct(source, target) else " through the host"
    return Check("copy", "works", f"{way}: {1e-9 * pattern.nbytes / best:.1f} GB/s")


def _blas() -> Check:
    if name := backend.blas_name():
        return Check("blas", "works", f"{name}: {gflops(2048):.0f} GFLOP/s")
    rate = f"{gflops(512):.0f} GFLOP/s"
    return Check("blas", "absent", f"the project's own gemm kernel serves, {rate}: run `pip install scipy-openblas64`")


def _library(name: str, module: str, needed: bool) -> Check:
    version = backend.package_version(name)
    if version is None:
        return Check(name, "fails" if needed else "absent", "not installed")
    try:
        importlib.import_module(module)
    except Exception as e:  # a broken library may raise anything
        return Check(name, "fails", f"{version}, but importing {module} raises {type(e).__name__}: {e}")
    return Check(name, "works", version)


def report() -> list[Check]:
    """Every check, in the order of the report."""
    libraries = [_library(name, module, needed) for name, (module, needed) in LIBRARIES.items()]
    return [_device(backend.Device("cpu")), _blas(), *_gpus(), *_copies(), *libraries]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 if something that is installed, or needed, does not work."""
    parser = command_line.Parser("checks", "What this installation is made of, and whether each part works.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    build, checks = backend.build_info(), report()
    failed = any(check.state == "fails" for check in checks)
    if options.json:
        print(json.dumps({"works": not failed, "build": build, "checks": list(map(asdict, checks))}, indent=1))
    else:
        print("\n".join(f"{name:20} {value}" for name, value in build.items() if value), end="\n\n")
        print("\n".join(f"{check.name:20} {check.state:8} {check.text}" for check in checks))
    return int(failed)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
