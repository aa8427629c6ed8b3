"""What every test file shares: executors, poisoned outputs, what a lost GPU ends, hypothesis profiles, oracles."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import hypothesis
import numpy as np
import pytest
from ml_dtypes import bfloat16

from alexnet_cuda import backend, kernels

pytest.register_assert_rewrite("pretended_gpu", "stand_in_cupy")  # plugins that tests also import from

hypothesis.settings.register_profile("default", deadline=None, max_examples=25)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.register_profile("few", deadline=None, max_examples=3, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ptx", action="store_true", help="run the kernels that nvcc makes, in place of the CPU module's")
    parser.addoption("--ptx-complete", action="store_true", help="with --ptx: fail if a kernel did not run")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--ptx"):
        import ptx_module

        try:
            if not hasattr(config, "workerinput"):  # else the controller of pytest-xdist has built it
                ptx_module.build()
        except ptx_module.Missing as missing:
            raise pytest.UsageError(f"--ptx: {missing}") from None
        config.pluginmanager.register(ptx_module.Plugin(config, config.getoption("--ptx-complete")))


@pytest.fixture(scope="session", autouse=True)
def poisoned_outputs() -> None:
    """Outputs are NaN until a kernel writes them: what it leaves out shows."""
    backend.poison(True)


@pytest.fixture(scope="session", autouse=True)
def folders_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Generator[None, None, None]:
    """What is kept for a user is kept for these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Shells have what they start in the background ignore Ctrl-C, and so would all that the tests start."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Waits for the GPU after each test that used it. An error of CUDA's stays with the process, where every later
    result would be its consequence: so the process ends here, with what has failed so far."""
    result = yield
    if item.get_closest_marker("gpu") and not backend.gpu_problem():
        try:
            for device in backend.gpus():
                backend.synchronize(device)
        except Exception as error:
            if reporter := item.config.pluginmanager.getplugin("terminalreporter"):
                reporter.summary_errors()
                reporter.summary_failures()
            print(f"\n{item.nodeid}: the GPU failed: {error}; this process ends here", file=sys.stderr, flush=True)
            os._exit(3)
    return result


@dataclass(frozen=True)
class Runner:
    """Calls functions of `alexnet_cuda.kernels` with NumPy arrays on a device: `run(kernels.relu, x)`."""

    device: str
    blas: bool = True

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with backend.blas(self.blas):
            result = function(*map(self.put, args), **{name: self.put(value) for name, value in kwargs.items()})
        return tuple(map(self.get, result)) if isinstance(result, tuple) else self.get(result)

    def put(self, value: Any) -> Any:
        """A NumPy array as an array of the device, on the CPU the very same array; anything else as it is."""
        if self.device == "cpu" or not isinstance(value, np.ndarray):
            return value
        return backend.from_host(value, backend.device(self.device))

    def get(self, value: Any) -> Any:
        return None if value is None else backend.to_host(value)


@contextmanager
def launches() -> Generator[list[str], None, None]:
    """The names of the launchers that are called within the block."""
    called, real = list[str](), backend.native

    @cache
    class Noting:
        def __init__(self, native: ModuleType) -> None:
            self.native = native

        def __getattr__(self, name: str) -> Any:
            if not name.endswith(("_workspace", "_takes")) and callable(getattr(self.native, name)):
                called.append(name)
            return getattr(self.native, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "native", lambda where: Noting(real(where)))
        yield called


KERNELS = [name for name in kernels.__all__ if hasattr(getattr(kernels, name), "__wrapped__")]
"""The functions of arrays of any library."""

STORAGE = pytest.mark.parametrize("dtype", [np.float32, bfloat16], ids=["float32", "bfloat16"])

CPU = pytest.param(Runner("cpu"), id="cpu")
CPU_WITHOUT_BLAS = pytest.param(Runner("cpu", blas=False), id="cpu-without-blas")
CUDA = pytest.param(Runner("cuda"), id="cuda", marks=pytest.mark.gpu)


def _runner(request: pytest.FixtureRequest) -> Runner:
    if request.param.device == "cuda" and (problem := backend.gpu_problem()):
        pytest.skip(problem)
    return request.param


@pytest.fixture(scope="session", params=[CPU, CUDA])
def run(request: pytest.FixtureRequest) -> Runner:
    """The device to run on, one after the other."""
    return _runner(request)


@pytest.fixture(scope="session", params=[CPU, CPU_WITHOUT_BLAS, CUDA])
def run_gemm(request: pytest.FixtureRequest) -> Runner:
    """Like `run`, and the CPU once with BLAS and once with the project's own gemm kernel."""
    return _runner(request)


@pytest.fixture(scope="session")
def import_oracle() -> Callable[[str], ModuleType]:
    """Imports an independent implementation; without it the test is skipped, or fails where ALEXNET_ORACLES is 1."""

    def load(name: str) -> ModuleType:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if os.environ.get("ALEXNET_ORACLES") == "1":
                pytest.fail(f"ALEXNET_ORACLES is 1, but {error}")
            pytest.skip(f"{name} is not installed (extra 'oracle')")

    return load


@pytest.fixture(scope="session")
def keras_on_torch(
    import_oracle: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory
) -> Generator[Any, None, None]:
    """Keras, on its backend for PyTorch, on the CPU; the settings of who runs the tests do not count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        keras: Any = import_oracle("keras")
        with keras.device("cpu"):
            yield keras


@pytest.fixture(scope="session")
def needs_ptx(pytestconfig: pytest.Config) -> None:
    """For tests of the executor of PTX itself."""
    if not pytestconfig.getoption("--ptx"):
        pytest.skip("tests the executor of PTX: needs pytest --ptx")
