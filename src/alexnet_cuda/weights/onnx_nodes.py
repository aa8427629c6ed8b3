"""The nodes and weights of an ONNX graph as it is written, and its values: ours channels last, ONNX's images first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..files import WeightsError
from ..quantise import quantised
from .recorded import Shape

TO_CHANNELS_FIRST, TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
FIRST_AXIS = np.zeros(1, np.int64)


@dataclass(frozen=True)
class Export:
    """How a network is written: ONNX's ``opset``; a fixed ``batch``, else any. ``plain``: LRN and average pools as
    convolutions and arithmetic, for consumers that lack them or get them wrong. ``preprocessing``: from uint8 pixels to
    ``probabilities``. ``half``: filters and matrices stored as float16, ``int8``: matrices of fully connected layers as
    ``quantise`` makes them; either is computed with as float32."""

    opset: int = 17
    batch: int | None = None
    plain: bool = False
    preprocessing: bool = False
    half: bool = False
    int8: bool = False


@dataclass(eq=False)
class Value:
    """A tensor: its shape for each of the numbers of images, the ``array`` of a constant, and its names in the file, by
    whether it is channels first there, as four axes can be. The first name is that of the node that computes it."""

    shapes: tuple[Shape, ...]
    array: NDArray[Any] | None = None
    names: dict[bool, str] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The number of its axes."""
        return len(self.shapes[0])

    @property
    def first(self) -> bool:
        """Whether it was computed channels first."""
        return self.array is None and next(iter(self.names))


class Nodes:
    """Nodes in their order, what they hold, and values by the names of nodes' results."""

    def __init__(self, export: Export, counts: Sequence[int]) -> None:
        """``counts``: the numbers of images that shapes are for."""
        self.export, self.counts = export, counts
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.at = ""
        """The layer and operation that are being written, for errors."""
        self._held: dict[tuple[Any, ...], tuple[str, NDArray[Any]]] = {}  # arrays stay, so that no address comes again
        self._computed: dict[tuple[str, ...], str] = {}
        self._quantised: dict[tuple[Any, ...], str] = {}

    def add(self, operator: str, *inputs: ArrayLike | str, outputs: int = 1, **options: Any) -> str:
        """Appends a node on results of others, by name, and float32 arrays; returns its (first) result's name."""
        from onnx import helper

        names = [x if isinstance(x, str) else self.hold(x) for x in inputs]
        place = len(self.nodes)
        results = [f"y{place}" if i == 0 else f"y{place}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, names, results, **options))
        return results[0]

    def once(self, operator: str, *inputs: str, **options: Any) -> str:
        """``add`` of a node that may be there already."""
        key = operator, *inputs, repr(options)
        if key not in self._computed:
            self._computed[key] = self.add(operator, *inputs, **options)
        return self._computed[key]

    def hold(self, array: ArrayLike, dtype: type = np.float32) -> str:
        """Makes an array part of the file, once; returns its name."""
        from onnx import numpy_helper

        array = np.asarray(array)
        key = array.ctypes.data, array.shape, array.strides, array.dtype, dtype
        if key not in self._held:
            self._held[key] = f"w{len(self.weights)}", array
            self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), self._held[key][0]))
        return self._held[key][0]

    def integers(self, numbers: Sequence[int]) -> str:
        """Makes a vector part of the file, such as one of axes."""
        return self.hold(numbers, np.int64)

    def stored(self, array: NDArray[Any]) -> str:
        """A layer's filters or matrix, in the precision of the export; returns the name of the float32 values."""
        from onnx import TensorProto

        if not self.export.half:
            return self.hold(array)
        largest = np.finfo(np.float16).max
        if not (abs(array) <= largest).all():
            raise WeightsError(f"{self.at}: expected weights of at most {largest:g}, as float16 has no others")
        return self.once("Cast", self.hold(array, np.float16), to=TensorProto.FLOAT)

    # ---- values

    def name(self, x: Value, first: bool = False) -> str:
        """The value's name, channels first or last."""
        if x.array is not None:
            return self.hold(x.array.transpose(TO_CHANNELS_FIRST) if first else x.array)
        if first not in x.names:
            perm = TO_CHANNELS_FIRST if first else TO_CHANNELS_LAST
            x.names[first] = self.add("Transpose", x.names[not first], perm=perm)
        return x.names[first]

    def weights_of(self, x: Value, first: bool = False) -> str:
        """The name of what may be a layer's filters or matrix, and may be computed."""
        if x.array is None:
            return self.name(x, first)
        return self.stored(x.array.transpose(TO_CHANNELS_FIRST) if first else x.array)

    def matrix_of(self, x: Value) -> str:
        """The name of what may be a fully connected layer's matrix (O, I), and may be computed."""
        if x.array is None or not self.export.int8:
            return self.weights_of(x)
        key = x.array.ctypes.data, x.array.shape, x.array.strides
        if key not in self._quantised:
            try:
                q, scale = quantised(x.array)
            except ValueError as e:
                raise WeightsError(f"{self.at}: {e}") from e
            self._quantised[key] = self.add("DequantizeLinear", self.hold(q, np.int8), scale, axis=0)
        return self._quantised[key]

    def beside(self, x: Value, first: bool) -> str:
        """The name of what broadcasts beside values that are channels first if ``first``."""
        missing = 4 - x.rank
        if not first or not missing or not x.rank:
            return self.name(x, first and not missing)
        if x.array is not None:
            return self.name(Value((), x.array.reshape((1,) * missing + x.array.shape)), first)
        axes = self.add("Unsqueeze", self.name(x), self.integers(range(missing)))
        return self.add("Transpose", axes, perm=TO_CHANNELS_FIRST)

    def image(self, x: Value) -> tuple[int, int, int]:
        """(H, W, C). WeightsError where they depend on the number of images."""
        H, W, C = x.shapes[0][1:]
        if any(shape[1:] != (H, W, C) for shape in x.shapes):
            raise WeightsError(f"{self.at}: expected images of one size, got one that depends on how many there are")
        return H, W, C

    def shape(self, shapes: Sequence[Shape], infer: bool = True) -> str:
        """The name of a vector, the shape for any number of images; ``infer``: where one size depends on it, -1."""
        columns = list(zip(*shapes, strict=True))
        dependent = [i for i, sizes in enumerate(columns) if len(set(sizes)) > 1]
        if not dependent or (infer and len(dependent) == 1):
            return self.integers([-1 if i in dependent else sizes[0] for i, sizes in enumerate(columns)])
        n, m, *_ = self.counts
        per_image = [(sizes[1] - sizes[0]) // (m - n) for sizes in columns]
        fixed = [sizes[0] - each * n for sizes, each in zip(columns, per_image, strict=True)]
        told = (
            tuple(each * count + rest for each, rest in zip(per_image, fixed, strict=True)) for count in self.counts
        )
        if any(shape != right for shape, right in zip(told, shapes, strict=True)):
            raise WeightsError(f"{self.at}: ONNX has no shape that depends so on the number of images")
        images = self.once("Gather", self.once("Shape", "pixels"), self.hold(FIRST_AXIS, np.int64))
        return self.add("Add", self.add("Mul", images, self.integers(per_image)), self.integers(fixed))
