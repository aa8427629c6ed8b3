"""Who is called in a network, with what, and what comes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from ..tensor import Tensor
from .module import Module

Seen = Callable[[str, Module, tuple[Tensor, ...], Tensor], None]


@contextmanager
def watching(network: Module, seen: Seen) -> Iterator[None]:
    """Within this block ``seen(name, module, inputs, output)`` hears of each call of a module in ``network`` that has
    no children, before the next one is called; none is fused with the next. name: the module's dotted path; a second
    call of conv1 is conv1#2. Of a network that calls none it hears by the name of its class."""
    calls, before = Counter[Module](), 0

    def layer(name: str, module: Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        calls[module] += 1
        seen(f"{name}#{calls[module]}" if calls[module] > 1 else name, module, inputs, y)

    def whole(module: Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        nonlocal before
        if calls.total() == before:
            layer(type(module).__name__, module, inputs, y)
        before = calls.total()

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if module is network:
                hooks.enter_context(module.register_forward_hook(whole))
            elif not list(module.children()):
                hooks.enter_context(module.register_forward_hook(partial(layer, name)))
        yield
