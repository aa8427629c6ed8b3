"""Both sides of a comparison: a training step or an inference of a model, ours and the peers', in all their forms."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import layers
import numpy as np
from timing import Row

from alexnet_cuda import Tensor, backend, kernels, models, nn, no_grad, ops, optim
from alexnet_cuda.folding import folded
from alexnet_cuda.models import layers as described

OURS = "alexnet_cuda"
LR = 0.001  # small, so that steps on one random batch, over and over, stay finite


@dataclass(frozen=True)
class Case:
    """What is measured: ``which`` is training or inference; ``size`` in pixels, where it is not the model's own."""

    model: str
    which: str
    precision: str
    batch: int
    device: str
    size: int | None = None

    @property
    def description(self) -> models.Model:
        model = models.get(self.model)
        return model if self.size is None else replace(model, input=(self.size, self.size, model.input[2]))

    @property
    def training(self) -> bool:
        return self.which == "training"

    @property
    def row(self) -> Row:
        return {"model": self.model, "pass": self.which, "precision": self.precision, "batch": self.batch}

    def __str__(self) -> str:
        return f"{self.model}, {self.which}, {self.precision}, batch {self.batch}"


def random_batch(case: Case) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(case.batch)
    description = case.description
    x = rng.standard_normal((case.batch, *description.input), dtype=np.float32)
    return x, rng.integers(description.classes, size=case.batch).astype(np.int32)


# ---- ours


class Step:
    """One training step of ours, or one inference; after a call `result` is its loss, or its logits."""

    def __init__(self, case: Case, fold: bool = True) -> None:
        self.where = backend.device(case.device)
        x, labels = random_batch(case)
        self.network = case.description.build(self.where)
        self.network.set_precision(case.precision)
        self.training = case.training
        if not case.training:
            self.network.eval()
        self.called = folded(self.network) if fold and not case.training else self.network
        images = kernels.cast(backend.from_host(x, self.where), kernels.storage(case.precision))
        self.x, self.labels = Tensor(images), Tensor(backend.from_host(labels, self.where))
        self.result = self.x
        if case.training:
            self.optimizer = optim.SGD(self.network.parameters(), LR, momentum=0.9, decay=5e-4)
            self.copies = optim.Copies(self.network)
            self.keys = backend.StaticInput((2,), np.uint64, self.where)
            self.network.draw_from({self.where: self.keys.array})

    def prepare(self) -> None:
        """The host's part: rates and random keys."""
        if self.training:
            self.keys.set((0, self.optimizer.updates))
            self.optimizer.advance()
            self.copies.refresh()

    def run(self) -> None:
        """The device's part."""
        if not self.training:
            with no_grad():
                self.result = self.logits()
            return
        self.optimizer.zero_grad()
        with self.copies:
            self.result = ops.softmax_cross_entropy(self.logits(), self.labels)
            self.result.backward()
            self.optimizer.apply()

    def logits(self) -> Tensor:
        return ops.cast(self.called(self.x), np.float32)

    def __call__(self) -> None:
        self.prepare()
        self.run()

    def without_dropout(self) -> None:
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0


def our_forms(device: str) -> list[str]:
    return [OURS] if device == "cpu" else [OURS, f"{OURS} graph"]


def captured(step: Step, warmup: int = 2) -> Callable[[], None]:
    """The step as one CUDA graph, on the stream that is current."""
    for _ in range(warmup):
        step()
    graph = backend.CudaGraph((step.where,), step.run)

    def replay() -> None:
        step.prepare()
        graph.launch()

    return replay


# ---- the peers'


class PeerStep(Protocol):
    def __call__(self) -> object: ...

    def value(self) -> np.ndarray:
        """The loss, or the logits, of the last call."""
        ...

    def without_dropout(self) -> None:
        """Of a training step, before its first call."""


def peer_layers(model: models.Model) -> list[layers.Layer]:
    """The model as the layers that a peer is built from. ValueError for a layer that peers are not built of."""
    found: list[layers.Layer] = []
    for row in model.rows():
        name, shape = row.layer.name, row.input
        match row.layer:
            case described.Conv2d() as conv:
                window = (conv.size, conv.stride, conv.padding, conv.groups, conv.ceil)
                found.append(layers.Conv(name, shape[0], shape[2], conv.channels, *window))
            case described.MaxPool2d() as pool:
                found.append(layers.Pool(name, shape[0], shape[2], pool.size, pool.stride, pool.ceil))
            case described.AvgPool2d() as pool:
                found.append(layers.AvgPool(name, shape[0], shape[2], pool.size, pool.stride, pool.ceil))
            case described.Lrn() as lrn:
                values = (lrn.size, lrn.k, lrn.alpha, lrn.beta, lrn.groups)
                found.append(layers.Lrn(name, shape[0], shape[2], *values))
            case described.Dropout() as dropout:
                found.append(layers.Dropout(name, dropout.p))
            case described.Linear() as linear:
                found.append(layers.Linear(name, shape[0], linear.features))
            case described.Flatten():
                pass
            case _:
                raise ValueError(f"model {model.name}: {name}: peers are not built with {type(row.layer).__name__}")
        if getattr(row.layer, "activation", None) == "relu":
            found.append(layers.Relu(f"relu_{name}", row.output[0], row.output[-1]))
    return found


def peer_forms(case: Case, peers: Collection[str], folder: Path) -> dict[str, Row]:
    """The forms of the peers' steps to choose the best of, as `peer_step` takes them. A file that runtimes read is
    written to the folder. On a GPU, and in other precisions than fp32, PyTorch is the only peer."""
    forms: dict[str, Row] = {}
    if "PyTorch" in peers:
        forms |= {name: {"peer": "PyTorch"} | form for name, form in pytorch_forms(case).items()}
    if case.device != "cpu" or case.precision != "fp32":
        return forms
    if case.training and "TensorFlow" in peers:
        forms["TensorFlow"] = {"peer": "TensorFlow"}
        forms["TensorFlow XLA"] = {"peer": "TensorFlow", "jit_compile": True}
    return forms if case.training else forms | runtime_forms(case, peers, folder)


def runtime_forms(case: Case, peers: Collection[str], folder: Path) -> dict[str, Row]:
    """Those of inference in runtimes, in fp32 on a CPU."""
    import runtimes

    named = [name for name in runtimes.RUNTIMES if name in peers]
    if not named or case.device != "cpu" or case.precision != "fp32":
        return {}
    file = folder / f"{case}.onnx"
    runtimes.export(file, case.description, Step(case, fold=False).network, case.batch)
    return {name: {"peer": name, "file": str(file)} for name in named}


def pytorch_forms(case: Case) -> dict[str, Row]:
    """Options of `pytorch_step`, and whether it becomes a `graph`."""
    fused = {"fused": True} if case.training else {}
    if case.device == "cpu":
        forms: dict[str, Row] = {"PyTorch": {}, "PyTorch channels_last": {"layout": "NHWC"}}
        if case.training:
            forms |= {
                "PyTorch fused SGD": fused,
                "PyTorch channels_last, fused SGD": {"layout": "NHWC"} | fused,
            }
        return forms
    nchw, nhwc = fused | {"graph": True}, fused | {"graph": True, "layout": "NHWC"}
    steelman = nhwc | {"steelman": True}
    return {
        "PyTorch": {},
        "PyTorch NCHW graph": nchw,
        "PyTorch NHWC graph": nhwc,
        "PyTorch NHWC graph, steelman": steelman,
        "PyTorch NCHW compiled graph": nchw | {"compile_mode": "default"},
        "PyTorch NHWC compiled graph, steelman": steelman | {"compile_mode": "default"},
        "PyTorch NHWC max-autotune graph, steelman": steelman | {"compile_mode": "max-autotune-no-cudagraphs"},
    }


def peer_step(case: Case, form: Row, state: Any = None) -> PeerStep:
    """A step of the peer that the form names, the form's other entries its options; `state` is ours to start from,
    which a runtime finds in its file. ModuleNotFoundError without the peer."""
    options = {key: value for key, value in form.items() if key not in ("peer", "graph")}
    if form["peer"] == "PyTorch":
        return pytorch_step(case, state, **options)
    x, labels = random_batch(case)
    if form["peer"] == "TensorFlow":
        import in_tensorflow

        return in_tensorflow.Step(peer_layers(case.description), state, x, labels, LR, **options)
    import runtimes

    return runtimes.RUNTIMES[form["peer"]](options["file"], x)


def pytorch_step(case: Case, state: Any = None, steelman: bool = False, **options: Any) -> Any:
    """The steelman's conv1 reads images of 4 channels."""
    import peer
    import torch

    torch.set_num_threads(backend.threads())
    description = case.description
    lrn, channels = (peer.lrn_shifted, 4) if steelman else (peer.lrn, None)
    network = peer.network(peer_layers(description), case.device, lrn, channels)
    if state is not None:
        rows = description.rows()
        flat = next(row.input for row in rows if isinstance(row.layer, described.Flatten))
        first = next(row.layer.name for row in rows if isinstance(row.layer, described.Linear))
        with torch.no_grad():
            for name, array in state.items():
                layer, _, which = name.rpartition(".")
                parameter = getattr(network, layer).weight if which == "w" else getattr(network, layer).bias
                if array.ndim == 4:
                    array = array.transpose(0, 3, 1, 2)
                elif layer == first and which == "w":
                    array = array.reshape(-1, *flat).transpose(0, 3, 1, 2).reshape(array.shape)
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(array)))
    if not case.training:
        scale_for_paper(network, description)
    x, labels = random_batch(case)
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).to(case.device)
    if steelman:
        images = torch.nn.functional.pad(images, (0, 0, 0, 0, 0, 4 - images.shape[1]))
    targets = torch.from_numpy(labels).long().to(case.device)
    return peer.Step(network, images, targets, precision=case.precision, train=case.training, lr=LR, **options)


def scale_for_paper(network: Any, description: models.Model) -> None:
    """Puts the factor 1 - p, by which the paper's dropout multiplies in evaluation, into the weights that follow."""
    import torch

    factor = 1.0
    with torch.no_grad():
        for layer in description.layers:
            if isinstance(layer, described.Dropout) and layer.form == "paper":
                factor *= 1 - layer.p
            elif isinstance(layer, described.Linear):
                getattr(network, layer.name).weight.mul_(factor)
                factor = 1.0


def floor_ms(case: Case, ceilings: Row) -> float | None:
    """The least time: for each operation the longer of its arithmetic, at the rate of a large product in this
    precision, and of moving every tensor once, at the rate of a large copy. LRN and the pool after it are one pass, the
    weight gradient and the update of a fully connected layer one operation; bias, ReLU and dropout cost nothing. None
    without such rates."""
    if not {"copy", case.precision} <= ceilings.keys():
        return None
    itemsize, seconds = 2 if case.precision == "bf16" else 4, 0.0
    model = case.description
    found = [layer for layer in peer_layers(model) if layer.passes and not isinstance(layer, layers.Relu)]
    if case.training:
        updated = sum(layer.elements(1)[1] for layer in found if isinstance(layer, layers.Linear))
        found += [layers.SoftmaxCrossEntropy("loss", model.classes), layers.Sgd("sgd", model.parameters - updated)]
    for before, layer, after in zip([None, *found], found, [*found[1:], None], strict=False):
        if isinstance(layer, layers.Lrn) and isinstance(after, layers.Pool):
            continue
        for which in layer.passes if case.training else ("forward",):
            one = layer
            if isinstance(before, layers.Lrn) and isinstance(layer, layers.Pool):
                one = layers.LrnPool(before, layer)
            elif isinstance(layer, layers.Linear) and which == "weight gradient":
                one = layers.LinearSgd(layer)
            arithmetic = layers.flop(layer, case.batch) / ceilings[case.precision]
            moved = layers.traffic(one, which, case.batch, itemsize) / ceilings["copy"]
            seconds += max(arithmetic, moved) / 1e12
    return 1e3 * seconds
