"""How long a build from nothing takes: two commits in turn, each in a new folder, without a compiler cache.

    python benchmarks/build_bench.py BASE [COMMIT]

COMMIT is HEAD by default. Each is built for the CPU alone and with CUDA for three architectures, which needs nvcc; with
--cpu only the former. Beside the seconds stand those that all processors worked for it, which tell more where the
machine has other work, and those that they spent on that.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import timing
from timing import Row

ROOT = Path(__file__).parents[1]
FORMS = {"CPU": "0", "CPU and CUDA": "1"}
ARCHITECTURES = "80-real;90a-real;90-virtual"


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


def measure(commits: Sequence[str], forms: Sequence[str], rounds: int, jobs: int, temporary: Path | None) -> list[Row]:
    """A row for each form and commit: medians, and quartiles of the seconds."""
    taken: dict[tuple[str, str], list[Taken]] = {(f, c): [] for f in forms for c in commits}
    for _ in range(rounds):
        for form, commit in taken:
            settings = {"ALEXNET_CUDA": FORMS[form], "CMAKE_CUDA_ARCHITECTURES": ARCHITECTURES, "MAX_JOBS": str(jobs)}
            environment = {**os.environ, **settings, "CCACHE_DISABLE": "1"}
            with tempfile.TemporaryDirectory(dir=temporary) as folder:
                taken[form, commit].append(build(commit, Path(folder), environment))
            last = taken[form, commit][-1]
            work = f"{last.processors:.1f} s of all processors, and {last.others:.1f} s for others"
            print(f"{form}, {commit}: {last.wall:.1f} s, {work}", flush=True)
    rows = []
    for (form, commit), samples in taken.items():
        seconds = timing.summary([sample.wall for sample in samples])
        row = {"build": form, "commit": commit} | {key.replace("ms", "s"): value for key, value in seconds.items()}
        row["processor_s"] = statistics.median(sample.processors for sample in samples)
        rows.append(row | {"others_s": statistics.median(sample.others for sample in samples)})
    for row in rows:
        first = next(other for other in rows if other["build"] == row["build"])
        row["ratio"], row["processor_ratio"] = row["s"] / first["s"], row["processor_s"] / first["processor_s"]
    return rows


def table(rows: Sequence[Row]) -> str:
    columns = {"build": "build", "commit": "commit", "s": "s", "q1_s": "quartile 1", "q3_s": "quartile 3"}
    columns |= {"ratio": "of the first's", "processor_s": "s of all processors", "processor_ratio": "of the first's"}
    columns |= {"others_s": "their s for others"}
    return timing.table(rows, columns, {key: ".2f" if "ratio" in key else ".1f" for key in columns})


def compilers(with_cuda: bool) -> dict[str, str]:
    """Names and versions of what builds."""
    named = os.environ.get("CXX", "c++")
    first = subprocess.run([*named.split(), "--version"], capture_output=True, text=True, check=True).stdout
    tools = {"C++": first.partition("\n")[0]} | timing.versions_of(("cmake", "ninja", "pybind11"))
    if with_cuda:
        nvcc = os.environ.get("CUDACXX", "nvcc")
        report = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
        release = re.search(r"V([\d.]+)", report)
        tools["nvcc"] = release[1] if release else "unknown"
    return tools


def main(options: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("base", help="commit with which the other is compared")
    parser.add_argument("commit", nargs="?", default="HEAD", help="default: HEAD")
    parser.add_argument("--cpu", action="store_true", help="only the build for the CPU")
    parser.add_argument("--rounds", type=int, default=3, help="builds of each; default 3")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="default: one a core")
    parser.add_argument("--temporary", type=Path, help="folder for the builds (default: the system's)")
    parser.add_argument("--out", type=Path, default=timing.RESULTS, help="folder of the results")
    arguments = parser.parse_args(options)
    if arguments.rounds < 1 or arguments.jobs < 1:
        parser.error("--rounds, --jobs: expected a positive number")
    forms = ["CPU"] if arguments.cpu else list(FORMS)
    try:
        commits = [resolved(commit) for commit in (arguments.base, arguments.commit)]
        environment = timing.environment(jobs=arguments.jobs, tools=compilers(with_cuda=not arguments.cpu))
        rows = measure(commits, forms, arguments.rounds, arguments.jobs, arguments.temporary)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"build_bench: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    record = {"benchmark": "build_bench", "environment": environment, "architectures": ARCHITECTURES, "rows": rows}
    heading = "In place, from nothing" + ("" if arguments.cpu else f"; CUDA for {ARCHITECTURES.replace(';', ', ')}")
    timing.write(arguments.out, "build", "How long a build takes", record, {heading: table(rows)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
