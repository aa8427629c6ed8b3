"""PyTorch's ``state_dict``: read from what ``torch.save`` writes and from safetensors, written as safetensors.

``torch.save`` writes a zip file with data.pkl, a pickle that says which tensors there are, and their values as data/0,
data/1, ...; before 1.6 it wrote five pickles (a magic number, a version, the system, the object, the keys of the
storages) and then the values of each storage behind their number.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ..files import WeightsError, save_safetensors
from ..models import Model
from .layout import Entry, Floats, shown, slots
from .pickles import PICKLE_BYTES, Global, Other, Pickles, Storage, Tensor

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
SAFETENSORS = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
MAGICS = b"\x8a\n" + MAGIC.to_bytes(10, "little"), b"L%dL\n" % MAGIC
"""The magic number as a pickle of protocol 2 and later, or of protocol 1, gives it."""
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
"""Names under which a file has its state, most usual first; others are taken where none lies as far out."""
DEEPEST = 3  # wrapper within wrapper
MARKS_OF_WRAPPERS = {"module", "_orig_mod"}
"""What DataParallel and torch.compile put into names, wherever they wrap."""
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


def is_legacy(head: bytes) -> bool:
    """Whether a file is of torch.save before 1.6."""
    return head.startswith(MAGICS[1]) or (head.startswith(b"\x80") and MAGICS[0] in head)


def entries(path: Path, head: bytes) -> tuple[dict[str, Entry], list[str]]:
    """The tensors in a file that begins with ``head``, and what to tell of how they were found. WeightsError for what
    is damaged or has no state_dict; counters of batch normalisation are left out."""
    if is_zip(head):
        found, notes = _of_zip(path)
    elif is_legacy(head):
        found, notes = _of_legacy(path)
    else:
        found, notes = _of_safetensors(path), []
    return {name: entry for name, entry in found.items() if not name.endswith(".num_batches_tracked")}, notes


def fitted(found: Mapping[str, Entry], expected: Collection[str]) -> tuple[dict[str, Entry], list[str]]:
    """The tensors under the names that are expected, as far as that takes dropping prefixes and single values, and what
    to tell of it."""
    notes = []
    single = [name for name, entry in found.items() if entry.shape == () and name not in expected]
    if single:
        notes.append(f"ignored {', '.join(map(shown, single[:5]))}{', ...' * (len(single) > 5)}: single values")
    names = {name: name for name in found if name not in single}
    short = {name: ".".join(p for p in name.split(".") if p not in MARKS_OF_WRAPPERS) for name in names}
    dropped = sorted({p for name in names for p in name.split(".")[:-1] if p in MARKS_OF_WRAPPERS})
    if dropped and len(set(short.values())) == len(short):
        notes.append(f"dropped {' and '.join(shown(p + '.') for p in dropped)} from the names")
        names = short
    prefix = _prefix(names.values(), expected)
    if prefix:
        notes.append(f"dropped {shown(prefix)} from the names")
    return {short.removeprefix(prefix): found[name] for name, short in names.items()}, notes


def _prefix(names: Collection[str], expected: Collection[str]) -> str:
    """What stands before more of the expected names than anything else, nothing included."""
    hits = Counter(name[: -len(e)] for name in names for e in expected if name.endswith(f".{e}"))
    hits[""] = len(set(names).intersection(expected))
    (prefix, most), *others = hits.most_common(2)
    return prefix if not others or others[0][1] < most else ""


def _of_safetensors(path: Path) -> dict[str, Entry]:
    def read(name: str) -> NDArray[Any]:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor(name)

    def read_bfloat16(name: str) -> Floats:
        with path.open("rb") as file:  # NumPy has no such type
            length = int.from_bytes(file.read(8), "little")
            tensor = json.loads(file.read(length))[name]
            file.seek(8 + length + tensor["data_offsets"][0])
            values = np.fromfile(file, "<u2", math.prod(tensor["shape"]))
        return _widened(values.reshape(tensor["shape"]))

    try:
        found = {}
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                part = file.get_slice(name)
                dtype = SAFETENSORS.get(part.get_dtype(), part.get_dtype())
                reader = read_bfloat16 if dtype == "bfloat16" else read
                found[name] = Entry(tuple(part.get_shape()), dtype, partial(reader, name))
        return found
    except (SafetensorError, OSError) as e:
        raise WeightsError(f"{path}: not a whole safetensors file: {e}") from e


def _of_zip(path: Path) -> tuple[dict[str, Entry], list[str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist()]
            if any(name.endswith(("/constants.pkl", "/model.json")) or "/code/" in name for name in names):
                raise WeightsError(
                    f"{path}: TorchScript or an exported program: expected a state_dict, which "
                    "torch.save(torch.jit.load(PATH).state_dict(), OTHER) writes"
                )
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
        raise WeightsError(f"{path}: not a whole zip file: {_reason(e)}") from e
    if order != b"little":
        raise WeightsError(f"{path}: expected numbers in little-endian order, got {order!r}")

    def values(storage: Storage) -> NDArray[Any]:
        with zipfile.ZipFile(path) as archive:
            return np.frombuffer(archive.read(f"{root}data/{storage.key}"), _stored(storage.dtype))

    def where(storage: Storage) -> Callable[[Storage], NDArray[Any]]:
        size = sizes.get(f"{root}data/{storage.key}")
        if size != _bytes(storage):
            stored = "none that are not compressed" if size is None else f"{size:,}"
            raise WeightsError(f"expected {_bytes(storage):,} bytes in data/ as {shown(storage.key)}, got {stored}")
        return values

    try:
        return _state(path, "data.pkl", Pickles(program, "data.pkl").load(), where)
    except WeightsError as e:
        raise WeightsError(f"{path}: {e}") from None


def _of_legacy(path: Path) -> tuple[dict[str, Entry], list[str]]:
    """Of torch.save before 1.6."""
    try:
        with path.open("rb") as file:
            content = file.read(PICKLE_BYTES)
            size = file.seek(0, 2)
        pickles = Pickles(content, "the pickle")
        if (pickles.load(), pickles.load()) != (MAGIC, VERSION):
            raise WeightsError(f"expected version {VERSION:,} of the format of torch.save before 1.6")
        system = pickles.load()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise WeightsError("expected numbers in little-endian order")
        value = pickles.load()
        storages = {storage.key: storage for storage in pickles.storages}
        keys = pickles.load()
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise WeightsError("the pickle is damaged: expected a list of the storages' keys")
        places, position = dict[str, int](), pickles.position()
        for key in keys:
            if key not in storages:  # of a type that is not read, so that nobody knows where the next begins
                break
            places[key] = position + 8
            position += 8 + _bytes(storages[key])
            if position > size:
                raise WeightsError(f"truncated: expected at least {position:,} bytes, got {size:,}")
    except OSError as e:
        raise WeightsError(f"{path}: {e.strerror}") from e
    except WeightsError as e:
        more = f" (only its first {PICKLE_BYTES:,} bytes are read)" if size > PICKLE_BYTES else ""
        raise WeightsError(f"{path}: {e}{more}") from None

    def values(storage: Storage) -> NDArray[Any]:
        with path.open("rb") as file:
            file.seek(places[storage.key] - 8)
            numel = int.from_bytes(file.read(8), "little")
            if numel != storage.numel:
                raise ValueError(f"expected {storage.numel:,} values, got {numel:,}")
            if not numel:
                return np.zeros(0, _stored(storage.dtype))
            return np.memmap(file, _stored(storage.dtype), "r", places[storage.key], numel)

    def where(storage: Storage) -> Callable[[Storage], NDArray[Any]]:
        if storage.key not in places or _bytes(storages[storage.key]) != _bytes(storage):
            raise WeightsError(
                f"its {_bytes(storage):,} bytes as {shown(storage.key)} are not in the file, or lie behind values of a "
                "type that is not read"
            )
        return values

    try:
        return _state(path, "the pickle", value, where)
    except WeightsError as e:
        raise WeightsError(f"{path}: {e}") from None


def _state(
    path: Path, pickle: str, value: Any, where: Callable[[Storage], Callable[[Storage], NDArray[Any]]]
) -> tuple[dict[str, Entry], list[str]]:
    """The state_dict in what a pickle, so named, built. ``where`` gives what reads a storage, or a WeightsError."""
    states = dict(_states(value, (), set()))
    named = [place for wrapper in WRAPPERS for place in states if place and place[-1] == wrapper]
    outer = [place for place in states if len(place) == min(map(len, states))]
    chosen = named[0] if named else outer[0] if len(outer) == 1 else None
    if chosen is None and states:
        several = ", ".join(shown(".".join(place)) for place in outer[:5])
        raise WeightsError(
            f"expected one state_dict, got {len(outer):,}: {several}; torch.save(torch.load(PATH)[NAME], OTHER) "
            "writes one of them"
        )
    if chosen is None:
        raise _stateless(pickle, value)
    state = states[chosen]
    notes = [f"read what the file has as {shown('.'.join(chosen))}"] if chosen else []
    plain = [name for name, given in state.items() if not isinstance(given, Tensor | Other)]
    if plain:
        notes.append(f"ignored {', '.join(map(shown, plain[:5]))}{', ...' * (len(plain) > 5)}: no tensors")
    found = {}
    for name, given in state.items():
        if isinstance(given, Other):
            raise _unknown(pickle, given)
        if isinstance(given, Tensor):
            try:
                found[name] = _entry(path, name, given, where(given.storage))
            except WeightsError as e:
                raise WeightsError(f"{shown(name)}: {e}") from None
    return found, notes


def _states(value: Any, place: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """All dicts that have arrays under names, behind the keys that lead to them, each once."""
    if not isinstance(value, dict) or id(value) in seen:
        return
    seen.add(id(value))
    texts = {key: item for key, item in value.items() if isinstance(key, str)}
    if len(texts) == len(value) and any(isinstance(item, Tensor) and item.shape for item in texts.values()):
        yield place, texts
    if len(place) < DEEPEST:
        for key, item in texts.items():
            yield from _states(item, (*place, key), seen)


def _stateless(pickle: str, value: Any) -> WeightsError:
    """Why there is no state_dict: a whole module, something else that a pickle asks for, or other values."""
    items = [value, *(value.values() if isinstance(value, dict) else ())]
    for item in items:
        if isinstance(item, Other) and item.module:
            return WeightsError(
                f"holds a whole module of class {shown(item.name)}: expected its state_dict, which "
                "torch.save(model.state_dict(), PATH) writes"
            )
    for item in items:
        if isinstance(item, Other | Global):
            return _unknown(pickle, item)
    if isinstance(value, dict) and value:
        name, item = next(iter(value.items()))
        return WeightsError(f"expected a state_dict of tensors, got {_kind(item)} as {shown(str(name))}")
    return WeightsError(f"expected a state_dict of tensors, got {_kind(value)}")


def _kind(value: Any) -> str:
    return "an empty dict" if value == {} else f"a {type(value).__name__}"


def _unknown(pickle: str, value: Other | Global) -> WeightsError:
    return WeightsError(f"{pickle} asks for {shown(value.name)}; only tensors are read")


def _stored(dtype: str) -> np.dtype[Any]:
    """How values lie in a file."""
    return np.dtype("<u2" if dtype == "bfloat16" else dtype)


def _bytes(storage: Storage) -> int:
    return storage.numel * _stored(storage.dtype).itemsize


def _reason(error: BaseException) -> str:
    """What an error says, cut: zipfile's may hold most of the file."""
    text = str(error)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _widened(values: NDArray[np.uint16]) -> Floats:
    """bfloat16, whose bits are the upper half of float32's."""
    wide = values.astype("<u4")
    wide <<= 16
    return wide.view("<f4")


def _entry(path: Path, name: str, tensor: Tensor, values: Callable[[Storage], NDArray[Any]]) -> Entry:
    storage, offset, shape, strides = tensor
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.numel:
        raise WeightsError(
            f"shape {shape} with strides {strides} from {offset} on does not lie in {storage.numel:,} values"
        )

    def read() -> NDArray[Any]:
        try:
            stored = values(storage)
            if len(stored) != storage.numel:  # an archive's own list of sizes may be wrong
                raise EOFError(f"expected {storage.numel:,} values, got {len(stored):,}")
        except DAMAGE as e:
            raise WeightsError(f"{path}: {shown(name)}: {_reason(e)}") from e
        steps = [stride * stored.itemsize for stride in strides]
        shaped = np.lib.stride_tricks.as_strided(stored[offset:], shape, steps, writeable=False)
        return _widened(shaped) if storage.dtype == "bfloat16" else shaped

    return Entry(shape, storage.dtype, read)
