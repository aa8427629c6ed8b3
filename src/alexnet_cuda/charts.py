"""Figures: the curves of one run, and of several over one another; histograms."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records: TypeAlias = Sequence[Mapping[str, Any]]
"""Those of a metrics file."""

COLOURS = 10  # of matplotlib's, C0 to C9; more groups repeat them in other dashes
DASHES = "-", "--", "-.", ":"


class Curve(NamedTuple):
    """Values (N,) over epochs (N,), and how ``Axes.plot`` is to draw them."""

    epochs: NDArray[np.float64]
    values: NDArray[np.float64]
    style: Mapping[str, Any]


def columns(records: Records, kind: str, *names: str) -> list[NDArray[np.float64]]:
    """These entries of all records of that kind, (N,) each; NaN for null."""
    rows = [record for record in records if record["kind"] == kind]
    return [np.array([row[name] for row in rows], np.float64) for name in names]


def curve(records: Records, name: str, **style: Any) -> Curve:
    """Over the epochs of a run its ``train_`` or ``test_loss`` or ``_accuracy``, or of single steps ``loss`` or
    ``lr``."""
    kind = "step" if name in ("loss", "lr") else "epoch"
    epochs, values = columns(records, kind, "epoch", name)
    marker = "." if kind == "epoch" or len(epochs) == 1 else None
    return Curve(epochs, values, {"marker": marker, **style})


def of_run(records: Records, what: str) -> list[Curve]:
    """The curves of one run for its chart of ``loss``, ``accuracy`` or ``lr``."""
    if what == "lr":
        return [curve(records, "lr", color="C0")]
    steps = [curve(records, "loss", color="C0", alpha=0.3, linewidth=1)] if what == "loss" else []
    training = curve(records, f"train_{what}", color="C0", label="training")
    return [*steps, training, curve(records, f"test_{what}", color="C1", label="test")]


def of_groups(groups: Mapping[str, Iterable[Records]], name: str) -> list[Curve]:
    """The curves of several runs for a chart of one thing, which ``curve`` names; those of a group look alike."""
    curves = []
    for i, (group, runs) in enumerate(groups.items()):
        style = {"color": f"C{i % COLOURS}", "linestyle": DASHES[i // COLOURS % len(DASHES)]}
        curves += [curve(run, name, label=None if j else group, **style) for j, run in enumerate(runs)]
    return curves


def draw(axes: Axes, what: str, curves: Iterable[Curve]) -> None:
    """Draws curves of ``loss``, ``lr`` or accuracy: this as ``accuracy``, or as ``error``, on a logarithmic scale that
    tells small ones apart. With a legend if some have a label."""
    from matplotlib.ticker import LogFormatter

    greatest = 0.0
    for epochs, values, style in curves:
        shown = {"accuracy": 100 * values, "error": 100 * (1 - values)}.get(what, values)
        axes.plot(epochs, shown, **style)
        greatest = max([greatest, *shown[np.isfinite(shown)]])
    unit = {"accuracy": "accuracy, %", "error": "error, %", "lr": "learning rate"}.get(what, what)
    axes.set(xlabel="epoch", ylabel=unit, xlim=(0, None))
    if what == "error":
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())  # 20, not 2 x 10^1
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    else:
        axes.set_ylim(0, 101 if what == "accuracy" else 1.05 * greatest or None)
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        legend = axes.legend()
        for text in legend.get_texts():
            text.set_parse_math(False)


def histogram(axes: Axes, values: NDArray[np.floating[Any]], low: float, high: float) -> None:
    """How the values are distributed from ``low`` to ``high``, without axes."""
    counts, edges = np.histogram(values, 48, (low, high))
    axes.stairs(counts, edges, fill=True)
    axes.set_axis_off()


def figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(drawn: Figure, to: Path | IO[bytes], dpi: int, transparent: bool = False) -> None:
    """Writes the figure as a PNG."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # titles and names may have letters that the font lacks
        drawn.savefig(to, format="png", dpi=dpi, transparent=transparent)
