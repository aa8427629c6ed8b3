"""The executor that runs kernels on the CPU: the mistakes that it reports, its thread pool, its tensor-core wrappers.

`tests/native` holds the programs; `scripts/sanitize.sh` runs the one that calls every launcher under the sanitizers.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pretended_gpu import Machine

pytest_plugins = ["pretended_gpu"]

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "tests" / "native"
GOLDEN = NATIVE / "golden"
SOURCE = (NATIVE / "misuse.cpp").read_text().splitlines()

CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or "c++"
FLAGS = ["-std=c++20", "-O0", "-g", "-fno-omit-frame-pointer", "-pthread", f"-I{ROOT / 'kernels'}"]
CHECKED, ASAN, TSAN = "-DGPU_CHECKED=1", "-fsanitize=address,alignment", "-fsanitize=thread"
PROGRAMS = {
    "checked": ("misuse.cpp", CHECKED),
    "asan": ("misuse.cpp", ASAN),
    "tsan": ("misuse.cpp", TSAN),
    "pool": ("thread_pool.cpp", CHECKED),
    "pool-tsan": ("thread_pool.cpp", TSAN),
    "wrappers": ("wrappers.cu", CHECKED),
}

Run = Callable[..., subprocess.CompletedProcess[str]]


def compile_program(name: str, folder: Path) -> None:
    """Compiles one of PROGRAMS into the folder; NAME.log tells what speaks against it."""
    source, flag = PROGRAMS[name]
    log = folder / f"{name}.log"
    if flag != CHECKED:
        (folder / "empty.cpp").write_text("int main() {}")
        command = [CXX, flag, str(folder / "empty.cpp"), "-o", str(folder / f"{name}-empty")]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            log.write_text(f"skip: {CXX} cannot link with {flag}")
            return
    command = [CXX, *FLAGS, flag, "-x", "c++", str(NATIVE / source), "-o", str(folder / name)]
    log.write_text(subprocess.run(command, capture_output=True, text=True, check=False).stderr)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the compiled programs; the workers of pytest-xdist share it, and the first compiles."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "executor"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda name: compile_program(name, folder), PROGRAMS))
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="module")
def run(programs: Path) -> Run:
    """run(program, *arguments, schedule=0) under a thread order, with three threads in the pool."""

    def call(program: str, *arguments: str, schedule: int = 0) -> subprocess.CompletedProcess[str]:
        log = (programs / f"{program}.log").read_text()
        if log.startswith("skip: "):
            pytest.skip(log.removeprefix("skip: "))
        assert (programs / program).exists(), log
        environment = os.environ | {"ALEXNET_SCHEDULE": str(schedule), "ALEXNET_THREADS": "3"}
        command = [str(programs / program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)

    return call


def line(case: str) -> str:
    """Where misuse.cpp makes the mistake, as reports have it."""
    (number,) = [i for i, text in enumerate(SOURCE, 1) if text.endswith(f"// {case}")]
    return f"misuse.cpp:{number}"


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("divergent_barrier", r"threads 0-39 wait in __syncthreads at \S+\n  threads 40-63 have returned"),
        ("different_barriers", r"__syncthreads at \S+: thread \(0, 0, 0\) waits in __syncthreads at line \d+"),
        ("shuffle_outside_mask", r"__shfl_xor_sync at \S+: lane 0 reads lane 16, which is not in mask 0000ffff"),
        ("shuffle_missing_lanes", r"threads 0-15, 32-47 wait in __shfl_xor_sync at \S+\n  threads 16-31, 48-63 have"),
        ("caller_outside_mask", r"thread \(31, 0, 0\): __shfl_sync at \S+: the calling lane 31 is not in its mask"),
        ("lanes_not_there", r"thread \(32, 0, 0\): __ballot_sync at \S+: mask ffffffff names lanes that the block"),
        ("masks_disagree", r"threads 1, 3, 5, 7, \.\.\. wait in __shfl_sync at"),
        ("barrier_in_independent", r"__syncthreads at \S+: not allowed in a launch declared independent"),
        ("shuffle_in_independent", r"__shfl_down_sync at \S+: not allowed in a launch declared independent"),
        ("shared_in_independent", r"GPU_SHARED at \S+: not allowed in a launch declared independent"),
        ("shared_exhausted", r"GPU_SHARED at \S+: shared memory exhausted: 0 bytes dynamic, 65536 static"),
        ("shared_not_asked_for", r"dynamic_shared at \S+: the launch asks for no bytes of shared memory"),
        ("copy_misaligned", r"thread \(1, 0, 0\): cp_async at \S+: an address is not aligned to 16 bytes"),
        ("copy_not_to_shared", r"cp_async at \S+: the address is not in shared memory"),
        ("matrix_misaligned", r"thread \(1, 0, 0\): ldmatrix at \S+: the row is not aligned to 16 bytes"),
        ("mbarrier_uninitialised", r"mbarrier_arrive at \S+: the mbarrier is not initialised"),
        ("mbarrier_too_many", r"mbarrier_arrive at \S+: more arrivals than the mbarrier expects"),
        ("mbarrier_deadlock", r"deadlock: nobody completes the phase\n  threads 0-63 wait in mbarrier_wait at"),
        ("tma_misaligned", r"tma_load_2d at \S+: the target is not aligned to 128 bytes"),
        ("warpgroup_incomplete", r"wgmma_commit at \S+: the last warpgroup has only 64 threads"),
    ],
)
def test_mistakes_are_reported_with_kernel_block_threads_and_line(run: Run, case: str, text: str) -> None:
    done = run("checked", case)
    assert done.returncode == 1, done.stdout
    assert re.match(rf"{case}(<4>)?: block \(0, 0, 0\), ", done.stdout)
    assert re.search(text, done.stdout), done.stdout
    assert line(case) in done.stdout
    again = run("checked", case, schedule=5)
    assert again.returncode == 1, again.stdout
    assert again.stdout.startswith(case)


def test_operations_of_a_warp_must_agree(run: Run) -> None:
    done = run("checked", "operations_disagree")
    other = line("operations_disagree").removeprefix("misuse.cpp:")
    assert f"__shfl_sync at {NATIVE}/misuse.cpp:" in done.stdout
    assert f"thread (0, 0, 0) waits in __syncwarp at line {other}" in done.stdout


def test_a_block_may_not_end_while_copies_are_in_flight(run: Run) -> None:
    assert run("checked", "tma_not_awaited").stdout == (
        "tma_not_awaited: block (0, 0, 0), the block ends while TMA copies are in flight\n"
    )


@pytest.mark.parametrize("case", ["too_many_threads", "empty_grid", "too_much_shared"])
def test_launch_configurations_that_a_gpu_refuses(run: Run, case: str) -> None:
    done = run("checked", case)
    assert done.returncode == 1
    assert done.stdout.startswith("correct: invalid launch configuration: grid (")


@pytest.mark.parametrize(
    ("case", "function"),
    [
        ("map_misaligned", "cuTensorMapEncodeTiled"),
        ("map_of_odd_rows", "cuTensorMapEncodeTiled"),
        ("map_of_wide_boxes", "cuTensorMapEncodeTiled"),
        ("map_of_long_strides", "cuTensorMapEncodeIm2col"),
    ],
)
def test_tensor_maps_that_the_driver_refuses(run: Run, case: str, function: str) -> None:
    done = run("checked", case)
    assert (done.returncode, done.stdout) == (1, f"{function}: the driver refuses this tensor map\n")


def test_a_tensor_map_that_the_executor_does_not_understand(run: Run) -> None:
    done = run("checked", "map_of_narrow_boxes")
    expected = "cuTensorMapEncodeIm2col: only a GPU knows how rows below 128 bytes are swizzled\n"
    assert (done.returncode, done.stdout) == (1, expected)


@pytest.mark.parametrize("case", ["shared_uninitialised", "copy_without_wait"])
def test_what_nobody_wrote_is_nan(run: Run, case: str) -> None:
    assert run("checked", case).stdout == "wrong result\n"


def test_a_missing_barrier_shows_when_threads_run_in_another_order(run: Run) -> None:
    assert run("checked", "missing_barrier", schedule=0).stdout == "right\n"
    assert run("checked", "missing_barrier", schedule=1).stdout == "wrong result\n"
    assert run("checked", "missing_barrier", schedule=7).stdout == "wrong result\n"


@pytest.mark.parametrize("program", ["checked", "asan", "tsan"])
@pytest.mark.parametrize("schedule", [0, 1, 7])
def test_nothing_is_reported_of_a_correct_kernel(run: Run, program: str, schedule: int) -> None:
    done = run(program, "correct", schedule=schedule)
    assert (done.returncode, done.stdout, done.stderr) == (0, "right\n", "")


@pytest.mark.parametrize(
    ("case", "finding"),
    [
        ("global_overflow", "AddressSanitizer: heap-buffer-overflow"),
        ("static_overflow", "AddressSanitizer: use-after-poison"),
        ("dynamic_overflow", "AddressSanitizer: use-after-poison"),
        ("local_overflow", "AddressSanitizer: stack-buffer-overflow"),
        ("misaligned_vector", "runtime error: member access within misaligned address"),
    ],
)
@pytest.mark.parametrize("schedule", [0, 7])
def test_the_address_sanitizer_finds_accesses_out_of_bounds(run: Run, case: str, finding: str, schedule: int) -> None:
    done = run("asan", case, schedule=schedule)
    assert finding in done.stderr
    assert case == "misaligned_vector" or f"in {case}" in done.stderr
    assert line(case) in done.stderr


@pytest.mark.parametrize("schedule", [0, 1])
@pytest.mark.parametrize(
    "case", ["missing_barrier", "missing_syncwarp", "race_between_blocks", "race_between_tasks", "tma_released_early"]
)
def test_the_thread_sanitizer_finds_races(run: Run, case: str, schedule: int) -> None:
    done = run("tsan", case, schedule=schedule)
    assert "ThreadSanitizer: data race" in done.stderr
    assert line(case) in done.stderr


def test_the_thread_sanitizer_finds_races_of_independent_threads_in_their_real_block(run: Run) -> None:
    done = run("tsan", "race_in_independent", schedule=1)
    assert "ThreadSanitizer: data race" in done.stderr
    assert line("race_in_independent") in done.stderr


@pytest.mark.parametrize("program", ["pool", "pool-tsan"])
def test_thread_pool(run: Run, program: str) -> None:
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_wrappers_multiply_and_move_data_right(run: Run, tmp_path: Path) -> None:
    for schedule in (0, 1, 7):
        done = run("wrappers", str(tmp_path), schedule=schedule)
        assert done.returncode == 0, done.stdout
        assert set(re.findall(r": (.*)", done.stdout)) == {"ok"}


def test_wrappers_agree_with_a_gpu(run: Run, tmp_path: Path) -> None:
    if not list(GOLDEN.glob("*.txt")):
        pytest.skip("no outputs recorded on a GPU in tests/native/golden (scripts/gpu_check.sh records them)")
    done = run("wrappers", str(tmp_path), str(GOLDEN))
    assert done.returncode == 0, done.stdout


def test_wrappers_run_the_cases_that_are_named(run: Run, tmp_path: Path) -> None:
    assert {"cp_async", "wgmma"} < set(run("wrappers").stdout.split())
    assert run("wrappers", str(tmp_path)).returncode == 0
    (tmp_path / "wgmma.txt").write_text("00000000\n")
    chosen = run("wrappers", str(tmp_path), str(tmp_path), "rounding", "cp_async")
    assert (chosen.returncode, chosen.stdout) == (0, "cp_async: as expected\nrounding: as expected\n")
    unknown = run("wrappers", str(tmp_path), str(tmp_path), "cp_asinc")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "unknown case cp_asinc" in unknown.stderr


@pytest.mark.parametrize("faulty", ["", "wgmma"])
def test_gpu_check_records_and_compares(programs: Path, machine: Machine, faulty: str) -> None:
    """Its part "golden", where the executor's program stands for what nvcc would build: a GPU that gives something else
    in one case is told."""
    wrong = f'[ "$3" != {faulty} ] || echo "ffffffff" >> "$2/{faulty}.txt"' if faulty else ""
    machine.wrappers.write_text(f'#!/bin/sh\n{wrong}\nexec "{programs}/wrappers" "$@"\n')
    machine.check("golden", status=int(bool(faulty)))
    summary = machine.summary()
    assert ("golden-wgmma" in summary) == bool(faulty)
    if faulty:
        assert summary["golden-wgmma"] == "FAILED: exit status 1: wgmma: 4096 words, expected 4097"
    recorded = {Path(name).stem for name in machine.archived() if name.startswith("golden/")}
    assert {"cp_async", "ldmatrix", "mma_tf32", "tma_im2col", "wgmma"} <= recorded


def test_every_wrapper_is_recorded_on_a_gpu() -> None:
    """What stands for an instruction of a GPU has a case in wrappers.cu, whose output scripts/gpu_check.sh records."""
    cases = (NATIVE / "wrappers.cu").read_text()
    for file in ("gpu.cuh", "hopper.cuh"):
        source = (ROOT / "kernels" / "platform" / file).read_text()
        wrappers = re.findall(
            r"^(?:__device__ __forceinline__|inline TensorMap)\b[^(\n]*?\*?(\w+)\(", source, re.MULTILINE
        )
        assert len(wrappers) > 5
        unused = {name for name in wrappers if not re.search(rf"\b{name}\b", cases)}
        assert unused <= {"dynamic_shared", "grid_range", "shared_address"}, (
            f"wrappers.cu has no case of {unused} of {file}"
        )


def test_every_launcher_is_driven_under_the_sanitizers() -> None:
    contract = (ROOT / "kernels" / "kernels.h").read_text()
    driver = (NATIVE / "drive_kernels.cpp").read_text()
    sections = dict(re.findall(r"^// ---- (\w+\.cu)\b(.*?)(?=^// ---- |\Z)", contract, re.MULTILINE | re.DOTALL))
    assert set(sections) == {path.name for path in (ROOT / "kernels").glob("*.cu")}
    for file, section in sections.items():
        launchers = re.findall(r"^(?:void|std::size_t|Conv2dWay<\w+>) (\w+)\(", section, re.MULTILINE)
        assert launchers, f"kernels.h declares no launcher of {file}"
        missing = [name for name in launchers if not re.search(rf"\b{name}(<[\w, :]+>)?\(", driver)]
        assert not missing, f"drive_kernels.cpp does not call {missing} of {file}"
