"""What was probably meant by an unknown word, as the end of the message that refuses it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 60  # characters that are compared: the time grows with their square


def nearest(word: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> str:
    """'; did you mean ...?' with the nearest of the known words, ``most`` of them at most, or nothing where none is
    near. Capitals count as small letters. Of two words, the share of letters in common is at least ``cutoff``."""
    words = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word[:LONGEST].lower(), words, most, cutoff)
    return f"; did you mean {' or '.join(words[name] for name in near)}?" if near else ""
