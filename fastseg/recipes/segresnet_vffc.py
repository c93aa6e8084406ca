"""E-vffc: E-bezier with a volumetric fast Fourier bottleneck."""

from fastseg.config import Recipe
from fastseg.recipes import Setting, make, segresnet_bezier

SYSTEM = "segresnet-vffc"
SETTINGS = segresnet_bezier.SETTINGS | {
    "model.vffc_blocks": Setting(3, "the code"),
}


def recipe() -> Recipe:
    """Make E-bezier with the bottleneck."""
    return make(__name__, SYSTEM, SETTINGS)
