"""The registry of modules under test."""

import torch

from fastseg import models, nn

PLANE, VOLUME = (2, 4, 16, 18), (1, 8, 8, 10, 12)
WIDE = (1, 16, 8, 10, 12)
FEATURES = (2, 8)  # of an embedded time
# how to make a module, and the shapes of what it takes
MODULES = {
    "SpectralConv": (lambda: nn.SpectralConv(4, 4, (6, 4)), [PLANE]),
    "NeuralopSpectralConv": (lambda: nn.NeuralopSpectralConv(4, 4, (6, 6)), [PLANE]),
    "FNOBlock": (lambda: nn.FNOBlock(8, 8, (4, 4, 3)), [VOLUME]),
    "IncrementalSpectralConv": (
        lambda: nn.IncrementalSpectralConv(4, 4, (6, 4), start=(2, 2)),
        [PLANE],
    ),
    "FactorizedSpectralConv": (lambda: nn.FactorizedSpectralConv(4, 4, (6, 4)), [PLANE]),
    "FFNOBlock": (lambda: nn.FFNOBlock(8, (4, 4, 3)), [VOLUME]),
    "AFNO": (lambda: nn.AFNO(4, blocks=2), [PLANE]),
    "HartleyMix": (lambda: nn.HartleyMix(4, 4), [PLANE]),
    "HartleyConv": (lambda: nn.HartleyConv(4, 4, (6, 5), shared=False), [PLANE]),
    "HNOBlock": (lambda: nn.HNOBlock(8, 6, (4, 4, 3)), [VOLUME]),
    "FourierUnit": (lambda: nn.FourierUnit(8, 8), [VOLUME]),
    "LocalFourierUnit": (lambda: nn.LocalFourierUnit(8), [VOLUME]),
    "SpectralTransform": (lambda: nn.SpectralTransform(8, 8), [VOLUME]),
    "SqueezeExcitation": (lambda: nn.SqueezeExcitation(16), [WIDE]),
    "FFCSqueeze": (lambda: nn.FFCSqueeze(16), [WIDE]),
    "VFFC": (lambda: nn.VFFC(16, 16), [WIDE]),
    "VFFCLayer": (lambda: nn.VFFCLayer(16, 16), [WIDE]),
    "VFFCBlock": (lambda: nn.VFFCBlock(16), [WIDE]),
    "VFFCBottleneck": (lambda: nn.VFFCBottleneck(16, 1), [WIDE]),
    "GaussianFilter": (lambda: nn.GaussianFilter(2.0, mode="both"), [PLANE]),
    "MonaiGaussianFilter": (lambda: nn.MonaiGaussianFilter(2, 1.5, approx="scalespace"), [PLANE]),
    "GaussianSmooth": (lambda: nn.GaussianSmooth((0.1, 2.0, 1.0), "sampled"), [PLANE]),
    "NBPFilter": (lambda: nn.NBPFilter(4, time_channels=8), [PLANE, FEATURES]),
    "FFParser": (lambda: nn.FFParser(4, (16, 18)), [PLANE]),
    "AnchorGate": (lambda: nn.AnchorGate(4), [PLANE, PLANE]),
    "TimeEmbedding": (lambda: nn.TimeEmbedding(8, 8), [(2,)]),
    "TimeShift": (lambda: nn.TimeShift(8, 4), [PLANE, FEATURES]),
    "TimeFiLM": (lambda: nn.TimeFiLM(8, 4), [PLANE, FEATURES]),
    "FrequencyGuide": (lambda: nn.FrequencyGuide(), [PLANE]),  # and what the test adds
    "a whole system": (
        lambda: models.build("fno", in_channels=4, classes=3, modes=(6, 4), width=4),
        [PLANE],
    ),
}


def drawn(name: str, shapes, generator) -> tuple:
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    if name == "FrequencyGuide":  # which channels are there, and the step
        tensors += [torch.tensor([[True, True, False, True]] * 2), torch.tensor([3, 150])]
    return tuple(tensors)
