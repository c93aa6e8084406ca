"""HNOSeg-XS on whole volumes, trained and predicted in one pass: 28,248 weights.

Source: Wong, Wang, Syeda-Mahmood, HNOSeg-XS, TMI 2025, and
github.com/IBM/multimodal-3d-image-segmentation ("the code"), on BraTS 2023; it trains on volumes of
half the resolution and predicts at the whole. A volume smaller than `data.patch` gets background
around it: every volume has one grid, on which frequencies keep their lengths.
"""

from fastseg.config import Recipe
from fastseg.recipes import Setting, make

SYSTEM = "hnoseg"
SETTINGS = {
    "model.modes": Setting((20, 28, 28), "the code: 10, 14, 14 of each sign"),
    "model.width": Setting(24, "the code"),
    "model.blocks": Setting(8, "the code"),
    "model.mixes": Setting(3, "the code"),
    "model.shared": Setting(True, "the code; else 15,680 weights a pair of channels"),
    "model.deep_supervision": Setting(False, "the code, for this network"),
    "data.patch": Setting(
        (155, 240, 240), "a whole volume of BraTS; about 4 GB in training", "78,120,120, resampled"
    ),
    "data.batch_size": Setting(1, "the code"),
    "data.samples_per_case": Setting(1, "a sample is the case"),
    "data.foreground_fraction": Setting(None, "nothing is chosen"),
    "data.flip": Setting(False, "the code"),
    "data.rotate_degrees": Setting(
        30.0, "the code, which also shifts by up to 0.2 and zooms by 0.8 to 1.2"
    ),
    "data.normalise": Setting("zscore", "the code: by a volume's mean and deviation"),
    "optimizer": Setting("adam", "its step is Adamax's but for the norm", "adamax"),
    "lr": Setting(5e-3, "the code"),
    "schedule": Setting("cosine", "one fall, no restarts", "cosine, warm restarts"),
    "lr_min": Setting(1e-3, "the code"),
    "grad_clip": Setting(12.0, "ours: bounds the rare step that would undo many others", None),
    "epochs": Setting(300, "the code"),
    "ema": Setting(None, "the code has none"),
    "precision": Setting("fp32", "the code; spectra are in float32 whatever this is"),
    "val_every": Setting(5, "validation predicts whole volumes too"),
}


def recipe() -> Recipe:
    """Make the recipe; override any value as `name=value`."""
    return make(__name__, SYSTEM, SETTINGS)
