"""ONNX's files, taken for hostile: all that is read is backed by bytes of the file or of its neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import names
from ...files import WeightsError
from .graph import LARGEST_NUMBER, Graph, Held, Node, named
from .operators import DOMAINS, called, checked
from .values import DTYPES, Call

LONGEST = 2**31 - 1
"""Bytes of a file: what protobuf has."""
MOST_AXES = 8
FIELDS = {1: "float_data", 7: "int64_data", 11: "double_data"}
"""Where numbers are that are not raw bytes; of other types in int32_data."""
FOLDED = {
    "Add", "Cast", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear", "Div", "Gather", "Identity", "Mul",
    "Reshape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}  # fmt: skip
"""Operators that are computed at once where the file has all of their inputs."""


def read(path: Path) -> Graph:
    """The graph of a file. WeightsError for what is none, or has what is not read; ImportError without the package
    onnx."""
    return of(message(path), names.text(path), path.parent)


def message(path: Path) -> Any:
    """The file as an onnx.ModelProto. Errors as of ``read``."""
    onnx = package()
    from google.protobuf.message import DecodeError

    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
    except OSError as e:
        raise WeightsError(f"{path}: {e.strerror}") from e
    if len(content) > LONGEST:
        raise WeightsError(f"{path}: expected an ONNX file of at most {LONGEST:,} bytes, got more")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, RuntimeError) as e:
        raise WeightsError(f"{path}: expected an ONNX file, got {len(content):,} bytes that are none: {e}") from e
    return model


def package() -> Any:
    """The package onnx; ImportError, with how to have it, where it is not installed."""
    try:
        import onnx
    except ImportError as e:
        how = "pip install 'alexnet-cuda[onnx]'"
        raise ImportError(f"reading ONNX needs the package onnx ({e}): {how}", name="onnx") from e
    return onnx


def of(model: Any, file: str, folder: Path) -> Graph:
    """The graph of a ModelProto, whose external data lies in the folder. WeightsError as of ``read``."""
    try:
        return _Reader(file, folder).graph(model)
    except UnicodeDecodeError as e:
        raise WeightsError(f"{file}: expected names in UTF-8, got {e.object[:40]!r}") from e


class _Reader:
    def __init__(self, file: str, folder: Path) -> None:
        self.file, self.folder = file, folder

    def error(self, text: str) -> WeightsError:
        return WeightsError(f"{self.file}: {text}")

    def graph(self, model: Any) -> Graph:
        opsets = {_domain(entry.domain): int(entry.version) for entry in model.opset_import}
        for domain, version in opsets.items():
            known = DOMAINS.get(domain)
            if known is not None and version not in known:
                raise self.error(f"opset of {domain or 'ai.onnx'}: expected {known[0]} to {known[-1]}, got {version}")
        found = model.graph
        if not found.node:
            raise self.error("expected an ONNX file with a graph of nodes, got none")
        if found.sparse_initializer or found.quantization_annotation:
            raise self.error("expected arrays as they are, got sparse or quantised ones")
        arrays: dict[str, Held] = {}
        for tensor in found.initializer:
            if not tensor.name or tensor.name in arrays:
                raise self.error(f"expected arrays of different names, got {tensor.name!r}")
            arrays[tensor.name] = self.array(tensor, f"array {tensor.name!r}")
        inputs: dict[str, tuple[int | None, ...]] = {}
        for entry in found.input:
            if entry.name not in arrays:
                if entry.name in inputs:
                    raise self.error(f"expected inputs of different names, got {entry.name!r}")
                inputs[entry.name] = self.sizes(entry)
        graph = Graph(
            self.file,
            opsets.get("", 1),
            inputs,
            tuple(entry.name for entry in found.output),
            tuple(self.nodes(found, opsets)),
            arrays,
            self.classes(model),
        )
        graph.check()
        for node in graph.nodes:
            checked(graph, node)
        return folded(graph)

    def classes(self, model: Any) -> tuple[str, ...]:
        """Names that the file has in its metadata, as ours do."""
        return next((tuple(p.value.split("\n")) for p in model.metadata_props if p.key == "classes"), ())

    def sizes(self, entry: Any) -> tuple[int | None, ...]:
        """The shape of an input; None for a size that is open."""
        dims = entry.type.tensor_type.shape.dim
        sizes = [int(dim.dim_value) if dim.WhichOneof("value") == "dim_value" else None for dim in dims]
        if len(sizes) > MOST_AXES or any(n is not None and not 0 <= n <= LARGEST_NUMBER for n in sizes):
            raise self.error(f"input {entry.name!r}: expected up to {MOST_AXES} sizes from 0 on, got {sizes[:9]}")
        return tuple(sizes)

    def nodes(self, found: Any, opsets: Mapping[str, int]) -> Iterator[Node]:
        operators = [f"{domain}.{node.op_type}".lstrip(".") for node in found.node for domain in [_domain(node.domain)]]
        identifiers = named([node.name for node in found.node], operators)
        for node, name, operator in zip(found.node, identifiers, operators, strict=True):
            where = f"node {name} ({operator})"
            if _domain(node.domain) not in opsets:
                listed = ", ".join(d or "ai.onnx" for d in opsets) or "none"
                raise self.error(f"{where}: expected an operator of an opset that the file imports, {listed}")
            if not node.output:
                raise self.error(f"{where}: expected an output, got none")
            attributes: dict[str, Any] = {}
            for attribute in node.attribute:
                if attribute.name in attributes:
                    raise self.error(f"{where}: expected attribute {attribute.name} once, got it twice")
                attributes[attribute.name] = self.attribute(attribute, where)
            if operator == "Constant" and len(attributes) == 1:
                attributes = {"value": _constant(*attributes.popitem())}
            yield Node(name, operator, tuple(node.input), tuple(node.output), attributes)

    def attribute(self, attribute: Any, where: str) -> Any:
        match attribute.type:
            case 1:
                return float(attribute.f)
            case 2:
                return int(attribute.i)
            case 3:
                return attribute.s.decode()
            case 4:
                return self.array(attribute.t, f"{where}: attribute {attribute.name}")
            case 6:
                return [float(x) for x in attribute.floats]
            case 7:
                return [int(n) for n in attribute.ints]
        expected = "a number, a string, a tensor or a list of numbers"
        raise self.error(f"{where}: attribute {attribute.name}: expected {expected}, got type {attribute.type}")

    def array(self, tensor: Any, where: str) -> NDArray[Any]:
        """The values of a TensorProto."""
        dtype, shape = DTYPES.get(tensor.data_type), tuple(map(int, tensor.dims))
        if dtype is None:
            listed = ", ".join(np.dtype(known).name for known in DTYPES.values())
            raise self.error(f"{where}: expected numbers of type {listed}, got ONNX's type {tensor.data_type}")
        if len(shape) > MOST_AXES or min(shape, default=0) < 0:
            raise self.error(f"{where}: expected up to {MOST_AXES} sizes from 0 on, got {shape[:9]}")
        count, size = math.prod(shape), np.dtype(dtype).itemsize
        if tensor.data_location == 1:
            return np.frombuffer(self.external(tensor, count * size, where), dtype).reshape(shape)
        if tensor.HasField("raw_data"):
            if len(tensor.raw_data) != count * size:
                raise self.error(f"{where}: expected {count * size:,} bytes, got {len(tensor.raw_data):,}")
            return np.frombuffer(tensor.raw_data, dtype).reshape(shape)
        held = getattr(tensor, FIELDS.get(tensor.data_type, "int32_data"))
        if len(held) != count:
            raise self.error(f"{where}: expected {count:,} numbers, got {len(held):,}")
        if tensor.data_type in (10, 16):  # as bits
            return np.array(held, np.int32).astype(np.uint16).view(dtype).reshape(shape)
        return np.array(held).astype(dtype).reshape(shape)

    def external(self, tensor: Any, nbytes: int, where: str) -> bytes:
        """Bytes of a file beside this one, or below."""
        told = {entry.key: entry.value for entry in tensor.external_data}
        place, folder = told.get("location", ""), self.folder.resolve()
        try:
            path = (folder / place).resolve()
            offset, length = int(told.get("offset", 0)), int(told.get("length", nbytes))
            inside = bool(place) and path.is_relative_to(folder) and path.is_file()
        except (ValueError, OSError):
            inside, offset, length = False, 0, nbytes
        if not inside or Path(place).is_absolute():
            raise self.error(f"{where}: expected its data in a file in the folder of this one, got {place!r}")
        if length != nbytes or not 0 <= offset <= offset + nbytes <= path.stat().st_size:
            expected = f"{nbytes:,} bytes of its {path.stat().st_size:,}"
            raise self.error(f"{where}: {place}: expected {expected}, got {length:,} from {offset:,}")
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(nbytes)
        if len(content) != nbytes:
            raise self.error(f"{where}: {place}: expected {nbytes:,} bytes, got {len(content):,}")
        return content


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _constant(name: str, value: Any) -> Any:
    """What a node Constant gives, whichever way it says it."""
    if name == "value":
        return value
    kinds = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    return np.array(value, kinds[name]) if name in kinds else value


def folded(graph: Graph) -> Graph:
    """The graph without the nodes whose results the file has."""
    arrays, nodes = dict(graph.arrays), list[Node]()
    for node in graph.nodes:
        inputs = [arrays.get(name) if name else None for name in node.inputs]
        given = [x for name, x in zip(node.inputs, inputs, strict=True) if name]
        if node.operator not in FOLDED or any(x is None for x in given):
            nodes.append(node)
            continue
        (made,) = called(Call(graph, node, inputs, checked(graph, node)))
        assert isinstance(made, np.ndarray)
        arrays[node.outputs[0]] = made
    used = {name for node in nodes for name in node.inputs} | set(graph.outputs)
    kept = {name: array for name, array in arrays.items() if name in used}
    return Graph(graph.file, graph.opset, graph.inputs, graph.outputs, tuple(nodes), kept, graph.classes)
