"""Triton kernels; imports torch and triton only."""

from . import mix, tiles, transform

__all__ = ["mix", "tiles", "transform"]
