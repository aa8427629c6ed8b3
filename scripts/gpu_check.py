"""Everything that needs a GPU, in one command, in the order of what it proves.

    scripts/gpu_check.sh OUT                 golden to step, within 7 minutes: made for 16 cores
    scripts/gpu_check.sh OUT short           golden to train, within 3 minutes
    scripts/gpu_check.sh OUT all             golden to hopper, sanitizer and bench
    scripts/gpu_check.sh OUT PART...         these parts
    scripts/gpu_check.sh prepare FOLDER      on any machine with nvcc: what golden needs, for --prepared FOLDER

parts:
    golden     what each instruction of a GPU gives that kernels use, beside the CPU executor
    build      the modules for this GPU, in the background from the beginning
    kernels    every kernel beside the CPU's and float64
    train      a few steps: eager, as a graph, and AlexNet's in bf16
    tests      the tests of a GPU, but those of
    graph      graphs and towers, and those of
    hopper     TMA and wgmma
    layers     AlexNet's layers beside PyTorch's, for 45 seconds
    step       a training step of AlexNet beside PyTorch's
    sanitizer  some tests under compute-sanitizer's memcheck
    bench      every benchmark at length

Needs no network: python3 (or $PYTHON) with CuPy, PyTorch and what pyproject.toml lists, nvcc, and a GPU. Each step runs
in processes of its own, which end at its limit: a fault or a hang is not felt in the next. CMAKE_CUDA_ARCHITECTURES
defaults to the GPU's own, ALEXNET_COMMIT names the commit in the results where there is no .git.

OUT gets two files, written anew after every step, so that they hold what was done whenever the machine goes:

    summary.txt    a line a step: ok; FAILED and why, with a line for each of its processes that did; not run and why;
                   running, where the end came. The last line is the result; the exit status is 0 if it is ok.
    check.tar.gz   logs/ holds what each step said. What failed is a mistake of a kernel, or of its bound: run the test
                   again by its name.
                   golden/ holds what this GPU gives. `tar -C tests/native -xzf OUT/check.tar.gz golden`, and
                   tests/test_executor.py holds the CPU executor against it from then on: commit it. A case that is not
                   as expected comes first: a wrapper is wrong, or the executor that all other tests trust.
                   results/ holds what was measured. `tar -C benchmarks -xzf OUT/check.tar.gz results`, and commit it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import io
import math
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = os.environ.get("PYTHON", sys.executable)
CORES = len(os.sched_getaffinity(0))

SHORT = ("golden", "build", "kernels", "train")
TESTED = (*SHORT, "tests", "graph", "hopper")
SETS = {"": (*TESTED, "layers", "step"), "short": SHORT, "all": (*TESTED, "sanitizer", "bench")}
SECONDS = {"": 420.0, "short": 180.0}
PARTS = tuple(dict.fromkeys(part for parts in SETS.values() for part in parts))

GRACE = 5.0  # seconds between asking a process to end and making it
LONGEST_LOG = 1 << 18
TESTS_NAMED = 10

GPU_TESTS = "gpu and not slow and not oracle"
OF_GRAPHS = ("tests/test_graph.py", "tests/test_towers.py")
OF_HOPPER = ("tests/test_hopper_conv2d.py",)
SANITIZED = ("gemm", "tensor_gemm", "implicit_conv2d", "hopper_conv2d", "lrn_max_pool2d", "softmax_cross_entropy")


@dataclass(frozen=True)
class Job:
    """One process, and the seconds after which it is ended. With a journal (tests/watched.py) it is pytest's, and what
    is left of its tests when it ends runs in another."""

    name: str
    command: Sequence[str]
    limit: float
    environment: dict[str, str] = field(default_factory=dict)
    journal: Path | None = None


@dataclass(frozen=True)
class Step:
    """Jobs under one line of the summary, and the seconds for all of them. Begins only where ``least`` are left."""

    name: str
    jobs: Sequence[Job]
    limit: float
    at_once: int = 1
    least: float = 5.0


def words(line: str, *more: str | Path) -> list[str]:
    return [*line.split(), *map(str, more)]


def alone(name: str, limit: float, command: Sequence[str], least: float = 5.0, **environment: str) -> Step:
    """A step of one process."""
    return Step(name, [Job(name, command, limit, environment)], limit, least=least)


# ---- what golden needs

WRAPPERS = "tests/native/wrappers.cu"
EVERY_ARCHITECTURE = ("arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a", "arch=compute_90,code=compute_90")


def compilers(folder: Path, architectures: Sequence[str]) -> Step:
    """The program `wrappers` by nvcc, `executor` by the host's compiler."""
    codes = [f"-gencode={architecture}" for architecture in architectures]
    nvcc = words("nvcc -std=c++20 -O3 -I kernels", *codes, WRAPPERS, "-o", folder / "wrappers")
    host = words("-std=c++20 -O2 -pthread -I kernels -x c++", WRAPPERS, "-o", folder / "executor")
    host = [os.environ.get("CXX", "g++"), *host]
    return Step("golden-programs", [Job("golden-nvcc", nvcc, 120), Job("golden-host", host, 120)], 120, at_once=2)


def prepare(check: Check, folder: Path, architectures: Sequence[str]) -> bool:
    """Makes programs and expected outputs in the folder."""
    (folder / "expected").mkdir(parents=True, exist_ok=True)
    expected = alone("golden-expected", 60, words("", folder / "executor", folder / "expected"))
    made = check.run(compilers(folder, architectures)) and check.run(expected)
    if made:
        (folder / "source").write_text(source())
    return made


def source() -> str:
    """A digest of what `wrappers` is compiled from."""
    files = [ROOT / WRAPPERS, *sorted((ROOT / "kernels" / "platform").iterdir())]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def golden(check: Check, architecture: str, prepared: Path | None) -> None:
    """Each case in a process of its own, compared at once."""
    folder = prepared or check.work / "programs"
    if prepared:
        right = (prepared / "source").is_file() and (prepared / "source").read_text() == source()
        if not right or not answer(str(prepared / "wrappers")):
            check.say("golden-prepared", f"not used: {'does not run here' if right else 'of another source'}")
            folder = check.work / "programs"
    if folder != prepared and not prepare(check, folder, [f"arch=compute_{architecture},code=sm_{architecture}"]):
        check.leave_out("golden", "its programs could not be made")
        return
    run = words("", folder / "wrappers", check.work / "golden", folder / "expected")
    cases = answer(str(folder / "wrappers")).split()
    check.run(Step("golden", [Job(f"golden-{case}", [*run, case], 15) for case in cases], 100))


# ---- what needs the build


def python(line: str, *more: str | Path) -> list[str]:
    return [PYTHON, *words(line, *more)]


def training(name: str, work: Path, options: str) -> Step:
    command = python(f"-m alexnet_cuda.train --device cuda --epochs 1 {options} --out", work / "runs" / name)
    return alone(f"train-{name}", 30, command, least=10)


def tested(name: str, work: Path, limit: float, processes: int, files: Sequence[str]) -> Step:
    """pytest in several processes, each with its share of the tests, none of which may take longer than 40 s."""
    threads = str(max(1, CORES // processes))
    environment = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ALEXNET_THREADS"), threads)
    environment |= {"HYPOTHESIS_PROFILE": "ci", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    jobs = []
    for i in range(1, processes + 1):
        journal = work / "journals" / f"{name}-{i}"
        command = python("-m pytest -v -p no:cacheprovider -p tests.watched --limit 40 -m", GPU_TESTS)
        command += words(f"--share {i}/{processes} --journal", journal, *files)
        jobs.append(Job(f"{name}-{i}", command, limit, environment, journal))
    return Step(name, jobs, limit, at_once=processes, least=15)


def sanitized(work: Path) -> Step:
    """Every tenth test of the kernels that compute most addresses, each file under a memcheck of its own."""
    memcheck = words("compute-sanitizer --tool memcheck --error-exitcode 9 --report-api-errors no")
    jobs = []
    for name in SANITIZED:
        files = [f"tests/test_{name}.py", "--share", "1/10", "--limit", "60"]
        (job,) = tested(f"sanitizer-{name}", work, 90, 1, files).jobs
        few = {**job.environment, "HYPOTHESIS_PROFILE": "few"}
        jobs.append(replace(job, command=[*memcheck, *job.command], environment=few))
    return Step("sanitizer", jobs, 300, at_once=2)


def steps_of(part: str, work: Path, left: float) -> list[Step]:
    """What a part does in the seconds that are left."""
    results = ["--out", str(work / "results")]
    budget = f"--budget {max(5.0, min(45.0, left - 35)):.0f}"
    match part:
        case "kernels":
            return [alone("kernels", 90, python("-m alexnet_cuda.checks --kernels --device cuda"), least=20)]
        case "train":
            return [
                training("eager", work, "--model alexnet-mini --data synthetic:10 --no-graph"),
                training("graph", work, "--model alexnet-mini --data synthetic:10 --graph"),
                training("alexnet", work, "--model alexnet --data synthetic --batch 128 --precision bf16"),
            ]
        case "tests":
            others = [f"--ignore={file}" for file in (*OF_GRAPHS, *OF_HOPPER)]
            return [tested("tests", work, 120, max(1, CORES // 2), others)]
        case "graph":
            return [tested("graph", work, 60, 2, OF_GRAPHS)]
        case "hopper":
            return [tested("hopper", work, 60, 4, OF_HOPPER)]
        case "layers":
            script = "benchmarks/layer_bench.py --device cuda --batch 128 --precision bf16 tf32 --towers 2"
            return [alone("layers", 85, python(f"{script} {budget}", *results), least=40)]
        case "step":
            script = (
                "benchmarks/step_bench.py --device cuda --model alexnet --batch 128 --precision bf16 --pass training"
            )
            return [alone("step", 80, python(f"{script} --seconds 2 {budget}", *results), least=40)]
        case "sanitizer":
            return [sanitized(work)]
        case "bench":
            return [
                alone(f"bench-{name}", 1500, python(f"benchmarks/{script}", *results))
                for name, script in (
                    ("layers", "layer_bench.py --device cuda --budget 600"),
                    ("step", "step_bench.py --device cuda --budget 1200"),
                    ("inference", "inference_bench.py --device cuda --seconds 1"),
                    ("precision", "precision.py --device cuda"),
                    ("baseline", "baseline_gpu.py"),
                )
            ] + [alone("bench-ladder", 120, python("examples/ladder/run.py"))]
    raise ValueError(f"{part} has no steps")


# ---- running steps, and telling of them


class Check:
    """Runs steps, and keeps the folder ``out`` true to what has happened. ``work``: an empty folder."""

    def __init__(self, out: Path, work: Path, seconds: float = math.inf, patience: float = 1.0) -> None:
        self.out, self.work, self.patience = out, work, patience
        self.deadline, self.over = time.monotonic() + seconds, "the time is over"
        self.lines: dict[str, str] = {}
        self.failed: list[str] = []
        self.not_run: list[str] = []
        self.lock = threading.RLock()
        for name in ("logs", "golden", "results", "journals", "runs"):
            (work / name).mkdir()
        self.pack()

    def stop(self, why: str) -> None:
        """Ends what runs, and begins nothing more."""
        self.deadline, self.over = -math.inf, why

    def late(self, end: float) -> bool:
        return time.monotonic() >= min(end, self.deadline)

    def run(self, step: Step) -> bool:
        """Whether each of its jobs ended well."""
        begin = time.monotonic()
        if self.deadline - begin < step.least:
            left = f"{self.deadline - begin:.0f} s are left"
            self.leave_out(step.name, left if begin < self.deadline else self.over)
            return False
        self.say(step.name, "running", loud=False)
        end = begin + step.limit * self.patience
        problems: dict[str, str] = {}

        def one(job: Job) -> None:
            if self.late(end):
                return
            problem = self.job(job, end)
            with self.lock:
                problems[job.name] = problem
                if len(step.jobs) > 1:
                    self.say(step.name, f"running, {len(problems)} of {len(step.jobs)} done", loud=False)
                    if problem:
                        self.say(job.name, f"FAILED: {problem}")
                self.pack()

        with ThreadPoolExecutor(step.at_once) as pool:
            list(pool.map(one, step.jobs))
        wrong, left_out = [*filter(None, problems.values())], len(step.jobs) - len(problems)
        text = f"{len(problems) - len(wrong)} of {len(step.jobs)}"
        if len(step.jobs) == 1:
            text = "".join(wrong) or self.last_line(step.jobs[0])
        if any(job.journal for job in step.jobs):
            found = Counter(became for job in step.jobs for became in outcomes(job.journal).values())
            text = ", ".join(f"{count} {became}" for became, count in sorted(found.items())) or "no test has begun"
            if not found["passed"]:
                wrong.append("nothing is proved")
        if left_out:
            text += f"; no time was left for {left_out} of {len(step.jobs)}"
        fine = not wrong and not left_out
        if not fine:
            self.failed.append(step.name)
        self.say(step.name, f"{'ok' if fine else 'FAILED'}, {time.monotonic() - begin:.0f} s: {text}")
        return fine

    def job(self, job: Job, end: float) -> str:
        """Runs it: "" if all is well, else what is not."""
        end = min(end, time.monotonic() + job.limit * self.patience)
        problem = first = self.process(job, end)
        said = self.last_line(job)
        if not job.journal:
            return f"{first}: {said}" if first else ""
        none_left, before = "exit status 5", None
        while problem not in ("", none_left) and before != outcomes(job.journal) and not self.late(end):
            before, problem = outcomes(job.journal), self.process(job, end)
        if first in ("", none_left):
            return ""
        wrong = [f"{test} {became}" for test, became in outcomes(job.journal).items() if became in (FAILED, ENDED)]
        return f"{first}: {'; '.join([said, *wrong[:TESTS_NAMED]])}"

    def process(self, job: Job, end: float) -> str:
        """Runs its command into its log: "" if it exits with 0, else what became of it."""
        begin = time.monotonic()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **job.environment}
        environment["PYTHONPATH"] = os.pathsep.join(("src", *filter(None, [os.environ.get("PYTHONPATH")])))
        try:
            with self.log(job).open("ab") as log:
                child = subprocess.Popen(
                    job.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=ROOT,
                    env=environment,
                    process_group=0,
                )
        except OSError as error:
            return f"cannot be started: {error}"
        while child.poll() is None and not self.late(end):
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.1)
        status = child.poll()
        for last in (signal.SIGTERM, signal.SIGKILL):  # also to what it has started
            with suppress(ProcessLookupError):
                os.killpg(child.pid, last)
            with suppress(subprocess.TimeoutExpired):
                child.wait(GRACE * self.patience)
        if status is None:
            lives = ", but lives on" if child.poll() is None else ""
            return f"ended after {time.monotonic() - begin:.0f} s{lives}"
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}" if status else ""

    def log(self, job: Job) -> Path:
        return self.work / "logs" / f"{job.name}.log"

    def last_line(self, job: Job) -> str:
        """Of its log, but for empty ones."""
        log = self.log(job)
        text = log.read_bytes()[-LONGEST_LOG:].decode(errors="replace") if log.exists() else ""
        return next((line.strip()[:160] for line in reversed(text.splitlines()) if line.strip()), "it said nothing")

    def leave_out(self, name: str, why: str) -> None:
        self.not_run.append(name)
        self.say(name, f"not run: {why}")

    def say(self, name: str, text: str, loud: bool = True) -> None:
        """Makes this the line of that name in the summary."""
        with self.lock:
            self.lines[name] = text
            if loud:
                print(f"{name}: {text}", flush=True)
            self.write("summary.txt", "".join(f"{n}: {t}\n" for n, t in self.lines.items()).encode())

    def pack(self) -> None:
        """Makes the archive what there is; of long logs the end."""
        with self.lock:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
                for folder in ("logs", "golden", "results"):
                    for file in filter(Path.is_file, sorted((self.work / folder).rglob("*"))):
                        data = file.read_bytes()[-LONGEST_LOG if folder == "logs" else None :]
                        entry = tarfile.TarInfo(str(file.relative_to(self.work)))
                        entry.size, entry.mtime = len(data), int(time.time())
                        archive.addfile(entry, io.BytesIO(data))
            self.write("check.tar.gz", buffer.getvalue())

    def write(self, name: str, data: bytes) -> None:
        """At once: whoever looks, or ends this process, finds the old file or the new one."""
        new = self.out / "unfinished"
        new.write_bytes(data)
        new.replace(self.out / name)

    def finish(self) -> int:
        """The last line; the exit status."""
        parts = [f"FAILED: {', '.join(self.failed)}"] if self.failed else []
        parts += [f"not run: {', '.join(self.not_run)}"] if self.not_run else []
        self.say("result", "; ".join(parts) or "ok")
        self.pack()
        return int(bool(parts))


# ---- journals

FAILED, ENDED = "failed", "ended its process"


def outcomes(journal: Path | None) -> dict[str, str]:
    """What became of each test that has begun: passed, skipped, FAILED or ENDED."""
    lines = journal.read_text().splitlines() if journal and journal.exists() else []
    pairs = (line.partition(" ")[::2] for line in lines)
    return {test: ENDED if word == "started" else word for word, test in pairs}


# ---- the machine


def answer(*command: str) -> str:
    """What a program prints; nothing where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def version(*packages: str) -> str:
    """Of the first of them that is installed."""
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return ""


def numbers(text: str) -> list[int]:
    return list(map(int, re.findall(r"\d+", text)))


def requirements() -> tuple[dict[str, str], set[str]]:
    """The least version of each thing that is needed here, and those without which nothing can be built or run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    build, product = project["build-system"]["requires"], project["project"]["dependencies"]
    tests = [r for r in extras["test"] if re.match(r"pytest>|hypothesis", r)]
    pairs = [r.partition(">=")[::2] for r in (*build, *product, *tests) if ";" not in r]  # not the BLAS for CPUs
    (cupy,) = extras["cuda13x"]
    least = dict(pairs) | {"cupy": cupy.partition(">=")[2], "torch": "", "nvcc": "12.8", "gpu": "8.0"}
    return least, {"gpu", "nvcc", "cupy", "numpy", "ml_dtypes", *(r.partition(">=")[0] for r in build)}


def describe(check: Check) -> str:
    """Says what is here and what is missing: the GPU's architecture, or nothing where no part can run."""
    check.say("date", datetime.now(UTC).isoformat(timespec="seconds"))
    commit = os.environ.get("ALEXNET_COMMIT") or answer("git", "describe", "--always", "--dirty", "--exclude", "*")
    check.say("commit", commit or "unknown")
    query = ["nvidia-smi", "--query-gpu=compute_cap,driver_version,name", "--format=csv,noheader", "--id=0"]
    capability, _, name = answer(*query).partition(", ")
    check.say("gpu", f"compute capability {capability}, driver {name}" if name else "none that nvidia-smi finds")
    least, vital = requirements()
    found = {package: version(package) for package in least} | {"gpu": capability}
    found |= {"cupy": version("cupy-cuda13x", "cupy-cuda12x", "cupy")}
    found |= {"nvcc": "".join(re.findall(r"release ([\d.]+)", answer("nvcc", "--version")))}
    check.say("versions", ", ".join(f"{name} {here}" for name, here in found.items() if here and name != "gpu"))
    missing = {name for name, here in found.items() if numbers(here) < numbers(least[name] or "0")}
    for name in sorted(missing):
        check.failed.append(f"missing {name}")
        expected = f"{least[name]} or newer" if least[name] else "any version"
        check.say(f"missing {name}", f"expected {expected}, found {found[name] or 'none'}")
    return "" if missing & vital else {"9.0": "90a"}.get(capability, capability.replace(".", ""))


# ---- the command


def run_parts(check: Check, parts: Sequence[str], architecture: str, prepared: Path | None) -> None:
    architectures = os.environ.get("CMAKE_CUDA_ARCHITECTURES", f"{architecture}-real")
    command = python("setup.py build_ext --inplace")
    build = alone("build", 240, command, ALEXNET_CUDA="1", CMAKE_CUDA_ARCHITECTURES=architectures)
    with ThreadPoolExecutor(1) as background:
        built = background.submit(check.run, build) if "build" in parts else None
        if "golden" in parts:
            golden(check, architecture, prepared)
    if parts == ["golden"]:
        return
    usable = "from alexnet_cuda import backend; raise SystemExit(backend.gpu_problem())"
    if built and not built.result():
        problem = "the build failed"
    else:
        problem = "" if check.run(alone("usable", 30, python("-c", usable))) else "the GPU cannot be used"
    for part in parts:
        if part in ("golden", "build"):
            continue
        if problem:
            check.leave_out(part, problem)
        elif part == "sanitizer" and not answer("compute-sanitizer", PYTHON, "-c", "import cupy; print(cupy.ones(9))"):
            check.say(part, "not run: compute-sanitizer is not here, or does not work here")
        else:
            for step in steps_of(part, check.work, check.deadline - time.monotonic()):
                check.run(step)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 if all that was asked for was run and is right, 1 if not, 2 for wrong usage."""
    usage = "scripts/gpu_check.sh OUT [PART...] | prepare FOLDER [--prepared FOLDER] [--seconds N] [--patience X]"
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("gpu_check", usage, __doc__, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder, made if need be")
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: golden to step")
    parser.add_argument("--prepared", type=Path, metavar="FOLDER", help="what prepare has made")
    parser.add_argument("--seconds", type=float, metavar="N", help="of the whole (default: 420, short 180, else none)")
    parser.add_argument("--patience", type=float, default=1.0, metavar="X", help="every limit of a step times X")
    options = parser.parse_intermixed_args(arguments)
    chosen = " ".join(options.parts)
    preparing = str(options.out) == "prepare"
    if preparing and len(options.parts) != 1:
        parser.error(f"prepare: expected one folder, got {len(options.parts)}")
    if not preparing and chosen not in SETS and (unknown := set(options.parts) - set(PARTS)):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: expected short, all or some of {', '.join(PARTS)}")
    parts = SETS.get(chosen) or [part for part in PARTS if part in options.parts]
    out = Path(chosen) if preparing else options.out
    try:
        out = out.resolve()
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{out}: expected a folder: {error.strerror}")
    seconds = math.inf if preparing else options.seconds or SECONDS.get(chosen, math.inf)
    prepared = options.prepared and options.prepared.resolve()
    os.environ["PATH"] += ":/usr/local/cuda/bin"
    with tempfile.TemporaryDirectory(prefix="gpu_check-") as work:
        check = Check(out, Path(work), seconds, options.patience)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: check.stop(f"ended by {signal.Signals(number).name}"))
        if preparing:
            prepare(check, out, EVERY_ARCHITECTURE)
        elif architecture := describe(check):
            run_parts(check, list(parts), architecture, prepared)
        return check.finish()


if __name__ == "__main__":
    sys.exit(main())
