"""What ``convert`` writes for Keras, in Keras itself: it is loaded without a line of ours, and gives our logits."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from test_deploy import NETS
from test_oracle_weights import call, close_to_the_largest, from_caffe, logits, ours, seen, small_if_large

from alexnet_cuda import backend, checkpoint, command_line, convert, models
from alexnet_cuda.checkpoint import Checkpoint
from alexnet_cuda.inference import Trained
from alexnet_cuda.models.layers import AvgPool2d, Conv2d, Flatten, Linear, Local2d, Lrn, MaxPool2d, SpatialLrn

pytestmark = pytest.mark.oracle


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["as it comes", "float64, channels first"])
def keras(request: pytest.FixtureRequest, keras_on_torch: Any) -> Any:
    """Keras with settings that its user may have."""
    config = keras_on_torch.config
    policy, order = config.dtype_policy(), config.image_data_format()
    if request.param != "as it comes":
        config.set_dtype_policy("float64")
        config.set_image_data_format("channels_first")
    yield keras_on_torch
    config.set_dtype_policy(policy)
    config.set_image_data_format(order)


def exported(saved: Checkpoint, dst: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Writes a file for Keras; returns pixels and their logits here."""
    checkpoint.save(Path("a.safetensors"), saved)
    call("a.safetensors", dst)
    trained = Trained.of(saved, Path("a"), backend.device("cpu"))
    stored = np.random.default_rng(1).integers(0, 256, (count, *saved.mean.shape), np.uint8)
    return seen(trained, stored), logits(trained, stored)


def theirs(model: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(x, verbose=0))


@pytest.mark.parametrize("name", models.names())
def test_every_model_is_loaded_by_keras(keras: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From pixels, at batches of 3 and 1; uint8 as images come in."""
    small_if_large(name, monkeypatch)
    settings = keras.config.dtype_policy(), keras.config.image_data_format()
    x, expected = exported(ours(name), "a.keras", 3)
    assert (keras.config.dtype_policy(), keras.config.image_data_format()) == settings
    model = keras.models.load_model("a.keras")
    assert {layer.compute_dtype for layer in model.layers if layer.weights} == {"float32"}
    assert model.name == name and model.input_shape == (None, *models.get(name).input)
    close_to_the_largest(theirs(model, x), expected)
    close_to_the_largest(theirs(model, x[:1].astype(np.uint8)), expected[:1])
    named = [row.layer.name for row in models.get(name).rows() if row.arrays]
    assert [layer.name for layer in model.layers if layer.weights] == ["mean", *named]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet", "keras-2x2"])
def test_full_size(keras_on_torch: Any, name: str) -> None:
    x, expected = exported(ours(name), "a.keras", 1)
    close_to_the_largest(theirs(keras_on_torch.models.load_model("a.keras"), x), expected)


def tutorial(keras: Any, name: str, share: int) -> Any:
    """The Keras code of the two articles, each layer's width divided by ``share``, under the names that Keras gives."""
    L = keras.layers
    model = keras.Sequential([keras.Input((224, 224, 3))])
    second, pool, dense, drop_normalised = {
        "keras-2x2": (11, 2, [4096, 4096], True), "keras-9216": (5, 3, [9216, 4096, 4096], False)
    }[name]  # fmt: skip
    for channels, size, stride, pooled in [(96, 11, 4, True), (256, second, 1, True), (384, 3, 1, False),
                                           (384, 3, 1, False), (256, 3, 1, True)]:  # fmt: skip
        model.add(L.Conv2D(channels // share, size, strides=stride, padding="valid"))
        model.add(L.Activation("relu"))
        if pooled:
            model.add(L.MaxPooling2D(pool, strides=2, padding="valid"))
        model.add(L.BatchNormalization())
    model.add(L.Flatten())
    for features in dense:
        model.add(L.Dense(features if share == 1 else 20))
        model.add(L.Activation("relu"))
        model.add(L.Dropout(0.4))
        if drop_normalised:
            model.add(L.BatchNormalization())
    model.add(L.Dense(1000))
    return model


@pytest.mark.parametrize("share", [16, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["keras-2x2", "keras-9216"])
def test_weights_for_the_articles_own_code(
    keras_on_torch: Any,
    import_oracle: Callable[[str], ModuleType],
    name: str,
    share: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    h5py: Any = import_oracle("h5py")
    if share > 1:
        small_if_large(name, monkeypatch)
    saved = ours(name)
    x, expected = exported(saved, "a.weights.h5", 3)
    model = tutorial(keras_on_torch, name, share)
    model.load_weights("a.weights.h5")
    with h5py.File("a.weights.h5") as file:
        assert "conv2d" in file["layers"] and "normalization" not in file["layers"]
    mean = Trained.of(saved, Path("a"), backend.device("cpu")).mean[16:240, 16:240]
    actual = theirs(model, (x - mean) * np.float32(saved.description["config"]["scale"]))
    close_to_the_largest(actual, expected)
    told = capsys.readouterr().out
    assert "(checkpoint) to a.weights.h5 (Keras weights)" in told
    assert "scale 0.02, 0.018, 0.019; FILE.keras has both" in told


WINDOWS = {
    "past the end": (Conv2d("w", 4, 3, 0, True, 8, activation="tanh"), MaxPool2d("p", 3, 2, 0, True)),
    "padded, past the end": (Conv2d("w", 5, 3, 2, True, 9, 3, None), MaxPool2d("p", 4, 3, 2, True)),
    "means past the end": (Conv2d("w", 5, 3, 2, True, 8, activation="sigmoid"), AvgPool2d("p", 4, 3, 2, True)),
    "local": (Local2d("w", 5, 3, 2, True, 4, activation=None), MaxPool2d("p", 2, 3, 0, False)),
    "normalised": (Conv2d("w", 3, 2, 1, False, 8), Lrn("n", 4, 1.5, 0.5, 0.6, 2), SpatialLrn("s", 4, 1.0, 0.5)),
    "without biases": (Conv2d("w", 3, 2, 1, False, 4, bias=None), AvgPool2d("p", 3, 2, 1, False)),
    "local without biases": (Local2d("w", 3, 2, 1, False, 4, bias=None), AvgPool2d("p", 3, 2, 0, True)),
}


@pytest.mark.parametrize("windows", WINDOWS)
def test_windows(keras_on_torch: Any, windows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maxima of values below zero, too, in windows that the image does not fill."""
    model = models.Model("windows", "a test", (32, 32, 3), WINDOWS[windows])
    model = replace(model, layers=(*model.layers, Flatten("flatten"), Linear("fc", 5, None)))
    monkeypatch.setitem(models._by_name, "windows", model)
    saved = ours("windows")
    if windows == "padded, past the end":
        saved.weights["w.b"][...] = -3  # so that padding with zeros would be the largest
    x, expected = exported(saved, "a.keras", 3)
    close_to_the_largest(theirs(keras_on_torch.models.load_model("a.keras"), x), expected)


@pytest.mark.parametrize("net", NETS)
def test_networks_of_caffes_files(keras_on_torch: Any, net: str) -> None:
    pixels, expected = from_caffe(net, "a.keras")
    close_to_the_largest(theirs(keras_on_torch.models.load_model("a.keras"), pixels), expected)


def test_it_goes_on_learning_in_keras(keras_on_torch: Any) -> None:
    """Dropout in the paper's form drops there as here: what is kept is not made larger."""
    exported(ours("alexnet-mini"), "a.keras", 1)
    keras = keras_on_torch
    model = keras.models.load_model("a.keras")
    dropout = model.get_layer("drop6")
    x = np.ones((64, 256), np.float32)
    kept = keras.ops.convert_to_numpy(keras.ops.multiply(dropout(x, training=True), 0.5))
    assert set(np.unique(kept)) == {0, 1}
    multiplied = [operation for operation in model.operations if type(operation).__name__ == "Multiply"]
    assert len(multiplied) >= 2
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_layer("conv1").get_weights()[0]
    model.fit(np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3)), np.arange(4), verbose=0)
    assert not np.array_equal(model.get_layer("conv1").get_weights()[0], before)


def test_nothing_in_the_file_is_code(keras_on_torch: Any) -> None:
    """Every layer and operation is one of Keras's own, none a Lambda."""
    exported(ours("alexnet-mini"), "a.keras", 1)
    with zipfile.ZipFile("a.keras") as archive:
        config = json.loads(archive.read("config.json"))
    used = {(layer["module"], layer["class_name"]) for layer in config["config"]["layers"]}
    assert {"Conv2D", "Dense", "Power"} <= {name for _, name in used}
    assert all(module.partition(".")[0] == "keras" and name != "Lambda" for module, name in used)


@pytest.mark.usefixtures("keras_on_torch")
def test_what_keras_lacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = models.get("cifar-13pct")
    layers = [replace(layer, groups=2) if isinstance(layer, Local2d) else layer for layer in model.layers]
    monkeypatch.setitem(models._by_name, "cifar-13pct", replace(model, layers=tuple(layers)))
    checkpoint.save(Path("a.safetensors"), ours("cifar-13pct"))
    assert command_line.run(convert.main, ["a.safetensors", "a.keras"]) == 2
    first = next(layer.name for layer in layers if isinstance(layer, Local2d))
    assert f"error: {first}: Keras has no Local2d of this form" in capsys.readouterr().err
    assert not list(Path().glob("*a.keras*"))
