"""Trained networks at work: from a checkpoint to class probabilities and to the outputs of layers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backend, checkpoint, kernels, models, nn, ops
from .checkpoint import CheckpointError
from .data import Data, DataError, located, open_located, resolved, with_margin
from .folding import folded
from .kernels import Array
from .models import Model, Own
from .replay import Replay
from .short_weights import WeightsDtype, check_weights_dtype, shorten
from .tensor import Tensor, no_grad

__all__ = ["Trained"]

Crops = NDArray[np.int32]
Floats = NDArray[np.float32]
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Trained:
    """A network as its training left it, and the images as it knows them.

    Images are uint8 of the size they were stored in for the training, ``mean.shape`` (RH, RW, 3); the network sees
    crops (top, left, mirrored) of them. ``batch`` images at a time are on the device, by one thread at a time. With a
    ``weights_dtype`` other than "fp32" the network is a folded one (``folding``) with its weights stored short
    (``short_weights``), for classes and their probabilities alone, and computes in float32 whatever it was trained in.
    """

    path: Path
    config: Mapping[str, Any]
    """The run's configuration; of a converted network only model, options, seed, data (None) and scale, which may also
    be one factor for each of RGB."""
    classes: tuple[str, ...]
    mean: Floats
    model: Model
    network: nn.Module
    device: backend.Device
    batch: int
    weights_dtype: WeightsDtype = "fp32"

    @classmethod
    def load(
        cls, path: str | Path, device: str | backend.Device, batch: int = 128, weights_dtype: WeightsDtype = "fp32"
    ) -> Trained:
        """The network of a checkpoint file, or of a run folder's best (``checkpoint.chosen``), on the device ("cpu",
        "cuda:1"). CheckpointError for a file that is none, or does not say which network it holds; ValueError for
        weights that do not fit that network, or cannot be stored as ``weights_dtype`` says ("fp32", "bf16", "int8")."""
        path = checkpoint.chosen(path)
        return cls.of(checkpoint.load(path), path, device, batch, weights_dtype)

    @classmethod
    def of(
        cls,
        saved: checkpoint.Checkpoint,
        path: str | Path,
        device: str | backend.Device,
        batch: int = 128,
        weights_dtype: WeightsDtype = "fp32",
    ) -> Trained:
        """The network of a checkpoint that came from ``path``; CheckpointError and others as of ``load``."""
        try:
            config, classes = saved.description["config"], tuple(saved.description["classes"])
            files = config.get("convnet", {}), config.get("code", {})
            model = models.described(config["model"], config["options"], *files)
            seed, scale = int(config["seed"]), config["scale"]
            _, _, _ = map(float, scale if isinstance(scale, list) else [scale] * 3)
        except (KeyError, TypeError) as e:
            raise CheckpointError(f"{path}: its description lacks what tells the network: {e}") from e
        model, device = model.with_classes(len(classes)), backend.device(device)
        with nullcontext() if isinstance(model, Own) else nn.undrawn():  # a user's function may draw more than weights
            network = model.build(device, seed)
        network.load_state(saved.weights)
        network.set_precision(config.get("precision", "fp32"))
        network.eval()
        if check_weights_dtype(weights_dtype) != "fp32":
            network.set_precision("fp32")
            network = folded(network) if type(network) is nn.Sequential else network
            shorten(network, weights_dtype)
        return cls(Path(path), config, classes, saved.mean, model, network, device, batch, weights_dtype)

    @property
    def centre(self) -> Crops:
        """The one crop (1, 3) in the middle of a stored image."""
        top, left = np.subtract(self.mean.shape[:2], self.model.input[:2]) // 2
        return np.array([(top, left, 0)], np.int32)

    @property
    def hidden(self) -> str:
        """The layer whose output describes an image (paper, section 6.1): the last before the classifier, and before
        dropout or normalisation in front of it."""
        *before, last = self.model.layers
        parts = f"{last.name}["  # of a classifier of several inputs
        layers = (layer for layer in reversed(before) if not layer.name.startswith(parts))
        return next((layer.name for layer in layers if layer.kind not in ("BatchNorm", "Dropout")), last.name)

    def trained_on(self, source: str | None) -> bool:
        """Whether ``source``, as for ``--data``, names the data of the training, as None does."""
        kept: str | None = self.config["data"]
        return source is None or (kept is not None and located(source) == resolved(kept))

    def data(self, source: str | None = None, threads: int | None = None, divide: bool | None = None) -> Data:
        """The data that ``source``, as for ``--data``, names (default: those of the training), stored in the size that
        the network was trained with. With ``divide`` (default: where they are those of the training) a fifth of class
        folders that are not in parts is to test on, else all. DataError when they cannot be had in that size, or have
        other classes."""
        kept, teller = (located(source), None) if source is not None else (self.config["data"], self.path)
        if kept is None:
            raise DataError(f"{self.path} was not trained here: expected --data, which names the images")
        stored, seen = self.mean.shape[:2], self.model.input[:2]
        margin = stored == tuple(map(with_margin, seen))  # as in a training with crops; other sizes are a converter's
        height, width = seen if margin else stored
        divide = self.trained_on(source) if divide is None else divide
        data = open_located(kept, teller, height, width, threads, margin, divide)
        if tuple(data.classes) != self.classes:
            raise DataError(f"{kept} and {self.path} differ in classes: {_difference(data.classes, self.classes)}")
        if data.test.size != stored:
            raise DataError(f"{kept} holds images of {_by(data.test.size)} pixels, {self.path} knows {_by(stored)}")
        return data

    def probabilities(self, images: Images, crops: Crops | None = None) -> Floats:
        """Softmax probabilities (N, classes) of images (N, RH, RW, 3), their mean over the ``crops`` (V, 3) of each, by
        default the centre alone; the ten views of the paper, section 4.1, are ``data.ten_views``. On a GPU a number of
        images and views that comes again is replayed as one CUDA graph."""
        crops = self.centre if crops is None else crops
        with no_grad(), backend.capture_streams([self.device]):
            return np.concatenate(list(self._classifier(images, crops)))

    def logits(self, images: Images) -> Floats:
        """The numbers (N, classes) whose softmax ``probabilities`` are, for the centres of images (N, RH, RW, 3)."""
        with no_grad(), backend.capture_streams([self.device]):
            return np.concatenate(list(self._classifier.logits(images, self.centre)))

    def activations(self, images: Images, layers: Collection[str]) -> dict[str, Floats]:
        """The outputs (N, ...) of the layers of these names, for the centres of images (N, RH, RW, 3). ValueError for
        a name that the network does not have."""
        names = [layer.name for layer in self.model.layers]
        for name in layers:
            if name not in names:
                raise ValueError(f"layer {name!r}: expected one of {', '.join(names)}")
        last = names[max(map(names.index, layers))]
        outputs: dict[str, list[Floats]] = {name: [] for name in names if name in layers}

        def seen(name: str, y: Tensor) -> None:
            if name in outputs:
                outputs[name].append(ops.cast(y, np.float32).numpy())
            if name == last:
                raise _Enough

        with no_grad():
            for first in range(0, len(images), self.batch):
                with suppress(_Enough):
                    self.watched(images[first : first + self.batch], seen)
        return {name: np.concatenate(parts) for name, parts in outputs.items()}

    def watched(self, images: Images, seen: Callable[[str, Tensor], None]) -> Tensor:
        """The logits for the centres of images (N, RH, RW, 3), all of which are on the device at a time. ``seen`` hears
        of each layer's name and output; a gradient can be asked of it before the next one is computed. ValueError for
        weights stored short, whose network has other layers."""
        if self.weights_dtype != "fp32":
            raise ValueError(f"outputs of layers: expected weights_dtype 'fp32', got {self.weights_dtype!r}")
        crops = np.repeat(self.centre, len(images), axis=0)
        view = self._view(*(backend.from_host(a, self.device) for a in (images, crops)))
        with nn.watching(self.network, lambda name, module, inputs, y: seen(name, y)):
            return self.network(view)

    def features(self, images: Images) -> Floats:
        """The output of the layer ``hidden`` for images (N, RH, RW, 3), as (N, F)."""
        return self.activations(images, [self.hidden])[self.hidden].reshape(len(images), -1)

    @cached_property
    def _classifier(self) -> _Classifier:
        return _Classifier(self)

    @cached_property
    def _mean(self) -> Array:
        return backend.from_host(self.mean, self.device)

    def _batches(self, images: Images, crops: Crops) -> Iterator[tuple[Images, Crops]]:
        """As many images as are on the device at a time, and for each of the ``crops`` as many copies (V N, 3)."""
        for first in range(0, len(images), self.batch):
            some = images[first : first + self.batch]
            yield some, np.repeat(crops, len(some), axis=0)

    def _view(self, x: Array, crops: Array) -> Tensor:
        """Crops (N, 3) of images (N, RH, RW, 3) as the network sees them; all is on the device."""
        size, scale = self.model.input[:2], self.config["scale"]
        dtype = kernels.storage(self.config.get("precision", "fp32") if self.weights_dtype == "fp32" else "fp32")
        return Tensor(kernels.augment(x, size, self._mean, crops, scale=scale, dtype=dtype), device=self.device)


class _Enough(Exception):
    """What follows need not be computed."""


class _Classifier:
    """Probabilities by the folded network, which is made anew when other weights were loaded into the trained one. On a
    GPU a batch of a size that comes again is a recording."""

    KEPT = 4
    """Recordings, each with memory of its own: of several sizes, and of the last batches, which are smaller."""

    def __init__(self, trained: Trained) -> None:
        network, where = trained.network, trained.device
        self.trained, self.network = trained, network
        self._tensors = [*network.parameters(), *(buffer for _, buffer in network.named_buffers())]
        self._weights: list[Array] = []  # that the network was folded with
        self._prefetcher = None if where.kind == "cpu" else backend.Prefetcher([where])
        self._replay = Replay([where], what="inference", kept=self.KEPT)

    def __call__(self, images: Images, crops: Crops) -> Iterator[Floats]:
        """Means over the views, one batch after the other."""
        self._look_at_weights()
        for x, places in self._on_device(self.trained._batches(images, crops)):
            constants = len(x), len(crops), backend.address(x), backend.address(places)
            yield backend.to_host(self._replay(constants, partial(self._mean, x, places, len(crops))))

    def logits(self, images: Images, crop: Crops) -> Iterator[Floats]:
        """Of one crop of each image, one batch after the other."""
        self._look_at_weights()
        for x, places in self._on_device(self.trained._batches(images, crop)):
            yield backend.to_host(self._logits(x, places))

    def _look_at_weights(self) -> None:
        weights = [t.data for t in self._tensors]
        if not self._weights or any(map(operator.is_not, weights, self._weights)):
            network, self._weights = self.trained.network, weights
            self.network = folded(network) if type(network) is nn.Sequential else network
            self._replay.forget()

    def _on_device(self, batches: Iterator[tuple[Images, Crops]]) -> Iterator[Sequence[Array]]:
        if self._prefetcher is None:
            return (tuple(map(np.ascontiguousarray, batch)) for batch in batches)
        return (arrays[self.trained.device] for arrays in self._prefetcher.through(batches))

    def _mean(self, x: Array, crops: Array, views: int) -> Array:
        parts = [self._probabilities(x, crops[i * len(x) : (i + 1) * len(x)]) for i in range(views)]
        return parts[0] if views == 1 else sum(parts) / views

    def _probabilities(self, x: Array, crops: Array) -> Array:
        return kernels.softmax(self._logits(x, crops))

    def _logits(self, x: Array, crops: Array) -> Array:
        return ops.cast(self.network(self.trained._view(x, crops)), np.float32).data


def _by(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _difference(got: Collection[str], expected: Collection[str]) -> str:
    """In what two lists of classes differ, in a few words."""
    if len(got) != len(expected):
        return f"{len(got)} and {len(expected)}"
    pairs = enumerate(zip(got, expected, strict=True))
    number, (some, other) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    return f"class {number} is {some!r} and {other!r}"
