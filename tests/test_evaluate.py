"""``python -m alexnet_cuda.evaluate`` as a user meets it: errors, views, ensembles, tables, JSON, bad input."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_cuda import backend, checkpoint, command_line, evaluate
from alexnet_cuda.data import ten_views
from alexnet_cuda.inference import Trained

pytest_plugins = ["tiny_run"]

CPU = backend.device("cpu")


@pytest.fixture(scope="module")
def other_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of other weights: those of the tiny run, shaken."""
    saved, rng = checkpoint.load(tiny_run), np.random.default_rng(1)
    weights = {
        name: w * (1 + 0.4 * rng.standard_normal(w.shape, dtype=np.float32)) for name, w in saved.weights.items()
    }
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    checkpoint.save(path, replace(saved, weights=weights))
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def call(*arguments: object) -> int:
    return command_line.run(evaluate.main, ["--device", "cpu", *map(str, arguments)])


Results = Callable[..., dict[str, Any]]


@pytest.fixture
def results(capsys: pytest.CaptureFixture[str]) -> Results:
    """What the command prints with --json."""

    def run(*arguments: object) -> dict[str, Any]:
        assert call("--json", *arguments) == 0
        return json.loads(capsys.readouterr().out)

    return run


def probabilities(run: Path, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the test images, and their labels."""
    trained = Trained.load(run, CPU)
    images, labels, _ = trained.data().test.load(np.arange(35))
    return trained.probabilities(images, ten_views((36, 36), (32, 32)) if views == 10 else None), labels


@pytest.mark.parametrize(("classes", "told"), [(2, "n/a"), (5, "n/a"), (6, "100.00%")])
def test_the_top_5_of_five_classes_say_nothing(classes: int, told: str) -> None:
    p = np.tile(np.linspace(1, 0, classes, dtype=np.float32), (3, 1))
    result = evaluate.Result("run", 1, p, np.full(3, classes - 1, np.int32))
    assert (result.error(5) is None) == (told == "n/a")
    assert evaluate.table([result]).splitlines()[-1].split() == ["run", "1", "100.00%", told]


def naive_error(p: np.ndarray, labels: np.ndarray, k: int) -> float:
    wrong = 0
    for row, label in zip(p.tolist(), labels, strict=True):
        wrong += label not in sorted(range(len(row)), key=lambda c: -row[c])[:k]
    return wrong / len(labels)


# ---- results


def test_errors_are_those_of_a_naive_count(results: Results, tiny_run: Path) -> None:
    found = results(tiny_run)
    assert found["images"] == 35 and found["unreadable"] == {}
    assert [row["views"] for row in found["results"]] == [1, 10]
    for row in found["results"]:
        p, labels = probabilities(tiny_run, row["views"])
        assert row["checkpoint"] == str(tiny_run / "best.safetensors")
        assert row["top1_error"] == pytest.approx(naive_error(p, labels, 1))
        assert row["top5_error"] == pytest.approx(naive_error(p, labels, 5))
    assert 0 < found["results"][0]["top5_error"] < found["results"][0]["top1_error"] < 1


def test_several_checkpoints_are_averaged(results: Results, tiny_run: Path, other_run: Path) -> None:
    found = results(tiny_run, other_run, "--views", "both")["results"]
    names = [str(tiny_run / "best.safetensors"), str(other_run), "average of 2"]
    assert [(row["checkpoint"], row["views"]) for row in found] == [(name, v) for name in names for v in (1, 10)]
    for views, row in ((1, found[4]), (10, found[5])):
        p, labels = probabilities(tiny_run, views)
        q, _ = probabilities(other_run, views)
        assert row["top1_error"] == pytest.approx(naive_error((p + q) / 2, labels, 1))
        assert row["top5_error"] == pytest.approx(naive_error((p + q) / 2, labels, 5))
    assert len({row["top1_error"] for row in found[::2]}) > 1


def test_an_ensemble_averages_probabilities_not_answers() -> None:
    labels = np.array([0, 1], np.int32)
    p, q = np.float32([[0.9, 0.1], [0.4, 0.6]]), np.float32([[0.2, 0.8], [0.7, 0.3]])
    mean = evaluate.average([evaluate.Result("p", 1, p, labels), evaluate.Result("q", 1, q, labels)])
    assert mean.probabilities == pytest.approx(np.float32([[0.55, 0.45], [0.55, 0.45]]))
    assert mean.error(1) == 0.5


@pytest.mark.parametrize("batch", [1, 8, 35, 1000])
def test_batches_do_not_show(results: Results, tiny_run: Path, batch: int) -> None:
    assert results(tiny_run, "--views", "1", "--batch", batch) == results(tiny_run, "--views", "1")


def test_the_table_and_json_agree(
    results: Results, capsys: pytest.CaptureFixture[str], tiny_run: Path, other_run: Path
) -> None:
    expected = results(tiny_run, other_run, "--per-class")
    assert call(tiny_run, other_run, "--per-class") == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    for row in expected["results"]:
        errors = f"{row['top1_error']:.2%}", f"{row['top5_error']:.2%}"
        assert [row["checkpoint"], str(row["views"]), *errors] in cells
    for row in expected["results"][-1]["classes"]:
        mistake = [f"{row['mistaken_for']} ({row['times']})"] if row["times"] else []
        shares = ("n/a" if share is None else f"{share:.2%}" for share in (row["precision"], row["f1"]))
        assert [row["class"], str(row["images"]), f"{row['top1_error']:.2%}", *shares, *mistake] in cells


def test_classes_are_counted_one_by_one(results: Results, tiny_run: Path) -> None:
    found = results(tiny_run, "--per-class", "--views", "1")["results"][0]
    p, labels = probabilities(tiny_run, 1)
    classes = Trained.load(tiny_run, CPU).classes
    for label, row in enumerate(found["classes"]):
        answers = [int(a) for a, own in zip(p.argmax(axis=1), labels, strict=True) if own == label]
        wrong = [a for a in answers if a != label]
        assert (row["class"], row["images"]) == (classes[label], len(answers))
        assert row["top1_error"] == pytest.approx(len(wrong) / len(answers))
        alike = [int(own) for a, own in zip(p.argmax(axis=1), labels, strict=True) if a == label]
        assert row["precision"] == (pytest.approx(alike.count(label) / len(alike)) if alike else None)
        assert row["f1"] == pytest.approx(2 * alike.count(label) / (len(alike) + len(answers)))
        if wrong:
            assert row["times"] == max(map(wrong.count, wrong)) == wrong.count(classes.index(row["mistaken_for"]))
        else:
            assert (row["mistaken_for"], row["times"]) == (None, 0)
    assert sum(row["top1_error"] * row["images"] for row in found["classes"]) == pytest.approx(35 * found["top1_error"])


def test_where_mirror_images_make_no_sense_five_views_remain(tiny_run: Path) -> None:
    trained = Trained.load(tiny_run, CPU)
    data = replace(trained.data(), mirrored=False)
    centre, five = evaluate.views("both", trained, data)
    assert centre.tolist() == [[2, 2, 0]]
    assert sorted(five.tolist()) == [[0, 0, 0], [0, 4, 0], [2, 2, 0], [4, 0, 0], [4, 4, 0]]
    assert [len(crops) for crops in evaluate.views("10", trained, replace(data, mirrored=True))] == [10]


# ---- images


def test_unreadable_images_are_left_out_and_named(
    results: Results, capsys: pytest.CaptureFixture[str], tiny_run: Path, tiny_images: Path
) -> None:
    shutil.copytree(tiny_images, "images")
    broken = Path("images/val/red/0.png")
    broken.write_bytes(broken.read_bytes()[:100])
    source = f"folder:{Path('images').resolve()}"
    found = results(tiny_run, "--data", source)
    assert found["images"] == 34
    assert list(found["unreadable"]) == [str(broken.resolve())]
    assert call(tiny_run, "--data", source, "--per-class") == 0
    out, err = capsys.readouterr()
    assert "34 images" in out
    assert err.startswith("left out 1 that cannot be read, the first ") and "red/0.png: " in err


def test_class_folders_are_all_measured_unless_a_network_was_trained_on_them(
    results: Results, tiny_run: Path, tiny_images: Path
) -> None:
    source = f"folder:{tiny_images / 'val'}"
    assert results(tiny_run, "--data", source, "--views", "1")["images"] == 35
    saved = checkpoint.load(tiny_run)
    config = {**saved.description["config"], "data": source}
    checkpoint.save(Path("other"), replace(saved, description={**saved.description, "config": config}))
    assert results("other", "--data", source, "--views", "1")["images"] == 7
    assert results(tiny_run, "other", "--data", source, "--views", "1")["images"] == 7


def test_without_any_readable_image_there_is_no_result(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, tiny_images: Path
) -> None:
    shutil.copytree(tiny_images, "images")
    for path in Path("images/val").rglob("*.png"):
        path.write_text("no image")
    assert call(tiny_run, "--data", "folder:images") == 2
    assert capsys.readouterr().err == "error: none of the test images can be read\n"


def test_a_terminal_gets_a_bar(tiny_run: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "alexnet_cuda.evaluate", str(tiny_run), "--device", "cpu", "--batch", "4", "--json"],
        stderr=slave, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm", "COLUMNS": "200"},
    )  # fmt: skip
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 65536):
            shown += part
    except OSError:  # what Linux answers once the other end is closed
        pass
    os.close(master)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "━".encode() in shown
    assert json.loads(out)["images"] == 35


# ---- wrong usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["none"], "none: no such checkpoint"),
        (["file"], "file: not a whole safetensors file"),
        (["RUN", "none"], "none: no such checkpoint"),
        (["RUN", "--checkpoint", "first"], "checkpoint first: expected best, last or a file; there is best"),
        (["file", "--checkpoint", "best"], "file: expected a run folder to choose checkpoint best of"),
        (["empty"], "empty/checkpoint.safetensors: no such checkpoint"),
        (["RUN", "--data", "digts"], "did you mean digits?"),
        (["RUN", "--data", "folder:none"], "none: no such folder"),
        (["RUN", "--data", "synthetic:9"], "differ in classes: 9 and 7"),
        (["RUN", "--views", "5"], "argument --views: invalid choice: '5'"),
        (["RUN", "--batch", "0"], "argument --batch: expected a whole number above 0, got '0'"),
        (["RUN", "--threads", "x"], "argument --threads: expected a whole number above 0, got 'x'"),
        (["RUN", "--device", "cdua"], "did you mean cuda?"),
        (["RUN", "--per-clas"], "unknown argument --per-clas; did you mean --per-class?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, arguments: list[str], message: str
) -> None:
    Path("file").write_text("something")
    Path("empty").mkdir()
    given = [str(tiny_run) if argument == "RUN" else argument for argument in arguments]
    assert call(*given) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def test_networks_of_different_classes_are_not_averaged(capsys: pytest.CaptureFixture[str], tiny_run: Path) -> None:
    saved = checkpoint.load(tiny_run)
    classes = saved.description["classes"][::-1]
    checkpoint.save(Path("reversed"), replace(saved, description={**saved.description, "classes": classes}))
    assert call(tiny_run, "reversed") == 2
    err = capsys.readouterr().err
    assert err == f"error: {tiny_run / checkpoint.BEST} and reversed differ in their classes; they cannot be averaged\n"


def test_networks_tested_on_different_images_are_not_averaged(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, tiny_images: Path
) -> None:
    shutil.copytree(tiny_images, "fewer")
    Path("fewer/val/red/0.png").unlink()
    saved = checkpoint.load(tiny_run)
    config = {**saved.description["config"], "data": f"folder:{Path('fewer').resolve()}"}
    checkpoint.save(Path("other"), replace(saved, description={**saved.description, "config": config}))
    assert call(tiny_run, "other", "--views", "1") == 2
    assert "were tested on different images; --data names the same for all" in capsys.readouterr().err
