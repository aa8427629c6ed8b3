"""Pickles of PyTorch, read without executing them.

Pickles are programs. The interpreter here knows their instructions, builds plain values and descriptions of tensors,
and stands an ``Other`` with its name for whatever else a pickle wants made: nothing in a file is imported or called.
"""

from __future__ import annotations

import io
import pickletools
import warnings
from typing import Any, NamedTuple

from ..files import WeightsError
from .layout import shown

PICKLE_BYTES = 1 << 23  # a thousand times what a state_dict of AlexNet takes
INSTRUCTIONS = 1 << 19  # of some 80 bytes each at most, which bounds the memory
MOST_DIMENSIONS, LARGEST, LONGEST_NAME = 8, 1 << 48, 1000
DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
REBUILT = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
    "torch.autograd.variable.Variable",
}
"""What gives its first argument, a tensor."""


class Global(NamedTuple):
    """A name that a pickle wants imported."""

    name: str


class Other:
    """What a pickle would make of a class or function that is not known here. ``module``: it has the parts of an
    ``nn.Module``."""

    __slots__ = ("module", "name")

    def __init__(self, name: str) -> None:
        self.name, self.module = name, False


class Storage(NamedTuple):
    """Where values lie: ``numel`` of them under ``key``, those of a view from ``first`` on."""

    dtype: str
    key: str
    numel: int
    first: int


class Tensor(NamedTuple):
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Pickles:
    """The pickles that follow one another in ``content``; ``where`` names them in messages."""

    def __init__(self, content: bytes, where: str) -> None:
        self.where = where
        self.storages = list[Storage]()
        """Those that the last pickle speaks of."""
        self._file = io.BytesIO(content)
        self._left = INSTRUCTIONS
        self._clear()

    def load(self) -> Any:
        """What the next pickle builds. WeightsError for one that is damaged or too long."""
        self._clear()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of text that is damaged
                for instruction, argument, _ in pickletools.genops(self._file):
                    self._spend(1)
                    if instruction.name != "STOP":
                        self._step(instruction.name, argument)
            return self._stack[-1]
        except WeightsError:
            raise
        except (IndexError, KeyError, TypeError, ValueError, OverflowError) as e:
            raise WeightsError(f"{self.where} is damaged: {e}") from e

    def position(self) -> int:
        """Where the last pickle ends."""
        return self._file.tell()

    def _clear(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self.storages = []

    def _spend(self, instructions: int) -> None:
        self._left -= instructions
        if self._left < 0:
            raise WeightsError(
                f"{self.where}: expected a state_dict with little beside it, got over {INSTRUCTIONS:,} instructions"
            )

    def _above_mark(self) -> list[Any]:
        first = self._marks.pop()
        items = self._stack[first:]
        del self._stack[first:]
        return items

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(Other("set"))
            case "MARK":
                self._marks.append(len(stack))
            case "POP" if self._marks and self._marks[-1] == len(stack):
                self._marks.pop()
            case "POP":
                stack.pop()
            case "POP_MARK" | "ADDITEMS":
                self._above_mark()
            case "DUP":
                stack.append(stack[-1])
            case "TUPLE":
                stack.append(tuple(self._above_mark()))
            case "LIST":
                stack.append(self._above_mark())
            case "FROZENSET":
                self._above_mark()
                stack.append(Other("frozenset"))
            case "DICT":
                items = self._above_mark()
                stack.append({})
                self._set(items)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                if len(stack) < count:
                    raise IndexError("a tuple of too few items")
                stack[-count:] = [tuple(stack[-count:])]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "APPEND" | "APPENDS":
                items = self._above_mark() if name == "APPENDS" else [stack.pop()]
                if isinstance(stack[-1], list):
                    stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                self._set(self._above_mark() if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1])
            case "BUILD":
                attributes = stack.pop()
                if isinstance(stack[-1], Other) and isinstance(attributes, dict) and "_modules" in attributes:
                    stack[-1].module = True
            case "GLOBAL":
                stack.append(Global(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                attribute, module = self._checked(stack.pop(), str), self._checked(stack.pop(), str)
                if len(module) + len(attribute) > LONGEST_NAME:  # kept text could be joined again and again
                    raise ValueError(f"a name of more than {LONGEST_NAME:,} characters")
                stack.append(Global(f"{module}.{attribute}"))
            case "PERSID":
                stack.append(Other(f"persistent id {argument}"))
            case "BINPERSID":
                stack.append(self._persistent(stack.pop()))
            case "INST" | "OBJ":
                items = self._above_mark()
                stack.append(Other(argument.replace(" ", ".") if name == "INST" else _name(items[0])))
            case "NEWOBJ" | "NEWOBJ_EX":
                del stack[-1 if name == "NEWOBJ" else -2 :]
                stack.append(Other(_name(stack.pop())))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(_name(function), arguments))
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(Other(f"extension {argument}"))
            case "NEXT_BUFFER" | "READONLY_BUFFER":
                raise ValueError("values in a buffer outside of it")
            case _:
                stack.append(argument)  # of all other instructions: a number, text or bytes

    def _set(self, items: list[Any]) -> None:
        """Pairs into the dict on top of the stack; keys that are neither text nor numbers cannot lead to tensors."""
        target = self._stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(target, dict) and type(key) in (str, int):
                if key in target:
                    raise WeightsError(f"{self.where} is damaged: {shown(str(key))} is there twice")
                target[key] = value

    def _persistent(self, identity: Any) -> Any:
        """A storage; a class, which the format before 1.6 gives with its source."""
        kind, wanted, *more = self._checked(identity, tuple)
        if kind == "module":
            return wanted
        if kind != "storage" or not isinstance(wanted, Global):
            return Other(_name(wanted))
        dtype = DTYPES.get(wanted.name.removeprefix("torch.").removeprefix("cuda."))
        if dtype is None:
            return Other(wanted.name)
        key, _, numel, *view = more
        first = 0
        if view and view[0] is not None:
            _, first, size = self._checked(view[0], tuple)
            if self._checked(first, int) + self._checked(size, int) > self._checked(numel, int):
                raise ValueError("a view is larger than what it shows")
        made = Storage(dtype, self._checked(key, str), self._checked(numel, int), first)
        self.storages.append(made)
        return made

    def _call(self, wanted: str, arguments: Any) -> Any:
        """What a function would give, as far as a state_dict needs it."""
        arguments = self._checked(arguments, tuple)
        if wanted == "collections.OrderedDict" and len(arguments) < 2:
            pairs = self._checked(arguments[0], list) if arguments else []  # of Python 2
            self._spend(len(pairs))
            self._stack.append({})
            self._set([item for pair in pairs for item in self._pair(pair)])
            return self._stack.pop()
        if wanted == "collections.defaultdict":
            return {}
        if wanted == "torch.Size" and arguments:
            return arguments[0]
        if wanted in REBUILT and arguments and isinstance(arguments[0], Tensor):
            return arguments[0]
        if wanted in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            storage, offset, *sizes = list[Any](arguments[:4])
            if isinstance(storage, Other):
                return storage
            shape, strides = (self._checked(ns, tuple) for ns in sizes)
            if len(shape) != len(strides) or len(shape) > MOST_DIMENSIONS:
                raise ValueError(f"a tensor's shape and strides differ in length, or are longer than {MOST_DIMENSIONS}")
            for n in (*shape, *strides):
                self._checked(n, int)
            first = self._checked(storage, Storage).first
            return Tensor(storage, first + self._checked(offset, int), shape, strides)
        if wanted.endswith(("._reconstructor", ".__newobj__")) and arguments:
            return Other(_name(arguments[0]))
        return Other(wanted)

    def _pair(self, value: Any) -> list[Any]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise ValueError("expected pairs of a name and a value")
        return list(value)

    def _checked(self, value: Any, kind: type) -> Any:
        """The value, which must be of that type, and if a number not negative nor too large."""
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value < LARGEST):
            raise ValueError(f"expected a {kind.__name__.lower()}, got a {type(value).__name__.lower()}")
        return value


def _name(value: Any) -> str:
    return value.name if isinstance(value, Global | Other) else type(value).__name__
