"""The FNO and diffusion hybrid, as its source has it and corrected."""

import pytest
import torch

from fastseg import models

pytestmark = pytest.mark.usefixtures("seeded", "poisoned_memory", "one_thread")

C, K = 2, 3


def build(name, **options):
    torch.manual_seed(0)
    return models.build(name, in_channels=C, classes=K, **{"width": 4} | options)


def count(module):
    return sum(p.numel() for p in module.parameters())


def on_paper(name, **options):
    with torch.device("meta"):
        return models.build(name, in_channels=4, classes=4, **options)


def test_parameters_of_a_stack():
    net = on_paper("fno-diffusion", two_sided=False)
    assert count(net.xi) == count(net.psi) == 1_677_828
    # rows of both signs: as many spectral weights again
    assert count(on_paper("fno-diffusion").xi) == 1_677_828 + 3 * 32 * 32 * 16 * 16 * 2


def test_a_block_is_its_formula():
    net = build("fno-diffusion", modes=3).eval()
    block, x, temb = net.xi.blocks[0], torch.randn(2, 4, 12, 10), torch.randn(2, 512)
    weight = torch.view_as_complex(block.spectral.weight.detach())
    assert weight.shape == (4, 4, 6, 3)
    u = block.shift_in(x, temb)
    spectrum = torch.zeros(2, 4, 12, 6, dtype=torch.complex64)
    rows = [0, 1, 2, 9, 10, 11]
    kept = torch.fft.rfft2(u, norm="ortho")[:, :, rows, :3]
    spectrum[:, :, rows, :3] = torch.einsum("bihw,iohw->bohw", kept, weight)
    s = block.shift_out(torch.fft.irfft2(spectrum, s=(12, 10), norm="ortho"), temb)
    exact = torch.nn.functional.silu(s + block.skip(x))
    torch.testing.assert_close(block(x, temb), exact, rtol=1e-4, atol=1e-5)


def test_legacy_weights_are_one_sided_and_biased():
    net = build("fno-diffusion", width=16, modes=8, two_sided=False, legacy_init=True)
    weight = net.psi.blocks[0].spectral.weight.detach()
    assert weight.shape == (16, 16, 8, 8, 2)
    scale = 1 / 16**2
    assert weight[..., 0].mean().item() == pytest.approx(-scale, rel=0.05)
    assert abs(weight[..., 1].mean().item()) < 0.05 * scale
    assert weight.std((0, 1, 2, 3)).tolist() == pytest.approx([2**0.5 * scale] * 2, rel=0.05)
    fixed = build("fno-diffusion", width=16, modes=8).psi.blocks[0].spectral.weight.detach()
    assert fixed.shape == (16, 16, 16, 8, 2)
    assert abs(fixed.mean().item()) < 0.01 * fixed.std().item() ** 0.5
    assert fixed.square().sum(-1).mean().item() == pytest.approx(2 / 32, rel=0.05)


def test_only_two_sided_modes_see_both_diagonals():
    h, w = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    wave = torch.cos(2 * torch.pi * (-3 * h + 5 * w) / 16).expand(1, 4, 16, 16)
    seen = [
        build("fno-diffusion", modes=6, two_sided=two_sided).psi.blocks[0].spectral(wave)
        for two_sided in (True, False)
    ]
    assert seen[0].abs().max() > 0.1
    assert seen[1].abs().max() < 1e-5


def test_a_stack_takes_any_size():
    net = build("fno-diffusion", modes=3).eval()
    assert net.predict(torch.randn(1, C, 31, 18)).shape == (1, K, 31, 18)
