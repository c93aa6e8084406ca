"""What is the Gaussian family's own: its taps, other libraries' filters, the adjoint, the choice of
backend and the complaints.
"""

import math

import numpy as np
import pytest
import torch
from operators import LIVE, check, device_of, serves
from rows_gaussian import ROWS, gaussian_filter
from tolerances import ADJOINT, BACKWARD, F32, F64, FORWARD, assert_near
from torch.nn import functional as F

import fastseg
from fastseg import ops, reference
from fastseg.ops import gaussian, separable, taps

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")

BACKENDS = [name for name in LIVE if serves(ROWS["gaussian_filter"], name, F32)]
KERNELS = [name for name in BACKENDS if name not in ("reference", "matmul")]
EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)


def randn(*shape, seed=0, dtype=F32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=F64).to(dtype)


def filtered(backend, x, *args, **kwargs):
    with fastseg.use_backend(backend):
        result = ops.gaussian_filter(x.to(device_of(backend)), *args, **kwargs)
    return result.cpu() if isinstance(result, torch.Tensor) else tuple(y.cpu() for y in result)


@EVERY_BACKEND
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_other_draws_match_float64(backend, seed):
    def draw(sizes, dtype):
        return gaussian_filter(sizes, dtype, seed)

    row = ROWS["gaussian_filter"]._replace(draw=draw)
    for sizes in row.chosen(backend, F32):
        check("gaussian_filter", row, backend, sizes, F32)


@EVERY_BACKEND
@pytest.mark.parametrize("sizes", [(37,), (24, 41), (12, 20, 18)], ids=str)
@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.0, 1.74, 1.75, 2.0, 5.0, 8.0])
def test_exact_gaussian_is_the_spectrums(backend, sizes, sigma):
    ndimage = pytest.importorskip("scipy.ndimage")
    x = randn(2, 2, *sizes)
    exact = ndimage.fourier_gaussian(np.fft.fftn(x.double().numpy(), axes=range(2, x.dim())),
                                     [0, 0, *[sigma] * len(sizes)])  # fmt: skip
    exact = torch.from_numpy(np.fft.ifftn(exact, axes=range(2, x.dim())).real)
    low, high = filtered(backend, x, sigma, "both")
    assert_near(low, exact, FORWARD, "low")
    assert_near(high, x - exact, FORWARD, "high", x.norm().item())
    assert torch.equal(filtered(backend, x, sigma, "high"), high)


@EVERY_BACKEND
def test_sampled_gaussian_is_scipys(backend):
    ndimage = pytest.importorskip("scipy.ndimage")
    x = randn(2, 1, 11, 14, 9)
    for padding, theirs in (("circular", "wrap"), ("reflect", "mirror"), ("zeros", "constant")):
        for sigma in (0.6, 1.3, 2.5):
            exact = ndimage.gaussian_filter(
                x.double().numpy(), sigma, mode=theirs, truncate=3.0, axes=(2, 3, 4)
            )
            y = filtered(backend, x, sigma, padding=padding, truncate=3.0)
            assert_near(y, torch.from_numpy(exact), FORWARD, (padding, sigma))


@EVERY_BACKEND
@pytest.mark.parametrize("sizes", [(30,), (16, 25), (9, 12, 14)], ids=str)
def test_erf_gaussian_is_monais(backend, sizes):
    GaussianFilter = pytest.importorskip("monai.networks.layers").GaussianFilter
    x = randn(2, 3, *sizes)
    for sigma in (0.5, 1.5, 3.0):
        exact = GaussianFilter(len(sizes), sigma)(x.double())
        y = filtered(backend, x, sigma, padding="zeros", truncate=4.0, taps="erf")
        # its taps are float32
        assert_near(y, exact, FORWARD, sigma)


@EVERY_BACKEND
@pytest.mark.parametrize(("size", "sigma"), [(21, 3.5), (5, 1.1), (3, 1.0)])
def test_reflecting_blur_is_torchvisions(backend, size, sigma):
    x, radius = randn(2, 3, 26, 31), size // 2
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).double() / sigma) ** 2)
    taps /= taps.sum()
    padded = F.pad(x.double(), (radius,) * 4, mode="reflect")
    exact = F.conv2d(padded.flatten(0, 1)[:, None], torch.outer(taps, taps)[None, None])
    y = filtered(backend, x, sigma, padding="reflect", radius=radius)
    assert_near(y, exact.view_as(x), FORWARD, size)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
@pytest.mark.parametrize("padding", gaussian.PADDINGS)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_backward_is_the_adjoint(backend, padding, dtype):
    if not serves(ROWS["gaussian_filter"], backend, dtype):
        pytest.skip("not this dtype")
    for sizes in [(1,), (7,), (2, 9), (13, 6), (5, 4, 17), (33, 40)]:
        x, y = randn(2, 2, *sizes, dtype=dtype), randn(2, 2, *sizes, seed=1, dtype=dtype)
        x, y = x.to(device_of(backend)).requires_grad_(), y.to(device_of(backend))
        radius = min(sizes) - 1 if padding == "reflect" else 6
        for offset in (None, 0.3):
            with fastseg.use_backend(backend):
                ax = ops.gaussian_filter(x, 1.6, padding=padding, radius=radius, offset=offset)
                (aty,) = torch.autograd.grad(ax, x, y)
            error = ((ax * y).sum() - (x * aty).sum()).abs() / (ax.norm() * y.norm())
            assert error <= ADJOINT[dtype], (sizes, offset)


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("padding", gaussian.PADDINGS)
@pytest.mark.parametrize(
    ("sizes", "most"), [((70, 81), 8.0), ((66, 68), 12.0), ((5, 70, 12), 1.0), ((3, 67, 72), 9.0)],
    ids=str,
)  # fmt: skip
def test_narrow_and_wide_images_in_one_call(backend, padding, sizes, most):
    """Some halos fit a tile and some do not; volumes exceed what the walk does at a time."""
    x, y = randn(3, 2, *sizes).requires_grad_(), randn(3, 2, *sizes, seed=1)
    most = min(most, (min(sizes) - 1) / 4) if padding == "reflect" else most
    sigma = torch.linspace(0.1, most, 6).view(3, 2, 1)
    options = {"padding": padding, "truncate": 4.0, "offset": 0.2, "max_sigma": most}
    low, high = filtered(backend, x, sigma.to(device_of(backend)), "both", **options)
    exact = reference.gaussian_filter(x.detach().double(), sigma.double(), **options)
    assert_near(low, exact, FORWARD, "low")
    assert_near(high, x.detach() - exact, FORWARD, "high", x.norm().item())
    (aty,) = torch.autograd.grad(low, x, y)
    error = ((low * y).sum() - (x * aty).sum()).abs() / (low.norm() * y.norm())
    assert error <= ADJOINT[F32]


@pytest.mark.skipif("cpu" not in KERNELS, reason="needs the CPU kernels")
@pytest.mark.parametrize("padding", gaussian.PADDINGS)
def test_gradcheck_of_the_cpu_kernels(padding):
    x = randn(2, 2, 5, 6, dtype=F64).requires_grad_()
    sigma = torch.tensor([[0.7, 1.2], [0.9, 1.4]], dtype=F64, requires_grad=True)
    offset = torch.tensor([[[0.3]], [[-0.6]]], dtype=F64, requires_grad=True)
    options = {} if padding == "circular" else {"radius": 2}

    def both(x, sigma, offset):
        return ops.gaussian_filter(x, sigma, "both", padding, offset=offset, **options)

    with fastseg.use_backend("cpu"):
        assert torch.autograd.gradcheck(both, (x, sigma, offset), fast_mode=True)


@EVERY_BACKEND
def test_results_do_not_depend_on_threads(backend, threads):
    x, sigma = randn(1, 3, 20, 33, 40), torch.tensor([[1.0], [2.0], [3.0]])
    y = filtered(backend, x, sigma)
    threads(3)
    assert torch.equal(filtered(backend, x, sigma), y)


@pytest.mark.parametrize("size", [1, 2, 5, 16, 33])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.75, 4.0])
def test_exact_taps_are_the_inverse_transform_of_the_response(size, sigma):
    design = taps.Design((size,), "circular", "exact", size // 2, None, False, size // 2)
    (row,) = taps.constant(sigma, None, design, F64, torch.device("cpu")).rows
    circulant = torch.zeros(size, dtype=F64)
    circulant.index_add_(0, torch.arange(-(size // 2), size // 2 + 1) % size, row[0, 0])
    f = torch.fft.fftfreq(size, dtype=F64)
    response = torch.exp(-2 * (math.pi * sigma * f).square())
    assert_near(torch.fft.fft(circulant).real, response, FORWARD, size)


def test_compact_taps_end_where_nothing_is_left():
    for sigma, radius in ((2.0, 11), (3.0, 17), (8.0, 46)):
        design = gaussian.prepare("x", torch.empty(1, 1, 240, 240), sigma, None)[2]
        assert design.radius == radius
    assert gaussian.prepare("x", torch.empty(1, 1, 240), 1.0, None)[2].radius == 120


def test_long_rows_go_to_the_fft():
    def win(sizes, sigma):
        return gaussian.taps_win(gaussian.prepare("x", torch.empty(1, 2, *sizes), sigma, None)[2])

    assert win((240, 240), 3.0)
    assert win((240, 240), 8.0)
    assert win((240, 240), torch.tensor([[0.0], [4.0]]))
    assert win((64, 64), 1.0)
    assert not win((421, 421), 1.0)
    assert not win((240, 240), torch.tensor([[1.0], [1.2]]))


def test_a_bound_decides_where_sigma_is_hidden():
    x = torch.empty(16, 4, 240, 240, device="meta")
    sigma = torch.empty(16, 1, 1, device="meta")

    def win(max_sigma, offset=None):
        options = taps.Options(max_sigma=max_sigma)
        design = gaussian.prepare("x", x, sigma, offset, options)[2]
        assert design.radius == 120  # some may be narrow, and fill their rows
        return gaussian.taps_win(design)

    assert win(8.0)
    assert win(8.0, 2.0)
    assert win(8.0, torch.empty(1, 1, 2, device="meta"))
    assert not win(20.0)
    assert not win(1.5)
    assert not win(None)


@pytest.mark.skipif("cpu" not in KERNELS, reason="needs the CPU kernels")
def test_a_bound_keeps_compiled_filters_off_the_fft():
    called = []

    def backend(graph, inputs):
        called.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    x, sigma = randn(2, 1, 240, 240), torch.tensor([2.0, 6.0]).view(2, 1, 1)
    compiled = torch.compile(ops.gaussian_filter, backend=backend, fullgraph=True)
    y = compiled(x, sigma, max_sigma=6.0)
    assert any("fastseg" in name for name in called)
    assert not any("fft" in name for name in called)
    assert_near(y, reference.gaussian_filter(x.double(), sigma.double()), FORWARD, "bounded")


@pytest.mark.parametrize("offset", [None, 0.4, torch.tensor([[[0.3]], [[-0.6]]])], ids=str)
def test_radii_are_read_in_one_go(offset):
    sigma = torch.tensor([0.0, 1.0, 2.0, 5.0]).view(2, 2, 1)
    design = gaussian.prepare("x", torch.empty(2, 2, 100, 60), sigma, offset)[2]
    shift = 0.0 if offset is None else float(torch.as_tensor(offset).abs().max())
    radii = [0, 50, *(int(taps.COMPACT_RADIUS * s + shift + 0.5) for s in (2.0, 5.0))]
    assert design.radius == max(radii)
    assert math.isclose(design.mean_radius, sum(radii) / 4)


def test_one_number_makes_its_taps_once():
    design = taps.Design((16, 16), "circular", "exact", 8, None, True, 8)
    arguments = 2.625, None, design, F32, torch.device("cpu")
    assert taps.constant(*arguments) is taps.constant(*arguments)


X = torch.zeros(2, 3, 8, 9)


@EVERY_BACKEND
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x: got list"),
        ({"x": X.int()}, TypeError, "x: got torch.int32"),
        ({"x": X[0, 0]}, ValueError, r"x: got shape \(8, 9\)"),
        ({"sigma": -1.0}, ValueError, "sigma: got -1.0"),
        ({"sigma": float("nan")}, ValueError, "sigma: got nan"),
        ({"sigma": "wide"}, TypeError, "sigma: got 'wide'"),
        ({"sigma": torch.tensor([[-1.0], [1.0], [1.0]])}, ValueError, "sigma: got -1.0 to 1.0"),
        ({"sigma": torch.ones(2, 2)}, ValueError, r"sigma: got shape \(2, 2\).* \(2, 3, 2\)"),
        ({"sigma": torch.ones(1, 1, 1, 1)}, ValueError, "sigma: got shape"),
        ({"sigma": torch.ones(2).int()}, TypeError, "sigma: got torch.int32"),
        ({"offset": torch.ones(5)}, ValueError, "offset: got shape"),
        ({"mode": "band"}, ValueError, "mode: got 'band'"),
        ({"padding": "mirror"}, ValueError, "padding: got 'mirror'"),
        ({"taps": "cubic"}, ValueError, "taps: got 'cubic'"),
        ({"padding": "zeros"}, ValueError, "radius: got neither"),
        ({"radius": 2, "truncate": 3.0}, ValueError, "truncate: got 3.0 beside radius 2"),
        ({"radius": -1}, ValueError, "radius: got -1"),
        ({"radius": 1.5}, TypeError, "radius: got 1.5"),
        ({"truncate": -1.0}, ValueError, "truncate: got -1.0"),
        ({"truncate": 1e30}, ValueError, r"truncate: got 1e\+30, want a reach of at most 1048576"),
        ({"truncate": 1e308, "sigma": 10.0}, ValueError, "truncate: got 1e"),
        ({"radius": 2**31}, ValueError, "radius: got 2147483648, want a reach of at most"),
        ({"max_sigma": math.inf}, ValueError, "max_sigma: got inf"),
        ({"padding": "reflect", "radius": 8}, ValueError, "radius: got 8.*less than 8"),
        ({"padding": "reflect", "truncate": 4.0, "sigma": 2.0}, ValueError, "radius: got 8"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(backend, arguments, error, message):
    with fastseg.use_backend(backend), pytest.raises(error, match=message):
        ops.gaussian_filter(**{"x": X.to(device_of(backend)), "sigma": 1.0} | arguments)


def test_a_hidden_sigma_wants_a_bound():
    compiled = torch.compile(ops.gaussian_filter, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="max_sigma: got None"):
        compiled(X, torch.ones(3, 1), truncate=2.0)
    y = compiled(X + 1, torch.ones(3, 1), truncate=2.0, max_sigma=1.5)
    assert_near(y, X.double() + 1, FORWARD, "of a constant")


COND, FEAT = torch.zeros(2, 3, 8, 9), torch.zeros(2, 4, 8, 9)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"feat": FEAT[:1]}, ValueError, "feat: got"),
        ({"feat": FEAT[..., :5]}, ValueError, "feat: got"),
        ({"feat": FEAT.double()}, ValueError, "feat: got torch.float64"),
        ({"cond": COND[0, 0]}, ValueError, "cond: got shape"),
        ({"sigma": torch.ones(4)}, ValueError, "sigma: got shape"),
        ({"conv_weight": torch.ones(2, 3)}, ValueError, r"conv_weight: got shape \(2, 3\)"),
        ({"conv_weight": torch.ones(1, 3, 2, 2)}, ValueError, "conv_weight: got shape"),
        ({"conv_weight": None}, TypeError, "conv_weight: got NoneType"),
        ({"conv_bias": torch.ones(2)}, ValueError, r"conv_bias: got shape \(2,\)"),
        ({"radius": 8}, ValueError, "radius: got 8"),
    ],
)  # fmt: skip
def test_wrong_arguments_of_the_gate_are_named(arguments, error, message):
    right = {"cond": COND, "feat": FEAT, "sigma": torch.ones(3), "conv_weight": torch.ones(1, 3),
             "conv_bias": None}  # fmt: skip
    with pytest.raises(error, match=message):
        ops.anchor_gate(**right | arguments)
    assert ops.anchor_gate(**right).shape == FEAT.shape


@EVERY_BACKEND
def test_a_tied_gate_halves_the_gradient(backend):
    """On a constant image the filtered and the unfiltered condition are one and the same."""
    if not serves(ROWS["anchor_gate"], backend, F32):
        pytest.skip("no kernel")
    cond = torch.zeros(1, 2, 5, 5, device=device_of(backend), requires_grad=True)
    feat = randn(1, 3, 5, 5).to(cond.device)
    weight = torch.tensor([[1.0, -2.0]], device=cond.device)
    results = []
    for module in (ops, reference):
        with fastseg.use_backend(backend):
            y = module.anchor_gate(cond, feat, 1.0, weight, None)
        results.append(torch.autograd.grad(y.sum(), cond)[0])
    assert_near(results[0], results[1].double(), FORWARD, backend)


def drawn_designs():
    """Kernels of every kind, wider than their axes too, and exact ones."""
    for sizes, most in (((31,), 8.0), ((24, 7), 3.0), ((5, 1, 40), 1.7), ((4, 50), 20.0)):
        yield sizes, most, "circular", {}
        for padding, kind, extent in (
            ("circular", "sampled", {"radius": 9}), ("circular", "erf", {"truncate": 4.0}),
            ("zeros", "erf", {"radius": 6}), ("zeros", "sampled", {"truncate": 2.5}),
        ):  # fmt: skip
            yield sizes, most, padding, {**extent, "taps": kind, "max_sigma": most}


@pytest.mark.skipif("cuda" not in KERNELS, reason="needs the CUDA kernels")
@pytest.mark.parametrize("dtype", [F32, F64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shifted", [False, True])
def test_the_taps_of_a_kernel_are_those_of_torch(dtype, shifted):
    for sizes, most, padding, options in drawn_designs():
        x = torch.empty(2, 3, *sizes, device=device_of("cuda"))
        for shape in ((2, 3, len(sizes)), (3, 1), (2, 1, 1), (1,)):
            sigma = torch.linspace(0, most, math.prod(shape)).view(shape).flip(-1)
            sigma = sigma.to(x.device, dtype).requires_grad_()
            offset = torch.linspace(-1.5, 1, len(sizes), device=x.device) if shifted else None
            given = taps.Options(padding, **options)
            sigma3, offset3, design = gaussian.prepare("x", x, sigma, offset, given)
            made = separable.packed_taps(x, sigma3, offset3, design, "cuda")
            wide = (None if v is None else v.double() for v in (sigma3, offset3))
            exact, radii = taps.packed(taps.build(*wide, design, F64, x.device), 2, 3)
            assert torch.equal(made.radii, radii)
            error = (made.taps - exact).abs().amax(-1) / exact.abs().amax(-1)
            assert error.max() <= 1e-7, (sizes, padding, options, shape)
            weights = randn(*exact.shape).to(x.device)
            (gradient,) = torch.autograd.grad(made.taps, sigma, weights)
            (expected,) = torch.autograd.grad(exact, sigma, weights.double())
            assert_near(gradient, expected, BACKWARD, (sizes, padding, options, shape))
