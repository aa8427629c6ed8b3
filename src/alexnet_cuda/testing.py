"""For tests of operations and kernels of your own: their gradients, their values against float64, and their bits.

``check_gradients`` compares the gradients of a function of tensors with differences of its values, ``check_kernel`` a
kernel with a formula in float64. Both raise AssertionError, which names the element and what was expected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from numpy.typing import DTypeLike, NDArray

from . import backend
from .kernel_checks.bounds import SMALLEST_NORMAL, UNIT, rounding_error
from .tensor import Tensor, no_grad

__all__ = ["SHAPES", "assert_close", "check_gradients", "check_kernel", "numeric_gradient", "thread_counts"]

Shape = tuple[int, ...]
SHAPES: tuple[Shape, ...] = ((1,), (31,), (33,), (255,), (256,), (257,), (4097,), (3, 5, 7, 97), (2, 3, 1, 64))
"""Around the sizes of warps, blocks and tiles."""


def assert_close(
    actual: NDArray[Any], expected: NDArray[Any] | float, error: NDArray[Any] | float, dtype: DTypeLike = np.float32
) -> None:
    """AssertionError unless ``actual`` is of ``dtype`` and the shape of ``expected`` and, element by element, within
    ``error`` of it; NaN is not. In bfloat16 it may be further off, by one rounding: half a unit in the last of eight
    digits."""
    actual, expected = np.asarray(actual), np.asarray(expected, np.float64)
    assert actual.dtype == dtype, f"expected {np.dtype(dtype)}, got {actual.dtype}"
    assert actual.shape == expected.shape, f"expected shape {expected.shape}, got {actual.shape}"
    assert np.isfinite(expected).all(), "the oracle is not finite"
    bound = np.broadcast_to(np.asarray(error) + SMALLEST_NORMAL, expected.shape)
    if actual.dtype == bfloat16:
        bound = bound + 2.0**-8 * (np.abs(expected) + bound)
    distance = np.abs(actual.astype(np.float64) - expected)
    wrong = ~(distance <= bound)
    if wrong.any():
        where = np.argwhere(wrong)
        rows = "\n".join(
            f"  {tuple(map(int, i))}: expected {expected[tuple(i)]:.9g}, got {actual[tuple(i)]:.9g}, "
            f"difference {distance[tuple(i)]:.3g}, allowed {bound[tuple(i)]:.3g}"
            for i in where[:8]
        )
        raise AssertionError(f"{len(where)} of {expected.size} elements of {expected.shape} differ:\n{rows}")


def numeric_gradient(f: Callable[[NDArray[Any]], float], x: NDArray[Any], step: float = 1e-5) -> NDArray[Any]:
    """df/dx in float64 by central differences, element by element; f must be smooth within ``step`` of x."""
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[i] += step
        below[i] -= step
        gradient[i] = (f(above) - f(below)) / (2 * step)
    return gradient


def check_gradients(
    f: Callable[..., Tensor],
    inputs: Sequence[NDArray[Any]],
    step: float = 2.0**-6,
    tolerance: float = 2e-3,
    device: str = "cpu",
    elements: int = 50,
) -> None:
    """Compares the gradients of ``f`` with central differences of its values.

    f takes tensors on the ``device``, one for each array of ``inputs``, and returns one; float32 inputs get gradients,
    others, such as labels, are handed over. Its output is weighted by numbers drawn at random. f must be smooth within
    ``step`` of the inputs: keep them away from kinks. Of each input so many ``elements`` are looked at, the first and
    the last among them. They may differ by ``tolerance`` times the largest slope that was found for this input, which
    is for the curvature of f, and by what float32 rounds of its values. AssertionError names input and element.
    """
    where, rng = backend.device(device), np.random.default_rng(0)
    arrays = [np.asarray(x) for x in inputs]

    def tensors(values: Sequence[NDArray[Any]], gradients: bool) -> list[Tensor]:
        return [
            Tensor(backend.from_host(x, where), requires_grad=gradients and x.dtype == np.float32, device=where)
            for x in values
        ]

    given = tensors(arrays, gradients=True)
    y = f(*given)
    assert isinstance(y, Tensor), f"f: expected a Tensor, got {type(y).__name__}"
    assert y.requires_grad, "f: the output depends on no input by operations that have gradients"
    dy = rng.standard_normal(y.shape).astype(np.float32)
    y.backward(backend.from_host(dy.astype(y.dtype), where))
    weights = dy.astype(y.dtype).astype(np.float64)
    noise = float((abs(y.numpy().astype(np.float64) * weights) ** 2).sum()) ** 0.5 * 8 * UNIT / step

    def weighted(place: int, at: tuple[int, ...], change: float) -> tuple[float, float]:
        """The weighted output with one element changed, and by how much float32 has changed it."""
        changed = arrays[place].copy()
        changed[at] += np.float32(change)
        with no_grad():
            value = f(*tensors([*arrays[:place], changed, *arrays[place + 1 :]], gradients=False))
        return float((value.numpy().astype(np.float64) * weights).sum()), float(changed[at])

    for place, (x, t) in enumerate(zip(arrays, given, strict=True)):
        if x.dtype != np.float32 or not x.size:
            continue
        assert t.grad is not None, f"input {place}: no gradient came back"
        dx = backend.to_host(t.grad)
        chosen = {0, x.size - 1, *rng.permutation(x.size)[:elements].tolist()}
        slopes = dict[tuple[int, ...], float]()
        for flat in sorted(chosen):
            at = tuple(int(i) for i in np.unravel_index(flat, x.shape))
            (above, high), (below, low) = weighted(place, at, step), weighted(place, at, -step)
            slopes[at] = (above - below) / (high - low)
        allowed = tolerance * max(map(abs, slopes.values())) + noise
        for at, slope in slopes.items():
            difference = abs(float(dx[at]) - slope)
            assert difference <= allowed, (
                f"input {place}: the gradient at {at} is {dx[at]:.6g}, differences say {slope:.6g}; "
                f"they are {difference:.3g} apart, allowed {allowed:.3g}"
            )


def thread_counts() -> Iterator[int]:
    """1, 1, 2, 4 and 4, each set as the number of the CPU's threads while it is at hand; then the number before."""
    before = backend.threads()
    try:
        for threads in (1, 1, 2, 4, 4):
            backend.set_threads(threads)
            yield threads
    finally:
        backend.set_threads(before)


def check_kernel(
    kernel: Callable[..., Any],
    oracle: Callable[..., Any],
    draw: Callable[[Shape], Mapping[str, Any]],
    shapes: Sequence[Shape] = SHAPES,
    roundings: float = 1.0,
    magnitude: Callable[..., Any] | None = None,
    device: str = "cpu",
) -> None:
    """Compares a ``kernel`` with its formula, ``oracle``, for each of the ``shapes``.

    ``draw(shape)`` gives the arguments of both by name: NumPy arrays, which the kernel gets on the ``device`` and the
    oracle in float64 if they are floats, and anything else. Both return an array or a tuple of them. Outputs that the
    kernel allocates by ``backend.empty`` are full of NaN before. A result of floats is stored as the first argument
    that is an array of floats, and may be off by so many ``roundings`` to float32, as ``kernel_checks`` counts them,
    each a part of the result or of what ``magnitude`` (the formula over absolute values, where terms cancel) returns;
    other results are exact. On a CPU the bits must be the same from run to run and for 1, 2 and 4 threads. Arguments
    must be left as they are.
    """
    where = backend.device(device)
    for shape in shapes:
        arguments = draw(shape)
        held = {name: a for name, a in arguments.items() if isinstance(a, np.ndarray)}
        wide = {name: a.astype(np.float64) if _is_float(a) else a for name, a in arguments.items()}
        expected = _tuple(oracle(**wide))
        sizes = expected if magnitude is None else _tuple(magnitude(**wide))
        storage = next((a.dtype for a in held.values() if _is_float(a)), np.dtype(np.float32))
        first: list[bytes] | None = None
        for threads in thread_counts():
            with backend.poisoned():
                given = {n: backend.from_host(a, where) if n in held else a for n, a in arguments.items()}
                results = [backend.to_host(y) for y in _tuple(kernel(**given))]
            label = f"{getattr(kernel, '__name__', kernel)} of {shape}"
            assert len(results) == len(expected), f"{label}: expected {len(expected)} results, got {len(results)}"
            for i, (y, right, size) in enumerate(zip(results, expected, sizes, strict=True)):
                try:
                    if _is_float(y):
                        assert_close(y, right, rounding_error(np.abs(size), roundings), storage)
                    else:
                        np.testing.assert_array_equal(y, right)
                except AssertionError as e:
                    raise AssertionError(f"{label}, result {i}: {e}") from None
            for name, a in held.items():
                same = backend.to_host(given[name]).tobytes() == a.tobytes()
                assert same, f"{label}: {name} has been written to"
            bits = [y.tobytes() for y in results]
            assert first is None or bits == first, f"{label}: other bits with {threads} threads than before"
            first = bits


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and (value.dtype.kind == "f" or value.dtype == bfloat16)


def _tuple(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)
