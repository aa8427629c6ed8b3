"""The real network on real photographs: it can learn 32 of them by heart."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from alexnet_cuda import Tensor, models, no_grad, ops, optim

SAMPLE = Path(os.environ.get("ALEXNET_IMAGENET_SAMPLE", ""))
CLASSES = 32


def photographs(count: int) -> np.ndarray:
    """(count, 224, 224, 3) float32 with the mean image subtracted: short side to 256, then the centre."""
    from PIL import Image

    images = []
    with zipfile.ZipFile(SAMPLE) as archive:
        names = sorted(n for n in archive.namelist() if n.lower().endswith((".jpeg", ".jpg")))
        for name in names[:count]:
            with archive.open(name) as file, Image.open(file) as opened:
                picture = opened.convert("RGB")
                scale = 256 / min(picture.size)
                picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
                left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
                images.append(np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float32))
    x = np.stack(images)
    return x - x.mean(axis=0)


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.is_file(), reason="ALEXNET_IMAGENET_SAMPLE names no zip of ImageNet photographs")
def test_alexnet_overfits_32_photographs():
    x, labels = photographs(CLASSES), np.arange(CLASSES, dtype=np.int32)
    network = models.create("alexnet", device="cpu", seed=0)
    sgd = optim.SGD(network.parameters(), lr=0.01, momentum=0.9, decay=0.0005)
    images, targets = Tensor(x), Tensor(labels)
    for step in range(400):
        network.train()
        sgd.zero_grad()
        ops.softmax_cross_entropy(network(images), targets).backward()
        sgd.step()
        if step % 10 == 9:
            network.eval()
            with no_grad():
                logits = network(images)
                loss = ops.softmax_cross_entropy(logits, targets).item()
            predicted = logits.numpy().argmax(axis=1)
            if loss < 0.05 and (predicted == labels).all():
                break
    assert loss < 0.05
    np.testing.assert_array_equal(predicted, labels)
