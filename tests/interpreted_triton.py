"""What `test_triton.py` runs in a process where Triton's interpreter takes the kernels' place."""

import numpy as np
import pytest
import torch
from operators import Row, check, second
from rows_spectral import BY_CASE, Case, CaseDraw, bins, exact_block
from tolerances import (
    ADJOINT,
    BF16,
    F16,
    F32,
    FORWARD,
    SECOND_ORDER,
    assert_near,
    relative_error,
    wide,
)

import fastseg
from fastseg import ops, reference
from fastseg.ops import impl
from fastseg.ops.impl import matmul
from fastseg.ops.impl.contract import Geometry

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")

TRITON = impl.SPECTRAL["triton"]
LINES = [
    Case((1,), (1,), batch=40),
    Case((2,), (2,), batch=20, norm="ortho"),
    Case((37,), (19,), groups=2, bias=False),
    Case((64,), (5,), norm="forward", out_sizes=(70,)),
]
PLANES = [
    Case((1, 1), (1, 1), batch=20),
    Case((2, 3), (2, 2), 2, 2, norm="ortho", batch=4),
    Case((5, 8), bins((5, 8)), 2, 2, groups=2),
    Case((17, 12), (5, 3), 2, 3, two_sided=False, batch=1, out_sizes=(13, 40)),
    Case((1, 9), (1, 4)),
]
VOLUMES = [
    Case((4, 5, 6), bins((4, 5, 6)), 2, 1, batch=1),
    Case((2, 3, 7), (2, 2, 3), 1, 2, bias=False, batch=2),
    Case((3, 1, 4), (3, 1, 2), 2, 2, groups=2, norm="ortho"),
]


def held(op: str, case: Case, dtype: torch.dtype) -> None:
    def draw(sizes, dtype):
        return BY_CASE[op](CaseDraw(case, dtype))

    exact = exact_block if op == "fno_block" else None
    check(op, Row(draw, [], [], ("SPECTRAL",), exact), "triton", case.sizes, dtype)


CASES = [*LINES, *PLANES, *VOLUMES]
SOME = [LINES[2], PLANES[2], PLANES[3], VOLUMES[1]]


# a convolution makes both transforms, in both directions
@pytest.mark.parametrize(
    ("op", "case"),
    [(op, case) for op in BY_CASE for case in (SOME if "truncated" in op else CASES)],
    ids=str,
)
def test_matches_float64(op, case):
    held(op, case, F32)


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
@pytest.mark.parametrize("case", SOME, ids=str)
@pytest.mark.parametrize("op", ["truncated_irfftn", "spectral_conv"])
def test_matches_float64_in_16_bits(op, case, dtype):
    held(op, case, dtype)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("planar", [True, False])
def test_one_axis_a_kernel_where_a_plane_does_not_fit(monkeypatch, dtype, planar):
    from fastseg.kernels import tiles

    monkeypatch.setattr(tiles, "ANALYSIS_ROWS", 0)
    monkeypatch.setattr(tiles, "SYNTHESIS_COLUMNS", 0)
    sizes, modes = (3, 20, 11), (3, 18, 6)
    x, spectrum = torch.randn(1, 2, *sizes).to(dtype), torch.randn(1, 2, *modes, 2)
    bias = torch.randn(2)
    adjoint = Geometry(sizes, modes, 1, (0.7, 0.3), True, adjoint=True)
    geometry = adjoint._replace(adjoint=False)
    kept = matmul.analysis(wide(x), adjoint)
    y = matmul.synthesis(wide(spectrum), geometry, torch.float64, bias)
    if planar:
        kept, spectrum = (t.movedim(-1, 2).flatten(1, 2) for t in (kept, spectrum))
    assert_near(TRITON.analysis(x, adjoint, planar), kept, FORWARD, planar)
    found = TRITON.synthesis(spectrum, geometry, dtype, bias, planar)
    assert_near(found, y, FORWARD, planar)


def test_a_long_axis_takes_several_blocks():
    for sizes, modes in (((300,), (100,)), ((3, 150), (3, 70)), ((140, 5), (136, 3))):
        x, spectrum = torch.randn(1, 1, *sizes), torch.randn(1, 1, *modes, 2)
        geometry = Geometry(sizes, modes, 1, (1.0, 1.0), True)
        kept = matmul.analysis(wide(x), geometry)
        assert_near(TRITON.analysis(x, geometry), kept, FORWARD, sizes)
        y = matmul.synthesis(wide(spectrum), geometry, torch.float64)
        assert_near(TRITON.synthesis(spectrum, geometry, F32), y, FORWARD, sizes)


@pytest.mark.parametrize("sizes", [(9,), (1, 8), (6, 7), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("planar", [True, False])
def test_kernels_are_adjoint(sizes, weighted, planar):
    modes = tuple(max(1, m - 1) for m in bins(sizes))
    x = torch.randn(1, 2, *sizes)
    geometry = Geometry(sizes, modes, 1, (0.7, 0.3), True, adjoint=weighted)
    y = TRITON.analysis(x, geometry, planar)
    spectrum = torch.randn_like(y)
    back = TRITON.synthesis(spectrum, geometry.transposed(sizes), F32, planar=planar)
    forward, backward = (wide(y) * wide(spectrum)).sum(), (wide(x) * wide(back)).sum()
    assert abs(forward - backward) <= ADJOINT[F32] * wide(y).norm() * wide(spectrum).norm()


def test_float16_does_not_overflow_where_the_result_fits():
    x = torch.full((1, 1, 64, 64), 60000.0, dtype=F16)
    weight = torch.ones(1, 1, 4, 3, dtype=torch.complex64)
    with fastseg.use_backend("triton"):
        y = ops.spectral_conv(x, weight)
    assert_near(y, x, FORWARD, "float16")


def tensor_core_dot(create):
    """The interpreter's product as tensor cores do it: TF32 operands, cut off after 10 bits, or
    three products of their rounded halves.
    """

    def cut(handle, half=0):
        bits = (handle.data.view(np.uint32) + np.uint32(half)) & np.uint32(0xFFFFE000)
        return type(handle)(bits.view(np.float32), handle.dtype)

    def rest(handle):
        return cut(type(handle)(handle.data - cut(handle, 0x1000).data, handle.dtype), 0x1000)

    def dot(builder, a, b, acc, precision, *more):
        if a.data.dtype != np.float32:
            return create(builder, a, b, acc, precision, *more)
        if "x3" not in str(precision):
            return create(builder, cut(a), cut(b), acc, precision, *more)
        large = cut(a, 0x1000), cut(b, 0x1000)
        for left, right in ((rest(a), large[1]), (large[0], rest(b)), large):
            acc = create(builder, left, right, acc, precision, *more)
        return acc

    return dot


@pytest.mark.parametrize(("setting", "least", "most"), [("highest", 0, 1e-6), ("high", 1e-5, 1e-3)])
def test_digits_kept_by_tensor_cores(monkeypatch, setting, least, most):
    from triton.runtime.interpreter import InterpreterBuilder

    create = tensor_core_dot(InterpreterBuilder.create_dot)
    monkeypatch.setattr(InterpreterBuilder, "create_dot", create)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: setting)
    sizes, modes = (48, 150), (20, 15)
    x, spectrum = torch.randn(1, 1, *sizes), torch.randn(1, 1, *modes, 2)
    geometry = Geometry(sizes, modes, 1, (1.0, 1.0), True)
    kept = matmul.analysis(wide(x), geometry)
    y = matmul.synthesis(wide(spectrum), geometry, torch.float64)
    for found, exact in (
        (TRITON.analysis(x, geometry), kept),
        (TRITON.synthesis(spectrum, geometry, F32), y),
    ):
        error = relative_error(found, exact)
        assert least <= error <= most, error


@pytest.mark.parametrize("op", ["spectral_conv", "fno_block"])
def test_second_derivatives(op):
    draw = CaseDraw(Case((5, 8), (4, 3), 2, 2, groups=2), F32)
    tensors, options = BY_CASE[op](draw)
    with fastseg.use_backend("triton"):
        found = second(getattr(ops, op), tensors, options, torch.ones_like)
    doubles = {name: wide(t) for name, t in tensors.items()}
    function = exact_block if op == "fno_block" else reference.spectral_conv
    for a, b in zip(found, second(function, doubles, options, torch.ones_like), strict=True):
        assert_near(a, b, SECOND_ORDER, op)


def test_empty_batches_and_no_channels():
    weight, bias = torch.zeros(2, 3, 4, 3, 2), torch.arange(3.0)
    with fastseg.use_backend("triton"):
        assert ops.spectral_conv(torch.zeros(0, 2, 6, 5), weight).shape == (0, 3, 6, 5)
        y = ops.spectral_conv(torch.zeros(2, 0, 6, 5), weight[:0], bias)
    assert torch.equal(y, bias.view(3, 1, 1).expand(2, 3, 6, 5))


def test_repeats_bitwise():
    x = torch.randn(2, 2, 20, 13)
    geometry = Geometry((20, 13), (9, 7), 1, (1.0, 1.0), True)
    first, *others = (TRITON.analysis(x, geometry) for _ in range(3))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("op", ["analysis", "synthesis", "spectral_conv"])
def test_opcheck(op):
    x, weight = torch.randn(1, 2, 5, 6, requires_grad=True), torch.randn(2, 2, 3, 3, 2)
    spectrum = torch.randn(1, 2, 3, 3, 2, requires_grad=True)
    geometry = Geometry((5, 6), (3, 3), 1, (0.5, 0.1), True).flat()
    arguments = {
        "analysis": (x, *geometry, "triton"),
        "synthesis": (spectrum, *geometry, F32, "triton"),
        "spectral_conv": (x, weight.requires_grad_(), None, *geometry, "triton"),
    }
    torch.library.opcheck(getattr(torch.ops.fastseg, op).default, arguments[op])
