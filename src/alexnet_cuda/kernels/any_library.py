"""Arrays of any library: they are borrowed through DLPack for a call, and its results lent in return."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from .. import backend

P = ParamSpec("P")
R = TypeVar("R")
_plain: set[type] = set()
"""Types of arguments that have come and are no other library's arrays."""


def any_library(function: Callable[P, R]) -> Callable[P, R]:
    """The function for arrays of any library: they are borrowed for the call, and its results lent in return."""
    names = tuple(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for value in (*args, *kwargs.values()) if kwargs else args:
            if type(value) not in _plain:
                for entry in value if isinstance(value, list) else (value,):
                    if type(entry) not in _plain:
                        if backend.is_foreign(entry):
                            return borrowing(entry, args, kwargs)
                        if not isinstance(entry, list):
                            _plain.add(type(entry))
        return function(*args, **kwargs)

    def borrowing(first: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        owners: dict[int, Any] = {}

        def borrowed(name: str, value: Any) -> Any:
            if isinstance(value, list):
                return [borrowed(name, entry) for entry in value]
            if not backend.is_foreign(value):
                return value
            try:
                array = backend.borrow(value)
            except TypeError as e:
                raise TypeError(f"{function.__name__}: {name}: {e}") from e
            owners[id(array)] = value, array
            return array

        def lent(result: Any) -> Any:
            if isinstance(result, tuple):
                return tuple(map(lent, result))
            if id(result) in owners:
                return owners[id(result)][0]
            return backend.lend(result, first) if backend.is_array(result) else result

        with backend.current_stream(first):
            positional = [borrowed(name, value) for name, value in zip(names, args, strict=False)]
            named = {name: borrowed(name, value) for name, value in kwargs.items()}
            return lent(function(*positional, *args[len(names) :], **named))

    return call
