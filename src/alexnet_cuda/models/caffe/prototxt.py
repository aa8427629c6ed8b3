"""Protocol buffers' text format: fields ``name: value`` and messages ``name { ... }``, as a tree with line numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from ...suggest import nearest

T = TypeVar("T")

LONGEST_FILE = 2**20
"""Bytes."""
DEEPEST = 16
"""Message within message."""
TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)|(?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')"""
    r"""|(?P<word>[A-Za-z_][A-Za-z0-9_]*|[-+]?\.?[0-9](?:[A-Za-z0-9_.]|(?<=[eE])[-+])*)|(?P<mark>[{}<>:\[\],;])"""
)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?f?")


class PrototxtError(ValueError):
    """A prototxt file cannot be used; the message is one line with file, line, layer and field."""


class Token(NamedTuple):
    """``kind``: string, word (also a number), mark, or end."""

    kind: str
    text: str
    line: int


class Scalar(NamedTuple):
    """The value of a field: the text, of a string without its quotes."""

    text: str
    quoted: bool
    line: int


@dataclass(frozen=True)
class Message:
    """The fields of a message by name, each with its values in order. ``where``: what it is called in errors."""

    file: str
    where: str
    line: int
    fields: dict[str, list[Scalar | Message]] = field(default_factory=dict)

    def error(self, text: str, key: str = "", line: int = 0) -> PrototxtError:
        """What is wrong, of a field (else of all), with file and line."""
        line = line or (self.fields[key][0].line if key in self.fields else self.line)
        where = " ".join(part for part in (self.where, key) if part)
        return PrototxtError(f"{self.file}:{line}: {where}: {text}" if where else f"{self.file}:{line}: {text}")

    def known(self, names: str) -> None:
        """PrototxtError for a field that is not among these."""
        for key in self.fields:
            if key not in names.split():
                raise self.error(f"expected one of {', '.join(names.split())}{nearest(key, names.split())}", key)

    def messages(self, key: str) -> list[Message]:
        """All messages in a field, in order."""
        found = self.fields.get(key, [])
        if not all(isinstance(value, Message) for value in found):
            raise self.error("expected { ... }, got a value", key)
        where = " ".join(filter(None, (self.where, key)))
        return [replace(value, where=where) for value in found if isinstance(value, Message)]

    def message(self, key: str) -> Message:
        """The one message in a field; without fields where there is none."""
        found = self.messages(key)
        if len(found) > 1:
            raise self.error(f"expected once, got {len(found)} of them", key)
        return found[0] if found else Message(self.file, " ".join(filter(None, (self.where, key))), self.line)

    def scalars(self, key: str) -> list[Scalar]:
        """All values in a field, in order."""
        found = self.fields.get(key, [])
        if not all(isinstance(value, Scalar) for value in found):
            raise self.error("expected a value, got { ... }", key)
        return [value for value in found if isinstance(value, Scalar)]

    def texts(self, key: str) -> list[str]:
        """All strings in a field."""
        found = self.scalars(key)
        for value in found:
            if not value.quoted:
                raise self.error(f'expected a string in "", got {short(value.text)}', key, value.line)
        return [value.text for value in found]

    def text(self, key: str) -> str:
        """The string in a field."""
        return self._one(key, self.texts(key), None)

    def name(self, key: str) -> str:
        """The name in a field, not in quotes."""
        return self._one(key, self._converted(key, lambda text: text, "a name without quotes"), None)

    def word(self, key: str, words: Sequence[str], default: str) -> str:
        """One of the names of an enumeration; numbers stand for them in their order."""
        numbered = {**{name: name for name in words}, **{str(i): name for i, name in enumerate(words)}}
        return self._one(key, self._converted(key, numbered.get, " or ".join(words)), default)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        known = {"true": True, "false": False, "True": True, "False": False, "1": True, "0": False}
        return self._one(key, self._converted(key, known.get, "true or false"), default)

    def integers(self, key: str, low: int = 1, high: int = 2**31 - 1) -> list[int]:
        """All whole numbers in a field."""

        def convert(text: str) -> int | None:
            number = int(text) if re.fullmatch(r"[-+]?[0-9]{1,12}", text) else None
            return number if number is not None and low <= number <= high else None

        return self._converted(key, convert, f"a whole number from {low} to {high}")

    def integer(self, key: str, default: int | None = None, low: int = 1, high: int = 2**31 - 1) -> int:
        """The whole number in a field, which must be there where there is no default."""
        return self._one(key, self.integers(key, low, high), default)

    def numbers(self, key: str, low: float = -1e30, high: float = 1e30) -> list[float]:
        """All numbers in a field."""

        def convert(text: str) -> float | None:
            number = float(text.rstrip("f")) if NUMBER.fullmatch(text) else math.nan
            return number if low <= number <= high else None

        return self._converted(key, convert, f"a number from {low:g} to {high:g}")

    def number(self, key: str, default: float, low: float = -1e30, high: float = 1e30) -> float:
        """The number in a field."""
        return self._one(key, self.numbers(key, low, high), default)

    def _converted(self, key: str, convert: Callable[[str], T | None], expected: str) -> list[T]:
        values = []
        for scalar in self.scalars(key):
            value = None if scalar.quoted else convert(scalar.text)
            if value is None:
                raise self.error(f"expected {expected}, got {short(scalar.text)}", key, scalar.line)
            values.append(value)
        return values

    def _one(self, key: str, values: list[T], default: T | None) -> T:
        if len(values) > 1:
            raise self.error(f"expected one value, got {len(values)}", key)
        if values:
            return values[0]
        if default is None:
            raise self.error("is missing", key)
        return default


def short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def read(text: str, file: str) -> Message:
    """The message that a text is; ``file`` is for messages. PrototxtError for a text that is none, and for one that is
    too long or too deep."""
    if len(text) > LONGEST_FILE:
        raise PrototxtError(
            f"{file}: expected a prototxt file of at most {LONGEST_FILE:,} characters, got {len(text):,}"
        )
    tokens = _tokens(text, file)
    made = Message(file, "", 1)
    _fields(made, tokens, next(tokens), "", 0)
    return made


def _tokens(text: str, file: str) -> Iterator[Token]:
    place, line = 0, 1
    while place < len(text):
        match = TOKEN.match(text, place)
        if match is None:
            raise PrototxtError(f"{file}:{line}: expected a name, a value or a bracket, got {short(text[place])}")
        kind, found = str(match.lastgroup), match[0]
        if kind != "space":
            yield Token(kind, found, line)
        line += found.count("\n")
        place = match.end()
    while True:
        yield Token("end", "", line)


def _fields(made: Message, tokens: Iterator[Token], token: Token, end: str, depth: int) -> None:
    """Reads fields into a message, from a token on up to the bracket that ends it, "" for the end of the file."""
    while not (token.text == end and token.kind in ("mark", "end")):
        if token.kind != "word" or not NAME.fullmatch(token.text):
            expected = f"a field or {end!r}" if end else "a field"
            raise _unexpected(made, token, expected)
        key, token = token, next(tokens)
        colon = (token.kind, token.text) == ("mark", ":")
        if colon:
            token = next(tokens)
        if token.kind == "mark" and token.text in "{<":
            if depth == DEEPEST:
                raise PrototxtError(f"{made.file}:{token.line}: expected at most {DEEPEST} messages within each other")
            inner = Message(made.file, " ".join(filter(None, (made.where, key.text))), key.line)
            made.fields.setdefault(key.text, []).append(inner)
            _fields(inner, tokens, next(tokens), {"{": "}", "<": ">"}[token.text], depth + 1)
            token = next(tokens)
        elif not colon:
            raise _unexpected(made, token, f"':' or '{{' after {key.text}")
        elif token.text == "[" and token.kind == "mark":
            token = _list(made, tokens, key.text)
        else:
            token = _scalar(made, tokens, token, key.text)
        if token.kind == "mark" and token.text in ",;":
            token = next(tokens)


def _scalar(made: Message, tokens: Iterator[Token], token: Token, key: str) -> Token:
    """Reads a value, or strings that follow one another as one; returns the token after it."""
    if token.kind not in ("string", "word"):
        raise _unexpected(made, token, f"a value of {key}")
    text, kind, line = token.text, token.kind, token.line
    if kind == "string":
        text = ""
        while token.kind == "string":
            text += re.sub(r"\\(.)", r"\1", token.text[1:-1])
            token = next(tokens)
    else:
        token = next(tokens)
    made.fields.setdefault(key, []).append(Scalar(text, kind == "string", line))
    return token


def _list(made: Message, tokens: Iterator[Token], key: str) -> Token:
    """Reads the values of [a, b, ...] after its bracket; returns the token after it."""
    token = next(tokens)
    if token.text == "]":
        return next(tokens)
    while True:
        token = _scalar(made, tokens, token, key)
        if token.kind != "mark" or token.text not in ",]":
            raise _unexpected(made, token, f"',' or ']' in {key}")
        if token.text == "]":
            return next(tokens)
        token = next(tokens)


def _unexpected(made: Message, token: Token, expected: str) -> PrototxtError:
    got = "the end of the file" if token.kind == "end" else short(token.text)
    where = f"{made.where}: " if made.where else ""
    return PrototxtError(f"{made.file}:{token.line}: {where}expected {expected}, got {got}")
