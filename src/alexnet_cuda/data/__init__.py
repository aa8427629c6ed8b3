"""Images to train on: ``open_data("digits" or "folder:PATH", height, width)``.

A data set delivers uint8 images a little larger than the network's input, so that training can cut random crops from
them (paper, section 4.1) and evaluation the centre; ``Loader`` does both and subtracts the mean image.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from .dataset import ArrayDataset, Data, DataError, Dataset, with_margin
from .digits import open_digits
from .folder import FolderDataset, open_folder
from .loader import Batch, Loader, mean_image

__all__ = [
    "ArrayDataset",
    "Batch",
    "Data",
    "DataError",
    "Dataset",
    "FolderDataset",
    "Loader",
    "mean_image",
    "open_data",
]


def open_data(source: str, height: int, width: int, threads: int | None = None) -> Data:
    """The data set that ``--data`` names, for a network that sees images of ``height`` x ``width`` pixels.

    source: "digits" or "folder:PATH". ``threads`` (default: one a core) decode files. DataError, one line, for an
    unknown name, a missing path, or a folder without at least two classes of images.
    """
    name, colon, path = source.partition(":")
    size = with_margin(height), with_margin(width)
    if name == "digits":
        if colon:
            raise DataError(f"digits takes no path, got {source!r}")
        return open_digits(size, (height, width))
    if name == "folder":
        if not path:
            raise DataError("folder needs the path of a folder: folder:PATH")
        return open_folder(Path(path).expanduser(), size, threads)
    if not colon and Path(source).is_dir():
        raise DataError(f"unknown data {source!r}; did you mean folder:{source}?")
    near = difflib.get_close_matches(name, ["digits", "folder"], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise DataError(f"unknown data {source!r}: expected digits or folder:PATH{hint}")
