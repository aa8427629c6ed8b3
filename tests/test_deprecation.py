"""Old names of what is public: each works, and tells the new one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_cuda import backend, deprecation, nn, tensor
from alexnet_cuda.parallel import Group, hybrid

ROOT = Path(__file__).parents[1]
NAMES = [
    (backend, "Feed", "Prefetcher"),
    (backend, "Graph", "CudaGraph"),
    (backend, "Posted", "StaticInput"),
    (backend, "in_turns", "interleave"),
    (backend, "recording", "capturing"),
    (backend, "together", "run_concurrently"),
    (backend, "trunks", "capture_streams"),
    (backend.Nccl, "number", "unique_id"),
    (tensor, "Deferred", "LazyGradient"),
    (nn.ReLU(), "joined", "merged"),
    (nn.ReLU(), "parted", "sharded"),
    (nn.ReLU(), "joined_with", "fused_with"),
    (nn.Parameter(np.ones(3, np.float32)), "stored", "bf16_copy"),
    (hybrid, "LinearShare", "ColumnParallelLinear"),
    (Group(), "exchange", "all_gather_object"),
]


@pytest.mark.parametrize(("owner", "old", "new"), NAMES, ids=[old for _, old, _ in NAMES])
def test_an_old_name_works_and_tells_the_new_one(owner: Any, old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"\b{old} is now called {new}\b") as caught:
        assert getattr(owner, old) == getattr(owner, new)
    assert [Path(warning.filename) for warning in caught] == [Path(__file__)]
    assert old not in getattr(owner, "__all__", ())


def test_an_old_attribute_can_be_set() -> None:
    p, copy = nn.Parameter(np.ones(3, np.float32)), np.zeros(3, np.float32)
    with pytest.warns(DeprecationWarning, match="Parameter.stored is now called bf16_copy"):
        p.stored = copy
    assert p.bf16_copy is copy


def test_a_module_has_nothing_else() -> None:
    with pytest.raises(AttributeError, match=r"module 'alexnet_cuda.backend' has no attribute 'x'"):
        backend.x  # noqa: B018 (it is looked up)


def test_no_old_name_is_missing_above() -> None:
    """Nor in the changelog."""
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    declared = re.findall(r'OldName\("(\w+)"\)', text)
    for names in re.findall(r"= renamed\(\s*__name__,\s*\{(.*?)\}", text, re.DOTALL):
        declared += re.findall(r': "(\w+)"', names)
    assert sorted(declared) == sorted(new for _, _, new in NAMES)
    changes = " ".join((ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split())
    assert all(re.search(rf"`[\w.]*\b{old}` is now `[\w.]*\b{new}`", changes) for _, old, new in NAMES)


def test_a_class_has_an_old_name_as_its_instances_have() -> None:
    class Changed:
        new = 3
        old = deprecation.OldName("new")

    with pytest.warns(DeprecationWarning, match=r"Changed.old is now called new; the old name will go") as caught:
        assert Changed.old == Changed().old == 3
    assert {warning.filename for warning in caught} == {__file__}
