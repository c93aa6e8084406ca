"""C' on volumes: spectral branches beside 3-D convolutions, with sizes that fit a 16 GB card."""

import dataclasses

from fastseg.config import Recipe
from fastseg.recipes import fno_unet


def recipe() -> Recipe:
    """The 2-D recipe with other sizes; values with their reasons."""
    flat = fno_unet.recipe()
    model = flat.model | {
        "axes": 3,  # volumes
        "width": 16,  # half of 2-D; 32 fits a larger card
        "modes": (16, 12, 8, 6, 3),  # as in 2-D; the coarsest level of 96 voxels has no more
    }
    data = dataclasses.replace(
        flat.data,
        patch=(96, 96, 96),  # a whole tumour and some anatomy around it; 128,128,128 on 40 GB
        batch_size=2,  # as many as fit
        samples_per_case=4,  # crops overlap a lot beyond that
    )
    return dataclasses.replace(
        flat,
        name="fno_unet3d",
        model=model,
        data=data,
        ema=0.999,  # small batches: averaged weights validate better
    )
