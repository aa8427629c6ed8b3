"""AlexNet and its kin, from scratch: hand-written CUDA kernels that run on GPUs and CPUs, under a page of autograd.

``kernels`` has every operation as a function on NumPy or CuPy arrays, ``ops`` on tensors; ``Tensor`` and ``no_grad``
differentiate, ``nn`` and ``optim`` are modules and optimizers, ``models`` the networks. ``compile`` builds kernels of a
user's own file, ``fit`` trains a network in one call. ``build_info()`` tells how this was built.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import interrupt

interrupt.ends_quietly(__name__)

# ruff: noqa: E402 (what follows takes a second, in which Ctrl-C should already end the command)
from . import kernels, nn, ops, optim
from .backend import build_info
from .tensor import Tensor, no_grad

__version__: str

if TYPE_CHECKING:
    from . import models
    from .fitting import fit
    from .user_kernels import compile
else:

    def __getattr__(name: str) -> object:
        """What takes a good part of the import, and not everybody asks for."""
        if name == "models":
            return import_module(f"{__name__}.models")
        if name == "__version__":
            return build_info()["version"]
        if name not in ("compile", "fit"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .fitting import fit
        from .user_kernels import compile

        globals().update(compile=compile, fit=fit)
        return globals()[name]


__all__ = [
    "Tensor", "__version__", "build_info", "compile", "fit", "kernels", "models", "nn", "no_grad", "ops", "optim",
]  # fmt: skip
