"""D: synthesis of missing modalities, FgC2F-UDiff (Xiao, Hu & Wang, IEEE Trans. Computational
Imaging, 2025, arXiv 2501.03526).

No code of it is public ("the source" is the paper); where it is silent the choice is ours. It
reports PSNR 26.34 dB and SSIM 0.894 for T1, T2 → T1ce on BraTS 2021. On a CPU, for a first look:

    fastseg train fgc2f_udiff --data DATA --out RUN data.patch=64,64 model.width=24
        model.multipliers=1,2,3 model.attention_levels=2 model.blocks=1 lr=5e-4 ema=0.99
        model.parameterisation=x0 model.sampler=ddim model.sampling_steps=10
"""

from fastseg.config import Recipe
from fastseg.recipes import Setting, make

SYSTEM = "fgc2f-udiff"
SETTINGS = {
    "model.guide": Setting(
        "both", "the source: low-pass, then high-pass; unfiltered: its single stage"
    ),
    "model.selection": Setting(
        "dynamic", "the source: by the scan order; arm: fixed, the first for both"
    ),
    "model.order": Setting(
        ("t1", "t2", "flair", "pd", "t1ce"), "the source; pd for IXI: t1 > t2 > pd"
    ),
    "model.kernel_size": Setting(21, "the source; sigma 3.5 by the usual rule"),
    "model.availability_code": Setting(True, "ours: else the network must guess what is noise"),
    "model.missing": Setting(
        "any", "the source: one network for all 14 subsets; t1ce: for one task"
    ),
    "model.curriculum": Setting(True, "the source: one missing, then two, then three, in thirds"),
    "model.timesteps": Setting(200, "the source; betas scaled by 1000/T, so that x_T is noise"),
    "model.parameterisation": Setting(
        "epsilon", "the usual one; x0 and v learn faster in short runs"
    ),
    "model.sampler": Setting("ddpm", "the source's ancestral steps; ddim with 20 to 50 is as good"),
    "model.sampling_steps": Setting(0, "the source: all of them"),
    "model.eta": Setting(0.0, "DDIM without noise"),
    "model.ensemble": Setting(1, "the source: one sample; a mean of several has a higher PSNR"),
    "model.max_batch": Setting(64, "ours: images of a 16 GB card"),
    "model.width": Setting(64, "ours"),
    "model.multipliers": Setting((1, 2, 3, 4), "ours"),
    "model.blocks": Setting(2, "guided diffusion"),
    "model.attention_levels": Setting((3,), "24 x 24 of a 192 x 192 patch"),
    "model.heads": Setting(1, "guided diffusion's default"),
    "model.dropout": Setting(0.0, "ours: slices are many"),
    "data.patch": Setting((192, 192), "holds a brain's slice", (240, 240)),
    "data.batch_size": Setting(8, "ours"),
    "data.samples_per_case": Setting(16, "a tenth of a volume's brain slices for one decode"),
    "data.foreground_fraction": Setting(
        None, "slices by brain alone: labels are neither needed nor read"
    ),
    "data.least_brain": Setting(0.05, "ours: the outermost slices show next to nothing"),
    "data.flip": Setting(True, "ours"),
    "data.normalise": Setting("percentile", "a fixed range, per volume and modality"),
    "data.percentiles": Setting((0.5, 99.5), "ours"),
    "data.value_range": Setting((-1.0, 1.0), "as diffusion wants it; background becomes -1"),
    "optimizer": Setting("adam", "the source"),
    "lr": Setting(1e-4, "the source"),
    "betas": Setting((0.9, 0.999), "Adam's usual ones"),
    "schedule": Setting("constant", "the source names none"),
    "grad_clip": Setting(1.0, "ours: single steps of a diffusion have rare large gradients"),
    "epochs": Setting(
        115, "ours: about 200 thousand steps on the 875 training patients of BraTS 2021"
    ),
    "ema": Setting(0.9999, "usual for diffusion"),
    "precision": Setting("auto", "of convolutions; the guides are filtered in fp32"),
    "val_every": Setting(5, "sampling is slow"),
    "val_cases": Setting(4, "14 slices of each"),
}


def recipe() -> Recipe:
    """Make the recipe; override any value as `name=value`."""
    return make(__name__, SYSTEM, SETTINGS)
