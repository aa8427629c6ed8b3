"""Text as people's files hold it; and files that are always whole: written under another name, synced, then renamed."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def decoded(content: bytes, errors: str = "strict") -> str:
    """The text of a file: UTF-8, or UTF-16 where its byte order mark says so; the mark is no part of it.
    UnicodeDecodeError when it is neither."""
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig", errors)


def lines(text: str) -> list[str]:
    """The lines of a text, however their ends are written, without the empty ones at its end."""
    return re.split(r"\r\n|\r|\n", re.sub(r"[ \t\r\n]+\Z", "", text)) if text.strip() else []


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to. When the block ends well, the file written there becomes ``path``; otherwise
    it is removed, and what was at ``path`` stays."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        yield aside
        _sync(aside)
        aside.replace(path)
        _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
