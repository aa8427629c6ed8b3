"""What the functions take, and the checks of it: each names the operation and the argument, what was got and what was
expected."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec, TypeVar, get_args

import numpy as np
from ml_dtypes import bfloat16

from .. import backend

P = ParamSpec("P")
R = TypeVar("R")
Array = Any
"""A numpy.ndarray, a cupy.ndarray, or an array of another library that exchanges memory through DLPack."""
Pair = int | tuple[int, int]
Padding = int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]
Needs = Sequence[bool]
Precision = Literal["fp32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FLOATS = np.dtype(np.float32), np.dtype(bfloat16)
"""How numbers may be stored; all are float32 while a kernel computes."""
SMALLEST = float(np.finfo(np.float32).tiny)
"""What must not be zero may not round to it either."""


def check_array(
    operation: str, name: str, value: Array, ndim: int | None = None, dtype: Any = np.float32, empty: bool = False
) -> backend.Device:
    """The device of ``value``, after checking that it is a C-contiguous array of that dtype (or of one of those) and
    rank, which may be ``empty`` or not."""
    try:
        device = backend.device_of(value)
    except TypeError:
        hint = f": numpy.asarray({name}, numpy.float32) makes one" if isinstance(value, (list, tuple)) else ""
        raise TypeError(
            f"{operation}: {name}: expected a NumPy or CuPy array, got {type(value).__module__}.{type(value).__name__}"
            f"{hint}"
        ) from None
    if value.dtype not in dtype if isinstance(dtype, tuple) else value.dtype != dtype:
        expected = " or ".join(str(np.dtype(one)) for one in (dtype if isinstance(dtype, tuple) else (dtype,)))
        module = _module(device)
        convertible = "float32" in expected and value.dtype.kind == "f"
        hint = f": {module}.asarray({name}, {module}.float32) has it" if convertible else ""
        raise TypeError(f"{operation}: {name}: expected dtype {expected}, got {value.dtype}{hint}")
    if ndim is not None and value.ndim != ndim:
        raise ValueError(f"{operation}: {name}: expected {ndim} dimensions, got shape {value.shape}")
    if value.size == 0 and not empty:
        raise ValueError(f"{operation}: {name}: expected a non-empty array, got shape {value.shape}")
    if not value.flags.c_contiguous:
        raise ValueError(
            f"{operation}: {name}: expected a C-contiguous array, got shape {value.shape} with strides {value.strides}"
            f": {_module(device)}.ascontiguousarray({name}) makes one"
        )
    return device


def result_array(
    operation: str,
    out: Array | None,
    shape: tuple[int, ...],
    device: backend.Device,
    dtype: Any = np.float32,
    name: str = "out",
) -> Array:
    """``out`` after checking it, or else a new array."""
    if out is None:
        return backend.empty(shape, dtype, device)
    where = check_array(operation, name, out, dtype=dtype, empty=0 in shape)
    if out.shape != shape or where != device:
        raise ValueError(f"{operation}: {name}: expected shape {shape} on {device}, got {out.shape} on {where}")
    return out


def _module(device: backend.Device) -> str:
    """The name of the module whose functions mend an array there."""
    return "cupy" if device.kind == "cuda" else "numpy"


def check_number(
    operation: str, name: str, value: float, low: float = -math.inf, high: float = math.inf, open_high: bool = False
) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{operation}: {name}: expected a number, got {value!r}") from None
    if not (math.isfinite(number) and low <= number <= high) or (open_high and number == high):
        end = ")" if open_high or high == math.inf else "]"
        raise ValueError(f"{operation}: {name}: expected a number in [{low:g}, {high:g}{end}, got {value!r}")
    return number


def check_integer(operation: str, name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{operation}: {name}: expected an integer, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{operation}: {name}: expected an integer in [{low}, {high}], got {value}")
    return int(value)


def check_pair(operation: str, name: str, value: Any, low: int) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2:
        raise ValueError(f"{operation}: {name}: expected an integer or (vertical, horizontal), got {value!r}")
    return check_integer(operation, name, values[0], low), check_integer(operation, name, values[1], low)


def check_padding(operation: str, value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right))."""
    vertical, horizontal = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, value)
    return check_pair(operation, "padding", vertical, 0), check_pair(operation, "padding", horizontal, 0)


def check_needs(operation: str, needs: Any) -> Needs:
    flags = tuple(needs) if isinstance(needs, (tuple, list)) else ()
    if len(flags) != 3 or not all(isinstance(flag, (bool, np.bool_)) for flag in flags):
        raise TypeError(f"{operation}: needs: expected three bools, for dx, dw and db, got {needs!r}")
    return flags


def check_precision(
    operation: str, precision: Any, capability: tuple[int, int] | None, dtype: Any = np.float32
) -> Precision:
    """Of the products of arrays of that dtype."""
    if precision not in PRECISIONS:
        raise ValueError(f"{operation}: precision: expected {either(PRECISIONS)}, got {precision!r}")
    if dtype == bfloat16:
        if precision == "tf32":
            raise ValueError(f"{operation}: precision: expected 'bf16' for bfloat16 arrays, got 'tf32'")
        precision = "bf16"
    if precision != "fp32" and capability is not None and capability < (8, 0):
        got = ".".join(map(str, capability))
        raise ValueError(f"{operation}: precision: {precision!r} is expected of compute capability 8.0 on, got {got}")
    return precision


def on_tensor_cores(precision: Precision, dtype: Any) -> bool:
    """Whether products of arrays of that dtype run on tensor cores. There masks cost no pass of their own, and what
    follows a product of a fully connected layer may be part of it (``linear_dropout``, ``linear_sgd``)."""
    return precision != "fp32" or dtype != np.float32


def check_like(operation: str, name: str, value: Array | None, like: str, other: Array) -> None:
    """None, or an array of the shape and dtype of the other one, which is called ``like``."""
    if value is not None:
        check_array(operation, name, value, dtype=other.dtype)
        if value.shape != other.shape:
            raise ValueError(f"{operation}: {name}: expected the shape of {like}, {other.shape}, got {value.shape}")


def check_storage(operation: str, dtype: Any) -> np.dtype[Any]:
    try:
        wanted = None if dtype is None else np.dtype(dtype)
    except TypeError:
        wanted = None
    if wanted not in FLOATS:
        raise TypeError(f"{operation}: dtype: expected float32 or bfloat16, got {dtype!r}")
    return wanted


def storage(precision: str) -> np.dtype[Any]:
    """How a network that computes in that precision stores its input, and so all activations and their gradients."""
    return np.dtype(bfloat16 if precision == "bf16" else np.float32)


def either(words: Sequence[str]) -> str:
    *first, last = map(repr, words)
    return f"{', '.join(first)} or {last}" if first else last


def remembering(make: Callable[P, R]) -> Callable[P, R]:
    """The function of arguments that come again and again, with its last results kept."""
    kept: Any = functools.lru_cache(maxsize=1024, typed=True)(make)

    @functools.wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result: R = kept(*args, **kwargs)
        except TypeError:  # of an argument that has no hash; or it is no right one, which is told again
            return make(*args, **kwargs)
        return result

    return call
