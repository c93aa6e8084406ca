"""Complex matrix products of every mode: out[p, q, m] = Σ_r op(a[p, r, m])·op(b[r, q, m]), m
contiguous, op the identity or the conjugate.

Few channels meet many modes: lanes run over modes, so that every operand is read in whole lines,
and the arithmetic is plain float32, exact and not the bottleneck (4·p·q·r multiply-adds a mode
against 8·r·q bytes of weights).
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .verbs import load_complex, store_complex


class Product(NamedTuple):
    """Extents, and strides in complex numbers."""

    extents: tuple  # groups, p, q, r, modes
    a: tuple  # group, p, r
    b: tuple  # group, r, q
    out: tuple  # group, p, q
    conj_a: bool
    conj_b: bool


@triton.jit
def _mix(
    a, b, out, p_extent, q_extent, r_extent, modes,
    a_group, a_p, a_r, b_group, b_r, b_q, out_group, out_p, out_q,
    CONJ_A: tl.constexpr, CONJ_B: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_MODES: tl.constexpr,
):  # fmt: skip
    mode_blocks, q_blocks = tl.cdiv(modes, BLOCK_MODES), tl.cdiv(q_extent, BLOCK_Q)
    p_blocks = tl.cdiv(p_extent, BLOCK_P)
    index = tl.program_id(0)
    m = index % mode_blocks * BLOCK_MODES + tl.arange(0, BLOCK_MODES)[None, :]
    index //= mode_blocks
    q = index % q_blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)[:, None]
    index //= q_blocks
    p = index % p_blocks * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]
    group = (index // p_blocks).to(tl.int64)
    a_cell = a + 2 * (group * a_group + p.to(tl.int64) * a_p + m)
    b_cell = b + 2 * (group * b_group + q.to(tl.int64) * b_q + m)
    inside_p, inside_q = (p < p_extent) & (m < modes), (q < q_extent) & (m < modes)
    re = tl.zeros((BLOCK_P, BLOCK_Q, BLOCK_MODES), dtype=tl.float32)
    im = tl.zeros((BLOCK_P, BLOCK_Q, BLOCK_MODES), dtype=tl.float32)
    for _ in range(0, r_extent):
        a_re, a_im = load_complex(a_cell, 1, inside_p)
        b_re, b_im = load_complex(b_cell, 1, inside_q)
        a_im = -a_im if CONJ_A else a_im
        b_im = -b_im if CONJ_B else b_im
        re += a_re[:, None, :] * b_re[None, :, :] - a_im[:, None, :] * b_im[None, :, :]
        im += a_re[:, None, :] * b_im[None, :, :] + a_im[:, None, :] * b_re[None, :, :]
        a_cell += 2 * a_r
        b_cell += 2 * b_r
    rows = (p.to(tl.int64) * out_p)[:, None, :] + (q.to(tl.int64) * out_q)[None, :, :]
    cell = out + 2 * (group * out_group + rows + m[None, :, :])
    store_complex(cell, 1, inside_p[:, None, :] & inside_q[None, :, :], re, im)


def mix(a: Tensor, b: Tensor, out: Tensor, product: Product):
    groups, p, q, r, modes = product.extents
    tile = tiles.mix(p, q, modes)
    grid = groups * tiles.blocks(p, tile["BLOCK_P"]) * tiles.blocks(q, tile["BLOCK_Q"])
    _mix[(grid * tiles.blocks(modes, tile["BLOCK_MODES"]),)](
        a, b, out, p, q, r, modes, *product.a, *product.b, *product.out,
        CONJ_A=product.conj_a, CONJ_B=product.conj_b, **tile,
    )  # fmt: skip
