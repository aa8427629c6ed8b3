"""The random numbers of dropout, in NumPy: Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as
easy as 1, 2, 3", SC 2011)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOW = np.uint64(0xFFFFFFFF)


def philox(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """The counter's last dimension holds four 32-bit words, as does the result's."""
    c0, c1, c2, c3 = np.moveaxis(counter, -1, 0)
    k0, k1 = key
    for _ in range(10):
        first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (second >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            second & LOW,
            (first >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            first & LOW,
        )
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack([c0, c1, c2, c3], -1)


def kept(index: NDArray[np.int64], p: float, seed: int, step: int, purpose: int) -> NDArray[np.bool_]:
    """Which of the elements with these numbers dropout keeps: those whose word / 2^32 is at least p, which is rounded
    to float32. Element i has word i % 4 of Philox with key seed and counter (low and high half of i // 4, step,
    purpose)."""
    block = (index // 4).astype(np.uint64)
    counter = np.stack(
        [block & LOW, block >> np.uint64(32), np.full_like(block, step), np.full_like(block, purpose)], -1
    )
    words = philox(counter, (seed % 2**32, seed // 2**32))
    word = np.take_along_axis(words, index[..., None] % 4, -1)[..., 0]
    return word / 2.0**32 >= np.float32(p)
