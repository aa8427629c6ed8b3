"""Public names: whoever searches for one finds who calls it, a list tells all of them, and each tells what it takes."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "alexnet_cuda"
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


# ---- lists of public names

LIBRARY = ["backend", "checkpoint", "data", "fitting", "folding", "inference", "init", "kernels", "loggers", "memory"]
LIBRARY += ["metrics", "models", "models.layers", "models.onnx", "nn", "ops", "optim", "parallel", "recipe"]
LIBRARY += ["saliency", "schedule", "tensor", "testing", "trace", "trainer", "user_kernels", "weights"]
COMMANDS = ["checks", "compare", "convert", "evaluate", "features", "pack", "predict", "report", "summary", "train"]
INTERNAL = ["charts", "command_line", "deprecation", "files", "finetuning", "interrupt", "kernel_checks", "names"]
INTERNAL += ["one_batch", "pages", "processor", "profiling", "quantise", "replay", "run_folder", "screen"]
INTERNAL += ["short_weights", "suggest", "terminal", "training_step"]
"""Parts of the package that promise nothing."""


def module(name: str) -> ModuleType:
    return importlib.import_module(f"alexnet_cuda.{name}".rstrip("."))


def test_every_module_is_public_or_not() -> None:
    parts = {path.stem for path in PACKAGE.glob("[!_]*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    assert sorted(name for name in (*LIBRARY, *COMMANDS, *INTERNAL) if "." not in name) == sorted(parts)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_its_main(name: str) -> None:
    assert module(name).__all__ == ["main"]


@pytest.mark.parametrize("name", ["", *LIBRARY])
def test_the_list_of_public_names_is_complete(name: str) -> None:
    """It has all functions and classes that the module defines, or all that a package which defines none takes from its
    modules, and nothing that is not there."""
    this = module(name)
    tree = ast.parse(inspect.getsource(this))
    expected = defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    if hasattr(this, "__path__") and not defined:
        taken = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module]
        expected = expected | {alias.asname or alias.name for node in taken for alias in node.names}
    listed = set(this.__all__)
    assert len(listed) == len(this.__all__)
    assert sorted(name for name in expected - listed if not name.startswith("_")) == []
    assert sorted(name for name in listed if not hasattr(this, name)) == []


# ---- what they tell


def told(this: ModuleType) -> Iterator[tuple[str, Callable[..., Any] | None, str]]:
    """Of each public function, class and method its name, what is called, and its text."""
    for name in this.__all__:
        value = getattr(this, name)
        if inspect.isfunction(value):
            yield name, value, inspect.getdoc(value) or ""
        elif inspect.isclass(value) and value.__module__.startswith("alexnet_cuda"):
            made = vars(value).get("__init__") if "__init__" in inspect.getsource(value) else None
            text = vars(value).get("__doc__") or ""
            if text.startswith(f"{name}("):  # what a dataclass has without one
                text = ""
            yield name, made, f"{text} {inspect.getdoc(made) or ''}".strip()
            for part, method in vars(value).items():
                function = method.fget if isinstance(method, property) else getattr(method, "__func__", method)
                own = inspect.isfunction(function) and function.__qualname__.startswith(f"{name}.")
                if own and not part.startswith("_"):
                    yield f"{name}.{part}", function, inspect.getdoc(getattr(value, part)) or ""


@pytest.mark.parametrize("name", LIBRARY)
def test_every_public_name_has_a_text(name: str) -> None:
    assert [part for part, _, text in told(module(name)) if not text] == []


@pytest.mark.parametrize("name", LIBRARY)
def test_errors_are_told(name: str) -> None:
    """Where it is raised, or for all that the module has."""
    this, missing = module(name), []
    for part, function, text in told(this):
        if function is not None:
            source = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
            raised = {ast.unparse(node.exc) for node in ast.walk(source) if isinstance(node, ast.Raise) and node.exc}
            errors = {match[0] for text in raised if (match := re.match(r"[A-Z]\w*Error\b", text))}
            missing += [(part, error) for error in errors if error not in f"{text} {this.__doc__}"]
    assert [entry for entry in missing if entry[1] != "NotImplementedError"] == []


@pytest.mark.parametrize("name", ["init", "kernels", "nn", "ops", "optim", "tensor"])
def test_arguments_are_told(name: str) -> None:
    """By the name's own text, by its module's, or by that of the function of ``kernels``, ``ops`` or the module itself
    that it refers to."""
    this, missing = module(name), []
    homes = ("kernels.", "kernels"), ("ops.", "ops"), ("", name)
    texts = {f"{home}{part}": text for home, where in homes for part, _, text in told(module(where))}

    def all_of(text: str, seen: frozenset[str] = frozenset()) -> str:
        cited = {word for word in re.findall(r"``([\w.]+)``", text) if word in texts and word not in seen}
        return " ".join([text, *(all_of(texts[word], seen | cited) for word in sorted(cited))])

    for part, function, text in told(this):
        if function is not None:
            known = set(re.findall(r"\w+", f"{all_of(text)} {this.__doc__} {module('kernels').__doc__}"))
            arguments = set(inspect.signature(function).parameters) - {"self", "cls"}
            missing += [(part, argument) for argument in sorted(arguments - known)]
    assert missing == []


def test_the_api_reference_has_all_of_them(tmp_path: Path) -> None:
    """It is made without a warning."""
    pytest.importorskip("pdoc", reason="the extra `docs` is not installed")
    command = ["bash", ROOT / "scripts" / "api_reference.sh", tmp_path]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    made = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    pages = {str(page.relative_to(tmp_path).with_suffix("")) for page in tmp_path.rglob("*.html")}
    expected = {"alexnet_cuda", *(f"alexnet_cuda/{name.replace('.', '/')}" for name in LIBRARY)}
    assert pages - {"index", "search"} == expected
    for name in LIBRARY:
        page = (tmp_path / "alexnet_cuda" / f"{name.replace('.', '/')}.html").read_text(encoding="utf-8")
        assert [part for part, _, _ in told(module(name)) if f'id="{part}"' not in page] == []
