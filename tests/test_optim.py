"""SGD in the paper's form over several steps, rates and decays of single parameters, state."""

import re

import numpy as np
import pytest

from alexnet_cuda import backend, nn, optim


def test_several_steps_follow_the_papers_formula():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((5, 3))
    p = nn.Parameter(w.astype(np.float32), lr_scale=2.0, decay_scale=0.5)
    sgd = optim.SGD([p], lr=0.1, momentum=0.9, decay=0.01)
    w, v = p.numpy().astype(np.float64), np.zeros((5, 3))
    for step in range(5):
        sgd.lr = 0.1 / (1 + step)
        g = rng.standard_normal((5, 3)).astype(np.float32)
        p.grad = g
        sgd.step()
        v = 0.9 * v - 0.01 * 0.5 * (2 * sgd.lr) * w - 2 * sgd.lr * g
        w = w + v
    np.testing.assert_allclose(p.numpy(), w, rtol=1e-5, atol=1e-6)


def test_known_answer():
    p = nn.Parameter(np.float32([1.0]))
    sgd = optim.SGD([p], lr=0.01, momentum=0.9, decay=0.0005)
    sgd.load_state({"momentum/0": np.float32([0.1]), "updates": np.float32(0)})
    p.grad = np.float32([0.5])
    sgd.step()
    assert sgd.state()["momentum/0"][0] == pytest.approx(0.084995, abs=1e-8)
    assert p.numpy()[0] == pytest.approx(1.084995, abs=1e-7)


def test_parameters_without_gradient_stay_and_zero_grad_forgets():
    p, q = nn.Parameter(np.ones(2, np.float32)), nn.Parameter(np.ones(3, np.float32))
    sgd = optim.SGD([p, q])
    p.grad = np.ones(2, np.float32)
    sgd.step()
    assert (p.numpy() < 1).all() and (q.numpy() == 1).all()
    sgd.zero_grad()
    assert p.grad is None


def test_one_launch_a_device(monkeypatch):
    """Two logical devices have streams of their own."""
    native, launches = backend.native(backend.Device("cpu")), []

    class Counting:
        def multi_sgd(self, w, *rest):
            launches.append(len(w))
            native.multi_sgd(w, *rest)

    monkeypatch.setattr(backend, "native", lambda where: Counting())
    places = backend.devices("cpu:0,cpu:1")
    parameters = [nn.Parameter(np.ones(4, np.float32), device=places[i % 2]) for i in range(5)]
    sgd = optim.SGD(parameters, lr=0.1)
    for p in parameters:
        p.grad = np.ones(4, np.float32)
    sgd.step()
    assert launches == [3, 2]
    for p in parameters[1:]:
        np.testing.assert_array_equal(p.numpy(), parameters[0].numpy())


def test_state_round_trip_and_refusal():
    a = optim.SGD([nn.Parameter(np.ones(2, np.float32))])
    a.parameters[0].grad = np.ones(2, np.float32)
    a.step()
    b = optim.SGD([nn.Parameter(np.ones(2, np.float32))])
    b.load_state(a.state())
    np.testing.assert_array_equal(b.state()["momentum/0"], a.state()["momentum/0"])
    with pytest.raises(ValueError, match=r"SGD: state of momentum/0: expected shape \(2,\), got \(3,\)"):
        b.load_state({"momentum/0": np.zeros(3, np.float32), "updates": np.float32(1)})


def test_adam_goes_on_from_its_state_as_if_nothing_had_happened():
    def steps(adam: optim.Adam, count: int) -> None:
        for _ in range(count):
            adam.parameters[0].grad = adam.parameters[0].data * 3 + 1
            adam.step()

    whole, half, rest = (optim.Adam([nn.Parameter(np.ones(5, np.float32))], lr=0.1) for _ in range(3))
    steps(whole, 6)
    steps(half, 3)
    rest.load_state(half.state())
    rest.parameters[0].data[:] = half.parameters[0].data
    steps(rest, 3)
    np.testing.assert_array_equal(rest.parameters[0].data, whole.parameters[0].data)


def test_averages_weigh_every_update_by_its_age():
    p, frozen = nn.Parameter(np.ones(3, np.float32)), nn.Parameter(np.full(2, 0.1, np.float32), lr_scale=0)
    sgd, seen = optim.SGD([p, frozen], lr=0.1, ema=0.75), []
    with sgd.averaged():
        np.testing.assert_array_equal(p.data, 1)  # there is no average yet
    for step in range(6):
        p.grad = np.float32([1, step, -step])
        sgd.step()
        seen.append(p.data.astype(np.float64))
        weights, trained = 0.75 ** np.arange(len(seen))[::-1], p.data
        with sgd.averaged():
            np.testing.assert_allclose(p.data, weights @ seen / weights.sum(), rtol=1e-5)
            np.testing.assert_array_equal(frozen.data, np.float32(0.1))
            np.testing.assert_array_equal(sgd.state()["swapped/0"], trained)
        assert p.data is trained


def test_averages_are_kept_and_restored():
    def steps(optimizer, count):
        for _ in range(count):
            optimizer.parameters[0].grad = optimizer.parameters[0].data * 3 + 1
            optimizer.step()

    whole, half, rest = (optim.Adam([nn.Parameter(np.ones(5, np.float32))], decoupled=True, ema=0.9) for _ in range(3))
    steps(whole, 6)
    steps(half, 3)
    with half.averaged():
        state, rest.parameters[0].data = half.state(), half.parameters[0].data.copy()
    rest.load_state(state)
    rest.swap()
    steps(rest, 3)
    np.testing.assert_array_equal(rest.parameters[0].data, whole.parameters[0].data)
    np.testing.assert_array_equal(rest.state()["swapped/0"], whole.state()["swapped/0"])


def test_a_frozen_parameter_stays():
    p = nn.Parameter(np.ones(2, np.float32), lr_scale=0)
    sgd = optim.SGD([p])
    p.grad = np.ones(2, np.float32)
    sgd.step()
    assert (p.numpy() == 1).all()


NAN, INF = float("nan"), float("inf")
BAD = {
    optim.SGD: {
        "lr": (NAN, INF, -1.0, 1e39),
        "momentum": (NAN, -0.1, 1.0),
        "decay": (NAN, INF, -1e-9),
        "ema": (NAN, -0.1, 1.0),
    },
    optim.Adam: {
        "lr": (NAN, INF, -1.0, 1e39),
        "beta1": (NAN, -0.1, 1.0),
        "beta2": (NAN, -0.1, 1.0),
        "epsilon": (NAN, INF, 0.0, -1e-8),
        "decay": (NAN, INF, -1e-9),
    },
}


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [(kind, name, value) for kind, options in BAD.items() for name, values in options.items() for value in values],
)
def test_bad_hyper_parameters_are_refused_where_they_are_given(kind, name, value):
    told = rf"{kind.__name__}: {name}: expected a number in \[.*, got {re.escape(repr(value))}$"
    with pytest.raises(ValueError, match=told):
        kind([nn.Parameter(np.ones(2, np.float32))], **{name: value})
    with pytest.raises(TypeError, match=rf"{kind.__name__}: {name}: expected a number, got 'x'"):
        kind([nn.Parameter(np.ones(2, np.float32))], **{name: "x"})


@pytest.mark.parametrize(("name", "value"), [("lr", NAN), ("lr", -1.0), ("momentum", 1.0), ("decay", INF)])
def test_bad_hyper_parameters_of_later_are_refused(name, value):
    p = nn.Parameter(np.ones(2, np.float32))
    sgd = optim.SGD([p])
    setattr(sgd, name, value)
    p.grad = np.ones(2, np.float32)
    with pytest.raises(ValueError, match="expected a number in"):
        sgd.step()
    np.testing.assert_array_equal(p.numpy(), 1)


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
def test_what_changes_from_step_to_step_is_read_from_the_device(kind):
    """So that a recorded ``apply`` can be done again: its arrays stay where they are."""

    def trained(lrs: list[float], scales: list[float], again: bool) -> np.ndarray:
        p = nn.Parameter(np.ones(3, np.float32))
        o = kind([p], momentum=0.5) if kind is optim.SGD else kind([p])
        addresses = {numbers.array.ctypes.data for numbers in o.numbers.values()}
        for lr, p.lr_scale in zip(lrs, scales, strict=True):
            o.lr, p.grad = lr, np.float32([1, 2, 3])
            if again:
                o.advance()
                o.apply()
            else:
                o.step()
        assert addresses == {numbers.array.ctypes.data for numbers in o.numbers.values()}
        assert o.state()["updates"] == len(lrs)
        return p.data

    np.testing.assert_array_equal(trained([0.1, 0.2], [1, 3], True), trained([0.1, 0.2], [1, 3], False))
    assert (trained([0.1, 0.2], [1, 3], True) != trained([0.1, 0.2], [1, 2], True)).all()


def test_constants_tell_what_a_recorded_update_depends_on():
    p = nn.Parameter(np.ones(3, np.float32))
    for o, name in ((optim.SGD([p], decay=0.1, nesterov=True), "momentum"), (optim.Adam([p], decay=0.1), "beta1")):
        before = o.constants
        o.lr, p.lr_scale = 0.5, 0.25
        assert o.constants == before
        for owner, key in ((p, "decay_scale"), (p, "lr_scale"), (o, "decay"), (o, name)):
            kept = getattr(owner, key)
            setattr(owner, key, 0)
            assert o.constants != before
            setattr(owner, key, kept)
    assert optim.SGD([p]).constants != optim.SGD([p], nesterov=True).constants
    assert optim.Adam([p]).constants != optim.Adam([p], decoupled=True).constants
    p.momentum_scale = 0.5
    assert optim.SGD([p]).constants != optim.SGD([nn.Parameter(np.ones(3, np.float32))]).constants
