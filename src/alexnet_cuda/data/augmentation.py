"""What became common after the paper, drawn at random: resized crops, rotation, brightness, contrast, mixup."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Augmentation:
    """How far training changes its images, besides crops of the input's size, mirror images and colour noise. The
    defaults change nothing."""

    crop_area: float = 1.0
    """The smallest share of an image that a crop takes, which is then resized to the input; shares are drawn evenly
    from here to 1 (Szegedy et al. 2015, section 6). 1: crops of the input's size."""
    crop_aspect: float = 4 / 3
    """How many times longer than in the input a resized crop's one side may be beside the other; logarithms are drawn
    evenly. It is less where the crop would leave the image."""
    rotation: float = 0.0
    """The largest angle in degrees, either way, drawn evenly; around the middle of the crop."""
    brightness: float = 0.0
    """The largest share of 255 that is added to or taken from all pixels, drawn evenly."""
    contrast: float = 0.0
    """The difference of the pixels from the mean is multiplied by 1 - contrast to 1 + contrast, drawn evenly."""
    mixup: float = 0.0
    """Above 0: alpha of the distribution Beta(alpha, alpha) of the share that an image has in a mixture with its
    neighbour in the batch (Zhang et al. 2018)."""

    @property
    def resampled(self) -> bool:
        """Whether pixels are interpolated."""
        return self.crop_area < 1 or self.rotation > 0

    def check(self, stored: tuple[int, int], size: tuple[int, int], images: int) -> None:
        """ValueError where nothing is left of ``stored`` images (height, width), they are too wide to be resampled to
        ``size``, or the ``images`` of a part of a batch do not divide into pairs."""
        if self.crop_area < 1:
            extremes = np.array([1 / self.crop_aspect, self.crop_aspect])
            if _sides(np.full(2, self.crop_area), extremes, stored, size).min() < 1:
                raise ValueError(
                    f"crop_area, crop_aspect: crops of {self.crop_area:g} of {stored[0]}x{stored[1]} pixels, one side "
                    f"{self.crop_aspect:g} times longer, leave less than a pixel"
                )
        if self.resampled and stored[1] + size[1] > 4096:
            raise ValueError(
                f"crop_area, rotation: expected rows of at most 4096 pixels, stored and seen ones together, "
                f"got {stored[1]} and {size[1]}"
            )
        if self.mixup and images % 2:
            raise ValueError(f"mixup: expected an even number of each batch's images in each process, got {images}")

    def maps(
        self, rng: np.random.Generator, crops: NDArray[np.int32], stored: tuple[int, int], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """The maps (N, 2, 3) of ``kernels.augment`` that are drawn for the ``crops`` (N, 3): their places, where crops
        are not resized, and their mirror images."""
        count, (high, wide) = len(crops), size
        middle, sides = crops[:, :2] + np.array(size) / 2, np.tile(np.array(size, np.float64), (count, 1))
        if self.crop_area < 1:
            area, bound = rng.uniform(self.crop_area, 1, count), math.log(self.crop_aspect)
            sides = _sides(area, np.exp(rng.uniform(-bound, bound, count)), stored, size)
            middle = sides / 2 + rng.random((count, 2)) * (np.array(stored) - sides)
        angle = np.radians(rng.uniform(-self.rotation, self.rotation, count))
        cos, sin = np.cos(angle), np.sin(angle)
        down, right = sides[:, 0] / high, sides[:, 1] / wide * np.where(crops[:, 2], -1, 1)  # steps of a pixel
        maps = np.empty((count, 2, 3))
        maps[:, 0, 1:], maps[:, 1, 1:] = np.stack([cos * down, sin * right], 1), np.stack([-sin * down, cos * right], 1)
        maps[:, :, 0] = middle - 0.5 - maps[:, :, 1] * (high - 1) / 2 - maps[:, :, 2] * (wide - 1) / 2
        return maps.astype(np.float32)

    def tones(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Contrasts and brightnesses (count, 2)."""
        contrast = rng.uniform(1 - self.contrast, 1 + self.contrast, count)
        brightness = rng.uniform(-self.brightness, self.brightness, count) * 255
        return np.stack([contrast, brightness], axis=1).astype(np.float32)


def _sides(
    area: NDArray[np.float64], aspect: NDArray[np.float64], stored: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Height and width (N, 2) of crops of these shares of an image, the width ``aspect`` times what it is in the input
    beside the height, as far as the image goes."""
    pixels = area * math.prod(stored)
    ratio = (aspect * size[1] / size[0]).clip(pixels / stored[0] ** 2, stored[1] ** 2 / pixels)
    return np.stack([np.sqrt(pixels / ratio), np.sqrt(pixels * ratio)], axis=1)
