"""The format of cuda-convnet's files: sections ``[name]`` with lines ``key = value`` or ``key: value``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ...files import decoded

T = TypeVar("T")

LONGEST_FILE = 2**20
"""Bytes."""


@dataclass(frozen=True)
class Section:
    """[name] of a file, at a line (0: it is not there): its values by key in lower case, each with its line."""

    file: str
    line: int
    name: str
    entries: dict[str, tuple[str, int]] = field(default_factory=dict)

    def error(self, text: str, key: str = "") -> ValueError:
        _, line = self.entries.get(key.lower(), ("", self.line))
        return ValueError(f"{self.file}{f':{line}' if line else ''}: [{self.name}] {text}")

    def has(self, key: str) -> bool:
        return key.lower() in self.entries

    def text(self, key: str, default: str | None = None) -> str:
        if self.has(key):
            return self.entries[key.lower()][0]
        if default is None:
            raise self.error(f"{key} is missing")
        return default

    def texts(self, key: str) -> list[str]:
        return [word.strip() for word in self.text(key).split(",")]

    def integers(
        self, key: str, count: int = 1, default: Sequence[int] | None = None, low: int = 1, high: int = 2**31 - 1
    ) -> list[int]:
        def convert(word: str) -> int | None:
            number = int(word) if re.fullmatch(r"[+-]?[0-9]{1,12}", word) else None
            return number if number is not None and low <= number <= high else None

        return self._list(key, count, default, convert, f"whole numbers from {low} to {high}")

    def integer(self, key: str, default: int | None = None, low: int = 1, high: int = 2**31 - 1) -> int:
        return self.integers(key, 1, None if default is None else [default], low, high)[0]

    def numbers(
        self, key: str, count: int = 1, default: Sequence[float] | None = None, low: float = -1e30, high: float = 1e30
    ) -> list[float]:
        def convert(word: str) -> float | None:
            value = to_number(word)
            return value if value is not None and low <= value <= high else None

        return self._list(key, count, default, convert, f"numbers from {low:g} to {high:g}")

    def number(self, key: str, default: float | None = None, low: float = -1e30, high: float = 1e30) -> float:
        return self.numbers(key, 1, None if default is None else [default], low, high)[0]

    def flags(self, key: str, count: int = 1, default: bool = False) -> list[bool]:
        words = {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }
        return self._list(key, count, [default] * count, lambda word: words.get(word.lower()), "true or false")

    def flag(self, key: str, default: bool = False) -> bool:
        return self.flags(key, 1, default)[0]

    def _list(
        self, key: str, count: int, default: Sequence[T] | None, convert: Callable[[str], T | None], expected: str
    ) -> list[T]:
        if not self.has(key) and default is not None:
            return list(default)
        words = self.texts(key)
        if len(words) != count:
            raise self.error(f"{key}: expected {count} value{'s' * (count != 1)}, got {len(words)}", key)
        values = []
        for word in words:
            value = convert(word)
            if value is None:
                raise self.error(f"{key}: expected {expected}, got {short(word)}", key)
            values.append(value)
        return values


def to_number(word: str) -> float | None:
    plain = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", word)
    return float(word) if plain and math.isfinite(float(word)) else None


def short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def text_of(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(LONGEST_FILE + 1)
    if len(data) > LONGEST_FILE:
        raise ValueError(f"{path}: expected a layer or parameter file of at most {LONGEST_FILE:,} bytes, got more")
    try:
        return decoded(data)
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: expected a text file, got byte {data[e.start]:#04x} at {e.start}") from None


def read(text: str, file: str) -> dict[str, Section]:
    """The sections by name, in order."""
    sections: dict[str, Section] = {}
    section = None
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            name = line[1:-1]
            if line[-1] != "]" or not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name):
                raise ValueError(
                    f"{file}:{number}: expected [name] of letters, digits, - and _, at most 60, got {short(line)}"
                )
            if name in sections:
                raise ValueError(f"{file}:{number}: [{name}] is there already, in line {sections[name].line}")
            section = sections[name] = Section(file, number, name)
            continue
        entry = re.fullmatch(r"(\w+)\s*[=:]\s*(.*)", line, re.ASCII)
        if section is None or not entry:
            where = f"[{section.name}] expected key = value" if section else "expected [name]"
            raise ValueError(f"{file}:{number}: {where}, got {short(line)}")
        key, value = entry.groups()
        if section.has(key):
            raise ValueError(f"{file}:{number}: [{section.name}] {key} is there already")
        section.entries[key.lower()] = re.split(r"\s;", value)[0].strip(), number
    if not sections:
        raise ValueError(f"{file}: expected sections [name] with lines key = value, got none")
    return sections
