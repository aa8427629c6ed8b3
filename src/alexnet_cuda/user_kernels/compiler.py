"""Shared libraries of users' kernel files: built by the host compiler for the CPU executor, by nvcc for a GPU, and kept
by the digest of all that goes into them."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import backend, files
from .declaration import Declaration

__all__ = ["CompileError", "Library", "build", "cache_folder", "headers", "host_compiler", "nvcc"]

ERROR_BYTES = 1024
CPU = "-std=c++20 -O3 -fno-math-errno -fno-trapping-math -fPIC -shared -pthread -fvisibility=hidden"  # CMakeLists.txt's
GPU = "-std=c++20 -O3 -shared -Xcompiler -fPIC,-fvisibility=hidden"


class CompileError(RuntimeError):
    """What the compiler says of a user's file, with its lines."""


class Library:
    """The launchers of a shared library. A call returns when the work is done (CPU) or queued (GPU)."""

    def __init__(self, path: Path, launchers: Iterable[Declaration], on_cpu: bool) -> None:
        library = ctypes.CDLL(str(path))
        self._set_threads = library.user_set_threads if on_cpu else None
        self._threads = 0
        self._functions = dict[str, Any]()
        for launcher in launchers:
            function = getattr(library, f"user_{launcher.name}")
            passed = [p.passed_as for p in launcher.parameters]
            function.argtypes = [*passed, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p]
            self._functions[launcher.name] = function

    def run(self, name: str, arguments: list[Any], where: backend.Device) -> None:
        """RuntimeError with what the launcher or the executor threw."""
        if self._set_threads is not None and self._threads != backend.threads():
            self._threads = backend.threads()
            self._set_threads(self._threads)
        error = ctypes.create_string_buffer(ERROR_BYTES)
        if self._functions[name](*arguments, backend.stream(where), where.index, error):
            raise RuntimeError(f"{name}: {error.value.decode(errors='replace')}")


def headers() -> Path:
    """The folder with kernels.h, vector.cuh and platform/: in a wheel beside this package, else the checkout's."""
    package = Path(__file__).resolve().parents[1]
    return next(f for f in (package / "include", package.parents[1] / "kernels") if (f / "kernels.h").is_file())


def cache_folder() -> Path:
    """Where the libraries are kept: in $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet_cuda" / "user_kernels"


def build(source: Path, launchers: list[Declaration], where: backend.Device, checked: bool) -> Library:
    """The library for that device. CompileError if it cannot be made, OSError where it cannot be kept."""
    command = _nvcc_command(where) if where.kind == "cuda" else _host_command(checked)
    command += ["-I", str(headers()), "-I", str(source.parent)]
    wrapper = _wrapper(source, launchers)
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=False).stdout
    own = sorted(path for path in headers().rglob("*.*") if path.suffix in (".h", ".cuh", ".hpp", ".cpp"))
    key = _digest("\0".join((*command, version, wrapper)).encode(), *(path.read_bytes() for path in (source, *own)))
    index = cache_folder() / f"{source.stem}-{key[:16]}.json"
    library = _kept(index)
    if library is None:
        index.parent.mkdir(parents=True, exist_ok=True)
        library = _compile(command, wrapper, ".cu" if where.kind == "cuda" else ".cpp", index)
    return Library(library, launchers, where.kind == "cpu")


def host_compiler() -> list[str]:
    """The compiler for CPUs, $CXX with its options where that is set. CompileError without one."""
    named = os.environ.get("CXX")
    compiler = shlex.split(named) if named else [next(filter(shutil.which, ("c++", "g++", "clang++")), "c++")]
    if not shutil.which(compiler[0]):
        raise CompileError(f"expected a C++20 compiler, got no {compiler[0]}: apt install g++, or set CXX")
    return compiler


def _host_command(checked: bool) -> list[str]:
    arch = backend.build_info()["cpu_arch"]
    options = [f"-march={arch}"] * bool(arch) + ["-DGPU_CHECKED=1"] * checked
    return [*host_compiler(), *shlex.split(CPU), *options, *shlex.split(os.environ.get("CXXFLAGS", ""))]


def nvcc() -> str | None:
    """The compiler for GPUs, $CUDACXX where that is set."""
    return shutil.which(os.environ.get("CUDACXX") or "nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def _nvcc_command(where: backend.Device) -> list[str]:
    program = nvcc()
    if not program:
        raise CompileError("expected nvcc for a GPU's kernels, got none: install the CUDA toolkit, or set CUDACXX")
    major, minor = backend.capability(where) or (0, 0)
    return [program, *shlex.split(GPU), f"-arch=sm_{major}{minor}{'a' * (major == 9)}"]


def _wrapper(source: Path, launchers: list[Declaration]) -> str:
    """What is compiled: the user's file, and a function of C for each launcher."""
    lines = ['#include "platform/user_kernels.hpp"', f"#include {json.dumps(str(source))}", "namespace alexnet {"]
    for launcher in launchers:
        declared = [
            f"{'const ' * (p.shape is not None and not p.output)}{p.type}{'*' * (p.shape is not None)} {p.name}"
            for p in launcher.parameters
        ]
        passed = ", ".join([*(p.name for p in launcher.parameters), "user_stream"])
        lines += [
            f'extern "C" USER_KERNEL int user_{launcher.name}({", ".join(declared)},',
            "    Stream user_stream, int user_device, char* user_error) {",
            f"  return gpu::guarded({ERROR_BYTES}, user_device, user_error, [&] {{ {launcher.name}({passed}); }});",
            "}",
        ]
    return "\n".join([*lines, "}  // namespace alexnet", ""])


def _compile(command: list[str], wrapper: str, suffix: str, index: Path) -> Path:
    """The library, after writing down at ``index`` of which files it was made."""
    with tempfile.TemporaryDirectory(dir=index.parent) as folder:
        file, made, used = (Path(folder) / name for name in (f"wrapper{suffix}", "made.so", "used.d"))
        file.write_text(wrapper)
        # a sanitizer's library is for this process, not for the compiler
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        whole = [*command, "-MMD", "-MF", str(used), str(file), "-o", str(made)]
        done = subprocess.run(whole, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise CompileError(f"{command[0]}:\n{(done.stderr or done.stdout).rstrip()}")
        rule = used.read_text().replace("\\\n", " ").partition(": ")[2]
        paths = [Path(word) for word in _words(rule)]
        digests = {str(path): _digest(path.read_bytes()) for path in paths if path != file}
        library = index.with_name(f"{index.stem}-{_digest(json.dumps(digests).encode())[:16]}.so")
        made.replace(library)  # under a name that nothing else had, as a process loads a name once
        with files.replacing(index) as aside:
            aside.write_text(json.dumps({"library": library.name, "of": digests}))
    return library


def _words(rule: str) -> list[str]:
    """The names of files in a rule of make; blanks in them are escaped."""
    words = rule.replace("\\ ", "\0").split()
    return [word.replace("\0", " ") for word in words]


def _kept(index: Path) -> Path | None:
    """The library that was made of the files that are there now."""
    try:
        kept = json.loads(index.read_text())
        library = index.with_name(kept["library"])
        current = all(_digest(Path(path).read_bytes()) == digest for path, digest in kept["of"].items())
    except (OSError, ValueError):
        return None
    return library if current and library.is_file() else None


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
