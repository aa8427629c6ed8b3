"""The step as a CUDA graph: bits as of eager steps, only copies and a launch in a replay, when it is recorded."""

from __future__ import annotations

import math
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from stand_in_cupy import DEVICES_UNAVAILABLE, CUDARuntimeError, Graph, StandIn, Stream

from alexnet_cuda import backend, kernels, nn, trace
from alexnet_cuda.data import ArrayDataset, Data
from alexnet_cuda.recipe import LayerRule, Recipe
from alexnet_cuda.replay import Replay
from alexnet_cuda.trainer import Step, Trainer

pytest_plugins = ["stand_in_cupy"]

BASE = Recipe(batch=4, epochs=3, lr=0.01, scale=1 / 64, mirror=True)
IMAGES = 12


def images(size: tuple[int, int] = (36, 36), count: int = IMAGES) -> Data:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, count).astype(np.int32)
    colours = rng.integers(0, 256, (4, 1, 1, 3))
    pixels = np.clip(colours[labels] + rng.integers(-30, 31, (count, *size, 3)), 0, 255).astype(np.uint8)
    data = ArrayDataset(pixels, labels, list("abcd"))
    return Data(data, data, "random images", True)


def trained(made: Recipe, device: str, watch: Callable[[Trainer], object] = lambda trainer: None) -> dict[str, Any]:
    """All that a training leaves: losses, accuracies, weights and the optimizer's state."""
    trainer, steps, epochs = Trainer.of(made, images(), device, seed=5), list[Step](), list[Any]()
    watch(trainer)
    assert trainer.fit(steps.append, epochs.append)
    left = {**trainer.model.state(), **trainer.optimizer.state()}
    left["steps"] = np.array([step.loss for step in steps])
    left["epochs"] = np.array([[epoch.train_accuracy, epoch.train_loss, *epoch.test] for epoch in epochs])
    return left


def assert_equal(some: dict[str, Any], others: dict[str, Any]) -> None:
    assert some.keys() == others.keys()
    for name, array in others.items():
        assert_array_equal(some[name], array, err_msg=name)


RECIPES = {
    "cosine": BASE,
    "parts": replace(BASE, accumulate=3),
    "adam": replace(BASE, optimizer="adam", lr=1e-3),
    "bf16": replace(BASE, precision="bf16", epochs=2),
    "noise": replace(BASE, colour="source", colour_steps=((1.0, 0.5),)),
    "today": replace(
        BASE, warmup=1.5, label_smoothing=0.1, class_weights="balanced", nesterov=True, ema=0.9, accumulate=2
    ),
    "augmented": replace(
        BASE,
        crop_area=0.5,
        rotation=20.0,
        brightness=0.1,
        contrast=0.2,
        mixup=0.4,
        accumulate=2,
        class_weights="balanced",
    ),
    "adamw": replace(BASE, optimizer="adamw", lr=1e-3, decay=0.1, ema=0.9, warmup=1.0, precision="bf16"),
    "frozen": replace(BASE, freeze=("conv*", "fc6.b"), rates={"fc7": 0.5}, scale=(1 / 64, 1 / 60, 1 / 70)),
    "freezing": replace(BASE, layers={"conv1": LayerRule(steps=((1.0, 0.0), (2.0, 1.0)))}),
}


@pytest.mark.parametrize(
    ("device", "name"),
    [
        *(("cuda:0", name) for name in RECIPES),
        ("cuda:0,cuda:0", "parts"),
        ("cuda:0,cuda:1", "cosine"),
        ("cuda:0,cuda:1", "bf16"),
        ("cuda:0,cuda:1", "parts"),
        ("cuda:0,cuda:1", "today"),
        ("cuda:0,cuda:1", "frozen"),
        ("cuda:0,cuda:1", "augmented"),
    ],
)
def test_replays_give_the_bits_of_eager_steps(stand_in: StandIn, device: str, name: str) -> None:
    made = RECIPES[name]
    eager = trained(replace(made, graph=False), device)
    assert not stand_in.log["graph"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replayed = trained(made, device)
    assert stand_in.log["graph"] == {"freezing": 9 - 3, "bf16": 6 - 1}.get(name, 9 - 1)
    assert_equal(replayed, eager)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:0,cuda:1"])
def test_a_replay_is_copies_and_one_launch(stand_in: StandIn, device: str) -> None:
    """Of a step that is replayed the host queues copies of what is new and the graph; it takes no memory on a device,
    waits for nothing that a device computes, and calls no kernel."""
    asked: list[Counter[str]] = []

    def watch(trainer: Trainer) -> None:
        step = trainer._step

        def counted(batch: Any) -> None:
            stand_in.log.clear()
            step(batch)
            asked.append(stand_in.log.copy())

        trainer._step = counted

    trained(BASE, device, watch)
    places = len(set(device.split(",")))
    expected = {"graph": 1, "copy from the host": places + len(device.split(",")), "copy": 1}
    for log in asked[2:]:
        log.pop("event", None)  # of a copy from the host, four steps ago
        assert log == expected
    assert {"allocation", "multi_sgd", "augment"} <= asked[0].keys() and "graph" not in asked[0]


def test_batches_are_copied_while_those_before_are_used(stand_in: StandIn) -> None:
    """One is on its way while another is used; the loader's memory is written to again only after it was copied."""
    trainer = Trainer.of(replace(BASE, batch=2), images(), "cuda:0")
    taken, copies = list[int](), list[Any]()

    def batches() -> Any:
        for number, batch in trainer.train.training(0):
            taken.append(number)
            yield number, batch

    on_cpu = Trainer.of(replace(BASE, batch=2), images(), "cpu").train.training(0)
    expected = [(number, batch._replace(images=batch.images.copy())) for number, batch in on_cpu]
    for (number, there), (other, batch) in zip(trainer._on_devices(batches()), expected, strict=True):
        assert number == other and taken[-1] == min(number + 1, len(expected) - 1)
        got = there[backend.Device("cuda")]
        assert got.noise is None
        copies.append(([got.images.copy(), got.labels.copy(), got.crops.copy()], batch))
    assert stand_in.pending
    for arrays, batch in copies:  # of which nothing has been waited for before
        for array, expected_array in zip(arrays, (batch.images, batch.labels, batch.crops), strict=True):
            assert_array_equal(array.get(), expected_array)


def test_fed_arrays_stay_in_their_place_and_may_have_fewer_rows(stand_in: StandIn) -> None:
    feed = backend.Prefetcher(backend.devices("cuda:0,cuda:1"))
    shapes = [(4, 2), (3, 2), (4, 2), (4, 2)]
    batches = [(np.full(shape, i, np.float32), None, np.arange(shape[0])) for i, shape in enumerate(shapes)]
    places: list[tuple[int, ...]] = []
    for (x, _, y), arrays in zip(batches, feed.through(iter(batches)), strict=True):
        assert [device.index for device in arrays] == [0, 1]
        for got in arrays.values():
            assert got[1] is None
            assert_array_equal(got[0].get(), x)
            assert_array_equal(got[2].get(), y)
        places.append(tuple(backend.address(got[0]) for got in arrays.values()))
    assert len(set(places)) == 1 and len(set(places[0])) == 2


def test_a_smaller_batch_is_stepped_eagerly_and_the_graph_stays(stand_in: StandIn) -> None:
    def watch(trainer: Trainer) -> None:
        whole = trainer.train.training

        def training(epoch: int, start: int) -> Any:
            for number, batch in whole(epoch, start):
                yield number, batch.rows(slice(3)) if epoch == 1 and number == 1 else batch

        trainer.train.training = training

    replayed = trained(BASE, "cuda:0", watch)
    assert stand_in.log["graph"] == 9 - 2
    assert_equal(replayed, trained(replace(BASE, graph=False), "cuda:0", watch))


def test_a_graph_has_memory_of_its_own(stand_in: StandIn) -> None:
    where, made = backend.device("cuda"), list[Any]()
    with backend.capture_streams([where]):
        x = backend.from_host(np.arange(256), where)
        graph = backend.CudaGraph([where], lambda: made.append((x + x) * 3))
        others = [x.copy() for _ in range(4)]  # would take what the sum has given back
        for factor in (6, 12):
            graph.launch()
            assert_array_equal(made[0].get(), factor * np.arange(256))
            for other in others:
                assert_array_equal(other.get(), np.arange(256))
            x += others[0]


def test_copies_between_devices_are_counted_for_every_launch(stand_in: StandIn) -> None:
    moved = []
    for graph in (False, True):
        backend.traffic.clear()
        trained(replace(BASE, graph=graph), "cuda:0,cuda:1")
        moved.append({pair: count for pair, count in backend.traffic.items() if count})
    backend.traffic.clear()
    assert moved[0] and moved[0] == moved[1]


# ---- when there is none


def test_what_cannot_be_recorded_is_said_once_and_the_run_goes_on(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    eager = trained(replace(BASE, graph=False), "cuda:0")
    draw = nn.Dropout.draw

    def drawn_by_the_host(self: nn.Dropout, shape: tuple[int, ...], device: backend.Device) -> dict[str, Any]:
        self.states = {}
        return draw(self, shape, device)

    monkeypatch.setattr(nn.Dropout, "draw", drawn_by_the_host)
    why = "cannot be captured: RuntimeError: a copy from the host cannot be part of a graph"
    with pytest.warns(UserWarning, match=why) as said:
        got = trained(BASE, "cuda:0")
    assert len(said) == 1 and not stand_in.log["graph"]
    assert_equal(got, eager)
    assert stand_in.recording is None


def test_memory_of_recorded_work_is_not_given_to_others(stand_in: StandIn) -> None:
    """Where no more is left, CuPy's pool gives back what is free. A step that only needs that goes on eagerly, with the
    memory that its recording had."""
    where, nbytes = backend.device("cuda"), 1 << 12

    def step() -> int:
        ((x + x) * 3).sum()  # in memory that is free then
        return backend.empty((nbytes,), np.uint8, where).nbytes

    with backend.capture_streams([where]):
        x, replay = backend.zeros((1 << 10,), np.uint8, where), Replay([where])
        stand_in.most_bytes = stand_in.used_bytes[0] + nbytes
        assert replay("it", step) == nbytes
        why = r"cannot be captured: MemoryError: cuda:0 has no 4,096 bytes for an array of shape \(4096,\)$"
        with pytest.warns(UserWarning, match=why):
            assert replay("it", step) == nbytes
        assert stand_in.recording is None


@pytest.mark.parametrize(("name", "shares"), [("cosine", (0.8, 0.9, 1.0)), ("bf16", (0.9,))])
def test_a_step_without_memory_for_its_graph_goes_on_eagerly(
    stand_in: StandIn, name: str, shares: Sequence[float]
) -> None:  # fmt: skip
    """Whether the recording, before which memory is given back, fails soon or late."""
    made = replace(RECIPES[name], epochs=1)
    eager = trained(replace(made, graph=False), "cuda:0")
    needed, why = stand_in.most_used, r"cannot be captured: MemoryError: cuda:0 has no [\d,]+ bytes for an array"
    for share in shares:
        backend.release_memory()
        stand_in.most_bytes = int(share * needed)
        with pytest.warns(UserWarning, match=why) as said:
            assert_equal(trained(made, "cuda:0"), eager)
        assert len(said) == 1 and not stand_in.log["graph"]


@pytest.mark.parametrize("changes", [{"graph": False}, {"clip": 1.0}], ids=str)
def test_recipes_that_are_not_recorded(stand_in: StandIn, changes: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(replace(BASE, **changes), "cuda:0")
    assert not stand_in.log["graph"]


def test_steps_that_are_traced_are_not_recorded(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "clock", lambda where: trace.now)
    with trace.recording() as spans:
        trained(BASE, "cuda:0")
    assert spans and not stand_in.log["graph"]


def test_exchanged_weights_are_those_that_are_trained(stand_in: StandIn) -> None:
    """A run that goes on with a checkpoint's arrays does not go on with a graph of others."""

    def watch(trainer: Trainer) -> None:
        epochs = trainer.epochs
        trainer.epochs = 1
        assert trainer.fit(lambda step: None, lambda epoch: None)
        trainer.epochs = epochs
        trainer.model.load_state(trainer.model.state())

    assert_equal(trained(BASE, "cuda:0", watch), trained(replace(BASE, graph=False), "cuda:0", watch))


class Recorded:
    """In place of ``backend.CudaGraph``."""

    def __init__(self, places: Any, step: Callable[[], str]) -> None:
        self.result = f"a launch of {step()}"

    def launch(self) -> str:
        return self.result


CALLED, RECORDED, LAUNCHED = "call", "record", "launch"


@pytest.mark.parametrize(
    ("kept", "steps", "expected"),
    [
        (1, "aaa", [CALLED, RECORDED, LAUNCHED]),
        (1, "aabab", [CALLED, RECORDED, CALLED, LAUNCHED, RECORDED]),
        (1, "aabba", [CALLED, RECORDED, CALLED, RECORDED, CALLED]),
        (1, "abab", [CALLED] * 4),
        (2, "abab", [CALLED, CALLED, RECORDED, RECORDED]),
        (2, "abcabc", [CALLED] * 6),
        (2, "aabbccab", [CALLED, RECORDED] * 3 + [CALLED, LAUNCHED]),  # a was launched before b
        (2, "aabbaccab", [CALLED, RECORDED] * 2 + [LAUNCHED, CALLED, RECORDED, LAUNCHED, RECORDED]),
    ],
)
def test_steps_that_come_again_are_recorded(
    monkeypatch: pytest.MonkeyPatch, kept: int, steps: str, expected: list[str]
) -> None:  # fmt: skip
    """The constants of the steps, and what becomes of each; twice, as nothing is left after ``forget``."""
    monkeypatch.setattr(backend, "CudaGraph", Recorded)
    replay = Replay([backend.Device("cuda")], kept=kept)
    for _ in range(2):
        did = list[str]()
        for constants in steps:
            called = list[str]()

            def step(constants: str = constants, called: list[str] = called) -> str:
                called.append(constants)
                return constants

            result = replay(constants, step)
            did.append({constants: CALLED, f"a launch of {constants}": RECORDED if called else LAUNCHED}[result])
        assert did == expected
        replay.forget()


def test_no_more_recordings_are_kept_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before another is made, one goes, with its memory."""
    alive = weakref.WeakSet[Recorded]()
    most = 0

    class Counted(Recorded):
        def __init__(self, places: Any, step: Callable[[], str]) -> None:
            nonlocal most
            super().__init__(places, step)
            alive.add(self)
            most = max(most, len(alive))

    monkeypatch.setattr(backend, "CudaGraph", Counted)
    replay = Replay([backend.Device("cuda")], kept=3)
    for constants in "aabbccddee":
        replay(constants, lambda: "it")
    assert (most, len(alive)) == (3, 3)
    replay.forget()
    assert not alive


def test_evaluation_copies_nothing_from_the_host(stand_in: StandIn) -> None:
    """Of dropout, which draws nothing then."""
    where = backend.device("cuda")
    x = backend.from_host(np.ones(8, np.float32), where)
    kernels.dropout(x, training=False)
    stand_in.log.clear()
    y = kernels.dropout(x, training=False)
    assert stand_in.log["dropout"] == 1 and not stand_in.log.keys() & {"copy from the host", "wait"}
    assert_array_equal(y.get(), np.full(8, 0.5))


# ---- faults


@pytest.mark.parametrize("device", ["cuda:0", "cuda:0,cuda:1"])
def test_a_failing_kernel_is_named_with_its_operation(stand_in: StandIn, device: str) -> None:
    trainer = Trainer.of(replace(BASE, graph=False), images(), device)

    def on_step(step: Step) -> None:
        stand_in.refused.add("softmax_cross_entropy_backward")

    with pytest.raises(RuntimeError, match=r"^softmax_cross_entropy_backward: an illegal") as caught:
        trainer.fit(on_step, lambda epoch: None)
    assert caught.value.__notes__ == ["in the backward pass of SoftmaxCrossEntropy"]


def test_a_device_that_is_lost_while_it_replays_ends_the_run(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    def lost(*_: Any) -> None:
        raise CUDARuntimeError(DEVICES_UNAVAILABLE)

    trainer = Trainer.of(BASE, images(), "cuda:0")
    step = trainer._step

    def failing(batch: Any) -> None:
        step(batch)
        if trainer.progress.step == 4:
            monkeypatch.setattr(Graph, "launch", lost)
            monkeypatch.setattr(Stream, "record", lost)

    trainer._step = failing
    with pytest.raises(CUDARuntimeError, match="cudaErrorDevicesUnavailable"):
        trainer.fit(lambda step: None, lambda epoch: None)


def test_out_of_memory_tells_what_was_asked_for(stand_in: StandIn) -> None:
    stand_in.most_bytes = 1 << 20
    with pytest.raises(MemoryError, match=r"^cuda:1 has no 4,194,304 bytes for an array of shape \(1024, 1024\)$"):
        backend.empty((1024, 1024), np.float32, backend.Device("cuda", 1))


# ---- the stand-in refuses what CUDA does


def test_the_stand_in_sees_streams_that_are_not_joined(stand_in: StandIn) -> None:
    first, second = (stand_in.cuda.Stream(non_blocking=True) for _ in range(2))
    x = stand_in.zeros(4)
    first.begin_capture()
    second.wait_event(first.record())
    with second:
        y = x + x
    with pytest.raises(CUDARuntimeError, match="not been joined"):
        first.end_capture()
    assert y.shape == (4,)


def test_the_stand_in_sees_a_race(stand_in: StandIn) -> None:
    first, second = (stand_in.cuda.Stream(non_blocking=True) for _ in range(2))
    x, dy = stand_in.zeros(4), stand_in.zeros(4)
    first.begin_capture()
    second.wait_event(first.record())
    with first:
        x += dy
    with second:
        y = x + dy
    first.wait_event(second.record())
    with pytest.raises(AssertionError, match="add and add use the same memory at the same time"):
        first.end_capture()
    assert y.shape == (4,)


# ---- on a GPU


@pytest.fixture(params=["cuda:0", "cuda:0,cuda:0", "cuda:0,cuda:1"])
def gpu(request: pytest.FixtureRequest) -> str:
    if problem := backend.gpu_problem():
        pytest.skip(problem)
    if "cuda:1" in request.param and len(backend.gpus()) < 2:
        pytest.skip("there is one GPU")
    return request.param


@pytest.mark.gpu
@pytest.mark.parametrize("name", RECIPES)
def test_replays_on_a_gpu_give_the_bits_of_eager_steps(gpu: str, name: str) -> None:
    made = RECIPES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that it cannot be captured
        assert_equal(trained(made, gpu), trained(replace(made, graph=False), gpu))


@pytest.mark.gpu
def test_a_replay_on_a_gpu_takes_no_memory_and_does_not_wait(gpu: str) -> None:
    """CuPy's hooks tell of memory; that nothing waits shows as the host is done while the GPU is still busy with what
    was queued before."""
    cupy = backend.array_module(backend.device("cuda"))
    seen: list[tuple[int, bool]] = []

    class Hook(cupy.cuda.MemoryHook):
        name = "allocations"
        count = 0

        def malloc_preprocess(self, **_: Any) -> None:
            Hook.count += 1

    def watch(trainer: Trainer) -> None:
        step, graph = trainer._step, trainer._replay

        def busy() -> Any:
            """Keeps the GPU computing for a while, with memory that is there already."""
            for _ in range(200):
                cupy.multiply(large, 1.0001, out=large)
            return cupy.cuda.get_current_stream().record()

        large = cupy.ones(1 << 26, np.float32)

        def counted(batch: Any) -> None:
            replaying = bool(graph._graphs)
            before, done = Hook.count, busy() if replaying else None
            step(batch)
            if replaying:
                seen.append((Hook.count - before, done.done))

        trainer._step = counted

    with Hook():
        trained(BASE, gpu, watch)
    assert len(seen) == 9 - 2 and all(entry == (0, False) for entry in seen), seen
    assert math.isfinite(Hook.count)
