"""PyTorch's files as they are in circulation: each is read to the same values as a plain state, or refused by name."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from foreign_files import (
    EMPTY,
    MAGIC,
    archive,
    arrays,
    instance,
    instructions,
    legacy,
    number,
    pickled,
    program,
    pth,
    small,
    tensor,
    tensors,
    text,
    write,
    zipped,
)
from hypothesis import HealthCheck, given, settings, strategies as st
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from alexnet_cuda import command_line, convert, models
from alexnet_cuda.checkpoint import Checkpoint
from alexnet_cuda.weights import WeightsError, pickles, read, torch_state
from alexnet_cuda.weights.pickles import INSTRUCTIONS, Pickles

State = Mapping[str, np.ndarray]
Parts = Mapping[str, bytes]


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(models._by_name, "alexnet-owt", small("alexnet-owt", 1000))
    monkeypatch.chdir(tmp_path)


def state() -> dict[str, np.ndarray]:
    model = small("alexnet-owt")
    return arrays(model, torch_state.names(model))


def bfloat16(array: np.ndarray) -> np.ndarray:
    """The upper half of float32's bits."""
    return (array.view(np.uint32) >> 16).astype(np.uint16)


def of(content: bytes) -> Checkpoint:
    kind, saved = read(write(Path("a.pth"), content))
    assert kind == "PyTorch state"
    return saved


def same(saved: Checkpoint, expected: Checkpoint) -> None:
    assert saved.weights.keys() == expected.weights.keys()
    for name, w in expected.weights.items():
        assert saved.weights[name].dtype == np.float32
        assert_array_equal(saved.weights[name], w, name)


def call(*arguments: str) -> int:
    return command_line.run(convert.main, list(arguments))


# ---------------------------------------------------------------------------------------------- wrapped and renamed


def renamed(change: Callable[[str], str]) -> Callable[[Parts], object]:
    return lambda parts: {change(name): part for name, part in parts.items()}


def inner(name: str) -> str:
    return name.replace("features.", "features.module.")


SCALAR = tensor("0", [], 1452, view=b"N")  # in the storage of conv1's weights
OPTIMIZER = {
    "state": {0: {"momentum_buffer": None, "step": 3}},
    "param_groups": [{"lr": 0.1, "params": [0, 1], "betas": (0.9, 0.999), "nesterov": False}],
}
ARGUMENTS = instance("argparse", "Namespace", {"lr": 0.1, "gpu": None, "data": "imagenet", "sizes": [1, 2]})

KINDS: dict[str, tuple[Callable[[Parts], object], list[str]]] = {
    "plain": (dict, []),
    "state_dict": (lambda p: {"state_dict": p}, ["'state_dict'"]),
    "model, epoch": (lambda p: {"epoch": 3, "model": p}, ["'model'"]),
    "net, accuracy": (lambda p: {"net": p, "acc": 93.1, "epoch": 3}, ["'net'"]),
    "a name of its own": (lambda p: {"alexnet": p, "epoch": 3}, ["'alexnet'"]),
    "two, one of them usual": (lambda p: {"ema": p, "state_dict": p | {"x": b"N"}}, ["'state_dict'", "'x'"]),
    "wrapped twice": (lambda p: {"checkpoint": {"model": p}}, ["'checkpoint.model'"]),
    "with optimizer and arguments": (
        lambda p: {"epoch": 90, "arch": "alexnet", "state_dict": p, "optimizer": OPTIMIZER, "args": ARGUMENTS},
        ["'state_dict'"],
    ),
    "with code beside": (lambda p: {"model": p, "hook": b"cos\nsystem\n(" + text("touch x") + b"tR"}, ["'model'"]),
    "a set beside": (lambda p: {"model": p, "seen": b"cbuiltins\nset\n](" + number(1) + b"e\x85R"}, ["'model'"]),
    "an optimizer that speaks of names": (
        lambda p: {"alexnet": p, "optimizer": {"state": {n: {"momentum_buffer": v} for n, v in p.items()}}},
        ["'alexnet'"],
    ),
    "module.": (renamed(lambda n: f"module.{n}"), ["'module.'"]),
    "features.module.": (renamed(inner), ["'module.'"]),
    "module. twice": (renamed(lambda n: f"module.{inner(n)}"), ["'module.'"]),
    "_orig_mod.": (renamed(lambda n: f"_orig_mod.{n}"), ["'_orig_mod.'"]),
    "_orig_mod.module.": (renamed(lambda n: f"_orig_mod.module.{n}"), ["'_orig_mod.' and 'module.'"]),
    "model.": (renamed(lambda n: f"model.{n}"), ["'model.'"]),
    "any prefix": (renamed(lambda n: f"backbone.alexnet.{n}"), ["'backbone.alexnet.'"]),
    "lightning": (lambda p: {"state_dict": {f"model.{n}": v for n, v in p.items()}}, ["'state_dict'", "'model.'"]),
    "averaged": (lambda p: {"n_averaged": SCALAR, **{f"module.{n}": v for n, v in p.items()}},
                 ["'n_averaged'", "'module.'"]),
    "numbers beside": (lambda p: {"epoch": 3, "best": 0.5, "note": None, **p}, ["'epoch', 'best', 'note'"]),
    "counters": (lambda p: {**p, "bn.num_batches_tracked": SCALAR}, []),
    "Python 2": (lambda p: b"ccollections\nOrderedDict\n" + instructions([[n, v] for n, v in p.items()]) + b"\x85R",
                 []),
    "a defaultdict": (lambda p: b"ccollections\ndefaultdict\ncbuiltins\ndict\n\x85R" + instructions(dict(p))[1:], []),
    "names of Python 2": (lambda p: b"}(" + b"".join(b"U" + bytes([len(n)]) + n.encode() + v for n, v in p.items())
                          + b"u", []),
    "parameters": (lambda p: {n: b"ctorch._utils\n_rebuild_parameter\n(" + v + b"\x88" + EMPTY + b"tR"
                              for n, v in p.items()}, []),
    "parameters of 0.3": (lambda p: {n: b"ctorch.nn.parameter\nParameter\n" + v + b"\x85R(\x88\x89" + EMPTY + b"tb"
                                     for n, v in p.items()}, []),
    "tensors of 0.3": (lambda p: {n: v.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor").replace(b"\x89" + EMPTY, b"")
                                  for n, v in p.items()}, []),
    "storages of a GPU": (lambda p: {n: v.replace(b"ctorch\nFloat", b"ctorch.cuda\nFloat") for n, v in p.items()}, []),
}  # fmt: skip


@pytest.mark.parametrize("before_1_6", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("kind", KINDS)
def test_states_are_found_however_they_are_wrapped(kind: str, before_1_6: bool) -> None:
    make, notes = KINDS[kind]
    plain = of(pth(state()))
    value = make(tensors(state(), b"N" if before_1_6 else b""))
    saved = of((legacy if before_1_6 else zipped)(value, state()))
    same(saved, plain)
    told = saved.description["notes"]
    assert len(told) == len(notes)
    assert all(part in note for part, note in zip(notes, told, strict=True))


HEADS = {
    "protocol 1": b"L%dL\n." % torch_state.MAGIC,
    "protocol 3": MAGIC.replace(b"\x80\x02", b"\x80\x03"),
    "protocol 4": MAGIC.replace(b"\x80\x02", b"\x80\x04\x95\x0d" + bytes(7)),
}


@pytest.mark.parametrize("protocol", HEADS)
def test_files_before_1_6_may_have_any_protocol(protocol: str) -> None:
    content = legacy(tensors(state(), b"N"), state())
    assert content.startswith(MAGIC)
    same(of(HEADS[protocol] + content[len(MAGIC) :]), of(pth(state())))


def test_what_was_dropped_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("a.pth"), zipped({"state_dict": {f"module.{n}": t for n, t in tensors(state()).items()}}, state()))
    assert call("a.pth", "b.safetensors") == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "note: read what the file has as 'state_dict'"
    assert second == "note: dropped 'module.' from the names"
    assert third.startswith("alexnet-owt, ")


# ---------------------------------------------------------------------------------------------- types and strides

TYPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float16": lambda a: a.astype(np.float16),
    "bfloat16": bfloat16,
    "float64": lambda a: a.astype(np.float64),
}


@pytest.mark.parametrize("container", ["zip", "before 1.6", "safetensors"])
@pytest.mark.parametrize("dtype", TYPES)
def test_other_floats_become_float32(dtype: str, container: str) -> None:
    theirs = {name: TYPES[dtype](array) for name, array in state().items()}
    if container == "safetensors":
        save_file(theirs, "a.pth")
        if dtype == "bfloat16":  # NumPy has no such type, so uint16 gets its name
            content = Path("a.pth").read_bytes()
            end = 8 + int.from_bytes(content[:8], "little")
            head = content[8:end].replace(b'"U16"', b'"BF16"')
            write(Path("a.pth"), len(head).to_bytes(8, "little") + head + content[end:])
        _, saved = read(Path("a.pth"))
    elif container == "zip":
        saved = of(zipped(tensors(theirs), theirs))
    else:
        saved = of(legacy(tensors(theirs, b"N"), theirs))
    rounded = {
        name: (bfloat16(array).astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16"
        else TYPES[dtype](array).astype(np.float32) for name, array in state().items()
    }  # fmt: skip
    same(saved, of(pth(rounded)))
    assert saved.description["notes"] == [f"{dtype} became float32"]


def test_numbers_beyond_float32_are_refused() -> None:
    theirs = {name: array.astype(np.float64) for name, array in state().items()}
    theirs["features.3.bias"][0] = 1e300
    with pytest.raises(WeightsError, match=r"^a\.pth: features\.3\.bias: expected numbers that float32 holds$"):
        of(zipped(tensors(theirs), theirs))


@pytest.mark.parametrize("before_1_6", [False, True], ids=["zip", "before 1.6"])
def test_expanded_tensors_are_read(before_1_6: bool) -> None:
    whole = state()
    whole["features.0.bias"] = np.full_like(whole["features.0.bias"], 0.25)
    stored = {**whole, "features.0.bias": np.full(1, 0.25, np.float32)}
    parts = tensors(stored, b"N" if before_1_6 else b"")
    shape = whole["features.0.bias"].shape
    key = str(list(whole).index("features.0.bias"))
    parts["features.0.bias"] = tensor(key, shape, 1, [0], view=b"N" if before_1_6 else b"")
    same(of((legacy if before_1_6 else zipped)(parts, stored)), of(pth(whole)))


def test_views_of_storages_before_1_6_are_read() -> None:
    together = np.concatenate([array.ravel() for array in state().values()])
    parts, at = {}, 0
    for i, (name, array) in enumerate(state().items()):
        view = b"(" + text(f"view{i}") + number(at) + number(array.size) + b"t"
        parts[name] = tensor("0", array.shape, together.size, view=view)
        at += array.size
    same(of(legacy(parts, {"all": together})), of(pth(state())))


# ---------------------------------------------------------------------------------------------- refused by name


def huge() -> bytes:
    """All the right names, and a million classes out of one value."""
    parts = tensors(state())
    parts["classifier.6.bias"] = tensor("0", [1 << 20], state()["features.0.weight"].size, [0])
    parts["classifier.6.weight"] = tensor("0", [1 << 20, 20], state()["features.0.weight"].size, [0, 0])
    return zipped(parts, state())


MODULE = instance("torchvision.models.alexnet", "AlexNet", {"training": True, "_parameters": {}, "_modules": {}})
IN_THE_STATE = {"a.weight": tensor("0", [1]), "a.bias": b"cos\nsystem\n(" + text("touch x") + b"tR"}
ONE = {"a": np.ones(1, np.float32)}
REFUSED: dict[str, tuple[bytes, str]] = {
    "a whole module": (zipped(MODULE, ONE), "whole module of class 'torchvision.models.alexnet.AlexNet'"),
    "a whole module before 1.6": (
        legacy(
            b"(" + text("module") + b"cmine\nNet\n" + text("net.py") + text("class Net: ...") + b"tQ)\x81"
            + instructions({"_modules": {}}) + b"b", ONE,
        ),
        "whole module of class 'mine.Net': expected its state_dict, which torch.save(model.state_dict(), PATH) writes",
    ),
    "a wrapped module": (zipped({"epoch": 3, "model": MODULE}, ONE), "whole module"),
    "TorchScript": (archive(pickled(MODULE), {"../constants.pkl": b"", "0": b""}), "TorchScript"),
    "an exported program": (archive(b"", {"../models/model.json": b""}), "an exported program"),
    "code in the state": (zipped(IN_THE_STATE, ONE), "data.pkl asks for 'os.system'; only tensors are read"),
    "code in the state before 1.6": (
        legacy({"a": tensor("0", [1], view=b"N"), "b": b"cos\nsystem\n" + EMPTY + b"\x85R"}, ONE),
        "the pickle asks for 'os.system'; only tensors are read",
    ),
    "several states": (
        zipped({"generator": {"w": tensor("0", [1])}, "critic": {"w": tensor("0", [1])}}, ONE),
        "expected one state_dict, got 2: 'generator', 'critic'; torch.save(torch.load(PATH)[NAME], OTHER) writes",
    ),
    "no state": (zipped({"epoch": 3}, ONE), "expected a state_dict of tensors, got a int as 'epoch'"),
    "names that differ": (
        zipped({"conv1.weight": tensor("0", [1]), "conv2.weight": tensor("0", [1])}, ONE),
        "missing features.0.weight; surplus 'conv1.weight'; missing features.0.bias; surplus 'conv2.weight'; ",
    ),
    "two networks": (
        zipped({f"{net}.{n}": t for net in ("student", "teacher") for n, t in tensors(state()).items()}, state()),
        "missing features.0.weight; surplus 'student.features.0.weight'",
    ),
    "a million classes": (huge(), "bytes in a file of"),
    "big-endian": (legacy({}, {}, little=False), "little-endian"),
    "another version": (legacy({}, {}, version=1002), "expected version 1,001"),
    "truncated": (legacy(tensors(ONE, b"N"), ONE)[:-1], "truncated: expected at least"),
    "another number of values": (
        legacy({**tensors(state(), b"N")}, state()).replace(b"\x04" + bytes(7), b"\x05" + bytes(7), 1),
        "'features.0.bias': expected 4 values, got 5",
    ),
    "a view beyond its storage": (
        legacy({"a": tensor("0", [1], 1, view=b"(" + text("v") + number(1) + number(1) + b"t")}, ONE),
        "a view is larger than what it shows",
    ),
    "a storage that is not there": (legacy({"a": tensor("7", [1], view=b"N")}, {}), "as '7' are not in the file"),
    "values of no tensor": (legacy({"a": b"N"}, ONE), "expected a state_dict of tensors, got a NoneType as 'a'"),
    "another type before 1.6": (
        legacy({"a": tensor("1", [1], view=b"N"), "b": tensor("0", [1], storage="QInt8Storage", view=b"N")}, ONE),
        "'a': its 4 bytes as '1' are not in the file, or lie behind values of a type that is not read",
    ),
    "no end": (legacy({}, {})[:40], "the pickle is damaged"),
    "text without end": (archive(pickled("x" * 600)[:-400], {}), "data.pkl is damaged"),
    "long names joined": (
        archive(b"\x80\x04" + text("x" * 600) + text("y" * 600) + b"\x93.", {}), "a name of more than 1,000 characters",
    ),
    "many instructions": (archive(b"\x80\x02" + b"N" * (INSTRUCTIONS + 1) + b".", {}), "got over 524,288 instructions"),
    "a dict again and again": (
        archive(b"\x80\x02" + instructions([[str(i), None] for i in range(999)]) + b"q\x00"
                + b"ccollections\nOrderedDict\nh\x00\x85R" * 999 + b".", {}),
        "got over 524,288 instructions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused_by_name(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = REFUSED[case]
    write(Path("a.pth"), content)
    assert call("a.pth", "b.safetensors") == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: a.pth: ") and err.count("\n") == 1 and len(err) < 1000
    assert os.listdir() == ["a.pth"]


def test_dicts_that_hold_one_another_end() -> None:
    loop = b"\x80\x02}q\x00" + b"(" + b"".join(text(str(i)) + b"h\x00" for i in range(2000)) + b"u."
    with pytest.raises(WeightsError, match="expected a state_dict of tensors"):
        of(archive(loop, {}))


# ---------------------------------------------------------------------------------------------- fuzz

SPARE = 64 << 20


def peak(content: bytes) -> tuple[str, int]:
    """What is said of a file, nothing if it is read, and the most memory that this took."""
    path, said = write(Path("fuzzed"), content), ""
    tracemalloc.start()
    try:
        _, saved = read(path)
        assert all(w.dtype == np.float32 for w in saved.weights.values())
    except WeightsError as e:
        said = str(e)
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return said, most


def refused_or_read(content: bytes) -> bool:
    """Whether the file is read; else it must be refused in one clear line. Either in bounded memory."""
    said, most = peak(content)
    assert not said or (said.startswith("fuzzed: ") and len(said) < 2000)
    assert most <= 4 * len(content) + SPARE
    return not said


def seeds() -> list[bytes]:
    """Small files before 1.6 of each kind, all of whose values are one, so that mutations meet the pickles."""
    scalar = tensor("0", [], 1, view=b"N")
    parts = {name: tensor("0", array.shape, 1, [0] * array.ndim, view=b"N") for name, array in state().items()}
    values = [instructions(make(parts)).replace(SCALAR, scalar) for make, _ in KINDS.values()]
    return [legacy(value, {"0": np.zeros(1, np.float32)}) for value in values]


OPCODES = b"0()]}{.2aebdhjqrRQtuXUKMJ\x80\x81\x85\x86\x87\x8a\x93\x94\xff"


def mutated(random: random.Random, content: bytes) -> bytes:
    """A few bytes changed, left out, doubled or added, or the end cut off."""
    made = bytearray(content)
    for _ in range(random.randint(1, 4)):
        at, span = random.randrange(len(made) or 1), random.choice([1, 1, 1, 2, 4, 8, 40])
        match random.randrange(5):
            case 0:
                made[at : at + span] = random.randbytes(span)
            case 1:
                del made[at : at + span]
            case 2:
                made[at:at] = made[at : at + span]
            case 3:
                made[at:at] = random.randbytes(span)
            case 4:
                made[at : at + 1] = bytes([random.choice(OPCODES)])
    return bytes(made if random.random() < 0.8 else made[: random.randrange(len(made) or 1)])


@pytest.mark.parametrize("count", [400, pytest.param(100_000, marks=pytest.mark.slow)])
def test_mutated_files_before_1_6_are_refused_or_read(count: int) -> None:
    rng, whole = random.Random(count), seeds()
    assert all(refused_or_read(content) for content in whole)
    read_too = sum(refused_or_read(mutated(rng, rng.choice(whole))) for _ in range(count))
    assert 0 < read_too < count  # else the mutations would be too many or too few


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
KEPT = (
    text("x"), b"cx\ny\n", REBUILD, tensor("0", [1] * 8).removeprefix(REBUILD)[:-1],
    b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(1) + b"t",
)  # fmt: skip
GROWING = {
    "lists": b"]", "dicts": b"}", "sets": b"\x8f", "kept values": b"N\x94", "marks": b"(", "tuples": b"N\x85",
    "lists of one": b"]Na", "dicts of one": b"}h\x00Ns", "names": b"cx\ny\n", "instances": b"h\x01)R",
    "tensors": b"h\x02h\x03R", "storages": b"h\x04Q", "text": b"X\x02\x00\x00\x00\xc3\xa9",
    "numbers": b"\x8a\x02\xff\x7f", "floats": b"G@\x09\x21\xfb\x54\x44\x2d\x18",
}  # fmt: skip


@pytest.mark.parametrize("kind", GROWING)
def test_pickles_that_grow_stay_bounded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many instructions as there may be, here a sixteenth of them, of the kinds that make the most of few bytes."""
    most = INSTRUCTIONS // 16
    monkeypatch.setattr(pickles, "INSTRUCTIONS", most)
    kept = b"".join(part + b"q" + bytes([i]) + b"0" for i, part in enumerate(KEPT))
    content = archive(b"\x80\x02" + kept + GROWING[kind] * most, {})
    said, taken = peak(content)
    assert f"got over {most:,} instructions" in said
    assert taken <= 4 * len(content) + SPARE // 16


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_written_is_read(data: st.DataObject) -> None:
    """Plain values however nested, in a pickle between others."""
    keys = st.text(max_size=5) | st.integers(-5, 5)
    leaves = (
        st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.floats(allow_nan=False) | st.text(max_size=9)
    )
    value = data.draw(
        st.recursive(
            leaves,
            lambda inside: st.lists(inside, max_size=4) | st.dictionaries(keys, inside, max_size=4)
            | st.lists(inside, max_size=4).map(tuple),
        )
    )  # fmt: skip
    three = Pickles(pickled(1) + pickled(value) + pickled(2), "x")
    assert [three.load(), three.load(), three.load()] == [1, value, 2]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.data())
def test_whatever_lies_beside_a_state_is_read_past(data: st.DataObject) -> None:
    beside = st.dictionaries(
        st.text("xyz", min_size=1, max_size=3),
        st.sampled_from([None, 3, 0.5, [], {}, (1, 2), ARGUMENTS, OPTIMIZER, b"\x8f", MODULE, SCALAR]),
        max_size=4,
    )
    wrapper = data.draw(st.sampled_from(torch_state.WRAPPERS))
    value = {**data.draw(beside), wrapper: tensors(state(), b"N")}
    same(of(legacy(value, state())), of(pth(state())))


def test_nothing_is_built_of_classes() -> None:
    """What a pickle asks for by name stays a name."""
    made = Pickles(pickled([ARGUMENTS, b"cos\nsystem\n", program({})[2:-1]]), "x").load()
    assert [type(item).__name__ for item in made] == ["Other", "Global", "dict"]
