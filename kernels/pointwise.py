"""Products over channels at every point, with what follows them in one pass.

  z = [synthesis along the last axis] + weight·x + bias + addend        out = epilogue(z)
Both products accumulate in one tile of channels × points, so that a Fourier block reads x and its
almost synthesised spectrum once and writes once. Addresses are 64 bits wide from line to line.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .transform import Layout, Table
from .verbs import dot, load_complex, narrow, real_dot


@triton.jit
def gelu(z):
    return 0.5 * z * (1 + tl.erf(z * 0.7071067811865476))


@triton.jit
def gelu_gradient(z):
    density = tl.exp(-0.5 * z * z) * 0.3989422804014327
    return 0.5 * (1 + tl.erf(z * 0.7071067811865476)) + z * density


@triton.jit
def _product(
    x,  # [batch, groups·inputs, lines, width]
    weight,  # [groups, outputs, inputs] by its strides
    spectrum,  # [batch, groups·outputs, lines, columns] by its strides, or None
    table,  # [1 + SPLIT, 2, width, columns]: with a spectrum
    bias, scale, shift,  # [groups·outputs] or None
    addend, factor,  # like out, or None
    out,  # [batch, groups·outputs, lines, width]
    partial,  # [batch·lines·width blocks, 2, groups·outputs]: of moments
    groups, outputs, inputs, lines, width, weight_group, weight_out, weight_in,
    columns, spectrum_row, spectrum_part, table_plane, table_row,
    STEP: tl.constexpr, SPLIT: tl.constexpr, EPILOGUE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    width_blocks, out_blocks = tl.cdiv(width, BLOCK_WIDTH), tl.cdiv(outputs, BLOCK_OUT)
    index = tl.program_id(0)
    w = index % width_blocks * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    o = index // width_blocks % out_blocks * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    group = index // width_blocks // out_blocks % groups
    line = (index // width_blocks // out_blocks // groups).to(tl.int64)  # of batch·lines
    channel = group * outputs + o
    row = (line // lines * groups * outputs + channel) * lines + line % lines
    inside = (o < outputs)[:, None] & (w < width)[None, :]
    z = tl.zeros((BLOCK_OUT, BLOCK_WIDTH), dtype=tl.float32)
    if spectrum is not None:
        for start in range(0, columns, BLOCK_COLUMNS):
            k = start + tl.arange(0, BLOCK_COLUMNS)
            kept = (o < outputs)[:, None] & (k < columns)[None, :]
            cell = spectrum + row[:, None] * spectrum_row + k[None, :] * STEP
            re, im = load_complex(cell, spectrum_part, kept)
            turn = table + w[None, :] * table_row + k[:, None]
            z = real_dot(re, im, turn, table_plane, z, SPLIT, PRECISION)
    x += (line // lines * groups + group) * inputs * lines * width + line % lines * width
    weight += group * weight_group
    for start in range(0, inputs, BLOCK_IN):
        i = start + tl.arange(0, BLOCK_IN)
        present = (i < inputs)[:, None] & (w < width)[None, :]
        cell = x + i[:, None].to(tl.int64) * lines * width + w[None, :]
        samples = tl.load(cell, mask=present, other=0.0).to(tl.float32)
        known = (o < outputs)[:, None] & (i < inputs)[None, :]
        cell = weight + o[:, None] * weight_out + i[None, :] * weight_in
        z = dot(tl.load(cell, mask=known, other=0.0), samples, z, PRECISION)
    if bias is not None:
        z += tl.load(bias + channel, mask=o < outputs, other=0.0)[:, None]
    at = row[:, None] * width + w[None, :]
    if addend is not None:
        z += tl.load(addend + at, mask=inside, other=0.0)
    if EPILOGUE == "gelu":
        z = gelu(z)
    if EPILOGUE == "gelu_gradient":
        z = gelu_gradient(z) * tl.load(factor + at, mask=inside, other=0.0).to(tl.float32)
    if EPILOGUE == "affine_relu":
        slope = tl.load(scale + channel, mask=o < outputs, other=0.0)[:, None]
        offset = tl.load(shift + channel, mask=o < outputs, other=0.0)[:, None]
        z = tl.maximum(slope * z + offset, 0.0)
    if EPILOGUE == "moments":
        z = tl.where(inside, z, 0.0)
        span = line * width_blocks + index % width_blocks
        sums = partial + span * 2 * groups * outputs + channel
        tl.store(sums, tl.sum(z, axis=1), mask=o < outputs)
        tl.store(sums + groups * outputs, tl.sum(z * z, axis=1), mask=o < outputs)
    tl.store(out + at, narrow(z, out.dtype.element_ty), mask=inside)


@triton.jit
def _affine_relu(
    z, gradient,  # [batch, channels, points]; no gradient: forward
    scale, shift,  # [channels]
    out,  # like z
    partial,  # [batch·point blocks, 2, channels]: with a gradient
    channels, points,
    BLOCK_POINTS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(points, BLOCK_POINTS)
    line, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    channel = line % channels
    point = block * BLOCK_POINTS + tl.arange(0, BLOCK_POINTS)
    inside, at = point < points, line * points + point
    value, slope = tl.load(z + at, mask=inside, other=0.0), tl.load(scale + channel)
    result = slope * value + tl.load(shift + channel)
    if gradient is None:
        tl.store(out + at, tl.maximum(result, 0.0), mask=inside)
    else:
        passed = tl.load(gradient + at, mask=inside, other=0.0)
        passed = tl.where(result > 0, passed, 0.0)
        tl.store(out + at, slope * passed, mask=inside)
        sums = partial + (line // channels * blocks + block) * 2 * channels + channel
        tl.store(sums, tl.sum(passed * value, axis=0))
        tl.store(sums + channels, tl.sum(passed, axis=0))


class Lines(NamedTuple):
    """A spectrum synthesised but for its last axis: a line of out's takes `at.plane` numbers."""

    numbers: Tensor | None
    at: Layout
    table: Table | None

    def arguments(self) -> tuple:
        strides = self.table.strides if self.table else (0, 0)
        return self.table.columns if self.table else 0, self.at.plane, self.at.part, *strides


NO_LINES = Lines(None, Layout(0, 0, 1, 0), None)


def product(
    x: Tensor,  # [batch, groups·inputs, …]
    weight: Tensor,  # [groups, outputs, inputs], any strides
    out: Tensor,  # [batch, groups·outputs, …], x's points
    epilogue: str,
    precision: str,
    lines: Lines = NO_LINES,
    bias: Tensor | None = None,
    addend: Tensor | None = None,
    factor: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor | None:
    """out = epilogue(z); for "moments" returns Σ z and Σ z² as [2, groups·outputs]."""
    groups, outputs, inputs = weight.shape
    batch, table = out.shape[0], lines.table
    points = out.numel() // (batch * groups * outputs)
    width = table.rows if table else points
    tile = tiles.product(outputs, inputs, width, table.columns if table else 1)
    spans = batch * (points // width) * tiles.blocks(width, tile["BLOCK_WIDTH"])
    moments = epilogue == "moments"
    partial = x.new_empty(spans, 2, groups * outputs, dtype=torch.float32) if moments else None
    _product[(spans * groups * tiles.blocks(outputs, tile["BLOCK_OUT"]),)](
        x, weight, lines.numbers, table.numbers if table else None, bias, scale, shift, addend,
        factor, out, partial, groups, outputs, inputs, points // width, width, *weight.stride(),
        *lines.arguments(), STEP=lines.at.column,
        SPLIT=table is not None and len(table.numbers) > 1, EPILOGUE=epilogue,
        PRECISION=precision, **tile,
    )  # fmt: skip
    return partial.sum(0) if moments else None


def affine_relu(z: Tensor, gradient: Tensor | None, scale: Tensor, shift: Tensor, out: Tensor):
    """out = max(scale·z + shift, 0), or z's gradient and, as [2, channels], scale's and shift's."""
    batch, channels = z.shape[:2]
    points = z.numel() // (batch * channels)
    tile = tiles.affine_relu(points)
    blocks = tiles.blocks(points, tile["BLOCK_POINTS"])
    partial = None if gradient is None else z.new_empty(batch * blocks, 2, channels)
    _affine_relu[(batch * channels * blocks,)](
        z, gradient, scale, shift, out, partial, channels, points, **tile
    )
    return None if gradient is None else partial.sum(0)
