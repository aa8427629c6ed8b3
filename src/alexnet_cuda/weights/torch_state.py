"""PyTorch's ``state_dict``: read from ``torch.save``'s zip files and from safetensors, written as safetensors.

A zip file holds data.pkl, a pickle that says which tensors there are, and their values as data/0, data/1, ... Pickles
are programs. The interpreter here knows the few instructions that describe tensors; nothing in a file is imported or
called, whatever it asks for.
"""

from __future__ import annotations

import json
import math
import pickletools
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from ..files import save_safetensors
from ..models import Model
from .layout import Entry, Floats, WeightsError, shown, slots

TORCHVISION = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}
ARRAYS = {"w": "weight", "b": "bias", "gamma": "weight", "beta": "bias", "running_variance": "running_var"}
DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
}
SAFETENSORS = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16", "I64": "int64"}
PICKLE_BYTES = 1 << 20  # some hundred times what a state_dict of AlexNet takes
# What zipfile raises for an archive that is cut off, altered, encrypted or compressed in a way of its own.
DAMAGE = zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, KeyError, ValueError, OSError, zlib.error


def names(model: Model) -> dict[str, str]:
    """PyTorch's name of each array: torchvision's for ``alexnet-owt``, those of the layers for the other models."""
    theirs = {}
    for slot in slots(model):
        layer, array = slot.name.split(".")
        module = TORCHVISION[layer] if model.name == "alexnet-owt" else layer
        theirs[slot.name] = f"{module}.{ARRAYS.get(array, array)}"
    return theirs


def save(path: Path, model: Model, weights: Mapping[str, Floats], notes: Mapping[str, Any]) -> None:
    """Writes the weights of a model, by our names, in PyTorch's layout under PyTorch's names; ``notes`` go into the
    metadata. WeightsError for a model that PyTorch has no layers for."""
    theirs = names(model)
    arrays = {theirs[slot.name]: slot.theirs(np.asarray(weights[slot.name])) for slot in slots(model)}
    texts = {name: note if isinstance(note, str) else json.dumps(note) for name, note in notes.items()}
    save_safetensors(path, arrays, {"format": "pt", **texts})


def is_zip(head: bytes) -> bool:
    return head.startswith(b"PK\x03\x04")


def is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{"


def entries(path: Path, head: bytes) -> dict[str, Entry]:
    """The tensors in a file that begins with ``head``. WeightsError for what is damaged or not a state_dict; counters
    of batch normalisation are left out."""
    found = _of_zip(path) if is_zip(head) else _of_safetensors(path)
    return {name: entry for name, entry in found.items() if not name.endswith(".num_batches_tracked")}


def _of_safetensors(path: Path) -> dict[str, Entry]:
    def read(name: str) -> Floats:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor(name)

    try:
        found = {}
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                part = file.get_slice(name)
                dtype = SAFETENSORS.get(part.get_dtype(), part.get_dtype())
                found[name] = Entry(tuple(part.get_shape()), dtype, partial(read, name))
        return found
    except (SafetensorError, OSError) as e:
        raise WeightsError(f"{path}: not a whole safetensors file: {e}") from e


class _Global(NamedTuple):
    """A name that a pickle wants imported."""

    name: str


class _Storage(NamedTuple):
    dtype: str
    key: str
    numel: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _of_zip(path: Path) -> dict[str, Entry]:
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise WeightsError(f"{path}: a zip file, but not of torch.save: it holds {len(pickles)} data.pkl")
            root = pickles[0].filename.removesuffix("data.pkl")
            sizes = {info.filename: info.file_size for info in archive.infolist() if not info.compress_type}
            if pickles[0].filename not in sizes or pickles[0].file_size > PICKLE_BYTES:
                raise WeightsError(
                    f"{path}: data.pkl: expected at most {PICKLE_BYTES:,} bytes, not compressed, got "
                    f"{pickles[0].file_size:,}"
                )
            program = archive.read(pickles[0])
            order = archive.read(f"{root}byteorder") if sizes.get(f"{root}byteorder", 99) < 9 else b"little"
    except WeightsError:
        raise
    except DAMAGE as e:
        raise WeightsError(f"{path}: not a whole zip file: {e}") from e
    if order != b"little":
        raise WeightsError(f"{path}: expected numbers in little-endian order, got {order!r}")
    try:
        state = _run(program)
        return {name: _entry(path, root, sizes, name, tensor) for name, tensor in state.items()}
    except WeightsError as e:
        raise WeightsError(f"{path}: {e}") from None


def _entry(path: Path, root: str, sizes: Mapping[str, int], name: str, tensor: Any) -> Entry:
    where = shown(name)
    if not isinstance(tensor, _Tensor):
        raise WeightsError(f"expected a state_dict of tensors, got a {type(tensor).__name__} as {where}")
    storage, offset, shape, strides = tensor
    member, numel = f"{root}data/{storage.key}", math.prod(shape)
    dtype = "float32" if storage.dtype == "bfloat16" else storage.dtype
    itemsize = 2 if storage.dtype == "bfloat16" else np.dtype(dtype).itemsize
    if sizes.get(member) != storage.numel * itemsize:
        stored = f"{sizes[member]:,}" if member in sizes else "none that are not compressed"
        raise WeightsError(
            f"{where}: expected {storage.numel * itemsize:,} bytes in data/ as {shown(storage.key)}, got {stored}"
        )
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if numel > storage.numel or (numel and last >= storage.numel):
        raise WeightsError(
            f"{where}: shape {shape} with strides {strides} from {offset} on does not lie in {storage.numel:,} values"
        )

    def read() -> Floats:
        try:
            with zipfile.ZipFile(path) as archive:
                values = np.frombuffer(archive.read(member), dtype)
            if len(values) != storage.numel:  # the archive's own list of sizes may be wrong
                raise EOFError(f"expected {storage.numel:,} values, got {len(values):,}")
        except DAMAGE as e:
            raise WeightsError(f"{path}: {where}: {e}") from e
        steps = [stride * values.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)

    return Entry(shape, storage.dtype, read)


def _run(program: bytes) -> dict[str, Any]:
    """What the pickle of a state_dict builds. WeightsError, with its name, for any instruction, class or function that
    a state_dict of tensors does not need."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of text that is damaged
            for instruction, argument, _ in pickletools.genops(program):
                if instruction.name != "STOP":
                    _step(instruction.name, argument, stack, marks, memo)
        if not isinstance(stack[-1], dict):
            raise WeightsError(f"expected a state_dict of tensors, got a {type(stack[-1]).__name__}")
        return stack[-1]
    except WeightsError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError) as e:
        raise WeightsError(f"data.pkl is damaged: {e}") from e


def _step(name: str, argument: Any, stack: list[Any], marks: list[int], memo: dict[int, Any]) -> None:
    def above_mark() -> list[Any]:
        first = marks.pop()
        items = stack[first:]
        del stack[first:]
        return items

    match name:
        case "PROTO" | "FRAME":
            pass
        case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
            stack.append(argument)
        case "NONE" | "NEWTRUE" | "NEWFALSE":
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        case "EMPTY_TUPLE":
            stack.append(())
        case "EMPTY_DICT":
            stack.append({})
        case "MARK":
            marks.append(len(stack))
        case "TUPLE":
            stack.append(tuple(above_mark()))
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            count = int(name[-1])
            if len(stack) < count:
                raise IndexError("a tuple of too few items")
            stack[-count:] = [tuple(stack[-count:])]
        case "BINPUT" | "LONG_BINPUT":
            memo[argument] = stack[-1]
        case "MEMOIZE":
            memo[len(memo)] = stack[-1]
        case "BINGET" | "LONG_BINGET":
            stack.append(memo[argument])
        case "SETITEM" | "SETITEMS":
            items = above_mark() if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            if not isinstance(stack[-1], dict) or not all(isinstance(key, str) for key in items[::2]):
                raise WeightsError("expected a state_dict with names as keys")
            for key, value in zip(items[::2], items[1::2], strict=True):
                if key in stack[-1]:
                    raise WeightsError(f"{shown(key)} is there twice")
                stack[-1][key] = value
        case "BUILD":  # a state_dict's attribute _metadata
            stack.pop()
        case "GLOBAL":
            stack.append(_Global(argument.replace(" ", ".")))
        case "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_Global(f"{module:s}.{attribute:s}"))
        case "BINPERSID":
            kind, storage, key, _, numel = stack.pop()
            dtype = DTYPES.get(storage.name.removeprefix("torch.")) if isinstance(storage, _Global) else None
            if kind != "storage" or dtype is None:
                wanted = storage.name if isinstance(storage, _Global) else type(storage).__name__
                raise WeightsError(f"data.pkl asks for {shown(wanted)}; only tensors are read")
            stack.append(_Storage(dtype, _checked(key, str), _checked(numel, int)))
        case "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_call(function, arguments))
        case _:
            raise WeightsError(f"data.pkl has the instruction {name}; only tensors are read")


def _call(function: Any, arguments: Any) -> Any:
    """What a function that a state_dict needs would give."""
    wanted = function.name if isinstance(function, _Global) else type(function).__name__
    if wanted == "collections.OrderedDict" and arguments == ():
        return {}
    if wanted == "torch._utils._rebuild_parameter":
        return _checked(arguments[0], _Tensor)
    if wanted == "torch._utils._rebuild_tensor_v2":
        storage, offset, shape, strides = arguments[:4]
        shape, strides = (tuple(_checked(n, int) for n in _checked(ns, tuple)) for ns in (shape, strides))
        if len(shape) != len(strides) or len(shape) > 8:
            raise WeightsError("data.pkl is damaged: a tensor's shape and strides differ in length")
        return _Tensor(_checked(storage, _Storage), _checked(offset, int), shape, strides)
    raise WeightsError(f"data.pkl asks for {shown(wanted)}; only tensors are read")


def _checked(value: Any, kind: type) -> Any:
    """The value, which must be of that type, and if a number not negative nor beyond 2^48."""
    if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 1 << 48):
        raise WeightsError(f"data.pkl is damaged: expected a {kind.__name__.strip('_')}, got a {type(value).__name__}")
    return value
