"""Kernels of a user's own file: compiled against vector.cuh and platform/gpu.cuh for the device at hand, and called
with the checks that the project's own launchers make."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import backend, files
from ..backend import rehearsal
from ..kernels.any_library import any_library
from ..kernels.arguments import check_array, check_integer, check_number
from ..suggest import nearest
from .compiler import CompileError, Library, build
from .declaration import Declaration, DeclarationError, Parameter, Sizes, declarations

__all__ = ["CompileError", "DeclarationError", "UserKernels", "compile"]


class UserKernels:
    """The launchers of one file, each a function under its own name."""

    def __init__(self, path: Path, launchers: dict[str, Declaration], checked: bool) -> None:
        self._path, self._checked, self._launchers = path, checked, launchers
        self._libraries = dict[Any, Library]()
        self._functions = {name: _function(launcher, self) for name, launcher in launchers.items()}

    def library(self, where: backend.Device) -> Library:
        """What is compiled for that device. CompileError with the compiler's words."""
        key = backend.capability(where)
        if key not in self._libraries:
            self._libraries[key] = build(self._path, list(self._launchers.values()), where, self._checked)
        return self._libraries[key]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or name not in self._functions:
            raise AttributeError(f"{self!r} has no launcher {name!r}{nearest(name, self._launchers)}")
        return self._functions[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._functions})

    def __repr__(self) -> str:
        return f"<kernels of {self._path.name}: {', '.join(self._launchers)}>"


def compile(path: str | os.PathLike[str], *, checked: bool = False) -> UserKernels:
    """The launchers of a .cu file, compiled by the host compiler for the CPU's executor, and by nvcc for a GPU when one
    is first used. What has been compiled before is taken from the cache ($XDG_CACHE_HOME/alexnet_cuda, else ~/.cache).

    A launcher is a function at file scope or in namespace alexnet that returns nothing, takes a ``Stream`` last and
    gives each array a shape in a comment: ``void scale(float* y /*[n], may be x*/, const float* x /*[n]*/, float
    factor, int n, Stream stream)``. In Python inputs and numbers are its arguments, in that order, without the sizes
    that inputs tell; outputs (``y=``) may be given, else they are made and returned, a tuple of them if there are
    several. Arrays come from NumPy, CuPy or any library that speaks DLPack. ``checked`` (CPU): blocks have a GPU's
    shape, and shared memory begins as NaN.

    Raises OSError for a file that cannot be read, DeclarationError for launchers that are not understood, CompileError
    for what does not compile.
    """
    file = Path(path).absolute()
    made = UserKernels(file, declarations(files.decoded(file.read_bytes()), file.name), checked)
    made.library(backend.default_device())
    return made


def _function(launcher: Declaration, owner: UserKernels) -> Callable[..., Any]:
    """The launcher as Python calls it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return _call(launcher, owner, args, kwargs)

    call.__name__ = call.__qualname__ = launcher.name
    call.__signature__ = launcher.signature  # type: ignore[attr-defined]  # functions take any attribute
    shapes = [f"{p.name} {p.dtype} [{', '.join(p.shape or ())}]" for p in (*launcher.outputs, *launcher.inputs)]
    call.__doc__ = f"{launcher.name}{launcher.signature}: {'; '.join(shapes)}."
    return any_library(call)


def _call(launcher: Declaration, owner: UserKernels, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name, sizes = launcher.name, Sizes(launcher.name)
    try:
        given = launcher.signature.bind(*args, **kwargs).arguments
    except TypeError as e:
        raise TypeError(f"{name}: {e}; it is {name}{launcher.signature}") from None
    given = {key: value for key, value in given.items() if value is not None}
    where = _device(launcher, given)
    for p in launcher.parameters:
        if p.shape is None and p.name in given:
            given[p.name] = _number(name, p, given[p.name])
            if p.whole:
                sizes.known[p.name] = given[p.name]
    arrays = (*launcher.inputs, *launcher.outputs)  # in this order, so that outputs are what is wrong
    for p in arrays:
        if p.name in given:
            sizes.learn(p, given[p.name].shape)
    for p in arrays:
        if p.name in given:
            sizes.check(p, given[p.name].shape)
        else:
            given[p.name] = backend.empty(sizes.shape(p), p.dtype, where)
    _check_memory(launcher, given)
    for p in launcher.parameters:
        if p.name not in given:  # a size
            given[p.name] = _number(name, p, sizes.known[p.name])
    if rehearsal.current is None:
        passed = [given[p.name] if p.shape is None else backend.address(given[p.name]) for p in launcher.parameters]
        owner.library(where).run(name, passed, where)
    results = tuple(given[p.name] for p in launcher.outputs)
    return results[0] if len(results) == 1 else results or None


def _device(launcher: Declaration, given: dict[str, Any]) -> backend.Device:
    """Where all arrays lie, after checking each by itself."""
    first, where = "", backend.default_device()
    for p in (*launcher.inputs, *launcher.outputs):
        if p.name not in given:
            continue
        here = check_array(launcher.name, p.name, given[p.name], dtype=p.dtype)
        if first and here != where:
            raise ValueError(f"{launcher.name}: {p.name}: expected an array on {where} like {first}, got one on {here}")
        first, where = first or p.name, here
    return where


def _number(name: str, p: Parameter, value: Any) -> Any:
    if p.whole:
        limits = np.iinfo(p.dtype)
        return check_integer(name, p.name, value, int(limits.min), int(limits.max))
    if p.dtype.kind == "f":
        return check_number(name, p.name, value)
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: {p.name}: expected a bool, got {value!r}")
    return bool(value)


def _check_memory(launcher: Declaration, given: dict[str, Any]) -> None:
    """Outputs are writable, and share memory with nothing but the input that they may be."""
    spans = dict[str, tuple[int, int]]()
    for p in (*launcher.inputs, *launcher.outputs):
        array, error = given[p.name], partial("{}: {}: expected {}, got {}".format, launcher.name, p.name)
        begin = backend.address(array)
        spans[p.name] = begin, begin + array.nbytes
        if begin % array.dtype.itemsize:
            raise ValueError(error("aligned memory", "an unaligned address"))
        if p.output and isinstance(array, np.ndarray) and not array.flags.writeable:
            raise ValueError(error("a writable array", "a read-only one"))
    for p in launcher.outputs:
        begin, end = spans[p.name]
        for other, (low, high) in spans.items():
            shared = begin < high and low < end and other != p.name
            if shared and not (other == p.may_be and (begin, end) == (low, high)):
                raise ValueError(f"{launcher.name}: {p.name}: expected memory of its own, got that of {other}")
