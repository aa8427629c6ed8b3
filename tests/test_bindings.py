"""The native modules: what they refuse, in which words, and that the interpreter goes on while they work."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

import alexnet_cuda
from alexnet_cuda import backend

F32, BF16, I8, I32, U8, U64 = np.float32, bfloat16, np.int8, np.int32, np.uint8, np.uint64

CONV = {
    "N": 2, "H": 5, "W": 6, "C": 4, "K": 6, "KH": 3, "KW": 2, "groups": 2,
    "stride_h": 2, "stride_w": 1, "pad_top": 1, "pad_left": 0, "OH": 3, "OW": 5,
}  # fmt: skip
POOL = {
    "N": 2, "H": 5, "W": 6, "C": 4, "KH": 3, "KW": 2, "stride_h": 2, "stride_w": 2,
    "pad_top": 1, "pad_left": 0, "OH": 3, "OW": 3,
}  # fmt: skip
LRN = {"rows": 6, "C": 8, "groups": 2, "size": 3, "k": 2.0, "alpha": 1e-4, "beta": 0.75}
SPATIAL_LRN = {"N": 2, "H": 5, "W": 6, "C": 4, "size": 3, "k": 1.0, "alpha": 1e-4, "beta": 0.75}
ADAM = {
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-7,
    "epsilon_hat": 1e-6,
    "decay": 0.0,
    "decoupled_decay": 0.1,
    "lr_scale": 1.0,
}
AUGMENT = {"N": 2, "stored_h": 6, "stored_w": 7, "H": 4, "W": 5, "scale_r": 0.5, "scale_g": 0.25, "scale_b": 2.0}
STUB = Path(alexnet_cuda.__file__).with_name("_cpu.pyi")
OF_CPU_ALONE = {"set_blas", "set_threads", "threads"}
SCRATCH = ("workspace", (1 << 21,), U8)


@dataclass(frozen=True)
class Launcher:
    """A right call: outputs and inputs as (name, shape, dtype) in the order of the arguments, then the rest.

    A rest given as a function makes the shape struct of the module in question.
    """

    name: str
    outputs: list[tuple[str, tuple[int, ...], Any]]
    inputs: list[tuple[str, tuple[int, ...], Any]]
    rest: list[Any] = field(default_factory=list)
    scratch: bool = False
    in_place: tuple[tuple[str, str], ...] = ()
    free_shapes: tuple[str, ...] = ()
    """Inputs that set the shapes of the others."""

    @property
    def arrays(self) -> list[tuple[str, tuple[int, ...], Any]]:
        return [*self.outputs, *self.inputs, *([SCRATCH] if self.scratch else [])]

    @property
    def written(self) -> list[str]:
        return [name for name, _, _ in self.outputs] + ["workspace"] * self.scratch

    def call(self, native: ModuleType, arrays: dict[str, Any]) -> None:
        first = [arrays[name] for name, _, _ in [*self.outputs, *self.inputs]]
        rest = [r(native) if callable(r) else r for r in self.rest]
        last = [arrays["workspace"]] if self.scratch else []
        getattr(native, self.name)(*first, *rest, *last)


class Lists(Launcher):
    """Its arrays go in lists."""

    def call(self, native: ModuleType, arrays: dict[str, Any]) -> None:
        getattr(native, self.name)(*([arrays[name]] for name, _, _ in self.arrays), *self.rest)


def conv(native: ModuleType) -> Any:
    return native.Conv2d(**CONV)


def options(precision: str, relu: bool = False) -> Callable[[ModuleType], Any]:
    return lambda native: native.Conv2dOptions(precision=precision, relu=relu)


def winograd(native: ModuleType) -> Any:
    return native.Conv2d(**{**CONV, "KH": 3, "KW": 3, "stride_h": 1, "stride_w": 1, "OH": 4, "OW": 5})


def hopper_conv(native: ModuleType) -> Any:
    return native.Conv2d(**CONV | {"C": 32, "KW": 3, "stride_w": 2, "pad_left": 1, "OW": 3})


def hopper_gradient_conv(native: ModuleType) -> Any:
    return native.Conv2d(**CONV | {"K": 32, "KW": 3, "stride_h": 1, "pad_left": 1, "OH": 5, "OW": 6})


def hopper_weight_conv(native: ModuleType) -> Any:
    return native.Conv2d(**CONV | {"C": 32, "K": 8, "KW": 3, "stride_w": 2, "pad_left": 1, "OW": 3})


def pool(native: ModuleType) -> Any:
    return native.Pool2d(**POOL)


def lrn(native: ModuleType) -> Any:
    return native.Lrn(**LRN)


def pooled_lrn(native: ModuleType) -> Any:
    return native.Lrn(**LRN | {"rows": 60, "C": 4, "size": 5})


def lrn_pool(native: ModuleType) -> Any:
    return native.Pool2d(**POOL | {"KW": 3, "OW": 2})


def spatial_lrn(native: ModuleType) -> Any:
    return native.SpatialLrn(**SPATIAL_LRN)


def reduce(native: ModuleType) -> Any:
    return native.Reduce(outer=2, K=70, inner=3)


def adam(native: ModuleType) -> Any:
    return native.Adam(**ADAM)


def augment(native: ModuleType) -> Any:
    return native.Augment(**AUGMENT)


X, Y, W = (2, 5, 6, 4), (2, 3, 5, 6), (6, 3, 2, 2)
WY, WW = (2, 4, 5, 6), (6, 3, 3, 2)
LOCAL = (3, 5, 6, 3, 2, 2)
P = (2, 3, 3, 4)
LP = (2, 3, 2, 4)
ANY = (3, 5)
WEIGHTS = [("weights", (5,), F32), ("sums", (2,), F32)]
MIXED = [("others", (3,), I32), ("mix", (3,), F32)]
TONED = [("noise", (2, 3), F32), ("tones", (2, 2), F32), ("mix", (2,), F32)]
ROWS = (2, 3, 8)


def activation(name: str, T: Any = F32) -> list[Launcher]:
    return [
        Launcher(f"{name}_forward", [("y", ANY, T)], [("x", ANY, T)], in_place=(("y", "x"),), free_shapes=("x",)),
        Launcher(
            f"{name}_backward",
            [("dx", ANY, T)],
            [("dy", ANY, T), ("y", ANY, T)],
            in_place=(("dx", "dy"),),
            free_shapes=("dy",),
        ),
    ]


def space_to_depth(T: Any, precision: str) -> list[Launcher]:
    return [
        Launcher("space_to_depth_conv2d_forward", [("y", Y, T)], [("x", X, T), ("w", W, T), ("b", (6,), F32)],
                 [conv, options(precision, relu=True)], True),
        Launcher("space_to_depth_conv2d_backward_input", [("dx", X, T)], [("dy", Y, T), ("w", W, T), ("mask", X, T)],
                 [conv, options(precision)], True),
        Launcher("space_to_depth_conv2d_backward_weight", [("dw", W, F32), ("db", (6,), F32)],
                 [("dy", Y, T), ("x", X, T)], [conv, options(precision)], True),
    ]  # fmt: skip


def hopper(T: Any, precision: str) -> list[Launcher]:
    return [
        Launcher("hopper_conv2d_forward", [("y", (2, 3, 3, 6), T)],
                 [("x", (2, 5, 6, 32), T), ("w", (6, 3, 3, 16), T), ("b", (6,), F32)],
                 [hopper_conv, options(precision, relu=True)], True),
        Launcher("hopper_conv2d_backward_input", [("dx", X, T)],
                 [("dy", (2, 5, 6, 32), T), ("w", (32, 3, 3, 2), T), ("mask", X, T)],
                 [hopper_gradient_conv, options(precision)], True),
        Launcher("hopper_conv2d_backward_weight", [("dw", (8, 3, 3, 16), F32), ("db", (8,), F32)],
                 [("dy", (2, 3, 3, 8), T), ("x", (2, 5, 6, 32), T)], [hopper_weight_conv, options("bf16")], True),
    ]  # fmt: skip


LAUNCHERS = [
    Launcher("gemm", [("c", (3, 4), F32)], [("a", (3, 5), F32), ("b", (5, 4), F32)], [False, False, 1.0, 0.0], True),
    Launcher("gemm_sgd", [("w", (3, 4), F32), ("v", (3, 4), F32)],
             [("a", (5, 3), F32), ("b", (5, 4), F32), ("lr", (), F32)], [0.9, 5e-4, True], True),
    Launcher("tensor_gemm", [("c", (3, 4), F32), ("db", (3,), F32)], [("a", (5, 3), F32), ("b", (5, 4), F32),
             ("bias", (4,), F32), ("mask", (3, 4), F32)], [True, False, 1.0, 0.0, True, "tf32"], True),
    Launcher("tensor_gemm_dropout", [("y", (3, 4), F32)],
             [("x", (3, 5), F32), ("w", (4, 5), F32), ("b", (4,), F32), ("state", (2,), U64)],
             [0, 0.5, 1.0, 3, "tf32"], True),
    Launcher("tensor_gemm_dropout", [("y", (3, 4), BF16)],
             [("x", (3, 5), BF16), ("w", (4, 5), BF16), ("b", (4,), F32), ("state", (2,), U64)],
             [0, 0.5, 1.0, 3, "bf16"], True),
    Launcher("tensor_gemm_sgd", [("w", (3, 4), F32), ("v", (3, 4), F32), ("stored", (3, 4), BF16)],
             [("a", (5, 3), F32), ("b", (5, 4), F32), ("lr", (), F32)], [0.9, 5e-4, True, "tf32"], True),
    Launcher("tensor_gemm_sgd", [("w", (3, 4), F32), ("v", (3, 4), F32), ("stored", (3, 4), BF16)],
             [("a", (5, 3), BF16), ("b", (5, 4), BF16), ("lr", (), F32)], [0.9, 5e-4, False, "bf16"], True),
    Launcher("skinny_gemm", [("y", (3, 4), F32)], [("x", (3, 5), F32), ("w", (4, 5), F32), ("b", (4,), F32)],
             [True, "fp32"], True),
    Launcher("skinny_gemm", [("y", (3, 4), BF16)], [("x", (3, 5), BF16), ("w", (4, 5), BF16), ("b", (4,), F32)],
             [True, "bf16"], True),
    Launcher("short_gemm", [("y", (9, 4), F32)], [("x", (9, 5), F32), ("w", (4, 5), I8), ("scale", (4,), F32),
             ("b", (4,), F32)], [True], True),
    Launcher("bias_forward", [("y", ANY, F32)], [("x", ANY, F32), ("b", (5,), F32)], [True], in_place=(("y", "x"),)),
    Launcher("bias_backward", [("db", (5,), F32)], [("dy", ANY, F32)], scratch=True, free_shapes=("dy",)),
    Launcher("conv2d_forward", [("y", Y, F32)], [("x", X, F32), ("w", W, F32), ("b", (6,), F32)],
             [conv, options("fp32", relu=True)], True),
    Launcher("conv2d_backward_input", [("dx", X, F32)],
             [("dy", Y, F32), ("w", W, F32), ("mask", X, F32)], [conv, options("fp32")], True),
    Launcher("conv2d_backward_weight", [("dw", W, F32), ("db", (6,), F32)],
             [("dy", Y, F32), ("x", X, F32)], [conv, options("fp32")], True),
    Launcher("winograd_conv2d_forward", [("y", WY, F32)], [("x", X, F32), ("w", WW, F32), ("b", (6,), F32)],
             [winograd, options("fp32", relu=True)], True),
    Launcher("winograd_conv2d_backward_input", [("dx", X, F32)],
             [("dy", WY, F32), ("w", WW, F32), ("mask", X, F32)], [winograd, options("fp32")], True),
    Launcher("winograd_conv2d_backward_weight", [("dw", WW, F32), ("db", (6,), F32)],
             [("dy", WY, F32), ("x", X, F32)], [winograd, options("fp32")], True),
    Launcher("implicit_conv2d_forward", [("y", Y, F32)], [("x", X, F32), ("w", W, F32), ("b", (6,), F32)],
             [conv, options("bf16", relu=True)], True),
    *hopper(F32, "tf32"),
    *hopper(BF16, "bf16"),
    *space_to_depth(F32, "tf32"),
    *space_to_depth(BF16, "bf16"),
    Launcher("implicit_conv2d_backward_input", [("dx", X, F32)],
             [("dy", Y, F32), ("w", W, F32), ("mask", X, F32)], [conv, options("tf32")], True),
    Launcher("implicit_conv2d_backward_weight", [("dw", W, F32), ("db", (6,), F32)],
             [("dy", Y, F32), ("x", X, F32)], [conv, options("bf16")], True),
    Launcher("local2d_forward", [("y", Y, F32)], [("x", X, F32), ("w", LOCAL, F32), ("b", LOCAL[:3], F32)],
             [conv, True], True),
    Launcher("local2d_backward_input", [("dx", X, F32)], [("dy", Y, F32), ("w", LOCAL, F32)], [conv], True),
    Launcher("local2d_backward_weight", [("dw", LOCAL, F32)], [("dy", Y, F32), ("x", X, F32)], [conv], True),
    Launcher("bias_relu_backward", [("dx", ANY, BF16), ("db", (5,), F32)], [("dy", ANY, BF16), ("y", ANY, BF16)], [2.0],
             scratch=True, free_shapes=("dy",)),
    Launcher("lrn_max_pool2d_forward", [("y", LP, BF16), ("which", LP, U8)], [("x", X, BF16)], [pooled_lrn, lrn_pool]),
    Launcher("lrn_max_pool2d_backward", [("dx", X, BF16)], [("dy", LP, BF16), ("which", LP, U8), ("x", X, BF16)],
             [pooled_lrn, lrn_pool, True]),
    Launcher("max_pool2d_forward", [("y", P, F32), ("which", P, U8)], [("x", X, F32)], [pool]),
    Launcher("max_pool2d_backward", [("dx", X, F32)], [("dy", P, F32), ("which", P, U8)], [pool]),
    Launcher("avg_pool2d_forward", [("y", P, F32)], [("x", X, F32)], [pool]),
    Launcher("avg_pool2d_backward", [("dx", X, F32)], [("dy", P, F32)], [pool]),
    Launcher("lrn_forward", [("y", ROWS, F32)], [("x", ROWS, F32)], [lrn]),
    Launcher("lrn_backward", [("dx", ROWS, F32)], [("dy", ROWS, F32), ("x", ROWS, F32)], [lrn, True]),
    Launcher("spatial_lrn_forward", [("y", X, F32)], [("x", X, F32)], [spatial_lrn]),
    Launcher("spatial_lrn_backward", [("dx", X, F32)], [("dy", X, F32), ("x", X, F32)], [spatial_lrn], True),
    Launcher("batch_norm_forward", [("y", ANY, F32), *((name, (5,), F32) for name in ("mean", "r", "running_mean",
             "running_variance"))], [("x", ANY, F32), ("gamma", (5,), F32), ("beta", (5,), F32)], [0.9, 1e-3, True],
             scratch=True, free_shapes=("x",)),
    Launcher("batch_norm_backward", [("dx", ANY, F32), ("dgamma", (5,), F32), ("dbeta", (5,), F32)], [("dy", ANY, F32),
             ("x", ANY, F32), *((name, (5,), F32) for name in ("gamma", "mean", "r"))], [True], scratch=True,
             free_shapes=("dy",)),
    Launcher("tensor_gemm", [("c", (3, 4), F32), ("db", (3,), F32)], [("a", (5, 3), BF16), ("b", (5, 4), BF16),
             ("bias", (4,), F32), ("mask", (3, 4), F32)], [True, False, 1.0, 0.0, True, "bf16"], True),
    Launcher("implicit_conv2d_forward", [("y", Y, BF16)], [("x", X, BF16), ("w", W, BF16), ("b", (6,), F32)],
             [conv, options("bf16", relu=True)], True),
    Launcher("implicit_conv2d_backward_input", [("dx", X, BF16)],
             [("dy", Y, BF16), ("w", W, BF16), ("mask", X, BF16)], [conv, options("bf16")], True),
    Launcher("implicit_conv2d_backward_weight", [("dw", W, F32), ("db", (6,), F32)],
             [("dy", Y, BF16), ("x", X, BF16)], [conv, options("bf16")], True),
    Launcher("bias_forward", [("y", ANY, BF16)], [("x", ANY, BF16), ("b", (5,), F32)], [True], in_place=(("y", "x"),)),
    Launcher("bias_backward", [("db", (5,), F32)], [("dy", ANY, BF16)], scratch=True, free_shapes=("dy",)),
    Launcher("max_pool2d_forward", [("y", P, BF16), ("which", P, U8)], [("x", X, BF16)], [pool]),
    Launcher("max_pool2d_backward", [("dx", X, BF16)], [("dy", P, BF16), ("which", P, U8)], [pool]),
    Launcher("avg_pool2d_forward", [("y", P, BF16)], [("x", X, BF16)], [pool]),
    Launcher("avg_pool2d_backward", [("dx", X, BF16)], [("dy", P, BF16)], [pool]),
    Launcher("lrn_forward", [("y", ROWS, BF16)], [("x", ROWS, BF16)], [lrn]),
    Launcher("lrn_backward", [("dx", ROWS, BF16)], [("dy", ROWS, BF16), ("x", ROWS, BF16)], [lrn, True]),
    Launcher("batch_norm_forward", [("y", ANY, BF16), *((name, (5,), F32) for name in ("mean", "r", "running_mean",
             "running_variance"))], [("x", ANY, BF16), ("gamma", (5,), F32), ("beta", (5,), F32)], [0.9, 1e-3, True],
             scratch=True, free_shapes=("x",)),
    Launcher("batch_norm_backward", [("dx", ANY, BF16), ("dgamma", (5,), F32), ("dbeta", (5,), F32)],
             [("dy", ANY, BF16), ("x", ANY, BF16), *((name, (5,), F32) for name in ("gamma", "mean", "r"))], [True],
             scratch=True, free_shapes=("dy",)),
    Launcher("dropout", [("y", ANY, BF16)], [("x", ANY, BF16), ("state", (2,), U64)], [0, 0.5, 1.0, 3],
             in_place=(("y", "x"),), free_shapes=("x",)),
    Launcher("augment", [("y", (2, 4, 5, 3), BF16)],
             [("x", (2, 6, 7, 3), U8), ("mean", (6, 7, 3), F32), ("crops", (2, 3), I32), *TONED], [augment]),
    Launcher("augment_by_maps", [("y", (2, 4, 5, 3), BF16)],
             [("x", (2, 6, 7, 3), U8), ("mean", (6, 7, 3), F32), ("maps", (2, 2, 3), F32), *TONED], [augment]),
    Launcher("cast", [("y", ANY, BF16)], [("x", ANY, F32)], free_shapes=("x",)),
    *(Launcher("broadcast", [("y", ANY, T)], [(name, ANY, T) for name in "abcd"],
               ["clip_backward", [2, 4], [[0, 5, 1]] * 5, [0.0] * 4], free_shapes=("y", "a", "b", "c", "d"))
      for T in (F32, BF16)),
    Launcher("reduce_sum", [("y", (2, 3), F32)], [("x", (2, 70, 3), F32)], [reduce, 1.0], True),
    Launcher("reduce_max", [("y", (2, 3), BF16), ("which", (2, 3), I32)], [("x", (2, 70, 3), BF16)], [reduce], True),
    Launcher("reduce_max_backward", [("dx", (2, 70, 3), F32)], [("dy", (2, 3), F32), ("which", (2, 3), I32)], [reduce]),
    *activation("relu"),
    *activation("relu", BF16),
    *activation("tanh"),
    *activation("sigmoid"),
    Launcher("dropout", [("y", ANY, F32)], [("x", ANY, F32), ("state", (2,), U64)], [0, 0.5, 1.0, 3],
             in_place=(("y", "x"),), free_shapes=("x",)),
    Launcher("softmax", [("p", ANY, F32)], [("x", ANY, F32)]),
    Launcher("softmax_cross_entropy_forward", [("loss", (), F32), ("losses", (3,), F32), ("p", ANY, F32)],
             [("x", ANY, F32), ("labels", (3,), I32), *MIXED, *WEIGHTS], [0.1]),
    Launcher("softmax_cross_entropy_backward", [("dx", ANY, F32)],
             [("dloss", (), F32), ("p", ANY, F32), ("labels", (3,), I32), *MIXED, *WEIGHTS], [0.1]),
    Launcher("class_weight_sums", [("sums", (2,), F32)],
             [("labels", (3,), I32), *MIXED, ("weights", (4,), F32)], free_shapes=("labels", "weights")),
    Launcher("sgd", [("w", ANY, F32), ("v", ANY, F32)], [("g", ANY, F32), ("lr", (), F32)], [1.0, 0.9, 5e-4, True],
             free_shapes=("g",)),
    Lists("multi_sgd", [("w", ANY, F32), ("v", ANY, F32)], [("g", ANY, F32), ("lr", (), F32)], [[0.9], [5e-4], True],
          free_shapes=("g",)),
    Launcher("adam", [(name, ANY, F32) for name in "wmv"], [("g", ANY, F32), ("lr", (), F32), ("t", (), F32)], [adam],
             free_shapes=("g",)),
    Launcher("ema", [("average", ANY, F32)], [("w", ANY, F32), ("rate", (), F32)], free_shapes=("w",)),
    Launcher("augment", [("y", (2, 4, 5, 3), F32)],
             [("x", (2, 6, 7, 3), U8), ("mean", (6, 7, 3), F32), ("crops", (2, 3), I32), *TONED], [augment]),
    Launcher("augment_by_maps", [("y", (2, 4, 5, 3), F32)],
             [("x", (2, 6, 7, 3), U8), ("mean", (6, 7, 3), F32), ("maps", (2, 2, 3), F32), *TONED], [augment]),
]  # fmt: skip
MAY_BE_NONE = {
    "b", "bias", "db", "mask", "mix", "noise", "others", "stored", "sums", "tones", "weights", "workspace",
}  # fmt: skip
BY_NAME = {launcher.name: launcher for launcher in reversed(LAUNCHERS)}
STORED = {"augment": "y", "augment_by_maps": "y", "broadcast": "y", "tensor_gemm": "a", "tensor_gemm_sgd": "a"}
"""By whose dtype a launcher tells whether it works on bfloat16: of others x, or going back dy."""


NUMBERS = {("broadcast", name) for name in "abcd"}
"""In whose place a number may be."""


class OnGpu:
    """What looks like an array on a GPU, though its memory is NumPy's: enough to see what is refused."""

    def __init__(self, array: np.ndarray) -> None:
        interface = array.__array_interface__
        self.array = array
        self.__cuda_array_interface__ = {
            **{key: interface[key] for key in ("shape", "typestr", "data")},
            "strides": interface["strides"],
            "version": 3,
            "stream": 1,
        }


@dataclass(frozen=True)
class Module:
    native: ModuleType
    wrap: Callable[[np.ndarray], Any]
    other: Callable[[np.ndarray], Any]


BUILT = [name for name in ("_cpu", "_gpu") if importlib.util.find_spec(f"alexnet_cuda.{name}")]


@pytest.fixture(params=BUILT)
def module(request: pytest.FixtureRequest) -> Module:
    """Each native module that was built, with what makes its arrays and the other's."""
    native = importlib.import_module(f"alexnet_cuda.{request.param}")
    return Module(native, np.asarray, OnGpu) if request.param == "_cpu" else Module(native, OnGpu, np.asarray)


def right_arrays(launcher: Launcher) -> dict[str, np.ndarray]:
    return {name: np.ones(shape, dtype) for name, shape, dtype in launcher.arrays}


def refusal(launcher: Launcher, module: Module, name: str, bad: Any) -> tuple[type[Exception], str]:
    """What the call raises with ``bad`` as the array ``name`` and all else right."""
    arrays = {n: module.wrap(a) for n, a in right_arrays(launcher).items()}
    arrays[name] = bad
    with pytest.raises((TypeError, ValueError)) as caught:
        launcher.call(module.native, arrays)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{launcher.name}: ")
    return caught.type, message.removeprefix(f"{launcher.name}: ")


each_array = pytest.mark.parametrize(
    ("launcher", "name"),
    [
        pytest.param(launcher, name, id=f"{launcher.name}-{name}")
        for launcher in LAUNCHERS
        for name, _, _ in launcher.arrays
    ],
)


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda launcher: launcher.name)
def test_accepts_right_arrays(launcher: Launcher) -> None:
    arrays = right_arrays(launcher)
    inputs = {name: arrays[name] for name, _, _ in launcher.inputs}
    for a in inputs.values():
        a.flags.writeable = False
    launcher.call(backend.native(backend.Device("cpu")), arrays)
    assert all((a == 1).all() for a in inputs.values())


@each_array
def test_refuses_what_is_no_array(launcher: Launcher, name: str, module: Module) -> None:
    for bad in (
        [1.0, 2.0],
        3.0,
        "text",
        object(),
        None,
    ):
        if bad is None and (name in MAY_BE_NONE or (launcher.name, name) in NUMBERS):
            continue
        error, message = refusal(launcher, module, name, bad)
        kind = "an array on a GPU" if module.wrap is OnGpu else "a NumPy array"
        assert error is TypeError
        assert message == f"{name}: expected {kind}, got {type(bad).__name__}"


@each_array
def test_refuses_arrays_of_the_other_kind_of_device(launcher: Launcher, name: str, module: Module) -> None:
    error, message = refusal(launcher, module, name, module.other(right_arrays(launcher)[name]))
    assert error is ValueError
    if module.wrap is OnGpu:
        assert message == f"{name}: expected an array on a GPU, got one in host memory"
    else:
        assert message == f"{name}: expected a NumPy array, got one on a GPU"


@each_array
@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.int64, np.uint8, np.bool_, np.complex64, ">f4"])
def test_refuses_other_dtypes(launcher: Launcher, name: str, dtype: Any, module: Module) -> None:
    right = right_arrays(launcher)[name]
    if right.dtype == dtype:
        return
    error, message = refusal(launcher, module, name, module.wrap(right.astype(dtype)))
    assert error is TypeError
    first = STORED.get(launcher.name, "dy" if "backward" in launcher.name else "x")
    expected = "float32" if name == first and right.dtype == BF16 else right.dtype
    assert message.startswith(f"{name}: expected a C-contiguous {expected} array")
    assert message.endswith(f", got {np.dtype(dtype)} {right.shape}")


@each_array
def test_refuses_other_shapes(launcher: Launcher, name: str, module: Module) -> None:
    right = right_arrays(launcher)[name]
    wrong = [np.ones((*right.shape, 2), right.dtype)]
    if right.ndim:
        wrong += [np.ones((right.shape[0] + 1, *right.shape[1:]), right.dtype), np.ones(right.shape[:-1], right.dtype)]
    for bad in wrong:
        if name in launcher.free_shapes or name == "workspace":
            continue
        arrays = {n: module.wrap(a) for n, a in right_arrays(launcher).items()}
        arrays[name] = module.wrap(bad)
        with pytest.raises(ValueError, match=rf"^{launcher.name}: \w+: expected ") as caught:
            launcher.call(module.native, arrays)
        assert "got" in str(caught.value)


@each_array
def test_refuses_arrays_without_elements(launcher: Launcher, name: str, module: Module) -> None:
    right = right_arrays(launcher)[name]
    error, _ = refusal(launcher, module, name, module.wrap(np.ones((0, *right.shape[1:]), right.dtype)))
    assert error is ValueError


@each_array
def test_refuses_other_layouts(launcher: Launcher, name: str, module: Module) -> None:
    right = right_arrays(launcher)[name]
    if right.ndim == 0:
        return
    wrong = [np.repeat(right, 2, axis=-1)[..., ::2], np.broadcast_to(right[..., :1], right.shape), right[..., ::-1]]
    if right.ndim > 1:
        wrong.append(np.asfortranarray(right))
    for bad in wrong:
        assert bad.shape == right.shape
        error, message = refusal(launcher, module, name, module.wrap(bad))
        assert error is ValueError
        assert "C-contiguous" in message
        assert f"non-contiguous {right.dtype} {right.shape}" in message


@each_array
def test_refuses_misaligned_memory(launcher: Launcher, name: str, module: Module) -> None:
    right = right_arrays(launcher)[name]
    if right.dtype.itemsize == 1:
        return
    bad = np.frombuffer(bytearray(right.nbytes + 1), np.uint8)[1:].view(right.dtype).reshape(right.shape)
    assert refusal(launcher, module, name, module.wrap(bad)) == (
        ValueError,
        f"{name}: expected aligned memory, got an unaligned address",
    )


@pytest.mark.parametrize(
    ("launcher", "name"),
    [pytest.param(each, name, id=f"{each.name}-{name}") for each in LAUNCHERS for name in each.written],
)
def test_refuses_outputs_that_are_read_only(launcher: Launcher, name: str, module: Module) -> None:
    bad = right_arrays(launcher)[name]
    bad.flags.writeable = False
    error, message = refusal(launcher, module, name, module.wrap(bad))
    assert error is ValueError
    assert "expected a writable C-contiguous" in message
    assert f"got read-only {bad.dtype} {bad.shape}" in message


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda launcher: launcher.name)
def test_refuses_outputs_that_overlap(launcher: Launcher, module: Module) -> None:
    """Every output against every other array, the last byte of one being the first of the other."""
    for output in launcher.written:
        for other in right_arrays(launcher):
            if other == output:
                continue
            arrays = right_arrays(launcher)
            a, b = arrays[output], arrays[other]
            memory = np.zeros(a.nbytes + b.nbytes, np.uint8)
            common = max(a.itemsize, b.itemsize)
            at = (a.nbytes - 1) // common * common
            arrays[output] = memory[: a.nbytes].view(a.dtype).reshape(a.shape)
            arrays[other] = memory[at : at + b.nbytes].view(b.dtype).reshape(b.shape)
            with pytest.raises(
                ValueError, match=rf"^{launcher.name}: \w+: expected memory of its own, got memory that overlaps \w+$"
            ):
                launcher.call(module.native, {n: module.wrap(v) for n, v in arrays.items()})


@pytest.mark.parametrize("launcher", [each for each in LAUNCHERS if each.in_place], ids=lambda launcher: launcher.name)
def test_works_in_place_where_it_may(launcher: Launcher) -> None:
    native = backend.native(backend.Device("cpu"))
    apart = {name: np.full_like(a, 2) for name, a in right_arrays(launcher).items()}
    launcher.call(native, apart)
    for output, source in launcher.in_place:
        together = {name: np.full_like(a, 2) for name, a in right_arrays(launcher).items()}
        together[output] = together[source]
        launcher.call(native, together)
        np.testing.assert_array_equal(together[output], apart[output])


def test_message_tells_expected_and_got() -> None:
    launcher = replace(BY_NAME["conv2d_forward"])
    native = backend.native(backend.Device("cpu"))
    arrays: dict[str, Any] = right_arrays(launcher) | {"w": np.ones(W)}
    with pytest.raises(TypeError) as caught:
        launcher.call(native, arrays)
    expected = (
        "conv2d_forward: w: expected a C-contiguous float32 array of shape (6, 3, 2, 2), got float64 (6, 3, 2, 2)"
    )
    assert str(caught.value) == expected
    with pytest.raises(ValueError, match=r"^conv2d_forward: workspace: expected at least \d+ bytes, got 1$"):
        launcher.call(native, right_arrays(launcher) | {"workspace": np.ones(1, U8)})
    with pytest.raises(TypeError, match=r"^conv2d_forward: workspace: expected a NumPy array, got NoneType$"):
        launcher.call(native, right_arrays(launcher) | {"workspace": None})


def test_bias_of_a_convolution_may_be_none() -> None:
    native = backend.native(backend.Device("cpu"))
    launcher = BY_NAME["conv2d_forward"]
    with_zeros, without = right_arrays(launcher), right_arrays(launcher)
    with_zeros["b"][:] = 0
    launcher.call(native, with_zeros)
    launcher.call(native, without | {"b": None})
    np.testing.assert_array_equal(without["y"], with_zeros["y"])


# ---------------------------------------------------------------------------------------------- shape structs


@pytest.mark.parametrize(
    ("struct", "fields"),
    [
        ("Conv2d", CONV), ("Pool2d", POOL), ("Lrn", LRN), ("SpatialLrn", SPATIAL_LRN), ("Adam", ADAM),
        ("Augment", AUGMENT),
    ],
)  # fmt: skip
def test_structs_hold_what_they_were_made_of(struct: str, fields: dict[str, Any], module: Module) -> None:
    s = getattr(module.native, struct)(**fields)
    for name, value in fields.items():
        assert getattr(s, name) == pytest.approx(value, rel=1e-7)
        with pytest.raises(AttributeError):
            setattr(s, name, value)


@pytest.mark.parametrize(
    ("struct", "fields", "change", "message"),
    [
        (
            "Conv2d",
            CONV,
            {name: value},
            f"{name}: expected an integer from {int(not name.startswith('pad'))} to 2147483647, got {value}",
        )
        for name in CONV
        for value in (-1, 2**31, 2**62)
    ]
    + [
        ("Conv2d", CONV, {name: 0}, f"{name}: expected an integer from 1")
        for name in CONV
        if not name.startswith("pad")
    ]
    + [
        ("Conv2d", CONV, {"groups": 3}, "groups: expected a divisor of C = 4 and K = 6, got 3"),
        ("Conv2d", CONV, {"H": 50000, "W": 50000}, r"an image of x has more than 2\^31 - 1 elements"),
        ("Conv2d", CONV, {"OH": 50000, "OW": 50000}, r"y without its channels has more than 2\^31 - 1 elements"),
        ("Conv2d", CONV, {"OH": 30000, "OW": 30000}, r"an image of y has more than 2\^31 - 1 elements"),
        ("Conv2d", CONV, {"KH": 50000, "KW": 50000}, r"w has more than 2\^31 - 1 elements"),
        ("Conv2d", CONV, {"stride_h": 2**31 - 1}, r"the windows reach beyond 2\^31 - 1 pixels"),
        ("Pool2d", POOL, {"pad_top": 3}, "expected windows that all meet the image"),
        ("Pool2d", POOL, {"pad_left": 2}, "expected windows that all meet the image"),
        ("Pool2d", POOL, {"OH": 4}, "expected windows that all meet the image"),
        ("Pool2d", POOL, {"OW": 4}, "expected windows that all meet the image"),
        ("Pool2d", POOL, {"N": 0}, "N: expected an integer from 1 to 2147483647, got 0"),
        ("Lrn", LRN, {"groups": 3}, "groups: expected a divisor of C = 8, got 3"),
        ("Lrn", LRN, {"size": 0}, "size: expected an integer from 1 to 2147483647, got 0"),
        ("Lrn", LRN, {"alpha": float("nan")}, "alpha: expected a finite number, got nan"),
        ("Lrn", LRN, {"beta": float("inf")}, "beta: expected a finite number, got inf"),
        ("Lrn", LRN, {"k": 1e300}, "k: expected a finite number"),
    ],
)
def test_structs_refuse(
    struct: str, fields: dict[str, Any], change: dict[str, Any], message: str, module: Module
) -> None:
    with pytest.raises(ValueError, match=f"^{struct}: {message}"):
        getattr(module.native, struct)(**(fields | change))


def test_options_of_a_convolution(module: Module) -> None:
    made = module.native.Conv2dOptions(precision="tf32", relu=True)
    assert (made.precision, made.relu, made.hopper) == ("tf32", True, False)
    expected = "Conv2dOptions: precision: expected 'fp32', 'tf32' or 'bf16', got 'fp16'"
    with pytest.raises(ValueError, match=f"^{expected}$"):
        module.native.Conv2dOptions(precision="fp16")
    stored = next(
        launcher for launcher in LAUNCHERS if launcher.name == "implicit_conv2d_forward" and BF16 in launcher.outputs[0]
    )
    arrays = {name: module.wrap(a) for name, a in right_arrays(stored).items()}
    with pytest.raises(ValueError, match=r"precision: expected 'bf16' for arrays in bfloat16, got 'tf32'$"):
        replace(stored, rest=[conv, options("tf32")]).call(module.native, arrays)


def test_structs_refuse_missing_and_wrong_fields(module: Module) -> None:
    for fields in (
        {**CONV, "N": 2.5},
        {**CONV, "N": "2"},
        {**CONV, "M": 1},
        {k: v for k, v in CONV.items() if k != "OW"},
    ):
        with pytest.raises(TypeError):
            module.native.Conv2d(**fields)


@pytest.mark.parametrize(
    ("name", "rest", "message"),
    [
        ("gemm", [False, False, float("nan"), 0.0], "alpha: expected a finite number, got nan"),
        ("gemm", [False, False, 1.0, float("inf")], "beta: expected a finite number, got inf"),
        ("tensor_gemm", [True, False, 1.0, float("nan"), False, "tf32"], "beta: expected a finite number, got nan"),
        ("tensor_gemm", [True, False, 1.0, 0.0, False, "fp32"], "precision: expected 'tf32' or 'bf16', got 'fp32'"),
        (
            "tensor_gemm",
            [True, False, 0, 0, False, "tf32"],
            "db: expected None unless a alone is transposed and alpha is not 0",
        ),
        ("conv2d_forward", [conv, options("tf32")], "precision: expected 'fp32', got 'tf32'"),
        ("winograd_conv2d_backward_input", [winograd, options("bf16")], "precision: expected 'fp32', got 'bf16'"),
        ("implicit_conv2d_forward", [conv, options("fp32")], "precision: expected 'tf32' or 'bf16', got 'fp32'"),
        ("hopper_conv2d_forward", [conv, options("tf32")], "shape: this convolution cannot be computed so"),
        ("skinny_gemm", [False, "fp16"], "precision: expected 'fp32', 'tf32' or 'bf16', got 'fp16'"),
        ("tensor_gemm_dropout", [0, 1.0, 1.0, 0, "tf32"], r"p: expected a number in \[0, 1\), got 1.0"),
        ("tensor_gemm_dropout", [0, 0.5, float("inf"), 0, "tf32"], "scale: expected a finite number, got inf"),
        ("tensor_gemm_dropout", [2**62, 0.5, 1.0, 0, "bf16"], r"first: expected an element below 2\^62, got \d+"),
        ("tensor_gemm_dropout", [0, 0.5, 1.0, 0, "fp32"], "precision: expected 'tf32' or 'bf16', got 'fp32'"),
        ("bias_relu_backward", [float("nan")], "scale: expected a finite number, got nan"),
        ("gemm_sgd", [float("nan"), 0.0, False], "momentum: expected a finite number, got nan"),
        ("tensor_gemm_sgd", [float("nan"), 0.0, False, "tf32"], "momentum: expected a finite number, got nan"),
        ("tensor_gemm_sgd", [0.9, float("inf"), False, "tf32"], "decay: expected a finite number, got inf"),
        ("tensor_gemm_sgd", [0.9, 0.0, False, "fp32"], "precision: expected 'tf32' or 'bf16', got 'fp32'"),
        (
            "broadcast",
            ["plus", [2, 4], [[0, 5, 1]] * 5, [0.0] * 4],
            "operation: expected one of broadcast.cu, got 'plus'",
        ),
        ("broadcast", ["copy", [1] * 5, [[0] * 6] * 2, [0.0]], "sizes: expected at most 4 axes, got 5"),
        (
            "broadcast",
            ["copy", [2, 4], [[0, 5, 1]] * 5, [0.0] * 4],
            "views: expected those of y and 1 operands, and as many numbers as operands",
        ),
        ("broadcast", ["copy", [2, 4], [[0, 5, 1]] * 2, [0.0]], "b: expected None, as 'copy' has no such operand"),
        ("broadcast", ["clip", [2, 4], [[0, 5, 1]] * 4, [0.0] * 3], "d: expected None, as 'clip' has no such operand"),
        (
            "broadcast",
            ["clip_backward", [2, 4], [[0, 5, 1], [0, 5], *([[0, 5, 1]] * 3)], [0.0] * 4],
            "a: expected a view of an offset and 2 strides, got 2 numbers",
        ),
        *(
            (
                "broadcast",
                ["clip_backward", [2, 4], [*([[0, 5, 1]] * 4), view], [0.0] * 4],
                "d: expected a view inside of its 15 elements, got offset and strides .*",
            )
            for view in ([7, 5, 1], [0, 15, 1], [0, -1, 1], [-1, 5, 1], [0, 2**62, 1], [2**63 - 1, 2**63 - 1, 1])
        ),
        *(
            (
                "broadcast",
                ["clip_backward", [2, 4], [view, *([[0, 5, 1]] * 4)], [0.0] * 4],
                r"y: expected a view whose elements have a place each, got offset and strides \d \d -?\d",
            )
            for view in ([0, 0, 1], [0, 3, 1], [3, 1, -1])
        ),
        (
            "broadcast",
            ["clip_backward", [2, 4], [[0, 13, 1], *([[0, 5, 1]] * 4)], [0.0] * 4],
            r"y: expected a view inside of its 15 elements, got offset and strides 0 13 1",
        ),
        ("reduce_sum", [reduce, float("nan")], "divisor: expected a finite number, got nan"),
        ("dropout", [0, 1.0, 1.0, 0], r"p: expected a number in \[0, 1\), got 1.0"),
        ("dropout", [0, float("nan"), 1.0, 0], r"p: expected a number in \[0, 1\), got nan"),
        ("dropout", [0, 0.5, float("nan"), 0], "scale: expected a finite number, got nan"),
        ("dropout", [2**62, 0.5, 1.0, 0], r"first: expected an element below 2\^62, got 4611686018427387904"),
        ("softmax_cross_entropy_forward", [1.0], r"smoothing: expected a number in \[0, 1\)"),
        ("softmax_cross_entropy_backward", [float("nan")], r"smoothing: expected a number in \[0, 1\)"),
        ("sgd", [float("nan"), 0.9, 0.0], "lr_scale: expected a finite number, got nan"),
        ("sgd", [1.0, float("nan"), 0.0], "momentum: expected a finite number, got nan"),
        ("sgd", [1.0, 0.9, float("-inf")], "decay: expected a finite number, got -inf"),
        ("batch_norm_forward", [float("nan"), 1e-3, True], "momentum: expected a finite number, got nan"),
        ("batch_norm_forward", [0.9, float("inf"), True], "epsilon: expected a finite number, got inf"),
    ],
)
def test_refuses_hyper_parameters(name: str, rest: list[Any], message: str, module: Module) -> None:
    launcher = replace(BY_NAME[name], rest=rest)
    with pytest.raises(ValueError, match=f"^{name}: {message}$"):
        launcher.call(module.native, {n: module.wrap(a) for n, a in right_arrays(launcher).items()})


def test_max_pool2d_refuses_windows_that_a_byte_cannot_number(module: Module) -> None:
    shape = module.native.Pool2d(**POOL | {"H": 17, "W": 17, "KH": 17, "KW": 17, "pad_top": 0, "OH": 1, "OW": 1})
    y, x = np.ones((2, 1, 1, 4), F32), np.ones((2, 17, 17, 4), F32)
    with pytest.raises(ValueError, match="at most 256 pixels"):
        module.native.max_pool2d_forward(module.wrap(y), module.wrap(y.astype(U8)), module.wrap(x), shape)


def test_lrn_refuses_other_numbers_of_rows(module: Module) -> None:
    x = module.wrap(np.ones((7, 8), F32))
    with pytest.raises(ValueError, match=r"^lrn_forward: x: expected 6 rows of 8 channels, got shape \(7, 8\)$"):
        module.native.lrn_forward(module.wrap(np.ones((7, 8), F32)), x, lrn(module.native))


# ---------------------------------------------------------------------------------------------- the modules


def test_stubs_list_the_names_of_the_modules(module: Module) -> None:
    stub = ast.parse(STUB.read_text())
    listed = {node.name for node in stub.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    if module.native.__name__.endswith("_gpu"):
        listed -= OF_CPU_ALONE
    assert listed == {n for n in vars(module.native) if not n.startswith("__")}


def test_stub_of_the_gpu_is_that_of_the_cpu() -> None:
    (statement,) = ast.parse(STUB.with_name("_gpu.pyi").read_text()).body
    assert ast.unparse(statement) == "from ._cpu import *"


def test_stubs_list_the_arguments() -> None:
    stub = ast.parse(STUB.read_text())
    native = backend.native(backend.Device("cpu"))
    for node in stub.body:
        if isinstance(node, ast.FunctionDef):
            arguments = [a.arg for a in node.args.args]
            signature = getattr(native, node.name).__doc__.splitlines()[0]
            assert [
                part.split(":")[0].strip()
                for part in signature[len(node.name) + 1 : signature.index(") ->")].split(", ")
                if part
            ] == arguments


def test_modules_have_the_same_launchers() -> None:
    if BUILT != ["_cpu", "_gpu"]:
        pytest.skip(f"only {BUILT} is built: {backend.build_info()['cuda_missing']}")
    cpu, gpu = (set(vars(importlib.import_module(f"alexnet_cuda.{name}"))) for name in BUILT)
    assert cpu - gpu == OF_CPU_ALONE
    assert gpu - cpu == set()


def test_every_launcher_is_tested_here() -> None:
    native = backend.native(backend.Device("cpu"))
    functions = {name for name, value in vars(native).items() if callable(value) and not isinstance(value, type)}
    assert functions - {"build_info", "broadcast_operations", *OF_CPU_ALONE} == set(BY_NAME) | {
        name for name in functions if name.endswith(("_workspace", "_takes"))
    }


# ---------------------------------------------------------------------------------------------- threads and processes


def _product(n: int = 900) -> np.ndarray:
    a = np.full((n, n), 0.5, F32)
    c = np.empty_like(a)
    backend.native(a).gemm(c, a, a)
    return c


def test_python_goes_on_while_a_launch_runs() -> None:
    with backend.blas(False):
        worker = threading.Thread(target=lambda: [_product(600) for _ in range(3)])
        rounds, start = 0, time.perf_counter()
        worker.start()
        while worker.is_alive():
            rounds += 1
            time.sleep(0.001)
        seconds = time.perf_counter() - start
    assert seconds > 0.01, "too fast to tell"
    assert rounds >= 5


def test_two_threads_at_once() -> None:
    results: list[np.ndarray] = []
    workers = [threading.Thread(target=lambda: results.extend(_product(300) for _ in range(20))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 40
    for c in results:
        np.testing.assert_array_equal(c, np.full((300, 300), 75, F32))


def _child(results: Any) -> None:
    results.put(float(_product(300).sum()))


def test_works_in_a_forked_process() -> None:
    _product(300)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_child, args=(results,))
    child.start()
    try:
        assert results.get(timeout=60) == 75 * 300 * 300
    finally:
        child.kill()
        child.join()


# ---------------------------------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
def test_arrays_in_host_memory_that_claim_a_gpu() -> None:
    if problem := backend.gpu_problem():
        pytest.skip(problem)
    x = OnGpu(np.ones(ANY, F32))
    with pytest.raises(ValueError, match=r"^relu_forward: x: expected an array on a GPU, got one in host memory$"):
        backend.native(backend.Device("cuda")).relu_forward(OnGpu(np.ones(ANY, F32)), x)


@pytest.mark.gpu
def test_the_current_device_and_stream_stay() -> None:
    if problem := backend.gpu_problem():
        pytest.skip(problem)
    cupy = backend.array_module(backend.Device("cuda"))
    last = cupy.cuda.runtime.getDeviceCount() - 1
    with cupy.cuda.Device(last):
        x = cupy.arange(-8, 8, dtype=F32)
        y = cupy.empty_like(x)
    with cupy.cuda.Device(0):
        side = cupy.cuda.Stream(non_blocking=True)
        backend.native(x).relu_forward(y, x, side.ptr if last == 0 else 0)
        assert cupy.cuda.runtime.getDevice() == 0
        side.synchronize()
    np.testing.assert_array_equal(y.get(), np.maximum(x.get(), 0))


@pytest.mark.gpu
def test_a_launch_waits_for_the_stream_that_makes_its_input() -> None:
    if problem := backend.gpu_problem():
        pytest.skip(problem)
    cupy = backend.array_module(backend.Device("cuda"))
    y = cupy.empty((1 << 22,), F32)
    producer, consumer = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    with producer:
        x = cupy.full((1 << 22,), -1, F32)
        for _ in range(200):
            cupy.add(x, 1, out=x)
        backend.native(x).relu_forward(y, x, consumer.ptr)
    consumer.synchronize()
    np.testing.assert_array_equal(y.get(), np.full(1 << 22, 199, F32))
