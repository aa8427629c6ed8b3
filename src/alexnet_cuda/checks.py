"""``python -m alexnet_cuda.checks``: what this installation is made of, and whether each part works; with ``--kernels``
whether each kernel computes right (``kernel_checks``)."""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from . import backend, command_line, kernels, terminal
from .kernel_checks.check import Row
from .kernel_checks.families import FAMILIES
from .kernel_checks.processes import Supervisor
from .kernel_checks.worker import Request
from .suggest import nearest

__all__ = ["main"]

AT_ONCE = 4
"""Families at a time on a GPU, which mostly waits for NumPy."""
LIMIT, LIMIT_OF_A_CPU = 60.0, 3600.0
"""Seconds for a shape; of whole layers on a CPU's tensor cores."""
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


def kernels_are_right(options: argparse.Namespace) -> bool:
    """Runs the families of checks of kernels, prints a line each and what is wrong."""
    device = command_line.device(options.device)
    quick = options.quick or (device.kind == "cpu" and not options.full)
    families = options.only or list(FAMILIES)
    for family in families:
        if family not in FAMILIES:
            known = f"expected some of {', '.join(FAMILIES)}{nearest(family, FAMILIES)}"
            raise command_line.UsageError(f"--only: unknown family {family!r}: {known}")
    limit = options.limit or (LIMIT if quick or device.kind != "cpu" else LIMIT_OF_A_CPU)
    requests = [Request(family, str(device), (2,) if quick else (2, 128), not quick) for family in families]
    lines = sys.stdout if options.json != "-" else None
    with nullcontext(sys.stdout) if options.json in (None, "-") else open(options.json, "w", encoding="utf-8") as rows:

        def tell(row: Row) -> None:
            if lines:
                line, width = str(row), terminal.width()
                whole = width is None or len(line) <= width
                terminal.say(line if whole else f"{row.title}: {row.said}")
            if options.json:
                print(json.dumps(asdict(row)), file=rows, flush=True)

        if lines:
            terminal.say("\n".join([backend.describe(device), *_remarks(device, quick), ""]))
        start = time.perf_counter()
        done = Supervisor(limit, tell).run(requests, 1 if device.kind == "cpu" else AT_ONCE)
    wrong = [row for row in done if row.outcome not in ("right", "absent")]
    if lines:
        count = sum(row.outcome != "absent" for row in done)
        took = f"{count:,} checks in {time.perf_counter() - start:.0f} s"
        print(f"\n{took}: {f'{len(wrong):,} WRONG' if wrong else 'all right'}", file=lines)
        for row in wrong:
            terminal.say(f"  {row.family}: {row.title}: {row.outcome}: {row.text}")
    return not wrong


def _remarks(device: backend.Device, quick: bool) -> Iterator[str]:
    if device.kind == "cpu":
        yield "on a CPU, kernels for tensor cores, TMA and wgmma run on the executor, which computes what a GPU would"
    if quick:
        yield "quick: AlexNet's layers at batch 2, parts of those that take a CPU long (--full: whole, also at 128)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 if something that is installed, or needed, does not work."""
    parser = command_line.Parser("checks", "What this installation is made of, and whether each part works.")
    add = parser.add_argument
    add(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="JSON instead of lines; into FILE, with --kernels beside them",
    )
    add("--kernels", action="store_true", help="whether each kernel computes right: a line each, on one device")
    group = parser.add_argument_group("with --kernels")
    add = group.add_argument
    add("--device", metavar="DEVICE", help="cpu, cuda or cuda:N (default: a usable GPU, else the CPU)")
    add("--only", type=lambda text: text.split(","), metavar="FAMILY,...", help=f"some of {', '.join(FAMILIES)}")
    add("--limit", type=command_line.positive_float, metavar="SECONDS", help="after which a kernel counts as hanging")
    size = group.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small shapes, and layers at batch 2 (default on a CPU)")
    size.add_argument("--full", action="store_true", help="AlexNet's layers at batch 128 as well (default on a GPU)")
    options = parser.parse_args(arguments)
    if options.kernels:
        return int(not kernels_are_right(options))
    for name in ("device", "only", "limit", "quick", "full"):
        if getattr(options, name):
            raise command_line.UsageError(f"--{name} belongs to --kernels")
    build, checks = backend.build_info(), report()
    failed = any(check.state == "fails" for check in checks)
    if options.json:
        text = json.dumps({"works": not failed, "build": build, "checks": list(map(asdict, checks))}, indent=1)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(f"{text}\n", encoding="utf-8")
    else:
        terminal.say("".join(f"{name:20} {value}\n" for name, value in build.items() if value))
        terminal.say("\n".join(f"{check.name:20} {check.state:8} {check.text}" for check in checks))
    return int(failed)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
