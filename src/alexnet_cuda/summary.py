"""``python -m alexnet_cuda.summary``: a model layer by layer, with every count, or the memory that training it takes;
without a name, the list of models."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from . import backend, command_line, kernels, memory, models, parallel, recipe, terminal
from .models import Model
from .terminal import grid, paragraph

__all__ = ["main"]


def describe(model: Model, batch: int = 1, devices: Sequence[backend.Device] = ()) -> dict[str, Any]:
    """The model's layers and totals as plain data; activation bytes are float32 for ``batch`` images. With two devices
    also what each holds and what crosses between them. ValueError for a model that does not divide."""
    layers, total = [], 0
    for row in model.rows():
        total += row.parameters
        layers.append(
            {
                "layer": row.layer.name,
                "kind": row.layer.kind,
                "window": row.layer.window,
                "filter": list(row.filter) if row.filter else None,
                "output": list(row.output),
                "activation": getattr(row.layer, "activation", None),
                "weights": row.weights,
                "biases": row.biases,
                "frozen": row.frozen,
                "parameters": row.parameters,
                "running_total": total,
                "neurons": row.neurons,
                "macs": row.macs,
                "activation_bytes": 4 * batch * math.prod(row.output) if row.output else 0,
            }
        )
    frozen = sum(row.frozen for row in model.rows())
    return {
        "model": model.name,
        "source": model.source,
        "input": list(model.input),
        "classes": model.classes,
        "batch": batch,
        "layers": layers,
        "trainable": total - frozen,
        "frozen": frozen,
        "parameters": total,
        "neurons": sum(layer["neurons"] for layer in layers),
        "macs": sum(layer["macs"] for layer in layers),
        "activation_bytes": sum(layer["activation_bytes"] for layer in layers),
        **(_towers(model, batch, devices) if len(devices) > 1 and not model.places_itself else {}),
    }


def _towers(model: Model, batch: int, devices: Sequence[backend.Device]) -> dict[str, Any]:
    parallel.check(model, devices)
    held, crossings = parallel.parameters(model), parallel.crossings(model, batch)
    return {
        "devices": [{"device": str(d), "parameters": n} for d, n in zip(devices, held, strict=True)],
        "crossings": [
            {"layer": name, "to_first": first, "to_second": second} for name, (first, second) in crossings.items()
        ],
        "forward_crossing_bytes": sum(map(sum, crossings.values())),
        "crossing_bytes": 2 * sum(map(sum, crossings.values())),
    }


def _by(shape: Sequence[int] | None) -> str:
    return "x".join(map(str, shape)) if shape else ""


def _count(n: int) -> str:
    return f"{n:,}" if n else ""


LESS = ("biases", "weights", "running total", "neurons", "activation", "bytes", "filter", "window", "MACs", "output")
"""The columns that a narrow terminal is spared, in this order."""


def table(model: Model, batch: int = 1, devices: Sequence[backend.Device] = (), width: int | None = None) -> str:
    """The model as text: one line a layer, then the totals; arguments as of ``describe``, ``width`` as of ``grid``."""
    d = describe(model, batch, devices)
    rows = [
        [
            layer["layer"], layer["window"], _by(layer["filter"]), _by(layer["output"]), layer["activation"] or "",
            _count(layer["weights"]), _count(layer["biases"]), _count(layer["parameters"]),
            f"{layer['running_total']:,}", _count(layer["neurons"]), _count(layer["macs"]),
            f"{layer['activation_bytes']:,}",
        ]
        for layer in d["layers"]
    ]  # fmt: skip
    header = [
        "layer", "window", "filter", "output", "activation", "weights", "biases", "parameters", "running total",
        "neurons", "MACs", "bytes",
    ]  # fmt: skip
    return paragraph(
        "\n".join(
            [
                f"{d['model']}: {d['source']}",
                f"input {_by(d['input'])}, {command_line.count(d['classes'], 'class')}, batch {batch}",
                "",
                grid(header, rows, header[:5], width, LESS),
                "",
                f"{d['parameters']:,} parameters ({d['trainable']:,} trainable, {d['frozen']:,} frozen), "
                f"{d['neurons']:,} neurons, {d['macs']:,} MACs an image, "
                f"{d['activation_bytes']:,} bytes of activations",
                *(["", _towers_table(d, width)] if "devices" in d else []),
            ]
        ),
        width,
    )


def _towers_table(d: dict[str, Any], width: int | None) -> str:
    """What the two devices hold, and what crosses between them."""
    names = [entry["device"] for entry in d["devices"]]
    rows = [[c["layer"], f"{c['to_first']:,}", f"{c['to_second']:,}"] for c in d["crossings"]]
    header = ["at", f"bytes to {names[0]}", f"bytes to {names[1]}"]
    half, head = d["devices"][1]["parameters"], d["layers"][-1]
    return "\n".join(
        [
            f"two towers: {half:,} parameters each, on {' and '.join(names)}; "
            f"{head['layer']}'s {head['parameters']:,} are on the first",
            "",
            grid(header, rows, header[:1], width),
            "",
            f"{d['forward_crossing_bytes']:,} bytes cross forward, {d['crossing_bytes']:,} in a step",
        ]
    )


def footprint(model: Model, batch: int, devices: Sequence[backend.Device], precision: str = "fp32") -> dict[str, Any]:
    """Bytes that training by the model's recipe takes on each device, before anything is run, and the largest batch
    that they have room for. Errors as of ``memory.Planner``."""
    planner = memory.Planner(model, devices, replace(recipe.of(model), precision=precision))
    plans = [asdict(plan) | {"activations": plan.activations} for plan in planner.plan(batch)]
    found: dict[str, Any] = {"batch": batch, "devices": plans}
    if devices[0].kind == "cpu" or {replace(device, slot=0) for device in devices} <= set(backend.gpus()):
        found["largest_batch"] = planner.largest_batch(memory.room(devices))
    return found


def footprint_table(found: dict[str, Any], width: int | None = None) -> str:
    """``footprint`` as text, ``width`` as of ``grid``."""
    columns = "parameters", "gradients", "optimizer", "activations", "training", "inference"
    rows = [[d["device"], *(f"{d[column] / 2**20:,.1f}" for column in columns)] for d in found["devices"]]
    header = ["device", *columns]
    heading = f"MiB at batch {found['batch']}; training and inference are peaks, all in all"
    less = "inference", "optimizer", "gradients", "parameters", "activations"
    lines = [heading, "", grid(header, rows, header[:1], width, less)]
    if "largest_batch" in found:
        lines += ["", f"the largest batch to train that fits into the memory there is: {found['largest_batch']:,}"]
    return paragraph("\n".join(lines), width)


def catalogue() -> list[dict[str, Any]]:
    """Name, source, input, parameters of every model."""
    found = [models.get(name) for name in models.names()]
    return [{"model": m.name, "parameters": m.parameters, "input": list(m.input), "source": m.source} for m in found]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.Parser("summary", "A model layer by layer, with every count.")
    known = "name of a model, FILE.py:NAME, FILE.prototxt or FILE.onnx; without it, all are listed"
    parser.add_argument("--model", help=known)
    command_line.add_convnet(parser.add_argument)
    parser.add_argument("--classes", type=command_line.positive_int, help="outputs of the last layer")
    parser.add_argument("--batch", type=command_line.positive_int, default=1, help="images a step (default 1)")
    parser.add_argument("--device", help="two, as cpu:0,cpu:1: what each holds, and what crosses between them")
    parser.add_argument("--memory", action="store_true", help="the memory that training takes on --device instead")
    parser.add_argument("--precision", choices=kernels.PRECISIONS, default="fp32", help="of a training, for --memory")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    made = command_line.convnet(options)
    if options.memory and made is None and options.model is None:
        raise command_line.UsageError("--memory: of which --model?")
    if made and options.device:
        raise command_line.UsageError("--device: the convnet files say what is on which device")
    if options.model is None and made is None:
        listing = catalogue()
        if options.json:
            print(json.dumps(listing, indent=1))
        else:
            rows = [[m["model"], f"{m['parameters']:,}", _by(m["input"]), m["source"]] for m in listing]
            header = ["model", "parameters", "input", "source"]
            print(grid(header, rows, ["model", "source"], terminal.width(), ["input"]))
        return 0
    with command_line.checked_input():
        model = made or models.get(options.model)
        model = model if options.classes is None else model.with_classes(options.classes)
        if options.memory:
            places = backend.devices(options.device, present=False)
            try:
                found = footprint(model, options.batch, places, options.precision)
            except RuntimeError as e:
                raise command_line.Failure(str(e)) from e
            print(json.dumps(found, indent=1) if options.json else footprint_table(found, terminal.width()))
            return 0
        devices = command_line.devices(options.device) if options.device else ()
        described = model, options.batch, devices
        print(json.dumps(describe(*described), indent=1) if options.json else table(*described, terminal.width()))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(main))
