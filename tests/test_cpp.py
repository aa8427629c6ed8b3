"""The kernels as a C++ library: installed by CMake, found by CMake, and examples/cpp to the bits of Python."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets

from alexnet_cuda import backend, kernels

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, BATCH = 2, 32


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/cpp, built against the installed package."""
    cmake = pytest.importorskip("cmake", reason="the extra `rebuild` is not installed")
    program, folder = str(Path(cmake.CMAKE_BIN_DIR) / "cmake"), tmp_path_factory.mktemp("cpp")
    options = ["-DALEXNET_PYTHON=OFF", f"-DALEXNET_CPU_ARCH={backend.build_info()['cpu_arch']}"]
    run(program, "-S", ROOT, "-B", folder / "library", *options)
    run(program, "--build", folder / "library", "--parallel", str(len(os.sched_getaffinity(0))))
    run(program, "--install", folder / "library", "--prefix", folder / "installed")
    shutil.rmtree(folder / "library")
    installed = {str(path.relative_to(folder / "installed" / "include")) for path in folder.rglob("installed/**/*.h")}
    assert installed == {"alexnet/kernels.h", "alexnet/cpu.h"}
    example = ["-S", ROOT / "examples" / "cpp", "-B", folder / "example", f"-DCMAKE_PREFIX_PATH={folder / 'installed'}"]
    run(program, *example, "-DCMAKE_BUILD_TYPE=Debug")
    run(program, "--build", folder / "example")
    return folder / "example" / "digits"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What UCI calls optdigits.tes."""
    packed = Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
    path = tmp_path_factory.mktemp("data") / "optdigits.tes"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    return path


def trained(digits: Path) -> str:
    """What the example prints, computed through Python."""
    table = np.loadtxt(digits, delimiter=",", dtype=np.float32)
    x, labels = (table[:, :64] / 16).reshape(-1, 8, 8, 1), table[:, 64].astype(np.int32)
    words = np.random.MT19937()
    words._legacy_seeding(0)  # as std::mt19937 is seeded

    def random(*shape: int) -> np.ndarray:
        scale = np.sqrt(np.float32(6) / np.float32(shape[1:][0] if len(shape) == 2 else 9))
        raw = (words.random_raw(int(np.prod(shape))) >> np.uint64(8)).astype(np.float32)
        return (scale * ((raw + np.float32(0.5)) * np.float32(2**-23) - np.float32(1))).reshape(shape)

    weights = [random(16, 3, 3, 1), np.zeros(16, np.float32), random(10, 144), np.zeros(10, np.float32)]
    momenta = [np.zeros_like(w) for w in weights]
    order, test, lines = np.arange(len(x) - len(x) // 5), len(x) - len(x) // 5, ""

    def forward(x: np.ndarray) -> tuple[np.ndarray, ...]:
        y1 = kernels.conv2d(x, weights[0], weights[1], padding=1, relu=True)
        flat, which = kernels.max_pool2d(kernels.lrn(y1), size=3, stride=2)
        return y1, flat, which, kernels.linear(flat.reshape(len(x), -1), weights[2], weights[3])

    for epoch in range(1, EPOCHS + 1):
        for i in range(len(order) - 1, 0, -1):
            j = int(words.random_raw()) % (i + 1)
            order[i], order[j] = order[j], order[i]
        losses = []
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            y1, flat, which, logits = forward(x[chosen])
            loss, _, p = kernels.softmax_cross_entropy(logits, labels[chosen])
            dlogits = kernels.softmax_cross_entropy_backward(p, labels[chosen])
            dflat, dw2, db2 = kernels.linear_backward(dlogits, flat.reshape(len(chosen), -1), weights[2])
            dy2 = kernels.max_pool2d_backward(dflat.reshape(flat.shape), which, y1.shape, size=3, stride=2)
            dy1 = kernels.lrn_backward(dy2, y1, mask=True)
            _, dw1, db1 = kernels.conv2d_backward(dy1, x[chosen], weights[0], padding=1, needs=(False, True, True))
            for w, v, g in zip(weights, momenta, (dw1, db1, dw2, db2), strict=True):
                kernels.sgd(w, v, g, lr=0.05)
            losses.append(float(loss))
        right = (forward(x[test:])[3].argmax(1) == labels[test:]).mean()
        mean = sum(losses) / len(losses)
        lines += f"epoch {epoch:2d}  loss {mean:.17g}  test accuracy {100 * right:.2f}%\n"
    return lines


@pytest.mark.slow
def test_the_example_has_python_s_losses(program: Path, digits: Path) -> None:
    """Bit for bit, where neither side has a BLAS; and it learns."""
    printed = run(program, digits, str(EPOCHS))
    with backend.blas(False):
        assert printed == trained(digits)
    assert float(printed.split()[-1].rstrip("%")) > 80


@pytest.mark.slow
def test_the_example_s_errors(program: Path, digits: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.tes"
    lines = digits.read_text().splitlines()
    for text, message in (
        ("\n".join([*lines[:3], "1,2,x"]), "line 4: expected 64 values and a digit"),
        ("\n".join([lines[0].replace(",", ",17,", 1)]), "line 1: expected 64 values and a digit"),
        ("\n".join(lines[:100]), "expected at least 160 images"),
    ):
        broken.write_text(text)
        done = subprocess.run([program, broken], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, f"digits: {broken}: {message}\n")
    done = subprocess.run([program, tmp_path / "none"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"digits: {tmp_path / 'none'}: cannot be read\n")
    for arguments in ([], [digits, "0"], [digits, "1", "2"]):
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (2, "usage: digits FILE [EPOCHS]\n")
