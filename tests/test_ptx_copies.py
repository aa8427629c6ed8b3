"""Known answers of copies.cpp and of the runtime's tensor maps: cp.async and TMA.

PTX ISA, sections 9.7.9.25 and 5.5; CUDA driver API, tensor map objects.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ptx_module
import pytest
from ml_dtypes import bfloat16
from numpy.typing import NDArray
from ptx_forms import covers, needs_ptx, problem, run

pytestmark = needs_ptx

EARLY = pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
WAIT = "cp.async.commit_group; cp.async.wait_group 0; "

# ---- cp.async


def copied(form: str, size: int) -> str:
    """Lane l copies from %a0 + l size to its place in shared memory; the first %r1 bytes, from %a1, count."""
    return f"""
mov.u32 %r0, buffer;
mad.lo.s32 %r0, %lane, {size}, %r0;
mul.wide.u32 %d0, %lane, {size};
add.s64 %d0, %a0, %d0;
mul.wide.u32 %d1, %lane, 4;
add.s64 %d1, %a1, %d1;
ld.global.u32 %r1, [%d1];
{form}
"""


def read_back(size: int, array: str = "%a2") -> str:
    """A lane's place in shared memory into an array, four bytes at a time."""
    text = f"mul.wide.u32 %d2, %lane, {size}; add.s64 %d2, {array}, %d2; "
    return text + "".join(f"ld.shared.u32 %r2, [%r0+{i}]; st.global.u32 [%d2+{i}], %r2; " for i in range(0, size, 4))


@covers("cp.async.ca.shared.global", "cp.async.cg.shared.global", "cp.async.commit_group", "cp.async.wait_group")
@EARLY
@pytest.mark.parametrize(("form", "size"), [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)])
def test_copies_fill_the_rest_with_zeros(form: str, size: int, early: bool) -> None:
    """Lane l copies the first l bytes, at most all; the memory ends with the last byte that counts."""
    valid = np.minimum(np.arange(32, dtype=np.uint32), size)
    memory = np.arange(1, 32 * size + 1).astype(np.uint8)
    out = np.full((32, size), 99, np.uint8)
    instruction = f"cp.async.{form}.shared.global [%r0], [%d0], {size}, %r1;"
    run(copied(instruction, size) + WAIT + read_back(size), memory, valid, out, shared=512, early=early)
    expected = np.where(np.arange(size) < valid[:, None], memory.reshape(32, size), 0)
    assert (out == expected).all()


@EARLY
@pytest.mark.parametrize(("form", "size"), [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)])
def test_copies_of_all_bytes(form: str, size: int, early: bool) -> None:
    """Without the number of bytes that count; from and to addresses with a constant."""
    memory = np.random.default_rng(0).integers(0, 256, (33, size), np.uint8)
    out = np.zeros((32, size), np.uint8)
    instruction = f"cp.async.{form}.shared.global [%r0+{size}], [%d0+{size}], {size}; "
    back = f"add.s32 %r0, %r0, {size}; {read_back(size)}"
    body = copied(instruction, size) + WAIT + back
    run(body, memory, np.zeros(32, np.uint32), out, shared=33 * size, early=early)
    assert (out == memory[1:]).all()


def test_copies_that_count_no_bytes_read_nothing() -> None:
    """As at an image's border, where the address is one behind the array."""
    out = np.full((32, 16), 99, np.uint8)
    body = copied("cp.async.cg.shared.global [%r0], [%d0+1048576], 16, %r1;", 16)
    run(body + WAIT + read_back(16), np.ones(16, np.uint8), np.zeros(32, np.uint32), out, shared=512)
    assert (out == 0).all()


GROUPS = "".join(
    f"cp.async.ca.shared.global [%r0+{128 * g}], [%d0+{128 * g}], 4; cp.async.commit_group; " for g in range(4)
)


@EARLY
@pytest.mark.parametrize("pending", [0, 1, 2, 3])
def test_waiting_for_all_but_the_newest_groups(pending: int, early: bool) -> None:
    """Of four groups, the last one empty: all but the newest ``pending`` may be read, the others not yet."""
    memory, out = np.arange(128, dtype=np.uint32), np.zeros(32, np.uint32)
    groups = GROUPS.replace("cp.async.ca.shared.global [%r0+384], [%d0+384], 4; ", "")

    def body(group: int) -> str:
        read = f"ld.shared.u32 %r2, [%r0+{128 * group}]; mul.wide.u32 %d2, %lane, 4; add.s64 %d2, %a2, %d2; "
        read += "st.global.u32 [%d2], %r2; "
        return copied(f"{groups}cp.async.wait_group {pending};", 4) + read + "cp.async.wait_group 0;"

    for group in range(3):
        wrong = problem(body(group), memory, np.zeros(32, np.uint32), out, shared=512, early=early)
        if group < 4 - pending:
            assert wrong == "" and (out == memory.reshape(4, 32)[group]).all()
        else:
            assert "where an asynchronous copy is under way" in wrong


COPY_FAULTS: list[tuple[str, str]] = [
    ("cp.async.ca.shared.global [%r0], [%d0], 12;", "cp.async of 12 bytes"),
    ("cp.async.cg.shared.global [%r0], [%d0], 8;", "cp.async of 8 bytes"),
    ("mov.u32 %r1, 17; cp.async.cg.shared.global [%r0], [%d0], 16, %r1;", "cp.async of 17 of 16 bytes"),
    ("cp.async.cg.shared.global [%r0], [%d0+8], 16;", "cp.async from an address that is no multiple of 16"),
    ("cp.async.cg.shared.global [%r0+8], [%d0], 16;", "cp.async to an address that is no multiple of 16"),
    ("cp.async.cg.shared.global [%r0], [%d0+16], 16;", "lies in no array of the call"),
    ("cp.async.cg.shared.global [%r0+16], [%d0], 16;", "of shared memory"),
    ("cp.async.cg.shared.global [%r0], [%d0], 16;", "ends while cp.async copies are under way"),
    (
        "cp.async.cg.shared.global [%r0], [%d0], 16; st.shared.u32 [%r0], %r1;",
        "where an asynchronous copy is under way",
    ),
]


@pytest.mark.parametrize("row", COPY_FAULTS, ids=lambda row: row[1])
def test_misused_copies(row: tuple[str, str]) -> None:
    instruction, fault = row
    assert fault in problem(copied(instruction, 16), np.zeros(512, np.uint8), np.zeros(32, np.uint32), shared=512)


# ---- tensor maps: the driver's functions, which the runtime hands out


def driver_function(name: str) -> Any:
    library, found = ptx_module.load()[1], ctypes.c_int()
    pointer = ctypes.c_void_p()
    assert (
        library.cudaGetDriverEntryPointByVersion(name.encode(), ctypes.byref(pointer), 12000, 0, ctypes.byref(found))
        == 0
    )
    return ctypes.CFUNCTYPE(ctypes.c_int)(pointer.value or 0)


def numbers(values: Sequence[int], c_type: Any) -> Any:
    return (c_type * len(values))(*values)


@dataclass(frozen=True)
class Map:
    """What the driver puts into a tensor map; dimension 0 is the contiguous one. In im2col mode ``box`` is channels and
    pixels, ``corners`` the lower and upper offset of the box of base pixels, the same in both dimensions."""

    array: NDArray[Any]
    box: Sequence[int]
    swizzle: int = 3  # CU_TENSOR_MAP_SWIZZLE_128B; 0: none
    corners: Sequence[int] = ()
    traversal: Sequence[int] = ()  # stride
    element: int = 0  # CUtensorMapDataType, else the array's
    sizes: Sequence[int] = ()
    strides: Sequence[int] = ()
    shift: int = 0  # of the address
    interleave: int = 0
    fill: int = 0  # 1: NaN

    def encode(self) -> tuple[int, Any]:
        """The driver's answer, 0 or 1 (invalid value), and the map."""
        a, out = self.array, (ctypes.c_uint64 * 16)()
        rank = len(self.sizes) or a.ndim
        sizes = numbers(self.sizes or a.shape[::-1], ctypes.c_uint64)
        strides = numbers(self.strides or a.strides[-2::-1], ctypes.c_uint64)
        traversal = numbers(self.traversal or [1] * rank, ctypes.c_uint32)
        element = self.element or {4: 7, 2: 9}[a.itemsize]
        first = ctypes.byref(out), element, rank, ctypes.c_void_p(a.ctypes.data + self.shift), sizes, strides
        last = traversal, self.interleave, self.swizzle, 2, self.fill
        if not self.corners:
            return driver_function("cuTensorMapEncodeTiled")(*first, numbers(self.box, ctypes.c_uint32), *last), out
        corners = [numbers([c, c], ctypes.c_int) for c in self.corners]
        return driver_function("cuTensorMapEncodeIm2col")(*first, *corners, *self.box, *last), out


ROWS = np.zeros((8, 32), np.float32)
IMAGES = np.zeros((2, 8, 8, 32), np.float32)
TILED = Map(ROWS, (32, 4))
IM2COL = Map(IMAGES, (32, 16), corners=(-1, -1), traversal=(1, 2, 2, 1))


def test_the_driver_takes_these() -> None:
    for m in (
        TILED,
        IM2COL,
        replace(TILED, swizzle=0, box=(256, 256)),
        replace(IM2COL, corners=(-128, 127)),
        replace(IM2COL, box=(32, 1024)),
    ):
        assert m.encode()[0] == 0


REFUSED: dict[str, Map] = {
    "an address that is no multiple of 16": replace(TILED, shift=4),
    "a dimension of nothing": replace(TILED, sizes=(32, 0)),
    "a dimension above 2^32": replace(TILED, sizes=(32, 2**32 + 1)),
    "a stride that is no multiple of 16": replace(TILED, strides=(120,)),
    "a stride of 2^40": replace(TILED, strides=(2**40,)),
    "a box of nothing": replace(TILED, box=(32, 0)),
    "a box of more than 256": replace(TILED, box=(32, 257)),
    "box rows of no multiple of 16 bytes": replace(TILED, box=(30, 4)),
    "box rows wider than the swizzle": replace(TILED, box=(36, 4)),
    "a traversal stride of 0": replace(IM2COL, traversal=(1, 0, 1, 1)),
    "a traversal stride above 8": replace(IM2COL, traversal=(1, 9, 1, 1)),
    "more than 256 channels": replace(IM2COL, box=(260, 16), swizzle=0),
    "more than 1024 pixels": replace(IM2COL, box=(32, 1025)),
    "corners beyond 8 bits": replace(IM2COL, corners=(-129, 0)),
    "upper corners beyond 8 bits": replace(IM2COL, corners=(0, 128)),
    "corners around nothing": replace(IM2COL, corners=(3, -5)),
    "im2col of a matrix": replace(IM2COL, array=ROWS, traversal=(1, 1)),
    # what the driver would take and the executor does not know
    "another type": replace(TILED, element=6),
    "interleaved channels": replace(TILED, interleave=1),
    "another swizzle": replace(TILED, swizzle=1, box=(8, 4)),
    "a traversal stride of tiles": replace(TILED, traversal=(1, 2)),
    "NaN outside": replace(TILED, fill=1),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refused_tensor_maps(why: str) -> None:
    assert REFUSED[why].encode()[0] == 1


# ---- TMA

# 5.5.7, 128 byte swizzle mode: which 16 bytes of a row of 128 lie where, for eight rows.
SWIZZLE = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [1, 0, 3, 2, 5, 4, 7, 6],
        [2, 3, 0, 1, 6, 7, 4, 5],
        [3, 2, 1, 0, 7, 6, 5, 4],
        [4, 5, 6, 7, 0, 1, 2, 3],
        [5, 4, 7, 6, 1, 0, 3, 2],
        [6, 7, 4, 5, 2, 3, 0, 1],
        [7, 6, 5, 4, 3, 2, 1, 0],
    ]
)


def swizzled(rows: NDArray[Any]) -> NDArray[np.uint8]:
    """Rows of 128 bytes as they lie in shared memory."""
    parts = np.ascontiguousarray(rows).view(np.uint8).reshape(-1, 8, 16)
    return np.take_along_axis(parts, SWIZZLE[np.arange(len(parts)) % 8][:, :, None], 1).reshape(-1)


PREPARE = """
mov.u32 %r0, buffer;
setp.eq.s32 %p0, %thread, 0;
@!%p0 bra initialised;
mbarrier.init.shared::cta.b64 [%r0], 1;
fence.mbarrier_init.release.cluster;
initialised: bar.warp.sync -1;
mov.b64 %d0, a1;
cvta.param.u64 %d1, %d0;
"""
EXPECT = "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r0], {bytes}; "
AWAIT = "again: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r0], 0; @!%p1 bra again; "
# All %a2 from byte 1024 of shared memory on.
COLLECT = """
mov.u32 %r1, %lane;
mul.wide.u32 %d2, %lane, 4;
add.s64 %d2, %a2, %d2;
mad.lo.s32 %r2, %lane, 4, %r0;
next: setp.ge.s32 %p2, %r1, {words};
@%p2 bra collected;
ld.shared.u32 %r3, [%r2+1024];
st.global.u32 [%d2], %r3;
add.s64 %d2, %d2, 128;
add.s32 %r2, %r2, 128;
add.s32 %r1, %r1, 32;
bra next;
collected:
"""
TILE = "shared::cluster.global.tile.mbarrier::complete_tx::bytes"
TMA_2D, TMA_4D = f"cp.async.bulk.tensor.2d.{TILE}", f"cp.async.bulk.tensor.4d.{TILE}"
TMA_IM2COL = TMA_4D.replace("tile", "im2col")


def load_box(
    m: Map, form: str, at: Sequence[int], rows: int, tap: Sequence[int] = (), early: bool = False
) -> NDArray[np.uint8]:
    """What TMA brings into shared memory: ``rows`` rows of the box."""
    answer, encoded = m.encode()
    assert answer == 0
    size = rows * m.box[0] * m.array.itemsize
    out = np.full(size, 0xEE, np.uint8)
    offsets = f", {{{tap[0]}, {tap[1]}}}" if tap else ""
    copy = f"@%p0 {form} [%r0+1024], [%d1, {{{', '.join(map(str, at))}}}], [%r0]{offsets}; "
    body = PREPARE + EXPECT.format(bytes=size) + copy + AWAIT + COLLECT.format(words=size // 4)
    run(body, m.array, encoded, out, shared=1024 + size, early=early)
    return out


def filled(shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """Numbers that differ from their neighbours, none of them 0."""
    return (1 + np.arange(np.prod(shape)) * 7 % 251).reshape(shape).astype(dtype)


def cut(array: NDArray[Any], at: Sequence[int], box: Sequence[int]) -> NDArray[Any]:
    """array[at : at + box] in all dimensions (the last one first in ``at`` and ``box``), with zeros outside."""
    result = np.zeros(box[::-1], array.dtype)
    for place in np.ndindex(*result.shape):
        i = [p + a for p, a in zip(place, at[::-1], strict=True)]
        if all(0 <= n < size for n, size in zip(i, array.shape, strict=True)):
            result[place] = array[tuple(i)]
    return result


MATRICES = [("float32", 128, (32, 12)), ("bfloat16", 128, (64, 12)), ("float32", 0, (20, 9)), ("bfloat16", 0, (16, 9))]


@covers(TMA_2D, "cvta.param.u64", "mbarrier.arrive.expect_tx.shared::cta.b64", "fence.mbarrier_init.release.cluster")
@EARLY
@pytest.mark.parametrize(("dtype", "swizzle", "box"), MATRICES)
def test_tma_of_a_matrix(dtype: str, swizzle: int, box: tuple[int, int], early: bool) -> None:
    """Inside it and over each of its edges, before its beginning and behind its end."""
    matrix = filled((20, 88), {"float32": np.float32, "bfloat16": bfloat16}[dtype])
    m = Map(matrix, box, swizzle=3 if swizzle else 0)
    for at in [(0, 0), (5, 3), (-3, 0), (0, -5), (80, 15), (-7, 14), (84, -2), (200, 0), (0, 30), (-100, -100)]:
        expected = cut(matrix, at, box)
        actual = load_box(m, TMA_2D, at, box[1], early=early)
        assert (actual == (swizzled(expected) if swizzle else expected.reshape(-1).view(np.uint8))).all(), at


@covers(TMA_4D)
@pytest.mark.parametrize(("dtype", "swizzle", "box"), [("float32", 128, (32, 3, 2, 2)), ("bfloat16", 0, (8, 3, 4, 1))])
def test_tma_of_images(dtype: str, swizzle: int, box: tuple[int, ...]) -> None:
    images = filled((3, 4, 5, 40), {"float32": np.float32, "bfloat16": bfloat16}[dtype])
    m = Map(images, box, swizzle=3 if swizzle else 0)
    for at in [(0, 0, 0, 0), (8, 1, 2, 1), (-8, -1, -1, -1), (16, 3, 3, 2), (38, 4, 0, 0), (0, -1, 3, 1), (0, 0, 0, 3)]:
        expected = cut(images, at, box)
        actual = load_box(m, TMA_4D, at, int(np.prod(box[1:])))
        assert (actual == (swizzled(expected) if swizzle else expected.reshape(-1).view(np.uint8))).all(), at


@dataclass(frozen=True)
class Window:
    """A convolution's window over images (N, H, W, C), and what a box takes: pixels of y and channels from one on."""

    images: tuple[int, int, int, int]
    kernel: int
    padding: int
    stride: int
    pixels: int
    first: int = 0
    channel: int = 0


WINDOWS = {
    "same size": Window((2, 5, 6, 32), 3, 1, 1, pixels=24),
    "over rows and images": Window((3, 5, 6, 32), 3, 1, 1, pixels=50, first=17),
    "behind the last image": Window((2, 3, 4, 32), 3, 1, 1, pixels=32, first=8),
    "no padding": Window((2, 6, 7, 32), 3, 0, 1, pixels=40, first=3),
    "stride 2": Window((2, 7, 8, 32), 3, 1, 2, pixels=30, first=5),
    "stride 2, rest over": Window((2, 6, 9, 32), 2, 0, 2, pixels=16, first=1),
    "stride 4, window 11": Window((2, 23, 19, 32), 11, 2, 4, pixels=24, first=2),
    "stride 8": Window((2, 17, 17, 32), 1, 0, 8, pixels=18),
    "padding beyond the window": Window((1, 3, 3, 32), 2, 3, 1, pixels=64),
    "a window of 1": Window((2, 3, 5, 32), 1, 0, 1, pixels=30),
    "channels beyond the last": Window((2, 4, 4, 40), 3, 1, 1, pixels=20, channel=24),
    "channels from the middle": Window((2, 4, 4, 72), 3, 1, 1, pixels=20, channel=36),
}


def taken(images: NDArray[Any], w: Window, channels: int, tap: tuple[int, int]) -> NDArray[Any]:
    """The pixel of x at position ``tap`` (column, row) of the window of each pixel of y; zeros in the padding and
    beyond the last image and channel."""
    n, height, width, _ = w.images
    oh, ow = ((size + 2 * w.padding - w.kernel) // w.stride + 1 for size in (height, width))
    result = np.zeros((w.pixels, channels), images.dtype)
    for i, pixel in enumerate(range(w.first, w.first + w.pixels)):
        image, y, x = (
            pixel // (oh * ow),
            pixel // ow % oh * w.stride - w.padding + tap[1],
            pixel % ow * w.stride - w.padding + tap[0],
        )
        if image < n and 0 <= y < height and 0 <= x < width:
            values = images[image, y, x, w.channel : w.channel + channels]
            result[i, : len(values)] = values
    return result


@covers(TMA_IM2COL)
@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize(("dtype", "swizzle"), [("float32", 128), ("bfloat16", 0)])
def test_tma_of_windows(name: str, dtype: str, swizzle: int) -> None:
    w = WINDOWS[name]
    images = filled(w.images, {"float32": np.float32, "bfloat16": bfloat16}[dtype])
    _, height, width, _ = w.images
    oh, ow = ((size + 2 * w.padding - w.kernel) // w.stride + 1 for size in (height, width))
    corners = -w.padding, w.padding - w.kernel + 1
    m = Map(images, (32, w.pixels), swizzle=3 if swizzle else 0, corners=corners, traversal=(1, w.stride, w.stride, 1))
    at = (
        w.channel,
        w.first % ow * w.stride - w.padding,
        w.first // ow % oh * w.stride - w.padding,
        w.first // (oh * ow),
    )
    for tap in itertools.product({0, w.kernel // 2, w.kernel - 1}, repeat=2):
        expected = taken(images, w, 32, tap)
        actual = load_box(m, TMA_IM2COL, at, w.pixels, tap)
        assert (actual == (swizzled(expected) if swizzle else expected.reshape(-1).view(np.uint8))).all(), tap


def test_the_example_of_the_isa() -> None:
    """5.5.4.1, example 1: from (7, 7, 4, 0), of rows of 9 pixels with corners -1, so columns -1 to 7: one pixel of the
    first row, then whole ones."""
    images = filled((2, 14, 9, 64), np.float32)
    m = Map(images, (8, 64), swizzle=0, corners=(-1, -1), traversal=(1, 1, 1, 1))
    rows = load_box(m, TMA_IM2COL, (7, 7, 4, 0), 64, (0, 0)).view(np.float32).reshape(64, 8)
    assert (rows[0] == images[0, 4, 7, 7:15]).all()
    assert (rows[1] == 0).all()  # column -1 of row 5
    assert (rows[2] == images[0, 5, 0, 7:15]).all() and (rows[9] == images[0, 5, 7, 7:15]).all()
    assert (rows[10] == 0).all() and (rows[11] == images[0, 6, 0, 7:15]).all()


TMA_FAULTS: list[tuple[str, str, str]] = [
    ("fence.mbarrier_init.release.cluster;", "", "TMA with an mbarrier that no fence made visible to it"),
    ("[%r0]; ", "[%r0+8]; ", "TMA with an mbarrier that nobody has initialised"),
    ("[%r0+1024], [%d1", "[%r0+1040], [%d1", "TMA to an address that is no multiple of 1024"),
    ("[%r0+1024], [%d1", "[%r0+2048], [%d1", "of shared memory"),
    ("cvta.param.u64 %d1, %d0;", "and.b64 %d1, %a0, -64;", "a tensor map that is no parameter of the kernel"),
    ("mov.b64 %d0, a1;", "mov.b64 %d0, a0;", "what lies at the tensor map's address is none"),
    (TMA_2D, TMA_4D, "a tensor map of another rank or mode than the instruction"),
    (AWAIT, "", "where an asynchronous copy is under way"),
    (AWAIT, "st.shared.u32 [%r0+1024], %r0; " + AWAIT, "where an asynchronous copy is under way"),
    (EXPECT.format(bytes=1024), EXPECT.format(bytes=1040), "nothing in the block can go on"),
]


@pytest.mark.parametrize("row", TMA_FAULTS, ids=lambda row: row[2])
def test_misused_tma(row: tuple[str, str, str]) -> None:
    old, new, fault = row
    copy = f"@%p0 {TMA_2D} [%r0+1024], [%d1, {{0, 0}}], [%r0]; "
    if new == TMA_4D:
        copy = copy.replace("{0, 0}", "{0, 0, 0, 0}")
    body = PREPARE + EXPECT.format(bytes=1024) + copy + AWAIT + COLLECT.format(words=256)
    assert old in body
    encoded = Map(ROWS, (32, 8)).encode()[1]
    wrong = problem(body.replace(old, new), ROWS, encoded, np.zeros(1024, np.uint8), shared=2048)
    assert any(f in wrong for f in fault.split("|")), wrong


@pytest.mark.parametrize(
    ("at", "tap", "fault"),
    [
        ((0, -2, 0, 0), (0, 0), "outside the box of base pixels"),
        ((0, 0, 7, 0), (0, 0), "outside the box of base pixels"),
        ((0, 0, 0, 0), (0, 256), "an offset of 256"),
    ],
)
def test_base_pixels_and_offsets_have_bounds(at: Sequence[int], tap: Sequence[int], fault: str) -> None:
    """5.5.4.1: the base lies in the box between the corners, offsets of images have eight bits."""
    m = replace(IM2COL, traversal=(1, 1, 1, 1), corners=(-1, -1))
    with pytest.raises(AssertionError, match=fault):
        load_box(m, TMA_IM2COL, at, 16, tap)
