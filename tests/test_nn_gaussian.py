"""Gaussian filters as modules, the frequency guide and the anchor gate."""

import itertools
import math

import pytest
import torch
from tolerances import FORWARD, assert_near
from torch.nn import functional as F

from fastseg import nn, ops

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")


def blur(x, sigma, radius):
    """A Gaussian as one dense depthwise kernel, reflecting at the borders; x (B, C, H, W)."""
    r = torch.arange(-radius, radius + 1, dtype=x.dtype)
    row = torch.exp(-(r**2) / (2 * sigma**2))
    kernel = torch.outer(row, row) / row.sum() ** 2
    padded = F.pad(x, (radius,) * 4, mode="reflect")
    channels = x.shape[1]
    return F.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)


# Gaussian filter


@pytest.mark.parametrize("sizes", [(9,), (8, 9), (6, 9, 7)], ids=str)
@pytest.mark.parametrize("mode", ["low", "high", "both"])
def test_gaussian_filter_is_the_operator(sizes, mode):
    x, sigma = torch.randn(2, 3, *sizes), torch.rand(2, 3, len(sizes)) + 0.5
    for options in ({}, {"radius": 2, "padding": "reflect"}, {"truncate": 3.0, "taps": "erf"}):
        for module, given in (
            (nn.GaussianFilter(1.5, mode=mode, **options), (1.5,)),
            (nn.GaussianFilter(sigma, mode=mode, **options), (sigma,)),
        ):
            exact = ops.gaussian_filter(x, *given, mode=mode, **options)
            torch.testing.assert_close(module(x), exact, rtol=0, atol=0)
        replaced = nn.GaussianFilter(9.0, mode=mode, **options)(x, sigma)
        torch.testing.assert_close(
            replaced, ops.gaussian_filter(x, sigma, mode=mode, **options), rtol=0, atol=0
        )


def test_gaussian_filter_keeps_a_tensor_sigma_as_a_buffer():
    module = nn.GaussianFilter(torch.tensor([[1.0, 2.0]]), radius=3)
    assert list(module.state_dict()) == ["sigma"]
    assert module.double().sigma.dtype == torch.float64
    assert not list(nn.GaussianFilter(1.0).state_dict())
    assert "radius=3" in repr(module)


@pytest.mark.parametrize(("size", "sigma"), [(21, 3.5), (5, 1.1), (3, 0.8)])
def test_gaussian_filter_of_a_kernel_size(size, sigma):
    x = torch.randn(2, 3, 24, 30, dtype=torch.float64)
    module = nn.GaussianFilter.of_kernel_size(size)
    assert module.sigma == pytest.approx(sigma)
    assert_near(module(x), blur(x, sigma, size // 2), FORWARD, size)
    with pytest.raises(ValueError, match="kernel_size: got 20"):
        nn.GaussianFilter.of_kernel_size(20)


# frequency guide

CHANNELS = ("t1", "t1ce", "t2", "flair")
SCAN = ("t1", "t2", "flair", "t1ce")
SUBSETS = [s for n in range(1, 5) for s in itertools.combinations(CHANNELS, n)]


def mask(*subsets):
    return torch.tensor([[name in subset for name in CHANNELS] for subset in subsets])


@pytest.mark.parametrize(
    ("available", "low", "high"),
    [
        (("t2", "t1ce"), "t2", "t1ce"),
        (("flair",), "flair", "flair"),
        (("t1", "t2"), "t1", "t2"),
        (("t1", "t1ce", "flair"), "t1", "t1ce"),
    ],
)
def test_sources_by_hand(available, low, high):
    sources = nn.FrequencyGuide().sources(mask(available))
    assert [CHANNELS[int(s)] for s in sources] == [low, high]


def test_sources_of_every_subset():
    low, high = nn.FrequencyGuide().sources(mask(*SUBSETS))
    for subset, low_source, high_source in zip(SUBSETS, low, high, strict=True):
        scanned = [name for name in SCAN if name in subset]
        assert (CHANNELS[low_source], CHANNELS[high_source]) == (scanned[0], scanned[-1])
    swapped = nn.FrequencyGuide((1, 3, 2, 0)).sources(mask(*SUBSETS))
    assert torch.equal(swapped[0], high)
    assert torch.equal(swapped[1], low)
    other = nn.FrequencyGuide((0, 1, 2)).sources(torch.tensor([[False, True, True]]))
    assert [int(s) for s in other] == [1, 2]


@pytest.mark.parametrize("timesteps", [200, 5, 50])
def test_the_first_half_of_sampling_is_coarse(timesteps):
    t = torch.arange(timesteps)
    guide = nn.FrequencyGuide(timesteps=timesteps)
    assert guide.coarse(t).tolist() == [step >= timesteps / 2 for step in range(timesteps)]
    assert nn.FrequencyGuide(stage="low").coarse(t).all()
    assert not nn.FrequencyGuide(stage="high").coarse(t).any()


def test_guide_is_the_filtered_source():
    images = torch.rand(30, 4, 24, 28, dtype=torch.float64) * 2 - 1
    available, t = mask(*SUBSETS).repeat(2, 1), torch.tensor([99, 100]).repeat_interleave(15)
    guide = nn.FrequencyGuide()
    y = guide(images, available, t)
    assert y.shape == (30, 1, 24, 28)
    low = blur(images, 3.5, 10)
    high = (2 * (images - low)).clamp(-1, 1)
    assert (high.abs() == 1).any()  # the clip acts
    for b, subset in enumerate(SUBSETS * 2):
        scanned = [CHANNELS.index(name) for name in SCAN if name in subset]
        exact = high[b, scanned[-1]] if t[b] < 100 else low[b, scanned[0]]
        assert_near(y[b, 0], exact, FORWARD, (subset, int(t[b])))
    both = guide.pair(images, available)
    chosen = torch.where(guide.coarse(t).view(-1, 1, 1, 1), *both)
    assert_near(chosen, y, FORWARD, "pair")


def test_guide_of_nothing_is_zero():
    images, t = torch.rand(2, 4, 24, 28), torch.tensor([10, 150])
    guide = nn.FrequencyGuide()
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    assert not guide(images, nothing, t).any()
    assert not any(y.any() for y in guide.pair(images, nothing))


def test_guide_has_no_state_and_names_wrong_arguments():
    guide = nn.FrequencyGuide()
    assert not guide.state_dict()
    half = guide(torch.rand(1, 4, 24, 28).half(), mask(("t1",)), torch.tensor([3]))
    assert half.dtype == torch.float16
    with pytest.raises(ValueError, match="order: got"):
        nn.FrequencyGuide((0, 2, 3))
    with pytest.raises(ValueError, match="stage: got 'fine'"):
        nn.FrequencyGuide(stage="fine")


# anchor gate


@pytest.mark.parametrize("radius", [1, 2, 4])
def test_anchor_gate_is_its_formula(radius):
    gate = nn.AnchorGate(3, radius=radius).double()
    torch.testing.assert_close(gate.sigma(), torch.ones(3).double())
    with torch.no_grad():
        gate.s.copy_(torch.tensor([-0.5, 0.5, 1.5]))
    sigma = [math.log(1 + math.exp(s)) + 0.1 for s in (-0.5, 0.5, 1.5)]
    cond, feat = torch.randn(2, 3, 9, 8).double(), torch.randn(2, 5, 9, 8).double()
    low = torch.cat([blur(cond[:, c : c + 1], s, radius) for c, s in enumerate(sigma)], 1)
    anchor = torch.maximum(low, cond)
    conv = F.conv2d(anchor, gate.conv.weight[:, :, None, None], gate.conv.bias)
    assert_near(gate(cond, feat), torch.sigmoid(conv) * feat + feat, FORWARD, radius)


@pytest.mark.parametrize("sizes", [(9, 8), (5, 6, 7)], ids=str)
@pytest.mark.parametrize("offset", [True, False])
def test_anchor_gate_learns(sizes, offset):
    gate = nn.AnchorGate(3, offset=offset, sigma=1.4)
    assert [name for name, _ in gate.named_parameters()] == [
        "s", *(["o"] if offset else []), "conv.weight", "conv.bias",
    ]  # fmt: skip
    torch.testing.assert_close(gate.sigma(), torch.full((3,), 1.4))
    cond = torch.randn(2, 3, *sizes, requires_grad=True)
    feat = torch.randn(2, 4, *sizes, requires_grad=True)
    y = gate(cond, feat)
    for grad in torch.autograd.grad(y.square().sum(), [cond, feat, *gate.parameters()]):
        assert grad.isfinite().all()
        assert grad.any()
    mixed = gate(cond, feat.bfloat16())
    assert mixed.dtype == torch.bfloat16


def test_offset_moves_the_centre_by_at_most_a_voxel():
    gate = nn.AnchorGate(1, offset=True, sigma=0.2).double()
    cond = torch.full((1, 1, 7, 7), -1.0).double()
    cond[..., 3, 3] = 1
    feat = torch.ones(1, 1, 7, 7).double()
    with torch.no_grad():
        gate.conv.weight.fill_(1)
        gate.conv.bias.zero_()
        gate.o.fill_(50)
    peaks = (gate(cond, feat) > 1.7).nonzero()[:, 2:].tolist()
    assert peaks == [[2, 2], [3, 3]]  # the blurred peak, one voxel off, and the peak itself


def test_anchor_gate_names_wrong_arguments():
    with pytest.raises(ValueError, match="radius: got 0"):
        nn.AnchorGate(3, radius=0)
    with pytest.raises(ValueError, match=r"sigma: got 0\.1"):
        nn.AnchorGate(3, sigma=0.1)


# programs around the modules

CALLS = {
    "GaussianFilter": (lambda: nn.GaussianFilter(1.5), lambda x: (x,)),
    "wide": (lambda: nn.GaussianFilter(2.5, mode="high"), lambda x: (x,)),
    "spatial": (lambda: nn.GaussianFilter.of_kernel_size(5, mode="both"), lambda x: (x,)),
    "FrequencyGuide": (
        lambda: nn.FrequencyGuide(kernel_size=5),
        lambda x: (x, mask(("t1", "t2"), ("flair",)), torch.tensor([3, 150])),
    ),
    "AnchorGate": (lambda: nn.AnchorGate(3, offset=True), lambda x: (x[:, :3], x)),
}


def outputs(y):
    return y if isinstance(y, tuple) else (y,)


@pytest.mark.parametrize("name", CALLS)
def test_modules_compile_whole(name):
    make, arguments = CALLS[name]
    module, x = make(), torch.randn(2, 4, 8, 9, requires_grad=True)
    torch._dynamo.reset()
    traced = torch.compile(module, fullgraph=True, backend="aot_eager")(*arguments(x))
    eager = module(*arguments(x))
    leaves = [x, *module.parameters()]
    grads = [
        torch.autograd.grad(sum(y.square().sum() for y in outputs(result)), leaves)
        for result in (traced, eager)
    ]
    for actual, want in zip(outputs(traced), outputs(eager), strict=True):
        assert_near(actual, want.double(), FORWARD, name)
    for actual, want in zip(*grads, strict=True):
        assert_near(actual, want.double(), {torch.float32: 4e-6}, name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_modules_under_autocast_keep_the_dtype(name, dtype):
    make, arguments = CALLS[name]
    module = make()
    for x in (torch.randn(2, 4, 8, 9), torch.randn(2, 4, 8, 9).to(dtype)):
        with torch.autocast("cpu", dtype=dtype):
            results = outputs(module(*arguments(x.requires_grad_())))
        assert all(y.dtype == x.dtype and y.isfinite().all() for y in results)
        sum(y.float().sum() for y in results).backward()
        assert all(p.grad.dtype == torch.float32 for p in module.parameters())
        assert x.grad.dtype == x.dtype
