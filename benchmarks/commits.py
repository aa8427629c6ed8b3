"""Two commits of this repository: named on the command line, built in place in new folders, run in turn."""

from __future__ import annotations

import argparse
import io
import os
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import timing
from timing import Row

ROOT = Path(__file__).parents[1]


class Parser(argparse.ArgumentParser):
    """``rounds``: by default, of each commit."""

    def __init__(self, doc: str | None, what: str, rounds: int) -> None:
        super().__init__(description=(doc or "").partition("\n")[0])
        self.add_argument("base", help="commit with which the other is compared")
        self.add_argument("commit", nargs="?", default="HEAD", help="default: HEAD")
        self.add_argument("--rounds", type=int, default=rounds, help=f"{what} of each; default {rounds}")
        self.add_argument("--temporary", type=Path, help="folder for the builds (default: the system's)")
        self.add_argument("--out", type=Path, default=timing.RESULTS, help="folder of the results")


def measured(name: str, arguments: argparse.Namespace, measure: Callable[[list[str]], list[Row]]) -> list[Row] | None:
    """The rows that are measured of both commits, by their hashes; None where that cannot be, which is told."""
    try:
        return measure([resolved(commit) for commit in (arguments.base, arguments.commit)])
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None


def resolved(commit: str) -> str:
    """Its hash, shortened. ValueError for what git does not know."""
    command = ["git", "rev-parse", "--verify", "--short=12", f"{commit}^{{commit}}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"expected a commit of this repository, got {commit}")
    return done.stdout.strip()


class Taken(NamedTuple):
    """What a build took, in seconds."""

    wall: float
    processors: float  # of all together
    others: float  # that the machine's processors worked for others meanwhile


def clocks() -> Taken:
    """As they stand: the wall's, that of this process's children, that of everybody's work."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    user, nice, system, _idle, _waiting, *interrupts = map(int, Path("/proc/stat").read_text().split()[1:9])
    everybody = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    return Taken(time.perf_counter(), children.ru_utime + children.ru_stime, everybody)


def build(commit: str, place: Path, environment: Mapping[str, str]) -> Taken:
    """A build in place in the new folder. RuntimeError: what the build says, if it fails."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(place, filter="data")
    before = clocks()
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    wall, processors, everybody = (after - start for after, start in zip(clocks(), before, strict=True))
    if done.returncode:
        raise RuntimeError(f"{commit}: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return Taken(wall, processors, everybody - processors)


@contextmanager
def built(commits: Sequence[str], temporary: Path | None) -> Iterator[dict[str, Path]]:
    """A folder with each commit, built for the CPU."""
    with TemporaryDirectory(dir=temporary) as name:
        places = {commit: Path(name) / commit for commit in commits}
        for commit, place in places.items():
            place.mkdir()
            build(commit, place, {**os.environ, "ALEXNET_CUDA": "0"})
        yield places


def environment(place: Path) -> dict[str, str]:
    """That of a process of the commit in the folder."""
    return {**os.environ, "PYTHONPATH": str(place / "src")}


def with_ratios(rows: Sequence[Row], key: str, value: str) -> list[Row]:
    """Each row's ``value`` over that of the first row with its ``key``, as ``ratio``."""
    first = {row[key]: row[value] for row in reversed(rows)}
    return [row | {"ratio": row[value] / first[row[key]]} for row in rows]
