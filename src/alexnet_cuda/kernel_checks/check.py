"""One check: calls of a kernel with what their outputs must be, and how they went."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from .. import backend
from .bounds import SMALLEST_NORMAL, Floats, half_unit
from .drawn import Indices

Outcome = Literal["right", "wrong", "failed", "crashed", "hung", "absent"]


class Expected(Protocol):
    """What some elements of an output are."""

    @property
    def where(self) -> Indices:
        """Their places in the flat output."""

    def distances(self, drawn: NDArray[Any]) -> tuple[Floats, Floats]:
        """How far each is from what it must be, and how far it may be."""

    def __getitem__(self, place: int) -> str:
        """What the one of that number must be, in words."""


@dataclass(frozen=True)
class Values:
    """Numbers, each with its bound; without one they are exact."""

    where: Indices
    expected: NDArray[Any]
    error: Floats | float = 0.0

    def distances(self, drawn: NDArray[Any]) -> tuple[Floats, Floats]:
        """Before they were stored."""
        distance = abs(drawn.astype(np.float64) - self.expected) - half_unit(drawn)
        error = np.broadcast_to(self.error, self.expected.shape)
        return np.maximum(distance, 0), np.where(error > 0, error + SMALLEST_NORMAL, 0.0)

    def __getitem__(self, place: int) -> str:
        return f"{self.expected[place]:.9g}"


@dataclass(frozen=True)
class Largest:
    """Places of the largest of some candidates: where some are within their errors of one another, any of these."""

    where: Indices
    candidates: Floats  # (places, candidates), -inf where there is none
    error: Floats

    def distances(self, drawn: NDArray[Any]) -> tuple[Floats, Floats]:
        count = self.candidates.shape[1]
        chosen = np.take_along_axis(self.candidates, np.minimum(drawn, count - 1)[:, None].astype(np.int64), 1)[:, 0]
        return np.where(drawn < count, self.candidates.max(1) - chosen, np.inf), 2 * self.error

    def __getitem__(self, place: int) -> str:
        return f"{self.candidates[place].argmax()}"


@dataclass(frozen=True)
class Trial:
    """Arguments by name, on the host; the names of what is returned (a None is left out) and of the arguments that are
    written; what each of these arrays must then be. A list of arrays has a list of what they must be."""

    arguments: Mapping[str, Any]
    expected: Mapping[str, Expected | Sequence[Expected]]
    returns: tuple[str, ...] = ()
    written: tuple[str, ...] = ()


Cases = Sequence[tuple[str, Callable[[], Trial]]]
"""Shapes in words, each with what draws its arguments when it is its turn."""


@dataclass(frozen=True)
class Check:
    """What one line tells of: one case, or many small ones, which the CPU computes beside a GPU."""

    kernel: Callable[..., Any]
    """A function of ``alexnet_cuda.kernels``."""
    way: str
    cases: Cases
    part: str = ""
    """Of several results, which are asked for."""
    algorithm: str = ""
    """Of a convolution."""
    blas: bool = False
    """Whether a BLAS multiplies on a CPU."""
    absent: str = ""
    """Why the device cannot run it."""

    @property
    def small(self) -> bool:
        return len(self.cases) > 1

    @property
    def function(self) -> str:
        return self.kernel.__name__

    @property
    def name(self) -> str:
        return f"{self.function} {self.part}".rstrip()

    @property
    def shape(self) -> str:
        return f"{len(self.cases)} small shapes" if self.small else "".join(shape for shape, _ in self.cases)

    def row(self, outcome: Outcome, text: str = "") -> Row:
        return Row(self.name, self.way, self.shape, outcome, text)


@dataclass
class Row:
    """How a check went. ``error`` and ``bound`` are those of the value that came nearest to its bound, ``ms`` the time
    of the second call, with that of filling its outputs with NaN."""

    name: str
    way: str
    shape: str
    outcome: Outcome
    text: str = ""
    error: float | None = None
    bound: float | None = None
    ms: float | None = None
    family: str = ""

    @property
    def title(self) -> str:
        return " ".join(filter(None, (self.name, self.way, self.shape)))

    def __str__(self) -> str:
        return f"{self.name:31} {self.way:27} {self.shape:38} {self.said}"

    @property
    def said(self) -> str:
        if self.outcome == "right":
            return f"error {self.error:7.1e} of {self.bound:7.1e} {self.ms:10.3f} ms"
        return f"{self.outcome if self.outcome == 'absent' else self.outcome.upper()}: {self.text}"


class _Wrong(Exception):
    """A result is not what it must be: why."""


Outputs = dict[str, NDArray[Any]]


def run(check: Check, device: backend.Device, begin: Callable[[str], object] = lambda shape: None) -> Row:
    """Runs it on the device, each case twice, and tells when one begins."""
    row = check.row("right")
    row.error, row.bound, row.ms = 0.0, 0.0, 0.0
    nearest = -1.0
    for shape, draw in check.cases:
        begin(shape)
        try:
            trial = draw()
            with backend.blas(check.blas):
                kept = {name: value for name, value in trial.arguments.items() if name not in trial.written}
                kept = {name: _put(value, device) for name, value in kept.items()}
                first, _ = call(check.kernel, trial, kept, device)
                second, ms = call(check.kernel, trial, kept, device)
            row.ms += ms
            for name in first:
                _require_written(name, first[name])
                _require_equal_bits(name, first[name], second[name])
            for share, error, bound in _compare(trial, first):
                if share > nearest:
                    nearest, row.error, row.bound = share, error, bound
            if check.small and device.kind != "cpu":
                there, _ = call(check.kernel, trial, trial.arguments, backend.Device("cpu"))
                _require_same_as_on_a_cpu(trial, first, there)
        except Exception as e:  # whatever it is, the report shall name it
            said = str(e) if isinstance(e, _Wrong) else " ".join(f"{type(e).__name__}: {e}".split())
            return check.row(
                "wrong" if isinstance(e, _Wrong) else "failed", f"{shape}: {said}" if check.small else said
            )
    return row


def call(
    kernel: Callable[..., Any], trial: Trial, arguments: Mapping[str, Any], device: backend.Device
) -> tuple[Outputs, float]:
    """All outputs by name, on the host, and the milliseconds that the call took. ``arguments`` are on the device; of
    those that it writes it gets copies."""
    fresh = {name: _put(trial.arguments[name], device, copied=True) for name in trial.written}
    backend.synchronize(device)
    start = time.perf_counter()
    result = kernel(**{**arguments, **fresh})
    backend.synchronize(device)
    ms = 1e3 * (time.perf_counter() - start)
    returned = result if isinstance(result, tuple) else (result,)
    arrays = dict(zip(trial.returns, returned, strict=True)) if trial.returns else {}
    arrays |= fresh
    return {name: backend.to_host(array) for name, array in _each(arrays.items()) if array is not None}, ms


def _put(value: Any, device: backend.Device, copied: bool = False) -> Any:
    if isinstance(value, list):
        return [_put(entry, device, copied) for entry in value]
    if not isinstance(value, np.ndarray) or (device.kind == "cpu" and not copied):
        return value
    return backend.from_host(value, device)


def _each(named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Lists taken apart: w becomes w[0], w[1] ..."""
    for name, value in named:
        if isinstance(value, list):
            yield from ((f"{name}[{i}]", entry) for i, entry in enumerate(value))
        else:
            yield name, value


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(-1).view(f"u{array.dtype.itemsize}")


def _place(array: NDArray[Any], flat: int) -> str:
    return f"[{', '.join(map(str, np.unravel_index(flat, array.shape)))}]" if array.ndim else ""


def _require_written(name: str, array: NDArray[Any]) -> None:
    """What no kernel wrote is NaN. All operands are finite, and so are all results."""
    if array.dtype.kind in "iu":  # every value may be one; those drawn are compared
        return
    bits = _bits(array)
    exponent = bits.dtype.type(0x7F80 if array.dtype == bfloat16 else 0x7F800000)
    missing = np.flatnonzero(bits & exponent == exponent)
    if len(missing):
        what = f"{len(missing):,} of {array.size:,} values were never written or are not finite"
        raise _Wrong(f"{name}{_place(array, missing[0])} is {array.reshape(-1)[missing[0]]}; {what}")


def _require_equal_bits(name: str, first: NDArray[Any], second: NDArray[Any]) -> None:
    different = np.flatnonzero(_bits(first) != _bits(second))
    if len(different):
        was, then = (array.reshape(-1)[different[0]] for array in (first, second))
        what = f"{len(different):,} of {first.size:,} values differ"
        raise _Wrong(f"{name}{_place(first, different[0])} was {was:.9g}, and {then:.9g} when called again; {what}")


def _compare(trial: Trial, outputs: Outputs) -> Iterator[tuple[float, float, float]]:
    """Of each output the value that comes nearest to its bound: its share of that, its error and its bound."""
    expected: dict[str, Expected] = dict(_each(trial.expected.items()))
    for name, array in outputs.items():
        right = expected[name]
        drawn = array.reshape(-1)[right.where]
        distance, allowed = right.distances(drawn)
        wrong = np.flatnonzero(~(distance <= allowed))
        if len(wrong):
            i = wrong[np.argmax(distance[wrong])]
            what = f"{len(wrong):,} of {len(drawn):,} values that were looked at are wrong"
            place = f"{name}{_place(array, right.where[i])}"
            raise _Wrong(f"{place} is {drawn[i]:.9g}, expected {right[i]} within {allowed[i]:.2g}; {what}")
        share = np.divide(distance, allowed, out=np.zeros_like(distance), where=allowed > 0)
        i = int(share.argmax() if share.any() else allowed.argmax())
        yield float(share[i]), float(distance[i]), float(allowed[i])


def _require_same_as_on_a_cpu(trial: Trial, outputs: Outputs, right: Outputs) -> None:
    """Each of the two may be off by the bound."""
    for name, expected in _each(trial.expected.items()):
        if isinstance(expected, Values):
            here, there = (array[name].reshape(-1)[expected.where] for array in (outputs, right))
            _, allowed = expected.distances(here)
            distance = abs(here.astype(np.float64) - there.astype(np.float64)) - half_unit(here) - half_unit(there)
            wrong = np.flatnonzero(~(distance <= 2 * allowed))
            if len(wrong):
                i = wrong[0]
                place = f"{name}{_place(outputs[name], expected.where[i])}"
                raise _Wrong(f"{place} is {here[i]:.9g}, but {there[i]:.9g} on the CPU")
