"""A stand-in for neuraloperator's SpectralConv."""

import torch
from torch import Tensor, nn

from fastseg.nn.neuralop import contraction, factors, frequencies, grids
from fastseg.nn.neuralop.weights import Dense, Weight
from fastseg.nn.parameters import SpectralModule


class NeuralopSpectralConv(SpectralModule):
    """Stand in for neuraloperator's SpectralConv: `neuralop.models.FNO(...,
    conv_module=NeuralopSpectralConv)`.

    x: (B, in_channels, *S) → (B, out_channels, *output_shape or *S), real, or complex with
    complex_data. Constructor and attributes are those of release 2.0.0;
    enforce_hermitian_symmetry, of the development version, comes last by position and is always
    done. fno_block_precision "half" and "mixed" are computed in float32, which stores the kept
    spectrum alone and takes 16-bit inputs at any size; the output has the dtype of x.

    Parameters: `weight`, real numbers with a trailing 2 that stand for the peer's complex tensor
    (`weight.to_tensor()`), and bias. `load_state_dict` reads the peer's checkpoints too,
    `neuralop_state_dict` gives them. Tucker, CP and TT weights on real data in up to three
    dimensions are contracted with the spectrum where this takes fewer multiply-adds a mode than to
    rebuild the dense weight and mix with it; `implementation` is kept, and changes nothing.
    Complex data and four axes cost twice the multiply-adds in the spectrum of a complex product;
    complex data on another output grid, and five axes or more, run in torch.fft.

    Raises ValueError for what does not fit, ImportError where factors need neuraloperator's
    tensorly-torch.

    >>> NeuralopSpectralConv(3, 3, n_modes=(8, 8))(torch.randn(1, 3, 16, 16)).shape
    torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self, in_channels, out_channels, n_modes, complex_data=False, max_n_modes=None, bias=True,
        separable=False, resolution_scaling_factor=None, fno_block_precision="full", rank=0.5,
        factorization=None, implementation="reconstructed", fixed_rank_modes=False,
        decomposition_kwargs=None, init_std="auto", fft_norm="forward", device=None,
        enforce_hermitian_symmetry=True,
    ):  # fmt: skip
        super().__init__()
        _check(in_channels, out_channels, separable, fno_block_precision, implementation)
        self.in_channels, self.out_channels, self.separable = in_channels, out_channels, separable
        self.complex_data, self.fft_norm = complex_data, fft_norm
        self.fno_block_precision = fno_block_precision
        self.rank, self.factorization, self.implementation = rank, factorization, implementation
        self.enforce_hermitian_symmetry = enforce_hermitian_symmetry
        self.device, self.dtype = device, None
        self.follows: str | None = None  # "fftshift" or "ifftshift": the peer it was made of
        self.n_modes = n_modes
        self.order = len(self.n_modes)
        # like the peer, max_n_modes counts stored columns of the last axis as they are
        most = self.n_modes if max_n_modes is None else max_n_modes
        self.max_n_modes = [most] if isinstance(most, int) else list(most)
        self.resolution_scaling_factor = self._factors(resolution_scaling_factor)
        std = (2 / (in_channels + out_channels)) ** 0.5 if init_std == "auto" else init_std
        self._drawn_by = std, factorization, rank, fixed_rank_modes, decomposition_kwargs
        self.weight = self._draw(device)
        offset = std * torch.randn(out_channels, *[1] * self.order, device=device) if bias else None
        self.bias = None if offset is None else nn.Parameter(offset)

    def _draw(self, device) -> Weight:
        channels = (self.in_channels, self.out_channels)[self.separable :]
        shape = *channels, *self.max_n_modes
        return self._adopted(factors.drawn(shape, *self._drawn_by, device))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw weight and bias anew, as the constructor does."""
        own = list(self.weight.parameters())
        for parameter, drawn in zip(own, self._draw(own[0].device).parameters(), strict=True):
            parameter.copy_(drawn)
        if self.bias is not None:
            self.bias.normal_().mul_(self._drawn_by[0])

    def _factors(self, factor):
        if factor is None:
            return None
        single = isinstance(factor, (int, float))
        return [float(f) for f in ([factor] * self.order if single else factor)]

    def _adopted(self, tensor) -> Weight:
        centred = self.order - (not self.complex_data)
        name = self.factorization or "Dense"
        return factors.adopted(tensor, self.separable, centred, name)

    def __setattr__(self, name, value):
        """Take the peer's FactorizedTensor for a weight: its numbers, copied."""
        if name == "weight" and isinstance(value, nn.Module) and not isinstance(value, Weight):
            value = self._adopted(value)
        super().__setattr__(name, value)

    @property
    def n_modes(self):
        """Count kept modes per axis; set as totals, the last one of real data becomes its n//2 + 1
        columns.
        """
        return self._n_modes

    @n_modes.setter
    def n_modes(self, n_modes):
        n_modes = [n_modes] if isinstance(n_modes, int) else list(n_modes)
        if not self.complex_data:
            n_modes[-1] = n_modes[-1] // 2 + 1
        self._n_modes = n_modes

    def _load_from_state_dict(self, state_dict, prefix, *args):
        self.weight.read(state_dict, f"{prefix}weight")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, n_modes={self.n_modes}"

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

    def forward(self, x: Tensor, output_shape=None) -> Tensor:
        """Convolve x (B, in_channels, *S) → (B, out_channels, *output_shape)."""
        if x.dim() != self.order + 2:
            raise ValueError(
                f"x: got shape {tuple(x.shape)}, want (B, C, *S) with {self.order} axes, as n_modes"
            )
        grid, sizes = tuple(x.shape[2:]), self._output_shape(x, output_shape)
        if self.complex_data and not x.is_complex():
            x = torch.complex(x, torch.zeros_like(x))
        complex_data, norm = self.complex_data, self.fft_norm
        modes = tuple(self.n_modes), tuple(self.max_n_modes), grid
        axes = frequencies.all_defined(*modes, sizes, complex_data)
        by_fft = self.order > 4 or (complex_data and grid != sizes)
        split, full = True, sizes
        if self.follows:
            theirs = frequencies.all_of_peer(*modes, complex_data, self.follows)
            if grid != sizes or not frequencies.same(axes, theirs):
                axes, by_fft, full = theirs, True, grid
                split = self.follows == "ifftshift" and self.enforce_hermitian_symmetry
        rows = [axis.rows for axis in axes]
        if not by_fft:
            return self._convolve(x, rows, sizes)
        full = frequencies.bins(full, complex_data)
        y = grids.by_fft(x, self.weight.dense(rows), axes, full, sizes, norm, split)
        return y if self.bias is None else (y + self.bias).to(y.dtype)

    def _convolve(self, x: Tensor, rows, sizes) -> Tensor:
        """The convolution with the frequencies that are in torch.fft's order, by our operators."""
        weight, norm = self.weight, self.fft_norm
        bias = None if self.bias is None else self.bias.flatten()
        groups = self.in_channels if self.separable else 1
        if self.complex_data:
            ascending = [tuple(sorted(kept)) for kept in rows]
            return grids.of_complex(x, weight.dense(ascending), bias, groups, norm)
        if isinstance(weight, Dense):
            return grids.real(x, weight.dense_pairs(rows), bias, sizes, groups, norm)
        if self.separable or self.order == 4:
            return grids.real(x, weight.dense(rows), bias, sizes, groups, norm)
        parts = weight.parts(rows)
        if contraction.in_modes(parts, x.shape[0]):
            return contraction.convolve(x, parts, bias, sizes, norm)
        return grids.real(x, factors.rebuilt(parts), bias, sizes, groups, norm)


def _check(in_channels, out_channels, separable, precision, implementation) -> None:
    if separable and in_channels != out_channels:
        raise ValueError(
            f"separable: got {in_channels} and {out_channels} channels, want equal numbers"
        )
    for name, value, known in (
        ("fno_block_precision", precision, ("full", "half", "mixed")),
        ("implementation", implementation, ("reconstructed", "factorized")),
    ):
        if value not in known:
            raise ValueError(f"{name}: got {value!r}, want one of {', '.join(known)}")
