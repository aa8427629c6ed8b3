"""Builds the native modules with CMake; all else about the package is in pyproject.toml.

Environment variables:
  ALEXNET_CUDA=auto|1|0     build _gpu where nvcc works (default), or fail without it, or not at all
  ALEXNET_CPU_ARCH          _cpu for x86-64, x86-64-v2, x86-64-v3 or x86-64-v4 alone. Default: in place (pip install -e,
                            build_ext --inplace) what is best for this machine's processor; in a wheel two forms of the
                            module, for any x86-64 and for x86-64-v3, of which the import chooses
  CXX, CUDACXX              the compilers; nvcc's own host compiler is CUDAHOSTCXX, else CXX
  CMAKE_CUDA_ARCHITECTURES  default: in place those of the GPUs that nvidia-smi tells of; in a wheel, or where there are
                            none, 80-real;90a-real;90-virtual
  CMAKE_ARGS, CMAKE_BUILD_TYPE, MAX_JOBS

Developers: `python setup.py build_ext --inplace` rebuilds what has changed. Objects stay in build/, in one folder for
each set of compilers and options.
"""

import hashlib
import os
import platform
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CUDA_NEEDED = (12, 8)
CPU_ARCHS = ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4")


def fail(message: str):
    sys.exit(f"error: {message}")


@cache
def check_machine() -> None:
    """This is Linux, and there are a C++20 compiler and Python.h."""
    if sys.platform != "linux":
        fail(f"alexnet_cuda builds on Linux, not on {platform.system()}: use WSL2 (Windows) or a Linux container")
    named = os.environ.get("CXX")
    compiler = shlex.split(named) if named else [next(filter(shutil.which, ("c++", "g++", "clang++")), "c++")]
    if not shutil.which(compiler[0]):
        found = f"CXX={named} does not exist" if named else "there is no C++ compiler"
        fail(f"{found}: apt install g++ (Debian, Ubuntu) or dnf install gcc-c++ (Fedora)")
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").is_file():
        package = f"python3.{sys.version_info.minor}-dev"
        fail(f"{include} has no Python.h: apt install {package} (Debian, Ubuntu) or dnf install python3-devel (Fedora)")
    source = "#include <concepts>\n#include <thread>\nint main() { return std::integral<int> ? 0 : 1; }\n"
    command = [*compiler, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"]
    if subprocess.run(command, input=source, text=True, capture_output=True).returncode:
        fail(f"{compiler[0]} does not compile C++20: apt install g++ (GCC 11 or newer, or Clang 14)")


def cpu_forms(in_place: bool) -> dict[str, str]:
    """The modules for the CPU, with what -march is told for each; nothing on processors other than x86-64."""
    best = runpy.run_path(str(ROOT / "src" / "alexnet_cuda" / "processor.py"))["cpu_arch"]()
    asked = os.environ.get("ALEXNET_CPU_ARCH")
    if asked and not best:
        fail(f"ALEXNET_CPU_ARCH={asked}: this is a {platform.machine()} processor; leave it unset")
    if asked and asked not in CPU_ARCHS:
        fail(f"ALEXNET_CPU_ARCH={asked}: expected one of {', '.join(CPU_ARCHS)}")
    if asked or in_place or not best:
        return {"_cpu": asked or best}
    return {"_cpu": "x86-64", "_cpu_v3": "x86-64-v3"}


def cuda_host_compiler() -> str:
    """What nvcc compiles the host's side with; nothing: its own choice."""
    named = os.environ.get("CUDAHOSTCXX") or os.environ.get("CXX")
    return shutil.which(shlex.split(named)[-1]) or "" if named else ""


def cuda_environment(nvcc: str) -> dict[str, str]:
    """Where nvcc finds what programs are linked with: pip's looks for it in lib64, and has it in lib."""
    libraries = Path(nvcc).resolve().parent.parent / "lib"
    if not (libraries / "libcudart_static.a").is_file():
        return dict(os.environ)
    paths = filter(None, [str(libraries), os.environ.get("LIBRARY_PATH")])
    return {**os.environ, "LIBRARY_PATH": os.pathsep.join(paths)}


def find_nvcc() -> tuple[str, str]:
    """(path of a working nvcc, "") or ("", why there is none)."""
    named = os.environ.get("CUDACXX")
    nvcc = shutil.which(named or "nvcc") or (not named and shutil.which("/usr/local/cuda/bin/nvcc")) or ""
    if not nvcc:
        return "", f"CUDACXX={named} does not exist" if named else "no nvcc was found"
    report = subprocess.run([nvcc, "--version"], text=True, capture_output=True)
    release = re.search(r"release (\d+)\.(\d+)", report.stdout)
    if report.returncode or not release:
        return "", f"{nvcc} does not run"
    if tuple(map(int, release.groups())) < CUDA_NEEDED:
        return "", f"{nvcc} is CUDA {release[1]}.{release[2]}, needed is {CUDA_NEEDED[0]}.{CUDA_NEEDED[1]} or newer"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cu")
        source.write_text("#include <cuda_bf16.h>\n__global__ void probe(float* y) { y[0] = 1; }\nint main() {}\n")
        host = ["-ccbin", cuda_host_compiler()] if cuda_host_compiler() else []
        command = [nvcc, *host, "-std=c++20", "-arch=sm_80", str(source), "-o", f"{folder}/probe"]
        probe = subprocess.run(command, text=True, capture_output=True, env=cuda_environment(nvcc))
    if probe.returncode:
        lines = [line for line in (probe.stderr + probe.stdout).splitlines() if line.strip()] or ["it says nothing"]
        telling = next((line for line in lines if re.search("error|fatal|cannot find", line)), lines[0])
        return "", f"{nvcc} does not work ({telling.strip()})"
    return nvcc, ""


def gpu_architectures(nvcc: str) -> str:
    """Those of this machine's GPUs, as CMake takes them; nothing without a GPU, or with one that nvcc does not know."""
    try:
        command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        report = subprocess.run(command, text=True, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    capabilities = {(int(major), int(minor)) for major, minor in re.findall(r"^(\d+)\.(\d)$", report.stdout, re.M)}
    usable = sorted(f"{major}{minor}" for major, minor in capabilities if major >= 8)
    known = subprocess.run([nvcc, "--list-gpu-code"], text=True, capture_output=True).stdout.split()
    if any(f"sm_{number}" not in known for number in usable):
        return ""
    return ";".join("90a-real" if number == "90" else f"{number}-real" for number in usable)


def cuda_compiler() -> tuple[str, str]:
    """As find_nvcc, as ALEXNET_CUDA wants it."""
    wanted = os.environ.get("ALEXNET_CUDA", "auto")
    if wanted not in ("auto", "1", "0"):
        fail(f"ALEXNET_CUDA={wanted}: expected auto, 1 or 0")
    if wanted == "0":
        return "", "ALEXNET_CUDA was 0"
    nvcc, problem = find_nvcc()
    if problem and wanted == "1":
        fail(f"ALEXNET_CUDA=1, but {problem}")
    if problem:
        print(f"alexnet_cuda: {problem}: building for the CPU only", file=sys.stderr)
    return nvcc, problem


def run(command: list[str], nvcc: str, may_fail: bool = False) -> bool:
    """Whether it succeeds; what it says goes to the terminal. Ends the build unless it may fail."""
    done = subprocess.run(command, env=cuda_environment(nvcc) if nvcc else None)
    if done.returncode and not may_fail:
        fail(f"{shlex.join(command)} failed; what it says is above")
    return not done.returncode


class Build(build):
    def run(self) -> None:
        check_machine()  # before a page of copied files hides what is wrong
        super().run()


class BuildPython(build_py):
    """Puts what users' kernel files include into the package; in place it stays where it is."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for path in sorted((ROOT / "kernels").rglob("*.*")):
                if path.suffix in (".h", ".cuh", ".hpp", ".cpp"):
                    target = Path(self.build_lib, "alexnet_cuda", "include", path.relative_to(ROOT / "kernels"))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, target)


class CMakeBuild(build_ext):
    """Runs CMake once for all modules and copies what it has built."""

    def run(self) -> None:
        check_machine()  # before setuptools looks for a compiler in its own way
        self.in_place = bool(self.inplace)  # setuptools hides it while it builds
        super().run()

    def build_extensions(self) -> None:
        nvcc, problem = cuda_compiler()
        forms = cpu_forms(self.in_place)
        folder, configure = self.configuration(forms, nvcc, problem)
        if not run(configure, nvcc, may_fail=bool(nvcc) and os.environ.get("ALEXNET_CUDA") != "1"):
            nvcc, problem = "", f"CMake cannot use {nvcc}"
            print(f"alexnet_cuda: {problem}, as is told above: building for the CPU only", file=sys.stderr)
            folder, configure = self.configuration(forms, nvcc, problem)
            run(configure, nvcc)
        jobs = os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0)))
        run([*configure[:1], "--build", str(folder), "--parallel", jobs], nvcc)
        built = {*forms, *(["_gpu"] if nvcc else [])}
        for extension in self.extensions:
            target = Path(self.get_ext_fullpath(extension.name))
            if extension.name.rpartition(".")[2] in built:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(folder / target.name, target)
            else:  # nor may one of an earlier build stay
                target.unlink(missing_ok=True)
                if self.in_place:
                    (ROOT / "src" / "alexnet_cuda" / target.name).unlink(missing_ok=True)

    def configuration(self, forms: dict[str, str], nvcc: str, problem: str) -> tuple[Path, list[str]]:
        """The build folder, and the command that configures it."""
        options = {
            "CMAKE_BUILD_TYPE": os.environ.get("CMAKE_BUILD_TYPE") or "Release",
            "ALEXNET_CPU_ARCH": forms["_cpu"],
            "ALEXNET_CUDA_MISSING": problem.replace('"', "'").replace("\\", "/"),
        }
        if "_cpu_v3" in forms:
            options["ALEXNET_CPU_V3"] = "ON"
        if nvcc:
            here = gpu_architectures(nvcc) if self.in_place else ""
            options["CMAKE_CUDA_COMPILER"] = nvcc
            options["CMAKE_CUDA_HOST_COMPILER"] = cuda_host_compiler()
            options["CMAKE_CUDA_ARCHITECTURES"] = os.environ.get("CMAKE_CUDA_ARCHITECTURES") or here
        extra = shlex.split(os.environ.get("CMAKE_ARGS", ""))
        flags = [os.environ.get(name, "") for name in ("CXX", "CXXFLAGS", "CUDAFLAGS", "LDFLAGS")]
        key = hashlib.sha256(repr((str(ROOT), sys.base_prefix, options, extra, flags)).encode()).hexdigest()[:8]
        folder = ROOT / "build" / f"{sys.implementation.cache_tag}-{key}"
        try:
            import cmake
            import ninja
            import pybind11
        except ImportError as e:
            fail(f"{e.name} is not installed: pip install cmake ninja pybind11")
        tools = {  # found anew each time: in an isolated build they lie elsewhere the next time
            "CMAKE_MAKE_PROGRAM": Path(ninja.BIN_DIR) / "ninja",
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "Python_EXECUTABLE": sys.executable,
        }
        definitions = [f"-D{name}={value}" for name, value in {**options, **tools}.items() if value]
        program = str(Path(cmake.CMAKE_BIN_DIR) / "cmake")
        return folder, [program, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *definitions, *extra]


setup(
    ext_modules=[
        Extension("alexnet_cuda._cpu", []),
        Extension("alexnet_cuda._cpu_v3", [], optional=True),
        Extension("alexnet_cuda._gpu", [], optional=True),
    ],
    cmdclass={"build": Build, "build_py": BuildPython, "build_ext": CMakeBuild},
)
