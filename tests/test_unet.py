"""The U-Net of diffusion models: its size, its shapes, and where others reach into it."""

import pytest
import torch

from fastseg.models.parts.unet import ResidualBlock, SelfAttention, UNet, UNetOptions

pytestmark = pytest.mark.usefixtures("seeded", "one_thread")

T = torch.tensor([3, 150])


def build(film=True, **sizes):
    torch.manual_seed(0)
    sizes = {"width": 8, "multipliers": (1, 2), "attention_levels": (1,)} | sizes
    net = UNet(3, 2, UNetOptions(**sizes), film=film)
    for module in net.modules():  # what starts at zero would hide everything before it
        for p in module.parameters(recurse=False):
            if not p.any():
                torch.nn.init.normal_(p, std=0.1)
    return net.eval()


def count(module):
    return sum(p.numel() for p in module.parameters())


def block_parameters(inputs: int, outputs: int, embedding: int) -> int:
    convs = 9 * inputs * outputs + outputs + 9 * outputs * outputs + outputs
    skip = 0 if inputs == outputs else inputs * outputs + outputs
    return 2 * inputs + convs + 2 * outputs + (embedding + 1) * 2 * outputs + skip


def test_parameters_follow_the_formula():
    with torch.device("meta"):
        net, block = UNet(5, 4, UNetOptions()), ResidualBlock(64, 128, 256, film=True)
        attention = SelfAttention(192, 1)
    assert count(block) == block_parameters(64, 128, 256)
    assert count(attention) == 2 * 192 + 4 * (192 * 192 + 192)
    down = [(64, 64)] * 2 + [(64, 128), (128, 128), (128, 192), (192, 192), (192, 256), (256, 256)]
    skips = [64, 64, 64, 64, 128, 128, 128, 192, 192, 192, 256, 256]
    up, width = [], 256
    for out in (256, 192, 128, 64):
        for _ in range(3):
            up.append((width + skips.pop(), out))
            width = out
    blocks = sum(block_parameters(i, o, 256) for i, o in [*down, (256, 256), (256, 256), *up])
    attend = 5 * count(attention) + 2 * 256 + 4 * (256 * 256 + 256)
    convs = sum(9 * w * w + w for w in (64, 128, 192, 256, 192, 128))
    ends = 5 * 64 * 9 + 64 + 2 * 64 + 64 * 4 * 9 + 4
    time = 64 * 256 + 256 + 256 * 256 + 256
    assert count(net) == blocks + attend + convs + ends + time == 21_717_636


@pytest.mark.parametrize("film", [True, False])
@pytest.mark.parametrize("sizes", [(8, 8), (16, 10), (24, 12)])
def test_any_divisible_size_and_a_zero_start(sizes, film):
    x = torch.randn(2, 3, *sizes)
    assert build(film=film)(x, T).shape == (2, 2, *sizes)
    small = UNetOptions(width=8, multipliers=(1, 2), attention_levels=())
    assert not UNet(3, 2, small, film=film)(x, T).any()


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"\(10, 9\).*multiples of 2"):
        build()(torch.randn(1, 3, 10, 9), T[:1])
    for options, name in (
        ({"width": 3}, "width: is 3"),
        ({"attention_levels": (2,)}, "attention_levels"),
        ({"heads": 3}, "heads: is 3, wanted a divisor of 16"),
        ({"blocks": 0}, "blocks: is 0"),
    ):
        with pytest.raises(ValueError, match=name):
            build(**options)


def test_time_and_embedding_reach_the_output():
    net, x = build(), torch.randn(2, 3, 8, 8)
    at = net(x, T)
    assert (net(x, T.flip(0)) - at).abs().mean() > 1e-3
    assert (net(x, T, torch.randn(2, 32)) - at).abs().mean() > 1e-3
    torch.testing.assert_close(net(x, T, torch.zeros(2, 32)), at)


def test_hooks_replace_the_first_and_the_deepest_feature():
    net, x, seen = build(), torch.randn(2, 3, 8, 12), {}

    def hook(name, factor):
        def replaced(features, temb):
            seen[name] = features.shape, temb.shape
            return factor * features

        return replaced

    plain = net(x, T)
    same = net(x, T, at_first=hook("first", 1), at_deepest=hook("deepest", 1))
    torch.testing.assert_close(same, plain)
    assert seen == {"first": ((2, 8, 8, 12), (2, 32)), "deepest": ((2, 16, 4, 6), (2, 32))}
    for name in ("at_first", "at_deepest"):
        assert (net(x, T, **{name: hook("other", 0)}) - plain).abs().mean() > 1e-3


def test_attention_is_its_formula():
    attention, x = SelfAttention(8, 2), torch.randn(1, 8, 3, 2)
    torch.nn.init.normal_(attention.project.weight)
    q, k, v = attention.qkv(attention.norm(x).flatten(2)).view(3, 2, 4, 6)
    weights = (torch.einsum("hci,hcj->hij", q, k) / 2).softmax(-1)
    found = torch.einsum("hij,hcj->hci", weights, v).reshape(1, 8, 6)
    exact = x + attention.project(found).view_as(x)
    torch.testing.assert_close(attention(x), exact)
