"""Planted faults (tests/ptx/faults.cu): the executor of C++ runs each to the right result, that of PTX notices it."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np
import ptx_module
import pytest

COUNT = 4096
ROOM = 64  # floats behind each array that belong to nobody

# What the executor of PTX says of each.
FAULTS = {
    "reads_behind_an_array": "lies in no array of the call, is byte 16384 of one of 16384",
    "writes_behind_an_array": "is byte 16384 of one of 16384",
    "writes_an_input": "writes an array that the call only reads",
    "reads_two_floats_where_one_is_aligned": "is not a multiple of 8",
    "shifts_by_the_whole_width": "another result",
    "reads_another_warps_value_without_a_barrier": "a race in shared memory",
    "reads_another_lanes_value_without_a_barrier": "a race in shared memory",
    "overwrites_a_tile_that_others_read": "a race in shared memory",
    "sums_what_another_block_writes": "of another block",
    "writes_what_another_block_writes": "of another block",
    "takes_shared_memory_for_zero": "which nobody has written",
    "leaves_an_array_in_shared_memory": "which belongs to no variable",
    "leaves_the_launchs_shared_memory": "byte 256 of 256 of shared memory",
    "has_more_threads_than_its_bounds": "128 threads in a block, of which it was compiled for 64",
    "waits_for_copies_after_the_barrier": "where an asynchronous copy is under way",
    "copies_into_a_tile_that_others_read": "a race in shared memory",
    "reads_while_a_copy_is_under_way": "where an asynchronous copy is under way",
    "ends_while_copies_are_under_way": "ends while cp.async copies are under way",
    "loads_matrix_rows_of_other_lanes_without_a_barrier": "a race in shared memory",
    "uses_an_mbarrier_that_others_initialise": "uses an mbarrier that another warp initialised",
    "copies_with_an_mbarrier_that_tma_does_not_see": "that no fence made visible",
    "copies_over_a_box_that_others_read": "a race in shared memory",
    "multiplies_what_the_async_proxy_does_not_see": "without fence.proxy.async",
    "multiplies_before_the_barrier": "a race in shared memory",
    "writes_an_operand_after_the_product_was_issued": "a race in shared memory",
    "accumulates_without_a_fence": "without wgmma.fence",
}
# Whether one sees it depends on when what is asynchronous happens.
EARLY = {"multiplies_before_the_barrier", "writes_an_operand_after_the_product_was_issued"}


class Faults:
    """One of the two builds of faults.cu."""

    def __init__(self, name: str):
        self.library = ctypes.CDLL(str(ptx_module.BUILD / f"{name}.so"))
        self.library.fault_name.restype = self.library.fault_run.restype = ctypes.c_char_p
        self.names = [self.library.fault_name(i).decode() for i in range(self.library.fault_count())]
        self.checks = name == "faults_ptx"

    def __call__(self, name: str, wrong: bool) -> tuple[str, Any]:
        """What it says, and y."""
        x = np.zeros(COUNT + ROOM, np.float32)
        x[:COUNT] = np.random.default_rng(0).integers(-8, 8, COUNT)
        y = np.full(COUNT + ROOM, np.nan, np.float32)
        x, y = _aligned(x), _aligned(y)
        if self.checks:
            own = x[:COUNT]
            own.flags.writeable = False
            ptx_module.set_arrays([own, y[:COUNT]], self.library)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (y, x)]
        problem = self.library.fault_run(self.names.index(name), wrong, *pointers).decode()
        return problem, y[:COUNT].copy()


def _aligned(a: Any) -> Any:
    """A copy at an address that is a multiple of 256, as CUDA gives them."""
    memory = np.empty(a.nbytes + 256, np.uint8)
    first = -memory.ctypes.data % 256
    copy = memory[first : first + a.nbytes].view(a.dtype)
    copy[:] = a
    return copy


@pytest.fixture(scope="module")
def ptx(needs_ptx: None) -> Faults:
    return Faults("faults_ptx")


@pytest.fixture(scope="module")
def cpu(needs_ptx: None) -> Faults:
    os.environ["ALEXNET_THREADS"] = "1"  # of the library's own pool, which begins with its first launch
    return Faults("faults_cpu")


def test_every_fault_has_a_name(ptx: Faults, cpu: Faults) -> None:
    assert ptx.names == cpu.names == list(FAULTS)


@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
@pytest.mark.parametrize("name", FAULTS)
def test_the_corrected_kernel_runs_on_both(name: str, early: bool, ptx: Faults, cpu: Faults, monkeypatch: Any) -> None:
    monkeypatch.setenv("ALEXNET_PTX_EARLY", str(int(early)))
    assert ptx(name, False)[0] == cpu(name, False)[0] == ""
    np.testing.assert_array_equal(ptx(name, False)[1], cpu(name, False)[1])
    assert not np.isnan(cpu(name, False)[1][0])


@pytest.mark.parametrize("name", FAULTS)
def test_the_executor_of_c_plus_plus_runs_the_fault(name: str, cpu: Faults) -> None:
    problem, right = cpu(name, False)
    assert problem == ""
    problem, y = cpu(name, True)
    assert problem == ""
    if name != "shifts_by_the_whole_width":
        np.testing.assert_array_equal(y, right)


@pytest.mark.parametrize("name", FAULTS)
def test_the_executor_of_ptx_notices_it(name: str, ptx: Faults, cpu: Faults, monkeypatch: Any) -> None:
    monkeypatch.setenv("ALEXNET_SCHEDULE", "0")  # of several things that are wrong it says the one that it meets first
    monkeypatch.setenv("ALEXNET_PTX_EARLY", str(int(name in EARLY)))
    problem, y = ptx(name, True)
    if FAULTS[name] == "another result":
        assert problem == "" and not np.array_equal(y, cpu(name, True)[1], equal_nan=True)
    else:
        assert FAULTS[name] in problem
