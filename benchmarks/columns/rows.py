"""The questions: what is asked of every library, and how an answer is written. (Also run by Python 3.8.)"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

REFUSES = "refuses"


class Row(NamedTuple):
    key: str
    topic: str
    question: str
    shown: str


ROWS = [
    Row(key, topic, question["asked"], question["shown"])
    for topic, questions in json.loads(Path(__file__).with_name("questions.json").read_text(encoding="utf-8")).items()
    for key, question in questions.items()
]


def number(value: float) -> str:
    return "NaN" if value != value else f"{value:.4g}"


def text(value: Any) -> str:
    """As it stands in a cell: words as they are, numbers of four digits."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text, value))
    if hasattr(value, "ravel"):
        return text([float(x) for x in value.ravel()])
    return number(value)


def attempt(call: Callable[[], Any]) -> Any:
    """What it returns, or that the library refuses, whose reason goes to standard error. What hints at a fault of the
    question goes through."""
    try:
        return call()
    except (AttributeError, ImportError, NameError, TypeError):
        raise
    except Exception as error:
        print(f"refused: {type(error).__name__}: {error}", file=sys.stderr)
        return REFUSES


def spread(weights: Any, unit: float) -> list[str]:
    """Standard deviation of a NumPy array, in units, and the share beyond 2.3 units."""
    return [f"{weights.std() / unit:.2f}", f"{100 * (abs(weights) > 2.3 * unit).mean():.1g} %"]


def padding(y: Any, stride: int, pixels: int, size: int) -> list[int]:
    """Outputs, zeros before and after, from the outputs of a filter that takes a window's last pixel, pixel i being
    i + 1."""
    before = size - int(y.ravel()[0])
    return [y.size, before, max(0, (y.size - 1) * stride + size - pixels - before)]
