"""scripts/check_objects.sh, with objects of a host compiler in the place of nvcc's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KERNELS = sorted((ROOT / "kernels").glob("*.cu"))
CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or "c++"
NVCC = shutil.which("nvcc")


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A folder with an object of every kernel."""
    (tmp_path / "f.cpp").write_text("extern int exits();\nint f() { return exits(); }")
    subprocess.run([CXX, "-c", str(tmp_path / "f.cpp"), "-o", str(tmp_path / "f.o")], check=True)
    for kernel in KERNELS:
        object_of(kernel.name, tmp_path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "f.o", object_of(kernel.name, tmp_path))
    return tmp_path


def object_of(kernel: str, build: Path) -> Path:
    target = "gpu_hopper" if kernel == "hopper_conv2d.cu" else "gpu_kernels"
    return build / "cpython-312-ab" / "CMakeFiles" / f"{target}.dir" / "kernels" / f"{kernel}.o"


def check(build: Path, nvcc: bool = True) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CUDACXX": "true" if nvcc else "/no/such/nvcc"}
    command = [str(ROOT / "scripts" / "check_objects.sh"), str(build)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_objects_that_call_no_exit(build: Path) -> None:
    done = check(build)
    expected = f"check_objects: none of {len(KERNELS)} objects calls exit\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_an_object_of_several_kernels(build: Path) -> None:
    unity = object_of("lrn.cu", build).parents[1] / "Unity" / "unity_some_cu.cu"
    unity.parent.mkdir()
    unity.write_text("".join(f'#include "{ROOT}/kernels/{name}.cu"\n' for name in ("lrn", "sgd")))
    for name in ("lrn.cu", "sgd.cu"):
        object_of(name, build).replace(f"{unity}.o")
    done = check(build)
    expected = f"check_objects: none of {len(KERNELS) - 1} objects calls exit\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_an_object_that_calls_exit_is_named(build: Path) -> None:
    (build / "g.cpp").write_text("#include <cstdlib>\nvoid g() { std::exit(1), std::exit(2); }")
    subprocess.run([CXX, "-c", str(build / "g.cpp"), "-o", str(object_of("pool2d.cu", build))], check=True)
    done = check(build)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"check_objects: {object_of('pool2d.cu', build)}: g() calls exit: it probably calls a function"
    )


@pytest.mark.skipif(NVCC is None, reason="there is no nvcc")
@pytest.mark.parametrize(("host", "faulty"), [("", True), ("__host__", False)])
def test_what_nvcc_makes_of_a_call_inside_a_generic_lambda(build: Path, host: str, faulty: bool) -> None:
    """A compiler that refuses it would do as well."""
    source = build / "g.cu"
    source.write_text(
        f"struct S {{ template <int V> {host} __device__ int f() const {{ return V; }} }};\n"
        "struct Three { constexpr int operator()() const { return 3; } };\n"
        "template <class F> int apply(F f) { return f(Three()); }\n"
        "int g(S s) { return apply([&](auto v) { return s.f<v()>(); }); }\n"
    )
    command = [str(NVCC), "-std=c++20", "-arch=sm_80", "-c", str(source), "-o", str(object_of("lrn.cu", build))]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (compiled.returncode != 0 or check(build).returncode != 0) == faulty, compiled.stderr


def test_an_object_that_cannot_be_read_is_an_error(build: Path) -> None:
    object_of("gemm.cu", build).write_text("no object")
    done = check(build)
    assert done.returncode == 1 and "gemm.cu.o" in done.stderr


def test_without_objects(tmp_path: Path, build: Path) -> None:
    object_of("lrn.cu", build).unlink()
    for nvcc in (True, False):
        done = check(build, nvcc)
        line = f"check_objects: expected objects of all kernels in {build}, got none of kernels/lrn.cu: build with"
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"{line} ALEXNET_CUDA=1\n"
    assert check(tmp_path / "empty").returncode == 1
    done = check(tmp_path / "empty", nvcc=False)
    assert (done.returncode, done.stdout) == (0, "check_objects: nothing to look at, as there is no nvcc\n")
