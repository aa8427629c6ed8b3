"""``python -m columns.consume NAME FOLDER FILE``: how far columns/NAME.py is from our logits of FOLDER's networks.

A network is a file NAME.onnx, beside it NAME.npz with pixels x and logits y. FILE gets a line of JSON for each, once it
begins and once it is done: its name; and the largest error of a batch of one and of all, as a share of the largest
logit, or words. Networks that FILE names are left out.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx

from columns.rows import attempt


def error(consumer: ModuleType, model: Any, x: np.ndarray, expected: np.ndarray) -> float | str:
    """As a share of the largest logit; words where there is none."""
    y = np.asarray(consumer.run(model, {"pixels": x})[0])
    if y.shape != expected.shape:
        return "another shape"
    largest = float(abs(y - expected).max() / abs(expected).max())
    return largest if math.isfinite(largest) else "NaN"


def main() -> None:
    consumer, folder, file = importlib.import_module("columns." + sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    known = {json.loads(line)["name"] for line in file.read_text().splitlines()}
    for path in sorted(folder.glob("*.onnx")):
        if path.stem in known:
            continue
        with file.open("a") as out:
            print(json.dumps({"name": path.stem, "version": consumer.version()}), file=out)
        model, arrays = onnx.load(path), np.load(path.with_suffix(".npz"))
        batches = [(arrays["x"][:batch], arrays["y"][:batch]) for batch in (1, len(arrays["x"]))]
        errors = [attempt(partial(error, consumer, model, x, y)) for x, y in batches]
        words = [e for e in errors if isinstance(e, str)]
        with file.open("a") as out:
            print(json.dumps({"name": path.stem, "error": words[0] if words else max(errors)}), file=out)


main()
