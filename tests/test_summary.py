"""The summary command: figures, JSON, refusals."""

import json
import subprocess
import sys

import pytest

from alexnet_cuda import command_line, models, summary


def run(*arguments: str) -> int:
    return command_line.run(summary.main, arguments)


def test_table_holds_the_papers_figures(capsys):
    assert run("--model", "alexnet", "--batch", "128") == 0
    text = capsys.readouterr().out
    conv2 = next(line for line in text.splitlines() if line.startswith("conv2")).split()
    assert conv2 == [
        "conv2", "5x5/1", "p2", "g2", "256x5x5x48", "27x27x256", "relu", "307,200", "256", "307,456", "342,400",
        "186,624", "223,948,800", f"{128 * 27 * 27 * 256 * 4:,}",
    ]  # fmt: skip
    for total in ("60,965,224 parameters", "0 frozen", "659,272 neurons", "724,406,816 MACs"):
        assert total in text


def test_json_matches_the_model(capsys):
    assert run("--model", "alexnet-owt", "--classes", "10", "--json") == 0
    d = json.loads(capsys.readouterr().out)
    assert d["parameters"] == models.get("alexnet-owt").with_classes(10).parameters == d["layers"][-1]["running_total"]
    assert d["layers"][-1]["output"] == [10] and d["trainable"] + d["frozen"] == d["parameters"]


def test_without_a_name_all_models_are_listed(capsys):
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == models.names()
    assert run("--json") == 0
    assert [m["model"] for m in json.loads(capsys.readouterr().out)] == models.names()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "alexnet-singel"], "did you mean alexnet-single"),
        (["--classes", "0", "--model", "alexnet"], "above 0"),
        (["--modle", "alexnet"], "--model"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, message, capsys):
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1


def test_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_cuda.summary", "--model", "nope"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "unknown model 'nope'" in done.stderr and "Traceback" not in done.stderr
