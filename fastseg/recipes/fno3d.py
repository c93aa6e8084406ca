"""The FNO baseline on volumes: the same network and loss, with sizes that fit a 16 GB card."""

from fastseg.config import Recipe
from fastseg.data.pipeline import LoaderConfig


def recipe() -> Recipe:
    """Every value with its reason; override any of them as `name=value`."""
    return Recipe(
        name="fno3d",
        system="fno",
        model={
            "modes": (8, 12, 6),  # finest wave 16 voxels on each axis, near 2-D's 192 / 10
            "width": 16,  # as in 2-D
            "blocks": 3,  # as in 2-D
            "branches": "per_class",  # as in 2-D
            "two_sided": True,  # false drops three of the four corners of the spectrum
        },
        data=LoaderConfig(
            patch=(64, 96, 96),  # a whole tumour in most cases; 0.6 M voxels
            batch_size=2,  # twelve blocks of saved maps take about 3 GB
            samples_per_case=4,  # crops overlap a lot beyond that
            foreground_fraction=0.5,  # a random crop seldom holds the enhancing tumour
            flip=True,  # as in 2-D, left-right and front-back
            normalise="zscore",  # over the volume, the only rule that fits 3-D patches
        ),
        optimizer="adam",  # as in 2-D
        lr=3e-4,  # as in 2-D
        schedule="cosine",  # few samples a step: the end of the run averages their noise out
        epochs=100,  # four patches a case show less than 64 slices do
        ema=0.999,  # small batches: averaged weights validate better
        precision="fp32",  # auto halves the memory on GPUs
    )
