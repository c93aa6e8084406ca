"""Every op on views of odd layouts, in every dtype and backend, against float64."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CALLS = 20  # of a round
MOST_NUMBERS = 5000  # of a grid
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Part:
    """Random rows of the operators' tests; their tensors are made views of other memory."""

    def __init__(self, scratch: Path):
        import operators  # the tests' module, not this one

        self.tests = operators
        torch.set_num_threads(1)

    def round(self, rng: np.random.Generator, folder: Path) -> Counter:
        did = Counter()
        for _ in range(CALLS):
            op = list(self.tests.ROWS)[rng.integers(len(self.tests.ROWS))]
            row = self.tests.ROWS[op]
            grids = [grid for grid in row.grids if np.prod(_sizes(grid)) <= MOST_NUMBERS]
            grid, dtype = grids[rng.integers(len(grids))], DTYPES[rng.integers(len(DTYPES))]
            backend = self.tests.LIVE[rng.integers(len(self.tests.LIVE))]
            if not self.tests.serves(row, backend, dtype):
                continue
            seed = int(rng.integers(2**31))
            (folder / "call.txt").write_text(f"{op} {grid} {dtype} {backend} views {seed}\n")
            self.tests.check(op, viewed(row, seed), backend, grid, dtype)
            did["calls"] += 1
            did[f"{backend} calls"] += 1
        return did


def viewed(row, seed: int):
    """The row with the same numbers in other memory."""

    def draw(sizes, dtype):
        rng = np.random.default_rng(seed)
        tensors, options = row.draw(sizes, dtype)
        return {name: view(tensor, rng) for name, tensor in tensors.items()}, options

    return row._replace(draw=draw)


def view(t: Tensor, rng: np.random.Generator) -> Tensor:
    """The same tensor, to torch, as a view that no kernel should be surprised by."""
    for _ in range(rng.integers(0, 3)):
        t = VIEWS[rng.integers(len(VIEWS))](t, rng)
    return t


def _negated(t: Tensor, rng) -> Tensor:
    return torch._neg_view(t.neg())


def _conjugated(t: Tensor, rng) -> Tensor:
    return t.conj().resolve_conj().conj() if t.is_complex() else t


def _imaginary(t: Tensor, rng) -> Tensor:
    """The imaginary part of a conjugate: torch makes it a negated, strided view."""
    return t if t.is_complex() or t.dtype not in _COMPLEX else _as_imaginary(t)


def _as_imaginary(t: Tensor) -> Tensor:
    return torch.complex(torch.ones_like(t), t.neg()).conj().imag


def _shifted(t: Tensor, rng) -> Tensor:
    """Off the allocator's alignment, by a number of elements."""
    by = int(rng.integers(1, 8))
    return torch.cat([t.new_zeros(by), t.flatten()])[by:].view(t.shape)


def _spread(t: Tensor, rng) -> Tensor:
    """Every second or third number of an axis of other memory."""
    if not t.dim():
        return t
    axis, step = int(rng.integers(t.dim())), int(rng.integers(2, 4))
    wide = t.new_full([n * step if i == axis else n for i, n in enumerate(t.shape)], float("nan"))
    chosen = wide[(slice(None),) * axis + (slice(None, None, step),)]
    return chosen.copy_(t)


def _reordered(t: Tensor, rng) -> Tensor:
    """Axes in another order in memory, as channels_last is."""
    order = rng.permutation(t.dim()).tolist()
    return t.permute(order).contiguous().permute(np.argsort(order).tolist())


def _padded(t: Tensor, rng) -> Tensor:
    """The middle of a larger tensor that is NaN around it."""
    wide = t.new_full([n + 2 for n in t.shape], float("nan"))
    return wide[(slice(1, -1),) * t.dim()].copy_(t)


def _repeated(t: Tensor, rng) -> Tensor:
    """An axis of one sample with stride 0."""
    return t[:1].expand(1, *t.shape[1:]) if t.dim() and t.shape[0] == 1 else t


def _sizes(grid) -> tuple:
    return tuple(n for n in grid if isinstance(n, int)) if isinstance(grid, tuple) else (1,)


_COMPLEX = {torch.float32, torch.float64}  # real types that torch.complex takes
VIEWS = (_negated, _conjugated, _imaginary, _shifted, _spread, _reordered, _padded, _repeated)
