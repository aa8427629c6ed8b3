"""What the tests of conversion share: files of PyTorch and Caffe made byte by byte, and small networks."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet_cuda import models
from alexnet_cuda.models import Model
from alexnet_cuda.models.layers import Conv2d, Linear
from alexnet_cuda.weights.layout import slots

CLASSES = 7


ORIGINAL = {name: models.get(name) for name in models.names()}


def small(name: str, classes: int = CLASSES, side: int = 99) -> Model:
    """The model with a sixteenth of its channels, for images of 99 x 99 pixels, which leave 2 x 2 to be flattened."""
    model = ORIGINAL[name]
    layers = [replace(c, channels=c.channels // 16) if isinstance(c, Conv2d) else c for c in model.layers]
    layers = [replace(f, features=20) if isinstance(f, Linear) else f for f in layers]
    return replace(model, input=(side, side, 3), layers=tuple(layers)).with_classes(classes)


def arrays(model: Model, names: Mapping[str, str], seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights, channels first, under ``names`` of ours; outputs stay of the order of their inputs."""
    rng, made = np.random.default_rng(seed), {}
    for slot in slots(model):
        spread = math.sqrt(2 / math.prod(slot.shape[1:])) if len(slot.shape) > 1 else 0.3
        made[names[slot.name]] = (spread * rng.standard_normal(slot.shape)).astype(np.float32)
    return made


# ---------------------------------------------------------------------------------------------- PyTorch


def text(s: str) -> bytes:
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def number(n: int) -> bytes:
    return b"J" + struct.pack("<i", n)


def numbers(ns: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(number, ns)) + b"t"


EMPTY = b"ccollections\nOrderedDict\n)R"


def tensor(
    key: str, shape: Sequence[int], numel: int | None = None, strides: Sequence[int] | None = None,
    offset: int = 0, storage: str = "FloatStorage", view: bytes = b"",
) -> bytes:  # fmt: skip
    """Instructions that rebuild a tensor from the archive's data/KEY; ``view``: what the format before 1.6 adds."""
    numel = math.prod(shape) if numel is None else numel
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))] if strides is None else strides
    where = b"(" + text("storage") + b"ctorch\n" + storage.encode() + b"\n" + text(key) + text("cpu") + number(numel)
    parts = where + view + b"tQ" + number(offset) + numbers(shape) + numbers(strides) + b"\x89" + EMPTY
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + parts + b"tR"


def instructions(value: object) -> bytes:
    """Those that build plain values; bytes are instructions already."""
    match value:
        case bytes():
            return value
        case dict():
            return b"}(" + b"".join(instructions(item) for pair in value.items() for item in pair) + b"u"
        case list():
            return b"](" + b"".join(map(instructions, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(instructions, value)) + b"t"
        case str():
            return text(value)
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            return number(value)
        case float():
            return b"G" + struct.pack(">d", value)
    raise TypeError(type(value).__name__)


def instance(module: str, name: str, attributes: object) -> bytes:
    """Instructions that make an object of a class and set its attributes."""
    return f"c{module}\n{name}\n".encode() + b")\x81" + instructions(attributes) + b"b"


def pickled(value: object) -> bytes:
    return b"\x80\x02" + instructions(value) + b"."


def program(tensors: Mapping[str, bytes]) -> bytes:
    return b"\x80\x02" + EMPTY + b"(" + b"".join(text(name) + t for name, t in tensors.items()) + b"u."


def archive(data_pkl: bytes, values: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The zip file of torch.save, of no date: the same bytes whenever it is made."""
    file = io.BytesIO()
    members = {"data.pkl": data_pkl, "byteorder": b"little", **{f"data/{key}": value for key, value in values.items()}}
    with zipfile.ZipFile(file, "w") as z:
        for name, content in members.items():
            z.writestr(zipfile.ZipInfo(f"state/{name}"), content, compression)
    return file.getvalue()


def pth(state: Mapping[str, np.ndarray]) -> bytes:
    """What torch.save writes for a state_dict, but for what it adds on versions."""
    tensors = {name: tensor(str(i), array.shape) for i, (name, array) in enumerate(state.items())}
    return archive(program(tensors), {str(i): array.tobytes() for i, array in enumerate(state.values())})


STORAGES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage",
            "uint16": "BFloat16Storage", "int64": "LongStorage"}  # fmt: skip
MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


def tensors(state: Mapping[str, np.ndarray], view: bytes = b"") -> dict[str, bytes]:
    """The instructions of each array, whose values are under its place in the state; uint16 stands for bfloat16."""
    return {
        name: tensor(str(i), array.shape, storage=STORAGES[array.dtype.name], view=view)
        for i, (name, array) in enumerate(state.items())
    }


def legacy(value: object, state: Mapping[str, np.ndarray], little: bool = True, version: int = 1001) -> bytes:
    """What torch.save wrote before 1.6: five pickles, then the values of ``state``, each behind their number."""
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    keys = list(map(str, range(len(state))))
    head = MAGIC + b"".join(map(pickled, (version, system, value, keys)))
    return head + b"".join(struct.pack("<q", array.size) + array.tobytes() for array in state.values())


def zipped(value: object, state: Mapping[str, np.ndarray]) -> bytes:
    """The zip file of torch.save with any value beside."""
    return archive(pickled(value), {str(i): array.tobytes() for i, array in enumerate(state.values())})


# ---------------------------------------------------------------------------------------------- Caffe


def varint(n: int) -> bytes:
    made = b""
    while n > 127:
        made, n = made + bytes([n & 127 | 128]), n >> 7
    return made + bytes([n])


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def packed(a: np.ndarray) -> bytes:
    return field(5, a.astype("<f4").tobytes())


def one_by_one(a: np.ndarray) -> bytes:
    return b"".join(b"\x2d" + value.tobytes() for value in a.astype("<f4").ravel())


def doubles_one_by_one(a: np.ndarray) -> bytes:
    return b"".join(b"\x41" + value.tobytes() for value in a.astype("<f8").ravel())


VALUES: dict[str, Callable[[np.ndarray], bytes]] = {
    "packed": packed,
    "one by one": one_by_one,
    "in pieces": lambda a: packed(a.ravel()[:1]) + one_by_one(a.ravel()[1:3]) + packed(a.ravel()[3:]),
    "doubles": lambda a: field(8, a.astype("<f8").tobytes()),
    "doubles one by one": doubles_one_by_one,
    "raw doubles": lambda a: field(10, 0) + field(12, a.astype("<f8").tobytes()),
    "raw floats": lambda a: field(10, 1) + field(12, a.astype("<f4").tobytes()),
    "raw halves": lambda a: field(10, 2) + field(12, a.astype("<f2").tobytes()),
}
"""How a BlobProto may hold its values; the last three are of NVIDIA's fork."""


def blob(array: np.ndarray, old: bool = False, values: str = "packed", dimensions: int = 0) -> bytes:
    """A BlobProto; ``old``: with num, channels, height and width instead of a shape; ``dimensions``: at least as many
    in the shape."""
    if old:
        shape = (1, 1, 1, 1)[array.ndim :] + array.shape
        head = b"".join(field(i + 1, n) for i, n in enumerate(shape))
    else:
        shape = (1,) * (dimensions - array.ndim) + array.shape
        head = field(7, field(1, b"".join(map(varint, shape))))
    return head + VALUES[values](array)


def caffemodel(
    model: Model, state: Mapping[str, np.ndarray], old: bool = False, values: str = "packed", named: bool = True,
    head: bytes = field(1, b"network"), names: Mapping[str, str] | None = None, dimensions: int = 0,
) -> bytes:  # fmt: skip
    """A NetParameter with the model's layers; ``old``: as of 2014, V1LayerParameter; ``head``: what stands before the
    layers; ``names``: other names of some of them."""
    made = head
    for layer in model.layers:
        name = layer.name.replace("lrn", "norm")
        blobs = [blob(state[f"{name}.{x}"], old, values, dimensions) for x in "wb" if f"{name}.{x}" in state]
        if not blobs and not named:
            continue
        name = (names or {}).get(name, name)
        if old:
            made += field(2, field(2, b"data") + field(4, name.encode()) + field(5, 4) + b"".join(
                field(6, b) for b in blobs))  # fmt: skip
        else:
            made += field(100, field(1, name.encode()) + field(2, b"Kind") + b"".join(field(7, b) for b in blobs))
    return made


def mean_file(image: np.ndarray, old: bool = True, values: str = "packed", dimensions: int = 0) -> bytes:
    """A .binaryproto of a mean image (H, W, 3) RGB."""
    return blob(image.transpose(2, 0, 1)[::-1], old, values, dimensions)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
