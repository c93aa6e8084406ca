"""D: synthesis of missing modalities, FgC2F-UDiff (Xiao, Hu & Wang, IEEE Trans. Computational
Imaging, 2025, arXiv 2501.03526).

No code of it is public ("the source" is the paper); where it is silent the choice is ours. It
reports PSNR 26.34 dB and SSIM 0.894 for T1, T2 → T1ce on BraTS 2021. On a CPU, for a first look:

    fastseg train fgc2f_udiff --data DATA --out RUN data.patch=64,64 model.width=24
        model.multipliers=1,2,3 model.attention_levels=2 model.blocks=1 lr=5e-4 ema=0.99
        model.parameterisation=x0 model.sampler=ddim model.sampling_steps=10
"""

from fastseg.config import Recipe
from fastseg.data.pipeline import LoaderConfig


def recipe() -> Recipe:
    """Every value with its reason; override any of them as `name=value`."""
    return Recipe(
        name="fgc2f_udiff",
        system="fgc2f-udiff",
        model={
            "guide": "both",  # the source: low-pass, then high-pass; unfiltered: its single stage
            "selection": "dynamic",  # the source: by the scan order; arm: fixed, the first for both
            "order": ("t1", "t2", "flair", "pd", "t1ce"),  # the source; pd for IXI: t1 > t2 > pd
            "kernel_size": 21,  # the source; sigma 3.5 by the usual rule
            "availability_code": True,  # our choice: else the network must guess what is noise
            "missing": "any",  # the source: one network for all 14 subsets; t1ce: for one task
            "curriculum": True,  # the source: one missing, then two, then three, in thirds
            "timesteps": 200,  # the source; betas scaled by 1000/T, so that x_T is noise
            "parameterisation": "epsilon",  # the usual one; x0 and v learn faster in short runs
            "sampler": "ddpm",  # the source's ancestral steps; ddim with 20 to 50 is as good
            "sampling_steps": 0,  # the source: all of them
            "eta": 0.0,  # DDIM without noise
            "ensemble": 1,  # the source: one sample; a mean of several has a higher PSNR
            "max_batch": 64,  # images sampled at a time; bounds memory, changes nothing
            "width": 64,  # our choice
            "multipliers": (1, 2, 3, 4),  # our choice
            "blocks": 2,  # guided diffusion
            "attention_levels": (3,),  # 24 x 24 of a 192 x 192 patch, and always in the middle
            "heads": 1,  # guided diffusion's default
            "dropout": 0.0,  # our choice: slices are many
        },
        data=LoaderConfig(
            patch=(192, 192),  # holds a brain's slice; the source: 240 x 240, whole slices
            batch_size=8,  # our choice
            samples_per_case=16,  # a tenth of a volume's brain slices for one decode
            foreground_fraction=None,  # slices by brain alone: labels are neither needed nor read
            least_brain=0.05,  # our choice: the outermost slices show next to nothing
            flip=True,  # our choice
            normalise="percentile",  # a fixed range, per volume and modality
            percentiles=(0.5, 99.5),  # our choice
            value_range=(-1.0, 1.0),  # as diffusion wants it; background becomes -1
        ),
        optimizer="adam",  # the source
        lr=1e-4,  # the source
        betas=(0.9, 0.999),  # Adam's usual ones
        schedule="constant",  # the source names none
        grad_clip=1.0,  # our choice: single steps of a diffusion have rare large gradients
        epochs=115,  # about 200 thousand steps on the 875 training patients of BraTS 2021
        ema=0.9999,  # usual for diffusion
        precision="auto",  # of convolutions; the guides are filtered in fp32
        val_every=5,  # sampling is slow
        val_cases=4,  # 14 slices of each
    )
