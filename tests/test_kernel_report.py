"""scripts/kernel_report.py, with an nvcc and a ptxas that say what is asked of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "kernel_report.py"
PTX = """
.version 9.0
.visible .entry _ZN7alexnet8multiplyILi2EEEvPf(.param .u64 p)
{
    // mma.sync in a comment
    @%p1 mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0}, {%4}, {%8}, {%0};
    mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0}, {%4}, {%8}, {%0};
    wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0}, %32, %33, p, 1, 1, 0, 0;
}
.visible .entry _ZN7alexnet3addEPf(
    .param .u64 q
)
{
    ret;
}
"""
SERIALIZED = (
    "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to "
    "insufficient register resources for the wgmma pipeline in the function '_ZN7alexnet8multiplyILi2EEEvPf'\n"
)
REPORT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN7alexnet8multiplyILi2EEEvPf' for 'sm_80'
ptxas info    : Function properties for _ZN7alexnet8multiplyILi2EEEvPf
    8 bytes stack frame, {spilled} bytes spill stores, {spilled} bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 17408 bytes smem, 488 bytes cmem[0]
ptxas info    : Compile time = 40.0 ms
ptxas info    : Compiling entry function '_ZN7alexnet3addEPf' for 'sm_80'
ptxas info    : Function properties for _ZN7alexnet3addEPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 26 registers, used 0 barriers, 392 bytes cmem[0]
"""


def report(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "kernels.ptx").write_text(PTX)
    (folder / "report").write_text(text)
    for program, command in (("nvcc", f'cp {folder}/kernels.ptx "${{@: -1}}"'), ("ptxas", f"cat {folder}/report >&2")):
        (folder / program).write_text(f"#!/bin/bash\n{command}\n")
        (folder / program).chmod(0o755)
    command = [sys.executable, str(SCRIPT), "kernels.cu", "--arch", "80"]
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(("spilled", "status"), [(0, 0), (16, 1)])
def test_report(tmp_path: Path, spilled: int, status: int) -> None:
    done = report(tmp_path, REPORT.format(spilled=spilled))
    assert (done.returncode, done.stderr) == (status, "")
    header, *rows, summary = done.stdout.splitlines()
    assert re.split("  +", header) == [
        "kernel", "architecture", "registers", "spilled bytes", "shared bytes", "tensor-core instructions"
    ]  # fmt: skip
    mangled = ["_ZN7alexnet8multiplyILi2EEEvPf", "_ZN7alexnet3addEPf"]
    names = ["multiply<2>", "add"] if shutil.which("c++filt") else mangled
    figures = [["sm_80", "128", str(2 * spilled), "17408", "3"], ["sm_80", "26", "0", "0", "0"]]
    assert [row.split() for row in rows] == [[name, *row] for name, row in zip(names, figures, strict=True)]
    assert summary == f"2 kernels, {status} of them spill registers, 0 serialize wgmma"


def test_serialized_wgmma_fails(tmp_path: Path) -> None:
    done = report(tmp_path, SERIALIZED + REPORT.format(spilled=0))
    assert done.returncode == 1
    assert done.stdout.endswith("2 kernels, 0 of them spill registers, 1 serialize wgmma\n")


def test_a_compiler_error_ends_it(tmp_path: Path) -> None:
    (tmp_path / "nvcc").write_text("#!/bin/bash\necho 'expected a ;' >&2\nexit 3\n")
    (tmp_path / "nvcc").chmod(0o755)
    (tmp_path / "ptxas").write_text("#!/bin/bash\n")
    (tmp_path / "ptxas").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, str(SCRIPT), "kernels.cu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "expected a ;" in done.stderr


def test_without_a_compiler(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": str(tmp_path)}
    )
    assert done.returncode == 2
    assert "expected nvcc and ptxas in PATH, got no nvcc and no ptxas" in done.stderr
