"""Images of a user's own as data sets: arrays, pairs of image and label, data sets and loaders of PyTorch.

Images are as numpy.asarray has them, with the channels last; tensors of PyTorch have them first. uint8 in three
channels stays so, and is cut, mirrored and centred like the images of files. What is float is what the network is to
see; uint8 in other channels becomes that, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import ArrayDataset, DataError, Dataset, Images, Labels, held_out

LOADER = "dataset", "batch_size", "sampler", "batch_sampler", "collate_fn"
PROTOCOL = "classes", "size", "labels", "unreadable", "load"
WHOLE_SAMPLERS = "SequentialSampler", "RandomSampler", "_InfiniteConstantSampler"
"""PyTorch's, that give every item; the last one is of data sets that are iterated over."""
PLAIN_COLLATES = "default_collate", "default_convert"


def given(data: Any, classes: Sequence[str] | int | None = None) -> Dataset:
    """A data set of ``data``: one of the ``Dataset`` protocol is itself; (images, labels); a sequence or iterable of
    (image, label), which is read once and kept; a PyTorch data set, whose images are asked for whenever they are
    needed; a PyTorch ``DataLoader`` that gives all items of its data set as they are, which it is then. ``classes``:
    their names or number, by default the data set's own, or as many as the greatest label says. DataError for what it
    cannot be made of."""
    if all(hasattr(data, name) for name in PROTOCOL):
        found: Dataset = data
        return found
    if all(hasattr(data, name) for name in LOADER):
        _check_loader(data)
        return given(data.dataset, classes)
    named = getattr(data, "classes", None) if classes is None else classes
    if isinstance(data, tuple | list) and len(data) == 2 and getattr(data[0], "ndim", 0) >= 3:
        images, labels = _as_stored(_array(data[0], "images", batch=True), "images"), _labels(data[1])
        if len(images) != len(labels):
            raise DataError(f"expected a label for each image, got {len(images)} images and {len(labels)} labels")
        return _arrays(images, labels, named)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, Mapping | tuple | list):
        return ItemDataset(data, named)
    if not isinstance(data, Iterable) or isinstance(data, Mapping | str):
        raise DataError(
            f"expected (images, labels), pairs of image and label, or a data set, got {type(data).__name__}"
        )
    kept, numbers = list[NDArray[Any]](), list[int]()
    for number, item in enumerate(data):
        image, label = _pair(item, number)
        kept.append(image)
        numbers.append(label)
        if image.shape != kept[0].shape or image.dtype != kept[0].dtype:
            raise _differs(number, kept[0].dtype, kept[0].shape, image)
    if not kept:
        raise DataError("expected pairs of image and label, got none")
    return _arrays(np.stack(kept), np.array(numbers, np.int32), named)


def _check_loader(loader: Any) -> None:
    """DataError for a ``DataLoader`` that does more than to go through its data set, in whatever order."""
    sampler, collate = loader.sampler, loader.collate_fn
    kind = type(sampler).__name__
    drawn = kind == "RandomSampler" and (sampler.replacement or sampler.num_samples != len(loader.dataset))
    if kind not in WHOLE_SAMPLERS or drawn:
        raise DataError(
            f"DataLoader: sampler: expected one of all items once, got a {kind}: give the data set of those items, "
            "such as a torch.utils.data.Subset"
        )
    if loader.batch_size is None and loader.batch_sampler is not None:
        got = type(loader.batch_sampler).__name__
        raise DataError(f"DataLoader: batch_sampler: expected a batch_size, got a {got}: batches are the recipe's")
    name = getattr(collate, "__name__", type(collate).__name__)
    if name not in PLAIN_COLLATES:
        raise DataError(
            f"DataLoader: collate_fn: expected that of PyTorch, got {name}: change images in the data set's __getitem__"
        )


def divided(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Four fifths of each class to train on, a fifth to test on, as of ``held_out``."""
    train, test = held_out(dataset.labels)
    return PartOf(dataset, train), PartOf(dataset, test)


class PartOf:
    """Some of a data set's images, by their numbers in it."""

    def __init__(self, whole: Dataset, places: NDArray[np.int64]) -> None:
        self.whole, self.places = whole, places
        self.classes, self.size, self.labels = whole.classes, whole.size, whole.labels[places]
        self.channels, self.dtype = getattr(whole, "channels", 3), getattr(whole, "dtype", np.uint8)

    @property
    def unreadable(self) -> Mapping[str, str]:
        return self.whole.unreadable

    def __len__(self) -> int:
        return len(self.places)

    def load(self, indices: NDArray[np.int64], out: Images | None = None) -> tuple[Images, Labels, NDArray[np.int64]]:
        """As ``Dataset.load``."""
        return self.whole.load(self.places[indices], out)


class ItemDataset:
    """Items (image, label) of what has a length and numbers, such as a PyTorch data set: read whenever they are asked
    for, labels once before, from ``targets`` or ``labels`` if it has these."""

    def __init__(self, items: Any, classes: Sequence[str] | int | None) -> None:
        """DataError for what is not such items."""
        self.items = items
        if not len(items):
            raise DataError(f"expected items (image, label), got an empty {type(items).__name__}")
        first, _ = _pair(items[0], 0)
        self.size: tuple[int, int] = (first.shape[0], first.shape[1])
        self.channels, self.dtype = first.shape[2], first.dtype
        told = getattr(items, "targets", getattr(items, "labels", None))
        if told is None or len(told) != len(items):
            told = [_pair(items[number], number)[1] for number in range(len(items))]
        self.labels = _labels(told)
        self.classes = _names(classes, self.labels)
        self.unreadable: Mapping[str, str] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, indices: NDArray[np.int64], out: Images | None = None) -> tuple[Images, Labels, NDArray[np.int64]]:
        """As ``Dataset.load``. DataError for an image of another size than the first."""
        shape = (*self.size, self.channels)
        images = np.empty((len(indices), *shape), self.dtype) if out is None else out[: len(indices)]
        for place, number in enumerate(indices.tolist()):
            image, _ = _pair(self.items[number], number)
            if image.shape != shape or image.dtype != self.dtype:
                raise _differs(number, self.dtype, shape, image)
            images[place] = image
        return images, self.labels[indices], np.arange(len(indices))


def _differs(number: int, dtype: Any, shape: tuple[int, ...], image: NDArray[Any]) -> DataError:
    return DataError(f"item {number}: expected {dtype} {shape} as item 0, got {image.dtype} {image.shape}")


def _arrays(images: NDArray[Any], labels: Labels, classes: Sequence[str] | int | None) -> ArrayDataset:
    if not len(images):
        raise DataError("expected images, got none")
    return ArrayDataset(np.ascontiguousarray(images), labels, _names(classes, labels))


def _pair(item: Any, number: int) -> tuple[NDArray[Any], int]:
    """An image (H, W, C) as it is stored, and its label."""
    if not isinstance(item, Sequence) or len(item) != 2:
        raise DataError(f"item {number}: expected a pair of image and label, got {type(item).__name__}")
    image = _as_stored(_array(item[0], f"item {number}", batch=False), f"item {number}")
    return image, int(_labels([item[1]])[0])


def _array(x: Any, where: str, batch: bool) -> NDArray[Any]:
    """Images as an array with the channels last: (H, W, C), or in a batch (N, H, W, C)."""
    rank = 4 if batch else 3
    of_torch = type(x).__module__.partition(".")[0] == "torch"
    array = np.asarray(x.detach().cpu()) if of_torch else np.asarray(x)
    if array.ndim == rank - 1:
        return array[..., None]
    if array.ndim != rank:
        expected = "(N, H, W, C)" if batch else "(H, W, C)"
        raise DataError(f"{where}: expected an array of shape {expected}, got {array.shape}")
    return np.moveaxis(array, -3, -1) if of_torch else array


def _as_stored(images: NDArray[Any], where: str) -> NDArray[Any]:
    if images.dtype == np.uint8:
        return images if images.shape[-1] == 3 else images.astype(np.float32) / np.float32(255)
    if images.dtype.kind != "f":
        raise DataError(f"{where}: expected uint8 or floats, got {images.dtype}")
    return images.astype(np.float32, copy=False)


def _labels(labels: Any) -> Labels:
    numbers = list[int]()
    for label in labels:
        try:
            numbers.append(index(label))
        except TypeError:
            raise DataError(f"labels: expected whole numbers from 0 on, got {type(label).__name__}") from None
    if min(numbers, default=0) < 0:
        raise DataError(f"labels: expected whole numbers from 0 on, got {min(numbers)}")
    return np.array(numbers, np.int32)


def _names(classes: Sequence[str] | int | None, labels: Labels) -> tuple[str, ...]:
    most = int(labels.max()) + 1
    count = most if classes is None else classes
    names = tuple(map(str, range(count) if isinstance(count, int) else count))
    if len(names) < most:
        raise DataError(f"classes: expected at least {most}, as the labels go to {most - 1}, got {len(names)}")
    return names
