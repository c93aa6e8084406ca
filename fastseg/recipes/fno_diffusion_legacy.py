"""C-legacy: FNO blocks in place of the diffusion U-shape as they were published.

Source: github.com/muhualiushui/FNO_torch of June 2025 ("the code"), for "CSE 599" at
muhualiushui.com ("the page"), Dice 57.03 % on BraTS 2021 by its own slice-wise measure.
"""

import dataclasses

from fastseg.config import Recipe
from fastseg.recipes import fno_diffusion


def recipe() -> Recipe:
    """The corrected recipe with the source's two errors put back."""
    corrected = fno_diffusion.recipe()
    model = corrected.model | {
        "two_sided": False,  # the code: no negative frequencies on the first axis
        "legacy_init": True,  # the code: spectral weights whose mean is not zero
    }
    return dataclasses.replace(corrected, name="fno_diffusion_legacy", model=model)
