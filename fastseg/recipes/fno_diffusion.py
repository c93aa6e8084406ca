"""C-fixed: FNO blocks in place of the diffusion U-shape, with both signs of the frequencies kept.

Source: github.com/muhualiushui/FNO_torch of June 2025 ("the code"), for "CSE 599" at
muhualiushui.com ("the page"). `fno_diffusion_legacy` is what was run.
"""

from fastseg.config import Recipe
from fastseg.data.pipeline import LoaderConfig


def recipe() -> Recipe:
    """Every value with its reason; override any of them as `name=value`."""
    return Recipe(
        name="fno_diffusion",
        system="fno-diffusion",
        model={
            "axes": 2,  # the code
            "width": 32,  # the page
            "modes": 16,  # the page: 16 x 16; rows of both signs, 16 + 16, and 16 columns
            "blocks": 3,  # the page
            "two_sided": True,  # false is the code: one of the two corners that hold low modes
            "legacy_init": False,  # true is the code: means off zero
            "dropout": 0.5,  # the page
            "head": "softmax",  # one class a voxel; "regions": WT, TC and ET by a sigmoid each
            "mode": "supervised",  # the code: no unlabelled images
            "decoder": "psi",  # the code: one plain pass; "diffusion" samples label maps instead
            "timesteps": 1000,  # the page
            "sampler": "ddim",  # the code, from GenericSSL
            "sampling_steps": 10,  # the page
            "eta": 0.0,  # the code
            "ensemble": 1,  # the code: none
            "max_batch": 64,  # label maps sampled at a time; bounds memory, changes nothing
            "weight_memory": 50,  # the code, from GenericSSL: steps over which weights average
        },
        data=LoaderConfig(
            patch=(192, 192),  # the code
            batch_size=32,  # the page
            samples_per_case=64,  # half of a volume's brain slices for one decode
            foreground_fraction=0.5,  # as for the FNO baseline: most slices show no tumour
            flip=True,  # the page: horizontal and vertical flips
            normalise="zscore",  # a volume's slices keep their contrast; the code: slice_minmax
        ),
        optimizer="sgd",  # the page
        lr=1e-3,  # the page
        betas=(0.9, 0.999),  # the page: momentum 0.9
        nesterov=True,  # the code, from GenericSSL
        weight_decay=3e-5,  # the page
        schedule="poly",  # the code, from GenericSSL
        epochs=300,  # as the diffusion U-shape
        patience=50,  # as the diffusion U-shape
        ema=0.99,  # the page
        precision="fp32",  # the code, which half precision defeated; here bf16 and fp16 work too
    )
