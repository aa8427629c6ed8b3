"""Known answers of loads_stores.cpp: ld and st of every width, vector and space, with registers that fit or are wider.

PTX ISA, sections 9.7.9.8 and 9.7.9.11; 9.4.1: operands wider than the type.
"""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import numpy as np
import ptx_module
import pytest
from numpy.typing import NDArray
from ptx_forms import HEAD, REGISTERS, covers, needs_ptx, problem, run

pytestmark = needs_ptx

ELEMENTS = {  # by type: what NumPy calls it
    **{f"{letter}{bits}": f"{dtype}{bits // 8}" for letter, dtype in (("s", "i"), ("u", "u")) for bits in (8, 16, 32)},
    **{"f32": "f4", "b32": "u4", "u64": "u8", "b64": "u8"},
}
VECTORS = {".v2": 2, ".v4": 4, "": 1}
FORMS = [  # (vector, type); a vector has at most 16 bytes
    (vector, t) for vector, t in itertools.product(VECTORS, ELEMENTS) if VECTORS[vector] * int(t[1:]) <= 128
]
LOADS = [f"ld.{space}{v}.{t}" for space in ("global", "global.nc", "param") for v, t in FORMS]
LOADS += [f"ld.shared{v}.{t}" for v, t in FORMS if t[1:] != "8"]
STORES = [f"st.global{v}.{t}" for v, t in FORMS] + [f"st.shared{v}.{t}" for v, t in FORMS if t[1:] != "8"]

LANES = 40  # a whole warp and a quarter
MEMORY = np.random.default_rng(0).integers(0, 256, 2048, np.uint8)  # half of all values have their highest bit set


def parts(form: str) -> tuple[str, int, str]:
    """Of a form: the space, how many values, the type."""
    _, *space, t = form.split(".")
    count = int(space.pop()[1:]) if space[-1] in ("v2", "v4") else 1
    return space[0], count, t


def registers(t: str) -> list[str]:
    """The types of registers that hold a value of type ``t``."""
    return ["f32"] if t == "f32" else [f"b{n}" for n in (16, 32, 64) if n >= int(t[1:])]


def with_form(form: str) -> list[Any]:
    return [pytest.param(form, r, id=f"{form}-{r}") for r in registers(parts(form)[2])]


def operand(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"{{{', '.join(values)}}}"


# 2000 bytes of %a0 into shared memory, or back: two a thread, 25 times.
TO_SHARED = """
mov.u32 %r0, buffer;
mad.lo.s32 %r0, %thread, 2, %r0;
add.s64 %d0, %a0, %d9;
add.s64 %d0, %d0, %d9;
mov.u32 %r1, 0;
fill:
ld.global.u16 %h0, [%d0];
st.shared.u16 [%r0], %h0;
add.s32 %r0, %r0, 80;
add.s64 %d0, %d0, 80;
add.s32 %r1, %r1, 80;
setp.lt.s32 %p0, %r1, 2000;
@%p0 bra fill;
bar.sync 0;
"""
FROM_SHARED = TO_SHARED.replace("fill", "drain").replace("ld.global.u16 %h0, [%d0]", "ld.shared.u16 %h0, [%r0]")
FROM_SHARED = "bar.sync 0; " + FROM_SHARED.replace("st.shared.u16 [%r0], %h0", "st.global.u16 [%d0], %h0")


@covers(*LOADS)
@pytest.mark.parametrize(("form", "register"), [p for form in LOADS for p in with_form(form)])
def test_loads(form: str, register: str) -> None:
    """Lane l reads behind l times the size, plus a constant; the register's upper bits are the sign or 0."""
    space, count, t = parts(form)
    element = np.dtype(ELEMENTS[t])
    size, offset = count * element.itemsize, 5 * count * element.itemsize
    values = [f"%v{i}" for i in range(count)]
    body = f".reg .{register} {', '.join(values)}; .reg .b64 %to; cvt.u64.u32 %d9, %thread; "
    if space == "shared":
        body += TO_SHARED + f"mov.u32 %r0, buffer; mad.lo.s32 %r0, %thread, {size}, %r0; "
        address = f"[%r0+{offset}]"
    elif space == "param":
        address = f"[a0+{offset}]"
    else:
        body += f"mul.lo.s64 %d0, %d9, {size}; add.s64 %d0, %a0, %d0; add.s64 %d0, %d0, {2 * offset}; "
        address = f"[%d0+-{offset}]"
    body += f"{form} {operand(values)}, {address}; "
    width = int(register[1:])
    body += f"mul.lo.s64 %to, %d9, {count * width // 8}; add.s64 %to, %a1, %to; "
    for i, v in enumerate(values):
        body += f"st.global.{'f32' if t == 'f32' else f'u{width}'} [%to+{i * width // 8}], {v}; "
    out = np.zeros((LANES, count), f"u{width // 8}")
    memory = (ctypes.c_uint8 * 2048)(*MEMORY) if space == "param" else MEMORY[:2000].copy()
    run(body, memory, out, block=LANES, shared=2048)
    starts = offset + np.arange(LANES) * (0 if space == "param" else size)
    expected = np.array([np.frombuffer(MEMORY.tobytes()[s : s + size], element) for s in starts])
    extended = expected.view(np.uint32) if t == "f32" else expected.astype(np.int64 if t[0] == "s" else np.uint64)
    assert (out == extended.astype(out.dtype)).all()


@covers(*STORES)
@pytest.mark.parametrize(("form", "register"), [p for form in STORES for p in with_form(form)])
def test_stores(form: str, register: str) -> None:
    """Lane l writes behind l times the size, plus a constant, the lowest bits of its registers, and nothing else."""
    space, count, t = parts(form)
    element, width = np.dtype(ELEMENTS[t]), int(register[1:])
    size, offset = count * element.itemsize, 3 * count * element.itemsize
    values = [f"%v{i}" for i in range(count)]
    body = f".reg .{register} {', '.join(values)}; .reg .b64 %from; cvt.u64.u32 %d9, %thread; "
    body += f"mul.lo.s64 %from, %d9, {count * width // 8}; add.s64 %from, %a1, %from; "
    for i, v in enumerate(values):
        body += f"ld.global.{'f32' if t == 'f32' else f'u{width}'} {v}, [%from+{i * width // 8}]; "
    if space == "shared":
        body += TO_SHARED + f"mov.u32 %r0, buffer; mad.lo.s32 %r0, %thread, {size}, %r0; "
        body += f"{form} [%r0+{offset}], {operand(values)}; {FROM_SHARED}"
    else:
        body += f"mul.lo.s64 %d0, %d9, {size}; add.s64 %d0, %a0, %d0; {form} [%d0+{offset}], {operand(values)}; "
    values_in = np.random.default_rng(1).integers(0, 256, (LANES, count, width // 8), np.uint8)
    memory = MEMORY[:2000].copy()
    run(body, memory, values_in, block=LANES, shared=2048)
    expected = MEMORY[:2000].copy()
    expected[offset : offset + LANES * size] = values_in[:, :, : element.itemsize].ravel()  # little-endian
    assert (memory == expected).all()


def test_parameters_lie_where_their_alignment_puts_them() -> None:
    """Of types u8, u64, u16, u32 and an array aligned to 16 bytes: at 0, 8, 16, 20 and 32."""
    text = f"""{HEAD}.visible .entry k(
.param .u8 a, .param .u64 out, .param .u16 c, .param .u32 d, .param .align 16 .b8 e[8])
{{
{REGISTERS}
ld.param.u64 %d0, [out];
ld.param.u8 %r0, [a];
ld.param.u16 %r1, [c];
ld.param.u32 %r2, [d];
ld.param.v2.u32 {{%r3, %r4}}, [e];
ld.param.u64 %d1, [a+8];
ld.param.u32 %r5, [a+20];
ld.param.u32 %r6, [a+36];
st.global.v4.u32 [%d1], {{%r0, %r1, %r2, %r3}};
st.global.u32 [%d0+16], %r4;
st.global.v2.u32 [%d0+24], {{%r5, %r6}};
}}"""
    out = np.zeros(8, np.uint32)
    arguments = ctypes.c_uint8(200), out, ctypes.c_uint16(60000), ctypes.c_uint32(7), (ctypes.c_uint32 * 2)(11, 12)
    assert ptx_module.run_ptx(text, "k", *arguments, block=(1, 1, 1)) == ""
    assert out.tolist() == [200, 60000, 7, 11, 12, 0, 7, 12]


FAULTS: list[tuple[str, str]] = [
    ("add.s64 %d0, %a0, 2; ld.global.u32 %r0, [%d0];", "is not a multiple of 4"),
    ("ld.global.v4.u32 {%r0, %r1, %r2, %r3}, [%a0+8];", "is not a multiple of 16"),
    ("mov.u32 %r0, buffer; ld.shared.u16 %h0, [%r0+1];", "no multiple of 2"),
    ("mov.u32 %r0, buffer; ld.shared.u32 %r1, [%r0];", "reads byte 0 of shared memory"),
    ("mov.u32 %r0, buffer; st.shared.u32 [%r0+64], %r0;", "writes byte 64 of 64 of shared memory"),
    ("ld.global.u32 %r0, [%a0+64];", "lies in no array of the call, is byte 64 of one of 64"),
    ("ld.global.u32 %r0, [%a0+-4];", "lies in no array of the call, is byte -4 of one of 64"),
    ("st.global.u32 [%a1], 1;", "writes an array that the call only reads"),
    ("ld.param.u64 %d0, [a1+8];", "reads byte 16 of the parameters"),
]


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row[1])
def test_what_an_address_may_not_be(row: tuple[str, str]) -> None:
    body, fault = row
    readable: NDArray[Any] = np.zeros(4, np.uint32)
    readable.flags.writeable = False
    memory = np.zeros(16, np.uint32)
    assert memory.ctypes.data % 16 == 0
    assert fault in problem(body, memory, readable, block=1, shared=64)
