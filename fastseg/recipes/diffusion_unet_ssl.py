"""B-ssl: the diffusion U-shape with few labels and pseudo-labels on the images of other patients.

Source: GenericSSL (Wang & Li, NeurIPS 2023, github.com/xmed-lab/GenericSSL), with the sizes of the
supervised recipe, `diffusion_unet`.
"""

import dataclasses

from fastseg.config import Recipe
from fastseg.recipes import diffusion_unet


def recipe() -> Recipe:
    """The supervised recipe with the source's third loss; values with their reasons."""
    supervised = diffusion_unet.recipe()
    model = supervised.model | {
        "mode": "ssl",  # source: pseudo-labels from the denoiser and the labelled decoder
        "decoder": "theta",  # source: the decoder that learns from pseudo-labels
        "unsupervised_weight": 10.0,  # source: of the loss on them once its ramp is over
        "theta_decay": 0.99,  # source: theta's average of the other two decoders
    }
    return dataclasses.replace(
        supervised,
        name="diffusion_unet_ssl",
        model=model,
        data=dataclasses.replace(
            supervised.data,
            strong=True,  # source: three changes out of six for each sample
        ),
        labelled_fraction=0.1,  # the usual setting of semi-supervised studies; any share may be set
        ema=None,  # the average is theta's own, theta_decay
    )
