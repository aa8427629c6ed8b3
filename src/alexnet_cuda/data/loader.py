"""Batches for a network: the order of the images, their crops, mirror images and colours; made ahead in a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .augmentation import Augmentation
from .dataset import DataError, Dataset, Images, Labels

AHEAD = 2  # batches made while the network is busy with an earlier one
BUFFERS = AHEAD + 3  # one for each of these, one for the network, two whose copies to a device may be under way

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batch(NamedTuple):
    """Images as they are stored, and how to cut and colour them. ``Loader`` overwrites ``images`` when the third batch
    after it is asked for."""

    images: Images
    """(N, RH, RW, 3)"""
    labels: Labels
    """(N,)"""
    crops: NDArray[np.int32] | NDArray[np.float32]
    """(N, 3): top, left, and 1 where the crop is mirrored, else 0; or maps (N, 2, 3) as of ``kernels.augment``."""
    noise: NDArray[np.float32] | None = None
    """(N, 3): to be added to the three channels."""
    tones: NDArray[np.float32] | None = None
    """(N, 2): contrast and brightness."""
    mix: NDArray[np.float32] | None = None
    """(N,): the share of each image, the rest being that of its neighbour, n xor 1."""
    others: Labels | None = None
    """(N,): the labels of the neighbours."""

    def rows(self, part: slice | NDArray[np.int64]) -> Batch:
        """Some of the images; whole pairs where they are mixed."""
        return Batch._make(None if array is None else array[part] for array in self)


class Drawn(NamedTuple):
    """What is drawn for each image of an epoch, as of ``Batch``, in the order of the epoch."""

    crops: NDArray[np.int32] | NDArray[np.float32]
    noise: NDArray[np.float32] | None = None
    tones: NDArray[np.float32] | None = None
    mix: NDArray[np.float32] | None = None


class Loader:
    """Batches of a data set for a network that sees ``size`` (height, width) of the stored pixels.

    Training shows each image once a pass, cut at a random place and, with ``mirrored``, half of the time mirrored;
    with ``colour`` (3, 3) its noise is colour @ alpha, alpha three standard normal numbers (paper, section 4.1); and
    changed as ``augmentation`` says. What comes when is a function of (seed, epoch) alone, so a run can go on from any
    batch. The last images of an epoch, too few for a batch, are left out: all steps have the same shape. Evaluation
    shows the centre of every image, in order. Batches without any readable image are passed over.

    Of ``parts`` processes that train together, ``part`` gets its share of every batch, the batches being those that one
    process alone would have; images in place of unreadable ones keep their sizes equal. In evaluation it gets its share
    of all images.

    An epoch of training is ``passes`` over the images.

    ``allocate(shape, dtype)`` makes the arrays of images. DataError when the stored images are smaller than ``size``,
    or fewer than the processes; ValueError when a batch does not divide, and as of ``Augmentation.check``.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: tuple[int, int],
        batch: int,
        mirrored: bool = False,
        colour: NDArray[np.float32] | None = None,
        seed: int = 0,
        allocate: Callable[[tuple[int, ...], Any], Images] = np.empty,
        part: int = 0,
        parts: int = 1,
        passes: int = 1,
        augmentation: Augmentation | None = None,
    ) -> None:
        if dataset.size[0] < size[0] or dataset.size[1] < size[1]:
            raise DataError(
                f"expected images of at least {size[0]}x{size[1]} pixels, got {dataset.size[0]}x{dataset.size[1]}"
            )
        if batch % parts:
            raise ValueError(f"batch: expected a multiple of the {parts} processes, got {batch}")
        if len(dataset) < parts:
            raise DataError(f"expected at least one image for each of {parts} processes, got {len(dataset)}")
        self.dataset, self.size, self.batch = dataset, size, min(batch, len(dataset) // parts * parts)
        self.part, self.parts, self.own = part, parts, self.batch // parts
        self.mirrored, self.colour, self.seed, self.allocate = mirrored, colour, seed, allocate
        self.passes = passes
        self.augmentation = augmentation or Augmentation()
        self.augmentation.check(dataset.size, size, self.own if parts > 1 else 2)

    def __len__(self) -> int:
        """Batches in an epoch of training."""
        return self.passes * len(self.dataset) // self.batch

    def training(self, epoch: int, start: int = 0) -> Iterator[tuple[int, Batch]]:
        """The batches of an epoch with their numbers, from batch ``start`` on."""
        rng = np.random.default_rng((self.seed, epoch))
        order = np.concatenate([rng.permutation(len(self.dataset)) for _ in range(self.passes)])
        crops = np.empty((len(order), 3), np.int32)
        crops[:, :2] = rng.integers(0, self._margin + 1, (len(order), 2))
        crops[:, 2] = rng.random(len(order)) < (0.5 if self.mirrored else 0)
        drawn = Drawn(crops)
        if self.colour is not None:
            drawn = drawn._replace(noise=rng.standard_normal((len(order), 3), np.float32) @ self.colour.T)
        wanted = self.augmentation
        if wanted.resampled:
            drawn = drawn._replace(crops=wanted.maps(rng, crops, self.dataset.size, self.size))
        if wanted.contrast or wanted.brightness:
            drawn = drawn._replace(tones=wanted.tones(rng, len(order)))
        if wanted.mixup:
            drawn = drawn._replace(mix=rng.beta(wanted.mixup, wanted.mixup, len(order)).astype(np.float32))
        firsts = range(start * self.batch + self.part * self.own, len(self) * self.batch, self.batch)
        for number, batch in enumerate(self._batches(order, drawn, firsts), start):
            if self.parts > 1:
                batch = self._filled(batch)
            if len(batch.labels):
                yield number, _paired(batch)

    def evaluation(self) -> Iterator[Batch]:
        """All images, or this process's part of them, the last batch as small as it comes."""
        order = np.arange(self.part, len(self.dataset), self.parts)
        crops = np.tile(np.array([*self._margin // 2, 0], np.int32), (len(order), 1))
        for batch in self._batches(order, Drawn(crops), range(0, len(order), self.own)):
            if len(batch.labels):
                yield batch

    @property
    def _margin(self) -> NDArray[np.int64]:
        return np.subtract(self.dataset.size, self.size)

    def _batches(self, order: NDArray[np.int64], drawn: Drawn, firsts: range) -> Iterator[Batch]:
        """Batches of up to ``own`` images, from each of these places in the order on."""
        shape = (self.own, *self.dataset.size, getattr(self.dataset, "channels", 3))
        dtype = getattr(self.dataset, "dtype", np.uint8)
        buffers = [self.allocate(shape, dtype) for _ in range(min(BUFFERS, len(firsts)))]

        def make(number: int) -> Batch:
            part = slice(firsts[number], firsts[number] + self.own)
            images, labels, read = self.dataset.load(order[part], buffers[number % len(buffers)])
            return Batch._make((images, labels, *(None if a is None else a[part][read] for a in drawn), None))

        return ahead(make, range(len(firsts)))

    def _filled(self, batch: Batch) -> Batch:
        """The batch with images that could be read, once more, in place of those that could not."""
        count = len(batch.labels)
        if count == self.own:
            return batch
        if not count:
            raise DataError(f"none of the {self.own} images of a process's part of a batch can be read")
        return batch.rows(np.resize(np.arange(count), self.own))


def _paired(batch: Batch) -> Batch:
    """The batch with its neighbours' labels, where images are mixed."""
    if batch.mix is None:
        return batch
    count = len(batch.labels)
    places = np.arange(count) ^ 1
    return batch._replace(others=batch.labels[np.where(places < count, places, places ^ 1)])


def ten_views(stored: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int32]:
    """The crops (10, 3) whose predictions the paper averages (section 4.1): top, left, mirrored of the four corners and
    the centre of a ``stored`` image (height, width), cut to ``size``, and of their mirror images."""
    (bottom, right) = m = np.subtract(stored, size)
    places = [(0, 0), (0, right), tuple(m // 2), (bottom, 0), (bottom, right)]
    return np.array([(*place, mirrored) for mirrored in (0, 1) for place in places], np.int32)


def ahead(
    make: Callable[[Item], Result], items: Iterable[Item], most: int = AHEAD, threads: int = 1
) -> Generator[Result, None, None]:
    """make(item) of each item in turn, computed in so many ``threads`` up to ``most`` before they are asked for."""
    with ThreadPoolExecutor(threads, "loader") as thread:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(thread.submit(make, item))
                if len(pending) > most:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
