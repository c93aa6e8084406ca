"""The spectral filter: a gain on every bin of the spectrum."""

import torch
from torch import Tensor

from fastseg import plan, reference
from fastseg.ops import _backends, _checks, _matmul, _spectral_filter_ops


def spectral_filter(x: Tensor, gain: Tensor) -> Tensor:
    """irfftn(rfftn(x)·gain) over all axes of x but the first two.

    x: (B, C, *S) real, 1 to 3 axes; gain: real or complex, broadcastable to (B, C, *S[:-1],
    S[-1]//2 + 1), the bins as `torch.fft.rfftn` orders them. A real gain keeps every phase. Returns
    (B, C, *S) in x.dtype; 16-bit inputs are computed in float32. The imaginary part of a product on
    a self-conjugate bin is treated as `truncated_irfftn` treats it. Backward: x and gain, a real
    gain's gradient being real; only gain and, where it needs a gradient, x are saved.

    Filters of this form: GFNet (Rao et al., 2021), FF-Parser (Wu et al., 2024).

    Raises ValueError for shapes and devices that do not fit, TypeError for dtypes, RuntimeError
    where a forced backend cannot run.
    """
    _checks.check_tensor("x", x)
    _checks.check_real("x", x.dtype, x.shape, x.dim() - 2)
    sizes = tuple(x.shape[2:])
    bins = plan.half_spectrum(sizes)
    _check_gain(gain, x, (*x.shape[:2], *bins))
    backend = _backends.select_spectral(_backends.setting(), x.device, x.dtype, sizes, sizes, bins)
    if backend == "reference":
        return reference.spectral_filter(x, gain)
    pairs = _as_pairs(gain, x)
    if backend == "matmul":
        return _matmul.spectral_filter(x, pairs)
    if _backends.watched(x, pairs):
        return torch.ops.fastseg.spectral_filter(x, pairs, backend)
    return _spectral_filter_ops.spectral_filter(x, pairs, backend)


def _check_gain(gain: Tensor, x: Tensor, full: tuple) -> None:
    _checks.check_tensor("gain", gain)
    if not gain.is_complex() and gain.dtype not in _checks.FLOATS:
        raise TypeError(f"gain: got dtype {gain.dtype}, want a complex or a real floating one")
    trailing = full[len(full) - gain.dim() :]
    if gain.dim() > len(full) or any(
        have not in (1, want) for have, want in zip(gain.shape, trailing, strict=True)
    ):
        raise ValueError(
            f"gain: got shape {tuple(gain.shape)}, want one that broadcasts to {full}, x's half "
            "spectrum"
        )
    _checks.check_device(x, gain=gain)


def _as_pairs(gain: Tensor, x: Tensor) -> Tensor:
    """The gain in the dtype spectra have, with all of their axes and a trailing 1 (real) or 2."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    pairs = torch.view_as_real(gain.resolve_conj()) if gain.is_complex() else gain.unsqueeze(-1)
    return pairs.to(wide).reshape(*[1] * (x.dim() + 1 - pairs.dim()), *pairs.shape)
