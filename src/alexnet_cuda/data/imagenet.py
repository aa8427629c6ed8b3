"""ImageNet as it is usually unpacked, and samples of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .dataset import Data
from .folder import divided_data, held_out_data, labelled
from .listing import below, listing, unwrapped
from .parts import divided

ROOTS = ("", "ILSVRC/Data/CLS-LOC/", "Data/CLS-LOC/", "CLS-LOC/")  # Kaggle's archive has three folders around it


def open_imagenet(path: Path, size: tuple[int, int], threads: int | None = None, divide: bool = True) -> Data:
    """``path``, a folder or archive, holds parts as ``divided`` knows them, as train/WNID/... and val. Also Kaggle's
    folders around it. A sample without parts has a fifth of each class held out, without ``divide`` none; when it has
    but one image a class, all of them are trained on and tested on.

    DataError when something is missing or does not fit together.
    """
    files = listing(path)
    if not any(f"{root}train/" in files for root in ROOTS):
        files = unwrapped(files)
    for root in ROOTS:
        inside = below(files, root)
        if inside and (data := divided(inside, files, path, size, threads, divide)):
            return data
    found = labelled(files, path)
    if np.bincount(found.labels).max() > 1:
        return held_out_data(path, found, size, threads, divide)
    return divided_data(path, found, found, "the same ones: a class has but one image", size, threads)
