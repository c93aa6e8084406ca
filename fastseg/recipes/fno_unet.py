"""C': the diffusion U-shape with a spectral branch beside the convolutions of its levels, and a
gate that fuses the two. Its arms are those of `fastseg study fusion`; arm `local` is the diffusion
U-shape itself.

Nothing of it is published. All training settings are those of the recipe `diffusion_unet`, whose
sources "both" and "the code" in the reasons are.
"""

from fastseg.config import Recipe
from fastseg.recipes import Setting, diffusion_unet, make

SYSTEM = "fno-unet"
SETTINGS = diffusion_unet.SETTINGS | {
    "model.arm": Setting("fused", "ours; the others are what it is compared with"),
    "model.modes": Setting((16, 12, 8, 6, 4), "ours: waves of 12 pixels and more on all levels"),
    "model.reduction": Setting(4, "ours: 2 M instead of 34 M spectral parameters"),
    "model.weights": Setting("dense", "ours: the others are far smaller"),
    "model.fusion": Setting(
        "gate", "ours: decides by place and channel how much of the global view to add"
    ),
    "model.placement": Setting(
        ("encoder", "bottleneck"), "ours: skips then carry the fused features"
    ),
    "model.path": Setting("both", "ours: denoiser and segmentation share their encoder"),
}


def recipe() -> Recipe:
    """Make the recipe of the diffusion U-shape with the branches."""
    return make(__name__, SYSTEM, SETTINGS)
