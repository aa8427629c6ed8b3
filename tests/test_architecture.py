"""docs/architecture.md's floors: whoever imports something stands above it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import alexnet_cuda
from alexnet_cuda import backend, models

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "alexnet_cuda"
LATE = {
    "alexnet_cuda.models", "concurrent.futures", "email", "importlib.metadata", "json", "logging", "numpy.random",
    "rich", "safetensors", "alexnet_cuda.fitting", "alexnet_cuda.user_kernels",
}  # fmt: skip
"""What ``import alexnet_cuda`` leaves to who needs it, as it takes long."""
BUILT = {"cupy", "cupyx", "_cpu", "_cpu_v3", "_gpu"}
"""What ``backend/libraries.py`` alone imports."""


def floors(text: str) -> dict[str, dict[str, int]]:
    """Of each package that the page has a line for: its parts' floors, counted from the ground."""
    lines = re.findall(r"^- (\w+): (\w[\w, \n]*(?:<-[\w, \n]+)+)$", text, re.MULTILINE)
    return {
        package: {part: floor for floor, parts in enumerate(chain.split("<-")) for part in re.findall(r"\w+", parts)}
        for package, chain in lines
    }


def imported(path: Path, root: Path) -> Iterator[tuple[str, ...]]:
    """What a file of the package at ``root`` imports of it, wherever in the file, as paths from there."""
    folder = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from (tuple(name[1:]) for name in names if name[0] == root.name)
        elif isinstance(node, ast.ImportFrom):
            base = list(folder[: len(folder) + 1 - node.level] if node.level else ())
            base += (node.module or "").split(".") if node.module else []
            if not node.level and base.pop(0) != root.name:
                continue
            yield from ((*base, alias.name) for alias in node.names)


def upwards(root: Path, package: str, order: dict[str, int]) -> list[str]:
    """Imports within a package that do not run downwards, and parts that stand on no floor."""
    place = root if package == root.name else root / package
    parts = {path.stem: path for path in place.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    parts.pop("__init__")
    wrong = [f"{name} is on no floor" for name in sorted(parts.keys() - order.keys())]
    wrong += [f"there is no {name}" for name in sorted(order.keys() - parts.keys())]
    above = place.relative_to(root).parts
    for name, path in parts.items():
        for file in [path] if path.is_file() else path.rglob("*.py"):
            for target in imported(file, root):
                inside = target[: len(above)] == above
                part = target[len(above)] if inside and len(target) > len(above) else None if inside else name
                if part != name and (part not in order or order[part] >= order.get(name, -1)):
                    wrong.append(f"{file.relative_to(root)} imports {'.'.join(target)}")
    return wrong


FLOORS = floors((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("package", FLOORS)
def test_imports_run_downwards(package: str) -> None:
    assert not upwards(SOURCE, package, FLOORS[package])


def test_the_page_has_floors() -> None:
    assert FLOORS.keys() == {"alexnet_cuda", "backend", "kernels", "user_kernels", "ops", "nn"}
    assert FLOORS["alexnet_cuda"]["backend"] < FLOORS["alexnet_cuda"]["tensor"] < FLOORS["alexnet_cuda"]["trainer"]


def test_one_file_imports_what_was_built() -> None:
    """And CuPy: nobody else imports them, or has them imported by name."""
    users = set[str]()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                names += [word.value for word in ast.walk(node) if isinstance(word, ast.Constant)]
            if BUILT & {part for name in names for part in name.split(".")}:
                users.add(str(file.relative_to(SOURCE)))
    assert users == {"backend/libraries.py"}


def test_the_import_leaves_to_functions_what_takes_long() -> None:
    program = "import sys, numpy, ml_dtypes; old = {*sys.modules}; import alexnet_cuda; print(*{*sys.modules} - old)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "alexnet_cuda.optim" in imported
    assert not LATE & imported


def test_what_comes_late_is_there() -> None:
    program = (
        "import alexnet_cuda as a; print(a.models.names()[0], a.__version__); from alexnet_cuda import *; models.get"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [models.names()[0], backend.build_info()["version"]]
    with pytest.raises(AttributeError, match="module 'alexnet_cuda' has no attribute 'layers'"):
        alexnet_cuda.layers  # noqa: B018 (it is looked up)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("from . import low", False),
        ("from .low import f", False),
        ("from house.low import f", False),
        ("import house.low", False),
        ("from . import high", True),
        ("from .high import f", True),
        ("from .beside import f", True),
        ("from house import high", True),
        ("import house.high.deep", True),
        ("from . import unknown", True),
        ("if TYPE_CHECKING:\n    from .high import f", True),
        ("def f():\n    from .high import f", True),
    ],
)
def test_an_import_upwards_is_found(line: str, wrong: bool, tmp_path: Path) -> None:
    """At either depth."""
    order = floors("Text.\n\n- house: low <-\n  middle, beside <- high\n")["house"]
    house = tmp_path / "house"
    for name in ("low", "beside", "middle", "high"):
        (house / name).mkdir(parents=True)
        (house / name / "__init__.py").touch()
    (house / "__init__.py").touch()
    (house / "middle" / "__init__.py").write_text(line.replace(" .", " .."))
    assert bool(upwards(house, "house", order)) == wrong
