"""What fits a terminal: tables that leave columns out, lines that say less, paragraphs, a bar of progress."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

__all__ = ["Bar", "console", "cut", "fitting", "grid", "paragraph", "say", "width"]

LEAST = 8  # characters to which a column of text is cut, and of a bar
LONGEST = 40  # characters of a bar
GAP = "  "


def console(stderr: bool = False, quiet: bool = False) -> Console:
    """What prints tables and bars; in text nothing is markup."""
    return Console(stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False)


def width() -> int | None:
    """Characters of a line of the terminal that standard output is; None where it is none: there lines are whole."""
    out = console()
    return out.width if out.is_terminal else None


def cut(text: str, width: int) -> str:
    """The text, or as much of its beginning and end as fits, with dots between."""
    if cell_len(text) <= width:
        return text
    begin = set_cell_size(text, (width - 3) // 2).rstrip()
    end = text
    while cell_len(begin) + 3 + cell_len(end) > width:
        end = end[1:]
    return f"{begin}...{end}"


def fitting(*lines: str, width: int | None) -> str:
    """The first of these lines that is no longer; of none such the last, cut."""
    if width is None:
        return lines[0]
    return next((line for line in lines if cell_len(line) <= width), cut(lines[-1], width))


def paragraph(text: str, width: int | None, indent: str = "") -> str:
    """Text whose longer lines are broken between words; what goes on is indented."""
    if width is None:
        return text
    broken = []
    for line in text.split("\n"):
        parts = textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
        )
        broken += [line] if cell_len(line) <= width else parts
    return "\n".join(broken)


def say(text: str, indent: str = "    ") -> None:
    """Prints a ``paragraph`` of standard output's width."""
    print(paragraph(text, width(), indent), flush=True)


def grid(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    text: Sequence[str] = (),
    width: int | None = None,
    less: Sequence[str] = (),
) -> str:
    """Columns under their headers; those named in ``text`` are aligned to the left, the others to the right. Where that
    is longer than ``width``, the columns of ``less`` are left out one by one, from the first on, which a line below
    says; then those of ``text`` are cut."""
    table = dict(zip(header, zip(*[header, *rows], strict=True), strict=True))
    wide = {name: max(map(cell_len, cells)) for name, cells in table.items()}
    gone = []
    for name in less:
        if width is None or _length(wide) <= width:
            break
        gone.append(name)
        del wide[name]
    while width is not None and (excess := _length(wide) - width) > 0:
        longest = max((name for name in wide if name in text), key=wide.__getitem__, default=None)
        if longest is None or wide[longest] <= LEAST:
            break
        second = max((wide[name] for name in wide if name in text and name != longest), default=0)
        wide[longest] = max(LEAST, min(wide[longest] - 1, max(wide[longest] - excess, second)))
    lines = []
    for i in range(-1, len(rows) + 1):
        cells = []
        for name, length in wide.items():
            cell = "-" * length if i == 0 else cut(table[name][max(i, 0)], length)
            pad = " " * (length - cell_len(cell))
            cells.append(cell + pad if name in text else pad + cell)
        lines.append(GAP.join(cells).rstrip())
    if gone:
        lines += ["", paragraph(f"too wide for here: {', '.join(name for name in header if name in gone)}", width)]
    return "\n".join(lines)


def _length(wide: dict[str, int]) -> int:
    return sum(wide.values()) + len(GAP) * (len(wide) - 1)


class Bar:
    """One line of progress below what is printed: a title, a bar, how much of it all is done, and as much of what else
    there is to say as fits. Where there is no terminal nothing is shown."""

    def __init__(self, console: Console, title: str, total: int, done: int = 0) -> None:
        self.console, self.title, self.total, self.done = console, title, total, done
        self.more: Sequence[str] = ()
        self._live = Live(self, console=console, transient=True, refresh_per_second=10)

    def __enter__(self) -> Bar:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, done: int, *more: str) -> None:
        """``more``: what comes first is left out first."""
        self.done, self.more = done, more

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.line(options.max_width, options.ascii_only), no_wrap=True, overflow="crop")

    def line(self, width: int, plain: bool) -> str:
        """The line, no longer than ``width``, in ASCII where it is to be ``plain``."""
        title, number, more = cut(self.title, max(LEAST, width // 3)), f"{self.done:,}/{self.total:,}", list(self.more)
        while more and self._room(width, title, number, more) < LEAST:
            more.pop(0)
        room = min(LONGEST, max(0, self._room(width, title, number, more)))
        filled = round(room * min(1, self.done / max(1, self.total)))
        bar = ("#" if plain else "━") * filled + ("-" if plain else "─") * (room - filled)
        return " ".join([title, bar, GAP.join([number, *more])])

    @staticmethod
    def _room(width: int, title: str, number: str, more: Sequence[str]) -> int:
        return width - cell_len(title) - 2 - cell_len(GAP.join([number, *more]))
