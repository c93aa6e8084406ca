"""F-v1: MedSegDiff, as its repository has it, with its faults corrected.

Sources: Wu et al., MIDL 2024 ("the paper"), github.com/ImprintLab/MedSegDiff ("the code").
"""

import dataclasses

from fastseg.config import Recipe
from fastseg.recipes import medsegdiff_v2

_V2 = ("anchor", "radius", "sigma", "anchor_levels", "ssformer", "ssformer_channels")
_V2 += ("ssformer_blocks", "ssformer_heads")


def recipe() -> Recipe:
    """F-v2's training with the first network; values with their reasons."""
    base = medsegdiff_v2.recipe()
    model = {key: value for key, value in base.model.items() if key not in _V2} | {
        "size": (256, 256),  # the code: slices whose spectra the FF-Parsers' weights are for
        "enhance": False,  # the code: a plain product; true: the paper's layer-normed one
        "anchor_loss": "mse",  # the code
        "anchor_every": 1,  # the code: in every step
        "anchor_weight": 10.0,  # the code
    }
    return dataclasses.replace(
        base,
        name="medsegdiff_v1",
        system="medsegdiff-v1",
        model=model,
        data=dataclasses.replace(
            base.data,
            batch_size=8,  # the code
            micro_batch=4,  # ours: a slice takes 2.3 GB, with weights and averages 12 GB in all
        ),
        epochs=30,  # about the code's 100,000 steps on 875 patients
        val_every=5,  # epochs of 3,500 steps
    )
