"""Known answers of arithmetic.cpp: integers, logic, comparison, selection, floats, moves, conversion.

``ANSWERS`` are worked out by hand. Beside them each form meets all combinations of its operands' edges, with what exact
arithmetic (Python's integers and fractions, rounded once) makes of them.
"""

from __future__ import annotations

import itertools
import math
import operator
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from ptx_forms import TYPES, apply, check, covers, needs_ptx, run, same

pytestmark = needs_ptx

INF, NAN = math.inf, math.nan
MAX, TINY, SMALLEST_NORMAL = float.fromhex("0x1.fffffep127"), 2.0**-149, 2.0**-126
BEFORE_1, AFTER_1 = 1 - 2.0**-24, 1 + 2.0**-23

# ---- exact arithmetic


def wrap(value: int, t: str) -> int:
    bits = TYPES[t].bits
    value &= (1 << bits) - 1
    return value - (1 << bits) if t[0] == "s" and value >> (bits - 1) else value


def rounded(exact: Fraction, how: str = "even", digits: int = 24, lowest: int = -149) -> float:
    """To ``digits`` binary digits, at least 2^lowest apart; ``how``: even, away (both to the nearest), zero, down."""
    if exact == 0:
        return 0.0
    sign, size = (-1 if exact < 0 else 1), abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    unit = Fraction(2) ** max(exponent - digits + 1, lowest)
    count, rest = divmod(size, unit)
    half = rest / unit - Fraction(1, 2)
    up = {
        "even": half > 0 or (half == 0 and count % 2 == 1),
        "away": half >= 0,
        "zero": False,
        "down": sign < 0 and rest > 0,
    }[how]
    size = (count + up) * unit
    if size >= Fraction(2) ** 128:
        beyond = how in ("even", "away") or (how == "down" and sign < 0)
        return sign * (INF if beyond else float((2 - Fraction(2) ** (1 - digits)) * 2**127))
    return sign * float(size)


def fma(a: float, b: float, c: float, how: str = "even") -> float:
    """a b + c, rounded once; IEEE 754's zeros, infinities and NaN."""
    if not all(map(math.isfinite, (a, b, c))):
        return NAN if math.isnan(a * b) else a * b + c  # no overflow: double has the range for a product
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact:
        value = rounded(exact, how)
        return value if value else math.copysign(0.0, exact)
    signs = math.copysign(1, a) * math.copysign(1, b), math.copysign(1, c)
    return math.copysign(0.0, signs[0] if signs[0] == signs[1] else -1 if how == "down" else 1)


def divide(a: float, b: float) -> float:
    if not (math.isfinite(a) and math.isfinite(b)) or b == 0:
        with np.errstate(all="ignore"):
            return float(np.float64(a) / np.float64(b))
    return math.copysign(abs(rounded(Fraction(a) / Fraction(b))), math.copysign(1, a) * math.copysign(1, b))


def square_root(a: float) -> float:
    if not a > 0 or a == INF:
        return NAN if a < 0 else a
    scaled = int(Fraction(a) * 4**200)
    root = math.isqrt(scaled)
    return rounded(Fraction(2 * root + (root * root != scaled), 2**201))


def quotient(a: int, b: int) -> int:  # rounded to zero
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def flush(a: float) -> float:
    return math.copysign(0.0, a) if abs(a) < SMALLEST_NORMAL else a


def narrow(a: float, how: str, digits: int) -> float:
    if not math.isfinite(a):
        return a
    return math.copysign(rounded(Fraction(a), how, digits, -126 - digits + 1), a)


def bf16(a: float) -> int:
    return 0x7FFF if math.isnan(a) else bits(narrow(a, "even", 8)) >> 16


def ordered(a: float) -> tuple[float, float]:
    """The key of an order in which -0 comes before +0."""
    return a, math.copysign(1.0, a)


def bits(a: float) -> int:
    return struct.unpack("<I", struct.pack("<f", a))[0]


def insert_bits(a: int, b: int, position: int, length: int) -> int:  # 9.7.1.20, as it stands there
    for i in range(min(length & 255, 32)):
        if (position & 255) + i <= 31:
            at = (position & 255) + i
            b = b & ~(1 << at) | (a >> i & 1) << at
    return b


# ---- operands


def integers(t: str) -> list[int]:
    n = TYPES[t].bits
    values = [
        0,
        1,
        2,
        3,
        7,
        100,
        2**15,
        2**16 + 1,
        2 ** (n // 2) - 1,
        2 ** (n // 2),
        2 ** (n - 1) - 1,
        2 ** (n - 1),
        2**n - 1,
    ]
    values += [
        2**n - 2,
        2**n - 7,
        2**n - 100,
        2 ** (n - 1) + 1,
        0x5555555555555555,
        0xCCCCCCCCCCCCCCCC,
        0x123456789ABCDEF0,
    ]
    return sorted({wrap(v, t) for v in values})


POSITIVE = [0.0, TINY, 3 * TINY, SMALLEST_NORMAL - TINY, SMALLEST_NORMAL, 1e-10, 2.0**-25, 2.0**-24, 2.0**-12, 0.1]
POSITIVE += [0.5, BEFORE_1, 1.0, AFTER_1, 1 + 2.0**-12, 1.5, 2.5, 3.0, 2.0**22 + 0.5, 2.0**23 + 1, 2.0**24, 2.0**24 + 2]
POSITIVE += [2.0**31 - 128, 2.0**31, 1e10, 2.0**64, 2.0**126, MAX, INF]
FLOATS = [float(np.float32(sign * v)) for v in POSITIVE for sign in (1, -1)] + [NAN]
FEW_FLOATS = [
    v for v in FLOATS if abs(v) in (0, TINY, SMALLEST_NORMAL, 2.0**-24, BEFORE_1, 1, AFTER_1, 3, 2.0**24, MAX, INF)
]
SHIFTS = [0, 1, 5, 15, 16, 31, 32, 33, 63, 64, 65, 255, 256, 2**31, 2**32 - 1]
BYTES = [0, 1, 5, 6, 16, 27, 31, 32, 33, 255, 256, 257, 2**32 - 1]


def operands(types: str) -> list[list[Any]]:
    """The edges of each operand's type: fewer where there are three."""
    _, *sources = types.split()
    few = len(sources) > 2
    edges: dict[str, list[Any]] = {t: integers(t)[:: 2 if few else 1] for t in TYPES if t[0] in "su"}
    edges |= {"pred": [0, 1], "f32": [*FEW_FLOATS, NAN] if few else FLOATS}
    return [edges[t] for t in sources]


# ---- forms: the types of the result and the operands, and what the result is

Form = tuple[str, Callable[..., Any]]
FORMS: dict[str, Form] = {}
OTHER_OPERANDS: dict[str, list[Any]] = {}  # of a form's last operands

for t in ("s32", "u32", "s64", "u64"):
    n = TYPES[t].bits
    FORMS |= {
        f"add.{t}": (f"{t} {t} {t}", operator.add),
        f"sub.{t}": (f"{t} {t} {t}", operator.sub),
        f"mul.lo.{t}": (f"{t} {t} {t}", operator.mul),
        f"mad.lo.{t}": (f"{t} {t} {t} {t}", lambda a, b, c: a * b + c),
        f"min.{t}": (f"{t} {t} {t}", min),
        f"max.{t}": (f"{t} {t} {t}", max),
        f"div.{t}": (f"{t} {t} {t}", lambda a, b: quotient(a, b) if b else None),  # by zero: unspecified
        f"rem.{t}": (f"{t} {t} {t}", lambda a, b: a - b * quotient(a, b) if b else None),
        f"shr.{t}": (f"{t} {t} u32", lambda a, b, n=n: a >> min(b, n)),  # 9.7.8.9: clamped to the width
    }
    OTHER_OPERANDS[f"shr.{t}"] = [SHIFTS]
FORMS |= {
    "neg.s32": ("s32 s32", operator.neg),
    "neg.s64": ("s64 s64", operator.neg),
    "mul.wide.s32": ("s64 s32 s32", operator.mul),
    "mul.wide.u32": ("u64 u32 u32", operator.mul),
    "mul.wide.u16": ("u32 u16 u16", operator.mul),
    "mul.hi.s32": ("s32 s32 s32", lambda a, b: a * b >> 32),
    "mul.hi.u32": ("u32 u32 u32", lambda a, b: a * b >> 32),
    "bfi.b32": ("u32 u32 u32 u32 u32", insert_bits),
}
OTHER_OPERANDS["bfi.b32"] = [BYTES, BYTES]
for n in (32, 64):
    FORMS |= {
        f"and.b{n}": (f"u{n} u{n} u{n}", operator.and_),
        f"or.b{n}": (f"u{n} u{n} u{n}", operator.or_),
        f"xor.b{n}": (f"u{n} u{n} u{n}", operator.xor),
        f"not.b{n}": (f"u{n} u{n}", operator.invert),
        f"shl.b{n}": (f"u{n} u{n} u32", lambda a, b, n=n: a << min(b, n)),
    }
    OTHER_OPERANDS[f"shl.b{n}"] = [SHIFTS]
FORMS |= {
    "and.pred": ("pred pred pred", operator.and_),
    "or.pred": ("pred pred pred", operator.or_),
    "not.pred": ("pred pred", lambda a: 1 - a),
}
COMPARISONS = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
for name, compare in COMPARISONS.items():
    for t in ("s16", "u16", "s32", "u32", "s64", "u64"):
        FORMS[f"setp.{name}.{t}"] = (f"pred {t} {t}", compare)
    # 9.3.1.2: with NaN the plain comparisons are false, ne among them, and those with u true
    FORMS[f"setp.{name}.f32"] = ("pred f32 f32", lambda a, b, c=compare: a == a and b == b and c(a, b))
    FORMS[f"setp.{name}u.f32"] = ("pred f32 f32", lambda a, b, c=compare: a != a or b != b or c(a, b))
for n, name in itertools.product((32, 64), ("eq", "ne")):
    FORMS[f"setp.{name}.b{n}"] = (f"pred u{n} u{n}", COMPARISONS[name])
FORMS |= {
    "setp.num.f32": ("pred f32 f32", lambda a, b: a == a and b == b),
    "setp.nan.f32": ("pred f32 f32", lambda a, b: a != a or b != b),
}
SELECTIONS = {"f32": "f32", "b16": "u16", "u16": "u16", "b32": "u32", "u32": "u32", "s32": "s32"}
for name, t in (SELECTIONS | dict.fromkeys(("b64", "u64"), "u64")).items():
    FORMS[f"selp.{name}"] = (f"{t} {t} {t} pred", lambda a, b, p: a if p else b)
FORMS |= {
    "add.f32": ("f32 f32 f32", lambda a, b: fma(a, 1.0, b)),
    "add.rn.f32": ("f32 f32 f32", lambda a, b: fma(a, 1.0, b)),
    "add.rz.f32": ("f32 f32 f32", lambda a, b: fma(a, 1.0, b, "zero")),
    "sub.f32": ("f32 f32 f32", lambda a, b: fma(a, 1.0, -b)),
    "mul.f32": ("f32 f32 f32", lambda a, b: fma(a, b, math.copysign(0.0, math.copysign(1, a) * math.copysign(1, b)))),
    "fma.rn.f32": ("f32 f32 f32 f32", fma),
    "fma.rm.f32": ("f32 f32 f32 f32", lambda a, b, c: fma(a, b, c, "down")),
    "div.rn.f32": ("f32 f32 f32", divide),
    "rcp.rn.f32": ("f32 f32", lambda a: divide(1.0, a)),
    "sqrt.rn.f32": ("f32 f32", square_root),
    "neg.f32": ("f32 f32", operator.neg),
    "abs.f32": ("f32 f32", abs),
    "max.f32": ("f32 f32 f32", lambda a, b: max((x for x in (a, b) if x == x), key=ordered, default=NAN)),
    "min.f32": ("f32 f32 f32", lambda a, b: min((x for x in (a, b) if x == x), key=ordered, default=NAN)),
    "copysign.f32": ("f32 f32 f32", lambda a, b: math.copysign(b, a) if a == a and b == b else None),
}
FORMS["mul.rn.f32"] = FORMS["mul.f32"]
for name, t in {
    "f32": "f32",
    "u16": "u16",
    "u32": "u32",
    "u64": "u64",
    "b16": "u16",
    "b32": "u32",
    "b64": "u64",
    "pred": "pred",
}.items():
    FORMS[f"mov.{name}"] = (f"{t} {t}", lambda a: a)
for t in ("s32", "s64", "u32", "u16", "s16"):
    FORMS[f"cvt.rn.f32.{t}"] = (f"f32 {t}", lambda a: rounded(Fraction(a)))
for types in ("u16 u32", "u32 u16", "u64 u32", "u32 u64", "s64 s32"):
    FORMS["cvt." + types.replace(" ", ".")] = (types, lambda a: a)
FORMS |= {
    "cvt.s16.s8": ("s16 u16", lambda a: (a & 0xFF ^ 0x80) - 0x80),
    "cvta.to.global.u64": ("u64 u64", lambda a: a),  # generic addresses of global memory are what they are
    "cvt.rni.f32.f32": ("f32 f32", lambda a: math.copysign(round(a), a) if math.isfinite(a) else a),
    "cvt.rzi.f32.f32": ("f32 f32", lambda a: math.copysign(math.trunc(a), a) if math.isfinite(a) else a),
    "cvt.rmi.f32.f32": ("f32 f32", lambda a: math.copysign(math.floor(a), a) if math.isfinite(a) else a),
    "cvt.rpi.f32.f32": ("f32 f32", lambda a: math.copysign(math.ceil(a), a) if math.isfinite(a) else a),
    "cvt.rzi.s32.f32": ("s32 f32", lambda a: 0 if math.isnan(a) else int(max(-(2.0**31), min(a, 2.0**31 - 1)))),
    "cvt.sat.f32.f32": ("f32 f32", lambda a: min(a, 1.0) if a > 0 else 0.0),
    "cvt.rna.tf32.f32": ("u32 f32", lambda a: None if math.isnan(a) else bits(narrow(a, "away", 11))),
    "cvt.rn.bf16.f32": ("u16 f32", lambda a: bf16(a)),
    "cvt.rn.bf16x2.f32": ("u32 f32 f32", lambda a, b: bf16(a) << 16 | bf16(b)),
    "cvt.f32.bf16": ("f32 u16", lambda a: struct.unpack("<f", struct.pack("<I", a << 16))[0]),
}

# Of .approx: what is exact, and the relative error that the ISA allows (9.7.3.13, 9.7.3.16, 9.7.3.21).
APPROXIMATE: dict[str, tuple[Callable[[float], float], float]] = {
    "rcp.approx.ftz.f32": (lambda a: divide(1.0, a), 2.0**-23),
    "rsqrt.approx.f32": (lambda a: divide(1.0, a) if a == 0 else math.pow(a, -0.5) if a > 0 else NAN, 2.0**-22.9),
    "ex2.approx.f32": (lambda a: INF if a >= 128 else math.pow(2.0, a), 2.0**-22),
}
APPROXIMATE["ex2.approx.ftz.f32"] = APPROXIMATE["ex2.approx.f32"]

# ---- worked out by hand: form, operands, result

x = float.fromhex
ANSWERS: list[tuple[Any, ...]] = [
    # sums, differences and products wrap around
    ("add.s32", 2147483647, 1, -2147483648),
    ("add.s64", 2**63 - 1, 1, -(2**63)),
    ("add.u32", 4294967295, 1, 0),
    ("sub.s32", -2147483648, 1, 2147483647),
    ("sub.s64", -(2**63), 1, 2**63 - 1),
    ("mul.lo.s32", 65536, 65536, 0),
    ("mul.lo.s32", -3, 5, -15),
    ("mul.lo.s64", 2**32 + 1, 2**32 - 1, -1),
    ("mad.lo.s32", 65536, 65536, 7, 7),
    ("mad.lo.s32", -3, 5, 20, 5),
    ("neg.s32", -2147483648, -2147483648),
    ("neg.s32", 5, -5),
    ("neg.s64", -(2**63), -(2**63)),
    # wide and high products have a sign or none
    ("mul.wide.s32", -2, 3, -6),
    ("mul.wide.s32", -2147483648, -2147483648, 2**62),
    ("mul.wide.u32", 4294967294, 3, 12884901882),
    ("mul.wide.u32", 4294967295, 4294967295, 2**64 - 2**33 + 1),
    ("mul.wide.u16", 65535, 65535, 2**32 - 2**17 + 1),
    ("mul.hi.s32", -1, 1, -1),
    ("mul.hi.s32", 1073741824, 4, 1),
    ("mul.hi.u32", 4294967295, 4294967295, 4294967294),
    # division rounds to zero, a remainder has the sign of the dividend
    ("div.s32", 7, -2, -3),
    ("div.s32", -7, 2, -3),
    ("div.s32", -7, -2, 3),
    ("div.u32", 4294967295, 2, 2147483647),
    ("div.s64", -(2**40), 3, -366503875925),
    ("div.u64", 2**64 - 1, 10, 1844674407370955161),
    ("rem.s32", 7, -2, 1),
    ("rem.s32", -7, 2, -1),
    ("rem.s32", -7, -2, -1),
    ("rem.u32", 4294967295, 10, 5),
    ("rem.s64", -(2**40), 3, -1),
    ("min.s32", -1, 1, -1),
    ("min.u32", 4294967295, 1, 1),
    ("min.s64", -1, 2**40, -1),
    ("max.s32", -1, 1, 1),
    ("max.s64", -1, -(2**40), -1),
    # bits of a into b, from a position on
    ("bfi.b32", 0b101, 0, 3, 3, 0b101000),
    ("bfi.b32", 0xFF, 0x12345678, 8, 8, 0x1234FF78),
    ("bfi.b32", 3, 0x1F, 5, 27, 0x7F),
    ("bfi.b32", 0xFFFFFFFF, 0x12345678, 4, 0, 0x12345678),
    ("bfi.b32", 0xFFFFFFFF, 0x12345678, 32, 8, 0x12345678),
    ("bfi.b32", 0xFFFFFFFF, 0, 31, 5, 0x80000000),
    ("bfi.b32", 0xFFFFFFFF, 0, 4, 255, 0xFFFFFFF0),
    ("bfi.b32", 0xFFFFFFFF, 0, 256, 257, 1),  # the lowest eight bits of both count
    # shifts by the width and beyond
    ("shl.b32", 1, 31, 0x80000000),
    ("shl.b32", 1, 32, 0),
    ("shl.b32", 0xFFFFFFFF, 4294967295, 0),
    ("shl.b64", 1, 63, 2**63),
    ("shl.b64", 1, 64, 0),
    ("shl.b64", 1, 32, 2**32),
    ("shr.s32", -8, 1, -4),
    ("shr.s32", -1, 32, -1),
    ("shr.s32", -2147483648, 4294967295, -1),
    ("shr.s32", 2147483647, 32, 0),
    ("shr.u32", 0x80000000, 31, 1),
    ("shr.u32", 0xFFFFFFFF, 32, 0),
    ("shr.s64", -(2**63), 63, -1),
    ("shr.s64", -(2**63), 64, -1),
    ("shr.u64", 2**63, 63, 1),
    ("shr.u64", 2**64 - 1, 64, 0),
    ("and.b32", 0xF0F0F0F0, 0xFF00FF00, 0xF000F000),
    ("or.b32", 0xF0F0F0F0, 0xFF00FF00, 0xFFF0FFF0),
    ("xor.b32", 0xF0F0F0F0, 0xFF00FF00, 0x0FF00FF0),
    ("not.b32", 0xF0F0F0F0, 0x0F0F0F0F),
    ("and.b64", 2**64 - 1, 2**64 - 2**32, 2**64 - 2**32),
    ("or.b64", 2**63, 1, 2**63 + 1),
    ("xor.b64", 2**64 - 1, 1, 2**64 - 2),
    ("not.b64", 0, 2**64 - 1),
    ("and.pred", 1, 0, 0),
    ("or.pred", 1, 0, 1),
    ("not.pred", 0, 1),
    # with a sign and without
    ("setp.lt.s32", -1, 0, 1),
    ("setp.lt.u32", 4294967295, 0, 0),
    ("setp.gt.s64", -1, 1, 0),
    ("setp.gt.u64", 2**64 - 1, 1, 1),
    ("setp.ge.u32", 2147483648, 2147483647, 1),
    ("setp.eq.s16", -1, -1, 1),
    # NaN and zeros
    ("setp.eq.f32", 0.0, -0.0, 1),
    ("setp.lt.f32", -0.0, 0.0, 0),
    ("setp.gt.f32", INF, MAX, 1),
    *((f"setp.{name}.f32", NAN, 1.0, 0) for name in ("eq", "ne", "lt", "le", "gt", "ge", "num")),
    *((f"setp.{name}.f32", 1.0, NAN, 1) for name in ("equ", "neu", "ltu", "leu", "gtu", "geu", "nan")),
    ("selp.f32", -0.0, NAN, 1, -0.0),
    ("selp.b64", 2**64 - 1, 1, 0, 1),
    # ties go to the even neighbour
    ("add.f32", 1.0, 2.0**-24, 1.0),
    ("add.f32", AFTER_1, 2.0**-24, 1 + 2.0**-22),
    ("add.f32", 0.0, -0.0, 0.0),
    ("add.rn.f32", -0.0, -0.0, -0.0),
    ("add.f32", INF, -INF, NAN),
    ("sub.f32", 1.0, 1.0, 0.0),
    ("sub.f32", TINY, SMALLEST_NORMAL, TINY - SMALLEST_NORMAL),
    ("mul.f32", 1 + 2.0**-12, 1 + 2.0**-12, 1 + 2.0**-11),
    ("mul.f32", -1.0, 0.0, -0.0),
    ("mul.rn.f32", 0.0, INF, NAN),
    ("mul.f32", TINY, 0.5, 0.0),
    ("mul.f32", 3 * TINY, 0.5, 2 * TINY),
    # one rounding: of a sum in double, rounded again, nothing of 2^-60 is left
    ("add.rz.f32", 1.0, -(2.0**-60), BEFORE_1),
    ("add.rz.f32", -1.0, 2.0**-60, -BEFORE_1),
    ("add.rz.f32", 1.0, 2.0**-24 + 2.0**-30, 1.0),
    ("add.rz.f32", -1.0, -(2.0**-24 + 2.0**-30), -1.0),
    ("add.rz.f32", MAX, MAX, MAX),
    ("add.rz.f32", 1.0, -1.0, 0.0),
    ("fma.rn.f32", 1 + 2.0**-12, 1 + 2.0**-12, -(1 + 2.0**-11), 2.0**-24),
    ("fma.rn.f32", 1 + 2.0**-12, 1 + 2.0**-12, 2.0**-80, 1 + 2.0**-11 + 2.0**-23),
    ("fma.rn.f32", 1 + 2.0**-12, 1 + 2.0**-12, -(2.0**-80), 1 + 2.0**-11),
    ("fma.rn.f32", INF, 0.0, 1.0, NAN),
    ("fma.rm.f32", 1.0, 1.0, -(2.0**-60), BEFORE_1),
    ("fma.rm.f32", -1.0, 1.0, -(2.0**-60), -AFTER_1),
    ("fma.rm.f32", 1.0, 1.0, 2.0**-60, 1.0),
    ("fma.rm.f32", 1 + 2.0**-12, 1 + 2.0**-12, 2.0**-80, 1 + 2.0**-11),
    ("fma.rm.f32", 1.0, 1.0, -1.0, -0.0),  # IEEE 754: downward, an exact zero is negative
    ("fma.rm.f32", MAX, 2.0, 0.0, MAX),
    ("fma.rm.f32", -MAX, 2.0, 0.0, -INF),
    ("div.rn.f32", 1.0, 3.0, x("0x1.555556p-2")),
    ("div.rn.f32", -1.0, 0.0, -INF),
    ("div.rn.f32", 0.0, 0.0, NAN),
    ("div.rn.f32", 3 * TINY, 2.0, 2 * TINY),
    ("rcp.rn.f32", 3.0, x("0x1.555556p-2")),
    ("rcp.rn.f32", -0.0, -INF),
    ("rcp.rn.f32", -INF, -0.0),
    ("rcp.rn.f32", MAX, 2.0**-128),
    ("sqrt.rn.f32", 2.0, x("0x1.6a09e6p0")),
    ("sqrt.rn.f32", TINY, x("0x1.6a09e6p-75")),
    ("sqrt.rn.f32", -0.0, -0.0),
    ("sqrt.rn.f32", -1.0, NAN),
    ("rcp.approx.ftz.f32", -0.0, -INF),
    ("rcp.approx.ftz.f32", TINY, INF),  # .ftz: a subnormal number is zero
    ("rcp.approx.ftz.f32", -MAX, -0.0),
    ("rcp.approx.ftz.f32", -INF, -0.0),
    ("rcp.approx.ftz.f32", 4.0, 0.25),
    ("rsqrt.approx.f32", 4.0, 0.5),
    ("rsqrt.approx.f32", 0.0, INF),
    ("rsqrt.approx.f32", -0.0, -INF),
    ("rsqrt.approx.f32", -1.0, NAN),
    ("rsqrt.approx.f32", INF, 0.0),
    ("ex2.approx.f32", -0.0, 1.0),
    ("ex2.approx.f32", -1.0, 0.5),
    ("ex2.approx.f32", 10.0, 1024.0),
    ("ex2.approx.f32", -140.0, 2.0**-140),
    ("ex2.approx.f32", 128.0, INF),
    ("ex2.approx.f32", -INF, 0.0),
    ("ex2.approx.ftz.f32", -140.0, 0.0),
    ("ex2.approx.ftz.f32", -TINY, 1.0),
    ("ex2.approx.ftz.f32", INF, INF),
    ("neg.f32", 0.0, -0.0),
    ("abs.f32", -0.0, 0.0),
    ("copysign.f32", -1.0, 2.0, -2.0),  # the sign of the first, the size of the second
    ("copysign.f32", -0.0, -3.0, -3.0),
    ("copysign.f32", 0.0, -INF, INF),
    ("cvt.rn.f32.s32", 2**24 + 1, 2.0**24),
    ("cvt.rn.f32.s32", 2**24 + 3, 2.0**24 + 4),
    ("cvt.rn.f32.s32", -(2**24) - 1, -(2.0**24)),
    ("cvt.rn.f32.s32", 2**31 - 1, 2.0**31),
    ("cvt.rn.f32.s64", 2**24 + 1, 2.0**24),
    ("cvt.rn.f32.s64", 2**62 + 2**38 + 1, 2.0**62 + 2.0**39),  # through double it would be 2^62
    ("cvt.rn.f32.s64", -(2**63), -(2.0**63)),
    ("cvt.rn.f32.u32", 2**32 - 1, 2.0**32),
    ("cvt.rn.f32.u16", 65535, 65535.0),
    ("cvt.rn.f32.s16", -(2**15), -(2.0**15)),
    *(("cvt.s16.s8", a, b) for a, b in ((0x1280, -128), (0x7F, 127), (0xFF00, 0), (0xFF, -1))),
    ("cvt.u16.u32", 0x12345678, 0x5678),
    ("cvt.u32.u16", 0xFFFF, 0xFFFF),
    ("cvt.u64.u32", 0xFFFFFFFF, 0xFFFFFFFF),
    ("cvt.u32.u64", 0x123456789ABCDEF0, 0x9ABCDEF0),
    ("cvt.s64.s32", -1, -1),
    *(
        ("cvt.rni.f32.f32", a, b)
        for a, b in ((0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, -0.0), (-1.5, -2.0), (-2.5, -2.0))
    ),
    ("cvt.rni.f32.f32", 2.0**22 + 0.5, 2.0**22),
    *(("cvt.rzi.f32.f32", a, b) for a, b in ((1.75, 1.0), (-1.75, -1.0), (-0.75, -0.0), (INF, INF), (NAN, NAN))),
    *(("cvt.rmi.f32.f32", a, b) for a, b in ((0.75, 0.0), (-0.25, -1.0), (-1.0, -1.0), (-0.0, -0.0))),
    *(("cvt.rpi.f32.f32", a, b) for a, b in ((0.25, 1.0), (-0.75, -0.0), (2.0, 2.0), (-0.0, -0.0), (INF, INF))),
    *(("max.f32", a, b, c) for a, b, c in ((-2.0, 1.0, 1.0), (-0.0, 0.0, 0.0), (NAN, -1.0, -1.0), (3.0, NAN, 3.0))),
    *(("min.f32", a, b, c) for a, b, c in ((-2.0, 1.0, -2.0), (0.0, -0.0, -0.0), (NAN, -1.0, -1.0), (3.0, NAN, 3.0))),
    *(("cvt.rzi.s32.f32", a, b) for a, b in ((1.75, 1), (-1.75, -1), (NAN, 0), (INF, 2**31 - 1), (-INF, -(2**31)))),
    ("cvt.rzi.s32.f32", 2.0**31, 2**31 - 1),
    ("cvt.rzi.s32.f32", 2.0**31 - 128, 2**31 - 128),
    *(
        ("cvt.sat.f32.f32", a, b)
        for a, b in ((0.25, 0.25), (-1.0, 0.0), (2.0, 1.0), (NAN, 0.0), (TINY, TINY), (-INF, 0.0))
    ),
    ("cvt.rna.tf32.f32", 1 + 2.0**-11, bits(1 + 2.0**-10)),  # ties away from zero
    ("cvt.rna.tf32.f32", -(1 + 2.0**-11), bits(-(1 + 2.0**-10))),
    ("cvt.rna.tf32.f32", 1 + 2.0**-11 - 2.0**-23, bits(1.0)),
    ("cvt.rna.tf32.f32", MAX, 0x7F800000),
    ("cvt.rna.tf32.f32", -INF, 0xFF800000),
    ("cvt.rna.tf32.f32", 2.0**-137, 2**13),
    ("cvt.rn.bf16.f32", 1 + 2.0**-8, 0x3F80),  # ties to the even neighbour
    ("cvt.rn.bf16.f32", 1 + 3 * 2.0**-8, 0x3F82),
    ("cvt.rn.bf16.f32", 1 + 2.0**-8 + 2.0**-23, 0x3F81),
    ("cvt.rn.bf16.f32", -MAX, 0xFF80),
    ("cvt.rn.bf16.f32", NAN, 0x7FFF),
    ("cvt.rn.bf16.f32", -NAN, 0x7FFF),
    ("cvt.rn.bf16.f32", 2.0**-134, 0),
    ("cvt.rn.bf16.f32", 3 * 2.0**-134, 2),
    ("cvt.rn.bf16x2.f32", 1.0, -2.0, 0x3F80C000),  # the first into the upper half
    ("cvt.rn.bf16x2.f32", NAN, -0.0, 0x7FFF8000),
    ("cvt.f32.bf16", 0x3F80, 1.0),
    ("cvt.f32.bf16", 0x8000, -0.0),
    ("cvt.f32.bf16", 1, 2.0**-133),
    ("cvt.f32.bf16", 0xFF80, -INF),
    ("cvt.f32.bf16", 0x7FC0, NAN),
]


def types_of(form: str) -> str:
    return FORMS[form][0] if form in FORMS else "f32 f32"


@pytest.mark.parametrize("form", sorted({row[0] for row in ANSWERS}))
def test_answers_by_hand(form: str) -> None:
    check(form, types_of(form), [row[1:] for row in ANSWERS if row[0] == form])


@covers(*FORMS)
@pytest.mark.parametrize("form", FORMS)
def test_all_edges(form: str) -> None:
    types, result = FORMS[form]
    y, edges, others = types.split()[0], operands(types), OTHER_OPERANDS.get(form, [])
    edges[len(edges) - len(others) :] = others
    rows = []
    for row in itertools.product(*edges):
        value = result(*row)
        if value is not None:
            rows.append((*row, wrap(value, y) if y[0] in "su" else value))
    check(form, types, rows)


@covers(*APPROXIMATE)
@pytest.mark.parametrize("form", APPROXIMATE)
def test_approximations_are_as_close_as_the_isa_says(form: str) -> None:
    exact, bound = APPROXIMATE[form]
    a = np.array([*FLOATS, *np.linspace(-150, 150, 1001), *np.geomspace(1e-40, 1e38, 500)], np.float32)
    flushed = flush if ".ftz" in form else float
    expected = np.array([flushed(exact(flushed(float(v)))) for v in a])
    actual = apply(f"{form} %y, %x0;", "f32 f32", [a]).astype(np.float64)
    ordinary = np.isfinite(expected) & (expected != 0)
    assert same(actual[~ordinary].astype(np.float32), expected[~ordinary].astype(np.float32)).all()
    error = np.abs(actual[ordinary] - expected[ordinary])
    assert (error <= np.maximum(bound * np.abs(expected[ordinary]), TINY)).all()


def test_nan_stays_nan_in_tf32() -> None:
    a = np.array([0x7FC00000, 0xFFC00000, 0x7FFFFFFF], np.uint32).view(np.float32)
    y = apply("cvt.rna.tf32.f32 %y, %x0;", "u32 f32", [a])
    assert np.isnan((y & 0xFFFFE000).view(np.float32)).all()  # tensor cores do not see the lowest 13 bits


@covers("mov.b32 pack", "mov.b32 unpack")
def test_halves_of_a_register() -> None:
    a = np.array([0x12345678, 0xFFFF0000, 0x0000FFFF, 0x80000001], np.uint32)
    unpack = ".reg .b16 %low, %high; mov.b32 {%low, %high}, %x0; "
    assert (apply(unpack + "mov.u16 %y, %low;", "u16 u32", [a]) == a & 0xFFFF).all()
    assert (apply(unpack + "mov.u16 %y, %high;", "u16 u32", [a]) == a >> 16).all()
    halves = [(a & 0xFFFF).astype(np.uint16), (a >> 16).astype(np.uint16)]
    assert (apply("mov.b32 %y, {%x0, %x1};", "u32 u16 u16", halves) == a).all()


# 9.4.1: sources are cut to the type's width, results extended with the sign that the type has.
WIDE: list[tuple[str, str, int, int]] = [
    ("cvt.u16.u32", "u32 u32", 0xABCD8765, 0x8765),
    ("cvt.u16.u32", "u64 u64", 0xFFFFFFFFABCD8765, 0x8765),
    ("cvt.u32.u16", "u32 u32", 0xABCD8765, 0x8765),
    ("cvt.u32.u16", "u64 u32", 0xABCD8765, 0x8765),
    ("cvt.u64.u32", "u64 u64", 0xFFFFFFFF87654321, 0x87654321),
    ("cvt.u32.u64", "u64 u64", 0xFFFFFFFF87654321, 0x87654321),
    ("cvt.s64.s32", "s64 s64", 0x0123456787654321, -0x789ABCDF),
]


@pytest.mark.parametrize("row", WIDE, ids=lambda row: f"{row[0]}-{row[1]}")
def test_conversion_between_wider_registers(row: tuple[str, str, int, int]) -> None:
    form, types, operand, result = row
    check(form, types, [(operand, result)])


# Constants as operands: decimal, negative, hexadecimal, the bits of a float, an unsigned suffix.
CONSTANTS: list[tuple[str, str, Any, Any]] = [
    ("add.s32 %y, %x0, -1;", "s32 s32", 5, 4),
    ("add.s64 %y, %x0, -8;", "s64 s64", 5, -3),
    ("and.b64 %y, %x0, -4294967296;", "u64 u64", 2**64 - 1, 2**64 - 2**32),
    ("and.b32 %y, %x0, 0xFF;", "u32 u32", 0x1234, 0x34),
    ("add.s32 %y, %x0, 010;", "s32 s32", 0, 8),
    ("add.s32 %y, %x0, 0b101;", "s32 s32", 0, 5),
    ("add.f32 %y, %x0, 0f3F800000;", "f32 f32", 0.5, 1.5),
    ("fma.rn.f32 %y, %x0, 0fBF800000, 0f00000000;", "f32 f32", 2.0, -2.0),
    ("setp.gt.u32 %y, %x0, 4294967294U;", "pred u32", 4294967295, 1),
    ("setp.eq.s16 %y, %x0, -1;", "pred s16", -1, 1),
    ("selp.b32 %y, 1, 2, %x0;", "u32 pred", 0, 2),
    ("mov.b64 %y, -1;", "u64 u64", 0, 2**64 - 1),
    ("shr.u64 %y, %x0, 60;", "u64 u64", 2**63, 8),
]


@pytest.mark.parametrize("row", CONSTANTS, ids=lambda row: row[0])
def test_constant_operands(row: tuple[str, str, Any, Any]) -> None:
    instruction, types, operand, result = row
    y, x0 = (TYPES[t].dtype for t in types.split())
    assert apply(instruction, types, [np.full(1, operand, x0)]).tolist() == np.full(1, result, y).tolist()


# What a guard leaves out keeps its value, and cannot fault.
GUARDED: list[tuple[str, str]] = [
    ("add.s32 %r1, %lane, 100;", "mov.b32 %r1, 7;"),
    ("div.s32 %r1, 100, %r0;", "mov.b32 %r1, 7;"),  # by zero where the guard is false
    ("cvt.u32.u16 %r1, %h0;", "mov.b32 %r1, 7;"),
    ("setp.eq.s32 %p1, %lane, %lane;", "setp.ne.s32 %p1, %lane, %lane;"),
    ("mov.pred %p1, %p2;", "setp.ne.s32 %p1, %lane, %lane;"),
    ("mov.b32 %r1, {%h0, %h0};", "mov.b32 %r1, 7;"),
]


@pytest.mark.parametrize("negated", [False, True])
@pytest.mark.parametrize("row", GUARDED, ids=lambda row: row[0].split()[0])
def test_a_guard_chooses_the_lanes(row: tuple[str, str], negated: bool) -> None:
    instruction, before = row
    out, every = np.zeros(32, np.uint32), np.zeros(32, np.uint32)
    prepare = "and.b32 %r0, %lane, 1; setp.ne.s32 %p0, %r0, 0; mov.u16 %h0, 3; setp.eq.s32 %p2, %lane, %lane; "
    if negated:
        prepare += "xor.b32 %r0, %r0, 1; "
    result = "selp.u32 %r1, 100, 7, %p1; " if "%p1" in instruction else ""
    store = f"{result}mul.wide.u32 %d0, %lane, 4; add.s64 %d0, %d0, %a0; st.global.u32 [%d0], %r1; "
    run(f"{prepare}{before}\n@{'!' if negated else ''}%p0 {instruction}\n{store}", out)
    run(f"{prepare.replace('%r0, 1;', '%r0, 0;')}or.b32 %r0, %r0, 1; {instruction}\n{store}", every)
    chosen = np.arange(32) % 2 == (0 if negated else 1)
    assert (out[~chosen] == 7).all()
    assert (out[chosen] == every[chosen]).all() and (every != 7).all()
