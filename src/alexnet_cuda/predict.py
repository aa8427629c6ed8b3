"""``python -m alexnet_cuda.predict``: what a trained network sees in images."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import backend, checkpoint, command_line, names, terminal
from .command_line import UsageError, checked_input
from .data.folder import decode, is_image, reason
from .data.listing import listing
from .inference import Floats, Images, Trained

__all__ = ["main"]

BATCH = 32  # images decoded before the network sees them
BAR = 30  # characters of a bar for certainty
NUMBER = 10  # of the number before it, with the gaps


def parser() -> command_line.Parser:
    p = command_line.Parser(
        "predict",
        "The most probable classes of images, by a trained network.",
        "Exit codes: 0 done, 1 some image could not be read, 2 wrong usage.",
    )
    p.add_argument("run", type=Path, metavar="RUN", help="run folder, or checkpoint file")
    p.add_argument("image", nargs="+", type=Path, metavar="IMAGE", help="image file, or folder with images in it")
    p.add_argument("--top", type=command_line.positive_int, default=5, metavar="N", help="classes shown (default 5)")
    command_line.add_checkpoint(p.add_argument)
    command_line.add_weights_dtype(p.add_argument)
    p.add_argument("--device", help="cpu, cuda or cuda:N (default: a usable GPU, else the CPU)")
    p.add_argument("--threads", type=command_line.positive_int, metavar="N", help="CPU threads (default: one a core)")
    p.add_argument("--json", action="store_true", help="print JSON")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    with checked_input():
        if options.threads:
            backend.set_threads(options.threads)
        files = [file for path in options.image for file in images_in(path)]
        chosen = checkpoint.chosen(options.run, options.checkpoint)
        trained = Trained.load(chosen, command_line.device(options.device), BATCH, options.weights_dtype)
    console, predictions = terminal.console(), list[dict[str, Any]]()
    if not options.json:
        print(f"checkpoint {names.text(trained.path)}\n")
    for readable, images in read(files, trained):
        for file, row in zip(readable, trained.probabilities(images), strict=True):
            found = [(trained.classes[label], p) for label, p in top(row, options.top)]
            answers = [{"class": c, "probability": p} for c, p in found]
            by = names.text(trained.path)
            predictions.append({"image": names.text(file), "checkpoint": by, "top": answers})
            if not options.json:
                show(console, file, found)
    if options.json:
        command_line.print_json(predictions)
    return 1 if len(predictions) < len(files) else 0


def read(files: Sequence[Path], trained: Trained) -> Iterator[tuple[list[Path], Images]]:
    """The images (N, RH, RW, 3), as many at a time as are on the network's device, and their files. Those that cannot
    be read are left out, and named on standard error."""
    for first in range(0, len(files), trained.batch):
        readable, images = list[Path](), list[Images]()
        for file in files[first : first + trained.batch]:
            try:
                images.append(decode(file, trained.mean.shape[:2]))
                readable.append(file)
            except Exception as e:  # a broken file can raise anything at all from inside its decoder
                print(f"{names.text(file)}: {getattr(e, 'strerror', None) or reason(e)}", file=sys.stderr)
        if images:
            yield readable, np.stack(images)


def images_in(path: Path) -> list[Path]:
    """The image files below a folder, in order; anything else as it is. UsageError for a folder without any."""
    if not path.is_dir():
        return [path]
    found = [path / name for name in listing(path) if is_image(name)]
    if not found:
        raise UsageError(f"{path}: no images in this folder")
    return found


def top(probabilities: Floats, count: int) -> Iterator[tuple[int, float]]:
    """The ``count`` most probable classes, as labels, and their probabilities (C,), the most probable first."""
    for label in np.argsort(-probabilities, kind="stable")[:count]:
        yield int(label), float(probabilities[label])


def show(console: Console, file: Path, found: Sequence[tuple[str, float]]) -> None:
    table, plain = Table.grid(padding=(0, 2)), console.options.ascii_only
    longest = max(len(name) for name, _ in found)
    width = max(0, min(BAR, console.width - NUMBER - longest)) if console.is_terminal else BAR
    for name, probability in found:
        bar = "#" * round(width * probability) if plain else Bar(size=1, begin=0, end=probability, width=width)
        table.add_row(Text(f"{probability:.1%}", justify="right"), bar, Text(name, overflow="fold"))
    console.print(names.text(file), style="bold", soft_wrap=True)
    console.print(table)
    console.print()


if __name__ == "__main__":
    sys.exit(command_line.run(main))
