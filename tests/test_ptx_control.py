"""Known answers of control.cpp and scheduler.cpp: branches, barriers, shuffles, mbarriers, special registers.

PTX ISA, sections 9.7.12, 9.7.13, 9.7.9.6, 10.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import ptx_module
import pytest
from ptx_forms import covers, entry, needs_ptx, problem, run

pytestmark = needs_ptx

SCHEDULES = pytest.mark.parametrize("schedule", [0, 1, 2, 3])
LANES = np.arange(32)


def store(register: str, array: str = "%a0") -> str:
    """Of each thread, at its number."""
    return f"mul.wide.u32 %d9, %thread, 4; add.s64 %d9, %d9, {array}; st.global.u32 [%d9], {register}; "


# ---- special registers


def test_special_registers() -> None:
    """Of a grid (3, 2, 2) of blocks (5, 4, 3), whose last warp has 28 threads."""
    names = [f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"] + ["%laneid"]
    grid, block = (3, 2, 2), (5, 4, 3)
    body = "mov.u32 %r0, %ctaid.z; "  # the number of the block, then of the thread among all
    for size, name in ((2, "%ctaid.y"), (3, "%ctaid.x"), (3, "%tid.z"), (4, "%tid.y"), (5, "%tid.x")):
        body += f"mov.u32 %r1, {name}; mad.lo.s32 %r0, %r0, {size}, %r1; "
    body += f"mul.wide.u32 %d0, %r0, {4 * len(names)}; add.s64 %d0, %d0, %a0; "
    body += "".join(f"mov.u32 %r9, {name}; st.global.u32 [%d0+{4 * i}], %r9; " for i, name in enumerate(names))
    out = np.full((12, 60, len(names)), 999, np.uint32)
    assert ptx_module.run_ptx(entry(body, [out]), "k", out, grid=grid, block=block) == ""
    for b, t in np.ndindex(12, 60):
        own = [t % 5, t // 5 % 4, t // 20], [b % 3, b // 3 % 2, b // 6]
        assert out[b, t].tolist() == [*own[0], *block, *own[1], *grid, t % 32]


# ---- branches

NESTED = """
mov.u32 %r9, 100;
setp.lt.s32 %p0, %thread, 20;
@!%p0 bra high;
and.b32 %r0, %thread, 1;
setp.eq.s32 %p1, %r0, 1;
@%p1 bra odd;
add.s32 %r9, %r9, 1;
setp.gt.s32 %p2, %thread, 7;
@%p2 bra join;
add.s32 %r9, %r9, 10;
bra.uni join;
odd: add.s32 %r9, %r9, 2;
join: add.s32 %r9, %r9, %thread;
bra end;
high: sub.s32 %r9, %r9, %thread;
end:
"""


def nested(t: int) -> int:
    if t >= 20:
        return 100 - t
    return 100 + t + (2 if t % 2 else 1 if t > 7 else 11)


# Steps from n to 1: n halves, or becomes 3 n + 1.
COLLATZ = """
mov.u32 %r9, 0;
add.s32 %r0, %thread, 1;
again: setp.eq.s32 %p0, %r0, 1;
@%p0 bra done;
add.s32 %r9, %r9, 1;
and.b32 %r1, %r0, 1;
setp.ne.s32 %p1, %r1, 0;
@%p1 bra odd;
shr.u32 %r0, %r0, 1;
bra again;
odd: mad.lo.s32 %r0, %r0, 3, 1;
bra.uni again;
done:
"""


def collatz(t: int) -> int:
    n, steps = t + 1, 0
    while n != 1:
        n, steps = (3 * n + 1 if n % 2 else n // 2), steps + 1
    return steps


# A triangle of products: the inner loop's length depends on the outer one's counter.
LOOPS = """
mov.u32 %r9, 0;
mov.u32 %r0, 0;
outer: setp.ge.s32 %p0, %r0, %thread;
@%p0 bra done;
mov.u32 %r1, 0;
inner: setp.ge.s32 %p1, %r1, %r0;
@%p1 bra next;
mad.lo.s32 %r9, %r0, %r1, %r9;
add.s32 %r1, %r1, 1;
bra inner;
next: add.s32 %r0, %r0, 1;
bra outer;
done:
"""


def loops(t: int) -> int:
    return sum(i * j for i in range(t) for j in range(i))


# Labels of the same name in two scopes, as inline assembler leaves them.
SCOPES = """
mov.u32 %r9, 0;
{
.reg .pred p;
again: add.s32 %r9, %r9, 1;
setp.lt.s32 p, %r9, %thread;
@p bra again;
}
{
.reg .pred p;
again: add.s32 %r9, %r9, 10;
setp.lt.s32 p, %r9, 100;
@p bra again;
}
"""


def scopes(t: int) -> int:
    n = max(t, 1)
    return n + -(-(100 - n) // 10) * 10


@covers("bra", "bra.uni", "ret")
@pytest.mark.parametrize("threads", [64, 50, 1])
@pytest.mark.parametrize(
    ("body", "expected"),
    [(NESTED, nested), (COLLATZ, collatz), (LOOPS, loops), (SCOPES, scopes)],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_lanes_that_go_different_ways(body: str, expected: Callable[[int], int], threads: int) -> None:
    out = np.full(64, 12345, np.uint32)
    run(body + store("%r9"), out, block=threads)
    assert out[:threads].tolist() == [expected(t) for t in range(threads)]
    assert (out[threads:] == 12345).all()


@pytest.mark.parametrize(
    ("body", "expected"), [(NESTED, nested), (COLLATZ, collatz), (LOOPS, loops)], ids=["nested", "collatz", "loops"]
)
def test_lanes_meet_again(body: str, expected: Callable[[int], int]) -> None:
    """Behind a branch all lanes take part in a sum."""
    out = np.zeros(32, np.uint32)
    total = "".join(f"shfl.sync.bfly.b32 %r1, %r9, {n}, 31, -1; add.s32 %r9, %r9, %r1; " for n in (16, 8, 4, 2, 1))
    run(body + total + store("%r9"), out)
    assert (out == sum(expected(t) for t in range(32))).all()


@covers("exit")
@pytest.mark.parametrize("end", ["ret", "exit"])
@pytest.mark.parametrize("guard", ["%p0", "!%p0"])
def test_lanes_that_end_leave_the_others(end: str, guard: str) -> None:
    """Shuffles and barriers then wait for those that are left."""
    out = np.full(64, 7, np.uint32)
    body = f"setp.lt.u32 %p0, %lane, 16; @{guard} {end}; shfl.sync.bfly.b32 %r0, %lane, 1, 31, -1; bar.sync 0; "
    run(body + store("%r0"), out, block=64)
    left = (LANES < 16) == (guard == "!%p0")
    assert (out.reshape(2, 32) == np.where(left, LANES ^ 1, 7)).all()


def test_the_end_of_an_entry_ends_its_threads() -> None:
    out = np.zeros(32, np.uint32)
    text = entry("setp.lt.u32 %p0, %lane, 9; @%p0 bra end; " + store("%lane") + "end:", [out]).replace("ret;", "")
    assert ptx_module.run_ptx(text, "k", out) == ""
    assert out.tolist() == [lane if lane >= 9 else 0 for lane in range(32)]


@covers("trap")
def test_trap() -> None:
    wrong = problem("setp.eq.u32 %p0, %lane, 3; @%p0 trap;")
    assert wrong.startswith("k: block (0, 0, 0), warp 0, PTX line") and "@%p0 trap: traps" in wrong
    assert problem("setp.eq.u32 %p0, %lane, 32; @%p0 trap;") == ""


# ---- bar.sync, bar.warp.sync


def exchange(rounds: int, before: str = "bar.sync 0;", after: str = "bar.sync 0;") -> str:
    """Each round threads leave a number in shared memory, and add what the one 33 before them left."""
    body = "mov.u32 %r9, 0; mov.u32 %r0, buffer; mad.lo.s32 %r1, %thread, 4, %r0; "
    body += "add.s32 %r2, %thread, 63; rem.u32 %r2, %r2, 96; mad.lo.s32 %r2, %r2, 4, %r0; "
    for i in range(rounds):
        body += f"mad.lo.s32 %r3, %thread, 3, {i}; st.shared.u32 [%r1], %r3; {before} "
        body += f"ld.shared.u32 %r4, [%r2]; {after} mad.lo.s32 %r9, %r9, 5, %r4; "
    return body + store("%r9")


@covers("bar.sync")
@SCHEDULES
@pytest.mark.parametrize("form", ["bar.sync 0;", "bar.sync 15, 96;", "mov.u32 %r5, 96; bar.sync 3, %r5;"])
def test_barriers_order_warps(form: str, schedule: int) -> None:
    out = np.zeros(96, np.uint32)
    run(exchange(3, form, form), out, block=96, shared=384, schedule=schedule)
    partner = (np.arange(96) + 63) % 96
    assert (out == (partner * 3 * 5 + partner * 3 + 1) * 5 + partner * 3 + 2).all()


@SCHEDULES
@pytest.mark.parametrize("missing", ["before", "after"])
def test_without_a_barrier_warps_race(missing: str, schedule: int) -> None:
    body = exchange(3, **{missing: ""})
    wrong = problem(body, np.zeros(96, np.uint32), block=96, shared=384, schedule=schedule)
    assert "a race in shared memory" in wrong or "of shared memory, which nobody has written" in wrong


@SCHEDULES
def test_a_barrier_of_some_warps(schedule: int) -> None:
    """Warps 0 and 2 of three meet at barrier 1, warp 1 does not."""
    out = np.zeros(96, np.uint32)
    body = "mov.u32 %r9, 5; shr.u32 %r1, %thread, 5; setp.eq.s32 %p0, %r1, 1; @%p0 bra end; mov.u32 %r0, buffer; "
    body += "mad.lo.s32 %r2, %thread, 4, %r0; st.shared.u32 [%r2], %thread; bar.sync 1, 64; "
    body += "xor.b32 %r2, %thread, 64; mad.lo.s32 %r2, %r2, 4, %r0; ld.shared.u32 %r9, [%r2]; end: "
    run(body + store("%r9"), out, block=96, shared=384, schedule=schedule)
    assert out.reshape(3, 32).tolist() == [(LANES + 64).tolist(), [5] * 32, LANES.tolist()]


BARRIER_FAULTS: list[tuple[str, str]] = [
    ("bar.sync 16;", "barrier 16 of 16"),
    ("bar.sync 0, 40;", "a barrier of 40 threads, no multiple of 32"),
    ("setp.lt.s32 %p0, %lane, 16; @%p0 bar.sync 0;", "nothing in the block can go on"),
    ("setp.lt.s32 %p0, %thread, 32; @%p0 bra end; bar.sync 0; end: bar.sync 1;", "nothing in the block can go on"),
    ("bar.warp.sync 0xFFFE;", "by lanes outside its own mask"),
    ("setp.lt.s32 %p0, %lane, 16; @%p0 bar.warp.sync -1; bar.sync 0;", "nothing in the block can go on"),
    ("setmaxnreg.inc.sync.aligned.u32 20;", "setmaxnreg of 20: expected 24 to 256, a multiple of 8"),
    ("setmaxnreg.dec.sync.aligned.u32 260;", "setmaxnreg of 260"),
    ("setmaxnreg.dec.sync.aligned.u32 60;", "setmaxnreg of 60"),
]


@pytest.mark.parametrize("row", BARRIER_FAULTS, ids=lambda row: row[0])
def test_misused_barriers(row: tuple[str, str]) -> None:
    body, fault = row
    assert fault in problem(body, block=64)


@covers("setmaxnreg.inc.sync.aligned.u32", "setmaxnreg.dec.sync.aligned.u32")
@pytest.mark.parametrize("count", [24, 40, 232, 256])
def test_register_counts_change_no_values(count: int) -> None:
    out = np.zeros(64, np.uint32)
    body = f"setmaxnreg.dec.sync.aligned.u32 {count}; setmaxnreg.inc.sync.aligned.u32 {count}; "
    run(body + store("%thread"), out, block=64)
    assert (out == np.arange(64)).all()


@covers("bar.warp.sync")
@pytest.mark.parametrize(("mask", "lanes"), [("-1", 32), ("0xFFFF", 16)])
def test_a_barrier_of_a_warp(mask: str, lanes: int) -> None:
    body = f"mov.u32 %r9, 99; setp.ge.s32 %p0, %lane, {lanes}; @%p0 bra end; mov.u32 %r0, buffer; "
    body += f"mad.lo.s32 %r1, %lane, 4, %r0; st.shared.u32 [%r1], %lane; bar.warp.sync {mask}; "
    body += "xor.b32 %r1, %lane, 9; mad.lo.s32 %r1, %r1, 4, %r0; ld.shared.u32 %r9, [%r1]; end: "
    out = np.zeros(32, np.uint32)
    run(body + store("%r9"), out, shared=128)
    lane = np.arange(32)
    assert (out == np.where(lane < lanes, lane ^ 9, 99)).all()
    wrong = problem(body.replace(f"bar.warp.sync {mask};", "") + store("%r9"), out, shared=128)
    assert "a race in shared memory" in wrong


# ---- shfl.sync


def shuffled(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """9.7.9.6: which lane's value a lane gets, and the predicate."""
    segment, clamp, b = c >> 8 & 31, c & 31, b & 31
    last, first = (lane & segment) | (clamp & ~segment), lane & segment
    j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": first | (b & ~segment)}[mode]
    inside = j >= last if mode == "up" else j <= last
    return (j if inside else lane), inside


CONTROLS = [0x1F, 0, 0x0F, 5, 0x181F, 0x1800, 0x1C03, 0x1E1F, 0x1F00, 0x1F1F]


@covers(*(f"shfl.sync.{mode}.b32" for mode in ("up", "down", "bfly", "idx")))
@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("control", CONTROLS, ids=hex)
def test_shuffles(mode: str, control: int) -> None:
    """With one b for all lanes, and one for each; b from 32 on counts by its lowest five bits."""
    rng = np.random.default_rng(0)
    for b in [*(np.full(32, n) for n in (0, 1, 3, 8, 16, 31, 33)), *rng.integers(0, 64, (4, 32))]:
        values, out = rng.integers(0, 2**32, 32, np.uint32), np.zeros((2, 32), np.uint32)
        body = "mul.wide.u32 %d0, %lane, 4; add.s64 %d1, %d0, %a0; ld.global.u32 %r1, [%d1]; "
        body += "add.s64 %d1, %d0, %a1; ld.global.u32 %r2, [%d1]; "
        body += f"shfl.sync.{mode}.b32 %r3|%p1, %r1, %r2, {control}, -1; selp.u32 %r4, 1, 0, %p1; "
        body += "add.s64 %d1, %d0, %a2; st.global.u32 [%d1], %r3; st.global.u32 [%d1+128], %r4; "
        run(body, values, b.astype(np.uint32), out)
        expected = [shuffled(mode, lane, int(b[lane]), control) for lane in range(32)]
        assert out[0].tolist() == [int(values[j]) for j, _ in expected]
        assert out[1].tolist() == [int(inside) for _, inside in expected]


# By hand: mode, b, c, the lanes that 0, 1, 7, 8, 30 and 31 get, which of them are out of range.
SHUFFLES: list[tuple[str, int, int, list[int], list[int]]] = [
    ("bfly", 16, 0x1F, [16, 17, 23, 24, 14, 15], []),
    ("bfly", 1, 0x1F, [1, 0, 6, 9, 31, 30], []),
    ("up", 1, 0, [0, 0, 6, 7, 29, 30], [0]),
    ("down", 1, 0x1F, [1, 2, 8, 9, 31, 31], [31]),
    ("idx", 7, 0x1F, [7, 7, 7, 7, 7, 7], []),
    ("idx", 2, 0x181F, [2, 2, 2, 10, 26, 26], []),  # segments of eight lanes
    ("down", 1, 0x181F, [1, 2, 7, 9, 31, 31], [7, 31]),
    ("up", 1, 0x1800, [0, 0, 6, 8, 29, 30], [0, 8]),
    ("bfly", 4, 0x1803, [0, 1, 3, 8, 26, 27], [0, 1, 8]),
]


@pytest.mark.parametrize("row", SHUFFLES, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]:x}")
def test_shuffles_by_hand(row: tuple[str, int, int, list[int], list[int]]) -> None:
    mode, b, c, source, outside = row
    out = np.zeros(32, np.uint32)
    run(f"shfl.sync.{mode}.b32 %r0|%p0, %lane, {b}, {c}, -1; @!%p0 add.s32 %r0, %r0, 100; " + store("%r0"), out)
    lanes = [0, 1, 7, 8, 30, 31]
    assert out[lanes].tolist() == [j + 100 * (lane in outside) for lane, j in zip(lanes, source, strict=True)]


def test_a_shuffle_of_some_lanes() -> None:
    out = np.zeros(32, np.uint32)
    body = "mov.u32 %r0, 99; setp.lt.s32 %p0, %lane, 16; @%p0 shfl.sync.bfly.b32 %r0, %lane, 8, 31, 0xFFFF; "
    run(body + store("%r0"), out)
    assert (out == np.where(LANES < 16, LANES ^ 8, 99)).all()


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (
            "setp.lt.s32 %p0, %lane, 16; @%p0 shfl.sync.bfly.b32 %r0, %lane, 16, 31, 0xFFFF;",
            "shfl.sync from lane 16, which does not take part",
        ),
        ("shfl.sync.bfly.b32 %r0, %lane, 1, 31, 0xFFFF;", "by a lane outside its own mask"),
        ("xor.b32 %r1, %lane, -1; shfl.sync.bfly.b32 %r0, %lane, 1, 31, %r1;", "with different masks"),
        (
            "setp.lt.s32 %p0, %lane, 16; @%p0 bra end; shfl.sync.bfly.b32 %r0, %lane, 1, 31, -1; end: bar.sync 0;",
            "nothing in the block can go on",
        ),
    ],
    ids=["absent source", "not in its mask", "masks differ", "never comes"],
)
def test_misused_shuffles(body: str, fault: str) -> None:
    assert fault in problem(body)


# ---- mbarrier


def init(count: int, at: int = 8) -> str:
    """By the block's first thread, in byte ``at`` of shared memory; %p1 is true in each warp's first lane."""
    text = "mov.u32 %r0, buffer; setp.eq.s32 %p0, %thread, 0; setp.eq.s32 %p1, %lane, 0; "
    return text + f"@%p0 mbarrier.init.shared::cta.b64 [%r0+{at}], {count}; bar.sync 0; "


def wait(parity: int | str, at: int = 8) -> str:
    text = f"{{ .reg .pred p; again: mbarrier.try_wait.parity.shared::cta.b64 p, [%r0+{at}], {parity}; "
    return text + "@!p bra again; } "


def arrive(at: int = 8) -> str:
    return f"mbarrier.arrive.shared::cta.b64 _, [%r0+{at}]; "


EXPECT_16 = "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r0+8], 16; "


@covers("mbarrier.init.shared::cta.b64", "mbarrier.arrive.shared::cta.b64", "mbarrier.try_wait.parity.shared::cta.b64")
@SCHEDULES
def test_phases_of_an_mbarrier(schedule: int) -> None:
    """In each of five phases a lane of each warp leaves a number, then arrives; who waits for it finds them all."""
    body = init(3) + "shr.u32 %r1, %thread, 5; mad.lo.s32 %r2, %r1, 4, %r0; mov.u32 %r9, 0; "
    for phase in range(5):
        at = 64 + 16 * phase
        body += f"mad.lo.s32 %r3, %r1, 10, {phase}; @%p1 st.shared.u32 [%r2+{at}], %r3; @%p1 {arrive()}"
        body += wait(phase % 2)
        for warp in range(3):
            body += f"ld.shared.u32 %r4, [%r0+{at + 4 * warp}]; mad.lo.s32 %r9, %r9, 3, %r4; "
    out, expected = np.zeros(96, np.uint32), 0
    for phase in range(5):
        for warp in range(3):
            expected = expected * 3 + warp * 10 + phase
    run(body + store("%r9"), out, block=96, shared=256, schedule=schedule)
    assert (out == expected % 2**32).all()


@SCHEDULES
def test_a_ring_between_two_mbarriers(schedule: int) -> None:
    """Warp 0 fills one place six times, warp 1 empties it: each waits for the other's phase."""
    full, empty = 8, 16
    # The producer waits at first for the phase before the first one, which is complete.
    body = f"""
{init(1, full)}{init(1, empty)}
mov.u32 %r9, 0;
mov.u32 %r5, 0;
setp.ge.s32 %p2, %thread, 32;
@%p2 bra consumer;
producer: and.b32 %r6, %r5, 1;
xor.b32 %r6, %r6, 1;
{wait("%r6", empty)}
mad.lo.s32 %r8, %r5, 7, 1;
@%p1 st.shared.u32 [%r0+64], %r8;
@%p1 {arrive(full)}
add.s32 %r5, %r5, 1;
setp.lt.s32 %p3, %r5, 6;
@%p3 bra producer;
bra end;
consumer: and.b32 %r6, %r5, 1;
{wait("%r6", full)}
ld.shared.u32 %r8, [%r0+64];
mad.lo.s32 %r9, %r9, 3, %r8;
bar.warp.sync -1;
@%p1 {arrive(empty)}
add.s32 %r5, %r5, 1;
setp.lt.s32 %p3, %r5, 6;
@%p3 bra consumer;
end:
"""
    out, expected = np.zeros(64, np.uint32), 0
    for i in range(6):
        expected = expected * 3 + 7 * i + 1
    run(body + store("%r9"), out, block=64, shared=256, schedule=schedule)
    assert out.tolist() == [0] * 32 + [expected] * 32


MBARRIER_FAULTS: list[tuple[str, str]] = [
    (init(0), "an mbarrier of 0 arrivals"),
    (init(2**20), "an mbarrier of 1048576 arrivals"),
    (init(1) + init(1), "initialises an mbarrier twice"),
    (init(1) + "ld.shared.u32 %r1, [%r0+8];", "reads byte 8 of shared memory, which is an mbarrier"),
    (init(1, 12), "no multiple of 8"),
    ("mov.u32 %r0, buffer; " + arrive(), "no mbarrier was initialised at byte 8"),
    (init(33) + "@%p0 " + arrive() + wait(0), "nothing in the block can go on: warp 0 at line"),
    (
        init(1).replace("bar.sync 0;", "") + "setp.ge.s32 %p2, %thread, 32; @%p2 " + arrive(),
        "uses an mbarrier that another warp initialised",
    ),
    (init(1) + EXPECT_16 + "@%p0 " + arrive(), "all of this phase have arrived"),
    (init(1) + EXPECT_16, "ends while an mbarrier waits for 16 bytes"),
    (init(1) + EXPECT_16 + wait(0), "nothing in the block can go on"),
]


@pytest.mark.parametrize("row", MBARRIER_FAULTS, ids=lambda row: row[1])
def test_misused_mbarriers(row: tuple[str, str]) -> None:
    body, fault = row
    assert fault in problem(body, block=64, shared=64)


def test_an_arrival_that_expects_nothing_completes_a_phase() -> None:
    out = np.zeros(64, np.uint32)
    run(init(1) + EXPECT_16.replace("16", "0") + wait(0) + store("%thread"), out, block=64, shared=64)
    assert (out == np.arange(64)).all()
