"""The calls into CuPy: all are in `cupy_interface`, which is what CuPy 14 has."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from inspect import Parameter, Signature
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cupy_interface import CONSTANTS, OTHERS, SIGNATURES, accept, parse
from stand_in_cupy import StandIn

from alexnet_cuda import backend
from alexnet_cuda.backend import interchange, libraries

pytest_plugins = ["stand_in_cupy"]

ROOT = Path(__file__).parents[1]
FILES = [*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py"), ROOT / "examples" / "ladder" / "run.py"]
SPACES = {
    **dict.fromkeys(["libraries.cupy()", "backend.array_module()", "cupy", "cp", "xp", "self.xp"], ""),
    **dict.fromkeys(["libraries.nccl()", "nccl"], "cuda.nccl."),
    **{"cuda": "cuda.", "runtime": "cuda.runtime."},
}
"""What CuPy and its modules are called, without arguments."""
MODULES = {name.rpartition(".")[0] for name in [*SIGNATURES, *CONSTANTS]} - SIGNATURES.keys()


def name_of(node: ast.Attribute) -> str | None:
    """What of CuPy an expression is: "cuda.Event" for ``libraries.cupy().cuda.Event``; None for modules and others."""
    root: ast.AST = node
    names = list[str]()
    while isinstance(root, ast.Attribute) and ast.unparse(root) != "self.xp":
        names.insert(0, root.attr)
        root = root.value
    text = f"{ast.unparse(root.func)}()" if isinstance(root, ast.Call) else ast.unparse(root)
    if text not in SPACES or not names or re.match("cu[A-Z]", names[0]):  # cuInit and its like are the driver's
        return None
    name = SPACES[text] + ".".join(names)
    return None if name in MODULES else name


def uses() -> Iterator[tuple[str, str, ast.Call | None]]:
    """Where, what, and if it is called, how."""
    for file in FILES:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        called = {node.func: node for node in nodes if isinstance(node, ast.Call)}
        for node in nodes:
            if isinstance(node, ast.Attribute) and (name := name_of(node)):
                yield f"{file.relative_to(ROOT)}:{node.lineno}", name, called.get(node)


def test_every_call_is_as_cupys_function_may_be_called() -> None:
    found = list(uses())
    assert {"cuda.nccl.NcclCommunicator", "cuda.runtime.memcpyAsync", "concatenate"} <= {name for _, name, _ in found}
    for where, name, call in found:
        if name not in SIGNATURES:
            assert name in CONSTANTS or name in OTHERS, f"{where}: {name} is not in cupy_interface.py"
        elif call is not None:
            named = {keyword.arg: None for keyword in call.keywords}
            SIGNATURES[name].bind(*call.args, **named)


def test_the_stand_in_has_nothing_else(stand_in: StandIn) -> None:
    """Nor does it stand in for less of what is called in ``src``."""
    spaces = {"cuda.": stand_in.cuda, "cuda.runtime.": stand_in.cuda.runtime}
    has = {prefix + name for prefix, space in spaces.items() for name in vars(space)} - {"cuda.runtime"}
    assert has <= {*SIGNATURES, *CONSTANTS, *OTHERS}
    backend = [(where, name) for where, name, _ in uses() if where.startswith("src/alexnet_cuda/backend/")]
    used = [(where, name) for where, name in backend if name.rpartition(".")[0] + "." in spaces]
    assert used
    for where, name in used:
        assert name in has, f"{where}: the stand-in has no {name}"


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("cuda.Event", (), {"timing": False}),
        ("cuda.runtime.memcpyAsync", (1, 2, 3, "copy", 0), {}),
        ("cuda.runtime.memcpyAsync", (1, 2, -3, 1, 0), {}),
        ("cuda.runtime.memcpyAsync", (1, 2, 3, 1), {}),
        ("cuda.nccl.NcclCommunicator", (2, (7, 8), 1), {}),
        ("cuda.get_current_stream", (None,), {}),
    ],
)
def test_calls_that_do_not_fit_are_refused(name: str, arguments: Any, named: Any) -> None:
    with pytest.raises((TypeError, OverflowError)):
        accept(name, *arguments, **named)


# ---- beside CuPy


@pytest.fixture
def cupy(import_oracle: Callable[[str], ModuleType]) -> ModuleType:
    """CuPy, which can be imported without a GPU, and its NCCL."""
    for name in ("nvidia.nccl", "cupy.cuda.nccl", "cupyx"):
        import_oracle(name)
    return import_oracle("cupy")


def theirs(cupy: ModuleType, name: str) -> Any:
    found: Any = cupy
    for part in name.split("."):
        found = importlib.import_module(part) if part == "cupyx" else getattr(found, part)
    return found


def signature_of(function: Any) -> Signature:
    """With types in C, which are in the first line of a compiled function's documentation."""
    try:
        found = inspect.signature(function)
    except ValueError:
        return parse(function.__doc__.strip().splitlines()[0])[1]
    return Signature([p.replace(annotation=Parameter.empty) for p in found.parameters.values()])


@pytest.mark.oracle
@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_cupys(cupy: ModuleType, name: str) -> None:
    def parts(signature: Signature) -> list[tuple[Any, ...]]:
        return [(p.name, p.kind, p.annotation, p.default is p.empty) for p in signature.parameters.values()]

    assert parts(signature_of(theirs(cupy, name))) == parts(SIGNATURES[name])


@pytest.mark.oracle
def test_other_names_are_cupys(cupy: ModuleType) -> None:
    assert {name: theirs(cupy, name) for name in CONSTANTS} == CONSTANTS
    for name in OTHERS:
        theirs(cupy, name)
    text = "".join(path.read_text() for path in (ROOT / "src" / "alexnet_cuda" / "ops").glob("*.py"))
    functions = set(re.findall(r"\bnp\.(\w+)\(", text))  # CuPy's, where they get a CuPy array
    assert {"arange", "outer"} <= functions
    assert all(hasattr(cupy, name) for name in functions)


INTEGERS = [0, 8, True, -1, 2**40, 2**80, np.int64(8), np.uint8(3), 1.5, np.float64(2), "1", b"1", None, (1,)]


@pytest.mark.oracle
@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("value", INTEGERS, ids=repr)
def test_integers_are_refused_as_cupy_does(cupy: ModuleType, place: int, value: Any) -> None:
    """In each place of ``memcpyAsync``, of no bytes; what comes after the types is CUDA's. CuPy takes NumPy's integers
    in some places and cuts off fractions; the stand-in never does."""
    arguments: list[Any] = [0, 0, 0, 1, 0]
    arguments[place] = value
    refused = []
    for call in (cupy.cuda.runtime.memcpyAsync, lambda *a: accept("cuda.runtime.memcpyAsync", *a)):
        try:
            call(*arguments)
            refused.append(False)
        except cupy.cuda.runtime.CUDARuntimeError:
            refused.append(False)
        except (TypeError, OverflowError):
            refused.append(True)
    assert refused[0] <= refused[1]
    assert refused[0] == refused[1] or not isinstance(value, int)


@pytest.mark.oracle
@pytest.mark.parametrize("number", [(1,), [1], "1", bytearray(1)], ids=repr)
def test_what_is_not_bytes_is_refused_as_cupy_does(cupy: ModuleType, number: Any) -> None:
    for call in (cupy.cuda.nccl.NcclCommunicator, lambda *a: accept("cuda.nccl.NcclCommunicator", *a)):
        with pytest.raises(TypeError, match=r"commId.*expected bytes, got"):
            call(1, number, 0)


@pytest.mark.oracle
def test_nccl_takes_what_it_is_given(cupy: ModuleType, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL itself; without a GPU it says so, and not that the arguments are wrong."""
    monkeypatch.setattr(libraries, "nccl", lambda: cupy.cuda.nccl)
    number = backend.Nccl.unique_id()
    assert len(number) == 128
    with suppress(cupy.cuda.nccl.NcclError):
        backend.Nccl(backend.Device("cuda"), 1, number, 0)


@pytest.mark.oracle
def test_cupy_takes_the_stream_of_another_library(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "cupy", lambda: cupy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert interchange._external_stream(0x7700, 0).ptr == 0x7700
