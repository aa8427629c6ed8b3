# The launchers of kernels/kernels.h on arrays with a __cuda_array_interface__, under the same names as in _cpu.
from ._cpu import *  # noqa: F403  that one list of names serves both
