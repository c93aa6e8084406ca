"""The 3-D U-Net that SegResNet is compared with, trained on T2 alone. The write-up has mean Dice
0.62 on T2 and 0.08 to 0.11 on the others; 0.73 in validation with four modalities stacked, which is
`modalities=t1,t1ce,t2,flair`.
"""

import dataclasses

from fastseg.config import Recipe
from fastseg.recipes import segresnet


def recipe() -> Recipe:
    """E-baseline's training with another network; values with their reasons."""
    base = segresnet.recipe()
    model = {
        "width": 64,  # the code
        "levels": 4,  # the code: 64, 128, 256 channels and a bottleneck of 512
        "head": "regions",  # as SegResNet
        "vffc_blocks": 0,  # 3: the code's Fourier bottleneck, 33 M parameters
        "vffc_ratio": 0.5,  # as SegResNet
        "vffc_norm": "group",  # as SegResNet; the network's own norm is batch norm
        "domains": 0,  # no classifier of domains
        "domain_weight": 0.1,  # as SegResNet
        "domain_schedule": "dann",  # as SegResNet
        "prior": 0.0,  # as SegResNet
        "flips": False,  # as SegResNet
        "checkpointing": False,  # as SegResNet
    }
    return dataclasses.replace(base, name="unet3d", system="unet3d", model=model)
