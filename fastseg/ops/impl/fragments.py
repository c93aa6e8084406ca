"""Tables of the truncated transforms, in the order in which tensor cores take them."""

import torch
from torch import Tensor

from fastseg.ops.tables import Kept, arange, cached, column_factors, cos_sin

# an mma takes so many rows of a table, and so much of its depth by the bytes of a number
MMA_ROWS, MMA_DEPTH = 16, {4: 8, 2: 16}
# a table in 16 bits has as many parts as float32's accuracy needs
PARTS = {torch.float32: 2, torch.bfloat16: 3, torch.float16: 2}


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
    k = arange(first, max(axis.distinct, first + 1))
    cos, sin = cos_sin(k, arange(size // 2 + 1 if folded else size), size)
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
    cos, sin = cos_sin(arange(columns), arange(size // 2 + 1), size)
    factor = column_factors(columns, size, scale, weighted)
    sin[(size - 1) // 2 + 1 :] = 0
    cos, sin = cos * factor, -sin * factor
    if not synthesis:
        cos, sin = _folded(cos, size).T, sin.T
    return fragments(cos, sin, torch.float32).to(device)
