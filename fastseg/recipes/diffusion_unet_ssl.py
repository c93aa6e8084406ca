"""B-ssl: the diffusion U-shape with few labels and pseudo-labels on the images of other patients.

Source: GenericSSL (Wang & Li, NeurIPS 2023, github.com/xmed-lab/GenericSSL), with the sizes of the
supervised recipe, `diffusion_unet`.
"""

from fastseg.config import Recipe
from fastseg.recipes import Setting, diffusion_unet, make

SYSTEM = diffusion_unet.SYSTEM
SETTINGS = diffusion_unet.SETTINGS | {
    "model.mode": Setting(
        "ssl", "source: pseudo-labels from the denoiser and the labelled decoder"
    ),
    "model.decoder": Setting("theta", "source: the decoder that learns from pseudo-labels"),
    "model.unsupervised_weight": Setting(10.0, "source"),
    "model.theta_decay": Setting(0.99, "source"),
    "data.strong": Setting(True, "source: three changes out of six for each sample"),
    "labelled_fraction": Setting(
        0.1, "the usual setting of semi-supervised studies; any share may be set"
    ),
    "ema": Setting(None, "the average is theta's own, theta_decay"),
}


def recipe() -> Recipe:
    """Make the supervised recipe with the source's third loss."""
    return make(__name__, SYSTEM, SETTINGS)
