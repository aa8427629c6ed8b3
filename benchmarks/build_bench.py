"""How long a build from nothing takes: two commits in turn, each in a new folder, without a compiler cache.

    python benchmarks/build_bench.py BASE [COMMIT]

COMMIT is HEAD by default. Where nvcc works, both builds are also measured with CUDA, for three architectures.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

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


def build(commit: str, place: Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """Seconds, and seconds of all processors together, that a build in place in the new folder takes. RuntimeError: what
    the build says, if it fails."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(place, filter="data")
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{commit}: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(commits: Sequence[str], forms: Sequence[str], rounds: int, jobs: int, temporary: Path | None) -> list[Row]:
    """A row for each form and commit: medians, and quartiles of the seconds."""
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {(f, c): [] for f in forms for c in commits}
    for _ in range(rounds):
        for form, commit in taken:
            settings = {"ALEXNET_CUDA": FORMS[form], "CMAKE_CUDA_ARCHITECTURES": ARCHITECTURES, "MAX_JOBS": str(jobs)}
            environment = {**os.environ, **settings, "CCACHE_DISABLE": "1"}
            with tempfile.TemporaryDirectory(dir=temporary) as folder:
                taken[form, commit].append(build(commit, Path(folder), environment))
            print(f"{form}, {commit}: {taken[form, commit][-1][0]:.1f} s", flush=True)
    rows = []
    for (form, commit), samples in taken.items():
        seconds = timing.summary([wall for wall, _ in samples])
        row = {"build": form, "commit": commit} | {key.replace("ms", "s"): value for key, value in seconds.items()}
        rows.append(row | {"processor_s": timing.summary([processors for _, processors in samples])["ms"]})
    for row in rows:
        first = next(other for other in rows if other["build"] == row["build"])
        row["ratio"], row["processor_ratio"] = row["s"] / first["s"], row["processor_s"] / first["processor_s"]
    return rows


def table(rows: Sequence[Row]) -> str:
    columns = {"build": "build", "commit": "commit", "s": "s", "q1_s": "quartile 1", "q3_s": "quartile 3"}
    columns |= {"ratio": "of the first", "processor_s": "s of all processors", "processor_ratio": "of the first's"}
    return timing.table(rows, columns, {key: ".2f" if "ratio" in key else ".1f" for key in columns})


def compilers(with_cuda: bool) -> dict[str, str]:
    """Names and versions of what builds."""
    named = os.environ.get("CXX", "c++")
    first = subprocess.run([*named.split(), "--version"], capture_output=True, text=True, check=True).stdout
    tools = {"C++": first.partition("\n")[0]} | {name: version(name) for name in ("cmake", "ninja", "pybind11")}
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
