"""setup.py: its one-line errors, its choice of compilers, and builds from scratch; the choice of a form at import."""

from __future__ import annotations

import functools
import importlib
import json
import os
import platform
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from alexnet_cuda import processor
from alexnet_cuda.backend import libraries

ROOT = Path(__file__).resolve().parent.parent
Load = Callable[[dict[str, str], str, str], str]
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="not in a checkout")


PROGRAM = """
import runpy, sys, sysconfig, platform
import setuptools.command.build_ext
{before}
sys.argv = ["setup.py", "-q", "build_ext"]
runpy.run_path({path!r}, run_name="__main__")
"""


def run_setup(tmp_path: Path, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`python setup.py build_ext` after the statement ``before``, by default with nothing on PATH."""
    program = PROGRAM.format(before=before, path=str(ROOT / "setup.py"))
    clean = {key: value for key, value in os.environ.items() if key not in ("CXX", "CUDACXX") and "ALEXNET" not in key}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**clean, "PATH": "", **environment},
        text=True,
        capture_output=True,
        timeout=120,
    )


def error_of(run: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed run says."""
    lines = [line for line in run.stderr.splitlines() if line]
    assert run.returncode == 1, run.stderr
    assert len(lines) == 1, run.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="session")
def cxx() -> str:
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    assert found, "the package was built, so there is a compiler"
    return found


def test_without_a_compiler(tmp_path: Path) -> None:
    assert error_of(run_setup(tmp_path)).startswith("there is no C++ compiler: apt install g++ ")
    error = error_of(run_setup(tmp_path, CXX="/no/such/c++"))
    assert error.startswith("CXX=/no/such/c++ does not exist: apt install g++ ")


def test_with_an_old_compiler(tmp_path: Path) -> None:
    old = script(tmp_path / "c++", "exit 1")
    assert error_of(run_setup(tmp_path, CXX=old)).startswith(f"{old} does not compile C++20: apt install g++ ")


def test_without_python_h(tmp_path: Path, cxx: str) -> None:
    error = error_of(run_setup(tmp_path, "sysconfig.get_path = lambda name: '/no/such/folder'", CXX=cxx))
    assert error.startswith(f"/no/such/folder has no Python.h: apt install python3.{sys.version_info.minor}-dev ")


@pytest.mark.parametrize(("platform", "name"), [("darwin", "Darwin"), ("win32", "Windows")])
def test_on_other_systems(tmp_path: Path, platform: str, name: str) -> None:
    error = error_of(run_setup(tmp_path, f"sys.platform = {platform!r}; platform.system = lambda: {name!r}"))
    assert error == f"alexnet_cuda builds on Linux, not on {name}: use WSL2 (Windows) or a Linux container"


def test_wrong_settings(tmp_path: Path, cxx: str) -> None:
    path = os.environ["PATH"]
    assert (
        error_of(run_setup(tmp_path, CXX=cxx, PATH=path, ALEXNET_CUDA="yes"))
        == "ALEXNET_CUDA=yes: expected auto, 1 or 0"
    )
    error = error_of(run_setup(tmp_path, CXX=cxx, PATH=path, ALEXNET_CUDA="0", ALEXNET_CPU_ARCH="pentium"))
    assert error.startswith("ALEXNET_CPU_ARCH=pentium: ")


def test_wanted_cuda_that_is_not_there(tmp_path: Path, cxx: str) -> None:
    def error(nvcc: str) -> str:
        return error_of(run_setup(tmp_path, CXX=cxx, PATH=os.environ["PATH"], ALEXNET_CUDA="1", CUDACXX=nvcc))

    assert error("/no/such/nvcc") == "ALEXNET_CUDA=1, but CUDACXX=/no/such/nvcc does not exist"
    broken = script(tmp_path / "broken", "exit 1")
    assert error(broken) == f"ALEXNET_CUDA=1, but {broken} does not run"
    old = script(tmp_path / "old", "echo Cuda compilation tools, release 12.4, V12.4.99")
    assert error(old) == f"ALEXNET_CUDA=1, but {old} is CUDA 12.4, needed is 12.8 or newer"
    halved = script(
        tmp_path / "halved",
        'case "$1" in --version) echo Cuda compilation tools, release 13.0, V13.0.88;; '
        "*) echo probe.cu: fatal error: cuda_bf16.h: No such file >&2; exit 1;; esac",
    )
    assert error(halved) == (
        f"ALEXNET_CUDA=1, but {halved} does not work (probe.cu: fatal error: cuda_bf16.h: No such file)"
    )


def test_unusable_cuda_is_told_and_done_without(tmp_path: Path, cxx: str) -> None:
    """What is printed before CMake runs; an unknown processor ends it there."""
    run = run_setup(tmp_path, CXX=cxx, PATH=os.environ["PATH"], CUDACXX="/no/such/nvcc", ALEXNET_CPU_ARCH="pentium")
    assert run.returncode == 1
    told = "alexnet_cuda: CUDACXX=/no/such/nvcc does not exist: building for the CPU only"
    assert told in run.stderr.splitlines()


CUDA = "echo Cuda compilation tools, release 13.0, V13.0.88"
NVCC = os.environ.get("CUDACXX") or shutil.which("nvcc")
with_nvcc = pytest.mark.skipif(NVCC is None, reason="there is no nvcc")


def rebuild_tools() -> list[ModuleType]:
    """cmake, ninja and pybind11, which are nowhere but in a build unless somebody has asked for them."""
    return [pytest.importorskip(name, reason="needs the extra `rebuild`") for name in ("cmake", "ninja", "pybind11")]


def test_an_nvcc_that_cannot_link_is_told_and_done_without(tmp_path: Path, cxx: str) -> None:
    nvcc = script(
        tmp_path / "nvcc",
        f'case "$1" in --version) {CUDA};; '
        "*) echo probe.cu; echo ld: cannot find -lcudart_static: No such file >&2; exit 1;; esac",
    )
    run = run_setup(tmp_path, CXX=cxx, PATH=os.environ["PATH"], CUDACXX=nvcc, ALEXNET_CPU_ARCH="pentium")
    why = f"{nvcc} does not work (ld: cannot find -lcudart_static: No such file)"
    assert f"alexnet_cuda: {why}: building for the CPU only" in run.stderr.splitlines()


@pytest.fixture
def in_setup(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """setup.py's own names, as its functions see them."""
    monkeypatch.setattr(sys, "argv", ["setup.py", "--name"])
    monkeypatch.chdir(ROOT)
    for name in ("ALEXNET_CUDA", "ALEXNET_CPU_ARCH", "CMAKE_CUDA_ARCHITECTURES", "CMAKE_ARGS", "LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    names: dict[str, Any] = runpy.run_path(str(ROOT / "setup.py"))["cpu_forms"].__globals__
    return names


def test_the_libraries_of_pips_nvcc(in_setup: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    nvcc = script(tmp_path / "bin" / "nvcc", "")
    assert "LIBRARY_PATH" not in in_setup["cuda_environment"](nvcc)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libcudart_static.a").touch()
    assert in_setup["cuda_environment"](nvcc)["LIBRARY_PATH"] == str(tmp_path / "lib")
    monkeypatch.setenv("LIBRARY_PATH", "/of/others")
    assert in_setup["cuda_environment"](nvcc)["LIBRARY_PATH"] == f"{tmp_path / 'lib'}:/of/others"


@pytest.mark.parametrize(
    ("nvidia_smi", "architectures"),
    [
        ("echo 9.0; echo 9.0", "90a-real"),
        ("echo 9.0; echo 8.6", "86-real;90a-real"),
        ("echo 8.0; echo 7.5", "80-real"),
        ("echo 7.5", None),
        ("echo 8.0; echo 13.7", None),  # newer than nvcc: it needs the PTX
        ("echo No devices were found; exit 6", None),
        (None, None),
    ],
)
def test_the_gpus_that_are_built_for(
    in_setup: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    nvidia_smi: str | None,
    architectures: str | None,
) -> None:
    """In place those of this machine, in a wheel all of the list; what somebody asks for comes first."""
    rebuild_tools()
    nvcc = script(tmp_path / "nvcc", "echo sm_80; echo sm_86; echo sm_90; echo sm_90a")
    if nvidia_smi:
        script(tmp_path / "nvidia-smi", nvidia_smi)
    monkeypatch.setenv("PATH", str(tmp_path))

    def asked_of_cmake(in_place: bool) -> str | None:
        builder = SimpleNamespace(in_place=in_place)
        options = in_setup["CMakeBuild"].configuration(builder, {"_cpu": ""}, nvcc, "")[1]
        named = [o.partition("=")[2] for o in options if o.startswith("-DCMAKE_CUDA_ARCHITECTURES=")]
        assert len(named) < 2
        return named[0] if named else None

    assert (asked_of_cmake(in_place=True), asked_of_cmake(in_place=False)) == (architectures, None)
    monkeypatch.setenv("CMAKE_CUDA_ARCHITECTURES", "75")
    assert (asked_of_cmake(in_place=True), asked_of_cmake(in_place=False)) == ("75", "75")


def test_an_nvcc_that_cmake_cannot_use(
    in_setup: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The build goes on without it and says why, unless it is asked for; what is built shows step by step. With a
    project of a few lines in the place of this one's."""
    rebuild_tools()
    nvcc = script(tmp_path / "nvcc", f'[ "$1" != --version ] || {CUDA}')  # which complains of nothing and makes nothing
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(other LANGUAGES NONE)\n"
        "if(CMAKE_CUDA_COMPILER)\n  message(FATAL_ERROR refused)\nendif()\n"
        "add_custom_target(modules ALL COMMENT Progress VERBATIM\n"
        "  COMMAND ${CMAKE_COMMAND} -E echo ${ALEXNET_CUDA_MISSING})\n"
    )
    monkeypatch.setenv("CUDACXX", nvcc)
    monkeypatch.setitem(in_setup, "ROOT", tmp_path)
    monkeypatch.setitem(in_setup, "cpu_forms", lambda in_place: {"_cpu": ""})
    build = in_setup["CMakeBuild"]
    builder = SimpleNamespace(in_place=False, extensions=[])
    builder.configuration = functools.partial(build.configuration, builder)

    build.build_extensions(builder)
    out, err = capfd.readouterr()
    problem = f"CMake cannot use {nvcc}"
    assert f"alexnet_cuda: {problem}, as is told above: building for the CPU only" in err.splitlines()
    assert "refused" in err.partition(problem)[0]
    assert out.splitlines()[-2:] == ["[1/1] Progress", problem]

    monkeypatch.setenv("ALEXNET_CUDA", "1")
    with pytest.raises(SystemExit, match=r"^error: .* failed; what it says is above$"):
        build.build_extensions(builder)
    assert "refused" in capfd.readouterr().err


# ---------------------------------------------------------------------------------------------- architectures


def configure(folder: Path, architectures: str) -> subprocess.CompletedProcess[str]:
    """CMake alone, with nvcc."""
    cmake, ninja, pybind11 = rebuild_tools()
    definitions = {
        "CMAKE_MAKE_PROGRAM": Path(ninja.BIN_DIR) / "ninja",
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "Python_EXECUTABLE": sys.executable,
        "CMAKE_CUDA_COMPILER": NVCC,
        "CMAKE_CUDA_ARCHITECTURES": architectures,
    }
    command = [str(Path(cmake.CMAKE_BIN_DIR) / "cmake"), "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"]
    command += [f"-D{name}={value}" for name, value in definitions.items()]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def code_of(kernel: str, folder: Path) -> tuple[set[str], bool]:
    """For what nvcc compiles a kernel in a configured folder, and whether it is told that sm_90a is missing."""
    ninja_file = (folder / "build.ninja").read_text()
    ((rules),) = re.findall(rf"^build \S+/{kernel}\.cu\.o: CUDA.*?\n\n", ninja_file, re.M | re.S)
    return set(re.findall(r"code=\[(.*?)\]", rules)), "GPU_WITHOUT_SM90A" in rules


@with_nvcc
@pytest.mark.parametrize(
    ("architectures", "hopper", "others"),
    [
        ("90", "sm_90a", {"compute_90,sm_90"}),
        pytest.param("90a-real", "sm_90a", {"sm_90"}, marks=pytest.mark.slow),
        pytest.param("80-real;90a-real;90-virtual", "sm_90a", {"sm_80", "sm_90", "compute_90"}, marks=pytest.mark.slow),
        pytest.param("80;86-real", None, {"compute_80,sm_80", "sm_86"}, marks=pytest.mark.slow),
    ],
)
def test_wgmma_is_built_for_sm_90a(tmp_path: Path, architectures: str, hopper: str | None, others: set[str]) -> None:
    """Whether 90 or 90a is asked for; nothing else is. Where neither is, its launchers know."""
    done = configure(tmp_path, architectures)
    assert done.returncode == 0, done.stderr
    assert code_of("gemm", tmp_path) == (others, False)
    assert code_of("hopper_conv2d", tmp_path) == (({hopper}, False) if hopper else (others, True))


@with_nvcc
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have a GPU")
def test_native_without_a_gpu(tmp_path: Path) -> None:
    done = configure(tmp_path, "native")
    assert done.returncode != 0
    said = " ".join(done.stderr.split())  # CMake breaks lines
    assert "CMAKE_CUDA_ARCHITECTURES=native: expected a GPU, got: No CUDA devices found. " in f"{said} "


def test_a_build_without_sm_90a_says_what_to_do(tmp_path: Path, cxx: str) -> None:
    """Its launchers on a GPU of compute capability 9.0, which the executor is."""
    (tmp_path / "program.cpp").write_text(
        """#include <cstdio>
        #include "bias.cu"
        #include "hopper_conv2d.cu"
        #include "platform/executor.cpp"
        int main() {
          using namespace alexnet;
          for (int pass = 0; pass < 3; ++pass) try {
            const Conv2dOptions o{.precision = Precision::bf16};
            if (pass == 0) hopper_conv2d_forward<float>(nullptr, nullptr, nullptr, nullptr, {}, o, nullptr, {});
            if (pass == 1) hopper_conv2d_backward_input<float>(nullptr, nullptr, nullptr, nullptr, {}, o, nullptr, {});
            if (pass == 2) hopper_conv2d_backward_weight<float>(nullptr, nullptr, nullptr, nullptr, {}, o, nullptr, {});
          } catch (const std::exception& e) { std::puts(e.what()); }
        }"""
    )
    options = ["-std=c++20", "-O0", "-w", "-pthread", "-DGPU_WITHOUT_SM90A", f"-I{ROOT / 'kernels'}"]
    command = [cxx, *options, str(tmp_path / "program.cpp"), "-o", str(tmp_path / "program")]
    subprocess.run(command, check=True)
    told = subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=True).stdout.splitlines()
    what = "this build has no code for sm_90a: rebuild it with CMAKE_CUDA_ARCHITECTURES=90a-real in the environment"
    assert told == [f"hopper_conv2d_{part}: {what}" for part in ("forward", "backward_input", "backward_weight")]


# ---------------------------------------------------------------------------------------------- forms of _cpu


V3_FLAGS = "sse4_2 popcnt abm avx avx2 bmi1 bmi2 f16c fma movbe"
on_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="this is no x86-64 processor")


@on_x86_64
@pytest.mark.parametrize(
    ("cpuinfo", "arch"),
    [
        (f"processor\t: 0\nflags\t\t: fpu {V3_FLAGS} avx512f\nbugs\t\t:\n", "x86-64-v3"),
        (f"processor\t: 0\nflags\t\t: fpu {V3_FLAGS.replace(' fma', '')}\n", "x86-64"),
        (f"vmx flags\t: {V3_FLAGS}\nflags\t\t: fpu sse2\n", "x86-64"),
        ("", "x86-64"),
        (None, "x86-64"),
    ],
)
def test_what_the_processor_has(tmp_path: Path, cpuinfo: str | None, arch: str) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert processor.cpu_arch(tmp_path / "cpuinfo") == arch


def test_other_processors_have_one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.delenv("ALEXNET_CPU_ARCH", raising=False)
    assert processor.cpu_arch() == ""
    assert forms(monkeypatch) == ({"_cpu": ""}, {"_cpu": ""})


def forms(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, str], dict[str, str]]:
    """What setup.py builds in place and for a wheel."""
    monkeypatch.setattr(sys, "argv", ["setup.py", "--name"])
    monkeypatch.chdir(ROOT)
    cpu_forms = runpy.run_path(str(ROOT / "setup.py"))["cpu_forms"]
    return cpu_forms(in_place=True), cpu_forms(in_place=False)


@on_x86_64
def test_a_wheel_has_two_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALEXNET_CPU_ARCH", raising=False)
    assert forms(monkeypatch) == ({"_cpu": processor.cpu_arch()}, {"_cpu": "x86-64", "_cpu_v3": "x86-64-v3"})
    monkeypatch.setenv("ALEXNET_CPU_ARCH", "x86-64-v2")
    assert forms(monkeypatch) == ({"_cpu": "x86-64-v2"}, {"_cpu": "x86-64-v2"})


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """`load(built, has, asked)`: which module is taken, of those that were built for an architecture each, on a
    processor that has this one."""

    def module(name: str) -> SimpleNamespace:
        arch = built[name.removeprefix("alexnet_cuda.")]
        return SimpleNamespace(name=name, build_info=lambda: {"cpu_arch": arch})

    def choose(modules: dict[str, str], has: str, asked: str) -> str:
        built.update(modules)
        monkeypatch.setenv("ALEXNET_CPU_ARCH", asked)
        monkeypatch.setattr(libraries, "cpu_arch", lambda: has)
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: name.removeprefix("alexnet_cuda.") in built or None
        )
        monkeypatch.setattr(importlib, "import_module", module)
        return libraries.load_cpu().name.removeprefix("alexnet_cuda.")

    built: dict[str, str] = {}
    return choose


WHEEL = {"_cpu": "x86-64", "_cpu_v3": "x86-64-v3"}


@pytest.mark.parametrize(
    ("built", "has", "asked", "name"),
    [
        (WHEEL, "x86-64-v3", "", "_cpu_v3"),
        (WHEEL, "x86-64", "", "_cpu"),
        (WHEEL, "x86-64-v3", "x86-64", "_cpu"),
        (WHEEL, "x86-64", "x86-64-v3", "_cpu_v3"),  # which then says what it lacks
        ({"_cpu": "x86-64-v3"}, "x86-64-v3", "", "_cpu"),
        ({"_cpu": "x86-64-v4"}, "x86-64-v3", "x86-64-v4", "_cpu"),
        ({"_cpu": ""}, "", "", "_cpu"),
    ],
)
def test_the_form_that_is_loaded(load: Load, built: dict[str, str], has: str, asked: str, name: str) -> None:
    assert load(built, has, asked) == name


@pytest.mark.parametrize(
    ("built", "has"), [(WHEEL, "x86-64 and x86-64-v3"), ({"_cpu": "x86-64-v3"}, "x86-64-v3"), ({"_cpu": ""}, "aarch64")]
)
def test_a_form_that_is_not_there(load: Load, monkeypatch: pytest.MonkeyPatch, built: dict[str, str], has: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(ImportError) as caught:
        load(built, "x86-64-v3", "x86-64-v2")
    assert str(caught.value) == f"ALEXNET_CPU_ARCH=x86-64-v2: this alexnet_cuda was built for {has}"


# ---------------------------------------------------------------------------------------------- builds from scratch


@pytest.mark.slow
def test_installs_from_a_folder_with_spaces_and_refuses_a_lesser_processor(tmp_path: Path) -> None:
    """`pip install .` in a copy of the checkout, built for processors with AVX-512."""
    checkout, site = tmp_path / "a check out", tmp_path / "site packages"
    shutil.copytree(
        ROOT, checkout, ignore=shutil.ignore_patterns("build", ".git", "*.so", "*.egg-info", "runs", ".venv")
    )
    install = [sys.executable, "-m", "pip", "install", "-v", "--no-deps", "--target", str(site), str(checkout)]
    environment = {**os.environ, "ALEXNET_CUDA": "0", "ALEXNET_CPU_ARCH": "x86-64-v4"}
    done = subprocess.run(install, env=environment, check=True, capture_output=True, text=True)
    assert re.search(r"^ *\[\d+/\d+\] Building CXX object", done.stdout, re.M), "-v does not show how far it is"
    package = site / "alexnet_cuda"
    assert {path.name for path in package.glob("*.pyi")} == {"_cpu.pyi", "_gpu.pyi"}
    assert (package / "py.typed").is_file()
    recipes = ROOT / "src" / "alexnet_cuda" / "recipes"
    assert {path.name for path in (package / "recipes").iterdir()} == {path.name for path in recipes.iterdir()}
    assert not list(package.glob("_gpu*.so"))
    code = "import alexnet_cuda; print(alexnet_cuda.build_info()['cpu_arch'])"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, text=True, capture_output=True)
    if "avx512vl" in Path("/proc/cpuinfo").read_text():
        assert run.stdout == "x86-64-v4\n", run.stderr
    else:
        assert run.returncode == 1
        assert "ImportError: alexnet_cuda was built for x86-64-v4 processors, and this is none: rebuild" in run.stderr


TOOLS = ["c++", "g++", "gcc", "cc", "clang", "clang++", "ld", "as", "make", "cmake", "ninja", "nvcc"]
# What x86-64 has not: all of AVX, FMA and F16C; BMI, LZCNT, MOVBE; POPCNT, CRC32, SSE3 to SSE4.2. TZCNT is BSF to those
# that lack it, and compilers use it so.
NEWER = re.compile(
    r"v(?!err|erw)\w+|andn|bextr|bls(i|r|msk)|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx|lzcnt|movbe|popcnt|crc32[bwlq]?"
    r"|addsubp[sd]|h(add|sub)p[sd]|lddqu|mov(d|sh|sl)dup|pabs[bwd]|palignr|ph(add|sub)\w+|pmaddubsw|pmulhrsw|pshufb"
    r"|psign[bwd]|blend\w+|dpp[sd]|extractps|insertps|movntdqa|mpsadbw|packusdw|pblend\w+|pcmpeqq|pcmpgtq|pcmp[ei]str\w+"
    r"|p(ext|ins)r[bdq]|phminposuw|p(max|min)(sb|sd|ud|uw)|pmov[sz]x\w+|pmuldq|pmulld|ptest|round[ps][sd]"
)


def newer_instructions(module: Path) -> set[str]:
    """The instructions in a module that not every x86-64 processor has."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(module)], text=True, capture_output=True, check=True
    )
    lines = (line.split("\t") for line in listing.stdout.splitlines())
    used = {parts[1].split()[0] for parts in lines if len(parts) == 2 and parts[1].strip()}
    assert "mov" in used and "mulps" in used | {name.removeprefix("v") for name in used}
    return {name for name in used if NEWER.fullmatch(name)}


@pytest.mark.slow
def test_a_wheel_serves_without_compilers(tmp_path: Path) -> None:
    """sdist, wheel, fresh environment; then the installed package alone, where neither checkout nor compilers exist."""
    if not (ROOT / ".git").exists():
        pytest.skip("which files belong to the sdist is known to git alone")
    copy, dist, site = tmp_path / "checkout", tmp_path / "dist", tmp_path / "site"
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout.split("\n")[:-1]
    for name in filter(lambda name: (ROOT / name).is_file(), files):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    subprocess.run([sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(dist)], cwd=copy, check=True)
    (sdist,) = dist.iterdir()
    shutil.unpack_archive(sdist, tmp_path)
    source = tmp_path / sdist.name.removesuffix(".tar.gz")
    packed = {str(path.relative_to(source)) for path in source.rglob("*")}
    kept = {str(path.relative_to(copy)) for path in copy.rglob("*") if "egg-info" not in str(path) and path.is_file()}
    left_out = {name for name in kept - packed if not name.startswith("findings/")}  # which run without the product
    assert left_out == {".ci/run", ".clang-format", ".gitignore"}

    clean = {key: value for key, value in os.environ.items() if "ALEXNET" not in key and key != "PYTHONPATH"}
    pip = [sys.executable, "-m", "pip"]
    wheel = [*pip, "wheel", "-q", "--no-deps", "-w", str(dist), str(source)]
    subprocess.run(wheel, env={**clean, "ALEXNET_CUDA": "0"}, check=True)
    (built,) = dist.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(site)], check=True)
    subprocess.run([site / "bin" / "pip", "install", "-q", f"{built}[digits]"], env=clean, check=True)
    shutil.rmtree(source)
    shutil.rmtree(copy)

    (package,) = site.glob("lib/python*/site-packages/alexnet_cuda")
    modules = {path.name.partition(".")[0]: path for path in package.glob("*.so")}
    x86_64 = platform.machine() == "x86_64"
    assert set(modules) == ({"_cpu", "_cpu_v3"} if x86_64 else {"_cpu"})
    if x86_64 and shutil.which("objdump"):
        assert newer_instructions(modules["_cpu"]) == set()
        assert {"vfmadd231ps", "vmovups"} <= newer_instructions(modules["_cpu_v3"])

    kernel = tmp_path / "kernel.cu"
    kernel.write_text("""#include "vector.cuh"
        void twice(float* y /*[*n]*/, const float* x /*[*n]*/, long n, alexnet::Stream stream) {
          for (long i = 0; i < n; ++i) y[i] = 2 * x[i];
        }""")
    product = (
        "import sys, numpy, alexnet_cuda; print(alexnet_cuda.compile(sys.argv[1]).twice(numpy.ones(1, 'float32')))"
    )
    command = [site / "bin" / "python", "-c", product, kernel]
    environment = {**clean, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.stdout == "[2.]\n", done.stderr

    places = [*os.environ["PATH"].split(os.pathsep), "/usr/local/bin", "/usr/bin", "/bin", "/usr/local/cuda/bin"]
    tools = {Path(place, tool).resolve() for place in places for tool in TOOLS if Path(place, tool).is_file()}
    hide = [f"mount --bind /dev/null {shlex.quote(str(tool))}" for tool in tools]
    hide = ["set -e", *hide, f"mount -t tmpfs tmpfs {shlex.quote(str(ROOT))}"]
    start = 'exec env -i PATH=/usr/local/bin:/usr/bin:/bin "$@"'
    alone = ["unshare", "-Urm", "sh", "-c", "\n".join([*hide, start]), "sh"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody hide files from a process")

    def run(*arguments: str, arch: str = "") -> str:
        command = [*alone, f"ALEXNET_CPU_ARCH={arch}", str(site / "bin" / "python"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    seen = f"import shutil, pathlib; print(*filter(shutil.which, {TOOLS}), *pathlib.Path({str(ROOT)!r}).iterdir())"
    assert run("-c", seen) == "\n"
    tested = {}
    for arch in ("x86-64", processor.cpu_arch()) if x86_64 else ("",):
        report = json.loads(run("-m", "alexnet_cuda.checks", "--json", arch=arch))
        assert report["works"] and report["build"]["cpu_arch"] == arch
        run("-m", "alexnet_cuda.train", "--epochs", "1", "--device", "cpu", "--out", f"run{arch}", arch=arch)
        last = json.loads((tmp_path / f"run{arch}" / "metrics.jsonl").read_text().splitlines()[-1])
        tested[arch] = last["test_loss"]
        assert last["test_accuracy"] > 0.3
    assert json.loads(run("-m", "alexnet_cuda.checks", "--json"))["build"]["cpu_arch"] == processor.cpu_arch()
    assert max(tested.values()) - min(tested.values()) < 1e-3  # the same sums, rounded otherwise
