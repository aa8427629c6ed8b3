"""Networks in bf16 and tf32: how activations are stored, gradients beside those of fp32, refusals, training."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from ml_dtypes import bfloat16

from alexnet_cuda import Tensor, backend, checkpoint, command_line, kernels, models, nn, ops, parallel, train
from alexnet_cuda.inference import Trained
from alexnet_cuda.metrics import read_metrics
from alexnet_cuda.models.layers import Conv2d, Linear
from alexnet_cuda.tensor import Function

pytest_plugins = ["tiny_run"]

CPU = backend.Device("cpu")


def small(device: str = "cpu") -> nn.Module:
    """alexnet-mini with a quarter of its channels and neurons, on one device or two."""
    model = models.get("alexnet-mini")
    *inner, head = model.layers
    quarter = {Conv2d: "channels", Linear: "features"}
    layers = [
        replace(layer, **{field: getattr(layer, field) // 4}) if (field := quarter.get(type(layer))) else layer
        for layer in inner
    ]
    narrow = replace(model, layers=(*layers, head))
    return parallel.build(narrow, device, 0)


def gradients(network: nn.Module, precision: str, x: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    network.set_precision(precision)
    network.seed(0)
    images = Tensor(kernels.cast(x, kernels.storage(precision)))
    logits = network(images)
    assert logits.data.dtype == images.data.dtype
    for p in network.parameters():
        p.grad = None
    ops.softmax_cross_entropy(ops.cast(logits, np.float32), Tensor(labels)).backward()
    found = {name: backend.to_host(p.grad).copy() for name, p in network.named_parameters()}
    assert {g.dtype for g in found.values()} == {np.dtype(np.float32)}
    return found


def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Of all gradients together, relative to the norm of b."""
    difference = sum(float(((a[name].astype(np.float64) - b[name]) ** 2).sum()) for name in b)
    return (difference / sum(float((g.astype(np.float64) ** 2).sum()) for g in b.values())) ** 0.5


X, LABELS = reference.random(2, 32, 32, 3), np.array([3, 7], np.int32)


@pytest.mark.parametrize(("precision", "allowed"), [("tf32", 0.004), ("bf16", 0.03)])
def test_gradients_of_alexnet_are_near_those_of_fp32(precision: str, allowed: float) -> None:
    """A rounding to 8 digits is off by 0.0017 in the mean square. A gradient passes about 40 of them, of weights and of
    activations on the way there and back: 0.0105 together, of which three times as much is allowed; tf32 rounds an
    eighth of that. Below the last maximum or ReLU that a rounding decides otherwise, each such unit counts in full: a
    few thousandths of them are some tenths of the gradient of so small a network, which still points the same way."""
    network = small()
    exact = gradients(network, "fp32", X, LABELS)
    found = gradients(network, precision, X, LABELS)
    assert 0 < distance(found, exact) < 0.3
    dense = [name for name in exact if name.startswith("fc")]
    assert distance({n: found[n] for n in dense}, {n: exact[n] for n in dense}) < allowed


def test_a_network_without_kinks_is_nearer() -> None:
    """Three times what 40 roundings amount to, in all layers."""
    rng = np.random.default_rng(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2, activation="tanh", rng=rng),
        nn.LocalResponseNorm(groups=2),
        nn.AvgPool2d(3, 2),
        nn.Conv2d(8, 16, 3, padding=1, groups=2, activation="sigmoid", rng=rng),
        nn.BatchNorm(16),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(7 * 7 * 16, 10, rng=rng),
    )
    exact = gradients(network, "fp32", X, LABELS)
    assert 0 < distance(gradients(network, "bf16", X, LABELS), exact) < 0.03


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[np.dtype]:
    """How every operation's result was stored."""
    seen: list[np.dtype] = []
    apply = Function.apply.__func__

    def noted(cls: type, *inputs: Tensor | None, **options: Any) -> Tensor:
        y = apply(cls, *inputs, **options)
        seen.append(y.data.dtype)
        return y

    monkeypatch.setattr(Function, "apply", classmethod(noted))
    return seen


def test_every_activation_is_stored_in_bfloat16(stored: list[np.dtype]) -> None:
    network = small()
    network.set_precision("bf16")
    network(Tensor(X.astype(bfloat16)))
    assert len(stored) > 10
    assert set(stored) == {np.dtype(bfloat16)}


def test_two_towers_drop_and_learn_alike() -> None:
    """Sums of the towers' halves are rounded once more."""
    whole = gradients(small(), "bf16", X, LABELS)
    towers = small("cpu:0,cpu:1")
    halves = towers.merged(gradients(towers, "bf16", X, LABELS))
    assert 0 < distance(halves, whole) < 0.1


def test_a_layer_that_takes_float32_alone() -> None:
    network = nn.Sequential(conv1=nn.Conv2d(3, 4, 3), norm1=nn.SpatialResponseNorm())
    with pytest.raises(ValueError, match="needs layers that take bfloat16; norm1, SpatialResponseNorm, is none"):
        network.set_precision("bf16")
    assert network["conv1"].precision == "fp32"
    network.set_precision("tf32")
    assert network["conv1"].precision == "tf32"


def test_an_unknown_precision() -> None:
    with pytest.raises(ValueError, match="precision: expected 'fp32' or 'tf32' or 'bf16', got 'fp16'"):
        nn.Linear(3, 4).set_precision("fp16")


B = bfloat16
IMAGE = np.ones((2, 6, 6, 4), B)
REFUSED = {
    "local2d": (kernels.local2d, (IMAGE, np.ones((4, 4, 2, 3, 3, 4), np.float32)), "x: expected dtype float32"),
    "spatial_lrn": (kernels.spatial_lrn, (IMAGE,), "x: expected dtype float32"),
    "softmax": (kernels.softmax, (np.ones((2, 3), B),), "x: expected dtype float32"),
    "loss": (kernels.softmax_cross_entropy, (np.ones((2, 3), B), np.zeros(2, np.int32)), "x: expected dtype float32"),
    "sgd": (kernels.sgd, (np.ones(3, B), np.ones(3, B), np.ones(3, B), 0.1), "w: expected dtype float32"),
    "bias": (kernels.bias, (IMAGE, np.ones(4, B)), "b: expected dtype float32"),
    "w": (kernels.linear_backward, (*np.ones((2, 2, 3), np.float32), np.ones((3, 3), B)), "w: expected dtype float32"),
    "x": (kernels.linear_backward, (np.ones((2, 4), B), np.ones((2, 3), np.float32), np.ones((4, 3), B)), "x: exp"),
    "b": (kernels.gemm, (np.ones((2, 3), B), np.ones((3, 4), np.float32)), "b: expected dtype bfloat16"),
    "lrn": (kernels.lrn_backward, (IMAGE, IMAGE.astype(np.float32)), "x: expected dtype bfloat16"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    function, arguments, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        function(*arguments)


def test_tf32_of_bfloat16_is_refused() -> None:
    with pytest.raises(ValueError, match="precision: expected 'bf16' for bfloat16 arrays, got 'tf32'"):
        kernels.linear(np.ones((2, 3), B), np.ones((4, 3), np.float32), precision="tf32")


@pytest.mark.parametrize("algorithm", ["im2col", "winograd"])
def test_ways_of_convolution_that_take_float32_alone(algorithm: Any) -> None:
    message = (
        "algorithm: expected 'implicit', 'space_to_depth' or 'hopper' for precision 'bf16', arrays of bfloat16 on a "
        f"CPU, got '{algorithm}'"
    )
    with pytest.raises(ValueError, match=message):
        kernels.conv2d(IMAGE, np.ones((2, 3, 3, 4), np.float32), algorithm=algorithm)


def test_weights_may_have_been_rounded_before() -> None:
    x, w = reference.random(3, 20).astype(B), reference.random(5, 20)
    np.testing.assert_array_equal(kernels.linear(x, w), kernels.linear(x, w.astype(B)))


# ---- training


@pytest.fixture
def bf16_run(tiny_images: Path, tmp_path: Path) -> Path:
    """A few steps through the command line."""
    arguments = ["--data", f"folder:{tiny_images}", "--batch", "28", "--epochs", "1", "--device", "cpu"]
    run = tmp_path / "run"
    assert command_line.run(train.main, [*arguments, "--precision", "bf16", "--out", str(run)]) == 0
    return run


def test_training_and_what_follows(bf16_run: Path, stored: list[np.dtype], capsys: pytest.CaptureFixture[str]) -> None:
    """The run knows its precision: in its configuration, in what it is resumed with, and where it is used."""
    assert tomllib.loads((bf16_run / "config.toml").read_text())["precision"] == "bf16"
    (record,) = (r for r in read_metrics(bf16_run / "metrics.jsonl") if r["kind"] == "epoch")
    assert np.isfinite([record["train_loss"], record["test_loss"]]).all()
    assert {w.dtype for w in checkpoint.load(bf16_run).weights.values()} == {np.dtype(np.float32)}

    resume = ["--resume", str(bf16_run), "--epochs", "2"]
    assert command_line.run(train.main, [*resume, "--precision", "fp32"]) == 2
    assert "goes on with precision bf16, got fp32" in capsys.readouterr().err
    assert command_line.run(train.main, resume) == 0

    trained = Trained.load(bf16_run, CPU)
    images = np.zeros((2, *trained.mean.shape), np.uint8)
    stored.clear()
    assert trained.probabilities(images).dtype == np.float32
    assert stored[0] == bfloat16
    assert trained.activations(images, ["conv1"])["conv1"].dtype == np.float32
