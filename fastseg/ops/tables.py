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
_arange, _full = partial(torch.arange, device=CPU), partial(torch.full, device=CPU)
FFT_SIZE, FFT_BINS, CUDA_FFT_BINS = 1024, 256 * 129, 96 * 96
CUDA_FILTER_BINS = 64 * 33
CUDA_FILTER_CELLS = 2700  # three tiles of so many fit the 64 KB of sm_75
TABLE_PADDING = 16  # last-axis rows are a whole number of vectors of every instruction set
# an mma takes so many rows of a table, and so much of its depth by the bytes of a number
MMA_ROWS, MMA_DEPTH = 16, {4: 8, 2: 16}
# a table in 16 bits has as many parts as float32's accuracy needs
PARTS = {torch.float32: 2, torch.bfloat16: 3, torch.float16: 2}


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
        return torch.cat([_arange(self.positive), _arange(-self.negative, 0)])


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


def cos_sin(frequencies: Tensor, samples: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin of 2πkn/N as (samples, frequencies), float64; k·n is reduced modulo N
    before it meets π.
    """
    turns = torch.outer(samples, frequencies).remainder(size)
    angles = turns.double() * (2 * math.pi / size)
    return angles.cos(), angles.sin()


def fft_serves(sizes, modes) -> bool:
    """Tell whether the CPU's FFT of radices 2, 3 and 5 computes this spectrum: a whole one, the
    last size even and more than 2, axes up to FFT_SIZE and planes up to FFT_BINS, so that as many
    as a vector has lanes stay in a cache.
    """
    if tuple(modes) != half_spectrum(sizes) or sizes[-1] % 2 or sizes[-1] < 4:
        return False
    return math.prod(modes[-2:]) <= FFT_BINS and all(_smooth(n) for n in sizes)


def fft_serves_on_cuda(sizes) -> bool:
    """Tell whether CUDA's FFT in shared memory computes the whole spectrum of a grid: two or three
    axes, the last size even and more than 2, planes that fit a block of any GPU since Volta (on
    sm_75 those beyond 90² go by matrices). Of volumes that do not, a matrix takes the first axis,
    which must not be long.
    """
    if sizes[-1] % 2 or sizes[-1] < 4 or math.prod(sizes[:-1]) == 1 or len(sizes) > 3:
        return False
    if math.prod(half_spectrum(sizes)[-2:]) > CUDA_FFT_BINS or math.prod(sizes[:-2]) > 64:
        return False
    return all(_smooth(n) for n in sizes)


def filter_serves_on_cuda(sizes) -> bool:
    """Tell whether CUDA filters planes of this grid in one launch: three of them fit a block."""
    bins = math.prod(half_spectrum(sizes))
    fits = bins <= CUDA_FILTER_BINS and (sizes[0] + 4) * (sizes[-1] // 2 + 2) <= CUDA_FILTER_CELLS
    return len(sizes) == 2 and fits and fft_serves_on_cuda(sizes)


def _smooth(size: int) -> bool:
    if not 1 <= size <= FFT_SIZE:
        return False
    for radix in (2, 3, 5):
        while size % radix == 0:
            size //= radix
    return size == 1


@cached
def roots(size: int, dtype: torch.dtype, device: torch.device = CPU) -> Tensor:
    """Return e^(−2πi·k/size), k = 0 … size−1, as (size, 2) real numbers."""
    cos, sin = cos_sin(_full((1,), 1), _arange(size), size)
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
    even, odd = _arange(size // 2 + 1), _arange(1, (size - 1) // 2 + 1)
    k = _arange(axis.distinct)
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
    k = _arange(1, max(axis.distinct, 2))
    cos, sin = cos_sin(k, _arange(size // 2 + 1), size)
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
    even, odd = _arange(size // 2 + 1), _arange(1, (size - 1) // 2 + 1)
    factor = _factor(columns, size, scale, weighted)
    cos, sin = cos_sin(_arange(columns), even, size)
    if synthesis:
        sin[odd.numel() + 1 :] = 0
        cos, sin = (cos * factor).T, (-sin * factor).T
    else:
        cos, sin = cos * factor, -sin[1 : odd.numel() + 1] * factor
    padding = (0, -cos.shape[1] % TABLE_PADDING)
    return tuple(
        torch.nn.functional.pad(t, padding).contiguous().to(device, dtype) for t in (cos, sin)
    )


def _tf32(x: Tensor) -> Tensor:
    """Round float64 numbers to TF32, the 13 lowest bits of float32 zero."""
    bits = x.float().view(torch.int32)
    return ((bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFF).view(torch.float32)


def _parts(table: Tensor, dtype: torch.dtype) -> Tensor:
    """Split float64 numbers into parts of falling size, whose sum they are: (parts, …)."""
    found = []
    for _ in range(PARTS[dtype]):
        found.append(_tf32(table) if dtype == torch.float32 else table.to(dtype))
        table = table - found[-1].double()
    return torch.stack(found)


def fragments(cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """Return two tables (rows, depth) as the lanes of a warp load them for mma, 16 bytes each:
    (steps of depth, tiles of rows, [cos, sin], parts, lanes, numbers of a lane), zeros added.

    Lane 4g + t has the rows g and g + 8 of its tile. Of a step it has, in TF32 (dtype float32), the
    depths t and t + 4, row by row for each; in 16 bits the depths t, t + 4 of a row, of the other
    row, and the same for t + 8, t + 12: what a lane that reads every fourth row of x has at hand.
    """
    step = MMA_DEPTH[dtype.itemsize]
    both = torch.stack([cos, sin])
    padding = (0, -both.shape[2] % step, 0, -both.shape[1] % MMA_ROWS)
    parts = _parts(torch.nn.functional.pad(both, padding), dtype)
    tiles = parts.unflatten(2, (-1, 2, 8))  # parts, both, tile, half, g
    if step == 8:
        order = tiles.unflatten(5, (-1, 2, 4)).permute(5, 2, 1, 0, 4, 7, 6, 3)
    else:
        order = tiles.unflatten(5, (-1, 2, 2, 4)).permute(5, 2, 1, 0, 4, 8, 6, 3, 7)
    return order.reshape(*order.shape[:4], 32, -1).contiguous()


def first_in_tile(distinct: int, tile: int) -> int:
    """Return the first frequency in the fragments of an outer axis: 1 where the zero frequency
    would need a tile of its own, and is summed or added apart, else 0.
    """
    return int(distinct > 1 and distinct % tile == 1)


def _folded(table: Tensor, size: int) -> Tensor:
    """Halve the samples (rows) that are their own mirror images: a fold doubles them."""
    table[0] /= 2
    if size % 2 == 0:
        table[size // 2] /= 2
    return table


@cached
def outer_fragments(
    size: int, axis: Kept, synthesis: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the `fragments` of an axis other than the last, where `dtype` is float32 folded.

    Analysis: rows are frequencies k = first … K−1, the depth is samples n = 0 … N/2, those of
    their own mirror image halved; of 16-bit numbers n = 0 … N−1, not folded. `first` is of
    `first_in_tile`. Synthesis: rows are samples n = 0 … N/2, the depth is frequencies k = 1 … K−1:
    the zero frequency is added apart.
    """
    folded = dtype == torch.float32
    first = 1 if synthesis else first_in_tile(axis.distinct, MMA_ROWS)
    k = _arange(first, max(axis.distinct, first + 1))
    cos, sin = cos_sin(k, _arange(size // 2 + 1 if folded else size), size)
    if folded:
        sin[(size - 1) // 2 + 1 :] = 0
    if not synthesis:
        cos, sin = (_folded(cos, size) if folded else cos).T, sin.T
    return fragments(cos, sin, dtype).to(device)


@cached
def last_fragments(
    size: int, columns: int, synthesis: bool, scale: float, weighted: bool, device: torch.device
) -> Tensor:
    """Return the `fragments` of the last axis in TF32, scale and weights included, the sines
    negative. Analysis: rows are columns m of the spectrum, the depth is samples, folded as
    `outer_fragments`; synthesis: the transposes, nothing halved.
    """
    cos, sin = cos_sin(_arange(columns), _arange(size // 2 + 1), size)
    factor = _factor(columns, size, scale, weighted)
    sin[(size - 1) // 2 + 1 :] = 0
    cos, sin = cos * factor, -sin * factor
    if not synthesis:
        cos, sin = _folded(cos, size).T, sin.T
    return fragments(cos, sin, torch.float32).to(device)


def _factor(columns: int, size: int, scale: float, weighted: bool) -> Tensor:
    return scale * (
        hermitian_weights(columns, size)
        if weighted
        else _full((columns,), 1.0, dtype=torch.float64)
    )


@cached
def outer_matrix(size: int, axis: Kept, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return [cos; sin] of the kept frequencies of an axis other than the last: (2m, N)."""
    cos, sin = cos_sin(axis.frequencies(), _arange(size), size)
    return torch.cat([cos, sin], dim=1).T.contiguous().to(device, dtype)


@cached
def last_matrix(
    size: int, columns: int, scale: float, weighted: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return [cos | −sin] of the last axis, scale and weights included: (N, 2m)."""
    cos, sin = cos_sin(_arange(columns), _arange(size), size)
    factor = _factor(columns, size, scale, weighted)
    # the sine of a self-conjugate column is zero in exact arithmetic: its imaginary part neither
    # leaves nor enters
    return torch.cat([cos * factor, -sin * factor], dim=1).to(device, dtype).contiguous()
