"""A pytest plugin: one small trained run that the tests of several commands share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_cuda import command_line, train

CLASSES = {
    "<i>&amp; $x$": (90, 90, 90),  # what HTML and matplotlib must not read as theirs
    "blue": (60, 60, 140),
    "cyan": (60, 120, 120),
    "green": (60, 140, 60),
    "lime": (100, 140, 60),
    "pink": (140, 80, 110),
    "red": (140, 60, 60),
}
TRAINING, TEST = 8, 5  # images of each class


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven classes of noise around a colour, easy to learn and easy to confuse."""
    root = tmp_path_factory.mktemp("tiny_images")
    rng = np.random.default_rng(0)
    for part, count in (("train", TRAINING), ("val", TEST)):
        for name, colour in CLASSES.items():
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.array(colour) + rng.integers(-90, 91, 3) + rng.integers(-40, 41, (36, 36, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / part / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def tiny_run(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of alexnet-mini, trained for a moment on ``tiny_images``."""
    folder = tmp_path_factory.mktemp("tiny_run") / "run"
    arguments = ["--data", f"folder:{tiny_images}", "--batch", "8", "--epochs", "6", "--device", "cpu"]
    assert command_line.run(train.main, [*arguments, "--out", str(folder)]) == 0
    return folder
