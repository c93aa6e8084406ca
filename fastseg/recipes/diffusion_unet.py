"""B-supervised: the diffusion U-shape with all labels, as it was run for its published figure.

Sources: GenericSSL (Wang & Li, NeurIPS 2023, github.com/xmed-lab/GenericSSL) and the 2-D copy of it
that was run, github.com/muhualiushui/FNO_torch ("the code"), for "CSE 599" at muhualiushui.com
("the page"); four modalities, Dice 69.44 % on BraTS 2021 by the page's own slice-wise measure.
"""

from fastseg.config import Recipe
from fastseg.recipes import Setting, make

SYSTEM = "diffusion-unet"
SETTINGS = {
    "model.axes": Setting(2, "the code"),
    "model.width": Setting(32, "both sources"),
    "model.head": Setting("softmax", 'both sources; "regions": WT, TC and ET'),
    "model.mode": Setting(
        "supervised", "the code: its branch for unlabelled images is commented out"
    ),
    "model.decoder": Setting(
        "psi", 'the code: one plain pass; "diffusion" samples label maps instead'
    ),
    "model.timesteps": Setting(1000, "both sources, linear betas from 1e-4 to 2e-2"),
    "model.sampler": Setting("ddim", "GenericSSL"),
    "model.sampling_steps": Setting(10, "both sources"),
    "model.eta": Setting(0.0, "GenericSSL"),
    "model.ensemble": Setting(1, "GenericSSL: none"),
    "model.max_batch": Setting(64, "ours: label maps of a 16 GB card"),
    "model.weight_memory": Setting(50, "GenericSSL"),
    "data.patch": Setting((192, 192), "the code; GenericSSL: 224 x 224"),
    "data.batch_size": Setting(32, "both sources"),
    "data.samples_per_case": Setting(64, "half of a volume's brain slices for one decode"),
    "data.foreground_fraction": Setting(0.5, "as for the FNO baseline: most slices show no tumour"),
    "data.flip": Setting(True, "the page: flips, nothing else; GenericSSL does more, strong=true"),
    "data.normalise": Setting("zscore", "a volume's slices keep their contrast", "slice_minmax"),
    "optimizer": Setting("sgd", "both codes; the rate is far too large for adam", "the page: adam"),
    "lr": Setting(1e-2, "both sources"),
    "betas": Setting((0.9, 0.999), "both codes: momentum 0.9"),
    "nesterov": Setting(True, "both codes"),
    "weight_decay": Setting(3e-5, "both codes"),
    "schedule": Setting("poly", "both codes: (1 - epoch / epochs) ^ 0.9"),
    "grad_clip": Setting(12.0, "ours: bounds the rare step that would undo many others", None),
    "epochs": Setting(300, "both sources: at most"),
    "patience": Setting(50, "both sources"),
    "ema": Setting(None, "only the commented-out branch of the code used it", "the page: 0.99"),
    "precision": Setting("fp32", "ours: the same on every device", "GenericSSL: fp16"),
    "modalities": Setting(None, "the page: all four", "the code: t2"),
}


def recipe() -> Recipe:
    """Make the recipe; override any value as `name=value`."""
    return make(__name__, SYSTEM, SETTINGS)
