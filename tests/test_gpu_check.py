"""scripts/gpu_check.sh on a pretended machine: its order, its limits, what is left when it ends; its real commands."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from pretended_gpu import CASES, PACKAGES, ROOT, Machine

from alexnet_cuda import backend

pytest_plugins = ["pretended_gpu"]

SHORT = [
    "golden-programs",
    "golden-expected",
    "golden",
    "usable",
    "kernels",
    "train-eager",
    "train-graph",
    "train-alexnet",
]
STEPS = [*SHORT, "tests", "graph", "hopper", "layers", "step"]
COMMANDS = {  # patterns of what a step runs in Python
    "build": "*build_ext*",
    "usable": "*gpu_problem*",
    "kernels": "*alexnet_cuda.checks*--kernels*",
    "train-eager": "*alexnet_cuda.train*/eager",
    "train-graph": "*alexnet_cuda.train*/graph",
    "train-alexnet": "*alexnet_cuda.train*/alexnet",
    "tests": "*pytest*/tests-*",
    "graph": "*pytest*/graph-*",
    "hopper": "*pytest*/hopper-*",
    "layers": "*layer_bench.py*",
    "step": "*step_bench.py*",
}


@pytest.fixture(scope="module")
def check() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "scripts" / "gpu_check.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # as dataclasses want it
    spec.loader.exec_module(module)
    return module


def alive(pid: int) -> bool:
    """Whether the process runs: one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_pass_goes_by_what_is_proved(machine: Machine) -> None:
    printed = machine.check(status=0)
    assert machine.summary()["result"] == "ok" and printed.endswith("result: ok\n")
    states = machine.states()
    assert set(states.values()) == {"ok"}
    assert machine.summary()["hopper"] == "ok: 4 passed"
    assert [name for name in states if name != "build"] == STEPS
    assert sorted(file.name for file in machine.out.iterdir()) == ["check.tar.gz", "summary.txt"]
    archived = machine.archived()
    assert {name for name in archived if not name.startswith("logs/")} == {
        *(f"golden/{case}.txt" for case in CASES),
        "results/layer_bench.json",
        "results/step_bench.json",
    }
    assert {"logs/build.log", "logs/golden-second.log", "logs/kernels.log", "logs/hopper-4.log"} <= archived.keys()
    calls = machine.calls.read_text().splitlines()
    build = next(i for i, call in enumerate(calls) if "build_ext" in call)
    assert not any(" -m " in call for call in calls[:build])
    assert "-gencode=arch=compute_90a,code=sm_90a" in next(call for call in calls if call.startswith("nvcc -std"))


def test_a_short_pass(machine: Machine) -> None:
    machine.check("short", status=0)
    assert [name for name in machine.states() if name != "build"] == SHORT
    machine.check("tests", "golden", status=0)
    assert list(machine.states()) == ["golden-programs", "golden-expected", "golden", "usable", "tests"]


def test_a_pass_has_seven_minutes_and_a_short_one_three(check: ModuleType) -> None:
    assert (check.SECONDS[""], check.SECONDS["short"]) == (7 * 60, 3 * 60)


def test_a_hang_and_a_crash_are_not_felt_in_the_next_step(machine: Machine) -> None:
    """One that ignores being asked to end, with a child; one that is killed; golden cases of both kinds."""
    pids = machine.folder / "pids"
    hang = f"trap '' TERM; sleep 600 & echo $! $$ > {pids}; echo before the hang; wait; sleep 600"
    machine.wrappers.write_text(
        f"#!/bin/sh\n[ $# -gt 0 ] || exec echo {' '.join(CASES)}\n"
        'case "$3" in first) sleep 600;; second) kill -SEGV $$;; esac; echo 1 > "$1/third.txt"; echo as expected\n'
    )
    machine.check(
        "--patience", "0.02", status=1, does={COMMANDS["kernels"]: hang, COMMANDS["train-graph"]: "kill -9 $$"}
    )
    summary, states = machine.summary(), machine.states()
    wrong = {"golden", "golden-first", "golden-second", "kernels", "train-graph"}
    assert {name for name, state in states.items() if state != "ok"} == wrong
    assert re.fullmatch(r"FAILED: ended after 2 s: before the hang", summary["kernels"])
    assert re.fullmatch(r"FAILED: ended by SIGKILL: it said nothing", summary["train-graph"])
    assert summary["golden"].startswith("FAILED: ") and summary["golden"].endswith("1 of 3")
    assert summary["golden-second"] == "FAILED: ended by SIGSEGV: it said nothing"
    assert summary["result"] == "FAILED: golden, kernels, train-graph"
    assert machine.archived()["logs/kernels.log"] == "before the hang\n"
    assert not any(alive(int(pid)) for pid in pids.read_text().split())


def test_every_step_has_a_limit(check: ModuleType, tmp_path: Path) -> None:
    steps = [
        step for part in check.PARTS if part not in ("golden", "build") for step in check.steps_of(part, tmp_path, 99)
    ]
    jobs = [job for step in steps for job in step.jobs]
    assert len(jobs) > 20
    assert all(0 < job.limit <= 1500 for job in jobs)
    in_a_pass = [step for part in check.SETS[""][2:] for step in check.steps_of(part, tmp_path, 99)]
    assert all(step.limit <= 120 for step in in_a_pass)


@pytest.mark.parametrize("step", ["golden", *COMMANDS])
def test_what_was_done_is_there_when_the_machine_goes(machine: Machine, step: str) -> None:
    killing = "kill -9 $PPID"
    if step == "golden":
        machine.wrappers.write_text(f'{machine.wrappers.read_text()}[ "$3" != second ] || {killing}\n')
    child = machine.start(str(machine.out), does={COMMANDS.get(step, "-"): killing})
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    states = machine.states()
    assert states[step] == "running"
    assert "result" not in machine.summary()
    before = STEPS[: STEPS.index(step)] if step != "build" else []
    assert [name for name in states if name in before] == before
    assert all(states[name] == "ok" for name in before)
    logs = {name for name in machine.archived() if name.startswith("logs/")}
    assert {
        f"logs/{name}.log" for name in before if name in ("golden-expected", "kernels", "train-eager", "layers")
    } <= logs


def test_the_whole_ends_at_its_deadline(machine: Machine, check: ModuleType) -> None:
    """What no longer fits is not begun, what runs is ended; and all is said."""
    asked = ("--seconds", "41", "kernels", "layers", "step", "sanitizer")
    machine.check(*asked, status=1, does={COMMANDS["kernels"]: "sleep 2"})
    summary = machine.summary()
    assert re.fullmatch("not run: 3[89] s are left", summary["layers"])
    assert summary["sanitizer"] == "not run: compute-sanitizer is not here, or does not work here"
    assert summary["result"] == "not run: layers, step"
    (machine.folder / "work").mkdir()
    running = check.Check(machine.out, machine.folder / "work", seconds=0.5)
    assert not running.run(check.alone("hangs", 60, ["sleep", "600"], least=0))
    assert not running.run(check.alone("next", 60, ["true"], least=0))
    running.deadline = time.monotonic() + 60
    jobs = [check.Job(f"many-{i}", ["sleep", seconds], 60) for i, seconds in enumerate(("0", "0.5", "0"))]
    assert not running.run(check.Step("many", jobs, 0.3))
    assert running.finish() == 1
    summary = machine.summary()
    assert re.fullmatch(r"FAILED: ended after [01] s: it said nothing", summary["hangs"])
    assert summary["next"] == "not run: the time is over"
    assert summary["many"] == "FAILED: 1 of 3; no time was left for 1 of 3"
    assert summary["result"] == "FAILED: hangs, many; not run: next"


def test_asked_to_end_it_tells_what_was_done(machine: Machine) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        pid = machine.folder / "pid"
        pid.unlink(missing_ok=True)
        child = machine.start(str(machine.out), does={COMMANDS["kernels"]: f"echo $$ > {pid}; exec sleep 600"})
        while not pid.exists() or not pid.read_text():
            time.sleep(0.02)
        child.send_signal(number)
        child.communicate(timeout=30)
        summary = machine.summary()
        assert child.returncode == 1
        assert summary["kernels"].startswith("FAILED: ended after ")
        assert summary["step"] == f"not run: ended by {signal.Signals(number).name}"
        assert summary["result"].startswith("FAILED: kernels; not run: train-eager, train-graph, ")
        assert not alive(int(pid.read_text()))


def test_without_a_build_nothing_is_said_of_the_gpu(machine: Machine) -> None:
    machine.check("short", status=1, does={COMMANDS["build"]: "echo no compiler; exit 4"})
    summary = machine.summary()
    assert summary["build"] == "FAILED: exit status 4: no compiler"
    assert machine.states()["golden"] == "ok"
    assert summary["kernels"] == summary["train"] == "not run: the build failed"
    machine.check("short", status=1, does={COMMANDS["usable"]: "echo the driver is too old; exit 1"})
    assert machine.summary()["usable"] == "FAILED: exit status 1: the driver is too old"
    assert machine.summary()["train"] == "not run: the GPU cannot be used"


def test_what_is_missing_is_said(machine: Machine) -> None:
    machine.program("nvidia-smi", "exit 9")
    machine.check(status=1)
    assert machine.summary()["missing gpu"] == "expected 8.0 or newer, found none"
    assert machine.summary()["result"] == "FAILED: missing gpu"
    assert machine.states() == {}
    machine.program("nvidia-smi", "echo 9.0, 580.0, A GPU")
    (machine.packages / f"pybind11-{PACKAGES['pybind11']}.dist-info").rename(machine.folder / "away")
    machine.install("pybind11", "2.13.6")
    machine.install("setuptools", "68.1.2")
    machine.check(status=1)
    assert machine.summary()["missing pybind11"] == "expected 3 or newer, found 2.13.6"
    assert machine.summary()["missing setuptools"] == "expected 77 or newer, found 68.1.2"
    assert machine.states() == {}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["OUT", "nonsense"], "unknown part nonsense: expected short, all or some of golden, build, "),
        (["prepare"], "prepare: expected one folder, got 0"),
        ([str(Path(__file__))], "test_gpu_check.py: expected a folder: File exists"),
        ([], "the following arguments are required: OUT"),
    ],
)
def test_wrong_usage(machine: Machine, arguments: list[str], text: str) -> None:
    child = machine.start(*arguments)
    printed, _ = child.communicate(timeout=30)
    assert child.returncode == 2
    assert printed.splitlines()[-1].startswith("gpu_check: error: ") and text in printed


def test_what_golden_needs_comes_along(machine: Machine) -> None:
    prepared = machine.folder / "prepared"
    child = machine.start("prepare", str(prepared))
    child.communicate(timeout=30)
    assert child.returncode == 0
    assert re.findall(r",code=(\w+)", machine.calls.read_text()) == ["sm_80", "sm_90a", "compute_90"]
    assert {file.name for file in (prepared / "expected").iterdir()} == {f"{case}.txt" for case in CASES}

    def compiles(folder: Path) -> bool:
        machine.calls.unlink()
        machine.check("golden", "--prepared", str(folder), status=0)
        assert machine.summary()["golden"].endswith(": 3 of 3")
        return "nvcc -std" in machine.calls.read_text()

    assert not compiles(prepared)
    assert "golden-prepared" not in machine.summary()
    assert compiles(machine.folder)
    assert machine.summary()["golden-prepared"] == "not used: of another source"
    (prepared / "wrappers").write_text("made for another machine")
    assert compiles(prepared)
    assert machine.summary()["golden-prepared"] == "not used: does not run here"
    (prepared / "source").write_text("another")
    assert compiles(prepared)
    assert machine.summary()["golden-prepared"] == "not used: of another source"


FAULTY = """
import os, time
import pytest
from alexnet_cuda import backend

lost = False

def synchronize(device):
    if lost:
        raise RuntimeError("an illegal memory access was encountered")

backend.synchronize, backend.gpu_problem, backend.gpus = synchronize, lambda: None, lambda: [backend.Device("cuda")]

@pytest.mark.parametrize("i", range(8))
def test_right(i):
    pass

def test_wrong():
    assert 1 + 1 == 3

def test_loses_the_gpu():
    global lost
    lost = True

def test_hangs():
    time.sleep(600)

def test_dies():
    os.kill(os.getpid(), 9)

@pytest.mark.skip(reason="another machine's")
def test_skipped():
    pass

@pytest.mark.parametrize("name", ["the last", "one"])
def test_after(name):
    assert not lost
"""


def test_each_test_has_its_outcome_whatever_another_does(machine: Machine) -> None:
    """The real pytest with tests/watched.py and tests/conftest.py, in shares."""
    folder = machine.folder / "faulty"
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n  slow\n  oracle\n")
    (folder / "test_faulty.py").write_text(FAULTY + "\npytestmark = pytest.mark.gpu\n")
    real = (
        'line=$(echo "$*" | sed "s/--limit 40/--limit 1/; s/-m gpu and .* oracle//; s/tests.test_[a-z]*.py//g"); '
        f"exec {sys.executable} $line -p tests.conftest -c {folder}/pytest.ini {folder}"
    )
    machine.check("graph", status=1, does={COMMANDS["graph"]: real})
    summary = machine.summary()
    ended = ["test_loses_the_gpu", "test_hangs", "test_dies"]
    assert re.fullmatch(r"FAILED: 3 ended its process, 1 failed, 10 passed, 1 skipped", summary["graph"])
    told = summary["graph-1"] + summary["graph-2"]
    assert all(f"::{test} ended its process" in told for test in ended)
    assert "::test_wrong failed" in told
    logs = "".join(text for name, text in machine.archived().items() if "graph-" in name)
    assert "assert (1 + 1) == 3" in logs
    assert (
        "test_loses_the_gpu: the GPU failed: an illegal memory access was encountered; this process ends here" in logs
    )
    assert "Timeout (0:00:01)!" in logs and "in test_hangs" in logs


def test_tests_that_are_all_skipped_are_no_tests(machine: Machine) -> None:
    journal = 'while [ "$1" != --journal ]; do shift; done; echo skipped a test > "$2"'
    machine.check("graph", "hopper", status=1, does={COMMANDS["graph"]: journal, COMMANDS["hopper"]: "true"})
    assert machine.summary()["graph"] == "FAILED: 2 skipped"
    assert machine.summary()["hopper"] == "FAILED: no test has begun"
    assert machine.summary()["result"] == "FAILED: graph, hopper"


def without_gpu(command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": "src"} | more
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False, timeout=100)


@pytest.mark.skipif(backend.gpu_problem() is None, reason="there is a GPU, which would be measured for an hour")
@pytest.mark.parametrize("part", ["train", "layers", "step", "bench"])
def test_the_real_commands_lack_nothing_but_a_gpu(check: ModuleType, tmp_path: Path, part: str) -> None:
    for step in check.steps_of(part, tmp_path, 999):
        (job,) = step.jobs
        if step.name in ("bench-ladder", "bench-baseline"):  # take no options
            assert (ROOT / job.command[1]).exists()
            continue
        done = without_gpu([sys.executable, *job.command[1:]])
        assert done.returncode in (1, 2), shlex.join(job.command)
        assert str(backend.gpu_problem()) in done.stderr.splitlines()[-1], done.stderr


def test_the_real_tests_are_found(check: ModuleType, tmp_path: Path) -> None:
    assert all((ROOT / file).exists() for file in (*check.OF_GRAPHS, *check.OF_HOPPER))
    assert all((ROOT / "tests" / f"test_{name}.py").exists() for name in check.SANITIZED)
    (step,) = check.steps_of("hopper", tmp_path, 999)
    job = step.jobs[0]
    done = without_gpu([sys.executable, *job.command[1:], "--collect-only", "-q", "-q"], **job.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^tests/test_hopper_conv2d.py::.*cuda", done.stdout, re.MULTILINE)) > 20
