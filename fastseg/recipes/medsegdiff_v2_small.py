"""F-v2-small: MedSegDiff-V2 for a single GPU, at half the width.

Sources as for `medsegdiff_v2`. The network predicts the clean label map: on phantoms it finds whole
tumours after 400 steps, and seven organs of nine after 480 at lr=4e-3, with which other data can
diverge; the sources train for 100,000. On a CPU, for a first look, slices of 64 x 64:

    fastseg train medsegdiff_v2_small --data DATA --out RUN data.patch=64,64 model.width=16
        model.condition_width=8 model.ssformer_channels=64 model.ssformer_blocks=2
        model.ssformer_heads=4 model.sampling_steps=3 lr=2e-3 ema=0.98 epochs=12

Organs on CT, every class that dataset.json names:

    fastseg train medsegdiff_v2_small --data AMOS --out RUN region=null data.flip=false
        data.normalise=window data.window=-160,240
"""

from fastseg.config import Recipe
from fastseg.recipes import Setting, make, medsegdiff_v2

SYSTEM = medsegdiff_v2.SYSTEM
SETTINGS = medsegdiff_v2.SETTINGS | {
    "model.width": Setting(64, "half, for a single GPU", 128),
    "model.ssformer_channels": Setting(256, "the deepest feature's, as ever"),
    "model.parameterisation": Setting(
        "x0", "no learnt variance, which only the ancestral sampler would use", "epsilon"
    ),
    "model.sampling_steps": Setting(20, "enough where a single step already segments", 50),
    "data.batch_size": Setting(8, "the code", "the paper: 32"),
    "data.micro_batch": Setting(
        None, "a slice takes 1.3 GB, with weights and averages 12 GB in all"
    ),
    "epochs": Setting(30, "about 100,000 steps on 875 patients"),
    "val_every": Setting(5, "epochs of 3,500 steps"),
}


def recipe() -> Recipe:
    """Make F-v2 with what a single GPU asks for."""
    return make(__name__, SYSTEM, SETTINGS)
