"""``python -m alexnet_cuda.predict`` as a user meets it: classes, bars, JSON, folders, images that cannot be read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_cuda import backend, command_line, predict
from alexnet_cuda.inference import Trained

pytest_plugins = ["tiny_run"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images(tiny_images: Path) -> Path:
    """The test images in a folder of folders."""
    return Path(shutil.copytree(tiny_images / "val", "images"))


def call(*arguments: object) -> int:
    return command_line.run(predict.main, ["--device", "cpu", *map(str, arguments)])


def test_the_most_probable_classes_come_first(capsys: pytest.CaptureFixture[str], tiny_run: Path, images: Path) -> None:
    files = [images / "red" / "0.png", images / "blue" / "3.png"]
    assert call(tiny_run, *files, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    trained = Trained.load(tiny_run, backend.device("cpu"))
    expected = trained.probabilities(np.stack([np.asarray(Image.open(file)) for file in files]))
    assert [row["image"] for row in found] == list(map(str, files))
    for row, p in zip(found, expected, strict=True):
        order = sorted(range(7), key=lambda c: -p[c])[:5]
        assert [one["class"] for one in row["top"]] == [trained.classes[c] for c in order]
        assert [one["probability"] for one in row["top"]] == pytest.approx([float(p[c]) for c in order], rel=1e-5)


def test_a_folder_stands_for_the_images_below_it(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "notes.txt").write_text("not an image")
    assert call(tiny_run, images, "--json", "--top", 1) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["image"] for row in found] == sorted(map(str, images.rglob("*.png")))
    assert all(len(row["top"]) == 1 for row in found)
    monkeypatch.setattr(predict, "BATCH", 4)
    assert call(tiny_run, images, "--json", "--top", 1) == 0
    again = json.loads(capsys.readouterr().out)
    assert [row["top"][0]["class"] for row in again] == [row["top"][0]["class"] for row in found]


@pytest.mark.parametrize(("given", "shown"), [(1, 1), (3, 3), (7, 7), (50, 7)])
def test_top_says_how_many_classes(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, images: Path, given: int, shown: int
) -> None:
    assert call(tiny_run, images / "red" / "0.png", "--json", "--top", given) == 0
    assert len(json.loads(capsys.readouterr().out)[0]["top"]) == shown


def test_bars_are_as_long_as_the_probability(capsys: pytest.CaptureFixture[str], tiny_run: Path, images: Path) -> None:
    file = images / "red" / "0.png"
    assert call(tiny_run, file, "--json") == 0
    found = json.loads(capsys.readouterr().out)[0]["top"]
    assert call(tiny_run, file) == 0
    told, _, name, *lines = capsys.readouterr().out.splitlines()
    assert (told, name) == (f"checkpoint {tiny_run / 'best.safetensors'}", str(file))
    for one, line in zip(found, lines, strict=False):
        assert line.strip().startswith(f"{one['probability']:.1%}")
        assert line.rstrip().endswith(one["class"])
        assert abs(line.count("█") - predict.BAR * one["probability"]) <= 1


def test_equal_probabilities_keep_the_order_of_the_classes() -> None:
    p = np.float32([0.2, 0.4, 0.2, 0.2])
    assert [label for label, _ in predict.top(p, 3)] == [1, 0, 2]


def test_images_that_cannot_be_read_are_named_and_the_others_predicted(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, images: Path
) -> None:
    good, cut, text = images / "red" / "0.png", images / "red" / "cut.png", images / "red" / "text.png"
    cut.write_bytes(good.read_bytes()[:200])
    text.write_text("no image")
    assert call(tiny_run, cut, "none.png", good, text, "--json") == 1
    out, err = capsys.readouterr()
    assert [row["image"] for row in json.loads(out)] == [str(good)]
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{cut}: ")
    assert lines[1] == "none.png: No such file or directory"
    assert lines[2].startswith(f"{text}: ") and "identify" in lines[2]


def test_without_a_readable_image_the_list_is_empty(capsys: pytest.CaptureFixture[str], tiny_run: Path) -> None:
    assert call(tiny_run, "none.png", "--json") == 1
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "the following arguments are required: IMAGE"),
        (["none", "images"], "none: no such checkpoint"),
        (["RUN", "empty"], "empty: no images in this folder"),
        (["RUN", "images", "--top", "0"], "argument --top: expected a whole number above 0, got '0'"),
        (["RUN", "images", "--topp", "3"], "unknown argument --topp; did you mean --top?"),
        (["RUN", "images", "--device", "cdua"], "did you mean cuda?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, images: Path, arguments: list[str], message: str
) -> None:
    Path("empty").mkdir()
    given = [str(tiny_run) if argument == "RUN" else argument for argument in arguments]
    assert call(*given) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err
