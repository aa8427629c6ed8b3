"""Training over several processes: data and hybrid parallelism equal one process, faults, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from group_of_threads import Threads
from hypothesis import given, settings, strategies as st
from mpi import environment, mpirun, start
from numpy.testing import assert_allclose, assert_array_equal

from alexnet_cuda import Tensor, backend, checkpoint, command_line, models, nn, ops, recipe, run_folder, trace, train
from alexnet_cuda.data import ArrayDataset, Augmentation, Batch, Data, DataError, Loader
from alexnet_cuda.models import Model
from alexnet_cuda.models.alexnet import conv, pool
from alexnet_cuda.models.layers import BatchNorm, Dropout, Flatten, Linear, Lrn
from alexnet_cuda.parallel import Buckets, Group, Hybrid, average_buffers
from alexnet_cuda.parallel.hybrid import GatherColumns, GatherRows, OwnRows, share
from alexnet_cuda.recipe import Recipe
from alexnet_cuda.trainer import Trainer

pytest_plugins = ["tiny_run"]

CPU = backend.device("cpu")
MINI = models.get("alexnet-mini")
NARROW = Model(
    "narrow-alexnet",
    "the paper's layers, an eighth as wide",
    (67, 67, 3),
    (
        conv("conv1", 12, 11, stride=4),
        Lrn("lrn1", groups=2),
        pool("pool1"),
        conv("conv2", 32, 5, padding=2, groups=2),
        Lrn("lrn2", groups=2),
        pool("pool2", ceil=True),
        conv("conv3", 48, 3, padding=1),
        conv("conv4", 48, 3, padding=1, groups=2),
        conv("conv5", 32, 3, padding=1, groups=2),
        Flatten("flatten"),
        Linear("fc6", 64),
        Dropout("drop6"),
        Linear("fc7", 63),
        Dropout("drop7"),
        Linear("fc8", 10, activation=None),
    ),
)


def images(count: int, size: tuple[int, int], classes: int = 10, seed: int = 0) -> ArrayDataset:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, *size, 3), np.uint8)
    return ArrayDataset(pixels, (np.arange(count) % classes).astype(np.int32), [str(i) for i in range(classes)])


def trainer(model: Model, made: Recipe, group: Group | None = None, hybrid: bool = False) -> Trainer:
    train_images, test = images(2 * made.batch, model.input[:2]), images(21, model.input[:2], seed=1)
    data = Data(train_images, test, "random images", False)
    return Trainer.of(made, data, CPU, seed=3, group=group, hybrid=hybrid)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """``models.get`` knows the narrow AlexNet."""
    get = models.get
    monkeypatch.setattr(models, "get", lambda name: NARROW if name == NARROW.name else get(name))


def one_epoch(made: Trainer) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[Any]]:
    """The weights and momenta after an epoch, and what was said of it."""
    epochs: list[Any] = []
    assert made.fit(lambda step: None, epochs.append)
    every = {p: name for name, p in made.model.named_parameters()}
    names = [every[p] for p in made.optimizer.parameters]
    state = [(key.partition("/"), array) for key, array in made.optimizer.state().items()]
    momenta = made.model.merged({f"{slot}/{names[int(place)]}": a for (slot, slash, place), a in state if slash})
    return made.model.state(), momenta, epochs


TODAY = {
    "class_weights": tuple(np.linspace(0.25, 4, 10).tolist()), "label_smoothing": 0.1, "ema": 0.9, "warmup": 0.5,
}  # fmt: skip

WITHOUT_DROPOUT = {"accumulate": 2, "options": {"dropout": False}, "scale": 1 / 64}


@pytest.mark.parametrize("hybrid", [False, True], ids=["data", "hybrid"])
@pytest.mark.parametrize(
    ("name", "size", "changes"),
    [
        ("alexnet-mini", 2, {}),
        ("alexnet-mini", 4, {}),
        ("narrow-alexnet", 3, {}),
        ("alexnet-mini", 2, {"clip": 0.1}),
        ("alexnet-mini", 2, {"freeze": ("conv*", "fc7.w"), "rates": {"fc6": 0.5, "*.b": 2.0}}),
        ("alexnet-mini", 2, {**TODAY, "nesterov": True}),
        (
            "alexnet-mini",
            2,
            {**TODAY, "optimizer": "adamw", "lr": 1e-6, **WITHOUT_DROPOUT},
        ),
    ],
)
def test_equals_one_process(narrow: None, name: str, size: int, changes: dict[str, Any], hybrid: bool) -> None:
    """Dropout on. Where the batch is cut, sums have another order: each product is off by at most
    gamma_n = n u / (1 - n u) of the sum of its n terms' magnitudes, which for gradients of these networks is below
    1e-5 of their norm, and steps of the same size stay as near. Adam's have the same size whatever the gradients': of
    its weights, where gradients are nearly nothing, that says little, of the gradients' means all."""
    model = models.get(name)
    made = Recipe(model=name, epochs=1, batch=12, lr=0.001, schedule="constant", mirror=True, clip=1e3)
    made = replace(made, **changes)
    weights, momenta, (epoch,) = one_epoch(trainer(model, made))
    results = Threads(size).run(lambda group: one_epoch(trainer(model, made, group, hybrid)))
    for other_weights, other_momenta, (other,) in results:
        for whole, parts in ((weights, other_weights), (momenta, other_momenta)):
            assert whole.keys() == parts.keys()
            for key, w in whole.items():
                if made.optimizer == "adamw" and not key.startswith(("first_moment/", "second_moment/")):
                    continue
                assert np.linalg.norm(parts[key] - w) <= 1e-5 * np.linalg.norm(w) + 1e-12, key
        assert other.train_loss == pytest.approx(epoch.train_loss, rel=1e-5)
        assert other.test.loss == pytest.approx(epoch.test.loss, rel=1e-5)
        assert (other.test.top1, other.test.images) == (epoch.test.top1, 21)
    for other_weights, _, _ in results[1:]:  # and all processes have the same bits
        for key, w in other_weights.items():
            assert_array_equal(w, results[0][0][key])


def test_gradients_are_added_up_while_the_backward_pass_runs() -> None:
    labels = np.arange(4, dtype=np.int32)
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)

    def task(group: Group) -> int:
        network = MINI.build(CPU)
        buckets = Buckets(group, network.parameters(), nbytes=1 << 16)
        loss = ops.softmax_cross_entropy(network(Tensor(x)), Tensor(labels))
        loss.backward(done=buckets.done)
        buckets.finish()
        return len(buckets.buckets)

    with trace.recording() as recorded:
        (count,) = Threads(1).run(task)  # one process: of several, another's backward pass might be the later one
    sums = [span.begin() for span in recorded if span.name == "all-reduce"]
    backward = [span.begin() for span in recorded if span.name.startswith("conv") and span.name.endswith(" backward")]
    assert len(sums) == count > 3
    assert min(sums) < min(backward)  # those of the fully-connected layers come first
    assert sum(begin < max(backward) for begin in sums) > 1


def test_buckets_leave_out_what_has_no_gradient() -> None:
    def task(group: Group) -> list[Any]:
        parameters = [nn.Parameter(np.zeros(3, np.float32)) for _ in range(4)]
        buckets = Buckets(group, parameters, nbytes=12)
        for i, p in enumerate(parameters):
            if i != 2:
                p.grad = np.full(3, i + group.rank, np.float32)
                buckets.done(p)
        buckets.done(nn.Parameter(np.zeros(3, np.float32)))  # a stranger
        buckets.finish()
        return [None if p.grad is None else p.grad[0] for p in parameters]

    assert Threads(3).run(task) == [[3, 6, None, 12]] * 3


def test_buckets_wait_for_nothing_that_is_frozen() -> None:
    made = Recipe(batch=4, epochs=1, freeze=("conv*", "fc7.w"))

    def task(group: Group) -> list[str]:
        learns = trainer(MINI, made, group)
        names = {p: name for name, p in learns.model.named_parameters()}
        return [names[p] for bucket in learns._work.buckets.buckets for p in bucket]

    for names in Threads(2).run(task):
        assert sorted(names) == ["fc6.b", "fc6.w", "fc7.b", "fc8.b", "fc8.w"]


def test_one_process_copies_no_gradients() -> None:
    assert Buckets(Group(), MINI.build(CPU).parameters()).buckets == []


@given(count=st.integers(1, 300), data=st.data())
def test_shares_are_even_and_leave_nothing_out(count: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, count))
    shares = [list(range(count))[share(count, rank, size)] for rank in range(size)]
    assert [place for part in shares for place in part] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@settings(max_examples=10)
@given(size=st.integers(1, 4), rows=st.integers(1, 3), columns=st.integers(4, 9))
def test_gradients_of_gathering(size: int, rows: int, columns: int) -> None:
    """A gather is the transpose of its backward pass: <gather x, dy> = <x, backward dy>, over all processes."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    inputs = {
        "rows": [random(rows, columns) for _ in range(size)],
        "columns": [random(rows, len(range(columns)[share(columns, r, size)])) for r in range(size)],
    }
    dys = {
        "rows": [random(size * rows, columns) for _ in range(size)],
        "columns": [random(rows, columns) for _ in range(size)],
    }

    def task(group: Group) -> dict[str, Any]:
        results = {}
        for kind, function in (("rows", GatherRows), ("columns", GatherColumns)):
            options = {"group": group} if kind == "rows" else {"group": group, "columns": columns}
            x = Tensor(inputs[kind][group.rank], requires_grad=True)
            y = function.apply(x, **options)
            y.backward(dys[kind][group.rank])
            results[kind] = y.data, x.grad
        return results

    results = Threads(size).run(task)
    for kind, axis in (("rows", 0), ("columns", 1)):
        whole = np.concatenate(inputs[kind], axis)
        for r, result in enumerate(results):
            y, dx = result[kind]
            assert_array_equal(y, whole)
            total = sum(dys[kind])
            first = sum(part.shape[axis] for part in inputs[kind][:r])
            own = np.take(total, range(first, first + dx.shape[axis]), axis)
            assert_allclose(dx, own, rtol=1e-5, atol=1e-5)


def test_own_rows() -> None:
    def task(group: Group) -> None:
        x = Tensor(np.arange(12, dtype=np.float32).reshape(6, 2), requires_grad=True)
        y = OwnRows.apply(x, group=group)
        own = slice(2 * group.rank, 2 * group.rank + 2)
        assert_array_equal(y.data, x.data[own])
        y.backward(np.ones((2, 2), np.float32))
        expected = np.zeros((6, 2))
        expected[own] = 1
        assert_array_equal(x.grad, expected)

    Threads(3).run(task)


def test_hybrid_holds_its_share_and_the_whole_network_is_the_same() -> None:
    plain = MINI.build(CPU, seed=5)

    def task(group: Group) -> int:
        network = Hybrid(MINI, CPU, group, seed=5)
        for name, w in network.state().items():
            assert_array_equal(w, plain.state()[name])
        network.load_state({name: w + 1 for name, w in plain.state().items()})
        for name, w in network.whole().state().items():
            assert_array_equal(w, plain.state()[name] + 1)
        with pytest.raises(ValueError, match=r"fc8.w: expected shape \(10, 256\), got \(9, 256\)"):
            network.sharded({"momentum/fc8.w": np.zeros((9, 256), np.float32)})
        return sum(p.data.size for p in network.parameters())

    sizes = Threads(4).run(task)
    dense = 2 * 65792 + 2570
    assert all(abs(size - (286_922 - dense + dense / 4)) <= 257 for size in sizes)


def test_statistics_of_batch_normalisation_are_the_mean_of_all() -> None:
    def task(group: Group) -> np.ndarray:
        network = nn.Sequential(norm=nn.BatchNorm(3))
        network["norm"].running_mean.data = np.full(3, group.rank, np.float32)
        average_buffers(group, network)
        return network["norm"].running_mean.data

    for mean in Threads(4).run(task):
        assert_array_equal(mean, 1.5)


def test_statistics_of_frozen_batch_normalisation_stay() -> None:
    """The mean of three equal numbers may be another."""
    odd = np.linspace(0.1, 0.7, 300, dtype=np.float32)
    assert not np.array_equal((odd + odd + odd) / np.float32(3), odd)

    def task(group: Group) -> list[np.ndarray]:
        network = nn.Sequential(norm=nn.BatchNorm(300))
        norm = network["norm"]
        norm.running_mean.data, norm.running_variance.data = odd.copy(), odd.copy()
        norm.gamma.requires_grad = norm.beta.requires_grad = False
        average_buffers(group, network)
        return [norm.running_mean.data, norm.running_variance.data]

    for kept in Threads(3).run(task):
        for statistics in kept:
            assert_array_equal(statistics, odd)


def test_batch_normalisation_of_fully_connected_layers_sees_the_whole_batch() -> None:
    model = Model(
        "normalised", "a test", (8, 8, 3),
        (conv("conv1", 4, 3), Flatten("f"), Linear("fc2", 16), BatchNorm("norm2"), Linear("fc3", 10, activation=None)),
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((8, 8, 8, 3)).astype(np.float32)
    labels = np.arange(8, dtype=np.int32)

    def gradients(
        network: nn.Module, x: np.ndarray, labels: np.ndarray, factor: float, buckets: Buckets
    ) -> dict[str, Any]:
        loss = ops.softmax_cross_entropy(network(Tensor(x)), Tensor(labels))
        loss.backward(np.full((), factor, np.float32), buckets.done)
        buckets.finish()
        return network.merged({name: p.grad for name, p in network.named_parameters()})

    plain = model.build(CPU)
    expected = gradients(plain, x, labels, 1, Buckets(Group(), []))

    def task(group: Group) -> dict[str, Any]:
        network = Hybrid(model, CPU, group)
        own = slice(4 * group.rank, 4 * group.rank + 4)
        return gradients(network, x[own], labels[own], 0.5, Buckets(group, network.replicated()))

    for actual in Threads(2).run(task):
        for name, g in expected.items():
            assert_allclose(actual[name], g, rtol=1e-4, atol=1e-6, err_msg=name)


# ---------------------------------------------------------------------------------------------- the loader


def kept(batches: Iterator[Any]) -> list[Batch]:
    """Copies, as a loader overwrites its images."""
    return [
        b._replace(images=b.images.copy()) for b in (item[1] if isinstance(item[0], int) else item for item in batches)
    ]


@given(
    count=st.integers(8, 40),
    own=st.integers(1, 5),
    parts=st.integers(1, 4),
    start=st.integers(0, 2),
    augmented=st.booleans(),
)
def test_parts_of_batches_make_up_those_of_one_process(
    count: int, own: int, parts: int, start: int, augmented: bool
) -> None:
    own = 2 if augmented else own  # of pairs
    data, batch = images(count, (8, 8)), own * parts
    more: dict[str, Any] = {"colour": np.eye(3, dtype=np.float32), "seed": 7}
    if augmented:
        more["augmentation"] = Augmentation(crop_area=0.5, rotation=20, brightness=0.2, contrast=0.3, mixup=0.4)
    load = [Loader(data, (6, 6), batch, True, part=part, parts=parts, **more) for part in range(parts)]
    whole = Loader(data, (6, 6), load[0].batch, True, **more)
    assert len({len(loader) for loader in (*load, whole)}) == 1
    if start < len(whole):
        together = zip(*(kept(loader.training(1, start)) for loader in load), strict=True)
        for expected, pieces in zip(kept(whole.training(1, start)), together, strict=True):
            for got, array in zip(zip(*pieces, strict=True), expected, strict=True):
                if array is None:
                    assert not any(piece is not None for piece in got)
                else:
                    assert_array_equal(np.concatenate(got), array)
            assert (expected.others is not None) == augmented
    seen = [batch.images for loader in load for batch in kept(loader.evaluation())]
    assert sorted(i.tobytes() for part in seen for i in part) == sorted(i.tobytes() for i in data.images)


class Unreadable(ArrayDataset):
    """Images that cannot be read where ``bad`` says so."""

    bad: Callable[[np.ndarray], np.ndarray]

    def load(self, indices: np.ndarray, out: np.ndarray | None = None) -> Any:
        good = np.flatnonzero(~self.bad(indices))
        found = super().load(indices[good], None if out is None else out[: len(good)])
        return found[0], found[1], good


def test_unreadable_images_leave_no_gap() -> None:
    whole = images(12, (8, 8))
    data = Unreadable(whole.images, whole.labels, whole.classes)
    data.bad = lambda indices: indices % 5 == 0
    for batch in kept(Loader(data, (8, 8), 6, part=1, parts=2).training(0)):
        assert batch.images.shape == (3, 8, 8, 3) and len(batch.labels) == len(batch.crops) == 3
        assert not set(batch.labels) & {0, 5}
        for image, label in zip(batch.images, batch.labels, strict=True):
            assert (image == whole.images[label::10]).all(axis=(1, 2, 3)).any()
    data.bad = lambda indices: indices >= 0
    with pytest.raises(DataError, match="none of the 3 images of a process's part of a batch can be read"):
        kept(Loader(data, (8, 8), 6, part=1, parts=2).training(0))


def test_batches_that_do_not_divide() -> None:
    mixed = Augmentation(mixup=0.2)
    with pytest.raises(ValueError, match=r"mixup: expected an even number .* in each process, got 3"):
        Loader(images(20, (8, 8)), (8, 8), 6, parts=2, augmentation=mixed)
    with pytest.raises(ValueError, match="batch: expected a multiple of the 3 processes, got 8"):
        Loader(images(20, (8, 8)), (8, 8), 8, part=0, parts=3)
    with pytest.raises(DataError, match="expected at least one image for each of 3 processes, got 2"):
        Loader(images(2, (8, 8)), (8, 8), 9, part=0, parts=3)


# ---------------------------------------------------------------------------------------------- real processes

TRAIN = ["-m", "alexnet_cuda.train", "--device", "cpu", "--threads", "1"]


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in map(json.loads, (folder / "metrics.jsonl").open()) if record["kind"] == "step"]


@pytest.mark.parametrize("mode", ["data", "hybrid"])
def test_a_run_moves_between_numbers_of_processes(tiny_images: Path, tmp_path: Path, mode: str) -> None:
    """One epoch in two processes and one in one are two in one, within rounding; and back again."""
    common = ["--data", f"folder:{tiny_images}", "--batch", "8", "--epochs"]
    schedule = ["--set", "schedule=constant", "--lr", "0.001"]
    alone, moved = tmp_path / "alone", tmp_path / "moved"
    arguments = ["--device", "cpu", *common, "2", *schedule, "--out", str(alone)]
    assert command_line.run(train.main, arguments) == 0
    done = mpirun(2, [*TRAIN, "--parallel", mode, *common, "1", *schedule, "--out", str(moved)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == 1  # one of them speaks
    assert "group 2 processes, 4 images of each batch in each, rate 0.001" in done.stdout
    assert command_line.run(train.main, ["--resume", str(moved), "--epochs", "2"]) == 0
    first, second = checkpoint.load(alone), checkpoint.load(moved)
    assert second.description["progress"]["step"] == 2 * 7
    for key, w in first.weights.items():
        assert np.linalg.norm(second.weights[key] - w) <= 1e-5 * np.linalg.norm(w)
    assert losses(moved) == pytest.approx(losses(alone), rel=1e-5)
    done = mpirun(3, [*TRAIN[:-2], "--parallel", mode, "--resume", str(moved), "--epochs", "3"])
    assert done.returncode == 2
    assert "batch: expected a multiple of the 3 processes, got 8" in done.stderr
    assert "Traceback" not in done.stderr
    done = mpirun(4, [*TRAIN, "--parallel", mode, "--resume", str(moved), "--epochs", "3"])
    assert done.returncode == 0, done.stderr
    assert checkpoint.load(moved).description["progress"]["epoch"] == 3


def test_hybrid_scales_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    def rate(*arguments: str) -> str:
        assert command_line.run(train.main, [*arguments, "--print-config"]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("lr ="))

    base = recipe.load("alexnet").lr
    assert rate("--model", "alexnet", "--batch", "512") == f"lr = {base}"
    assert rate("--model", "alexnet", "--batch", "512", "--parallel", "hybrid") == f"lr = {4 * base}"
    assert rate("--model", "alexnet", "--batch", "512", "--parallel", "data") == f"lr = {base}"
    assert rate("--model", "alexnet", "--batch", "512", "--parallel", "hybrid", "--lr", "0.5") == "lr = 0.5"
    assert rate("--model", "alexnet", "--batch", "512", "--parallel", "hybrid", "--set", "lr=0.5") == "lr = 0.5"


def test_a_killed_process_ends_the_run_and_leaves_its_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = ["--data", "synthetic:60", "--batch", "30", "--epochs", "100000", "--out", str(folder)]
    process = start(3, [*TRAIN, "--parallel", "data", *run])
    try:
        until = time.monotonic() + 60
        while not (folder / "best.safetensors").exists() and time.monotonic() < until:
            time.sleep(0.05)
        victim = youngest(folder)
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        out, error = process.communicate(timeout=30)
        assert time.monotonic() - began < 30
    finally:
        process.kill()
    assert process.returncode != 0
    assert f": {victim} on " in out  # which process it is
    ours = f"({victim} on " in error and " died" in error
    assert ours or "Killed (signal 9)" in out + error  # the launcher may be faster; it does not always name the first
    assert checkpoint.load(folder).description["progress"]["epoch"] >= 1


def youngest(folder: Path) -> int:
    """The process that was started last to train into this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(folder).encode() in words and b"python" in words[0]:
                found.append(int(entry.name))
    return max(found)


def test_interrupted_together(tmp_path: Path) -> None:
    """What stops one stops all after the same step, and the run goes on from there."""
    folder = tmp_path / "run"
    arguments = [*TRAIN, "--data", "synthetic:64", "--parallel", "hybrid", "--epochs", "100000", "--out", str(folder)]
    process = start(2, arguments)
    try:
        until = time.monotonic() + 60
        while not (folder / "best.safetensors").exists() and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(youngest(folder), signal.SIGTERM)
        out, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "interrupted after step" in out, error
    step = checkpoint.load(folder).description["progress"]["step"]
    assert f"interrupted after step {step:,};" in out


def test_processes_that_differ_are_refused(tmp_path: Path) -> None:
    common = [*TRAIN, "--data", "synthetic:64", "--parallel", "data", "--epochs", "1", "--out", str(tmp_path / "run")]
    done = mpirun(1, [*common, "--lr", "0.1", ":", "-n", "1", sys.executable, *common, "--lr", "0.2"])
    assert done.returncode == 2, done.stderr
    assert "error: process 1 differs from process 0 in lr: 0.2, not 0.1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_data_that_one_process_lacks(tiny_images: Path, tmp_path: Path) -> None:
    """As where a disk is mounted on one of two machines."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    (tmp_path / "first" / "images").symlink_to(tiny_images)
    command = [sys.executable, *TRAIN, "--parallel", "data", "--data", "folder:images", "--out", str(tmp_path / "run")]
    second = [":", "-n", "1", "-wdir", str(tmp_path / "second"), *command]
    done = mpirun(1, [*command[1:], *second], options=["-wdir", str(tmp_path / "first")])
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    place = tmp_path / "second" / "images"
    assert sorted(lines) == [f"error: {place}: no such folder", f"error: process 1: {place}: no such folder"]
    assert not (tmp_path / "run").exists()


def test_other_images_are_noticed() -> None:
    config = run_folder.Config(Recipe())
    one = images(20, (8, 8))
    other = ArrayDataset(one.images.copy(), one.labels, one.classes)
    other.images[-1, 0, 0, 0] ^= 1
    first, second = (train._identity(config, None, None, Data(one, test, "", False)) for test in (one, other))
    assert [name for name in first if first[name] != second[name]] == ["test images"]
    assert train._identity(replace(config, data="folder:/elsewhere"), None, None, Data(one, one, "", False)) == first


ONE_OF_TWO = {"RANK": "0", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ([], {"PMI_SIZE": "4"}, "this is one of 4 processes: --parallel data or hybrid says how they train together"),
        (["--parallel", "data", "--device", "cpu:0,cpu:1"], {}, "--device cpu:0,cpu:1: expected cpu or cuda"),
        (["--parallel", "data", "--batch", "10"], {"PMI_SIZE": "4"}, "expected a multiple of the 4 processes, got 10"),
        (["--parallel", "towers"], {}, "argument --parallel: invalid choice: 'towers' (choose from"),
        (["--parallel", "data"], ONE_OF_TWO, "processes on CPUs talk through MPI: start them with mpirun -n N"),
        (["--parallel", "data"], {**ONE_OF_TWO, "RANK": "x"}, "RANK: expected a number from 0 to 1, got 'x'"),
        (["--parallel", "hybrid"], {"PMI_SIZE": "16"}, "model alexnet-mini: fc8 has 10 neurons for 16 processes"),
        (["--parallel", "data"], {"OMPI_COMM_WORLD_SIZE": "2"}, "launcher and library are of different MPIs"),
    ],
)
def test_refusals(tmp_path: Path, arguments: list[str], variables: dict[str, str], message: str) -> None:
    command = [sys.executable, *TRAIN, *arguments, "--data", "synthetic:64"]
    environ = {**environment(), **variables}
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
