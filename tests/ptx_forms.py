"""For the known-answer tests of the executor of PTX: entries around instructions, and which opcode forms have a test.

What is expected comes from the PTX ISA (9.0; tests name its sections), worked out by hand or in exact arithmetic.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import ptx_module
import pytest
from numpy.typing import NDArray

needs_ptx = pytest.mark.usefixtures("needs_ptx")  # of conftest.py

COVERED: set[str] = set()  # forms with a known-answer test, once the test's file is imported
Test = TypeVar("Test", bound=Callable[..., None])


def covers(*forms: str) -> Callable[[Test], Test]:
    """Marks a test as the known answer of opcode forms, named as ``ptx_known_forms`` does."""
    COVERED.update(forms)
    return lambda test: test


# ---- entries

HEAD = ".version 8.8\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 buffer[];\n"
REGISTERS = (
    ".reg .pred %p<10>;\n.reg .b16 %h<20>;\n.reg .b32 %r<300>;\n.reg .f32 %f<80>;\n.reg .b64 %d<30>;\n"
    ".reg .b32 %thread, %lane;\nmov.u32 %thread, %tid.x;\nmov.u32 %lane, %laneid;\n"
)


def entry(body: str, arguments: Sequence[Any] = ()) -> str:
    """The entry ``k``. The address of argument i, an array, is in ``%a{i}``; any other is the parameter ``a{i}``."""
    parameters, loads = [], ""
    for i, a in enumerate(arguments):
        if isinstance(a, np.ndarray):
            assert a.flags.c_contiguous
            parameters.append(f".param .u64 a{i}")
            loads += f".reg .b64 %a{i};\nld.param.u64 %a{i}, [a{i}];\ncvta.to.global.u64 %a{i}, %a{i};\n"
        else:
            parameters.append(f".param .align 64 .b8 a{i}[{ctypes.sizeof(a)}]")
    return f"{HEAD}.visible .entry k({', '.join(parameters)})\n{{\n{REGISTERS}{loads}{body}\nret;\n}}\n"


def problem(
    body: str,
    *arguments: Any,
    grid: int = 1,
    block: int = 32,
    shared: int = 0,
    schedule: int = 0,
    early: bool = False,
) -> str:
    """Runs an entry; what was wrong, or nothing. ``shared``: bytes of the array ``buffer`` in shared memory.

    ``schedule``: which warps go first, 0 or 1: in ascending or descending order, else a seed. ``early``: what is
    asynchronous happens at once, else as late as the waits for it allow.
    """
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ALEXNET_SCHEDULE", str(schedule))
        environment.setenv("ALEXNET_PTX_EARLY", str(int(early)))
        return ptx_module.run_ptx(
            entry(body, arguments), "k", *arguments, grid=(grid, 1, 1), block=(block, 1, 1), shared=shared
        )


def run(body: str, *arguments: Any, **launch: int) -> None:
    """An entry that nothing is wrong with."""
    wrong = problem(body, *arguments, **launch)
    assert not wrong, wrong


# ---- instructions that work on each lane by itself


@dataclass(frozen=True)
class Type:
    register: str
    dtype: Any

    @property
    def bits(self) -> int:
        return 8 * np.dtype(self.dtype).itemsize

    @property
    def access(self) -> str:
        return "f32" if self.register == "f32" else f"u{self.bits}"


TYPES = {
    **{
        f"{letter}{n}": Type(f"b{n}", f"{dtype}{n // 8}")
        for letter, dtype in (("s", "i"), ("u", "u"))
        for n in (16, 32, 64)
    },
    "f32": Type("f32", np.float32),
    "pred": Type("pred", np.uint8),
}


def apply(instruction: str, types: str, columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """What ``instruction`` gives for each row: of registers %x0, %x1, ... it makes %y. ``types``: of %y, %x0, ..."""
    y, *x = (TYPES[name] for name in types.split())
    n = len(columns[0])
    out = np.full(n * (y.bits // 8), 0xA5, np.uint8).view(y.dtype)
    body = "mov.u32 %r0, %ctaid.x;\nmov.u32 %r1, %ntid.x;\nmad.lo.s32 %r0, %r0, %r1, %thread;\n"
    body += f"setp.ge.s32 %p0, %r0, {n};\n@%p0 bra done;\ncvt.u64.u32 %d0, %r0;\n"
    for i, t in enumerate([*x, y]):  # the address of each column's element
        body += f".reg .b64 %c{i};\nmul.lo.s64 %c{i}, %d0, {t.bits // 8};\nadd.s64 %c{i}, %a{i}, %c{i};\n"
    for i, t in enumerate(x):
        body += f".reg .{t.register} %x{i};\n"
        if t.register == "pred":
            body += f"ld.global.u8 %h0, [%c{i}];\nsetp.ne.s16 %x{i}, %h0, 0;\n"
        else:
            body += f"ld.global.{t.access} %x{i}, [%c{i}];\n"
    body += f".reg .{y.register} %y;\n{instruction}\n"
    if y.register == "pred":
        body += f"selp.b32 %r2, 1, 0, %y;\nst.global.u8 [%c{len(x)}], %r2;\n"
    else:
        body += f"st.global.{y.access} [%c{len(x)}], %y;\n"
    run(f"{body}done:", *columns, out, grid=(n + 69) // 70, block=70)  # 70: warps that are full, and one that is not
    return out


def same(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Element by element: the same bits, or NaN and NaN."""
    if a.dtype.kind == "f":
        return (a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))
    return a == b


def check(form: str, types: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Rows of operands and what the form makes of them, as ``types`` (of the result, the operands) takes them."""
    y, *x = (TYPES[name].dtype for name in types.split())
    *columns, expected = (
        np.array(column, dtype) for column, dtype in zip(zip(*rows, strict=True), [*x, y], strict=True)
    )
    operands = ", ".join(f"%x{i}" for i in range(len(x)))
    actual = apply(f"{form} %y, {operands};", types, columns)
    wrong = [
        f"{form} of {row[:-1]} is {a!r}, expected {e!r}"
        for row, a, e, right in zip(rows, actual, expected, same(actual, expected), strict=True)
        if not right
    ]
    assert not wrong, f"{len(wrong)} of {len(rows)}: " + "; ".join(wrong[:5])
