"""kernels.cast: between float32 and bfloat16."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import Runner
from hypothesis import given, strategies as st
from ml_dtypes import bfloat16

from alexnet_cuda import kernels

SHAPES = st.one_of(
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    st.sampled_from([(255,), (257,), (3, 4096), (4097,)]),
)


def rounded(bits: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 nearest to the float32 of these bits, of two the even one, by integers alone."""
    low, high = bits & 0xFFFF, bits >> 16
    return (high + ((low > 0x8000) | ((low == 0x8000) & (high & 1 == 1)))).astype(np.uint16)


@given(shape=SHAPES)
def test_to_the_nearest(run: Runner, shape: tuple[int, ...]) -> None:
    x = reference.random(*shape)
    y = run(kernels.cast, x, "bfloat16")
    assert y.dtype == bfloat16
    assert y.shape == shape
    np.testing.assert_array_equal(y.view(np.uint16), rounded(x.view(np.uint32)))


def test_every_bfloat16_and_what_lies_between(run: Runner) -> None:
    """All numbers of bfloat16, ties and what is next to ties; the largest round to infinity."""
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    bits = (np.arange(1 << 16, dtype=np.uint32)[:, None] << 16 | low).ravel()
    x = bits.view(np.float32)
    bits = bits[~np.isnan(x)]
    y = run(kernels.cast, bits.view(np.float32), np.dtype(bfloat16))
    np.testing.assert_array_equal(y.view(np.uint16), rounded(bits))


@pytest.mark.parametrize("left_out", [0, 2], ids=["single values", "vectors"])
def test_to_float32_changes_nothing(run: Runner, left_out: int) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    numbers = bits[~np.isnan(bits.view(bfloat16).astype(np.float32))]
    numbers = numbers[: len(numbers) - left_out].copy()
    assert (len(numbers) % 4 == 0) == bool(left_out)
    y = run(kernels.cast, numbers.view(bfloat16), np.float32)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y.view(np.uint32), numbers.astype(np.uint32) << 16)


@pytest.mark.parametrize(("source", "target"), [(np.float32, bfloat16), (bfloat16, np.float32)])
def test_nan_stays(run: Runner, source: type, target: type) -> None:
    assert np.isnan(run(kernels.cast, np.full(5, np.nan, source), target)).all()


def test_what_is_stored_so_already() -> None:
    x, out = np.ones(3, np.float32), np.zeros(3, np.float32)
    assert kernels.cast(x, np.float32) is x
    assert kernels.cast(x, np.float32, out=out) is out
    np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("dtype", ["float64", "half", np.int32, "bf17", None, 3])
def test_other_dtypes(dtype: object) -> None:
    with pytest.raises(TypeError, match=r"cast: dtype: expected float32 or bfloat16, got "):
        kernels.cast(np.ones(3, np.float32), dtype)
