"""How long a build from nothing takes: two commits in turn, each in a new folder, without a compiler cache.

    python benchmarks/build_bench.py BASE [COMMIT]

COMMIT is HEAD by default. Each is built for the CPU alone and with CUDA for three architectures, which needs nvcc; with
--cpu only the former. Beside the seconds stand those that all processors worked for it, which tell more where the
machine has other work, and those that they spent on that.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import commits
import timing
from commits import Taken
from timing import Row

FORMS = {"CPU": "0", "CPU and CUDA": "1"}
ARCHITECTURES = "80-real;90a-real;90-virtual"


def measure(hashes: Sequence[str], forms: Sequence[str], rounds: int, jobs: int, temporary: Path | None) -> list[Row]:
    """A row for each form and commit: medians, and quartiles of the seconds."""
    taken: dict[tuple[str, str], list[Taken]] = {(f, c): [] for f in forms for c in hashes}
    for _ in range(rounds):
        for form, commit in taken:
            settings = {"ALEXNET_CUDA": FORMS[form], "CMAKE_CUDA_ARCHITECTURES": ARCHITECTURES, "MAX_JOBS": str(jobs)}
            environment = {**os.environ, **settings, "CCACHE_DISABLE": "1"}
            with tempfile.TemporaryDirectory(dir=temporary) as folder:
                taken[form, commit].append(commits.build(commit, Path(folder), environment))
            last = taken[form, commit][-1]
            work = f"{last.processors:.1f} s of all processors, and {last.others:.1f} s for others"
            print(f"{form}, {commit}: {last.wall:.1f} s, {work}", flush=True)
    rows = []
    for (form, commit), samples in taken.items():
        seconds = timing.summary([sample.wall for sample in samples])
        row = {"build": form, "commit": commit} | {key.replace("ms", "s"): value for key, value in seconds.items()}
        row["processor_s"] = statistics.median(sample.processors for sample in samples)
        rows.append(row | {"others_s": statistics.median(sample.others for sample in samples)})
    of_processors = [row["ratio"] for row in commits.with_ratios(rows, "build", "processor_s")]
    found = zip(commits.with_ratios(rows, "build", "s"), of_processors, strict=True)
    return [row | {"processor_ratio": ratio} for row, ratio in found]


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
    parser = commits.Parser(__doc__, "builds", rounds=3)
    parser.add_argument("--cpu", action="store_true", help="only the build for the CPU")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="default: one a core")
    arguments = parser.parse_args(options)
    if arguments.rounds < 1 or arguments.jobs < 1:
        parser.error("--rounds, --jobs: expected a positive number")
    forms = ["CPU"] if arguments.cpu else list(FORMS)
    where: Row = {}

    def measured(hashes: list[str]) -> list[Row]:
        where.update(timing.environment(jobs=arguments.jobs, tools=compilers(with_cuda=not arguments.cpu)))
        return measure(hashes, forms, arguments.rounds, arguments.jobs, arguments.temporary)

    if (rows := commits.measured("build_bench", arguments, measured)) is None:
        return 1
    print(table(rows))
    record = {"benchmark": "build_bench", "environment": where, "architectures": ARCHITECTURES, "rows": rows}
    heading = "In place, from nothing" + ("" if arguments.cpu else f"; CUDA for {ARCHITECTURES.replace(';', ', ')}")
    timing.write(arguments.out, "build", "How long a build takes", record, {heading: table(rows)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
