"""Gaussian low and high: an FFT chain, and the filters of MONAI, kornia and torchvision.

Definitions differ in taps and borders, so a rival stands only in cases of its own definition.
"""

import math

import torch
from torch import Tensor

from fastseg.bench.cases import DEFINITIONS, GaussianCase
from fastseg.bench.layers import Family, Inputs, Layer, Unavailable, normal, wide_of
from fastseg.ops import gaussian
from fastseg.ops.taps import Options


def _draw(case: GaussianCase, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    x, *dy = (normal(case.shape, generator, dtype) for _ in range(3))
    sigma = torch.tensor(case.sigmas, dtype=wide_of(dtype)).view(-1, 1, 1)
    return Inputs((x,), (), tuple(dy), (sigma,))


def _filter(namespace, case: GaussianCase, constants):
    options = dict(DEFINITIONS[case.definition], mode="both")
    sigma = case.sigma
    if isinstance(sigma, tuple):
        sigma, options["max_sigma"] = constants[0], max(case.sigma)
    return lambda x, weights, training: namespace.gaussian_filter(x[0], sigma, **options)


def _picks(setting: str, case: GaussianCase, device: str, dtype: torch.dtype) -> str:
    x, options = torch.empty(case.shape, dtype=dtype, device="meta"), DEFINITIONS[case.definition]
    sigma = case.sigma
    if isinstance(sigma, tuple):  # on a GPU as hidden as a tensor without numbers
        options = options | {"max_sigma": max(sigma)}
        place = "cpu" if device == "cpu" else "meta"
        sigma = torch.tensor(case.sigmas, device=place).view(-1, 1, 1)
    design = gaussian.prepare("x", x, sigma, None, Options(**options))[2]
    return gaussian.select(setting, device, dtype, design)


def _with_high(low) -> Layer:
    """A rival has the low part only; the high one is what is left."""

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        smooth = low(x)
        return smooth, x - smooth

    return Layer(both)


def fft_chain(case: GaussianCase, inputs: Inputs) -> Layer:
    """Build irfftn(rfftn(x)·gain) with a gain computed once."""
    (sigma,), x = inputs.constants, inputs.x[0]
    axes = tuple(range(2, x.dim()))
    exponent = sigma.new_zeros(1)
    for axis, size in enumerate(case.sizes):
        bins = torch.fft.rfftfreq if axis == len(axes) - 1 else torch.fft.fftfreq
        f = bins(size, dtype=sigma.dtype, device=x.device)
        exponent = exponent + f.square().view(-1, *[1] * (len(axes) - 1 - axis))
    gain = torch.exp(-2 * math.pi**2 * sigma.square().view(-1, 1, *[1] * len(axes)) * exponent)

    def low(x: Tensor) -> Tensor:
        spectrum = torch.fft.rfftn(x, dim=axes) * gain
        return torch.fft.irfftn(spectrum, s=x.shape[2:], dim=axes)

    return _with_high(low)._replace(backend="torch.fft")


def monai(case: GaussianCase, inputs: Inputs) -> Layer:
    """Build monai.networks.layers.GaussianFilter with its defaults."""
    from monai.networks.layers import GaussianFilter

    module = GaussianFilter(len(case.sizes), case.sigma).to(inputs.x[0].device)
    return _with_high(module)


def kornia(case: GaussianCase, inputs: Inputs) -> Layer:
    """Build kornia.filters.gaussian_blur2d, separable."""
    try:
        from kornia.filters import gaussian_blur2d
    except ImportError as error:
        raise Unavailable(f"kornia, of fastseg-mri[bench], does not import ({error})") from error
    size, sigma = _kernel(case)
    return _with_high(lambda x: gaussian_blur2d(x, (size, size), (sigma, sigma), "reflect"))


def torchvision(case: GaussianCase, inputs: Inputs) -> Layer:
    """Build torchvision.transforms.functional.gaussian_blur."""
    try:
        from torchvision.transforms.v2.functional import gaussian_blur
    # a build for another torch fails with what its operators raise
    except (ImportError, RuntimeError) as error:
        raise Unavailable(f"torchvision does not import ({error})") from error
    size, sigma = _kernel(case)
    return _with_high(lambda x: gaussian_blur(x, [size, size], [sigma, sigma]))


def _kernel(case: GaussianCase) -> tuple[int, float]:
    return 2 * DEFINITIONS[case.definition]["radius"] + 1, float(case.sigma)


def _rivals(case: GaussianCase) -> dict:
    return {
        "circular": {"FFT chain": fft_chain},
        "MONAI's": {"MONAI": monai},
        "reflect, 21 taps": {"kornia": kornia, "torchvision": torchvision},
    }[case.definition]


GAUSSIAN = Family(_filter, _draw, _picks, _rivals)
