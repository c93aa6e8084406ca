"""E-grl: E-bezier with a classifier of the three domains behind a gradient reversal."""

import dataclasses

from fastseg.config import Recipe
from fastseg.recipes import segresnet_bezier


def recipe() -> Recipe:
    """E-bezier with the classifier; values with their reasons."""
    base = segresnet_bezier.recipe()
    model = base.model | {
        "domains": 3,  # as many as data.bezier_domains
    }
    return dataclasses.replace(base, name="segresnet_grl", model=model)
