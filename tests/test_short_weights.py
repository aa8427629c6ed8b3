"""Networks whose weights are stored short: what they compute and take, what the command lines tell, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from conftest import launches
from ml_dtypes import bfloat16
from numpy.testing import assert_allclose, assert_array_equal
from test_convnet import BASES

from alexnet_cuda import Tensor, backend, checkpoint, command_line, evaluate, models, nn, no_grad, ops, predict
from alexnet_cuda.folding import folded
from alexnet_cuda.inference import Trained
from alexnet_cuda.models import convnet
from alexnet_cuda.quantise import quantised
from alexnet_cuda.short_weights import WeightsDtype, bytes_of, shorten

pytest_plugins = ["tiny_run"]

SHORT = pytest.mark.parametrize("dtype", ["bf16", "int8"])


def stands_for(w: np.ndarray, dtype: str) -> np.ndarray:
    """What is left of weights."""
    if dtype == "bf16":
        return w.astype(bfloat16).astype(np.float32)
    q, scale = quantised(w)
    return q * scale[:, None]


@pytest.fixture(scope="module")
def images(tiny_run: Path) -> np.ndarray:
    return Trained.load(tiny_run, "cpu").data().test.load(np.arange(20))[0].copy()


# ---- networks


@SHORT
@pytest.mark.parametrize("rows", [1, 20])
def test_it_computes_in_float32_with_what_the_weights_stand_for(
    tiny_run: Path, images: np.ndarray, dtype: WeightsDtype, rows: int
) -> None:
    exact, short = Trained.load(tiny_run, "cpu"), Trained.load(tiny_run, "cpu", weights_dtype=dtype)
    plain = folded(exact.network)
    for _, layer in plain.children():
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and dtype == "bf16"):
            layer.w = nn.Parameter(stands_for(layer.w.numpy(), dtype))
    exact_of_short = [exact._view(images[:rows], np.repeat(exact.centre, rows, axis=0))]
    with no_grad():
        expected = plain(*exact_of_short).numpy()
    got = short.logits(images[:rows])
    assert_allclose(got, expected, rtol=0, atol=1e-5 * abs(expected).max())
    e = np.exp(got - got.max(axis=1, keepdims=True))
    assert_allclose(short.probabilities(images[:rows]), e / e.sum(axis=1, keepdims=True), rtol=1e-5)
    assert 0 < abs(got - exact.logits(images[:rows])).max() < 0.05 * abs(expected).max()


@pytest.mark.parametrize(("dtype", "largest"), [("bf16", 0.51), ("int8", 0.30)])
def test_the_weights_of_alexnet_take_this_much(dtype: WeightsDtype, largest: float) -> None:
    network = models.get("alexnet-single").build("cpu", 0)
    exact = bytes_of(network)
    assert exact == 4 * sum(w.size for w in network.state().values())
    shorten(network, dtype)
    assert bytes_of(network) <= largest * exact


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_what_layers_share_they_go_on_sharing(kind: type[nn.Linear | nn.Conv2d]) -> None:
    size = (4, 4) if kind is nn.Linear else (4, 4, 1)
    network = nn.Sequential(a=kind(*size), b=kind(*size))
    network.a.w = network.b.w
    shorten(network, "bf16")
    assert network.a.w is network.b.w
    assert network.a.w.dtype == bfloat16


def test_a_layer_in_a_list_of_a_module() -> None:
    """Other networks than ``Sequential`` cannot be folded; their layers are stored short where they are."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(6, 5, "relu"), nn.Linear(5, 3)]

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    network, x = Own(), np.random.default_rng(0).standard_normal((2, 6), np.float32)
    w, v = (stands_for(layer.w.numpy(), "int8") for layer in network.layers)
    shorten(network, "int8")
    assert_allclose(network(Tensor(x)).numpy(), np.maximum(x @ w.T, 0) @ v.T, rtol=1e-5)


@SHORT
@pytest.mark.parametrize("size", BASES)
def test_networks_of_cuda_convnets_files(dtype: WeightsDtype, size: int) -> None:
    """Among them one of all types of layers, and one in two towers."""
    plain, short = (convnet.parse("x", *BASES[size], size).build("cpu", seed=1).eval() for _ in range(2))
    shorten(short, dtype)
    for layer in plain.modules():
        if type(layer) is nn.Linear or (type(layer) is nn.Conv2d and dtype == "bf16"):
            layer.w = nn.Parameter(stands_for(layer.w.numpy(), dtype))
    x = Tensor(reference.random(3, size, size, 3))
    with no_grad():
        expected, got = plain(x).numpy(), short(x).numpy()
    assert_allclose(got, expected, rtol=0, atol=2e-5 * abs(expected).max())
    assert bytes_of(short) < bytes_of(plain)


def test_folding_leaves_short_weights_alone() -> None:
    network = nn.Sequential(
        conv=nn.Conv2d(2, 3, 1), norm=nn.BatchNorm(3), flat=nn.Flatten(), fc=nn.Linear(3, 4), drop=nn.Dropout(0.5)
    )
    network.eval()
    shorten(network, "bf16")
    x = Tensor(np.random.default_rng(0).standard_normal((2, 1, 1, 2), np.float32))
    assert_allclose(folded(network)(x).numpy(), network(x).numpy(), rtol=1e-5)
    assert network.conv.w.dtype == network.fc.w.dtype == bfloat16


@SHORT
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_matrices_are_read_as_they_lie_whatever_the_training_computed_in(
    tiny_run: Path, images: np.ndarray, dtype: WeightsDtype, precision: str
) -> None:
    saved = checkpoint.load(tiny_run)
    expected = Trained.of(saved, tiny_run, "cpu", weights_dtype=dtype).logits(images)
    saved.description["config"]["precision"] = precision
    trained = Trained.of(saved, tiny_run, "cpu", weights_dtype=dtype)
    with launches() as called:
        assert_array_equal(trained.logits(images), expected)
    assert called.count("short_gemm") == sum(isinstance(layer, nn.Linear) for layer in trained.network.modules())
    assert not any("tensor" in name or "implicit" in name for name in called)


# ---- what is refused


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    network = nn.Sequential(conv=nn.Conv2d(2, 3, 1), fc=nn.Linear(4, 3))
    network.fc.w.data[1, 2] = bad
    with pytest.raises(ValueError, match=rf"^weights_dtype: fc\.w: expected finite weights .*, got {bad} in row 1$"):
        shorten(network, "int8")


@SHORT
def test_a_class_derived_from_a_layer_is_refused(dtype: WeightsDtype) -> None:
    class Adapted(nn.Linear):
        pass

    network = nn.Sequential(first=nn.Linear(4, 4), fc=Adapted(4, 3))
    with pytest.raises(ValueError, match=rf"^weights_dtype: fc: expected Linear.* for '{dtype}', got a Adapted$"):
        shorten(network, dtype)
    assert network.first.w.dtype == np.float32


def test_an_unknown_dtype_is_refused(tiny_run: Path) -> None:
    unknown: Any = "fp16"
    with pytest.raises(ValueError, match=r"^weights_dtype: expected 'fp32', 'bf16' or 'int8', got 'fp16'$"):
        Trained.load(tiny_run, "cpu", weights_dtype=unknown)


def test_there_is_no_training_in_int8() -> None:
    network = nn.Sequential(before=nn.Linear(4, 4), fc=nn.Linear(4, 3))
    network.fc.w, network.fc.scale = nn.Parameter(np.ones((3, 4), np.int8)), nn.Buffer(np.ones(3, np.float32))
    assert not network.fc.w.requires_grad
    y = network(Tensor(np.ones((2, 4), np.float32)))
    with pytest.raises(TypeError, match=r"^linear: w in int8 is for inference alone: expected float32 or bfloat16"):
        y.sum().backward()


def test_gradients_go_through_weights_in_bfloat16() -> None:
    w = reference.random(3, 4, dtype=bfloat16)
    x = Tensor(reference.random(2, 4, seed=1), requires_grad=True)
    ops.linear(x, Tensor(w)).sum().backward()
    assert_allclose(x.grad, np.ones((2, 3), np.float32) @ w.astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize(
    "look",
    [
        lambda trained, images: trained.activations(images, ["conv1"]),
        lambda trained, images: trained.features(images),
        lambda trained, images: trained.watched(images, lambda name, y: None),
    ],
)
def test_outputs_of_layers_are_those_of_float32(
    tiny_run: Path, images: np.ndarray, look: Callable[[Trained, np.ndarray], Any]
) -> None:
    with pytest.raises(ValueError, match=r"^outputs of layers: expected weights_dtype 'fp32', got 'bf16'$"):
        look(Trained.load(tiny_run, "cpu", weights_dtype="bf16"), images)


# ---- command lines


@SHORT
def test_evaluate_tells_what_changed(capsys: pytest.CaptureFixture[str], tiny_run: Path, dtype: WeightsDtype) -> None:
    arguments = [str(tiny_run), "--device", "cpu", "--views", "1", "--weights-dtype", dtype]
    assert command_line.run(evaluate.main, [*arguments, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["weights"]
    exact, short = Trained.load(tiny_run, "cpu"), Trained.load(tiny_run, "cpu", weights_dtype=dtype)
    test = exact.data().test.load(np.arange(35))[0]
    a, b = exact.logits(test), short.logits(test)
    assert told == {
        "checkpoint": str(tiny_run / "best.safetensors"),
        "dtype": dtype,
        "bytes": bytes_of(short.network),
        "float32_bytes": bytes_of(exact.network),
        "largest_logit": pytest.approx(abs(a).max()),
        "largest_difference": pytest.approx(abs(a - b).max(), rel=1e-3),
        "changed_answers": (a.argmax(1) != b.argmax(1)).sum(),
    }
    assert command_line.run(evaluate.main, arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"weights in {dtype} take {told['bytes'] / 1e6:.3g} MB" in printed
    assert f"differ by {told['largest_difference']:.2g} at most" in printed
    assert f"the first answer changes for {told['changed_answers']} of 35 images" in printed


def test_evaluate_in_float32_tells_nothing_of_it(capsys: pytest.CaptureFixture[str], tiny_run: Path) -> None:
    assert command_line.run(evaluate.main, [str(tiny_run), "--device", "cpu", "--views", "1", "--json"]) == 0
    assert "weights" not in json.loads(capsys.readouterr().out)


def test_changed_answers_are_counted() -> None:
    before, after = np.float32([[1, 2], [3, -4], [0, 1]]), np.float32([[1, 2.5], [-1, 3], [0, 1]])
    told = evaluate.Shortened("run", "int8", 1, 4, after, before).described()
    assert (told["changed_answers"], told["largest_difference"], told["largest_logit"]) == (1, 7, 4)


@SHORT
def test_predict_answers_with_short_weights(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, tiny_images: Path, dtype: WeightsDtype
) -> None:
    image = tiny_images / "val" / "red" / "0.png"
    arguments = [str(tiny_run), str(image), "--device", "cpu", "--json", "--weights-dtype", dtype]
    assert command_line.run(predict.main, arguments) == 0
    (told,) = json.loads(capsys.readouterr().out)
    trained = Trained.load(tiny_run, backend.device("cpu"), 32, dtype)
    (p,) = trained.probabilities(predict.decode(image, trained.mean.shape[:2])[None])
    assert [row["probability"] for row in told["top"]] == pytest.approx(sorted(p.tolist(), reverse=True)[:5])


@pytest.mark.parametrize("main", [evaluate.main, predict.main])
def test_an_unknown_dtype_is_one_line(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, main: Callable[..., int]
) -> None:
    images = [] if main is evaluate.main else ["image.png"]
    assert command_line.run(main, [str(tiny_run), *images, "--weights-dtype", "fp16"]) == 2
    assert "argument --weights-dtype: invalid choice: 'fp16'" in capsys.readouterr().err
