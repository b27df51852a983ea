"""Layers, losses and initializers. Paddle's spellings (Layer, Conv2D ...) are aliases."""

from __future__ import annotations

from edgec.engine.nn import functional, init, layers, losses
from edgec.engine.nn.layers import *  # noqa: F403
from edgec.engine.nn.layers import AdaptiveAvgPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d, Conv1d, Conv2d, MaxPool2d
from edgec.engine.nn.losses import *  # noqa: F403
from edgec.engine.nn.module import Module, ModuleList, Sequential
from edgec.engine.tensor import Parameter

Layer = Module
LayerList = ModuleList
Conv1D, Conv2D = Conv1d, Conv2d
BatchNorm1D, BatchNorm2D = BatchNorm1d, BatchNorm2d
MaxPool2D, AvgPool2D, AdaptiveAvgPool2D = MaxPool2d, AvgPool2d, AdaptiveAvgPool2d

__all__ = [
    "AdaptiveAvgPool2D", "AvgPool2D", "BatchNorm1D", "BatchNorm2D", "Conv1D", "Conv2D", "Layer", "LayerList",
    "MaxPool2D", "Module", "ModuleList", "Parameter", "Sequential", "functional", "init", *layers.__all__,
    *losses.__all__,
]  # fmt: skip
