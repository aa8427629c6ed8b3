"""scripts/kernel_report.py, with an nvcc and a ptxas that say what is asked of them."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "kernel_report.py"
kernel_report = runpy.run_path(str(SCRIPT))
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


COMMIT = "gpu::wgmma_commit();"
SOURCE = """
#include "platform/hopper.cuh"
__global__ void multiply(float* y, std::uint64_t a, std::uint64_t b, int steps, int twice) {
  float d[32] = {};
  for (int k = 0; k < steps; ++k, ++a) {
    if (k < twice) {
      gpu::wgmma_fence();
      gpu::wgmma_bf16(d, a, b, 1);
      gpu::wgmma_bf16(d, a + 2, b + 2, 1);
      IN_BRANCHES
    } else {
      gpu::wgmma_fence();
      gpu::wgmma_bf16(d, a, b, 1);
      IN_BRANCHES
    }
    BEHIND
    gpu::wgmma_wait<1>();
  }
  gpu::wgmma_wait<0>();
  for (int i = 0; i < 32; ++i) y[threadIdx.x * 32 + i] = d[i];
}
"""
SASS = """\t.section\t.text._ZN7alexnet8multiplyILi2EEEvPf,"ax",@progbits
.text._ZN7alexnet8multiplyILi2EEEvPf:
        /*0f10*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], RZ, !UPT ;
        /*0f20*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ;
        /*0f30*/                   {} ;
        /*0f40*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
\t.section\t.text._ZN7alexnet3addEPf,"ax",@progbits
.text._ZN7alexnet3addEPf:
        /*0000*/                   EXIT ;
"""
EMPTY = "HGMMA.64x8x16.F16 RZ, gdesc[URZ], RZ, !UPT, gsb0"


def report(folder: Path, text: str, sass: str = SASS.format("NOP")) -> subprocess.CompletedProcess[str]:
    pretended = {
        "nvcc": (PTX, 'cp {} "${{@: -1}}"'),
        "ptxas": (text, "cat {} >&2"),
        "nvdisasm": (sass, "cat {}"),
    }
    for program, (output, command) in pretended.items():
        (folder / f"{program}.txt").write_text(output)
        command = command.format(folder / f"{program}.txt")
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
    assert summary == (
        f"2 kernels, {status} of them spill registers, 0 serialize wgmma, 0 wait behind an empty group of it"
    )


def test_serialized_wgmma_fails(tmp_path: Path) -> None:
    done = report(tmp_path, SERIALIZED + REPORT.format(spilled=0))
    assert done.returncode == 1
    assert "2 kernels, 0 of them spill registers, 1 serialize wgmma, 0 wait" in done.stdout


def test_an_empty_group_of_wgmma_fails(tmp_path: Path) -> None:
    done = report(tmp_path, REPORT.format(spilled=0), SASS.format(EMPTY))
    assert done.returncode == 1
    assert done.stdout.endswith(", 0 serialize wgmma, 1 wait behind an empty group of it\n")


def test_a_disassembly_without_wgmma_is_an_error(tmp_path: Path) -> None:
    done = report(tmp_path, REPORT.format(spilled=0), SASS.replace("HGMMA", "WHAT").format("NOP"))
    assert done.returncode == 1 and "expected HGMMA instructions in the disassembly" in done.stderr


@pytest.mark.parametrize(("in_branches", "behind", "status"), [("", COMMIT, 1), (COMMIT, "", 0)])
def test_the_assembler_adds_an_empty_group_where_branches_meet_before_a_commit(
    tmp_path: Path, in_branches: str, behind: str, status: int
) -> None:
    if missing := [program for program in ("nvcc", "ptxas", "nvdisasm") if not kernel_report["find"](program)]:
        pytest.skip(f"there is no {' and no '.join(missing)}")
    source = tmp_path / "multiply.cu"
    source.write_text(SOURCE.replace("IN_BRANCHES", in_branches).replace("BEHIND", behind))
    command = [sys.executable, str(SCRIPT), str(source), "--arch", "90a"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.endswith(f"0 serialize wgmma, {status} wait behind an empty group of it\n"), done.stderr
    assert done.returncode == status


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
    command = [sys.executable, "-S", str(SCRIPT)]  # without pip's packages
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": str(tmp_path)}
    )
    assert done.returncode == 2
    assert "expected nvcc and ptxas in PATH, got no nvcc and no ptxas" in done.stderr
