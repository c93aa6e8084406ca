"""The 2-D FNO baseline with the settings of its source.

Source: "CSE 599" at muhualiushui.com and its code, github.com/muhualiushui/FNO_torch;
four modalities in, four classes out, Dice 65.13 % on BraTS 2021 by its own slice-wise measure.
"""

from fastseg.config import Recipe
from fastseg.data.pipeline import LoaderConfig


def recipe() -> Recipe:
    """Every value with its reason; override any of them as `name=value`."""
    return Recipe(
        name="fno",
        system="fno",
        model={
            "modes": (20, 10),  # source: 10 a side; rows of both signs, 10 + 10, and 10 columns
            "width": 16,  # source
            "blocks": 3,  # source: three a branch
            "branches": "per_class",  # source: one stack a class; "shared" is its later variant
            "two_sided": True,  # false with modes=10,10 is the source, without negative rows
        },
        data=LoaderConfig(
            patch=(192, 192),  # source's code; holds every BraTS brain, less work than 240 x 240
            batch_size=8,  # source
            samples_per_case=64,  # half of a volume's brain slices for one decode
            foreground_fraction=0.5,  # tumour and tumour-free slices 1:1, as most slices show none
            flip=True,  # source: random horizontal and vertical flips, nothing else
            normalise="zscore",  # a volume's slices keep their contrast; source: slice_minmax
        ),
        optimizer="adam",  # source
        lr=3e-4,  # source
        betas=(0.9, 0.999),  # source: Adam's defaults
        schedule="constant",  # source: none
        epochs=50,  # source
        precision="fp32",  # source
    )
