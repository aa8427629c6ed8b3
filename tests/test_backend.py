"""Devices, arrays and their memory, BLAS and threads, and what is said about a GPU that cannot be used."""

from __future__ import annotations

import gc
import importlib.util
import math
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cupy_interface import CONSTANTS, accept
from stand_in_cupy import StandIn

import alexnet_cuda
from alexnet_cuda import backend, kernels
from alexnet_cuda.backend import discovery, host, libraries, streams

pytest_plugins = ["stand_in_cupy"]

CPU = backend.Device("cpu")


@pytest.fixture
def unpoisoned() -> Iterator[None]:
    backend.poison(False)
    yield
    backend.poison(True)


# ---------------------------------------------------------------------------------------------- devices


def test_names_of_devices() -> None:
    for name, device in {"cpu": CPU, "cpu:0": CPU, "cpu:1": backend.Device("cpu", 1)}.items():
        assert backend.device(name) == device
    assert [str(backend.Device(*d)) for d in (("cpu",), ("cpu", 1), ("cuda",), ("cuda", 2, 1))] == [
        "cpu",
        "cpu:1",
        "cuda:0",
        "cuda:2",
    ]
    assert backend.device(CPU) is CPU
    assert backend.Device("cuda", 0, slot=0) != backend.Device("cuda", 0, slot=1)


@pytest.mark.parametrize(
    ("name", "near"),
    [("gpu", "cuda"), ("CPU", "cpu"), ("cud", "cuda"), ("cuda0", "cuda:0"), ("cuda:x", "cuda:0"), ("cpu:-1", "cpu")],
)
def test_unknown_devices(name: str, near: str) -> None:
    with pytest.raises(ValueError, match="unknown device") as caught:
        backend.device(name)
    assert str(caught.value) == f"unknown device {name!r}: expected cpu, cuda or cuda:N; did you mean {near}?"


@pytest.mark.parametrize("name", ["", "xyz", "cuda:0,cuda:1", None, 0])
def test_devices_unlike_any(name: Any) -> None:
    with pytest.raises(ValueError, match=r"^unknown device .*expected cpu, cuda or cuda:N"):
        backend.device(name)


def test_default_device() -> None:
    assert backend.default_device() == (CPU if backend.gpu_problem() else backend.Device("cuda"))
    if problem := backend.gpu_problem():
        assert backend.gpus() == []
        with pytest.raises(RuntimeError) as caught:
            backend.device("cuda")
        assert str(caught.value) == f"device cuda: {problem}"
    else:
        last = backend.gpus()[-1]
        assert backend.device(str(last)) == last
        with pytest.raises(ValueError, match=f"^unknown device 'cuda:{last.index + 1}': expected .*{last}$"):
            backend.device(f"cuda:{last.index + 1}")


def test_device_of() -> None:
    x = np.zeros(3, np.float32)
    assert backend.device_of(x) == CPU
    assert backend.is_array(x)
    assert backend.array_module(x) is np
    assert backend.array_module(CPU) is np
    assert backend.native(x) is backend.native(CPU)
    assert backend.stream(CPU) == 0
    backend.synchronize(CPU)
    for other in ([1.0], 1.0, None, "x"):
        assert not backend.is_array(other)
        with pytest.raises(TypeError, match=r"^expected a NumPy or CuPy array, got "):
            backend.device_of(other)


# ---------------------------------------------------------------------------------------------- what a GPU lacks


@pytest.mark.parametrize(
    ("driver", "build", "modules", "problem"),
    [
        ((None, []), {}, {}, "no NVIDIA driver was found"),
        (((13, 0), []), {}, {}, "the NVIDIA driver finds no GPU"),
        (((13, 0), [(7, 5)]), {}, {}, r"the GPU has compute capability 7\.5, needed is 8\.0 \(Ampere\) or newer"),
        (
            ((13, 0), [(8, 0)]),
            {"cuda_missing": "no nvcc was found"},
            {"alexnet_cuda._gpu": False},
            r"this is a build without CUDA \(no nvcc was found\): install CUDA 12\.8 or newer and run `pip .*",
        ),
        (
            ((12, 4), [(8, 0)]),
            {"cuda": "13.0.88"},
            {"alexnet_cuda._gpu": True},
            r"the NVIDIA driver supports CUDA 12\.4, this build is for CUDA 13\.0\.88: update the driver, or run .*",
        ),
        (
            ((12, 4), [(8, 0)]),
            {"cuda": "12.9.1"},
            {"alexnet_cuda._gpu": True, "cupy": False},
            r"CuPy is not installed: run `pip install '\.\[cuda12x\]'` in the checkout",
        ),
        (
            ((13, 1), [(7, 0), (9, 0)]),
            {"cuda": "12.9.1"},
            {"alexnet_cuda._gpu": True, "cupy": False},
            r"CuPy is not installed: run `pip install '\.\[cuda13x\]'` in the checkout",
        ),
        (
            ((13, 0), [(9, 0)]),
            {"cuda": "13.0.88"},
            {"alexnet_cuda._gpu": True, "cupy": True},
            "CuPy cannot use the GPU: .*",
        ),
    ],
)
def test_gpu_problem(
    driver: Any, build: dict[str, str], modules: dict[str, bool], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line: why no GPU is used, and what mends it."""
    cupy = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setattr(discovery, "driver", lambda: driver)
    monkeypatch.setattr(libraries, "cupy", lambda: cupy)
    monkeypatch.setattr(libraries.native_cpu, "build_info", lambda: {"cuda": "", "cuda_missing": "", **build})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: modules.get(name) or None)
    backend.gpu_problem.cache_clear()
    try:
        text = backend.gpu_problem()
    finally:
        backend.gpu_problem.cache_clear()
    assert text is not None
    assert "\n" not in text
    assert re.fullmatch(problem, text), text


def test_nccl_runs_after_what_made_the_array_and_before_what_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against stand-ins for CuPy and its NCCL, which note what they are asked to do."""
    done: list[Any] = []

    class Stream:
        def __init__(self, ptr: int = 0, non_blocking: bool = True) -> None:
            self.ptr = ptr

        def record(self) -> Any:
            return SimpleNamespace(of=self.ptr, done=True)

        def wait_event(self, event: Any) -> None:
            done.append(("wait", self.ptr, event.of))

    class Communicator:
        def __init__(self, *arguments: Any) -> None:
            accept("cuda.nccl.NcclCommunicator", *arguments)
            assert arguments == (2, bytes([7, 200]), 1)

        def __getattr__(self, name: str) -> Any:
            def call(*arguments: Any) -> None:
                accept(f"cuda.nccl.NcclCommunicator.{name}", self, *arguments)
                done.append((name, *arguments))

            return call

    add, float32 = CONSTANTS["cuda.nccl.NCCL_SUM"], CONSTANTS["cuda.nccl.NCCL_FLOAT32"]
    nccl = SimpleNamespace(
        NcclCommunicator=Communicator, NCCL_SUM=add, NCCL_FLOAT32=float32, available=False,
        get_unique_id=lambda: bytes([7, 200]),
    )  # fmt: skip
    cuda = SimpleNamespace(
        Stream=Stream, Device=lambda index: nullcontext(), get_current_stream=lambda index: Stream(5), nccl=nccl
    )
    monkeypatch.setattr(libraries, "cupy", lambda: SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(libraries, "nccl", lambda: nccl)
    monkeypatch.setattr(streams, "own_stream", lambda where: Stream(6))
    assert "several processes on GPUs need NCCL" in str(backend.nccl_problem())
    assert backend.Nccl.unique_id() == [7, 200]
    group = backend.Nccl(backend.Device("cuda", 0), 2, [7, 200], 1)
    x, y = (SimpleNamespace(size=n, data=SimpleNamespace(ptr=n)) for n in (10, 20))
    expected = [
        (("allReduce", x, x), (10, 10, 10, float32, add, 0)),
        (("allGather", x, y), (10, 20, 10, float32, 0)),
        (("reduceScatter", y, x), (20, 10, 10, float32, add, 0)),
    ]
    for call, arguments in expected:
        done.clear()
        group.begin(*call)()
        assert done == [("wait", 0, 5), (call[0], *arguments), ("wait", 5, 0)]


# ---------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (600, 700)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int32])
def test_new_arrays(shape: tuple[int, ...], dtype: Any) -> None:
    for make in (backend.empty, backend.zeros):
        a = make(shape, dtype, CPU)
        assert (a.shape, a.dtype, a.flags.c_contiguous, a.flags.writeable) == (shape, dtype, True, True)
    assert not backend.zeros(shape, dtype, CPU).any()


def test_poisoned_arrays_are_nan() -> None:
    for shape in ((), (5, 7), (800, 900)):
        assert np.isnan(backend.empty(shape, np.float32, CPU)).all()
    assert (backend.workspace(1000, CPU) == 255).all()


def test_workspace_may_be_of_no_bytes() -> None:
    assert backend.workspace(0, CPU).nbytes >= 1


def test_to_and_from_the_host() -> None:
    x = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    a = backend.from_host(x, CPU)
    assert a.flags.c_contiguous
    np.testing.assert_array_equal(a, x)
    a[:] = 0
    assert x[2, 3] == 11, "from_host copies"
    assert backend.to_host(a) is a
    assert backend.to_device(a, CPU) is a
    assert backend.to_device(a, backend.Device("cpu", 1)) is a


@pytest.mark.usefixtures("unpoisoned")
class TestRecycling:
    shape = (1024, 1025)

    def address(self) -> int:
        """Where a large array lies, after filling it."""
        a = backend.empty(self.shape, np.float32, CPU)
        a.fill(1)
        return a.ctypes.data

    def test_memory_is_used_again(self) -> None:
        backend.release_memory()
        assert len({self.address() for _ in range(5)}) == 1
        assert self.address() % 64 == 0

    def test_memory_in_use_is_left_alone(self) -> None:
        arrays = [backend.empty(self.shape, np.float32, CPU) for _ in range(4)]
        for i, a in enumerate(arrays):
            a.fill(i)
        for i, a in enumerate(arrays):
            assert (a == i).all()

    @pytest.mark.parametrize(
        "view",
        [
            lambda a: a[3:],
            lambda a: a.T,
            lambda a: a.reshape(-1)[5:].view(np.uint8),
            lambda a: np.asarray(memoryview(a)),
            lambda a: np.frombuffer(a, np.float32),
            lambda a: np.lib.stride_tricks.sliding_window_view(a, (2, 2)),
        ],
    )
    def test_views_keep_the_memory(self, view: Any) -> None:
        a = backend.empty(self.shape, np.float32, CPU)
        a.fill(7)
        v = view(a)
        copy = v.copy()
        del a
        gc.collect()
        for _ in range(3):
            backend.empty(self.shape, np.float32, CPU).fill(1)
        np.testing.assert_array_equal(v, copy)

    def test_what_waits_is_bounded(self) -> None:
        recycler = backend.Recycler(limit=8 << 20)
        held = [recycler.empty((1 << 20, i), np.dtype(np.uint8)) for i in range(1, 9)]
        del held
        assert len(recycler.returned) == 8
        kept = recycler.empty((1 << 24,), np.dtype(np.uint8))
        assert sum(m.nbytes for m in recycler.free) <= recycler.limit
        assert kept.nbytes == 1 << 24
        recycler.release()
        assert not recycler.free

    def test_a_much_smaller_array_does_not_take_large_memory(self) -> None:
        recycler = backend.Recycler(limit=1 << 30)
        large = recycler.empty((1 << 24,), np.dtype(np.uint8)).ctypes.data
        assert recycler.empty((1 << 22,), np.dtype(np.uint8)).ctypes.data != large
        assert recycler.empty(((1 << 24) - 4096,), np.dtype(np.uint8)).ctypes.data == large

    def test_many_threads(self) -> None:
        failures: list[str] = []

        def work(mark: int) -> None:
            for i in range(200):
                a = backend.empty((1 << 20,), np.uint8, CPU)
                a.fill(mark)
                b = backend.empty(((1 << 20) + i,), np.uint8, CPU)
                b.fill(mark + 100)
                if not (a == mark).all() or not (b == mark + 100).all():
                    failures.append(f"thread {mark}, round {i}")

        workers = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert failures == []


# ---------------------------------------------------------------------------------------------- the CPU


def test_threads() -> None:
    before = backend.threads()
    assert before >= 1
    try:
        for n in (1, 3):
            backend.set_threads(n)
            assert backend.threads() == n
        for n in (0, -1):
            with pytest.raises(ValueError, match=f"^set_threads: expected at least 1, got {n}$"):
                backend.set_threads(n)
        assert backend.threads() == 3
    finally:
        backend.set_threads(before)


def test_blas_is_there_and_one_can_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(libraries.native_cpu, "set_blas", set_to.append)
    assert "OpenBLAS" in (backend.blas_name() or "none"), "scipy-openblas64 is a dependency"
    with backend.blas(False):
        with backend.blas(True):
            pass
        with pytest.raises(KeyError), backend.blas(False):
            raise KeyError
    address = set_to[1]
    assert address != 0
    assert set_to == [0, address, 0, 0, 0, address]


def test_both_products_agree() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 65, 65), np.float32)
    exact = a.astype(np.float64) @ b
    for enabled in (True, False):
        with backend.blas(enabled):
            np.testing.assert_allclose(kernels.gemm(a, b), exact, rtol=0, atol=65 * 16 * np.finfo(np.float32).eps)


def test_without_the_library() -> None:
    """scipy-openblas64 has no wheel for every platform."""
    found = importlib.util.find_spec
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name: None if name == "scipy_openblas64" else found(name))
            host.openblas.cache_clear()
            assert backend.blas_name() is None
            with backend.blas(True):
                c = kernels.gemm(np.ones((3, 4), np.float32), np.ones((4, 2), np.float32))
            np.testing.assert_array_equal(c, np.full((3, 2), 4))
            assert backend.build_info()["blas"].startswith("none")
            assert "no BLAS" in backend.describe(CPU)
    finally:
        host.openblas.cache_clear()
        host.enable_blas(True)


# ---------------------------------------------------------------------------------------------- what this is


def test_build_info() -> None:
    info = backend.build_info()
    assert all(isinstance(value, str) and "\n" not in value for value in info.values())
    assert info["version"] == "0.1.0"
    assert alexnet_cuda.__version__ == info["version"]
    assert info["compiler"].startswith(("GNU ", "Clang "))
    assert info["python"] == sys.version.split()[0]
    assert info["numpy"] == np.__version__
    assert bool(info["cuda"]) != bool(info["cuda_missing"])
    assert bool(info["cuda"]) == bool(importlib.util.find_spec("alexnet_cuda._gpu"))
    if info["cuda"]:
        assert info["cuda_architectures"]


def test_describe() -> None:
    lines = backend.describe(CPU).splitlines()
    assert lines[0].startswith(f"alexnet_cuda 0.1.0 on cpu: {backend.threads()} threads, ")
    problem = backend.gpu_problem()
    assert lines[1:] == ([f"no GPU is used: {problem}"] if problem else [])


def test_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "driver", lambda: ((13, 0), [(8, 0), (9, 0)]))
    assert backend.capability(backend.Device("cuda", 1)) == (9, 0)
    assert backend.capability(backend.Device("cpu", 1)) is None


def test_what_is_asked_of_a_gpu(stand_in: StandIn) -> None:
    where = backend.device("cuda:1")
    assert backend.gpus() == [backend.Device("cuda", 0), where]
    assert backend.memory(where) == stand_in.most_bytes
    hardware = backend.hardware(where)
    assert hardware.startswith("a stand-in (compute capability 9.0, 1024 GiB), driver for CUDA 13.0, built with CUDA ")
    assert hardware.endswith(f", CuPy {stand_in.__version__}")
    assert math.isfinite(backend.clock(where)()())
    shared = backend.borrow(SimpleNamespace(__dlpack_device__=lambda: (2, 1), __array__=lambda *_: np.arange(3)))
    assert backend.device_of(shared).kind == "cuda"
    np.testing.assert_array_equal(backend.to_host(shared), np.arange(3))


def test_memory_of_every_gpu_is_released(stand_in: StandIn) -> None:
    for where in backend.gpus():
        backend.zeros((1000,), np.uint8, where)
    assert dict(stand_in.used_bytes) == {0: 1024, 1: 1024}
    backend.release_memory()
    assert not any(stand_in.used_bytes.values())


# ---------------------------------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
def test_arrays_on_a_gpu() -> None:
    if problem := backend.gpu_problem():
        pytest.skip(problem)
    for device in backend.gpus():
        x = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
        a = backend.from_host(x, device)
        assert backend.device_of(a) == device
        assert a.flags.c_contiguous
        np.testing.assert_array_equal(backend.to_host(a), x)
        assert backend.to_device(a, device) is a
        assert backend.to_device(a, CPU).flags.c_contiguous
        assert np.isnan(backend.to_host(backend.empty((5, 7), np.float32, device))).all()
        assert not backend.to_host(backend.zeros((5, 7), np.float32, device)).any()
        assert backend.native(a) is backend.native(device)
        assert backend.array_module(a).__name__ == "cupy"
        backend.synchronize(device)
        for other in backend.gpus():
            np.testing.assert_array_equal(backend.to_host(backend.to_device(a, other)), x)
