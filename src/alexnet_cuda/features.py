"""``python -m alexnet_cuda.features``: what a layer of a trained network makes of images, as an array for others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from . import checkpoint, command_line, names
from .command_line import UsageError, checked_input
from .files import replacing
from .inference import Floats, Trained
from .predict import BATCH, images_in, read
from .suggest import nearest
from .terminal import say

__all__ = ["main"]


def parser() -> command_line.Parser:
    p = command_line.Parser(
        "features",
        "What a layer of a trained network makes of images, float32 (N, ...): a .npy\n"
        "file, and beside it the names of the N images as .txt, one a line; or a .npz\n"
        "file, which holds both, as `features` and `files`.",
        "Exit codes: 0 done, 1 some image is left out, as it cannot be read,\n2 wrong usage.",
    )
    p.add_argument("run", type=Path, metavar="RUN", help="run folder, or checkpoint file")
    p.add_argument("image", nargs="+", type=Path, metavar="IMAGE", help="image file, or folder with images in it")
    p.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="a .npy or .npz file")
    p.add_argument("--layer", metavar="NAME", help="default: the last before the classifier")
    command_line.add_checkpoint(p.add_argument)
    p.add_argument("--device", help="cpu, cuda or cuda:N (default: a usable GPU, else the CPU)")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    out: Path = options.out
    if out.suffix not in (".npy", ".npz") or out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"--out {out}: expected a .npy or .npz file in a folder that exists")
    with checked_input():
        files = [file for path in options.image for file in images_in(path)]
        chosen = checkpoint.chosen(options.run, options.checkpoint)
        trained = Trained.load(chosen, command_line.device(options.device), BATCH)
    layer = options.layer or trained.hidden
    known = [layer.name for layer in trained.model.layers]
    if layer not in known:
        raise UsageError(f"--layer {layer}: expected one of {', '.join(known)}{nearest(layer, known)}")
    outputs, done = list[Floats](), list[str]()
    for readable, images in read(files, trained):
        outputs.append(trained.activations(images, [layer])[layer])
        done += map(names.text, readable)
    if not done:
        raise UsageError("none of the images can be read")
    features = np.concatenate(outputs)
    with replacing(out) as aside, aside.open("wb") as file:
        if out.suffix == ".npz":
            np.savez(file, features=features, files=done)
        else:
            np.save(file, features)
    if out.suffix == ".npy":
        with replacing(out.with_suffix(".txt")) as aside:
            aside.write_text("".join(f"{name}\n" for name in done), encoding="utf-8")
    say(f"{names.text(out)}: {layer}, {'x'.join(map(str, features.shape))}, by {names.text(trained.path)}")
    return 1 if len(done) < len(files) else 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
