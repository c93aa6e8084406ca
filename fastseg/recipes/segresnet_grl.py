"""E-grl: E-bezier with a classifier of the three domains behind a gradient reversal."""

from fastseg.config import Recipe
from fastseg.recipes import Setting, make, segresnet_bezier

SYSTEM = segresnet_bezier.SYSTEM
SETTINGS = segresnet_bezier.SETTINGS | {
    "model.domains": Setting(3, "as many as data.bezier_domains", "the code: 2"),
}


def recipe() -> Recipe:
    """Make E-bezier with the classifier."""
    return make(__name__, SYSTEM, SETTINGS)
