"""Layers with parameters: Module, Parameter and the building blocks of AlexNet.

A Module's parameters and child modules are its attributes; ``Sequential`` names its children. Weights are drawn from
``rng`` when a layer is made; without one they come from a generator that ``manual_seed`` resets.
"""

from .containers import Cost, Graph, Node, Sequential, in_turn
from .convolution import Blur, Conv2d, Local2d
from .elementwise import DROPOUT_FORMS, Dropout, NoisyReLU, Pointwise, ReLU, Sigmoid, Tanh, WeightedSum, activated
from .module import Module, Random, StateDifferences
from .normalisation import BatchNorm, ContrastNorm, LocalResponseNorm, SpatialResponseNorm
from .parameters import Buffer, Parameter, manual_seed
from .pooling import AvgPool2d, MaxPool2d
from .products import Linear
from .shapes import Concat, Flatten, Subsample, TakeChannels

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
    "Linear",
    "Local2d",
    "LocalResponseNorm",
    "MaxPool2d",
    "Module",
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
    "WeightedSum",
    "activated",
    "in_turn",
    "manual_seed",
]
