"""Which frequencies a layer reads and writes, and which rows of its weight belong to them."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from fastseg.ops.context import traced


def kept_once(function):
    """Keep results by arguments, out of sight of compilers."""
    cached = functools.lru_cache(maxsize=1024)(function)
    return functools.wraps(function)(lambda *args: (function if traced() else cached)(*args))


class Axis(NamedTuple):
    """Hold, for every kept frequency of an axis, the row of the weight (in the peer's ascending
    order), the bin that is read and the bin that is written.
    """

    rows: tuple[int, ...]
    read: tuple[int, ...]
    written: tuple[int, ...]


def defined(count: int, most: int, size: int, out: int, two_sided: bool) -> Axis:
    """Return the `count` lowest frequencies of an axis of `most` stored rows, in torch.fft's order:
    what `fastseg.reference` defines.
    """
    if not two_sided:
        columns = tuple(range(count))
        return Axis(columns, columns, columns)
    kept = [*range(count - count // 2), *range(-(count // 2), 0)]
    return Axis(*(tuple(f(k) for k in kept) for f in (
        lambda k: k + most // 2, lambda k: k % size, lambda k: k % out
    )))  # fmt: skip


def of_peer(
    count: int, most: int, size: int, last: bool, complex_data: bool, alone: bool, shift: str
) -> Axis:
    """Return what the peer does on an axis: places in the spectrum as it has shifted it, `alone`
    (the only axis) not at all, back by `shift` on every axis but the last.
    """
    half, dropped = size // 2, most - count
    first = 0 if last else half - count // 2
    places = range(first, first + count)
    shifted = half if not alone and (complex_data or not last) else 0
    back = 0 if alone or last else half if shift == "fftshift" else -half
    start = dropped // 2 if complex_data or not last else 0
    return Axis(
        tuple(range(start, start + count)),
        tuple((p - shifted) % size for p in places),
        tuple((p + back) % size for p in places),
    )


@kept_once
def bins(sizes: tuple[int, ...], complex_data: bool) -> tuple[int, ...]:
    """Return the shape of the spectrum of a grid."""
    return sizes if complex_data else (*sizes[:-1], sizes[-1] // 2 + 1)


@kept_once
def all_defined(n_modes, most, grid, sizes, complex_data: bool) -> tuple[Axis, ...]:
    """Return `defined` of every axis: the lowest |k| that n_modes and both grids have."""
    room = map(min, bins(grid, complex_data), bins(sizes, complex_data), n_modes, most)
    last = len(grid) - 1
    return tuple(
        defined(count, *axis, complex_data or number < last)
        for number, (count, *axis) in enumerate(zip(room, most, grid, sizes, strict=True))
    )


@kept_once
def all_of_peer(n_modes, most, grid, complex_data: bool, shift: str) -> tuple[Axis, ...]:
    """Return `of_peer` of every axis; it looks at the grid of x alone."""
    own = bins(grid, complex_data)
    counts, last = map(min, own, n_modes, most), len(grid) - 1
    return tuple(
        of_peer(*axis, number == last, complex_data, last == 0, shift)
        for number, axis in enumerate(zip(counts, most, own, strict=True))
    )


@kept_once
def same(axes: tuple[Axis, ...], others: tuple[Axis, ...]) -> bool:
    """Tell whether both do the same, in any order."""
    pairs = zip(axes, others, strict=True)
    return all(set(zip(*a, strict=True)) == set(zip(*b, strict=True)) for a, b in pairs)


@kept_once
def runs(rows: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (start, length) of every stretch of consecutive rows."""
    starts = [i for i, row in enumerate(rows) if i == 0 or row != rows[i - 1] + 1]
    ends = [*starts[1:], len(rows)]
    return [(rows[start], end - start) for start, end in zip(starts, ends, strict=True)]


@kept_once
def in_torch_order(rows: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return where torch.fft's order has rows that are counted in ascending order."""
    return tuple((row - count // 2) % count for row in rows)


def take(tensor: Tensor, axis: int, rows: tuple[int, ...]) -> Tensor:
    """Return `rows` along an axis: the tensor itself or a view where they follow one another,
    without indices on the device in any case.
    """
    parts = [tensor.narrow(axis, *run) for run in runs(rows)]
    if len(parts) > 1:
        return torch.cat(parts, axis)
    return tensor if len(rows) == tensor.shape[axis] else parts[0]
