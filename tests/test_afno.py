"""Mixers of adaptive and of factorised Fourier neural operators: against their definitions."""

import pytest
import torch
from tolerances import BF16, F32, F64, FORWARD, assert_near
from torch.nn import functional as F

from fastseg import nn, reference

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")


def afno(module, x, threshold, modes=None):
    """The definition in complex numbers."""
    dims = tuple(range(2, x.dim()))
    whole = (*x.shape[2:-1], x.shape[-1] // 2 + 1)
    spectrum = reference.truncated_rfftn(x, modes or whole, "ortho")
    w1, b1, w2, b2 = (torch.complex(*p) for p in (module.w1, module.b1, module.w2, module.b2))
    h = spectrum.unflatten(1, (w1.shape[0], -1))
    point = (...,) + (None,) * len(dims)
    h = torch.einsum("bkc...,kcd->bkd...", h, w1) + b1[point]
    h = torch.complex(h.real.relu(), h.imag.relu())
    h = torch.einsum("bkc...,kcd->bkd...", h, w2) + b2[point]
    h = torch.complex(F.softshrink(h.real, threshold), F.softshrink(h.imag, threshold))
    return x + reference.truncated_irfftn(h.flatten(1, 2), x.shape[2:], "ortho")


@pytest.mark.parametrize("sizes", [(9,), (8, 6), (5, 7), (4, 3, 6)], ids=str)
@pytest.mark.parametrize("hidden", [1, 2])
def test_afno_is_its_definition(sizes, hidden):
    module = nn.AFNO(6, blocks=3, hidden=hidden, threshold=0.05).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 6, *sizes, dtype=F64, requires_grad=True)
    wanted = afno(module, x, 0.05)
    leaves = (x, *module.parameters())
    direction = torch.randn_like(x)
    grads = (torch.autograd.grad(y, leaves, direction) for y in (module(x), wanted))
    assert_near(module(x), wanted.detach(), FORWARD, "mixer")
    for found, exact in zip(*grads, strict=True):
        assert_near(found, exact, FORWARD, "gradient")
    assert_near(module.float()(x.detach().float()), wanted.detach(), {F32: 2e-6}, "float32")


def test_afno_keeps_few_modes_and_fewer_on_a_small_grid():
    module = nn.AFNO(4, blocks=2, modes=(4, 3), residual=False).double()
    x = torch.randn(1, 4, 12, 10, dtype=F64)
    assert_near(module(x), afno(module, x, 0.01, (4, 3)) - x, {F64: 1e-11}, "few")
    small = torch.randn(1, 4, 3, 10, dtype=F64)
    assert_near(module(small), afno(module, small, 0.01, (3, 3)) - small, {F64: 1e-11}, "small")


def test_afno_of_16_bits_and_under_autocast():
    module, x = nn.AFNO(4, blocks=2), torch.randn(1, 4, 6, 6)
    assert module(x.to(BF16)).dtype == BF16
    with torch.autocast("cpu", dtype=BF16):
        assert torch.equal(module(x), module(x))
        assert module(x).dtype == F32


@pytest.mark.parametrize(
    ("options", "message"),
    [({"blocks": 3}, "blocks: got 3"), ({"threshold": -1, "blocks": 2}, "threshold: got -1")],
)
def test_afno_names_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        nn.AFNO(8, **options)
    with pytest.raises(ValueError, match="x: got shape"):
        nn.AFNO(8, modes=(3, 3))(torch.zeros(1, 8, 5))


# factorised over axes


@pytest.mark.parametrize("sizes", [(9,), (8, 6), (5, 4, 7)], ids=str)
def test_factorised_convolutions_are_the_sum_over_axes(sizes):
    modes = (3, 2, 4)[: len(sizes)]
    layer = nn.FactorizedSpectralConv(3, 2, modes).double()
    x = torch.randn(2, 3, *sizes, dtype=F64)
    wanted = 0
    for axis, (weight, m, n) in enumerate(zip(layer.weights, modes, sizes, strict=True)):
        spectrum = torch.fft.rfft(x, dim=axis + 2, norm="ortho").movedim(axis + 2, -1)[..., :m]
        weight = torch.view_as_complex(weight.detach())
        mixed = torch.einsum("bi...k,iok->bo...k", spectrum, weight)
        wanted = wanted + torch.fft.irfft(mixed, n=n, norm="ortho").movedim(-1, axis + 2)
    assert_near(layer(x), wanted, FORWARD, "sum")
    block = nn.FFNOBlock(3, modes, factor=2).double()
    point = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(sizes)]
    inside = point(block.conv(x), block.first.weight, block.first.bias).relu()
    wanted = x + point(inside, block.second.weight, block.second.bias)
    assert_near(block(x), wanted.detach(), {F64: 1e-12}, "block")
    with pytest.raises(ValueError, match="x: got shape"):
        layer(x.unsqueeze(-1))


def test_factorised_convolutions_are_clipped_and_differentiable():
    layer = nn.FactorizedSpectralConv(2, 2, (6, 2)).double()
    x = torch.randn(1, 2, 4, 5, dtype=F64, requires_grad=True)
    with pytest.warns(UserWarning, match="exceed the bins"):
        assert torch.autograd.gradcheck(layer, x)


# modes that grow


def test_incremental_modes_are_those_of_the_smaller_layer():
    layer = nn.IncrementalSpectralConv(3, 2, (6, 4), start=(2, 2))
    small, x = nn.SpectralConv(3, 2, (2, 2)), torch.randn(1, 3, 9, 10)
    with torch.no_grad():
        small.weight.copy_(layer.weight[:, :, [0, 5], :2])
    assert torch.equal(layer(x), small(x))
    layer(x).sum().backward()
    assert layer.weight.grad[:, :, [0, 5], :2].any()
    assert not layer.weight.grad[:, :, 1:5].any()
    layer.active = layer.modes
    full = nn.SpectralConv(3, 2, (6, 4))
    full.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "active_modes"})
    assert torch.equal(layer(x), full(x))


def test_modes_grow_while_the_lower_ones_explain_too_little():
    layer = nn.IncrementalSpectralConv(2, 2, (6, 5), start=(4, 3))
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, :, [0, 1, 5], :2] = 1  # frequencies 0, 1 and −1
        assert layer.explained() == (1, 1)
        assert not layer.grow()
        layer.weight[:, :, 4, :2] = 1  # −2, the highest that is used
        assert layer.explained() == (0.75, 1)
        assert layer.explained(buffer=2) == (0.25, 0.5)
        assert layer.grow()
    assert layer.active == (6, 3)
    assert layer.grow(threshold=1.1)
    assert layer.active == (6, 4)  # no more than there are
    other = nn.IncrementalSpectralConv(2, 2, (6, 5), start=(1, 1))
    other.load_state_dict(layer.state_dict())
    assert other.active == (6, 4)
    for start in ((7, 5), (2,), (0, 1)):
        with pytest.raises(ValueError, match="start: got"):
            nn.IncrementalSpectralConv(2, 2, (6, 5), start=start)
