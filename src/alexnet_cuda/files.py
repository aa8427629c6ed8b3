"""Text as people's files hold it; and files that are always whole: written under another name, synced, then renamed."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


class WeightsError(ValueError):
    """A file of weights, or of a network with its weights, cannot be used; the message is one line that says why."""


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


def save_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    """Writes a safetensors file, whole, and with the mode that other new files have. OSError when it cannot be."""
    from safetensors import SafetensorError  # late: it takes long
    from safetensors.numpy import save_file

    with replacing(path) as aside:
        aside.touch()
        mode = aside.stat().st_mode
        try:
            save_file(dict(arrays), aside, metadata)
        except SafetensorError as e:
            raise OSError(f"{path}: cannot be written: {e}") from e
        aside.chmod(mode)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
