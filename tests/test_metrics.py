"""Top-k accuracy against sorting, the metrics file, the curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from alexnet_cuda import charts
from alexnet_cuda.metrics import MetricsLog, confusion_matrix, draw_curves, mean, read_metrics, scores, top_k


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


def test_curves_are_the_numbers_of_the_records() -> None:
    records = [{"kind": "step", "epoch": 0.5, "loss": 2.0, "lr": 0.1}, epoch(1, 1.5), epoch(2, None)]
    figure = charts.figure(4, 3)
    for what, expected in (
        ("loss", [([0.5], [2]), ([1, 2], [1.5, math.nan]), ([1, 2], [1.5, math.nan])]),
        ("accuracy", [([1, 2], [50, 50]), ([1, 2], [25, 25])]),
        ("lr", [([0.5], [0.1])]),
    ):
        axes = figure.add_subplot()
        charts.draw(axes, what, charts.of_run(records, what))
        drawn = [line.get_data() for line in axes.get_lines()]
        assert len(drawn) == len(expected)
        for line, (x, y) in zip(drawn, expected, strict=True):
            assert_array_equal(line[0], x)
            assert_allclose(line[1], y)
        legend = axes.get_legend()
        labels = [text.get_text() for text in legend.get_texts()] if legend else []
        assert labels == ([] if what == "lr" else ["training", "test"])


@given(st.integers(1, 6), st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_scores_are_those_of_a_naive_count(C: int, N: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, answers = rng.integers(0, C, N).astype(np.int32), rng.integers(0, C, N)
    matrix = confusion_matrix(labels, answers, C)
    pairs = list(zip(labels.tolist(), answers.tolist(), strict=True))
    assert matrix.tolist() == [[pairs.count((i, j)) for j in range(C)] for i in range(C)]
    for label, score in enumerate(scores(matrix)):
        of_class = [answer == label for own, answer in pairs if own == label]
        so_answered = [own == label for own, answer in pairs if answer == label]
        assert (score.images, score.answered) == (len(of_class), len(so_answered))
        assert score.recall == (sum(of_class) / len(of_class) if of_class else None)
        assert score.precision == (sum(so_answered) / len(so_answered) if so_answered else None)
        if score.precision and score.recall:
            harmonic = 2 / (1 / score.precision + 1 / score.recall)
            assert score.f1 == pytest.approx(harmonic, rel=1e-12)
        else:
            assert score.f1 == (0 if of_class or so_answered else None)


def test_a_mean_is_of_the_values_that_there_are() -> None:
    assert mean([0.5, None, 0.25]) == 0.375
    assert mean([None]) is None and mean([]) is None
