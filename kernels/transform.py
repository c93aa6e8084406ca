"""Truncated DFTs along one axis, and along the last two with the plane's tile on chip in between.

  analysis: X[k] = Σ x[n]·table[k, n], kept k only      synthesis: the mirror image, real part
Direction, norm and Hermitian weights live in the tables; a backward pass is the other transform
with other tables. Spectra are float32 and lie as their `Layout` says. Tables are padded with zeros
to whole blocks (`padded`). Addresses are 64 bits wide from plane to plane, 32 inside a plane.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .verbs import complex_dot, load_complex, narrow, real_dot, row_dot, store_complex


class Layout(NamedTuple):
    """Steps, in numbers, of a spectrum [planes, rows, columns] of complex numbers."""

    plane: int
    row: int
    column: int
    part: int  # from a real part to its imaginary part


def interleaved(rows: int, columns: int) -> Layout:
    return Layout(2 * rows * columns, 2 * columns, 2, 1)


def planar(rows: int, columns: int) -> Layout:
    return Layout(2 * rows * columns, columns, 1, rows * columns)


def row_planar(rows: int, columns: int) -> Layout:
    """Every row's real parts, then its imaginary parts: what intermediate results are read by."""
    return Layout(2 * rows * columns, 2 * columns, 1, columns)


class Table(NamedTuple):
    """A matrix of complex numbers, [parts, 2, padded rows, padded columns]; the addends `parts` of
    its numbers are of one dtype.
    """

    numbers: Tensor
    rows: int
    columns: int

    @property
    def strides(self) -> tuple[int, int]:
        return self.numbers.stride(1), self.numbers.stride(2)


@triton.jit
def _analyse_rows(
    x,  # [lines, size]
    table,  # [PARTS, 2, columns, size]
    out,  # [lines, columns]
    lines, columns, size, table_plane, table_row, scale, out_row, out_part,
    STEP: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(columns, BLOCK_COLUMNS)
    line = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    k = tl.program_id(0) % blocks * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = (line < lines)[:, None]
    zero = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    re, im = row_dot(
        x + line[:, None] * size, inside, table + k[None, :] * table_row, table_plane, size,
        zero, zero, BLOCK_SIZE, PARTS, PRECISION,
    )  # fmt: skip
    cell = out + line[:, None] * out_row + k[None, :] * STEP
    store_complex(cell, out_part, inside & (k < columns)[None, :], re * scale, im * scale)


@triton.jit
def _analyse_plane(
    x,  # [planes, height, width]
    last,  # [PARTS, 2, columns, width]
    outer,  # [2, rows, height]
    out,  # [planes, rows, columns]
    rows, columns, height, width, last_plane, last_row, outer_plane, outer_row, scale,
    out_plane, out_row, out_part,
    STEP: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    BLOCK_HEIGHT: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(columns, BLOCK_COLUMNS)
    plane = (tl.program_id(0) // blocks).to(tl.int64)
    k = tl.program_id(0) % blocks * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    row = tl.arange(0, BLOCK_ROWS)
    sum_re = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    sum_im = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    for top in range(0, height, BLOCK_HEIGHT):
        h = top + tl.arange(0, BLOCK_HEIGHT)
        zero = tl.zeros((BLOCK_HEIGHT, BLOCK_COLUMNS), dtype=tl.float32)
        re, im = row_dot(
            x + plane * height * width + h[:, None] * width, (h < height)[:, None],
            last + k[None, :] * last_row, last_plane, width, zero, zero,
            BLOCK_WIDTH, PARTS, PRECISION,
        )  # fmt: skip
        turn = outer + row[:, None] * outer_row + h[None, :]
        sum_re, sum_im = complex_dot(
            tl.load(turn), tl.load(turn + outer_plane), re, im, sum_re, sum_im, PRECISION
        )
    cell = out + plane * out_plane + row[:, None] * out_row + k[None, :] * STEP
    inside = (row < rows)[:, None] & (k < columns)[None, :]
    store_complex(cell, out_part, inside, sum_re * scale, sum_im * scale)


@triton.jit
def _rotate(
    z,  # [planes, inner, columns]
    table,  # [2, rows, inner]
    out,  # [planes, rows, columns]
    rows, inner, columns, table_plane, table_row,
    z_plane, z_row, z_part, out_plane, out_row, out_part,
    Z_STEP: tl.constexpr, OUT_STEP: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_INNER: tl.constexpr,
):  # fmt: skip
    """out[p, r, c] = Σ_i table[r, i]·z[p, i, c], complex: an axis other than the last."""
    row_blocks, column_blocks = tl.cdiv(rows, BLOCK_ROWS), tl.cdiv(columns, BLOCK_COLUMNS)
    block = tl.program_id(0) // column_blocks
    plane = (block // row_blocks).to(tl.int64)
    row = block % row_blocks * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    c = tl.program_id(0) % column_blocks * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    re = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    im = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    for start in range(0, inner, BLOCK_INNER):
        i = start + tl.arange(0, BLOCK_INNER)
        cell = z + plane * z_plane + i[:, None] * z_row + c[None, :] * Z_STEP
        z_re, z_im = load_complex(cell, z_part, (i < inner)[:, None] & (c < columns)[None, :])
        turn = table + row[:, None] * table_row + i[None, :]
        re, im = complex_dot(
            tl.load(turn), tl.load(turn + table_plane), z_re, z_im, re, im, PRECISION
        )
    cell = out + plane * out_plane + row[:, None] * out_row + c[None, :] * OUT_STEP
    store_complex(cell, out_part, (row < rows)[:, None] & (c < columns)[None, :], re, im)


@triton.jit
def _synthesise_plane(
    spectrum,  # [planes, rows, columns]
    outer,  # [2, height, rows]
    last,  # [1 + SPLIT, 2, width, columns]
    bias,  # [channels] or None
    y,  # [planes, height, width]
    rows, columns, height, width, channels, depth, outer_plane, outer_row, last_plane, last_row,
    spectrum_plane, spectrum_row, spectrum_part,
    STEP: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    BLOCK_HEIGHT: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(height, BLOCK_HEIGHT)
    plane = (tl.program_id(0) // blocks).to(tl.int64)
    h = tl.program_id(0) % blocks * BLOCK_HEIGHT + tl.arange(0, BLOCK_HEIGHT)
    k = tl.arange(0, BLOCK_COLUMNS)
    re = tl.zeros((BLOCK_HEIGHT, BLOCK_COLUMNS), dtype=tl.float32)
    im = tl.zeros((BLOCK_HEIGHT, BLOCK_COLUMNS), dtype=tl.float32)
    for start in range(0, rows, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        cell = spectrum + plane * spectrum_plane + row[:, None] * spectrum_row + k[None, :] * STEP
        inside = (row < rows)[:, None] & (k < columns)[None, :]
        z_re, z_im = load_complex(cell, spectrum_part, inside)
        turn = outer + h[:, None] * outer_row + row[None, :]
        re, im = complex_dot(
            tl.load(turn), tl.load(turn + outer_plane), z_re, z_im, re, im, PRECISION
        )
    offset = 0.0
    if bias is not None:
        offset = tl.load(bias + plane // depth % channels)
    y += plane * height * width
    for left in range(0, width, BLOCK_WIDTH):
        w = left + tl.arange(0, BLOCK_WIDTH)
        acc = tl.zeros((BLOCK_HEIGHT, BLOCK_WIDTH), dtype=tl.float32) + offset
        cell = last + w[None, :] * last_row + k[:, None]
        acc = real_dot(re, im, cell, last_plane, acc, SPLIT, PRECISION)
        inside = (h < height)[:, None] & (w < width)[None, :]
        tl.store(y + h[:, None] * width + w[None, :], narrow(acc, y.dtype.element_ty), mask=inside)


@triton.jit
def _synthesise_rows(
    z,  # [lines, columns]
    table,  # [1 + SPLIT, 2, size, columns]
    bias,  # [channels] or None
    y,  # [lines, size]
    lines, columns, size, channels, depth, table_plane, table_row, z_row, z_part,
    STEP: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(size, BLOCK_SIZE)
    line = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    n = tl.program_id(0) % blocks * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    present = (line < lines)[:, None]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_SIZE), dtype=tl.float32)
    if bias is not None:
        acc += tl.load(bias + line // depth % channels)[:, None]
    for start in range(0, columns, BLOCK_COLUMNS):
        k = start + tl.arange(0, BLOCK_COLUMNS)
        cell = z + line[:, None] * z_row + k[None, :] * STEP
        re, im = load_complex(cell, z_part, present & (k < columns)[None, :])
        turn = table + n[None, :] * table_row + k[:, None]
        acc = real_dot(re, im, turn, table_plane, acc, SPLIT, PRECISION)
    inside = present & (n < size)[None, :]
    cell = y + line[:, None] * size + n[None, :]
    tl.store(cell, narrow(acc, y.dtype.element_ty), mask=inside)


def analyse_rows(x: Tensor, table: Table, out: Tensor, at: Layout, scale: float, precision: str):
    """out[line] = scale·table·x[line] for every line of x along its last axis."""
    lines = x.numel() // table.columns
    tile = tiles.analyse_rows(table.rows, table.columns)
    grid = tiles.blocks(lines, tile["BLOCK_ROWS"]) * tiles.blocks(table.rows, tile["BLOCK_COLUMNS"])
    _analyse_rows[(grid,)](
        x, table.numbers, out, lines, table.rows, table.columns, *table.strides, scale,
        at.plane, at.part, STEP=at.column, PARTS=len(table.numbers), PRECISION=precision, **tile,
    )  # fmt: skip


def analyse_planes(
    x: Tensor, outer: Table, last: Table, out: Tensor, at: Layout, scale: float, precision: str
):
    """out[plane] = scale·outer·x[plane]·lastᵀ; the product along the last axis stays on chip."""
    planes = x.numel() // (outer.columns * last.columns)
    tile = tiles.analyse_planes(outer.rows, last.rows, outer.columns, last.columns)
    grid = planes * tiles.blocks(last.rows, tile["BLOCK_COLUMNS"])
    _analyse_plane[(grid,)](
        x, last.numbers, outer.numbers, out, outer.rows, last.rows, outer.columns, last.columns,
        *last.strides, *outer.strides, scale, at.plane, at.row, at.part,
        STEP=at.column, PARTS=len(last.numbers), PRECISION=precision, **tile,
    )  # fmt: skip


def rotate(
    z: Tensor, z_at: Layout, table: Table, out: Tensor, at: Layout, planes: int, columns: int,
    precision: str,
):  # fmt: skip
    """out[plane] = table·z[plane], complex, over `columns` columns."""
    tile = tiles.rotate(table.rows, table.columns, columns)
    column_blocks = tiles.blocks(columns, tile["BLOCK_COLUMNS"])
    grid = planes * tiles.blocks(table.rows, tile["BLOCK_ROWS"]) * column_blocks
    _rotate[(grid,)](
        z, table.numbers, out, table.rows, table.columns, columns, *table.strides,
        z_at.plane, z_at.row, z_at.part, at.plane, at.row, at.part,
        Z_STEP=z_at.column, OUT_STEP=at.column, PRECISION=precision, **tile,
    )  # fmt: skip


def synthesise_planes(
    spectrum: Tensor, at: Layout, outer: Table, last: Table, bias: Tensor | None, y: Tensor,
    channels: int, depth: int, precision: str,
):  # fmt: skip
    """y[plane] = Re(outer·spectrum[plane]·lastᵀ) + bias; plane p is of channel p // depth."""
    planes = y.numel() // (outer.rows * last.rows)
    tile = tiles.synthesise_planes(outer.columns, last.columns, outer.rows, last.rows)
    grid = planes * tiles.blocks(outer.rows, tile["BLOCK_HEIGHT"])
    _synthesise_plane[(grid,)](
        spectrum, outer.numbers, last.numbers, bias, y, outer.columns, last.columns, outer.rows,
        last.rows, channels, depth, *outer.strides, *last.strides, at.plane, at.row, at.part,
        STEP=at.column, SPLIT=len(last.numbers) > 1, PRECISION=precision, **tile,
    )  # fmt: skip


def synthesise_rows(
    z: Tensor, at: Layout, table: Table, bias: Tensor | None, y: Tensor, channels: int, depth: int,
    precision: str,
):  # fmt: skip
    """y[line] = Re(table·z[line]) + bias; line l is of channel l // depth."""
    lines = y.numel() // table.rows
    tile = tiles.synthesise_rows(table.columns, table.rows)
    grid = tiles.blocks(lines, tile["BLOCK_ROWS"]) * tiles.blocks(table.rows, tile["BLOCK_SIZE"])
    _synthesise_rows[(grid,)](
        z, table.numbers, bias, y, lines, table.columns, table.rows, channels, depth,
        *table.strides, at.plane, at.part,
        STEP=at.column, SPLIT=len(table.numbers) > 1, PRECISION=precision, **tile,
    )  # fmt: skip
