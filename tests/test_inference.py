"""Trained networks: probabilities over views, activations, features, and what they refuse."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from stand_in_cupy import StandIn

from alexnet_cuda import Tensor, backend, checkpoint, command_line, init, kernels, models, pack, trace, train
from alexnet_cuda.data import ten_views
from alexnet_cuda.inference import Trained
from alexnet_cuda.metrics import read_metrics
from alexnet_cuda.models import Model

pytest_plugins = ["stand_in_cupy", "tiny_run"]

CPU = backend.device("cpu")


@pytest.fixture(scope="module")
def trained(tiny_run: Path) -> Trained:
    return Trained.load(tiny_run, CPU)


@pytest.fixture(scope="module")
def images(trained: Trained) -> np.ndarray:
    data = trained.data()
    return data.test.load(np.arange(11))[0].copy()


def seen(trained: Trained, images: np.ndarray, top: int, left: int, mirrored: int) -> np.ndarray:
    """The network's input as NumPy would make it."""
    H, W, _ = trained.model.input
    x = (images.astype(np.float32) - trained.mean) * np.float32(trained.config["scale"])
    x = x[:, top : top + H, left : left + W]
    return x[:, :, ::-1].copy() if mirrored else x.copy()


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# ---- probabilities


def test_weights_that_are_loaded_are_not_drawn(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        raise AssertionError("weights were drawn")

    monkeypatch.setattr(init, "normal", lambda std: drawn)
    monkeypatch.setattr(init, "he_normal", lambda truncated=False: drawn)
    Trained.load(tiny_run, CPU)
    with pytest.raises(AssertionError, match="weights were drawn"):
        models.get("alexnet-mini").build(CPU)


def test_the_centre_is_the_default_view(trained: Trained, images: np.ndarray) -> None:
    expected = softmax(trained.network(Tensor(seen(trained, images, 2, 2, 0))).numpy())
    got = trained.probabilities(images)
    assert got.dtype == np.float32
    assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert_allclose(got.sum(axis=1), 1, rtol=1e-5)


def test_ten_views_are_the_mean_of_ten_softmaxes(trained: Trained, images: np.ndarray) -> None:
    places = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    views = [(*place, mirrored) for place in places for mirrored in (0, 1)]
    single = [softmax(trained.network(Tensor(seen(trained, images, *view))).numpy()) for view in views]
    got = trained.probabilities(images, ten_views((36, 36), (32, 32)))
    assert_allclose(got, np.mean(single, axis=0), rtol=1e-5, atol=1e-6)
    assert np.abs(got - single[-2]).max() > 1e-4


def test_batches_do_not_show(trained: Trained, images: np.ndarray) -> None:
    crops = ten_views((36, 36), (32, 32))[:3]
    few = replace(trained, batch=4)
    assert_allclose(few.probabilities(images, crops), trained.probabilities(images, crops), rtol=1e-5, atol=1e-6)
    assert_allclose(few.features(images), trained.features(images), rtol=1e-4, atol=1e-5)


def test_dropout_is_off_and_nothing_is_recorded(trained: Trained, images: np.ndarray) -> None:
    assert_array_equal(trained.probabilities(images), trained.probabilities(images))
    assert all(p.grad is None and p.function is None for p in trained.network.parameters())


def test_probabilities_come_from_the_folded_network_and_layers_from_the_whole(
    trained: Trained, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout before fc7 multiplies by 1 - p in the one, and is in the weights of fc7 in the other."""
    fresh = Trained.load(trained.path, CPU)
    expected = fresh.probabilities(images)

    def refuse(_: Tensor) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(fresh.network["drop6"], "forward", refuse)
    assert_array_equal(fresh.probabilities(images), expected)
    with pytest.raises(AssertionError):
        fresh.features(images)


# ---- on a GPU: graphs


def on_gpu(trained: Trained) -> Trained:
    return Trained.load(trained.path, backend.device("cuda"), batch=4)


def eager(trained: Trained, images: np.ndarray, crops: np.ndarray | None = None) -> np.ndarray:
    """Probabilities, nothing of them replayed: what is traced is not."""
    with trace.recording():
        return trained.probabilities(images, crops)


@pytest.fixture
def no_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace asks no device for the time."""
    monkeypatch.setattr(backend, "clock", lambda where: trace.now)


@pytest.mark.usefixtures("no_moments")
def test_replays_give_the_bits_of_eager_calls(stand_in: StandIn, trained: Trained, images: np.ndarray) -> None:
    """Of batches of 4, 4 and 3, by one view and by three; the second of a size is recorded."""
    gpu, views = on_gpu(trained), ten_views((36, 36), (32, 32))[3:6]
    others = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    expected = [eager(gpu, some, crops) for some in (images, others) for crops in (None, views)]
    assert not stand_in.log["graph"]
    assert_allclose(expected[0], trained.probabilities(images), rtol=1e-4, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for launches in (12 - 4, 12, 12):
            stand_in.log.clear()
            got = [gpu.probabilities(some, crops) for some in (images, others) for crops in (None, views)]
            assert_array_equal(got, expected)
            assert stand_in.log["graph"] == launches


def test_a_replay_is_copies_and_one_launch(stand_in: StandIn, trained: Trained, images: np.ndarray) -> None:
    gpu = on_gpu(trained)
    for _ in range(3):
        stand_in.log.clear()
        gpu.probabilities(images[:4])
    assert stand_in.log.pop("event") == 1  # that what was on its way two batches ago has left the host's memory
    assert stand_in.log == {"copy from the host": 2, "copy": 2, "graph": 1, "wait": 1}


def test_weights_that_are_loaded_are_those_that_are_used(
    stand_in: StandIn, trained: Trained, images: np.ndarray
) -> None:
    """Also where a recording has others."""
    for one in (on_gpu(trained), Trained.load(trained.path, CPU)):
        for _ in range(3):
            before = one.probabilities(images[:4])
        state = one.network.state()
        one.network.load_state({name: -w for name, w in state.items()})
        opposite = [one.probabilities(images[:4]) for _ in range(3)]
        assert np.abs(opposite[0] - before).max() > 0.1
        one.network.load_state(state)
        assert_array_equal(one.probabilities(images[:4]), before)
        assert_array_equal(opposite, opposite[:1] * 3)


def test_what_cannot_be_recorded_is_said_once(
    stand_in: StandIn, trained: Trained, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, softmax = on_gpu(trained), kernels.softmax
    expected = on_gpu(trained).probabilities(images)
    stand_in.log.clear()

    def looking(x: Any) -> Any:
        backend.synchronize(gpu.device)
        return softmax(x)

    monkeypatch.setattr(kernels, "softmax", looking)
    with pytest.warns(UserWarning, match="inference is no CUDA graph, .* waiting for the device cannot be") as said:
        found = [gpu.probabilities(images) for _ in range(3)]
    assert len(said) == 1 and not stand_in.log["graph"]
    assert_array_equal(found, [expected] * 3)


@pytest.mark.gpu
def test_a_gpu_says_the_same(trained: Trained, images: np.ndarray) -> None:
    if problem := backend.gpu_problem():
        pytest.skip(problem)
    other = Trained.load(trained.path, backend.device("cuda"), batch=4)
    crops = ten_views((36, 36), (32, 32))
    assert_allclose(other.probabilities(images, crops), trained.probabilities(images, crops), rtol=1e-3, atol=1e-4)
    assert_allclose(other.features(images), trained.features(images), rtol=1e-3, atol=1e-3)


# ---- activations


def test_activations_are_the_outputs_of_layers(trained: Trained, images: np.ndarray) -> None:
    x = Tensor(seen(trained, images, 2, 2, 0))
    expected = {}
    for name, module in trained.network.children():
        expected[name] = x = module(x)
    got = trained.activations(images, ["fc8", "conv1", "pool5"])
    assert list(got) == ["conv1", "pool5", "fc8"]
    for name, y in got.items():
        assert_array_equal(y, expected[name].numpy())
    assert_allclose(softmax(got["fc8"]), trained.probabilities(images), rtol=1e-5, atol=1e-6)


def test_layers_after_the_last_one_asked_for_are_not_computed(
    trained: Trained, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Tensor) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(trained.network["conv2"], "forward", refuse)
    assert trained.activations(images, ["pool1"])["pool1"].shape == (11, 8, 8, 32)
    with pytest.raises(AssertionError):
        trained.activations(images, ["conv2"])


def test_an_unknown_layer_is_named(trained: Trained, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"layer 'fc9': expected one of conv1, .*, fc8"):
        trained.activations(images, ["conv1", "fc9"])


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("alexnet", "fc7"),
        ("alexnet-owt", "fc7"),
        ("alexnet-mini", "fc7"),
        ("keras-2x2", "fc7"),  # dropout and normalisation come after it
        ("keras-9216", "fc8"),
        ("cifar-80sec", "fc4"),
        ("cifar-18pct", "flatten"),  # no hidden layer is fully connected
    ],
)
def test_the_hidden_layer_comes_before_the_classifier_and_its_dropout(trained: Trained, name: str, layer: str) -> None:
    assert replace(trained, model=models.get(name)).hidden == layer


def test_features_are_the_rectified_output_of_the_hidden_layer(trained: Trained, images: np.ndarray) -> None:
    features = trained.features(images)
    assert features.shape == (11, 256) and features.dtype == np.float32
    assert_array_equal(features, trained.activations(images, ["fc7"])["fc7"])
    assert features.min() == 0


# ---- loading


def test_options_of_the_model_are_kept(tiny_run: Path, tmp_path: Path, images: np.ndarray) -> None:
    saved = checkpoint.load(tiny_run)
    config = {**saved.description["config"], "options": {"lrn": False, "activation": "tanh"}}
    checkpoint.save(tmp_path / "other", replace(saved, description={**saved.description, "config": config}))
    other = Trained.load(tmp_path / "other", CPU)
    assert "lrn1" not in [layer.name for layer in other.model.layers]
    assert other.features(images).min() < 0


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("config"), "lacks what tells the network: 'config'"),
        (lambda d: d["config"].pop("options"), "lacks what tells the network: 'options'"),
        (lambda d: d.pop("classes"), "lacks what tells the network: 'classes'"),
        (lambda d: d["config"].update(scale=None), "lacks what tells the network"),
        (lambda d: d["config"].update(model="alexnet-mni"), "did you mean alexnet-mini"),
        (lambda d: d["config"].update(options={"lnr": False}), "unknown option model.lnr"),
        (lambda d: d["classes"].pop(), "fc8.w: expected float32 \\(6, 256\\), got float32 \\(7, 256\\)"),
        (lambda d: d["config"].update(model="cifar-80sec"), "missing fc4.w"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    tiny_run: Path, tmp_path: Path, change: Change, message: str
) -> None:
    saved = checkpoint.load(tiny_run)
    change(saved.description)
    checkpoint.save(tmp_path / "strange", saved)
    with pytest.raises(ValueError, match=message):
        Trained.load(tmp_path / "strange", CPU)


# ---- data


def test_the_data_are_those_of_the_training(trained: Trained, tiny_images: Path) -> None:
    data = trained.data()
    assert data.test.size == (36, 36)
    assert len(data.train) == 56 and len(data.test) == 35
    assert str(tiny_images) in data.split


def test_a_run_on_images_without_a_margin_gets_them_so(trained: Trained) -> None:
    bare = replace(trained, mean=trained.mean[2:-2, 2:-2])
    data = bare.data()
    assert data.test.size == (32, 32)
    assert_array_equal(bare.centre, [[0, 0, 0]])
    assert bare.probabilities(data.test.load(np.arange(3))[0]).shape == (3, 7)


def test_data_with_other_classes_are_refused(trained: Trained) -> None:
    with pytest.raises(ValueError, match=r"synthetic:10 and .* differ in classes: 10 and 7"):
        trained.data("synthetic:10")
    with pytest.raises(ValueError, match=r"synthetic:7 and .* differ in classes: class 0 is '0' and '<i>"):
        trained.data("synthetic:7")


@pytest.mark.parametrize("crop", ["true", "false"])
def test_the_test_images_are_those_of_the_training(tmp_path: Path, crop: str) -> None:
    """Of a source that draws its images in the size asked for."""
    run = ["--device", "cpu", "--epochs", "1", "--set", f"crop={crop}", "--out", str(tmp_path / "run")]
    assert command_line.run(train.main, run) == 0
    loaded = Trained.load(tmp_path / "run", backend.device("cpu"))
    test = loaded.data().test
    images, labels, _ = test.load(np.arange(len(test)))
    right = (loaded.probabilities(images).argmax(axis=1) == labels).mean()
    assert right == pytest.approx(read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["test_accuracy"])


def test_files_are_decoded_to_the_size_of_the_mean_image(trained: Trained) -> None:
    assert replace(trained, mean=np.zeros((40, 40, 3), np.float32)).data().test.size == (40, 40)


def test_data_of_another_size_are_refused(trained: Trained, tiny_images: Path, tmp_path: Path) -> None:
    assert command_line.run(pack.main, [f"folder:{tiny_images}", f"{tmp_path}/pack", "--size", "38"]) == 0
    with pytest.raises(ValueError, match=r"holds images of 38x38 pixels, .* knows 36x36"):
        trained.data(f"packed:{tmp_path}/pack")


def test_no_model_is_without_a_hidden_layer(trained: Trained) -> None:
    for name in models.names():
        model: Model = models.get(name)
        assert replace(trained, model=model).hidden in [layer.name for layer in model.layers[:-1]]


def test_a_network_is_loaded_by_the_names_of_its_folder_and_device(tiny_run: Path) -> None:
    named, meant = Trained.load(str(tiny_run), "cpu"), Trained.load(tiny_run, CPU)
    assert (named.path, named.device) == (meant.path, meant.device)
    images = np.zeros((2, *meant.mean.shape), np.uint8)
    assert_array_equal(named.probabilities(images), meant.probabilities(images))
    with pytest.raises(ValueError, match=r"unknown device 'cdua': .*; did you mean cuda\?"):
        Trained.load(str(tiny_run), "cdua")
    with pytest.raises(checkpoint.CheckpointError, match="none: no such checkpoint"):
        Trained.load("none", "cpu")
