"""Operators made of a backend's other kernels, where it has none for the whole."""

import torch
from torch import Tensor

from fastseg.ops.context import without_autocast
from fastseg.ops.impl import contract, mixes
from fastseg.ops.impl.contract import BlockInputs, Epilogue, Geometry, Matrix, whole


class Convolution:
    """Compose a spectral convolution of `self`'s analysis, mix and synthesis."""

    def convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, keep: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        spectrum = self.analysis(x, geometry)
        mixed = mixes.forward(self, spectrum, weight, geometry.groups)
        y = self.synthesis(mixed, geometry, x.dtype, bias)
        return y, spectrum if keep else None


def sum_of_products(grad: Tensor, x: Tensor) -> Tensor:
    """Return Σ grad·xᵀ over batch and points, a 1×1 convolution's gradient: (B, O, …), (B, I, …) →
    (O, I).
    """
    with without_autocast(x):
        return torch.matmul(grad.flatten(2), x.flatten(2).transpose(1, 2)).sum(0)


def grouped_sum_of_products(grad: Tensor, x: Tensor, groups: int) -> Tensor:
    """Return the gradient of a grouped 1×1 convolution's matrices: (groups·O, I)."""
    grad, x = (t.flatten(2).unflatten(1, (groups, -1)) for t in (grad, x.to(grad.dtype)))
    pairs = zip(grad.unbind(1), x.unbind(1), strict=True)
    return torch.cat([sum_of_products(g, i) for g, i in pairs])


class Block(contract.Block):
    """Compose the FNO block of a spectral convolution and a 1×1 convolution with GELU behind it."""

    def __init__(self, spectral: contract.Spectral, pointwise: contract.Pointwise):
        self.spectral, self.pointwise = spectral, pointwise

    def forward(
        self, x: Tensor, weight: Tensor, skip_weight: Tensor, bias: Tensor | None,
        geometry: Geometry, keep: bool = True,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        spectrum = self.spectral.analysis(x, geometry)
        convolved = self._convolved(spectrum, weight, bias, geometry)
        matrix = Matrix(skip_weight, geometry.groups)
        y, _ = self.pointwise.product(x, matrix, Epilogue("gelu", addend=convolved))
        return y, spectrum if keep else None

    def _convolved(self, spectrum: Tensor, weight: Tensor, bias, geometry: Geometry) -> Tensor:
        mixed = mixes.forward(self.spectral, spectrum, weight, geometry.groups)
        return self.spectral.synthesis(mixed, geometry, weight.dtype, bias)

    def backward(
        self, grad: Tensor, inputs: BlockInputs, geometry: Geometry, wants_x: bool, wants_skip: bool
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, spectrum, weight, skip_weight, bias = inputs
        groups, adjoint = geometry.groups, geometry.transposed(x.shape[2:])
        z = self._convolved(spectrum, weight, bias, geometry)
        slope = Epilogue("gelu_gradient", addend=z, factor=grad)
        grad_z, _ = self.pointwise.product(x, Matrix(skip_weight, groups), slope, out=z)
        grad_mixed = self.spectral.analysis(grad_z, adjoint)
        dx = None
        if wants_x:
            grad_spectrum = mixes.input_gradient(self.spectral, grad_mixed, weight, groups)
            through = self.spectral.synthesis(grad_spectrum, adjoint, weight.dtype)
            back = Matrix(skip_weight, groups, transposed=True)
            dx, _ = self.pointwise.product(grad_z, back, Epilogue(addend=through), x.dtype)
        dskip = grouped_sum_of_products(grad_z, x, groups) if wants_skip else None
        return dx, grad_mixed, dskip


class Filter(contract.SpectralFilter):
    """Compose a spectral filter of an analysis, a product of all bins and a synthesis."""

    def __init__(self, spectral: contract.Spectral):
        self.spectral = spectral

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        geometry = whole(x.shape[2:])
        spectrum = _product(self.spectral.analysis(x, geometry), gain)
        return self.spectral.synthesis(spectrum, geometry, x.dtype)

    def backward(
        self, grad: Tensor, x: Tensor, gain: Tensor, wanted
    ) -> tuple[Tensor | None, Tensor | None]:
        geometry, dx, dgain = whole(grad.shape[2:]), None, None
        adjoint = geometry.transposed(geometry.sizes)
        grad_spectrum = self.spectral.analysis(grad, adjoint)
        if wanted[0]:
            product = _product(grad_spectrum, gain, conjugate=True)
            dx = self.spectral.synthesis(product, adjoint, grad.dtype)
        if wanted[1]:
            dgain = _inner(self.spectral.analysis(x, geometry), grad_spectrum, gain.shape)
        return dx, dgain


def _product(a: Tensor, b: Tensor, conjugate: bool = False) -> Tensor:
    """a·b, or a·conj(b), of (real, imaginary) pairs; a trailing 1 is a real number."""
    if b.shape[-1] == 1:
        return a * b
    # a lazy conjugation would be lost: below autograd its key may be excluded from dispatch
    b = torch.view_as_complex(b.contiguous())
    b = b.conj_physical() if conjugate else b
    return torch.view_as_real(torch.view_as_complex(a) * b)


def _inner(a: Tensor, b: Tensor, shape) -> Tensor:
    """conj(a)·b of pairs, summed to `shape`; its real part for a trailing 1."""
    real = shape[-1] == 1
    return (a * b if real else _product(b, a, conjugate=True)).sum_to_size(shape)
