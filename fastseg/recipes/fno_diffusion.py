"""C-fixed: FNO blocks in place of the diffusion U-shape, with both signs of the frequencies kept.

Source: github.com/muhualiushui/FNO_torch of June 2025 ("the code"), for "CSE 599" at
muhualiushui.com ("the page"). `fno_diffusion_legacy` is what was run.
"""

from fastseg.config import Recipe
from fastseg.recipes import Setting, make

SYSTEM = "fno-diffusion"
SETTINGS = {
    "model.axes": Setting(2, "the code"),
    "model.width": Setting(32, "the page"),
    "model.modes": Setting(16, "the page: 16 x 16; rows of both signs, 16 + 16, and 16 columns"),
    "model.blocks": Setting(3, "the page"),
    "model.two_sided": Setting(
        True,
        "else one of two corners of low modes is missing: no wave of one diagonal passes",
        False,
    ),
    "model.legacy_init": Setting(False, "the means of its weights are off zero", True),
    "model.dropout": Setting(0.5, "the page"),
    "model.head": Setting("softmax", 'the code; "regions": WT, TC and ET'),
    "model.mode": Setting("supervised", "the code: no unlabelled images"),
    "model.decoder": Setting(
        "psi", 'the code: one plain pass; "diffusion" samples label maps instead'
    ),
    "model.timesteps": Setting(1000, "the page"),
    "model.sampler": Setting("ddim", "the code, from GenericSSL"),
    "model.sampling_steps": Setting(10, "the page"),
    "model.eta": Setting(0.0, "the code"),
    "model.ensemble": Setting(1, "the code: none"),
    "model.max_batch": Setting(64, "ours: label maps of a 16 GB card"),
    "model.weight_memory": Setting(50, "the code, from GenericSSL"),
    "data.patch": Setting((192, 192), "the code"),
    "data.batch_size": Setting(32, "the page"),
    "data.samples_per_case": Setting(64, "half of a volume's brain slices for one decode"),
    "data.foreground_fraction": Setting(0.5, "as for the FNO baseline: most slices show no tumour"),
    "data.flip": Setting(True, "the page: horizontal and vertical flips"),
    "data.normalise": Setting("zscore", "a volume's slices keep their contrast", "slice_minmax"),
    "optimizer": Setting("sgd", "the page"),
    "lr": Setting(1e-3, "the page"),
    "betas": Setting((0.9, 0.999), "the page: momentum 0.9"),
    "nesterov": Setting(True, "the code, from GenericSSL"),
    "weight_decay": Setting(3e-5, "the page"),
    "schedule": Setting("poly", "the code, from GenericSSL"),
    "grad_clip": Setting(12.0, "ours: bounds the rare step that would undo many others", None),
    "epochs": Setting(300, "as the diffusion U-shape"),
    "patience": Setting(50, "as the diffusion U-shape"),
    "ema": Setting(0.99, "the page"),
    "precision": Setting(
        "fp32", "the code, which half precision defeated; here bf16 and fp16 work too"
    ),
    "modalities": Setting(None, "the page: all four", "the code: t2"),
}


def recipe() -> Recipe:
    """Make the recipe; override any value as `name=value`."""
    return make(__name__, SYSTEM, SETTINGS)
