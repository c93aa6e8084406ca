"""Turn NIfTI cases into batches for training, and into whole volumes for prediction."""

import importlib

# torch takes seconds to load, and a configuration does not need it
_HOMES = {
    "Loader": "loader",
    "LoaderConfig": "config",
    "CaseArrays": "volume",
    "load_case": "volume",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f"fastseg.data.pipeline.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fastseg.data.pipeline' has no attribute {name!r}")
