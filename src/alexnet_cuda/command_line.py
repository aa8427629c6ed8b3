"""What the command lines share: one-line errors, exit codes, argument types.

Exit codes: 0 done, 1 failure, 2 wrong usage or bad input, 130 and 143 interrupted by SIGINT and SIGTERM.
"""

from __future__ import annotations

import argparse
import codecs
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from . import backend, interrupt, models, names, terminal
from .short_weights import WEIGHTS_DTYPES
from .suggest import nearest

Number = TypeVar("Number", int, float)


class UsageError(Exception):
    """The command line, or a file it names, is wrong: one line, exit code 2."""


class Failure(Exception):
    """The work could not be done: one line, exit code 1."""


def count(number: int, noun: str) -> str:
    """The number and the noun, which is in the plural unless there is one."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{plural if number != 1 else ''}"


class _Help(argparse.HelpFormatter):
    """Lines of texts stay lines, and are broken where the terminal is too narrow."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return terminal.paragraph(text, width, indent)


class _Version(argparse.Action):
    """Prints what this is, and ends."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(terminal.paragraph(backend.described_version(), terminal.width()))
        parser.exit()


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest option for one that does not exist."""

    def __init__(self, command: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"python -m alexnet_cuda.{command}".rstrip("."),
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=_Help,
        )
        self.add_argument("--version", action=_Version, help="version, commit and devices")

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            self.error(f"unknown argument {unknown[0]}{nearest(word, self._option_string_actions)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (--help lists the options)")


def positive_int(text: str) -> int:
    return _number(text, int, lambda n: n > 0, "a whole number above 0")


def seed(text: str) -> int:
    return _number(text, int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2^63 - 1")


def positive_float(text: str) -> float:
    return _number(text, float, lambda x: x > 0, "a number above 0")


def non_negative_float(text: str) -> float:
    return _number(text, float, lambda x: x >= 0, "a number, 0 or above")


def fraction(text: str) -> float:
    return _number(text, float, lambda x: 0 <= x < 1, "a number from 0 to below 1")


def _number(text: str, convert: Callable[[str], Number], valid: Callable[[Number], bool], expected: str) -> Number:
    try:
        number = convert(text)
    except ValueError:
        number = None
    if number is None or not math.isfinite(number) or not valid(number):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return number


def add_convnet(add: Callable[..., Any]) -> None:
    """Adds the options that name a model by cuda-convnet's files."""
    add("--convnet-layers", type=Path, metavar="FILE", help="a layer file of cuda-convnet (2012) instead of --model")
    add("--convnet-params", type=Path, metavar="FILE", help="the layer-parameter file that belongs to it")
    add("--convnet-size", type=positive_int, metavar="N", help="height and width of its images (default 224)")


def add_checkpoint(add: Callable[..., Any]) -> None:
    """Adds the option that chooses among a run's checkpoints."""
    add("--checkpoint", metavar="WHICH", help="of a run folder: best (default), last, or a file")


def add_weights_dtype(add: Callable[..., Any]) -> None:
    """Adds the option that says how a trained network's weights are stored."""
    add("--weights-dtype", choices=WEIGHTS_DTYPES, default="fp32", help="how weights are stored (default fp32)")


def convnet(options: argparse.Namespace) -> models.Convnet | None:
    """The model that these options name, if any. UsageError for files that cannot be used."""
    layers, parameters, size = options.convnet_layers, options.convnet_params, options.convnet_size
    if layers is None and parameters is None and size is None:
        return None
    if layers is None or parameters is None:
        raise UsageError("--convnet-layers and --convnet-params belong together: give both")
    if options.model is not None:
        raise UsageError("--model and --convnet-layers contradict each other: give one of them")
    try:
        return models.from_convnet(layers, parameters, size or 224)
    except OSError as e:
        raise UsageError(f"{e.filename}: {e.strerror}") from e
    except ValueError as e:
        raise UsageError(str(e)) from e


def device(name: str | None) -> backend.Device:
    """The device that ``--device`` names, by default a usable GPU, else the CPU. UsageError for an unknown name,
    Failure for a GPU that cannot be used."""
    found = devices(name)
    if len(found) > 1:
        raise UsageError(f"--device {name}: expected one device")
    return found[0]


def devices(names: str | None) -> tuple[backend.Device, ...]:
    """The devices that ``--device`` names, separated by commas; as ``device``. Arrays are made on the first."""
    try:
        found = backend.devices(names)
        backend.use(found[0])
        return found
    except (ValueError, TypeError) as e:
        raise UsageError(str(e)) from e
    except RuntimeError as e:
        raise Failure(str(e)) from e


@contextmanager
def checked_input() -> Iterator[None]:
    """Within this block ValueError and TypeError are the user's, not ours: they become a UsageError, with the place in
    a model's file where one failed."""
    try:
        yield
    except (ValueError, TypeError) as e:
        raise UsageError(models.place(e) or str(e)) from e


def print_json(value: object) -> None:
    """Prints plain data as JSON, in characters that standard output has."""
    print(json.dumps(value, indent=1, ensure_ascii=not (sys.stdout.encoding or "").lower().startswith("utf")))


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """What to write for a character that an encoding lacks; for a byte of a name as ``names.text`` has it."""
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    if names.BYTES + 0x80 <= ord(character) <= names.BYTES + 0xFF:
        return names.text(character), error.start + 1
    return character.encode("ascii", "backslashreplace").decode("ascii"), error.start + 1


codecs.register_error("alexnet_cuda.escaped", _escaped)


def run(command: Callable[[Sequence[str] | None], int], arguments: Sequence[str] | None = None) -> int:
    """Calls ``command`` and returns its exit code; foreseen errors become one line on standard error and theirs.
    What a terminal cannot show is printed escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="alexnet_cuda.escaped")
    try:
        interrupt.raises()
        return command(arguments)
    except UsageError as e:
        return _report(e, 2)
    except Failure as e:
        return _report(e, 1)
    except KeyboardInterrupt:
        return _report("interrupted", interrupt.EXIT_CODE)
    except BrokenPipeError:  # the reader of a pipe has gone; keep the interpreter's last flush from saying so
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError as e:
        return _report(f"out of memory: {str(e) or 'no more to be had'}; try a smaller --batch", 1)
    except OSError as e:
        return _report(f"{e.filename}: {e.strerror}" if e.filename and e.strerror else e, 1)
    except ImportError as e:
        if e.name != "onnx":
            raise
        return _report(e, 1)
    except Exception as e:
        if told := models.place(e):
            return _report(told, 1)
        raise


def _report(message: object, code: int) -> int:
    text = " ".join(str(message).split())
    line = text if code == interrupt.EXIT_CODE else f"error: {names.shown(text)}"
    sys.stderr.write(f"{line}\n")  # at once, so that processes that fail together do not write into each other's lines
    return code
