"""Modules on `fastseg.ops`."""

from fastseg.nn.neuralop import NeuralopSpectralConv
from fastseg.nn.spectral import FNOBlock, SpectralConv

__all__ = ["FNOBlock", "NeuralopSpectralConv", "SpectralConv"]
