"""kernels.lrn_max_pool2d and lrn_max_pool2d_backward: the bits of the two operations that they join."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from conftest import STORAGE, Runner, launches
from hypothesis import given, strategies as st
from numpy.typing import DTypeLike

from alexnet_cuda import Tensor, backend, kernels, models, nn
from alexnet_cuda.kernels import normalisation

Options = dict[str, Any]
LRN = {"k": 2.0, "alpha": 1e-4, "beta": 0.75}
POOL = {"size": 3, "stride": 2, "padding": 0, "ceil": False}


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], Options, Options]:
    """Shape of x, arguments of lrn, arguments of max_pool2d; mostly what one pass computes."""
    C, groups = draw(
        st.sampled_from([(1, 1), (3, 1), (4, 1), (5, 1), (6, 2), (8, 2), (9, 3), (16, 4), (96, 2), (130, 1), (264, 2)])
    )
    before, after = (draw(st.integers(0, 2)) for _ in range(2))
    smallest = max(1, 3 - before - after)
    H, W = (
        draw(st.sampled_from([n for n in (1, 2, 3, 4, 5, 7, 9, 16, 17, 20, 21, 35) if n >= smallest])) for _ in "HW"
    )
    padding = ((before, after), (before, after))
    pool = {"size": 3, "stride": 2, "padding": padding, "ceil": draw(st.booleans())}
    lrn = {**LRN, "lrn_size": draw(st.sampled_from([5, 5, 9])), "groups": groups}
    lrn["alpha"] = draw(st.sampled_from([1e-4, 0.3]))
    other = draw(st.sampled_from([None] * 6 + [("lrn_size", 3), ("beta", 0.5), ("stride", 1), ("stride", 3)]))
    if other and other[0] == "stride":
        pool["stride"] = other[1]
    elif other:
        lrn[other[0]] = other[1]
    return (draw(st.integers(1, 3)), H, W, C), lrn, pool


def of_lrn(options: Options) -> Options:
    return {"size" if name == "lrn_size" else name: value for name, value in options.items()}


@STORAGE
@given(case=cases(), ties=st.booleans())
def test_the_bits_of_the_two(
    run: Runner, dtype: DTypeLike, case: tuple[tuple[int, int, int, int], Options, Options], ties: bool
) -> None:
    shape, lrn, pool = case
    check(run, dtype, shape, lrn, pool, ties)


@STORAGE
@pytest.mark.parametrize(("size", "C", "groups"), [(55, 96, 2), (55, 96, 1), (27, 256, 2), (27, 256, 1)])
def test_sizes_of_the_paper(run: Runner, dtype: DTypeLike, size: int, C: int, groups: int) -> None:
    check(run, dtype, (1, size, size, C), {**LRN, "lrn_size": 5, "groups": groups}, POOL, ties=False)


@STORAGE
@pytest.mark.parametrize("size", [5, 9])
@pytest.mark.parametrize("C", [13, 16], ids=["single values", "vectors"])
def test_every_instance(run: Runner, dtype: DTypeLike, C: int, size: int) -> None:
    check(run, dtype, (1, 9, 8, C), {**LRN, "lrn_size": size, "groups": 1}, POOL, ties=False)


def check(run: Runner, dtype: DTypeLike, shape: tuple[int, ...], lrn: Options, pool: Options, ties: bool) -> None:
    """Ties of the normalised image come from equal pixels, here whole images of few different ones."""
    x = 10 * reference.random(*shape, seed=1)
    if ties:
        x[...] = np.round(x[..., :1] / 8)
    x = x.astype(dtype)
    normalised = run(kernels.lrn, x, **of_lrn(lrn))
    expected, expected_which = run(kernels.max_pool2d, normalised, **pool)
    y, which = run(kernels.lrn_max_pool2d, x, **lrn, **pool)
    assert y.dtype == dtype
    np.testing.assert_array_equal(bits(y), bits(expected))
    np.testing.assert_array_equal(which, expected_which)

    dy = reference.random(*y.shape, seed=2).astype(dtype)
    passed_on = run(kernels.max_pool2d_backward, dy, which, x.shape, **pool)
    expected = run(kernels.lrn_backward, passed_on, x, **of_lrn(lrn))
    dx = run(kernels.lrn_max_pool2d_backward, dy, which, x, **lrn, **pool, one_pass=True)
    assert dx.dtype == dtype
    np.testing.assert_array_equal(bits(dx), bits(expected))
    masked = run(kernels.lrn_max_pool2d_backward, dy, which, x, **lrn, **pool, mask=True, one_pass=True)
    np.testing.assert_array_equal(bits(masked), bits(run(kernels.relu_backward, dx, x)))


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint8)


@given(seed=st.integers(0, 99), groups=st.sampled_from([1, 2]), ceil=st.booleans())
def test_against_the_formulas(run: Runner, seed: int, groups: int, ceil: bool) -> None:
    x = reference.random(2, 8, 7, 12, seed=seed)
    options = {"size": 5, "k": 2.0, "alpha": 0.1, "beta": 0.75, "groups": groups}
    windows = ((3, 3), (2, 2), ((0, 0), (0, 0)))
    x64 = x.astype(np.float64)
    expected, expected_which = reference.max_pool2d(reference.lrn(x64, **options), *windows, ceil)
    lrn, pool = {**options, "lrn_size": 5}, {**POOL, "ceil": ceil}
    del lrn["size"]
    y, which = run(kernels.lrn_max_pool2d, x, **lrn, **pool)
    np.testing.assert_array_equal(which, expected_which)
    reference.assert_close(y, expected, reference.rounding_error(abs(expected), 0.75 * 9 + 9))

    dy = reference.random(*y.shape, seed=seed + 1)
    passed_on = reference.max_pool2d_backward(dy.astype(np.float64), which, x.shape, *windows)
    magnitude = reference.max_pool2d_backward(abs(dy.astype(np.float64)), which, x.shape, *windows)
    magnitude = reference.lrn_backward(magnitude, abs(x64), **options, sign=1)
    error = reference.rounding_error(magnitude, 3 + 1.75 * 9 + 8 + 12)  # at most four windows' sum, and that of lrn
    dx = run(kernels.lrn_max_pool2d_backward, dy, which, x, **lrn, **pool, one_pass=True)
    reference.assert_close(dx, reference.lrn_backward(passed_on, x64, **options), error)


def test_nan_and_infinity_are_as_in_the_two(run: Runner) -> None:
    x = reference.random(1, 9, 9, 8)
    x[0, 4, 4, 2], x[0, 0, 8, 7], x[0, 8, 0, 0] = np.nan, np.inf, -np.inf
    expected = run(kernels.max_pool2d, run(kernels.lrn, x), 3, 2)
    for actual, right in zip(run(kernels.lrn_max_pool2d, x), expected, strict=True):
        np.testing.assert_array_equal(actual, right)
    assert np.isnan(expected[0]).any()


def test_arrays_that_are_not_aligned(run: Runner) -> None:
    memory = run.put(reference.random(2 * 5 * 5 * 8 + 1))
    x = memory[1:].reshape(2, 5, 5, 8)
    expected = run(kernels.lrn_max_pool2d, run.get(x).copy())
    for actual, right in zip(run(kernels.lrn_max_pool2d, x), expected, strict=True):
        np.testing.assert_array_equal(actual, right)


def test_native_refuses_what_one_pass_cannot_compute() -> None:
    native = backend.native(backend.Device("cpu"))
    window = {"stride_h": 2, "stride_w": 2, "pad_top": 0, "pad_left": 0, "OH": 2, "OW": 2}
    pool = native.Pool2d(N=1, H=5, W=5, C=8, KH=3, KW=3, **window)
    smaller = native.Pool2d(N=1, H=5, W=5, C=8, KH=2, KW=3, **window)
    lrn, fewer = (native.Lrn(rows=rows, C=8, groups=1, size=5, k=1, alpha=1, beta=0.75) for rows in (25, 24))
    x, y, which = np.ones((1, 5, 5, 8), np.float32), np.ones((1, 2, 2, 8), np.float32), np.zeros((1, 2, 2, 8), np.uint8)
    with pytest.raises(
        ValueError, match=r"^lrn_max_pool2d_forward: pool: these shapes cannot be computed in one pass$"
    ):
        native.lrn_max_pool2d_forward(y, which, x, lrn, smaller)
    message = "^lrn_max_pool2d_backward: lrn: expected 25 rows of 8 channels, got 24 of 8$"
    with pytest.raises(ValueError, match=message):
        native.lrn_max_pool2d_backward(x.copy(), y, which, x, fewer, pool, False)


# ---------------------------------------------------------------------------------------------- in a network


def test_a_network_joins_the_two_and_shows_both() -> None:
    """Forward and backward give the bits of layer by layer, and ``steps`` has every layer."""
    norm, pool = nn.LocalResponseNorm(groups=2), nn.MaxPool2d(3, 2)
    network = nn.Sequential(conv=nn.Conv2d(3, 8, 3, activation="relu"), norm=norm, pool=pool, flat=nn.Flatten())
    x = reference.random(2, 9, 9, 3)
    names, outputs = zip(*((name, y) for name, _, y in network.steps(Tensor(x))), strict=True)
    assert names == ("conv", "norm", "pool", "flat")
    y = network(Tensor(x))
    np.testing.assert_array_equal(y.data, outputs[-1].data)
    gradients = []
    for result in (y, outputs[-1]):
        network["conv"].w.grad = network["conv"].b.grad = None
        result.backward(reference.random(*y.shape, seed=5))
        gradients.append((network["conv"].w.grad, network["conv"].b.grad))
    for joined, apart in zip(*gradients, strict=True):
        np.testing.assert_array_equal(joined, apart)


def test_one_pass_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls it, and another way for whoever asks."""
    assert [normalisation.one_pass_pays(backend.Device(kind)) for kind in ("cpu", "cuda")] == [False, True]
    one, two = ["lrn_max_pool2d_backward"], ["max_pool2d_backward", "lrn_backward"]
    x = reference.random(1, 5, 5, 8)
    y, which = kernels.lrn_max_pool2d(x)
    for pays in (False, True):
        monkeypatch.setattr(normalisation, "one_pass_pays", lambda device, pays=pays: pays)
        for asked, expected in ((None, one if pays else two), (True, one), (False, two)):
            with launches() as launched:
                kernels.lrn_max_pool2d_backward(y, which, x, one_pass=asked)
            assert [name for name in launched if name in {*one, *two}] == expected
        with launches() as launched:
            kernels.lrn_max_pool2d_backward(y, which, x, beta=0.5, one_pass=True)  # there is none
        assert [name for name in launched if name in {*one, *two}] == two


def test_the_papers_layers_are_joined() -> None:
    network = models.create("alexnet-mini", device="cpu").eval()
    with launches() as launched:
        network(Tensor(reference.random(1, 32, 32, 3)))
    assert launched.count("lrn_max_pool2d_forward") == 2
    assert "lrn_forward" not in launched
