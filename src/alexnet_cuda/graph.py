"""The training step as one CUDA graph: recorded once, and replayed as long as nothing changes that went into it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence

from . import backend, trace
from .parallel import Group
from .recipe import Recipe


def obstacle(places: Sequence[backend.Device], recipe: Recipe, group: Group) -> str | None:
    """Why the steps of a training cannot be recorded, or None."""
    if places[0].kind == "cpu":
        return "a CPU has no graphs"
    if not recipe.graph:
        return "the recipe says so"
    if not group.alone:
        return "gradients are added up over processes by the host"
    if recipe.clip:
        return "clipping looks at the gradients on the host"
    return None


class Replay:
    """Calls a step, or replays what it queued on the devices when it was last recorded.

    A step must be the same for equal ``constants``: read what else changes from device memory, and leave its results
    there. The first with new constants is called, so that all that it needs once is there; the second in a row is
    recorded. Constants that come for a single step, such as those of a smaller batch, leave the recorded one in place.
    """

    def __init__(self, places: Sequence[backend.Device], obstacle: str | None) -> None:
        self.places, self.obstacle = places, obstacle
        self.forget()

    def forget(self) -> None:
        """For when arrays that a step works on were exchanged."""
        self._graph: backend.Graph | None = None
        self._recorded: Hashable = None
        self._called: Hashable = None

    def __call__(self, constants: Hashable, step: Callable[[], None]) -> None:
        if self.obstacle or trace.active():  # what is traced tells its times to the host
            step()
        elif self._graph and constants == self._recorded:
            self._graph.launch()
        elif constants != self._called:
            self._called = constants
            step()
        else:
            self.forget()  # its memory before the next one's is taken
            try:
                self._graph, self._recorded = backend.Graph(self.places, step), constants
            except Exception as e:
                self.obstacle = " ".join(f"{type(e).__name__}: {e}".split())
                warnings.warn(f"the step is no CUDA graph, as it cannot be recorded: {self.obstacle}", stacklevel=2)
                step()
            else:
                self._graph.launch()
