"""What a data set is: numbered images with labels, in named classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.int32]


class DataError(ValueError):
    """The data cannot be used; the message is one line that says why."""


class Dataset(Protocol):
    """Images of one size, numbered from 0, each of one of the classes.

    One whose images are no uint8 in three channels says so by two more attributes: ``channels``, and ``dtype``, which
    is then float32; the network sees its images as they are.
    """

    @property
    def classes(self) -> Sequence[str]:
        """Their names, in the order of the labels."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the stored images, in pixels."""
        ...

    @property
    def labels(self) -> Labels:
        """(N,) int32: the number of each image's class."""
        ...

    @property
    def unreadable(self) -> Mapping[str, str]:
        """The images that ``load`` has left out so far, and why."""
        ...

    def __len__(self) -> int: ...

    def load(self, indices: NDArray[np.int64], out: Images | None = None) -> tuple[Images, Labels, NDArray[np.int64]]:
        """Images (N, H, W, 3), labels (N,) and the places in ``indices`` they come from: all of them, unless some
        turned out to be unreadable. The images are written to the first rows of ``out`` where it is given."""
        ...


@dataclass(frozen=True)
class Data:
    """A training set and a test set of the same classes."""

    train: Dataset
    test: Dataset
    split: str
    """A sentence on how the two were divided."""
    mirrored: bool
    """Whether an image and its mirror image are of the same class."""

    @property
    def classes(self) -> Sequence[str]:
        """Their names, in the order of the labels."""
        return self.train.classes


class ArrayDataset:
    """Images held in memory: (N, H, W, 3) uint8 or (N, H, W, C) float32, labels (N,) int32; ``unreadable`` names what
    was left out of them."""

    def __init__(
        self, images: Images, labels: Labels, classes: Sequence[str], unreadable: Mapping[str, str] | None = None
    ) -> None:
        self.images, self.labels, self.classes = images, labels, tuple(classes)
        self.size: tuple[int, int] = images.shape[1:3]
        self.channels, self.dtype = images.shape[3], images.dtype
        self.unreadable = unreadable or {}

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, indices: NDArray[np.int64], out: Images | None = None) -> tuple[Images, Labels, NDArray[np.int64]]:
        """As ``Dataset.load``."""
        shape = (len(indices), *self.size, self.channels)
        images = np.empty(shape, self.dtype) if out is None else out[: len(indices)]
        np.take(self.images, indices, axis=0, out=images, mode="clip")  # the mode that does not copy by way of a buffer
        return images, self.labels[indices], np.arange(len(indices))


def rows(out: Images | None, count: int, size: tuple[int, int]) -> Images:
    """The first ``count`` rows of ``out``, or a new array for as many images."""
    return np.empty((count, *size, 3), np.uint8) if out is None else out[:count]


def gather(
    read: Callable[[np.int64, Images], bool],
    indices: NDArray[np.int64],
    images: Images,
    pool: ThreadPoolExecutor,
    tasks: int,
) -> tuple[Images, NDArray[np.int64]]:
    """``read(index, out)`` of each index, divided into as many ``tasks`` for the threads of ``pool``; the images for
    which it was true, and their places."""
    good = np.zeros(len(indices), bool)

    def fill(part: slice) -> None:
        for place in range(*part.indices(len(indices))):
            good[place] = read(indices[place], images[place])

    step = max(1, -(-len(indices) // tasks))
    list(pool.map(fill, (slice(first, first + step) for first in range(0, len(indices), step))))
    places = np.flatnonzero(good)
    if len(places) < len(indices):
        images[: len(places)] = images[places]
    return images[: len(places)], places


def with_margin(n: int) -> int:
    """Pixels of a stored image for an input of n: 256 for 224, as in the paper, in proportion for others."""
    return n + 2 * round(n / 14)


def held_out(labels: Labels, share: float = 0.2, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divides the images at random into (train, test) places, each class in the same proportion: ``share`` of it, at
    least one image and not all, is for the test. The division depends on the labels and on ``seed`` alone."""
    rng = np.random.default_rng(seed)
    train, test = [], []
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(share * len(places))), len(places) - 1)
        test.append(places[:count])
        train.append(places[count:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))
