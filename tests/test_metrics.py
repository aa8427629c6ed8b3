"""Top-k accuracy against sorting, the metrics file, the curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.testing import assert_array_equal
from PIL import Image

from alexnet_cuda.metrics import MetricsLog, draw_curves, read_metrics, top_k


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_top_k_is_what_sorting_says(N: int, C: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (N, C)).astype(np.float32)  # with ties
    labels = rng.integers(0, C, N)
    first = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert_array_equal(top_k(scores, labels, k), [label in row for label, row in zip(labels, first, strict=True)])


def test_top_1_is_argmax_even_when_all_scores_are_equal() -> None:
    assert_array_equal(top_k(np.zeros((3, 4), np.float32), np.array([0, 1, 3]), 1), [True, False, False])


def test_nan_is_never_right() -> None:
    scores = np.array([[math.nan, 1, 2], [1, math.nan, 2], [math.nan] * 3], np.float32)
    assert_array_equal(top_k(scores, np.array([0, 2, 0]), 1), [False, False, False])
    assert_array_equal(top_k(scores, np.array([2, 2, 0]), 2), [True, True, False])


def test_metrics_are_lines_of_json_that_can_be_read_while_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write({"kind": "step", "step": 10, "loss": 2.5})
    log.write({"kind": "step", "step": 20, "loss": math.inf})
    assert read_metrics(path) == [
        {"kind": "step", "step": 10, "loss": 2.5},
        {"kind": "step", "step": 20, "loss": None},
    ]
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20]


def test_metrics_go_on_from_given_records(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    kept = [record for record in read_metrics(path) if record["step"] < 2]
    log = MetricsLog(path, kept)
    log.write({"step": 3})
    log.close()
    assert read_metrics(path) == [{"step": 1}, {"step": 3}]
    assert list(tmp_path.iterdir()) == [path]


def epoch(number: int, loss: float | None) -> dict[str, Any]:
    accuracies = {"train_accuracy": 0.5, "test_accuracy": 0.25}
    return {"kind": "epoch", "epoch": number, "train_loss": loss, "test_loss": loss, **accuracies}


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"kind": "step", "epoch": 0.5, "loss": 2.0}],
        [{"kind": "step", "epoch": 0.5, "loss": None}, epoch(1, 1.5), epoch(2, None)],
    ],
)
def test_curves_are_a_png_for_any_run(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    path = tmp_path / "curve.png"
    draw_curves(path, records, "a model on data")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > image.height > 300
    assert list(tmp_path.iterdir()) == [path]
