"""Random images in memory: to measure and to try things without any files."""

from __future__ import annotations

import numpy as np

from ..command_line import count
from .dataset import ArrayDataset, Data, DataError

LEAST = 1024  # training images


def open_synthetic(classes: int, size: tuple[int, int]) -> Data:
    """Images (height, width) of ``size`` in which every byte is random: at least one of each class to train on, fewer
    to test, always the same."""
    if classes < 2:
        raise DataError(f"synthetic needs at least 2 classes, got {classes}")
    train, test = (
        ArrayDataset(
            np.frombuffer(np.random.default_rng(seed).bytes(count * size[0] * size[1] * 3), np.uint8).reshape(
                count, *size, 3
            ),
            np.arange(count, dtype=np.int32) % classes,
            [str(i) for i in range(classes)],
        )
        for seed, count in enumerate((max(LEAST, classes), LEAST // 4))
    )
    split = (
        f"synthetic: {len(train):,} training and {len(test):,} test images of random bytes in {count(classes, 'class')}"
    )
    return Data(train, test, f"{split}; there is nothing to learn in them", mirrored=True)
