"""Who is called in a network, with what, and what comes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..tensor import Tensor
from .module import Module

Seen = Callable[[str, Module, tuple[Tensor, ...], Tensor], None]


@contextmanager
def watching(network: Module, seen: Seen) -> Iterator[None]:
    """Within this block ``seen(name, module, inputs, output)`` hears of each call of a module in ``network`` that has
    no children, before the next one is called; none is fused with the next. name: the module's dotted path; a second
    call of conv1 is conv1#2. Of a network that calls none it hears by the name of its class."""
    names = {network: type(network).__name__}
    for path, module in _leaves(network, ""):
        names.setdefault(module, path)  # one that is there twice bears its first name
    calls = Counter[Module]()

    def watched(module: Module) -> Callable[..., Tensor]:
        forward = module.forward

        def call(*inputs: Tensor) -> Tensor:
            before = calls.total()
            y = forward(*inputs)
            if calls.total() == before:
                calls[module] += 1
                again = f"#{calls[module]}" if calls[module] > 1 else ""
                seen(names[module] + again, module, inputs, y)
            return y

        return call

    before = {module: vars(module).copy() for module in names}
    for module in names:
        vars(module).update(forward=watched(module), fused_with=_alone)
    try:
        yield
    finally:
        for module, attributes in before.items():
            for name in ("forward", "fused_with"):
                del vars(module)[name]
                if name in attributes:
                    vars(module)[name] = attributes[name]


def _leaves(module: Module, path: str) -> Iterator[tuple[str, Module]]:
    children = list(module.children())
    if not children:
        yield path, module
    for name, child in children:
        yield from _leaves(child, f"{path}.{name}".lstrip("."))


def _alone(following: Module) -> None:
    return None
