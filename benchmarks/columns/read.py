"""What texts and sources answer that are read here, not run: answers that follow from what stands at a place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple


class Source(NamedTuple):
    library: str
    read: str
    """Which text or commit."""
    cells: dict[str, dict[str, str]]
    """By question: the answer; the place, a section or file."""


SOURCES = [Source(**source) for source in json.loads(Path(__file__).with_name("sources.json").read_text())]
