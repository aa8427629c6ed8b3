"""Who gives our logits: every model, exported to ONNX, in its consumers, batches of 1 and 3.

    python benchmarks/consumers.py            # extra `peers`; writes results/consumers.json and docs/conventions.md

Models for images of 224 pixels have a sixteenth of their channels. Weights, means and pixels are random. A consumer
runs in a process of its own; what ends the process costs that network alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import conventions
import numpy as np

from alexnet_cuda import backend, models
from alexnet_cuda.inference import Trained
from alexnet_cuda.models.layers import Conv2d, Linear
from alexnet_cuda.weights.onnx_graph import Export, save

HERE = Path(__file__).parent
CONSUMERS = {  # with what `convert --for` calls them
    "onnxruntime": None,
    "openvino": None,
    "opencv": None,
    "tinygrad": None,
    "pnnx": "ncnn",
    "onnx_reference": "onnx-reference",
}
FORMS = {"": Export(), "--for": Export(plain=True), "--float16": Export(half=True), "--int8": Export(int8=True)}
ROUNDED = ("--float16", "--int8")
"""Those whose answers differ as the weights do, which one consumer shows."""


def network(name: str) -> Trained:
    """A model with random weights, its logits of the order of one and more."""
    model, rng = models.get(name), np.random.default_rng(3)
    if model.input[0] > 200:
        layers = [replace(c, channels=c.channels // 16) if isinstance(c, Conv2d) else c for c in model.layers]
        layers = [replace(f, features=20) if isinstance(f, Linear) else f for f in layers]
        model = replace(model, layers=tuple(layers)).with_classes(100)
    net = model.build("cpu", seed=1)
    weights = net.state()
    for array, w in weights.items():
        w[...] = rng.standard_normal(w.shape, np.float32)
        if array.endswith(("variance", "gamma")):
            w[...] = 0.5 + abs(w)
        else:
            w *= np.sqrt(2 / np.prod(w.shape[-1:] if w.ndim == 2 else w.shape[-3:])) if w.ndim > 1 else 0.1
    net.load_state(weights)
    net.eval()
    mean = rng.uniform(90, 130, model.input).astype(np.float32)
    config: dict[str, Any] = {"scale": [0.02, 0.018, 0.019], "data": None}
    classes = tuple(map(str, range(model.classes)))
    return Trained(Path(name), config, classes, mean, model, net, backend.device("cpu"), batch=8)


def export(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """Writes every network in every form, FORM/NAME.onnx, and beside it pixels and our logits. Returns bytes."""
    sizes = dict.fromkeys(FORMS, 0)
    for name in names:
        trained = network(name)
        pixels = np.random.default_rng(1).integers(0, 256, (3, *trained.model.input), np.uint8)
        last = trained.model.layers[-1].name
        y = trained.activations(pixels, [last])[last]
        for form, options in FORMS.items():
            path = folder / (form or "as it is") / f"{name}.onnx"
            path.parent.mkdir(exist_ok=True)
            save(path, trained, options)
            sizes[form] += path.stat().st_size
            np.savez(path.with_suffix(".npz"), x=pixels.astype(np.float32), y=y)
    return sizes


def consume(consumer: str, folder: Path) -> dict[str, Any]:
    """The consumer's version, and by network how far it is from our logits, or words."""
    file = folder / f"{consumer}.jsonl"
    file.write_text("")
    while True:
        done = subprocess.run(
            [sys.executable, "-m", "columns.consume", f"of_{consumer}", str(folder), str(file)],
            cwd=HERE, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": ""},
        )  # fmt: skip
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        if not lines:
            raise RuntimeError(f"{consumer}: {done.stderr.strip().rpartition(chr(10))[2]}")
        if done.returncode == 0:
            break
        with file.open("a") as out:
            print(json.dumps({"name": lines[-1]["name"], "error": "ends its process"}), file=out)
    errors = {line["name"]: line["error"] for line in lines if "error" in line}
    return {"version": lines[0]["version"], "date": datetime.now(UTC).date().isoformat(), "errors": errors}


def main(options: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--consumer", nargs="+", choices=CONSUMERS, default=list(CONSUMERS), help="default: all")
    parser.add_argument("--model", nargs="+", choices=models.names(), default=list(models.names()), help="default: all")
    arguments = parser.parse_args(options)
    record: dict[str, Any] = {"benchmark": "consumers", "consumers": {}}
    if conventions.CONSUMERS.exists():
        record = json.loads(conventions.CONSUMERS.read_text())
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        record["bytes"] = export(Path(temporary), arguments.model)
        for consumer in arguments.consumer:
            rounded = ROUNDED if consumer == "onnxruntime" else ()
            forms = ["", *["--for"] * (CONSUMERS[consumer] is not None), *rounded]
            try:
                results = {form: consume(consumer, Path(temporary, form or "as it is")) for form in forms}
            except RuntimeError as error:
                print(error, file=sys.stderr)
                failed += 1
                continue
            record["consumers"][consumer] = {"for": CONSUMERS[consumer], "forms": results}
            for form, result in results.items():
                bound = math.inf if form in ROUNDED else conventions.CLOSE
                print(f"{consumer} {form}: {conventions.told(result['errors'], bound)}", flush=True)
    conventions.CONSUMERS.write_text(json.dumps(record, indent=1) + "\n")
    conventions.main(["--page"])
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
