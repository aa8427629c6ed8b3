"""Weights of PyTorch and Caffe become checkpoints that give the same logits; everything else is refused."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from foreign_files import (
    CLASSES,
    EMPTY,
    VALUES,
    archive,
    arrays,
    blob,
    caffemodel,
    field,
    mean_file,
    number,
    program,
    pth,
    small,
    tensor,
    text,
    write,
)  # fmt: skip
from hypothesis import HealthCheck, given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from safetensors.numpy import load_file, save_file

from alexnet_cuda import backend, checkpoint, command_line, convert, evaluate, models, predict, report, train
from alexnet_cuda.inference import Trained
from alexnet_cuda.weights import WeightsError, caffe, read, torch_state
from alexnet_cuda.weights.layout import names_in, slots
from alexnet_cuda.weights.pickles import Pickles

CAFFE = ("caffe-alexnet", "caffenet")


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Under the names of the networks that others publish weights for: the same in small."""
    for name in ("alexnet-owt", *CAFFE):
        monkeypatch.setitem(models._by_name, name, small(name, 1000))
    monkeypatch.chdir(tmp_path)


def torch_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    model = small("alexnet-owt")
    return arrays(model, torch_state.names(model), seed)


def caffe_arrays(name: str = "caffenet") -> dict[str, np.ndarray]:
    model = small(name)
    return arrays(model, {n: n for n in names_in(model)})


def call(*arguments: object) -> int:
    return command_line.run(convert.main, list(map(str, arguments)))


def images(count: int = 2, side: int = 256) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)


def logits(path: Path, x: np.ndarray) -> np.ndarray:
    return Trained.load(path, backend.device("cpu")).activations(x, ["fc8"])["fc8"]


# ---------------------------------------------------------------------------------------------- naive forward passes


def convolution(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int, pad: int, groups: int) -> np.ndarray:
    """x (N, C, H, W), w (K, C / groups, KH, KW), one output pixel after the other."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    (N, _, H, W), (K, C, size, _) = x.shape, w.shape
    OH, OW = (H - size) // stride + 1, (W - size) // stride + 1
    y = np.zeros((N, K, OH, OW))
    for g in range(groups):
        rows, part = slice(g * K // groups, (g + 1) * K // groups), x[:, g * C : (g + 1) * C]
        for oh in range(OH):
            for ow in range(OW):
                window = part[:, :, oh * stride : oh * stride + size, ow * stride : ow * stride + size]
                y[:, rows, oh, ow] = np.tensordot(window, w[rows], ((1, 2, 3), (1, 2, 3)))
    return y + b[:, None, None]


def pooling(x: np.ndarray) -> np.ndarray:
    """Maxima of 3 x 3 at stride 2, the number of windows rounded down."""
    OH, OW = ((n - 3) // 2 + 1 for n in x.shape[2:])
    y = np.zeros((*x.shape[:2], OH, OW))
    for oh in range(OH):
        for ow in range(OW):
            y[:, :, oh, ow] = x[:, :, 2 * oh : 2 * oh + 3, 2 * ow : 2 * ow + 3].max((2, 3))
    return y


def normalisation(x: np.ndarray) -> np.ndarray:
    """Caffe's LRN: local_size 5, alpha 0.0001 divided by local_size, beta 0.75, k 1."""
    squares = np.pad(x**2, ((0, 0), (2, 2), (0, 0), (0, 0)))
    total = sum(squares[:, i : i + x.shape[1]] for i in range(5))
    return x * (1 + 0.0001 / 5 * total) ** -0.75


def caffe_forward(x: np.ndarray, state: dict[str, np.ndarray], pool_first: bool) -> np.ndarray:
    """Logits for x (N, 3, H, W) BGR minus the mean, layer by layer as the network's prototxt has them."""

    def conv(x: np.ndarray, i: int, stride: int = 1, pad: int = 0, groups: int = 1) -> np.ndarray:
        return np.maximum(convolution(x, state[f"conv{i}.w"], state[f"conv{i}.b"], stride, pad, groups), 0)

    def between(x: np.ndarray) -> np.ndarray:
        return normalisation(pooling(x)) if pool_first else pooling(normalisation(x))

    x = between(conv(x.astype(np.float64), 1, stride=4))  # 23 pixels, where rounding up gives the same
    x = between(conv(x, 2, pad=2, groups=2))
    x = conv(conv(conv(x, 3, pad=1), 4, pad=1, groups=2), 5, pad=1, groups=2)
    x = pooling(x).reshape(len(x), -1)
    for i in (6, 7):
        x = np.maximum(x @ state[f"fc{i}.w"].T + state[f"fc{i}.b"], 0)
    return x @ state["fc8.w"].T + state["fc8.b"]


def torch_forward(x: np.ndarray, state: dict[str, np.ndarray]) -> np.ndarray:
    """Logits for x (N, 3, H, W), normalised, by torchvision's list of layers."""
    for i, stride, pad, pool in (
        (0, 4, 2, True),
        (3, 1, 2, True),
        (6, 1, 1, False),
        (8, 1, 1, False),
        (10, 1, 1, True),
    ):
        x = convolution(x, state[f"features.{i}.weight"], state[f"features.{i}.bias"], stride, pad, 1)
        x = np.maximum(x, 0)
        x = pooling(x) if pool else x
    x = x.reshape(len(x), -1)
    for i in (1, 4, 6):
        x = x @ state[f"classifier.{i}.weight"].T + state[f"classifier.{i}.bias"]
        x = x if i == 6 else np.maximum(x, 0)
    return x


def cropped(x: np.ndarray, size: int = 99) -> np.ndarray:
    first = (x.shape[1] - size) // 2
    return x[:, first : first + size, first : first + size]


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    assert_allclose(actual, expected, rtol=0, atol=1e-4 * abs(expected).max())


# ---------------------------------------------------------------------------------------------- the same logits


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_torchvisions_state_gives_the_same_logits(kind: str) -> None:
    state, x = torch_arrays(), images(side=113)  # 256 for 224
    if kind == "pth":
        write(Path("a.bin"), pth(state))
    else:
        save_file(state, "a.bin")
    assert call("a.bin", "b.safetensors") == 0
    seen = (cropped(x) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    close(logits(Path("b.safetensors"), x), torch_forward(seen.transpose(0, 3, 1, 2), state))


def test_pytorchs_layout_comes_back_bit_for_bit(capsys: pytest.CaptureFixture[str]) -> None:
    state = torch_arrays()
    write(Path("a.pth"), pth(state))
    assert call("a.pth", "b.safetensors") == 0
    assert call("b.safetensors", "c.safetensors") == 0
    assert "(checkpoint) to c.safetensors (PyTorch state)" in capsys.readouterr().out
    back = load_file("c.safetensors")
    assert back.keys() == state.keys()
    for name, array in state.items():
        assert_array_equal(back[name], array)
    assert call("c.safetensors", "d.safetensors") == 0
    assert checkpoint.load(Path("d.safetensors")).digest == checkpoint.load(Path("b.safetensors")).digest


@pytest.mark.parametrize("name", ["caffenet", "keras-2x2", "alexnet-mini"])
def test_other_models_go_to_pytorch_and_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.get(name) if name == "alexnet-mini" else small(name, side=224)
    monkeypatch.setitem(models._by_name, name, model)
    weights = model.build("cpu", seed=3).state()
    torch_state.save(Path("a.safetensors"), model, weights, {})
    kind, saved = read(Path("a.safetensors"), name)
    assert kind == "PyTorch state"
    assert saved.weights.keys() == weights.keys()
    for array, w in weights.items():
        assert_array_equal(saved.weights[array], w)


@pytest.mark.parametrize("values", ["packed", "one by one"])
@pytest.mark.parametrize("old", [True, False], ids=["2014", "today"])
@pytest.mark.parametrize("name", CAFFE)
def test_caffes_network_gives_the_same_logits(name: str, old: bool, values: str) -> None:
    state, x = caffe_arrays(name), images()
    write(Path("a.caffemodel"), caffemodel(small(name), state, old, values))
    assert call("a.caffemodel", "b.safetensors") == 0
    assert checkpoint.load(Path("b.safetensors")).description["config"]["model"] == name
    seen = (cropped(x) - (122.67891434, 116.66876762, 104.00698793))[..., ::-1]
    close(logits(Path("b.safetensors"), x), caffe_forward(seen.transpose(0, 3, 1, 2), state, name == "caffenet"))


def test_a_mean_image_is_subtracted_where_the_crop_lies() -> None:
    state, x = caffe_arrays(), images()
    mean = np.random.default_rng(2).uniform(90, 130, (256, 256, 3)).astype(np.float32)
    write(Path("a.caffemodel"), caffemodel(small("caffenet"), state))
    write(Path("mean.binaryproto"), mean_file(mean))
    assert call("a.caffemodel", "b.safetensors", "--mean", "mean.binaryproto", "--scale", 0.5) == 0
    seen = (cropped(x - mean) * 0.5)[..., ::-1]
    close(logits(Path("b.safetensors"), x), caffe_forward(seen.transpose(0, 3, 1, 2), state, True))


def test_a_stripped_caffe_network_needs_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    state = caffe_arrays()
    write(Path("a.caffemodel"), caffemodel(small("caffenet"), state, named=False))
    stripped = bytes(caffemodel(small("caffenet"), state, named=False)).replace(b"pool1", b"pooly")
    write(Path("a.caffemodel"), stripped)
    assert call("a.caffemodel", "b.safetensors") == 2
    assert "may be caffe-alexnet or caffenet; --model says which" in capsys.readouterr().err
    assert call("a.caffemodel", "b.safetensors", "--model", "caffenet") == 0
    write(Path("c.caffemodel"), caffemodel(small("caffenet"), state))
    assert call("c.caffemodel", "d.safetensors", "--model", "caffe-alexnet") == 2
    assert "expected caffenet, got model caffe-alexnet" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- what was written works


@pytest.fixture
def folder() -> Path:
    """Test images of seven classes in folders named by numbers, as the default names of classes are."""
    for part in ("train", "val"):
        for i, image in enumerate(images(CLASSES)):
            Path("images", part, str(i)).mkdir(parents=True)
            Image.fromarray(image).save(f"images/{part}/{i}/0.png")
    return Path("images")


@pytest.mark.parametrize("kind", ["torch", "caffe"])
def test_predict_and_evaluate_work_on_it(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = pth(torch_arrays()) if kind == "torch" else caffemodel(small("caffenet"), caffe_arrays())
    write(Path("a"), content)
    assert call("a", "b.safetensors") == 0
    assert command_line.run(predict.main, ["b.safetensors", f"{folder}/val/3/0.png", "--device", "cpu", "--json"]) == 0
    evaluation = ["b.safetensors", "--device", "cpu", "--json", "--views", "1"]
    assert command_line.run(evaluate.main, [*evaluation, "--data", f"folder:{folder}"]) == 0
    capsys.readouterr()
    assert command_line.run(evaluate.main, evaluation) == 2
    assert "was not trained here: expected --data" in capsys.readouterr().err


def test_other_commands_refuse_it_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("a"), pth(torch_arrays()))
    assert call("a", "b.safetensors") == 0
    capsys.readouterr()
    assert command_line.run(train.main, ["--resume", "b.safetensors", "--device", "cpu"]) == 2
    assert command_line.run(report.main, ["b.safetensors", "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert err.count("error: ") == 2 and err.count("\n") == 2


def test_formats_need_their_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("a"), pth(torch_arrays()))
    for package in ("onnx", "keras"):
        monkeypatch.setitem(sys.modules, package, None)
    for dst, needed in {
        "b.onnx": "pip install 'alexnet-cuda[onnx]'",
        "b.keras": "keras and one of its backends",
    }.items():
        assert call("a", dst) == 1
        err = capsys.readouterr().err
        assert needed in err and err.count("\n") == 1
    assert os.listdir() == ["a"]


def test_classes_have_names(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("a"), pth(torch_arrays()))
    Path("names").write_text("tench\n\u6c34, \u9b5a\n" + "".join(f"n{i}\n" for i in range(CLASSES - 2)), "utf-8")
    assert call("a", "b.safetensors", "--classes", "names") == 0
    assert Trained.load(Path("b.safetensors"), backend.device("cpu")).classes[:2] == ("tench", "\u6c34, \u9b5a")
    Path("short").write_text("one\ntwo\n")
    assert call("a", "c.safetensors", "--classes", "short") == 2
    assert "expected a name for each class, 7, got 2" in capsys.readouterr().err
    Path("gap").write_text("one\n\ntwo\n")
    assert call("a", "c.safetensors", "--classes", "gap") == 2
    assert "gap, line 2: expected the name of a class, got ''" in capsys.readouterr().err


def test_one_class_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    state = torch_arrays()
    state |= {name: array[:1] for name, array in state.items() if name.startswith("classifier.6.")}
    write(Path("a"), pth(state))
    assert call("a", "b.safetensors") == 0
    assert ", 1 class: " in capsys.readouterr().out
    Path("names").write_text("cat\n")
    assert call("a", "c.safetensors", "--classes", "names") == 0


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [
        (0, "epoch", "0 epochs"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (1234, "test image", "1,234 test images"),
    ],
)
def test_counts_are_in_the_singular_or_plural(number: int, noun: str, expected: str) -> None:
    assert command_line.count(number, noun) == expected


SEVEN = [*"abcde", "crane", "crane"]


@pytest.mark.parametrize(
    ("content", "classes"),
    [
        ("\n".join(SEVEN).encode(), SEVEN),
        ("\n".join(SEVEN).encode() + b"\n \n\r\n", SEVEN),
        ("\r\n".join(SEVEN).encode(), SEVEN),
        ("\n".join(SEVEN).encode("utf-8-sig"), SEVEN),
        ("\r\n".join([*SEVEN, ""]).encode("utf-16"), SEVEN),
        (b"\xfe\xff" + "\n".join(SEVEN).encode("utf-16-be"), SEVEN),
        ("\n".join([*SEVEN[:6], "a\u2028\x85b"]).encode(), [*SEVEN[:6], "a\u2028\x85b"]),
        ("\n".join([*SEVEN[:6], "caf\u00e9"]).encode("latin-1"), [*SEVEN[:6], r"caf\xe9"]),
    ],
    ids=["repeated", "empty lines at the end", "CR LF", "mark", "UTF-16", "UTF-16 BE", "other line ends", "Latin-1"],
)
def test_names_of_classes_as_files_have_them(content: bytes, classes: list[str]) -> None:
    write(Path("a"), pth(torch_arrays()))
    Path("names").write_bytes(content)
    assert call("a", "b.safetensors", "--classes", "names") == 0
    assert list(Trained.load(Path("b.safetensors"), backend.device("cpu")).classes) == classes


# ---------------------------------------------------------------------------------------------- bad input


class Runs:
    """Pickled, it asks for a command to be executed when it is read."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_that_run_code_are_refused_and_do_not_run(protocol: int, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("a.pth"), archive(pickle.dumps({"features.0.weight": Runs()}, protocol), {}))
    assert call("a.pth", "b.safetensors") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: a.pth: data.pkl ") and err.count("\n") == 1
    assert "only tensors are read" in err
    if protocol > 1:
        assert "posix.system" in err
    assert sorted(os.listdir()) == ["a.pth"]


REST = b")R."
HOSTILE = {
    "eval": (b"\x80\x02cbuiltins\neval\n(" + text("1") + b"tR.", "asks for 'builtins.eval'"),
    "a storage that is code": (b"\x80\x02(" + text("storage") + b"cos\nsystem\n" + text("0") + text("cpu")
                               + number(1) + b"tQ.", "asks for 'os.system'"),
    "OrderedDict of something": (b"\x80\x02ccollections\nOrderedDict\n(" + text("x") + b"tR.", "got a str"),
    "an instance": (b"\x80\x02(cos\nsystem\no.", "asks for 'os.system'"),
    "an extension": (b"\x80\x02\x82\x01.", "asks for 'extension 1'"),
    "a list": (b"\x80\x02].", "got a list"),
    "not a dict": (b"\x80\x02" + number(3) + b".", "got a int"),
    "a number as a tensor": (b"\x80\x02" + EMPTY + text("epoch") + number(3) + b"s.", "got a int as 'epoch'"),
    "an empty wrapper": (b"\x80\x02" + EMPTY + text("state_dict") + EMPTY + b"s.", "got an empty dict as 'state_dict'"),
    "a key twice": (program({"a": tensor("0", [1])})[:-2] + text("a") + tensor("0", [1]) + b"u.", "'a' is there twice"),
    "a key that is a number": (b"\x80\x02" + EMPTY + number(1) + number(2) + b"s.", "got a int as '1'"),
    "no end": (b"\x80\x02" + EMPTY, "damaged"),
    "an empty stack": (b"\x80\x02.", "damaged"),
    "no mark": (b"\x80\x02t.", "damaged"),
    "an unknown memo": (b"\x80\x02h\x07.", "damaged"),
    "a memo far away": (b"\x80\x02" + EMPTY + b"r\xff\xff\xff\x7f.", "got an empty dict"),
    "nothing": (b"", "damaged"),
    "a missing part": (program({"features.0.weight": tensor("9", [4])}), "in data/ as '9', got none"),
    "a path": (program({"features.0.weight": tensor("../../../etc/passwd", [4])}), "'../../../etc/passwd', got none"),
    "a part of another size": (program({"features.0.weight": tensor("0", [5])}), "expected 20 bytes"),
    "a hostile shape": (program({"x": tensor("0", [2**30, 2**30, 2**30], 1, [0, 0, 0])}), "surplus 'x'"),
    "a stride too far": (program({"x": tensor("0", [1, 1], 1, [1, 1], 1)}), "does not lie in 1 values"),
    "a negative size": (program({"x": tensor("0", [-1], 1, [1])}), "expected a int"),
    "a negative stride": (program({"x": tensor("0", [1], 1, [-1])}), "expected a int"),
    "another type": (program({"x": tensor("0", [1], storage="QInt8Storage")}), "asks for 'torch.QInt8Storage'"),
    "shapes that differ": (program({"x": tensor("0", [1], 1, [])}), "differ in length"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_are_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = HOSTILE[case]
    write(Path("a.pth"), archive(content, {"0": bytes(4)}))
    assert call("a.pth", "b.safetensors") == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: a.pth: ") and err.count("\n") == 1
    assert os.listdir() == ["a.pth"]


def changed(**changes: object) -> dict[str, np.ndarray]:
    """torchvision's state with other arrays under some names; None leaves one out."""
    state = {**torch_arrays(), **{name.replace("__", "."): array for name, array in changes.items()}}
    return {name: array for name, array in state.items() if array is not None}


MISFITS = {
    "missing": (changed(features__3__bias=None), "missing features.3.bias"),
    "surplus": (changed(extra=np.zeros(3, np.float32)), "surplus 'extra'"),
    "a hostile name": (changed(**{"../x\n" * 50: np.zeros(3, np.float32)}), "surplus '../x\\n../x"),
    "another shape": (
        changed(classifier__1__weight=np.zeros((20, 63), np.float32)),
        "classifier.1.weight: expected float32 (20, 64), got float32 (20, 63)",
    ),
    "another head": (changed(classifier__6__bias=np.zeros(5, np.float32)), "expected float32 (5, 20), got float32 (7"),
    "no class": (changed(classifier__6__bias=np.zeros(0, np.float32)), "classifier.6.bias: expected float32 (1000,)"),
    "another dtype": (
        changed(features__0__bias=np.zeros(4, np.int64)),
        "features.0.bias: expected float32 (4,), got int64 (4,)",
    ),
    "many dimensions": (
        changed(features__0__bias=np.zeros((1,) * 64, np.float32)),
        "features.0.bias: expected float32 (4,), got float32 of 64 dimensions",
    ),
    "all others": ({f"x{i}": np.zeros(1, np.float32) for i in range(50)}, "more"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_states_that_do_not_fit_are_refused_by_tensor(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    state, message = MISFITS[case]
    save_file(state, "a.safetensors")
    assert call("a.safetensors", "b.safetensors") == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and len(err) < 1000
    assert err.startswith("error: a.safetensors: not the weights of alexnet-owt: ")
    assert os.listdir() == ["a.safetensors"]


def network(*layers: bytes) -> bytes:
    return field(1, b"x") + b"".join(field(100, layer) for layer in layers)


ONE = np.ones(3, np.float32)
NETWORKS = {
    "half a field": (field(1, b"name")[:-2], "truncated"),
    "a group": (b"\x0a\x01x\x0b", "wire type 3"),
    "an endless number": (b"\x0a" + b"\xff" * 12, "does not end"),
    "field 0": (b"\x0a\x01x\x02\x01x", "field 0"),
    "a huge field": (b"\x0a\x01x" + b"\xa2\x06\xff\xff\xff\xff\x7f", "truncated"),
    "a layer that is a number": (field(1, b"x") + field(100, 3), "layer: expected wire type 2, got 0"),
    "many layers": (network(*[field(1, b"x")] * 1001), "at most 1,000 layers"),
    "a layer twice": (network(*[field(1, b"x") + field(7, blob(ONE))] * 2), "layer 'x' is there twice"),
    "many blobs": (network(field(1, b"x") + field(7, blob(ONE)) * 17), "at most 16 blobs"),
    "a long name": (network(field(1, b"x" * 2000)), "at most 1,000 bytes"),
    "a hostile shape": (network(field(7, field(7, field(1, 2**62) * 3) + field(5, bytes(8)))), "got 2"),
    "many dimensions": (network(field(7, field(7, field(1, 1) * 50))), "dimensions"),
    "too few values": (network(field(7, field(7, field(1, b"\3")) + field(5, bytes(8)))), "shape (3,), got 2"),
    "odd bytes": (network(field(7, field(5, bytes(7)))), "expected float32 values, got 7 bytes"),
    "many pieces": (network(field(7, field(5, bytes(4)) * 5000)), "more than 4,096 pieces"),
    "two types": (network(field(7, field(7, field(1, 2)) + field(5, bytes(4)) + field(8, bytes(8)))),
                  "expected values of one type, got float32 and float64"),
    "surplus": (caffemodel(small("caffenet"), caffe_arrays()) + field(100, field(1, b"fc9") + field(7, blob(ONE))),
                "surplus 'fc9.w'"),
}  # fmt: skip


@pytest.mark.parametrize("case", NETWORKS)
def test_hostile_networks_are_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = NETWORKS[case]
    write(Path("a.caffemodel"), content)
    assert call("a.caffemodel", "b.safetensors") == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: a.caffemodel: ") and err.count("\n") == 1
    assert os.listdir() == ["a.caffemodel"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with b''"),
        (b"hello", "expected a checkpoint, a PyTorch state (.pth or .safetensors), a Caffe network or FILE.onnx, got"),
        (pickle.dumps({}, 2), "begins with b'\\x80\\x02"),
        (struct.pack("<Q", 1 << 60) + b"{}", "not a whole safetensors file"),
        (archive(b"", {})[:40], "not a whole zip file"),
        (archive(program({}), {}, zipfile.ZIP_DEFLATED), "not compressed"),
        (archive(b"N" * (1 << 23) + b".", {}), "at most 8,388,608 bytes"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("a"), content)
    assert call("a", "b.safetensors") == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: a: ") and err.count("\n") == 1
    assert os.listdir() == ["a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none b.safetensors", "none: No such file or directory"),
        ("a b.txt", "b.txt: expected a name that ends in .onnx, .keras, .weights.h5 or .safetensors"),
        ("a b.h5", "b.h5: expected a name that ends in .onnx, .keras, .weights.h5 or .safetensors"),
        ("a none/b.keras", "none/b.keras: no such folder"),
        ("a b.keras --batch 2", "and --int8 are for FILE.onnx"),
        ("a none/b.onnx", "none/b.onnx: no such folder"),
        ("a.safetensors ./a.safetensors", "expected another file than SRC"),
        ("a b.onnx --model alexnet-wto", "did you mean alexnet-owt"),
        ("a b.onnx --model cifar-13pct", "PyTorch and Caffe have no Local2d"),
        ("a b.onnx --mean 1,2", "expected three numbers"),
        ("a b.onnx --mean none", "none: No such file"),
        ("a b.onnx --mean a", "a: "),
        ("a b.onnx --scale 0", "none of them zero"),
        ("a b.onnx --scale nan", "expected one number"),
        ("a b.onnx --classes none", "none: No such file"),
        ("a.safetensors b.onnx --scale 2", "a checkpoint, which has its own"),
        ("a b.onnx --opset 12", "expected a whole number from 13 to 22, got '12'"),
        ("a b.onnx --batch 0", "expected a whole number from 1 to 2147483647, got '0'"),
        ("a b.onnx --for tvm", "'tvm' (choose from"),
        ("a b.safetensors --opset 17", "--int8 are for FILE.onnx"),
        ("a b.safetensors --with-preprocessing", "--int8 are for FILE.onnx"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("a"), pth(torch_arrays()))
    assert call("a", "a.safetensors") == 0
    capsys.readouterr()
    before = sorted(os.listdir())
    assert call(*arguments.split()) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: ") and err.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_a_small_mean_image_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("a"), pth(torch_arrays()))
    write(Path("mean"), mean_file(np.ones((64, 64, 3), np.float32)))
    assert call("a", "b.safetensors", "--mean", "mean") == 2
    assert "error: mean: expected at least (99, 99, 3)" in capsys.readouterr().err
    write(Path("mean"), blob(np.ones((2, 99, 99), np.float32)))
    assert call("a", "b.safetensors", "--mean", "mean") == 2
    assert "expected a mean image of shape (3, H, W), BGR, got (2, 99, 99)" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("a"), pth(torch_arrays()))
    write(Path("b.safetensors"), b"before")
    code = "import signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from test_weights import *\n"
    code += "for name in ('alexnet-owt', *CAFFE): models._by_name[name] = small(name, 1000)\n"
    code += (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); sys.exit(call('a', 'b.safetensors'))"
    )
    tests = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert sorted(os.listdir()) == ["a", "b.safetensors"]
    assert Path("b.safetensors").read_bytes() == b"before"


# ---------------------------------------------------------------------------------------------- fuzz

fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, most: int | None = None) -> bytes:
    """A file with some bytes changed, left out or added, in its first ``most`` bytes."""
    content = bytearray(whole)
    end = min(most or len(content), len(content) - 1)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, end))
        span = draw(st.integers(0, 8))
        content[place : place + span] = draw(st.binary(max_size=8))
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


def refused_or_read(content: bytes) -> None:
    path = write(Path("fuzzed"), content)
    try:
        _, saved = read(path)
    except (WeightsError, checkpoint.CheckpointError) as e:
        message = str(e)
    else:
        message = "fuzzed: read"
        assert all(w.dtype == np.float32 for w in saved.weights.values())
    assert message.startswith("fuzzed: ") and len(message) < 2000


@fuzz
@given(st.data())
def test_damaged_states_are_refused(data: st.DataObject) -> None:
    refused_or_read(data.draw(damaged(pth(torch_arrays()))))


def test_a_name_of_many_bytes_is_told_in_few() -> None:
    """In the zip file's local header, which zipfile shows whole."""
    content = bytearray(pth(torch_arrays()))
    content[26:28] = b"\xff\xff"
    with pytest.raises(WeightsError, match="not a whole zip file: File name in directory ") as raised:
        read(write(Path("a.pth"), bytes(content)))
    assert len(str(raised.value)) < 300


@fuzz
@given(st.data())
def test_damaged_pickles_are_refused(data: st.DataObject) -> None:
    state = torch_arrays()
    tensors = {name: tensor(str(i), array.shape) for i, (name, array) in enumerate(state.items())}
    values = {str(i): array.tobytes() for i, array in enumerate(state.values())}
    refused_or_read(archive(data.draw(damaged(program(tensors))), values))


@fuzz
@given(st.data())
def test_damaged_networks_are_refused(data: st.DataObject) -> None:
    old, values = data.draw(st.booleans()), data.draw(st.sampled_from(list(VALUES)))
    whole = caffemodel(small("caffenet"), caffe_arrays(), old, values)
    refused_or_read(data.draw(damaged(whole, data.draw(st.sampled_from([None, 200])))))


@fuzz
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\x0a", b"\x12", b"\xa2\x06", b"PK\x03\x04", b"\2\0\0\0\0\0\0\0{"])
)
def test_anything_is_refused(content: bytes, head: bytes) -> None:
    refused_or_read(head + content)


@fuzz
@given(st.binary(max_size=200))
def test_any_pickle_is_refused_or_read(content: bytes) -> None:
    with contextlib.suppress(WeightsError):
        Pickles(content, "fuzzed").load()


@fuzz
@given(st.binary(max_size=200))
def test_any_mean_image_is_refused_or_read(content: bytes) -> None:
    with contextlib.suppress(WeightsError):
        assert caffe.mean_image(write(Path("fuzzed"), content)).dtype == np.float32


def test_slots_and_their_inverse() -> None:
    for slot in slots(small("caffenet")):
        w = np.random.default_rng(0).random(slot.shape, np.float32)
        assert_array_equal(slot.theirs(slot.ours(w)), w)
