"""Triton kernels; imports torch and triton only."""

from . import mix, pointwise, tiles, transform

__all__ = ["mix", "pointwise", "tiles", "transform"]
