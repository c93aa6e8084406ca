"""The verbs of the kernels: products on tensor cores and rounding to the storage type."""

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def narrow(value, dtype: tl.constexpr):
    """`value` (float32) in the storage type, rounded to nearest even."""
    if INTERPRETED and dtype == tl.bfloat16:  # whose conversion there cuts digits off
        bits = value.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        value = bits.to(tl.float32, bitcast=True)
    return value.to(dtype)


@triton.jit
def rounded_to_tf32(x):
    """Tensor cores cut a single TF32 operand off after 10 bits: half a unit makes that rounding."""
    return (x.to(tl.int32, bitcast=True) + 0x1000).to(tl.float32, bitcast=True)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a·b, accumulated in float32; PRECISION concerns float32 operands alone."""
    if PRECISION == "tf32" and a.dtype == tl.float32:
        a, b = rounded_to_tf32(a), rounded_to_tf32(b)
    if INTERPRETED:  # which knows no arithmetic in bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def complex_dot(a_re, a_im, b_re, b_im, re, im, PRECISION: tl.constexpr):
    """re + i·im + a·b."""
    re = dot(a_re, b_re, re, PRECISION)
    re = dot(-a_im, b_im, re, PRECISION)
    im = dot(a_re, b_im, im, PRECISION)
    im = dot(a_im, b_re, im, PRECISION)
    return re, im


@triton.jit
def table_dot(z, cell, step, acc, SPLIT: tl.constexpr, PRECISION: tl.constexpr):
    """acc + z·table, z float32. Where SPLIT, both are two bfloat16 addends, the table's `step`
    numbers apart: 16 bits, half the cost, enough for a result that is stored in 16 bits.
    """
    if SPLIT:
        high = narrow(z, tl.bfloat16)
        low = narrow(z - high.to(tl.float32), tl.bfloat16)
        table = tl.load(cell)
        acc = dot(low, table, acc, PRECISION)
        acc = dot(high, tl.load(cell + step), acc, PRECISION)
        acc = dot(high, table, acc, PRECISION)
    else:
        acc = dot(z, tl.load(cell), acc, PRECISION)
    return acc


@triton.jit
def real_dot(re, im, cell, plane, acc, SPLIT: tl.constexpr, PRECISION: tl.constexpr):
    """acc + Re(z)·cos + Im(z)·(−sin): the last axis of a synthesis, of its frequencies re, im.

    `cell` points to the tile of cosines, `plane` numbers before that of sines.
    """
    acc = table_dot(re, cell, 2 * plane, acc, SPLIT, PRECISION)
    return table_dot(im, cell + plane, 2 * plane, acc, SPLIT, PRECISION)


@triton.jit
def row_dot(
    x,  # [BLOCK_ROWS, 1] pointers to rows of `size` samples
    inside,  # [BLOCK_ROWS, 1]
    cell,  # [1, BLOCK_COLUMNS] pointers to rows of the table [PARTS, 2, columns, size]: cos, −sin
    plane,
    size,
    re,
    im,
    BLOCK_SIZE: tl.constexpr,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """re + i·im + Σ_n x[n]·table[n]: the last axis of an analysis.

    16-bit samples are exact operands; their table is PARTS addends of the same type that carry a
    float32's digits together.
    """
    for start in range(0, size, BLOCK_SIZE):
        n = start + tl.arange(0, BLOCK_SIZE)
        samples = tl.load(x + n[None, :], mask=inside & (n < size)[None, :], other=0.0)
        for part in tl.static_range(PARTS - 1, -1, -1):
            tables = cell + 2 * part * plane + n[:, None]
            re = dot(samples, tl.load(tables), re, PRECISION)
            im = dot(samples, tl.load(tables + plane), im, PRECISION)
    return re, im


@triton.jit
def load_complex(cell, part, inside):
    re = tl.load(cell, mask=inside, other=0.0)
    return re, tl.load(cell + part, mask=inside, other=0.0)


@triton.jit
def store_complex(cell, part, inside, re, im):
    tl.store(cell, re, mask=inside)
    tl.store(cell + part, im, mask=inside)
