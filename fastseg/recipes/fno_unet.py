"""C': the diffusion U-shape with a spectral branch beside the convolutions of its levels, and a
gate that fuses the two. Its arms are those of `fastseg study fusion`; arm `local` is the diffusion
U-shape itself.

Nothing of it is published. "B" is the recipe `diffusion_unet`, of which all training settings are.
"""

import dataclasses

from fastseg.config import Recipe
from fastseg.recipes import diffusion_unet


def recipe() -> Recipe:
    """B with the branches; values with their reasons."""
    base = diffusion_unet.recipe()
    model = base.model | {
        "arm": "fused",  # or local, local-wide (as many parameters as fused), spectral
        "modes": (16, 12, 8, 6, 4),  # of each level, finest first: waves of 12 pixels and more
        "reduction": 4,  # branches a quarter as wide: 2 M instead of 34 M spectral parameters
        "weights": "dense",  # a matrix a mode; "shared" or "depthwise" are far smaller
        "fusion": "gate",  # decides by place and channel how much of the global view to add
        "placement": ("encoder", "bottleneck"),  # skips then carry the fused features
        "path": "both",  # denoiser and segmentation share their encoder
    }
    return dataclasses.replace(base, name="fno_unet", system="fno-unet", model=model)
