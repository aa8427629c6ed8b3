#!/usr/bin/env python3
"""What the compiler makes of each kernel: registers, spilled bytes, static shared memory, tensor-core instructions.

    python scripts/kernel_report.py [FILE.cu ...] [--arch 80 90a]

Compiles kernels/*.cu (or the files given) to PTX with nvcc and assembles that with ptxas; needs both in PATH, and no
GPU. Exits with 1 if a kernel spills registers to memory, or if the compiler makes wgmma instructions wait for another,
as it does where it cannot see that their registers are left alone: no kernel may.
"""

from __future__ import annotations

import argparse
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

    def row(self, readable: str) -> tuple[str, ...]:
        return (readable, self.architecture, *map(str, (self.registers, self.spilled, self.shared, self.tensor_core)))


def tensor_core_instructions(ptx: str) -> dict[str, int]:
    """How many of them each kernel of a PTX file has."""
    entries = re.split(r"^\s*(?:\.visible |\.weak )?\.entry (\w+)", ptx, flags=re.MULTILINE)
    return {
        name: len(re.findall(r"^\s*(?:@\S+\s+)?(?:mma\.sync|wgmma\.mma_async)\b", body, re.MULTILINE))
        for name, body in zip(entries[1::2], entries[2::2], strict=True)
    }


def parse(ptxas: str, instructions: dict[str, int]) -> list[Kernel]:
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
                name in serialized,
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
    report = run("ptxas", "-v", f"-arch=sm_{arch}", str(ptx), "-o", str(ptx.with_suffix(".cubin")))
    return parse(report, tensor_core_instructions(ptx.read_text()))


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"kernel_report: {' '.join(command)}:\n{done.stderr}")
    return done.stderr


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="default: kernels/*.cu")
    parser.add_argument("--arch", nargs="+", default=["80", "90a"], help="default: 80 90a")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="files compiled at once")
    options = parser.parse_args(arguments)
    missing = [program for program in ("nvcc", "ptxas") if not shutil.which(program)]
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
    print(f"{len(kernels)} kernels, {spilling} of them spill registers, {serialized} serialize wgmma")
    return 1 if spilling or serialized else 0


if __name__ == "__main__":
    raise SystemExit(main())
