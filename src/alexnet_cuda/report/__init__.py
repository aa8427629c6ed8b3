"""``python -m alexnet_cuda.report``: a trained network on one HTML page: how its training went, what its first layer
looks for, what it answers and what that rests on, what it confuses, what it finds similar (paper, figures 3 and 4)."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from .. import checkpoint, command_line, names, pages, run_folder
from ..command_line import Failure, UsageError, checked_input
from ..data import DataError
from ..files import replacing
from ..inference import Trained
from ..metrics import read_metrics
from ..terminal import say
from . import images, training
from .images import Examined
from .training import Past

__all__ = ["main"]

CONFUSIONS, CLASSES = "confusions.csv", "classes.csv"


def parser() -> command_line.Parser:
    p = command_line.Parser(
        "report",
        "One HTML page on a trained network: curves, filters, answers and what they\n"
        "rest on, precision and recall, confusions, similar images, activations.",
        "Where the images are gone, the page is about the training alone, exit code 1.\n"
        "Exit codes: 0 done, 1 failure, 2 wrong usage.",
    )
    p.add_argument("run", type=Path, metavar="RUN", help="run folder, or checkpoint file")
    command_line.add_checkpoint(p.add_argument)
    p.add_argument("--data", metavar="SOURCE", help="as for train (default: what the run was trained on)")
    p.add_argument("--out", type=Path, metavar="FILE", help="the page (default RUN/report.html)")
    p.add_argument("--csv", type=Path, metavar="FOLDER", help=f"also write {CONFUSIONS} and {CLASSES} there")
    p.add_argument(
        "--images",
        type=command_line.positive_int,
        default=2000,
        metavar="N",
        help="test images, and training images, that the page is about, at most (default 2000)",
    )
    p.add_argument("--device", help="cpu, cuda or cuda:N (default: a usable GPU, else the CPU)")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    folder = run_folder.of(options.run)
    out: Path = options.out or folder / "report.html"
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"--out {out}: expected a file in a folder that exists")
    if options.csv and not (options.csv if options.csv.exists() else options.csv.parent).is_dir():
        raise UsageError(f"--csv {options.csv}: expected a folder, or a new one in a folder that exists")
    with checked_input():
        file = checkpoint.chosen(options.run, options.checkpoint)
        saved = checkpoint.load(file)
        trained = Trained.of(saved, file, command_line.device(options.device))
    metrics = folder / run_folder.METRICS
    past = Past(read_metrics(metrics) if metrics.is_file() else [], saved.description)
    try:
        examined = images.examine(trained, options.data, options.images)
    except DataError as e:
        if options.data or options.csv or trained.config["data"] is None:
            raise UsageError(str(e)) from e
        _write(out, page(trained, past, str(e)))
        raise Failure(f"{names.text(out)} is about the training alone: {e}") from e
    _write(out, page(trained, past, examined))
    if options.csv:
        options.csv.mkdir(exist_ok=True)
        _write_csv(options.csv / CONFUSIONS, images.confusion_rows(trained, examined))
        _write_csv(options.csv / CLASSES, images.class_rows(trained, examined))
    say(f"{names.text(out)}: of {names.text(file)}")
    return 0


def page(trained: Trained, past: Past, found: Examined | str) -> str:
    """The whole page. found: what the network makes of images, or why there are none."""
    title = f"{trained.model.name} on {trained.config['data'] or names.text(trained.path.name)}"
    examined = None if isinstance(found, str) else found
    sections = [
        training.curves(past) if past.epochs else None,
        images.answers(trained, examined) if examined else None,
        images.reasons(trained, examined) if examined else None,
        images.classes(trained, examined) if examined else None,
        images.confusions(trained, examined) if examined else None,
        training.filters(trained),
        images.neighbours(trained, examined) if examined else None,
        images.layers(trained, examined) if examined else None,
        training.configuration(trained),
    ]
    head = pages.table((), [*training.summary(trained, past), *images.summary(found)])
    style = images.STYLE + training.STYLE
    return pages.page(title, head, [section for section in sections if section], style)


def _write(path: Path, text: str) -> None:
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
