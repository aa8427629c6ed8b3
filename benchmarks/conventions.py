"""What libraries make of the same small questions, and how to get their answers from us: docs/conventions.md.

    python benchmarks/conventions.py [COLUMN ...]            # default: all that this Python has, extra `peers`
    python benchmarks/conventions.py mxnet --python PYTHON   # one that needs another Python

Each library runs in a process of its own (`columns`). What a run finds replaces that library's column in
results/conventions.json; the page is written from there. A library that is missing keeps the column that it had.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import timing
from columns.read import SOURCES
from columns.rows import ROWS, Row

HERE = Path(__file__).parent
RESULT = HERE / "results" / "conventions.json"
CONSUMERS = HERE / "results" / "consumers.json"
PAGE = HERE.parent / "docs" / "conventions.md"
OURS = "alexnet_cuda"
COLUMNS: dict[str, dict[str, str]] = {  # in the order of the page, with their processes' environments
    "alexnet_cuda": {"PYTHONPATH": str(HERE.parent / "src")},
    "pytorch": {},
    "onnxruntime": {},
    "onnx_reference": {},
    "openvino": {},
    "ncnn": {},
    "opencv": {},
    "tensorflow": {},
    "keras-torch": {"KERAS_BACKEND": "torch"},
    "keras-jax": {"KERAS_BACKEND": "jax"},
    "keras-tensorflow": {"KERAS_BACKEND": "tensorflow"},
    "jax": {},
    "chainer": {},
    "mxnet": {},
    "tinygrad": {},
}
CONSUMED = {
    "onnxruntime": "onnxruntime",
    "openvino": "OpenVINO",
    "opencv": "OpenCV dnn",
    "tinygrad": "tinygrad",
    "pnnx": "ncnn through pnnx",
    "onnx_reference": "onnx's reference",
}
CLOSE = 1e-5
WIDTH = 98


def run(column: str, python: str = sys.executable) -> dict[str, Any]:
    """The column as its library answers now. RuntimeError: how its process ended, if it did not answer."""
    module = f"of_{column.partition('-')[0]}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "column.json")
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_HOME": folder} | COLUMNS[column]
        command = [python, "-m", "columns", module, str(file)]
        done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            raise RuntimeError(f"{column}: its process ended with status {done.returncode}: {last}")
        answers: dict[str, Any] = json.loads(file.read_text())
    return answers | {"date": datetime.now(UTC).date().isoformat()}


def listed(libraries: Sequence[str]) -> str:
    """Names, Keras's three backends as one where they agree."""
    names = list(libraries)
    backends = [name for name in names if name.startswith("Keras on ")]
    if len(backends) == 3:
        names[names.index(backends[0])] = "Keras"
        names = [name for name in names if name not in backends]
    return ", ".join(f"**{name}**" if name == OURS else name for name in names)


def item(text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def section(row: Row, cells: Mapping[str, str], ways: Mapping[str, str]) -> str:
    """The answers to a question, ours first, then the most frequent, each with the expression that gives it here."""
    groups: dict[str, list[str]] = {}
    for library, answer in cells.items():
        groups.setdefault(answer, []).append(library)
    order = sorted(groups, key=lambda answer: (OURS not in groups[answer], -len(groups[answer])))
    lines = [textwrap.fill(f"**{row.question}** Shown: {row.shown}.", WIDTH, break_on_hyphens=False), ""]
    for answer in order:
        lines.append(item(f"`{answer}`: {listed(groups[answer])}"))
        if answer in ways:
            lines.append(f"  Here: `{ways[answer]}`")
    return "\n".join(lines)


def told(errors: Mapping[str, float | str], bound: float) -> str:
    """The largest error of networks within the bound, and which are not."""
    close = [error for error in errors.values() if not isinstance(error, str) and error <= bound]
    others: dict[str, list[str]] = {}
    for name, error in errors.items():
        if isinstance(error, str) or error > bound:
            others.setdefault(error if isinstance(error, str) else "above", []).append(name)
    parts = [f"{len(close)} of {len(errors)} within {max(close):.1e}"] if close else []
    for words, names in others.items():
        largest = max((errors[name] for name in names if words == "above"), default=0)
        parts.append(f"{f'off by up to {largest:.1e}' if words == 'above' else words}: {', '.join(names)}")
    return "; ".join(parts)


def consumers(record: Mapping[str, Any]) -> list[str]:
    """The section on our ONNX files."""
    parts = [
        "## Our ONNX files",
        textwrap.fill(
            "Every model, as `python -m alexnet_cuda.convert` writes it, in its consumers, batches of 1 and 3, random "
            "weights and pixels, those for 224 pixels with a sixteenth of their channels: the largest difference to "
            "our logits, as a share of the largest. Generated by `benchmarks/consumers.py`.",
            WIDTH,
        ),
        "```sh\npython benchmarks/consumers.py\n```",
    ]
    items = []
    for name, consumer in record["consumers"].items():
        for form, result in consumer["forms"].items():
            option = {"": "", "--for": f", `--for {consumer['for']}`"}.get(form, f", `{form}`")
            bound = math.inf if form in ("--float16", "--int8") else CLOSE
            items.append(item(f"{CONSUMED[name]} {result['version']}{option}: {told(result['errors'], bound)}"))
    parts.append("\n".join(items))
    whole, half, int8 = (record["bytes"][form] for form in ("", "--float16", "--int8"))
    parts.append(
        textwrap.fill(
            f"With `--float16` all files together, mean images included, take {half:,} bytes in place of {whole:,}, "
            f"with `--int8` {int8:,}. "
            "What ncnn and the reference get wrong, a graph of one operator shows: the reference's LRN above, of a "
            "batch of one; pnnx leaves an AveragePool with pads (0, 0, 1, 1), kernel 3 and stride 2 as a layer that "
            "ncnn does not have. pnnx stores weights as float16 unless it is told `fp16=0`, as here.",
            WIDTH,
        )
    )
    return parts


def page(record: Mapping[str, Any], consumed: Mapping[str, Any]) -> str:
    columns, ways = record["columns"], record["columns"][OURS]["ways"]
    cells = {name: column["cells"] for name, column in columns.items()}
    read = {source.library: source for source in SOURCES}
    order = [OURS, *read, *(name for name in COLUMNS if name != OURS)]
    cells |= {name: {key: cell["answer"] for key, cell in source.cells.items()} for name, source in read.items()}
    names = {name: f"{name}†" if name in read else columns[name]["library"] for name in order if name in cells}
    parts = [
        "# Conventions",
        textwrap.fill(
            "What whoever moves a network between libraries has to know: the same small questions, put to each. "
            "Generated by `benchmarks/conventions.py` from runs of the libraries below; what is marked † was read, not "
            "run. Libraries that are not named under a question have nothing for it. Below an answer stands what gives "
            "it here: expressions over `alexnet_cuda.kernels` and the small functions in "
            "`benchmarks/columns/of_alexnet_cuda.py`, evaluated by the same run. `refuses` is an error of the "
            "library's own, `-` something that it has no option for.",
            WIDTH,
        ),
        "```sh\npython benchmarks/conventions.py   # needs pip install '.[peers]', minutes\n"
        "python benchmarks/conventions.py mxnet --python PYTHON   # one of 3.8 with mxnet 1.9.1 and numpy 1.23\n```",
    ]
    for topic in dict.fromkeys(row.topic for row in ROWS):
        parts.append(f"## {topic}")
        for row in ROWS:
            if row.topic == topic:
                answers = {names[name]: cells[name][row.key] for name in names if row.key in cells[name]}
                parts.append(section(row, answers, ways.get(row.key, {})))
    parts += consumers(consumed)
    ran = [
        {"library": column["library"], "version": column["version"], "date": column["date"]}
        for name, column in ((name, columns[name]) for name in names if name in columns)
    ]
    parts += ["## What was run", timing.table(ran, {"library": "library", "version": "version", "date": "date"})]
    parts.append("## What was read")
    questions = {row.key: row for row in ROWS}
    for source in SOURCES:
        places: dict[str, list[str]] = {}
        for key, cell in source.cells.items():
            places.setdefault(cell["place"], []).append(questions[key].topic)
        named = "; ".join(f"{place} ({', '.join(dict.fromkeys(topics))})" for place, topics in places.items())
        parts.append(item(f"{source.library}, {source.read}: {named}"))
    return "\n\n".join(parts) + "\n"


def main(options: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("columns", nargs="*", metavar="COLUMN", help=f"default: all of {', '.join(COLUMNS)}")
    parser.add_argument("--python", default=sys.executable, help="the Python that has them; default: this one")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page anew")
    arguments = parser.parse_args(options)
    if unknown := set(arguments.columns) - set(COLUMNS):
        parser.error(f"expected {', '.join(COLUMNS)}, got {', '.join(sorted(unknown))}")
    record: dict[str, Any] = json.loads(RESULT.read_text())
    failed = 0
    for name in [] if arguments.page else arguments.columns or COLUMNS:
        try:
            record["columns"][name] = run(name, arguments.python)
            print(f"{name}: {len(record['columns'][name]['cells'])} answers", flush=True)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            failed += 1
    RESULT.write_text(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    PAGE.write_text(page(record, json.loads(CONSUMERS.read_text())), encoding="utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
