"""What a launcher in a user's file declares: the types of its parameters, and in a comment at each array its shape.

    void scale(float* y /*[N, C], may be x*/, const float* x /*[N, C]*/, const float* s /*[C]*/, int N, int C,
               Stream stream)

A shape's entries are sizes (names, numbers, or formulas of both, where / is C++'s division of positive numbers), or one
name with a star: an array of any shape, with that many elements. Pointers to const are inputs, the others outputs. An
output shares memory with no other array, except with an input that it "may be".
"""

from __future__ import annotations

import ast
import inspect
import math
import operator
import re
from collections.abc import Iterator, Mapping
from ctypes import c_bool, c_double, c_float, c_int, c_long, c_ubyte, c_uint, c_ulong, c_void_p
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from ..suggest import nearest

__all__ = ["Declaration", "DeclarationError", "Parameter", "Sizes", "declarations"]

TYPES: dict[str, tuple[Any, Any]] = {
    "float": (np.float32, c_float),
    "double": (np.float64, c_double),
    "bfloat16": (bfloat16, None),
    "bool": (np.bool_, c_bool),
    "int": (np.int32, c_int),
    "int32_t": (np.int32, c_int),
    "long": (np.int64, c_long),
    "int64_t": (np.int64, c_long),
    "unsigned": (np.uint32, c_uint),
    "unsigned int": (np.uint32, c_uint),
    "uint32_t": (np.uint32, c_uint),
    "uint64_t": (np.uint64, c_ulong),
    "unsigned char": (np.uint8, c_ubyte),
    "uint8_t": (np.uint8, c_ubyte),
}
"""What C++ calls them: the dtype of an array of them, and what ctypes passes as one of them."""
OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}
COMMENT = r"/\*.*?\*/"
LAUNCHER = re.compile(rf"\bvoid\s+(\w+)\s*\(((?:{COMMENT}|[^(){{}};/])*?\bStream\s+\w+)\s*\)\s*\{{", re.DOTALL)
PARAMETER = re.compile(
    r"\s*(?P<const>const\s+)?(?:std::)?(?P<type>\w+(?:\s+(?:char|int))?)"
    r"(?P<pointer>\s*\*\s*(?:__restrict__\s+)?|\s+)(?P<name>\w+)\s*(?:/\*\s*(?P<comment>.*?)\s*\*/)?\s*",
    re.DOTALL,
)
SHAPE = re.compile(r"\[(?P<entries>[^\]]*)\](?:\s*,\s*may be\s+(?P<may_be>\w+))?")


class DeclarationError(ValueError):
    """A launcher that is declared in a way that is not understood: file, line, launcher, got and expected."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a launcher; ``shape`` is None for a number."""

    name: str
    type: str
    output: bool = False
    shape: tuple[str, ...] | None = None
    may_be: str = ""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the array's elements, or of the number."""
        return np.dtype(TYPES[self.type][0])

    @property
    def passed_as(self) -> Any:
        """What ctypes passes."""
        return TYPES[self.type][1] if self.shape is None else c_void_p

    @property
    def whole(self) -> bool:
        """Whether it is a whole number, as a size is."""
        return self.shape is None and self.dtype.kind in "iu"

    @property
    def any_shape(self) -> str:
        """The name with a star; nothing for an array of a certain rank."""
        return self.shape[0][1:] if self.shape and self.shape[0].startswith("*") else ""

    def named(self) -> Iterator[str]:
        """The sizes that an array of this shape tells."""
        for entry in self.shape or ():
            if entry.removeprefix("*").isidentifier():
                yield entry.removeprefix("*")


@dataclass(frozen=True)
class Declaration:
    """A launcher: its name, and its parameters without the stream."""

    name: str
    parameters: tuple[Parameter, ...]

    @cached_property
    def inputs(self) -> tuple[Parameter, ...]:
        """Its arrays that are only read."""
        return tuple(p for p in self.parameters if p.shape is not None and not p.output)

    @cached_property
    def outputs(self) -> tuple[Parameter, ...]:
        """Its arrays that are written."""
        return tuple(p for p in self.parameters if p.output)

    @cached_property
    def signature(self) -> inspect.Signature:
        """As Python calls it: inputs and numbers in their order; by keyword the outputs, and sizes that outputs alone
        tell. What inputs tell is no argument."""
        inputs = {name for p in self.inputs for name in p.named()}
        outputs = {name for p in self.outputs for name in p.named()}
        kind, made = inspect.Parameter, list[inspect.Parameter]()
        for p in self.parameters:
            if p.output or (p.whole and p.name in outputs - inputs):
                made.append(kind(p.name, kind.KEYWORD_ONLY, default=None))
            elif not (p.whole and p.name in inputs):
                made.append(kind(p.name, kind.POSITIONAL_OR_KEYWORD))
        return inspect.Signature(sorted(made, key=lambda p: p.kind))


class Sizes:
    """What the arguments of one call say about the sizes in a launcher's shapes."""

    def __init__(self, launcher: str) -> None:
        self.launcher, self.known, self.shapes = launcher, dict[str, int](), dict[str, tuple[int, ...]]()

    def learn(self, p: Parameter, shape: tuple[int, ...]) -> None:
        """From an array. ValueError where another argument says something else."""
        if p.any_shape:
            if self.shapes.setdefault(p.any_shape, shape) != shape:
                raise self._other(p, str(self.shapes[p.any_shape]), shape)
            shape = (math.prod(shape),)
        elif len(shape) != len(p.shape or ()):
            raise self._other(p, self._text(p), shape)
        for entry, size in zip(p.shape or (), shape, strict=True):
            name = entry.removeprefix("*")
            if name.isidentifier() and self.known.setdefault(name, size) != size:
                raise self._other(p, self._text(p), shape)

    def check(self, p: Parameter, shape: tuple[int, ...]) -> None:
        """An array against all that is known now, formulas too."""
        if self.shape(p) != shape:
            raise self._other(p, str(self.shape(p)), shape)

    def shape(self, p: Parameter) -> tuple[int, ...]:
        """Of an array. ValueError where a size is not known, or is none."""
        if p.any_shape in self.shapes:
            return self.shapes[p.any_shape]
        shape = tuple(self._value(p, _formula(entry.removeprefix("*"))) for entry in p.shape or ())
        if min(shape, default=1) < 1:
            raise ValueError(f"{self.launcher}: {p.name}: expected sizes from 1, got shape {shape}")
        return shape

    def _value(self, p: Parameter, node: Any) -> int:
        if isinstance(node, ast.BinOp):
            left, right = self._value(p, node.left), self._value(p, node.right)
            if not right and isinstance(node.op, (ast.Div, ast.Mod)):
                raise ValueError(f"{self.launcher}: {p.name}: its shape has a division by zero")
            return int(OPERATORS[type(node.op)](left, right))
        if isinstance(node, ast.Constant):
            assert isinstance(node.value, int)  # as _is_size has found
            return node.value
        if node.id not in self.known:
            raise ValueError(f"{self.launcher}: {p.name}: expected it, or {node.id}, which no other argument tells")
        return self.known[node.id]

    def _text(self, p: Parameter) -> str:
        entries = [str(self.known.get(entry.removeprefix("*"), entry)) for entry in p.shape or ()]
        return f"({', '.join(entries)}{',' * (len(entries) == 1)})"

    def _other(self, p: Parameter, expected: str, shape: tuple[int, ...]) -> ValueError:
        return ValueError(f"{self.launcher}: {p.name}: expected shape {expected}, got {shape}")


def declarations(text: str, where: str) -> dict[str, Declaration]:
    """The launchers of a file of that text: functions at file scope or in namespace alexnet that return nothing, take a
    ``Stream`` last and give a shape to each array. DeclarationError for one that does so in part, and for none."""
    kept = re.sub(rf"({COMMENT})|//[^\n]*", lambda m: m[1] or " " * len(m[0]), text, flags=re.DOTALL)
    found = dict[str, Declaration]()
    for match in LAUNCHER.finditer(kept):
        place = f"{where}:{text.count(chr(10), 0, match.start()) + 1}: {match[1]}"
        if "/*" not in match[2]:
            continue  # a function of the file's own
        if match[1] in found:
            raise DeclarationError(f"{place}: expected one launcher of that name, got a second")
        pieces = re.findall(rf"(?:{COMMENT}|[^,/])+", match[2], re.DOTALL)[:-1]
        parameters = tuple(_parameter(piece, place) for piece in pieces)
        _check(parameters, place)
        found[match[1]] = Declaration(match[1], parameters)
    if not found:
        raise DeclarationError(
            f"{where}: expected a launcher such as void f(float* y /*[*n]*/, const float* x /*[*n]*/, long n, "
            "Stream stream), got none"
        )
    return found


def _parameter(text: str, place: str) -> Parameter:
    match = PARAMETER.fullmatch(text)
    shown = " ".join(text.split())
    if match is None:
        raise DeclarationError(f"{place}: expected a number or a pointer with its shape, got {shown!r}")
    kind, name, comment = " ".join(match["type"].split()), match["name"], match["comment"]
    pointer = "*" in match["pointer"]
    usable = [k for k, (_, number) in TYPES.items() if pointer or number]
    if kind not in usable:
        raise DeclarationError(f"{place}: {name}: expected a type of {', '.join(usable)}, got {kind}")
    if not pointer:
        return Parameter(name, kind)
    shape = SHAPE.fullmatch(comment or "")
    entries = tuple(entry.strip() for entry in shape["entries"].split(",")) if shape else ()
    if not shape or not all(map(_is_size, entries)) or (len(entries) > 1 and any(e.startswith("*") for e in entries)):
        raise DeclarationError(f"{place}: {name}: expected a shape such as /*[N, C]*/ or /*[*n]*/, got {shown!r}")
    if shape["may_be"] and match["const"]:
        raise DeclarationError(f"{place}: {name}: expected that an output may be an input, got {shown!r}")
    return Parameter(name, kind, not match["const"], entries, shape["may_be"] or "")


@cache
def _formula(entry: str) -> ast.expr:
    return ast.parse(entry, mode="eval").body


def _is_size(entry: str) -> bool:
    """A name, perhaps with a star, or a formula of names and whole numbers."""
    if entry.startswith("*"):
        return entry[1:].isidentifier()
    try:
        tree = _formula(entry)
    except SyntaxError:
        return False
    allowed = (ast.BinOp, ast.Name, ast.Constant, ast.expr_context, *OPERATORS)
    nodes = list(ast.walk(tree))
    return all(isinstance(n, allowed) for n in nodes) and all(
        type(n.value) is int for n in nodes if isinstance(n, ast.Constant)
    )


def _check(parameters: tuple[Parameter, ...], place: str) -> None:
    """What parameters say of one another."""
    by_name: Mapping[str, Parameter] = {p.name: p for p in parameters}
    if len(by_name) < len(parameters):
        raise DeclarationError(f"{place}: expected a name of its own for each parameter")
    for p in parameters:
        for size in p.named():
            if size in by_name and not by_name[size].whole:
                raise DeclarationError(f"{place}: {p.name}: expected a whole number as its size, got {size}")
        inputs = [other.name for other in parameters if other.shape is not None and not other.output]
        if p.may_be and p.may_be not in inputs:
            hint = nearest(p.may_be, inputs)
            raise DeclarationError(f"{place}: {p.name}: expected that it may be an input, got {p.may_be}{hint}")
