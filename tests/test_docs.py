"""README and docs: every command and every Python block on them runs, on small images where it names some. (What
release.md does is in test_build.py.)

A page's commands run in their order in one folder. PATH, RUN, IMAGE and PACKED stand for the reader's own.
"""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import shutil
import tomllib
from pathlib import Path

import mpi
import pytest

from alexnet_cuda import command_line, models

pytest_plugins = ["tiny_run"]

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
ELSEWHERE = {  # what runs in other tests: the command, and where to find it
    r"python -m pytest\b": ".ci/run",
    r"python -m alexnet_cuda\.checks --kernels": "tests/test_kernel_checks.py",
    r"python examples/digits_with_bare_kernels\.py": "tests/test_examples.py",
    r"python examples/two_towers\.py": "tests/test_examples.py",
    r"python examples/own_networks\.py": "tests/test_modules.py",
    r"(\w+=.* )?python examples/ladder/run\.py": "tests/test_ladder.py",
    r"python scripts/kernel_report\.py": "tests/test_kernel_report.py",
    r"python setup\.py build_ext --inplace": "tests/test_build.py",
    r"scripts/lint\.sh": ".ci/run",
    r"cmake |build/digits/digits ": "tests/test_cpp.py",
    r"python benchmarks/con(ventions|sumers)\.py": "tests/test_conventions.py",
    r"python benchmarks/(\w+\.py)": "tests/test_benchmarks.py",
    r"python -m alexnet_cuda\.train --weights (alexnet-owt|bvlc_alexnet)\.": "tests/test_finetuning.py",
    r"python -m alexnet_cuda\.convert alexnet-owt\.pth": "tests/test_weights.py",
    r"python -m alexnet_cuda\.convert bvlc_alexnet\.caffemodel": "tests/test_weights.py",
    r"python -m alexnet_cuda\.\w+ .*\.prototxt": "tests/test_deploy.py",
    r"python -m alexnet_cuda\.convert RUN alexnet\.onnx": "tests/test_oracle_onnx.py",
    r"python -m alexnet_cuda\.convert RUN \S+\.(keras|weights\.h5)": "tests/test_oracle_keras_files.py",
    r"python -m alexnet_cuda\.\w+ (--\w+ )?net\.onnx": "tests/test_oracle_onnx_files.py",
    r"python -m alexnet_cuda\.\w+ --convnet-layers": "tests/test_convnet.py",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[str]:
    """One a line; chains are taken apart. Those in tables, too."""
    text = page.read_text(encoding="utf-8")
    written = re.findall(r"^```sh\n(.*?)^```|^\|[^\n]*?`(python -m [^`\n]+)`", text, re.DOTALL | re.MULTILINE)
    text = "\n".join(block or cell for block, cell in written).replace("\\\n", " ").replace(".venv/bin/", "")
    lines = (re.sub(r"\s+# .*", "", line).strip() for line in text.splitlines())
    return [command.strip() for line in lines if line for command in line.split("&&")]


def write_files(page: Path, folder: Path) -> None:
    """Writes the blocks that say of which file they are."""
    for language, name in (("cpp", r"// (\w+\.cu) - "), ("python", r"# (\w+\.py)\n")):
        for text in blocks(page, language):
            if found := re.match(name, text):
                (folder / found[1]).write_text(text)


def elsewhere(command: str) -> str | None:
    return next((where for pattern, where in ELSEWHERE.items() if re.match(pattern, command)), None)


def smaller(arguments: list[str], images: Path) -> list[str]:
    """A training, small enough for a test."""
    if "--print-config" in arguments:
        return arguments
    if "--resume" in arguments:
        return [*arguments, "--epochs", "2"]
    made = [re.sub(r"^alexnet$", "alexnet-mini", a).replace("cuda:", "cpu:") for a in arguments]
    made = [a for i, a in enumerate(made) if a != "--epochs" and (i == 0 or made[i - 1] != "--epochs")]
    data = [] if {"--data", "--recipe"} & set(made) else ["--data", f"folder:{images}"]
    steps = [] if "--overfit-batch" in made else ["--epochs", "1", "--batch", "8"]  # of a batch all, until it is learnt
    return [*made, *data, *steps]


def execute(command: str, images: Path, image: Path) -> None:
    words = [
        word.replace("IMAGE...", "IMAGE").replace("IMAGE", str(image)).replace(":PATH", f":{images}")
        for word in shlex.split(command)
    ]
    if words[0] == "mpirun":
        size, rest = int(words[2]), words[4:]
        done = mpi.mpirun(size, [*rest[:2], *smaller(rest[2:], images)], cwd=Path.cwd())
        assert done.returncode == 0, done.stderr
        return
    assert words[:2] == ["python", "-m"], f"no test knows how to run: {command}"
    main = importlib.import_module(words[2]).main
    arguments = smaller(words[3:], images) if words[2] == "alexnet_cuda.train" else words[3:]
    arguments += ["--size", "36"] if words[2] == "alexnet_cuda.pack" else []  # for alexnet-mini
    assert command_line.run(main, arguments) == 0, f"{command}, run with {arguments}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "release.md"], ids=lambda page: page.name)
def test_the_commands_run(page, tiny_images, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, tmp_path / "RUN")
    write_files(page, tmp_path)
    image = next((tiny_images / "val").rglob("*.png"))
    for command in commands(page):
        if command.startswith(("pip ", "python3 -m venv")):
            continue
        if where := elsewhere(command):
            script = re.match(r"python (?:benchmarks|examples)/(\w+)\.py", command)
            assert not script or script[1] in (ROOT / where).read_text(), f"{where} does not run {script[1]}"
        else:
            execute(command, tiny_images, image)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_installed_exists(page):
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    asked = re.findall(r"(?:alexnet-cuda|\.)\[([\w,]+)\]", page.read_text(encoding="utf-8"))
    assert {extra for extras in asked for extra in extras.split(",")} <= known


SCRIPTS = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", SCRIPTS, ids=lambda page: page.name)
def test_the_python_runs(page, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, tmp_path / "runs" / "first")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_files(page, tmp_path)
    monkeypatch.setattr(models, "_by_name", models._by_name.copy())  # a page may register its own
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page, "python")))
    runpy.run_path(str(script))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target
    for path in re.findall(r"`((?:tests|benchmarks|examples|scripts|kernels|docs|csrc)/[\w./-]+\.\w+)`", text):
        there = (ROOT / path).exists() or (ROOT / "src" / "alexnet_cuda" / path).exists()
        assert there or "NAME" in path, path


def test_options_in_the_text_are_some_commands(capsys):
    for name in (
        *("train", "evaluate", "predict", "features", "report", "compare"),
        *("pack", "convert", "summary", "checks"),
    ):
        with pytest.raises(SystemExit):
            importlib.import_module(f"alexnet_cuda.{name}").main(["--help"])
    scripts = [path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]
    scripts += (ROOT / "scripts").glob("*.*")
    known = capsys.readouterr().out + "".join(path.read_text() for path in scripts)
    for page in PAGES:
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8")):
            elsewhere = {"--inplace", "--build", "--install", "--prefix"}  # setup.py's, CMake's
            assert option in known or option in elsewhere, f"{page.name}: {option}"
