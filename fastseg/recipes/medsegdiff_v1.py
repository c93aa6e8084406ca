"""F-v1: MedSegDiff, as its repository has it, with its faults corrected.

Sources: Wu et al., MIDL 2024 ("the paper"), github.com/ImprintLab/MedSegDiff ("the code").
"""

from fastseg.config import Recipe
from fastseg.recipes import Setting, make, medsegdiff_v2, without

SYSTEM = "medsegdiff-v1"
_OF_V2 = [
    f"model.{key}"
    for key in ("anchor", "radius", "sigma", "anchor_levels", "ssformer", "ssformer_channels",
                "ssformer_blocks", "ssformer_heads")
]  # fmt: skip
SETTINGS = without(medsegdiff_v2.SETTINGS, *_OF_V2) | {
    "model.size": Setting((256, 256), "the code"),
    "model.enhance": Setting(False, "the code", "the paper: true"),
    "model.anchor_loss": Setting("mse", "the code"),
    "model.anchor_every": Setting(1, "the code: in every step"),
    "model.anchor_weight": Setting(10.0, "the code"),
    "data.batch_size": Setting(8, "the code"),
    "data.micro_batch": Setting(
        4, "ours: a slice takes 2.3 GB, with weights and averages 12 GB in all"
    ),
    "epochs": Setting(30, "about the code's 100,000 steps on 875 patients"),
    "val_every": Setting(5, "epochs of 3,500 steps"),
}


def recipe() -> Recipe:
    """Make F-v2's training with the first network."""
    return make(__name__, SYSTEM, SETTINGS)
