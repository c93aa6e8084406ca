"""SegResNet with the volumetric fast Fourier bottleneck of DillanImans/brats_grl_vffc."""

from fastseg.models import segresnet


class System(segresnet.System):
    """`segresnet.System` with three VFFC blocks by default, half of their channels global."""

    def __init__(self, in_channels: int, classes: int, *, vffc_blocks: int = 3, **options):
        if vffc_blocks < 1:
            raise ValueError(f"vffc_blocks: got {vffc_blocks}, want at least 1; or segresnet")
        super().__init__(in_channels, classes, vffc_blocks=vffc_blocks, **options)
