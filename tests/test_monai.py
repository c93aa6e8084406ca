"""Stand-ins for MONAI's Gaussian filters, and the taps of scale space."""

import pytest
import torch
from tolerances import F64, assert_near

import fastseg
from fastseg import nn, ops
from fastseg.ops.taps import scale_space

layers = pytest.importorskip("monai.networks.layers")
pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")
APPROX = ("erf", "sampled", "scalespace")
PEER = {torch.float32: 3e-6}  # their taps are float32's, their Bessel functions polynomials


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.0, 2.5, 4.4, 4.5, 9.0, 60.0])
@pytest.mark.parametrize("radius", [0, 1, 4, 40])
def test_taps_of_scale_space_are_bessel_functions(sigma, radius):
    special = pytest.importorskip("scipy.special")
    r = torch.arange(-radius, radius + 1)
    wanted = torch.from_numpy(special.ive(r.abs().numpy(), sigma**2))
    found = scale_space(torch.tensor(sigma, dtype=F64), radius)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-14)


def test_scales_of_scale_space_add_up():
    x = torch.randn(1, 1, 60, dtype=F64)
    options = {"taps": "scalespace", "radius": 50, "padding": "circular"}
    twice = ops.gaussian_filter(ops.gaussian_filter(x, 1.5, **options), 2.0, **options)
    assert_near(twice, ops.gaussian_filter(x, 2.5, **options), {F64: 1e-12}, "sum of variances")


@pytest.mark.parametrize("backend", ["reference", "matmul", "cpu"])
def test_scale_space_is_differentiable_in_sigma(backend):
    if not fastseg.backends()[backend]:
        pytest.skip("not built")
    x = torch.randn(1, 2, 5, 6, dtype=F64)
    sigma = torch.tensor([[0.8, 1.3], [0.5, 5.0]], dtype=F64, requires_grad=True)
    with fastseg.use_backend(backend):
        assert torch.autograd.gradcheck(
            lambda s: ops.gaussian_filter(x, s, padding="zeros", radius=3, taps="scalespace"), sigma
        )
        with pytest.raises(ValueError, match="offset: got one, which taps 'scalespace'"):
            ops.gaussian_filter(x, 1.0, radius=3, taps="scalespace", offset=0.5)


@pytest.mark.parametrize("approx", APPROX)
@pytest.mark.parametrize(
    ("sigma", "sizes"),
    [(1.0, (17,)), (2.0, (20, 9)), ((0.1, 3.0), (12, 30)), ((1.5, 0.6, 0.1), (8, 9, 10))],
    ids=str,
)
def test_filters_equal_monais(approx, sigma, sizes):
    theirs = layers.GaussianFilter(len(sizes), sigma, approx=approx)
    ours = nn.MonaiGaussianFilter(len(sizes), sigma, approx=approx)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, *sizes)
    assert_near(ours(x), theirs(x).double(), PEER, approx)
    smooth = pytest.importorskip("monai.transforms").GaussianSmooth(sigma, approx)
    assert_near(nn.GaussianSmooth(sigma, approx)(x[0]), torch.as_tensor(smooth(x[0])), PEER, approx)


@pytest.mark.parametrize("approx", APPROX)
def test_learnt_sigmas_have_monais_gradients(approx):
    x, found = torch.randn(1, 2, 14, 12), []
    for kind in (layers.GaussianFilter, nn.MonaiGaussianFilter):
        layer = kind(2, (1.2, 0.9), approx=approx, requires_grad=True)
        layer(x).square().sum().backward()
        found.append(torch.stack([p.grad for p in layer.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, (1.0,)), "sigma: got 1 numbers, want 2"),
        ((2, 1.0, 0.0), "truncated: got 0.0"),
        ((2, 1.0, 4.0, "box"), "approx: got 'box'"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        nn.MonaiGaussianFilter(*arguments)
    with pytest.raises(ValueError, match="x: got shape"):
        nn.MonaiGaussianFilter(2, 1.0)(torch.zeros(1, 1, 4))
