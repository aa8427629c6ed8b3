"""What a terminal shows: nothing is longer than its lines, at any width, and in ASCII where it has no more."""

from __future__ import annotations

import importlib
import io
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from rich.cells import cell_len
from rich.console import Console

from alexnet_cuda import __main__, checks, command_line, compare, recipe, train
from alexnet_cuda.terminal import Bar, cut, fitting, grid, paragraph

pytest_plugins = ["tiny_run"]

ROOT = Path(__file__).parents[1]
WIDTHS = [40, 80, 120]
REPORT = cache(checks.report)  # once is enough


class Terminal(io.TextIOWrapper):
    """What a terminal would be sent."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a command writes to a terminal of a width."""

    def call(arguments: Sequence[object], width: int, encoding: str = "utf-8") -> str:
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.setenv("COLUMNS", str(width))
            patch.setenv("TERM", "xterm")
            screen = Terminal(io.BytesIO(), encoding, write_through=True)
            patch.setattr(sys, "stdout", screen)
            patch.setattr(sys, "stderr", screen)
            patch.setattr(checks, "report", REPORT)
            patch.setattr(compare, "page", lambda groups: "")
            patch.setattr(sys, "argv", ["alexnet-cuda", *map(str, arguments)])
            code: object = 0
            try:
                code = command_line.run(__main__.main)
            except SystemExit as done:  # as argparse ends after --help
                code = done.code
            written = screen.buffer.getvalue().decode(encoding)
        assert code == 0 and "error: " not in written, written
        return written

    return call


def lines(written: str) -> list[str]:
    """The lines of a terminal's output, each state of a line that was written over, too."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\r", written)
    return [line.rstrip() for line in re.split(r"[\r\n]", text) if line.strip()]


# ---- every command, on a pseudo terminal


@pytest.fixture(scope="module")
def folder(tiny_run: Path, tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and two runs, whose paths from there are short."""
    place = tmp_path_factory.mktemp("place")
    shutil.copytree(tiny_run, place / "run")
    shutil.copytree(tiny_images, place / "images")
    shutil.copytree(tiny_run, place / "other")
    config = (place / "other/config.toml").read_text()
    (place / "other/config.toml").write_text(config.replace("lr = ", "lr = 1").replace("seed = 0", "seed = 1"))
    return place


TRAIN = ["train", "--data", "folder:images", "--device", "cpu", "--batch", "8", "--epochs", "2"]
COMMANDS: dict[str, list[object]] = {
    "evaluate": ["evaluate", "run", "other", "--per-class", "--device", "cpu", "--data", "folder:images"],
    "predict": ["predict", "run", "images/val/red/0.png", "--device", "cpu", "--threads", "1"],
    "compare": ["compare", "run", "other", "--out", "page.html"],
    "features": ["features", "run", "images/val/red", "-o", "f.npy", "--device", "cpu"],
    "summary": ["summary"],
    "summary of a model": ["summary", "--model", "alexnet"],
    "summary of two towers": ["summary", "--model", "alexnet", "--device", "cpu:0,cpu:1"],
    "summary of memory": ["summary", "--model", "alexnet-mini", "--memory"],
    "checks": ["checks"],
    "checks of kernels": ["checks", "--kernels", "--device", "cpu", "--only", "images"],
    "convert": ["convert", "run", "w.safetensors"],
    "the list": [],
    "version": ["--version"],
    "entries": ["train", "--help-set"],
    **{f"help of {name}": [name, "--help"] for name in __main__.COMMANDS},
}
WHOLE = re.compile(r"^\S*(/|python -m )|^\S+$|^  python -m ")  # paths and commands, to be copied, and words


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS.keys())
def test_nothing_is_longer_than_a_terminals_lines(shown: Callable[..., str], arguments: list[str]) -> None:
    said = {}
    for width in WIDTHS:
        said[width] = lines(shown(arguments, width))
        for line in said[width]:
            whole = width < 80 and (WHOLE.search(line.strip()) or "--help" in arguments)
            assert cell_len(line) <= width or whole, (width, line)
    assert said[120]


def test_a_training_fits_and_its_line_of_progress_is_a_bar(shown: Callable[..., str]) -> None:
    for width in WIDTHS:
        written = lines(shown([*TRAIN, "--out", f"out{width}"], width))
        bars = [line for line in written if re.match(r"epoch [12]/2 [━─]{8,} [0-7]/7", line)]
        assert bars and (width < 80 or all(re.search(r"loss .* images/s  \d:\d\d:\d\d left$", bar) for bar in bars))
        assert any("left" in bar for bar in bars)
        long = [line for line in written if cell_len(line) > width]
        assert all(WHOLE.search(line) or "/" in line for line in long), long
        assert width < 80 or not long


def test_a_pack_has_a_bar_too(shown: Callable[..., str]) -> None:
    for width in WIDTHS:
        written = lines(shown(["pack", "folder:images", f"pack{width}", "--size", "36"], width))
        assert all(cell_len(line) <= width for line in written), written


@pytest.mark.parametrize("name", ["training", "predict", "compare", "evaluate"])
def test_a_terminal_without_more_gets_ascii(shown: Callable[..., str], name: str) -> None:
    command = [*TRAIN, "--out", "ascii"] if name == "training" else COMMANDS[name]
    written = shown(command, 80, "ascii")
    assert written.isascii() and "\\u" not in written
    if name == "training":
        assert re.search(r"epoch 1/2 [#-]{8,} \d/7", written)


# ---- all commands in one


def test_without_arguments_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        __main__.main([])
    assert done.value.code == 0
    told = capsys.readouterr().out
    assert all(re.search(rf"^{name} +\w", told, re.MULTILINE) for name in __main__.COMMANDS)
    modules = {path.stem for path in (ROOT / "src/alexnet_cuda").glob("*.py") if "\ndef main(" in path.read_text()}
    assert {*__main__.COMMANDS} == {*modules - {"__main__"}, "report"}
    assert all(hasattr(importlib.import_module(f"alexnet_cuda.{name}"), "main") for name in __main__.COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command trian; did you mean train? (commands: train, evaluate, "),
        (["--verison"], "unknown argument --verison; did you mean --version?"),
        (["predict"], "the following arguments are required: RUN, IMAGE"),
    ],
)
def test_a_wrong_command_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(__main__.main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_command_by_its_name_is_that_command(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["alexnet-cuda", "summary", "--model", "alexnet-mini", "--json"])
    assert __main__.script() == 0
    assert '"alexnet-mini"' in capsys.readouterr().out
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["alexnet-cuda"].partition(":")
    assert getattr(importlib.import_module(module), function) is __main__.script


def test_the_script_ends_quietly_while_it_is_imported() -> None:
    for name, quiet in (("/usr/bin/alexnet-cuda", True), ("/usr/bin/alexnet", False)):
        program = f"""import signal, sys; sys.argv[0] = "{name}"; import alexnet_cuda
from alexnet_cuda import interrupt; print(signal.getsignal(signal.SIGINT) is interrupt._end)"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == f"{quiet}\n"


@pytest.mark.parametrize("main", [__main__.main, train.main])
def test_the_version_tells_commit_and_devices(main, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    first, *others = capsys.readouterr().out.splitlines()
    known = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    version, _, commit = first.removeprefix("alexnet_cuda ").partition(", commit ")
    assert version == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert known.startswith(commit.rstrip("+")) and bool(commit) == bool(known)
    assert others[0].startswith("cpu: ") and len(others) > 1


def test_set_is_told_from_the_recipe_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--help-set"]) == 0
    told = capsys.readouterr().out
    for entry in fields(recipe.Recipe):
        if entry.default is not MISSING or entry.name == "rates":
            assert re.search(rf"^{entry.name}(\.PATTERN)?( =.*)?\n    \S", told, re.MULTILINE), entry.name
    told = " ".join(told.split())
    for name in ("model.dropout", "layers.NAME.lr = 1.0", 'schedule = "cosine"', "One of sgd, adam, adamw."):
        assert name in told
    for entry, default, _ in recipe.described():
        if default and entry.islower():
            recipe.change(recipe.Recipe(), recipe.settings([f"{entry}={default}"]), "")


def test_the_help_has_examples_that_parse() -> None:
    text = train.parser().format_help()
    examples = re.findall(r"^  python -m alexnet_cuda\.train (.*)$", text, re.MULTILINE)
    assert len(examples) >= 3
    for example in examples:
        train.parser().parse_args(example.split())


# ---- its parts


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "M", "Z"]), max_size=30)


@given(TEXTS, st.integers(5, 40))
def test_what_is_cut_fits_and_keeps_both_ends(text: str, width: int) -> None:
    told = cut(text, width)
    assert cell_len(told) <= width
    assert told == text or (cell_len(text) > width and "..." in told)
    begin, _, end = told.partition("...") if told != text else (text, "", "")
    assert text.startswith(begin.rstrip()) and text.endswith(end)


@given(st.lists(st.tuples(TEXTS, st.integers(0, 10**9), st.integers(0, 99)), min_size=1, max_size=4))
def test_a_table_leaves_out_what_it_is_told_to_and_then_cuts(rows: list[tuple[str, int, int]]) -> None:
    header, cells = ("name", "number", "share"), [(name, str(a), str(b)) for name, a, b in rows]
    whole = grid(header, cells, ["name"])
    for width in range(16, 60):
        table = grid(header, cells, ["name"], width, ["number"])
        longest = max(map(cell_len, table.splitlines()))
        assert longest <= width
        if max(map(cell_len, whole.splitlines())) <= width:
            assert table == whole
        else:
            assert "too wide for here: number" in table.replace("\n", " ") and "number" not in table.splitlines()[0]
        assert all(str(b) in table for _, _, b in rows)


def test_the_first_line_that_fits_is_taken() -> None:
    assert fitting("12345", "123", "1", width=4) == "123"
    assert fitting("12345", "123", width=None) == "12345"
    assert fitting("1234567890", width=7) == "12...90"


def test_paragraphs_are_broken_between_words() -> None:
    assert paragraph("one two\nthree  four", 9, "  ") == "one two\nthree\n  four"
    assert paragraph("a/very/long/path and", 8) == "a/very/long/path\nand"
    assert paragraph("one two three", None) == "one two three"


@given(st.integers(20, 200), st.integers(0, 5000), st.booleans())
def test_a_bar_is_as_long_as_what_is_done(width: int, done: int, plain: bool) -> None:
    bar = Bar(Console(file=io.StringIO()), "epoch 3/40", 5000)
    bar.update(done, "rate 0.01", "loss 0.1234", "1,234 images/s", "0:12:34 left")
    line = bar.line(width, plain)
    assert cell_len(line) <= max(width, 22) and line.startswith("ep")
    assert f"{done:,}/5,000" in line
    filled, rest = line.count("#" if plain else "━"), line.count("-" if plain else "─")
    assert abs(filled - (filled + rest) * done / 5000) <= 0.5
    assert width < 80 or (filled + rest >= 8 and "images/s" in line and line.endswith(" left"))
    assert not plain or line.isascii()
