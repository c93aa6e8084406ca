"""E-bezier: SegResNet on T2 in three intensity domains, each with patients of its own."""

from fastseg.config import Recipe
from fastseg.recipes import Setting, make, segresnet

SYSTEM = segresnet.SYSTEM
SETTINGS = segresnet.SETTINGS | {
    "data.bezier_domains": Setting(
        (0, 1, 2), "the write-up: none, increasing, decreasing", "the code: 1,2"
    ),
    "data.bezier_apart": Setting(
        True, "both sources: different patients; false: each sample draws one"
    ),
    "data.legacy_bezier": Setting(
        False, "by mistake domain 2 is the same curve as domain 1 there", True
    ),
}


def recipe() -> Recipe:
    """Make E-baseline with domains."""
    return make(__name__, SYSTEM, SETTINGS)
