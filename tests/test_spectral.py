"""What the spectral operators are by definition, and what only they have: options, shared weights,
saved tensors, compiled graphs. Every op × backend × dtype × shape is in `test_operators.py`.
"""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from operators import LIVE, ROWS, check, device_of, run, saved_by, serves
from rows_spectral import BY_CASE, NORMS, Case, CaseDraw, bins, block, conv, drawn
from tolerances import (
    ADJOINT,
    BACKWARD,
    BF16,
    F16,
    F32,
    F64,
    FORWARD,
    assert_near,
    relative_error,
    wide,
)

import fastseg
from fastseg import ops, reference
from fastseg.bench.accuracy import TOLERANCES
from fastseg.ops import impl
from fastseg.ops.impl import native_cuda
from fastseg.ops.impl.contract import Geometry

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")

LIVE = [name for name in LIVE if device_of(name) == "cpu"]  # the tensors here are on the CPU
KERNELS = [name for name in LIVE if name in impl.SPECTRAL]
DOUBLE = [name for name in LIVE if name not in ("cuda", "triton")]


def check_case(op, backend: str, case: Case, dtype: torch.dtype, known: dict | None = None) -> None:
    row = ROWS[op]._replace(draw=lambda _, dtype: BY_CASE[op](CaseDraw(case, dtype)))
    check(op, row, backend, case, dtype, known)


def test_the_bench_holds_kernels_to_the_same_table():
    for dtype in FORWARD:
        row = TOLERANCES[str(dtype).removeprefix("torch.")]
        assert row == (FORWARD[dtype], BACKWARD[dtype])


# every pair in float32; in the other dtypes each value once
PAIRS = [*itertools.product(NORMS, (True, False))]
SOME = [("backward", True), ("ortho", False), ("forward", True)]
OPTIONS = pytest.mark.parametrize(
    ("op", "dtype", "norm", "two_sided", "backend"),
    [
        (op, dtype, *pair, backend)
        for op, dtype in itertools.product(BY_CASE, (F32, F64, F16, BF16))
        for pair, backend in itertools.product(PAIRS if dtype == F32 else SOME, LIVE)
        if serves(ROWS[op], backend, dtype)
    ],
    ids=str,
)


@functools.lru_cache(maxsize=1)
def known_of(*call) -> dict:
    """What the backends share of one call, until the next one comes."""
    return {}


@OPTIONS
def test_matches_float64_for_every_option(op, dtype, norm, two_sided, backend):
    known = known_of(op, dtype, norm, two_sided)
    for sizes, groups in itertools.product(((9,), (5, 8), (4, 5, 6)), (1, 2)):
        for resized, modes in itertools.product((False, True), (bins(sizes), (3,) * len(sizes))):
            bias = resized == (groups == 1)
            larger = tuple(n + 3 for n in sizes) if resized else None
            case = Case(sizes, modes, 4, 4, groups, norm, two_sided, bias, larger, 8)
            check_case(op, backend, case, dtype, known)


@pytest.fixture(scope="module")
def of_drawn_shapes() -> dict:
    """What the backends share of the calls on drawn shapes."""
    return {}


@pytest.mark.parametrize("backend", [*LIVE, "auto"])
def test_matches_float64_on_drawn_shapes(backend, of_drawn_shapes):
    rng = np.random.default_rng(5)
    for seed in range(200):
        sizes = tuple(int(n) for n in rng.integers(1, (200, 40, 16)[seed % 3], seed % 3 + 1))
        case, dtype = drawn(sizes, seed), (F32, BF16, F16)[seed % 3]
        check_case("spectral_conv", backend, case, dtype, of_drawn_shapes)


@pytest.mark.parametrize("backend", [*LIVE, "auto"])
@pytest.mark.parametrize("modes", [(24, 12), (421, 211)], ids=str)
def test_matches_float64_on_a_large_prime_grid(backend, modes):
    check_case("spectral_conv", backend, Case((421, 421), modes, 1, 8, batch=1), F32)


SHARING = [((1, 1), 1, 1, 4), ((1, 1), 4, 4, 2), ((1, 1), 1, 1, 1), ((4, 3), 4, 4, 2),
           ((1, 3), 2, 2, 2)]  # fmt: skip


SERVED = [(backend, dtype) for backend in LIVE for dtype in (F32, BF16, F64)
          if serves(ROWS["spectral_conv"], backend, dtype)]  # fmt: skip


@pytest.mark.parametrize(("backend", "dtype"), SERVED, ids=str)
@pytest.mark.parametrize(("weight_modes", "groups", "outputs", "batch"), SHARING)
def test_weight_shared_by_modes_and_separable(backend, dtype, weight_modes, groups, outputs, batch):
    channels = 1 if batch == 1 else 4
    draw = CaseDraw(Case((7, 8), (4, 3), channels, outputs, groups, batch=batch), dtype)
    weight = draw.complex(channels // groups, outputs, *weight_modes)
    tensors = {"x": draw.x(), "weight": weight, "bias": draw.bias()}
    options = {"groups": groups, "modes": (4, 3), "sizes": (9, 6)}
    with fastseg.use_backend(backend):
        (y,), grads = run(ops.spectral_conv, tensors, options, torch.ones_like)
    doubles = {name: wide(t) for name, t in tensors.items()}
    (exact,), exact_grads = run(reference.spectral_conv, doubles, options, torch.ones_like)
    assert_near(y, exact, FORWARD, weight.shape)
    for name, actual, want in zip(tensors, grads, exact_grads, strict=True):
        assert actual.dtype == tensors[name].dtype
        assert_near(actual, want, BACKWARD, name)


@pytest.mark.parametrize("backend", KERNELS)
def test_a_shared_weight_is_never_expanded(backend):
    draw = CaseDraw(Case((24, 24), (12, 7), 16, 16, batch=1), F32)
    x, weight = draw.x().requires_grad_(), draw.complex(16, 16, 1, 1).requires_grad_()
    with fastseg.use_backend(backend):
        (y,), saved = saved_by(lambda: ops.spectral_conv(x, weight, modes=(12, 7)))
    assert max(t.numel() for t in saved) <= 16 * 12 * 7 * 2 < weight.numel() * 12 * 7
    y.sum().backward()
    assert weight.grad.shape == weight.shape


@pytest.mark.parametrize("backend", LIVE)
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_real_weights_with_a_trailing_two(backend, dtype):
    draw = CaseDraw(Case((7, 8), (4, 3)), dtype)
    tensors = {"x": draw.x(), "weight": draw.real(4, 2, 4, 3, 2), "bias": draw.real(2)}
    with fastseg.use_backend(backend):
        (y,), grads = run(ops.spectral_conv, tensors, {}, torch.ones_like)
    doubles = {name: wide(t) for name, t in tensors.items()}
    (exact,), exact_grads = run(reference.spectral_conv, doubles, {}, torch.ones_like)
    assert_near(y, exact, FORWARD, "real weight")
    for name, actual, want in zip(tensors, grads, exact_grads, strict=True):
        assert actual.dtype == dtype
        assert_near(actual, want, BACKWARD, name)


# what the transforms are by definition


# a tile of channels, part of one, and more; sizes that end within one; rows of whole packs, or not
BLOCKS = [
    Case((59, 28), (9, 7), 19, 15, batch=1),
    Case((62, 44), (62, 23), 6, 10, two_sided=False, bias=False, batch=1),
    Case((3, 61, 32), (3, 5, 5), 10, 32, groups=2, batch=1),
    Case((30, 32), (4, 5), 7, 33, batch=1),
    Case((18, 21), (5, 4), 5, 18, batch=1),
]


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("case", BLOCKS, ids=lambda case: str(case.sizes))
def test_blocks_fill_tiles_or_not(backend, dtype, case):
    check_case("fno_block", backend, case, dtype)


@pytest.mark.parametrize("backend", KERNELS)
def test_a_block_reads_x_wherever_it_starts(backend):
    tensors, options = block(CaseDraw(Case((30, 32), (3, 2)), F32))
    shifted = torch.empty(tensors["x"].numel() + 1)[1:].view_as(tensors["x"]).copy_(tensors["x"])
    with fastseg.use_backend(backend):
        plain, moved = (
            ops.fno_block(**tensors | {"x": x}, **options) for x in (tensors["x"], shifted)
        )
    assert torch.equal(plain, moved)


@pytest.mark.parametrize("backend", LIVE)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("sizes", [(10,), (7, 12), (5, 6, 9)], ids=str)
@pytest.mark.parametrize("two_sided", [True, False])
def test_backward_is_the_adjoint(backend, dtype, sizes, two_sided):
    if impl.unable(backend, "cpu", dtype):
        pytest.skip(f"{backend} does not serve {dtype}")
    draw = CaseDraw(Case(sizes, (3,) * len(sizes), two_sided=two_sided), dtype)
    for op, row in ((op, BY_CASE[op](draw)) for op in ("truncated_rfftn", "truncated_irfftn")):
        ((_, x),) = row[0].items()
        with fastseg.use_backend(backend):
            leaf = x.requires_grad_()
            y = getattr(ops, op)(leaf, **row[1])
            grad = draw.like(y)
            (adjoint,) = torch.autograd.grad(y, leaf, grad)
        forward = (wide(y) * wide(grad).conj()).sum().real
        backward = (wide(x) * wide(adjoint).conj()).sum().real
        scale = wide(y).norm() * wide(grad).norm()
        assert abs(forward - backward) <= ADJOINT[dtype] * scale, op


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("sizes", [(9,), (1, 8), (6, 7), (4, 5, 6), (5, 1, 2)], ids=str)
def test_analysis_and_synthesis_kernels_are_adjoint(backend, weighted, sizes):
    modes = tuple(max(1, m - 1) for m in bins(sizes))
    draw = CaseDraw(Case(sizes, modes, channels=3), F64)
    kernels, x, spectrum = impl.SPECTRAL[backend], draw.x(), draw.real(2, 3, *modes, 2)
    geometry = Geometry(sizes, modes, 1, (0.7, 0.3), True, adjoint=weighted)
    y = kernels.analysis(x, geometry)
    back = kernels.synthesis(spectrum, geometry.transposed(sizes), F64)
    scale = y.norm() * spectrum.norm()
    assert abs((y * spectrum).sum() - (x * back).sum()) <= ADJOINT[F64] * scale


@pytest.mark.parametrize("backend", DOUBLE)
@pytest.mark.parametrize("sizes", [(5,), (4,), (4, 3), (3, 4), (3, 2, 4)], ids=str)
@pytest.mark.parametrize("op", ["truncated_rfftn", "truncated_irfftn", "spectral_conv"])
def test_gradcheck(op, backend, sizes):
    for groups, two_sided, resized in ((1, True, True), (2, False, False)):
        modes = tuple(min(2, m) for m in bins(sizes))
        larger = tuple(n + 1 for n in sizes) if resized else None
        draw = CaseDraw(Case(sizes, modes, 2, 2, groups, "ortho", two_sided, True, larger, 1), F64)
        tensors, options = BY_CASE[op](draw)
        leaves = [t.requires_grad_() for t in tensors.values()]

        def function(*values, names=tuple(tensors), options=options):
            return getattr(ops, op)(**dict(zip(names, values, strict=True)), **options)

        with fastseg.use_backend(backend):
            assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("backend", LIVE)
@pytest.mark.parametrize("sizes", [(9,), (6, 7), (4, 5, 6)], ids=str)
class TestTransform:
    """All modes, so that the transform is invertible."""

    def rfftn(self, x, backend):
        with fastseg.use_backend(backend):
            return ops.truncated_rfftn(x, bins(x.shape[2:]))

    def test_impulse_is_a_wave(self, backend, sizes):
        at = tuple(n // 2 for n in sizes)
        x = torch.zeros(1, 1, *sizes)
        x[(0, 0, *at)] = 1
        axes = [torch.fft.fftfreq(n, dtype=F64) for n in sizes]
        axes[-1] = axes[-1][: sizes[-1] // 2 + 1].abs()
        turns = sum(k * n for k, n in zip(torch.meshgrid(*axes, indexing="ij"), at, strict=True))
        exact = torch.polar(torch.ones_like(turns), -2 * torch.pi * turns)
        assert_near(self.rfftn(x, backend)[0, 0], exact, FORWARD, sizes)

    def test_is_linear(self, backend, sizes):
        draw = CaseDraw(Case(sizes, bins(sizes)), F32)
        a, b = draw.x(), draw.x()
        together = self.rfftn(2 * a - 3 * b, backend)
        apart = 2 * self.rfftn(a, backend) - 3 * self.rfftn(b, backend)
        assert_near(together, wide(apart), BACKWARD, sizes)

    def test_shift_is_a_phase(self, backend, sizes):
        x = CaseDraw(Case(sizes, bins(sizes)), F32).x()
        shifted = self.rfftn(x.roll(2, dims=2), backend)
        k = torch.arange(shifted.shape[2], dtype=F64).view(-1, *[1] * (len(sizes) - 1))
        phase = torch.polar(torch.ones_like(k), -2 * torch.pi * k * 2 / sizes[0])
        assert_near(shifted, wide(self.rfftn(x, backend)) * phase, BACKWARD, sizes)

    def test_keeps_the_energy(self, backend, sizes):
        x = CaseDraw(Case(sizes, bins(sizes)), F32).x()
        energy = wide(self.rfftn(x, backend)).abs().square()
        last = sizes[-1]
        counts = torch.tensor([1 if k in (0, last / 2) else 2 for k in range(last // 2 + 1)])
        assert_near((energy * counts).sum() / math.prod(sizes), wide(x).square().sum(),
                    {F64: 2 * FORWARD[F32]}, sizes)  # fmt: skip

    def test_inverts(self, backend, sizes):
        x = CaseDraw(Case(sizes, bins(sizes)), F32).x()
        for norm in NORMS:
            with fastseg.use_backend(backend):
                spectrum = ops.truncated_rfftn(x, bins(sizes), norm)
                assert_near(ops.truncated_irfftn(spectrum, sizes, norm), x, FORWARD, norm)


def wave(height, width, ky, kx):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.cos(2 * torch.pi * (ky * rows / height + kx * columns / width).double()).float()


@pytest.mark.parametrize("backend", LIVE)
def test_a_wave_of_negative_frequency_survives_two_sided_only(backend):
    x, weight = wave(32, 40, -3, 5)[None, None], torch.ones(1, 1, 8, 6, dtype=torch.complex64)
    with fastseg.use_backend(backend):
        assert_near(ops.spectral_conv(x, weight), x, FORWARD, "two-sided")
        lost = ops.spectral_conv(x, weight, two_sided=False)
        constant_kx = wave(32, 40, 3, 0)[None, None]
        halved = ops.spectral_conv(constant_kx, weight, two_sided=False)
    assert lost.abs().max() < 1e-6
    assert_near(halved, constant_kx / 2, FORWARD, "one-sided, kx = 0")


@pytest.mark.parametrize("backend", LIVE)
@pytest.mark.parametrize("sizes", [(6,), (7,), (4, 6), (5, 7), (3, 4, 6), (4, 1, 2)], ids=str)
def test_imaginary_parts_of_self_conjugate_columns_do_not_matter(backend, sizes):
    outer = tuple(range(2, len(sizes) + 1))
    spectrum = CaseDraw(Case(sizes, bins(sizes)), F32).complex(1, 2, *bins(sizes))
    rows = torch.fft.ifftn(spectrum, dim=outer) if outer else spectrum.clone()
    for column in {0, sizes[-1] // 2} if sizes[-1] % 2 == 0 else {0}:
        rows[..., column] += 5j
    other = torch.fft.fftn(rows, dim=outer) if outer else rows
    leaf = spectrum.clone().requires_grad_()
    with fastseg.use_backend(backend):
        y, moved = ops.truncated_irfftn(leaf, sizes), ops.truncated_irfftn(other, sizes)
        (grad,) = torch.autograd.grad(y.square().sum(), leaf)
    assert_near(y, reference.truncated_irfftn(wide(spectrum), sizes), FORWARD, sizes)
    assert_near(moved, wide(y), {F32: 5 * BACKWARD[F32]}, sizes)
    along = (wide(grad) * (wide(other) - wide(spectrum)).conj()).sum().real
    assert abs(along) <= 1e-5 * wide(grad).norm() * (wide(other) - wide(spectrum)).norm()


# layouts, empty tensors, what is saved


LAYOUTS = {
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "strided": lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2],
    "offset": lambda x: torch.cat([x, x], 1)[:, x.shape[1] :],
    "batch_first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "unaligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
}


@pytest.mark.parametrize("backend", LIVE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_does_not_matter(backend, layout):
    draw = CaseDraw(Case((6, 9), (4, 3)), F32)
    x, weight = draw.x(), draw.weight()
    grad = draw.real(2, 2, 6, 9)
    change = LAYOUTS[layout]
    with fastseg.use_backend(backend):
        (y,), grads = run(ops.spectral_conv, {"x": x, "weight": weight}, {}, lambda _: grad)
        tensors = {"x": change(x), "weight": change(weight)}
        assert torch.equal(tensors["x"], x)
        (moved,), moved_grads = run(ops.spectral_conv, tensors, {}, lambda _: change(grad))
        spectrum = ops.truncated_rfftn(tensors["x"], (4, 3))
        back = ops.truncated_irfftn(change(spectrum), (6, 9))
    assert_near(moved, wide(y), FORWARD, layout)
    for a, b in zip(moved_grads, grads, strict=True):
        assert_near(a, wide(b), BACKWARD, layout)
    doubles = wide(x), wide(weight)
    assert_near(moved, reference.spectral_conv(*doubles), FORWARD, layout)
    exact = reference.truncated_rfftn(doubles[0], (4, 3))
    assert_near(back, reference.truncated_irfftn(exact, (6, 9)), BACKWARD, layout)


@pytest.mark.parametrize("backend", LIVE)
def test_lazily_conjugated_arguments(backend):
    draw = CaseDraw(Case((6, 9), (4, 3)), F32)
    spectrum, x, weight = draw.complex(2, 4, 4, 3), draw.x(), draw.weight()
    with fastseg.use_backend(backend):
        y = ops.truncated_irfftn(spectrum.conj(), (6, 9))
        convolved = ops.spectral_conv(x, weight.conj())
    exact = reference.truncated_irfftn(wide(spectrum.conj().resolve_conj()), (6, 9))
    assert_near(y, exact, FORWARD, "spectrum")
    exact = reference.spectral_conv(wide(x), wide(weight.conj().resolve_conj()))
    assert_near(convolved, exact, FORWARD, "weight")


@pytest.mark.parametrize("backend", LIVE)
def test_expanded_input_and_gradient(backend):
    draw = CaseDraw(Case((6, 9), (4, 3), channels=1), F32)
    x, weight = draw.x()[:1], draw.weight()
    with fastseg.use_backend(backend):
        tensors = {"x": x.expand(3, 1, 6, 9), "weight": weight}
        (y,), grads = run(ops.spectral_conv, tensors, {}, lambda y: y.new_ones(1).expand(y.shape))
        (through_sum,) = torch.autograd.grad(
            ops.spectral_conv(x, weight.requires_grad_()).sum(), weight
        )
    (exact,), (_, exact_weight) = run(
        reference.spectral_conv, {n: wide(t) for n, t in tensors.items()}, {}, torch.ones_like
    )
    assert_near(y, exact, FORWARD, "expanded")
    assert_near(grads[1], exact_weight, BACKWARD, "expanded")
    assert_near(through_sum, exact_weight / 3, BACKWARD, "gradient of a sum")


@pytest.mark.parametrize("backend", LIVE)
def test_no_input_channels_leave_the_bias(backend):
    x, weight = torch.zeros(2, 0, 6, 5), torch.zeros(0, 3, 4, 3, dtype=torch.complex64)
    bias = torch.arange(3.0)
    with fastseg.use_backend(backend):
        y = ops.spectral_conv(x, weight, bias)
        assert ops.truncated_rfftn(x, (4, 3)).shape == (2, 0, 4, 3)
    assert_near(y, bias.view(3, 1, 1).expand(2, 3, 6, 5), FORWARD, "no channels")


@pytest.mark.parametrize("backend", LIVE)
@pytest.mark.parametrize("wanted", [{"x"}, {"weight"}, {"bias"}, {"x", "bias"}, {"weight", "bias"}])
def test_gradients_of_some_arguments(backend, wanted):
    tensors, options = conv(CaseDraw(Case((6, 9), (4, 3)), F32))

    def grads(function, tensors):
        leaves = {n: t.detach().clone().requires_grad_(n in wanted) for n, t in tensors.items()}
        function(**leaves, **options).square().sum().backward()
        assert all((leaf.grad is not None) == (name in wanted) for name, leaf in leaves.items())
        return {name: leaves[name].grad for name in wanted}

    with fastseg.use_backend(backend):
        some = grads(ops.spectral_conv, tensors)
    exact = grads(reference.spectral_conv, {name: wide(t) for name, t in tensors.items()})
    for name, grad in some.items():
        assert_near(grad, exact[name], BACKWARD, name)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("bias", [True, False])
def test_only_the_weight_and_the_kept_spectrum_are_saved(backend, bias):
    draw = CaseDraw(Case((240, 240), (20, 10), 2, 2, bias=bias, batch=1), F32)
    tensors, options = conv(draw)
    leaves = {name: t.requires_grad_() for name, t in tensors.items()}
    with fastseg.use_backend(backend):
        (y,), saved = saved_by(lambda: ops.spectral_conv(**leaves, **options))
        _, of_rfftn = saved_by(lambda: ops.truncated_rfftn(leaves["x"], (20, 10)))
    spectrum, weight = 2 * 20 * 10 * 2, leaves["weight"].numel() * 2
    assert sorted(t.numel() for t in saved) == sorted([spectrum, weight])
    assert spectrum <= 0.02 * leaves["x"].numel()
    assert not of_rfftn
    y.sum().backward()


@pytest.mark.parametrize("backend", LIVE)
def test_float16_does_not_overflow_where_the_result_fits(backend):
    x = torch.full((1, 1, 64, 64), 60000.0, dtype=F16)
    weight = torch.ones(1, 1, 4, 3, dtype=torch.complex64)
    with fastseg.use_backend(backend):
        y = ops.spectral_conv(x, weight)
    assert_near(y, x, FORWARD, "float16")


# errors


def _x(*shape, device="cpu"):
    return torch.zeros(*(shape or (1, 4, 6, 8)), device=device)


def _w(*shape, device="cpu"):
    return torch.zeros(*(shape or (4, 2, 4, 3)), dtype=torch.complex64, device=device)


RFFTN, IRFFTN, CONV, BLOCK = (getattr(ops, name) for name in BY_CASE)
FILTER = ops.spectral_filter
ERRORS = [
    (RFFTN, (_x(1, 4, 6), (4, 3)), {}, ValueError, "x: got shape"),
    (RFFTN, (_x().long(), (4, 3)), {}, TypeError, "x: got dtype torch.int64"),
    (RFFTN, (_w(), (4, 3)), {}, TypeError, "x: got dtype torch.complex64"),
    (RFFTN, (_x(), (7, 3)), {}, ValueError, "modes: got 7 on axis 0"),
    (RFFTN, (_x(), (4, 6)), {}, ValueError, "modes: got 6 on axis 1"),
    (RFFTN, (_x(), _x(2, 3)), {}, TypeError, "modes: got"),
    (RFFTN, (_x(), (4, 3)), {"two_sided": _x()}, TypeError, "two_sided: got a tensor"),
    (RFFTN, (_x(), (0, 3)), {}, ValueError, "modes: got 0 on axis 0"),
    (RFFTN, (_x(1, 1, 2, 2, 2, 2), (1,) * 4), {}, ValueError, "modes: got 4 axes"),
    (RFFTN, (_x(), (4, 3)), {"norm": "sqrt"}, ValueError, "norm: got 'sqrt'"),
    (IRFFTN, (_x(), (6, 8)), {}, TypeError, "spectrum: got dtype torch.float32"),
    (IRFFTN, (_w(4, 3), (8,)), {}, ValueError, "spectrum: got shape"),
    (IRFFTN, (_w(), (6,)), {}, ValueError, "sizes: got"),
    (IRFFTN, (_w(), (0, 8)), {}, ValueError, "sizes: got"),
    (IRFFTN, (_w(), (6, 3)), {}, ValueError, "modes: got 3 on axis 1"),
    (IRFFTN, (_w(), (6, 8)), {"dtype": torch.int32}, TypeError, "dtype: got torch.int32"),
    (IRFFTN, (_w(), (6, 8)), {"norm": ""}, ValueError, "norm: got ''"),
    (CONV, (_x().int(), _w()), {}, TypeError, "x: got dtype torch.int32"),
    (CONV, (_w(1, 4, 6, 8), _w()), {}, TypeError, "x: got dtype torch.complex64"),
    (CONV, (_x(1, 4, 6), _w()), {}, ValueError, "x: got shape"),
    (CONV, (_x(), _x(4, 2, 4, 3, 2).int()), {}, TypeError, "weight: got torch.int32"),
    (CONV, (_x(), _x(4, 2, 4, 3)), {}, TypeError, "weight: got torch.float32"),
    (CONV, (_x(), _w(3, 2, 4, 3)), {}, ValueError, "weight: got 3 input channels"),
    (CONV, (_x(), _w(4, 2, 4)), {"modes": (4, 3)}, ValueError, "weight: got 1 mode axes"),
    (CONV, (_x(), _w()), {"modes": (3, 3)}, ValueError, "weight: got mode axes"),
    (CONV, (_x(), _w(4, 2, 7, 3)), {}, ValueError, "modes: got 7 on axis 0"),
    (CONV, (_x(), _w()), {"sizes": (3, 8)}, ValueError, "modes: got 4 on axis 0.*output's size 3"),
    (CONV, (_x(), _w()), {"sizes": (6,)}, ValueError, "sizes: got"),
    (CONV, (_x(), _w()), {"groups": 3}, ValueError, "groups: got 3"),
    (CONV, (_x(), _w(1, 2, 4, 3)), {"groups": 4}, ValueError, "groups: got 4"),
    (CONV, (_x(), _w()), {"groups": 0}, ValueError, "groups: got 0"),
    (CONV, (_x(), _w(), _x(4)), {}, ValueError, "bias: got shape"),
    (CONV, (_x(), _w(), _w(2)), {}, TypeError, "bias: got"),
    (CONV, (_x(), _w(), 1.0), {}, TypeError, "bias: got float"),
    (CONV, (_x(), _w()), {"groups": torch.ones(2)}, TypeError, "groups: got a tensor"),
    (CONV, (_x(), _w()), {"norm": None}, ValueError, "norm: got None"),
    (CONV, (_x(), _w(device="meta")), {}, ValueError, "weight: is on meta"),
    (CONV, (_x(), _w(), _x(2, device="meta")), {}, ValueError, "bias: is on meta"),
    (BLOCK, (_x(), _w(), _x(2, 4)), {"sizes": (5, 8)}, ValueError, "sizes: got"),
    (BLOCK, (_x(), _w(), _x(2)), {}, ValueError, "skip_weight: got shape"),
    (BLOCK, (_x(), _w(), 1.0), {}, TypeError, "skip_weight: got float"),
    (BLOCK, (_x(), _w(), _x(2, 4), True), {}, TypeError, "bias: got bool"),
    (BLOCK, (_x(), _w(), _x(2, 3)), {}, ValueError, "skip_weight: got shape"),
    (BLOCK, (_x(), _w(), _x(3, 4)), {}, ValueError, "skip_weight: got shape"),
    (BLOCK, (_x(), _w(), _x(2, 4, device="meta")), {}, ValueError, "skip_weight: is on meta"),
    (FILTER, (_x(4, 6), _x(6)), {}, ValueError, "modes: got 0 axes"),
    (FILTER, (_x().int(), _x(6, 5)), {}, TypeError, "x: got dtype torch.int32"),
    (FILTER, (_x(), 2.0), {}, TypeError, "gain: got float"),
    (FILTER, (_x(), _x(6, 5).int()), {}, TypeError, "gain: got dtype torch.int32"),
    (FILTER, (_x(), _x(6, 8)), {}, ValueError, "gain: got shape"),
    (FILTER, (_x(), _x(6, 5, 2)), {}, ValueError, "gain: got shape"),
    (FILTER, (_x(), _x(1, 1, 4, 6, 5)), {}, ValueError, "gain: got shape"),
    (FILTER, (_x(), _x(6, 5, device="meta")), {}, ValueError, "gain: is on meta"),
]


@pytest.mark.parametrize("backend", LIVE)
@pytest.mark.parametrize(
    ("op", "args", "options", "kind", "message"),
    ERRORS,
    ids=[f"{op.__name__}-{message}" for op, *_, message in ERRORS],
)
def test_wrong_arguments_are_named(backend, op, args, options, kind, message):
    with fastseg.use_backend(backend), pytest.raises(kind, match=message):
        op(*args, **options)


# torch.library and torch.compile


def compiled(function, **options):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, **options)


# every backend's ops are compiled in test_operators.py
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_compiles_with_the_default_compiler(backend):
    tensors, options = block(CaseDraw(Case((6, 9), (4, 3)), F32))
    with fastseg.use_backend(backend):
        eager = run(ops.fno_block, tensors, options, torch.ones_like)
        traced = run(compiled(ops.fno_block), tensors, options, torch.ones_like)
    for a, b in zip((*traced[0], *traced[1]), (*eager[0], *eager[1]), strict=True):
        assert_near(a, wide(b), BACKWARD, backend)


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_compiles_for_changing_sizes(backend):
    draw = CaseDraw(Case((6, 9), (4, 3)), F32)
    weight = draw.weight().requires_grad_()
    function = compiled(ops.spectral_conv, backend="aot_eager")
    with fastseg.use_backend(backend):
        for shape in ((2, 4, 6, 9), (3, 4, 7, 8), (5, 4, 11, 13)):
            x = draw.real(*shape)
            actual = run(function, {"x": x, "weight": weight}, {}, torch.ones_like)
            doubles = {"x": wide(x), "weight": wide(weight)}
            exact = run(reference.spectral_conv, doubles, {}, torch.ones_like)
            assert_near(actual[0][0], exact[0][0], FORWARD, shape)
            for a, b in zip(actual[1], exact[1], strict=True):
                assert_near(a, b, BACKWARD, shape)


@pytest.mark.parametrize("backend", [*LIVE, "auto"])
def test_one_graph_serves_every_batch_size(backend):
    draw = CaseDraw(Case((6, 9), (4, 3)), F32)
    weight, graphs = draw.weight(), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    function = compiled(ops.spectral_conv, backend=count)
    with fastseg.use_backend(backend):
        for batch in (2, 3, 5, 8):
            x = draw.real(batch, 4, 6, 9)
            torch._dynamo.mark_dynamic(x, 0)
            assert_near(function(x, weight), reference.spectral_conv(wide(x), wide(weight)),
                        FORWARD, batch)  # fmt: skip
    assert len(graphs) == 1


def test_a_compiled_function_follows_the_backend():
    tensors, options = conv(CaseDraw(Case((6, 9), (4, 3)), F32))
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    function = compiled(ops.spectral_conv, backend=keep)
    for backend in LIVE:
        with fastseg.use_backend(backend):
            function(**tensors, **options)
    assert len(graphs) == len(LIVE)


@pytest.mark.skipif("cuda" not in LIVE, reason="tensor cores, or their host bodies")
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_no_rounding_to_tf32_hides_a_nan(dtype):
    """The NaN that a GPU's arithmetic gives has every bit set but the sign: half a unit more would
    be minus zero.
    """
    x, weight = torch.ones(1, 1, 40, 48, dtype=dtype), torch.ones(1, 1, 20, 12, 2)
    weight.view(torch.int32)[0, 0, 3, 5, 0] = 0x7FFFFFFF
    torch.set_float32_matmul_precision("high")
    try:
        with fastseg.use_backend("cuda"):
            y = ops.spectral_conv(x, weight)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert y.isnan().all()


@pytest.mark.skipif("cuda" not in LIVE, reason="tensor cores, or their host bodies")
@pytest.mark.parametrize("sizes", [(40, 48), (33, 50), (18, 33, 35)])
def test_products_are_rounded_to_tf32_only_where_torch_allows_it(sizes):
    modes = tuple(count // 2 for count in bins(sizes))
    x = CaseDraw(Case(sizes, modes), F32).x()
    exact = reference.truncated_rfftn(x.double(), modes=modes)
    errors = {}
    for allowed in ("highest", "high"):
        torch.set_float32_matmul_precision(allowed)
        try:
            with fastseg.use_backend("cuda"):
                spectrum = ops.truncated_rfftn(x, modes=modes)
        finally:
            torch.set_float32_matmul_precision("highest")
        errors[allowed] = relative_error(spectrum, exact)
    assert errors["highest"] < FORWARD[F32]
    low = 1e-5 if native_cuda.TENSOR_CORES else 0
    assert low < errors["high"] < 1e-3
