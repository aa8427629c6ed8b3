"""``python -m alexnet_cuda.train`` as a user meets it: results, run folders, resuming, interruption, errors."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from alexnet_cuda import (
    backend,
    checkpoint,
    command_line,
    convert,
    evaluate,
    features,
    kernels,
    memory,
    models,
    pack,
    predict,
    recipe,
    report,
    run_folder,
    train,
)
from alexnet_cuda.backend import arrays, build_info
from alexnet_cuda.metrics import read_metrics
from alexnet_cuda.trainer import Trainer

COMMAND = [sys.executable, "-m", "alexnet_cuda.train"]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise around a colour: 10 images each to train on, 3 to test."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("val", 3)):
        for name, colour in {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}.items():
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = (np.array(colour) + rng.integers(-40, 41, (36, 36, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


Call = Callable[..., int]


@pytest.fixture
def call(images: Path) -> Call:
    """Runs the command in this process on the images, on the CPU; returns its exit code."""

    def run(*arguments: object) -> int:
        given = list(map(str, arguments))
        if "--resume" not in given:
            given = ["--data", f"folder:{images}", "--device", "cpu", "--batch", "8", "--epochs", "3", *given]
        return command_line.run(train.main, given)

    return run


TIMES = ("images_per_second", "waiting")


def without_times(folder: Path) -> list[dict[str, Any]]:
    records = [r for r in read_metrics(folder / "metrics.jsonl") if r["kind"] != "start"]
    return [{k: v for k, v in r.items() if k not in TIMES} for r in records]


def assert_same_run(got: Path, expected: Path) -> None:
    """Weights, the optimizer's state, progress and records of two runs are equal bit for bit."""
    a, b = checkpoint.load(got), checkpoint.load(expected)
    for some, others in ((a.weights, b.weights), (a.optimizer, b.optimizer), ({"mean": a.mean}, {"mean": b.mean})):
        assert some.keys() == others.keys()
        for name in others:
            assert_array_equal(some[name].view(np.uint32), others[name].view(np.uint32), err_msg=name)
    assert {**a.description["progress"], "seconds": 0} == {**b.description["progress"], "seconds": 0}
    assert without_times(got) == without_times(expected)


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[Trainer], object]) -> None:
    """Has ``act`` called right after the given step."""
    step = Trainer._step

    def wrapped(self: Trainer, *args: Any) -> None:
        step(self, *args)
        if self.progress.step == number:
            act(self)

    monkeypatch.setattr(Trainer, "_step", wrapped)


def interrupt(_: Trainer) -> None:
    os.kill(os.getpid(), signal.SIGINT)


# ---- a run


def test_a_run_learns_and_leaves_everything_in_its_folder(
    call: Call, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--out", "run", "--epochs", 6, "--lr", 0.02, "--seed", 4) == 0
    run = Path("run")
    files = {"checkpoint.safetensors", "best.safetensors", "metrics.jsonl", "config.toml", "curve.png"}
    assert {p.name for p in run.iterdir()} == files
    epochs = [record for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "epoch"]
    assert [record["epoch"] for record in epochs] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in epochs] == [3, 6, 9, 12, 15, 18]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    config = tomllib.loads((run / "config.toml").read_text())
    assert config.items() >= {
        "model": "alexnet-mini", "data": f"folder:{images}", "device": "cpu", "seed": 4, "mirror": True, "batch": 8,
        "epochs": 6, "lr": 0.02, "momentum": 0.9, "decay": 0.0005, "scale": 1 / 64, "schedule": "cosine",
    }.items()  # fmt: skip
    saved = checkpoint.load(run)
    assert saved.description["classes"] == ["blue", "green", "red"]
    network = models.create("alexnet-mini", classes=3, device="cpu")
    network.load_state(saved.weights)
    screen = capsys.readouterr().out
    for expected in (
        "conv1",
        "fc8",
        "30 training and 9 test images of 3 classes",
        "epoch 6/6",
        "test accuracy",
        "curve.png",
    ):
        assert expected in screen


def test_equal_seeds_give_equal_bits_and_others_do_not(call: Call) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert call("--out", name, "--seed", seed, "--epochs", 2) == 0
    assert_same_run(Path("a"), Path("b"))
    assert not np.array_equal(checkpoint.load(Path("a")).weights["fc6.w"], checkpoint.load(Path("c")).weights["fc6.w"])


def test_any_number_of_threads_gives_equal_bits(call: Call) -> None:
    before = backend.threads()
    try:
        for threads in (1, 2, 4):
            assert call("--out", f"run{threads}", "--epochs", 1, "--threads", threads) == 0
    finally:
        backend.set_threads(before)
    assert_same_run(Path("run2"), Path("run1"))
    assert_same_run(Path("run4"), Path("run1"))


def test_default_run_folders_never_collide(call: Call) -> None:
    for _ in range(2):
        assert call("--epochs", 1) == 0
    assert len(list(Path("runs").glob("alexnet-mini-*/checkpoint.safetensors"))) == 2


def test_images_that_cannot_be_read_are_named_and_left_out(
    call: Call, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, tmp_path / "some")
    for i in range(12):
        (tmp_path / "some" / "train" / "red" / f"broken {i}.png").write_bytes(b"")
    (tmp_path / "some" / "val" / "red" / "0.png").write_bytes(b"no image")
    assert call("--data", f"folder:{tmp_path / 'some'}", "--out", "run", "--epochs", 1) == 0
    screen = capsys.readouterr().out
    assert screen.count("left out /") == 10
    assert "unreadable.txt" in screen
    assert len(Path("run/unreadable.txt").read_text().splitlines()) == 13
    assert read_metrics(Path("run/metrics.jsonl"))[-1]["test_accuracy"] in {n / 8 for n in range(9)}


def test_a_terminal_gets_a_bar(images: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "--data", f"folder:{images}", "--device", "cpu", "--batch", "8", "--epochs", "2", "--out", "run"],
        stdout=slave, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 65536):
            shown += part
    except OSError:  # what Linux answers once the other end is closed
        pass
    os.close(master)
    assert process.wait() == 0
    assert "━".encode() in shown
    assert b"images/s" in shown
    assert b"epoch 2/2" in shown


def test_a_run_tells_when_where_and_by_what_it_was_made(call: Call) -> None:
    assert call("--out", "a run", "--epochs", 1) == 0
    assert call("--resume", "a run", "--epochs", 2) == 0
    records = read_metrics(Path("a run/metrics.jsonl"))
    began, resumed = (record for record in records if record["kind"] == "start")
    assert (began["step"], resumed["step"]) == (0, records[-1]["step"] // 2)
    for start in (began, resumed):
        assert abs(datetime.fromisoformat(start["time"]).timestamp() - time.time()) < 600
        assert start["version"] == build_info()["version"] and " threads, " in start["machine"]
        assert start["command"].startswith("python -m alexnet_cuda.train ")
    assert began["command"].endswith("--out 'a run' --epochs 1")
    assert resumed["command"].endswith("--resume 'a run' --epochs 2")


# ---- going on


@pytest.fixture(scope="module")
def straight(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs of three steps without interruption."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    arguments = ["--data", f"folder:{images}", "--device", "cpu", "--batch", "8", "--epochs", "3", "--out", str(folder)]
    assert command_line.run(train.main, arguments) == 0
    return folder


@pytest.mark.parametrize("step", [1, 3, 4, 9], ids=lambda step: f"step {step}")
def test_a_run_interrupted_anywhere_goes_on_to_equal_bits(
    call: Call, straight: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: int
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, step, interrupt)
        assert call("--out", "run") == 130
    assert f"interrupted after step {step}" in capsys.readouterr().out
    assert checkpoint.load(Path("run")).description["progress"]["step"] == step
    assert call("--resume", "run") == 0
    assert_same_run(Path("run"), straight)


# ---- what is written is read


WRITTEN: dict[str, list[object]] = {
    "defaults": [],
    "seed": ["--seed", 2**63 - 1],
    "one batch": ["--overfit-batch"],
    "layers, options, numbers": ["--set", "layers.conv1.steps=[[1,0.5]]", "--set", "model.lrn=false", "--lr", 1e-5],
    "not mirrored, in parts": ["--no-mirror", "--set", "accumulate=2", "--set", "colour=paper"],
    "cuda-convnet's files": ["--convnet-layers", "layers.cfg", "--convnet-params", "params.cfg", "--convnet-size", 32],
}
LAYERS = """# "\\é\n[data]\ntype=data\ndataIdx=0\n[labels]\ntype=data\ndataIdx=1
[fc]\ntype=fc\noutputs=3\ninputs=data\ninitW=0.01
[probs]\ntype=softmax\ninputs=fc\n[logprob]\ntype=cost.logreg\ninputs=labels,probs\n"""
PARAMS = """[fc]\nepsW=0.001\nepsB=0.002\nmomW=0.9\nmomB=0.9\nwc=0\n[logprob]\ncoeff=1\n"""


@pytest.mark.parametrize("how", ["config.toml", "--print-config"])
@pytest.mark.parametrize("arguments", WRITTEN.values(), ids=WRITTEN.keys())
def test_what_a_run_wrote_trains_the_same_from_any_folder(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[object], how: str
) -> None:
    Path("images").symlink_to(images)
    Path("layers.cfg").write_text(LAYERS, encoding="utf-8")
    Path("params.cfg").write_text(PARAMS, encoding="utf-8")
    some = ["--data", "folder:images", "--device", "cpu", "--batch", "8", "--epochs", "1", *map(str, arguments)]
    code = int("--overfit-batch" in arguments)  # in one step nothing is learnt by heart
    assert command_line.run(train.main, [*some, "--out", "run"]) == code
    written = Path("run/config.toml").absolute()
    if how == "--print-config":
        capsys.readouterr()
        assert command_line.run(train.main, [*some, "--print-config"]) == 0
        written = Path("printed.toml").absolute()
        written.write_text(capsys.readouterr().out, encoding="utf-8")
    first = Path("run").absolute()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert command_line.run(train.main, ["--recipe", str(written), "--out", "again"]) == code
    assert Path("again/config.toml").read_text(encoding="utf-8") == (first / "config.toml").read_text(encoding="utf-8")
    assert_same_run(Path("again"), first)


def test_options_go_before_the_recipe(call: Call, straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--recipe", straight / "config.toml", "--data", "digits", "--seed", 5, "--lr", 1, "--print-config") == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert (printed["data"], printed["seed"], printed["lr"]) == ("digits", 5, 1)


USES: dict[str, tuple[Callable[[list[str]], int], list[str], bool]] = {  # command, its arguments, whether it needs data
    "evaluate": (evaluate.main, ["run"], True),
    "report": (report.main, ["run"], True),
    "predict": (predict.main, ["run", "run/curve.png"], False),
    "--resume": (train.main, ["--resume", "run", "--epochs", "2"], True),
    "--recipe": (train.main, ["--recipe", "run/config.toml", "--out", "new"], True),
}


@pytest.mark.parametrize(("main", "arguments", "data"), USES.values(), ids=USES.keys())
def test_a_run_is_of_use_in_any_folder_and_says_when_its_data_moved(
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    main: Callable[[list[str]], int],
    arguments: list[str],
    data: bool,
) -> None:
    Path("here").mkdir()
    Path("there/deeper").mkdir(parents=True)
    Path("images").symlink_to(images)
    monkeypatch.chdir("here")
    some = ["--data", "folder:../images", "--device", "cpu", "--batch", "8", "--epochs", "1"]
    assert command_line.run(train.main, [*some, "--out", "../there/deeper/run"]) == 0
    monkeypatch.chdir("../there/deeper")
    shutil.copytree("run", "../kept")
    assert command_line.run(main, arguments) == 0
    if data:
        shutil.rmtree("run")
        shutil.rmtree("new", ignore_errors=True)
        shutil.copytree("../kept", "run")
        Path("../../images").rename("../moved")
        capsys.readouterr()
        assert command_line.run(main, arguments) == (1 if main is report.main else 2)
        told = r"images: no such folder; folder:\S+ comes from run\S*, --data names another place"
        assert re.search(told, one_line(capsys))
        assert command_line.run(main, [*arguments, "--data", "folder:../moved"]) == 0


def test_a_run_that_kept_a_relative_path_is_of_use_where_it_was_begun(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As runs did before paths were made absolute. Its data are still known for those of its training, of which
    evaluation takes the part that was held out."""
    Path("images").symlink_to(images / "train")
    some = ["--data", "folder:images", "--device", "cpu", "--batch", "8", "--epochs", "1"]
    assert command_line.run(train.main, [*some, "--out", "run"]) == 0
    path = Path("run") / checkpoint.NAME
    saved = checkpoint.load(path)
    saved.description["config"]["data"] = "folder:images"
    for name in (checkpoint.NAME, checkpoint.BEST):
        checkpoint.save(path.with_name(name), saved)
    told = []
    for more in ([], ["--data", "folder:images"], ["--data", f"folder:{Path.cwd() / 'images'}"]):
        capsys.readouterr()
        assert command_line.run(evaluate.main, ["run", *more]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] == told[2] and "held out" in told[0]
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    for main, arguments in ((evaluate.main, ["../run"]), (train.main, ["--resume", "../run", "--epochs", "2"])):
        assert command_line.run(main, arguments) == 2
        told = r"folder:images comes from ../run\S* and counts from the folder that the run was begun in, --data names"
        assert re.search(told, one_line(capsys))
    monkeypatch.chdir("..")
    assert command_line.run(train.main, ["--resume", "run", "--epochs", "2"]) == 0
    assert checkpoint.load(path).description["config"]["data"] == f"folder:{Path.cwd() / 'images'}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = -1", "own.toml: seed: expected a whole number from 0 to 2^63 - 1, got -1"),
        ('seed = "3"', "own.toml: seed: expected an integer, got '3'"),
        ('data = ["a"]', "own.toml: data: expected a string, got ['a']"),
        ("overfit_batch = 1", "own.toml: overfit_batch: expected true or false, got 1"),
        ("sede = 1", "own.toml: unknown entry sede; did you mean seed?"),
        ('recipe = "alexnet"', "own.toml: unknown entry recipe"),
        ('data = "folder:none"', "comes from own.toml, --data names another place"),
        ('device = "cuda:77"', "cuda:77 comes from own.toml, --device names another"),
    ],
)
def test_what_a_recipe_says_of_the_run_is_checked(capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    Path("own.toml").write_text(text)
    assert command_line.run(train.main, ["--recipe", "own.toml"]) in (1, 2)
    assert message in one_line(capsys)


def test_a_run_goes_on_from_a_file_into_another_folder(
    call: Call, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 5, interrupt)
        assert call("--out", "run") == 130
    assert call("--resume", "run/checkpoint.safetensors", "--out", "other") == 0
    assert_same_run(Path("other"), straight)
    assert checkpoint.load(Path("run")).description["progress"]["step"] == 5


def test_the_best_goes_along_into_another_folder(call: Call, straight: Path) -> None:
    """Unless it comes later than the checkpoint that is gone on from."""
    shutil.copytree(straight, "run")
    best, last = (checkpoint.load(Path("run") / name) for name in (checkpoint.BEST, checkpoint.NAME))
    if (step := best.description["progress"]["step"]) == last.description["progress"]["step"]:
        best.description["progress"]["step"] = step = step - 1
        checkpoint.save(Path("run") / checkpoint.BEST, best)
    run_folder.take_best(Path("run/checkpoint.safetensors"), Path(), step)
    assert Path(checkpoint.BEST).read_bytes() == Path("run", checkpoint.BEST).read_bytes()
    Path(checkpoint.BEST).unlink()
    run_folder.take_best(Path("run"), Path(), step - 1)
    run_folder.take_best(Path("run"), Path("run"), step)
    assert not Path(checkpoint.BEST).exists() and checkpoint.load(Path("run") / checkpoint.BEST)
    last.description["progress"]["best"] = 1.0  # so that nothing after it is better
    checkpoint.save(Path("run") / checkpoint.NAME, last)
    assert call("--resume", "run", "--epochs", 4, "--out", "other") == 0
    assert Path("other", checkpoint.BEST).read_bytes() == Path("run", checkpoint.BEST).read_bytes()


def test_records_after_the_checkpoint_are_dropped(call: Call, straight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        assert call("--out", "run") == 130
    with open("run/metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "step": 5, "epoch": 1.6, "loss": 0.5}\n{"kind": "st')
    assert call("--resume", "run") == 0
    assert_same_run(Path("run"), straight)


def test_a_finished_run_goes_on_to_more_epochs(call: Call, straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(straight, "run")
    assert call("--resume", "run") == 2
    assert "has done its 3 epochs" in capsys.readouterr().err
    assert call("--resume", "run", "--epochs", 4) == 0
    assert checkpoint.load(Path("run")).description["progress"]["epoch"] == 4
    assert tomllib.loads(Path("run/config.toml").read_text())["epochs"] == 4


@pytest.mark.parametrize("entries", [["nesterov=true"], ["optimizer=adamw", "lr=0.001"]])
def test_what_is_used_today_goes_on_exactly_and_is_what_is_evaluated(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], entries: list[str]
) -> None:
    every = ["warmup=1.5", "label_smoothing=0.1", "class_weights=balanced", "ema=0.9", "accumulate=2", *entries]
    options = [word for entry in every for word in ("--set", entry)]
    assert call("--out", "straight", *options) == 0
    with monkeypatch.context() as patch:
        at_step(patch, 5, interrupt)
        assert call("--out", "run", *options) == 130
    assert call("--resume", "run") == 0
    assert_same_run(Path("run"), Path("straight"))
    kept = tomllib.loads(Path("run/config.toml").read_text())["class_weights"]
    assert all(isinstance(weight, float) for weight in kept)
    *_, last = (record for record in read_metrics(Path("run/metrics.jsonl")) if record["kind"] == "epoch")
    capsys.readouterr()
    assert command_line.run(evaluate.main, ["run/checkpoint.safetensors", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["results"][0]  # of the centre; then of ten views
    assert result["top1_error"] == pytest.approx(1 - last["test_accuracy"])


def test_a_run_that_ended_early_says_why_and_stays_so(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--out", "run", "--lr", 1e-12, "--epochs", 9, "--set", "stop_after=2", "--set", "warmup=1.5") == 0
    assert "ended early: the test accuracy has not risen for 2 epochs" in capsys.readouterr().out
    assert checkpoint.load(Path("run")).description["progress"]["epoch"] == 3
    assert call("--resume", "run", "--epochs", 20) == 2
    assert "run: ended after 3 epochs: the test accuracy has not risen for 2 epochs" in one_line(capsys)
    assert call("--resume", "run", "--epochs", 1) == 2
    assert "warmup: expected less than epochs = 1, got 1.5" in one_line(capsys)


def test_resume_auto_begins_or_goes_on(call: Call, straight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = ["--data", tomllib.loads((straight / "config.toml").read_text())["data"], "--device", "cpu", "--batch", 8]
    auto += ["--epochs", 3, "--resume", "auto", "--out", "run"]
    with monkeypatch.context() as patch:
        at_step(patch, 4, interrupt)
        assert call(*auto) == 130
    assert call(*auto) == 0
    assert_same_run(Path("run"), straight)


def test_resume_auto_takes_the_newest_run(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert call("--epochs", 1) == 0
    newest = max(Path("runs").iterdir(), key=lambda run: (run / "checkpoint.safetensors").stat().st_mtime_ns)
    capsys.readouterr()
    assert call("--resume", "auto", "--epochs", 2) == 0
    assert f"run   {newest}, from step 3" in capsys.readouterr().out


def test_the_best_and_the_last_epochs_are_kept(call: Call) -> None:
    assert call("--out", "run", "--epochs", 4, "--keep", 2) == 0
    kept = sorted(path.name for path in Path("run").glob("epoch-*"))
    assert kept == ["epoch-0003.safetensors", "epoch-0004.safetensors"]
    assert checkpoint.load(Path("run") / kept[0]).description["progress"]["epoch"] == 3
    epochs = [record for record in read_metrics(Path("run/metrics.jsonl")) if record["kind"] == "epoch"]
    best = checkpoint.load(Path("run/best.safetensors")).description["progress"]
    assert best["best"] == max(record["test_accuracy"] for record in epochs)
    assert best["epoch"] == max(record["epoch"] for record in epochs if record["best"])


def test_what_uses_a_run_takes_the_best_and_says_so(
    call: Call, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last epoch of this run is much worse than the first: its weights are others."""
    run = Path("a run")

    def spoil(trainer: Trainer) -> None:
        for name, p in trainer.model.named_parameters():
            p.data[...] = 0 if name.startswith("fc8") else p.data

    at_step(monkeypatch, 6, spoil)
    assert call("--out", run, "--epochs", 2, "--set", "schedule=constant", "--lr", 0.02) == 0
    first, last = (checkpoint.load(checkpoint.chosen(run, which)) for which in ("best", "last"))
    assert (first.description["progress"]["epoch"], last.description["progress"]["epoch"]) == (1, 2)
    image = images / "val" / "red" / "0.png"
    answers: dict[str, dict[str, Any]] = {}
    for file, choice in (("best.safetensors", []), ("checkpoint.safetensors", ["--checkpoint", "last"])):
        found = answers[file] = {}
        capsys.readouterr()
        assert command_line.run(evaluate.main, [str(run), "--json", *choice]) == 0
        (row, _) = json.loads(capsys.readouterr().out)["results"]
        assert row["checkpoint"] == str(run / file)
        found["evaluate"] = row["top1_error"]
        assert command_line.run(predict.main, [str(run), str(image), "--json", *choice]) == 0
        (answer,) = json.loads(capsys.readouterr().out)
        assert answer["checkpoint"] == str(run / file)
        found["predict"] = answer["top"]
        assert command_line.run(features.main, [str(run), str(image), "-o", "f.npy", "--layer", "fc8", *choice]) == 0
        assert capsys.readouterr().out.endswith(f", by {run / file}\n")
        found["features"] = np.load("f.npy").tolist()
        assert command_line.run(convert.main, [str(run), "w.safetensors", *choice]) == 0
        assert f"{run / file} (checkpoint) to w.safetensors" in capsys.readouterr().out
        found["convert"] = Path("w.safetensors").read_bytes()
        assert command_line.run(report.main, [str(run), "--out", "page.html", *choice]) == 0
        assert capsys.readouterr().out == f"page.html: of {run / file}\n"
        page = Path("page.html").read_text()
        found["report"] = re.findall(rf"{file}, after epoch \d", page)
        assert found["report"] == [f"{file}, after epoch {1 if file.startswith('best') else 2}"]
    best, other = answers.values()
    assert not {name for name in best if best[name] == other[name]}


def test_the_end_of_a_training_says_what_can_be_done_with_it(
    call: Call, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In lines for the shell, which work as they are, but for the images."""
    assert call("--out", "a $HOME run", "--epochs", 1) == 0
    *_, evaluating, predicting, reporting = capsys.readouterr().out.splitlines()
    for line, module in ((evaluating, evaluate), (predicting, predict), (reporting, report)):
        python, m, name, run, *rest = shlex.split(line, comments=True)
        assert (python, m, name, run) == ("python", "-m", module.__name__, "a $HOME run")
        arguments = [str(images / "val") if word == "IMAGE" else word for word in rest]
        assert command_line.run(module.main, [run, *arguments]) == 0


# ---- interruption from outside


KILLS = 6


def test_kill_9_at_any_moment_leaves_a_checkpoint_that_loads(images: Path) -> None:
    """Every step is saved, so that most of the time goes into writing; each run goes on where the last was killed."""
    program = (
        "import sys; from alexnet_cuda import command_line, run_folder, train; run_folder.SAVE_SECONDS = 0; "
        "sys.exit(command_line.run(train.main))"
    )
    begin = ["--data", f"folder:{images}", "--device", "cpu", "--batch", "8", "--epochs", "1000", "--resume", "auto"]
    rng, reached = np.random.default_rng(0), [(0, 0)]
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-c", program, *begin, "--out", "run"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch"):
                break
        time.sleep(rng.random() / 10)
        process.kill()
        process.communicate()
        progress = checkpoint.load(Path("run")).description["progress"]
        reached.append((progress["step"], progress["epoch"]))
        assert checkpoint.load(Path("run/best.safetensors"))
    assert reached == sorted(set(reached))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_after_saving(images: Path, number: int, code: int) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--data", f"folder:{images}", "--device", "cpu", "--batch", "8", "--epochs", "1000", "--out", "run"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == ""
    assert "--resume run" in out
    step = checkpoint.load(Path("run")).description["progress"]["step"]
    assert f"after step {step}" in out


def test_a_second_ctrl_c_ends_at_once(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def twice(trainer: Trainer) -> None:
        interrupt(trainer)
        interrupt(trainer)

    at_step(monkeypatch, 2, twice)
    assert call("--out", "run") == 130
    assert not Path("run/checkpoint.safetensors").exists()
    assert "Traceback" not in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# ---- when training fails


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_a_loss_that_is_no_number_stops_the_run(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--out", "run", "--lr", "1e30") == 1
    error = one_line(capsys)
    assert "the loss became nan in step" in error
    assert "nothing was saved yet" in error


def test_the_layer_that_failed_first_is_named(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def overflow(trainer: Trainer) -> None:
        dict(trainer.model.named_parameters())["conv4.w"].data[...] = 3e38

    at_step(monkeypatch, 2, overflow)
    assert call("--out", "run") == 1
    assert "in step 3 at learning rate" in (error := one_line(capsys))
    assert "conv4 overflowed first" in error


@pytest.mark.parametrize("step", [5, 6], ids=["seen in the loss", "seen when saving"])
def test_the_last_good_checkpoint_stays(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: int
) -> None:
    def poison(trainer: Trainer) -> None:
        dict(trainer.model.named_parameters())["conv2.w"].data[...] = np.nan

    at_step(monkeypatch, step, poison)
    assert call("--out", "run") == 1
    error = one_line(capsys)
    assert "holds the last good state" in error
    assert "conv2's w broke first" in error or step == 6
    assert ("the loss became nan in step 6" if step == 5 else "conv2.w is no longer finite after step 6") in error
    assert checkpoint.load(Path("run")).description["progress"]["step"] == 3


def test_a_kernel_that_fails_is_named_and_the_last_checkpoint_stays(
    call: Call, straight: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def softmax(*_: Any) -> None:
        raise RuntimeError("softmax_rows<4>: an illegal memory access was encountered")

    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda trainer: patch.setattr(kernels, "softmax_cross_entropy", softmax))
        assert call("--out", "run") == 1
    error = one_line(capsys)
    what = "softmax_rows<4>: an illegal memory access was encountered, in the forward pass of SoftmaxCrossEntropy"
    assert f"step 5 failed: {what}; run/checkpoint.safetensors holds the last good state" in error
    assert checkpoint.load(Path("run")).description["progress"]["step"] == 3
    assert call("--resume", "run") == 0
    assert_same_run(Path("run"), straight)


@pytest.mark.parametrize(
    ("batch", "advice"), [(5, "--batch 5 fits, or --set accumulate=2"), (50, "8 images at a time fit if nothing else")]
)
def test_out_of_memory_names_who_asked_and_what_would_fit(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], batch: int, advice: str
) -> None:
    def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        raise MemoryError

    model, cpu = models.get("alexnet-mini").with_classes(3), (backend.device("cpu"),)
    limit = memory.Planner(model, cpu, recipe.Recipe()).plan(batch)[0].training
    monkeypatch.setattr(backend, "memory", lambda where: limit)
    with monkeypatch.context() as patch:
        at_step(patch, 4, lambda trainer: patch.setattr(arrays._recycler, "empty", empty))
        assert call("--out", "run") == 1
    error = one_line(capsys)
    assert re.search(r"out of memory: cpu has no [\d,]+ bytes for an array of shape \(8, 32, 32, 3\)", error)
    assert advice in error
    assert "run/checkpoint.safetensors holds the last good state" in error
    assert checkpoint.load(Path("run")).description["progress"]["step"] == 3


def test_a_failure_that_no_operation_saw_says_how_to_find_it() -> None:
    """A GPU's kernels fail after they were launched: then it is seen where the host waits for something."""
    error = RuntimeError("cudaErrorIllegalAddress")
    how = "cudaErrorIllegalAddress (CUDA_LAUNCH_BLOCKING=1 and --no-graph tell which kernel)"
    assert train._told(error, backend.Device("cuda")) == how
    assert train._told(error, backend.Device("cpu")) == "cudaErrorIllegalAddress"
    assert train._told(MemoryError(), backend.Device("cuda")) == "MemoryError"
    error.add_note("in the forward pass of Lrn")
    error.add_note("in the backward pass of Conv2d")
    assert train._told(error, backend.Device("cuda")) == "cudaErrorIllegalAddress, in the forward pass of Lrn"


def test_a_full_disk_is_one_line(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "run/checkpoint.safetensors")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    assert call("--out", "run") == 1
    assert "run/checkpoint.safetensors: No space left on device" in one_line(capsys)


ON_A_SMALL_DISK = """
import sys
from alexnet_cuda import checkpoint, command_line, train
code = command_line.run(train.main, sys.argv[1:])
print(code, checkpoint.load(train.Path("disk/run")).description["progress"]["epoch"])
"""


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(images: Path) -> None:
    """A real one of 8 MiB, in a name space of its own."""
    Path("disk").mkdir()
    mount = ["unshare", "-Urm", "sh", "-c", 'mount -t tmpfs -o size=8m tmpfs disk && exec "$@"', "sh"]
    if subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a file system of their own")
    run = ["--data", f"folder:{images}", "--device", "cpu", "--epochs", "30", "--keep", "30", "--out", "disk/run"]
    command = [*mount, sys.executable, "-c", ON_A_SMALL_DISK, *run]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    code, epoch = map(int, done.stdout.split()[-2:])
    assert (code, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert 1 <= epoch < 30


@pytest.mark.parametrize(
    "command",
    ["train", "evaluate", "predict", "features", "report", "compare", "pack", "convert", "summary", "checks", ""],
)
def test_ctrl_c_while_a_command_is_imported_is_one_line(command: str) -> None:
    """The first import of the package's own sends the signal, as does the last."""
    for module in ("alexnet_cuda.kernels", "alexnet_cuda.command_line"):
        text = f"""import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv[0], sys.orig_argv = "-m", ["python", "-m", "{"alexnet_cuda." + command if command else "alexnet_cuda"}"]
runpy.run_module(sys.orig_argv[-1], run_name="__main__")"""
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_ctrl_c_in_a_command_lets_it_tidy_up() -> None:
    text = """import os, signal, sys
from alexnet_cuda import command_line, interrupt
signal.signal(signal.SIGINT, interrupt._end)
def command(_):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        print("tidied up", flush=True)
sys.exit(command_line.run(command))"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "tidied up\n", "interrupted\n")


def test_importing_the_package_leaves_ctrl_c_alone() -> None:
    text = "import signal, alexnet_cuda; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", text], check=True)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077], ids=oct)
def test_files_have_the_mode_that_the_umask_leaves(call: Call, mask: int) -> None:
    before = os.umask(mask)
    try:
        assert call("--out", "run", "--epochs", 1, "--keep", 1) == 0
        assert command_line.run(convert.main, ["run", "weights.safetensors"]) == 0
    finally:
        os.umask(before)
    for path in (*Path("run").iterdir(), Path("weights.safetensors")):
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask, path


# ---- wrong usage


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (train.main, ["--data", "DATA", "--out", "full"], "--out full: not empty"),
        (train.main, ["--data", "DATA", "--out", "full/file"], "--out full/file: Not a directory"),
        (train.main, ["--data", "DATA", "--out", "full/file/run"], "--out full/file/run: Not a directory"),
        (train.main, ["--data", "DATA", "--trace", "none/file"], "--trace none/file: expected a file in a folder"),
        (report.main, ["RUN", "--data", "DATA", "--out", "none/file"], "--out none/file: expected a file in a folder"),
        (pack.main, ["DATA", "full"], "full: neither empty nor a pack"),
        (pack.main, ["DATA", "full/file"], "full/file: Not a directory"),
    ],
)
def test_where_to_write_is_looked_at_before_what_to_read(
    straight: Path,
    capsys: pytest.CaptureFixture[str],
    main: Callable[[list[str]], int],
    arguments: list[str],
    message: str,
) -> None:
    Path("full").mkdir()
    Path("full/file").write_text("something")
    known = {"DATA": "folder:none", "RUN": str(straight)}
    assert command_line.run(main, [known.get(word, word) for word in arguments]) == 2
    assert message in one_line(capsys)


def test_one_epoch_is_no_epochs(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--out", "run", "--epochs", 1) == 0
    (epoch,) = (record for record in read_metrics(Path("run/metrics.jsonl")) if record["kind"] == "epoch")
    assert epoch["test_top5"] is None
    assert call("--resume", "run") == 2
    assert "run: has done its 1 epoch; --epochs N goes on to N" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle", "alexnet"], "unknown argument --modle; did you mean --model?"),
        (["--epoch=3"], "unknown argument --epoch=3; did you mean --epochs?"),
        (["alexnet"], "unknown argument alexnet"),
        (["--model"], "argument --model: expected one argument"),
        (["--model", "alexnet-mni"], "did you mean alexnet-mini"),
        (["--data", "digts"], "did you mean digits?"),
        (["--data", "folder:none"], "none: no such folder"),
        (["--device", "cdua"], "did you mean cuda?"),
        (["--batch", "0"], "argument --batch: expected a whole number above 0, got '0'"),
        (["--epochs", "2.5"], "argument --epochs: expected a whole number above 0, got '2.5'"),
        (["--lr", "nan"], "argument --lr: expected a number above 0, got 'nan'"),
        (["--lr", "-1"], "argument --lr: expected a number above 0, got '-1'"),
        (["--momentum", "1"], "argument --momentum: expected a number from 0 to below 1, got '1'"),
        (["--decay", "inf"], "argument --decay: expected a number, 0 or above, got 'inf'"),
        (["--seed", "-1"], "argument --seed: expected a whole number from 0"),
        (["--threads", "many"], "argument --threads: expected a whole number above 0, got 'many'"),
        (["--out", "full"], "--out full: not empty"),
        (["--out", "full/file/run"], "--out full/file/run: Not a directory"),
        (["--recipe", "alexnet-min"], "unknown recipe 'alexnet-min'"),
        (["--set", "lrr=1"], "unknown entry lrr; did you mean lr?"),
        (["--set", "model.lnr=false"], "unknown option model.lnr"),
        (["--set", "lr=1", "--lr", "2"], "--lr and --set lr=... contradict each other"),
        (["--resume", "none"], "none: no such checkpoint"),
        (["--resume", "full/file"], "full/file: not a whole safetensors file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_2(
    call: Call, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("full").mkdir()
    Path("full/file").write_text("something")
    assert call(*arguments) == 2
    assert message in one_line(capsys)
    assert [path.name for path in Path().iterdir()] == ["full"]
    assert [path.name for path in Path("full").iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", 4], "goes on with batch 8, got 4"),
        (["--seed", 3], "goes on with seed 0, got 3"),
        (["--model", "alexnet"], "goes on with model alexnet-mini, got alexnet"),
        (["--recipe", "alexnet"], "goes on with the run's own recipe"),
        (["--set", "clip=1"], "goes on with the run's own recipe"),
        (["--overfit-batch"], "goes on with overfit_batch False, got True"),
        (["--out", "."], "--out .: not empty"),
    ],
)
def test_a_resumed_run_cannot_become_another(
    call: Call, straight: Path, capsys: pytest.CaptureFixture[str], arguments: list[object], message: str
) -> None:
    shutil.copytree(straight, "run")
    assert call("--resume", "run", "--epochs", 9, *arguments) == 2
    assert message in one_line(capsys)


def test_a_resumed_run_needs_the_images_it_began_with(
    call: Call, straight: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, tmp_path / "fewer")
    (tmp_path / "fewer" / "train" / "red" / "0.png").unlink()
    assert call("--resume", straight, "--epochs", 9, "--data", f"folder:{tmp_path / 'fewer'}") == 2
    assert "began with 30 training images of blue, green, red; these are 29" in one_line(capsys)


def test_a_checkpoint_of_another_network_is_refused(
    call: Call, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = checkpoint.load(straight)
    for kept in (saved.weights, saved.optimizer):
        kept["conv1.w"] = np.zeros((2, 5, 5, 3), np.float32)
    checkpoint.save(Path("other"), saved)
    assert call("--resume", "other", "--epochs", 9) == 2
    assert "conv1.w: expected float32 (32, 5, 5, 3), got float32 (2, 5, 5, 3)" in one_line(capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": None}, "strange: its description lacks a configuration"),
        ({"config": {"colour": "red"}}, "strange: its description lacks a configuration"),
        ({"classes": None}, "began with 30 training images of"),
        ({"progress": None}, "does not say how far the run got"),
        ({"progress": {"steps": 3}}, "does not say how far the run got"),
    ],
)
def test_a_checkpoint_with_a_strange_description_is_refused(
    call: Call, straight: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    saved = checkpoint.load(straight)
    description = {k: v for k, v in {**saved.description, **changes}.items() if v is not None}
    checkpoint.save(Path("strange"), replace(saved, description=description))
    assert call("--resume", "strange", "--epochs", 9) == 2
    assert message in one_line(capsys)


def test_print_config_is_a_recipe_that_runs(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--print-config", "--set", "layers.conv1.lr=2", "--lr", 0.5) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert (printed["lr"], printed["layers"]["conv1"]["lr"], printed["epochs"]) == (0.5, 2, 3)
    assert list(Path().iterdir()) == []


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        train.main(["--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    for option in ("--model", "--data", "--device", "--batch", "--epochs", "--lr", "--seed", "--out", "--resume"):
        assert option in text


# ---- the command without arguments


@pytest.mark.slow
def test_without_arguments_digits_are_learnt_to_97_percent() -> None:
    pytest.importorskip("sklearn")
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=600, check=True)
    assert done.stderr == ""
    (run,) = Path("runs").iterdir()
    assert read_metrics(run / "metrics.jsonl")[-1]["test_accuracy"] >= 0.97
