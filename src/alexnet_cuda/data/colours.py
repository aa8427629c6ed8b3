"""How the colours of pixels vary: sums over images, and the principal components that follow from them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .dataset import Images

PIXELS = 1 << 12  # more of an image would cost time and tell little, much alike as they are

Colours = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Eigenvectors (3, 3) as columns and the standard deviations (3,) along them."""


def colour_moments(image: Images) -> NDArray[np.float64]:
    """Sums over pixels of an image (H, W, 3) of the products of each two of (red, green, blue, 1): over all pixels of
    a small image, over those of evenly spaced rows of a large one, about PIXELS in all."""
    rows = image[:: max(1, image.shape[0] * image.shape[1] // PIXELS)].reshape(-1, 3)
    planes = np.ones((4, len(rows)))
    planes[:3] = rows.T
    return planes @ planes.T


def principal_components(moments: NDArray[np.float64]) -> Colours:
    """The components of the pixels whose ``colour_moments`` sum up to ``moments``: each eigenvector with a sum that is
    not negative, the largest first."""
    mean = moments[3, :3] / moments[3, 3]
    variances, vectors = np.linalg.eigh(moments[:3, :3] / moments[3, 3] - np.outer(mean, mean))
    vectors *= np.where(vectors.sum(axis=0) < 0, -1, 1)
    deviations = np.sqrt(np.maximum(variances, 0))  # rounding leaves a little less than 0 for images without colour
    return vectors[:, ::-1].astype(np.float32), deviations[::-1].astype(np.float32)
