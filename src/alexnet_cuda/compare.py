"""``python -m alexnet_cuda.compare``: runs side by side, as a table and as an HTML page: the settings that differ, the
errors with their spread over seeds, the curves over one another."""

from __future__ import annotations

import hashlib
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import charts, command_line, names, pages, recipe, run_folder
from .command_line import UsageError, checked_input
from .files import replacing
from .metrics import read_metrics
from .terminal import console, grid, width

__all__ = ["main"]

LONGEST = 40  # characters of a setting, and of a legend's label
CURVES = {  # what a chart draws of which measurement, and its title
    "Training loss": ("loss", "train_loss"),
    "Test loss": ("loss", "test_loss"),
    "Test error": ("error", "test_accuracy"),
    "Learning rate": ("lr", "lr"),
}


@dataclass(frozen=True)
class Run:
    """A run folder: its settings, but for the seed, by dotted names; the records of its metrics."""

    name: str
    seed: int
    settings: Mapping[str, str]
    records: charts.Records

    @property
    def errors(self) -> list[float]:
        """The test error after each epoch."""
        (accuracies,) = charts.columns(self.records, "epoch", "test_accuracy")
        return [1 - accuracy for accuracy in accuracies.tolist()]


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone."""

    runs: Sequence[Run]

    @property
    def name(self) -> str:
        first, *others = self.runs
        return f"{first.name} and {len(others)} more" if others else first.name

    @property
    def settings(self) -> Mapping[str, str]:
        return self.runs[0].settings


def parser() -> command_line.Parser:
    p = command_line.Parser(
        "compare",
        "Runs side by side: the settings that differ, the errors, the curves.\n"
        "Runs that differ in the seed alone are one line, with the mean of their errors\n"
        "and the standard deviation.",
        "Exit codes: 0 done, 1 failure, 2 wrong usage.",
    )
    p.add_argument("run", nargs="+", type=Path, metavar="RUN", help="run folder")
    p.add_argument(
        "--out", type=Path, default=Path("compare.html"), metavar="FILE", help="the page (default compare.html)"
    )
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    out: Path = options.out
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"--out {out}: expected a file in a folder that exists")
    for path, times in Counter(path.resolve() for path in options.run).items():
        if times > 1:
            raise UsageError(f"{path}: expected each run once, got it {times} times")
    with checked_input():
        groups = grouped([load(path) for path in options.run])
    settings = differing(groups)
    header, rows = table(groups, settings)
    if console().options.ascii_only:
        rows = [[cell.replace("±", "+-") for cell in row] for row in rows]
    print(grid(header, rows, ["run", *settings], width(), [*reversed(settings), "seeds", "epochs done", "at best"]))
    with replacing(out) as aside:
        aside.write_text(page(groups), encoding="utf-8")
    print(f"\n{names.text(out)}")
    return 0


def load(folder: Path) -> Run:
    """The run in a folder. UsageError when it is none, RecipeError for settings that cannot be read."""
    for name in (run_folder.CONFIG, run_folder.METRICS):
        if not (folder / name).is_file():
            raise UsageError(f"{folder}: expected a run folder, which holds {name}")
    config, _ = recipe.read(str(folder / "config.toml"))
    settings = dict(_flat(config))
    seed = config.get("seed", 0)
    settings.pop("seed", None)
    records = read_metrics(folder / run_folder.METRICS)
    if not all(isinstance(record, dict) and "kind" in record for record in records):
        raise UsageError(f"{folder / 'metrics.jsonl'}: expected the records of a training")
    return Run(names.text(folder), seed, settings, records)


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The runs that differ in the seed alone together, in the order of their first ones. A second run with the same
    settings and seed is in another group, as it says nothing of the spread."""
    found: dict[Any, list[Run]] = {}
    before = Counter[Any]()
    for run in runs:
        settings = tuple(sorted(run.settings.items()))
        found.setdefault((settings, before[settings, run.seed]), []).append(run)
        before[settings, run.seed] += 1
    return [Group(members) for members in found.values()]


def differing(groups: Sequence[Group]) -> list[str]:
    """The names of the settings that are not the same in all groups."""
    known = dict.fromkeys(name for group in groups for name in group.settings)
    return [name for name in known if len({group.settings.get(name) for group in groups}) > 1]


def table(groups: Sequence[Group], settings: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a group's name, these settings, seeds, epochs, errors after the last epoch and at best."""
    rows = []
    for group in groups:
        epochs = sorted({len(run.errors) for run in group.runs})
        rows.append(
            [
                group.name,
                *(group.settings.get(name, "") for name in settings),
                " ".join(str(run.seed) for run in group.runs),
                f"{epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else f"{epochs[0]}",
                spread([run.errors[-1] for run in group.runs if run.errors]),
                spread([min(run.errors) for run in group.runs if run.errors]),
            ]
        )
    return ["run", *settings, "seeds", "epochs done", "test error", "at best"], rows


def spread(errors: Sequence[float]) -> str:
    """The mean in percent and, of several, their standard deviation (of a sample: n - 1)."""
    if not errors:
        return ""
    mean = f"{100 * statistics.fmean(errors):.2f}"
    return f"{mean} ± {100 * statistics.stdev(errors):.2f} %" if len(errors) > 1 else f"{mean} %"


def page(groups: Sequence[Group]) -> str:
    """The whole page."""
    settings = differing(groups)
    header, rows = table(groups, settings)
    note = (
        "Errors on the test images after the last epoch, and at best: after the epoch with the lowest, which these "
        "images themselves have chosen. Of several seeds: mean ± standard deviation."
    )
    numbers = range(1 + len(settings), len(header))
    labelled = {label: [run.records for run in group.runs] for label, group in zip(labels(groups), groups, strict=True)}
    drawn = []
    for title, (what, measured) in CURVES.items():
        draw = partial(charts.draw, what=what, curves=charts.of_groups(labelled, measured))
        drawn.append(pages.chart((4.8, 3.2), draw, f"{title} over epochs", title))
    single = [table([Group([run])], ())[1][0] for group in groups for run in group.runs]
    common = [(name, value) for name, value in groups[0].settings.items() if name not in settings]
    sections = [
        pages.section("Errors", pages.tag("p", note), pages.table(header, rows, numbers, "stacked")),
        pages.section("Curves", pages.tag("div", *drawn, class_="charts")),
        pages.section("Every run", pages.table(table([], ())[0], single, range(1, 5), "stacked")),
        pages.section("Settings that are the same", pages.table(("entry", "value"), common)),
    ]
    runs = command_line.count(len(single), "run")
    return pages.page(f"{runs} compared", pages.Html(), sections)


def labels(groups: Sequence[Group]) -> list[str]:
    """What a legend calls the groups: the settings that differ, or where that is too long, or the same, their names."""
    settings = differing(groups)
    told = [", ".join(f"{name} {group.settings.get(name, '-')}" for name in settings) for group in groups]
    fit = all(0 < len(label) <= LONGEST for label in told) and len(set(told)) == len(told)
    return told if fit else [group.name for group in groups]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The entries of nested tables by dotted names, as text that fits into a table; of a long one a digest."""
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
            continue
        text = value if isinstance(value, str) else recipe.toml({"": value}).partition("=")[2].strip()
        long = len(text) > LONGEST or "\n" in text
        yield prefix + name, f"text {hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}" if long else text


if __name__ == "__main__":
    sys.exit(command_line.run(main))
