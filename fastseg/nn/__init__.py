"""Modules on `fastseg.ops`."""

from fastseg.nn.filters import FFParser, NBPFilter
from fastseg.nn.neuralop import NeuralopSpectralConv
from fastseg.nn.spectral import FNOBlock, SpectralConv

__all__ = ["FFParser", "FNOBlock", "NBPFilter", "NeuralopSpectralConv", "SpectralConv"]
