"""E-bezier: SegResNet on T2 in three intensity domains, each with patients of its own."""

import dataclasses

from fastseg.config import Recipe
from fastseg.recipes import segresnet


def recipe() -> Recipe:
    """E-baseline with domains; values with their reasons."""
    base = segresnet.recipe()
    data = dataclasses.replace(
        base.data,
        bezier_domains=(0, 1, 2),  # the write-up: none, increasing, decreasing; the code: 1, 2
        bezier_apart=True,  # both sources: different patients; false: each sample draws one
        legacy_bezier=False,  # true: both sources' domain 2, which is the same curve as domain 1
    )
    return dataclasses.replace(base, name="segresnet_bezier", data=data)
