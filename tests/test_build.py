"""setup.py: its one-line errors, its choice of compilers, and a build from scratch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.mark.slow
def test_installs_from_a_folder_with_spaces_and_refuses_a_lesser_processor(tmp_path: Path) -> None:
    """`pip install .` in a copy of the checkout, built for processors with AVX-512."""
    checkout, site = tmp_path / "a check out", tmp_path / "site packages"
    shutil.copytree(
        ROOT, checkout, ignore=shutil.ignore_patterns("build", ".git", "*.so", "*.egg-info", "runs", ".venv")
    )
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(checkout)]
    subprocess.run(install, env={**os.environ, "ALEXNET_CUDA": "0", "ALEXNET_CPU_ARCH": "x86-64-v4"}, check=True)
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
