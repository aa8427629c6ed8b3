"""How pytest --ptx builds the module and compares with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ptx_module
import pytest
from ml_dtypes import bfloat16

NAN = float("nan")


@pytest.mark.parametrize(("variable", "what"), [("CUDACXX", "needs nvcc"), ("CXX", "needs a C++ compiler")])
def test_a_missing_compiler_is_one_line(variable: str, what: str, tmp_path: Path) -> None:
    tool = tmp_path / "nvcc"
    tool.touch(mode=0o755)
    environment = {**os.environ, "CUDACXX": str(tool), variable: "/nowhere/compiler"}
    command = [sys.executable, "-m", "pytest", "--ptx", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), __file__]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert what in lines[0]
    assert "/nowhere/compiler was not found" in lines[0]


@pytest.mark.parametrize(
    ("ptx", "cpu", "distance"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([NAN, 2.0], [NAN, 2.0], 0),
        ([NAN, 2.0], [1.0, 2.0], np.inf),
        ([1.0, 2.0], [1.0, np.inf], np.inf),
        ([], [], 0),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_difference_of_floats(ptx: list[float], cpu: list[float], distance: float, dtype: Any) -> None:
    assert ptx_module.difference(np.array(ptx, dtype), np.array(cpu, dtype)) == distance


def test_difference_of_integers() -> None:
    assert ptx_module.difference(np.array([1, 2]), np.array([1, 2])) == 0
    assert ptx_module.difference(np.array([1, 2]), np.array([1, 3])) == np.inf


def launcher(value: float, result: int = 0) -> Any:
    """A launcher that fills y."""

    def fill(y: Any, x: Any, workspace: Any = None) -> int:
        y[:] = value * x
        if workspace is not None:
            workspace[:] = int(value)
        return result

    fill.__doc__ = "fill(y: object, x: object, workspace: object = None) -> int"
    return fill


def compared(ptx: Any, cpu: Any, monkeypatch: pytest.MonkeyPatch) -> ptx_module.Compared:
    monkeypatch.setattr(ptx_module, "set_arrays", lambda arrays: None)
    return ptx_module.Compared(SimpleNamespace(fill=ptx), SimpleNamespace(fill=cpu))


def test_the_test_gets_what_ptx_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = compared(launcher(1 + 1e-6, 7), launcher(1, 7), monkeypatch)
    x, y = np.ones(3, np.float32), np.zeros(3, np.float32)
    assert module.fill(y, x, workspace=np.zeros(4, np.uint8)) == 7
    assert (y == np.float32(1 + 1e-6)).all()
    assert module.largest["fill"] == pytest.approx(1e-6, rel=0.1)


def test_what_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.ones(3, np.float32), np.zeros(3, np.float32)
    with pytest.raises(
        AssertionError, match=r"fill: y of \(3,\) float32 differs between PTX and _cpu by 1 of its largest"
    ):
        compared(launcher(2), launcher(1), monkeypatch).fill(y, x)
    with pytest.raises(AssertionError, match="fill gives 1 in PTX, 2 on the CPU"):
        compared(launcher(1, 1), launcher(1, 2), monkeypatch).fill(y, x)


def test_an_array_that_is_passed_twice_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    y = np.array([1, 2], np.float32)
    compared(launcher(2), launcher(2), monkeypatch).fill(y, y)
    assert y.tolist() == [2, 4]


def test_an_unknown_instruction_is_named_with_its_kernel_and_line(needs_ptx: None) -> None:
    text = """.version 9.0
.target sm_80
.address_size 64
.entry strange()
{
\t.reg .b32 %r<3>;
\tmov.u32 %r1, 1;
\tbrev.b32 %r2, %r1;
\tret;
}
"""
    assert ptx_module.run_ptx(text, "strange") == "strange: PTX line 8: unknown instruction brev.b32 %r2, %r1"
