"""The 2-D FNO baseline with the settings of its source.

Source: "CSE 599" at muhualiushui.com and its code, github.com/muhualiushui/FNO_torch;
four modalities in, four classes out, Dice 65.13 % on BraTS 2021 by its own slice-wise measure.
"""

from fastseg.config import Recipe
from fastseg.recipes import Setting, make

SYSTEM = "fno"
SETTINGS = {
    "model.modes": Setting(
        (20, 10),
        "10 a side as in the source; rows of both signs, 10 + 10, and 10 columns",
        (10, 10),
    ),
    "model.width": Setting(16, "source"),
    "model.blocks": Setting(3, "source: three a branch"),
    "model.branches": Setting(
        "per_class", 'source: one stack a class; "shared" is its later variant'
    ),
    "model.two_sided": Setting(
        True,
        "else one of two corners of low modes is missing: no wave of one diagonal passes",
        False,
    ),
    "data.patch": Setting(
        (192, 192), "source's code; holds every BraTS brain, less work than 240 x 240"
    ),
    "data.batch_size": Setting(8, "source"),
    "data.samples_per_case": Setting(64, "half of a volume's brain slices for one decode"),
    "data.foreground_fraction": Setting(
        0.5, "tumour and tumour-free slices 1:1, as most slices show none"
    ),
    "data.flip": Setting(True, "source: random horizontal and vertical flips, nothing else"),
    "data.normalise": Setting("zscore", "a volume's slices keep their contrast", "slice_minmax"),
    "optimizer": Setting("adam", "source"),
    "lr": Setting(3e-4, "source"),
    "betas": Setting((0.9, 0.999), "source: Adam's defaults"),
    "schedule": Setting("constant", "source: none"),
    "grad_clip": Setting(12.0, "ours: bounds the rare step that would undo many others", None),
    "epochs": Setting(50, "source"),
    "precision": Setting("fp32", "source"),
}


def recipe() -> Recipe:
    """Make the recipe; override any value as `name=value`."""
    return make(__name__, SYSTEM, SETTINGS)
