"""Bridges to neuraloperator: convert its dense layer, or stand in for it inside its models.

Both keep the peer's modes: totals per axis, centred on zero, n//2 + 1 columns on the last axis.
Outputs and gradients are equal where the grid does not change and every axis but the last is even.
Elsewhere ours follows the float64 definition of `fastseg.reference`, and the peer differs so:

* Odd axes: releases up to 2.0.0 shift the spectrum back with fftshift, which moves every frequency
  by one row. The development version has had ifftshift since November 2025 and equals ours.
* An odd n_modes below an even max_n_modes, in all versions: the peer takes rows −3 … 1 of its
  weight for the frequencies −2 … 2 (of 5 modes), and so for any odd count; ours takes the rows of
  these frequencies. Weights that the peer trained so go over by `roll(1)` on that axis.
* A change of resolution: the peer crops or pads the spectrum as the shift has left it.
"""

import torch
from torch import Tensor, nn

from fastseg import ops, reference
from fastseg.nn.parameters import SpectralModule, draw_normal


def _centred_to_torch_order(weight: Tensor, first: int) -> Tensor:
    """Mode axes `first` … −2 of a complex weight from ascending frequency to torch.fft order."""
    dims = tuple(range(first, weight.dim() - 1))
    return torch.fft.ifftshift(weight, dim=dims) if dims else weight


def _dense(module: nn.Module) -> Tensor:
    weight = module.weight
    if module.complex_data or module.separable:
        raise ValueError(
            "module: want a dense neuraloperator SpectralConv for real data, not separable"
        )
    tensor = getattr(weight, "tensor", weight)
    if not isinstance(tensor, Tensor) or tensor.dim() != len(module.n_modes) + 2:
        raise ValueError(
            f"module: got a {type(weight).__name__} weight, want a dense one "
            "(factorization=None or 'dense')"
        )
    return tensor.detach()


def convert(cls, module: nn.Module):
    """Return `cls` (nn.SpectralConv) with the weights of a dense neuraloperator layer. Raises
    ValueError for any other layer.
    """
    weight = _dense(module)
    layer = cls(
        module.in_channels,
        module.out_channels,
        tuple(weight.shape[2:]),
        norm=module.fft_norm,
        bias=module.bias is not None,
    )
    with torch.no_grad():
        layer.weight.copy_(torch.view_as_real(_centred_to_torch_order(weight, 2).contiguous()))
        if module.bias is not None:
            layer.bias.copy_(module.bias.detach().reshape(-1))
    return layer.to(weight.device)


class NeuralopSpectralConv(SpectralModule):
    """Stand in for neuraloperator's SpectralConv: `neuralop.models.FNO(...,
    conv_module=NeuralopSpectralConv)`.

    Constructor and attributes are the peer's. Dense and separable weights and
    `resolution_scaling_factor` are served; complex data, factorised weights and half-precision
    spectra are not, and raise ValueError. 16-bit inputs work at any size without
    `fno_block_precision`: they are computed in float32.

    >>> NeuralopSpectralConv(3, 3, n_modes=(8, 8))(torch.randn(1, 3, 16, 16)).shape
    torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self, in_channels, out_channels, n_modes, complex_data=False, max_n_modes=None, bias=True,
        separable=False, resolution_scaling_factor=None, fno_block_precision="full", rank=0.5,
        factorization=None, implementation="reconstructed", fixed_rank_modes=False,
        decomposition_kwargs=None, init_std="auto", fft_norm="forward", device=None,
    ):  # fmt: skip
        super().__init__()
        if complex_data:
            raise ValueError("complex_data: got True, want real data")
        if factorization is not None and factorization.lower() not in ("dense", "complexdense"):
            raise ValueError(f"factorization: got {factorization!r}, want None or 'dense'")
        if fno_block_precision != "full":
            raise ValueError(
                f"fno_block_precision: got {fno_block_precision!r}, want 'full' no switch)"
            )
        if separable and in_channels != out_channels:
            raise ValueError(
                f"separable: got {in_channels} and {out_channels} channels, want equal numbers"
            )
        self.in_channels, self.out_channels, self.separable = in_channels, out_channels, separable
        self.complex_data, self.fft_norm, self.fno_block_precision = (
            False,
            fft_norm,
            fno_block_precision,
        )
        self.rank, self.factorization, self.implementation = (
            rank,
            factorization or "Dense",
            implementation,
        )
        self.n_modes = n_modes
        self.order = len(self.n_modes)
        # like the peer, max_n_modes counts stored columns of the last axis as they are
        self.max_n_modes = (
            self.n_modes
            if max_n_modes is None
            else [max_n_modes]
            if isinstance(max_n_modes, int)
            else list(max_n_modes)
        )
        self.resolution_scaling_factor = self._factors(resolution_scaling_factor)
        self.init_std = init_std
        shape = 1 if separable else in_channels, out_channels, *self.max_n_modes, 2
        ones = [1] * self.order
        self.weight = nn.Parameter(torch.empty(shape, dtype=torch.float, device=device))
        self.bias = nn.Parameter(torch.empty(out_channels, *ones, device=device)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, as the peer does."""
        std = self.init_std
        if std == "auto":
            std = (2 / (self.in_channels + self.out_channels)) ** 0.5
        draw_normal(torch.view_as_complex(self.weight.detach()), std)
        if self.bias is not None:
            draw_normal(self.bias, std)

    def _factors(self, factor):
        if factor is None:
            return None
        return (
            [float(factor)] * self.order
            if isinstance(factor, (int, float))
            else [float(f) for f in factor]
        )

    @property
    def n_modes(self):
        """Count kept modes per axis; set as totals, the last one becomes its n//2 + 1 columns."""
        return self._n_modes

    @n_modes.setter
    def n_modes(self, n_modes):
        n_modes = [n_modes] if isinstance(n_modes, int) else list(n_modes)
        self._n_modes = [*n_modes[:-1], n_modes[-1] // 2 + 1]

    def _output_shape(self, x: Tensor, output_shape):
        if output_shape is not None:
            return tuple(output_shape)
        if self.resolution_scaling_factor is None:
            return tuple(x.shape[2:])
        return tuple(
            round(n * f) for n, f in zip(x.shape[2:], self.resolution_scaling_factor, strict=True)
        )

    def transform(self, x: Tensor, output_shape=None) -> Tensor:
        """Resample x to the layer's output grid by the peer's rule, for its skip connections."""
        shape = self._output_shape(x, output_shape)
        if tuple(x.shape[2:]) == shape:
            return x
        from neuralop.layers.resample import resample

        return resample(x, 1.0, list(range(2, x.dim())), output_shape=shape)

    def _active_weight(self, sizes) -> Tensor:
        """The rows of the lowest |k| that n_modes and the grid both have."""
        weight, bins = self.weight, [*sizes[:-1], sizes[-1] // 2 + 1]
        for axis, (most, wanted, fit) in enumerate(
            zip(self.max_n_modes, self.n_modes, bins, strict=True)
        ):
            count = min(most, wanted, fit)
            if count < most:
                rows = reference.kept_rows(count, most, axis < self.order - 1)
                weight = weight.index_select(axis + 2, torch.tensor(rows, device=weight.device))
        return weight

    def forward(self, x: Tensor, output_shape=None) -> Tensor:
        """Convolve x (B, in_channels, *S) → (B, out_channels, *output_shape)."""
        sizes = self._output_shape(x, output_shape)
        weight = self._active_weight([min(a, b) for a, b in zip(x.shape[2:], sizes, strict=True)])
        bias = None if self.bias is None else self.bias.flatten()
        return ops.spectral_conv(
            x, weight, bias, sizes, self.in_channels if self.separable else 1, self.fft_norm
        )
