"""C-legacy: FNO blocks in place of the diffusion U-shape as they were published.

Source: github.com/muhualiushui/FNO_torch of June 2025 ("the code"), for "CSE 599" at
muhualiushui.com ("the page"), Dice 57.03 % on BraTS 2021 by its own slice-wise measure.
"""

from fastseg.config import Recipe
from fastseg.recipes import Setting, fno_diffusion, make

SYSTEM = fno_diffusion.SYSTEM
SETTINGS = fno_diffusion.SETTINGS | {
    "model.two_sided": Setting(False, "the code: no negative frequencies on the first axis"),
    "model.legacy_init": Setting(True, "the code: spectral weights whose mean is not zero"),
}


def recipe() -> Recipe:
    """Make the corrected recipe with the source's two errors put back."""
    return make(__name__, SYSTEM, SETTINGS)
