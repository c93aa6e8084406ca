"""Fast spectral kernels for Fourier- and diffusion-based models on brain MRI."""

import importlib

__version__ = "0.1.0"

_SUBMODULES = ("ops", "nn", "reference", "models", "data", "losses", "metrics")
_FROM_BACKENDS = ("use_backend", "backends")

__all__ = [*_SUBMODULES, *_FROM_BACKENDS, "__version__"]


def __getattr__(name: str):
    # torch takes a second to load, so the command line's --help must not pull it in
    if name in _SUBMODULES:
        return importlib.import_module(f"fastseg.{name}")
    if name in _FROM_BACKENDS:
        return getattr(importlib.import_module("fastseg.ops"), name)
    raise AttributeError(f"module 'fastseg' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
