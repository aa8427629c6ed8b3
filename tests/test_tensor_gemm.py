"""kernels.gemm and kernels.linear on tensor cores, against float64 products of operands rounded as the kernel does."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, settings, strategies as st

from alexnet_cuda import Tensor, backend, kernels, nn

PRECISIONS = pytest.mark.parametrize("precision", ["tf32", "bf16"])
PRODUCTS = pytest.mark.parametrize("product", reference.PRODUCTS)
LAYOUTS = pytest.mark.parametrize(
    ("transpose_a", "transpose_b"),
    [(False, False), (False, True), (True, False), (True, True)],
    ids=["NN", "NT", "TN", "TT"],
)
# One less, exactly and one more than a copy's four or eight values, a step along k, a narrow tile and a wide one.
EDGES = [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 68, 127, 128, 129]


def operands(M: int, N: int, K: int, transpose_a: bool, transpose_b: bool) -> tuple[np.ndarray, np.ndarray]:
    return (
        reference.random(*(K, M) if transpose_a else (M, K), seed=1),
        reference.random(*(N, K) if transpose_b else (K, N), seed=2),
    )


def check(
    run: Runner,
    M: int,
    N: int,
    K: int,
    transpose_a: bool,
    transpose_b: bool,
    product: str,
    alpha: float = 1.0,
    beta: float = 0.0,
) -> None:
    arrays = *operands(M, N, K, transpose_a, transpose_b), reference.random(M, N, seed=3)
    a, b, c = (reference.stored(array, product) for array in arrays)
    ra, rb, c64 = reference.rounded(a, product), reference.rounded(b, product), c.astype(np.float64)
    expected = alpha * reference.gemm(ra, rb, transpose_a, transpose_b) + beta * c64
    magnitude = abs(alpha) * reference.gemm(abs(ra), abs(rb), transpose_a, transpose_b) + abs(beta * c64)
    precision = reference.PRODUCTS[product]
    actual = run(kernels.gemm, a, b, transpose_a, transpose_b, alpha, beta, c if beta else None, precision)
    reference.assert_close(actual, expected, reference.tensor_core_error(magnitude, K + 3), c.dtype)


@given(
    M=st.sampled_from(EDGES),
    N=st.sampled_from(EDGES),
    K=st.sampled_from(EDGES),
    transpose_a=st.booleans(),
    transpose_b=st.booleans(),
    product=st.sampled_from(list(reference.PRODUCTS)),
    alpha=st.sampled_from([1.0, -0.5, 0.0]),
    beta=st.sampled_from([0.0, 1.0, 0.3]),
)
def test_any_shape(
    run: Runner,
    M: int,
    N: int,
    K: int,
    transpose_a: bool,
    transpose_b: bool,
    product: str,
    alpha: float,
    beta: float,
) -> None:
    check(run, M, N, K, transpose_a, transpose_b, product, alpha, beta)


@PRODUCTS
@LAYOUTS
@pytest.mark.parametrize(
    ("M", "N", "K"),
    [
        pytest.param(132, 128, 36, id="wide tiles"),
        pytest.param(132, 132, 20, id="narrow tiles"),
        pytest.param(136, 128, 40, id="wide tiles, eights"),
        pytest.param(136, 136, 104, id="narrow tiles, eights"),
        pytest.param(130, 65, 19, id="value by value"),
        pytest.param(4, 260, 300, id="a split sum"),
        pytest.param(7, 9, 1025, id="a split sum, value by value"),
    ],
)
def test_paths(run: Runner, M: int, N: int, K: int, transpose_a: bool, transpose_b: bool, product: str) -> None:
    check(run, M, N, K, transpose_a, transpose_b, product, 0.5, 2.0)


@PRECISIONS
def test_near_the_exact_product(run: Runner, precision: str) -> None:
    a, b = operands(65, 70, 515, False, True)
    exact = reference.gemm(a.astype(np.float64), b.astype(np.float64), False, True)
    reference.assert_near(run(kernels.gemm, a, b, False, True, precision=precision), exact, precision)


@PRECISIONS
@LAYOUTS
def test_integers_are_exact(run: Runner, transpose_a: bool, transpose_b: bool, precision: str) -> None:
    """Small integers have no rounding: every element must be equal."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((70, 140), (140, 66)))
    expected = a.astype(np.int64) @ b.astype(np.int64)
    a, b = (np.ascontiguousarray(m.T if t else m) for m, t in ((a, transpose_a), (b, transpose_b)))
    actual = run(kernels.gemm, a, b, transpose_a, transpose_b, precision=precision)
    np.testing.assert_array_equal(actual, expected)


@PRECISIONS
@LAYOUTS
@pytest.mark.parametrize(("M", "N", "K"), [(3, 5, 3), (64, 64, 8), (66, 67, 200)])
def test_nan_and_infinity_spread_no_further(
    run: Runner, M: int, N: int, K: int, transpose_a: bool, transpose_b: bool, precision: str
) -> None:
    a, b = np.ones((M, K), np.float32), np.ones((K, N), np.float32)
    a[1, 0], b[0, 2] = np.nan, np.inf
    a, b = (np.ascontiguousarray(m.T if t else m) for m, t in ((a, transpose_a), (b, transpose_b)))
    expected = np.full((M, N), K, np.float32)
    expected[:, 2] = np.inf
    expected[1] = np.nan
    actual = run(kernels.gemm, a, b, transpose_a, transpose_b, precision=precision)
    np.testing.assert_array_equal(actual, expected)


@PRECISIONS
def test_what_must_not_be_read(run: Runner, precision: str) -> None:
    a, b, c = np.full((5, 8), np.nan, np.float32), np.full((8, 8), np.inf, np.float32), reference.random(5, 8)
    y = run(kernels.gemm, a, b, alpha=0.0, beta=1.0, c=c, precision=precision)
    np.testing.assert_array_equal(y, c)
    nothing = np.full((5, 8), np.nan, np.float32)
    y = run(kernels.gemm, c, reference.random(8, 8), beta=0.0, c=nothing, precision=precision)
    assert np.isfinite(y).all()


@PRECISIONS
def test_memory_that_is_not_aligned_to_four_values(precision: str) -> None:
    a, b = reference.random(9, 16), reference.random(16, 12)
    apart = np.empty(a.size + 1, np.float32)[1:].reshape(a.shape)
    apart[...] = a
    results = [kernels.gemm(m, b, precision=precision) for m in (a, apart)]
    np.testing.assert_array_equal(results[0], results[1])


@PRODUCTS
@pytest.mark.parametrize(("N", "inputs", "outputs"), [(3, 20, 12), (5, 33, 70), (2, 1030, 9)])
@pytest.mark.parametrize(("with_bias", "relu"), [(True, True), (False, True), (True, False)])
def test_linear(run: Runner, N: int, inputs: int, outputs: int, with_bias: bool, relu: bool, product: str) -> None:
    x, w = reference.stored(reference.random(N, inputs, seed=1), product), reference.random(outputs, inputs, seed=2)
    b = reference.random(outputs, seed=3) if with_bias else np.zeros(outputs, np.float32)
    rx, rw, b64 = reference.rounded(x, product), reference.rounded(w, product), b.astype(np.float64)
    expected = reference.linear(rx, rw, b64)
    error = reference.tensor_core_error(reference.linear(abs(rx), abs(rw), abs(b64)), inputs + 1)
    y = run(kernels.linear, x, w, b if with_bias else None, relu, reference.PRODUCTS[product])
    reference.assert_close(y, reference.relu(expected) if relu else expected, error, x.dtype)


@settings(max_examples=15)
@given(
    sizes=st.one_of(
        st.tuples(*[st.integers(1, 20)] * 3),
        st.sampled_from([(5, 65, 36), (300, 4, 8), (257, 129, 132), (400, 33, 5), (3, 8, 600)]),
    ),
    product=st.sampled_from(list(reference.PRODUCTS)),
)
def test_linear_backward(run: Runner, sizes: tuple[int, int, int], product: str) -> None:
    """Sums over images and over outputs that are split and that are not."""
    N, inputs, outputs = sizes
    dy, x = (reference.stored(reference.random(N, n, seed=n), product) for n in (outputs, inputs))
    w = reference.random(outputs, inputs, seed=3)
    rounded = [reference.rounded(array, product) for array in (dy, x, w)]
    expected = reference.linear_backward(*rounded)
    magnitudes = reference.linear_backward(*map(abs, rounded))
    mask = reference.mask(*x.shape, dtype=x.dtype)
    dx, dw, db = run(kernels.linear_backward, dy, x, w, precision=reference.PRODUCTS[product], mask=mask)
    error = reference.tensor_core_error(reference.masked(magnitudes[0], mask), outputs)
    reference.assert_close(dx, reference.masked(expected[0], mask), error, x.dtype)
    reference.assert_close(dw, expected[1], reference.tensor_core_error(magnitudes[1], N))
    # a bias gradient has no products: it is that of float32
    dy64 = dy.astype(np.float64)
    reference.assert_close(db, dy64.sum(0), reference.rounding_error(abs(dy64).sum(0), N))


@PRECISIONS
def test_layer_has_a_precision(precision: str) -> None:
    layer = nn.Linear(36, 20, activation="relu", precision=precision)
    x = Tensor(reference.random(3, 36), requires_grad=True)
    y = layer(x)
    np.testing.assert_array_equal(
        y.numpy(), kernels.linear(x.data, layer.w.data, layer.b.data, True, precision=precision)
    )
    dy = reference.random(3, 20)
    y.backward(dy)
    dy, db = kernels.bias_relu_backward(dy, y.data)
    dx, dw, _ = kernels.linear_backward(dy, x.data, layer.w.data, precision=precision)
    for gradient, array in zip((x.grad, layer.w.grad, layer.b.grad), (dx, dw, db), strict=True):
        np.testing.assert_array_equal(gradient, array)
    assert nn.Linear(3, 4).precision == "fp32"


@pytest.mark.parametrize(
    ("N", "K", "parts"),
    [
        pytest.param(4096, 9216, 8, id="fc6"),
        pytest.param(4096, 4096, 8, id="fc7"),
        pytest.param(1000, 4096, 32, id="fc8"),
    ],
)
def test_fully_connected_layers_fill_a_large_gpu(N: int, K: int, parts: int) -> None:
    """At batch 128: two blocks of 128 x 128 values for almost each of 132 multiprocessors."""
    assert backend.native(backend.Device("cpu")).tensor_gemm_workspace(128, N, K) == parts * 128 * (N + 1) * 4
    assert 2 * 132 * 0.95 < -(-N // 128) * parts <= 2 * 132
