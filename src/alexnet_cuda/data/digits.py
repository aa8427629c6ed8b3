"""scikit-learn's bundled handwritten digits: 1,797 scans of 8x8 pixels in ten classes, no download."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .dataset import ArrayDataset, Data, DataError, held_out


def open_digits(size: tuple[int, int], scan: tuple[int, int]) -> Data:
    """The digits as RGB images of ``size`` (height, width), the scan enlarged to ``scan`` in the middle of black."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("the digits come with scikit-learn: pip install 'alexnet-cuda[digits]'") from None
    scans, targets = load_digits(return_X_y=True)
    labels = targets.astype(np.int32)
    images = np.zeros((len(labels), *size, 3), np.uint8)
    top, left = (size[0] - scan[0]) // 2, (size[1] - scan[1]) // 2
    for image, pixels in zip(images, scans.reshape(-1, 8, 8), strict=True):
        grey = Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8))  # a scan holds 0 to 16
        enlarged = grey.resize(scan[::-1], Image.Resampling.BICUBIC)
        image[top : top + scan[0], left : left + scan[1]] = np.asarray(enlarged)[..., None]
    train, test = held_out(labels)
    classes = [str(digit) for digit in range(10)]
    return Data(
        train=ArrayDataset(images[train], labels[train], classes),
        test=ArrayDataset(images[test], labels[test], classes),
        split=f"handwritten digits from scikit-learn: {len(train):,} training and {len(test):,} test images, divided "
        "at random within each class (not by writer: the same hands are in both)",
        mirrored=False,
    )
