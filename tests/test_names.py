"""Names of files, folders and classes are bytes: every command takes, writes, prints and draws any of them."""

from __future__ import annotations

import html
import io
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from PIL import Image

from alexnet_cuda import (
    command_line,
    compare,
    convert,
    evaluate,
    features,
    names,
    pack,
    predict,
    report,
    run_folder,
    train,
)
from alexnet_cuda.data import open_data

NAMES: dict[str, tuple[bytes, str]] = {  # a name, and the encoding of the terminal it is shown on
    "Latin-1": (b"caf\xe9", "utf-8"),
    "Latin-1 on ASCII": (b"caf\xe9", "ascii"),
    "looks escaped": (rb"a\xe9\x5c", "utf-8"),
    "not on ASCII": ("é 猫 😀".encode(), "ascii"),
    "not on Latin-1": ("é 猫 😀".encode(), "latin-1"),
    "markup": (b"[bold]$5_$ :cat: [/] <i>&amp;</i> {x} %s", "utf-8"),
    "control characters": (b"a\nb\t\x1b[31mc\r", "utf-8"),
}


@given(st.binary(min_size=1))
@example(rb"\\x41\x5c")
def test_any_name_as_text_and_back(name: bytes) -> None:
    decoded = os.fsdecode(name)
    text = names.text(decoded)
    assert os.fsencode(names.name(text)) == name
    assert text.encode("utf-8").decode("utf-8") == text and not any(c < " " or c == "\x7f" for c in text)
    if decoded.isprintable() and "\\" not in decoded:
        assert text == decoded


@pytest.mark.parametrize(("name", "_"), NAMES.values(), ids=NAMES.keys())
def test_a_name_as_a_word_of_the_shell(name: bytes, _: str) -> None:
    word = names.shell(os.fsdecode(name + b"'s"))
    assert subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout == name + b"'s"


class Terminal:
    """Standard output and error in an encoding; what commands print there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
        self.encoding, self.out, self.error = encoding, io.BytesIO(), io.BytesIO()
        for stream, to in (("stdout", self.out), ("stderr", self.error)):
            monkeypatch.setattr(sys, stream, io.TextIOWrapper(to, encoding, "strict", write_through=True))

    def run(self, main: Callable[[list[str]], int], *arguments: object, code: int = 0) -> str:
        """What the command printed, nothing of it on standard error."""
        self.out.seek(0)
        self.out.truncate()
        assert command_line.run(main, list(map(str, arguments))) == code, self.error.getvalue()
        assert self.error.getvalue() == b""
        return self.out.getvalue().decode(self.encoding)

    def shown(self, text: str) -> str:
        return text.encode(self.encoding, "backslashreplace").decode(self.encoding)


@pytest.mark.parametrize(("encoded", "encoding"), NAMES.values(), ids=NAMES.keys())
def test_every_command_takes_every_name(
    encoded: bytes, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsdecode(encoded).replace("/", "|")
    text = names.text(name)
    folder = tmp_path / name
    rng = np.random.default_rng(0)
    for label, count in ((name, 5), ("other", 5)):
        (folder / "data" / label).mkdir(parents=True)
        for i in range(count):
            image = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
            image.save(folder / "data" / label / f"{name}{i}.png")
    (folder / "data" / "other" / f"{name}.png").write_bytes(b"broken")
    monkeypatch.chdir(folder)
    terminal = Terminal(monkeypatch, encoding)
    run = Path(f"run {name}")
    some = ["--device", "cpu", "--batch", "4", "--epochs", "1"]
    source = f"folder:{folder / 'data'}"
    printed = terminal.run(train.main, "--data", source, *some, "--out", run)
    assert terminal.shown(f"left out {names.text(folder)}/data/other/{text}.png: cannot identify") in printed
    (line,) = (run / "unreadable.txt").read_text(encoding="utf-8").splitlines()
    assert line.startswith(f"{names.text(folder)}/data/other/{text}.png: ")
    assert tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["data"] == names.text(source)
    assert (run / run_folder.CURVE).stat().st_size > 0
    terminal.run(train.main, "--recipe", run / "config.toml", "--out", "again")
    terminal.run(train.main, "--resume", run, "--epochs", "2")
    told = json.loads(terminal.run(evaluate.main, run, "--json", "--per-class", "--device", "cpu"))
    assert {row["class"] for row in told["results"][0]["classes"]} == {text, "other"}
    images = json.loads(terminal.run(predict.main, run, Path("data") / name, "--json", "--device", "cpu"))
    assert all(Path(names.name(found["image"])).is_file() for found in images) and len(images) == 5
    assert terminal.shown(text) in terminal.run(predict.main, run, Path("data") / name, "--device", "cpu")
    terminal.run(report.main, run, "--device", "cpu")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert html.escape(text) in page
    assert terminal.shown(names.text(run)) in terminal.run(compare.main, run, "again")
    assert html.escape(names.text(run)) in Path("compare.html").read_text(encoding="utf-8")
    terminal.run(features.main, run, Path("data") / name, "-o", f"{name}.npy", "--device", "cpu")
    rows = Path(f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert all(Path(names.name(row)).is_file() for row in rows) and len(rows) == 5
    terminal.run(pack.main, source, f"packed {name}", "--size", "36")
    data = open_data(f"packed:{folder}/packed {name}", 32, 32)
    assert set(data.classes) == {text, "other"} and names.text(folder) in data.split
    assert terminal.shown(text) in terminal.run(convert.main, run, f"{name}.safetensors")


@pytest.mark.parametrize(("encoded", "encoding"), NAMES.values(), ids=NAMES.keys())
def test_errors_name_every_name(encoded: bytes, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(encoded)
    for main, arguments in (
        (train.main, ["--data", f"folder:{name}"]),
        (train.main, ["--recipe", name]),
        (train.main, ["--resume", name]),
        (evaluate.main, [name]),
        (predict.main, [name, name]),
        (report.main, [name]),
        (compare.main, [name]),
        (features.main, [name, name, "-o", "x.npy"]),
        (pack.main, [name, "packed"]),
        (convert.main, [name, "x.onnx"]),
    ):
        terminal = Terminal(monkeypatch, encoding)
        assert command_line.run(main, arguments) == 2
        told = terminal.error.getvalue().decode(encoding)
        assert told.startswith("error: ") and told.count("\n") == 1 and "Traceback" not in told, (main, told)
        assert "\x1b" not in told


def test_a_drawing_that_fails_is_said_and_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no font\nat all")

    monkeypatch.setattr(run_folder, "draw_curves", fail)
    some = ["--data", "synthetic:2", "--device", "cpu", "--overfit-batch", "--batch", "4", "--epochs", "1"]
    assert command_line.run(train.main, [*some, "--out", str(tmp_path / "run")]) == 1  # it learns nothing by heart
    assert "run/curve.png could not be drawn: no font at all" in capsys.readouterr().out
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()


def test_labels_in_a_text_file_are_names_too(tmp_path: Path) -> None:
    for label in (b"caf\xe9", b"other"):
        os.makedirs(os.path.join(os.fsencode(tmp_path), b"train", label))
        for i in range(2):
            image = Image.new("RGB", (40, 40))
            image.save(os.path.join(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"train", label)), f"{i}.png"))
    (tmp_path / "val").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "val" / "\udce9.png")
    (tmp_path / "val.txt").write_bytes(b"\xe9.png caf\xe9\n")
    data = open_data(f"imagenet:{tmp_path}", 32, 32)
    assert [data.classes[label] for label in data.test.labels] == [r"caf\xe9"]
