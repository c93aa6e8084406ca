"""Modules on `fastseg.ops`, with the parameter names of the published layers they stand for.

>>> import torch
>>> from fastseg import nn
>>> nn.SpectralConv(4, 8, modes=(6, 4))(torch.randn(2, 4, 30, 17)).shape
torch.Size([2, 8, 30, 17])
"""

from fastseg.nn.afno import AFNO
from fastseg.nn.factorized import FactorizedSpectralConv, FFNOBlock
from fastseg.nn.filters import FFParser, NBPFilter
from fastseg.nn.fourier_unit import FourierUnit, LocalFourierUnit, SpectralTransform
from fastseg.nn.gate import AnchorGate
from fastseg.nn.gaussian import (
    FrequencyGuide,
    GaussianFilter,
    GaussianSmooth,
    MonaiGaussianFilter,
)
from fastseg.nn.hartley import HartleyConv, HartleyMix, HNOBlock
from fastseg.nn.incremental import IncrementalSpectralConv
from fastseg.nn.neuralop import NeuralopSpectralConv, convert, neuralop_state_dict, restore
from fastseg.nn.spectral import FNOBlock, SpectralConv
from fastseg.nn.squeeze import SqueezeExcitation
from fastseg.nn.time import TimeEmbedding, TimeFiLM, TimeShift
from fastseg.nn.vffc import VFFC, FFCSqueeze, VFFCBlock, VFFCBottleneck, VFFCLayer

__all__ = [
    "AFNO",
    "VFFC",
    "AnchorGate",
    "FFCSqueeze",
    "FFNOBlock",
    "FFParser",
    "FNOBlock",
    "FactorizedSpectralConv",
    "FourierUnit",
    "FrequencyGuide",
    "GaussianFilter",
    "GaussianSmooth",
    "HNOBlock",
    "HartleyConv",
    "HartleyMix",
    "IncrementalSpectralConv",
    "LocalFourierUnit",
    "MonaiGaussianFilter",
    "NBPFilter",
    "NeuralopSpectralConv",
    "SpectralConv",
    "SpectralTransform",
    "SqueezeExcitation",
    "TimeEmbedding",
    "TimeFiLM",
    "TimeShift",
    "VFFCBlock",
    "VFFCBottleneck",
    "VFFCLayer",
    "convert",
    "neuralop_state_dict",
    "restore",
]
