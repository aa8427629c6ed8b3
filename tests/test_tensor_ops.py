"""What tensors compute by operators and methods: values and gradients against float64, broadcasting, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
from conftest import STORAGE, launches
from hypothesis import given, strategies as st
from ml_dtypes import bfloat16
from numpy.typing import DTypeLike
from stand_in_cupy import StandIn
from test_broadcast import broadcastable

from alexnet_cuda import Tensor, nn, ops
from alexnet_cuda.tensor import no_grad

pytest_plugins = ["stand_in_cupy"]

Arrays = list[np.ndarray]


def gradients(function: Callable[..., Any], arrays: Arrays, dy: np.ndarray) -> tuple[np.ndarray, Arrays]:
    """The function's value, and the gradients of its operands for dy."""
    xs = [Tensor(x, requires_grad=True) for x in arrays]
    y = function(*xs)
    assert y.requires_grad and y.dtype == arrays[0].dtype
    y.backward(np.broadcast_to(dy, y.shape).astype(y.dtype))
    return y.numpy(), [x.grad for x in xs]


def assert_right(
    function: Callable[..., Any], numpy: Callable[..., Any], arrays: Arrays, tolerance: float = 2e-6
) -> None:
    """Values as NumPy has them in float64, and gradients as differences of these; ``tolerance`` is relative to the
    largest value, some roundings of float32."""
    wide = [x.astype(np.float64) for x in arrays]
    exact = np.asarray(numpy(*wide))
    dy = reference.random(*exact.shape, seed=9)
    y, dxs = gradients(function, arrays, dy)
    np.testing.assert_allclose(y, exact, atol=tolerance * abs(exact).max(initial=1), rtol=0)
    for i, dx in enumerate(dxs):
        numeric = reference.numeric_gradient(lambda x, i=i: (numpy(*wide[:i], x, *wide[i + 1 :]) * dy).sum(), wide[i])
        assert dx.shape == arrays[i].shape and dx.dtype == arrays[i].dtype
        np.testing.assert_allclose(dx, numeric, atol=10 * tolerance * abs(numeric).max(initial=1), rtol=0)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return np.asarray(abs(reference.random(*shape, seed=seed)) + np.float32(0.5))


BINARY: dict[str, tuple[Callable[..., Any], bool]] = {
    "+": (lambda a, b: a + b, False),
    "-": (lambda a, b: a - b, False),
    "*": (lambda a, b: a * b, False),
    "/": (lambda a, b: a / b, True),
    "**": (lambda a, b: a**b, True),
}


@pytest.mark.parametrize("name", BINARY)
@given(shapes=broadcastable(2))
def test_operators_broadcast(name: str, shapes: list[tuple[int, ...]]) -> None:
    function, needs_positive = BINARY[name]
    draw = positive if needs_positive else reference.random
    arrays = [np.asarray(draw(*(min(n, 3) for n in shape), seed=i)) for i, shape in enumerate(shapes)]
    assert_right(function, function, arrays)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("number", [2, 0.5, np.float32(1.5), np.int64(3)])
def test_numbers_stand_on_either_side(name: str, number: Any) -> None:
    function, _ = BINARY[name]
    for one_sided in (lambda x: function(x, number), lambda x: function(number, x)):
        assert_right(one_sided, one_sided, [positive(2, 3)])


UNARY: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "negative": (lambda x: -x, lambda x: -x),
    "abs": (abs, abs),
    "exp": (lambda x: x.exp(), np.exp),
    "log": (lambda x: (x * x + 1).log(), lambda x: np.log(x * x + 1)),
    "sqrt": (lambda x: (x * x + 1).sqrt(), lambda x: np.sqrt(x * x + 1)),
    "clip": (lambda x: x.clip(-0.51, 0.33), lambda x: np.clip(x, -0.51, 0.33)),
    "clip above": (lambda x: x.clip(high=0.33), lambda x: np.minimum(x, 0.33)),
    "square": (lambda x: x**2, lambda x: x**2),
    "where": (lambda x: ops.where(x > 0.13, 2 * x, -x), lambda x: np.where(x > 0.13, 2 * x, -x)),
    "mask": (lambda x: x * (x <= 0.13), lambda x: x * (x <= 0.13)),
    "sum": (lambda x: x.sum(), np.sum),
    "sum of axes": (lambda x: x.sum((0, -1)), lambda x: x.sum((0, -1))),
    "sum keeping": (lambda x: x / x.exp().sum(1, keepdims=True), lambda x: x / np.exp(x).sum(1, keepdims=True)),
    "mean": (lambda x: x.mean(-1), lambda x: x.mean(-1)),
    "mean of all": (lambda x: x.mean(), np.mean),
    "max": (lambda x: x.max(1), lambda x: x.max(1)),
    "max of all": (lambda x: x.max(keepdims=True), lambda x: x.max(keepdims=True)),
    "max of axes": (lambda x: x.max((0, 2)), lambda x: x.max((0, 2))),
    "reshape": (lambda x: x.reshape(4, -1) * 3, lambda x: x.reshape(4, -1) * 3),
    "transpose": (lambda x: x.transpose(2, 0, 1), lambda x: x.transpose(2, 0, 1)),
    "T": (lambda x: x.T, lambda x: x.T),
    "broadcast_to": (lambda x: ops.broadcast_to(x[:, :1], (5, 3, 2, 4)),
                     lambda x: np.broadcast_to(x[:, :1], (5, 3, 2, 4))),
    "integer": (lambda x: x[1], lambda x: x[1]),
    "integers": (lambda x: x[1, -1, 2], lambda x: x[1, -1, 2]),
    "slice": (lambda x: x[1:, ::-1, 1:4:2], lambda x: x[1:, ::-1, 1:4:2]),
    "ellipsis": (lambda x: x[..., 2], lambda x: x[..., 2]),
    "new axis": (lambda x: x[:, None, 1] * x[:, :, None].sum(1), lambda x: x[:, None, 1] * x[:, :, None].sum(1)),
    "empty slice": (lambda x: x[2:2].sum() + x.sum(), lambda x: x[2:2].sum() + x.sum()),
    "overlapping": (lambda x: x[:2] * x[1:] + x[:2], lambda x: x[:2] * x[1:] + x[:2]),
    "iteration": (lambda x: ops.concat([row * i for i, row in enumerate(x)]),
                  lambda x: np.concatenate([row * i for i, row in enumerate(x)], -1)),
    "softmax": (lambda x: (x - x.max(-1, True)).exp() / (x - x.max(-1, True)).exp().sum(-1, True),
                lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    "standardised": (lambda x: (x - x.mean(0)) / ((x - x.mean(0)) ** 2).mean(0).sqrt(),
                     lambda x: (x - x.mean(0)) / np.sqrt(((x - x.mean(0)) ** 2).mean(0))),
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_functions(name: str) -> None:
    ours, numpy = UNARY[name]
    assert_right(ours, numpy, [reference.distinct(3, 2, 4)], 4e-6)


@pytest.mark.parametrize(
    ("a", "b"),
    [((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((2, 1, 2, 3), (4, 3, 2)), ((2, 3), (2, 3, 2)),
     ((0, 3), (3, 4)), ((2, 0), (0, 4)), ((0, 2, 3), (0, 3, 2))],
)  # fmt: skip
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    arrays = [reference.random(*a), reference.random(*b, seed=1)]
    assert_right(lambda a, b: a @ b, lambda a, b: a @ b, arrays)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(axis: int) -> None:
    shapes = [[2, 3, 2] for _ in range(3)]
    for i, shape in enumerate(shapes):
        shape[axis] = i
    arrays = [reference.random(*shape, seed=i) for i, shape in enumerate(shapes)]
    assert_right(lambda *xs: ops.concat(xs, axis), lambda *xs: np.concatenate(xs, axis), arrays)


@st.composite
def indices(draw: st.DrawFn) -> tuple[tuple[int, ...], Any]:
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)))
    places: list[Any] = []
    for n in shape:
        step = draw(st.sampled_from([None, 1, 2, -1, -3]))
        ends = st.none() | st.integers(-6, 6)
        one = st.integers(-n, n - 1) if n else st.nothing()
        places.append(draw(one | st.builds(slice, ends, ends, st.just(step))))
    start, stop = sorted(draw(st.integers(0, len(shape))) for _ in range(2))
    places[start:stop] = [] if stop == len(shape) and draw(st.booleans()) else [...]
    if draw(st.booleans()):
        places.insert(draw(st.integers(0, len(places))), None)
    return shape, tuple(places)


@given(case=indices())
def test_any_basic_index(case: tuple[tuple[int, ...], Any]) -> None:
    shape, places = case
    x = Tensor(reference.random(*shape), requires_grad=True)
    y, expected = x[places], x.data[places]
    assert y.shape == expected.shape and np.array_equal(y.data, expected)
    dy = reference.random(*y.shape, seed=1)
    y.backward(dy)
    dx = np.zeros(shape, np.float32)
    dx[places] = dy
    assert np.array_equal(x.grad, dx)


@pytest.mark.parametrize("name", ["==", "!=", "<", "<=", ">", ">="])
def test_comparisons_have_no_gradient(name: str) -> None:
    compare = {"==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b,
               "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b}[name]  # fmt: skip
    a, b = np.array([[1, 2, 3]], np.float32), np.array([[2], [3]], np.float32)
    for y in (compare(Tensor(a, requires_grad=True), Tensor(b)), compare(Tensor(a, requires_grad=True), b)):
        assert not y.requires_grad and y.dtype == np.float32
        assert np.array_equal(y.data, compare(a, b))
    assert np.array_equal(compare(2, Tensor(a)).data, compare(2, a))


def test_a_tensor_equals_nothing_else() -> None:
    x = Tensor([1.0])
    assert (x == None) is False and (x != "x") is True and x in {x: 1}  # noqa: E711 (it is what is tested)
    assert [None, x].index(x) == 1


# ---- storage


@STORAGE
def test_numbers_keep_the_storage(dtype: DTypeLike) -> None:
    x = Tensor(reference.random(3, dtype=dtype), requires_grad=True)
    y = ((2 * x + 1) / 3 - 0.5) ** 2
    y.sum().backward()
    assert y.dtype == dtype and x.grad.dtype == dtype


def test_float32_beside_bfloat16_gives_float32() -> None:
    x = Tensor(reference.random(3, 4, dtype=bfloat16), requires_grad=True)
    w = nn.Parameter(reference.random(4))
    y = x * w
    assert y.dtype == np.float32
    y.sum().backward()
    assert x.grad.dtype == bfloat16 and w.grad.dtype == np.float32
    reference.assert_close(w.grad, x.data.astype(np.float64).sum(0), reference.rounding_error(10, 3))
    assert (x @ Tensor(reference.random(4, 2))).dtype == np.float32


def test_sums_of_bfloat16_are_added_in_float32() -> None:
    x = np.full(4096, 1.0078125, bfloat16)
    assert Tensor(x).sum().item() == float(np.float32(x.astype(np.float64).sum()).astype(bfloat16))


# ---- graphs


def test_a_tensor_used_twice_gets_the_sum_of_gradients() -> None:
    x = Tensor(np.array([2.0], np.float32), requires_grad=True)
    (x * x + x + x).backward()
    assert x.grad == 2 * 2 + 2


def test_gradients_that_are_seen_share_no_memory() -> None:
    a, b = (Tensor(reference.random(2), requires_grad=True) for _ in range(2))
    (a + b).backward(np.ones(2, np.float32))
    assert not np.shares_memory(a.grad, b.grad)


def test_no_array_is_kept_that_no_gradient_needs() -> None:
    x, w = Tensor(reference.random(2, 3)), Tensor(reference.random(3), requires_grad=True)
    product = x * w
    assert set(product.function.values) == {"a"}
    assert set((product + 1).function.values) == set()
    with no_grad():
        assert (x * w).function is None


def test_on_a_gpu_all_runs_in_kernels(stand_in: StandIn) -> None:
    x, w = Tensor(reference.random(2, 3), True, "cuda"), Tensor(reference.random(3), True, "cuda")
    stand_in.log.clear()
    y = ((x * w + 2).exp() @ w.reshape(3, 1) - x.mean(1, keepdims=True)).max() + ops.concat([x, x[:, ::-1]]).T.sum()
    y.backward()
    assert set(stand_in.log) <= {"broadcast", "reduce_sum", "reduce_max", "reduce_max_backward", "gemm", "allocation",
                                 "memset", "copy from the host", "wait"}  # fmt: skip
    assert stand_in.log["broadcast"] > 10
    here = [Tensor(t.numpy(), True) for t in (x, w)]
    a, b = here
    ((a * b + 2).exp() @ b.reshape(3, 1) - a.mean(1, keepdims=True)).max().item()
    assert x.grad.get().shape == (2, 3) and np.isfinite(w.grad.get()).all()


def test_a_square_is_one_launch() -> None:
    x = Tensor(reference.random(2, 3))
    with launches() as called:
        x * x
    assert called == ["broadcast"]


# ---- looks


def test_a_tensor_shows_its_values() -> None:
    assert repr(Tensor([[1.5, 2.0]])) == (
        "Tensor([[1.5, 2. ]], shape=(1, 2), dtype=float32, device='cpu', requires_grad=False)"
    )
    shown = repr(nn.Parameter(np.zeros((50, 40), np.float32)))
    assert shown.startswith("Parameter([[0., 0., 0., ..., ") and "shape=(50, 40)" in shown and len(shown) < 700


def test_length_iteration_and_truth() -> None:
    x = Tensor(reference.random(3, 2))
    assert len(x) == 3 and [row.shape for row in x] == [(2,)] * 3
    assert bool(Tensor([0.0])) is False and bool(Tensor(2.5)) is True and float(Tensor([1.5])) == 1.5
    a, b = Tensor([[1.0], [2.0]])
    assert (a.item(), b.item()) == (1, 2)


# ---- refusals


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda x: x + Tensor(reference.random(4)), ValueError, r"add: expected shapes .* got \(2, 3\) and \(4,\)"),
        (lambda x: x + "1", TypeError, r"add: expected tensors, arrays and numbers, got str: Tensor\(...\) makes"),
        (lambda x: x * None, TypeError, "multiply: expected tensors, arrays and numbers, got NoneType"),
        (lambda x: [1, 2, 3] * x, TypeError, "multiply: expected tensors, arrays and numbers, got list"),
        (lambda x: x - np.arange(3), TypeError, "subtract: expected float32 or bfloat16, got int64: Tensor"),
        (lambda x: x - np.array([None] * 3), TypeError, "subtract: expected float32 or bfloat16, got object"),
        (lambda x: x + Tensor(np.arange(3)), TypeError, "add: expected float32 or bfloat16, got int64"),
        (lambda x: x + x.to("cpu:1"), ValueError, "expected inputs on one device, got cpu and"),
        (lambda x: x @ x, ValueError, r"matmul: expected \(..., M, K\) and \(..., K, N\), got \(2, 3\) and \(2, 3\)$"),
        (lambda x: x @ x[0], ValueError, r"matmul: .* got \(2, 3\) and \(3,\): reshape vectors to"),
        (lambda x: x @ 2, TypeError, "matmul: expected a Tensor, got int"),
        (lambda x: x.sum(2), ValueError, r"sum: axes: expected an integer in \[-2, 1\], got 2"),
        (lambda x: x.sum((0, -2)), ValueError, "sum: axes: expected each axis once"),
        (lambda x: x[:0].max(0), ValueError, "max.* expected values"),
        (lambda x: x[:0].mean(), ValueError, "mean.* expected values"),
        (lambda x: x.clip(1, 0), ValueError, "clip: expected low <= high, got 1 and 0"),
        (lambda x: x.reshape(4, 2), ValueError, r"reshape: expected a shape of 6 values as \(2, 3\) has, got \(4, 2\)"),
        (lambda x: x.reshape(-1, -1), ValueError, "reshape: expected a shape of 6 values"),
        (lambda x: x.reshape(-1, 4), ValueError, "reshape: expected a shape of 6 values"),
        (lambda x: x.transpose(0, 0), ValueError, r"transpose: expected an order of 2 axes, got \(0, 0\)"),
        (lambda x: x[2], IndexError, r"index: index 2 is out of bounds .* got 2 for shape \(2, 3\)"),
        (lambda x: x[0, 0, 0], IndexError, r"index: too many indices .* for shape \(2, 3\)"),
        (lambda x: x[x > 0], TypeError, r"index: expected integers, slices, ... and None, got Tensor: ops.where\("),
        (lambda x: x[[0, 1]], TypeError, "index: expected integers, slices, ... and None, got list"),
        (lambda x: x[True], TypeError, "index: expected integers, slices, ... and None, got bool"),
        (lambda x: x["conv1"], TypeError, "index: expected integers, slices, ... and None, got str"),
        (lambda x: x.__setitem__(0, 1), TypeError, r"Tensor: x\[...\] = y would hide .* ops.where and ops.concat"),
        (lambda x: len(x.sum()), TypeError, r"Tensor: expected at least one axis for len, got shape \(\)"),
        (lambda x: list(x.sum()), TypeError, "Tensor: expected at least one axis"),
        (lambda x: bool(x > 0), ValueError, r"Tensor: expected one value to be true or false, got shape \(2, 3\)"),
        (lambda x: ops.concat([]), ValueError, "concat: expected tensors and one of their axes, got no tensors"),
        (lambda x: ops.concat([x, x[:1]]), ValueError, r"concat: expected shapes that are equal but .* \(1, 3\)"),
        (lambda x: ops.concat([x], 2), ValueError, "concat: expected tensors and one of their axes, got axis 2 of"),
        (lambda x: ops.where(x, 1, None), TypeError, "where: expected tensors, arrays and numbers, got NoneType"),
        (lambda x: ops.broadcast_to(x, (3,)), ValueError, r"broadcast_to: expected a shape that \(2, 3\)"),
        (lambda x: ops.exp([1.0]), TypeError, "exp: expected tensors, arrays and numbers, got list"),
    ],
)  # fmt: skip
def test_misuse_is_named(use: Callable[[Tensor], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        use(Tensor(reference.random(2, 3), requires_grad=True))


def test_in_place_forms_are_right_or_refused() -> None:
    w = nn.Parameter(np.ones(2, np.float32))
    running = nn.Buffer(np.ones(2, np.float32))
    leaf = Tensor(np.ones(2, np.float32), requires_grad=True)
    for t in (w, running, leaf):
        with pytest.raises(TypeError, match=r"\+= and the like would leave it as it is .* optimizers update"):
            t += 1
    y = before = 2 * w
    y += 1
    y *= y
    assert y.data.tolist() == [9, 9] and before.data.tolist() == [2, 2]
    y.sum().backward()
    assert w.grad.tolist() == [12, 12]


def test_scalars_and_empty_arrays() -> None:
    x = Tensor(np.float32(3), requires_grad=True)
    y = x * x + 1
    assert isinstance(y.data, np.ndarray) and y.shape == ()
    y.backward()
    assert x.grad == 6 and isinstance(x.grad, np.ndarray)
    empty = Tensor(np.ones((2, 0), np.float32), requires_grad=True)
    (empty * 2).sum().backward()
    assert empty.grad.shape == (2, 0) and math.prod(empty.sum(0).shape) == 0
