"""kernels.linear_dropout: a fully connected layer with ReLU and dropout, to the bits of one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, strategies as st

from alexnet_cuda import kernels

PRODUCTS = pytest.mark.parametrize("product", ["float32", *reference.PRODUCTS])
EDGES = st.sampled_from([1, 3, 4, 8, 9, 63, 64, 65, 127, 128, 129])


def arguments(N: int, inputs: int, outputs: int, product: str) -> tuple[np.ndarray, ...]:
    """x, w, b."""
    x, w = (reference.stored(reference.random(n, inputs, seed=n), product) for n in (N, outputs))
    return x, w, reference.random(outputs, seed=3)


def precision(product: str) -> str:
    return "fp32" if product == "float32" else reference.PRODUCTS[product]


def check(run: Runner, x: Any, w: Any, b: Any, product: str, **draw: Any) -> None:
    """Against float64, and the two kernels' bits."""
    y = run(kernels.linear_dropout, x, w, b, **draw, precision=precision(product))
    rx, rw = (a.astype(np.float64) if product == "float32" else reference.rounded(a, product) for a in (x, w))
    b64 = np.zeros(len(w)) if b is None else b.astype(np.float64)
    p, first, n = draw["p"], draw["first"], y.size
    keep = reference.dropout_mask(first + n, p, draw["seed"], draw["step"], draw["purpose"])[first:].reshape(y.shape)
    scale = keep / (1 - p) if draw["form"] == "inverted" else keep
    expected = reference.relu(reference.linear(rx, rw, b64))
    bound = reference.rounding_error if product == "float32" else reference.tensor_core_error
    error = bound(reference.linear(abs(rx), abs(rw), abs(b64)), x.shape[1] + 1)
    roundings = 2.0**-8 * (expected + error) if product == "bfloat16" else reference.rounding_error(expected, 2)
    reference.assert_close(y, expected * scale, (error + roundings) * scale, x.dtype)
    after = run(kernels.dropout, run(kernels.linear, x, w, b, True, precision(product)), **draw)
    np.testing.assert_array_equal(y, after)


@given(
    N=st.sampled_from([1, 3, 16, 17, 33, 129]),
    inputs=EDGES,
    outputs=EDGES,
    product=st.sampled_from(["float32", *reference.PRODUCTS]),
    p=st.sampled_from([0.0, 0.3, 0.5]),
    form=st.sampled_from(["paper", "inverted"]),
    first=st.integers(0, 9),
    with_bias=st.booleans(),
)
def test_any_shape(
    run: Runner,
    N: int,
    inputs: int,
    outputs: int,
    product: str,
    p: float,
    form: str,
    first: int,
    with_bias: bool,
) -> None:
    x, w, b = arguments(N, inputs, outputs, product)
    draw = {"p": p, "form": form, "first": first, "seed": 2**40 + 1, "step": 7, "purpose": 3}
    check(run, x, w, b if with_bias else None, product, **draw)


@PRODUCTS
@pytest.mark.parametrize("first", [0, 1, 2, 7])
@pytest.mark.parametrize(
    ("N", "inputs", "outputs"),
    [
        pytest.param(132, 40, 128, id="wide tiles"),
        pytest.param(136, 24, 72, id="narrow tiles"),
        pytest.param(130, 19, 65, id="value by value"),
        pytest.param(20, 1032, 12, id="a split sum"),
        pytest.param(17, 1025, 9, id="a split sum, value by value"),
        pytest.param(5, 300, 36, id="few rows"),
    ],
)
def test_paths(run: Runner, N: int, inputs: int, outputs: int, first: int, product: str) -> None:
    draw = {"p": 0.4, "form": "inverted", "first": first, "seed": 5, "step": 1, "purpose": 2}
    check(run, *arguments(N, inputs, outputs, product), product, **draw)


@PRODUCTS
def test_seed_and_step_may_lie_on_the_device(run: Runner, product: str) -> None:
    arrays = arguments(20, 16, 24, product)
    options = {"purpose": 2, "precision": precision(product)}
    state = np.array([2**40 + 3, 7], np.uint64)
    expected = run(kernels.linear_dropout, *arrays, seed=2**40 + 3, step=7, **options)
    np.testing.assert_array_equal(run(kernels.linear_dropout, *arrays, seed=1, state=state, **options), expected)


@pytest.mark.parametrize("product", ["tf32", "bfloat16"])
def test_nan_and_infinity_are_dropped_to_zero(run: Runner, product: str) -> None:
    x, w, b = arguments(17, 8, 16, product)
    x[3, 0], w[5, 1] = np.nan, np.inf
    kept = run(kernels.dropout, np.ones((17, 16), np.float32), seed=4) > 0
    y = run(kernels.linear_dropout, x, w, b, seed=4, precision=precision(product)).astype(np.float32)
    assert np.isnan(y[3][kept[3]]).all() and (y[~kept] == 0).all()
    assert np.isfinite(np.delete(np.delete(y, 3, 0), 5, 1)).all()
