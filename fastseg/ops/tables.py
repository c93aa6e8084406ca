"""Tables of the truncated transforms: cosines and sines, computed once in float64 with exactly
reduced angles, then cached.

A transform is fixed by its axes, a direction, a scale and whether the last axis carries Hermitian
weights (1 for DC and an even size's Nyquist column, 2 otherwise). Synthesis carries them with scale
1/N ("backward"), analysis does not. The adjoint of an analysis is the synthesis with the analysis's
scale and no weights; the adjoint of a synthesis is the analysis with its scale and its weights.
"""

import math
from functools import lru_cache, partial, wraps
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg.ops.context import traced

CPU = torch.device("cpu")
# a default device that the caller has set is for the caller's tensors
arange, _full = partial(torch.arange, device=CPU), partial(torch.full, device=CPU)
TABLE_PADDING = 16  # last-axis rows are a whole number of vectors of every instruction set


def cached(build):
    """Keep the tables that `build(*arguments)` makes, for every later call whatever its mode.

    They are built outside inference mode, whose tensors training could not use, and neither taken
    nor kept where a call is traced or a dispatch mode makes tensors that are none (fake ones). A
    last argument that is a device other than the CPU keeps them for good: a captured CUDA graph
    replays on their addresses.

    Raises RuntimeError for tables first needed while a CUDA graph is captured.
    """

    def plain(*arguments):
        if _device(arguments).type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a CUDA graph is being captured, and this operator has no tables for these sizes "
                "yet: call it once with such tensors before the capture"
            )
        with torch.inference_mode(False):
            return build(*arguments)

    on_host, on_device = lru_cache(maxsize=512)(plain), lru_cache(maxsize=None)(plain)

    @wraps(build)
    def table(*arguments):
        if traced() or torch._C._len_torch_dispatch_stack():
            return build(*arguments)
        return (on_host if _device(arguments).type == "cpu" else on_device)(*arguments)

    return table


def _device(arguments: tuple) -> torch.device:
    return arguments[-1] if isinstance(arguments[-1], torch.device) else CPU


class Kept(NamedTuple):
    """Hold the frequencies 0 … positive−1 and −negative … −1 of one axis, in that order.

    >>> kept(5, two_sided=True)
    Kept(positive=3, negative=2)
    """

    positive: int
    negative: int

    @property
    def distinct(self) -> int:
        """Count the distinct |k|."""
        return max(self.positive, self.negative + 1)

    def frequencies(self) -> Tensor:
        """Return the frequencies, in order."""
        return torch.cat([arange(self.positive), arange(-self.negative, 0)])


def kept(modes: int, two_sided: bool) -> Kept:
    """Return what `modes` rows of an axis are."""
    negative = modes // 2 if two_sided else 0
    return Kept(modes - negative, negative)


def kept_axes(modes, two_sided: bool) -> list[Kept]:
    """Return every axis's: all but the last two-sided if asked; the last is the half spectrum."""
    return [*(kept(m, two_sided) for m in modes[:-1]), Kept(modes[-1], 0)]


def half_spectrum(sizes) -> tuple:
    """Return the bins of a real transform: all but the last axis whole, the last one's
    non-negative.

    >>> half_spectrum((8, 9))
    (8, 5)
    """
    return (*sizes[:-1], sizes[-1] // 2 + 1)


def scales(norm: str, sizes) -> tuple[float, float]:
    """Return the (analysis, synthesis) factors of `norm` for a grid, as torch.fft defines them."""
    n = math.prod(sizes)
    return {
        "backward": (1.0, 1.0 / n),
        "ortho": (n**-0.5, n**-0.5),
        "forward": (1.0 / n, 1.0),
    }[norm]


_EXPONENTS = {"backward": (0.0, 1.0), "ortho": (0.5, 0.5), "forward": (1.0, 0.0)}


def powers(norm: str, sizes, out_sizes) -> tuple:
    """Return the count and the exponent of each factor of `scales`, of the analysis of one grid and
    the synthesis of another; none where no compiler follows the call.
    """
    if not traced():
        return ()
    return tuple(zip((math.prod(sizes), math.prod(out_sizes)), _EXPONENTS[norm], strict=True))


def cos_sin(frequencies: Tensor, samples: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin of 2πkn/N as (samples, frequencies), float64; k·n is reduced modulo N
    before it meets π.
    """
    turns = torch.outer(samples, frequencies).remainder(size)
    angles = turns.double() * (2 * math.pi / size)
    return angles.cos(), angles.sin()


@cached
def roots(size: int, dtype: torch.dtype, device: torch.device = CPU) -> Tensor:
    """Return e^(−2πi·k/size), k = 0 … size−1, as (size, 2) real numbers."""
    cos, sin = cos_sin(_full((1,), 1), arange(size), size)
    return torch.cat([cos, -sin], dim=1).to(device, dtype)


def hermitian_weights(columns: int, size: int) -> Tensor:
    """Return how often each stored column stands in the whole spectrum: 1 for its own mirror image,
    else 2.
    """
    weights = _full((columns,), 2.0, dtype=torch.float64)
    weights[0] = 1
    if size % 2 == 0 and columns > size // 2:
        weights[size // 2] = 1
    return weights


@cached
def outer_tables(
    size: int, axis: Kept, synthesis: bool, dtype: torch.dtype, device: torch.device = CPU
) -> tuple[Tensor, Tensor]:
    """Return the folded tables of an axis other than the last.

    Analysis: cos (N//2+1, K), sin ((N−1)//2, K−1); synthesis: the transposes. Rows n = 0 … N/2 and
    n = 1 … ⌈N/2⌉−1, k = 0 … K−1 and 1 … K−1.
    """
    even, odd = arange(size // 2 + 1), arange(1, (size - 1) // 2 + 1)
    k = arange(axis.distinct)
    cos, _ = cos_sin(k, even, size)
    _, sin = cos_sin(k[1:], odd, size)
    if synthesis:
        cos, sin = cos.T, sin.T
    return tuple(t.to(device, dtype).contiguous() for t in (cos, sin))


@cached
def packed_table(
    size: int, axis: Kept, synthesis: bool, dtype: torch.dtype, device: torch.device = CPU
) -> Tensor:
    """Return the table of an axis other than the last as CUDA kernels read it: cosines and sines of
    the frequencies k = 1 … K−1 in packs, padded with zeros.

    Analysis: (N//2+1, packs of 4 frequencies, 2, 4), as many as 16 divide; synthesis: (K−1, packs
    of 8 samples, 2, 8). Samples n = 0 … N/2; the sines of n = 0 and n = N/2 are zero.
    """
    k = arange(1, max(axis.distinct, 2))
    cos, sin = cos_sin(k, arange(size // 2 + 1), size)
    sin[(size - 1) // 2 + 1 :] = 0
    pack, multiple = (8, 8) if synthesis else (4, 16)
    both = torch.stack([cos, sin])
    both = torch.nn.functional.pad(
        both.mT if synthesis else both, (0, -both.shape[2 - synthesis] % multiple)
    )
    return both.unflatten(2, (-1, pack)).permute(1, 2, 0, 3).contiguous().to(device, dtype)


@cached
def last_tables(
    size: int, columns: int, synthesis: bool, scale: float, weighted: bool, dtype: torch.dtype,
    device: torch.device = CPU,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the folded tables of the last axis, scale and weights included, rows padded with zeros
    to whole vectors.

    Analysis: cos (N//2+1, padded m), −sin ((N−1)//2, padded m); synthesis: cos and −sin (m, padded
    N//2+1), where the sines of n = 0 and n = N/2 are zero.
    """
    even, odd = arange(size // 2 + 1), arange(1, (size - 1) // 2 + 1)
    factor = column_factors(columns, size, scale, weighted)
    cos, sin = cos_sin(arange(columns), even, size)
    if synthesis:
        sin[odd.numel() + 1 :] = 0
        cos, sin = (cos * factor).T, (-sin * factor).T
    else:
        cos, sin = cos * factor, -sin[1 : odd.numel() + 1] * factor
    padding = (0, -cos.shape[1] % TABLE_PADDING)
    return tuple(
        torch.nn.functional.pad(t, padding).contiguous().to(device, dtype) for t in (cos, sin)
    )


def column_factors(columns: int, size: int, scale: float, weighted: bool) -> Tensor:
    """Return what each stored column of a table is multiplied by."""
    return scale * (
        hermitian_weights(columns, size)
        if weighted
        else _full((columns,), 1.0, dtype=torch.float64)
    )


@cached
def outer_matrix(size: int, axis: Kept, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return [cos; sin] of the kept frequencies of an axis other than the last: (2m, N)."""
    cos, sin = cos_sin(axis.frequencies(), arange(size), size)
    return torch.cat([cos, sin], dim=1).T.contiguous().to(device, dtype)


@cached
def last_matrix(
    size: int, columns: int, scale: float, weighted: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return [cos | −sin] of the last axis, scale and weights included: (N, 2m)."""
    cos, sin = cos_sin(arange(columns), arange(size), size)
    factor = column_factors(columns, size, scale, weighted)
    # the sine of a self-conjugate column is zero in exact arithmetic: its imaginary part neither
    # leaves nor enters
    return torch.cat([cos * factor, -sin * factor], dim=1).to(device, dtype).contiguous()
