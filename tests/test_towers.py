"""Two towers on two logical devices: the same bits as on one, what crosses between them, checkpoints, refusals."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from alexnet_cuda import (
    Tensor,
    backend,
    checkpoint,
    command_line,
    evaluate,
    kernels,
    models,
    nn,
    no_grad,
    ops,
    parallel,
    recipe,
    summary,
    trace,
    train,
)
from alexnet_cuda.data import ArrayDataset, Data
from alexnet_cuda.init import he_normal
from alexnet_cuda.models import Model
from alexnet_cuda.models.layers import (
    Activation,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    Local2d,
    Lrn,
    MaxPool2d,
    SpatialLrn,
)  # fmt: skip
from alexnet_cuda.optim import SGD
from alexnet_cuda.parallel import Exchange, Towers
from alexnet_cuda.parallel.towers import HalfDropout
from alexnet_cuda.schedule import Schedule
from alexnet_cuda.tensor import Function
from alexnet_cuda.trainer import Diverged, Trainer

FIRST, SECOND = backend.devices("cpu:0,cpu:1")
ONE, TWO = (FIRST, FIRST), (FIRST, SECOND)
UNIT = 2.0**-24  # rounding of float32

MINI = models.get("alexnet-mini")
ZOO = Model(
    "zoo",
    "every layer that a tower may hold",
    (9, 9, 3),
    (
        MaxPool2d("pool0", 2, 1, 0, False),
        Conv2d("conv1", 3, 1, 1, False, 8, activation="tanh", weight=he_normal()),
        BatchNorm("norm1"),
        Activation("act1", "sigmoid"),
        Conv2d("conv2", 3, 1, 1, False, 16, groups=4, activation="tanh", weight=he_normal()),
        Lrn("lrn2", 3, groups=4),
        SpatialLrn("norm2", 3),
        AvgPool2d("pool2", 2, 2, 0, False),
        Dropout("drop2", 0.3, "inverted"),
        Conv2d("conv3", 3, 1, 1, False, 12, activation="tanh", weight=he_normal()),
        Flatten("flatten"),
        Linear("fc4", 20, activation="tanh", weight=he_normal()),
        BatchNorm("norm4"),
        Dropout("drop4"),
        Linear("fc5", 3, activation=None, weight=he_normal()),
    ),
)


@pytest.fixture(autouse=True)
def _nothing_has_crossed() -> None:
    backend.traffic.clear()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def batch_of(model: Model, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, *model.input), np.float32)
    return x, rng.integers(0, model.classes, batch).astype(np.int32)


def steps(
    network: nn.Module, model: Model, batch: int, count: int
) -> tuple[list[float], dict[str, Any], dict[str, Any]]:
    """The losses of so many steps of training, the last gradients and the state, by the whole network's names."""
    optimizer, losses = SGD(network.parameters(), 0.05), []
    devices = list(dict.fromkeys(p.device for p in network.parameters()))
    for step in range(count):
        x, labels = batch_of(model, batch, step)
        optimizer.zero_grad()
        logits = network(*(Tensor(x, device=device) for device in devices))
        loss = ops.softmax_cross_entropy(logits, Tensor(labels, device=devices[0]))
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    gradients = {name: backend.to_host(p.grad) for name, p in network.named_parameters()}
    return losses, network.merged(gradients), network.state()


def assert_same_bits(some: dict[str, Any], others: dict[str, Any]) -> None:
    assert some.keys() == others.keys()
    for name in others:
        assert_array_equal(some[name].view(np.uint32), others[name].view(np.uint32), err_msg=name)


# ---- tensors on several devices


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_a_tensor_goes_to_another_device_and_its_gradient_comes_back() -> None:
    x = Tensor(random(3, 4), requires_grad=True)
    y = x.to("cpu:1")
    assert y.device == SECOND and not np.shares_memory(x.data, y.data)
    assert_array_equal(y.data, x.data)
    assert x.to(FIRST) is x and backend.traffic == {(FIRST, SECOND): 48}
    dy = random(3, 4, seed=1)
    y.backward(dy)
    assert_array_equal(x.grad, dy)
    assert not np.shares_memory(x.grad, dy) and backend.traffic == {(FIRST, SECOND): 48, (SECOND, FIRST): 48}


def test_a_copy_may_be_received_later() -> None:
    x = Tensor(random(3, 4), requires_grad=True)
    receive, stay = x.send("cpu:1"), x.send("cpu")
    assert backend.traffic == {(FIRST, SECOND): 48}
    assert_array_equal(receive().data, x.data)
    assert receive().device == SECOND and stay() is x


def test_labels_go_to_another_device_without_a_gradient() -> None:
    y = Tensor(np.array([1, 2])).to("cpu:1")
    assert y.device == SECOND and y.function is None and y.data.dtype == np.int64


def test_devices_of_a_list() -> None:
    assert backend.devices("cpu:0,cpu:1") == (backend.Device("cpu"), backend.Device("cpu", 1))
    assert backend.devices("cpu,cpu:0") == (backend.Device("cpu"), backend.Device("cpu", slot=1))
    assert backend.devices(FIRST) == (FIRST,) and len(backend.devices(None)) == 1


def crossing(x: Tensor, w: Tensor, device: str) -> Tensor:
    """A graph that uses x and w many times, and crosses between the device and the CPU back and forth."""
    there = x.to(device)
    a = ops.activation(ops.linear(x, w), "tanh")
    b = ops.linear(there, w.to(device))
    c = ops.linear(ops.weighted_sum([b, there]), w.to(device))
    d = ops.weighted_sum([ops.linear(a, w), c.to("cpu")])
    return ops.weighted_sum([ops.weighted_sum([d, a]), ops.weighted_sum([x, b.to("cpu")])])


def test_gradients_through_two_devices_are_those_of_one() -> None:
    def gradients(device: str) -> dict[str, np.ndarray]:
        x, w = Tensor(random(8, 16), requires_grad=True), Tensor(random(16, 16, seed=1), requires_grad=True)
        for seed in (2, 3):  # the second pass adds to the first one's gradients
            crossing(x, w, device).backward(random(8, 16, seed=seed))
        return {"x": x.grad, "w": w.grad}

    expected, once = gradients("cpu"), gradients("cpu:1")
    for name, exact in expected.items():
        np.testing.assert_allclose(once[name], exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())
    for _ in range(20):
        assert_same_bits(gradients("cpu:1"), once)


def test_the_graph_is_freed_on_every_device() -> None:
    x = Tensor(random(8, 16), requires_grad=True)
    shared = ops.activation(x, "tanh")
    y, z = ops.activation(shared.to("cpu:1"), "tanh"), ops.activation(shared, "tanh")
    y.backward(random(8, 16))
    with pytest.raises(RuntimeError, match="freed"):
        z.backward(random(8, 16))


class Fails(Function):
    def forward(self, x: np.ndarray) -> np.ndarray:
        return x.copy()

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
        raise ArithmeticError("on purpose")


@pytest.mark.parametrize("device", ["cpu", "cpu:1"])
def test_an_error_on_one_device_ends_the_pass_on_all(device: str) -> None:
    x = Tensor(random(3, 4), requires_grad=True)
    y = Fails.apply(x.to(device)).to("cpu")
    with pytest.raises(ArithmeticError, match="on purpose"):
        ops.weighted_sum([ops.activation(x.to("cpu:1"), "tanh").to("cpu"), y]).backward(random(3, 4))
    assert threading.active_count() == 1


def test_both_devices_must_be_computing_at_the_same_time() -> None:
    met = threading.Barrier(2, timeout=20)

    class Meet(Fails):
        def backward(self, dy: np.ndarray) -> tuple[np.ndarray]:
            met.wait()
            return (dy,)

    x, z = Tensor(random(3), requires_grad=True), Tensor(random(3), requires_grad=True, device="cpu:1")
    ops.weighted_sum([Meet.apply(x), Meet.apply(z).to("cpu")]).backward(random(3))
    assert backend.run_concurrently([(FIRST, met.wait), (SECOND, met.wait)]) in ([0, 1], [1, 0])


# ---- equality


PAIRS = ["cpu:0,cpu:1", "cpu,cpu", *(pytest.param(f"cuda:0,cuda:{i}", marks=pytest.mark.gpu) for i in (0, 1))]


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[backend.Device, ...]:
    """Two logical devices of every kind that there is."""
    if "cuda" in request.param and (problem := backend.gpu_problem()):
        pytest.skip(problem)
    if "cuda:1" in request.param and len(backend.gpus()) < 2:
        pytest.skip("there is one GPU")
    return backend.devices(request.param)


@pytest.mark.parametrize("model", [MINI, ZOO], ids=lambda model: model.name)
def test_two_devices_give_the_bits_of_the_same_towers_on_one(model: Model, pair: tuple[backend.Device, ...]) -> None:
    expected = steps(Towers(model, (pair[0], pair[0]), seed=3), model, 6, 4)
    assert not backend.traffic
    losses, gradients, state = steps(Towers(model, pair, seed=3), model, 6, 4)
    assert losses == expected[0]
    assert_same_bits(gradients, expected[1])
    assert_same_bits(state, expected[2])


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    before, found = backend.threads(), []
    try:
        for threads in (1, 2, 5):
            backend.set_threads(threads)
            found.append(steps(Towers(MINI, TWO), MINI, 6, 2))
    finally:
        backend.set_threads(before)
    for losses, gradients, state in found[1:]:
        assert losses == found[0][0]
        assert_same_bits(gradients, found[0][1])
        assert_same_bits(state, found[0][2])


def gamma(K: int) -> float:
    """Two sums of K products differ by at most 2 gamma(K) times the sum of their magnitudes, whatever their order."""
    return K * UNIT / (1 - K * UNIT)


@pytest.mark.parametrize("model", [MINI, ZOO], ids=lambda model: model.name)
def test_towers_agree_with_grouped_convolutions(model: Model) -> None:
    """To first order each layer adds the rounding of its own reductions, forward over the filter, backward over the
    outputs that a value reaches and, for weights, over all pixels; magnitudes are measured by the largest value."""
    batch = 6
    (loss,), gradients, state = steps(model.build("cpu", 3), model, batch, 1)
    (got,), others, after = steps(Towers(model, TWO, seed=3), model, batch, 1)
    reductions = 0
    for row in (row for row in model.rows() if row.macs):
        fan_in = math.prod(row.filter[1:])
        reductions += fan_in + fan_in * row.output[-1] // row.input[-1] + batch * math.prod(row.output[:-1])
    bound = 2 * gamma(reductions)
    assert bound < 2e-3
    assert abs(got - loss) <= bound * abs(loss)
    for expected, found in ((gradients, others), (state, after)):
        assert found.keys() == expected.keys()
        for name, whole in expected.items():
            np.testing.assert_allclose(found[name], whole, rtol=0, atol=bound * np.abs(whole).max(), err_msg=name)


def test_an_exchange_is_the_layer_that_sees_all_channels() -> None:
    x, w, b, dy = random(2, 5, 5, 12), random(8, 3, 3, 12, seed=1), random(8, seed=2), random(2, 5, 5, 8, seed=3)
    halves = [
        Tensor(np.ascontiguousarray(x[..., c]), requires_grad=True, device=device)
        for c, device in zip((slice(6), slice(6, None)), TWO, strict=True)
    ]
    products = [nn.Conv2d(6, 8, 3, padding=1, bias=False, device=SECOND) for _ in range(2)]
    for product, c in zip(products, (slice(6), slice(6, None)), strict=True):
        product.w.data = np.ascontiguousarray(w[..., c])
    layer = Exchange(1, *products, nn.Parameter(b, SECOND))
    y = layer(*halves)
    assert y.device == SECOND
    y.backward(dy)
    expected = kernels.conv2d(x, w, b, padding=1)
    magnitude = kernels.conv2d(np.abs(x), np.abs(w), np.abs(b), padding=1)
    assert (np.abs(y.data - expected) <= 2 * gamma(9 * 12 + 2) * magnitude).all()
    dx, dw, db = kernels.conv2d_backward(dy, x, w, padding=1)
    bounds = kernels.conv2d_backward(np.abs(dy), np.abs(x), np.abs(w), padding=1)
    got_dx = np.concatenate([half.grad for half in halves], axis=-1)
    got_dw = np.concatenate([product.w.grad for product in products], axis=-1)
    assert (np.abs(got_dx - dx) <= 2 * gamma(9 * 8) * bounds[0]).all()
    assert (np.abs(got_dw - dw) <= 2 * gamma(2 * 5 * 5) * bounds[1]).all()
    assert (np.abs(layer.b.grad - db) <= 2 * gamma(2 * 5 * 5) * bounds[2]).all()
    half = x.nbytes // 2
    assert backend.traffic == {(FIRST, SECOND): half, (SECOND, FIRST): half}


def test_evaluation_records_nothing_in_either_thread() -> None:
    network = Towers(MINI, TWO).eval()
    with no_grad():
        y = network(Tensor(batch_of(MINI, 2, 0)[0]))
    assert y.function is None and not y.requires_grad
    whole = network.whole().eval()(Tensor(batch_of(MINI, 2, 0)[0]))
    np.testing.assert_allclose(y.data, whole.data, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 256), (2, 3, 5, 64)], ids=["features", "pixels"])
@pytest.mark.parametrize("training", [True, False])
def test_towers_draw_the_masks_of_the_undivided_network(shape: tuple[int, ...], training: bool) -> None:
    whole = nn.Dropout(0.3, "inverted")
    halves = [HalfDropout(whole, tower, shape[-1]) for tower in (0, 1)]
    x, dy = random(*shape), random(*shape, seed=1)
    for module in (whole, *halves):
        module.train(training)
        module.key, module.step, module.purpose = 7, 3, 1
    for _ in range(2):  # the second step draws another mask
        t = Tensor(x, requires_grad=True)
        y = whole(t)
        if y is not t:
            y.backward(dy)
        for tower, half in enumerate(halves):
            c = slice(tower * shape[-1] // 2, (tower + 1) * shape[-1] // 2)
            part = Tensor(np.ascontiguousarray(x[..., c]), requires_grad=True)
            z = half(part)
            assert_array_equal(z.data, y.data[..., c])
            if z is not part:
                z.backward(np.ascontiguousarray(dy[..., c]))
                assert_array_equal(part.grad, t.grad[..., c])


def test_purposes_are_those_of_the_undivided_network() -> None:
    for model in (MINI, ZOO):
        network = Towers(model, TWO, seed=4)
        drops = [m for m in network.modules() if isinstance(m, nn.Dropout)]
        assert [(m.key, m.step, m.purpose) for m in drops] == [(4, 0, 0), (4, 0, 0), (4, 0, 1), (4, 0, 1)]


# ---- what lies where, and what crosses


def test_parameters_lie_on_their_towers_device() -> None:
    network = Towers(MINI, TWO)
    for name, p in network.named_parameters():
        assert p.device == TWO["tower1" in name], name
    held = [sum(p.data.size for p in network.parameters() if p.device == device) for device in TWO]
    assert tuple(held) == parallel.parameters(MINI)
    assert sum(held) == MINI.parameters


def test_the_papers_figures() -> None:
    paper = models.get("alexnet")
    assert parallel.parameters(paper) == (28_434_112 + 4_097_000, 28_434_112)
    assert parallel.crossings(paper, 128) == {
        "conv3": (11_075_584, 11_075_584), "fc6": (2_359_296, 2_359_296), "fc7": (1_048_576, 1_048_576),
        "fc8": (1_048_576, 0),
    }  # fmt: skip
    assert 2 * sum(map(sum, parallel.crossings(paper, 128).values())) == 60_030_976
    assert parallel.crossings(models.get("alexnet-2012"), 128) == parallel.crossings(paper, 128)


def crossed(model: Model, batch: int) -> dict[tuple[backend.Device, backend.Device], int]:
    forward = parallel.crossings(model, batch).values()
    both = sum(map(sum, forward))  # a gradient comes back for each activation
    return {(FIRST, SECOND): both, (SECOND, FIRST): both}


@pytest.mark.parametrize("model", [MINI, ZOO], ids=lambda model: model.name)
def test_a_step_moves_what_was_predicted(model: Model) -> None:
    network = Towers(model, TWO)
    x, labels = batch_of(model, 3, 0)
    logits = network(Tensor(x), Tensor(x, device=SECOND))
    forward = parallel.crossings(model, 3).values()
    assert backend.traffic == {(SECOND, FIRST): sum(f for f, _ in forward), (FIRST, SECOND): sum(s for _, s in forward)}
    ops.softmax_cross_entropy(logits, Tensor(labels)).backward()
    assert backend.traffic == crossed(model, 3)


@pytest.mark.slow
def test_a_step_of_alexnet_moves_what_the_paper_would() -> None:
    paper = models.get("alexnet").with_classes(10)
    losses, gradients, state = steps(Towers(paper, TWO), paper, 2, 1)
    assert sum(backend.traffic.values()) * 64 == 60_030_976
    assert backend.traffic == crossed(paper, 2)
    expected = steps(Towers(paper, ONE), paper, 2, 1)
    assert losses == expected[0]
    assert_same_bits(gradients, expected[1])
    assert_same_bits(state, expected[2])


def test_summary_tells_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(summary.main, ["--model", "alexnet", "--device", "cpu:0,cpu:1", "--batch", "128"]) == 0
    out = capsys.readouterr().out
    for text in ("28,434,112 parameters each", "4,097,000", "30,015,488 bytes cross forward, 60,030,976 in a step"):
        assert text in out
    conv3 = next(line for line in reversed(out.splitlines()) if line.startswith("conv3"))
    assert conv3.split() == ["conv3", "11,075,584", "11,075,584"]


# ---- checkpoints


def trainer_of(device: str, epochs: int, made: str = "alexnet-mini", **changes: Any) -> Trainer:
    """Of so many epochs of two steps on random images of four classes."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (16, 36, 36, 3)).astype(np.uint8), np.arange(16, dtype=np.int32) % 4
    data = ArrayDataset(images, labels, list("abcd"))
    changed = replace(recipe.load(made), batch=8, epochs=epochs, **changes)
    return Trainer.of(changed, Data(data, data, "random images", False), device, seed=5)


def fitted(trainer: Trainer, path: Path) -> checkpoint.Checkpoint:
    assert trainer.fit(lambda step: None, lambda epoch: None)
    trainer.save(path, {})
    return checkpoint.load(path)


TODAY: dict[str, Any] = {
    "warmup": 1.5, "label_smoothing": 0.1, "class_weights": (1.0, 2.0, 0.5, 1.5), "ema": 0.9, "accumulate": 2,
}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {**TODAY, "nesterov": True}, {**TODAY, "optimizer": "adamw", "lr": 1e-3}])
def test_a_resumed_run_on_two_devices_is_the_uninterrupted_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    trainer = trainer_of("cpu:0,cpu:1", 3, **changes)
    assert trainer.fit(lambda step: None, lambda epoch: trainer.save(tmp_path / str(epoch.epoch), {}))
    straight = checkpoint.load(tmp_path / "3")
    resumed = trainer_of("cpu:0,cpu:1", 3, **changes)
    resumed.restore(checkpoint.load(tmp_path / "1"))
    again = fitted(resumed, tmp_path / "again")
    assert_same_bits(dict(again.weights), dict(straight.weights))
    assert_same_bits(dict(again.optimizer), dict(straight.optimizer))


@pytest.mark.parametrize(("begin", "then"), [("cpu", "cpu:0,cpu:1"), ("cpu:0,cpu:1", "cpu")])
def test_checkpoints_move_between_one_device_and_two(begin: str, then: str, tmp_path: Path) -> None:
    began = fitted(trainer_of(begin, 1), tmp_path / "began")
    moved = trainer_of(then, 2)
    moved.restore(began)
    moved.save(tmp_path / "moved", {})
    saved = checkpoint.load(tmp_path / "moved")
    whole = {name: p.shape for name, p in models.create("alexnet-mini", 4, "cpu").named_parameters()}
    assert {name: w.shape for name, w in saved.weights.items()} == whole
    assert_same_bits(dict(saved.weights), dict(began.weights))
    assert_same_bits(dict(saved.optimizer), dict(began.optimizer))
    assert set(saved.optimizer) == {f"momentum/{name}" for name in whole} | {"updates"}
    fitted(moved, tmp_path / "done")


def test_a_recipes_rules_reach_both_towers() -> None:
    rules = {"layers": {"conv3": {"lr": 0.5, "decay": 3.0}, "fc8": {"lr": 0.25}}, "bias_lr": 2.0, "bias_decay": 0.0}
    made = recipe.change(recipe.load("alexnet-mini"), rules, "test")
    scales: dict[str, set[tuple[float, float]]] = {}
    for network in (MINI.build("cpu"), Towers(MINI, TWO)):
        Schedule(made, network, 2).apply(3, made.epochs, 0)
        for name, p in network.named_parameters():
            layer, key = name.split(".")[0], name.split(".")[-1]
            scales.setdefault(f"{layer}.{key}", set()).add((p.lr_scale, p.decay_scale))
    assert all(len(found) == 1 for found in scales.values())
    assert scales["conv3.w"] == {(0.5 * 0.5, 3.0)} and scales["fc8.b"] == {(0.5 * 0.25 * 2, 0.0)}


def test_a_loss_that_is_no_number_names_the_layer() -> None:
    trainer = trainer_of("cpu:0,cpu:1", 3)
    trainer.optimizer.lr = 1e20
    with pytest.raises(Diverged, match=r"the loss became (nan|inf) in step 2 .*; conv\d overflowed first"):
        trainer.fit(lambda step: None, lambda epoch: None)


def test_initial_weights_are_those_of_one_device() -> None:
    for model in (MINI, ZOO):
        assert_same_bits(Towers(model, TWO, seed=9).state(), model.build("cpu", 9).state())


def test_a_checkpoint_of_another_network_is_refused() -> None:
    network = Towers(MINI, TWO)
    before, state = network.state(), network.state()
    state["fc8.w"] = state["fc8.w"][:5]
    with pytest.raises(ValueError, match=r"fc8.w: expected shape \(10, 256\), got \(5, 256\)"):
        network.load_state(state)
    with pytest.raises(ValueError, match="surplus fc9"):
        network.load_state({**before, "fc9.w": before["fc8.w"]})
    del state["fc8.w"]
    with pytest.raises(ValueError, match="missing fc8"):
        network.load_state(state)
    assert_same_bits(network.state(), before)


# ---- the trace


def overlapping(events: list[dict[str, Any]], rows: tuple[int, int], direction: str) -> float:
    """Microseconds in which operations of that direction ran in both rows."""
    first, second = (
        [(e["ts"], e["ts"] + e["dur"]) for e in events if e["tid"] == row and e["name"].endswith(f" {direction}")]
        for row in rows
    )
    return sum(max(0, min(b, d) - max(a, c)) for a, b in first for c, d in second)


def test_a_trace_shows_both_towers_at_work(pair: tuple[backend.Device, ...], tmp_path: Path) -> None:
    network = Towers(MINI, pair)
    steps(network, MINI, 64, 1)  # what happens once is not for the trace
    with trace.recording() as spans:
        steps(network, MINI, 64, 2)
    trace.write(tmp_path / "trace.json", spans)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    rows = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    first, second = (device.row for device in pair)
    assert list(rows) == [first, second, *sorted((f"{first} to {second}", f"{second} to {first}"))]
    done = [e for e in events if e["ph"] == "X"]
    assert all(e["pid"] == 0 and e["ts"] >= 0 and e["dur"] >= 0 for e in done)
    for direction in ("forward", "backward"):
        assert overlapping(done, (rows[first], rows[second]), direction) > 0
    copies = [sum(e["name"] == "copy" and e["tid"] == tid for e in done) for tid in list(rows.values())[2:]]
    assert copies == [2 * 7, 2 * 7]  # in each step 3 forward and 4 back, 4 forward and 3 back
    assert len(spans) == len(done)


def test_nothing_is_recorded_otherwise() -> None:
    with trace.recording() as spans:
        pass
    Towers(MINI, TWO)(Tensor(batch_of(MINI, 2, 0)[0]))
    assert not spans


def test_train_on_two_devices_and_what_reads_its_run(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--device", "cpu:0,cpu:1", "--epochs", "1", "--batch", "256", "--trace", "trace.json", "--out", "run"]
    assert command_line.run(train.main, given) == 0
    out = capsys.readouterr().out
    assert "on cpu,cpu:1" in out and "bytes from cpu:1 to cpu" in out
    events = json.loads((elsewhere / "trace.json").read_text())["traceEvents"]
    done = [e for e in events if e["ph"] == "X"]
    losses = [e for e in done if e["name"].startswith("loss ") and e["args"]["operation"] == "SoftmaxCrossEntropy"]
    assert [e["name"] for e in losses] == ["loss forward", "loss backward"] * train.TRACED_STEPS
    assert command_line.run(train.main, ["--resume", "run", "--epochs", "2"]) == 0
    assert "on cpu,cpu:1" in capsys.readouterr().out
    assert command_line.run(evaluate.main, ["run", "--device", "cpu"]) == 0
    assert command_line.run(evaluate.main, ["run", "--device", "cpu:0,cpu:1"]) == 2
    assert "expected one device" in capsys.readouterr().err
    assert command_line.run(train.main, ["--trace", "nowhere/trace.json"]) == 2
    assert "expected a file in a folder that exists" in capsys.readouterr().err


# ---- refusals


def changed(name: str, **fields: Any) -> Model:
    """``ZOO`` with a layer changed, or exchanged if ``layer`` is given."""
    layers = [fields.get("layer") or replace(one, **fields) if one.name == name else one for one in ZOO.layers]
    return replace(ZOO, layers=tuple(layers))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (models.get("alexnet-single"), "no convolution has two groups"),
        (models.get("caffenet"), "the groups of lrn1, 1, are not an even number"),
        (changed("conv2", channels=18, groups=2), None),
        (changed("conv3", channels=13), "the channels of conv3, 13, are not an even number"),
        (changed("conv2", channels=24, groups=1), "no convolution has two groups"),
        (changed("lrn2", groups=1), "the groups of lrn2, 1, are not an even number"),
        (changed("pool0", layer=BatchNorm("norm0")), "norm0 comes before the first convolution of all channels"),
        (changed("pool0", layer=Lrn("lrn0", groups=1)), "lrn0 comes before the first convolution of all channels"),
        (changed("conv3", layer=Local2d("local3", 3, 1, 1, False, 12)), "local3 is a layer with weights for each"),
        (replace(ZOO, layers=(*ZOO.layers, Activation("last"))), "last, its last layer, is not fully connected"),
    ],
    ids=lambda value: value.name if isinstance(value, Model) else str(value),
)
def test_what_does_not_divide_is_refused(model: Model, message: str | None) -> None:
    if message is None:
        parallel.check(model, TWO)
    else:
        with pytest.raises(ValueError, match=f"model {model.name} does not divide into two towers: {message}"):
            parallel.build(model, "cpu:0,cpu:1")


@pytest.mark.parametrize("command", [train, summary], ids=lambda module: module.__name__.rpartition(".")[2])
@pytest.mark.parametrize(
    ("model", "device", "message"),
    [
        ("alexnet-single", "cpu:0,cpu:1", "alexnet-single does not divide"),
        ("alexnet-mini", "cpu:0,cpu:1,cpu:2", "need two devices of one kind, got cpu, cpu:1, cpu:2"),
        ("alexnet-mini", "cpu:0,", "unknown device ''"),
        ("alexnet-mini", "cpu:0,gpu:1", "unknown device 'gpu:1'"),
    ],
)
def test_bad_input_is_one_line(
    command: Any, model: str, device: str, message: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.run(command.main, ["--model", model, "--device", device]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1 and not captured.out
    assert not list(elsewhere.iterdir())
