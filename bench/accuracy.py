"""Worst relative L2 error of spectral_conv against float64, forward and every gradient, per backend
and dtype, over sizes 1 … 64, 85, 96, 141, 155, 240 and 421 in 1-D and 2-D and odd 3-D sizes.

    python bench/accuracy.py --out accuracy.json

Inputs are rounded to the dtype first, so that only the operator's own error counts. Every size runs
with few modes and with every bin kept, the largest 2-D grids included.
"""

import argparse
import itertools
import json
import platform
import zlib
from pathlib import Path

import torch

import fastseg
from fastseg import ops, reference

SIZES = [*range(1, 65), 85, 96, 141, 155, 240, 421]
GRIDS = {
    "1-D": [(n,) for n in SIZES],
    "2-D": [(n, n) for n in SIZES] + [(a, b) for a, b in itertools.pairwise(SIZES)],
    "3-D": [(1, 1, 1), (3, 5, 7), (7, 9, 33), (9, 11, 13), (15, 17, 19), (21, 1, 31), (31, 33, 35),
            (5, 85, 3), (39, 61, 61), (155, 7, 9)],
}  # fmt: skip
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
NORMS = ("backward", "ortho", "forward")


def bins(sizes: tuple) -> tuple:
    return (*sizes[:-1], sizes[-1] // 2 + 1)


def cases():
    """(rank, sizes, modes): a third of the bins, then all of them."""
    for rank, grids in GRIDS.items():
        for sizes in grids:
            few = tuple(max(1, m // 3) for m in bins(sizes))
            for modes in dict.fromkeys((few, bins(sizes))):
                yield rank, sizes, modes


def draw(sizes: tuple, modes: tuple, dtype: torch.dtype) -> list[torch.Tensor]:
    """x, weight, bias and the output's gradient; enough images that no few numbers decide."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((sizes, modes)).encode()))
    batch, wide = 1 + 100 // torch.tensor(modes).prod().item(), torch.float64

    def normal(*shape, kind=wide):
        return torch.randn(shape, generator=generator, dtype=kind)

    weight = normal(2, 4, *modes, kind=torch.complex128)
    tensors = [normal(batch, 2, *sizes).to(dtype), weight, normal(4)]
    if dtype != wide:
        tensors[1:] = weight.to(torch.complex64), tensors[2].float()
    return [*tensors, normal(batch, 4, *sizes).to(dtype)]


def evaluate(function, tensors, **options) -> dict[str, torch.Tensor]:
    *leaves, grad = [t.detach() for t in tensors]
    leaves = [t.requires_grad_() for t in leaves]
    y = function(*leaves, **options)
    return dict(zip(("y", "dx", "dweight", "dbias"),
                    (y.detach(), *torch.autograd.grad(y, leaves, grad)), strict=True))  # fmt: skip


def double(t: torch.Tensor) -> torch.Tensor:
    return t.to(torch.complex128 if t.is_complex() else torch.float64)


def measure(backends: list[str]) -> dict:
    """{(backend, dtype, rank, quantity): (worst error, its sizes, its modes)}"""
    worst: dict = {}
    for index, (rank, sizes, modes) in enumerate(cases()):
        norm = NORMS[index % 3]
        for dtype in DTYPES:
            tensors = draw(sizes, modes, dtype)
            exact = evaluate(reference.spectral_conv, [double(t) for t in tensors], norm=norm)
            for backend in backends:
                if dtype == torch.float64 and backend in ("cuda", "triton"):
                    continue
                with fastseg.use_backend(backend):
                    found = evaluate(ops.spectral_conv, tensors, norm=norm)
                for name, want in exact.items():
                    error = ((double(found[name]) - want).norm() / want.norm()).item()
                    key = backend, str(dtype).removeprefix("torch."), rank, name
                    # not (error <= …): a NaN is the worst of all
                    if not error <= worst.get(key, (-1.0,))[0]:
                        worst[key] = error, sizes, modes
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, help="write the figures as JSON here")
    parser.add_argument("--backends", nargs="*", help="default: every live one")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    status = fastseg.backends()
    worst = measure(options.backends or [name for name in status if status[name]])
    rows = [
        dict(zip(("backend", "dtype", "rank", "quantity", "error", "sizes", "modes"),
                 (*key, *value), strict=True))
        for key, value in sorted(worst.items())
    ]  # fmt: skip
    for row in rows:
        print(f"{row['backend']:10} {row['dtype']:9} {row['rank']} {row['quantity']:8} "
              f"{row['error']:.2e}  at {row['sizes']}, modes {row['modes']}")  # fmt: skip
    if options.out:
        machine = {"torch": torch.__version__, "machine": platform.machine(),
                   "backends": {name: value.detail for name, value in status.items()}}  # fmt: skip
        options.out.write_text(json.dumps({**machine, "worst": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
