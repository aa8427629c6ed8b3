#!/usr/bin/env python3
"""What the compiler makes of each kernel: registers, spilled bytes, static shared memory, tensor-core instructions.

    python scripts/kernel_report.py [FILE.cu ...] [--arch 80 90a]

Compiles kernels/*.cu (or the files given) to PTX with nvcc, assembles that with ptxas and, where it has wgmma, looks at
the machine code with nvdisasm: programs in PATH or of pip's packages (nvidia-cuda-nvdisasm). Needs no GPU. Exits with 1
if a kernel spills registers to memory, or if the compiler makes wgmma instructions wait: for one another, as it does
where it cannot see that their registers are left alone, or in their own step, as "all groups but one" ends too late
behind the empty group that it adds where branches meet before a commit. No kernel may.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("kernel", "architecture", "registers", "spilled bytes", "shared bytes", "tensor-core instructions")


@dataclass(frozen=True)
class Kernel:
    name: str  # as the linker knows it
    architecture: str
    registers: int
    spilled: int  # bytes of stores and loads
    shared: int  # bytes, without what a launch adds
    tensor_core: int  # mma and wgmma instructions in the code, loops counted once
    serialized: bool  # of these wgmma
    empty_groups: int  # of wgmma

    def row(self, readable: str) -> tuple[str, ...]:
        return (readable, self.architecture, *map(str, (self.registers, self.spilled, self.shared, self.tensor_core)))


def tensor_core_instructions(ptx: str) -> dict[str, int]:
    """How many of them each kernel of a PTX file has."""
    entries = re.split(r"^\s*(?:\.visible |\.weak )?\.entry (\w+)", ptx, flags=re.MULTILINE)
    return {
        name: len(re.findall(r"^\s*(?:@\S+\s+)?(?:mma\.sync|wgmma\.mma_async)\b", body, re.MULTILINE))
        for name, body in zip(entries[1::2], entries[2::2], strict=True)
    }


def empty_groups(sass: str) -> dict[str, int]:
    """How many groups of wgmma without a product each kernel in a disassembly has. ValueError where it has no wgmma."""
    if sass and "HGMMA" not in sass:
        raise ValueError(f"expected HGMMA instructions in the disassembly, got {sass[:200]!r}")
    sections = re.split(r"^\.text\.(\w+):", sass, flags=re.MULTILINE)
    return {
        name: len(re.findall(r"\bHGMMA\S* RZ, gdesc\[URZ\], RZ, !UPT\b", body))
        for name, body in zip(sections[1::2], sections[2::2], strict=True)
    }


def parse(ptxas: str, instructions: dict[str, int], empty: dict[str, int]) -> list[Kernel]:
    """The kernels in what ``ptxas -v`` writes. ValueError for a kernel without its figures."""
    serialized = set(re.findall(r"wgmma\.mma_async instructions are serialized .*'(\w+)'", ptxas))
    sections = re.split(r"Compiling entry function '(\w+)' for '(\w+)'", ptxas)
    kernels = []
    for name, architecture, text in zip(sections[1::3], sections[2::3], sections[3::3], strict=True):
        registers = re.search(r"Used (\d+) registers", text)
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", text)
        if not registers or not spills:
            raise ValueError(f"{name}: expected registers and spills in the report of ptxas, got {text!r}")
        shared = re.search(r"(\d+) bytes smem", text)
        spilled = sum(map(int, spills.groups()))
        kernels.append(
            Kernel(
                name, architecture, int(registers[1]), spilled, int(shared[1]) if shared else 0, instructions[name],
                name in serialized, empty.get(name, 0),
            )
        )  # fmt: skip
    return kernels


def readable(names: Sequence[str]) -> list[str]:
    """Names with template arguments and without namespaces and parameters; as they are where there is no c++filt."""
    if not names or not shutil.which("c++filt"):
        return list(names)
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return [shorten(line) for line in text.splitlines()]


def shorten(declaration: str) -> str:
    """``void a::f<(a::P)1, a::T>(float*)`` is ``f<(P)1, T>``."""
    text, depth = re.sub(r"\b(?:\w+::|\(anonymous namespace\)::)+", "", declaration.removeprefix("void ")), 0
    for i, character in enumerate(text):
        if character == "(" and depth == 0:
            return text[:i]
        depth += (character == "<") - (character == ">")
    return text


def compile_file(source: Path, arch: str, folder: Path) -> list[Kernel]:
    ptx = folder / f"{source.stem}-{arch}.ptx"
    options = ["-std=c++20", "-O3", "-I", str(ROOT / "kernels"), f"-arch=compute_{arch}"]
    run("nvcc", *options, "-ptx", str(source), "-o", str(ptx))
    text, cubin = ptx.read_text(), ptx.with_suffix(".cubin")
    report = run("ptxas", "-v", f"-arch=sm_{arch}", str(ptx), "-o", str(cubin)).stderr
    sass = run("nvdisasm", "-c", str(cubin)).stdout if "wgmma.mma_async" in text else ""
    return parse(report, tensor_core_instructions(text), empty_groups(sass))


def find(program: str) -> str | None:
    """Where it is: in PATH, or in one of pip's packages of CUDA."""
    packages = importlib.util.find_spec("nvidia")
    tops = (packages.submodule_search_locations if packages else None) or []
    folders = [str(folder) for top in tops for folder in Path(top).glob("*/bin")]
    return shutil.which(program) or shutil.which(program, path=os.pathsep.join(folders))


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    found = find(program)
    if not found:
        sys.exit(f"kernel_report: expected {program} in PATH, got none: CUDA has it, and pip: nvidia-cuda-{program}")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"kernel_report: {' '.join([program, *arguments])}:\n{done.stderr}")
    return done


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="default: kernels/*.cu")
    parser.add_argument("--arch", nargs="+", default=["80", "90a"], help="default: 80 90a")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="files compiled at once")
    options = parser.parse_args(arguments)
    missing = [program for program in ("nvcc", "ptxas") if not find(program)]
    if missing:
        parser.error(f"expected nvcc and ptxas in PATH, got no {' and no '.join(missing)}")

    files = options.files or sorted((ROOT / "kernels").glob("*.cu"))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(compile_file, file, arch, Path(folder)) for file in files for arch in options.arch]
        kernels = [kernel for future in futures for kernel in future.result()]
    rows = [COLUMNS, *(k.row(name) for k, name in zip(kernels, readable([k.name for k in kernels]), strict=True))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells))
    spilling = sum(kernel.spilled > 0 for kernel in kernels)
    serialized = sum(kernel.serialized for kernel in kernels)
    waiting = sum(kernel.empty_groups > 0 for kernel in kernels)
    print(
        f"{len(kernels)} kernels, {spilling} of them spill registers, {serialized} serialize wgmma, "
        f"{waiting} wait behind an empty group of it"
    )
    return 1 if spilling or serialized or waiting else 0


if __name__ == "__main__":
    raise SystemExit(main())
