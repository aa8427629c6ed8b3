"""Caffe's files as users and forks write them: each is read to the same values as a plain one, or refused by name."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_files import VALUES, arrays, blob, caffemodel, field, mean_file, small, write
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra.numpy import arrays as any_arrays
from numpy.testing import assert_array_equal

from alexnet_cuda import command_line, convert, models
from alexnet_cuda.checkpoint import Checkpoint
from alexnet_cuda.weights import WeightsError, caffe, read
from alexnet_cuda.weights.layout import names_in

MODEL = "caffenet"


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("caffe-alexnet", "caffenet"):
        monkeypatch.setitem(models._by_name, name, small(name, 1000))
    monkeypatch.chdir(tmp_path)


def state(classes: int = 7) -> dict[str, np.ndarray]:
    """Random weights that float16 holds exactly."""
    model = small(MODEL, classes)
    made = arrays(model, {name: name for name in names_in(model)})
    return {name: array.astype(np.float16).astype(np.float32) for name, array in made.items()}


def of(content: bytes) -> Checkpoint:
    kind, saved = read(write(Path("a.caffemodel"), content))
    assert kind == "Caffe network" and saved.description["config"]["model"] == MODEL
    return saved


def same(saved: Checkpoint, expected: Checkpoint) -> None:
    assert saved.weights.keys() == expected.weights.keys()
    for name, w in expected.weights.items():
        assert saved.weights[name].dtype == np.float32
        assert_array_equal(saved.weights[name], w, name)


# ---------------------------------------------------------------------------------------------- networks

ALL = {name: f"{name}_new" for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")}
LAYERS_TOO = ALL | {name: f"{name}/copy" for name in ("norm1", "pool1")}
INPUT = field(3, b"data") + b"".join(field(4, n) for n in (10, 3, 227, 227))

KINDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "in pieces": ({"values": "in pieces"}, []),
    "doubles": ({"values": "doubles"}, ["float64"]),
    "doubles one by one": ({"values": "doubles one by one"}, ["float64"]),
    "raw doubles": ({"values": "raw doubles"}, ["float64"]),
    "raw floats": ({"values": "raw floats"}, []),
    "raw halves": ({"values": "raw halves"}, ["float16"]),
    "raw floats of 2014": ({"values": "raw floats", "old": True}, []),
    "no name": ({"head": b""}, []),
    "no name, of 2014": ({"head": b"", "old": True}, []),
    "an empty name": ({"head": field(1, b"")}, []),
    "input first": ({"head": INPUT}, []),
    "force_backward first": ({"head": field(5, 1)}, []),
    "a state first": ({"head": field(6, field(1, 1))}, []),
    "debug_info first": ({"head": field(7, 0)}, []),
    "four dimensions": ({"dimensions": 4}, []),
    "fc8_flickr": ({"names": {"fc8": "fc8_flickr"}}, ["'fc8_flickr' for fc8"]),
    "fc-rcnn": ({"names": {"fc8": "fc-rcnn"}}, ["'fc-rcnn' for fc8"]),
    "fc8_flickr of 2014": ({"names": {"fc8": "fc8_flickr"}, "old": True}, ["'fc8_flickr' for fc8"]),
    "fc7 and fc8": ({"names": {"fc7": "a", "fc8": "b"}}, ["'a' for fc7", "'b' for fc8"]),
    "all names": ({"names": ALL}, [f"{name!r} for " for name in ALL.values()]),
    "all names of layers": ({"names": LAYERS_TOO}, [f"{name!r} for " for name in ALL.values()]),
}


@pytest.mark.parametrize("classes", [1, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_are_read_however_they_are_written(kind: str, classes: int) -> None:
    options, notes = KINDS[kind]
    model = small(MODEL, classes)
    plain = of(caffemodel(model, state(classes)))
    saved = of(caffemodel(model, state(classes), **options))
    same(saved, plain)
    told = saved.description["notes"]
    assert len(told) == len(notes)
    assert all(part in note for part, note in zip(notes, told, strict=True))


def test_one_class_of_2014() -> None:
    """Whose last layer has the shapes (1, 1, 1, N) and (1, 1, 1, 1)."""
    model = small(MODEL, 1)
    same(of(caffemodel(model, state(1), old=True)), of(caffemodel(model, state(1))))


def v0(name: str) -> bytes:
    return field(2, field(1, field(1, name.encode()) + field(2, b"conv") + field(50, blob(np.ones(3), old=True))))


def changed(*extra: bytes, **options: Any) -> bytes:
    return caffemodel(small(MODEL), state(), **options) + b"".join(extra)


def layer(name: str, *arrays: np.ndarray) -> bytes:
    return field(100, field(1, name.encode()) + b"".join(field(7, blob(a)) for a in arrays))


HEAD = np.ones((7, 20)), np.ones(7)
SIZED = field(7, field(1, b"\x03"))
REFUSED: dict[str, tuple[bytes, str]] = {
    "V0": (field(1, b"CaffeNet") + v0("conv1"), "of Caffe before 2014 (V0LayerParameter): expected a newer one"),
    "V0 without a name": (v0("conv1"), "upgrade_net_proto_binary"),
    "two heads": (changed(layer("bbox", *HEAD), names={"fc8": "cls"}), "missing fc8.w; surplus 'cls.w'"),
    "a head of another width": (
        caffemodel(small(MODEL), state() | {"fc8.w": np.ones((7, 21))}, names={"fc8": "cls"}),
        "missing fc8.w; surplus 'cls.w'",
    ),
    "a head without biases": (
        caffemodel(small(MODEL), {k: a for k, a in state().items() if k != "fc8.b"}, names={"fc8": "cls"}),
        "missing fc8.w; surplus 'cls.w'",
    ),
    "raw whole numbers": (
        field(1, b"x") + field(100, field(7, SIZED + field(10, 3) + field(12, bytes(12)))),
        "expected raw_data of floats, got whole numbers",
    ),
    "raw of another size": (
        field(1, b"x") + field(100, field(7, SIZED + field(12, bytes(13)))),
        "expected 3 floats for shape (3,), got 13 bytes of raw_data",
    ),
    "doubles beyond float32": (
        caffemodel(small(MODEL), state() | {"fc6.b": np.full(20, 1e300)}, values="doubles"),
        "fc6.b: expected numbers that float32 holds",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_networks_are_refused_by_name(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = REFUSED[case]
    write(Path("a.caffemodel"), content)
    assert command_line.run(convert.main, ["a.caffemodel", "b.safetensors"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: a.caffemodel: ") and err.count("\n") == 1 and len(err) < 1000
    assert os.listdir() == ["a.caffemodel"]


# ---------------------------------------------------------------------------------------------- mean images


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def bgr(image: np.ndarray) -> np.ndarray:
    return image.transpose(2, 0, 1)[::-1]


IMAGE = np.random.default_rng(4).uniform(90, 130, (113, 128, 3)).astype(np.float16).astype(np.float32)
WHOLE = np.floor(IMAGE)
MEANS: dict[str, tuple[bytes, np.ndarray]] = {
    **{f"binaryproto, {values}": (mean_file(IMAGE, values=values), IMAGE) for values in VALUES},
    "binaryproto with a shape": (mean_file(IMAGE, old=False), IMAGE),
    "binaryproto with a shape of four": (mean_file(IMAGE, old=False, dimensions=4), IMAGE),
    "binaryproto without num": (mean_file(IMAGE)[2:], IMAGE),
    "npy": (npy(bgr(IMAGE)), IMAGE),
    "npy of float64": (npy(bgr(IMAGE).astype(np.float64)), IMAGE),
    "npy of float16": (npy(bgr(IMAGE).astype(np.float16)), IMAGE),
    "npy of bytes": (npy(bgr(WHOLE).astype(np.uint8)), WHOLE),
    "npy, big-endian": (npy(bgr(IMAGE).astype(">f4")), IMAGE),
    "npy, columns first": (npy(np.asfortranarray(bgr(IMAGE))), IMAGE),
    "npy of (1, 3, H, W)": (npy(bgr(IMAGE)[None]), IMAGE),
}


@pytest.mark.parametrize("kind", MEANS)
def test_means_are_read_however_they_are_written(kind: str) -> None:
    content, expected = MEANS[kind]
    _, saved = read(write(Path("a"), changed()), mean=write(Path("mean"), content))
    assert saved.mean.dtype == np.float32
    assert_array_equal(saved.mean, expected)


BAD_MEANS: dict[str, tuple[bytes, str]] = {
    "npy, RGB last": (npy(IMAGE), "expected a mean image of shape (3, H, W), BGR, got (113, 128, 3)"),
    "npy of three numbers": (npy(np.ones(3)), "expected a mean image of shape (3, H, W), BGR, got (3,)"),
    "npy of two images": (npy(np.ones((2, 3, 99, 99))), "got (2, 3, 99, 99)"),
    "npy of nothing": (npy(np.ones((3, 0, 99))), "mean: "),
    "npy of objects": (npy(np.array([{}, None])), "not a whole .npy file: "),
    "npy of text": (npy(np.full((3, 99, 99), "x")), "expected a mean image of numbers, got <U1"),
    "npy of complex numbers": (npy(np.ones((3, 99, 99), np.complex64)), "got complex64"),
    "npy cut off": (npy(bgr(IMAGE))[:-1], "not a whole .npy file"),
    "npy, its head cut off": (npy(bgr(IMAGE))[:20], "not a whole .npy file"),
    "npy that is not finite": (npy(np.full((3, 99, 99), np.nan)), "expected a mean image of finite numbers"),
    "doubles beyond float32": (mean_file(np.full((99, 99, 3), 1e300), values="doubles"), "finite numbers"),
    "no values": (mean_file(IMAGE)[:9], "expected 43,392 values for shape (1, 3, 113, 128), got 0"),
    "too small": (npy(np.ones((3, 98, 99))), "expected at least (99, 99, 3), as caffenet sees images, got (98, 99, 3)"),
    "too large": (npy(np.ones((3, 1, 2049), np.uint8)), "got (3, 1, 2049)"),
}


@pytest.mark.parametrize("case", BAD_MEANS)
def test_other_means_are_refused_by_name(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = BAD_MEANS[case]
    write(Path("a"), changed())
    write(Path("mean"), content)
    assert command_line.run(convert.main, ["a", "b.safetensors", "--mean", "mean"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: mean: ") and err.count("\n") == 1
    assert sorted(os.listdir()) == ["a", "mean"]


fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
SIDES = st.integers(1, 9)
NUMBERS = {np.float16: 16, np.float32: 32, np.float64: 32}  # all that float32 holds


@fuzz
@given(st.data())
def test_any_mean_that_is_written_is_read(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(list(NUMBERS)))
    finite = st.floats(allow_nan=False, allow_infinity=False, width=NUMBERS[dtype])
    image = data.draw(any_arrays(dtype, st.tuples(SIDES, SIDES, st.just(3)), elements=finite))
    if data.draw(st.booleans()):
        content = npy(bgr(image))
    else:
        half = dtype is np.float16
        values = data.draw(st.sampled_from([v for v in VALUES if half or v != "raw halves"]))
        content = mean_file(image, data.draw(st.booleans()), values, data.draw(st.sampled_from([0, 3, 4])))
    path = write(Path("mean"), content)
    assert_array_equal(caffe.mean_image(path), image.astype(np.float32))


@fuzz
@given(st.data())
def test_damaged_means_are_refused_or_read(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([npy(np.ones((3, 2, 2))), mean_file(np.ones((2, 2, 3)))])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path = write(Path("mean"), bytes(content))
    try:
        image, said = caffe.mean_image(path), ""
    except WeightsError as e:
        image, said = np.zeros((1, 1, 3), np.float32), str(e)
    assert image.dtype == np.float32 and image.shape[-1] == 3 and np.isfinite(image).all()
    assert not said or (said.startswith(f"{path}: ") and "\n" not in said)
