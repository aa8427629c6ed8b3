"""Old names of what is public: they work as before, and tell the new ones (docs/release.md)."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__``, for names of its that have changed: from each old one to the new."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(f"{module}.{name}", names[name])
        return getattr(sys.modules[module], names[name])

    return find


class OldName:
    """In a class, the attribute or method whose name is now ``new``."""

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self.old = f"{owner.__name__}.{name}"

    def __get__(self, instance: object, owner: type) -> Any:
        _warn(self.old, self.new)
        return getattr(owner if instance is None else instance, self.new)

    def __set__(self, instance: object, value: Any) -> None:
        _warn(self.old, self.new)
        setattr(instance, self.new, value)


def renamed_option(old: str, new: str) -> None:
    """Warns who gave a command line an option that is now called ``new``."""
    _warn(old, new)


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now called {new}; the old name will go", DeprecationWarning, stacklevel=3)
