"""Layers with parameters: Module, Parameter and the building blocks of AlexNet.

A Module's parameters and child modules are its attributes; ``Sequential`` names its children. Layers are called with
tensors x as ``ops`` takes them; their other arguments are those of the function of ``kernels`` that they name, and
these:

- ``in_channels``, ``out_channels``, ``in_features``, ``out_features``, ``channels``: last dimensions of input and
  output;
- ``activation``: "relu", "tanh", "sigmoid" or None, what follows the layer;
- ``bias``: whether it has one, or its shape; ``weight_init`` and ``bias_init``: functions of ``init`` that draw the
  first values, by default ``he_normal()`` and zeros;
- ``rng``: the generator that these draw from; without one it is one that ``manual_seed`` resets;
- ``device``: where the parameters are, by default on the CPU.

Errors: ValueError for what no layer can be made of, when it is made; wrong inputs are refused by ``kernels``.
"""

from .calls import watching
from .containers import Cost, Graph, ModuleDict, ModuleList, Node, Sequential, in_turn
from .convolution import Blur, Conv2d, Local2d
from .elementwise import DROPOUT_FORMS, Dropout, NoisyReLU, Pointwise, ReLU, Sigmoid, Tanh, WeightedSum, activated
from .module import Hook, Module, Random, StateDifferences
from .normalisation import BatchNorm, ContrastNorm, LocalResponseNorm, SpatialResponseNorm
from .parameters import Buffer, Parameter, manual_seed, seeded, undrawn
from .pooling import AvgPool2d, MaxPool2d
from .products import Linear
from .shapes import Concat, Flatten, Subsample, TakeChannels, Upsample2d

__all__ = [
    "DROPOUT_FORMS",
    "AvgPool2d",
    "BatchNorm",
    "Blur",
    "Buffer",
    "Concat",
    "ContrastNorm",
    "Conv2d",
    "Cost",
    "Dropout",
    "Flatten",
    "Graph",
    "Hook",
    "Linear",
    "Local2d",
    "LocalResponseNorm",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Node",
    "NoisyReLU",
    "Parameter",
    "Pointwise",
    "Random",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "SpatialResponseNorm",
    "StateDifferences",
    "Subsample",
    "TakeChannels",
    "Tanh",
    "Upsample2d",
    "WeightedSum",
    "activated",
    "in_turn",
    "manual_seed",
    "seeded",
    "undrawn",
    "watching",
]
