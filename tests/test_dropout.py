"""kernels.dropout and dropout_backward, and the random numbers beneath them."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from conftest import STORAGE, Runner
from hypothesis import given, strategies as st
from numpy.typing import DTypeLike

from alexnet_cuda import kernels

SHAPES = st.one_of(
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    st.sampled_from([(1,), (3,), (4,), (5,), (255,), (1023,), (1025,), (2, 4096)]),
)


@STORAGE
@given(
    shape=SHAPES,
    p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1 - 2**-24]),
    form=st.sampled_from(["paper", "inverted"]),
    training=st.booleans(),
    seed=st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**64 - 1]),
    step=st.sampled_from([0, 1, 2**32 - 1]),
    purpose=st.sampled_from([0, 1, 2**32 - 1]),
)
def test_any_arguments(
    run: Runner,
    dtype: DTypeLike,
    shape: tuple[int, ...],
    p: float,
    form: str,
    training: bool,
    seed: int,
    step: int,
    purpose: int,
) -> None:
    x = reference.random(*shape, dtype=dtype)
    keep = reference.dropout_mask(x.size, p, seed, step, purpose).reshape(shape)
    factors = {"paper": (keep, 1 - p), "inverted": (keep / (1 - p), 1.0)}
    factor = factors[form][0 if training else 1]
    expected = x.astype(np.float64) * factor
    # the scale as float32, and the product; without a scale the kept ones stay as they are
    exact = form == ("paper" if training else "inverted")
    error = reference.rounding_error(abs(expected), 0 if exact else 2)
    for function in (kernels.dropout, kernels.dropout_backward):
        actual = run(function, x, p, form, training=training, seed=seed, step=step, purpose=purpose)
        reference.assert_close(actual, expected, error, dtype)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_with_probability_p(run: Runner, p: float) -> None:
    n = 200_000
    dropped = (run(kernels.dropout, np.ones(n, np.float32), p) == 0).mean()
    # five standard deviations of a binomial share
    assert abs(dropped - p) < 5 * np.sqrt(p * (1 - p) / n)


def test_masks_are_independent(run: Runner) -> None:
    """Of seed, purpose and step each makes another mask, which agrees with the first in half of the places."""
    n = 100_000
    arguments = [{}, {"seed": 1}, {"purpose": 1}, {"step": 1}, {"seed": 2**32}, {"step": 2}, {"step": 1, "purpose": 1}]
    masks = [run(kernels.dropout, np.ones(n, np.float32), **argument) for argument in arguments]
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert abs((first == second).mean() - 0.5) < 5 * np.sqrt(0.25 / n)


@STORAGE
def test_a_mask_is_a_function_of_the_index(run: Runner, dtype: DTypeLike) -> None:
    """Neither shape nor length nor storage matters."""
    long = run(kernels.dropout, np.ones(5000, np.float32))
    np.testing.assert_array_equal(run(kernels.dropout, np.ones((3, 7, 13), dtype)).ravel(), long[: 3 * 7 * 13])


@given(first=st.one_of(st.integers(0, 9), st.integers(0, 4000)), n=st.integers(1, 40))
def test_a_part_gets_its_part_of_the_mask(run: Runner, first: int, n: int) -> None:
    whole = run(kernels.dropout, np.ones(first + n, np.float32), seed=3)
    for function in (kernels.dropout, kernels.dropout_backward):
        np.testing.assert_array_equal(run(function, np.ones(n, np.float32), seed=3, first=first), whole[first:])


def test_evaluation_keeps_the_mean(run: Runner) -> None:
    """What the next layer sees on average while training is what it sees in evaluation (paper, section 4.2)."""
    x = np.ones(100_000, np.float32)
    for form in ("paper", "inverted"):
        trained, evaluated = (run(kernels.dropout, x, 0.3, form, training=training) for training in (True, False))
        assert trained.mean(dtype=np.float64) == pytest.approx(evaluated.mean(dtype=np.float64), rel=0.02)


def test_infinity_is_dropped_to_zero(run: Runner) -> None:
    y = run(kernels.dropout, np.full(100, np.inf, np.float32))
    assert set(y) == {0, np.inf}


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_oracle(counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]) -> None:
    """The known answers published with Random123 (Salmon et al., 2011)."""
    np.testing.assert_array_equal(reference.philox(np.array(counter, np.uint64), key), words)


def test_seed_and_step_may_lie_on_the_device(run: Runner) -> None:
    x = np.ones((4, 33), np.float32)
    for function in (kernels.dropout, kernels.dropout_backward):
        expected = run(function, x, 0.5, seed=2**40 + 3, step=7, purpose=2)
        state = np.array([2**40 + 3, 7], np.uint64)
        np.testing.assert_array_equal(run(function, x, 0.5, seed=1, step=1, purpose=2, state=state), expected)
