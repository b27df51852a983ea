"""Layers, losses and initializers. Paddle's spellings (Layer, Conv2D ...) are aliases."""

from __future__ import annotations

from edgec.engine.clip_grad import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
from edgec.engine.nn import (
    activations,
    attention,
    containers,
    convolution,
    functional,
    init,
    layers,
    losses,
    normalization,
    pooling,
    recurrent,
    utils,
)
from edgec.engine.nn.activations import *  # noqa: F403
from edgec.engine.nn.attention import *  # noqa: F403
from edgec.engine.nn.containers import *  # noqa: F403
from edgec.engine.nn.containers import ModuleDict, ModuleList
from edgec.engine.nn.convolution import *  # noqa: F403
from edgec.engine.nn.convolution import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from edgec.engine.nn.layers import *  # noqa: F403
from edgec.engine.nn.layers import Dropout2d
from edgec.engine.nn.losses import *  # noqa: F403
from edgec.engine.nn.module import Module
from edgec.engine.nn.normalization import *  # noqa: F403
from edgec.engine.nn.normalization import BatchNorm1d, BatchNorm2d, BatchNorm3d, InstanceNorm1d, InstanceNorm2d
from edgec.engine.nn.pooling import *  # noqa: F403
from edgec.engine.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    MaxPool1d,
    MaxPool2d,
)
from edgec.engine.nn.recurrent import *  # noqa: F403
from edgec.engine.tensor import Parameter

Layer, LayerList, LayerDict = Module, ModuleList, ModuleDict
Conv1D, Conv2D, Conv3D = Conv1d, Conv2d, Conv3d
Conv1DTranspose, Conv2DTranspose, Conv3DTranspose = ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
BatchNorm1D, BatchNorm2D, BatchNorm3D = BatchNorm1d, BatchNorm2d, BatchNorm3d
InstanceNorm1D, InstanceNorm2D = InstanceNorm1d, InstanceNorm2d
MaxPool1D, MaxPool2D, AvgPool1D, AvgPool2D = MaxPool1d, MaxPool2d, AvgPool1d, AvgPool2d
AdaptiveAvgPool1D, AdaptiveAvgPool2D = AdaptiveAvgPool1d, AdaptiveAvgPool2d
AdaptiveMaxPool1D, AdaptiveMaxPool2D = AdaptiveMaxPool1d, AdaptiveMaxPool2d
Dropout2D = Dropout2d

__all__ = [
    "AdaptiveAvgPool1D", "AdaptiveAvgPool2D", "AdaptiveMaxPool1D", "AdaptiveMaxPool2D", "AvgPool1D", "AvgPool2D",
    "BatchNorm1D", "BatchNorm2D", "BatchNorm3D", "ClipGradByGlobalNorm", "ClipGradByNorm", "ClipGradByValue",
    "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Conv3D", "Conv3DTranspose", "Dropout2D",
    "InstanceNorm1D", "InstanceNorm2D", "Layer", "LayerDict", "LayerList", "MaxPool1D", "MaxPool2D", "Module",
    "Parameter", "functional", "init", "utils", *activations.__all__, *attention.__all__, *containers.__all__,
    *convolution.__all__, *layers.__all__, *losses.__all__, *normalization.__all__, *pooling.__all__,
    *recurrent.__all__,
]  # fmt: skip
