"""What training needs to know of the images beforehand: their mean, and how their colours vary."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .colours import Colours, colour_moments, principal_components
from .dataset import DataError, Dataset, Images
from .packed import PackedDataset


def mean_image(dataset: Dataset, most: int = 2048) -> NDArray[np.float32]:
    """The mean (H, W, 3) of the images (paper, section 2), of an evenly spaced sample where there are more than
    ``most``; a packed set brings that of all its training images. DataError when none can be read."""
    if isinstance(dataset, PackedDataset):
        return dataset.mean
    total, count = np.zeros((*dataset.size, 3), np.uint64), 0
    for images in _sample(dataset, most):
        total += images.sum(axis=0, dtype=np.uint32)
        count += len(images)
    return np.asarray(total / count, np.float32)


def balanced_weights(dataset: Dataset) -> tuple[float, ...]:
    """A weight for each class in inverse proportion to its number of images (King and Zeng 2001), so that all classes
    that have any weigh the same and the images' mean weight is 1; 1 for a class without any."""
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    each = counts.sum() / np.count_nonzero(counts)
    return tuple(float(each / count) if count else 1.0 for count in counts)


def colour_pca(dataset: Dataset, most: int = 2048) -> Colours:
    """The principal components of the pixels' RGB values, 0 to 255 (paper, section 4.1), with ``most`` as in
    ``mean_image``: eigenvectors (3, 3) of their covariance as columns, each with a sum that is not negative, and the
    standard deviations (3,) along them, the largest first. DataError when no image can be read."""
    if isinstance(dataset, PackedDataset):
        return dataset.colours
    moments = np.zeros((4, 4))
    for images in _sample(dataset, most):
        moments += sum(map(colour_moments, images))
    return principal_components(moments)


def _sample(dataset: Dataset, most: int) -> Iterator[Images]:
    sample = np.linspace(0, len(dataset) - 1, min(len(dataset), most)).astype(np.int64)
    count = 0
    for part in np.array_split(sample, -(-len(sample) // 128)):
        images, _, _ = dataset.load(part)
        count += len(images)
        yield images
    if not count:
        path, reason = next(iter(dataset.unreadable.items()))
        raise DataError(f"none of the images can be read; {path}: {reason}")
