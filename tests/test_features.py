"""``python -m alexnet_cuda.features``: a layer's outputs of the images that the rows are said to be of."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from alexnet_cuda import Tensor, backend, command_line, features
from alexnet_cuda.inference import Trained

pytest_plugins = ["tiny_run"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tiny_run: Path) -> Trained:
    return Trained.load(tiny_run, backend.device("cpu"))


def call(*arguments: object) -> int:
    return command_line.run(features.main, ["--device", "cpu", *map(str, arguments)])


def naive(trained: Trained, file: Path, layer: str) -> np.ndarray:
    """The layer's output for the centre of an image of 36 x 36, layer by layer."""
    x = (np.asarray(Image.open(file), np.float32) - trained.mean)[2:34, 2:34] * np.float32(trained.config["scale"])
    y = Tensor(np.ascontiguousarray(x[None]))
    for name, module in trained.network.children():
        y = module(y)
        if name == layer:
            return y.numpy()[0]
    raise AssertionError(layer)


@pytest.mark.parametrize(
    ("options", "layer", "shape"),
    [([], "fc7", (256,)), (["--layer", "conv5"], "conv5", (4, 4, 64)), (["--layer", "fc8"], "fc8", (7,))],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_rows_are_the_layers_outputs_of_the_files_named(
    trained: Trained,
    tiny_images: Path,
    options: list[str],
    layer: str,
    shape: tuple[int, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    reds, blue = tiny_images / "train" / "red", tiny_images / "val" / "blue" / "3.png"
    assert call(trained.path, blue, reds, "-o", "out.npy", *options) == 0
    size = "x".join(map(str, (9, *shape)))
    assert capsys.readouterr().out == f"out.npy: {layer}, {size}, by {trained.path}\n"
    files = Path("out.txt").read_text(encoding="utf-8").splitlines()
    assert files == [str(blue), *(str(reds / f"{i}.png") for i in range(8))]
    rows = np.load("out.npy", allow_pickle=False)
    assert (rows.shape, rows.dtype) == ((9, *shape), np.float32)
    for file, row in zip(files, rows, strict=True):
        assert_allclose(row, naive(trained, Path(file), layer), rtol=1e-5, atol=1e-5)
    assert len(np.unique(rows.reshape(9, -1), axis=0)) == 9


def test_batches_do_not_show(trained: Trained, tiny_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(trained.path, tiny_images, "-o", "one.npz") == 0
    monkeypatch.setattr(features, "BATCH", 5)
    assert call(trained.path, tiny_images, "-o", "other.npz") == 0
    one, other = np.load("one.npz"), np.load("other.npz")
    assert one["features"].shape == (7 * (8 + 5), 256)
    assert_allclose(one["features"], other["features"], rtol=1e-4, atol=1e-5)
    assert_array_equal(one["files"], other["files"])
    assert sorted(one["files"]) == sorted(map(str, tiny_images.rglob("*.png")))
    assert sorted(path.name for path in Path().iterdir()) == ["one.npz", "other.npz"]


def test_images_that_cannot_be_read_are_left_out_and_named(
    trained: Trained, tiny_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_images / "val" / "red", "images")
    Path("images/1.png").write_text("no image")
    assert call(trained.path, "images", "none.png", "images/0.png", "-o", "out.npz") == 1
    out, err = capsys.readouterr()
    assert out == f"out.npz: fc7, 5x256, by {trained.path}\n"
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["images/1.png", "none.png"]
    found = np.load("out.npz")
    assert found["files"].tolist() == [*(f"images/{i}.png" for i in (0, 2, 3, 4)), "images/0.png"]
    assert_array_equal(found["features"][0], found["features"][4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "the following arguments are required: IMAGE, -o/--out"),
        (["RUN", "IMAGE"], "the following arguments are required: -o/--out"),
        (["RUN", "IMAGE", "-o", "out.txt"], "--out out.txt: expected a .npy or .npz file in a folder that exists"),
        (["RUN", "IMAGE", "-o", "none/out.npy"], "--out none/out.npy: expected a .npy or .npz file in a folder that"),
        (["RUN", "IMAGE", "-o", "x.npy", "--layer", "fc9"], "--layer fc9: expected one of conv1, lrn1, pool1, conv2"),
        (["RUN", "IMAGE", "-o", "x.npy", "--layer", "cnv5"], "; did you mean conv5?"),
        (["RUN", ".", "-o", "x.npy"], ".: no images in this folder"),
        (["none", "IMAGE", "-o", "x.npy"], "none: no such checkpoint"),
        (["RUN", "broken.png", "-o", "x.npy"], "none of the images can be read"),
        (["RUN", "IMAGE", "-o", "x.npy", "--layers", "fc7"], "unknown argument --layers; did you mean --layer?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_2(
    trained: Trained, tiny_images: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    known = {"RUN": str(trained.path), "IMAGE": str(tiny_images / "val" / "red" / "0.png")}
    assert call(*(known.get(argument, argument) for argument in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ") and len(err.splitlines()) == 1 + ("broken.png" in arguments)
    assert list(Path().iterdir()) == []
