"""What a backend provides: a protocol for each family of operators, and the records it takes.

`fastseg.ops.impl` has a table for each family, backend name → an object of its protocol; a backend
without kernels for a family is not in its table. A method takes and returns contiguous tensors or
makes them so, on the device the backend serves. Spectra are real tensors: (B, C, *modes, 2), or,
where `planar`, (B, 2C, *modes) with real and imaginary parts as channels 2i and 2i+1. 16-bit
tensors are computed in float32, so that spectra, weights and sums are float32, or float64 beside
float64.
"""

from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fastseg.ops import tables
from fastseg.ops.context import traced
from fastseg.ops.taps import Design

Integers = tuple[int, ...]
Floats = tuple[float, ...]


class Geometry(NamedTuple):
    """Fix a spectral convolution beside its tensors.

    sizes: the output's grid, (S, …), 1 to 3 axes; modes: kept rows on each axis, as
    `ops.truncated_rfftn` counts them; groups: of channels; scales: the factors of the analysis and
    of the synthesis; two_sided: whether axes but the last keep negative frequencies too; adjoint:
    whether the Hermitian weights (2 for a column whose mirror image is not stored, else 1) are the
    analysis's, not the synthesis's; powers: where sizes may be symbols, which a schema has no
    numbers with a point for, the count and the exponent, count^−exponent, that make each scale.

    >>> Geometry((8, 8), (4, 3), 1, (1.0, 1 / 64), True).transposed((16, 16)).scales
    (0.015625, 1.0)
    """

    sizes: Integers
    modes: Integers
    groups: int
    scales: Floats
    two_sided: bool
    adjoint: bool = False
    powers: tuple = ()

    # in a schema: torch goes through its arguments once for each of them, so numbers share one
    SCHEMA = "SymInt[] sizes, SymInt[] modes, float[] scales, int[] numbers"

    def flat(self) -> tuple:
        """Return what stands for it in a call of torch's dispatcher."""
        numbers = self.groups, int(self.two_sided), int(self.adjoint)
        if self.powers:
            counts, exponents = zip(*self.powers, strict=True)
            return (*self.sizes, *counts), self.modes, exponents, numbers
        return self.sizes, self.modes, self.scales, numbers

    @classmethod
    def packed(cls, sizes, modes, scales, numbers) -> "Geometry":
        """Make it of what `flat` gave."""
        groups, two_sided, adjoint = numbers
        sizes, modes, scales, powers = tuple(sizes), tuple(modes), tuple(scales), ()
        if len(sizes) > len(modes):
            *sizes, first, second = sizes
            powers = (first, scales[0]), (second, scales[1])
            sizes, scales = tuple(sizes), tuple(count**-power for count, power in powers)
            powers = () if type(first) is int else powers
        return cls(sizes, modes, groups, scales, bool(two_sided), bool(adjoint), powers)

    def transposed(self, sizes) -> "Geometry":
        """Return the geometry of the transposed convolution, from this one's output to `sizes`."""
        return Geometry(
            tuple(sizes), self.modes, self.groups, self.scales[::-1], self.two_sided,
            not self.adjoint, self.powers[::-1],
        )  # fmt: skip


def transform(sizes: tuple, modes: tuple, norm: str, two_sided: bool) -> Geometry:
    """Return the geometry of a truncated transform between a grid and its modes."""
    scales, powers = tables.scales(norm, sizes), tables.powers(norm, sizes, sizes)
    return Geometry(sizes, modes, 1, scales, two_sided, powers=powers)


def _whole(sizes: tuple, norm: str) -> Geometry:
    return transform(sizes, tables.half_spectrum(sizes), norm, True)


_whole_cached = lru_cache(maxsize=512)(_whole)


def whole(sizes, norm: str = "backward") -> Geometry:
    """Return the geometry of rfftn and irfftn over a grid, every bin kept."""
    return (_whole if traced() else _whole_cached)(tuple(sizes), norm)


class Matrix(NamedTuple):
    """Hold the matrices of a grouped 1×1 convolution, in the dtype that is computed in.

    weight: (groups·outputs, inputs), or (groups·inputs, outputs) where `transposed`.
    """

    weight: Tensor
    groups: int = 1
    transposed: bool = False

    @property
    def outputs(self) -> int:
        """Count the output channels of one group."""
        rows, columns = self.weight.shape
        return columns if self.transposed else rows // self.groups


class Epilogue(NamedTuple):
    """Say what follows a 1×1 convolution's z = matrix·x + addend, by `kind`.

    "none" z; "gelu" gelu(z), the exact one; "gelu_gradient" gelu'(z)·factor; "affine_relu"
    max(scale·z + shift, 0); "moments" z, beside Σ z and Σ z² over batch and points.

    addend: like the result, in the dtype that is computed in; factor: like the result, in x's;
    scale, shift: (channels,).
    """

    kind: str = "none"
    addend: Tensor | None = None
    factor: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None


class BlockInputs(NamedTuple):
    """Hold what the backward of an FNO block reads; spectrum: the kept one of x."""

    x: Tensor
    spectrum: Tensor
    weight: Tensor
    skip_weight: Tensor
    bias: Tensor | None


class UnitState(NamedTuple):
    """Hold what the backward of a Fourier unit's first half reads: its result, the spectrum, the
    weight (2·outputs, 2·inputs).
    """

    z: Tensor
    spectrum: Tensor
    weight: Tensor


class SeparableFilter(NamedTuple):
    """Hold the taps of a separable filter, as `ops.taps.packed` makes them.

    taps: (images or 1, 3, 2R+1), axes D, H, W; radii: (images or 1, 3) int32, beyond which taps are
    zero; padding: "circular", "reflect" or "zeros"; symmetric: taps[−r] = taps[r].
    """

    taps: Tensor
    radii: Tensor
    padding: str
    symmetric: bool


class GateInputs(NamedTuple):
    """Hold what an anchor gate reads. low, cond: (B, Cc, *S), the filtered condition and the
    condition; weight: (Cc,); bias: (1,); feat: (B, C, *S).
    """

    low: Tensor
    cond: Tensor
    weight: Tensor
    bias: Tensor
    feat: Tensor


RECORDS = (Geometry, BlockInputs, UnitState, SeparableFilter, GateInputs)  # of registered operators


class Spectral(Protocol):
    """Provide truncated transforms, and the product over channels of every mode."""

    def analysis(self, x: Tensor, geometry: Geometry, planar: bool = False) -> Tensor:
        """Return the kept spectrum of x (B, C, *S), times scales[0], weighted where adjoint."""

    def synthesis(
        self, spectrum: Tensor, geometry: Geometry, dtype: torch.dtype, bias: Tensor | None = None,
        planar: bool = False,
    ) -> Tensor:  # fmt: skip
        """Return (B, C, *geometry.sizes) in `dtype`, times scales[1], weighted unless adjoint, plus
        bias (C,).
        """

    def mix(self, a: Tensor, b: Tensor, product: str) -> Tensor:
        """Return one of the products of a spectral convolution, a key of `mixes.PRODUCTS`."""

    def convolve(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, keep: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Return the spectral convolution of x by weight (Cin/groups, Cout, *modes, 2), in x.dtype,
        and the kept spectrum of x for its backward, None unless `keep`.
        """


class Pointwise(Protocol):
    """Provide 1×1 convolutions with what follows them in one pass, and the affine ReLU."""

    def product(
        self, x: Tensor, matrix: Matrix, epilogue: Epilogue = Epilogue(),  # noqa: B008  immutable
        dtype: torch.dtype | None = None, out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Return the epilogue of matrix·x (B, groups·outputs, *S) in `dtype`, x's where it is None,
        or written to `out`, which may be the addend; and the moments (2, groups·outputs), if asked
        for.
        """

    def affine_relu(self, z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return max(scale·z + shift, 0); z: (B, C, *S), scale and shift: (C,)."""

    def affine_relu_backward(
        self, gradient: Tensor, z: Tensor, scale: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient of z, and those of scale and shift as (2, C)."""


class Block(Protocol):
    """Provide the FNO block, gelu(convolution + skip·x)."""

    def forward(
        self, x: Tensor, weight: Tensor, skip_weight: Tensor, bias: Tensor | None,
        geometry: Geometry, keep: bool = True,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Return the block of x in x.dtype, and the kept spectrum of x, None unless `keep`."""

    def backward(
        self, grad: Tensor, inputs: BlockInputs, geometry: Geometry, wants_x: bool, wants_skip: bool
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Return the gradients of x, of what the synthesis read and of skip_weight, None for those
        that are not wanted.
        """


class SpectralFilter(Protocol):
    """Provide a gain on every bin of a whole spectrum: (B or 1, C or 1, *bins, 2), or 1 for a real
    one.
    """

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        """Return irfftn(rfftn(x)·gain) in x.dtype."""

    def backward(
        self, grad: Tensor, x: Tensor, gain: Tensor, wanted
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of x and of the gain, None for one that is not `wanted`."""


class Gaussian(Protocol):
    """Provide separable filters of given taps."""

    def filter(
        self, x: Tensor, by: SeparableFilter, mode: str, adjoint: bool
    ) -> tuple[Tensor, Tensor]:
        """Return (low, high): x filtered, or filtered by the transpose where `adjoint`, and x minus
        that. mode: "low", "high" or "both"; what it does not name is empty.
        """

    def taps_gradient(
        self, x: Tensor, gradient: Tensor, axis: int, radius: int, padding: str
    ) -> Tensor:
        """Return Σ gradient[n]·x[n + r] for r = −radius … radius along `axis` (0, 1, 2 = D, H, W)
        of every image: (B·C, 2·radius+1).
        """


class Taps(Protocol):
    """Provide the taps of Gaussians whose sigmas are on the device."""

    def make(
        self, sigma: Tensor, offset: Tensor | None, design: Design, batch: int, channels: int
    ) -> tuple[Tensor, Tensor]:
        """Return `ops.taps.packed`'s taps and radii; sigma, offset: (b, c, 1 or axes)."""


class Gate(Protocol):
    """Provide the anchor gate: logits = weight·max(low, cond) + bias, feat·(1 +
    sigmoid(logits)).
    """

    def forward(self, inputs: GateInputs) -> tuple[Tensor, Tensor]:
        """Return the gated feat and the logits (B, points)."""

    def backward(self, inputs: GateInputs, logits: Tensor, gradient: Tensor) -> list[Tensor]:
        """Return the gradients of low, cond, weight, bias and feat."""


FAMILIES = {
    "SPECTRAL": Spectral,
    "POINTWISE": Pointwise,
    "BLOCK": Block,
    "FILTER": SpectralFilter,
    "GAUSSIAN": Gaussian,
    "TAPS": Taps,
    "GATE": Gate,
}
