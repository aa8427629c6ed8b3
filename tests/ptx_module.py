"""The module ``_ptx``, what nvcc makes of the kernels on the executor of PTX (tests/ptx), in the place of ``_cpu``.

``pytest --ptx`` builds it and gives it to the whole run: each call of a launcher runs on it and on ``_cpu``, whose
results are compared; the test gets the result of PTX. Needs nvcc.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from alexnet_cuda.backend import libraries

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / f"ptx-{sys.implementation.cache_tag}"


class Missing(Exception):
    """Why the module cannot be built here, in one line."""


# ---- building


def find_nvcc() -> str:
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if not nvcc or not shutil.which(nvcc):
        raise Missing(f"the executor of PTX needs nvcc: {nvcc or 'nvcc'} was not found (PATH, CUDACXX)")
    return nvcc


def cuda_include(nvcc: str) -> str:
    """The folder of CUDA's headers that this nvcc uses."""
    told = subprocess.run(
        [nvcc, "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True, check=True
    ).stderr
    top = next(line.partition("TOP=")[2] for line in told.splitlines() if "TOP=" in line)
    return str(Path(top, "include").resolve())


def build() -> Path:
    """Builds what has changed; the module's file."""
    nvcc = find_nvcc()
    compiler = os.environ.get("CXX", "c++").split()[0]
    if not shutil.which(compiler):
        raise Missing(f"the executor of PTX needs a C++ compiler: {compiler} was not found")
    try:
        import cmake
        import ninja
        import pybind11
    except ImportError as error:
        raise Missing(f"the executor of PTX needs {error.name}: pip install cmake ninja pybind11") from error
    program = str(Path(cmake.CMAKE_BIN_DIR) / "cmake")
    definitions = {
        "NVCC": nvcc,
        "CUDA_INCLUDE": cuda_include(nvcc),
        "CMAKE_MAKE_PROGRAM": Path(ninja.BIN_DIR) / "ninja",
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "Python_EXECUTABLE": sys.executable,
    }
    for command in (
        [program, "-S", str(ROOT / "tests" / "ptx"), "-B", str(BUILD), "-G", "Ninja"]
        + [f"-D{name}={value}" for name, value in definitions.items()],
        [program, "--build", str(BUILD)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return BUILD / f"_ptx{importlib.machinery.EXTENSION_SUFFIXES[0]}"


@functools.cache
def load() -> tuple[ModuleType, ctypes.CDLL]:
    """The built module, and its functions for tests (runtime.cpp)."""
    path = BUILD / f"_ptx{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    loader = importlib.machinery.ExtensionFileLoader("_ptx", str(path))
    spec = importlib.util.spec_from_loader("_ptx", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    library = ctypes.CDLL(str(path))
    for name in ("ptx_launched", "ptx_kernels", "ptx_known_forms", "ptx_used_forms", "ptx_run"):
        getattr(library, name).restype = ctypes.c_char_p
    return module, library


def lines(name: str) -> set[str]:
    """What one of the library's functions lists. RuntimeError for what it complains of."""
    text: str = getattr(load()[1], name)().decode()
    if text.startswith("error: "):
        raise RuntimeError(text)
    return set(text.splitlines())


# ---- pytest --ptx


class Plugin:
    """Gives a test run the module, and tells at its end which kernels ran. With ``complete`` all must have."""

    def __init__(self, config: pytest.Config, complete: bool):
        self.module = Compared(load()[0], libraries.native_cpu)
        libraries.native_cpu = self.module
        self.worker = getattr(
            config, "workeroutput", None
        )  # where pytest-xdist wants what a worker tells its controller
        self.complete = complete
        self.launched: set[str] = set()
        self.largest: dict[str, float] = {}

    def _add(self, launched: Iterable[str], largest: dict[str, float]) -> None:
        self.launched |= set(launched)
        for name, distance in largest.items():
            self.largest[name] = max(distance, self.largest.get(name, 0.0))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._add(*getattr(node, "workeroutput", {}).get("ptx", ((), {})))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        own = sorted(lines("ptx_launched")), self.module.largest
        if self.worker is not None:
            self.worker["ptx"] = own
            return
        self._add(*own)
        if self.complete and self.missing() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def missing(self) -> list[str]:
        return sorted(lines("ptx_kernels") - self.launched)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        write = terminalreporter.write_line
        terminalreporter.section("PTX")
        count = len(lines("ptx_kernels"))
        write(f"{count - len(self.missing())} of {count} kernels that nvcc made ran")
        write("largest difference from _cpu, in units of the largest value of an array:")
        for name, distance in sorted(self.largest.items()):
            if distance:
                write(f"  {name}: {distance:.2g}")
        if self.complete:
            for name in self.missing():
                write(f"not run: {name}", red=True)


# ---- running PTX


def run_ptx(
    text: str,
    name: str,
    *arguments: Any,
    grid: Sequence[int] = (1, 1, 1),
    block: Sequence[int] = (32, 1, 1),
    shared: int = 0,
) -> str:
    """Runs one kernel of a PTX text; arrays pass as pointers, numbers as ctypes values. What was wrong, or nothing."""
    _, library = load()
    set_arrays([a for a in arguments if isinstance(a, np.ndarray)])
    values = [ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in arguments]
    pointers = (ctypes.c_void_p * max(len(values), 1))(*(ctypes.addressof(v) for v in values))
    sizes = [(ctypes.c_uint32 * 3)(*n) for n in (grid, block)]
    problem: bytes = library.ptx_run(text.encode(), name.encode(), *sizes, ctypes.c_uint64(shared), pointers)
    set_arrays([])
    return problem.decode()


def set_arrays(arrays: Sequence[NDArray[Any]], library: ctypes.CDLL | None = None) -> None:
    """The arrays that the next launches may access; none: all memory."""
    n = len(arrays)
    (library or load()[1]).ptx_set_arrays(
        n,
        (ctypes.c_uint64 * n)(*(a.ctypes.data for a in arrays)),
        (ctypes.c_uint64 * n)(*(a.nbytes for a in arrays)),
        (ctypes.c_uint32 * n)(*(a.itemsize for a in arrays)),
        (ctypes.c_uint8 * n)(*(a.flags.writeable for a in arrays)),
    )


# ---- in the place of _cpu


def difference(ptx: NDArray[Any], cpu: NDArray[Any]) -> float:
    """The largest difference, in units of the largest value; infinite where only one is NaN or infinite, or where
    integers differ."""
    if ptx.dtype.kind in "iub":
        return 0.0 if np.array_equal(ptx, cpu) else np.inf
    a, b = ptx.astype(np.float64), cpu.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    a, b = a[finite], b[finite]
    return float(np.abs(a - b).max() / (np.abs(b).max() or 1.0)) if a.size else 0.0


class Compared:
    """The functions of ``_ptx``. Each runs beside that of ``_cpu``, on copies of its arguments.

    Sums in another order differ by their roundings, of which the tests' own bounds know more; here a difference says
    that an element is another one: more than `BOUND` of the largest value. In bfloat16 one rounding may differ.
    """

    BOUND: ClassVar = {np.dtype(np.float32): 2.0**-14, np.dtype(bfloat16): 2.0**-7}
    OF_CPU = ("threads", "set_threads", "build_info")  # the tests ask these of the module that they know

    def __init__(self, ptx: ModuleType, cpu: ModuleType):
        self._ptx, self._cpu = ptx, cpu
        self._lock = threading.RLock()
        self._structs = {getattr(ptx, n): getattr(cpu, n) for n in dir(ptx) if inspect.isclass(getattr(ptx, n))}
        self.largest: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._cpu if name in self.OF_CPU else self._ptx, name)
        if name.startswith("_") or inspect.isclass(found) or name in (*self.OF_CPU, "set_blas"):
            return found
        return functools.partial(self._call, name)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        ptx, cpu = getattr(self._ptx, name), getattr(self._cpu, name)
        arguments = dict(zip(_parameters(ptx), args, strict=False)) | kwargs
        with self._lock:
            copies = self._copied(arguments, {})
            set_arrays(list({(a.ctypes.data, a.nbytes): a for a in _arrays(arguments)}.values()))
            try:
                result = ptx(**arguments)
            finally:
                set_arrays([])
            expected = cpu(**copies)
            if name.endswith("_workspace"):
                return max(result, expected)
            assert result == expected, f"{name} gives {result} in PTX, {expected} on the CPU"
            for argument in arguments.keys() - {"workspace"}:  # what is left in that means nothing
                for a, b in zip(_arrays(arguments[argument]), _arrays(copies[argument]), strict=True):
                    self._compare(name, argument, a, b)
            return result

    def _compare(self, name: str, argument: str, ptx: NDArray[Any], cpu: NDArray[Any]) -> None:
        distance = difference(ptx, cpu)
        self.largest[name] = max(self.largest.get(name, 0.0), distance)
        assert distance <= self.BOUND.get(ptx.dtype, 0.0), (
            f"{name}: {argument} of {ptx.shape} {ptx.dtype} differs between PTX and _cpu "
            f"by {distance:.3g} of its largest value"
        )

    def _copied(self, value: Any, copies: dict[tuple[Any, ...], NDArray[Any]]) -> Any:
        if isinstance(value, np.ndarray):  # an array that is passed twice stays one
            return copies.setdefault((value.ctypes.data, value.shape, value.dtype.str), value.copy())
        if isinstance(value, dict):
            return {k: self._copied(v, copies) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._copied(v, copies) for v in value)
        if struct := self._structs.get(type(value)):
            return struct(**{n: getattr(value, n) for n in _parameters(type(value).__init__)})
        return value


def _parameters(function: Any) -> list[str]:
    """The names of what it takes, by pybind11's signature: ``gemm(c: object, a: object, ...)``."""
    return [name for name in re.findall(r"(\w+): ", function.__doc__ or "") if name != "self"]


def _arrays(value: Any) -> Iterator[NDArray[Any]]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        yield from _arrays(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _arrays(v)
