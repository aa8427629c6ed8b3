"""``python -m alexnet_cuda.compare``: which runs belong together, what differs, and that the numbers are right."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from alexnet_cuda import charts, command_line, compare, recipe
from alexnet_cuda.metrics import MetricsLog

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make() -> Make:
    """Writes what ``compare`` reads of a run folder: settings, and records of epochs with these test accuracies."""

    def run(name: str, accuracies: list[float], **settings: Any) -> Path:
        folder = Path(name)
        folder.mkdir()
        config = {"data": "digits", "seed": 0, "model": "alexnet-mini", "lr": 0.01, "options": {}, **settings}
        (folder / "config.toml").write_text(recipe.toml(config))
        log = MetricsLog(folder / "metrics.jsonl")
        for epoch, accuracy in enumerate(accuracies, 1):
            log.write({"kind": "step", "step": 10 * epoch, "epoch": epoch - 0.5, "lr": config["lr"], "loss": 1 / epoch})
            losses = {"train_loss": 2 / epoch, "test_loss": 3 / epoch}
            log.write({"kind": "epoch", "epoch": epoch, "test_accuracy": accuracy, "train_accuracy": 0.5, **losses})
        log.close()
        return folder

    return run


def call(*arguments: object) -> int:
    return command_line.run(compare.main, list(map(str, arguments)))


def lines(text: str) -> list[list[str]]:
    """The cells of the table that was printed."""
    return [re.split(r" {2,}", line.strip()) for line in text.split("\n\n")[0].splitlines()]


def naive_spread(errors: list[float]) -> str:
    mean = sum(errors) / len(errors)
    deviation = math.sqrt(sum((error - mean) ** 2 for error in errors) / (len(errors) - 1))
    return f"{mean:.2f} ± {deviation:.2f} %"


def test_runs_that_differ_in_the_seed_alone_are_one_line(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("a", [0.8, 0.93, 0.91], seed=3)
    make("b", [0.7, 0.95, 0.97], seed=11)
    make("c", [0.1, 0.98, 0.92], seed=5)
    make("other", [0.5, 0.75], lr=0.1, options={"lrn": False})
    assert call("a", "other", "b", "c") == 0
    out, err = capsys.readouterr()
    assert err == "" and out.endswith("\n\ncompare.html\n")
    head, _, first, second = lines(out)
    assert head == ["run", "lr", "options", "options.lrn", "seeds", "epochs done", "test error", "at best"]
    assert first == ["a and 2 more", "0.01", "{}", "3 11 5", "3", naive_spread([9, 3, 8]), naive_spread([7, 3, 2])]
    assert second == ["other", "0.1", "false", "0", "2", "25.00 %", "25.00 %"]


def test_a_second_run_with_the_same_seed_says_nothing_of_the_spread(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed, accuracy in (("a", 0, 0.9), ("b", 1, 0.8), ("copy", 0, 0.9)):
        make(name, [accuracy], seed=seed)
    assert call("a", "b", "copy") == 0
    _, _, *rows = lines(capsys.readouterr().out)
    assert rows == [
        ["a and 1 more", "0 1", "1", naive_spread([10, 20]), naive_spread([10, 20])],
        ["copy", "0", "1", "10.00 %", "10.00 %"],
    ]


def test_runs_that_are_not_done_are_compared_as_far_as_they_are(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make("a", [0.9, 0.9], seed=0)
    make("b", [0.8], seed=1)
    make("c", [], seed=2)
    make("nothing", [], lr=1.0)
    assert call("a", "b", "c", "nothing") == 0
    _, _, first, second = lines(capsys.readouterr().out)
    assert first[2:] == ["0 1 2", "0 to 2", naive_spread([10, 20]), naive_spread([10, 20])]
    assert second == ["nothing", "1.0", "0", "0"]


def test_settings_that_are_long_texts_are_told_apart(make: Make) -> None:
    texts = ["[conv1]\n" + "x" * 100, "[conv1]\n" + "x" * 99 + "y"]
    groups = compare.grouped([compare.load(make(f"{i}", [0.5], convnet={"layers": t})) for i, t in enumerate(texts)])
    assert compare.differing(groups) == ["convnet.layers"]
    first, second = (group.settings["convnet.layers"] for group in groups)
    assert first != second and len(first) == len(second) == len("text 01234567")


def test_a_narrow_terminal_gets_as_many_settings_as_fit(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make("a", [0.5], lr=0.1, batch=64, decay=0.5)
    make("b", [0.5], lr=0.2, batch=32, decay=0.25)
    found = set()
    for width in (*range(40, 80, 4), None):
        monkeypatch.setattr(compare, "width", lambda width=width: width)
        assert call("a", "b") == 0
        table, _, told = capsys.readouterr().out.partition("too wide for here: ")
        assert width is None or max(map(len, table.splitlines())) <= width
        settings = [name for name in ("lr", "batch", "decay") if name in table.splitlines()[0].split()]
        assert settings == ["lr", "batch", "decay"][: len(settings)]
        assert all(name in " ".join(told.split()) for name in ["lr", "batch", "decay"][len(settings) :])
        found.add(len(settings))
    assert found >= {1, 2, 3} and len(settings) == 3


@pytest.mark.parametrize(("encoding", "sign"), [("ascii", "+-"), ("utf-8", "±")])
def test_a_terminal_without_the_sign_gets_another(
    make: Make, encoding: str, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("a", [0.9], seed=0)
    make("b", [0.8], seed=1)
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding, write_through=True))
    assert call("a", "b") == 0
    assert f"15.00 {sign} 7.07 %" in written.getvalue().decode(encoding)


# ---- curves


def test_curves_are_the_records_of_each_run(make: Make) -> None:
    first, second = (compare.load(make(name, a, lr=lr)) for name, a, lr in (("a", [0.5, 0.9], 0.1), ("b", [0.7], 0.2)))
    curves = charts.of_groups({"one": [first.records, second.records], "two": [second.records]}, "test_loss")
    assert [curve.values.tolist() for curve in curves] == [[3.0, 1.5], [3.0], [3.0]]
    assert [curve.style["label"] for curve in curves] == ["one", None, "two"]
    colours = [curve.style["color"] for curve in curves]
    assert colours[0] == colours[1] != colours[2]
    (rate,) = charts.of_groups({"one": [first.records]}, "lr")
    assert (rate.epochs.tolist(), rate.values.tolist()) == ([0.5, 1.5], [0.1, 0.1])
    axes = charts.figure(4, 3).subplots()
    charts.draw(axes, "error", charts.of_groups({"$x$_1": [first.records]}, "test_accuracy"))
    (line,) = axes.get_lines()
    assert_allclose(line.get_ydata(), [50, 10])
    assert axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["$x$_1"]


def test_many_groups_have_curves_of_their_own() -> None:
    curves = charts.of_groups({str(i): [[]] for i in range(40)}, "test_loss")
    assert len({(curve.style["color"], curve.style["linestyle"]) for curve in curves}) == 40


def test_curves_show_whatever_is_measured() -> None:
    axes = charts.figure(4, 3).subplots()
    curves = [charts.Curve(np.array([1.0, 2.0]), np.array([np.nan, 4.0]), {}), charts.Curve(np.ones(1), np.ones(1), {})]
    charts.draw(axes, "loss", curves)
    assert axes.get_ylim() == (0, pytest.approx(4.2))
    assert axes.get_xlim()[0] == 0 and axes.get_xlim()[1] >= 2


# ---- the page


def test_the_page_holds_what_the_table_holds(make: Make) -> None:
    make("a<b>", [0.8, 0.93], seed=3)
    make("b", [0.7, 0.97], seed=11)
    make("other", [0.5, 0.75], lr=0.1)
    assert call("a<b>", "b", "other", "--out", "page.html") == 0
    text = Path("page.html").read_text(encoding="utf-8")
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]
    assert ["a&lt;b&gt; and 1 more", "0.01", "3 11", "2", naive_spread([7, 3]), naive_spread([7, 3])] in rows
    assert ["other", "0.1", "0", "2", "25.00 %", "25.00 %"] in rows
    assert ["b", "11", "2", "3.00 %", "3.00 %"] in rows
    assert ["model", "alexnet-mini"] in rows and not any(row[0] == "seed" for row in rows)
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["Errors", "Curves", "Every run", "Settings that are the same"]
    assert len(re.findall(r'<img src="data:image/png;base64,', text)) == 4
    assert "<title>3 runs compared</title>" in text


def test_a_legend_tells_what_differs_or_else_the_runs(make: Make) -> None:
    def labels(*folders: Path) -> list[str]:
        return compare.labels(compare.grouped([compare.load(folder) for folder in folders]))

    a, b = make("a", [0.5]), make("b", [0.5], lr=0.02, batch=8)
    copy = make("copy", [0.5])
    long = make("c", [0.5], data="folder:/a/path/that/is/quite/long", model="alexnet")
    assert labels(a, b) == ["lr 0.01, batch -", "lr 0.02, batch 8"]
    assert labels(a, copy) == ["a", "copy"]
    assert labels(a, b, long) == ["a", "b", "c"]
    assert labels(a) == ["a"]


# ---- wrong usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["a", "none"], "none: expected a run folder, which holds config.toml"),
        (["a", "a/config.toml"], "a/config.toml: expected a run folder, which holds config.toml"),
        (["a", "unmeasured"], "unmeasured: expected a run folder, which holds metrics.jsonl"),
        (["a", "b", "./a"], "a: expected each run once, got it 2 times"),
        (["a", "broken"], "broken/config.toml: not TOML"),
        (["foreign"], "foreign/metrics.jsonl: expected the records of a training"),
        (["a", "--out", "none/page.html"], "--out none/page.html: expected a file in a folder that exists"),
        (["a", "--out", "a"], "--out a: expected a file in a folder that exists"),
        (["a", "--ot", "x"], "unknown argument --ot; did you mean --out?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_2(
    make: Make, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    for name in ("a", "b", "unmeasured", "broken", "foreign"):
        make(name, [0.5])
    Path("unmeasured/metrics.jsonl").unlink()
    Path("broken/config.toml").write_text("x = = 1")
    Path("foreign/metrics.jsonl").write_text('{"loss": 1}\n')
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert message in err
    assert not Path("compare.html").exists()
