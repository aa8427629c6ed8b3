"""One convolution from the naive loop to the tensor cores: every rung built, run, checked and counted.

    python examples/ladder/run.py [RUNG...]   on the CPU executor; with nvcc and CuPy also on the GPU, and timed there
    python examples/ladder/run.py --write     puts the table of derived costs into docs/kernels.md

Needs a C++20 compiler. Each rung computes conv3 of alexnet-mini on random data; the results are compared with float64,
and the bytes that the executor counts on the way to and from global memory with the formulas below. These then tell the
cost of AlexNet's own conv3, too large for the executor: bytes, and how long they and the arithmetic would take at the
rates of a GPU's data sheet. What is derived in this way is no measurement.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_cuda import backend
from alexnet_cuda.user_kernels.compiler import host_compiler, nvcc

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
BUILD = ROOT / "build" / "ladder"
DOCUMENT = ROOT / "docs" / "kernels.md"
BEGIN, END = "<!-- python examples/ladder/run.py --write: begin -->\n", "<!-- end -->\n"

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """x (N, H, W, C) with w (K, KH, KW, C), padded by ``pad`` pixels on each side."""

    N: int
    H: int
    W: int
    C: int
    K: int
    KH: int
    KW: int
    stride: int = 1
    pad: int = 0

    @property
    def output(self) -> tuple[int, int]:
        """OH, OW."""
        return (
            (self.H + 2 * self.pad - self.KH) // self.stride + 1,
            (self.W + 2 * self.pad - self.KW) // self.stride + 1,
        )

    @property
    def pixels(self) -> int:
        """Of y: the rows of the product."""
        return self.N * math.prod(self.output)

    @property
    def window(self) -> int:
        """Values of a window of x, and of a filter: the length of the product's sums."""
        return self.KH * self.KW * self.C

    @property
    def columns(self) -> int:
        """Values of all windows that lie inside their image, not in the padding."""

        def inside(outputs: int, taps: int, size: int) -> int:
            return sum(0 <= o * self.stride - self.pad + i < size for o in range(outputs) for i in range(taps))

        OH, OW = self.output
        return self.N * inside(OH, self.KH, self.H) * inside(OW, self.KW, self.W) * self.C

    @property
    def flop(self) -> int:
        return 2 * self.pixels * self.window * self.K


# Conv3 of the single-tower network at batch 128, and of alexnet-mini at batch 8.
ALEXNET = Layer(128, 13, 13, 256, 384, 3, 3, pad=1)
MINI = Layer(8, 4, 4, 64, 96, 3, 3, pad=1)


# ---- bytes to and from global memory, in sectors of 32, where C and K are multiples of 32


def outputs(s: Layer) -> int:
    return 4 * s.pixels * s.K


def im2col(s: Layer) -> int:
    return 4 * s.columns + 4 * s.pixels * s.window


def naive(s: Layer) -> int:
    """Of 32 threads each product costs one sector of x and 32 of w."""
    return (32 + 32 * 32) * s.columns * s.K // 32 + outputs(s)


def coalesced(s: Layer) -> int:
    """Each product costs 4 bytes of x and 4 of w; a single value of y moves a whole sector."""
    return 8 * s.columns * s.K + 8 * outputs(s)


def columns(s: Layer) -> int:
    return im2col(s) + 8 * s.pixels * s.window * s.K + 8 * outputs(s)


def filters(s: Layer, side: int) -> int:
    """Each of w's values once for each tile of pixels."""
    return 4 * s.K * s.window * math.ceil(s.pixels / side)


def stored_tiles(side: int) -> Callable[[Layer], int]:
    """Columns written, then read once for each tile of filters."""
    return lambda s: im2col(s) + 4 * s.pixels * s.window * math.ceil(s.K / side) + filters(s, side) + outputs(s)


def implicit_tiles(side: int) -> Callable[[Layer], int]:
    """Windows read out of the image once for each tile of filters."""
    return lambda s: 4 * s.columns * math.ceil(s.K / side) + filters(s, side) + outputs(s)


def least(s: Layer) -> int:
    """Each array once."""
    return 4 * (s.N * s.H * s.W * s.C + s.K * s.window) + outputs(s)


@dataclass(frozen=True)
class Rung:
    name: str
    idea: str
    moved: Callable[[Layer], int]  # bytes
    unit: str = "fp32"


RUNGS = (
    Rung("naive", "a thread an output", naive),
    Rung("coalesced", "a warp an output, lanes along the channels", coalesced),
    Rung("columns", "the windows as a matrix", columns),
    Rung("tiles", "tiles of 16 x 16 in shared memory", stored_tiles(16)),
    Rung("registers", "tiles of 64 x 64, 8 x 8 a thread in registers", stored_tiles(64)),
    Rung("implicit", "no columns: windows read out of the image", implicit_tiles(64)),
    Rung("pipeline", "copies in the background of the arithmetic", implicit_tiles(64)),
    Rung("tensor_cores", "mma in tf32, tiles of 128 x 128", implicit_tiles(128), "tf32"),
)


@dataclass(frozen=True)
class Gpu:
    """Rates of NVIDIA's data sheets (H200 SXM; A100 SXM 80 GB), without sparsity: bytes/s, operations/s."""

    name: str
    memory: float
    fp32: float
    tf32: float


GPUS = (Gpu("H200", 4.8e12, 67e12, 494.5e12), Gpu("A100", 2.039e12, 19.5e12, 156e12))


# ---- building and running


class Library:
    """The rungs, built for the CPU executor or by nvcc."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.ladder_run.restype = ctypes.c_char_p
        if hasattr(self._library, "ladder_moved"):
            self._library.ladder_moved.restype = ctypes.c_long

    def run(self, rung: str, y: int, x: int, w: int, columns: int, s: Layer) -> None:
        """Runs the rung on arrays at these addresses. RuntimeError: what is wrong."""
        shape = (ctypes.c_int * 11)(*astuple(s), *s.output)
        pointers = map(ctypes.c_void_p, (y, x, w, columns))
        error = self._library.ladder_run(rung.encode(), *pointers, shape, ctypes.c_void_p())
        if error:
            raise RuntimeError(error.decode())

    def conv(self, rung: str, x: Array, w: Array, s: Layer) -> Array:
        """y (N, OH, OW, K) of arrays in host memory, on the executor."""
        y = aligned(np.full((s.N, *s.output, s.K), np.nan, np.float32))
        scratch = aligned(np.full(s.pixels * s.window, np.nan, np.float32))
        x, w = aligned(x), aligned(w)
        self.run(rung, y.ctypes.data, x.ctypes.data, w.ctypes.data, scratch.ctypes.data, s)
        return y

    def moved(self) -> int:
        """Bytes that the last run moved to and from global memory, counted by the executor."""
        return int(self._library.ladder_moved())


def aligned(a: Array) -> Array:
    """A copy that begins at a multiple of 256 bytes, as arrays on a GPU do."""
    raw = np.empty(a.nbytes + 256, np.uint8)
    first = -raw.ctypes.data % 256
    copy = raw[first : first + a.nbytes].view(np.float32).reshape(a.shape)
    copy[...] = a
    return copy


def build(command: Sequence[str], name: str) -> Library:
    """Compiles ladder.cu, unless that very command has compiled these very sources before. RuntimeError if it fails."""
    sources = sorted([*FOLDER.glob("*.*u*"), *FOLDER.glob("*.hpp"), *(ROOT / "kernels" / "platform").iterdir()])
    digest = hashlib.sha256("\0".join(command).encode())
    for source in sources:
        digest.update(source.read_bytes())
    target = BUILD / f"{name}-{digest.hexdigest()[:12]}.so"
    if not target.is_file():
        BUILD.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}")
        include = ["-I", str(ROOT / "kernels"), str(FOLDER / "ladder.cu"), "-o", str(part)]
        # a sanitizer's library is for this process, not for the compiler
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        done = subprocess.run([*command, *include], capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise RuntimeError(f"{shlex.join([*command, *include])} failed:\n{done.stderr.rstrip()}")
        part.replace(target)
    return Library(target)


def cpu_library() -> Library:
    """For the executor, checked: shared memory begins as NaN. RuntimeError without a compiler."""
    options = "-std=c++20 -O1 -fPIC -shared -pthread -fvisibility=hidden -DGPU_CHECKED=1 -x c++"
    return build([*host_compiler(), *options.split(), *shlex.split(os.environ.get("CXXFLAGS", ""))], "cpu")


def gpu_library(program: str) -> Library:
    """For the GPU of this machine."""
    return build([program, "-std=c++20", "-O3", "-arch=native", "-shared", "-Xcompiler", "-fPIC"], "gpu")


def operands(s: Layer) -> tuple[Array, Array]:
    """Random x and w."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (s.N, s.H, s.W, s.C)).astype(np.float32)
    return x, rng.uniform(-1, 1, (s.K, s.KH, s.KW, s.C)).astype(np.float32)


def reference(x: Array, w: Array, s: Layer) -> NDArray[np.float64]:
    """y in float64."""
    padding = ((0, 0), (s.pad, s.pad), (s.pad, s.pad), (0, 0))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x.astype(np.float64), padding), (s.KH, s.KW), (1, 2))
    return np.tensordot(windows[:, :: s.stride, :: s.stride], w.astype(np.float64), ((4, 5, 3), (1, 2, 3)))


def error(y: Any, exact: NDArray[np.float64]) -> float:
    """||y - exact|| / ||exact||."""
    return float(np.linalg.norm(y - exact) / np.linalg.norm(exact))


def on_gpu(library: Library, rung: str, s: Layer) -> tuple[Array, float]:
    """y and the milliseconds of a run, the median of 20, by the GPU's own clock."""
    import cupy as cp

    x, w = map(cp.asarray, operands(s))
    y, scratch = cp.full((s.N, *s.output, s.K), cp.nan, cp.float32), cp.empty(s.pixels * s.window, cp.float32)
    times = []
    with cp.cuda.Stream.null:
        for _ in range(23):  # three to warm up
            begin, end = cp.cuda.Event(), cp.cuda.Event()
            begin.record()
            library.run(rung, y.data.ptr, x.data.ptr, w.data.ptr, scratch.data.ptr, s)
            end.record()
            end.synchronize()
            times.append(float(cp.cuda.get_elapsed_time(begin, end)))
    return cp.asnumpy(y), float(np.median(times[3:]))


# ---- tables


def table(rows: Sequence[Sequence[str]]) -> str:
    """In Markdown, the first row its head; all columns but the first two to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(n) if i < 2 else c.rjust(n) for i, (c, n) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |\n"

    rule = [("-" * n if i < 2 else "-" * (n - 1) + ":") for i, n in enumerate(widths)]
    return line(rows[0]) + line(rule) + "".join(map(line, rows[1:]))


def short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def derived() -> str:
    """The table of AlexNet's conv3: what follows from counting alone."""
    s = ALEXNET
    head = ["rung", "idea", "GB moved", "FLOP/B"]
    head += [f"{g.name} {what} ms" for g in GPUS for what in ("bytes", "arithmetic")]
    rows = [head]
    for rung in (*RUNGS, Rung("least", "each array once, arithmetic in tf32", least, "tf32")):
        moved = rung.moved(s)
        row = [rung.name, rung.idea, short(moved / 1e9), short(s.flop / moved)]
        for g in GPUS:
            rate: float = getattr(g, rung.unit)
            row += [short(1e3 * moved / g.memory), short(1e3 * s.flop / rate)]
        rows.append(row)
    return table(rows)


def document(text: str) -> str:
    """The text of docs/kernels.md with today's table between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"expected {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{derived()}\n{END}{after}"


def run(rungs: Sequence[Rung]) -> None:
    """Runs and checks these rungs, and prints what was found."""
    library = cpu_library()
    x, w = operands(MINI)
    exact = reference(x, w, MINI)
    rows = [["rung", "idea", "error", "MB moved, counted", "by the formula", "FLOP/B"]]
    for rung in rungs:
        y = library.conv(rung.name, x, w, MINI)
        counted = library.moved()
        figures = (error(y, exact), counted / 1e6, rung.moved(MINI) / 1e6, MINI.flop / counted)
        rows.append([rung.name, rung.idea, *(f"{figure:.3g}" for figure in figures)])
    print(f"Conv3 of alexnet-mini, batch {MINI.N}, on the CPU executor: error against float64, bytes moved\n")
    print(table(rows))
    print(f"Conv3 of AlexNet, batch {ALEXNET.N}, {ALEXNET.flop / 1e9:.1f} GFLOP: derived, not measured. Times are what")
    print("the bytes, if no cache held any, and the arithmetic would take at the rates of the GPUs' data sheets.\n")
    print(derived())

    program, problem = nvcc(), backend.gpu_problem()
    if problem or not program:
        print(f"Nothing was measured: {problem or 'no nvcc was found'}.")
        return
    gpu = gpu_library(program)
    rows = [["rung", "idea", "error", "ms, measured"]]
    for rung in rungs:
        (y, _), (_, ms) = on_gpu(gpu, rung.name, MINI), on_gpu(gpu, rung.name, ALEXNET)
        rows.append([rung.name, rung.idea, f"{error(y, exact):.3g}", f"{ms:.3g}"])
    print(f"Measured on this machine's GPU: error with conv3 of alexnet-mini, time of AlexNet's, batch {ALEXNET.N}\n")
    print(table(rows))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [rung.name for rung in RUNGS]
    parser.add_argument("rungs", nargs="*", metavar="RUNG", help=f"default: all of {', '.join(names)}")
    parser.add_argument("--write", action="store_true", help=f"only put the derived table into {DOCUMENT.name}")
    options = parser.parse_args(arguments)
    for name in options.rungs:
        if name not in names:
            parser.error(f"RUNG: expected one of {', '.join(names)}, got {name}")
    if options.write:
        DOCUMENT.write_text(document(DOCUMENT.read_text()))
        return 0
    try:
        run([rung for rung in RUNGS if rung.name in (options.rungs or names)])
    except RuntimeError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
