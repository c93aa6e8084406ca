"""The 3-D U-Net that SegResNet is compared with, trained on T2 alone. The write-up has mean Dice
0.62 on T2 and 0.08 to 0.11 on the others; 0.73 in validation with four modalities stacked, which is
`modalities=t1,t1ce,t2,flair`.
"""

from fastseg.config import Recipe
from fastseg.recipes import Setting, make, segresnet, without

SYSTEM = "unet3d"
_E = segresnet.SETTINGS
SETTINGS = without(_E, "model.") | {
    "model.width": Setting(64, "the code"),
    "model.levels": Setting(4, "the code: 64, 128, 256 channels and a bottleneck of 512"),
    "model.head": _E["model.head"],
    "model.vffc_blocks": Setting(0, "3: the code's Fourier bottleneck, 33 M parameters"),
    "model.vffc_ratio": _E["model.vffc_ratio"],
    "model.vffc_norm": _E["model.vffc_norm"],
    "model.domains": Setting(0, "no classifier of domains"),
    "model.domain_weight": _E["model.domain_weight"],
    "model.domain_schedule": _E["model.domain_schedule"],
    "model.prior": _E["model.prior"],
    "model.flips": _E["model.flips"],
    "model.checkpointing": Setting(False, "as SegResNet"),
}


def recipe() -> Recipe:
    """Make E-baseline's training with another network."""
    return make(__name__, SYSTEM, SETTINGS)
