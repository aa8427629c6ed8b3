"""The command line that benchmarks have in common: where they run, beside whom, how briefly, where the results go."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import timing
from timing import Row

from alexnet_cuda import backend, command_line

PEERS = {
    "PyTorch": ("torch",),
    "TensorFlow": ("tensorflow",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "OpenVINO": ("openvino", "onnx"),
}
"""With whom ours can be compared, and the modules that this takes."""


class Parser(argparse.ArgumentParser):
    """Of the benchmark ``name``, which ``doc`` describes. With ``--quick`` it does ``briefly`` what it does. ``peers``:
    with whom it compares ours."""

    def __init__(self, name: str, doc: str | None, briefly: str, peers: Sequence[str] = ("PyTorch",)) -> None:
        super().__init__(prog=name, description=(doc or "").partition("\n\n")[0])
        self._peers = peers
        self.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        self.add_argument("--quick", action="store_true", help=f"{briefly}: to see that the code runs")
        if peers:
            others = " and ".join([*([", ".join(peers[:-1])] if peers[:-1] else []), peers[-1]])
            self.add_argument("--alone", action="store_true", help=f"without {others}, even where installed")
        where = "folder of the results (default: benchmarks/results, with --quick none)"
        self.add_argument("--out", type=Path, help=where)

    def options(self, arguments: Sequence[str] | None = None) -> Namespace:
        """What was asked for, and besides ``on_cpu``, ``stem`` (the results' name), ``out`` (None: nowhere), ``peers``,
        who is compared with, and ``torch``, whether PyTorch is among them. Who is not installed is left out, and so
        told."""
        options = self.parse_args(arguments)
        options.on_cpu = options.device == "cpu"
        if not options.on_cpu and (problem := backend.gpu_problem()):
            self.error(f"--device cuda: no usable GPU: {problem}")
        slow = set(getattr(options, "precision", None) or []) - {"fp32"}
        if options.on_cpu and slow and not options.quick:
            self.error(
                f"--precision {' '.join(sorted(slow))}: on a CPU tensor cores are imitated, lane by lane, and only "
                "fp32 is worth timing: expected --quick with it"
            )
        options.stem = f"{self.prog}-{'cpu' if options.on_cpu else timing.gpu_slug()}"
        options.out = options.out or (None if options.quick else timing.RESULTS)
        alone = not self._peers or options.alone
        wanted = [] if alone else [peer for peer in self._peers if options.on_cpu or peer == "PyTorch"]
        options.peers = [peer for peer in wanted if all(map(importlib.util.find_spec, PEERS[peer]))]
        options.torch = "PyTorch" in options.peers
        for peer in wanted:
            if peer not in options.peers:
                rest = "it is left out" if options.peers else "ours is timed alone"
                print(f"{self.prog}: {peer} is not installed: {rest}", file=sys.stderr)
        return options

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def of_trainings(doc: str | None) -> argparse.ArgumentParser:
    """The command line of what trains networks for their accuracy, which ``doc`` describes: on which data, how long,
    with which seeds."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--data", required=True, help="as in `python -m alexnet_cuda.train --data`")
    parser.add_argument("--epochs", type=command_line.positive_int, help="instead of the recipes'")
    parser.add_argument("--seeds", type=command_line.seed, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a usable GPU, else the CPU)")
    parser.add_argument("--out", type=Path, default=timing.RESULTS, help="folder of the results")
    return parser


def threads(options: Namespace) -> Row:
    """Of ours and of the peers, who get as many, and their fastest algorithms."""
    if options.quick:
        backend.set_threads(1)  # nothing there is worth a second
    if options.torch:
        import torch

        torch.set_num_threads(backend.threads())
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
    return dict.fromkeys(["ours", *options.peers], backend.threads())
