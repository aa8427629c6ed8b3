"""``python -m alexnet_cuda`` and ``alexnet-cuda``: what the commands do; with the name of one, that one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from . import command_line, terminal
from .command_line import UsageError
from .suggest import nearest

__all__ = ["main"]

COMMANDS = {
    "train": "trains a model on images",
    "evaluate": "the errors of trained networks",
    "predict": "what a trained network sees in images",
    "report": "a training and its network as a page",
    "compare": "runs side by side",
    "features": "a layer's outputs for images, as an array",
    "pack": "decodes images once, for faster training",
    "convert": "weights of PyTorch and Caffe in, PyTorch and ONNX out",
    "summary": "a model layer by layer, the memory it takes; all models",
    "checks": "whether this installation works, and its kernels are right",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names, on the others."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ("--help",)
    if command in COMMANDS:
        sys.argv[1:] = rest
        found: int = importlib.import_module(f"{__package__}.{command}").main(rest)
        return found
    if not command.startswith("-"):
        raise UsageError(f"unknown command {command}{nearest(command, COMMANDS)} (commands: {', '.join(COMMANDS)})")
    listed = terminal.grid(("command", "what it does"), list(COMMANDS.items()), ("command", "what it does"))
    more = f"{listed}\n\npython -m alexnet_cuda COMMAND --help tells more."
    parser = command_line.Parser("", "AlexNet 2012 in hand-written CUDA kernels.", more)
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="one of those below; what follows is its own")
    parser.parse_args([command, *rest])
    raise UsageError(f"{command}: expected the name of a command")


def script() -> int:
    """The console script."""
    return command_line.run(main)


if __name__ == "__main__":
    sys.exit(script())
