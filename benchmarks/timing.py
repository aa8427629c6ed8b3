"""Timing and comparison: alternating rounds, medians with their spread, the machine's record, JSON and Markdown.

Every benchmark takes its figures, their record and their tables from here, so that no number is typed by hand.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
UNMEASURED = "-"

Row = dict[str, Any]


# ---- clocks


class HostClock:
    """Times calls that return when their work is done."""

    def __init__(self, pause: float = 0.0) -> None:
        """`pause`: seconds before each call, in which the spinning worker threads of another library fall asleep."""
        self.pause = pause

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def alternate(
        self, candidates: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1
    ) -> dict[str, list[float]]:
        """Milliseconds of each candidate in `rounds` alternating rounds (A B A B ...)."""
        for run in candidates.values():
            for _ in range(warmup):
                run()
        times: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(rounds):
            for name, run in candidates.items():
                time.sleep(self.pause)
                start = time.perf_counter()
                run()
                times[name].append(1e3 * (time.perf_counter() - start))
        return times


class EventClock:
    """Times work on the current stream of a GPU between two events; the host waits once, after the last round."""

    def __init__(
        self,
        event: Callable[[], Any],
        elapsed_ms: Callable[[Any, Any], float],
        synchronize: Callable[[], object],
    ) -> None:
        self.event, self.elapsed_ms, self.synchronize = event, elapsed_ms, synchronize

    def alternate(
        self, candidates: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 3
    ) -> dict[str, list[float]]:
        """Like HostClock's."""
        for run in candidates.values():
            for _ in range(warmup):
                run()
        self.synchronize()
        pairs: dict[str, list[tuple[Any, Any]]] = {name: [] for name in candidates}
        for _ in range(rounds):
            for name, run in candidates.items():
                start, end = self.event(), self.event()
                start.record()
                run()
                end.record()
                pairs[name].append((start, end))
        self.synchronize()
        return {name: [self.elapsed_ms(start, end) for start, end in taken] for name, taken in pairs.items()}


Clock = HostClock | EventClock


def summary(milliseconds: Sequence[float]) -> Row:
    """Median, quartiles and count of the samples."""
    if len(milliseconds) == 1:
        q1 = median = q3 = milliseconds[0]
    else:
        q1, median, q3 = statistics.quantiles(milliseconds, n=4, method="inclusive")
    return {"ms": median, "q1_ms": q1, "q3_ms": q3, "samples": len(milliseconds)}


# ---- comparison


def relative_error(out: Any, reference: Any) -> float:
    """||out - reference|| / ||reference|| in float64, of arrays of one library; an ArithmeticError where a value is not
    finite."""
    if out.shape != reference.shape:
        raise ArithmeticError(f"expected an output of shape {reference.shape}, got {out.shape}")
    difference = out.astype(np.float64) - reference
    error = math.sqrt(float((difference * difference).sum()) / float((reference * reference).sum()))
    if not math.isfinite(error):
        raise ArithmeticError("the output holds values that are not finite or were never written")
    return error


# ---- where it was measured


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, cwd=Path(__file__).parent, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _commit() -> str:
    """ALEXNET_COMMIT, for copies of the project without a .git, or git's answer."""
    if named := os.environ.get("ALEXNET_COMMIT"):
        return named
    commit = _output("git", "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "unknown"
    changes = _output("git", "status", "--porcelain", "--untracked-files=no", "--", ":(top,exclude)benchmarks/results")
    return f"{commit} with uncommitted changes" if changes else commit


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def gpu_state() -> dict[str, str] | None:
    """Name, driver, clocks, power and temperature of the GPUs, as nvidia-smi tells them now; None without one."""
    names = "name driver_version compute_cap clocks.sm clocks.max.sm clocks.mem power.draw power.limit temperature.gpu"
    fields = names.split()
    answer = _output("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0")
    return dict(zip(fields, (v.strip() for v in answer.split(",")), strict=True)) if answer else None


def environment(**more: object) -> Row:
    """The machine, its load, the versions and the commit that a result belongs to."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    record: Row = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_GiB": round(memory, 1),
        "load_average_at_start": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions_of(
            (
                *("alexnet-cuda", "numpy", "scipy-openblas64", "torch", "triton", "cupy-cuda13x", "cupy-cuda12x"),
                *("tensorflow-cpu", "tensorflow", "onnxruntime", "openvino"),
            )
        ),
    }
    gpu = gpu_state()
    if gpu:
        record["gpu"] = gpu
    return record | more


# ---- results


def table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], formats: Mapping[str, str] | None = None
) -> str:
    """A Markdown table; `columns` maps a row's key to the column's heading, a missing value shows as unmeasured."""
    formats = formats or {}

    def cell(row: Mapping[str, Any], key: str) -> str:
        value = row.get(key)
        if value is None:
            return UNMEASURED
        if isinstance(value, float):
            return format(value, formats.get(key, ".3g"))
        return str(value)

    right = {key for key in columns if all(isinstance(row.get(key), (int, float, type(None))) for row in rows)}
    lines = ["| " + " | ".join(columns.values()) + " |"]
    lines.append("|" + "|".join("---:" if key in right else "---" for key in columns) + "|")
    lines += ["| " + " | ".join(cell(row, key) for key in columns) + " |" for row in rows]
    return "\n".join(lines)


def _plain(value: object) -> object:
    """Lists, dicts, strings and finite numbers of six digits."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}")
    if isinstance(value, np.integer):
        return int(value)
    return value


def environment_lines(record: Mapping[str, Any]) -> str:
    """The environment record as a Markdown list."""
    lines = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {item}" for name, item in value.items())
        lines.append(f"- {key.replace('_', ' ')}: {value}")
    return "\n".join(lines)


def write(
    folder: Path, stem: str, title: str, record: Mapping[str, Any], sections: Mapping[str, str], last: bool = True
) -> None:
    """`stem`.json with the whole record and `stem`.md with the environment and the sections (heading -> Markdown); says
    so where it is the last time."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(record), indent=1, allow_nan=False)
    (folder / f"{stem}.json").write_text(without_folders(text) + "\n")
    parts = [f"# {title}", "Generated; the figures belong to this run alone.", environment_lines(record["environment"])]
    parts += [f"## {heading}\n\n{body}" for heading, body in sections.items() if body]
    (folder / f"{stem}.md").write_text(without_folders("\n\n".join(parts)) + "\n")
    if last:
        print(f"wrote {folder / stem}.json and .md")


def without_folders(text: str) -> str:
    """The text with absolute paths cut to their last part: where things lie on a machine is nobody's business."""
    return re.sub(r"(?<![\w.)/])/(?:[^\s/:,\"]+/)*([^\s/:,\"]+)", r"\1", text)


def gpu_slug() -> str:
    """The GPU's name as a part of a file name."""
    gpu = gpu_state()
    return "cuda" if gpu is None else gpu["name"].lower().replace(" ", "-")
