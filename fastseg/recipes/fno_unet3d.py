"""C' on volumes: spectral branches beside 3-D convolutions, with sizes that fit a 16 GB card."""

from fastseg.config import Recipe
from fastseg.recipes import Setting, fno_unet, make

SYSTEM = fno_unet.SYSTEM
SETTINGS = fno_unet.SETTINGS | {
    "model.axes": Setting(3, "volumes"),
    "model.width": Setting(16, "half of 2-D; 32 fits a larger card"),
    "model.modes": Setting(
        (16, 12, 8, 6, 3), "as in 2-D; the coarsest level of 96 voxels has no more"
    ),
    "data.patch": Setting(
        (96, 96, 96), "a whole tumour and some anatomy around it; 128,128,128 on 40 GB"
    ),
    "data.batch_size": Setting(2, "as many as fit"),
    "data.samples_per_case": Setting(4, "crops overlap a lot beyond that"),
    "ema": Setting(0.999, "small batches: averaged weights validate better"),
}


def recipe() -> Recipe:
    """Make the 2-D recipe with other sizes."""
    return make(__name__, SYSTEM, SETTINGS)
