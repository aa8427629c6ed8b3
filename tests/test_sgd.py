"""kernels.sgd."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, strategies as st

from alexnet_cuda import kernels


def update(
    run: Runner, w: np.ndarray, v: np.ndarray, g: np.ndarray, lr: Any, **parameters: float
) -> tuple[np.ndarray, ...]:
    """w, v and g after one update."""
    arrays = [run.put(array) for array in (w.copy(), v.copy(), g.copy())]
    assert run(kernels.sgd, *arrays, lr, **parameters) is None
    return tuple(map(run.get, arrays))


def test_known_answer(run: Runner) -> None:
    w, v, g = (np.array([value], np.float32) for value in (1, 0.1, 0.5))
    w, v, _ = update(run, w, v, g, 0.01, momentum=0.9, decay=5e-4)
    np.testing.assert_allclose(v, [0.084995], rtol=1e-6)
    np.testing.assert_allclose(w, [1.084995], rtol=1e-6)


@given(
    shape=st.one_of(
        st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
        st.sampled_from([(255,), (256,), (257,), (100_003,)]),
    ),
    lr=st.sampled_from([0.0, 0.01, 1.0]),
    lr_scale=st.sampled_from([0.0, 1.0, 2.0]),
    momentum=st.sampled_from([0.0, 0.9]),
    decay=st.sampled_from([0.0, 5e-4, 1.0]),
    nesterov=st.booleans(),
    on_device=st.booleans(),
)
def test_any_shape(
    run: Runner,
    shape: tuple[int, ...],
    lr: float,
    lr_scale: float,
    momentum: float,
    decay: float,
    nesterov: bool,
    on_device: bool,
) -> None:
    arrays = [reference.random(*shape, seed=i) for i in range(3)]
    rate = np.array(lr, np.float32) if on_device else lr
    w, v, g = update(run, *arrays, rate, lr_scale=lr_scale, momentum=momentum, decay=decay, nesterov=nesterov)
    w64, v64, g64 = (array.astype(np.float64) for array in arrays)
    expected_w, expected_v = reference.sgd(w64, v64, g64, lr * lr_scale, momentum, decay, nesterov)
    _, magnitude = reference.sgd(-abs(w64), abs(v64), -abs(g64), lr * lr_scale, momentum, decay)
    # the hyper-parameters as float32, three products, two sums
    error = reference.rounding_error(magnitude, 8)
    reference.assert_close(v, expected_v, error)
    if nesterov:  # the same once more, from the new v
        magnitude = (1 + momentum) * magnitude
        error = momentum * error + reference.rounding_error(magnitude, 8)
    reference.assert_close(w, expected_w, error + reference.rounding_error(abs(w64) + magnitude, 1))
    np.testing.assert_array_equal(g, arrays[2])


def test_nesterovs_weights_are_a_step_ahead(run: Runner) -> None:
    w, v, g = (np.array([value], np.float32) for value in (1, 0.5, 0.25))
    w, v, _ = update(run, w, v, g, 1.0, momentum=0.5, decay=0.0, nesterov=True)
    assert (v[0], w[0]) == (0, 0.75)


def test_the_rate_scales_the_decay_too(run: Runner) -> None:
    """The paper's form: with a zero rate only the momentum acts."""
    w, v, g = (reference.random(10, seed=i) for i in range(3))
    new_w, new_v, _ = update(run, w, v, g, 0.0, momentum=0.5, decay=1.0)
    np.testing.assert_array_equal(new_v, v / 2)
    np.testing.assert_array_equal(new_w, w + v / 2)


def test_a_change_of_rate_leaves_the_momentum(run: Runner) -> None:
    """v holds steps, not gradients: after the rate is divided by ten the old steps keep their size."""
    w, v, g = np.zeros(1, np.float32), np.zeros(1, np.float32), np.ones(1, np.float32)
    w, v, _ = update(run, w, v, g, 1.0, momentum=0.5, decay=0.0)
    w, v, _ = update(run, w, v, g, 0.125, momentum=0.5, decay=0.0)
    assert (v[0], w[0]) == (-0.625, -1.625)


def update_all(
    run: Runner, sizes: list[int], rates: list[Any], momentum: list[float], decay: list[float], nesterov: bool = False
) -> list[list[np.ndarray]]:
    """w, v and g of parameters of these sizes after one update, all in one call."""
    columns = [[run.put(reference.random(n, seed=3 * i + j)) for i, n in enumerate(sizes)] for j in range(3)]
    assert run(kernels.multi_sgd, *columns, [run.put(rate) for rate in rates], momentum, decay, nesterov) is None
    return [[run.get(array) for array in column] for column in columns]


@given(
    sizes=st.lists(st.sampled_from([1, 3, 4, 255, 1024, 4095, 4096, 4097, 8192, 20_004]), min_size=1, max_size=9),
    nesterov=st.booleans(),
    data=st.data(),
)
def test_many_at_once_have_the_bits_of_one_after_the_other(
    run: Runner, sizes: list[int], nesterov: bool, data: st.DataObject
) -> None:
    count = len(sizes)
    numbers = st.sampled_from([0.0, 5e-4, 0.5, 0.9])
    rates, momentum, decay = (data.draw(st.lists(numbers, min_size=count, max_size=count)) for _ in range(3))
    ws, vs, gs = update_all(run, sizes, rates, momentum, decay, nesterov)
    for i, n in enumerate(sizes):
        before = [reference.random(n, seed=3 * i + j) for j in range(3)]
        expected = update(run, *before, rates[i], momentum=momentum[i], decay=decay[i], nesterov=nesterov)
        for actual, right in zip((ws[i], vs[i], gs[i]), expected, strict=True):
            np.testing.assert_array_equal(actual, right)


def test_more_than_one_launch_takes(run: Runner) -> None:
    sizes = list(itertools.islice(itertools.cycle([5, 4096, 12]), 200))
    rates = [np.array(rate, np.float32) for rate in np.linspace(0, 1, 200)]
    ws, vs, gs = update_all(run, sizes, rates, [0.5] * 200, [0.0] * 200)
    for i, n in enumerate(sizes):
        before = (reference.random(n, seed=3 * i + j) for j in range(3))
        expected = update(run, *before, rates[i], momentum=0.5, decay=0.0)
        for actual, right in zip((ws[i], vs[i], gs[i]), expected, strict=True):
            np.testing.assert_array_equal(actual, right)


def test_parameters_that_are_not_aligned(run: Runner) -> None:
    """Slices of one array, as parts of a larger parameter may be."""
    memory = [run.put(reference.random(40, seed=j)) for j in range(3)]
    columns = [[array[1:9], array[9:21], array[21:]] for array in memory]
    run(kernels.multi_sgd, *columns, [0.1] * 3, [0.9] * 3, [0.1] * 3)
    expected = update(run, *(reference.random(40, seed=j) for j in range(3)), 0.1, momentum=0.9, decay=0.1)
    for j, (array, right) in enumerate(zip(memory, expected, strict=True)):
        np.testing.assert_array_equal(run.get(array)[1:], right[1:])
        assert run.get(array)[0] == reference.random(40, seed=j)[0]


ROW = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("error", "changes", "message"),
    [
        (TypeError, {"w": ROW}, "w: expected a list, got ndarray"),
        (TypeError, {"g": None}, "g: expected a list, got NoneType"),
        (TypeError, {"momentum": 0.9}, "momentum: expected a list, got float"),
        (ValueError, {"v": [ROW]}, "v: expected 2 entries, as many as w has, got 1"),
        (ValueError, {"decay": [0.0] * 3}, "decay: expected 2 entries, as many as w has, got 3"),
        (ValueError, {"w": []}, "w: expected at least one entry, got 0"),
        (TypeError, {"lr": np.ones(2, np.float32)}, "lr: expected a list, got ndarray"),
        (ValueError, {"lr": [0.1, -1.0]}, r"lr: expected a number in \[0, .* got -1.0"),
        (TypeError, {"lr": [0.1, np.ones(())]}, "lr: expected dtype float32, got float64"),
        (ValueError, {"lr": [0.1, ROW]}, r"lr: expected 0 dimensions, got shape \(3,\)"),
        (TypeError, {"g": [ROW, ROW.astype(np.int32)]}, "g: expected dtype float32, got int32"),
        (TypeError, {"v": [ROW, [1.0]]}, "v: expected a NumPy or CuPy array, got builtins.list"),
        (ValueError, {"g": [ROW, np.ones(4, np.float32)]}, r"w: expected .* array of shape \(4,\), got float32 \(3,\)"),
        (ValueError, {"w": [np.ones(6, np.float32)[::2], ROW]}, "w: expected a C-contiguous array"),
        (ValueError, {"momentum": [0.9, 1.0]}, r"momentum: expected a number in \[0, 1\), got 1.0"),
        (ValueError, {"decay": [float("nan"), 0]}, r"decay: expected a number in .* got nan"),
    ],
)
def test_multi_sgd_refuses(error: type[Exception], changes: dict[str, Any], message: str) -> None:
    arrays = {name: [ROW.copy(), ROW.copy()] for name in "wvg"}
    right = {**arrays, "lr": [0.1, 0.1], "momentum": [0.9, 0.9], "decay": [0.0, 0.0]}
    with pytest.raises(error, match=f"^multi_sgd: {message}"):
        kernels.multi_sgd(**{**right, **changes})
    assert all((array == 1).all() for column in arrays.values() for array in column)


def test_multi_sgd_needs_separate_arrays() -> None:
    w, v, g = (np.ones(3, np.float32) for _ in range(3))
    with pytest.raises(ValueError, match="w: expected memory of its own, got memory that overlaps w"):
        kernels.multi_sgd([w, w], [v, v.copy()], [g, g.copy()], [0.1] * 2, [0.0] * 2, [0.0] * 2)
    assert (w == 1).all() and (v == 1).all()
