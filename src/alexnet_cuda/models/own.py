"""Networks of modules that a user's function or class makes, as models: of a Python file, FILE.py:NAME, or registered.

What they consist of is found by running them once, on arrays that nobody writes (``backend.Rehearsal``).
"""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .. import backend, names, nn
from ..files import decoded
from ..suggest import nearest
from ..tensor import Function, Tensor
from .layers import Layer, Shape
from .model import Model, Row

INPUT, CLASSES = (32, 32, 3), 10
"""Of models that do not say another."""
LONGEST_FILE = 2**20
"""Bytes."""
BATCH = 2  # images of the run that finds the layers
ALLOW = "ALEXNET_ALLOW_CODE"
"""The environment variable with the digest of a text that may run."""


class OwnError(ValueError):
    """A user's file or function makes no network that can be used; the message is one line, with the user's file and
    line where something failed there."""


@dataclass(frozen=True)
class Leaf(Layer):
    """A module without children, or a parameter of one with children, as it was found in a network."""

    found: str
    windowed: str
    activation: str | None
    parameters: Mapping[str, Shape]
    """Shapes by name; that of a parameter that is the layer itself is ""."""
    buffers: Mapping[str, Shape]

    @property
    def kind(self) -> str:
        return self.found

    @property
    def window(self) -> str:
        return self.windowed

    def filter(self, shape: Shape) -> Shape | None:
        return self.parameters.get("w", self.parameters.get(""))

    def biases(self, shape: Shape) -> int:
        return sum(math.prod(kept) for name, kept in self.parameters.items() if name not in ("w", ""))

    def frozen(self, shape: Shape) -> int:
        return sum(map(math.prod, self.buffers.values()))

    def arrays(self, shape: Shape) -> dict[str, Shape]:
        return {**self.parameters, **self.buffers}

    def trained(self, shape: Shape) -> list[str]:
        return list(self.parameters)


class Call(NamedTuple):
    """A layer in its place, and the names of those whose outputs it sees, "" for the images."""

    row: Row
    inputs: tuple[str, ...]


class Noted(NamedTuple):
    """What a network consists of: parameters of modules with children, and all others in the order of their calls."""

    parameters: tuple[Row, ...]
    called: tuple[Call, ...]


class Maker:
    """A function or ``Module`` class of a user's, and what it is called with.

    Its first parameter takes the number of classes. If it has one named ``input``, that takes the images' (H, W, C); if
    it has one named ``devices``, the network places its parts itself on these, and is called with the images on each.
    Others need a default, and can be given as options.
    """

    def __init__(self, make: Callable[..., Any], where: str) -> None:
        """OwnError, which begins with ``where`` it comes from, for what cannot make networks."""
        self.make, self.where = make, where
        if isinstance(make, nn.Module) or not callable(make):
            got = "a Module itself" if isinstance(make, nn.Module) else type(make).__name__
            raise OwnError(f"{where}: expected a function or Module class that takes the number of classes, got {got}")
        if isinstance(make, type) and not issubclass(make, nn.Module):
            raise OwnError(f"{where}: expected a class derived from nn.Module, got one derived from {_bases(make)}")
        found = [p for p in inspect.signature(make).parameters.values() if p.kind not in (p.VAR_POSITIONAL,)]
        places = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        if not places:
            raise OwnError(f"{where}: expected a first parameter that takes the number of classes, got none")
        self.first = places[0]
        self.others = {p.name: p for p in found if p is not self.first and p.kind is not p.VAR_KEYWORD}
        for p in self.others.values():
            if p.default is p.empty and p.name not in ("input", "devices"):
                raise OwnError(f"{where}: {p.name}: expected a default for a parameter besides input and devices")

    def default(self, name: str, otherwise: Any) -> Any:
        """That of a parameter, if it has one and it is not None."""
        p = self.first if name == self.first.name else self.others.get(name)
        return otherwise if p is None or p.default in (p.empty, None) else p.default

    def __call__(
        self, classes: int, input: Shape, devices: Sequence[backend.Device], options: Mapping[str, Any]
    ) -> nn.Module:
        """The network. OwnError for a failure in a user's file and for what is no network."""
        special = {"input": input, "devices": tuple(devices)}
        given = {name: value for name, value in special.items() if name in self.others}
        given |= {name: value for name, value in options.items() if name in self.others}
        with blamed():
            network = self.make(classes, **given)
        if not isinstance(network, nn.Module):
            raise OwnError(f"{self.where}: expected a Module, got {type(network).__name__}")
        if not network.parameters():
            raise OwnError(f"{self.where}: expected a network with parameters, got none")
        if options.get("dropout") is False and "dropout" not in self.others:
            for module in network.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        return network


@dataclass(frozen=True)
class Own(Model):
    """A model that a user's function or class makes. ``outputs``: how many classes; ``options``: further arguments;
    ``code``: of a file its ``file``, the ``name`` in it, its ``text`` and ``digest``."""

    maker: Maker
    outputs: int
    noted: Noted = field(repr=False)
    options: Mapping[str, Any]
    code: Mapping[str, str] = field(repr=False)
    chain = False

    @classmethod
    def of(
        cls,
        name: str,
        source: str,
        maker: Maker,
        input: Sequence[int] = (),
        classes: int | None = None,
        options: Mapping[str, Any] | None = None,
        code: Mapping[str, str] | None = None,
    ) -> Own:
        """The model, which is made and run once to see its layers. ``input``, ``classes``: by default those of the
        maker. OwnError for what does not work."""
        options = dict(options or {})
        for key in options:
            known = [key for key in maker.others if key != "devices"]
            if key not in (*known, "input", "dropout"):
                expected = ", ".join(dict.fromkeys([*known, "input"]))
                raise OwnError(f"unknown option model.{key}: expected {expected}{nearest(key, known)}")
        H, W, C = _size(maker.where, options.get("input") or input or maker.default("input", INPUT))
        outputs = classes or maker.default(maker.first.name, CLASSES)
        if isinstance(outputs, bool) or not isinstance(outputs, int) or outputs < 1:
            raise OwnError(f"{maker.where}: classes: expected a whole number from 1 on, got {outputs!r}")
        given = {key: value for key, value in options.items() if key != "input"}
        if "dropout" not in maker.others and not isinstance(given.get("dropout", False), bool):
            raise OwnError(f"model.dropout: expected True or False, got {given['dropout']!r}")
        noted = _noted(maker, outputs, (H, W, C), _Arguments(repr(sorted(given.items())), given))
        return cls(
            name,
            source,
            (H, W, C),
            tuple(n.row.layer for n in noted.called),
            maker,
            outputs,
            noted,
            options,
            code or {},
        )

    @property
    def places_itself(self) -> bool:
        return "devices" in self.maker.others

    @property
    def classes(self) -> int:
        """How many: the network's outputs."""
        return self.outputs

    def with_classes(self, classes: int) -> Own:
        """The same model made for another number of ``classes``. OwnError as of ``of``."""
        if classes == self.outputs:
            return self
        return self.of(self.name, self.source, self.maker, self.input, classes, self.options, self.code)

    def changed(self, options: Mapping[str, Any]) -> Own:
        """The same model with other arguments, ``input`` among them; any takes dropout = False, to be without. OwnError
        for others than its maker takes."""
        if not options:
            return self
        merged = {**self.options, **options}
        return self.of(self.name, self.source, self.maker, self.input, self.outputs, merged, self.code)

    def rows(self) -> list[Row]:
        return [*self.noted.parameters, *(call.row for call in self.noted.called)]

    def connected(self) -> list[tuple[Layer, tuple[str, ...]]]:
        return [(call.row.layer, call.inputs) for call in self.noted.called]

    def entries(self) -> dict[str, Any]:
        return {"model": self.name, "code": self.code}

    def build(self, device: str | backend.Device | None = None, seed: int = 0) -> nn.Module:
        """The network, on ``device`` unless it places its parts itself. Weights that layers draw without a generator of
        their own depend on ``seed`` alone."""
        devices = backend.devices(device)
        given = {key: value for key, value in self.options.items() if key != "input"}
        with nn.seeded(seed):
            network = self.maker(self.outputs, self.input, devices, given)
        if not self.places_itself:
            network.to(devices[0])
        network.seed(seed)
        return network


def is_file(name: str) -> bool:
    """Whether a model's name is one in a Python file: FILE.py:NAME."""
    return bool(re.search(r"\.py(:\w*)?$", name))


def from_file(name: str) -> Own:
    """The model of FILE.py:NAME, whose code is run. OwnError for what there is not, or does not work."""
    file, _, attribute = name.rpartition(".py")
    file, attribute = f"{file}.py", attribute.removeprefix(":")
    path = Path(file).expanduser()
    try:
        with path.open("rb") as opened:
            content = opened.read(LONGEST_FILE + 1)
        if len(content) > LONGEST_FILE:
            raise OwnError(f"{file}: expected a Python file of at most {LONGEST_FILE:,} bytes, got more")
        text = decoded(content)
    except OSError as e:
        raise OwnError(f"{file}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise OwnError(f"{file}: expected text, got byte {content[e.start]:#04x} at {e.start}") from e
    _allow(text)
    return from_text({"file": names.text(path), "name": attribute, "text": text, "digest": digest(text)})


def digest(text: str) -> str:
    """What tells one text from another, in 16 characters."""
    return _digest(text)[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def taken_apart(code: Mapping[str, Any], error: type[ValueError]) -> tuple[str, str, str]:
    """The file, the name and the text of the ``code`` of a model that a file makes. The error for one that is
    incomplete, or whose digest is not its text's."""
    expected = "file", "name", "text", "digest"
    if sorted(code) != sorted(expected) or not all(isinstance(value, str) for value in code.values()):
        raise error(f"code: expected {', '.join(expected)} as strings, got {', '.join(map(str, code)) or 'nothing'}")
    if code["digest"] != digest(code["text"]):
        raise error(f"code: expected the text with digest {code['digest']}, got one with {digest(code['text'])}")
    return code["file"], code["name"], code["text"]


def from_text(code: Mapping[str, Any]) -> Own:
    """The model of an ``Own.code``. OwnError for one that is incomplete, or whose digest is not its text's, or whose
    text this user has not run from a file, as a checkpoint may come from anybody; and as of ``from_file``."""
    file, name, text = taken_apart(code, OwnError)
    if not _allowed(text):
        raise OwnError(
            f"{file}, digest {code['digest']}, is Python code that you have not run yet: read it (a run has it as "
            f"model.py), then allow it with {ALLOW}={code['digest']} or by naming it, --model model.py:{name}"
        )
    found = vars(_run(file, text))
    known = [
        key for key, value in found.items() if callable(value) and getattr(value, "__module__", "") == found["__name__"]
    ]
    if name not in found:
        listed = f" ({', '.join(known)})" if known else ""
        wanted = f"no {name} in it" if name else "expected FILE.py:NAME, with the name of a function or Module class"
        raise OwnError(f"{file}: {wanted}{listed}{nearest(name, known)}")
    return Own.of(name, f"{file}, digest {code['digest']}", _maker(found[name], f"{file}:{name}"), code=code)


def registered(
    name: str,
    make: Callable[..., Any],
    input: Sequence[int] = (),
    source: str = "",
    classes: int | None = None,
) -> Own:
    """The model that ``models.register`` adds."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or is_file(name):
        raise OwnError(f"register: name: expected letters, digits, _, - and ., got {name!r}")
    return Own.of(name, source or f"registered as {name}", Maker(make, name), input, classes)


_known = set[str]()
"""Digests, all of them, of what this process has run from files."""


def _allow(text: str) -> None:
    """Remembers a file's text, which its user has named."""
    _known.add(_digest(text))
    with suppress(OSError):  # it is then asked for again another time
        _memory().mkdir(parents=True, exist_ok=True)
        (_memory() / _digest(text)).touch()


def _allowed(text: str) -> bool:
    return _digest(text) in _known or (_memory() / _digest(text)).exists() or os.environ.get(ALLOW) == digest(text)


def _memory() -> Path:
    """The folder with a file for each text that this user has run, called by its digest."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "alexnet_cuda" / "code"


_files = set[str]()
"""Names of the files whose code has been run."""


@contextmanager
def blamed() -> Iterator[None]:
    """Within this block what fails in a user's file is an OwnError that names file and line."""
    try:
        yield
    except OwnError:
        raise
    except (Exception, SystemExit) as e:
        if told := place(e):
            raise OwnError(told) from e
        raise


def place(error: BaseException) -> str:
    """Where in a user's file something failed, and why, in one line; "" for a failure that had no part in one."""
    if isinstance(error, SyntaxError) and error.filename in _files:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in _files]
    if not frames:
        return ""
    last = frames[-1]
    inside = "" if last.name == "<module>" else f", in {last.name}"
    kind, hint = type(error).__name__, ""
    if isinstance(error, ModuleNotFoundError):
        hint = (
            "; the file is kept with the run, so it stands alone: it can import installed packages, not its neighbours"
        )
    return f"{last.filename}:{last.lineno}{inside}: {kind}: {' '.join(str(error).split())}{hint}".removesuffix(": ")


@lru_cache(maxsize=16)
def _run(file: str, text: str) -> ModuleType:
    """The module that a file's text makes."""
    module = ModuleType(f"alexnet_cuda_own_{digest(text)}")
    module.__file__ = file
    _files.add(file)
    sys.modules[module.__name__] = module  # data classes look their module up
    with blamed():
        exec(compile(text, file, "exec"), vars(module))
    return module


@lru_cache(maxsize=16)
def _maker(make: Callable[..., Any], where: str) -> Maker:
    return Maker(make, where)


def _bases(kind: type) -> str:
    return ", ".join(base.__name__ for base in kind.__bases__)


def _size(where: str, size: Any) -> tuple[int, int, int]:
    if (
        not isinstance(size, Sequence)
        or len(size) != 3
        or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in size)
    ):
        raise OwnError(f"{where}: input: expected height, width and channels as whole numbers above 0, got {size!r}")
    H, W, C = size
    return H, W, C


@dataclass(frozen=True)
class _Arguments:
    """Options, some of which may be lists, as a key of a cache."""

    text: str
    options: Mapping[str, Any] = field(compare=False)


# ---- what a network consists of


@lru_cache(maxsize=64)
def _noted(maker: Maker, classes: int, input: Shape, arguments: _Arguments) -> Noted:
    """What the network consists of. OwnError for one that fails, or whose output is not (N, classes)."""
    places = [backend.Device("cpu", i) for i in range(2 if "devices" in maker.others else 1)]
    with nn.seeded(0):
        network = maker(classes, input, places, arguments.options)
    notes = _Notes(network)
    with backend.rehearsing(backend.Rehearsal(places[0])), blamed():
        images = [Tensor(backend.empty((BATCH, *input), np.float32, place), True, place) for place in places]
        notes.origins.update({id(x): "" for x in images})
        with nn.watching(network, notes.seen):
            y = network(*images)
    if not isinstance(y, Tensor) or y.shape != (BATCH, classes):
        got = y.shape if isinstance(y, Tensor) else type(y).__name__
        raise OwnError(
            f"{maker.where}: expected an output of shape ({BATCH}, {classes}) for {BATCH} images of {classes} classes, "
            f"got {got}"
        )
    rows = (
        Row(Leaf(name, "Parameter", "", None, {"": tuple(p.shape)}, {}), (), (), tuple(p.shape), 0)
        for name, p in network.named_parameters()
        if p not in notes.parameters
    )
    return Noted(tuple(rows), tuple(notes.calls))


class _Notes:
    """Layers as they are called, and whose outputs they see: found on the graph that a backward pass would take."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.calls = list[Call]()
        self.parameters = set[Tensor]()
        """Those that the rows count, and buffers."""
        self.origins = dict[int, str]()
        """Names of the layers by the ids of what their outputs were computed by, and "" of the images."""
        self._kept = list[Tensor | Function]()  # so that no id means another later

    def seen(self, name: str, module: nn.Module, xs: tuple[Tensor, ...], y: Tensor) -> None:
        inputs = tuple(dict.fromkeys(origin for x in xs for origin in self._origins(x)))
        if module is not self.network:
            parameters, buffers = self._new(module.named_parameters()), self._new(module.named_buffers())
        else:
            parameters, buffers = {}, {}
        shapes = tuple(xs[0].shape[1:]), tuple(y.shape[1:])
        self.calls.append(Call(_row(name, module, *shapes, parameters, buffers), inputs))
        made = y.function or y
        self._kept.append(made)
        self.origins[id(made)] = name

    def _new(self, named: Iterator[tuple[str, Tensor]]) -> dict[str, Shape]:
        """Shapes of those that no row counts yet, which this one does then: tied weights count once."""
        new = {key: t for key, t in named if t not in self.parameters}
        self.parameters.update(new.values())
        return {key: tuple(t.shape) for key, t in new.items()}

    def _origins(self, x: Tensor) -> Iterator[str]:
        """Of the layers that were the last on the ways from the images to x."""
        waiting, seen = [x.function or x], set[int]()
        while waiting:
            made = waiting.pop()
            if id(made) in self.origins:
                yield self.origins[id(made)]
            elif isinstance(made, Function) and id(made) not in seen:
                seen.add(id(made))
                waiting += [source for source in reversed(made.sources) if source is not None]


def _row(
    name: str,
    module: nn.Module,
    input: Shape,
    output: Shape,
    parameters: Mapping[str, Shape],
    buffers: Mapping[str, Shape],
) -> Row:
    """A module with its shapes, and those of what it is to be counted for."""
    kind = next(c for c in type(module).__mro__ if c.__module__.startswith(nn.__name__))
    found = type(module).__name__ if kind is nn.Module else kind.__name__
    macs = 0
    weights = getattr(module, "w", None)
    if weights is not None and isinstance(module, nn.Conv2d | nn.Local2d | nn.Linear):
        places = math.prod(output[:-1]) if not isinstance(module, nn.Local2d) else 1
        macs = places * math.prod(weights.shape)
    leaf = Leaf(name, found, _window(module), getattr(module, "activation", None), parameters, buffers)
    return Row(leaf, input, output, leaf.filter(input), macs)


def _window(module: nn.Module) -> str:
    """As of ``Layer.window``."""
    if isinstance(module, nn.Dropout):
        return f"p={module.p:g} {module.form}"
    if isinstance(module, nn.Conv2d | nn.Local2d):
        sides = module.w.shape[-3:-1]
    elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        sides = (module.size, module.size) if isinstance(module.size, int) else module.size
    else:
        return ""
    groups = f" g{module.groups}" if isinstance(module, nn.Conv2d) else ""
    stride = sides if module.stride is None else module.stride
    return f"{_by(sides)}/{_by(stride)} p{_by(module.padding)}{' ceil' if module.ceil else ''}{groups}"


def _by(number: Any) -> str:
    return "x".join(map(_by, number)) if isinstance(number, Sequence) else str(number)
