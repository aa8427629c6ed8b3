"""How the colours of pixels vary: sums over images, and the principal components that follow from them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .dataset import Images

Colours = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Eigenvectors (3, 3) as columns and the standard deviations (3,) along them."""


def colour_products(image: Images) -> NDArray[np.float64]:
    """Sums over the pixels of an image (H, W, 3) of the products of each two of its channels (3, 3)."""
    planes = np.ascontiguousarray(image.reshape(-1, 3).T).astype(np.float32)
    products = np.empty((3, 3))
    for i in range(3):
        for j in range(i + 1):
            products[i, j] = products[j, i] = planes[i] @ planes[j]
    return products


def principal_components(products: NDArray[np.float64], total: NDArray[np.uint64], images: int) -> Colours:
    """The components of the pixels of as many images, whose ``colour_products`` sum up to ``products`` and which
    themselves sum up to ``total`` (H, W, 3): each eigenvector with a sum that is not negative, the largest first."""
    pixels = images * total.shape[0] * total.shape[1]
    mean = total.sum(axis=(0, 1), dtype=np.float64) / pixels
    variances, vectors = np.linalg.eigh(products / pixels - np.outer(mean, mean))
    vectors *= np.where(vectors.sum(axis=0) < 0, -1, 1)
    deviations = np.sqrt(np.maximum(variances, 0))  # rounding leaves a little less than 0 for images without colour
    return vectors[:, ::-1].astype(np.float32), deviations[::-1].astype(np.float32)
