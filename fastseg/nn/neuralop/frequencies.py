"""Which frequencies a layer reads and writes, and which rows of its weight belong to them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Axis(NamedTuple):
    """Hold, for every kept frequency of an axis, the row of the weight (in the peer's ascending
    order), the bin that is read and the bin that is written.
    """

    rows: tuple[int, ...]
    read: tuple[int, ...]
    written: tuple[int, ...]

    def same(self, other: "Axis") -> bool:
        """Tell whether both do the same, in any order."""
        return set(zip(*self, strict=True)) == set(zip(*other, strict=True))


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


def take(tensor: Tensor, axis: int, rows) -> Tensor:
    """Return `rows` along an axis, the tensor itself where these are all of them in order."""
    if len(rows) == tensor.shape[axis] and tuple(rows) == tuple(range(len(rows))):
        return tensor
    return tensor.index_select(axis, torch.tensor(rows, device=tensor.device))
