"""The FNO baseline on volumes: the same network and loss, with sizes that fit a 16 GB card."""

from fastseg.config import Recipe
from fastseg.recipes import Setting, make

SYSTEM = "fno"
SETTINGS = {
    "model.modes": Setting((8, 12, 6), "finest wave 16 voxels on each axis, near 2-D's 192 / 10"),
    "model.width": Setting(16, "as in 2-D"),
    "model.blocks": Setting(3, "as in 2-D"),
    "model.branches": Setting("per_class", "as in 2-D"),
    "model.two_sided": Setting(True, "false drops three of the four corners of the spectrum"),
    "data.patch": Setting((64, 96, 96), "a whole tumour in most cases; 0.6 M voxels"),
    "data.batch_size": Setting(2, "twelve blocks of saved maps take about 3 GB"),
    "data.samples_per_case": Setting(4, "crops overlap a lot beyond that"),
    "data.foreground_fraction": Setting(0.5, "a random crop seldom holds the enhancing tumour"),
    "data.flip": Setting(True, "as in 2-D, left-right and front-back"),
    "data.normalise": Setting("zscore", "over the volume, the only rule that fits 3-D patches"),
    "optimizer": Setting("adam", "as in 2-D"),
    "lr": Setting(3e-4, "as in 2-D"),
    "schedule": Setting(
        "cosine", "few samples a step: the end of the run averages their noise out"
    ),
    "grad_clip": Setting(12.0, "as in 2-D"),
    "epochs": Setting(100, "four patches a case show less than 64 slices do"),
    "ema": Setting(0.999, "small batches: averaged weights validate better"),
    "precision": Setting("fp32", "auto halves the memory on GPUs"),
}


def recipe() -> Recipe:
    """Make the recipe; override any value as `name=value`."""
    return make(__name__, SYSTEM, SETTINGS)
