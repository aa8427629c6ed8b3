"""Networks for inference whose weights lie in memory short: in bfloat16, or in int8, in fully connected layers.

Everything is computed in float32, from exactly what the stored numbers stand for.
"""

from __future__ import annotations

from typing import Literal, get_args

from ml_dtypes import bfloat16

from . import kernels, nn
from .kernels.arguments import either
from .quantise import quantised

WeightsDtype = Literal["fp32", "bf16", "int8"]
WEIGHTS_DTYPES: tuple[WeightsDtype, ...] = get_args(WeightsDtype)


def check_weights_dtype(name: str) -> WeightsDtype:
    """``name``, if it is one of ``WEIGHTS_DTYPES``; else ValueError."""
    known = next((dtype for dtype in WEIGHTS_DTYPES if dtype == name), None)
    if known is None:
        raise ValueError(f"weights_dtype: expected {either(WEIGHTS_DTYPES)}, got {name!r}")
    return known


def shorten(network: nn.Module, dtype: WeightsDtype) -> None:
    """Stores the weights of a network short, in place; it is for inference from then on. "bf16": matrices of fully
    connected layers and filters of convolutions in bfloat16, to which they are rounded; "int8": those matrices in int8,
    with a scale for each output (``quantise``). Biases, normalisation and filters that no pixels share stay float32.

    ValueError, which names the layer, for weights that int8 cannot hold, and for a layer whose class is derived from
    one of these: what that does with its weights is not known."""
    kinds = (nn.Linear, nn.Conv2d) if dtype == "bf16" else (nn.Linear,)
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, kinds)]
    for name, module in layers:
        if type(module) not in kinds:
            raise ValueError(
                f"weights_dtype: {name}: expected {' or '.join(kind.__name__ for kind in kinds)} for {dtype!r}, "
                f"got a {type(module).__name__}"
            )
    weights = {id(module.w): (name, module.w) for name, module in reversed(layers)}
    short = {key: _short(name, w, dtype) for key, (name, w) in weights.items()}  # what layers share they go on sharing
    for _, module in layers:
        module.w, scale = short[id(module.w)]
        if isinstance(module, nn.Linear):
            module.scale = scale


def _short(name: str, w: nn.Parameter, dtype: WeightsDtype) -> tuple[nn.Parameter, nn.Buffer | None]:
    if dtype == "bf16":
        return nn.Parameter(kernels.cast(w.data, bfloat16), w.device), None
    try:
        q, scale = quantised(w.numpy())
    except ValueError as e:
        raise ValueError(f"weights_dtype: {name}.w: {e}") from None
    return nn.Parameter(q, w.device), nn.Buffer(scale, device=w.device)


def bytes_of(network: nn.Module) -> int:
    """Of all parameters and buffers, as they are stored."""
    return sum(t.data.nbytes for t in (*network.parameters(), *(buffer for _, buffer in network.named_buffers())))
