"""docs/conventions.md: it is what the record says, and what the libraries of the extra `oracle` answer still is."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from alexnet_cuda import models

ROOT = Path(__file__).parents[1]
ORACLES = {
    "pytorch": ["torch"],
    "onnxruntime": ["onnx", "onnxruntime"],
    "onnx_reference": ["onnx"],
    "keras-torch": ["keras", "torch"],
    "keras-jax": ["keras", "jax"],
    "jax": ["jax"],
}


@pytest.fixture(scope="module")
def conventions() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module("conventions")
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def record(conventions: ModuleType) -> dict:
    return json.loads(conventions.RESULT.read_text())


def test_the_page_is_the_records(conventions: ModuleType, record: dict) -> None:
    page = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    assert page == conventions.page(record, json.loads(conventions.CONSUMERS.read_text()))


def test_every_answer_is_to_a_question(conventions: ModuleType, record: dict) -> None:
    questions = {row.key for row in conventions.ROWS}
    assert record["columns"].keys() == conventions.COLUMNS.keys()
    columns = [column["cells"] for column in record["columns"].values()]
    columns += [source.cells for source in conventions.SOURCES]
    assert all(column and column.keys() <= questions for column in columns)
    assert record["columns"][conventions.OURS]["cells"].keys() == questions


def test_ours_are_what_the_page_says(conventions: ModuleType, record: dict) -> None:
    """Ours, and what gives others' answers here."""
    ours, column = importlib.import_module("columns.of_alexnet_cuda"), record["columns"][conventions.OURS]
    assert {key: answer() for key, answer in ours.answers().items()} == column["cells"]
    assert ours.ways() == column["ways"]


@pytest.mark.oracle
@pytest.mark.parametrize("column", ORACLES)
def test_a_library_answers_as_it_did(
    conventions: ModuleType,
    record: dict,
    import_oracle: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    column: str,
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # of this process, which only imports it
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for name in ORACLES[column]:
        import_oracle(name)
    assert conventions.run(column)["cells"] == record["columns"][column]["cells"]


def test_a_missing_library_costs_its_column_alone(
    conventions: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = conventions.RESULT.read_text()
    for name in ("RESULT", "PAGE"):
        monkeypatch.setattr(conventions, name, tmp_path / name)
    (tmp_path / "RESULT").write_text(before)
    monkeypatch.setitem(conventions.COLUMNS, "chainer", {"PYTHONPATH": str(tmp_path)})
    (tmp_path / "chainer.py").write_text("raise ImportError('no such library')\n")
    assert conventions.main(["chainer"]) == 1
    assert capsys.readouterr().err == "chainer: its process ended with status 1: ImportError: no such library\n"
    assert (tmp_path / "RESULT").read_text() == before
    assert (tmp_path / "PAGE").read_text(encoding="utf-8") == (ROOT / "docs" / "conventions.md").read_text(
        encoding="utf-8"
    )


def test_our_files_give_our_logits(conventions: ModuleType) -> None:
    """In every consumer, in the form that `convert` writes for it."""
    consumers = importlib.import_module("consumers")
    record = json.loads(conventions.CONSUMERS.read_text())
    assert record["consumers"].keys() == consumers.CONSUMERS.keys() == conventions.CONSUMED.keys()
    for consumer in record["consumers"].values():
        errors = consumer["forms"]["--for" if consumer["for"] else ""]["errors"]
        assert errors.keys() == {name for name in models.names() if not isinstance(models.get(name), models.Own)}
        assert all(error <= conventions.CLOSE for error in errors.values())


def test_networks_that_are_not_close_are_told(conventions: ModuleType) -> None:
    told = conventions.told({"a": 1e-7, "b": 2e-6, "c": 1e-3, "d": "NaN", "e": 2e-2}, conventions.CLOSE)
    assert told == "2 of 5 within 2.0e-06; off by up to 2.0e-02: c, e; NaN: d"


@pytest.mark.oracle
def test_a_consumer(
    conventions: ModuleType,
    import_oracle: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("onnx", "onnxruntime"):
        import_oracle(name)
    consumers = importlib.import_module("consumers")
    monkeypatch.setattr(conventions, "PAGE", tmp_path / "PAGE")
    monkeypatch.setattr(conventions, "CONSUMERS", tmp_path / "CONSUMERS")
    assert consumers.main(["--consumer", "onnxruntime", "onnx_reference", "--model", "alexnet-mini"]) == 0
    record = json.loads((tmp_path / "CONSUMERS").read_text())["consumers"]
    assert 0 < record["onnxruntime"]["forms"][""]["errors"]["alexnet-mini"] <= conventions.CLOSE
    for form, most in (("--float16", 1e-2), ("--int8", 3e-2)):
        assert conventions.CLOSE < record["onnxruntime"]["forms"][form]["errors"]["alexnet-mini"] < most
    assert 0 < record["onnx_reference"]["forms"]["--for"]["errors"]["alexnet-mini"] <= conventions.CLOSE
    assert record["onnx_reference"]["forms"][""]["errors"]["alexnet-mini"] > conventions.CLOSE


def test_what_ends_a_process_costs_its_network_alone(
    conventions: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    consumers = importlib.import_module("consumers")

    def ended(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        """As `columns.consume` on two networks, of which the first ends it."""
        file = Path(command[-1])
        name = "second" if file.read_text() else "first"
        lines = [{"name": name, "version": "1"}, {"name": name, "error": 1e-7}]
        with file.open("a") as out:
            out.writelines(json.dumps(line) + "\n" for line in (lines if name == "second" else lines[:1]))
        return subprocess.CompletedProcess(command, 0 if name == "second" else -11, "", "")

    monkeypatch.setattr(subprocess, "run", ended)
    assert consumers.consume("one", tmp_path)["errors"] == {"first": "ends its process", "second": 1e-7}
