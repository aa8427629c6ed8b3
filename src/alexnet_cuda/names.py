"""Names of files as text that every file and terminal can hold: a name is bytes, of which not all are UTF-8."""

from __future__ import annotations

import os
import re
import shlex

CONTROLS = r"[\x00-\x1f\x7f\udc80-\udcff]"
BYTES = 0xDC00  # Python has a byte that is no UTF-8 as the character with this number more


def text(name: str | os.PathLike[str]) -> str:
    r"""The name, with ``\xNN`` for a byte that is no UTF-8 and for a control character. A ``\`` that would look like
    the beginning of one is ``\x5c``, so that ``name`` gives the same back and different names stay different."""
    return re.sub(rf"{CONTROLS}|\\(?=x[0-9a-f]{{2}})", lambda m: _escaped(m[0]), os.fspath(name))


def name(text: str) -> str:
    """The name that ``text`` was made of, as Python's functions on files take it."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda m: _unescaped(int(m[1], 16)), text)


def shown(message: str) -> str:
    """A line that holds names, with what only a terminal or nobody understands escaped."""
    return re.sub(CONTROLS, lambda m: _escaped(m[0]), message)


def shell(name: str | os.PathLike[str]) -> str:
    """The name as a word for bash."""
    shown = text(name)
    return shlex.quote(shown) if shown == os.fspath(name) else f"$'{_quoted(os.fspath(name))}'"


def _quoted(name: str) -> str:
    return re.sub(rf"{CONTROLS}|[\\']", lambda m: _escaped(m[0]), name)


def _escaped(character: str) -> str:
    return rf"\x{ord(character) & 0xFF:02x}"


def _unescaped(byte: int) -> str:
    return chr(byte if byte < 0x80 else BYTES + byte)
