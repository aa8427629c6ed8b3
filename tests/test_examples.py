"""What the examples and the README show does what they say."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_digits_with_bare_kernels_learns(capsys):
    accuracy = runpy.run_path(str(ROOT / "examples/digits_with_bare_kernels.py"))["main"](epochs=6)
    assert accuracy > 0.93
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_two_towers_learn(capsys):
    accuracies = runpy.run_path(str(ROOT / "examples/two_towers.py"))["main"](epochs=3)
    assert min(accuracies) > 0.9
    assert all("from cpu to cpu:1" in line for line in capsys.readouterr().out.splitlines())
