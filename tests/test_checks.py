"""`python -m alexnet_cuda.checks`: what it tells, and that it notices what is broken."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from alexnet_cuda import backend, checks, kernels


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert checks.main([]) == 0
    out = capsys.readouterr().out
    for name in ("compiler", "numpy", "python"):
        assert backend.build_info()[name] in out
    for name in ("cpu", "blas", "numpy", "safetensors", "pillow"):
        assert [line.split()[1] for line in out.splitlines() if line.startswith(f"{name} ")][-1] == "works"
    assert "GFLOP/s" in out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert checks.main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["works"] is True
    assert report["build"] == backend.build_info()
    assert [check["name"] for check in report["checks"][:2]] == ["cpu", "blas"]
    assert {check["state"] for check in report["checks"]} <= {"works", "absent"}


def test_wrong_numbers_are_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = kernels.conv2d
    for wrong in (lambda y: y * np.float32(1.01), lambda y: y * np.nan):
        monkeypatch.setattr(kernels, "conv2d", lambda *args, wrong=wrong, **kwargs: wrong(right(*args, **kwargs)))
        assert checks.main([]) == 1
        assert "a convolution is off by" in capsys.readouterr().out


def test_wrong_copies_are_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert checks.main([]) == 0
    assert re.search(r"^copy +works +cpu to cpu:1: [0-9.]+ GB/s$", capsys.readouterr().out, re.MULTILINE)
    monkeypatch.setattr(backend, "copy", lambda array, source, target: (array | 8, None))
    assert checks.main([]) == 1
    assert "fails    cpu:1 to cpu: 4,194,304 of 8,388,608 numbers came out wrong" in capsys.readouterr().out


def test_errors_are_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(kernels, "conv2d", broken)
    assert checks.main([]) == 1
    assert "RuntimeError: no such kernel" in capsys.readouterr().out


def test_missing_libraries(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    installed = backend.package_version

    def without(*names: str) -> None:
        monkeypatch.setattr(backend, "package_version", lambda name: None if name in names else installed(name))

    without("scikit-learn")
    assert checks.main([]) == 0
    assert "absent   not installed" in capsys.readouterr().out
    without("safetensors")
    assert checks.main([]) == 1
    assert "fails    not installed" in capsys.readouterr().out


def test_broken_libraries(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(checks.LIBRARIES, "numpy", ("numpy.no_such_module", True))
    assert checks.main([]) == 1
    assert "but importing numpy.no_such_module raises ModuleNotFoundError" in capsys.readouterr().out
