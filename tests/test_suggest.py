"""What was meant by an unknown word: the same rule for every message that suggests one."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_cuda.suggest import nearest


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("momentun", "; did you mean momentum?"),
        ("MOMENTUM", "; did you mean momentum?"),
        ("epsw", "; did you mean epsW?"),
        ("something else", ""),
        ("", ""),
    ],
)
def test_the_nearest_word_or_none(word: str, hint: str) -> None:
    assert nearest(word, iter(["momentum", "epsW", "epsB"])) == hint


def test_several_words_the_nearest_first() -> None:
    known = ["alexnet-half", "alexnet", "caffenet", "keras"]
    assert nearest("alexne", known, most=3, cutoff=0.5) == "; did you mean alexnet or alexnet-half or caffenet?"


def test_long_words_are_compared_by_their_beginnings() -> None:
    """Else a megabyte in a hostile file would take minutes."""
    assert nearest("momentum" + "x" * 1_000_000, ["momentum"]) == ""
    assert nearest("m" * 1_000_000, ["m" * 59]) == f"; did you mean {'m' * 59}?"


def test_nobody_else_compares_words() -> None:
    files = Path(__file__).parents[1].joinpath("src/alexnet_cuda").rglob("*.py")
    assert [file.name for file in files if "difflib" in file.read_text(encoding="utf-8")] == ["suggest.py"]
