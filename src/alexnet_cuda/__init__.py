"""AlexNet and its kin, from scratch: hand-written CUDA kernels that run on GPUs and CPUs, under a page of autograd.

``kernels`` has every operation as a function on NumPy or CuPy arrays, ``ops`` on tensors; ``Tensor`` and ``no_grad``
differentiate, ``nn`` and ``optim`` are modules and optimizers, ``models`` the networks. ``build_info()`` tells how this
was built.
"""

from typing import TYPE_CHECKING

from . import interrupt

interrupt.ends_quietly(__name__)

# ruff: noqa: E402 (what follows takes a second, in which Ctrl-C should already end the command)
from . import kernels, models, nn, ops, optim
from .backend import build_info
from .tensor import Tensor, no_grad

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """``__version__``, which the package's metadata tell: to read them takes a tenth of the import."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return build_info()["version"]


__all__ = ["Tensor", "__version__", "build_info", "kernels", "models", "nn", "no_grad", "ops", "optim"]
