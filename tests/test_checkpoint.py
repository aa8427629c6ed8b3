"""Checkpoints come back bit for bit, and whatever is damaged, foreign or of another network is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from alexnet_cuda import checkpoint, nn
from alexnet_cuda.checkpoint import Checkpoint, CheckpointError


def example(seed: int = 0) -> Checkpoint:
    rng = np.random.default_rng(seed)
    weights = {name: rng.standard_normal(shape, np.float32) for name, shape in (("fc.w", (3, 5)), ("fc.b", (3,)))}
    optimizer = {f"momentum/{name}": rng.standard_normal(w.shape, np.float32) for name, w in weights.items()}
    optimizer["updates"] = np.array(7, np.float32)
    description = {"config": {"model": "a \u2028 name", "lr": 0.1}, "progress": {"step": 7}}
    return Checkpoint(weights, optimizer, rng.random((4, 4, 3), np.float32), description)


def assert_same(got: Checkpoint, expected: Checkpoint) -> None:
    assert got.description == expected.description
    assert_array_equal(got.mean, expected.mean)
    for some, others in ((got.weights, expected.weights), (got.optimizer, expected.optimizer)):
        assert some.keys() == others.keys()
        for name, array in others.items():
            assert some[name].dtype == np.float32 and some[name].shape == array.shape
            assert_array_equal(some[name].view(np.uint32), np.ascontiguousarray(array).view(np.uint32))


def test_round_trip(tmp_path: Path) -> None:
    saved = example()
    saved.weights["fc.w"][0] = [np.nan, -0.0, np.inf, 1e-45, -np.float32(3.4e38)]
    checkpoint.save(tmp_path / checkpoint.NAME, saved)
    assert_same(checkpoint.load(tmp_path / checkpoint.NAME), saved)
    assert_same(checkpoint.load(tmp_path), saved)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME]


def test_arrays_of_any_layout_are_saved_as_they_read(tmp_path: Path) -> None:
    saved = example()
    turned = {name: np.asfortranarray(w) for name, w in saved.weights.items()}
    strided = {name: np.repeat(v, 2, axis=0)[::2] if v.ndim else v for name, v in saved.optimizer.items()}
    checkpoint.save(tmp_path / "a", replace(saved, weights=turned, optimizer=strided, mean=saved.mean[:, ::-1]))
    assert_same(checkpoint.load(tmp_path / "a"), replace(saved, mean=saved.mean[:, ::-1]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "checkpoint"
    checkpoint.save(path, example())
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(data=st.data())
def test_a_cut_off_file_is_refused(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors: not a whole safetensors file"):
        checkpoint.load(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_says_the_same(tmp_path: Path, whole: bytes, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    header = 8 + int.from_bytes(whole[:8], "little")
    most = data.draw(st.sampled_from([header, len(damaged)]))
    damaged[data.draw(st.integers(0, most - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damaged)
    message = ""
    try:
        assert_same(checkpoint.load(path), example())  # a flipped bit in the JSON's white space changes nothing
    except CheckpointError as refused:
        message = str(refused)
    assert "\n" not in message


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="none: no such checkpoint"):
        checkpoint.load(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: no such checkpoint"):
        checkpoint.load(tmp_path)
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="not a checkpoint of alexnet_cuda"):
        checkpoint.load(tmp_path / "foreign")


def test_the_best_of_a_run_is_taken_or_what_is_named(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "other.safetensors"
    run.mkdir()
    last, best, some = run / checkpoint.NAME, run / checkpoint.BEST, run / "epoch-0003.safetensors"
    assert checkpoint.chosen(run) == last
    for file in (last, some, elsewhere):
        file.touch()
    assert checkpoint.chosen(run) == last
    with pytest.raises(CheckpointError) as refused:
        checkpoint.chosen(run, "best")
    known = "checkpoint.safetensors, epoch-0003.safetensors"
    assert str(refused.value) == f"{run}: checkpoint best: expected best, last or a file; there is {known}"
    best.touch()
    assert checkpoint.chosen(run) == checkpoint.chosen(run, "best") == best
    assert checkpoint.chosen(run, "last") == last
    assert checkpoint.chosen(run, some.name) == some
    assert checkpoint.chosen(run, str(elsewhere)) == elsewhere
    assert checkpoint.chosen(some) == some
    with pytest.raises(CheckpointError, match="expected a run folder to choose checkpoint last of"):
        checkpoint.chosen(some, "last")
    with pytest.raises(CheckpointError, match="none: expected a run folder"):
        checkpoint.chosen(tmp_path / "none", "last")


def test_weights_of_another_network_are_refused_with_names_and_shapes(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", example())
    network = nn.Sequential(fc=nn.Linear(4, 3), head=nn.Linear(3, 2))
    before = network.state()
    with pytest.raises(ValueError, match=r"missing head\.w.*fc\.w: expected float32 \(3, 4\), got float32 \(3, 5\)"):
        network.load_state(checkpoint.load(tmp_path / "a").weights)
    for name, w in network.state().items():
        assert_array_equal(w, before[name])


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from alexnet_cuda import checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
w = {"w": np.zeros(4096, np.float32)}
try:
    checkpoint.save(Path(sys.argv[1]), checkpoint.Checkpoint(w, w, np.zeros(3, np.float32), {}))
except OSError as e:
    print(e)
"""


def test_when_the_disk_is_full_the_last_checkpoint_stays(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.NAME
    checkpoint.save(path, example())
    done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True)
    assert str(path) in done.stdout
    assert "too large" in done.stdout  # what the system says of the limit that stands for the full disk
    assert_same(checkpoint.load(path), example())
    assert list(tmp_path.iterdir()) == [path]
