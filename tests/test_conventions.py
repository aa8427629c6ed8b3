"""docs/conventions.md: it is what the record says, and what the libraries of the extra `oracle` answer still is."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

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
    assert (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8") == conventions.page(record)


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
    assert (tmp_path / "PAGE").read_text(encoding="utf-8") == conventions.page(json.loads(before))
