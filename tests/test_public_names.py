"""Whoever searches for a name finds who calls it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "alexnet_cuda"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMED_IN_FULL = [
    path for path in FILES if path.relative_to(PACKAGE).parts[0] in {"kernels", "ops", "nn", "kernel_checks"}
]
"""Where no name of a function is built."""


def test_who_calls_a_launcher_names_it() -> None:
    declared = {
        node.name for node in ast.parse((PACKAGE / "_cpu.pyi").read_text()).body if isinstance(node, ast.FunctionDef)
    }
    nodes = [node for path in FILES for node in ast.walk(ast.parse(path.read_text()))]
    named = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert len(declared) > 80
    assert sorted(declared - named) == []


@pytest.mark.parametrize("path", NAMED_IN_FULL, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_name_is_built(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("globals", "eval"), node.lineno
            assert node.func.id != "getattr" or isinstance(node.args[1], ast.Constant), node.lineno
