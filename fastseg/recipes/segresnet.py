"""E-baseline: SegResNet trained on T2 alone, to be tested on all four modalities.

Sources: D. Imans' exploratory write-up ("the write-up") and github.com/DillanImans/brats_grl_vffc
("the code"); on BraTS 2021 the write-up has mean Dice 0.74 on T2, 0.04 on T1, 0.29 on T1ce, 0.65 on
FLAIR. In the code the schedule is stepped in validation only, so that the rate hardly moves; test
images are cropped at random; the split follows the order of a folder. None of that is kept.
"""

from fastseg.config import Recipe
from fastseg.recipes import Setting, make

SYSTEM = "segresnet"
SETTINGS = {
    "model.width": Setting(32, "the code"),
    "model.blocks_down": Setting((1, 2, 2, 4), "the code; MONAI's and the author's of SegResNet"),
    "model.blocks_up": Setting((1, 1, 1), "the code"),
    "model.dropout": Setting(0.2, "the code"),
    "model.head": Setting("regions", "both sources: WT, TC and ET"),
    "model.vffc_blocks": Setting(0, "none; segresnet_vffc has three"),
    "model.vffc_ratio": Setting(0.5, "the code: half of the bottleneck's channels are global"),
    "model.vffc_norm": Setting(
        "group", "one volume at a time: batch norm has nothing to mean", "batch"
    ),
    "model.domains": Setting(0, "no classifier of domains; segresnet_grl has one"),
    "model.domain_weight": Setting(
        0.1, "with the code's documented command nothing is reversed", "the code's command: 0"
    ),
    "model.domain_schedule": Setting(
        "dann", "the weight grows with the reversal: first learn to segment", "constant"
    ),
    "model.prior": Setting(
        0.0, "the layer's own start, about 0.5; 0.01: near a small tumour's share"
    ),
    "model.flips": Setting(
        False, "eight times the work", "eight passes, never flipped back, so equal"
    ),
    "model.checkpointing": Setting(
        False, "true: 3.3 GB in place of 9.1 by estimate, a third more work"
    ),
    "data.patch": Setting((128, 128, 128), "both sources"),
    "data.batch_size": Setting(4, "both sources: one volume on each of four GPUs"),
    "data.micro_batch": Setting(
        1, "both sources; a volume takes 9 GB, so that four exceed most GPUs"
    ),
    "data.samples_per_case": Setting(1, "both sources: one crop of each patient an epoch"),
    "data.foreground_fraction": Setting(
        None, "both sources: crops at random, without a look at labels"
    ),
    "data.flip": Setting(True, "the write-up", "the code: commented out"),
    "data.flip_depth": Setting(True, "the write-up: all three axes", "the code: commented out"),
    "data.rotate90": Setting(True, "the write-up", "the code: commented out"),
    "data.normalise": Setting("percentile", "both sources"),
    "data.percentiles": Setting((1.0, 99.0), "both sources: of the brain, voxels that are not 0"),
    "data.value_range": Setting((0.0, 1.0), "both sources"),
    "optimizer": Setting("adam", "both sources"),
    "amsgrad": Setting(True, "both sources"),
    "lr": Setting(1e-4, "both sources"),
    "weight_decay": Setting(1e-5, "both sources"),
    "schedule": Setting(
        "cosine", "the write-up; here it moves with every step", "the code: hardly moves"
    ),
    "lr_min": Setting(0.0, "the code: torch's default"),
    "grad_clip": Setting(12.0, "ours: bounds the rare step that would undo many others", None),
    "epochs": Setting(100, "the write-up", "the code: 300"),
    "ema": Setting(None, "neither source has one"),
    "precision": Setting("auto", "the code: fp16; the FFTs are in fp32 whatever this is"),
    "modalities": Setting(("t2",), "both sources"),
    "val_every": Setting(5, "the code: whole volumes take as long as some epochs of training"),
}


def recipe() -> Recipe:
    """Make the recipe; override any value as `name=value`."""
    return make(__name__, SYSTEM, SETTINGS)
