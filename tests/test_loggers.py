"""``train --log``: what each logger is told, what it makes of it, and that none ends a training."""

from __future__ import annotations

import csv
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from alexnet_cuda import command_line, loggers, recipe, train
from alexnet_cuda.data import ArrayDataset, Data
from alexnet_cuda.loggers import OF_EPOCHS, OF_STEPS, CsvLogger, Loggers
from alexnet_cuda.metrics import read_metrics
from alexnet_cuda.trainer import Trainer

pytest_plugins = ["tiny_run"]


class SummaryWriter:
    """As tensorboardX has it."""

    made: ClassVar[list[tuple[str, dict[str, int]]]] = []
    written: ClassVar[dict[tuple[str, int], float]] = {}

    def __init__(self, folder: str, **options: int) -> None:
        self.made.append((folder, options))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.written[name, step] = value

    def close(self) -> None:
        self.made.append(("closed", {}))


class Kept:
    """A logger of one's own."""

    told: ClassVar[list[Any]] = []

    def __init__(self, folder: Path, step: int) -> None:
        self.told.append((folder, step))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.told.append((dict(values), step))

    def close(self) -> None:
        self.told.append("closed")


class Failing(Kept):
    def log(self, values: Mapping[str, float], step: int) -> None:
        raise OSError("no\nroom")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=SummaryWriter))
    own = ModuleType("own")
    vars(own).update(Kept=Kept, Failing=Failing, NUMBER=3, Nothing=type("Nothing", (), {"log": None}))
    monkeypatch.setitem(sys.modules, "own", own)
    for kept in (SummaryWriter.made, SummaryWriter.written, Kept.told):
        kept.clear()


Call = Callable[..., int]


@pytest.fixture
def call(tiny_images: Path) -> Call:
    def run(*arguments: object) -> int:
        given = list(map(str, arguments))
        if "--resume" not in given:
            given = ["--data", f"folder:{tiny_images}", "--device", "cpu", "--batch", "8", "--out", "run", *given]
        return command_line.run(train.main, given)

    return run


def measured() -> dict[int, dict[str, float]]:
    """By step, what metrics.jsonl has, by the names of loggers."""
    found: dict[int, dict[str, float]] = {}
    for record in read_metrics(Path("run/metrics.jsonl")):
        names = {"step": OF_STEPS, "epoch": OF_EPOCHS, "start": ()}[record["kind"]]
        found.setdefault(record["step"], {}).update({name: record[name] for name in names})
    return {step: values for step, values in found.items() if values}


def test_all_loggers_are_told_what_is_measured(call: Call) -> None:
    assert call("--epochs", 3, "--log", "csv", "--log", "tensorboard", "--log", "own:Kept", "--log", "csv") == 0
    expected = measured()
    assert sorted(expected) == [7, 10, 14, 20, 21] and set(expected[20]) == {*OF_STEPS}
    with open("run/metrics.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["step", *OF_STEPS, *OF_EPOCHS]
    cells = {int(step): {n: float(v) for n, v in zip(header[1:], row, strict=True) if v} for step, *row in rows}
    assert cells == expected and len(rows) == len(expected)
    assert SummaryWriter.written == {(n, step): v for step, values in expected.items() for n, v in values.items()}
    assert SummaryWriter.made == [("run", {}), ("closed", {})]
    (began, *told, closed) = Kept.told
    assert began == (Path("run"), 0) and closed == "closed"
    assert {step: values for values, step in told} == expected


def test_a_run_that_goes_on_goes_on_in_its_logs(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("--epochs", 3, "--log", "csv") == 0
    straight = Path("run/metrics.csv").read_text()
    Path("run").rename("straight")
    step = Trainer._step

    def wrapped(self: Trainer, *arguments: Any) -> None:
        step(self, *arguments)
        if self.progress.step == 12:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", wrapped)
        assert call("--epochs", 3, "--log", "csv") == 130
    with open("run/metrics.csv", "a") as file:  # as after a crash
        file.write("13,1,1,1\n14,")
    assert call("--resume", "run", "--log", "csv", "--log", "tensorboard", "--log", "own:Kept") == 0

    def without_times(text: str) -> list[str]:
        return [line.rpartition(",")[0] for line in text.splitlines()]

    assert without_times(Path("run/metrics.csv").read_text()) == without_times(straight)
    assert SummaryWriter.made[0] == ("run", {"purge_step": 13})
    assert Kept.told[0] == (Path("run"), 12)


def test_a_logger_that_fails_is_said_once_and_ends_nothing(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--epochs", 3, "--log", "own:Failing", "--log", "csv") == 0
    told = "--log own:Failing failed and is left out from here on: OSError: no room"
    assert capsys.readouterr().out.count(told) == 1
    assert len(Path("run/metrics.csv").read_text().splitlines()) == 6
    assert "closed" not in Kept.told


def test_the_old_option_works_and_tells_the_new_one(call: Call, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.warns(DeprecationWarning, match="--tensorboard is now called --log tensorboard") as caught:
        assert call("--epochs", 1, "--tensorboard") == 0
    assert Path(caught[0].filename).name == "train.py"
    assert ("test_loss", 7) in SummaryWriter.written
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call("--epochs", 1, "--log", "tensorboard", "--out", "other") == 0


def test_in_python_a_trainer_takes_a_logger() -> None:
    rng = np.random.default_rng(0)
    images = ArrayDataset(rng.integers(0, 256, (16, 32, 32, 3), np.uint8), np.arange(16, dtype=np.int32) % 7, "abcdefg")
    made = recipe.Recipe(batch=4, epochs=5, lr=1e-4)
    trainer = Trainer.of(made, Data(images, images, "", False), "cpu", logger=(kept := Kept(Path(), 0)))
    epochs = []
    trainer.fit(lambda step: None, epochs.append)
    told = {step: values for values, step in kept.told[1:] if "loss" in values}
    assert sorted(told) == [10, 20] and told[10]["lr"] == pytest.approx(1e-4 * (1 + math.cos(math.pi * 9 / 20)) / 2)
    tested = [(values["test_loss"], step) for values, step in kept.told[1:] if "test_loss" in values]
    assert tested == [(epoch.test.loss, epoch.step) for epoch in epochs]


def test_what_is_not_finite_is_not_told(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    evaluate = Trainer.evaluate
    monkeypatch.setattr(Trainer, "evaluate", lambda *a: evaluate(*a)._replace(loss=math.inf, top5=None))
    assert call("--epochs", 1, "--log", "own:Kept") == 0
    (values,) = (values for values, step in Kept.told[1:-1] if step == 7)
    assert set(values) == {*OF_EPOCHS} - {"test_loss", "test_top5"}


def test_a_csv_file_that_is_another_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    logger = CsvLogger(tmp_path, 5)
    Loggers({"csv": logger}).log({"loss": 0.5}, 6)
    logger.close()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1:] == ["6,0.5" + "," * (len(OF_STEPS + OF_EPOCHS) - 1)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "expected tensorboard, csv or MODULE:CLASS; did you mean tensorboard?"),
        ("", "expected tensorboard, csv or MODULE:CLASS"),
        ("own:", "expected tensorboard, csv or MODULE:CLASS"),
        ("none.such:Logger", "importing none.such failed: ModuleNotFoundError: No module named 'none'"),
        ("own:Knept", "own has no Knept"),
        ("own:NUMBER", "expected a class, got 3"),
        ("own:Nothing", "expected a class with log and close, it lacks close"),
    ],
)
def test_an_unknown_logger_is_one_line(call: Call, capsys: pytest.CaptureFixture[str], name: str, message: str) -> None:
    assert call("--log", name) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --log {name}: ") and message in error and error.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_a_logger_that_cannot_be_made_is_one_line(
    call: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kept, "__init__", lambda self: None)
    assert call("--log", "own:Kept") == 2
    error = capsys.readouterr().err
    assert "--log own:Kept: it cannot be made: TypeError" in error and error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert call("--log", "tensorboard", "--out", "other") == 2
    assert "--log tensorboard needs tensorboardX: pip install" in capsys.readouterr().err
    assert not Path("other").exists()
    assert loggers.found("csv") is CsvLogger
