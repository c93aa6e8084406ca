"""The 3-D U-Net that SegResNet is compared with, trained on T2 alone. The write-up has mean Dice
0.62 on T2 and 0.08 to 0.11 on the others; 0.73 in validation with four modalities stacked, which is
`modalities=t1,t1ce,t2,flair`.
"""

from fastseg.config import Recipe
from fastseg.recipes import Setting, make, segresnet, without

SYSTEM = "unet3d"
SETTINGS = without(segresnet.SETTINGS, "model.") | {
    "model.width": Setting(64, "the code"),
    "model.levels": Setting(4, "the code: 64, 128, 256 channels and a bottleneck of 512"),
    "model.head": Setting("regions", "as SegResNet"),
    "model.vffc_blocks": Setting(0, "3: the code's Fourier bottleneck, 33 M parameters"),
    "model.vffc_ratio": Setting(0.5, "as SegResNet"),
    "model.vffc_norm": Setting(
        "group", "as SegResNet; the network's own norm is batch norm", "batch"
    ),
    "model.domains": Setting(0, "no classifier of domains"),
    "model.domain_weight": Setting(0.1, "as SegResNet", "the code's command: 0"),
    "model.domain_schedule": Setting("dann", "as SegResNet", "constant"),
    "model.prior": Setting(0.0, "as SegResNet"),
    "model.flips": Setting(False, "as SegResNet"),
    "model.checkpointing": Setting(False, "as SegResNet"),
}


def recipe() -> Recipe:
    """Make E-baseline's training with another network."""
    return make(__name__, SYSTEM, SETTINGS)
