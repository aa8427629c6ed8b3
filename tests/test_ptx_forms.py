"""The executor of PTX as a whole: each opcode form has a known-answer test, and what it does not know is an error."""

from __future__ import annotations

import importlib

import ptx_module
import pytest
from ptx_forms import COVERED, entry, needs_ptx, problem

pytestmark = needs_ptx

for table in ("arithmetic", "control", "copies", "loads_stores", "tensor_cores"):  # their tests say what they cover
    importlib.import_module(f"test_ptx_{table}")


@pytest.fixture(scope="module")
def known() -> set[str]:
    return ptx_module.lines("ptx_known_forms")


def test_every_form_in_our_kernels_has_a_known_answer() -> None:
    used = ptx_module.lines("ptx_used_forms")
    assert used, "there are no kernels"
    assert not used - COVERED, f"without a known-answer test: {', '.join(sorted(used - COVERED))}"


def test_the_executor_knows_no_form_without_a_known_answer(known: set[str]) -> None:
    assert not known - COVERED, f"without a known-answer test: {', '.join(sorted(known - COVERED))}"


def test_known_answers_are_of_forms_that_the_executor_knows(known: set[str]) -> None:
    assert not COVERED - known, f"unknown: {', '.join(sorted(COVERED - known))}"


UNKNOWN: list[tuple[str, str]] = [  # the statement, what is said of it
    ("frobnicate.u32 %r1, %r2;", "unknown instruction frobnicate.u32 %r1, %r2"),
    ("@!%p1 add.u16 %h1, %h2, %h3;", "unknown instruction add.u16 %h1, %h2, %h3"),
    ("add.f32.ftz %f1, %f2, %f3;", "unknown instruction add.f32.ftz %f1, %f2, %f3"),
    ("bar.arrive 0, 64;", "unknown instruction bar.arrive 0, 64"),
    (".const .b8 table[16];", "unknown directive .const .b8 table[16]"),
    # the wrong number of operands
    ("add.s32 %r1, %r2;", "expected operands =32 32 32, got add.s32 %r1, %r2"),
    ("add.s32 %r1, %r2, %r3, %r4;", "expected operands =32 32 32, got add.s32 %r1, %r2, %r3, %r4"),
    ("ret %r1;", "expected operands , got ret %r1"),
    ("ld.global.v2.u32 {%r1, %r2, %r3}, [%d1];", "expected operands {2}~32"),
    ("ld.global.v2.u32 %r1, [%d1];", "expected operands {2}~32"),
    (
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], [%d1, {%r2}], [%r3];",
        "expected a tensor map and 2 coordinates",
    ),
    (
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r1], %d1, [%r3];",
        "expected a tensor map and 2 coordinates",
    ),
    # of the wrong width or kind
    ("add.s32 %r1, %r2, %d3;", "expected a register of 32 bits, got %d3 in add.s32 %r1, %r2, %d3"),
    ("add.s64 %r1, %d2, %d3;", "expected a register of 64 bits, got %r1"),
    ("add.s32 %p1, %r2, %r3;", "expected a register of 32 bits, got %p1"),
    ("setp.eq.s32 %r1, %r2, %r3;", "expected a predicate, got %r1"),
    ("@%r1 bra end;", "expected a predicate, got %r1"),
    ("ld.global.u32 %h1, [%d1];", "expected a register of 32 bits, got %h1"),
    ("ld.global.u32 %r1, [%r2];", "expected a register of 64 bits, got %r2"),
    ("ld.shared.u32 %r1, [%d2];", "expected a register of 32 bits, got %d2"),
    ("ld.global.u32 %r1, %d2;", "expected an address, got %d2"),
    ("ld.global.u32 %r1, [%d2+%r3];", "expected a number, got %r3"),
    ("mov.u64 %d1, %tid.x;", "expected a register of 64 bits, got %tid.x"),
    ("bar.sync %r1;", "expected a number, got %r1"),
    ("mov.u32 7, %r1;", "unknown register 7"),
    # names that nobody has declared
    ("mov.u32 %r1, %r1234;", "unknown register %r1234"),
    ("mov.u32 %r1, %clock;", "unknown register %clock"),
    ("mov.u32 %r1, %clusterid.x;", "unknown register %clusterid.x"),
    ("bra nowhere;", "unknown label nowhere"),
    ("ld.param.u32 %r1, [k_param_9];", "unknown register k_param_9"),
]


@pytest.mark.parametrize("row", UNKNOWN, ids=lambda row: row[0])
def test_what_the_executor_does_not_know(row: tuple[str, str]) -> None:
    """The error names the kernel, the line and what stands there, before anything runs."""
    statement, said = row
    body = f"mov.u32 %r1, 1;\n{statement}\nend:"
    line = entry(body).split(statement)[0].count("\n") + 1
    wrong = problem(body)
    assert wrong.startswith(f"k: PTX line {line}: {said}"), wrong


def test_texts_that_break_off() -> None:
    text = entry("mov.u32 %r1, 1;")
    assert ptx_module.run_ptx(text.rstrip("}\n"), "k").startswith("k: PTX line")
    assert ptx_module.run_ptx(text, "other") == "there is no kernel other in this PTX"
