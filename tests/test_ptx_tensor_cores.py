"""Known answers of tensor_cores.cpp: ldmatrix, mma, wgmma (PTX ISA, sections 9.7.14.5 and 9.7.15).

All numbers are small integers, so that sums are exact: a wrong element shows, however they are rounded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16
from numpy.typing import NDArray
from ptx_forms import covers, needs_ptx, problem, run

pytestmark = needs_ptx

EARLY = pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
LANE = np.arange(32)
GROUP, IN_GROUP = LANE >> 2, LANE % 4  # the ISA's groupID and threadID_in_group

# ---- ldmatrix

LDMATRIX = "ldmatrix.sync.aligned.m8n8.x4{}.shared.b16"
FILL = """
mov.u32 %r0, buffer;
mul.wide.u32 %d0, %thread, 16;
add.s64 %d0, %a0, %d0;
mad.lo.s32 %r1, %thread, 16, %r0;
mov.u32 %r2, %thread;
fill: setp.ge.u32 %p0, %r2, {parts};
@%p0 bra filled;
ld.global.v4.u32 {{%r3, %r4, %r5, %r6}}, [%d0];
st.shared.v4.u32 [%r1], {{%r3, %r4, %r5, %r6}};
mov.u32 %r3, %ntid.x;
add.s32 %r2, %r2, %r3;
mad.lo.s32 %r1, %r3, 16, %r1;
mul.wide.u32 %d1, %r3, 16;
add.s64 %d0, %d0, %d1;
bra fill;
filled:
"""  # buffer gets the `parts` times 16 bytes of %a0


@covers(LDMATRIX.format(""), LDMATRIX.format(".trans"))
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(transposed: bool) -> None:
    """Lane l holds the address of row l % 8 of matrix l / 8; rows lie anywhere. It gets two neighbours of row l / 4 of
    each matrix, or of each transposed one."""
    rng = np.random.default_rng(0)
    memory = rng.permutation(2**16)[: 64 * 8].astype(np.uint16).reshape(64, 8)  # no value twice
    rows = rng.permutation(63)[:32]
    out = np.zeros((4, 32), np.uint32)
    body = (
        FILL.format(parts=64)
        + "bar.sync 0; mul.wide.u32 %d0, %lane, 4; add.s64 %d1, %a1, %d0; ld.global.u32 %r1, [%d1]; "
    )
    form = LDMATRIX.format(".trans" if transposed else "")
    body += f"mad.lo.s32 %r1, %r1, 16, %r0; {form} {{%r2, %r3, %r4, %r5}}, [%r1+16]; "
    body += "add.s64 %d1, %a2, %d0; " + "".join(f"st.global.u32 [%d1+{128 * i}], %r{2 + i}; " for i in range(4))
    run(body, memory, rows.astype(np.uint32), out, shared=1024)
    for i in range(4):
        matrix = memory[rows[8 * i : 8 * i + 8] + 1]
        matrix = matrix.T if transposed else matrix
        low, high = matrix[GROUP, 2 * IN_GROUP], matrix[GROUP, 2 * IN_GROUP + 1]
        assert (out[i] == low | high.astype(np.uint32) << 16).all()


def test_ldmatrix_needs_whole_warps_and_aligned_rows() -> None:
    load, memory = LDMATRIX.format("") + " {%r2, %r3, %r4, %r5}, [%r0];", np.zeros((64, 8), np.uint16)
    for before, block, fault in [
        ("add.s32 %r0, %r0, 8;", 32, "no multiple of 16"),
        ("", 40, "by a warp of which lanes are missing"),
        ("setp.lt.u32 %p0, %lane, 8; @%p0 bra end;", 32, "nothing in the block can go on"),
    ]:
        body = f"{FILL.format(parts=64)}bar.sync 0; {before}\n{load}\nend: bar.sync 0;"
        assert fault in problem(body, memory, block=block, shared=1024)


# ---- mma: D = A B + C with A (16, K), B (K, 8)

MMA_BF16 = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
MMA_TF32 = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"


def stacked(values: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.ascontiguousarray(np.stack(values, -1), dtype)


def accumulators(c: NDArray[Any]) -> NDArray[np.float32]:
    """c0 to c3 of each lane (9.7.14.5.7, 9.7.14.5.8)."""
    rows = [GROUP if i < 2 else GROUP + 8 for i in range(4)]
    return stacked([c[..., rows[i], 2 * IN_GROUP + (i & 1)] for i in range(4)], np.float32)


def tf32_fragments(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """9.7.14.5.7: a0 to a3 and b0, b1 of each lane, a register each."""
    rows, columns = [GROUP, GROUP + 8, GROUP, GROUP + 8], [IN_GROUP, IN_GROUP, IN_GROUP + 4, IN_GROUP + 4]
    a = stacked([a[..., rows[i], columns[i]] for i in range(4)], np.float32)
    b = stacked([b[..., IN_GROUP + 4 * i, GROUP] for i in range(2)], np.float32)
    return a.view(np.uint32), b.view(np.uint32)


def bf16_fragments(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """9.7.14.5.8: a0 to a7 and b0 to b3 of each lane, two a register."""
    rows = [GROUP if i < 2 or 4 <= i < 6 else GROUP + 8 for i in range(8)]
    columns = [2 * IN_GROUP + (i & 1) + (8 if i >= 4 else 0) for i in range(8)]
    a = stacked([a[..., rows[i], columns[i]] for i in range(8)], bfloat16)
    b = stacked([b[..., 2 * IN_GROUP + (i & 1) + (8 if i >= 2 else 0), GROUP] for i in range(4)], bfloat16)
    return a.view(np.uint32), b.view(np.uint32)


MMA_BODY = """
mov.u32 %r0, %ctaid.x;
mad.lo.s32 %r0, %r0, 32, %lane;
mul.wide.u32 %d0, %r0, 16;
mul.wide.u32 %d1, %r0, 8;
add.s64 %d2, %a0, %d0;
add.s64 %d3, %a1, %d1;
add.s64 %d4, %a2, %d0;
add.s64 %d5, %a3, %d0;
ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%d2];
ld.global.v2.u32 {{%r5, %r6}}, [%d3];
ld.global.v4.f32 {{%f1, %f2, %f3, %f4}}, [%d4];
{form} {{%f5, %f6, %f7, %f8}}, {{%r1, %r2, %r3, %r4}}, {{%r5, %r6}}, {{%f1, %f2, %f3, %f4}};
st.global.v4.f32 [%d5], {{%f5, %f6, %f7, %f8}};
"""


@covers(MMA_BF16, MMA_TF32)
@pytest.mark.parametrize(
    ("form", "depth", "fragments"),
    [(MMA_TF32, 8, tf32_fragments), (MMA_BF16, 16, bf16_fragments)],
    ids=["tf32", "bf16"],
)
def test_mma(form: str, depth: int, fragments: Callable[..., Any]) -> None:
    """A block each for every matrix A that is 1 at one place, for every such B, and for matrices of random integers."""
    rng = np.random.default_rng(0)
    ones_a = np.eye(16 * depth).reshape(-1, 16, depth)
    ones_b = np.eye(depth * 8).reshape(-1, depth, 8)
    n, m = len(ones_a), len(ones_b)
    a = np.concatenate([ones_a, rng.integers(-9, 10, (m + 8, 16, depth))])
    b = np.concatenate([rng.integers(-9, 10, (n, depth, 8)), ones_b, rng.integers(-9, 10, (8, depth, 8))])
    c = rng.integers(-99, 100, (n + m + 8, 16, 8))
    out = np.full((n + m + 8, 32, 4), np.nan, np.float32)
    run(MMA_BODY.format(form=form), *fragments(a, b), accumulators(c), out, grid=len(c))
    assert (out == accumulators(a @ b + c)).all()


# ---- wgmma: D = A B (+ D) with A (64, K), B (K, N) in shared memory


@dataclass(frozen=True)
class Layout:
    """Of a matrix, rows (M or N) by k: the ISA's canonical layouts (9.7.15.5.1.2.1.3), T elements being 16 bytes."""

    across: bool = False  # MN-major: rows run fastest
    swizzle: bool = False  # of 128 bytes
    near: bool = False  # which of both strides is the smaller one

    @property
    def name(self) -> str:
        return ("MN" if self.across else "K") + ("-128" if self.swizzle else "") + ("-near" if self.near else "")

    def strides(self, rows: int, depth: int, itemsize: int) -> tuple[int, int]:
        """Bytes of the leading and the stride dimension's offset."""
        if self.across:  # to the next 64 rows; to the next 8 k
            return (1024, 1024 * -(-rows // 64)) if self.near else (1024 * (depth // 8), 1024)
        if self.swizzle:  # not used; to the next 8 rows
            return 16, 1024
        parts = depth * itemsize // 16  # to the next 16 bytes of k; to the next 8 rows
        return (128, 128 * parts + 128) if self.near else (16 * rows + 128, 128)

    def place(self, row: NDArray[Any], k: NDArray[Any], itemsize: int, lead: int, stride: int) -> NDArray[Any]:
        """The bytes at which elements lie."""
        t = 16 // itemsize
        if self.across:
            at = (row % t + row // t % 8 * t + k % 8 * 8 * t) * itemsize + row // (8 * t) * lead + k // 8 * stride
        elif self.swizzle:
            at = (row % 8 * 8 * t + k % t + k // t * t) * itemsize + row // 8 * stride
        else:
            at = (row % 8 * t + k % t) * itemsize + row // 8 * stride + k // t * lead
        return at ^ (at >> 3 & 0x70) if self.swizzle else at  # Swizzle<3, 4, 3>

    def step(self, depth: int, itemsize: int, lead: int, stride: int) -> int:
        """Bytes to the next ``depth`` of k."""
        if self.across:
            return depth // 8 * stride
        return depth * itemsize if self.swizzle else depth * itemsize // 16 * lead


PLAIN, SWIZZLED, ACROSS = Layout(), Layout(swizzle=True), Layout(across=True, swizzle=True)
LAYOUTS = [PLAIN, Layout(near=True), SWIZZLED, ACROSS, Layout(across=True, swizzle=True, near=True)]
K = {2: 64, 4: 32}  # by an element's bytes: rows of 128 bytes
DEPTH = {2: 16, 4: 8}  # of one wgmma


def wgmma_form(n: int, itemsize: int) -> str:
    kind = "bf16.bf16" if itemsize == 2 else "tf32.tf32"
    return f"wgmma.mma_async.sync.aligned.m64n{n}k{DEPTH[itemsize]}.f32.{kind}"


@dataclass
class Product:
    """The matrices of one test, their image in shared memory, and the PTX that multiplies them."""

    a: NDArray[Any]  # (64, K)
    b: NDArray[Any]  # (N, K)
    layouts: tuple[Layout, Layout]
    accumulate: bool = True
    threads: int = 128

    def __post_init__(self) -> None:
        self.itemsize = self.a.itemsize
        self.starts, self.descriptors, self.steps = [], [], []
        image = np.zeros(0, np.uint8)
        for matrix, layout in zip((self.a, self.b), self.layouts, strict=True):
            rows, depth = matrix.shape
            lead, stride = layout.strides(rows, depth, self.itemsize)
            at = layout.place(*np.indices(matrix.shape), self.itemsize, lead, stride)
            part = np.full((at.max() // 1024 + 1) * 1024, 0xEE, np.uint8)
            places = at[:, :, None] + np.arange(self.itemsize)
            assert len(np.unique(places)) == places.size
            part[places] = np.ascontiguousarray(matrix).view(np.uint8).reshape(places.shape)
            self.starts.append(len(image) + 1024)
            self.descriptors.append(lead >> 4 << 16 | stride >> 4 << 32 | (1 << 62 if layout.swizzle else 0))
            self.steps.append(layout.step(DEPTH[self.itemsize], self.itemsize, lead, stride))
            image = np.concatenate([image, part])
        self.image = np.concatenate([np.zeros(1024, np.uint8), image])
        self.registers = len(self.b) // 2

    def body(self) -> str:
        """Arrays: the image; D before and after, a row a register, a column a thread."""
        n = len(self.b)
        d = ", ".join(f"%f{r}" for r in range(self.registers))
        transposes = "".join(f", {int(layout.across)}" for layout in self.layouts) if self.itemsize == 2 else ""
        text = FILL.format(parts=len(self.image) // 16) + "fence.proxy.async; bar.sync 0; "
        for i in range(2):
            text += f"add.s32 %r1, %r0, {self.starts[i]}; shr.u32 %r1, %r1, 4; and.b32 %r1, %r1, 16383; "
            text += (
                f"cvt.u64.u32 %d{2 + i}, %r1; mov.b64 %d4, {self.descriptors[i]}; or.b64 %d{2 + i}, %d{2 + i}, %d4; "
            )
        text += "mul.wide.u32 %d0, %thread, 4; add.s64 %d4, %a1, %d0; add.s64 %d5, %a2, %d0; "
        text += "".join(f"ld.global.f32 %f{r}, [%d4+{4 * self.threads * r}]; " for r in range(self.registers))
        text += f"setp.ne.s32 %p1, {int(self.accumulate)}, 0; wgmma.fence.sync.aligned; "
        for step in range(K[self.itemsize] // DEPTH[self.itemsize]):
            if step:
                text += f"add.s64 %d2, %d2, {self.steps[0] >> 4}; add.s64 %d3, %d3, {self.steps[1] >> 4}; "
                text += "setp.eq.s32 %p1, 0, 0; "
            text += f"{wgmma_form(n, self.itemsize)} {{{d}}}, %d2, %d3, %p1, 1, 1{transposes}; "
        text += "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; "
        return text + "".join(f"st.global.f32 [%d5+{4 * self.threads * r}], %f{r}; " for r in range(self.registers))

    def fragments(self, d: NDArray[Any]) -> NDArray[np.float32]:
        """Of D (64, N), a row a register, a column a thread: figures 149 and 151."""
        thread, r = np.arange(self.threads) % 128, np.arange(self.registers)[:, None]
        row = thread // 32 * 16 + thread % 32 // 4 + r // 2 % 2 * 8
        return np.ascontiguousarray(d[row, r // 4 * 8 + thread % 4 * 2 + r % 2], np.float32)

    def arrays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        before = np.random.default_rng(1).integers(-99, 100, (64, len(self.b)))
        self.expected = self.fragments(self.a.astype(int) @ self.b.T.astype(int) + self.accumulate * before)
        return self.image, self.fragments(before), np.full((self.registers, self.threads), np.nan, np.float32)

    def run(self, early: bool = False) -> NDArray[Any]:
        arrays = self.arrays()
        run(self.body(), *arrays, block=self.threads, shared=len(self.image), early=early)
        return arrays[2]

    def problem(self, old: str, new: str) -> str:
        body = self.body()
        assert old in body
        return problem(body.replace(old, new), *self.arrays(), block=self.threads, shared=len(self.image))


def product(n: int, itemsize: int, a: Layout, b: Layout, **more: Any) -> Product:
    rng = np.random.default_rng(n)
    shapes = (64, K[itemsize]), (n, K[itemsize])
    matrices = [rng.integers(-9, 10, shape).astype({2: bfloat16, 4: np.float32}[itemsize]) for shape in shapes]
    return Product(*matrices, (a, b), **more)


WIDTHS = (64, 96, 128)
PAIRS = [
    pytest.param(itemsize, a, b, id=f"{'bf16' if itemsize == 2 else 'tf32'}-{a.name}-{b.name}")
    for itemsize, a, b in itertools.product((2, 4), LAYOUTS, LAYOUTS)
    if itemsize == 2 or not (a.across or b.across)  # only operands of 16 bits can be transposed
]


@covers(*(wgmma_form(n, itemsize) for n in WIDTHS for itemsize in (2, 4)))
@covers(
    "wgmma.fence.sync.aligned", "wgmma.commit_group.sync.aligned", "wgmma.wait_group.sync.aligned", "fence.proxy.async"
)
@EARLY
@pytest.mark.parametrize(("itemsize", "a", "b"), PAIRS)
@pytest.mark.parametrize("n", WIDTHS)
def test_wgmma(n: int, itemsize: int, a: Layout, b: Layout, early: bool) -> None:
    """Sums over 64 k (32 in tf32) in four steps, onto what D held before, or not."""
    for accumulate in (True, False):
        p = product(n, itemsize, a, b, accumulate=accumulate)
        assert (p.run(early) == p.expected).all()


def test_two_warpgroups() -> None:
    p = product(64, 2, SWIZZLED, SWIZZLED, threads=256)
    assert (p.run() == p.expected).all()


def test_where_the_swizzle_puts_elements() -> None:
    """By hand: of bf16 in rows of 128 bytes, 16-byte part 0 of row 1 lies at part 1, of row 7 at part 7."""
    places = SWIZZLED.place(np.array([0, 0, 1, 1, 7, 8]), np.array([0, 9, 0, 8, 1, 0]), 2, 16, 1024)
    assert places.tolist() == [0, 18, 128 + 16, 128, 7 * 128 + 112 + 2, 1024]


@EARLY
def test_waiting_for_all_but_the_newest_product(early: bool) -> None:
    """Of two groups the older one's D may be read, the newer one's not yet."""
    p, commit, wait = (
        product(64, 4, SWIZZLED, SWIZZLED),
        "wgmma.commit_group.sync.aligned; ",
        "wgmma.wait_group.sync.aligned {}; ",
    )
    others = [f"%f{40 + r}" for r in range(p.registers)]
    zeros = "setp.ne.s32 %p2, 0, 0; " + "".join(f"mov.f32 {f}, 0f00000000; " for f in others)
    second = f"{wgmma_form(64, 4)} {{{', '.join(others)}}}, %d2, %d3, %p2, 1, 1; {commit}{wait.format(1)}"
    body = p.body().replace("wgmma.fence", zeros + "wgmma.fence").replace(wait.format(0), second)
    arrays, launch = p.arrays(), {"block": p.threads, "shared": len(p.image), "early": early}
    run(body + wait.format(0), *arrays, **launch)
    assert (arrays[2] == p.expected).all()
    wrong = problem(f"{body}add.f32 %f0, %f40, %f40; {wait.format(0)}", *arrays, **launch)
    assert "that a wgmma under way will write" in wrong


WGMMA_FAULTS: list[tuple[str, str, str]] = [
    ("fence.proxy.async; ", "", "without fence.proxy.async after its write"),
    ("wgmma.fence.sync.aligned; ", "", "wgmma without wgmma.fence after its accumulators were written"),
    ("wgmma.commit_group.sync.aligned; ", "", "that a wgmma under way will write"),
    ("wgmma.wait_group.sync.aligned 0; ", "", "that a wgmma under way will write"),
    (
        "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; st",
        "ret; st",
        "ends while wgmmas are under way",
    ),
    (", 1, 1;", ", 1, -1;", "wgmma with a sign of -1, which this executor does not know"),
    (
        "wgmma.fence.sync.aligned; ",
        "add.s64 %d2, %d2, 4611686018427387904; wgmma.fence.sync.aligned; ",  # mode 2: a swizzle of 64 bytes
        "wgmma with a layout that this executor does not know",
    ),
    (
        "wgmma.fence.sync.aligned; ",
        "or.b64 %d2, %d2, 562949953421312; wgmma.fence.sync.aligned; ",
        "wgmma with a base offset",
    ),
    (
        "wgmma.fence.sync.aligned; ",
        "setp.eq.s32 %p1, %lane, 5; wgmma.fence.sync.aligned; ",
        "wgmma with operands that differ within the warp",
    ),
    (
        "wgmma.fence.sync.aligned; ",
        "setp.lt.u32 %p1, %thread, 32; wgmma.fence.sync.aligned; ",
        "wgmma with operands that differ within the warpgroup",
    ),
    (
        "wgmma.fence.sync.aligned; ",
        "setp.lt.u32 %p3, %thread, 96; @!%p3 ret; wgmma.fence.sync.aligned; ",
        "fewer wgmmas than another warp of its warpgroup",
    ),
    (
        "wgmma.fence.sync.aligned; ",
        "setp.lt.u32 %p3, %lane, 9; @!%p3 ret; wgmma.fence.sync.aligned; ",
        "wgmma outside a whole warpgroup",
    ),
]


@pytest.mark.parametrize("row", WGMMA_FAULTS, ids=lambda row: row[2])
def test_misused_wgmma(row: tuple[str, str, str]) -> None:
    old, new, fault = row
    assert fault in product(64, 4, SWIZZLED, SWIZZLED).problem(old, new)
