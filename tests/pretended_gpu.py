"""A pytest plugin: a machine on which scripts/gpu_check.sh finds a GPU, nvcc and all packages, though there is none.

Its programs only note that they were called, unless a test says what one does instead.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CASES = ("first", "second", "third")
PACKAGES = {"cupy-cuda13x": "14.2.0", "torch": "2.11.0", "pybind11": "3.0.1", "cmake": "4.1", "ninja": "1.13"}
WRAPPERS = f"""#!/bin/sh
[ $# -gt 0 ] || exec echo {" ".join(CASES)}
for case in ${{3:-{" ".join(CASES)}}}; do echo 00000000 > "$1/$case.txt"; done
echo "$case: as expected"
"""


@dataclass
class Machine:
    folder: Path

    def __post_init__(self) -> None:
        self.out, self.calls = self.folder / "out", self.folder / "calls"
        self.programs, self.packages = self.folder / "programs", self.folder / "packages"
        for name, version in PACKAGES.items():
            self.install(name, version)
        self.programs.mkdir()
        self.wrappers = self.folder / "wrappers"
        self.program("nvidia-smi", "echo '9.0, 580.0, A GPU'")
        compiler = f'for to; do :; done; cp "{self.wrappers}" "$to"'
        self.program("nvcc", f'[ "$1" != --version ] || exec echo release 13.0,; {compiler}')
        self.program("c++", compiler)
        self.wrappers.write_text(WRAPPERS)
        self.wrappers.chmod(0o755)

    def install(self, package: str, version: str) -> None:
        info = self.packages / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{self.calls}"\n{text}\n')
        (self.programs / name).chmod(0o755)

    def start(self, *arguments: str, does: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """gpu_check on this machine. ``does``: what Python does (in sh) when its command line has this pattern."""
        cases = {"*gpu_check.py*": f'exec {sys.executable} "$@"', **(does or {})}
        cases["*--journal*"] = 'while [ "$1" != --journal ]; do shift; done; echo passed a test > "$2"'
        cases["*_bench.py*--out*"] = 'for out; do :; done; echo 1 > "$out/$(basename "$1" .py).json"; echo measured'
        text = "\n".join(f"{pattern}) {action};;" for pattern, action in cases.items())
        self.program("python", f'case "$*" in\n{text}\n*) echo done;;\nesac')
        environment = os.environ | {"PYTHON": "python", "CXX": "c++", "PYTHONPATH": str(self.packages)}
        environment["PATH"] = f"{self.programs}:{os.environ['PATH']}"
        command = [str(ROOT / "scripts" / "gpu_check.sh"), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)

    def check(self, *parts: str, does: Mapping[str, str] | None = None, status: int | None = None) -> str:
        """Runs the parts to their end; what was printed."""
        child = self.start(str(self.out), *parts, does=does)
        printed, _ = child.communicate(timeout=100)
        assert status is None or child.returncode == status, printed
        return printed

    def summary(self) -> dict[str, str]:
        """Its lines, by their names, without the seconds that a step took."""
        text = re.sub(r"(?m)(: ok|: FAILED), \d+ s: ", r"\1: ", (self.out / "summary.txt").read_text())
        return dict(line.split(": ", 1) for line in text.splitlines())

    def states(self) -> dict[str, str]:
        """Of each step: ok, FAILED, not run or running."""
        found = {name: re.match(r"ok|FAILED|not run|running", text) for name, text in self.summary().items()}
        return {name: state[0] for name, state in found.items() if state and name != "result"}

    def archived(self) -> dict[str, str]:
        """The files in the archive."""
        with tarfile.open(self.out / "check.tar.gz") as archive:
            files = {member.name: archive.extractfile(member) for member in archive.getmembers()}
            return {name: file.read().decode() for name, file in files.items() if file}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)
