"""What is written is written once: no ten lines are those of another place but for names, strings and numbers."""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "csrc", "kernels", "benchmarks", "examples")
SUFFIXES = {".py", ".cu", ".cuh", ".h", ".hpp", ".cpp"}
LINES = 10
KINDS = 5
"""Kinds of lines that make a place more than a table or a list of names."""
CPP_WORD = re.compile(
    r"if|else|for|while|do|break|continue|switch|case|default|return|throw|try|catch|template|typename|class|struct|enum|"
    r"union|using|namespace|const|constexpr|static|inline|void|auto|bool|char|int|long|float|double|unsigned|operator|"
    r"new|delete|sizeof|this|true|false|nullptr"
)
CPP_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<string>R"\((?:.|\n)*?\)"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')"""
    r"""|(?P<number>\.?\d(?:[eEpP][+-]|[\w.'])*)|(?P<word>[A-Za-z_]\w*)|(?P<other>\S)""",
    re.DOTALL,
)


class Line(NamedTuple):
    file: str
    number: int
    form: str
    """Its tokens, with names, strings and numbers made alike."""


class Twice(NamedTuple):
    first: tuple[str, int, int]
    second: tuple[str, int, int]
    """File, first and last line."""

    def __str__(self) -> str:
        return " = ".join(f"{file}:{start}-{end}" for file, start, end in self)


def python_lines(file: str, text: str) -> list[Line]:
    """Without comments, docstrings, imports and what says which arguments a function takes."""
    forms: dict[int, list[str]] = defaultdict(list)
    statement: list[tuple[int, str]] = []
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NEWLINE:
            if statement[0][1] not in ("import", "from", "def") and [form for _, form in statement] != ["S"]:
                for number, form in statement:
                    forms[number].append(form)
            statement = []
        elif token.type not in skipped:
            form = {tokenize.STRING: "S", tokenize.NUMBER: "0"}.get(token.type, token.string)
            if token.type == tokenize.NAME and not keyword.iskeyword(form):
                form = "x"
            statement.append((token.start[0], form))
    return [Line(file, number, " ".join(form)) for number, form in sorted(forms.items())]


def cpp_lines(file: str, text: str) -> list[Line]:
    """Without comments and includes."""
    forms: dict[int, list[str]] = defaultdict(list)
    for match in CPP_TOKEN.finditer(text):
        kind, form = match.lastgroup, match[0]
        if kind != "comment":
            alike = {"string": "S", "number": "0", "word": form if CPP_WORD.fullmatch(form) else "x"}
            forms[text.count("\n", 0, match.start()) + 1].append(alike.get(str(kind), form))
    lines = [Line(file, number, " ".join(form)) for number, form in sorted(forms.items())]
    return [line for line in lines if not line.form.startswith("# x")]


def lines_of(path: Path) -> list[Line]:
    file, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    return python_lines(file, text) if path.suffix == ".py" else cpp_lines(file, text)


def twice(files: list[list[Line]]) -> Iterator[Twice]:
    """Places of at least ``LINES`` lines that are alike, each as long as it can be."""
    places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for f, lines in enumerate(files):
        for i in range(len(lines) - LINES + 1):
            forms = tuple(line.form for line in lines[i : i + LINES])
            if len(set(forms)) >= KINDS:
                places[forms].append((f, i))
    starts = {((f, i), (g, j)) for found in places.values() for f, i in found for g, j in found if (f, i) < (g, j)}
    for (f, i), (g, j) in sorted(starts):
        if ((f, i - 1), (g, j - 1)) in starts:
            continue
        length = LINES
        while ((f, i + length - LINES + 1), (g, j + length - LINES + 1)) in starts:
            length += 1
        if f == g and i + length > j:  # a place that repeats itself
            length = j - i
        if length >= LINES:
            one, other = files[f], files[g]
            yield Twice(
                (one[i].file, one[i].number, one[i + length - 1].number),
                (other[j].file, other[j].number, other[j + length - 1].number),
            )


ALLOWED: dict[tuple[str, str], tuple[int, str]] = {
    ("src/alexnet_cuda/models/alexnet.py",) * 2: (1, "models are data: two have as many layers of the same kinds"),
    ("kernels/activation.cu",) * 2: (2, "launchers of three functions: all that is in them is their names"),
    ("kernels/pool2d.cu",) * 2: (2, "launchers of maxima and means: kernels with other arguments"),
    ("csrc/convolution.cpp",) * 2: (4, "bindings of the passes of convolutions, which take other arrays"),
    ("csrc/pooling.cpp",) * 2: (1, "bindings that take other arrays"),
    ("csrc/products.cpp",) * 2: (2, "bindings that take other arrays"),
}
"""How many places of two files may be alike, and why."""


def test_nothing_is_written_twice() -> None:
    """But what is allowed; and what is, is there."""
    paths = [p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*")) if p.suffix in SUFFIXES]
    found = list(twice([lines_of(path) for path in paths]))
    files = [(place.first[0], place.second[0]) for place in found]
    new = [pair for pair in files if files.count(pair) != ALLOWED.get(pair, (0, ""))[0]]
    assert not [str(place) for place, pair in zip(found, files, strict=True) if pair in new]
    assert ALLOWED.keys() == set(files)


PYTHON = """
def first(x: int) -> int:
    total = 0
    for i in range(10):
        if x % 2:
            total += i
        else:
            total -= x  # odd
    while total > 3:
        total //= 2
        print("at", total)
    if not total:
        raise ValueError("none")
    return total
"""
CPP = """
int first(int x) {
  int total = 0;
  for (int i = 0; i < 10; ++i) {
    if (x % 2) total += i;
    else total -= x;  // odd
  }
  while (total > 3) {
    total /= 2;
    std::puts("half");
  }
  if (!total) throw 7;
  return total;
}
"""
OTHER_WORDS = [("total", "rest"), ("10", "0x7f"), ('"at"', "'now'"), ('"half"', 'R"(of it)"'), ("odd", "never even")]


@pytest.mark.parametrize(("lines", "text"), [(python_lines, PYTHON), (cpp_lines, CPP)])
def test_other_words_are_no_other_text(lines: Callable[[str, str], list[Line]], text: str) -> None:
    changed = text
    for word, other in OTHER_WORDS:
        changed = changed.replace(word, other)
    one, other = lines("one", text), lines("other", changed)
    assert len(one) >= LINES
    (place,) = twice([one, other])
    assert place == (("one", one[0].number, one[-1].number), ("other", other[0].number, other[-1].number))
    (place,) = twice([lines("one", text + changed)])
    assert [file for file, *_ in place] == ["one", "one"]
    assert not list(twice([one, lines("other", text.replace("2", "x + 2", 1).replace("3", "x + 3", 1))]))


def test_lists_and_short_places_are_not_counted() -> None:
    table = "x = [\n" + "    (1, 'a', f(2)),\n" * 30 + "]\n"
    assert not list(twice([python_lines("one", table), python_lines("other", table)]))
    short = PYTHON.partition("    while")[0]
    assert not list(twice([python_lines("one", short), python_lines("other", short)]))
