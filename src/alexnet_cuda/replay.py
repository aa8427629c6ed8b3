"""What is done again and again as a CUDA graph: captured once, and replayed as long as nothing changes that went in."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from . import backend, trace
from .parallel import Group
from .recipe import Recipe

T = TypeVar("T")


def obstacle(recipe: Recipe, group: Group) -> str | None:
    """Why the steps of a training cannot be captured, or None."""
    if not recipe.graph:
        return "the recipe says so"
    if not group.alone:
        return "gradients are added up over processes by the host"
    if recipe.clip:
        return "clipping looks at the gradients on the host"
    return None


class Replay:
    """Calls a step, or replays what it queued on the devices when it was captured.

    A step must be the same for equal ``constants``: read what else changes from device memory, and leave its results
    there; what it returns is what the captured one did. With new constants it is called, so that all that it needs once
    is there; when they come again, with fewer than ``kept`` other new ones in between, it is captured. As many
    graphs stay, those that were used last. On a CPU, and while it is traced, a step is always called.
    """

    def __init__(
        self, places: Sequence[backend.Device], obstacle: str | None = None, what: str = "the step", kept: int = 1
    ) -> None:
        """``obstacle`` is why nothing can be captured; ``what`` is told where that turns out."""
        self.places, self.what, self.kept = places, what, kept
        self.obstacle = "a CPU has no graphs" if places[0].kind == "cpu" else obstacle
        self.forget()

    def forget(self) -> None:
        """For when arrays that a step works on were exchanged."""
        self._graphs: dict[Hashable, backend.CudaGraph] = {}  # the one used last comes last
        self._called: deque[Hashable] = deque(maxlen=self.kept)

    def __call__(self, constants: Hashable, step: Callable[[], T]) -> T:
        if self.obstacle or trace.active():  # what is traced tells its times to the host
            return step()
        graph = self._graphs.pop(constants, None)
        if graph is None:
            if constants not in self._called:
                self._called.append(constants)
                return step()
            if len(self._graphs) == self.kept:
                del self._graphs[next(iter(self._graphs))]  # its memory before the next one's is taken
            try:
                graph = backend.CudaGraph(self.places, step)
            except Exception as e:
                self.forget()
                self.obstacle = " ".join(f"{type(e).__name__}: {e}".split())
                warnings.warn(f"{self.what} is no CUDA graph, as it cannot be captured: {self.obstacle}", stacklevel=2)
        if graph is None:  # and the error, with all that the capture held, is gone
            return step()
        self._graphs[constants] = graph
        result: T = graph.launch()
        return result
