"""The spectral convolution and the FNO block: as usually written, and neuraloperator's."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastseg import reference
from fastseg.bench.cases import Case
from fastseg.bench.layers import Family, Inputs, Layer, Unavailable, leaves, normal, wide_of
from fastseg.ops import dispatch, tables

# images are taken together up to this many elements, to bound the memory of float64 spectra
IMAGE_ELEMENTS = 1 << 22


def _draw(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    """Normal x and dy; a weight that keeps the output's scale near one."""
    x, dy = (normal(case.shape, generator, dtype) for _ in range(2))
    channels = case.shape[1]
    shape = (channels, channels, *case.modes, 2)
    return Inputs((x,), (normal(shape, generator, wide_of(dtype), channels**-0.5),), (dy,))


def _draw_block(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    inputs, channels = _draw(case, dtype, generator), case.shape[1]
    skip = normal((channels, channels), generator, wide_of(dtype), channels**-0.5)
    bias = normal((channels,), generator, wide_of(dtype))
    # with a mean: the bias's gradient, a plain sum, would cancel out otherwise
    dy = tuple((dy.to(wide_of(dtype)) + 0.05).to(dtype) for dy in inputs.dy)
    return inputs._replace(weights=(*inputs.weights, skip, bias), dy=dy)


def _conv(namespace, case: Case, constants):
    return lambda x, weights, training: namespace.spectral_conv(x[0], weights[0])


def _block(namespace, case: Case, constants):
    return lambda x, weights, training: namespace.fno_block(x[0], *weights)


def _picks(setting: str, case: Case, device: str, dtype: torch.dtype) -> str:
    return dispatch.select_spectral(setting, device, dtype, case.sizes, case.sizes, case.modes)


def _by_images(transform, *tensors: Tensor) -> Tensor:
    """`transform` over (B, C, …) tensors, a few (1, n, …) images at a time."""
    flat = [t.flatten(0, 1).unsqueeze(0) for t in tensors]
    largest = max(t[0, 0].numel() for t in flat)
    count = max(1, IMAGE_ELEMENTS // largest)
    parts = [transform(*some) for some in zip(*(t.split(count, dim=1) for t in flat), strict=True)]
    whole = torch.cat(parts, dim=1)
    return whole.view(*tensors[0].shape[:2], *whole.shape[2:])


def _conv_truth(case: Case, inputs: Inputs) -> tuple:
    """y, dx and dw in float64 by `fastseg.reference`, image by image, adjoints by autograd."""
    sizes, modes = case.sizes, case.modes

    def analysis(x: Tensor) -> Tensor:
        return reference.truncated_rfftn(x.double(), modes)

    def synthesis(spectrum: Tensor) -> Tensor:
        return reference.truncated_irfftn(spectrum, sizes)

    def analysis_adjoint(x: Tensor, gradient: Tensor) -> Tensor:
        x = x.double().requires_grad_()
        return torch.autograd.grad(analysis(x), x, gradient)[0]

    def synthesis_adjoint(spectrum: Tensor, gradient: Tensor) -> Tensor:
        spectrum = spectrum.detach().requires_grad_()
        return torch.autograd.grad(synthesis(spectrum), spectrum, gradient.double())[0]

    (x,), (weight,), (dy,), _ = inputs
    spectrum = _by_images(analysis, x).requires_grad_()
    weight = weight.double().requires_grad_()
    mixed = torch.einsum("bi...,io...->bo...", spectrum, torch.view_as_complex(weight))
    y = _by_images(synthesis, mixed.detach())
    gradient = _by_images(synthesis_adjoint, mixed.detach(), dy)
    dspectrum, dw = torch.autograd.grad(mixed, (spectrum, weight), gradient)
    return (y,), (_by_images(analysis_adjoint, x, dspectrum),), (dw,)


def _corners(modes) -> list[tuple[tuple, tuple]]:
    """(weight index, spectrum index) of every corner: both ends of each axis but the last."""
    axes = []
    for kept in tables.kept_axes(modes, True)[:-1]:
        low, high = kept
        ends = [(slice(0, low), slice(0, low)), (slice(low, low + high), slice(-high, None))]
        axes.append(ends[: 1 + (high > 0)])
    last = [(slice(0, modes[-1]), slice(0, modes[-1]))]
    chosen = itertools.product(*axes, last)
    return [((..., *(w for w, _ in ends)), (..., *(s for _, s in ends))) for ends in chosen]


def classic(case: Case, inputs: Inputs) -> Layer:
    """Build the layer as usual (Li et al., 2021): FFT, zero-filled spectrum, inverse FFT."""
    weight = torch.view_as_complex(inputs.weights[0])
    axes = "xyz"[: len(case.modes)]
    product, dims = f"bi{axes},io{axes}->bo{axes}", tuple(range(2, 2 + len(axes)))
    corners = _corners(case.modes)
    parameters = leaves(weight[rows] for rows, _ in corners)

    def forward(x: Tensor) -> Tensor:
        spectrum = torch.fft.rfftn(x, dim=dims)
        full = spectrum.new_zeros(x.shape[0], weight.shape[1], *spectrum.shape[2:])
        for (_, rows), part in zip(corners, parameters, strict=True):
            full[rows] = torch.einsum(product, spectrum[rows], part)
        return torch.fft.irfftn(full, s=x.shape[2:], dim=dims)

    def weight_gradients(gradients: Sequence[Tensor]) -> tuple[Tensor]:
        whole = torch.zeros_like(weight)
        for (rows, _), gradient in zip(corners, gradients, strict=True):
            whole[rows] = gradient
        return (torch.view_as_real(whole),)

    return Layer(forward, parameters, weight_gradients, "torch.fft")


def neuraloperator(case: Case, inputs: Inputs) -> Layer:
    """Build neuraloperator's SpectralConv as released.

    Its modes are totals centred on zero; of the last axis it stores n//2 + 1 columns.
    """
    try:
        from neuralop.layers.spectral_convolution import SpectralConv
    except ImportError as error:
        raise Unavailable(
            f"neuraloperator, of fastseg-mri[bench], does not import ({error})"
        ) from error
    weight = torch.view_as_complex(inputs.weights[0])
    totals = (*case.modes[:-1], 2 * (case.modes[-1] - 1))
    module = SpectralConv(
        weight.shape[0], weight.shape[1], totals, bias=False, fft_norm="backward"
    ).to(weight.device)
    parameter = module.weight.tensor
    outer = tuple(range(2, weight.dim() - 1))
    with torch.no_grad():
        parameter.data = torch.fft.fftshift(weight, dim=outer) if outer else weight.clone()

    def weight_gradients(gradients: Sequence[Tensor]) -> tuple[Tensor]:
        (gradient,) = gradients
        own = torch.fft.ifftshift(gradient, dim=outer) if outer else gradient
        return (torch.view_as_real(own.contiguous()),)

    return Layer(module, (parameter,), weight_gradients, "torch.fft")


def in_a_block(build):
    """Make the builder of a spectral convolution with a 1×1 convolution beside it and GELU
    behind, in plain torch.
    """

    def block(case: Case, inputs: Inputs) -> Layer:
        spectral = build(case, inputs._replace(weights=inputs.weights[:1]))
        count, convolution = len(spectral.parameters), getattr(F, f"conv{len(case.sizes)}d")
        skip, bias = leaves(inputs.weights[1:])
        skip = leaves([skip.reshape(*skip.shape, *[1] * len(case.sizes))])[0]

        def weight_gradients(gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
            dskip, dbias = gradients[count:]
            return *spectral.weight_gradients(gradients[:count]), dskip.flatten(1), dbias

        return spectral._replace(
            forward=lambda x: F.gelu(spectral.forward(x) + convolution(x, skip, bias)),
            parameters=(*spectral.parameters, skip, bias),
            weight_gradients=weight_gradients,
        )

    return block


_RIVALS = {"classic": classic, "neuraloperator": neuraloperator}
SPECTRAL = Family(_conv, _draw, _picks, lambda case: _RIVALS, _conv_truth)
CROSSOVER = SPECTRAL._replace(rivals=lambda case: {})
FNO_BLOCK = Family(
    _block, _draw_block, _picks, lambda case: {k: in_a_block(v) for k, v in _RIVALS.items()}
)
