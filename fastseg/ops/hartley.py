"""Truncated discrete Hartley transforms, made of the truncated Fourier transforms: all derivatives
and backends are theirs.

With F the Fourier spectrum of a real x, H = Re F − Im F is its Hartley spectrum. F at −k is the
conjugate of F at k, so that the half spectrum has H at every sign of the frequencies.
"""

import torch
from torch import Tensor

from fastseg import reference
from fastseg.ops import checks, tables
from fastseg.ops.context import public
from fastseg.ops.spectral import truncated_irfftn, truncated_rfftn


@public
def truncated_dhtn(x: Tensor, modes, norm: str = "backward") -> Tensor:
    """Return the kept part of the discrete Hartley transform over the last len(modes) axes:
    H[k] = Σ_n x[n]·(cos θ + sin θ), θ = 2π Σ_a k_a·n_a/S_a (Bracewell, 1983).

    x: (B, C, *S) real, 1 to 3 axes; returns (B, C, *modes) float32 (float64 for float64). `modes`
    counts kept rows of every axis, the last too: ⌈m/2⌉ non-negative frequencies, then ⌊m/2⌋
    negative ones, at most S. norm: as `torch.fft.rfftn` scales. Differentiable, reads x once.

    Raises ValueError for shapes, modes or norm that do not fit, TypeError for dtypes, RuntimeError
    where a forced backend cannot run.

    >>> x = torch.randn(1, 2, 12, 10)
    >>> whole = torch.fft.fftn(x, dim=(2, 3))
    >>> kept = truncated_dhtn(x, modes=(5, 3))
    >>> torch.allclose(kept[:, :, 0, :2], (whole.real - whole.imag)[:, :, 0, :2], atol=1e-4)
    True
    """
    checks.check_tensor("x", x)
    modes, sizes = checks.integers("modes", modes), tuple(x.shape[2:])
    checks.check_real("x", x.dtype, x.shape, len(modes))
    _check_modes(modes, sizes, "x's")
    closed = _closed(modes, sizes)
    half = truncated_rfftn(x, (*closed[:-1], closed[-1] // 2 + 1), norm)
    real, imag = half.real, half.imag
    at, opposite = real - imag, real + imag  # of k, of −k
    for dim, m, rows in zip(range(-len(modes), -1), modes[:-1], closed[:-1], strict=True):
        at = at.index_select(dim, _rows(m, rows, 1, x.device))
        opposite = opposite.index_select(dim, _rows(m, rows, -1, x.device))
    negative = modes[-1] // 2
    at = at.narrow(-1, 0, modes[-1] - negative)
    return torch.cat([at, opposite.narrow(-1, 1, negative).flip(-1)], -1) if negative else at


@public
def truncated_idhtn(
    spectrum: Tensor, sizes, norm: str = "backward", dtype: torch.dtype | None = None
) -> Tensor:
    """Return the inverse of `truncated_dhtn`, the frequencies outside `modes` being zero:
    y[n] = Σ_k H[k]·(cos θ + sin θ) / Π S.

    spectrum: (B, C, *modes) real, in the order of `truncated_dhtn`; sizes: the grid *S, one size a
    mode axis; returns (B, C, *sizes), float32 or float64 unless `dtype` asks otherwise. norm: that
    of the transform which this inverts. Differentiable, writes the result once.

    Raises ValueError for shapes, sizes or norm that do not fit, TypeError for dtypes, RuntimeError
    where a forced backend cannot run.

    >>> x = torch.randn(1, 2, 6, 5)
    >>> torch.allclose(truncated_idhtn(truncated_dhtn(x, (6, 5)), (6, 5)), x, atol=1e-5)
    True
    """
    checks.check_tensor("spectrum", spectrum)
    modes = tuple(spectrum.shape[2:])
    checks.check_real("spectrum", spectrum.dtype, spectrum.shape, len(modes))
    sizes = checks.check_sizes(sizes, len(modes))
    _check_modes(modes, sizes, "the output's")
    closed = _closed(modes, sizes)
    if spectrum.dtype != torch.float64:
        spectrum = spectrum.float()
    for dim, m, rows in zip(range(-len(modes), 0), modes, closed, strict=True):
        if rows > m:  # the row of +m/2, whose partner −m/2 is kept
            first, last = spectrum.chunk(2, dim)
            zero = torch.zeros_like(first.narrow(dim, 0, 1))
            spectrum = torch.cat([first, zero, last], dim)
    columns = closed[-1] // 2 + 1
    at, opposite = spectrum.narrow(-1, 0, columns), spectrum
    for dim, rows in zip(range(-len(modes), 0), closed, strict=True):
        opposite = opposite.index_select(dim, _rows(rows, rows, -1, spectrum.device))
    opposite = opposite.narrow(-1, 0, columns)
    half = torch.complex((at + opposite) / 2, (opposite - at) / 2)
    return truncated_irfftn(half, sizes, norm, dtype=dtype)


def _check_modes(modes, sizes, what: str) -> None:
    for axis, (m, n) in enumerate(zip(modes, sizes, strict=True)):
        if not 1 <= m <= n:
            raise ValueError(
                f"modes: got {m} on axis {axis}, want 1 to {n}, the frequencies of {what} size {n}"
            )


def _closed(modes, sizes) -> tuple:
    """How many rows have the kept frequencies k and −k: one more where −m/2 is without partner."""
    return tuple(m + 1 if m % 2 == 0 and m < n else m for m, n in zip(modes, sizes, strict=True))


@tables.cached
def _rows(modes: int, rows: int, sign: int, device: torch.device) -> Tensor:
    """Where sign·k stands, of each kept frequency k, in an axis of so many rows."""
    modes, rows = int(modes), int(rows)  # a tracer's are tensors
    kept = reference.kept_rows(modes, rows, True)
    return torch.tensor([sign * row % rows for row in kept], device=device)
