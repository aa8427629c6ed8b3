"""Caffe's networks (.caffemodel) and mean images (.binaryproto, .npy): the few fields of caffe.proto that hold arrays.

Protocol buffers are (tag, value) pairs; the tag is the field's number times 8 plus its wire type. Numbers of fields
are those of caffe.proto, for layers of today (LayerParameter) and of 2014 (V1LayerParameter), and of NVIDIA's fork.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..files import WeightsError
from ..models import Deploy, Model
from ..models.layers import BatchNorm, Concat, Conv2d, Linear
from .layout import Entry, Floats, shown, slots

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
V0_LAYER, V1_NAME = 1, 4
LAYERS = {2: (V1_NAME, 6), 100: (1, 7)}
"""Field of NetParameter with layers: the fields of a layer's name and blobs, of V1LayerParameter and LayerParameter."""
MOST_LAYERS, MOST_BLOBS, MOST_PIECES, MOST_DIMENSIONS = 1000, 16, 4096, 8
MEAN_BYTES, MEAN_SIDE = 1 << 26, 2048
VALUES = {5: ("float32", 4, FIXED32), 8: ("float64", 8, FIXED64)}
"""Fields of BlobProto that hold values: data and double_data."""
RAW_TYPE, RAW_DATA, RAW_FLOATS = 10, 12, {2: "float16", 4: "float32", 8: "float64"}
"""Fields of NVIDIA's fork, and the type of values of so many bytes; RAW_WHOLE: its types that are no floats."""
RAW_WHOLE = (3, 4)
NPY = b"\x93NUMPY"

Bytes = NDArray[np.uint8]


class Field(NamedTuple):
    """A field of a message; ``value`` of a VARINT; all others lie from ``start`` to before ``end``."""

    number: int
    wire: int
    value: int
    start: int
    end: int


def is_network(head: bytes) -> bool:
    """Whether a file begins with a field of NetParameter: name, layers, input, flags, state, or a layer of today."""
    first, second, third = (*head[:3], 0, 0, 0)[:3]
    return (
        first in (0x0A, 0x12, 0x1A)
        or (first in (0x28, 0x38) and second < 2)
        or (first == 0x32 and third == 0x08)
        or (first, second) == (0xA2, 0x06)
    )


def model_name(path: Path, order: Sequence[str], wanted: str | None) -> str:
    """Which of Caffe's two networks the layers are: CaffeNet pools before it normalises. WeightsError when the layers
    do not tell and ``wanted`` does not, or when the two differ."""
    known: dict[tuple[str, ...], str] = {("norm1", "pool1"): "caffe-alexnet", ("pool1", "norm1"): "caffenet"}
    found = known.get(tuple(dict.fromkeys(name[:5] for name in order if name[:5] in ("norm1", "pool1"))))
    if wanted not in (None, *known.values()) or (wanted and found and wanted != found):
        raise WeightsError(f"{path}: expected {found or ' or '.join(known.values())}, got model {wanted}")
    if not (found or wanted):
        raise WeightsError(
            f"{path}: without layers norm1 and pool1 it may be {' or '.join(known.values())}; --model says which"
        )
    return found or str(wanted)


def fitted(found: Mapping[str, Entry], model: Model) -> tuple[dict[str, Entry], list[str]]:
    """The blobs of ``network`` under the model's names and without leading dimensions of 1 that the model's do not
    have, and what to tell of it. Layers of other names are taken by their position, where there is one for each layer
    of the model that is missing, and its blobs have that one's shapes."""
    expected = {slot.name: slot.shape for slot in slots(model)}
    last = model.layers[-1].name

    def fits(layer: str, theirs: str) -> bool:
        for array in "wb":
            entry, shape = found.get(f"{theirs}.{array}"), expected[f"{layer}.{array}"]
            skipped = int(layer == last)  # its number of classes is the file's
            if entry is None or _bare(entry, len(shape)).shape[skipped:] != shape[skipped:]:
                return False
        return True

    ours, theirs = (list(dict.fromkeys(name.rpartition(".")[0] for name in names)) for names in (expected, found))
    missing, surplus = [n for n in ours if n not in theirs], [n for n in theirs if n not in ours]
    taken = dict(zip(surplus, missing, strict=False))
    if len(missing) != len(surplus) or not all(fits(layer, name) for name, layer in taken.items()):
        taken = {}
    entries = {}
    for name, entry in found.items():
        layer, _, array = name.rpartition(".")
        name = f"{taken.get(layer, layer)}.{array}"
        entries[name] = _bare(entry, len(expected.get(name, entry.shape)))
    return entries, [f"took the layer {shown(name)} for {layer}, by its position" for name, layer in taken.items()]


def deployed(found: Mapping[str, Entry], model: Deploy) -> tuple[dict[str, Entry], list[str]]:
    """The blobs of ``network`` under the names of a deploy file's model, as far as it has their layers, and which it
    does not have. BatchNorm's mean and variance are divided by its third blob; a Scale that is missing, or has no
    biases, changes nothing."""
    entries = dict[str, Entry]()
    for row in model.rows():
        name, theirs = row.layer.name, model.theirs.get(row.layer.name, ("",))
        if isinstance(row.layer, BatchNorm):
            arrays = {
                "running_mean": _quotient(found, theirs[0], "w"),
                "running_variance": _quotient(found, theirs[0], "b"),
            }
            C = row.input[-1]
            scale = theirs[1] if len(theirs) > 1 else ""
            arrays["gamma"] = found.get(f"{scale}.w") if scale else _constant(1, C)
            arrays["beta"] = found.get(f"{scale}.b", _constant(0, C))
        else:
            arrays = {array: found.get(f"{theirs[0]}.{array}") for array in row.arrays}
        for array, entry in arrays.items():
            if entry is not None:
                entries[f"{name}.{array}"] = entry
    expected = {slot.name: len(slot.shape) for slot in slots(model)}
    known = {name for names in model.theirs.values() for name in names}
    others = dict.fromkeys(layer for layer in (name.rpartition(".")[0] for name in found) if layer not in known)
    ignored = (
        f"ignored {', '.join(map(shown, list(others)[:5]))}{', ...' * (len(others) > 5)}: not in {model.code['file']}"
    )
    bare = {name: _bare(entry, expected.get(name, len(entry.shape))) for name, entry in entries.items()}
    return bare, [ignored] if others else []


def rgb(model: Model, weights: dict[str, Floats]) -> None:
    """Turns the order of the images' channels around in all weights that see them: Caffe's images are BGR. WeightsError
    for a layer in which they are not all, or not apart from others."""
    seen = {"": model.input}
    for layer, inputs in model.connected():
        images = [name for name in inputs if name in seen]
        if not images:
            continue
        (H, W, C), w = seen[images[0]], f"{layer.name}.w"
        if isinstance(layer, Concat) or getattr(layer, "groups", 1) != 1 or len(images) < len(inputs):
            raise WeightsError(
                f"model {model.name}: {layer.name}: expected a layer that sees all channels of the images"
            )
        if isinstance(layer, Conv2d):
            weights[w] = np.ascontiguousarray(weights[w][..., ::-1])
        elif isinstance(layer, Linear):
            weights[w] = weights[w].reshape(-1, H * W, C)[..., ::-1].reshape(len(weights[w]), -1)
        else:
            for array in ("gamma", "beta", "running_mean", "running_variance"):
                if (name := f"{layer.name}.{array}") in weights:
                    weights[name] = np.ascontiguousarray(weights[name][::-1])
            output = layer.output(seen[images[0]])
            seen[layer.name] = output if len(output) == 3 else (H, W, C)


def network(path: Path) -> tuple[list[str], dict[str, Entry]]:
    """Names of all layers in their order, and the blobs as NAME.w and NAME.b. WeightsError for a damaged file."""
    data = _content(path)
    try:
        order, entries = list[str](), dict[str, Entry]()
        for field in _fields(data, 0, len(data)):
            if field.number not in LAYERS:
                continue
            name, blobs = _layer(data, field, *LAYERS[field.number])
            order.append(name)
            if len(order) > MOST_LAYERS:
                raise WeightsError(f"expected at most {MOST_LAYERS:,} layers")
            for i, blob in enumerate(blobs):
                array = f"{name}.{'wb'[i] if i < 2 else i}"
                if array in entries:
                    raise WeightsError(f"layer {shown(name)} is there twice")
                entries[array] = _blob(data, blob.start, blob.end, shown(array))
        return order, entries
    except WeightsError as e:
        raise WeightsError(f"{path}: {e}") from None


def mean_image(path: Path) -> Floats:
    """The mean image (H, W, 3) RGB of a .binaryproto or .npy file, which holds (3, H, W) BGR. WeightsError for any
    other."""
    data = _content(path)
    try:
        if len(data) > MEAN_BYTES:
            raise WeightsError(f"expected a mean image of at most {MEAN_BYTES:,} bytes, got {len(data):,}")
        if data[: len(NPY)].tobytes() == NPY:
            values = _npy(path)
        else:
            blob = _blob(data, 0, len(data), "mean image")
            _expect_image(blob.shape)
            values = blob.read()
        _expect_image(values.shape)
        with np.errstate(over="ignore"):  # infinite then
            image = np.array(values.reshape(values.shape[-3:])[::-1].transpose(1, 2, 0), np.float32, order="C")
        if not np.isfinite(image).all():
            raise WeightsError("expected a mean image of finite numbers")
        return image
    except WeightsError as e:
        raise WeightsError(f"{path}: {e}") from None


def _npy(path: Path) -> NDArray[Any]:
    try:
        values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, TypeError, EOFError, OSError, SyntaxError, TokenError, RecursionError, MemoryError) as e:
        raise WeightsError(f"not a whole .npy file: {str(e).splitlines()[0] if str(e) else type(e).__name__}") from e
    if values.dtype.kind not in "fiu":
        raise WeightsError(f"expected a mean image of numbers, got {values.dtype}")
    return values


def _expect_image(shape: tuple[int, ...]) -> None:
    (*ones, channels, height, width) = shape if len(shape) > 2 else (0, 0, 0)
    if set(ones) - {1} or channels != 3 or not 0 < min(height, width) <= max(height, width) <= MEAN_SIDE:
        raise WeightsError(f"expected a mean image of shape (3, H, W), BGR, got {shape}")


def _bare(entry: Entry, dimensions: int) -> Entry:
    """The entry without leading dimensions of 1 beyond so many."""
    spare = max(0, len(entry.shape) - dimensions)
    return replace(entry, shape=entry.shape[spare:]) if set(entry.shape[:spare]) == {1} else entry


def _constant(value: float, count: int) -> Entry:
    return Entry((count,), "float32", lambda: np.full(count, value, np.float32))


def _quotient(found: Mapping[str, Entry], layer: str, array: str) -> Entry | None:
    """One of BatchNorm's sums, by its third blob, which counts them; zero where that is zero, as in Caffe."""
    entry, count = found.get(f"{layer}.{array}"), found.get(f"{layer}.2")
    if entry is None or count is None or math.prod(count.shape) != 1:
        return None

    def read() -> NDArray[Any]:
        divisor = float(count.read().reshape(()))
        return entry.read() * np.float32(1 / divisor if divisor else 0)

    return replace(entry, read=read)


def _content(path: Path) -> Bytes:
    try:
        return np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as e:  # ValueError: an empty file
        raise WeightsError(f"{path}: {getattr(e, 'strerror', None) or e}") from e


def _layer(data: Bytes, layer: Field, name_field: int, blobs_field: int) -> tuple[str, list[Field]]:
    _expect(layer, BYTES, "layer")
    name, blobs = "", list[Field]()
    for field in _fields(data, layer.start, layer.end):
        if name_field == V1_NAME and field.number == V0_LAYER:
            raise WeightsError(
                "a model of Caffe before 2014 (V0LayerParameter): expected a newer one, which Caffe's "
                "upgrade_net_proto_binary makes of it"
            )
        if field.number == name_field:
            _expect(field, BYTES, "layer's name")
            if field.end - field.start > 1000:
                raise WeightsError(f"layer's name: expected at most 1,000 bytes, got {field.end - field.start:,}")
            name = bytes(data[field.start : field.end]).decode("utf-8", "backslashreplace")
        elif field.number == blobs_field:
            _expect(field, BYTES, f"blobs of {shown(name)}")
            blobs.append(field)
            if len(blobs) > MOST_BLOBS:
                raise WeightsError(f"layer {shown(name)}: expected at most {MOST_BLOBS} blobs")
    return name, blobs


def _blob(data: Bytes, start: int, end: int, where: str) -> Entry:
    """A BlobProto: ``shape`` (7) or num, channels, height, width (1 to 4), and ``data`` (5) or ``double_data`` (8),
    packed or one by one, or ``raw_data`` (12)."""
    old, shape, pieces = [1, 1, 1, 1], list[int](), list[tuple[int, int, int]]()
    has_shape, kinds, raw, position = False, set[tuple[str, int]](), list[Field](), start
    while position < end:
        field = _field(data, position, end)
        position = field.end
        if 1 <= field.number <= 4:
            _expect(field, VARINT, f"{where}: a dimension")
            old[field.number - 1] = field.value
        elif field.number == 7:
            _expect(field, BYTES, f"{where}: shape")
            has_shape = True
            shape += _dimensions(data, field, where)
        elif field.number in VALUES:
            dtype, size, single = VALUES[field.number]
            kinds.add((dtype, size))
            if field.wire == single:
                count = _run(data[field.start - 1 : end], 1 + size)
                pieces.append((field.start - 1, count, 1 + size))
                position = field.start - 1 + (1 + size) * count
            else:
                _expect(field, BYTES, f"{where}: data")
                if (field.end - field.start) % size:
                    raise WeightsError(f"{where}: expected {dtype} values, got {field.end - field.start:,} bytes")
                pieces.append((field.start, (field.end - field.start) // size, size))
        elif field.number == RAW_TYPE and field.value in RAW_WHOLE:
            raise WeightsError(f"{where}: expected raw_data of floats, got whole numbers")
        elif field.number == RAW_DATA:
            _expect(field, BYTES, f"{where}: raw_data")
            raw = [field]
        if len(pieces) > MOST_PIECES or len(shape) > MOST_DIMENSIONS:
            raise WeightsError(f"{where}: data in more than {MOST_PIECES:,} pieces or {MOST_DIMENSIONS} dimensions")
    shape = shape if has_shape else old
    expected = math.prod(shape)
    for field in raw if not pieces else ():
        size, rest = divmod(field.end - field.start, expected or 1)
        if rest or size not in RAW_FLOATS:
            got = f"{field.end - field.start:,} bytes of raw_data"
            raise WeightsError(f"{where}: expected {expected:,} floats for shape {tuple(shape)}, got {got}")
        kinds, pieces = {(RAW_FLOATS[size], size)}, [(field.start, expected, size)]
    values = sum(count for _, count, _ in pieces)
    if values != expected:
        raise WeightsError(f"{where}: expected {expected:,} values for shape {tuple(shape)}, got {values:,}")
    if len(kinds) > 1:
        both = " and ".join(sorted(name for name, _ in kinds))
        raise WeightsError(f"{where}: expected values of one type, got {both}")
    dtype, size = next(iter(kinds), ("float32", 4))

    def read() -> NDArray[Any]:
        parts = [data[at : at + count * width].reshape(count, width)[:, width - size :] for at, count, width in pieces]
        return np.concatenate(parts or [data[:0].reshape(0, size)]).view(dtype).reshape(shape)

    return Entry(tuple(shape), dtype, read)


def _dimensions(data: Bytes, message: Field, where: str) -> list[int]:
    """The numbers of a BlobShape, packed or one by one."""
    dimensions = list[int]()
    for field in _fields(data, message.start, message.end):
        if field.number == 1 and field.wire == VARINT:
            dimensions.append(field.value)
        elif field.number == 1 and field.wire == BYTES:
            position = field.start
            while position < field.end and len(dimensions) <= MOST_DIMENSIONS:
                value, position = _varint(data, position, field.end)
                dimensions.append(value)
        if len(dimensions) > MOST_DIMENSIONS:
            raise WeightsError(f"{where}: expected at most {MOST_DIMENSIONS} dimensions")
    return dimensions


def _run(data: Bytes, size: int) -> int:
    """How many unpacked values of ``size`` bytes, each with the first one's tag, follow one another from there on."""
    records = data[: len(data) // size * size].reshape(-1, size)
    count, step = 0, 64
    while count < len(records):
        same = records[count : count + step, 0] == records[0, 0]
        if not same.all():
            return count + int(same.argmin())
        count, step = count + len(same), 2 * step
    return count


def _fields(data: Bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of the message from ``start`` to ``end``, one after the other."""
    while start < end:
        field = _field(data, start, end)
        yield field
        start = field.end


def _field(data: Bytes, start: int, end: int) -> Field:
    tag, at = _varint(data, start, end)
    number, wire = tag >> 3, tag & 7
    value, size = 0, {FIXED64: 8, FIXED32: 4}.get(wire, 0)
    if wire == VARINT:
        value, stop = _varint(data, at, end)
        return Field(number, wire, value, at, stop)
    if wire == BYTES:
        size, at = _varint(data, at, end)
    elif not size:
        raise WeightsError(f"not a protocol buffer: wire type {wire} at byte {start:,}")
    if number == 0 or size > end - at:
        raise WeightsError(f"truncated or not a protocol buffer: field {number} of {size:,} bytes at byte {start:,}")
    return Field(number, wire, value, at, at + size)


def _varint(data: Bytes, start: int, end: int) -> tuple[int, int]:
    """The number that begins at ``start``, seven bits a byte, and where it ends."""
    value = 0
    for i, byte in enumerate(data[start : min(end, start + 10)].tolist()):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, start + i + 1
    raise WeightsError(f"truncated or not a protocol buffer: a number at byte {start:,} does not end")


def _expect(field: Field, wire: int, where: str) -> None:
    if field.wire != wire:
        raise WeightsError(f"{where}: expected wire type {wire}, got {field.wire}")
