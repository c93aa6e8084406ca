"""Tile sizes of the kernels: data, by shape alone, never measured at run time.

Blocks are powers of two from 16, what tensor cores take, to 128; a tile's shared memory stays under
the 99 KB of the smallest device served (`bench/triton_resources.py` prints it).
"""

import triton

SMALLEST, LARGEST = 16, 128
# kept part of a plane that fits on chip: rows of an analysis, columns of a synthesis
ANALYSIS_ROWS, SYNTHESIS_COLUMNS = 128, 64


def blocks(extent: int, block: int) -> int:
    return -(-extent // block)


def block(extent: int, largest: int = LARGEST) -> int:
    return min(max(triton.next_power_of_2(extent), SMALLEST), largest)


def padded(extent: int) -> int:
    """`extent` rounded up to whole blocks of every size that `block` may give it."""
    unit = block(extent)
    return blocks(extent, unit) * unit


def analyse_rows(columns: int, size: int) -> dict:
    return {
        "BLOCK_ROWS": 64, "BLOCK_COLUMNS": block(columns, 32), "BLOCK_SIZE": block(size, 32),
        "num_warps": 4, "num_stages": 3,
    }  # fmt: skip


def analyse_planes(rows: int, columns: int, height: int, width: int) -> dict:
    block_rows = block(rows)
    block_columns = block(columns, 32 if block_rows < 128 else 16)
    # the second product's operands wait in registers, all of BLOCK_HEIGHT
    few = block_rows * block_columns <= 512
    return {
        "BLOCK_ROWS": block_rows, "BLOCK_COLUMNS": block_columns,
        "BLOCK_HEIGHT": block(height, 32 if few else 16), "BLOCK_WIDTH": block(width, 32),
        "num_warps": 4 if block_rows < 64 else 8, "num_stages": 3,
    }  # fmt: skip


def rotate(rows: int, inner: int, columns: int) -> dict:
    return {
        "BLOCK_ROWS": block(rows, 64), "BLOCK_COLUMNS": block(columns, 32),
        "BLOCK_INNER": block(inner, 16), "num_warps": 4, "num_stages": 3,
    }  # fmt: skip


def synthesise_planes(rows: int, columns: int, height: int, width: int) -> dict:
    return {
        "BLOCK_ROWS": block(rows, 16), "BLOCK_COLUMNS": block(columns, 64),
        "BLOCK_HEIGHT": block(height, 64), "BLOCK_WIDTH": block(width, 32 if columns > 16 else 64),
        "num_warps": 4, "num_stages": 2,
    }  # fmt: skip


def synthesise_rows(columns: int, size: int) -> dict:
    return {
        "BLOCK_ROWS": 64, "BLOCK_COLUMNS": block(columns, 16), "BLOCK_SIZE": block(size, 64),
        "num_warps": 4, "num_stages": 2,
    }  # fmt: skip


def mix(p: int, q: int, modes: int) -> dict:
    return {
        "BLOCK_P": min(triton.next_power_of_2(p), 8), "BLOCK_Q": min(triton.next_power_of_2(q), 8),
        "BLOCK_MODES": min(triton.next_power_of_2(modes), 32), "num_warps": 4, "num_stages": 2,
    }  # fmt: skip


def product(outputs: int, inputs: int, width: int, columns: int) -> dict:
    return {
        "BLOCK_OUT": block(outputs, 64), "BLOCK_IN": block(inputs, 32 if outputs <= 32 else 16),
        "BLOCK_WIDTH": block(width, 64), "BLOCK_COLUMNS": block(columns, 16),
        "num_warps": 4, "num_stages": 2,
    }  # fmt: skip


def affine_relu(points: int) -> dict:
    return {"BLOCK_POINTS": block(points, 1024), "num_warps": 4, "num_stages": 1}
