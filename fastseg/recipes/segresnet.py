"""E-baseline: SegResNet trained on T2 alone, to be tested on all four modalities.

Sources: D. Imans' exploratory write-up ("the write-up") and github.com/DillanImans/brats_grl_vffc
("the code"); on BraTS 2021 the write-up has mean Dice 0.74 on T2, 0.04 on T1, 0.29 on T1ce, 0.65 on
FLAIR. In the code the schedule is stepped in validation only, so that the rate hardly moves; test
images are cropped at random; the split follows the order of a folder. None of that is kept.
"""

from fastseg.config import Recipe
from fastseg.data.pipeline import LoaderConfig


def recipe() -> Recipe:
    """Every value with its reason; override any of them as `name=value`."""
    return Recipe(
        name="segresnet",
        system="segresnet",
        model={
            "width": 32,  # the code
            "blocks_down": (1, 2, 2, 4),  # the code; MONAI's and the author's of SegResNet
            "blocks_up": (1, 1, 1),  # the code
            "dropout": 0.2,  # the code: whole channels, after the first convolution
            "head": "regions",  # both sources: a sigmoid each for WT, TC and ET
            "vffc_blocks": 0,  # none; segresnet_vffc has three
            "vffc_ratio": 0.5,  # the code: half of the bottleneck's channels are global
            "vffc_norm": "group",  # one volume at a time: the code's batch norm has nothing to mean
            "domains": 0,  # no classifier of domains; segresnet_grl has one
            "domain_weight": 0.1,  # our choice; the code's documented command has 0, so no reversal
            "domain_schedule": "dann",  # the weight grows with the reversal: first learn to segment
            "prior": 0.0,  # the layer's own start, about 0.5; 0.01: near a small tumour's share
            "flips": False,  # true: predict all eight mirror images too, eight times the work
            "checkpointing": False,  # true: 3.3 GB in place of 9.1 by estimate, a third more work
        },
        data=LoaderConfig(
            patch=(128, 128, 128),  # both sources
            batch_size=4,  # both sources: one volume on each of four GPUs
            micro_batch=1,  # both sources; a volume takes 9 GB, so that four exceed most GPUs
            samples_per_case=1,  # both sources: one crop of each patient an epoch
            foreground_fraction=None,  # both sources: crops at random, without a look at labels
            flip=True,  # the write-up; commented out in the code
            flip_depth=True,  # the write-up: all three axes
            rotate90=True,  # the write-up
            normalise="percentile",  # both sources
            percentiles=(1.0, 99.0),  # both sources: of the brain, voxels that are not 0
            value_range=(0.0, 1.0),  # both sources
        ),
        optimizer="adam",  # both sources
        amsgrad=True,  # both sources
        lr=1e-4,  # both sources
        weight_decay=1e-5,  # both sources
        schedule="cosine",  # the write-up; here it moves with every step
        lr_min=0.0,  # the code: torch's default
        epochs=100,  # the write-up
        ema=None,  # neither source has one
        precision="auto",  # the code: fp16; the FFTs are in fp32 whatever this is
        modalities=("t2",),  # both sources
        val_every=5,  # the code: whole volumes take as long as some epochs of training
    )
