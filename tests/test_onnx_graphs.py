"""Graphs of ONNX files as runs and checkpoints keep them, for which the package onnx need not be there."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import reference

from alexnet_cuda import Tensor, command_line, models, nn, no_grad, optim, summary, train
from alexnet_cuda.files import WeightsError
from alexnet_cuda.models import Own, OwnError, own

GRAPH = {
    "opset": 17,
    "inputs": {"x": [None, 3, 6, 6]},
    "outputs": ["y"],
    "classes": [],
    "nodes": [
        ["conv1", "Conv", ["x", "w1", "b1"], ["c"], {"pads": [1, 1, 1, 1], "group": 1}],
        ["relu1", "Relu", ["c"], ["r"], {}],
        ["mul1", "Mul", ["r", "half"], ["m"], {}],
        ["mean1", "ReduceMean", ["m"], ["a"], {"axes": [2, 3], "keepdims": 0}],
        ["fc1", "Gemm", ["a", "w2", "b2"], ["y"], {"transB": 1}],
    ],
    "arrays": {
        "w1": [[8, 3, 3, 3]],
        "b1": [[8]],
        "half": [[], "float32", [0.5]],
        "w2": [[4, 8]],
        "b2": [[4]],
    },
}


def code(graph: Any, file: str = "net.onnx") -> dict[str, str]:
    text = graph if isinstance(graph, str) else json.dumps(graph)
    return {"file": file, "name": "", "text": text, "digest": own.digest(text)}


def described(graph: Any) -> Own:
    model = models.described("net", {}, {}, code(graph))
    assert isinstance(model, Own)
    return model


def test_a_text_makes_the_network() -> None:
    model = described(GRAPH)
    assert (model.name, model.input, model.classes, model.entries()["model"]) == ("net", (6, 6, 3), 4, "net")
    names = {row.named(array): shape for row in model.rows() for array, shape in row.arrays.items()}
    assert names == {"conv1.w": (8, 3, 3, 3), "conv1.b": (8,), "mul1.a": (), "fc1.w": (4, 8), "fc1.b": (4,)}
    assert [row.layer.kind for row in model.rows()] == ["Conv2d", "Operation", "Linear"]
    assert [array for row in model.rows() for array in row.trained] == ["w", "b", "w", "b"]
    net, x = model.build("cpu", 5), reference.random(2, 6, 6, 3)
    state = net.state()
    assert set(state) == set(names)
    with no_grad():
        conv = nn.Conv2d(3, 8, 3, padding=1, activation="relu")
        conv.load_state({"w": state["conv1.w"], "b": state["conv1.b"]})
        expected = (conv(Tensor(x)).numpy() * 0.5).mean((1, 2)) @ state["fc1.w"].T + state["fc1.b"]
        actual = net(Tensor(x)).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_names_of_modules_own_are_told_apart() -> None:
    """A layer called as something that modules have gets another name, which another layer may have already."""
    graph = copy.deepcopy(GRAPH)
    graph["nodes"][0][0], graph["nodes"][4][0] = "train_", "train"
    assert set(described(graph).build("cpu").state()) == {"train_.w", "train_.b", "mul1.a", "train__.w", "train__.b"}


def change(*path: Any, value: Any) -> Callable[[], Any]:
    def made() -> Any:
        graph = copy.deepcopy(GRAPH)
        inside: Any = graph
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = value
        return graph

    return made


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: "{", "expected the text of a graph, got no JSON"),
        (lambda: "[" * 10**5, "expected the text of a graph, got no JSON"),
        (lambda: "[]", "expected the text of a graph, with opset"),
        (change("opset", value="17"), "expected the text of a graph, .*: a size, got '17'"),
        (change("nodes", value=[]), "expected an output that a node makes, got 'y'"),
        (change("nodes", 0, value=["conv1", "Conv", "x"]), "expected the text of a graph"),
        (change("nodes", 0, 0, value="a.b"), "a name of letters and digits for a node, got 'a.b'"),
        (change("nodes", 0, 0, value="fc1"), "expected nodes of different names"),
        (change("nodes", 0, 1, value="Exec"), r"node conv1 \(Exec\): expected an operator that is read"),
        (change("nodes", 0, 2, 0, value="m"), r"node conv1 \(Conv\): expected an input that comes before it, got 'm'"),
        (change("nodes", 0, 3, value=[]), "an output of node conv1"),
        (change("nodes", 0, 4, value={"pads": "1"}), r"node conv1 \(Conv\): attribute pads: expected whole numbers"),
        (change("nodes", 0, 4, value={"pads": [10**9] * 4}), r"node conv1 \(Conv\): pads: expected 4 whole numbers"),
        (change("nodes", value=[GRAPH["nodes"][0]] * 10001), "expected nodes of different|at most 10,000 nodes"),
        (change("arrays", "w1", value=[[10**6, 10**6]]), "at most 1,000,000,000 numbers in arrays, got 1,000,000,"),
        (change("arrays", "w2", value=[[-4, 8]]), "a size, got -4"),
        (change("arrays", "half", value=[[2], "float32", [0.5]]), "2 numbers, got 1"),
        (change("arrays", "half", value=[[], "object", [0.5]]), "arrays of float32 and whole numbers, got object"),
        (change("arrays", "half", value=[[], "float32", ["a"]]), "expected the text of a graph"),
        (change("inputs", value={}), "expected an input that comes before it, got 'x'"),
        (change("inputs", "x", value=[None, 3, None, 6]), "input 'x': expected height, width and channels from 1 to"),
        (change("inputs", "x", value=[None, 3, 10**6, 6]), "input 'x': expected height, width and channels from 1 to"),
    ],
)
def test_other_texts_are_refused(made: Callable[[], Any], message: str) -> None:
    with pytest.raises(WeightsError, match=f"^net.onnx: .*({message})") as refusal:
        described(made())
    assert len(str(refusal.value).splitlines()) == 1


def test_a_text_that_was_changed_is_refused() -> None:
    other = code(GRAPH) | {"text": json.dumps({**GRAPH, "opset": 13})}
    with pytest.raises(WeightsError, match="expected the text with digest"):
        models.described("net", {}, {}, other)
    with pytest.raises(WeightsError, match="code: expected file, name, text, digest as strings, got file"):
        models.described("net", {}, {}, {"file": "net.onnx"})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 70) | st.floats() | st.sampled_from(["", "x", "w1", "Conv", "Add"]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


@hypothesis.given(data=st.data())
def test_altered_texts_are_refused(data: st.DataObject) -> None:
    """A value anywhere in the text is another: it makes a network, or is refused in a line."""
    graph: Any = copy.deepcopy(GRAPH)
    inside, told = graph, ""
    while True:
        key = data.draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
        deeper = isinstance(inside[key], (dict, list)) and len(inside[key]) > 0
        if not deeper or data.draw(st.booleans()):
            break
        inside = inside[key]
    inside[key] = data.draw(VALUES)
    try:
        described(graph)
    except (WeightsError, OwnError) as e:
        told = str(e)
    assert len(told.splitlines()) <= 1


def test_files_need_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    Path("net.onnx").touch()
    with pytest.raises(ImportError, match="reading ONNX needs the package onnx"):
        models.from_onnx("net.onnx")
    for command in (summary, train):
        assert command_line.run(command.main, ["--model", "net.onnx"]) == 1
        err = capsys.readouterr().err
        assert "error: reading ONNX needs the package onnx (" in err and err.count("\n") == 1
        assert "pip install 'alexnet-cuda[onnx]'" in err


def test_another_missing_module_is_no_such_case() -> None:
    def command(arguments: object) -> int:
        importlib.import_module("alexnet_cuda_that_is_not_there")
        return 0

    with pytest.raises(ImportError, match="alexnet_cuda_that_is_not_there"):
        command_line.run(command)


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(np.array(2, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.a


def test_single_numbers_keep_their_shape() -> None:
    """A parameter of no axes, and what an optimizer keeps of it."""
    net = Scalar()
    sgd = optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
    net(Tensor(np.ones(3, np.float32))).sum().backward()
    sgd.step()
    net.load_state(net.state())
    sgd.load_state(sgd.state())
    assert net.a.shape == () and net.state()["a"].shape == ()
    net.load_state(net.state())
    sgd.zero_grad()
    net(Tensor(np.ones(3, np.float32))).sum().backward()
    sgd.step()
    assert net.a.item() == pytest.approx(2 - 0.3 - 0.45, rel=1e-3)
