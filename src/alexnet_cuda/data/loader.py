"""From uint8 images to the network's input: order, crops, mirror images, the mean image; prepared ahead in a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .dataset import DataError, Dataset, Labels

AHEAD = 2  # batches made while the network is busy with an earlier one


class Batch(NamedTuple):
    images: NDArray[np.float32]
    """(N, H, W, 3)"""
    labels: Labels
    """(N,)"""


def mean_image(dataset: Dataset, most: int = 2048) -> NDArray[np.float32]:
    """The mean (H, W, 3) of the images (paper, section 2), of an evenly spaced sample where there are more than
    ``most``. DataError when none can be read."""
    sample = np.linspace(0, len(dataset) - 1, min(len(dataset), most)).astype(np.int64)
    total, count = np.float64(0), 0
    for part in np.array_split(sample, -(-len(sample) // 128)):
        images, labels, _ = dataset.load(part)
        total, count = total + images.sum(axis=0, dtype=np.float64), count + len(labels)
    if not count:
        path, reason = next(iter(dataset.unreadable.items()))
        raise DataError(f"none of the images can be read; {path}: {reason}")
    return np.asarray(total / count, np.float32)


class Loader:
    """Batches of a data set as a network takes them: (image - mean) * scale, cut to ``size``.

    Training sees each image once an epoch, at a random place and, with ``mirrored``, half of the time mirrored; what
    comes when is a function of (seed, epoch) alone, so a run can go on from any batch. The last images of an epoch,
    too few for a batch, are left out: all steps have the same shape. Evaluation sees the centre of every image, in
    order. ``mean`` has the size of the stored images. Batches without any readable image are passed over.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: tuple[int, int],
        batch: int,
        mean: NDArray[np.float32],
        scale: float = 1.0,
        mirrored: bool = False,
        seed: int = 0,
    ) -> None:
        self.dataset, self.size, self.mean, self.scale = dataset, size, mean, np.float32(scale)
        self.batch, self.mirrored, self.seed = min(batch, len(dataset)), mirrored, seed

    def __len__(self) -> int:
        """Batches in an epoch of training."""
        return len(self.dataset) // self.batch

    def training(self, epoch: int, start: int = 0) -> Iterator[tuple[int, Batch]]:
        """The batches of an epoch with their numbers, from batch ``start`` on."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.dataset))
        places = rng.integers(0, np.subtract(self.mean.shape[:2], self.size) + 1, (len(order), 2))
        mirror = rng.random(len(order)) < (0.5 if self.mirrored else 0)

        def make(number: int) -> Batch:
            part = slice(number * self.batch, (number + 1) * self.batch)
            return self._make(order[part], places[part], mirror[part])

        for number, batch in enumerate(_ahead(make, range(start, len(self))), start):
            if len(batch.labels):
                yield number, batch

    def evaluation(self) -> Iterator[Batch]:
        """All images, the last batch as small as it comes."""
        centre = np.subtract(self.mean.shape[:2], self.size) // 2

        def make(first: int) -> Batch:
            indices = np.arange(first, min(first + self.batch, len(self.dataset)))
            return self._make(indices, np.tile(centre, (len(indices), 1)), np.zeros(len(indices), bool))

        for batch in _ahead(make, range(0, len(self.dataset), self.batch)):
            if len(batch.labels):
                yield batch

    def _make(self, indices: NDArray[np.int64], places: NDArray[np.int64], mirror: NDArray[np.bool_]) -> Batch:
        stored, labels, read = self.dataset.load(indices)
        H, W = self.size
        images = np.empty((len(stored), H, W, 3), np.float32)
        for out, image, (top, left), mirrored in zip(images, stored, places[read], mirror[read], strict=True):
            window = np.s_[top : top + H, left : left + W]
            np.subtract(image[window], self.mean[window], out=out[:, ::-1] if mirrored else out)
        images *= self.scale
        return Batch(images, labels)


def _ahead(make: Callable[[int], Batch], numbers: range) -> Iterator[Batch]:
    """make(n) of each number in turn, computed up to AHEAD before they are asked for."""
    with ThreadPoolExecutor(1, "loader") as thread:
        pending: deque[Future[Batch]] = deque()
        try:
            for number in numbers:
                pending.append(thread.submit(make, number))
                if len(pending) > AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
