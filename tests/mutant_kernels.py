"""A worker of `alexnet_cuda.kernel_checks` some of whose kernels are wrong, each in its own way, on float32 alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from alexnet_cuda import kernels
from alexnet_cuda.kernel_checks import worker

LARGE = 1 << 17


def mutate(name: str, wrong: Callable[[Any], Any], which: Callable[[dict[str, Any]], bool]) -> None:
    """From now on the kernel's results are what ``wrong`` makes of them, for some arguments."""
    right = getattr(kernels, name)

    @wraps(right)
    def mutant(**arguments: Any) -> Any:
        result = right(**arguments)
        return wrong(result) if which(arguments) else result

    setattr(kernels, name, mutant)


def float32(arguments: dict[str, Any]) -> bool:
    return arguments.get("x", arguments.get("dy")).dtype == np.float32


def large(arguments: dict[str, Any]) -> bool:
    return float32(arguments) and arguments.get("x", arguments.get("dy")).size > LARGE


def last_value_is_off(result: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    result[0].reshape(-1)[-1] *= np.float32(1 + 1e-5)
    return result


def a_value_was_not_written(dx: np.ndarray) -> np.ndarray:
    dx.reshape(-1)[12_345] = np.nan
    return dx


calls = 0


def other_bits_each_time(y: np.ndarray) -> np.ndarray:
    global calls
    calls += 1
    y.reshape(-1)[3] = np.nextafter(y.reshape(-1)[3], np.float32(calls % 2 * 198 - 99))
    return y


def crash(_: np.ndarray) -> None:
    os.abort()


def hang(_: np.ndarray) -> None:
    time.sleep(1000)


def fail(_: np.ndarray) -> None:
    raise RuntimeError("an illegal\nmemory access was encountered")


if __name__ == "__main__":
    mutate("max_pool2d", last_value_is_off, large)
    mutate("max_pool2d_backward", a_value_was_not_written, large)
    mutate("avg_pool2d", other_bits_each_time, float32)
    mutate("avg_pool2d_backward", crash, lambda a: float32(a) and a["x_shape"][1] in (9, 16))
    mutate("augment", hang, lambda a: a["dtype"] == np.float32 and a["crops"].shape == (3, 3))
    mutate("softmax", fail, lambda a: a["x"].shape == (5, 33))
    worker.main()
