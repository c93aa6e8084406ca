"""B-supervised: the diffusion U-shape with all labels, as it was run for its published figure.

Sources: GenericSSL (Wang & Li, NeurIPS 2023, github.com/xmed-lab/GenericSSL) and the 2-D copy of it
that was run, github.com/muhualiushui/FNO_torch ("the code"), for "CSE 599" at muhualiushui.com
("the page"); four modalities, Dice 69.44 % on BraTS 2021 by the page's own slice-wise measure.
"""

from fastseg.config import Recipe
from fastseg.data.pipeline import LoaderConfig


def recipe() -> Recipe:
    """Every value with its reason; override any of them as `name=value`."""
    return Recipe(
        name="diffusion_unet",
        system="diffusion-unet",
        model={
            "axes": 2,  # the code
            "width": 32,  # both sources: filters of the finest level, doubled at each of the others
            "head": "softmax",  # one class a voxel; "regions": WT, TC and ET by a sigmoid each
            "mode": "supervised",  # the code: its branch for unlabelled images is commented out
            "decoder": "psi",  # the code: one plain pass; "diffusion" samples label maps instead
            "timesteps": 1000,  # both sources, linear betas from 1e-4 to 2e-2
            "sampler": "ddim",  # GenericSSL
            "sampling_steps": 10,  # both sources
            "eta": 0.0,  # GenericSSL
            "ensemble": 1,  # GenericSSL: none
            "max_batch": 64,  # label maps sampled at a time; bounds memory, changes nothing
            "weight_memory": 50,  # GenericSSL: steps over which class weights average
        },
        data=LoaderConfig(
            patch=(192, 192),  # the code; GenericSSL: 224 x 224
            batch_size=32,  # both sources
            samples_per_case=64,  # half of a volume's brain slices for one decode
            foreground_fraction=0.5,  # as for the FNO baseline: most slices show no tumour
            flip=True,  # the page: flips, nothing else; GenericSSL does more, strong=true
            normalise="zscore",  # a volume's slices keep their contrast; the code: slice_minmax
        ),
        optimizer="sgd",  # both codes; the page lists Adam: optimizer=adam lr=1e-2, far too large
        lr=1e-2,  # both sources
        betas=(0.9, 0.999),  # both codes: momentum 0.9
        nesterov=True,  # both codes
        weight_decay=3e-5,  # both codes
        schedule="poly",  # both codes: (1 - epoch / epochs) ^ 0.9
        epochs=300,  # both sources: at most
        patience=50,  # both sources
        ema=None,  # the page lists 0.99, which only the commented-out branch used
        precision="fp32",  # GenericSSL: fp16 with a loss scaler, precision=fp16
    )
