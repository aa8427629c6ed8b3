"""kernels.broadcast, gather and scatter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import reference
from conftest import STORAGE, Runner
from hypothesis import given, settings, strategies as st
from numpy.typing import DTypeLike

from alexnet_cuda import backend, kernels
from alexnet_cuda.kernel_checks.arithmetic import FORMULAS, bound

Shape = tuple[int, ...]
OPERATIONS = pytest.mark.parametrize("operation", FORMULAS)


@st.composite
def broadcastable(draw: st.DrawFn, count: int = 4) -> list[Shape]:
    """Shapes up to rank 4 that broadcast, some axes empty."""
    full = draw(st.lists(st.integers(0, 5) | st.just(33), max_size=4))
    shapes = []
    for _ in range(count):
        shape = [draw(st.sampled_from([1, n])) for n in full]
        shapes.append(tuple(shape[draw(st.integers(0, len(shape))) :]))
    return shapes


def operands(operation: str, shapes: list[Shape], dtype: DTypeLike = np.float32) -> list[np.ndarray]:
    formula = FORMULAS[operation]
    drawn = [reference.random(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes[: formula.arity])]
    if formula.whole:
        drawn = [np.rint(2 * x.astype(np.float32)).astype(dtype) for x in drawn]
    least = np.asarray(0.125, dtype)
    drawn = [abs(x) + least if name in formula.positive else x for name, x in zip("abcd", drawn, strict=False)]
    return [np.asarray(x, dtype) for x in drawn]  # NumPy makes numbers of arrays without axes


def check(run: Runner, operation: str, values: list[Any], dtype: DTypeLike) -> None:
    formula = FORMULAS[operation]
    wide = [np.asarray(x).astype(np.float64) for x in values]
    expected = np.asarray(formula.value(*wide), np.float64)
    actual = run(kernels.broadcast, operation, *values)
    reference.assert_close(actual, expected, bound(formula, wide, expected), dtype)


@STORAGE
@settings(max_examples=150)
@given(operation=st.sampled_from(sorted(FORMULAS)), shapes=broadcastable())
def test_any_shapes(run: Runner, operation: str, dtype: DTypeLike, shapes: list[Shape]) -> None:
    check(run, operation, operands(operation, shapes, dtype), dtype)


@OPERATIONS
@STORAGE
def test_arrays_and_numbers_in_their_place(run: Runner, operation: str, dtype: DTypeLike) -> None:
    arrays = operands(operation, [(5, 7), (5, 7), (5, 7), (5, 7)], dtype)
    check(run, operation, arrays, dtype)
    for place in range(len(arrays)) if len(arrays) > 1 else []:
        check(run, operation, [float(x[0, 0]) if i == place else x for i, x in enumerate(arrays)], dtype)


@pytest.mark.parametrize("shapes", [[(1_000_003,), (1_000_003,)], [(2, 9000), (9000,)], [(9000, 2), (9000, 1)]])
def test_long_rows_and_columns(run: Runner, shapes: list[Shape]) -> None:
    check(run, "add", operands("add", shapes), np.float32)


@pytest.mark.parametrize("operation", ["add", "clip", "abs", "power", "noisy_relu", "soft_relu", "exp", "copy"])
def test_nan_is_not_hidden(run: Runner, operation: str) -> None:
    first, *others = operands(operation, [(3,)] * 4)
    assert np.isnan(run(kernels.broadcast, operation, np.full_like(first, np.nan), *others)).all()


def test_nan_is_no_more_and_no_less(run: Runner) -> None:
    nan, one = np.full(1, np.nan, np.float32), np.ones(1, np.float32)
    results = [run(kernels.broadcast, operation, nan, one)[0] for operation in ("equal", "less", "less_equal")]
    assert [*results, run(kernels.broadcast, "not_equal", nan, one)[0]] == [0, 0, 0, 1]
    assert run(kernels.broadcast, "where", nan, one, 2 * one) == 1  # as in NumPy, what is not 0 is true


def test_squares_have_their_exact_value_and_powers_their_derivative_at_0(run: Runner) -> None:
    x = np.array([-3, 0, 1.5], np.float32)
    assert run(kernels.broadcast, "power", x, 2.0).tolist() == [9, 0, 2.25]
    dy = np.ones_like(x)
    assert run(kernels.broadcast, "power_backward_base", dy, x, 2.0).tolist() == [-6, 0, 3]
    assert run(kernels.broadcast, "power_backward_base", dy, x, 0.0).tolist() == [0, 0, 0]
    zero = np.zeros(1, np.float32)
    assert run(kernels.broadcast, "power_backward_exponent", dy[:1], zero, zero) == 0


def test_into_an_array_that_is_there(run: Runner) -> None:
    out = run.put(np.full((2, 3), np.nan, np.float32))
    x = run.put(np.ones((2, 3), np.float32))
    assert kernels.broadcast("add", x, 1.0, out=out) is out
    assert (run.get(out) == 2).all()


def test_too_many_axes_are_refused_by_name(run: Runner) -> None:
    x, y = np.ones((2, 1, 2, 1, 2), np.float32), np.ones((1, 2, 1, 2, 1), np.float32)
    with pytest.raises(ValueError, match=r"broadcast: expected at most 4 axes .* got 5 of sizes \(2, 2, 2, 2, 2\)"):
        run(kernels.broadcast, "add", x, y)
    high = np.ones((2,) * 9, np.float32)
    assert run(kernels.broadcast, "add", high, high).shape == high.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ad", 1, 2), r"operation: expected one of abs, .*, got 'ad'; did you mean add\?"),
        (("add", reference.random(2), reference.random(3)), r"expected shapes that broadcast .* \(2,\) and \(3,\)"),
        (("copy", reference.random(2), 1.0), "b: expected None, as copy has 1 operands, got float"),
    ],
)
def test_wrong_operands(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^broadcast: {message}"):
        kernels.broadcast(*arguments)


def test_only_numbers() -> None:
    with pytest.raises(TypeError, match=r"^broadcast: a: expected a NumPy or CuPy array, got a float"):
        kernels.broadcast("add", 1.0, 2.0)


# ---- views


@st.composite
def slices(draw: st.DrawFn) -> tuple[Shape, tuple[slice, ...], tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    steps = [draw(st.sampled_from([1, 2, 3, -1, -2])) for _ in shape]
    index = tuple(slice(draw(st.integers(-n, n)), draw(st.none() | st.integers(-n, n)), step)
                  for n, step in zip(shape, steps, strict=True))  # fmt: skip
    return shape, index, tuple(draw(st.permutations(range(len(shape)))))


@STORAGE
@given(case=slices())
def test_views_there_and_back(run: Runner, dtype: DTypeLike, case: tuple[Shape, Any, Any]) -> None:
    shape, index, order = case
    x = reference.random(*shape, dtype=dtype)
    view = x[index].transpose(order)
    strides = [step // x.itemsize for step in view.strides]
    offset = (view.__array_interface__["data"][0] - x.__array_interface__["data"][0]) // x.itemsize if view.size else 0
    y = run(kernels.gather, x, view.shape, strides, offset)
    assert y.dtype == dtype and np.array_equal(y, view)
    expected = np.zeros(shape, dtype)
    expected[index].transpose(order)[...] = y
    back = run.put(np.zeros(shape, dtype))
    run(kernels.scatter, back, y, strides, offset)
    assert np.array_equal(run.get(back), expected)


def test_views_that_repeat_and_overlap(run: Runner) -> None:
    x = np.arange(5, dtype=np.float32)
    assert run(kernels.gather, x, (2, 3), (0, 1)).tolist() == [[0, 1, 2], [0, 1, 2]]
    windows = run(kernels.gather, x, (3, 3), (1, 1))
    assert windows.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    with pytest.raises(ValueError, match="a place each"):
        run(kernels.scatter, x, windows, (1, 1))


def test_formulas_are_derivatives_of_one_another() -> None:
    """The float64 oracle: those called ``_backward`` against differences of the formulas they belong to."""
    x, a, b = reference.distinct(7, 5).astype(np.float64), np.float64(1.7), np.float64(0.6)
    dy, positive = reference.random(7, 5).astype(np.float64), abs(x) + 0.3
    value = {name: formula.value for name, formula in FORMULAS.items()}
    for name, at, backward, forward in (
        ("divide", positive, lambda v: value["divide_backward"](dy, a, v), lambda v: a / v),
        ("power base", positive, lambda v: value["power_backward_base"](dy, v, a), lambda v: v**a),
        ("power exponent", x, lambda v: value["power_backward_exponent"](dy, a, a**v), lambda v: a**v),
        ("clip", x, lambda v: value["clip_backward"](dy, v, -0.4, b), lambda v: value["clip"](v, -0.4, b)),
        ("sqrt", positive, lambda v: value["sqrt_backward"](dy, np.sqrt(v)), value["sqrt"]),
        ("abs", x, lambda v: value["abs_backward"](dy, v), value["abs"]),
        ("tanh", x, lambda v: value["scaled_tanh_backward"](dy, v, a, b), lambda v: value["scaled_tanh"](v, a, b)),
        ("abs_tanh", x, lambda v: value["abs_tanh_backward"](dy, v, a, b), lambda v: value["abs_tanh"](v, a, b)),
        ("double_relu", x, lambda v: value["double_relu_backward"](dy, v, a), lambda v: value["double_relu"](v, a)),
        ("soft_relu", x, lambda v: value["soft_relu_backward"](dy, v), value["soft_relu"]),
    ):  # fmt: skip
        numeric = reference.numeric_gradient(lambda v, f=forward: (f(v) * dy).sum(), at)
        np.testing.assert_allclose(backward(at), numeric, rtol=1e-6, atol=1e-9, err_msg=name)


def test_every_operation_has_its_formula() -> None:
    known = backend.native(backend.device("cpu")).broadcast_operations()
    assert known == {name: formula.arity for name, formula in FORMULAS.items()}
    assert math.prod(known.values())
