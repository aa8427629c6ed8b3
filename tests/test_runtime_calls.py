"""What the host's side of `_gpu` asks of CUDA, compiled by nvcc, with a stand-in for the CUDA runtime."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNASKED, MOST = (48 << 10) - 1024, (160 << 10) - 1024
"""Bytes of dynamic shared memory that a kernel with 1,024 bytes of its own has unasked and at most, in the stand-in."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc")
    built = tmp_path_factory.mktemp("runtime_calls") / "runtime_calls"
    options = ["-std=c++20", "-arch=sm_80", "-cudart", "none", f"-I{ROOT / 'kernels'}", f"-I{ROOT / 'csrc'}"]
    command = [nvcc, *options, str(ROOT / "tests" / "native" / "runtime_calls.cu"), "-o", str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return built


@pytest.mark.parametrize(
    ("case", "lines"),
    [
        ("little_shared_memory", [f"launch with {UNASKED} bytes on GPU 0"]),
        ("all_shared_memory", [f"launch with {MOST} bytes on GPU 0"]),
        ("two_threads", ["launch with 49153 bytes on GPU 0", "launch with 98304 bytes on GPU 0"]),
        ("two_gpus", ["launch with 98304 bytes on GPU 0", "launch with 98304 bytes on GPU 1"]),
        ("same_stream", ["on GPU 0, afterwards on GPU 0"] * 3),
        (
            "other_stream",
            ["stream 0 waits for the default stream of GPU 0", "on GPU 0, afterwards on GPU 0"],
        ),
        ("stream_of_another_gpu", ["stream 1 waits for stream 0", "on GPU 1, afterwards on GPU 0"]),
        (
            "default_stream_of_another_gpu",
            ["the default stream of GPU 1 waits for the default stream of GPU 0", "on GPU 1, afterwards on GPU 0"],
        ),
    ],
)
def test_cuda_does_what_it_is_asked(program: Path, case: str, lines: list[str]) -> None:
    done = subprocess.run([program, case], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, lines, "")


@pytest.mark.parametrize(
    ("case", "lines"),
    [
        ("too_much_shared_memory", ["kernel: invalid argument"]),
        ("failing_event", ["afterwards on GPU 0", "relu_forward: invalid resource handle"]),
    ],
)
def test_what_cuda_refuses_is_told(program: Path, case: str, lines: list[str]) -> None:
    done = subprocess.run([program, case], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (1, lines, "")
