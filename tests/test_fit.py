"""``alexnet_cuda.fit`` and what it takes for data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import reference
from sklearn.datasets import load_digits

import alexnet_cuda
from alexnet_cuda import Tensor, checkpoint, inference, models, nn, ops, optim, recipe, schedule
from alexnet_cuda.data import ArrayDataset, DataError, Dataset, divided, given

DIGITS = load_digits()
FLOATS = (DIGITS.images[..., None] / 16).astype(np.float32)[:600]
LABELS = DIGITS.target.astype(np.int32)[:600]
PIXELS = np.repeat(np.rint(DIGITS.images[..., None] * 15.9).astype(np.uint8), 3, axis=3)[:600]


@pytest.fixture(autouse=True)
def _registered_here_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_by_name", models._by_name.copy())


class Small(nn.Module):
    def __init__(self, channels: int, seed: int = 0) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.conv = nn.Conv2d(channels, 8, 3, padding=1, activation="relu", rng=rng)
        self.norm = nn.BatchNorm(8)
        self.head = nn.Linear(8 * 4 * 4, 10, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(ops.flatten(ops.max_pool2d(self.norm(self.conv(x)), 2)))


def fit(net: Any, data: Any, *more: Any, **options: Any) -> list[Any]:
    return alexnet_cuda.fit(net, data, *more, quiet=True, **{"epochs": 2, "device": "cpu", **options})


def test_a_module_learns_arrays_and_is_trained_where_it_is() -> None:
    net, heard = Small(1), list[int]()
    epochs = fit(net, (FLOATS, LABELS), epochs=6, lr=0.05, on_epoch=lambda epoch: heard.append(epoch.epoch))
    assert [epoch.epoch for epoch in epochs] == heard == [1, 2, 3, 4, 5, 6]
    assert epochs[-1].test.top1 > 0.85
    assert not net.training
    answers = net(Tensor(FLOATS)).numpy().argmax(axis=1)
    assert (answers == LABELS).mean() > 0.9


@pytest.mark.parametrize(
    "change",
    [{"mirror": True}, {"colour": "paper"}, {"crop_area": 0.5}, {"rotation": 20}, {"contrast": 0.5}, {"mixup": 0.4}],
    ids=lambda change: next(iter(change)),
)
def test_images_are_changed_as_the_recipe_says(change: dict[str, Any]) -> None:
    plain, changed = Small(3), Small(3)
    fit(plain, (PIXELS, LABELS), epochs=1)
    fit(changed, (PIXELS, LABELS), epochs=1, **change)
    assert not np.array_equal(plain.head.w.numpy(), changed.head.w.numpy())


@pytest.mark.parametrize(("images", "channels"), [(FLOATS, 1), (PIXELS, 3)])
def test_equal_arguments_give_equal_bits_and_a_run_goes_on(tmp_path: Path, images: Any, channels: int) -> None:
    arguments = {"schedule": "constant", "batch": 64}
    straight, parts = Small(channels), Small(channels)
    fit(straight, (images, LABELS), **arguments, out=tmp_path / "straight")
    fit(parts, (images, LABELS), **arguments, out=tmp_path / "parts", epochs=1)
    fresh = Small(channels, seed=1)
    (second,) = fit(fresh, (images, LABELS), **arguments, out=tmp_path / "parts", resume=True)
    assert second.epoch == 2
    assert all(np.array_equal(w, fresh.state()[name]) for name, w in straight.state().items())
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("start") == kinds.count("epoch") == 2
    assert {"config.toml", "curve.png", "best.safetensors"} <= {path.name for path in (tmp_path / "parts").iterdir()}
    assert checkpoint.load(tmp_path / "parts").description["config"]["data"] == "fit"
    with pytest.raises(ValueError, match="not empty"):
        fit(Small(channels), (images, LABELS), out=tmp_path / "parts")


def test_pixels_are_centred_and_a_trained_module_works_as_a_run(tmp_path: Path) -> None:
    net = Small(3)
    fit(net, (PIXELS, LABELS), out=tmp_path / "run", batch=64)
    trained = inference.Trained.load(tmp_path / "run", "cpu")
    assert trained.model.name == "Small"
    assert trained.network is not net  # what is done with the run does not reach it
    assert np.abs(trained.mean - PIXELS.mean(axis=0)).max() < 40  # of the training images alone
    seen = (PIXELS[:5] - trained.mean) * np.float32(1 / 64)
    expected = net(Tensor(seen.astype(np.float32))).numpy()
    found = trained.probabilities(PIXELS[:5])
    assert np.allclose(found, np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True), atol=1e-5)


def test_models_are_made_for_the_classes_of_the_data() -> None:
    images = reference.random(64, 32, 32, 3).astype(np.float32)
    data = (images * 20 + 128).astype(np.uint8), np.arange(64) % 3
    (epoch,) = fit("alexnet-mini", data, epochs=1, batch=16, classes=["a", "b", "c"])
    assert epoch.test.images == 12  # a fifth of each class


class Items:
    """A map-style data set without labels of its own."""

    def __init__(self, images: Any = FLOATS, labels: Any = LABELS) -> None:
        self.images, self.pairs = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        return self.images[number], int(self.pairs[number])


def pairs() -> Iterator[tuple[Any, int]]:
    yield from zip(FLOATS, LABELS.tolist(), strict=True)


@pytest.mark.parametrize("data", [(FLOATS, LABELS), pairs, Items(), [*zip(FLOATS, LABELS, strict=True)]])
def test_all_forms_of_data_are_the_same(data: Any) -> None:
    found = given(data() if callable(data) else data)
    assert (len(found), found.size, tuple(found.classes)) == (600, (8, 8), tuple(map(str, range(10))))
    images, labels, read = found.load(np.array([5, 0, 599]))
    assert np.array_equal(images, FLOATS[[5, 0, 599]])
    assert labels.tolist() == LABELS[[5, 0, 599]].tolist()
    assert read.tolist() == [0, 1, 2]
    train, test = divided(found)
    assert {len(train), len(test)} == {len(train), 600 - len(train)}
    every = np.concatenate([part.load(np.arange(len(part)))[0] for part in (train, test)])
    assert sorted(map(bytes, every)) == sorted(map(bytes, FLOATS))


def test_images_become_what_is_stored() -> None:
    grey = (FLOATS[..., 0] * 255).astype(np.uint8)
    found = given((grey, LABELS), classes=12)
    assert len(found.classes) == 12
    images, *_ = found.load(np.arange(3))
    assert np.array_equal(images, grey[:3, ..., None].astype(np.float32) / np.float32(255))
    assert given((PIXELS, LABELS)).load(np.arange(3))[0].dtype == np.uint8
    whole: Dataset = ArrayDataset(PIXELS, LABELS, "abcdefghij")
    assert given(whole) is whole


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (FLOATS, "item 0: expected a pair of image and label, got ndarray"),
        ((FLOATS, LABELS[:-1]), "expected a label for each image, got 600 images and 599 labels"),
        ((FLOATS, LABELS - 1), "labels: expected whole numbers from 0 on, got -1"),
        ((FLOATS, LABELS / 2), "labels: expected whole numbers from 0 on, got float64"),
        ((FLOATS.astype(int), LABELS), "images: expected uint8 or floats, got int64"),
        ([(FLOATS[0, 0, 0], 1)], r"item 0: expected an array of shape \(H, W, C\), got \(1,\)"),
        ([(FLOATS[0], 1), (FLOATS[0, :4], 1)], r"item 1: expected float32 \(8, 8, 1\) as item 0, got float32 \(4, 8"),
        ([], "expected pairs of image and label, got none"),
        (Items([], []), "got an empty Items"),
        ({"images": FLOATS}, r"expected \(images, labels\), pairs of image and label, or a data set, got dict"),
        (7, "or a data set, got int"),
    ],
)
def test_what_is_no_data_is_told(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        given(data)


def test_an_item_of_another_size_is_told_when_it_comes() -> None:
    found = given(Items([FLOATS[0], FLOATS[1, :4]], [0, 1]))
    with pytest.raises(DataError, match="item 1: expected float32"):
        found.load(np.array([1]))
    with pytest.raises(DataError, match="classes: expected at least 10, as the labels go to 9, got 3"):
        given((FLOATS, LABELS), classes=3)


def test_wrong_arguments_are_told(tmp_path: Path) -> None:
    data = FLOATS, LABELS
    for net, options, message in (
        (Small(1), {"mirror": True}, "mirror: expected images in uint8 and three channels to change, got others"),
        (Small(1), {"epoch": 3}, "unknown entry epoch; did you mean epochs"),
        (Small(1), {"layers": {"cov": {"lr": 0}}}, "Small has no such layer with weights; did you mean conv"),
        (Small(1), {"resume": True}, "resume: expected out"),
        (Small(1), {"test": (FLOATS[:, :4], LABELS)}, "test: expected images and classes as in data"),
        ("alexnet-mini", {}, r"alexnet-mini sees images \(H, W, C\) of \(32, 32, 3\), got \(8, 8, 1\)"),
        ("alexnet-mimi", {}, "did you mean alexnet-mini"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(net, data, **options)
    with pytest.raises(TypeError, match="fit: expected a Module, a model or the name of one, got int"):
        fit(3, data)
    with pytest.raises(ValueError, match=r"expected an output of shape \(2, 12\)"):
        fit(Small(1), data, classes=12)


def test_rules_and_rates_of_layers_work() -> None:
    net = Small(1)
    before = net.state()
    fit(net, (FLOATS, LABELS), epochs=1, layers={"conv": {"lr": 0}}, freeze=["norm"])
    after = net.state()
    assert np.array_equal(before["conv.w"], after["conv.w"])
    assert np.array_equal(before["norm.gamma"], after["norm.gamma"])
    assert not np.array_equal(before["head.w"], after["head.w"])


def test_schedules_work_in_a_loop_of_ones_own() -> None:
    net = Small(1)
    made = recipe.Recipe(epochs=2, schedule="cosine", warmup=1.0)
    rates, sgd = schedule.Schedule(made, net, epoch_steps=4), optim.SGD(net.parameters(), lr=0.1)
    factors = []
    for step in range(8):
        factors.append(rates.apply(epoch=step // 4, step=step, drops=0))
        before = net.head.b.numpy().copy()
        sgd.zero_grad()
        ops.softmax_cross_entropy(net(Tensor(FLOATS[:8])), Tensor(LABELS[:8])).backward()
        sgd.step()
        moved = np.abs(net.head.b.numpy() - before).max()
        assert (moved > 0) == (factors[-1] > 0)
        assert np.isclose(net.head.b.lr_scale, factors[-1])
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert np.allclose(factors[4:], [schedule.cosine(i / 4) for i in range(4)])


@pytest.mark.oracle
def test_data_of_pytorch_are_taken_as_they_are(import_oracle: Callable[[str], ModuleType]) -> None:
    torch = import_oracle("torch")
    utils = torch.utils.data
    chw = torch.from_numpy(np.ascontiguousarray(np.moveaxis(PIXELS, -1, 1)))
    labels = torch.from_numpy(LABELS.astype(np.int64))
    whole = utils.TensorDataset(chw, labels)

    class Streamed(utils.IterableDataset):  # type: ignore[name-defined, misc] (the oracle is not there for mypy)
        def __iter__(self) -> Iterator[Any]:
            return iter(zip(chw, labels, strict=True))

    for data in (whole, utils.DataLoader(whole, batch_size=32, shuffle=True), Streamed(), (chw, labels)):
        found = given(data)
        assert np.array_equal(found.load(np.array([7, 3]))[0], PIXELS[[7, 3]])
        assert found.labels.tolist() == LABELS.tolist()
    part = given(utils.Subset(whole, range(100, 200)))
    assert np.array_equal(part.load(np.array([0]))[0], PIXELS[[100]])
    floats = utils.TensorDataset(chw.float() / 255, labels)
    assert np.array_equal(given(floats).load(np.array([7]))[0], PIXELS[[7]].astype(np.float32) / np.float32(255))

    ours, theirs = Small(3), Small(3)
    train, test = (utils.Subset(whole, range(*ends)) for ends in ((0, 500), (500, 600)))
    fit(ours, (PIXELS[:500], LABELS[:500]), (PIXELS[500:], LABELS[500:]), batch=25)
    fit(theirs, utils.DataLoader(train, batch_size=25), utils.DataLoader(test, batch_size=7))
    assert all(np.array_equal(w, theirs.state()[name]) for name, w in ours.state().items())


@pytest.mark.oracle
def test_loaders_that_do_more_are_refused(import_oracle: Callable[[str], ModuleType]) -> None:
    """What a sampler leaves out, as to test on, must not be trained on."""
    torch = import_oracle("torch")
    utils = torch.utils.data
    whole = utils.TensorDataset(torch.from_numpy(np.moveaxis(PIXELS, -1, 1).copy()), torch.from_numpy(LABELS))

    def collate(items: list[Any]) -> Any:
        return utils.default_collate(items)

    weights = np.ones(len(whole))
    for options, message in (
        ({"sampler": utils.SubsetRandomSampler(range(100))}, r"sampler: .*, got a SubsetRandomSampler: .*Subset$"),
        ({"sampler": utils.WeightedRandomSampler(weights, 50)}, "sampler: .*, got a WeightedRandomSampler"),
        ({"sampler": utils.RandomSampler(whole, replacement=True)}, "sampler: .*, got a RandomSampler"),
        ({"sampler": utils.RandomSampler(whole, num_samples=50)}, "sampler: .*, got a RandomSampler"),
        ({"batch_sampler": [[0, 1], [2, 3]]}, "batch_sampler: expected a batch_size, got a list"),
        ({"collate_fn": collate}, "collate_fn: expected that of PyTorch, got collate"),
    ):
        with pytest.raises(DataError, match=f"^DataLoader: {message}"):
            given(utils.DataLoader(whole, **options))
    for options in ({"shuffle": True}, {"batch_size": None}, {"drop_last": True, "batch_size": 64}):
        assert len(given(utils.DataLoader(whole, **options)).labels) == len(LABELS)
