"""Wrong arguments of every function of `alexnet_cuda.kernels`: TypeError or ValueError with got and expected, never a
crash and never wrong numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import CUDA, KERNELS, Runner
from hypothesis import given, settings, strategies as st
from ml_dtypes import bfloat16

from alexnet_cuda import kernels

GOT_AND_EXPECTED = re.compile(r"(expected|needs).*got|does not fit", re.DOTALL)


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


IMAGE, FILTERS, LABELS = ones(2, 5, 6, 4), ones(6, 3, 2, 2), np.array([0, 2, 1], np.int32)
POOLED, WHICH = ones(2, 2, 3, 4), np.zeros((2, 2, 3, 4), np.uint8)
POOL = {"size": 2, "stride": 2, "padding": 0, "ceil": False}
LRN = {"size": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75, "groups": 2}
LRN_POOL = {
    "lrn_size": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75, "groups": 2,
    "size": 3, "stride": 2, "padding": 0, "ceil": True,
}  # fmt: skip
DROPOUT = {"p": 0.5, "form": "paper", "training": True, "seed": 0, "step": 0, "purpose": 0, "first": 0}
CONV = {"stride": 1, "padding": 1, "groups": 2, "ceil": False}
PRODUCT = {"precision": "bf16", "algorithm": "auto"}

LOCAL = ones(5, 7, 6, 3, 2, 2)
SPATIAL_LRN = {"size": 3, "k": 1.0, "alpha": 1e-4, "beta": 0.75}

# One right call of every function: name -> arguments
MAY_BE_NONE = ("b", "c", "dloss", "mask", "mix", "noise", "others", "stored", "tones", "weights")
INTEGERS = ("labels", "others", "crops")
MIXED: dict[str, Any] = {"others": LABELS, "mix": ones(3)}
CALLS: dict[str, dict[str, Any]] = {
    "gemm": {
        "a": ones(3, 4), "b": ones(4, 5), "transpose_a": False, "transpose_b": False,
        "alpha": 1.0, "beta": 0.5, "c": ones(3, 5), "precision": "fp32",
    },
    "bias": {"x": ones(3, 4), "b": ones(4), "relu": False},
    "bias_backward": {"dy": ones(3, 4)},
    "bias_relu_backward": {"dy": ones(3, 4), "y": ones(3, 4), "scale": 2.0},
    "linear": {
        "x": ones(3, 4), "w": ones(5, 4, dtype=np.int8), "b": ones(5), "relu": True, "precision": "fp32",
        "scale": ones(5),
    },
    "linear_backward": {
        "dy": ones(3, 5), "x": ones(3, 4), "w": ones(5, 4), "needs": (True, True, True), "precision": "tf32",
        "mask": ones(3, 4),
    },
    "linear_dropout": {
        "x": ones(3, 4), "w": ones(5, 4), "b": ones(5), "p": 0.5, "form": "paper", "seed": 0, "step": 0, "purpose": 0,
        "first": 0, "precision": "tf32",
    },
    "linear_sgd": {
        "w": ones(5, 4), "v": ones(5, 4), "dy": ones(3, 5), "x": ones(3, 4), "lr": 0.1, "momentum": 0.9, "decay": 5e-4,
        "precision": "bf16", "stored": ones(5, 4, dtype=bfloat16), "nesterov": True,
    },
    "conv2d": {"x": IMAGE, "w": FILTERS, "b": ones(6), "relu": False, **CONV, **PRODUCT},
    "conv2d_backward": {
        "dy": ones(2, 5, 7, 6), "x": IMAGE, "w": FILTERS, "needs": (True, True, True), **CONV, **PRODUCT, "mask": IMAGE,
    },
    "local2d": {"x": IMAGE, "w": LOCAL, "b": ones(5, 7, 6), "relu": False, **CONV},
    "local2d_backward": {"dy": ones(2, 5, 7, 6), "x": IMAGE, "w": LOCAL, "needs": (True, True, True), **CONV},
    "max_pool2d": {"x": IMAGE, **POOL},
    "max_pool2d_backward": {"dy": POOLED, "which": WHICH, "x_shape": IMAGE.shape, **POOL},
    "avg_pool2d": {"x": IMAGE, **POOL},
    "avg_pool2d_backward": {"dy": POOLED, "x_shape": IMAGE.shape, **POOL},
    "lrn": {"x": ones(3, 6), **LRN},
    "lrn_backward": {"dy": ones(3, 6), "x": ones(3, 6), **LRN},
    "lrn_max_pool2d": {"x": IMAGE, **LRN_POOL},
    "lrn_max_pool2d_backward": {"dy": POOLED, "which": WHICH, "x": IMAGE, **LRN_POOL},
    "spatial_lrn": {"x": IMAGE, **SPATIAL_LRN},
    "spatial_lrn_backward": {"dy": IMAGE, "x": IMAGE, **SPATIAL_LRN},
    "batch_norm": {
        "x": ones(3, 4), "gamma": ones(4), "beta": ones(4), "running_mean": ones(4), "running_variance": ones(4),
        "momentum": 0.9, "epsilon": 1e-3, "training": True,
    },
    "batch_norm_backward": {
        "dy": ones(3, 4), "x": ones(3, 4), "gamma": ones(4), "mean": ones(4), "r": ones(4), "training": True,
    },
    "cast": {"x": ones(3, 4), "dtype": "bfloat16"},
    "broadcast": {"operation": "where", "a": ones(3, 4), "b": ones(3, 4), "c": ones(3, 4)},
    "gather": {"x": ones(3, 4), "shape": (4, 3), "strides": (1, 4), "offset": 0},
    "scatter": {"y": ones(3, 4), "x": ones(4, 3), "strides": (1, 4), "offset": 0},
    "reduce_sum": {"x": ones(3, 4), "axes": 1, "mean": True},
    "reduce_max": {"x": ones(3, 4), "axes": 1},
    "reduce_max_backward": {"dy": ones(3), "which": np.zeros(3, np.int32), "shape": (3, 4), "axes": 1},
    "relu": {"x": ones(3, 4)},
    "relu_backward": {"dy": ones(3, 4), "y": ones(3, 4)},
    "tanh": {"x": ones(3, 4)},
    "tanh_backward": {"dy": ones(3, 4), "y": ones(3, 4)},
    "sigmoid": {"x": ones(3, 4)},
    "sigmoid_backward": {"dy": ones(3, 4), "y": ones(3, 4)},
    "dropout": {"x": ones(3, 4), **DROPOUT},
    "dropout_backward": {"dy": ones(3, 4), **DROPOUT},
    "softmax": {"x": ones(3, 4)},
    "softmax_cross_entropy": {"x": ones(3, 4), "labels": LABELS, "weights": ones(4), "smoothing": 0.1, **MIXED},
    "softmax_cross_entropy_backward": {
        "p": ones(3, 4), "labels": LABELS, "dloss": np.array(1, np.float32), "weights": ones(4), "smoothing": 0.1,
        **MIXED,
    },
    "class_weight_sums": {"labels": LABELS, "weights": ones(4), **MIXED},
    "sgd": {
        "w": ones(4, 4), "v": ones(4, 4), "g": ones(4, 4), "lr": 0.1, "momentum": 0.9, "decay": 5e-4, "lr_scale": 1.0,
        "nesterov": True,
    },
    "adam": {
        "w": ones(4, 4), "m": ones(4, 4), "v": ones(4, 4), "g": ones(4, 4), "lr": 0.1, "t": 1, "beta1": 0.9,
        "beta2": 0.999, "epsilon": 1e-7, "decay": 0.1, "lr_scale": 1.0, "form": "pytorch",
        "decoupled": True,
    },
    "ema": {"average": ones(4, 4), "w": ones(4, 4), "rate": 0.5},
    "augment": {
        "x": ones(2, 6, 5, 3, dtype=np.uint8), "size": (4, 4), "mean": ones(6, 5, 3),
        "crops": np.zeros((2, 3), np.int32), "noise": ones(2, 3), "scale": 0.5, "tones": ones(2, 2), "mix": ones(2),
    },
}  # fmt: skip
ARRAYS = [(name, key) for name, call in CALLS.items() for key, value in call.items() if isinstance(value, np.ndarray)]


def call(run: Runner, name: str, **changes: Any) -> Any:
    """The right call of `name` with some arguments changed. The arrays are copies: sgd works in place."""
    arguments = {**CALLS[name], **changes}
    return run(getattr(kernels, name), **{k: _copy(v) if k not in changes else v for k, v in arguments.items()})


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def assert_refused(
    run: Runner, error: type[Exception] | tuple[type[Exception], ...], name: str, **changes: Any
) -> None:
    with pytest.raises(error) as caught:
        call(run, name, **changes)
    assert type(caught.value) in (TypeError, ValueError)
    assert GOT_AND_EXPECTED.search(str(caught.value)), f"the text lacks got or expected: {caught.value}"


def test_every_function_is_here() -> None:
    assert set(CALLS) == set(KERNELS) - {"multi_sgd"}  # its lists are in test_sgd.py


@pytest.mark.parametrize("name", CALLS)
def test_the_right_calls_are_right(run: Runner, name: str) -> None:
    result = call(run, name)
    for array in result if isinstance(result, tuple) else (result,):
        assert array is None or np.isfinite(array).all()


# ---- arrays


def unaligned(value: np.ndarray) -> np.ndarray:
    buffer = np.zeros(value.nbytes + 1, np.uint8)
    array = buffer[1:].view(value.dtype).reshape(value.shape)
    array[...] = value
    return array


WRONG_TYPES: dict[str, Callable[[np.ndarray], Any]] = {
    "list": lambda value: value.tolist(),
    "number": lambda value: 1.0,
    "text": lambda value: "x",
    "float64": lambda value: value.astype(np.float64),
    "float16": lambda value: value.astype(np.float16),
    "complex64": lambda value: value.astype(np.complex64),
    "bool": lambda value: value.astype(bool),
    "object": lambda value: value.astype(object),
}


@pytest.mark.parametrize(
    ("name", "key", "wrong"),
    [
        (name, key, wrong)
        for name, key in ARRAYS
        for wrong in WRONG_TYPES
        if (name, wrong) != ("broadcast", "number")  # which may be in the place of an array
    ],
)
def test_wrong_type(name: str, key: str, wrong: str) -> None:
    assert_refused(Runner("cpu"), TypeError, name, **{key: WRONG_TYPES[wrong](CALLS[name][key])})


@pytest.mark.parametrize(
    ("name", "key"),
    [entry for entry in ARRAYS if entry[1] not in MAY_BE_NONE],
)
def test_none_for_an_array(name: str, key: str) -> None:
    assert_refused(Runner("cpu"), TypeError, name, **{key: None})


@pytest.mark.parametrize("dtype", [np.int32, ">f4"])
@pytest.mark.parametrize(
    ("name", "key"),
    [entry for entry in ARRAYS if entry[1] not in INTEGERS and entry != ("reduce_max_backward", "which")],
)
def test_integers_and_the_other_byte_order(name: str, key: str, dtype: Any) -> None:
    assert_refused(Runner("cpu"), TypeError, name, **{key: CALLS[name][key].astype(dtype)})


WRONG_LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "every second row": lambda value: np.repeat(value, 2, axis=0)[::2],
    "every second column": lambda value: np.repeat(value, 2, axis=-1)[..., ::2],
    "reversed": lambda value: value[..., ::-1],
    "Fortran order": np.asfortranarray,
    "broadcast": lambda value: np.broadcast_to(value[:1], value.shape),
    "unaligned": unaligned,
}


def is_plain(array: np.ndarray) -> bool:
    return array.flags.c_contiguous and array.flags.aligned


@pytest.mark.parametrize(
    ("name", "key", "wrong"),
    [
        (name, key, wrong)
        for name, key in ARRAYS
        for wrong in WRONG_LAYOUTS
        if key not in ("labels", "others", "dloss")
        and (key, wrong) != ("c", "unaligned")  # it is copied
        and not is_plain(WRONG_LAYOUTS[wrong](CALLS[name][key]))
    ],
)
def test_wrong_layout(name: str, key: str, wrong: str) -> None:
    assert_refused(Runner("cpu"), ValueError, name, **{key: WRONG_LAYOUTS[wrong](CALLS[name][key])})


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("softmax_cross_entropy", "labels", np.array([0, 9, 2, 9, 1, 9], np.int32)[::2]),
        ("softmax_cross_entropy", "labels", np.array([1, 2, 0], np.int32)[::-1]),
        ("softmax_cross_entropy", "labels", np.array([0, 2, 1], ">i4")),
    ],
)
def test_labels_may_have_any_layout(name: str, key: str, value: np.ndarray) -> None:
    """They are converted where they are not what the kernels take."""
    plain = np.array(value, value.dtype.newbyteorder("="), order="C")
    expected, actual = (call(Runner("cpu"), name, **{key: array}) for array in (plain, value))
    for array, same in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(array, same)


MAY_BE_EMPTY = {"broadcast", "gather", "scatter", "reduce_sum", "reduce_max", "reduce_max_backward"}
"""And of any rank."""


@pytest.mark.parametrize(("name", "key"), [entry for entry in ARRAYS if entry[0] not in MAY_BE_EMPTY])
def test_empty(run: Runner, name: str, key: str) -> None:
    value = CALLS[name][key]
    for axis in range(value.ndim):
        assert_refused(
            run, ValueError, name, **{key: np.empty([*value.shape[:axis], 0, *value.shape[axis + 1 :]], value.dtype)}
        )


ANY_RANK = {
    ("batch_norm", "x"),
    ("bias", "x"),
    ("bias_backward", "dy"),
    ("bias_relu_backward", "dy"),
    ("lrn", "x"),
    ("cast", "x"),
    ("relu", "x"),
    ("tanh", "x"),
    ("sigmoid", "x"),
}
ANY_RANK |= {("dropout", "x"), ("dropout_backward", "dy"), ("class_weight_sums", "labels")}


@pytest.mark.parametrize(
    ("name", "key"), [entry for entry in ARRAYS if entry not in ANY_RANK and entry[0] not in MAY_BE_EMPTY]
)
def test_wrong_rank(run: Runner, name: str, key: str) -> None:
    value = CALLS[name][key]
    assert_refused(run, ValueError, name, **{key: value[None]})
    assert_refused(run, ValueError, name, **{key: value[None, None]})
    if value.ndim:
        assert_refused(run, ValueError, name, **{key: np.ascontiguousarray(value[0])})


@pytest.mark.parametrize(("name", "key"), [("batch_norm", "x"), ("bias", "x"), ("bias_backward", "dy"), ("lrn", "x")])
def test_no_channels(run: Runner, name: str, key: str) -> None:
    assert_refused(run, ValueError, name, **{key: np.array(1, np.float32)})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gemm", {"b": ones(5, 4)}),
        ("gemm", {"a": ones(4, 3)}),
        ("gemm", {"transpose_a": True}),
        ("gemm", {"transpose_b": True}),
        ("gemm", {"c": ones(5, 3)}),
        ("gemm", {"c": None}),
        ("bias", {"b": ones(3)}),
        ("linear", {"w": ones(4, 5)}),
        ("linear", {"b": ones(4)}),
        ("linear", {"scale": ones(4)}),
        ("linear_backward", {"dy": ones(3, 4)}),
        ("linear_backward", {"dy": ones(2, 5)}),
        ("linear_backward", {"x": ones(3, 5)}),
        ("linear_backward", {"w": ones(5, 3)}),
        ("linear_dropout", {"w": ones(4, 5)}),
        ("linear_dropout", {"b": ones(4)}),
        ("linear_sgd", {"w": ones(4, 5)}),
        ("linear_sgd", {"v": ones(5, 5)}),
        ("linear_sgd", {"dy": ones(2, 5)}),
        ("linear_sgd", {"x": ones(3, 5)}),
        ("linear_sgd", {"stored": ones(4, 5, dtype=bfloat16)}),
        ("linear_sgd", {"lr": ones(1)}),
        ("conv2d", {"w": ones(6, 3, 2, 4)}),
        ("conv2d", {"w": ones(7, 3, 2, 2)}),
        ("conv2d", {"x": ones(2, 5, 6, 5)}),
        ("conv2d", {"x": np.ascontiguousarray(IMAGE.transpose(0, 3, 1, 2))}),
        ("conv2d", {"b": ones(4)}),
        ("conv2d", {"groups": 3}),
        ("conv2d", {"w": ones(6, 8, 2, 2)}),
        ("conv2d", {"w": ones(6, 3, 9, 2)}),
        ("conv2d_backward", {"dy": ones(2, 5, 6, 6)}),
        ("conv2d_backward", {"dy": ones(2, 5, 7, 5)}),
        ("conv2d_backward", {"dy": ones(1, 5, 7, 6)}),
        ("conv2d_backward", {"x": ones(2, 5, 6, 2)}),
        ("conv2d_backward", {"stride": 2}),
        ("conv2d_backward", {"mask": ones(2, 5, 4, 6)}),
        ("conv2d_backward", {"mask": ones(5, 6, 4)}),
        ("conv2d_backward", {"y": ones(2, 7, 5, 6)}),
        ("local2d_backward", {"y": ones(2, 7, 5, 6)}),
        ("linear_backward", {"y": ones(4, 3)}),
        ("linear_backward", {"mask": ones(4, 3)}),
        ("max_pool2d", {"size": 6}),
        ("max_pool2d", {"size": (5, 7)}),
        ("max_pool2d_backward", {"dy": ones(2, 2, 2, 4)}),
        ("max_pool2d_backward", {"which": np.zeros((2, 2, 2, 4), np.uint8)}),
        ("max_pool2d_backward", {"x_shape": (2, 5, 8, 4)}),
        ("max_pool2d_backward", {"x_shape": (3, 5, 6, 4)}),
        ("max_pool2d_backward", {"x_shape": (2, 5, 6)}),
        ("avg_pool2d_backward", {"x_shape": (2, 5, 6, 5)}),
        ("avg_pool2d_backward", {"x_shape": (2, 0, 6, 4)}),
        ("avg_pool2d_backward", {"x_shape": (-2, 5, 6, 4)}),
        ("avg_pool2d_backward", {"dy": ones(2, 3, 3, 4)}),
        ("lrn_backward", {"x": ones(3, 4)}),
        ("lrn_backward", {"dy": ones(4, 6)}),
        ("bias_relu_backward", {"y": ones(4, 3)}),
        ("lrn_max_pool2d", {"size": 9}),
        ("lrn_max_pool2d_backward", {"dy": ones(2, 2, 2, 4)}),
        ("lrn_max_pool2d_backward", {"which": np.zeros((2, 2, 2, 4), np.uint8)}),
        ("lrn_max_pool2d_backward", {"x": ones(2, 5, 8, 4)}),
        ("relu_backward", {"y": ones(4, 3)}),
        ("tanh_backward", {"dy": ones(3, 3)}),
        ("sigmoid_backward", {"y": ones(12)}),
        ("softmax_cross_entropy", {"labels": np.zeros(2, np.int32)}),
        ("softmax_cross_entropy", {"labels": np.zeros((3, 1), np.int32)}),
        ("softmax_cross_entropy_backward", {"labels": np.zeros(4, np.int32)}),
        ("softmax_cross_entropy_backward", {"dloss": ones(3)}),
        ("broadcast", {"b": ones(3, 3)}),
        ("broadcast", {"operation": "wheer"}),
        ("broadcast", {"operation": "add"}),
        ("broadcast", {"d": ones(3, 4)}),
        ("gather", {"strides": (1,)}),
        ("gather", {"strides": (2, 4)}),
        ("gather", {"offset": 1}),
        ("gather", {"strides": (-1, 4)}),
        ("gather", {"shape": (4, 4)}),
        ("scatter", {"x": ones(5, 3)}),
        ("scatter", {"strides": (1, 1)}),
        ("scatter", {"strides": (0, 1)}),
        ("reduce_sum", {"axes": 2}),
        ("reduce_sum", {"axes": (1, -1)}),
        ("reduce_sum", {"x": ones(3, 0)}),
        ("reduce_max", {"axes": -3}),
        ("reduce_max", {"x": ones(3, 0)}),
        ("reduce_max_backward", {"dy": ones(4)}),
        ("reduce_max_backward", {"which": np.zeros(4, np.int32)}),
        ("reduce_max_backward", {"shape": (4, 4)}),
        ("sgd", {"v": ones(4, 3)}),
        ("sgd", {"g": ones(2, 8)}),
        ("sgd", {"lr": ones(1)}),
    ],
)
def test_shapes_that_do_not_match(run: Runner, name: str, changes: dict[str, Any]) -> None:
    assert_refused(run, ValueError, name, **changes)


@pytest.mark.parametrize(
    ("name", "key"), [("sgd", "w"), ("sgd", "v"), *(("linear_sgd", key) for key in ("w", "v", "stored"))]
)
def test_updates_need_writable_arrays(name: str, key: str) -> None:
    array = np.ones_like(CALLS[name][key])
    array.flags.writeable = False
    assert_refused(Runner("cpu"), ValueError, name, **{key: array})
    assert (array == 1).all()


def test_sgd_needs_separate_arrays() -> None:
    memory = ones(2, 4, 4)
    for key, array in (("v", memory[0]), ("v", memory.reshape(8, 4)[1:5]), ("g", memory[0])):
        assert_refused(Runner("cpu"), ValueError, "sgd", w=memory[0], **{key: array})
    assert (memory == 1).all()


@pytest.mark.parametrize(
    ("name", "key"), [entry for entry in ARRAYS if len([k for n, k in ARRAYS if n == entry[0]]) > 1]
)
@pytest.mark.parametrize("run", [CUDA], indirect=True)
def test_arrays_on_two_devices(run: Runner, name: str, key: str) -> None:
    arguments = {k: run.put(_copy(v)) for k, v in CALLS[name].items()}
    arguments[key] = CALLS[name][key].copy()
    with pytest.raises((TypeError, ValueError), match=GOT_AND_EXPECTED):
        getattr(kernels, name)(**arguments)


# ---- labels


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "softmax_cross_entropy_backward"])
@pytest.mark.parametrize("labels", [[0, 1, 4], [-1, 0, 1], [0, 2**31 - 1, 0], [-(2**31), 0, 0]])
def test_labels_out_of_range(name: str, labels: list[int]) -> None:
    assert_refused(Runner("cpu"), ValueError, name, labels=np.array(labels, np.int32))


@pytest.mark.parametrize("name", ["softmax_cross_entropy", "softmax_cross_entropy_backward"])
@pytest.mark.parametrize("label", [2**32, 2**32 + 1, -(2**32), 2**63 - 1])
def test_wide_labels_do_not_wrap_around(name: str, label: int) -> None:
    assert_refused(Runner("cpu"), ValueError, name, labels=np.array([0, label, 1], np.int64))


@pytest.mark.parametrize("label", [4, -1, 2**31 - 1])
@pytest.mark.parametrize("run", [CUDA], indirect=True)
def test_labels_out_of_range_on_a_gpu(run: Runner, label: int) -> None:
    """A look at them would wait for the device: their loss is NaN, and nothing outside the arrays is read."""
    loss, losses, _ = run(kernels.softmax_cross_entropy, ones(3, 4), np.array([0, label, 1], np.int32))
    assert np.isnan(loss)
    assert np.isnan(losses).tolist() == [False, True, False]


# ---- hyper-parameters


INTEGERS = {
    "stride": [0, -1, (0, 1), (1, -2), 2**31, 2**70],
    "padding": [-1, (-1, 0), ((0, -1), (0, 0)), 2**31, 2**70],
    "groups": [0, -1, 5, 2**31, 2**70],
    "size": [0, -1, 2**31, 2**70],
    "lrn_size": [0, -1, 2**31, 2**70],
    "seed": [-1, 2**64],
    "step": [-1, 2**64],
    "purpose": [-1, 2**32],
}
NOT_INTEGERS = [None, 1.0, float("nan"), "2", (1, 2.0), (1, 2, 3), (), {}, ((1, 2), 3, 4), np.ones(2), 1 + 0j]
NUMBERS = {
    "p": [-0.1, 1.0, 1.5],
    "momentum": [-0.1, 1.0],
    "k": [-1.0, 0.0, 1e-50],
    "epsilon": [-1.0, 0.0, 1e-50],
    "alpha": [],
    "beta": [],
    "lr": [-1.0],
    "decay": [-1.0],
    "lr_scale": [-1.0],
    "smoothing": [-0.1, 1.0],
    "rate": [-0.1, 1.5],
    "scale": [],
}
HYPER_PARAMETERS = [(name, key) for name, call in CALLS.items() for key in NUMBERS if isinstance(call.get(key), float)]
NOT_FINITE = [float("nan"), float("inf"), -float("inf"), 1e300]  # 1e300 has no float32


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [(name, key, value) for name in CALLS for key in INTEGERS if key in CALLS[name] for value in INTEGERS[key]],
)
def test_integers_out_of_range(run: Runner, name: str, key: str, value: Any) -> None:
    assert_refused(run, ValueError, name, **{key: value})


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        (name, key, value)
        for name in CALLS
        for key in INTEGERS
        for value in NOT_INTEGERS
        # a pool's stride is None by default
        if key in CALLS[name] and not ("pool" in name and key == "stride" and value is None)
    ],
)
def test_not_integers(name: str, key: str, value: Any) -> None:
    assert_refused(Runner("cpu"), (TypeError, ValueError), name, **{key: value})


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [(name, key, value) for name, key in HYPER_PARAMETERS for value in [*NUMBERS[key], *NOT_FINITE]],
)
def test_numbers_out_of_range(run: Runner, name: str, key: str, value: float) -> None:
    assert_refused(run, ValueError, name, **{key: value})


@pytest.mark.parametrize(("name", "key"), HYPER_PARAMETERS)
@pytest.mark.parametrize("value", ["x", (1.0,), {}, 1j], ids=repr)
def test_not_numbers(name: str, key: str, value: Any) -> None:
    assert_refused(Runner("cpu"), TypeError, name, **{key: value})


@pytest.mark.parametrize(("name", "key"), [pair for pair in HYPER_PARAMETERS if pair != ("adam", "epsilon")])
def test_only_a_forms_own_epsilon_may_be_left_to_it(name: str, key: str) -> None:
    assert_refused(Runner("cpu"), TypeError, name, **{key: None})


@pytest.mark.parametrize("name", [name for name in CALLS if "pool" in name and "lrn" not in name])
@pytest.mark.parametrize("padding", [2, (0, 2), ((0, 2), (0, 0)), ((2, 0), (0, 0))])
def test_pooling_needs_less_padding_than_its_window(run: Runner, name: str, padding: Any) -> None:
    assert_refused(run, ValueError, name, padding=padding)


def test_largest_window_with_a_place_in_a_byte(run: Runner) -> None:
    assert_refused(run, ValueError, "max_pool2d", x=ones(1, 20, 20, 1), size=(16, 17))


@pytest.mark.parametrize("form", ["Paper", "", None, 1])
@pytest.mark.parametrize("name", ["dropout", "dropout_backward", "linear_dropout", "adam"])
def test_forms(name: str, form: Any) -> None:
    assert_refused(Runner("cpu"), (TypeError, ValueError), name, form=form)


@pytest.mark.parametrize("value", ["float32", "", None, 1, ["tf32"]])
@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, call in CALLS.items() for key in ("precision", "algorithm") if key in call]
)
def test_precisions_and_algorithms(name: str, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: {key}: expected .*, got {re.escape(repr(value))}$"):
        call(Runner("cpu"), name, **{key: value})


@pytest.mark.parametrize("needs", [None, (True,), (True, True), (True,) * 4, 1])
@pytest.mark.parametrize("name", ["linear_backward", "conv2d_backward"])
def test_needs(name: str, needs: Any) -> None:
    assert_refused(Runner("cpu"), (TypeError, ValueError), name, needs=needs)


def test_a_refusal_does_not_depend_on_earlier_calls() -> None:
    """1, 1.0 and True are equal and hash alike: what one call was right with must not let the other pass."""
    for key in ("stride", "padding"):
        call(Runner("cpu"), "max_pool2d", **{key: 1})
        assert_refused(Runner("cpu"), TypeError, "max_pool2d", **{key: 1.0})
        assert_refused(Runner("cpu"), TypeError, "max_pool2d", **{key: (1.0, 1.0)})


# ---- anything at all

INTEGERS_AND_NUMBERS = [0, 1, 2, 3, -1, 2**31, 2**63, 2**64, 2**70, 0.5, -0.5, 1e300, 1e-50, float("nan"), float("inf")]
OTHERS = [None, True, False, "", "x", b"x", {}, 1j, np.float32(2), np.int64(2), [1, 2]]
TUPLES = [(), (1,), (1, 2), (1, 2, 3), (2, 5, 6, 4), ((1, 1), (0, 1))]
ODD = st.one_of(
    st.sampled_from([*INTEGERS_AND_NUMBERS, *OTHERS, *TUPLES]),
    st.builds(
        lambda shape, dtype: np.ones(shape, dtype),
        st.lists(st.integers(0, 6), max_size=5).map(tuple),
        st.sampled_from([np.float32, np.float32, np.float32, np.float64, np.int32, np.uint8, bool]),
    ),
    st.sampled_from([value for arguments in CALLS.values() for value in arguments.values()]),
)


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=60)
@given(data=st.data())
def test_no_arguments_crash(name: str, data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(sorted(CALLS[name])), min_size=1, max_size=3, unique=True))
    changes = {key: _copy(data.draw(ODD, label=key)) for key in keys}
    try:
        result = call(Runner("cpu"), name, **changes)
    except (TypeError, ValueError):
        return
    for array in result if isinstance(result, tuple) else (result,):
        # A number in the place of an array may be infinite or NaN
        assert array is None or name == "broadcast" or np.isfinite(array).all()
