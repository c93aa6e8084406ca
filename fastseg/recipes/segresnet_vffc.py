"""E-vffc: E-bezier with a volumetric fast Fourier bottleneck."""

import dataclasses

from fastseg.config import Recipe
from fastseg.recipes import segresnet_bezier


def recipe() -> Recipe:
    """E-bezier with the bottleneck; values with their reasons."""
    base = segresnet_bezier.recipe()
    model = base.model | {
        "vffc_blocks": 3,  # the code
    }
    return dataclasses.replace(base, name="segresnet_vffc", system="segresnet-vffc", model=model)
