"""alexnet_cuda.compile: what launchers declare, what calls of them refuse, and what is built again."""

from __future__ import annotations

import ctypes
import inspect
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given, strategies as st
from ml_dtypes import bfloat16

import alexnet_cuda
from alexnet_cuda import backend
from alexnet_cuda.user_kernels import CompileError, DeclarationError, UserKernels, compiler
from alexnet_cuda.user_kernels.declaration import Sizes, declarations

NVCC = compiler.nvcc()
SOURCE = """
// kernels.cu - what the tests call.
#include "vector.cuh"
#include "factor.h"

namespace alexnet {
namespace {
template <class T>
__global__ void scale(T* y, const T* x, const float* s, long items, int C) {
  for (long i : gpu::grid_range(items)) y[i] = FACTOR * float(x[i]) * s[i % C];
}
template <class T>
void any_scale(T* y, const T* x, const float* s, int N, int C, Stream stream) {
  gpu::launch_independent<scale<T>>(flat(long(N) * C, stream), y, x, s, long(N) * C, C);
}

// A block sums a row: its threads meet.
__global__ void sum(float* y, const float* x, int C) {
  GPU_SHARED(float, part, [64]);
  float own = 0;
  for (int c = threadIdx.x; c < C; c += 64) own += x[long(blockIdx.x) * C + c];
  part[threadIdx.x] = own;
  __syncthreads();
  for (int half = 32; half; half /= 2) {
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) y[blockIdx.x] = part[0];
}
}  // namespace

void scale_rows(float* y /*[N, C], may be x*/, const float* x /*[N, C]*/, const float* s /*[C]*/, int N, int C,
                Stream stream) {
  any_scale(y, x, s, N, C, stream);
}
void scale_bf16(bfloat16* y /*[N, C]*/, const bfloat16* x /*[N, C]*/, const float* s /*[C]*/, int N, int C,
                Stream stream) {
  any_scale(y, x, s, N, C, stream);
}
void sums(float* y /*[N]*/, const float *x /*[N, C]*/, int N, int C, Stream stream) {
  gpu::launch<sum>({dim3(N), dim3(64), 0, stream}, y, x, C);
}
void every_second(float* y /*[(n - 1) / 2 + 1]*/, std::int32_t* where /*[(n - 1) / 2 + 1]*/, const float* x /*[n]*/,
                  long n, Stream stream) {
  for (long i = 0; i < n; i += 2) y[i / 2] = x[i], where[i / 2] = int(i);
}
void filled(float* y /*[rows, 3]*/, float value, bool negative, unsigned char rows, Stream stream) {
  for (int i = 0; i < rows * 3; ++i) y[i] = negative ? -value : value;
}
void threads_used(int* y /*[n]*/, int n, Stream stream) {
#ifndef __CUDACC__
  y[0] = gpu::threads();
#endif
}
void throws(float* y /*[*n]*/, const float* x /*[*n]*/, Stream stream) { throw std::runtime_error("on purpose"); }
}  // namespace alexnet
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("CXXFLAGS", "-O0")  # compiles in half the time
        yield


def write(folder: Path, text: str = SOURCE, factor: str = "1") -> Path:
    (folder / "factor.h").write_text(f"#define FACTOR {factor}\n")
    path = folder / "kernels.cu"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def made(cache: None, tmp_path_factory: pytest.TempPathFactory) -> UserKernels:
    return alexnet_cuda.compile(write(tmp_path_factory.mktemp("source")))


@given(N=st.integers(1, 9), C=st.sampled_from([1, 3, 63, 64, 65, 200]))
def test_against_float64(made: UserKernels, N: int, C: int) -> None:
    x, s = reference.random(N, C), reference.random(C, seed=1)
    exact = x.astype(np.float64) * s
    reference.assert_close(made.scale_rows(x, s), exact, reference.rounding_error(abs(exact), 1))
    np.testing.assert_allclose(made.sums(x), x.astype(np.float64).sum(1), rtol=0, atol=1e-6 * abs(x).sum())
    short = x.astype(bfloat16)
    np.testing.assert_array_equal(made.scale_bf16(short, s), (short.astype(np.float32) * s).astype(bfloat16))


def test_threads_do_not_matter(made: UserKernels) -> None:
    x = reference.random(37, 1000)
    before, results = backend.threads(), set()
    try:
        for n in (1, 2, 3):
            backend.set_threads(n)
            results.add(made.sums(x).tobytes())
            assert made.threads_used(n=1).tolist() == [n]
    finally:
        backend.set_threads(before)
    assert len(results) == 1


def test_outputs(made: UserKernels) -> None:
    x = np.arange(5, dtype=np.float32)
    y, where = made.every_second(x)
    assert y.tolist() == [0, 2, 4] and where.tolist() == [0, 2, 4] and where.dtype == np.int32
    own = np.empty(3, np.float32)
    assert made.every_second(x, y=own)[0] is own
    assert made.filled(2.5, True, rows=2).tolist() == [[-2.5] * 3] * 2
    assert made.filled(1, False, y=np.empty((4, 3), np.float32)).sum() == 12
    rows = np.ones((2, 2), np.float32)
    assert made.scale_rows(rows, np.full(2, 3, np.float32), y=rows) is rows and rows.sum() == 12


def test_another_library_s_arrays(made: UserKernels) -> None:
    class Theirs:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    out = Theirs(np.empty(2, np.float32))
    assert made.sums(Theirs(np.ones((2, 3), np.float32)), y=out) is out
    assert out.array.tolist() == [3, 3]


ROWS, S = np.ones((2, 3), np.float32), np.ones(3, np.float32)
FROZEN = np.ones(2, np.float32)
FROZEN.flags.writeable = False


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda k: k.scale_rows(ROWS),
            TypeError,
            r"scale_rows: missing a required argument: 's'; it is scale_rows\(x, s, \*, y=None\)",
        ),
        (lambda k: k.scale_rows(ROWS, S, z=S), TypeError, "scale_rows: got an unexpected keyword argument 'z'"),
        (
            lambda k: k.scale_rows(ROWS, [1, 2, 3]),
            TypeError,
            "scale_rows: s: expected a NumPy or CuPy array, got builtins.list",
        ),
        (
            lambda k: k.scale_rows(ROWS, S.astype(np.float64)),
            TypeError,
            "scale_rows: s: expected dtype float32, got float64",
        ),
        (lambda k: k.scale_rows(S, S), ValueError, r"scale_rows: x: expected shape \(N, C\), got \(3,\)"),
        (lambda k: k.scale_rows(ROWS, S[:2]), ValueError, r"scale_rows: s: expected shape \(3,\), got \(2,\)"),
        (lambda k: k.scale_rows(ROWS.T, S), ValueError, "scale_rows: x: expected a C-contiguous array"),
        (lambda k: k.scale_rows(ROWS, S, y=S), ValueError, r"scale_rows: y: expected shape \(2, 3\), got \(3,\)"),
        (
            lambda k: k.scale_rows(ROWS, S, y=ROWS.ravel()[:3]),
            ValueError,
            r"scale_rows: y: expected shape \(2, 3\), got \(3,\)",
        ),
        (
            lambda k: k.scale_rows(ROWS, ROWS[0], y=ROWS),
            ValueError,
            "scale_rows: y: expected memory of its own, got that of s",
        ),
        (lambda k: k.sums(np.ones((2, 1), np.float32), y=FROZEN), ValueError, "sums: y: expected a writable array"),
        (
            lambda k: k.sums(ROWS[:, :2].copy(), y=np.empty(3, np.float32)),
            ValueError,
            r"sums: y: expected shape \(2,\), got \(3,\)",
        ),
        (lambda k: k.throws(S, y=S), ValueError, "throws: y: expected memory of its own, got that of x"),
        (
            lambda k: k.throws(S, y=np.ones((1, 3), np.float32)),
            ValueError,
            r"throws: y: expected shape \(3,\), got \(1, 3\)",
        ),
        (lambda k: k.throws(S), RuntimeError, "throws: on purpose"),
        (lambda k: k.every_second(S, where=S), TypeError, "every_second: where: expected dtype int32, got float32"),
        (lambda k: k.every_second(S, y=S), ValueError, r"every_second: y: expected shape \(2,\), got \(3,\)"),
        (
            lambda k: k.filled(1, False),
            ValueError,
            "filled: y: expected it, or rows, which no other argument tells",
        ),
        (
            lambda k: k.filled(1, False, rows=256),
            ValueError,
            r"filled: rows: expected an integer in \[0, 255\], got 256",
        ),
        (lambda k: k.filled(1, False, rows=0), ValueError, r"filled: y: expected sizes from 1, got shape \(0, 3\)"),
        (lambda k: k.filled(1, 0, rows=1), TypeError, "filled: negative: expected a bool, got 0"),
        (lambda k: k.filled("one", True, rows=1), TypeError, "filled: value: expected a number, got 'one'"),
        (lambda k: k.scale_row(ROWS, S), AttributeError, "has no launcher 'scale_row'; did you mean scale_rows?"),
    ],
)
def test_refused(
    made: UserKernels, call: Callable[[UserKernels], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(made)


def test_it_can_be_looked_at(made: UserKernels) -> None:
    assert str(inspect.signature(made.filled)) == "(value, negative, *, y=None, rows=None)"
    assert made.sums.__doc__ == "sums(x, *, y=None): y float32 [N]; x float32 [N, C]."
    assert {"sums", "scale_bf16"} <= set(dir(made))
    assert repr(made).startswith("<kernels of kernels.cu: scale_rows, scale_bf16, sums")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("half* y /*[*n]*/, long n", "f: y: expected a type of float, double, bfloat16, .*, got half"),
        ("float* y /*[*n]*/, bfloat16 n", "f: n: expected a type of float, double, bool, .*, got bfloat16"),
        (
            "float* y /*[*n]*/, const float* x",
            r"f: x: expected a shape such as /\*\[N, C\]\*/ or .*, got 'const float\* x'",
        ),
        ("float* y /*[n, *m]*/", "f: y: expected a shape such as"),
        ("float* y /*[n +]*/", "f: y: expected a shape such as"),
        ("float* y /*[f(n)]*/", "f: y: expected a shape such as"),
        ("float* y /*[n ** 2]*/", "f: y: expected a shape such as"),
        ("float* y /*[n]*/, float n", "f: y: expected a whole number as its size, got n"),
        ("float* y /*[n]*/, float y", "f: expected a name of its own for each parameter"),
        (
            "float* y /*[n], may be z*/, const float* zz /*[n]*/",
            "f: y: expected that it may be an input, got z; did you mean zz?",
        ),
        ("const float* y /*[n], may be z*/, float* z /*[n]*/", "f: y: expected that an output may be an input"),
        ("float& y, float* z /*[n]*/", "f: expected a number or a pointer with its shape, got 'float& y'"),
    ],
)
def test_declarations_that_are_not_understood(parameters: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=rf"^k\.cu:3: {message}"):
        declarations(f"// void g(int i, Stream s) {{\n\nvoid f({parameters}, Stream stream) {{}}", "k.cu")


def test_a_file_without_launchers() -> None:
    for text in ("", "void f(float* y, Stream stream) {}", "// void f(float* y /*[n]*/, Stream stream) {}"):
        with pytest.raises(DeclarationError, match=r"^k\.cu: expected a launcher such as .*, got none$"):
            declarations(text, "k.cu")
    twice = "void f(float* y /*[n]*/, Stream s) {}\n" * 2
    with pytest.raises(DeclarationError, match=r"^k\.cu:2: f: expected one launcher of that name, got a second$"):
        declarations(twice, "k.cu")


def test_a_formula_that_divides_by_zero() -> None:
    f = declarations("void f(float* y /*[8 / n]*/, int n, Stream stream) {}", "k.cu")["f"]
    sizes = Sizes("f")
    sizes.known["n"] = 0
    with pytest.raises(ValueError, match="f: y: its shape has a division by zero"):
        sizes.shape(f.outputs[0])


def test_the_compiler_s_words(tmp_path: Path) -> None:
    text = '#include "kernels.h"\n\nvoid f(float* y /*[n]*/, int n, alexnet::Stream stream) { nonsense; }\n'
    with pytest.raises(CompileError, match=re.escape(f"{tmp_path / 'kernels.cu'}:3:")) as caught:
        alexnet_cuda.compile(write(tmp_path, text))
    assert "nonsense" in str(caught.value)


def test_what_is_there_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    run = subprocess.run

    def compiling(command: list[str], **options: Any) -> Any:
        built.extend(command[:1] if "-o" in command else [])
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", compiling)
    folder = tmp_path / "my kernels"
    folder.mkdir()
    x = np.ones((1, 1), np.float32)

    def product() -> float:
        return alexnet_cuda.compile(folder / "kernels.cu").scale_rows(x, x[0]).item()

    write(folder)
    assert product() == product() == 1 and len(built) == 1
    write(folder, factor="2")  # a header of the user's
    assert product() == 2 and len(built) == 2
    write(folder, SOURCE.replace("FACTOR *", "3 * FACTOR *"), factor="2")
    assert product() == 6 and len(built) == 3
    alexnet_cuda.compile(folder / "kernels.cu", checked=True)
    assert len(built) == 4
    assert {path.suffix for path in compiler.cache_folder().iterdir()} == {".so", ".json"}


def test_a_missing_barrier_is_found(tmp_path: Path) -> None:
    """In a checked build shared memory begins as NaN, and a barrier that some threads do not reach is told."""
    text = SOURCE.replace(
        "own += x[long(blockIdx.x) * C + c];\n", "own += x[long(blockIdx.x) * C + c];\n  if (threadIdx.x > 5) return;\n"
    )
    with pytest.raises(RuntimeError, match=r"^sums: sum: block \(0, 0, 0\)"):
        alexnet_cuda.compile(write(tmp_path, text), checked=True).sums(ROWS)


def test_without_a_file_or_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.cu"):
        alexnet_cuda.compile(tmp_path / "none.cu")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        CompileError, match=r"expected a C\+\+20 compiler, got no no-such-compiler: apt install g\+\+, or set CXX"
    ):
        alexnet_cuda.compile(write(tmp_path))


def test_a_rehearsal_runs_nothing(made: UserKernels) -> None:
    rehearsal = backend.Rehearsal(backend.device("cpu"))
    with backend.rehearsing(rehearsal):
        x = backend.empty((2, 3), np.float32, backend.device("cpu"))
        assert made.throws(x).shape == (2, 3)
        assert rehearsal.held.total() == 24


@pytest.mark.skipif(not NVCC, reason="needs nvcc")
def test_what_nvcc_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It compiles for a GPU, and where there is none a call says so instead of computing."""
    monkeypatch.setattr(backend, "capability", lambda where: (9, 0) if where.kind == "cuda" else None)
    kernels = alexnet_cuda.compile(write(tmp_path))
    library = kernels.library(backend.Device("cuda", 0))
    monkeypatch.setattr(backend, "stream", lambda where: 0)
    if backend.gpu_problem():
        with pytest.raises(RuntimeError, match=r"^sums: .*(driver|device)"):
            library.run("sums", [ctypes.c_void_p(), ctypes.c_void_p(), 1, 1], backend.Device("cuda", 0))
