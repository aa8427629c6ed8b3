"""Initialisers: moments, bounds, the same numbers for the same generator."""

import math

import numpy as np
import pytest

from alexnet_cuda import init

SHAPE = (64, 5, 5, 32)  # fan_in 800, fan_out 1600
N = math.prod(SHAPE)
HE = math.sqrt(2 / 800)
GLOROT = math.sqrt(6 / 2400)

CASES = {
    "normal": (init.normal(0.01), 0.01, math.inf),
    "truncated_normal": (init.truncated_normal(0.01), 0.01 * init.TRUNCATED_STD, 0.02),
    "uniform": (init.uniform(0.3), 0.3 / math.sqrt(3), 0.3),
    "uniform by fan_in": (init.uniform(), 1 / math.sqrt(800 * 3), 1 / math.sqrt(800)),
    "glorot_uniform": (init.glorot_uniform(), GLOROT / math.sqrt(3), GLOROT),
    "he_normal": (init.he_normal(), HE, math.inf),
    "he_normal truncated": (init.he_normal(truncated=True), HE, 2 * HE / init.TRUNCATED_STD),
}


@pytest.mark.parametrize("name", CASES)
def test_mean_deviation_and_bounds(name):
    initialise, std, limit = CASES[name]
    x = initialise(SHAPE, np.random.default_rng(0))
    assert x.dtype == np.float32 and x.shape == SHAPE
    assert abs(x.mean()) < 5 * std / math.sqrt(N)  # five standard errors
    assert x.std() == pytest.approx(std, rel=5 / math.sqrt(N))
    assert np.abs(x).max() <= limit * (1 + 1e-6)
    np.testing.assert_array_equal(x, initialise(SHAPE, np.random.default_rng(0)))


def test_truncated_std_is_the_standard_deviation_of_the_cut_normal():
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    inside = math.erf(2 / math.sqrt(2))
    assert pytest.approx(math.sqrt(1 - 4 * density / inside), rel=1e-12) == init.TRUNCATED_STD


def test_fans_of_convolutions_and_of_linear_layers():
    assert init.fan_in(SHAPE) == 800 and init.fan_out(SHAPE) == 1600
    assert init.fan_in((10, 20)) == 20 and init.fan_out((10, 20)) == 10


def test_constant():
    np.testing.assert_array_equal(init.constant(0.1)((3,), np.random.default_rng(0)), np.float32([0.1] * 3))
