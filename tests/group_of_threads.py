"""A ``Group`` without processes, for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from alexnet_cuda import trace
from alexnet_cuda.parallel import Group


class Threads:
    """A ``Group`` of threads instead of processes, which adds up in the order of their ranks."""

    def __init__(self, size: int) -> None:
        self.size, self.barrier = size, threading.Barrier(size, timeout=60)
        self.held: list[Any] = [None] * size

    def member(self, rank: int) -> Group:
        return _Member(self, rank)

    def run(self, task: Callable[[Group], Any]) -> list[Any]:
        """task(group) of every rank."""

        def guarded(rank: int) -> Any:
            try:
                return task(self.member(rank))
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(self.size) as threads:
            return list(threads.map(guarded, range(self.size)))


class _Member(Group):
    alone = False

    def __init__(self, threads: Threads, rank: int) -> None:
        self.threads, self.rank, self.size, self.local_size = threads, rank, threads.size, threads.size
        self.sums = 0

    def all_gather_object(self, value: Any) -> list[Any]:
        threads = self.threads
        threads.held[self.rank] = value
        threads.barrier.wait()
        everyone = list(threads.held)
        threads.barrier.wait()
        return everyone

    def all_reduce(self, x: np.ndarray) -> Callable[[], None]:
        self.sums += 1
        with trace.span("all-reduce", "between processes"):
            x[...] = sum(self.all_gather_object(x.copy()))
        return lambda: None

    def all_gather(self, x: np.ndarray) -> np.ndarray:
        assert x.flags.c_contiguous
        return np.stack(self.all_gather_object(x.copy()))

    def reduce_scatter(self, x: np.ndarray) -> np.ndarray:
        assert x.flags.c_contiguous and len(x) == self.size
        return sum(other[self.rank] for other in self.all_gather_object(x.copy()))
